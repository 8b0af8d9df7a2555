"""From wells to comparable numbers: plate normalisation, in-fold feature preparation, consensus and pairing.

`normalise_plates` touches plates that hold test compounds, and looks at nothing but their negative controls; so do
sphering (`encoders.SpheredCP`) and the centre from which similarities are measured (`crossfit`).
Everything in `FeaturePreparation` is fitted on training wells.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    METADATA_COLUMNS,
    PLATE,
    Screen,
    ScreenError,
    feature_columns,
    feature_matrix,
    some_names,
    treatments,
)

NO_SPREAD = 1e-9  # a spread up to this is none
TO_DEVIATION = 1.4826  # from a median absolute deviation to the standard deviation of normal values
# Times the squared spread over the number of wells: the variance of a median; over that number alone: of a log MAD. Of
# four to eight wells, normal or heavy-tailed, by simulation (1.6 and 1.4 for very many).
FEW_WELLS = 2.5
MIN_PLATES = 10  # fewer don't tell how much plates differ beyond chance, so each is taken at its own word
LEARNED = ("median_", "mean_", "scale_")  # by `FeaturePreparation`, of each feature
HARDLY_VARIES = 0.01  # of a feature's usual spread; plates of one file may come in units that differ by tens


def leave_out_plates(screen: Screen, min_controls: int = 4, few_controls: str = "leave_out") -> Screen:
    """The screen without the wells of plates that can't be normalised, with a note that counts them.

    A modality without any negative control is left as it is, and so is a screen that is normalised already: their
    profiles must be comparable.

    `min_controls` and `few_controls` are those of `normalise_plates`. Raises ScreenError where no plate of a modality
    has enough controls.
    """
    kept, notes = {}, list(screen.notes)
    for name in () if screen.normalised else ("cp", "tx"):
        table = kept[name] = getattr(screen, name)
        n_controls = table.groupby(PLATE)[CONTROL].sum()
        few = n_controls[n_controls < min_controls]
        if few_controls == "treated" or few.empty or not n_controls.any():
            continue
        if len(few) == len(n_controls):
            raise ScreenError(
                f"{screen.name}: no {name.upper()} plate has {min_controls} negative controls to be normalised to (at "
                f"most {n_controls.max()}); lower min_controls, or set few_controls=treated to use all wells of a plate"
            )
        is_left = table[PLATE].isin(few.index)
        kept[name] = table[~is_left].reset_index(drop=True)
        notes.append(
            f"{len(few)} {name.upper()} plates with {int(is_left.sum())} wells have fewer than {min_controls} negative "
            f"controls and are left out: {some_names(few.index)}."
        )
    return replace(screen, **kept, notes=tuple(notes))


def normalise_plates(
    table: pd.DataFrame,
    min_controls: int = 4,
    few_controls: str = "leave_out",
    shrink: bool = True,
    as_they_are: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Express every feature in robust units of its own plate's negative controls (median and MAD).

    Parameters
    ----------
    table
        Wells: metadata columns and features. A table without any negative control is left as it is.
    min_controls
        Negative controls that a plate needs: a median absolute deviation of two or three wells is mostly chance.
    few_controls
        What becomes of the wells of a plate with fewer. `leave_out`: they are not in the result, since raw units beside
        normalised ones would be the strongest signal of all. `treated`: all wells of the plate stand in for controls,
        which is right where most treatments do nothing.
    shrink
        Whether, of ten plates or more, a plate's centre and spread are drawn towards those of all as far as they differ
        by chance (:func:`shrunken`). Without, each plate is what its few controls say, and profiles tell their plate.
    as_they_are
        Whether the profiles are normalised already (`Screen.normalised`): then no value changes.

    Returns
    -------
    table, report
        The wells, normalised; and one row a plate: `plate`, `n_wells`, `n_controls`, `normalised`, `n_flat` (features
        whose reference wells hardly vary there) and `largest` (absolute value after normalisation).

    Notes
    -----
    Where a feature's spread on a plate is below a hundredth of its median spread over all plates, that median is used:
    a division by almost nothing would give values of a hundred million. Caicedo 2017, doi 10.1038/nmeth.4397, gives the
    method its reasons.
    """
    features, has_controls = feature_columns(table), table[CONTROL].any() and not as_they_are
    references = {}  # the wells that each plate is normalised to
    for plate, wells in table.groupby(PLATE) if has_controls else ():
        controls = wells[wells[CONTROL].astype(bool)]
        if len(controls) >= min_controls:
            references[plate] = controls[features]
        elif few_controls == "treated":
            references[plate] = wells[features]
    centres, scales, n_flat = _plate_units(references, features, shrink)
    values = table[features].to_numpy(np.float32, copy=True)
    for plate in references:
        here = (table[PLATE] == plate).to_numpy()
        values[here] = (table.loc[here, features] - centres[plate]) / scales[plate]
    normalised = pd.concat([table[METADATA_COLUMNS], pd.DataFrame(values, table.index, features)], axis=1)
    if has_controls:
        normalised = normalised[table[PLATE].isin(references)]
    report = table.groupby(PLATE).agg(n_wells=(CONTROL, "size"), n_controls=(CONTROL, "sum"))
    report = report.assign(normalised=report.index.isin(references), n_flat=n_flat.reindex(report.index, fill_value=0))
    largest = normalised[features].abs().max(axis=1).groupby(normalised[PLATE].to_numpy()).max()
    return normalised, report.assign(largest=largest).rename_axis("plate").reset_index()


def _plate_units(
    references: dict[str, pd.DataFrame], features: list[str], shrink: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Centre and scale of each plate (n_features, n_plates) by its reference wells, and how many features are flat."""
    spreads = pd.DataFrame({plate: robust_spread(wells) for plate, wells in references.items()}, index=features)
    centres = pd.DataFrame({plate: wells.median() for plate, wells in references.items()}, index=features)
    scales = spreads.apply(enough_spread, args=(usual_spread(spreads.T).fillna(1.0),))
    n_flat = (scales != spreads).sum()
    if shrink and len(references) >= MIN_PLATES:
        n_wells = pd.Series({plate: len(wells) for plate, wells in references.items()})
        centres = shrunken(centres, scales**2 * FEW_WELLS / n_wells)
        scales = np.exp(shrunken(np.log(scales), 0 * scales + FEW_WELLS / n_wells))
    return centres, scales, n_flat


def shrunken(estimates: pd.DataFrame, variances: pd.DataFrame) -> pd.DataFrame:
    r"""Estimates of plates (n_features, n_plates) drawn towards their median by the share of chance in them.

    :math:`m + (x - m)\, \tau^2 / (\tau^2 + v)` with the sampling variance :math:`v` of an estimate and the variance
    :math:`\tau^2` between plates beyond it, feature by feature (Efron and Morris 1975, doi
    10.1080/01621459.1975.10479864). Four controls a plate know its centre to within half a standard deviation: taken at
    their word they move all wells of the plate together, in a direction of its own. Plates that truly differ stay
    apart: what their estimates vary more than chance would let them (2.6 standard errors of a variance) counts.
    """
    middle = estimates.median(axis=1)
    by_chance = 1.0 + 2.6 * np.sqrt(2.0 / max(estimates.shape[1] - 1, 1))
    between = (estimates.var(axis=1).fillna(0.0) - by_chance * variances.mean(axis=1)).clip(lower=0.0)
    weight = variances.rdiv(1.0).mul(between, axis=0)
    return estimates.sub(middle, axis=0).mul(weight / (1.0 + weight)).add(middle, axis=0)


def robust_spread(wells: pd.DataFrame) -> pd.Series:
    """Standard deviation of each feature, estimated by the median absolute deviation, which outliers hardly move."""
    return (wells - wells.median()).abs().median() / (1 / TO_DEVIATION)  # to the last digit as scipy scales it


def usual_spread(spreads: pd.DataFrame) -> pd.Series:
    """A feature's median spread over plates (n_plates, n_features) where it varies at all; NaN where it never does."""
    return spreads.where(spreads > NO_SPREAD).median()


def enough_spread(spread: pd.Series | np.ndarray, usual: pd.Series | np.ndarray) -> np.ndarray:
    """Spreads (n_features,) to divide by: a feature's usual one where its own is below a hundredth of that."""
    return np.where(spread > np.maximum(HARDLY_VARIES * usual, NO_SPREAD), spread, usual)


class FeaturePreparation(TransformerMixin, BaseEstimator):
    """Choose, repair, tame and standardise features; everything is learned from training wells.

    In order: drop features that are missing too often or hardly vary; fill gaps with the training median; drop features
    that repeat another one (both by pycytominer's `feature_select`); compress heavy tails with the inverse hyperbolic
    sine (`tame_tails`; linear near 0, logarithmic far out, so that one broken segmentation doesn't own the variance);
    centre and scale to unit variance.

    Parameters
    ----------
    max_missing
        Largest tolerated share of missing values of a feature.
    max_correlation
        Of two features with a higher correlation one is dropped; 1 keeps all. As in pycytominer the sign counts:
        mirrored features stay.
    tame_tails
        Whether to apply the inverse hyperbolic sine; for CP, whose features are heavy-tailed.

    Attributes
    ----------
    features_ : list of str
        The features kept, in order.
    median_, mean_, scale_ : arrays (n_kept,)
    """

    def __init__(self, max_missing: float = 0.05, max_correlation: float = 0.95, tame_tails: bool = True):
        self.max_missing = max_missing
        self.max_correlation = max_correlation
        self.tame_tails = tame_tails

    def fit(self, wells: pd.DataFrame, y: None = None) -> "FeaturePreparation":
        """Learn from training wells (n_wells, n_features); raises ScreenError if no feature survives."""
        from pycytominer import feature_select

        wells = wells.replace([np.inf, -np.inf], np.nan)
        if not ((wells.isna().mean() <= self.max_missing) & (wells.var(ddof=0) > 1e-6)).any():
            raise ScreenError(
                f"none of {wells.shape[1]} features varies and is measured in at least "
                f"{1 - self.max_missing:.0%} of the training wells; check the feature columns of this screen"
            )
        kept = feature_select(
            wells,
            features=list(wells.columns),
            operation=["drop_na_columns", "variance_threshold"],
            na_cutoff=self.max_missing,
        )
        medians = kept.median()
        kept = kept.fillna(medians)  # with gaps, correlations would take hours on a large screen
        if self.max_correlation < 1:
            kept = feature_select(
                kept,
                features=list(kept.columns),
                operation="correlation_threshold",
                corr_threshold=self.max_correlation,
            )
        self.features_ = list(kept.columns)
        self.median_ = medians[self.features_].to_numpy(np.float64)
        filled = self._tame(kept.to_numpy(np.float64))
        self.mean_ = filled.mean(axis=0)
        spread = filled.std(axis=0)
        self.scale_ = np.where(spread > 1e-9, spread, 1.0)
        return self

    def transform(self, wells: pd.DataFrame) -> np.ndarray:
        """Prepared features, float32 (n_wells, n_kept); raises ScreenError when a kept feature isn't there."""
        missing = [name for name in self.features_ if name not in wells.columns]
        if missing:
            raise ScreenError(
                f"{len(missing)} of {len(self.features_)} features that the encoder was trained on are missing, "
                f"the first is {missing[0]!r}; the new profiles need the training screen's feature names"
            )
        values = wells[self.features_].to_numpy(np.float64)
        values = np.where(np.isfinite(values), values, self.median_)
        return ((self._tame(values) - self.mean_) / self.scale_).astype(np.float32)

    def _tame(self, values: np.ndarray) -> np.ndarray:
        return np.arcsinh(values) if self.tame_tails else values

    def save(self, path: str | Path) -> None:
        """Write as JSON: parameters, feature names and the numbers learned."""
        learned = {name: getattr(self, name).tolist() for name in LEARNED}
        text = json.dumps({"parameters": self.get_params(), "features": self.features_, **learned})
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "FeaturePreparation":
        """Read what `save` wrote; raises ScreenError for a file that holds no preparation."""
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            preparation = cls(**stored["parameters"])
            preparation.features_ = list(stored["features"])
            learned = np.array([stored[name] for name in LEARNED], dtype=np.float64)
            if learned.shape != (3, len(set(preparation.features_))) or not np.isfinite(learned).all():
                raise ValueError("it needs three finite numbers of each of its features")
            preparation.median_, preparation.mean_, preparation.scale_ = learned
            if not (preparation.scale_ > 0).all():
                raise ValueError("scale_ isn't above 0 everywhere")
        except (OSError, AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise ScreenError(f"{path} holds no feature preparation of this version of cpx ({error})") from error
        return preparation


def consensus(wells: pd.DataFrame, values: np.ndarray, by: str = "treatment") -> tuple[pd.DataFrame, np.ndarray]:
    """Average wells into one profile a treatment or a compound; negative controls are left out.

    Parameters
    ----------
    wells
        Metadata of the wells (n_wells rows).
    values
        Their profiles (n_wells, n_dimensions).
    by
        `treatment` (compound at a nominal dose) or `compound`; a compound's doses weigh the same, however many wells
        each has.

    Returns
    -------
    metadata, values
        Metadata_Compound and Metadata_Dose (NaN by compound), sorted; and the averages (n_groups, n_dimensions).
    """
    keep = ~wells[CONTROL].to_numpy(bool)
    wells, values = wells[keep].reset_index(drop=True), values[keep]
    grouping = [wells[COMPOUND], treatments(wells)]
    averages = pd.DataFrame(values).groupby(grouping).mean()
    doses = wells[DOSE].groupby(grouping).first().to_numpy()
    if by == "compound":
        averages, doses = averages.groupby(level=0).mean(), np.nan
    metadata = pd.DataFrame({COMPOUND: averages.index.get_level_values(0), DOSE: doses})
    return metadata, averages.to_numpy(np.float32)


def pair_rows(cp_wells: pd.DataFrame, tx_treatments: pd.DataFrame) -> np.ndarray:
    """Row of the TX treatment that belongs to each CP well: same compound, same nominal dose.

    Parameters
    ----------
    cp_wells, tx_treatments
        Metadata with Metadata_Compound and Metadata_Dose. Doses are compared to three significant digits; where one
        modality has no doses, the compound alone decides.

    Returns
    -------
    array of int (n_cp_wells,)
        Index into `tx_treatments`, -1 for wells without a partner (controls, unpaired treatments).
    """
    by_dose = cp_wells[DOSE].notna().any() and tx_treatments[DOSE].notna().any()
    key = treatments if by_dose else (lambda table: table[COMPOUND])
    position = pd.Series(np.arange(len(tx_treatments)), index=key(tx_treatments).to_numpy())
    position = position[~position.index.duplicated()]
    partner = key(cp_wells).map(position).fillna(-1).to_numpy(int, copy=True)
    partner[cp_wells[CONTROL].to_numpy(bool)] = -1
    return partner


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
    treatment, names = pd.factorize(treatments(wells))
    groups = [np.flatnonzero(treatment == one) for one in range(len(names))]
    groups = [rows for rows in groups if len(rows) > 1]
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
    """Share of treatments above the null's 90th percentile in `replicate_correlations`; chance is 0.1, NaN: no rows."""
    is_replicates = correlations["kind"] == "replicates"
    replicates, null = correlations.loc[is_replicates, "correlation"], correlations.loc[~is_replicates, "correlation"]
    return float((replicates > null.quantile(0.9)).mean())


def _median_correlation(wells):
    """Of each pair of rows; a group at a time in double precision, since the whole screen so would not fit."""
    units = np.nan_to_num(wells - np.nanmean(wells, axis=1, keepdims=True))
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.median((units @ units.T)[np.triu_indices(len(units), 1)])


def most_plate_dependent(table: pd.DataFrame) -> str:
    """Name of the feature whose negative controls differ most between plates, for their spread within plates.

    The first one where fewer than two plates have controls.
    """
    controls = table[table[CONTROL].to_numpy(bool)]
    plates = controls.groupby(PLATE)[feature_columns(table)]
    return str((plates.median().std() / plates.std().median()).fillna(0).idxmax())


def control_values(table: pd.DataFrame, feature: str) -> pd.DataFrame:
    """Values of one feature in every negative-control well: long, `plate`, `value`."""
    controls = table[table[CONTROL].to_numpy(bool)]
    return pd.DataFrame({"plate": controls[PLATE].to_numpy(), "value": controls[feature].to_numpy()})
