"""People's tables: one screen in every format and dress is one screen; h5ad files as anndata itself writes them."""

import csv
import gzip
import io
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cpx_utils import profiles, tables
from cpx_utils.profiles import METADATA_COLUMNS, ScreenError, feature_columns
from cpx_utils.template import write_template
from cpx_utils.user_screens import read_cell_painting, read_user_screen

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The template's screen in its folder of csv files, as it is read."""
    folder = tmp_path_factory.mktemp("plain")
    write_template(folder / "plain.toml")
    return SimpleNamespace(folder=folder, screen=read_user_screen(folder / "plain.toml"))


def reread(plain, folder: Path, cp: str, tx: str):
    """Read the screen with other profile tables, given as TOML below [cp] and [tx]."""
    text = (plain.folder / "plain.toml").read_text(encoding="utf-8")
    for name in ("compounds", "activity", "tasks"):
        text = text.replace(f'"{name}.csv"', f'"{(plain.folder / name).as_posix()}.csv"')
    text = text.replace('path = "cp.csv"', cp).replace('path = "tx.csv"', tx)
    (folder / "other.toml").write_text(text, encoding="utf-8")
    return read_user_screen(folder / "other.toml")


def assert_same(screen, plain) -> None:
    for name in ("cp", "tx", "compounds", "activity", "tasks"):
        pd.testing.assert_frame_equal(getattr(screen, name), getattr(plain.screen, name), check_exact=True)
    assert screen.notes == plain.screen.notes


def put(file, name: str, values) -> None:
    """Write values as anndata does: an array, text, or a sparse matrix."""
    if sparse.issparse(values):
        group = file.create_group(name)
        group.attrs.update({"encoding-type": f"{values.format}_matrix", "shape": values.shape})
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(values, part)
    elif np.asarray(values).dtype.kind in "OUT":
        file[name] = [str(value) for value in values]
    else:
        file[name] = np.asarray(values)


def write_h5ad(path: Path, table: pd.DataFrame, form=np.asarray, layer: str = "") -> None:
    features = feature_columns(table)
    with h5py.File(path, "w") as file:
        put(file, f"layers/{layer}" if layer else "X", form(table[features].to_numpy()))
        file.create_group("obs").attrs.update({"_index": "_index", "column-order": METADATA_COLUMNS})
        file.create_group("var").attrs.update({"_index": "_index", "column-order": []})
        put(file, "obs/_index", [f"well {row}" for row in range(len(table))])
        put(file, "var/_index", features)
        for name in METADATA_COLUMNS[1:]:
            put(file, f"obs/{name}", table[name])
        codes, plates = pd.factorize(table[METADATA_COLUMNS[0]])
        put(file, f"obs/{METADATA_COLUMNS[0]}/codes", codes.astype(np.int8))
        put(file, f"obs/{METADATA_COLUMNS[0]}/categories", plates)


# --- one screen in every format -----------------------------------------------------------------------------

FORMATS = {
    "csv.gz": lambda table, path: path.write_bytes(gzip.compress(table.to_csv(index=False).encode())),
    "parquet": lambda table, path: table.to_parquet(path),
    "h5ad": lambda table, path: write_h5ad(path, table),
    "sparse.h5ad": lambda table, path: write_h5ad(path, table, sparse.csr_matrix),
    "columns.h5ad": lambda table, path: write_h5ad(path, table, sparse.csc_matrix),
    "layer.h5ad": lambda table, path: write_h5ad(path, table, layer="raw"),
}


@pytest.mark.parametrize("ending", FORMATS)
def test_one_screen_in_every_format(ending, plain, tmp_path):
    layer = '\nlayer = "raw"' if ending.startswith("layer") else ""
    for name in ("cp", "tx"):
        table = pd.read_csv(plain.folder / f"{name}.csv", dtype={"Metadata_Plate": str})
        FORMATS[ending](table, tmp_path / f"{name}.{ending}")
    screen = reread(plain, tmp_path, *(f'path = "{name}.{ending}"{layer}' for name in ("cp", "tx")))
    assert_same(screen, plain)


def quoted(text: str) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(csv.reader(io.StringIO(text)))
    return out.getvalue()


def rearranged(text: str) -> str:
    table = pd.read_csv(io.StringIO(text), dtype=str)
    table = table[np.random.default_rng(0).permutation(table.columns)]
    return table.assign(Metadata_Batch=7, comment="a, b", Metadata_Site="x").to_csv(index=False)


def members(text: str) -> bytes:
    lines = text.splitlines(keepends=True)
    return b"".join(gzip.compress("".join(lines[start : start + 100]).encode()) for start in range(0, len(lines), 100))


DRESSES = {
    "CRLF": ("csv", lambda text: text.replace("\n", "\r\n").encode()),
    "byte-order mark": ("csv", lambda text: text.encode("utf-8-sig")),
    "byte-order mark in gzip": ("csv.gz", lambda text: gzip.compress(text.encode("utf-8-sig"))),
    "quoted numbers": ("csv", lambda text: quoted(text).encode()),
    "several gzip members": ("csv.gz", members),
    "columns in another order and more of them": ("csv", lambda text: rearranged(text).encode()),
    "empty lines": ("csv", lambda text: text.replace("\n", "\n\n").encode()),
    "all at once": ("csv.gz", lambda text: gzip.compress(("\ufeff" + quoted(rearranged(text))).encode())),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_one_screen_in_every_dress(dress, plain, tmp_path):
    ending, change = DRESSES[dress]
    for name in ("cp", "tx"):
        (tmp_path / f"{name}.{ending}").write_bytes(change((plain.folder / f"{name}.csv").read_text(encoding="utf-8")))
    screen = reread(plain, tmp_path, *(f'path = "{name}.{ending}"' for name in ("cp", "tx")))
    extra = [note for note in screen.notes if "'comment'" in note]
    assert len(extra) == (dress in ("columns in another order and more of them", "all at once"))
    assert all("'comment' are" in note and "taken as metadata" in note for note in extra)
    assert_same(replace(screen, notes=tuple(note for note in screen.notes if note not in extra)), plain)


# --- h5ad ---------------------------------------------------------------------------------------------------

# Six wells with categories, text, gaps and flags in obs, X as csr, layers dense (X * 2) and csc (X * 3).
VALUES = np.array(
    [[0, 1.5, 0, -2], [0, 0, 3, 0], [1, 0, 0, np.nan], [0, 0, 0, 1], [2, 0, 0, 0], [0, 0.25, 0, 4]], np.float32
)


@pytest.fixture(params=["0.12", "0.13"])
def written_by_anndata(request, tmp_path):
    """A file that anndata 0.12.19 (on pandas 2) or 0.13.4 (on pandas 3) wrote: they store text differently."""
    path = tmp_path / "screen.h5ad"
    path.write_bytes(gzip.decompress((DATA / f"anndata_{request.param}.h5ad.gz").read_bytes()))
    return path


@pytest.mark.parametrize(("layer", "factor"), [("", 1), ("dense", 2), ("csc", 3)])
def test_files_of_anndata_itself(written_by_anndata, layer, factor):
    problems = []
    table = tables.read_table(written_by_anndata, "screen.h5ad", problems, layer=layer, formats=[".h5ad"])
    assert problems == [] and table.features == ("G2", "G1", "G4", "G3")
    np.testing.assert_array_equal(table.frame[list(table.features)], VALUES * factor)
    assert tables.as_text(table.frame["compound"]).tolist() == ["a", "b", "c", "DMSO", "a", "b"]
    assert tables.as_text(table.frame["uM"]).tolist() == ["1", "2", "3", "", "1", "2"]
    assert tables.as_text(table.frame["batch"]).tolist() == ["x", "", "x", "y", "y", "x"]
    assert tables.as_text(table.frame["flag"]).tolist() == ["True", "", "False", "True", "True", "False"]


def test_wells_of_an_anndata_file(written_by_anndata):
    columns = {"compound": "compound", "dose": "uM", "plate": "plate", "well": "well", "control": "negcon"}
    wells = read_cell_painting(written_by_anndata, columns)
    assert list(wells.columns) == [*METADATA_COLUMNS, "G1", "G2", "G3", "G4"], "every variable is a feature"
    assert wells["Metadata_Dose"].tolist()[:3] == [1, 2, 3] and np.isnan(wells["Metadata_Dose"][3])
    assert wells["Metadata_Control"].tolist() == [False] * 3 + [True] + [False] * 2
    assert list(read_cell_painting(written_by_anndata, columns, "^G[12]$", "dense").columns[5:]) == ["G1", "G2"]
    with pytest.raises(ScreenError, match=r"screen\.h5ad: there is no layer 'raw'; its layers are 'csc', 'dense'"):
        read_cell_painting(written_by_anndata, columns, layer="raw")


def h5ad_line(path: Path, change) -> str:
    """What is said about an h5ad after a change in it."""
    with h5py.File(path, "r+") as file:
        change(file)
    problems = []
    tables.read_table(path, path.name, problems, formats=[".h5ad"])
    assert len(problems) == 1 and "\n" not in problems[0] and problems[0].startswith("screen.h5ad: ")
    return problems[0]


def without(name: str):
    def change(file):
        del file[name]

    return change


def twice(file) -> None:
    del file["var"]
    file.create_group("var").attrs.update({"_index": "_index", "column-order": []})
    file["var/_index"] = ["G1", "G1", "uM", "G3"]


def shorter(file) -> None:
    del file["X"]
    file["X"] = np.zeros((5, 4))


H5AD_MISTAKES = {
    "no X": (without("X"), ["X is empty", "layer ="]),
    "old layout": (without("obs"), ["since release 0.7", "write it again"]),
    "a column is gone": (without("obs/well"), ["not a readable h5ad file"]),
    "variables twice": (twice, ["column 'G1', 'uM' occurs more than once", "names of var"]),
    "too short": (shorter, ["values of shape (5, 4) for 6 observations and 4 variables"]),
    "another sparse form": (lambda file: file["X"].attrs.update({"encoding-type": "coo_matrix"}), ["'coo'", "csr"]),
}


@pytest.mark.parametrize("mistake", H5AD_MISTAKES)
def test_mistakes_in_an_h5ad(mistake, written_by_anndata):
    change, fragments = H5AD_MISTAKES[mistake]
    line = h5ad_line(written_by_anndata, change)
    assert [fragment for fragment in fragments if fragment not in line] == [], line


def test_categories_as_anndata_0_7_stores_them(written_by_anndata):
    with h5py.File(written_by_anndata, "r+") as file:
        codes, names = file["obs/batch/codes"][:], file["obs/batch/categories"]
        names = names["values"].asstr()[:] if hasattr(names, "keys") else names.asstr()[:]
        del file["obs/batch"]
        file["obs/__categories/batch"] = list(names)
        file["obs/batch"] = codes
        file["obs/batch"].attrs["categories"] = file["obs/__categories/batch"].ref
    problems = []
    table = tables.read_table(written_by_anndata, "screen.h5ad", problems, formats=[".h5ad"])
    assert problems == [] and tables.as_text(table.frame["batch"]).tolist() == ["x", "", "x", "y", "y", "x"]


def test_sparse_values_that_memory_cannot_hold(written_by_anndata, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100))
    line = h5ad_line(written_by_anndata, lambda file: None)
    assert "6 x 4 sparse values made dense need" in line and "fewer variables" in line


def test_without_h5py_one_line_names_the_extra(written_by_anndata, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    problems = []
    assert tables.read_table(written_by_anndata, "screen.h5ad", problems, formats=[".h5ad"]) is None
    assert problems == ["screen.h5ad: .h5ad files need one more package: pip install -e '.[h5ad]'"]


# --- cells --------------------------------------------------------------------------------------------------


def test_text_of_ids():
    values = pd.Series([1, 2.0, "x ", None, np.nan, "007"], dtype=object)
    assert tables.as_text(values).tolist() == ["1", "2", "x", "", "", "007"]
    assert tables.as_text(pd.Series([1.0, np.nan])).tolist() == ["1", ""]


def test_numbers_of_cells():
    numbers, words = tables.as_numbers(pd.Series(["1.5", "x", "NA", None, " 2 "], dtype=object))
    np.testing.assert_array_equal(numbers, [1.5, np.nan, np.nan, np.nan, 2])
    assert words.tolist() == [False, True, False, False, False]
    for times in (pd.to_datetime(pd.Series(["2026-01-01", None])), pd.to_timedelta(pd.Series(["1 day", None]))):
        numbers, words = tables.as_numbers(times)
        assert np.isnan(numbers).all() and words.tolist() == [True, False]


def test_rows_and_names_in_words():
    assert tables.rows_in_words(np.array([False, True])) == "data row 2"
    assert tables.rows_in_words(np.ones(5, bool)) == "data rows 1, 2, 3, ... (5 rows)"
    assert profiles.some_names(["a", "b", "c"], 2) == "'a', 'b', ... (3 in all)"


def test_the_first_problem_is_raised_with_the_number_of_the_others():
    tables.refuse([], "x")
    with pytest.raises(ScreenError, match=r"^one \(and 1 more problem: here lists them\)$"):
        tables.refuse(["one", "two"], "here")
