"""Structures, mechanisms and assay outcomes of compounds, and the families of targets."""

import gzip

import numpy as np
import pandas as pd
import pytest

from cpx_utils import annotation
from cpx_utils.profiles import COMPOUND, ScreenError

ASPIRIN, CAFFEINE = "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"
ASPIRIN_BLOCK, CAFFEINE_BLOCK = "BSYNRYMUTXBXSQ", "RYYVLZVUVIJVGH"  # PubChem CIDs 2244 and 2519


def test_inchikey_blocks_of_known_molecules(capfd):
    assert annotation.inchikey_blocks([ASPIRIN, CAFFEINE, "no molecule", "", None]) == [
        ASPIRIN_BLOCK,
        CAFFEINE_BLOCK,
        "",
        "",
        "",
    ]
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_inchikey_block_ignores_stereochemistry():
    blocks = annotation.inchikey_blocks(["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)O"])
    assert len(set(blocks)) == 1


def test_key_cache_is_used_checked_and_optional(tmp_path):
    cache = tmp_path / "derived" / "keys.parquet"
    assert annotation.cached_inchikey_blocks([ASPIRIN], cache) == [ASPIRIN_BLOCK]
    pd.DataFrame({"SMILES": [ASPIRIN], "InChIKey14": ["FROMTHECACHEXX"]}).to_parquet(cache)
    assert annotation.cached_inchikey_blocks([ASPIRIN], cache) == ["FROMTHECACHEXX"]
    assert annotation.cached_inchikey_blocks([CAFFEINE], cache) == [CAFFEINE_BLOCK]  # other SMILES: computed
    cache.write_bytes(b"damaged")
    assert annotation.cached_inchikey_blocks([ASPIRIN], cache) == [ASPIRIN_BLOCK]
    (tmp_path / "file").write_text("")
    assert annotation.cached_inchikey_blocks([ASPIRIN], tmp_path / "file" / "keys.parquet") == [ASPIRIN_BLOCK]


def test_structures_come_from_the_first_source_that_knows():
    first = pd.DataFrame({COMPOUND: ["a", "b"], "SMILES": [ASPIRIN, "nonsense"], "InChIKey14": ""})
    second = pd.DataFrame(
        {
            COMPOUND: ["a", "b", "x"],
            "SMILES": [CAFFEINE, CAFFEINE, ASPIRIN],
            "InChIKey14": [CAFFEINE_BLOCK, CAFFEINE_BLOCK, ASPIRIN_BLOCK],
        }
    )
    table, conflicts = annotation.join_structures(["a", "b", "c"], [first, second])
    assert table.values.tolist() == [["a", ASPIRIN, ASPIRIN_BLOCK], ["b", CAFFEINE, CAFFEINE_BLOCK], ["c", "", ""]]
    assert conflicts == 1  # only a has two readable structures


def test_parallel_lists_must_have_the_same_length(tmp_path):
    (tmp_path / "ids.txt").write_text("broad_id\nBRD-A00000001-001\nBRD-A00000002\n")
    (tmp_path / "smiles.txt").write_text(f"smiles\n{ASPIRIN}\n{CAFFEINE}\n")
    table = annotation.read_broad_structures(tmp_path / "ids.txt", tmp_path / "smiles.txt")
    assert table[COMPOUND].tolist() == ["BRD-A00000001", "BRD-A00000002"]
    (tmp_path / "smiles.txt").write_text(f"smiles\n{ASPIRIN}\n")
    with pytest.raises(ScreenError, match=r"ids.txt has 2 rows and smiles.txt 1"):
        annotation.read_broad_structures(tmp_path / "ids.txt", tmp_path / "smiles.txt")


def test_split_values():
    assert annotation.split_values(" A | B||A ") == ["A", "B"]
    assert annotation.split_values(np.nan) == annotation.split_values("") == []


def test_mechanisms_by_id_then_by_block(tmp_path):
    (tmp_path / "hub.tsv").write_text(
        "broad_id\tmoa\ttarget\tsmiles\tInChIKey14\n"
        f"BRD-K00000001-001-01-1\tcyclooxygenase inhibitor\tPTGS1|PTGS2\t{ASPIRIN}\t{ASPIRIN_BLOCK}\n"
        f"BRD-K00000001-002-01-1\tcyclooxygenase inhibitor|analgesic\tPTGS1\t{ASPIRIN}\t{ASPIRIN_BLOCK}\n"
        f"BRD-K00000002-001-01-1\t\t\t{CAFFEINE}\t{CAFFEINE_BLOCK}\n"
    )
    hub = annotation.read_repurposing_hub(tmp_path / "hub.tsv")
    structures = pd.DataFrame(
        {
            COMPOUND: ["BRD-K00000001", "other", "BRD-K00000002", "none"],
            "InChIKey14": ["", ASPIRIN_BLOCK, CAFFEINE_BLOCK, ""],
            "SMILES": "",
        }
    )
    table = annotation.annotate_mechanisms(structures, hub)
    both = ["cyclooxygenase inhibitor", "analgesic"]
    assert table["MoA"].tolist() == [both, both, [], []]
    assert table["target"].tolist() == [["PTGS1", "PTGS2"], ["PTGS1", "PTGS2"], [], []]
    table["MoA"][0].append("changed")
    assert table["MoA"][1] == both  # the lists are not shared


def test_outcomes_unite_stereoisomers_and_count_conflicts():
    labels = pd.DataFrame({"t1": [0, 1, 0, np.nan, 1], "t2": [0, 0, np.nan, np.nan, np.nan], "t3": [np.nan] * 5})
    tasks = pd.DataFrame({"task": ["t1", "t2", "t3"], "target": "", "family": "cell"})
    assays = annotation.AssayTable("test", ["A", "A", "B", "B", "Z"], labels, tasks)
    compounds = pd.DataFrame({COMPOUND: ["a1", "a2", "b", "none"], "InChIKey14": ["A", "A", "B", ""]})
    activity, reached, conflicts = annotation.outcomes(assays, compounds)
    assert activity.values.tolist() == [
        ["a1", "t1", 1],
        ["a1", "t2", 0],
        ["a2", "t1", 1],
        ["a2", "t2", 0],
        ["b", "t1", 0],
    ]
    assert activity["active"].dtype == np.int8
    assert reached["task"].tolist() == ["t1", "t2"]
    assert conflicts == 1


def test_outcomes_of_a_screen_without_structures_are_empty():
    tasks = pd.DataFrame({"task": ["t1"], "target": "", "family": "cell"})
    assays = annotation.AssayTable("test", ["A"], pd.DataFrame({"t1": [1.0]}), tasks)
    activity, reached, conflicts = annotation.outcomes(assays, pd.DataFrame({COMPOUND: ["a"], "InChIKey14": [""]}))
    assert len(activity) == len(reached) == conflicts == 0
    assert list(activity.columns) == [COMPOUND, "task", "active"]


def test_broad6k_tasks_carry_name_and_type(tmp_path):
    with gzip.open(tmp_path / "assays.csv.gz", "wt") as handle:
        handle.write(f"smiles,inchikey,220_692,231_703,9_9\nC,{ASPIRIN_BLOCK},1.0,,-1\n")
    (tmp_path / "names.csv").write_text(
        "PUMA_ASSAY_ID,ASSAY_NAME,ASSAY_TYPE\n220_692,220_692,biochem\n231_703,MLPCN Epstein-Barr LMP-1,cell\n"
    )
    assays = annotation.read_broad6k(tmp_path / "assays.csv.gz", tmp_path / "names.csv")
    assert assays.tasks["task"].tolist() == ["220_692", "231_703 MLPCN Epstein-Barr LMP-1", "9_9"]
    assert assays.tasks["family"].tolist() == ["biochem", "cell", "other"]
    assert assays.labels.iloc[0, 0] == 1 and assays.labels.iloc[0, 1:].isna().all()


def test_unexpected_values_and_columns_are_named(tmp_path):
    (tmp_path / "assays.csv").write_text(f"smiles,inchikey,ABL1\nC,{ASPIRIN_BLOCK},0\nC,{CAFFEINE_BLOCK},7\n")
    with pytest.raises(ScreenError, match=r"assays.csv: assay 'ABL1' has the value 7 in data row 2"):
        annotation.read_chembl2k(tmp_path / "assays.csv")
    (tmp_path / "assays.csv").write_text("smiles,key\nC,A\n")
    with pytest.raises(ScreenError, match=r"assays.csv: column 'inchikey' is missing"):
        annotation.read_chembl2k(tmp_path / "assays.csv")
    (tmp_path / "broken.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(ScreenError, match=r"broken.csv.gz: can't be read as a table"):
        annotation.read_chembl2k(tmp_path / "broken.csv.gz")


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
FREQUENT_FAMILIES = {  # the Repurposing Hub's most frequent targets beyond those
    "GPCR": "DRD1 ADRA1A ADORA1 ADORA2B AGTR1 GRM5 OPRM1 CHRM5 HTR1E HTR5A HRH2 HRH4 SMO GABBR1 CXCR4 P2RY12",
    "ion channel": "GABRA1 GABRG2 GABRD GRIN1 GRIN2B GRIA1 SCN5A SCN10A HTR3A CHRNA7 CHRNA2 CACNA1C KCNJ11 TRPV1",
    "kinase": "MTOR MAPK14 PDGFRB GSK3B PIK3CG KIT FLT3 AKT1 PIK3CA ERBB2 FGFR1 JAK2 ROCK1 AURKB SRC MET PRKCA "
    "MAP2K1 BRAF RAF1 ATM ATR CHEK1 PIK3R1 TGFBR1 IKBKB",
    "nuclear receptor": "NR3C1 NR3C2 ESR2 AR PGR PPARA NR1I2 VDR RARA RXRB THRB",
    "phosphodiesterase": "PDE5A PDE4A PDE4D PDE3A PDE10A",
    "epigenetic": "HDAC1 HDAC6 BRD4 EZH2 DNMT1 SIRT1 KDM1A DOT1L EP300",
    "protease": "ACE F2 F10 MMP9 CASP3 BACE1 DPP4 REN CTSK PSMB5 ADAM17",
    "transporter": "SLC6A3 SLC12A1 ATP1A1 ATP4A ABCG2 SLC22A6",
    "other enzyme": "PTGS2 ACHE TOP2A MAOA MAOB ALOX5 HMGCR CA1 CA4 NOS2 DHFR TYMS PARP1 PTPN1 CDC25A IMPDH1",
    "other": "TUBB TNF BCL2 MDM2 TP53 HSP90AA1 ATRX CDKN1A MAPT PRKCSH FLT3LG CALM1",
}


@pytest.mark.parametrize("table", [CHEMBL2K_FAMILIES, FREQUENT_FAMILIES], ids=["chembl2k", "hub"])
def test_target_families_against_hand_written_tables(table):
    wrong = {
        symbol: annotation.target_family(symbol)
        for family, symbols in table.items()
        for symbol in symbols.split()
        if annotation.target_family(symbol) != family
    }
    assert wrong == {}
    assert set(table) <= set(annotation.FAMILIES)


def test_the_chembl2k_table_is_complete():
    assert sum(len(symbols.split()) for symbols in CHEMBL2K_FAMILIES.values()) == 41


TOXCAST_FAMILIES = {
    "NVS_GPCR_hAdra2A": "GPCR",
    "NVS_NR_hPPARg": "nuclear receptor",
    "NVS_ADME_hCYP3A4": "cytochrome P450",
    "NVS_TR_hSERT": "transporter",
    "NVS_LGIC_h5HT3": "ion channel",
    "NVS_IC_hKhERGCh": "ion channel",
    "NVS_MP_hPBR": "other",
    "NVS_ENZ_hAChE": "other enzyme",
    "NVS_ENZ_hTrkA": "kinase",
    "NVS_ENZ_hMMP13": "protease",
    "NVS_ENZ_hPDE4A1": "phosphodiesterase",
    "NVS_ENZ_hSIRT1": "epigenetic",
    "NVS_ENZ_hPI3Ka": "kinase",
    "NVS_ENZ_hPTPN11": "other enzyme",
    "ATG_AP_1_CIS_dn": "ATG",
    "TOX21_AhR_LUC_Agonist": "TOX21",
    "Tanguay_ZF_120hpf_EYE_up": "Tanguay",
}


@pytest.mark.parametrize("assay", TOXCAST_FAMILIES)
def test_toxcast_families(assay):
    assert annotation.toxcast_family(assay) == TOXCAST_FAMILIES[assay]


def test_toxcast_targets_lose_the_species_letter():
    names = ["NVS_ENZ_hAurA", "NVS_ENZ_rabI2C", "NVS_GPCR_rmAdra2B", "ATG_AR_TRANS_up"]
    assert [annotation.toxcast_target(name) for name in names] == ["AurA", "I2C", "Adra2B", ""]
