"""Whole runs of a study in small: what runs, what is skipped, what is left behind."""

import io
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import Mock

import nbformat
import psutil
import pytest
from stub_notebooks import write_notebook, write_study

from cpx_utils import crossfit
from cpx_utils.pipeline import main
from cpx_utils.provenance import project_root, stage_records

ALL = ["01_prepare", "02_baselines", "03_contrastive", "05_cluster"]
RUN = "import sys; from cpx_utils.pipeline import main; raise SystemExit(main(sys.argv[2:], sys.argv[1]))"


class Study:
    """A study whose paths hold braces and spaces, which papermill takes for templates."""

    def __init__(self, folder):
        self.notebooks = write_study(folder / "note {books}")
        (self.notebooks / "diagrams").mkdir()
        (self.notebooks / "diagrams" / "01.svg").write_text("<svg/>")
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
    printed, wrong = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(wrong):
        assert main(study.arguments(), study.notebooks) == 0
    assert wrong.getvalue() == ""
    study.printed = printed.getvalue()
    return study


def test_the_first_run_does_everything_and_says_so(study):
    lines = study.printed.splitlines()
    assert sorted(line.split()[1] for line in lines if line.startswith("[")) == ALL
    assert lines[0].startswith("[1/4] 01_prepare ... ") and lines[3].startswith("[4/4] 05_cluster ... ")
    assert "report:" in study.printed
    assert ": supported (moa_map: contrastive, +0.100 [+0.050, +0.150])" in study.printed
    assert "says nothing about biology" in lines[-1]


def test_the_kernel_is_this_python_alone_with_one_thread_and_modules_it_imported_are_watched(study):
    lines = (study.run_dir / "models" / "contrastive" / "kernel.txt").read_text().splitlines()
    assert lines == [sys.executable, "1", "0", "True"]
    versions = stage_records(study.run_dir)["03_contrastive"]["run"]["fingerprint"]["versions"]
    watched = {name for name in versions if name.endswith(".py")}
    assert watched == {"cpx_utils/profiles.py", "cpx_utils/provenance.py"} and "cpx_utils/screens.toml" in versions


def test_nothing_changed_runs_nothing_also_where_prose_changed(study, capsys):
    path = study.notebooks / "01_prepare.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source = "# Are the profiles clean?"
    nbformat.write(notebook, path)
    index = study.run_dir / "report" / "index.html"
    before = index.stat().st_mtime_ns
    status, ran, printed = study.run(capsys)
    assert (status, ran) == (0, [])
    assert printed.out.count("skipped (unchanged)") == 4 and "notebooks: 0 ran, 4 unchanged" in printed.out
    assert index.stat().st_mtime_ns == before


def test_what_changed_runs_and_what_failed_is_told_while_the_rest_goes_on(study, capsys):
    before = study.files()
    changed = ["-p", "factor=1.2", "temperature=0.5"]
    printed = study.run(capsys, "--dry-run", *changed)[2]
    assert "01_prepare: stale: factor was 1.0, is 1.2" in printed.out
    assert "03_contrastive: will be checked after 01" in printed.out
    # 01 makes the same bytes, so 03 needn't run
    assert study.run(capsys, *changed)[:2] == (0, ["01_prepare", "02_baselines", "05_cluster"])
    assert study.files()["05_baseline.csv"] != before["05_baseline.csv"]

    status, ran, printed = study.run(capsys, "-p", "02.problem=screen", "03.problem=crash")
    assert (status, ran) == (1, ["01_prepare"]) and "[3/4] 03_contrastive ... failed" in printed.out
    second, third, last = sorted(printed.err.splitlines())
    assert "02_baselines failed in cell [4]: column Metadata_Dose is negative in row 3; doses" in second
    assert third.startswith("run_all: 03_contrastive failed in cell [4]: KeyError: 'no such gene' (as far as")
    assert "03_contrastive.ipynb" in third
    assert last == "run_all: 05_cluster isn't run, since it needs one that failed"
    assert "no such gene" in (study.run_dir / "notebooks" / "03_contrastive.ipynb").read_text()
    assert list(stage_records(study.run_dir)) == ["01_prepare", "05_cluster"]

    assert study.run(capsys)[:2] == (0, ["02_baselines", "03_contrastive", "05_cluster"])
    assert study.files() == before  # the same parameters give the same bytes


def test_a_damaged_table_is_made_again_and_only_and_force_are_obeyed(study, capsys):
    assert study.run(capsys, "--only", "02")[:2] == (0, [])
    assert study.run(capsys, "--only", "2", "--force", "--dry-run")[2].out == "02_baselines: stale: --force\n"
    path = study.run_dir / "embeddings" / "baseline.parquet"
    before = path.read_bytes()
    path.write_bytes(b"damaged")
    assert study.run(capsys, "--from", "2")[:2] == (0, ["02_baselines"])
    assert path.read_bytes() == before


def test_a_killed_run_ends_its_kernels_and_goes_on_later(study, capsys):
    before = study.files()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(study.notebooks), *study.arguments("-p", "02.problem=sleep")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    running = []
    deadline = time.time() + 60
    while time.time() < deadline and not any("ipykernel_launcher" in " ".join(p.cmdline()) for p in running):
        time.sleep(0.1)
        running = [child for child in psutil.Process(process.pid).children(recursive=True) if child.is_running()]
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(running, timeout=20)
    assert running and alive == []
    assert "02_baselines" not in stage_records(study.run_dir)
    assert study.run(capsys)[:2] == (0, ["02_baselines"])
    assert study.files() == before
    assert not [path for folder in (study.run_dir, study.figures) for path in folder.rglob(".writing-*")]


SMALL = """for name in names:
    workspace.output_file(f"{name}.json").write_text("1")
import os
if names == ["die"]:
    os._exit(1)
workspace.output_file("scheduler.txt").write_text(os.environ["CPX_SCHEDULER"])
"""


def test_one_notebook_alone(tmp_path, capsys, monkeypatch):
    study = Study(tmp_path)
    for path in study.notebooks.glob("0[235]*"):
        path.unlink()
    path = write_notebook(study.notebooks, "01_prepare", 'names: list[str] = ["a", "b"]  # files\n', [SMALL])
    monkeypatch.setattr(crossfit, "connect", Mock())
    monkeypatch.setenv("CPX_SCHEDULER", "")
    assert study.run(capsys, "--scheduler", "tcp://there:1")[0] == 0
    assert (study.run_dir / "scheduler.txt").read_text() == "tcp://there:1", "fits don't go to the cluster"
    assert (study.run_dir / "a.json").is_file()
    status, _, printed = study.run(capsys, "-p", "names=die")
    assert status == 1 and "failed in cell [4]: the kernel died, most often for want of memory (as" in printed.err
    assert not (study.run_dir / "a.json").exists(), "what a stage made before goes when it runs again"
    notebook = nbformat.read(path, 4)
    notebook.cells.pop()
    nbformat.write(notebook, path)
    status, _, printed = study.run(capsys)
    assert status == 1 and "without Workspace.finish()" in printed.err


def test_run_all_itself_refuses_in_one_line_without_heavy_imports(tmp_path):
    command = [sys.executable, "-X", "importtime", str(project_root() / "run_all.py"), "--profile", "x"]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    *imports, last = refused.stderr.splitlines()
    assert refused.returncode == 2 and last.startswith("run_all: ") and os.listdir(tmp_path) == []
    loaded = {line.rpartition("|")[2].strip() for line in imports if line.startswith("import time:")}
    assert "cpx_utils.pipeline" in loaded and not {"torch", "sklearn", "papermill", "distributed"} & loaded
