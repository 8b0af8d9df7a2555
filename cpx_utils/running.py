"""A run: its plan, which stages it starts when, several side by side, and what it says meanwhile."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cpx_utils.kernels import StageProcess, jupyter_environment
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import (
    FileHashes,
    atomic_path,
    git_state,
    locate,
    read_json,
    stage_record_path,
    stage_records,
    write_json,
)
from cpx_utils.stages import PACKAGE_FOLDER, PLUMBING, Stage, fingerprint, upstream, why_stale


@dataclass(frozen=True)
class Plan:
    """A run as it was asked for, everything checked.

    Attributes
    ----------
    stages, selected
        All stages; those to run if they are stale.
    parameters
        Complete parameters by stage name.
    dataset, profile
        Name of the data set; of the profile.
    run_dir, figures_dir
        Absolute folders.
    jobs
        How many stages may run side by side.
    force
        Whether stages run that needn't.
    unverified
        Whether files are accepted whose hash isn't the registry's.
    """

    stages: list[Stage]
    selected: list[Stage]
    parameters: dict[str, dict[str, Any]]
    dataset: str
    profile: str
    run_dir: Path
    figures_dir: Path
    jobs: int
    force: bool
    unverified: bool

    def why_run(self, stage: Stage, current: dict, hashes: FileHashes, check_reads: bool = True) -> str:
        """Say in a few words why a stage with this fingerprint must run; "" if it needn't."""
        if self.force:
            return "--force"
        return why_stale(stage, current, self.run_dir, self.figures_dir, hashes, check_reads)

    def hashes(self) -> FileHashes:
        """Return the hashes of files that this run's folder remembers."""
        return FileHashes(self.run_dir / ".hashes.json")


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
                f"{short_path(plan.run_dir)} yet; run --from {missing[0].number}, or all"
            )


def forecast(plan: Plan) -> dict[str, str]:
    """Say of each selected stage what a run would do.

    Returns
    -------
    dict
        Stage name to "fresh", "stale: reason" or "will be checked after NN" (it is fresh unless one of those
        before it, which will run, changes what it reads).
    """
    hashes = plan.hashes()
    outlook: dict[str, str] = {}
    for stage in plan.selected:
        before = upstream(stage, plan.stages)
        unsettled = [other.number for other in before if outlook.get(other.name, "").startswith("stale")]
        current = fingerprint(stage, plan.parameters[stage.name])
        reason = plan.why_run(stage, current, hashes, check_reads=not unsettled)
        if reason:
            outlook[stage.name] = f"stale: {reason}"
        else:
            outlook[stage.name] = f"will be checked after {', '.join(unsettled)}" if unsettled else "fresh"
    return outlook


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
        self.state = dict.fromkeys((stage.name for stage in plan.selected), "waiting")
        self._hashes = plan.hashes()
        self._processes: dict[str, StageProcess] = {}
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
                while {"waiting", "running"} & set(self.state.values()):
                    for stage in self.plan.selected:
                        if self.state[stage.name] == "waiting":
                            self._settle_or_start(stage, environment)
                        elif self.state[stage.name] == "running" and self._processes[stage.name].ended():
                            self._collect(stage)
                    self.console.show(self._processes.values())
                    time.sleep(0.05 if self._processes else 0)
            finally:
                for process in self._processes.values():
                    process.stop()
                self.console.clear()
                self._hashes.save()
        return not {"failed", "blocked"} & set(self.state.values())

    def _settle_or_start(self, stage: Stage, environment: dict[str, str]) -> None:
        """Decide what becomes of a waiting stage once all it needs is settled; start it if a place is free."""
        before = {self.state.get(other.name, "unchanged") for other in upstream(stage, self.plan.stages)}
        if before & {"failed", "blocked"}:
            self.state[stage.name] = "blocked"
        elif before & {"waiting", "running"}:
            return
        elif stage.name not in self._fingerprints and not self._stale(stage):
            self._end(stage, "unchanged", "skipped (unchanged)")
        elif len(self._processes) < self.plan.jobs:
            self._start(stage, environment)

    def _stale(self, stage: Stage) -> bool:
        """Take the stage's fingerprint and say whether it must run."""
        current = fingerprint(stage, self.plan.parameters[stage.name])
        self._fingerprints[stage.name] = current
        return self.plan.why_run(stage, current, self._hashes) != ""

    def _start(self, stage: Stage, environment: dict[str, str]) -> None:
        """Start a stage's process. Its record goes first: without one, a stage counts as not done."""
        record = stage_record_path(self.plan.run_dir, stage.name)
        if record.is_file():
            record.replace(record.with_suffix(".before"))
        changed = {
            name: value
            for name, value in self.plan.parameters[stage.name].items()
            if name in PLUMBING or value != stage.parameters[name].default
        }
        self._processes[stage.name] = StageProcess(stage.path, self._executed(stage), changed, environment)
        self.state[stage.name] = "running"

    def _collect(self, stage: Stage) -> None:
        """Take in a stage whose process has ended."""
        result = self._processes.pop(stage.name).result()
        path = stage_record_path(self.plan.run_dir, stage.name)
        error = result["error"]
        if error is None and not path.is_file():
            text = "it ran to its end without Workspace.finish(), so what it made isn't recorded; "
            error = {"cell": None, "name": "", "text": text + "call that in its last cell"}
        if error is None:
            self._complete_record(stage, path, result)
            self._end(stage, "ran", f"{result['seconds']:.1f} s")
        else:
            path.unlink(missing_ok=True)
            self._end(stage, "failed", "failed")
            self.console.complain(_failure_line(stage, self._executed(stage), error))

    def _complete_record(self, stage: Stage, path: Path, result: dict) -> None:
        """Add the runner's part to a stage's record; remove what its last run made and this one didn't."""
        record = read_json(path)
        record["run"] = {
            "fingerprint": self._fingerprints[stage.name],
            "seconds": result["seconds"],
            "kernel_start": result["kernel_start"],
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

    def _executed(self, stage: Stage) -> Path:
        return self.plan.run_dir / "notebooks" / f"{stage.name}.ipynb"

    def _end(self, stage: Stage, state: str, text: str) -> None:
        """Note how a stage ended, and say it."""
        self.state[stage.name] = state
        place = self.plan.stages.index(stage) + 1
        self.console.say(f"[{place}/{len(self.plan.stages)}] {stage.name} ... {text}")


def _failure_line(stage: Stage, executed: Path, error: dict) -> str:
    """Tell a failure in one line; of a ScreenError only its own text, which says it all."""
    text = " ".join(error["text"].split())
    if error["name"] not in ("", "ScreenError"):
        text = f"{error['name']}: {text}" if text else error["name"]
    if error["cell"] is None:
        return f"{stage.name} failed: {text}"
    return f"{stage.name} failed in cell [{error['cell']}]: {text} (as far as it got: {short_path(executed)})"


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
            f"{short_path(run_dir)} is in use by process {known['pid']} since {known['since']}; "
            "wait for it to end, or give another folder with --results"
        ) from None
    try:
        write_json(holder, {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def write_timings(run_dir: Path) -> None:
    """Write tables/timings.csv from the stage records: stage, step, seconds, peak_mb.

    The step "total" is a stage's wall time with its kernel's start and end, "kernel start" the part before
    the first cell. `peak_mb` of a step is the process's highest memory up to its end.
    """
    rows = []
    for stage, record in stage_records(run_dir).items():
        run = record.get("run", {})
        rows.append((stage, "total", run.get("seconds", record["seconds"]), record["peak_mb"]))
        rows.append((stage, "kernel start", run.get("kernel_start"), None))
        rows += [(stage, step["step"], step["seconds"], step["peak_mb"]) for step in record["steps"]]
    timings = pd.DataFrame(rows, columns=["stage", "step", "seconds", "peak_mb"])
    with atomic_path(run_dir / "tables" / "timings.csv") as temporary:
        timings.dropna(subset="seconds").to_csv(temporary, index=False)


class Console:
    """What the runner says: a line a stage on stdout; below it, on a terminal, what is running now."""

    def __init__(self):
        self._live = ""
        self._terminal = sys.stderr.isatty()

    def say(self, text: str = "") -> None:
        """Say a line on stdout."""
        self.clear()
        print(text, flush=True)

    def complain(self, text: str) -> None:
        """Say a line on stderr."""
        self.clear()
        print(f"run_all: {text}", file=sys.stderr, flush=True)

    def show(self, processes: Sequence[StageProcess]) -> None:
        """Show what is running, on a terminal only."""
        now = time.time()
        parts = [f"{process.name} {now - process.started:.0f} s {process.progress}" for process in processes]
        line = "  |  ".join(parts)[: shutil.get_terminal_size().columns - 1]
        if self._terminal and line != self._live:
            self.clear()
            self._live = line
            print(line, end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Wipe what `show` left."""
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._live = ""


def short_path(path: Path) -> str:
    """Return a path relative to the working directory where that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)
