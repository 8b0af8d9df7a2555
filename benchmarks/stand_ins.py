"""Write stand-ins of the public screens: files of their names, columns and oddities, filled by the simulator.

python benchmarks/stand_ins.py cdrp-bio DIR                     # full size
python benchmarks/stand_ins.py cdrp-u2os DIR --share 0.05       # a twentieth of the compounds
python benchmarks/stand_ins.py lincs-pilot1 DIR --all-features  # the table of all CP features, too

DIR is laid out as HOST/PATH; read it by ``run_all.py --dataset NAME --mirror DIR --unverified``. The truth behind the
profiles (MoAs, assays) is planted in the annotation files, so that what the study finds can be held against it.
``--annotation-mirror`` takes compounds, structures, probes and further assays from real annotation files.
"""

import argparse
import gzip
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils import simulation
from cpx_utils.annotation import BROAD_ID_LENGTH, inchikey_blocks
from cpx_utils.datasets import DATASETS
from cpx_utils.downloads import RemoteFile
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, METADATA_COLUMNS, PLATE, WELL, ScreenError, feature_columns


@dataclass(frozen=True)
class Shape:
    """The size of a screen and what is simulated to reach it.

    `cp_rows` and `tx_rows` count the rows of the files; repeated wells fill what the simulation leaves open.
    `n_paired` compounds are measured in both modalities, `n_cp_only` and `n_tx_only` in one.
    """

    n_paired: int
    n_cp_only: int
    n_tx_only: int
    doses: tuple[float, ...]
    n_cp_replicates: int
    n_tx_replicates: int
    n_cp_features: int
    n_all_features: int
    n_genes: int
    n_control_wells: int
    cp_rows: int
    tx_rows: int
    n_treatments_per_plate: int = 300
    preset: str = "cdrp-bio"
    n_moas: int = 40
    annotated_share: float = 1.0  # of compounds whose MoA the stand-in Hub tells
    missing_doses: tuple[float, float] = (0.0, 0.0)  # share of treatments that were not made, CP and TX
    n_tasks: int = 64
    missing_labels: float = 0.25

    @property
    def n_compounds(self) -> int:
        """Compounds measured in either modality."""
        return self.n_paired + self.n_cp_only + self.n_tx_only


SHAPES = {
    "cdrp-u2os": Shape(
        n_paired=9515, n_cp_only=0, n_tx_only=0, doses=(10.0,), n_cp_replicates=4, n_tx_replicates=2,
        n_cp_features=812, n_all_features=812, n_genes=978, n_control_wells=32, cp_rows=9515, tx_rows=9515,
        n_moas=200, annotated_share=0.2, n_tasks=270, missing_labels=0.866,
    ),
    "cdrp-bio": Shape(
        n_paired=735, n_cp_only=465, n_tx_only=865, doses=(1.11, 9.99), n_cp_replicates=8, n_tx_replicates=2,
        n_cp_features=601, n_all_features=1783, n_genes=977, n_control_wells=17, cp_rows=21_122, tx_rows=6_929,
    ),
    "lincs-pilot1": Shape(
        n_paired=1400, n_cp_only=170, n_tx_only=0, doses=(0.04, 0.12, 0.37, 1.11, 3.33, 10.0, 20.0),
        n_cp_replicates=5, n_tx_replicates=3, n_cp_features=119, n_all_features=1670, n_genes=978,
        n_control_wells=24, cp_rows=52_223, tx_rows=27_837, preset="lincs", n_moas=80, missing_doses=(0.145, 0.146),
    ),
    "ta-orf": Shape(
        n_paired=300, n_cp_only=24, n_tx_only=27, doses=(1.0,), n_cp_replicates=5, n_tx_replicates=2,
        n_cp_features=63, n_all_features=1783, n_genes=978, n_control_wells=24, cp_rows=1_920, tx_rows=730,
    ),
}  # fmt: skip
FILLER_SHARE = 16_170 / 9_515 - 1  # structures in the 270-assay matrix beyond the screen's, a compound of the screen
WELLS_AT_ONCE = 8_000  # simulated together, which bounds memory
# Positions of the CP features that hold nothing, one value, infinite values and gaps.
EMPTY_FEATURE, CONSTANT_FEATURE, INFINITE_FEATURE, GAPPY_FEATURE = 2, 3, 4, 5
# Targets whose family is that of the planted assays, eight a family; they stand in ChEMBL's table.
SYMBOLS = {
    "kinase": "ABL1 AKT1 BTK EGFR JAK2 KIT LCK SRC",
    "GPCR": "ADRA1A ADRB2 CHRM1 CNR1 DRD2 HRH1 HTR2A OPRM1",
    "nuclear receptor": "AR ESR1 ESR2 NR3C1 PGR PPARG RARA VDR",
    "ion channel": "CACNA1C CHRNA7 GABRA1 GRIN1 HTR3A KCNH2 SCN5A TRPV1",
    "protease": "ACE BACE1 CASP3 CTSB DPP4 F10 MMP9 REN",
    "epigenetic": "BRD4 DNMT1 EHMT2 EZH2 HDAC1 HDAC6 KDM1A SIRT1",
    "transporter": "ABCB1 ABCG2 SLC22A1 SLC22A2 SLC6A2 SLC6A3 SLC6A4 SLCO1B1",
    "other enzyme": "ACHE BCHE COMT DHFR MAOA MAOB PTGS1 PTGS2",
}
PER_COMPOUND = ("compound", "moa", "amplitude", "response", "tx_amplitude", "tx_response", "shared", "cp_only",
                "tx_only")  # fmt: skip


@dataclass(frozen=True)
class StandIn:
    """What was planted, to hold against what is read.

    Attributes
    ----------
    cp, tx : pandas.DataFrame
        The wells a reader should find: metadata as in a `Screen`, features by their final names, repeated wells left
        out, infinite values NaN. Features without information (`dropped`) are still there.
    compounds : pandas.DataFrame
        Metadata_Compound, SMILES, InChIKey14, MoA (lists).
    activity : pandas.DataFrame
        Metadata_Compound, task (as the reader calls it), active.
    dropped : list of str
        Features that are constant or never measured.
    repeated : dict
        Repeated wells a modality.
    """

    cp: pd.DataFrame
    tx: pd.DataFrame
    compounds: pd.DataFrame
    activity: pd.DataFrame
    dropped: list[str]
    repeated: dict[str, int]


def write_stand_in(
    dataset: str,
    folder: str | Path,
    *,
    n_compounds: int | None = None,
    share: float = 1.0,
    seed: int = 0,
    all_features: bool = False,
    annotation_mirror: str | Path = "",
    n_cp_features: int | None = None,
    n_genes: int | None = None,
    keep: bool = True,
    **knobs: float,
) -> StandIn | None:
    """Write the files of a screen of the registry below `folder`, laid out as a mirror.

    Parameters
    ----------
    dataset
        A key of `SHAPES`.
    folder
        Where the mirror goes; another screen takes another folder, since annotation files have the same names.
    n_compounds, share
        How many compounds instead of the screen's, one-sided ones in proportion; or what share of them.
    seed
        The same seed writes the same profiles.
    all_features
        Write the table of all CP features beside that of the selected ones (Rosetta screens).
    annotation_mirror
        Folder with the real annotation files as HOST/PATH: ids, structures, probes and assays come from there, and the
        planted MoAs and assays replace the Hub, the 270-assay matrix and the ChEMBL table.
    n_cp_features, n_genes
        Fewer features, for quick tests.
    keep
        Return what was planted; False saves the memory of a full screen.
    **knobs
        Any field of `cpx_utils.simulation.SimulationSettings`.

    Raises
    ------
    ScreenError
        For an unknown screen, a mirror without the files, or more compounds than there are structures.
    """
    if dataset not in SHAPES:
        raise ScreenError(f"there is no stand-in of {dataset!r}; there are {', '.join(SHAPES)}")
    shape = _scaled(SHAPES[dataset], n_compounds, share, n_cp_features, n_genes)
    settings = _settings(shape, all_features, knobs)
    place = _Place(dataset, Path(folder), Path(annotation_mirror) if annotation_mirror else None)
    truth = simulation.simulate_truth(settings, seed)
    rng = np.random.default_rng([seed, 4])
    compounds, filler = _alleles(shape) if dataset == "ta-orf" else _compounds(place, truth, shape, rng)
    truth["compound"] = compounds[COMPOUND].to_numpy(dtype=object)
    write = _write_consensus if dataset == "cdrp-u2os" else _write_rosetta
    planted = write(place, settings, truth, shape, compounds, _probes(place, shape.n_genes), seed, keep)
    activity = pd.DataFrame(columns=[COMPOUND, "task", "active"])
    if dataset != "ta-orf":
        tasks, labels = simulation._assays(settings, truth, np.random.default_rng([seed, 3]))
        activity = _write_annotation(place, compounds, filler, tasks, labels, rng)
    return StandIn(compounds=compounds, activity=activity, **planted) if keep else None


def _scaled(
    shape: Shape, n_compounds: int | None, share: float, n_cp_features: int | None, n_genes: int | None
) -> Shape:
    """The shape with fewer compounds and features; scaled screens have as many rows as their compounds take."""
    counts = {}
    if n_compounds is not None:
        share = n_compounds / shape.n_compounds
    if share != 1:
        counts = {name: round(getattr(shape, name) * share) for name in ("n_paired", "n_cp_only", "n_tx_only")}
        counts |= {name: max(counts[name], 2) for name in ("n_cp_only", "n_tx_only") if getattr(shape, name)}
        counts |= {"cp_rows": 0, "tx_rows": 0}
    if n_cp_features:
        counts |= {"n_cp_features": n_cp_features, "n_all_features": 2 * n_cp_features}
    if n_genes:
        counts["n_genes"] = n_genes
    return replace(shape, **counts)


def _settings(shape: Shape, all_features: bool, knobs: dict[str, float]) -> simulation.SimulationSettings:
    chosen = {
        "n_compounds": shape.n_compounds,
        "doses": shape.doses,
        "n_cp_replicates": shape.n_cp_replicates,
        "n_tx_replicates": shape.n_tx_replicates,
        "n_cp_features": shape.n_all_features if all_features else shape.n_cp_features,
        "n_genes": shape.n_genes,
        "n_control_wells": shape.n_control_wells,
        "n_treatments_per_plate": shape.n_treatments_per_plate,
        "n_moas": min(shape.n_moas, max(2, shape.n_compounds // 4)),
        "n_tasks": shape.n_tasks,
        "missing_labels": shape.missing_labels,
    }
    return simulation.simulation_settings("default", shape.preset, **(chosen | knobs))


@dataclass(frozen=True)
class _Place:
    """Where the files of a stand-in go, and where real annotation files lie."""

    dataset: str
    folder: Path
    mirror: Path | None

    def file(self, role: str) -> RemoteFile:
        return next(file for file in DATASETS[self.dataset].files if file.role == role)

    def path(self, role: str) -> Path:
        """Where the file of `role` is to be written; its folder is made."""
        path = self.folder / self.file(role).mirror_path
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def real(self, role: str) -> Path | None:
        """The real file of `role`, None without a mirror."""
        if self.mirror is None:
            return None
        # the probes' table is no file of cdrp-u2os, whose genes carry symbols; its stand-in still takes them from there
        file = next(file for name in (self.dataset, "cdrp-bio") for file in DATASETS[name].files if file.role == role)
        path = self.mirror / file.mirror_path
        if not path.is_file():
            raise ScreenError(f"the annotation mirror {self.mirror} has no {file.mirror_path}")
        return path


# --- compounds, structures and probes -------------------------------------------------------------------------


def _compounds(place: _Place, truth: dict, shape: Shape, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compounds with ids, structures and MoAs, and the structures of others for the 270-assay matrix.

    Real lists hold many stereoisomers, which share an InChIKey block. cdrp-u2os can't do without them: those of a block
    are given the same truth, in `truth` itself.
    """
    n = shape.n_compounds
    n_filler = round(n * FILLER_SHARE) if place.dataset == "cdrp-u2os" else 0
    stereoisomers = bool(place.mirror) and place.dataset == "cdrp-u2os"
    chosen, seen = [], set()
    for name, text in _candidates(place, rng):
        block = inchikey_blocks([text])[0]
        if block and (stereoisomers or block not in seen):
            chosen.append((name, text, block))
            seen.add(block)
        if len(chosen) == n + n_filler:
            break
    if len(chosen) < n:
        raise ScreenError(f"{n} compounds are too many; structures are known for {len(chosen)}")
    table = pd.DataFrame(chosen, columns=[COMPOUND, "SMILES", "InChIKey14"])
    table, filler = table.iloc[:n].copy(), table.iloc[n:]
    table["measured"] = _measured_in(shape)
    codes, blocks = pd.factorize(table["InChIKey14"])
    first = np.unique(codes, return_index=True)[1][codes]  # position of the block's first compound
    truth |= {name: truth[name][first] for name in PER_COMPOUND}
    annotated = (rng.random(len(blocks)) < shape.annotated_share)[codes]
    names = [[f"mechanism {moa + 1:03d}"] if known else [] for moa, known in zip(truth["moa"], annotated, strict=True)]
    return table.assign(MoA=pd.Series(names, index=table.index, dtype=object)), filler


def _candidates(place: _Place, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Ids and SMILES in random order, of the real lists or made up."""
    if place.mirror:
        ids = pd.read_csv(place.real("broad_ids"), dtype=str)["broad_id"].str[:BROAD_ID_LENGTH]
        smiles = pd.read_csv(place.real("broad_smiles"), sep="\t", dtype=str, quoting=3)["smiles"]
        order = rng.permutation(len(ids))
        yield from zip(ids[order], smiles[order], strict=True)
        return
    pool = list(product(simulation.CORES, simulation.SUBSTITUENTS, ("", "C", "CC", "N"), simulation.SUBSTITUENTS))
    for number, index in enumerate(rng.permutation(len(pool))):
        core, a, linker, b = pool[index]
        yield f"BRD-{'AKM'[number % 3]}{10_000_000 + 137 * number:08d}", core.format(a=a, b=linker + b)


def _alleles(shape: Shape) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Overexpressed alleles in place of compounds, and no further structures."""
    names = [f"ccsbBroad304_{number:05d}" for number in range(1, shape.n_compounds + 1)]
    table = pd.DataFrame({COMPOUND: names, "SMILES": "", "InChIKey14": "", "measured": _measured_in(shape)})
    table["MoA"] = pd.Series([[] for _ in names], dtype=object)
    return table, table.head(0)


def _measured_in(shape: Shape) -> list[str]:
    return ["both"] * shape.n_paired + ["cp"] * shape.n_cp_only + ["tx"] * shape.n_tx_only


def _probes(place: _Place, n_genes: int) -> pd.DataFrame:
    """Probes with the symbols of their genes, hyphenated symbols first since R and its readers change those."""
    if place.mirror:
        table = pd.read_excel(place.real("idmap"), dtype=str)[["probe_id", "symbol"]]
    else:
        symbols = [*simulation._gene_names(n_genes - 1), "HLA-DMA"]
        probes = [f"{200_000 + 3 * number}{'_s' if number % 4 == 0 else ''}_at" for number in range(n_genes)]
        table = pd.DataFrame({"probe_id": probes, "symbol": symbols})
    table = table.drop_duplicates("symbol").drop_duplicates("probe_id")
    table = table.assign(plain=~table["symbol"].str.contains("-")).sort_values(["plain", "probe_id"])
    if len(table) < n_genes:
        raise ScreenError(f"{n_genes} genes are too many; symbols are known for {len(table)} probes")
    return table.head(n_genes).drop(columns="plain").reset_index(drop=True)


# --- profiles --------------------------------------------------------------------------------------------------


def _simulated_wells(
    settings: simulation.SimulationSettings, truth: dict, modality: str, seed: int
) -> Iterator[tuple[pd.DataFrame, bool]]:
    """Wells of some compounds at a time, on plates of their own, numbered through; and whether they are the last."""
    draw = {"cp": simulation._cell_painting_wells, "tx": simulation._transcriptomics_wells}[modality]
    replicates = settings.n_cp_replicates if modality == "cp" else settings.n_tx_replicates
    n_parts = -(-settings.n_compounds * len(settings.doses) * replicates // WELLS_AT_ONCE)
    n_plates = 0
    for number, part in enumerate(np.array_split(np.arange(settings.n_compounds), n_parts)):
        rng = np.random.default_rng([seed, 5, number, modality == "tx"])
        mine = truth | {name: truth[name][part] for name in PER_COMPOUND}
        wells = draw(replace(settings, n_compounds=len(part)), mine, rng)
        codes, plates = pd.factorize(wells[PLATE])
        wells[PLATE] = codes + n_plates
        n_plates += len(plates)
        yield wells, number == n_parts - 1


def _write_consensus(
    place: _Place,
    settings: simulation.SimulationSettings,
    truth: dict,
    shape: Shape,
    compounds: pd.DataFrame,
    probes: pd.DataFrame,
    seed: int,
    keep: bool,
) -> dict:
    """One profile a compound, in units of the plates' controls, as R data frames with compounds as row names."""
    planted = {}
    for modality, frame in (("cp", "CP_complete"), ("tx", "TX_complete")):
        parts = [_consensus(wells) for wells, _ in _simulated_wells(settings, truth, modality, seed)]
        table = pd.concat(parts).loc[compounds[COMPOUND]]
        table.index = pd.Index(table.index.to_numpy(dtype=object), dtype=object)
        if modality == "tx":
            table.columns = probes["symbol"]
        planted[modality] = table
        in_r = table.astype(np.float64)
        in_r.columns = pd.Index([name.replace("-", ".") for name in table], dtype=object)  # as R writes names
        _write_r(place.path(modality), {frame: in_r})
    if not keep:
        return {}
    blank = {PLATE: "", WELL: "", DOSE: np.nan, CONTROL: False}
    planted = {
        modality: table.rename_axis(COMPOUND).reset_index().assign(**blank)[[*METADATA_COLUMNS, *table.columns]]
        for modality, table in planted.items()
    }
    return planted | {"dropped": [], "repeated": {"cp": 0, "tx": 0}}


def _write_r(path: Path, frames: dict[str, pd.DataFrame]) -> None:
    """An R data file, compressed lightly: the writer's own compression would take minutes."""
    import rdata

    plain = path.with_suffix(".plain")
    rdata.write_rda(plain, frames, compression=None)
    with open(plain, "rb") as content, gzip.open(path, "wb", compresslevel=1) as handle:
        shutil.copyfileobj(content, handle, 1 << 20)
    plain.unlink()


def _consensus(wells: pd.DataFrame) -> pd.DataFrame:
    """Mean over the replicates of each compound of robust z-scores against its plates' controls, float32."""
    features = feature_columns(wells)
    values = np.array(wells[features], dtype=np.float64)
    control = wells[CONTROL].to_numpy()
    for rows in wells.groupby(PLATE).indices.values():
        reference = values[rows[control[rows]]]
        middle = np.median(reference, axis=0)
        spread = 1.4826 * np.median(np.abs(reference - middle), axis=0)
        values[rows] = (values[rows] - middle) / np.maximum(spread, 1e-9)
    treated = pd.DataFrame(values[~control], columns=features)
    return treated.groupby(wells.loc[~control, COMPOUND].to_numpy(dtype=object)).mean().astype(np.float32)


def _write_rosetta(
    place: _Place,
    settings: simulation.SimulationSettings,
    truth: dict,
    shape: Shape,
    compounds: pd.DataFrame,
    probes: pd.DataFrame,
    seed: int,
    keep: bool,
) -> dict:
    """Replicate-level CSV tables, spoilt as the real ones are, and the probes' table."""
    made = _made_treatments(shape, compounds, seed)
    planted, repeated = {}, {}
    for modality, rows in (("cp", shape.cp_rows), ("tx", shape.tx_rows)):
        rng = np.random.default_rng([seed, 6, modality == "tx"])
        outputs = {modality: _CsvOutput(place.path(modality))}
        if modality == "cp" and settings.n_cp_features != shape.n_cp_features:
            outputs["cp_all"] = _CsvOutput(place.path("cp_all"))
        found, written = [], 0
        for wells, last in _simulated_wells(settings, truth, modality, seed):
            wells = _made_wells(wells, made[modality])
            wells, n_repeats = _fitted(wells, rows - written, rng) if last else (wells, 0)
            features = _spoilt(wells, modality, probes, rng)
            metadata = _metadata(place.dataset, modality, wells, compounds, made["cp"])
            found += [_expected(place.dataset, modality, wells, features, made["cp"])] if keep else []
            for role, output in outputs.items():
                output.write(metadata, _selected(features, shape.n_cp_features) if role == "cp" else features)
                if n_repeats:
                    again = slice(0, n_repeats)
                    output.write(metadata[again], (output.last[again] + 1).astype(np.float32))
            if n_repeats and keep and not DATASETS[place.dataset].columns[modality].well:
                # without wells nobody can tell a repeat from a replicate
                found.append(found[-1].iloc[:n_repeats])
                found[-1] = found[-1].assign(**(found[-1][feature_columns(found[-1])] + 1))
                n_repeats = 0
            written += len(wells)
        for output in outputs.values():
            output.close()
        planted[modality], repeated[modality] = pd.concat(found, ignore_index=True) if keep else None, n_repeats
    if place.mirror:
        shutil.copyfile(place.real("idmap"), place.path("idmap"))
    else:
        probes.assign(query=probes["symbol"]).to_excel(place.path("idmap"), index=False)
    names = simulation._cell_painting_names(CONSTANT_FEATURE + 1)
    return planted | {"dropped": [names[EMPTY_FEATURE], names[CONSTANT_FEATURE]], "repeated": repeated}


def _made_treatments(shape: Shape, compounds: pd.DataFrame, seed: int) -> dict[str, set[tuple[str, float]]]:
    """Compound and dose of the treatments that were made in each modality."""
    rng = np.random.default_rng([seed, 7])
    made = {}
    for modality, missing in zip(("cp", "tx"), shape.missing_doses, strict=True):
        there = rng.random((len(compounds), len(shape.doses))) >= missing
        there &= compounds["measured"].isin(["both", modality]).to_numpy()[:, None]
        made[modality] = {
            (compounds[COMPOUND].iat[row], shape.doses[column]) for row, column in np.argwhere(there).tolist()
        }
    return made


def _made_wells(wells: pd.DataFrame, made: set[tuple[str, float]]) -> pd.DataFrame:
    pairs = zip(wells[COMPOUND], wells[DOSE], strict=True)
    kept = wells[CONTROL].to_numpy() | np.array([pair in made for pair in pairs])
    return wells[kept].reset_index(drop=True)


def _fitted(wells: pd.DataFrame, rows: int, rng: np.random.Generator) -> tuple[pd.DataFrame, int]:
    """Lose wells where they are too many, or say how many are to be repeated, two at least."""
    surplus = len(wells) + 2 - rows if rows > 0 else 0
    if surplus > 0:
        wells = wells.drop(index=rng.choice(len(wells), surplus, replace=False)).reset_index(drop=True)
    return wells, rows - len(wells) if rows > 0 else 2


def _spoilt(wells: pd.DataFrame, modality: str, probes: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Features as the file names them, with gaps, infinite values, and columns without information."""
    features = wells[feature_columns(wells)].copy()
    n = len(features)
    if modality == "tx":
        features.columns = probes["probe_id"]
        features.iloc[rng.random(n) < 0.005, 1] = np.nan
        return features
    features.iloc[:, EMPTY_FEATURE] = np.float32(np.nan)
    features.iloc[:, CONSTANT_FEATURE] = np.float32(0.5)
    some = rng.choice(n, 4, replace=False)
    features.iloc[some[:3], INFINITE_FEATURE] = np.float32(np.inf)
    features.iloc[some[3:], INFINITE_FEATURE] = np.float32(-np.inf)
    features.iloc[rng.random(n) < 0.01, GAPPY_FEATURE] = np.float32(np.nan)
    return features


def _selected(features: pd.DataFrame, n_features: int) -> pd.DataFrame:
    """The first features and the cell count, which stands last."""
    return features.iloc[:, [*range(n_features - 1), -1]]


def _third_digit(dose: float) -> float:
    """A dose whose third significant digit is one more."""
    return dose + 10.0 ** (np.floor(np.log10(dose)) - 2)


def _expected(
    dataset: str, modality: str, wells: pd.DataFrame, features: pd.DataFrame, made_in_cp: set[tuple[str, float]]
) -> pd.DataFrame:
    """The wells as they should be read; a dose that CP has, too, is CP's."""
    treated = ~wells[CONTROL].to_numpy()
    alleles = dataset == "ta-orf"
    doses = [
        dose if modality == "cp" or (compound, dose) in made_in_cp else _third_digit(dose)
        for compound, dose in zip(wells[COMPOUND], wells[DOSE].where(treated, 1.0), strict=True)
    ]
    no_dose = ~treated | alleles
    metadata = pd.DataFrame(
        {
            PLATE: [_plate(modality, number) for number in wells[PLATE]],
            WELL: "" if (dataset, modality) == ("cdrp-bio", "tx") else wells[WELL],
            COMPOUND: wells[COMPOUND].where(treated, "negcon" if alleles else "DMSO"),
            DOSE: np.where(no_dose, np.nan, np.array([float(f"{dose:.3g}") for dose in doses])),
            CONTROL: ~treated,
        }
    )
    return pd.concat([metadata, features.replace([np.inf, -np.inf], np.nan)], axis=1)


def _plate(modality: str, number: int) -> str:
    """CP plates are numbers, some words among them; TX plates are words."""
    if modality == "tx":
        return f"REP.A{number:03d}_24H"
    return f"P{number}A" if number % 7 == 6 else str(24_000 + number)


def _metadata(
    dataset: str, modality: str, wells: pd.DataFrame, compounds: pd.DataFrame, made_in_cp: set
) -> pd.DataFrame:
    """Metadata columns as the file has them: mixed types, controls in their spellings, doses that differ a little."""
    control = wells[CONTROL].to_numpy()
    number = np.arange(len(wells))
    known = compounds.set_index(COMPOUND)
    names = wells[COMPOUND].to_numpy(dtype=object)
    plates = np.array([_plate(modality, value) for value in wells[PLATE]], dtype=object)
    halves = (number % 2 == 0) & np.array([text.isdigit() for text in plates])
    doses = [f"{dose if modality == 'cp' else _third_digit(dose):.3g}" for dose in wells[DOSE].where(~control, 1.0)]
    long = [f"{name}-{index % 3 + 1:03d}-0{index % 5}-{index % 9}" for index, name in enumerate(names)]
    ids = long if (dataset, modality) == ("cdrp-bio", "cp") else names
    keys = names if dataset == "ta-orf" else [f"{name}_{dose}" for name, dose in zip(ids, doses, strict=True)]
    spelling = np.where(control, number % 5, -1)  # how a control is known: by key (three), control_type, pert_type
    keys = np.select([spelling == value for value in range(5)], ["DMSO", "negcon", "NegCon", "", ""], keys)
    smiles = known["SMILES"].reindex(names).fillna("").to_numpy(dtype=object)
    described = DATASETS[dataset].columns[modality]
    prefix = "Metadata_" if modality == "cp" else ""
    columns = {
        "": number.astype(str),
        described.plate: np.where(halves, plates + ".0", plates),
        described.well: wells[WELL].to_numpy(dtype=object),
        described.treatment: keys,
        described.dose: np.where(control, "-666", [f"{float(dose) * 1.0003:.6g}" for dose in doses]),
        described.smiles: np.where(control, "", smiles),
        described.name: np.where(control, "DMSO", [f"name of {name}" for name in names]),
        f"{prefix}control_type": np.where(spelling == 3, "negcon", ""),
        f"{prefix}pert_type": np.where(spelling == 4, "control", np.where(control, "", "trt")),
        f"{prefix}mixed": np.where(number % 3 == 0, "3.0", np.where(number % 3 == 1, "3", "word")),
    }
    columns.pop("", None)
    filler = {("cdrp-bio", "cp"): 26, ("cdrp-bio", "tx"): 11}.get((dataset, modality), len(columns))
    columns |= {f"{prefix}batch_{index}": np.full(len(wells), "x") for index in range(filler - len(columns))}
    return pd.DataFrame(columns)


class _CsvOutput:
    """A gzipped CSV file that grows by tables of the same columns; `last` holds the features written last."""

    def __init__(self, path: Path):
        self.file = gzip.open(path, "wb", compresslevel=1)
        self.writer = None
        self.last = None

    def write(self, metadata: pd.DataFrame, features: pd.DataFrame) -> None:
        import pyarrow as pa
        from pyarrow import csv

        arrays = [pa.array(metadata[name].astype(object).where(metadata[name] != "", None)) for name in metadata]
        arrays = [array.cast(pa.string()) for array in arrays]
        # every other feature leaves its gaps empty, the rest write nan
        matrix = np.ascontiguousarray(features.to_numpy(np.float32).T)
        arrays += [pa.array(values, from_pandas=index % 2 == 0) for index, values in enumerate(matrix)]
        table = pa.table(arrays, names=[*metadata, *features])
        if self.writer is None:
            self.writer = csv.CSVWriter(self.file, table.schema)
        self.writer.write_table(table)
        self.last = features

    def close(self) -> None:
        self.writer.close()
        self.file.close()


# --- annotation ------------------------------------------------------------------------------------------------


def _write_annotation(
    place: _Place,
    compounds: pd.DataFrame,
    filler: pd.DataFrame,
    tasks: pd.DataFrame,
    labels: pd.DataFrame,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """All annotation files: MoAs and assays planted, the rest real where a mirror is at hand, or else small.

    Returns
    -------
    pandas.DataFrame
        The planted labels: Metadata_Compound, task as its reader calls it, active.
    """
    small = _small_tables(compounds)
    planted = {"hub", "assays_270" if place.dataset == "cdrp-u2os" else "chembl2k_assays"}
    roles = {file.role for file in DATASETS[place.dataset].files} - {"cp", "cp_all", "tx", "idmap"} - planted
    for role in sorted(roles):
        if place.mirror:
            shutil.copyfile(place.real(role), place.path(role))
        else:
            separator = "\t" if role == "broad_smiles" else ","
            small[role].to_csv(place.path(role), sep=separator, index=False)
    _hub_table(compounds).to_csv(place.path("hub"), sep="\t", index=False)
    if place.dataset == "cdrp-u2os":
        return _write_assay_matrix(place, compounds, filler, tasks, labels, rng)
    return _write_chembl(place, compounds, tasks, labels)


def _hub_table(compounds: pd.DataFrame) -> pd.DataFrame:
    """The Hub's columns for the compounds whose MoA is told, with ids of 22 characters."""
    known = compounds[compounds["MoA"].map(bool)]
    blank = ("clinical_phase disease_area indication qc_incompatible purity vendor catalog_no vendor_name "
             "expected_mass pubchem_cid deprecated_broad_id").split()  # fmt: skip
    table = pd.DataFrame(
        {
            "broad_id": known[COMPOUND] + "-001-01-1",
            "pert_iname": "name of " + known[COMPOUND],
            "moa": known["MoA"].str[0],
            "target": known["MoA"].str[0].str.replace("mechanism ", "TARGET"),
            "smiles": known["SMILES"],
            "InChIKey": known["InChIKey14"] + "-UHFFFAOYSA-N",
            "InChIKey14": known["InChIKey14"],
        }
    )
    return table.assign(**dict.fromkeys(blank, ""))


def _small_tables(compounds: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Annotation tables of the real ones' columns: structures of all compounds, assays with hardly any outcome."""
    types = [("cell", 156), ("biochem", 59), ("bacterial", 30), ("yeast", 18), ("fungal", 3), ("viral", 4)]
    kinds = [kind for kind, number in types for _ in range(number)]
    names = [f"{100 + number}_{600 + number}" for number in range(len(kinds))]
    few = compounds.head(3)
    keyed = {"smiles": few["SMILES"], "inchikey": few["InChIKey14"]}
    return {
        "broad_ids": pd.DataFrame({"broad_id": compounds[COMPOUND]}),
        "broad_smiles": pd.DataFrame({"smiles": compounds["SMILES"]}),
        "assay_names": pd.DataFrame(
            {
                "PUMA_ASSAY_ID": names,
                "ASSAY_NAME": [f"Planted{number}.Assay" for number in range(len(kinds))],
                "OBS_NAME": "",
                "OBS_SOURCE": "stand-in",
                "ASSAY_TYPE": kinds,
                "READOUT_TYPE": "",
            }
        ),
        "broad6k_structures": pd.DataFrame(keyed | {"pert_id": few[COMPOUND]}),
        "broad6k_assays": pd.DataFrame(keyed | {names[0]: [0, 1, 0], names[1]: [1, "", 0]}),
        "chembl2k_assays": pd.DataFrame(keyed | {"ABL1": [1, "", 0]}),
        "toxcast_assays": pd.DataFrame({"smiles": few["SMILES"], "mol_id": "", "NVS_ENZ_hAChE": [1, 0, ""]}),
    }


def _label_matrix(compounds: pd.DataFrame, tasks: list[str], labels: pd.DataFrame) -> np.ndarray:
    """Labels (n_compounds, n_tasks) as int8, -1 where not measured; a block has those of its first compound."""
    matrix = np.full((len(compounds), len(tasks)), -1, np.int8)
    row = pd.Index(compounds[COMPOUND]).get_indexer(labels[COMPOUND])
    matrix[row, pd.Index(tasks).get_indexer(labels["task"])] = labels["active"]
    codes = pd.factorize(compounds["InChIKey14"])[0]
    return matrix[np.unique(codes, return_index=True)[1][codes]]


def _write_assay_matrix(
    place: _Place,
    compounds: pd.DataFrame,
    filler: pd.DataFrame,
    tasks: pd.DataFrame,
    labels: pd.DataFrame,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """The 270-assay matrix by SMILES, planted labels for the screen's compounds and chance for the others."""
    import pyarrow as pa
    from pyarrow import csv

    described = pd.read_csv(place.path("assay_names"), dtype=str).sort_values("ASSAY_TYPE", kind="stable")
    # assays of one planted family get one type where that works out
    tasks = tasks.sort_values("family", kind="stable").head(len(described))
    described = described.head(len(tasks))
    names = tasks["task"].tolist()
    values = _label_matrix(compounds, names, labels[labels["task"].isin(names)])
    shape = (len(filler), len(names))
    others = np.where(rng.random(shape) < (values >= 0).mean(), rng.random(shape) < 0.1, -1).astype(np.int8)
    stereoisomer = pd.Index(compounds["InChIKey14"].drop_duplicates()).get_indexer(filler["InChIKey14"])
    of_block = values[~compounds["InChIKey14"].duplicated().to_numpy()]
    others[stereoisomer >= 0] = of_block[stereoisomer[stereoisomer >= 0]]
    every = np.concatenate([values, others])
    empty = (every < 0) & (np.arange(len(every)) % 2 == 0)[:, None]  # not measured is -1 in some rows, else empty
    order = rng.permutation(len(every))
    smiles = np.array([*compounds["SMILES"], *filler["SMILES"]], dtype=object)[order]
    arrays = [pa.array(smiles, type=pa.string())]
    arrays += [pa.array(every[order, index], mask=empty[order, index]) for index in range(len(names))]
    csv.write_csv(pa.table(arrays, names=["smiles", *described["PUMA_ASSAY_ID"]]), place.path("assays_270"))
    called = described["PUMA_ASSAY_ID"] + " " + described["ASSAY_NAME"]
    by_task = dict(zip(names, called.where(described["ASSAY_NAME"].notna(), described["PUMA_ASSAY_ID"]), strict=True))
    return _long(compounds, values, [by_task[name] for name in names])


def _write_chembl(place: _Place, compounds: pd.DataFrame, tasks: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The planted assays in ChEMBL's table, each family's by symbols of that family."""
    symbols = {family: iter(names.split()) for family, names in SYMBOLS.items()}
    chosen = {row.task: symbol for row in tasks.itertuples() if (symbol := next(symbols[row.family], None))}
    labels = labels[labels["task"].isin(chosen)]
    values = _label_matrix(compounds, list(chosen), labels)
    table = pd.DataFrame(values, columns=list(chosen.values())).astype("Int8").replace(-1, pd.NA)
    table.insert(0, "smiles", compounds["SMILES"])
    table.insert(1, "inchikey", compounds["InChIKey14"])
    table.to_csv(place.path("chembl2k_assays"), index=False)
    return _long(compounds, values, [f"ChEMBL {symbol}" for symbol in chosen.values()])


def _long(compounds: pd.DataFrame, values: np.ndarray, tasks: list[str]) -> pd.DataFrame:
    row, column = np.nonzero(values >= 0)
    names = compounds[COMPOUND].to_numpy(dtype=object)[row]
    return pd.DataFrame({COMPOUND: names, "task": np.array(tasks)[column], "active": values[row, column]})


def main(arguments: list[str]) -> int:
    """Write a stand-in; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write a stand-in of a public screen.")
    parser.add_argument("dataset", choices=SHAPES)
    parser.add_argument("folder")
    parser.add_argument("--share", type=float, default=1.0, help="share of the compounds")
    parser.add_argument("--all-features", action="store_true", help="the table of all CP features, too")
    parser.add_argument("--annotation-mirror", default="", help="folder with the real annotation files as HOST/PATH")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        write_stand_in(
            options.dataset,
            options.folder,
            share=options.share,
            seed=options.seed,
            all_features=options.all_features,
            annotation_mirror=options.annotation_mirror,
            keep=False,
        )
    except ScreenError as error:
        print(f"stand_ins: {error}", file=sys.stderr)
        return 2
    print(f"{options.dataset}: written below {options.folder} in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
