"""A user's own screen by TOML: what is read, and one clear line for every mistake."""

import gzip

import numpy as np
import pandas as pd
import pytest

from cpx_utils import datasets
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    METADATA_COLUMNS,
    PLATE,
    WELL,
    ScreenError,
    feature_columns,
    treatments,
)

TOML = """\
name = "my-screen"
[cp]
path = "cp.csv"
[tx]
path = "tx.csv.gz"
"""
CP = """\
Metadata_Plate,Metadata_Well,Metadata_Compound,Metadata_Dose,Metadata_Control,Cells_A,Nuclei_B,Image_C
1,A01,001,3.3333,0,0.5,1,9
1,A02,002,3.3333,0,-1.5,2,9
1,A03,DMSO,,1,0.0,,9
"""
TX = """\
Metadata_Plate,Metadata_Compound,Metadata_Dose,Metadata_Control,TP53,HLA-DMA,quality
7,001,3.33,False,"1.25",2,good
7,002,3.33,False,0.5,3,poor
7,DMSO,,negcon,0.25,4,good
"""


@pytest.fixture
def screen(tmp_path):
    """Write a sound screen; the function returned rewrites single files and gives the TOML's path."""

    def write(toml=TOML, cp=CP, tx=TX, **files):
        (tmp_path / "screen.toml").write_text(toml, encoding="utf-8")
        (tmp_path / "cp.csv").write_text(cp, encoding="utf-8")
        (tmp_path / "tx.csv.gz").write_bytes(gzip.compress(tx.encode()))
        for name, text in files.items():
            (tmp_path / name.replace("_csv", ".csv")).write_text(text, encoding="utf-8")
        return str(tmp_path / "screen.toml")

    return write


def refused(path: str) -> str:
    with pytest.raises(ScreenError) as caught:
        datasets.read_screen(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_sound_screen(screen):
    path = screen()
    read = datasets.read_screen(path)
    assert read.name == datasets.dataset_name(path) == "my-screen"
    assert list(read.cp.columns) == [*METADATA_COLUMNS, "Cells_A", "Nuclei_B"]
    assert list(read.tx.columns) == [*METADATA_COLUMNS, "HLA-DMA", "TP53"]  # sorted: the file's order plays no part
    assert read.cp[COMPOUND].tolist() == ["001", "002", "DMSO"]  # zeros kept
    assert read.cp[CONTROL].tolist() == read.tx[CONTROL].tolist() == [False, False, True]
    assert read.tx[WELL].tolist() == ["", "", ""] and read.tx[PLATE].tolist() == ["7"] * 3
    assert read.tx["TP53"].dtype == np.float32 and read.tx["TP53"][0] == 1.25
    assert np.isnan(read.cp["Nuclei_B"][2])
    # 3.3333 and 3.33 are one nominal dose
    assert treatments(read.cp).tolist()[:2] == treatments(read.tx).tolist()[:2] == ["001@3.33", "002@3.33"]
    assert read.cp[DOSE][0] == read.tx[DOSE][0]
    assert read.compounds[COMPOUND].tolist() == ["001", "002"]
    assert len(read.activity) == len(read.tasks) == 0
    assert "'quality'" in read.notes[0] and "taken as metadata" in read.notes[0]
    table = datasets.describe_sources(read)
    assert table["file"].tolist() == ["screen.toml", "cp.csv", "tx.csv.gz"] and table["verified"].all()


def test_without_any_optional_column(screen):
    read = datasets.read_screen(
        screen(cp="Metadata_Compound,Cells_A\na,1\nb,2\n", tx="Metadata_Compound,TP53\na,1\nb,2\n")
    )
    assert read.cp[PLATE].tolist() == ["", ""] and read.cp[DOSE].isna().all() and not read.cp[CONTROL].any()
    assert treatments(read.cp).tolist() == ["a", "b"]


def test_own_column_names_regular_expressions_and_parquet(screen, tmp_path):
    table = pd.DataFrame(
        {
            "cpd": pd.Categorical(["a", "b"]),
            "conc": ["10", "20"],
            "neg": [False, False],
            "f_1": ["1.5", "2.5"],
            "f_2": [1, 2],
            "other": [5.0, 6.0],
        }
    )
    table.to_parquet(tmp_path / "cp.parquet")
    table.rename(columns={"f_1": "G1", "f_2": "G2"}).set_index("cpd").to_parquet(tmp_path / "tx.parquet")
    read = datasets.read_screen(
        screen(
            toml=(
                'name = "p"\n[cp]\npath = "cp.parquet"\nfeatures = "^f_"\n[tx]\npath = "tx.parquet"\nfeatures = "^G"\n'
                '[columns]\ncompound = "cpd"\ndose = "conc"\ncontrol = "neg"\n'
            )
        )
    )
    assert feature_columns(read.cp) == ["f_1", "f_2"] and feature_columns(read.tx) == ["G1", "G2"]
    assert read.cp["f_1"].tolist() == [1.5, 2.5] and read.cp[DOSE].tolist() == [10, 20]
    assert read.tx[COMPOUND].tolist() == ["a", "b"]


def test_relative_paths_are_relative_to_the_toml(screen, tmp_path, monkeypatch):
    path = screen()
    monkeypatch.chdir("/")
    assert len(datasets.read_screen(path).cp) == 3
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "screen.toml").write_text(
        TOML.replace('"cp.csv"', '"../cp.csv"').replace('"tx.csv.gz"', f'"{(tmp_path / "tx.csv.gz").as_posix()}"')
    )
    assert len(datasets.read_screen(str(tmp_path / "below" / "screen.toml")).tx) == 3


def test_controls_told_by_one_table_count_in_the_other(screen):
    tx = "Metadata_Compound,TP53\n001,1\n002,2\nDMSO,0\n"
    read = datasets.read_screen(screen(tx=tx))
    assert read.tx[CONTROL].tolist() == [False, False, True]
    assert any("TX has no control column; its 1 wells" in note for note in read.notes)


def test_row_numbers_and_shared_columns_are_no_genes(screen):
    cp = CP.replace("Image_C", "batch")
    tx = "Unnamed: 0,Metadata_Compound,TP53,batch\n0,001,1,5\n1,002,2,5\n"
    read = datasets.read_screen(screen(cp=cp, tx=tx))
    assert feature_columns(read.tx) == ["TP53"]
    assert any("'Unnamed: 0' number the rows" in note for note in read.notes)
    assert any("'batch' are in the CP table too" in note for note in read.notes)


ANNOTATED = TOML + '[compounds]\npath = "c.csv"\n[activity]\npath = "a.csv"\n[tasks]\npath = "t.csv"\n'
COMPOUNDS = "Compound,SMILES,MoA,target\n001,CC(=O)Oc1ccccc1C(=O)O,COX inhibitor|analgesic,PTGS1|PTGS2\n003,C,,\n"
ACTIVITY = "compound,task,active\n001,t1,1\n002,t1,0\n002,t2,\n001,t3,true\n001,t3,1\n003,t1,1\n"
TASKS = "task,target,family\nt1,PTGS1,other enzyme\nt2,,\n"


def test_annotation_is_read_and_what_is_missing_is_noted(screen):
    read = datasets.read_screen(screen(toml=ANNOTATED, c_csv=COMPOUNDS, a_csv=ACTIVITY, t_csv=TASKS))
    row = read.compounds.set_index(COMPOUND).loc["001"]
    assert row["InChIKey14"] == "BSYNRYMUTXBXSQ"
    assert row["MoA"] == ["COX inhibitor", "analgesic"] and row["target"] == ["PTGS1", "PTGS2"]
    assert read.compounds[COMPOUND].tolist() == ["001", "002"]
    assert read.activity.values.tolist() == [["001", "t1", 1], ["002", "t1", 0], ["001", "t3", 1]]
    assert read.activity["active"].dtype == np.int8
    assert read.tasks.values.tolist() == [["t1", "PTGS1", "other enzyme", "own"], ["t3", "", "other", "own"]]
    notes = " ".join(read.notes)
    for fragment in (
        "1 compounds have a profile but no row in the compounds table (first: 002)",
        "1 rows of a.csv have no label and were dropped",
        "1 repeated labels of a.csv were dropped",
        "1 tasks are not in t.csv and have no family (first: t3)",
        "1 listed compounds have no profile",
        "1 labels of 1 compounds without a profile",
        "1 tasks without any label",
    ):
        assert fragment in notes


def test_unreadable_smiles_are_counted(screen):
    table = "compound,smiles\n001,not a molecule\n002,C\n"
    read = datasets.read_screen(screen(toml=TOML + '[compounds]\npath = "c.csv"\n', c_csv=table))
    assert any("1 SMILES of c.csv can't be read (first: 001)" in note for note in read.notes)


TOML_MISTAKES = {
    "syntax": ('name = "x"\n[cp\npath = 3\n', ["not valid TOML", "line 2"]),
    "unknown section": (TOML + '[compound]\npath = "c.csv"\n', ["'compound' is unknown", "did you mean 'compounds'?"]),
    "unknown key": (TOML.replace('path = "cp.csv"', 'file = "cp.csv"'), ["key of [cp] 'file'", "path, features"]),
    "misspelt column": (TOML + '[columns]\ncompoud = "x"\n', ["key of [columns] 'compoud'", "'compound'?"]),
    "no path": (TOML.replace('path = "cp.csv"', ""), ["[cp] needs path"]),
    "no tx": ('name = "x"\n[cp]\npath = "cp.csv"\n', ["[tx] needs path"]),
    "no name": (TOML.replace('name = "my-screen"', ""), ["name is missing"]),
    "name is a path": (TOML.replace("my-screen", "../x"), ["name '../x' is unfit for a folder"]),
    "registry name": (TOML.replace("my-screen", "Simulated"), ["belongs to a screen of the registry"]),
    "number as path": (TOML.replace('"cp.csv"', "3"), ["path in [cp] must be text in quotes, not 3"]),
    "section as text": (
        TOML.replace('[tx]\npath = "tx.csv.gz"', "").replace("[cp]", 'tx = "tx.csv.gz"\n[cp]'),
        ["tx must be a section [tx]"],
    ),
    "one column twice": (TOML + '[columns]\nplate = "p"\nwell = "p"\n', ["'p' as both plate and well"]),
    "tasks alone": (TOML + '[tasks]\npath = "t.csv"\n', ["[activity], which is missing"]),
    "address": (TOML.replace("cp.csv", "https://x.org/cp.csv"), ["https://x.org/cp.csv", "download the file first"]),
    "missing file": (TOML.replace("cp.csv", "cpp.csv"), ["cpp.csv: no such file", "relative to the TOML"]),
    "folder": (TOML.replace('"cp.csv"', '"."'), [".: is a folder"]),
    "h5ad": (TOML.replace("cp.csv", "x.h5ad"), ["x.h5ad: not a readable h5ad file"]),
    "format": (TOML.replace("cp.csv", "x.xlsx"), ["x.xlsx: unknown format", ".csv, .csv.gz, .parquet, .h5ad"]),
    "bad expression": (TOML.replace('"cp.csv"', '"cp.csv"\nfeatures = "(Cells"'), ["is no regular expression"]),
    "no match": (TOML.replace('"cp.csv"', '"cp.csv"\nfeatures = "^gene"'), ["no column is matched", "'Cells_A'"]),
    "absent column": (TOML + '[columns]\ndose = "conc"\n', ["dose = 'conc': neither cp.csv nor tx.csv.gz has"]),
}


@pytest.mark.parametrize("mistake", TOML_MISTAKES)
def test_mistakes_in_the_description(mistake, screen, tmp_path):
    toml, fragments = TOML_MISTAKES[mistake]
    for name in ("x.h5ad", "x.xlsx"):
        (tmp_path / name).write_bytes(b"")
    line = refused(screen(toml=toml))
    for fragment in fragments:
        assert fragment in line


def test_a_missing_or_unreadable_description(tmp_path):
    assert "no such file; a screen is described by a TOML file" in refused(str(tmp_path / "none.toml"))
    (tmp_path / "x.toml").write_bytes(b'name = "\xff"')
    assert "not UTF-8 text (byte 9)" in refused(str(tmp_path / "x.toml"))


def edit(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


TABLE_MISTAKES = {
    "missing column": (
        dict(cp=edit(CP, "Metadata_Compound", "Metadata_Compund")),
        ["cp.csv: column 'Metadata_Compound' (the compound id) is missing", "did you mean 'Metadata_Compund'?"],
    ),
    "all NaN": (
        dict(cp=edit(edit(edit(CP, "0.5,1,", ",1,"), "-1.5,", ","), "0.0,", ",")),
        ["cp.csv: feature 'Cells_A' is missing (NaN) in all 3 rows"],
    ),
    "infinite": (dict(cp=edit(CP, "-1.5", "inf")), ["cp.csv: feature 'Cells_A' is infinite", "data row 2"]),
    "too large": (dict(cp=edit(CP, "-1.5", "1e39")), ["cp.csv: feature 'Cells_A' is infinite or too large"]),
    "text": (dict(cp=edit(CP, "-1.5", "low")), ["cp.csv: column 'Cells_A' has 'low' in data row 2"]),
    "decimal comma": (
        dict(tx=edit(TX, "0.5,3", '"0,5",3')),
        ["tx.csv.gz: column 'TP53' has '0,5' in data row 2", "decimal point"],
    ),
    "no common compound": (
        dict(tx=edit(edit(TX, "001", "x1"), "002", "x2")),
        ["no compound in common", "'001', '002'", "'x1', 'x2'"],
    ),
    "empty id": (dict(cp=edit(CP, ",001,", ",,")), ["column 'Metadata_Compound' is empty in data row 1", "DMSO"]),
    "negative dose": (dict(cp=edit(CP, "001,3.3333", "001,-3")), ["has the dose -3 in data row 1", "micromolar"]),
    "dose with unit": (dict(cp=edit(CP, "001,3.3333", "001,3 uM")), ["'Metadata_Dose' has '3 uM' in data row 1"]),
    "odd control": (
        dict(cp=edit(CP, "DMSO,,1", "DMSO,,maybe")),
        ["'Metadata_Control' has 'maybe' in data row 3", "negcon"],
    ),
    "repeated column": (dict(cp=edit(CP, "Nuclei_B", "Cells_A")), ["column 'Cells_A' occurs more than once"]),
    "repeated well": (dict(cp=edit(CP, "A02", "A01")), ["plate '1' well 'A01' is given more than once"]),
    "semicolons": (dict(cp=CP.replace(",", ";")), ["cp.csv: columns are separated by semicolons; use commas"]),
    "longer row": (
        dict(cp=CP + "1,A04,003,1,0,1,2,3,4\n"),
        ["cp.csv: 9 values where the header has 8 columns, in data row 4"],
    ),
    "longer rows": (dict(cp=CP.replace("9\n", "9,9\n")), ["has 8 columns, in data rows 1, 2, 3", "empty cell"]),
    "shorter row": (dict(cp=CP + "1,A04,003,1\n"), ["4 values where the header has 8 columns, in data row 4"]),
    "no rows": (dict(cp=CP.splitlines()[0] + "\n"), ["cp.csv: the table has a header but no rows"]),
    "empty file": (dict(cp=""), ["cp.csv: the file is empty"]),
    "no CP features": (
        dict(cp=edit(edit(CP, "Cells_A", "x"), "Nuclei_B", "y")),
        ["no column is matched by prefix Cells_, Cytoplasm_ or Nuclei_", "features ="],
    ),
    "no genes": (dict(tx="Metadata_Compound,q\n001,good\n002,bad\n"), ["tx.csv.gz: no numeric column", "'q'"]),
    "control and compound": (dict(tx=edit(TX, "7,DMSO,,negcon", "7,DMSO,,0")), ["'DMSO' is a negative control in"]),
}


@pytest.mark.parametrize("mistake", TABLE_MISTAKES)
def test_mistakes_in_the_profiles(mistake, screen):
    files, fragments = TABLE_MISTAKES[mistake]
    line = refused(screen(**files))
    for fragment in fragments:
        assert fragment in line


ANNOTATION_MISTAKES = {
    "compound twice": (dict(c_csv=COMPOUNDS + "001,C,,\n"), ["c.csv: compound '001' is listed again in data row 3"]),
    "no compound column": (dict(c_csv="id,moa\n001,x\n"), ["c.csv: column 'compound'", "'id', 'moa'"]),
    "odd InChIKey": (dict(c_csv="compound,inchikey\n001,BSYN\n"), ["c.csv: 'BSYN' in data row 1 is no InChIKey"]),
    "label 2": (dict(a_csv=ACTIVITY + "001,t9,2\n"), ["a.csv: label '2' in data row 7", "active is 1 or 0"]),
    "both labels": (
        dict(a_csv=ACTIVITY + "001,t1,0\n"),
        ["a.csv: compound '001' is both 0 and 1 in task 't1'", "data rows 1, 7"],
    ),
    "empty compound": (dict(a_csv="compound,task,active\n,t1,1\n"), ["a.csv: the compound is empty in data row 1"]),
    "empty task": (dict(a_csv="compound,task,active\n001,,1\n"), ["a.csv: the task is empty in data row 1"]),
    "no active column": (dict(a_csv="compound,task\n001,t1\n"), ["a.csv: column 'active'", "is missing"]),
    "task twice": (dict(t_csv=TASKS + "t1,,\n"), ["t.csv: task 't1' is listed again in data row 3"]),
}


@pytest.mark.parametrize("mistake", ANNOTATION_MISTAKES)
def test_mistakes_in_the_annotation(mistake, screen):
    files, fragments = ANNOTATION_MISTAKES[mistake]
    line = refused(screen(toml=ANNOTATED, **{**dict(c_csv=COMPOUNDS, a_csv=ACTIVITY, t_csv=TASKS), **files}))
    for fragment in fragments:
        assert fragment in line


def test_damaged_files_are_named(screen, tmp_path):
    path = screen()
    whole = (tmp_path / "tx.csv.gz").read_bytes()
    for damaged, words in ((whole[:-20], "not an intact gzip file"), (b"not gzip", "not a gzip file, in spite of")):
        (tmp_path / "tx.csv.gz").write_bytes(damaged)
        assert f"tx.csv.gz: {words}" in refused(path)
    (tmp_path / "tx.csv.gz").write_bytes(whole)
    (tmp_path / "cp.csv").write_bytes(CP.replace("A01", "\u00b5").encode("latin-1"))
    assert "cp.csv: not UTF-8 text (byte 0xb5); save it as UTF-8" in refused(path)
    (tmp_path / "cp.csv").write_text(CP, encoding="utf-8-sig")
    assert len(datasets.read_screen(path).cp) == 3  # a byte-order mark is no mistake
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    assert "bad.parquet: not a readable parquet file" in refused(screen(toml=TOML.replace("cp.csv", "bad.parquet")))


def test_repeated_columns_of_a_parquet_file(screen, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table([["001"], [1.0], [2.0]], names=["Metadata_Compound", "Cells_A", "Cells_A"])
    pq.write_table(table, tmp_path / "twice.parquet")
    line = refused(screen(toml=TOML.replace("cp.csv", "twice.parquet")))
    assert "twice.parquet: column 'Cells_A' occurs more than once" in line


def test_examine_lists_every_problem(screen):
    files = dict(cp=edit(CP, "-1.5", "low"), tx=edit(TX, "Metadata_Compound", "cpd"))
    path = screen(toml=ANNOTATED, c_csv=COMPOUNDS + "001,C,,\n", a_csv=ACTIVITY, t_csv=TASKS, **files)
    found, problems = datasets.examine_screen(path)
    assert found is None
    assert [problem.split(":")[0] for problem in problems] == ["cp.csv", "tx.csv.gz", "c.csv"]
    assert refused(path).endswith("(and 2 more problems: run_all.py --check lists them)")
