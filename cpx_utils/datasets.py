"""The screens: where each comes from, its hashes, licence and citation, and how it is read into a `Screen`.

A screen is one of the registry (`DATASETS`) or a user's own, described by a TOML file
(`cpx_utils.user_screens`). Files are downloaded once and checked against the registry's hash
(`cpx_utils.downloads`).
"""

import bz2
import contextlib
import difflib
import gzip
import lzma
import re
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils import annotation, downloads
from cpx_utils.downloads import LocalFile, RemoteFile, data_folder, fetch
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    PLATE,
    WELL,
    Screen,
    ScreenError,
    check_screen,
    no_outcomes,
    require_valid,
)
from cpx_utils.rosetta import ProfileColumns, read_rosetta

__all__ = [
    "DATASETS",
    "Dataset",
    "LocalFile",
    "ReadOptions",
    "RemoteFile",
    "dataset_name",
    "describe_sources",
    "examine_screen",
    "fetch",
    "is_user_screen",
    "read_screen",
]

# ---------------------------------------------------------------------------------------------- registry


@dataclass(frozen=True)
class Dataset:
    """One screen of the registry.

    Attributes
    ----------
    name, title, summary : str
        Key, heading, and two sentences for lists and the README.
    files : tuple of RemoteFile
        What is downloaded; empty for the simulated screen.
    licence, citation : str
        Of the profiles; each file has its own too.
    parameters : dict
        Study parameters this screen prefers over the notebooks' defaults.
    read : callable
        ``read(dataset, obtain, options) -> Screen``, where ``obtain(role)`` gives a `LocalFile`.
    columns : dict
        What the columns of the profile tables mean, by modality (``cp``, ``tx``); the loader reads by it. Empty for
        screens without such columns: simulated ones, and R data frames, whose row names are the compounds.
    shape : tuple of str
        As its publishers state it: paired compounds, wells a treatment (CP / TX), doses a compound, features (CP / TX).
    on_real_bytes : bool
        Whether the loader was run here on the real files; the others are proven on stand-ins of the same layout.
    """

    name: str
    title: str
    summary: str
    files: tuple[RemoteFile, ...]
    licence: str
    citation: str
    read: Callable[["Dataset", Callable[[str], LocalFile], "ReadOptions"], Screen]
    parameters: dict = field(default_factory=dict)
    columns: dict[str, ProfileColumns] = field(default_factory=dict)
    shape: tuple[str, str, str, str] = ("", "", "", "")
    on_real_bytes: bool = False


@dataclass(frozen=True)
class ReadOptions:
    """How a screen is read: what is simulated, mirror, data folder, whether hashes bind, which CP features."""

    size: str = "default"
    seed: int = 0
    preset: str = "cdrp-bio"
    shared_strength: float | None = None
    mirror: str = ""
    data_dir: str = ""
    unverified: bool = False
    cp_table: str = "selected"


# Roles of the two CP tables that the Rosetta screens come with: selected features, or all of them.
CP_TABLES = {"selected": "cp", "all": "cp_all"}
# Assays that any screen of Broad compounds is looked up in (`cpx_utils.annotation.annotate_compounds`).
COLLECTIONS = ("broad6k", "ToxCast", "ChEMBL", annotation.ANNOTATED)

_GITHUB = "https://raw.githubusercontent.com/"
_CMEA = _GITHUB + "isarnassiri/CMEA/960cda0c627f45b82bdf636a250c91ef1f9b2d46/data/"
_CDRP = _GITHUB + "isarnassiri/CMEA/59c816a06bd3ac674cd0b38f9f919728e6cf49da/data/"
_MOSHKOV = _GITHUB + "CaicedoLab/2023_Moshkov_NatComm/20fd97178796148c2b464ddc2c025a91654a6433/assay_data/"
_INFOALIGN = _GITHUB + "liugangcode/InfoAlign/eed96f36503a8a427fac4f382ee2001f957dd42a/raw_data/"
_HUB = _GITHUB + "broadinstitute/lincs-cell-painting/061870127481dcd73c29df85ebcfddeac2ed0828/metadata/moa/"
_HAGHIGHI = _GITHUB + "carpenter-singh-lab/2022_Haghighi_NatureMethods/f23205944e17f47d7e8959be71f4b7d25075b191/"
_ROSETTA = (
    "https://cellpainting-gallery.s3.amazonaws.com/cpg0003-rosetta/broad/workspace/preprocessed_data/"  # 8 MiB parts
)

_CITE_CMEA = "Nassiri & McCall, Nucleic Acids Research 2018, doi 10.1093/nar/gky626"
_CITE_MOSHKOV = "Moshkov et al., Nature Communications 2023, doi 10.1038/s41467-023-37570-1"
_CITE_INFOALIGN = "Liu et al. (InfoAlign) 2024, arXiv 2406.12056"
_CITE_HUB = "Corsello et al., Nature Medicine 2017, doi 10.1038/nm.4306"
_CITE_HAGHIGHI = "Haghighi et al., Nature Methods 2022, doi 10.1038/s41592-022-01667-0"

_CMEA_FILES = (
    RemoteFile(
        "cp",
        _CMEA + "Cell_Morphology_Profile.rda",
        "3c93451202101c5ea6f25fadd90b87716f56e25220b0dae673fd7f0fa1b40f44",
        1_022_847,
        "GPL-2",
        _CITE_CMEA,
    ),
    RemoteFile(
        "tx",
        _CMEA + "Transcriptomic_Profile.rda",
        "408fc21276e58737712960188056bbaa3c09dd9a1e91809d7f9a332f149d41b7",
        1_150_204,
        "GPL-2",
        _CITE_CMEA,
    ),
)
_CDRP_FILES = (
    RemoteFile(
        "cp",
        _CDRP + "Cell_Morphology_Profile_Complete.rda",
        "42fc284ed7bb6909297298e38f63ed9f786b08c7",
        0,  # not known, below 100 MB
        "GPL-2",
        _CITE_CMEA,
        "git blob id",
    ),
    RemoteFile(
        "tx",
        _CDRP + "Transcriptomic_Profile_Complete.rda",
        "98af2abdd381f7fc2fe70bbcec6cc1be6880a512",
        0,
        "GPL-2",
        _CITE_CMEA,
        "git blob id",
    ),
    RemoteFile(
        "assays_270",
        _MOSHKOV + "assay_matrix_discrete_270_assays.csv",
        "c3003cc35c8695671782eef8dfe3eb7c0211797f",
        0,
        "MIT",
        _CITE_MOSHKOV,
        "git blob id",
    ),
)
_IDMAP_FILE = RemoteFile(
    "idmap",
    _HAGHIGHI + "idmap.xlsx",
    "903053fd9d37f814c25920bfa78c88a160c6f05ba3a64042c4f30a50ee0b55a9",
    110_705,
    "not stated by the repository",
    _CITE_HAGHIGHI,
)


def _rosetta_files(folder: str, cp: tuple[int, str], cp_all: tuple[int, str], tx: tuple[int, str]) -> tuple:
    """The three tables of a Rosetta screen (size and S3 ETag each) and the probes' symbols."""
    names = {
        "cp": "CellPainting/replicate_level_cp_normalized_variable_selected.csv.gz",
        "cp_all": "CellPainting/replicate_level_cp_normalized.csv.gz",
        "tx": "L1000/replicate_level_l1k.csv.gz",
    }
    known = {"cp": cp, "cp_all": cp_all, "tx": tx}
    tables = tuple(
        RemoteFile(role, f"{_ROSETTA}{folder}/{name}", etag, size, "CC0", _CITE_HAGHIGHI, "S3 ETag")
        for role, name in names.items()
        for size, etag in [known[role]]
    )
    return (*tables, _IDMAP_FILE)


_CDRP_BIO_FILES = _rosetta_files(
    "CDRPBIO-BBBC036-Bray",
    cp=(117_242_590, "bffd9db9578fcc70bbd7d72e0dfff773-14"),
    cp_all=(311_539_701, "0b86065f8840aff626d64c6f52a8caf4-38"),
    tx=(26_842_289, "5b45e5cb94f0466a2abb11fbac8a655e-4"),
)
_LINCS_FILES = _rosetta_files(
    "LINCS-Pilot1",
    cp=(94_527_797, "33783625dc59b0de2bf16c299f5380dd-12"),
    cp_all=(299_683_743, "f42af6b4109ef9ed110004def49f6c2c-36"),
    tx=(78_596_337, "872c318560ba21c9d36e805fb97992a4-10"),
)
_TA_ORF_FILES = _rosetta_files(
    "TA-ORF-BBBC037-Rohban",
    cp=(1_106_334, "1315c2fd175b265d10e929e51d9dfef0"),
    cp_all=(27_482_072, "736ef2b85bf5406f27239153f3772218-4"),
    tx=(2_022_367, "1e643bb1182555a8e7699230a0ea98d1"),
)

_ANNOTATION_FILES = (
    RemoteFile(
        "hub",
        _HUB + "repurposing_info.tsv",
        "aa8d8f4e2a175ed3c6c0c97e18699f62eda7caf9fed445590f364d278e01dd2d",
        3_639_858,
        "CC0",
        _CITE_HUB,
    ),
    RemoteFile(
        "broad_ids",
        _MOSHKOV + "broad_ids.txt",
        "8016becea073bad34ace38c08898b99ca54d0c28af55eee3e444a8b36c8d4069",
        237_701,
        "MIT",
        _CITE_MOSHKOV,
    ),
    RemoteFile(
        "broad_smiles",
        _MOSHKOV + "smiles.txt",
        "7d3e65f994d6948ee80b8acc4ffc2bfcfaa4d4a1c75fc2750026ea08762aabdf",
        1_180_322,
        "MIT",
        _CITE_MOSHKOV,
    ),
    RemoteFile(
        "assay_names",
        _MOSHKOV + "assay_metadata.csv",
        "bfacd642653cbad8244072d63793d0f8aaf1da68ea8633e3546adcff295745f0",
        20_217,
        "MIT",
        _CITE_MOSHKOV,
    ),
    RemoteFile(
        "broad6k_structures",
        _INFOALIGN + "broad6k/raw/structure.csv.gz",
        "28716949ea812aa6ff404ee98767c127a48f6ecb89616f731c7c6f9edb34cc79",
        350_744,
        "not stated by the repository",
        _CITE_INFOALIGN,
    ),
    RemoteFile(
        "broad6k_assays",
        _INFOALIGN + "broad6k/raw/assays.csv.gz",
        "154734844dd2f9862033422754607120ead6d5ae85e7642f78c50afcc952c8e2",
        180_374,
        "not stated by the repository",
        _CITE_INFOALIGN,
    ),
    RemoteFile(
        "chembl2k_assays",
        _INFOALIGN + "chembl2k/raw/assays.csv.gz",
        "9032bb122dcdea5f485d8a706316714538fbce344c56b6eafbc97c68b24dbe5a",
        88_429,
        "not stated by the repository (ChEMBL: CC BY-SA 3.0)",
        _CITE_INFOALIGN,
    ),
    RemoteFile(
        "toxcast_assays",
        _INFOALIGN + "moltoxcast/raw/assays.csv.gz",
        "a263400aa84bfbd10918fdd158a7199f0135f68517af13c0ec643714a59bae22",
        344_478,
        "not stated by the repository (ToxCast: US EPA, public domain)",
        _CITE_INFOALIGN,
    ),
)


# ----------------------------------------------------------------------------------------------- loaders


def _read_simulated(dataset: Dataset, obtain: Callable[[str], LocalFile], options: ReadOptions) -> Screen:
    from cpx_utils.simulation import simulate_screen

    knobs = {} if options.shared_strength is None else {"shared_strength": options.shared_strength}
    return simulate_screen(size=options.size, seed=options.seed, preset=options.preset, **knobs)


# Symbols for which R's make.names wrote "." for "-": HLA genes, mitochondrial MT- genes, the numbered NKX and
# KRTAP families, and antisense (-AS1), intronic (-IT1) and overlapping (-OT1) transcripts. Any other dot
# belongs to the name (clone names such as AC012345.1 end in a version). cmea-u2os has two: HLA.DMA, HLA.DRA.
_HYPHENATED = re.compile(r"^(HLA|MT|NKX\d|KRTAP\d+)\.(?=[A-Z0-9])|\.(?=(?:AS|IT|OT)\d+$)")


def clean_gene_symbol(name: str) -> str:
    """HGNC symbol of a column name that passed through R: ``HLA.DMA`` gives ``HLA-DMA``; most names stay."""
    return _HYPHENATED.sub(lambda match: match.group(0).replace(".", "-"), name)


def _require_room(path: Path) -> None:
    """Refuse an R data file that unpacks to more than memory holds: a few megabytes can be made to hide gigabytes."""
    import psutil

    most = psutil.virtual_memory().available // 4  # what is read from the bytes takes several times their size
    openers = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    with contextlib.suppress(OSError, EOFError, lzma.LZMAError, zlib.error), open(path, "rb") as handle:
        with openers.get(handle.read(2), open)(path, "rb") as unpacked:
            size = 0
            while block := unpacked.read(1 << 20):
                size += len(block)
                if size > most:
                    raise ScreenError(
                        f"{path.name}: it unpacks to more than {most / 1e9:.1f} GB, a quarter of the free memory; give "
                        "the screen's own file"
                    )


def read_r_profiles(path: str | Path) -> pd.DataFrame:
    """The one data frame in an R data file: float32 values, index compound ids, columns features.

    Raises
    ------
    ScreenError
        If the file is no R data file, holds no or several data frames, or the values are not numeric.
    """
    import rdata

    path = Path(path)
    _require_room(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # guesses about a file that is no R data; the error says it better
            content = rdata.read_rda(path)
    except Exception as error:  # rdata raises whatever its parser stumbles over
        raise ScreenError(f"{path.name}: not a readable R data file ({type(error).__name__})") from None
    frames = [value for value in content.values() if isinstance(value, pd.DataFrame)]
    if len(frames) != 1:
        raise ScreenError(f"{path.name}: holds {len(frames)} data frames; exactly one is expected")
    table = frames[0]
    words = [str(column) for column in table if not pd.api.types.is_numeric_dtype(table[column])]
    if words:
        raise ScreenError(f"{path.name}: column {words[0]!r} is not numeric; all columns are features there")
    # What is too large becomes infinite, which is refused by its name.
    with np.errstate(over="ignore", invalid="ignore"):
        table = table.astype(np.float32)
    table.index = table.index.astype(str)
    table.columns = table.columns.astype(str)
    return table


def _consensus_wells(profiles: pd.DataFrame) -> pd.DataFrame:
    """Profiles of compounds as wells without plate, position or dose, none of them a control."""
    wells = pd.DataFrame(
        {
            PLATE: "",
            WELL: "",
            COMPOUND: profiles.index,
            DOSE: np.nan,
            CONTROL: False,
        }
    )
    return pd.concat([wells, profiles.reset_index(drop=True)], axis=1)


def _read_cdrp_consensus(dataset: Dataset, obtain: Callable[[str], LocalFile], options: ReadOptions) -> Screen:
    """CDRP consensus profiles as CMEA publishes them: two R data frames with BRD ids as row names."""
    cp, tx = read_r_profiles(obtain("cp").path), read_r_profiles(obtain("tx").path)
    tx.columns = [clean_gene_symbol(name) for name in tx.columns]
    notes = ["One consensus profile a compound: there are no replicates, doses, plates or negative controls."]
    if list(cp.index) != list(tx.index):
        shared = cp.index.intersection(tx.index)
        notes.append(f"CP and TX list different compounds or another order; {len(shared)} are in both.")
    every = sorted(set(cp.index) | set(tx.index))
    cache = data_folder(options.data_dir) / "derived"
    measured = ("Moshkov 270",) if any(file.role == "assays_270" for file in dataset.files) else ()
    compounds, activity, tasks, more = annotation.annotate_compounds(
        every, obtain, cache, collections=(*measured, *COLLECTIONS)
    )
    return Screen(
        name=dataset.name,
        cp=_consensus_wells(cp),
        tx=_consensus_wells(tx),
        compounds=compounds,
        activity=activity,
        tasks=tasks,
        notes=tuple(notes + more),
    )


def _read_rosetta(dataset: Dataset, obtain: Callable[[str], LocalFile], options: ReadOptions) -> Screen:
    """Replicate-level profiles of the Rosetta collection: two CSV tables with keys of compound and dose."""
    if options.cp_table not in CP_TABLES:
        raise ScreenError(f"there is no CP table {options.cp_table!r}; cp_table is one of {', '.join(CP_TABLES)}")
    cache = data_folder(options.data_dir) / "derived"
    parts = read_rosetta(
        dataset.columns, obtain(CP_TABLES[options.cp_table]), obtain("tx"), obtain("idmap").path, cache
    )
    if dataset.columns["cp"].alleles:
        compounds, more = parts.compounds, []
        activity, tasks = no_outcomes()
    else:
        compounds, activity, tasks, more = annotation.annotate_compounds(
            parts.compounds[COMPOUND].tolist(), obtain, cache, own=parts.compounds, collections=COLLECTIONS
        )
    return Screen(
        name=dataset.name,
        cp=parts.cp,
        tx=parts.tx,
        compounds=compounds,
        activity=activity,
        tasks=tasks,
        notes=(*parts.notes, *more),
    )


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="simulated",
            title="Simulated paired screen",
            summary="Drawn from a model with a known truth: plates, controls, replicates, doses, MoAs and "
            "assays. Needs no download.",
            files=(),
            licence="MIT (made by cpx)",
            citation="cpx, this repository",
            read=_read_simulated,
            shape=("600", "4 / 2", "2", "300 / 500"),
            on_real_bytes=True,
        ),
        Dataset(
            name="cmea-u2os",
            title="CDRP subset of CMEA: 162 compounds, U2OS",
            summary="162 compounds with one consensus profile each: 812 Cell Painting features and 978 L1000 "
            "genes, annotated from the Repurposing Hub and public assays. About 8 MB are downloaded.",
            files=_CMEA_FILES + _ANNOTATION_FILES,
            licence="GPL-2",
            citation=_CITE_CMEA,
            read=_read_cdrp_consensus,
            shape=("162", "1 / 1", "1", "812 / 978"),
            parameters={"n_folds": 5, "n_repeats": 3},
            on_real_bytes=True,
        ),
        Dataset(
            name="cdrp-u2os",
            title="CDRP consensus profiles of CMEA: 9,515 compounds, U2OS",
            summary="9,515 compounds with one consensus profile each: 812 Cell Painting features and 978 L1000 "
            "genes, with the 270 assays of Moshkov 2023. Nearest of all to the screen of the paper.",
            files=_CDRP_FILES + _ANNOTATION_FILES,
            licence="GPL-2",
            citation=_CITE_CMEA,
            read=_read_cdrp_consensus,
            shape=("9,515", "1 / 1", "1", "812 / 978"),
            parameters={"n_folds": 3, "n_repeats": 1, "n_derangements_linear": 5},
        ),
        Dataset(
            name="cdrp-bio",
            title="CDRP-bio of the Rosetta collection: bioactive compounds, U2OS",
            summary="Replicates of about 2,000 bioactive compounds; 1,469 treatments were measured in both "
            "modalities: 601 selected Cell Painting features and 977 L1000 genes.",
            files=_CDRP_BIO_FILES + _ANNOTATION_FILES,
            licence="CC0",
            citation=_CITE_HAGHIGHI,
            read=_read_rosetta,
            shape=("1,469 pairs of compound and dose", "8 / 2 (median)", "1 to 2", "601 / 977"),
            columns={
                "cp": ProfileColumns(
                    treatment="Metadata_Sample_Dose",
                    plate="Metadata_Plate",
                    well="Metadata_Well",
                    dose="Metadata_mmoles_per_liter2",
                ),
                "tx": ProfileColumns(
                    treatment="pert_sample_dose",
                    plate="det_plate",
                    dose="pert_dose",
                    smiles="CPD_SMILES",
                    name="CPD_NAME",
                ),
            },
        ),
        Dataset(
            name="lincs-pilot1",
            title="LINCS Pilot 1 of the Rosetta collection: drugs at several doses, A549",
            summary="Replicates of 1,570 drugs at up to 7 doses: 119 selected of 1,670 Cell Painting features, and "
            "978 L1000 genes.",
            files=_LINCS_FILES + _ANNOTATION_FILES,
            licence="CC0",
            citation=_CITE_HAGHIGHI,
            read=_read_rosetta,
            shape=("about 1,570", "5 / 3", "7", "119 of 1,670 / 978"),
            parameters={"n_derangements_linear": 5},
            columns={
                "cp": ProfileColumns(
                    treatment="Metadata_pert_id_dose",
                    plate="Metadata_Plate",
                    well="Metadata_Well",
                    dose="Metadata_mmoles_per_liter",
                    name="pert_iname",
                ),
                "tx": ProfileColumns(
                    treatment="pert_id_dose",
                    plate="det_plate",
                    well="det_well",
                    dose="pert_dose",
                    smiles="x_smiles",
                    name="pert_iname_x",
                ),
            },
        ),
        Dataset(
            name="ta-orf",
            title="TA-ORF of the Rosetta collection: overexpressed genes, U2OS",
            summary="Replicates of about 325 overexpressed alleles in place of compounds: 63 selected Cell Painting "
            "features and 978 L1000 genes. No structures, MoAs or assays.",
            files=_TA_ORF_FILES,
            licence="CC0",
            citation=_CITE_HAGHIGHI,
            read=_read_rosetta,
            shape=("about 324 alleles", "5 / 2 to 3", "–", "63 / 978"),
            columns={
                "cp": ProfileColumns(
                    treatment="Metadata_broad_sample", plate="Metadata_Plate", well="Metadata_Well", alleles=True
                ),
                "tx": ProfileColumns(treatment="pert_id", plate="det_plate", well="det_well", alleles=True),
            },
        ),
    )
}


# ----------------------------------------------------------------------------------------------- reading


def is_user_screen(dataset: str) -> bool:
    """Whether `dataset` names a TOML file rather than a screen of the registry."""
    return str(dataset).lower().endswith(".toml")


def dataset_name(dataset: str) -> str:
    """Name of a screen: the registry's, or the ``name`` of a TOML file.

    Raises
    ------
    ScreenError
        If there is no such screen, listing those there are, or the TOML's name is missing or unfit.
    """
    if is_user_screen(dataset):
        from cpx_utils.user_screens import read_description

        return read_description(dataset, reserved=DATASETS)["name"]
    return _registered(dataset).name


def _registered(dataset: str) -> Dataset:
    if dataset in DATASETS:
        return DATASETS[dataset]
    near = difflib.get_close_matches(str(dataset), DATASETS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ScreenError(
        f"no data set is called {str(dataset)!r}; there are {', '.join(DATASETS)}, and a .toml file that "
        f"describes your own screen is accepted too.{hint}"
    )


def read_screen(
    dataset: str,
    *,
    size: str = "default",
    seed: int = 0,
    preset: str = "cdrp-bio",
    shared_strength: float | None = None,
    mirror: str = "",
    data_dir: str = "",
    unverified: bool = False,
    cp_table: str = "selected",
) -> Screen:
    """Read a screen by name or by TOML file, checked and fit for use.

    Parameters
    ----------
    dataset : str
        Key of `DATASETS`, or the path of a ``.toml`` file.
    size, seed, preset, shared_strength
        Of the simulated screen (`cpx_utils.simulation.simulate_screen`); other screens ignore them.
    mirror : str
        Folder or address that replaces ``https://`` (see `fetch`).
    data_dir : str
        Where downloads are kept; the per-user cache folder if empty.
    unverified : bool
        Accept files whose hash is not the registry's; such files are marked in `Screen.sources` and noted.
    cp_table : str
        ``selected`` or ``all``: which CP features of a Rosetta screen are read; other screens have one CP table and
        ignore it.

    Raises
    ------
    ScreenError
        One line for whatever is wrong: the name, a download, the first thing wrong with the tables.
    """
    options = ReadOptions(
        size=size,
        seed=seed,
        preset=preset,
        shared_strength=shared_strength,
        mirror=mirror,
        data_dir=data_dir,
        unverified=unverified,
        cp_table=cp_table,
    )
    if is_user_screen(dataset):
        from cpx_utils.user_screens import read_user_screen

        return read_user_screen(dataset, reserved=DATASETS)
    return require_valid(_read_registered(_registered(dataset), options))


def local_files(screen: Screen) -> list[Path]:
    """The user's own files behind a screen, so that a run notices when one of them changes."""
    return [Path(source["address"]) for source in screen.sources if not source["address"].startswith("http")]


def examine_screen(dataset: str, **options) -> tuple[Screen | None, list[str]]:
    """A screen with everything that is wrong with it, for ``run_all.py --check``.

    Parameters
    ----------
    dataset : str
    **options
        As for `read_screen`.

    Returns
    -------
    screen : Screen or None
        The screen fit for use where nothing is wrong, else None.
    problems : list of str
        One line each; empty if nothing is wrong.
    """
    try:
        if is_user_screen(dataset):
            from cpx_utils.user_screens import examine_user_screen

            return examine_user_screen(dataset, reserved=DATASETS)
        screen = _read_registered(_registered(dataset), ReadOptions(**options))
    except ScreenError as error:
        return None, [str(error)]
    problems = check_screen(screen)
    return (None, problems) if problems else (require_valid(screen), [])


def _read_registered(dataset: Dataset, options: ReadOptions) -> Screen:
    by_role = {file.role: file for file in dataset.files}
    obtained: dict[str, LocalFile] = {}

    def obtain(role: str) -> LocalFile:
        if role not in obtained:
            obtained[role] = downloads.obtain(
                by_role[role], mirror=options.mirror, data_dir=options.data_dir, unverified=options.unverified
            )
        return obtained[role]

    screen = dataset.read(dataset, obtain, options)
    sources = tuple(
        {
            "file": file.name,
            "address": file.address,
            "sha256": obtained[file.role].sha256,
            "bytes": obtained[file.role].bytes,
            "verified": obtained[file.role].verified,
            "licence": file.licence,
            "citation": file.citation,
        }
        for file in dataset.files
        if file.role in obtained
    )
    doubtful = [source["file"] for source in sources if not source["verified"]]
    notes = screen.notes
    if doubtful:
        notes += (f"Not the registry's release, accepted with --unverified: {', '.join(doubtful)}.",)
    return replace(screen, sources=screen.sources + sources, notes=notes)


def describe_sources(screen: Screen) -> pd.DataFrame:
    """The files a screen was read from.

    Returns
    -------
    pandas.DataFrame
        file, bytes, verified (the file is the registry's release, or the user's own), sha256 (first 12
        digits), licence, citation, address; no rows for a screen without files.
    """
    columns = ["file", "bytes", "verified", "sha256", "licence", "citation", "address"]
    table = pd.DataFrame([dict(source) for source in screen.sources], columns=columns)
    table["sha256"] = table["sha256"].astype(str).str[:12]
    return table


def download_lines(dataset: str, mirror: str = "", data_dir: str = "", cp_table: str = "selected") -> list[str]:
    """What reading a screen would download, one line a file and last the total; empty where there is nothing."""
    files = DATASETS[dataset].files if dataset in DATASETS else ()
    if {file.role for file in files} >= set(CP_TABLES.values()):
        unread = set(CP_TABLES.values()) - {CP_TABLES.get(cp_table)}
        files = tuple(file for file in files if file.role not in unread)
    planned = downloads.planned_downloads(files, mirror, data_dir)
    return list(downloads.describe_plan(planned, mirror, data_dir)) if files else []
