"""How long does the study take, and how much memory, on the public screens at their full size?

python benchmarks/full_size.py                    # all four, more than an hour on two cores
python benchmarks/full_size.py cdrp-bio           # one of them
python benchmarks/full_size.py cdrp-bio --from 05 # go on after a change, with what is there

Their bytes cannot be had everywhere, so stand-ins of the same files, columns and sizes are written first
(`benchmarks/stand_ins.py`), with a planted truth. Each is then run by run_all.py with the profile default, as a user
would. The table goes to benchmarks/results/full_size.csv: seconds and peak memory of each notebook, what was tested,
and whether what was planted is found again: own TX profiles by the contrastive encoder, on true and on deranged pairs.
"""

import argparse
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pandas as pd

from cpx_utils.metrics import retrieval_scores

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "full_size.csv"
SCREENS = ("cdrp-u2os", "cdrp-bio", "lincs-pilot1", "ta-orf")


def run_stand_in(screen: str, folder: Path, first: str, jobs: int) -> float:
    """Write the stand-in of a screen where it isn't there yet, and run the study on it; returns seconds of the run."""
    mirror = folder / f"mirror-{screen}"
    if not mirror.is_dir():
        script = ROOT / "benchmarks" / "stand_ins.py"
        subprocess.run([sys.executable, str(script), screen, str(mirror)], check=True)
    call = [sys.executable, str(ROOT / "run_all.py"), "--dataset", screen, "--mirror", str(mirror), "--unverified"]
    call += ["--data-dir", str(folder / "cache"), "--results", str(folder / "results")]
    call += ["--figures", str(folder / "figures"), "--jobs", str(jobs)]
    start = time.monotonic()
    subprocess.run(call + (["--from", first] if first else []), check=True, cwd=ROOT)
    return time.monotonic() - start


def measure(screen: str, run: Path, seconds: float) -> pd.DataFrame:
    """What a finished run tells, long: `screen, what, item, value`."""
    rows: list[tuple[str, str, object]] = [("wall clock", "seconds", round(seconds))]
    timings = pd.read_csv(run / "tables" / "timings.csv")
    for row in timings[timings["step"] == "total"].itertuples():
        rows += [("seconds", row.stage, round(row.seconds)), ("peak MB", row.stage, round(row.peak_mb))]
    claims = pd.read_csv(run / "tables" / "claims.csv")
    decided = claims[claims["verdict"].notna()]
    rows += [("verdict", f"claim {row.claim}", row.verdict) for row in decided.itertuples()]
    predictions = pd.read_parquet(run / "tables" / "predictions.parquet", columns=["task", "tested"])
    rows.append(("tested", "tasks", predictions.loc[predictions["tested"], "task"].nunique()))
    ranks = pd.read_csv(run / "tables" / "retrieval_03.csv").query("method == 'contrastive'")
    for control, share in retrieval_scores(ranks).groupby("control")["near"].mean().items():
        rows.append(("own TX in the nearest tenth", control, round(share, 4)))
    return pd.DataFrame(rows, columns=["what", "item", "value"]).assign(screen=screen, date=date.today().isoformat())


def main() -> None:
    """Run the screens asked for, and put their rows into the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screens", nargs="*", choices=[*SCREENS, []], help="which ones; all if none is named")
    parser.add_argument("--folder", type=Path, default=Path("full_size"), help="where files go: some gigabytes")
    parser.add_argument("--from", dest="first", default="", help="number of the first notebook to run")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks side by side")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for screen in given.screens or SCREENS:
        seconds = run_stand_in(screen, folder, given.first, given.jobs)
        table = measure(screen, folder / "results" / screen / "default", seconds)
        print(table.to_string(index=False))
        if TABLE.is_file():
            kept = pd.read_csv(TABLE, dtype=str).query("screen != @screen")
            table = pd.concat([kept, table], ignore_index=True)
        table[["screen", "what", "item", "value", "date"]].to_csv(TABLE, index=False)


if __name__ == "__main__":
    main()
