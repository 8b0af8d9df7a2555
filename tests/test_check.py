"""`run_all.py --check`: the template is sound, and every mistake in it is told with its file and row.

Each case spoils the template's screen in one way and states the lines that `--check` must print: all of them, no more.
"""

import csv
import gzip
import io
import re
import shutil
from pathlib import Path

import h5py
import pandas as pd
import pytest

from cpx_utils.pipeline import main
from cpx_utils.profiles import ScreenError
from cpx_utils.template import write_template
from cpx_utils.user_screens import read_user_screen, review_screen


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return write_template(tmp_path_factory.mktemp("template") / "my_screen.toml")[0].parent


@pytest.fixture
def folder(template, tmp_path):
    """A copy of the template's screen."""
    return Path(shutil.copytree(template, tmp_path / "screen"))


@pytest.fixture
def check(tmp_path, capsys):
    """Check a screen by the command line, with results and figures below tmp_path, which must stay empty."""

    def run(toml: Path, *options: str):
        capsys.readouterr()
        status = main(["--dataset", str(toml), "--check", "--results", str(tmp_path / "results"),
                       "--figures", str(tmp_path / "figures"), *options])  # fmt: skip
        printed = capsys.readouterr()
        assert not (tmp_path / "results").exists() and not (tmp_path / "figures").exists()
        assert "Traceback" not in printed.out + printed.err
        return status, printed.out.splitlines(), printed.err.splitlines()

    return run


# --- spoiling -----------------------------------------------------------------------------------------------


def text(name: str, old: str, new: str):
    """Replace the first occurrence of a text in a file."""

    def spoil(folder: Path) -> None:
        before = (folder / name).read_text(encoding="utf-8")
        assert old in before
        (folder / name).write_text(before.replace(old, new, 1), encoding="utf-8")

    return spoil


def toml(old: str, new: str):
    return text("my_screen.toml", old, new)


def cells(name: str, column: str, values: dict[int, str]):
    """Set cells of a column, by data row counted from 1."""

    def spoil(folder: Path) -> None:
        rows = list(csv.reader(io.StringIO((folder / name).read_text(encoding="utf-8"))))
        place = rows[0].index(column)
        for row, value in values.items():
            rows[row][place] = value
        with open(folder / name, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle, lineterminator="\n").writerows(rows)

    return spoil


def frame(name: str, change):
    """Rewrite a table by a function of its data frame of text."""

    def spoil(folder: Path) -> None:
        change(pd.read_csv(folder / name, dtype=str, keep_default_na=False)).to_csv(folder / name, index=False)

    return spoil


def contents(name: str, made):
    """Write bytes made from the file's own."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(made(path.read_bytes() if path.exists() else b""))

    return spoil


def both(*spoils):
    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


def h5ad(folder: Path) -> None:
    with h5py.File(folder / "cp.h5ad", "w") as file:
        file["X"] = [[1.0]]
        for group, names in (("obs", ["0"]), ("var", ["Cells_A"])):
            file.create_group(group).attrs.update({"_index": "_index", "column-order": []})
            file[group]["_index"] = names
        file["layers/raw"] = [[1.0]]


CP, TX = 'path = "cp.csv"', 'path = "tx.csv"'
AREA, EXTENT, SHAPE = "Cells_AreaShape_Area", "Cells_AreaShape_Extent", "Cells_AreaShape_Eccentricity"
COMPOUND, DOSE, CONTROL = "Metadata_Compound", "Metadata_Dose", "Metadata_Control"
DESCRIBED = "my_screen.toml: "

# What is wrong, and the lines to be printed: a tuple of fragments each, in this order.
CASES = {
    # the description
    "no TOML": (lambda folder: (folder / "my_screen.toml").unlink(), [("my_screen.toml: no such file", "TOML")]),
    "TOML syntax": (toml("[tx]", "[tx"), [(DESCRIBED + "not valid TOML", "line", "double quotes")]),
    "TOML not UTF-8": (contents("my_screen.toml", lambda old: b"# \xb5M\n" + old),
                       [("not UTF-8 text (byte 3)", "save it as UTF-8")]),
    "misspelt section": (toml("[compounds]", "[compound]"), [("key 'compound' is unknown", "mean 'compounds'?")]),
    "misspelt keys": (
        both(toml(CP, 'pth = "cp.csv"'), toml('dose = "', 'doses = "')),
        [("key of [cp] 'pth' is unknown", "did you mean 'path'?"), ('[cp] needs path = "FILE"',),
         ("key of [columns] 'doses' is unknown", "did you mean 'dose'?")],
    ),
    "no name": (toml('name = "my-screen"', ""), [(DESCRIBED + "name is missing", 'name = "my-screen"')]),
    "bad name": (toml("my-screen", "../mine"), [("name '../mine' is unfit for a folder", "letters, digits")]),
    "name of the registry": (toml("my-screen", "cmea-u2os"), [("'cmea-u2os' belongs to a screen of the registry",)]),
    "number for a path": (toml(CP, "path = 3"), [("path in [cp] must be text in quotes, not 3",)]),
    "one column for two roles": (toml('well = "Metadata_Well"', 'well = "Metadata_Plate"'),
                                 [("[columns] gives 'Metadata_Plate' as both plate and well", "its own column")]),
    "tasks without activity": (
        lambda folder: (folder / "my_screen.toml").write_text(
            re.sub(r'\[activity\].*\npath = .*\n', "", (folder / "my_screen.toml").read_text(encoding="utf-8")),
            encoding="utf-8"),
        [("[tasks] describes the tasks of [activity], which is missing", "both or none")],
    ),
    "a column that no table has": (toml('dose = "Metadata_Dose"', 'dose = "uM"'),
                                   [("[columns] dose = 'uM': neither cp.csv nor tx.csv has", "correct it or leave")]),
    # files
    "missing file": (toml(CP, 'path = "plates/cp.csv"'), [("plates/cp.csv: no such file", "relative to the TOML")]),
    "folder": (toml(CP, 'path = "."'), [(".: is a folder", "relative to the TOML file")]),
    "address": (toml(TX, 'path = "HTTPS://x.org/tx.csv"'), [("HTTPS://x.org/tx.csv: a path on this machine",
                                                           "download the file first")]),
    "address of a bucket": (toml(TX, 'path = "s3://x/tx.csv"'), [("s3://x/tx.csv: a path on this machine",)]),
    "unknown format": (both(toml(CP, 'path = "cp.xlsx"'), contents("cp.xlsx", lambda old: b"")),
                       [("cp.xlsx: unknown format", ".csv, .csv.gz, .parquet, .h5ad")]),
    "h5ad for compounds": (both(toml('"compounds.csv"', '"c.h5ad"'), contents("c.h5ad", lambda old: b"")),
                           [("c.h5ad: unknown format; tables here are .csv, .csv.gz, .parquet",)]),
    "Excel under the name of csv": (contents("cp.csv", lambda old: b"PK\x03\x04zip"),
                                    [("cp.csv: a zip or Excel file", "save the sheet as csv")]),
    "gzip under the name of csv": (contents("tx.csv", gzip.compress), [("tx.csv: a gzip file", "name it .csv.gz")]),
    "semicolons": (contents("cp.csv", lambda old: old.replace(b",", b";")),
                   [("cp.csv: columns are separated by semicolons", "use commas")]),
    "tabs": (contents("cp.csv", lambda old: old.replace(b",", b"\t")), [("cp.csv: columns are separated by tabs",)]),
    "not UTF-8": (contents("tx.csv", lambda old: old.replace(b"DMSO", b"\xb5")),
                  [("tx.csv: not UTF-8 text (byte 0xb5)", "save it as UTF-8")]),
    "UTF-16": (contents("tx.csv", lambda old: old.decode().encode("utf-16")),
               [("tx.csv: not UTF-8 text (byte 0xff)",)]),
    "not gzip": (both(toml(CP, 'path = "cp.csv.gz"'), contents("cp.csv.gz", lambda old: b"a,b\n1,2\n")),
                 [("cp.csv.gz: not a gzip file", "name it .csv")]),
    "truncated gzip": (
        both(toml(CP, 'path = "cp.csv.gz"'),
             lambda folder: (folder / "cp.csv.gz").write_bytes(gzip.compress((folder / "cp.csv").read_bytes())[:-99])),
        [("cp.csv.gz: not an intact gzip file", "copy it again")],
    ),
    "no parquet": (both(toml(CP, 'path = "cp.parquet"'), contents("cp.parquet", lambda old: b"PAR1 no")),
                   [("cp.parquet: not a readable parquet file", "write it again")]),
    "no h5ad": (both(h5ad, toml(CP, 'path = "cp.h5ad"'), contents("cp.h5ad", lambda old: b"HDF no")),
                [("cp.h5ad: not a readable h5ad file", "write it again")]),
    "h5ad without the layer": (both(h5ad, toml(CP, 'path = "cp.h5ad"\nlayer = "normalised"')),
                               [("cp.h5ad: there is no layer 'normalised'", "'raw'", "X is taken")]),
    "layer of a csv": (toml(CP, CP + '\nlayer = "raw"'),
                       [("cp.csv: layer = 'raw' is for .h5ad files", "leave it out")]),
    "empty file": (contents("tasks.csv", lambda old: b""), [("tasks.csv: the file is empty", "header and rows")]),
    "header only": (contents("cp.csv", lambda old: old.splitlines()[0] + b"\n"),
                    [("cp.csv: the table has a header but no rows",)]),
    "short rows": (contents("cp.csv", lambda old: old.rstrip()[:-9].rsplit(b",", 3)[0] + b"\n"),
                   [("cp.csv: ", "values where the header has 65 columns, in data row 468", "empty cell")]),
    "long row": (text("activity.csv", "SIM-00002,kinase assay 01,", "SIM-00002,kinase assay 01,1,"),
                 [("activity.csv: 4 values where the header has 3 columns, in data row 2", "in quotes")]),
    "column twice": (text("cp.csv", EXTENT, AREA), [(f"cp.csv: column {AREA!r} occurs more than once", "unique")]),
    # profiles
    "no compound column": (text("cp.csv", COMPOUND, "Metadata_Compund"),
                           [(f"cp.csv: column {COMPOUND!r} (the compound id) is missing", "mean 'Metadata_Compund'?")]),
    "no feature matched": (toml(TX, TX + '\nfeatures = "^gene_"'),
                           [("tx.csv: no column is matched by features = '^gene_'", "it has 'ABCC1'", "[tx]")]),
    "bad expression": (toml(TX, TX + '\nfeatures = "(gene"'),
                       [("tx.csv: features = '(gene' is no regular expression", "unterminated", "mend it")]),
    "no CP feature": (frame("cp.csv", lambda cp: cp.rename(columns=lambda name: re.sub("^C|^N", "X", name))),
                      [("cp.csv: no column is matched by prefix Cells_, Cytoplasm_ or Nuclei_", "in [cp]")]),
    "words in features": (
        both(*(cells("cp.csv", column, {9: "low", 4: "n.d."}) for column in (AREA, EXTENT)),
             cells("tx.csv", "AKT1", {2: "1,5"})),
        [(f"cp.csv: column {AREA!r} has 'n.d.' in data rows 4, 9 where a number is needed", "leave it empty"),
         (f"cp.csv: column {EXTENT!r} has 'n.d.' in data rows 4, 9",),
         ("tx.csv: column 'AKT1' has '1,5' in data row 2", "decimal point")],
    ),
    "words in many features": (
        frame("tx.csv", lambda tx: tx.assign(**{name: ["x", *tx[name][1:]] for name in tx.columns[5:15]})),
        [*[("tx.csv: column ", "has 'x' in data row 1")] * 5, ("tx.csv: 5 more columns have words among numbers",)],
    ),
    "infinite": (cells("cp.csv", SHAPE, {3: "inf", 7: "-1e39"}),
                 [(f"cp.csv: feature {SHAPE!r} is infinite or too large in data rows 3, 7", "leave such cells empty")]),
    "feature without values": (frame("tx.csv", lambda tx: tx.assign(AKT1="", ATF1="NA")),
                               [("tx.csv: feature 'AKT1', 'ATF1' is missing (NaN) in all 312 rows", "drop the")]),
    "negative dose": (cells("cp.csv", DOSE, {5: "-10"}),
                      [(f"cp.csv: column {DOSE!r} has the dose -10 in data row 5", "micromolar")]),
    "dose with its unit": (cells("tx.csv", DOSE, {5: "10 uM", 6: "10 uM"}),
                           [(f"tx.csv: column {DOSE!r} has '10 uM' in data rows 5, 6 where a number is needed",)]),
    "bad control flag": (cells("cp.csv", CONTROL, {2: "maybe"}),
                         [(f"cp.csv: column {CONTROL!r} has 'maybe' in data row 2", "true/false, 1/0, yes/no")]),
    "nothing but controls": (frame("tx.csv", lambda tx: tx[tx[CONTROL] == "True"]),
                             [(f"tx.csv: column {CONTROL!r} marks every well as a negative control", "treated wells")]),
    "control and treatment": (cells("cp.csv", CONTROL, {145: "False"}),
                              [(f"cp.csv data row 145: column {CONTROL!r}: 'DMSO' is a negative control in other wells",
                                "mark a control's id")]),
    "well twice": (cells("cp.csv", "Metadata_Well", {1: "C10", 3: "C10"}),
                   [("cp.csv: columns 'Metadata_Plate' and 'Metadata_Well': plate 'CP-01-1' well 'C10'",
                     "data rows 1, 2, 3", "a row is a well")]),
    "no id": (cells("cp.csv", COMPOUND, {2: "", 4: " "}),
              [(f"cp.csv: column {COMPOUND!r} is empty in data rows 2, 4", "for example 'DMSO'")]),
    "no compound in common": (
        contents("tx.csv", lambda old: old.replace(b"SIM-", b"BRD-")),
        [("cp.csv and tx.csv: CP and TX have no compound in common", COMPOUND, "'SIM-00001'", "'BRD-00001'")],
    ),
    # compounds and assays
    "compound without a column": (text("compounds.csv", "compound", "cmpound"),
                                  [("compounds.csv: column 'compound'", "is missing", "did you mean 'cmpound'?")]),
    "compound twice": (cells("compounds.csv", "compound", {2: "SIM-00001"}),
                       [("compounds.csv: compound 'SIM-00001' is listed again in data row 2", "joined by '|'")]),
    "compound without an id": (cells("compounds.csv", "compound", {3: ""}),
                               [("compounds.csv: the compound is empty in data row 3",)]),
    "bad InChIKey": (frame("compounds.csv", lambda old: old.assign(InChIKey=["BSYNRYMUTXBXSQ"] * 71 + ["?"])),
                     [("compounds.csv: '?' in data row 72 is no InChIKey", "14 capital letters")]),
    "ids of another kind": (contents("activity.csv", lambda old: old.replace(b"SIM-0", b"cpd ")),
                            [("activity.csv: none of its 72 compounds has a profile", "'cpd 0001'", "the same ids")]),
    "label 2": (cells("activity.csv", "active", {4: "2", 6: "yes"}),
                [("activity.csv: label '2' in data rows 4, 6", "active is 1 or 0")]),
    "both labels": (
        frame("activity.csv", lambda old: pd.concat([old.iloc[:1].assign(active="1"), old])),
        [("activity.csv: compound 'SIM-00001' is both 0 and 1 in task 'kinase assay 01' (data rows 1, 2)",)],
    ),
    "nameless task": (both(cells("activity.csv", "task", {1: ""}), cells("tasks.csv", "task", {1: ""})),
                      [("activity.csv: the task is empty in data row 1",),
                       ("tasks.csv: the task is empty in data row 1",)]),
    "task twice": (cells("tasks.csv", "task", {2: "kinase assay 01"}),
                   [("tasks.csv: task 'kinase assay 01' is listed again in data row 2", "one row a task")]),
    "no active column": (text("activity.csv", "active", "measured"), [("activity.csv: column 'active'", "is missing")]),
}  # fmt: skip


def assert_lines(printed: list[str], expected: list[tuple[str, ...]]) -> None:
    assert len(printed) == len(expected), "\n".join(printed)
    for line, fragments in zip(printed, expected, strict=True):
        assert line.startswith("run_all: ")
        assert [fragment for fragment in fragments if fragment not in line] == [], line


@pytest.mark.parametrize("mistake", CASES)
def test_every_mistake_is_told_with_its_place_and_its_remedy(mistake, folder, check):
    spoil, expected = CASES[mistake]
    spoil(folder)
    status, _, errors = check(folder / "my_screen.toml")
    assert status == 2
    assert_lines(errors, expected)


def test_there_are_thirty_kinds_of_mistakes():
    assert len(CASES) >= 30


def test_many_mistakes_are_told_at_once(folder, check):
    spoils = [
        toml("my-screen", "my screen"),
        *(cells("cp.csv", column, {4: "n.d."}) for column in (AREA, EXTENT, SHAPE)),
        cells("cp.csv", DOSE, {5: "-10", 6: "high"}),
        cells("cp.csv", CONTROL, {2: "maybe"}),
        cells("cp.csv", COMPOUND, {1: ""}),
        cells("cp.csv", "Metadata_Well", {1: "C10"}),
        text("tx.csv", COMPOUND, "drug"),
        cells("tx.csv", DOSE, {1: "-1"}),
        cells("activity.csv", "active", {4: "2"}),
        cells("activity.csv", "task", {5: ""}),
        lambda folder: (folder / "compounds.csv").unlink(),
        cells("tasks.csv", "task", {2: "kinase assay 01"}),
    ]
    both(*spoils)(folder)
    status, out, errors = check(folder / "my_screen.toml")
    assert status == 2 and out == [f"{folder / 'my_screen.toml'}: 15 problems; what is testable can be told once "
                                   "nothing is wrong"]  # fmt: skip
    assert_lines(errors, [
        ("'my screen' is unfit",), (COMPOUND, "is empty in data row 1"), (CONTROL, "'maybe' in data row 2"),
        (DOSE, "'high' in data row 6"), (DOSE, "the dose -10 in data row 5"), ("'C10'", "data rows 1, 2"),
        (AREA,), (SHAPE,), (EXTENT,), ("tx.csv", "(the compound id) is missing"), ("tx.csv", "the dose -1"),
        ("compounds.csv: no such file",), ("the task is empty in data row 5",), ("label '2' in data row 4",),
        ("tasks.csv: task", "again"),
    ])  # fmt: skip
    with pytest.raises(ScreenError, match=r"unfit.*\(and 14 more problems: run_all\.py --check lists them\)$"):
        read_user_screen(folder / "my_screen.toml")


# --- a sound screen -----------------------------------------------------------------------------------------


def test_the_template_is_sound_and_what_it_cannot_answer_is_said(folder, check):
    status, out, errors = check(folder / "my_screen.toml")
    assert status == 0 and errors == []
    assert out[0] == "my-screen: CP 468 wells, TX 312 wells, 72 compounds, 8 tasks; nothing is wrong"
    told = dict(re.fullmatch(r"  (\w+): ((?:not )?testable) \(.*\)", line).groups() for line in out[1:])
    assert told == {
        "replicate_clustering": "testable", "activity_calls": "testable", "moa_clustering": "testable",
        "retrieval": "testable", "bioactivity": "not testable", "target_families": "not testable",
    }  # fmt: skip
    status, out, _ = check(folder / "my_screen.toml", "-p", "min_active=10")
    assert status == 0 and "  bioactivity: testable" in "\n".join(out)


def test_what_is_no_mistake_and_yet_worth_knowing_is_noted(folder, check):
    gaps = ["" if row % 10 == 0 else "1.5" for row in range(468)]
    both(
        frame("cp.csv", lambda cp: cp.assign(**{AREA: "1", EXTENT: gaps})),
        frame("cp.csv", lambda cp: cp[~((cp["Metadata_Plate"] == "CP-01-1") & (cp[CONTROL] == "True")
                                        & (cp.groupby(["Metadata_Plate", CONTROL]).cumcount() > 2))]),
        frame("tx.csv", lambda tx: tx[tx[COMPOUND] != "SIM-00005"].query(f"{CONTROL} == 'False'")),
        frame("tx.csv", lambda tx: tx.drop_duplicates([COMPOUND, DOSE])),
    )(folder)  # fmt: skip
    status, out, _ = check(folder / "my_screen.toml")
    notes = [line.removeprefix("  note: ") for line in out if line.startswith("  note: ")]
    assert status == 0
    assert notes == [
        f"CP: 2 of 60 features are constant and get dropped: {AREA!r}, {EXTENT!r}.",
        f"CP: 1 of 60 features miss more than 5% of their values and get dropped: {EXTENT!r}.",
        "CP: 1 of 3 plates have fewer than 4 negative controls (plate 'CP-01-1' has 3) and are not normalised.",
        "TX: no well is a negative control; plates stay as they are, without normalisation.",
        "TX: 142 of 142 treatments have one well only, and no replicates.",
        "1 of 72 compounds have CP and no TX (first: SIM-00005); no encoder is trained or tested on them.",
    ]
    assert review_screen(read_user_screen(folder / "my_screen.toml")) == notes


def test_paths_may_leave_the_folder(folder, check):
    (folder / "below").mkdir()
    described = (folder / "my_screen.toml").read_text(encoding="utf-8").replace('path = "', 'path = "../')
    (folder / "below" / "mine.toml").write_text(described, encoding="utf-8")
    assert check(folder / "below" / "mine.toml")[0] == 0


def test_a_wrong_call_is_told_after_the_tables(folder, check):
    status, _, errors = check(folder / "my_screen.toml", "-p", "temprature=1")
    assert status == 2 and len(errors) == 1 and "did you mean 'temperature'" in errors[0]
