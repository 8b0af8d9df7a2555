"""Endpoints 1 and 2: do replicates of a treatment, and compounds of a mechanism, lie together?

Both take test compounds only and rank by cosine similarity. A query's average precision is chance-like when
its embedding says nothing, and 1 when all positives come first. Values by compound are returned, because
compounds are what the claims resample.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd

from cpx_utils.metrics import average_precision, cluster_indices, cosine_similarity, silhouette
from cpx_utils.profiles import COMPOUND, CONTROL, KEYS, PLATE, embedding_values, treatments


def _checked(embedding: np.ndarray, n_rows: int) -> np.ndarray:
    embedding = np.asarray(embedding)
    if embedding.ndim != 2 or len(embedding) != n_rows:
        raise ValueError(f"the embedding has shape {embedding.shape} but the table has {n_rows} rows")
    if not np.isfinite(embedding).all():
        raise ValueError("the embedding holds values that are not finite")
    return embedding.astype(np.float32, copy=False)


def replicate_clustering(wells: pd.DataFrame, embedding: np.ndarray) -> pd.DataFrame:
    """How well replicates of a treatment find each other (endpoint 1).

    Query: a well. Positives: wells of the same treatment (compound x dose) on other plates; wells of the same
    treatment on the query's own plate are left out altogether. Where all wells are on one plate (or no plate
    is known) the other wells of the treatment are the positives. Negatives: wells of other treatments
    (``replicate_map``), or the negative controls (``activity_map``). The embedding is first centred on the
    negative controls, where there are any.

    Parameters
    ----------
    wells : DataFrame
        One row a well: the five metadata columns. Rows with ``Metadata_Control`` are negative controls, never
        queries.
    embedding : array (n_wells, n_dimensions)
        In the order of ``wells``.

    Returns
    -------
    DataFrame
        One row a treatment: ``compound, treatment, n_wells, replicate_map`` (mean average precision of its
        wells; NaN without positives), ``activity_map`` (the same against controls; NaN without controls),
        ``silhouette`` (cosine, treatments as classes, mean of its wells; NaN for a treatment of one well).
    """
    embedding = _checked(embedding, len(wells))
    control = wells[CONTROL].to_numpy(dtype=bool)
    if control.any():
        embedding = embedding - embedding[control].mean(0)
    queries = wells[~control].reset_index(drop=True)
    treatment_names, treatment = np.unique(treatments(queries).to_numpy(dtype=str), return_inverse=True)
    # Sorting by treatment keeps the positives of a query side by side in memory.
    order = np.argsort(treatment, kind="stable")
    treatment = treatment[order]
    queries = queries.iloc[order]
    points = embedding[~control][order]
    positive, candidate = _replicate_relations(treatment, queries[PLATE].fillna("").to_numpy(dtype=str))
    similarity = cosine_similarity(points)  # (n_queries, n_queries)
    table = pd.DataFrame(
        {
            "replicate_map": average_precision(similarity, positive, candidate),
            "activity_map": np.nan,
            "silhouette": silhouette(similarity, treatment),
        }
    )
    n_wells = np.bincount(treatment, minlength=len(treatment_names))
    table.loc[n_wells[treatment] < 2, "silhouette"] = np.nan
    if control.any():
        to_controls = cosine_similarity(points, embedding[control])  # (n_queries, n_controls)
        table["activity_map"] = _activity(similarity, to_controls, positive)
    result = table.groupby(treatment).mean()
    first = np.searchsorted(treatment, np.arange(len(treatment_names)))
    result.insert(0, "compound", queries[COMPOUND].to_numpy(dtype=object)[first])
    result.insert(1, "treatment", treatment_names)
    result.insert(2, "n_wells", n_wells)
    return result.reset_index(drop=True)


def _replicate_relations(treatment: np.ndarray, plate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boolean matrices (n, n) for wells sorted by treatment: who is positive, who is ranked at all."""
    n = len(treatment)
    positive = np.zeros((n, n), dtype=bool)
    candidate = np.ones((n, n), dtype=bool)
    one_plate = len(np.unique(plate)) < 2
    edges = np.flatnonzero(np.diff(treatment, prepend=-1, append=-1))
    for start, stop in pairwise(edges):
        block = slice(start, stop)
        elsewhere = plate[block, None] != plate[None, block]
        if one_plate:
            elsewhere = ~np.eye(stop - start, dtype=bool)
        positive[block, block] = elsewhere
        candidate[block, block] = elsewhere
    return positive, candidate


def _activity(similarity: np.ndarray, to_controls: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Average precision of each well's replicates among its replicates and the negative controls."""
    most = int(positive.sum(1).max(initial=0))
    if most == 0:
        return np.full(len(similarity), np.nan)
    # The few positives go into a narrow table of their own, so that only (replicates + controls) are sorted.
    query, item = np.nonzero(positive)
    slot = np.arange(len(query)) - np.searchsorted(query, query)
    own = np.full((len(similarity), most), -np.inf, dtype=similarity.dtype)
    own[query, slot] = similarity[query, item]
    ranked = np.hstack([own, to_controls])
    is_positive = np.zeros(ranked.shape, dtype=bool)
    is_positive[query, slot] = True
    return average_precision(ranked, is_positive)


# The table of a screen without replicates: the columns of `replicate_clustering_by_fold`, no rows.
NO_REPLICATES = pd.DataFrame(
    columns=[*KEYS, "compound", "treatment", "n_wells", "replicate_map", "activity_map", "silhouette"]
)


def replicate_clustering_by_fold(wells: pd.DataFrame) -> pd.DataFrame:
    """`replicate_clustering` of every fitted representation in a table of embedded wells.

    Parameters
    ----------
    wells : DataFrame
        Metadata columns, `KEYS` and z000 ...: test wells and negative controls of each fold.

    Returns
    -------
    DataFrame
        `KEYS` and the columns of `replicate_clustering`, one row a treatment and representation.
    """
    tables = []
    for key, part in wells.groupby(KEYS, sort=False):
        table = replicate_clustering(part.reset_index(drop=True), embedding_values(part))
        tables.append(pd.concat([pd.DataFrame([key] * len(table), columns=KEYS), table], axis=1))
    return pd.concat(tables, ignore_index=True)


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
    annotation = compounds[[COMPOUND, "MoA", "InChIKey14"]]
    per_compound, summaries = [], []
    for key, part in consensus[consensus["role"] == "test"].groupby(KEYS, sort=False):
        annotated = part.merge(annotation, on=COMPOUND, how="left")
        table, summary = moa_clustering(annotated, embedding_values(part))
        per_compound.append(pd.concat([pd.DataFrame([key] * len(table), columns=KEYS), table], axis=1))
        rows = [(*key, endpoint, len(table), value) for endpoint, value in summary.items()]
        summaries.append(pd.DataFrame(rows, columns=[*KEYS, "endpoint", "n", "value"]))
    return pd.concat(per_compound, ignore_index=True), pd.concat(summaries, ignore_index=True)


def clustering_table(screen: str, replicates: pd.DataFrame, moa_summary: pd.DataFrame) -> pd.DataFrame:
    """Fold-level values of all clustering endpoints in the study's common form.

    Parameters
    ----------
    screen : str
        Name of the screen.
    replicates : DataFrame
        From `replicate_clustering_by_fold`; may be empty.
    moa_summary : DataFrame
        From `moa_clustering_by_fold`.

    Returns
    -------
    DataFrame
        screen, `KEYS`, endpoint, label (replicate or moa), n (treatments or compounds), value.
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


def umap_of_test_compounds(
    consensus: dict[str, pd.DataFrame],
    compounds: pd.DataFrame,
    *,
    n_moas: int = 7,
    n_neighbours: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Lay out the first fold's test compounds in two dimensions; for the eye only, nothing is measured on it.

    Parameters
    ----------
    consensus : dict
        Consensus tables by method; draw 0 on true pairs (or without TX) is shown. None give an empty table.
    compounds : DataFrame
        Metadata_Compound and MoA (lists).
    n_moas : int
        The most frequent mechanisms that keep their names; all else is "other".
    n_neighbours, seed : int
        Of UMAP.

    Returns
    -------
    DataFrame
        method, compound, x, y, label.

    References
    ----------
    McInnes 2018, arXiv 1802.03426; cosine distance.
    """
    if not consensus:
        return pd.DataFrame(columns=["method", "compound", "x", "y", "label"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap warns of its own settings (one thread for a fixed seed)
        from umap import UMAP

    first_moa = compounds.set_index(COMPOUND)["MoA"].map(lambda names: names[0] if len(names) else "other")
    tables = []
    for method, table in consensus.items():
        first = table[["split", "repeat", "fold"]].iloc[0]
        part = table[(table[["split", "repeat", "fold"]] == first).all(axis=1) & (table["role"] == "test")]
        part = part[(part["seed"] == 0) & part["control"].isin(["", "true_pairs"])]
        label = part[COMPOUND].map(first_moa).fillna("other")
        frequent = label[label != "other"].value_counts().index[:n_moas]
        layout = UMAP(
            n_neighbors=min(n_neighbours, len(part) - 1), metric="cosine", random_state=seed, n_jobs=1,
            init="spectral" if len(part) > 15 else "random",
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            points = layout.fit_transform(embedding_values(part))
        tables.append(pd.DataFrame({
            "method": method, "compound": part[COMPOUND].to_numpy(), "x": points[:, 0], "y": points[:, 1],
            "label": label.where(label.isin(frequent), "other").to_numpy(),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def moa_clustering(
    compounds: pd.DataFrame,
    embedding: np.ndarray,
    *,
    centre: np.ndarray | None = None,
    reference: pd.DataFrame | None = None,
    reference_embedding: np.ndarray | None = None,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """How well compounds of one mechanism of action find each other (endpoint 2).

    Query: a compound's consensus embedding. Positives: other compounds that share at least one MoA;
    negatives: other annotated compounds that share none. Compounds of the query's own InChIKey block are
    neither. Compounds without MoA take no part: they are not known to be negatives.

    Parameters
    ----------
    compounds : DataFrame
        One row a test compound: ``Metadata_Compound``, ``MoA`` (list), ``InChIKey14`` ("" where unknown).
    embedding : array (n_compounds, n_dimensions)
    centre : array (n_dimensions,), optional
        Subtracted first (the mean of the negative controls' embeddings); default: the embedding as it is.
    reference, reference_embedding : optional
        Library mode: the queries are ranked against these compounds (the training compounds) instead of each
        other.

    Returns
    -------
    per_compound : DataFrame
        ``compound, n_positive, average_precision, nearest_shares_moa`` (1, 0), one row a query: an annotated
        compound with at least one positive.
    summary : dict
        ``moa_map``, ``moa_nearest`` (share of queries whose nearest neighbour shares an MoA); ``moa_ami``,
        ``moa_ari``, ``moa_silhouette`` of the queries (not in library mode). A compound with several MoAs
        counts in the cluster indices under the one most frequent among the queries. NaN where nothing can be
        measured.
    """
    embedding = _checked(embedding, len(compounds))
    centre = 0.0 if centre is None else np.asarray(centre, dtype=np.float32)
    queries, points = _annotated(compounds, embedding - centre)
    library = reference is not None
    if library:
        items, item_points = _annotated(reference, _checked(reference_embedding, len(reference)) - centre)
    else:
        items, item_points = queries, points
    shares = _shared_moa(queries["MoA"], items["MoA"])
    candidate = ~_same_molecule(queries, items)
    positive = shares & candidate
    similarity = cosine_similarity(points, item_points)  # (n_queries, n_items)
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
    if not library:
        labels = _main_moa(queries["MoA"][is_query])
        indices = cluster_indices(points[is_query], labels)
        summary |= {f"moa_{name}": value for name, value in indices.items()}
    return per_compound, summary


def _annotated(compounds: pd.DataFrame, embedding: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    has_moa = np.array([moa is not None and len(moa) > 0 for moa in compounds["MoA"]], dtype=bool)
    return compounds[has_moa].reset_index(drop=True), embedding[has_moa]


def _shared_moa(queries: pd.Series, items: pd.Series) -> np.ndarray:
    """Boolean (n_queries, n_items): do the two sets of MoAs meet?"""
    column = {moa: i for i, moa in enumerate(dict.fromkeys(m for row in items for m in row))}
    of_query = np.zeros((len(queries), len(column)), dtype=np.float32)
    of_item = np.zeros((len(items), len(column)), dtype=np.float32)
    for row, moas in enumerate(queries):
        of_query[row, [column[m] for m in moas if m in column]] = 1
    for row, moas in enumerate(items):
        of_item[row, [column[m] for m in moas]] = 1
    return of_query @ of_item.T > 0


def _same_molecule(queries: pd.DataFrame, items: pd.DataFrame) -> np.ndarray:
    """Boolean (n_queries, n_items): same compound id, or same non-empty InChIKey block."""

    def columns(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        names = table[COMPOUND].to_numpy(dtype=object).astype(str)
        keys = table["InChIKey14"].fillna("").to_numpy(dtype=object).astype(str) if "InChIKey14" in table else names
        return names, np.where(keys == "", names, keys)

    (name_q, key_q), (name_i, key_i) = columns(queries), columns(items)
    return (name_q[:, None] == name_i) | (key_q[:, None] == key_i)


def _main_moa(moa_sets: pd.Series) -> np.ndarray:
    """One MoA a compound: of its set, the most frequent among these compounds (ties: the first by name)."""
    counts = moa_sets.explode().value_counts().to_dict()
    return np.array([min(moas, key=lambda m: (-counts[m], m)) for moas in moa_sets], dtype=str)
