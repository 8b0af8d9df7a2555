"""What the study says about compounds it has never met: are they active, whom do they resemble, what may they do?

Every p-value is the share of draws under a null that is stated, at least as extreme as what was seen, and every null is
made of wells or compounds that were treated as the new ones are. Two kinds are used:

- *activity*: a treatment's wells against the negative controls of the same plates. Null: they are exchangeable. The
  labels are permuted within plates, and everything that knows of labels is done again, so p is exact.
- *resemblance* (nearest compounds, mechanisms, distance from the library, predicted outcomes): a new compound against
  library compounds that the same encoder was not trained on either, its `Reference.held_out`. Null: it is one more of
  them. Such p-values are conformal (Vovk, Gammerman and Shafer 2005): exact for one encoder, and a mean over encoders
  where there are several (cross-conformal: Vovk 2015, doi 10.1007/s10472-013-9368-4), which is close to exact.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.bioactivity import ManyTaskRidgeClassifier, label_matrix
from cpx_utils.metrics import benjamini_hochberg, cosine_similarity, shared_labels
from cpx_utils.newplates import FLAT, PlateEncoder, load_plate_encoder
from cpx_utils.preprocessing import consensus
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    METADATA_COLUMNS,
    PLATE,
    compound_groups,
    feature_columns,
    treatments,
    wells_of,
)

_BLOCK = 4_000_000  # numbers held at a time


# --- the library --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """One encoder's view: compounds that it was trained on, library compounds that it wasn't, and the new ones.

    Attributes
    ----------
    library, held_out : DataFrame
        Compounds: Metadata_Compound, MoA (lists) and `group`, of which no two are on both sides.
    library_codes, held_out_codes, new_codes : arrays (n, n_dimensions)
        Consensus embeddings, measured from the negative controls.
    library_profiles, held_out_profiles, new_profiles : arrays (n, n_features)
        Consensus of the prepared features.
    """

    library: pd.DataFrame
    held_out: pd.DataFrame
    library_codes: np.ndarray
    held_out_codes: np.ndarray
    new_codes: np.ndarray
    library_profiles: np.ndarray
    held_out_profiles: np.ndarray
    new_profiles: np.ndarray


def make_reference(
    new: pd.DataFrame,
    wells: pd.DataFrame,
    compounds: pd.DataFrame,
    held_out: Iterable[str],
    encoder: PlateEncoder,
    *,
    left_out: Iterable[str] = (),
    seed: int = 0,
) -> Reference:
    """Embed new and known compounds by one encoder.

    Parameters
    ----------
    new
        New wells and their controls, normalised.
    wells
        The screen's wells, normalised, controls included.
    compounds
        The screen's compounds: Metadata_Compound, MoA, InChIKey14.
    held_out
        Compounds of the screen that the encoder was not trained on. Of each, no more wells are used than a new compound
        has (the median), drawn at random: averages of more wells are quieter, and would make the new ones look strange.
    encoder
        Fitted on all compounds of the screen that are neither held out nor left out.
    left_out
        Compounds of the screen that take no part.
    seed
        Of the wells drawn.
    """
    held_out, left_out = set(held_out), set(left_out)
    known = wells[COMPOUND].isin(set(compounds[COMPOUND]))
    control = wells[CONTROL].astype(bool)
    of_library = wells[known & ~wells[COMPOUND].isin(held_out | left_out) | control].reset_index(drop=True)
    others = wells[wells[COMPOUND].isin(held_out - left_out)].reset_index(drop=True)
    treated = ~new[CONTROL].to_numpy(bool)
    usual = int(np.median(new.loc[treated, COMPOUND].value_counts()))
    others = others.iloc[_few_wells(others[COMPOUND].to_numpy(object), usual, seed)].reset_index(drop=True)
    # Without controls of their own, new wells are measured from where the library is.
    origin, own_origin = (table[CONTROL].to_numpy(bool) for table in (of_library, new))
    origin = origin if origin.any() else np.ones(len(of_library), bool)
    parts, annotated = [], compounds.assign(group=compound_groups(compounds).to_numpy())
    profiles = {name: encoder.filling.transform(table) for name, table in _named(of_library, others, new)}
    codes = {name: encoder.encoder.transform(values).astype(float) for name, values in profiles.items()}
    for values in (profiles, codes):
        centre = values["library"][origin].mean(axis=0)
        for name, table in _named(of_library, others, new):
            from_here = values[name][own_origin].mean(axis=0) if name == "new" and own_origin.any() else centre
            metadata, average = consensus(table[METADATA_COLUMNS], values[name] - from_here, by="compound")
            parts.append((metadata, average))
    tables = [metadata[[COMPOUND]].merge(annotated, on=COMPOUND, how="left") for metadata, _ in parts[:2]]
    values = [average for _, average in parts]
    return Reference(*tables, *values[3:], *values[:3])


def _named(library: pd.DataFrame, held_out: pd.DataFrame, new: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [("library", library), ("held out", held_out), ("new", new)]


def _few_wells(compounds: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Rows of at most `n` wells of each compound, drawn at random, in their order."""
    order = pd.Series(np.random.default_rng(seed).random(len(compounds)))
    return np.flatnonzero((order.groupby(compounds).rank() <= n).to_numpy())


def fold_references(
    new: pd.DataFrame,
    wells: pd.DataFrame,
    compounds: pd.DataFrame,
    folds: pd.DataFrame,
    folder: Path,
    *,
    seed: int = 0,
) -> list[Reference]:
    """A reference for each fold of the study: its encoder, its training compounds, and its test compounds as held out.

    Parameters
    ----------
    new, wells, compounds
        As for `make_reference`.
    folds
        Fold of each compound in one repeat of one split: Metadata_Compound, split, repeat, fold.
    folder
        Where the study saved a method's encoders: `models/METHOD` of a run.
    seed
        Of the wells drawn.
    """
    references = []
    for (split, repeat, fold), rows in folds.groupby(["split", "repeat", "fold"]):
        held_out = set(rows[COMPOUND])
        training = wells_of(wells, sorted(set(folds[COMPOUND]) - held_out))
        encoder = load_plate_encoder(folder / f"{split}-{repeat}-{fold}", new, training, seed)
        references.append(make_reference(new, wells, compounds, held_out, encoder, seed=seed))
    return references


def rehearsal(
    wells: pd.DataFrame, folds: pd.DataFrame, *, hidden: float = 0.0, seed: int = 0
) -> tuple[pd.DataFrame, set[str], set[str]]:
    """Let a quarter of the first fold's test compounds play the new ones, and keep the others as held out.

    Parameters
    ----------
    wells
        The screen's wells.
    folds
        As for `fold_references`.
    hidden
        Share of the features that the new wells are made to lack.
    seed
        Of the compounds and of the features.

    Returns
    -------
    new, held_out, played
        Wells of the new compounds with all controls; ids of the held-out compounds, and of those that play the new.
    """
    rng = np.random.default_rng(seed)
    test = rng.permutation(np.sort(folds.loc[folds["fold"] == 0, COMPOUND].astype(str).to_numpy()))
    n_new = max(1, len(test) // 4)
    played, held_out = set(test[:n_new]), set(test[n_new:])
    features = feature_columns(wells)
    lost = rng.choice(features, round(hidden * len(features)), replace=False)
    return wells_of(wells, sorted(played)).drop(columns=list(lost)), held_out, played


def embed_compounds(new: pd.DataFrame, library: pd.DataFrame, encoder: PlateEncoder) -> tuple[list[str], np.ndarray]:
    """One embedding a new compound.

    Parameters
    ----------
    new, library
        Wells, normalised.
    encoder
        Any.

    Returns
    -------
    compounds, codes
        Ids, sorted; and codes (n_compounds, n_dimensions), measured from the new wells' own negative controls, or from
        the library's origin (its controls, or its mean) where they have none.
    """
    codes = encoder.transform(new)
    origin, at_origin = codes, new[CONTROL].to_numpy(bool)
    if not at_origin.any():
        origin, at_origin = encoder.transform(library), library[CONTROL].to_numpy(bool)
        at_origin = at_origin if at_origin.any() else ~at_origin
    metadata, average = consensus(new[METADATA_COLUMNS], codes - origin[at_origin].mean(axis=0), by="compound")
    return metadata[COMPOUND].tolist(), average


# --- activity -----------------------------------------------------------------------------------------------


def library_metric(wells: pd.DataFrame, codes: np.ndarray) -> np.ndarray:
    r"""Map in which distances count in units of the noise between replicates, blind to what all treated wells share.

    :math:`W P` with :math:`W W^T = S^{-1}` and :math:`P = I - h h^T`. :math:`S` is the covariance of the library's
    treated wells around their treatments, shrunken (Ledoit and Wolf 2004, doi 10.1016/S0047-259X(03)00096-4); around
    their mean where treatments have no replicates. :math:`h` is the direction, after :math:`W`, in which the mean of
    all treated wells differs from the controls: handling, solvent, place on the plate. Treated wells that do nothing
    would be told from controls by it. A compound that acts in just this direction is lost with it. New wells have no
    part in any of this, so that a null of their labels stays exact.

    Parameters
    ----------
    wells, codes
        Metadata of the library's wells and their embeddings (n_wells, n_dimensions).

    Returns
    -------
    array (n_dimensions, n_dimensions)
    """
    from sklearn.covariance import ledoit_wolf

    codes = np.asarray(codes, float)
    treated = ~wells[CONTROL].to_numpy(bool)
    values = pd.DataFrame(codes[treated])
    names = treatments(wells[treated]).to_numpy()
    around = values - values.groupby(names).transform("mean")
    if len(values) - len(np.unique(names)) < max(10, values.shape[1] // 4):
        around = values - values.mean()
    covariance, _ = ledoit_wolf(around.to_numpy(), assume_centered=True)
    size, directions = np.linalg.eigh(covariance)
    metric = directions / np.sqrt(np.maximum(size, 1e-9 * max(size.max(), 1e-12)))
    if treated.all() or codes.shape[1] < 3:  # of one or two dimensions none can be spared
        return metric
    shared = (codes[treated].mean(axis=0) - codes[~treated].mean(axis=0)) @ metric
    shared = shared / max(np.linalg.norm(shared), 1e-12)
    return metric - np.outer(metric @ shared, shared)


def activity_calls(
    wells: pd.DataFrame,
    features: Sequence[str],
    embed: Callable[[pd.DataFrame], np.ndarray],
    *,
    fdr: float = 0.05,
    n_null: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Which treatments differ from the negative controls of their own plates.

    The statistic is :math:`T = \|\sum_p \frac{n_p}{n} (\bar z_{p} - \bar c_p)\|^2`: the squared length of the mean
    difference between the treatment's :math:`n_p` wells and the controls on each plate :math:`p`. Replicates that point
    to different sides cancel out. Under the null that the treatment's wells are exchangeable with the controls of their
    plates, :math:`T` is drawn again with the labels permuted within each plate. Normalisation to controls would break
    that symmetry, since controls lie closer to a centre that was made of them; so here each plate's controls and the
    treatment's wells are normalised together (median and MAD of both), before `embed`. What results is exact with any
    number of controls; few controls or wells cost power, since no p can be smaller than one over the number of
    arrangements.

    What it can't tell: a treatment differs from controls also by where it lies on the plate. Replicates that share a
    well position share its effect, and that counts as activity.

    Parameters
    ----------
    wells
        Metadata and features.
    features
        Those that are normalised.
    embed
        Maps normalised features (n, n_features) to points (n, n_dimensions); fitted without these wells.
    fdr
        False discovery rate of Benjamini and Hochberg among the treatments.
    n_null
        Permutations, more where so many treatments need more for a single one to be called.
    seed
        Of the permutations.

    Returns
    -------
    DataFrame
        One row a treatment: `compound`, `dose`, `treatment`, `n_wells`, `n_plates`, `distance` (square root of T over
        the median of its null: 1 is what controls do), `p_value`, `smallest_p` that was possible, `q_value`, `active`
        (bool), `reason` where there is no test.

    References
    ----------
    Phipson and Smyth 2010, doi 10.2202/1544-6115.1585, for p that is never 0.
    """
    control = wells[CONTROL].to_numpy(bool)
    names = treatments(wells).to_numpy(str)
    plates = wells[PLATE].to_numpy(str)
    values = wells[list(features)].to_numpy(float)
    usual = _usual_spread(values, plates)
    controls_of = {plate: np.flatnonzero(control & (plates == plate)) for plate in np.unique(plates)}
    treated = pd.Series(np.flatnonzero(~control)).groupby(names[~control])
    n_null = int(max(n_null, np.ceil(2 * treated.ngroups / fdr)))
    drawn: dict[tuple, list[np.ndarray]] = {}
    rows = []
    for name, members in treated:
        members = members.to_numpy()
        groups = [members[plates[members] == plate] for plate in np.unique(plates[members])]
        pools = [np.concatenate([own, controls_of[plates[own[0]]]]) for own in groups]
        tested = [(own, pool) for own, pool in zip(groups, pools, strict=True) if len(pool) > len(own)]
        row = {"compound": wells[COMPOUND].iloc[members[0]], "dose": wells[DOSE].iloc[members[0]], "treatment": name}
        row |= {"n_wells": sum(len(own) for own, _ in tested), "n_plates": len(tested)}
        if not tested:
            rows.append(row | {"n_wells": len(members), "reason": "no negative controls on its plates"})
            continue
        sizes = tuple((len(own), len(pool)) for own, pool in tested)
        if sizes not in drawn:
            drawn[sizes] = _arrangements(sizes, n_null, seed)
        pooled = [_robust(values[pool], usual) for _, pool in tested]
        points = np.asarray(embed(pd.DataFrame(np.concatenate(pooled), columns=list(features))), float)
        observed, null = _lengths(points, sizes, drawn[sizes])
        # Rounding must not part an arrangement from itself.
        p_value = (1 + (null >= observed * (1 - 1e-9)).sum()) / (1 + len(null))
        smallest = max(1 / (1 + len(null)), 1 / np.prod([float(comb(pool, own)) for own, pool in sizes]))
        p_value = max(p_value, smallest)  # where there are few arrangements, more draws than these may miss one
        distance = np.sqrt(observed / max(np.median(null), 1e-300))
        rows.append(row | {"distance": distance, "p_value": p_value, "smallest_p": smallest, "reason": ""})
    columns = "compound dose treatment n_wells n_plates distance p_value smallest_p reason".split()
    table = pd.DataFrame(rows, columns=columns)
    table.insert(8, "q_value", benjamini_hochberg(table["p_value"].astype(float)))
    table.insert(9, "active", (table["q_value"] <= fdr).to_numpy(bool))
    return table


def treatment_activity(
    new: pd.DataFrame, library: pd.DataFrame, encoder: PlateEncoder, **options: float
) -> pd.DataFrame:
    """`activity_calls` in an encoder's embedding, in units of the noise between the library's replicates.

    Parameters
    ----------
    new
        New wells with the controls of their plates.
    library
        Wells of the compounds that the encoder was trained on.
    encoder
        Any.
    **options
        `fdr`, `n_null` and `seed` of `activity_calls`.
    """
    metric = library_metric(library[METADATA_COLUMNS], encoder.transform(library))
    asked = [name for name in encoder.filling.preparation.features_ if name in new.columns]
    return activity_calls(new, asked, lambda wells: encoder.transform(wells) @ metric, **options)


def _usual_spread(values: np.ndarray, plates: np.ndarray) -> np.ndarray:
    """Median over plates of each feature's MAD in all wells, which no label can change; for features flat in a pool."""
    spreads = []
    for plate in np.unique(plates):
        rows = values[plates == plate]
        spreads.append(1.4826 * _median(np.abs(rows - _median(rows))))
    spreads = np.stack(spreads)
    usual = _median(np.where(spreads > FLAT, spreads, np.nan))
    return np.where(usual > FLAT, usual, np.inf)  # flat everywhere: says nothing


def _median(values: np.ndarray) -> np.ndarray:
    """Median by column without the gaps; 0 for a column without any value."""
    medians = np.median(values, axis=0)
    for column in np.flatnonzero(np.isnan(medians)):
        there = values[~np.isnan(values[:, column]), column]
        medians[column] = np.median(there) if len(there) else 0.0
    return medians


def _robust(values: np.ndarray, usual: np.ndarray) -> np.ndarray:
    centred = values - _median(values)
    spread = 1.4826 * _median(np.abs(centred))
    return centred / np.where(spread > FLAT, spread, usual)


def _arrangements(sizes: tuple, n_null: int, seed: int) -> list[np.ndarray]:
    """Rows of the pooled wells, plate after plate, that play the treatment: a piece (n, n_wells) after the other."""
    rng = np.random.default_rng(seed)
    total = sum(pool for _, pool in sizes)
    block = max(1, _BLOCK // max(total, sum(own for own, _ in sizes) ** 2))
    pieces = []
    for start in range(0, n_null, block):
        n, first, columns = min(block, n_null - start), 0, []
        for own, pool in sizes:
            if own == 1:
                columns.append(first + rng.integers(pool, size=(n, 1)))
            else:
                columns.append(first + rng.random((n, pool)).argpartition(own - 1, axis=1)[:, :own])
            first += pool
        pieces.append(np.concatenate(columns, axis=1))
    return pieces


def _lengths(points: np.ndarray, sizes: tuple, arrangements: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Squared length of the mean difference to controls, as observed and in each arrangement.

    With a plate's pool centred, treated mean minus control mean is (1 / n_own + 1 / n_others) times the sum of the
    treated, so all lengths come from one matrix of inner products.
    """
    n_wells = sum(own for own, _ in sizes)
    scaled, observed, first = [], [], 0
    for own, pool in sizes:
        part = points[first : first + pool]
        scaled.append((part - part.mean(axis=0)) * (own / n_wells) * (1 / own + 1 / (pool - own)))
        observed.append(np.arange(first, first + own))
        first += pool
    products = np.concatenate(scaled)
    products = products @ products.T
    lengths = []
    for rows in [np.concatenate(observed)[None], *arrangements]:
        total = np.zeros(len(rows))
        for i in range(n_wells):
            total += products[rows[:, i], rows[:, i]]
            for j in range(i):
                total += 2 * products[rows[:, i], rows[:, j]]
        lengths.append(np.maximum(total, 0.0))
    return float(lengths[0][0]), np.concatenate(lengths[1:])


# --- resemblance --------------------------------------------------------------------------------------------


def _at_least(null: np.ndarray, values: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """How many of the null (NaN: none), or what weight of it, are at least as large as each value; none for NaN."""
    there = ~np.isnan(null)
    order = np.argsort(null[there], kind="stable")
    heavier = np.ones(len(order)) if weight is None else weight[there][order]
    above = np.append(np.cumsum(heavier[::-1])[::-1], 0.0)  # from each place on to the largest
    counts = above[np.searchsorted(null[there][order], values, side="left")]
    return np.where(np.isnan(values), 0, counts)


def nearest_compounds(new: Sequence[str], references: Sequence[Reference], *, n_nearest: int = 10) -> pd.DataFrame:
    """The library compounds that lie nearest to each new compound, and whether that is nearer than strangers lie.

    Cosine similarity of consensus embeddings, mean over the encoders that were trained on the neighbour. Null: the new
    compound is to the library what a held-out compound is to the library compounds that share neither mechanism nor
    structure with it. p compares with the *nearest* of those, so it holds for the whole list of neighbours at once
    (single-step maxT: Westfall and Young 1993). Where mechanisms are unknown, relatives may hide in the null, and p is
    too large rather than too small. It says nothing of a plate whose wells all share a shift: see the distance from the
    library.

    Parameters
    ----------
    new
        Ids of the new compounds, in the order of the references' `new_codes`.
    references
        At least one.
    n_nearest
        Neighbours listed for each compound.

    Returns
    -------
    DataFrame
        `compound`, `rank` (1 = nearest), `neighbour`, `similarity`, `MoA` (of the neighbour, joined by |), `p_value`;
        and of rank 1 `q_value` (Benjamini and Hochberg among the new compounds).
    """
    annotation = (
        pd.concat([reference.library for reference in references]).drop_duplicates(COMPOUND).set_index(COMPOUND)
    )
    names = annotation.index.to_numpy(object)
    total = np.zeros((len(new), len(names)))
    seen, exceed, n_held_out = np.zeros(len(names)), np.zeros((len(new), len(names))), np.zeros(len(names))
    for reference in references:
        place = annotation.index.get_indexer(reference.library[COMPOUND])
        similarity = cosine_similarity(reference.new_codes, reference.library_codes)
        strangers = cosine_similarity(reference.held_out_codes, reference.library_codes)
        related = shared_labels(reference.held_out["MoA"], reference.library["MoA"])
        related |= reference.held_out["group"].to_numpy(object)[:, None] == reference.library["group"].to_numpy(object)
        null = np.where(related, -np.inf, strangers).max(axis=1, initial=-np.inf)
        total[:, place] += similarity
        seen[place] += 1
        exceed[:, place] += _at_least(null, similarity)
        n_held_out[place] += len(null)
    mean, p_value = total / seen, (1 + exceed) / (1 + n_held_out)
    nearest = np.argsort(-mean, axis=1, kind="stable")[:, :n_nearest]
    rows = np.repeat(np.arange(len(new)), nearest.shape[1])
    chosen = nearest.ravel()
    table = pd.DataFrame({
        "compound": np.asarray(new, dtype=object)[rows],
        "rank": np.tile(np.arange(1, nearest.shape[1] + 1), len(new)),
        "neighbour": names[chosen],
        "similarity": mean[rows, chosen],
        "MoA": ["|".join(annotation["MoA"].iloc[one]) for one in chosen],
        "p_value": p_value[rows, chosen],
    })  # fmt: skip
    return _with_q(table, "p_value")


def _with_q(table: pd.DataFrame, column: str) -> pd.DataFrame:
    first = (table["rank"] == 1).to_numpy()
    q_value = np.full(len(table), np.nan)
    q_value[first] = benjamini_hochberg(table.loc[first, column])
    return table.assign(q_value=q_value)


_MECHANISM_COLUMNS = ["compound", "rank", "mechanism", "score", "evidence", "n_compounds", "nearest", "p_value",
                      "p_adjusted", "p_foreign", "q_value"]  # fmt: skip


def nearest_mechanisms(new: Sequence[str], references: Sequence[Reference], *, n_neighbours: int = 3) -> pd.DataFrame:
    r"""Rank the library's mechanisms of action by how close their compounds lie to each new compound.

    The score :math:`s_m` of a mechanism is the mean cosine similarity of its `n_neighbours` nearest compounds (all, if
    it has fewer). Large or tight mechanisms score high with everything, so evidence is the score in units of what
    library compounds without the mechanism get, :math:`e_m = (s_m - \mu_m) / \sigma_m`. Null: the new compound is to
    these mechanisms what a held-out compound is to those that it does not have.

    Parameters
    ----------
    new
        Ids of the new compounds, in the order of the references' `new_codes`.
    references
        At least one.
    n_neighbours
        Compounds that speak for a mechanism.

    Returns
    -------
    DataFrame
        One row a new compound and mechanism: `compound`, `rank` (1 = most evidence), `mechanism`, `score`, `evidence`
        (means over encoders), `n_compounds` of the mechanism, `nearest` (its nearest compound), `p_value` (of this pair
        alone), `p_adjusted` (over all mechanisms of the compound: its null is the *best* wrong mechanism of a held-out
        compound; Westfall and Young 1993), `p_foreign` (see Notes), and of rank 1 `q_value` of p_adjusted (Benjamini
        and Hochberg among the new compounds).

    Notes
    -----
    p_adjusted is calibrated for compounds drawn as the library's were: how often is the best wrong mechanism of such a
    compound as good? Compounds of one mechanism resemble each other, though, so for a compound whose mechanism the
    library lacks they are fewer draws than their number says. `p_foreign` lets each *mechanism* count once, by the
    share of its held-out compounds that do as well (Lee, Barber and Willett 2023, arXiv 2306.06342), and is calibrated
    for one more mechanism. It is never below 1 / (1 + number of mechanisms).

    Held-out compounds without annotation count as having none of the mechanisms. If they do have some, p is too large
    rather than too small.
    """
    parts = [_mechanism_scores(reference, n_neighbours) for reference in references]
    mechanisms = sorted({name for part in parts for name in part["mechanisms"]})
    if not mechanisms or not len(new):
        return pd.DataFrame(columns=_MECHANISM_COLUMNS)
    shape = (len(new), len(mechanisms))
    sums = {name: np.zeros(shape) for name in ("score", "evidence", "pair", "best", "foreign")}
    seen, n_pair, n_best = np.zeros(len(mechanisms)), np.zeros(len(mechanisms)), np.zeros(len(mechanisms))
    sizes_of_kinds = pd.Series([kind for part in parts for kind in part["kind"]]).value_counts()
    for part in parts:
        column = [mechanisms.index(name) for name in part["mechanisms"]]
        lacking = np.where(part["own"], np.nan, part["held_out"])  # (n_held_out, n_mechanisms)
        best = np.where(part["own"], -np.inf, part["held_out"]).max(axis=1, initial=-np.inf)
        sums["score"][:, column] += part["score"]
        sums["evidence"][:, column] += part["new"]
        sums["best"][:, column] += _at_least(best, part["new"])
        weight = 1 / sizes_of_kinds[part["kind"]].to_numpy(float)
        sums["foreign"][:, column] += _at_least(best, part["new"], weight)
        pairs = [_at_least(lacking[:, one], part["new"][:, one]) for one in range(len(column))]
        sums["pair"][:, column] += np.stack(pairs, axis=1)
        seen[column] += 1
        n_pair[column] += (~np.isnan(lacking)).sum(axis=0)
        n_best[column] += len(best)
    sizes, nearest = _mechanism_members(references, mechanisms, len(new))
    table = pd.DataFrame({
        "compound": np.repeat(np.asarray(new, dtype=object), len(mechanisms)),
        "mechanism": np.tile(np.asarray(mechanisms, dtype=object), len(new)),
        "score": (sums["score"] / seen).ravel(),
        "evidence": (sums["evidence"] / seen).ravel(),
        "n_compounds": np.tile(sizes, len(new)),
        "nearest": nearest.ravel(),
        "p_value": ((1 + sums["pair"]) / (1 + n_pair)).ravel(),
        "p_adjusted": ((1 + sums["best"]) / (1 + n_best)).ravel(),
        "p_foreign": ((1 + sums["foreign"]) / (1 + len(sizes_of_kinds))).ravel(),
    })  # fmt: skip
    rank = table.groupby("compound", sort=False)["evidence"].rank(ascending=False, method="first").astype(int)
    table.insert(1, "rank", rank)
    table = table.iloc[np.lexsort((table["rank"], np.repeat(np.arange(len(new)), len(mechanisms))))]
    return _with_q(table.reset_index(drop=True), "p_adjusted")


def _members(compounds: pd.DataFrame) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for row, names in enumerate(compounds["MoA"]):
        for name in dict.fromkeys(names):
            members.setdefault(name, []).append(row)
    return dict(sorted(members.items()))


def _top_mean(similarity: np.ndarray, n: int) -> np.ndarray:
    """Mean of the `n` largest values of each row."""
    n = min(n, similarity.shape[1])
    return np.partition(similarity, -n, axis=1)[:, -n:].mean(axis=1)


def _mechanism_scores(reference: Reference, n_neighbours: int) -> dict:
    """Scores and evidence of new and held-out compounds; of the held-out, own mechanisms and kind (all of these).

    What is usual is judged without library compounds that share a held-out compound's mechanisms: a foreign compound
    has no relatives among them either.
    """
    members = _members(reference.library)
    to_new = cosine_similarity(reference.new_codes, reference.library_codes)
    to_held_out = cosine_similarity(reference.held_out_codes, reference.library_codes)
    within = cosine_similarity(reference.library_codes)
    usual = np.full((len(within), len(members)), np.nan)
    score, held_out = np.empty((len(to_new), len(members))), np.empty((len(to_held_out), len(members)))
    for column, rows in enumerate(members.values()):
        without = np.setdiff1d(np.arange(len(within)), rows)
        usual[without, column] = _top_mean(within[np.ix_(without, rows)], n_neighbours)
        score[:, column] = _top_mean(to_new[:, rows], n_neighbours)
        held_out[:, column] = _top_mean(to_held_out[:, rows], n_neighbours)
    new_mean, new_spread = _moments(usual, np.zeros(len(usual), bool))
    moas = reference.held_out["MoA"].tolist()
    ids = reference.held_out[COMPOUND]
    kinds = ["|".join(sorted(names)) or f"only {one}" for names, one in zip(moas, ids, strict=True)]
    own = np.array([[name in names for name in members] for names in moas], bool).reshape(held_out.shape)
    for kind in dict.fromkeys(kinds):
        of_kind = np.array([one == kind for one in kinds])
        related = np.zeros(len(usual), bool)
        for name in moas[kinds.index(kind)]:
            related[members.get(name, [])] = True
        mean, spread = _moments(usual, related)
        held_out[of_kind] = (held_out[of_kind] - mean) / spread
    evidence = (score - new_mean) / new_spread
    return {
        "score": score,
        "new": evidence,
        "held_out": held_out,
        "mechanisms": list(members),
        "own": own,
        "kind": kinds,
    }


def _moments(values: np.ndarray, left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by column without some rows and without gaps; 0 and 1 where nothing is left."""
    kept = values[~left_out]
    n = np.maximum((~np.isnan(kept)).sum(axis=0), 1)
    mean = np.nansum(kept, axis=0) / n
    spread = np.sqrt(np.nansum((kept - mean) ** 2, axis=0) / n)
    return mean, np.where(spread > 1e-6, spread, 1.0)


def _mechanism_members(
    references: Sequence[Reference], mechanisms: list[str], n_new: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compounds of each mechanism over all references (n_mechanisms,), and its nearest to each new one."""
    held: dict[str, set[str]] = {name: set() for name in mechanisms}
    nearest = np.full((n_new, len(mechanisms)), "", dtype=object)
    best = np.full((n_new, len(mechanisms)), -np.inf)
    for reference in references:
        similarity = cosine_similarity(reference.new_codes, reference.library_codes)
        ids = reference.library[COMPOUND].to_numpy(object)
        for name, rows in _members(reference.library).items():
            column = mechanisms.index(name)
            held[name] |= set(ids[rows])
            place = similarity[:, rows].argmax(axis=1)
            value = similarity[:, rows].max(axis=1)
            closer = value > best[:, column]
            nearest[closer, column] = ids[np.asarray(rows)[place]][closer]
            best[closer, column] = value[closer]
    return np.array([len(held[name]) for name in mechanisms]), nearest


def is_known_mechanism(ranked: pd.DataFrame, compounds: pd.DataFrame) -> list[bool]:
    """For each row of `nearest_mechanisms`: is it a mechanism that the compound is annotated with?"""
    known = compounds.set_index(COMPOUND)["MoA"]
    pairs = zip(ranked["compound"], ranked["mechanism"], strict=True)
    return [mechanism in list(known.get(compound, [])) for compound, mechanism in pairs]


def mechanisms_found(ranked: pd.DataFrame, compounds: pd.DataFrame, within: int) -> pd.DataFrame:
    """For new compounds whose mechanism is known: whether it is among the first `within`, and the chance of that.

    Parameters
    ----------
    ranked
        From `nearest_mechanisms`.
    compounds
        Metadata_Compound and MoA (lists) of the new compounds.
    within
        Number of first ranks that count as found.

    Returns
    -------
    DataFrame
        One row a compound whose MoA the library holds: `compound`, `best_rank`, `found` (0, 1), `chance`.
    """
    known = compounds.set_index(COMPOUND)["MoA"]
    rows = []
    for compound, table in ranked.groupby("compound", sort=False):
        own = table[table["mechanism"].isin(list(known.get(compound, [])))]
        if len(own):
            # Chance that none of `len(own)` mechanisms is among the first `within` of all, drawn without replacement.
            misses = np.arange(len(own))
            none = np.prod(np.clip((len(table) - within - misses) / (len(table) - misses), 0, 1))
            rows.append((compound, own["rank"].min(), float(own["rank"].min() <= within), 1 - none))
    return pd.DataFrame(rows, columns=["compound", "best_rank", "found", "chance"])


# --- distance from the library ------------------------------------------------------------------------------


def library_distance(
    new: Sequence[str], references: Sequence[Reference], *, fdr: float = 0.05, max_components: int = 50
) -> pd.DataFrame:
    r"""How far each new compound lies from the library, and what share of held-out compounds lies farther out.

    The squared distance is Mahalanobis', :math:`D^2 = (x - \mu)^T C^{-1} (x - \mu)`, with the covariance :math:`C` of
    probabilistic principal components of the library's consensus profiles (Tipping and Bishop 1999, doi
    10.1111/1467-9868.00196): components that explain 90% of the variance in full, the rest by its mean variance, so
    that a profile far from all components counts as far. :math:`C` is learned on training compounds, and the null on
    held-out ones: in-sample distances would be too small, and everything new an outlier.

    Parameters
    ----------
    new
        Ids of the new compounds, in the order of the references' `new_profiles`.
    references
        At least one.
    fdr
        Among the new compounds, of those called strange.
    max_components
        Never more, nor more than a third of the training compounds.

    Returns
    -------
    DataFrame
        `compound`, `library_distance` (median of held-out compounds: 1), `share_farther` (p of the null that it is one
        more compound of this library: Bates 2023, doi 10.1214/22-AOS2244), `q_value`, `strange` (bool).
    """
    from sklearn.decomposition import PCA

    exceed, n_held_out, distance = np.zeros(len(new)), 0, np.zeros(len(new))
    for reference in references:
        library = reference.library_profiles.astype(float)
        most = max(1, min(max_components, len(library) // 3, library.shape[1] - 1))
        model = PCA(most, svd_solver="full").fit(library)
        enough = 1 + int(np.searchsorted(np.cumsum(model.explained_variance_ratio_), 0.9))
        model = PCA(min(most, enough), svd_solver="full").fit(library)
        inverse = model.get_precision()
        null, value = (
            np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", x - model.mean_, inverse, x - model.mean_), 0.0))
            for x in (reference.held_out_profiles.astype(float), reference.new_profiles.astype(float))
        )
        exceed += _at_least(null, value)
        n_held_out += len(null)
        distance += value / np.median(null) if len(null) else np.nan
    table = pd.DataFrame({"compound": list(new), "library_distance": distance / max(len(references), 1)})
    table["share_farther"] = (1 + exceed) / (1 + n_held_out)
    table["q_value"] = benjamini_hochberg(table["share_farther"])
    return table.assign(strange=(table["q_value"] <= fdr).to_numpy(bool))


# --- predicted activities -----------------------------------------------------------------------------------

_ACTIVITY_COLUMNS = ["compound", "task", "family", "probability", "ci_low", "ci_high", "p_active", "p_inactive", "call"]


def predict_activities(
    new: Sequence[str],
    references: Sequence[Reference],
    activity: pd.DataFrame,
    tasks: pd.DataFrame,
    *,
    min_active: int = 25,
    confidence: float = 0.8,
) -> pd.DataFrame:
    r"""Predicted outcome of each new compound in each assay, with what is known of its uncertainty.

    Linear models on the library's embeddings give scores :math:`s`. Held-out compounds of known outcome turn them into

    - a probability, :math:`1 / (1 + e^{-(a + b s)})` (Platt 1999), with the 95% interval that the uncertainty of
      :math:`a` and :math:`b` leaves it;
    - a call, by class-conditional conformal prediction (Vovk 2005; Norinder 2014, doi 10.1021/ci5001168):
      `p_active` is the share of held-out *actives* that score no higher, `p_inactive` of held-out *inactives* that
      score no lower. A class is ruled out where its p is at most 1 - confidence, and what is left is the call. Of truly
      active compounds at least `confidence` keep "active" in their call, and so of inactive ones, whatever the model
      is worth: a bad one leaves more undecided.

    Parameters
    ----------
    new
        Ids of the new compounds, in the order of the references' `new_codes`.
    references
        At least one.
    activity, tasks
        Outcomes and tasks of the screen.
    min_active
        Active (and inactive) library compounds a task needs.
    confidence
        Of the calls.

    Returns
    -------
    DataFrame
        One row a compound and task: `compound`, `task`, `family`, `probability`, `ci_low`, `ci_high`, `p_active`,
        `p_inactive`, `call`: active, inactive, undecided (neither class is ruled out) or neither (both are: unlike the
        library's compounds of either class). NaN and undecided where held-out compounds of a class are lacking.
    """
    known = pd.concat([table for one in references for table in (one.library, one.held_out)]).drop_duplicates(COMPOUND)
    enough = {"min_active": min_active, "min_inactive": min_active}
    labels, _ = label_matrix(activity, tasks, known[COMPOUND].to_numpy(), **enough)
    if labels.shape[1] == 0 or not len(new):
        return pd.DataFrame(columns=_ACTIVITY_COLUMNS)
    scored = [_scores_of(reference, labels) for reference in references]
    mean_score = np.mean([score for score, _, _ in scored], axis=0)
    family = tasks.drop_duplicates("task").set_index("task")["family"]
    tables = []
    for column, task in enumerate(labels.columns):
        held_out = np.concatenate([score[:, column] for _, score, _ in scored])
        outcome = np.concatenate([truth[:, column] for _, _, truth in scored])
        probability, low, high = _platt(held_out, outcome, mean_score[:, column])
        p_active, p_inactive = _class_p(scored, column)
        ruled_out = {"active": p_active <= 1 - confidence, "inactive": p_inactive <= 1 - confidence}
        call = np.select(
            [ruled_out["active"] & ruled_out["inactive"], ruled_out["inactive"], ruled_out["active"]],
            ["neither", "active", "inactive"], default="undecided",
        )  # fmt: skip
        values = (list(new), task, family.get(task, "other"), probability, low, high, p_active, p_inactive, call)
        tables.append(pd.DataFrame(dict(zip(_ACTIVITY_COLUMNS, values, strict=True))))
    table = pd.concat(tables, ignore_index=True)
    place = {name: number for number, name in enumerate(new)}
    return table.sort_values("compound", key=lambda names: names.map(place), kind="stable", ignore_index=True)


def _scores_of(reference: Reference, labels: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of new and of held-out compounds, and the latter's outcomes: (n_new, n_tasks), twice (n_held_out, ...)."""
    truth = labels.loc[reference.library[COMPOUND]].to_numpy(float)
    model = ManyTaskRidgeClassifier().fit(reference.library_codes, truth)
    outcome = labels.loc[reference.held_out[COMPOUND]].to_numpy(float)
    if not len(reference.held_out):
        return model.decision_function(reference.new_codes), np.empty((0, labels.shape[1])), outcome
    return model.decision_function(reference.new_codes), model.decision_function(reference.held_out_codes), outcome


def _class_p(scored: list[tuple], column: int) -> tuple[np.ndarray, np.ndarray]:
    n_new = len(scored[0][0])
    result = []
    for label, sign in ((1.0, -1.0), (0.0, 1.0)):  # actives that score no higher, inactives that score no lower
        exceed, total = np.zeros(n_new), 0
        for new, held_out, outcome in scored:
            of_class = sign * held_out[outcome[:, column] == label, column]
            exceed += _at_least(of_class, sign * new[:, column])
            total += len(of_class)
        result.append((1 + exceed) / (1 + total))
    return result[0], result[1]


def _platt(
    scores: np.ndarray, outcome: np.ndarray, new_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability of new scores by a logistic curve, and its 95% interval by the delta method."""
    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression

    known = ~np.isnan(outcome)
    scores, outcome = scores[known], outcome[known]
    if len(np.unique(outcome)) < 2:
        nothing = np.full(len(new_scores), np.nan)
        return nothing, nothing, nothing
    centre, spread = scores.mean(), max(scores.std(), 1e-12)
    standard = ((scores - centre) / spread)[:, None]
    curve = LogisticRegression().fit(standard, outcome)
    design, asked = (np.column_stack([np.ones(len(x)), x]) for x in (standard[:, 0], (new_scores - centre) / spread))
    fitted = curve.predict_proba(standard)[:, 1]
    information = design.T @ (design * (fitted * (1 - fitted))[:, None]) + np.diag([0.0, 1.0 / curve.C])
    covariance = np.linalg.inv(information)
    logit = asked @ np.array([curve.intercept_[0], curve.coef_[0, 0]])
    error = 1.96 * np.sqrt(np.einsum("ij,jk,ik->i", asked, covariance, asked))
    return expit(logit), expit(logit - error), expit(logit + error)


# --- one row a compound -------------------------------------------------------------------------------------


def compound_summary(
    wells: pd.DataFrame,
    plates: pd.DataFrame,
    calls: pd.DataFrame,
    neighbours: pd.DataFrame,
    mechanisms: pd.DataFrame,
    distances: pd.DataFrame,
) -> pd.DataFrame:
    """Everything about a new compound in one row, also of those whose plates could not be used.

    Parameters
    ----------
    wells
        All wells of the file, as read.
    plates
        From `newplates.normalise_new`.
    calls, neighbours, mechanisms, distances
        From the functions above.

    Returns
    -------
    DataFrame
        `compound`, `n_wells`, `n_used_wells`, `n_plates`, `n_treatments`, `active` (any treatment is called; NaN where
        none could be tested), `activity_q` (the smallest), `library_distance`, `share_farther`, `strange`, `neighbour`,
        `neighbour_q`, `mechanism`, `mechanism_q`, `left_out` (why, if it was).
    """
    treated = wells[~wells[CONTROL].to_numpy(bool)]
    used = treated[PLATE].isin(plates.loc[plates["used"], "plate"]).to_numpy()
    table = pd.DataFrame({"n_wells": treated.groupby(COMPOUND).size()})
    table["n_used_wells"] = treated[used].groupby(COMPOUND).size().reindex(table.index, fill_value=0)
    table["n_plates"] = treated[used].groupby(COMPOUND)[PLATE].nunique().reindex(table.index, fill_value=0)
    names = treatments(treated[used])
    table["n_treatments"] = names.groupby(treated[used][COMPOUND]).nunique().reindex(table.index, fill_value=0)
    tested = calls[calls["p_value"].notna()].groupby("compound")
    table["active"] = tested["active"].any().astype(object).reindex(table.index)
    table["activity_q"] = tested["q_value"].min().reindex(table.index)
    columns = ["library_distance", "share_farther", "strange"]
    table = table.join(distances.set_index("compound")[columns])
    for kind, ranked in (("neighbour", neighbours), ("mechanism", mechanisms)):
        first = ranked[ranked["rank"] == 1].set_index("compound")
        table[kind] = first[kind].reindex(table.index)
        table[f"{kind}_q"] = first["q_value"].reindex(table.index)
    table["left_out"] = np.where(table["n_used_wells"] == 0, "all its plates were left out", "")
    return table.rename_axis("compound").reset_index()
