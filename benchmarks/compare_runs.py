"""Which tables of a run differ from those of another run, or from hashes frozen earlier?

    python benchmarks/compare_runs.py FIRST OTHER              # names each table that differs, and by how much
    python benchmarks/compare_runs.py RUN --freeze hashes.csv  # write the SHA-256 of every table
    python benchmarks/compare_runs.py RUN --against hashes.csv # compare a run with them

A run is a folder that `run_all.py --results` filled, such as results/simulated/smoke. Compared is every csv and
parquet file beneath it, except times. Exit status 1 where a table differs, is missing or is new. Hashes hold for one
kind of processor: another one's linear algebra rounds differently (docs/promises.md), so freeze and compare on one
machine.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.provenance import sha256_file

LEFT_OUT = {"timings.csv"}


def hashes(run: Path) -> pd.Series:
    """SHA-256 of every table beneath a run's folder, by its path there."""
    paths = [path for path in sorted(run.rglob("*")) if path.suffix in (".csv", ".parquet")]
    paths = [path for path in paths if path.name not in LEFT_OUT and "report" not in path.relative_to(run).parts]
    return pd.Series({path.relative_to(run).as_posix(): sha256_file(path) for path in paths}, name="sha256", dtype=str)


def differing(one: pd.Series, other: pd.Series) -> dict[str, str]:
    """What is the matter with each table that isn't the same in both: "differs", "missing" or "new"."""
    names = sorted(one.index.union(other.index))
    words = {name: "missing" if name not in other else "new" if name not in one else "differs" for name in names}
    return {name: word for name, word in words.items() if one.get(name) != other.get(name)}


def largest_difference(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """In words, how two tables differ: other rows or columns, other text, the column of numbers furthest apart."""
    if list(one.columns) != list(other.columns):
        return f"other columns: {sorted(set(one.columns) ^ set(other.columns)) or 'in another order'}"
    if len(one) != len(other):
        return f"{len(one)} and {len(other)} rows"
    worst, said = ("", 0.0), []
    for column in one.columns:
        pair = [table[column] for table in (one, other)]
        if all(pd.api.types.is_numeric_dtype(values) for values in pair):
            a, b = (values.to_numpy(dtype=float, na_value=np.nan) for values in pair)
            apart = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b))
            worst = max(
                worst, (column, float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))), key=lambda pair: pair[1]
            )
        else:
            a, b = (values.astype(object).where(values.notna(), "").map(str) for values in pair)
            if (a != b).any():
                said.append(f"{(a != b).sum()} cells of {column} differ")
    return "; ".join(said + [f"{worst[0]} by up to {worst[1]:.2g}"] * (worst[1] > 0)) or "the same values, other bytes"


def read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--freeze", type=Path, metavar="FILE")
    parser.add_argument("--against", type=Path, metavar="FILE")
    options = parser.parse_args()
    if sum(given is not None for given in (options.other, options.freeze, options.against)) != 1:
        parser.error("give one of OTHER, --freeze FILE and --against FILE")
    found = hashes(options.run)
    if found.empty:
        parser.error(f"no table lies beneath {options.run}")
    if options.freeze:
        found.rename_axis("table").to_csv(options.freeze)
        print(f"{len(found)} tables frozen in {options.freeze}")
        return 0
    if options.against:
        before, after = pd.read_csv(options.against, index_col="table")["sha256"], found
    else:
        before, after = found, hashes(options.other)
    different = differing(before, after)
    for name, word in different.items():
        more = ""
        if word == "differs" and options.other:
            more = ": " + largest_difference(read(options.run / name), read(options.other / name))
        print(f"{word}: {name}{more}")
    print(f"{len(before.index.union(after.index)) - len(different)} tables the same, {len(different)} not")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
