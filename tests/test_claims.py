"""The verdict machine: rules, multiplicity, bootstrap, and how often it errs on screens where TX adds
nothing."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cpx_utils import claims, metrics
from cpx_utils.bioactivity import dense_predictions
from cpx_utils.splits import halves

UP = claims.Comparison(0.05, 0.03, 0.07, 0.01, 0.001)  # clearly better
FLAT = claims.Comparison(0.001, -0.004, 0.006, 0.0025, 0.7)  # clearly not better by 0.02
WIDE = claims.Comparison(0.02, -0.04, 0.08, 0.03, 0.5)  # anything goes
DOWN = claims.Comparison(-0.05, -0.07, -0.03, 0.01, 0.001)  # clearly worse


@pytest.mark.parametrize(
    ("raw", "best", "lda", "deranged", "p_adjusted", "expected", "deciding"),
    [
        (UP, UP, UP, UP, 0.004, "supported", "best"),
        (UP, UP, None, UP, 0.004, "supported", "best"),
        (UP, UP, UP, UP, 0.051, "inconclusive", "best"),  # does not survive Holm
        (UP, UP, UP, FLAT, 0.7, "explained without TX", "deranged"),
        (UP, FLAT, FLAT, UP, 0.7, "explained without TX", "best"),
        (UP, UP, WIDE, UP, 0.051, "explained without TX", "lda"),
        (UP, DOWN, UP, FLAT, 1.0, "explained without TX", "best"),  # the reference it loses to most clearly
        (UP, UP, UP, WIDE, 0.5, "explained without TX", "deranged"),
        (UP, DOWN, DOWN, DOWN, 1.0, "explained without TX", "deranged"),
        (FLAT, FLAT, FLAT, FLAT, 0.7, "not supported", "raw"),
        (DOWN, DOWN, DOWN, DOWN, 1.0, "not supported", "raw"),
        (WIDE, FLAT, FLAT, WIDE, 0.7, "not supported", "best"),
        (WIDE, WIDE, WIDE, FLAT, 0.7, "not supported", "deranged"),
        (WIDE, WIDE, WIDE, WIDE, 0.5, "inconclusive", "raw"),
        (WIDE, WIDE, WIDE, UP, 0.5, "inconclusive", "raw"),
    ],
)
def test_verdict_rules(raw, best, lda, deranged, p_adjusted, expected, deciding):
    contest = {"raw": raw, "best": best, "deranged": deranged} | ({"lda": lda} if lda else {})
    got = claims.verdict(contest, p_adjusted, smallest_effect=0.02)
    assert (got.verdict, got.deciding) == (expected, deciding)
    assert got.verdict in claims.VERDICTS and got.reason
    if expected == "inconclusive":
        assert f"{contest[deciding].detectable:.3f}" in got.reason


REASONS = [
    ((UP, UP, UP, UP), 0.001, "better than the best CP-only method and than its own deranged control"),
    (
        (UP, UP, UP, FLAT), 0.7,
        "better than raw CP but not than its own deranged control; a gain of up to 0.006 over it is not excluded",
    ),
    ((UP, DOWN, UP, FLAT), 0.7, "better than raw CP but not than the best CP-only method; it is worse than that"),
    (
        (UP, UP, WIDE, UP), 0.06,
        "better than raw CP but not than lda_identity; a gain of up to 0.080 over it is not excluded",
    ),
    ((FLAT, WIDE, WIDE, WIDE), 0.7, "not better than raw CP, and a gain of 0.02 over raw CP is excluded"),
    (
        (WIDE, WIDE, WIDE, FLAT), 0.7,
        "not better than raw CP, and a gain of 0.02 over its own deranged control is excluded",
    ),
    (
        (WIDE, WIDE, WIDE, WIDE), 0.7,
        "not clearly better than raw CP; differences from 0.084 up would have been detected with 80% power",
    ),
    (
        (UP, UP, UP, UP), 0.06,
        "does not survive Holm's correction; differences from 0.028 up would have been detected with 80% power",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("compared", "p_adjusted", "reason"), REASONS)
def test_a_verdict_says_why_in_its_numbers(compared, p_adjusted, reason):
    contest = dict(zip(("raw", "best", "lda", "deranged"), compared, strict=True))
    assert claims.verdict(contest, p_adjusted, smallest_effect=0.02).reason == reason


def test_verdicts_at_the_very_limits():
    contest = {"raw": UP, "best": UP, "deranged": UP}

    def word(p_adjusted=0.01, smallest_effect=0.02, alpha=0.05, **changed):
        return claims.verdict(contest | changed, p_adjusted, smallest_effect=smallest_effect, alpha=alpha).verdict

    assert word(0.049) == "supported" and word(0.05) == "inconclusive" and word(0.05, alpha=0.06) == "supported"
    touching = claims.Comparison(0.02, 0.0, 0.04, 0.01, 0.01)
    assert word(deranged=touching) == "explained without TX"  # an interval that reaches 0
    assert word(raw=touching, deranged=touching) == "inconclusive"
    assert word(raw=touching, deranged=touching, smallest_effect=0.041) == "not supported"
    assert word(raw=touching, deranged=touching, smallest_effect=0.04) == "inconclusive"
    undefined = claims.Comparison(np.nan, np.nan, np.nan, np.nan, np.nan)
    assert word(raw=undefined) == "supported"  # raw CP only decides where the claim is not won
    assert word(raw=undefined, deranged=touching) == "inconclusive"
    # Of two unbeaten references the one that it loses to by more standard errors, however small these are.
    sure = claims.Comparison(-0.01, -0.01, -0.01, 0.0, 0.01)
    got = claims.verdict(contest | {"best": DOWN, "deranged": sure}, 1.0, smallest_effect=0.02)
    assert (got.deciding, got.reason) == (
        "deranged", "better than raw CP but not than its own deranged control; it is worse than that"
    )  # fmt: skip
    # Of two comparisons that are both won, the one with the larger p decides, then the lower interval.
    less = claims.Comparison(0.05, 0.02, 0.08, 0.015, 0.001)
    assert claims.verdict(contest | {"deranged": less}, 0.01, smallest_effect=0.02).deciding == "deranged"
    likely = claims.Comparison(0.05, 0.04, 0.06, 0.005, 0.002)
    assert claims.verdict(contest | {"deranged": likely}, 0.01, smallest_effect=0.02).deciding == "deranged"


def test_a_bootstrap_is_summarised_by_its_percentiles():
    replicates = np.arange(-2.0, 18.0)  # 20 of them, one is 0
    one = claims.summarise_bootstrap(np.concatenate([[7.0], replicates, [np.nan]]), level=0.9)
    assert (one.ci_low, one.ci_high) == pytest.approx(tuple(np.quantile(replicates, [0.05, 0.95])))
    assert one.effect == 7.0 and one.standard_error == pytest.approx(np.std(replicates, ddof=1))
    assert one.p_value == pytest.approx(2 * (1 + 3) / 21)  # -2, -1 and 0 lie on the far side
    other = claims.summarise_bootstrap(np.concatenate([[-7.0], -replicates]))
    assert other.p_value == one.p_value and other.ci_low == pytest.approx(-np.quantile(replicates, 0.975))
    assert claims.summarise_bootstrap(np.array([0.0, -1.0, 1.0])).p_value == 1.0
    for undefined in ([np.nan, 1.0, 2.0], [1.0, 2.0], [1.0, 2.0, np.nan]):
        got = claims.summarise_bootstrap(np.array(undefined))
        assert np.isnan([got.ci_low, got.ci_high, got.standard_error, got.p_value]).all()
        assert got.effect == pytest.approx(undefined[0], nan_ok=True)
    assert not np.isnan(claims.summarise_bootstrap(np.array([1.0, 2.0, 3.0])).p_value)


def test_verdict_not_testable_says_why():
    got = claims.verdict({}, np.nan, smallest_effect=0.02, not_testable="no replicates")
    assert got == claims.Verdict("not testable", "", "no replicates")


def test_a_loss_is_no_evidence_for_a_claim():
    assert claims.claim_p_value(UP, UP) == 0.001
    assert claims.claim_p_value(UP, DOWN) == 1.0
    assert claims.claim_p_value(UP, WIDE) == 0.5


def test_multiplicity_equals_the_definitions():
    rng = np.random.default_rng(0)
    for n in (1, 2, 4, 15):
        p = np.round(rng.random(n) ** 2, 2)  # with ties
        ordered = np.sort(p)
        for value, holm, false_discovery in zip(p, claims.holm(p), metrics.benjamini_hochberg(p), strict=True):
            # Holm: the largest (n - rank) * p of all p up to this one; Benjamini-Hochberg: the smallest n * p / rank of
            # all from this one on.
            assert holm == pytest.approx(min(1, max((n - k) * q for k, q in enumerate(ordered) if q <= value)))
            expected = min(1, min(n * q / (k + 1) for k, q in enumerate(ordered) if q >= value))
            assert false_discovery == pytest.approx(expected)
    np.testing.assert_allclose(claims.holm(np.array([0.01, np.nan, 0.04])), [0.02, np.nan, 0.04])
    assert claims.holm(np.array([])).size == 0


def test_intervals_cover_a_known_mean():
    rng = np.random.default_rng(0)
    covered = excluded = 0
    for seed in range(200):
        a, b = rng.exponential(size=(2, 60))
        one = claims.paired_bootstrap(a + 0.1, b, n_bootstrap=400, seed=seed)
        covered += one.ci_low <= 0.1 <= one.ci_high
        null = claims.paired_bootstrap(a, b, n_bootstrap=400, seed=seed)
        excluded += null.p_value < 0.05
    assert 180 <= covered <= 199  # 95% of 200 is 190, standard error 3
    assert 2 <= excluded <= 20


def test_paired_bootstrap_resamples_units():
    rng = np.random.default_rng(1)
    per_compound = rng.normal(size=40)
    values = np.repeat(per_compound, 10)
    apart = claims.paired_bootstrap(values, np.zeros(400), seed=0)
    together = claims.paired_bootstrap(values, np.zeros(400), units=np.repeat(np.arange(40), 10), seed=0)
    assert together.effect == pytest.approx(apart.effect) == pytest.approx(per_compound.mean())
    assert together.standard_error == pytest.approx(per_compound.std(ddof=1) / np.sqrt(40), rel=0.1)
    assert together.standard_error > 2.5 * apart.standard_error
    assert together.detectable == pytest.approx(2.8 * together.standard_error)
    assert np.isnan(claims.paired_bootstrap(np.array([np.nan]), np.array([1.0])).effect)


def test_weighted_auc_equals_repeating_compounds():
    rng = np.random.default_rng(0)
    for share in (0.2, 0.7):  # either class the larger one
        labels = (rng.random(40) < share).astype(float)
        labels[rng.random(40) < 0.2] = np.nan
        scores = rng.normal(size=(40, 3)).round(1)  # with ties
        weights = np.vstack([np.ones(40), rng.multinomial(40, np.full(40, 1 / 40), size=6)])
        got = claims.weighted_auc(labels, scores, weights, block=4)
        for b in range(7):
            rows = np.repeat(np.arange(40), weights[b].astype(int))
            rows = rows[~np.isnan(labels[rows])]
            expected = [roc_auc_score(labels[rows], scores[rows, m]) for m in range(3)]
            np.testing.assert_allclose(got[b], expected, atol=1e-12)
    none = claims.weighted_auc(np.array([1.0, 0.0]), np.zeros((2, 1)), np.array([[1, 0], [1, 1]]))
    assert np.isnan(none[0, 0]) and none[1, 0] == 0.5


def test_resampling_keeps_groups_together():
    rng = np.random.default_rng(0)
    groups = {"a": "g", "b": "g"}
    sample = claims.resample_compounds(["a", "b", "c", "d"], n_bootstrap=50, rng=rng, groups=groups)
    weights = sample.of(["a", "b", "c", "d"])
    assert (weights[0] == 1).all() and (weights[:, 0] == weights[:, 1]).all()
    assert (weights[1:, 1:].sum(1) == 3).all()
    with pytest.raises(ValueError, match="missing"):
        sample.of(["z"])


def test_resampling_draws_each_group_as_often_as_any_other():
    def drawn(groups=None):
        rng = np.random.default_rng(3)
        return claims.resample_compounds(["b", "a", "b", 3], n_bootstrap=4000, rng=rng, groups=groups)

    sample = drawn()
    assert list(sample.compounds) == ["3", "a", "b"] and sample.weights.shape == (4001, 3)
    assert sample.weights.dtype == np.float32 and (sample.weights.sum(1) == 3).all()
    np.testing.assert_allclose(sample.weights[1:].mean(0), 1.0, atol=0.05)
    np.testing.assert_array_equal(sample.of([3, "b"]), sample.weights[:, [0, 2]])
    # A compound that the groups don't name is one of its own; a Series serves as a mapping does.
    grouped = drawn(pd.Series({"a": "g", "b": "g"}))
    assert (grouped.weights[1:, [0, 1]].sum(1) == 2).all()
    assert (grouped.weights[:, 1] == grouped.weights[:, 2]).all() and grouped.weights[1:, 1].max() == 2
    empty = claims.resample_compounds([], n_bootstrap=2, rng=np.random.default_rng(0))
    assert empty.weights.shape == (3, 0)
    with pytest.raises(ValueError, match=r"^a compound is missing from the bootstrap's list of compounds$"):
        sample.of(["b", "z"])


def test_draws_are_averaged_and_the_luck_of_one_has_their_variance():
    columns = pd.DataFrame(
        [("m", "deranged", draw) for draw in range(3)] + [("m", "true_pairs", 0), ("raw_cp", None, 0)],
        columns=["method", "control", "seed"],
    )
    made = claims._Columns(columns)
    assert made.groups == [("m", "deranged"), ("m", "true_pairs"), ("raw_cp", "")] and made.paired == ["m"]
    draws = np.array([1.0, 2.0, 6.0, 5.0, 4.0])
    values = np.repeat(draws[None], 20_001, axis=0)
    combined = made.combine(values, np.ones(5, dtype=bool), np.random.default_rng(0))
    np.testing.assert_allclose(combined[0], [3, 5, 4, 0])
    mean, true, raw, luck = combined[1:].T
    assert (true == 5).all() and (raw == 4).all()
    # The mean of three draws with replacement; one draw's deviation from it, with the draws' unbiased variance.
    np.testing.assert_allclose([mean.mean(), mean.var()], [3, np.var(draws[:3]) / 3], rtol=0.03)
    np.testing.assert_allclose(luck.var(), np.var(draws[:3], ddof=1), rtol=0.03)
    np.testing.assert_allclose(np.unique(luck.round(9)), (np.array([1, 2, 6]) - 3) * np.sqrt(3 / 2))
    assert abs(np.corrcoef(mean, luck)[0, 1]) < 0.03  # drawn apart
    # Tasks are a further axis; a fold that has one draw tells nothing of its luck.
    stacked = np.stack([values[:50], 2 * values[:50]], axis=1)
    both = made.combine(stacked, np.ones(5, dtype=bool), np.random.default_rng(0))
    assert both.shape == (50, 2, 4)
    np.testing.assert_allclose(both[:, 1], 2 * both[:, 0])
    single = made.combine(values[:50], np.array([False, True, False, True, True]), np.random.default_rng(0))
    np.testing.assert_allclose(single, np.tile([2, 5, 4, 0], (50, 1)))
    split, by_method = made.split(both)
    assert list(split) == made.groups and list(by_method) == ["m"]
    np.testing.assert_array_equal(split["raw_cp", ""], both[..., 2])
    np.testing.assert_array_equal(by_method["m"], both[..., 3])
    with pytest.raises(ValueError, match=r"^raw_cp \(no control\) is missing from a fold that others have$"):
        made.combine(values, np.array([True, True, True, True, False]), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"^m \(deranged\) is missing"):
        made.combine(values, np.array([False, False, False, True, True]), np.random.default_rng(0))


CP_METHODS = ("raw_cp", "sphered_cp", "lda_identity")


def simulated_tables(seed, *, gain=0.0, identity=0.1, n=90, n_tasks=12, draws=3, collapse=True):
    """Tables of a small study. Whatever a fit learns by luck of its pairing moves all its compounds together.

    ``identity``: what replicate collapse brings to lda_identity, true and deranged pairs alike; ``gain``:
    what only true pairs bring.
    """
    rng = np.random.default_rng(seed)
    names = np.array([f"c{i}" for i in range(n)])
    fold = rng.permutation(n) % 3
    base = rng.normal(0.25, 0.12, size=n)
    labels = (rng.random((n, n_tasks)) < 0.4).astype(float)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    shared = rng.normal(size=labels.shape)
    fits = [(m, "", 0, 0.0 if m != "lda_identity" or not collapse else identity) for m in (*CP_METHODS, "tx")]
    fits += [("contrastive", "true_pairs", 0, identity + gain)]
    fits += [("contrastive", "deranged", k, identity) for k in range(draws)]
    compound_rows, predicted = [], []
    for method, control, draw, effect in fits:
        luck = rng.normal(0, 0.015, size=3)[fold] if method == "contrastive" else 0.0
        for endpoint in ("replicate_map", "average_precision"):
            values = base + effect + luck + rng.normal(0, 0.05, size=n)
            compound_rows.append((endpoint, method, control, draw, values))
        strength = 1.6 if method == "tx" else 0.4 + 4 * effect
        scores = np.nan_to_num(labels) * (strength + luck[:, None] * 4 if np.ndim(luck) else strength)
        scores = scores + 0.8 * shared + 0.6 * rng.normal(size=labels.shape)
        row, task = np.nonzero(~np.isnan(labels))
        predicted.append(
            pd.DataFrame(
                {
                    "split": "random",
                    "repeat": 0,
                    "fold": fold[row],
                    "seed": draw,
                    "method": method,
                    "control": control,
                    "compound": names[row],
                    "task": np.array([f"t{t}" for t in range(n_tasks)])[task],
                    "label": labels[row, task],
                    "score": scores[row, task],
                }
            )
        )

    def compound_table(endpoint):
        return pd.concat(
            pd.DataFrame(
                {
                    "split": "random",
                    "repeat": 0,
                    "fold": fold,
                    "seed": draw,
                    "method": method,
                    "control": control,
                    "compound": names,
                    endpoint: values,
                }
            )
            for name, method, control, draw, values in compound_rows
            if name == endpoint and method != "tx"
        )

    tasks = pd.DataFrame({"task": [f"t{t}" for t in range(n_tasks)], "family": [f"f{t % 3}" for t in range(n_tasks)]})
    return {
        "replicate_per_treatment": compound_table("replicate_map"),
        "moa_per_compound": compound_table("average_precision"),
        "predictions": pd.concat(predicted, ignore_index=True),
        "tasks": tasks,
    }


def weigh(tables, n_bootstrap=300, **changes):
    endpoints = claims.bootstrap_endpoints(**tables, n_bootstrap=n_bootstrap, **changes)
    return claims.weigh_claims("small", endpoints)


def verdicts(table):
    ruled = table[table["verdict"] != ""]
    assert ruled["claim"].tolist() == [1, 2, 3, 4]
    return ruled.set_index("claim")["verdict"]


def test_supported_is_rare_where_tx_adds_only_identity():
    ruled = pd.concat([verdicts(weigh(simulated_tables(seed))) for seed in range(40)])
    supported = (ruled == "supported").groupby(level=0).sum()
    assert (supported <= 2).all(), supported
    assert (ruled.loc[[2, 3]] == "explained without TX").mean() > 0.8


def test_a_strong_gain_of_true_pairs_is_supported():
    ruled = pd.concat([verdicts(weigh(simulated_tables(seed, gain=0.12))) for seed in range(8)])
    assert (ruled.loc[[2, 3]] == "supported").all()
    assert (ruled.loc[[1, 4]] == "supported").mean() >= 0.8


def test_no_gain_at_all_is_not_supported():
    tables = simulated_tables(0, identity=0.0, n=300, draws=12)
    table = weigh(tables)
    assert set(verdicts(table).loc[[2, 3]]) == {"not supported"}


def test_luck_of_the_pairing_widens_the_comparison_with_the_deranged_control():
    tables = simulated_tables(3, draws=8)
    endpoint = claims.bootstrap_endpoints(**tables, n_bootstrap=500)[3]
    with_luck = claims.summarise_bootstrap(endpoint.difference("contrastive", ("contrastive", "deranged")))
    plain = endpoint.values["contrastive", "true_pairs"] - endpoint.values["contrastive", "deranged"]
    without = claims.summarise_bootstrap(plain)
    assert with_luck.effect == pytest.approx(without.effect)
    assert with_luck.standard_error > 1.2 * without.standard_error
    assert endpoint.pairing["contrastive"][0] == 0


def test_estimates_equal_naive_means():
    tables = simulated_tables(5, gain=0.05)
    endpoints = claims.bootstrap_endpoints(**tables, n_bootstrap=20)
    moa = tables["moa_per_compound"]
    naive = moa.groupby(["method", "control"])["average_precision"].mean()
    for key, distribution in endpoints[3].values.items():
        assert distribution[0] == pytest.approx(naive[key], abs=1e-12)
    predictions, tasks = tables["predictions"], tables["tasks"]
    by_fit = [
        (method, control, task, roc_auc_score(one["label"], one["score"]))
        for (method, control, task, _, _), one in predictions.groupby(["method", "control", "task", "seed", "fold"])
    ]
    auc = pd.DataFrame(by_fit, columns=["method", "control", "task", "auc"])
    auc = auc.groupby(["method", "control", "task"], as_index=False)["auc"].mean().merge(tasks, on="task")
    families = auc.groupby(["method", "control", "family"])["auc"].mean()
    for key, distribution in endpoints[4].values.items():
        assert distribution[0] == pytest.approx(families[key].mean(), abs=1e-12)
        for family, one in endpoints[4].families.items():
            assert one.values[key][0] == pytest.approx(families[key][family], abs=1e-12)


def test_bootstrap_values_equal_repeating_compounds():
    """One resample by hand: every compound written out as often as drawn, draws and tasks as they are."""
    tables = simulated_tables(6, draws=1)
    dense = dense_predictions(tables["predictions"])
    rng = np.random.default_rng(0)
    sample = claims.resample_compounds(dense.compounds, n_bootstrap=3, rng=rng)
    endpoint = claims.bootstrap_family_auc(dense, tables["tasks"], sample, rng, resample_tasks=False)
    family_of = tables["tasks"].set_index("task")["family"]
    predictions = tables["predictions"]
    for b in (1, 3):
        times = dict(zip(sample.compounds, sample.weights[b].astype(int), strict=True))
        for method, control in (("raw_cp", ""), ("contrastive", "deranged")):
            one = predictions[(predictions["method"] == method) & (predictions["control"] == control)]
            written_out = one.loc[one.index.repeat(one["compound"].map(times))]
            auc = {
                task: np.mean([roc_auc_score(f["label"], f["score"]) for _, f in rows.groupby("fold")])
                for task, rows in written_out.groupby("task")
            }
            expected = pd.Series(auc).groupby(family_of).mean().mean()
            assert endpoint.values[method, control][b] == pytest.approx(expected, abs=1e-12)


def test_tx_strong_tasks_are_measured_where_they_were_not_chosen():
    tables = simulated_tables(7, gain=0.1)
    dense = dense_predictions(tables["predictions"])
    rng = np.random.default_rng(0)
    sample = claims.resample_compounds(dense.compounds, n_bootstrap=5, rng=rng)
    choice = claims.TaskChoice(n_halvings=1, seed=4)
    got = claims.bootstrap_tx_strong_auc(dense, sample, rng, choice=choice)
    first = halves(dense.compounds, 4)
    method = dense.columns["method"].to_numpy()
    measured = []
    for half in (first, ~first):
        on, off = dense.auc(half), dense.auc(~half)
        cp, tx = on[:, method == "raw_cp"][:, 0], on[:, method == "tx"][:, 0]
        measured.append(off[(tx >= 0.65) & (tx - cp >= 0.05)])
    expected = np.concatenate(measured).mean(0)
    assert got.values["raw_cp", ""][0] == pytest.approx(expected[method == "raw_cp"][0], abs=1e-12)
    own = (method == "contrastive") & (dense.columns["control"] == "deranged").to_numpy()
    assert got.values["contrastive", "deranged"][0] == pytest.approx(expected[own].mean(), abs=1e-12)


def test_claims_table_sentences_and_csv(tmp_path):
    tables = simulated_tables(2, gain=0.12)
    tables["tasks"].loc[0, "family"] = "other"
    tables["tasks"].loc[1, "family"] = "small"
    table = weigh(tables)
    assert list(table.columns) == claims.CLAIM_COLUMNS
    primary = table.groupby("claim").head(1)
    assert (primary["verdict"] != "").all() and (table["verdict"] != "").sum() == 4
    assert set(table["reference"]) == {*CP_METHODS, "deranged"}
    assert (table.loc[table["role"] == "deranged control", "reference"] == "deranged").all()
    np.testing.assert_allclose(table["effect"], table["value_method"] - table["value_reference"], atol=1e-12)
    assert ((table["ci_low"] <= table["ci_high"]) | table["ci_low"].isna()).all()
    families = table[table["endpoint"].str.startswith("family_auc:")]
    untested = families[families["endpoint"].isin(["family_auc:other", "family_auc:small"])]
    assert untested["p_value"].isna().all() and untested["reason"].str.contains("not tested").all()
    assert families["p_value"].notna().sum() == 9
    said = claims.sentences(table)
    assert len(said) == 4 and "supported on small" in said[1]
    assert f"{primary['value_method'].iloc[1]:.3f} mAP" in said[1] and "deranged control" in said[1]
    table.to_csv(tmp_path / "claims.csv", index=False)
    assert claims.sentences(pd.read_csv(tmp_path / "claims.csv")) == said
    pd.testing.assert_frame_equal(table, weigh(tables))  # same seed, same table
    intervals = claims.endpoint_intervals(claims.bootstrap_endpoints(**tables, n_bootstrap=50))
    assert ((intervals["ci_low"] < intervals["value"]) & (intervals["value"] < intervals["ci_high"])).mean() > 0.9


def test_tables_read_back_from_csv_or_as_categories_weigh_the_same(tmp_path):
    tables = simulated_tables(4)
    expected = weigh(tables, n_bootstrap=20)
    for name in ("replicate_per_treatment", "moa_per_compound", "predictions"):
        tables[name].to_csv(tmp_path / name, index=False)
    read = {name: pd.read_csv(tmp_path / name) if name != "tasks" else table for name, table in tables.items()}
    assert read["predictions"]["control"].isna().any()
    pd.testing.assert_frame_equal(weigh(read, n_bootstrap=20), expected)
    keys = ["method", "control", "compound"]
    coded = {
        name: table.astype(dict.fromkeys(keys, "category")) if name != "tasks" else table
        for name, table in tables.items()
    }
    pd.testing.assert_frame_equal(weigh(coded, n_bootstrap=20), expected)


def test_what_a_screen_lacks_is_not_testable_and_said():
    tables = simulated_tables(0)
    tables["replicate_per_treatment"] = None
    tables["predictions"] = tables["predictions"][tables["predictions"]["method"] != "tx"]
    tables["tasks"] = tables["tasks"].assign(family="other")
    table = weigh(tables, not_testable={3: "MoAs are secret"}, n_bootstrap=20)
    assert set(verdicts(table)) == {"not testable"}
    reasons = table[table["verdict"] != ""].set_index("claim")["reason"]
    assert "predictions of tx" in reasons[1] and "no replicates" in reasons[2]
    assert reasons[3] == "MoAs are secret" and "no target family" in reasons[4]
    assert all("not testable" in sentence for sentence in claims.sentences(table))
    nothing = claims.weigh_claims("none", claims.bootstrap_endpoints(n_bootstrap=20))
    assert verdicts(nothing).eq("not testable").all()


def test_a_method_without_deranged_control_is_not_testable():
    tables = simulated_tables(0)
    for name in ("replicate_per_treatment", "moa_per_compound", "predictions"):
        tables[name] = tables[name][tables[name]["control"] != "deranged"]
    table = weigh(tables, n_bootstrap=20)
    ruled = table[table["verdict"] != ""]
    assert ruled["verdict"].eq("not testable").all() and ruled["reason"].str.contains("deranged").all()
    assert len(table) > 4  # the comparisons with CP-only methods are still shown


def test_a_fold_that_lacks_a_method_and_mixed_splits_are_refused():
    tables = simulated_tables(0)
    moa = tables["moa_per_compound"]
    tables["moa_per_compound"] = moa[(moa["fold"] > 0) | (moa["method"] != "sphered_cp")]
    with pytest.raises(ValueError, match="sphered_cp"):
        weigh(tables, n_bootstrap=20)
    tables["moa_per_compound"] = pd.concat([moa, moa.assign(split="scaffold")])
    with pytest.raises(ValueError, match="one split"):
        weigh(tables, n_bootstrap=20)


def test_interval_table_gives_means_with_intervals():
    moa = simulated_tables(1)["moa_per_compound"].assign(endpoint="moa_map")
    table = claims.interval_table(moa, "average_precision", by=("endpoint", "method", "control"), n_bootstrap=300)
    assert list(table.columns) == ["endpoint", "method", "control", "mean", "ci_low", "ci_high", "n_units"]
    naive = moa.groupby(["method", "control"])["average_precision"].agg(["mean", "sem"])
    for _, row in table.iterrows():
        key = (row["method"], row["control"])
        assert row["mean"] == pytest.approx(naive.loc[key, "mean"]) and row["n_units"] == 90
        if row["control"] == "":
            half_width = 1.96 * naive.loc[key, "sem"]
            assert row["ci_high"] - row["ci_low"] == pytest.approx(2 * half_width, rel=0.2)


def compound_values(seed=0):
    """Values of 80 compounds: raw CP, and a method whose gain is half without TX and half from it."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0.3, 0.1, 80)
    rows = []
    draws = [("raw_cp", "", 0, 0.0), ("rcca", "true_pairs", 0, 0.2)]
    draws += [("rcca", "deranged", draw, 0.1) for draw in range(4)]
    for method, control, draw, gain in draws:
        noise = rng.normal(0, 0.02, 80)
        rows.append(pd.DataFrame({
            "repeat": 0, "fold": 0, "seed": draw, "method": method, "control": control,
            "compound": [f"c{row}" for row in range(80)], "value": base + gain + noise,
        }))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_a_gain_is_split_into_its_parts():
    table = compound_values()
    parts = claims.gain_parts([("endpoint", table, "value"), ("empty", table.iloc[:0], "value")], n_bootstrap=300)
    assert parts["endpoint"].unique().tolist() == ["endpoint"]
    by_part = parts.set_index("part")
    means = table.groupby(["method", "control"])["value"].mean()
    expected = {
        "without TX": means["rcca", "deranged"] - means["raw_cp", ""],
        "from TX": means["rcca", "true_pairs"] - means["rcca", "deranged"],
    }
    for part, effect in expected.items():
        row = by_part.loc[part]
        assert row["effect"] == pytest.approx(effect) and 0 < row["ci_low"] < effect < row["ci_high"]


def test_family_gains_are_means_of_task_gains():
    rng = np.random.default_rng(5)
    rows = []
    labels = rng.random((120, 5)) < 0.4
    for method, control, signal in (("raw_cp", "", 0.3), ("rcca", "true_pairs", 1.0)):
        scores = signal * labels + rng.normal(size=labels.shape)
        for task in range(5):
            rows.append(pd.DataFrame({
                "split": "random", "repeat": 0, "fold": 0, "seed": 0, "method": method, "control": control,
                "compound": [f"c{row:03d}" for row in range(120)], "task": f"t{task}",
                "label": labels[:, task].astype(int), "score": scores[:, task],
            }))  # fmt: skip
    predictions = pd.concat(rows, ignore_index=True)
    tasks = pd.DataFrame({"task": [f"t{task}" for task in range(5)], "family": ["a", "a", "a", "b", "other"]})
    gains = claims.family_gains(predictions, tasks, n_bootstrap=200).set_index("family")
    auc = predictions.groupby(["method", "task"]).apply(lambda one: roc_auc_score(one["label"], one["score"]))
    for family, members in tasks.groupby("family")["task"]:
        expected = (auc["rcca"][members] - auc["raw_cp"][members]).mean()
        assert gains.loc[family, "effect"] == pytest.approx(expected)
        assert gains.loc[family, "n_tasks"] == len(members)
    assert gains["tested"].to_dict() == {"a": True, "b": False, "other": False}
    assert len(claims.family_gains(predictions.iloc[:0], tasks)) == 0
    assert len(claims.interval_table(pd.DataFrame(), "value")) == 0


def comparison(effect, ci_low, ci_high, p=0.5):
    return claims.Comparison(effect, ci_low, ci_high, (ci_high - ci_low) / 3.92, p)


CHANGES = {
    "supported": ((0.05, 0.03, 0.07), (0.06, 0.02, 0.1), "a gain over its own deranged control smaller by 0.020"),
    "explained without TX": (
        (-0.02, -0.04, 0.0),
        (0.01, -0.01, 0.03),
        "a gain over the best CP-only method, where -0.020 is seen; more compounds alone would not do",
    ),
    "inconclusive": (
        (0.05, 0.02, 0.08),
        (0.02, -0.0192, 0.0592),
        # 0.02 seen, 2.8 standard errors of 0.02 needed: (0.056 / 0.02)^2 = 7.84
        "7.8 times the compounds, if the gain over its own deranged control stays +0.020",
    ),
}


@pytest.mark.parametrize("word", CHANGES)
def test_what_would_change_a_verdict_is_said_from_its_numbers(word):
    best, deranged, expected = CHANGES[word]
    contest = {"best": comparison(*best), "deranged": comparison(*deranged), "raw": comparison(0.1, 0.05, 0.15)}
    assert claims.would_change(claims.Verdict(word, "best", ""), contest) == expected


def test_what_would_change_is_told_of_the_worst_loss_and_of_what_is_open():
    contest = {"best": comparison(-0.01, -0.03, 0.01), "deranged": comparison(-0.02, -0.04, 0.0)}
    said = claims.would_change(claims.Verdict("inconclusive", "best", ""), contest)
    assert said.startswith("a gain over its own deranged control, where -0.020 is seen")
    reaching = {"best": comparison(0.02, 0.0, 0.04), "deranged": comparison(0.02, 0.001, 0.2)}
    said = claims.would_change(claims.Verdict("inconclusive", "best", ""), reaching)
    assert "the gain over the best CP-only method" in said  # an interval that reaches 0 is open, a wide one isn't


def test_a_claim_lost_to_holm_alone_wants_no_fewer_compounds():
    contest = {"best": comparison(0.05, 0.01, 0.09, 0.02), "deranged": comparison(0.05, 0.04, 0.06, 0.001)}
    said = claims.would_change(claims.Verdict("inconclusive", "best", ""), contest)
    assert said.startswith("1.3 times the compounds, if the gain over the best CP-only method stays +0.050")
    sure = {"best": comparison(0.05, 0.04, 0.06), "deranged": comparison(0.05, 0.04, 0.06)}
    assert claims.would_change(claims.Verdict("inconclusive", "best", ""), sure).startswith("1.0 times")


def test_deranged_controls_stand_against_the_same_references():
    draws = [("raw_cp", "", 0, 0.0), ("rcca", "true_pairs", 0, 0.3)]
    draws += [("rcca", "deranged", draw, 0.1 + 0.02 * draw) for draw in range(3)]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, 60)
    rows = [
        (method, control, seed, f"c{i}", 0.3 + shift + noise[i]) for method, control, seed, shift in draws
        for i in range(60)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "control", "seed", "compound", "average_precision"])
    endpoints = claims.bootstrap_endpoints(moa_per_compound=table, n_bootstrap=200)
    weighed = claims.weigh_claims("made", endpoints, primary="rcca").query("claim == 3").set_index("reference")
    assert weighed.loc["raw_cp", "deranged_effect"] == pytest.approx(0.12)
    assert weighed.loc["raw_cp", "deranged_low"] <= 0.12 <= weighed.loc["raw_cp", "deranged_high"]
    assert np.isnan(weighed.loc["deranged", "deranged_effect"])
    assert (weighed["would_change"] != "").sum() == 1


# --------------------------------------------------------------------------------------------------
# Retrieval


def retrieval_table(better: float, n_compounds: int = 80, seed: int = 0) -> pd.DataFrame:
    """Ranks among 40: ridge and its deranged control near chance, a method that is `better` by a shift of ranks."""
    rng = np.random.default_rng(seed)
    rows = []
    for compound in range(n_compounds):
        hard = rng.random()
        for method, control, seeds in (
            ("ridge_tx", "true_pairs", 1), ("ridge_tx", "deranged", 3),
            ("rcca", "true_pairs", 1), ("rcca", "deranged", 3),
        ):  # fmt: skip
            for draw in range(seeds):
                shift = better if (method, control) == ("rcca", "true_pairs") else 0.0
                rank = int(np.clip(40 * (hard + 0.1 * rng.normal() - shift), 0, 39))
                rows.append((0, compound % 3, draw, method, control, f"c{compound}", rank, 40))
    return pd.DataFrame(rows, columns="repeat fold seed method control compound rank n_candidates".split())


def test_retrieval_contrasts_are_differences_on_the_same_compounds():
    table = retrieval_table(0.3)
    found = claims.retrieval_contrasts(table, n_bootstrap=300).set_index(["method", "measure", "against"])
    assert len(found) == 2 * (2 + 1)  # ridge isn't compared with itself
    near = table.assign(near=table["rank"] <= 0.1 * 39, share=table["rank"] / 39)
    means = near.groupby(["method", "control"])[["near", "share"]].mean()
    for measure, column in (("nearest tenth", "near"), ("mean rank", "share")):
        own = means.loc[("rcca", "true_pairs"), column]
        row = found.loc[("rcca", measure, "ridge_tx")]
        assert row["value"] == pytest.approx(own)
        assert row["effect"] == pytest.approx(own - means.loc[("ridge_tx", "true_pairs"), column])
        row = found.loc[("rcca", measure, "own deranged pairs")]
        assert row["effect"] == pytest.approx(own - means.loc[("rcca", "deranged"), column])
        assert row["n_units"] == 80
    assert found.loc[("rcca", "nearest tenth", "ridge_tx"), "ci_low"] > 0.1
    assert found.loc[("rcca", "mean rank", "ridge_tx"), "ci_high"] < -0.1
    assert found.loc[("ridge_tx", "mean rank", "own deranged pairs"), "ci_low"] < 0
    assert found.loc[("ridge_tx", "mean rank", "own deranged pairs"), "ci_high"] > 0


def test_pairing_makes_retrieval_intervals_narrow():
    paired = claims.retrieval_contrasts(retrieval_table(0.0), n_bootstrap=400)
    row = paired.set_index(["method", "measure", "against"]).loc[("rcca", "mean rank", "ridge_tx")]
    alone = claims.interval_table(
        retrieval_table(0.0).assign(share=lambda table: table["rank"] / 39), "share", n_bootstrap=400
    ).set_index(["method", "control"])
    width = alone.loc[("rcca", "true_pairs"), "ci_high"] - alone.loc[("rcca", "true_pairs"), "ci_low"]
    assert row["ci_high"] - row["ci_low"] < 0.6 * width


# --------------------------------------------------------------------------------------------------
# The claims table, from endpoints that are made up


def made_up(endpoint, estimates, *, n_units=50, spread=0.01, seed=0, **further):
    """An endpoint whose bootstrap values scatter around given estimates, each model's on its own."""
    rng = np.random.default_rng(seed)
    values = {key: np.concatenate([[value], value + spread * rng.normal(size=300)]) for key, value in estimates.items()}
    return claims.EndpointBootstrap(endpoint, values, {}, n_units, **further)


ESTIMATES = {
    ("aaa", "true_pairs"): 0.46,
    ("aaa", "deranged"): 0.45,
    ("contrastive", "deranged"): 0.40,
    ("contrastive", "true_pairs"): 0.50,
    ("lda_identity", ""): 0.42,
    ("pca_cp", ""): 0.44,
    ("raw_cp", ""): 0.30,
    ("stranger", ""): 0.9,  # without TX and not among the references
}


@pytest.fixture
def endpoints():
    small = made_up("family_auc:small", ESTIMATES, n_units=2, seed=3)
    large = made_up("family_auc:large", ESTIMATES, n_units=3, seed=4)
    other = made_up("family_auc:other", ESTIMATES, n_units=30, seed=5)
    return {
        1: claims.EndpointBootstrap("tx_strong_tasks", {}, {}, 2, not_testable="two tasks only"),
        2: made_up("replicate_map", ESTIMATES, seed=1),
        3: made_up("moa_map", ESTIMATES | {("contrastive", "true_pairs"): 0.445}, seed=2),
        4: made_up("family_auc", ESTIMATES, n_units=4, families={"small": small, "large": large, "other": other}),
    }


def test_every_comparison_has_its_row_and_the_deciding_one_comes_first(endpoints):
    table = claims.weigh_claims("made", endpoints)
    assert set(table["screen"]) == {"made"} and table.index.tolist() == list(range(len(table)))
    second = table[(table["claim"] == 2)].reset_index(drop=True)
    pairs = list(zip(second["method"], second["reference"], strict=True))
    order = ["pca_cp", "lda_identity", "raw_cp", "deranged"]  # references from the best down
    # The best CP-only method and the deranged control are both beaten; the lower interval decides.
    assert pairs == [("contrastive", name) for name in order] + [("aaa", name) for name in order]
    roles = ["best CP-only", "CP-only", "CP-only", "deranged control"]
    assert second["role"].tolist() == roles * 2
    assert second["verdict"].tolist() == ["supported"] + [""] * 7
    assert (
        second["reason"].tolist()
        == ["better than the best CP-only method and than its own deranged control"] + [""] * 7
    )
    assert second["would_change"].tolist()[1:] == [""] * 7
    assert second["would_change"][0] == f"a gain over the best CP-only method smaller by {second['ci_low'][0]:.3f}"
    assert set(second["endpoint"]) == {"replicate_map"} and set(second["n_units"]) == {50}
    values = endpoints[2].values
    for _, row in second.iterrows():
        key = (row["method"], "deranged") if row["reference"] == "deranged" else (row["reference"], "")
        difference = values[row["method"], "true_pairs"] - values[key]
        expected = claims.summarise_bootstrap(difference)
        got = (row["effect"], row["ci_low"], row["ci_high"], row["p_value"], row["detectable"])
        assert got == (expected.effect, expected.ci_low, expected.ci_high, expected.p_value, expected.detectable)
        assert row["value_method"] == ESTIMATES[row["method"], "true_pairs"]
        assert row["value_reference"] == ESTIMATES[key]
        control = claims.summarise_bootstrap(values[row["method"], "deranged"] - values[key])
        shown = [row["deranged_effect"], row["deranged_low"], row["deranged_high"]]
        if row["reference"] == "deranged":
            assert np.isnan(shown).all()
        else:
            assert shown == [control.effect, control.ci_low, control.ci_high]
    adjusted = metrics.benjamini_hochberg(second["p_value"].to_numpy())
    np.testing.assert_allclose(second["p_adjusted"][1:], adjusted[1:])


def test_holm_counts_the_testable_claims_and_limits_come_from_the_endpoint(endpoints):
    table = claims.weigh_claims("made", endpoints)
    ruled = table[table["verdict"] != ""].set_index("claim")
    assert ruled.index.tolist() == [1, 2, 3, 4]
    by_claim = {}
    for claim in (2, 3, 4):
        own = table[(table["endpoint"] == claims.ENDPOINTS[claim]) & (table["method"] == "contrastive")]
        needed = own[own["reference"].isin(["pca_cp", "deranged"])]
        by_claim[claim] = max(
            p if effect > 0 else 1 for p, effect in zip(needed["p_value"], needed["effect"], strict=True)
        )
    expected = claims.holm(np.array(list(by_claim.values())))
    np.testing.assert_allclose(ruled.loc[[2, 3, 4], "p_adjusted"], expected)
    assert by_claim[3] > 0.1 and ruled.loc[3, "verdict"] == "explained without TX"
    assert ruled.loc[3, "reference"] == "pca_cp" and ruled.loc[4, "verdict"] == "supported"
    first = ruled.loc[1]
    assert (first["method"], first["reference"], first["endpoint"]) == ("contrastive", "", "tx_strong_tasks")
    assert (first["verdict"], first["reason"], first["n_units"]) == ("not testable", "two tasks only", 0)
    assert first["would_change"] == "a screen that has what is lacking here" and np.isnan(first["p_adjusted"])
    assert first["role"] == "" and (table["claim"] == 1).sum() == 1


def test_options_choose_methods_references_limits_and_levels(endpoints):
    def ruled(**options):
        table = claims.weigh_claims("made", endpoints, **options)
        return table, table[table["verdict"] != ""].set_index("claim")

    table, by_claim = ruled(primary="aaa")
    assert by_claim.loc[2, ["method", "verdict", "reference"]].tolist() == ["aaa", "explained without TX", "deranged"]
    assert table["method"].tolist().index("aaa") < table["method"].tolist().index("contrastive")
    table, by_claim = ruled(methods=["contrastive"])
    assert set(table["method"]) == {"contrastive"} and by_claim.loc[2, "verdict"] == "supported"
    table, by_claim = ruled(cp_only=("raw_cp", "stranger"))
    assert set(table["reference"]) == {"", "raw_cp", "stranger", "deranged"}
    assert by_claim.loc[2, "verdict"] == "explained without TX" and by_claim.loc[2, "reference"] == "stranger"
    _, by_claim = ruled(alpha=1e-6)
    assert by_claim.loc[2, "verdict"] == "inconclusive"
    _, by_claim = ruled(cp_only=["pca_cp"])
    assert by_claim["reason"].tolist()[1:] == ["raw_cp was not evaluated"] * 3
    table, by_claim = ruled(primary="absent")
    assert by_claim["reason"].tolist()[1:] == ["absent was not evaluated on true pairs"] * 3
    assert set(by_claim["method"]) == {"absent"} and len(table) > 20
    _, by_claim = ruled(cp_only=[])
    assert by_claim["reason"].tolist()[1:] == ["raw_cp was not evaluated"] * 3
    del endpoints[3].values["contrastive", "deranged"]
    _, by_claim = ruled()
    lacking = "contrastive has no deranged control, without which a gain cannot be put down to TX"
    assert by_claim.loc[3, ["verdict", "reason"]].tolist() == ["not testable", lacking]
    for claim in (3, 4):
        endpoints[claim] = claims.EndpointBootstrap(claims.ENDPOINTS[claim], {}, {}, 0)
    _, by_claim = ruled()
    assert by_claim["reason"].tolist()[2:] == ["nothing was measured", "no target family has 3 measured tasks"]


def test_the_smallest_gain_that_matters_is_the_endpoints_own(endpoints):
    flat = {key: 0.3 for key in ESTIMATES if key[0] != "stranger"}
    endpoints[2] = made_up("replicate_map", flat, spread=0.005)
    endpoints[4] = made_up("family_auc", flat, spread=0.005)

    def words(**limits):
        table = claims.weigh_claims("made", endpoints, smallest_effects=limits)
        return table[table["verdict"] != ""].set_index("claim")["verdict"].loc[[2, 4]].tolist()

    assert words() == ["not supported", "inconclusive"]  # 0.02 and 0.01
    assert words(family_auc=0.03) == ["not supported"] * 2
    assert words(replicate_map=0.001) == ["inconclusive"] * 2


def test_single_families_are_shown_beside_raw_cp_the_best_method_and_the_control(endpoints):
    table = claims.weigh_claims("made", endpoints)
    families = table[table["endpoint"].str.startswith("family_auc:")]
    assert families["claim"].eq(4).all() and families["verdict"].eq("").all()
    assert families["endpoint"].drop_duplicates().tolist() == [
        f"family_auc:{name}" for name in ("small", "large", "other")
    ]
    for endpoint, part in families.groupby("endpoint"):
        pairs = list(zip(part["method"], part["reference"], part["role"], strict=True))
        expected = [("raw_cp", "CP-only"), ("pca_cp", "best CP-only"), ("deranged", "deranged control")]
        assert pairs == [(method, *one) for method in ("aaa", "contrastive") for one in expected]
        why = {"small": "fewer than 3 tasks: shown, not tested", "other": "no known family: shown, not tested"}
        reason = why.get(endpoint.removeprefix("family_auc:"), "")
        assert part["reason"].eq(reason).all()
        assert part["p_value"].isna().all() == part["p_adjusted"].isna().all() == bool(reason)
        assert set(part["n_units"]) == {endpoints[4].families[endpoint.removeprefix("family_auc:")].n_units}
    # Adjusted over families, within a method and reference: with one that is tested nothing changes.
    tested = families[families["p_value"].notna()]
    np.testing.assert_allclose(tested["p_adjusted"], tested["p_value"])
    endpoints[4].families["second"] = made_up("family_auc:second", dict.fromkeys(ESTIMATES, 0.4), n_units=9, seed=6)
    families = claims.weigh_claims("made", endpoints).query("endpoint.str.startswith('family_auc:')")
    own = families.query("method == 'contrastive' and reference == 'raw_cp' and p_value == p_value")
    np.testing.assert_allclose(own["p_adjusted"], metrics.benjamini_hochberg(own["p_value"].to_numpy()))
    assert (own["p_adjusted"] > own["p_value"]).any()


def test_sentences_give_the_tables_own_numbers(endpoints):
    table = claims.weigh_claims("made", endpoints)
    said = claims.sentences(pd.concat([table, table.assign(screen="twice", effect=0.0)]))
    assert len(said) == 8
    assert said[0] == (
        "Claim 1 (where TX excels and CP does not, the learned embedding predicts bioactivity better than CP):"
        " not testable on made: two tasks only."
    )
    rows = table[(table["claim"] == 2) & (table["method"] == "contrastive")].set_index("reference")

    def gap(reference):
        row = rows.loc[reference]
        return f"{row['effect']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"

    assert said[1] == (
        "Claim 2 (learned embeddings cluster CP replicates better): supported on made (better than the best CP-only"
        " method and than its own deranged control). contrastive reaches 0.500 mAP:"
        f" {gap('raw_cp')} to raw CP; {gap('pca_cp')} to pca_cp, the best method without TX;"
        f" {gap('deranged')} to its own deranged control; p = {rows['p_adjusted'].iloc[0]:.2g} after Holm."
    )
    assert " 0.500 ROC-AUC: " in said[3] and "+0.000 [" in said[5] and "on twice" in said[5]
    best_is_raw = claims.weigh_claims("made", endpoints, cp_only=["raw_cp"])
    assert "the best method without TX" not in claims.sentences(best_is_raw)[1]


def test_what_the_luck_of_a_pairing_adds_counts_against_the_own_control_alone():
    one = made_up("moa_map", ESTIMATES)
    one.pairing["contrastive"] = np.concatenate([[0.0], np.full(300, 0.5)])
    values = one.values
    assert one.key("contrastive") == ("contrastive", "true_pairs") and one.key("raw_cp") == ("raw_cp", "")
    assert one.key("nobody") is None
    plain = values["contrastive", "true_pairs"] - values["raw_cp", ""]
    np.testing.assert_array_equal(one.difference("contrastive", ("raw_cp", "")), plain)
    own = values["contrastive", "true_pairs"] - values["contrastive", "deranged"]
    np.testing.assert_allclose(
        one.difference("contrastive", ("contrastive", "deranged")), own + one.pairing["contrastive"]
    )
    others = values["aaa", "true_pairs"] - values["contrastive", "deranged"]
    np.testing.assert_array_equal(one.difference("aaa", ("contrastive", "deranged")), others)
    lone = values["aaa", "true_pairs"] - values["aaa", "deranged"]
    np.testing.assert_array_equal(one.difference("aaa", ("aaa", "deranged")), lone)  # no luck known


# --------------------------------------------------------------------------------------------------
# Endpoints, worked out by writing every compound out as often as it was drawn


def compound_rows(seed=0, n=24):
    """Two repeats of three folds: two single models, one on three draws; several treatments of some compounds."""
    rng = np.random.default_rng(seed)
    rows = []
    for repeat in range(2):
        fold_of = rng.permutation(n) % 3
        for method, control, draws in (("raw_cp", "", 1), ("m", "true_pairs", 1), ("m", "deranged", 3)):
            for draw in range(draws):
                for i in range(n):
                    for _ in range(1 + (i % 4 == 0)):
                        rows.append((repeat, fold_of[i], draw, method, control, f"c{i}", rng.normal()))
    return pd.DataFrame(rows, columns="repeat fold seed method control compound value".split())


def test_compound_endpoints_equal_compounds_written_out():
    table = compound_rows()
    rng = np.random.default_rng(1)
    sample = claims.resample_compounds(table["compound"].unique(), n_bootstrap=4, rng=rng)
    got = claims.bootstrap_compound_endpoint(table, "value", sample, rng)
    assert got.endpoint == "value" and got.n_units == 24 and list(got.pairing) == ["m"]
    assert list(got.values) == [("m", "deranged"), ("m", "true_pairs"), ("raw_cp", "")]
    for b in range(5):
        times = dict(zip(sample.compounds, sample.weights[b].astype(int), strict=True))
        written_out = table.loc[table.index.repeat(table["compound"].map(times))]
        means = written_out.groupby(["method", "control", "seed"])["value"].mean()
        assert got.values["raw_cp", ""][b] == pytest.approx(means["raw_cp", "", 0])
        assert got.values["m", "true_pairs"][b] == pytest.approx(means["m", "true_pairs", 0])
    assert got.values["m", "deranged"][0] == pytest.approx(means_of_draws(table))
    named = claims.bootstrap_compound_endpoint(table, "value", sample, rng, endpoint="moa_map")
    assert named.endpoint == "moa_map"
    # The order of rows means nothing, nor does a row that holds no value.
    shuffled = pd.concat([table.sample(frac=1, random_state=0), table.head(3).assign(value=np.nan, compound="x")])
    again = claims.bootstrap_compound_endpoint(shuffled, "value", sample, np.random.default_rng(1))
    for key in got.values:
        assert again.values[key][0] == pytest.approx(got.values[key][0])


def means_of_draws(table):
    return table[(table["method"] == "m") & (table["control"] == "deranged")].groupby("seed")["value"].mean().mean()


def test_a_compound_that_a_model_of_a_fold_lacks_is_left_out_of_that_fold_for_all():
    table = compound_rows()
    lacking = (table["compound"] == "c5") & (table["repeat"] == 0) & (table["method"] == "raw_cp")
    once = (table["compound"] == "c4") & (table["repeat"] == 1) & (table["control"] == "true_pairs")
    reduced = table[~lacking].drop(index=table.index[once][0])  # one of two treatments
    rng = np.random.default_rng(1)
    sample = claims.resample_compounds(table["compound"].unique(), n_bootstrap=2, rng=rng)
    got = claims.bootstrap_compound_endpoint(reduced, "value", sample, rng)
    left_out = ((table["compound"] == "c5") & (table["repeat"] == 0)) | (
        (table["compound"] == "c4") & (table["repeat"] == 1)
    )
    means = table[~left_out].groupby(["method", "control", "seed"])["value"].mean()
    assert got.values["raw_cp", ""][0] == pytest.approx(means["raw_cp", "", 0])
    assert got.values["m", "true_pairs"][0] == pytest.approx(means["m", "true_pairs", 0])
    assert got.values["m", "deranged"][0] == pytest.approx(means["m", "deranged"].mean())
    assert got.n_units == 24  # both are there in the other repeat
    gone = table[~((table["compound"] == "c5") & (table["method"] == "raw_cp"))]
    assert claims.bootstrap_compound_endpoint(gone, "value", sample, rng).n_units == 23
    bare = table.drop(columns=["repeat", "fold", "seed"]).drop_duplicates(["method", "control", "compound"])
    assert claims.bootstrap_compound_endpoint(bare, "value", sample, rng).values["raw_cp", ""][0] == pytest.approx(
        bare.loc[bare["method"] == "raw_cp", "value"].mean()
    )
    for empty, name in ((table.iloc[:0], "moa_map"), (table.assign(value=np.nan), "")):
        nothing = claims.bootstrap_compound_endpoint(empty, "value", sample, rng, endpoint=name)
        assert nothing == claims.EndpointBootstrap(name or "value", {}, {}, 0)
    apart = table[(table["method"] == "m") ^ (table["compound"].str.len() == 2)]
    assert claims.bootstrap_compound_endpoint(apart, "value", sample, rng).values == {}  # none has all models


def test_areas_of_resamples_do_not_depend_on_blocks_and_need_both_classes():
    rng = np.random.default_rng(4)
    labels = np.array([1.0, 1.0, 0.0, 0.0, 0.0, np.nan])
    scores = np.array([[3.0, 1.0], [2.0, 1.0], [2.0, 1.0], [1.0, 0.0], [4.0, 1.0], [9.0, 9.0]])
    weights = np.vstack([np.ones(6), rng.multinomial(6, np.full(6, 1 / 6), size=12)])
    whole = claims.weighted_auc(labels, scores, weights)
    np.testing.assert_allclose(whole[0], [(2 + 1.5) / 6, (2 + 2) / 6])
    for block in (1, 5, 13):
        np.testing.assert_allclose(claims.weighted_auc(labels, scores, weights, block=block), whole)
    # The smaller class is the outer one; which it is must not matter.
    np.testing.assert_allclose(claims.weighted_auc(1 - labels, -scores, weights), whole)
    for one_class in ([1.0] * 6, [0.0] * 6, [np.nan] * 6):
        undefined = claims.weighted_auc(np.array(one_class), scores, weights)
        assert undefined.shape == (13, 2) and np.isnan(undefined).all()


def written_out_auc(predictions, times, keep=None):
    """Mean over folds of each task's ROC-AUC, of compounds written out as often as drawn."""
    one = predictions if keep is None else predictions[predictions["compound"].isin(keep)]
    one = one.loc[one.index.repeat(one["compound"].map(times))]
    aucs = {}
    for task, rows in one.groupby("task"):
        both = [f for _, f in rows.groupby("fold") if f["label"].nunique() == 2]
        aucs[task] = np.mean([roc_auc_score(f["label"], f["score"]) for f in both]) if both else np.nan
    return pd.Series(aucs)


def test_tx_strong_tasks_equal_compounds_written_out():
    tables = simulated_tables(7, draws=1, n_tasks=6)
    dense = dense_predictions(tables["predictions"])
    rng = np.random.default_rng(0)
    sample = claims.resample_compounds(dense.compounds, n_bootstrap=2, rng=rng)
    choice = claims.TaskChoice(n_halvings=2, seed=4, tx_min=0.6, margin=0.02)
    got = claims.bootstrap_tx_strong_auc(tables["predictions"], sample, rng, choice=choice, resample_tasks=False)
    method = dense.columns["method"].to_numpy()
    predictions = tables["predictions"]
    raw = predictions[predictions["method"] == "raw_cp"]
    chosen_ever = set()
    for b in range(3):
        times = dict(zip(sample.compounds, sample.weights[b].astype(int), strict=True))
        measured = []
        for seed in (4, 5):
            first = halves(dense.compounds, seed)
            for half in (first, ~first):
                auc = dense.auc(half)
                cp, tx = auc[:, method == "raw_cp"][:, 0], auc[:, method == "tx"][:, 0]
                chosen = dense.tasks[(tx >= 0.6) & (tx - cp >= 0.02)]
                chosen_ever |= set(chosen)
                measured.append(written_out_auc(raw, times, set(dense.compounds[~half])).reindex(chosen))
        assert got.values["raw_cp", ""][b] == pytest.approx(np.nanmean(np.concatenate(measured)), abs=1e-12)
    assert got.endpoint == "tx_strong_tasks" and got.n_units == len(chosen_ever) >= 3 and got.not_testable == ""
    resampled = claims.bootstrap_tx_strong_auc(dense, sample, np.random.default_rng(1), choice=choice)
    assert resampled.values["raw_cp", ""][0] == pytest.approx(got.values["raw_cp", ""][0])
    assert (resampled.values["raw_cp", ""][1:] != got.values["raw_cp", ""][1:]).all()


def test_too_few_strong_tasks_or_no_oracle_are_said():
    tables = simulated_tables(7, draws=1, n_tasks=6)
    dense = dense_predictions(tables["predictions"])
    rng = np.random.default_rng(0)
    sample = claims.resample_compounds(dense.compounds, n_bootstrap=2, rng=rng)
    got = claims.bootstrap_tx_strong_auc(dense, sample, rng, choice=claims.TaskChoice(tx_min=0.999, margin=0.25))
    assert got == claims.EndpointBootstrap(
        "tx_strong_tasks", {}, {}, 0, not_testable="0 tasks are TX-strong and CP-weak (TX at least 0.999 and 0.25 above"
        " CP); at least 3 are needed",
    )  # fmt: skip
    every = claims.TaskChoice(tx_min=0.0, margin=-1.0)
    assert claims.bootstrap_tx_strong_auc(dense, sample, rng, choice=every).n_units == 6
    for min_tasks, testable in ((6, True), (7, False)):
        choice = claims.TaskChoice(tx_min=0.0, margin=-1.0, min_tasks=min_tasks)
        one = claims.bootstrap_tx_strong_auc(dense, sample, rng, choice=choice)
        assert bool(one.values) == testable == (one.not_testable == "") and one.n_units == 6
    without = tables["predictions"].query("method not in ('tx', 'raw_cp')")
    got = claims.bootstrap_tx_strong_auc(without, sample, rng)
    reason = "no predictions of raw_cp and tx, by which TX-strong, CP-weak tasks are chosen"
    assert got == claims.EndpointBootstrap("tx_strong_tasks", {}, {}, 0, not_testable=reason)


def test_families_of_enough_known_tasks_make_the_mean():
    tables = simulated_tables(8, draws=1, n_tasks=8)
    tasks = pd.DataFrame({"task": [f"t{i}" for i in range(9)],
                          "family": ["a", "a", "a", "b", "b", "other", None, "c", "unused"]})  # fmt: skip
    predictions = tables["predictions"]
    dense = dense_predictions(predictions)
    sample = claims.resample_compounds(dense.compounds, n_bootstrap=3, rng=np.random.default_rng(2))

    def family_auc(**options):
        given = options.pop("predictions", dense)
        return claims.bootstrap_family_auc(given, tasks, sample, np.random.default_rng(3), **options)

    got = family_auc(resample_tasks=False)
    assert {name: one.n_units for name, one in got.families.items()} == {"a": 3, "b": 2, "c": 1, "other": 2}
    assert [one.endpoint for one in got.families.values()] == [f"family_auc:{name}" for name in "a b c other".split()]
    assert got.n_units == 1 and got.endpoint == "family_auc"
    raw = predictions[predictions["method"] == "raw_cp"]
    for b in range(4):
        times = dict(zip(sample.compounds, sample.weights[b].astype(int), strict=True))
        auc = written_out_auc(raw, times)
        assert got.values["raw_cp", ""][b] == pytest.approx(auc[["t0", "t1", "t2"]].mean(), abs=1e-12)
        assert got.families["b"].values["raw_cp", ""][b] == pytest.approx(auc[["t3", "t4"]].mean(), abs=1e-12)
    two = family_auc(min_tasks=1, unknown="a", resample_tasks=False)
    assert two.n_units == 3  # b, c, and other, which is a family like any when another name stands for unknown
    assert two.values["raw_cp", ""][0] == pytest.approx(
        np.mean([two.families[name].values["raw_cp", ""][0] for name in ("b", "c", "other")])
    )
    assert {name: one.n_units for name, one in two.families.items()} == {"a": 4, "b": 2, "c": 1, "other": 1}
    np.testing.assert_array_equal(
        family_auc(predictions=predictions).values["raw_cp", ""], family_auc().values["raw_cp", ""]
    )
    resampled = family_auc().families
    assert (resampled["a"].values["raw_cp", ""][1:] != got.families["a"].values["raw_cp", ""][1:]).any()
    np.testing.assert_array_equal(resampled["c"].values["raw_cp", ""], got.families["c"].values["raw_cp", ""])
    assert family_auc(min_tasks=4).values == {} and family_auc(min_tasks=4).n_units == 0
    # A task of one class only isn't measured and doesn't count.
    spoilt = predictions.assign(label=predictions["label"].where(predictions["task"] != "t0", 1.0))
    assert family_auc(predictions=spoilt).families["a"].n_units == 2
    all_spoilt = predictions.assign(label=predictions["label"].where(predictions["task"] != "t7", 1.0))
    assert "c" not in family_auc(predictions=all_spoilt).families


def test_task_weights_count_every_task_once_and_draw_as_many():
    rng = np.random.default_rng(0)
    weights = claims._task_weights(5, 400, rng, True)
    assert weights.shape == (400, 5) and (weights[0] == 1).all() and (weights.sum(1) == 5).all()
    assert weights[1:].std() > 0.5
    np.testing.assert_allclose(weights[1:].mean(0), 1, atol=0.2)
    assert (claims._task_weights(5, 4, rng, False) == 1).all() and (claims._task_weights(1, 4, rng, True) == 1).all()
    assert claims._task_weights(2, 400, rng, True).max() == 2
    auc = np.array([[[0.5, np.nan], [0.7, 0.9]]])
    total, count = claims._weighted_task_sum(auc, np.array([[2.0, 3.0]]))
    np.testing.assert_allclose(total, [[3.1, 2.7]])
    np.testing.assert_allclose(count, [[5.0, 3.0]])


def test_endpoints_share_one_resample_and_what_is_lacking_is_said():
    tables = simulated_tables(9, draws=3, n_tasks=6)
    same = tables["moa_per_compound"]
    copied = same.rename(columns={"average_precision": "replicate_map"})
    endpoints = claims.bootstrap_endpoints(
        replicate_per_treatment=copied, moa_per_compound=same, n_bootstrap=30, seed=5
    )
    np.testing.assert_array_equal(endpoints[2].values["raw_cp", ""], endpoints[3].values["raw_cp", ""])
    assert len(endpoints[2].values["raw_cp", ""]) == 31
    assert (endpoints[2].endpoint, endpoints[3].endpoint) == ("replicate_map", "moa_map")
    draws = [endpoints[claim].values["contrastive", "deranged"] for claim in (2, 3)]
    assert draws[0][0] == draws[1][0] and (draws[0][1:] != draws[1][1:]).any()  # draws of their own
    assert [endpoints[claim].not_testable for claim in (1, 4)] == [
        "no bioactivity task was predicted on this screen"] * 2  # fmt: skip
    assert [endpoints[claim].endpoint for claim in (1, 4)] == ["tx_strong_tasks", "family_auc"]
    nothing = claims.bootstrap_endpoints(predictions=tables["predictions"], n_bootstrap=2, not_testable={1: "secret"})
    assert {claim: one.not_testable for claim, one in nothing.items()} == {
        1: "secret",
        2: "no replicates were measured on this screen",
        3: "no mechanism of action is shared by test compounds of this screen",
        4: "the tasks of this screen have no target families",
    }
    default, first = (claims.bootstrap_endpoints(moa_per_compound=same, **given)[3] for given in ({}, {"seed": 0}))
    np.testing.assert_array_equal(default.values["raw_cp", ""], first.values["raw_cp", ""])
    assert len(default.values["raw_cp", ""]) == 2001
    other = claims.bootstrap_endpoints(moa_per_compound=same, n_bootstrap=30, seed=6)[3]
    assert (other.values["raw_cp", ""][1:] != endpoints[3].values["raw_cp", ""][1:]).any()
    grouped = claims.bootstrap_endpoints(
        moa_per_compound=same, n_bootstrap=30, groups=dict.fromkeys(same["compound"], "one")
    )[3]
    np.testing.assert_allclose(grouped.values["raw_cp", ""], grouped.values["raw_cp", ""][0])


def test_endpoints_can_be_of_some_methods_and_draws():
    tables = simulated_tables(9, draws=3, n_tasks=9)
    chosen = ["raw_cp", "contrastive", "tx"]
    endpoints = claims.bootstrap_endpoints(**tables, methods=chosen, max_draws=1, n_bootstrap=5, resample_tasks=False)
    assert {key[0] for key in endpoints[3].values} == {"raw_cp", "contrastive"}
    assert {key[0] for key in endpoints[4].values} == set(chosen)
    predictions = tables["predictions"]
    one = predictions[(predictions["control"] == "deranged") & (predictions["seed"] == 0)]
    times = dict.fromkeys(one["compound"], 1)
    expected = written_out_auc(one, times).groupby(tables["tasks"].set_index("task")["family"]).mean()
    shown = {name: family.values["contrastive", "deranged"][0] for name, family in endpoints[4].families.items()}
    assert shown == pytest.approx(expected.to_dict())
    naive = tables["moa_per_compound"].query("control == 'deranged'")["average_precision"].mean()
    assert endpoints[3].values["contrastive", "deranged"][0] == pytest.approx(naive)  # all draws in claims 2 and 3
    none = claims.bootstrap_endpoints(moa_per_compound=tables["moa_per_compound"], methods=["x"], n_bootstrap=2)
    assert none[3].not_testable == "no mechanism of action is shared by test compounds of this screen"
    mixed = pd.concat([tables["moa_per_compound"], tables["moa_per_compound"].assign(split="moa")])
    with pytest.raises(ValueError, match=r"^weigh one split at a time, not random, moa$"):
        claims.bootstrap_endpoints(moa_per_compound=mixed)


# --------------------------------------------------------------------------------------------------
# Intervals for figures, each against a bootstrap of the same seed made by hand


def test_paired_differences_leave_out_what_one_method_lacks():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 12))
    a[3], b[7] = np.nan, np.nan
    units = np.array([f"u{i // 2}" for i in range(12)])
    got = claims.paired_bootstrap(list(a), list(b), units=list(units), n_bootstrap=50, seed=9)
    known = ~np.isnan(a - b)
    assert got.effect == pytest.approx(np.mean((a - b)[known]))
    names = list(dict.fromkeys(units[known]))
    sample = claims.resample_compounds(
        [f"{i:09d}" for i in range(6)], n_bootstrap=50, rng=np.random.default_rng(9)
    ).weights
    times = sample[:, [names.index(unit) for unit in units[known]]].astype(float)
    expected = claims.summarise_bootstrap(times @ (a - b)[known] / times.sum(1))
    assert got == claims.Comparison(*(pytest.approx(value) for value in vars(expected).values()))
    assert claims.paired_bootstrap(a, b, n_bootstrap=50).ci_low != got.ci_low
    by_default = claims.paired_bootstrap(a, b)
    assert by_default == claims.paired_bootstrap(a, b, n_bootstrap=2000, seed=0)
    nothing = claims.paired_bootstrap([np.nan, 1.0], [1.0, np.nan])
    assert np.isnan(list(vars(nothing).values())).all()


def by_hand(table, value, n_bootstrap, seed):
    rng = np.random.default_rng(seed)
    sample = claims.resample_compounds(table["compound"].unique(), n_bootstrap=n_bootstrap, rng=rng)
    return claims.bootstrap_compound_endpoint(table, value, sample, rng)


def interval(distribution):
    summary = claims.summarise_bootstrap(distribution)
    return [summary.effect, summary.ci_low, summary.ci_high]


def test_interval_table_has_a_row_for_each_method_control_and_further_key():
    table = compound_rows()
    parts = {("a", 1): table, ("b", 2): table.assign(value=table["value"] + 1)}
    both = pd.concat([part.assign(kind=kind, number=number) for (kind, number), part in parts.items()])
    renamed = both.rename(columns={"compound": "gene"})
    keys = ["number", "method", "kind", "control"]
    got = claims.interval_table(renamed, "value", unit="gene", by=keys, n_bootstrap=40, seed=3)
    assert list(got.columns) == [*keys, "mean", "ci_low", "ci_high", "n_units"] and got.index.tolist() == list(range(6))
    assert got["n_units"].eq(24).all()
    indexed = got.set_index(["kind", "number", "method", "control"])[["mean", "ci_low", "ci_high"]]
    for further, part in parts.items():
        for key, distribution in by_hand(part, "value", 40, 3).values.items():
            assert indexed.loc[(*further, *key)].tolist() == interval(distribution)
    plain = claims.interval_table(table, "value")
    one = by_hand(table, "value", 2000, 0)
    assert plain[["mean", "ci_low", "ci_high"]].to_numpy().tolist() == [interval(d) for d in one.values.values()]
    assert list(zip(plain["method"], plain["control"], strict=True)) == list(one.values)
    empty = claims.interval_table(pd.DataFrame(), "value", by=["method", "split"])
    assert list(empty.columns) == ["method", "split", "mean", "ci_low", "ci_high", "n_units"] and not len(empty)


def test_parts_of_a_gain_need_a_control_and_raw_cp():
    table = compound_rows()
    lone = table[table["method"] == "raw_cp"].assign(method="lone", control="true_pairs")
    got = claims.gain_parts([("none", table.iloc[:0], "value"), ("one", pd.concat([table, lone]), "value")])
    assert list(got.columns) == ["endpoint", "method", "part", "effect", "ci_low", "ci_high"]
    assert got[["endpoint", "method", "part"]].to_numpy().tolist() == [
        ["one", "m", "without TX"], ["one", "m", "from TX"]]  # fmt: skip
    one = by_hand(pd.concat([table, lone]), "value", 2000, 0)
    without = interval(one.values["m", "deranged"] - one.values["raw_cp", ""])
    added = interval(one.difference("m", ("m", "deranged")))
    assert got[["effect", "ci_low", "ci_high"]].to_numpy().tolist() == [without, added]
    other = claims.gain_parts([("one", table, "value")], n_bootstrap=30, seed=2)
    one = by_hand(table, "value", 30, 2)
    assert other.loc[1, ["effect", "ci_low", "ci_high"]].tolist() == interval(one.difference("m", ("m", "deranged")))
    assert len(claims.gain_parts([("one", table[table["method"] == "m"], "value")])) == 0
    assert len(claims.gain_parts([("one", table[table["control"] != "deranged"], "value")])) == 0


def test_contrasts_of_retrieval_are_intervals_of_paired_differences():
    table = retrieval_table(0.2, n_compounds=30)
    plain = table[(table["method"] == "ridge_tx") & (table["control"] == "true_pairs")].assign(method="plain")
    got = claims.retrieval_contrasts(pd.concat([table, plain]), n_bootstrap=40, seed=3)
    assert list(got.columns) == "method measure against value effect ci_low ci_high n_units".split()
    scores = pd.concat([table, plain]).assign(
        near=lambda one: (one["rank"] <= 3).astype(float), share=lambda one: one["rank"] / 39
    )
    expected = []
    for measure, column in (("nearest tenth", "near"), ("mean rank", "share")):
        one = by_hand(scores, column, 40, 3)
        for method in ("plain", "rcca", "ridge_tx"):
            own = one.values[method, "true_pairs"][0]
            if method != "plain":  # it has no control
                gap = interval(one.difference(method, (method, "deranged")))
                expected.append([method, measure, "own deranged pairs", own, *gap, 30])
            if method != "ridge_tx":
                gap = interval(one.difference(method, ("ridge_tx", "true_pairs")))
                expected.append([method, measure, "ridge_tx", own, *gap, 30])
    assert got.to_numpy().tolist() == expected
    against = claims.retrieval_contrasts(table, reference="rcca", n_bootstrap=40)["against"]
    assert set(against) == {"own deranged pairs", "rcca"}
    default = claims.retrieval_contrasts(table)
    pd.testing.assert_frame_equal(default, claims.retrieval_contrasts(table, n_bootstrap=2000, seed=0))


def test_gains_of_families_are_intervals_over_the_reference():
    tables = simulated_tables(8, draws=2, n_tasks=9)
    predictions, tasks = tables["predictions"], tables["tasks"]
    tasks.loc[0, "family"] = "other"
    groups = {f"c{i}": f"g{i // 2}" for i in range(90)}
    got = claims.family_gains(predictions, tasks, reference="sphered_cp", groups=groups, n_bootstrap=30, seed=4)
    unknown = claims.family_gains(predictions, tasks.assign(family="other"), n_bootstrap=5)
    assert unknown["n_tasks"].eq(9).all() and not unknown["tested"].any()
    columns = ["family", "n_tasks", "method", "control", "effect", "ci_low", "ci_high", "tested"]
    assert list(got.columns) == columns
    rng = np.random.default_rng(4)
    sample = claims.resample_compounds(predictions["compound"].unique(), n_bootstrap=30, rng=rng, groups=groups)
    families = claims.bootstrap_family_auc(predictions, tasks, sample, rng).families
    expected = []
    for family, one in families.items():
        for key, values in one.values.items():
            if key[0] != "sphered_cp":
                gap = interval(values - one.values["sphered_cp", ""])
                expected.append([family, one.n_units, *key, *gap, family in ("f1", "f2")])
    assert got.to_numpy().tolist() == expected
    assert set(got["family"]) == {"f0", "f1", "f2", "other"} and not got.loc[got["n_tasks"] < 3, "tested"].any()
    assert list(claims.family_gains(predictions.iloc[:0], tasks).columns) == columns
    default = claims.family_gains(predictions, tasks)
    assert set(default["method"]) == {*CP_METHODS, "contrastive", "tx"} - {"raw_cp"}
    pd.testing.assert_frame_equal(default, claims.family_gains(predictions, tasks, n_bootstrap=2000, seed=0))


def test_intervals_of_endpoints_and_of_their_families_stand_in_one_table(endpoints):
    got = claims.endpoint_intervals(endpoints)
    columns = ["claim", "endpoint", "method", "control", "value", "ci_low", "ci_high", "n_units"]
    assert list(got.columns) == columns and got.index.tolist() == list(range(6 * len(ESTIMATES)))
    expected = []
    for claim in (2, 3, 4):
        for one in (endpoints[claim], *endpoints[claim].families.values()):
            for key, values in one.values.items():
                expected.append([claim, one.endpoint, *key, *interval(values), one.n_units])
    assert got.to_numpy().tolist() == expected
    nothing = claims.endpoint_intervals({1: endpoints[1]})
    assert list(nothing.columns) == columns and not len(nothing)
