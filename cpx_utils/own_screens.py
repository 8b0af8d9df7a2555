"""A user's own screen: a TOML file says where its tables lie and how their columns are called.

pydantic checks the TOML; `profiles.check_screen` checks the tables once they are in the project's form, and what can't
be brought into it is told here. A mistake is one line: the file, the column, the first value and data rows (counted
from 1 without the header), and what would be right. `examples/own_screen/` holds a screen to copy.
"""

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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
    Screen,
    ScreenError,
    check_screen,
    check_table,
    feature_columns,
    inchikey_blocks,
    no_outcomes,
    nominal_dose,
    one_line,
    require_valid,
    some_names,
    split_values,
    treatments,
    user_path,
)
from cpx_utils.provenance import sha256_file

CP_FEATURES = r"^(Cells|Cytoplasm|Nuclei)_"
ROW_NUMBERS = r"|Unnamed: \d+|index|__index_level_\d+__"  # columns that pandas makes of an index
TRUE_WORDS = {"1", "1.0", "true", "t", "yes", "y", "negcon", "control", "negative control", "negative_control"}
FALSE_WORDS = {"", "0", "0.0", "false", "f", "no", "n", "trt", "treatment", "treated", "compound", "poscon"}
LABELS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}
MISSING_WORDS = {"", "NA", "N/A", "n/a", "NaN", "nan", "NaT", "NULL", "null", "None", "none", "<NA>"}
ALIASES = {COMPOUND.lower(): "compound", "assay": "task", "inchikey14": "inchikey"}  # of columns of the small tables

# --- the description ----------------------------------------------------------------------------------------

Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    """A part of the TOML: no other keys than its own, and every value of the type it should be."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TableFile(_Section):
    path: Text


class ProfileFile(TableFile):
    features: Text = ""
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
            raise ValueError("gives one column for two roles; each has its own column")
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


# What would be right, by pydantic's name of a mistake.
_REMEDIES = {
    "missing": "is missing; examples/own_screen/screen.toml shows how it is written",
    "model_type": "must be a section; examples/own_screen/screen.toml shows how it is written",
    "string_type": "must be text in quotes",
    "string_too_short": "must be text in quotes, and not empty",
    "string_pattern_mismatch": "is unfit for a folder; use up to 64 letters, digits, '-', '_' and '.', and start with "
    "a letter or digit",
}


def read_description(toml_path: str | Path, reserved: Collection[str] = ()) -> dict:
    """Read and check the TOML that describes a screen.

    Parameters
    ----------
    toml_path : path
    reserved : collection of str
        Names a user's screen must not take (those of the registry).

    Returns
    -------
    dict
        ``name`` and the sections given (the fields of `Description`), each a dict of texts.

    Raises
    ------
    ScreenError
        For a missing file, wrong syntax (with its line), an unknown or missing key, or an unfit name.
    """
    described, wrong = _description(toml_path, reserved)
    _refuse(line for lines in wrong.values() for line in lines)
    return described


def read_plate_description(toml_path: str | Path) -> dict:
    """Read what a TOML says of Cell Painting alone: [cp] and, where given, [columns]; as `read_description`.

    Of a whole screen's description the other sections are left alone.
    """
    described, wrong = _description(toml_path)
    _refuse(line for part in ("", "cp", "columns") for line in wrong.get(part, []))
    return {section: described[section] for section in ("cp", "columns") if section in described}


def _description(toml_path: str | Path, reserved: Collection[str] = ()) -> tuple[dict, dict[str, list[str]]]:
    """The TOML as it stands, and the mistakes in each section, one line each; ``""`` holds the unknown sections."""
    try:
        described = tomllib.loads(user_path(toml_path).read_text("utf-8-sig"))
    except OSError as error:
        raise ScreenError(f"{toml_path}: {error.strerror}; a screen is described by a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise ScreenError(f"{toml_path}: not valid TOML in UTF-8: {error}; texts stand in double quotes") from None
    wrong: dict[str, list[str]] = {}
    try:
        Description.model_validate(described)
    except ValidationError as error:
        for mistake in error.errors():
            kind, *parents, key = mistake["type"], *mistake["loc"]
            known = Description.model_fields
            if parents:
                known = known[parents[0]].annotation.model_fields
            remedy = _REMEDIES.get(kind, mistake["msg"].removeprefix("Value error, "))
            if kind == "extra_forbidden":
                near = difflib.get_close_matches(key[:100], known, n=1)
                remedy = (
                    f"is unknown; did you mean {near[0]!r}?" if near else f"is unknown; known are {', '.join(known)}"
                )
            elif kind.startswith("string"):
                remedy = f"is {mistake['input']!r}, which {remedy}"
            part = "" if kind == "extra_forbidden" and not parents else mistake["loc"][0]
            wrong.setdefault(part, []).append(f"{toml_path}: {key!r}{f' in [{part}]' if parents else ''} {remedy}")
    if str(described.get("name")).lower() in {name.lower() for name in reserved}:
        wrong["name"] = [f"{toml_path}: name {described['name']!r} belongs to a screen of the registry; choose another"]
    return described, wrong


def _refuse(problems: Iterable[str]) -> None:
    """Raise the first problem, if there is any, with the number of the others."""
    problems = list(problems)
    if problems:
        more = f" (and {len(problems) - 1} more; run_all.py --check of a screen lists all)" if problems[1:] else ""
        raise ScreenError(problems[0] + more)


# --- files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A file's table with what is wrong with it, and what a reader must know of it."""

    shown: str  # how messages call the file
    frame: pd.DataFrame
    features: list[str] | None  # that the file itself names; None for formats that can't tell
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def blame(self, values: pd.Series, wrong: Iterable[bool], remedy: str) -> None:
        """Add the line about the cells of a column that a mask marks, if it marks any."""
        rows = np.flatnonzero(np.asarray(wrong, bool))
        if len(rows):
            listed = ", ".join(str(row + 1) for row in rows[:3]) + (
                f", ... ({len(rows)} rows)" if len(rows) > 3 else ""
            )
            where = f"data row{'s' if len(rows) > 1 else ''} {listed}"
            first = str(values.iloc[rows[0]])
            self.problems.append(f"{self.shown}: column {values.name!r} has {first!r} in {where}; {remedy}")

    def require(self, column: str, why: str) -> bool:
        """Whether a column is there; if not, add the line that says which may be meant."""
        if column not in self.frame:
            near = difflib.get_close_matches(column, self.frame.columns, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"the table has {some_names(self.frame.columns)}"
            self.problems.append(f"{self.shown}: column {column!r} ({why}) is missing; {hint}")
        return column in self.frame


def _read_table(path: Path, shown: str, texts: Collection[str] | None = None, layer: str = "") -> Table:
    """Read a table of any format in `READERS`.

    `texts` are columns of a csv to read as text, so that ids such as ``007`` keep their zeros; None: all. `layer` is
    that of an h5ad to take the values from. Raises ScreenError for a file that is missing, damaged or empty.
    """
    if re.match(r"[a-z0-9]+://", shown, re.IGNORECASE):
        raise ScreenError(f"{shown}: a path on this machine is needed; download the file first")
    ending = next((ending for ending in READERS if path.name.lower().endswith(ending)), "")
    try:
        if not path.is_file():
            what = "is a folder, not a table" if path.is_dir() else "no such file"
            raise ScreenError(f"{what}; paths are relative to the TOML file ({path.parent})")
        if not ending:
            raise ScreenError(f"unknown format; tables are {', '.join(READERS)}")
        if layer and ending != ".h5ad":
            raise ScreenError(f"layer = {layer!r} is for .h5ad files; leave it out")
        frame, features = READERS[ending](path, texts, layer)
        if len(frame) == 0:
            raise ScreenError("the table has a header but no rows; it needs at least one")
        repeated = frame.columns[frame.columns.duplicated()].unique()
        if len(repeated):
            raise ScreenError(f"column {some_names(repeated)} occurs more than once; column names must be unique")
    except ScreenError as error:
        raise ScreenError(f"{shown}: {error}") from None
    except Exception as error:  # a damaged file makes its reader raise anything
        reason = one_line(str(error)) or type(error).__name__
        raise ScreenError(f"{shown}: not a readable {ending} file ({reason}); write it again") from None
    for name in frame.columns[frame.dtypes == "category"]:
        frame[name] = frame[name].astype(object)
    return Table(shown, frame, features)


def _read_csv(path: Path, texts: Collection[str] | None, layer: str) -> tuple[pd.DataFrame, None]:
    """Read by pyarrow, which refuses rows that are too short or too long and names the first (the header is row 1)."""
    import pyarrow as pa
    from pyarrow import csv

    # several threads would lose count of the rows; a block holds at least one line
    options = (csv.ReadOptions(use_threads=False, block_size=1 << 25), csv.ParseOptions(newlines_in_values=True))
    with csv.open_csv(path, *options) as start:
        names = start.schema.names
    if len(names) == 1 and re.search("[;\t]", names[0]):
        raise ScreenError("columns are separated by semicolons or tabs; use commas (and decimal points)")
    types = {name: pa.string() for name in names if texts is None or name in texts}
    table = csv.read_csv(path, *options, csv.ConvertOptions(null_values=sorted(MISSING_WORDS), column_types=types))
    strange = [column.name for column in table.schema if pa.types.is_binary(column.type)]
    if strange:
        raise ScreenError(f"column {some_names(strange)} isn't UTF-8 text; save the file as UTF-8")
    return table.to_pandas(), None


def _read_parquet(path: Path, texts: Collection[str] | None, layer: str) -> tuple[pd.DataFrame, None]:
    from pyarrow import parquet

    return parquet.ParquetFile(path).read().to_pandas(ignore_metadata=True), None


def _read_h5ad(path: Path, texts: Collection[str] | None, layer: str) -> tuple[pd.DataFrame, list[str]]:
    """Observations as columns and variables as features, from the documented layout: no anndata takes pandas 3 and
    Python 3.11. https://anndata.readthedocs.io/en/stable/fileformat-prose.html
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
    """Values of a dataset; of a group the categories by their codes, or values with a mask (missing ones are None)."""
    if "codes" in stored:
        codes = _h5ad_column(stored["codes"], file)
        values = np.asarray(_h5ad_column(stored["categories"], file), dtype=object)[codes]
        return np.where(codes < 0, None, values)
    if "mask" in stored:
        return np.where(_h5ad_column(stored["mask"], file), None, _h5ad_column(stored["values"], file).astype(object))
    if stored.external or stored.is_virtual or stored.file.filename != file.filename:
        raise ScreenError(f"{stored.name} lies in another file; write it again as one file")
    return stored.asstr()[:] if stored.dtype.kind == "O" else stored[:]


# By the end of a file's name: reads the table, and the features where the format tells them from metadata.
READERS = {".csv": _read_csv, ".csv.gz": _read_csv, ".parquet": _read_parquet, ".h5ad": _read_h5ad}


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
        A file of any format in `READERS`.
    columns : dict, optional
        Role (a field of `Columns`) to column; the names of the study's own tables for those left out.
    features, layer : str
        As in the section [cp] of a description.

    Returns
    -------
    pandas.DataFrame
        Metadata columns and float32 features, sorted by name.

    Raises
    ------
    ScreenError
        One line for whatever is wrong with the file.
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
    doses = pd.Series(np.nan, frame.index)
    if roles.dose in frame:
        numbers, words = as_numbers(frame[roles.dose])
        table.blame(frame[roles.dose], words, "doses are numbers, in micromolar")
        doses = nominal_dose(numbers)
    flags = ids.isin(controls)
    if roles.control in frame:
        words = as_text(frame[roles.control]).str.lower()
        unclear = ~words.isin(TRUE_WORDS | FALSE_WORDS)
        table.blame(frame[roles.control], unclear, "a control column holds true/false, 1/0, yes/no or negcon")
        flags = words.isin(TRUE_WORDS)
        flags |= unclear & ids.isin(ids[flags])
    elif flags.any():
        table.notes.append(
            f"{label} has no control column; its {flags.sum()} wells of the other table's controls are its controls."
        )
    metadata = pd.DataFrame({PLATE: plate, WELL: well, COMPOUND: ids, DOSE: doses, CONTROL: flags})
    names = _feature_names(table, label, roles, pattern, others)
    features = np.empty((len(frame), len(names)), np.float32, order="F")
    for position, name in enumerate(names):
        numbers, words = as_numbers(frame[name])
        table.blame(frame[name], words, "a feature holds numbers with a decimal point, or empty cells")
        with np.errstate(over="ignore"):
            features[:, position] = np.where(words, 0, numbers)
    wells = pd.concat([metadata, pd.DataFrame(features, frame.index, names)], axis=1)
    if names and roles.compound in frame:  # else that is told already
        table.problems.extend(check_table(wells, table.shown))
    return wells


def _feature_names(table: Table, label: str, roles: Columns, pattern: str, others: Collection[str]) -> list[str]:
    """Features by the user's regular expression, the rule of the modality or the file itself, sorted.

    Without any of them (TX) features are the columns of numbers, but for those that number the rows or that the other
    table has too; a column of numbers with a few words in it is a mistake, not metadata.
    """
    known = {*METADATA_COLUMNS, *roles.model_dump().values()}
    names = table.frame.columns if table.features is None else table.features
    names = sorted(name for name in names if name not in known and not name.startswith("Metadata_"))
    rule = pattern or (CP_FEATURES if label == "CP" and table.features is None else "")
    if rule:
        try:
            chosen = [name for name in names if re.search(rule, name)]
        except re.error as error:
            table.problems.append(f"{table.shown}: features = {rule!r} is no regular expression ({error}); mend it")
            return []
    elif table.features is not None:
        chosen = names
    else:
        chosen = []
        for name in names:
            numbers, words = as_numbers(table.frame[name])
            numeric = table.frame[name].dtype != bool and (not words.any() or words.sum() < np.isfinite(numbers).sum())
            if numeric and name not in others and not re.fullmatch(ROW_NUMBERS, name):
                chosen.append(name)
        if len(chosen) < len(names):
            rest = some_names(name for name in names if name not in chosen)
            table.notes.append(f"{label}: columns {rest} were taken as metadata, not features.")
    if not chosen:
        table.problems.append(
            f"{table.shown}: no column is a feature by {repr(rule) if rule else 'holding numbers'}; it has "
            f'{some_names(names)}; name them by features = "REGULAR EXPRESSION" in [{label.lower()}]'
        )
    return chosen


# --- compounds and assays -----------------------------------------------------------------------------------


def _named_cells(table: Table, id_column: str, ids: list[str], others: list[str]) -> pd.DataFrame:
    """Columns of a small table as text, ``""`` for those of `others` that it lacks; case plays no part in names.

    Those of `ids` must be there and have no empty cell.
    """
    lower = {name.strip().lower(): name for name in table.frame.columns}
    found = {ALIASES.get(name, name): column for name, column in lower.items()}
    found |= {"compound": id_column} if id_column in table.frame and "compound" not in lower else {}
    cells = pd.DataFrame("", table.frame.index, [*ids, *others], dtype="str")
    for name in cells:
        if name in found:
            cells[name] = as_text(table.frame[found[name]])
            if name in ids:
                table.blame(cells[name], cells[name] == "", f"every row names its {name}")
        elif name in ids:
            table.require(name, "needed")
    return cells.rename(columns={"compound": COMPOUND})


def _compound_table(table: Table, id_column: str) -> pd.DataFrame:
    cells = _named_cells(table, id_column, ["compound"], ["smiles", "inchikey", "moa", "target"])
    ids, keys, smiles = cells[COMPOUND], cells["inchikey"], cells["smiles"]
    table.blame(ids, ids.duplicated() & (ids != ""), "one row a compound, several MoAs or targets joined by '|'")
    odd = (keys != "") & ~keys.str.fullmatch(r"[A-Z]{14}(-.+)?")
    table.blame(keys, odd, "an InChIKey starts with 14 capital letters")
    blocks = keys.str[:BLOCK_LENGTH].copy()
    keyless = (keys == "") & (smiles != "")
    blocks[keyless] = inchikey_blocks(smiles[keyless])
    unread = ids[keyless & (blocks == "")]
    if len(unread):
        table.notes.append(f"{len(unread)} SMILES of {table.shown} can't be read (first: {unread.iloc[0]}).")
    lists = {name: cells[name.lower()].map(split_values).astype(object) for name in ("MoA", "target")}
    return cells.assign(InChIKey14=blocks, SMILES=smiles, **lists)[COMPOUND_COLUMNS]


def _activity_table(table: Table, id_column: str) -> pd.DataFrame:
    cells = _named_cells(table, id_column, ["compound", "task"], ["active"])
    table.require("active", "1 or 0")
    words = cells["active"].str.lower()
    table.blame(cells["active"], ~words.isin({"", *LABELS}), "active is 1 or 0, empty where it wasn't measured")
    labels = cells.assign(active=words.map(LABELS)).dropna()
    once = labels.drop_duplicates()
    clash = once.duplicated([COMPOUND, "task"]).reindex(cells.index, fill_value=False)
    table.blame(cells[COMPOUND], clash, "a compound has one label a task, and another stands above")
    if len(once) < len(cells):
        dropped = f"{(words == '').sum()} rows without a label and {len(labels) - len(once)} repeated ones"
        table.notes.append(f"{table.shown}: {dropped} were dropped.")
    return once.astype({"active": np.int8}).reset_index(drop=True)[ACTIVITY_COLUMNS]


def _task_table(table: Table | None, activity: pd.DataFrame) -> pd.DataFrame:
    """Tasks in the order of the user's table, then those only the activity table names."""
    listed = []
    if table is not None:
        listed = [_named_cells(table, "", ["task"], ["target", "family"])]
        names = listed[0]["task"]
        table.blame(names, names.duplicated() & (names != ""), "one row a task")
    absent = sorted(set(activity["task"]).difference(*(table["task"] for table in listed)))
    tasks = pd.concat([*listed, pd.DataFrame({"task": absent}, dtype="str")], ignore_index=True)
    tasks = tasks.reindex(columns=TASK_COLUMNS).fillna("")
    return tasks.assign(family=tasks["family"].replace("", "other"), source="own")  # labels are taken as measured


# --- the screen ---------------------------------------------------------------------------------------------


def read_own_screen(toml_path: str | Path, reserved: Collection[str] = ()) -> Screen:
    """Read a user's screen, checked and fit for use.

    Raises
    ------
    ScreenError
        With the first problem of `examine_own_screen`, saying how many more there are.
    """
    screen, problems = examine_own_screen(toml_path, reserved)
    _refuse(problems)
    return screen


def examine_own_screen(toml_path: str | Path, reserved: Collection[str] = ()) -> tuple[Screen | None, list[str]]:
    """Read a user's screen and list everything that is wrong with it.

    Parameters
    ----------
    toml_path : path
        The description. Paths in it are relative to its own folder.
    reserved : collection of str
        Names that belong to the registry.

    Returns
    -------
    screen : Screen or None
        Fit for use, or None where anything is wrong.
    problems : list of str
        One line each. A table whose section of the description is wrong isn't read, and none is where [columns] is
        wrong or a key above the sections is unknown.
    """
    try:
        described, wrong = _description(toml_path, reserved)
    except ScreenError as error:
        return None, [str(error)]
    problems = [line for lines in wrong.values() for line in lines]
    if "" in wrong or "columns" in wrong:
        return None, [one_line(line) for line in problems]
    toml, roles = user_path(toml_path).resolve(), Columns(**described.get("columns", {}))
    tables: dict[str, Table] = {}
    sources = [_source(toml)]
    for section in [name for name in ("cp", "tx", "compounds", "activity", "tasks") if name in described]:
        try:
            given = described[section] if section not in wrong else {}
            texts = (roles.compound, roles.plate, roles.well) if section in ("cp", "tx") else None
            path = (toml.parent / user_path(given["path"])).resolve()
            tables[section] = _read_table(path, given["path"], texts, given.get("layer", ""))
            sources.append(_source(path))
        except ScreenError as error:
            problems.append(str(error))
    wells: dict[str, pd.DataFrame] = {}
    controls: set[str] = set()
    profiles = [section for section in ("cp", "tx") if section in tables]
    # the table that tells its controls comes first, since it tells the other's too
    for section in sorted(profiles, key=lambda section: roles.control not in tables[section].frame):
        others = tables["cp"].frame.columns if section == "tx" and "cp" in tables else ()
        pattern = described[section].get("features", "")
        wells[section] = _wells(tables[section], section.upper(), roles, pattern, others, controls)
        controls |= set(wells[section].loc[wells[section][CONTROL], COMPOUND])
    for role, column in roles.model_dump(exclude_unset=True, exclude={"compound"}).items():
        if profiles and all(column not in tables[section].frame for section in profiles):
            tables[profiles[0]].require(column, f"[columns] {role}, which no other table has either")
    measured = set().union(*(table[COMPOUND] for table in wells.values()))
    listed, (activity, _) = pd.DataFrame(columns=COMPOUND_COLUMNS), no_outcomes()
    if "compounds" in tables:
        listed = _compound_table(tables["compounds"], roles.compound)
    if "activity" in tables:
        activity = _activity_table(tables["activity"], roles.compound)
    tasks = _task_table(tables.get("tasks"), activity)
    for section, table in (("compounds", listed), ("activity", activity)):
        ids = sorted(set(table[COMPOUND]) - {""})
        if len(wells) == 2 and ids and not measured & set(ids):
            tables[section].problems.append(
                f"{tables[section].shown}: none of its {len(ids)} compounds has a profile; it has "
                f"{some_names(ids, 2)}, the profiles have {some_names(sorted(measured), 2)}; use the same ids"
            )
    problems += [line for table in tables.values() for line in table.problems]
    if len(wells) < 2:
        return None, [one_line(line) for line in problems]
    rest = sorted(measured - controls - set(listed[COMPOUND]))
    rest = pd.DataFrame({COMPOUND: rest, "InChIKey14": "", "SMILES": "", "MoA": "", "target": ""}, dtype="str")
    rest = rest.assign(**{name: rest[name].map(split_values).astype(object) for name in ("MoA", "target")})
    compounds = pd.concat([listed[~listed[COMPOUND].isin(controls)], rest]).sort_values(COMPOUND, ignore_index=True)
    notes = tuple(line for table in tables.values() for line in table.notes)
    name = described.get("name", "")
    screen = Screen(name, wells["cp"], wells["tx"], compounds, activity, tasks, notes, tuple(sources))
    # what each table has wrong by itself is told; this adds what is wrong between them
    problems += [line for line in check_screen(screen) if not line.startswith(("CP: ", "TX: ", "compounds: "))]
    return (None, [one_line(line) for line in problems]) if problems else (require_valid(screen), [])


def _source(path: Path) -> dict:
    return {
        "file": path.name,
        "address": str(path),
        "sha256": sha256_file(path),
        "bytes": path.stat().st_size,
        "verified": True,
        "licence": "the user's own",
        "citation": "",
    }


def review_screen(screen: Screen, max_missing: float = 0.05, min_controls: int = 4) -> list[str]:
    """What is no mistake and yet should be known before a screen is run.

    Parameters
    ----------
    screen : Screen
    max_missing : float
        Share of missing values from which the study drops a feature (`preprocessing.FeaturePreparation`).
    min_controls : int
        Negative controls a plate needs to be normalised (`preprocessing.normalise_plates`).

    Returns
    -------
    list of str
        Sentences about features that get dropped, plates with few controls or none, treatments without replicates,
        and compounds measured on one side only.
    """
    lines = []
    treated = {}
    for label, table in {"CP": screen.cp, "TX": screen.tx}.items():
        values = table[feature_columns(table)]
        constant, gappy = values.nunique() < 2, values.isna().mean() > max_missing
        for mask, what in ((constant, "are constant"), (gappy, f"miss more than {max_missing:.0%} of their values")):
            if mask.any():
                names = some_names(values.columns[mask])
                lines.append(f"{label}: {mask.sum()} of {len(mask)} features {what} and get dropped: {names}.")
        counts = table.groupby(PLATE)[CONTROL].sum()
        few = counts[counts < min_controls]
        if not table[CONTROL].any():
            lines.append(f"{label}: no well is a negative control; plates stay as they are, without normalisation.")
        elif len(few):
            lines.append(
                f"{label}: {len(few)} of {len(counts)} plates have fewer than the {min_controls} negative controls "
                f"that normalising needs (plate {few.index[0]!r} has {few.iloc[0]})."
            )
        replicates = treatments(table[~table[CONTROL]]).value_counts()
        if (replicates == 1).any():
            single = f"{(replicates == 1).sum()} of {len(replicates)}"
            lines.append(f"{label}: {single} treatments have one well only, and no replicates.")
        treated[label] = set(table.loc[~table[CONTROL], COMPOUND])
    for label, other in (("CP", "TX"), ("TX", "CP")):
        alone = sorted(treated[label] - treated[other])
        if alone:
            lines.append(
                f"{len(alone)} of {len(treated[label])} compounds have {label} and no {other} (first: {alone[0]}); "
                "no encoder is trained or tested on them."
            )
    return lines
