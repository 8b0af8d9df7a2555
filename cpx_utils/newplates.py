"""A new plate before anything is said about its compounds: read, normalised to its own controls, laid beside the
features that the encoders were trained on, its gaps filled.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.metrics import unit_rows
from cpx_utils.own_screens import read_cell_painting, read_plate_description
from cpx_utils.preprocessing import FeaturePreparation, consensus, normalise_plates
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    METADATA_COLUMNS,
    PLATE,
    ScreenError,
    feature_columns,
    some_names,
    user_path,
)

WITHOUT_CONTROLS = ("refuse", "as_they_are")
CENTRAL = (0.005, 0.995)  # quantiles between which a training feature counts as in range
FLAT = 1e-9  # a spread of controls up to this is none
_WELLS_FOR_FILLING = 4000  # more would cost time and change the regression little


# --- reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlateFile:
    """Where new profiles lie and how their columns are called.

    Attributes
    ----------
    path : pathlib.Path
        The table.
    columns : dict
        Role (compound, dose, plate, well, control) to column, for those that bear a name of their own.
    features, layer : str
        As in `own_screens.read_cell_painting`.
    files : tuple of pathlib.Path
        Everything that is read: the table, and the TOML where there is one.
    """

    path: Path
    columns: dict[str, str]
    features: str
    layer: str
    files: tuple[Path, ...]


def describe_plate(
    path: str | Path, columns: dict[str, str] | None = None, features: str = "", layer: str = ""
) -> PlateFile:
    """Say what to read: a table as it is, or what a TOML with the sections [cp] and [columns] describes.

    Parameters
    ----------
    path
        csv, csv.gz, parquet or h5ad; or a TOML like that of a screen, whose other sections are left alone.
    columns
        Role to column; empty names are left out, and stand for the study's own names where the table has them.
    features, layer
        Regular expression of the features, layer of an h5ad; empty for none. Given beside a TOML, these and `columns`
        win over it.

    Raises
    ------
    ScreenError
        The TOML isn't there or can't be understood.
    """
    path = user_path(path).resolve()
    given = {role: name for role, name in (columns or {}).items() if name}
    if path.suffix.lower() != ".toml":
        return PlateFile(path, given, features, layer, (path,))
    described = read_plate_description(path)
    table = (path.parent / user_path(described["cp"]["path"])).resolve()
    return PlateFile(
        path=table,
        columns=described.get("columns", {}) | given,
        features=features or described["cp"].get("features", ""),
        layer=layer or described["cp"].get("layer", ""),
        files=(path, table),
    )


def read_wells(plate_file: PlateFile, control_compounds: Sequence[str] = ()) -> pd.DataFrame:
    """Read the wells of a new file by the rules of a user's screen.

    Parameters
    ----------
    plate_file
        From `describe_plate`.
    control_compounds
        Compound ids that are negative controls, such as DMSO, beside those that a control column marks.

    Returns
    -------
    DataFrame
        Metadata columns and float32 features.

    Raises
    ------
    ScreenError
        One line: the file is missing or damaged, a column or a control isn't there, words stand among numbers, a well
        is given twice, or an id is both control and compound.
    """
    shown = plate_file.path.name
    if not plate_file.path.is_file():
        raise ScreenError(f"{plate_file.path} isn't there; name a file of new Cell Painting wells")
    wells = read_cell_painting(plate_file.path, plate_file.columns, plate_file.features, plate_file.layer)
    known = list(dict.fromkeys(wells[COMPOUND]))
    for name in control_compounds:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {some_names(known)}"
            raise ScreenError(f"{shown}: no well holds the control {name!r}; {hint}")
    wells[CONTROL] = wells[CONTROL].to_numpy(bool) | wells[COMPOUND].isin(control_compounds).to_numpy()
    control = wells[CONTROL].to_numpy(bool)
    both = sorted(set(wells[COMPOUND][control]) & set(wells[COMPOUND][~control]))
    if both:
        raise ScreenError(
            f"{shown}: compound {some_names(both)} is a negative control in some wells and a treatment in others; "
            "give wells that are to be tested an id of their own"
        )
    if control.all():
        raise ScreenError(f"{shown}: all {len(wells)} wells are negative controls; there is no compound to embed")
    return wells


# --- normalising --------------------------------------------------------------------------------------------


def normalise_new(
    wells: pd.DataFrame, shown: str, library: pd.DataFrame, *, min_controls: int = 4, without_controls: str = "refuse"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Express every plate in robust units of its own negative controls; leave out plates that can't be.

    Parameters
    ----------
    wells
        From `read_wells`.
    shown
        How messages call the file.
    library
        Wells of the screen. Where it has no controls either, it is as it was delivered, and a new file may be so too.
    min_controls
        Negative controls a plate needs.
    without_controls
        What becomes of a file without any control: `refuse`, since nothing then ties its units to the library's and
        every distance would be an effect of the batch; or `as_they_are`, for profiles that are in the library's units
        already. Nothing can be called active then, for want of a null.

    Returns
    -------
    wells, plates
        Wells of the plates that are used; and one row a plate: `plate`, `n_wells`, `n_controls`, `used`, `reason`.

    Raises
    ------
    ScreenError
        There are no controls, or no plate has enough of them.
    """
    if without_controls not in WITHOUT_CONTROLS:
        raise ScreenError(f"without_controls is {without_controls!r}; it is one of {', '.join(WITHOUT_CONTROLS)}")
    if not wells[CONTROL].any():
        if without_controls == "refuse" and library[CONTROL].any():
            raise ScreenError(
                f"{shown}: no well is a negative control, so its units can't be tied to the library's; mark controls "
                "by control_column or control_compounds, or, if the profiles are in the library's units already, set "
                "without_controls=as_they_are"
            )
        counts = wells.groupby(PLATE).size()
        plates = pd.DataFrame({"plate": counts.index, "n_wells": counts.to_numpy(), "n_controls": 0})
        return wells, plates.assign(used=True, reason="no controls: taken as they are")
    normalised, plates = normalise_plates(wells, min_controls)
    plates["reason"] = [
        "" if enough else f"{n} negative controls, {min_controls} are needed"
        for enough, n in zip(plates["normalised"], plates["n_controls"], strict=True)
    ]
    plates = plates.rename(columns={"normalised": "used"})
    if not plates["used"].any():
        worst = plates.loc[plates["n_controls"].idxmax()]
        raise ScreenError(
            f"{shown}: no plate has {min_controls} negative controls to be normalised to (plate {worst['plate']!r} has "
            f"{worst['n_controls']}); mark all of them, or lower min_controls"
        )
    kept = normalised[PLATE].isin(plates.loc[plates["used"], "plate"]).to_numpy()
    if not (kept & ~normalised[CONTROL].to_numpy(bool)).any():
        raise ScreenError(f"{shown}: no compound lies on a plate with {min_controls} negative controls")
    return normalised[kept].reset_index(drop=True), plates


# --- features -----------------------------------------------------------------------------------------------


def check_features(
    new: pd.DataFrame,
    library: pd.DataFrame,
    features: Sequence[str],
    *,
    max_empty: float = 0.5,
    max_outside: float = 0.5,
) -> pd.DataFrame:
    """Lay a new file's features beside those that an encoder was trained on.

    Parameters
    ----------
    new
        New wells, normalised.
    library
        Wells that the encoder's features were learned from.
    features
        The features it uses.
    max_empty
        Share of empty cells beyond which a feature counts as missing.
    max_outside
        Share of new wells beyond the central 99% of the library's from which a feature counts as out of range.

    Returns
    -------
    DataFrame
        One row a feature: `feature`, `status` (used, out of range, missing; or extra: in the file, not in the encoder),
        `reason`, `share_empty`, `training_low`, `training_high` (the library's central 99%), `median` (of the new
        wells) and `share_outside`. A feature that is flat in all controls and not elsewhere has no units, and counts as
        missing.
    """
    there = [name for name in features if name in new.columns]
    values = new[there].to_numpy(float)
    control = new[CONTROL].to_numpy(bool)
    low, high = library[list(features)].quantile(list(CENTRAL)).to_numpy(float)
    table = pd.DataFrame({"feature": list(features), "status": "missing", "reason": "not in the file"})
    table = table.assign(share_empty=1.0, training_low=low, training_high=high, median=np.nan, share_outside=np.nan)
    rows = table.index[table["feature"].isin(there)]
    empty = np.isnan(values).mean(axis=0)
    filled = np.where(np.isnan(values), np.nanmedian(np.where(empty < 1, values, 0.0), axis=0), values)
    flat = np.ptp(filled[control], axis=0) <= FLAT if control.any() else np.zeros(len(there), bool)
    flat &= np.ptp(filled, axis=0) > FLAT
    with np.errstate(invalid="ignore"):
        beyond = (values < low[rows]) | (values > high[rows])
    outside = beyond.sum(axis=0) / np.maximum((~np.isnan(values)).sum(axis=0), 1)
    table.loc[rows, "share_empty"], table.loc[rows, "share_outside"] = empty, outside
    table.loc[rows, "median"] = np.where(empty < 1, np.median(filled, axis=0), np.nan)
    table.loc[rows, ["status", "reason"]] = ["used", ""]
    cases = (
        (outside > max_outside, "out of range", "outside the library's central 99% in most wells"),
        (flat, "missing", "flat in the negative controls: no units"),
        (empty > max_empty, "missing", "empty in most wells"),
    )
    for found, status, reason in cases:
        table.loc[rows[found], ["status", "reason"]] = [status, reason]
    extra = [name for name in feature_columns(new) if name not in set(features)]
    extras = pd.DataFrame({"feature": extra, "status": "extra", "reason": "not used by the encoder"})
    return pd.concat([table, extras], ignore_index=True) if extra else table


def require_features(checked: pd.DataFrame, shown: str, max_missing: float = 0.2) -> list[str]:
    """Names of the training features that are missing; refuses where there are too many.

    Parameters
    ----------
    checked
        From `check_features`.
    shown
        How messages call the file.
    max_missing
        Largest share of the training features that may be missing.

    Raises
    ------
    ScreenError
        None is there; too many are missing, with their number and first names; or most of those there are out of range.
    """
    asked = checked[checked["status"] != "extra"]
    missing = asked.loc[asked["status"] == "missing", "feature"].tolist()
    n_extra = int((checked["status"] == "extra").sum())
    if len(missing) == len(asked):
        extra = checked.loc[checked["status"] == "extra", "feature"].tolist()
        raise ScreenError(
            f"{shown}: it holds none of the {len(asked)} features that the encoder was trained on, such as "
            f"{asked['feature'].iloc[0]!r}; it has {some_names(extra) if n_extra else 'no others'}"
        )
    if len(missing) > max_missing * len(asked):
        raise ScreenError(
            f"{shown}: {len(missing)} of {len(asked)} features that the encoder was trained on are missing "
            f"({len(missing) / len(asked):.0%}, the limit is {max_missing:.0%}): {some_names(missing)}; measure them, "
            "or train on the features that both have"
        )
    strange = asked.loc[asked["status"] == "out of range", "feature"].tolist()
    if len(strange) > 0.5 * (len(asked) - len(missing)):
        raise ScreenError(
            f"{shown}: {len(strange)} of {len(asked) - len(missing)} features lie outside the library's range in most "
            f"wells, the first is {strange[0]!r}; give the profiles in the library's units, or controls to normalise to"
        )
    return missing


class GapFilling:
    """A `FeaturePreparation` that can do without some of its features: they are foretold from the others.

    Ridge regression from the features that are there, learned on the library's prepared wells,

    .. math:: \\hat x_m = \\mu_m + (x_p - \\mu_p) (X_p^T X_p + \\alpha I)^{-1} X_p^T X_m,

    is the mean of the missing features given the present ones, for normal profiles with shrunken covariance.
    CellProfiler features repeat each other, so much of a missing one is often known. What isn't comes back as the
    library's mean, so an effect that only missing features show is lost. Library and new wells must go through the same
    gap, or they would differ by it.

    Parameters
    ----------
    preparation
        Fitted.
    missing
        Features to foretell.

    Attributes
    ----------
    r2_ : array (n_missing,)
        Share of each missing feature's variance that is foretold, in compounds left out.

    References
    ----------
    Hoerl and Kennard 1970, doi 10.1080/00401706.1970.10488634; conditional-mean imputation: Little and Rubin 2019.
    """

    def __init__(self, preparation: FeaturePreparation, missing: Sequence[str] = ()):
        self.preparation = preparation
        self.gap = np.isin(preparation.features_, list(missing))
        self.r2_ = np.full(int(self.gap.sum()), np.nan)
        self._ridge = None

    def fit(self, library: pd.DataFrame, seed: int = 0) -> "GapFilling":
        """Learn from wells that hold all features; controls among them are used like any other.

        Parameters
        ----------
        library
            Metadata and features (n_wells).
        seed
            Of the wells drawn where there are very many, and of the compounds left out.
        """
        from sklearn.linear_model import RidgeCV
        from sklearn.metrics import r2_score
        from sklearn.model_selection import GroupShuffleSplit

        if not self.gap.any():
            return self
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.permutation(len(library))[:_WELLS_FOR_FILLING])
        wells = library.iloc[rows]
        values = self.preparation.transform(wells[self.preparation.features_]).astype(float)
        known, asked = values[:, ~self.gap], values[:, self.gap]
        penalties = len(values) * np.logspace(-4, 1, 6)
        self._ridge = RidgeCV(alphas=penalties).fit(known, asked)
        split = GroupShuffleSplit(1, test_size=0.3, random_state=seed)
        if wells[COMPOUND].nunique() > 3:
            train, test = next(split.split(values, groups=wells[COMPOUND].to_numpy(object)))
            trial = RidgeCV(alphas=penalties).fit(known[train], asked[train])
            predicted = trial.predict(known[test]).reshape(len(test), -1)
            self.r2_ = np.atleast_1d(r2_score(asked[test], predicted, multioutput="raw_values"))
        return self

    def transform(self, wells: pd.DataFrame) -> np.ndarray:
        """Prepared features, those of the gap foretold: float32 (n_wells, n_features)."""
        names = np.asarray(self.preparation.features_, dtype=object)
        columns = wells.reindex(columns=names)
        values = self.preparation.transform(columns)
        if self._ridge is not None:
            values[:, self.gap] = self._ridge.predict(values[:, ~self.gap].astype(float)).reshape(len(values), -1)
        return values


class PlateEncoder:
    """A saved encoder with its preparation, and the gap that both must live with.

    Parameters
    ----------
    filling
        Fitted.
    encoder
        Fitted on the features that `filling` prepares.
    """

    def __init__(self, filling: GapFilling, encoder):
        self.filling = filling
        self.encoder = encoder

    def transform(self, wells: pd.DataFrame) -> np.ndarray:
        """Embeddings of plate-normalised wells, float32 (n_wells, n_dimensions)."""
        return self.encoder.transform(self.filling.transform(wells))


def load_plate_encoder(folder: str | Path, new: pd.DataFrame, library: pd.DataFrame, seed: int = 0) -> PlateEncoder:
    """Read an encoder and its preparation from where the study saved them, and fill what a new file lacks.

    Parameters
    ----------
    folder
        `models/METHOD/FOLD` of a run.
    new
        New wells, normalised; what `check_features` finds missing in them is foretold.
    library
        Wells of the compounds that the encoder was trained on.
    seed
        Of `GapFilling.fit`.

    Raises
    ------
    ScreenError
        The folder holds no encoder or preparation.
    """
    from cpx_utils.encoders import load_encoder

    preparation = FeaturePreparation.load(Path(folder) / "preparation.json")
    checked = check_features(new, library, preparation.features_)
    missing = checked.loc[checked["status"] == "missing", "feature"].tolist()
    return PlateEncoder(GapFilling(preparation, missing).fit(library, seed), load_encoder(folder))


def gap_fidelity(encoder: PlateEncoder, library: pd.DataFrame) -> float:
    """How much of the embeddings survives the gap: mean cosine between library compounds with and without it.

    Parameters
    ----------
    encoder
        With its gap.
    library
        Wells that hold all features.

    Returns
    -------
    float
        1 where nothing is missing. Compounds that do nothing have no direction to keep, and pull it down.
    """
    if not encoder.filling.gap.any():
        return 1.0
    whole = PlateEncoder(GapFilling(encoder.filling.preparation), encoder.encoder)
    control = library[CONTROL].to_numpy(bool)
    codes = []
    for one in (encoder, whole):
        values = one.transform(library)
        values = values - (values[control] if control.any() else values).mean(axis=0)
        codes.append(unit_rows(consensus(library[METADATA_COLUMNS], values, by="compound")[1]))
    return float((codes[0] * codes[1]).sum(axis=1).mean())
