"""What profiles look like before anything is learned: replicates, spectra, correlations, and how real screens look."""

import numpy as np
import pandas as pd

from cpx_utils.profiles import CONTROL, PLATE, feature_columns, treatments

# What real screens show (statistic -> value, source), to lay beside the screen at hand.
PUBLISHED_STATISTICS = pd.DataFrame(
    [
        ("CP replicate correlation", "5%", 0.02, "CDRP-bio"),
        ("CP replicate correlation", "median", 0.16, "CDRP-bio"),
        ("CP replicate correlation", "95%", 0.55, "CDRP-bio"),
        ("TX replicate correlation", "5%", -0.23, "CDRP-bio"),
        ("TX replicate correlation", "median", 0.10, "CDRP-bio"),
        ("TX replicate correlation", "95%", 0.49, "CDRP-bio"),
        ("CP variance, share of component 1", "share", 0.29, "cmea-u2os"),
        ("CP components for a share of the variance", "50%", 2, "cmea-u2os"),
        ("CP components for a share of the variance", "80%", 8, "cmea-u2os"),
        ("CP components for a share of the variance", "90%", 19, "cmea-u2os"),
        ("TX variance, share of component 1", "share", 0.07, "cmea-u2os"),
        ("TX components for a share of the variance", "50%", 33, "cmea-u2os"),
        ("TX components for a share of the variance", "80%", 81, "cmea-u2os"),
        ("TX components for a share of the variance", "90%", 107, "cmea-u2os"),
        ("CP feature correlation, absolute", "median", 0.29, "cmea-u2os"),
        ("CP feature correlation, absolute", "90%", 0.66, "cmea-u2os"),
        ("CP feature correlation, absolute", "99%", 0.89, "cmea-u2os"),
        ("TX feature correlation, absolute", "median", 0.08, "cmea-u2os"),
        ("TX feature correlation, absolute", "90%", 0.19, "cmea-u2os"),
        ("TX feature correlation, absolute", "99%", 0.34, "cmea-u2os"),
    ],
    columns=["group", "statistic", "reference", "source"],
)
N_COMPOUNDS_IN_SPECTRA = 162  # as in cmea-u2os: spectra of more compounds are flatter


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
        `kind` (replicates, null) and `correlation`; no rows where no treatment has two wells.

    References
    ----------
    Haghighi 2022 (doi 10.1038/s41592-022-01667-0), replicate correlation.
    """
    wells = table[~table[CONTROL].to_numpy(bool)]
    values = wells[feature_columns(wells)].to_numpy(np.float64)
    values = np.nan_to_num(values - np.nanmean(values, axis=1, keepdims=True))
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    treatment, _ = pd.factorize(treatments(wells))
    order = np.argsort(treatment, kind="stable")
    groups = [rows for rows in np.split(order, np.flatnonzero(np.diff(treatment[order])) + 1) if len(rows) > 1]
    if not groups:
        return pd.DataFrame({"kind": pd.Series(dtype=str), "correlation": pd.Series(dtype=float)})
    rng = np.random.default_rng(seed)
    size = int(np.median([len(rows) for rows in groups]))
    null = [rng.choice(len(values), size, replace=False) for _ in range(n_null)]
    null = [rows for rows in null if len(set(treatment[rows])) == size]
    kinds = ["replicates"] * len(groups) + ["null"] * len(null)
    correlations = [_median_correlation(values[rows]) for rows in (*groups, *null)]
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
    return float((by_kind.get_group("replicates") > by_kind.get_group("null").quantile(0.9)).mean())


def _median_correlation(units):
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


def screen_statistics(correlations: dict[str, pd.DataFrame], profiles: dict[str, np.ndarray]) -> pd.DataFrame:
    """The statistics of `PUBLISHED_STATISTICS` for the screen at hand.

    Parameters
    ----------
    correlations
        `CP` and `TX`: from `replicate_correlations`.
    profiles
        `CP` and `TX`: one consensus profile a compound (n_compounds, n_features), CP after the inverse hyperbolic sine.

    Returns
    -------
    DataFrame
        The rows of `PUBLISHED_STATISTICS` with `here`; NaN where the screen has no replicates.
    """
    found = {}
    for modality, table in correlations.items():
        replicates = table.loc[table["kind"] == "replicates", "correlation"]
        for name, quantile in (("5%", 0.05), ("median", 0.5), ("95%", 0.95)):
            found[f"{modality} replicate correlation", name] = replicates.quantile(quantile)
    for modality, values in profiles.items():
        values = values[:N_COMPOUNDS_IN_SPECTRA]
        cumulative = spectrum(values)
        found[f"{modality} variance, share of component 1", "share"] = cumulative[0]
        for name in ("50%", "80%", "90%"):
            needed = 1 + int(np.searchsorted(cumulative, float(name[:-1]) / 100))
            found[f"{modality} components for a share of the variance", name] = needed
        between = feature_correlations(values)
        for name, quantile in (("median", 0.5), ("90%", 0.9), ("99%", 0.99)):
            found[f"{modality} feature correlation, absolute", name] = np.quantile(between, quantile)
    here = [
        found.get(key, np.nan)
        for key in PUBLISHED_STATISTICS[["group", "statistic"]].itertuples(index=False, name=None)
    ]
    return PUBLISHED_STATISTICS.assign(here=np.asarray(here, dtype=float))


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
