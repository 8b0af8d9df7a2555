"""What the notebooks are: stages, their parameters, and when one must run again.

Every notebook `NN_name.ipynb` of a folder is a stage. Its parameters are the lines of its cell tagged
`parameters`, `name: type = default  # comment`. Those that are rarely changed may stand in a cell tagged `settings`
before it: papermill puts a run's values behind the cell `parameters`. Whether a stage must run is judged when all it
needs is done: it is fresh while its code, its parameters, the modules it imports, the key packages and every file it
read and wrote are what its record says. So a stage whose inputs were made again with the same bytes doesn't run.
"""

import ast
import difflib
import functools
import hashlib
import io
import itertools
import json
import math
import re
import sys
import tokenize
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from cpx_utils.profiles import ScreenError
from cpx_utils.provenance import FIGURE_PREFIX, FileHashes, locate, read_record, stage_record_path

PACKAGE_FOLDER = Path(__file__).resolve().parent

# What each profile changes; a value here wins over the notebooks' defaults and what a data set prefers.
PROFILES: dict[str, dict[str, Any]] = {
    "smoke": {"screen_size": "small", "split_kinds": ["random"]},
    "default": {},
    "full": {"n_repeats": 3, "all_splits": True, "second_opinion": True},
}

# Which stages a stage reads from directly. 02, 03 and 04 don't need each other, nor does 08 need 05 to 07.
NEEDS: dict[str, tuple[str, ...]] = {
    "01": (),
    "02": ("01",),
    "03": ("01",),
    "04": ("01",),
    "05": ("02", "03", "04"),
    "06": ("02", "03", "04"),
    "07": ("05", "06"),
    "08": ("02", "03", "04"),
}

# Parameters the runner sets itself, and the option a user sets them by. They say where things are, not what
# is done.
PLUMBING = {
    "dataset": "--dataset",
    "run_dir": "--results",
    "figures_dir": "--figures",
    "data_dir": "--data-dir",
    "mirror": "--mirror",
    "unverified": "--unverified",
}
# These don't make a stage stale: the files behind them are compared by their hashes.
PATHS_ONLY = {"run_dir", "figures_dir", "data_dir", "mirror"}
# Files that a user names by a parameter, relative to where the runner was called.
FILES = {"new_profiles"}
KEY_PACKAGES = ("numpy", "pandas", "scikit-learn", "scipy", "torch")

TYPES = {"int": int, "float": float, "str": str, "bool": bool}
EXAMPLES = {
    "int": "3",
    "float": "0.1",
    "str": "random",
    "bool": "true",
    "list[int]": "1,2,3",
    "list[float]": "0.1,1",
    "list[str]": "a,b",
}


# --- stages and their parameters ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's `parameters` cell.

    Attributes
    ----------
    name : str
    kind : str
        A key of `EXAMPLES`.
    default : object
        The literal in the notebook.
    comment : str
        The trailing comment; "one of: a, b, c" in it restricts the values.
    choices : tuple of str
        Those values; empty if any will do.
    """

    name: str
    kind: str
    default: Any
    comment: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One notebook.

    Attributes
    ----------
    name : str
        File name without suffix, such as "03_train_contrastive".
    path : pathlib.Path
    question : str
        Its first heading.
    parameters : dict
        Name to Parameter, in the notebook's order, those of a cell `settings` last.
    cells : tuple of (str, tuple of str)
        Code and tags of its code cells, the cells `parameters` and `settings` excepted.
    """

    name: str
    path: Path
    question: str
    parameters: dict[str, Parameter]
    cells: tuple[tuple[str, tuple[str, ...]], ...] = field(repr=False)

    @property
    def number(self) -> str:
        """The two digits in front."""
        return self.name[:2]


def read_stages(notebooks: str | Path) -> list[Stage]:
    """Read the stages of a folder: its notebooks `NN_*.ipynb`, in order of their numbers.

    Raises
    ------
    ScreenError
        There are none, two share a number, or a notebook or its `parameters` cell can't be understood.
    """
    stages = [_read_stage(path) for path in sorted(Path(notebooks).glob("[0-9][0-9]_*.ipynb"))]
    if not stages:
        raise ScreenError(f"{notebooks} holds no notebook named NN_what_it_does.ipynb, NN being two digits")
    for first, second in itertools.pairwise(stages):
        if first.number == second.number:
            raise ScreenError(f"{first.name} and {second.name} share a number; rename one of them")
    return stages


def _read_stage(path: Path) -> Stage:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ScreenError(f"{path} isn't a notebook: {error}") from None
    code, parameters, settings, question = [], {}, {}, ""
    for cell in cells:
        source = "".join(cell["source"])  # a list of lines, or one string
        tags = tuple(cell.get("metadata", {}).get("tags", ()))
        if cell["cell_type"] == "markdown":
            question = question or source.strip().partition("\n")[0].lstrip("# ").strip()
        elif "parameters" in tags:
            parameters |= read_parameters(source, path.stem)
        elif "settings" in tags:
            if parameters:  # a run's values, injected before it, would be undone
                raise ScreenError(f"{path.stem}: its cell tagged settings must come before the one tagged parameters")
            settings |= read_parameters(source, path.stem)
        elif source.strip():
            code.append((source, tags))
    parameters |= settings
    missing = [name for name in ("dataset", "run_dir", "figures_dir") if name not in parameters]
    if missing:
        raise ScreenError(
            f"{path.stem}: its cell tagged parameters lacks {', '.join(missing)}; "
            'every notebook declares them, as in: run_dir: str = ""'
        )
    return Stage(path.stem, path, question, parameters, tuple(code))


def read_parameters(source: str, where: str) -> dict[str, Parameter]:
    """Parse the code of a `parameters` cell, without running it.

    Parameters
    ----------
    source
        Lines such as `temperature: float = 0.1  # how sharply the diagonal must win`.
    where
        Name of the notebook, for messages.

    Raises
    ------
    ScreenError
        Something else than assignments of literals, a type that isn't known, or a default of another type.
    """
    try:
        lines_of_code = ast.parse(source).body
    except SyntaxError as error:
        raise ScreenError(f"{where}: line {error.lineno} of its parameters cell isn't Python: {error.msg}") from None
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in lines_of_code:
        try:
            name, kind, default = node.target.id, ast.unparse(node.annotation), ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            raise ScreenError(
                f"{where}: line {node.lineno} of its parameters cell isn't `name: type = value`"
            ) from None
        if kind not in EXAMPLES:
            raise ScreenError(f"{where}: parameter {name} is of type {kind}; known are {', '.join(EXAMPLES)}")
        # a formatter may break a long line, and its comment then stands inside the brackets
        lines = range(node.lineno, node.end_lineno + 1)
        comment = " ".join(comments[line] for line in lines if line in comments)
        listed = re.search(r"one of:?\s+([\w./+-]+(?:,\s*[\w./+-]+)+)", comment)
        choices = tuple(re.split(r",\s*", listed[1])) if listed else ()
        parameter = Parameter(name, kind, default, comment, choices)
        found[name] = replace(parameter, default=checked_value(parameter, default))
    return found


def checked_value(parameter: Parameter, value: Any) -> Any:
    """Return `value` in the parameter's type.

    Parameters
    ----------
    parameter
        What the notebook declares.
    value
        A Python value, or a string as typed on the command line: "true" and "false" for bool, JSON or a list
        with commas for lists. A whole number serves as a float.

    Raises
    ------
    ScreenError
        One line: what the parameter wants, with an example, and what it got.
    """
    kind = parameter.kind
    try:
        if kind.startswith("list"):
            converted = items = [_scalar(item, kind[5:-1]) for item in _items(value)]
        else:
            converted = _scalar(value, kind)
            items = [converted]
    except (ValueError, RecursionError):
        wanted = f"{'an' if kind == 'int' else 'a'} {kind} such as {EXAMPLES[kind]}"
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
        raise ScreenError(f"{parameter.name} wants {wanted}; {shown} isn't one") from None
    for item in items:
        if parameter.choices and str(item) not in parameter.choices:
            raise ScreenError(f"{parameter.name} wants one of {', '.join(parameter.choices)}; {str(item)!r} isn't")
    return converted


def _scalar(value: Any, kind: str) -> Any:
    """Convert one value, refusing what would change its meaning (1.5 to int, 1 to bool) and what is no number."""
    if kind == "bool" and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower())
    elif kind in ("int", "float") and isinstance(value, str):
        value = TYPES[kind](value)
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value) is not TYPES[kind] or (kind == "float" and not math.isfinite(value)):
        raise ValueError
    return value


def _items(value: Any) -> list:
    """Return a list, also from text that means one: JSON, or values with commas between."""
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text) if text.startswith("[") else [item.strip() for item in text.split(",") if text]
    if not isinstance(value, list):
        raise ValueError
    return value


def resolve_parameters(
    stages: Sequence[Stage], layers: Iterable[dict[str, Any]], given: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return every stage's parameters: its defaults, then the layers in turn, then what was given.

    Parameters
    ----------
    stages
        All stages, also those that won't run.
    layers
        Name to value; each applies to every notebook that declares the name, and to no other.
    given
        `NAME=VALUE` for every notebook that declares NAME, or `03.NAME=VALUE` for one. Strict.

    Returns
    -------
    dict
        Stage name to its complete parameters.

    Raises
    ------
    ScreenError
        A name that no notebook declares (with the nearest that one does), or a value of the wrong type.
    """
    resolved = {stage.name: {name: known.default for name, known in stage.parameters.items()} for stage in stages}
    for layer in layers:
        for stage in stages:
            for name in layer.keys() & stage.parameters.keys():
                resolved[stage.name][name] = checked_value(stage.parameters[name], layer[name])
    for assignment in given:
        target, equals, value = assignment.partition("=")
        where, _, name = target.strip().rpartition(".")
        if not equals or not name:
            raise ScreenError(f"-p wants NAME=VALUE, such as temperature=0.2; {assignment!r} isn't that")
        if name in PLUMBING:
            raise ScreenError(f"{name} is set by {PLUMBING[name]}, not by -p")
        chosen = [find_stage(stages, where)] if where else stages
        declaring = [stage for stage in chosen if name in stage.parameters]
        if not declaring:
            who = f"{chosen[0].name} has no parameter" if where else "no notebook has a parameter"
            raise ScreenError(f"{who} {name!r}; {_nearest_parameter(name, chosen)}")
        for stage in declaring:
            resolved[stage.name][name] = checked_value(stage.parameters[name], value)
    return resolved


def _nearest_parameter(name: str, stages: Sequence[Stage]) -> str:
    """Say which parameter of these stages was probably meant by a name, or which there are."""
    declared = sorted({known for stage in stages for known in stage.parameters} - PLUMBING.keys())
    nearest = difflib.get_close_matches(name, declared, n=1)
    if not nearest:
        return f"there are {', '.join(declared)}"
    holders = [stage for stage in stages if nearest[0] in stage.parameters]
    where = holders[0].name if len(holders) == 1 else "in " + ", ".join(stage.number for stage in holders)
    return f"did you mean {nearest[0]!r} ({where}, {holders[0].parameters[nearest[0]].kind})?"


def find_stage(stages: Sequence[Stage], name: str) -> Stage:
    """Return the stage called "3", "03" or "03_train_contrastive".

    Raises
    ------
    ScreenError
        There is no such stage; the line names those there are.
    """
    for stage in stages:
        if name == stage.name or name.zfill(2) == stage.number:
            return stage
    raise ScreenError(f"there is no notebook {name!r}; there are {', '.join(stage.name for stage in stages)}")


def upstream(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages that must be done before `stage`, near and far, in order.

    A number that `NEEDS` doesn't know (a notebook that someone added) needs all before it.
    """
    numbers: set[str] = set()
    queue = [stage.number]
    while queue:
        number = queue.pop()
        needed = NEEDS.get(number, [other.number for other in stages if other.number < number])
        queue += set(needed) - numbers
        numbers.update(needed)
    return [other for other in stages if other.number in numbers]


# --- what is stale ------------------------------------------------------------------------------------------


def imported_modules(code: Iterable[str], package: Path = PACKAGE_FOLDER) -> dict[str, str]:
    """Return the modules of cpx_utils that code imports, directly or through each other, with their SHA-256.

    Parameters
    ----------
    code
        Cells of a notebook. One that isn't plain Python counts as importing all.
    package
        Folder of the package.

    Returns
    -------
    dict
        Module name (without package) to SHA-256, sorted by name.
    """
    sources = {path.stem: path.read_text(encoding="utf-8") for path in package.glob("*.py")}
    queue, seen = {"__init__"}, set()
    for cell in code:
        names = _imports(cell)
        queue |= sources.keys() if names is None else names
    while queue:
        name = queue.pop()
        if name in sources and name not in seen:
            seen.add(name)
            queue |= _imports(sources[name]) or set()
    return {name: hashlib.sha256(sources[name].encode()).hexdigest() for name in sorted(seen)}


@functools.cache
def _imports(source: str) -> frozenset[str] | None:
    """Return what code imports from cpx_utils, in full at any depth; None if it can't be parsed."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return frozenset(name.split(".")[1] for name in names if name.startswith("cpx_utils."))


def fingerprint(stage: Stage, parameters: dict[str, Any], like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what decides a stage's results besides the files it reads; prose isn't in it.

    Parameters
    ----------
    stage, parameters
        The stage, and its complete parameters.
    like
        The stage's fingerprint with other parameters, taken just before: all else is then taken from it.

    Returns
    -------
    dict
        code (SHA-256 of the code cells and their tags), parameters (paths apart), modules (of cpx_utils, by
        SHA-256), packages (versions of the key ones, and of Python).
    """
    if like is not None:
        return like | {"parameters": {name: value for name, value in parameters.items() if name not in PATHS_ONLY}}
    packages = {"python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    return {
        "code": hashlib.sha256(json.dumps(stage.cells).encode()).hexdigest(),
        "parameters": {name: value for name, value in parameters.items() if name not in PATHS_ONLY},
        "modules": imported_modules(source for source, _ in stage.cells),
        "packages": packages | {name: metadata.version(name) for name in KEY_PACKAGES},
    }


def why_stale(
    stage: Stage,
    current: dict[str, Any],
    run_dir: Path,
    figures_dir: Path,
    hashes: FileHashes,
    check_reads: bool = True,
) -> str:
    """Say in a few words why a stage must run; "" if it needn't.

    Parameters
    ----------
    stage
        The stage.
    current
        Its fingerprint now.
    run_dir, figures_dir
        Where its record and its files lie.
    hashes
        Hashes of files.
    check_reads
        False leaves out what it read (in a dry run, the stages before it may still change that).
    """
    path = stage_record_path(run_dir, stage.name)
    record = read_record(path)
    if record is None:
        return "its record is damaged" if path.is_file() else "not done yet"
    if "run" not in record:
        # Run by hand, cells may have run twice, out of order or with other values than the file holds.
        return "last run by hand"
    before = record["run"]["fingerprint"]
    if before.get("code") != current["code"]:
        return "its code changed"
    for part in ("parameters", "modules", "packages"):
        known = before.get(part, {})
        for name in {**known, **current[part]}:
            old, new = known.get(name), current[part].get(name)
            if old != new and part == "parameters":
                return f"{name} was {old!r}, is {new!r}"
            if old != new:
                return f"{part.removesuffix('s')} {name} changed"
    executed = executed_path(run_dir, stage.name)
    files = {locate(name, run_dir, figures_dir): (name, digest) for name, digest in record["writes"].items()}
    files |= {executed: ("its executed notebook", record["run"]["notebook"])}
    if check_reads:
        files |= {locate(name, run_dir, figures_dir): (name, digest) for name, digest in record["reads"].items()}
    for path, (name, digest) in files.items():
        now = hashes.sha256(path)
        if now != digest:
            return f"{name.replace(FIGURE_PREFIX, 'figure ')} {'changed' if now else 'is missing'}"
    return ""


def executed_path(run_dir: Path, stage: str) -> Path:
    """Return where the executed notebook of a stage lies in a run's folder."""
    return run_dir / "notebooks" / f"{stage}.ipynb"
