"""How many small errors would the tests notice? Mutation testing of the modules that every verdict passes through.

pip install mutmut==3.8.1
python benchmarks/mutants.py                      # all four, more than an hour on one core
python benchmarks/mutants.py --only splits        # one of them
python benchmarks/mutants.py --most 300           # no more than 300 mutants a module, drawn at random

mutmut changes one operator, number, word, argument or assignment at a time, and runs the module's own tests
(tests/test_<module>.py) that reach the changed function, until one fails. It works on a copy of the checkout. Code in
decorated functions, properties and class bodies isn't changed, nor are constants of a module. Counts go to
benchmarks/results/mutants.csv. What no test noticed goes to benchmarks/results/survivors.csv with its line; the column
`why` is written by hand, and a later run keeps it for each change that is still there.
"""

import argparse
import ast
import contextlib
import difflib
import json
import random
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MODULES = ("metrics", "splits", "claims", "provenance")
# Statistical tests of the whole machine on many simulated screens: half a minute for each survivor.
TOO_SLOW = {
    "claims": (
        "test_supported_is_rare_where_tx_adds_only_identity",
        "test_a_strong_gain_of_true_pairs_is_supported",
        "test_intervals_cover_a_known_mean",
    )
}
SETTINGS = """
[tool.mutmut]
source_paths = ["cpx_utils/"]
only_mutate = ["cpx_utils/{module}.py"]
also_copy = ["notebooks/", "run_all.py"]
pytest_add_cli_args = {arguments}
pytest_add_cli_args_test_selection = ["tests/test_{module}.py"]
timeout_constant = 600.0
timeout_multiplier = 1.0
use_git_change_detection = false
use_setproctitle = false
"""
# Appended to the copy's tests/conftest.py. Most mutants fall to one test, so quick tests come first. What loops without
# end is ended by its own seconds of CPU: those of the clock, which mutmut counts, pass without it on a busy machine.
HOOK = """

def pytest_collection_modifyitems(items):
    import json
    import os
    import resource
    import time

    stats = Path(__file__).resolve().parents[1] / "mutmut-stats.json"
    if os.environ.get("MUTANT_UNDER_TEST", "").startswith("cpx_utils.") and stats.is_file():
        seconds = json.loads(stats.read_text(encoding="utf-8"))["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
        limit = int(time.process_time() + 15 + 3 * sum(seconds.get(item.nodeid, 0.0) for item in items))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
"""

# What mutmut's command does first, by itself: the mutants' names must be known to draw among them.
MAKE = """
from mutmut import __main__ as mutmut
mutmut.makedirs("mutants", exist_ok=True)
mutmut.copy_src_dir()
mutmut.copy_also_copy_files()
mutmut.create_mutants(1)
"""
TEST = "from mutmut.__main__ import cli; cli()"


def copy_checkout(folder: Path, module: str) -> None:
    """Copy what the tests of a module need, with mutmut's settings for it."""
    for name in ("cpx_utils", "tests", "notebooks"):
        left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, folder / name, ignore=left_out, dirs_exist_ok=True)
    shutil.copy2(ROOT / "run_all.py", folder)
    with open(folder / "tests" / "conftest.py", "a", encoding="utf-8") as conftest:
        conftest.write(HOOK)
    arguments = ["-n", "0", "-p", "no:cacheprovider"]
    arguments += [f"--deselect=tests/test_{module}.py::{name}" for name in TOO_SLOW.get(module, ())]
    settings = SETTINGS.format(module=module, arguments=json.dumps(arguments))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(project + settings, encoding="utf-8")


def outcome(exit_code: int | None) -> str:
    """What the exit status of pytest, or of mutmut's worker, says: killed, timed out, survived or not run."""
    if exit_code in (0, 5, 33):  # passed; no test reaches it
        return "survived"
    if exit_code is None:
        return "not run"
    return "killed" if exit_code in (1, 2, 3, 4) else "timed out"


def difference(original: str, changed: str) -> tuple[int, str]:
    """Compare the sources of a function and of its mutant.

    Returns
    -------
    int, str
        Lines from the line of its `def` to the first that differs; the change as "old -> new".
    """
    before, after = (text.splitlines() for text in (original, changed))
    start = next(number for number, line in enumerate(before) if line.lstrip().startswith("def "))
    steps = [step for step in difflib.SequenceMatcher(None, before, after).get_opcodes() if step[0] != "equal"]
    old = " ".join(line.strip() for _, first, last, _, _ in steps for line in before[first:last])
    new = " ".join(line.strip() for _, _, _, first, last in steps for line in after[first:last])
    return steps[0][1] - start, f"{old} -> {new}"


def lines_of_functions(source: str) -> dict[str, int]:
    """Line of the `def` of each function and of each method, as Class.method, of a module."""
    lines = {}
    for node in ast.parse(source).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        lines |= {prefix + part.name: part.lineno for part in members if isinstance(part, ast.FunctionDef)}
    return lines


def survivor_rows(folder: Path, module: str, names: list[str]) -> list[dict]:
    """Module, line, function and change of mutants, read back from mutmut's copy of the module."""
    import libcst
    from mutmut.mutation.diff_apply import read_functions_from_index
    from mutmut.utils.format_utils import orig_function_and_class_names_from_key

    lines = lines_of_functions((folder / "cpx_utils" / f"{module}.py").read_text(encoding="utf-8"))
    rows = []
    with contextlib.chdir(folder):
        for name in names:
            sources = [
                libcst.Module([function]).code for function in read_functions_from_index(name, f"cpx_utils/{module}.py")
            ]
            offset, change = difference(*sources)
            function, class_name = orig_function_and_class_names_from_key(name)
            function = f"{class_name}.{function}" if class_name else function
            rows.append({"module": module, "line": lines[function] + offset, "function": function, "change": change})
    return sorted(rows, key=lambda row: (row["line"], row["change"]))


def exit_codes(module: str, folder: Path) -> dict[str, int | None]:
    """Exit code of each mutant that was made in a folder, None before it is tested."""
    path = folder / "mutants" / "cpx_utils" / f"{module}.py.meta"
    return json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]


def run_module(module: str, folder: Path, most: int, jobs: int, seed: int) -> tuple[dict, pd.DataFrame]:
    """Make and test the mutants of a module in a folder: its row of counts, and its survivors.

    Where they were tested there before, only those that were not noticed or not reached are tested again.
    """
    copy_checkout(folder, module)
    call = [sys.executable, "-c"]
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        subprocess.run([*call, MAKE], cwd=folder, stdout=log, stderr=log, check=True)
        done = exit_codes(module, folder)
        # A larger sample of the same seed holds the smaller one.
        drawn = random.Random(seed).sample(sorted(done), len(done))[:most]
        rest = [name for name in drawn if outcome(done[name]) in ("survived", "not run")]
        if rest:
            names = ["run", "--max-children", str(jobs), *rest]
            subprocess.run([*call, TEST, *names], cwd=folder, stdout=log, stderr=log, check=True)
    codes = exit_codes(module, folder)
    outcomes = pd.Series({name: outcome(codes[name]) for name in drawn})
    counts = outcomes.value_counts()
    if counts.get("not run", 0):
        raise SystemExit(f"{counts['not run']} mutants of {module} were not run; see {folder / 'log.txt'}")
    found = {key.replace(" ", "_"): int(counts.get(key, 0)) for key in ("killed", "timed out", "survived")}
    row = {"module": module, "mutants": len(done), "run": len(drawn)} | found
    # A mutant that hangs is noticed too.
    row["share"] = round((found["killed"] + found["timed_out"]) / len(drawn), 4)
    row["date"] = date.today().isoformat()
    survivors = survivor_rows(folder, module, outcomes.index[outcomes == "survived"].tolist())
    return row, pd.DataFrame(survivors, columns=["module", "line", "function", "change"])


def with_reasons(survivors: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add the column `why` of an earlier table, if there is one, to changes that it has already; "" to others."""
    keys, known = ["module", "function", "change"], {}
    if path.is_file():
        earlier = pd.read_csv(path, keep_default_na=False)
        known = earlier.drop_duplicates(keys).set_index(keys)["why"].to_dict()
    why = [known.get(key, "") for key in survivors[keys].itertuples(index=False, name=None)]
    return survivors.assign(why=why)


def put(module: str, table: pd.DataFrame, path: Path) -> None:
    """Put the rows of a module in the place of its earlier ones; modules stay in their order."""
    if path.is_file():
        kept = pd.read_csv(path, keep_default_na=False)
        table = pd.concat([kept[kept["module"] != module], table], ignore_index=True)
    table.sort_values("module", key=lambda names: names.map(MODULES.index), kind="stable").to_csv(path, index=False)


def main() -> None:
    """Run the modules asked for; put their rows into the tables; say what is not explained yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES, help="modules; default all")
    parser.add_argument("--most", type=int, default=3000, help="mutants a module at most; a seeded sample of more")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tested side by side")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--folder", type=Path, help="where copies go and stay; a later run tests there only what is left"
    )
    given = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    counts, survivors = RESULTS / "mutants.csv", RESULTS / "survivors.csv"
    with tempfile.TemporaryDirectory(prefix="cpx-mutants-") as temporary:
        for module in given.only:
            folder = (given.folder or Path(temporary)).resolve() / module
            folder.mkdir(parents=True, exist_ok=True)
            row, left = run_module(module, folder, given.most, given.jobs, given.seed)
            left = with_reasons(left, survivors)
            put(module, left, survivors)
            put(module, pd.DataFrame([row]), counts)
            print(row, f"{(left['why'] == '').sum()} survivors are not explained", sep="\n", flush=True)


if __name__ == "__main__":
    main()
