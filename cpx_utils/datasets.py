"""The screens: how each is had and read into a `Screen`.

A screen is one of the registry (screens.toml, beside this file), or a user's own, described by a TOML file
(`cpx_utils.own_screens`). Files come from pinned addresses, or from a mirror laid out as HOST/PATH, are checked, and
are kept once. A download streams into ``NAME.part`` beside its final name; after a break it goes on from there, in the
same call or in a later one.

A further public screen is an entry of screens.toml and, where none of `READERS` reads its layout, a function here.
"""

import difflib
import hashlib
import re
import time
import tomllib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.annotation import BROAD_ID_LENGTH, annotate_compounds, cytotoxicity, read_screen_results, read_table
from cpx_utils.own_screens import MISSING_WORDS, as_text, read_description, read_own_screen, source_of
from cpx_utils.profiles import (
    BLOCK_LENGTH,
    COMPOUND,
    CONTROL,
    DOSE,
    PLATE,
    WELL,
    Screen,
    ScreenError,
    nominal_dose,
    require_valid,
    some_names,
    user_path,
)
from cpx_utils.provenance import sha256_file

RETRIES = 3  # after a break or damage, with growing pauses
TIMEOUT = (15, 45)  # seconds to connect, and between bytes
S3_PART_BYTES = 8 << 20  # the default of Amazon's own tools; an ETag doesn't tell it

# ------------------------------------------------------------------------------------------------- downloads


@dataclass(frozen=True)
class RemoteFile:
    """One file of a screen: its role (what the reader calls it), https address, size (0: not known), check and terms.

    `checksum` is a kind and a value, as `checksum` gives them.
    """

    role: str
    address: str
    checksum: str
    bytes: int
    licence: str
    citation: str

    @property
    def name(self) -> str:
        """The path below the repository's commit where there is one, else the file's name."""
        return re.sub(r".*?/[0-9a-f]{40}/|.*/", "", self.address, count=1)

    @property
    def mirror_path(self) -> str:
        """HOST/PATH: where the file lies below a mirror or a data folder."""
        return self.address.removeprefix("https://")


def checksum(path: str | Path, like: str) -> str:
    """A file's checksum, of the same kind as another one: ``sha256:...``, ``git:...`` or ``s3:...``.

    Git's blob id is the SHA-1 of ``blob <bytes>\\0`` followed by the bytes. An ETag of Amazon S3 is the MD5 of a file
    uploaded in one request; of one uploaded in N parts, it is the MD5 of the parts' binary MD5s one after the other,
    with ``-N`` behind it (S3 User Guide, "Checking object integrity").
    """
    if like.startswith("sha256:"):
        return f"sha256:{sha256_file(path)}"
    content = Path(path).read_bytes()
    if like.startswith("git:"):
        return "git:" + hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
    if "-" not in like:
        return "s3:" + hashlib.md5(content, usedforsecurity=False).hexdigest()
    parts = [content[start : start + S3_PART_BYTES] for start in range(0, len(content), S3_PART_BYTES)]
    together = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
    return f"s3:{hashlib.md5(together, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _place(file: RemoteFile, mirror: str, data_dir: str | Path) -> tuple[Path, str]:
    """Where a file lies, or is to lie, and the address it is downloaded from (``""``: it lies in a mirror's folder)."""
    import pooch

    if mirror and "://" not in mirror:
        return user_path(mirror) / file.mirror_path, ""
    folder = user_path(data_dir) if data_dir else pooch.os_cache("cpx")
    address = f"{mirror.rstrip('/')}/{file.mirror_path}" if mirror else file.address
    return folder / file.mirror_path, address


def obtain(
    file: RemoteFile, *, mirror: str = "", data_dir: str | Path = "", unverified: bool = False
) -> tuple[Path, bool]:
    """A file that is at hand and checked: from the data folder, the mirror or its address.

    Parameters
    ----------
    mirror
        Folder or http(s) address laid out as HOST/PATH. A folder's file is checked and used where it lies; a mirror's
        file at an address is downloaded as the original would be. Nothing is written to a mirror.
    data_dir
        Where downloads are kept; the per-user cache folder if empty. A damaged file there is downloaded anew.
    unverified
        Accept a file whose checksum is not the registry's (a newer release upstream).

    Returns
    -------
    path, verified
        Where it lies, and whether it is the registry's.

    Raises
    ------
    ScreenError
        If the file can't be had or is not the registry's: nothing new is then left under its final name.
    """
    import filelock

    path, address = _place(file, mirror, data_dir)
    verified = _is_registered(file, path)
    if address and not (verified or (unverified and path.is_file())):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{path}.lock"):
                # another process may have brought it meanwhile
                verified = _is_registered(file, path) or _download(file, path, address, unverified)
        except OSError as error:
            reason = f"can't be written to {path.parent} ({error.strerror or error})"
            raise ScreenError(f"{file.name}: {reason}; make room, or choose another folder with --data-dir") from None
    elif not path.is_file():
        raise ScreenError(f"{file.name}: not in the mirror {mirror!r}; expected at {file.mirror_path}")
    if not (verified or unverified):
        raise ScreenError(
            f"{file.name}: its checksum isn't {file.checksum[:20]}... (from {address or path}): it is damaged, or "
            "another release than the registry's, which --unverified accepts"
        )
    return path, verified


def _is_registered(file: RemoteFile, path: Path) -> bool:
    """Whether a file is there and has the registry's checksum."""
    return path.is_file() and checksum(path, file.checksum) == file.checksum


def _download(file: RemoteFile, path: Path, address: str, unverified: bool) -> bool:
    """Download a file while its lock is held; return whether it is the registry's. Another one is not kept unasked."""
    import requests

    part = path.with_name(path.name + ".part")
    for attempt in range(RETRIES + 1):
        resumed = part.exists()
        try:
            _transfer(address, part)
            verified = _is_registered(file, part)
            if verified or (unverified and not resumed):
                part.replace(path)
            else:
                part.unlink()
            if verified or not resumed:
                return verified
            reason = "its pieces don't fit together"  # taken at different times, they may be of two releases
        except requests.RequestException as error:
            reason = str(error).rpartition("Caused by ")[2]
            if isinstance(error, ValueError):  # the address can't be one
                break
        time.sleep(2**attempt)
    raise ScreenError(
        f"{file.name}: can't be downloaded from {address} ({reason}); check the network, or give a "
        f"copy with --mirror DIR_OR_URL (laid out as {file.mirror_path})"
    )


def _transfer(address: str, part: Path) -> None:
    """Bring what is still missing of a file into `part`; the whole of it where the server knows no ranges."""
    import pooch
    import requests
    from tqdm import tqdm

    n_there = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={n_there}-"} if n_there else {})

    def examine(response: requests.Response, **options) -> None:
        if address.startswith("https:") and response.headers.get("Location", "").lower().startswith("http:"):
            raise requests.exceptions.InvalidSchema("it leads to an address that isn't https")
        if response.status_code in (200, 416):  # all of it comes, or there is no such part of it
            handle.truncate(0)
        # Some servers mark a .gz file as gzip'd content whatever is asked; requests would unpack it.
        response.raw.headers.pop("Content-Encoding", None)

    bar = tqdm(total=1, desc=part.stem, unit="B", unit_scale=True, leave=False, delay=1)  # pooch sets the total
    options = {"headers": headers, "timeout": TIMEOUT, "hooks": {"response": examine}}
    with open(part, "ab") as handle:
        pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, **options)(address, handle, None)


def download_lines(dataset: str, mirror: str = "", data_dir: str | Path = "") -> list[str]:
    """What reading a screen would download, a line a file, from names and sizes alone; parameters as of `read_screen`.

    Empty for a screen without downloads.
    """
    lines = []
    for file in DATASETS[dataset].files if dataset in DATASETS else ():
        path, address = _place(file, mirror, data_dir)
        size = f"{file.bytes / 1e6:.1f} MB" if file.bytes else "size not known"
        state = f"to download, {size} ({address})" if address else f"missing from the mirror ({path})"
        lines.append(f"  {file.name}: {f'at hand ({path})' if path.is_file() else state}")
    return lines


# -------------------------------------------------------------------------------------------------- registry


@dataclass(frozen=True)
class Dataset:
    """One screen of the registry, as screens.toml describes it (there, what each field means)."""

    name: str
    reader: str
    files: tuple[RemoteFile, ...]
    parameters: dict = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    alleles: bool = False


def _registry() -> dict[str, Dataset]:
    content = tomllib.loads(Path(__file__).with_name("screens.toml").read_text(encoding="utf-8"))
    datasets = {}
    for name, screen in content["screens"].items():
        terms = {what: screen.pop(what) for what in ("licence", "citation")}
        entries = screen.pop("files", {}) | {role: content["shared"][role] for role in screen.pop("shared", ())}
        files = tuple(RemoteFile(role=role, **(terms | entry)) for role, entry in entries.items())
        datasets[name] = Dataset(name=name, files=files, **screen)
    return datasets


DATASETS = _registry()


def is_user_screen(dataset: str) -> bool:
    """Whether `dataset` names a TOML file rather than a screen of the registry."""
    return str(dataset).lower().endswith(".toml")


def dataset_name(dataset: str) -> str:
    """Name of a screen: the registry's, or the ``name`` of a TOML file; a ScreenError where there is no such screen."""
    if is_user_screen(dataset):
        name = read_description(dataset).name
        if name.lower() in DATASETS:
            raise ScreenError(f"{dataset}: name {name!r} belongs to a screen of the registry; choose another")
        return name
    if dataset in DATASETS:
        return dataset
    hint = "".join(f" Did you mean {near!r}?" for near in difflib.get_close_matches(str(dataset), DATASETS, n=1))
    own = "a .toml file that describes your own screen is accepted too"
    raise ScreenError(f"no data set is called {str(dataset)!r}; there are {', '.join(DATASETS)}, and {own}.{hint}")


def read_screen(
    dataset: str,
    *,
    mirror: str = "",
    data_dir: str = "",
    unverified: bool = False,
    **simulated: object,
) -> Screen:
    """Read a screen by name or by TOML file, checked and fit for use.

    Parameters
    ----------
    mirror, data_dir, unverified
        As of `obtain`; a file that isn't the registry's release is marked in `Screen.sources` and noted.
    **simulated
        Of the simulated screen alone: size, seed and knobs (`simulate_screen`).

    Raises
    ------
    ScreenError
        For a wrong name, a file that can't be had, or whatever is wrong with the tables.
    """
    name = dataset_name(dataset)
    if is_user_screen(dataset):
        return require_valid(read_own_screen(dataset))
    paths, sources, notes = {}, [], []
    for file in DATASETS[name].files:
        path, verified = obtain(file, mirror=mirror, data_dir=data_dir, unverified=unverified)
        terms = {"verified": verified, "licence": file.licence, "citation": file.citation}
        sources.append(source_of(path, file.name, file.address, **terms))
        paths[file.role] = path
        if not verified:
            notes.append(f"{file.name} is not the registry's release; --unverified accepted it.")
    screen = READERS[DATASETS[name].reader](DATASETS[name], paths, simulated)
    return require_valid(replace(screen, sources=(*screen.sources, *sources), notes=(*screen.notes, *notes)))


def examine_screen(dataset: str, **options) -> tuple[Screen | None, list[str]]:
    """A screen as `read_screen` gives it, or None, with everything that is wrong with it, one line a problem."""
    try:
        return read_screen(dataset, **options), []
    except ScreenError as error:
        return None, error.problems


def local_files(screen: Screen) -> list[Path]:
    """The user's own files behind a screen, so that a run notices when one of them changes."""
    return [Path(source["address"]) for source in screen.sources if not source["address"].startswith("http")]


# --------------------------------------------------------------------------------------------------- readers


# Each takes the registry's entry, the paths of its files by role, and what `read_screen` was asked of a simulated one.


def _read_simulated(dataset: Dataset, paths: dict[str, Path], options: dict) -> Screen:
    from cpx_utils.simulation import simulate_screen

    return simulate_screen(**options)


def read_r_profiles(path: str | Path) -> pd.DataFrame:
    """The one data frame in an R data file: float32 values, index compound ids, columns features.

    A file that is no R data, holds no or several data frames, or words, is a ScreenError.
    """
    import rdata

    try:
        # guesses about a file that is no R data; values too large, which are refused by name
        with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
            warnings.simplefilter("ignore")
            (table,) = (value for value in rdata.read_rda(path).values() if isinstance(value, pd.DataFrame))
            table = table.astype(np.float32)
    except Exception as error:  # rdata raises whatever its parser stumbles over
        line = f"{Path(path).name}: not readable as one R data frame of numbers ({error})"
        raise ScreenError(line) from None
    return table.set_axis(table.index.astype(str)).set_axis(table.columns.astype(str), axis=1)


def _read_consensus(dataset: Dataset, paths: dict[str, Path], options: dict) -> Screen:
    """CDRP consensus profiles as CMEA publishes them: two R data frames with BRD ids as row names."""
    tables = []
    for kind in ("cp", "tx"):
        values = read_r_profiles(paths[kind])
        wells = pd.DataFrame({PLATE: "", WELL: "", COMPOUND: values.index, DOSE: np.nan, CONTROL: False})
        tables.append(pd.concat([wells, values.reset_index(drop=True)], axis=1))
    cp, tx = tables
    tx.columns = tx.columns.str.replace("HLA.", "HLA-", regex=False)  # R writes a dot; no other symbol has a hyphen
    names = sorted({*cp[COMPOUND], *tx[COMPOUND]})
    compounds, activity, tasks, notes = annotate_compounds(names, paths)
    if "cdrp_results" in paths:
        results = read_screen_results(paths["cdrp_results"], "CDRP", "Metadata_mmoles_per_liter2")
        toxic, toxicity = cytotoxicity(results, share=0.5)
        activity = pd.concat([activity, toxic[toxic[COMPOUND].isin(names)]], ignore_index=True)
        tasks = pd.concat([tasks, toxicity], ignore_index=True)
    note = "One consensus profile a compound: there are no replicates, doses, plates or negative controls."
    return Screen(dataset.name, cp, tx, compounds, activity, tasks, (note, *notes))


# ------------------------------------------------------------------------------------- the Rosetta collection

FEATURES = {"cp": r"(?!Metadata_).*(Cells_|Cytoplasm_|Nuclei_)", "tx": r"(?!Metadata_).*_at"}
SNIFFED_ROWS = 50
UNKNOWN = "-666"  # what LINCS files write where a value of the metadata is not known
# Doses of one compound that are nearer than this are one nominal dose; neighbours in a series differ by half at least.
SAME_DOSE = 1.05
# Compound and nominal dose in micromolar, joined by "_".
TREATMENT = r"^(?P<id>.+?)_(?P<dose>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)$"


def _read_rosetta(dataset: Dataset, paths: dict[str, Path], options: dict) -> Screen:
    """Replicate-level profiles of the Rosetta collection (Haghighi 2022, doi 10.1038/s41592-022-01667-0).

    Two CSV tables with metadata of mixed types between the features. What they spell in several ways (controls, doses,
    plate names, gaps) has one spelling in a `Screen`; whatever is changed or left out is counted in a note.
    """
    tables, notes = [], []
    for kind in ("cp", "tx"):
        metadata, features = _read_csv(paths[kind], FEATURES[kind], dataset.columns[kind].values())
        if kind == "tx":
            features.columns = _gene_symbols(features.columns, paths["idmap"])
        wells = _wells(metadata, dataset.columns[kind], dataset.alleles)
        named = wells[wells[COMPOUND] != ""]
        repeats = named.duplicated([PLATE, WELL]) & (named[PLATE] != "") & (named[WELL] != "")
        values = features.loc[named.index[~repeats], sorted(features)]
        infinite = np.isinf(values)
        values = values.mask(infinite)
        informative = values.loc[:, values.min() < values.max()]
        notes.append(
            f"{kind.upper()}: {len(wells) - len(named)} wells without treatment, {repeats.sum()} that repeat another "
            f"of their plate and {values.shape[1] - informative.shape[1]} features without different values were "
            f"dropped; {infinite.to_numpy().sum()} infinite values count as missing."
        )
        tables.append(pd.concat([named[~repeats], informative], axis=1).reset_index(drop=True))
    smiles = pd.concat([table.loc[~table[CONTROL], [COMPOUND, "SMILES"]] for table in tables])
    own = smiles[smiles["SMILES"] != ""].drop_duplicates(COMPOUND).assign(InChIKey14="")
    cp, tx = (table.drop(columns="SMILES") for table in tables)
    tx[DOSE] = _joint_doses(cp, tx)
    if dataset.alleles:
        notes.append("The treatments are overexpressed alleles, not compounds: no doses, structures, MoAs or assays.")
    *known, more = annotate_compounds(sorted(set(smiles[COMPOUND])), paths, [own])
    return Screen(dataset.name, cp, tx, *known, (*notes, *more))


def _read_csv(path: Path, pattern: str, needed: Collection[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metadata as words, and features as float32, of a gzipped CSV table; features are known by their names."""
    import pyarrow as pa
    from pyarrow import csv

    try:
        head = pd.read_csv(path, nrows=SNIFFED_ROWS)
        # a column named like a feature that holds words is metadata
        features = [name for name in head.select_dtypes("number") if re.match(pattern, name)]
        types = {name: pa.float32() if name in features else pa.string() for name in head}
        gaps = sorted(MISSING_WORDS)
        converting = csv.ConvertOptions(column_types=types, null_values=gaps, strings_can_be_null=True)
        table = csv.read_csv(path, convert_options=converting)
    except Exception as error:  # a damaged file makes its reader raise anything
        raise ScreenError(f"{path.name}: can't be read as a table of profiles ({error})") from None
    for column in needed:
        if column not in head:
            raise ScreenError(f"{path.name}: column {column!r} is missing; there are {some_names(head)}")
    if not features:
        raise ScreenError(f"{path.name}: no feature columns; their names match {pattern}")
    return table.drop_columns(features).to_pandas(), table.select(features).to_pandas()


def _words(metadata: pd.DataFrame, *columns: str) -> pd.Series:
    """Words of the first column there is, ``""`` where none is or knows, and whole numbers without ``.0``."""
    blank = pd.Series("", index=metadata.index, dtype="str")
    words = as_text(next((metadata[column] for column in columns if column in metadata), blank))
    return words.mask(words == UNKNOWN, "")


def _wells(metadata: pd.DataFrame, columns: dict[str, str], alleles: bool) -> pd.DataFrame:
    """Metadata of a screen's wells, and the SMILES of their compounds."""
    meanings = ("treatment", "plate", "well", "smiles")
    key, plate, well, smiles = (_words(metadata, columns.get(meaning, "-")) for meaning in meanings)
    control_type = _words(metadata, "control_type", "Metadata_control_type").str.lower()
    perturbation = _words(metadata, "pert_type", "Metadata_pert_type").str.lower()
    parsed = key.str.extract(TREATMENT)
    # of a BRD id the first 13 characters name the compound, and the rest the batch
    batchless = parsed["id"].fillna(key).str.replace(r"^(BRD-[A-Z]\d{8}).*", r"\1", regex=True)
    name = key if alleles else batchless
    control = name.str.lower().isin(["negcon", "dmso"]) | control_type.eq("negcon")
    control |= perturbation.eq("control") & control_type.eq("")  # a named positive control is none
    doses = nominal_dose(parsed["dose"].astype(float))
    doses = np.where(control | alleles | ~(doses > 0), np.nan, doses)
    compound = name.mask(control, "negcon" if alleles else "DMSO")
    wells = {PLATE: plate, WELL: well, COMPOUND: compound, DOSE: doses, CONTROL: control, "SMILES": smiles}
    return pd.DataFrame(wells)


def _joint_doses(cp: pd.DataFrame, tx: pd.DataFrame) -> list[float]:
    """Doses of the TX wells, each replaced by the dose of its compound in CP that nearly agrees, if there is one."""
    known = cp.dropna(subset=DOSE).groupby(COMPOUND)[DOSE].unique()
    doses = []
    for compound, dose in zip(tx[COMPOUND], tx[DOSE], strict=True):
        near = [other for other in known.get(compound, ()) if 1 / SAME_DOSE < dose / other < SAME_DOSE]
        doses.append(near[0] if near else dose)
    return doses


def _gene_symbols(probes: Sequence[str], path: Path) -> list[str]:
    """Gene symbols of probes; one without a symbol of its own keeps its id."""
    try:
        table = pd.read_excel(path, dtype=str)[["probe_id", "symbol"]].dropna().drop_duplicates("probe_id")
    except Exception as error:  # openpyxl raises whatever its parser stumbles over
        line = f"{path.name}: can't be read as an Excel table with columns probe_id and symbol ({error})"
        raise ScreenError(line) from None
    symbols = table.set_index("probe_id")["symbol"].str.strip()
    symbols = symbols[symbols.index.isin(probes)].drop_duplicates(keep=False)
    return [symbols.get(probe, probe) for probe in probes]


# --------------------------------------------------------------- LINCS Pilot 1 as published two-dimensional maps

N_DOSES = 6
MAPS_NOTE = (
    "CP is published two-dimensional maps (UMAP and t-SNE, made without labels of all wells, those of test compounds, "
    "too), six doses side by side: no CellProfiler feature is in it."
)
BUMPS = 6  # a side of the grid on each map
# From where to where each map is covered: all of its wells.
MAP_RANGES = {
    "cp": {"UMAP_0": (-6.0, 13.0), "UMAP_1": (-0.5, 12.0), "TSNE_0": (-42.0, 51.0), "TSNE_1": (-41.0, 44.0)},
    "tx": {"UMAP_0": (-4.5, 16.0), "UMAP_1": (-5.0, 16.0), "TSNE_0": (-53.0, 60.0), "TSNE_1": (-60.0, 58.0)},
}


def map_features(coordinates: pd.DataFrame, ranges: Mapping[str, tuple[float, float]]) -> pd.DataFrame:
    """Gaussian bumps on a grid over published maps: what is near on a map is near in features.

    `coordinates` has a well a row and the columns `UMAP_0, UMAP_1, TSNE_0, TSNE_1`; `ranges` says what each covers. A
    bump is as wide as the grid's step; one that no well comes within a step of is dropped. Returned are float32
    features (n_wells, at most 72), called after map and place on the grid.
    """
    features = {}
    for name in ("UMAP", "TSNE"):
        sides = []
        for axis in (f"{name}_0", f"{name}_1"):
            centres, step = np.linspace(*ranges[axis], BUMPS, retstep=True)
            distance = (coordinates[axis].to_numpy(float)[:, None] - centres) / step  # (n_wells, BUMPS)
            sides.append(np.exp(-(distance**2) / 2))
        for row, column in np.ndindex(BUMPS, BUMPS):
            features[f"{name}_{row}{column}"] = sides[0][:, row] * sides[1][:, column]
    table = pd.DataFrame(features, index=coordinates.index, dtype=np.float32)
    return table.loc[:, table.max() > np.exp(-0.5)]


def dose_series(wells: pd.DataFrame, features: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Rows of a plate and a compound, with its six doses side by side, from rows of wells.

    `wells` has Metadata_Plate, Metadata_Well, Metadata_Compound, Metadata_Control and `step`, 1 to 6 in a series. Of a
    plate's negative controls six make a row, drawn by `seed`, each used once. A series that lacks a dose is left out.
    A row lies in the well of its lowest dose.
    """
    wells = wells.copy()
    controls = wells[wells[CONTROL]].sample(frac=1.0, random_state=seed)
    number = controls.groupby(PLATE).cumcount()
    wells["series"] = 0
    wells.loc[controls.index, "series"], wells.loc[controls.index, "step"] = number // N_DOSES, number % N_DOSES + 1
    keys = [PLATE, COMPOUND, "series"]
    wells = wells[wells["step"].between(1, N_DOSES)].drop_duplicates([*keys, "step"]).sort_values([*keys, "step"])
    wells = wells[wells.groupby(keys)["step"].transform("size") == N_DOSES]
    names = [f"{feature}_dose{step}" for step in range(1, N_DOSES + 1) for feature in features]
    values = features.loc[wells.index].to_numpy().reshape(-1, len(names))
    first = wells[[PLATE, WELL, COMPOUND, CONTROL]].iloc[::N_DOSES].reset_index(drop=True).assign(**{DOSE: np.nan})
    return pd.concat([first, pd.DataFrame(values, columns=names)], axis=1)


def _read_maps(dataset: Dataset, paths: dict[str, Path], options: dict) -> Screen:
    """LINCS Pilot 1 from the published two-dimensional maps of its wells (Way 2022, doi 10.1016/j.cels.2022.10.001).

    TX are maps too, or where the registry names a file of signatures, one signature a drug (Himmelstein 2017, doi
    10.7554/eLife.26726), which meets compounds by the first block of the InChIKey.
    """
    tables = {}
    names = {"cp": ("Metadata_broad_sample", "Metadata_Plate", "Metadata_Well", "Metadata_dose_recode")}
    names["tx"] = ("pert_id", "replicate_id", "det_well", "dose")
    for kind in ("cp", "tx"):
        if f"lincs_{kind}" not in paths:
            continue
        wells = read_table(paths[f"lincs_{kind}"], [*names[kind], *MAP_RANGES[kind]], "\t")
        compound, plate, well, step = (wells[name] for name in names[kind])
        compound, plate = compound.str[:BROAD_ID_LENGTH], plate.str.partition(":")[0]
        layout = {PLATE: plate, WELL: well, COMPOUND: compound, CONTROL: compound == "DMSO", "step": step}
        tables[kind] = dose_series(pd.DataFrame(layout), map_features(wells, MAP_RANGES[kind]))
    results = read_screen_results(paths["lincs_results"], "lincs", "Metadata_dose_recode")
    treated = sorted(set().union(*(table.loc[~table[CONTROL], COMPOUND] for table in tables.values())))
    compounds, activity, tasks, notes = annotate_compounds(treated, paths, results=results)
    notes = [MAPS_NOTE, *notes]
    if "signatures" not in paths:
        notes.append("TX is made of published maps in the same way: no gene is in it.")
    if "signatures" in paths:
        tables["tx"] = _drug_signatures(paths, compounds)
        notes.append("TX is one signature a drug, pooled over cell lines: no replicates, doses, plates or controls.")
    toxic, toxicity = cytotoxicity(results[results[COMPOUND].isin(treated)], share=0.6)
    outcomes = pd.concat([activity, toxic], ignore_index=True), pd.concat([tasks, toxicity], ignore_index=True)
    return Screen(dataset.name, tables["cp"], tables["tx"], compounds, *outcomes, tuple(notes), normalised=True)


def _drug_signatures(paths: dict[str, Path], compounds: pd.DataFrame) -> pd.DataFrame:
    """TX of compounds whose structure is a drug's: a row a compound, genes by symbol."""
    signatures = read_table(paths["signatures"], ["perturbagen"], "\t").set_index("perturbagen").astype(np.float32)
    genes = read_table(paths["genes"], ["entrez_gene_id", "symbol"], "\t").set_index("entrez_gene_id")["symbol"]
    signatures.columns = [genes[int(number)] for number in signatures.columns]
    keys = (
        read_table(paths["drugbank"], ["drugbank_id", "inchikey"], "\t").set_index("drugbank_id")["inchikey"].dropna()
    )
    block = keys.str.removeprefix("InChIKey=").str[:BLOCK_LENGTH].reindex(signatures.index).dropna()
    drug = block.drop_duplicates().reset_index().set_index("inchikey")["perturbagen"]
    found = compounds[compounds["InChIKey14"].isin(drug.index)]
    values = signatures.loc[drug[found["InChIKey14"]]].reset_index(drop=True)
    wells = pd.DataFrame({PLATE: "", WELL: "", COMPOUND: found[COMPOUND].to_numpy(), DOSE: np.nan, CONTROL: False})
    return pd.concat([wells, values], axis=1)


READERS = {
    "simulated": _read_simulated,
    "consensus": _read_consensus,
    "rosetta": _read_rosetta,
    "maps": _read_maps,
}
