"""The runner: `python run_all.py` checks a call, and runs each notebook that something it depends on has changed for.

Every notebook `NN_name.ipynb` is a stage. Its parameters are the lines `name: type = default  # comment` of its cell
tagged `parameters`; those that are rarely changed may stand in a cell tagged `settings` before it, since papermill puts
a run's values behind the cell `parameters`. A stage is judged when all it needs is done: it is fresh while its code,
its parameters, the modules it imports, the pinned packages and every file it read and wrote are what its record says.
So a stage whose inputs were made again with the same bytes doesn't run.

Mistakes in a call or in a screen are told in one line before anything runs, with exit status 2.
"""

import argparse
import ast
import difflib
import functools
import hashlib
import io
import itertools
import json
import logging
import math
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from cpx_utils.profiles import ScreenError, one_line, user_path
from cpx_utils.provenance import (
    FIGURE_PREFIX,
    UNFINISHED,
    atomic_path,
    locate,
    package_versions,
    project_root,
    read_json,
    run_manifest,
    sha256_file,
    stage_records,
    write_json,
)

PACKAGE_FOLDER = Path(__file__).resolve().parent

# What each profile changes; a value here wins over the notebooks' defaults and what a data set prefers.
PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {"screen_size": "small", "split_kinds": ["random"]},
    "default": {},
    "full": {"n_repeats": 3, "all_splits": True, "second_opinion": True},
}
# Which stages must be done before a stage; 02, 03 and 04 don't need each other, nor does 08 need 05 to 07. A notebook
# that someone added needs all before it.
NEEDS = {"01": "", "02": "01", "03": "01", "04": "01", "05": "01 02 03 04", "06": "01 02 03 04"}
NEEDS |= {"07": "01 02 03 04 05 06", "08": "01 02 03 04"}
# Parameters the runner sets itself, and the option a user sets them by. They say where things are, not what is done.
PLUMBING = {"dataset": "--dataset", "run_dir": "--results", "figures_dir": "--figures"}
PLUMBING |= {"data_dir": "--data-dir", "mirror": "--mirror", "unverified": "--unverified"}
# These don't make a stage stale: the files behind them are compared by their hashes.
PATHS_ONLY = {"run_dir", "figures_dir", "data_dir", "mirror"}
# Files that a user names by a parameter, relative to where the runner was called.
FILES = {"new_profiles"}
TYPES = {"int": int, "float": float, "str": str, "bool": bool}
EXAMPLES = {"int": "3", "float": "0.1", "str": "random", "bool": "true"}
EXAMPLES |= {"list[int]": "1,2,3", "list[float]": "0.1,1", "list[str]": "a,b"}
# One thread a stage, whatever --jobs is: sums over threads round differently, so results would depend on the
# machine's load, and side-by-side stages would fight for cores. torch follows OMP_NUM_THREADS.
THREADS_PER_STAGE = 1
THREAD_VARIABLES = [f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "BLIS")]
# What a failure's text holds, and what to do about it.
REMEDIES = {
    r"No space left|quota exceeded": "make room and run the same again",
    r"(?i)memory|unable to allocate|bad_alloc": "free memory, or run fewer notebooks side by side with --jobs 1",
}
GOES_ON = "finished notebooks are kept, and the same command goes on from there"


# --- stages and their parameters ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's `parameters` cell."""

    name: str
    kind: str  # of `EXAMPLES`
    default: Any
    comment: str = ""
    choices: tuple[str, ...] = ()  # what its comment names by "one of: a, b, c"; empty if any value will do


@dataclass(frozen=True)
class Stage:
    """One notebook."""

    name: str  # of its file without suffix, such as "03_train_contrastive"; it begins with the number
    path: Path
    question: str  # its first heading
    parameters: dict[str, Parameter]  # in the notebook's order, those of a cell `settings` last
    cells: list[tuple[str, list[str]]]  # code and tags of its code cells, those two excepted


def read_stages(notebooks: str | Path) -> list[Stage]:
    """Read the stages of a folder: its notebooks `NN_*.ipynb`, in order of their numbers.

    There being none, two of one number, or a notebook that can't be understood is a ScreenError.
    """
    stages = [_read_stage(path) for path in sorted(Path(notebooks).glob("[0-9][0-9]_*.ipynb"))]
    if not stages:
        raise ScreenError(f"{notebooks} holds no notebook named NN_what_it_does.ipynb, NN being two digits")
    for first, second in itertools.pairwise(stages):
        if first.name[:2] == second.name[:2]:
            raise ScreenError(f"{first.name} and {second.name} share a number; rename one of them")
    return stages


def _read_stage(path: Path) -> Stage:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ScreenError(f"{path} isn't a notebook: {error}") from None
    code, parameters, settings, question = [], {}, {}, ""
    for cell in cells:
        source = "".join(cell["source"])  # a list of lines, or one string
        tags = cell.get("metadata", {}).get("tags", [])
        if cell["cell_type"] == "markdown":
            question = question or source.strip().partition("\n")[0].lstrip("# ").strip()
        elif "parameters" in tags:
            parameters |= read_parameters(source, path.stem)
        elif "settings" in tags and parameters:  # a run's values, injected before it, would be undone
            raise ScreenError(f"{path.stem}: its cell tagged settings must come before the one tagged parameters")
        elif "settings" in tags:
            settings |= read_parameters(source, path.stem)
        elif source.strip():
            code.append((source, tags))
    parameters |= settings
    missing = {"dataset", "run_dir", "figures_dir"} - parameters.keys()
    if missing:
        lacking = f"{path.stem}: its cell tagged parameters lacks {', '.join(sorted(missing))}"
        raise ScreenError(f'{lacking}; every notebook declares them, as in: run_dir: str = ""')
    return Stage(path.stem, path, question, parameters, code)


def read_parameters(source: str, where: str) -> dict[str, Parameter]:
    """Parse the code of a `parameters` cell, without running it; `where` is the notebook's name, for messages.

    Something else than assignments of literals, a type not known, or a default of another type is a ScreenError.
    """
    where = f"{where}: its parameters cell"
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ScreenError(f"{where} isn't Python in line {error.lineno}: {error.msg}") from None
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in statements:
        try:
            name, kind, default = node.target.id, ast.unparse(node.annotation), ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            raise ScreenError(f"{where} isn't `name: type = value` in line {node.lineno}") from None
        if kind not in EXAMPLES:
            raise ScreenError(f"{where} gives {name} the type {kind}; known are {', '.join(EXAMPLES)}")
        # a formatter may break a long line, and its comment then stands inside the brackets
        lines = range(node.lineno, node.end_lineno + 1)
        comment = " ".join(comments[line] for line in lines if line in comments)
        listed = re.search(r"one of:?\s+([\w./+-]+(?:,\s*[\w./+-]+)+)", comment)
        choices = tuple(re.split(r",\s*", listed[1])) if listed else ()
        parameter = Parameter(name, kind, default, comment, choices)
        found[name] = replace(parameter, default=checked_value(parameter, default))
    return found


def checked_value(parameter: Parameter, value: Any) -> Any:
    """Return `value` in the parameter's type.

    A value is a Python value, or a string as typed on the command line: "true" and "false" for bool, a Python list or
    items with commas for lists. A whole number serves as a float; nothing else changes its type. A ScreenError says in
    a line what the parameter wants, with an example, and what it got.
    """
    kind, items = parameter.kind.removeprefix("list[").removesuffix("]"), [value]
    is_list = kind != parameter.kind
    try:
        if is_list and isinstance(value, str):
            text = value.strip()
            items = ast.literal_eval(text) if text[:1] == "[" else [item.strip() for item in text.split(",") if text]
        elif is_list:
            items = value
        if kind != "str":  # "true" is Python's True; numbers aren't changed by this
            items = [ast.literal_eval(item.strip().capitalize()) if isinstance(item, str) else item for item in items]
        if kind == "float":
            items = [float(item) if type(item) is int else item for item in items]
        right = isinstance(items, list) and all(type(item) is TYPES[kind] for item in items)
        if not right or (kind == "float" and not all(map(math.isfinite, items))):
            raise ValueError
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError):
        wanted = f"{'an' if parameter.kind == 'int' else 'a'} {parameter.kind} such as {EXAMPLES[parameter.kind]}"
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
        raise ScreenError(f"{parameter.name} wants {wanted}; {shown} isn't one") from None
    for item in items:
        if parameter.choices and str(item) not in parameter.choices:
            raise ScreenError(f"{parameter.name} wants one of {', '.join(parameter.choices)}; {str(item)!r} isn't")
    return items if is_list else items[0]


def resolve_parameters(
    stages: Sequence[Stage], layers: Iterable[dict[str, Any]], given: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return every stage's parameters by its name: its defaults, then the layers in turn, then what was given.

    Parameters
    ----------
    stages
        All stages, also those that won't run.
    layers
        Name to value; each applies to every notebook that declares the name, and to no other.
    given
        `NAME=VALUE` for every notebook that declares NAME, or `03.NAME=VALUE` for one. Strict.

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
        target, equals, value = assignment.partition("=")
        where, _, name = target.strip().rpartition(".")
        if not equals or not name:
            raise ScreenError(f"-p wants NAME=VALUE, such as temperature=0.2; {assignment!r} isn't that")
        if name in PLUMBING:
            raise ScreenError(f"{name} is set by {PLUMBING[name]}, not by -p")
        chosen = [find_stage(stages, where)] if where else stages
        declaring = [stage for stage in chosen if name in stage.parameters]
        if not declaring:
            who = f"{chosen[0].name} has no parameter" if where else "no notebook has a parameter"
            declared = sorted({known for stage in chosen for known in stage.parameters} - PLUMBING.keys())
            nearest = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(declared)}"
            raise ScreenError(f"{who} {name!r}; {hint}")
        for stage in declaring:
            resolved[stage.name][name] = checked_value(stage.parameters[name], value)
    return resolved


def find_stage(stages: Sequence[Stage], name: str) -> Stage:
    """Return the stage called "3", "03" or "03_train_contrastive"; raise ScreenError, naming all, if there is none."""
    for stage in stages:
        if name == stage.name or name.zfill(2) == stage.name[:2]:
            return stage
    raise ScreenError(f"there is no notebook {name!r}; there are {', '.join(stage.name for stage in stages)}")


def upstream(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages that must be done before `stage`, in order."""
    earlier = [other for other in stages if other.name < stage.name]
    return [other for other in earlier if other.name[:2] in NEEDS.get(stage.name[:2], other.name)]


# --- what is stale ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A run as it was asked for, everything checked."""

    stages: list[Stage]
    selected: list[Stage]  # those to run if they are stale
    parameters: dict[str, dict[str, Any]]  # complete, by stage name
    dataset: str
    run_dir: Path
    figures_dir: Path
    options: argparse.Namespace

    def record(self, stage: Stage) -> Path:
        """Return where the record of a stage lies."""
        return self.run_dir / "stages" / f"{stage.name}.json"


def watched_files(code: Iterable[str], package: Path = PACKAGE_FOLDER) -> dict[str, str]:
    """Return what cells use of cpx_utils, with SHA-256: modules they import, also through each other, and all data.

    A cell that isn't plain Python counts as importing all modules.
    """
    sources = {path.stem: path.read_text(encoding="utf-8") for path in package.glob("*.py")}
    queue, used = [*code, sources["__init__"]], {"__init__"}
    while queue:
        names = _imports(queue.pop())
        new = (sources.keys() if names is None else names & sources.keys()) - used
        used |= new
        queue += [sources[name] for name in new]
    paths = [package / f"{name}.py" for name in used]
    paths += [path for path in package.rglob("*") if path.suffix in (".toml", ".csv")]
    return {path.relative_to(package).as_posix().removesuffix(".py"): sha256_file(path) for path in sorted(paths)}


@functools.cache
def _imports(source: str) -> frozenset[str] | None:
    """Return the modules of cpx_utils that code imports, at any depth; None if it can't be parsed."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return None
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return frozenset(name.split(".")[1] for name in names if name.startswith("cpx_utils."))


@functools.cache
def _sha256(path: Path, size: int, changed: int, inode: int) -> str:
    """Return a file's SHA-256, read once a run, since several stages ask for the same files."""
    return sha256_file(path)


def fingerprint(stage: Stage, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what decides a stage's results besides the files it reads; prose and places aren't in it."""
    return {
        "code": hashlib.sha256(json.dumps(stage.cells).encode()).hexdigest(),
        "parameters": {name: value for name, value in parameters.items() if name not in PATHS_ONLY},
        "modules": watched_files(source for source, _ in stage.cells),
        "packages": {"python": f"{sys.version_info[0]}.{sys.version_info[1]}"} | package_versions(),
    }


def why_stale(plan: Plan, stage: Stage, check_reads: bool = True) -> str:
    """Say in a few words why a stage must run, "" if it needn't; what it read counts if `check_reads`."""
    if plan.options.force:
        return "--force"
    record = stage_records(plan.run_dir).get(stage.name)
    if record is None:
        return "its record is damaged" if plan.record(stage).is_file() else "not done yet"
    if "run" not in record:
        # Run by hand, cells may have run twice, out of order or with other values than the file holds.
        return "last run by hand"
    before, current = record["run"]["fingerprint"], fingerprint(stage, plan.parameters[stage.name])
    if before["code"] != current["code"]:
        return "its code changed"
    for part in ("parameters", "modules", "packages"):
        for name in {**before[part], **current[part]}:
            old, new = before[part].get(name), current[part].get(name)
            if old != new:
                return f"{name} was {old!r}, is {new!r}" if part == "parameters" else f"{part[:-1]} {name} changed"
    named = record["writes"] | (record["reads"] if check_reads else {})
    files = {locate(name, plan.run_dir, plan.figures_dir): (name, digest) for name, digest in named.items()}
    files[plan.run_dir / "notebooks" / stage.path.name] = ("its executed notebook", record["run"]["notebook"])
    for path, (name, digest) in files.items():
        shown = name.replace(FIGURE_PREFIX, "figure ")
        if not path.is_file():
            return f"{shown} is missing"
        status = path.stat()
        # Who changes a file may put its time back (rsync, touch), but not the inode's own.
        if _sha256(path, status.st_size, status.st_ctime_ns, status.st_ino) != digest:
            return f"{shown} changed"
    return ""


def forecast(plan: Plan) -> dict[str, str]:
    """Say of each selected stage, by its name, whether it is fresh, stale and why, or to be checked after others."""
    outlook: dict[str, str] = {}
    for stage in plan.selected:
        before = upstream(stage, plan.stages)
        # what it read may still be changed by these
        unsettled = [other.name[:2] for other in before if outlook.get(other.name, "").startswith("stale")]
        reason = why_stale(plan, stage, check_reads=not unsettled)
        fresh = f"will be checked after {', '.join(unsettled)}" if unsettled else "fresh"
        outlook[stage.name] = f"stale: {reason}" if reason else fresh
    return outlook


# --- a run --------------------------------------------------------------------------------------------------


@contextmanager
def kernel_environment(scheduler: str) -> Iterator[Path]:
    """Set this process's environment to what kernels inherit: this very Python, nothing of the user's settings.

    A temporary folder, which is given, holds the kernel's description (another one called python3 may be installed, or
    none), its connection files and its IPython profile; nothing is written into the user's home.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="cpx-", ignore_cleanup_errors=True) as name:
        kernel = {"display_name": "Python 3 (the Python of run_all.py)", "language": "python"}
        kernel["argv"] = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel["metadata"] = {"supported_encryption": ["curve"]}
        write_json(Path(name, "kernels", "python3", "kernel.json"), kernel)
        Path(name, "matplotlibrc").touch()  # matplotlib's own defaults, so that figures are everyone's
        os.environ.update(
            dict.fromkeys(THREAD_VARIABLES, str(THREADS_PER_STAGE)),
            CPX_SCHEDULER=scheduler,  # fits go there
            CUBLAS_WORKSPACE_CONFIG=":4096:8",  # what CUDA asks for to give the same sums twice
            IPYTHONDIR=f"{name}/ipython",
            JUPYTER_CONFIG_DIR=f"{name}/config",
            JUPYTER_PATH=name,
            JUPYTER_RUNTIME_DIR=f"{name}/runtime",
            MATPLOTLIBRC=f"{name}/matplotlibrc",
            MPLBACKEND="module://matplotlib_inline.backend_inline",
            PYTHONHASHSEED="0",
            PYTHONPATH=os.pathsep.join(filter(None, [str(PACKAGE_FOLDER.parent), before.get("PYTHONPATH")])),
        )
        try:
            yield Path(name)
        finally:
            os.environ.clear()
            os.environ.update(before)


class NotebookError(Exception):
    """A notebook failed; its text is the line that says where and why."""


def execute(plan: Plan, stage: Stage) -> float:
    """Execute a stage's notebook by papermill, in a kernel of its own, and complete its record; return the seconds.

    The kernel ends with this process, however that ends: ipykernel looks for its parent every second.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it knows is told below
    start, values, current = time.time(), plan.parameters[stage.name], fingerprint(stage, plan.parameters[stage.name])
    # What its last run made goes first, and the record of that at last: without one, a stage counts as not done.
    for name in stage_records(plan.run_dir).get(stage.name, {"writes": {}})["writes"]:
        if not os.path.isabs(name):
            locate(name, plan.run_dir, plan.figures_dir).unlink(missing_ok=True)
    for path in (plan.record(stage), plan.run_dir / "manifest.json"):
        path.unlink(missing_ok=True)
    defaults = {name: known.default for name, known in stage.parameters.items() if name not in PLUMBING}
    changed = dict(item for item in values.items() if item not in defaults.items())
    output, begun = plan.run_dir / "notebooks" / stage.path.name, []
    aside = output.with_name(UNFINISHED + output.name)
    output.parent.mkdir(parents=True, exist_ok=True)
    failure = None
    try:
        papermill.execute_notebook(
            # papermill takes braces in paths for templates
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (stage.path, aside)),
            parameters=changed,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            # not papermill's cwd, which would move this whole process
            resources={"metadata": {"path": str(stage.path.parent)}},
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
            shutdown_kernel="immediate",
            on_cell_start=lambda cell, cell_index: begun.append(cell.cell_type == "code"),
        )
    except papermill.PapermillExecutionError as error:
        failure = (error.ename, error.evalue)
    except DeadKernelError:
        failure = ("", "the kernel died, most often for want of memory")
    aside.replace(output)
    if failure:
        known = failure[0] in ("", "ScreenError")  # whose own text says it all
        text = with_remedy(one_line(failure[1] if known else ": ".join(filter(None, failure))))
        place = f"{stage.name} failed in cell [{sum(begun)}]"
        raise NotebookError(f"{place}: {text} (as far as it got: {short_path(output)})")
    record = stage_records(plan.run_dir).get(stage.name)
    if record is None:
        text = f"{stage.name} failed: it ran to its end without Workspace.finish(), so what it made isn't recorded"
        raise NotebookError(f"{text}; call that in its last cell")
    seconds = round(time.time() - start, 3)
    record["run"] = {"fingerprint": current, "notebook": sha256_file(output), "seconds": seconds}
    write_json(plan.record(stage), record)
    return seconds


def run_stages(plan: Plan) -> dict[str, str]:
    """Run the selected stages that are stale, each when all it needs is done, several side by side.

    When this is interrupted, it ends all kernels, also one that is starting this very moment. The outcomes are returned
    by stage name: "ran", "unchanged", "failed" or "blocked" (needs one that failed).
    """
    import psutil

    outcome: dict[str, str] = {}
    waiting, running = list(plan.selected), {}
    places = {stage.name: f"[{place}/{len(plan.stages)}] {stage.name}" for place, stage in enumerate(plan.stages, 1)}
    with kernel_environment(plan.options.scheduler), futures.ThreadPoolExecutor(plan.options.jobs) as pool:
        bar = tqdm(total=len(waiting), disable=None, leave=False, bar_format="{elapsed} {n}/{total}{postfix}")
        try:
            while waiting or running:
                for stage in list(waiting):
                    needed = {other.name for other in upstream(stage, plan.stages) if other in plan.selected}
                    if not needed <= outcome.keys():
                        continue
                    waiting.remove(stage)
                    if {outcome[name] for name in needed} & {"failed", "blocked"}:
                        outcome[stage.name] = "blocked"
                    elif why_stale(plan, stage):
                        running[pool.submit(execute, plan, stage)] = stage
                    else:
                        outcome[stage.name] = "unchanged"
                        say(f"{places[stage.name]} ... skipped (unchanged)")
                for future in futures.wait(running, 0.5, futures.FIRST_COMPLETED).done:
                    stage = running.pop(future)
                    error = future.exception()
                    outcome[stage.name] = "failed" if error else "ran"
                    say(f"{places[stage.name]} ... {'failed' if error else f'{future.result():.1f} s'}")
                    if error:
                        plan.record(stage).unlink(missing_ok=True)
                        other = f"{stage.name} failed: {type(error).__name__}: {with_remedy(one_line(error))}"
                        say(str(error) if isinstance(error, NotebookError) else other, wrong=True)
                bar.set_postfix_str(", ".join(stage.name for stage in running.values()))
                bar.update(len(outcome) - bar.n)
        finally:
            bar.close()
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in running):
                for process in psutil.Process().children():
                    with suppress(psutil.Error):  # it may have ended by itself
                        if "ipykernel_launcher" in process.cmdline():
                            for one in (*process.children(recursive=True), process):
                                one.kill()
                time.sleep(0.1)
    return outcome


@contextmanager
def run_lock(folder: Path, option: str = "--results") -> Iterator[None]:
    """Hold a folder, which `option` chooses, for this process alone; clear away what killed writers left in it.

    The operating system gives the lock free when the process ends, however it ends. Where another run holds it, or
    nothing can be written, a ScreenError says so.
    """
    import filelock

    holder = folder / ".lock.json"
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        known = {"pid": "?", "host": "?"}
        with suppress(OSError, ScreenError, TypeError):  # it may be about to say who it is
            known |= read_json(holder)
        what = f"{short_path(folder)} is in use by process {known['pid']} on {known['host']}"
        raise ScreenError(f"{what}; run this again when that has ended, or give another with {option}") from None
    except OSError as error:
        what = f"nothing can be written in {short_path(folder)} ({error.strerror or error})"
        raise ScreenError(f"{what}; give another with {option}") from None
    try:
        write_json(holder, {"pid": os.getpid(), "host": platform.node()})
        for path in list(folder.rglob(f"{UNFINISHED}*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
            Path(lock.lock_file).unlink()  # while it is held: whoever waits for it notices
        lock.release()


def run_plan(plan: Plan) -> int:
    """Run a plan, write timings, manifest and report, and tell the claims; return the exit status.

    Where what the selected stages need wasn't made before, or a folder can't be used, a ScreenError says so.
    """
    for stage in plan.selected:
        others = [other for other in upstream(stage, plan.stages) if other not in plan.selected]
        missing = [other.name for other in others if not plan.record(other).is_file()]
        if missing:
            what = f"{stage.name} reads what {', '.join(missing)} make{'s' if len(missing) == 1 else ''}"
            where = f"not done in {short_path(plan.run_dir)} yet"
            raise ScreenError(f"{what}, {where}; run --from {missing[0][:2]}, or all")
    started = time.time()
    with run_lock(plan.run_dir), run_lock(plan.figures_dir, "--figures"):
        diagrams = plan.stages[0].path.parent / "diagrams"
        if diagrams.is_dir():  # executed notebooks show them by relative paths
            shutil.copytree(diagrams, plan.run_dir / "notebooks" / "diagrams", dirs_exist_ok=True)
        outcome = run_stages(plan)
        if not (plan.run_dir / "manifest.json").is_file():
            write_summary(plan)
        states = list(outcome.values())
        if "failed" in states:
            blocked = [name for name, state in outcome.items() if state == "blocked"]
            if blocked:
                say(f"not run, since they need it: {', '.join(blocked)}", wrong=True)
            return 1
        from cpx_utils.report import write_report

        write_report(plan.run_dir, plan.figures_dir)
    ran, unchanged = states.count("ran"), states.count("unchanged")
    say(f"notebooks: {ran} ran, {unchanged} unchanged, {time.time() - started:.1f} s")
    figures = [figure for record in stage_records(plan.run_dir).values() for figure in record["figures"]]
    say(f"{len(figures)} figure{'' if len(figures) == 1 else 's'} in {short_path(plan.figures_dir)}")
    path = plan.run_dir / "tables" / "claims.csv"
    claims = pd.read_csv(path) if path.is_file() else pd.DataFrame({"verdict": []})
    for row in claims[claims["verdict"].notna()].itertuples():
        numbers = "" if pd.isna(row.effect) else f", {row.effect:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
        against = "" if pd.isna(row.reference) else f" vs {row.reference}"
        say(f"claim {row.claim}: {row.verdict} ({row.endpoint}: {row.method}{against}{numbers})")
    say(f"report: {short_path(plan.run_dir / 'report' / 'index.html')}")
    if plan.dataset == "simulated":
        say("The simulated screen shows that the study works; it says nothing about biology.")
    return 0


def write_summary(plan: Plan) -> None:
    """Write tables/timings.csv and manifest.json from the records of the stages.

    The step "total" is a stage's wall time, "kernel start" what of it lies outside of the notebook's workspace.
    """
    rows = []
    for stage, record in stage_records(plan.run_dir).items():
        seconds = record.get("run", record)["seconds"]
        rows.append({"stage": stage, "step": "total", "seconds": seconds, "peak_mb": record["peak_mb"]})
        rows.append({"stage": stage, "step": "kernel start", "seconds": round(seconds - record["seconds"], 3)})
        rows += [{"stage": stage, **step} for step in record["steps"]]
    with atomic_path(plan.run_dir / "tables" / "timings.csv") as temporary:
        pd.DataFrame(rows, columns=["stage", "step", "seconds", "peak_mb"]).to_csv(temporary, index=False)
    seeds = {values["seed"] for values in plan.parameters.values() if "seed" in values}
    call = {"dataset": plan.dataset, "profile": plan.options.profile, "unverified": plan.options.unverified}
    call |= {"seed": seeds.pop() if len(seeds) == 1 else None, "threads": THREADS_PER_STAGE}
    write_json(plan.run_dir / "manifest.json", run_manifest(plan.run_dir, **call))


def say(text: str, wrong: bool = False) -> None:
    """Print a line, above what a terminal shows of what is running; to stderr where something is wrong."""
    stream = sys.stderr if wrong else sys.stdout
    tqdm.write(f"run_all: {text}" if wrong else text, file=stream)
    stream.flush()


def with_remedy(text: str) -> str:
    """Add to what went wrong, told in a line, what to do about it, where that is known."""
    known = [remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, text)]
    return f"{text}; {known[0]}" if known else text


def short_path(path: Path) -> str:
    """Return a path relative to the working directory where that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)


# --- the call -----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ScreenError(f"{message}; --help lists the options")


def parse_call(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; a mistake in it is a ScreenError."""
    parser = _Parser(
        prog="run_all.py",
        allow_abbrev=False,
        description="Run the numbered notebooks in order, each only if something it depends on changed.",
        epilog="Exit status: 0 done, 1 a notebook failed, 2 the call was wrong.",
    )
    add = parser.add_argument_group("the screen").add_argument
    add("--dataset", default="simulated", metavar="NAME|FILE.toml",
        help="a screen of the registry, or your own (default: simulated, which needs no download)")  # fmt: skip
    add("--mirror", default="", metavar="DIR_OR_URL", help="download https://HOST/PATH from MIRROR/HOST/PATH instead")
    add("--data-dir", default="", metavar="DIR", help="where downloads are kept (default: a folder of your user)")
    add("--unverified", action="store_true", help="accept files whose hash isn't the registry's; the results say so")
    add("--check", action="store_true", help="examine the screen, list what is wrong or not testable, run nothing")
    add = parser.add_argument_group("the study").add_argument
    add("--profile", choices=list(PROFILES), default="default",
        help="smoke: small, to see that everything works; full: more repeats (default: default)")  # fmt: skip
    add("--seed", type=int, help="seed of every notebook")
    add("-p", "--parameter", action="extend", nargs="+", default=[], metavar="NAME=VALUE",
        help="set a parameter in every notebook that has it; 03.NAME=VALUE in one; --list shows them")  # fmt: skip
    add("--results", metavar="DIR", help="runs go to DIR/DATASET/PROFILE (default: results/ of the project)")
    add("--figures", metavar="DIR", help="pictures go to DIR/DATASET (default: figures/ of the project)")
    group = parser.add_argument_group("the notebooks")
    add = group.add_argument
    which = group.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", metavar="NN", help="consider these notebooks alone")
    which.add_argument("--from", dest="first", metavar="NN", help="consider this notebook and those after it")
    add("--force", action="store_true", help="run the notebooks considered even if nothing changed")
    add("--dry-run", action="store_true", help="say what would run, and why, and what would be downloaded; run nothing")
    add("--list", action="store_true", help="list the notebooks, their parameters and what is stale; run nothing")
    add("--jobs", type=int, default=min(os.cpu_count() or 1, 3), metavar="N",
        help="notebooks side by side (default: up to 3); results are the same")  # fmt: skip
    add("--scheduler", default="", metavar="ADDRESS",
        help="compute fits on the Dask cluster of this scheduler, such as tcp://host:8786")  # fmt: skip
    options = parser.parse_args(arguments)
    for name, lowest in (("jobs", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < lowest:
            raise ScreenError(f"--{name} wants a whole number from {lowest}; {value} isn't one")
    return options


def make_plan(options: argparse.Namespace, notebooks: Path) -> Plan:
    """Check everything that can be checked before anything runs; a mistake in it is a ScreenError."""
    from cpx_utils.datasets import DATASETS, dataset_name

    stages = read_stages(notebooks)
    dataset, profile = dataset_name(options.dataset), options.profile
    registered = DATASETS.get(options.dataset)
    mirror, folders = options.mirror, {}
    if mirror and "://" not in mirror:
        mirror = str(user_path(mirror).resolve())
        if not os.path.isdir(mirror):
            raise ScreenError(f"--mirror wants a folder or a URL; {options.mirror} is neither")
    for option in ("results", "figures", "data_dir"):
        given = getattr(options, option)
        folders[option] = user_path(given).resolve() if given else ""
        for part in [folders[option], *folders[option].parents] if given else []:
            if os.path.exists(part) and not os.path.isdir(part):
                raise ScreenError(f"--{option.replace('_', '-')} wants a folder; {part} is none")
    run_dir = (folders["results"] or project_root() / "results") / dataset / profile
    figures = folders["figures"] or project_root() / "figures"
    figures_dir = figures / (f"{dataset}-smoke" if profile == "smoke" else dataset)
    plumbing = {"run_dir": str(run_dir), "figures_dir": str(figures_dir), "data_dir": str(folders["data_dir"])}
    plumbing |= {"mirror": mirror, "unverified": options.unverified}
    plumbing["dataset"] = options.dataset if registered else str(user_path(options.dataset).resolve())
    layers = [registered.parameters if registered else {}, PROFILES[profile], plumbing]
    layers += [{} if options.seed is None else {"seed": options.seed}]
    parameters = resolve_parameters(stages, layers, options.parameter)
    for values in parameters.values():
        for name in FILES & values.keys():
            if values[name]:  # a kernel works in the notebooks' folder, not in the caller's
                path = user_path(values[name]).resolve()
                if not os.path.isfile(path):
                    raise ScreenError(f"{name} wants a file; {path} isn't one")
                values[name] = str(path)
    selected = stages
    if options.only:
        chosen = [find_stage(stages, number) for number in options.only]
        selected = [stage for stage in stages if stage in chosen]
    elif options.first:
        selected = stages[stages.index(find_stage(stages, options.first)) :]
    if options.scheduler:
        require_scheduler(options.scheduler)
    return Plan(stages, selected, parameters, dataset, run_dir, figures_dir, options)


def require_scheduler(address: str) -> None:
    """Check that a Dask scheduler answers at an address; else, or without Dask, raise a ScreenError."""
    try:
        from distributed import Client
    except ImportError:
        raise ScreenError("--scheduler needs Dask: pip install -e '.[dask]' here and on every worker") from None
    try:
        Client(address, timeout=5, set_as_default=False).close()
    except Exception as error:  # whatever answers at the address may be no scheduler at all
        what = f"no Dask scheduler answers at {address} ({one_line(error)})"
        raise ScreenError(f"{what}; give the address that `dask scheduler` prints") from None


def print_list(plan: Plan) -> None:
    """Print each stage's question and outlook, and its parameters as they may be typed, with type and explanation."""
    say("-p NAME=VALUE sets a parameter in every notebook that has it, -p 03.NAME=VALUE in notebook 03 alone.")
    for name, outlook in forecast(plan).items():
        stage = find_stage(plan.stages, name)
        say(f"\n{name}  ({outlook})\n  {stage.question.removeprefix(name[:2]).strip()}")
        for known in stage.parameters.values():
            if known.name not in PLUMBING:
                both = (plan.parameters[name][known.name], known.default)
                value, default = (",".join(map(str, one)) if isinstance(one, list) else str(one) for one in both)
                told = known.comment + (f" (default: {default or 'empty'})" if value != default else "")
                say(f"  {shlex.quote(f'{known.name}={value}'):<32} {known.kind:<12} {told}")


def check(options: argparse.Namespace, notebooks: Path) -> int:
    """Examine a screen; print what is wrong with it, or else what it can't answer and what should be known of it.

    A user's own tables come before the rest of the call, so that a name that is wrong doesn't hide what else is.
    The exit status is returned: 0 where nothing is wrong, 2 elsewhere.
    """
    from cpx_utils.datasets import examine_screen, is_user_screen
    from cpx_utils.own_screens import review_screen
    from cpx_utils.profiles import testability

    own = is_user_screen(options.dataset)
    screen, problems = examine_screen(options.dataset) if own else (None, [])
    first = {} if problems else next(iter(make_plan(options, notebooks).parameters.values()))
    if not own:
        first["size"] = first.get("screen_size", "default")
        names = ("size", "seed", "preset", "shared_strength", "cp_table", "mirror", "data_dir", "unverified")
        screen, problems = examine_screen(options.dataset, **{name: first[name] for name in names if name in first})
    for problem in problems:
        say(problem, wrong=True)
    if problems:
        count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
        say(f"{options.dataset}: {count}; what is testable can be told once nothing is wrong")
        return 2
    sizes = f"CP {len(screen.cp)} wells, TX {len(screen.tx)} wells, {len(screen.compounds)} compounds"
    say(f"{screen.name}: {sizes}, {len(screen.tasks)} tasks; nothing is wrong")
    least = first.get("min_active", 25)
    for row in testability(screen, least, least).itertuples():
        reason = f" ({row.reason})" if row.reason else ""
        say(f"  {row.endpoint}: {'testable' if row.testable else 'not testable'}{reason}")
    for note in (*screen.notes, *review_screen(screen)):
        say(f"  note: {note}")
    return 0


def main(arguments: Sequence[str] | None = None, notebooks: str | Path | None = None) -> int:
    """Run the study from the command line (None: that of this process), on a folder of notebooks (None: the project's).

    The exit status is returned: 0 done, 1 a notebook failed, 2 the call or the screen was wrong, 130 or 143 ended.
    """
    # Turned into an exception, a signal lets the run end its stages and release its folder.
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        options = parse_call(arguments)
        folder = Path(notebooks) if notebooks else project_root() / "notebooks"
        if options.check:
            return check(options, folder)
        plan = make_plan(options, folder)
        if options.list:
            print_list(plan)
        elif options.dry_run:
            from cpx_utils.datasets import download_lines

            first = plan.parameters[plan.stages[0].name]
            known = {name: first[name] for name in ("mirror", "data_dir", "cp_table") if name in first}
            outlook = [f"{name}: {text}" for name, text in forecast(plan).items()]
            say("\n".join([*outlook, *download_lines(plan.dataset, **known)]))
        else:
            return run_plan(plan)
        return 0
    except ScreenError as error:
        say(one_line(error), wrong=True)
        return 2
    except KeyboardInterrupt as interruption:
        say(f"interrupted; {GOES_ON}", wrong=True)
        return 128 + interruption.args[0]
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError) as error:  # a disk that is full or gone, too little memory: nobody's mistake
        say(f"{with_remedy(one_line(error) or 'no memory left')}; {GOES_ON}", wrong=True)
        return 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):  # no second one keeps this from ending what runs
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(number)
