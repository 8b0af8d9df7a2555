"""How much of the code do the tests run? Lines and branches of each module, from what coverage.py measured.

pip install coverage==7.17.4
coverage erase && coverage run -m pytest -n 0 && coverage combine && python benchmarks/coverage_table.py

What is measured stands in pyproject.toml. The table goes to benchmarks/results/coverage.csv.
"""

import json
import tempfile
from datetime import date
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "coverage.csv"


def table_of(report: dict) -> pd.DataFrame:
    """Lines and branches of each file, and of all, from a report of `coverage json`.

    Returns
    -------
    DataFrame
        ``module, lines, missed, branches, missed_branches, percent, percent_branches``; the last row is "total". Lines
        are statements; ``percent`` of lines and ``percent_branches`` of branches were run, 100 where there are none.
    """
    parts = {name: one["summary"] for name, one in sorted(report["files"].items())} | {"total": report["totals"]}
    rows = [
        {
            "module": Path(name).as_posix(),
            "lines": one["num_statements"],
            "missed": one["missing_lines"],
            "branches": one["num_branches"],
            "missed_branches": one["missing_branches"],
        }
        for name, one in parts.items()
    ]
    table = pd.DataFrame(rows)
    for percent, missed, of in (("percent", "missed", "lines"), ("percent_branches", "missed_branches", "branches")):
        table[percent] = (100 * (1 - table[missed] / table[of].clip(lower=1))).round(1)
    return table


def main() -> None:
    """Write the table of the measurement in the project's folder, and print it."""
    import coverage

    measured = coverage.Coverage(data_file=str(ROOT / ".coverage"), config_file=str(ROOT / "pyproject.toml"))
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "coverage.json")
        measured.json_report(outfile=str(path))
        table = table_of(json.loads(path.read_text(encoding="utf-8")))
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    table.assign(date=date.today().isoformat()).to_csv(TABLE, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
