"""The mutation benchmark and the table of coverage: what they read off their tools' results."""

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def mutants(load_benchmark):
    return load_benchmark("mutants")


SOURCE = """import os


# A comment above.
def area(width, height):
    \"\"\"Doc.\"\"\"
    if width < 0:
        raise ValueError
    return width * height


class Box:
    def __init__(self, side):
        self.side = side
"""


def test_a_change_is_told_with_the_line_it_stands_in(mutants):
    assert mutants.lines_of_functions(SOURCE) == {"area": 5, "Box.__init__": 13}
    function = "\n".join(SOURCE.splitlines()[2:9])  # mutmut keeps the comment with the function
    changed = function.replace("width * height", "width / height")
    offset, change = mutants.difference(function, changed)
    assert SOURCE.splitlines()[5 + offset - 1] == "    return width * height"
    assert change == "return width * height -> return width / height"


def test_exit_states_are_counted_once_each(mutants):
    said = {code: mutants.outcome(code) for code in (0, 1, 2, 33, -24, 36, -9, None)}
    assert said == {
        0: "survived", 1: "killed", 2: "killed", 33: "survived", -24: "timed out", 36: "timed out", -9: "timed out",
        None: "not run",
    }  # fmt: skip


def test_reasons_are_kept_for_changes_that_are_still_there(mutants, tmp_path):
    path = tmp_path / "survivors.csv"
    first = pd.DataFrame({"module": "claims", "line": [3, 9], "function": "holm", "change": ["a -> b", "NA -> 1"]})
    mutants.put("claims", mutants.with_reasons(first, path).assign(why=["same value", "shown only"]), path)
    moved = pd.DataFrame({"module": "claims", "line": [12, 14], "function": "holm", "change": ["NA -> 1", "c -> d"]})
    again = mutants.with_reasons(moved, path)
    assert again["why"].tolist() == ["shown only", ""]
    mutants.put("metrics", first.assign(module="metrics", why="new"), path)
    mutants.put("claims", again, path)
    table = pd.read_csv(path, keep_default_na=False)
    assert list(zip(table["module"], table["line"], strict=True)) == [
        ("metrics", 3), ("metrics", 9), ("claims", 12), ("claims", 14),
    ]  # fmt: skip
    mutants.put("claims", again.iloc[:0], path)
    assert set(pd.read_csv(path)["module"]) == {"metrics"}


def test_survivors_that_are_listed_are_explained_and_counted(mutants):
    survivors = pd.read_csv(mutants.RESULTS / "survivors.csv", keep_default_na=False)
    counts = pd.read_csv(mutants.RESULTS / "mutants.csv").set_index("module")
    assert set(counts.index) == set(mutants.MODULES)
    assert survivors.groupby("module").size().to_dict() == counts["survived"].loc[lambda n: n > 0].to_dict()
    assert survivors.loc[survivors["why"] == "", "change"].tolist() == []
    assert ((counts["killed"] + counts["timed_out"]) / counts["run"]).round(4).equals(counts["share"])
    assert (counts["share"] >= 0.85).all()


def test_coverage_is_tabled_by_module_with_its_branches(load_benchmark):
    def summary(lines, missed, branches, missed_branches):
        return {
            "num_statements": lines, "missing_lines": missed, "num_branches": branches,
            "missing_branches": missed_branches,
        }  # fmt: skip

    report = {
        "files": {"run_all.py": {"summary": summary(3, 0, 0, 0)}, "cpx_utils/a.py": {"summary": summary(40, 3, 8, 2)}},
        "totals": summary(43, 3, 8, 2),
    }
    table = load_benchmark("coverage_table").table_of(report).set_index("module")
    assert list(table.index) == ["cpx_utils/a.py", "run_all.py", "total"]
    assert table.loc["cpx_utils/a.py"].tolist() == [40, 3, 8, 2, 92.5, 75.0]
    assert table.loc["run_all.py", ["percent", "percent_branches"]].tolist() == [100, 100]
    assert table.loc["total", "percent"] == 93.0
