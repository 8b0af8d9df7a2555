"""Replicate correlations, spectra and the like, against naive loops."""

import numpy as np
import pandas as pd
import pytest

from cpx_utils import quality
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL


def wells(n_compounds=30, n_replicates=3, n_features=12, noise=0.5, seed=0):
    """Replicates of compounds on as many plates, and controls with an offset that grows with the plate."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n_compounds, n_features))
    tables = []
    for plate in range(n_replicates):
        treated = pd.DataFrame(truth + noise * rng.normal(size=truth.shape))
        controls = pd.DataFrame(rng.normal(size=(8, n_features)))
        controls[3] += 5.0 * plate
        table = pd.concat([treated, controls], ignore_index=True).rename(columns="Cells_{}".format)
        table.insert(0, PLATE, f"P{plate}")
        table.insert(1, WELL, [f"W{row}" for row in range(len(table))])
        table.insert(2, COMPOUND, [f"c{row:02d}" for row in range(n_compounds)] + ["DMSO"] * 8)
        table.insert(3, DOSE, np.nan)
        table.insert(4, CONTROL, np.arange(len(table)) >= n_compounds)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def test_replicate_correlations_equal_a_naive_loop():
    table = wells()
    found = quality.replicate_correlations(table, seed=1, n_null=200)
    replicates = np.sort(found.loc[found["kind"] == "replicates", "correlation"])
    expected = []
    for _, group in table[~table[CONTROL]].groupby(COMPOUND):
        values = group.filter(like="Cells_").to_numpy()
        expected.append(np.median([np.corrcoef(values[i], values[j])[0, 1] for i in range(3) for j in range(i)]))
    np.testing.assert_allclose(replicates, np.sort(expected), atol=1e-12)
    null = found.loc[found["kind"] == "different treatments", "correlation"]
    assert abs(null.median()) < 0.1 < np.median(replicates)
    assert quality.share_beyond_chance(found) > 0.9


def test_unrelated_wells_are_beyond_chance_as_often_as_the_null():
    found = quality.replicate_correlations(wells(n_compounds=400, noise=50.0), n_null=2000)
    assert quality.share_beyond_chance(found) == pytest.approx(0.1, abs=0.05)


def test_one_profile_a_compound_has_no_replicates():
    found = quality.replicate_correlations(wells(n_replicates=1))
    assert list(found.columns) == ["kind", "correlation"] and len(found) == 0
    assert np.isnan(quality.share_beyond_chance(found))


def test_spectrum_and_feature_correlations_equal_numpy():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    values = np.column_stack([values, np.ones(40)])  # a constant feature has no share
    correlation = np.corrcoef(values[:, :6].T)
    eigenvalues = np.sort(np.linalg.eigvalsh(correlation))[::-1]
    np.testing.assert_allclose(quality.spectrum(values), np.cumsum(eigenvalues) / 6, atol=1e-10)
    pairs = [abs(correlation[i, j]) for i in range(6) for j in range(i + 1, 6)]
    np.testing.assert_allclose(np.sort(quality.feature_correlations(values)), np.sort(pairs), atol=1e-12)


def test_statistics_stand_beside_the_published_ones():
    table = wells(n_compounds=60)
    correlations = {name: quality.replicate_correlations(table) for name in ("CP", "TX")}
    profiles = {name: np.random.default_rng(3).normal(size=(60, 30)) for name in ("CP", "TX")}
    statistics = quality.screen_statistics(correlations, profiles)
    assert len(statistics) == 31 and statistics[["here", "deviation"]].notna().all(axis=None)
    assert set(statistics["source"]) == {"CDRP-bio", "cmea-u2os"}
    row = statistics.set_index(["group", "statistic"])["here"]
    replicates = correlations["CP"].loc[correlations["CP"]["kind"] == "replicates", "correlation"]
    assert row["CP replicate correlation", "median"] == pytest.approx(replicates.median())
    cumulative = quality.spectrum(profiles["TX"])
    needed = int(row["TX components for a share of the variance", "80%"])
    assert cumulative[needed - 1] >= 0.8 > cumulative[needed - 2]


def test_deviations_are_counted_in_tolerances():
    table = wells(n_compounds=60)
    correlations = {name: quality.replicate_correlations(table) for name in ("CP", "TX")}
    profiles = {name: np.random.default_rng(4).normal(size=(60, 30)) for name in ("CP", "TX")}
    row = quality.screen_statistics(correlations, profiles, "LINCS Pilot 1").set_index(["group", "statistic"])
    median = row.loc[("CP replicate correlation", "median")]
    assert median["source"] == "LINCS Pilot 1" and median["reference"] == 0.53
    assert median["deviation"] == pytest.approx(abs(median["here"] - 0.53) / 0.08)
    needed = row.loc[("CP components for a share of the variance", "80%")]
    assert needed["deviation"] == pytest.approx(abs(np.log(needed["here"] / 8)) / np.log(1.5))
    genes = row.loc[("ridge CP→TX, shares", "genes, R² above 0.1")]
    assert genes["deviation"] == pytest.approx(abs(genes["here"] - 18 / 978) / 0.05)


def test_participation_ratio_counts_equal_components():
    assert quality.participation_ratio(np.array([0.25, 0.5, 0.75, 1.0])) == pytest.approx(4)
    assert quality.participation_ratio(np.array([1.0, 1.0])) == pytest.approx(1)


def test_ridge_foretells_what_can_be_foretold_and_nothing_else():
    rng = np.random.default_rng(5)
    cp = rng.normal(size=(120, 10))
    related = cp @ rng.normal(size=(10, 40)) + 0.1 * rng.normal(size=(120, 40))
    related[:, 0] = 1.0  # a gene that never varies has no R2
    r2, nearest = quality.predictability(cp, related)
    assert len(r2) == 39 and np.median(r2) > 0.9 and nearest > 0.9
    r2, nearest = quality.predictability(cp, rng.normal(size=(120, 40)))
    assert np.quantile(r2, 0.95) < 0.05 and nearest < 0.3
    r2, nearest = quality.predictability(cp[:8], related[:8])
    assert np.isnan(r2).all() and np.isnan(nearest)


def test_the_most_plate_dependent_feature_is_found():
    table = wells()
    assert quality.most_plate_dependent(table) == "Cells_3"
    values = quality.control_values(table, "Cells_3")
    assert values.groupby("plate").size().tolist() == [8, 8, 8]
    np.testing.assert_array_equal(values["value"], table.loc[table[CONTROL], "Cells_3"])
    assert quality.most_plate_dependent(table[~table[CONTROL]]) == "Cells_0"
    assert len(quality.control_values(table[~table[CONTROL]], "Cells_0")) == 0
