"""Tables that people bring, as csv, csv.gz, parquet or h5ad files, and what their cells mean.

Every mistake becomes one line: the file, the column, the first data rows (counted from 1 without the header) and what
would be right. Mistakes are collected in a list, so that one doesn't hide the next.
"""

import csv
import difflib
import gzip
import os
import re
import subprocess
import sys
import warnings
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from cpx_utils.profiles import ScreenError, some_names

MAX_COLUMNS = 100_000  # more than any table of features; a table on its side has as many as there are cells
MAX_LINE = 1 << 25  # characters
WALK_SECONDS = 30  # for an h5ad file to be read once, and more for each of these bytes
WALK_BYTES_A_SECOND = 5_000_000
FORMATS = (".csv", ".csv.gz", ".parquet")
PROFILE_FORMATS = (*FORMATS, ".h5ad")
# In any of these a damaged parquet or h5ad file shows, wherever its readers stumble over it.
_DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NotImplementedError, OSError,
           RuntimeError, SystemError, TypeError, ValueError)  # fmt: skip
MISSING_WORDS = {"", "na", "nan", "n/a", "null", "none", "<na>"}


@dataclass(frozen=True)
class Table:
    """A file's table.

    Attributes
    ----------
    shown : str
        How messages call the file.
    frame : pandas.DataFrame
        Its columns; text where the reader was told so.
    features : tuple of str, optional
        Features that the file itself names (the variables of an h5ad); None for formats that can't tell.
    """

    shown: str
    frame: pd.DataFrame
    features: tuple[str, ...] | None = None


@contextmanager
def collecting(problems: list[str]) -> Iterator[None]:
    """Put a ScreenError raised inside into a list, so that one mistake does not hide the next."""
    try:
        yield
    except ScreenError as error:
        problems.append(str(error))


def refuse(problems: Sequence[str], more_at: str) -> None:
    """Raise a ScreenError with the first problem, if there is any, and the number of the others.

    Parameters
    ----------
    problems : sequence of str
    more_at : str
        Where the others are listed.
    """
    if problems:
        more = len(problems) - 1
        tail = f" (and {more} more problem{'s' if more > 1 else ''}: {more_at} lists them)" if more else ""
        raise ScreenError(problems[0] + tail)


# ----------------------------------------------------------------------------------------------- reading


def read_table(
    path: Path,
    shown: str,
    problems: list[str],
    *,
    text_columns: Collection[str] | None = None,
    layer: str = "",
    formats: Sequence[str] = FORMATS,
) -> Table | None:
    """Read a table of any of the given formats.

    Parameters
    ----------
    path : path
    shown : str
        How messages call the file.
    problems : list of str
        Gets a line for everything wrong: the file is missing, of another format, damaged, not UTF-8, empty or
        ragged; it has more than `MAX_COLUMNS`; a column occurs twice; memory doesn't suffice.
    text_columns : collection of str, optional
        Columns of a csv to read as text, so that ids such as ``007`` keep their zeros; all if not given.
    layer : str
        Layer of an h5ad to take the values from; its X if empty.
    formats : sequence of str
        Endings that are read here.

    Returns
    -------
    Table or None
        None where the file can't be used at all.
    """
    with collecting(problems):
        if re.match(r"[a-z0-9]+://", shown, re.IGNORECASE):
            raise ScreenError(f"{shown}: a path on this machine is needed; download the file first")
        try:
            if not path.is_file():
                what = "is a folder, not a table" if path.is_dir() else "no such file"
                what = "is no regular file" if path.exists() and not path.is_dir() else what
                raise ScreenError(f"{shown}: {what}; paths are relative to the TOML file ({path.parent})")
        except OSError as error:
            raise ScreenError(f"{shown}: can't be read ({error.strerror}); name another file") from None
        lower = path.name.lower()
        if not lower.endswith(tuple(formats)):
            raise ScreenError(f"{shown}: unknown format; tables here are {', '.join(formats)}")
        if layer and not lower.endswith(".h5ad"):
            problems.append(f"{shown}: layer = {layer!r} is for .h5ad files; leave it out")
        if lower.endswith(".h5ad"):
            table = _read_h5ad(path, shown, layer, problems)
        elif lower.endswith(".parquet"):
            table = Table(shown, _read_parquet(path, shown))
        else:
            table = Table(shown, _read_csv(path, shown, text_columns, problems))
        if len(table.frame) == 0:
            raise ScreenError(f"{shown}: the table has a header but no rows; it needs at least one")
        return table
    return None


def _read_parquet(path: Path, shown: str) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = pq.read_metadata(path)
        names = content.schema.to_arrow_schema().names
        _require_few(len(names), shown)
        _require_memory((content.num_rows, len(names)), np.dtype(np.float32), "values", shown)
        repeated = _repeated(names)
        table = None if repeated else pd.read_parquet(path)
    except ScreenError:
        raise
    except (*_DAMAGE, pa.ArrowException) as error:
        raise ScreenError(f"{shown}: not a readable parquet file ({_first_line(error)}); write it again") from None
    if repeated:
        raise ScreenError(_repeats_line(repeated, shown))
    if any(name is not None for name in table.index.names):
        table = table.reset_index()
    table.columns = table.columns.astype(str)
    for column in table.columns:
        if isinstance(table[column].dtype, pd.CategoricalDtype):
            table[column] = table[column].astype(object)
    return table


def _read_csv(path: Path, shown: str, text_columns: Collection[str] | None, problems: list[str]) -> pd.DataFrame:
    texts = str if text_columns is None else dict.fromkeys(text_columns, str)
    try:
        header = _scan_csv(path, shown)
        with warnings.catch_warnings():
            # columns with words among numbers are examined later, with their rows
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            table = pd.read_csv(path, encoding="utf-8-sig", index_col=False, low_memory=False, dtype=texts)
    except UnicodeDecodeError as error:
        raise ScreenError(
            f"{shown}: not UTF-8 text (byte {error.object[error.start]:#04x}); save it as UTF-8"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ScreenError(f"{shown}: not an intact gzip file ({_first_line(error)}); copy it again") from None
    except (pd.errors.ParserError, csv.Error, OverflowError) as error:
        raise ScreenError(f"{shown}: not a readable csv table ({_first_line(error)}); write it again") from None
    except OSError as error:
        raise ScreenError(f"{shown}: can't be read ({error.strerror or error}); check its permissions") from None
    repeated = _repeated(header)
    if repeated:
        problems.append(_repeats_line(repeated, shown))
        table = table.loc[:, ~pd.Index(header).duplicated()]
    return table


def _scan_csv(path: Path, shown: str) -> list[str]:
    """The header, after a look at every row's length: pandas would fill short rows with gaps, in silence."""
    zipped = path.name.lower().endswith(".gz")
    with open(path, "rb") as handle:
        magic = handle.read(4)
    if not zipped and magic.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        remedy = "name it .csv.gz" if magic.startswith(b"\x1f\x8b") else "save the sheet as csv"
        kind = "a gzip file" if magic.startswith(b"\x1f\x8b") else "a zip or Excel file"
        raise ScreenError(f"{shown}: {kind} under the name of a csv table; {remedy}")
    if zipped and magic and not magic.startswith(b"\x1f\x8b"):
        raise ScreenError(f"{shown}: not a gzip file, in spite of its name; compress it or name it .csv")
    with (gzip.open if zipped else open)(path, "rt", encoding="utf-8-sig", newline="") as handle:
        rows = (row for row in csv.reader(_lines(handle, shown)) if row)  # pandas skips empty lines too
        header = next(rows, [])
        if not header:
            raise ScreenError(f"{shown}: the file is empty; it needs a header and rows")
        _require_few(len(header), shown)
        if len(header) == 1 and re.search("[;\t]", header[0]):
            sign = "semicolons" if ";" in header[0] else "tabs"
            raise ScreenError(f"{shown}: columns are separated by {sign}; use commas (and decimal points)")
        lengths = np.fromiter(map(len, rows), dtype=int)
    ragged = lengths != len(header)
    if ragged.any():
        raise ScreenError(
            f"{shown}: {lengths[ragged][0]} values where the header has {len(header)} columns, in "
            f"{rows_in_words(ragged)}; a missing value is an empty cell, and text with commas stands in quotes"
        )
    return header


def _lines(handle: TextIO, shown: str) -> Iterator[str]:
    """Lines of a text table, as long as they are of sensible length, hold text, and fit into memory together.

    A gzip file may unpack to a thousand times its size, and pandas would read all of it.
    """
    import psutil

    free = psutil.virtual_memory().available
    read = 0
    while line := handle.readline(MAX_LINE):
        read += len(line)
        if len(line) == MAX_LINE:
            raise ScreenError(
                f"{shown}: a line of more than {MAX_LINE} characters; a row is a well, on a line of its own"
            )
        if "\0" in line:
            raise ScreenError(f"{shown}: there are zero bytes in it, as in no text; write the csv table again")
        if 2 * read > free:
            raise ScreenError(
                f"{shown}: it holds more than {read / 1e9:.1f} GB of text and {free / 1e9:.1f} GB of memory are free; "
                "write a file with fewer columns or rows"
            )
        yield line


def _require_few(columns: int, shown: str) -> None:
    if columns > MAX_COLUMNS:
        raise ScreenError(
            f"{shown}: {columns} columns, of {MAX_COLUMNS} at most; a row is a well and a column a feature (does the "
            "table lie on its side?)"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].removeprefix("Error tokenizing data. C error: ") if lines else type(error).__name__


def _repeated(names: Sequence[str]) -> list[str]:
    index = pd.Index(names)
    return list(index[index.duplicated()].unique())


def _repeats_line(repeated: Sequence[str], shown: str) -> str:
    return f"{shown}: column {some_names(repeated)} occurs more than once; column names must be unique"


# ------------------------------------------------------------------------------------------------- h5ad

# Read with h5py from the documented layout, because no release of anndata takes both pandas 3 and Python 3.11.
# https://anndata.readthedocs.io/en/stable/fileformat-prose.html


def _read_h5ad(path: Path, shown: str, layer: str, problems: list[str]) -> Table:
    """Values and variable names as features, observations as the other columns."""
    try:
        import h5py
    except ImportError:
        raise ScreenError(f"{shown}: .h5ad files need one more package: pip install -e '.[h5ad]'") from None
    _rehearse(path, shown)
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("obs"), h5py.Group) or not isinstance(file.get("var"), h5py.Group):
                raise ScreenError(
                    f"{shown}: no obs and var as anndata writes them since release 0.7; read it with anndata and "
                    "write it again"
                )
            _require_few(len(file["var"][file["var"].attrs["_index"]]), shown)
            observations, names = _h5ad_frame(file, file["obs"], shown), _h5ad_index(file, file["var"], shown)
            values = _h5ad_values(file, shown, layer, (len(observations), len(names)))
    except ScreenError:
        raise
    except _DAMAGE as error:
        raise ScreenError(f"{shown}: not a readable h5ad file ({_first_line(error)}); write it again") from None
    if values.shape != (len(observations), len(names)):
        raise ScreenError(
            f"{shown}: values of shape {values.shape} for {len(observations)} observations and {len(names)} "
            "variables; write it again"
        )
    repeated = _repeated([*observations.columns, *names])
    if repeated:
        problems.append(_repeats_line(repeated, shown) + " (columns of obs and names of var together)")
        kept = ~(names.duplicated() | names.isin(observations.columns))
        names, values = names[kept], values[:, kept]
    frame = pd.concat([observations, pd.DataFrame(values, columns=names)], axis=1)
    return Table(shown, frame, tuple(names))


def _rehearse(path: Path, shown: str) -> None:
    """Have another process read the file first: on some damaged ones the HDF5 library never ends, or crashes."""
    import psutil

    script = Path(__file__).with_name("h5walk.py")
    seconds = WALK_SECONDS + path.stat().st_size / WALK_BYTES_A_SECOND
    call = [sys.executable, "-P", str(script), str(path), str(psutil.virtual_memory().available)]
    try:
        with open(os.devnull, "r+b") as nothing:
            done = subprocess.run(call, stdin=nothing, stdout=nothing, stderr=nothing, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ScreenError(
            f"{shown}: not a readable h5ad file (the HDF5 library never ends on it); write it again"
        ) from None
    if done.returncode < 0:  # by a signal
        raise ScreenError(f"{shown}: not a readable h5ad file (the HDF5 library crashes on it); write it again")


def _h5ad_index(file, group, shown: str) -> pd.Index:
    names = _h5ad_column(file, group[group.attrs["_index"]], f"{shown}: index of {group.name[1:]}")
    return pd.Index(np.asarray(names).astype(str))


def _h5ad_frame(file, group, shown: str) -> pd.DataFrame:
    """The observations' columns, categories as their values, with the index where it has a name."""
    named, index = str(group.attrs["_index"]), _h5ad_index(file, group, shown)
    columns = {} if named in ("_index", "index") else {named: index.to_numpy(dtype=object)}
    for name in map(str, group.attrs["column-order"]):
        columns[name] = _h5ad_column(file, group[name], f"{shown}: column {name!r} of obs")
    return pd.DataFrame(columns, index=range(len(index)))


def _h5ad_column(file, stored, where: str) -> np.ndarray:
    """One column of a data frame: numbers, text, categories, or values with a mask."""
    if hasattr(stored, "keys"):
        if "codes" in stored:
            codes, categories = (
                _h5ad_array(file, stored["codes"], where),
                _h5ad_column(file, stored["categories"], where),
            )
        elif "values" in stored and "mask" in stored:
            values = _h5ad_column(file, stored["values"], where).astype(object)
            values[_h5ad_array(file, stored["mask"], where)] = None
            return values
        else:
            raise ScreenError(f"{where} is stored as {stored.attrs.get('encoding-type', 'a group')!r}; make it text")
    elif "categories" in stored.attrs:  # anndata 0.7 keeps them elsewhere in the file
        codes = _h5ad_array(file, stored, where)
        categories = _h5ad_column(file, file[stored.attrs["categories"]], where)
    else:
        return _h5ad_array(file, stored, where)
    values = np.full(len(codes), None, dtype=object)
    values[codes >= 0] = np.asarray(categories, dtype=object)[codes[codes >= 0]]
    return values


def _h5ad_array(file, stored, where: str) -> np.ndarray:
    """All of a dataset that lies in the file itself and fits into memory, whatever size it claims to have."""
    if stored.external or stored.is_virtual or stored.file.filename != file.filename:
        raise ScreenError(f"{where} lies in another file; write it again as one file")
    _require_memory((stored.size, 1), stored.dtype, "values", where)
    return stored.asstr()[:] if stored.dtype.kind == "O" else stored[:]


def _h5ad_values(file, shown: str, layer: str, shape: tuple[int, int]) -> np.ndarray:
    """Dense values (n_observations, n_variables) of X or of a layer."""
    layers = file.get("layers", {})
    if layer and layer not in layers:
        hint = f"its layers are {some_names(list(layers))}" if len(layers) else "it has no layers"
        raise ScreenError(f"{shown}: there is no layer {layer!r}; {hint}, and without layer = ... X is taken")
    stored = layers[layer] if layer else file.get("X")
    if stored is None:
        raise ScreenError(f'{shown}: X is empty; name one of its layers with layer = "NAME"')
    sparse = hasattr(stored, "keys")
    how = "sparse values made dense" if sparse else "values"
    _require_memory(shape, stored["data"].dtype if sparse else stored.dtype, how, shown)
    if not sparse:
        return _h5ad_array(file, stored, shown)
    from scipy import sparse as formats

    kinds = {"csr_matrix": formats.csr_matrix, "csc_matrix": formats.csc_matrix}
    kind = stored.attrs.get("encoding-type", stored.attrs.get("h5sparse_format", "")).removesuffix("_matrix")
    if f"{kind}_matrix" not in kinds:
        raise ScreenError(f"{shown}: X is stored as {kind!r}; dense, csr and csc are read")
    size = stored.attrs.get("shape", stored.attrs.get("h5sparse_shape"))
    if tuple(size) != shape:
        raise ScreenError(
            f"{shown}: values of shape {tuple(size)} for {shape[0]} observations and {shape[1]} variables"
        )
    parts = [_h5ad_array(file, stored[name], shown) for name in ("data", "indices", "indptr")]
    values = kinds[f"{kind}_matrix"](tuple(parts), shape=shape)
    values.check_format(full_check=True)  # else wrong indices would write beside the array
    return values.toarray()


def _require_memory(shape: tuple[int, int], dtype: np.dtype, how: str, shown: str) -> None:
    import psutil

    needed = shape[0] * shape[1] * (dtype.itemsize + 4)  # as it is stored, and as 32-bit features
    free = psutil.virtual_memory().available
    if needed > free:
        raise ScreenError(
            f"{shown}: {shape[0]} x {shape[1]} {how} need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are "
            "free; write a file with fewer variables or observations"
        )


# ------------------------------------------------------------------------------------------------- cells


def rows_in_words(mask: np.ndarray) -> str:
    """The first rows of a mask in words, counted from 1 without the header."""
    rows = np.flatnonzero(mask) + 1
    listed = ", ".join(str(row) for row in rows[:3])
    total = f", ... ({len(rows)} rows)" if len(rows) > 3 else ""
    return f"data row{'s' if len(rows) > 1 else ''} {listed}{total}"


def as_text(values: pd.Series) -> pd.Series:
    """Ids as stripped text; missing is ``""``, and whole numbers lose the ``.0`` that a gap gave them."""

    def text(value: object) -> str:
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            return ""
        if isinstance(value, float | np.floating) and float(value).is_integer():
            return str(int(value))
        return str(value).strip()

    return pd.Series([text(value) for value in values], index=values.index, dtype="str")


def as_numbers(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Float values, and a mask of cells that are filled but no number (quoted numbers are numbers)."""
    if values.dtype.kind in "mM":  # times, which pandas would count in nanoseconds
        return np.full(len(values), np.nan), values.notna().to_numpy()
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values):
        return values.to_numpy(dtype=float, na_value=np.nan), np.zeros(len(values), dtype=bool)
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    blank = as_text(values).str.lower().isin(MISSING_WORDS).to_numpy()
    return numbers, np.isnan(numbers) & ~blank


def missing_column(table: Table, column: str, role: str) -> str:
    """The line that says that a column is missing and which may be meant; ``""`` where it is there."""
    names = [str(name) for name in table.frame.columns]
    if column in names:
        return ""
    near = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the table has {some_names(names)}"
    return f"{table.shown}: column {column!r} ({role}) is missing; {hint}"
