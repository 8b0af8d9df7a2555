"""The runner: stages and their parameters, what is stale, what runs where. `run_all.py` is its thin face.

Every notebook `NN_name.ipynb` of a folder is a stage. A stage runs in a process of its own with a fresh
kernel, since papermill changes the working directory of the process it runs in. Whether a stage must run is
judged when all it needs is done: it is fresh while its code, its parameters, the modules it imports, the key
packages and every file it read and wrote are what its record says. So a stage whose inputs were made again
with the same bytes doesn't run.
"""

import argparse
import ast
import difflib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import (
    FIGURE_PREFIX,
    FileHashes,
    atomic_path,
    git_state,
    locate,
    project_root,
    read_json,
    run_manifest,
    stage_record_path,
    stage_records,
    write_json,
)

# What each profile changes; a value here wins over the notebooks' defaults and what a data set prefers.
PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {"screen_size": "small"},
    "default": {},
    "full": {"n_repeats": 3},
}

# Which stages a stage reads from directly. 02, 03 and 04 don't need each other, nor does 08 need 05 to 07.
NEEDS: dict[str, tuple[str, ...]] = {
    "01": (),
    "02": ("01",),
    "03": ("01",),
    "04": ("01",),
    "05": ("02", "03", "04"),
    "06": ("02", "03", "04"),
    "07": ("05", "06"),
    "08": ("02", "03", "04"),
}

# Parameters the runner sets itself, and the option a user sets them by. They say where things are, not what
# is done.
PLUMBING = {
    "dataset": "--dataset",
    "run_dir": "--results",
    "figures_dir": "--figures",
    "data_dir": "--data-dir",
    "mirror": "--mirror",
    "unverified": "--unverified",
}
# These don't make a stage stale: the files behind them are compared by their hashes.
PATHS_ONLY = {"run_dir", "figures_dir", "data_dir", "mirror"}
KEY_PACKAGES = ("numpy", "pandas", "scikit-learn", "scipy", "torch")

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

TYPES = {"int": int, "float": float, "str": str, "bool": bool}
EXAMPLES = {
    "int": "3",
    "float": "0.1",
    "str": "random",
    "bool": "true",
    "list[int]": "1,2,3",
    "list[float]": "0.1,1",
    "list[str]": "a,b",
    "list[bool]": "true,false",
    "list": "1,2,3",
}


class Interrupted(Exception):
    """The user or the system asked the run to stop.

    Attributes
    ----------
    status : int
        Exit status: 128 + the signal's number.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.status = 128 + number


# --- stages and their parameters ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's `parameters` cell.

    Attributes
    ----------
    name : str
    kind : str
        "int", "float", "str", "bool", "list" or "list[...]" of the first four.
    default : object
        The literal in the notebook.
    comment : str
        The trailing comment; "one of: a, b, c" in it restricts the values.
    choices : tuple of str
        Those values; empty if any will do.
    """

    name: str
    kind: str
    default: Any
    comment: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One notebook.

    Attributes
    ----------
    name : str
        File name without suffix, such as "03_train_contrastive".
    path : pathlib.Path
    question : str
        Its first heading.
    parameters : dict
        Name to Parameter, in the notebook's order.
    cells : tuple of (str, tuple of str)
        Code and tags of its code cells, the `parameters` cell excepted.
    """

    name: str
    path: Path
    question: str
    parameters: dict[str, Parameter]
    cells: tuple[tuple[str, tuple[str, ...]], ...] = field(repr=False)

    @property
    def number(self) -> str:
        """The two digits in front."""
        return self.name[:2]


def read_stages(notebooks: str | Path) -> list[Stage]:
    """Read the stages of a folder: its notebooks `NN_*.ipynb`, in order of their numbers.

    Raises
    ------
    ScreenError
        There are none, two share a number, or a notebook or its `parameters` cell can't be understood.
    """
    notebooks = Path(notebooks)
    stages = [_read_stage(path) for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))]
    if not stages:
        raise ScreenError(f"{notebooks} holds no notebook named like 01_prepare_profiles.ipynb")
    for first, second in itertools.pairwise(stages):
        if first.number == second.number:
            raise ScreenError(f"{first.name} and {second.name} share a number; rename one of them")
    return stages


def _read_stage(path: Path) -> Stage:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ScreenError(f"{path} isn't a notebook: {error}") from None
    code, parameters, question = [], {}, ""
    for cell in cells:
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        tags = tuple(cell.get("metadata", {}).get("tags", ()))
        if cell["cell_type"] == "markdown" and not question and source.strip():
            question = source.strip().splitlines()[0].lstrip("# ").strip()
        elif cell["cell_type"] == "code" and "parameters" in tags:
            parameters |= read_parameters(source, path.stem)
        elif cell["cell_type"] == "code" and source.strip():
            code.append((source, tags))
    missing = [name for name in ("dataset", "run_dir", "figures_dir") if name not in parameters]
    if missing:
        raise ScreenError(
            f"{path.stem}: its cell tagged parameters lacks {', '.join(missing)}; "
            'every notebook declares them, as in: run_dir: str = ""'
        )
    return Stage(path.stem, path, question, parameters, tuple(code))


def read_parameters(source: str, where: str) -> dict[str, Parameter]:
    """Parse the code of a `parameters` cell, without running it.

    Parameters
    ----------
    source
        Lines such as `temperature: float = 0.1  # how sharply the diagonal must win`.
    where
        Name of the notebook, for messages.

    Raises
    ------
    ScreenError
        Something else than assignments of literals, a type that isn't known, or a default of another type.
    """
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a string standing alone is a remark
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        try:
            name, default = target.id, ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            raise ScreenError(
                f"{where}: line {node.lineno} of its parameters cell isn't `name: type = value`"
            ) from None
        kind = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else type(default).__name__
        if kind not in EXAMPLES:
            raise ScreenError(f"{where}: parameter {name} is of type {kind}; known are {', '.join(EXAMPLES)}")
        comment = comments.get(node.end_lineno, "")
        listed = re.search(r"one of:?\s+([\w./+-]+(?:,\s*[\w./+-]+)+)", comment)
        choices = tuple(re.split(r",\s*", listed[1])) if listed else ()
        found[name] = Parameter(name, kind, default, comment, choices)
        found[name] = Parameter(name, kind, checked_value(found[name], default), comment, choices)
    return found


def checked_value(parameter: Parameter, value: Any) -> Any:
    """Return `value` in the parameter's type.

    Parameters
    ----------
    parameter
        What the notebook declares.
    value
        A Python value, or a string as typed on the command line: "true" and "false" for bool, JSON or a list
        with commas for lists. A whole number serves as a float.

    Raises
    ------
    ScreenError
        One line: what the parameter wants, with an example, and what it got.
    """
    kind = parameter.kind
    try:
        if kind.startswith("list"):
            converted = _list_value(value, kind[5:-1])
        else:
            converted = _scalar_value(value, kind)
    except ValueError:
        article = "an" if kind == "int" else "a"
        wanted = f"{article} {kind} such as {EXAMPLES[kind]}"
        raise ScreenError(f"{parameter.name} wants {wanted}; {value!r} isn't one") from None
    items = converted if isinstance(converted, list) else [converted]
    wrong = [item for item in items if parameter.choices and str(item) not in parameter.choices]
    if wrong:
        raise ScreenError(f"{parameter.name} wants one of {', '.join(parameter.choices)}; {str(wrong[0])!r} isn't")
    return converted


def _scalar_value(value: Any, kind: str) -> Any:
    """Convert one value, refusing what would change its meaning (1.5 to int, 1 to bool, nan)."""
    if isinstance(value, str) and kind != "str":
        if kind == "bool":
            if value.strip().lower() not in ("true", "false"):
                raise ValueError
            return value.strip().lower() == "true"
        value = int(value) if kind == "int" else float(value)
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value) is not TYPES[kind] or value != value:  # only nan differs from itself
        raise ValueError
    return value


def _list_value(value: Any, kind: str) -> list:
    """Convert a list, or text that means one: JSON, or values with commas between."""
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text) if text.startswith("[") else [item.strip() for item in text.split(",") if text]
    if not isinstance(value, list):
        raise ValueError
    return [_scalar_value(item, kind) for item in value] if kind else value


def resolve_parameters(
    stages: Sequence[Stage],
    layers: Iterable[dict[str, Any]],
    given: Iterable[str] = (),
) -> dict[str, dict[str, Any]]:
    """Return every stage's parameters: its defaults, then the layers in turn, then what was given.

    Parameters
    ----------
    stages
        All stages, also those that won't run.
    layers
        Name to value; each applies to every notebook that declares the name, and to no other.
    given
        `NAME=VALUE` for every notebook that declares NAME, or `03.NAME=VALUE` for one. Strict.

    Returns
    -------
    dict
        Stage name to its complete parameters.

    Raises
    ------
    ScreenError
        A name that no notebook declares (with the nearest that one does), or a value of the wrong type.
    """
    resolved = {stage.name: {name: known.default for name, known in stage.parameters.items()} for stage in stages}
    for layer in layers:
        for stage in stages:
            for name in layer.keys() & stage.parameters.keys():
                resolved[stage.name][name] = checked_value(stage.parameters[name], layer[name])
    for assignment in given:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise ScreenError(f"-p wants NAME=VALUE, such as temperature=0.2; {assignment!r} isn't that")
        where, _, name = name.strip().rpartition(".")
        chosen = [find_stage(stages, where)] if where else list(stages)
        if name in PLUMBING:
            raise ScreenError(f"{name} is set by {PLUMBING[name]}, not by -p")
        declaring = [stage for stage in chosen if name in stage.parameters]
        if not declaring:
            raise ScreenError(_unknown_parameter(name, chosen, stages))
        for stage in declaring:
            resolved[stage.name][name] = checked_value(stage.parameters[name], value)
    return resolved


def _unknown_parameter(name: str, chosen: Sequence[Stage], stages: Sequence[Stage]) -> str:
    """Say in one line that no notebook has a parameter, and which was probably meant."""
    declared: dict[str, list[Stage]] = {}
    for stage in chosen:
        for known in stage.parameters.keys() - PLUMBING.keys():
            declared.setdefault(known, []).append(stage)
    who = "no notebook" if len(chosen) == len(stages) else chosen[0].name
    verb = "has a parameter" if who == "no notebook" else "has no parameter"
    nearest = difflib.get_close_matches(name, declared, n=1)
    if nearest:
        holders = declared[nearest[0]]
        kind = holders[0].parameters[nearest[0]].kind
        where = holders[0].name if len(holders) == 1 else "in " + ", ".join(stage.number for stage in holders)
        return f"{who} {verb} {name!r}; did you mean {nearest[0]!r} ({where}, {kind})?"
    return f"{who} {verb} {name!r}; there are {', '.join(sorted(declared))}"


def find_stage(stages: Sequence[Stage], name: str) -> Stage:
    """Return the stage called "3", "03" or "03_train_contrastive".

    Raises
    ------
    ScreenError
        There is no such stage; the line names those there are.
    """
    for stage in stages:
        if name == stage.name or (name.isdigit() and int(name) == int(stage.number)):
            return stage
    raise ScreenError(f"there is no notebook {name!r}; there are {', '.join(stage.name for stage in stages)}")


def undeclared_parameters(stages: Sequence[Stage]) -> list[str]:
    """Return the parameters that a profile or a data set sets but no notebook declares: mistakes of ours."""
    from cpx_utils.datasets import DATASETS

    declared = {name for stage in stages for name in stage.parameters}
    layers = {f"profile {name}": layer for name, layer in PROFILES.items()}
    layers |= {f"data set {name}": dataset.parameters for name, dataset in DATASETS.items()}
    return [f"{where}: {name}" for where, layer in layers.items() for name in layer if name not in declared]


def upstream(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages that must be done before `stage`, near and far, in order.

    A number that `NEEDS` doesn't know (a notebook that someone added) needs all before it.
    """
    numbers: set[str] = set()
    queue = [stage.number]
    while queue:
        number = queue.pop()
        needed = NEEDS.get(number, [other.number for other in stages if other.number < number])
        queue += [needs for needs in needed if needs not in numbers]
        numbers.update(needed)
    return [other for other in stages if other.number in numbers]


# --- what is stale ------------------------------------------------------------------------------------------

PACKAGE_FOLDER = Path(__file__).resolve().parent


def imported_modules(code: Iterable[str], package: Path = PACKAGE_FOLDER) -> dict[str, str]:
    """Return the modules of cpx_utils that code imports, directly or through each other, with their SHA-256.

    Parameters
    ----------
    code
        Python or notebook cells; lines of magics are skipped. Code that can't be parsed counts as importing
        all.
    package
        Folder of the package.

    Returns
    -------
    dict
        Module name (without package) to SHA-256, sorted by name.
    """
    modules = {path.stem: path for path in package.glob("*.py")}
    queue, seen = ["__init__"], set()
    for source in code:
        queue += _imports(
            "\n".join("" if line.lstrip()[:1] in "%!?" and line.strip() else line for line in source.splitlines()),
            package.name,
            set(modules),
        )
    while queue:
        name = queue.pop()
        if name in seen or name not in modules:
            continue
        seen.add(name)
        queue += _imports(modules[name].read_text(encoding="utf-8"), package.name, set(modules))
    return {name: hashlib.sha256(modules[name].read_bytes()).hexdigest() for name in sorted(seen)}


def _imports(source: str, package: str, modules: set[str]) -> set[str]:
    """Return the modules of the package that a piece of code names in its import statements, at any depth."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return modules
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(package + ".")}
        elif isinstance(node, ast.ImportFrom):
            path = (package + "." if node.level else "") + (node.module or "")
            if path.rstrip(".") == package:  # from cpx_utils import plots; from . import plots
                found |= {alias.name for alias in node.names}
            elif path.startswith(package + "."):
                found.add(path.split(".")[1])
    return found & modules


def fingerprint(stage: Stage, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what decides a stage's results besides the files it reads; prose isn't in it.

    Returns
    -------
    dict
        code (SHA-256 of the code cells and their tags), parameters (paths apart), modules (of cpx_utils, by
        SHA-256), packages (versions of the key ones, and of Python).
    """
    packages = {"python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    packages |= {name: metadata.version(name) for name in KEY_PACKAGES}
    return {
        "code": hashlib.sha256(json.dumps(stage.cells).encode()).hexdigest(),
        "parameters": {name: value for name, value in parameters.items() if name not in PATHS_ONLY},
        "modules": imported_modules(source for source, _ in stage.cells),
        "packages": packages,
    }


def why_stale(
    stage: Stage,
    current: dict[str, Any],
    run_dir: Path,
    figures_dir: Path,
    hashes: FileHashes,
    check_reads: bool = True,
) -> str:
    """Say in a few words why a stage must run; "" if it needn't.

    Parameters
    ----------
    stage
        The stage.
    current
        Its fingerprint now.
    run_dir, figures_dir
        Where its record and its files lie.
    hashes
        Hashes of files.
    check_reads
        False leaves out what it read (in a dry run, the stages before it may still change that).
    """
    path = stage_record_path(run_dir, stage.name)
    if not path.is_file():
        return "not done yet"
    record = read_json(path)
    before = record.get("run", {}).get("fingerprint")
    if before is None:
        # Run by hand, cells may have run twice, out of order or with other values than the file holds.
        return "last run by hand"
    if before["code"] != current["code"]:
        return "its code changed"
    for part in ("parameters", "modules", "packages"):
        names = [
            name for name in {**before[part], **current[part]} if before[part].get(name) != current[part].get(name)
        ]
        if names and part == "parameters":
            old, new = before[part].get(names[0]), current[part].get(names[0])
            return f"{names[0]} was {old!r}, is {new!r}"
        if names:
            return f"{'module' if part == 'modules' else 'package'} {names[0]} changed"
    files = [*record["writes"].items(), *(record["reads"].items() if check_reads else ())]
    for name, digest in files:
        now = hashes.sha256(locate(name, run_dir, figures_dir))
        if now != digest:
            return f"{name.replace(FIGURE_PREFIX, 'figure ')} {'changed' if now else 'is missing'}"
    if not (run_dir / "notebooks" / f"{stage.name}.ipynb").is_file():
        return "its executed notebook is missing"
    return ""


# --- one stage in its process -------------------------------------------------------------------------------


@contextmanager
def jupyter_environment() -> Iterator[dict[str, str]]:
    """Give the environment of a stage: this very Python as the kernel, nothing of the user's settings.

    A temporary folder holds the kernel's description (another one called python3 may be installed, or none),
    its connection files and its IPython profile; nothing is written into the user's home.

    Yields
    ------
    dict
        A complete environment for `subprocess`. The folder is in its JUPYTER_PATH.
    """
    with tempfile.TemporaryDirectory(prefix="cpx-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_json(
            folder / "kernels" / "python3" / "kernel.json",
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Python 3 (the Python of run_all.py)",
                "language": "python",
                "metadata": {"supported_encryption": ["curve"]},
            },
        )
        (folder / "matplotlibrc").touch()  # matplotlib's own defaults, so that figures are everyone's
        root = str(PACKAGE_FOLDER.parent)
        yield {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(THREADS_PER_STAGE)),
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


def _skip_slow_import() -> None:
    """Keep jsonschema from loading the grammar of international addresses, 0.8 s a process.

    It takes the package's absence in its stride, and notebooks hold no such addresses to check.
    """
    sys.modules.setdefault("rfc3987_syntax", None)


def execute_stage(specification: str | Path) -> None:
    """Execute one notebook by papermill; the body of a stage's process.

    Parameters
    ----------
    specification
        JSON file with notebook, output, parameters, started (seconds since the epoch) and result: the JSON
        file to write {"error", "kernel_start", "peak_mb"} to. `error` is None or {"cell", "name", "text"}.
    """
    task = read_json(specification)
    _die_with_parent()
    _skip_slow_import()
    import papermill
    import zmq
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    progress = _Progress()
    # Encrypted where it can be: ipykernel warns in every executed notebook of a kernel that talks in plain
    # text.
    encryption = Config({"KernelManager": {"transport_encryption": "auto" if zmq.has("curve") else "disabled"}})
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
            config=encryption,
            shutdown_kernel="immediate",
            on_cell_start=progress.cell_started,
            stderr_file=progress,
        )
    except PapermillExecutionError as failure:
        error = {"cell": failure.exec_count, "name": failure.ename, "text": failure.evalue}
    except DeadKernelError:
        error = {"cell": progress.cell, "name": "", "text": "the kernel died, most often for want of memory"}
    from cpx_utils.provenance import peak_memory_mb

    write_json(
        task["result"],
        {
            "error": error,
            "kernel_start": progress.first - task["started"],
            "peak_mb": peak_memory_mb(children=True),
        },
    )


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


def _die_with_parent() -> None:
    """End this process and its kernel when told to, or when the runner is gone (our stdin closes)."""
    import psutil

    def stop(*_: object) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                process.kill()
            except psutil.Error:
                continue  # it ended by itself
        os._exit(128 + signal.SIGTERM)

    def wait_for_parent() -> None:
        sys.stdin.buffer.read()
        stop()

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=wait_for_parent, daemon=True).start()


class StageProcess:
    """A stage that is running.

    Parameters
    ----------
    stage
        The notebook.
    output
        Where the executed notebook goes.
    parameters
        What to inject.
    environment
        Of `jupyter_environment`.
    """

    def __init__(self, stage: Stage, output: Path, parameters: dict[str, Any], environment: dict[str, str]):
        self.stage = stage
        self.output = output
        self.progress = ""
        folder = Path(environment["JUPYTER_PATH"])
        self._result = folder / f"{stage.name}.result.json"
        self._complaints = folder / f"{stage.name}.stderr"
        self.started = time.time()
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / f"{stage.name}.json",
            {
                "notebook": str(stage.path.resolve()),
                "output": str(output),
                "parameters": parameters,
                "started": self.started,
                "result": self._result,
            },
        )
        with open(self._complaints, "w", encoding="utf-8") as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cpx_utils.pipeline", str(folder / f"{stage.name}.json")],
                # A session of its own: Ctrl-C reaches the runner alone, which then ends the stages in order
                env=environment,
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
        """Return what the ended stage left: seconds, kernel_start, peak_mb, error (None or a dict)."""
        self._process.stdin.close()
        answer = {"seconds": round(time.time() - self.started, 3)}
        if self._result.is_file():
            return answer | read_json(self._result)
        text = self._complaints.read_text(encoding="utf-8").strip() or f"exit status {self._process.returncode}"
        return answer | {"error": {"cell": None, "name": "", "text": f"its process ended early: {text}"}}

    def stop(self) -> None:
        """End the process and its kernel; a notebook that was being written is removed."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        try:
            json.loads(self.output.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.output.unlink(missing_ok=True)


# --- the run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A run as it was asked for, everything checked.

    Attributes
    ----------
    stages, selected
        All stages; those to run if they are stale.
    parameters
        Complete parameters by stage name.
    dataset
        Name of the data set.
    run_dir, figures_dir
        Absolute folders.
    options
        The command line.
    """

    stages: list[Stage]
    selected: list[Stage]
    parameters: dict[str, dict[str, Any]]
    dataset: str
    run_dir: Path
    figures_dir: Path
    options: argparse.Namespace


class Run:
    """Runs a plan's stages, each when all it needs is done, several side by side.

    Attributes
    ----------
    state : dict
        Stage name to "waiting", "running", "ran", "unchanged", "failed" or "blocked" (needs one that failed).
    """

    def __init__(self, plan: Plan, console: "Console"):
        self.plan = plan
        self.console = console
        self.hashes = FileHashes(plan.run_dir / ".hashes.json")
        self.state = dict.fromkeys((stage.name for stage in plan.selected), "waiting")
        self._processes: list[StageProcess] = []
        self._fingerprints: dict[str, dict] = {}
        self._git = git_state(PACKAGE_FOLDER)

    def execute(self) -> bool:
        """Run what is stale.

        Returns
        -------
        bool
            Whether no stage failed.
        """
        with jupyter_environment() as environment:
            try:
                while self._advance(environment) or self._processes:
                    self._collect()
                    self.console.show(self._processes)
            finally:
                for process in self._processes:
                    process.stop()
                self.console.clear()
                self.hashes.save()
        return not {"failed", "blocked"} & set(self.state.values())

    def _advance(self, environment: dict[str, str]) -> bool:
        """Settle or start every stage that can be; return whether any still waits."""
        for stage in self.plan.selected:
            if self.state[stage.name] != "waiting":
                continue
            before = {self.state.get(other.name, "unchanged") for other in upstream(stage, self.plan.stages)}
            if before & {"failed", "blocked"}:
                self.state[stage.name] = "blocked"
            elif before <= {"ran", "unchanged"}:
                if stage.name not in self._fingerprints and not self._stale(stage):
                    self.state[stage.name] = "unchanged"
                    self.console.stage_line(self._place(stage), stage.name, "skipped (unchanged)")
                elif len(self._processes) < self.plan.options.jobs:
                    self._start(stage, environment)
        return "waiting" in self.state.values()

    def _stale(self, stage: Stage) -> bool:
        """Take the stage's fingerprint and say whether it must run."""
        current = fingerprint(stage, self.plan.parameters[stage.name])
        self._fingerprints[stage.name] = current
        return self.plan.options.force or bool(
            why_stale(stage, current, self.plan.run_dir, self.plan.figures_dir, self.hashes)
        )

    def _start(self, stage: Stage, environment: dict[str, str]) -> None:
        """Start a stage's process. Its record goes first: without one, a stage counts as not done."""
        record = stage_record_path(self.plan.run_dir, stage.name)
        if record.is_file():
            record.replace(record.with_suffix(".before"))
        parameters = self.plan.parameters[stage.name]
        changed = {
            name: value
            for name, value in parameters.items()
            if name in PLUMBING or value != stage.parameters[name].default
        }
        output = self.plan.run_dir / "notebooks" / f"{stage.name}.ipynb"
        self._processes.append(StageProcess(stage, output, changed, environment))
        self.state[stage.name] = "running"

    def _collect(self) -> None:
        """Wait a moment, then take in the stages that have ended."""
        time.sleep(0.05)
        for process in [process for process in self._processes if process.ended()]:
            self._processes.remove(process)
            result = process.result()
            stage = process.stage
            record = stage_record_path(self.plan.run_dir, stage.name)
            if result["error"] is None and not record.is_file():
                result["error"] = {
                    "cell": None,
                    "name": "",
                    "text": "it ran to its end without Workspace.finish(), "
                    "so what it made isn't recorded; call that in its last cell",
                }
            if result["error"] is not None:
                record.unlink(missing_ok=True)
                self.state[stage.name] = "failed"
                self.console.stage_line(self._place(stage), stage.name, "failed")
                self.console.complain(_failure_line(stage, process.output, result["error"]))
                continue
            self._complete_record(stage, record, result)
            self.state[stage.name] = "ran"
            self.console.stage_line(self._place(stage), stage.name, f"{result['seconds']:.1f} s")

    def _complete_record(self, stage: Stage, path: Path, result: dict) -> None:
        """Add the runner's part to a stage's record; remove what its last run made and this one didn't."""
        record = read_json(path)
        record["run"] = {
            "fingerprint": self._fingerprints[stage.name],
            "seconds": result["seconds"],
            "kernel_start": round(result["kernel_start"], 3),
            "peak_mb": result["peak_mb"],
            "git": self._git,
        }
        write_json(path, record)
        before = path.with_suffix(".before")
        if before.is_file():
            taken = {name for other in stage_records(self.plan.run_dir).values() for name in other["writes"]}
            for name in read_json(before)["writes"].keys() - taken:
                if not os.path.isabs(name):
                    locate(name, self.plan.run_dir, self.plan.figures_dir).unlink(missing_ok=True)
            before.unlink()

    def _place(self, stage: Stage) -> str:
        return f"[{self.plan.stages.index(stage) + 1}/{len(self.plan.stages)}]"


def _failure_line(stage: Stage, output: Path, error: dict) -> str:
    """Tell a failure in one line; of a ScreenError only its own text, which says it all."""
    text = " ".join(error["text"].split())
    if error["name"] not in ("", "ScreenError"):
        text = f"{error['name']}: {text}" if text else error["name"]
    where = f" in cell [{error['cell']}]" if error["cell"] else ""
    return f"{stage.name} failed{where}: {text} (as far as it got: {_short(output)})"


class Console:
    """What the runner says: a line a stage on stdout; below it, on a terminal, what is running now.

    Parameters
    ----------
    prefix
        What error lines start with.
    """

    def __init__(self, prefix: str = "run_all"):
        self.prefix = prefix
        self._live = ""
        self._terminal = sys.stderr.isatty()

    def stage_line(self, place: str, name: str, text: str) -> None:
        """Say how a stage ended."""
        self.say(f"{place} {name} ... {text}")

    def say(self, text: str = "") -> None:
        """Say a line on stdout."""
        self.clear()
        print(text, flush=True)

    def complain(self, text: str) -> None:
        """Say a line on stderr."""
        self.clear()
        print(f"{self.prefix}: {text}", file=sys.stderr, flush=True)

    def show(self, processes: Sequence[StageProcess]) -> None:
        """Show what is running, on a terminal only."""
        if not self._terminal:
            return
        parts = [
            f"{process.stage.name} {time.time() - process.started:.0f} s {process.progress}" for process in processes
        ]
        line = "  |  ".join(parts)[: shutil.get_terminal_size().columns - 1]
        if line != self._live:
            self.clear()
            self._live = line
            print(line, end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Wipe what `show` left."""
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._live = ""


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone; don't wait for it.

    Raises
    ------
    ScreenError
        Another run holds it; the line says which and since when.
    """
    import filelock

    run_dir.mkdir(parents=True, exist_ok=True)
    holder = run_dir / ".lock.json"
    lock = filelock.FileLock(run_dir / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        try:
            known = read_json(holder)
        except (OSError, ScreenError):  # it was taken this very moment
            known = {"pid": "?", "since": "now"}
        raise ScreenError(
            f"{_short(run_dir)} is in use by process {known['pid']} since {known['since']}; "
            "wait for it to end, or give another folder with --results"
        ) from None
    try:
        write_json(holder, {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def write_timings(run_dir: Path) -> Path:
    """Write tables/timings.csv from the stage records: stage, step, seconds, peak_mb.

    The step "total" is a stage's wall time with its kernel's start and end, "kernel start" the part before
    the first cell. `peak_mb` of a step is the process's highest memory up to its end.
    """
    rows = []
    for stage, record in stage_records(run_dir).items():
        run = record.get("run", {})
        rows.append((stage, "total", run.get("seconds", record["seconds"]), run.get("peak_mb", record["peak_mb"])))
        if "kernel_start" in run:
            rows.append((stage, "kernel start", run["kernel_start"], None))
        rows += [(stage, step["step"], step["seconds"], step["peak_mb"]) for step in record["steps"]]
    path = run_dir / "tables" / "timings.csv"
    with atomic_path(path) as temporary:
        pd.DataFrame(rows, columns=["stage", "step", "seconds", "peak_mb"]).to_csv(temporary, index=False)
    return path


def _short(path: Path) -> str:
    """Return a path relative to the working directory where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


# --- the command line ---------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Mistakes in the call are told in one line."""

    def error(self, message: str) -> None:
        raise ScreenError(message + "; --help lists the options")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = _Parser(
        prog="run_all.py",
        allow_abbrev=False,
        description=(
            "Run the numbered notebooks in order, each only if something it depends on changed. "
            "Exit status: 0 done, 1 a notebook failed, 2 the call was wrong."
        ),
    )
    add = parser.add_argument
    add(
        "--dataset",
        default="simulated",
        metavar="NAME|FILE.toml",
        help="a screen of the registry, or your own (default: simulated, which needs no download)",
    )
    add(
        "--profile",
        default="default",
        choices=list(PROFILES),
        help="smoke: small, to see that everything works; full: more repeats (default: default)",
    )
    add("--results", metavar="DIR", help="runs go to DIR/DATASET/PROFILE (default: results/ of the project)")
    add("--figures", metavar="DIR", help="pictures go to DIR/DATASET (default: figures/ of the project)")
    add(
        "--mirror",
        default="",
        metavar="DIR_OR_URL",
        help="download https://HOST/PATH from MIRROR/HOST/PATH instead",
    )
    add(
        "--data-dir",
        default="",
        metavar="DIR",
        help="where downloads are kept (default: a folder of your user)",
    )
    add(
        "--unverified",
        action="store_true",
        help="accept files whose hash isn't the registry's; the results say so",
    )
    add(
        "--check",
        action="store_true",
        help="examine the screen, list what is wrong or not testable, run nothing",
    )
    add("--seed", type=int, help="seed of every notebook")
    add(
        "--jobs",
        type=int,
        default=min(os.cpu_count() or 1, 3),
        metavar="N",
        help="stages side by side (default: %(default)s); results don't depend on it",
    )
    _add_stage_options(parser)
    return parser


def _add_stage_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which notebooks are considered, and with which parameters."""
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", metavar="NN", help="consider these notebooks alone")
    which.add_argument("--from", dest="first", metavar="NN", help="consider this notebook and those after it")
    add("--force", action="store_true", help="run the notebooks considered even if nothing changed")
    add("--dry-run", action="store_true", help="say what would run, and why; run nothing")
    add(
        "--list",
        action="store_true",
        help="list the notebooks, their parameters and what is stale; run nothing",
    )
    add(
        "-p",
        "--parameter",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter in every notebook that has it; 03.NAME=VALUE in one",
    )


def parse_call(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises
    ------
    ScreenError
        An option is unknown (the line names the nearest) or has a wrong value.
    """
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "--help lists the options"
        raise ScreenError(f"there is no option {unknown[0]!r}; {hint}")
    if options.jobs < 1:
        raise ScreenError(f"--jobs wants a whole number from 1; {options.jobs} isn't one")
    if options.seed is not None and options.seed < 0:
        raise ScreenError(f"--seed wants a whole number from 0; {options.seed} isn't one")
    return options


def make_plan(options: argparse.Namespace, notebooks: Path) -> Plan:
    """Check everything that can be checked before anything runs.

    Raises
    ------
    ScreenError
        One line: what is wrong with the call, and what would be right.
    """
    from cpx_utils.datasets import DATASETS, dataset_name

    stages = read_stages(notebooks)
    name = dataset_name(options.dataset)
    dataset = options.dataset if options.dataset in DATASETS else str(Path(options.dataset).resolve())
    mirror = options.mirror
    if mirror and "://" not in mirror:
        if not Path(mirror).is_dir():
            raise ScreenError(f"--mirror wants a folder or a URL; {mirror} is neither")
        mirror = str(Path(mirror).resolve())
    results = Path(options.results) if options.results else project_root() / "results"
    run_dir = results.resolve() / name / options.profile
    figures_root = Path(options.figures).resolve() if options.figures else project_root() / "figures"
    figures_dir = figures_root / (f"{name}-smoke" if options.profile == "smoke" else name)
    plumbing = {
        "dataset": dataset,
        "run_dir": str(run_dir),
        "figures_dir": str(figures_dir),
        "mirror": mirror,
        "data_dir": str(Path(options.data_dir).resolve()) if options.data_dir else "",
        "unverified": options.unverified,
    }
    preferred = DATASETS[options.dataset].parameters if options.dataset in DATASETS else {}
    seed = {} if options.seed is None else {"seed": options.seed}
    parameters = resolve_parameters(stages, [preferred, PROFILES[options.profile], seed, plumbing], options.parameter)
    selected = stages
    if options.only:
        chosen = {find_stage(stages, number).name for number in options.only}
        selected = [stage for stage in stages if stage.name in chosen]
    elif options.first:
        selected = stages[stages.index(find_stage(stages, options.first)) :]
    return Plan(stages, selected, parameters, name, run_dir, figures_dir, options)


def require_upstream(plan: Plan) -> None:
    """Check that what the selected stages need, and that isn't selected, was made before.

    Raises
    ------
    ScreenError
        It wasn't; the line names the stages that make it.
    """
    for stage in plan.selected:
        missing = [
            other
            for other in upstream(stage, plan.stages)
            if other not in plan.selected and not stage_record_path(plan.run_dir, other.name).is_file()
        ]
        if missing:
            names = ", ".join(other.name for other in missing)
            raise ScreenError(
                f"{stage.name} reads what {names} {'makes' if len(missing) == 1 else 'make'}, not done in "
                f"{_short(plan.run_dir)} yet; run --from {missing[0].number}, or all"
            )


def forecast(plan: Plan) -> dict[str, str]:
    """Say of each selected stage what a run would do.

    Returns
    -------
    dict
        Stage name to "fresh", "stale: reason" or "will be checked after NN" (it is fresh unless one of those
        before it, which will run, changes what it reads).
    """
    hashes = FileHashes(plan.run_dir / ".hashes.json")
    outlook: dict[str, str] = {}
    for stage in plan.selected:
        unsettled = [
            other.number
            for other in upstream(stage, plan.stages)
            if outlook.get(other.name, "fresh").startswith("stale")
        ]
        reason = (
            "--force"
            if plan.options.force
            else why_stale(
                stage,
                fingerprint(stage, plan.parameters[stage.name]),
                plan.run_dir,
                plan.figures_dir,
                hashes,
                check_reads=not unsettled,
            )
        )
        if reason:
            outlook[stage.name] = f"stale: {reason}"
        else:
            outlook[stage.name] = f"will be checked after {', '.join(unsettled)}" if unsettled else "fresh"
    if plan.run_dir.is_dir():
        hashes.save()
    return outlook


def print_list(plan: Plan, console: Console) -> None:
    """Print each stage's question, parameters and outlook."""
    outlook = forecast(plan)
    for stage in plan.selected:
        console.say(f"{stage.name}  ({outlook[stage.name]})")
        console.say(f"    {stage.question}")
        for name, parameter in stage.parameters.items():
            if name in PLUMBING:
                continue
            value = plan.parameters[stage.name][name]
            changed = "" if value == parameter.default else f", here {value!r}"
            console.say(
                f"    -p {name}: {parameter.kind} = {parameter.default!r}{changed}"
                + (f"  # {parameter.comment}" if parameter.comment else "")
            )
        console.say()


def print_check(plan: Plan, console: Console) -> bool:
    """Examine the plan's screen; print what is wrong with it, what it lacks, and its notes.

    Returns
    -------
    bool
        Whether it can be used.
    """
    from cpx_utils.datasets import examine_screen
    from cpx_utils.profiles import testability

    first = plan.parameters[plan.stages[0].name]
    known = {name: first[name] for name in ("seed", "mirror", "data_dir", "unverified") if name in first}
    screen, problems = examine_screen(first["dataset"], size=first.get("screen_size", "default"), **known)
    for problem in problems:
        console.complain(problem)
    if problems:
        return False
    console.say(
        f"{screen.name}: CP {len(screen.cp)} wells, TX {len(screen.tx)} wells, "
        f"{len(screen.compounds)} compounds, {len(screen.tasks)} tasks; nothing is wrong"
    )
    limits = {
        name: next((values[name] for values in plan.parameters.values() if name in values), default)
        for name, default in (("min_active", 25), ("min_inactive", 25))
    }
    for row in testability(screen, **limits).itertuples():
        console.say(
            f"  {row.endpoint}: {'testable' if row.testable else 'not testable'}"
            + (f" ({row.reason})" if row.reason else "")
        )
    for note in screen.notes:
        console.say(f"  note: {note}")
    return True


def print_claims(run_dir: Path, console: Console) -> None:
    """Print the primary rows of the claims table, one line a claim."""
    path = run_dir / "tables" / "claims.csv"
    if not path.is_file():
        return
    claims = pd.read_csv(
        path,
        keep_default_na=False,
        na_values={name: [""] for name in ("effect", "ci_low", "ci_high", "p_adjusted")},
    )
    console.say("claims:")
    for row in claims[claims["verdict"] != ""].itertuples():
        numbers = "" if pd.isna(row.effect) else f", {row.effect:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
        against = f" vs {row.reference}" if row.reference else ""
        console.say(f"  {row.claim}: {row.verdict} ({row.endpoint}: {row.method}{against}{numbers})")


def run_plan(plan: Plan, console: Console) -> int:
    """Run a plan and write timings, manifest and report; return the exit status."""
    from cpx_utils.report import write_report

    started = time.time()
    require_upstream(plan)
    with run_lock(plan.run_dir):
        run = Run(plan, console)
        done = run.execute()
        states = list(run.state.values())
        manifest = plan.run_dir / "manifest.json"
        if "ran" in states or not manifest.is_file():
            write_timings(plan.run_dir)
            seeds = {values["seed"] for values in plan.parameters.values() if "seed" in values}
            write_json(
                manifest,
                run_manifest(
                    plan.run_dir,
                    dataset=plan.dataset,
                    profile=plan.options.profile,
                    seed=seeds.pop() if len(seeds) == 1 else None,
                    threads=THREADS_PER_STAGE,
                    unverified=plan.options.unverified,
                ),
            )
        if not done:
            blocked = [name for name, state in run.state.items() if state == "blocked"]
            if blocked:
                console.complain(f"not run, since they need it: {', '.join(blocked)}")
            return 1
        _skip_slow_import()
        report = write_report(plan.run_dir, plan.figures_dir)
    count = sum(len(record["figures"]) for record in stage_records(plan.run_dir).values())
    console.say(
        f"notebooks: {states.count('ran')} ran, {states.count('unchanged')} unchanged, {time.time() - started:.1f} s"
    )
    console.say(f"{count} figure{'' if count == 1 else 's'} in {_short(plan.figures_dir)}")
    print_claims(plan.run_dir, console)
    console.say(f"report: {_short(report)}")
    if plan.dataset == "simulated":
        console.say("The simulated screen shows that the study works; it says nothing about biology.")
    return 0


def main(arguments: Sequence[str] | None = None, notebooks: str | Path | None = None) -> int:
    """Run the study from the command line.

    Parameters
    ----------
    arguments
        Command line without the program's name; None takes `sys.argv`.
    notebooks
        Folder of the notebooks; None takes the project's.

    Returns
    -------
    int
        0 done; 1 a notebook failed; 2 the call or the screen was wrong; 130 or 143 interrupted.
    """
    console = Console()
    # Turned into an exception, the signal lets the run end its stages and release its folder.
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        options = parse_call(arguments)
        plan = make_plan(options, Path(notebooks) if notebooks else project_root() / "notebooks")
        if options.check:
            return 0 if print_check(plan, console) else 2
        if options.list:
            print_list(plan, console)
            return 0
        if options.dry_run:
            for name, outlook in forecast(plan).items():
                console.say(f"{name}: {outlook}")
            return 0
        return run_plan(plan, console)
    except ScreenError as error:
        console.complain(" ".join(str(error).split()))
        return 2
    except Interrupted as interruption:
        console.complain("interrupted; finished notebooks are kept, and the same command goes on from there")
        return interruption.status
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(number)


if __name__ == "__main__":
    execute_stage(sys.argv[1])
