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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils import profiles
from cpx_utils.profiles import BLOCK_LENGTH, COMPOUND, Screen, ScreenError, inchikey, split_values

BROAD_ID_LENGTH = 13
# Collections of assays, with the roles of the files that each is read from: outcomes, and names where there are such.
COLLECTIONS = {
    "Moshkov 270": ("assays_270", "assay_names"),
    "broad6k": ("broad6k_assays", "assay_names"),
    "ToxCast": ("toxcast_assays",),
    "ChEMBL": ("chembl2k_assays",),
    "DILI": ("dili",),
}
_NO_ASSAYS = ("smiles", "inchikey", "mol_id", "Metadata_JCP2022", "ChEMBL_ID")
_NAMES = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
_RULES = {family: re.compile("|".join(patterns.split())) for family, patterns in _NAMES["rules"].items()}
_NOVASCREEN = {family: re.compile(pattern) for family, pattern in _NAMES["novascreen"].items()}
FAMILIES = (*_RULES, "other")
TOXICITY = "toxicity"  # the family of outcomes that are no protein's


def read_table(path: Path, columns: Sequence[str], separator: str = ",", **options) -> pd.DataFrame:
    """Read a text table; a ScreenError if it is none or lacks a column, as an unverified release may."""
    try:
        table = pd.read_csv(path, sep=separator, low_memory=False, **options)
        table[list(columns)]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ScreenError(f"{path.name}: can't be read as a table with columns {list(columns)} ({error})") from None
    return table


def join_structures(compounds: Sequence[str], sources: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Structure of each compound from the first source that has one, and SMILES from the first that has these.

    Sources are tables with Metadata_Compound, SMILES and InChIKey14 (``""``: computed from the SMILES), the most
    trusted first. Returned is a table of these columns, in the order of `compounds`, both ``""`` where unknown.
    """
    known = pd.concat([source.drop_duplicates(COMPOUND) for source in sources])[[COMPOUND, "InChIKey14", "SMILES"]]
    known = known[known[COMPOUND].isin(compounds)].fillna("")
    keys = zip(known["InChIKey14"], known["SMILES"], strict=True)
    known["InChIKey14"] = [block or inchikey(smiles)[:BLOCK_LENGTH] for block, smiles in keys]
    table = pd.DataFrame({COMPOUND: list(compounds)}, dtype="str")
    for column in ("InChIKey14", "SMILES"):
        first = known[(known["InChIKey14"] != "") & (known[column] != "")].drop_duplicates(COMPOUND)
        table = table.merge(first[[COMPOUND, column]].astype("str"), how="left")
    return table.fillna("")


def read_structures(paths: dict[str, Path]) -> list[pd.DataFrame]:
    """Public structures of Broad compounds, the most trusted first: Moshkov 2023 (16,978 of CDRP), and InfoAlign.

    Tables as `join_structures` takes them; `paths` as in `annotate_compounds`.
    """
    sources = []
    if paths.keys() >= {"broad_ids", "broad_smiles"}:
        ids = read_table(paths["broad_ids"], ["broad_id"], dtype=str)["broad_id"].str[:BROAD_ID_LENGTH]
        # a SMILES holds neither quotes nor tabs, but may hold commas in extended forms
        smiles = read_table(paths["broad_smiles"], ["smiles"], "\t", dtype=str, quoting=3)["smiles"]
        if len(ids) != len(smiles):
            raise ScreenError(
                f"broad_ids has {len(ids)} ids and broad_smiles {len(smiles)} structures: they belong together line by "
                "line, so take both from one release"
            )
        sources.append(pd.DataFrame({COMPOUND: ids, "SMILES": smiles, "InChIKey14": ""}))
    if "broad6k_structures" in paths:
        table = read_table(paths["broad6k_structures"], ["pert_id", "smiles", "inchikey"], dtype=str)
        ids, blocks = table["pert_id"].str[:BROAD_ID_LENGTH], table["inchikey"].str[:BLOCK_LENGTH]
        sources.append(pd.DataFrame({COMPOUND: ids, "SMILES": table["smiles"], "InChIKey14": blocks}))
    return sources


def read_pertinfo(path: Path) -> pd.DataFrame:
    """Structures of LINCS compounds (Himmelstein 2017, doi 10.7554/eLife.26726), as `join_structures` takes them."""
    columns = ["pert_id", "canonical_smiles", "inchi_key"]
    table = read_table(path, columns, "\t", dtype=str, usecols=columns)[columns].dropna()
    ids, blocks = table["pert_id"].str[:BROAD_ID_LENGTH], table["inchi_key"].str[:BLOCK_LENGTH]
    return pd.DataFrame({COMPOUND: ids, "SMILES": table["canonical_smiles"], "InChIKey14": blocks})


def read_screen_results(path: Path, sheet: str, dose_column: str) -> pd.DataFrame:
    """Treatments of a Broad screen as Haghighi 2025 published them (github.com/carpenter-singh-lab/2025_Haghighi_Mito).

    Columns of `profiles.COMPOUND_COLUMNS` (InChIKey14 ``""`` and lists empty where the sheet has none), `dose`
    (micromolar) and `count`, the mean number of cells in an image of the treatment. A file without the sheet or a
    column is a ScreenError.
    """
    needed = ["Metadata_pert_id", "Metadata_moa", "Count_Cells_avg", dose_column]
    try:
        table = pd.read_excel(path, sheet_name=sheet)
        table[needed]
    except Exception as error:  # openpyxl raises whatever its parser stumbles over
        raise ScreenError(f"{path.name}: can't be read as a sheet {sheet} with columns {needed} ({error})") from None
    words = table.reindex(columns=["Metadata_InChIKey14", "Metadata_moa", "Metadata_target"]).fillna("").astype(str)
    lists = words.iloc[:, 1:].map(split_values).set_axis(["MoA", "target"], axis=1)
    ids = pd.DataFrame({COMPOUND: table["Metadata_pert_id"], "InChIKey14": words.iloc[:, 0], "SMILES": ""})
    return pd.concat([ids, lists], axis=1).assign(dose=table[dose_column], count=table["Count_Cells_avg"])


def cytotoxicity(results: pd.DataFrame, share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One task from cell counts: activity and tasks, as in `Screen`.

    A compound is active where the mean count of its highest dose is below `share` of the median over these. `results`
    is of `read_screen_results`.
    """
    highest = results.groupby(COMPOUND)["dose"].transform("max")
    count = results[results["dose"] == highest].groupby(COMPOUND)["count"].mean()
    active = (count < share * count.median()).astype(np.int8)
    activity = pd.DataFrame({COMPOUND: count.index, "task": "cytotoxicity", "active": active.to_numpy()})
    tasks = pd.DataFrame([("cytotoxicity", "", TOXICITY, "cell counts", 0)])
    return activity, tasks.set_axis([*profiles.TASK_COLUMNS, "conflicts"], axis=1)


def read_repurposing_hub(path: str | Path) -> pd.DataFrame:
    """Compounds of the Drug Repurposing Hub (Corsello 2017, doi 10.1038/nm.4306).

    One row a distinct combination of compound and annotation: Metadata_Compound (13 characters), SMILES, InChIKey14,
    MoA and target (lists).
    """
    columns = ["broad_id", "InChIKey14", "smiles", "moa", "target"]
    table = read_table(path, columns, "\t", dtype=str, quoting=3)[columns].fillna("")
    table = table.set_axis(profiles.COMPOUND_COLUMNS, axis=1)
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
        values = hub.explode(column).dropna(subset=column)
        by_compound = values.groupby(COMPOUND)[column].unique()
        by_block = values[values["InChIKey14"] != ""].groupby("InChIKey14")[column].unique()
        found = [list(by_compound.get(compound, by_block.get(block, ()))) for compound, block in names]
        table[column] = pd.Series(found, index=table.index, dtype=object)
    return table


def read_assays(collection: str, paths: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One collection of assays, a key of `COLLECTIONS`, from its files in their order.

    ``Moshkov 270`` (doi 10.1038/s41467-023-37570-1; 16,170 CDRP compounds) and ``broad6k``, 32 of its assays as
    InfoAlign (arXiv 2406.12056) publishes them, call an assay by its PUMA id followed by its name; the family is that
    of the protein in the name (`assay_target`), or else the assay's type (cell, biochem, bacterial, ...). InfoAlign's
    ``ToxCast`` has 617 assays (`toxcast_target`), its ``ChEMBL`` 41 protein targets, called ``ChEMBL SYMBOL``. ``DILI``
    is one task, drug-induced liver injury as Seal gathered it (github.com/srijitseal/DILI).

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
    if collection == "DILI":
        names = {"smiles_r": "smiles", "InChIKey14": "inchikey", "TOXICITY": "DILI"}
        table = read_table(paths[0], list(names))[list(names)].rename(columns=names)
    else:
        table = read_table(paths[0], ["smiles"], dtype=dict.fromkeys(_NO_ASSAYS, str))
    columns = [column for column in table.columns if column not in _NO_ASSAYS]
    if collection == "DILI":
        rows = [("drug-induced liver injury", "", TOXICITY)]
    elif len(paths) > 1:
        rows = _named_assays(columns, paths[1])
    elif collection == "ToxCast":
        rows = [(column, *toxcast_target(column)) for column in columns]
    else:
        rows = [(f"{collection} {symbol}", symbol, target_family(symbol)) for symbol in columns]
    tasks = pd.DataFrame([(*row, collection) for row in rows], columns=profiles.TASK_COLUMNS, dtype="str")
    values = table[columns].astype(float).replace(-1, np.nan)
    odd = ~(values.isna() | values.isin([0, 1])).all()
    if odd.any():
        raise ScreenError(f"{paths[0].name}: assay {odd.idxmax()!r} has outcomes that are neither 0, 1, -1 nor empty")
    keys = [inchikey(smiles) for smiles in table["smiles"].fillna("")]
    blocks = table["inchikey"].fillna("") if "inchikey" in table else keys
    blocks = [(block or key)[:BLOCK_LENGTH] for block, key in zip(blocks, keys, strict=True)]
    return values.set_axis(tasks["task"], axis=1).set_axis([keys, blocks]), tasks


def _named_assays(columns: list[str], path: Path) -> list[tuple[str, str, str]]:
    """Task, target and family of assays that are called by their PUMA ids, from the table of their names."""
    names = read_table(path, ["PUMA_ASSAY_ID", "ASSAY_NAME", "ASSAY_TYPE"], dtype=str).fillna("")
    names = names.drop_duplicates("PUMA_ASSAY_ID").set_index("PUMA_ASSAY_ID").reindex(columns, fill_value="")
    rows = []
    for column, name, kind in names[["ASSAY_NAME", "ASSAY_TYPE"]].itertuples():
        target, family = assay_target(name)
        # an assay without a name of its own repeats its id
        rows.append((column if name in ("", column) else f"{column} {name}", target, family or kind or "other"))
    return rows


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
    keys = [inchikey(smiles) for smiles in compounds["SMILES"].fillna("")]
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


def annotate_compounds(
    compounds: Sequence[str],
    paths: dict[str, Path],
    own: Sequence[pd.DataFrame] = (),
    results: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Structures, MoA, targets and assay outcomes of Broad compounds (BRD ids), from the registry's annotation files.

    Parameters
    ----------
    paths
        Files by role, of which any may lack: hub; broad_ids with broad_smiles, broad6k_structures, pertinfo
        (structures); those of `COLLECTIONS` (assays).
    own
        The screen's own structures, trusted most, as `join_structures` takes them.
    results
        Compounds of `read_screen_results`: what it tells of mechanisms, targets and keys is taken before other sources.

    Returns
    -------
    compounds, activity, tasks, notes
        As in `Screen`.
    """
    unknown = pd.DataFrame(columns=profiles.COMPOUND_COLUMNS, dtype=object)
    hub = read_repurposing_hub(paths["hub"]) if "hub" in paths else unknown
    sources = [*own, *read_structures(paths), hub]
    if "pertinfo" in paths:
        sources.append(read_pertinfo(paths["pertinfo"]))
    if results is not None:
        sources.insert(0, results)
        known = results[results["MoA"].map(bool) | results["target"].map(bool)]
        hub = pd.concat([known, hub[~hub[COMPOUND].isin(known[COMPOUND])]])
    table = annotate_mechanisms(join_structures(compounds, sources), hub)
    notes = [
        f"{(table['InChIKey14'] != '').sum()} of {len(table)} compounds have a structure, "
        f"{table['MoA'].map(bool).sum()} a mechanism of action "
        f"({'the screen and ' if results is not None else ''}Repurposing Hub, by compound id or InChIKey block)."
    ]
    found = []
    for name, roles in COLLECTIONS.items():
        if paths.keys() >= set(roles):
            activity, tasks = outcomes(*read_assays(name, [paths[role] for role in roles]), table)
            found.append((activity, tasks))
            notes.append(
                f"{name}: {activity[COMPOUND].nunique()} compounds have {len(activity)} outcomes in {len(tasks)} "
                f"assays; {tasks['conflicts'].sum()} compound-assay pairs are conflicts: without a label where only "
                "isomers were measured and disagree, active where rows of the compound itself hold both 0 and 1."
            )
    if not found:
        return table, *profiles.no_outcomes(), notes
    return table, *(pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True)), notes


def reach(screen: Screen, min_active: int = 25, min_inactive: int = 25) -> pd.DataFrame:
    """How many paired compounds each table of outcomes reaches, and what can be tested on it.

    One row a source in the order of the tasks, then one for mechanisms: source, compounds (paired ones with any label),
    tasks (with any such label), tested (tasks with at least `min_active` and `min_inactive` such labels), labels,
    conflicts (as of `outcomes`, of all compounds) and families (tasks of each). In the row of mechanisms, tasks are
    MoAs, tested those of at least two compounds of different structure, labels pairs of compound and MoA.
    """
    paired = profiles.paired_compounds(screen)
    counts = profiles.task_counts(screen, min_active, min_inactive)
    counts["labels"] = counts["n_active"] + counts["n_inactive"]
    counts["conflicts"] = screen.tasks["conflicts"].to_numpy() if "conflicts" in screen.tasks else 0
    activity = screen.activity[screen.activity[COMPOUND].isin(paired)].merge(counts[["task", "source"]], on="task")
    by_source = counts[counts["labels"] > 0].groupby("source", sort=False)
    table = by_source.agg({"task": "size", "tested": "sum", "labels": "sum", "conflicts": "sum", "family": _counted})
    table = table.rename(columns={"task": "tasks", "family": "families"}).reset_index()
    n_compounds = activity.groupby("source")[COMPOUND].nunique()
    table.insert(1, "compounds", table["source"].map(n_compounds).astype(int))
    known = screen.compounds[screen.compounds[COMPOUND].isin(paired)]
    holders = profiles.mechanism_holders(known)
    n_mechanisms = known["MoA"].map(len)
    moa = ("MoA", (n_mechanisms > 0).sum(), len(holders), (holders >= 2).sum(), n_mechanisms.sum(), 0, "")
    return pd.concat([table, pd.DataFrame([moa], columns=table.columns)], ignore_index=True)


def _counted(names: pd.Series) -> str:
    return ", ".join(f"{name} {count}" for name, count in names.value_counts().items())


def target_family(symbol: str) -> str:
    """Target family of a human gene symbol (HGNC, in capitals): one of `FAMILIES`, by the rules of families.toml."""
    return next((family for family, pattern in _RULES.items() if pattern.fullmatch(symbol)), "other")


def assay_target(name: str) -> tuple[str, str]:
    """Protein target and family that the name of an assay tells, by the table of families.toml.

    Returned are the HGNC symbol, ``""`` if the name tells no single protein, and one of `FAMILIES` but never other,
    ``""`` if the name tells none.
    """
    symbol = _NAMES["assays"].get(name, "")
    family = target_family(symbol) if symbol else _NAMES["assay_families"].get(name, "other")
    return symbol, "" if family == "other" else family


def toxcast_target(assay: str) -> tuple[str, str]:
    """Target and family of a ToxCast assay.

    NovaScreen names (``NVS_<class>_<species letters><target>``) tell the target, ``""`` for all others, and its class.
    Others take their source's short name as family (ATG, APR, BSK, TOX21, ...): one source is one kind of readout.
    """
    novascreen = re.fullmatch(r"NVS_([^_]*_)(?:rab|rm|[a-z])?(.*)", assay)
    if not novascreen:
        return "", assay.split("_")[0] or "other"
    named = "".join(novascreen.groups())  # without the species
    return novascreen[2], next((family for family, rule in _NOVASCREEN.items() if rule.match(named)), "other")
