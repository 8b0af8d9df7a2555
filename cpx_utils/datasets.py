"""The screens: where each comes from, its hashes, licence and citation, and how it is read into a `Screen`.

A screen is one of the registry (`DATASETS`) or a user's own, described by a TOML file
(`cpx_utils.user_screens`). Files are downloaded once and checked against the registry's hash
(`cpx_utils.downloads`).
"""

import difflib
import re
import warnings
from collections.abc import Callable, Sequence
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
    require_valid,
)

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
    """

    name: str
    title: str
    summary: str
    files: tuple[RemoteFile, ...]
    licence: str
    citation: str
    read: Callable[["Dataset", Callable[[str], LocalFile], "ReadOptions"], Screen]
    parameters: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ReadOptions:
    """How a screen is read: what is simulated, mirror, data folder, whether hashes bind."""

    size: str = "default"
    seed: int = 0
    preset: str = "cdrp-bio"
    shared_strength: float | None = None
    mirror: str = ""
    data_dir: str = ""
    unverified: bool = False


_GITHUB = "https://raw.githubusercontent.com/"
_CMEA = _GITHUB + "isarnassiri/CMEA/960cda0c627f45b82bdf636a250c91ef1f9b2d46/data/"
_MOSHKOV = _GITHUB + "CaicedoLab/2023_Moshkov_NatComm/20fd97178796148c2b464ddc2c025a91654a6433/assay_data/"
_INFOALIGN = _GITHUB + "liugangcode/InfoAlign/eed96f36503a8a427fac4f382ee2001f957dd42a/raw_data/"
_HUB = _GITHUB + "broadinstitute/lincs-cell-painting/061870127481dcd73c29df85ebcfddeac2ed0828/metadata/moa/"

_CITE_CMEA = "Nassiri & McCall, Nucleic Acids Research 2018, doi 10.1093/nar/gky626"
_CITE_MOSHKOV = "Moshkov et al., Nature Communications 2023, doi 10.1038/s41467-023-37570-1"
_CITE_INFOALIGN = "Liu et al. (InfoAlign) 2024, arXiv 2406.12056"
_CITE_HUB = "Corsello et al., Nature Medicine 2017, doi 10.1038/nm.4306"

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


def read_r_profiles(path: str | Path) -> pd.DataFrame:
    """The one data frame in an R data file: float32 values, index compound ids, columns features.

    Raises
    ------
    ScreenError
        If the file is no R data file, holds no or several data frames, or the values are not numeric.
    """
    import rdata

    path = Path(path)
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


def annotate_compounds(
    compounds: Sequence[str], obtain: Callable[[str], LocalFile], cache: Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Structures, MoA, targets and assay outcomes of Broad compounds, from the registry's annotation files.

    Parameters
    ----------
    compounds : sequence of str
        BRD ids of 13 characters.
    obtain : callable
        Gives the `LocalFile` of a role.
    cache : path
        Folder for keys computed once.

    Returns
    -------
    compounds, activity, tasks : pandas.DataFrame
        As in `Screen`.
    notes : list of str
    """
    hub = annotation.read_repurposing_hub(obtain("hub").path)
    sources = [
        annotation.read_broad_structures(obtain("broad_ids").path, obtain("broad_smiles").path),
        annotation.read_structure_table(obtain("broad6k_structures").path),
        hub[[COMPOUND, "SMILES", "InChIKey14"]],
    ]
    structures, disagreements = annotation.join_structures(compounds, sources)
    table = annotation.annotate_mechanisms(structures, hub)
    toxcast = obtain("toxcast_assays")
    collections = [
        annotation.read_broad6k(obtain("broad6k_assays").path, obtain("assay_names").path),
        annotation.read_toxcast(toxcast.path, cache / f"inchikeys-{toxcast.sha256[:16]}.parquet"),
        annotation.read_chembl2k(obtain("chembl2k_assays").path),
    ]
    known, mechanisms = int((table["InChIKey14"] != "").sum()), int(table["MoA"].map(bool).sum())
    notes = [
        f"{known} of {len(table)} compounds have a structure, {mechanisms} a mechanism of action "
        "(Repurposing Hub, by compound id or else by InChIKey block)."
    ]
    if disagreements:
        notes.append(f"{disagreements} compounds have two structures in the sources; the first was taken.")
    activities, tasks = [], []
    for collection in collections:
        labels, reached, conflicts = annotation.outcomes(collection, table)
        activities.append(labels)
        tasks.append(reached)
        notes.append(
            f"{collection.source}: {labels[COMPOUND].nunique()} compounds have {len(labels)} outcomes in "
            f"{len(reached)} assays; {conflicts} structure-assay pairs held both 0 and 1 and count as active."
        )
    return table, pd.concat(activities, ignore_index=True), pd.concat(tasks, ignore_index=True), notes


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
    compounds, activity, tasks, more = annotate_compounds(every, obtain, cache)
    return Screen(
        name=dataset.name,
        cp=_consensus_wells(cp),
        tx=_consensus_wells(tx),
        compounds=compounds,
        activity=activity,
        tasks=tasks,
        notes=tuple(notes + more),
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
            parameters={"n_folds": 5, "n_repeats": 3},
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
