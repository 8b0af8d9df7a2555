"""A user's own screen: a TOML file says where its tables lie and how their columns are called.

pydantic checks the TOML; `profiles.require_valid` checks the tables once they are in the project's form, and what can't
be brought into it is told here. A mistake is one line: the file, the column, the first value and data rows (counted
from 1 without the header), and what would be right. `examples/own_screen/` holds a screen to copy.
"""

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow
from pyarrow import parquet
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
    check_table,
    inchikey,
    nominal_dose,
    some_names,
    split_values,
    user_path,
)
from cpx_utils.provenance import sha256_file

CP_FEATURES = r"^(Cells|Cytoplasm|Nuclei)_"
ROW_NUMBERS = r"|Unnamed: \d+|index|__index_level_\d+__"  # columns that pandas makes of an index
TRUE_WORDS = {"1", "true", "t", "yes", "y", "negcon", "control", "negative control", "negative_control"}
FALSE_WORDS = {"", "0", "false", "f", "no", "n", "trt", "treatment", "treated", "compound", "poscon"}
LABELS = {"1": 1, "true": 1, "0": 0, "false": 0}
MISSING_WORDS = {"", "NA", "N/A", "n/a", "NaN", "nan", "NaT", "NULL", "null", "None", "none", "<NA>"}
TABLES = ("cp", "tx", "compounds", "activity", "tasks")  # sections that name a table
ALIASES = {"assay": "task", "inchikey14": "inchikey"}

Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    """A part of the TOML: no other keys than its own, and nothing but text."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TableFile(_Section):
    """Where a table lies."""

    path: Text


class ProfileFile(TableFile):
    """Where a profile table lies, and which of its columns are features."""

    features: re.Pattern = re.compile("")


class Columns(_Section):
    """How both profile tables call the column of each role."""

    compound: Text = COMPOUND
    dose: Text = DOSE
    plate: Text = PLATE
    well: Text = WELL
    control: Text = CONTROL


class Description(_Section):
    """What a TOML says of a screen."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    cp: ProfileFile
    tx: ProfileFile
    normalised: bool = False
    columns: Columns = Columns()
    compounds: TableFile = None
    activity: TableFile = None
    tasks: TableFile = None


# --- the description ----------------------------------------------------------------------------------------


def read_description(toml_path: str | Path) -> Description:
    """Read and check the TOML that describes a screen; a ScreenError tells every mistake in it."""
    try:
        content = tomllib.loads(user_path(toml_path).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not valid TOML in UTF-8 ({error})"
        line = f"{toml_path}: {reason}; a screen is described by a TOML file, texts in double quotes"
        raise ScreenError(line) from None
    return _validated(Description, content, str(toml_path))


def _validated(model: type[_Section], content: dict, shown: str) -> _Section:
    """The content as pydantic reads it, or a ScreenError with a line about each mistake in it."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        mistakes = sorted(error.errors(), key=lambda mistake: mistake["type"] == "missing")  # a misspelt key first
    remedy = "examples/own_screen/screen.toml shows every key"
    raise ScreenError(*(f"{shown}: {'.'.join(one['loc'])}: {one['msg']}; {remedy}" for one in mistakes))


# --- files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A file's table with what is wrong with it, and what a reader must know of it."""

    shown: str  # how messages call the file
    path: Path
    frame: pd.DataFrame
    features: list[str] | None = None  # that the file itself names; None for formats that can't tell
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def blame(self, values: pd.Series, wrong: Iterable[bool], remedy: str) -> None:
        """Add the line about the cells of a column that a mask marks, if it marks any."""
        rows = np.flatnonzero(np.asarray(wrong, bool))
        if len(rows):
            listed = ", ".join(str(row + 1) for row in rows[:3]) + (f", ... ({len(rows)} in all)" * (len(rows) > 3))
            where = f"column {values.name!r} has {str(values.iloc[rows[0]])!r} in data row {listed}"
            self.problems.append(f"{self.shown}: {where}; {remedy}")

    def require(self, column: str, why: str) -> None:
        """Add the line about a column that isn't there, and which may be meant."""
        if column not in self.frame:
            near = difflib.get_close_matches(column, self.frame.columns, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"the table has {some_names(self.frame.columns)}"
            self.problems.append(f"{self.shown}: column {column!r} ({why}) is missing; {hint}")


def _read_table(path: Path, shown: str, texts: Collection[str] | None = None) -> Table:
    """Read a table of any of the `FORMATS`.

    `texts` are columns of a csv to read as text, so that ids such as ``007`` keep their zeros; None: all. Raises
    ScreenError for a file that is missing, damaged or empty.
    """
    ending = next((ending for ending in FORMATS if path.name.lower().endswith(ending)), "")
    try:
        if not path.is_file():
            raise ScreenError(f"no such file; paths are relative to the TOML file ({path.parent})")
        if not ending:
            raise ScreenError(f"unknown format; tables are {', '.join(FORMATS)}")
        frame, features = FORMATS[ending](path, texts)
        if len(frame) == 0:
            raise ScreenError("the table has a header but no rows; it needs at least one")
        repeated = frame.columns[frame.columns.duplicated()].unique()
        if len(repeated):
            raise ScreenError(f"column {some_names(repeated)} occurs more than once; column names must be unique")
    except ScreenError as error:
        raise ScreenError(f"{shown}: {error}") from None
    except Exception as error:  # a damaged file makes its reader raise anything
        reason = str(error) or type(error).__name__
        raise ScreenError(f"{shown}: not a readable {ending} file ({reason}); write it again, as UTF-8") from None
    return Table(shown, path, frame, features)


def _read_csv(path: Path, texts: Collection[str] | None) -> tuple[pd.DataFrame, None]:
    """Read by pyarrow, which refuses rows that are too short or too long and names the first (the header is row 1)."""
    names = list(pd.read_csv(path, nrows=0, encoding="utf-8-sig", sep=","))
    if len(names) == 1 and re.search("[;\t]", names[0]):
        raise ScreenError("columns are separated by semicolons or tabs; use commas (and decimal points)")
    types = {name: pa.string() for name in (names if texts is None else texts)}
    read = arrow.ReadOptions(use_threads=False, block_size=1 << 25)  # threads lose count of rows; a block holds a line
    convert = arrow.ConvertOptions(null_values=sorted(MISSING_WORDS), column_types=types)
    return arrow.read_csv(path, read, arrow.ParseOptions(newlines_in_values=True), convert).to_pandas(), None


def _read_parquet(path: Path, texts: Collection[str] | None) -> tuple[pd.DataFrame, None]:
    return parquet.ParquetFile(path).read().to_pandas(ignore_metadata=True), None


def _read_h5ad(path: Path, texts: Collection[str] | None) -> tuple[pd.DataFrame, list[str]]:
    """Observations as columns and variables as features, from anndata's documented layout.

    No release of anndata takes both pandas 3 and Python 3.11.
    https://anndata.readthedocs.io/en/stable/fileformat-prose.html
    """
    import h5py
    from scipy import sparse

    with h5py.File(path, "r") as file:
        stored, obs, var = file["X"], file["obs"], file["var"]
        if isinstance(stored, h5py.Group):
            made = {"csr_matrix": sparse.csr_matrix, "csc_matrix": sparse.csc_matrix}[stored.attrs["encoding-type"]]
            parts = tuple(_h5ad_column(stored[name], file) for name in ("data", "indices", "indptr"))
            matrix = made(parts, shape=tuple(stored.attrs["shape"]))
            matrix.check_format(full_check=True)  # wrong indices would write beside the array
            values = matrix.toarray()
        else:
            values = _h5ad_column(stored, file)
        names = [str(name) for name in _h5ad_column(var[var.attrs["_index"]], file)]
        columns = {str(name): _h5ad_column(obs[name], file) for name in obs.attrs["column-order"]}
    table = pd.DataFrame(columns, range(len(values)))
    return pd.concat([table, pd.DataFrame(values, columns=names)], axis=1), names


def _h5ad_column(stored, file) -> np.ndarray:
    """Values of a dataset; of a group the categories by their codes, or values with a mask."""
    kind = str(stored.attrs.get("encoding-type"))
    if kind == "categorical":
        codes, categories = (_h5ad_column(stored[name], file) for name in ("codes", "categories"))
        return np.asarray(pd.Categorical.from_codes(codes, categories), dtype=object)
    if kind.startswith("nullable"):
        return np.where(stored["mask"], None, _h5ad_column(stored["values"], file).astype(object))
    if stored.external or stored.is_virtual or stored.file.filename != file.filename:
        raise ScreenError(f"{stored.name} lies in another file; write it again as one file")
    return stored.asstr()[:] if stored.dtype.kind == "O" else stored[:]


# The reader of each ending gives the table, and which columns are features where the format tells (else None).
FORMATS = {".csv": _read_csv, ".csv.gz": _read_csv, ".parquet": _read_parquet, ".h5ad": _read_h5ad}


def as_text(values: pd.Series) -> pd.Series:
    """Cells as stripped text; missing is ``""``, and whole numbers lose the ``.0`` that a gap gave them."""
    words = values.astype("str").fillna("").str.strip().str.replace(r"^(-?\d+)\.0$", r"\1", regex=True)
    return words.mask(words.isin(MISSING_WORDS), "")


def as_numbers(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Float values, and a mask of cells that are filled but no number (quoted numbers are numbers)."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values):
        return values.to_numpy(dtype=float, na_value=np.nan), np.zeros(len(values), dtype=bool)
    words = as_text(values)
    numbers = pd.to_numeric(words, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    return numbers, np.isnan(numbers) & (words != "").to_numpy()


# --- profiles -----------------------------------------------------------------------------------------------


def read_cell_painting(path: str | Path, columns: dict[str, str] | None = None, features: str = "") -> pd.DataFrame:
    """Read one table of Cell Painting wells by the rules of a user's screen.

    Parameters
    ----------
    path : path
        A file of any of the `FORMATS`.
    columns : dict, optional
        Role (a field of `Columns`) to column; the names of the study's own tables for those left out.
    features : str
        As in the section [cp] of a description.

    Returns
    -------
    pandas.DataFrame
        Metadata columns, and float32 features sorted by name. Whatever is wrong is a ScreenError.
    """
    name = Path(path).name
    given = _validated(ProfileFile, {"path": str(path), "features": features}, name)
    roles = _validated(Columns, columns or {}, name)
    table = _read_table(Path(path), name, roles.model_dump().values())
    wells = _wells(table, "CP", roles, given.features)
    _require_named_columns(roles, [table])
    problems = table.problems or check_table(wells, name)
    if problems:
        raise ScreenError(*problems)
    return wells


def _require_named_columns(roles: Columns, tables: Sequence[Table]) -> None:
    """Blame the first table for each column that the user named for a role and that none of the tables has."""
    for role, column in roles.model_dump(exclude_unset=True, exclude={"compound"}).items():
        if tables and all(column not in table.frame for table in tables):
            tables[0].require(column, f"named for {role}, and in no other table either")


def _wells(table: Table, label: str, roles: Columns, pattern: re.Pattern) -> pd.DataFrame:
    """A profile table in the project's form."""
    frame = table.frame
    table.require(roles.compound, "the compound id")
    blank = pd.Series("", frame.index, dtype="str")
    plate, well, ids, control, doses = (
        frame.get(name, blank) for name in (roles.plate, roles.well, roles.compound, roles.control, roles.dose)
    )
    micromolar, words = as_numbers(doses)
    table.blame(doses, words, "doses are numbers, in micromolar")
    flags = as_text(control).str.lower()
    unclear = ~flags.isin(TRUE_WORDS | FALSE_WORDS)
    table.blame(control, unclear, "a control column holds true/false, 1/0, yes/no or negcon")
    wells = {PLATE: as_text(plate), WELL: as_text(well), COMPOUND: as_text(ids)}
    wells |= {DOSE: nominal_dose(micromolar), CONTROL: flags.isin(TRUE_WORDS)}
    return pd.concat([pd.DataFrame(wells), _features(table, label, roles, pattern)], axis=1)


def _features(table: Table, label: str, roles: Columns, pattern: re.Pattern) -> pd.DataFrame:
    """Features as float32, by the user's regular expression, the rule of the modality or the file itself, sorted.

    Without any of them (TX) features are the columns of numbers, but for those that number the rows; a column of
    numbers with a few words in it is a mistake, not metadata.
    """
    frame = table.frame
    rule = pattern.pattern or (CP_FEATURES if label == "CP" and table.features is None else "")
    by_values = not rule and table.features is None
    known = {*METADATA_COLUMNS, *roles.model_dump().values()}
    names = [name for name in sorted({*(table.features or frame.columns)} - known) if not name.startswith("Metadata_")]
    chosen, worded = {}, {}
    for name in [name for name in names if re.search(rule, name)]:
        numbers, words = as_numbers(frame[name])
        numbered = re.fullmatch(ROW_NUMBERS, name) or frame[name].dtype == bool
        if by_values and (numbered or words.sum() > np.isfinite(numbers).sum()):
            continue
        if words.any():
            worded[name] = words
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
            chosen[name] = numbers.astype(np.float32)
    for name in list(worded)[:1]:  # one stands for all
        remedy = f"features hold decimal numbers or empty cells ({len(worded)} features have others)"
        table.blame(frame[name], worded[name], remedy)
    rest = some_names(name for name in names if name not in chosen)
    if not chosen:
        what = f"is matched by features = {rule!r}" if rule else "of numbers is left for features"
        table.problems.append(f"{table.shown}: no column {what}; it has {rest}; see features in [{label.lower()}]")
    elif by_values and rest:
        table.notes.append(f"{label}: columns {rest} were taken as metadata.")
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


def _compound_table(table: Table, aliases: dict[str, str], wells: Collection[pd.DataFrame]) -> pd.DataFrame:
    """What is known of the compounds, with those measured of which nothing is, sorted."""
    cells = _cells(table, aliases, ["compound"], ["inchikey", "smiles", "moa", "target"])
    ids, keys, smiles = cells["compound"], cells["inchikey"], cells["smiles"]
    table.blame(ids, ids.duplicated() & (ids != ""), "one row a compound, several MoAs or targets joined by '|'")
    odd = (keys != "") & ~keys.str.fullmatch(r"[A-Z]{14}(-.+)?")
    table.blame(keys, odd, "an InChIKey starts with 14 capital letters")
    cells["inchikey"] = [(key or inchikey(text))[:BLOCK_LENGTH] for key, text in zip(keys, smiles, strict=True)]
    unread = ids[(smiles != "") & (cells["inchikey"] == "")]
    if len(unread):
        table.notes.append(f"{len(unread)} SMILES of {table.shown} can't be read (first: {unread.iloc[0]}).")
    measured = {compound for one in wells for compound in one.loc[~one[CONTROL], COMPOUND]}
    every = pd.DataFrame({COMPOUND: sorted(measured.union(ids))}, dtype="str")
    known = every.merge(cells.set_axis(COMPOUND_COLUMNS, axis=1), how="left").fillna("")
    return known.assign(MoA=known["MoA"].map(split_values), target=known["target"].map(split_values))


def _activity_table(table: Table, aliases: dict[str, str]) -> pd.DataFrame:
    cells = _cells(table, aliases, ["compound", "task"], ["active"])
    table.require("active", "1 or 0")
    words = cells["active"].str.lower()
    table.blame(cells["active"], ~words.isin({"", *LABELS}), "active is 1 or 0, empty where it wasn't measured")
    once = cells.assign(active=words.map(LABELS)).dropna().drop_duplicates()
    clash = once.duplicated(["compound", "task"]).reindex(cells.index, fill_value=False)
    table.blame(cells["compound"], clash, "a compound has one label a task, and another stands above")
    return once.astype({"active": np.int8}).rename(columns={"compound": COMPOUND}).reset_index(drop=True)


def _task_table(table: Table, activity: pd.DataFrame) -> pd.DataFrame:
    """Tasks in the order of the user's table, then those only the activity table names."""
    tasks = _cells(table, {"assay": "task"}, ["task"], ["target", "family"])
    table.blame(tasks["task"], tasks["task"].duplicated() & (tasks["task"] != ""), "one row a task")
    absent = sorted(set(activity["task"]) - set(tasks["task"]))
    tasks = pd.concat([tasks, pd.DataFrame({"task": absent}, dtype="str")], ignore_index=True).fillna("")
    return tasks.assign(family=tasks["family"].replace("", "other"), source="own")  # labels are taken as measured


# --- the screen ---------------------------------------------------------------------------------------------


def read_own_screen(toml_path: str | Path) -> Screen:
    """Read a user's screen; paths in its TOML are relative to the TOML's own folder.

    Raises
    ------
    ScreenError
        With everything that is wrong: in the description, or where it is sound in files and cells. What these say is
        then for `profiles.require_valid` to check.
    """
    described = read_description(toml_path)
    toml, roles = user_path(toml_path).resolve(), described.columns
    tables: dict[str, Table] = {}
    problems = []
    for section in [section for section in TABLES if getattr(described, section)]:
        given = getattr(described, section).path
        texts = roles.model_dump().values() if section in ("cp", "tx") else None
        try:
            tables[section] = _read_table(toml.parent / user_path(given), given, texts)
        except ScreenError as error:
            problems += error.problems
    profiles = [name for name in ("cp", "tx") if name in tables]
    wells = {name: _wells(tables[name], name.upper(), roles, getattr(described, name).features) for name in profiles}
    controls = {compound for table in wells.values() for compound in table.loc[table[CONTROL], COMPOUND]}
    for name in profiles:
        if roles.control not in tables[name].frame:  # its controls are then those of the other table
            wells[name][CONTROL] = wells[name][COMPOUND].isin(controls)
    _require_named_columns(roles, [tables[name] for name in profiles])
    nothing = Table("", toml, pd.DataFrame(columns=["compound", "task", "active"], dtype="str"))
    aliases = {name.lower(): "compound" for name in (roles.compound, COMPOUND)} | ALIASES
    compounds = _compound_table(tables.get("compounds", nothing), aliases, wells.values())
    activity = _activity_table(tables.get("activity", nothing), aliases)
    tasks = _task_table(tables.get("tasks", nothing), activity)
    problems += [line for table in tables.values() for line in table.problems]
    if problems:
        raise ScreenError(*problems)
    notes = tuple(note for table in tables.values() for note in table.notes)
    paths = (toml, *(table.path for table in tables.values()))
    sources = tuple(source_of(path, path.name, str(path), licence="the user's own") for path in paths)
    return Screen(
        described.name, wells["cp"], wells["tx"], compounds, activity, tasks, notes, sources, described.normalised
    )


def source_of(
    path: Path, file: str, address: str, *, verified: bool = True, licence: str = "", citation: str = ""
) -> dict:
    """What `Screen.sources` says of a file."""
    facts = {"file": file, "address": address, "sha256": sha256_file(path), "bytes": path.stat().st_size}
    return facts | {"verified": verified, "licence": licence, "citation": citation}
