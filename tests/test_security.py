"""Hostile files and names: nothing of them is executed or leads out of its folder.

What a run reads comes from others: screens, models, results folders, names of compounds. What is refused in one line
stands in test_own_screens.py and test_bad_input.py; addresses, redirects and checksums in test_downloads.py.
"""

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import small_report
from stub_notebooks import write_study

from cpx_utils import provenance
from cpx_utils.datasets import DATASETS
from cpx_utils.encoders import METHODS
from cpx_utils.interactive_map import map_content, read_map
from cpx_utils.pipeline import main
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import Workspace, read_record, stage_record_path, write_record
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
    for name in ("01_prepare.json", "01_prepare.before"):
        write_record(run_dir / "stages" / name, RECORD | OUTSIDE[kind])
    with pytest.raises(ScreenError, match="outside of") as refused:
        read_record(stage_record_path(run_dir, "01_prepare"))
    assert "\n" not in str(refused.value)
    folders = ["--results", str(tmp_path / "results"), "--figures", str(tmp_path / "figures")]
    status = main([*folders, "--only", "01"], write_study(tmp_path / "notebooks"))
    error = capsys.readouterr().err
    assert status == 2 and "outside of" in error and error.count("\n") == 1
    assert victim.read_text() == "mine"


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


@pytest.mark.parametrize("name", EVIL_NAMES[::3])
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
