"""A sweep of 12 settings of the real notebooks, serially and on a Dask cluster of two workers: same tables, and times.

    python benchmarks/sweep.py --folder DIR [--only 01 03 ...]

Small on purpose (the tiny simulated screen, few epochs): it shows that the numbers agree and what the cluster costs
or saves, and nothing about the study. Both sweeps run in one call, the serial one first; further options go to
`run_all.py`.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd

from cpx_utils.pipeline import main as run_all

SWEEP = """profile = "smoke"
seeds = [0, 1]
[grid]
temperature = [0.1, 0.3, 1.0]
03.n_dimensions = [16, 32]
[fixed]
screen_size = "tiny"
max_epochs = 15
n_members = 1
n_derangements = 1
n_derangements_linear = 2
n_candidates = 1
n_bootstrap = 100
n_null = 200
data_shares = 0.5
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every table, model and picture beneath a folder, of those that tell of times and places apart."""
    kept = (".csv", ".parquet", ".png", ".svg", ".safetensors")
    found = (path for path in sorted(folder.rglob("*")) if path.suffix in kept and path.name != "timings.csv")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def timed(*call: str) -> float:
    """Run `run_all.py` with a call; return its seconds."""
    start = time.perf_counter()
    status = run_all(list(call))
    if status:
        raise SystemExit(status)
    return time.perf_counter() - start


def main() -> int:
    """Run both, compare, print a table; exit status 1 where a file differs."""
    from distributed import LocalCluster

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where results go; made anew")
    options, more = parser.parse_known_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    description = folder / "sweep.toml"
    description.write_text(SWEEP, encoding="utf-8")
    call = ["--sweep", str(description), *more, "--results"]
    seconds = {"serial, one notebook at a time": timed(*call, str(folder / "serial"), "--jobs", "1")}
    shape = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**shape) as cluster:
        there = [*call, str(folder / "dask"), "--scheduler", cluster.scheduler_address]
        seconds["Dask, two workers"] = timed(*there)
        seconds["Dask again, nothing to do"] = timed(*there)
    serial, dask = contents(folder / "serial"), contents(folder / "dask")
    differ = sorted(name for name in serial.keys() | dask.keys() if serial.get(name) != dask.get(name))
    print(pd.Series(seconds, name="seconds").round(1).to_string())
    print(f"{len(serial)} files compared, {len(differ)} differ, on {os.cpu_count()} cores", *differ[:10], sep="\n  ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
