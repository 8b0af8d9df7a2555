"""What the solutions of the exercises claim, on simulated screens, through the functions that the notebooks call.

One test an exercise, in the order of the notebooks. Numbers that a reader must read off are not in the solutions; what
is asserted here is that they lie where the solution says.
"""

import ast
import inspect
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from study_runs import NOTEBOOKS

from cpx_utils import (
    bioactivity,
    claims,
    clustering,
    crossfit,
    losses,
    newcompounds,
    newplates,
    preprocessing,
    profiles,
    quality,
    simulation,
    splits,
)
from cpx_utils.encoders import (
    AutoencoderEncoder,
    CellCount,
    ContrastiveEncoder,
    LdaIdentity,
    RawCP,
    RegularisedCCA,
    ReplicateCCA,
    RidgeTX,
    SoftContrastiveEncoder,
)
from cpx_utils.metrics import cosine_similarity, retrieval_scores
from cpx_utils.preprocessing import FeaturePreparation
from cpx_utils.profiles import COMPOUND, CONTROL, ScreenError

SMALL_NETWORK = {"n_members": 1, "device": "cpu", "max_epochs": 120}


def cells_that_use(number: str, name: str) -> set[str]:
    """Ids of a notebook's code cells that read a variable."""
    path = next(path for stem, path in NOTEBOOKS.items() if stem.startswith(number))
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return {
        cell.id
        for cell in cells
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
    }


@pytest.fixture(scope="module")
def small():
    """The small simulated screen, which `--profile smoke` runs on, prepared: 240 compounds, three folds."""
    screen = simulation.simulate_screen("small")
    cp, tx = (preprocessing.normalise_plates(table)[0] for table in (screen.cp, screen.tx))
    groups = profiles.compound_groups(screen.compounds)
    folds = splits.compound_folds(screen.compounds, groups, n_folds=3, n_repeats=1, seed=0)
    tables = (cp, tx, screen.compounds, folds)
    return SimpleNamespace(screen=screen, tables=tables, folds=list(crossfit.prepare_folds(*tables)))


@pytest.fixture(scope="module")
def linear(small):
    """Raw CP, ridge and CCA on its folds, ten derangements each."""
    encoders = {"raw_cp": RawCP(), "ridge_tx": RidgeTX(), "rcca": RegularisedCCA()}
    results, _ = crossfit.crossfit_all(encoders, small.folds, {"true_pairs": 1, "deranged": 10}, progress=False)
    return results


def train(encoder, prepared, *controls):
    """Retrieval scores and training curves of one fold, by control."""
    draws = dict.fromkeys(controls or ("true_pairs", "deranged"), 1)
    results, _ = crossfit.crossfit_all({"one": encoder}, [prepared], draws, progress=False)
    return retrieval_scores(results["one"].retrieval).set_index("control"), results["one"].history.set_index("control")


# --- 01 -----------------------------------------------------------------------------------------------------


def test_01_1_without_controls_enough_no_plate_is_normalised(tiny_screen):
    normalised, plates = preprocessing.normalise_plates(tiny_screen.cp, min_controls=1000)
    assert not plates["normalised"].any()
    feature = quality.most_plate_dependent(tiny_screen.cp)
    assert quality.control_values(normalised, feature).equals(quality.control_values(tiny_screen.cp, feature))
    one = tiny_screen.cp.loc[tiny_screen.cp[CONTROL], [feature]].head(1)
    assert preprocessing._spread(one).item() == 0


def test_01_2_features_are_chosen_in_every_fold_and_not_in_notebook_01(small):
    assert cells_that_use("01", "max_correlation") == {"01-saved"}
    usual = [prepared.preparation.features_ for prepared in small.folds]
    stricter = list(crossfit.prepare_folds(*small.tables, max_correlation=0.5))
    for before, prepared in zip(usual, stricter, strict=True):
        assert len(prepared.preparation.features_) < len(before)


def test_01_3_tx_that_shares_nothing_replicates_and_cannot_be_foretold(small):
    other = simulation.simulate_screen("small", shared_strength=0)
    pd.testing.assert_frame_equal(other.cp, small.screen.cp)
    tx, _ = preprocessing.normalise_plates(other.tx)
    assert quality.share_beyond_chance(quality.replicate_correlations(tx)) > 0.15  # by chance 0.1
    found = {}
    for name, tables in (("shared", small.tables), ("nothing shared", (small.tables[0], tx))):
        consensus = [
            preprocessing.consensus(table[profiles.METADATA_COLUMNS], profiles.feature_matrix(table), by="compound")
            for table in tables[:2]
        ]
        found[name] = quality.predictability(np.arcsinh(consensus[0][1]), consensus[1][1])
    assert np.quantile(found["nothing shared"][0], 0.95) <= 0 < np.quantile(found["shared"][0], 0.95)
    assert found["nothing shared"][1] < 0.15 < 0.25 < found["shared"][1]


# --- 02 -----------------------------------------------------------------------------------------------------


def test_02_1_one_derangement_leaves_true_pairs_alone_and_widens_the_control(small, linear):
    encoders = {"ridge_tx": RidgeTX(), "rcca": RegularisedCCA()}
    fewer, _ = crossfit.crossfit_all(encoders, small.folds, {"true_pairs": 1, "deranged": 1}, progress=False)
    tables = {}
    for name, results in (("ten", linear), ("one", fewer)):
        scores = retrieval_scores(pd.concat([results[method].retrieval for method in encoders], ignore_index=True))
        tables[name] = claims.intervals(scores, "near", n_bootstrap=500).set_index(["method", "control"])
    for method in encoders:
        assert tables["ten"]["mean"][method, "true_pairs"] == tables["one"]["mean"][method, "true_pairs"]
        width = {name: table["ci_high"] - table["ci_low"] for name, table in tables.items()}
        assert width["one"][method, "deranged"] > 1.2 * width["ten"][method, "deranged"]


def test_02_2_no_fold_lets_cca_keep_the_variances(small):
    for prepared in small.folds:
        _, table = crossfit.choose(RegularisedCCA(), {"shrinkage": [0.0, 0.3, 1.0]}, prepared)
        none, some, all_of_it = table["value"]
        assert all_of_it > max(none, some) + 0.02 and abs(none - some) < 0.03
        assert not table["chosen"].iloc[2]


def test_02_3_in_one_dimension_a_cosine_tells_two_heaps_apart_and_no_more(small):
    for encoder, name in ((LdaIdentity(), "n_components"), (ReplicateCCA(), "n_dimensions")):
        one, twenty = crossfit.choose(encoder, {name: [1, 20]}, small.folds[0])[1]["value"]
        assert one < 0.03 and twenty > 0.2
    counts = CellCount().fit(small.folds[0].cp).transform(small.folds[0].cp[:50])
    assert set(cosine_similarity(counts, counts).round(6).ravel()) == {-1.0, 1.0}


# --- 03 -----------------------------------------------------------------------------------------------------


def test_03_1_the_temperature_sets_how_low_the_loss_can_fall(small):
    last = {}
    for temperature in (0.1, 1.0):
        _, history = train(ContrastiveEncoder(temperature=temperature, **SMALL_NETWORK), small.folds[0], "true_pairs")
        last[temperature] = history["training"].iloc[-1]
    n_watched = round(0.15 * 160)  # of the fold's training compounds
    floor = np.log(1 + (n_watched - 1) * np.exp(-2))
    assert floor < last[1.0] < np.log(n_watched)
    assert last[0.1] < last[1.0] - 0.5
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # two pairs can lie as far apart as cosines go
    assert losses.info_nce(opposite, opposite, 1.0).item() == pytest.approx(np.log(1 + np.exp(-2)), abs=1e-6)


def test_03_2_soft_targets_of_softness_0_are_info_nce(tiny_folds):
    grid = {"temperature": [0.3, 1.0], "input_noise": [0.5, 1.0]}
    encoders = {"contrastive": ContrastiveEncoder(**SMALL_NETWORK)}
    encoders["contrastive_soft"] = SoftContrastiveEncoder(softness=0.0, **SMALL_NETWORK)
    options = {"grids": dict.fromkeys(encoders, grid), "n_candidates": 3, "progress": False}
    results, _ = crossfit.crossfit_all(encoders, tiny_folds[:1], {"true_pairs": 1, "deranged": 1}, **options)
    for name in ("wells", "consensus", "retrieval", "history", "choices"):
        one, other = (getattr(result, name).drop(columns="method") for result in results.values())
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_03_3_without_noise_training_compounds_are_learned_by_heart(small):
    gap = {}
    for noise in (0.0, 2.0):
        encoder = ContrastiveEncoder(temperature=0.3, input_noise=noise, **SMALL_NETWORK)
        _, history = train(encoder, small.folds[0], "true_pairs")
        gap[noise] = history["validation"].iloc[-1] - history["training"].iloc[-1]
    assert gap[0.0] > gap[2.0] + 0.2


# --- 04 -----------------------------------------------------------------------------------------------------


def lowest_errors(history):
    return history.groupby("control")["validation"].min()


def test_04_1_a_loss_that_is_about_cp_says_little_of_pairs(small):
    share_of_tx = {}
    for weight in (0.3, 100.0):
        _, history = train(AutoencoderEncoder(cp_weight=weight, **SMALL_NETWORK), small.folds[0])
        # The error of TX is about 1 for codes that know nothing of it, so pairs can't change more than this share.
        share_of_tx[weight] = 1 / lowest_errors(history).min()
    assert share_of_tx[0.3] > 0.5 and share_of_tx[100.0] < 0.05


def test_04_2_an_encoder_of_tx_that_is_never_used_stays_as_it_was_drawn(small):
    scores, history = train(AutoencoderEncoder(tx_dropout=1.0, **SMALL_NETWORK), small.folds[0])
    assert 0.4 < scores.loc["true_pairs", "rank_share"].mean() < 0.6
    assert lowest_errors(history)["true_pairs"] < 0.9 * history.loc["true_pairs", "validation"].iloc[0]
    weights = []
    for epochs in (0, 30):
        encoder = AutoencoderEncoder(tx_dropout=1.0, validation_share=0.0, **SMALL_NETWORK | {"max_epochs": epochs})
        fitted = crossfit.fit_encoder(encoder, small.folds[0]).networks_[0].state_dict()
        weights.append({name: value for name, value in fitted.items() if name.startswith("encode_")})
    turned = {
        name: torch.nn.functional.cosine_similarity(*(one[name].flatten() for one in weights), dim=0).item()
        for name in weights[0]
        if name.endswith("weight")
    }  # weight decay may shrink what is never used, but not turn it
    assert {name.split(".")[0]: value > 0.9999 for name, value in turned.items()} == {"encode_cp": False,
                                                                                     "encode_tx": True}  # fmt: skip


def test_04_3_a_code_that_could_always_lean_on_tx_does_worse_without(small):
    errors = {}
    for share in (0.0, 0.9):
        encoder = AutoencoderEncoder(tx_dropout=share, cp_weight=0.3, **SMALL_NETWORK)
        errors[share] = lowest_errors(train(encoder, small.folds[0], "true_pairs")[1])["true_pairs"]
    assert errors[0.0] > 1.02 * errors[0.9]


# --- 05 -----------------------------------------------------------------------------------------------------


def test_05_1_ten_permutations_find_nothing(small, linear):
    first = linear["rcca"].consensus.query("fold == 0 and control == 'true_pairs'")
    found = {n_null: clustering.found_by_fold([first], small.screen.compounds, n_null=n_null) for n_null in (10, 500)}
    assert found[10]["p_value"].min() >= 1 / 11 and found[10]["found"].max() == 0
    assert found[500]["found"].max() == 1
    wells = linear["rcca"].wells.query("fold == 0 and control == 'true_pairs'")
    few = clustering.found_by_fold([wells], n_null=10)
    assert few["p_value"].min() >= 1 / 11 and few["found"].max() == 0


def test_05_2_another_seed_moves_intervals_and_no_value(small, linear):
    moa, _ = clustering.moa_clustering_by_fold(linear["rcca"].consensus.query("seed == 0"), small.screen.compounds)
    one, other = (claims.intervals(moa, "average_precision", n_bootstrap=300, seed=seed) for seed in (0, 1))
    assert one["mean"].equals(other["mean"])
    assert (one["ci_low"] != other["ci_low"]).all() and (one["ci_low"] - other["ci_low"]).abs().max() < 0.03
    assert "seed" not in inspect.signature(clustering.replicate_clustering_by_fold).parameters


def test_05_3_the_number_of_neighbours_is_the_maps_alone():
    assert cells_that_use("05", "n_neighbours") == {"05-map"}
    assert "n_neighbours" in inspect.signature(clustering.umap_of_test_compounds).parameters
    assert "n_neighbours" not in inspect.signature(clustering.nearest_test_compounds).parameters


# --- 06 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predicted(small, linear):
    """Test predictions of raw CP, CCA and the oracle for all tasks, and a half of the compounds."""
    consensus = [linear["raw_cp"].consensus, linear["rcca"].consensus.query("seed < 2")]
    consensus.append(crossfit.oracle_consensus(small.folds, consensus[0])["tx"])
    names = small.screen.compounds[COMPOUND].to_numpy()
    labels, _ = bioactivity.label_matrix(small.screen.activity, small.screen.tasks, names)
    predictions = bioactivity.join_predictions([bioactivity.predict_folds(table, labels) for table in consensus])
    halves = [pd.Series(splits.halves(names, seed), index=names) for seed in (0, 1)]
    return SimpleNamespace(table=predictions, halves=halves)


def measured_both_ways(predicted, half=0, **choice):
    chosen = bioactivity.chosen_gains(predicted.table, predicted.halves[half], n_bootstrap=50, **choice)
    return chosen.pivot_table(index=["method", "control"], columns="how", values="mean")


def test_06_1_where_nothing_is_chosen_nothing_regresses_to_the_mean(predicted):
    every = measured_both_ways(predicted, tx_min=0, margin=-1)
    assert len(every) == 3
    np.testing.assert_allclose(every["other half"], every["same compounds"], atol=1e-12)
    some = measured_both_ways(predicted, tx_min=0.55, margin=0.02)
    assert (some["same compounds"] - some["other half"]).min() > 0.01


def test_06_2_tasks_without_actives_enough_make_two_claims_untestable(small, predicted):
    assert cells_that_use("06", "min_active") == {"06-tasks", "06-learn"}
    none = predicted.table[predicted.table["task"].isin([])]
    assert len(bioactivity.chosen_gains(none, predicted.halves[0])) == 0
    endpoints = claims.bootstrap_endpoints(predictions=none, tasks=small.screen.tasks, n_bootstrap=20)
    table = claims.weigh_claims("small", endpoints)
    assert set(table.loc[table["claim"].isin([1, 4]), "verdict"]) == {"not testable"}


def test_06_3_chance_enters_where_compounds_are_halved_or_resampled_and_nowhere_else(small, predicted):
    assert cells_that_use("06", "seed") == {"06-forest", "06-halves", "06-families"}
    one, other = (measured_both_ways(predicted, half, tx_min=0.55, margin=0.02) for half in (0, 1))
    assert (one["other half"] != other["other half"]).all()
    options = {"tasks": small.screen.tasks, "not_testable": {1: "not asked here"}, "n_bootstrap": 50}
    families = [
        claims.interval_rows([claims.bootstrap_endpoints(predictions=predicted.table, seed=seed, **options)[4]])
        for seed in (0, 1)
    ]
    assert families[0]["mean"].equals(families[1]["mean"])
    assert (families[0]["ci_low"] != families[1]["ci_low"]).any()


# --- 07 -----------------------------------------------------------------------------------------------------


def test_07_1_the_smallest_gain_that_matters_parts_inconclusive_from_not_supported_only():
    rng = np.random.default_rng(0)
    changed = set()
    for _ in range(2000):
        effects, errors = rng.normal(0, 0.1, 4), rng.uniform(0.01, 0.1, 4)
        contest = {
            name: claims.Comparison(effect, effect - 2 * error, effect + 2 * error, error, 0.01)
            for name, effect, error in zip(("raw", "best", "lda", "deranged"), effects, errors, strict=True)
        }
        usual, large = (claims.verdict(contest, 0.01, smallest_effect=size).verdict for size in (0.02, 0.5))
        if usual != large:
            changed.add((usual, large))
    assert changed == {("inconclusive", "not supported")}


def test_07_2_twenty_resamples_support_nothing():
    clear = claims.summarise_bootstrap(np.full(21, 0.3) + np.linspace(0, 0.01, 21))
    assert clear.ci_low > 0 and clear.p_value == pytest.approx(2 / 21)
    contest = dict.fromkeys(("raw", "best", "deranged"), clear)
    ruled = claims.verdict(contest, clear.p_in_favour, smallest_effect=0.02)
    assert ruled.verdict == "inconclusive" and "does not survive Holm's correction" in ruled.reason
    enough = claims.summarise_bootstrap(np.full(2001, 0.3) + np.linspace(0, 0.01, 2001))
    contest = dict.fromkeys(("raw", "best", "deranged"), enough)
    assert claims.verdict(contest, enough.p_value, smallest_effect=0.02).verdict == "supported"


def test_07_3_another_primary_method_moves_verdicts_and_no_effect(small, linear):
    parts = [clustering.moa_clustering_by_fold(one.consensus, small.screen.compounds)[0] for one in linear.values()]
    moa = pd.concat(parts, ignore_index=True)
    endpoints = claims.bootstrap_endpoints(moa_per_compound=moa, n_bootstrap=200)
    kept = ["claim", "method", "reference", "effect", "ci_low", "ci_high"]
    tables = [
        claims.weigh_claims("small", endpoints, primary=name).query("claim == 3") for name in ("rcca", "ridge_tx")
    ]
    one, other = (table[kept].sort_values(kept[:3], ignore_index=True) for table in tables)
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert [table.loc[table["verdict"] != "", "method"].tolist() for table in tables] == [["rcca"], ["ridge_tx"]]


# --- 08 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsal(small, linear, tmp_path_factory):
    """What notebook 08 makes of a rehearsal with a share of features hidden, embedded by CCA."""
    folder = tmp_path_factory.mktemp("models")
    crossfit.save_encoders(linear["rcca"], small.folds, folder)
    cp, _, compounds, folds = small.tables
    first = folder / small.folds[0].name

    def play(hidden):
        new, held_out, played = newcompounds.rehearsal(cp, folds, hidden=hidden)
        library = profiles.wells_of(cp, folds.loc[folds["fold"] != 0, COMPOUND].tolist())
        asked = FeaturePreparation.load(first / "preparation.json").features_
        checked = newplates.check_features(new, library, asked)
        encoder = newplates.load_plate_encoder(first, new, library)
        parts = {"new": new, "library": library, "checked": checked, "encoder": encoder}
        return SimpleNamespace(held_out=held_out, played=played, compounds=compounds, cp=cp, **parts)

    return play


def test_08_1_with_most_features_hidden_it_refuses_and_insisting_costs_fidelity(rehearsal):
    little, much = rehearsal(0.1), rehearsal(0.6)
    assert newplates.require_features(little.checked, "the rehearsal", 0.2)
    with pytest.raises(ScreenError, match=r"\d+ of \d+ features that the encoder was trained on are missing"):
        newplates.require_features(much.checked, "the rehearsal", 0.2)
    assert newplates.require_features(much.checked, "the rehearsal", 0.7)
    kept = [newplates.gap_fidelity(one.encoder, one.library) for one in (much, little)]
    assert kept[0] < kept[1] - 0.02


def test_08_2_more_confidence_leaves_more_classes_in_a_call(small, rehearsal):
    played = rehearsal(0.1)
    _, codes = newcompounds.embed_compounds(played.new, played.library, played.encoder)
    assert len(codes) == len(played.played)
    reference = newcompounds.make_reference(
        played.new, played.cp, played.compounds, played.held_out, played.encoder, left_out=played.played
    )
    new = sorted(played.played)
    calls = {}
    for confidence in (0.8, 0.95):
        table = newcompounds.predict_activities(
            new, [reference], small.screen.activity, small.screen.tasks, confidence=confidence
        )
        calls[confidence] = table["call"]
    before, after = calls.values()
    flipped = {("active", "inactive"), ("inactive", "active")}
    assert not flipped & set(zip(before, after, strict=True))
    assert set(after[before == "undecided"]) == {"undecided"}
    assert (after == "undecided").sum() > (before == "undecided").sum()
    known = table.assign(before=before, after=after).merge(
        small.screen.activity.rename(columns={COMPOUND: "compound"}), on=["compound", "task"]
    )
    truly = known[known["active"] == 1]
    kept = [(~truly[name].isin(["inactive", "neither"])).mean() for name in ("before", "after")]
    assert kept[1] > kept[0]


def test_08_3_the_false_discovery_rate_decides_what_is_called_and_no_p(rehearsal):
    played = rehearsal(0.1)
    strict, lax = (
        newcompounds.treatment_activity(played.new, played.library, played.encoder, fdr=fdr) for fdr in (0.05, 0.2)
    )
    assert strict["p_value"].equals(lax["p_value"]) and strict["q_value"].equals(lax["q_value"])
    assert lax["active"][strict["active"]].all() and lax["active"].sum() > strict["active"].sum() > 0
