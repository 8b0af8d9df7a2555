"""Whole runs of a study in small: what runs, what is skipped, what is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import psutil
import pytest
from small_report import remote_references
from stub_notebooks import write_notebook, write_study

from cpx_utils.kernels import StageProcess
from cpx_utils.pipeline import main
from cpx_utils.provenance import Workspace, read_json, stage_record_path, stage_records

ALL = ["01_prepare", "02_baselines", "03_contrastive", "05_cluster"]


class Study:
    """A study whose paths hold braces and spaces, which papermill takes for templates."""

    def __init__(self, folder):
        self.notebooks = write_study(folder / "note {books}")
        self.figures_root = folder / "figures {0}"
        self.figures = self.figures_root / "simulated"
        self.results = folder / "re{sults}"
        self.run_dir = self.results / "simulated" / "default"

    def arguments(self, *extra):
        return ["--results", str(self.results), "--figures", str(self.figures_root), "--jobs", "2", *extra]

    def run(self, capsys, *extra):
        """Return exit status, the stages that ran, and what was printed."""
        capsys.readouterr()
        status = main(self.arguments(*extra), self.notebooks)
        printed = capsys.readouterr()
        ran = [line.split()[1] for line in printed.out.splitlines() if line.startswith("[") and line[-2:] == " s"]
        return status, sorted(ran), printed

    def files(self):
        """Return the bytes of all tables, pictures and models, timings apart."""
        return {
            path.name: path.read_bytes()
            for folder in (self.run_dir, self.figures)
            for path in folder.rglob("*")
            if path.suffix in (".parquet", ".csv", ".png", ".svg") and path.name != "timings.csv"
        }


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study after its first run; tests leave it fresh, with its default parameters."""
    study = Study(tmp_path_factory.mktemp("study"))
    finished = subprocess.run(
        [sys.executable, "-c", "import sys; from cpx_utils.pipeline import main; "
         "raise SystemExit(main(sys.argv[2:], sys.argv[1]))", str(study.notebooks), *study.arguments()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    study.printed, study.complained = finished.stdout, finished.stderr
    return study


def test_the_first_run_does_everything_and_says_so(study):
    lines = study.printed.splitlines()
    assert sorted(line.split()[1] for line in lines if line.startswith("[")) == ALL
    assert lines[0].startswith("[1/4] 01_prepare ... ") and lines[3].startswith("[4/4] 05_cluster ... ")
    assert "3 figures in" in study.printed and "report:" in study.printed
    assert ": supported (moa_map: contrastive vs pca_cp, +0.100 [+0.050, +0.150])" in study.printed
    assert "says nothing about biology" in lines[-1]
    assert study.complained == ""


def test_the_kernel_is_this_python_alone_with_one_thread(study):
    lines = (study.run_dir / "models" / "contrastive" / "kernel.txt").read_text().splitlines()
    assert lines == [sys.executable, "1", "0", "True"]


def test_executed_notebooks_hold_parameters_and_outputs_and_no_warnings(study):
    notebook = nbformat.read(study.run_dir / "notebooks" / "05_cluster.ipynb", 4)
    injected = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert str(study.run_dir) in injected[0].source and "methods" not in injected[0].source
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [list(output["data"]) for output in outputs if "image/png" in output.get("data", {})] == [
        ["image/png", "text/plain"]
    ] * 3
    stderr = [output.text for output in outputs if output.get("name") == "stderr"]
    assert len(stderr) == 1 and "%|" in stderr[0]
    source = nbformat.read(study.notebooks / "05_cluster.ipynb", 4)
    assert not any(cell.get("outputs") for cell in source.cells)


def test_manifest_timings_and_report_are_complete(study):
    manifest = read_json(study.run_dir / "manifest.json")
    assert list(manifest["stages"]) == ALL and manifest["seed"] == 0 and manifest["threads_per_stage"] == 1
    assert manifest["stages"]["02_baselines"]["parameters"]["temperature"] == 0.1
    assert all(part["seconds"] > 0 and part["peak_mb"] > 20 for part in manifest["stages"].values())
    timings = pd.read_csv(study.run_dir / "tables" / "timings.csv")
    assert list(timings.columns) == ["stage", "step", "seconds", "peak_mb"]
    assert set(timings["step"]) == {"total", "kernel start", "scale"}
    report = study.run_dir / "report"
    assert sorted(path.stem for path in (report / "notebooks").iterdir()) == ALL
    assert (report / "figures" / "05_baseline.png").is_file()
    page = (report / "notebooks" / "05_cluster.html").read_text(encoding="utf-8")
    assert page.count("1/2 [00:00") == 1  # in the code, not as its output
    assert remote_references(report) == []


def test_nothing_changed_runs_nothing(study, capsys):
    index = study.run_dir / "report" / "index.html"
    before = index.stat().st_mtime_ns
    status, ran, printed = study.run(capsys)
    assert (status, ran) == (0, [])
    assert printed.out.count("skipped (unchanged)") == 4 and "notebooks: 0 ran, 4 unchanged" in printed.out
    assert index.stat().st_mtime_ns == before


def test_prose_does_not_run_anything(study, capsys):
    path = study.notebooks / "01_prepare.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source = "# Are the profiles clean?"
    nbformat.write(notebook, path)
    assert study.run(capsys)[:2] == (0, [])


def test_a_parameter_runs_its_stage_and_what_depends_on_it_only(study, capsys):
    before = study.files()
    status, ran, _ = study.run(capsys, "--dry-run", "-p", "temperature=0.5")
    assert (status, ran) == (0, [])
    status, ran, _ = study.run(capsys, "-p", "temperature=0.5")
    assert (status, ran) == (0, ["02_baselines", "05_cluster"])
    assert study.files()["05_baseline.csv"] != before["05_baseline.csv"]
    assert study.run(capsys)[1] == ["02_baselines", "05_cluster"]
    assert study.files() == before  # the same parameters give the same bytes


def test_an_upstream_stage_that_makes_the_same_bytes_stops_there(study, capsys):
    status, _, printed = study.run(capsys, "--dry-run", "-p", "factor=1.2")
    assert status == 0 and "01_prepare: stale: factor was 1.0, is 1.2" in printed.out
    assert "05_cluster: will be checked after 01" in printed.out
    assert study.run(capsys, "-p", "factor=1.2")[:2] == (0, ["01_prepare"])
    assert study.run(capsys)[:2] == (0, ["01_prepare"])


def test_a_failed_cell_is_told_in_one_line_and_the_rest_goes_on_later(study, capsys):
    status, ran, printed = study.run(capsys, "-p", "03.problem=crash")
    assert (status, ran) == (1, []) and "[3/4] 03_contrastive ... failed" in printed.out
    first, second = printed.err.splitlines()
    assert first.startswith("run_all: 03_contrastive failed in cell [4]: KeyError: 'no such gene' (as far as")
    assert "03_contrastive.ipynb" in first
    assert second == "run_all: not run, since they need it: 05_cluster"
    partial = (study.run_dir / "notebooks" / "03_contrastive.ipynb").read_text()
    assert "no such gene" in partial
    assert list(stage_records(study.run_dir)) == ["01_prepare", "02_baselines", "05_cluster"]
    status, _, printed = study.run(capsys, "-p", "03.problem=screen")
    assert status == 1
    assert "03_contrastive failed in cell [4]: column Metadata_Dose is negative in row 3; doses" in printed.err
    # 03 makes again what it made before, so 05 needn't run
    assert study.run(capsys)[:2] == (0, ["03_contrastive"])


def test_a_damaged_table_is_made_again_and_only_and_force_are_obeyed(study, capsys):
    assert study.run(capsys, "--only", "02")[:2] == (0, [])
    assert study.run(capsys, "--only", "2", "--force", "--dry-run")[2].out == "02_baselines: stale: --force\n"
    path = study.run_dir / "embeddings" / "baseline.parquet"
    before = path.read_bytes()
    path.write_bytes(b"damaged")
    assert study.run(capsys)[:2] == (0, ["02_baselines"])
    assert path.read_bytes() == before
    assert study.run(capsys, "--only", "1", "--force")[:2] == (0, ["01_prepare"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_ends_its_kernels_and_goes_on_later(study, capsys, tmp_path, number):
    before = study.files()
    code = "import sys; from cpx_utils.pipeline import main; raise SystemExit(main(sys.argv[2:], sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(study.notebooks), *study.arguments("-p", "02.problem=sleep")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    running = []
    deadline = time.time() + 60
    while time.time() < deadline and not any("ipykernel_launcher" in " ".join(p.cmdline()) for p in running):
        time.sleep(0.1)
        running = [child for child in psutil.Process(process.pid).children(recursive=True) if child.is_running()]
    process.send_signal(number)
    _, complaints = process.communicate(timeout=30)
    if number == signal.SIGKILL:  # nobody is left to say anything
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert complaints.splitlines() == [
            "run_all: interrupted; finished notebooks are kept, and the same command goes on from there"
        ]
    _, alive = psutil.wait_procs(running, timeout=5)
    assert alive == []
    assert not list(tmp_path.glob("cpx-*")), "a temporary folder is left"
    assert "02_baselines" not in stage_records(study.run_dir)
    assert study.run(capsys)[:2] == (0, ["02_baselines"])
    assert study.files() == before


def test_notebooks_that_do_not_record_what_they_made_fail(tmp_path, capsys):
    study = Study(tmp_path)
    for path in study.notebooks.glob("0[235]*"):
        path.unlink()
    path = write_notebook(study.notebooks, "01_prepare", "", ["1 + 1"])
    notebook = nbformat.read(path, 4)
    notebook.cells.pop()
    nbformat.write(notebook, path)
    status, _, printed = study.run(capsys)
    assert status == 1 and "without Workspace.finish()" in printed.err
    assert not (study.run_dir / "report").exists()


def test_what_a_stage_no_longer_makes_is_removed(tmp_path, capsys):
    study = Study(tmp_path)
    for path in study.notebooks.glob("0[235]*"):
        path.unlink()
    code = ['for name in names:\n    workspace.output_file(f"{name}.json").write_text("1")\n']
    write_notebook(study.notebooks, "01_prepare", 'names: list[str] = ["a", "b"]  # files\n', code)
    assert study.run(capsys)[0] == 0 and (study.run_dir / "b.json").is_file()
    assert study.run(capsys, "-p", 'names=["a"]')[:2] == (0, ["01_prepare"])
    assert (study.run_dir / "a.json").is_file() and not (study.run_dir / "b.json").exists()
    assert not list(study.run_dir.glob("stages/*.before"))
    # A run that was killed when its notebook had just ended leaves the record of that and the one before.
    assert study.run(capsys)[0] == 0 and (study.run_dir / "b.json").is_file()
    record = stage_record_path(study.run_dir, "01_prepare")
    shutil.copyfile(record, record.with_suffix(".before"))
    workspace = Workspace("01_prepare", str(study.run_dir), str(study.figures))
    workspace.output_file("a.json").write_text("1")
    workspace.finish()
    assert study.run(capsys, "-p", 'names=["a"]')[:2] == (0, ["01_prepare"])
    assert (study.run_dir / "a.json").is_file() and not (study.run_dir / "b.json").exists()
    assert not list(study.run_dir.glob("stages/*.before"))


def test_a_notebook_that_is_gone_when_its_turn_comes_is_told_in_a_line(tmp_path):
    process = StageProcess(tmp_path / "01_gone.ipynb", tmp_path / "out" / "01_gone.ipynb", {})
    deadline = time.time() + 60
    while not process.ended() and time.time() < deadline:
        time.sleep(0.05)
    error = process.result()["error"]
    assert error["text"].startswith("its process ended early: FileNotFoundError: ") and "\n" not in error["text"]
    assert not list((tmp_path / "out").iterdir())


def test_a_dry_run_says_what_would_be_downloaded(tmp_path, capsys):
    from cpx_utils.datasets import DATASETS

    study = Study(tmp_path)
    places = 'mirror: str = ""  # where from\ndata_dir: str = ""  # where to\n'
    write_notebook(study.notebooks, "01_prepare", places + 'cp_table: str = "selected"  # which features\n', ["1"])
    call = ("--dry-run", "--dataset", "ta-orf", "--data-dir", str(tmp_path / "data"))
    status, _, printed = study.run(capsys, *call)
    lines = printed.out.splitlines()
    files = {file.role: file for file in DATASETS["ta-orf"].files}
    assert status == 0 and lines[0].startswith("01_prepare: ") and len(lines) == 4 + len(files) - 1 + 1
    assert lines[4] == f"  {files['cp'].name}: to download, 1.1 MB ({files['cp'].address})"
    assert lines[-1] == f"downloads: 3 of 3 files, 3.2 MB, into {tmp_path / 'data'}"
    all_features = study.run(capsys, *call, "-p", "cp_table=all")[2].out
    assert f"  {files['cp_all'].name}: to download, 27.5 MB" in all_features
    assert files["cp"].name not in all_features
    mirrored = study.run(capsys, *call, "--mirror", str(tmp_path))[2].out
    assert mirrored.count("missing from the mirror") == 3 and "downloads: none" in mirrored
    assert not (tmp_path / "data").exists()


def test_run_all_itself_answers(tmp_path):
    from cpx_utils.provenance import project_root

    command = [sys.executable, str(project_root() / "run_all.py")]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert helped.returncode == 0 and "--dataset" in helped.stdout and "--mirror" in helped.stdout
    refused = subprocess.run([*command, "--profile", "x"], capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.startswith("run_all: ")
    assert "Traceback" not in refused.stderr and json.dumps(os.listdir(tmp_path)) == "[]"
