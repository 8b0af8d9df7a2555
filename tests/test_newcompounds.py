"""Calls about new compounds: against naive loops, planted answers, and the null that each p-value states."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from cpx_utils import newcompounds, newplates
from cpx_utils.encoders import RawCP
from cpx_utils.newcompounds import Reference
from cpx_utils.newplates import GapFilling, PlateEncoder
from cpx_utils.preprocessing import FeaturePreparation
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, METADATA_COLUMNS, PLATE, WELL, feature_columns, wells_of


def not_above(found: int, n: int, rate: float) -> bool:
    """Whether a count is one that draws at this rate give: exact binomial, one-sided, 1%."""
    return binomtest(int(found), n, rate, alternative="greater").pvalue > 0.01


# --- activity -----------------------------------------------------------------------------------------------


def plate_wells(rng, n_plates, n_controls, treatments, n_features=12):
    """Correlated, heavy-tailed wells in units of their own for each plate; treatments differ by nothing."""
    loadings = rng.normal(size=(4, n_features))
    names = [f"Cells_F{number:02d}" for number in range(n_features)]
    tables = []
    for plate in range(n_plates):
        compounds = ["DMSO"] * n_controls + list(treatments)
        noise = rng.normal(size=(len(compounds), 4)) @ loadings + 0.5 * rng.normal(size=(len(compounds), n_features))
        values = np.sinh(0.5 * noise) * rng.uniform(0.2, 5, n_features) + rng.normal(0, 9, n_features)
        metadata = pd.DataFrame({
            PLATE: f"P{plate}", WELL: [f"W{row}" for row in range(len(compounds))], COMPOUND: compounds, DOSE: np.nan,
            CONTROL: [name == "DMSO" for name in compounds],
        })  # fmt: skip
        tables.append(pd.concat([metadata, pd.DataFrame(values, columns=names)], axis=1))
    return pd.concat(tables, ignore_index=True)


def taming(wells):
    return np.arcsinh(wells.to_numpy())


@pytest.mark.parametrize(("n_plates", "n_controls", "per_plate"), [(2, 5, 1), (1, 16, 3)])
def test_dmso_only_wells_are_called_active_no_more_often_than_stated(n_plates, n_controls, per_plate):
    p_values, any_called, n_draws = [], 0, 200
    for draw in range(n_draws):
        rng = np.random.default_rng([draw, n_plates])
        wells = plate_wells(rng, n_plates, n_controls, [f"c{number}" for number in range(4)] * per_plate)
        calls = newcompounds.activity_calls(wells, feature_columns(wells), taming, n_null=200, seed=draw)
        p_values.append(calls["p_value"].to_numpy(float))
        any_called += calls["active"].any()
    assert not_above(any_called, n_draws, 0.05)
    p_values = np.concatenate(p_values)
    for level in (0.05, 0.2, 0.5):  # and p is uniform, not merely large
        found = (p_values <= level).sum()
        assert not_above(found, len(p_values), level)
        assert found > 0.6 * level * len(p_values)


def test_controls_of_a_screen_that_pose_as_compounds_are_not_called(tiny_screen, tiny_tables):
    """The same through preparation and encoder, on wells with plate, position and tails of the simulated screen."""
    library = tiny_tables[0]
    features = feature_columns(library)
    preparation = FeaturePreparation().fit(library.loc[~library[CONTROL], features])
    encoder = PlateEncoder(GapFilling(preparation), RawCP().fit(np.zeros((3, len(preparation.features_)))))
    controls = tiny_screen.cp[tiny_screen.cp[CONTROL]].reset_index(drop=True)
    p_values, any_called, n_draws = [], 0, 60
    for draw in range(n_draws):
        rng = np.random.default_rng([draw, 9])
        wells = controls.copy()
        place = wells.groupby(PLATE).cumcount().sample(frac=1, random_state=rng).groupby(wells[PLATE]).cumcount()
        posing = place < 3  # three wells a plate
        wells.loc[posing, COMPOUND] = "posing " + place[posing].astype(str)
        wells.loc[posing, CONTROL] = False
        calls = newcompounds.treatment_activity(wells, library, encoder, n_null=200, seed=draw)
        assert len(calls) == 3 and (calls["n_plates"] == wells[PLATE].nunique()).all()
        p_values.append(calls["p_value"].to_numpy(float))
        any_called += calls["active"].any()
    assert not_above(any_called, n_draws, 0.05)
    assert not_above((np.concatenate(p_values) <= 0.05).sum(), 3 * n_draws, 0.05)


def test_what_differs_is_called_and_the_p_equals_counting_by_hand():
    rng = np.random.default_rng(5)
    wells = plate_wells(rng, 3, 12, ["strong", "weak", "opposed"])
    features = feature_columns(wells)
    scale = wells.groupby(PLATE)[features].transform("std").to_numpy()
    shift = np.where((wells[COMPOUND] == "strong").to_numpy()[:, None], 4.0, 0.0)
    turned = (wells[COMPOUND] == "opposed").to_numpy() * np.where(wells[PLATE] == "P0", 6.0, -3.0)
    wells[features] += (shift + turned[:, None]) * scale
    calls = newcompounds.activity_calls(wells, features, taming, n_null=1000).set_index("treatment")
    assert calls["active"].to_dict() == {"opposed": False, "strong": True, "weak": False}
    assert calls.loc["strong", "distance"] > 2 > 1.7 > calls.loc["weak", "distance"]
    # One well among few controls: there are six arrangements, and each can be looked at.
    one = wells[(wells[PLATE] == "P0") & (wells[CONTROL] | (wells[COMPOUND] == "weak"))]
    one = pd.concat([one[one[CONTROL]].head(5), one[~one[CONTROL]]], ignore_index=True)
    values = one[features].to_numpy()
    centred = values - np.median(values, axis=0)
    points = np.arcsinh(centred / (1.4826 * np.median(np.abs(centred), axis=0)))
    lengths = [((points[row] - np.delete(points, row, axis=0).mean(0)) ** 2).sum() for row in range(6)]
    expected = np.mean(np.array(lengths) >= lengths[-1] * (1 - 1e-9))
    row = newcompounds.activity_calls(one, features, taming, n_null=20_000).iloc[0]
    assert row["p_value"] == pytest.approx(expected, abs=0.02) and row["smallest_p"] == pytest.approx(1 / 6)


def test_no_p_is_smaller_than_the_smallest_that_is_possible():
    wells = plate_wells(np.random.default_rng(3), 2, 6, ["a"])
    features = feature_columns(wells)
    wells.loc[~wells[CONTROL], features] += 90
    calls = [newcompounds.activity_calls(wells, features, taming, n_null=60, seed=seed).iloc[0] for seed in range(20)]
    assert {row["smallest_p"] for row in calls} == {1 / 7**2}
    # 60 draws of 49 arrangements may miss the one that was observed; p is 1 / 49 then, not 1 / 61.
    assert min(row["p_value"] for row in calls) == 1 / 7**2


def test_treatments_without_controls_are_not_tested_and_say_so():
    wells = plate_wells(np.random.default_rng(0), 2, 4, ["a", "b"])
    wells = wells[~((wells[PLATE] == "P1") & wells[CONTROL])]
    wells = wells[~((wells[PLATE] == "P0") & (wells[COMPOUND] == "b"))].reset_index(drop=True)
    calls = newcompounds.activity_calls(wells, feature_columns(wells), taming, n_null=50).set_index("treatment")
    assert calls.loc["a", "n_plates"] == 1 and calls.loc["a", "p_value"] > 0
    assert np.isnan(calls.loc["b", "p_value"]) and not calls.loc["b", "active"]
    assert "no negative controls" in calls.loc["b", "reason"]


def test_the_metric_whitens_the_noise_between_replicates():
    rng = np.random.default_rng(1)
    names = np.repeat([f"c{number}" for number in range(300)], 4)
    noise = rng.normal(size=(1200, 3)) @ np.array([[2.0, 1, 0], [0, 0.5, 0], [0, 0, 3]])
    codes = np.repeat(rng.normal(0, 10, size=(300, 3)), 4, axis=0) + noise
    wells = pd.DataFrame({COMPOUND: names, DOSE: np.nan, CONTROL: False})
    metric = newcompounds.library_metric(wells, codes)
    whitened = np.cov((noise @ metric).T)
    assert whitened / whitened[0, 0] == pytest.approx(np.eye(3), abs=0.3) and 1 < whitened[0, 0] < 1.6
    alone = newcompounds.library_metric(wells.assign(**{COMPOUND: np.arange(1200).astype(str)}), codes)
    assert np.cov((codes @ alone).T) == pytest.approx(np.eye(3), abs=0.1)


def test_what_all_treated_wells_share_is_no_activity():
    """Handling moves every treated well of library and plate alike; only one compound does more."""
    rng = np.random.default_rng(2)
    handling = rng.normal(size=12)
    library = plate_wells(rng, 3, 40, [f"L{number:02d}" for number in range(80)])
    features = feature_columns(library)
    codes = rng.normal(size=(len(library), 12)) + np.outer(~library[CONTROL], handling)
    metric = newcompounds.library_metric(library, codes)
    wells = plate_wells(rng, 3, 40, [f"c{number}" for number in range(8)])
    values = rng.normal(size=(len(wells), 12)) + np.outer(~wells[CONTROL], handling)
    values[(wells[COMPOUND] == "c3").to_numpy()] += 3 * np.roll(handling, 3)
    wells[features] = values
    plain = newcompounds.activity_calls(wells, features, lambda table: table.to_numpy())
    blind = newcompounds.activity_calls(wells, features, lambda table: table.to_numpy() @ metric).set_index("treatment")
    assert plain["active"].all()
    assert blind["active"]["c3"] and blind["active"].sum() <= 2


# --- resemblance --------------------------------------------------------------------------------------------


def compounds_of(prefix, mechanism):
    names = [f"{prefix}{row:03d}" for row in range(len(mechanism))]
    return pd.DataFrame({COMPOUND: names, "MoA": [[f"m{one}"] for one in mechanism], "group": names})


def planted_reference(rng, new_mechanism, noise=0.4, n_mechanisms=6):
    """Library, held-out and new compounds around the centres of mechanisms; a new one of -1 has a centre of its own."""
    centres = rng.normal(size=(n_mechanisms, 8))
    sides = [np.arange(60) % n_mechanisms, np.arange(90) % n_mechanisms]
    codes = [centres[side] + noise * rng.normal(size=(len(side), 8)) for side in sides]
    own = [centres[one] if one >= 0 else rng.normal(size=8) for one in new_mechanism]
    new = np.stack(own) + noise * rng.normal(size=(len(own), 8))
    library, held_out = compounds_of("L", sides[0]), compounds_of("H", sides[1])
    return Reference(library, held_out, codes[0], codes[1], new, codes[0], codes[1], new)


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_mechanism_scores_and_p_equal_a_naive_loop():
    reference = planted_reference(np.random.default_rng(0), [0, 1, 2, -1])
    ranked = newcompounds.nearest_mechanisms(list("abcd"), [reference], n_neighbours=3)
    assert len(ranked) == 4 * 6 and ranked["compound"].tolist() == list(np.repeat(list("abcd"), 6))
    library = reference.library

    def score(code, mechanism):
        members = [row for row in range(60) if mechanism in library["MoA"][row]]
        return np.mean(sorted(cosine(code, reference.library_codes[row]) for row in members)[-3:])

    names = [f"m{number}" for number in range(6)]
    within = {name: [score(code, name) for code in reference.library_codes] for name in names}

    def evidence(code, name, own=()):
        """In units of library compounds that lack the mechanism, and share none with the compound itself."""
        others = [row for row in range(60) if not {name, *own} & set(library["MoA"][row])]
        usual = [within[name][row] for row in others]
        return (score(code, name) - np.mean(usual)) / np.std(usual)

    row = ranked[(ranked["compound"] == "b") & (ranked["mechanism"] == "m4")].iloc[0]
    mine = evidence(reference.new_codes[1], "m4")
    assert row["score"] == pytest.approx(score(reference.new_codes[1], "m4"), abs=1e-6)
    assert row["evidence"] == pytest.approx(mine, abs=1e-5)
    held_out = list(zip(reference.held_out_codes, reference.held_out["MoA"], strict=True))
    pair = [evidence(code, "m4", own) for code, own in held_out if "m4" not in own]
    best = [max(evidence(code, name, own) for name in names if name not in own) for code, own in held_out]
    assert row["p_value"] == pytest.approx((1 + np.sum(np.array(pair) >= mine)) / (1 + len(pair)))
    assert row["p_adjusted"] == pytest.approx((1 + np.sum(np.array(best) >= mine)) / (1 + len(best)))
    assert row["p_adjusted"] >= row["p_value"] and row["n_compounds"] == 10


def test_planted_mechanisms_come_first_and_a_foreign_one_is_not_called():
    reference = planted_reference(np.random.default_rng(3), [0, 1, 2, 3, 4, 5, *[-1] * 6], noise=0.25)
    names = [f"N{number:02d}" for number in range(12)]
    ranked = newcompounds.nearest_mechanisms(names, [reference, reference])
    first = ranked[ranked["rank"] == 1]
    assert first["mechanism"].head(6).tolist() == [f"m{number}" for number in range(6)]
    assert first["q_value"].head(6).median() < 0.1 < first["q_value"].tail(6).median()
    # Six mechanisms are few: whatever a foreign compound looks like, it can't be beyond all doubt.
    assert (
        first["p_foreign"].min() >= 1 / 7 - 1e-9 and (ranked["p_foreign"] >= ranked["p_adjusted"] - 1e-9).mean() > 0.5
    )
    assert ranked.loc[ranked["rank"] > 1, "q_value"].isna().all()
    truth = pd.DataFrame({COMPOUND: names[:6], "MoA": [[f"m{number}"] for number in range(6)]})
    known = newcompounds.is_known_mechanism(ranked, truth)
    assert np.array_equal(
        known, (ranked["mechanism"].str[1:] == ranked["compound"].str[2:]) & ranked["compound"].lt("N06")
    )
    found = newcompounds.mechanisms_found(ranked, truth, within=2)
    assert (found["found"] == 1).all() and found["chance"].to_numpy() == pytest.approx(2 / 6)
    both = truth.assign(MoA=[["m0", "m1"]] * 6)
    chance = newcompounds.mechanisms_found(ranked, both, within=2)["chance"].iloc[0]
    assert chance == pytest.approx(1 - (4 / 6) * (3 / 5))
    near = newcompounds.nearest_compounds(names, [reference])
    near = near[near["rank"] == 1].set_index("compound")
    assert near["MoA"].head(6).tolist() == [f"m{number}" for number in range(6)]


def test_p_of_compounds_that_resemble_nothing_is_uniform():
    """Mechanisms whose labels mean nothing: new compounds are held-out ones, and every call is an error."""
    smallest, nearest, farther = [], [], []
    for draw in range(60):
        rng = np.random.default_rng([draw, 4])
        tables = [compounds_of(prefix, rng.integers(5, size=n)) for prefix, n in (("L", 40), ("H", 39))]
        codes = [rng.standard_t(4, size=(n, 6)) for n in (40, 39, 5)]
        names = [f"N{number}" for number in range(5)]
        # A new compound may have any of the mechanisms; its own, one in five, is not asked about.
        reference = Reference(*tables, *codes, *codes)
        ranked = newcompounds.nearest_mechanisms(names, [reference])
        own = rng.integers(5, size=5)
        wrong = ranked[
            ranked["mechanism"] != ranked["compound"].map(dict(zip(names, [f"m{one}" for one in own], strict=True)))
        ]
        smallest.append(wrong.groupby("compound")["p_adjusted"].min().to_numpy())
        near = newcompounds.nearest_compounds(names, [reference])
        shares = near["MoA"] == near["compound"].map(dict(zip(names, [f"m{one}" for one in own], strict=True)))
        nearest.append(near[~shares].groupby("compound")["p_value"].min().to_numpy())
        farther.append(newcompounds.library_distance(names, [reference])["share_farther"].to_numpy())
    for values in (smallest, nearest, farther):
        values = np.concatenate(values)
        for level in (0.05, 0.1, 0.3):
            found = (values <= level + 1e-9).sum()
            # Five new compounds share their ruler, so the count varies more than independent draws would.
            assert abs(found / len(values) - level) < 4 * np.sqrt(level * (1 - level) / len(values)) + 0.01


def test_compounds_of_a_mechanism_that_the_library_lacks_are_judged_by_mechanisms_not_by_their_number():
    """30 mechanisms of one centre each; every new compound has a centre of its own, so every call is an error."""
    adjusted, foreign = [], []
    for draw in range(60):
        rng = np.random.default_rng([draw, 8])
        reference = planted_reference(rng, [-1] * 3, noise=0.3, n_mechanisms=30)
        ranked = newcompounds.nearest_mechanisms(list("abc"), [reference])
        best = ranked[ranked["rank"] == 1]
        adjusted.append(best["p_adjusted"].to_numpy())
        foreign.append(best["p_foreign"].to_numpy())
    foreign, adjusted = np.concatenate(foreign), np.concatenate(adjusted)
    for level in (0.05, 0.1, 0.3):
        assert not_above((foreign <= level).sum(), len(foreign), level)
    assert (adjusted <= 0.02).mean() > (foreign <= 0.02).mean()


def test_a_library_without_mechanisms_ranks_none():
    reference = planted_reference(np.random.default_rng(1), [0, 1])
    bare = [table.assign(MoA=[[] for _ in range(len(table))]) for table in (reference.library, reference.held_out)]
    values = [getattr(reference, name) for name in list(reference.__dataclass_fields__)[2:]]
    ranked = newcompounds.nearest_mechanisms(["a", "b"], [Reference(*bare, *values)])
    assert len(ranked) == 0 and {"score", "q_value", "mechanism"} <= set(ranked)
    assert len(newcompounds.mechanisms_found(ranked, bare[0], within=5)) == 0
    near = newcompounds.nearest_compounds(["a", "b"], [Reference(*bare, *values)], n_nearest=4)
    assert len(near) == 8 and set(near["MoA"]) == {""} and near["p_value"].between(0, 1).all()


def test_a_strange_compound_is_far_from_the_library():
    reference = planted_reference(np.random.default_rng(2), [*range(6), 0])
    reference.new_profiles[-1] += 30
    distances = newcompounds.library_distance([f"N{number}" for number in range(7)], [reference], fdr=0.1)
    assert distances["strange"].tolist() == [False] * 6 + [True]
    assert distances["share_farther"].iloc[-1] == pytest.approx(1 / 91)
    assert distances["library_distance"].iloc[-1] > 5 > 2 > distances["library_distance"].head(6).max()


# --- predicted activities -----------------------------------------------------------------------------------


def outcome_reference(rng, n_new=150):
    """Codes, and outcomes of three tasks of which two can be learned a little and one can't."""
    sizes = (200, 150, n_new)
    codes = [rng.normal(size=(n, 8)) for n in sizes]
    logits = [np.stack([2 * x[:, 0] - 1, 1.2 * x[:, 1], 0 * x[:, 0] - 0.8], axis=1) for x in codes]
    outcomes = [rng.random(one.shape) < 1 / (1 + np.exp(-one)) for one in logits]
    tables = [compounds_of(prefix, np.zeros(n, int)) for prefix, n in (("L", sizes[0]), ("H", sizes[1]))]
    names = [table[COMPOUND].to_numpy() for table in tables]
    activity = pd.concat([
        pd.DataFrame({COMPOUND: ids, "task": task, "active": outcome[:, column].astype(np.int8)})
        for ids, outcome in zip(names, outcomes, strict=False)
        for column, task in enumerate(["easy", "fair", "hopeless"])
    ])  # fmt: skip
    activity = activity.sample(frac=0.8, random_state=rng)  # labels are missing
    truth = pd.DataFrame(1 / (1 + np.exp(-logits[2])), columns=["easy", "fair", "hopeless"])
    return Reference(*tables, *codes, *codes), activity, truth, outcomes[2]


TASKS = pd.DataFrame({"task": ["easy", "fair", "hopeless"], "family": ["kinase", "kinase", "GPCR"], "target": ""})


def test_calls_keep_the_true_class_as_often_as_they_promise():
    kept, called = {0: [], 1: []}, {"easy": [], "hopeless": []}
    for draw in range(12):
        reference, activity, _, outcome = outcome_reference(np.random.default_rng([draw, 6]))
        names = [f"N{number:03d}" for number in range(150)]
        table = newcompounds.predict_activities(names, [reference], activity, TASKS, confidence=0.8)
        assert table["compound"].tolist() == list(np.repeat(names, 3))
        for column, task in enumerate(["easy", "fair", "hopeless"]):
            rows = table[table["task"] == task]
            for label, other in ((1, "inactive"), (0, "active")):
                chosen = rows["call"][outcome[:, column] == label]
                kept[label].append(~chosen.isin([other, "neither"]))
            if task in called:
                called[task].append(rows["call"].isin(["active", "inactive"]).mean())
    for label in (0, 1):
        share = np.concatenate(kept[label]).mean()
        assert 0.78 < share < 0.9, f"coverage of class {label}"
    assert np.mean(called["easy"]) > np.mean(called["hopeless"]) + 0.15


def test_probabilities_are_calibrated_and_their_intervals_cover_the_truth():
    covered, gap = [], []
    for draw in range(12):
        reference, activity, truth, outcome = outcome_reference(np.random.default_rng([draw, 7]))
        names = [f"N{number:03d}" for number in range(150)]
        table = newcompounds.predict_activities(names, [reference], activity, TASKS)
        rows = table[table["task"] == "hopeless"]  # here the score is no part of the truth, so the curve can be right
        covered.append(
            (
                (rows["ci_low"] <= truth["hopeless"].to_numpy()) & (rows["ci_high"] >= truth["hopeless"].to_numpy())
            ).mean()
        )
        assert (table["ci_low"] <= table["probability"]).all() and (table["probability"] <= table["ci_high"]).all()
        easy = table[table["task"] == "easy"]
        gap.append(easy["probability"].mean() - outcome[:, 0].mean())
        likely = (easy["probability"] > 0.5).to_numpy()
        assert outcome[likely, 0].mean() > 0.5 > 0.4 > outcome[~likely, 0].mean()
    assert np.mean(covered) > 0.85
    assert abs(np.mean(gap)) < 0.04


def test_tasks_without_labels_enough_are_left_out_and_one_class_says_nothing():
    reference, activity, _, _ = outcome_reference(np.random.default_rng(0), n_new=5)
    names = [f"N{number}" for number in range(5)]
    none = newcompounds.predict_activities(names, [reference], activity, TASKS, min_active=1000)
    assert len(none) == 0 and "call" in none
    of_library = activity[COMPOUND].str.startswith("L") | (activity["active"] == 0)
    table = newcompounds.predict_activities(names, [reference], activity[of_library], TASKS)
    assert table["probability"].isna().all() and (table["p_active"] == 1).all()
    assert set(table["call"]) <= {"undecided", "active"}


# --- whole references ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_reference(tiny_tables):
    cp, _, compounds, folds = tiny_tables
    new, held_out, played = newcompounds.rehearsal(cp, folds, hidden=0.1, seed=1)
    training = wells_of(cp, folds.loc[folds["fold"] != 0, COMPOUND].tolist())
    features = feature_columns(cp)
    preparation = FeaturePreparation().fit(training.loc[~training[CONTROL], features])
    missing = [name for name in preparation.features_ if name not in new]
    encoder = PlateEncoder(
        GapFilling(preparation, missing).fit(training), RawCP().fit(np.zeros((3, len(preparation.features_))))
    )
    options = {"left_out": played, "seed": 1}
    return newcompounds.make_reference(new, cp, compounds, held_out, encoder, **options), new, held_out, played, encoder


def test_a_rehearsal_parts_the_first_fold_and_no_compound_is_on_two_sides(tiny_tables, tiny_reference):
    cp, _, _, folds = tiny_tables
    reference, new, held_out, played, _ = tiny_reference
    first = set(folds.loc[folds["fold"] == 0, COMPOUND])
    assert played | held_out == first and not played & held_out
    assert set(new.loc[~new[CONTROL], COMPOUND]) == played
    assert set(reference.held_out[COMPOUND]) == held_out
    assert set(reference.library[COMPOUND]) == set(folds[COMPOUND]) - first
    assert len(feature_columns(cp)) - len(feature_columns(new)) == round(0.1 * len(feature_columns(cp)))
    shapes = {name: len(getattr(reference, f"{name}_codes")) for name in ("library", "held_out", "new")}
    assert shapes == {"library": len(reference.library), "held_out": len(held_out), "new": len(played)}


def test_held_out_compounds_are_averaged_over_as_many_wells_as_new_ones(tiny_tables, tiny_reference):
    cp, _, compounds, _ = tiny_tables
    reference, new, held_out, played, encoder = tiny_reference
    few = new[new[CONTROL] | ~new.duplicated(COMPOUND)]  # one well a compound
    other = newcompounds.make_reference(few, cp, compounds, held_out, encoder, left_out=played, seed=1)
    noisy, quiet = (np.linalg.norm(one.held_out_codes, axis=1).mean() for one in (other, reference))
    assert noisy > 1.2 * quiet
    np.testing.assert_array_equal(other.library_codes, reference.library_codes)


def test_new_wells_are_measured_from_their_own_controls_or_else_from_the_library(tiny_tables, tiny_reference):
    cp = tiny_tables[0]
    _, new, _, _, encoder = tiny_reference
    compounds, codes = newcompounds.embed_compounds(new, cp, encoder)
    assert compounds == sorted(set(new.loc[~new[CONTROL], COMPOUND]))
    prepared = encoder.filling.transform(new)
    rows = (new[COMPOUND] == compounds[0]).to_numpy()  # two doses of as many wells
    expected = prepared[rows].mean(0) - prepared[new[CONTROL].to_numpy(bool)].mean(0)
    np.testing.assert_allclose(codes[0], expected, atol=1e-5)
    bare = new[~new[CONTROL]].reset_index(drop=True)
    origin = encoder.filling.transform(cp[cp[CONTROL]]).mean(0)
    np.testing.assert_allclose(
        newcompounds.embed_compounds(bare, cp, encoder)[1][0], prepared[rows].mean(0) - origin, atol=1e-5
    )


def test_the_summary_holds_every_compound_of_the_file(tiny_tables, tiny_reference):
    reference, new, *_, encoder = tiny_reference
    names = newcompounds.embed_compounds(new, tiny_tables[0], encoder)[0]
    lost = new[~new[CONTROL]].head(1).assign(**{PLATE: "lost", COMPOUND: "nowhere else"})
    wells = pd.concat([new, lost], ignore_index=True)
    plates = pd.DataFrame({"plate": [*new[PLATE].unique(), "lost"], "used": [True] * new[PLATE].nunique() + [False]})
    calls = newcompounds.treatment_activity(new, tiny_tables[0], encoder, n_null=50)
    assert set(METADATA_COLUMNS) <= set(wells) and len(calls) == 2 * len(names)
    parts = (newcompounds.nearest_compounds(names, [reference]), newcompounds.nearest_mechanisms(names, [reference]),
             newcompounds.library_distance(names, [reference]))  # fmt: skip
    summary = newcompounds.compound_summary(wells, plates, calls, *parts).set_index("compound")
    assert sorted(summary.index) == sorted([*names, "nowhere else"])
    assert summary.loc["nowhere else", "left_out"] != "" and (summary.loc[names, "left_out"] == "").all()
    assert (summary.loc[names, "n_treatments"] == 2).all() and summary.loc[names, "active"].notna().all()
    assert newplates.gap_fidelity(encoder, tiny_tables[0]) < 1
