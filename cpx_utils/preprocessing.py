"""From wells to comparable numbers: plate normalisation, in-fold feature preparation, consensus and pairing.

Only `normalise_plates` may touch plates that hold test compounds, and it looks at nothing but their negative controls.
Everything in `FeaturePreparation` is fitted on training wells.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    METADATA_COLUMNS,
    PLATE,
    ScreenError,
    feature_columns,
    treatments,
)


def normalise_plates(table: pd.DataFrame, min_controls: int = 4) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Express every feature in robust units of its own plate's negative controls (median and MAD).

    Parameters
    ----------
    table
        Wells: metadata columns and features.
    min_controls
        Plates with fewer negative controls are left as they are, since a median absolute deviation of two or three
        wells is mostly chance.

    Returns
    -------
    table, report
        The same wells, normalised; and one row a plate: `plate`, `n_wells`, `n_controls`, `normalised`.

    Notes
    -----
    Features without any spread in a plate's controls are scaled by that feature's median spread over all plates, not
    by a tiny number that would blow them up. Caicedo 2017, doi 10.1038/nmeth.4397, gives the method its reasons.
    """
    from pycytominer import normalize

    features = feature_columns(table)
    index, table = table.index, table.reset_index(drop=True)  # plates of two files may number their wells alike
    controls_of = {plate: wells.loc[wells[CONTROL], features] for plate, wells in table.groupby(PLATE)}
    controls_of = {plate: controls for plate, controls in controls_of.items() if len(controls) >= min_controls}
    spread = pd.DataFrame({plate: _spread(controls) for plate, controls in controls_of.items()}, index=features)
    usual_spread = spread.where(spread > 1e-9).median(axis=1).fillna(1.0)  # (n_features,)
    pieces, report = [], []
    for plate, wells in table.groupby(PLATE, sort=True):
        enough = plate in controls_of
        report.append((plate, len(wells), int(wells[CONTROL].sum()), enough))
        if enough:
            controls, flat = controls_of[plate], spread.index[spread[plate] <= 1e-9]
            normalised = normalize(
                wells,
                features=features,
                meta_features=METADATA_COLUMNS,
                samples=f"{CONTROL} == True",
                method="mad_robustize",
                mad_robustize_epsilon=0,
            ).set_axis(wells.index)
            normalised[flat] = (wells[flat] - controls[flat].median()) / usual_spread[flat]
            wells = normalised
        pieces.append(wells)
    normalised = pd.concat(pieces).loc[table.index, METADATA_COLUMNS + features]
    normalised = normalised.astype(dict.fromkeys(features, np.float32)).set_axis(index)
    return normalised, pd.DataFrame(report, columns=["plate", "n_wells", "n_controls", "normalised"])


def _spread(controls: pd.DataFrame) -> pd.Series:
    """Median absolute deviation of each feature, scaled to the standard deviation of normal values."""
    return 1.4826 * (controls - controls.median()).abs().median()


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
        check_is_fitted(self)
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
        check_is_fitted(self)
        learned = {name: getattr(self, name).tolist() for name in ("median_", "mean_", "scale_")}
        text = json.dumps({"parameters": self.get_params(), "features": self.features_, **learned})
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "FeaturePreparation":
        """Read what `save` wrote; raises ScreenError for a file that holds no preparation."""
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            preparation = cls(**stored["parameters"])
            preparation.features_ = names = stored["features"]
            if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
                raise ValueError("its features aren't a list of different names")
            if not all(isinstance(value, int | float) for value in stored["parameters"].values()):
                raise ValueError("its parameters aren't numbers")
            for name in ("median_", "mean_", "scale_"):
                values = np.asarray(stored[name], dtype=np.float64)
                if values.shape != (len(names),) or not np.isfinite(values).all():
                    raise ValueError(f"{name} aren't {len(names)} finite numbers, one a feature")
                setattr(preparation, name, values)
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
    wells, values = wells[keep], values[keep]
    treatment = treatments(wells)
    frame = pd.DataFrame(values, index=pd.MultiIndex.from_arrays([wells[COMPOUND], treatment]))
    averages = frame.groupby(level=[0, 1], sort=True).mean()
    if by == "compound":
        averages = averages.groupby(level=0, sort=True).mean()
        metadata = pd.DataFrame({COMPOUND: averages.index, DOSE: np.nan})
    else:
        first = pd.Series(wells[DOSE].to_numpy(), index=treatment.to_numpy()).groupby(level=0).first()
        compound, treatment = (averages.index.get_level_values(level) for level in (0, 1))
        metadata = pd.DataFrame({COMPOUND: compound, DOSE: first.loc[treatment].to_numpy()})
    return metadata.reset_index(drop=True), averages.to_numpy(np.float32)


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
    if CONTROL in cp_wells:
        partner[cp_wells[CONTROL].to_numpy(bool)] = -1
    return partner
