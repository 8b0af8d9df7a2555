"""New compounds: what is refused, what is read, and each call against naive loops, planted answers and its own null."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from cpx_utils import new_compounds
from cpx_utils.encoders import RawCP
from cpx_utils.new_compounds import PlateEncoder, Reference
from cpx_utils.preprocessing import FeaturePreparation, normalise_plates
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL, ScreenError, feature_columns, wells_of

FEATURES = [f"Cells_F{number:02d}" for number in range(20)]


def plate_wells(n_plates=2, compounds=10, n_controls=6, seed=0):
    """Wells with heavy-tailed features of four factors, in units of each plate's own; no compound does anything."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(99).normal(size=(4, len(FEATURES)))
    names = [f"c{number:02d}" for number in range(compounds)] if isinstance(compounds, int) else list(compounds)
    tables = []
    for plate in range(n_plates):
        ids = ["DMSO"] * n_controls + names
        values = rng.normal(size=(len(ids), 4)) @ loadings + 0.1 * rng.normal(size=(len(ids), len(FEATURES)))
        metadata = pd.DataFrame({PLATE: f"P{plate}", WELL: [f"W{row:02d}" for row in range(len(ids))], COMPOUND: ids})
        metadata = metadata.assign(**{DOSE: 1.0, CONTROL: metadata[COMPOUND] == "DMSO"})
        values = np.sinh(0.5 * values) * rng.uniform(0.2, 5) * 50 + 7 * plate
        tables.append(pd.concat([metadata, pd.DataFrame(values, columns=FEATURES)], axis=1))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def library():
    return normalise_plates(plate_wells(6, [f"L{number:02d}" for number in range(40)], 8, seed=1))[0]


@pytest.fixture(scope="module")
def preparation(library):
    return FeaturePreparation(max_correlation=1).fit(library.loc[~library[CONTROL], FEATURES])


@pytest.fixture(scope="module")
def encoder(preparation):
    return PlateEncoder(preparation, RawCP().fit(np.zeros((3, len(FEATURES)))))


# --- the file -------------------------------------------------------------------------------------------------

BAD = {
    "no control": (lambda wells: wells.drop(columns=CONTROL), [], ["no well is a negative control", "control_column"]),
    "a misspelt control": (lambda wells: wells, ["dmso"], ["no well holds the control 'dmso'", "'DMSO'"]),
    "controls only": (lambda wells: wells[wells[CONTROL]], [], ["of 0 wells with a compound"]),
    "few controls": (
        lambda wells: wells[~wells[CONTROL] | ~wells.duplicated([PLATE, CONTROL])], [], ["with 4", "most are 1"],
    ),
    "compounds on plates without controls": (
        lambda wells: wells[wells[CONTROL] == (wells[PLATE] == "P0")], [], ["of 10 wells", "none lies on a plate"],
    ),
    "other features": (
        lambda wells: wells.rename(columns=lambda name: name.replace("_F", "_X")), [], ["20 of 20", "'Cells_F00'"],
    ),
    "a quarter of the features missing": (
        lambda wells: wells.drop(columns=FEATURES[:5]), [], ["5 of 20 features", "25%, the limit is 20%"],
    ),
    "other units": (
        lambda wells: wells.assign(**{name: wells[name] + 1e6 * ~wells[CONTROL] for name in FEATURES}), [],
        ["features lie outside the library's range"],
    ),
    "words among numbers": (lambda wells: wells.assign(Cells_F03="n.d."), [], ["'Cells_F03'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_that_says_what_would_be_right(case, tmp_path, library):
    spoil, controls, words = BAD[case]
    path = tmp_path / "plate.csv"
    spoil(plate_wells()).to_csv(path, index=False)
    with pytest.raises(ScreenError) as told:
        wells = new_compounds.read_wells(path, control_compounds=controls)
        wells, _ = new_compounds.normalise_new(wells, "plate.csv", library)
        new_compounds.check_features(wells, library, FEATURES, "plate.csv", 0.2)
    message = str(told.value)
    assert "\n" not in message and [word for word in ["plate.csv", *words] if word not in message] == [], message


def test_units_of_a_plate_make_no_difference_and_one_with_few_controls_is_left_out(library):
    table = plate_wells(n_plates=3)
    table = table[~((table[PLATE] == "P2") & table[CONTROL] & (table[WELL] > "W01"))].reset_index(drop=True)
    other = table.copy()
    other.loc[other[PLATE] == "P1", FEATURES] = other.loc[other[PLATE] == "P1", FEATURES] * 3 - 8
    (first, plates), (second, _) = (new_compounds.normalise_new(one, "x", library) for one in (table, other))
    np.testing.assert_allclose(first[FEATURES], second[FEATURES], atol=1e-3)
    assert set(first[PLATE]) == {"P0", "P1"} and plates["used"].tolist() == [True, True, False]
    assert plates["reason"].tolist() == ["", "", "2 negative controls, 4 are needed"]


# --- features -------------------------------------------------------------------------------------------------


def test_library_and_new_wells_go_through_the_same_gap(library, preparation, encoder):
    missing = ["Cells_F03", "Cells_F11"]
    gap = np.isin(FEATURES, missing)
    lacking = PlateEncoder(preparation, encoder.encoder, missing)
    new = new_compounds.normalise_new(plate_wells(seed=5), "x", library)[0]
    whole, filled = encoder.transform(new), lacking.transform(new.drop(columns=missing))
    np.testing.assert_array_equal(filled[:, ~gap], whole[:, ~gap])
    assert (np.ptp(filled[:, gap], axis=0) == 0).all() and np.abs(filled[:, gap]).max() < 0.5
    spoilt = library.assign(**dict.fromkeys(missing, 1e6))
    np.testing.assert_array_equal(lacking.transform(spoilt), lacking.transform(library))


# --- activity -------------------------------------------------------------------------------------------------


def not_above(found: int, n: int, rate: float) -> bool:
    """Whether a count is one that draws at this rate give: exact binomial, one-sided, 1%."""
    return binomtest(int(found), n, rate, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(("n_plates", "n_controls", "per_plate"), [(2, 5, 1), (1, 16, 3)])
def test_wells_that_do_nothing_are_called_no_more_often_than_stated(n_plates, n_controls, per_plate, library, encoder):
    p_values, any_called, n_draws = [], 0, 50
    for draw in range(n_draws):
        names = [f"c{number}" for number in range(4)] * per_plate
        wells = plate_wells(n_plates, names, n_controls, seed=[draw, 1])
        calls = new_compounds.activity_calls(wells, library, encoder, n_null=160, seed=draw)
        p_values.append(calls["p_value"].to_numpy(float))
        any_called += calls["active"].any()
    assert not_above(any_called, n_draws, 0.05)
    p_values = np.concatenate(p_values)
    for level in (0.05, 0.2, 0.5):  # and p is uniform, not merely large
        found = (p_values <= level).sum()
        assert not_above(found, len(p_values), level) and found > 0.5 * level * len(p_values)


def test_what_differs_is_called_and_what_points_to_different_sides_is_not(library, encoder):
    wells = plate_wells(3, ["strong", "weak", "opposed", "alone"], 12, seed=5)
    scale = wells.groupby(PLATE)[FEATURES].transform("std").to_numpy()
    side = np.where(np.arange(20) % 2, 4.0, -4.0)
    wells.loc[wells[COMPOUND] == "strong", FEATURES] += (side * scale)[wells[COMPOUND] == "strong"]
    turned = (wells[COMPOUND] == "opposed").to_numpy() * np.where(wells[PLATE] == "P0", 2.0, -1.0)
    wells[FEATURES] += turned[:, None] * side * scale
    lonely = wells[wells[COMPOUND] == "alone"].head(1).assign(**{PLATE: "P9"})
    wells = pd.concat([wells[wells[COMPOUND] != "alone"], lonely], ignore_index=True)
    calls = new_compounds.activity_calls(wells, library, encoder, n_null=1000).set_index("compound")
    assert calls["active"].to_dict() == {"alone": False, "opposed": False, "strong": True, "weak": False}
    assert calls.loc["strong", "distance"] > 2 > calls.loc["weak", "distance"]
    assert np.isnan(calls.loc["alone", "p_value"]) and "no negative controls" in calls.loc["alone", "reason"]


def test_p_equals_counting_all_arrangements_by_hand(library, encoder):
    wells = plate_wells(2, ["a"], 5, seed=3)
    metric = new_compounds.library_metric(library, encoder.transform(library))
    points = []
    for _, plate in wells.groupby(PLATE):
        centred = plate[FEATURES] - plate[FEATURES].median()
        points.append(encoder.transform(centred / (1.4826 * centred.abs().median())) @ metric)
    lengths = np.zeros((6, 6))
    for one in range(6):
        for other in range(6):
            pairs = zip(points, (one, other), strict=True)
            shift = sum((part[row] - np.delete(part, row, axis=0).mean(0)) / 2 for part, row in pairs)
            lengths[one, other] = shift @ shift
    row = new_compounds.activity_calls(wells, library, encoder, n_null=20_000).iloc[0]
    assert row["p_value"] == pytest.approx(np.mean(lengths >= lengths[-1, -1] * (1 - 1e-9)), abs=0.02)
    assert row["distance"] == pytest.approx(np.sqrt(lengths[-1, -1] / np.median(lengths)), rel=0.1)
    assert row["smallest_p"] == 1 / 36
    far = wells.assign(**{name: wells[name] + 1e4 * ~wells[CONTROL] for name in FEATURES})
    few = [new_compounds.activity_calls(far, library, encoder, n_null=40, seed=seed).iloc[0] for seed in range(5)]
    assert min(one["p_value"] for one in few) == 1 / 36  # draws may miss an arrangement where there are so few


def test_the_metric_whitens_the_noise_between_replicates_and_drops_what_all_treated_wells_share():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(1400, 4)) @ np.diag([2.0, 1.0, 0.5, 3.0])
    codes = np.concatenate([np.repeat(rng.normal(0, 10, size=(300, 4)), 4, axis=0), np.zeros((200, 4))]) + noise
    wells = pd.DataFrame({COMPOUND: np.repeat(np.arange(350), 4).astype(str), DOSE: np.nan})
    wells[CONTROL] = wells.index >= 1200
    shift = np.array([0, 0, 40.0, 0])
    metric = new_compounds.library_metric(wells, codes + np.outer(~wells[CONTROL], shift))
    whitened = np.cov((noise @ metric).T)
    assert np.linalg.eigvalsh(whitened) == pytest.approx([0, 1.33, 1.33, 1.33], abs=0.25)
    assert np.linalg.norm(shift @ metric) < 0.15 * np.linalg.norm(shift / 0.5)


# --- resemblance ----------------------------------------------------------------------------------------------


def reference_of(moas, codes):
    """From MoA lists of library and held-out compounds, and codes of library, held-out and new ones."""
    tables = {}
    for name, own in zip(("library", "held_out"), moas, strict=True):
        ids = [f"{name[0].upper()}{row:03d}" for row in range(len(own))]
        tables[name] = pd.DataFrame({COMPOUND: ids, "MoA": own, "group": ids})
    codes = dict(zip(("library", "held_out", "new"), codes, strict=True))
    return Reference([f"N{row:03d}" for row in range(len(codes["new"]))], **tables, codes=codes)


def planted(rng, new_mechanism, noise=0.4, n=6):
    """Compounds around the centres of mechanisms; a new one of -1 has a centre of its own."""
    centres = rng.normal(size=(n, 8))
    sides = [np.arange(60) % n, np.arange(90) % n]
    codes = [centres[side] + noise * rng.normal(size=(len(side), 8)) for side in sides]
    own = np.stack([centres[one] if one >= 0 else rng.normal(size=8) for one in new_mechanism])
    moas = [[[f"m{one}"] for one in side] for side in sides]
    return reference_of(moas, [*codes, own + noise * rng.normal(size=own.shape)])


NOBODY = pd.DataFrame({COMPOUND: [], "MoA": []})


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_mechanisms_and_neighbours_equal_naive_loops():
    reference = planted(np.random.default_rng(0), [0, 1, 2, -1])
    codes, moas = reference.codes, reference.library["MoA"]
    ranked = new_compounds.nearest_mechanisms([reference], NOBODY)

    def score(code, name):
        return np.mean(
            sorted(cosine(code, other) for other, moa in zip(codes["library"], moas, strict=True) if name in moa)[-3:]
        )

    def evidence(code, name, own=()):
        """In units of library compounds that lack the mechanism, and share none with the compound itself."""
        usual = [
            score(code, name) for code, moa in zip(codes["library"], moas, strict=True) if not {name, *own} & set(moa)
        ]
        return (score(code, name) - np.mean(usual)) / np.std(usual)

    names, mine = [f"m{number}" for number in range(6)], evidence(codes["new"][1], "m4")
    held_out = list(zip(codes["held_out"], reference.held_out["MoA"], strict=True))[::3]
    thinned = reference_of([list(moas), [own for _, own in held_out]],
                           [codes["library"], np.stack([code for code, _ in held_out]), codes["new"]])  # fmt: skip
    row = new_compounds.nearest_mechanisms([thinned], NOBODY).query("compound == 'N001' and mechanism == 'm4'").iloc[0]
    assert row["score"] == pytest.approx(score(codes["new"][1], "m4"), abs=1e-6)
    assert row["evidence"] == pytest.approx(mine, abs=1e-5) and row["n_compounds"] == 10
    best = [max(evidence(code, name, own) for name in names if name not in own) for code, own in held_out]
    assert row["p_adjusted"] == pytest.approx((1 + np.sum(np.array(best) >= mine)) / (1 + len(best)))
    near = new_compounds.nearest_compounds([reference]).query("compound == 'N001'")
    similar = [cosine(codes["new"][1], code) for code in codes["library"]]
    assert near["neighbour"].tolist() == [f"L{row:03d}" for row in np.argsort(similar)[::-1][:10]]
    strangers = [max(cosine(code, other) for other, moa in zip(codes["library"], moas, strict=True) if moa != own)
                 for code, own in zip(codes["held_out"], reference.held_out["MoA"], strict=True)]  # fmt: skip
    expected = (1 + (np.array(strangers)[:, None] >= near["similarity"].to_numpy()).sum(axis=0)) / 91
    np.testing.assert_allclose(near["p_value"], expected)
    # The same encoder twice changes no mean, and no share of held-out compounds.
    twice = new_compounds.nearest_mechanisms([reference, reference], NOBODY)
    pd.testing.assert_frame_equal(twice.iloc[:, :6], ranked.iloc[:, :6])
    np.testing.assert_allclose(twice["p_adjusted"], (2 * (ranked["p_adjusted"] * 91 - 1) + 1) / 181)


def test_p_of_compounds_that_resemble_nothing_is_uniform():
    """Mechanisms whose labels mean nothing: new compounds are like held-out ones, and every call is an error."""
    found = {"p_adjusted": [], "p_value": []}
    for draw in range(25):
        rng = np.random.default_rng([draw, 4])
        moas = [[[f"m{one}"] for one in rng.integers(5, size=n)] for n in (40, 39)]
        own = [[f"m{one}"] for one in rng.integers(5, size=5)]
        reference = reference_of(moas, [rng.standard_t(4, size=(n, 6)) for n in (40, 39, 5)])
        truth = pd.DataFrame({COMPOUND: reference.new, "MoA": own})
        ranked = new_compounds.nearest_mechanisms([reference], truth)
        found["p_adjusted"] += list(ranked[~ranked["is_known"]].groupby("compound")["p_adjusted"].min())
        near = new_compounds.nearest_compounds([reference], 40)
        near = near[near["MoA"] != near["compound"].map(truth.set_index(COMPOUND)["MoA"].str[0])]
        found["p_value"] += list(near.groupby("compound")["p_value"].min())
    for name, values in found.items():
        for level in (0.05, 0.2, 0.5):
            called = (np.array(values) <= level).sum()
            assert not_above(called, len(values), level), name
            assert name == "p_adjusted" or called > 0.5 * level * len(values), name


def test_what_is_planted_is_found():
    reference = planted(np.random.default_rng(2), [*range(6)])
    truth = pd.DataFrame({COMPOUND: reference.new[:6], "MoA": [[f"m{number}"] for number in range(6)]})
    found = new_compounds.mechanisms_found(new_compounds.nearest_mechanisms([reference], truth), within=2)
    assert found["found"].mean() > 0.8 and found["chance"].to_numpy() == pytest.approx(2 / 6)


# --- predicted outcomes ---------------------------------------------------------------------------------------

TASKS = pd.DataFrame({"task": ["easy", "fair", "hopeless"], "family": ["kinase", "kinase", "GPCR"], "target": ""})


def outcomes(seed, n_new=150):
    """A reference, and outcomes of three tasks of which two can be learned a little and one can't."""
    rng = np.random.default_rng(seed)
    codes = [rng.normal(size=(n, 8)) for n in (200, 150, n_new)]
    reference = reference_of([[[]] * 200, [[]] * 150], codes)
    logits = [np.stack([2 * x[:, 0] - 1, 1.2 * x[:, 1], 0 * x[:, 0] - 0.8], axis=1) for x in codes]
    truth = [rng.random(one.shape) < 1 / (1 + np.exp(-one)) for one in logits]
    tables = []
    for table, outcome in zip((reference.library, reference.held_out), truth[:2], strict=True):
        wide = pd.DataFrame(outcome.astype(int), table[COMPOUND], TASKS["task"])
        tables.append(wide.melt(ignore_index=False, value_name="active").reset_index())
    return reference, pd.concat(tables).sample(frac=0.8, random_state=rng), truth[2]


def test_calls_keep_the_true_class_as_often_as_they_promise():
    kept, decided = {0: [], 1: []}, {"easy": [], "hopeless": []}
    for draw in range(8):
        reference, activity, truth = outcomes([draw, 6])
        table = new_compounds.predict_activities([reference], activity, TASKS, confidence=0.8)
        assert table["compound"].tolist() == list(np.repeat(reference.new, 3))
        for column, task in enumerate(TASKS["task"]):
            rows = table[table["task"] == task]
            for label, other in ((1, "inactive"), (0, "active")):
                kept[label].append(~rows["call"][truth[:, column] == label].isin([other, "neither"]))
            if task in decided:
                decided[task].append(rows["call"].isin(["active", "inactive"]).mean())
    for label in (0, 1):
        assert 0.78 < np.concatenate(kept[label]).mean() < 0.9, f"coverage of class {label}"
    assert np.mean(decided["easy"]) > np.mean(decided["hopeless"]) + 0.15


# --- whole references -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(tiny_tables):
    """A rehearsal on the tiny screen: what goes into a reference, and the reference."""
    cp, _, compounds, folds = tiny_tables
    new, held_out, played = new_compounds.rehearsal(cp, folds, hidden=0.1, seed=1)
    training = wells_of(cp, folds.loc[folds["fold"] != 0, COMPOUND].tolist())
    preparation = FeaturePreparation().fit(training.loc[~training[CONTROL], feature_columns(cp)])
    missing = [name for name in preparation.features_ if name not in new]
    encoder = PlateEncoder(preparation, RawCP().fit(np.zeros((3, len(preparation.features_)))), missing)

    def refer(new=new, cp=cp):
        others = cp[~cp[COMPOUND].isin(played)]
        return new_compounds.make_reference(new, others, compounds, held_out, encoder, seed=1)

    return SimpleNamespace(new=new, held_out=held_out, played=played, encoder=encoder, refer=refer, reference=refer())


def test_a_rehearsal_parts_the_first_fold_and_no_compound_is_on_two_sides(tiny_tables, played):
    cp, _, _, folds = tiny_tables
    first = set(folds.loc[folds["fold"] == 0, COMPOUND])
    assert played.played | played.held_out == first and not played.played & played.held_out
    assert set(played.reference.held_out[COMPOUND]) == played.held_out
    assert set(played.reference.library[COMPOUND]) == set(folds[COMPOUND]) - first
    assert set(played.reference.new) == played.played == set(played.new.loc[~played.new[CONTROL], COMPOUND])
    assert len(feature_columns(cp)) - len(feature_columns(played.new)) == round(0.1 * len(feature_columns(cp)))
    # Compounds are measured from their own controls, or else from the library's.
    control, rows = played.new[CONTROL].to_numpy(bool), (played.new[COMPOUND] == min(played.played)).to_numpy()
    prepared = played.encoder.transform(played.new)
    origins = (prepared[control].mean(0), played.encoder.transform(cp[cp[CONTROL]]).mean(0))
    for wells, origin in zip((played.new, played.new[~control]), origins, strict=True):
        ids, codes = new_compounds.embed_compounds(wells, cp, played.encoder)
        assert ids == sorted(played.played)
        np.testing.assert_allclose(codes[0], prepared[rows].mean(0) - origin, atol=1e-5)


def test_new_and_held_out_compounds_leak_into_nothing_that_is_learned(tiny_tables, played):
    cp, reference = tiny_tables[0], played.reference
    features = feature_columns(played.new)
    treated = ~played.new[CONTROL].to_numpy(bool)
    other_new = played.new.copy()
    other_new.loc[treated, features] += 5
    other_cp = cp.copy()
    other_cp.loc[other_cp[COMPOUND].isin(played.held_out | played.played), features] += 5
    for other, moved in ((played.refer(new=other_new), "new"), (played.refer(cp=other_cp), "held_out")):
        for name in ("library", "held_out", "new"):
            same = np.array_equal(other.codes[name], reference.codes[name])
            assert same == (name != moved), f"{name} after {moved} moved"
    few = played.new[played.new[CONTROL] | ~played.new.duplicated(COMPOUND)]  # one well a compound
    noisy, quiet = (np.linalg.norm(one.codes["held_out"], axis=1).mean() for one in (played.refer(few), reference))
    assert noisy > 1.2 * quiet  # held-out compounds are averaged over as few wells
