"""The strict regime: what test compounds are cannot reach anything that is fitted; and what the controls are."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from rdkit.Chem import AllChem, MolFromSmiles

from cpx_utils import bioactivity, crossfit, splits
from cpx_utils.encoders import METHODS, LdaIdentity, RawCP, RegularisedCCA, RidgeTX
from cpx_utils.preprocessing import FeaturePreparation
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    KEYS,
    ScreenError,
    compound_groups,
    embedding_values,
    feature_columns,
)

QUICK = {"max_epochs": 5, "hidden": (8,)}
DRAWS = {"true_pairs": 1, "deranged": 2}
TX_METHODS = [method for method, encoder in METHODS.items() if encoder.uses_tx]
NETWORKS = [method for method, encoder in METHODS.items() if "max_epochs" in encoder().get_params()]
FOLD = 1  # the fold whose test compounds are spoiled
TABLES = ("wells", "consensus", "retrieval", "history")


def make(method):
    return METHODS[method](**(QUICK if method in NETWORKS else {}))


def run(method, folds, controls=DRAWS, **options):
    return crossfit.crossfit_all({method: make(method)}, folds, controls, progress=False, **options)[0][method]


@pytest.fixture(scope="module")
def results(tiny_folds):
    return {method: run(method, tiny_folds) for method in METHODS}


def spoiled_fold(tiny_tables):
    """The same fold prepared again, with garbage in place of its test compounds' profiles of both modalities."""
    *tables, compounds, folds = tiny_tables
    test = folds.loc[folds["fold"] == FOLD, COMPOUND]
    rng = np.random.default_rng(77)
    spoilt = []
    for table in tables:
        table, names = table.copy(), feature_columns(table)
        rows = table[COMPOUND].isin(test)
        wild = 50 * rng.standard_cauchy((rows.sum(), len(names))) + np.linspace(-9, 9, len(names))
        table.loc[rows, names] = wild.astype(np.float32)
        spoilt.append(table)
    return next(one for one in crossfit.prepare_folds(*spoilt, compounds, folds) if one.fold == FOLD)


@pytest.fixture(scope="module")
def spoiled(tiny_tables):
    return spoiled_fold(tiny_tables)


def same_rows(one, other, rows):
    pd.testing.assert_frame_equal(one[rows(one)], other[rows(other)], check_exact=True)


# -------------------------------------------------------------------------------------------------- folds


def test_folds_hold_every_compound_once_and_no_test_compound_in_training(tiny_folds, tiny_tables):
    cp, _, compounds, folds = tiny_tables
    assert [fold.name for fold in tiny_folds] == ["random-0-0", "random-0-1", "random-0-2", "all"]
    for fold in tiny_folds:
        names = fold.cp_wells[COMPOUND].to_numpy()
        test = set(folds.loc[folds["fold"] == fold.fold, COMPOUND])
        assert set(names[fold.is_test]) == test
        assert set(names[fold.is_paired_training]) == set(compounds[COMPOUND]) - test
        assert not (fold.is_paired_training | fold.is_test)[fold.cp_wells[CONTROL]].any()
        assert set(fold.tx_treatments.loc[fold.tx_is_training, COMPOUND]) == set(compounds[COMPOUND]) - test
        assert len(fold.cp) == len(cp)
        assert len(fold.tx) == 2 * len(compounds)
        own = fold.tx_treatments.iloc[fold.partner[fold.is_paired_training]]
        assert (own[COMPOUND].to_numpy() == names[fold.is_paired_training]).all()
        assert (own[DOSE].to_numpy() == fold.cp_wells.loc[fold.is_paired_training, DOSE]).all()
        assert (fold.partner[fold.cp_wells[CONTROL]] == -1).all()
        keys = compound_groups(compounds)
        assert (fold.groups[fold.is_paired_training] == keys.loc[names[fold.is_paired_training]].to_numpy()).all()


def test_features_are_prepared_on_training_wells_alone(tiny_folds, tiny_tables):
    cp, tx, _, folds = tiny_tables
    fold = tiny_folds[0]
    training = cp[COMPOUND].isin(folds.loc[folds["fold"] != 0, COMPOUND])
    expected = FeaturePreparation().fit(cp.loc[training, feature_columns(cp)])
    np.testing.assert_array_equal(fold.cp, expected.transform(cp))
    np.testing.assert_allclose(fold.cp[fold.is_paired_training].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(fold.cp[fold.is_paired_training].std(axis=0), 1, rtol=1e-3)
    # TX: standardised on training wells, then averaged over a treatment's wells.
    genes = feature_columns(tx)
    training = tx[COMPOUND].isin(folds.loc[folds["fold"] != 0, COMPOUND])
    mean, deviation = tx.loc[training, genes].mean(), tx.loc[training, genes].std(ddof=0)
    for row in (0, 17, 100):
        compound, dose = fold.tx_treatments.loc[row, [COMPOUND, DOSE]]
        wells = tx.loc[(tx[COMPOUND] == compound) & (tx[DOSE] == dose), genes]
        np.testing.assert_allclose(fold.tx[row], ((wells - mean) / deviation).mean(), rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------- strict regime


@pytest.mark.parametrize("method", METHODS)
def test_garbage_in_test_compounds_changes_nothing_that_is_fitted(method, tiny_folds, spoiled, results):
    clean = results[method].encoders[f"random-0-{FOLD}"]._arrays()
    dirty_result = run(method, [spoiled])
    dirty = dirty_result.encoders[f"random-0-{FOLD}"]._arrays()
    assert clean.keys() == dirty.keys()
    for name in clean:
        np.testing.assert_array_equal(clean[name], dirty[name], err_msg=name)
    one = results[method]
    consensus = one.consensus[one.consensus["fold"] == FOLD].reset_index(drop=True)
    same_rows(consensus, dirty_result.consensus, lambda table: table["role"] == "train")
    wells = one.wells[one.wells["fold"] == FOLD].reset_index(drop=True)
    same_rows(wells, dirty_result.wells, lambda table: table[CONTROL])
    if method in NETWORKS:
        history = one.history[one.history["fold"] == FOLD].reset_index(drop=True)
        pd.testing.assert_frame_equal(history, dirty_result.history, check_exact=True)
    changed = [embedding_values(table[table["role"] == "test"]) for table in (consensus, dirty_result.consensus)]
    assert not np.allclose(*changed)  # the garbage did arrive where it may


# ------------------------------------------------------------------------------------------------ controls


def labelled_tx(fold):
    """The fold with TX profiles that say which treatment they are of."""
    return replace(fold, tx=np.arange(len(fold.tx), dtype=np.float32)[:, None] * np.ones((1, 3), np.float32))


@pytest.mark.parametrize(("seed", "fold_number"), [(0, 0), (1, 3)])
@pytest.mark.parametrize("control", ["deranged", "deranged_in_plate"])
def test_deranged_pairs_give_each_compound_all_of_one_other(control, seed, fold_number, tiny_folds):
    fold = tiny_folds[fold_number]
    maps = np.array([name < "N" for name in fold.groups]).astype(int)  # the tiny screen has one
    fold = labelled_tx(replace(fold, maps=maps))
    given = crossfit.training_tx(fold, control, seed)[:, 0].astype(int)
    table = fold.cp_wells.loc[fold.is_paired_training, [COMPOUND, DOSE]].set_axis(["compound", "dose"], axis=1)
    donors = fold.tx_treatments.iloc[given]
    table = table.assign(given=donors[COMPOUND].to_numpy(), given_dose=donors[DOSE].to_numpy(), row=given)
    assert (table["compound"] != table["given"]).all()
    assert (table["dose"] == table["given_dose"]).all()
    assert (table.groupby("compound")["given"].nunique() == 1).all()
    assert (table.groupby(["compound", "dose"])["row"].nunique() == 1).all()  # replicates stay together
    partner = table.groupby("compound")["given"].first()
    assert partner.is_unique and set(partner) == set(table["compound"])  # a permutation of the training compounds
    map_of = pd.Series(maps, index=fold.cp_wells[COMPOUND]).groupby(level=0).first()
    across = (map_of[table["given"]].to_numpy() != map_of[table["compound"]].to_numpy()).any()
    assert across == (control == "deranged") and maps[fold.is_paired_training].any()


def test_derangements_within_maps_are_drawn_where_there_are_several(tiny_folds):
    fold = tiny_folds[0]
    maps = (pd.factorize(fold.groups)[0] % 2).astype(int)
    for one, expected in ((fold, ["true_pairs"]), (replace(fold, maps=maps), ["true_pairs", "deranged_in_plate"])):
        drawn = run("ridge_tx", [one], {"true_pairs": 1, "deranged_in_plate": 1}).consensus["control"]
        assert drawn.unique().tolist() == expected


def test_deranged_pairs_respect_compound_groups(tiny_tables):
    cp, tx, compounds, _ = tiny_tables
    rng = np.random.default_rng(0)
    salts = compounds.assign(InChIKey14=rng.permutation(np.repeat([f"KEY{i:02d}" for i in range(24)], 3)))
    group = compound_groups(salts)
    folds = splits.compound_folds(salts, n_folds=3)
    fold = labelled_tx(next(crossfit.prepare_folds(cp, tx, salts, folds)))
    wells = fold.cp_wells.loc[fold.is_paired_training, COMPOUND].map(group).to_numpy()
    assert (fold.groups[fold.is_paired_training] == wells).all()
    for seed in range(5):
        given = crossfit.training_tx(fold, "deranged", seed)[:, 0].astype(int)
        donors = fold.tx_treatments[COMPOUND].map(group).to_numpy()[given]
        assert (donors != wells).all()
        assert pd.DataFrame({"own": wells, "given": donors}).groupby("own")["given"].nunique().eq(1).all()


def test_random_codes_are_one_vector_a_compound(tiny_folds):
    fold = tiny_folds[1]
    codes = crossfit.training_tx(fold, "random_codes", 0)
    compound = fold.cp_wells.loc[fold.is_paired_training, COMPOUND].to_numpy()
    assert codes.shape == (fold.is_paired_training.sum(), fold.tx.shape[1])
    assert codes.dtype == np.float32
    for name in np.unique(compound):
        assert (codes[compound == name] == codes[compound == name][0]).all()
    assert len(np.unique(codes, axis=0)) == len(np.unique(compound))
    other_tx = replace(fold, tx=np.zeros_like(fold.tx))
    np.testing.assert_array_equal(crossfit.training_tx(other_tx, "random_codes", 0), codes)


def test_shuffled_rows_tear_replicates_apart(tiny_folds):
    fold = labelled_tx(tiny_folds[0])
    given = crossfit.training_tx(fold, "rows_shuffled", 0)[:, 0]
    assert sorted(given) == sorted(fold.partner[fold.is_paired_training])
    compound = fold.cp_wells.loc[fold.is_paired_training, COMPOUND].to_numpy()
    assert pd.Series(given).groupby(compound).nunique().median() >= 5  # of six wells


@pytest.mark.parametrize("control", ["deranged", "deranged_in_plate", "rows_shuffled", "random_codes"])
def test_draws_differ_by_seed_and_fold_and_repeat_themselves(control, tiny_folds):
    fold = tiny_folds[3]
    draws = [crossfit.training_tx(fold, control, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    elsewhere = crossfit.training_tx(replace(fold, repeat=1), control, 0)
    assert not np.array_equal(draws[0], elsewhere)


@pytest.mark.parametrize("method", NETWORKS)
def test_untrained_networks_took_no_step_and_differ_by_draw(method, tiny_folds):
    fold = tiny_folds[0]
    np.testing.assert_array_equal(*[crossfit.training_tx(fold, one, 0) for one in ("untrained", "true_pairs")])
    codes = []
    for seed in (0, 0, 1):
        encoder = crossfit.fit_encoder(METHODS[method](**QUICK, seed=seed), fold, "untrained", seed)
        assert encoder.best_epoch_ == 0 and encoder.history_ == []
        codes.append(encoder.transform(fold.cp))
    np.testing.assert_array_equal(codes[0], codes[1])
    assert not np.allclose(codes[0], codes[2])


def test_what_cannot_be_is_refused_in_one_line_before_anything_is_fitted(tiny_folds, monkeypatch):
    monkeypatch.setattr(METHODS["contrastive"], "_fit_cp", None)
    with pytest.raises(ScreenError, match="ContrastiveEncoder: temperature is 0"):
        crossfit.crossfit_all({"contrastive": METHODS["contrastive"](temperature=0.0)}, tiny_folds, DRAWS)
    for share in (0, 1.01):
        with pytest.raises(ScreenError, match="lies above 0 and up to 1"):
            crossfit.fewer_pairs(tiny_folds[0], share, seed=0)


# -------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_are_centred_on_the_controls_and_averaged_dose_by_dose(method, results, tiny_folds):
    result, fold = results[method], tiny_folds[2]
    for _, part in result.wells.groupby(KEYS):
        centre = embedding_values(part[part[CONTROL]]).mean(axis=0)
        np.testing.assert_allclose(centre, 0, atol=1e-4)
    codes = result.encoders[fold.name].transform(fold.cp)
    control = fold.cp_wells[CONTROL].to_numpy()
    codes = codes - codes[control].mean(axis=0)
    first = result.wells.query("fold == 2 and seed == 0 and control in ('', 'true_pairs')")
    np.testing.assert_allclose(embedding_values(first), codes[fold.is_test | control], rtol=1e-4, atol=1e-5)
    consensus = result.consensus.query("fold == 2 and seed == 0 and control in ('', 'true_pairs')").set_index(COMPOUND)
    for compound in consensus.index[::13]:
        rows = (fold.cp_wells[COMPOUND] == compound).to_numpy()
        doses = fold.cp_wells.loc[rows, DOSE].to_numpy()
        means = [codes[rows][doses == dose].mean(axis=0) for dose in np.unique(doses)]
        mine = embedding_values(consensus.loc[[compound]])[0]
        np.testing.assert_allclose(mine, np.mean(means, axis=0), rtol=1e-4, atol=1e-5)


def naive_ranks(encoder, fold, rows):
    """How many TX profiles are nearer to a compound's CP profile than its own, by compound, of those in some wells."""
    names = sorted(set(fold.cp_wells.loc[rows, COMPOUND]))

    def mean_over_doses(table, codes, compound):
        own = (table[COMPOUND] == compound).to_numpy()
        doses = table.loc[own, DOSE].to_numpy()
        return np.mean([codes[own][doses == dose].mean(axis=0) for dose in np.unique(doses)], axis=0)

    cp, tx = encoder.transform(fold.cp).astype(float), encoder.transform_tx(fold.tx).astype(float)
    query = {one: mean_over_doses(fold.cp_wells, cp, one) for one in names}
    target = {one: mean_over_doses(fold.tx_treatments, tx, one) for one in names}
    ranks = {}
    for one in names:
        cosine = {
            other: query[one] @ profile / np.linalg.norm(query[one]) / np.linalg.norm(profile)
            for other, profile in target.items()
        }
        ranks[one] = sum(value > cosine[one] for value in cosine.values())
    return ranks


@pytest.mark.parametrize("method", TX_METHODS)
def test_retrieval_ranks_equal_a_loop(method, results, tiny_folds):
    fold = tiny_folds[0]
    expected = naive_ranks(results[method].encoders[fold.name], fold, fold.is_test)
    retrieval = results[method].retrieval.query("fold == 0 and control == 'true_pairs'").set_index("compound")
    assert retrieval["rank"].to_dict() == expected
    assert (retrieval["n_candidates"] == len(expected)).all()
    for name in np.unique(fold.maps[fold.is_test]):
        within = naive_ranks(results[method].encoders[fold.name], fold, fold.is_test & (fold.maps == name))
        assert retrieval.loc[list(within), "rank_in_map"].to_dict() == within
        assert (retrieval.loc[list(within), "n_in_map"] == len(within)).all()


def test_oracles_are_tx_itself_and_both_blocks_at_equal_weight(results, tiny_folds):
    oracles = crossfit.oracle_consensus(tiny_folds, results["raw_cp"].consensus)
    assert set(oracles) == {"tx", "cp_tx"}
    encoders = results["rcca"].encoders
    encoded = crossfit.oracle_consensus(tiny_folds, results["raw_cp"].consensus, encoders)
    own = encoded["tx_encoded"].query("fold == 2")
    expected = encoders["random-0-2"].transform_tx(embedding_values(oracles["tx"].query("fold == 2")))
    np.testing.assert_allclose(embedding_values(own), expected, rtol=1e-4, atol=1e-5)
    n_genes = tiny_folds[0].tx.shape[1]
    for fold in tiny_folds[:3]:
        tx, both = (table[table["fold"] == fold.fold].set_index(COMPOUND) for table in oracles.values())
        raw = results["raw_cp"].consensus.query("fold == @fold.fold").set_index(COMPOUND)
        assert (tx["role"] == raw["role"].loc[tx.index]).all()
        for compound in tx.index[::11]:
            rows = (fold.tx_treatments[COMPOUND] == compound).to_numpy()
            expected = fold.tx[rows].mean(axis=0)
            np.testing.assert_allclose(embedding_values(tx.loc[[compound]])[0], expected, rtol=1e-4, atol=1e-5)
        values, training = embedding_values(both), (both["role"] == "train").to_numpy()
        for block, source in ((values[:, :-n_genes], raw.loc[both.index]), (values[:, -n_genes:], tx)):
            assert block[training].var(axis=0).sum() == pytest.approx(1, rel=1e-4)
            ratio = block / embedding_values(source)
            np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-3)


def test_chemistry_is_the_fingerprint_of_each_compound_that_has_a_structure(results, tiny_screen):
    compounds, raw = tiny_screen.compounds.copy(), results["raw_cp"].consensus
    compounds.loc[:1, "SMILES"] = ["", "no molecule"]
    table = crossfit.chemistry_consensus(raw, compounds)
    assert len(table) == len(raw) and set(table["method"]) == {"chemistry"}
    unknown = table[COMPOUND].isin(compounds[COMPOUND][:2])
    assert unknown.sum() == 6 and not embedding_values(table[unknown]).any()
    values, smiles = embedding_values(table), table[COMPOUND].map(compounds.set_index(COMPOUND)["SMILES"])
    fingerprint = AllChem.GetMorganFingerprintAsBitVect(MolFromSmiles(smiles.iloc[5]), 2, nBits=1024)
    assert values.shape[1] == 1024 and values[5].tolist() == list(fingerprint)
    assert crossfit.chemistry_consensus(raw, compounds.assign(SMILES="")).empty


# ----------------------------------------------------------------------------------------- several methods


def test_methods_that_a_screen_does_not_allow_are_left_out_with_their_reason(tiny_folds):
    fold = tiny_folds[0]
    first = ~pd.Series(fold.groups).duplicated().to_numpy() | fold.cp_wells[CONTROL].to_numpy()
    only = fold.is_paired_training & first
    single = replace(fold, is_paired_training=only, is_training=only)
    encoders = {"raw_cp": RawCP(), "lda_identity": LdaIdentity(), "ridge_tx": RidgeTX(n_tx_components=4)}
    results, left_out = crossfit.crossfit_all(encoders, [single], {"true_pairs": 1, "deranged": 1})
    assert list(results) == ["raw_cp", "ridge_tx"]
    assert "needs replicates" in left_out["lda_identity"]
    assert not hasattr(encoders["ridge_tx"], "projection_")  # the ones passed in stay unfitted


# --- how much paired data it takes ------------------------------------------------------------------------------


def test_fewer_pairs_take_tx_away_and_leave_methods_without_tx_what_they_are(tiny_folds):
    fold = tiny_folds[FOLD]
    half, tenth = (crossfit.fewer_pairs(fold, share, seed=3) for share in (0.5, 0.1))
    compounds = [set(one.groups[one.is_paired_training]) for one in (fold, half, tenth)]
    assert [len(names) for names in compounds] == [48, 24, 5] and compounds[2] < compounds[1] < compounds[0]
    assert set(half.tx_groups[half.tx_is_training]) == compounds[1]
    np.testing.assert_array_equal(half.is_training, fold.is_training)
    assert not (fold.is_training & (fold.is_test | fold.cp_wells[CONTROL])).any()
    for method in METHODS:
        clean, few = (crossfit.fit_encoder(make(method), one)._arrays() for one in (fold, tenth))
        same = all(np.array_equal(clean[name], few[name]) for name in clean)
        assert same == (method not in TX_METHODS), method
    joint = crossfit.fit_encoder(make("contrastive_joint"), tenth)  # centred on all wells, with TX or without
    np.testing.assert_allclose(joint.cp_mean_, fold.cp[fold.is_training].mean(axis=0), atol=1e-5)


def test_the_data_size_curve_ends_where_the_study_is(tiny_folds, tiny_screen, monkeypatch):
    folds, compounds = tiny_folds[:2], tiny_screen.compounds
    encoders = {"rcca": RegularisedCCA(), "lda_identity": LdaIdentity()}
    names = compounds[COMPOUND].to_numpy()
    labels, _ = bioactivity.label_matrix(tiny_screen.activity, tiny_screen.tasks, names, min_active=8, min_inactive=8)
    labels = labels.iloc[:, :2]
    results, _ = crossfit.crossfit_all(encoders, folds, {"true_pairs": 1, "deranged": 1}, progress=False)
    whole = {kind: {name: getattr(one, kind) for name, one in results.items()} for kind in ("wells", "consensus")}
    curve = partial(crossfit.data_size_curve, encoders, folds, compounds, labels, whole, n_bootstrap=100)
    table = curve(shares=[0.25, 1.0])
    assert set(table["endpoint"]) == set(crossfit.CURVE_ENDPOINTS) and len(table) == 3 * 2 * 3
    assert table.groupby("share")["n_compounds"].first().to_dict() == {0.25: 12, 1.0: 48}
    assert (table["ci_low"] <= table["mean"]).all() and (table["mean"] <= table["ci_high"]).all()
    level = table[table["method"] == "lda_identity"].pivot(index="endpoint", columns="share", values="mean")
    assert (level[0.25] == level[1.0]).all()
    monkeypatch.setattr(crossfit, "fewer_pairs", lambda fold, share, seed: fold)  # all pairs, fitted once more
    again = curve(shares=[0.25])
    values = ["method", "control", "endpoint", "mean", "ci_low", "ci_high"]
    whole_rows = table.loc[table["share"] == 1, values].reset_index(drop=True)
    pd.testing.assert_frame_equal(again[values], whole_rows)


# --- on a cluster ------------------------------------------------------------------------------------------------


def test_a_dask_cluster_gives_the_same_bytes(results, tiny_folds, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    folds, made = [tiny_folds[FOLD]], {}
    settings = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**settings, local_directory=str(tmp_path / "dask")) as cluster:
        monkeypatch.setenv("CPX_SCHEDULER", cluster.scheduler_address)
        crossfit.cluster.cache_clear()
        encoders = {name: make(name) for name in ("rcca", "contrastive")}
        there, left_out = crossfit.crossfit_all(encoders, folds, DRAWS, progress=False)
        crossfit.cluster().close()
        crossfit.cluster.cache_clear()
    for place, fits in (("here", {name: results[name] for name in encoders}), ("there", there)):
        tables = [getattr(fit, kind) for fit in fits.values() for kind in TABLES]
        tables = [table[table["fold"] == FOLD].to_csv(index=False) for table in tables if len(table)]
        for name, fit in fits.items():
            crossfit.save_encoders(fit, folds, tmp_path / place / name)
        saved = {path.relative_to(tmp_path / place): path.read_bytes() for path in (tmp_path / place).rglob("*.*")}
        made[place] = list(fits), tables, saved
    assert made["here"] == made["there"] and left_out == {}
    assert len(made["here"][1]) == 7 and len(made["here"][2]) == 6


def test_a_scheduler_that_does_not_answer_is_said_in_one_line(tiny_folds, monkeypatch):
    pytest.importorskip("distributed")
    crossfit.cluster.cache_clear()
    monkeypatch.setenv("CPX_SCHEDULER", "luck://127.0.0.1:9")
    with pytest.raises(ScreenError, match=r"no Dask scheduler answers at luck://127.0.0.1:9 .* start") as error:
        run("raw_cp", tiny_folds[:1])
    assert "\n" not in str(error.value)
