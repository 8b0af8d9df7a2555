"""A user's own screen: the example is sound in every format, and every mistake in it is told in one line.

Each case spoils a copy of `examples/own_screen/` in one way and states the lines that `--check` must print: all of
them, no more.
"""

import csv
import gzip
import io
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from cpx_utils import own_screens
from cpx_utils.datasets import read_screen
from cpx_utils.own_screens import Columns, Description, ProfileFile, read_cell_painting
from cpx_utils.pipeline import main
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, METADATA_COLUMNS, PLATE, WELL, ScreenError, feature_columns

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "own_screen"
TABLES = ("cp", "tx", "compounds", "activity", "tasks")


@pytest.fixture
def folder(tmp_path):
    """A copy of the example."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "screen"))


def read(folder):
    return read_screen(folder / "screen.toml")


@pytest.fixture
def check(folder, capsys):
    """Check the screen by the command line."""

    def run(*options):
        status = main(["--dataset", str(folder / "screen.toml"), "--check", *options])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return status, printed.out.splitlines(), printed.err.splitlines()

    return run


# --- spoiling -----------------------------------------------------------------------------------------------


def contents(name, made):
    """Write bytes made from the file's own."""

    def spoil(folder):
        path = folder / name
        path.write_bytes(made(path.read_bytes() if path.exists() else b""))

    return spoil


def text(name, old, new):
    """Replace the first occurrence of a text in a file."""

    def made(content):
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return contents(name, made)


def toml(old, new):
    return text("screen.toml", old, new)


def frame(name, change):
    """Rewrite a table by a function of its data frame of text."""

    def spoil(folder):
        change(pd.read_csv(folder / name, dtype=str, keep_default_na=False)).to_csv(folder / name, index=False)

    return spoil


def cells(name, column, values):
    """Set cells of a column, by data row counted from 1."""

    def change(table):
        for row, value in values.items():
            table.loc[row - 1, column] = value
        return table

    return frame(name, change)


def both(*spoils):
    def spoil(folder):
        for one in spoils:
            one(folder)

    return spoil


def instead(name, content):
    """Another CP file: bytes, or what a function of its path writes."""

    def spoil(folder):
        (folder / "cp.csv").unlink()
        toml('path = "cp.csv"', f'path = "{name}"')(folder)
        content(folder / name) if callable(content) else (folder / name).write_bytes(content)

    return spoil


ONE_WELL = {"plate": ["P"], "well": ["A1"], "compound": ["SIM-00001"], "dose_um": [1.0], "control": ["no"],
            "Cells_A": [1.0]}  # fmt: skip


def put(group, name, values):
    """Write values as anndata does, each with the encoding that says how."""
    if sparse.issparse(values):
        kind = f"{values.format}_matrix"
        parts = {part: getattr(values, part) for part in ("data", "indices", "indptr")}
    elif isinstance(values.dtype, pd.CategoricalDtype):
        kind, parts = "categorical", {"codes": values.cat.codes, "categories": values.cat.categories}
    elif isinstance(values.dtype, pd.BooleanDtype):
        kind, parts = "nullable-boolean", {"values": values.fillna(False).astype(bool), "mask": values.isna()}
    elif isinstance(values.dtype, pd.StringDtype) and values.dtype.na_value is pd.NA:
        kind, parts = "nullable-string-array", {"values": values.astype(str), "mask": values.isna()}
    else:
        values = np.asarray(values)
        kind, parts = ("array" if values.dtype.kind in "ifb" else "string-array"), {}
        group[name] = values if kind == "array" else [str(value) for value in values]
    for part, content in parts.items():
        put(group.require_group(name), part, content)
    version = "0.1.0" if "nullable" in kind or "matrix" in kind else "0.2.0"
    group[name].attrs.update({"encoding-type": kind, "encoding-version": version})
    if sparse.issparse(values):
        group[name].attrs["shape"] = values.shape


def write_h5ad(path, table, form=np.asarray, text="str", flag="category"):
    """Write X, obs and var by anndata's layout.

    anndata 0.12 stores an index of text as an array, 0.13 as values with a mask (`text` "string"). A flag that is not
    set is missing here, as a category or as one of nullable booleans.
    """
    obs = table[["plate", "well", "compound", "dose_um"]].astype({"plate": "category", "compound": "category"})
    obs["control"] = table["control"].map({"yes": True}).astype(flag)
    values = table.drop(columns=table.columns[:5]).astype(float)
    with h5py.File(path, "w") as file:
        put(file, "X", form(values))
        for name, columns, index in (("obs", obs, table.index), ("var", obs[[]], values.columns)):
            put(file, f"{name}/_index", pd.Series(index.astype(str)).astype(text))
            for column in columns:
                put(file[name], column, columns[column])
            described = {"_index": "_index", "column-order": [*columns], "encoding-version": "0.2.0"}
            file[name].attrs.update({"encoding-type": "dataframe", **described})


def spoilt_h5ad(**changes):
    """An h5ad of one well of which datasets are replaced: by values, by what a function writes, by nothing (None)."""

    def content(path):
        write_h5ad(path, pd.DataFrame(ONE_WELL))
        with h5py.File(path, "a") as file:
            for name, value in changes.items():
                del file[name]
                if callable(value):
                    value(file, name)
                elif value is not None:
                    file[name] = value

    return instead("cp.h5ad", content)


def outside(file, name):
    file.create_dataset(name, (1, 1), "f4", external=[(__file__, 0, 4)])


def linked(file, name):
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["X"] = [[42.0]]
    file[name] = h5py.ExternalLink("other.h5", "X")


def wrong_places(file, name):
    file.create_group(name).attrs.update({"encoding-type": "csr_matrix", "shape": [1, 1]})
    for part, values in (("data", [1.0]), ("indices", [10**6]), ("indptr", [0, 1])):
        file[name][part] = values


AREA, EXTENT = "Cells_AreaShape_Area", "Cells_AreaShape_Extent"
TX, HOW = 'path = "tx.csv"', "own_screen/screen.toml shows every key"
# What is wrong, and the lines to be printed: a tuple of fragments each, in this order.
CASES = {
    # the description
    "no TOML": (lambda folder: (folder / "screen.toml").unlink(), [("screen.toml: No such file", "TOML file")]),
    "TOML syntax": (toml("[tx]", "[tx"), [("screen.toml: not valid TOML", "line 14", "double quotes")]),
    "TOML in Latin-1": (contents("screen.toml", lambda old: b"# \xb5M\n" + old), [("not valid TOML in UTF-8",)]),
    "TOML of brackets": (toml("name =", f"deep = {'[' * 9999}\nname ="), [("not valid TOML",)]),
    "TOML with an endless number": (toml("name =", f"n = {'9' * 5000}\nname ="), [("not valid TOML", "digits")]),
    "misspelt section": (toml("[compounds]", "[compound]"), [("compound: Extra inputs are not permitted", HOW)]),
    "misspelt keys": (
        both(toml('path = "cp.csv"', 'pth = "cp.csv"'), toml('dose = "', 'doses = "')),
        [("cp.pth: Extra inputs", HOW), ("columns.doses: Extra inputs", HOW), ("cp.path: Field required", HOW)],
    ),
    "no name": (toml('name = "my-screen"', ""), [("name: Field required", HOW)]),
    "a name that leads outside": (toml("my-screen", "../mine"), [("name: ", "should match", HOW)]),
    "a name of the registry": (toml("my-screen", "Cmea-U2OS"), [("name 'Cmea-U2OS' belongs to a screen of the",)]),
    "a number for a path": (toml(TX, "path = 3"), [("tx.path: ", "valid string")]),
    "no path": (toml(TX, 'path = ""'), [("tx.path: ", "at least 1 character")]),
    "a number for a section": (toml("[tx]  # one row a well\n" + TX, ""), [("tx: Field required", HOW)]),
    "no ids by that name": (
        toml('compound = "compound"', 'compound = "drug"'),
        [("cp.csv: column 'drug' (the compound id) is missing",), ("tx.csv: column 'drug'", "is missing")],
    ),
    "a column that no table has": (
        toml('dose = "dose_um"', 'dose = "dose"'),
        [("cp.csv: column 'dose' (named for dose, and in no other table either) is missing", "you mean 'dose_um'?")],
    ),
    # files
    "missing file": (toml(TX, 'path = "plates/tx.csv"'), [("plates/tx.csv: no such file", "relative to the TOML")]),
    "folder": (toml(TX, 'path = "."'), [(".: no such file", "relative to the TOML file")]),
    "address": (toml(TX, 'path = "https://x.org/tx.csv"'), [("https://x.org/tx.csv: no such file",)]),
    "a home of nobody": (toml(TX, 'path = "~nobody-here/tx.csv"'), [("~nobody-here/tx.csv: no such file",)]),
    "a name that is too long": (toml(TX, f'path = "{"c" * 300}.csv"'), [("not a readable .csv file", "too long")]),
    "a pipe": (instead("pipe.csv", os.mkfifo), [("pipe.csv: no such file",)]),
    "unknown format": (instead("cp.xlsx", b""), [("cp.xlsx: unknown format; tables are .csv, .csv.gz, .par",)]),
    "Excel under the name of csv": (instead("cp.csv", b"PK\x03\x04zip"), [("cp.csv: ",)]),
    "semicolons": (contents("cp.csv", lambda old: old.replace(b",", b";").replace(b".", b",")),
                   [("cp.csv: columns are separated by",)]),
    "Latin-1 in cells": (contents("tx.csv", lambda old: old.replace(b",no,", b",\xb5,")),
                         [("tx.csv: ", "as UTF-8")]),
    "Latin-1 in ids": (contents("tx.csv", lambda old: old.replace(b"DMSO", b"\xb5")), [("tx.csv: ", "as UTF-8")]),
    "Latin-1 far below": (contents("tx.csv", lambda old: old + b"\n" * 9999 + b"T,A1,SIM-00001,1,\xb5" + b",1" * 24),
                          [("tx.csv: ", "as UTF-8")]),
    "not gzip": (instead("cp.csv.gz", b"a,b\n1,2\n"), [("cp.csv.gz: not a readable .csv", "write it again")]),
    "truncated gzip": (instead("cp.csv.gz", gzip.compress(os.urandom(999))[:-99]), [("cp.csv.gz: not a readable",)]),
    "no parquet": (instead("cp.parquet", b"PAR1 no"), [("cp.parquet: not a readable .parquet", "write it again")]),
    "no h5ad": (instead("cp.h5ad", b"HDF no"), [("cp.h5ad: not a readable .h5ad", "write it again")]),
    "h5ad without X": (spoilt_h5ad(X=None), [("cp.h5ad: not a readable .h5ad file",)]),
    "h5ad without variables": (spoilt_h5ad(**{"var/_index": None}), [("cp.h5ad: not a readable .h5ad file",)]),
    "h5ad of another shape": (spoilt_h5ad(X=[[1.0, 2.0]]), [("cp.h5ad: not a readable .h5ad file",)]),
    "h5ad with a variable twice": (spoilt_h5ad(X=[[1, 2]], **{"var/_index": ["A", "A"]}),
                                   [("cp.h5ad: column 'A' occurs more than once",)]),
    "h5ad with wrong places": (spoilt_h5ad(X=wrong_places), [("cp.h5ad: not a readable .h5ad file (", "again")]),
    "h5ad with values elsewhere": (spoilt_h5ad(X=outside), [("cp.h5ad: /X lies in another file",)]),
    "h5ad that leads to another": (spoilt_h5ad(X=linked), [("cp.h5ad: /X lies in another file",)]),
    "h5ad that claims too much": (
        spoilt_h5ad(X=lambda file, name: file.create_dataset(name, (10**12, 9), "f8", chunks=True)),
        [("cp.h5ad: not a readable .h5ad file",)],
    ),
    "empty file": (contents("tasks.csv", lambda old: b""), [("tasks.csv: not a readable .csv file (No columns",)]),
    "header only": (contents("cp.csv", lambda old: old[: old.index(b"\n") + 1]),
                    [("cp.csv: the table has a header but no",)]),
    "short row": (contents("cp.csv", lambda old: old.rstrip().rsplit(b",", 3)[0] + b"\n"),
                  [("cp.csv: not a readable .csv", "Row #217: Expected 25 columns, got 22")]),
    "long row": (text("activity.csv", "kinase assay 01,", "kinase assay 01,1,"),
                 [("activity.csv: ", "Row #2: Expected 3 columns, got 4")]),
    "open quote": (text("tasks.csv", "kinase assay 01", '"kinase assay 01'), [("tasks.csv: not a readable .csv",)]),
    "column twice": (text("cp.csv", EXTENT, AREA), [(f"cp.csv: column {AREA!r} occurs more than once", "unique")]),
    # profiles
    "no compound column": (text("cp.csv", "compound", "compund"),
                           [("cp.csv: column 'compound' (the compound id) is missing; did you mean 'compund'?",)]),
    "no feature matched": (toml(TX, TX + '\nfeatures = "^gene_"'),
                           [("tx.csv: no column is matched by features = '^gene_'; it has 'ABCC1'", "in [tx]")]),
    "bad expression": (toml(TX, TX + '\nfeatures = "(gene"'),
                       [("tx.features: Input should be a valid regular expression", HOW)]),
    "no CP feature": (frame("cp.csv", lambda cp: cp.rename(columns=lambda name: re.sub("^C|^N", "X", name))),
                      [("cp.csv: no column is matched by features = '^(Cells|Cytoplasm|Nuclei)_'", "in [cp]")]),
    "no gene": (frame("tx.csv", lambda tx: tx[["compound"]].assign(gene="up")),
                [("tx.csv: no column of numbers is left for features; it has 'gene'",)]),
    "words in features": (
        both(*(cells("cp.csv", column, {9: "low", 4: "n.d."}) for column in (AREA, EXTENT)),
             cells("tx.csv", "AKT1", {2: "1,5"})),
        [(f"cp.csv: column {AREA!r} has 'n.d.' in data row 4, 9; features hold decimal numbers", "2 features"),
         ("tx.csv: column 'AKT1' has '1,5' in data row 2; features hold decimal numbers or empty cells",)],
    ),
    "infinite": (both(cells("cp.csv", AREA, {3: "inf"}), cells("cp.csv", EXTENT, {7: "-1e39"})),
                 [(f"CP: feature {AREA!r}, {EXTENT!r} holds infinite values", "leave them empty")]),
    "features without values": (frame("tx.csv", lambda tx: tx.assign(AKT1="", ATF1="NA")),
                                [("TX: feature 'AKT1', 'ATF1' is missing (NaN) in every row; drop the column",)]),
    "negative dose": (cells("cp.csv", "dose_um", {5: "-10"}), [("CP: dose -10 in data row 5", "micromolar")]),
    "endless dose": (cells("cp.csv", "dose_um", {5: "inf"}), [("CP: dose inf in data row 5", "finite")]),
    "dose with its unit": (cells("tx.csv", "dose_um", {5: "10 uM", 6: "10 uM"}),
                           [("tx.csv: column 'dose_um' has '10 uM' in data row 5, 6; doses are numbers",)]),
    "unclear control": (cells("cp.csv", "control", {2: "maybe"}),
                        [("cp.csv: column 'control' has 'maybe' in data row 2", "true/false, 1/0, yes/no or negcon")]),
    "nothing but controls": (frame("tx.csv", lambda tx: tx.assign(control="yes")),
                             [("is a negative control in some wells and a treatment in others",),
                              ("CP and TX have no compound in common", "the same ids")]),
    "control and treatment": (cells("cp.csv", "control", {216: "no"}),
                              [("compound 'DMSO' is a negative control in some wells and a treatment in others",)]),
    "well twice": (cells("cp.csv", "well", {1: "B14", 2: "B14"}), [("CP: plate and well 'CP-01-1 B14' is given",)]),
    "no id": (cells("cp.csv", "compound", {2: "", 4: " "}), [("CP: 2 wells have no compound id (first data row",)]),
    "no compound in common": (
        contents("tx.csv", lambda old: old.replace(b"SIM-", b"BRD-")),
        [("CP and TX have no compound in common", "'SIM-00001'", "'BRD-000", "the same ids")],
    ),
    # compounds and assays
    "compounds without a column": (text("compounds.csv", "compound", "cmpound"),
                                   [("compounds.csv: column 'compound'", "is missing; did you mean 'cmpound'?")]),
    "compound twice": (cells("compounds.csv", "compound", {2: "SIM-00001"}),
                       [("compounds.csv: column 'compound' has 'SIM-00001' in data row 2", "joined by '|'")]),
    "compound without an id": (cells("compounds.csv", "compound", {3: ""}),
                               [("compounds.csv: column 'compound' has '' in data row 3; every row names its",)]),
    "bad InChIKey": (frame("compounds.csv", lambda old: old.assign(InChIKey=["BSYNRYMUTXBXSQ"] * 29 + ["../etc"])),
                     [("compounds.csv: column 'inchikey' has '../etc' in data row 30", "14 capital letters")]),
    "label 2": (cells("activity.csv", "active", {4: "2", 6: "yes", 7: "2", 8: "2"}),
                [("activity.csv: column 'active' has '2' in data row 4, 6, 7, ... (4 in all); active is 1 or 0",)]),
    "both labels": (frame("activity.csv", lambda old: pd.concat([old.iloc[:1].assign(active="1"), old])),
                    [("activity.csv: column 'compound' has 'SIM-00002' in data row 2; a compound has one label",)]),
    "nameless tasks": (both(cells("activity.csv", "task", {1: ""}), cells("tasks.csv", "task", {1: ""})),
                       [("activity.csv: column 'task' has '' in data row 1",), ("tasks.csv: column 'task' has ''",)]),
    "task twice": (cells("tasks.csv", "task", {2: "kinase assay 01"}),
                   [("tasks.csv: column 'task' has 'kinase assay 01' in data row 2; one row a task",)]),
    "no labels": (text("activity.csv", "active", "measured"), [("activity.csv: column 'active'", "is missing")]),
}  # fmt: skip


def assert_lines(printed, expected):
    assert len(printed) == len(expected), "\n".join(printed)
    for line, fragments in zip(printed, expected, strict=True):
        assert line.startswith("run_all: ") and len(line) < 1600
        assert [fragment for fragment in fragments if fragment not in line] == [], line


@pytest.mark.parametrize("mistake", CASES)
def test_every_mistake_is_told_in_one_line(mistake, folder, check):
    spoil, expected = CASES[mistake]
    spoil(folder)
    status, _, errors = check()
    assert status == 2
    assert_lines(errors, expected)


def test_many_mistakes_are_told_at_once_and_a_run_stops_at_the_first(folder, check):
    for name in ("unclear control", "words in features", "dose with its unit", "label 2", "task twice"):
        CASES[name][0](folder)
    (folder / "compounds.csv").unlink()
    status, out, errors = check()
    assert status == 2 and out[0].endswith("7 problems; what is testable can be told once nothing is wrong")
    assert_lines(errors, [("compounds.csv: no such file",), ("'maybe'",), (AREA,), ("'10 uM'",), ("AKT1",), ("'2'",),
                          ("'kinase assay 01'",)])  # fmt: skip
    with pytest.raises(ScreenError, match=r"no such file.*\(and 6 more; run_all\.py --check of a screen lists them\)$"):
        read(folder)


# --- a sound screen -----------------------------------------------------------------------------------------


def test_the_example_is_sound_small_and_names_every_key(check):
    status, out, errors = check()
    assert status == 0 and errors == []
    assert out[0] == "my-screen: CP 216 wells, TX 144 wells, 30 compounds, 6 tasks; nothing is wrong"
    told = dict(re.fullmatch(r"  (\w+): ((?:not )?testable) \(.*\)", line).groups() for line in out[1:])
    assert [name for name, answer in told.items() if answer == "testable"] == [
        "replicate_clustering", "activity_calls", "moa_clustering", "retrieval",
    ]  # fmt: skip
    assert sum(path.stat().st_size for path in EXAMPLE.iterdir()) < 150_000
    described = (EXAMPLE / "screen.toml").read_text(encoding="utf-8")
    for model in (Description, Columns, ProfileFile):
        assert [key for key in model.model_fields if not re.search(rf"^(# )?\[?{key}\b", described, re.M)] == []


def test_a_screen_in_the_projects_form(folder):
    frame("compounds.csv", lambda old: old.assign(moa=["a| b|a", *old["moa"][1:]]))(folder)
    cells("compounds.csv", "smiles", {1: "CC(=O)Oc1ccccc1C(=O)O", 2: "no molecule"})(folder)
    cells("activity.csv", "active", {1: "", 2: "true"})(folder)
    contents("tx.csv", lambda old: old.replace(b",10.0,no,", b",10.004,no,"))(folder)
    screen = read(folder)
    assert list(screen.cp.columns[:5]) == METADATA_COLUMNS and list(screen.cp.columns[5:]) == sorted(screen.cp)[:20]
    assert screen.cp[feature_columns(screen.cp)].dtypes.eq(np.float32).all()
    assert set(screen.tx[DOSE].dropna()) == set(screen.cp[DOSE].dropna()) == {0, 1, 10}, "rounded to three digits"
    row = screen.compounds.iloc[0]
    assert (row["InChIKey14"], row["MoA"], row["target"]) == ("BSYNRYMUTXBXSQ", ["a", "b"], ["target 03"])
    assert screen.activity["active"].dtype == np.int8 and screen.activity["active"].iloc[0] == 1
    assert screen.tasks.loc[0].tolist() == ["kinase assay 01", "", "kinase", "own"]
    assert screen.notes == ("1 SMILES of compounds.csv can't be read (first: SIM-00002).",)
    assert [source["file"] for source in screen.sources] == ["screen.toml", *(f"{name}.csv" for name in TABLES)]


def test_what_is_optional_may_lack(folder):
    bare = 'name = "bare"\n[cp]\npath = "cp.csv"\n[tx]\npath = "tx.csv"\n[columns]\ncompound = "compound"\n'
    (folder / "screen.toml").write_text(bare, encoding="utf-8-sig")
    frame("cp.csv", lambda cp: cp.drop(columns=["plate", "well", "dose_um", "control"]))(folder)
    frame("tx.csv", lambda tx: tx[["compound", "AKT1", "ATF1"]].assign(batch="x", index=1))(folder)
    contents("tx.csv", lambda old: old.replace(b"SIM-000", b"00").replace(b"DMSO", b"007"))(folder)
    contents("cp.csv", lambda old: old.replace(b"SIM-000", b"00"))(folder)
    screen = read(folder)
    assert feature_columns(screen.tx) == ["AKT1", "ATF1"] and screen.notes[0].endswith("were taken as metadata.")
    assert screen.cp[PLATE].eq("").all() and screen.cp[DOSE].isna().all() and not screen.cp[CONTROL].any()
    assert "0001" in set(screen.cp[COMPOUND]) and len(screen.activity) == len(screen.tasks) == 0


HOSTILE = ["<script>alert(1)</script>", "../../etc/passwd", "C:\\x", "=1+1", "{x} %s $y_$", 'said "so", twice',
           "O'Hara", "β-阿司匹林🧪", "e\u0301", "007", "two\nlines", "x" * 300]  # fmt: skip


def test_hostile_names_are_text(folder, check):
    def renamed(table):
        names = [f"SIM-{number:05d}" for number in range(1, 1 + len(HOSTILE))]
        return table.assign(compound=table["compound"].replace(dict(zip(names, HOSTILE, strict=True))))

    for name in TABLES[:4]:
        frame(f"{name}.csv", renamed)(folder)
    text("cp.csv", AREA, "Cells_<img src=x>")(folder)
    assert check()[0] == 0
    screen = read(folder)
    assert set(HOSTILE) <= set(screen.compounds[COMPOUND]) and set(HOSTILE) <= set(screen.activity[COMPOUND])
    assert "Cells_<img src=x>" in screen.cp and len(screen.compounds) == 30


# --- one screen in every format -----------------------------------------------------------------------------


def rearranged(table):
    return table[np.random.default_rng(0).permutation(table.columns)].assign(comment="a, b", Metadata_Site=7)


def as_csv(change=lambda table: table, encoding="utf-8", **options):
    return lambda table, path: path.write_text(
        change(table).to_csv(index=False, **options), encoding=encoding, newline=""
    )


FORMATS = {
    "csv.gz": lambda table, path: table.to_csv(path, index=False),
    "several members.csv.gz": lambda table, path: path.write_bytes(
        b"".join(gzip.compress(line) for line in table.to_csv(index=False).encode().splitlines(keepends=True))
    ),
    "byte order mark.csv": as_csv(encoding="utf-8-sig"),
    "Windows.csv": as_csv(lineterminator="\r\n"),
    "empty lines.csv": as_csv(lineterminator="\n\n"),
    "quoted.csv": as_csv(quoting=csv.QUOTE_ALL),
    "rearranged.csv": as_csv(rearranged),
    "parquet": lambda table, path: table.to_parquet(path),
    "categories.parquet": lambda table, path: (
        table.astype({"plate": "category", "dose_um": "category"}).set_index("compound").to_parquet(path)
    ),
    "anndata 0.12.h5ad": lambda table, path: write_h5ad(path, table),
    "anndata 0.13.h5ad": lambda table, path: write_h5ad(path, table, text="string", flag="boolean"),
    "rows.h5ad": lambda table, path: write_h5ad(path, table, form=sparse.csr_matrix),
    "columns.h5ad": lambda table, path: write_h5ad(path, table, form=sparse.csc_matrix),
}


@pytest.mark.parametrize("form", FORMATS)
def test_one_screen_in_every_format(form, folder):
    for name in ("cp", "tx"):
        FORMATS[form](pd.read_csv(folder / f"{name}.csv"), folder / f"{name}.{form}")
        toml(f'path = "{name}.csv', f'path = "{name}.{form}')(folder)
    screen, plain = read(folder), read(EXAMPLE)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(screen, name), getattr(plain, name), check_exact=True)
    assert bool(screen.notes) == (form == "rearranged.csv")


# --- new plates ---------------------------------------------------------------------------------------------


def test_one_table_of_new_wells_is_read_by_the_same_rules(folder):
    columns = {"compound": "compound", "control": "control", "plate": "plate"}
    wells = read_cell_painting(folder / "cp.csv", columns)
    expected = read(folder).cp.assign(**{WELL: "", DOSE: np.nan})
    pd.testing.assert_frame_equal(wells, expected)
    assert feature_columns(read_cell_painting(folder / "cp.csv", columns, "^Cells_.*_Area$")) == [AREA]
    for change, line in (({"compound": "name"}, "column 'name'"), ({"dose": "dose"}, "did you mean 'dose_um'?")):
        with pytest.raises(ScreenError, match=re.escape(line)):
            read_cell_painting(folder / "cp.csv", columns | change)


# --- any bytes ----------------------------------------------------------------------------------------------

SOUND = "compound,Cells_A\nx,1.5\ny,2\n"


def flipped(sound, places):
    """Sound bytes with some replaced, and perhaps cut off."""
    spoilt = bytearray(sound)
    for place, value in places:
        spoilt[place % len(spoilt)] = value
    return bytes(spoilt)


def sound_file(ending):
    table = pd.read_csv(io.StringIO(SOUND))
    if ending == ".parquet":
        return table.to_parquet()
    return gzip.compress(SOUND.encode()) if ending == ".csv.gz" else SOUND.encode()


@pytest.mark.parametrize("ending", own_screens.FORMATS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes_are_a_table_or_one_line(ending, data, tmp_path):
    if ending == ".h5ad":  # flipped bytes inside an HDF5 file can crash its library; it is cut off instead
        write_h5ad(tmp_path / "sound.h5ad", pd.DataFrame(ONE_WELL))
        whole = (tmp_path / "sound.h5ad").read_bytes()
        content = data.draw(st.one_of(st.binary(max_size=200), st.integers(0, len(whole)).map(lambda end: whole[:end])))
    else:
        places = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)
        sound = sound_file(ending)
        content = data.draw(st.one_of(st.binary(max_size=200), places.map(lambda changes: flipped(sound, changes))))
    path = tmp_path / f"cp{ending}"
    path.write_bytes(content)
    try:
        wells = read_cell_painting(path, {"compound": "compound"})
    except ScreenError as error:
        assert str(error).startswith(path.name) and "\n" not in str(error)
    else:
        assert list(wells.columns[:5]) == METADATA_COLUMNS and len(wells) > 0
