"""Profile tables: what a screen is, how it is checked, and what can be tested on it.

A *screen* is a pair of well-level tables, Cell Painting (CP) and transcriptomics (TX), with what is known of
its compounds: structure, mechanism of action (MoA), targets and assay outcomes. Column names follow the
convention of the field: metadata start with ``Metadata_``, everything else is a feature.

Whatever a screen lacks has one spelling: no plate or well is ``""``, no dose is NaN, no control is False.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

PLATE = "Metadata_Plate"
WELL = "Metadata_Well"
COMPOUND = "Metadata_Compound"
DOSE = "Metadata_Dose"
CONTROL = "Metadata_Control"
METADATA_COLUMNS = [PLATE, WELL, COMPOUND, DOSE, CONTROL]
COMPOUND_COLUMNS = [COMPOUND, "InChIKey14", "SMILES", "MoA", "target"]
ACTIVITY_COLUMNS = [COMPOUND, "task", "active"]
TASK_COLUMNS = ["task", "target", "family", "source"]
BLOCK_LENGTH = 14  # of an InChIKey: the skeleton without stereochemistry and charge
# What identifies a fitted representation in every table of the study; `seed` is the number of the draw.
KEYS = ["split", "repeat", "fold", "seed", "method", "control"]

LONGEST_LINE = 1500  # characters of a message
MIN_PAIRED_COMPOUNDS = 10
MIN_TASKS_PER_FAMILY = 3
# What several modules must spell alike: methods without TX, methods that see the test compounds' TX, claims, endpoints.
CP_ONLY = ("raw_cp", "sphered_cp", "pca_cp", "cell_count", "lda_identity")
LINEAR_TX = ("ridge_tx", "rcca")  # with TX and fitted in closed form: no seed changes them
ORACLES = ("tx", "cp_tx", "tx_encoded")
CONTROL_LABELS = {
    "": "",
    "true_pairs": "true pairs",
    "deranged": "deranged pairs",
    "rows_shuffled": "rows shuffled",
    "random_codes": "random codes",
    "untrained": "untrained network",
    "deranged_in_plate": "pairs deranged within plate maps",
}
CLAIM_TEXTS = {
    1: "where TX excels and CP does not, the learned embedding predicts bioactivity better than CP",
    2: "learned embeddings cluster CP replicates better",
    3: "learned embeddings cluster mechanisms of action better",
    4: "learned embeddings improve bioactivity tasks by target family",
}
UNITS = {"tx_strong_tasks": "ROC-AUC", "replicate_map": "mAP", "moa_map": "mAP", "family_auc": "ROC-AUC"}
VERDICTS = (
    "supported",
    "TX helps, lead over CP-only open",
    "TX helps, a CP-only method does as well",
    "holds, TX not needed",
    "holds, attribution open",
    "does not hold",
    "open",
    "not testable",
)


def no_outcomes() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Activity and tasks of a screen without assays: empty, and of the types that such tables have with rows.

    Columns that pandas makes of nothing hold numbers, and can't be joined with those of names.
    """
    activity = pd.DataFrame(columns=ACTIVITY_COLUMNS, dtype="str").astype({"active": np.int8})
    return activity, pd.DataFrame(columns=TASK_COLUMNS, dtype="str")


class ScreenError(ValueError):
    """A user's mistakes, a line each in `problems`: what is wrong, where, and what would be right.

    Its own text is the first of these lines, with the number of the others.
    """

    def __init__(self, *problems: str):
        self.problems = [one_line(problem) for problem in problems]
        more = f" (and {len(problems) - 1} more; run_all.py --check of a screen lists them)" if problems[1:] else ""
        super().__init__(self.problems[0] + more)


def one_line(message: str) -> str:
    """A message without line breaks, cut where a damaged file put half of itself into it."""
    return " ".join(str(message).split())[:LONGEST_LINE]


@dataclass(frozen=True)
class Screen:
    """One paired screen.

    Attributes
    ----------
    name : str
        Short name, used for folders.
    cp, tx : pandas.DataFrame
        One row a well: `METADATA_COLUMNS`, then float32 features. Doses are in micromolar. Negative-control
        rows carry ``Metadata_Control`` True. Compounds measured in one modality only are kept.
    compounds : pandas.DataFrame
        One row a compound (no controls): Metadata_Compound, InChIKey14 (``""`` if unknown), SMILES
        (``""`` if unknown), MoA and target (lists of strings, empty if unknown).
    activity : pandas.DataFrame
        Long: Metadata_Compound, task, active (int8, 0 or 1). A label that is missing has no row.
    tasks : pandas.DataFrame
        One row a task: task, target (``""`` if unknown), family (``"other"`` if unknown), source (the collection
        it comes from, ``""`` if unknown). A column conflicts, where there is one, counts the compounds that got no
        label because their isomers disagree, or whose own rows held both 0 and 1.
    notes : tuple of str
        Sentences a reader must know: rows dropped, files not verified, conflicts counted.
    sources : tuple of dict
        A file each: file, address, sha256, bytes, verified, licence, citation.
    normalised : bool
        Whether the profiles are in units of their plates' controls already; they aren't normalised again.
    """

    name: str
    cp: pd.DataFrame
    tx: pd.DataFrame
    compounds: pd.DataFrame
    activity: pd.DataFrame
    tasks: pd.DataFrame
    notes: tuple[str, ...] = ()
    sources: tuple[dict, ...] = ()
    normalised: bool = False


# ------------------------------------------------------------------------------------------------- tables


def user_path(path: str | Path) -> Path:
    """A path that a user gave, ``~`` and ``~name`` replaced by the home folder where there is one."""
    return Path(os.path.expanduser(path))


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Names of the feature columns: every column that does not start with ``Metadata_``, in table order."""
    return [column for column in table.columns if not str(column).startswith("Metadata_")]


def feature_matrix(table: pd.DataFrame) -> np.ndarray:
    """Features as a float32 array of shape (n_wells, n_features); missing values are NaN."""
    return np.ascontiguousarray(table[feature_columns(table)].to_numpy(dtype=np.float32))


def embedding_table(values: np.ndarray) -> pd.DataFrame:
    """Columns z000, z001 ... of an embedding (n, n_dimensions), float32."""
    return pd.DataFrame(np.asarray(values, np.float32), columns=[f"z{i:03d}" for i in range(values.shape[1])])


def embedding_values(table: pd.DataFrame) -> np.ndarray:
    """The z columns of an embedding table: float32 (n, n_dimensions).

    Columns without any value are left out: a method whose length differs between folds (raw CP, where each fold selects
    its features) fills a table of several folds only as far as each goes.
    """
    names = [name for name in table.columns if name[0] == "z" and name[1:].isdigit()]
    values = table[names].to_numpy(np.float32)
    return values[:, ~np.isnan(values).all(axis=0)] if len(values) else values


@cache
def inchikey(smiles: str) -> str:
    """Full InChIKey of a SMILES as it stands, ``""`` where RDKit can't read it or it is empty; each is made once."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():  # RDKit prints a line for each odd molecule
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
        return Chem.MolToInchiKey(molecule) if molecule is not None else ""


def split_values(text: str) -> list[str]:
    """Values of a ``|``-joined cell, in order, without blanks and repeats; an empty cell gives ``[]``."""
    return list(dict.fromkeys(part.strip() for part in text.split("|") if part.strip()))


def some_names(names: Iterable, limit: int = 4) -> str:
    """Up to `limit` names in quotes, and how many there are."""
    quoted = [repr(str(name)) for name in names]
    return ", ".join(quoted[:limit]) + (f", ... ({len(quoted)} in all)" if len(quoted) > limit else "")


def compound_groups(compounds: pd.DataFrame) -> pd.Series:
    """Group of each compound: the unit that splits and resampling keep together.

    The group is the first block of the InChIKey, so that salts' parents and stereoisomers which share a
    skeleton never straddle a split, or else the compound's own id. Returned with Metadata_Compound as index.
    """
    keys = compounds.set_index(compounds[COMPOUND].astype(str))["InChIKey14"].fillna("").astype(str)
    return keys.where(keys != "", keys.index).rename("group")


def paired_compounds(screen: Screen) -> list[str]:
    """Compounds measured in both CP and TX (controls excluded), sorted."""
    both = set(_treated(screen.cp)[COMPOUND]) & set(_treated(screen.tx)[COMPOUND])
    return sorted(str(compound) for compound in both)


def wells_of(table: pd.DataFrame, compounds: list[str]) -> pd.DataFrame:
    """Wells of the given compounds, and all negative controls."""
    return table[table[COMPOUND].isin(compounds) | table[CONTROL].astype(bool)].reset_index(drop=True)


def treatments(table: pd.DataFrame) -> pd.Series:
    """Treatment of each well: ``compound``, or ``compound@dose`` with the nominal dose to 3 digits, as in the index.

    Doses that differ beyond the third digit are one nominal dose: the two modalities often record one with different
    rounding (3.33 and 3.3333 micromolar).
    """
    doses = table[DOSE].astype(float)
    words = {dose: f"@{dose:.3g}" for dose in doses.dropna().unique()}
    return (table[COMPOUND].astype("str") + doses.map(words).fillna("").astype("str")).rename("treatment")


def nominal_dose(doses: Iterable[float]) -> np.ndarray:
    """Doses rounded to 3 significant digits, shape (n_wells,), NaN where there is none."""
    return np.array([float(f"{dose:.3g}") for dose in doses])


def _treated(table: pd.DataFrame) -> pd.DataFrame:
    """Metadata of the rows that are no negative controls; features stay behind, of which screens have gigabytes."""
    return table.loc[~table[CONTROL].astype(bool), METADATA_COLUMNS]


# ----------------------------------------------------------------------------------------------- checking


def require_valid(screen: Screen) -> Screen:
    """Return the screen fit for use, or raise.

    Checked are each profile table (`check_table`), ids that are both control and compound, and that CP and TX share a
    compound. That the tables about compounds say everything once is their readers' part.

    Assay outcomes and annotation of compounds the screen does not hold are dropped and counted in `notes`;
    so are tasks without any outcome.

    Raises
    ------
    ScreenError
        With everything that is wrong.
    """
    problems = check_table(screen.cp, "CP") + check_table(screen.tx, "TX") or _mismatches(screen)
    if problems:
        raise ScreenError(*problems)
    measured = set(_treated(screen.cp)[COMPOUND]) | set(_treated(screen.tx)[COMPOUND])
    known, labelled = (table[COMPOUND].isin(measured) for table in (screen.compounds, screen.activity))
    used = screen.tasks["task"].isin(screen.activity.loc[labelled, "task"])
    dropped = (
        ((~known).sum(), "{} listed compounds have no profile and were dropped."),
        ((~labelled).sum(), "{} labels of compounds without a profile were dropped."),
        ((~used).sum(), "{} tasks without any label were dropped."),
    )
    return replace(
        screen,
        compounds=screen.compounds[known].reset_index(drop=True),
        activity=screen.activity[labelled].reset_index(drop=True),
        tasks=screen.tasks[used].reset_index(drop=True),
        notes=(*screen.notes, *(note.format(n) for n, note in dropped if n)),
    )


def _mismatches(screen: Screen) -> list[str]:
    """How the ids of CP and TX contradict each other, one line a problem."""
    problems = []
    wells = pd.concat([table[[COMPOUND, CONTROL]] for table in (screen.cp, screen.tx)])
    kinds = wells.groupby(COMPOUND)[CONTROL].nunique()
    if (kinds > 1).any():
        rule = "is a negative control in some wells and a treatment in others; mark a control's id everywhere"
        problems.append(f"compound {some_names(kinds.index[kinds > 1])} {rule}")
    if not paired_compounds(screen):
        cp, tx = (some_names(_treated(table)[COMPOUND].unique()) for table in (screen.cp, screen.tx))
        apart = f"CP has {cp}, TX has {tx}; the compound columns must use the same ids"
        problems.append(f"CP and TX have no compound in common: {apart}")
    return problems


def check_table(table: pd.DataFrame, label: str) -> list[str]:
    """What is wrong with the values of one profile table, which messages call `label`; one line a problem.

    That its metadata columns are there and its features numbers is its reader's part.
    """
    # One by one: a whole screen in double precision would not fit everywhere.
    empty = [name for name in feature_columns(table) if table[name].isna().all()]
    endless = [name for name in feature_columns(table) if np.isinf(table[name]).any()]
    doses = table[DOSE].to_numpy(dtype=float)
    wrong = np.flatnonzero((doses < 0) | np.isinf(doses))
    places = table[[PLATE, WELL]].astype(str)
    twice = places[(places != "").all(axis=1) & places.duplicated()]
    nameless = table[COMPOUND].isna() | (table[COMPOUND].astype(str).str.strip() == "")
    checks = [
        (empty, "feature {names} is missing (NaN) in every row; drop the column"),
        (endless, "feature {names} holds infinite values; leave them empty"),
        (
            np.flatnonzero(nameless) + 1,
            "{n} wells have no compound id (first data row {first}); every well needs one, controls too (as 'DMSO')",
        ),
        (
            [f"{doses[row]:g} in data row {row + 1}" for row in wrong],
            "dose {first} ({n} such rows); doses are micromolar, finite and not negative",
        ),
        (twice[PLATE] + " " + twice[WELL], "plate and well {names} is given more than once; a row is a well"),
    ]
    return [
        f"{label}: {message.format(names=some_names(found), n=len(found), first=next(iter(found)))}"
        for found, message in checks
        if len(found)
    ]


# -------------------------------------------------------------------------------------------- testability


def count_compounds(screen: Screen) -> pd.DataFrame:
    """How many compounds are measured in which modality, and what is known of the paired ones: `what`, `n`."""
    paired = paired_compounds(screen)
    known = screen.compounds[screen.compounds[COMPOUND].isin(paired)]
    counts = {
        "CP measured": _treated(screen.cp)[COMPOUND].nunique(),
        "TX measured": _treated(screen.tx)[COMPOUND].nunique(),
        "paired": len(paired),
        "with a structure": int((known["SMILES"] != "").sum()),
        "with an MoA": int((known["MoA"].map(len) > 0).sum()),
        "in any assay": int(known[COMPOUND].isin(screen.activity[COMPOUND]).sum()),
    }
    return pd.DataFrame({"what": list(counts), "n": list(counts.values())})


def mechanism_holders(compounds: pd.DataFrame) -> pd.Series:
    """Of how many different structures each MoA is."""
    held = compounds.assign(group=compound_groups(compounds).to_numpy()).explode("MoA")
    return held.groupby("MoA")["group"].nunique()


def testability(screen: Screen, min_active: int = 25, min_inactive: int = 25) -> pd.DataFrame:
    """Which of six endpoints the screen can answer, and why not the others: endpoint, testable, reason.

    Only compounds with both CP and TX count, since only those can be held out and compared, and only tasks with at
    least `min_active` and `min_inactive` labels of such compounds.
    """
    paired = paired_compounds(screen)
    known = screen.compounds[screen.compounds[COMPOUND].isin(paired)]
    cp = _treated(screen.cp)
    cp = cp[cp[COMPOUND].isin(paired)]
    by_treatment = cp[PLATE].groupby(treatments(cp).to_numpy())
    unit = "plates" if cp[PLATE].nunique() > 1 else "wells"
    spread = by_treatment.nunique() if unit == "plates" else by_treatment.size()
    n_replicated = int((spread >= 2).sum())
    replicates = f"{n_replicated} of {len(spread)} CP treatments are on at least 2 {unit} (at least 2 are needed)"
    n_controls = int(screen.cp[CONTROL].astype(bool).sum())
    calls = replicates if n_controls >= 2 else "activity is called against controls"
    n_moas, n_annotated = int((mechanism_holders(known) >= 2).sum()), int((known["MoA"].map(len) > 0).sum())
    counts = task_counts(screen, min_active, min_inactive)
    tested = counts[counts["tested"]]
    assays = "the screen has no assay outcomes"
    if len(counts):
        best = counts.loc[counts[["n_active", "n_inactive"]].min(axis=1).idxmax()]
        assays = (
            f"{len(tested)} of {len(counts)} tasks have at least {min_active} actives and {min_inactive} inactives "
            f"among the paired compounds (the best task, {best['task']}, has {best['n_active']} and "
            f"{best['n_inactive']})"
        )
    n_families = int((tested.loc[tested["family"] != "other", "family"].value_counts() >= MIN_TASKS_PER_FAMILY).sum())
    rows = [
        ("replicate_clustering", n_replicated >= 2, replicates),
        (
            "activity_calls",
            n_replicated >= 2 and n_controls >= 2,
            f"{n_controls} negative-control wells in CP; {calls}",
        ),
        (
            "moa_clustering",
            n_moas >= 2,
            f"{n_moas} MoAs are shared by at least 2 compounds of different structure ({n_annotated} of {len(paired)} "
            "paired compounds have an MoA; at least 2 such MoAs are needed)",
        ),
        (
            "retrieval",
            len(paired) >= MIN_PAIRED_COMPOUNDS,
            f"{len(paired)} compounds with both CP and TX (at least {MIN_PAIRED_COMPOUNDS} are needed)",
        ),
        ("bioactivity", len(tested) > 0, assays),
        (
            "target_families",
            n_families > 0,
            f"{n_families} target families have at least {MIN_TASKS_PER_FAMILY} tasks with enough labels",
        ),
    ]
    return pd.DataFrame(rows, columns=["endpoint", "testable", "reason"])


def task_counts(screen: Screen, min_active: int = 25, min_inactive: int = 25) -> pd.DataFrame:
    """Labels of each task among the paired compounds, in the order of `screen.tasks`.

    Columns task, target, family, source, n_active, n_inactive, tested (True where both counts reach the minimum).
    """
    labels = screen.activity[screen.activity[COMPOUND].isin(paired_compounds(screen))]
    counts = pd.crosstab(labels["task"], labels["active"])
    n_active, n_inactive = counts.reindex(screen.tasks["task"], columns=[1, 0], fill_value=0).to_numpy().T
    tested = (n_active >= min_active) & (n_inactive >= min_inactive)
    table = screen.tasks[TASK_COLUMNS].reset_index(drop=True)
    return table.assign(n_active=n_active, n_inactive=n_inactive, tested=tested)
