"""Claims 2 and 3: do replicates of a treatment, and compounds of a mechanism, lie together?

Both take test compounds only and rank by cosine similarity. A query's average precision is chance-like when
its embedding says nothing, and 1 when all positives come first. Values by compound are returned, because
compounds are what the claims resample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator

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

# Rows of similarities, and pairs of wells in null draws: bounds memory. Another number of rows changes last digits.
ROWS_AT_ONCE, PAIRS_AT_ONCE = 64, 4_000_000
MEASURES = ["replicate_map", "activity_map", "silhouette"]  # of replicates
# The table of a screen without replicates: `KEYS` and the columns of `replicate_clustering`, no rows.
NO_REPLICATES = pd.DataFrame(columns=[*KEYS, "compound", "treatment", "n_wells", *MEASURES])


def by_fold(tables: Iterable[pd.DataFrame], measure: Callable[..., pd.DataFrame], **options: float) -> pd.DataFrame:
    """What `replicate_clustering`, `replicate_p_values` or `position_null` tell of every fitted representation.

    `tables` hold embedded wells (metadata columns, `KEYS` and z000 ...): test wells and negative controls of each fold;
    `options` are those of `measure`. One row a treatment and representation: `KEYS` and the columns of `measure`.
    """
    return _stacked((key, measure(wells, embedding, **options)) for key, wells, embedding in _fits(tables))


def _fits(tables: Iterable[pd.DataFrame]) -> Iterator[tuple[tuple, pd.DataFrame, np.ndarray]]:
    """The `KEYS` of every fitted representation in tables of embeddings, its rows and its embedding."""
    for table in tables:
        for key, part in table.groupby(KEYS, sort=False):
            yield key, part.reset_index(drop=True), embedding_values(part)


def _stacked(measured: Iterable[tuple[tuple, pd.DataFrame]]) -> pd.DataFrame:
    """Tables one below the other, with the `KEYS` of each before its columns."""
    keyed = [pd.concat([pd.DataFrame([key] * len(table), columns=KEYS), table], axis=1) for key, table in measured]
    kept = [table for table in keyed if len(table)] or keyed  # types of empty columns would spoil those of others
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=KEYS)


# --------------------------------------------------------------------------------------------------
# Replicates


def replicate_clustering(wells: pd.DataFrame, embedding: np.ndarray) -> pd.DataFrame:
    """How well replicates of a treatment find each other (claim 2).

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
    queries, points, controls = _queries(wells, embedding)
    precision, activity = _replicate_precision(queries, points, controls)
    widths = silhouette(points, queries["number"].to_numpy())
    table = pd.DataFrame({"replicate_map": precision, "activity_map": activity, "silhouette": widths})
    table = _by_treatment(table, queries)
    table.loc[table["n_wells"] < 2, "silhouette"] = np.nan
    return table


def _queries(wells: pd.DataFrame, embedding: np.ndarray) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Treated wells in the order of their treatments, their embedding and the controls', centred on the controls.

    The table has ``compound, treatment, well``, and as numbers from 0 the ``plate`` and the treatment (``number``).
    """
    embedding = np.asarray(embedding, np.float32)
    control = wells[CONTROL].to_numpy(dtype=bool)
    if control.any():
        embedding = embedding - embedding[control].mean(0)
    treated = wells[~control]
    queries = pd.DataFrame({"compound": treated[COMPOUND], "treatment": treatments(treated), "well": treated[WELL]})
    queries["plate"] = pd.factorize(treated[PLATE].fillna(""), sort=True)[0]
    queries["number"] = np.unique(queries["treatment"].to_numpy(dtype=str), return_inverse=True)[1]
    order = np.argsort(queries["number"].to_numpy(), kind="stable")
    return queries.iloc[order].reset_index(drop=True), embedding[~control][order], embedding[control]


def _by_treatment(values: pd.DataFrame, queries: pd.DataFrame) -> pd.DataFrame:
    """``compound, treatment, n_wells`` and the means of the queries' values: a row a treatment."""
    grouped = queries.groupby("number")
    table = grouped[["compound", "treatment"]].first().assign(n_wells=grouped.size())
    return table.join(values.groupby(queries["number"]).mean()).reset_index(drop=True)


def _similarities(unit: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of the given rows of unit vectors (n, n_dimensions), and their cosines with all: (n_rows, n)."""
    for block in np.array_split(rows, range(ROWS_AT_ONCE, len(rows), ROWS_AT_ONCE)):
        yield block, unit[block] @ unit.T


def _replicate_precision(
    queries: pd.DataFrame, points: np.ndarray, controls: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Average precision of each query's replicates among wells of other treatments, and among the controls."""
    n_queries, treatment = len(queries), queries["number"].to_numpy()
    # On one plate all other wells are positives.
    apart = queries["plate"].to_numpy() if queries["plate"].any() else np.arange(n_queries)
    first, end = (np.searchsorted(treatment, treatment, side)[:, None] for side in ("left", "right"))
    places = np.arange((end - first).max(initial=0))
    precision, activity = np.full((2, n_queries), np.nan)
    for block, similarity in _similarities(unit_rows(np.vstack([points, controls])), np.arange(n_queries)):
        replicates = np.minimum(first[block] + places, end[block] - 1)  # (n_block, wells of the largest treatment)
        positive = (first[block] + places < end[block]) & (apart[replicates] != apart[block, None])
        to_replicates = np.take_along_axis(similarity, replicates, axis=1)
        to_strangers = np.where(treatment[block, None] == treatment, -np.inf, similarity[:, :n_queries])
        precision[block] = _precision(to_replicates, positive, _at_least(to_strangers, to_replicates))
        if len(controls):
            nearer = _at_least(similarity[:, n_queries:], to_replicates)
            activity[block] = _precision(to_replicates, positive, nearer)
    return precision, activity


def _at_least(similarity: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How many of the similarities in a row (n, m) are at least each of the bounds in that row (n, k): (n, k)."""
    return np.stack([np.count_nonzero(similarity >= bound[:, None], axis=1) for bound in bounds.T], axis=1)


def _precision(similarity: np.ndarray, positive: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Average precision (n,) of queries with the given similarities (n, k); NaN without positives.

    `positive` says which of these are positives, `negatives` how many negatives lie at least as near as each.
    """
    positives = _at_least(np.where(positive, similarity, -np.inf), similarity)
    shares = np.divide(positives, positives + negatives, out=np.zeros(positives.shape), where=positive)
    n_positive = positive.sum(axis=1)
    return np.divide(shares.sum(axis=1), n_positive, out=np.full(len(shares), np.nan), where=n_positive > 0)


# --------------------------------------------------------------------------------------------------
# Replicates: what chance, and what the well position would give


def replicate_p_values(
    wells: pd.DataFrame, embedding: np.ndarray, *, fdr: float = 0.05, n_null: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Permutation p of each treatment's replicate mAP: do its wells lie together more than wells of strangers do?

    A null draw keeps what the endpoint conditions on, the plates: for a treatment with wells on some plates it takes
    one well of each of these plates at random, all of different compounds and none of the treatment's own, and computes
    the mAP of this pseudo-treatment as :func:`replicate_clustering` would, all of its wells being queries. So the
    dependence between the queries of a treatment is part of the null, which a null of single queries lacks. A query's
    true replicates are left out of the ranking there, since a treatment without signal has no such neighbours to push
    its positives down. p is (1 + null draws at least as large) / (1 + null draws), never 0 (Phipson and Smyth 2010, doi
    10.2202/1544-6115.1585). Treatments with wells on the same plates share their `n_null` draws, less those that hold
    the compound itself. Those are found that a false discovery rate of `fdr` allows (Benjamini and Hochberg 1995).

    Returns
    -------
    DataFrame
        ``compound, treatment, n_wells, replicate_map, p_value, found`` (1.0, 0.0), one row a treatment; the last two
        are NaN without positives, or where there are too few compounds for a single pseudo-treatment.
    """
    queries, points, controls = _queries(wells, embedding)
    table = _by_treatment(pd.DataFrame({"replicate_map": _replicate_precision(queries, points, controls)[0]}), queries)
    unit, treatment, plate = unit_rows(points), queries["number"].to_numpy(), queries["plate"].to_numpy()
    compound, first = pd.factorize(queries["compound"])[0], np.searchsorted(treatment, table.index)
    patterns: dict[tuple, list[int]] = {}  # treatments by the plates of their wells
    for one, plates in enumerate(np.split(plate, first[1:])):
        patterns.setdefault(tuple(np.sort(plates)), []).append(one)
    rng = np.random.default_rng(seed)
    p_value, observed = np.full(len(table), np.nan), table["replicate_map"].to_numpy()
    for plates, treated in patterns.items():
        apart = np.array(plates) if plate.any() else np.arange(len(plates))
        positive = apart[:, None] != apart
        if not positive.any():
            continue
        sets = _pseudo_treatments(plates, plate, compound, n_null, rng)
        parts = np.array_split(sets, -(-sets.size * len(plates) // PAIRS_AT_ONCE) or 1)
        null = np.concatenate([_null_maps(unit, treatment, part, positive) for part in parts])
        drawn = compound[sets]
        for one in treated:
            allowed = null[(drawn != compound[first[one]]).all(axis=1)]
            # Equal values may differ in their last bits; what is lost by the tolerance is lost to the safe side.
            at_least = np.count_nonzero(allowed >= observed[one] - 1e-9)
            p_value[one] = (1 + at_least) / (1 + len(allowed)) if len(allowed) else np.nan
    q_value = benjamini_hochberg(p_value)
    return table.assign(p_value=p_value, found=np.where(np.isnan(q_value), np.nan, q_value <= fdr))


def _pseudo_treatments(
    plates: tuple[int, ...], plate: np.ndarray, compound: np.ndarray, n_null: int, rng: np.random.Generator
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


def _null_maps(unit: np.ndarray, treatment: np.ndarray, sets: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Mean average precision of each random set of wells, all of its members being queries: (n_sets,).

    `unit` and `treatment` are those of all queries, `sets` (n_sets, size) holds their numbers. `positive` (size, size)
    says which members of a set are each other's positives; the others aren't ranked, as wells of one treatment on one
    plate aren't.
    """
    size = sets.shape[1]
    similarity = np.empty((*sets.shape, size), unit.dtype)
    strangers = np.empty(similarity.shape, int)  # wells of other treatments that lie at least as near
    places = pd.Series(sets.ravel()).groupby(sets.ravel()).indices  # where a well stands
    for block, cosines in _similarities(unit, np.unique(sets)):
        for query, row in zip(block, cosines, strict=True):
            number, place = np.divmod(places[query], size)
            similarity[number, place] = row[sets[number]]
            to_strangers = np.sort(row[treatment != treatment[query]])  # once a well, which is in many sets
            strangers[number, place] = len(to_strangers) - to_strangers.searchsorted(similarity[number, place])
    similarity, strangers = similarity.reshape(-1, size), strangers.reshape(-1, size)
    members = np.where(np.tile(np.eye(size, dtype=bool), (len(sets), 1)), -np.inf, similarity)
    negatives = strangers - _at_least(members, similarity)
    precision = _precision(similarity, np.tile(positive, (len(sets), 1)), negatives)
    return np.nanmean(precision.reshape(sets.shape), axis=1)


def position_null(wells: pd.DataFrame, embedding: np.ndarray) -> pd.DataFrame:
    """Replicate mAP of wells that share their well position and nothing else: what the position alone makes alike.

    On most screens the replicates of a treatment sit in one position of all their plates, so that edge effects and
    gradients look like replication. Query: a well. Positives: wells of other compounds in the same position of other
    plates. Negatives: wells of other compounds in other positions of other plates. Compare it with ``replicate_map`` of
    :func:`replicate_clustering`, which such positives would have to stay far below.

    Returns
    -------
    DataFrame
        ``compound, treatment, position_map``, one row a treatment whose position is known and shared.
    """
    queries, points, _ = _queries(wells, embedding)
    plate, known = queries["plate"].to_numpy(), (queries["well"] != "").to_numpy()
    position, compound = (pd.factorize(queries[name])[0] for name in ("well", "compound"))
    precision = np.full(len(queries), np.nan)
    for rows, similarity in _similarities(unit_rows(points), np.flatnonzero(known)):
        other = (compound[rows, None] != compound) & (plate[rows, None] != plate) & known
        precision[rows] = average_precision(similarity, other & (position[rows, None] == position), other)
    table = _by_treatment(pd.DataFrame({"position_map": precision}), queries).drop(columns="n_wells")
    return table.dropna(subset="position_map").reset_index(drop=True)


# --------------------------------------------------------------------------------------------------
# Mechanisms of action


def moa_clustering(compounds: pd.DataFrame, embedding: np.ndarray) -> tuple[pd.DataFrame, dict[str, float]]:
    """How well compounds of one mechanism of action find each other (claim 3).

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
    has_moa = compounds["MoA"].map(len).to_numpy() > 0
    queries, points = compounds[has_moa].reset_index(drop=True), np.asarray(embedding, np.float32)[has_moa]
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
    test = consensus[consensus["role"] == "test"]
    for key, part, embedding in _fits(
        [test.merge(compounds[[COMPOUND, "MoA", "InChIKey14"]], on=COMPOUND, how="left")]
    ):
        table, summary = moa_clustering(part, embedding)
        per_compound.append((key, table))
        rows = {"endpoint": list(summary), "n": len(table), "value": list(summary.values())}
        summaries.append((key, pd.DataFrame(rows)))
    return _stacked(per_compound), _stacked(summaries)


def clustering_table(screen: str, replicates: pd.DataFrame, moa_summary: pd.DataFrame) -> pd.DataFrame:
    """Fold-level values of all clustering endpoints in the study's common form.

    Of `replicate_clustering` by fold (may be empty) and the summary of `moa_clustering_by_fold`: screen, `KEYS`,
    endpoint, label (replicate or moa), n (treatments or compounds), value.
    """
    tables = [moa_summary.assign(label="moa")]
    if len(replicates):
        measured = replicates.melt(KEYS, MEASURES, "endpoint").replace(
            {"endpoint": {"silhouette": "replicate_silhouette"}}
        )
        summary = measured.groupby([*KEYS, "endpoint"], sort=False)["value"].agg(n="count", value="mean").reset_index()
        tables.insert(0, summary.assign(label="replicate"))
    table = pd.concat(tables, ignore_index=True).assign(screen=screen)
    return table[["screen", *KEYS, "endpoint", "label", "n", "value"]]


# --------------------------------------------------------------------------------------------------
# A map for the eye


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

    `consensus` holds a consensus table of one split and draw for each method; `compounds` says their MoAs (lists), of
    which the `n_moas` most frequent keep their names, all else is "other". UMAP (McInnes 2018, arXiv 1802.03426) by
    cosine distance.

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
        folds = table[["repeat", "fold"]]
        part = table[(folds == folds.iloc[0]).all(axis=1) & (table["role"] == "test")]
        names, values = part[COMPOUND].to_numpy(dtype=object), embedding_values(part)
        similarity = cosine_similarity(values)
        np.fill_diagonal(similarity, np.inf)  # a compound comes first in its own list
        nearest = np.argsort(-similarity, axis=1, kind="stable")
        cosine = np.take_along_axis(similarity, nearest, axis=1)
        x, y = _umap(values, nearest, np.maximum(1 - cosine, 0), n_neighbours, seed).T
        label = part[COMPOUND].map(first_moa).fillna("other")
        frequent = label[label != "other"].value_counts().index[:n_moas]
        label = label.where(label.isin(frequent), "other").to_numpy()
        maps.append(pd.DataFrame({"method": method, "compound": names, "x": x, "y": y, "label": label}))
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
