"""A user's own screen: a TOML file that says where the tables lie and how their columns are called.

Every mistake in the description or in a table becomes one line that names the file, the column and the first
rows, and says what would be right. The TOML is explained in the README, "Bring your own screen".
"""

import csv
import difflib
import gzip
import re
import tomllib
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.annotation import BLOCK_LENGTH, inchikey_blocks, split_values
from cpx_utils.profiles import (
    ACTIVITY_COLUMNS,
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
    nominal_dose,
    require_valid,
)
from cpx_utils.provenance import sha256_file

SECTIONS = {
    "cp": ("path", "features"),
    "tx": ("path", "features"),
    "columns": ("compound", "dose", "plate", "well", "control"),
    "compounds": ("path",),
    "activity": ("path",),
    "tasks": ("path",),
}
DEFAULT_COLUMNS = {"compound": COMPOUND, "dose": DOSE, "plate": PLATE, "well": WELL, "control": CONTROL}
CP_FEATURES = r"^(Cells|Cytoplasm|Nuclei)_"
TRUE_WORDS = {
    "1",
    "1.0",
    "true",
    "t",
    "yes",
    "y",
    "negcon",
    "control",
    "negative control",
    "negative_control",
}
FALSE_WORDS = {
    "",
    "0",
    "0.0",
    "false",
    "f",
    "no",
    "n",
    "trt",
    "treatment",
    "treated",
    "compound",
    "poscon",
}
FORMATS = (".csv", ".csv.gz", ".parquet")
_MISSING_WORDS = {"", "na", "nan", "n/a", "null", "none", "<na>"}
_FLOAT32_LARGEST = float(np.finfo(np.float32).max)


# ------------------------------------------------------------------------------------------- description


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
        ``name`` and the sections given, all keys known and all values strings.

    Raises
    ------
    ScreenError
        For a missing file, wrong syntax (with its line), an unknown or missing key, or an unfit name.
    """
    path = Path(toml_path).expanduser()
    try:
        described = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ScreenError(f"{toml_path}: no such file; a screen is described by a TOML file") from None
    except OSError as error:
        raise ScreenError(f"{toml_path}: can't be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ScreenError(f"{toml_path}: not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ScreenError(f"{toml_path}: not valid TOML: {error}") from None
    _known_keys(described, ("name", *SECTIONS), f"{toml_path}: key")
    for section, keys in SECTIONS.items():
        if section not in described:
            continue
        if not isinstance(described[section], dict):
            raise ScreenError(f"{toml_path}: {section} must be a section [{section}] with {', '.join(keys)}")
        _known_keys(described[section], keys, f"{toml_path}: key of [{section}]")
        for key, value in described[section].items():
            if not isinstance(value, str) or not value:
                raise ScreenError(f"{toml_path}: {key} in [{section}] must be text in quotes, not {value!r}")
    for section in SECTIONS:
        wanted = section in ("cp", "tx") or (section in described and section != "columns")
        if wanted and "path" not in described.get(section, {}):
            raise ScreenError(f'{toml_path}: [{section}] needs path = "FILE"')
    if "tasks" in described and "activity" not in described:
        raise ScreenError(f"{toml_path}: [tasks] describes the tasks of [activity], which is missing")
    _check_name(toml_path, described.get("name"), reserved)
    _check_mapping(toml_path, described.get("columns", {}))
    return described


def _known_keys(given: dict, known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ScreenError(f"{where} {key!r} is unknown; {hint}")


def _check_name(toml_path: str | Path, name: object, reserved: Collection[str]) -> None:
    if name is None:
        raise ScreenError(f'{toml_path}: name is missing; write name = "my-screen" above the sections')
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ScreenError(
            f"{toml_path}: name {name!r} is unfit for a folder; use up to 64 letters, digits, '-', '_' "
            "and '.', starting with a letter or digit"
        )
    if name.lower() in {taken.lower() for taken in reserved}:
        raise ScreenError(f"{toml_path}: name {name!r} belongs to a screen of the registry; choose another")


def _check_mapping(toml_path: str | Path, columns: dict[str, str]) -> None:
    roles: dict[str, str] = {}
    for role, column in columns.items():
        if column in roles:
            raise ScreenError(
                f"{toml_path}: [columns] gives {column!r} as both {roles[column]} and {role}; each has its own column"
            )
        roles[column] = role


# ------------------------------------------------------------------------------------------------ tables


def read_table(path: Path, shown: str, text_columns: Collection[str] | None = None) -> pd.DataFrame:
    """Read a csv, csv.gz or parquet table.

    Parameters
    ----------
    path : path
    shown : str
        How messages call the file.
    text_columns : collection of str, optional
        Columns of a csv to read as text, so that ids such as ``007`` keep their zeros; all if not given.

    Raises
    ------
    ScreenError
        If the file is missing, of another format, damaged, not UTF-8, empty, ragged, or repeats a column.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ScreenError(f"{shown}: {what}; paths are relative to the TOML file ({path.parent})")
    lower = path.name.lower()
    if lower.endswith(".h5ad"):
        raise ScreenError(
            f"{shown}: AnnData (.h5ad) isn't read directly; save it as parquet: "
            "adata.obs.join(adata.to_df()).to_parquet('FILE.parquet')"
        )
    if not lower.endswith(FORMATS):
        raise ScreenError(f"{shown}: unknown format; tables are {', '.join(FORMATS)}")
    table = _read_parquet(path, shown) if lower.endswith(".parquet") else _read_csv(path, shown, text_columns)
    if len(table) == 0:
        raise ScreenError(f"{shown}: the table has no rows")
    for column in table.columns:
        if isinstance(table[column].dtype, pd.CategoricalDtype):
            table[column] = table[column].astype(object)
    return table


def _read_parquet(path: Path, shown: str) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        _no_repeats(names, shown)
        table = pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise ScreenError(f"{shown}: not a readable parquet file ({_first_line(error)})") from None
    if any(name is not None for name in table.index.names):
        table = table.reset_index()
    table.columns = table.columns.astype(str)
    return table


def _read_csv(path: Path, shown: str, text_columns: Collection[str] | None) -> pd.DataFrame:
    texts = str if text_columns is None else dict.fromkeys(text_columns, str)
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as handle:
            header = next(csv.reader(handle), [])
        if not header:
            raise ScreenError(f"{shown}: the file is empty")
        _no_repeats(header, shown)
        if len(header) == 1 and re.search("[;\t]", header[0]):
            sign = "semicolons" if ";" in header[0] else "tabs"
            raise ScreenError(f"{shown}: columns are separated by {sign}; use commas (and decimal points)")
        with warnings.catch_warnings():
            # pandas only warns when the first rows are longer than the header, and drops the rest
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, encoding="utf-8-sig", index_col=False, low_memory=False, dtype=texts)
    except UnicodeDecodeError as error:
        raise ScreenError(
            f"{shown}: not UTF-8 text (byte {error.object[error.start]:#04x}); save it as UTF-8"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ScreenError(f"{shown}: not an intact gzip file ({_first_line(error)}); copy it again") from None
    except pd.errors.ParserWarning:
        raise ScreenError(f"{shown}: rows have more values than the header has columns ({len(header)})") from None
    except (pd.errors.ParserError, csv.Error) as error:
        raise ScreenError(f"{shown}: not a readable csv table ({_first_line(error)})") from None
    except OSError as error:
        raise ScreenError(f"{shown}: can't be read ({error.strerror or error})") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].removeprefix("Error tokenizing data. C error: ") if lines else type(error).__name__


def _no_repeats(names: Sequence[str], shown: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ScreenError(f"{shown}: column {name!r} occurs more than once; column names must be unique")
        seen.add(name)


def _rows(mask: np.ndarray) -> str:
    """The first rows of a mask in words, counted from 1 without the header."""
    rows = np.flatnonzero(mask) + 1
    listed = ", ".join(str(row) for row in rows[:3])
    total = f", ... ({len(rows)} rows)" if len(rows) > 3 else ""
    return f"data row{'s' if len(rows) > 1 else ''} {listed}{total}"


def _as_text(values: pd.Series) -> pd.Series:
    """Ids as stripped text; missing is ``""``, and whole numbers lose the ``.0`` that a gap gave them."""

    def text(value: object) -> str:
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            return ""
        if isinstance(value, float | np.floating) and float(value).is_integer():
            return str(int(value))
        return str(value).strip()

    return pd.Series([text(value) for value in values], index=values.index, dtype="str")


def _as_numbers(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Float values, and a mask of cells that are text but no number (quoted numbers are numbers)."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values):
        return values.to_numpy(dtype=float, na_value=np.nan), np.zeros(len(values), dtype=bool)
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    blank = _as_text(values).str.lower().isin(_MISSING_WORDS).to_numpy()
    return numbers, np.isnan(numbers) & ~blank


def _require_column(table: pd.DataFrame, column: str, shown: str, role: str) -> None:
    if column not in table.columns:
        near = difflib.get_close_matches(column, table.columns, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the table has {_named(table.columns)}"
        raise ScreenError(f"{shown}: column {column!r} ({role}) is missing; {hint}")


def _named(columns: Sequence[str], limit: int = 4) -> str:
    listed = [repr(str(column)) for column in list(columns)[:limit]]
    return ", ".join(listed) + (f", ... ({len(columns)} columns)" if len(columns) > limit else "")


# ---------------------------------------------------------------------------------------------- profiles


@dataclass(frozen=True)
class _ProfileTable:
    """A user's profile table before it is put in the project's form."""

    label: str
    shown: str
    table: pd.DataFrame
    columns: dict[str, str]
    features: str


def _feature_names(profile: _ProfileTable, other_columns: Collection[str], notes: list[str]) -> list[str]:
    """Feature columns by the rule of the modality, or by the user's regular expression."""
    metadata = set(profile.columns.values()) | set(METADATA_COLUMNS)
    candidates = [name for name in profile.table.columns if name not in metadata and not name.startswith("Metadata_")]
    pattern = profile.features or (CP_FEATURES if profile.label == "CP" else "")
    if pattern:
        try:
            names = [name for name in candidates if re.search(pattern, name)]
        except re.error as error:
            raise ScreenError(f"{profile.shown}: features = {pattern!r} is no regular expression ({error})") from None
        if not names:
            rule = f"features = {pattern!r}" if profile.features else "prefix Cells_, Cytoplasm_ or Nuclei_"
            raise ScreenError(
                f"{profile.shown}: no column is matched by {rule}; it has {_named(candidates)}; "
                f'give features = "REGULAR EXPRESSION" in [{profile.label.lower()}]'
            )
        return names
    unnamed = [name for name in candidates if re.fullmatch(r"|Unnamed: \d+|index|__index_level_\d+__", name)]
    shared = [name for name in candidates if name in other_columns and name not in unnamed]
    numeric, words = [], []
    for name in candidates:
        if name in unnamed or name in shared:
            continue
        (numeric if _is_numeric_feature(profile, name) else words).append(name)
    if not numeric:
        raise ScreenError(f"{profile.shown}: no numeric column besides the metadata; it has {_named(candidates)}")
    for names, why in ((unnamed, "number the rows"), (shared, "are in the CP table too"), (words, "are no numbers")):
        if names:
            notes.append(f"{profile.label}: columns {_named(names)} {why} and were taken as metadata.")
    return numeric


def _is_numeric_feature(profile: _ProfileTable, name: str) -> bool:
    """Whether a column is numbers; a column of numbers with a few words in it is a mistake, not metadata."""
    values = profile.table[name]
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
        return False
    numbers, words = _as_numbers(values)
    if not words.any():
        return True
    if np.isfinite(numbers).sum() > words.sum():
        _refuse_words(profile.shown, name, values, words)
    return False


def _refuse_words(shown: str, name: str, values: pd.Series, words: np.ndarray) -> None:
    example = str(values.to_numpy(dtype=object)[np.flatnonzero(words)[0]])
    hint = " (numbers use a decimal point)" if re.fullmatch(r"-?\d+,\d+", example.strip()) else ""
    raise ScreenError(f"{shown}: column {name!r} has {example!r} in {_rows(words)} where a number is needed{hint}")


def _feature_table(profile: _ProfileTable, names: Sequence[str]) -> pd.DataFrame:
    """Features as float32, refusing text, infinite values and columns without any value."""
    columns, empty, endless = {}, [], []
    for name in names:
        numbers, words = _as_numbers(profile.table[name])
        if words.any():
            _refuse_words(profile.shown, name, profile.table[name], words)
        if np.isnan(numbers).all():
            empty.append(name)
        if (np.abs(numbers) > _FLOAT32_LARGEST).any():
            endless.append((name, np.abs(numbers) > _FLOAT32_LARGEST))
        columns[name] = numbers
    if empty:
        raise ScreenError(
            f"{profile.shown}: feature {_named(empty)} is missing (NaN) in all {len(profile.table)} rows; "
            "drop the column"
        )
    if endless:
        name, where = endless[0]
        raise ScreenError(
            f"{profile.shown}: feature {name!r} is infinite or too large in {_rows(where)}"
            + (f", as are {len(endless) - 1} more features" if len(endless) > 1 else "")
            + "; leave such cells empty"
        )
    return pd.DataFrame(columns).astype(np.float32)


def read_cell_painting(path: str | Path, columns: dict[str, str] | None = None, features: str = "") -> pd.DataFrame:
    """Read one table of Cell Painting wells by the rules of a user's screen.

    Parameters
    ----------
    path : path
        csv, csv.gz or parquet.
    columns : dict, optional
        How the columns are called: any of compound, dose, plate, well, control; the names of the study's own tables
        for those left out.
    features : str
        Regular expression that picks the features; empty: those that start with Cells_, Cytoplasm_ or Nuclei_.

    Returns
    -------
    DataFrame
        Metadata columns and float32 features.

    Raises
    ------
    ScreenError
        One line for whatever is wrong with the file.
    """
    path = Path(path)
    mapping = DEFAULT_COLUMNS | (columns or {})
    table = read_table(path, path.name, list(mapping.values()))
    for role in {"compound", *(columns or {})}:
        _require_column(table, mapping[role], path.name, role)
    profile = _ProfileTable("CP", path.name, table, mapping, features)
    return _profile_wells(profile, _feature_names(profile, (), []))


def _optional(profile: _ProfileTable, role: str) -> pd.Series | None:
    column = profile.columns[role]
    return profile.table[column] if column in profile.table.columns else None


def _profile_wells(profile: _ProfileTable, names: Sequence[str], controls: Collection[str] = ()) -> pd.DataFrame:
    """The table in the project's form; `controls` are ids that count as controls where no column tells."""
    compound_column = profile.columns["compound"]
    compounds = _as_text(profile.table[compound_column])
    nameless = (compounds == "").to_numpy()
    if nameless.any():
        raise ScreenError(
            f"{profile.shown}: column {compound_column!r} is empty in {_rows(nameless)}; every well needs a "
            "compound id, controls too (for example 'DMSO')"
        )
    plates, wells, doses = (_optional(profile, role) for role in ("plate", "well", "dose"))
    control = _optional(profile, "control")
    metadata = pd.DataFrame(
        {
            PLATE: "" if plates is None else _as_text(plates),
            WELL: "" if wells is None else _as_text(wells),
            COMPOUND: compounds,
            DOSE: np.nan if doses is None else _doses(profile, doses),
            CONTROL: compounds.isin(set(controls)) if control is None else _flags(profile, control),
        },
        index=profile.table.index,
    )
    wells_table = pd.concat([metadata.reset_index(drop=True), _feature_table(profile, names)], axis=1)
    for column in (PLATE, WELL, COMPOUND):
        wells_table[column] = wells_table[column].astype("str")
    return wells_table


def _doses(profile: _ProfileTable, values: pd.Series) -> np.ndarray:
    numbers, words = _as_numbers(values)
    if words.any():
        _refuse_words(profile.shown, str(values.name), values, words)
    wrong = (numbers < 0) | np.isinf(numbers)
    if wrong.any():
        raise ScreenError(
            f"{profile.shown}: column {values.name!r} has the dose {numbers[wrong][0]:g} in {_rows(wrong)}; "
            "doses are micromolar, finite and not negative"
        )
    return nominal_dose(numbers)


def _flags(profile: _ProfileTable, values: pd.Series) -> np.ndarray:
    """Control flags from booleans, 0/1 or words."""
    words = _as_text(values).str.lower()
    words = words.where(~words.isin(_MISSING_WORDS), "")
    unknown = (~words.isin(TRUE_WORDS | FALSE_WORDS)).to_numpy()
    if unknown.any():
        example = words.to_numpy()[np.flatnonzero(unknown)[0]]
        raise ScreenError(
            f"{profile.shown}: column {values.name!r} has {example!r} in {_rows(unknown)}; a control column "
            "holds true/false, 1/0, yes/no or negcon"
        )
    return words.isin(TRUE_WORDS).to_numpy()


def _profile_tables(
    described: dict,
    load: Callable[[str, Collection[str] | None], tuple[pd.DataFrame, str]],
    notes: list[str],
    problems: list[str],
) -> dict[str, pd.DataFrame]:
    """Both profile tables in the project's form; a problem of one doesn't hide those of the other."""
    mapping = {**DEFAULT_COLUMNS, **described.get("columns", {})}
    texts = [mapping[role] for role in ("compound", "plate", "well")]
    raw: dict[str, _ProfileTable] = {}
    for section in ("cp", "tx"):
        with _collecting(problems):
            table, shown = load(section, texts)
            _require_column(table, mapping["compound"], shown, "the compound id")
            raw[section] = _ProfileTable(section.upper(), shown, table, mapping, described[section].get("features", ""))
    for role, column in described.get("columns", {}).items():
        if len(raw) == 2 and not any(column in profile.table.columns for profile in raw.values()):
            files = " nor ".join(profile.shown for profile in raw.values())
            problems.append(f"[columns] {role} = {column!r}: neither {files} has such a column")
    controls: set[str] = set()
    wells: dict[str, pd.DataFrame] = {}
    # the table that tells its controls comes first, since it tells the other's too
    for section in sorted(raw, key=lambda name: _optional(raw[name], "control") is None):
        profile = raw[section]
        with _collecting(problems):
            others = raw["cp"].table.columns if section == "tx" and "cp" in raw else ()
            names = _feature_names(profile, others, notes)
            wells[section] = _profile_wells(profile, names, controls)
            flagged = wells[section][CONTROL]
            if _optional(profile, "control") is None and flagged.any():
                notes.append(
                    f"{profile.label} has no control column; its {int(flagged.sum())} wells of the other "
                    "table's controls were taken as controls."
                )
            controls |= set(wells[section].loc[flagged, COMPOUND])
    return wells


# ----------------------------------------------------------------------------------- compounds and assays


def _named_columns(
    table: pd.DataFrame, shown: str, wanted: dict[str, tuple[str, ...]], required: Sequence[str]
) -> pd.DataFrame:
    """Columns of a small table by any of their names (case doesn't matter), as text where they exist."""
    lower = {str(column).strip().lower(): column for column in table.columns}
    found = {}
    for name, aliases in wanted.items():
        column = next((lower[alias.lower()] for alias in aliases if alias.lower() in lower), None)
        if column is not None:
            found[name] = table[column]
        elif name in required:
            _require_column(table, aliases[0], shown, f"needed columns are {', '.join(required)}")
    return pd.DataFrame(found)


def _compound_table(table: pd.DataFrame, shown: str, compound_column: str, notes: list[str]) -> pd.DataFrame:
    wanted = {
        "compound": ("compound", compound_column, COMPOUND),
        "smiles": ("smiles",),
        "moa": ("moa",),
        "target": ("target",),
        "inchikey": ("inchikey14", "inchikey"),
    }
    named = _named_columns(table, shown, wanted, ["compound"])
    ids = _ids(named["compound"], shown)
    twice = ids.duplicated().to_numpy()
    if twice.any():
        raise ScreenError(
            f"{shown}: compound {ids[twice].iloc[0]!r} is listed again in {_rows(twice)}; "
            "one row a compound, several MoAs or targets joined by '|'"
        )
    smiles = _as_text(named["smiles"]) if "smiles" in named else pd.Series("", index=ids.index)
    blocks = (_as_text(named["inchikey"]) if "inchikey" in named else pd.Series("", index=ids.index)).copy()
    odd = ((blocks != "") & ~blocks.str.fullmatch(r"[A-Z]{14}(-.+)?")).to_numpy()
    if odd.any():
        raise ScreenError(
            f"{shown}: {blocks[odd].iloc[0]!r} in {_rows(odd)} is no InChIKey; it starts with 14 capital letters"
        )
    blocks = blocks.str[:BLOCK_LENGTH]
    keyless = (blocks == "") & (smiles != "")
    if keyless.any():
        blocks[keyless] = inchikey_blocks(smiles[keyless])
        unread = ids[keyless & (blocks == "")]
        if len(unread):
            notes.append(f"{len(unread)} SMILES of {shown} can't be read (first: {unread.iloc[0]}).")
    return pd.DataFrame(
        {
            COMPOUND: ids,
            "InChIKey14": blocks,
            "SMILES": smiles,
            "MoA": _lists(named, "moa"),
            "target": _lists(named, "target"),
        }
    )


def _ids(values: pd.Series, shown: str) -> pd.Series:
    ids = _as_text(values)
    empty = (ids == "").to_numpy()
    if empty.any():
        raise ScreenError(f"{shown}: the compound is empty in {_rows(empty)}; every row names its compound")
    return ids


def _lists(named: pd.DataFrame, column: str) -> pd.Series:
    values = named[column] if column in named else [""] * len(named)
    return pd.Series([split_values(value) for value in values], index=named.index, dtype=object)


def _all_compounds(listed: pd.DataFrame, wells: dict[str, pd.DataFrame], notes: list[str]) -> pd.DataFrame:
    """One row for every compound with a profile, annotated where the user's table tells something."""
    measured = sorted({compound for table in wells.values() for compound in table.loc[~table[CONTROL], COMPOUND]})
    controls = {compound for table in wells.values() for compound in table.loc[table[CONTROL], COMPOUND]}
    listed = listed[~listed[COMPOUND].isin(controls)]
    absent = [compound for compound in measured if compound not in set(listed[COMPOUND])]
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


def _activity_table(table: pd.DataFrame, shown: str, compound_column: str, notes: list[str]) -> pd.DataFrame:
    wanted = {
        "compound": ("compound", compound_column, COMPOUND),
        "task": ("task", "assay"),
        "active": ("active",),
    }
    named = _named_columns(table, shown, wanted, ["compound", "task", "active"])
    ids, tasks = _ids(named["compound"], shown), _as_text(named["task"])
    nameless = (tasks == "").to_numpy()
    if nameless.any():
        raise ScreenError(f"{shown}: the task is empty in {_rows(nameless)}; every row names its task")
    words = _as_text(named["active"]).str.lower()
    missing = words.isin(_MISSING_WORDS).to_numpy()
    values = words.map({"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1})
    wrong = values.isna().to_numpy() & ~missing
    if wrong.any():
        raise ScreenError(
            f"{shown}: label {words[wrong].iloc[0]!r} in {_rows(wrong)}; active is 1 or 0, "
            "empty where it wasn't measured"
        )
    labels = pd.DataFrame({COMPOUND: ids, "task": tasks, "active": values})
    clash = labels.groupby([COMPOUND, "task"])["active"].transform("nunique").gt(1).to_numpy() & ~missing
    if clash.any():
        first = labels[clash].iloc[0]
        raise ScreenError(
            f"{shown}: compound {first[COMPOUND]!r} is both 0 and 1 in task {first['task']!r} "
            f"({_rows(clash)}); one label a compound and task"
        )
    if missing.any():
        notes.append(f"{int(missing.sum())} rows of {shown} have no label and were dropped.")
    labels = labels[~missing]
    repeats = labels.duplicated([COMPOUND, "task"])
    if repeats.any():
        notes.append(f"{int(repeats.sum())} repeated labels of {shown} were dropped.")
    return labels[~repeats].astype({"active": np.int8}).reset_index(drop=True)[ACTIVITY_COLUMNS]


def _task_table(table: pd.DataFrame | None, shown: str, activity: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Tasks in the order of the user's table, then those only the activity table names."""
    if table is None:
        listed = pd.DataFrame({name: pd.Series(dtype="str") for name in TASK_COLUMNS})
    else:
        wanted = {"task": ("task", "assay"), "target": ("target",), "family": ("family",)}
        named = _named_columns(table, shown, wanted, ["task"])
        listed = pd.DataFrame(
            {
                name: _as_text(named[name]) if name in named else pd.Series("", index=named.index)
                for name in TASK_COLUMNS
            }
        )
        twice = listed["task"].duplicated().to_numpy()
        if twice.any():
            raise ScreenError(
                f"{shown}: task {listed['task'][twice].iloc[0]!r} is listed again in {_rows(twice)}; one row a task"
            )
        listed["family"] = listed["family"].where(listed["family"] != "", "other")
    absent = sorted(set(activity["task"]) - set(listed["task"]))
    if table is not None and absent:
        notes.append(f"{len(absent)} tasks are not in {shown} and have no family (first: {absent[0]}).")
    rest = pd.DataFrame({"task": pd.Series(absent, dtype="str"), "target": "", "family": "other"})
    return pd.concat([listed, rest], ignore_index=True)[TASK_COLUMNS]


# --------------------------------------------------------------------------------------------- the screen


@contextmanager
def _collecting(problems: list[str]) -> Iterator[None]:
    """Put a ScreenError raised inside into a list, so that one mistake does not hide the next."""
    try:
        yield
    except ScreenError as error:
        problems.append(str(error))


def examine_user_screen(toml_path: str | Path, reserved: Collection[str] = ()) -> tuple[Screen | None, list[str]]:
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
        One line each: file, column, first rows, what would be right.
    """
    problems: list[str] = []
    notes: list[str] = []
    try:
        described = read_description(toml_path, reserved)
    except ScreenError as error:
        return None, [str(error)]
    toml = Path(toml_path).expanduser().resolve()
    used: list[Path] = [toml]

    def load(section: str, text_columns: Collection[str] | None = None) -> tuple[pd.DataFrame, str]:
        given = described[section]["path"]
        if re.match(r"[a-z0-9]+://", given):
            raise ScreenError(f"{given}: a path on this machine is needed; download the file first")
        path = toml.parent / Path(given).expanduser()
        table = read_table(path, given, text_columns)
        if path.resolve() not in used:
            used.append(path.resolve())
        return table, given

    wells = _profile_tables(described, load, notes, problems)
    compound_column = described.get("columns", {}).get("compound", COMPOUND)
    listed = pd.DataFrame({name: pd.Series(dtype=object) for name in COMPOUND_COLUMNS})
    activity = pd.DataFrame({name: pd.Series(dtype=object) for name in ACTIVITY_COLUMNS}).astype({"active": np.int8})
    tasks = _task_table(None, "", activity, notes)
    if "compounds" in described:
        with _collecting(problems):
            listed = _compound_table(*load("compounds"), compound_column, notes)
    if "activity" in described:
        with _collecting(problems):
            activity = _activity_table(*load("activity"), compound_column, notes)
        with _collecting(problems):
            table, shown = load("tasks") if "tasks" in described else (None, "")
            tasks = _task_table(table, shown, activity, notes)
    if problems:
        return None, problems
    screen = Screen(
        name=described["name"],
        cp=wells["cp"],
        tx=wells["tx"],
        compounds=_all_compounds(listed, wells, notes),
        activity=activity,
        tasks=tasks,
        notes=tuple(notes),
        sources=tuple(_own_file(path) for path in used),
    )
    problems = check_screen(screen)
    return (None, problems) if problems else (require_valid(screen), [])


def read_user_screen(toml_path: str | Path, reserved: Collection[str] = ()) -> Screen:
    """Read a user's screen, checked and fit for use.

    Raises
    ------
    ScreenError
        With the first problem of `examine_user_screen`, saying how many more there are.
    """
    screen, problems = examine_user_screen(toml_path, reserved)
    if screen is None:
        more = len(problems) - 1
        plural = "s" if more > 1 else ""
        tail = f" (and {more} more problem{plural}: run_all.py --check lists them)" if more else ""
        raise ScreenError(problems[0] + tail)
    return screen


def _own_file(path: Path) -> dict:
    return {
        "file": path.name,
        "address": str(path),
        "sha256": sha256_file(path),
        "bytes": path.stat().st_size,
        "verified": True,
        "licence": "the user's own",
        "citation": "",
    }
