"""A user's own screen: a TOML file that says where the tables lie and how their columns are called.

Every mistake in the description or in a table becomes one line that names the file, the column and the first
rows, and says what would be right. The TOML is explained in the README, "Your own screen".
"""

import difflib
import re
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.own_tables import all_compounds, read_annotation, read_cell_painting, read_profiles
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    PLATE,
    Screen,
    ScreenError,
    check_screen,
    feature_columns,
    one_line,
    require_valid,
    some_names,
    treatments,
    user_path,
)
from cpx_utils.provenance import sha256_file
from cpx_utils.tables import FORMATS, Table, collecting, read_table, refuse

__all__ = [
    "SECTIONS",
    "examine_user_screen",
    "read_cell_painting",
    "read_description",
    "read_plate_description",
    "read_user_screen",
    "review_screen",
]

SECTIONS = {
    "cp": ("path", "features", "layer"),
    "tx": ("path", "features", "layer"),
    "columns": ("compound", "dose", "plate", "well", "control"),
    "compounds": ("path",),
    "activity": ("path",),
    "tasks": ("path",),
}
_CHECK = "run_all.py --check"


# ------------------------------------------------------------------------------------------- description


def read_description(toml_path: str | Path, reserved: Collection[str] = ()) -> dict:
    """Read and check the TOML that describes a screen.

    Parameters
    ----------
    toml_path : path
    reserved : collection of str
        Names a user's screen must not take (those of the registry).

    Returns
    -------
    dict
        ``name`` and the sections given, all keys known and all values strings.

    Raises
    ------
    ScreenError
        For a missing file, wrong syntax (with its line), an unknown or missing key, or an unfit name; with the first
        of several, saying how many more there are.
    """
    described = _load_toml(toml_path)
    problems = _description_problems(described, toml_path, reserved)
    refuse([line for lines in problems.values() for line in lines], _CHECK)
    return described


def read_plate_description(toml_path: str | Path) -> dict:
    """Read what a TOML says of Cell Painting alone: its sections [cp] and [columns].

    Parameters
    ----------
    toml_path : path
        A description of new profiles, or of a whole screen, whose other sections are left alone.

    Returns
    -------
    dict
        ``cp`` and, where given, ``columns``.

    Raises
    ------
    ScreenError
        As `read_description`, for these two sections.
    """
    described = _load_toml(toml_path)
    problems = _description_problems(described, toml_path, ())
    refuse([line for part in ("", "cp", "columns") for line in problems[part]], "mend this one first; the next run")
    return {section: described[section] for section in ("cp", "columns") if section in described}


def _load_toml(toml_path: str | Path) -> dict:
    path = user_path(toml_path)
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ScreenError(f"{toml_path}: no such file; a screen is described by a TOML file") from None
    except OSError as error:
        raise ScreenError(f"{toml_path}: can't be read ({error.strerror}); name a TOML file") from None
    except UnicodeDecodeError as error:
        raise ScreenError(f"{toml_path}: not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # also for numbers and lists beyond all measure
        raise ScreenError(f"{toml_path}: not valid TOML: {error}; texts stand in double quotes") from None


def _description_problems(described: dict, shown: str | Path, reserved: Collection[str]) -> dict[str, list[str]]:
    """What is wrong with each section; ``name`` for the name and ``""`` for what belongs to no section."""
    problems = {"": _unknown_keys(described, ("name", *SECTIONS), f"{shown}: key")}
    problems["name"] = _name_problems(shown, described.get("name"), reserved)
    for section, keys in SECTIONS.items():
        given, lines = described.get(section), problems.setdefault(section, [])
        if given is None:
            if section in ("cp", "tx"):
                lines.append(f'{shown}: the section is missing; [{section}] needs path = "FILE"')
        elif not isinstance(given, dict):
            lines.append(f"{shown}: {section} must be a section [{section}] with {', '.join(keys)}")
        else:
            lines += _unknown_keys(given, keys, f"{shown}: key of [{section}]")
            lines += [
                f"{shown}: {key} in [{section}] must be text in quotes, not {value!r}"
                for key, value in given.items()
                if not isinstance(value, str) or not value
            ]
            if section != "columns" and "path" not in given:
                lines.append(f'{shown}: [{section}] needs path = "FILE"')
    if "tasks" in described and "activity" not in described:
        problems["tasks"].append(
            f"{shown}: [tasks] describes the tasks of [activity], which is missing; give both or none"
        )
    if not problems["columns"]:
        problems["columns"] += _mapping_problems(shown, described.get("columns", {}))
    return problems


def _unknown_keys(given: dict, known: Sequence[str], where: str) -> list[str]:
    lines = []
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key[:100], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            lines.append(f"{where} {key!r} is unknown; {hint}")
    return lines


def _name_problems(shown: str | Path, name: object, reserved: Collection[str]) -> list[str]:
    if name is None:
        return [f'{shown}: name is missing; write name = "my-screen" above the sections']
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        return [
            f"{shown}: name {name!r} is unfit for a folder; use up to 64 letters, digits, '-', '_' "
            "and '.', starting with a letter or digit"
        ]
    if name.lower() in {taken.lower() for taken in reserved}:
        return [f"{shown}: name {name!r} belongs to a screen of the registry; choose another"]
    return []


def _mapping_problems(shown: str | Path, columns: dict[str, str]) -> list[str]:
    roles: dict[str, str] = {}
    lines = []
    for role, column in columns.items():
        if column in roles:
            lines.append(
                f"{shown}: [columns] gives {column!r} as both {roles[column]} and {role}; each has its own column"
            )
        roles[column] = role
    return lines


# --------------------------------------------------------------------------------------------- the screen


def examine_user_screen(toml_path: str | Path, reserved: Collection[str] = ()) -> tuple[Screen | None, list[str]]:
    """Read a user's screen and list everything that is wrong with it.

    Parameters
    ----------
    toml_path : path
        The description. Paths in it are relative to its own folder.
    reserved : collection of str
        Names that belong to the registry.

    Returns
    -------
    screen : Screen or None
        Fit for use, or None where anything is wrong.
    problems : list of str
        One line each: file, column, first rows, what would be right. A table whose section of the description is
        wrong isn't read, and none is where a key is unknown above the sections or [columns] is wrong.
    """
    screen, problems = _examined(toml_path, reserved)
    return screen, [one_line(problem) for problem in problems]


def _examined(toml_path: str | Path, reserved: Collection[str]) -> tuple[Screen | None, list[str]]:
    try:
        described = _load_toml(toml_path)
    except ScreenError as error:
        return None, [str(error)]
    wrong = _description_problems(described, toml_path, reserved)
    problems = [line for lines in wrong.values() for line in lines]
    if wrong[""] or wrong["columns"]:
        return None, problems
    described = {name: value for name, value in described.items() if not wrong.get(name)}
    notes: list[str] = []
    toml = user_path(toml_path).resolve()
    used: list[Path] = [toml]

    def load(section: str, problems: list[str], **options) -> Table | None:
        given = described[section]["path"]
        with collecting(problems):
            path = toml.parent / user_path(given)
            table = read_table(path, given, problems, **{"formats": FORMATS} | options)
            if table is not None and path.resolve() not in used:
                used.append(path.resolve())
            return table
        return None

    wells = read_profiles(described, load, notes, problems)
    measured = set().union(*(set(table[COMPOUND]) - {""} for table in wells.values())) if len(wells) == 2 else set()
    listed, activity, tasks = read_annotation(described, load, measured, notes, problems)
    if problems:
        return None, problems
    screen = Screen(
        name=described["name"],
        cp=wells["cp"],
        tx=wells["tx"],
        compounds=all_compounds(listed, wells, notes),
        activity=activity,
        tasks=tasks,
        notes=tuple(notes),
        sources=tuple(_own_file(path) for path in used),
    )
    problems = check_screen(screen)
    return (None, problems) if problems else (require_valid(screen), [])


def read_user_screen(toml_path: str | Path, reserved: Collection[str] = ()) -> Screen:
    """Read a user's screen, checked and fit for use.

    Raises
    ------
    ScreenError
        With the first problem of `examine_user_screen`, saying how many more there are.
    """
    screen, problems = examine_user_screen(toml_path, reserved)
    refuse(problems, _CHECK)
    return screen


def _own_file(path: Path) -> dict:
    return {
        "file": path.name,
        "address": str(path),
        "sha256": sha256_file(path),
        "bytes": path.stat().st_size,
        "verified": True,
        "licence": "the user's own",
        "citation": "",
    }


# ------------------------------------------------------------------------------------------------ reviewing


def review_screen(screen: Screen, max_missing: float = 0.05, min_controls: int = 4) -> list[str]:
    """What is no mistake and yet should be known before a screen is run.

    Parameters
    ----------
    screen : Screen
    max_missing : float
        Share of missing values from which the study drops a feature (`preprocessing.FeaturePreparation`).
    min_controls : int
        Negative controls a plate needs to be normalised (`preprocessing.normalise_plates`).

    Returns
    -------
    list of str
        Sentences about constant features and those with many gaps, missing controls, plates with few of them,
        treatments without replicates, and compounds measured on one side only.
    """
    lines = []
    for label, table in (("CP", screen.cp), ("TX", screen.tx)):
        lines += _feature_findings(label, table, max_missing)
        lines += _control_findings(label, table, min_controls)
        replicates = treatments(table[~table[CONTROL]]).value_counts()
        single = int((replicates == 1).sum())
        if single:
            lines.append(f"{label}: {single} of {len(replicates)} treatments have one well only, and no replicates.")
    treated = {
        label: set(table.loc[~table[CONTROL], COMPOUND]) for label, table in (("CP", screen.cp), ("TX", screen.tx))
    }
    for label, other in (("CP", "TX"), ("TX", "CP")):
        alone = sorted(treated[label] - treated[other])
        if alone:
            lines.append(
                f"{len(alone)} of {len(treated[label])} compounds have {label} and no {other} (first: {alone[0]}); "
                "no encoder is trained or tested on them."
            )
    return lines


def _feature_findings(label: str, table: pd.DataFrame, max_missing: float) -> list[str]:
    features = feature_columns(table)
    values = table[features].to_numpy(np.float32)
    gaps = np.isnan(values).mean(axis=0)
    constant = np.fmax.reduce(values, axis=0) == np.fmin.reduce(values, axis=0)
    lines = []
    if constant.any():
        names = [name for name, flat in zip(features, constant, strict=True) if flat]
        lines.append(
            f"{label}: {len(names)} of {len(features)} features are constant and get dropped: {some_names(names)}."
        )
    if (gaps > max_missing).any():
        names = [name for name, share in zip(features, gaps, strict=True) if share > max_missing]
        lines.append(
            f"{label}: {len(names)} of {len(features)} features miss more than {max_missing:.0%} of their values and "
            f"get dropped: {some_names(names)}."
        )
    return lines


def _control_findings(label: str, table: pd.DataFrame, min_controls: int) -> list[str]:
    if not table[CONTROL].any():
        return [f"{label}: no well is a negative control; plates stay as they are, without normalisation."]
    counts = table.groupby(PLATE)[CONTROL].sum()
    few = counts[counts < min_controls]
    if few.empty:
        return []
    first, count = few.index[0], int(few.iloc[0])
    if len(counts) == 1:
        return [f"{label}: a plate needs {min_controls} negative controls to be normalised, and {count} are given."]
    return [
        f"{label}: {len(few)} of {len(counts)} plates have fewer than {min_controls} negative controls (plate "
        f"{first!r} has {count}) and are not normalised."
    ]
