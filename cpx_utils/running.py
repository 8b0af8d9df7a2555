"""A run: its plan, which stages it starts when, several side by side, and what it says meanwhile."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cpx_utils.kernels import THREADS_PER_STAGE, Places, StageProcess
from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import (
    FileHashes,
    atomic_path,
    git_state,
    locate,
    read_json,
    read_record,
    run_manifest,
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
    force
        Whether stages run that needn't.
    unverified
        Whether files are accepted whose hash isn't the registry's.
    name
        Of a sweep's point, the swept values in words; empty for a run of its own.
    """

    stages: list[Stage]
    selected: list[Stage]
    parameters: dict[str, dict[str, Any]]
    dataset: str
    profile: str
    run_dir: Path
    figures_dir: Path
    force: bool
    unverified: bool
    name: str = ""

    @property
    def label(self) -> str:
        """What stands before a line about this run."""
        return f"{self.name}: " if self.name else ""

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

    Runs of a sweep know each other. What one of them makes another needn't: a stage with the same fingerprint that
    reads the same bytes is waited for, and its files are copied.

    Parameters
    ----------
    plan
        What to run.
    console
        Where things are said.
    places
        Where stages run.
    others
        All runs of the sweep, this one among them.
    hashes
        Hashes of files; None: those that the run's folder remembers.

    Attributes
    ----------
    state : dict
        Stage name to "waiting", "running", "ran", "taken" (from another run), "unchanged", "failed" or "blocked"
        (needs one that failed).
    """

    def __init__(
        self,
        plan: Plan,
        console: "Console",
        places: Places,
        others: Sequence["Run"] = (),
        hashes: FileHashes | None = None,
    ):
        self.plan = plan
        self.console = console
        self.places = places
        self.others = others
        self.state = dict.fromkeys((stage.name for stage in plan.selected), "waiting")
        self._hashes = hashes or plan.hashes()
        self._processes: dict[str, StageProcess] = {}
        self._fingerprints: dict[str, dict] = {}
        self._judged: set[str] = set()
        self._lineages: dict[str, str] = {}
        self._tried: set[tuple[str, str, str]] = set()
        self._git: dict = {}
        self._open = ExitStack()

    @property
    def ended(self) -> bool:
        """Whether every stage is settled."""
        return not {"waiting", "running"} & set(self.state.values())

    @property
    def failed(self) -> bool:
        """Whether a stage failed."""
        return bool({"failed", "blocked"} & set(self.state.values()))

    def open(self) -> None:
        """Take the run's folder; raises ScreenError where another process has it."""
        self._open.enter_context(run_lock(self.plan.run_dir))
        self._git = git_state(PACKAGE_FOLDER)

    def advance(self) -> None:
        """Collect stages that have ended; settle or start those that can be."""
        for stage in self.plan.selected:
            if self.state[stage.name] == "running" and self._processes[stage.name].ended():
                self._collect(stage)
            elif self.state[stage.name] == "waiting":
                self._settle_or_start(stage)

    def close(self) -> None:
        """Stop what still runs, keep what is known of files, and leave the run's folder."""
        with self._open:
            while self._processes:
                self.places.stop(self._processes.popitem()[1])
            self._hashes.save()

    def _settle_or_start(self, stage: Stage) -> None:
        """Decide what becomes of a waiting stage once all it needs is settled; start it if a place is free."""
        before = {self.state.get(other.name, "unchanged") for other in upstream(stage, self.plan.stages)}
        if before & {"failed", "blocked"}:
            self._end(stage, "blocked", "not run")
        elif before & {"waiting", "running"}:
            return
        elif stage.name not in self._judged and not self._stale(stage):
            self._end(stage, "unchanged", "skipped (unchanged)")
        elif any(other.state.get(stage.name) == "running" for other in self._alike(stage)):
            return
        elif self._take(stage):
            self._end(stage, "taken", "taken over")
        elif not self.places.is_full:
            self._start(stage)

    def fingerprint(self, stage: Stage) -> dict[str, Any]:
        """Return the stage's fingerprint, taken when it is first asked for."""
        if stage.name not in self._fingerprints:
            first = self.others[0] if self.others else self
            like = None if first is self else first.fingerprint(stage)
            self._fingerprints[stage.name] = fingerprint(stage, self.plan.parameters[stage.name], like)
        return self._fingerprints[stage.name]

    def lineage(self, stage: Stage) -> str:
        """Return what stands for the fingerprints of a stage and of all it needs: runs that share it make the same."""
        if stage.name not in self._lineages:
            parts = [self.fingerprint(one) for one in (stage, *upstream(stage, self.plan.stages))]
            text = json.dumps(parts, sort_keys=True)
            self._lineages[stage.name] = hashlib.sha256(text.encode()).hexdigest()
        return self._lineages[stage.name]

    def _stale(self, stage: Stage) -> bool:
        """Say whether the stage must run."""
        self._judged.add(stage.name)
        return self.plan.why_run(stage, self.fingerprint(stage), self._hashes) != ""

    def _start(self, stage: Stage) -> None:
        """Start a stage's process. Its record goes first: without one, a stage counts as not done."""
        self._set_record_aside(stage)
        changed = {
            name: value
            for name, value in self.plan.parameters[stage.name].items()
            if name in PLUMBING or value != stage.parameters[name].default
        }
        self._processes[stage.name] = self.places.start(stage.path, self._executed(stage), changed)
        self.state[stage.name] = "running"

    def _set_record_aside(self, stage: Stage) -> None:
        record = stage_record_path(self.plan.run_dir, stage.name)
        if record.is_file():
            record.replace(record.with_suffix(".before"))

    def _collect(self, stage: Stage) -> None:
        """Take in a stage whose process has ended."""
        result = self.places.collect(self._processes.pop(stage.name))
        path = stage_record_path(self.plan.run_dir, stage.name)
        error = result["error"]
        if error is None and not path.is_file():
            text = "it ran to its end without Workspace.finish(), so what it made isn't recorded; "
            error = {"cell": None, "name": "", "text": text + "call that in its last cell"}
        if error is None:
            self._complete_record(stage, result)
            self._end(stage, "ran", f"{result['seconds']:.1f} s")
        else:
            path.unlink(missing_ok=True)
            self._end(stage, "failed", "failed")
            self.console.complain(self.plan.label + _failure_line(stage, self._executed(stage), error))

    def _complete_record(self, stage: Stage, result: dict) -> None:
        """Add the runner's part to a stage's record; remove what its last run made and this one didn't."""
        path = stage_record_path(self.plan.run_dir, stage.name)
        record = read_record(path)
        record["run"] = {
            "fingerprint": self.fingerprint(stage),
            "seconds": result["seconds"],
            "kernel_start": result["kernel_start"],
            "git": self._git,
        }
        write_json(path, record)
        self._remove_leftovers(path.with_suffix(".before"))

    def _remove_leftovers(self, before: Path) -> None:
        """Remove what a record that was set aside names, and no record does any more."""
        if before.is_file():
            taken = {name for other in stage_records(self.plan.run_dir).values() for name in other["writes"]}
            for name in read_record(before)["writes"].keys() - taken:
                if not os.path.isabs(name):
                    locate(name, self.plan.run_dir, self.plan.figures_dir).unlink(missing_ok=True)
            before.unlink()

    def _alike(self, stage: Stage) -> list["Run"]:
        """Other runs in which the stage is the same, and all that it needs."""
        return [one for one in self.others if one is not self and one.lineage(stage) == self.lineage(stage)]

    def _take(self, stage: Stage) -> bool:
        """Copy what another run made of the stage, where one did; say whether."""
        for other in self._alike(stage):
            state = other.state.get(stage.name, "")
            if (self.plan.force and state not in ("ran", "taken")) or (
                stage.name,
                other.plan.name,
                state,
            ) in self._tried:
                continue
            self._tried.add((stage.name, other.plan.name, state))
            if same_outcome(stage, self.fingerprint(stage), other.plan, self.plan, self._hashes):
                self._set_record_aside(stage)
                copy_stage(stage, other.plan, self.plan)
                self._remove_leftovers(stage_record_path(self.plan.run_dir, stage.name).with_suffix(".before"))
                return True
        return False

    def _executed(self, stage: Stage) -> Path:
        return self.plan.run_dir / "notebooks" / f"{stage.name}.ipynb"

    def _end(self, stage: Stage, state: str, text: str) -> None:
        """Note how a stage ended, and say it; of a sweep's runs, `run_sweep` says a line each."""
        self.state[stage.name] = state
        if not self.plan.label and state != "blocked":
            place = self.plan.stages.index(stage) + 1
            self.console.say(f"[{place}/{len(self.plan.stages)}] {stage.name} ... {text}")


def same_outcome(stage: Stage, current: dict[str, Any], source: Plan, target: Plan, hashes: FileHashes) -> bool:
    """Say whether what a run made of a stage is what another run would make.

    It is if it was made with the other's fingerprint, all its files are whole, and the files that it read have the
    same bytes in both runs.

    Parameters
    ----------
    stage, current
        The stage, and its fingerprint in the target.
    source, target
        Where it may have been done, and where it is needed.
    hashes
        Hashes of files.
    """
    path = stage_record_path(source.run_dir, stage.name)
    if not path.is_file() or why_stale(stage, current, source.run_dir, source.figures_dir, hashes):
        return False
    reads = read_record(path)["reads"].items()
    return all(hashes.sha256(locate(name, target.run_dir, target.figures_dir)) == digest for name, digest in reads)


def copy_stage(stage: Stage, source: Plan, target: Plan) -> None:
    """Copy what a stage made from one run to another: its files, its executed notebook, and at last its record."""
    record = read_record(stage_record_path(source.run_dir, stage.name))
    for name in [*record["writes"], f"notebooks/{stage.name}.ipynb"]:
        with atomic_path(locate(name, target.run_dir, target.figures_dir)) as temporary:
            shutil.copyfile(locate(name, source.run_dir, source.figures_dir), temporary)
    record["run"]["taken_from"] = os.path.relpath(source.run_dir, target.run_dir)
    write_json(stage_record_path(target.run_dir, stage.name), record)


def execute(runs: Sequence[Run], console: "Console", when_ended: Callable[[Run], None]) -> None:
    """Run all stages of all runs, side by side as far as there are places.

    Parameters
    ----------
    runs
        In the order in which they take places.
    console
        Where what is running is shown.
    when_ended
        Called with every run when its last stage is settled.
    """
    waiting, active = deque(runs), []
    try:
        while waiting or active:
            # A run that waits for stages of another one holds no place, so more are begun than there are places.
            while waiting and len(active) < 4 * runs[0].places.n_places:
                active.append(waiting.popleft())
                active[-1].open()
            for run in list(active):
                run.advance()
                if run.ended:
                    when_ended(run)
                    active.remove(run)
                    run.close()
            processes = runs[0].places.running
            console.show(processes)
            time.sleep(0.05 if processes else 0)
    finally:
        for run in active:
            run.close()
        console.clear()


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


def finish_run(run: Run) -> None:
    """Write timings and manifest of a run whose stages are settled, where anything changed."""
    plan = run.plan
    if {"ran", "taken"} & set(run.state.values()) or not (plan.run_dir / "manifest.json").is_file():
        write_timings(plan.run_dir)
        seeds = {values["seed"] for values in plan.parameters.values() if "seed" in values}
        manifest = run_manifest(
            plan.run_dir,
            dataset=plan.dataset,
            profile=plan.profile,
            seed=seeds.pop() if len(seeds) == 1 else None,
            threads=THREADS_PER_STAGE,
            unverified=plan.unverified,
        )
        write_json(plan.run_dir / "manifest.json", manifest)


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
