"""What profiles look like before anything is learned: replicates, spectra, correlations, and how real screens look."""

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from cpx_utils.encoders import RidgeTX
from cpx_utils.metrics import nearest_decile, retrieval_rank
from cpx_utils.profiles import CONTROL, PLATE, feature_columns, feature_matrix, treatments

# What real screens show, to lay beside the screen at hand: CDRP-bio and LINCS Pilot 1 from the replicate correlations
# that Haghighi 2022 published, cmea-u2os (a consensus profile for each of 162 compounds) measured with this module.
PUBLISHED_STATISTICS = pd.DataFrame(
    [
        ("CP replicate correlation", "5%", 0.02, "CDRP-bio"),
        ("CP replicate correlation", "median", 0.16, "CDRP-bio"),
        ("CP replicate correlation", "95%", 0.55, "CDRP-bio"),
        ("CP replicate correlation", "null, 90%", 0.34, "CDRP-bio"),
        ("TX replicate correlation", "5%", -0.23, "CDRP-bio"),
        ("TX replicate correlation", "median", 0.10, "CDRP-bio"),
        ("TX replicate correlation", "95%", 0.49, "CDRP-bio"),
        ("TX replicate correlation", "null, 90%", 0.19, "CDRP-bio"),
        ("treatments above 90% of the null", "CP", 0.14, "CDRP-bio"),
        ("treatments above 90% of the null", "TX", 0.29, "CDRP-bio"),
        ("CP replicate correlation", "5%", 0.26, "LINCS Pilot 1"),
        ("CP replicate correlation", "median", 0.53, "LINCS Pilot 1"),
        ("CP replicate correlation", "95%", 0.86, "LINCS Pilot 1"),
        ("CP replicate correlation", "null, 90%", 0.53, "LINCS Pilot 1"),
        ("TX replicate correlation", "5%", -0.02, "LINCS Pilot 1"),
        ("TX replicate correlation", "median", 0.05, "LINCS Pilot 1"),
        ("TX replicate correlation", "95%", 0.40, "LINCS Pilot 1"),
        ("TX replicate correlation", "null, 90%", 0.09, "LINCS Pilot 1"),
        ("treatments above 90% of the null", "CP", 0.50, "LINCS Pilot 1"),
        ("treatments above 90% of the null", "TX", 0.28, "LINCS Pilot 1"),
        ("variance of component 1, share", "CP", 0.29, "cmea-u2os"),
        ("variance of component 1, share", "TX", 0.07, "cmea-u2os"),
        ("participation ratio of the components", "CP", 6.3, "cmea-u2os"),
        ("participation ratio of the components", "TX", 65.5, "cmea-u2os"),
        ("CP components for a share of the variance", "50%", 2, "cmea-u2os"),
        ("CP components for a share of the variance", "80%", 8, "cmea-u2os"),
        ("CP components for a share of the variance", "90%", 19, "cmea-u2os"),
        ("TX components for a share of the variance", "50%", 33, "cmea-u2os"),
        ("TX components for a share of the variance", "80%", 81, "cmea-u2os"),
        ("TX components for a share of the variance", "90%", 107, "cmea-u2os"),
        ("CP feature correlation, absolute", "median", 0.29, "cmea-u2os"),
        ("CP feature correlation, absolute", "90%", 0.66, "cmea-u2os"),
        ("CP feature correlation, absolute", "99%", 0.89, "cmea-u2os"),
        ("TX feature correlation, absolute", "median", 0.08, "cmea-u2os"),
        ("TX feature correlation, absolute", "90%", 0.19, "cmea-u2os"),
        ("TX feature correlation, absolute", "99%", 0.34, "cmea-u2os"),
        ("ridge CP→TX, out-of-fold R² of genes", "median", 0.00, "cmea-u2os"),
        ("ridge CP→TX, out-of-fold R² of genes", "75%", 0.02, "cmea-u2os"),
        ("ridge CP→TX, out-of-fold R² of genes", "95%", 0.07, "cmea-u2os"),
        ("ridge CP→TX, shares", "genes, R² above 0.1", 18 / 978, "cmea-u2os"),
        ("ridge CP→TX, shares", "own TX in nearest 10%", 0.28, "cmea-u2os"),
    ],
    columns=["group", "statistic", "reference", "source"],
)
N_COMPOUNDS_MEASURED = 162  # as in cmea-u2os: spectra of more compounds are flatter, and ridge learns more from them
# How far a screen may lie from the reference and still count as alike. 0.08 in a correlation or share is a fraction of
# what separates CDRP-bio from LINCS Pilot 1 in CP, and more than two seeds of the simulator usually differ by. R2 of
# genes are small numbers, of which 0.08 would be all. Numbers of components are ratios by nature.
ABSOLUTE_TOLERANCE = 0.08
R2_TOLERANCE = 0.05
FACTOR_TOLERANCE = 1.5


def replicate_correlations(table: pd.DataFrame, seed: int = 0, n_null: int = 1000) -> pd.DataFrame:
    """Median Pearson correlation between the replicates of each treatment, beside groups of unlike wells.

    Parameters
    ----------
    table
        Normalised wells of one modality; negative controls are left out.
    seed
        Of the random groups.
    n_null
        Number of groups of wells of different treatments, as large as the usual treatment.

    Returns
    -------
    DataFrame
        `kind` (replicates, different treatments) and `correlation`; no rows where no treatment has two wells.

    References
    ----------
    Haghighi 2022 (doi 10.1038/s41592-022-01667-0), replicate correlation.
    """
    wells = table[~table[CONTROL].to_numpy(bool)]
    values = feature_matrix(wells)
    treatment, _ = pd.factorize(treatments(wells))
    order = np.argsort(treatment, kind="stable")
    groups = [rows for rows in np.split(order, np.flatnonzero(np.diff(treatment[order])) + 1) if len(rows) > 1]
    if not groups:
        return pd.DataFrame({"kind": pd.Series(dtype=str), "correlation": pd.Series(dtype=float)})
    rng = np.random.default_rng(seed)
    size = int(np.median([len(rows) for rows in groups]))
    null = [rng.choice(len(values), size, replace=False) for _ in range(n_null)]
    null = [rows for rows in null if len(set(treatment[rows])) == size]
    kinds = ["replicates"] * len(groups) + ["different treatments"] * len(null)
    correlations = [_median_correlation(values[rows].astype(float)) for rows in (*groups, *null)]
    return pd.DataFrame({"kind": kinds, "correlation": correlations})


def share_beyond_chance(correlations: pd.DataFrame) -> float:
    """Share of treatments above the null's 90th percentile; NaN for a table without rows.

    Parameters
    ----------
    correlations
        From `replicate_correlations`. Chance is 0.1.
    """
    by_kind = correlations.groupby("kind")["correlation"]
    if len(by_kind) < 2:
        return float("nan")
    return float((by_kind.get_group("replicates") > by_kind.get_group("different treatments").quantile(0.9)).mean())


def _median_correlation(wells):
    """Of each pair of rows; a group at a time in double precision, since the whole screen so would not fit."""
    units = np.nan_to_num(wells - np.nanmean(wells, axis=1, keepdims=True))
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.median((units @ units.T)[np.triu_indices(len(units), 1)])


def spectrum(values: np.ndarray) -> np.ndarray:
    """Cumulative share of the variance of standardised features by component: (min(n, n_features),)."""
    spread = values.std(axis=0)
    standardised = (values - values.mean(axis=0))[:, spread > 1e-9] / spread[spread > 1e-9]
    variance = np.linalg.svd(standardised, compute_uv=False) ** 2
    return np.cumsum(variance) / variance.sum()


def feature_correlations(values: np.ndarray) -> np.ndarray:
    """Absolute Pearson correlations between all pairs of features, (n_features * (n_features - 1) / 2,)."""
    kept = values[:, values.std(axis=0) > 1e-9]
    return np.abs(np.corrcoef(kept.T))[np.triu_indices(kept.shape[1], 1)]


def participation_ratio(cumulative: np.ndarray) -> float:
    r"""Effective number of components, :math:`1 / \sum_k p_k^2` with the variance shares :math:`p_k`.

    Parameters
    ----------
    cumulative
        From `spectrum`.
    """
    shares = np.diff(cumulative, prepend=0.0)
    return float(1 / (shares**2).sum())


def predictability(
    cp: np.ndarray, tx: np.ndarray, n_repeats: int = 2, n_folds: int = 5, seed: int = 0
) -> tuple[np.ndarray, float]:
    """How well ridge regression foretells the TX of unseen compounds from their CP.

    Parameters
    ----------
    cp, tx
        One profile a compound, the same compounds in both (n_compounds, n_features).
    n_repeats, n_folds
        Folds by compound, and how many times they are drawn.
    seed
        Of the folds.

    Returns
    -------
    r2 : array (n_genes,)
        Out-of-fold coefficient of determination of each gene, mean over repeats.
    nearest : float
        Share of compounds whose own TX profile ranks in the nearest tenth of their test fold.

    Notes
    -----
    Genes that never vary are left out. Both are NaN where test folds would hold fewer than two compounds.
    """
    cp, tx = np.asarray(cp, dtype=np.float64), np.asarray(tx, dtype=np.float64)
    tx = tx[:, tx.std(axis=0) > 1e-9]
    if len(cp) < 2 * n_folds:
        return np.full(tx.shape[1], np.nan), float("nan")
    r2, near = [], []
    for repeat in range(n_repeats):
        predicted = np.empty_like(tx)
        for train, test in KFold(n_folds, shuffle=True, random_state=seed + repeat).split(cp):
            cp_scaler, tx_scaler = StandardScaler().fit(cp[train]), StandardScaler().fit(tx[train])
            ridge = RidgeTX().fit(cp_scaler.transform(cp[train]), tx_scaler.transform(tx[train]), train)
            codes = ridge.transform(cp_scaler.transform(cp[test]))  # (n_test, n_components)
            predicted[test] = tx_scaler.inverse_transform(codes @ ridge.tx_projection_.T + ridge.tx_mean_)
            rank = retrieval_rank(codes, ridge.transform_tx(tx_scaler.transform(tx[test])))
            near.extend(nearest_decile(rank, len(test)))
        r2.append(1 - ((tx - predicted) ** 2).sum(axis=0) / ((tx - tx.mean(axis=0)) ** 2).sum(axis=0))
    return np.mean(r2, axis=0), float(np.mean(near))


def screen_statistics(
    correlations: dict[str, pd.DataFrame], profiles: dict[str, np.ndarray], beside: str = "CDRP-bio"
) -> pd.DataFrame:
    """The statistics of `PUBLISHED_STATISTICS` for the screen at hand, and how far it lies from the published ones.

    Parameters
    ----------
    correlations
        `CP` and `TX`: from `replicate_correlations`.
    profiles
        `CP` and `TX`: one consensus profile for each of the same compounds (n_compounds, n_features), CP after the
        inverse hyperbolic sine. The first `N_COMPOUNDS_MEASURED` are looked at.
    beside
        The real screen whose replicates stand beside these: `CDRP-bio` or `LINCS Pilot 1`. All else is measured on
        cmea-u2os.

    Returns
    -------
    DataFrame
        Rows of `PUBLISHED_STATISTICS` with `here` (NaN where the screen has no replicates) and `deviation` from the
        reference in tolerances: 1 is `ABSOLUTE_TOLERANCE`, `R2_TOLERANCE` for what says R², and for numbers of
        components the `FACTOR_TOLERANCE`.
    """
    found = {}
    for modality, table in correlations.items():
        for name, quantile in (("5%", 0.05), ("median", 0.5), ("95%", 0.95)):
            replicates = table.loc[table["kind"] == "replicates", "correlation"]
            found[f"{modality} replicate correlation", name] = replicates.quantile(quantile)
        null = table.loc[table["kind"] == "different treatments", "correlation"]
        found[f"{modality} replicate correlation", "null, 90%"] = null.quantile(0.9)
        found["treatments above 90% of the null", modality] = share_beyond_chance(table)
    profiles = {modality: values[:N_COMPOUNDS_MEASURED] for modality, values in profiles.items()}
    for modality, values in profiles.items():
        cumulative = spectrum(values)
        found["variance of component 1, share", modality] = cumulative[0]
        found["participation ratio of the components", modality] = participation_ratio(cumulative)
        for name in ("50%", "80%", "90%"):
            needed = 1 + int(np.searchsorted(cumulative, float(name[:-1]) / 100))
            found[f"{modality} components for a share of the variance", name] = needed
        between = feature_correlations(values)
        for name, quantile in (("median", 0.5), ("90%", 0.9), ("99%", 0.99)):
            found[f"{modality} feature correlation, absolute", name] = np.quantile(between, quantile)
    r2, nearest = predictability(profiles["CP"], profiles["TX"])
    for name, quantile in (("median", 0.5), ("75%", 0.75), ("95%", 0.95)):
        found["ridge CP→TX, out-of-fold R² of genes", name] = np.quantile(r2, quantile)
    found["ridge CP→TX, shares", "genes, R² above 0.1"] = np.where(np.isnan(r2), np.nan, r2 > 0.1).mean()
    found["ridge CP→TX, shares", "own TX in nearest 10%"] = nearest
    rows = PUBLISHED_STATISTICS[PUBLISHED_STATISTICS["source"].isin([beside, "cmea-u2os"])].reset_index(drop=True)
    here = [found.get(key, np.nan) for key in rows[["group", "statistic"]].itertuples(index=False, name=None)]
    rows = rows.assign(here=np.asarray(here, dtype=float))
    of_r2 = (rows["group"] + rows["statistic"]).str.contains("R²")
    distance = (rows["here"] - rows["reference"]).abs() / np.where(of_r2, R2_TOLERANCE, ABSOLUTE_TOLERANCE)
    counts = rows["group"].str.contains("components")
    factor = np.log(rows.loc[counts, "here"] / rows.loc[counts, "reference"]).abs() / np.log(FACTOR_TOLERANCE)
    distance[counts] = factor
    return rows.assign(deviation=distance.round(9))  # a factor of exactly 1.5 is 1 and no more


def most_plate_dependent(table: pd.DataFrame) -> str:
    """The feature whose negative controls differ most between plates, for their spread within plates.

    Returns
    -------
    str
        Name of a feature; the first one where no plate has controls.
    """
    features = feature_columns(table)
    controls = table[table[CONTROL].to_numpy(bool)]
    plates = controls.groupby(PLATE)[features]
    if len(plates) < 2:
        return features[0]
    return str((plates.median().std() / plates.std().median()).fillna(0).idxmax())


def control_values(table: pd.DataFrame, feature: str) -> pd.DataFrame:
    """Values of one feature in every negative-control well: long, `plate`, `value`."""
    controls = table[table[CONTROL].to_numpy(bool)]
    return pd.DataFrame({"plate": controls[PLATE].to_numpy(), "value": controls[feature].to_numpy()})
