"""Every method as an estimator, and each against the textbook or the library people would use."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import eigh, fractional_matrix_power
from sklearn.base import clone
from sklearn.covariance import LedoitWolf, ledoit_wolf_shrinkage, shrunk_covariance
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold

from cpx_utils import encoders
from cpx_utils.encoders import (
    METHODS,
    CellCount,
    LdaIdentity,
    PcaCP,
    RegularisedCCA,
    ReplicateCCA,
    RidgeTX,
    SpheredCP,
    cp_basis,
    leading_components,
    load_encoder,
)
from cpx_utils.metrics import retrieval_rank
from cpx_utils.profiles import ScreenError

NETWORKS = ("autoencoder", "contrastive", "contrastive_soft")
QUICK = {"max_epochs": 20, "n_members": 1}
N_TRAINING = 80  # compounds of the planted pairs; 40 more are unseen


def make(method, **parameters):
    return METHODS[method](**({**QUICK, **parameters} if method in NETWORKS else parameters))


class Pairs:
    """Planted pairs: 5 latent effects that both modalities show, own effects, 4 wells a compound."""

    def __init__(self, seed=0, n_compounds=120, n_wells=4):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(n_compounds, 5))
        loadings = [rng.normal(size=(5, n)) for n in (20, 30)]
        compound = np.repeat(np.arange(n_compounds), n_wells)
        cp = (shared @ loadings[0])[compound] + 1.0 * rng.normal(size=(len(compound), 20))
        tx = shared @ loadings[1] + rng.normal(size=(n_compounds, 30))
        self.groups = np.array([f"c{number:03d}" for number in compound], dtype=object)
        self.cp, self.tx, self.compound_tx = cp.astype(np.float32), tx[compound].astype(np.float32), tx
        self.compound, self.training = compound, compound < N_TRAINING
        self.controls = rng.normal(size=(60, 20)) * np.linspace(0.5, 2, 20)

    def fit(self, encoder, tx=None):
        rows = self.training
        tx = self.tx[rows] if tx is None else tx
        return encoder.fit(self.cp[rows], tx, groups=self.groups[rows], controls=self.controls)


@pytest.fixture(scope="module")
def pairs():
    return Pairs()


@pytest.fixture(scope="module")
def fitted(pairs):
    return {method: pairs.fit(make(method)) for method in METHODS}


# ------------------------------------------------------------------------------------------- one interface


@pytest.mark.parametrize("method", METHODS)
def test_estimators_obey_scikit_learn(method, fitted):
    encoder = make(method)
    parameters = encoder.get_params()
    copy = clone(fitted[method])
    assert type(copy) is METHODS[method]
    assert copy.get_params() == parameters
    assert not hasattr(copy, "n_features_in_")
    with pytest.raises(NotFittedError):
        copy.transform(np.zeros((1, 20)))
    for name, value in parameters.items():
        changed = value if isinstance(value, str | tuple) else (not value if isinstance(value, bool) else value + 1)
        assert copy.set_params(**{name: changed}).get_params()[name] == changed
    with pytest.raises(ValueError, match="nonsense"):
        copy.set_params(nonsense=1)
    assert METHODS[method].__name__ in repr(copy)


@pytest.mark.parametrize("method", METHODS)
def test_unseen_rows_are_embedded_one_by_one(method, pairs, fitted):
    unseen = pairs.cp[~pairs.training]
    codes = fitted[method].transform(unseen)
    assert codes.dtype == np.float32
    assert codes.shape[0] == len(unseen)
    assert np.isfinite(codes).all()
    order = np.random.default_rng(0).permutation(len(unseen))
    np.testing.assert_allclose(fitted[method].transform(unseen[order]), codes[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted[method].transform(unseen[:1]), codes[:1], rtol=1e-4, atol=1e-5)
    wild = unseen.copy()
    wild[1:] = 1e3
    np.testing.assert_allclose(fitted[method].transform(wild)[:1], codes[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_embedding_cp_needs_no_tx(method, pairs, tmp_path):
    encoder = pairs.fit(make(method))
    codes = encoder.transform(pairs.cp)
    for name in [name for name in vars(encoder) if name.startswith("tx_") and name.endswith("_")]:
        delattr(encoder, name)
    for network in getattr(encoder, "networks_", []):
        for part in ("tx", "encode_tx", "decode_tx", "decode_cp"):
            if hasattr(network, part):
                delattr(network, part)
    np.testing.assert_array_equal(encoder.transform(pairs.cp), codes)


@pytest.mark.parametrize("method", METHODS)
def test_tx_is_ignored_or_asked_for(method, pairs, fitted):
    rows = pairs.training
    encoder = make(method)
    if encoder.uses_tx:
        with pytest.raises(ScreenError, match="needs the TX profile of every row"):
            encoder.fit(pairs.cp[rows], groups=pairs.groups[rows])
        with pytest.raises(ScreenError, match="320 CP rows and 3 TX rows"):
            encoder.fit(pairs.cp[rows], pairs.tx[:3], groups=pairs.groups[rows])
        if encoder.cross_modal:
            assert fitted[method].transform_tx(pairs.tx).shape == fitted[method].transform(pairs.cp).shape
    else:
        encoder.fit(pairs.cp[rows], groups=pairs.groups[rows], controls=pairs.controls)
        np.testing.assert_array_equal(encoder.transform(pairs.cp), fitted[method].transform(pairs.cp))
    with pytest.raises(ScreenError, match="19 CP features given, the encoder was trained on 20"):
        fitted[method].transform(pairs.cp[:, 1:])


@pytest.mark.parametrize("method", METHODS)
def test_saved_encoders_come_back_bit_for_bit_and_without_pickle(method, pairs, tmp_path):
    hidden = {"hidden": (6,), "dropout": 0.1, "n_members": 2, "max_epochs": 3} if method in NETWORKS else {}
    encoder = pairs.fit(make(method, **hidden))
    encoder.save(tmp_path / "encoder")
    files = sorted((tmp_path / "encoder").iterdir())
    assert [file.name for file in files] == ["encoder.json", "encoder.safetensors"]
    assert json.loads(files[0].read_text())["method"] == method
    contents = files[1].read_bytes()
    header = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])
    assert {"n_features_in_"} < set(header)
    again = load_encoder(tmp_path / "encoder")
    np.testing.assert_array_equal(again.transform(pairs.cp), encoder.transform(pairs.cp))
    if encoder.cross_modal:
        np.testing.assert_array_equal(again.transform_tx(pairs.tx), encoder.transform_tx(pairs.tx))
    given, kept = encoder.get_params(), again.get_params()
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()} == kept
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "encoder.safetensors").read_bytes() == contents
    with pytest.raises(NotFittedError):
        make(method).save(tmp_path / "unfitted")


def spoil_json(folder, change):
    path = folder / "encoder.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


@pytest.mark.parametrize("method", ["rcca", "contrastive"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: [file.unlink() for file in folder.iterdir()],
        lambda folder: (folder / "encoder.safetensors").unlink(),
        lambda folder: (folder / "encoder.json").write_text('{"method": '),
        lambda folder: (folder / "encoder.json").write_text("[]"),
        lambda folder: (folder / "encoder.safetensors").write_bytes(b"not tensors"),
        lambda folder: (folder / "encoder.safetensors").write_bytes(b""),
        lambda folder: (folder / "encoder.safetensors").write_bytes(
            (folder / "encoder.safetensors").read_bytes()[:-100]
        ),
        lambda folder: spoil_json(folder, lambda one: one.update(method="oracle")),
        lambda folder: spoil_json(folder, lambda one: one["parameters"].update(depth=3)),
        lambda folder: spoil_json(folder, lambda one: one.update(method="sphered_cp", parameters={})),
        lambda folder: spoil_json(folder, lambda one: one.update(method="autoencoder", parameters=QUICK)),
    ],
    ids=[
        "empty", "no weights", "cut JSON", "no description", "no tensors", "no bytes", "cut weights", "unknown method",
        "unknown parameter", "other method", "other network",
    ],
)  # fmt: skip
def test_a_folder_without_a_whole_encoder_is_refused_in_one_line(method, spoil, fitted, tmp_path):
    fitted[method].save(tmp_path / "encoder")
    spoil(tmp_path / "encoder")
    with pytest.raises(ScreenError, match="holds no encoder of this version of cpx") as error:
        load_encoder(tmp_path / "encoder")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "encoder") in str(error.value)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ScreenError, match="nowhere"):
        load_encoder(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------ linear methods


def test_raw_cp_is_cp(pairs, fitted):
    np.testing.assert_array_equal(fitted["raw_cp"].transform(pairs.cp), pairs.cp)


def correlated_controls(n=2000, d=8, seed=5):
    rng = np.random.default_rng(seed)
    mixing = 0.3 * rng.normal(size=(d, d)) + np.eye(d)
    return 3 + rng.normal(size=(n, d)) @ mixing * np.linspace(0.1, 4, d)


def test_sphering_whitens_the_controls():
    controls = correlated_controls()
    encoder = SpheredCP().fit(np.zeros((5, 8)), controls=controls)
    white = encoder.transform(controls)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T), np.eye(8), atol=0.05)
    # ZCA-cor stays as near to the features as whitening can (Kessy 2018): each coordinate is still its feature.
    correlation = [np.corrcoef(white[:, i], controls[:, i])[0, 1] for i in range(8)]
    assert min(correlation) > 0.5


def test_sphering_equals_pycytominers_where_shrinkage_is_negligible(monkeypatch):
    from pycytominer.operations.transform import Spherize

    controls = correlated_controls()
    reference = Spherize(method="ZCA-cor", epsilon=0).fit(pd.DataFrame(controls)).transform(pd.DataFrame(controls))
    # Ledoit and Wolf shrink these 8 correlations by less than 1%; the weakest directions feel it most.
    difference = SpheredCP().fit(np.zeros((5, 8)), controls=controls).transform(controls) - reference.to_numpy()
    assert np.abs(difference).mean() < 0.02
    assert np.abs(difference).max() < 0.15
    # Without shrinkage they are the same, but for dividing the variance by n instead of n - 1.
    monkeypatch.setattr(encoders, "ledoit_wolf", lambda x, assume_centered: (x.T @ x / len(x), 0.0))
    mean, whitening = encoders._sphering.__wrapped__(controls)
    same = (controls - mean) @ whitening * np.sqrt((len(controls) - 1) / len(controls))
    np.testing.assert_allclose(same, reference, rtol=1e-4, atol=1e-5)


def test_sphering_equals_its_formula_with_ledoit_wolf(pairs):
    controls = pairs.controls
    encoder = SpheredCP().fit(pairs.cp, controls=controls)
    mean, deviation = controls.mean(axis=0), controls.std(axis=0)
    shrunk = LedoitWolf(assume_centered=True).fit((controls - mean) / deviation).covariance_
    expected = (pairs.cp - mean) @ np.diag(1 / deviation) @ fractional_matrix_power(shrunk, -0.5)
    np.testing.assert_allclose(encoder.transform(pairs.cp), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("controls", [None, np.zeros((0, 20)), np.ones((49, 20))])
def test_sphering_turns_to_the_wells_where_controls_are_few(controls, pairs):
    encoder = SpheredCP().fit(pairs.cp, controls=controls)
    as_controls = SpheredCP().fit(pairs.cp[:3], controls=pairs.cp)
    np.testing.assert_array_equal(encoder.transform(pairs.cp), as_controls.transform(pairs.cp))


def test_a_feature_that_controls_do_not_show_stays_finite(pairs):
    controls = pairs.controls.copy()
    controls[:, 3] = 1.0
    assert np.isfinite(SpheredCP().fit(pairs.cp, controls=controls).transform(pairs.cp)).all()


@pytest.mark.parametrize("sphere", [True, False])
def test_principal_components_equal_scikit_learns(sphere, pairs):
    encoder = pairs.fit(PcaCP(n_components=7, sphere=sphere))
    inputs = pairs.fit(SpheredCP()).transform(pairs.cp) if sphere else pairs.cp
    pca = PCA(7, svd_solver="full").fit(inputs[pairs.training].astype(float))
    expected, mine = pca.transform(inputs.astype(float)), encoder.transform(pairs.cp)
    signs = np.sign((mine * expected).sum(axis=0))
    np.testing.assert_allclose(mine * signs, expected, rtol=1e-3, atol=1e-4)
    assert pairs.fit(PcaCP(n_components=500)).transform(pairs.cp).shape[1] == 20


def test_discriminants_equal_scikit_learns_and_fishers(pairs):
    mine = pairs.fit(LdaIdentity(n_components=6)).transform(pairs.cp)
    rows = pairs.training
    cp, groups, compound = pairs.cp[rows].astype(float), pairs.groups[rows], pairs.compound[rows]
    deviations = np.vstack([cp[compound == one] - cp[compound == one].mean(axis=0) for one in np.unique(compound)])
    shrinkage = LedoitWolf(assume_centered=True).fit(deviations).shrinkage_
    assert 0 < shrinkage < 1
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage, n_components=6).fit(cp, groups)
    # Fisher's directions: the generalised eigenvectors of total and within-class covariance, both shrunk.
    total, within = (shrunk_covariance(one.T @ one / len(one), shrinkage) for one in (cp - cp.mean(axis=0), deviations))
    fisher = eigh(total, within)[1][:, ::-1][:, :6]
    for expected in (lda.transform(pairs.cp.astype(float)), pairs.cp @ fisher):
        for column in range(6):
            assert abs(np.corrcoef(mine[:, column], expected[:, column])[0, 1]) > 1 - 1e-6
    np.testing.assert_allclose(mine[rows].mean(axis=0), 0, atol=1e-4)


def test_discriminants_need_no_more_wells_than_features():
    rng = np.random.default_rng(9)
    compound = np.repeat(np.arange(20), 2)  # 20 degrees of freedom within compounds, and 60 features
    cp = (2 * rng.normal(size=(20, 5)) @ rng.normal(size=(5, 60)))[compound] + rng.normal(size=(40, 60))
    codes = LdaIdentity(n_components=5).fit(cp, groups=compound).transform(cp)
    assert np.isfinite(codes).all()
    assert replicate_share(codes, compound) > replicate_share(cp, compound)


def replicate_share(codes, compound):
    """Share of the variance that lies between compounds."""
    means = np.array([codes[compound == one].mean(axis=0) for one in np.unique(compound)])
    return means.var(axis=0).sum() / codes.var(axis=0).sum()


def test_discriminants_bring_replicates_of_unseen_compounds_together(pairs):
    codes, unseen = pairs.fit(LdaIdentity(n_components=5)).transform(pairs.cp), ~pairs.training
    mine, raw = (replicate_share(one[unseen], pairs.compound[unseen]) for one in (codes, pairs.cp))
    assert mine > raw + 0.05
    assert pairs.fit(LdaIdentity(n_components=500)).transform(pairs.cp).shape[1] == 20


@pytest.mark.filterwarnings("ignore:Only one sample available")
def test_discriminants_refuse_a_screen_without_replicates(pairs):
    with pytest.raises(ScreenError, match="needs replicates") as error:
        LdaIdentity().fit(pairs.cp[:30], groups=np.arange(30))
    assert "\n" not in str(error.value)
    with pytest.raises(ScreenError, match="needs replicates"):
        LdaIdentity().fit(pairs.cp[:30], groups=np.array([0, 0, *range(1, 29)]))
    some_single = np.array([*np.repeat(np.arange(12), 2), *range(12, 18)])
    assert np.isfinite(LdaIdentity(3).fit(pairs.cp[:30], groups=some_single).transform(pairs.cp)).all()


def test_discriminants_of_compounds_take_well_positions_for_noise():
    """A treatment sits in one place on all plates, a compound's doses in several: only the former learn the place."""
    rng = np.random.default_rng(4)
    compound, position = np.repeat(np.arange(40), 6), np.repeat(rng.normal(size=80), 3)  # a place for each dose
    cp = rng.normal(size=(240, 8))
    cp[:, 0] += 4 * position
    cp[:, 1] += 2 * rng.normal(size=40)[compound]
    treatment = np.repeat(np.arange(80), 3)
    kept = {}
    for name, classes in (("compound", compound), ("treatment", treatment)):
        directions = np.linalg.qr(LdaIdentity(1).fit(cp, groups=classes).projection_)[0]
        kept[name] = np.abs(directions[:2, 0])  # of the position, of the compound
    assert kept["compound"][1] > 0.95 and kept["treatment"][0] > 0.95


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_cca_with_replicates_equals_its_formula(weight, pairs):
    mine = pairs.fit(ReplicateCCA(n_dimensions=3, replicate_weight=weight)).projection_
    rows = pairs.training
    cp, tx, names = pairs.cp[rows].astype(float), pairs.tx[rows].astype(float), pairs.groups[rows].astype(str)
    distinct = np.unique(names)
    means = np.array([cp[names == name].mean(axis=0) for name in distinct])
    deviations = np.vstack([cp[names == name] - cp[names == name].mean(axis=0) for name in distinct])
    shrinkage = LedoitWolf(assume_centered=True).fit(deviations).shrinkage_
    within = shrunk_covariance(deviations.T @ deviations / (len(cp) - len(distinct)), shrinkage)
    whitening = np.linalg.inv(np.linalg.cholesky(within)).T  # any square root: they differ by a rotation
    whitened = (means - cp.mean(axis=0)) @ whitening
    between = whitened.T @ whitened / len(distinct) - np.eye(20) / 4
    pca = PCA(N_TRAINING // 3, svd_solver="full").fit(tx)
    variance = pca.explained_variance_
    ridged = pca.transform(tx) / np.sqrt(0.7 * variance + 0.3 * variance.mean())
    cross = ((cp - cp.mean(axis=0)) @ whitening).T @ ridged / len(cp)
    agreement = cross @ cross.T
    joint = weight * between / np.linalg.norm(between, 2) + (1 - weight) * agreement / np.linalg.norm(agreement, 2)
    expected = whitening @ np.linalg.eigh(joint)[1][:, ::-1][:, :3]
    for column in range(3):
        ours, theirs = pairs.cp @ mine[:, column], pairs.cp @ expected[:, column]
        assert abs(np.corrcoef(ours, theirs)[0, 1]) > 1 - 1e-5
        assert ours.std() == pytest.approx(theirs.std(), rel=1e-4)


def test_cca_with_replicates_needs_them(pairs):
    with pytest.raises(ScreenError, match="needs replicates"):
        ReplicateCCA().fit(pairs.cp[::4], pairs.tx[::4], groups=pairs.groups[::4])


def test_the_cell_count_is_found_by_its_name(pairs):
    names = [f"Cells_AreaShape_{number}" for number in range(19)] + ["Cells_Number_Object_Number"]
    codes = pairs.fit(CellCount().name_features(names)).transform(pairs.cp)
    np.testing.assert_array_equal(codes, pairs.cp[:, [19]])
    with pytest.raises(ScreenError, match="no CP feature of this screen counts cells"):
        CellCount().name_features(names[:19])
    for name in ("Cells_Count", "Metadata_CellCount", "Count_Nuclei", "Nuclei_Number_Object_Number"):
        assert CellCount().name_features(["Cells_AreaShape_Area", name]).column == 1
    for name in ("Cells_Neighbors_NumberOfNeighbors_1", "Nuclei_Texture_Variance_Ph_golgi_3", "Cells_AreaShape_Count2"):
        with pytest.raises(ScreenError):
            CellCount().name_features([name])


def test_tx_methods_start_from_discriminants_where_there_are_replicates(pairs):
    rows, single = pairs.training, np.flatnonzero(pairs.training)[::4]
    basis = cp_basis(pairs.cp[rows].astype(float), pairs.groups[rows], "discriminants", 5)
    np.testing.assert_array_equal(basis, pairs.fit(LdaIdentity(5)).projection_)
    alone = cp_basis(pairs.cp[single].astype(float), pairs.groups[single], "discriminants", 5)
    for unchanged in (alone, cp_basis(pairs.cp[rows], pairs.groups[rows], "pca", 5)):
        np.testing.assert_array_equal(unchanged, np.eye(20))
    with pytest.raises(ScreenError, match="cp_basis 'umap' is unknown: choose one of pca, discriminants"):
        pairs.fit(RegularisedCCA(cp_basis="umap"))


def test_leading_components_do_not_depend_on_the_solver():
    values = linked_blocks()[1]
    few, many = leading_components(values[:9], 3), leading_components(values, 3)
    for pca, rows in ((few, values[:9]), (many, values)):
        reference = PCA(3, svd_solver="full").fit(rows)
        np.testing.assert_allclose(pca.explained_variance_, reference.explained_variance_, rtol=1e-8)
        np.testing.assert_allclose(np.abs(pca.components_), np.abs(reference.components_), atol=1e-8)


def test_ridge_equals_scikit_learns_and_its_penalty_is_chosen_by_compounds(pairs):
    rows = pairs.training
    cp, tx, groups = pairs.cp[rows].astype(float), pairs.tx[rows].astype(float), pairs.groups[rows]
    encoder = pairs.fit(RidgeTX(n_tx_components=6, n_inner_folds=4))
    pca = PCA(6, svd_solver="full").fit(tx)
    scores = pca.transform(tx)
    errors = []
    for alpha in RidgeTX.alphas:
        error = 0.0
        for train, test in GroupKFold(4).split(cp, groups=groups):
            assert not set(groups[train]) & set(groups[test])
            model = Ridge(alpha=alpha * len(train)).fit(cp[train], scores[train])
            error += ((model.predict(cp[test]) - scores[test]) ** 2).sum()
        errors.append(error)
    assert encoder.alpha_ == RidgeTX.alphas[np.argmin(errors)]
    reference = Ridge(alpha=encoder.alpha_ * len(cp)).fit(cp, scores)
    np.testing.assert_allclose(encoder.weights_, reference.coef_.T, rtol=1e-6, atol=1e-9)
    expected = reference.predict(pairs.cp.astype(float))  # the mean of the scores is 0
    np.testing.assert_allclose(encoder.transform(pairs.cp), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(encoder.transform_tx(pairs.tx), pca.transform(pairs.tx), rtol=1e-3, atol=1e-3)


def test_replicates_do_not_vouch_for_each_other():
    rng = np.random.default_rng(6)
    compound = np.repeat(np.arange(30), 4)
    cp, tx = rng.normal(size=(30, 40))[compound], rng.normal(size=(30, 10))[compound]  # nothing to learn
    cp = cp + 0.1 * rng.normal(size=cp.shape)
    encoder = RidgeTX().fit(cp, tx, groups=compound)
    assert encoder.alpha_ >= 1
    errors = [0.0] * len(RidgeTX.alphas)
    for train, test in KFold(5, shuffle=True, random_state=0).split(cp):
        for i, alpha in enumerate(RidgeTX.alphas):
            model = Ridge(alpha=alpha * len(train)).fit(cp[train], tx[train])
            errors[i] += ((model.predict(cp[test]) - tx[test]) ** 2).sum()
    assert RidgeTX.alphas[np.argmin(errors)] < 0.1  # what splitting wells instead of compounds would have chosen


def linked_blocks(n=400, seed=7):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    x = shared @ rng.normal(size=(3, 6)) + rng.normal(size=(n, 6)) * np.linspace(0.5, 3, 6)
    return x, shared @ rng.normal(size=(3, 9)) + rng.normal(size=(n, 9))


def inverse_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors / np.sqrt(values) @ vectors.T


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_canonical_correlations_equal_the_textbooks(shrinkage):
    x, y = linked_blocks()
    encoder = RegularisedCCA(shrinkage=shrinkage).fit(x, y)
    covariance = np.cov(np.hstack([x, y]).T)
    blocks = covariance[:6, :6], covariance[6:, 6:]
    ridged = [(1 - shrinkage) * c + shrinkage * np.trace(c) / len(c) * np.eye(len(c)) for c in blocks]
    expected = np.linalg.svd(inverse_root(ridged[0]) @ covariance[:6, 6:] @ inverse_root(ridged[1]))[1]
    np.testing.assert_allclose(encoder.correlations_, expected, atol=1e-6)
    # Each coordinate has the constraint's unit variance times its own canonical correlation.
    directions = encoder.projection_ / encoder.correlations_
    np.testing.assert_allclose(directions.T @ ridged[0] @ directions, np.eye(6), atol=1e-8)


def test_canonical_variates_equal_scikit_learns():
    x, y = linked_blocks()
    encoder = RegularisedCCA(shrinkage=0.0).fit(x, y)
    mine, mine_tx = encoder.transform(x), encoder.transform_tx(y)
    reference = CCA(n_components=3, max_iter=5000, tol=1e-10, scale=False).fit(x, y)
    theirs, theirs_tx = reference.transform(x, y)
    for column in range(3):
        assert abs(np.corrcoef(mine[:, column], theirs[:, column])[0, 1]) > 1 - 1e-4
        assert abs(np.corrcoef(mine_tx[:, column], theirs_tx[:, column])[0, 1]) > 1 - 1e-4
        correlation = np.corrcoef(mine[:, column], mine_tx[:, column])[0, 1]
        assert correlation == pytest.approx(encoder.correlations_[column], abs=1e-6)
        assert mine[:, column].std(ddof=1) == pytest.approx(encoder.correlations_[column], rel=1e-5)


def test_cca_uses_at_most_a_third_as_many_components_as_compounds(pairs):
    rows = pairs.compound < 12
    encoder = RegularisedCCA().fit(pairs.cp[rows], pairs.tx[rows], groups=pairs.groups[rows])
    assert encoder.transform(pairs.cp).shape[1] == 4
    assert pairs.fit(RegularisedCCA(n_dimensions=2)).transform(pairs.cp).shape[1] == 2


# ------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("method", NETWORKS)
def test_loss_falls_in_training_and_on_unseen_pairs(method, fitted):
    history = pd.DataFrame(fitted[method].history_)
    assert list(history.columns) == ["member", "epoch", "training", "validation"]
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))
    for curve in ("training", "validation"):
        assert history[curve].iloc[-3:].mean() < 0.9 * history[curve].iloc[0]
    assert 1 <= fitted[method].best_epoch_ <= QUICK["max_epochs"]


@pytest.mark.parametrize("method", NETWORKS)
def test_the_same_seed_gives_the_same_codes_bit_for_bit(method, pairs, fitted):
    again, other = (pairs.fit(make(method, seed=seed, dropout=0.0)) for seed in (0, 1))
    np.testing.assert_array_equal(again.transform(pairs.cp), fitted[method].transform(pairs.cp))
    np.testing.assert_array_equal(again.transform_tx(pairs.tx), fitted[method].transform_tx(pairs.tx))
    assert again.history_ == fitted[method].history_
    assert np.abs(other.transform(pairs.cp) - again.transform(pairs.cp)).max() > 0.1


@pytest.mark.parametrize("method", NETWORKS)
def test_fitting_leaves_the_callers_random_state_alone_and_does_not_depend_on_it(method, pairs, fitted):
    deep = {"hidden": (6,), "dropout": 0.5, "max_epochs": 3}
    torch.manual_seed(11)
    np.random.seed(12)  # noqa: NPY002 - the global state is what is watched
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = pairs.fit(make(method, **deep))
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.manual_seed(99)
    second = pairs.fit(make(method, **deep))
    np.testing.assert_array_equal(first.transform(pairs.cp), second.transform(pairs.cp))


@pytest.mark.parametrize("method", NETWORKS)
def test_codes_of_every_member_have_unit_length(method, pairs):
    encoder = pairs.fit(make(method, n_members=3, n_dimensions=5, max_epochs=3))
    for codes in (encoder.transform(pairs.cp), encoder.transform_tx(pairs.tx)):
        assert codes.shape == (len(pairs.cp), 15)
        lengths = np.linalg.norm(codes.reshape(-1, 3, 5), axis=2)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    members = encoder.transform(pairs.cp).reshape(-1, 3, 5)
    assert not np.allclose(members[:, 0], members[:, 1])
    assert {row["member"] for row in encoder.history_} == {0, 1, 2}


def unseen_rank_share(encoder, pairs):
    """Mean rank of an unseen compound's own TX profile, 0 the nearest and 0.5 chance."""
    unseen = np.arange(N_TRAINING, 120)
    codes = encoder.transform(pairs.cp)
    query = np.array([codes[pairs.compound == one].mean(axis=0) for one in unseen])
    return retrieval_rank(query, encoder.transform_tx(pairs.compound_tx[unseen])).mean() / (len(unseen) - 1)


@pytest.mark.parametrize("method", ["ridge_tx", "rcca", *NETWORKS])
def test_true_pairs_find_unseen_compounds_and_deranged_pairs_do_not(method, pairs):
    parameters = {"max_epochs": 40, "n_dimensions": 16} if method in NETWORKS else {}
    shares = []
    for shift in (0, 13, 29):  # each training compound gets the TX profile of another one
        deranged = pairs.compound_tx[(pairs.compound[pairs.training] + shift) % N_TRAINING]
        shares.append(unseen_rank_share(pairs.fit(make(method, **parameters), tx=deranged), pairs))
    assert shares[0] < 0.15
    assert min(shares[1:]) > 0.3


@pytest.mark.parametrize("method", NETWORKS)
def test_closed_gradients_train_the_networks_of_automatic_differentiation(method, pairs, fitted, monkeypatch):
    calls = []
    plain = encoders.NetworkEncoder._automatic_gradients
    monkeypatch.setattr(METHODS[method], "_closed_gradients", lambda *given: (calls.append(1), plain(*given)))
    slow = pairs.fit(make(method))
    assert len(calls) > 20 and slow.best_epoch_ == fitted[method].best_epoch_
    np.testing.assert_allclose(slow.transform(pairs.cp), fitted[method].transform(pairs.cp), atol=1e-3)
    for one, other in zip(slow.history_, fitted[method].history_, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("method", NETWORKS)
@pytest.mark.parametrize("parameters", [{"patience": 2}, {"patience": 0}, {"validation_share": 0.0}, {"n_members": 1}])
def test_members_trained_together_are_those_trained_alone(method, parameters, pairs, monkeypatch):
    together = pairs.fit(make(method, **{"max_epochs": 30, "n_members": 3, "learning_rate": 0.05, **parameters}))
    train, alone = encoders.NetworkEncoder._train, []

    def one_by_one(encoder, data, members):
        alone.append(len(members))
        return [network for member in members for network in train(encoder, data, [member])]

    monkeypatch.setattr(encoders.NetworkEncoder, "_train", one_by_one)
    apart = pairs.fit(make(method, **{"max_epochs": 30, "n_members": 3, "learning_rate": 0.05, **parameters}))
    assert set(alone) == {together.n_members}
    if parameters == {"patience": 2}:
        assert pd.DataFrame(together.history_)["member"].value_counts().nunique() > 1, "all stopped together"
    assert together.best_epoch_ == apart.best_epoch_ and len(together.history_) == len(apart.history_)
    for one, other in zip(together.history_, apart.history_, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    np.testing.assert_allclose(together.transform(pairs.cp), apart.transform(pairs.cp), atol=1e-3)


@pytest.mark.parametrize("method", NETWORKS)
def test_at_last_members_of_an_encoder_see_the_same_batches(method, pairs, monkeypatch):
    rows_of, seen = encoders._rows_of, []

    def noted(values, rows, is_stacked):
        seen.append(len(rows))
        return rows_of(values, rows, is_stacked)

    monkeypatch.setattr(encoders, "_rows_of", noted)
    part = {"cp": pairs.cp, "tx": pairs.tx, "groups": pairs.groups, "controls": pairs.controls}
    encoder = make(method, n_members=3, max_epochs=2, patience=9, validation_share=0.0)
    (fitted,) = encoder.fit_parts([part, part])
    assert set(seen) == {2}, "each of two parts has one list of rows for its three members"
    codes = np.split(fitted[0].transform(pairs.cp), 3, axis=1)
    assert np.abs(codes[0] - codes[1]).mean() > 0.01, "members differ in weights and noise"
    seen.clear()
    encoder.set_params(validation_share=0.2).fit_parts([part, part])
    assert set(seen) == {2, 6}, "on trial each member has held-out compounds of its own"


@pytest.mark.parametrize("method", [*NETWORKS, "rcca"])
@pytest.mark.parametrize("sizes", [(60, 60, 60), (60, 57, 60), (9, 60)], ids=["equal", "unequal", "few"])
def test_parts_fitted_together_are_those_fitted_alone(method, sizes, pairs):
    parameters = {"max_epochs": 150, "n_members": 2, "patience": 6, "learning_rate": 0.1} if method in NETWORKS else {}
    encoder = make(method, **parameters)
    rng = np.random.default_rng(4)
    chosen = [np.isin(pairs.compound, rng.choice(N_TRAINING, size, replace=False)) for size in sizes]
    parts = [
        {"cp": pairs.cp[rows], "tx": pairs.tx[rows], "groups": pairs.groups[rows], "controls": pairs.controls}
        for rows in chosen
    ]
    (together,) = encoder.fit_parts(parts)
    alone = [clone(encoder).fit(**part) for part in parts]
    assert not hasattr(encoder, "n_features_in_")
    # Of parts of unequal size, steps show as many compounds of the larger as of the smallest, so they differ a little;
    # too few compounds for all components have a shape of their own, and are trained alone.
    a_little = method in NETWORKS and sizes == (60, 57, 60)
    for one, other, rows in zip(together, alone, chosen, strict=True):
        for ours, theirs in zip(
            (one.transform(pairs.cp[rows]), one.transform_tx(pairs.tx[rows])),
            (other.transform(pairs.cp[rows]), other.transform_tx(pairs.tx[rows])),
            strict=True,
        ):
            assert np.abs(ours - theirs).mean() < (0.1 if a_little else 1e-4) * np.abs(theirs).mean()
        if method in NETWORKS and not a_little:
            assert one.best_epoch_ == other.best_epoch_
            assert [line["epoch"] for line in one.history_] == [line["epoch"] for line in other.history_]
    if method in NETWORKS:
        assert len({one.best_epoch_ for one in together}) > 1, "all ended together: the test tests little"


OPTIONS = {
    "contrastive": [
        {"temperature": 0.1, "input_noise": 2.0, "learning_rate": 0.1},
        {"temperature": 1.0, "input_noise": 0.5, "learning_rate": 0.02},
        {"temperature": 0.3, "input_noise": 0.5, "learning_rate": 0.1},
        {"temperature": 0.01, "learning_rate": 0.02, "max_epochs": 3},  # no closed gradient
        {"n_cp_components": 4},
        {"input_noise": 0.0},
    ],
    "autoencoder": [
        {"tx_dropout": 0.1, "input_noise": 2.0, "learning_rate": 0.1},
        {"tx_dropout": 0.9, "input_noise": 0.5, "learning_rate": 0.02},
        {"tx_dropout": 0.5, "cp_weight": 2.0, "learning_rate": 0.1},
        {"hidden": (6,), "max_epochs": 3},
        {"n_tx_components": 4},
        {"input_noise": 0.0},
    ],
    "rcca": [{"shrinkage": 0.1}, {"n_dimensions": 3}],
}


@pytest.mark.parametrize("method", OPTIONS)
def test_options_fitted_together_are_those_fitted_alone(method, pairs, monkeypatch):
    encoder = make(method, **({"max_epochs": 60, "n_members": 2, "patience": 4} if method in NETWORKS else {}))
    rows = pairs.compound < N_TRAINING - 10
    parts = [
        {"cp": pairs.cp[some], "tx": pairs.tx[some], "groups": pairs.groups[some], "controls": pairs.controls}
        for some in (rows, pairs.compound < N_TRAINING)
    ]
    alone = [[clone(encoder).set_params(**option).fit(**part) for part in parts] for option in OPTIONS[method]]
    train, groups = encoders.NetworkEncoder._train, []

    def counted(encoder, data, members):
        groups.append(len(members))
        return train(encoder, data, members)

    monkeypatch.setattr(encoders.NetworkEncoder, "_train", counted)
    for part in range(2):  # the same part twice, so that steps show the same compounds as those alone
        groups.clear()
        together = encoder.fit_parts(parts[part : part + 1] * 2, OPTIONS[method])
        if method in NETWORKS:  # three options of one shape, two parts, two members; in each group twice
            assert groups.count(12) == 2, "the first three options were not trained side by side"
            ended = [one[0].best_epoch_ for one in together[:3]]
            assert len(set(ended)) > 1, "all ended together: the test tests little"
        for ours, theirs, values in zip(together, alone, OPTIONS[method], strict=True):
            assert len(ours) == 2
            for one in ours:
                other = theirs[part]
                assert one.get_params() == encoder.get_params() | values
                for name in ("cp", "tx"):
                    codes = [
                        fitted.transform(pairs.cp) if name == "cp" else fitted.transform_tx(pairs.tx)
                        for fitted in (one, other)
                    ]
                    np.testing.assert_allclose(*codes, atol=1e-3)
                if method in NETWORKS:
                    assert one.best_epoch_ == other.best_epoch_ and len(one.history_) == len(other.history_)
                    for line, expected in zip(one.history_, other.history_, strict=True):
                        assert line == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("parameters", [{"temperature": 0.02}, {"learn_temperature": True}, {"hidden": (8,)}])
def test_where_no_gradient_is_closed_training_differentiates(parameters, pairs, monkeypatch):
    calls = []
    plain = encoders.NetworkEncoder._automatic_gradients
    monkeypatch.setattr(
        encoders.NetworkEncoder, "_automatic_gradients", lambda *given: (calls.append(1), plain(*given))
    )
    pairs.fit(make("contrastive", max_epochs=2))
    assert not calls
    pairs.fit(make("contrastive", max_epochs=2, **parameters))
    assert calls


@pytest.mark.parametrize("method", NETWORKS)
def test_without_held_out_compounds_training_runs_to_the_end(method, pairs):
    encoder = pairs.fit(make(method, validation_share=0.0, max_epochs=4))
    assert encoder.history_ == []
    assert encoder.best_epoch_ == 4


def test_a_limit_on_steps_ends_training_in_whole_epochs(pairs):
    steps_an_epoch = -(-N_TRAINING // 16)
    limited = make("contrastive", batch_size=16, max_steps=3 * steps_an_epoch + 1, max_epochs=50, validation_share=0.0)
    assert pairs.fit(limited).best_epoch_ == 3
    assert pairs.fit(limited.set_params(max_steps=1)).best_epoch_ == 1  # at least one
    assert pairs.fit(limited.set_params(max_epochs=0)).best_epoch_ == 0
    watched = pairs.fit(limited.set_params(max_epochs=50, max_steps=2 * steps_an_epoch, validation_share=0.15))
    assert max(one["epoch"] for one in watched.history_) == 2


def test_training_stops_when_unseen_pairs_no_longer_improve(pairs):
    rng = np.random.default_rng(8)
    noise = rng.normal(size=(N_TRAINING, 30))[pairs.compound[pairs.training]]  # nothing that could generalise
    encoder = pairs.fit(make("contrastive", max_epochs=200, patience=5, n_members=2), tx=noise)
    history = pd.DataFrame(encoder.history_)
    for _, one in history.groupby("member"):
        assert len(one) < 200
        assert one["validation"].idxmin() == one.index[-6]  # five epochs without a new lowest loss
    assert encoder.best_epoch_ <= history["epoch"].max()


def test_the_number_of_epochs_is_the_members_common_choice():
    curves = [[4.0, 3, 2, 2, 2, 3, 3, 3, 3, 3], [9.0, 7, 5, 5, 5, 9]]  # the second member stopped early
    history = [
        {"member": member, "epoch": epoch, "training": 0.0, "validation": loss}
        for member, losses in enumerate(curves)
        for epoch, loss in enumerate(losses, start=1)
    ]
    mean = [(a + b) / 2 for a, b in zip(curves[0], curves[1] + [9.0] * 4, strict=True)]
    smooth = [np.mean(mean[max(0, i - 2) : i + 3]) for i in range(10)]
    assert encoders._best_epoch(history) == 1 + int(np.argmin(smooth)) == 4


def test_an_epoch_shows_one_well_of_every_compound_and_all_wells_equally_often():
    groups = np.array(list("bacabbcaad"), dtype=object)
    rows, counts = encoders._wells_by_compound(groups)
    assert [set(groups[one]) for one in rows] == [{"a"}, {"b"}, {"c"}, {"d"}]
    assert counts.tolist() == [4, 3, 2, 1]
    assert sorted(np.concatenate([one[:n] for one, n in zip(rows, counts, strict=True)])) == list(range(10))
    rng = np.random.default_rng(0)
    shown = set()
    times = np.zeros(10)
    for _ in range(600):
        batches = encoders._batches(rows, counts, len(rows), 3, rng)
        np.add.at(times, np.concatenate(batches), 1)
        assert [len(batch) for batch in batches] == [2, 2]
        assert sorted(groups[np.concatenate(batches)]) == list("abcd")
        shown |= set(np.concatenate(batches).tolist())
    assert shown == set(range(10))
    expected = 600 / counts[np.searchsorted(list("abcd"), groups.astype(str))]
    np.testing.assert_allclose(times, expected, rtol=0.25)


def test_whitened_inputs_have_unit_variance_or_keep_their_own(pairs):
    cp = pairs.cp[pairs.training].astype(float)
    variance = PCA(20).fit(cp).explained_variance_
    for shrinkage, expected in ((0.0, np.ones(20)), (1.0, variance / variance.mean())):
        encoder = pairs.fit(make("contrastive", whitening_shrinkage=shrinkage, cp_basis="pca", max_epochs=1))
        inputs = encoder._cp_inputs(cp)
        np.testing.assert_allclose(np.cov(inputs.T), np.diag(expected), atol=1e-6)


def test_a_temperature_that_is_learned_moves(pairs):
    for learned in (True, False):
        encoder = pairs.fit(make("contrastive", learn_temperature=learned, validation_share=0.0))
        moved = abs(encoder.networks_[0].temperature.item() - 0.3)
        assert (moved > 0.01) == learned


def test_tx_dropout_decides_which_modality_gives_the_code(pairs):
    encoder = make("autoencoder")
    seen = []

    def network(cp, tx, has_cp, has_tx):
        seen.append(torch.cat([has_cp, has_tx], dim=1))
        return cp, tx

    cp, tx = torch.zeros(20_000, 2), torch.zeros(20_000, 3)
    amounts = {"input_noise": 1.0, "tx_dropout": 0.4, "cp_weight": 0.5}
    encoder._loss(network, cp, tx, [torch.Generator().manual_seed(0)], amounts)
    present = seen[0]
    assert (present.sum(dim=1) >= 1).all()
    shares = {
        pair: (present == torch.tensor(pair)).all(dim=1).float().mean().item() for pair in ((1.0, 0.0), (0.0, 1.0))
    }
    assert shares[1.0, 0.0] == pytest.approx(0.4, abs=0.02)  # CP alone
    assert shares[0.0, 1.0] == pytest.approx(0.3, abs=0.02)  # half of the others see TX alone


# ------------------------------------------------------------------------------------------------- devices


def test_unknown_devices_are_refused_in_one_line(pairs):
    with pytest.raises(ScreenError, match="no device is called 'gpu'; devices are auto, cpu and cuda"):
        pairs.fit(make("contrastive", device="gpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_said_in_one_line_and_auto_does_without(pairs, fitted, tmp_path):
    with pytest.raises(ScreenError, match="no GPU is there; use auto or cpu") as error:
        pairs.fit(make("autoencoder", device="cuda"))
    assert "\n" not in str(error.value)
    on_cpu = pairs.fit(make("contrastive", device="cpu"))
    np.testing.assert_array_equal(on_cpu.transform(pairs.cp), fitted["contrastive"].transform(pairs.cp))
    # An encoder that was trained on a GPU opens where there is none.
    on_cpu.set_params(device="cuda").save(tmp_path / "encoder")
    np.testing.assert_array_equal(load_encoder(tmp_path / "encoder").transform(pairs.cp), on_cpu.transform(pairs.cp))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("method", NETWORKS)
def test_a_gpu_gives_codes_as_good_as_the_cpus(method, pairs):
    parameters = {"max_epochs": 40, "n_dimensions": 16}
    shares = [unseen_rank_share(pairs.fit(make(method, device=one, **parameters)), pairs) for one in ("cpu", "cuda")]
    assert max(shares) < 0.15


@pytest.mark.parametrize("method", NETWORKS)
def test_the_heads_start_from_discriminants_where_there_are_replicates(method, pairs):
    cp, single = pairs.cp[pairs.training].astype(float), np.flatnonzero(pairs.training)[::4]
    short = {"max_epochs": 1, "n_cp_components": 5}
    encoder = pairs.fit(make(method, **short))
    assert encoder.cp_basis == "discriminants"
    inputs, discriminants = encoder._cp_inputs(cp), pairs.fit(LdaIdentity(5)).transform(cp)
    fit = np.linalg.lstsq(discriminants, inputs, rcond=None)[0]
    np.testing.assert_allclose(discriminants @ fit, inputs, atol=1e-3)
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-6)
    alone = [
        make(method, **short, cp_basis=basis).fit(pairs.cp[single], pairs.tx[single], groups=pairs.groups[single])
        for basis in ("discriminants", "pca")
    ]
    np.testing.assert_array_equal(*[one.transform(pairs.cp) for one in alone])
    with pytest.raises(ScreenError, match="cp_basis 'ica' is unknown: choose one of pca, discriminants"):
        pairs.fit(make(method, cp_basis="ica"))


@pytest.mark.parametrize("method", NETWORKS)
def test_without_epochs_the_weights_stay_as_drawn(method, pairs):
    encoder = pairs.fit(make(method, max_epochs=0))
    assert encoder.history_ == [] and encoder.best_epoch_ == 0
    other_tx = pairs.fit(make(method, max_epochs=0), tx=pairs.tx[pairs.training][::-1].copy())
    np.testing.assert_array_equal(encoder.transform(pairs.cp), other_tx.transform(pairs.cp))
    assert 0.3 < unseen_rank_share(encoder, pairs) < 0.7


@pytest.mark.parametrize("loss", encoders.CONTRASTIVE_LOSSES)
def test_every_loss_finds_unseen_compounds(loss, pairs):
    encoder = pairs.fit(make("contrastive", loss=loss, max_epochs=40, n_dimensions=8))
    assert unseen_rank_share(encoder, pairs) < 0.2
    assert pd.DataFrame(encoder.history_)["validation"].notna().all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "triplet"}, "loss 'triplet' is unknown: choose one of info_nce, siglip, cloob, vicreg, barlow_twins"),
        ({"softness": 1.5}, "softness is 1.5; it is a share"),
        ({"softness": 0.5, "loss": "siglip"}, "softness softens the targets of info_nce, and siglip has none"),
    ],
)
def test_losses_that_cannot_be_are_refused_in_one_line(parameters, message, pairs):
    with pytest.raises(ScreenError, match=message) as error:
        pairs.fit(make("contrastive", **parameters))
    assert "\n" not in str(error.value)


def test_soft_targets_are_an_option_of_one_encoder(pairs, fitted):
    soft = pairs.fit(make("contrastive", softness=make("contrastive_soft").softness))
    np.testing.assert_array_equal(soft.transform(pairs.cp), fitted["contrastive_soft"].transform(pairs.cp))
    hard = pairs.fit(make("contrastive_soft", softness=0.0))
    np.testing.assert_array_equal(hard.transform(pairs.cp), fitted["contrastive"].transform(pairs.cp))
    assert not np.allclose(soft.transform(pairs.cp), hard.transform(pairs.cp))


def test_a_temperature_that_is_not_positive_is_refused(pairs):
    with pytest.raises(ScreenError, match=r"temperature is -0\.1; .* above 0"):
        pairs.fit(make("contrastive", temperature=-0.1))


def test_the_shrinkage_within_compounds_is_scikit_learns():
    rng = np.random.default_rng(11)
    compound = np.repeat(np.arange(9), 4)
    for cp in (rng.normal(size=(36, 6)), rng.normal(size=(36, 50)) * np.linspace(0.1, 3, 50), np.zeros((36, 3))):
        means = encoders._group_means(cp, compound)
        deviations = cp - means[compound]
        within, shrinkage = encoders._within_compounds(cp, compound, means)
        np.testing.assert_allclose(within, deviations.T @ deviations / 36, atol=1e-12)
        assert shrinkage == pytest.approx(ledoit_wolf_shrinkage(deviations, assume_centered=True), abs=1e-12)
    assert shrinkage == 0  # nothing varies


def test_rows_are_embedded_alike_however_many_at_once(pairs, monkeypatch):
    encoder = pairs.fit(PcaCP(n_components=5))
    at_once = encoder.transform(pairs.cp)
    monkeypatch.setattr(encoders, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(encoder.transform(pairs.cp), at_once, rtol=1e-5, atol=1e-6)
    assert encoder.transform(pairs.cp[:0]).shape == (0, 5)
