"""Hostile files and names: nothing of them is executed, leads out of its folder, or takes the machine's memory.

What a run reads comes from others: screens, models, results folders, names of compounds. What is refused in one line
stands in test_bad_input.py; addresses, redirects and checksums in test_downloads.py.
"""

import ast
import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import h5py
import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from small_report import EVIL_NAMES
from stub_notebooks import write_study

from cpx_utils import provenance, tables
from cpx_utils.datasets import DATASETS, RemoteFile, obtain
from cpx_utils.encoders import METHODS
from cpx_utils.pipeline import main
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import stage_records, write_json

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
    file = RemoteFile("cp", f"https://example.org/{path}", "0" * 64, "SHA-256", 1, "", "")
    for options in ({"mirror": tmp_path}, {"mirror": "https://example.com", "data_dir": tmp_path}):
        with pytest.raises(ScreenError, match="is no address of a file"):
            obtain(file, **options)
    assert list(tmp_path.iterdir()) == []


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


# --- names in pictures; in pages: test_report.py ------------------------------------------------------------


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
