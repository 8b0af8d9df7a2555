"""What is known of a screen's compounds: structures, mechanisms of action, targets and assay outcomes.

Public annotation tables name compounds in three ways: Broad ids (BRD, whose first 13 characters name the
compound and whose rest names the batch), SMILES and InChIKeys. Mechanisms meet compounds by Broad id or on the
first block of the InChIKey (14 characters: the skeleton without stereochemistry and charge), called a *block*
below. Assay outcomes meet them on the full InChIKey, and on the block only where the rows of the block agree:
stereoisomers differ in activity, and a diversity-oriented library such as CDRP holds many of them.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.downloads import LocalFile
from cpx_utils.profiles import (
    ACTIVITY_COLUMNS,
    ANNOTATED,
    BLOCK_LENGTH,
    COMPOUND,
    TASK_COLUMNS,
    Screen,
    ScreenError,
    compound_groups,
    inchikeys,
    no_outcomes,
    paired_compounds,
    split_values,
    task_counts,
)
from cpx_utils.provenance import atomic_path

BROAD_ID_LENGTH = 13


# --------------------------------------------------------------------------------------------- structures


def cached_inchikeys(smiles: Sequence[str], cache_file: Path) -> list[str]:
    """As `inchikeys`, kept in `cache_file` (parquet): thousands of keys take some seconds.

    The file's name must hold the hash of the source of `smiles`, so that another source has another cache. A
    cache that can't be read, or is not for these SMILES, is computed afresh; one that can't be written is
    done without.
    """
    smiles = [str(text) for text in smiles]
    try:
        cached = pd.read_parquet(cache_file)
        if cached["SMILES"].tolist() == smiles:
            return cached["InChIKey"].tolist()
    except (OSError, ValueError, KeyError):
        pass
    keys = inchikeys(smiles)
    try:
        with atomic_path(cache_file) as temporary:
            pd.DataFrame({"SMILES": smiles, "InChIKey": keys}).to_parquet(temporary, index=False)
    except OSError:
        pass
    return keys


def read_table(path: str | Path, columns: Sequence[str], separator: str = ",", **options) -> pd.DataFrame:
    """Read an annotation table and make sure of its columns.

    Raises
    ------
    ScreenError
        If the file is no such table or lacks a column: an unverified newer release may differ.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, sep=separator, low_memory=False, **options)
    except (OSError, EOFError, ValueError) as error:
        raise ScreenError(f"{path.name}: can't be read as a table ({_one_line(error)})") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ScreenError(f"{path.name}: column {missing[0]!r} is missing; the registry's release has {list(columns)}")
    return table


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_broad_structures(ids_path: str | Path, smiles_path: str | Path) -> pd.DataFrame:
    """BRD ids with SMILES from the two parallel lists of Moshkov 2023 (16,978 CDRP compounds).

    Returns
    -------
    pandas.DataFrame
        Metadata_Compound, SMILES, InChIKey14 (``""``: the lists have none).
    """
    ids = read_table(ids_path, ["broad_id"], dtype=str)["broad_id"]
    # a SMILES holds neither quotes nor tabs, but may hold commas in extended forms
    smiles = read_table(smiles_path, ["smiles"], "\t", dtype=str, quoting=3)["smiles"]
    if len(ids) != len(smiles):
        raise ScreenError(
            f"{Path(ids_path).name} has {len(ids)} rows and {Path(smiles_path).name} {len(smiles)}; "
            "the two lists belong together row by row"
        )
    return pd.DataFrame({COMPOUND: ids.str[:BROAD_ID_LENGTH], "SMILES": smiles, "InChIKey14": ""})


def read_structure_table(path: str | Path) -> pd.DataFrame:
    """BRD ids, SMILES and InChIKey blocks of InfoAlign's structure.csv.gz; rows without id are left out."""
    table = read_table(path, ["pert_id", "smiles", "inchikey"], dtype=str)
    table = table[table["pert_id"].notna()]
    return pd.DataFrame(
        {
            COMPOUND: table["pert_id"].str[:BROAD_ID_LENGTH],
            "SMILES": table["smiles"].fillna(""),
            "InChIKey14": table["inchikey"].fillna("").str[:BLOCK_LENGTH],
        }
    ).reset_index(drop=True)


def join_structures(
    compounds: Sequence[str], sources: Sequence[pd.DataFrame], cache: Path | None = None
) -> tuple[pd.DataFrame, int]:
    """Structure of each compound from the first source that has one.

    Parameters
    ----------
    compounds : sequence of str
        Ids, in the order of the result.
    sources : sequence of pandas.DataFrame
        Tables with Metadata_Compound, SMILES and InChIKey14, the most trusted first. Keys that are ``""`` are
        computed from the SMILES.
    cache : path, optional
        Folder where computed keys are kept.

    Returns
    -------
    table : pandas.DataFrame
        Metadata_Compound, SMILES, InChIKey14, both ``""`` where unknown.
    conflicts : int
        Compounds for which two sources disagree in the InChIKey block.
    """
    compounds = [str(compound) for compound in compounds]
    wanted = set(compounds)
    smiles: dict[str, str] = {}
    blocks: dict[str, set] = {compound: set() for compound in compounds}
    first: dict[str, str] = {}
    for source in sources:
        rows = source[source[COMPOUND].isin(wanted)].drop_duplicates(COMPOUND).copy()
        unkeyed = (rows["InChIKey14"] == "").to_numpy()
        if unkeyed.any():
            computed = _keys_of(rows.loc[unkeyed, "SMILES"].fillna("").tolist(), cache)
            rows.loc[unkeyed, "InChIKey14"] = [key[:BLOCK_LENGTH] for key in computed]
        for compound, text, block in rows[[COMPOUND, "SMILES", "InChIKey14"]].itertuples(index=False):
            if block:
                blocks[compound].add(block)
                first.setdefault(compound, block)
                smiles.setdefault(compound, text)
    table = pd.DataFrame(
        {
            COMPOUND: compounds,
            "SMILES": [smiles.get(compound, "") for compound in compounds],
            "InChIKey14": [first.get(compound, "") for compound in compounds],
        }
    )
    return table, sum(len(found) > 1 for found in blocks.values())


def _keys_of(smiles: Sequence[str], cache: Path | None) -> list[str]:
    """Full InChIKeys of SMILES that no single file lists, kept by the hash of the distinct ones."""
    distinct = sorted(set(smiles) - {""})
    if cache is None:
        keys = inchikeys(distinct)
    else:
        content = hashlib.sha256("\n".join(distinct).encode()).hexdigest()
        keys = cached_inchikeys(distinct, cache / f"inchikeys-{content[:16]}.parquet")
    found = dict(zip(distinct, keys, strict=True))
    return [found.get(text, "") for text in smiles]


# --------------------------------------------------------------------------------- mechanisms and targets


def read_repurposing_hub(path: str | Path) -> pd.DataFrame:
    """Compounds of the Drug Repurposing Hub (Corsello 2017, doi 10.1038/nm.4306).

    Returns
    -------
    pandas.DataFrame
        Metadata_Compound (13 characters), SMILES, InChIKey14, MoA and target (lists); one row a distinct
        combination of compound and annotation.
    """
    wanted = ["broad_id", "moa", "target", "smiles", "InChIKey14"]
    table = read_table(path, wanted, "\t", dtype=str, quoting=3)[wanted].fillna("")
    table["broad_id"] = table["broad_id"].str[:BROAD_ID_LENGTH]
    table = table.drop_duplicates(ignore_index=True)
    return pd.DataFrame(
        {
            COMPOUND: table["broad_id"],
            "SMILES": table["smiles"],
            "InChIKey14": table["InChIKey14"],
            "MoA": table["moa"].map(split_values),
            "target": table["target"].map(split_values),
        }
    )


def annotate_mechanisms(structures: pd.DataFrame, hub: pd.DataFrame) -> pd.DataFrame:
    """Add MoA and target to compounds: those of the Hub's entry by compound id, else by InChIKey block.

    Entries of several batches or stereoisomers are united, in the Hub's order. MoA and target are looked up
    each by itself: an entry that has only one of them takes the other from its block.

    Parameters
    ----------
    structures : pandas.DataFrame
        Metadata_Compound, SMILES, InChIKey14.
    hub : pandas.DataFrame
        As `read_repurposing_hub` returns it.

    Returns
    -------
    pandas.DataFrame
        The columns of `profiles.COMPOUND_COLUMNS`.
    """
    by_compound = _united(hub, COMPOUND)
    by_block = _united(hub[hub["InChIKey14"] != ""], "InChIKey14")
    table = structures[[COMPOUND, "InChIKey14", "SMILES"]].copy()
    keys = list(zip(table[COMPOUND], table["InChIKey14"], strict=True))
    nothing: tuple[list[str], list[str]] = ([], [])
    for part, column in enumerate(("MoA", "target")):
        found = [
            list(by_compound.get(compound, nothing)[part] or by_block.get(block, nothing)[part])
            for compound, block in keys
        ]
        table[column] = pd.Series(found, index=table.index, dtype=object)
    return table


def _united(hub: pd.DataFrame, key: str) -> dict[str, tuple[list[str], list[str]]]:
    united: dict[str, tuple[list[str], list[str]]] = {}
    for name, moa, target in hub[[key, "MoA", "target"]].itertuples(index=False):
        known = united.setdefault(name, ([], []))
        for values, new in zip(known, (moa, target), strict=True):
            values.extend(value for value in new if value not in values)
    return united


# ------------------------------------------------------------------------------------------------- assays


@dataclass(frozen=True)
class AssayTable:
    """Assay outcomes by structure.

    Attributes
    ----------
    source : str
        Short name of the collection, which its tasks carry.
    keys : list of str
        Full InChIKey of each row, ``""`` where the table's SMILES can't be read.
    blocks : list of str
        InChIKey block of each row, that of the table where it has one; ``""`` if unknown.
    labels : pandas.DataFrame
        One column a task, values 1, 0 or NaN (not measured). Several rows may share a key or a block.
    tasks : pandas.DataFrame
        task (the column names of `labels`, in order), target, family.
    """

    source: str
    keys: list[str]
    blocks: list[str]
    labels: pd.DataFrame
    tasks: pd.DataFrame


def _row_keys(table: pd.DataFrame, cache_file: Path) -> tuple[list[str], list[str]]:
    """Full InChIKey and block of each row; the block is the table's own where it has one (column inchikey)."""
    keys = cached_inchikeys(table["smiles"].fillna("").tolist(), cache_file)
    given = table["inchikey"].fillna("").tolist() if "inchikey" in table else [""] * len(keys)
    return keys, [(block or key)[:BLOCK_LENGTH] for block, key in zip(given, keys, strict=True)]


def _assay_labels(table: pd.DataFrame, columns: Sequence[str], path: str | Path) -> pd.DataFrame:
    labels = table[list(columns)]
    values = labels.to_numpy(dtype=float, na_value=np.nan)
    values = np.where(values == -1, np.nan, values)  # some releases write -1 for not measured
    wrong = np.isfinite(values) & ~np.isin(values, (0, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ScreenError(
            f"{Path(path).name}: assay {columns[column]!r} has the value {values[row, column]:g} in data row "
            f"{row + 1}; outcomes are 0, 1 or empty"
        )
    return pd.DataFrame(values, columns=list(columns))


PUMA_ID = r"\d+_\d+"


def _puma_tasks(columns: Sequence[str], metadata_path: str | Path) -> pd.DataFrame:
    """Tasks of assays that are known by PUMA id, with the names and types of Moshkov 2023."""
    described = read_table(metadata_path, ["PUMA_ASSAY_ID", "ASSAY_NAME", "ASSAY_TYPE"], dtype=str)
    described = described.drop_duplicates("PUMA_ASSAY_ID").set_index("PUMA_ASSAY_ID").fillna("")
    rows = []
    for column in columns:
        name, kind = described.loc[column, ["ASSAY_NAME", "ASSAY_TYPE"]] if column in described.index else ("", "")
        target, family = assay_target(name)
        # an assay without a name of its own repeats its id
        task = f"{column} {name}" if name not in ("", column) else column
        rows.append((task, target, family or kind or "other"))
    return pd.DataFrame(rows, columns=["task", "target", "family"], dtype="str")


def _puma_assays(source: str, table: pd.DataFrame, paths: Sequence[str | Path], cache_file: Path) -> AssayTable:
    columns = [column for column in table.columns if re.fullmatch(PUMA_ID, column)]
    if not columns:
        raise ScreenError(f"{Path(paths[0]).name}: no assay columns; they are named by PUMA id, such as '220_692'")
    tasks = _puma_tasks(columns, paths[1])
    labels = _assay_labels(table, columns, paths[0]).set_axis(tasks["task"], axis=1)
    return AssayTable(source, *_row_keys(table, cache_file), labels, tasks)


def read_moshkov_270(matrix_path: str | Path, metadata_path: str | Path, cache_file: Path) -> AssayTable:
    """The 270 assays of Moshkov 2023 (doi 10.1038/s41467-023-37570-1) on 16,170 CDRP compounds.

    The task is the PUMA id followed by the assay's name. The family is that of the protein in the assay's name
    (`assay_target`), or else the assay's type (cell, biochem, bacterial, ...).

    Parameters
    ----------
    matrix_path, metadata_path : path
        ``assay_matrix_discrete_270_assays.csv`` and ``assay_metadata.csv``.
    cache_file : path
        As for `cached_inchikeys`.
    """
    table = read_table(matrix_path, ["smiles"], dtype={"smiles": str})
    return _puma_assays("Moshkov 270", table, (matrix_path, metadata_path), cache_file)


def read_broad6k(assays_path: str | Path, metadata_path: str | Path, cache_file: Path) -> AssayTable:
    """The 32 assays of InfoAlign's broad6k, a part of the 270, named as `read_moshkov_270` names them."""
    table = read_table(assays_path, ["smiles", "inchikey"], dtype={"smiles": str, "inchikey": str})
    return _puma_assays("broad6k", table, (assays_path, metadata_path), cache_file)


def read_toxcast(path: str | Path, cache_file: Path) -> AssayTable:
    """The 617 ToxCast assays of InfoAlign's moltoxcast (8,576 SMILES; families by `toxcast_family`)."""
    table = read_table(path, ["smiles"], dtype={"smiles": str, "mol_id": str})
    columns = [column for column in table.columns if column not in ("smiles", "mol_id")]
    tasks = pd.DataFrame(
        {
            "task": columns,
            "target": [toxcast_target(column) for column in columns],
            "family": [toxcast_family(column) for column in columns],
        }
    )
    return AssayTable("ToxCast", *_row_keys(table, cache_file), _assay_labels(table, columns, path), tasks)


def read_chembl2k(path: str | Path, cache_file: Path) -> AssayTable:
    """The 41 protein targets of InfoAlign's chembl2k (task ``ChEMBL SYMBOL``, family by `target_family`)."""
    names = ["smiles", "inchikey", "Metadata_JCP2022", "ChEMBL_ID"]
    table = read_table(path, names[:2], dtype=dict.fromkeys(names, str))
    columns = [column for column in table.columns if column not in names]
    tasks = pd.DataFrame(
        {
            "task": [f"ChEMBL {symbol}" for symbol in columns],
            "target": columns,
            "family": [target_family(symbol) for symbol in columns],
        }
    )
    labels = _assay_labels(table, columns, path).set_axis(tasks["task"], axis=1)
    return AssayTable("ChEMBL", *_row_keys(table, cache_file), labels, tasks)


def outcomes(
    assays: AssayTable, compounds: pd.DataFrame, cache: Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Outcomes of a screen's compounds in a collection of assays.

    The label of a compound in a task is that of the rows with its own full InChIKey: active if any of them is
    active. Where none of them was measured in the task, the rows of its InChIKey block (stereoisomers, isotopes,
    charge states) decide if they are unanimous. Where they disagree the compound gets no label.

    Parameters
    ----------
    assays : AssayTable
    compounds : pandas.DataFrame
        Metadata_Compound, InChIKey14 and SMILES (both ``""`` for compounds without a structure, which get no
        label). A compound whose SMILES can't be read is looked up by its block alone.
    cache : path, optional
        Folder where the computed keys are kept.

    Returns
    -------
    activity : pandas.DataFrame
        Metadata_Compound, task, active (int8), ordered by compound, then task.
    tasks : pandas.DataFrame
        Those tasks of the collection that reach at least one compound: the columns of
        `profiles.TASK_COLUMNS`, and conflicts, the number of compounds that got no label in the task because
        their isomers disagree, or whose own rows held both 0 and 1 (these count as active).
    """
    keys = np.asarray(_keys_of(compounds["SMILES"].fillna("").tolist(), cache), dtype=object)
    blocks = compounds["InChIKey14"].fillna("").to_numpy(dtype=object)
    row_keys, row_blocks = (np.asarray(names, dtype=object) for names in (assays.keys, assays.blocks))
    reached = _is_among(keys, row_keys) | _is_among(blocks, row_blocks)
    own_most, own_least = _extremes(assays.labels, row_keys, keys[reached])
    block_most, block_least = _extremes(assays.labels, row_blocks, blocks[reached])
    has_own = np.isfinite(own_most)
    agreed = np.where(block_most == block_least, block_most, np.nan)
    wide = np.where(has_own, own_most, agreed)  # (n_compounds reached, n_tasks)
    conflicts = np.where(has_own, own_most > own_least, block_most > block_least).sum(axis=0)
    compound, task = np.nonzero(np.isfinite(wide))
    activity = pd.DataFrame(
        {
            COMPOUND: compounds[COMPOUND].to_numpy()[reached][compound],
            "task": assays.tasks["task"].to_numpy()[task],
            "active": wide[compound, task].astype(np.int8),
        },
        columns=ACTIVITY_COLUMNS,
    )
    tasks = assays.tasks.assign(source=assays.source)[TASK_COLUMNS].assign(conflicts=conflicts)
    return activity, tasks.iloc[np.unique(task)].reset_index(drop=True)


def _extremes(labels: pd.DataFrame, names: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest label of the rows that have each wanted name, NaN where none was measured.

    Both are (n_wanted, n_tasks). The name ``""`` is unknown and matches nothing.
    """
    kept = _is_among(names, wanted)
    grouped = labels[kept].groupby(names[kept])
    most, least = (found.reindex(wanted).to_numpy(dtype=float) for found in (grouped.max(), grouped.min()))
    return most, least


def _is_among(names: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each name is known and one of `others`."""
    # numpy.isin compares objects one by one; pandas hashes them
    return pd.Index(names, dtype=object).isin(others) & (names != "")


def without_tasks(assays: AssayTable, names: Iterable[str]) -> AssayTable:
    """The collection without the tasks `names`, which another collection brings already."""
    kept = ~assays.tasks["task"].isin(set(names)).to_numpy()
    labels, tasks = assays.labels.loc[:, kept], assays.tasks[kept].reset_index(drop=True)
    return AssayTable(assays.source, assays.keys, assays.blocks, labels, tasks)


def hub_targets(compounds: pd.DataFrame, min_active: int = 5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Annotated targets as tasks: every compound with any target is active on its own targets, inactive on others.

    Nobody measured these labels. An inactive compound may well bind; it is only not known to. The tasks carry
    the source `profiles.ANNOTATED`, by which `profiles.measured_only` leaves them out.

    Parameters
    ----------
    compounds : pandas.DataFrame
        Metadata_Compound and target, as `annotate_mechanisms` returns them.
    min_active : int
        Compounds a target needs.

    Returns
    -------
    activity : pandas.DataFrame
        Metadata_Compound, task (``annotated SYMBOL``), active (int8), ordered by compound, then task.
    tasks : pandas.DataFrame
        As of `outcomes`, ordered by symbol; the family is `target_family` after ``annotation: ``.
    """
    known = compounds.loc[compounds["target"].map(bool), [COMPOUND, "target"]]
    counts = known["target"].map(set).explode().value_counts()
    symbols = sorted(counts.index[counts >= min_active])
    names = [f"annotated {symbol}" for symbol in symbols]
    active = np.array([[symbol in targets for symbol in symbols] for targets in known["target"]], np.int8)
    activity = pd.DataFrame(
        {
            COMPOUND: known[COMPOUND].repeat(len(symbols)).to_numpy(),
            "task": np.tile(np.array(names, dtype=object), len(known)),
            "active": active.reshape(-1),
        },
        columns=ACTIVITY_COLUMNS,
    )
    families = [f"annotation: {target_family(symbol)}" for symbol in symbols]
    columns = {"task": names, "target": symbols, "family": families, "source": ANNOTATED, "conflicts": 0}
    return activity, pd.DataFrame(columns).astype({"task": "str", "target": "str", "family": "str", "source": "str"})


# ------------------------------------------------------------------------------- everything about compounds


# The files each collection of assays is read from, by the role they have in a data set.
_COLLECTION_ROLES = {
    "Moshkov 270": ("assays_270", "assay_names"),
    "broad6k": ("broad6k_assays", "assay_names"),
    "ToxCast": ("toxcast_assays",),
    "ChEMBL": ("chembl2k_assays",),
}


def _at_hand(obtain: Callable[[str], LocalFile], *roles: str) -> list[LocalFile] | None:
    """The files of `roles`, or None if the data set has one of them not."""
    try:
        return [obtain(role) for role in roles]
    except KeyError:
        return None


def _structure_sources(obtain: Callable[[str], LocalFile], hub: pd.DataFrame) -> list[pd.DataFrame]:
    """Public structure tables of Broad compounds, the most trusted first."""
    sources = []
    if lists := _at_hand(obtain, "broad_ids", "broad_smiles"):
        sources.append(read_broad_structures(lists[0].path, lists[1].path))
    if structures := _at_hand(obtain, "broad6k_structures"):
        sources.append(read_structure_table(structures[0].path))
    return [*sources, hub[[COMPOUND, "SMILES", "InChIKey14"]]]


def _read_collection(name: str, obtain: Callable[[str], LocalFile], cache: Path) -> AssayTable | None:
    """One collection of assays, None where the data set has no files for it."""
    files = _at_hand(obtain, *_COLLECTION_ROLES[name])
    if files is None:
        return None
    paths = [file.path for file in files]
    keys = cache / f"inchikeys-{files[0].sha256[:16]}.parquet"
    if name == "Moshkov 270":
        return read_moshkov_270(*paths, keys)
    if name == "broad6k":
        return read_broad6k(*paths, keys)
    return read_toxcast(*paths, keys) if name == "ToxCast" else read_chembl2k(*paths, keys)


def annotate_compounds(
    compounds: Sequence[str],
    obtain: Callable[[str], LocalFile],
    cache: Path,
    *,
    own: pd.DataFrame | None = None,
    collections: Sequence[str] = ("broad6k", "ToxCast", "ChEMBL"),
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Structures, MoA, targets and assay outcomes of Broad compounds, from the registry's annotation files.

    Parameters
    ----------
    compounds : sequence of str
        BRD ids of 13 characters.
    obtain : callable
        Gives the `LocalFile` of a role; raises KeyError for a role the data set has not, whose table is then
        done without. The roles: hub; broad_ids with broad_smiles, broad6k_structures (structures); assay_names
        with assays_270 or broad6k_assays, toxcast_assays, chembl2k_assays (assays).
    cache : path
        Folder for keys computed once.
    own : pandas.DataFrame, optional
        The screen's own structures, trusted most: Metadata_Compound, SMILES, InChIKey14 (``""``: computed).
    collections : sequence of str
        Of "Moshkov 270", "broad6k", "ToxCast", "ChEMBL" and "annotation" (`hub_targets`). A task that an
        earlier collection has too is left out of the later one.

    Returns
    -------
    compounds, activity, tasks : pandas.DataFrame
        As in `Screen`.
    notes : list of str
    """
    if hub_file := _at_hand(obtain, "hub"):
        hub = read_repurposing_hub(hub_file[0].path)
    else:
        hub = pd.DataFrame(columns=[COMPOUND, "SMILES", "InChIKey14", "MoA", "target"], dtype=object)
    sources = ([] if own is None else [own]) + _structure_sources(obtain, hub)
    structures, disagreements = join_structures(compounds, sources, cache)
    table = annotate_mechanisms(structures, hub)
    notes = _annotation_notes(table, disagreements)
    activities, tasks, seen = [], [], set()
    for name in collections:
        if name == ANNOTATED:
            labels, reached = hub_targets(table)
        else:
            assays = _read_collection(name, obtain, cache)
            assays = without_tasks(assays, seen) if assays is not None else None
            if assays is None or assays.tasks.empty:
                continue
            labels, reached = outcomes(assays, table, cache)
            seen |= set(assays.tasks["task"])
        activities.append(labels)
        tasks.append(reached)
        notes += _collection_notes(name, labels, reached)
    if not tasks:
        return table, *no_outcomes(), notes
    return table, pd.concat(activities, ignore_index=True), pd.concat(tasks, ignore_index=True), notes


def _annotation_notes(table: pd.DataFrame, disagreements: int) -> list[str]:
    known, mechanisms = int((table["InChIKey14"] != "").sum()), int(table["MoA"].map(bool).sum())
    notes = [
        f"{known} of {len(table)} compounds have a structure, {mechanisms} a mechanism of action "
        "(Repurposing Hub, by compound id or else by InChIKey block)."
    ]
    if disagreements:
        notes.append(f"{disagreements} compounds have two structures in the sources; the first was taken.")
    return notes


def _collection_notes(name: str, labels: pd.DataFrame, reached: pd.DataFrame) -> list[str]:
    n_compounds = labels[COMPOUND].nunique()
    if name != ANNOTATED:
        return [
            f"{name}: {n_compounds} compounds have {len(labels)} outcomes in {len(reached)} assays; "
            f"{reached['conflicts'].sum()} compound-assay pairs are conflicts: without a label where only isomers "
            "were measured and disagree, active where rows of the compound itself hold both 0 and 1."
        ]
    if reached.empty:
        return []
    return [
        f"{len(reached)} tasks are annotated targets of {n_compounds} compounds (Repurposing Hub): "
        "their labels were not measured."
    ]


def reach(screen: Screen, min_active: int = 25, min_inactive: int = 25) -> pd.DataFrame:
    """How many paired compounds each table of outcomes reaches, and what can be tested on it.

    Parameters
    ----------
    screen : Screen
    min_active, min_inactive : int
        Labels of each kind a task needs among the paired compounds to be tested.

    Returns
    -------
    pandas.DataFrame
        One row a source in the order of the tasks, then one for mechanisms: source, compounds (paired ones
        with any label), tasks (with any such label), tested (tasks with enough labels of both kinds), labels,
        conflicts (as of `outcomes`: compound-task pairs without a label because isomers disagree, or whose own
        rows held both 0 and 1, of all compounds of the screen) and families (tasks of the most frequent ones).
        In the row of mechanisms, tasks are MoAs, tested those of at least two compounds of different structure,
        labels pairs of a compound and an MoA.
    """
    paired = paired_compounds(screen)
    counts = task_counts(screen, min_active, min_inactive)
    counts["labels"] = counts["n_active"] + counts["n_inactive"]
    counts["conflicts"] = screen.tasks["conflicts"].to_numpy() if "conflicts" in screen.tasks else 0
    activity = screen.activity[screen.activity[COMPOUND].isin(paired)]
    source_of = activity["task"].map(counts.set_index("task")["source"])
    compounds = activity[COMPOUND].groupby(source_of.to_numpy()).nunique()
    rows = []
    for source, tasks in counts[counts["labels"] > 0].groupby("source", sort=False):
        rows.append(
            (
                source or "not stated",
                int(compounds[source]),
                len(tasks),
                int(tasks["tested"].sum()),
                int(tasks["labels"].sum()),
                int(tasks["conflicts"].sum()),
                _family_text(tasks["family"]),
            )
        )
    rows.append(_mechanism_reach(screen, paired))
    return pd.DataFrame(rows, columns=["source", "compounds", "tasks", "tested", "labels", "conflicts", "families"])


def _family_text(families: pd.Series, limit: int = 6) -> str:
    """The most frequent families with their counts, in words: ``cell 20, kinase 3, 4 in other families``."""
    ordered = sorted(families.value_counts().items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{family} {count}" for family, count in ordered[:limit]]
    rest = sum(count for _, count in ordered[limit:])
    return ", ".join(shown + ([f"{rest} in other families"] if rest else []))


def _mechanism_reach(screen: Screen, paired: Sequence[str]) -> tuple[str, int, int, int, int, int, str]:
    from_hub = any(str(source["file"]).endswith("repurposing_info.tsv") for source in screen.sources)
    known = screen.compounds[screen.compounds[COMPOUND].isin(paired)]
    held = known.assign(group=compound_groups(known).to_numpy())[["group", "MoA"]].explode("MoA").dropna()
    shared = held.groupby("MoA")["group"].nunique()
    name = "Repurposing Hub MoA" if from_hub else "MoA"
    return name, int(known["MoA"].map(bool).sum()), len(shared), int((shared >= 2).sum()), len(held), 0, ""


# ----------------------------------------------------------------------------------------- target families

# Patterns of HGNC symbols (regular expressions, separated by blanks). The families are tried in this order;
# the first with a pattern that matches the whole symbol decides: ligand-gated channels stand before the
# receptors that share their stem (HTR3A before HTR1A, CHRNA7 before CHRM1), and epigenetic writers, readers
# and erasers before the enzymes they also are. A subunit has the family of its complex (PIK3R1: kinase; PSMD1:
# protease). Channels include connexins and aquaporins, transporters include ion pumps, as in the IUPHAR guide.
# Kinases are those of proteins and lipids; kinases of small metabolites (GCK, GALK1) are other enzymes. Older symbols
# that the Repurposing Hub still uses are listed too (ADRBK1, GSG2).
FAMILY_RULES: dict[str, str] = {
    "cytochrome P450": r"CYP\d+[A-Z]*\d*",
    "phosphodiesterase": r"PDE\d+[A-H]?",
    "nuclear receptor": r"""
        NR\d[A-Z]\d ESR[12] ESRR[ABG] AR PGR PPAR[ADG] RAR[ABG] RXR[ABG] THR[AB] VDR ROR[ABC] HNF4[AG]
    """,
    "ion channel": r"""
        KCN[A-Z]+\d+ SCN\d+[AB] SCNN1[ABDG] CACN[AGB]\d*[A-Z]? CACNA2D\d TRP[ACMV]\d MCOLN\d
        GRI[AKN]\d[A-D]? GRID\d GABR[ABDEGPQR]\d? GLRA\d GLRB CHRN[ABDEG]\d* HTR3[A-E] P2RX\d CFTR ASIC\d
        HCN\d RYR\d ITPR\d CLCN[A-Z0-9]+ ANO[12] ORAI\d PIEZO\d VDAC\d CNG[AB]\d
        CATSPER\w+ PKD2(L\d)? GJ[A-E]\d+ PANX\d NALCN AQP\d+
    """,
    "transporter": r"SLC\d+[A-Z]+\d+ SLCO\d[A-Z]\d ABC[A-G]\d+ ATP\d+[A-Z]\d* ATP6V\w+ UCP\d SV2[ABC] TSPO MPC\d",
    "GPCR": r"""
        ADR[AB]\d[A-D]? DRD\d HTR\d[A-F]? CHRM\d HRH\d OPR[DKLM]1 ADORA\d[AB]? CNR[12] MC\dR PTG[DFI]R2?
        PTGER\d TBXA2R AGTR\d EDNR[AB] TACR\d NPY\dR CCR\d+ CXCR\d CCK[AB]R AVPR\d[AB]? OXTR SSTR\d GRM\d
        GABBR\d GLP\dR GCGR GIPR SCTR CRHR\d LPAR\d S1PR\d P2RY\d+ F2R F2RL\d FFAR\d GPR\d+ GPER1? GPRC\w+
        GPBAR1 SMO FZD\d+ HCRTR\d MTNR1[AB] TSHR LHCGR FSHR CASR GNRHR2? GHSR GHRHR VIPR\d ADCYAP1R1 PTH\dR
        CALCR CALCRL BDKRB\d C[35]AR\d FPR\d LTB4R2? CYSLTR\d NTSR\d GALR\d TAAR\d MLNR TAS[12]R\d+ BRS3
        GRPR NMBR PTAFR UTS2R HCAR\d OXER1 MRGPR\w+ RXFP\d PRLHR QRFPR KISS1R MCHR\d XCR1 ACKR\d SUCNR1 TRHR
        NPFFR\d PROKR\d NPBWR\d NPSR1 OXGR1 RHO LGR[4-6] ADGR\w+ OR\d+[A-Z]+\d+
    """,
    "epigenetic": r"""
        HDAC\d+ SIRT\d KDM\d[A-E]? KMT\d[A-E]? EZH\d DNMT\d[ABL]? BRD[1-4789] BRDT EHMT\d SETD\w+ SMYD\d
        PRMT\d CARM1 DOT1L EP300 CREBBP KAT\d+[AB]? HAT1 SUV39H\d NSD\d WDR5 L3MBTL\d TET\d CBX\d ATAD2B?
        EED SUZ12 MEN1 BAZ\d[AB] CECR2 BPTF TAF1 BRPF\d PBRM1 SMARCA[24] PHF8
    """,
    "kinase": r"""
        ABL[12] AKT\d ALK AURK[ABC] AXL [AB]RAF RAF1 BTK CDK\d+[AB]? CDKL\d CHEK[12] CLK\d CSF1R CSK CSNK\w+
        DAPK\d DDR[12] DYRK(1[AB]|[234]) EGFR EPH[AB]\d+ ERBB[234] FGFR\d FLT[134] FYN FGR FER FES FRK GSK3[AB] GRK\d
        GAK HCK HIPK\d IGF1R IKBK[BEG] CHUK INSR INSRR IRAK\d ITK ILK JAK\d KDR KIT LCK LIMK\d LRRK\d LYN
        LATS\d MAP[234]K\d+ MAPK\d+ MAPKAPK\d MARK\d MELK MERTK MET MST1R MKNK\d MTOR MUSK NEK\d+ NTRK\d
        NUAK\d PAK\d PASK PBK PDGFR[AB] PDPK\d PDK\d PHKG\d PIK3C\w+ PIK3R\d PI4K\w+ PIP[45]K\w+ PIM\d PKN\d
        PKMYT1 PLK\d PRKA[AC]\w+ PRKAB\d PRKAG\d PRKC[A-Z] PRKD\d PRKDC PRKG\d PRKX PTK2B? PTK[67] RET
        RIPK\d ROCK\d ROS1 RPS6K\w+ SGK\d SIK\d SLK SRC SRPK\d STK\d+[A-Z]* SYK TAOK\d TBK1 TEC TEK TESK\d
        TGFBR[12] TIE1 TLK\d TNIK TNK\d TTK TXK TYK2 TYRO3 ULK\d VRK\d WEE1 WNK\d YES1 ZAP70 ACVR\w+ ATM ATR
        BMPR\w+ BLK BMX BUB1B? CAMK\w+ CDC7 CDC42BP[ABG] DCLK\d EIF2AK\d ERN1 AAK1 AMHR2 OXSR1 PINK1 SPHK\d
        DGK[A-Z] MINK1 MYLK\d? HUNK LTK ADRBK\d GSG2 HASPIN SRMS TSSK\w+ PIKFYVE CERK DMPK
    """,
    "protease": r"""
        CASP\d+ CTS[A-Z]\d? MMP\d+ ADAM\d+ ADAMTS\d+ BACE\d DPP\d+ F(2|7|9|10|11|12) PLG PLA[UT] PRSS\d+
        KLK\d+ KLKB1 ELANE ACE2? ECE\d MME REN PSM[A-D]\d+ PSEN\d NCSTN CAPN\d+ USP\d+[XY]? UCHL\d FAP PCSK\d
        TPSAB1 TPSB2 TMPRSS\d+ HTRA\d FURIN LGMN ANPEP ERAP\d METAP\d GZM[ABHKM] CMA1 PREP CP[AB]\d LAP3 IDE
        TPP\d RCE1 MALT1 FOLH1 APH1[AB] PSENEN HPN CFD C1[RS] PROC BMP1 ENPEP DNPEP NPEPPS RNPEP DPEP\d MBTPS\d
        CELA\w+ SENP\d AFG3L2
    """,
    "other enzyme": r"""
        ACHE BCHE CA\d+[AB]? PTGS\d PTGES\d? PTGIS TBXAS1 ALOX\w+ MAO[AB] COMT NOS\d HMGC[RS]\d? DHFR TYMS
        TOP\d[AB]? TOP\dMT PARP\d+ TNKS\d? ALDH\w+ ADH\w+ AKR\w+ HSD\d+B\d+ HPRT1 IMPDH\d IDO\d TDO2 GAA GLA
        GBA\d? LDH[ABC] SOD\d XDH FDFT1 SQLE LSS DHCR\d+ EBP ODC1 ARG\d RRM\d[AB]? POL[A-Z]\d? FAAH2? MGLL
        PLA2\w+ PLC\w+ PLD\d CES\d EPHX\d GST\w+ UGT\w+ SULT\w+ TPH\d TH TYR DDC DBH ADA ADK PNP NAMPT
        AMPD\d DHODH UMPS GART ATIC FASN ACAC[AB] ACLY CPT\w+ SCD PTPN\d+ PTPR[A-Z]\d? PTEN DUSP\d+ PPP\d\w+
        CDC25[ABC] IDH\d GLS2? GLUL GLUD\d ENPP\d AOC\d CBR\d LTA4H LTC4S HDC KMO KYNU CAT PON\d LPL
        LIP[A-Z] PNLIP TPO SOAT\d DGAT\d MGAM SI AMY\w+ NEU\d HEX[AB] OGA OGT SRD5A\d STS CBS CTH BLVR[AB]
        HMOX\d TXNRD\d GSR NQO\d G6PD PGD ENO\d GAPDH HK\d GCK PFK[LMP] PFKFB\d PKM PKLR GUCY\w+ ADCY\d+
        TGM\d PADI\d LOX LOXL\d P4HA\d EGLN\d FTO NMT\d ICMT FNT[AB] GGPS1 FDPS NAT\d+ HPD HGD ALAS\d ALAD
        UROD MPO DAO ASAH\d SMPD\d IMPA\d INPP\w+ GLO1 AHCY PNMT MTHFR MTR MAT\d[AB] DPYD DCK TK\d UPP\d
        RNASEL PHGDH P4HB PDIA\d+ GALK\d PYG[BLM] ABAT VKORC1(L1)? GGCX PAH HPGDS? GAD[12] GPT2? GOT\d ASNS ASS1 GSS
        GCL[CM] FBP\d CTPS\d AGXT2? SHMT\d PPAT MGMT NOX\d DAGL[AB] GLB1 UGCG TAT BCAT\d APRT ACSL\d ACSS\d AOX1 POR
        HNMT TERT NDUF\w+ [A-Z]ARS[12]?
    """,
}
FAMILIES = (*FAMILY_RULES, "other")
_COMPILED_RULES = {family: re.compile("|".join(rules.split())) for family, rules in FAMILY_RULES.items()}


def target_family(symbol: str) -> str:
    """Target family of a human gene symbol.

    Parameters
    ----------
    symbol : str
        HGNC symbol, in capitals.

    Returns
    -------
    str
        One of `FAMILIES`: cytochrome P450, phosphodiesterase, nuclear receptor, ion channel, transporter,
        GPCR, epigenetic, kinase, protease, other enzyme, or other (no rule matches). Proteins that are none
        of these (MCL1, TUBB, SIGMAR1) are other.
    """
    for family, pattern in _COMPILED_RULES.items():
        if pattern.fullmatch(symbol):
            return family
    return "other"


# Names of one human protein that are no HGNC symbol, in lower case. Names of several proteins (PI3K, NOX family),
# of processes, and of proteins whose observations disagree (glutamate dehydrogenase) are left out on purpose.
_PROTEIN_NAMES = {
    "casp-6": "CASP6",
    "cav1.3": "CACNA1D",
    "erp5": "PDIA6",
    "galactokinasesignaling": "GALK1",  # of the enzyme itself, in spite of its name
    "gasc-1": "KDM4C",
    "gsk3alpha": "GSK3A",
    "gsk3beta": "GSK3B",
    "hdl receptor": "SCARB1",
    "pdi": "P4HB",
    "ras converting enzyme": "RCE1",
}
# Words that tell the family of an assay whose protein they leave open.
_CLASS_WORDS = {"kinase": "kinase", "phosphodiesterase": "phosphodiesterase"}
_NO_TARGET = re.compile(
    r"express|signal|regulation|pathogenesis"  # what is measured is a process, not the protein
    r"|\b[A-Z]\. [a-z]+",  # T. cruzi: a protein of another organism
    re.IGNORECASE,
)


def assay_target(name: str) -> tuple[str, str]:
    """Protein target in the name of an assay, and its family.

    The rules, in this order. What follows the readout (``.Lumin.CTG``) and the prefix ``MLPCN`` are no part of
    the name. A name of one human protein (a short list above) decides. Names of processes and of other organisms
    tell no target. A word is a symbol if it holds a digit or is all capitals, and a rule of `FAMILY_RULES`
    matches it without hyphens, in capitals and without ``Inhibition``, ``Inhibitor`` or ``invitro`` at its end.
    A name with two proteins tells none. The words kinase and phosphodiesterase tell the family alone.

    Parameters
    ----------
    name : str
        Such as ``MLPCN GSK3alpha`` or ``PTK2Inhibition.Lumin.KinGlo``.

    Returns
    -------
    target : str
        HGNC symbol, ``""`` if the name tells no single protein.
    family : str
        One of `FAMILIES` but never other; ``""`` if neither the name nor the protein tells it.
    """
    name = re.split(r"\.(?=Absorb|Fluor|Lumin|Reporter|ImmFluor|QPCR)", name)[0].removeprefix("MLPCN").strip()
    lower = f" {name.lower()} "
    named = {symbol for text, symbol in _PROTEIN_NAMES.items() if f" {text} " in lower}
    if not named and not _NO_TARGET.search(name):
        named = {symbol for word in re.split(r"[\s/]+", name) if (symbol := _symbol_in(word))}
    if len(named) == 1:
        symbol = named.pop()
        family = target_family(symbol)
        return symbol, "" if family == "other" else family
    families = {_CLASS_WORDS[word] for word in lower.split() if word in _CLASS_WORDS}
    return "", families.pop() if len(families) == 1 and not named else ""


def _symbol_in(word: str) -> str:
    """The gene symbol a word of an assay's name is, ``""`` if it is none that `target_family` knows."""
    word = re.sub(r"(Inhibition|[Ii]nhibitors?|invitro)$", "", word)
    written_as_symbol = any(letter.isdigit() for letter in word) or (len(word) > 2 and word.isupper())
    symbol = word.replace("-", "").upper()
    return symbol if written_as_symbol and target_family(symbol) != "other" else ""


# NovaScreen assays are named NVS_<class>_<species letters><target>; the class ENZ mixes enzyme families,
# which these stems of the target's name tell apart.
_NOVASCREEN_CLASSES = {
    "GPCR": "GPCR",
    "NR": "nuclear receptor",
    "ADME": "cytochrome P450",
    "TR": "transporter",
    "LGIC": "ion channel",
    "IC": "ion channel",
    "MP": "other",
    "OR": "other",
    "ENZ": "other enzyme",
}
_NOVASCREEN_ENZYMES = (
    ("kinase", r"AMPK|Aur[AB]|CK1|FGFR|GSK3|PI3K|Trk|VEGFR"),
    ("protease", r"BACE|CASP|Elastase|MMP"),
    ("phosphodiesterase", r"PDE"),
    ("epigenetic", r"SIRT"),
)


def toxcast_target(assay: str) -> str:
    """Target in the name of a NovaScreen assay, without the species letter; ``""`` for all other assays."""
    match = re.fullmatch(r"NVS_[A-Z]+_(?:rab|rm|[a-z])(.+)", assay)
    return match.group(1) if match else ""


def toxcast_family(assay: str) -> str:
    """Family of a ToxCast assay.

    NovaScreen names (``NVS_``) tell the target class; all other assays take their source's short name as
    family (ATG, APR, BSK, TOX21, ...), because one source is one kind of readout.
    """
    parts = assay.split("_")
    if parts[0] != "NVS" or len(parts) < 3:
        return parts[0] or "other"
    if parts[1] == "ENZ":
        for family, pattern in _NOVASCREEN_ENZYMES:
            if re.match(pattern, toxcast_target(assay)):
                return family
    return _NOVASCREEN_CLASSES.get(parts[1], "other")
