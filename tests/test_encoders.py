"""Every method as an estimator, and each against the textbook or the library people would use."""

from copy import copy

import numpy as np
import pytest
import torch
from scipy.linalg import eigh, fractional_matrix_power
from sklearn.base import clone
from sklearn.covariance import LedoitWolf, shrunk_covariance
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from cpx_utils import losses
from cpx_utils.encoders import (
    METHODS,
    ON_DISCRIMINANTS,
    CellCount,
    LdaIdentity,
    PcaCP,
    RegularisedCCA,
    RidgeTX,
    SpheredCP,
    load_encoder,
)
from cpx_utils.metrics import retrieval_rank, silhouette
from cpx_utils.profiles import ScreenError

NETWORKS = ("autoencoder", "contrastive", "contrastive_soft", "contrastive_joint")
QUICK = {"max_epochs": 12, "hidden": (8,)}
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
def test_unseen_rows_are_embedded_one_by_one(method, pairs, fitted):
    unseen = pairs.cp[~pairs.training]
    codes = fitted[method].transform(unseen)
    order = np.random.default_rng(0).permutation(len(unseen))
    np.testing.assert_allclose(fitted[method].transform(unseen[order]), codes[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted[method].transform(unseen[:1]), codes[:1], rtol=1e-4, atol=1e-5)
    wild = unseen.copy()
    wild[1:] = 1e3
    np.testing.assert_allclose(fitted[method].transform(wild)[:1], codes[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_tx_is_ignored_or_asked_for(method, pairs, fitted):
    rows = pairs.training
    encoder = make(method)
    if encoder.uses_tx:
        for tx in (None, pairs.tx[:3]):
            with pytest.raises(ScreenError, match="needs the TX profile of each of the 320 CP rows"):
                encoder.fit(pairs.cp[rows], tx, groups=pairs.groups[rows])
        assert fitted[method].transform_tx(pairs.tx).shape == fitted[method].transform(pairs.cp).shape
    else:
        encoder.fit(pairs.cp[rows], groups=pairs.groups[rows], controls=pairs.controls)
        np.testing.assert_array_equal(encoder.transform(pairs.cp), fitted[method].transform(pairs.cp))
    with pytest.raises(ScreenError, match="19 CP features given, the encoder was trained on 20"):
        fitted[method].transform(pairs.cp[:, 1:])


@pytest.mark.parametrize("method", METHODS)
def test_saved_encoders_come_back_bit_for_bit_and_without_pickle(method, pairs, tmp_path):
    encoder = pairs.fit(make(method, **({"hidden": (6, 5), "max_epochs": 3} if method in NETWORKS else {})))
    encoder.save(tmp_path / "encoder")
    assert {file.name for file in (tmp_path / "encoder").iterdir()} == {"encoder.json", "encoder.safetensors"}
    again = load_encoder(tmp_path / "encoder")
    np.testing.assert_array_equal(again.transform(pairs.cp), encoder.transform(pairs.cp))
    if encoder.uses_tx:
        np.testing.assert_array_equal(again.transform_tx(pairs.tx), encoder.transform_tx(pairs.tx))
    given, kept = encoder.get_params(), again.get_params()
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()} == kept


# ------------------------------------------------------------------------------------------ linear methods


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


def test_principal_components_equal_scikit_learns(pairs):
    encoder = pairs.fit(PcaCP(n_components=7))
    inputs = pairs.fit(SpheredCP()).transform(pairs.cp)
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


@pytest.mark.filterwarnings("ignore:Only one sample available")
def test_discriminants_refuse_a_screen_without_replicates(pairs):
    with pytest.raises(ScreenError, match="needs replicates") as error:
        LdaIdentity().fit(pairs.cp[:30], groups=np.arange(30))
    assert "\n" not in str(error.value)
    some_single = np.array([*np.repeat(np.arange(12), 2), *range(12, 18)])
    assert np.isfinite(LdaIdentity(3).fit(pairs.cp[:30], groups=some_single).transform(pairs.cp)).all()


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


def test_ridge_equals_scikit_learns_and_its_penalty_is_chosen_by_compounds(pairs):
    rows = pairs.training
    cp, tx, groups = pairs.cp[rows].astype(float), pairs.tx[rows].astype(float), pairs.groups[rows]
    encoder = pairs.fit(RidgeTX(n_tx_components=6))
    pca = PCA(6, svd_solver="full").fit(tx)
    scores = pca.transform(tx)
    errors = []
    for alpha in RidgeTX.alphas:
        error = 0.0
        for train, test in GroupKFold(5).split(cp, groups=groups):
            assert not set(groups[train]) & set(groups[test])
            model = Ridge(alpha=alpha * len(train)).fit(cp[train], scores[train])
            error += ((model.predict(cp[test]) - scores[test]) ** 2).sum()
        errors.append(error)
    assert encoder.alpha_ == RidgeTX.alphas[np.argmin(errors)]
    reference = Ridge(alpha=encoder.alpha_ * len(cp)).fit(cp, scores)
    np.testing.assert_allclose(encoder.projection_, reference.coef_.T, rtol=1e-6, atol=1e-9)
    expected = reference.predict(pairs.cp.astype(float))  # the mean of the scores is 0
    np.testing.assert_allclose(encoder.transform(pairs.cp), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(encoder.transform_tx(pairs.tx), pca.transform(pairs.tx), rtol=1e-3, atol=1e-3)


def linked_blocks(n=400, seed=7):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    x = shared @ rng.normal(size=(3, 6)) + rng.normal(size=(n, 6)) * np.linspace(0.5, 3, 6)
    return x, shared @ rng.normal(size=(3, 9)) + rng.normal(size=(n, 9))


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


# ------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("method", NETWORKS)
def test_the_same_seed_gives_the_same_codes_bit_for_bit(method, pairs, fitted):
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    again, other = (pairs.fit(make(method, seed=seed)) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state neither matters nor changes"
    np.testing.assert_array_equal(again.transform(pairs.cp), fitted[method].transform(pairs.cp))
    np.testing.assert_array_equal(again.transform_tx(pairs.tx), fitted[method].transform_tx(pairs.tx))
    assert again.history_ == fitted[method].history_
    assert np.abs(other.transform(pairs.cp) - again.transform(pairs.cp)).max() > 0.1


def unseen_rank_share(encoder, pairs):
    """Mean rank of an unseen compound's own TX profile, 0 the nearest and 0.5 chance."""
    unseen = np.arange(N_TRAINING, 120)
    codes = encoder.transform(pairs.cp)
    query = np.array([codes[pairs.compound == one].mean(axis=0) for one in unseen])
    return retrieval_rank(query, encoder.transform_tx(pairs.compound_tx[unseen])).mean() / (len(unseen) - 1)


@pytest.mark.parametrize("method", ["ridge_tx", "rcca", *NETWORKS])
def test_true_pairs_find_unseen_compounds_and_deranged_pairs_do_not(method, pairs):
    parameters = {"max_epochs": 40, "n_dimensions": 16, "hidden": (256,)} if method in NETWORKS else {}
    shares = []
    for shift in (0, 13):  # each training compound gets the TX profile of another one
        deranged = pairs.compound_tx[(pairs.compound[pairs.training] + shift) % N_TRAINING]
        shares.append(unseen_rank_share(pairs.fit(make(method, **parameters), tx=deranged), pairs))
    assert shares[0] < 0.3 and shares[1] > 0.4


@pytest.mark.parametrize("method", ["contrastive", "contrastive_joint"])
def test_the_loss_that_is_given_or_edited_is_the_one_that_trains(method, pairs, fitted, tmp_path, monkeypatch):
    def sign_of_info_nce(cp, tx, temperature, info_nce=losses.info_nce):
        return -info_nce(cp, tx, temperature)

    named = pairs.fit(make(method, loss=losses.info_nce))
    np.testing.assert_array_equal(named.transform(pairs.cp), fitted[method].transform(pairs.cp))
    worse = pairs.fit(make(method, loss=sign_of_info_nce))
    codes = worse.transform(pairs.cp)
    assert not np.allclose(codes, fitted[method].transform(pairs.cp))
    monkeypatch.setattr(losses, "info_nce", sign_of_info_nce)  # as a reader does who edits the module
    np.testing.assert_array_equal(pairs.fit(make(method)).transform(pairs.cp), codes)
    worse.save(tmp_path)
    loaded = load_encoder(tmp_path)
    np.testing.assert_array_equal(loaded.transform(pairs.cp), codes)
    with pytest.raises(ScreenError, match=r"loss '.*test_encoders.sign_of_info_nce' is none of cpx_utils.losses"):
        pairs.fit(loaded)  # never another loss in silence


def cohesion(encoder, pairs):
    """Silhouette of unseen compounds' wells."""
    unseen = ~pairs.training
    return silhouette(encoder.transform(pairs.cp[unseen]), pairs.compound[unseen]).mean()


def test_the_joint_loss_brings_replicates_together_also_those_of_compounds_without_tx(pairs):
    form = ON_DISCRIMINANTS | {"max_epochs": 60, "on_discriminants": False, "n_dimensions": 8}
    contrastive, joint = (METHODS[name](**form) for name in ("contrastive", "contrastive_joint"))
    one = pairs.tx[pairs.training][:, :1] * np.ones(30)  # TX shows a part of what CP does, and has one component
    assert cohesion(pairs.fit(joint, tx=one), pairs) > cohesion(pairs.fit(contrastive, tx=one), pairs) + 0.2
    rows, few = pairs.training, pairs.compound[pairs.training] < 8
    cp, groups, tx = pairs.cp[rows], pairs.groups[rows], np.where(few[:, None], pairs.tx[rows], np.nan)
    whole = clone(joint).fit(cp, tx, groups)
    alone = cohesion(copy(whole).fit_tx(cp[few], tx[few], groups[few]), pairs)
    assert cohesion(whole, pairs) > alone + 0.03
    small = clone(joint).set_params(batch_size=4, max_epochs=3).fit(cp, tx, groups)  # most batches lack all TX
    assert all(np.isfinite(values).all() for values in small._arrays().values())
    spoilt = np.where(few[:, None], tx, tx + 5)  # nothing of a missing profile is read
    np.testing.assert_array_equal(clone(joint).fit(cp, spoilt, groups).transform(cp), whole.transform(cp))


def test_a_limit_on_steps_ends_training_in_whole_epochs(pairs):
    steps_an_epoch = -(-N_TRAINING // 16)
    limited = make("contrastive", batch_size=16, max_steps=3 * steps_an_epoch + 1, max_epochs=50, validation_share=0.0)
    assert pairs.fit(limited).best_epoch_ == 3
    assert pairs.fit(limited.set_params(max_steps=1)).best_epoch_ == 1  # at least one
    assert pairs.fit(limited.set_params(max_epochs=0)).best_epoch_ == 0
    watched = pairs.fit(limited.set_params(max_epochs=50, max_steps=2 * steps_an_epoch, validation_share=0.15))
    assert max(one["epoch"] for one in watched.history_) == 2


# ------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("contrastive", {"temperature": 0.0}, "ContrastiveEncoder: temperature is 0, not from 0.001 to 1000"),
        ("contrastive_joint", {"temperature": float("nan")}, "JointContrastiveEncoder: temperature is nan"),
        ("contrastive", {"loss": "siglip"}, "loss 'siglip' is none of cpx_utils.losses"),
        ("contrastive_soft", {"softness": 1.5}, "softness is 1.5, not from 0 to 1"),
    ],
)
def test_parameters_out_of_bounds_are_refused_in_one_line(method, parameters, message, pairs):
    with pytest.raises(ScreenError, match=message) as error:
        pairs.fit(make(method, **parameters))
    assert "\n" not in str(error.value)


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
