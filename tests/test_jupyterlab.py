"""A notebook as a reader runs it in JupyterLab: cell by cell, in the kernel that it asks for, in its own folder."""

import tempfile

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

from cpx_utils.provenance import project_root, stage_records

NOTEBOOKS = project_root() / "notebooks"


def test_every_notebook_asks_for_the_kernel_that_is_always_there():
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3", "Lab would ask the reader to choose a kernel"


def test_a_notebook_runs_cell_by_cell_where_it_lies_and_leaves_nothing_there(tmp_path):
    notebook = nbformat.read(NOTEBOOKS / "01_prepare_profiles.ipynb", as_version=4)
    values = {"run_dir": str(tmp_path / "run"), "figures_dir": str(tmp_path / "figures"), "screen_size": "tiny"}
    [*_, parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in values.items())
    last = nbformat.v4.new_code_cell("import os\nprint(os.getcwd(), project_root())")
    last.source = "from cpx_utils.provenance import project_root\n" + last.source
    notebook.cells.append(last)
    before = sorted(path.name for path in NOTEBOOKS.iterdir())
    with tempfile.TemporaryDirectory() as sockets:  # TCP ports may clash with those of other kernels
        transport = {"transport": "ipc", "ip": f"{sockets}/k", "transport_encryption": "disabled"}
        where = {"metadata": {"path": str(NOTEBOOKS)}}
        client = NotebookClient(notebook, timeout=120, resources=where, config=Config({"KernelManager": transport}))
        client.execute()  # raises where a cell does
    assert last.outputs[0].text.split() == [str(NOTEBOOKS), str(project_root())]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    record = stage_records(tmp_path / "run")["01_prepare_profiles"]
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) >= len(record["figures"]) == len(list((tmp_path / "figures").glob("*.png"))) > 3
    assert "run" not in record, "run_all.py would take what was run by hand for its own"
    assert sorted(path.name for path in NOTEBOOKS.iterdir()) == before
