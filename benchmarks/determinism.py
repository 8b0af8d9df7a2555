"""Does the study repeat itself, byte for byte, and what would another machine change?

    python benchmarks/determinism.py                      # the study in small, nine runs
    python benchmarks/determinism.py --size default       # at its usual size
    python benchmarks/determinism.py --device cuda        # a further run that trains there

Everything is compared with a first run on the processor, one notebook at a time. Four settings must give the same
bytes: the same again, two notebooks at a time, a run that is killed twice and goes on, and a Dask cluster. The others
stand for other machines: older processors by what the libraries are told to use of this one, more threads. They may
differ, and the table benchmarks/results/determinism.csv tells by how much, and whether a verdict changes. Exit status 1
where one of the four differs.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "determinism.csv"
COLUMNS = ["setting", "size", "what", "item", "value", "date"]
# What the study is run on; in the smallest everything takes part and little is computed.
SIZES = {
    "tiny": [
        *("--profile", "smoke", "-p", "screen_size=tiny", "max_epochs=15", "n_members=1", "n_derangements=1"),
        *("n_derangements_linear=2", "n_bootstrap=100", "n_candidates=1", "n_null=200", "data_shares=0.5"),
        *("map_methods=raw_cp,contrastive", "min_active=8", "min_shown=6", "tx_min=0.4", "margin=-1"),
    ],
    "smoke": ["--profile", "smoke"],
    "default": ["--profile", "default"],
}
KINDS = {".csv": "table", ".parquet": "table", ".safetensors": "model", ".png": "figure", ".svg": "figure"}
# With another number of threads than the runner's own, which no option sets.
WITH_THREADS = (
    "import sys; from cpx_utils import kernels, running; kernels.THREADS_PER_STAGE = running.THREADS_PER_STAGE = {}; "
    "from cpx_utils.pipeline import main; raise SystemExit(main(sys.argv[1:]))"
)


@dataclass(frozen=True)
class Setting:
    """One way to run the study.

    Attributes
    ----------
    same : bool
        Whether it must give the bytes of the first run.
    jobs, threads
        Notebooks side by side; threads of each.
    environment : dict
        Variables that tell libraries which processor to believe in.
    kills : int
        How often it is killed on its way.
    cluster : bool
        Whether it runs on a Dask cluster of two workers.
    device : str
        Where networks train.
    """

    same: bool = False
    jobs: int = 2
    threads: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    kills: int = 0
    cluster: bool = False
    device: str = "cpu"


FIRST = Setting(same=True, jobs=1)
SETTINGS = {
    "again": Setting(same=True, jobs=1),
    "two notebooks at a time": Setting(same=True),
    "killed twice and gone on": Setting(same=True, kills=2),
    "Dask, two workers": Setting(same=True, cluster=True),
    "OpenBLAS as on Haswell": Setting(environment={"OPENBLAS_CORETYPE": "Haswell"}),
    "OpenBLAS as on Nehalem": Setting(environment={"OPENBLAS_CORETYPE": "Nehalem"}),
    "every library at AVX2": Setting(
        environment={
            "OPENBLAS_CORETYPE": "Haswell",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "ATEN_CPU_CAPABILITY": "avx2",
            "DNNL_MAX_CPU_ISA": "AVX2",
            "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        }
    ),
    "two threads a notebook": Setting(jobs=1, threads=2),
}


# --- running ------------------------------------------------------------------------------------------------


def run(setting: Setting, folder: Path, call: list[str]) -> float:
    """Run the study once into an empty folder; return seconds.

    Raises
    ------
    RuntimeError
        It failed; the text is what it said.
    """
    command = [sys.executable, str(ROOT / "run_all.py")]
    if setting.threads != 1:
        command = [sys.executable, "-c", WITH_THREADS.format(setting.threads)]
    command += [*call, "--results", str(folder / "results"), "--figures", str(folder / "figures")]
    command += ["-p", f"device={setting.device}"]
    environment = os.environ | setting.environment
    start = time.monotonic()
    with _places(setting) as more:
        for number in range(setting.kills):
            _run_and_kill([*command, *more], environment, folder, 1 + 2 * number)
        done = subprocess.run([*command, *more], env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return time.monotonic() - start


@contextmanager
def _places(setting: Setting) -> Iterator[list[str]]:
    """Give the options that say where stages run."""
    if not setting.cluster:
        yield ["--jobs", str(setting.jobs)]
        return
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield ["--scheduler", cluster.scheduler_address]


def _run_and_kill(command: list[str], environment: dict[str, str], folder: Path, n_stages: int) -> None:
    """Kill a run without warning when so many stages are done and the next ones have computed for some seconds."""
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(folder.glob("results/*/*/stages/*.json"))) < n_stages:
        time.sleep(0.1)
    time.sleep(4)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("the run ended before it could be killed")


# --- comparing ----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every table, model and picture beneath a folder; not of the report's copies and of times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in KINDS and path.name != "timings.csv" and "report" not in path.relative_to(folder).parts
    }


def compare(first: Path, other: Path) -> list[tuple[str, str, object]]:
    """Compare two runs, file by file.

    Returns
    -------
    list of tuple
        what, item, value: how many files of each kind there are and how many are the same; of every table that differs
        its largest absolute difference (the item names the column; "rows" where they aren't the same rows); cells of
        text that differ, all tables together; verdicts that changed.
    """
    one, two = contents(first), contents(other)
    rows: list[tuple[str, str, object]] = []
    for kind in dict.fromkeys(KINDS.values()):
        names = [name for name in one.keys() | two.keys() if KINDS[Path(name).suffix] == kind]
        rows.append(("files", kind, len(names)))
        rows.append(("identical files", kind, sum(one.get(name) == two.get(name) for name in names)))
    words = 0
    for name in sorted(one.keys() | two.keys()):
        of_run = Path(name).parts[0] == "results"  # the tables behind figures repeat these
        if one.get(name) != two.get(name) and of_run and KINDS[Path(name).suffix] == "table":
            short = "/".join(Path(name).parts[3:])
            if name not in one or name not in two:
                rows.append(("largest difference", f"{short}: missing", float("inf")))
                continue
            column, difference, n_words = difference_of(_read(first / name), _read(other / name))
            words += n_words
            rows.append(("largest difference", f"{short}: {column}", difference))
    rows.append(("different words", "all tables", words))
    rows.append(("verdicts changed", "claims", _verdicts_changed(first, other)))
    return rows


def difference_of(one: pd.DataFrame, other: pd.DataFrame) -> tuple[str, float, int]:
    """Return the column of numbers that differs most between two tables, its largest difference, and how many cells of
    text differ; "rows" and infinity where the tables haven't the same rows and columns."""
    if list(one.columns) != list(other.columns) or len(one) != len(other):
        return "rows", float("inf"), 0
    worst, words = ("none", 0.0), 0
    for column in one.columns:
        if pd.api.types.is_numeric_dtype(one[column]) and pd.api.types.is_numeric_dtype(other[column]):
            pair = [table[column].to_numpy(dtype=float, na_value=np.nan) for table in (one, other)]
            apart = np.where(np.isnan(pair[0]) & np.isnan(pair[1]), 0.0, np.abs(pair[0] - pair[1]))
            largest = float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
            worst = max(worst, (column, largest), key=lambda entry: entry[1])
        else:
            words += int((_words(one[column]) != _words(other[column])).sum())
    return (*worst, words)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


def _verdicts_changed(first: Path, other: Path) -> int:
    """How many rows of the claims table have another verdict."""
    tables = [_read(next(folder.glob("results/*/*/tables/claims.csv"))) for folder in (first, other)]
    keys = ["claim", "method", "reference", "endpoint"]
    one, two = (table.set_index(keys)["verdict"] for table in tables)
    if not one.index.equals(two.index):
        return max(len(one), len(two))
    return int((_words(one) != _words(two)).sum())


def _words(column: pd.Series) -> pd.Series:
    """Cells as text; missing ones are equal to each other."""
    return column.astype(object).where(column.notna(), "").map(str)


def main() -> int:
    """Run every setting, compare, write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("determinism"), help="where runs go: some gigabytes")
    parser.add_argument("--size", default="smoke", choices=list(SIZES), help="of the study (default: smoke)")
    parser.add_argument("--device", default="", help="train there too, such as cuda")
    parser.add_argument("--only", nargs="+", metavar="SETTING", help="these settings alone")
    options, more = parser.parse_known_args()
    os.environ["PYTHONPATH"] = str(ROOT)  # workers of a cluster too run what lies here, whatever is installed
    settings = SETTINGS | ({f"device {options.device}": Setting(device=options.device)} if options.device else {})
    settings = {name: setting for name, setting in settings.items() if name in (options.only or settings)}
    folder, call = options.folder.resolve(), [*SIZES[options.size], *more]
    first = folder / "first"
    if not list(first.glob("results/*/*/manifest.json")):
        print(f"first: {run(FIRST, first, call):.0f} s", flush=True)
    failed = []
    for name, setting in settings.items():
        place = folder / name.replace(" ", "-")
        seconds = run(setting, place, call)
        rows = compare(first, place)
        counts = {what: sum(value for one, _, value in rows if one == what) for what in ("files", "identical files")}
        if setting.same and counts["files"] != counts["identical files"]:
            failed.append(name)
        table = pd.DataFrame(rows, columns=["what", "item", "value"])
        table = table.assign(setting=name, size=options.size, date=date.today().isoformat())
        if TABLE.is_file():
            kept = pd.read_csv(TABLE)
            kept = kept[(kept["setting"] != name) | (kept["size"] != options.size)]
            table = pd.concat([kept, table], ignore_index=True)
        table[COLUMNS].to_csv(TABLE, index=False, float_format="%.3g")
        print(f"{name}: {seconds:.0f} s, {counts['identical files']} of {counts['files']} files the same", flush=True)
        for what, item, value in rows:
            if what not in ("files", "identical files"):
                print(f"    {what}, {item}: {value:.3g}")
    print("not the same bytes: " + ", ".join(failed) if failed else "what must be the same is the same")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
