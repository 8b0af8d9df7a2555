"""The verdict machine: rules, multiplicity, bootstrap, how often it errs where TX adds nothing, and intervals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cpx_utils import claims, metrics
from cpx_utils.bioactivity import dense_predictions
from cpx_utils.profiles import COMPOUND, VERDICTS

UP = claims.Comparison(0.05, 0.03, 0.07, 0.028, 0.001)  # clearly better
FLAT = claims.Comparison(0.001, -0.004, 0.006, 0.007, 0.7)  # clearly not better by 0.02
WIDE = claims.Comparison(0.02, -0.04, 0.08, 0.084, 0.5)  # anything goes
DOWN = claims.Comparison(-0.05, -0.07, -0.03, 0.028, 0.001)  # clearly worse
TOUCHING = claims.Comparison(0.02, 0.0, 0.04, 0.028, 0.01)
UNKNOWN = claims.Comparison(np.nan, np.nan, np.nan, np.nan, np.nan)
WON, LOST = {"deranged": UP, "random_codes": UP}, {"deranged": FLAT, "random_codes": UP}


@pytest.mark.parametrize(
    ("raw", "controls", "reference", "p_adjusted", "expected"),
    [
        (UP, WON, UP, 0.049, ("holds", "shown", "supported")),
        (UP, WON, UP, 0.05, ("holds", "shown", "TX helps, lead over CP-only open")),  # not after Holm
        (UP, WON, WIDE, 0.5, ("holds", "shown", "TX helps, lead over CP-only open")),
        (UP, WON, UNKNOWN, 0.01, ("holds", "shown", "TX helps, lead over CP-only open")),
        (UP, WON, FLAT, 0.7, ("holds", "shown", "TX helps, a CP-only method does as well")),
        (UP, WON, DOWN, 1.0, ("holds", "shown", "TX helps, a CP-only method does as well")),
        (UP, LOST, UP, 0.7, ("holds", "excluded", "holds, TX not needed")),
        (UP, WON | {"deranged_in_plate": DOWN}, UP, 0.01, ("holds", "excluded", "holds, TX not needed")),
        (UP, WON | {"deranged_in_plate": TOUCHING}, UP, 0.01, ("holds", "open", "holds, attribution open")),
        (UP, {"deranged": UP, "random_codes": DOWN}, UP, 1.0, ("holds", "open", "holds, attribution open")),
        (UP, {"deranged": WIDE, "random_codes": UP}, UP, 0.5, ("holds", "open", "holds, attribution open")),
        (UP, {"deranged": UNKNOWN, "random_codes": UP}, UP, 1.0, ("holds", "open", "holds, attribution open")),
        (UP, {}, UP, 0.01, ("holds", "open", "holds, attribution open")),
        (TOUCHING, WON, UP, 0.01, ("open", "shown", "open")),  # an interval that reaches 0
        (UNKNOWN, WON, UP, 1.0, ("open", "shown", "open")),
        (FLAT, WON, UP, 0.7, ("does not hold", "shown", "does not hold")),
        (DOWN, LOST, DOWN, 1.0, ("does not hold", "excluded", "does not hold")),
    ],
)
def test_rules(raw, controls, reference, p_adjusted, expected):
    ruling = claims.rule(raw, controls, {"lda_identity": reference}, p_adjusted, smallest_effect=0.02)
    assert (ruling["comparison"], ruling["attribution"], ruling["verdict"]) == expected
    assert ruling["verdict"] in VERDICTS and f"over raw CP {raw.effect:+.3f}" in ruling["reason"]


def test_what_may_not_be_judged_is_open_whatever_the_intervals_say():
    ruling = claims.rule(UP, WON, {"lda_identity": UP}, 0.01, smallest_effect=0.02, unjudged="one derangement")
    assert (ruling["attribution"], ruling["verdict"]) == ("open", "holds, attribution open")
    assert ruling["reason"].endswith("; one derangement")
    assert claims.rule(UP, WON, {}, 0.01, smallest_effect=0.02)["verdict"] == "TX helps, lead over CP-only open"


comparisons = st.tuples(*[st.floats(-0.1, 0.1)] * 3, st.floats(0.0, 1.0)).map(
    lambda drawn: claims.Comparison(sorted(drawn[:3])[1], sorted(drawn[:3])[0], sorted(drawn[:3])[2], 0.02, drawn[3])
)


@given(raw=comparisons, deranged=comparisons, codes=comparisons, lda=comparisons, p=st.floats(0, 1))
def test_a_verdict_is_never_contradicted_by_its_own_numbers(raw, deranged, codes, lda, p):
    limit = 0.02
    controls = {"deranged": deranged, "random_codes": codes}
    verdict = claims.rule(raw, controls, {"lda_identity": lda}, p, smallest_effect=limit)["verdict"]
    holds = raw.ci_low > 0
    if verdict == "supported":
        assert holds and min(deranged.ci_low, codes.ci_low, lda.ci_low) > 0 and p < 0.05
    if verdict.startswith("TX helps"):
        assert holds and min(deranged.ci_low, codes.ci_low) > 0
        assert ("does as well" in verdict) == (lda.ci_high < limit)
    if "not needed" in verdict:
        assert holds and deranged.ci_high < limit
    if "attribution open" in verdict:
        assert holds and min(deranged.ci_low, codes.ci_low) <= 0 and deranged.ci_high >= limit
    if verdict == "does not hold":
        assert not holds and raw.ci_high < limit
    if verdict == "open":
        assert not holds and raw.ci_high >= limit


def test_at_least_k_of_several_gain():
    rng = np.random.default_rng(0)
    truth = [0.05, 0.04, 0.0, -0.03, 0.0]
    differences = [mean + np.concatenate([[0.0], 0.01 * rng.normal(size=4000)]) for mean in truth]
    found = [claims.at_least(differences, k) for k in (1, 2, 3)]
    assert [one.effect for one in found] == pytest.approx([0.05, 0.04, 0.0])
    assert found[1].ci_low > 0 and found[1].p_value < 0.01
    assert found[2].ci_low < 0 < found[2].ci_high < 0.04 and found[2].p_value == 1.0
    alone = claims.at_least(differences[1:2], 1)
    assert alone == claims.summarise_bootstrap(differences[1])
    # By Bonferroni over the families that may be the null ones: 5 - 2 + 1 times the second smallest p.
    each = sorted(claims.summarise_bootstrap(one).p_in_favour for one in differences)
    assert found[1].p_value == pytest.approx(4 * each[1])


def test_at_least_errs_rarely_where_fewer_gain():
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        estimates = np.array([0.2, 0.0, 0.0, 0.0]) + 0.02 * rng.normal(size=4)  # one family gains
        found = claims.at_least([one + np.append(0.0, 0.02 * rng.normal(size=400)) for one in estimates], 2)
        wrong += found.ci_low > 0
    assert wrong <= 12  # 2.5% expected; more than 6% would be seen once in a thousand


def test_effects_shrink_by_the_noise_in_them():
    spread, errors = pd.Series([0.1, 0.0, -0.1]), pd.Series([0.05] * 3)
    got = claims.shrink(spread, errors)
    between = 0.01 - 0.05**2  # variance of the effects minus that of their errors
    np.testing.assert_allclose(got, spread * between / 0.01)
    assert claims.shrink(spread, errors * 10).tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    np.testing.assert_allclose(claims.shrink(spread, errors * 1e-6), spread, atol=1e-6)


def test_a_bootstrap_is_summarised_by_its_percentiles():
    replicates = np.arange(-2.0, 18.0)  # 20 of them, one is 0
    one = claims.summarise_bootstrap(np.concatenate([[7.0], replicates, [np.nan]]))
    assert (one.ci_low, one.ci_high) == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])))
    assert one.effect == 7.0 and one.detectable == pytest.approx(2.8 * np.std(replicates, ddof=1))
    assert one.p_value == pytest.approx(2 * (1 + 3) / 21)  # -2, -1 and 0 lie on the far side
    other = claims.summarise_bootstrap(np.concatenate([[-7.0], -replicates]))
    assert other.p_value == one.p_value and other.ci_low == pytest.approx(-one.ci_high)
    assert claims.summarise_bootstrap(np.array([0.0, -1.0, 1.0])).p_value == 1.0
    for undefined in ([np.nan, 1.0, 2.0], [1.0, 2.0], [1.0, 2.0, np.nan]):
        got = claims.summarise_bootstrap(np.array(undefined))
        assert np.isnan([got.ci_low, got.ci_high, got.detectable, got.p_value]).all()
        assert got.effect == pytest.approx(undefined[0], nan_ok=True)


# ---------------------------------------------------------------------------------------------------- Resamples


def test_groups_are_drawn_as_often_as_any_other_and_come_and_go_together():
    def drawn(groups=None):
        rng = np.random.default_rng(3)
        return claims.resample_compounds(["b", "a", "b", 3], n_bootstrap=4000, rng=rng, groups=groups)

    sample = drawn()
    assert list(sample) == ["3", "a", "b"] and sample.shape == (4001, 3) and sample.iloc[0].eq(1).all()
    assert (sample.dtypes == np.float32).all() and sample.sum(axis=1).eq(3).all()
    np.testing.assert_allclose(sample[1:].mean(), 1.0, atol=0.05)
    grouped = drawn(pd.Series({"a": "g", "b": "g"}))  # 3 is none of them: a group of its own
    assert grouped["a"].equals(grouped["b"]) and grouped[["3", "a"]][1:].sum(axis=1).eq(2).all()
    assert grouped["a"][1:].max() == 2
    assert claims.resample_compounds([], n_bootstrap=2, rng=np.random.default_rng(0)).shape == (3, 0)


def test_mechanisms_are_drawn_as_a_whole():
    moa = [["a"], ["a", "b"], ["b", "c"], [], ["c"], ["a"]]
    compounds = pd.DataFrame({COMPOUND: [f"c{i}" for i in range(6)], "MoA": moa})
    groups = pd.Series(["g0", "g1", "g2", "g3", "g4", "g2"], index=compounds[COMPOUND])  # c5 is c2 by structure
    got = claims.mechanism_groups(compounds, groups)
    assert got.to_dict() == {"c0": "a", "c1": "a", "c2": "a", "c3": "g3", "c4": "c", "c5": "a"}


def test_draws_are_averaged_with_their_variance():
    fits = pd.DataFrame({"method": ["m"] * 4 + ["raw_cp"], "control": ["deranged"] * 3 + ["true_pairs", ""]})
    draws = np.array([1.0, 2.0, 6.0, 5.0, 4.0])
    values = np.repeat(draws[None], 20_001, axis=0)
    got = claims._average_draws(values, fits, np.random.default_rng(0))
    assert {key: one[0] for key, one in got.items()} == pytest.approx(
        {("m", "deranged"): 3, ("m", "pairing"): 0, ("m", "true_pairs"): 5, ("raw_cp", ""): 4}
    )
    assert (got["m", "true_pairs"] == 5).all() and (got["raw_cp", ""] == 4).all()
    # The mean of three draws, and one draw's deviation from it, both with unbiased variance.
    mean, luck = got["m", "deranged"][1:], got["m", "pairing"][1:]
    np.testing.assert_allclose([mean.mean(), mean.var()], [3, np.var(draws[:3], ddof=1) / 3], rtol=0.03)
    np.testing.assert_allclose(luck.var(), np.var(draws[:3], ddof=1), rtol=0.03)
    assert abs(np.corrcoef(mean, luck)[0, 1]) < 0.03  # drawn apart


def test_folds_that_disagree_widen_an_interval_and_equal_ones_leave_it():
    table = compound_rows()
    rng = np.random.default_rng(3)
    sample = claims.resample_compounds(table["compound"].unique(), n_bootstrap=400, rng=rng)

    def spread(shift):
        moved = table["value"] + shift * (table["fold"] == 0) * (table["method"] == "m")
        one = claims.bootstrap_compound_endpoint(table.assign(value=moved), "value", sample, np.random.default_rng(4))
        return one, one.difference(("m", "true_pairs"), ("raw_cp", ""))

    one, apart = spread(30.0)
    difference = one.by_fold["m", "true_pairs"] - one.by_fold["raw_cp", ""]
    assert difference.index.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.sqrt(difference.groupby(level=0).var().mean() / 3)
    assert apart[1:].std() == pytest.approx(expected) and expected > 3 * spread(0.0)[1][1:].std()
    assert apart[0] == one.values["m", "true_pairs"][0] - one.values["raw_cp", ""][0]
    fewer = table[(table["repeat"] == 0) | (table["fold"] == 1)]  # a repeat that measures a single fold tells nothing
    uneven = claims.bootstrap_compound_endpoint(fewer, "value", sample, np.random.default_rng(4))
    assert uneven.by_fold["m", "true_pairs"].index.tolist() == [0, 0, 0, 1]
    assert np.isfinite(uneven.difference(("m", "true_pairs"), ("raw_cp", ""))).all()
    one.by_fold = {key: 0 * folds for key, folds in one.by_fold.items()}
    plain = one.values["m", "true_pairs"] - one.values["raw_cp", ""]
    np.testing.assert_array_equal(one.difference(("m", "true_pairs"), ("raw_cp", "")), plain)


def test_weighted_auc_equals_repeating_compounds():
    rng = np.random.default_rng(0)
    for share in (0.2, 0.7):  # either class the larger one
        labels = (rng.random(40) < share).astype(float)
        labels[rng.random(40) < 0.2] = np.nan
        scores = rng.normal(size=(40, 3)).round(1)  # with ties
        weights = np.vstack([np.ones(40), rng.multinomial(40, np.full(40, 1 / 40), size=6)])
        got = claims.weighted_auc(labels, scores, weights)
        for b in range(7):
            rows = np.repeat(np.arange(40), weights[b].astype(int))
            rows = rows[~np.isnan(labels[rows])]
            expected = [roc_auc_score(labels[rows], scores[rows, m]) for m in range(3)]
            np.testing.assert_allclose(got[b], expected, atol=1e-12)
    none = claims.weighted_auc(np.array([1.0, 0.0]), np.zeros((2, 1)), np.array([[1, 0], [1, 1]]))
    assert np.isnan(none[0, 0]) and none[1, 0] == 0.5
    for one_class in (0.0, 1.0, np.nan):
        assert np.isnan(claims.weighted_auc(np.full(40, one_class), scores, weights)).all()


# ------------------------------------------------------------------------------------------------ A made-up study

CP_METHODS = ("raw_cp", "sphered_cp", "lda_identity")


def simulated_tables(seed, *, gain=0.0, identity=0.1, n=90, n_tasks=12, draws=3):
    """Tables of a small study. Whatever a fit learns by luck of its pairing moves all its compounds together.

    ``identity``: what replicate collapse brings to lda_identity, true and deranged pairs alike; ``gain``: what only
    true pairs bring.
    """
    rng = np.random.default_rng(seed)
    names = np.array([f"c{i}" for i in range(n)])
    fold = rng.permutation(n) % 3
    base = rng.normal(0.25, 0.12, size=n)
    labels = (rng.random((n, n_tasks)) < 0.4).astype(float)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    shared = rng.normal(size=labels.shape)
    row, task = np.nonzero(~np.isnan(labels))
    fits = [(m, "", 0, 0.0 if m != "lda_identity" else identity) for m in (*CP_METHODS, "tx")]
    fits += [("contrastive", "true_pairs", k, identity + gain) for k in range(3)]
    fits += [("contrastive", "deranged", k, identity) for k in range(draws)]
    fits += [("contrastive", "random_codes", 0, identity)]
    tables = {"replicate_map": [], "average_precision": [], "score": []}
    for method, control, draw, effect in fits:
        keys = {"split": "random", "repeat": 0, "fold": fold, "seed": draw, "method": method, "control": control}
        luck = rng.normal(0, 0.015, size=3)[fold] if method == "contrastive" else np.zeros(n)
        for endpoint in ("replicate_map", "average_precision"):
            values = base + effect + luck + rng.normal(0, 0.05, size=n)
            if method != "tx":
                tables[endpoint].append(pd.DataFrame(keys | {"compound": names, endpoint: values}))
        strength = 1.6 if method == "tx" else 0.4 + 4 * effect
        scores = np.nan_to_num(labels) * (strength + luck[:, None] * 4)
        scores = scores + 0.8 * shared + 0.6 * rng.normal(size=labels.shape)
        known = {"fold": fold[row], "compound": names[row], "task": [f"t{i}" for i in task]}
        known |= {"label": labels[row, task], "score": scores[row, task]}
        tables["score"].append(pd.DataFrame(keys | known))
    joined = [pd.concat(parts, ignore_index=True) for parts in tables.values()]
    tasks = pd.DataFrame({"task": [f"t{t}" for t in range(n_tasks)], "family": [f"f{t % 3}" for t in range(n_tasks)]})
    chosen = pd.concat([tasks.assign(repeat=0, fold=number, chosen=tasks.index % 2 == 0) for number in range(3)])
    named = dict(zip(("replicate_per_treatment", "moa_per_compound", "predictions"), joined, strict=True))
    return named | {"tasks": tasks, "chosen": chosen}


def weigh(tables, n_bootstrap=300, **changes):
    endpoints = claims.bootstrap_endpoints(**tables, n_bootstrap=n_bootstrap, **changes)
    return claims.weigh_claims("small", endpoints, methods=["contrastive"])


def verdicts(table):
    ruled = table[table["verdict"] != ""]
    assert ruled["claim"].tolist() == [1, 2, 3, 4]
    return ruled.set_index("claim")["verdict"]


def test_a_gain_without_tx_is_never_put_down_to_it():
    ruled = pd.concat([verdicts(weigh(simulated_tables(seed), n_bootstrap=200)) for seed in range(6)])
    helped = (ruled.isin(["supported"]) | ruled.str.startswith("TX helps")).groupby(level=0).sum()
    assert (helped <= 1).all(), helped
    assert ruled.loc[[2, 3]].str.startswith("holds, ").mean() > 0.8


def test_a_strong_gain_of_true_pairs_is_supported_and_none_is_not():
    ruled = pd.concat([verdicts(weigh(simulated_tables(seed, gain=0.12))) for seed in range(4)])
    assert (ruled.loc[[2, 3]] == "supported").mean() > 0.8
    assert ruled.str.startswith("does not").sum() == 0
    table = weigh(simulated_tables(0, identity=0.0, n=300, draws=12))
    assert set(verdicts(table).loc[[2, 3]]) == {"does not hold"}


def test_attribution_is_not_judged_by_a_single_derangement_or_fit():
    tables = simulated_tables(3, gain=0.12, draws=1)
    table = weigh(tables, 50)
    ruled = table[table["verdict"] != ""].set_index("claim")
    assert ruled["attribution"].eq("open").all() and ruled["comparison"].loc[[2, 3]].eq("holds").all()
    assert ruled["reason"].str.endswith("attribution isn't judged by 1 derangements a fold, 2 are needed").all()
    assert table.loc[table["reference"] == "deranged", ["ci_low", "p_value"]].isna().all(axis=None)
    gains = claims.intervals(tables["moa_per_compound"], "average_precision", versus="deranged", n_bootstrap=50)
    assert len(gains) == 1 and gains[["ci_low", "ci_high"]].isna().all(axis=None)
    tables = simulated_tables(3, gain=0.12)
    moa = tables["moa_per_compound"]
    within = moa[moa["control"] == "deranged"].assign(control="deranged_in_plate")
    within["average_precision"] += 0.5  # would exclude, were it not for the luck of a single draw
    for n_draws, attribution in ((1, "open"), (2, "excluded")):
        drawn = pd.concat([moa, within[within["seed"] < n_draws]])
        assert weigh({"moa_per_compound": drawn}, 50).set_index("claim").loc[3, "attribution"].iloc[0] == attribution
    single = tables | {"moa_per_compound": moa[(moa["control"] != "true_pairs") | (moa["seed"] == 0)]}
    ruled = weigh(single, 50).set_index("claim")
    reason = ruled.loc[3, "reason"].iloc[0]
    assert reason.endswith("attribution isn't judged by 1 fits of the true pairs a fold, 3 are needed")
    without = tables | {"moa_per_compound": moa[moa["control"] != "random_codes"]}
    assert "isn't judged without random codes" in weigh(without, 50).set_index("claim").loc[3, "reason"].iloc[0]


def written_out_auc(predictions, times, keep=None):
    """Mean over folds of each task's ROC-AUC, of compounds written out as often as drawn."""
    one = predictions if keep is None else predictions[predictions["compound"].isin(keep)]
    one = one.loc[one.index.repeat(one["compound"].map(times))]
    aucs = {}
    for task, rows in one.groupby("task"):
        both = [f for _, f in rows.groupby("fold") if f["label"].nunique() == 2]
        aucs[task] = np.mean([roc_auc_score(f["label"], f["score"]) for f in both]) if both else np.nan
    return pd.Series(aucs)


@pytest.fixture
def tasks_as_they_are(monkeypatch):
    """Compounds are resampled, tasks and draws aren't: what a test can write out."""
    sample = claims.resample_compounds
    monkeypatch.setattr(claims, "_drawn", lambda n, n_bootstrap, rng: np.ones((1 + n_bootstrap, n)))
    rng = np.random.default_rng(0)

    def resample(compounds, n_bootstrap):
        drawn = sample(compounds, n_bootstrap=n_bootstrap, rng=rng)
        drawn.iloc[1:] = rng.multinomial(drawn.shape[1], np.full(drawn.shape[1], 1 / drawn.shape[1]), n_bootstrap)
        return drawn

    return resample


def test_tx_strong_tasks_equal_compounds_written_out(tasks_as_they_are):
    tables = simulated_tables(7, draws=1, n_tasks=6)
    predictions, chosen = tables["predictions"], tables["chosen"]
    chosen = chosen[(chosen["fold"] != 1) | (chosen["task"] != "t0")]  # each fold measures what it chose itself
    dense = dense_predictions(predictions)
    sample = tasks_as_they_are(dense.compounds, 2)
    got = claims.bootstrap_tx_strong_auc(dense, chosen, sample, np.random.default_rng(0))
    raw = predictions[predictions["method"] == "raw_cp"]
    for b in range(3):
        measured = []
        for fold, part in chosen[chosen["chosen"]].groupby("fold"):
            auc = written_out_auc(raw[raw["fold"] == fold], sample.loc[b].astype(int))
            measured.append(auc.reindex(part["task"]))
        assert got.values["raw_cp", ""][b] == pytest.approx(np.nanmean(np.concatenate(measured)), abs=1e-12)
    assert got.endpoint == "tx_strong_tasks" and got.n_units == 3 and got.not_testable == ""
    few = claims.bootstrap_tx_strong_auc(dense, chosen[chosen["task"] != "t4"], sample, np.random.default_rng(0))
    assert few.not_testable == "2 tasks are TX-strong and CP-weak by training compounds; 3 are needed"
    assert few.values == {} and few.n_units == 2


def test_families_of_enough_known_tasks_make_the_mean(tasks_as_they_are):
    tasks = pd.DataFrame({"task": [f"t{i}" for i in range(9)],
                          "family": ["a", "a", "a", "b", "b", "other", None, "c", "unused"]})  # fmt: skip
    predictions = simulated_tables(8, draws=2, n_tasks=8)["predictions"]
    predictions["label"] = predictions["label"].where(predictions["task"] != "t7", 1.0)  # one class: not measured
    dense = dense_predictions(predictions)
    sample = tasks_as_they_are(dense.compounds, 3)
    got = claims.bootstrap_family_auc(dense, tasks, sample, np.random.default_rng(3))
    assert {name: one.n_units for name, one in got.families.items()} == {"a": 3, "b": 2, "other": 2}
    assert [one.endpoint for one in got.families.values()] == [f"family_auc:{name}" for name in ("a", "b", "other")]
    assert got.n_units == 1 and got.endpoint == "family_auc"
    for (method, control), values in got.values.items():
        if control != "pairing":
            own = predictions[(predictions["method"] == method) & (predictions["control"] == control)]
            for b in range(4):
                by_fold = [written_out_auc(one, sample.loc[b].astype(int)) for _, one in own.groupby(["seed", "fold"])]
                auc = pd.concat(by_fold, axis=1)
                assert values[b] == pytest.approx(np.nanmean(auc.loc[["t0", "t1", "t2"]]), abs=1e-12)
                assert got.families["b"].values[method, control][b] == pytest.approx(
                    np.nanmean(auc.loc[["t3", "t4"]]), abs=1e-12
                )
    none = claims.bootstrap_family_auc(dense, tasks.assign(family="other"), sample, np.random.default_rng(3))
    assert none.values == {} and none.n_units == 0 and none.families["other"].n_units == 7


def test_groups_are_resampled_and_what_is_lacking_is_said():
    tables = simulated_tables(9, n_tasks=6)
    same = tables["moa_per_compound"]
    copied = same.rename(columns={"average_precision": "replicate_map"})
    both = claims.bootstrap_endpoints(replicate_per_treatment=copied, moa_per_compound=same, n_bootstrap=30, seed=5)
    draws = [both[claim].values["contrastive", "deranged"] for claim in (2, 3)]
    assert draws[0][0] == draws[1][0] and (draws[0][1:] != draws[1][1:]).any()  # draws of their own
    one_group = pd.Series("one", index=same["compound"].unique())
    grouped = claims.bootstrap_endpoints(moa_per_compound=same, n_bootstrap=30, moa_groups=one_group)[3]
    np.testing.assert_allclose(grouped.values["raw_cp", ""], grouped.values["raw_cp", ""][0])
    nothing = claims.bootstrap_endpoints(predictions=tables["predictions"], n_bootstrap=2, not_testable={1: "secret"})
    assert {claim: one.not_testable for claim, one in nothing.items()} == {
        1: "secret",
        2: "no replicates were measured on this screen",
        3: "no mechanism of action is shared by test compounds of this screen",
        4: "the tasks of this screen have no target families",
    }
    assert both[1].not_testable == both[4].not_testable == "no bioactivity task was predicted on this screen"
    assert claims.weigh_claims("none", claims.bootstrap_endpoints())["verdict"].tolist() == ["not testable"] * 8
    lacking = tables | {"moa_per_compound": same[(same["fold"] > 0) | (same["method"] != "sphered_cp")]}
    with pytest.raises(ValueError, match="moa_map: a model is missing from a fold"):
        weigh(lacking, n_bootstrap=2)
    mixed = pd.concat([same, same.assign(split="moa")])
    with pytest.raises(ValueError, match="weigh one split at a time, not moa, random"):
        claims.bootstrap_endpoints(moa_per_compound=mixed)


# ----------------------------------------------------------------- The claims table, from endpoints that are made up


def made_up(endpoint, estimates, *, n_units=50, spread=0.01, seed=0, **further):
    """An endpoint whose bootstrap values scatter around given estimates, each model's on its own."""
    rng = np.random.default_rng(seed)
    values = {key: np.concatenate([[value], value + spread * rng.normal(size=300)]) for key, value in estimates.items()}
    return claims.EndpointBootstrap(endpoint, values, n_units, n_draws=dict.fromkeys(estimates, 3), **further)


ESTIMATES = {
    ("autoencoder", "true_pairs"): 0.46,
    ("autoencoder", "deranged"): 0.45,
    ("contrastive", "deranged"): 0.40,
    ("contrastive", "random_codes"): 0.41,
    ("contrastive", "true_pairs"): 0.50,
    ("lda_identity", ""): 0.42,
    ("sphered_cp", ""): 0.44,
    ("raw_cp", ""): 0.30,
    ("stranger", ""): 0.9,  # without TX and not among the references
}


@pytest.fixture
def endpoints():
    families = {
        name: made_up(f"family_auc:{name}", ESTIMATES, n_units=n_units, seed=seed)
        for name, n_units, seed in (("small", 2, 3), ("large", 3, 4), ("second", 9, 6), ("other", 30, 5))
    }
    return {
        1: claims.EndpointBootstrap("tx_strong_tasks", {}, 2, not_testable="two tasks only"),
        2: made_up("replicate_map", ESTIMATES, seed=1),
        3: made_up("moa_map", ESTIMATES | {("contrastive", "true_pairs"): 0.445}, seed=2),
        4: made_up("family_auc", ESTIMATES, n_units=2, families=families),
    }


def test_every_comparison_has_its_row_and_the_paper_s_comes_first(endpoints):
    table = claims.weigh_claims("made", endpoints)
    assert list(table.columns) == claims.CLAIM_COLUMNS and table["screen"].eq("made").all()
    second = table[table["claim"] == 2].reset_index(drop=True)
    rows = [("contrastive", "raw_cp"), ("autoencoder", "raw_cp")]
    rows += [("autoencoder", name) for name in ("sphered_cp", "lda_identity", "deranged")]
    rows += [("contrastive", name) for name in ("sphered_cp", "lda_identity", "deranged", "random_codes")]
    assert sorted(zip(second["method"], second["reference"], strict=True)) == sorted(rows)
    assert list(zip(second["method"], second["reference"], strict=True))[:2] == rows[:2]
    assert second["verdict"].tolist()[:2] == ["supported", "holds, attribution open"]
    assert second["verdict"][2:].eq("").all() and second["reason"][2:].eq("").all()
    values = endpoints[2].values
    for _, row in second.iterrows():
        is_control = row["role"] == "control"
        other = (row["method"], row["reference"]) if is_control else (row["reference"], "")
        expected = claims.summarise_bootstrap(values[row["method"], "true_pairs"] - values[other])
        assert row[["effect", "ci_low", "ci_high", "detectable", "p_value"]].tolist() == list(vars(expected).values())
        assert row["value_reference"] == ESTIMATES[other]
    adjusted = metrics.benjamini_hochberg(second["p_value"].to_numpy())
    np.testing.assert_allclose(second["p_adjusted"][2:], adjusted[2:])


def test_holm_counts_the_testable_claims_and_families_must_win_everything_themselves(endpoints):
    table = claims.weigh_claims("made", endpoints, methods=["contrastive"])
    ruled = table[table["verdict"] != ""].set_index("claim")
    needed = ["raw_cp", "sphered_cp", "lda_identity", "deranged", "random_codes"]
    own = table[(table["method"] == "contrastive") & table["reference"].isin(needed)]
    in_favour = own["p_value"].where(own["effect"] > 0, 1.0)
    p = [in_favour[own["endpoint"] == name].max() for name in ("replicate_map", "moa_map")]
    of_families = own[own["reference"] != "lda_identity"]
    of_families = of_families.groupby("endpoint")["p_value"].max()
    p.append(max(of_families["family_auc:large"], of_families["family_auc:second"]))  # two of two must gain
    ordered = np.sort(p)  # Holm: the largest (n - rank) * p of all p up to this one
    expected = [min(1, max((3 - k) * q for k, q in enumerate(ordered) if q <= value)) for value in p]
    np.testing.assert_allclose(ruled.loc[[2, 3, 4], "p_adjusted"], expected)
    assert ruled["verdict"].loc[[2, 4]].eq("supported").all() and ruled["verdict"][3] != "supported"
    assert ruled.loc[1, ["verdict", "reason", "n_units"]].tolist() == ["not testable", "two tasks only", 0]


def test_levels_limits_and_what_lacks_for_a_verdict(endpoints):
    def ruled(**options):
        table = claims.weigh_claims("made", endpoints, methods=["contrastive"], **options)
        return table[table["verdict"] != ""].set_index("claim")

    assert ruled(alpha=1e-6)["verdict"][2] == "TX helps, lead over CP-only open"
    strange = claims.REFERENCES | {2: ["stranger"]}  # not a CP method
    assert ruled(references=strange)["verdict"][2] == "TX helps, lead over CP-only open"
    assert "2 target families have 3 measured tasks; 3 are needed" in ruled(min_families=3)["reason"][4]
    endpoints[2] = made_up("replicate_map", {key: 0.3 for key in ESTIMATES}, spread=0.005)
    limits = [claims.SMALLEST_EFFECTS | {"replicate_map": limit} for limit in (0.001, 0.02)]
    words = [ruled(smallest_effects=one)["verdict"][2] for one in limits]
    assert words == ["open", "does not hold"]
    del endpoints[2].values["raw_cp", ""], endpoints[3].values["contrastive", "true_pairs"]
    endpoints[4] = claims.EndpointBootstrap("family_auc", {}, 0)
    assert ruled()["reason"].tolist()[1:] == [
        "raw_cp was not evaluated",
        "contrastive was not evaluated on true pairs",
        "0 target families have 3 measured tasks; 2 are needed",
    ]


def test_single_families_have_rows_of_their_own(endpoints):
    table = claims.weigh_claims("made", endpoints)
    families = table[table["endpoint"].str.startswith("family_auc:")]
    assert families["claim"].eq(4).all() and families["verdict"].eq("").all()
    for name, part in families.groupby(families["endpoint"].str.removeprefix("family_auc:")):
        why = {"small": "fewer than 3 tasks: shown, not tested", "other": "no known family: shown, not tested"}
        assert part["reason"].eq(why.get(name, "")).all()
        for column in ("p_value", "p_adjusted", "shrunk"):
            assert part[column].isna().all() == (name in why)
    own = families.query("method == 'contrastive' and reference == 'raw_cp' and p_value == p_value")
    np.testing.assert_allclose(own["p_adjusted"], metrics.benjamini_hochberg(own["p_value"].to_numpy()))
    assert len(own) == 2 and own["shrunk"].to_numpy() == pytest.approx(own["effect"].mean())
    overall = table[(table["endpoint"] == "family_auc") & (table["reference"] == "raw_cp")]
    assert overall.set_index("method")["effect"]["contrastive"] == own["effect"].min()  # the second best of two


# ---------------------------------------------------------------------------------------------------- Intervals


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
                        rows.append((repeat, fold_of[i], draw, method, control, f"c{i:02d}", rng.normal()))
    return pd.DataFrame(rows, columns="repeat fold seed method control compound value".split())


def test_compound_endpoints_equal_compounds_written_out():
    table = compound_rows()
    rng = np.random.default_rng(1)
    sample = claims.resample_compounds(table["compound"].unique(), n_bootstrap=4, rng=rng)
    got = claims.bootstrap_compound_endpoint(table, "value", sample, rng)
    assert got.endpoint == "value" and got.n_units == 24
    assert sorted(got.values) == [("m", "deranged"), ("m", "pairing"), ("m", "true_pairs"), ("raw_cp", "")]
    for b in range(5):
        written_out = table.loc[table.index.repeat(table["compound"].map(sample.loc[b].astype(int)))]
        means = written_out.groupby(["method", "control", "seed"])["value"].mean()
        assert got.values["raw_cp", ""][b] == pytest.approx(means["raw_cp", "", 0])
        assert got.values["m", "true_pairs"][b] == pytest.approx(means["m", "true_pairs", 0])
    means = table.groupby(["method", "control", "seed"])["value"].mean()
    assert got.values["m", "deranged"][0] == pytest.approx(means["m", "deranged"].mean())
    # The order of rows means nothing, nor does a row that holds no value.
    shuffled = pd.concat([table.sample(frac=1, random_state=0), table.head(3).assign(value=np.nan, compound="x")])
    again = claims.bootstrap_compound_endpoint(shuffled, "value", sample, np.random.default_rng(1), endpoint="moa_map")
    assert again.endpoint == "moa_map"
    assert {key: one[0] for key, one in again.values.items()} == pytest.approx(
        {key: one[0] for key, one in got.values.items()}
    )


def test_a_compound_that_a_model_of_a_fold_lacks_is_left_out_of_that_fold_for_all():
    table = compound_rows()
    lacking = (table["compound"] == "c05") & (table["repeat"] == 0) & (table["method"] == "raw_cp")
    once = (table["compound"] == "c04") & (table["repeat"] == 1) & (table["control"] == "true_pairs")
    reduced = table[~lacking].drop(index=table.index[once][0])  # one of two treatments
    rng = np.random.default_rng(1)
    sample = claims.resample_compounds(table["compound"].unique(), n_bootstrap=2, rng=rng)

    def bootstrap(table, **options):
        return claims.bootstrap_compound_endpoint(table, "value", sample, rng, **options)

    got = bootstrap(reduced)
    of_both = (table["compound"].isin(["c04", "c05"])) & (table["repeat"] == (table["compound"] == "c04"))
    means = table[~of_both].groupby(["method", "control"])["value"].mean()
    for key, expected in means.items():
        assert got.values[key][0] == pytest.approx(expected)
    assert got.n_units == 24  # both are there in the other repeat
    assert bootstrap(table[~((table["compound"] == "c05") & (table["method"] == "raw_cp"))]).n_units == 23
    for empty, name in ((table.iloc[:0], "moa_map"), (table.assign(value=np.nan), "")):
        assert bootstrap(empty, endpoint=name) == claims.EndpointBootstrap(name or "value", {}, 0)


def test_intervals_are_those_of_the_bootstrap_plain_and_paired():
    table = compound_rows()
    rng = np.random.default_rng(3)
    sample = claims.resample_compounds(table["compound"].unique(), n_bootstrap=40, rng=rng)
    one = claims.bootstrap_compound_endpoint(table, "value", sample, rng)
    keys = {
        None: {key: one.values[key] for key in (("m", "deranged"), ("m", "true_pairs"), ("raw_cp", ""))},
        "deranged": {("m", "true_pairs"): one.difference(("m", "true_pairs"), ("m", "deranged"))},
        ("raw_cp", ""): {
            ("m", name): one.difference(("m", name), ("raw_cp", "")) for name in ("deranged", "true_pairs")
        },
    }
    renamed = table.rename(columns={"compound": "gene"})
    for versus, expected in keys.items():
        got = claims.intervals(renamed, "value", unit="gene", versus=versus, n_bootstrap=40, seed=3)
        assert list(got.columns) == ["method", "control", "mean", "ci_low", "ci_high", "n_units"]
        assert list(zip(got["method"], got["control"], strict=True)) == list(expected) and got["n_units"].eq(24).all()
        summaries = [claims.summarise_bootstrap(distribution) for distribution in expected.values()]
        assert got[["mean", "ci_low", "ci_high"]].to_numpy().tolist() == [
            [summary.effect, summary.ci_low, summary.ci_high] for summary in summaries
        ]
        assert list(claims.intervals(pd.DataFrame(), "value", versus=versus).columns) == list(got.columns)
    lone = table[table["control"] != "deranged"]
    assert len(claims.intervals(lone, "value", versus="deranged", n_bootstrap=5)) == 0
    assert len(claims.intervals(lone, "value", versus=("pca_cp", ""), n_bootstrap=5)) == 0


def test_intervals_resample_groups_of_compounds_and_change_nothing_where_each_is_alone():
    """Four ids a structure carry the information of one: intervals are those of the structures, twice as wide."""
    rng = np.random.default_rng(1)
    per_structure = rng.normal(size=40)
    names = [f"c{i:03d}" for i in range(160)]
    table = pd.DataFrame({"method": "raw_cp", "control": "", "compound": names, "value": np.repeat(per_structure, 4)})
    table = table.assign(repeat=0, fold=0, seed=0)
    structures = pd.Series(np.repeat([f"K{i}" for i in rng.permutation(40)], 4), index=names)
    apart, together = (claims.intervals(table, "value", groups=groups).iloc[0] for groups in (None, structures))
    assert together["mean"] == pytest.approx(apart["mean"]) == pytest.approx(per_structure.mean())
    width, single = (one["ci_high"] - one["ci_low"] for one in (together, apart))
    assert width == pytest.approx(2 * 1.96 * per_structure.std(ddof=1) / np.sqrt(40), rel=0.1)
    assert width == pytest.approx(2 * single, rel=0.1)
    alone = pd.Series([f"K{i}" for i in rng.permutation(160)], index=names)  # in another order than the compounds
    pd.testing.assert_frame_equal(claims.intervals(table, "value", groups=alone), claims.intervals(table, "value"))


# ------------------------------------------------------------------------------------------------ Published numbers


def test_published_numbers_stand_beside_exactly_the_same_quantity():
    cp = [0.95, 0.92, 0.8, 0.75, 0.6, 0.5, 0.5, 0.5, 0.5, np.nan]
    tx = [0.91, 0.6, 0.97, 0.71, 0.93, 0.5, 0.5, 0.5, 0.5, 0.5]
    rows = [(method, f"t{i}", value) for method, row in (("raw_cp", cp), ("tx", tx)) for i, value in enumerate(row)]
    auc = pd.DataFrame([*rows, ("contrastive", "t0", 0.99)], columns=["method", "task", "roc_auc"])
    counts = claims.assay_counts(auc)
    assert counts["of"].tolist() == ["CP", "TX", "TX but not CP"] * 2 and set(counts["total_here"]) == {10}
    assert counts["here"].tolist() == [2, 3, 2, 4, 4, 1]
    assert claims.assay_counts(auc[:0]).empty
    table = claims.beside_published("cdrp-u2os", "scaffold", counts)
    assert table["here"].tolist() == counts["here"].tolist() and set(table["source"]) == {"Moshkov 2023"}
    assert table["value"].tolist() == [28, 19, 13, 102, 71, 29] and set(table["total"]) == {270}
    for screen, split in (("simulated", "scaffold"), ("cdrp-u2os", "random"), ("lincs-pilot1", "scaffold")):
        assert claims.beside_published(screen, split, counts).empty
