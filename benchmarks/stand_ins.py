"""Write stand-ins of the public screens: files of their names, columns and oddities, filled by the simulator.

python benchmarks/stand_ins.py cdrp-bio DIR                    # full size
python benchmarks/stand_ins.py cdrp-u2os DIR --compounds 500

DIR is laid out as HOST/PATH; read it by ``run_all.py --dataset NAME --mirror DIR --unverified``. The truth behind the
profiles (MoAs, assays) is planted in the annotation files, so that what the study finds can be held against it.
"""

import argparse
import gzip
import shutil
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils import simulation
from cpx_utils.datasets import DATASETS
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, METADATA_COLUMNS, PLATE, WELL, feature_columns, inchikey


@dataclass(frozen=True)
class Shape:
    """The size of a screen: compounds measured in both modalities and in one, and what is measured of each."""

    n_paired: int
    n_cp_only: int
    n_tx_only: int
    doses: tuple[float, ...]
    n_cp_replicates: int
    n_tx_replicates: int
    n_cp_features: int
    n_genes: int
    preset: str = "cdrp-bio"
    n_moas: int = 40
    n_tasks: int = 64


SHAPES = {
    "cdrp-u2os": Shape(9515, 0, 0, (10.0,), 4, 2, 812, 978, n_moas=200, n_tasks=270),
    "cdrp-bio": Shape(735, 465, 865, (1.11, 9.99), 8, 2, 601, 977),
    "lincs-pilot1": Shape(1400, 170, 0, (0.04, 0.12, 0.37, 1.11, 3.33, 10.0, 20.0), 5, 3, 119, 978, "lincs", 80),
    "ta-orf": Shape(300, 24, 27, (1.0,), 5, 2, 63, 978),
}
# Positions of the CP features that hold nothing, one value, and infinite values and gaps.
EMPTY, CONSTANT, INFINITE = 2, 3, 4
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


@dataclass(frozen=True)
class StandIn:
    """What was planted, as it should be read.

    Attributes
    ----------
    cp, tx : pandas.DataFrame
        Wells as in a `Screen`, repeated ones left out.
    compounds : pandas.DataFrame
        Metadata_Compound, SMILES, InChIKey14, MoA (lists), cp and tx (whether measured).
    activity : pandas.DataFrame
        Metadata_Compound, task (as the reader calls it), active.
    """

    cp: pd.DataFrame
    tx: pd.DataFrame
    compounds: pd.DataFrame
    activity: pd.DataFrame


def write_stand_in(dataset: str, folder: str | Path, n_compounds: int | None = None, seed: int = 0, **less) -> StandIn:
    """Write the files of a screen of the registry below `folder`, laid out as a mirror.

    Parameters
    ----------
    dataset
        A key of `SHAPES`.
    folder
        Where the mirror goes; another screen takes another folder, since annotation files have the same names.
    n_compounds
        How many compounds instead of the screen's, one-sided ones in proportion.
    seed
        The same seed writes the same profiles.
    **less
        Fields of `Shape` or knobs of `cpx_utils/simulation.toml`, for quick tests.
    """
    shape = SHAPES[dataset]
    counts = {name: getattr(shape, name) for name in ("n_paired", "n_cp_only", "n_tx_only")}
    share = n_compounds / sum(counts.values()) if n_compounds else 1
    counts = {name: max(round(count * share), 2 * (count > 0)) for name, count in counts.items()}
    shape = replace(shape, **counts, **{name: less.pop(name) for name in set(less) & set(Shape.__dataclass_fields__)})
    n = sum(counts.values())
    rng = np.random.default_rng([seed, 4])
    settings = simulation.simulation_settings(
        "default", shape.preset, **{"n_compounds": n, "doses": shape.doses, "n_cp_replicates": shape.n_cp_replicates,
        "n_tx_replicates": shape.n_tx_replicates, "n_cp_features": shape.n_cp_features, "n_genes": shape.n_genes,
        "n_moas": min(shape.n_moas, n // 4), "n_tasks": shape.n_tasks, "n_control_wells": 20} | less,
    )  # fmt: skip
    truth = simulation.simulate_truth(settings, seed)
    compounds = _compounds(dataset, truth["moa"], rng).assign(
        cp=np.arange(n) < n - counts["n_tx_only"],
        tx=(np.arange(n) < counts["n_paired"]) | (np.arange(n) >= n - counts["n_tx_only"]),
    )
    truth["compound"] = compounds[COMPOUND].to_numpy(dtype=object)
    tables = {}
    for kind, draw in (("cp", simulation._cell_painting_wells), ("tx", simulation._transcriptomics_wells)):
        wells = draw(settings, truth, rng)
        measured = compounds.loc[compounds[kind], COMPOUND]
        tables[kind] = wells[wells[CONTROL] | wells[COMPOUND].isin(measured)].reset_index(drop=True)
    tables["tx"] = tables["tx"].rename(columns={feature_columns(tables["tx"])[-1]: "HLA-DMA"})
    paths = {file.role: Path(folder) / file.mirror_path for file in DATASETS[dataset].files}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_consensus if dataset == "cdrp-u2os" else _write_rosetta
    planted = [write(dataset, paths, kind, table, compounds, rng) for kind, table in tables.items()]
    activity = pd.DataFrame(columns=[COMPOUND, "task", "active"])
    if "hub" in paths:
        activity = _write_annotation(dataset, paths, compounds, *simulation._assays(settings, truth, rng))
    return StandIn(*planted, compounds, activity)


def _compounds(dataset: str, moa: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Ids, structures of different skeleton, and MoAs; alleles have an id alone."""
    n = len(moa)
    ids = [f"BRD-{'AKM'[number % 3]}{10_000_000 + 137 * number:08d}" for number in range(n)]
    names = [[f"mechanism {number + 1:03d}"] for number in moa]
    known: dict[str, str] = {}
    if dataset == "ta-orf":
        ids, names = [f"ccsbBroad304_{number:05d}" for number in range(1, n + 1)], [[] for _ in moa]
    else:
        parts = (simulation.NAMES["cores"], simulation.NAMES["substituents"], ("", "C", "CC", "N"))
        parts += (simulation.NAMES["substituents"],)
        pool = [core.format(a=a, b=linker + b) for core, a, linker, b in product(*parts)]
        for smiles in rng.permutation(pool):
            known.setdefault(inchikey(str(smiles))[:14], str(smiles))
            if len(known) == n + 5:  # some are of no compound of the screen
                break
        known.pop("", None)
    structures = pd.DataFrame({"SMILES": list(known.values())[:n] or "", "InChIKey14": list(known)[:n] or ""}, range(n))
    return pd.DataFrame({COMPOUND: ids, "MoA": names}).join(structures)


# --- profiles --------------------------------------------------------------------------------------------------


def _write_consensus(
    dataset: str, paths: dict, kind: str, wells: pd.DataFrame, compounds: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    """One profile a compound, less its plate's mean of controls, as an R data frame with compounds as row names."""
    import rdata

    features = feature_columns(wells)
    reference = wells[wells[CONTROL]].groupby(PLATE)[features].mean().loc[wells[PLATE]].to_numpy()
    values = pd.DataFrame(wells[features].to_numpy() - reference, columns=features)[~wells[CONTROL]]
    table = values.groupby(wells.loc[~wells[CONTROL], COMPOUND].to_numpy(dtype=object)).mean().astype(np.float32)
    table = table.loc[compounds[COMPOUND]]
    table.index = pd.Index(table.index.to_numpy(dtype=object), dtype=object)
    in_r = table.astype(np.float64).set_axis([name.replace("-", ".") for name in table], axis=1)  # as R writes names
    in_r.columns = in_r.columns.astype(object)
    plain = paths[kind].with_suffix(".plain")
    rdata.write_rda(plain, {f"{kind}_complete": in_r}, compression=None)  # the writer's own would take minutes
    with open(plain, "rb") as content, gzip.open(paths[kind], "wb", compresslevel=1) as handle:
        shutil.copyfileobj(content, handle, 1 << 20)
    plain.unlink()
    blank = {PLATE: "", WELL: "", DOSE: np.nan, CONTROL: False}
    return table.rename_axis(COMPOUND).reset_index().assign(**blank)[[*METADATA_COLUMNS, *table.columns]]


def _third_digit(dose: float) -> float:
    """A dose whose third significant digit is one more."""
    return dose + 10.0 ** (np.floor(np.log10(dose)) - 2)


def _write_rosetta(
    dataset: str, paths: dict, kind: str, wells: pd.DataFrame, compounds: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    """A replicate-level CSV table, spoilt as the real ones are; of CP that of some features, and that of all."""
    names, features = DATASETS[dataset].columns[kind], wells[feature_columns(wells)].copy()
    known = compounds.set_index(COMPOUND).loc[wells[COMPOUND].where(~wells[CONTROL], compounds[COMPOUND].iat[0])]
    number, control = np.arange(len(wells)), wells[CONTROL].to_numpy()
    dose = wells[DOSE].where(~control, 1.0).to_numpy()
    if kind == "cp":
        features.iloc[:, EMPTY], features.iloc[:, CONSTANT] = np.float32(np.nan), np.float32(0.5)
        spoilt = rng.choice(len(wells), 6, replace=False)
        features.iloc[spoilt, INFINITE] = np.array([np.inf, -np.inf, np.inf, -np.inf, np.nan, np.nan], np.float32)
        plates = [f"P{code}A" if code % 7 == 6 else str(24_000 + code) for code in pd.factorize(wells[PLATE])[0]]
    else:
        dose, plates = np.array([_third_digit(value) for value in dose]), wells[PLATE].tolist()
    expected = pd.DataFrame({PLATE: plates, WELL: wells[WELL] if "well" in names else ""})
    expected[COMPOUND] = wells[COMPOUND].where(~control, "DMSO" if "hub" in paths else "negcon")
    as_cp = np.full(len(wells), True) if kind == "cp" else known["cp"].to_numpy()  # a dose that CP has, too, is CP's
    nominal = wells[DOSE].where(as_cp, [float(f"{value:.3g}") for value in dose])
    expected[DOSE] = nominal.where(~control & ("hub" in paths))
    expected[CONTROL] = control
    ids = [f"{name}-{index % 3 + 1:03d}-0{index % 5}-{index % 9}" for index, name in enumerate(wells[COMPOUND])]
    ids = ids if (dataset, kind) == ("cdrp-bio", "cp") else wells[COMPOUND]
    keys = ids if dataset == "ta-orf" else [f"{name}_{value:.3g}" for name, value in zip(ids, dose, strict=True)]
    spelling = np.where(control, number % 5, -1)  # how a control is known: by key (three), control_type, pert_type
    prefix = "Metadata_" if kind == "cp" else ""
    written = {
        "plate": [f"{plate}.0" if index % 2 and plate.isdigit() else plate for index, plate in enumerate(plates)],
        "well": wells[WELL],
        "treatment": np.select([spelling == value for value in range(5)], ["DMSO", "negcon", "NegCon", "", ""], keys),
        "dose": np.where(control, "-666", [f"{value * 1.0003:.6g}" for value in dose]),
        "smiles": np.where(control, "", known["SMILES"]),
        "name": "some name",
    }
    metadata = pd.DataFrame({column: written[meaning] for meaning, column in names.items()})
    metadata[f"{prefix}control_type"] = np.where(spelling == 3, "negcon", "")
    metadata[f"{prefix}pert_type"] = np.where(spelling == 4, "control", np.where(control, "", "trt"))
    metadata[f"{prefix}mixed"] = np.array(["3.0", "3", "word"])[number % 3]
    if kind == "tx":
        probes = [f"{200_000 + 3 * code}{'_s' if code % 4 == 0 else ''}_at" for code in range(features.shape[1])]
        pd.DataFrame({"probe_id": probes, "symbol": list(features)}).to_excel(paths["idmap"], index=False)
    table = features.set_axis(probes, axis=1) if kind == "tx" else features
    whole = pd.concat([metadata, table], axis=1)
    if "well" in names:  # without wells nobody can tell a repeat from a replicate
        whole = pd.concat([whole, whole.head(2)])
    whole.to_csv(paths[kind], index=False, na_rep="nan", compression={"method": "gzip", "compresslevel": 1})
    informative = features.columns.delete([EMPTY, CONSTANT]) if kind == "cp" else features.columns
    return pd.concat([expected, features[informative].replace([np.inf, -np.inf], np.nan)], axis=1)


# --- annotation ------------------------------------------------------------------------------------------------


def _write_annotation(
    dataset: str, paths: dict, compounds: pd.DataFrame, tasks: pd.DataFrame, labels: pd.DataFrame
) -> pd.DataFrame:
    """All annotation files: MoAs in the Hub, assays in the 270-assay matrix or ChEMBL's table, hardly any elsewhere.

    Returns
    -------
    pandas.DataFrame
        The planted labels: Metadata_Compound, task as its reader calls it, active.
    """
    few = compounds.head(3)
    keyed = {"smiles": few["SMILES"], "inchikey": few["InChIKey14"]}
    kinds = np.repeat(["cell", "biochem", "bacterial", "yeast", "fungal", "viral"], [156, 59, 30, 18, 3, 4])
    puma = [f"{100 + number}_{600 + number}" for number in range(len(kinds))]
    names = [f"Planted{number}.Assay" for number in range(len(kinds))]
    hub = {
        "broad_id": compounds[COMPOUND] + "-001-01-1",
        "pert_iname": "some name",
        "moa": compounds["MoA"].str[0],
        "target": compounds["MoA"].str[0].str.replace("mechanism ", "TARGET"),
        "smiles": compounds["SMILES"],
        "InChIKey": compounds["InChIKey14"] + "-UHFFFAOYSA-N",
        "InChIKey14": compounds["InChIKey14"],
    }
    tables = {
        "hub": pd.DataFrame(hub),
        "broad_ids": pd.DataFrame({"broad_id": compounds[COMPOUND]}),
        "broad_smiles": pd.DataFrame({"smiles": compounds["SMILES"]}),
        "assay_names": pd.DataFrame({"PUMA_ASSAY_ID": puma, "ASSAY_NAME": names, "OBS_NAME": "", "ASSAY_TYPE": kinds}),
        "broad6k_structures": pd.DataFrame(keyed | {"pert_id": few[COMPOUND]}),
        "broad6k_assays": pd.DataFrame(keyed | {puma[0]: [0, 1, 0], puma[1]: [1, "", 0]}),
        "chembl2k_assays": pd.DataFrame(keyed | {"ABL1": [1, "", 0]}),
        "toxcast_assays": pd.DataFrame({"smiles": few["SMILES"], "mol_id": "", "NVS_ENZ_hAChE": [1, 0, ""]}),
    }
    if dataset == "cdrp-u2os":
        columns, called = puma, [f"{assay} {name}" for assay, name in zip(puma, names, strict=True)]
        planted, keyed, role, missing = tasks["task"], ["SMILES"], "assays_270", -1
    else:
        free = {family: iter(symbols.split()) for family, symbols in SYMBOLS.items()}
        columns = [next(free[family]) for family in tasks["family"]]
        planted, keyed, role, missing = tasks["task"], ["SMILES", "InChIKey14"], "chembl2k_assays", None
        called = [f"ChEMBL {symbol}" for symbol in columns]
    names = dict(zip(planted, called, strict=False))
    values = labels.pivot(index=COMPOUND, columns="task", values="active").reindex(compounds[COMPOUND])[list(names)]
    wide = values.set_axis(columns[: len(names)], axis=1).reset_index(drop=True)
    wide.iloc[::2] = wide.iloc[::2].fillna(missing) if missing else wide.iloc[::2]  # -1 in some rows, else empty
    table = pd.concat([compounds[keyed], wide], axis=1)
    tables[role] = table.rename(columns={"SMILES": "smiles", "InChIKey14": "inchikey"})
    for name in tables.keys() & paths.keys():
        tables[name].to_csv(paths[name], sep="\t" if name in ("hub", "broad_smiles") else ",", index=False)
    return labels[labels["task"].isin(list(names))].assign(task=lambda rows: rows["task"].map(names))


def main() -> None:
    """Write a stand-in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=SHAPES)
    parser.add_argument("folder")
    parser.add_argument("--compounds", type=int, help="how many compounds (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_stand_in(options.dataset, options.folder, n_compounds=options.compounds, seed=options.seed)


if __name__ == "__main__":
    main()
