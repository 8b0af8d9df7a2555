"""Structures, mechanisms and assay outcomes of compounds, and the families of targets."""

import gzip
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cpx_utils import annotation, datasets, profiles
from cpx_utils.downloads import LocalFile
from cpx_utils.profiles import ACTIVITY_COLUMNS, COMPOUND, CONTROL, DOSE, PLATE, TASK_COLUMNS, WELL, Screen, ScreenError

MIRROR = os.environ.get("CPX_MIRROR", "")
needs_mirror = pytest.mark.skipif(not MIRROR, reason="CPX_MIRROR isn't set to a folder with the real tables")


def mirrored(ending: str) -> Path:
    """The file of the mirror whose path ends like this."""
    (found,) = [path for path in Path(MIRROR).rglob(ending.rsplit("/", 1)[-1]) if str(path).endswith(ending)]
    return found


ASPIRIN, CAFFEINE = "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"
ASPIRIN_BLOCK, CAFFEINE_BLOCK = "BSYNRYMUTXBXSQ", "RYYVLZVUVIJVGH"  # PubChem CIDs 2244 and 2519


def test_inchikey_blocks_of_known_molecules(capfd):
    assert profiles.inchikey_blocks([ASPIRIN, CAFFEINE, "no molecule", "", None]) == [
        ASPIRIN_BLOCK,
        CAFFEINE_BLOCK,
        "",
        "",
        "",
    ]
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


D_ALANINE, L_ALANINE, ALANINE = "C[C@H](C(=O)O)N", "C[C@@H](C(=O)O)N", "CC(C(=O)O)N"
D_KEY, L_KEY, FLAT_KEY = (f"QNAYBMKLOCPYGJ-{end}" for end in ("UWTATZPHSA-N", "REOHCLBHSA-N", "UHFFFAOYSA-N"))


def test_inchikeys_tell_stereoisomers_apart_and_blocks_do_not():
    """PubChem CIDs 71080, 5950 and 602."""
    isomers = [D_ALANINE, L_ALANINE, ALANINE]
    assert profiles.inchikeys([*isomers, "no molecule"]) == [D_KEY, L_KEY, FLAT_KEY, ""]
    assert profiles.inchikey_blocks(isomers) == ["QNAYBMKLOCPYGJ"] * 3


def test_key_cache_is_used_checked_and_optional(tmp_path):
    aspirin, caffeine = profiles.inchikeys([ASPIRIN, CAFFEINE])
    cache = tmp_path / "derived" / "keys.parquet"
    assert annotation.cached_inchikeys([ASPIRIN], cache) == [aspirin]
    pd.DataFrame({"SMILES": [ASPIRIN], "InChIKey": ["FROMTHECACHE"]}).to_parquet(cache)
    assert annotation.cached_inchikeys([ASPIRIN], cache) == ["FROMTHECACHE"]
    assert annotation.cached_inchikeys([CAFFEINE], cache) == [caffeine]  # other SMILES: computed
    pd.DataFrame({"SMILES": [ASPIRIN], "InChIKey14": [ASPIRIN_BLOCK]}).to_parquet(cache)
    assert annotation.cached_inchikeys([ASPIRIN], cache) == [aspirin]  # a cache of blocks alone
    cache.write_bytes(b"damaged")
    assert annotation.cached_inchikeys([ASPIRIN], cache) == [aspirin]
    (tmp_path / "file").write_text("")
    assert annotation.cached_inchikeys([ASPIRIN], tmp_path / "file" / "keys.parquet") == [aspirin]


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


def test_computed_keys_of_structures_are_kept(tmp_path, monkeypatch):
    source = pd.DataFrame({COMPOUND: ["a", "b"], "SMILES": [ASPIRIN, None], "InChIKey14": ""})
    once, _ = annotation.join_structures(["b", "a"], [source], tmp_path)
    monkeypatch.setattr(annotation, "inchikeys", lambda smiles: pytest.fail("computed again"))
    again, _ = annotation.join_structures(["b", "a"], [source], tmp_path)
    assert again.values.tolist() == once.values.tolist() == [["b", "", ""], ["a", ASPIRIN, ASPIRIN_BLOCK]]


def test_parallel_lists_must_have_the_same_length(tmp_path):
    (tmp_path / "ids.txt").write_text("broad_id\nBRD-A00000001-001\nBRD-A00000002\n")
    (tmp_path / "smiles.txt").write_text(f"smiles\n{ASPIRIN}\n{CAFFEINE}\n")
    table = annotation.read_broad_structures(tmp_path / "ids.txt", tmp_path / "smiles.txt")
    assert table[COMPOUND].tolist() == ["BRD-A00000001", "BRD-A00000002"]
    (tmp_path / "smiles.txt").write_text(f"smiles\n{ASPIRIN}\n")
    with pytest.raises(ScreenError, match=r"ids.txt has 2 rows and smiles.txt 1"):
        annotation.read_broad_structures(tmp_path / "ids.txt", tmp_path / "smiles.txt")


def test_split_values():
    assert profiles.split_values(" A | B||A ") == ["A", "B"]
    assert profiles.split_values(np.nan) == annotation.split_values("") == []


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


def test_an_entry_without_mechanism_takes_that_of_its_block():
    """Mechanism and target are looked up each by itself, by compound id and then by block."""
    hub = pd.DataFrame(
        {
            COMPOUND: ["BRD-1", "BRD-2", "BRD-3"],
            "SMILES": "",
            "InChIKey14": [ASPIRIN_BLOCK, ASPIRIN_BLOCK, CAFFEINE_BLOCK],
            "MoA": [[], ["cyclooxygenase inhibitor"], []],
            "target": [["PTGS1"], ["PTGS2"], []],
        }
    )
    ids = ["BRD-1", "BRD-2", "BRD-3"]
    structures = pd.DataFrame({COMPOUND: ids, "InChIKey14": hub["InChIKey14"], "SMILES": ""})
    table = annotation.annotate_mechanisms(structures, hub)
    assert table["MoA"].tolist() == [["cyclooxygenase inhibitor"], ["cyclooxygenase inhibitor"], []]
    assert table["target"].tolist() == [["PTGS1"], ["PTGS2"], []]


def test_own_rows_decide_before_isomers_and_isomers_only_when_unanimous():
    block, nothing = "QNAYBMKLOCPYGJ", np.nan
    rows = [  # key, block; outcomes in own, agree, differ, twice, never
        (D_KEY, block, 1, 0, 1, 0, nothing),
        (D_KEY, block, nothing, nothing, nothing, 1, nothing),
        (L_KEY, block, 0, 0, 0, nothing, nothing),
        ("", block, nothing, 0, nothing, nothing, nothing),
        ("", "", 1, 1, 1, 1, 1),
    ]
    names = ["own", "agree", "differ", "twice", "never"]
    labels = pd.DataFrame([row[2:] for row in rows], columns=names, dtype=float)
    tasks = pd.DataFrame({"task": names, "target": "", "family": "cell"})
    assays = annotation.AssayTable("test", [row[0] for row in rows], [row[1] for row in rows], labels, tasks)
    compounds = pd.DataFrame(
        {
            COMPOUND: ["d", "l", "flat", "odd", "none"],
            "InChIKey14": [block, block, block, block, ""],
            "SMILES": [D_ALANINE, L_ALANINE, ALANINE, "no molecule", ""],
        }
    )
    activity, reached = annotation.outcomes(assays, compounds)
    found = {name: dict(zip(rows["task"], rows["active"], strict=True)) for name, rows in activity.groupby(COMPOUND)}
    assert found == {
        "d": {"own": 1, "agree": 0, "differ": 1, "twice": 1},
        "l": {"own": 0, "agree": 0, "differ": 0},  # both rows in twice are d's, and they disagree
        "flat": {"agree": 0},  # no row of its own
        "odd": {"agree": 0},  # no key: the block decides
    }
    assert activity["active"].dtype == np.int8
    assert list(reached.columns) == [*TASK_COLUMNS, "conflicts"]
    assert reached["task"].tolist() == ["own", "agree", "differ", "twice"]
    # flat and odd get no label; in twice neither do they and l, and d's own rows hold both
    assert reached["conflicts"].tolist() == [2, 0, 2, 4]


def naive_outcomes(assays: annotation.AssayTable, compounds: pd.DataFrame, keys: list[str]) -> tuple[list, dict]:
    """Labels and conflicts, compound by compound and task by task."""
    labels, conflicts = [], Counter()
    for compound, block, key in zip(compounds[COMPOUND], compounds["InChIKey14"], keys, strict=True):
        for task in assays.tasks["task"]:
            values = [(k, b, v) for k, b, v in zip(assays.keys, assays.blocks, assays.labels[task], strict=True)
                      if not np.isnan(v)]  # fmt: skip
            own = {v for k, _, v in values if key and k == key}
            kin = {v for _, b, v in values if block and b == block}
            if own:
                labels.append((compound, task, int(max(own))))
                conflicts[task] += len(own) == 2
            else:
                conflicts[task] += len(kin) == 2
                if len(kin) == 1:
                    labels.append((compound, task, int(kin.pop())))
    return labels, conflicts


@pytest.mark.parametrize("seed", range(5))
def test_outcomes_equal_a_naive_loop(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    blocks = [f"BLOCK{number}" for number in range(8)]
    keys = [f"{block}-{isomer}" for block in blocks for isomer in "abc"]

    def structures(n: int) -> tuple[list[str], list[str]]:
        drawn = [keys[at] for at in rng.integers(len(keys), size=n)]
        hidden = rng.random(n)  # one in ten has no key, and half of these no block either
        return (
            ["" if share < 0.1 else key for key, share in zip(drawn, hidden, strict=True)],
            ["" if share < 0.05 else key.split("-")[0] for key, share in zip(drawn, hidden, strict=True)],
        )

    names = [f"t{number}" for number in range(6)]
    values = rng.choice([0, 1, np.nan], size=(40, 6), p=[0.25, 0.15, 0.6])
    tasks = pd.DataFrame({"task": names, "target": "", "family": "cell"})
    assays = annotation.AssayTable("random", *structures(40), pd.DataFrame(values, columns=names), tasks)
    own, held = structures(30)
    compounds = pd.DataFrame({COMPOUND: [f"c{n:02d}" for n in range(30)], "InChIKey14": held, "SMILES": own})
    monkeypatch.setattr(annotation, "inchikeys", list)  # here the SMILES are the keys
    activity, reached = annotation.outcomes(assays, compounds)
    labels, conflicts = naive_outcomes(assays, compounds, own)
    assert list(activity.itertuples(index=False, name=None)) == labels
    assert reached["task"].tolist() == [name for name in names if name in set(activity["task"])]
    assert dict(zip(reached["task"], reached["conflicts"], strict=True)) == {
        task: conflicts[task] for task in reached["task"]
    }
    assert sum(conflicts.values()) > 10 and len(labels) > 30


def test_outcomes_of_a_screen_without_structures_are_empty():
    tasks = pd.DataFrame({"task": ["t1"], "target": "", "family": "cell"})
    assays = annotation.AssayTable("test", [""], [""], pd.DataFrame({"t1": [1.0]}), tasks)
    compounds = pd.DataFrame({COMPOUND: ["a"], "InChIKey14": [""], "SMILES": [""]})
    activity, reached = annotation.outcomes(assays, compounds)
    assert len(activity) == len(reached) == 0
    assert list(activity.columns) == [COMPOUND, "task", "active"]


def test_broad6k_tasks_carry_name_and_type(tmp_path):
    with gzip.open(tmp_path / "assays.csv.gz", "wt") as handle:
        handle.write(f"smiles,inchikey,220_692,231_703,9_9\nC,{ASPIRIN_BLOCK},1.0,,-1\n")
    (tmp_path / "names.csv").write_text(
        "PUMA_ASSAY_ID,ASSAY_NAME,ASSAY_TYPE\n220_692,220_692,biochem\n231_703,MLPCN Epstein-Barr LMP-1,cell\n"
    )
    assays = annotation.read_broad6k(tmp_path / "assays.csv.gz", tmp_path / "names.csv", tmp_path / "keys.parquet")
    assert assays.tasks["task"].tolist() == ["220_692", "231_703 MLPCN Epstein-Barr LMP-1", "9_9"]
    assert assays.tasks["family"].tolist() == ["biochem", "cell", "other"]
    assert assays.labels.iloc[0, 0] == 1 and assays.labels.iloc[0, 1:].isna().all()


ASSAY_NAMES = (
    "PUMA_ASSAY_ID,ASSAY_NAME,OBS_NAME,OBS_SOURCE,ASSAY_TYPE,READOUT_TYPE\n"
    "220_692,220_692,220_692,220_692,biochem,fluorescence\n"
    "277_756,MLPCN CFTR,yfp fluorescence,GeneData,cell,fluorescence\n"
    "260_738,MLPCN HDL Receptor,Layer 1,GeneData,cell,fluorescence\n"
    "116_411,Phosphodiesterase.Absorb.600,CHP1098,ChemBank,yeast,absorbance\n"
)


def test_the_270_assays_have_keys_names_and_families(tmp_path):
    (tmp_path / "matrix.csv").write_text(
        "smiles,220_692,277_756,260_738,116_411,9_9\n"
        f"{ASPIRIN},1.0,,-1,0,0\n{CAFFEINE},0,1,1,-1,\nno molecule,1,1,1,1,1\n"
    )
    (tmp_path / "names.csv").write_text(ASSAY_NAMES)
    assays = annotation.read_moshkov_270(tmp_path / "matrix.csv", tmp_path / "names.csv", tmp_path / "keys.parquet")
    assert assays.source == "Moshkov 270" and assays.blocks == [ASPIRIN_BLOCK, CAFFEINE_BLOCK, ""]
    assert assays.keys == profiles.inchikeys([ASPIRIN, CAFFEINE, ""])
    assert assays.tasks.values.tolist() == [
        ["220_692", "", "biochem"],
        ["277_756 MLPCN CFTR", "CFTR", "ion channel"],
        ["260_738 MLPCN HDL Receptor", "SCARB1", "cell"],  # a protein of no family keeps the assay's type
        ["116_411 Phosphodiesterase.Absorb.600", "", "phosphodiesterase"],
        ["9_9", "", "other"],
    ]
    expected = [[1, np.nan, np.nan, 0, 0], [0, 1, 1, np.nan, np.nan], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(assays.labels.to_numpy(), expected)
    assert list(assays.labels.columns) == assays.tasks["task"].tolist()
    (tmp_path / "matrix.csv").write_text("smiles,assay\nC,1\n")
    with pytest.raises(ScreenError, match=r"matrix.csv: no assay columns; they are named by PUMA id"):
        annotation.read_moshkov_270(tmp_path / "matrix.csv", tmp_path / "names.csv", tmp_path / "keys.parquet")


def test_annotated_targets_are_tasks_that_nobody_measured():
    targets = [["KDR", "EGFR"], ["KDR"], ["KDR", "TUBB"], [], ["TUBB"]]
    compounds = pd.DataFrame({COMPOUND: list("abcde"), "target": targets})
    activity, tasks = annotation.hub_targets(compounds, min_active=2)
    assert tasks.values.tolist() == [
        ["annotated KDR", "KDR", "annotation: kinase", "annotation", 0],
        ["annotated TUBB", "TUBB", "annotation: other", "annotation", 0],
    ]
    wide = activity.pivot(index=COMPOUND, columns="task", values="active")
    assert wide.index.tolist() == list("abce")  # d has no target and no label
    assert wide["annotated KDR"].tolist() == [1, 1, 1, 0] and wide["annotated TUBB"].tolist() == [0, 0, 1, 1]
    assert activity["active"].dtype == np.int8
    few, none = annotation.hub_targets(compounds)
    assert len(few) == len(none) == 0 and list(few.columns) == ACTIVITY_COLUMNS
    assert list(none.columns) == [*TASK_COLUMNS, "conflicts"]


def test_unexpected_values_and_columns_are_named(tmp_path):
    (tmp_path / "assays.csv").write_text(f"smiles,inchikey,ABL1\nC,{ASPIRIN_BLOCK},0\nC,{CAFFEINE_BLOCK},7\n")
    with pytest.raises(ScreenError, match=r"assays.csv: assay 'ABL1' has the value 7 in data row 2"):
        annotation.read_chembl2k(tmp_path / "assays.csv", tmp_path / "keys.parquet")
    (tmp_path / "assays.csv").write_text("smiles,key\nC,A\n")
    with pytest.raises(ScreenError, match=r"assays.csv: column 'inchikey' is missing"):
        annotation.read_chembl2k(tmp_path / "assays.csv", tmp_path / "keys.parquet")
    (tmp_path / "broken.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(ScreenError, match=r"broken.csv.gz: can't be read as a table"):
        annotation.read_chembl2k(tmp_path / "broken.csv.gz", tmp_path / "keys.parquet")


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


@needs_mirror
def test_the_tables_of_families_hold_the_real_targets():
    chembl = pd.read_csv(mirrored("chembl2k/raw/assays.csv.gz"), nrows=1)
    columns = set(chembl) - {"smiles", "inchikey", "Metadata_JCP2022", "ChEMBL_ID"}
    assert columns == set(" ".join(CHEMBL2K_FAMILIES.values()).split())
    hub = annotation.read_repurposing_hub(mirrored("repurposing_info.tsv"))
    held = {(compound, symbol) for compound, symbols in zip(hub[COMPOUND], hub["target"], strict=True)
            for symbol in symbols}  # fmt: skip
    counts = Counter(symbol for _, symbol in held)
    most = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:100]
    listed = " ".join(HUB_FAMILIES.values()).split()
    assert set(most) - set(listed) == set() and len(listed) == len(set(listed))


# Every name among the 270 assays that tells a protein or a family, and what it should tell.
TELLING_NAMES = {
    "GalactokinaseSignaling.Lumin.KinGlo": ("GALK1", "other enzyme"),
    "MLPCN CDK5": ("CDK5", "kinase"),
    "MLPCN CFTR": ("CFTR", "ion channel"),
    "MLPCN CaV1.3": ("CACNA1D", "ion channel"),
    "MLPCN Casp-6": ("CASP6", "protease"),
    "MLPCN Dyrk-1 kinase": ("", "kinase"),  # DYRK1A or DYRK1B
    "MLPCN ERAP1": ("ERAP1", "protease"),
    "MLPCN ERp5": ("PDIA6", "other enzyme"),
    "MLPCN GASC-1": ("KDM4C", "epigenetic"),
    "MLPCN GSK3alpha": ("GSK3A", "kinase"),
    "MLPCN HDL Receptor": ("SCARB1", ""),
    "MLPCN NSD2": ("NSD2", "epigenetic"),
    "MLPCN PDI Inhibitor": ("P4HB", "other enzyme"),
    "MLPCN PHGDH": ("PHGDH", "other enzyme"),
    "MLPCN Ras Converting Enzyme": ("RCE1", "protease"),
    "MLPCN SirT5": ("SIRT5", "epigenetic"),
    "MLPCNGSK3beta": ("GSK3B", "kinase"),
    "MLPCNHDAC3": ("HDAC3", "epigenetic"),
    "MLPCNSTK33invitro": ("STK33", "kinase"),
    "PTK2Inhibition.Lumin.KinGlo": ("PTK2", "kinase"),
    "Phosphodiesterase.Absorb.600": ("", "phosphodiesterase"),
}
SILENT_NAMES = """PI3K/mTORModulation.FluorDye.Resazurin;PI3KinaseSignaling.Absorb.600;MTBInhibition.FluorProt.GFP
ApoptoticSignaling.Lumin.CaspaseGlo;NOXFamilySignaling.FluorDye.AmplexRed;HairlessSignaling.Reporter.Lux-Hrl
AndrogenSignaling.FluorDye.DAPI;PGC1Expression.QPCR.SybrGreen;p53GeneExpression.Reporter.Lux-CDIP
KRasSyntheticLethality.Lumin.CTG;GlutamateDehydrogenase.Absorb.540;TrypanothioneReductase.Absorb.355
HoxA13DNABinding.FluorOligo.HoxDNA;FRG1ProteinExpression.Reporter.Lux-FF/Ren;MLPCN A1 apoptosis;MLPCN RTT109
MLPCN Topoisomerase 1 Y. pestis;MLPCN Streptokinase expression;MLPCN ARNT/TACC3;MLPCN AF4-AF9;MLPCN PRP;MLPCN NLG
MLPCN PGC-1a Modulators;MLPCN HIF activator;MLPCN CAL PDZ;MLPCN VIF;MLPCN Hsp40;MLPCN Rad54;MLPCN LGR2;MLPCN FGF-22
MLPCN T. cruzi inhibition;MLPCN C. diff tox;MLPCN Insulin Secretion;MLPCN HIV Entry;MLPCN SUMO Inhibitors;220_692
MLPCN Ras selective lethality;MLPCNRanGTPinhibitor;MLPCN Cancer Stem Cells;MLPCN Start codon fidelity;MLPCN miR-122
MLPCN Epstein-Barr LMP-1;MLPCN esBAF inhibitor;CDK5/CDK2 selectivity;CDK5 expression;Met kit;""".replace("\n", ";")


@pytest.mark.parametrize("name", TELLING_NAMES)
def test_names_of_assays_that_tell_a_target(name):
    assert annotation.assay_target(name) == TELLING_NAMES[name]


def test_names_of_assays_that_tell_no_target():
    told = {name: annotation.assay_target(name) for name in SILENT_NAMES.split(";")}
    assert {name: what for name, what in told.items() if what != ("", "")} == {}


@needs_mirror
def test_no_other_real_name_tells_a_target():
    names = pd.read_csv(mirrored("assay_data/assay_metadata.csv"), dtype=str)["ASSAY_NAME"]
    told = {name: annotation.assay_target(name) for name in names}
    assert {name: what for name, what in told.items() if what != ("", "")} == TELLING_NAMES


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


# ------------------------------------------------------------------------------- everything about compounds


@pytest.fixture
def obtain(tmp_path):
    """Annotation files of two compounds; a role that isn't there raises KeyError, as in a data set without it."""
    texts = {
        "hub": "broad_id\tmoa\ttarget\tsmiles\tInChIKey14\n"
        f"BRD-K00000001-001-01-1\tcyclooxygenase inhibitor\tPTGS1\t{ASPIRIN}\t{ASPIRIN_BLOCK}\n",
        "broad_ids": "broad_id\nBRD-K00000001\nBRD-K00000002\n",
        "broad_smiles": f"smiles\n{CAFFEINE}\n{CAFFEINE}\n",
        "assay_names": ASSAY_NAMES,
        "assays_270": f"smiles,220_692,277_756\n{ASPIRIN},1,\n{CAFFEINE},0,1\n{CAFFEINE},1,1\n",
        "broad6k_assays": f"smiles,inchikey,277_756,300_1\n{ASPIRIN},{ASPIRIN_BLOCK},0,1\n",
        "toxcast_assays": f"smiles,mol_id,NVS_ENZ_hAChE\n{ASPIRIN},,0\n",
        "chembl2k_assays": f"smiles,inchikey,PTGS1\n{ASPIRIN},{ASPIRIN_BLOCK},1\n",
    }

    def give(*left_out):
        files = {}
        for role, text in texts.items():
            (tmp_path / f"{role}.txt").write_text(text)
            files[role] = LocalFile(tmp_path / f"{role}.txt", f"{len(files):064x}", len(text), True)
        for role in left_out:
            del files[role]
        return lambda role: files[role]

    return give


IDS = ["BRD-K00000001", "BRD-K00000002"]
OWN = pd.DataFrame({COMPOUND: IDS[:1], "SMILES": [ASPIRIN], "InChIKey14": ""})
EVERY = ("Moshkov 270", "broad6k", "ToxCast", "ChEMBL", "annotation")


def test_collections_bring_each_task_once(obtain, tmp_path):
    compounds, activity, tasks, notes = annotation.annotate_compounds(
        IDS, obtain(), tmp_path / "derived", own=OWN, collections=EVERY
    )
    assert compounds["InChIKey14"].tolist() == [ASPIRIN_BLOCK, CAFFEINE_BLOCK]  # the screen's own SMILES decides
    assert "1 compounds have two structures" in notes[1]
    assert tasks[["task", "source", "conflicts"]].values.tolist() == [
        ["220_692", "Moshkov 270", 1],
        ["277_756 MLPCN CFTR", "Moshkov 270", 0],
        ["300_1", "broad6k", 0],
        ["NVS_ENZ_hAChE", "ToxCast", 0],
        ["ChEMBL PTGS1", "ChEMBL", 0],
    ]
    labels = set(activity.itertuples(index=False, name=None))
    assert (IDS[0], "277_756 MLPCN CFTR", 0) not in labels, "broad6k's copy of one of the 270 is left out"
    assert {(IDS[1], "220_692", 1), (IDS[1], "277_756 MLPCN CFTR", 1), (IDS[0], "300_1", 1)} <= labels
    assert "Moshkov 270: 2 compounds have 3 outcomes in 2 assays; 1 compound-assay pairs are conflicts" in notes[2]
    assert notes[-1].startswith("ChEMBL: 1 compounds"), "no target has five actives: no tasks and no word of them"


def test_files_that_a_data_set_lacks_are_done_without(obtain, tmp_path):
    options = dict(own=OWN, collections=EVERY)
    few = obtain("broad_ids", "assays_270", "toxcast_assays", "broad6k_assays")
    _, _, tasks, _ = annotation.annotate_compounds(IDS, few, tmp_path / "derived", **options)
    assert tasks["source"].tolist() == ["ChEMBL"]
    none = obtain("hub", "assay_names", "toxcast_assays", "chembl2k_assays")
    compounds, activity, tasks, _ = annotation.annotate_compounds(
        IDS, none, tmp_path / "derived", own=OWN, collections=EVERY[:-1]
    )
    assert compounds["MoA"].tolist() == compounds["target"].tolist() == [[], []]
    assert compounds["InChIKey14"].tolist() == [ASPIRIN_BLOCK, CAFFEINE_BLOCK]
    assert len(activity) == len(tasks) == 0 and list(tasks.columns) == TASK_COLUMNS


def reach_screen() -> Screen:
    """Six compounds, of which C5 has no TX; one measured and one annotated task, and a task no pair reaches."""
    ids = [f"C{number}" for number in range(6)]
    wells = pd.DataFrame({PLATE: "", WELL: "", COMPOUND: ids, DOSE: np.nan, CONTROL: False, "Cells_A": 1.0})
    compounds = pd.DataFrame(
        {
            COMPOUND: ids,
            "InChIKey14": ["AAAAAAAAAAAAAA", "AAAAAAAAAAAAAA", "", "", "", ""],
            "SMILES": "",
            "MoA": [["a"], ["a"], ["a", "b"], ["b"], [], ["c"]],
            "target": [[] for _ in ids],
        }
    )
    rows = [(f"C{number}", "t1", number % 2) for number in range(6)] + [("C5", "t2", 1)]
    rows += [("C0", "t3", 0), ("C0", "annotated X", 1), ("C1", "annotated X", 0)]
    activity = pd.DataFrame(rows, columns=ACTIVITY_COLUMNS).astype({"active": np.int8})
    tasks = pd.DataFrame(
        {
            "task": ["t1", "t2", "t3", "annotated X"],
            "target": "",
            "family": ["kinase", "cell", "cell", "annotation: other"],
            "source": ["ChEMBL", "ChEMBL", "ChEMBL", "annotation"],
            "conflicts": [2, 1, 0, 0],
        }
    )
    return Screen("tiny", wells, wells.iloc[:5], compounds, activity, tasks)


def test_reach_counts_paired_compounds_by_source():
    table = annotation.reach(reach_screen(), min_active=2, min_inactive=3)
    columns = ["source", "compounds", "tasks", "tested", "labels", "conflicts", "families"]
    assert list(table.columns) == columns
    assert table.values.tolist() == [
        ["ChEMBL", 5, 2, 1, 6, 2, "cell 1, kinase 1"],
        ["annotation", 2, 1, 0, 2, 0, "annotation: other 1"],
        # C0 and C1 are one structure, which C2 shares mechanism a with; b is of C2 and C3
        ["MoA", 4, 2, 2, 5, 0, ""],
    ]


def test_reach_of_a_screen_without_any_label():
    screen = reach_screen()
    bare = Screen("bare", screen.cp, screen.tx, screen.compounds.assign(MoA=[[] for _ in range(6)]),
                  screen.activity.iloc[:0], screen.tasks.iloc[:0])  # fmt: skip
    assert annotation.reach(bare).values.tolist() == [["MoA", 0, 0, 0, 0, 0, ""]]


def test_reach_names_the_few_most_frequent_families():
    families = pd.Series(["a"] * 3 + ["b"] * 3 + list("cdefgh") + ["c"])
    assert annotation._family_text(families) == "a 3, b 3, c 2, d 1, e 1, f 1, 2 in other families"


@needs_mirror
def test_the_real_collections_reach_the_compounds_of_cdrp(tmp_path, monkeypatch):
    """Some of the 16,978 CDRP compounds and all that the Hub has; the mirror lacks the 270 assays."""
    roles = {
        "hub": "repurposing_info.tsv",
        "broad_ids": "broad_ids.txt",
        "broad_smiles": "smiles.txt",
        "broad6k_structures": "broad6k/raw/structure.csv.gz",
        "assay_names": "assay_metadata.csv",
        "broad6k_assays": "broad6k/raw/assays.csv.gz",
        "chembl2k_assays": "chembl2k/raw/assays.csv.gz",
        "toxcast_assays": "moltoxcast/raw/assays.csv.gz",
    }
    files = {role: LocalFile(mirrored(name), name.replace("/", "-")[:16], 0, True) for role, name in roles.items()}
    ids = annotation.read_broad_structures(files["broad_ids"].path, files["broad_smiles"].path)[COMPOUND]
    known = annotation.read_repurposing_hub(files["hub"].path)[COMPOUND]
    ids = pd.concat([ids[::12], known]).drop_duplicates().tolist()
    options = dict(collections=EVERY)
    annotation.annotate_compounds(ids, files.__getitem__, tmp_path, **options)
    monkeypatch.setattr(annotation, "inchikeys", lambda smiles: pytest.fail("keys are computed again"))
    compounds, activity, tasks, _ = annotation.annotate_compounds(ids, files.__getitem__, tmp_path, **options)
    assert set(tasks["source"]) == {"broad6k", "ToxCast", "ChEMBL", "annotation"}
    assert (tasks["source"] == "broad6k").sum() == 32 and tasks["task"].is_unique
    assert not activity.duplicated([COMPOUND, "task"]).any()
    measured, kept = profiles.measured_only(activity, tasks)
    assert len(measured) < len(activity) and set(kept["source"]) == {"broad6k", "ToxCast", "ChEMBL"}
    symbol = tasks.loc[tasks["source"] == "annotation", "target"].iloc[0]
    held = compounds.set_index(COMPOUND)["target"].map(lambda targets: symbol in targets)
    labels = activity[activity["task"] == f"annotated {symbol}"].set_index(COMPOUND)["active"]
    assert labels.sum() == held.sum() >= 5 and (held[labels.index] == labels.astype(bool)).all()


def outcomes_by_block(assays: annotation.AssayTable, compounds: pd.DataFrame) -> pd.Series:
    """Labels by the block alone, active if any isomer is: what the own rows of compounds are held against."""
    grouped = assays.labels.groupby(np.asarray(assays.blocks, dtype=object)).max()
    rows = compounds[compounds["InChIKey14"].isin(grouped.index)]
    return grouped.loc[rows["InChIKey14"]].set_axis(rows[COMPOUND]).rename_axis(columns="task").stack().dropna()


@needs_mirror
@pytest.mark.parametrize("screen", ["cmea-u2os", "every CDRP compound"])
def test_no_real_label_contradicts_the_own_row_of_a_compound(screen, tmp_path):
    structures = annotation.read_broad_structures(mirrored("broad_ids.txt"), mirrored("smiles.txt"))
    names = (mirrored("broad6k/raw/assays.csv.gz"), mirrored("assay_metadata.csv"))
    assays = annotation.read_broad6k(*names, tmp_path / "keys.parquet")
    if screen == "cmea-u2os":
        read = datasets.read_screen(screen, mirror=MIRROR, data_dir=tmp_path)
        compounds = read.compounds
        ours = read.activity[read.activity["task"].isin(assays.tasks["task"])]
        conflicts = read.tasks.loc[read.tasks["source"] == "broad6k", "conflicts"].sum()
    else:
        compounds, _ = annotation.join_structures(
            structures[COMPOUND].drop_duplicates().tolist(), [structures], tmp_path
        )
        ours, tasks = annotation.outcomes(assays, compounds, tmp_path)
        conflicts = tasks["conflicts"].sum()
    own = assays.labels.groupby(np.asarray(assays.keys, dtype=object)).max().drop(index="", errors="ignore")
    keys = pd.Series(annotation._keys_of(compounds["SMILES"].tolist(), tmp_path), index=compounds[COMPOUND])
    keys = keys[keys.isin(own.index)]
    own = own.loc[keys].set_axis(keys.index).rename_axis(columns="task").stack().dropna()
    ours = ours.set_index([COMPOUND, "task"])["active"]
    before = outcomes_by_block(assays, compounds)
    wrong = {name: (labels.reindex(own.index) != own).sum() for name, labels in (("block", before), ("own", ours))}
    print(
        f"{screen}: {len(own)} own outcomes ({own.sum():.0f} active); by block {len(before)} ({before.sum():.0f} "
        f"active), {wrong['block']} contradict own ones; now {len(ours)} ({ours.sum()} active), {conflicts} conflicts"
    )
    assert wrong["own"] == 0 < len(own) <= len(ours) < len(before)
    assert wrong["block"] > 0, "the rule that was given up would fail this test"
    assert (ours <= before.reindex(ours.index)).all()
