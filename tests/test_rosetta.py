"""Rosetta screens: every oddity of their files by itself, and the same result however the same table is written."""

import gzip
import hashlib
import math
import os

import numpy as np
import pandas as pd
import pytest

from cpx_utils import rosetta
from cpx_utils.downloads import LocalFile
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL, ScreenError, feature_columns
from cpx_utils.rosetta import ProfileColumns, read_rosetta

COLUMNS = {
    "cp": ProfileColumns(
        treatment="Metadata_key", plate="Metadata_Plate", well="Metadata_Well", dose="Metadata_mmoles", name="iname"
    ),
    "tx": ProfileColumns(treatment="key", plate="det_plate", well="det_well", dose="pert_dose", smiles="x_smiles"),
}
CP = """\
Metadata_Plate,Metadata_Well,Metadata_key,Metadata_mmoles,Metadata_pert_type,iname,Cells_A,Nuclei_B,Cytoplasm_C
24007,A01,BRD-K00000001-001-02-3_3.33,3.3333,trt,one,0.5,1,2
24007.0,A02,BRD-K00000002-001-02-3_10,10,trt,two,-1.5,2,1e-3
24007,A03,DMSO,,control,DMSO,0.25,3,4
P8,A01,BRD-K00000001-002-02-3_3.33,3.3333,trt,one,7,4,-8
"""
TX = """\
det_plate,det_well,key,pert_dose,x_smiles,control_type,200001_at,200002_s_at
REP1,A01,BRD-K00000001_3.34,3.34,CCO,,1,2
REP1,A02,BRD-K00000003_10,10,CCN,,3,4
REP1,A03,,,,negcon,5,6
"""


@pytest.fixture
def read(tmp_path):
    """A function that writes tables and reads them as a screen."""
    idmap = tmp_path / "idmap.xlsx"
    pd.DataFrame({"probe_id": ["200001_at", "200002_s_at"], "symbol": ["TP53", "HLA-DMA"]}).to_excel(idmap, index=False)

    def write(name, content):
        content = content if isinstance(content, bytes) else gzip.compress(content.encode(), mtime=0)
        path = tmp_path / f"{name}.csv.gz"
        path.write_bytes(content)
        return LocalFile(path, hashlib.sha256(content).hexdigest(), len(content), True)

    def function(cp=CP, tx=TX, columns=COLUMNS, idmap=idmap, cache=tmp_path / "derived"):
        return read_rosetta(columns, write("cp", cp), write("tx", tx), idmap, cache)

    function.folder = tmp_path
    return function


def assert_same(found, expected):
    for name in ("cp", "tx"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name))
    pd.testing.assert_frame_equal(found.compounds, expected.compounds)


def table(text):
    return pd.DataFrame([line.split(",") for line in text.splitlines()[1:]], columns=text.splitlines()[0].split(","))


def text(frame, **options):
    return frame.to_csv(index=False, **options)


# ------------------------------------------------------------------------------------------------ what is read


def test_a_screen_is_read_value_for_value(read):
    found = read()
    assert feature_columns(found.cp) == ["Cells_A", "Cytoplasm_C", "Nuclei_B"]
    assert found.cp["Cells_A"].tolist() == [0.5, -1.5, 0.25, 7.0]
    assert found.cp["Cytoplasm_C"].tolist() == [2.0, np.float32(1e-3), 4.0, -8.0]
    assert found.cp[feature_columns(found.cp)].dtypes.eq(np.float32).all()
    assert found.cp[PLATE].tolist() == ["24007", "24007", "24007", "P8"]  # numbers and words in one column, 24007.0 too
    assert found.cp[WELL].tolist() == ["A01", "A02", "A03", "A01"]
    assert found.cp[COMPOUND].tolist() == ["BRD-K00000001", "BRD-K00000002", "DMSO", "BRD-K00000001"]
    assert found.cp[CONTROL].tolist() == [False, False, True, False]
    np.testing.assert_array_equal(found.cp[DOSE], [3.33, 10, np.nan, 3.33])
    assert found.tx[feature_columns(found.tx)].to_dict("list") == {"HLA-DMA": [2, 4, 6], "TP53": [1, 3, 5]}
    assert found.tx[COMPOUND].tolist() == ["BRD-K00000001", "BRD-K00000003", "DMSO"]


def test_doses_that_differ_in_the_third_digit_meet_on_cps(read):
    found = read()
    np.testing.assert_array_equal(found.tx[DOSE], [3.33, 10, np.nan])
    assert any("0 CP and 1 TX wells have a dose that differs by less than 5%" in note for note in found.notes)
    series = read(
        tx=TX.replace("BRD-K00000001_3.34", "BRD-K00000001_1.11")
    )  # a neighbour in the series is another dose
    np.testing.assert_array_equal(series.tx[DOSE], [1.11, 10, np.nan])


def test_compounds_carry_structure_and_name(read):
    compounds = read().compounds.set_index(COMPOUND)
    assert compounds["SMILES"].to_dict() == {"BRD-K00000001": "CCO", "BRD-K00000002": "", "BRD-K00000003": "CCN"}
    assert compounds["name"].tolist() == ["one", "two", ""]
    assert compounds["MoA"].tolist() == [[], [], []]


def test_compounds_on_one_side_are_kept_and_counted(read):
    assert any(
        "1 compounds are in both modalities, in 1 treatments; 1 are in CP only and 1 in TX only" in note
        for note in read().notes
    )


# keys, control_type, pert_type and whether that is a negative control
CONTROLS = [
    ("DMSO", "", "", True),
    ("dmso", "", "", True),
    ("negcon", "", "", True),
    ("NegCon", "", "trt", True),
    ("DMSO_0", "", "", True),
    ("DMSO_-666", "", "", True),
    ("", "negcon", "", True),
    ("", "NEGCON", "control", True),
    ("BRD-K00000009_10", "negcon", "", True),
    ("", "", "control", True),
    ("mock", "", "Control", True),
    ("BRD-K00000009_10", "poscon_cp", "control", False),
    ("BRD-K00000009_10", "", "trt", False),
]


@pytest.mark.parametrize(("key", "kind", "perturbation", "expected"), CONTROLS)
@pytest.mark.parametrize("prefix", ["", "Metadata_"])
def test_negative_controls_in_every_spelling(read, key, kind, perturbation, expected, prefix):
    frame = (
        table(CP).drop(columns="Metadata_pert_type").assign(**{f"{prefix}control_type": "", f"{prefix}pert_type": ""})
    )
    frame.loc[1, ["Metadata_key", f"{prefix}control_type", f"{prefix}pert_type"]] = [key, kind, perturbation]
    found = read(cp=text(frame)).cp
    assert found[CONTROL].tolist() == [False, expected, True, False]
    assert found[COMPOUND][1] == ("DMSO" if expected else "BRD-K00000009")
    assert math.isnan(found[DOSE][1]) == expected


def test_repeated_wells_keep_the_first_and_wells_without_place_stay(read):
    lines = CP.splitlines()
    again = lines[1].replace(",0.5,1,2", ",99,99,99")
    found = read(cp="\n".join([*lines, again, again.replace("24007", "24007.0")]) + "\n")
    assert found.cp["Cells_A"].tolist() == [0.5, -1.5, 0.25, 7.0]
    assert any("CP: 2 rows repeat a plate's well" in note for note in found.notes)
    columns = COLUMNS | {"cp": ProfileColumns(treatment="Metadata_key", plate="Metadata_Plate")}
    unplaced = read(columns=columns)
    assert unplaced.cp[WELL].tolist() == [""] * 4
    missing = read(cp=text(table(CP).drop(columns="Metadata_Well")))
    assert missing.cp[WELL].tolist() == [""] * 4
    assert any("CP table: no column Metadata_Well" in note for note in missing.notes)


def test_wells_without_a_treatment_are_dropped_and_counted(read):
    found = read(cp=CP.replace("BRD-K00000002-001-02-3_10", ""))
    assert found.cp[COMPOUND].tolist() == ["BRD-K00000001", "DMSO", "BRD-K00000001"]
    assert found.cp["Cells_A"].tolist() == [0.5, 0.25, 7.0]
    assert any("CP: 1 wells without treatment" in note for note in found.notes)


@pytest.mark.parametrize("written", ["inf", "-inf", "Inf", "-Inf", "INF", "Infinity", "1e39"])
def test_infinite_values_count_as_missing(read, written):
    found = read(cp=CP.replace(",-1.5,", f",{written},"))
    np.testing.assert_array_equal(found.cp["Cells_A"], np.array([0.5, np.nan, 0.25, 7], np.float32))
    assert any("CP: 1 infinite values count as missing" in note for note in found.notes)


@pytest.mark.parametrize("written", ["", "NA", "NaN", "nan", "-nan", '""', '"NA"', "null", "None", "<NA>", "#N/A"])
def test_gaps_in_every_spelling(read, written):
    found = read(cp=CP.replace(",-1.5,", f",{written},"))
    np.testing.assert_array_equal(found.cp["Cells_A"], np.array([0.5, np.nan, 0.25, 7], np.float32))
    assert not any("infinite" in note for note in found.notes)


def test_features_that_tell_nothing_are_dropped_and_counted(read):
    frame = table(CP).assign(Cells_empty="", Cells_same="3.5", Nuclei_same_or_missing=["1", "", "1", "inf"])
    found = read(cp=text(frame))
    assert feature_columns(found.cp) == ["Cells_A", "Cytoplasm_C", "Nuclei_B"]
    assert any("CP: 1 features without any value and 2 constant ones were dropped" in note for note in found.notes)


# the dose in the key, that in the metadata, and the nominal dose
DOSES = [
    ("BRD-K00000001_3.33", "3.4", 3.33),
    ("BRD-K00000001_3.3333", "", 3.33),
    ("BRD-K00000001", "3.3333", 3.33),
    ("BRD-K00000001_1e1", "", 10.0),
    ("BRD-K00000001", "-666", math.nan),
    ("BRD-K00000001_0", "", math.nan),
    ("BRD-K00000001", "", math.nan),
    ("BRD-K00000001", "inf", math.nan),
    ("BRD-K00000001", "high", math.nan),
]


@pytest.mark.parametrize(("key", "column", "expected"), DOSES)
def test_the_dose_comes_from_the_key_or_else_from_the_metadata(read, key, column, expected):
    frame = table(CP).assign(Metadata_mmoles="")
    frame.loc[1, ["Metadata_key", "Metadata_mmoles"]] = [key, column]
    tx = TX.replace("BRD-K00000001_3.34,3.34", "BRD-K00000004_3.34,3.34")
    np.testing.assert_array_equal(read(cp=text(frame), tx=tx).cp[DOSE][1], expected)


def test_a_metadata_column_in_millimolar_is_told_by_the_keys(read):
    frame = table(CP).assign(Metadata_mmoles=["0.00333", "0.01", "", "0.00333"])
    frame.loc[3, "Metadata_key"] = "BRD-K00000001-002-02-3"
    np.testing.assert_array_equal(read(cp=text(frame)).cp[DOSE], [3.33, 10, np.nan, 3.33])


def test_alleles_are_whole_keys_without_dose(read):
    columns = {
        "cp": ProfileColumns(treatment="Metadata_key", plate="Metadata_Plate", well="Metadata_Well", alleles=True),
        "tx": ProfileColumns(treatment="key", plate="det_plate", well="det_well", alleles=True),
    }
    cp = CP.replace("BRD-K00000001-001-02-3_3.33", "ccsbBroad304_00001").replace(
        "BRD-K00000001-002-02-3_3.33", "BRDN_1"
    )
    found = read(cp=cp, tx=TX.replace("BRD-K00000001_3.34", "ccsbBroad304_00001"), columns=columns)
    assert found.cp[COMPOUND].tolist()[::3] == ["ccsbBroad304_00001", "BRDN_1"]
    assert found.cp.loc[found.cp[CONTROL], COMPOUND].tolist() == ["negcon"] and found.cp[DOSE].isna().all()
    assert found.tx[COMPOUND][0] == "ccsbBroad304_00001"
    assert (found.compounds["SMILES"] == "").all()
    assert any("overexpressed alleles" in note for note in found.notes)


def test_probes_become_symbols_unique_ones(read):
    idmap = read.folder / "other.xlsx"
    pd.DataFrame({"probe_id": ["200001_at", "200002_s_at"], "symbol": ["TP53", "TP53"]}).to_excel(idmap, index=False)
    tx = table(TX).assign(**{"200009_at": ["7", "8", "9"]})
    found = read(tx=text(tx), idmap=idmap)
    assert found.tx[feature_columns(found.tx)].to_dict("list") == {
        "200009_at": [7, 8, 9],
        "TP53": [1, 3, 5],
        "TP53_2": [2, 4, 6],
    }
    assert any("1 probes have no gene symbol" in note for note in found.notes)
    assert any("1 genes have several probes; further ones are numbered (TP53_2)" in note for note in found.notes)
    reordered = read(tx=text(tx[tx.columns[::-1]]), idmap=idmap)
    assert_same(reordered, found)


# --------------------------------------------------------------------------------------- the same result


def members(content, size=40):
    """The same text as a gzip file of several members."""
    raw = content.encode()
    return b"".join(gzip.compress(raw[start : start + size], mtime=0) for start in range(0, len(raw), size))


def quoted(content):
    return "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in content.splitlines()) + "\n"


def with_extra_columns(content):
    frame = table(content)
    frame.insert(0, "Unnamed: 0", range(len(frame)))
    frame.insert(3, "Metadata_Cells_at", ["3", "3.0", "word", ""][: len(frame)])
    frame.insert(4, "Cells_at_comment", ["a", "2", "", ""][: len(frame)])
    return text(frame.assign(remark='with, comma and "quotes"'))


WRITINGS = {
    "columns in another order": lambda content: text(table(content)[table(content).columns[::-1]]),
    "unknown columns": with_extra_columns,
    "an index without a name": lambda content: table(content).to_csv(index=True),
    "gzip members": members,
    "carriage returns": lambda content: content.replace("\n", "\r\n"),
    "a byte-order mark": lambda content: "\ufeff" + content,
    "quoted numbers": quoted,
    "a mark and quotes": lambda content: "\ufeff" + quoted(content),
    "no gzip": lambda content: content.encode(),
    "no line end at the end": lambda content: content.rstrip("\n"),
    "blanks around numbers": lambda content: content.replace(",0.5,", ", 0.5 ,"),
    "numbers written otherwise": lambda content: content.replace(",-1.5,", ",-1.50000E+00,"),
    "NA for empty": lambda content: content.replace(",,", ",NA,"),
    "upper-case controls": lambda content: content.replace("DMSO", "Dmso").replace("negcon", "NegCon"),
}


@pytest.mark.parametrize("writing", WRITINGS)
def test_the_same_table_gives_the_same_result(read, writing):
    expected = read()
    assert_same(read(cp=WRITINGS[writing](CP), tx=WRITINGS[writing](TX)), expected)


def test_many_blocks_give_what_one_gives(read, monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 3)).astype(np.float32)
    rows = [
        f"1,W{index:03d},BRD-K00000001_3.33,3.33,trt,one," + ",".join(f"{value!s}" for value in row)
        for index, row in enumerate(values)
    ]
    cp = "\n".join([CP.splitlines()[0], *rows]) + "\n"
    monkeypatch.setattr(rosetta, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(rosetta, "ROW_GROUP", 64)
    found = read(cp=cp)
    np.testing.assert_array_equal(found.cp[["Cells_A", "Nuclei_B", "Cytoplasm_C"]].to_numpy(), values)


# ----------------------------------------------------------------------------------------------- the cache


def test_a_table_is_converted_once_and_then_reused(read, monkeypatch):
    first = read()
    derived = sorted(path.name for path in (read.folder / "derived").iterdir())
    digests = {name: hashlib.sha256((read.folder / f"{name}.csv.gz").read_bytes()).hexdigest() for name in ("cp", "tx")}
    assert derived == sorted(f"{digest[:16]}-{name}.parquet" for name, digest in digests.items())

    def refuse(*arguments):
        raise AssertionError("the table is read again")

    monkeypatch.setattr(rosetta, "_csv_batches", refuse)
    assert_same(read(), first)


def test_a_damaged_or_outdated_derived_file_is_made_again(read, monkeypatch):
    first = read()
    for path in (read.folder / "derived").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert_same(read(), first)
    monkeypatch.setattr(rosetta, "LAYOUT", b"another")
    before = {path.name: path.stat().st_mtime_ns for path in (read.folder / "derived").iterdir()}
    assert_same(read(), first)
    after = {path.name: path.stat().st_mtime_ns for path in (read.folder / "derived").iterdir()}
    assert before.keys() == after.keys() and all(after[name] > before[name] for name in before)


def test_a_cache_that_cannot_be_written_is_done_without(read):
    expected = read()
    (read.folder / "file").write_text("no folder")
    assert_same(read(cache=read.folder / "file"), expected)


# ----------------------------------------------------------------------------------------------- mistakes


WRONG = {
    "no key": (
        dict(cp=CP.replace("Metadata_key", "Metadata_other")),
        r"cp\.csv\.gz: column 'Metadata_key' is missing.*'Metadata_other'",
    ),
    "no tx key": (dict(tx=TX.replace(",key,", ",id,")), r"tx\.csv\.gz: column 'key' is missing.*'id'"),
    "no cp features": (
        dict(cp=CP.replace("Cells_", "X").replace("Nuclei_", "X").replace("Cytoplasm_", "X")),
        r"cp\.csv\.gz: no feature columns; their names contain 'Cells_' or 'Cytoplasm_' or 'Nuclei_'",
    ),
    "a ragged row": (
        dict(cp=CP + "1,2,3\n"),
        r"cp\.csv\.gz: can't be read as a table \(.*[Ee]xpected 9 columns, got 3",
    ),
    "empty": (dict(cp=""), r"cp\.csv\.gz: is empty"),
    "cut off": (dict(cp=gzip.compress(CP.encode())[:-20]), r"cp\.csv\.gz: can't be read as a gzipped table"),
    "no utf-8": (dict(cp=gzip.compress(CP.replace("one", "\xe9").encode("latin-1"))), r"cp\.csv\.gz: can't be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told_in_one_line(read, name):
    tables, message = WRONG[name]
    with pytest.raises(ScreenError, match=message) as caught:
        read(**tables)
    assert "\n" not in str(caught.value)
    derived = read.folder / "derived"
    assert not derived.is_dir() or not [path for path in derived.iterdir() if path.name.startswith(".writing")]


def test_a_word_far_down_in_a_feature_is_named(read, monkeypatch):
    monkeypatch.setattr(rosetta, "SNIFFED_ROWS", 1)
    with pytest.raises(ScreenError, match=r"cp\.csv\.gz: feature 'Cells_A' holds 'oops'; features are numbers"):
        read(cp=CP.replace(",7,4,-8", ",oops,4,-8"))


def test_a_wrong_probe_table_is_named(read):
    wrong = read.folder / "wrong.xlsx"
    pd.DataFrame({"probe": ["x"], "symbol": ["y"]}).to_excel(wrong, index=False)
    with pytest.raises(ScreenError, match=r"wrong\.xlsx: column 'probe_id' is missing; there are 'probe', 'symbol'"):
        read(idmap=wrong)
    wrong.write_bytes(os.urandom(64))
    with pytest.raises(ScreenError, match=r"wrong\.xlsx: can't be read as an Excel table"):
        read(idmap=wrong)
