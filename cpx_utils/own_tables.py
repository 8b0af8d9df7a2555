"""A user's own tables in the project's form: wells with their features, compounds, assay outcomes and tasks.

Each function adds what is wrong to a list of problems, one line a mistake, and goes on with what can be used; the
caller decides by that list.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.profiles import (
    ACTIVITY_COLUMNS,
    BLOCK_LENGTH,
    COMPOUND,
    COMPOUND_COLUMNS,
    CONTROL,
    DOSE,
    METADATA_COLUMNS,
    PLATE,
    TASK_COLUMNS,
    WELL,
    inchikey_blocks,
    no_outcomes,
    nominal_dose,
    some_names,
    split_values,
)
from cpx_utils.tables import (
    MISSING_WORDS,
    PROFILE_FORMATS,
    Table,
    as_numbers,
    as_text,
    missing_column,
    read_table,
    refuse,
    rows_in_words,
)

DEFAULT_COLUMNS = {"compound": COMPOUND, "dose": DOSE, "plate": PLATE, "well": WELL, "control": CONTROL}
CP_FEATURES = r"^(Cells|Cytoplasm|Nuclei)_"
TRUE_WORDS = {"1", "1.0", "true", "t", "yes", "y", "negcon", "control", "negative control", "negative_control"}
FALSE_WORDS = {"", "0", "0.0", "false", "f", "no", "n", "trt", "treatment", "treated", "compound", "poscon"}
SOURCE = "own"  # of the tasks; a user's labels are taken as measured
_FLOAT32_LARGEST = float(np.finfo(np.float32).max)
_LINES_A_KIND = 5  # lines about one kind of mistake in one file; the rest is counted


# ---------------------------------------------------------------------------------------------- profiles


@dataclass(frozen=True)
class _ProfileTable:
    """A user's profile table before it is put in the project's form."""

    label: str
    table: Table
    columns: dict[str, str]
    pattern: str

    @property
    def shown(self) -> str:
        return self.table.shown

    def column(self, role: str) -> pd.Series | None:
        """The column of a role, or None where the table has none."""
        name = self.columns[role]
        return self.table.frame[name] if name in self.table.frame.columns else None


@dataclass(frozen=True)
class _Wells:
    """A profile table in the project's form, and the rows whose id or control flag can't be trusted."""

    table: pd.DataFrame
    doubtful: np.ndarray


def _feature_names(
    profile: _ProfileTable, other_columns: Collection[str], notes: list[str], problems: list[str]
) -> list[str]:
    """Feature columns by the file itself, the rule of the modality or the user's regular expression, sorted."""
    metadata = set(profile.columns.values()) | set(METADATA_COLUMNS)
    named = profile.table.features is not None
    candidates = [
        name
        for name in (profile.table.features if named else profile.table.frame.columns)
        if name not in metadata and not name.startswith("Metadata_")
    ]
    pattern = profile.pattern or (CP_FEATURES if profile.label == "CP" and not named else "")
    if pattern:
        try:
            names = sorted(name for name in candidates if re.search(pattern, name))
        except re.error as error:
            problems.append(
                f"{profile.shown}: features = {pattern!r} is no regular expression ({error}); mend it or leave it out"
            )
            return []
        if not names:
            rule = f"features = {pattern!r}" if profile.pattern else "prefix Cells_, Cytoplasm_ or Nuclei_"
            problems.append(
                f"{profile.shown}: no column is matched by {rule}; it has {some_names(candidates)}; "
                f'give features = "REGULAR EXPRESSION" in [{profile.label.lower()}]'
            )
        return names
    if named:
        return sorted(candidates)
    if profile.column("compound") is None:
        return []  # one of the columns holds the compounds under another name and would be taken for a feature
    unnamed = [name for name in candidates if re.fullmatch(r"|Unnamed: \d+|index|__index_level_\d+__", name)]
    shared = [name for name in candidates if name in other_columns and name not in unnamed]
    rest = [name for name in candidates if name not in {*unnamed, *shared}]
    numeric = sorted(name for name in rest if _is_numeric_feature(profile.table.frame[name]))
    words = [name for name in rest if name not in set(numeric)]
    if not numeric:
        problems.append(
            f"{profile.shown}: no numeric column besides the metadata; it has {some_names(candidates)}; "
            "features are columns of numbers"
        )
    for names, why in ((unnamed, "number the rows"), (shared, "are in the CP table too"), (words, "are no numbers")):
        if names:
            notes.append(f"{profile.label}: columns {some_names(names)} {why} and were taken as metadata.")
    return numeric


def _is_numeric_feature(values: pd.Series) -> bool:
    """Whether a column is numbers; a column of numbers with a few words in it is a mistake, not metadata."""
    if pd.api.types.is_bool_dtype(values):
        return False
    numbers, words = as_numbers(values)
    return not words.any() or bool(np.isfinite(numbers).sum() > words.sum())


def _words_line(shown: str, values: pd.Series, words: np.ndarray) -> str:
    example = str(values.to_numpy(dtype=object)[np.flatnonzero(words)[0]])
    comma = re.fullmatch(r"-?\d+,\d+", example.strip())
    remedy = "numbers use a decimal point" if comma else "leave it empty where there is none"
    return (
        f"{shown}: column {values.name!r} has {example!r} in {rows_in_words(words)} where a number is needed; {remedy}"
    )


def _add_lines(shown: str, lines: dict[str, str], what: str, problems: list[str]) -> None:
    """Add the lines about some columns, the first few in full and the rest by name."""
    problems += list(lines.values())[:_LINES_A_KIND]
    rest = list(lines)[_LINES_A_KIND:]
    if rest:
        problems.append(f"{shown}: {len(rest)} more columns {what}: {some_names(rest)}; mend them alike")


def _feature_table(profile: _ProfileTable, names: Sequence[str], problems: list[str]) -> pd.DataFrame:
    """Features as float32; text, infinite values and columns without any value are problems."""
    frame, shown = profile.table.frame, profile.shown
    features = np.empty((len(frame), len(names)), np.float32, order="F")
    worded: dict[str, str] = {}
    endless: dict[str, str] = {}
    empty = []
    for position, name in enumerate(names):
        numbers, words = as_numbers(frame[name])
        too_large = np.abs(numbers) > _FLOAT32_LARGEST
        if words.any():
            worded[name] = _words_line(shown, frame[name], words)
        elif np.isnan(numbers).all():
            empty.append(name)
        if too_large.any():
            endless[name] = (
                f"{shown}: feature {name!r} is infinite or too large in {rows_in_words(too_large)}; "
                "leave such cells empty"
            )
        features[:, position] = np.where(too_large, np.nan, numbers)
    _add_lines(shown, worded, "have words among numbers", problems)
    _add_lines(shown, endless, "are infinite somewhere", problems)
    if empty:
        problems.append(
            f"{shown}: feature {some_names(empty)} is missing (NaN) in all {len(frame)} rows; drop the column"
        )
    return pd.DataFrame(features, columns=list(names))


def read_cell_painting(
    path: str | Path, columns: dict[str, str] | None = None, features: str = "", layer: str = ""
) -> pd.DataFrame:
    """Read one table of Cell Painting wells by the rules of a user's screen.

    Parameters
    ----------
    path : path
        csv, csv.gz, parquet or h5ad.
    columns : dict, optional
        How the columns are called: any of compound, dose, plate, well, control; the names of the study's own tables
        for those left out.
    features : str
        Regular expression that picks the features; empty: those that start with Cells_, Cytoplasm_ or Nuclei_, or
        the variables of an h5ad.
    layer : str
        Layer of an h5ad; empty: its X.

    Returns
    -------
    DataFrame
        Metadata columns and float32 features, sorted by name.

    Raises
    ------
    ScreenError
        One line for whatever is wrong with the file.
    """
    path = Path(path)
    mapping = DEFAULT_COLUMNS | (columns or {})
    texts = [mapping[role] for role in ("compound", "plate", "well")]
    problems: list[str] = []
    table = read_table(path, path.name, problems, text_columns=texts, layer=layer, formats=PROFILE_FORMATS)
    wells = None
    if table is not None:
        profile = _ProfileTable("CP", table, mapping, features)
        for role in sorted({*(columns or {})} - {"compound"}):
            problems += filter(None, [missing_column(table, mapping[role], role)])
        wells = _profile_wells(profile, _feature_names(profile, (), [], problems), problems)
    refuse(problems, "run_all.py --check of a screen with this file as [cp]")
    return wells.table


def _profile_wells(
    profile: _ProfileTable, names: Sequence[str], problems: list[str], controls: Collection[str] = ()
) -> _Wells | None:
    """The table in the project's form; `controls` are ids that count as controls where no column tells.

    None where there is no compound column; the other columns are examined all the same.
    """
    shown, frame = profile.shown, profile.table.frame
    ids, plates, wells, doses, control = (
        profile.column(role) for role in ("compound", "plate", "well", "dose", "control")
    )
    if ids is None:
        problems.append(missing_column(profile.table, profile.columns["compound"], "the compound id"))
    compounds = pd.Series("", index=frame.index, dtype="str") if ids is None else as_text(ids)
    nameless = (compounds == "").to_numpy()
    if ids is not None and nameless.any():
        problems.append(
            f"{shown}: column {ids.name!r} is empty in {rows_in_words(nameless)}; every well needs a "
            "compound id, controls too (for example 'DMSO')"
        )
    if control is None:
        flags, unknown = compounds.isin(set(controls)).to_numpy(), np.zeros(len(frame), dtype=bool)
    else:
        flags, unknown = _flags(shown, control, problems)
    metadata = pd.DataFrame(
        {
            PLATE: "" if plates is None else as_text(plates),
            WELL: "" if wells is None else as_text(wells),
            COMPOUND: compounds,
            DOSE: np.nan if doses is None else _doses(shown, doses, problems),
            CONTROL: flags,
        },
        index=frame.index,
    ).reset_index(drop=True)
    for column in (PLATE, WELL, COMPOUND):
        metadata[column] = metadata[column].astype("str")
    if plates is not None and wells is not None:
        _refuse_repeated_wells(shown, metadata, plates.name, wells.name, problems)
    table = pd.concat([metadata, _feature_table(profile, names, problems)], axis=1)
    return None if ids is None else _Wells(table, nameless | unknown)


def _refuse_repeated_wells(shown: str, metadata: pd.DataFrame, plate: str, well: str, problems: list[str]) -> None:
    placed = (metadata[PLATE] != "") & (metadata[WELL] != "")
    twice = (metadata.duplicated([PLATE, WELL], keep=False) & placed).to_numpy()
    if twice.any():
        first = metadata[twice].iloc[0]
        same = twice & ((metadata[PLATE] == first[PLATE]) & (metadata[WELL] == first[WELL])).to_numpy()
        more = int((metadata[placed].duplicated([PLATE, WELL])).sum()) - int(same.sum()) + 1
        problems.append(
            f"{shown}: columns {plate!r} and {well!r}: plate {first[PLATE]!r} well {first[WELL]!r} is given more than "
            f"once ({rows_in_words(same)}{f', and {more} more repeated wells' if more else ''}); a row is a well"
        )


def _doses(shown: str, values: pd.Series, problems: list[str]) -> np.ndarray:
    numbers, words = as_numbers(values)
    if words.any():
        problems.append(_words_line(shown, values, words))
    wrong = (numbers < 0) | np.isinf(numbers)
    if wrong.any():
        problems.append(
            f"{shown}: column {values.name!r} has the dose {numbers[wrong][0]:g} in {rows_in_words(wrong)}; "
            "doses are micromolar, finite and not negative"
        )
    return nominal_dose(np.where(wrong, np.nan, numbers))


def _flags(shown: str, values: pd.Series, problems: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Control flags from booleans, 0/1 or words, and a mask of the rows that hold neither."""
    words = as_text(values).str.lower()
    words = words.where(~words.isin(MISSING_WORDS), "")
    unknown = (~words.isin(TRUE_WORDS | FALSE_WORDS)).to_numpy()
    if unknown.any():
        example = words.to_numpy()[np.flatnonzero(unknown)[0]]
        problems.append(
            f"{shown}: column {values.name!r} has {example!r} in {rows_in_words(unknown)}; a control column "
            "holds true/false, 1/0, yes/no or negcon"
        )
    return words.isin(TRUE_WORDS).to_numpy(), unknown


def read_profiles(
    described: dict, load: Callable[..., Table | None], notes: list[str], problems: list[str]
) -> dict[str, pd.DataFrame]:
    """Both profile tables in the project's form; a problem of one doesn't hide those of the other.

    Parameters
    ----------
    described : dict
        The description, without sections that are wrong.
    load : callable
        ``load(section, problems, **options)`` reads a section's table, with the options of `tables.read_table`.
    notes, problems : list of str
        Get a sentence for what a reader must know, and a line for what is wrong.

    Returns
    -------
    dict
        ``cp`` and ``tx``, as far as they have compound ids: metadata columns and float32 features.
    """
    mapping = {**DEFAULT_COLUMNS, **described.get("columns", {})}
    texts = [mapping[role] for role in ("compound", "plate", "well")]
    raw: dict[str, _ProfileTable] = {}
    found: dict[str, list[str]] = {section: [] for section in ("cp", "tx") if section in described}
    for section, lines in found.items():
        given = described[section]
        layer = given.get("layer", "")
        table = load(section, lines, text_columns=texts, layer=layer, formats=PROFILE_FORMATS)
        if table is not None:
            raw[section] = _ProfileTable(section.upper(), table, mapping, given.get("features", ""))
    controls: set[str] = set()
    wells: dict[str, _Wells] = {}
    # the table that tells its controls comes first, since it tells the other's too
    for section in sorted(raw, key=lambda name: raw[name].column("control") is None):
        profile = raw[section]
        others = raw["cp"].table.frame.columns if section == "tx" and "cp" in raw else ()
        names = _feature_names(profile, others, notes, found[section])
        made = _profile_wells(profile, names, found[section], controls)
        if made is None:
            continue
        wells[section] = made
        flagged = made.table[CONTROL]
        if profile.column("control") is None and flagged.any():
            notes.append(
                f"{profile.label} has no control column; its {int(flagged.sum())} wells of the other "
                "table's controls were taken as controls."
            )
        controls |= set(made.table.loc[flagged, COMPOUND])
    for lines in found.values():
        problems += lines
    for role, column in described.get("columns", {}).items():
        if role != "compound" and len(raw) == 2 and all(profile.column(role) is None for profile in raw.values()):
            files = " nor ".join(profile.shown for profile in raw.values())
            problems.append(
                f"[columns] {role} = {column!r}: neither {files} has such a column; correct it or leave it out"
            )
    if len(wells) == 2:
        problems += _pair_problems(raw, wells)
    return {section: made.table for section, made in wells.items()}


def _pair_problems(raw: dict[str, _ProfileTable], wells: dict[str, _Wells]) -> list[str]:
    """What is wrong between the two tables, judged by the rows whose id and control flag can be trusted."""
    lines = []
    trusted = {section: made.table[~made.doubtful] for section, made in wells.items()}
    controls = {section: set(table.loc[table[CONTROL], COMPOUND]) for section, table in trusted.items()}
    treated = {section: set(table.loc[~table[CONTROL], COMPOUND]) for section, table in trusted.items()}
    for section, ids in treated.items():
        if controls[section] and not ids and raw[section].column("control") is not None:
            lines.append(
                f"{raw[section].shown}: column {raw[section].columns['control']!r} marks every well as a negative "
                "control; treated wells are false, 0, no or empty"
            )
    both = sorted(set().union(*controls.values()) & set().union(*treated.values()))
    if both:
        where = " and ".join(
            f"{raw[section].shown} {rows_in_words(rows.to_numpy())}"
            for section, made in wells.items()
            if (rows := (made.table[COMPOUND] == both[0]) & ~made.table[CONTROL] & ~made.doubtful).any()
        )
        lines.append(
            f"{where}: column {raw['cp'].columns['control']!r}: {some_names(both)} is a negative control in other "
            "wells and a treatment here; mark a control's id as control everywhere"
        )
    if not treated["cp"] & treated["tx"] and all(treated.values()):
        files = [raw[section].shown for section in ("cp", "tx")]
        lines.append(
            f"{files[0]} and {files[1]}: CP and TX have no compound in common: column "
            f"{raw['cp'].columns['compound']!r} holds {some_names(sorted(treated['cp']), 3)} and "
            f"{some_names(sorted(treated['tx']), 3)}; both must use the same ids"
        )
    return lines


# ----------------------------------------------------------------------------------- compounds and assays


def _named_columns(
    table: Table, wanted: dict[str, tuple[str, ...]], required: Sequence[str], problems: list[str]
) -> pd.DataFrame:
    """Columns of a small table by any of their names (case doesn't matter), as text where they exist."""
    lower = {str(column).strip().lower(): column for column in table.frame.columns}
    found = {}
    for name, aliases in wanted.items():
        column = next((lower[alias.lower()] for alias in aliases if alias.lower() in lower), None)
        if column is not None:
            found[name] = as_text(table.frame[column])
        elif name in required:
            problems.append(missing_column(table, aliases[0], f"needed columns are {', '.join(required)}"))
    return pd.DataFrame(found, index=table.frame.index)


def _named_ids(named: pd.DataFrame, shown: str, what: str, problems: list[str]) -> pd.Series:
    """The column of ids, ``""`` where there is none, which is a problem unless the column is missing altogether."""
    if what not in named:
        return pd.Series("", index=named.index, dtype="str")
    empty = (named[what] == "").to_numpy()
    if empty.any():
        problems.append(f"{shown}: the {what} is empty in {rows_in_words(empty)}; every row names its {what}")
    return named[what]


def _refuse_strangers(ids: pd.Series, measured: Collection[str], shown: str, problems: list[str]) -> None:
    """A table none of whose compounds has a profile calls them by other names."""
    given = set(ids) - {""}
    if given and measured and not given & set(measured):
        problems.append(
            f"{shown}: none of its {len(given)} compounds has a profile; it has {some_names(sorted(given), 2)}, the "
            f"profiles have {some_names(sorted(measured), 2)}; all tables must use the same ids"
        )


def _compound_table(table: Table, compound_column: str, notes: list[str], problems: list[str]) -> pd.DataFrame:
    wanted = {
        "compound": ("compound", compound_column, COMPOUND),
        "smiles": ("smiles",),
        "moa": ("moa",),
        "target": ("target",),
        "inchikey": ("inchikey14", "inchikey"),
    }
    shown = table.shown
    named = _named_columns(table, wanted, ["compound"], problems)
    ids = _named_ids(named, shown, "compound", problems)
    twice = (ids.duplicated() & (ids != "")).to_numpy()
    if twice.any():
        problems.append(
            f"{shown}: compound {ids[twice].iloc[0]!r} is listed again in {rows_in_words(twice)}; "
            "one row a compound, several MoAs or targets joined by '|'"
        )
    nothing = pd.Series("", index=ids.index, dtype="str")
    smiles = named["smiles"] if "smiles" in named else nothing
    keys = named["inchikey"] if "inchikey" in named else nothing
    odd = ((keys != "") & ~keys.str.fullmatch(r"[A-Z]{14}(-.+)?")).to_numpy()
    if odd.any():
        problems.append(
            f"{shown}: {keys[odd].iloc[0]!r} in {rows_in_words(odd)} is no InChIKey; it starts with 14 capital letters"
        )
    blocks = keys.str[:BLOCK_LENGTH].copy()
    keyless = (blocks == "") & (smiles != "")
    if keyless.any():
        blocks[keyless] = inchikey_blocks(smiles[keyless])
        unread = ids[keyless & (blocks == "")]
        if len(unread):
            notes.append(f"{len(unread)} SMILES of {shown} can't be read (first: {unread.iloc[0]}).")
    lists = {
        name: pd.Series(
            [split_values(value) for value in (named[column] if column in named else nothing)],
            index=ids.index,
            dtype=object,
        )
        for name, column in (("MoA", "moa"), ("target", "target"))
    }
    return pd.DataFrame({COMPOUND: ids, "InChIKey14": blocks, "SMILES": smiles, **lists})


def all_compounds(listed: pd.DataFrame, wells: dict[str, pd.DataFrame], notes: list[str]) -> pd.DataFrame:
    """One row for every compound with a profile, annotated where the user's table tells something.

    Parameters
    ----------
    listed : pandas.DataFrame
        The user's compounds, with `profiles.COMPOUND_COLUMNS`.
    wells : dict of pandas.DataFrame
        ``cp`` and ``tx``.
    notes : list of str
        Gets a sentence about compounds that the table leaves out.
    """
    measured = sorted({compound for table in wells.values() for compound in table.loc[~table[CONTROL], COMPOUND]})
    controls = {compound for table in wells.values() for compound in table.loc[table[CONTROL], COMPOUND]}
    listed = listed[~listed[COMPOUND].isin(controls)]
    known = set(listed[COMPOUND])
    absent = [compound for compound in measured if compound not in known]
    if len(listed) and absent:
        notes.append(f"{len(absent)} compounds have a profile but no row in the compounds table (first: {absent[0]}).")
    rest = pd.DataFrame(
        {
            COMPOUND: pd.Series(absent, dtype="str"),
            "InChIKey14": "",
            "SMILES": "",
            "MoA": pd.Series([[] for _ in absent], dtype=object),
            "target": pd.Series([[] for _ in absent], dtype=object),
        }
    )
    table = pd.concat([listed, rest], ignore_index=True) if len(listed) else rest
    return table[COMPOUND_COLUMNS].sort_values(COMPOUND, ignore_index=True)


def _activity_table(table: Table, compound_column: str, notes: list[str], problems: list[str]) -> pd.DataFrame:
    wanted = {
        "compound": ("compound", compound_column, COMPOUND),
        "task": ("task", "assay"),
        "active": ("active",),
    }
    shown = table.shown
    named = _named_columns(table, wanted, ["compound", "task", "active"], problems)
    ids, tasks = (_named_ids(named, shown, what, problems) for what in ("compound", "task"))
    words = named["active"].str.lower() if "active" in named else pd.Series("", index=named.index, dtype="str")
    missing = words.isin(MISSING_WORDS).to_numpy()
    values = words.map({"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1})
    wrong = values.isna().to_numpy() & ~missing
    if wrong.any():
        problems.append(
            f"{shown}: label {words[wrong].iloc[0]!r} in {rows_in_words(wrong)}; active is 1 or 0, "
            "empty where it wasn't measured"
        )
    labels = pd.DataFrame({COMPOUND: ids, "task": tasks, "active": values})
    named_rows = ((ids != "") & (tasks != "")).to_numpy()
    clash = labels.groupby([COMPOUND, "task"])["active"].transform("nunique").gt(1).to_numpy()
    clash = clash & named_rows & ~missing & ~wrong
    if clash.any():
        first = labels[clash].iloc[0]
        problems.append(
            f"{shown}: compound {first[COMPOUND]!r} is both 0 and 1 in task {first['task']!r} "
            f"({rows_in_words(clash)}); one label a compound and task"
        )
    if missing.any() and "active" in named:
        notes.append(f"{int(missing.sum())} rows of {shown} have no label and were dropped.")
    labels = labels[~missing & ~wrong]
    repeats = labels.duplicated([COMPOUND, "task"])
    if repeats.any():
        notes.append(f"{int(repeats.sum())} repeated labels of {shown} were dropped.")
    return labels[~repeats].astype({"active": np.int8}).reset_index(drop=True)[ACTIVITY_COLUMNS]


def _task_table(table: Table | None, activity: pd.DataFrame, notes: list[str], problems: list[str]) -> pd.DataFrame:
    """Tasks in the order of the user's table, then those only the activity table names."""
    if table is None:
        listed = pd.DataFrame({name: pd.Series(dtype="str") for name in ("task", "target", "family")})
    else:
        wanted = {"task": ("task", "assay"), "target": ("target",), "family": ("family",)}
        named = _named_columns(table, wanted, ["task"], problems)
        nothing = pd.Series("", index=named.index, dtype="str")
        listed = pd.DataFrame({name: named[name] if name in named else nothing for name in wanted})
        listed["task"] = _named_ids(named, table.shown, "task", problems)
        twice = (listed["task"].duplicated() & (listed["task"] != "")).to_numpy()
        if twice.any():
            again = listed["task"][twice].iloc[0]
            problems.append(f"{table.shown}: task {again!r} is listed again in {rows_in_words(twice)}; one row a task")
        listed["family"] = listed["family"].where(listed["family"] != "", "other")
    absent = sorted(set(activity["task"]) - set(listed["task"]))
    if table is not None and absent:
        notes.append(f"{len(absent)} tasks are not in {table.shown} and have no family (first: {absent[0]}).")
    rest = pd.DataFrame({"task": pd.Series(absent, dtype="str"), "target": "", "family": "other"})
    return pd.concat([listed, rest], ignore_index=True).assign(source=SOURCE)[TASK_COLUMNS]


def read_annotation(
    described: dict,
    load: Callable[..., Table | None],
    measured: Collection[str],
    notes: list[str],
    problems: list[str],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables of compounds, activity and tasks, empty where the description names none.

    Parameters
    ----------
    described, load, notes, problems
        As for `read_profiles`.
    measured : collection of str
        Ids in the profile tables; empty where those can't be judged by.
    """
    column = described.get("columns", {}).get("compound", COMPOUND)
    compounds = pd.DataFrame({name: pd.Series(dtype=object) for name in COMPOUND_COLUMNS})
    activity, _ = no_outcomes()
    tables = {name: load(name, problems) for name in ("compounds", "activity", "tasks") if name in described}
    if tables.get("compounds") is not None:
        compounds = _compound_table(tables["compounds"], column, notes, problems)
        _refuse_strangers(compounds[COMPOUND], measured, tables["compounds"].shown, problems)
    if tables.get("activity") is not None:
        activity = _activity_table(tables["activity"], column, notes, problems)
        _refuse_strangers(activity[COMPOUND], measured, tables["activity"].shown, problems)
    return compounds, activity, _task_table(tables.get("tasks"), activity, notes, problems)
