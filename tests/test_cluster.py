"""A Dask cluster of two worker processes gives what one process gives, also when a worker is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from stub_notebooks import write_notebook

from cpx_utils import cluster, crossfit, executors
from cpx_utils.encoders import METHODS
from cpx_utils.pipeline import main
from cpx_utils.profiles import ScreenError

METHODS_HERE = {
    "raw_cp": METHODS["raw_cp"](),
    "rcca": METHODS["rcca"](),
    "lda_identity": METHODS["lda_identity"](),
    "contrastive": METHODS["contrastive"](max_epochs=4, n_members=2),
}
GRIDS = {
    "rcca": {"shrinkage": [0.1, 0.5]},
    "lda_identity": {"not_there": [1, 2]},
    "contrastive": {"input_noise": [0.5, 1.0]},
}
DRAWS = {"true_pairs": 1, "deranged": 2}
PREPARE = """import pandas as pd
workspace.write(pd.DataFrame({"x": [1.0, 2.0, seed]}), "cp.parquet")
"""
# The first try of `pause` waits for its worker to be killed; fits are sent back to the cluster.
FIT = """import os, time
from pathlib import Path
import pandas as pd
from cpx_utils import executors
x = workspace.read("cp.parquet")["x"]
if pause and not Path(pause).exists():
    Path(pause).write_text(str(os.getpid()))
    time.sleep(600)
executor = executors.current()
calls = [executor.submit(pow, executor.submit(sum, list(x)), power) for power in range(1, 4)]
effect = [temperature * call.result() for call in calls]
kind = type(executor).__name__
"""
CLAIM = """fits = pd.DataFrame({"effect": effect, "threads": os.environ["OMP_NUM_THREADS"]})
workspace.write(fits, "tables/fits.csv")
claims = pd.DataFrame({"screen": "s", "claim": [2, 3], "endpoint": ["replicate_map", "moa_map"],
    "method": "contrastive", "reference": "pca_cp", "effect": effect[:2], "ci_low": effect[0] - 1,
    "ci_high": effect[1] + 1, "p_adjusted": 0.01, "verdict": ["supported", "inconclusive"], "reason": ""})
workspace.write(claims, "tables/claims.csv")
"""


class Cluster:
    """A scheduler and worker processes with a thread each, started as people start them."""

    def __init__(self, folder, n_workers):
        self.folder = folder
        self.workers = []
        self._scheduler = self._start("dask_scheduler", "--port", "0", "--no-dashboard")
        self.address = self._described()["address"]
        self.fill(n_workers)

    def _start(self, program, *options):
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.{program}",
            "--scheduler-file",
            str(self.folder / "dask.json"),
        ]
        with open(self.folder / f"{program}.log", "a") as log:
            return subprocess.Popen([*command, *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _described(self):
        deadline = time.time() + 120
        while time.time() < deadline:
            try:
                return json.loads((self.folder / "dask.json").read_text())
            except (OSError, ValueError):
                time.sleep(0.1)
        raise TimeoutError((self.folder / "dask_scheduler.log").read_text())

    def fill(self, n_workers):
        """Start workers until there are so many, and wait for them."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        missing = range(n_workers - len(self.workers))
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder))
        self.workers += [self._start("dask_worker", *options) for _ in missing]
        if n_workers:
            client = executors.connect(self.address, seconds=60)
            client.wait_for_workers(n_workers, timeout=240)
            client.close()

    def stop(self):
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    cluster_here = Cluster(tmp_path_factory.mktemp("dask"), 2)
    yield cluster_here
    cluster_here.stop()


@pytest.fixture
def dask(running):
    """A cluster of two workers, also after a test that killed one."""
    running.fill(2)
    return running


@pytest.fixture
def study(tmp_path):
    """Two notebooks: a table, and fits of it that go through an executor."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write_notebook(folder, "01_prepare", "", [PREPARE])
    parameters = 'temperature: float = 0.5  # scale\npause: str = ""  # file that says that it began\n'
    write_notebook(folder, "02_fit", parameters, [FIT, CLAIM])
    return folder


def call(study, folder, *extra):
    return main(["--results", str(folder), "--figures", str(folder / "figures"), *extra], study)


def files(folder):
    """Bytes of all tables by path, of what tells of times apart."""
    found = [*folder.rglob("*.csv"), *folder.rglob("*.parquet")]
    return {path.relative_to(folder): path.read_bytes() for path in found if path.name != "timings.csv"}


# ---------------------------------------------------------------------------------------------------- fits


def assert_same(one, other):
    assert one[1] == other[1] and one[0].keys() == other[0].keys()
    for method, result in one[0].items():
        for table in ("wells", "consensus", "retrieval", "history", "choices"):
            pd.testing.assert_frame_equal(getattr(result, table), getattr(other[0][method], table), check_exact=True)
        assert result.n_fits == other[0][method].n_fits
        assert list(result.encoders) == list(other[0][method].encoders)


def test_folds_seeds_and_methods_give_the_same_tables_and_models(dask, tiny_folds, tmp_path):
    remote = executors.Dask(dask.address, tmp_path / "shared")
    options = {"grids": GRIDS, "progress": False}
    serial = crossfit.crossfit_all(METHODS_HERE, tiny_folds, DRAWS, **options, executor=executors.Serial())
    sent = crossfit.crossfit_all(METHODS_HERE, tiny_folds, DRAWS, **options, executor=remote)
    remote.close()
    assert_same(serial, sent)
    assert "not_there" in sent[1]["lda_identity"]
    for place, (results, _) in (("here", serial), ("there", sent)):
        for method in ("rcca", "contrastive"):
            crossfit.save_encoders(results[method], tiny_folds, tmp_path / place / method)
    here, there = (
        {str(path.relative_to(tmp_path / place)): path.read_bytes() for path in (tmp_path / place).rglob("*.safe*")}
        for place in ("here", "there")
    )
    assert here == there and here
    assert not (tmp_path / "shared").exists()


def test_a_killed_worker_costs_time_and_no_fit(dask, tiny_folds, tmp_path):
    encoders = {"rcca": METHODS["rcca"](), "pca_cp": METHODS["pca_cp"](n_components=5)}
    draws = {"true_pairs": 1, "deranged": 6}
    serial = crossfit.crossfit_all(encoders, tiny_folds, draws, progress=False, executor=executors.Serial())
    remote = executors.Dask(dask.address, tmp_path / "shared")
    shared = remote.share(tiny_folds[0], crossfit.save_fold, crossfit.load_fold)
    shared.result()
    holder = next(iter(remote._client.who_has([shared]).values()))[0]
    os.kill(remote._client.run(os.getpid, workers=[holder])[holder], signal.SIGKILL)
    sent = crossfit.crossfit_all(encoders, tiny_folds, draws, progress=False, executor=remote)
    assert shared.result().name == tiny_folds[0].name  # what only the dead worker held is read again
    remote.close()
    assert_same(serial, sent)


# -------------------------------------------------------------------------------------------------- stages


def test_a_sweep_of_12_settings_gives_the_serial_tables(dask, study, tmp_path, capsys):
    (tmp_path / "grid.toml").write_text("[grid]\ntemperature = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]\nseed = [0, 1]\n")
    options = ["--sweep", str(tmp_path / "grid.toml")]
    assert call(study, tmp_path / "serial", *options, "--jobs", "1") == 0
    assert call(study, tmp_path / "dask", *options, "--scheduler", dask.address) == 0
    printed = capsys.readouterr()
    assert f"cluster: 2 workers at {dask.address}, 2 notebooks side by side" in printed.out
    assert printed.out.count("points: 12 done, 0 failed; 14 notebooks ran") == 2
    serial, sent = files(tmp_path / "serial"), files(tmp_path / "dask")
    assert sent == serial and len(serial) == 12 * 3 + 2
    assert len(pd.read_csv(tmp_path / "dask" / "sweeps" / "grid" / "summary.csv")) == 24
    assert not list((tmp_path / "dask").rglob(".cluster*")) and not list((tmp_path / "dask").rglob(".seen-*"))


def worker_of(marker: Path) -> int:
    """Process of the worker whose kernel wrote its own into a file."""
    deadline = time.time() + 120
    while not (marker.exists() and marker.read_text()):
        assert time.time() < deadline, "the stage never began"
        time.sleep(0.1)
    return psutil.Process(int(marker.read_text())).parents()[1].pid


def test_a_killed_worker_costs_time_and_no_result(dask, study, tmp_path, capsys):
    marker = tmp_path / "began"
    kernels = []

    def kill():
        worker = worker_of(marker)
        kernels.append(psutil.Process(int(marker.read_text())))
        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert call(study, tmp_path / "dask", "-p", f"pause={marker}", "--scheduler", dask.address) == 0
    killer.join()
    assert capsys.readouterr().err == ""
    _, alive = psutil.wait_procs(kernels, timeout=30)
    assert len(kernels) == 1 and alive == [], "the dead worker's kernel goes on"
    assert call(study, tmp_path / "serial", "-p", f"pause={marker}") == 0
    assert files(tmp_path / "dask") == files(tmp_path / "serial")


def test_a_stage_ends_when_its_runner_is_killed(dask, study, tmp_path):
    marker = tmp_path / "began"
    code = "import sys; from cpx_utils.pipeline import main; raise SystemExit(main(sys.argv[2:], sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(study), "--results", str(tmp_path / "r"), "--figures", str(tmp_path / "f"),
         "-p", f"pause={marker}", "--scheduler", dask.address], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    worker_of(marker)
    kernel = psutil.Process(int(marker.read_text()))
    process.kill()
    process.wait()
    kernel.wait(timeout=60)
    assert not (tmp_path / "r" / "simulated" / "default" / "stages" / "02_fit.json").exists()


# ------------------------------------------------------------------------------------------------ refusals


def test_no_scheduler_is_refused_within_seconds(study, tmp_path, capsys):
    start = time.time()
    assert call(study, tmp_path / "r", "--scheduler", "tcp://127.0.0.1:9") == 2
    printed = capsys.readouterr()
    assert time.time() - start < 30 and printed.out == ""
    assert printed.err.startswith("run_all: no Dask scheduler answers at tcp://127.0.0.1:9")
    assert printed.err.count("\n") == 1


def test_workers_of_other_code_and_other_folders_are_refused(dask, study, tmp_path, capsys, monkeypatch):
    here = cluster.software()
    assert cluster.why_unfit(here, {}, []) == ""
    assert "has torch" in cluster.why_unfit(here | {"torch": "1.0"}, {})
    assert "doesn't see /nowhere; workers" in cluster.why_unfit(here, {}, ["/nowhere/x"])
    mine = tmp_path / "mine.toml"
    mine.write_text("x")
    assert f"doesn't see {mine} as it is here" in cluster.why_unfit(here, {str(mine): "0" * 64})
    monkeypatch.setattr(cluster, "software", lambda: here | {"cpx": "another"})
    assert call(study, tmp_path / "r", "--scheduler", dask.address) == 2
    error = capsys.readouterr().err
    assert "run_all: the Dask worker at tcp://" in error and "has cpx" in error and error.count("\n") == 1


def test_a_scheduler_without_workers_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "SECONDS_FOR_WORKERS", 0.3)
    empty = Cluster(tmp_path, 0)
    try:
        with pytest.raises(ScreenError, match="has no workers; start some with `dask worker"):
            cluster.DaskPlaces(empty.address, None, [tmp_path])
    finally:
        empty.stop()
