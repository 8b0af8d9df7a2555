"""Rosetta screens: every oddity of their files by itself, and the same result however the same table is written."""

import gzip
import math

import numpy as np
import pandas as pd
import pytest

from cpx_utils import datasets
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL, ScreenError, feature_columns

COLUMNS = {
    "cp": {"treatment": "Metadata_key", "plate": "Metadata_Plate", "well": "Metadata_Well"},
    "tx": {"treatment": "key", "plate": "det_plate", "well": "det_well", "smiles": "x_smiles"},
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
def read(tmp_path, monkeypatch):
    """A function that writes tables and reads them as a screen of the registry."""

    def function(cp=CP, tx=TX, symbols=("TP53", "HLA-DMA"), **fields):
        files = []
        for role, name in (("cp", "cp.csv.gz"), ("tx", "tx.csv.gz"), ("idmap", "idmap.xlsx")):
            files.append(datasets.RemoteFile(role, f"https://x.org/{name}", "sha256:0", 0, "", ""))
            path = tmp_path / "mirror" / files[-1].mirror_path
            path.parent.mkdir(parents=True, exist_ok=True)
            if role in ("cp", "tx"):
                content = cp if role == "cp" else tx
                path.write_bytes(content if isinstance(content, bytes) else gzip.compress(content.encode(), mtime=0))
        pd.DataFrame({"probe_id": ["200001_at", "200002_s_at"], "symbol": symbols}).to_excel(path, index=False)
        screen = datasets.Dataset("test", "rosetta", tuple(files), columns=COLUMNS)
        monkeypatch.setitem(datasets.DATASETS, "test", datasets.replace(screen, **fields))
        options = {"mirror": str(tmp_path / "mirror"), "data_dir": str(tmp_path / "data"), "unverified": True}
        return datasets.read_screen("test", **options)

    return function


def assert_same(found, expected):
    for name in ("cp", "tx", "compounds"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name))


def noted(screen, words):
    return any(words in note for note in screen.notes)


def with_rows(columns, rows):
    """The CP table with further wells, which have these values in these columns."""
    frame = table(CP).assign(control_type="")
    more = pd.DataFrame(rows, columns=columns)
    place = {"Metadata_Plate": "P9", "Metadata_Well": [f"W{number}" for number in range(len(more))]}
    return text(pd.concat([frame, more.assign(**place, Cytoplasm_C="1")]).fillna(""))


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
    series = read(tx=TX.replace("BRD-K00000001_3.34", "BRD-K00000001_1.11"))  # a neighbour in the series
    np.testing.assert_array_equal(series.tx[DOSE], [1.11, 10, np.nan])


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


def test_negative_controls_in_every_spelling(read):
    columns = ["Metadata_key", "control_type", "Metadata_pert_type"]
    found = read(cp=with_rows(columns, [row[:3] for row in CONTROLS])).cp.iloc[4:]
    expected = [row[3] for row in CONTROLS]
    assert found[CONTROL].tolist() == found[DOSE].isna().tolist() == expected
    assert found[COMPOUND].tolist() == ["DMSO" if control else "BRD-K00000009" for control in expected]


# a key and its nominal dose
DOSES = {
    "BRD-K00000001_3.3333": 3.33,
    "BRD-K00000001_1e1": 10.0,
    "BRD-K00000001_0": math.nan,
    "BRD-K00000001": math.nan,
}


def test_the_dose_comes_from_the_key(read):
    found = read(cp=with_rows(["Metadata_key"], [(key,) for key in DOSES])).cp[4:]
    np.testing.assert_array_equal(found[DOSE], list(DOSES.values()))
    assert found[COMPOUND].eq("BRD-K00000001").all()


def test_alleles_are_whole_keys_without_dose(read):
    first, allele = "BRD-K00000001-001-02-3_3.33", "ccsbBroad304_00001"
    found = read(cp=CP.replace(first, allele), tx=TX.replace("BRD-K00000001_3.34", allele), alleles=True)
    assert found.cp[COMPOUND][0] == found.tx[COMPOUND][0] == allele
    assert found.cp.loc[found.cp[CONTROL], COMPOUND].tolist() == ["negcon"] and found.cp[DOSE].isna().all()
    assert noted(found, "overexpressed alleles") and len(found.activity) == len(found.tasks) == 0


def test_probes_become_symbols_where_these_are_their_own(read):
    tx = table(TX).assign(**{"200009_at": ["7", "8", "9"]})
    found = read(tx=text(tx))
    expected = {"200009_at": [7, 8, 9], "HLA-DMA": [2, 4, 6], "TP53": [1, 3, 5]}
    assert found.tx[feature_columns(found.tx)].to_dict("list") == expected
    shared = read(tx=text(tx), symbols=("TP53", "TP53"))
    assert feature_columns(shared.tx) == ["200001_at", "200002_s_at", "200009_at"]


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
    "gzip members": members,
    "a mark and quotes": lambda content: "\ufeff" + quoted(content),
    "NA for empty": lambda content: content.replace(",,", ",NA,"),
    "upper-case controls": lambda content: content.replace("DMSO", "Dmso").replace("negcon", "NegCon"),
}


@pytest.mark.parametrize("writing", WRITINGS)
def test_the_same_table_gives_the_same_result(read, writing):
    expected = read()
    assert_same(read(cp=WRITINGS[writing](CP), tx=WRITINGS[writing](TX)), expected)


WRONG = {
    "no key": (dict(cp=CP.replace("Metadata_key", "Metadata_other")), r"cp\.csv\.gz: column 'Metadata_key' is missing"),
    "no plate": (
        dict(tx=TX.replace("det_plate", "plate")),
        r"tx\.csv\.gz: column 'det_plate' is missing; there are 'pl",
    ),
    "no features": (dict(tx=TX.replace("_at", "")), r"tx\.csv\.gz: no feature columns"),
    "a ragged row": (dict(cp=CP + "1,2,3\n"), r"cp\.csv\.gz: can't be read as a table .*[Ee]xpected 9 columns, got 3"),
    "a word far down": (
        dict(cp=CP + "P8,B01,DMSO,,,x,1,1,1\n" * 60 + "P8,C1,DMSO,,,x,oops,1,1\n"),
        r"cp\.csv\.gz: can't be read .*'oops'",
    ),
    "empty": (dict(cp="\n"), r"cp\.csv\.gz: can't be read as a table"),
    "no utf-8": (dict(cp=gzip.compress(CP.replace("one", "\xe9").encode("latin-1"))), r"cp\.csv\.gz: can't be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told_in_one_line(read, name):
    tables, message = WRONG[name]
    with pytest.raises(ScreenError, match=message) as caught:
        read(**tables)
    assert "\n" not in str(caught.value)
