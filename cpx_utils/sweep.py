"""A grid of parameters, seeds and screens: its description, its points, and the table and figure of all of them.

Every point is a run like any other, in a folder of its own, so it can be looked at, gone on with and run again alone.
What is done and unchanged isn't run again, and what points have in common is made once (`cpx_utils.running`).
"""

import difflib
import hashlib
import itertools
import json
import math
import re
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cpx_utils.kernels import Places
from cpx_utils.metrics import nearest_decile
from cpx_utils.profiles import ScreenError, user_path
from cpx_utils.provenance import FileHashes, atomic_path, save_figure
from cpx_utils.running import Console, Plan, Run, execute, finish_run, short_path
from cpx_utils.stages import PROFILES

KEYS = ("name", "profile", "datasets", "seeds", "grid", "fixed")
CLAIM_COLUMNS = ["claim", "endpoint", "method", "value_method", "reference", "value_reference", "effect", "ci_low",
                 "ci_high", "p_adjusted", "verdict", "reason"]  # fmt: skip
MAX_POINTS = 2000  # each is a run
RETRIEVAL = "retrieval_nearest_tenth"


@dataclass(frozen=True)
class Point:
    """One setting of a sweep.

    Attributes
    ----------
    settings : dict
        Swept name to its value as text; "dataset" and "seed" are such names.
    dataset, seed
        None: what the call says.
    given : tuple of str
        `NAME=VALUE` of parameters.
    """

    settings: dict[str, str]
    dataset: str | None
    seed: int | None
    given: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its settings in words."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())

    @property
    def folder(self) -> str:
        """Name of its folder: its settings, which stay what they are when the sweep gets more points."""
        text = "_".join(f"{name}={value}" for name, value in self.settings.items())
        safe = re.sub(r"[^\w.=,+-]", "-", text)
        if safe == text and len(text) <= 100:
            return text
        return f"{safe[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file describes it.

    Attributes
    ----------
    name : str
        Of its folder.
    profile
        None: what the call says.
    swept : tuple of str
        What varies, in order.
    fixed : tuple of str
        Parameters that have the same value at all points.
    points : tuple of Point
    """

    name: str
    profile: str | None
    swept: tuple[str, ...]
    fixed: tuple[str, ...]
    points: tuple[Point, ...]


def read_sweep(path: str | Path) -> Sweep:
    """Read the description of a sweep.

    Its keys: `datasets` (names, or TOML files of screens, relative to this file), `seeds`, `profile`, `name` (else the
    file's), and the tables `[grid]` (parameter to a list of values; `"03.n_dimensions"` for one notebook) and
    `[fixed]` (parameter to a value). Every combination is a point.

    Raises
    ------
    ScreenError
        One line: what in the file is wrong, and what would be right.
    """
    path = user_path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ScreenError(f"--sweep {path}: can't be read ({error.strerror}); give a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise ScreenError(f"{path} isn't TOML: {error}") from None
    try:
        return _sweep_of(content, path)
    except ScreenError as error:
        raise ScreenError(f"{path}: {error}") from None
    except RecursionError:
        raise ScreenError(f"{path}: its lists lie too deep in each other; values are numbers, words or lists") from None


def _sweep_of(content: dict[str, Any], path: Path) -> Sweep:
    for key in content.keys() - set(KEYS):
        nearest = difflib.get_close_matches(key[:100], KEYS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(KEYS)}"
        table = "; parameters belong into [grid] or [fixed]" if not nearest else ""
        raise ScreenError(f"there is no key {key!r} in a sweep; {hint}{table}")
    profile = content.get("profile")
    if profile is not None and (not isinstance(profile, str) or profile not in PROFILES):
        raise ScreenError(f"profile is one of {', '.join(PROFILES)}; {profile!r} isn't")
    name = content.get("name", path.stem)
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name):
        raise ScreenError(f"name is that of a folder, of letters, digits and -_.+; {name!r} isn't")
    datasets = _listed(content, "datasets", lambda value: isinstance(value, str) and value, '["simulated"]')
    seeds = _listed(content, "seeds", lambda value: type(value) is int and value >= 0, "[0, 1, 2]")
    grid, fixed = (_table(content, key) for key in ("grid", "fixed"))
    axes: dict[str, list[str]] = {"dataset": [_place(one, path.parent) for one in datasets]} if datasets else {}
    for parameter, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ScreenError(f"[grid] {parameter} wants a list of values to try, such as [0.1, 0.3]; got {values!r}")
        axes[parameter] = [_as_typed(value) for value in values]
    if seeds:
        axes["seed"] = [str(seed) for seed in seeds]
    for parameter, wrong in [("seed", "seed" in grid and seeds), *((one, one in fixed) for one in grid)]:
        if wrong:
            raise ScreenError(f"{parameter} is set twice; leave one of them out")
    _require_varied(axes)
    if (n_points := math.prod(map(len, axes.values()))) > MAX_POINTS:
        raise ScreenError(f"the lists have {n_points} combinations, of {MAX_POINTS} at most; try fewer values")
    combinations = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    points = tuple(_point(values, grid, fixed) for values in combinations)
    return Sweep(name, profile, tuple(axes), tuple(fixed), points)


def _require_varied(axes: dict[str, list[str]]) -> None:
    if not axes:
        raise ScreenError("nothing varies; give a table [grid] of parameters with lists of values, seeds or datasets")
    for name, values in axes.items():
        again = next((value for value, count in Counter(values).items() if count > 1), None)
        if again is not None:
            raise ScreenError(f"{name} lists {again} twice")


def _listed(content: dict[str, Any], key: str, is_right: Any, example: str) -> list:
    values = content.get(key, [])
    if not isinstance(values, list) or not all(map(is_right, values)) or (key in content and not values):
        raise ScreenError(f"{key} wants a list such as {example}; got {values!r}")
    return values


def _table(content: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table's parameters; a dotted key such as 03.n_dimensions may be written without quotes."""
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise ScreenError(f"{key} wants a table: a line [{key}], and below it NAME = VALUE; got {table!r}")
    flat = {}
    for name, value in table.items():
        parts = value if isinstance(value, dict) else {"": value}
        flat |= {f"{name}.{inner}" if inner else name: one for inner, one in parts.items()}
    return flat


def _as_typed(value: Any) -> str:
    """Return a TOML value as one types it after -p."""
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)


def _place(dataset: str, folder: Path) -> str:
    return str((folder / dataset).resolve()) if dataset.lower().endswith(".toml") else dataset


def _point(values: dict[str, str], grid: dict[str, Any], fixed: dict[str, Any]) -> Point:
    settings = dict(values)
    dataset = values.get("dataset")
    if dataset is not None:
        settings["dataset"] = Path(dataset).stem if dataset.lower().endswith(".toml") else dataset
    seed = int(values["seed"]) if "seed" in values and "seed" not in grid else None
    given = [f"{name}={_as_typed(value)}" for name, value in fixed.items()]
    return Point(settings, dataset, seed, (*given, *(f"{name}={values[name]}" for name in grid)))


# --- running it ---------------------------------------------------------------------------------------------


def run_sweep(sweep: Sweep, plans: Sequence[Plan], folder: Path, places: Places, console: Console) -> int:
    """Run all points of a sweep; write `summary.csv` and the figure `effects` into its folder.

    Parameters
    ----------
    sweep
        What was read.
    plans
        One for each point, in order.
    folder
        Of the sweep.
    places
        Where stages run.
    console
        Where each point's end is said.

    Returns
    -------
    int
        Exit status: 0, or 1 where a stage of any point failed.
    """
    started = time.time()
    words = {"ran": "ran", "taken": "taken over", "unchanged": "unchanged", "failed": "failed", "blocked": "not run"}
    hashes = FileHashes(folder / ".hashes.json")
    runs: list[Run] = []
    runs += [Run(plan, console, places, runs, hashes) for plan in plans]
    numbers = {id(run): number for number, run in enumerate(runs, 1)}

    def tell(run: Run) -> None:
        finish_run(run)
        states = list(run.state.values())
        counts = ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states)
        console.say(f"[{numbers[id(run)]}/{len(runs)}] {run.plan.name} ... {counts}")

    execute(runs, console, tell)
    failed = [run for run in runs if run.failed]
    table = summarise(sweep, runs)
    with atomic_path(folder / "summary.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")
    _draw(sweep, table, folder)
    ran = sum(state == "ran" for run in runs for state in run.state.values())
    console.say(f"points: {len(runs) - len(failed)} done, {len(failed)} failed; {ran} notebooks ran, "
                f"{time.time() - started:.1f} s")  # fmt: skip
    console.say(f"table: {short_path(folder / 'summary.csv')}")
    console.say(f"figure: {short_path(folder / 'effects.png')}")
    return 1 if failed else 0


def summarise(sweep: Sweep, runs: Iterable[Run]) -> pd.DataFrame:
    """Put the outcomes of all points into one table.

    Returns
    -------
    DataFrame
        One row a point and claim: `point` (folder), the swept names, `screen`, `state` (done, failed), and of the
        claims table's row with the verdict `CLAIM_COLUMNS`; one more row a point, of the endpoint
        `retrieval_nearest_tenth`, with the share of test compounds whose own TX profile ranks in the nearest tenth,
        for the method of the verdicts on true and on deranged pairs. A failed point has one row, with its state.
    """
    tables = []
    for point, run in zip(sweep.points, runs, strict=True):
        rows = pd.DataFrame([{}]) if run.failed else _outcomes(run.plan.run_dir / "tables")
        where = {"point": point.folder, **point.settings, "screen": run.plan.dataset}
        where["state"] = "failed" if run.failed else "done"
        tables.append(rows.assign(**where))
    columns = ["point", *sweep.swept, "screen", "state", *CLAIM_COLUMNS]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns)


def _outcomes(tables: Path) -> pd.DataFrame:
    """The rows of a point in the summary: claims with their verdicts, and retrieval; one empty row without either."""
    if not (tables / "claims.csv").is_file():
        return pd.DataFrame([{}])
    claims = pd.read_csv(tables / "claims.csv", keep_default_na=False, na_values=[""])
    claims = claims[claims["verdict"].notna()].reindex(columns=CLAIM_COLUMNS)
    if not len(claims):
        return pd.DataFrame([{}])
    if not (tables / "retrieval.csv").is_file():
        return claims
    ranks = pd.read_csv(tables / "retrieval.csv")
    method = claims["method"].iloc[0]
    ranks = ranks[(ranks["split"] == ranks["split"].iloc[0]) & (ranks["method"] == method)]
    near = nearest_decile(ranks["rank"], ranks["n_candidates"])
    shares = pd.Series(near, index=ranks["control"]).groupby(level=0).mean().reindex(["true_pairs", "deranged"])
    row = {"endpoint": RETRIEVAL, "method": method, "reference": "deranged"}
    row |= {"value_method": shares["true_pairs"], "value_reference": shares["deranged"]}
    return pd.concat([claims, pd.DataFrame([row | {"effect": shares["true_pairs"] - shares["deranged"]}])])


def _draw(sweep: Sweep, table: pd.DataFrame, folder: Path) -> None:
    """Draw the effects of all points beside each other."""
    from matplotlib import pyplot

    from cpx_utils import plots

    claims = table[table["claim"].notna()]
    settings = [name for name in sweep.swept if name != "seed"] or ["seed"]
    named = [", ".join(f"{name}={row[name]}" for name in settings) for _, row in claims.iterrows()]
    supported = claims[claims["verdict"] == "supported"].groupby("claim").size()
    words = [f"claim {str(claim).removesuffix('.0')} at {n}" for claim, n in supported.items()]
    title = f"Of {len(sweep.points)} points, supported: {', '.join(words) or 'no claim at any'}"
    figure = plots.sweep_effects(claims.assign(setting=named), title=title)
    save_figure(figure, folder / "effects", claims)
    pyplot.close(figure)
