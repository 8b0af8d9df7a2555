"""What is known of a screen's compounds: structures, mechanisms of action, targets and assay outcomes.

Public annotation tables name compounds in three ways: Broad ids (BRD, whose first 13 characters name the
compound and whose rest names the batch), SMILES and InChIKeys. They meet here on the first block of the
InChIKey (14 characters: the skeleton without stereochemistry and charge), called a *block* below.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.profiles import ACTIVITY_COLUMNS, COMPOUND, TASK_COLUMNS, ScreenError
from cpx_utils.provenance import atomic_path

BROAD_ID_LENGTH = 13
BLOCK_LENGTH = 14


# --------------------------------------------------------------------------------------------- structures


def inchikey_blocks(smiles: Iterable[str]) -> list[str]:
    """First InChIKey block of each SMILES, ``""`` where RDKit can't read the SMILES or it is empty."""
    from rdkit import Chem, rdBase

    blocks = []
    with rdBase.BlockLogs():  # RDKit prints a line for each odd molecule
        for text in smiles:
            molecule = Chem.MolFromSmiles(text) if isinstance(text, str) and text else None
            blocks.append(Chem.MolToInchiKey(molecule)[:BLOCK_LENGTH] if molecule is not None else "")
    return blocks


def cached_inchikey_blocks(smiles: Sequence[str], cache_file: Path) -> list[str]:
    """As `inchikey_blocks`, kept in `cache_file` (parquet): thousands of keys take some seconds.

    The file's name must hold the hash of the source of `smiles`, so that another source has another cache. A
    cache that can't be read, or is not for these SMILES, is computed afresh; one that can't be written is
    done without.
    """
    smiles = [str(text) for text in smiles]
    try:
        cached = pd.read_parquet(cache_file)
        if cached["SMILES"].tolist() == smiles:
            return cached["InChIKey14"].tolist()
    except (OSError, ValueError, KeyError):
        pass
    blocks = inchikey_blocks(smiles)
    try:
        with atomic_path(cache_file) as temporary:
            pd.DataFrame({"SMILES": smiles, "InChIKey14": blocks}).to_parquet(temporary, index=False)
    except OSError:
        pass
    return blocks


def read_table(path: str | Path, columns: Sequence[str], separator: str = ",", **options) -> pd.DataFrame:
    """Read an annotation table and make sure of its columns.

    Raises
    ------
    ScreenError
        If the file is no such table or lacks a column: an unverified newer release may differ.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, sep=separator, low_memory=False, **options)
    except (OSError, EOFError, ValueError) as error:
        raise ScreenError(f"{path.name}: can't be read as a table ({_one_line(error)})") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ScreenError(f"{path.name}: column {missing[0]!r} is missing; the registry's release has {list(columns)}")
    return table


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_broad_structures(ids_path: str | Path, smiles_path: str | Path) -> pd.DataFrame:
    """BRD ids with SMILES from the two parallel lists of Moshkov 2023 (16,978 CDRP compounds).

    Returns
    -------
    pandas.DataFrame
        Metadata_Compound, SMILES, InChIKey14 (``""``: the lists have none).
    """
    ids = read_table(ids_path, ["broad_id"], dtype=str)["broad_id"]
    # a SMILES holds neither quotes nor tabs, but may hold commas in extended forms
    smiles = read_table(smiles_path, ["smiles"], "\t", dtype=str, quoting=3)["smiles"]
    if len(ids) != len(smiles):
        raise ScreenError(
            f"{Path(ids_path).name} has {len(ids)} rows and {Path(smiles_path).name} {len(smiles)}; "
            "the two lists belong together row by row"
        )
    return pd.DataFrame({COMPOUND: ids.str[:BROAD_ID_LENGTH], "SMILES": smiles, "InChIKey14": ""})


def read_structure_table(path: str | Path) -> pd.DataFrame:
    """BRD ids, SMILES and InChIKey blocks of InfoAlign's structure.csv.gz; rows without id are left out."""
    table = read_table(path, ["pert_id", "smiles", "inchikey"], dtype=str)
    table = table[table["pert_id"].notna()]
    return pd.DataFrame(
        {
            COMPOUND: table["pert_id"].str[:BROAD_ID_LENGTH],
            "SMILES": table["smiles"].fillna(""),
            "InChIKey14": table["inchikey"].fillna("").str[:BLOCK_LENGTH],
        }
    ).reset_index(drop=True)


def join_structures(compounds: Sequence[str], sources: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, int]:
    """Structure of each compound from the first source that has one.

    Parameters
    ----------
    compounds : sequence of str
        Ids, in the order of the result.
    sources : sequence of pandas.DataFrame
        Tables with Metadata_Compound, SMILES and InChIKey14, the most trusted first.

    Returns
    -------
    table : pandas.DataFrame
        Metadata_Compound, SMILES, InChIKey14, both ``""`` where unknown.
    conflicts : int
        Compounds for which two sources disagree in the InChIKey block.
    """
    compounds = [str(compound) for compound in compounds]
    wanted = set(compounds)
    smiles: dict[str, str] = {}
    blocks: dict[str, set] = {compound: set() for compound in compounds}
    first: dict[str, str] = {}
    for source in sources:
        rows = source[source[COMPOUND].isin(wanted)].drop_duplicates(COMPOUND).copy()
        unkeyed = (rows["InChIKey14"] == "").to_numpy()
        if unkeyed.any():
            rows.loc[unkeyed, "InChIKey14"] = inchikey_blocks(rows["SMILES"][unkeyed])
        for compound, text, block in rows[[COMPOUND, "SMILES", "InChIKey14"]].itertuples(index=False):
            if block:
                blocks[compound].add(block)
                first.setdefault(compound, block)
                smiles.setdefault(compound, text)
    table = pd.DataFrame(
        {
            COMPOUND: compounds,
            "SMILES": [smiles.get(compound, "") for compound in compounds],
            "InChIKey14": [first.get(compound, "") for compound in compounds],
        }
    )
    return table, sum(len(found) > 1 for found in blocks.values())


# --------------------------------------------------------------------------------- mechanisms and targets


def split_values(text: object) -> list[str]:
    """Values of a ``|``-joined cell, in order, without blanks and repeats; an empty cell gives ``[]``."""
    if not isinstance(text, str):
        return []
    return list(dict.fromkeys(part.strip() for part in text.split("|") if part.strip()))


def read_repurposing_hub(path: str | Path) -> pd.DataFrame:
    """Compounds of the Drug Repurposing Hub (Corsello 2017, doi 10.1038/nm.4306).

    Returns
    -------
    pandas.DataFrame
        Metadata_Compound (13 characters), SMILES, InChIKey14, MoA and target (lists); one row a distinct
        combination of compound and annotation.
    """
    wanted = ["broad_id", "moa", "target", "smiles", "InChIKey14"]
    table = read_table(path, wanted, "\t", dtype=str, quoting=3)[wanted].fillna("")
    table["broad_id"] = table["broad_id"].str[:BROAD_ID_LENGTH]
    table = table.drop_duplicates(ignore_index=True)
    return pd.DataFrame(
        {
            COMPOUND: table["broad_id"],
            "SMILES": table["smiles"],
            "InChIKey14": table["InChIKey14"],
            "MoA": table["moa"].map(split_values),
            "target": table["target"].map(split_values),
        }
    )


def annotate_mechanisms(structures: pd.DataFrame, hub: pd.DataFrame) -> pd.DataFrame:
    """Add MoA and target to compounds: the Hub's entry by compound id, else by InChIKey block.

    Entries of several batches or stereoisomers are united, in the Hub's order.

    Parameters
    ----------
    structures : pandas.DataFrame
        Metadata_Compound, SMILES, InChIKey14.
    hub : pandas.DataFrame
        As `read_repurposing_hub` returns it.

    Returns
    -------
    pandas.DataFrame
        The columns of `profiles.COMPOUND_COLUMNS`.
    """
    by_compound = _united(hub, COMPOUND)
    by_block = _united(hub[hub["InChIKey14"] != ""], "InChIKey14")
    found = [
        by_compound.get(compound) or by_block.get(block) or ([], [])
        for compound, block in zip(structures[COMPOUND], structures["InChIKey14"], strict=True)
    ]
    table = structures[[COMPOUND, "InChIKey14", "SMILES"]].copy()
    table["MoA"] = pd.Series([list(moa) for moa, _ in found], index=table.index, dtype=object)
    table["target"] = pd.Series([list(target) for _, target in found], index=table.index, dtype=object)
    return table


def _united(hub: pd.DataFrame, key: str) -> dict[str, tuple[list[str], list[str]]]:
    united: dict[str, tuple[list[str], list[str]]] = {}
    for name, moa, target in hub[[key, "MoA", "target"]].itertuples(index=False):
        known = united.setdefault(name, ([], []))
        for values, new in zip(known, (moa, target), strict=True):
            values.extend(value for value in new if value not in values)
    return united


# ------------------------------------------------------------------------------------------------- assays


@dataclass(frozen=True)
class AssayTable:
    """Assay outcomes by structure.

    Attributes
    ----------
    source : str
        Short name of the collection, for messages.
    blocks : list of str
        InChIKey block of each row.
    labels : pandas.DataFrame
        One column a task, values 1, 0 or NaN (not measured). Several rows may share a block.
    tasks : pandas.DataFrame
        task (the column names of `labels`, in order), target, family.
    """

    source: str
    blocks: list[str]
    labels: pd.DataFrame
    tasks: pd.DataFrame


def _assay_labels(table: pd.DataFrame, columns: Sequence[str], path: str | Path) -> pd.DataFrame:
    labels = table[list(columns)]
    values = labels.to_numpy(dtype=float, na_value=np.nan)
    values = np.where(values == -1, np.nan, values)  # some releases write -1 for not measured
    wrong = np.isfinite(values) & ~np.isin(values, (0, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ScreenError(
            f"{Path(path).name}: assay {columns[column]!r} has the value {values[row, column]:g} in data row "
            f"{row + 1}; outcomes are 0, 1 or empty"
        )
    return pd.DataFrame(values, columns=list(columns))


def read_broad6k(assays_path: str | Path, metadata_path: str | Path) -> AssayTable:
    """The 32 assays of InfoAlign's broad6k with the names and types of Moshkov 2023.

    The task is the PUMA id followed by the assay's name; the family is the assay's type (cell, biochem, ...),
    since the names of these assays seldom tell a protein.
    """
    table = read_table(assays_path, ["smiles", "inchikey"], dtype={"smiles": str, "inchikey": str})
    columns = [column for column in table.columns if re.fullmatch(r"\d+_\d+", column)]
    described = read_table(metadata_path, ["PUMA_ASSAY_ID", "ASSAY_NAME", "ASSAY_TYPE"], dtype=str)
    described = described.drop_duplicates("PUMA_ASSAY_ID").set_index("PUMA_ASSAY_ID").fillna("")
    names, families = described["ASSAY_NAME"], described["ASSAY_TYPE"]
    tasks = pd.DataFrame(
        {
            "task": [
                f"{column} {names[column]}" if names.get(column, column) not in ("", column) else column
                for column in columns
            ],
            "target": "",
            "family": [families.get(column, "") or "other" for column in columns],
        }
    )
    labels = _assay_labels(table, columns, assays_path).set_axis(tasks["task"], axis=1)
    return AssayTable("broad6k", table["inchikey"].fillna("").tolist(), labels, tasks)


def read_toxcast(path: str | Path, cache_file: Path) -> AssayTable:
    """The 617 ToxCast assays of InfoAlign's moltoxcast (8,576 SMILES; families by `toxcast_family`)."""
    table = read_table(path, ["smiles"], dtype={"smiles": str, "mol_id": str})
    columns = [column for column in table.columns if column not in ("smiles", "mol_id")]
    tasks = pd.DataFrame(
        {
            "task": columns,
            "target": [toxcast_target(column) for column in columns],
            "family": [toxcast_family(column) for column in columns],
        }
    )
    blocks = cached_inchikey_blocks(table["smiles"].fillna("").tolist(), cache_file)
    return AssayTable("ToxCast", blocks, _assay_labels(table, columns, path), tasks)


def read_chembl2k(path: str | Path) -> AssayTable:
    """The 41 protein targets of InfoAlign's chembl2k (task ``ChEMBL SYMBOL``, family by `target_family`)."""
    names = ["smiles", "inchikey", "Metadata_JCP2022", "ChEMBL_ID"]
    table = read_table(path, names[:2], dtype=dict.fromkeys(names, str))
    columns = [column for column in table.columns if column not in names]
    tasks = pd.DataFrame(
        {
            "task": [f"ChEMBL {symbol}" for symbol in columns],
            "target": columns,
            "family": [target_family(symbol) for symbol in columns],
        }
    )
    labels = _assay_labels(table, columns, path).set_axis(tasks["task"], axis=1)
    return AssayTable("ChEMBL", table["inchikey"].fillna("").tolist(), labels, tasks)


def outcomes(assays: AssayTable, compounds: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Outcomes of a screen's compounds in a collection of assays.

    Rows of one InChIKey block (stereoisomers, salts) are one answer: active if any of them is active. Every
    compound of the block receives it.

    Parameters
    ----------
    assays : AssayTable
    compounds : pandas.DataFrame
        Metadata_Compound and InChIKey14 (``""`` for compounds without a structure, which get no label).

    Returns
    -------
    activity : pandas.DataFrame
        Metadata_Compound, task, active (int8), ordered by compound, then task.
    tasks : pandas.DataFrame
        Those tasks of the collection that reach at least one compound.
    conflicts : int
        Pairs of a block and a task whose rows held both 0 and 1.
    """
    keyed = compounds.loc[compounds["InChIKey14"] != "", [COMPOUND, "InChIKey14"]]
    blocks = np.asarray(assays.blocks, dtype=object)
    kept = np.isin(blocks, keyed["InChIKey14"].to_numpy(dtype=object))
    grouped = assays.labels[kept].groupby(blocks[kept])
    active, least = grouped.max(), grouped.min()
    conflicts = int(((active == 1) & (least == 0)).to_numpy().sum())
    rows = keyed[keyed["InChIKey14"].isin(active.index)]
    wide = active.loc[rows["InChIKey14"]].to_numpy()  # (n_compounds reached, n_tasks)
    compound, task = np.nonzero(np.isfinite(wide))
    activity = pd.DataFrame(
        {
            COMPOUND: rows[COMPOUND].to_numpy()[compound],
            "task": assays.tasks["task"].to_numpy()[task],
            "active": wide[compound, task].astype(np.int8),
        },
        columns=ACTIVITY_COLUMNS,
    )
    tasks = assays.tasks.iloc[np.unique(task)].reset_index(drop=True)[TASK_COLUMNS]
    return activity, tasks, conflicts


# ----------------------------------------------------------------------------------------- target families

# Patterns of HGNC symbols (regular expressions, separated by blanks). The families are tried in this order;
# the first with a pattern that matches the whole symbol decides: ligand-gated channels stand before the
# receptors that share their stem (HTR3A before HTR1A, CHRNA7 before CHRM1), and epigenetic writers, readers
# and erasers before the enzymes they also are. A subunit has the family of its complex (PIK3R1: kinase).
FAMILY_RULES: dict[str, str] = {
    "cytochrome P450": r"CYP\d+[A-Z]*\d*",
    "phosphodiesterase": r"PDE\d+[A-D]?",
    "nuclear receptor": r"""
        NR\d[A-Z]\d ESR[12] ESRR[ABG] AR PGR PPAR[ADG] RAR[ABG] RXR[ABG] THR[AB] VDR ROR[ABC] HNF4[AG]
    """,
    "ion channel": r"""
        KCN[A-Z]+\d+ SCN\d+[AB] SCNN1[ABDG] CACN[AGB]\d*[A-Z]? CACNA2D\d TRP[ACMV]\d MCOLN\d
        GRI[AKN]\d[A-D]? GRID\d GABR[ABDEGPQR]\d? GLRA\d GLRB CHRN[ABDEG]\d* HTR3[A-E] P2RX\d CFTR ASIC\d
        HCN\d RYR\d ITPR\d CLCN[A-Z0-9]+ ANO[12] ORAI\d PIEZO\d VDAC\d CNG[AB]\d
    """,
    "transporter": r"SLC\d+[A-Z]+\d+ SLCO\d[A-Z]\d ABC[A-G]\d+ ATP\d+[A-Z]\d* SV2[ABC] TSPO MPC\d",
    "GPCR": r"""
        ADR[AB]\d[A-D]? DRD\d HTR\d[A-F]? CHRM\d HRH\d OPR[DKLM]1 ADORA\d[AB]? CNR[12] MC\dR PTG[DFI]R2?
        PTGER\d TBXA2R AGTR\d EDNR[AB] TACR\d NPY\dR CCR\d+ CXCR\d CCK[AB]R AVPR\d[AB]? OXTR SSTR\d GRM\d
        GABBR\d GLP\dR GCGR GIPR SCTR CRHR\d LPAR\d S1PR\d P2RY\d+ F2R F2RL\d FFAR\d GPR\d+ GPER1? GPRC\w+
        GPBAR1 SMO FZD\d+ HCRTR\d MTNR1[AB] TSHR LHCGR FSHR CASR GNRHR GHSR GHRHR VIPR\d ADCYAP1R1 PTH\dR
        CALCR CALCRL BDKRB\d C[35]AR\d FPR\d LTB4R2? CYSLTR\d NTSR\d GALR\d TAAR\d MLNR TAS[12]R\d+ BRS3
        GRPR NMBR PTAFR UTS2R HCAR\d OXER1 MRGPR\w+ RXFP\d PRLHR QRFPR KISS1R MCHR\d XCR1 ACKR\d SUCNR1 TRHR
        NPFFR\d PROKR\d OR\d+[A-Z]+\d+
    """,
    "epigenetic": r"""
        HDAC\d+ SIRT\d KDM\d[A-D]? KMT\d[A-E]? EZH\d DNMT\d[ABL]? BRD[1-4789] BRDT EHMT\d SETD\w+ SMYD\d
        PRMT\d CARM1 DOT1L EP300 CREBBP KAT\d+[AB]? HAT1 SUV39H\d NSD\d WDR5 L3MBTL\d TET\d CBX\d ATAD2B?
        EED SUZ12 MEN1 BAZ\d[AB] CECR2 BPTF TAF1
    """,
    "kinase": r"""
        ABL[12] AKT\d ALK AURK[ABC] AXL [AB]RAF RAF1 BTK CDK\d+[AB]? CDKL\d CHEK[12] CLK\d CSF1R CSK CSNK\w+
        DAPK\d DDR[12] DYRK\w+ EGFR EPH[AB]\d+ ERBB[234] FGFR\d FLT[134] FYN FGR FER FES FRK GSK3[AB] GRK\d
        GAK HCK HIPK\d IGF1R IKBK[BE] CHUK INSR INSRR IRAK\d ITK ILK JAK\d KDR KIT LCK LIMK\d LRRK\d LYN
        LATS\d MAP[234]K\d+ MAPK\d+ MAPKAPK\d MARK\d MELK MERTK MET MST1R MKNK\d MTOR MUSK NEK\d+ NTRK\d
        NUAK\d PAK\d PASK PBK PDGFR[AB] PDPK\d PDK\d PHKG\d PIK3C\w+ PIK3R\d PI4K\w+ PIP[45]K\w+ PIM\d PKN\d
        PKMYT1 PLK\d PRKA[AC]\w+ PRKAB\d PRKAG\d PRKC[A-Z] PRKD\d PRKDC PRKG\d PRKX PTK2B? PTK[67] RET
        RIPK\d ROCK\d ROS1 RPS6K\w+ SGK\d SIK\d SLK SRC SRPK\d STK\d+[A-Z]* SYK TAOK\d TBK1 TEC TEK TESK\d
        TGFBR[12] TIE1 TLK\d TNIK TNK\d TTK TXK TYK2 TYRO3 ULK\d VRK\d WEE1 WNK\d YES1 ZAP70 ACVR\w+ ATM ATR
        BMPR\w+ BLK BMX BUB1B? CAMK\w+ CDC7 CDC42BP[ABG] DCLK\d EIF2AK\d ERN1 AAK1 AMHR2 OXSR1 PINK1 SPHK\d
        DGK[A-Z] MINK1 MYLK\d? HUNK LTK
    """,
    "protease": r"""
        CASP\d+ CTS[A-Z]\d? MMP\d+ ADAM\d+ ADAMTS\d+ BACE\d DPP\d+ F(2|7|9|10|11|12) PLG PLA[UT] PRSS\d+
        KLK\d+ KLKB1 ELANE ACE2? ECE\d MME REN PSM[AB]\d+ PSEN\d NCSTN CAPN\d+ USP\d+ UCHL\d FAP PCSK\d
        TPSAB1 TPSB2 TMPRSS\d+ HTRA\d FURIN LGMN ANPEP ERAP\d METAP\d GZM[ABHKM] CMA1 PREP CP[AB]\d LAP3 IDE
        TPP\d RCE1 MALT1
    """,
    "other enzyme": r"""
        ACHE BCHE CA\d+[AB]? PTGS\d PTGES\d? PTGIS TBXAS1 ALOX\w+ MAO[AB] COMT NOS\d HMGC[RS]\d? DHFR TYMS
        TOP\d[AB]? TOP\dMT PARP\d+ TNKS\d? ALDH\w+ ADH\w+ AKR\w+ HSD\d+B\d+ HPRT1 IMPDH\d IDO\d TDO2 GAA GLA
        GBA\d? LDH[ABC] SOD\d XDH FDFT1 SQLE LSS DHCR\d+ EBP ODC1 ARG\d RRM\d[AB]? POL[A-Z]\d? FAAH2? MGLL
        PLA2\w+ PLC\w+ PLD\d CES\d EPHX\d GST\w+ UGT\w+ SULT\w+ TPH\d TH TYR DDC DBH ADA ADK PNP NAMPT
        AMPD\d DHODH UMPS GART ATIC FASN ACAC[AB] ACLY CPT\w+ SCD PTPN\d+ PTPR[A-Z]\d? PTEN DUSP\d+ PPP\d\w+
        CDC25[ABC] IDH\d GLS2? GLUL GLUD\d ENPP\d AOC\d CBR\d LTA4H LTC4S HDC KMO KYNU CAT PON\d LPL
        LIP[A-Z] PNLIP TPO SOAT\d DGAT\d MGAM SI AMY\w+ NEU\d HEX[AB] OGA OGT SRD5A\d STS CBS CTH BLVR[AB]
        HMOX\d TXNRD\d GSR NQO\d G6PD PGD ENO\d GAPDH HK\d GCK PFK[LMP] PFKFB\d PKM PKLR GUCY\w+ ADCY\d+
        TGM\d PADI\d LOX LOXL\d P4HA\d EGLN\d FTO NMT\d ICMT FNT[AB] GGPS1 FDPS NAT\d+ HPD HGD ALAS\d ALAD
        UROD MPO DAO ASAH\d SMPD\d IMPA\d INPP\w+ GLO1 AHCY PNMT MTHFR MTR MAT\d[AB] DPYD DCK TK\d UPP\d
        RNASEL PHGDH
    """,
}
FAMILIES = (*FAMILY_RULES, "other")
_COMPILED_RULES = {family: re.compile("|".join(rules.split())) for family, rules in FAMILY_RULES.items()}


def target_family(symbol: str) -> str:
    """Target family of a human gene symbol.

    Parameters
    ----------
    symbol : str
        HGNC symbol, in capitals.

    Returns
    -------
    str
        One of `FAMILIES`: cytochrome P450, phosphodiesterase, nuclear receptor, ion channel, transporter,
        GPCR, epigenetic, kinase, protease, other enzyme, or other (no rule matches). Proteins that are none
        of these (MCL1, TUBB, SIGMAR1) are other.
    """
    for family, pattern in _COMPILED_RULES.items():
        if pattern.fullmatch(symbol):
            return family
    return "other"


# NovaScreen assays are named NVS_<class>_<species letters><target>; the class ENZ mixes enzyme families,
# which these stems of the target's name tell apart.
_NOVASCREEN_CLASSES = {
    "GPCR": "GPCR",
    "NR": "nuclear receptor",
    "ADME": "cytochrome P450",
    "TR": "transporter",
    "LGIC": "ion channel",
    "IC": "ion channel",
    "MP": "other",
    "OR": "other",
    "ENZ": "other enzyme",
}
_NOVASCREEN_ENZYMES = (
    ("kinase", r"AMPK|Aur[AB]|CK1|FGFR|GSK3|PI3K|Trk|VEGFR"),
    ("protease", r"BACE|CASP|Elastase|MMP"),
    ("phosphodiesterase", r"PDE"),
    ("epigenetic", r"SIRT"),
)


def toxcast_target(assay: str) -> str:
    """Target in the name of a NovaScreen assay, without the species letter; ``""`` for all other assays."""
    match = re.fullmatch(r"NVS_[A-Z]+_(?:rab|rm|[a-z])(.+)", assay)
    return match.group(1) if match else ""


def toxcast_family(assay: str) -> str:
    """Family of a ToxCast assay.

    NovaScreen names (``NVS_``) tell the target class; all other assays take their source's short name as
    family (ATG, APR, BSK, TOX21, ...), because one source is one kind of readout.
    """
    parts = assay.split("_")
    if parts[0] != "NVS" or len(parts) < 3:
        return parts[0] or "other"
    if parts[1] == "ENZ":
        for family, pattern in _NOVASCREEN_ENZYMES:
            if re.match(pattern, toxcast_target(assay)):
                return family
    return _NOVASCREEN_CLASSES.get(parts[1], "other")
