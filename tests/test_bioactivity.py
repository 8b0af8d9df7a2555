"""Many-task ridge against scikit-learn and explicit leave-one-out; choosing tasks against regression to the mean."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.base import clone
from sklearn.linear_model import Ridge

from cpx_utils import bioactivity, crossfit
from cpx_utils.bioactivity import ManyTaskRidgeClassifier
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    KEYS,
    METADATA_COLUMNS,
    PLATE,
    WELL,
    embedding_table,
    embedding_values,
)


def labelled_data(n, d, tasks=6, seed=0, missing=0.2):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * rng.uniform(0.5, 20, d) + rng.normal(size=d) * 10
    signal = (X - X.mean(0)) / X.std(0) @ rng.normal(size=(d, tasks)) / np.sqrt(d)
    Y = (signal + rng.normal(size=(n, tasks)) > 0.5).astype(float)
    Y[rng.random(Y.shape) < missing] = np.nan
    return X, Y


# --- the classifier -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(60, 12), (40, 90), (50, 50)])
def test_scores_equal_scikit_learns_ridge(n, d):
    X, Y = labelled_data(n, d)
    model = clone(ManyTaskRidgeClassifier()).fit(X, Y)
    new = np.random.default_rng(5).normal(size=(20, d)) * 9
    for task, labels in enumerate(Y.T):
        known = ~np.isnan(labels)
        train, test = ((values - X.mean(0)) / X.std(0) for values in (X[known], new))
        expected = Ridge(alpha=model.alpha_[task], tol=1e-10).fit(train, 2 * labels[known] - 1).predict(test)
        np.testing.assert_allclose(model.decision_function(new)[:, task], expected, atol=1e-8 * np.ptp(expected))


@pytest.mark.parametrize(("n", "d"), [(20, 5), (12, 25)])
def test_leave_one_out_equals_refitting_and_picks_the_penalty(n, d):
    X, Y = labelled_data(n, d, 3, seed=1)
    grid = np.array([0.01, 1.0, 100.0])
    model = ManyTaskRidgeClassifier(grid).fit(X, Y)
    for task, labels in enumerate(Y.T):
        known = ~np.isnan(labels)
        Z, y = ((X - X.mean(0)) / X.std(0))[known], 2 * labels[known] - 1
        alphas = grid * ((Z - Z.mean(0)) ** 2).sum() / min(len(y) - 1, d)
        rest = [np.delete(np.arange(len(y)), row) for row in range(len(y))]
        errors = [
            np.mean([
                (Ridge(alpha=alpha, tol=1e-12).fit(Z[others], y[others]).predict(Z[[row]])[0] - y[row]) ** 2
                for row, others in enumerate(rest)
            ])
            for alpha in alphas
        ]  # fmt: skip
        np.testing.assert_allclose(model.loo_errors_[:, task], errors, rtol=1e-7)
        assert model.alpha_[task] == pytest.approx(alphas[np.argmin(errors)])


@pytest.mark.parametrize(("n", "d"), [(40, 12), (15, 40)])
def test_poor_tasks_and_none_at_all_survive(n, d):
    X, Y = labelled_data(n, d, 5)
    X[:, 2] = 7.0  # constant
    Y[:, 0] = np.nan
    Y[:, 1] = np.where(np.isnan(Y[:, 1]), np.nan, 1.0)
    Y[:, 2] = [0.0, 1.0, *[np.nan] * (n - 2)]
    model = ManyTaskRidgeClassifier().fit(X, Y)
    scores = model.decision_function(X)
    assert np.isfinite(scores).all() and np.ptp(scores[:, 0]) == 0 == scores[0, 0]
    np.testing.assert_allclose(scores[:, 1], 1.0, atol=1e-5)
    assert model.fit(X, Y[:, :0]).decision_function(X).shape == (n, 0)
    assert model.fit(X * 0, Y).decision_function(X[:1] * 0).shape == (1, 5)


def test_what_cannot_be_fitted_is_refused():
    X, Y = labelled_data(20, 3, 2)
    for words, data in {"NaN": (X * np.nan, Y), "between 0 and 1": (X, Y + 1)}.items():
        with pytest.raises(ValueError, match=words):
            ManyTaskRidgeClassifier().fit(*data)


# --- folds ----------------------------------------------------------------------------------------------------


def consensus_table(values, method="raw_cp", control="", seed=0):
    """Consensus embeddings of two folds, with the keys of the stage contract."""
    tables = []
    for fold in range(2):
        role = np.where(np.arange(len(values)) % 2 == fold, "test", "train")
        keys = pd.DataFrame([("random", 0, fold, seed, method, control)] * len(values), columns=KEYS)
        head = pd.DataFrame({COMPOUND: [f"c{row:03d}" for row in range(len(values))], "role": role})
        tables.append(pd.concat([head, keys, embedding_table(values)], axis=1))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def fold_data():
    values, labels = labelled_data(120, 5, 3)
    labels = pd.DataFrame(labels, index=[f"c{row:03d}" for row in range(120)], columns=["t1", "t0", "t2"])
    return values.astype(np.float32), labels


def test_label_matrix_counts_given_compounds_only():
    activity = pd.DataFrame(
        {COMPOUND: list("abcdabx"), "task": ["t1"] * 4 + ["t2"] * 3, "active": [1, 0, 1, 0, 1, 1, 0]}
    )
    tasks = pd.DataFrame({"task": ["t2", "t1", "t3"], "target": "", "family": ["f", "g", "g"]})
    labels, table = bioactivity.label_matrix(activity, tasks, ["d", "c", "b", "a"], min_active=2, min_inactive=2)
    assert list(labels.columns) == ["t1"] and labels["t1"].tolist() == [0, 1, 0, 1]
    counts = table[["n_active", "n_inactive", "tested"]].to_numpy().tolist()
    assert counts == [[2, 0, False], [2, 2, True], [0, 0, False]] and table["family"].tolist() == ["f", "g", "g"]
    assert bioactivity.label_matrix(activity[:0], tasks[:0], ["a"])[0].shape == (1, 0)
    assert bioactivity.label_matrix(activity, tasks, [])[0].shape == (0, 0)


def test_folds_are_predicted_from_their_training_compounds_and_evaluated_as_by_scikit_learn(fold_data):
    values, labels = fold_data
    predictions = bioactivity.predict_folds(consensus_table(values), labels)
    assert list(predictions) == [*KEYS, "model", "compound", "task", "label", "score"]
    assert len(predictions) == labels.notna().sum().sum()  # every label is predicted once a repeat
    table = bioactivity.evaluate_folds(predictions)
    assert table.loc[table["metric"] == "roc_auc", "value"].mean() > 0.6
    for (fold, task), part in predictions.groupby(["fold", "task"], observed=True):
        mine = table[(table["fold"] == fold) & (table["task"] == task)].set_index("metric")
        assert mine.loc["roc_auc", "value"] == pytest.approx(sk.roc_auc_score(part["label"], part["score"]))
        precision = sk.average_precision_score(part["label"], part["score"])
        assert mine.loc["pr_auc", "value"] == pytest.approx(precision)
        assert mine.loc["pr_auc_lift", "value"] == pytest.approx(precision / part["label"].mean())


def test_outcomes_and_embeddings_of_test_compounds_have_no_part_in_the_model(fold_data):
    values, labels = fold_data
    others, moved = labels.copy(), consensus_table(values)
    others[np.arange(120) % 2 == 0] = 1 - others[np.arange(120) % 2 == 0]
    moved.loc[(moved["role"] == "test") & (moved[COMPOUND] == "c000"), "z000"] = 99.0
    scores = []
    for table, own in ((consensus_table(values), labels), (consensus_table(values), others), (moved, labels)):
        predictions = bioactivity.predict_folds(table, own).query("fold == 0")
        scores.append(predictions.pivot(index="compound", columns="task", values="score"))
    pd.testing.assert_frame_equal(scores[0], scores[1])
    pd.testing.assert_frame_equal(scores[0].iloc[1:], scores[2].iloc[1:])
    assert (scores[0].iloc[0] != scores[2].iloc[0]).any()


def test_predictions_stay_small_when_joined_and_none_are_no_trouble(fold_data):
    values, labels = fold_data
    tables = [bioactivity.predict_folds(consensus_table(values, name), labels) for name in ("rcca", "pca_cp")]
    joined = bioactivity.join_predictions(tables)
    for name in ("split", "method", "control", "model", "compound", "task"):
        assert list(joined[name].cat.categories) == sorted(joined[name].cat.categories)
    assert joined.memory_usage(deep=False)[1:].sum() / len(joined) < 30
    true = [labels.loc[row.compound, row.task] for row in joined.itertuples()]
    assert joined["label"].tolist() == true and joined["method"].tolist() == ["rcca"] * len(tables[0]) + [
        "pca_cp"
    ] * len(tables[1])
    nothing = bioactivity.predict_folds(consensus_table(values), labels[[]])
    assert list(nothing) == list(joined)
    for measure in (bioactivity.evaluate_folds, bioactivity.fold_auc):
        assert len(measure(nothing)) == 0
    one_class = bioactivity.predict_folds(consensus_table(values), labels * 0 + 1)
    assert len(bioactivity.evaluate_folds(one_class).query("metric == 'roc_auc'")) == 0


def test_side_by_side_representations_weigh_the_same_also_for_wells(fold_data):
    values, _ = fold_data
    first = consensus_table(values * 100, "sphered_cp")
    second = consensus_table(np.hstack([values, values])[:, :7], "rcca", "deranged", seed=2)
    both = bioactivity.concatenate(first, second)
    assert both[["method", "control", "seed"]].drop_duplicates().to_numpy().tolist() == [["concat:rcca", "deranged", 2]]
    part = both[both["fold"] == 0]
    training = embedding_values(part)[(part["role"] == "train").to_numpy()]
    variances = [block.var(axis=0).sum() for block in (training[:, :5], training[:, 5:])]
    assert variances == pytest.approx([1.0, 1.0], rel=1e-4)
    np.testing.assert_allclose(np.corrcoef(embedding_values(part)[:, 0], values[:, 0])[0, 1], 1, atol=1e-5)
    metadata = {PLATE: "p", WELL: "", DOSE: np.nan, CONTROL: False}
    wells = [table.drop(columns="role").assign(**metadata) for table in (first, second)]
    of_wells = bioactivity.concatenate(*wells, (first, second))
    np.testing.assert_allclose(embedding_values(of_wells), embedding_values(both), rtol=1e-6)
    assert set(METADATA_COLUMNS) < set(of_wells) and set(of_wells["method"]) == {"concat:rcca"}
    with pytest.raises(ValueError, match="other compounds or wells"):
        bioactivity.concatenate(wells[0].iloc[::-1], wells[1], (first, second))
    constant = bioactivity.concatenate(first, consensus_table(np.ones((len(values), 2)), "rcca"))
    assert np.isfinite(embedding_values(constant)).all()


# --- choosing tasks -------------------------------------------------------------------------------------------


def null_predictions(seed=0, n=240, n_tasks=40):
    """TX and CP see every task equally badly: any TX-strong, CP-weak task is luck."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, n_tasks)) < 0.4).astype(float)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    row, task = np.nonzero(~np.isnan(labels))
    fold = (rng.permutation(n) % 3)[row]
    same = {"split": "random", "repeat": 0, "fold": fold, "seed": 0, "label": labels[row, task]}
    same |= {"compound": [f"c{i}" for i in row], "task": [f"t{t}" for t in task]}
    frames = []
    for method, control in (("raw_cp", ""), ("tx", ""), ("contrastive", "true_pairs")):
        scores = (np.nan_to_num(labels) * 0.6 + rng.normal(size=labels.shape))[row, task]
        # Folds are not on one scale.
        frames.append(pd.DataFrame(same | {"method": method, "control": control, "score": scores + fold * 5.0}))
    return pd.concat(frames, ignore_index=True)


def test_auc_is_taken_within_folds_and_gains_are_differences_of_the_same_task():
    predictions = null_predictions(n_tasks=4)
    auc = bioactivity.fold_auc(predictions)
    table = auc.set_index(["method", "task"])["roc_auc"]
    for (method, task), part in predictions.groupby(["method", "task"]):
        expected = np.mean([sk.roc_auc_score(one["label"], one["score"]) for _, one in part.groupby("fold")])
        assert table[method, task] == pytest.approx(expected, abs=1e-12)
    gains = bioactivity.task_gains(auc)
    assert len(gains) == 8 and set(gains["method"]) == {"tx", "contrastive"}
    for row in gains.itertuples():
        assert row.gain == pytest.approx(table[row.method, row.task] - table["raw_cp", row.task])
    for wrong in (predictions.head(1), predictions.tail(1).assign(label=1 - predictions["label"].iloc[-1], seed=1)):
        with pytest.raises(ValueError, match="twice, or labels contradict"):
            bioactivity.fold_auc(pd.concat([predictions, wrong]))


def study_of_luck(seed, n=210, n_tasks=30):
    """Consensus tables and labels in which TX and CP say equally little of every task."""
    rng = np.random.default_rng(seed)
    names, fold = np.array([f"c{i:03d}" for i in range(n)]), rng.permutation(n) % 3
    labels = pd.DataFrame((rng.random((n, n_tasks)) < 0.4).astype(float), index=names)
    labels.columns = [f"t{task}" for task in range(n_tasks)]
    tables = {}
    for method in ("raw_cp", "tx", "other"):
        values = (labels.to_numpy() @ rng.normal(size=(n_tasks, 6)) + 8 * rng.normal(size=(n, 6))).astype(np.float32)
        parts = []
        for number in range(3):
            key = {"split": "random", "repeat": 0, "fold": number, "seed": 0, "method": method, "control": ""}
            head = pd.DataFrame({COMPOUND: names, "role": np.where(fold == number, "test", "train")}).assign(**key)
            parts.append(pd.concat([head, embedding_table(values)], axis=1))
        tables[method] = pd.concat(parts, ignore_index=True)
    return tables, labels


def test_choosing_inside_training_folds_removes_regression_to_the_mean():
    apart, in_hindsight = [], []
    for seed in range(4):
        tables, labels = study_of_luck(seed)
        chosen = bioactivity.choose_tasks(tables, labels, cp=["raw_cp"], tx_min=0.5, margin=0.02, seed=seed)
        assert chosen.groupby("fold").size().tolist() == [30] * 3 and 0.02 < chosen["chosen"].mean() < 0.6
        predicted = pd.concat([bioactivity.predict_folds(table, labels) for table in tables.values()])
        measured = bioactivity.evaluate_folds(predicted).query("metric == 'roc_auc'")
        auc = measured.pivot(index=["fold", "task"], columns="method", values="value")
        gain = auc["other"] - auc["raw_cp"]
        apart.append(gain[chosen.set_index(["fold", "task"])["chosen"].reindex(gain.index)])
        in_hindsight.append(gain[(auc["tx"] >= 0.5) & (auc["tx"] - auc["raw_cp"] >= 0.02)])
    assert abs(pd.concat(apart).mean()) < 0.03 < pd.concat(in_hindsight).mean()  # CP "improves" by bad luck alone


def test_tasks_are_chosen_by_training_compounds_alone_and_groups_stay_together():
    tables, labels = study_of_luck(0)
    options = {"cp": ["raw_cp"], "tx_min": 0.5, "margin": 0.02}
    first = bioactivity.choose_tasks(tables, labels, **options)
    test = tables["tx"].query("fold == 0 and role == 'test'")[COMPOUND]
    changed = labels.copy()
    changed.loc[test] = 1 - changed.loc[test]
    again = bioactivity.choose_tasks(tables, changed, **options)
    pd.testing.assert_frame_equal(first.query("fold == 0"), again.query("fold == 0"))
    assert not first.query("fold == 1").equals(again.query("fold == 1"))
    # One of two copies in training would give the other's label away.
    pair = np.tile(np.random.default_rng(0).normal(size=105).repeat(2), 3)
    copies = {name: table.assign(z000=10 * pair) for name, table in tables.items()}
    by_pair = pd.Series(np.repeat(np.arange(105), 2), index=labels.index)
    paired = labels.copy()
    paired.iloc[1::2] = labels.iloc[::2].to_numpy()
    chosen = bioactivity.choose_tasks(copies, paired, groups=by_pair, **options)
    assert chosen["cp_auc"].between(0.3, 0.7).mean() > 0.9


# --- distillation -----------------------------------------------------------------------------------------------


def test_a_student_learns_from_a_teacher_what_few_labels_do_not_tell():
    rng = np.random.default_rng(0)
    n, names = 240, np.array([f"c{i:03d}" for i in range(240)])
    cause = rng.normal(size=n)
    labels = pd.DataFrame({"t0": (cause > 0).astype(float), "t1": (cause < 0.3).astype(float)}, index=names)
    labels[np.arange(n) % 8 > 0] = np.where(rng.random((210, 2)) < 0.75, np.nan, labels[np.arange(n) % 8 > 0])
    groups, fold = pd.Series(names, index=names), np.arange(n) % 3
    tables = {}
    for method, noise in (("sphered_cp", 3.0), ("tx", 0.1)):
        values = np.column_stack([cause + noise * rng.normal(size=n) for _ in range(12)]).astype(np.float32)
        key = {"split": "random", "repeat": 0, "fold": 0, "seed": 0, "method": method, "control": ""}
        head = pd.DataFrame({COMPOUND: names, "role": np.where(fold == 0, "test", "train")}).assign(**key)
        tables[method] = pd.concat([head, embedding_table(values)], axis=1)
    student, teacher = tables["sphered_cp"], tables["tx"]
    got = crossfit.distil_folds(student, teacher, labels, groups=groups)
    plain = bioactivity.predict_folds(student, labels)
    assert list(got) == list(plain) and len(got) == 3 * len(plain)
    auc = bioactivity.evaluate_folds(bioactivity.join_predictions([got, plain])).query("metric == 'roc_auc'")
    mean = auc.groupby(["method", "control"], observed=True)["value"].mean()
    assert mean["distilled", "true_pairs"] > mean["sphered_cp", ""] + 0.01
    assert mean["distilled", "true_pairs"] > mean["distilled", "deranged"]
    # Outcomes and TX of test compounds have no part in it; with weight 0 and all labels it is the plain model.
    changed, moved = labels.copy(), teacher.copy()
    changed[fold == 0] = 1 - changed[fold == 0]
    moved.loc[fold == 0, "z000"] = 99.0
    again = crossfit.distil_folds(student, moved, changed, groups=groups)
    np.testing.assert_array_equal(again["score"], got["score"])
    full = labels.fillna(0.0)
    alone = crossfit.distil_folds(student, teacher, full, groups=groups, weight=0.0).query("control == 'true_pairs'")
    np.testing.assert_allclose(alone["score"], bioactivity.predict_folds(student, full)["score"], atol=1e-5)
