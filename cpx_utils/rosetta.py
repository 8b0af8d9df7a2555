"""Replicate-level screens of the Rosetta collection (Haghighi 2022, doi 10.1038/s41592-022-01667-0).

Each has two gzipped CSV tables, Cell Painting (CP) and L1000 transcriptomics (TX), of up to half a gigabyte, with
metadata of mixed types between the features. They are streamed once into parquet files, by the hash of their source,
and read from there. What they spell in several ways (controls, doses, plate names, gaps) has one spelling in a
`Screen`; whatever is changed or left out is counted in a note.
"""

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pandas as pd

from cpx_utils.annotation import BROAD_ID_LENGTH
from cpx_utils.downloads import LocalFile
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL, ScreenError, nominal_dose, some_names
from cpx_utils.provenance import atomic_path

if TYPE_CHECKING:
    import pyarrow as pa

FEATURE_MARKS = {"cp": ("Cells_", "Cytoplasm_", "Nuclei_"), "tx": ("_at",)}
GAPS = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NAN", "-nan", "null", "NULL", "None", "<NA>")
# Where a value of the metadata is not known, LINCS files write this number.
UNKNOWN = {"-666", "-666.0"}
NEGATIVE_CONTROLS = {"negcon", "dmso"}
# Doses of one compound that are nearer than this are one nominal dose; neighbours in a series differ by half at least.
SAME_DOSE = 1.05
BLOCK_BYTES = 1 << 22
ROW_GROUP = 8192
SNIFFED_ROWS = 50
MOST_UNPACKED = 500_000_000  # bytes of an Excel table's parts; the probes' takes 2 MB
# Written into the derived files: a change of what they hold makes those of older versions invalid.
LAYOUT = b"1"

_KEY = re.compile(r"^(?P<id>.+?)_(?P<dose>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)$")
_BROAD = re.compile(r"BRD-[A-Z]\d{8}")


@dataclass(frozen=True)
class ProfileColumns:
    """What the columns of a profile table mean; ``""`` where the table has no such column.

    Attributes
    ----------
    treatment : str
        Key of the treatment: compound and nominal dose in micromolar joined by ``_``, or an allele's id.
    plate, well : str
        Plate and well.
    dose : str
        Dose in micromolar, used where the key has none.
    smiles, name : str
        Structure and name of the compound.
    alleles : bool
        The treatments are overexpressed alleles: the whole key is the id, and there is no dose.
    """

    treatment: str
    plate: str = ""
    well: str = ""
    dose: str = ""
    smiles: str = ""
    name: str = ""
    alleles: bool = False


@dataclass(frozen=True)
class RosettaTables:
    """What the profile files of a screen hold.

    Attributes
    ----------
    cp, tx : pandas.DataFrame
        As in `Screen`; features in alphabetical order.
    compounds : pandas.DataFrame
        One row a compound (or allele): Metadata_Compound, SMILES, InChIKey14 (``""``), MoA and target (``[]``), name.
    notes : tuple of str
        What was changed, left out or counted.
    """

    cp: pd.DataFrame
    tx: pd.DataFrame
    compounds: pd.DataFrame
    notes: tuple[str, ...]


def read_rosetta(
    columns: dict[str, ProfileColumns], cp: LocalFile, tx: LocalFile, idmap: str | Path, cache: str | Path
) -> RosettaTables:
    """Read the two profile tables of a Rosetta screen.

    Parameters
    ----------
    columns : dict
        What the columns mean, by ``cp`` and ``tx``.
    cp, tx : LocalFile
        The gzipped CSV tables.
    idmap : path
        Excel table with the columns probe_id and symbol.
    cache : path
        Folder for the parquet files made of the tables; done without where it can't be written.

    Raises
    ------
    ScreenError
        If a table can't be read or lacks its key column, naming file and column.
    """
    tables, described, notes = {}, {}, []
    for kind, file in (("cp", cp), ("tx", tx)):
        metadata, values, features = _read_table(file, kind, Path(cache))
        wells, facts, more = _wells(metadata, columns[kind], file.path.name, kind.upper())
        names, renamed = (features, []) if kind == "cp" else _gene_symbols(features, idmap)
        values, names, dropped = _informative(values, facts.pop("row").to_numpy(), names, kind.upper())
        tables[kind] = pd.concat([wells, pd.DataFrame(values.T, columns=names, copy=False)], axis=1)
        described[kind] = facts
        notes += [*more, *renamed, *dropped]
        del metadata, values
    cp_table, tx_table, joined = _with_joint_doses(tables["cp"], tables["tx"])
    notes += [*joined, *_one_sided(cp_table, tx_table)]
    if columns["cp"].alleles:
        notes.append("The treatments are overexpressed alleles, not compounds: no doses, structures, MoAs or assays.")
    compounds = _described_compounds([cp_table, tx_table], [described["cp"], described["tx"]])
    return RosettaTables(cp_table, tx_table, compounds, tuple(notes))


# ------------------------------------------------------------------------------------------ CSV and parquet


def _read_table(file: LocalFile, kind: str, cache: Path) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Metadata as strings, features as float32 (n_features, n_rows), and the features' names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    derived = cache / f"{file.sha256[:16]}-{kind}.parquet"
    for _ in range(2):
        try:
            with pq.ParquetFile(derived) as kept:
                if (kept.schema_arrow.metadata or {}).get(b"cpx_layout") == LAYOUT:
                    batches = kept.iter_batches(batch_size=ROW_GROUP)
                    return _gathered(batches, kept.schema_arrow, kept.metadata.num_rows)
        except (OSError, pa.ArrowInvalid, EOFError):
            pass  # there is none yet, or a damaged one
        try:
            with atomic_path(derived) as temporary:
                _convert(file.path, kind, temporary)
            pa.default_memory_pool().release_unused()  # blocks of text, which would else stay beside the table
        except OSError:
            break  # a folder that can't be written
    with _csv_batches(file.path, kind) as (schema, batches):
        return _gathered(batches, schema, None)


def _convert(path: Path, kind: str, derived: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _csv_batches(path, kind) as (schema, batches):
        schema = schema.with_metadata({"cpx_layout": LAYOUT})
        words = [field.name for field in schema if field.type == pa.string()]
        with pq.ParquetWriter(derived, schema, use_dictionary=words, write_statistics=False) as writer:
            waiting, n_rows = [], 0
            for batch in batches:
                waiting.append(batch)
                n_rows += batch.num_rows
                if n_rows >= ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(waiting).replace_schema_metadata(schema.metadata))
                    waiting, n_rows = [], 0
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting).replace_schema_metadata(schema.metadata))


def _gathered(
    batches: Iterator["pa.RecordBatch"], schema: "pa.Schema", n_rows: int | None
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    import pyarrow as pa

    words = [field.name for field in schema if field.type == pa.string()]
    features = [field.name for field in schema if field.type != pa.string()]
    # a feature a row, as pandas keeps a table inside: no further copy of what may be half a gigabyte
    values = np.empty((len(features), n_rows or 0), np.float32)
    blocks, metadata, start = [], [], 0
    for batch in batches:
        metadata.append(batch.select(words).to_pandas())
        end = start + batch.num_rows
        block = values[:, start:end] if n_rows is not None else np.empty((len(features), batch.num_rows), np.float32)
        for index, name in enumerate(features):
            block[index] = batch.column(name).to_numpy(zero_copy_only=False)
        blocks += [block] if n_rows is None else []
        start = end
    if blocks:
        values = np.concatenate(blocks, axis=1)
    table = pd.concat(metadata, ignore_index=True) if metadata else pd.DataFrame(columns=words, dtype="str")
    return table, values, features


@contextmanager
def _csv_batches(path: Path, kind: str) -> Iterator[tuple["pa.Schema", Iterator["pa.RecordBatch"]]]:
    """Schema and record batches of a gzipped CSV table: features float32, everything else strings.

    Raises
    ------
    ScreenError
        If it is no such table, or a feature holds a word.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names: list[str] = []
    try:
        names, features = _header(path, kind)
        kinds = {name: pa.float32() if name in features else pa.string() for name in names}
        with _opened(path) as handle:
            reader = arrow_csv.open_csv(
                handle,
                read_options=arrow_csv.ReadOptions(column_names=names, skip_rows=1, block_size=BLOCK_BYTES),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=kinds, null_values=list(GAPS), strings_can_be_null=True
                ),
            )
            yield reader.schema, reader
    except pa.ArrowInvalid as error:
        raise ScreenError(f"{path.name}: {_csv_problem(str(error), names)}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ScreenError(f"{path.name}: can't be read as a gzipped table ({error}); download it again") from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file, gzipped (in one member or several) or plain."""
    with open(path, "rb") as handle:
        compressed = handle.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if compressed else open(path, "rb") as handle:
        yield handle


def _header(path: Path, kind: str) -> tuple[list[str], set[str]]:
    """Column names, made unique, and which of them are features: by name, and numbers in the first rows."""
    with _opened(path) as handle:
        text = io.TextIOWrapper(handle, encoding="utf-8-sig", newline="")
        rows = list(islice(csv.reader(text), SNIFFED_ROWS + 1))
    if not rows or not any(rows[0]):
        raise ScreenError(f"{path.name}: is empty; its first line should name the columns")
    names = _unique(rows[0])
    marked = [
        (index, name)
        for index, name in enumerate(names)
        if any(mark in name for mark in FEATURE_MARKS[kind]) and not name.startswith("Metadata_")
    ]
    features = {name for index, name in marked if all(len(row) <= index or _is_number(row[index]) for row in rows[1:])}
    if not features:
        marks = " or ".join(repr(mark) for mark in FEATURE_MARKS[kind])
        raise ScreenError(
            f"{path.name}: no feature columns; their names contain {marks}; there are {some_names(names)}"
        )
    return names, features


def _unique(names: Sequence[str]) -> list[str]:
    """Names of columns, the repeated ones numbered as pandas does."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        unique.append(f"{name}.{count}" if count else name)
    return unique


def _is_number(text: str) -> bool:
    if text.strip() in GAPS:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _csv_problem(message: str, names: Sequence[str]) -> str:
    """Arrow's message in one line, with the column's name for its number."""
    value = re.search(r"CSV column #(\d+): .*invalid value '([^']*)'", message)
    if value and int(value.group(1)) < len(names):
        return f"feature {names[int(value.group(1))]!r} holds {value.group(2)!r}; features are numbers, or empty"
    return f"can't be read as a table ({' '.join(message.split())[:200]})"


# -------------------------------------------------------------------------------------------------- wells


def _wells(
    metadata: pd.DataFrame, columns: ProfileColumns, file: str, label: str
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Metadata of a screen's wells; beside it the source row, SMILES and name of each; and notes."""
    if columns.treatment not in metadata:
        raise ScreenError(
            f"{file}: column {columns.treatment!r} is missing, which names the treatment; "
            f"there are {some_names(list(metadata.columns))}"
        )
    notes = []
    absent = [name for name in (columns.plate, columns.well, columns.dose, columns.smiles, columns.name) if name]
    absent = [name for name in absent if name not in metadata]
    if absent:
        notes.append(f"{label} table: no column {', '.join(absent)}; what it would tell is taken as not known.")
    key = _words(metadata, columns.treatment)
    parsed = key.str.extract(_KEY)
    base = key if columns.alleles else parsed["id"].fillna(key)
    control = _negative_controls(metadata, base)
    compound = base if columns.alleles else base.map(_compound_id)
    dose = np.full(len(key), np.nan) if columns.alleles else _doses(parsed["dose"], _words(metadata, columns.dose))
    wells = pd.DataFrame(
        {
            PLATE: _words(metadata, columns.plate),
            WELL: _words(metadata, columns.well),
            COMPOUND: compound.mask(control, "negcon" if columns.alleles else "DMSO"),
            DOSE: np.where(control, np.nan, dose),
            CONTROL: control,
        }
    )
    facts = pd.DataFrame(
        {
            "row": np.arange(len(wells)),
            "smiles": _words(metadata, columns.smiles),
            "name": _words(metadata, columns.name),
        }
    )
    nameless = (wells[COMPOUND] == "").to_numpy()
    placed = ((wells[PLATE] != "") & (wells[WELL] != "")).to_numpy()
    repeated = placed & ~nameless & wells[~nameless].duplicated([PLATE, WELL]).reindex(wells.index, fill_value=False)
    if nameless.any():
        notes.append(f"{label}: {int(nameless.sum())} wells without treatment that are no controls were dropped.")
    if repeated.any():
        notes.append(f"{label}: {int(repeated.sum())} rows repeat a plate's well; the first of each was kept.")
    kept = ~(nameless | repeated.to_numpy())
    return wells[kept].reset_index(drop=True), facts[kept].reset_index(drop=True), notes


def _words(metadata: pd.DataFrame, column: str) -> pd.Series:
    """A column as words: ``""`` where there is none, and whole numbers without ``.0``, however they were written."""
    if not column or column not in metadata:
        return pd.Series("", index=metadata.index, dtype="str")
    words = metadata[column].fillna("").astype("str").str.strip()
    return words.mask(words.isin(UNKNOWN), "").str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)


def _negative_controls(metadata: pd.DataFrame, base: pd.Series) -> np.ndarray:
    """Wells whose key, control type or perturbation type says negative control; a named positive control is none."""
    kinds = [_words(metadata, prefix + "control_type").str.lower() for prefix in ("", "Metadata_")]
    perturbations = [_words(metadata, prefix + "pert_type").str.lower() for prefix in ("", "Metadata_")]
    negative = kinds[0].eq("negcon") | kinds[1].eq("negcon")
    other = (kinds[0] + kinds[1]).ne("") & ~negative
    control = perturbations[0].eq("control") | perturbations[1].eq("control")
    return (base.str.lower().isin(NEGATIVE_CONTROLS) | negative | (control & ~other)).to_numpy(dtype=bool)


def _compound_id(name: str) -> str:
    return name[:BROAD_ID_LENGTH] if _BROAD.match(name) else name


def _doses(in_key: pd.Series, in_column: pd.Series) -> np.ndarray:
    """Nominal dose of each well, micromolar: from the key, or else from the metadata; NaN where neither tells."""
    key, column = (pd.to_numeric(words, errors="coerce").to_numpy(float) for words in (in_key, in_column))
    key, column = (np.where(np.isfinite(values) & (values > 0), values, np.nan) for values in (key, column))
    both = np.isfinite(key) & np.isfinite(column)
    ratio = np.median(key[both] / column[both]) if both.any() else 1.0
    if 900 < ratio < 1100:  # the column is in millimolar, as its name may say
        column = column * 1000
    return nominal_dose(np.where(np.isnan(key), column, key))


def _with_joint_doses(cp: pd.DataFrame, tx: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Give wells of one compound whose doses nearly agree one dose: the one that CP has most often, or else TX."""
    wells = pd.concat([table[[COMPOUND, DOSE]].assign(order=order) for order, table in enumerate((cp, tx))])
    counts = wells.groupby([COMPOUND, DOSE, "order"]).size().reset_index(name="n")  # groupby leaves out NaN
    counts = counts.sort_values([COMPOUND, DOSE, "order"], ignore_index=True)
    apart = counts[COMPOUND].ne(counts[COMPOUND].shift()) | counts[DOSE].gt(SAME_DOSE * counts[DOSE].shift())
    counts["level"] = apart.cumsum()
    ranked = counts.sort_values(["level", "order", "n", DOSE], ascending=[True, True, False, True])
    chosen = ranked.drop_duplicates("level").set_index("level")[DOSE]
    joint = counts.assign(joint=counts["level"].map(chosen)).drop_duplicates([COMPOUND, DOSE])
    joint = joint[[COMPOUND, DOSE, "joint"]]
    tables, changed = [], []
    for table in (cp, tx):
        doses = table[[COMPOUND, DOSE]].merge(joint, on=[COMPOUND, DOSE], how="left")["joint"].to_numpy(float)
        changed.append(int((doses != table[DOSE].to_numpy())[np.isfinite(doses)].sum()))
        tables.append(table.assign(**{DOSE: doses}))
    notes = []
    if any(changed):
        notes.append(
            f"{changed[0]} CP and {changed[1]} TX wells have a dose that differs by less than "
            f"{SAME_DOSE - 1:.0%} from the nominal dose of their treatment, which they were given."
        )
    return tables[0], tables[1], notes


def _one_sided(cp: pd.DataFrame, tx: pd.DataFrame) -> list[str]:
    ids = [set(table.loc[~table[CONTROL], COMPOUND]) for table in (cp, tx)]
    pairs = [
        set(table.loc[~table[CONTROL], [COMPOUND, DOSE]].fillna(-1.0).itertuples(index=False, name=None))
        for table in (cp, tx)
    ]
    return [
        f"{len(ids[0] & ids[1])} compounds are in both modalities, in {len(pairs[0] & pairs[1])} treatments; "
        f"{len(ids[0] - ids[1])} are in CP only and {len(ids[1] - ids[0])} in TX only."
    ]


def _described_compounds(tables: Sequence[pd.DataFrame], facts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One row a compound, sorted, with the structure and name that its wells tell most often."""
    both = pd.concat(
        [table[[COMPOUND, CONTROL]].join(more) for table, more in zip(tables, facts, strict=True)], ignore_index=True
    )
    both = both[~both[CONTROL]]
    ids = sorted(both[COMPOUND].unique())
    found = {}
    for column in ("smiles", "name"):
        counts = both[both[column] != ""].groupby([COMPOUND, column]).size().reset_index(name="n")
        ranked = counts.sort_values([COMPOUND, "n", column], ascending=[True, False, True]).drop_duplicates(COMPOUND)
        found[column] = ranked.set_index(COMPOUND)[column].reindex(ids).fillna("").astype("str").tolist()
    table = pd.DataFrame({COMPOUND: ids, "SMILES": found["smiles"], "InChIKey14": ""}, dtype="str")
    for column in ("MoA", "target"):
        table[column] = pd.Series([[] for _ in ids], dtype=object)
    return table.assign(name=pd.Series(found["name"], dtype="str"))


# ------------------------------------------------------------------------------------------------ features


def _gene_symbols(probes: Sequence[str], idmap: str | Path) -> tuple[list[str], list[str]]:
    """Gene symbols of probes; a second probe of a gene is called ``SYMBOL_2``, one without a symbol keeps its id."""
    path = Path(idmap)
    try:
        with zipfile.ZipFile(path) as archive:  # openpyxl reads members into memory and writes none anywhere
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MOST_UNPACKED:
            raise ValueError(f"it unpacks to {unpacked / 1e9:.1f} GB")
        table = pd.read_excel(path, dtype=str)
    except Exception as error:  # openpyxl raises whatever its parser stumbles over
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ScreenError(f"{path.name}: can't be read as an Excel table ({reason})") from None
    missing = [column for column in ("probe_id", "symbol") if column not in table]
    if missing:
        raise ScreenError(f"{path.name}: column {missing[0]!r} is missing; there are {some_names(list(table.columns))}")
    table = table.dropna(subset=["probe_id", "symbol"]).drop_duplicates("probe_id")
    symbols = dict(zip(table["probe_id"].str.strip(), table["symbol"].str.strip(), strict=True))
    names, used = {}, {}
    for probe in sorted(probes):  # sorted, so that numbers don't depend on the order of the columns
        symbol = symbols.get(probe, probe)
        used[symbol] = used.get(symbol, 0) + 1
        names[probe] = symbol if used[symbol] == 1 else f"{symbol}_{used[symbol]}"
    unknown = [probe for probe in probes if probe not in symbols]
    several = [symbol for symbol, count in used.items() if count > 1]
    notes = []
    if unknown:
        notes.append(f"TX: {len(unknown)} probes have no gene symbol and keep their id.")
    if several:
        notes.append(f"TX: {len(several)} genes have several probes; further ones are numbered ({several[0]}_2).")
    return [names[probe] for probe in probes], notes


def _informative(
    values: np.ndarray, rows: np.ndarray, names: Sequence[str], label: str
) -> tuple[np.ndarray, list[str], list[str]]:
    """The given rows of the features (n_kept, n_rows) in alphabetical order, infinite values missing.

    Features without any value, and constant ones, are left out.
    """
    kept = np.empty((len(names), len(rows)), np.float32)
    chosen, n_infinite, n_empty = [], 0, 0
    for index in sorted(range(len(names)), key=lambda index: names[index]):
        feature = values[index, rows]
        infinite = np.isinf(feature)
        n_infinite += int(infinite.sum())
        feature[infinite] = np.nan
        present = feature[~np.isnan(feature)]
        if len(present) and present.min() < present.max():
            kept[len(chosen)] = feature
            chosen.append(names[index])
        n_empty += not len(present)
    notes = []
    if n_infinite:
        notes.append(f"{label}: {n_infinite} infinite values count as missing.")
    if len(chosen) < len(names):
        constant = len(names) - len(chosen) - n_empty
        notes.append(f"{label}: {n_empty} features without any value and {constant} constant ones were dropped.")
    return kept[: len(chosen)], chosen, notes
