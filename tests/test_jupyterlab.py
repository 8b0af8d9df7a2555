"""The notebooks in JupyterLab: it serves them, they run cell by cell from any folder, and a changed one runs again."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress

import nbformat
import psutil
import pytest
import requests
from nbclient import NotebookClient
from stub_notebooks import write_study
from traitlets.config import Config

from cpx_utils.pipeline import main
from cpx_utils.provenance import project_root, stage_records

NOTEBOOKS = project_root() / "notebooks"
WIDGETS = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2, "version_minor": 0}}


def run_by_hand(path, folder, **values):
    """Execute a notebook's cells one by one with `folder` as the kernel's; return it with its outputs.

    `values` are typed into its parameters cell, as a reader would.
    """
    notebook = nbformat.read(path, 4)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in values.items())
    with kernel_client(notebook, folder) as client, client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
    return notebook


@contextmanager
def kernel_client(notebook, folder):
    """A client whose kernel works in `folder`; by sockets, since TCP ports may clash with those of other kernels."""
    with tempfile.TemporaryDirectory() as sockets:
        transport = {"transport": "ipc", "ip": f"{sockets}/k", "transport_encryption": "disabled"}
        config, where = Config({"KernelManager": transport}), {"metadata": {"path": str(folder)}}
        yield NotebookClient(notebook, timeout=60, resources=where, config=config)


# --- as Lab starts it ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of `jupyter lab notebooks/`, with a token, and its process; no setting of the user's takes part."""
    folder = tmp_path_factory.mktemp("lab")
    own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", str(NOTEBOOKS), "--no-browser", "--allow-root", "--port=0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--IdentityProvider.token=cpx"], env=os.environ | own, stdout=log, stderr=log
        )
    deadline, address = time.monotonic() + 60, ""
    try:
        while not address and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
            said = (folder / "log").read_text(encoding="utf-8", errors="replace")
            address = next((word for word in said.split() if word.startswith("http://127.0.0.1:")), "")
        assert address, said
        yield address.partition("/lab")[0], process
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            child.kill()
        process.wait(timeout=30)


def test_lab_lists_the_notebooks_and_starts_their_kernel_in_their_folder(lab):
    address, process = lab
    header = {"Authorization": "token cpx"}
    listed = requests.get(f"{address}/api/contents", headers=header, timeout=30).json()["content"]
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} <= {entry["name"] for entry in listed}
    assert "jupyterlab" in requests.get(f"{address}/lab", headers=header, timeout=30).text.lower()
    opened = requests.get(f"{address}/api/contents/01_prepare_profiles.ipynb", headers=header, timeout=30).json()
    asked_for = opened["content"]["metadata"]["kernelspec"]["name"]
    known = requests.get(f"{address}/api/kernelspecs", headers=header, timeout=30).json()["kernelspecs"]
    assert asked_for in known, "Lab would ask the reader to choose a kernel"
    request = {"path": "01_prepare_profiles.ipynb", "name": "", "type": "notebook", "kernel": {"name": asked_for}}
    started = requests.post(f"{address}/api/sessions", headers=header, json=request, timeout=30)
    assert started.status_code == 201, started.text
    kernels, deadline = [], time.monotonic() + 30
    while not kernels and time.monotonic() < deadline:  # a child is its parent until it has become a kernel
        time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        described = []
        for child in children:
            with suppress(psutil.NoSuchProcess):
                described.append(child.as_dict(["cmdline", "cwd", "exe"]))
        kernels = [child for child in described if "ipykernel_launcher" in " ".join(child["cmdline"] or [])]
    assert [kernel["cwd"] for kernel in kernels] == [str(NOTEBOOKS)]
    assert os.path.realpath(kernels[0]["exe"]) == os.path.realpath(sys.executable)


# --- cell by cell -------------------------------------------------------------------------------------------


def test_a_notebook_of_the_study_runs_cell_by_cell_where_it_lies(tmp_path):
    places = {"run_dir": str(tmp_path / "run"), "figures_dir": str(tmp_path / "figures")}
    before = sorted(path.name for path in NOTEBOOKS.iterdir())
    notebook = run_by_hand(NOTEBOOKS / "01_prepare_profiles.ipynb", NOTEBOOKS, screen_size="tiny", **places)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    record = stage_records(tmp_path / "run")["01_prepare_profiles"]
    assert len(shown) == len(record["figures"]) == len(list((tmp_path / "figures").glob("*.png"))) > 3  # a diagram
    assert sorted(path.name for path in NOTEBOOKS.iterdir()) == before, "nothing is left beside the notebooks"


# --- what Lab leaves, and what run_all makes of it ----------------------------------------------------------


class Study:
    """A study in small with its folders, after a run of `run_all.py`."""

    def __init__(self, folder):
        self.notebooks = write_study(folder / "notebooks")
        self.folders = ["--results", str(folder / "results"), "--figures", str(folder / "figures")]
        self.run_dir, self.figures = folder / "results/simulated/default", folder / "figures/simulated"
        self.run_all()

    def run_all(self):
        """Run what is stale; return the numbers of the stages that ran."""
        before = self._records()
        assert main(self.folders, self.notebooks) == 0
        return [name[:2] for name, time in self._records().items() if before.get(name) != time]

    def _records(self):
        return {path.stem: path.stat().st_mtime_ns for path in sorted(self.run_dir.glob("stages/*.json"))}

    def save(self, name, change):
        """Change a notebook's cells as in Lab, and save it as Lab does: with outputs, counts and its own metadata."""
        path = self.notebooks / f"{name}.ipynb"
        notebook = nbformat.read(path, 4)
        change(notebook.cells)
        for number, cell in enumerate(notebook.cells):
            cell.metadata |= {"trusted": True, "jupyter": {"source_hidden": False}}
            if cell.cell_type == "code":
                cell.execution_count = number
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"{time.time()}\n")]
        notebook.metadata |= {"language_info": {"name": "python", "version": "3.11.2"}, "widgets": WIDGETS}
        nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Tests leave it fresh."""
    return Study(tmp_path_factory.mktemp("study"))


def _text(cells):
    cells[0].source += "\n\nA thought of mine."


def _code(cells):
    cells[4].source += "\nworkspace.write(table.assign(x=table['x'] * temperature + 1), 'embeddings/baseline.parquet')"


def _same_result(cells):
    cells[4].source += "\n# a remark"


@pytest.mark.parametrize(
    ("name", "change", "ran"),
    [
        ("02_baselines", lambda cells: None, []),
        ("01_prepare", _text, []),
        # Running the last cell by Shift+Enter adds an empty one.
        ("03_contrastive", lambda cells: cells.append(nbformat.v4.new_code_cell("")), []),
        ("02_baselines", _same_result, ["02"]),  # the same bytes: 05 needn't run
        ("02_baselines", _code, ["02", "05"]),
        ("05_cluster", lambda cells: cells.insert(4, nbformat.v4.new_code_cell("len(baseline)")), ["05"]),
    ],
    ids=["saved only", "text", "an empty cell", "a remark", "code", "a new cell"],
)
def test_a_notebook_saved_in_lab_runs_again_with_its_dependents_only_where_its_code_changed(study, name, change, ran):
    study.save(name, change)
    assert study.run_all() == ran
    assert study.run_all() == []


def test_cells_run_from_any_folder_on_the_files_of_a_run_which_then_runs_them_again_in_order(study, tmp_path):
    table = study.run_dir / "embeddings/baseline.parquet"
    before = table.read_bytes()
    places = {"run_dir": str(study.run_dir), "figures_dir": str(study.figures)}
    notebook = run_by_hand(study.notebooks / "02_baselines.ipynb", tmp_path, temperature=7.0, **places)
    assert "run" not in stage_records(study.run_dir)["02_baselines"] and list(tmp_path.iterdir()) == []
    assert table.read_bytes() != before
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3, 4, 5]
    assert study.run_all() == ["02"], "cells run by hand may have run twice or out of order"
    assert table.read_bytes() == before


def test_the_study_keeps_its_results_in_one_place_wherever_a_kernel_works(tmp_path):
    code = "from cpx_utils.provenance import project_root\nprint(project_root())"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with kernel_client(notebook, tmp_path) as client:
        client.execute()
    assert notebook.cells[0].outputs[0].text.strip() == str(project_root())
