"""Normalisation, in-fold preparation, consensus and pairing, against loops that are too simple to be wrong."""

import numpy as np
import pandas as pd
import pytest
from pycytominer import normalize
from sklearn.base import clone

from cpx_utils.preprocessing import (
    FeaturePreparation,
    consensus,
    enough_spread,
    leave_out_plates,
    normalise_plates,
    pair_rows,
    replicate_correlations,
    robust_spread,
    share_beyond_chance,
    shrunken,
)
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    METADATA_COLUMNS,
    PLATE,
    WELL,
    Screen,
    ScreenError,
)
from cpx_utils.splits import same_map_share


def plate_table(n_controls=(8, 6, 3, 0), n_treated=10, n_features=5, seed=0):
    """Wells of one plate for each number of controls, each plate with its own offset and scale."""
    rng = np.random.default_rng(seed)
    tables = []
    for number, controls in enumerate(n_controls):
        n = controls + n_treated
        metadata = pd.DataFrame(
            {
                PLATE: f"P{number}",
                WELL: [f"A{well:02d}" for well in range(n)],
                COMPOUND: ["DMSO"] * controls + [f"c{well}" for well in range(n_treated)],
                DOSE: [0.0] * controls + [1.0] * n_treated,
                CONTROL: [True] * controls + [False] * n_treated,
            }
        )
        values = rng.normal(10 * number, 1 + number, size=(n, n_features)).astype(np.float32)
        features = pd.DataFrame(values, columns=[f"Cells_f{i}" for i in range(n_features)])
        tables.append(pd.concat([metadata, features], axis=1))
    return pd.concat(tables).sample(frac=1, random_state=seed).reset_index(drop=True)


FEATURES = [f"Cells_f{i}" for i in range(5)]


def by_pycytominer(table, plate):
    """Features of one plate's wells in robust units of its controls."""
    wells = table[table[PLATE] == plate]
    options = {"method": "mad_robustize", "mad_robustize_epsilon": 0, "meta_features": METADATA_COLUMNS}
    return normalize(wells, features=FEATURES, samples=f"{CONTROL} == True", **options)[FEATURES]


def test_plates_are_normalised_to_median_and_mad_of_their_own_controls():
    table = plate_table()
    table.loc[table.index[table[CONTROL]][0], "Cells_f1"] = np.nan
    table.loc[table.index[~table[CONTROL]][0], "Cells_f2"] = np.nan
    normalised, report = normalise_plates(table, shrink=False)
    for plate in ("P0", "P1"):
        mine = normalised.loc[normalised[PLATE] == plate, FEATURES]
        np.testing.assert_allclose(mine, by_pycytominer(table, plate), rtol=1e-5, atol=1e-6)
    kept = table[PLATE].isin(["P0", "P1"])
    pd.testing.assert_frame_equal(normalised[METADATA_COLUMNS], table.loc[kept, METADATA_COLUMNS])
    assert set(normalised[FEATURES].dtypes) == {np.dtype(np.float32)}
    assert report[["n_controls", "n_wells"]].values.tolist() == [[8, 18], [6, 16], [3, 13], [0, 10]]
    assert report["normalised"].tolist() == [True, True, False, False]
    assert report.loc[0, "largest"] == normalised.loc[normalised[PLATE] == "P0", FEATURES].abs().max().max()


def screen_of(table):
    nothing = pd.DataFrame()
    return Screen("few", table, table[table[PLATE] == "P0"], nothing, nothing, nothing)


def test_raw_wells_never_stand_beside_normalised_ones():
    table = plate_table()  # plates lie 10 units apart: medians of thousands beside -0.09 were seen on real ones
    screen = leave_out_plates(screen_of(table))
    assert sorted(screen.cp[PLATE].unique()) == ["P0", "P1"] and len(screen.tx) == 18
    assert screen.notes == (
        "2 CP plates with 23 wells have fewer than 4 negative controls and are left out: 'P2', 'P3'.",
    )
    pd.testing.assert_frame_equal(normalise_plates(screen.cp)[0], normalise_plates(table)[0].reset_index(drop=True))
    none, report = normalise_plates(table, min_controls=9)
    assert none.empty and not report["normalised"].any()
    with pytest.raises(ScreenError, match=r"no CP plate has 9 negative controls.*at most 8.*few_controls=treated"):
        leave_out_plates(screen_of(table), min_controls=9)


def test_a_plate_with_few_controls_may_be_normalised_by_all_of_its_wells():
    table = plate_table()
    assert len(leave_out_plates(screen_of(table), few_controls="treated").cp) == len(table)
    normalised, report = normalise_plates(table, few_controls="treated", shrink=False)
    assert report["normalised"].all() and len(normalised) == len(table)
    wells = table.loc[table[PLATE] == "P3", FEATURES]
    expected = (wells - wells.median()) / robust_spread(wells)
    np.testing.assert_allclose(normalised.loc[wells.index, FEATURES], expected, rtol=1e-4, atol=1e-4)
    strict = normalise_plates(table, shrink=False)[0]
    pd.testing.assert_frame_equal(normalised.loc[strict.index], strict)  # plates with controls are what they were


def test_normalisation_looks_at_nothing_but_controls():
    table = plate_table(n_controls=(8, 6))
    spoiled = table.copy()
    treated = ~table[CONTROL]
    one = table.index[treated][0]
    spoiled.loc[treated & (table.index != one), FEATURES] = 1e6
    before, after = (normalise_plates(one_table)[0] for one_table in (table, spoiled))
    unchanged = table[CONTROL] | (table.index == one)
    pd.testing.assert_frame_equal(before[unchanged], after[unchanged], check_exact=True)


def test_controls_that_hardly_vary_on_a_plate_do_not_blow_a_feature_up():
    table = plate_table(n_controls=(8, 8, 8))
    here = table[PLATE] == "P0"
    noise = 1e-7 * np.random.default_rng(0).normal(size=int((here & table[CONTROL]).sum()))
    table["Cells_f0"] = table["Cells_f0"].astype(float)
    table.loc[here & table[CONTROL], "Cells_f0"] = 2.0 + noise
    normalised, report = normalise_plates(table, shrink=False)
    assert report["n_flat"].tolist() == [1, 0, 0]
    assert normalised["Cells_f0"].abs().max() < 100  # the plate's own spread would give hundreds of millions
    spreads = pd.DataFrame([robust_spread(wells[FEATURES]) for _, wells in table[table[CONTROL]].groupby(PLATE)])
    usual = spreads["Cells_f0"].median()  # of all plates
    expected = (table.loc[here, "Cells_f0"] - 2.0) / usual
    np.testing.assert_allclose(normalised.loc[here, "Cells_f0"], expected, rtol=1e-4, atol=1e-4)
    assert enough_spread(np.array([0.009, 0.011, 5.0]), np.array([1.0, 1.0, np.inf])).tolist() == [1.0, 0.011, np.inf]


def wells_on_maps(offset, n_maps=12, n_controls=4, n_treated=40, n_features=120, seed=0):
    """Heavy-tailed wells on three plates a map, with few controls; plates differ by `offset` deviations."""
    rng = np.random.default_rng(seed)
    loadings, wells, values = 0.25 * rng.normal(size=(10, n_features)), [], []
    for number in range(n_maps):
        effects = rng.normal(size=(n_treated, 10)) @ loadings
        names = ["DMSO"] * n_controls + [f"c{number}-{i}" for i in range(n_treated)]
        for copy in range(3):
            noise = rng.standard_t(4, size=(len(names), n_features)) + offset * rng.normal(size=n_features)
            noise[n_controls:] += effects
            values.append(noise)
            wells += [(f"m{number}-{copy}", f"W{i}", name, np.nan, name == "DMSO") for i, name in enumerate(names)]
    features = pd.DataFrame(np.vstack(values), columns=[f"Cells_{i}" for i in range(n_features)])
    return pd.concat([pd.DataFrame(wells, columns=METADATA_COLUMNS), features], axis=1)


def test_few_controls_do_not_write_their_plate_into_profiles():
    """As on real wells with four control rows a plate, where plain normalisation made profiles tell their map."""
    table = wells_on_maps(offset=0.0)
    before, plain, shrunk = (
        same_map_share(one)[0] for one in (table, normalise_plates(table, shrink=False)[0], normalise_plates(table)[0])
    )
    assert plain > before + 0.3 and abs(shrunk - before) < 0.03
    # Plates that truly differ are brought together, no worse than without.
    table = wells_on_maps(offset=2.0)
    shares = [same_map_share(one)[0] for one in (table, *(normalise_plates(table, shrink=s)[0] for s in (False, True)))]
    assert shares[0] > 0.95 and shares[2] <= shares[1] < shares[0]


def test_estimates_shrink_by_the_chance_in_them():
    rng = np.random.default_rng(0)
    apart, alike = 10 * rng.normal(size=(3, 40)), rng.normal(size=(3, 40))
    estimates = pd.DataFrame(np.vstack([apart, alike]))
    got = shrunken(estimates, 0 * estimates + 1.0)
    np.testing.assert_allclose(got[:3], estimates[:3], atol=1.0)
    np.testing.assert_allclose(got[3:], np.broadcast_to(estimates[3:].median(axis=1).to_numpy()[:, None], (3, 40)))
    alone = shrunken(estimates[[0]], 0 * estimates[[0]] + 1.0)
    pd.testing.assert_frame_equal(alone, estimates[[0]])  # a single plate is what it is


def training_wells(n=200, seed=1):
    """Features that stay, and one of each kind that must go."""
    rng = np.random.default_rng(seed)
    wells = pd.DataFrame(rng.standard_t(3, size=(n, 6)), columns=[f"kept{i}" for i in range(6)])
    wells["constant"] = 3.0
    wells["mostly missing"] = np.where(rng.random(n) < 0.5, np.nan, rng.normal(size=n))
    wells["twin"] = 2 * wells["kept0"] + 0.01 * rng.normal(size=n)
    wells.loc[3, "kept1"] = np.nan
    wells.loc[4, "kept2"] = np.inf
    return wells


def naive_preparation(wells, tame):
    """Kept features, median, mean and standard deviation by loops."""
    wells = wells.replace([np.inf, -np.inf], np.nan)
    names = [
        name for name in wells if wells[name].isna().mean() <= 0.05 and np.nanvar(wells[name].to_numpy(float)) > 1e-6
    ]
    correlation = {(a, b): wells[a].corr(wells[b]) for a in names for b in names}
    total = {a: sum(abs(correlation[a, b]) for b in names) for a in names}
    dropped = {max((a, b), key=total.get) for i, a in enumerate(names) for b in names[:i] if correlation[a, b] > 0.95}
    numbers = {}
    for name in [name for name in names if name not in dropped]:
        median = np.nanmedian(wells[name])
        values = wells[name].fillna(median).to_numpy(float)
        values = np.arcsinh(values) if tame else values
        numbers[name] = (median, values.mean(), np.sqrt(((values - values.mean()) ** 2).mean()))
    return numbers


@pytest.mark.parametrize("tame", [True, False])
def test_preparation_equals_loops(tame):
    wells = training_wells()
    preparation = FeaturePreparation(tame_tails=tame).fit(wells)
    numbers = naive_preparation(wells, tame)
    assert preparation.features_ == list(numbers)
    assert len(preparation.features_) == 6 and {"kept0", "twin"} - set(numbers)  # one of the twins goes
    expected = np.array(list(numbers.values()))
    np.testing.assert_allclose(preparation.median_, expected[:, 0])
    np.testing.assert_allclose(preparation.mean_, expected[:, 1])
    np.testing.assert_allclose(preparation.scale_, expected[:, 2])
    prepared = preparation.transform(wells)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(prepared.std(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize("spoil", [0.0, np.nan, np.inf])
def test_a_table_without_a_usable_feature_is_refused_in_one_line(spoil):
    with pytest.raises(ScreenError, match="none of 9 features varies") as error:
        FeaturePreparation().fit(training_wells() * 0 + spoil)
    assert "\n" not in str(error.value)


def test_preparation_is_saved_as_json_and_read_back_exactly(tmp_path):
    wells = training_wells()
    preparation = FeaturePreparation(max_missing=0.2, max_correlation=0.9, tame_tails=False).fit(wells)
    preparation.save(tmp_path / "preparation.json")
    again = FeaturePreparation.load(tmp_path / "preparation.json")
    assert again.get_params() == preparation.get_params()
    np.testing.assert_array_equal(again.transform(wells), preparation.transform(wells))
    assert not hasattr(clone(preparation), "features_")
    (tmp_path / "preparation.json").write_text("{}")
    for name in ("preparation.json", "missing.json"):
        with pytest.raises(ScreenError, match=f"{name} holds no feature preparation"):
            FeaturePreparation.load(tmp_path / name)


def wells_with_doses():
    """Compound a has one well at a low dose and three at a high one; b has one dose, c none; and a control."""
    rows = [("a", 0.1), ("a", 10.0), ("a", 10.0), ("a", 10.0), ("b", 3.33), ("c", np.nan), ("c", np.nan), ("DMSO", 0.0)]
    wells = pd.DataFrame(rows, columns=[COMPOUND, DOSE])
    wells[PLATE], wells[WELL], wells[CONTROL] = "P", "", wells[COMPOUND] == "DMSO"
    wells = wells.sample(frac=1, random_state=2)
    return wells, np.random.default_rng(3).normal(size=(len(wells), 4)).astype(np.float32)


def test_consensus_by_compound_weighs_doses_the_same_and_leaves_controls_out():
    wells, values = wells_with_doses()
    metadata, averages = consensus(wells, values, by="compound")
    assert metadata[COMPOUND].tolist() == ["a", "b", "c"]
    assert metadata[DOSE].isna().all()
    low, high = (values[(wells[COMPOUND] == "a") & (wells[DOSE] == dose)] for dose in (0.1, 10.0))
    assert (len(low), len(high)) == (1, 3)
    np.testing.assert_allclose(averages[0], (low.mean(axis=0) + high.mean(axis=0)) / 2, rtol=1e-5)
    assert averages.dtype == np.float32


def naive_partner(cp, tx, use_dose):
    """First TX row of the same compound (and dose to three digits), by a double loop."""
    partner = []
    for compound, dose, control in cp[[COMPOUND, DOSE, CONTROL]].itertuples(index=False):
        found = -1
        for row, (other, other_dose) in enumerate(tx[[COMPOUND, DOSE]].itertuples(index=False)):
            same_dose = not use_dose or f"{dose:.2e}" == f"{other_dose:.2e}"
            if found < 0 and not control and compound == other and same_dose:
                found = row
        partner.append(found)
    return partner


def test_pairs_agree_in_compound_and_dose():
    cp = pd.DataFrame(
        [
            ("a", 3.33, False), ("a", 3.3333, False), ("a", 10.0, False), ("b", 3.34, False), ("b", 3.33, False),
            ("c", 1.0, False), ("DMSO", 0.0, True), ("d", 0.123, False),
        ],
        columns=[COMPOUND, DOSE, CONTROL],
    )  # fmt: skip
    tx = pd.DataFrame(
        [("a", 10.0), ("a", 3.334), ("b", 3.333), ("b", 10.0), ("DMSO", 0.0), ("d", 0.124)], columns=[COMPOUND, DOSE]
    )
    partner = pair_rows(cp, tx)
    assert partner.tolist() == naive_partner(cp, tx, True)
    # 3.33 and 3.3333 are one nominal dose; 3.34 (third digit) is another, as are 0.123 and 0.124; controls have none.
    assert partner.tolist() == [1, 1, 0, -1, 2, -1, -1, -1]
    assert pair_rows(cp, tx.assign(**{DOSE: np.nan})).tolist() == naive_partner(cp, tx, False)


def test_replicate_correlations_equal_a_naive_loop(tiny_tables):
    table = tiny_tables[0]
    found = replicate_correlations(table, seed=1, n_null=200)
    replicates = np.sort(found.loc[found["kind"] == "replicates", "correlation"])
    expected = []
    for _, group in table[~table[CONTROL]].groupby([COMPOUND, DOSE]):
        correlation = np.corrcoef(group.drop(columns=METADATA_COLUMNS))
        expected.append(np.median([correlation[i, j] for i in range(len(group)) for j in range(i)]))
    np.testing.assert_allclose(replicates, np.sort(expected), atol=1e-6)
    null = found.loc[found["kind"] == "different treatments", "correlation"]
    assert share_beyond_chance(found) == (replicates > np.quantile(null, 0.9)).mean()
    alike = table.copy()
    alike[table.columns[5:]] = table.groupby([COMPOUND, DOSE], dropna=False)[list(table.columns[5:])].transform("first")
    assert share_beyond_chance(replicate_correlations(alike)) == 1  # its replicates are the same
