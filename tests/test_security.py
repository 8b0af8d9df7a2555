"""Hostile files and names: nothing of them is executed, leads out of its folder, or takes the machine's memory.

What a run reads comes from others: screens, models, results folders, names of compounds. What is refused in one line
stands in test_bad_input.py; addresses, redirects and checksums in test_downloads.py.
"""

import ast
import bz2
import gzip
import html
import json
import lzma
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import h5py
import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import small_report
from stub_notebooks import write_study

from cpx_utils import downloads, provenance, rosetta, tables
from cpx_utils.datasets import DATASETS, read_r_profiles
from cpx_utils.downloads import RemoteFile
from cpx_utils.encoders import METHODS
from cpx_utils.interactive_map import map_content, read_map
from cpx_utils.pipeline import main
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import Workspace, read_json, stage_records, write_json
from cpx_utils.report import notebook_html, write_report

ROOT = Path(__file__).resolve().parents[1]
CODE = [ROOT / "run_all.py", *sorted((ROOT / "cpx_utils").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# --- code ---------------------------------------------------------------------------------------------------

MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "pty", "commands"}
CALLS = {"eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "torch.load", "torch.save",
         "torch.hub.load", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.load",
         "yaml.unsafe_load", "yaml.full_load", "tempfile.mktemp", "shutil.unpack_archive", "pandas.eval"}  # fmt: skip
METHOD_CALLS = {"read_pickle", "to_pickle", "extractall", "run_line_magic", "run_cell_magic"}


def dangers(source: str) -> list[str]:
    """What in a piece of Python unpickles, evaluates text, starts a shell or unpacks an archive; names in full."""
    tree = ast.parse(source)
    named, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                      for alias in node.names}  # fmt: skip
            found += [alias.name for alias in node.names if MODULES & set(alias.name.split("."))]
        elif isinstance(node, ast.ImportFrom):
            named |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [f"{node.module}.{alias.name}" for alias in node.names
                      if MODULES & {*str(node.module).split("."), alias.name}]  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = ast.unparse(node.func).partition(".")
        called = named.get(first, first) + dot + rest
        last = called.rpartition(".")[2]
        if called in CALLS or last in METHOD_CALLS or re.match(r"os\.(exec|spawn)", called):
            found.append(called)
        found += [
            f"{called}({keyword.arg}=...)"
            for keyword in node.keywords
            if keyword.arg in ("shell", "allow_pickle") and ast.unparse(keyword.value) != "False"
        ]
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_code_unpickles_evaluates_or_starts_a_shell(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_does_either(path):
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert cells and [found for source in cells for found in dangers(source)] == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads as read", "pickle.loads"),
        ("import sklearn.externals.joblib", "sklearn.externals.joblib"),
        ("from sklearn.utils import joblib", "sklearn.utils.joblib"),
        ("eval(text)", "eval"),
        ("from builtins import exec as run\nrun(text)", "builtins.exec"),
        ("import torch as t\nt.load(path)", "torch.load"),
        ("from torch import load\nload(path)", "torch.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "numpy.load(allow_pickle=...)"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("import pandas as pd\npd.read_pickle(path)", "pandas.read_pickle"),
        ("import os\nos.system('rm')", "os.system"),
        ("from os import execv\nexecv('a', [])", "os.execv"),
        ("import subprocess\nsubprocess.run('rm', shell=True)", "subprocess.run(shell=...)"),
        ("archive.extractall(folder)", "archive.extractall"),
        ("get_ipython().run_line_magic('sx', 'rm')", "get_ipython().run_line_magic"),
    ],
)
def test_planted_dangers_are_found(planted, found):
    assert found in dangers(planted)
    assert dangers("import json\nimport torch\nnetwork.eval()\njson.loads(text)\ntorch.as_tensor(values)") == []


def test_shell_commands_in_a_notebook_are_no_python():
    with pytest.raises(SyntaxError):
        dangers("!rm -rf /")


def test_a_saved_model_is_json_and_safetensors(tmp_path):
    rng = np.random.default_rng(0)
    METHODS["ridge_tx"]().fit(rng.normal(size=(20, 4)), rng.normal(size=(20, 5))).save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    header = (tmp_path / "encoder.safetensors").read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")]).keys() >= {"mean_", "weights_"}


# --- places -------------------------------------------------------------------------------------------------


def test_registered_files_come_by_https_and_stay_below_their_folder(tmp_path):
    files = [file for dataset in DATASETS.values() for file in dataset.files]
    assert len(files) > 20
    for file in files:
        assert file.address.startswith("https://")
        assert (tmp_path / file.mirror_path).resolve().is_relative_to(tmp_path / "raw.githubusercontent.com") or (
            tmp_path / file.mirror_path
        ).resolve().is_relative_to(tmp_path / "cellpainting-gallery.s3.amazonaws.com")
        assert len(file.checksum) >= 32


@pytest.mark.parametrize("path", ["../../.ssh/id", "%2e%2e/%2e%2e/x", "a/../../x", "a//etc/x", "..%5cx", "a%00b"])
def test_a_registered_name_cannot_lead_out_of_a_mirror_or_data_folder(path, tmp_path):
    file = RemoteFile("cp", f"https://example.org/{path}", "0" * 64, 1, "", "")
    for options in ({"mirror": tmp_path}, {"mirror": "https://example.com", "data_dir": tmp_path}):
        with pytest.raises(ScreenError, match="is no address of a file"):
            downloads.obtain(file, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["http://example.org/x", "file:///etc/passwd", "ftp://example.org/x", "//x/y"])
def test_a_redirect_may_lead_to_https_alone(address):
    with pytest.raises(downloads._RefusalError, match="isn't https"):
        downloads._require_encrypted(address, plain_http=False)


RECORD = {"stage": "01_prepare", "reads": {}, "writes": {}, "figures": [], "steps": [], "learned": [], "device": "cpu",
          "seconds": 1.0, "peak_mb": 1.0}  # fmt: skip
OUTSIDE = {
    "a table above the run": {"writes": {"../../../victim.txt": "0" * 64}},
    "a detour": {"writes": {"tables/../../../../victim.txt": "0" * 64}},
    "a picture above the figures": {"writes": {"figures:../../victim.txt": "0" * 64}},
    "an absolute picture": {"writes": {"figures:/victim.txt": "0" * 64}},
    "a figure's name": {"figures": [{"name": "../../victim"}]},
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_a_results_folder_from_elsewhere_cannot_have_other_files_removed(kind, tmp_path, capsys):
    """A stage's record names the files that its next run replaces, and those it no longer makes are removed."""
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    run_dir = tmp_path / "results" / "simulated" / "default"
    write_json(run_dir / "stages" / "01_prepare.json", RECORD | OUTSIDE[kind])
    with pytest.raises(ScreenError, match="outside of") as refused:
        stage_records(run_dir)
    assert "\n" not in str(refused.value)
    folders = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures")]
    status = main([*folders, "--only", "01"], write_study(tmp_path / "notebooks"))
    error = capsys.readouterr().err
    assert status == 2 and "outside of" in error and error.count("\n") == 1
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("record", [[], {}, "x", {"reads": {}, "writes": None, "figures": [1]}])
def test_a_record_that_is_none_counts_as_none(record, tmp_path):
    write_json(tmp_path / "stages" / "01_prepare.json", record)
    assert stage_records(tmp_path) == {}


# --- names in pages -----------------------------------------------------------------------------------------

EVIL_NAMES = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<svg/onload=alert(1)>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "[x](javascript:alert(1)) ![y](https://example.org/y.png)",
    "{{ 7 * 7 }} {% raw %}",
    "]]> --> \u2028 &lt;script&gt;",
)
ALLOWED = {"script": {"map.html"}}  # elements that run something, and the pages that hold our own


class _Elements(HTMLParser):
    """Every element of a page with its attributes, and the scripts' text."""

    def __init__(self):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def parsed(page: str) -> _Elements:
    parser = _Elements()
    parser.feed(page)
    return parser


def active_parts(page: str) -> list[str]:
    """Elements and attributes of a page that would run or load something."""
    found = []
    for tag, attributes in parsed(page).elements:
        if tag in ("script", "iframe", "object", "embed", "link", "svg", "base", "form") and not (
            tag == "svg" and attributes.get("aria-hidden") == "true"  # the legend's marks
        ):
            found.append(tag)
        found += [f"{tag} {name}" for name in attributes if name.startswith("on")]
        found += [
            f"{tag} {name}={value}"
            for name, value in attributes.items()
            if name in ("src", "href", "action") and re.match(r"\s*(javascript|data:text|vbscript)", value or "", re.I)
        ]
        if tag == "img" and not re.match(r"(\.\./)?figures/|data:image/", attributes.get("src", "")):
            found.append(f"img {attributes.get('src')}")
    return found


def test_active_parts_are_found():
    page = "<img src=x onerror=y><script>1</script><a href=' javascript:x'>a</a><b onclick=x>b</b>"
    assert active_parts("<img src='figures/a.png'><a href='https://example.org'>a</a>") == []
    assert active_parts(page) == ["img onerror", "img x", "script", "a href= javascript:x", "b onclick"]


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_names_from_data_are_text_in_every_page_of_the_report(name, tmp_path, monkeypatch):
    monkeypatch.setattr(small_report, "EVIL", name)
    index = write_report(*small_report.write_run(tmp_path))
    pages = {path.name: path.read_text(encoding="utf-8") for path in index.parent.rglob("*.html")}
    assert len(pages) == 5
    for page, text in pages.items():
        expected = ["script"] * 3 if page == "map.html" else []  # the data, Bokeh, and what draws the map
        assert active_parts(text) == expected, page
    shown = " ".join("".join(parsed(pages["index.html"]).text).split())
    assert shown.count(" ".join(name.split()).replace("`", "")) >= 6
    alts = [attributes.get("alt", "") for _, attributes in parsed(pages["index.html"]).elements]
    assert f"Found: {' '.join(name.split())}" in alts
    rows = "".join(parsed(pages["map.html"]).text)
    assert name in rows
    content = map_content(read_map(tmp_path / "run"))
    assert "<" not in content["data"] and name in json.loads(content["data"])["names"]


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_names_from_data_are_text_in_executed_notebooks(name, tmp_path, monkeypatch):
    """What a notebook shows: tables, sentences of What we learn, captions, and pictures with their alternative text."""
    import IPython.display
    from matplotlib import pyplot

    shown = []
    monkeypatch.setattr(provenance, "_in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", shown.append)
    workspace = Workspace("01_prepare", str(tmp_path / "run"), str(tmp_path / "figures"))
    workspace.say(f"**The best** is {name}.")
    figure = pyplot.figure(figsize=(1, 1))
    workspace.figure(figure, "01_x", pd.DataFrame({"a": [1]}), f"Of {name}")
    words = [nbformat.v4.new_output("display_data", data={"text/markdown": one.data})
             for one in shown if isinstance(one, IPython.display.Markdown)]  # fmt: skip
    assert len(words) == 2
    table = {"text/html": pd.DataFrame({name: [name]}, index=[name])._repr_html_(), "text/plain": name}
    picture = {"image/png": "iVBORw0KGgo="}
    outputs = [
        nbformat.v4.new_output("display_data", data=table),
        nbformat.v4.new_output("stream", name="stdout", text=name),
        nbformat.v4.new_output("display_data", data=picture, metadata={"image/png": {"alt": name}}),
        *words,
    ]
    page = notebook_html(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)]))
    assert active_parts(page) == []
    assert name in "".join(parsed(page).text)
    assert name in [attributes.get("alt") for _, attributes in parsed(page).elements]


def test_names_in_a_picture_are_no_elements_of_its_svg(tmp_path):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(2, 2))
    with pyplot.rc_context({"text.parse_math": False}):
        for number, name in enumerate(EVIL_NAMES):
            axes.text(0, number, name)
        provenance.save_figure(figure, tmp_path / "x", pd.DataFrame({"name": EVIL_NAMES}))
    pyplot.close(figure)
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(tmp_path / "x.svg").iter()}
    assert tags <= {"svg", "defs", "style", "g", "path", "use", "metadata", "RDF", "Work", "type", "format", "title",
                    "creator", "Agent", "clipPath", "rect"}  # fmt: skip
    assert pd.read_csv(tmp_path / "x.csv")["name"].tolist() == list(EVIL_NAMES)


def test_what_is_typed_on_the_command_line_is_escaped_too(tmp_path):
    evil = html.escape(EVIL_NAMES[0])
    run_dir, figures = small_report.write_run(tmp_path)
    record = read_json(run_dir / "stages" / "01_prepare.json")
    record["run"] = {"fingerprint": {"parameters": {"split": EVIL_NAMES[0]}}, "seconds": 1.0, "git": {}}
    write_json(run_dir / "stages" / "01_prepare.json", record)
    known = provenance.run_manifest(
        run_dir, dataset=EVIL_NAMES[0], profile=EVIL_NAMES[0], seed=0, threads=1, unverified=True
    )
    write_json(run_dir / "manifest.json", known)
    page = write_report(run_dir, figures).read_text(encoding="utf-8")
    assert active_parts(page) == [] and page.count(evil) == 4  # title, heading, profile, parameter


# --- files that are larger than they look -------------------------------------------------------------------


@pytest.fixture
def little_memory(monkeypatch):
    """A machine with 8 MB free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8_000_000))


def problem_of(path: Path) -> str:
    problems: list[str] = []
    assert tables.read_table(path, path.name, problems, formats=tables.PROFILE_FORMATS) is None
    [line] = problems
    assert "\n" not in line
    return line


def test_a_csv_that_unpacks_to_more_than_memory_is_not_read(tmp_path, little_memory):
    rows = b"Metadata_Compound,Cells_A\n" + b"d,0\n" * 4_000_000
    (tmp_path / "cp.csv.gz").write_bytes(gzip.compress(rows, 1))
    assert (tmp_path / "cp.csv.gz").stat().st_size < 200_000
    assert "cp.csv.gz: it holds more than 0.0 GB of text and 0.0 GB of memory are free" in problem_of(
        tmp_path / "cp.csv.gz"
    )


def test_a_line_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_LINE", 10_000)
    (tmp_path / "cp.csv.gz").write_bytes(gzip.compress(b"0" * 50_000_000, 1))
    assert "a line of more than 10000 characters" in problem_of(tmp_path / "cp.csv.gz")


def test_a_parquet_file_that_unpacks_to_more_than_memory_is_not_read(tmp_path, little_memory):
    pd.DataFrame({f"Cells_{n}": np.zeros(200_000, np.float32) for n in range(9)}).to_parquet(tmp_path / "cp.parquet")
    assert (tmp_path / "cp.parquet").stat().st_size < 100_000
    assert "200000 x 9 values need 0.0 GB and 0.0 GB of memory are free" in problem_of(tmp_path / "cp.parquet")


@pytest.mark.parametrize("where", ["X", "obs/Metadata_Compound", "var/_index"])
def test_an_h5ad_that_claims_a_huge_table_is_not_read(where, tmp_path):
    with h5py.File(tmp_path / "cp.h5ad", "w") as file:
        for group in ("obs", "var"):
            file.create_group(group).attrs.update({"_index": "_index", "column-order": []})
            file[group]["_index"] = ["a"]
        file["obs"].attrs["column-order"] = ["Metadata_Compound"]
        file["obs/Metadata_Compound"], file["X"] = ["a"], [[1.0]]
        del file[where]
        file.create_dataset(where, (10**12, 1) if where == "X" else 10**12, "f4", chunks=True)
    assert (tmp_path / "cp.h5ad").stat().st_size < 100_000
    line = problem_of(tmp_path / "cp.h5ad")
    assert "of memory are free" in line or "for 1 observations and 1 variables" in line or "columns, of 100000" in line


@pytest.mark.parametrize("kind", ["external link", "virtual dataset"])
def test_an_h5ad_that_leads_to_another_file_is_not_followed(kind, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["X"] = [[42.0]]
    with h5py.File(tmp_path / "cp.h5ad", "w") as file:
        for group in ("obs", "var"):
            file.create_group(group).attrs.update({"_index": "_index", "column-order": []})
            file[group]["_index"] = ["a"]
        if kind == "external link":
            file["X"] = h5py.ExternalLink("secret.h5", "X")
        else:
            layout = h5py.VirtualLayout((1, 1), "f8")
            layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "X", shape=(1, 1))
            file.create_virtual_dataset("X", layout)
    assert "lies in another file" in problem_of(tmp_path / "cp.h5ad")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bz2", "xz"])
def test_an_r_file_that_unpacks_to_more_than_memory_is_not_read(compress, tmp_path, little_memory):
    (tmp_path / "x.rda").write_bytes(compress(b"RDX3\nX\n" + b"\0" * 3_000_000))
    with pytest.raises(ScreenError, match=r"^x\.rda: it unpacks to more than 0\.0 GB, a quarter of the free memory"):
        read_r_profiles(tmp_path / "x.rda")


def test_an_excel_file_that_unpacks_to_much_is_not_read(tmp_path, monkeypatch):
    pd.DataFrame({"probe_id": ["p_at"], "symbol": ["TP53"]}).to_excel(tmp_path / "idmap.xlsx", index=False)
    assert rosetta._gene_symbols(["p_at"], tmp_path / "idmap.xlsx")[0] == ["TP53"]
    monkeypatch.setattr(rosetta, "MOST_UNPACKED", 1000)
    with pytest.raises(ScreenError, match=r"idmap\.xlsx: can't be read as an Excel table \(it unpacks to"):
        rosetta._gene_symbols(["p_at"], tmp_path / "idmap.xlsx")
