"""Metrics against naive loops, scikit-learn and copairs."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from cpx_utils import metrics


def naive_average_precision(similarity, positive, candidate):
    """Rank by rank; a tied block counts as one rank."""
    values = []
    for query in range(len(similarity)):
        items = [j for j in range(similarity.shape[1]) if candidate[query, j]]
        found = []
        for item in items:
            if positive[query, item]:
                at_least = [j for j in items if similarity[query, j] >= similarity[query, item]]
                found.append(sum(positive[query, j] for j in at_least) / len(at_least))
        values.append(np.mean(found) if found else np.nan)
    return np.array(values)


@pytest.mark.parametrize("decimals", [None, 1])
def test_average_precision_equals_a_naive_loop_and_scikit_learn(decimals):
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(30, 40))
    if decimals is not None:
        similarity = similarity.round(decimals)  # many ties
    positive = rng.random((30, 40)) < 0.15
    candidate = rng.random((30, 40)) < 0.8
    positive[3] = False
    got = metrics.average_precision(similarity, positive, candidate)
    np.testing.assert_allclose(got, naive_average_precision(similarity, positive & candidate, candidate), rtol=1e-12)
    for query in range(30):
        mask = candidate[query]
        if (positive[query] & mask).any():
            expected = sk.average_precision_score(positive[query, mask], similarity[query, mask])
            assert got[query] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(got[3])


def test_average_precision_equals_copairs():
    from copairs.map import average_precision

    rng = np.random.default_rng(1)
    treatment = np.repeat(np.arange(12), 4)
    features = rng.normal(size=(48, 10)) + rng.normal(size=(12, 10))[treatment]
    meta = pd.DataFrame({"treatment": treatment, "plate": np.tile(list("abcd"), 12)})
    table = average_precision(
        meta, features, ["treatment"], ["plate"], [], ["treatment"], distance="cosine", progress_bar=False
    )
    same = treatment[:, None] == treatment
    candidate = ~np.eye(48, dtype=bool)
    got = metrics.average_precision(metrics.cosine_similarity(features), same & candidate, candidate)
    np.testing.assert_allclose(got, table["average_precision"], atol=1e-6)  # copairs computes in float32


def test_collapsed_embedding_scores_as_chance():
    similarity = np.ones((1, 20))
    positive = np.zeros((1, 20), dtype=bool)
    positive[0, :5] = True
    assert metrics.average_precision(similarity, positive)[0] == 0.25
    assert metrics.retrieval_rank(np.ones((21, 3)), np.ones((21, 3))).tolist() == [10] * 21


def test_cosine_similarity_of_zero_rows_is_zero():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [-3.0, -4.0]])
    np.testing.assert_allclose(metrics.cosine_similarity(rows), [[1, 0, -1], [0, 0, 0], [-1, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(metrics.cosine_similarity(rows[:1], np.array([[4.0, 3.0]])), [[0.96]])


@pytest.mark.parametrize("ties", [False, True])
def test_roc_and_pr_auc_equal_scikit_learn(ties):
    rng = np.random.default_rng(2)
    labels = (rng.random((80, 25)) < 0.3).astype(float)
    scores = rng.normal(size=(80, 25)) + labels
    if ties:
        scores = scores.round(0)
    labels[rng.random(labels.shape) < 0.3] = np.nan
    scores[np.isnan(labels) & (rng.random(labels.shape) < 0.5)] = np.nan  # ignored where unlabelled
    labels[:, 4] = np.where(np.isnan(labels[:, 4]), np.nan, 1.0)
    labels[:, 5] = np.nan
    roc, pr = metrics.roc_auc(labels, scores), metrics.pr_auc(labels, scores)
    assert np.isnan(roc[[4, 5]]).all() and np.isnan(pr[[4, 5]]).all()
    for task in (t for t in range(25) if t not in (4, 5)):
        known = ~np.isnan(labels[:, task])
        y, s = labels[known, task], scores[known, task]
        assert roc[task] == pytest.approx(sk.roc_auc_score(y, s), abs=1e-12)
        assert pr[task] == pytest.approx(sk.average_precision_score(y, s), abs=1e-12)


def test_auc_tells_scores_apart_that_differ_in_their_last_bit():
    low = np.array([1.0, -1.0, 0.0, 5e-324])
    for below, above in ((low, np.nextafter(low, np.inf)), (np.nextafter(low, -np.inf), low)):
        scores = np.stack([below, above])  # one compound just above the other in every task
        for labels, area in (([0.0, 1.0], 1.0), ([1.0, 0.0], 0.0)):
            labels = np.repeat(np.array(labels)[:, None], len(low), axis=1)
            np.testing.assert_array_equal(metrics.roc_auc(labels, scores), area)
            np.testing.assert_array_equal(metrics.pr_auc(labels, scores), 1.0 if area else 0.5)


def test_retrieval_rank_equals_a_naive_loop():
    rng = np.random.default_rng(3)
    target = rng.normal(size=(25, 6))
    query = target + rng.normal(size=(25, 6))
    expected = []
    for i in range(25):
        cosines = [q @ query[i] / np.linalg.norm(q) / np.linalg.norm(query[i]) for q in target]
        expected.append(sum(c > cosines[i] for c in cosines))
    assert metrics.retrieval_rank(query, target).tolist() == expected
    assert metrics.retrieval_rank(target, target).tolist() == [0] * 25
    assert metrics.nearest_decile(np.arange(32), 32).mean() == pytest.approx(4 / 32)
    assert metrics.nearest_decile(1, 11) and not metrics.nearest_decile(2, 11)


def test_cluster_indices_equal_scikit_learn_and_silhouettes_may_be_undefined():
    from sklearn.cluster import AgglomerativeClustering

    rng = np.random.default_rng(4)
    labels = np.repeat(np.array(list("abcdefg"), dtype=object), 6)
    labels[0] = "alone"
    points = rng.normal(size=(42, 5)) + 2 * rng.normal(size=(7, 5))[np.repeat(np.arange(7), 6)]
    expected = sk.silhouette_samples(points, labels, metric="cosine")
    np.testing.assert_allclose(metrics.silhouette(points, labels), expected, atol=1e-12)
    clusters = AgglomerativeClustering(8, metric="cosine", linkage="average").fit_predict(points)
    got = metrics.cluster_indices(points, labels)
    assert got["ami"] == pytest.approx(sk.adjusted_mutual_info_score(labels, clusters), abs=1e-12)
    assert got["ari"] == pytest.approx(sk.adjusted_rand_score(labels, clusters), abs=1e-12)
    assert got["silhouette"] == pytest.approx(expected.mean(), abs=1e-12)
    assert np.isnan(list(metrics.cluster_indices(points[:3], np.array(["a", "b", "c"])).values())).all()
    assert np.isnan(metrics.silhouette(points, np.zeros(42))).all()
    assert (metrics.silhouette(points, np.arange(42)) == 0).all()


def test_chance_of_the_nearest_decile_is_a_share_of_ranks():
    for n in (2, 10, 11, 32, 200):
        ranks = np.arange(n)
        assert metrics.chance_of_nearest_decile(n) == pytest.approx(metrics.nearest_decile(ranks, n).mean())
    assert metrics.chance_of_nearest_decile(np.array([10, 11])) == pytest.approx((0.1 + 2 / 11) / 2)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(np.int16, np.float32), (np.float32, np.float32), (np.float64, np.float64), (np.int64, np.float64)],
)
def test_unit_rows_keep_the_precision_of_their_input(given, kept):
    rows = np.array([[3, 4], [0, 0]], dtype=given)
    unit = metrics.unit_rows(rows)
    assert unit.dtype == kept and rows[0, 0] == 3
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert metrics.unit_rows([[3.0, 4.0]]).tolist() == [[0.6, 0.8]]


def test_areas_of_no_compounds_and_of_single_classes_are_undefined():
    for area in (metrics.roc_auc, metrics.pr_auc):
        assert np.isnan(area(np.zeros((0, 3)), np.zeros((0, 3)))).tolist() == [True] * 3
        labels = np.array([[1.0, 0, 1, 0], [1, 0, 0, 1], [1, 0, np.nan, np.nan]])
        scores = np.array([[1.0, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]])
        got = area(labels, scores)
        assert np.isnan(got[:2]).all()
        assert got[2:].tolist() == ([0.0, 1.0] if area is metrics.roc_auc else [0.5, 1.0])


def test_retrieval_scores_run_from_the_nearest_to_the_farthest():
    ranks = pd.DataFrame({"rank": [0, 1, 2, 10], "n_candidates": 11, "compound": list("abcd")})
    table = metrics.retrieval_scores(ranks)
    assert table["recall_1"].tolist() == [1, 0, 0, 0] and table["recall_5"].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(table["reciprocal_rank"], [1, 1 / 2, 1 / 3, 1 / 11])
    assert table["near"].tolist() == [1.0, 1.0, 0.0, 0.0] and table["near"].dtype == float
    assert table["rank_share"].tolist() == [0.0, 0.1, 0.2, 1.0]
    # One candidate is the nearest and the farthest at once: no information, the middle.
    alone = metrics.retrieval_scores(pd.DataFrame({"rank": [0, 3], "n_candidates": [1, 4]}))
    assert alone["rank_share"].tolist() == [0.5, 1.0] and alone["near"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "labels, scores", [([[0.0, 1]] * 3, [[0.0]] * 3), ([[0, 0.5]], [[0, 1.0]]), ([[0, 1.0]], [[0, np.inf]])]
)
def test_wrong_labels_and_scores_are_refused(labels, scores):
    with pytest.raises(ValueError, match="labels"):
        metrics.roc_auc(np.array(labels), np.array(scores))
