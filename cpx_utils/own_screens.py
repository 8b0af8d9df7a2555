"""A user's own screen: a TOML file says where its tables lie and how their columns are called.

pydantic checks the TOML; `profiles.check_screen` checks the tables once they are in the project's form, and what can't
be brought into it is told here. A mistake is one line: the file, the column, the first value and data rows (counted
from 1 without the header), and what would be right. `examples/own_screen/` holds a screen to copy.
"""

import csv
import difflib
import gzip
import re
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cpx_utils.profiles import (
    BLOCK_LENGTH,
    COMPOUND,
    COMPOUND_COLUMNS,
    CONTROL,
    DOSE,
    METADATA_COLUMNS,
    PLATE,
    WELL,
    Screen,
    ScreenError,
    check_screen,
    check_table,
    inchikey,
    no_outcomes,
    nominal_dose,
    one_line,
    require_valid,
    some_names,
    split_values,
    user_path,
)
from cpx_utils.provenance import sha256_file

CP_FEATURES = r"^(Cells|Cytoplasm|Nuclei)_"
ROW_NUMBERS = r"|Unnamed: \d+|index|__index_level_\d+__"  # columns that pandas makes of an index
TRUE_WORDS = {"1", "1.0", "true", "t", "yes", "y", "negcon", "control", "negative control", "negative_control"}
FALSE_WORDS = {"", "0", "0.0", "false", "f", "no", "n", "trt", "treatment", "treated", "compound", "poscon"}
LABELS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}
MISSING_WORDS = {"", "NA", "N/A", "n/a", "NaN", "nan", "NaT", "NULL", "null", "None", "none", "<NA>"}
TABLES = ("cp", "tx", "compounds", "activity", "tasks")  # sections that name a table
FORMATS = (".csv", ".csv.gz", ".parquet", ".h5ad")

Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    """A part of the TOML: no other keys than its own, and nothing but text."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TableFile(_Section):
    """Where a table lies."""

    path: Text


class ProfileFile(TableFile):
    """Where a profile table lies, and which of its columns and values are taken."""

    features: Text = ""  # a regular expression
    layer: Text = ""


class Columns(_Section):
    """How both profile tables call the column of each role."""

    compound: Text = COMPOUND
    dose: Text = DOSE
    plate: Text = PLATE
    well: Text = WELL
    control: Text = CONTROL

    @model_validator(mode="after")
    def _one_column_a_role(self):
        names = list(self.model_dump(exclude_unset=True).values())
        if len(set(names)) < len(names):
            raise ValueError("two roles have one column, and each has its own column")
        return self


class Description(_Section):
    """What a TOML says of a screen."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    cp: ProfileFile
    tx: ProfileFile
    columns: Columns = None
    compounds: TableFile = None
    activity: TableFile = None
    tasks: TableFile = None


# --- the description ----------------------------------------------------------------------------------------


def read_description(
    toml_path: str | Path, reserved: Collection[str] = (), sections: Collection[str] = tuple(Description.model_fields)
) -> dict:
    """Read and check the TOML that describes a screen.

    Parameters
    ----------
    toml_path : path
    reserved : collection of str
        Names that belong to the registry, which a user's screen must not take.
    sections : collection of str
        Fields of `Description` that matter; mistakes in others are left alone. ``("cp", "columns")`` are those of
        Cell Painting alone.

    Returns
    -------
    dict
        What the TOML gives of them: ``name``, and the sections, each a dict of texts.

    Raises
    ------
    ScreenError
        One line for the first mistake, with the number of the others.
    """
    described, wrong = _description(toml_path, reserved)
    _refuse(line for section in ("", *sections) for line in wrong.get(section, []))
    return {section: described[section] for section in sections if section in described}


def _description(toml_path: str | Path, reserved: Collection[str] = ()) -> tuple[dict, dict[str, list[str]]]:
    """The TOML as it stands, and the mistakes in each section, one line each; ``""`` is for those in none."""
    path = user_path(toml_path)
    try:
        described = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not valid TOML in UTF-8 ({error})"
        return {}, {"": [f"{toml_path}: {reason}; a screen is described by a TOML file, texts in double quotes"]}
    wrong: dict[str, list[str]] = {}
    try:
        Description.model_validate(described)
    except ValidationError as error:
        for mistake in sorted(error.errors(), key=lambda mistake: mistake["type"] == "missing"):  # a misspelt key first
            *parents, key = mistake["loc"]
            section = parents[0] if parents else key
            known = Description.model_fields[section].annotation.model_fields if parents else Description.model_fields
            where = f"{key!r} in [{section}]" if parents else f"{key!r}"
            remedy = f"{mistake['msg']}; examples/own_screen/screen.toml shows every key"
            if mistake["type"] == "extra_forbidden":
                near = difflib.get_close_matches(key[:100], known, n=1)
                remedy = f"unknown; {f'did you mean {near[0]!r}?' if near else 'known are ' + ', '.join(known)}"
                section = section if parents else ""
            elif mistake["type"] != "missing":
                where += f" is {mistake['input']!r}"
            wrong.setdefault(section, []).append(one_line(f"{toml_path}: {where}: {remedy}"))
    if str(described.get("name")).lower() in {name.lower() for name in reserved}:
        wrong["name"] = [f"{toml_path}: name {described['name']!r} belongs to a screen of the registry; choose another"]
    return described, wrong


def _refuse(problems: Iterable[str]) -> None:
    """Raise the first problem, if there is any, with the number of the others."""
    first, *others = *problems, ""
    if first:
        more = f" (and {len(others) - 1} more; run_all.py --check of a screen lists all)" if others[1:] else ""
        raise ScreenError(first + more)


# --- files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A file's table with what is wrong with it, and what a reader must know of it."""

    shown: str  # how messages call the file
    path: Path
    frame: pd.DataFrame
    features: list[str] | None  # that the file itself names; None for formats that can't tell
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def blame(self, values: pd.Series, wrong: Iterable[bool], remedy: str) -> None:
        """Add the line about the cells of a column that a mask marks, if it marks any."""
        rows = np.flatnonzero(np.asarray(wrong, bool))
        if len(rows):
            first, where = str(values.iloc[rows[0]]), "data row" if len(rows) == 1 else "data rows"
            listed = ", ".join(str(row + 1) for row in rows[:3])
            listed += f", ... ({len(rows)} in all)" if len(rows) > 3 else ""
            line = f"{self.shown}: column {values.name!r} has {first!r} in {where} {listed}; {remedy}"
            self.problems.append(one_line(line))

    def require(self, column: str, why: str) -> bool:
        """Whether a column is there; if not, add the line that says which may be meant."""
        if column not in self.frame:
            near = difflib.get_close_matches(column, self.frame.columns, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"the table has {some_names(self.frame.columns)}"
            self.problems.append(f"{self.shown}: column {column!r} ({why}) is missing; {hint}")
        return column in self.frame


def _read_table(path: Path, shown: str, texts: Collection[str] | None = None, layer: str = "") -> Table:
    """Read a table of any of the `FORMATS`.

    `texts` are columns of a csv to read as text, so that ids such as ``007`` keep their zeros; None: all. `layer` is
    that of an h5ad to take the values from. Raises ScreenError for a file that is missing, damaged or empty.
    """
    ending = next((ending for ending in FORMATS if path.name.lower().endswith(ending)), "")
    features = None
    try:
        if not path.is_file():
            raise ScreenError(f"no such file; paths are relative to the TOML file ({path.parent})")
        if not ending:
            raise ScreenError(f"unknown format; tables are {', '.join(FORMATS)}")
        if layer and ending != ".h5ad":
            raise ScreenError(f"layer = {layer!r} is for h5ad files; leave it out")
        if ending == ".h5ad":
            frame, features = _read_h5ad(path, layer)
        elif ending == ".parquet":
            frame = parquet.ParquetFile(path).read().to_pandas(ignore_metadata=True)
        else:
            frame = _read_csv(path, texts)
        if len(frame) == 0:
            raise ScreenError("the table has a header but no rows; it needs at least one")
        repeated = frame.columns[frame.columns.duplicated()].unique()
        if len(repeated):
            raise ScreenError(f"column {some_names(repeated)} occurs more than once; column names must be unique")
    except ScreenError as error:
        raise ScreenError(f"{shown}: {error}") from None
    except Exception as error:  # a damaged file makes its reader raise anything
        reason = str(error) or type(error).__name__
        remedy = "save it as UTF-8" if re.search("utf-?8", reason, re.IGNORECASE) else "write it again"
        raise ScreenError(f"{shown}: not a readable {ending} file ({reason}); {remedy}") from None
    return Table(shown, path, frame, features)


def _read_csv(path: Path, texts: Collection[str] | None) -> pd.DataFrame:
    """Read by pyarrow, which refuses rows that are too short or too long and names the first (the header is row 1)."""
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        names = next((row for row in csv.reader(file) if row), [])
    if len(names) == 1 and re.search("[;\t]", names[0]):
        raise ScreenError("columns are separated by semicolons or tabs; use commas (and decimal points)")
    types = {name: pa.string() for name in names if texts is None or name in texts}
    read = arrow.ReadOptions(use_threads=False, block_size=1 << 25)  # threads lose count of rows; a block holds a line
    convert = arrow.ConvertOptions(null_values=sorted(MISSING_WORDS), column_types=types)
    table = arrow.read_csv(path, read, arrow.ParseOptions(newlines_in_values=True), convert)
    strange = [column.name for column in table.schema if pa.types.is_binary(column.type)]
    if strange:
        raise ScreenError(f"column {some_names(strange)} isn't UTF-8 text; save it as UTF-8")
    return table.to_pandas()


def _read_h5ad(path: Path, layer: str) -> tuple[pd.DataFrame, list[str]]:
    """Observations as columns and variables as features, from anndata's documented layout.

    No release of anndata takes both pandas 3 and Python 3.11.
    https://anndata.readthedocs.io/en/stable/fileformat-prose.html
    """
    import h5py
    from scipy import sparse

    with h5py.File(path, "r") as file:
        source = f"layers/{layer}" if layer else "X"
        if source not in file:
            raise ScreenError(f"there is no {source}; layer is one of {some_names(file.get('layers', {}))}")
        stored, obs, var = file[source], file["obs"], file["var"]
        if isinstance(stored, h5py.Group):
            made = {"csr_matrix": sparse.csr_matrix, "csc_matrix": sparse.csc_matrix}[stored.attrs["encoding-type"]]
            parts = tuple(_h5ad_column(stored[name], file) for name in ("data", "indices", "indptr"))
            matrix = made(parts, shape=tuple(stored.attrs["shape"]))
            matrix.check_format(full_check=True)  # wrong indices would write beside the array
            values = matrix.toarray()
        else:
            values = _h5ad_column(stored, file)
        names = [str(name) for name in _h5ad_column(var[var.attrs["_index"]], file)]
        index = str(obs.attrs["_index"])
        columns = {name: _h5ad_column(obs[name], file) for name in (index, *map(str, obs.attrs["column-order"]))}
    table = pd.DataFrame(columns).drop(columns=[index] if index in ("_index", "index") else [])
    return pd.concat([table, pd.DataFrame(values, index=table.index, columns=names)], axis=1), names


def _h5ad_column(stored, file) -> np.ndarray:
    """Values of a dataset; of a group the categories by their codes, or values with a mask."""
    if stored.attrs.get("encoding-type") == "categorical":
        codes, categories = (_h5ad_column(stored[name], file) for name in ("codes", "categories"))
        return np.asarray(pd.Categorical.from_codes(codes, categories), dtype=object)
    if str(stored.attrs.get("encoding-type")).startswith("nullable"):
        values, mask = (_h5ad_column(stored[name], file) for name in ("values", "mask"))
        return np.where(mask, None, values.astype(object))
    if stored.external or stored.is_virtual or stored.file.filename != file.filename:
        raise ScreenError(f"{stored.name} lies in another file; write it again as one file")
    return stored.asstr()[:] if stored.dtype.kind == "O" else stored[:]


def as_text(values: pd.Series) -> pd.Series:
    """Cells as stripped text; missing is ``""``, and whole numbers lose the ``.0`` that a gap gave them."""
    whole = [isinstance(value, float | np.floating) and float(value).is_integer() for value in values]
    words = [str(int(value) if round else value).strip() for value, round in zip(values, whole, strict=True)]
    words = ["" if word in MISSING_WORDS else word for word in words]
    return pd.Series(words, values.index, dtype="str", name=values.name)


def as_numbers(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Float values, and a mask of cells that are filled but no number (quoted numbers are numbers)."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values):
        return values.to_numpy(dtype=float, na_value=np.nan), np.zeros(len(values), dtype=bool)
    words = as_text(values)
    numbers = pd.to_numeric(words, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    return numbers, np.isnan(numbers) & (words != "").to_numpy()


# --- profiles -----------------------------------------------------------------------------------------------


def read_cell_painting(
    path: str | Path, columns: dict[str, str] | None = None, features: str = "", layer: str = ""
) -> pd.DataFrame:
    """Read one table of Cell Painting wells by the rules of a user's screen.

    Parameters
    ----------
    path : path
        A file of any of the `FORMATS`.
    columns : dict, optional
        Role (a field of `Columns`) to column; the names of the study's own tables for those left out.
    features, layer : str
        As in the section [cp] of a description.

    Returns
    -------
    pandas.DataFrame
        Metadata columns, and float32 features sorted by name. Whatever is wrong is a ScreenError of one line.
    """
    roles = Columns(**(columns or {}))
    table = _read_table(Path(path), Path(path).name, (roles.compound, roles.plate, roles.well), layer)
    for role, column in roles.model_dump(exclude_unset=True, exclude={"compound"}).items():
        table.require(column, role)
    wells = _wells(table, "CP", roles, features)
    _refuse(table.problems)
    return wells


def _wells(
    table: Table, label: str, roles: Columns, pattern: str, others: Collection[str] = (), controls: Collection[str] = ()
) -> pd.DataFrame:
    """A profile table in the project's form.

    `others` are columns of the other table, `controls` ids that count as controls where no column tells. A cell that
    can't be read is told once and gets a harmless value.
    """
    frame = table.frame
    blank = pd.Series("", frame.index, dtype="str")
    plate, well = (as_text(frame[name]) if name in frame else blank for name in (roles.plate, roles.well))
    ids = as_text(frame[roles.compound]) if table.require(roles.compound, "the compound id") else blank
    doses = np.full(len(frame), np.nan)
    if roles.dose in frame:
        doses, words = as_numbers(frame[roles.dose])
        table.blame(frame[roles.dose], words, "doses are numbers, in micromolar")
    flags = ids.isin(controls)
    if roles.control in frame:
        words = as_text(frame[roles.control]).str.lower()
        unclear = ~words.isin(TRUE_WORDS | FALSE_WORDS)
        table.blame(frame[roles.control], unclear, "a control column holds true/false, 1/0, yes/no or negcon")
        flags = words.isin(TRUE_WORDS)
        flags |= unclear & ids.isin(ids[flags])
    elif flags.any():
        table.notes.append(f"{label} has no control column; {flags.sum()} wells hold the other table's controls.")
    wells = pd.DataFrame({PLATE: plate, WELL: well, COMPOUND: ids, DOSE: nominal_dose(doses), CONTROL: flags})
    features = _features(table, label, roles, pattern, others)
    wells = pd.concat([wells, features], axis=1)
    if features.shape[1] and roles.compound in frame:  # else that is told already
        table.problems.extend(check_table(wells, table.shown))
    return wells


def _features(table: Table, label: str, roles: Columns, pattern: str, others: Collection[str]) -> pd.DataFrame:
    """Features as float32, by the user's regular expression, the rule of the modality or the file itself, sorted.

    Without any of them (TX) features are the columns of numbers, but for those that number the rows or that the other
    table has too; a column of numbers with a few words in it is a mistake, not metadata.
    """
    frame = table.frame
    known = {*METADATA_COLUMNS, *roles.model_dump().values()}
    names = frame.columns if table.features is None else table.features
    names = sorted(name for name in names if name not in known and not name.startswith("Metadata_"))
    rule = pattern or (CP_FEATURES if label == "CP" and table.features is None else "")
    by_values = not rule and table.features is None
    try:
        matched = [name for name in names if re.search(rule, name)]
    except re.error as error:
        table.problems.append(f"{table.shown}: features = {rule!r} is no regular expression ({error}); mend it")
        return pd.DataFrame(index=frame.index)
    chosen, worded = {}, {}
    for name in matched:
        numbers, words = as_numbers(frame[name])
        is_metadata = name in others or re.fullmatch(ROW_NUMBERS, name) or frame[name].dtype == bool
        if by_values and (is_metadata or words.sum() > np.isfinite(numbers).sum()):
            continue
        if words.any():
            worded[name] = words
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
            chosen[name] = np.where(words, 0, numbers).astype(np.float32)
    for name in list(worded)[:1]:
        more = f" (and {len(worded) - 1} more features have such cells)" if len(worded) > 1 else ""
        table.blame(frame[name], worded[name], f"features hold decimal numbers or empty cells{more}")
    rest = some_names(name for name in names if name not in chosen)
    if by_values and rest and chosen:
        table.notes.append(f"{label}: columns {rest} were taken as metadata.")
    if not chosen:
        what = f"is matched by features = {rule!r}" if rule else "of numbers is left for features"
        table.problems.append(
            f"{table.shown}: no column {what}; it has {rest or 'metadata alone'}; see features in [{label.lower()}]"
        )
    return pd.DataFrame(chosen, frame.index)


# --- compounds and assays -----------------------------------------------------------------------------------


def _cells(table: Table, aliases: dict[str, str], needed: list[str], others: list[str]) -> pd.DataFrame:
    """Columns of a small table as text, ``""`` for those of `others` that it lacks; case plays no part in names.

    `aliases` lead from other names to ours. Columns `needed` must be there and have no empty cell.
    """
    names = {aliases.get(name.strip().lower(), name.strip().lower()): name for name in table.frame.columns}
    cells = pd.DataFrame("", table.frame.index, [*needed, *others], dtype="str")
    for name in cells:
        if name in names:
            cells[name] = as_text(table.frame[names[name]])
            table.blame(cells[name], (cells[name] == "") & (name in needed), f"every row names its {name}")
        elif name in needed:
            table.require(name, f"needed are {', '.join(needed)}")
    return cells


def _compound_table(table: Table | None, aliases: dict[str, str]) -> pd.DataFrame:
    """MoA and targets as they stand, several joined by ``|``."""
    if table is None:
        return pd.DataFrame(columns=COMPOUND_COLUMNS, dtype="str")
    cells = _cells(table, aliases, ["compound"], ["inchikey", "smiles", "moa", "target"])
    ids, keys, smiles = cells["compound"], cells["inchikey"], cells["smiles"]
    table.blame(ids, ids.duplicated() & (ids != ""), "one row a compound, several MoAs or targets joined by '|'")
    odd = (keys != "") & ~keys.str.fullmatch(r"[A-Z]{14}(-.+)?")
    table.blame(keys, odd, "an InChIKey starts with 14 capital letters")
    keyless = (keys == "") & (smiles != "")
    cells["inchikey"] = keys.str[:BLOCK_LENGTH]
    cells.loc[keyless, "inchikey"] = [inchikey(text)[:BLOCK_LENGTH] for text in smiles[keyless]]
    unread = ids[keyless & (cells["inchikey"] == "")]
    if len(unread):
        table.notes.append(f"{len(unread)} SMILES of {table.shown} can't be read (first: {unread.iloc[0]}).")
    return cells.set_axis(COMPOUND_COLUMNS, axis=1)


def _activity_table(table: Table | None, aliases: dict[str, str]) -> pd.DataFrame:
    if table is None:
        return no_outcomes()[0]
    cells = _cells(table, aliases, ["compound", "task"], ["active"])
    table.require("active", "1 or 0")
    words = cells["active"].str.lower()
    table.blame(cells["active"], ~words.isin({"", *LABELS}), "active is 1 or 0, empty where it wasn't measured")
    labels = cells.assign(active=words.map(LABELS)).dropna()
    once = labels.drop_duplicates()
    clash = once.duplicated(["compound", "task"]).reindex(cells.index, fill_value=False)
    table.blame(cells["compound"], clash, "a compound has one label a task, and another stands above")
    return once.astype({"active": np.int8}).rename(columns={"compound": COMPOUND}).reset_index(drop=True)


def _task_table(table: Table | None, activity: pd.DataFrame) -> pd.DataFrame:
    """Tasks in the order of the user's table, then those only the activity table names."""
    tasks = pd.DataFrame(columns=["task", "target", "family"], dtype="str")
    if table is not None:
        tasks = _cells(table, {"assay": "task"}, ["task"], ["target", "family"])
        table.blame(tasks["task"], tasks["task"].duplicated() & (tasks["task"] != ""), "one row a task")
    absent = sorted(set(activity["task"]) - set(tasks["task"]))
    tasks = pd.concat([tasks, pd.DataFrame({"task": absent}, dtype="str")], ignore_index=True).fillna("")
    return tasks.assign(family=tasks["family"].replace("", "other"), source="own")  # labels are taken as measured


# --- the screen ---------------------------------------------------------------------------------------------


def _profile_wells(tables: dict[str, Table], described: dict, roles: Columns) -> dict[str, pd.DataFrame]:
    """Both profile tables in the project's form, ``cp`` and ``tx``, as far as they could be read."""
    wells, controls = {}, set()
    # the table that tells its controls comes first, since it tells the other's too
    for section in sorted(tables, key=lambda section: roles.control not in tables[section].frame):
        others = tables["cp"].frame.columns if section == "tx" and "cp" in tables else ()
        pattern = described[section].get("features", "")
        wells[section] = _wells(tables[section], section.upper(), roles, pattern, others, controls)
        controls |= set(wells[section].loc[wells[section][CONTROL], COMPOUND])
    for role, column in roles.model_dump(exclude_unset=True, exclude={"compound"}).items():
        if tables and all(column not in table.frame for table in tables.values()):
            next(iter(tables.values())).require(column, f"[columns] {role}, which no other table has either")
    return wells


def read_own_screen(toml_path: str | Path, reserved: Collection[str] = ()) -> Screen:
    """Read a user's screen, fit for use; raise the first problem of `examine_own_screen` as a ScreenError."""
    screen, problems = examine_own_screen(toml_path, reserved)
    _refuse(problems)
    return screen


def examine_own_screen(toml_path: str | Path, reserved: Collection[str] = ()) -> tuple[Screen | None, list[str]]:
    """Read a user's screen and list everything that is wrong with it.

    Parameters
    ----------
    toml_path, reserved
        As for `read_description`. Paths in the TOML are relative to its own folder.

    Returns
    -------
    screen : Screen or None
        Fit for use, or None where anything is wrong.
    problems : list of str
        One line each. A table whose section of the description is wrong isn't read, and none is where [columns] is
        wrong or a key above the sections is unknown.
    """
    described, wrong = _description(toml_path, reserved)
    problems = [line for lines in wrong.values() for line in lines]
    if "" in wrong or "columns" in wrong:
        return None, problems
    toml, roles = user_path(toml_path).resolve(), Columns(**described.get("columns", {}))
    tables: dict[str, Table] = {}
    for section in TABLES:
        if section in described and section not in wrong:
            given = described[section]
            texts = (roles.compound, roles.plate, roles.well) if section in ("cp", "tx") else None
            try:
                path = (toml.parent / user_path(given["path"])).resolve()
                tables[section] = _read_table(path, given["path"], texts, given.get("layer", ""))
            except ScreenError as error:
                problems.append(str(error))
    wells = _profile_wells({name: tables[name] for name in ("cp", "tx") if name in tables}, described, roles)
    aliases = {name.lower(): "compound" for name in (roles.compound, COMPOUND)} | {"assay": "task"}
    compounds = _compound_table(tables.get("compounds"), aliases | {"inchikey14": "inchikey"})
    activity = _activity_table(tables.get("activity"), aliases)
    tasks = _task_table(tables.get("tasks"), activity)
    if len(wells) == 2:
        ids = pd.concat(list(wells.values())).groupby(CONTROL)[COMPOUND].agg(set)
        treated, controls = (ids.get(flag, set()) - {""} for flag in (False, True))
        for section, known in (("compounds", compounds), ("activity", activity)):
            _require_profiles(tables.get(section), set(known[COMPOUND]) - {""}, treated, controls)
        compounds = _all_compounds(compounds, treated, controls)
    problems += [line for table in tables.values() for line in table.problems]
    if len(wells) < 2:
        return None, problems
    screen = Screen(
        name=str(described.get("name")),
        cp=wells["cp"],
        tx=wells["tx"],
        compounds=compounds,
        activity=activity,
        tasks=tasks,
        notes=tuple(note for table in tables.values() for note in table.notes),
        sources=tuple(_source(path) for path in (toml, *(table.path for table in tables.values()))),
    )
    # what is wrong within a table is told above, with its file and rows
    told = ("CP: ", "TX: ", "compounds: ", "activity: ", "tasks: ") if problems else ()
    problems += [line for line in check_screen(screen) if not line.startswith(told)]
    return (None, problems) if problems else (require_valid(screen), [])


def _require_profiles(table: Table | None, ids: set[str], treated: set[str], controls: set[str]) -> None:
    """Add the line about a table none of whose compounds has a profile."""
    if ids and treated and not (treated | controls) & ids:
        names = f"it has {some_names(sorted(ids), 2)}, the profiles have {some_names(sorted(treated), 2)}"
        table.problems.append(f"{table.shown}: none of its compounds has a profile; {names}; use the same ids")


def _all_compounds(compounds: pd.DataFrame, treated: set[str], controls: set[str]) -> pd.DataFrame:
    """What is known of the compounds with those of which nothing is, sorted; without the controls."""
    rest = pd.DataFrame({COMPOUND: sorted(treated - set(compounds[COMPOUND]))}, dtype="str")
    compounds = pd.concat([compounds[~compounds[COMPOUND].isin(controls - treated)], rest]).fillna("")
    for column in ("MoA", "target"):
        compounds[column] = compounds[column].map(split_values).astype(object)
    return compounds.sort_values(COMPOUND, ignore_index=True)


def _source(path: Path) -> dict:
    facts = {"file": path.name, "address": str(path), "sha256": sha256_file(path), "bytes": path.stat().st_size}
    return facts | {"verified": True, "licence": "the user's own", "citation": ""}
