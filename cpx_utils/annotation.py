"""What is known of a screen's compounds: structures, mechanisms of action, targets and assay outcomes.

Public annotation tables name compounds in three ways: Broad ids (BRD, whose first 13 characters name the compound and
whose rest names the batch), SMILES and InChIKeys. Mechanisms meet compounds by Broad id or on the first block of the
InChIKey (14 characters: the skeleton without stereochemistry and charge), called a *block* below. Assay outcomes meet
them on the full InChIKey, and on the block only where the rows of the block agree: stereoisomers differ in activity,
and a diversity-oriented library such as CDRP holds many of them.

What names of genes, proteins and assays tell of targets is data: families.toml, beside this file.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils import profiles
from cpx_utils.profiles import ANNOTATED, BLOCK_LENGTH, COMPOUND, Screen, ScreenError, split_values

BROAD_ID_LENGTH = 13
# Collections of assays, with the roles of the files that each is read from: outcomes, and names where there are such.
COLLECTIONS = {
    "Moshkov 270": ("assays_270", "assay_names"),
    "broad6k": ("broad6k_assays", "assay_names"),
    "ToxCast": ("toxcast_assays",),
    "ChEMBL": ("chembl2k_assays",),
}
_NO_ASSAYS = ("smiles", "inchikey", "mol_id", "Metadata_JCP2022", "ChEMBL_ID")
_NAMES = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
_RULES = {family: re.compile("|".join(patterns.split())) for family, patterns in _NAMES["rules"].items()}
FAMILIES = (*_RULES, "other")


def read_table(path: str | Path, columns: Sequence[str], separator: str = ",", **options) -> pd.DataFrame:
    """Read a text table; a ScreenError if it is none or lacks a column, as an unverified release may."""
    name = Path(path).name
    try:
        table = pd.read_csv(path, sep=separator, low_memory=False, **options)
    except (OSError, EOFError, ValueError) as error:
        raise ScreenError(f"{name}: can't be read as a table ({error})") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ScreenError(f"{name}: column {missing[0]!r} is missing; the registry's release has {list(columns)}")
    return table


@cache
def full_key(smiles: str) -> str:
    """InChIKey of a SMILES, ``""`` where it can't be read; remembered, for a screen's compounds are asked for again."""
    return profiles.inchikeys([smiles])[0]


def join_structures(compounds: Sequence[str], sources: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, int]:
    """Structure of each compound from the first source that has one.

    Sources are tables with Metadata_Compound, SMILES and InChIKey14 (``""``: computed from the SMILES), the most
    trusted first. Returned are a table of these columns, in the order of `compounds`, both ``""`` where unknown, and
    for how many compounds two sources disagree in the InChIKey block.
    """
    blocks: dict[str, dict[str, str]] = {str(compound): {} for compound in compounds}  # SMILES by block, in order
    for source in sources:
        rows = source[source[COMPOUND].isin(blocks)].drop_duplicates(COMPOUND)
        for compound, smiles, known in zip(rows[COMPOUND], rows["SMILES"].fillna(""), rows["InChIKey14"], strict=True):
            if block := known or full_key(smiles)[:BLOCK_LENGTH]:
                blocks[compound].setdefault(block, smiles)
    first = [(compound, *next(iter(found.items()), ("", ""))) for compound, found in blocks.items()]
    table = pd.DataFrame(first, columns=[COMPOUND, "InChIKey14", "SMILES"], dtype="str")
    return table, sum(len(found) > 1 for found in blocks.values())


def read_structures(files: Callable[..., list[Path]]) -> list[pd.DataFrame]:
    """Public structures of Broad compounds, the most trusted first: Moshkov 2023 (16,978 of CDRP), and InfoAlign.

    Tables as `join_structures` takes them; `files` as in `annotate_compounds`.
    """
    sources = []
    if lists := files("broad_ids", "broad_smiles"):
        ids = read_table(lists[0], ["broad_id"], dtype=str)["broad_id"].str[:BROAD_ID_LENGTH]
        # a SMILES holds neither quotes nor tabs, but may hold commas in extended forms
        smiles = read_table(lists[1], ["smiles"], "\t", dtype=str, quoting=3)["smiles"]
        if len(ids) != len(smiles):
            names = f"{lists[0].name} has {len(ids)} rows and {lists[1].name} {len(smiles)}"
            raise ScreenError(f"{names}; the two lists belong together row by row")
        sources.append(pd.DataFrame({COMPOUND: ids, "SMILES": smiles, "InChIKey14": ""}))
    for path in files("broad6k_structures"):
        table = read_table(path, ["pert_id", "smiles", "inchikey"], dtype=str).dropna(subset=["pert_id"]).fillna("")
        ids, blocks = table["pert_id"].str[:BROAD_ID_LENGTH], table["inchikey"].str[:BLOCK_LENGTH]
        sources.append(pd.DataFrame({COMPOUND: ids, "SMILES": table["smiles"], "InChIKey14": blocks}))
    return sources


def read_repurposing_hub(path: str | Path) -> pd.DataFrame:
    """Compounds of the Drug Repurposing Hub (Corsello 2017, doi 10.1038/nm.4306).

    One row a distinct combination of compound and annotation: Metadata_Compound (13 characters), SMILES, InChIKey14,
    MoA and target (lists).
    """
    wanted = {"broad_id": COMPOUND, "moa": "MoA", "target": "target", "smiles": "SMILES", "InChIKey14": "InChIKey14"}
    table = read_table(path, list(wanted), "\t", dtype=str, quoting=3)[list(wanted)].rename(columns=wanted).fillna("")
    table[COMPOUND] = table[COMPOUND].str[:BROAD_ID_LENGTH]
    table = table.drop_duplicates(ignore_index=True)
    return table.assign(MoA=table["MoA"].map(split_values), target=table["target"].map(split_values))


def annotate_mechanisms(structures: pd.DataFrame, hub: pd.DataFrame) -> pd.DataFrame:
    """Add MoA and target to compounds: those of the Hub's entry by compound id, else by InChIKey block.

    Entries of several batches or stereoisomers are united, in the Hub's order. MoA and target are looked up each by
    itself: an entry that has only one of them takes the other from its block. Returns the columns of
    `profiles.COMPOUND_COLUMNS`.
    """
    table = structures[[COMPOUND, "InChIKey14", "SMILES"]].copy()
    names = list(zip(table[COMPOUND], table["InChIKey14"], strict=True))
    for column in ("MoA", "target"):
        by_compound, by_block = (_united(hub, key, column) for key in (COMPOUND, "InChIKey14"))
        found = [list(by_compound.get(compound) or by_block.get(block, ())) for compound, block in names]
        table[column] = pd.Series(found, index=table.index, dtype=object)
    return table


def _united(hub: pd.DataFrame, key: str, column: str) -> dict[str, dict[str, None]]:
    """All values in a column of lists that rows of the same key hold, in order and without repeats."""
    united: dict[str, dict[str, None]] = {}
    for name, values in zip(hub[key], hub[column], strict=True):
        if name:
            united.setdefault(name, {}).update(dict.fromkeys(values))
    return united


def read_assays(
    collection: str, paths: Sequence[Path], without: Collection[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One collection of assays, a key of `COLLECTIONS`, from its files in their order.

    ``Moshkov 270`` (doi 10.1038/s41467-023-37570-1; 16,170 CDRP compounds) and ``broad6k``, 32 of its assays as
    InfoAlign (arXiv 2406.12056) publishes them, call an assay by its PUMA id followed by its name; the family is that
    of the protein in the name (`assay_target`), or else the assay's type (cell, biochem, bacterial, ...). InfoAlign's
    ``ToxCast`` has 617 assays (`toxcast_target`), its ``ChEMBL`` 41 protein targets, called ``ChEMBL SYMBOL``. Tasks
    that are named in `without` are left out.

    Returns
    -------
    labels : pandas.DataFrame
        A row a structure, indexed by full InChIKey and block (``""`` if unknown; both may repeat), a column a task:
        1, 0 or NaN (not measured).
    tasks : pandas.DataFrame
        Columns `profiles.TASK_COLUMNS`, in the order of the labels' columns.

    Raises
    ------
    ScreenError
        If a column is missing, or an outcome is neither 0, 1, nor -1 or empty (not measured).
    """
    path, described = paths[0], len(paths) > 1
    keyed = ["smiles", "inchikey"] if collection in ("broad6k", "ChEMBL") else ["smiles"]
    table = read_table(path, keyed, dtype=dict.fromkeys(_NO_ASSAYS, str))
    columns = [column for column in table.columns if column not in _NO_ASSAYS]
    if described:
        columns = [column for column in columns if re.fullmatch(r"\d+_\d+", column)]
        if not columns:
            raise ScreenError(f"{path.name}: no assay columns; they are named by PUMA id, such as '220_692'")
        names = read_table(paths[1], ["PUMA_ASSAY_ID", "ASSAY_NAME", "ASSAY_TYPE"], dtype=str).fillna("")
        names = names.drop_duplicates("PUMA_ASSAY_ID").set_index("PUMA_ASSAY_ID").reindex(columns, fill_value="")
        rows = []
        for column, name, kind in names[["ASSAY_NAME", "ASSAY_TYPE"]].itertuples():
            target, family = assay_target(name)
            # an assay without a name of its own repeats its id
            rows.append((column if name in ("", column) else f"{column} {name}", target, family or kind or "other"))
    elif collection == "ToxCast":
        rows = [(column, *toxcast_target(column)) for column in columns]
    else:
        rows = [(f"{collection} {symbol}", symbol, target_family(symbol)) for symbol in columns]
    values = table[columns].to_numpy(dtype=float, na_value=np.nan)
    values = np.where(values == -1, np.nan, values)
    for row, column in np.argwhere(np.isfinite(values) & ~np.isin(values, (0, 1)))[:1]:
        place = f"assay {columns[column]!r} has the value {values[row, column]:g} in data row {row + 1}"
        raise ScreenError(f"{path.name}: {place}; outcomes are 0, 1 or empty")
    keys = [full_key(smiles) for smiles in table["smiles"].fillna("")]
    blocks = table["inchikey"].fillna("").tolist() if "inchikey" in table else [""] * len(table)
    blocks = [(block or key)[:BLOCK_LENGTH] for block, key in zip(blocks, keys, strict=True)]
    tasks = pd.DataFrame([(*row, collection) for row in rows], columns=profiles.TASK_COLUMNS, dtype="str")
    tasks = tasks[~tasks["task"].isin(list(without))]
    labels = pd.DataFrame(values[:, tasks.index], columns=tasks["task"], index=[keys, blocks])
    return labels, tasks.reset_index(drop=True)


def outcomes(labels: pd.DataFrame, tasks: pd.DataFrame, compounds: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Outcomes of a screen's compounds in a collection of assays, as `read_assays` returns it.

    The label of a compound in a task is that of the rows with its own full InChIKey: active if any of them is active.
    Where none of them was measured in the task, the rows of its InChIKey block (stereoisomers, isotopes, charge states)
    decide if they are unanimous. Where they disagree the compound gets no label. `compounds` has Metadata_Compound,
    InChIKey14 and SMILES; one whose SMILES can't be read is looked up by its block alone, one without both not at all.

    Returns
    -------
    activity : pandas.DataFrame
        Metadata_Compound, task, active (int8), ordered by compound, then task.
    tasks : pandas.DataFrame
        The tasks that reach at least one compound, with a column conflicts: compounds that got no label in the task
        because their isomers disagree, or whose own rows held both 0 and 1 (these count as active).
    """
    keys = [full_key(smiles) for smiles in compounds["SMILES"].fillna("")]
    own_most, own_least = _extremes(labels, 0, keys)
    block_most, block_least = _extremes(labels, 1, compounds["InChIKey14"].fillna("").tolist())
    has_own = np.isfinite(own_most)
    agreed = np.where(block_most == block_least, block_most, np.nan)
    wide = np.where(has_own, own_most, agreed)  # (n_compounds, n_tasks)
    conflicts = np.where(has_own, own_most > own_least, block_most > block_least).sum(axis=0)
    compound, task = np.nonzero(np.isfinite(wide))
    ids, names = compounds[COMPOUND].to_numpy()[compound], tasks["task"].to_numpy()[task]
    columns = {COMPOUND: ids, "task": names, "active": wide[compound, task].astype(np.int8)}
    activity = pd.DataFrame(columns, columns=profiles.ACTIVITY_COLUMNS)
    return activity, tasks.assign(conflicts=conflicts).iloc[np.unique(task)].reset_index(drop=True)


def _extremes(labels: pd.DataFrame, level: int, wanted: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Largest and smallest label (n_wanted, n_tasks) of the rows of each wanted key or block, ``""`` being none."""
    grouped = labels[labels.index.get_level_values(level) != ""].groupby(level=level)
    most, least = (found.reindex(wanted).to_numpy(dtype=float) for found in (grouped.max(), grouped.min()))
    return most, least


def hub_targets(compounds: pd.DataFrame, min_active: int = 5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Annotated targets as tasks: every compound with any target is active on its own targets, inactive on others.

    Nobody measured these labels. An inactive compound may well bind; it is only not known to. The tasks carry the
    source `profiles.ANNOTATED`, by which `profiles.measured_only` leaves them out. A target of at least `min_active`
    compounds is a task ``annotated SYMBOL`` of the family ``annotation: FAMILY``; tables as those of `outcomes`.
    """
    known = compounds.loc[compounds["target"].map(bool), [COMPOUND, "target"]]
    counts = known["target"].map(set).explode().value_counts()
    symbols = sorted(counts.index[counts >= min_active])
    names = [f"annotated {symbol}" for symbol in symbols]
    active = np.array([[symbol in targets for symbol in symbols] for targets in known["target"]], np.int8)
    held, asked = known[COMPOUND].repeat(len(symbols)).to_numpy(), np.tile(np.array(names, dtype=object), len(known))
    columns = {COMPOUND: held, "task": asked, "active": active.reshape(-1)}
    activity = pd.DataFrame(columns, columns=profiles.ACTIVITY_COLUMNS)
    families = [f"annotation: {target_family(symbol)}" for symbol in symbols]
    tasks = {"task": names, "target": symbols, "family": families, "source": ANNOTATED}
    return activity, pd.DataFrame(tasks, dtype="str").assign(conflicts=0)


def annotate_compounds(
    compounds: Sequence[str],
    files: Callable[..., list[Path]],
    *,
    own: Sequence[pd.DataFrame] = (),
    collections: Sequence[str] = (*COLLECTIONS, ANNOTATED),
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Structures, MoA, targets and assay outcomes of Broad compounds (BRD ids), from the registry's annotation files.

    Parameters
    ----------
    files
        Gives the paths of the roles named, or ``[]`` where the screen lacks one of them, whose table is then done
        without: hub; broad_ids with broad_smiles, broad6k_structures (structures); those of `COLLECTIONS` (assays).
    own
        The screen's own structures, trusted most, as `join_structures` takes them.
    collections
        Keys of `COLLECTIONS`, and ``annotation`` (`hub_targets`). A task that an earlier one has too is left out.

    Returns
    -------
    compounds, activity, tasks, notes
        As in `Screen`.
    """
    hub = pd.DataFrame(columns=[COMPOUND, "SMILES", "InChIKey14", "MoA", "target"], dtype=object)
    for path in files("hub"):
        hub = read_repurposing_hub(path)
    structures, disagreements = join_structures(compounds, [*own, *read_structures(files), hub])
    table = annotate_mechanisms(structures, hub)
    notes = [
        f"{(table['InChIKey14'] != '').sum()} of {len(table)} compounds have a structure, "
        f"{table['MoA'].map(bool).sum()} a mechanism of action "
        "(Repurposing Hub, by compound id or else by InChIKey block)."
    ]
    if disagreements:
        notes.append(f"{disagreements} compounds have two structures in the sources; the first was taken.")
    found, seen = [], set()
    for name in collections:
        if name == ANNOTATED:
            activity, reached = hub_targets(table)
            if len(reached):
                held = f"annotated targets of {activity[COMPOUND].nunique()} compounds (Repurposing Hub)"
                notes.append(f"{len(reached)} tasks are {held}: their labels were not measured.")
        elif paths := files(*COLLECTIONS[name]):
            labels, tasks = read_assays(name, paths, seen)
            seen |= set(tasks["task"])
            activity, reached = outcomes(labels, tasks, table)
            notes.append(
                f"{name}: {activity[COMPOUND].nunique()} compounds have {len(activity)} outcomes in {len(reached)} "
                f"assays; {reached['conflicts'].sum()} compound-assay pairs are conflicts: without a label where only "
                "isomers were measured and disagree, active where rows of the compound itself hold both 0 and 1."
            )
        else:
            continue
        found.append((activity, reached))
    if not found:
        return table, *profiles.no_outcomes(), notes
    return table, *(pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True)), notes


def reach(screen: Screen, min_active: int = 25, min_inactive: int = 25) -> pd.DataFrame:
    """How many paired compounds each table of outcomes reaches, and what can be tested on it.

    One row a source in the order of the tasks, then one for mechanisms: source, compounds (paired ones with any label),
    tasks (with any such label), tested (tasks with at least `min_active` and `min_inactive` such labels), labels,
    conflicts (as of `outcomes`, of all compounds) and families (tasks of the most frequent ones). In the row of
    mechanisms, tasks are MoAs, tested those of at least two compounds of different structure, labels pairs of compound
    and MoA.
    """
    paired = profiles.paired_compounds(screen)
    counts = profiles.task_counts(screen, min_active, min_inactive)
    counts["labels"] = counts["n_active"] + counts["n_inactive"]
    counts["conflicts"] = screen.tasks["conflicts"].to_numpy() if "conflicts" in screen.tasks else 0
    activity = screen.activity[screen.activity[COMPOUND].isin(paired)]
    source_of = activity["task"].map(counts.set_index("task")["source"])
    compounds = activity[COMPOUND].groupby(source_of.to_numpy()).nunique()
    rows = []
    for source, tasks in counts[counts["labels"] > 0].groupby("source", sort=False):
        sums = [int(tasks[column].sum()) for column in ("tested", "labels", "conflicts")]
        families = sorted(tasks["family"].value_counts().items(), key=lambda item: (-item[1], item[0]))
        words = [f"{family} {count}" for family, count in families[:6]]
        words += [f"{sum(count for _, count in families[6:])} in other families"] if families[6:] else []
        rows.append((source or "not stated", int(compounds[source]), len(tasks), *sums, ", ".join(words)))
    known = screen.compounds[screen.compounds[COMPOUND].isin(paired)]
    held = known.assign(group=profiles.compound_groups(known).to_numpy())[["group", "MoA"]].explode("MoA").dropna()
    shared = held.groupby("MoA")["group"].nunique()
    from_hub = any(str(source["file"]).endswith("repurposing_info.tsv") for source in screen.sources)
    name, annotated = "Repurposing Hub MoA" if from_hub else "MoA", int(known["MoA"].map(bool).sum())
    rows.append((name, annotated, len(shared), int((shared >= 2).sum()), len(held), 0, ""))
    return pd.DataFrame(rows, columns=["source", "compounds", "tasks", "tested", "labels", "conflicts", "families"])


def target_family(symbol: str) -> str:
    """Target family of a human gene symbol (HGNC, in capitals): one of `FAMILIES`, by the rules of families.toml."""
    return next((family for family, pattern in _RULES.items() if pattern.fullmatch(symbol)), "other")


def assay_target(name: str) -> tuple[str, str]:
    """Protein target in the name of an assay, such as ``MLPCN GSK3alpha`` or ``PTK2Inhibition.Lumin.KinGlo``.

    The rules, in this order. What follows the readout (``.Lumin.CTG``) and the prefix ``MLPCN`` are no part of the
    name. A name of one human protein (a short list in families.toml) decides. Names of processes and of other organisms
    tell no target. A word is a symbol if it holds a digit or is all capitals, and a rule of families.toml matches it
    without hyphens, in capitals and without ``Inhibition``, ``Inhibitor`` or ``invitro`` at its end. A name with two
    proteins tells none. The words kinase and phosphodiesterase tell the family alone. Returned are the HGNC symbol,
    ``""`` if the name tells no single protein, and one of `FAMILIES` but never other, ``""`` if nothing tells it.
    """
    name = re.split(r"\.(?=Absorb|Fluor|Lumin|Reporter|ImmFluor|QPCR)", name)[0].removeprefix("MLPCN").strip()
    lower = f" {name.lower()} "
    named = {symbol for text, symbol in _NAMES["proteins"].items() if f" {text} " in lower}
    # what is measured is a process, not the protein; or the protein is another organism's: "T. cruzi"
    silent = re.search(r"express|signal|regulation|pathogenesis|\b[A-Z]\. [a-z]+", name, re.IGNORECASE)
    if not named and not silent:
        words = [re.sub(r"(Inhibition|[Ii]nhibitors?|invitro)$", "", word) for word in re.split(r"[\s/]+", name)]
        words = [word for word in words if re.search(r"\d", word) or (len(word) > 2 and word.isupper())]
        symbols = [word.replace("-", "").upper() for word in words]
        named = {symbol for symbol in symbols if target_family(symbol) != "other"}
    if len(named) == 1:
        symbol = named.pop()
        family = target_family(symbol)
        return symbol, "" if family == "other" else family
    families = {family for word, family in _NAMES["class_words"].items() if word in lower.split()}
    return "", families.pop() if len(families) == 1 and not named else ""


def toxcast_target(assay: str) -> tuple[str, str]:
    """Target and family of a ToxCast assay.

    NovaScreen names (``NVS_<class>_<species letters><target>``) tell the target, ``""`` for all others, and its class.
    Others take their source's short name as family (ATG, APR, BSK, TOX21, ...): one source is one kind of readout.
    """
    novascreen = re.fullmatch(r"NVS_([^_]*)_(?:rab|rm|[a-z])?(.*)", assay)
    if not novascreen:
        return "", assay.split("_")[0] or "other"
    kind, target = novascreen.groups()
    stems = _NAMES["novascreen_enzymes"] if kind == "ENZ" else {}
    family = next((family for family, stem in stems.items() if re.match(stem, target)), None)
    return target, family or _NAMES["novascreen_classes"].get(kind, "other")
