"""The runner: `python run_all.py` checks a call, and runs each notebook that something it depends on has changed for.

Every notebook `NN_name.ipynb` is a stage. Its parameters are the lines `name: type = default  # comment` of its cell
tagged `parameters`; those that are rarely changed may stand in a cell tagged `settings` before it, since papermill puts
a run's values behind the cell `parameters`. A stage is judged when all it needs is done: it is fresh while its code,
its parameters, the modules it imported, the pinned packages and every file it read and wrote are what its record says.
So a stage whose inputs were made again with the same bytes doesn't run.

Mistakes in a call or in a screen are told in one line before anything runs, with exit status 2.
"""

import argparse
import ast
import difflib
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
from pydantic import ConfigDict, TypeAdapter

from cpx_utils.datasets import DATASETS, dataset_name, download_lines, examine_screen, is_user_screen
from cpx_utils.profiles import ScreenError, one_line, testability, user_path
from cpx_utils.provenance import (
    UNFINISHED,
    atomic_path,
    locate,
    package_versions,
    project_root,
    read_json,
    read_record,
    record_path,
    run_manifest,
    sha256_file,
    stage_records,
    write_json,
)

# nbformat's jsonschema would compile a grammar of addresses for two seconds; no notebook is checked by it.
sys.modules.setdefault("rfc3987_syntax", None)

PACKAGE_FOLDER = Path(__file__).resolve().parent

# What each profile changes; a value here wins over the notebooks' defaults and what a data set prefers.
PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {"screen_size": "small", "split_kinds": ["random"]},
    "default": {},
    "full": {"n_repeats": 3, "all_splits": True},
}
# Which stages must be done before a stage; 02, 03 and 04 don't need each other, nor does 08 need 05 to 07. A notebook
# that someone added needs all before it.
NEEDS = {
    "01": "",
    "02": "01",
    "03": "01",
    "04": "01",
    "05": "01 02 03 04",
    "06": "01 02 03 04",
    "07": "01 02 03 04 05 06",
    "08": "01 02 03 04",
}
# Parameters the runner sets itself, and the option a user sets them by. They say where things are, not what is done.
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
# The parameter by which a user names a file, relative to where the runner was called.
NEW_PROFILES = "new_profiles"
# Types of parameters: that of a value, or of a list's items, and an example as it is typed.
TYPES: dict[str, tuple[type, str]] = {
    "int": (int, "3"),
    "float": (float, "0.1"),
    "str": (str, "random"),
    "bool": (bool, "true"),
    "list[int]": (int, "1,2,3"),
    "list[float]": (float, "0.1,1"),
    "list[str]": (str, "a,b"),
}
# One thread a stage, whatever --jobs is: sums over threads round differently, so results would depend on the
# machine's load, and side-by-side stages would fight for cores. torch follows OMP_NUM_THREADS.
THREADS_PER_STAGE = 1
THREAD_VARIABLES = [f"{library}_NUM_THREADS" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "BLIS")]
GOES_ON = "finished notebooks are kept, and the same command goes on from there"


# --- stages and their parameters ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's `parameters` cell."""

    name: str
    kind: str  # of `TYPES`
    default: Any
    comment: str
    choices: list[str]  # what its comment names by "one of: a, b, c"; empty if any value will do


@dataclass(frozen=True)
class Stage:
    """One notebook."""

    name: str  # of its file without suffix, such as "03_train_contrastive"; it begins with the number
    path: Path
    question: str  # its first heading
    parameters: dict[str, Parameter]  # in the notebook's order
    cells: list[str]  # its code, those two cells excepted


def read_stages(notebooks: str | Path) -> list[Stage]:
    """Read the stages of a folder: its notebooks `NN_*.ipynb`, in order; a ScreenError if one can't be understood."""
    stages = []
    for path in sorted(Path(notebooks).glob("[0-9][0-9]_*.ipynb")):
        code, parameters, question = [], {}, ""
        for cell in read_json(path)["cells"]:
            source = "".join(cell["source"])  # a list of lines, or one string
            if cell["cell_type"] == "markdown":
                question = question or source.partition("\n")[0].lstrip("# ")
            elif {"parameters", "settings"} & set(cell["metadata"].get("tags", [])):
                parameters |= read_parameters(source, path.stem)
            else:
                code.append(source)
        stages.append(Stage(path.stem, path, question, parameters, code))
    return stages


def read_parameters(source: str, where: str) -> dict[str, Parameter]:
    """Parse the code of a `parameters` cell, without running it; `where` is the notebook's name, for messages.

    Something else than assignments of literals, or a type not known, is a ScreenError.
    """
    found = {}
    try:
        for node in ast.parse(source).body:
            name, kind, default = node.target.id, ast.unparse(node.annotation), ast.literal_eval(node.value)
            lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
            # a formatter may break a long line, and its comment then stands inside the brackets
            comment = " ".join(re.findall("  # (.*)", "\n".join(lines)))
            choices = re.findall(r"[^, ]+", comment.partition("one of: ")[2])
            found[name] = Parameter(name, kind, default, comment, choices)
            TYPES[kind]  # is it known?
    except (SyntaxError, AttributeError, ValueError, KeyError) as error:
        what = f"{where}: each line of its parameters cell is `name: type = value  # comment`, of the types"
        raise ScreenError(f"{what} {', '.join(TYPES)} ({error})") from None
    return found


def typed_value(parameter: Parameter, text: str) -> Any:
    """Return what was typed on the command line in the parameter's type.

    "true" and "false" are typed for bool, items with commas for lists. A ScreenError says in a line what the parameter
    wants, with an example, and what it got.
    """
    single, example = TYPES[parameter.kind]
    is_list = parameter.kind.startswith("list")
    adapter = TypeAdapter(single, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        items = [item.strip() for item in text.split(",") if item] if is_list else [text]
        values = [adapter.validate_strings(item) for item in items]
    except ValueError:
        wanted = f"{'an' if parameter.kind == 'int' else 'a'} {parameter.kind} such as {example}"
        raise ScreenError(f"{parameter.name} wants {wanted}; {text[:80]!r} isn't one") from None
    for value in values:
        if parameter.choices and value not in parameter.choices:
            raise ScreenError(f"{parameter.name} wants one of {', '.join(parameter.choices)}; {value!r} isn't")
    return values if is_list else values[0]


def resolve_parameters(
    stages: Sequence[Stage], chosen: dict[str, Any], given: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return every stage's parameters by its name: its defaults, then what was chosen, then what was given.

    Parameters
    ----------
    stages
        All stages, also those that won't run.
    chosen
        Name to value, for every notebook that declares the name.
    given
        `NAME=VALUE` for every notebook that declares NAME, or `03.NAME=VALUE` for one.

    Raises
    ------
    ScreenError
        A name that no notebook declares (with the nearest that one does), or a value of the wrong type.
    """
    resolved = {}
    for stage in stages:
        resolved[stage.name] = {name: chosen.get(name, known.default) for name, known in stage.parameters.items()}
    for assignment in given:
        target, equals, text = assignment.partition("=")
        where, _, name = target.strip().rpartition(".")
        if not equals or not name:
            raise ScreenError(f"-p wants NAME=VALUE, such as temperature=0.2; {assignment!r} isn't that")
        if name in PLUMBING:
            raise ScreenError(f"{name} is set by {PLUMBING[name]}, not by -p")
        asked = [find_stage(stages, where)] if where else stages
        declaring = [stage for stage in asked if name in stage.parameters]
        if not declaring:
            who = f"{asked[0].name} has no parameter" if where else "no notebook has a parameter"
            declared = sorted({known for stage in asked for known in stage.parameters} - PLUMBING.keys())
            near = [f"did you mean {known!r}?" for known in difflib.get_close_matches(name, declared, n=1)]
            raise ScreenError(f"{who} {name!r}; {''.join(near) or 'there are ' + ', '.join(declared)}")
        for stage in declaring:
            resolved[stage.name][name] = typed_value(stage.parameters[name], text)
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


def fingerprint(stage: Stage, parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what may decide a stage's results besides the files it reads; prose and places aren't in it.

    All modules of cpx_utils and the data beside them are in it; `execute` strikes out what a stage didn't import.
    """
    versions = {"its code": hashlib.sha256(json.dumps(stage.cells).encode()).hexdigest()}
    for path in sorted(PACKAGE_FOLDER.iterdir()):
        if path.suffix in (".py", ".toml", ".csv"):
            versions[f"cpx_utils/{path.name}"] = sha256_file(path)
    versions |= {f"package {name}": version for name, version in package_versions().items()}
    versions["Python"] = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return {
        "parameters": {name: value for name, value in parameters.items() if name not in PATHS_ONLY},
        "versions": versions,
    }


def why_stale(plan: Plan, stage: Stage) -> str:
    """Say in a few words why a stage must run, "" if it needn't."""
    if plan.options.force:
        return "--force"
    record = read_record(plan.run_dir, stage.name)
    if "run" not in record:
        # Run by hand, cells may have run twice, out of order or with other values than the file holds.
        return "last run by hand" if record else "not done yet"
    before, current = record["run"]["fingerprint"], fingerprint(stage, plan.parameters[stage.name])
    for name in before["parameters"] | current["parameters"]:
        was, now = before["parameters"].get(name), current["parameters"].get(name)
        if was != now:
            return f"{name} was {was!r}, is {now!r}"
    for name, version in before["versions"].items():
        if current["versions"].get(name) != version:
            return f"{name} changed"
    executed = {f"notebooks/{stage.path.name}": record["run"]["notebook"]}
    for name, expected in (record["writes"] | record["reads"] | executed).items():
        path = locate(name, plan.run_dir, plan.figures_dir)
        if not path.is_file() or sha256_file(path) != expected:
            return f"{name} {'changed' if path.is_file() else 'is missing'}"
    return ""


def print_forecast(plan: Plan) -> None:
    """Say of each selected stage whether it is fresh, stale and why, or to be checked after others."""
    stale: set[str] = set()
    for stage in plan.selected:
        reason = why_stale(plan, stage)
        stale |= {stage.name} if reason else set()
        # what it read may still be changed by these
        unsettled = [other.name[:2] for other in upstream(stage, plan.stages) if other.name in stale]
        fresh = f"will be checked after {', '.join(unsettled)}" if unsettled else "fresh"
        say(f"{stage.name}: {f'stale: {reason}' if reason else fresh}")


# --- a run --------------------------------------------------------------------------------------------------


@contextmanager
def kernel_environment(scheduler: str) -> Iterator[None]:
    """Set this process's environment to what kernels inherit: this very Python, nothing of the user's settings.

    A temporary folder holds the kernel's description (another one called python3 may be installed, or none), its
    connection files and its IPython profile; nothing is written into the user's home.
    """
    with tempfile.TemporaryDirectory(prefix="cpx-", ignore_cleanup_errors=True) as name:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel = {"display_name": "Python 3", "language": "python", "metadata": {"supported_encryption": ["curve"]}}
        write_json(Path(name, "kernels", "python3", "kernel.json"), kernel | {"argv": argv})
        Path(name, "matplotlibrc").touch()  # matplotlib's own defaults, so that figures are everyone's
        changes = dict.fromkeys(THREAD_VARIABLES, str(THREADS_PER_STAGE)) | {
            "CPX_SCHEDULER": scheduler,  # fits go there
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what CUDA asks for to give the same sums twice
            "IPYTHONDIR": f"{name}/ipython",
            "JUPYTER_CONFIG_DIR": f"{name}/config",
            "JUPYTER_PATH": name,
            "JUPYTER_RUNTIME_DIR": f"{name}/runtime",
            "MATPLOTLIBRC": f"{name}/matplotlibrc",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE_FOLDER.parent), os.environ.get("PYTHONPATH")])),
        }
        with patch.dict(os.environ, changes):  # which puts the old ones back
            yield


def execute(plan: Plan, stage: Stage) -> float:
    """Execute a stage's notebook by papermill, in a kernel of its own, and complete its record; return the seconds.

    The kernel ends with this process, however that ends: ipykernel looks for its parent every second. A notebook that
    fails is a ScreenError, whose line says where and why.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it knows is told below
    start, values, current = time.time(), plan.parameters[stage.name], fingerprint(stage, plan.parameters[stage.name])
    # What its last run made goes first, and the record of that at last: without one, a stage counts as not done.
    for name in read_record(plan.run_dir, stage.name).get("writes", {}):
        if not os.path.isabs(name):
            locate(name, plan.run_dir, plan.figures_dir).unlink(missing_ok=True)
    for path in (record_path(plan.run_dir, stage.name), plan.run_dir / "manifest.json"):
        path.unlink(missing_ok=True)
    output, begun = plan.run_dir / "notebooks" / stage.path.name, []
    output.parent.mkdir(parents=True, exist_ok=True)
    failure = ""
    try:
        papermill.execute_notebook(
            # papermill takes braces in paths for templates
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (stage.path, output)),
            parameters={name: values[name] for name in values if values[name] != stage.parameters[name].default},
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
        failure = error.evalue if error.ename == "ScreenError" else f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        failure = "the kernel died, most often for want of memory"
    record = read_record(plan.run_dir, stage.name)
    if not (record or failure):
        failure = "it ended without Workspace.finish(), so what it made isn't recorded"
    if failure:
        told = f"failed in cell [{sum(begun)}]: {one_line(failure)}"
        raise ScreenError(f"{stage.name} {told} (as far as it got: {output})")
    seconds = round(time.time() - start, 3)
    if not plan.options.scheduler:  # whose workers may have imported others
        unused = [name for name in current["versions"] if name.endswith(".py") and name not in record["modules"]]
        current["versions"] = {name: value for name, value in current["versions"].items() if name not in unused}
    record["run"] = {"fingerprint": current, "notebook": sha256_file(output), "seconds": seconds}
    write_json(record_path(plan.run_dir, stage.name), record)
    return seconds


def settle(plan: Plan, stage: Stage, needed: Sequence[futures.Future]) -> str:
    """Run a stage if it is stale, once the stages that it needs are settled, and say so.

    Returned is "ran", "unchanged", "failed", or "blocked" where it needs one that failed.
    """
    place = f"[{plan.stages.index(stage) + 1}/{len(plan.stages)}] {stage.name}"
    if {future.result() for future in needed} & {"failed", "blocked"}:
        say(f"{stage.name} isn't run, since it needs one that failed", wrong=True)
        return "blocked"
    if not why_stale(plan, stage):
        say(f"{place} ... skipped (unchanged)")
        return "unchanged"
    try:
        say(f"{place} ... {execute(plan, stage):.1f} s")
    except Exception as error:  # whatever it is, stages that don't need this one go on
        say(f"{place} ... failed")
        told = str(error) if isinstance(error, ScreenError) else f"{stage.name} failed: {one_line(repr(error))}"
        say(told, wrong=True)
        return "failed"
    return "ran"


def run_stages(plan: Plan) -> list[str]:
    """Settle the selected stages, several side by side; return the outcome of each.

    When this is interrupted, it ends all kernels, also one that is starting this very moment.
    """
    import psutil

    settled: dict[str, futures.Future] = {}
    with kernel_environment(plan.options.scheduler), futures.ThreadPoolExecutor(plan.options.jobs) as pool:
        try:
            # The pool takes them in order, and none needs a later one: a stage that waits is waited for by none before.
            for stage in plan.selected:
                needed = [settled[other.name] for other in upstream(stage, plan.stages) if other.name in settled]
                settled[stage.name] = pool.submit(settle, plan, stage, needed)
            # A signal that another thread gets doesn't wake this one: without a timeout Ctrl-C could be lost here.
            while futures.wait(settled.values(), timeout=1).not_done:
                pass
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            with redirect_stdout(None), redirect_stderr(None):  # what is ended here didn't fail
                while not all(future.done() for future in settled.values()):
                    for process in psutil.Process().children(recursive=True):
                        with suppress(psutil.Error):  # it may have ended by itself
                            process.kill()
                    time.sleep(0.1)
    return [future.result() for future in settled.values()]


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; clear away what killed writers left in it.

    The operating system gives the lock free when the process ends, however it ends. Where another run holds it, or
    nothing can be written, a ScreenError says so.
    """
    import filelock

    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise ScreenError(
            f"{folder} is in use by another run; wait for its end, or give other folders with --results and --figures"
        ) from None
    except OSError as error:
        raise ScreenError(f"nothing can be written in {folder} ({error}); give another folder") from None
    try:
        for path in list(folder.rglob(f"{UNFINISHED}*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held
        lock.release()


def run_plan(plan: Plan) -> int:
    """Run a plan, write timings, manifest and report, and tell the claims; return the exit status."""
    started = time.time()
    with run_lock(plan.run_dir), run_lock(plan.figures_dir):
        diagrams = plan.stages[0].path.parent / "diagrams"
        if diagrams.is_dir():  # executed notebooks show them by relative paths
            shutil.copytree(diagrams, plan.run_dir / "notebooks" / "diagrams", dirs_exist_ok=True)
        states = run_stages(plan)
        if "failed" in states:
            return 1
        report = plan.run_dir / "report" / "index.html"
        if not ((plan.run_dir / "manifest.json").is_file() and report.is_file()):
            write_summary(plan)
    seconds = time.time() - started
    say(f"notebooks: {states.count('ran')} ran, {states.count('unchanged')} unchanged, {seconds:.1f} s")
    claims = plan.run_dir / "tables" / "claims.csv"
    if claims.is_file():
        for row in pd.read_csv(claims).dropna(subset="verdict").itertuples():
            numbers = "" if pd.isna(row.effect) else f", {row.effect:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
            say(f"claim {row.claim}: {row.verdict} ({row.endpoint}: {row.method}{numbers})")
    say(f"figures: {plan.figures_dir}")
    say(f"report: {report}")
    if plan.dataset == "simulated":
        say("The simulated screen shows that the study works; it says nothing about biology.")
    return 0


def write_summary(plan: Plan) -> None:
    """Write tables/timings.csv, the report and manifest.json from the records of the stages.

    In the timings, "total" is a stage's wall time. The manifest comes last: where it lies, all of this is done and no
    stage has run since.
    """
    from cpx_utils.report import write_report

    rows = []
    for stage, record in stage_records(plan.run_dir).items():
        seconds = record.get("run", record)["seconds"]
        rows.append({"stage": stage, "step": "total", "seconds": seconds, "peak_mb": record["peak_mb"]})
        rows += [{"stage": stage, **step} for step in record["steps"]]
    with atomic_path(plan.run_dir / "tables" / "timings.csv") as temporary:
        pd.DataFrame(rows, columns=["stage", "step", "seconds", "peak_mb"]).to_csv(temporary, index=False)
    seeds = {values["seed"] for values in plan.parameters.values() if "seed" in values}
    manifest = run_manifest(
        plan.run_dir, dataset=plan.dataset, profile=plan.options.profile, seed=seeds.pop() if len(seeds) == 1 else None,
        threads=THREADS_PER_STAGE, unverified=plan.options.unverified,
    )  # fmt: skip
    write_report(plan.run_dir, plan.figures_dir, manifest)
    write_json(plan.run_dir / "manifest.json", manifest)


def say(text: str, wrong: bool = False) -> None:
    """Print a line; to stderr where something is wrong."""
    print(f"run_all: {text}" if wrong else text, file=sys.stderr if wrong else sys.stdout, flush=True)


# --- the call -----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are ScreenErrors, so that every mistake is told in the same way."""

    def error(self, message: str) -> None:
        """Raise what is wrong with the call."""
        raise ScreenError(f"{message}; --help lists the options")


def parse_call(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; a mistake in it is a ScreenError."""
    parser = _Parser(
        prog="run_all.py",
        allow_abbrev=False,
        description="Run the numbered notebooks in order, each only if something it depends on changed.",
        epilog="Exit status: 0 done, 1 a notebook failed, 2 the call was wrong.",
    )
    add = parser.add_argument
    add("--dataset", default="simulated", metavar="NAME|FILE.toml",
        help="a screen of the registry, or your own (default: simulated, which needs no download)")  # fmt: skip
    add("--mirror", default="", metavar="DIR_OR_URL", help="download https://HOST/PATH from MIRROR/HOST/PATH instead")
    add("--data-dir", default="", metavar="DIR", help="where downloads are kept (default: a folder of your user)")
    add("--unverified", action="store_true", help="accept files whose hash isn't the registry's; the results say so")
    add("--check", action="store_true", help="examine the screen, list what is wrong or not testable, run nothing")
    add("--profile", choices=list(PROFILES), default="default",
        help="smoke: small, to see that everything works; full: more repeats (default: default)")  # fmt: skip
    add("--seed", type=int, help="seed of every notebook")
    add("-p", "--parameter", action="extend", nargs="+", default=[], metavar="NAME=VALUE",
        help="set a parameter in every notebook that has it; 03.NAME=VALUE in one; --list shows them")  # fmt: skip
    add("--results", metavar="DIR", default=project_root() / "results",
        help="runs go to DIR/DATASET/PROFILE (default: results/ of the project)")  # fmt: skip
    add("--figures", metavar="DIR", default=project_root() / "figures",
        help="pictures go to DIR/DATASET (default: figures/ of the project)")  # fmt: skip
    which = parser.add_mutually_exclusive_group()
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
    if options.jobs < 1 or (options.seed or 0) < 0:
        raise ScreenError("--jobs wants a whole number from 1, --seed one from 0")
    return options


def make_plan(options: argparse.Namespace, notebooks: Path) -> Plan:
    """Check everything that can be checked before anything runs; a mistake in it is a ScreenError."""
    stages = read_stages(notebooks)
    dataset = dataset_name(options.dataset)
    run_dir = user_path(options.results).resolve() / dataset / options.profile
    figures_dir = user_path(options.figures).resolve() / (dataset + "-smoke" * (options.profile == "smoke"))
    data_dir = user_path(options.data_dir).resolve()
    for name, folder in {"--results": run_dir, "--figures": figures_dir, "--data-dir": data_dir}.items():
        there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
        if not there.is_dir():
            raise ScreenError(f"{name} wants a folder; {there} is none")
    places = {"run_dir": str(run_dir), "figures_dir": str(figures_dir), "unverified": options.unverified}
    # a kernel works in the notebooks' folder, not in the caller's
    for name, given in {"dataset": options.dataset, "mirror": options.mirror, "data_dir": options.data_dir}.items():
        places[name] = given if not given or "://" in given or given in DATASETS else str(user_path(given).resolve())
    if options.mirror and "://" not in options.mirror and not os.path.isdir(places["mirror"]):
        raise ScreenError(f"--mirror wants a folder or a URL; {options.mirror} is neither")
    preferred = DATASETS[dataset].parameters if dataset in DATASETS else {}
    seed = {} if options.seed is None else {"seed": options.seed}
    parameters = resolve_parameters(stages, preferred | PROFILES[options.profile] | places | seed, options.parameter)
    for values in parameters.values():
        if values.get(NEW_PROFILES):
            values[NEW_PROFILES] = path = str(user_path(values[NEW_PROFILES]).resolve())
            if not os.path.isfile(path):
                raise ScreenError(f"{NEW_PROFILES} wants a file; {path} isn't one")
    selected = stages
    if options.only:
        chosen = [find_stage(stages, number) for number in options.only]
        selected = [stage for stage in stages if stage in chosen]
    elif options.first:
        selected = stages[stages.index(find_stage(stages, options.first)) :]
    if options.scheduler:
        from cpx_utils.crossfit import connect

        connect(options.scheduler).close()  # does it answer?
    return Plan(stages, selected, parameters, dataset, run_dir, figures_dir, options)


def print_list(plan: Plan) -> None:
    """Print each stage's question, its parameters as they may be typed, with type and explanation, and the forecast."""
    say("-p NAME=VALUE sets a parameter in every notebook that has it, -p 03.NAME=VALUE in notebook 03 alone.")
    for stage in plan.stages:
        say(f"\n{stage.name}\n  {stage.question.removeprefix(stage.name[:2]).strip()}")
        for name, known in stage.parameters.items():
            if name not in PLUMBING:
                value = plan.parameters[stage.name][name]
                typed = ",".join(map(str, value)) if isinstance(value, list) else value
                say(f"  {shlex.quote(f'{name}={typed}'):<32} {known.kind:<12} {known.comment}")
    say("")
    print_forecast(plan)


def check(options: argparse.Namespace, notebooks: Path) -> int:
    """Examine a screen; print what is wrong with it, or else what it can't answer and what should be known of it.

    The exit status is returned: 0 where nothing is wrong, 2 elsewhere.
    """
    own = is_user_screen(options.dataset)
    # A user's tables come before the rest of the call, so that a name that is wrong doesn't hide what else is.
    screen, problems = examine_screen(options.dataset) if own else (None, [])
    first = {} if problems else next(iter(make_plan(options, notebooks).parameters.values()))
    if not own:
        words = ("seed", "preset", "shared_strength", "mirror", "data_dir", "unverified")
        reading = {name: first[name] for name in words if name in first}
        screen, problems = examine_screen(options.dataset, size=first.get("screen_size", "default"), **reading)
    for problem in problems:
        say(problem, wrong=True)
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        say(f"{options.dataset}: {count}; what is testable can be told once nothing is wrong")
        return 2
    sizes = f"CP {len(screen.cp)} wells, TX {len(screen.tx)} wells, {len(screen.compounds)} compounds"
    say(f"{screen.name}: {sizes}, {len(screen.tasks)} tasks; nothing is wrong")
    least = first.get("min_active", 25)
    for row in testability(screen, least, least).itertuples():
        reason = f" ({row.reason})" if row.reason else ""
        say(f"  {row.endpoint}: {'testable' if row.testable else 'not testable'}{reason}")
    for note in screen.notes:
        say(f"  note: {note}")
    return 0


def main(arguments: Sequence[str] | None = None, notebooks: str | Path | None = None) -> int:
    """Run the study from the command line (None: that of this process), on a folder of notebooks (None: the project's).

    The exit status is returned: 0 done, 1 a notebook failed, 2 the call or the screen was wrong, 130 interrupted.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # as an exception, it lets the run end its kernels
        signal.signal(number, signal.default_int_handler)
    try:
        options = parse_call(arguments)
        folder = Path(notebooks) if notebooks else project_root() / "notebooks"
        if options.check:
            return check(options, folder)
        plan = make_plan(options, folder)
        if options.list:
            print_list(plan)
        elif options.dry_run:
            print_forecast(plan)
            for line in download_lines(plan.dataset, options.mirror, options.data_dir):
                say(line)
        else:
            return run_plan(plan)
        return 0
    except ScreenError as error:
        say(one_line(error), wrong=True)
        return 2
    except KeyboardInterrupt:
        say(f"interrupted; {GOES_ON}", wrong=True)
        return 130
    except OSError as error:  # a disk that is full or gone: nobody's mistake
        say(f"{one_line(error)}; {GOES_ON}", wrong=True)
        return 1
