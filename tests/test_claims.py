"""The verdict machine: rules, multiplicity, bootstrap, how often it errs where TX adds nothing, and intervals."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cpx_utils import claims, metrics
from cpx_utils.bioactivity import dense_predictions
from cpx_utils.profiles import UNITS, VERDICTS
from cpx_utils.splits import halves

UP = claims.Comparison(0.05, 0.03, 0.07, 0.028, 0.001)  # clearly better
FLAT = claims.Comparison(0.001, -0.004, 0.006, 0.007, 0.7)  # clearly not better by 0.02
WIDE = claims.Comparison(0.02, -0.04, 0.08, 0.084, 0.5)  # anything goes
DOWN = claims.Comparison(-0.05, -0.07, -0.03, 0.028, 0.001)  # clearly worse
TOUCHING = claims.Comparison(0.02, 0.0, 0.04, 0.028, 0.01)
UNKNOWN = claims.Comparison(np.nan, np.nan, np.nan, np.nan, np.nan)
SEEN = "differences from {} up would have been detected with 80% power"
NOT_EXCLUDED = "a gain of up to {} over it is not excluded"


@pytest.mark.parametrize(
    ("raw", "best", "lda", "deranged", "p_adjusted", "expected", "deciding", "reason"),
    [
        (UP, UP, UP, UP, 0.049, "supported", "best", "better than the best CP-only method and than its own deranged"),
        (UP, UP, None, UP, 0.004, "supported", "best", ""),
        (UNKNOWN, UP, UP, UP, 0.01, "supported", "best", ""),  # raw CP only decides where the claim is not won
        (UP, UP, UP, UP, 0.05, "inconclusive", "best", "does not survive Holm's correction; " + SEEN.format("0.028")),
        (UP, UP, UP, FLAT, 0.7, "explained without TX", "deranged", NOT_EXCLUDED.format("0.006")),
        (UP, FLAT, FLAT, UP, 0.7, "explained without TX", "best", "better than raw CP but not than the best CP-only"),
        (UP, UP, WIDE, UP, 0.051, "explained without TX", "lda", "not than lda_identity; a gain of up to 0.080"),
        (UP, DOWN, UP, FLAT, 1.0, "explained without TX", "best", "it is worse than that"),  # loses most clearly to it
        (UP, UP, UP, TOUCHING, 0.5, "explained without TX", "deranged", ""),  # an interval that reaches 0
        (UP, DOWN, DOWN, DOWN, 1.0, "explained without TX", "deranged", ""),
        (FLAT, FLAT, FLAT, FLAT, 0.7, "not supported", "raw", "a gain of 0.02 over raw CP is excluded"),
        (DOWN, DOWN, DOWN, DOWN, 1.0, "not supported", "raw", ""),
        (WIDE, FLAT, FLAT, WIDE, 0.7, "not supported", "best", ""),
        (WIDE, WIDE, WIDE, FLAT, 0.7, "not supported", "deranged", "a gain of 0.02 over its own deranged control is"),
        (WIDE, WIDE, WIDE, WIDE, 0.5, "inconclusive", "raw", "not clearly better than raw CP; " + SEEN.format("0.084")),
        (WIDE, WIDE, WIDE, UP, 0.5, "inconclusive", "raw", ""),
        (TOUCHING, UP, UP, TOUCHING, 0.01, "inconclusive", "raw", ""),
    ],
)
def test_verdict_rules(raw, best, lda, deranged, p_adjusted, expected, deciding, reason):
    contest = {"raw": raw, "best": best, "deranged": deranged} | ({"lda": lda} if lda else {})
    got = claims.verdict(contest, p_adjusted, smallest_effect=0.02)
    assert got[:2] == (expected, deciding)
    assert got[0] in VERDICTS and got[2] and reason in got[2]


def test_verdicts_at_the_very_limits():
    contest = {"raw": UP, "best": UP, "deranged": UP}

    def ruled(p_adjusted=0.01, smallest_effect=0.02, alpha=0.05, **changed):
        return claims.verdict(contest | changed, p_adjusted, smallest_effect=smallest_effect, alpha=alpha)

    assert ruled(0.05, alpha=0.06)[0] == "supported"
    assert ruled(raw=TOUCHING, deranged=TOUCHING, smallest_effect=0.041)[0] == "not supported"
    assert ruled(raw=TOUCHING, deranged=TOUCHING, smallest_effect=0.04)[0] == "inconclusive"
    # Of two unbeaten references the one that it loses to by more standard errors, however small these are.
    sure = claims.Comparison(-0.01, -0.01, -0.01, 0.0, 0.01)
    assert ruled(1.0, best=DOWN, deranged=sure)[1] == "deranged"
    # Of two comparisons that are both won, the one with the larger p decides, then the lower interval.
    assert ruled(deranged=claims.Comparison(0.05, 0.02, 0.08, 0.042, 0.001))[1] == "deranged"
    assert ruled(deranged=claims.Comparison(0.05, 0.04, 0.06, 0.014, 0.002))[1] == "deranged"
    # A loss is no evidence for a gain, nor is what could not be judged.
    assert [one.p_in_favour for one in (UP, DOWN, WIDE, UNKNOWN)] == [0.001, 1.0, 0.5, 1.0]


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


def test_draws_are_averaged_and_the_luck_of_one_has_their_variance():
    fits = pd.DataFrame({"method": ["m"] * 4 + ["raw_cp"], "control": ["deranged"] * 3 + ["true_pairs", ""]})
    draws = np.array([1.0, 2.0, 6.0, 5.0, 4.0])
    values = np.repeat(draws[None], 20_001, axis=0)
    got = claims._average_draws(values, fits, np.random.default_rng(0))
    assert {key: one[0] for key, one in got.items()} == pytest.approx(
        {("m", "deranged"): 3, ("m", "pairing"): 0, ("m", "true_pairs"): 5, ("raw_cp", ""): 4}
    )
    assert (got["m", "true_pairs"] == 5).all() and (got["raw_cp", ""] == 4).all()
    # The mean of three draws with replacement; one draw's deviation from it, with the draws' unbiased variance.
    mean, luck = got["m", "deranged"][1:], got["m", "pairing"][1:]
    np.testing.assert_allclose([mean.mean(), mean.var()], [3, np.var(draws[:3]) / 3], rtol=0.03)
    np.testing.assert_allclose(luck.var(), np.var(draws[:3], ddof=1), rtol=0.03)
    assert abs(np.corrcoef(mean, luck)[0, 1]) < 0.03  # drawn apart
    # Tasks are a further axis; one draw tells nothing of its luck.
    both = claims._average_draws(np.stack([values, 2 * values], axis=1), fits, np.random.default_rng(0))
    np.testing.assert_allclose(both["m", "pairing"][:, 1], 2 * got["m", "pairing"])
    single = claims._average_draws(values[:9, 2:], fits[2:], np.random.default_rng(0))
    assert single["m", "pairing"][0] == 0 and np.isnan(single["m", "pairing"][1:]).all()


def test_weighted_auc_equals_repeating_compounds(monkeypatch):
    monkeypatch.setattr(claims, "RESAMPLES_AT_ONCE", 4)
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
    fits += [("contrastive", "true_pairs", 0, identity + gain)]
    fits += [("contrastive", "deranged", k, identity) for k in range(draws)]
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
    return dict(zip(("replicate_per_treatment", "moa_per_compound", "predictions"), joined, strict=True)) | {
        "tasks": tasks
    }


def weigh(tables, n_bootstrap=300, **changes):
    return claims.weigh_claims("small", claims.bootstrap_endpoints(**tables, n_bootstrap=n_bootstrap, **changes))


def verdicts(table):
    ruled = table[table["verdict"] != ""]
    assert ruled["claim"].tolist() == [1, 2, 3, 4]
    return ruled.set_index("claim")["verdict"]


def test_supported_is_rare_where_tx_adds_only_identity():
    ruled = pd.concat([verdicts(weigh(simulated_tables(seed), n_bootstrap=200)) for seed in range(8)])
    supported = (ruled == "supported").groupby(level=0).sum()
    assert (supported <= 1).all(), supported
    assert (ruled.loc[[2, 3]] == "explained without TX").mean() > 0.8


def test_a_strong_gain_of_true_pairs_is_supported_and_none_is_not():
    ruled = pd.concat([verdicts(weigh(simulated_tables(seed, gain=0.12))) for seed in range(6)])
    assert (ruled.loc[[2, 3]] == "supported").all()
    assert (ruled.loc[[1, 4]] == "supported").mean() >= 0.8
    table = weigh(simulated_tables(0, identity=0.0, n=300, draws=12))
    assert set(verdicts(table).loc[[2, 3]]) == {"not supported"}


def test_nothing_is_judged_against_a_single_derangement():
    tables = simulated_tables(3, gain=0.12, draws=1)
    endpoints = claims.bootstrap_endpoints(**tables, n_bootstrap=50)
    table = claims.weigh_claims("small", endpoints)
    assert verdicts(table).eq("not testable").all()
    assert (
        table["reason"][0]
        == "contrastive has one derangement a fold, whose luck is unknown: at least two are needed to judge by"
    )
    by_reference = table[(table["endpoint"] == "moa_map") & (table["reference"] != "")].set_index("reference")
    unknown = ["ci_low", "ci_high", "p_value", "p_adjusted", "detectable"]
    assert by_reference.loc["deranged", unknown].isna().all() and by_reference.loc["deranged", "effect"] > 0.05
    assert by_reference.loc["raw_cp", unknown].notna().all()  # true pairs stand against raw CP as ever
    assert by_reference["deranged_low"].isna().all() and by_reference.loc["raw_cp", "deranged_effect"] > 0.05
    assert table.loc[table["reference"] == "deranged", "ci_low"].isna().all()  # families, too
    moa = tables["moa_per_compound"]
    gains = claims.intervals(moa, "average_precision", versus="deranged", n_bootstrap=50)
    assert len(gains) == 1 and gains[["ci_low", "ci_high"]].isna().all(axis=None)
    over_raw = claims.intervals(moa, "average_precision", versus=("raw_cp", ""), n_bootstrap=50).set_index("control")
    assert np.isnan(over_raw.loc["deranged", "ci_low"]) and over_raw.loc["true_pairs", "ci_low"] > 0
    two = claims.intervals(simulated_tables(3, draws=2)["moa_per_compound"], "average_precision", versus="deranged")
    assert two["ci_low"].notna().all()


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


def test_tx_strong_tasks_equal_compounds_written_out(tasks_as_they_are, monkeypatch):
    monkeypatch.setattr(claims, "N_HALVINGS", 2)
    predictions = simulated_tables(7, draws=1, n_tasks=6)["predictions"]
    dense = dense_predictions(predictions)
    sample = tasks_as_they_are(dense.compounds, 2)
    rng = np.random.default_rng(0)
    got = claims.bootstrap_tx_strong_auc(dense, sample, rng, tx_min=0.6, margin=0.02, seed=4)
    method = dense.columns["method"].to_numpy()
    chosen_ever = set()
    for b in range(3):
        measured = []
        for seed in (4, 5):
            first = halves(dense.compounds, seed)
            for half in (first, ~first):
                auc = dense.auc(half)
                cp, tx = auc[:, method == "raw_cp"][:, 0], auc[:, method == "tx"][:, 0]
                chosen = dense.tasks[(tx >= 0.6) & (tx - cp >= 0.02)]
                chosen_ever |= set(chosen)
                raw = predictions[predictions["method"] == "raw_cp"]
                auc = written_out_auc(raw, sample.loc[b].astype(int), set(dense.compounds[~half]))
                measured.append(auc.reindex(chosen))
        assert got.values["raw_cp", ""][b] == pytest.approx(np.nanmean(np.concatenate(measured)), abs=1e-12)
    assert got.endpoint == "tx_strong_tasks" and got.n_units == len(chosen_ever) >= 3 and got.not_testable == ""


def test_too_few_strong_tasks_or_no_oracle_are_said():
    predictions = simulated_tables(7, draws=1, n_tasks=6)["predictions"]
    dense = dense_predictions(predictions)
    rng = np.random.default_rng(0)
    sample = claims.resample_compounds(dense.compounds, n_bootstrap=2, rng=rng)
    got = claims.bootstrap_tx_strong_auc(dense, sample, rng, tx_min=0.999, margin=0.25)
    reason = "0 tasks are TX-strong and CP-weak (TX at least 0.999 and 0.25 above CP); at least 3 are needed"
    assert got == claims.EndpointBootstrap("tx_strong_tasks", {}, 0, not_testable=reason)
    assert claims.bootstrap_tx_strong_auc(dense, sample, rng, tx_min=0.0, margin=-1.0).n_units == 6
    for number, testable in ((3, True), (2, False)):
        few = dense_predictions(predictions[predictions["task"].isin([f"t{i}" for i in range(number)])])
        one = claims.bootstrap_tx_strong_auc(few, sample, rng, tx_min=0.0, margin=-1.0)
        assert bool(one.values) == testable == (one.not_testable == "") and one.n_units == number
    without = dense_predictions(predictions.query("method not in ('tx', 'raw_cp')"))
    got = claims.bootstrap_tx_strong_auc(without, sample, rng)
    assert got.not_testable == "no predictions of raw_cp and tx, by which TX-strong, CP-weak tasks are chosen"


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
                by_draw = [written_out_auc(one, sample.loc[b].astype(int)) for _, one in own.groupby("seed")]
                auc = pd.concat(by_draw, axis=1).mean(axis=1)
                assert values[b] == pytest.approx(auc[["t0", "t1", "t2"]].mean(), abs=1e-12)
                assert got.families["b"].values[method, control][b] == pytest.approx(
                    auc[["t3", "t4"]].mean(), abs=1e-12
                )
    none = claims.bootstrap_family_auc(dense, tasks.assign(family="other"), sample, np.random.default_rng(3))
    assert none.values == {} and none.n_units == 0 and none.families["other"].n_units == 7


def test_endpoints_share_one_resample_of_groups_and_what_is_lacking_is_said():
    tables = simulated_tables(9, n_tasks=6)
    same = tables["moa_per_compound"]
    copied = same.rename(columns={"average_precision": "replicate_map"})
    both = claims.bootstrap_endpoints(replicate_per_treatment=copied, moa_per_compound=same, n_bootstrap=30, seed=5)
    np.testing.assert_array_equal(both[2].values["raw_cp", ""], both[3].values["raw_cp", ""])
    draws = [both[claim].values["contrastive", "deranged"] for claim in (2, 3)]
    assert draws[0][0] == draws[1][0] and (draws[0][1:] != draws[1][1:]).any()  # draws of their own
    other = claims.bootstrap_endpoints(moa_per_compound=same, n_bootstrap=30, seed=6)[3]
    assert (other.values["raw_cp", ""][1:] != both[3].values["raw_cp", ""][1:]).any()
    one_group = pd.Series("one", index=same["compound"].unique())
    grouped = claims.bootstrap_endpoints(moa_per_compound=same, n_bootstrap=30, groups=one_group)[3]
    np.testing.assert_allclose(grouped.values["raw_cp", ""], grouped.values["raw_cp", ""][0])
    nothing = claims.bootstrap_endpoints(predictions=tables["predictions"], n_bootstrap=2, not_testable={1: "secret"})
    assert {claim: one.not_testable for claim, one in nothing.items()} == {
        1: "secret",
        2: "no replicates were measured on this screen",
        3: "no mechanism of action is shared by test compounds of this screen",
        4: "the tasks of this screen have no target families",
    }
    assert both[1].not_testable == both[4].not_testable == "no bioactivity task was predicted on this screen"
    assert verdicts(claims.weigh_claims("none", claims.bootstrap_endpoints())).eq("not testable").all()
    lacking = tables | {"moa_per_compound": same[(same["fold"] > 0) | (same["method"] != "sphered_cp")]}
    with pytest.raises(ValueError, match=r"sphered_cp.*is missing from a fold"):
        weigh(lacking, n_bootstrap=2)
    mixed = pd.concat([same, same.assign(split="moa")])
    with pytest.raises(ValueError, match="weigh one split at a time, not moa, random"):
        claims.bootstrap_endpoints(moa_per_compound=mixed)


# ----------------------------------------------------------------- The claims table, from endpoints that are made up


def made_up(endpoint, estimates, *, n_units=50, spread=0.01, seed=0, **further):
    """An endpoint whose bootstrap values scatter around given estimates, each model's on its own."""
    rng = np.random.default_rng(seed)
    values = {key: np.concatenate([[value], value + spread * rng.normal(size=300)]) for key, value in estimates.items()}
    values |= {(method, "pairing"): np.zeros(301) for method, control in estimates if control == "deranged"}
    return claims.EndpointBootstrap(endpoint, values, n_units, **further)


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
        1: claims.EndpointBootstrap("tx_strong_tasks", {}, 2, not_testable="two tasks only"),
        2: made_up("replicate_map", ESTIMATES, seed=1),
        3: made_up("moa_map", ESTIMATES | {("contrastive", "true_pairs"): 0.445}, seed=2),
        4: made_up("family_auc", ESTIMATES, n_units=4, families={"small": small, "large": large, "other": other}),
    }


def test_every_comparison_has_its_row_and_the_deciding_one_comes_first(endpoints):
    table = claims.weigh_claims("made", endpoints)
    assert list(table.columns) == claims.CLAIM_COLUMNS and table["screen"].eq("made").all()
    second = table[table["claim"] == 2].reset_index(drop=True)
    order = ["pca_cp", "lda_identity", "raw_cp", "deranged"]  # references from the best down
    # The best CP-only method and the deranged control are both beaten; the lower interval decides.
    assert list(zip(second["method"], second["reference"], strict=True)) == [
        (method, name) for method in ("contrastive", "aaa") for name in order
    ]
    assert second["role"].tolist() == ["best CP-only", "CP-only", "CP-only", "deranged control"] * 2
    assert second["verdict"].tolist() == ["supported"] + [""] * 7
    assert second["reason"][1:].eq("").all()
    assert set(second["endpoint"]) == {"replicate_map"} and set(second["n_units"]) == {50}
    values = endpoints[2].values
    for _, row in second.iterrows():
        own, control = (row["method"], "true_pairs"), (row["method"], "deranged")
        key = control if row["reference"] == "deranged" else (row["reference"], "")
        expected = claims.summarise_bootstrap(values[own] - values[key])
        assert row[["effect", "ci_low", "ci_high", "detectable", "p_value"]].tolist() == list(vars(expected).values())
        assert (row["value_method"], row["value_reference"]) == (ESTIMATES[own], ESTIMATES[key])
        expected = claims.summarise_bootstrap(values[control] - values[key]) if key != control else UNKNOWN
        shown = row[["deranged_effect", "deranged_low", "deranged_high"]].to_numpy(dtype=float)
        np.testing.assert_array_equal(shown, [expected.effect, expected.ci_low, expected.ci_high])
    adjusted = metrics.benjamini_hochberg(second["p_value"].to_numpy())
    np.testing.assert_allclose(second["p_adjusted"][1:], adjusted[1:])


def test_holm_counts_the_testable_claims(endpoints):
    table = claims.weigh_claims("made", endpoints)
    ruled = table[table["verdict"] != ""].set_index("claim")
    assert ruled.index.tolist() == [1, 2, 3, 4]
    p = []
    for claim in (2, 3, 4):
        own = table[(table["endpoint"] == claims.ENDPOINTS[claim]) & (table["method"] == "contrastive")]
        needed = own[own["reference"].isin(["pca_cp", "deranged"])]
        p.append(needed["p_value"].where(needed["effect"] > 0, 1.0).max())
    ordered = np.sort(p)  # Holm: the largest (n - rank) * p of all p up to this one
    expected = [min(1, max((3 - k) * q for k, q in enumerate(ordered) if q <= value)) for value in p]
    np.testing.assert_allclose(ruled.loc[[2, 3, 4], "p_adjusted"], expected)
    assert p[1] > 0.1 and ruled["verdict"][3] == "explained without TX" and ruled["reference"][3] == "pca_cp"
    assert ruled["verdict"][4] == "supported"
    first = ruled.loc[1]
    assert first[["method", "reference", "endpoint"]].tolist() == ["contrastive", "", "tx_strong_tasks"]
    assert first[["verdict", "reason", "n_units"]].tolist() == ["not testable", "two tasks only", 0]
    assert np.isnan(first["p_adjusted"])
    assert first["role"] == "" and (table["claim"] == 1).sum() == 1


def test_primary_methods_levels_and_what_lacks_for_a_verdict(endpoints):
    def ruled(**options):
        table = claims.weigh_claims("made", endpoints, **options)
        return table[table["verdict"] != ""].set_index("claim")

    assert ruled(primary="aaa").loc[2, ["method", "verdict", "reference"]].tolist() == [
        "aaa", "explained without TX", "deranged"]  # fmt: skip
    assert ruled(alpha=1e-6)["verdict"][2] == "inconclusive"
    assert set(claims.SMALLEST_EFFECTS) == set(UNITS) == set(claims.ENDPOINTS.values())
    endpoints[2] = made_up("replicate_map", {key: 0.3 for key in ESTIMATES}, spread=0.005)
    limits = (0.001, 0.02)  # the smallest gain that matters
    words = [ruled(smallest_effects={"replicate_map": limit})["verdict"][2] for limit in limits]
    assert words == ["inconclusive", "not supported"]
    absent = ruled(primary="absent")
    assert absent["reason"].tolist()[1:] == ["absent was not evaluated on true pairs"] * 3
    del endpoints[2].values["raw_cp", ""], endpoints[3].values["contrastive", "deranged"]
    endpoints[4] = claims.EndpointBootstrap("family_auc", {}, 0)
    assert ruled()["reason"].tolist()[1:] == [
        "raw_cp was not evaluated",
        "contrastive has no deranged control, without which a gain cannot be put down to TX",
        "no target family has 3 measured tasks",
    ]
    endpoints[2] = claims.EndpointBootstrap("replicate_map", {}, 0)
    assert ruled()["reason"][2] == "nothing was measured"


def test_single_families_are_shown_beside_raw_cp_the_best_method_and_the_control(endpoints):
    endpoints[4].families["second"] = made_up("family_auc:second", dict.fromkeys(ESTIMATES, 0.4), n_units=9, seed=6)
    table = claims.weigh_claims("made", endpoints)
    families = table[table["endpoint"].str.startswith("family_auc:")]
    assert families["claim"].eq(4).all() and families["verdict"].eq("").all()
    names = families["endpoint"].str.removeprefix("family_auc:")
    assert names.drop_duplicates().tolist() == ["small", "large", "other", "second"]
    for name, part in families.groupby(names):
        pairs = list(zip(part["method"], part["reference"], part["role"], strict=True))
        expected = [("raw_cp", "CP-only"), ("pca_cp", "best CP-only"), ("deranged", "deranged control")]
        assert pairs == [(method, *one) for method in ("aaa", "contrastive") for one in expected]
        why = {"small": "fewer than 3 tasks: shown, not tested", "other": "no known family: shown, not tested"}
        assert part["reason"].eq(why.get(name, "")).all()
        assert part["p_value"].isna().all() == part["p_adjusted"].isna().all() == (name in why)
        assert set(part["n_units"]) == {endpoints[4].families[name].n_units}
    # Adjusted over families, within a method and reference.
    own = families.query("method == 'contrastive' and reference == 'raw_cp' and p_value == p_value")
    np.testing.assert_allclose(own["p_adjusted"], metrics.benjamini_hochberg(own["p_value"].to_numpy()))
    assert len(own) == 2 and (own["p_adjusted"] > own["p_value"]).any()


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
    apart = table[(table["method"] == "m") ^ (table["compound"] < "c10")]
    assert bootstrap(apart).values == {}  # none has all models


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
