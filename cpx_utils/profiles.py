"""Profile tables: what a screen is, how it is checked, and how it is read and written.

A *screen* is a pair of well-level tables, Cell Painting (CP) and transcriptomics (TX), with what is known of
its compounds: structure, mechanism of action (MoA), targets and assay outcomes. Column names follow the
convention of the field: metadata start with ``Metadata_``, everything else is a feature.

Whatever a screen lacks has one spelling: no plate or well is ``""``, no dose is NaN, no control is False.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

PLATE = "Metadata_Plate"
WELL = "Metadata_Well"
COMPOUND = "Metadata_Compound"
DOSE = "Metadata_Dose"
CONTROL = "Metadata_Control"
METADATA_COLUMNS = [PLATE, WELL, COMPOUND, DOSE, CONTROL]
COMPOUND_COLUMNS = [COMPOUND, "InChIKey14", "SMILES", "MoA", "target"]
ACTIVITY_COLUMNS = [COMPOUND, "task", "active"]
TASK_COLUMNS = ["task", "target", "family", "source"]
# Source of tasks whose labels are read off a compound's annotated targets; no assay was run for them.
ANNOTATED = "annotation"
BLOCK_LENGTH = 14  # of an InChIKey: the skeleton without stereochemistry and charge
# What identifies a fitted representation in every table of the study; `seed` is the number of the draw.
KEYS = ["split", "repeat", "fold", "seed", "method", "control"]

LONGEST_LINE = 1500  # characters of a message
MIN_PAIRED_COMPOUNDS = 10
MIN_TASKS_PER_FAMILY = 3

# What the study claims, and the units of the endpoints that decide
CLAIM_TEXTS = {
    1: "where TX excels and CP does not, the learned embedding predicts bioactivity better than CP",
    2: "learned embeddings cluster CP replicates better",
    3: "learned embeddings cluster mechanisms of action better",
    4: "learned embeddings improve bioactivity tasks by target family",
}
UNITS = {"tx_strong_tasks": "ROC-AUC", "replicate_map": "mAP", "moa_map": "mAP", "family_auc": "ROC-AUC"}


def no_outcomes() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Activity and tasks of a screen without assays: empty, and of the types that such tables have with rows.

    Columns that pandas makes of nothing hold numbers, and can't be joined with those of names.
    """
    activity = pd.DataFrame(columns=ACTIVITY_COLUMNS, dtype="str").astype({"active": np.int8})
    return activity, pd.DataFrame(columns=TASK_COLUMNS, dtype="str")


class ScreenError(ValueError):
    """A user's mistake, told in one line: what is wrong, where, and what would be right."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """A message without line breaks, shortened where a damaged file put half of itself into it."""
    words = " ".join(str(message).split())
    return words if len(words) <= LONGEST_LINE else f"{words[: LONGEST_LINE - 4]} ..."


@dataclass(frozen=True)
class Screen:
    """One paired screen.

    Attributes
    ----------
    name : str
        Short name, used for folders.
    cp, tx : pandas.DataFrame
        One row a well: `METADATA_COLUMNS`, then float32 features. Doses are in micromolar. Negative-control
        rows carry ``Metadata_Control`` True. Compounds measured in one modality only are kept.
    compounds : pandas.DataFrame
        One row a compound (no controls): Metadata_Compound, InChIKey14 (``""`` if unknown), SMILES
        (``""`` if unknown), MoA and target (lists of strings, empty if unknown).
    activity : pandas.DataFrame
        Long: Metadata_Compound, task, active (int8, 0 or 1). A label that is missing has no row.
    tasks : pandas.DataFrame
        One row a task: task, target (``""`` if unknown), family (``"other"`` if unknown), source (the collection
        it comes from, ``""`` if unknown; `ANNOTATED` marks labels that nobody measured). A column conflicts,
        where there is one, counts the compounds that got no label because their isomers disagree, or whose own
        rows held both 0 and 1.
    notes : tuple of str
        Sentences a reader must know: rows dropped, files not verified, conflicts counted.
    sources : tuple of dict
        A file each: file, address, sha256, bytes, verified, licence, citation.
    """

    name: str
    cp: pd.DataFrame
    tx: pd.DataFrame
    compounds: pd.DataFrame
    activity: pd.DataFrame
    tasks: pd.DataFrame
    notes: tuple[str, ...] = ()
    sources: tuple[dict, ...] = ()


# ------------------------------------------------------------------------------------------------ reading


def user_path(path: str | Path) -> Path:
    """A path that a user gave, ``~`` and ``~name`` replaced by the home folder.

    Raises
    ------
    ScreenError
        There is no such user, or the path can't be one.
    """
    if "\0" in str(path):
        raise ScreenError(f"{str(path)!r}: no path holds a zero byte; write the path again")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ScreenError(f"{path}: there is no user of that name here; write the path in full") from None


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Names of the feature columns: every column that does not start with ``Metadata_``, in table order."""
    return [column for column in table.columns if not str(column).startswith("Metadata_")]


def feature_matrix(table: pd.DataFrame) -> np.ndarray:
    """Features as a float32 array of shape (n_wells, n_features); missing values are NaN."""
    return np.ascontiguousarray(table[feature_columns(table)].to_numpy(dtype=np.float32))


def embedding_table(values: np.ndarray) -> pd.DataFrame:
    """Columns z000, z001 ... of an embedding (n, n_dimensions), float32."""
    return pd.DataFrame(np.asarray(values, np.float32), columns=[f"z{i:03d}" for i in range(values.shape[1])])


def embedding_values(table: pd.DataFrame) -> np.ndarray:
    """The z columns of an embedding table: float32 (n, n_dimensions).

    Columns without any value are left out: a method whose length differs between folds (raw CP, where each fold selects
    its features) fills a table of several folds only as far as each goes.
    """
    names = [name for name in table.columns if name[0] == "z" and name[1:].isdigit()]
    values = table[names].to_numpy(np.float32)
    return values[:, ~np.isnan(values).all(axis=0)] if len(values) else values


def inchikeys(smiles: Iterable[str]) -> list[str]:
    """Full InChIKey of each SMILES as it stands, ``""`` where RDKit can't read the SMILES or it is empty."""
    from rdkit import Chem, rdBase

    keys = []
    with rdBase.BlockLogs():  # RDKit prints a line for each odd molecule
        for text in smiles:
            molecule = Chem.MolFromSmiles(text) if isinstance(text, str) and text else None
            keys.append(Chem.MolToInchiKey(molecule) if molecule is not None else "")
    return keys


def inchikey_blocks(smiles: Iterable[str]) -> list[str]:
    """First InChIKey block of each SMILES, ``""`` where RDKit can't read the SMILES or it is empty."""
    return [key[:BLOCK_LENGTH] for key in inchikeys(smiles)]


def split_values(text: object) -> list[str]:
    """Values of a ``|``-joined cell, in order, without blanks and repeats; an empty cell gives ``[]``."""
    if not isinstance(text, str):
        return []
    return list(dict.fromkeys(part.strip() for part in text.split("|") if part.strip()))


def some_names(names: Iterable, limit: int = 4) -> str:
    """Up to `limit` names in quotes, and how many there are."""
    names = list(names)
    listed = ", ".join(repr(str(name)) for name in names[:limit])
    return listed + (f", ... ({len(names)} in all)" if len(names) > limit else "")


def compound_groups(compounds: pd.DataFrame) -> pd.Series:
    """Group of each compound: the unit that splits and resampling keep together.

    The group is the first block of the InChIKey, so that salts' parents and stereoisomers which share a
    skeleton never straddle a split, or else the compound's own id.

    Returns
    -------
    pandas.Series
        Index Metadata_Compound, values the group's name.
    """
    ids = compounds[COMPOUND].astype(str)
    keys = compounds["InChIKey14"].fillna("").astype(str)
    groups = keys.where(keys != "", ids)
    return pd.Series(groups.to_numpy(), index=pd.Index(ids, name=COMPOUND), name="group")


def paired_compounds(screen: Screen) -> list[str]:
    """Compounds measured in both CP and TX (controls excluded), sorted."""
    both = set(_treated(screen.cp)[COMPOUND]) & set(_treated(screen.tx)[COMPOUND])
    return sorted(str(compound) for compound in both)


def with_source(tasks: pd.DataFrame) -> pd.DataFrame:
    """Tasks with the column source, ``""`` where the table has none (as tables of older runs)."""
    return tasks if "source" in tasks.columns else tasks.assign(source="")


def measured_only(activity: pd.DataFrame, tasks: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels and tasks that were measured: without those whose source is `ANNOTATED`.

    Parameters
    ----------
    activity, tasks : pandas.DataFrame
        As in `Screen`.

    Returns
    -------
    activity, tasks : pandas.DataFrame
        The rows that stay, in their order.
    """
    kept = tasks[with_source(tasks)["source"] != ANNOTATED]
    return activity[activity["task"].isin(kept["task"])].reset_index(drop=True), kept.reset_index(drop=True)


def wells_of(table: pd.DataFrame, compounds: list[str]) -> pd.DataFrame:
    """Wells of the given compounds, and all negative controls."""
    return table[table[COMPOUND].isin(compounds) | table[CONTROL].astype(bool)].reset_index(drop=True)


def treatments(table: pd.DataFrame) -> pd.Series:
    """Treatment of each well: ``compound``, or ``compound@dose`` with the nominal dose to 3 digits.

    Returns
    -------
    pandas.Series
        Same index as `table`. Doses that differ beyond the third digit are one nominal dose, since the two
        modalities often record them with different rounding.
    """
    compound_code, compounds = pd.factorize(table[COMPOUND], use_na_sentinel=False)
    dose_code, doses = pd.factorize(table[DOSE].to_numpy(dtype=float), use_na_sentinel=False)
    # Wells are many and treatments few: each is put in words once.
    pair, pairs = pd.factorize(compound_code * len(doses) + dose_code)
    names = [
        str(compound) if np.isnan(dose) else f"{compound}@{dose:.3g}"
        for compound, dose in zip(compounds.take(pairs // len(doses)), doses[pairs % len(doses)], strict=True)
    ]
    names = pd.Series(names, dtype="str").array.take(pair)
    return pd.Series(names, index=table.index, name="treatment", dtype="str")


def nominal_dose(doses, digits: int = 3) -> np.ndarray:
    """Doses rounded to `digits` significant digits, shape (n_wells,), NaN where there is none.

    The two modalities of a screen often record one nominal dose with different rounding (3.33 and 3.3333
    micromolar), so treatments are matched on the rounded value.
    """
    values = np.asarray(doses, dtype=float)
    finite = np.isfinite(values) & (np.abs(values) > 1e-300)  # beyond that, powers of ten overflow
    exponent = np.floor(np.log10(np.abs(np.where(finite, values, 1.0))))
    scale = 10.0 ** (digits - 1 - exponent)
    return np.where(finite, np.round(values * scale) / scale, values)


def _treated(table: pd.DataFrame) -> pd.DataFrame:
    """Metadata of the rows that are no negative controls; features stay behind, of which screens have gigabytes."""
    metadata = [column for column in METADATA_COLUMNS if column in table.columns]
    return table.loc[~table[CONTROL].astype(bool), metadata]


# ----------------------------------------------------------------------------------------------- checking


def check_screen(screen: Screen) -> list[str]:
    """Everything that is wrong with a screen, one line a problem; an empty list if nothing is.

    Checked: metadata columns, features (at least one, numeric, no duplicate names, none all NaN, none
    infinite), empty compound ids, negative doses, wells given twice, ids that are both control and compound,
    the compounds, activity and task tables, and that CP and TX share at least one compound.
    """
    problems = _table_problems(screen.cp, "CP") + _table_problems(screen.tx, "TX")
    if not problems:
        problems += _control_problems(screen)
        if not paired_compounds(screen):
            problems.append(
                "CP and TX have no compound in common: "
                f"CP has {some_names(_treated(screen.cp)[COMPOUND].unique())}, "
                f"TX has {some_names(_treated(screen.tx)[COMPOUND].unique())}; "
                "the compound columns must use the same ids"
            )
    problems += _compound_problems(screen)
    problems += _activity_problems(screen)
    return problems


def require_valid(screen: Screen) -> Screen:
    """Return the screen fit for use, or raise.

    Assay outcomes and annotation of compounds the screen does not hold are dropped and counted in `notes`;
    so are tasks without any outcome.

    Raises
    ------
    ScreenError
        With the first problem of `check_screen`, saying how many more there are.
    """
    problems = check_screen(screen)
    if problems:
        more = len(problems) - 1
        tail = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        raise ScreenError(f"{screen.name}: {problems[0]}{tail}")
    return _drop_unmeasured(screen)


def _table_problems(table: pd.DataFrame, label: str) -> list[str]:
    missing = [column for column in METADATA_COLUMNS if column not in table.columns]
    if missing:
        return [f"{label}: column {some_names(missing)} is missing; a profile table has {METADATA_COLUMNS}"]
    repeated = [column for column, count in Counter(map(str, table.columns)).items() if count > 1]
    if repeated:
        return [f"{label}: column name {some_names(repeated)} occurs more than once; names must be unique"]
    problems = []
    if len(table) == 0:
        problems.append(f"{label}: the table has no rows; one row a well is needed")
    problems += _feature_problems(table, label)
    ids = table[COMPOUND]
    empty = np.flatnonzero((ids.isna() | (ids.astype(str).str.strip() == "")).to_numpy())
    if len(empty):
        problems.append(
            f"{label}: {len(empty)} wells have no compound id (first data row {empty[0] + 1}); "
            "every well needs one, controls too (for example 'DMSO')"
        )
    doses = table[DOSE].to_numpy(dtype=float)
    wrong = np.flatnonzero((doses < 0) | np.isinf(doses))
    if len(wrong):
        problems.append(
            f"{label}: dose {doses[wrong[0]]:g} in data row {wrong[0] + 1} ({len(wrong)} such rows); "
            "doses are micromolar, finite and not negative"
        )
    places = table[[PLATE, WELL]]
    placed = places[(places[PLATE].astype(str) != "") & (places[WELL].astype(str) != "")]
    twice = placed[placed.duplicated([PLATE, WELL])]
    if len(twice):
        first = twice.iloc[0]
        problems.append(
            f"{label}: plate {str(first[PLATE])!r} well {str(first[WELL])!r} is given more than once "
            f"({len(twice)} repeated rows); a row is a well"
        )
    return problems


def _feature_problems(table: pd.DataFrame, label: str) -> list[str]:
    features = feature_columns(table)
    if not features:
        return [f"{label}: no feature columns; every column not starting with 'Metadata_' is a feature"]
    words = [name for name in features if not pd.api.types.is_numeric_dtype(table[name])]
    if words:
        return [f"{label}: feature {some_names(words)} is not numeric; rename text columns to 'Metadata_...'"]
    problems = []
    empty, endless = [], []
    for name in features:  # one by one: a whole screen in double precision would not fit everywhere
        values = table[name].to_numpy(dtype=float)
        empty += [name] if np.isnan(values).all() else []
        endless += [name] if np.isinf(values).any() else []
    if empty and len(table):
        problems.append(f"{label}: feature {some_names(empty)} is missing (NaN) in every row; drop the column")
    if endless:
        problems.append(f"{label}: feature {some_names(endless)} holds infinite values; leave them empty")
    return problems


def _control_problems(screen: Screen) -> list[str]:
    controls, treated = set(), set()
    for table in (screen.cp, screen.tx):
        mask = table[CONTROL].astype(bool).to_numpy()
        controls |= set(table[COMPOUND].to_numpy()[mask])
        treated |= set(table[COMPOUND].to_numpy()[~mask])
    both = sorted(str(compound) for compound in controls & treated)
    if both:
        return [
            f"compound {some_names(both)} is a negative control in some wells and a treatment in others; "
            "a control's id must be marked as control everywhere"
        ]
    return []


def _compound_problems(screen: Screen) -> list[str]:
    compounds = screen.compounds
    missing = [column for column in COMPOUND_COLUMNS if column not in compounds.columns]
    if missing:
        return [f"compounds: column {some_names(missing)} is missing; it has {COMPOUND_COLUMNS}"]
    problems = []
    twice = compounds[COMPOUND][compounds[COMPOUND].duplicated()].unique()
    if len(twice):
        problems.append(f"compounds: {some_names(twice)} is listed more than once; one row a compound")
    measured = set()
    for table in (screen.cp, screen.tx):
        if COMPOUND in table and CONTROL in table:
            measured |= set(_treated(table)[COMPOUND].dropna())
    unlisted = sorted(str(compound) for compound in measured - set(compounds[COMPOUND]))
    if unlisted:
        problems.append(f"compounds: {some_names(unlisted)} is measured but not listed; one row a compound")
    for column in ("MoA", "target"):
        if not all(isinstance(value, list) for value in compounds[column]):
            problems.append(f"compounds: column {column!r} must hold lists of strings, [] where unknown")
    return problems


def _activity_problems(screen: Screen) -> list[str]:
    activity, tasks = screen.activity, screen.tasks
    missing = [column for column in ACTIVITY_COLUMNS if column not in activity.columns]
    if missing:
        return [f"activity: column {some_names(missing)} is missing; it has {ACTIVITY_COLUMNS}"]
    missing = [column for column in TASK_COLUMNS if column not in [*tasks.columns, "source"]]
    if missing:
        return [f"tasks: column {some_names(missing)} is missing; it has {TASK_COLUMNS}"]
    problems = []
    wrong = np.flatnonzero(~activity["active"].isin([0, 1]).to_numpy())
    if len(wrong):
        problems.append(
            f"activity: label {str(activity['active'].iloc[wrong[0]])!r} in data row {wrong[0] + 1} "
            f"({len(wrong)} such rows); labels are 0 or 1, and a missing label has no row"
        )
    twice = activity[activity.duplicated([COMPOUND, "task"])]
    if len(twice):
        first = twice.iloc[0]
        problems.append(
            f"activity: compound {str(first[COMPOUND])!r} has more than one label for task "
            f"{str(first['task'])!r} ({len(twice)} repeated rows); one label a compound and task"
        )
    repeated = tasks["task"][tasks["task"].duplicated()].unique()
    if len(repeated):
        problems.append(f"tasks: {some_names(repeated)} is listed more than once; one row a task")
    unlisted = sorted(set(activity["task"].astype(str)) - set(tasks["task"].astype(str)))
    if unlisted:
        problems.append(f"tasks: {some_names(unlisted)} occurs in the activity table but is not listed")
    return problems


def _drop_unmeasured(screen: Screen) -> Screen:
    """Drop annotation and outcomes of compounds the screen does not hold, with a note for each kind."""
    measured = set(_treated(screen.cp)[COMPOUND]) | set(_treated(screen.tx)[COMPOUND])
    notes = list(screen.notes)
    known = screen.compounds[COMPOUND].isin(measured)
    if not known.all():
        notes.append(f"{int((~known).sum())} listed compounds have no profile and were dropped.")
    labelled = screen.activity[COMPOUND].isin(measured)
    if not labelled.all():
        absent = screen.activity.loc[~labelled, COMPOUND].nunique()
        notes.append(f"{int((~labelled).sum())} labels of {absent} compounds without a profile were dropped.")
    activity = screen.activity[labelled].reset_index(drop=True)
    used = screen.tasks["task"].isin(set(activity["task"]))
    if not used.all():
        notes.append(f"{int((~used).sum())} tasks without any label were dropped.")
    return replace(
        screen,
        compounds=screen.compounds[known].reset_index(drop=True),
        activity=activity,
        tasks=with_source(screen.tasks[used].reset_index(drop=True)),
        notes=tuple(notes),
    )


# -------------------------------------------------------------------------------------------- testability


def count_compounds(screen: Screen) -> pd.DataFrame:
    """How many compounds are measured in which modality, and what is known of the paired ones: `what`, `n`."""
    paired = paired_compounds(screen)
    known = screen.compounds[screen.compounds[COMPOUND].isin(paired)]
    counts = {
        "CP measured": _treated(screen.cp)[COMPOUND].nunique(),
        "TX measured": _treated(screen.tx)[COMPOUND].nunique(),
        "paired": len(paired),
        "with a structure": int((known["SMILES"] != "").sum()),
        "with an MoA": int((known["MoA"].map(len) > 0).sum()),
        "in any assay": int(known[COMPOUND].isin(measured_only(screen.activity, screen.tasks)[0][COMPOUND]).sum()),
    }
    return pd.DataFrame({"what": list(counts), "n": list(counts.values())})


def testability(screen: Screen, min_active: int = 25, min_inactive: int = 25) -> pd.DataFrame:
    """Which endpoints the screen can answer, and why not the others.

    Parameters
    ----------
    screen : Screen
    min_active, min_inactive : int
        Labels of each kind a task needs among the paired compounds to be tested.

    Returns
    -------
    pandas.DataFrame
        Columns endpoint, testable, reason; rows replicate_clustering, activity_calls, moa_clustering,
        retrieval, bioactivity, target_families, always all six in this order. Only compounds with both CP
        and TX count, since only those can be held out and compared, and only tasks that were measured.
    """
    paired = set(paired_compounds(screen))
    cp = _treated(screen.cp)
    cp = cp[cp[COMPOUND].isin(paired)]
    counts = task_counts(screen, min_active, min_inactive)
    counts = counts[counts["source"] != ANNOTATED]
    replicated, replicate_reason = _replicates(cp)
    controls = int(screen.cp[CONTROL].astype(bool).sum())
    calls = replicated and controls >= 2
    if controls < 2:
        call_reason = f"{controls} negative-control wells in CP; activity is called against controls"
    else:
        call_reason = f"{controls} negative-control wells in CP; " + replicate_reason
    moas = _shared_mechanisms(screen.compounds[screen.compounds[COMPOUND].isin(paired)])
    annotated = int((screen.compounds[screen.compounds[COMPOUND].isin(paired)]["MoA"].map(len) > 0).sum())
    tested = counts[counts["tested"]]
    families = tested.loc[tested["family"] != "other", "family"].value_counts()
    large = families[families >= MIN_TASKS_PER_FAMILY]
    rows = [
        ("replicate_clustering", replicated, replicate_reason),
        ("activity_calls", calls, call_reason),
        (
            "moa_clustering",
            len(moas) >= 2,
            f"{len(moas)} MoAs are shared by at least 2 compounds of different structure "
            f"({annotated} of {len(paired)} paired compounds have an MoA; at least 2 such MoAs are needed)",
        ),
        (
            "retrieval",
            len(paired) >= MIN_PAIRED_COMPOUNDS,
            f"{len(paired)} compounds with both CP and TX (at least {MIN_PAIRED_COMPOUNDS} are needed)",
        ),
        ("bioactivity", len(tested) > 0, _bioactivity_reason(counts, min_active, min_inactive)),
        (
            "target_families",
            len(large) > 0,
            f"{len(large)} target families have at least {MIN_TASKS_PER_FAMILY} tasks with enough labels",
        ),
    ]
    return pd.DataFrame(rows, columns=["endpoint", "testable", "reason"])


testability.__test__ = False  # pytest would else collect it by its name


def task_counts(screen: Screen, min_active: int = 25, min_inactive: int = 25) -> pd.DataFrame:
    """Labels of each task among the paired compounds.

    Returns
    -------
    pandas.DataFrame
        One row a task in the order of `screen.tasks`: task, target, family, source, n_active, n_inactive,
        tested (True where both counts reach the minimum).
    """
    labels = screen.activity[screen.activity[COMPOUND].isin(paired_compounds(screen))]
    active = labels.groupby("task")["active"].agg(["sum", "count"])
    table = with_source(screen.tasks)[TASK_COLUMNS].copy()
    n_active = table["task"].map(active["sum"]).fillna(0).astype(int)
    table["n_active"] = n_active
    table["n_inactive"] = table["task"].map(active["count"]).fillna(0).astype(int) - n_active
    table["tested"] = (table["n_active"] >= min_active) & (table["n_inactive"] >= min_inactive)
    return table.reset_index(drop=True)


def _replicates(cp: pd.DataFrame) -> tuple[bool, str]:
    """Whether at least two treatments have replicates, on other plates where there are plates."""
    names = treatments(cp)
    if cp[PLATE].nunique() > 1:
        spread = cp[PLATE].groupby(names.to_numpy()).nunique()
        unit = "plates"
    else:
        spread = names.value_counts()
        unit = "wells"
    replicated = int((spread >= 2).sum())
    reason = f"{replicated} of {len(spread)} CP treatments are on at least 2 {unit} (at least 2 are needed)"
    return replicated >= 2, reason


def _shared_mechanisms(compounds: pd.DataFrame) -> list[str]:
    """MoAs held by at least two compounds of different group."""
    groups = compound_groups(compounds).to_numpy()
    holders: dict[str, set] = {}
    for group, mechanisms in zip(groups, compounds["MoA"], strict=True):
        for mechanism in mechanisms:
            holders.setdefault(mechanism, set()).add(group)
    return sorted(mechanism for mechanism, held in holders.items() if len(held) >= 2)


def _bioactivity_reason(counts: pd.DataFrame, min_active: int, min_inactive: int) -> str:
    if counts.empty:
        return "the screen has no assay outcomes"
    best = counts.loc[counts[["n_active", "n_inactive"]].min(axis=1).idxmax()]
    return (
        f"{int(counts['tested'].sum())} of {len(counts)} tasks have at least {min_active} actives and "
        f"{min_inactive} inactives among the paired compounds "
        f"(the best task, {best['task']}, has {best['n_active']} and {best['n_inactive']})"
    )


# ------------------------------------------------------------------------------------- writing and reading


def _atomic(path: Path, write) -> None:
    """Write by `write(temporary_path)` beside `path`, then rename: no reader ever sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    for column in ("MoA", "target"):
        if column in table and column in arrow.column_names and table[column].map(type).eq(list).all():
            # an all-empty column would else be stored as a list of nothing, without a type
            values = pa.array(table[column].tolist(), type=pa.list_(pa.string()))
            arrow = arrow.set_column(arrow.column_names.index(column), column, values)
    _atomic(path, lambda temporary: pq.write_table(arrow, temporary))


def save_screen(screen: Screen, folder: str | Path) -> None:
    """Write a screen to `folder`: cp, tx, compounds, activity, tasks (.parquet) and screen.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cp", "tx", "compounds", "activity", "tasks"):
        _write_parquet(getattr(screen, name), folder / f"{name}.parquet")
    facts = {"name": screen.name, "notes": list(screen.notes), "sources": list(screen.sources)}
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    _atomic(folder / "screen.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def load_screen(folder: str | Path) -> Screen:
    """Read a screen that `save_screen` wrote.

    Raises
    ------
    ScreenError
        If a file is missing, saying which.
    """
    folder = Path(folder)
    tables = {}
    for name in ("cp", "tx", "compounds", "activity", "tasks"):
        tables[name] = pd.read_parquet(_present(folder / f"{name}.parquet"))
    for column in ("MoA", "target"):
        tables["compounds"][column] = pd.Series(
            [list(values) for values in tables["compounds"][column]],
            index=tables["compounds"].index,
            dtype=object,
        )
    tables["tasks"] = with_source(tables["tasks"])
    facts = json.loads(_present(folder / "screen.json").read_text(encoding="utf-8"))
    return Screen(name=facts["name"], **tables, notes=tuple(facts["notes"]), sources=tuple(facts["sources"]))


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ScreenError(f"{path}: no such file; notebook 01_prepare_profiles writes it")
    return path
