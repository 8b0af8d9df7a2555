"""Structures, mechanisms and assay outcomes of compounds, and the families of targets."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from cpx_utils import annotation, profiles
from cpx_utils.profiles import COMPOUND, TASK_COLUMNS, ScreenError

ASPIRIN, CAFFEINE = "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"
ASPIRIN_BLOCK, CAFFEINE_BLOCK = "BSYNRYMUTXBXSQ", "RYYVLZVUVIJVGH"  # PubChem CIDs 2244 and 2519


def test_structures_come_from_the_first_source_that_knows():
    first = pd.DataFrame({COMPOUND: ["a", "b"], "SMILES": [ASPIRIN, "nonsense"], "InChIKey14": ""})
    second = {"SMILES": [CAFFEINE, CAFFEINE, ASPIRIN], "InChIKey14": [CAFFEINE_BLOCK, CAFFEINE_BLOCK, ASPIRIN_BLOCK]}
    second = pd.DataFrame({COMPOUND: ["a", "b", "x"]} | second)
    table = annotation.join_structures(["a", "b", "c"], [first, second])
    known = table[[COMPOUND, "SMILES", "InChIKey14"]].values.tolist()
    assert known == [["a", ASPIRIN, ASPIRIN_BLOCK], ["b", CAFFEINE, CAFFEINE_BLOCK], ["c", "", ""]]


HUB = (
    "broad_id\tmoa\ttarget\tsmiles\tInChIKey14\n"
    f"BRD-K00000001-001-01-1\tcyclooxygenase inhibitor\tPTGS1|PTGS2\t{ASPIRIN}\t{ASPIRIN_BLOCK}\n"
    f"BRD-K00000001-002-01-1\tcyclooxygenase inhibitor|analgesic\tPTGS1\t{ASPIRIN}\t{ASPIRIN_BLOCK}\n"
    f"BRD-K00000002-001-01-1\t\tADORA1\t{CAFFEINE}\t{CAFFEINE_BLOCK}\n"
    f"BRD-K00000003-001-01-1\tadenosine antagonist\tADORA2A\t{CAFFEINE}\t{CAFFEINE_BLOCK}\n"
)


def test_mechanisms_by_id_then_by_block_each_for_itself(tmp_path):
    (tmp_path / "hub.tsv").write_text(HUB)
    hub = annotation.read_repurposing_hub(tmp_path / "hub.tsv")
    ids, blocks = ["BRD-K00000001", "other", "BRD-K00000002", "none"], ["", ASPIRIN_BLOCK, CAFFEINE_BLOCK, ""]
    structures = pd.DataFrame({COMPOUND: ids, "InChIKey14": blocks, "SMILES": ""})
    table = annotation.annotate_mechanisms(structures, hub)
    both = ["cyclooxygenase inhibitor", "analgesic"]
    assert table["MoA"].tolist() == [both, both, ["adenosine antagonist"], []]
    assert table["target"].tolist() == [["PTGS1", "PTGS2"], ["PTGS1", "PTGS2"], ["ADORA1"], []]
    table["MoA"][0].append("changed")
    assert table["MoA"][1] == both  # the lists are not shared


# ------------------------------------------------------------------------------------------------- outcomes


def collection(rows: list[tuple], names: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels and tasks as of `read_assays`; rows of key, block and outcomes."""
    index = [[row[0] for row in rows], [row[1] for row in rows]]
    tasks = pd.DataFrame({"task": names, "target": "", "family": "cell", "source": "test"})
    return pd.DataFrame([row[2:] for row in rows], columns=names, index=index, dtype=float), tasks


def naive_outcomes(labels: pd.DataFrame, compounds: pd.DataFrame) -> tuple[list, Counter]:
    """Labels and conflicts, compound by compound and task by task."""
    found, conflicts = [], Counter()
    for compound, block, key in compounds[[COMPOUND, "InChIKey14", "SMILES"]].itertuples(index=False):
        for task in labels:
            values = labels[task].dropna()
            own = {value for (k, _), value in values.items() if key and k == key}
            kin = {value for (_, b), value in values.items() if block and b == block}
            conflicts[task] += len(own or kin) == 2
            if own or len(kin) == 1:
                found.append((compound, task, int(max(own or kin))))
    return found, conflicts


@pytest.mark.parametrize("seed", range(3))
def test_outcomes_equal_a_naive_loop(seed, monkeypatch):
    rng = np.random.default_rng(seed)

    def structures(n: int) -> list[tuple[str, str]]:  # one in ten has no key, and half of these no block either
        drawn = [f"BLOCK{number}-{isomer}" for number, isomer in zip(rng.integers(8, size=n), "abc" * n, strict=False)]
        hidden = zip(drawn, rng.random(n), strict=True)
        return [("" if share < 0.1 else key, "" if share < 0.05 else key[:6]) for key, share in hidden]

    names = [f"t{number}" for number in range(6)]
    values = rng.choice([0, 1, np.nan], size=(40, 6), p=[0.25, 0.15, 0.6])
    labels, tasks = collection([(*pair, *row) for pair, row in zip(structures(40), values, strict=True)], names)
    compounds = pd.DataFrame(structures(30), columns=["SMILES", "InChIKey14"])
    compounds.insert(0, COMPOUND, [f"c{number:02d}" for number in range(30)])
    monkeypatch.setattr(annotation, "inchikey", str)  # here the SMILES are the keys
    activity, reached = annotation.outcomes(labels, tasks, compounds)
    expected, conflicts = naive_outcomes(labels, compounds)
    assert list(activity.itertuples(index=False, name=None)) == expected and len(expected) > 30
    counted = dict(zip(reached["task"], reached["conflicts"], strict=True))
    assert counted == {task: conflicts[task] for task in names if task in set(activity["task"])}


ASSAY_NAMES = (
    "PUMA_ASSAY_ID,ASSAY_NAME,ASSAY_TYPE\n220_692,220_692,biochem\n277_756,MLPCN CFTR,cell\n"
    "260_738,MLPCN HDL Receptor,cell\n116_411,Phosphodiesterase.Absorb.600,yeast\n"
)


def test_the_270_assays_have_keys_names_and_families(tmp_path):
    paths = [tmp_path / "matrix.csv", tmp_path / "names.csv"]
    paths[0].write_text(f"smiles,220_692,277_756,260_738,116_411,9_9\n{ASPIRIN},1.0,,-1,0,0\nno molecule,1,1,1,1,1\n")
    paths[1].write_text(ASSAY_NAMES)
    labels, tasks = annotation.read_assays("Moshkov 270", paths)
    assert labels.index.tolist() == [(profiles.inchikey(ASPIRIN), ASPIRIN_BLOCK), ("", "")]
    assert tasks.drop(columns="source").values.tolist() == [
        ["220_692", "", "biochem"],
        ["277_756 MLPCN CFTR", "CFTR", "ion channel"],
        ["260_738 MLPCN HDL Receptor", "SCARB1", "cell"],  # a protein of no family keeps the assay's type
        ["116_411 Phosphodiesterase.Absorb.600", "", "phosphodiesterase"],
        ["9_9", "", "other"],
    ]
    np.testing.assert_array_equal(labels.to_numpy(), [[1, np.nan, np.nan, 0, 0], [1, 1, 1, 1, 1]])
    assert list(labels.columns) == tasks["task"].tolist()


WRONG = {
    "a value": ("smiles,inchikey,ABL1\nC,A,0\nC,B,7\n", r"assays.csv: assay 'ABL1' has outcomes that are neither 0, 1"),
    "a column": (
        "SMILES,inchikey\nC,A\n",
        r"assays.csv: can't be read as a table with columns \['smiles'\]",
    ),
    "no table": ("", r"assays.csv: can't be read as a table"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_unexpected_values_and_columns_are_named(tmp_path, wrong):
    (tmp_path / "assays.csv").write_text(WRONG[wrong][0])
    with pytest.raises(ScreenError, match=WRONG[wrong][1]):
        annotation.read_assays("ChEMBL", [tmp_path / "assays.csv"])


# ------------------------------------------------------------------------------------------------- families

CHEMBL2K_FAMILIES = {  # written by hand from HGNC gene groups, not by the rules
    "GPCR": "ADRA1D ADRA2B ADRB2 CHRM1 CHRM3 CHRM4 CNR1 DRD2 DRD3 DRD4 HRH1 HTR1A HTR2A HTR2B HTR2C HTR6 OPRK1",
    "kinase": "ABL1 CDK2 EGFR FLT1 KDR LCK",
    "ion channel": "CACNA1H KCNH2",
    "nuclear receptor": "ESR1 PPARG",
    "transporter": "ABCB1 SLC6A2 SLC6A4",
    "cytochrome P450": "CYP1A2 CYP2C19 CYP2C9 CYP2D6 CYP3A4",
    "other enzyme": "CA12 CA2 CA9 PTGS1",
    "other": "MCL1 SIGMAR1",
}
# The Repurposing Hub's 100 most frequent targets, written by hand from HGNC gene groups.
HUB_FAMILIES = {
    "GPCR": "ADORA1 ADORA2A ADORA2B ADORA3 ADRA1A ADRA1B ADRA1D ADRA2A ADRA2B ADRA2C ADRB1 ADRB2 ADRB3 CHRM1 CHRM2 "
    "CHRM3 CHRM4 CHRM5 CNR1 DRD1 DRD2 DRD3 DRD4 DRD5 GRM5 HRH1 HRH2 HTR1A HTR1B HTR1D HTR1E HTR1F HTR2A HTR2B HTR2C "
    "HTR4 HTR6 HTR7 OPRD1 OPRK1 OPRM1",
    "ion channel": "CHRNA7 GABRA1 GABRA2 GABRA3 GABRA4 GABRA5 GABRA6 GABRB2 GABRG2 GRIA1 GRIN1 GRIN2A GRIN2B GRIN2C "
    "GRIN2D HTR3A KCNH2 SCN10A SCN5A TRPV1",
    "kinase": "AKT1 AURKA AURKB CDK1 CDK2 EGFR ERBB2 FGFR1 FLT1 FLT3 GSK3B JAK2 KDR KIT MAPK14 MET MTOR PDGFRA PDGFRB "
    "PIK3CA PIK3CB PIK3CD PIK3CG SRC",
    "nuclear receptor": "AR ESR1 ESR2 NR3C1 PGR PPARG",
    "other enzyme": "ACHE ALOX5 CA1 CA2 CA12 MAOA MAOB PTGS1 PTGS2 TOP2A",
    "transporter": "SLC6A2 SLC6A3 SLC6A4",
    "epigenetic": "HDAC1 HDAC2 HDAC3",
    "protease": "ACE",
    "phosphodiesterase": "PDE4A PDE5A",
    "cytochrome P450": "CYP3A4",
    "other": "SIGMAR1 TNF TUBB",
}
MORE_FAMILIES = {  # rarer targets, and symbols that resemble those of another family
    "GPCR": "AGTR1 HTR5A HRH4 SMO GABBR1 CXCR4 P2RY12 LGR5 RHO NPSR1",
    "ion channel": "GABRD SCN1A CHRNA2 CACNA1C KCNJ11 CATSPER1 GJA1 AQP1 PKD2L1",
    "kinase": "ROCK1 PRKCA MAP2K1 BRAF RAF1 ATM ATR CHEK1 PIK3R1 TGFBR1 IKBKB DYRK1A ADRBK1 CERK",
    "nuclear receptor": "PPARA NR3C2 NR1I2 VDR RARA RXRB THRB NR0B1",
    "phosphodiesterase": "PDE4B PDE4D PDE3A PDE10A PDE6G",
    "epigenetic": "HDAC6 BRD4 EZH2 DNMT1 SIRT1 KDM1A KDM4E DOT1L EP300 BRPF1",
    "protease": "F2 F10 MMP9 CASP3 BACE1 DPP4 REN CTSK PSMB5 PSMD1 ADAM17 FOLH1",
    "transporter": "SLC12A1 ATP1A1 ATP4A ATP6V1A ABCG2 SLC22A6 UCP1",
    "other enzyme": "CA4 CA14 NOS2 HMGCR DHFR TYMS PARP1 PTPN1 CDC25A IMPDH1 GALK1 PDIA6 P4HB PYGL VKORC1 AARS GCK",
    "other": "BCL2 MDM2 TP53 HSP90AA1 ATRX CDKN1A MAPT PRKCSH FLT3LG CALM1 LGR2 DYRK1 CARD9 RHOA APOB SARM1 AHR",
}


@pytest.mark.parametrize("table", [CHEMBL2K_FAMILIES, HUB_FAMILIES, MORE_FAMILIES], ids=["chembl2k", "hub", "more"])
def test_target_families_against_hand_written_tables(table):
    expected = {symbol: family for family, symbols in table.items() for symbol in symbols.split()}
    assert {symbol: annotation.target_family(symbol) for symbol in expected} == expected
    assert set(table) <= set(annotation.FAMILIES)


TOXCAST = {
    "NVS_GPCR_rmAdra2B": ("Adra2B", "GPCR"),
    "NVS_NR_hPPARg": ("PPARg", "nuclear receptor"),
    "NVS_ADME_hCYP3A4": ("CYP3A4", "cytochrome P450"),
    "NVS_TR_hSERT": ("SERT", "transporter"),
    "NVS_LGIC_h5HT3": ("5HT3", "ion channel"),
    "NVS_MP_hPBR": ("PBR", "other"),
    "NVS_ENZ_rabI2C": ("I2C", "other enzyme"),
    "NVS_ENZ_hAurA": ("AurA", "kinase"),
    "NVS_ENZ_hMMP13": ("MMP13", "protease"),
    "NVS_ENZ_hPDE4A1": ("PDE4A1", "phosphodiesterase"),
    "NVS_ENZ_hSIRT1": ("SIRT1", "epigenetic"),
    "ATG_AP_1_CIS_dn": ("", "ATG"),
    "Tanguay_ZF_120hpf_EYE_up": ("", "Tanguay"),
}


def test_toxcast_targets_and_families():
    assert {assay: annotation.toxcast_target(assay) for assay in TOXCAST} == TOXCAST


# ------------------------------------------------------------------------------- everything about compounds


@pytest.fixture
def files(tmp_path):
    """Annotation files of two compounds, by role."""
    texts = {
        "hub": HUB,
        "broad_ids": "broad_id\nBRD-K00000001\nBRD-K00000002\n",
        "broad_smiles": f"smiles\n{CAFFEINE}\n{CAFFEINE}\n",
        "broad6k_structures": f"pert_id,smiles,inchikey\nBRD-K00000002,{CAFFEINE},{CAFFEINE_BLOCK}\n,C,X\n",
        "assay_names": ASSAY_NAMES,
        "assays_270": f"smiles,220_692,277_756\n{ASPIRIN},1,\n{CAFFEINE},0,1\n{CAFFEINE},1,1\n",
        "broad6k_assays": f"smiles,inchikey,300_1\n{ASPIRIN},{ASPIRIN_BLOCK},1\n",
        "toxcast_assays": f"smiles,mol_id,NVS_ENZ_hAChE\n{ASPIRIN},,0\n",
        "chembl2k_assays": f"smiles,inchikey,PTGS1\n{ASPIRIN},{ASPIRIN_BLOCK},1\n",
    }
    for role, text in texts.items():
        (tmp_path / role).write_text(text)
    return {role: tmp_path / role for role in texts}


IDS = ["BRD-K00000001", "BRD-K00000002"]
OWN = [pd.DataFrame({COMPOUND: IDS[:1], "SMILES": [ASPIRIN], "InChIKey14": ""})]


def test_every_collection_brings_its_tasks(files):
    compounds, activity, tasks, notes = annotation.annotate_compounds(IDS, files, OWN)
    assert compounds["InChIKey14"].tolist() == [ASPIRIN_BLOCK, CAFFEINE_BLOCK]  # the screen's own SMILES decides
    assert tasks[["task", "source", "conflicts"]].values.tolist() == [
        ["220_692", "Moshkov 270", 1],
        ["277_756 MLPCN CFTR", "Moshkov 270", 0],
        ["300_1", "broad6k", 0],
        ["NVS_ENZ_hAChE", "ToxCast", 0],
        ["ChEMBL PTGS1", "ChEMBL", 0],
    ]
    labels = set(activity.itertuples(index=False, name=None))
    assert {(IDS[1], "220_692", 1), (IDS[1], "277_756 MLPCN CFTR", 1), (IDS[0], "300_1", 1)} <= labels
    assert notes[-1].startswith("ChEMBL: 1 compounds have 1 outcomes in 1 assays; 0 compound-assay pairs are conflicts")


def test_files_that_a_screen_lacks_are_done_without(files):
    few = {role: files[role] for role in ("broad_smiles", "broad6k_structures", "assays_270", "broad6k_assays")}
    compounds, activity, tasks, _ = annotation.annotate_compounds(IDS, few, OWN)
    assert compounds["MoA"].tolist() == compounds["target"].tolist() == [[], []]
    assert compounds["InChIKey14"].tolist() == [ASPIRIN_BLOCK, CAFFEINE_BLOCK]
    assert len(activity) == len(tasks) == 0 and list(tasks.columns)[:4] == TASK_COLUMNS


def test_lists_that_do_not_belong_together_are_refused(files, tmp_path):
    (tmp_path / "broad_ids").write_text("broad_id\nBRD-K00000001\n")
    with pytest.raises(ScreenError, match="broad_ids has 1 ids and broad_smiles 2 structures"):
        annotation.annotate_compounds(IDS, files, OWN)
