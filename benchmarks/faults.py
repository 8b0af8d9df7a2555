"""What does a study survive? Faults are put into runs of a small one, and a plain run afterwards must make good.

    python benchmarks/faults.py                  # all of them
    python benchmarks/faults.py --only signals   # some
    python benchmarks/faults.py --quick          # one of each kind

The study is that of the tests of the runner: four notebooks that compute next to nothing, and leave every kind of file
that the real ones leave. After each fault the same command is given again. It survived if that ends with every table,
model and figure byte for byte as in an undisturbed run, nothing half-written is left, and whatever was said was said in
lines of run_all, without a traceback. A result is lost if it isn't there, or is another. Each fault is a row of
benchmarks/results/faults.csv. Exit status 1 where one isn't survived.
"""

import argparse
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from stub_notebooks import BASELINE, CLAIM, CLUSTER, write_notebook  # noqa: E402

from cpx_utils.provenance import UNFINISHED, read_record, sha256_file  # noqa: E402

TABLE = ROOT / "benchmarks" / "results" / "faults.csv"
COLUMNS = ["fault", "moment", "injected", "survived", "results_lost", "stages_repeated", "said", "wrong", "date"]
RUN = """import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from cpx_utils.pipeline import main
raise SystemExit(main(sys.argv[2:], sys.argv[1]))
"""
STAGES = ("01_prepare", "02_baselines", "03_contrastive", "05_cluster")
# Each notebook but the first waits a little, so that kills meet computing notebooks too; before its last cell it fails
# as a variable asks for, when everything is written and nothing recorded.
WAIT = "import time\ntime.sleep(0.5)\n"
FAIL = """import os
import signal
import numpy as np
wanted = dict(one.split(":") for one in os.environ.get("CPX_FAULT", "").split() if one).get(workspace.stage[:2])
if wanted == "raises":
    raise KeyError("no such gene")
if wanted == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if wanted == "exhausts":
    blocks = [np.empty(1 << 24) for _ in range(256)]
"""
MEMORY_BYTES = 6 << 30  # of address space: enough for any notebook of the study, not for 256 blocks of 128 MiB
CODE = {
    "01_prepare": [
        "import pandas as pd\n"
        "table = pd.read_csv(workspace.record_input(source))\n"
        'workspace.write(table, "cp.parquet")\n'
    ],
    "02_baselines": [WAIT + 'table = workspace.read("cp.parquet")\n', BASELINE],
    "03_contrastive": [
        WAIT + 'table = workspace.read("cp.parquet")\n',
        "import json\n"
        "import numpy as np\n"
        "from safetensors.numpy import save_file\n"
        'folder = workspace.output_folder("models/contrastive")\n'
        'save_file({"weights": np.outer(table["x"], np.arange(200.0))}, folder / "encoder.safetensors")\n'
        '(folder / "kernel.txt").write_text("as the tests of the runner have it")\n'
        '(folder / "encoder.json").write_text(json.dumps({"method": "contrastive"}))\n',
    ],
    "05_cluster": [WAIT + CLUSTER, CLAIM],
}
PARAMETERS = {
    "01_prepare": 'source: str = ""  # the screen\n',
    "02_baselines": "temperature: float = 0.1  # scale\n",
    "03_contrastive": "",
    "05_cluster": "",
}
KEPT = (".csv", ".parquet", ".safetensors", ".json", ".txt", ".png", ".svg")
ABOUT_TIME = {"timings.csv", "manifest.json", ".hashes.json"}
# What there is of every kind: path beneath the study's folder, and the stage that makes it.
ARTIFACTS = {
    "parquet table": ("results/simulated/default/cp.parquet", "01_prepare"),
    "embeddings": ("results/simulated/default/embeddings/baseline.parquet", "02_baselines"),
    "csv table": ("results/simulated/default/tables/claims.csv", "05_cluster"),
    "safetensors": ("results/simulated/default/models/contrastive/encoder.safetensors", "03_contrastive"),
    "model description": ("results/simulated/default/models/contrastive/encoder.json", "03_contrastive"),
    "stage record": ("results/simulated/default/stages/02_baselines.json", "02_baselines"),
    "executed notebook": ("results/simulated/default/notebooks/03_contrastive.ipynb", "03_contrastive"),
    "figure as PNG": ("figures/simulated/05_baseline.png", "05_cluster"),
    "figure as SVG": ("figures/simulated/05_baseline.svg", "05_cluster"),
    "table behind a figure": ("figures/simulated/05_baseline.csv", "05_cluster"),
    "manifest": ("results/simulated/default/manifest.json", ""),
    "timings": ("results/simulated/default/tables/timings.csv", ""),
    "page of the report": ("results/simulated/default/report/index.html", ""),
}


# --- the study ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a call of run_all ended: its status, the stages that ran, its lines on standard error, its seconds."""

    status: int
    ran: tuple[str, ...]
    said: tuple[str, ...]
    seconds: float

    @property
    def is_clear(self) -> bool:
        """Whether it said nothing where all went well, and elsewhere a line of its own for every stage at most."""
        lines = all(line.startswith("run_all: ") and len(line) < 500 for line in self.said)
        return lines and len(self.said) <= (len(STAGES) if self.status else 0)


class Study:
    """The small study in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.run_dir = folder / "results" / "simulated" / "default"
        self.screen = folder / "screen.csv"
        self.temporary = folder.parent / "tmp"

    @classmethod
    def write(cls, folder: Path) -> "Study":
        """Write its notebooks and its screen into a new folder."""
        study = cls(folder)
        (folder / "notebooks").mkdir(parents=True)
        for stage in STAGES:
            write_notebook(folder / "notebooks", stage, PARAMETERS[stage], [*CODE[stage], FAIL])
        study.screen.write_text("Metadata_Compound,x\na,0\nb,1\nc,2\n")
        return study

    def copy(self, folder: Path) -> "Study":
        """Copy it with all that it made."""
        shutil.copytree(self.folder, folder)
        return Study(folder)

    def command(self) -> list[str]:
        """The call of run_all, always the same."""
        options = ["--results", str(self.folder / "results"), "--figures", str(self.folder / "figures"), "--jobs", "2"]
        return [sys.executable, "-c", RUN, str(self.folder / "notebooks"), *options, "-p", f"source={self.screen}"]

    def start(self, before: tuple[str, ...] = (), **options) -> subprocess.Popen:
        """Start it; `before` stands before the command, the rest goes to Popen."""
        self.temporary.mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)}
        environment |= options.pop("environment", {})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen([*before, *self.command()], env=environment, text=True, **pipes, **options)

    def run(self, before: tuple[str, ...] = (), **options) -> Outcome:
        """Run it to its end."""
        return ended(self.start(before, **options), time.monotonic())

    def files(self) -> dict[str, bytes]:
        """Bytes of every result by path, of what tells of times and places apart."""
        folders = (self.run_dir, self.folder / "figures")
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.suffix in KEPT
            and path.name not in ABOUT_TIME
            and not {"stages", "report"} & set(path.relative_to(self.folder).parts)
        }

    def leftovers(self) -> list[str]:
        """What a run that ended must not leave: half-written and temporary files, locks, records set aside."""
        hidden = [path for path in self.folder.rglob("*") if path.name.startswith((UNFINISHED, ".lock"))]
        hidden += [*self.run_dir.glob("notebooks/.*"), *self.run_dir.glob("stages/*.before")]
        # An empty one is left by a kill between making and filling it, or emptying and removing it.
        hidden += [path for path in self.temporary.glob("cpx-*") if any(path.iterdir())]
        return sorted(str(path.relative_to(self.folder.parent)) for path in hidden)

    def finished(self) -> set[str]:
        """Stages whose record is whole and was completed by the runner."""
        records = {path.stem: read_record(path) for path in self.run_dir.glob("stages/*.json")}
        return {name for name, record in records.items() if record and "run" in record}

    def all_is_there(self) -> bool:
        """Whether report, timings and manifest of a finished run are whole."""
        report, manifest = (read_record(self.run_dir / name) for name in ("report/.made_from.json", "manifest.json"))
        expected = {f"report/{name}": digest for name, digest in (report or {"files": {"": ""}})["files"].items()}
        expected["tables/timings.csv"] = (manifest or {"timings": ""})["timings"]
        return all(
            (self.run_dir / name).is_file() and sha256_file(self.run_dir / name) == digest
            for name, digest in expected.items()
        )


def ended(process: subprocess.Popen, started: float) -> Outcome:
    """Wait for a run's end."""
    out, err = process.communicate(timeout=1800)
    lines = [line.split() for line in out.splitlines() if line.startswith("[") and line.endswith(" s")]
    ran = tuple(sorted(words[1] for words in lines))
    return Outcome(process.returncode, ran, tuple(err.splitlines()), time.monotonic() - started)


class Bench:
    """Undisturbed and disturbed studies beneath a folder.

    Parameters
    ----------
    folder
        Made if it isn't there.
    seed
        Of all moments and bytes.
    """

    def __init__(self, folder: Path, seed: int = 0):
        self.folder = folder
        self.random = random.Random(seed)
        self.rows: list[dict] = []
        self.whole = Study.write(folder / "whole" / "study")
        self.undisturbed = self.whole.run()
        if self.undisturbed.status or self.undisturbed.said or self.whole.leftovers():
            raise RuntimeError(f"the study doesn't run undisturbed: {self.undisturbed}")
        self.reference = self.whole.files()

    def new(self) -> Study:
        """Return a study that never ran."""
        return self._named(Study.write(Path(tempfile.mkdtemp(dir=self.folder)) / "study"))

    def complete(self) -> Study:
        """Return a copy of one that ran to its end."""
        return self._named(self.whole.copy(Path(tempfile.mkdtemp(dir=self.folder)) / "study"))

    def _named(self, study: Study) -> Study:
        study.screen = self.whole.screen  # a copy must read the same file, or its first stage is stale
        return study

    def interrupt(self, study: Study, numbers: tuple[signal.Signals, ...], moment: float) -> Outcome:
        """Start a study and send it signals, one soon after the other, at a moment: a share of an undisturbed study."""
        started = time.monotonic()
        process = study.start()
        time.sleep(moment * self.undisturbed.seconds)
        for number in numbers:
            process.send_signal(number)
            time.sleep(self.random.uniform(0, 0.05) if number != numbers[-1] else 0)
        return ended(process, started)

    def judge(
        self, study: Study, fault: str, moment: str, disturbed: Outcome | None = None, injected: bool = True,
        spoilt: tuple[str, ...] = (),
    ) -> dict:  # fmt: skip
        """Give the command again; note and return what came of one fault.

        Parameters
        ----------
        study
            After the fault, whose cause is gone.
        fault, moment
            Its kind; where or when it struck.
        disturbed
            The run in which it struck; None where it struck between runs.
        injected
            Whether it struck at all.
        spoilt
            Stages whose files it hit, which must run again.
        """
        said = " | ".join(disturbed.said) if disturbed else ""
        wrong = "" if disturbed is None or disturbed.is_clear else "unclear words"
        strike = {"fault": fault, "moment": moment, "said": said, "wrong": wrong, "injected": injected}
        return self.judge_all(study, [strike], spoilt)[0]

    def judge_all(self, study: Study, struck: list[dict], spoilt: tuple[str, ...] = ()) -> list[dict]:
        """As `judge`, of several faults that struck one study; of each its fault, moment, said, and what was wrong."""
        finished = study.finished() - set(spoilt)
        again = study.run()
        files = study.files()
        lost = sorted(name for name in self.reference.keys() | files if files.get(name) != self.reference.get(name))
        wrong = {
            f"status {again.status}": again.status != 0,
            f"lost: {', '.join(lost)}": lost,
            f"left behind: {', '.join(study.leftovers())}": study.leftovers(),
            "no report, timings or manifest": not study.all_is_there(),
            f"said at last: {' | '.join(again.said)}": again.said,
        }
        wrong = [what for what, is_so in wrong.items() if is_so]
        rows = []
        for strike in struck:
            all_wrong = [*filter(None, [strike["wrong"]]), *wrong]
            row = {"injected": True} | strike | {"survived": not all_wrong, "wrong": "; ".join(all_wrong)}
            row |= {"results_lost": len(lost), "stages_repeated": len(finished & set(again.ran))}
            row |= {"said": row["said"].replace(str(study.folder), "..."), "date": date.today().isoformat()}
            rows.append(row)
        self.rows += rows
        if not wrong:
            shutil.rmtree(study.folder.parent)
        return rows


# --- faults -------------------------------------------------------------------------------------------------


def signals(bench: Bench, times: int) -> Iterator[dict]:
    """Send signals to run_all at random moments: to a study again and again, up to five times, before it may end."""
    pending = [numbers for numbers, share in SIGNALS.items() for _ in range(math.ceil(times * share))]
    bench.random.shuffle(pending)
    while pending:
        study, struck, finished = bench.new(), [], set()
        while pending and len(struck) < 5 and len(finished) < len(STAGES):
            moment = bench.random.uniform(0.05, 0.6)
            disturbed = bench.interrupt(study, pending[0], moment)
            if disturbed.status == 0:  # it had ended
                break
            wrong = "" if disturbed.is_clear else "unclear words"
            wrong = "a finished stage was lost" if finished - study.finished() else wrong
            finished = study.finished()
            name = " then ".join(number.name for number in pending.pop(0))
            struck.append({"fault": name, "moment": f"after {disturbed.seconds:.1f} s, {len(finished)} stages done",
                           "said": " | ".join(disturbed.said), "wrong": wrong})  # fmt: skip
        if struck:
            yield from bench.judge_all(study, struck)


def failing_notebooks(bench: Bench, times: int) -> Iterator[dict]:
    """Make notebooks raise, their kernels die or their memory run out, before the last cell; two of them together."""
    words = {"raises": "a notebook raises", "dies": "a kernel dies", "exhausts": "a kernel's memory runs out"}
    together = [("02:dies", "03:exhausts"), ("02:raises", "03:dies"), ("02:exhausts", "03:raises")]
    alone = [(f"{number}:{kind}",) for number in ("01", "05") for kind in words]
    for faults in bench.random.sample(together + alone, len(together + alone))[:times]:
        study = bench.new()
        disturbed = study.run(environment={"CPX_FAULT": " ".join(faults)}, preexec_fn=limit_memory)
        wrong = "" if disturbed.is_clear and disturbed.status == 1 else f"unclear words, status {disturbed.status}"
        struck = [
            {"fault": words[fault[3:]], "moment": f"notebook {fault[:2]}", "said": said, "wrong": wrong}
            for fault in faults
            for said in [next((line for line in disturbed.said if line.startswith(f"run_all: {fault[:2]}_")), "")]
        ]
        yield from bench.judge_all(study, struck)


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def damages(bench: Bench, times: int) -> Iterator[dict]:
    """Truncate a file of a complete study, change one byte of it, or take it away."""
    every = [(kind, how) for how in ("truncated", "one byte changed", "gone") for kind in ARTIFACTS]
    for kind, how in bench.random.sample(every, len(every))[:times]:
        study = bench.complete()
        path, stage = ARTIFACTS[kind]
        damage(study.folder / path, how, bench.random)
        yield bench.judge(study, f"{kind}: {how}", stage or "after the run", spoilt=(stage,))


def damage(path: Path, how: str, rng: random.Random) -> None:
    """Spoil a file and put its time back, so that only its bytes tell."""
    times, content = path.stat(), bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return
    if how == "truncated":
        content = content[: rng.randrange(len(content) - 1)]
    else:
        content[rng.randrange(len(content) - 1)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def vanished_inputs(bench: Bench, times: int) -> Iterator[dict]:
    """Take the screen away, from a new study and from a complete one; put it back."""
    for moment in ("after the study", "before the study")[:times]:
        study = bench.complete() if moment == "after the study" else bench.new()
        study.screen = study.folder / "screen.csv"  # one of its own, which its first stage must then have read
        if moment == "after the study":
            study.run()
        content = study.screen.read_bytes()
        study.screen.unlink()
        disturbed = study.run()
        study.screen.write_bytes(content)
        yield bench.judge(study, "the screen vanishes", moment, disturbed, disturbed.status == 1)


def can_mount() -> bool:
    """Whether a mount of one's own can be made: as root, or where the system lets users have namespaces."""
    try:
        return (
            subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode == 0
        )
    except OSError:
        return False


def full_disks(bench: Bench, times: int) -> Iterator[dict]:
    """Let the disk be full, with so many kB left; then make room."""
    for free in bench.random.sample([0, 8, 16, 32, 48, 64, 96, 128, 192, 256], 10)[:times]:
        study = bench.new()
        if can_mount():
            disturbed = _run_on_small_disk(study, free)
        else:
            # No file may grow larger, which the study's small files need a small size to meet.
            disturbed = study.run(preexec_fn=lambda size=free: _limit_files(64 * size))
        yield bench.judge(study, "the disk is full", f"{free} kB left", disturbed, disturbed.status != 0)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# In a namespace of its own, whose mounts end with it: results and figures on a disk of 1 MiB more than is left, which
# a file fills. What the run left is copied away, since the disk goes too.
SMALL_DISK = """
mkdir -p "$1/disk" "$1/results" "$1/figures"
mount -t tmpfs -o size=$((1024 + $2))k none "$1/disk" && mkdir "$1/disk/results" "$1/disk/figures"
mount --bind "$1/disk/results" "$1/results" && mount --bind "$1/disk/figures" "$1/figures" || exit 99
head -c $((1024 * 1024)) /dev/zero > "$1/disk/filler"
folder=$1; shift 2
"$@"
status=$?
mkdir "$folder/left" && cp -a "$folder/disk/results" "$folder/disk/figures" "$folder/left/"
exit $status
"""


def _run_on_small_disk(study: Study, free: int) -> Outcome:
    disturbed = study.run(("unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", str(study.folder), str(free)))
    for name in ("results", "figures"):
        shutil.rmtree(study.folder / name)
        (study.folder / "left" / name).replace(study.folder / name)
    return disturbed


READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 99
shift
"$@"
"""


def folders_that_cannot_be_written(bench: Bench, times: int) -> Iterator[dict]:
    """Let results or figures be read-only, of a complete study and a new one, or be a file."""
    cases = [(name, make) for make in (bench.complete, bench.new) for name in ("results", "figures")]
    for name, make in cases[:times]:
        yield read_only(bench, make(), name)
    for name in ("results", "figures")[: max(times - len(cases), 0)]:
        study = bench.new()
        (study.folder / name).write_text("a file")
        disturbed = study.run()
        (study.folder / name).unlink()
        yield bench.judge(study, f"{name} are a file", "new study", disturbed, disturbed.status == 2)


def read_only(bench: Bench, study: Study, name: str) -> dict:
    """Let one of a study's folders be read-only, for root too, then as it was."""
    moment = "complete study" if study.finished() else "new study"
    folder = study.folder / name
    folder.mkdir(exist_ok=True)
    if can_mount():
        disturbed = study.run(("unshare", "-rm", "sh", "-c", READ_ONLY, "sh", str(folder)))
    else:
        aside = folder.replace(study.folder / "aside")
        folder.symlink_to("/proc")  # where nobody can make a folder, not even root
        disturbed = study.run()
        folder.unlink()
        aside.replace(folder)
    return bench.judge(study, f"{name} are read-only", moment, disturbed, disturbed.status == 2)


FAULTS: dict[str, Callable[[Bench, int], Iterator[dict]]] = {
    "signals": signals,
    "notebooks": failing_notebooks,
    "damage": damages,
    "input": vanished_inputs,
    "disk": full_disks,
    "folders": folders_that_cannot_be_written,
}
# As often as each strikes, and of signals in which proportion.
TIMES = {"signals": 30, "notebooks": 9, "damage": 39, "input": 2, "disk": 6, "folders": 6}
SIGNALS = {
    (signal.SIGKILL,): 1,
    (signal.SIGINT,): 0.2,
    (signal.SIGTERM,): 0.2,
    (signal.SIGINT, signal.SIGTERM): 0.1,
}


def main() -> int:
    """Inject the faults asked for; write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="these alone")
    parser.add_argument("--quick", action="store_true", help="one of each")
    parser.add_argument("--seed", type=int, default=0, help="of moments and bytes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cpx-faults-") as folder:
        bench = Bench(Path(folder), options.seed)
        print(f"undisturbed: {bench.undisturbed.seconds:.1f} s, {len(bench.reference)} results", flush=True)
        for name in options.only:
            for row in FAULTS[name](bench, 1 if options.quick else TIMES[name]):
                print(*(row[column] for column in COLUMNS[:-1]), sep="; ", flush=True)
            table = pd.DataFrame(bench.rows, columns=COLUMNS)
            struck = table[table["injected"]]
            if not options.quick:
                kept = [pd.read_csv(TABLE)] if TABLE.is_file() else []
                kept = [one[~one["fault"].isin(struck["fault"])] for one in kept]
                pd.concat([*kept, struck], ignore_index=True).to_csv(TABLE, index=False)
    survived, lost, repeated = (struck[column].sum() for column in ("survived", "results_lost", "stages_repeated"))
    print(f"faults injected: {len(struck)}; survived: {survived}; results lost: {lost}; "
          f"finished stages that ran again: {repeated}")  # fmt: skip
    return 0 if struck["survived"].all() else 1


if __name__ == "__main__":
    sys.exit(main())
