"""Endpoints 1 and 2: do replicates of a treatment, and compounds of a mechanism, lie together?

Both take test compounds only and rank by cosine similarity. A query's average precision is chance-like when
its embedding says nothing, and 1 when all positives come first. Values by compound are returned, because
compounds are what the claims resample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pandas as pd

from cpx_utils.metrics import (
    average_precision,
    benjamini_hochberg,
    cluster_indices,
    cosine_similarity,
    shared_labels,
    silhouette,
    unit_rows,
)
from cpx_utils.profiles import COMPOUND, CONTROL, KEYS, PLATE, WELL, compound_groups, embedding_values, treatments

AT_ONCE = 4_000_000  # similarities, or pairs of null draws: bounds memory, not results
QUERIES_AT_ONCE = 64
# The table of a screen without replicates: the columns of `replicate_clustering_by_fold`, no rows.
REPLICATE_COLUMNS = ["compound", "treatment", "n_wells", "replicate_map", "activity_map", "silhouette"]
NO_REPLICATES = pd.DataFrame(columns=[*KEYS, *REPLICATE_COLUMNS])


def replicate_clustering(wells: pd.DataFrame, embedding: np.ndarray) -> pd.DataFrame:
    """How well replicates of a treatment find each other (endpoint 1).

    Query: a well. Positives: wells of the same treatment (compound x dose) on other plates; those on the query's own
    plate are left out altogether. Where all wells are on one plate (or no plate is known) the other wells of the
    treatment are the positives. Negatives: wells of other treatments (``replicate_map``), or the negative controls
    (``activity_map``). The embedding is first centred on the negative controls, where there are any.

    Parameters
    ----------
    wells : DataFrame
        One row a well: the five metadata columns. Negative controls are never queries.
    embedding : array (n_wells, n_dimensions)

    Returns
    -------
    DataFrame
        One row a treatment: ``compound, treatment, n_wells, replicate_map`` (mean average precision of its wells; NaN
        without positives), ``activity_map`` (NaN without controls), ``silhouette`` (cosine, treatments as classes, mean
        of its wells; NaN for a treatment of one well).
    """
    names, treatment, queries, points, controls = _queries(wells, embedding)
    first = np.searchsorted(treatment, np.arange(len(names) + 1))
    unit, plate = unit_rows(np.vstack([points, controls])), _plates(queries)
    precision, activity = np.full((2, len(queries)), np.nan)
    for sets in _wells_by_size(first):
        similarity, strangers, nearer_controls = _nearer(unit, treatment, sets)
        positive = _positives(plate[sets], plate)
        precision[sets] = _precision(similarity, positive, strangers)
        if len(controls):
            activity[sets] = _precision(similarity, positive, nearer_controls)
    widths = silhouette(points, treatment)
    table = pd.DataFrame({"replicate_map": precision, "activity_map": activity, "silhouette": widths})
    table = table.groupby(treatment).mean().assign(treatment=names, n_wells=np.diff(first))
    table["compound"] = queries[COMPOUND].to_numpy(dtype=object)[first[:-1]]
    table.loc[table["n_wells"] < 2, "silhouette"] = np.nan
    return table[REPLICATE_COLUMNS].reset_index(drop=True)


def _queries(
    wells: pd.DataFrame, embedding: np.ndarray
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame, np.ndarray, np.ndarray]:
    """Treated wells sorted by treatment, centred on the negative controls.

    Returns names of treatments, and of each query the treatment's number, its row of ``wells`` and its embedding; last
    the controls' embeddings.
    """
    embedding = np.asarray(embedding, np.float32)
    control = wells[CONTROL].to_numpy(dtype=bool)
    if control.any():
        embedding = embedding - embedding[control].mean(0)
    queries = wells[~control].reset_index(drop=True)
    names, treatment = np.unique(treatments(queries).to_numpy(dtype=str), return_inverse=True)
    # Sorting by treatment keeps the positives of a query side by side in memory.
    order = np.argsort(treatment, kind="stable")
    return names, treatment[order], queries.iloc[order], embedding[~control][order], embedding[control]


def _plates(queries: pd.DataFrame) -> np.ndarray:
    """Each query's plate as a number."""
    return np.unique(queries[PLATE].fillna("").to_numpy(dtype=str), return_inverse=True)[1]


def _wells_by_size(first: np.ndarray) -> list[np.ndarray]:
    """The wells of treatments, those of as many wells together: arrays (n_treatments, n_wells)."""
    size = np.diff(first)
    return [first[:-1][size == one][:, None] + np.arange(one) for one in np.unique(size)]


def _positives(plate_of_set: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """Which wells of a set are each other's positives: those on other plates, all others where there is one plate.

    `plate_of_set` (..., size) are numbers of plates, `plate` those of all queries; (..., size, size).
    """
    if plate.max(initial=0) == 0:
        return np.broadcast_to(
            ~np.eye(plate_of_set.shape[-1], dtype=bool), (*plate_of_set.shape, plate_of_set.shape[-1])
        )
    return plate_of_set[..., :, None] != plate_of_set[..., None, :]


def _nearer(unit: np.ndarray, treatment: np.ndarray, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pair of wells of a set: their similarity, and how many strangers and controls lie at least as near.

    `unit` holds the queries (as many as `treatment`) and then the controls; strangers are queries of other treatments
    than the pair's first well. All three (n_sets, size, size).
    """
    n_queries, size = len(treatment), sets.shape[1]
    query, item = np.repeat(sets.ravel(), size), np.repeat(sets, size, axis=0).ravel()
    order = np.argsort(query, kind="stable")
    queries, first = np.unique(query[order], return_index=True)
    pairs = np.split(order, first[1:])  # of each query
    own, strangers, controls = np.empty(len(order), unit.dtype), np.empty(len(order), int), np.empty(len(order), int)
    for block in np.array_split(np.arange(len(queries)), range(QUERIES_AT_ONCE, len(queries), QUERIES_AT_ONCE)):
        similarity = unit[queries[block]] @ unit.T  # never all to all
        for number, row in zip(block, similarity, strict=True):
            own[pairs[number]] = row[item[pairs[number]]]
        to_strangers, to_controls = similarity[:, :n_queries], np.sort(similarity[:, n_queries:], axis=1)
        to_strangers[treatment[queries[block], None] == treatment] = -np.inf
        to_strangers.sort(axis=1)
        for number, to_stranger, to_control in zip(block, to_strangers, to_controls, strict=True):
            mine = own[pairs[number]]
            strangers[pairs[number]] = n_queries - to_stranger.searchsorted(mine)
            controls[pairs[number]] = len(to_control) - to_control.searchsorted(mine)
    shape = (len(sets), size, size)
    return own.reshape(shape), strangers.reshape(shape), controls.reshape(shape)


def _precision(similarity: np.ndarray, positive: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Average precision of each well of each set, (n_sets, size); NaN without positives.

    `similarity` and `positive` of the wells of a set to each other; `others` counts what else is ranked and lies at
    least as near. All (n_sets, size, size).
    """
    positives = _at_least(similarity, positive)
    precision = np.divide(positives, others + positives, out=np.zeros(positives.shape), where=positive).sum(2)
    n_positive = positive.sum(2)
    return np.divide(precision, n_positive, out=np.full(precision.shape, np.nan), where=n_positive > 0)


def _at_least(similarity: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """How many counted wells of a set lie at least as near to the query as each of them: (n_sets, size, size)."""
    at_least = np.empty(similarity.shape)
    for place in range(similarity.shape[2]):
        nearer = similarity >= similarity[:, :, place, None]
        at_least[:, :, place] = np.count_nonzero(nearer & counted, axis=2)
    return at_least


def replicate_clustering_by_fold(wells: pd.DataFrame) -> pd.DataFrame:
    """`replicate_clustering` of every fitted representation in a table of embedded wells.

    `wells` has metadata columns, `KEYS` and z000 ...: test wells and negative controls of each fold. One row a
    treatment and representation: `KEYS` and the columns of `replicate_clustering`.
    """
    return _by_fit([wells], replicate_clustering)


def _by_fit(
    tables: Iterable[pd.DataFrame], measure: Callable[[pd.DataFrame, np.ndarray], pd.DataFrame]
) -> pd.DataFrame:
    """What `measure(wells, embedding)` tells of every fitted representation in tables of wells, with their `KEYS`."""
    measured = [
        _keyed(key, measure(part.reset_index(drop=True), embedding_values(part)))
        for table in tables
        for key, part in table.groupby(KEYS, sort=False)
    ]
    kept = [table for table in measured if len(table)] or measured
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=KEYS)


def _keyed(key: tuple, table: pd.DataFrame) -> pd.DataFrame:
    """A table with `KEYS` before its columns, the same in every row."""
    return pd.concat([pd.DataFrame([key] * len(table), columns=KEYS), table], axis=1)


def moa_clustering_by_fold(consensus: pd.DataFrame, compounds: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`moa_clustering` of the test compounds, for every fitted representation in a table of consensus embeddings.

    Parameters
    ----------
    consensus : DataFrame
        Metadata_Compound, `role` (train, test), `KEYS` and z000 ...
    compounds : DataFrame
        Metadata_Compound, MoA (lists), InChIKey14.

    Returns
    -------
    per_compound, summary : DataFrame
        `KEYS` and the columns of `moa_clustering`'s two results, the summary long (endpoint, n, value).
    """
    per_compound, summaries = [], []
    annotated = consensus.merge(compounds[[COMPOUND, "MoA", "InChIKey14"]], on=COMPOUND, how="left")
    for key, part in annotated[annotated["role"] == "test"].groupby(KEYS, sort=False):
        table, summary = moa_clustering(part.reset_index(drop=True), embedding_values(part))
        per_compound.append(_keyed(key, table))
        rows = [(endpoint, len(table), value) for endpoint, value in summary.items()]
        summaries.append(_keyed(key, pd.DataFrame(rows, columns=["endpoint", "n", "value"])))
    return pd.concat(per_compound, ignore_index=True), pd.concat(summaries, ignore_index=True)


def clustering_table(screen: str, replicates: pd.DataFrame, moa_summary: pd.DataFrame) -> pd.DataFrame:
    """Fold-level values of all clustering endpoints in the study's common form.

    Of `replicate_clustering_by_fold` (may be empty) and the summary of `moa_clustering_by_fold`: screen, `KEYS`,
    endpoint, label (replicate or moa), n (treatments or compounds), value.
    """
    tables = [moa_summary.assign(label="moa")]
    if len(replicates):
        measured = replicates.melt(
            KEYS, ["replicate_map", "activity_map", "silhouette"], var_name="endpoint", value_name="value"
        )
        measured["endpoint"] = measured["endpoint"].replace("silhouette", "replicate_silhouette")
        summary = measured.groupby([*KEYS, "endpoint"], sort=False)["value"].agg(n="count", value="mean").reset_index()
        tables.insert(0, summary.assign(label="replicate"))
    table = pd.concat(tables, ignore_index=True).assign(screen=screen)
    return table[["screen", *KEYS, "endpoint", "label", "n", "value"]]


def map_of_test_compounds(
    consensus: dict[str, pd.DataFrame],
    compounds: pd.DataFrame,
    *,
    n_moas: int = 7,
    n_neighbours: int = 10,
    n_nearest: int = 8,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lay out the first fold's test compounds by UMAP, for the eye only, and list their true nearest neighbours.

    `consensus` holds consensus tables by method, of which draw 0 on true pairs (or without TX) is shown; `compounds`
    says their MoAs (lists), of which the `n_moas` most frequent keep their names, all else is "other". UMAP (McInnes
    2018, arXiv 1802.03426) by cosine distance.

    Returns
    -------
    points, nearest : DataFrame
        method, compound, x, y, label; and the `n_nearest` neighbours of each compound in the full embedding, as the MoA
        endpoint ranks them, whether they have a known mechanism or not: method, compound, rank (1 the nearest),
        neighbour, cosine.
    """
    first_moa = compounds.set_index(COMPOUND)["MoA"].map(lambda names: names[0] if len(names) else "other")
    maps = [pd.DataFrame(columns=["method", "compound", "x", "y", "label"])]
    neighbours = [pd.DataFrame(columns=["method", "compound", "rank", "neighbour", "cosine"])]
    for method, table in consensus.items():
        part = _first_test_fold(table)
        names, values = part[COMPOUND].to_numpy(dtype=object), embedding_values(part)
        similarity = cosine_similarity(values)
        np.fill_diagonal(similarity, np.inf)  # a compound comes first in its own list
        nearest = np.argsort(-similarity, axis=1, kind="stable")
        cosine = np.take_along_axis(similarity, nearest, axis=1)
        points = _umap(values, nearest, np.maximum(1 - cosine, 0), n_neighbours, seed)
        label = part[COMPOUND].map(first_moa).fillna("other")
        frequent = label[label != "other"].value_counts().index[:n_moas]
        label = label.where(label.isin(frequent), "other").to_numpy()
        columns = {"method": method, "compound": names, "x": points[:, 0], "y": points[:, 1], "label": label}
        maps.append(pd.DataFrame(columns))
        rank = np.arange(1, min(n_nearest, len(names) - 1) + 1)
        neighbours.append(pd.DataFrame({
            "method": method, "compound": np.repeat(names, len(rank)), "rank": np.tile(rank, len(names)),
            "neighbour": names[nearest[:, rank].ravel()], "cosine": cosine[:, rank].ravel(),
        }))  # fmt: skip
    return tuple(pd.concat(tables[1:] or tables, ignore_index=True) for tables in (maps, neighbours))


def _umap(values: np.ndarray, nearest: np.ndarray, distance: np.ndarray, n_neighbours: int, seed: int) -> np.ndarray:
    """UMAP (n, 2) of few points whose neighbours are known, which spares it the slowest part of its start."""
    n_kept = min(n_neighbours, len(values) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap warns of its own settings (one thread for a fixed seed)
        from umap import UMAP

        layout = UMAP(
            n_neighbors=n_kept, metric="cosine", random_state=seed, n_jobs=1,
            precomputed_knn=(nearest[:, :n_kept], distance[:, :n_kept].astype(np.float32)),
            init="spectral" if len(values) > 15 else "random",
        )  # fmt: skip
        return layout.fit_transform(values)


def _first_test_fold(consensus: pd.DataFrame) -> pd.DataFrame:
    """The first fold's test compounds of a consensus table, as draw 0 on true pairs (or without TX) embeds them."""
    first = consensus[["split", "repeat", "fold"]].iloc[0]
    is_shown = (consensus[["split", "repeat", "fold"]] == first).all(axis=1) & (consensus["role"] == "test")
    return consensus[is_shown & (consensus["seed"] == 0) & consensus["control"].isin(["", "true_pairs"])]


def moa_clustering(compounds: pd.DataFrame, embedding: np.ndarray) -> tuple[pd.DataFrame, dict[str, float]]:
    """How well compounds of one mechanism of action find each other (endpoint 2).

    Query: a compound's consensus embedding. Positives: other compounds that share at least one MoA; negatives: other
    annotated compounds that share none. Compounds of the query's own group (its InChIKey block) are neither. Compounds
    without MoA take no part: they are not known to be negatives.

    Parameters
    ----------
    compounds, embedding : DataFrame, array (n_compounds, n_dimensions)
        ``Metadata_Compound``, ``MoA`` (list), ``InChIKey14`` ("" where unknown) of the test compounds.

    Returns
    -------
    per_compound : DataFrame
        ``compound, n_positive, average_precision, nearest_shares_moa`` (1, 0), one row a query with a positive.
    summary : dict
        ``moa_map``, ``moa_nearest`` (share of queries whose nearest neighbour shares an MoA); ``moa_ami``, ``moa_ari``,
        ``moa_silhouette`` of the queries, where a compound with several MoAs counts under the one
        most frequent among the queries, of several the first by name. NaN where nothing can be measured.
    """
    queries, points = _annotated(compounds, embedding)
    groups = compound_groups(queries).to_numpy()
    candidate = groups[:, None] != groups
    positive = shared_labels(queries["MoA"], queries["MoA"]) & candidate
    similarity = cosine_similarity(points, points)  # (n_queries, n_queries)
    is_query = positive.any(1)
    ranked = np.where(candidate, similarity, -np.inf)
    nearest = (ranked == ranked.max(1, initial=-np.inf, keepdims=True)) & candidate
    # Of several nearest neighbours the share that is positive counts, so that ties earn chance.
    shared = (nearest & positive).sum(1) / np.maximum(nearest.sum(1), 1)
    per_compound = pd.DataFrame(
        {
            "compound": queries[COMPOUND].to_numpy(dtype=object)[is_query],
            "n_positive": positive.sum(1)[is_query],
            "average_precision": average_precision(similarity, positive, candidate)[is_query],
            "nearest_shares_moa": shared[is_query],
        }
    )
    summary = {
        "moa_map": float(per_compound["average_precision"].mean()),
        "moa_nearest": float(per_compound["nearest_shares_moa"].mean()),
    }
    moas = queries["MoA"][is_query]
    times = moas.explode().value_counts().to_dict()
    labels = np.array([min(names, key=lambda name: (-times[name], name)) for names in moas], dtype=str)
    summary |= {f"moa_{name}": value for name, value in cluster_indices(points[is_query], labels).items()}
    return per_compound, summary


def _annotated(compounds: pd.DataFrame, embedding: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Those of the compounds that have an MoA, with their embeddings."""
    has_moa = compounds["MoA"].map(len).to_numpy() > 0
    return compounds[has_moa].reset_index(drop=True), np.asarray(embedding, np.float32)[has_moa]


# --------------------------------------------------------------------------------------------------
# What chance would give: permutation nulls


def _null_maps(similarity: np.ndarray, at_least: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Mean average precision of each random set, all of its members being queries: (n_sets,).

    Of each pair of a set: their similarity, how many strangers of the query lie at least as near (the set's own members
    among them), and whether they are each other's positives. Members that are not aren't ranked, as wells of one
    treatment on one plate aren't.
    """
    members = _at_least(similarity, ~np.eye(similarity.shape[2], dtype=bool))
    precision = _precision(similarity, positive, at_least - members)
    return pd.DataFrame(precision).mean(axis=1).to_numpy()  # without queries that have no positives


def _p_values(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of null draws at least as large, the observed value counted among them; NaN without any null draw."""
    ordered = np.sort(null[~np.isnan(null)])
    if not len(ordered):
        return np.full(len(observed), np.nan)
    # Equal values may differ in their last bits; what is lost by the tolerance is lost to the safe side.
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(observed) - 1e-9, side="left")
    return np.where(np.isnan(observed), np.nan, (1 + at_least) / (1 + len(ordered)))


def _pseudo_treatments(
    plates: np.ndarray, plate: np.ndarray, compound: np.ndarray, n_null: int, rng: np.random.Generator
) -> np.ndarray:
    """Sets of wells, one on each of the given plates, of different compounds: at most (n_null, n_plates) positions."""
    drawn = np.empty((n_null, len(plates)), dtype=np.int64)
    good = np.ones(n_null, dtype=bool)
    for place, one in enumerate(plates):
        on_plate = np.flatnonzero(plate == one)
        again = np.flatnonzero(good)
        for _ in range(100):  # redraw what belongs to a compound that the set holds already
            drawn[again, place] = rng.choice(on_plate, len(again))
            mine = compound[drawn[again, place], None]
            again = again[(compound[drawn[again, :place]] == mine).any(1)]
            if not len(again):
                break
        good[again] = False
    return drawn[good]


def position_null(wells: pd.DataFrame, embedding: np.ndarray) -> pd.DataFrame:
    """Replicate mAP of wells that share their well position and nothing else: what the position alone makes alike.

    On most screens the replicates of a treatment sit in one position of all their plates, so that edge effects and
    gradients look like replication. Query: a well. Positives: wells of other compounds in the same position of other
    plates. Negatives: wells of other compounds in other positions of other plates. Compare it with ``replicate_map`` of
    :func:`replicate_clustering`, which such positives would have to stay far below.

    Returns
    -------
    DataFrame
        ``compound, treatment, position_map``, one row a treatment; NaN where no position is known or shared.
    """
    names, treatment, queries, points, _ = _queries(wells, embedding)
    unit, plate, known = unit_rows(points), _plates(queries), (queries[WELL] != "").to_numpy()
    position, compound = (pd.factorize(queries[name])[0] for name in (WELL, COMPOUND))
    precision = np.full(len(queries), np.nan)
    for rows in np.array_split(np.flatnonzero(known), -(-len(queries) // QUERIES_AT_ONCE) or 1):
        other = (compound[rows, None] != compound) & (plate[rows, None] != plate) & known
        positive = other & (position[rows, None] == position)
        precision[rows] = average_precision(unit[rows] @ unit.T, positive, other)
    table = queries[[COMPOUND]].assign(treatment=np.asarray(names)[treatment], position_map=precision)
    return table.rename(columns={COMPOUND: "compound"}).groupby(["compound", "treatment"], as_index=False).mean()


def position_null_by_fold(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """`position_null` of embedded wells, a table a method: `KEYS` and its columns, without rows that are NaN."""
    return _by_fit(tables, lambda wells, codes: position_null(wells, codes).dropna(subset="position_map"))


def replicate_p_values(
    wells: pd.DataFrame, embedding: np.ndarray, *, n_null: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Permutation p of each treatment's replicate mAP: do its wells lie together more than wells of strangers do?

    A null draw keeps what the endpoint conditions on, the plates: for a treatment with wells on some plates it takes
    one well of each of these plates at random, all of different compounds and none of the treatment's own, and computes
    the mAP of this pseudo-treatment as :func:`replicate_clustering` would, all of its wells being queries. So the
    dependence between the queries of a treatment is part of the null, which a null of single queries lacks. A query's
    true replicates are left out of the ranking there, since a treatment without signal has no such neighbours to push
    its positives down. p is (1 + null draws at least as large) / (1 + null draws), never 0 (Phipson and Smyth 2010, doi
    10.2202/1544-6115.1585). Treatments with wells on the same plates share their `n_null` draws, less those that hold
    the compound itself.

    Returns
    -------
    DataFrame
        ``compound, treatment, n_wells, replicate_map, p_value``, one row a treatment; p is NaN without positives, or
        where there are too few compounds for a single pseudo-treatment.
    """
    names, treatment, queries, points, _ = _queries(wells, embedding)
    table = replicate_clustering(wells, embedding)[["compound", "treatment", "n_wells", "replicate_map"]]
    unit, plate = unit_rows(points), _plates(queries)
    compound = pd.factorize(queries[COMPOUND])[0]
    first = np.searchsorted(treatment, np.arange(len(names) + 1))
    patterns: dict[tuple, list[int]] = {}  # treatments by the plates of their wells
    for one, (start, stop) in enumerate(pairwise(first)):
        patterns.setdefault(tuple(np.sort(plate[start:stop])), []).append(one)
    rng = np.random.default_rng(seed)
    p_value, observed = np.full(len(names), np.nan), table["replicate_map"].to_numpy()
    for plates, treated in patterns.items():
        if not _positives(np.array(plates), plate).any():
            continue
        sets = _pseudo_treatments(np.array(plates), plate, compound, n_null, rng)
        null = [np.empty(0)]
        for part in np.array_split(sets, -(-sets.size * len(plates) // AT_ONCE) or 1):
            similarity, strangers, _ = _nearer(unit, treatment, part)
            null.append(_null_maps(similarity, strangers, _positives(plate[part], plate)))
        null = np.concatenate(null)
        for one in treated:
            others = (compound[sets] != compound[first[one]]).all(1)
            p_value[one] = _p_values(observed[[one]], null[others])[0]
    return table.assign(p_value=p_value)


def found_by_fold(
    tables: Iterable[pd.DataFrame], *, fdr: float = 0.05, n_null: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Which treatments are found at a false discovery rate, in every fitted representation.

    Parameters
    ----------
    tables : iterable of DataFrame
        Embedded wells, a table a method. Of several draws the first is taken.
    fdr : float
        Of Benjamini and Hochberg (1995), within a fold and representation.
    n_null, seed : int
        As for :func:`replicate_p_values`.

    Returns
    -------
    DataFrame
        `KEYS`, the columns of :func:`replicate_p_values`, and ``found`` (1.0, 0.0; NaN without p).
    """

    def measure(wells: pd.DataFrame, embedding: np.ndarray) -> pd.DataFrame:
        result = replicate_p_values(wells, embedding, n_null=n_null, seed=seed)
        q_value = benjamini_hochberg(result["p_value"])
        return result.assign(found=np.where(np.isnan(q_value), np.nan, q_value <= fdr))

    return _by_fit((table[table["seed"] == 0] for table in tables), measure)
