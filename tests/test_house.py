"""What keeps the house in order: pins in one place, imports that run downwards, docstrings, nothing dangerous."""

import ast
import graphlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {path.stem: path for path in sorted((ROOT / "cpx_utils").glob("*.py"))}
# Installed for people and for other packages, not imported by ours.
TOOLS = {
    "ipykernel": "the notebooks' kernel",
    "jupyterlab": "where people read and change the notebooks",
    "openpyxl": "the probes' Excel table, through pandas",
    "pyarrow": "parquet, through pandas",
    "pytest": "runs the tests",
    "pytest-timeout": "ends those that hang",
    "pytest-xdist": "runs them side by side",
    "ruff": "style of code and notebooks",
}


# Parts of the interface of packages that are declared, which always come with them.
COMES_WITH = {
    "IPython": ("ipython", "ipykernel"),
    "traitlets": ("traitlets", "ipykernel"),
    "zmq": ("pyzmq", "ipykernel"),
    "nbclient": ("nbclient", "papermill"),
    "threadpoolctl": ("threadpoolctl", "scikit-learn"),
    "markupsafe": ("markupsafe", "jinja2"),
}
# Methods that keep the contract of the class they override, of matplotlib here.
INHERITED = {"StudyFigure.draw"}
# The modules behind run_all.py, which alone know that notebooks exist.
RUNNER = {"pipeline", "sweep", "cluster", "running", "stages", "kernels"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "os.system", "os.popen"}


def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(requirements: list[str]) -> dict[str, str]:
    """Return package to version; fails on anything but one `name==version` a package."""
    pairs = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line) for line in requirements]
    loose = [line for line, pair in zip(requirements, pairs, strict=True) if pair is None]
    assert loose == [], "every direct dependency is pinned as name==version"
    names = [canonical(pair[1]) for pair in pairs]
    assert sorted(names) == sorted(set(names)), "a package is listed twice"
    return {canonical(pair[1]): pair[2] for pair in pairs}


# --- dependencies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_every_direct_dependency_is_pinned_once(extra):
    versions = pinned(PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"])
    if not extra:
        assert versions["torch"] == "2.13.0"
    else:
        assert not versions.keys() & pinned(PROJECT["dependencies"]).keys(), "pinned in the project and in an extra"


def test_python_is_3_11_or_newer():
    assert PROJECT["requires-python"] == ">=3.11"


def test_what_is_installed_here_is_what_is_pinned():
    everything = PROJECT["dependencies"] + [
        line for extra in ("test",) for line in PROJECT["optional-dependencies"][extra]
    ]
    wrong = {
        name: (version, metadata.version(name).split("+")[0])
        for name, version in pinned(everything).items()
        if metadata.version(name).split("+")[0] != version
    }
    assert wrong == {}


def test_conda_takes_every_package_from_pyproject():
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    lines = [line.split("#")[0].rstrip() for line in lines]
    start = lines.index("dependencies:")
    listed = [line.strip() for line in lines[start + 1 :] if line.strip()]
    python, pip, section, install = listed
    assert (pip, section) == ("- pip", "- pip:")
    assert re.fullmatch(r"- -e \.(\[[a-z, ]+\])?", install), (
        "conda installs the project itself by pip, and nothing else"
    )
    extras = re.findall(r"[a-z]+", install.partition("[")[2])
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    lowest = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    assert tuple(map(int, re.fullmatch(r"- python=(\d+\.\d+)", python)[1].split("."))) >= lowest


def imported_packages(sources: list[str]) -> set[str]:
    """Return top-level names imported anywhere in the sources, those of Python itself and ours apart."""
    names = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"cpx_utils"}


def test_what_is_imported_is_declared_and_what_is_declared_is_used():
    sources = [path.read_text(encoding="utf-8") for path in [*MODULES.values(), ROOT / "run_all.py"]]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    providers = metadata.packages_distributions()
    declared = set(pinned(PROJECT["dependencies"]))
    own = {name: {canonical(dist) for dist in providers.get(name, [])} for name in imported_packages(sources)}
    extras = [lines for extra, lines in PROJECT["optional-dependencies"].items() if extra != "test"]
    optional = set(pinned([line for lines in extras for line in lines]))
    undeclared = {name for name, distributions in own.items() if not distributions & (declared | optional)}
    assert undeclared <= COMES_WITH.keys()
    for name in undeclared:
        distribution, parent = COMES_WITH[name]
        assert parent in declared and distribution in own[name]
        required = [re.match(r"[\w.-]+", line)[0] for line in metadata.requires(parent) if "extra ==" not in line]
        assert distribution in map(canonical, required)

    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py")]
    local = {path.stem for path in (ROOT / "tests").glob("*.py")}
    in_tests = {
        name: {canonical(dist) for dist in providers.get(name, [])} for name in imported_packages(tests) - local
    }
    known = declared | set(pinned(PROJECT["optional-dependencies"]["test"]))
    assert {name for name, distributions in in_tests.items() if not distributions & known} <= COMES_WITH.keys()

    used = set().union(*own.values(), *in_tests.values(), TOOLS)
    assert declared - set().union(*own.values(), TOOLS) == set(), "declared and never used"
    assert known - used == set(), "in the extra test and never used"


# --- modules ------------------------------------------------------------------------------------------------


def imports_of(name: str) -> set[str]:
    """Return the modules of cpx_utils that one of them imports, also inside functions."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cpx_utils.")}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively; write cpx_utils in full"
            if node.module == "cpx_utils":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("cpx_utils."):
                found.add(node.module.split(".")[1])
    return found & MODULES.keys()


def test_imports_run_downwards_only():
    graph = {name: imports_of(name) for name in MODULES}
    assert graph["encoders"] >= {"losses", "networks"}, "the graph is read from the code"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
    assert {name for name, needed in graph.items() if "pipeline" in needed} == set()
    assert {name for name, needed in graph.items() if needed & RUNNER} <= RUNNER, "science knows nothing of the runner"
    for name in ("losses", "profiles", "metrics", "plots"):
        assert graph[name] <= {"profiles"}, f"{name} stands at the bottom"
    assert graph["networks"] <= {"profiles", "losses"}, "networks stand on losses alone"


@pytest.mark.parametrize("name", sorted(MODULES.keys() - RUNNER))
def test_only_the_runner_knows_of_notebooks(name):
    assert not re.search(r"\d\d_\w+\.ipynb|notebooks/\d\d", MODULES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name):
    module = tree(name)
    assert ast.get_docstring(module)
    bare = []
    for node in module.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        members = node.body if isinstance(node, ast.ClassDef) else []
        methods = [part for part in members if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]
        bare += [f"{node.name}.{part.name}" for part in methods if not ast.get_docstring(part)]
        bare += [] if ast.get_docstring(node) else [node.name]
    assert [entry for entry in bare if entry not in INHERITED] == []


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unpickles_evaluates_or_starts_a_shell(name):
    found = []
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            found += [entry for entry in names if entry.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS or called.endswith((".read_pickle", ".to_pickle")):
                found.append(called)
            for keyword in node.keywords:
                if keyword.arg in ("shell", "allow_pickle") and ast.unparse(keyword.value) != "False":
                    found.append(f"{called}({keyword.arg}=...)")
    assert found == []


# --- files --------------------------------------------------------------------------------------------------


def git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """All files that are tracked or would be."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_what_a_run_makes_is_ignored_and_what_readers_need_is_not(files):
    made = ["results/simulated/default/manifest.json", "figures/simulated-smoke/x.png",
            "figures/simulated/.lock", "figures/simulated/.writing-x.png", "cpx.egg-info/PKG-INFO",
            "cpx_utils/__pycache__/x.pyc", "notebooks/.ipynb_checkpoints/x.ipynb"]  # fmt: skip
    assert git("check-ignore", *made).stdout.split() == made
    assert git("check-ignore", "figures/simulated/x.png", "notebooks/01_prepare_profiles.ipynb").stdout == ""
    assert not [path for path in files if path.relative_to(ROOT).parts[0] == "results"]


def test_no_file_knows_where_it_lies(files):
    here = {str(ROOT), os.path.expanduser("~"), sys.prefix} - {"/", "/usr", "/usr/local"}
    texts = [
        path for path in files if path.suffix in (".py", ".ipynb", ".md", ".toml", ".yml", ".cff", ".csv", ".svg", "")
    ]
    places = re.compile("|".join(re.escape(place) + r"(?![\w-])" for place in sorted(here)))
    found = {
        str(path.relative_to(ROOT)): hit[0]
        for path in texts
        if (hit := places.search(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


def test_ci_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
