"""Splits that no compound crosses, and the derangements that tell what transcriptomics adds.

The unit is the compound group (first block of the InChIKey, else the compound's id): every fold, half and
derangement works on whole groups, so that a salt form in training never teaches the answer for the same
molecule in test.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cpx_utils.metrics import cosine_similarity
from cpx_utils.profiles import COMPOUND, CONTROL, PLATE, ScreenError, compound_groups, feature_matrix

SPLITS = ("random", "scaffold", "moa")


def compound_folds(
    compounds: pd.DataFrame, *, n_folds: int, n_repeats: int = 1, seed: int = 0, split: str = "random"
) -> pd.DataFrame:
    """Test fold of every compound, for each repeat; compounds of one group (`profiles.compound_groups`) never part.

    Parameters
    ----------
    compounds : DataFrame
        ``Metadata_Compound`` (unique), ``InChIKey14``; ``SMILES`` for ``split="scaffold"``, ``MoA`` (list) for
        ``split="moa"``.
    n_folds, n_repeats, seed : int
    split : {"random", "scaffold", "moa"}
        ``random``: whole groups at random. ``scaffold``: compounds of one Bemis-Murcko scaffold (1996) stay together;
        acyclic compounds and unreadable SMILES count as scaffolds of their own. ``moa``: compounds that share a
        mechanism of action, directly or through others, stay together, so no MoA of a test compound occurs in
        training; compounds without MoA are spread at random.

    Returns
    -------
    DataFrame
        ``Metadata_Compound, split, repeat, fold``: a row a compound and repeat; folds as equal as groups allow.

    Raises
    ------
    ScreenError
        Fewer groups than folds, or no scaffold or MoA information at all.
    """
    if split not in SPLITS:
        raise ScreenError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    if n_folds < 2 or n_repeats < 1:
        raise ScreenError(f"n_folds is {n_folds} and n_repeats {n_repeats}: at least 2 folds and 1 repeat are needed")
    groups = compound_groups(compounds)
    shared: list[list[str]] = [[] for _ in groups]  # what must not be parted, beside groups
    if split == "scaffold":
        shared = _scaffolds(compounds)
    elif split == "moa":
        shared = _moa_sets(compounds)
    unit = _connected_components([[("group", own), *labels] for own, labels in zip(groups, shared, strict=True)])
    n_units = len(np.unique(unit))
    if n_units < n_folds:
        raise ScreenError(
            f"split {split!r} has {n_units} separable groups of compounds but n_folds is {n_folds}:"
            f" ask for at most {n_units} folds or another split"
        )
    rng = np.random.default_rng(seed)
    heads = [compounds[[COMPOUND]].assign(split=split, repeat=repeat) for repeat in range(n_repeats)]
    tables = [head.assign(fold=_balanced_folds(unit, n_folds, rng)) for head in heads]
    return pd.concat(tables, ignore_index=True)


def folds_of_kinds(
    compounds: pd.DataFrame, kinds: list[str], *, n_folds: int, n_repeats: int, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Folds of several kinds of split, one after the other.

    Parameters are those of `compound_folds`, for several `kinds`: the first is the study's own and gets ``n_repeats``
    repeats, the others one each.

    Returns
    -------
    folds, left_out
        ``Metadata_Compound, split, repeat, fold``; and the reason of each kind, but the first, that these compounds
        do not allow.

    Raises
    ------
    ScreenError
        When the first kind is not possible, no kind is given, or one is given twice or unknown.
    """
    if not kinds or set(kinds) - set(SPLITS) or len(set(kinds)) < len(kinds):
        raise ScreenError(f"split_kinds is {kinds}: name one or more of {', '.join(SPLITS)}, each once")
    tables, left_out = [], {}
    for number, kind in enumerate(kinds):
        repeats = 1 if number else n_repeats
        try:
            tables.append(compound_folds(compounds, n_folds=n_folds, n_repeats=repeats, seed=seed, split=kind))
        except ScreenError as error:
            if number == 0:
                raise
            left_out[kind] = str(error)
    return pd.concat(tables, ignore_index=True), left_out


def require_apart(folds: pd.DataFrame, compounds: pd.DataFrame) -> None:
    """Refuse folds that part what belongs together: the last guard before anything is fitted.

    It asks the table of compounds itself, not the groups that the folds were made by: a salt, an isomer or another
    dose under an id of its own has the same first block of the InChIKey, and must lie on the same side.

    Parameters
    ----------
    folds : DataFrame
        ``Metadata_Compound, split, repeat, fold``, as `compound_folds` gives them.
    compounds : DataFrame
        ``Metadata_Compound``, ``InChIKey14``; ``MoA`` (list) where there is a split of kind ``moa``.

    Raises
    ------
    ScreenError
        Compounds of one group, or in a split by MoA of one mechanism, lie in two folds of one repeat.
    """
    groups = compound_groups(compounds)
    units = folds.assign(unit=folds[COMPOUND].map(groups).fillna(folds[COMPOUND]), what="group")
    held_out = folds[folds["split"] == "moa"]
    if len(held_out):
        mechanisms = held_out.assign(unit=held_out[COMPOUND].map(compounds.set_index(COMPOUND)["MoA"]), what="MoA")
        units = pd.concat([units, mechanisms.explode("unit").dropna(subset="unit")])
    keys = ["split", "repeat", "what", "unit"]
    crossing = units[units.groupby(keys)["fold"].transform("nunique") > 1]
    if len(crossing):
        split, repeat, what, unit = crossing[keys].iloc[0]
        apart = crossing[(crossing[keys] == [split, repeat, what, unit]).all(axis=1)].drop_duplicates("fold")
        names = [f"{name!r} (fold {fold})" for name, fold in zip(apart[COMPOUND], apart["fold"], strict=True)]
        raise ScreenError(
            f"the {split} split (repeat {repeat}) parts compounds of the {what} {unit!r}: {' and '.join(names[:2])}; "
            "training would know what is tested, so make the folds by splits.compound_folds"
        )


def _scaffolds(compounds: pd.DataFrame) -> list[list[str]]:
    if "SMILES" not in compounds or not compounds["SMILES"].fillna("").astype(bool).any():
        raise ScreenError("split 'scaffold' needs SMILES, and this screen has none: use split 'random'")
    from rdkit import Chem, rdBase
    from rdkit.Chem.Scaffolds import MurckoScaffold

    with rdBase.BlockLogs():  # RDKit prints a line for each odd molecule
        molecules = [Chem.MolFromSmiles(smiles) for smiles in compounds["SMILES"].fillna("")]
    scaffolds = [MurckoScaffold.MurckoScaffoldSmiles(mol=one) if one is not None else "" for one in molecules]
    return [[scaffold] if scaffold else [] for scaffold in scaffolds]


def _moa_sets(compounds: pd.DataFrame) -> list[list[str]]:
    if "MoA" not in compounds or not compounds["MoA"].map(len).any():
        raise ScreenError("split 'moa' needs mechanisms of action, and this screen has none: use split 'random'")
    return compounds["MoA"].tolist()


def _connected_components(labels: list[list]) -> np.ndarray:
    """Component number of each compound; compounds that share any label are connected."""
    of_compound = pd.Series(labels, dtype=object).explode()
    label, distinct = pd.factorize(of_compound)
    cells = of_compound.index.to_numpy(), len(labels) + label
    graph = coo_matrix((np.ones(len(label)), cells), shape=(len(labels) + len(distinct),) * 2)
    return np.unique(connected_components(graph, directed=False)[1][: len(labels)], return_inverse=True)[1]


def _balanced_folds(unit: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Largest units first, each into the smallest fold; equal sizes and equal folds in random order."""
    size = np.bincount(unit)
    shuffled = rng.permutation(len(size))
    order = shuffled[np.argsort(-size[shuffled], kind="stable")]
    load = np.zeros(n_folds)
    fold_of_unit = np.empty(len(size), dtype=int)
    for one in order:
        smallest = np.flatnonzero(load == load.min())
        fold_of_unit[one] = rng.choice(smallest)
        load[fold_of_unit[one]] += size[one]
    return fold_of_unit[unit]


def _deranged(strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random permutation (n,) without fixed point within strata (n,), each of these equally likely.

    Strata of a single member can't be deranged alone and are pooled, with the smallest other stratum if there is only
    one such. Raises ScreenError for fewer than two members.
    """
    if len(strata) < 2:
        raise ScreenError(f"{len(strata)} compound group cannot be deranged: at least two are needed")
    stratum = _pool_lonely(np.unique(strata, return_inverse=True)[1])
    partner = np.empty(len(strata), dtype=int)
    for one in np.unique(stratum):
        members = np.flatnonzero(stratum == one)
        while True:  # accepted with probability 1/e, so that all derangements are equally likely
            shuffled = rng.permutation(members)
            if (shuffled != members).all():
                break
        partner[members] = shuffled
    return partner


def _pool_lonely(stratum: np.ndarray) -> np.ndarray:
    """Strata, those of a single group joined; a lone one of them joins the smallest other."""
    size = np.bincount(stratum)
    lonely = np.flatnonzero(size == 1)
    if len(lonely) == 1 < len(size):
        others = np.flatnonzero(size > 1)
        lonely = np.append(lonely, others[size[others].argmin()])
    return np.where(np.isin(stratum, lonely), len(size), stratum)


def plate_maps(plates: np.ndarray, compounds: np.ndarray, treated: np.ndarray) -> np.ndarray:
    """Number of the plate map that each well lies on: (n_wells,).

    Plates that share a treated compound are replicates, or doses, of one map. A screen whose compounds are spread over
    all plates, or that knows no plates, has one map.
    """
    names = plates.astype(str)
    held = pd.Series(compounds[treated].astype(str)).groupby(names[treated]).unique()  # compounds of each plate
    distinct, plate = np.unique(names, return_inverse=True)
    return _connected_components([list(held.get(name, ())) for name in distinct])[plate]


def same_map_share(wells: pd.DataFrame, *, most: int = 2000, seed: int = 0) -> tuple[float, float]:
    """How often a treated well's nearest well of another compound lies on its own plate map, and how often by chance.

    Profiles that tell where they were measured have a share above chance. Where all plates hold the same compounds,
    plates stand for maps. Features are standardised over the wells; missing values are their mean. Of at most `most`
    wells, drawn by `seed`, by cosine; NaN with fewer than two compounds.
    """
    wells = wells[~wells[CONTROL].astype(bool)]
    plates, compounds = wells[PLATE].to_numpy(), wells[COMPOUND].to_numpy()
    maps = plate_maps(plates, compounds, np.ones(len(wells), dtype=bool))
    maps = maps if maps.any() else plates
    values = feature_matrix(wells).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.nan_to_num((values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0), posinf=0, neginf=0)
    rows = np.random.default_rng(seed).permutation(len(values))[:most]
    other = compounds[rows, None] != compounds[rows]
    if not other.any():
        return np.nan, np.nan
    same = maps[rows, None] == maps[rows]
    nearest = np.where(other, cosine_similarity(values[rows]), -np.inf).argmax(axis=1)
    return float(same[np.arange(len(rows)), nearest].mean()), float((same & other).sum() / other.sum())


def deranged_rows(
    compounds: np.ndarray, doses: np.ndarray | None, rng: np.random.Generator, maps: np.ndarray | None = None
) -> np.ndarray:
    """For each row the row whose TX profile it gets when TX is deranged between compounds.

    All rows of a compound go to one other compound, dose by dose, so that replicates stay together: what a
    method learns from such pairs is compound identity and nothing that TX knows. Partners are drawn among
    compounds with the same set of doses where there are any; else the nearest dose rank is taken.

    Parameters
    ----------
    compounds : array (n_rows,)
        Compound (or compound group) of each row.
    doses : array (n_rows,), optional
        Dose of each row (micromolar); NaN counts as one dose.
    rng : numpy.random.Generator
    maps : array (n_rows,), optional
        Plate map of each row's compound, within which partners are drawn.

    Returns
    -------
    integer array (n_rows,)
        Row i takes the TX profile of row ``out[i]``. Where the partner has fewer replicates they are used
        again in turn.

    Raises
    ------
    ScreenError
        Fewer than two compounds.
    """
    names, first, code = np.unique(np.asarray(compounds), return_index=True, return_inverse=True)
    values = np.zeros(len(code)) if doses is None else np.nan_to_num(np.asarray(doses, dtype=float), nan=-1.0)
    rows_of: list[list] = [[] for _ in names]  # by dose, from the lowest
    for _, block in pd.Series(np.arange(len(code))).groupby([code, values]):
        rows_of[code[block.iloc[0]]].append(block.to_numpy())
    dose_sets = np.array(["|".join(f"{values[block[0]]:.6g}" for block in blocks) for blocks in rows_of])
    # A map at a time, so that compounds whose doses no other one of their map has stay on it, too.
    on_map = np.zeros(len(names), dtype=int) if maps is None else np.unique(maps[first], return_inverse=True)[1]
    on_map, partner = _pool_lonely(on_map), np.empty(len(names), dtype=int)
    for one in np.unique(on_map):
        members = np.flatnonzero(on_map == one)
        partner[members] = members[_deranged(dose_sets[members], rng)]
    out = np.empty(len(code), dtype=int)
    for one, blocks in enumerate(rows_of):
        donor = rows_of[partner[one]]
        for dose_rank, block in enumerate(blocks):
            given = donor[min(dose_rank, len(donor) - 1)]
            out[block] = given[np.arange(len(block)) % len(given)]
    return out
