"""One notebook in a process of its own, with a fresh kernel.

A process, since papermill changes the working directory of the one it runs in. `StageProcess` is the runner's
end of it; `python -m cpx_utils.kernels TASK` is the process. Nothing else of cpx is imported here, so that
the process starts quickly.
"""

import atexit
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# One thread a stage, whatever --jobs is: sums over threads round differently, so results would depend on the
# machine's load, and side-by-side stages would fight for cores. torch follows OMP_NUM_THREADS.
THREADS_PER_STAGE = 1
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def _folder_prefix() -> str:
    """How names of temporary folders begin here; a container, which counts its processes by itself, has its own."""
    space = "/proc/self/ns/pid"
    where = socket.gethostname() + (os.readlink(space) if os.path.islink(space) else "")
    return f"cpx-{zlib.crc32(where.encode()) & 0xFFFF:04x}-"


def _remove_abandoned() -> None:
    """Remove temporary folders of processes that are gone.

    A stage whose runner was killed removes its folder itself, but a kernel that was starting at that very moment may
    fill it again, and a runner may be killed before the stage is there.
    """
    import psutil

    prefix = _folder_prefix()
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        owner = folder.name.removeprefix(prefix).split("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def jupyter_environment() -> Iterator[dict[str, str]]:
    """Give the environment of a stage: this very Python as the kernel, nothing of the user's settings.

    A temporary folder holds the kernel's description (another one called python3 may be installed, or none),
    its connection files and its IPython profile; nothing is written into the user's home.

    Yields
    ------
    dict
        A complete environment for `subprocess`. The folder is its JUPYTER_PATH.
    """
    _remove_abandoned()
    prefix = f"{_folder_prefix()}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        kernel = {
            "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "Python 3 (the Python of run_all.py)",
            "language": "python",
            "metadata": {"supported_encryption": ["curve"]},
        }
        (folder / "kernels" / "python3").mkdir(parents=True)
        (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(kernel), encoding="utf-8")
        (folder / "matplotlibrc").touch()  # matplotlib's own defaults, so that figures are everyone's
        root = str(Path(__file__).resolve().parent.parent)
        yield {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(THREADS_PER_STAGE)),
            "CPX_SCHEDULER": "",  # a stage computes its fits itself, unless a cluster's worker starts it
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what CUDA asks for to give the same sums twice
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_PATH": str(folder),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "MATPLOTLIBRC": str(folder / "matplotlibrc"),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
    _remove_abandoned()


# --- the runner's end ---------------------------------------------------------------------------------------


class StageProcess:
    """A notebook that is running.

    Parameters
    ----------
    notebook
        The notebook.
    output
        Where the executed notebook goes, when it has ended.
    parameters
        What to inject.
    variables
        Environment variables to set beside those of `jupyter_environment`.

    Attributes
    ----------
    name : str
        Of the notebook.
    started : float
        Seconds since the epoch.
    progress : str
        The cell it is at, with its progress bar if it shows one.
    """

    def __init__(
        self, notebook: Path, output: Path, parameters: dict[str, Any], variables: dict[str, str] | None = None
    ):
        self.name = notebook.stem
        self.started = time.time()
        self.progress = ""
        self._open = ExitStack()
        environment = self._open.enter_context(jupyter_environment()) | (variables or {})
        self._output = output
        self._unfinished = output.with_name(f".{output.name}")
        self._result = Path(environment["JUPYTER_PATH"], f"{self.name}.json")
        self._complaints = self._result.with_suffix(".stderr")
        output.parent.mkdir(parents=True, exist_ok=True)
        task = {
            "notebook": str(notebook.resolve()),
            "output": str(self._unfinished),
            "parameters": parameters,
            "result": str(self._result),
        }
        with open(self._complaints, "w", encoding="utf-8") as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cpx_utils.kernels", json.dumps(task)],
                env=environment,
                # A session of its own: Ctrl-C reaches the runner alone, which then ends the stages in order
                start_new_session=True,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout:
            self.progress = line.strip()

    def ended(self) -> bool:
        """Say whether the process has ended."""
        return self._process.poll() is not None

    def result(self) -> dict:
        """Put the executed notebook in its place and return what the ended stage left.

        Returns
        -------
        dict
            seconds; kernel_start, the seconds before its first cell; error: None or a dict of cell (None if
            it isn't a cell's), name (its exception's, or "") and text.
        """
        with self._open:
            return self._result_of_ended()

    def _result_of_ended(self) -> dict:
        self._process.stdin.close()
        seconds = round(time.time() - self.started, 3)
        if self._process.returncode != 0:
            self._unfinished.unlink(missing_ok=True)
            said = self._complaints.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            # of a traceback only what it comes to
            errors = [line for line in said if re.match(r"[A-Za-z_][\w.]*(Error|Exception)\b", line)]
            said = (errors or said or [f"exit status {self._process.returncode}"])[-1]
            text = f"its process ended early: {said}"
            return {"seconds": seconds, "error": {"cell": None, "name": "", "text": text}}
        with open(self._unfinished, "rb+") as handle:
            os.fsync(handle.fileno())
        self._unfinished.replace(self._output)
        left = json.loads(self._result.read_text(encoding="utf-8"))
        kernel_start = round(left["first_cell"] - self.started, 3)
        return {"seconds": seconds, "kernel_start": kernel_start, "error": left["error"]}

    def stop(self) -> None:
        """End the process and its kernel; leave no half-written notebook."""
        with self._open:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._unfinished.unlink(missing_ok=True)


class Places:
    """Where stages run, so many at a time: here, as processes of this machine.

    Parameters
    ----------
    n_places
        How many stages run at once.

    Attributes
    ----------
    running : list
        What was started and isn't collected.
    """

    def __init__(self, n_places: int):
        self.n_places = n_places
        self.running: list[StageProcess] = []

    @property
    def is_full(self) -> bool:
        """Whether nothing more can start now."""
        return len(self.running) >= self.n_places

    def start(self, notebook: Path, output: Path, parameters: dict[str, Any]) -> StageProcess:
        """Start a notebook; see `StageProcess`."""
        self.running.append(self._start(notebook, output, parameters))
        return self.running[-1]

    def _start(self, notebook: Path, output: Path, parameters: dict[str, Any]) -> StageProcess:
        return StageProcess(notebook, output, parameters)

    def collect(self, process: StageProcess) -> dict:
        """Give free the place of a process that has ended; return `StageProcess.result`."""
        self.running.remove(process)
        return process.result()

    def stop(self, process: StageProcess) -> None:
        """End a process and give its place free."""
        self.running.remove(process)
        process.stop()


# --- the process --------------------------------------------------------------------------------------------


def skip_slow_imports(*names: str) -> None:
    """Make imports of optional packages fail, where whoever tries them takes their absence in its stride."""
    for name in names:
        sys.modules.setdefault(name, None)


def _transport(stage: str) -> dict[str, str]:
    """Say how the stage's kernel is talked to.

    Kernels that start side by side may choose the same TCP port, and one of them then dies. Sockets in the runner's own
    folder, named after the stage, can't clash; their paths must stay below the 104 characters that every Unix allows.
    TCP is encrypted where it can be: ipykernel warns in every executed notebook of a kernel that talks in plain text.
    """
    import zmq

    sockets = Path(os.environ["JUPYTER_RUNTIME_DIR"], stage[:2])
    if os.name == "posix" and len(str(sockets)) < 100:
        sockets.parent.mkdir(parents=True, exist_ok=True)
        return {"transport": "ipc", "ip": str(sockets), "transport_encryption": "disabled"}
    return {"transport": "tcp", "transport_encryption": "auto" if zmq.has("curve") else "disabled"}


def execute_notebook(task: dict) -> None:
    """Execute one notebook by papermill.

    Parameters
    ----------
    task
        notebook, output, parameters, and result: the JSON file to write error (as `StageProcess.result` has
        it) and first_cell (seconds since the epoch) to.
    """
    _end_with_runner()
    # The grammar of international addresses, for jsonschema, and Hadoop's file system, for papermill: together
    # more than half of what papermill takes to start.
    skip_slow_imports("rfc3987_syntax", "pyarrow.fs")
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    progress = _Progress()
    error = None
    try:
        papermill.execute_notebook(
            # papermill takes braces in paths for templates
            *(task[key].replace("{", "{{").replace("}", "}}") for key in ("notebook", "output")),
            parameters=task["parameters"],
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=str(Path(task["notebook"]).parent),
            config=Config({"KernelManager": _transport(Path(task["notebook"]).stem)}),
            shutdown_kernel="immediate",
            on_cell_start=progress.cell_started,
            stderr_file=progress,
        )
    except PapermillExecutionError as failure:
        error = {"cell": failure.exec_count, "name": failure.ename, "text": failure.evalue}
    except DeadKernelError:
        error = {"cell": progress.cell, "name": "", "text": "the kernel died, most often for want of memory"}
    answer = {"error": error, "first_cell": progress.first}
    Path(task["result"]).write_text(json.dumps(answer), encoding="utf-8")


class _Progress(io.TextIOBase):
    """Tells the runner, by lines on stdout, which cell runs and what the progress bar on stderr shows."""

    def __init__(self):
        self.cell = 0
        self.first = time.time()

    def cell_started(self, cell: Any, cell_index: int) -> None:
        if cell_index == 0:
            self.first = time.time()
        if cell.cell_type == "code":
            self.cell += 1
            print(f"cell {self.cell}", flush=True)

    def write(self, text: str) -> int:
        bars = [line.strip() for line in re.split(r"[\r\n]", text) if "%|" in line]
        if bars:
            print(f"cell {self.cell}: {bars[-1]}", flush=True)
        return len(text)


def _end_with_runner() -> None:
    """End this process and its kernel when told to, or when the runner is gone (our stdin closes)."""
    import psutil

    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        for _ in range(2):  # the kernel may be starting this very moment
            for process in psutil.Process().children(recursive=True):
                try:
                    process.kill()
                except psutil.Error:
                    continue  # it ended by itself
            shutil.rmtree(os.environ["JUPYTER_PATH"], ignore_errors=True)  # if the runner is gone, nobody else will
        os._exit(128 + signal.SIGTERM)

    def wait_for_runner() -> None:
        os.read(0, 1)  # not sys.stdin: a thread that holds its lock is fatal when the interpreter ends
        stop()

    # Papermill fails meanwhile, for want of a kernel; that mustn't end the process before `stop` does.
    atexit.register(lambda: stopping.is_set() and time.sleep(10))
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=wait_for_runner, daemon=True).start()


if __name__ == "__main__":
    execute_notebook(json.loads(sys.argv[1]))
