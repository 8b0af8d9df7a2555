"""Ranking and clustering metrics, vectorised over queries and tasks.

Everything here is a plain function on arrays. Average precision equals copairs' and scikit-learn's values,
the areas under the ROC and precision-recall curves equal scikit-learn's; the tests hold them to that. Ties
get the value that chance would give, never the best one, so that an embedding that has collapsed to a point
scores as chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, rankdata


def cosine_similarity(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Cosine of the angle between every row of ``a`` and every row of ``b`` (default: ``a`` itself): (n_a, n_b).

    In [-1, 1]; a row of zeros has similarity 0 with everything.
    """
    unit = unit_rows(a)
    return unit @ (unit if b is None else unit_rows(b)).T  # (n_a, n_b)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length; a row of zeros stays."""
    rows = np.asarray(rows)
    rows = rows.astype(np.result_type(rows.dtype, np.float32), copy=False)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def average_precision(similarity: np.ndarray, positive: np.ndarray, candidate: np.ndarray | None = None) -> np.ndarray:
    """Non-interpolated average precision of each query's ranked candidates.

    For a query with positives :math:`P` among candidates :math:`C`,
    :math:`AP = |P|^{-1} \\sum_{i \\in P} |\\{j \\in P: s_j \\ge s_i\\}| / |\\{j \\in C: s_j \\ge s_i\\}|`.
    Tied items share the precision at the end of their block, as in ``sklearn.metrics.average_precision_score``: a
    constant similarity then scores the share of positives (chance). Without ties this is the value of copairs (Kalinin
    et al. 2025, doi 10.1038/s41467-025-60306-2), which puts positives first among ties and is then more optimistic.

    Parameters
    ----------
    similarity : array (n_queries, n_items)
        Larger is nearer.
    positive, candidate : boolean arrays (n_queries, n_items)
        Items that should come first, and those that are ranked at all (default: all).

    Returns
    -------
    array (n_queries,)
        NaN for a query without positives.
    """
    if candidate is not None:
        positive, similarity = positive & candidate, np.where(candidate, similarity, -np.inf)
    # One value-only sort a query; a positive's rank is then a binary search, which also resolves ties.
    ordered = np.sort(similarity, axis=1)
    n_items = ordered.shape[1]
    values = np.full(len(similarity), np.nan)
    for query in np.flatnonzero(positive.any(axis=1)):
        of_positives = np.sort(similarity[query, positive[query]])
        at_least = n_items - ordered[query].searchsorted(of_positives)
        positives_at_least = len(of_positives) - of_positives.searchsorted(of_positives)
        values[query] = (positives_at_least / at_least).mean()
    return values


def _labelled(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Where labels aren't missing; raises ValueError for labels and scores that no area is defined for."""
    labelled = ~np.isnan(labels)
    if labels.shape != scores.shape or not (np.isin(labels[labelled], [0, 1]) & np.isfinite(scores[labelled])).all():
        raise ValueError("labels must be 0, 1 or NaN (missing), and scores of the same shape finite where labelled")
    return labelled


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of many tasks at once, from midranks (so ties count one half).

    Parameters
    ----------
    labels : float array (n_compounds, n_tasks)
        1 active, 0 inactive, NaN missing.
    scores : array of the same shape
        Larger means more likely active. Ignored where the label is missing.

    Returns
    -------
    array (n_tasks,)
        NaN for a task with one class only.
    """
    labelled = _labelled(labels, scores)
    n_active = (labels == 1).sum(0)
    n_inactive = labelled.sum(0) - n_active
    # Missing compounds rank above every labelled one and so leave the others' ranks alone.
    ranks = rankdata(np.where(labelled, scores, np.inf), axis=0)
    above = np.where(labels == 1, ranks, 0.0).sum(0) - n_active * (n_active + 1) / 2
    n_pairs = n_active * n_inactive
    return np.divide(above, n_pairs, out=np.full(above.shape, np.nan), where=n_pairs > 0)


def pr_auc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve (average precision, not interpolated) of many tasks at once.

    Arguments and NaN as in :func:`roc_auc`; equal to ``sklearn.metrics.average_precision_score``.
    """
    labelled, active = _labelled(labels, scores), labels == 1
    # How many compounds, and how many actives, score at least as high: ties share the end of their block.
    at_least = rankdata(np.where(labelled, -scores, np.inf), method="max", axis=0)
    actives_at_least = rankdata(np.where(active, -scores, np.inf), method="max", axis=0)
    total = np.where(active, actives_at_least / at_least, 0.0).sum(0)
    n_active = active.sum(0)
    both = (n_active > 0) & (n_active < labelled.sum(0))
    return np.divide(total, n_active, out=np.full(total.shape, np.nan), where=both)


def retrieval_rank(query: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rank of each query's own row among all targets by cosine similarity, (n,) integers: 0, it is the nearest.

    Row i of ``target`` (n, n_features) is what row i of ``query`` should find. Targets tied with the own row count one
    half, rounded up (pessimistic), so that a collapsed embedding lands in the middle.
    """
    similarity = cosine_similarity(query, target)
    own = np.diagonal(similarity)[:, None]
    nearer = (similarity > own).sum(1)
    tied = (similarity == own).sum(1) - 1
    return nearer + (tied + 1) // 2


def nearest_decile(rank: np.ndarray, n_candidates: int | np.ndarray) -> np.ndarray:
    """Whether a retrieval rank lies in the nearest tenth: ``rank <= 0.1 * (n_candidates - 1)``.

    By chance this holds for ``(floor(0.1 * (n_candidates - 1)) + 1) / n_candidates`` of queries: 0.12 with 32
    candidates.
    """
    # Ten times the rank is exact in integers; 0.1 * 10 in floats is luck.
    return 10 * np.asarray(rank) <= np.asarray(n_candidates) - 1


def retrieval_scores(retrieval: pd.DataFrame) -> pd.DataFrame:
    """A table of retrieval ranks (``rank, n_candidates``) with scores of each query added.

    ``near`` is 1 where :func:`nearest_decile` holds, else 0; ``recall_1`` and ``recall_5`` where the own profile is
    among the first one and five; ``reciprocal_rank`` is 1 for the first, 1/2 for the second (its mean is the MRR);
    ``rank_share`` runs from 0 (nearest) to 1 (farthest), and is 0.5 for a query with one candidate, which is nearest
    and farthest at once: no information, the middle.
    """
    rank, n_candidates = retrieval["rank"], retrieval["n_candidates"]
    rank_share = (rank / (n_candidates - 1)).where(n_candidates > 1, 0.5)
    first = {f"recall_{k}": (rank < k).astype(float) for k in (1, 5)}
    scores = {"near": nearest_decile(rank, n_candidates).astype(float), **first, "reciprocal_rank": 1.0 / (1.0 + rank)}
    return retrieval.assign(**scores, rank_share=rank_share)


def chance_of_nearest_decile(n_candidates: int | np.ndarray) -> float:
    """Probability of :func:`nearest_decile` for a rank drawn at random, averaged over queries."""
    return float(np.mean((np.floor(0.1 * (np.asarray(n_candidates) - 1)) + 1) / n_candidates))


def silhouette(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Silhouette of each point (n, n_features) by cosine distance (Rousseeuw 1987): (n,), from scikit-learn.

    NaN where there are fewer than two classes, 0 where each item is alone in its class.
    """
    from sklearn.metrics import silhouette_samples

    n_classes = len(np.unique(labels))
    if not 2 <= n_classes < len(labels):
        return np.full(len(labels), np.nan if n_classes < 2 else 0.0)
    return silhouette_samples(points, labels, metric="cosine")


def cluster_indices(embedding: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Agreement of average-linkage clusters (cosine, as many as classes) of an embedding with known classes.

    ``ami`` (adjusted mutual information, Vinh 2010), ``ari`` (adjusted Rand index, Hubert 1985), ``silhouette`` (mean,
    cosine, by class); all NaN with fewer than two classes, or where every item is its own class.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    classes, code = np.unique(np.asarray(labels), return_inverse=True)
    if not 2 <= len(classes) < len(code):
        return {"ami": np.nan, "ari": np.nan, "silhouette": np.nan}
    embedding = np.asarray(embedding, dtype=float)
    distance = 1.0 - cosine_similarity(embedding)[np.triu_indices(len(code), 1)]
    tree = linkage(np.maximum(distance, 0.0), method="average")
    clusters = fcluster(tree, t=len(classes), criterion="maxclust")
    return {
        "ami": float(adjusted_mutual_info_score(code, clusters)),
        "ari": float(adjusted_rand_score(code, clusters)),
        "silhouette": float(silhouette(embedding, code).mean()),
    }


def shared_labels(queries: Sequence[Sequence[str]], items: Sequence[Sequence[str]]) -> np.ndarray:
    """Boolean (n_queries, n_items): do the two sets of labels (such as MoAs) meet?"""
    labels = pd.Series([list(row) for row in [*queries, *items]], dtype=object).explode().dropna()
    code, distinct = pd.factorize(labels)
    has = np.zeros((len(queries) + len(items), len(distinct)), dtype=np.float32)
    has[labels.index, code] = 1
    return has[: len(queries)] @ has[len(queries) :].T > 0


def benjamini_hochberg(p_values: Iterable[float]) -> np.ndarray:
    """Adjusted p (q-values) of Benjamini and Hochberg (1995): calling all of at most q holds false discoveries at q.

    NaN stays NaN and does not count.
    """
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    known = ~np.isnan(p_values)
    if known.any():
        adjusted[known] = false_discovery_control(p_values[known])
    return adjusted
