"""A template of a user's own screen: a description to edit, and beside it a small screen in its form."""

import os
from importlib import resources
from pathlib import Path

import pandas as pd

from cpx_utils.profiles import COMPOUND, Screen, ScreenError, user_path
from cpx_utils.simulation import simulate_screen

TEMPLATE = "template.toml"


def write_template(toml_path: str | Path) -> list[Path]:
    """Write a description of a screen, and the tables it names beside it.

    The tables hold a tiny simulated screen (72 compounds, 2 doses; 3 CP and 2 TX replicates), the same each time.

    Parameters
    ----------
    toml_path : path
        The description to write; its folder is made if need be.

    Returns
    -------
    list of Path
        The files written, the description first.

    Raises
    ------
    ScreenError
        If the name doesn't end in .toml, a file is there already, or the folder can't be written.
    """
    toml = user_path(toml_path)
    if toml.suffix.lower() != ".toml":
        raise ScreenError(f"{toml_path}: a screen is described by a TOML file; give a name such as my_screen.toml")
    files = [toml, *(toml.parent / f"{name}.csv" for name in ("cp", "tx", "compounds", "activity", "tasks"))]
    present = [path.name for path in files if os.path.lexists(path)]
    if present:
        raise ScreenError(
            f"{toml.parent}: {', '.join(present)} would be overwritten; choose a new folder for the template"
        )
    tables = _plain_tables(simulate_screen("tiny", seed=0))
    try:
        toml.parent.mkdir(parents=True, exist_ok=True)
        for path, table in zip(files[1:], tables, strict=True):
            table.to_csv(path, index=False, lineterminator="\n")
        text = resources.files("cpx_utils").joinpath(TEMPLATE).read_text(encoding="utf-8")
        toml.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ScreenError(f"{error.filename}: can't be written ({error.strerror}); choose another folder") from None
    return files


def _plain_tables(screen: Screen) -> tuple[pd.DataFrame, ...]:
    """The five tables of a screen with the columns that the template names: cp, tx, compounds, activity, tasks."""
    compounds = screen.compounds.rename(columns={COMPOUND: "compound", "SMILES": "smiles", "MoA": "moa"})
    compounds = compounds.assign(**{name: compounds[name].map("|".join) for name in ("moa", "target")})
    activity = screen.activity.rename(columns={COMPOUND: "compound"})
    return (
        screen.cp.round(4),
        screen.tx.round(4),
        compounds[["compound", "smiles", "moa", "target"]],
        activity[["compound", "task", "active"]],
        screen.tasks[["task", "target", "family"]],
    )
