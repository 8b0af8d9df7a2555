"""What keeps the house in order: pins in one place, imports that run downwards, docstrings, nothing dangerous."""

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {path.stem: path for path in sorted((ROOT / "cpx_utils").rglob("*.py")) if path.stem != "__init__"}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
INHERITED = {"error"}  # methods that keep the contract of the class they override
FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "os.popen"}


def test_every_direct_dependency_is_pinned_and_conda_takes_them_from_there():
    lines = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    assert "torch==2.13.0" in lines
    assert "- -e .[test]" in (ROOT / "environment.yml").read_text(encoding="utf-8")


def imports_of(name: str) -> set[str]:
    """Return the modules of cpx_utils that one of them imports, also inside functions."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cpx_utils":
            found |= {node.module.split(".")[1]} if "." in node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cpx_utils.")}
    return found & MODULES.keys()


def test_the_house_is_small_and_imports_run_downwards_on_the_floors_that_are_told():
    graph = {name: imports_of(name) for name in MODULES}
    assert graph["encoders"] >= {"losses", "networks"}, "the graph is read from the code"
    floors: dict[str, int] = {}
    while len(floors) < len(graph):
        placed = {name for name, needed in graph.items() if name not in floors and needed <= floors.keys()}
        assert placed, f"a circle among {sorted(graph.keys() - floors.keys())}"
        floors |= {name: 1 + max((floors[below] for below in graph[name]), default=0) for name in sorted(placed)}
    assert len(floors) <= 20 and max(floors.values()) <= 5
    rows = re.findall(r"^\| (\d) \| (`.+?`) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: int(floor) for floor, names in rows for name in re.findall(r"\w+", names)} == floors
    assert {name for name, needed in graph.items() if "pipeline" in needed} == set()
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in MODULES.items()}
    nodes = [node for tree in TREES.values() for node in ast.walk(tree)]
    assert max(lines.values()) <= 860 and sum(lines.values()) <= 9500
    assert sum(isinstance(node, ast.stmt) for node in nodes) <= 5000
    assert sum(isinstance(node, ast.FunctionDef) for node in nodes) <= 480


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name):
    assert ast.get_docstring(TREES[name])
    public = [node for node in TREES[name].body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    members = [node for holder in public if isinstance(holder, ast.ClassDef) for node in holder.body]
    public += [node for node in members if isinstance(node, ast.FunctionDef)]
    bare = {node.name for node in public if not node.name.startswith("_") and not ast.get_docstring(node)}
    assert bare <= INHERITED


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unpickles_evaluates_or_starts_a_shell(name):
    found = []
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            found += [entry for entry in names if entry.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            unsafe = [word.arg for word in node.keywords if ast.unparse(word.value) != "False"]
            if called in FORBIDDEN_CALLS or called.endswith((".read_pickle", ".to_pickle")):
                found.append(called)
            found += [f"{called}({word}=...)" for word in unsafe if word in ("shell", "allow_pickle")]
    assert found == []


def test_pages_lead_somewhere_and_their_tables_are_those_of_the_data(load_benchmark):
    update_docs = load_benchmark("update_docs")
    assert (ROOT / "README.md").stat().st_size <= 15 * 1024
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert update_docs.updated(text) == text, f"{page.name}: run python benchmarks/update_docs.py"
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
        assert [link for link in links if link and not (page.parent / link).exists()] == [], page.name


def test_committed_figures_are_those_of_the_notebooks_and_small():
    drawn = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        drawn |= set(re.findall(r"\"(\d\d_[a-z_]+)\",", path.read_text(encoding="utf-8").replace("\\", "")))
    for folder in (
        ROOT / "figures" / name for name in ("simulated", "cmea-u2os", "lincs-a549-genes", "lincs-a549-wells")
    ):
        files = list(folder.iterdir())
        assert {path.suffix for path in files} == {".png", ".csv"}
        assert {path.stem for path in files if path.suffix == ".png"} == {
            path.stem for path in files if path.suffix == ".csv"
        }
        assert {path.stem for path in files} <= drawn
        assert [path.name for path in files if path.suffix == ".csv" and path.stat().st_size > 200_000] == []


def test_no_file_knows_where_it_lies():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name and not name.endswith((".png", ".gz"))]
    here = re.compile("|".join(re.escape(place) + r"(?![\w-])" for place in {str(ROOT), os.path.expanduser("~")}))
    texts = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()}
    assert [name for name, text in texts.items() if here.search(text)] == []
