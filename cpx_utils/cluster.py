"""Stages on a Dask cluster: which workers may take part, and a stage's way there and back.

Workers and the runner share folders, not memory: a stage reads and writes a run's folder, wherever it runs. A worker
that sees another folder, or runs other code, would give other results without a word, so each is asked before any
stage is sent, and each stage asks again, since workers come and go.
"""

import hashlib
import platform
import shutil
import time
import uuid
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from cpx_utils import executors
from cpx_utils.kernels import Places, StageProcess
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import sha256_file
from cpx_utils.stages import KEY_PACKAGES, PACKAGE_FOLDER

SECONDS_FOR_WORKERS = 10  # how long a scheduler without workers is waited for
SECONDS_TO_STOP = 15


def software() -> dict[str, str]:
    """Return what decides results on this machine: versions of Python and the key packages, the code of cpx."""
    sources = "".join(sha256_file(path) for path in sorted(PACKAGE_FOLDER.glob("*.py")))
    versions = {name: metadata.version(name) for name in KEY_PACKAGES}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, **versions, "cpx": hashlib.sha256(sources.encode()).hexdigest()[:12]}


def why_unfit(expected: dict[str, str], files: dict[str, str], tokens: Iterable[str] = ()) -> str:
    """Say in a few words why this machine can't take part; "" if it can. Workers call it.

    Parameters
    ----------
    expected
        `software` of the runner.
    files
        Path to SHA-256 of files that must be the same here.
    tokens
        Files that the runner has just put into the folders that must be shared.
    """
    here = software()
    for name, version in expected.items():
        if here.get(name) != version:
            return f"has {name} {here.get(name)}, this machine {version}; give both the same environment and checkout"
    for token in map(Path, tokens):
        if not token.is_file():
            return f"doesn't see {token.parent}; workers and this machine must share that folder, by the same path"
    for path, digest in files.items():
        if not Path(path).is_file() or sha256_file(path) != digest:
            return f"doesn't see {path} as it is here; workers and this machine must share that file, by the same path"
    return ""


class DaskPlaces(Places):
    """Places on a Dask cluster. A context manager, which leaves the cluster at its end.

    Parameters
    ----------
    address
        Of the scheduler.
    n_places
        How many stages run at once; None: as many as the workers have threads.
    folders
        Folders that stages read or write, made if need be: every worker must see them under the same path.
    files
        Files that stages read.

    Attributes
    ----------
    n_workers : int
        Workers there are now.

    Raises
    ------
    ScreenError
        No scheduler answers, it has no workers, or a worker can't take part; the line says why.
    """

    def __init__(self, address: str, n_places: int | None, folders: Iterable[Path], files: Iterable[Path] = ()):
        super().__init__(n_places or 1)
        self._client = executors.connect(address)
        try:
            self._expected = software()
            self._files = {str(path): sha256_file(path) for path in files}
            threads = self._threads(address)
            self._require_fit_workers(list(folders))
        except BaseException:
            self._client.close()
            raise
        self.n_workers = len(threads)
        self.n_places = n_places or sum(threads.values())

    def __enter__(self) -> "DaskPlaces":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _threads(self, address: str) -> dict[str, int]:
        deadline = time.time() + SECONDS_FOR_WORKERS
        while not (threads := self._client.nthreads()):
            if time.time() > deadline:
                raise ScreenError(
                    f"the Dask scheduler at {address} has no workers; start some with `dask worker {address} "
                    "--nthreads 1`, in the environment and with the folders of this machine"
                )
            time.sleep(0.2)
        return threads

    def _require_fit_workers(self, folders: list[Path]) -> None:
        """Ask every worker whether it can take part, with a new file in each folder that it must see."""
        tokens = [folder / f".seen-{uuid.uuid4().hex}" for folder in folders]
        try:
            for token in tokens:
                token.parent.mkdir(parents=True, exist_ok=True)
                token.touch()
            asked = (self._expected, self._files, [str(token) for token in tokens])
            answers = self._client.run(why_unfit, *asked, on_error="return")
        finally:
            for token in tokens:
                token.unlink(missing_ok=True)
        for worker, answer in answers.items():
            if isinstance(answer, Exception):
                said = " ".join(f"{type(answer).__name__}: {answer}".split())
                answer = f"can't run the code of this cpx ({said}); install the same checkout there"
            if answer:
                raise ScreenError(f"the Dask worker at {worker} {answer}")

    def _start(self, notebook: Path, output: Path, parameters: dict[str, Any]) -> "DaskStage":
        task = {
            "name": notebook.stem,
            "source": notebook.read_text(encoding="utf-8"),
            "output": str(output),
            "parameters": parameters,
            "software": self._expected,
            "files": self._files,
            # Not in a folder that stages have in common: one would remove it while another is about to use it.
            "shared": str(output.parent.parent / f".cluster-{notebook.stem}"),
        }
        return DaskStage(self._client, task)


class DaskStage:
    """A stage on the cluster, for the runner: what `StageProcess` is here."""

    def __init__(self, client: Any, task: dict):
        self.name = task["name"]
        self.started = time.time()
        self.progress = "on the cluster"
        self._shared = Path(task["shared"])
        self._future = client.submit(run_stage, task, key=f"{self.name}-{uuid.uuid4().hex}", pure=False)

    def ended(self) -> bool:
        """Say whether it has ended."""
        return self._future.done()

    def result(self) -> dict:
        """Return what `StageProcess.result` would; where the cluster gave it up, that is its error."""
        try:
            return self._future.result()
        except Exception as error:  # a task may end in anything that Dask or a worker's machine raises
            text = str(error) if isinstance(error, ScreenError) else f"{type(error).__name__}: {error}"
            return {"seconds": time.time() - self.started, "error": {"cell": None, "name": "", "text": text}}
        finally:
            self._remove_shared()

    def stop(self) -> None:
        """Take the stage back, and wait until its worker has ended it."""
        self._future.cancel()
        deadline = time.time() + SECONDS_TO_STOP
        while self._shared.exists() and time.time() < deadline:
            time.sleep(0.1)
        self._remove_shared()

    def _remove_shared(self) -> None:
        shutil.rmtree(self._shared, ignore_errors=True)


# --- on a worker --------------------------------------------------------------------------------------------


def run_stage(task: dict) -> dict:
    """Run a stage to its end in a kernel of its own, on the worker that calls this.

    The kernel sends its fits back to the cluster. From then on it mostly waits, and the worker's thread is given free
    for one of them. When nobody wants the stage any more (the runner was interrupted, or died), it is stopped.

    Parameters
    ----------
    task
        name, source (the notebook's text), output (path), parameters, shared (folder for what its fits share), and
        software and files, which must be the same here (`why_unfit`).

    Returns
    -------
    dict
        Of `StageProcess.result`.

    Raises
    ------
    ScreenError
        This worker can't take part.
    """
    import tempfile

    from distributed import get_worker, secede

    reason = why_unfit(task["software"], task["files"])
    if reason:
        raise ScreenError(f"the Dask worker {get_worker().address} {reason}")
    shared = Path(task["shared"])
    shutil.rmtree(shared, ignore_errors=True)  # of a worker that died
    shared.mkdir(parents=True)
    variables = {
        executors.SCHEDULER_VARIABLE: get_worker().scheduler.address,
        executors.FOLDER_VARIABLE: str(shared / "fits"),
    }
    wanted = _is_wanted()
    with tempfile.TemporaryDirectory(prefix="cpx-") as folder:
        notebook = Path(folder, f"{task['name']}.ipynb")
        notebook.write_text(task["source"], encoding="utf-8")
        process = StageProcess(notebook, Path(task["output"]), task["parameters"], variables)
        holds_thread = True
        try:
            while not process.ended():
                if not wanted():
                    break
                if holds_thread and (shared / "fits" / executors.SENDS_WORK).exists():
                    secede()
                    holds_thread = False
                time.sleep(0.1)
            else:
                return process.result()
            process.stop()
            raise ScreenError("nobody waits for this stage any more")
        finally:
            shutil.rmtree(shared, ignore_errors=True)


def _is_wanted() -> Any:
    """Return a function that says whether the scheduler still wants the calling task."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def wanted() -> bool:
        state = worker.state.tasks.get(key)
        return state is not None and state.state in ("executing", "long-running")

    return wanted
