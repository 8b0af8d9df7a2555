"""Many-task ridge against scikit-learn and explicit leave-one-out; choosing tasks against regression to the
mean."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.base import clone
from sklearn.linear_model import Ridge

from cpx_utils import bioactivity
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    KEYS,
    METADATA_COLUMNS,
    PLATE,
    WELL,
    ScreenError,
    embedding_table,
    embedding_values,
)
from cpx_utils.splits import halves


def labelled_data(n, d, tasks, seed=0, missing=0.2):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * rng.uniform(0.5, 20, d) + rng.normal(size=d) * 10
    signal = (X - X.mean(0)) / X.std(0) @ rng.normal(size=(d, tasks)) / np.sqrt(d)
    Y = (signal + rng.normal(size=(n, tasks)) > 0.5).astype(float)
    Y[rng.random(Y.shape) < missing] = np.nan
    return X, Y


@pytest.mark.parametrize(("n", "d"), [(60, 8), (40, 90), (50, 50)])
def test_coefficients_equal_scikit_learns_ridge(n, d):
    X, Y = labelled_data(n, d, 6)
    model = bioactivity.ManyTaskRidgeClassifier().fit(X, Y)
    Z = (X - X.mean(0)) / X.std(0)
    new = np.random.default_rng(5).normal(size=(7, d)) * 5
    for task in range(6):
        known = ~np.isnan(Y[:, task])
        ridge = Ridge(alpha=model.alpha_[task], tol=1e-10).fit(Z[known], 2 * Y[known, task] - 1)
        np.testing.assert_allclose(model.coef_[:, task], ridge.coef_, atol=1e-9)
        assert model.intercept_[task] == pytest.approx(ridge.intercept_, abs=1e-9)
        expected = ridge.predict((new - X.mean(0)) / X.std(0))
        np.testing.assert_allclose(model.decision_function(new)[:, task], expected, atol=1e-8)


@pytest.mark.parametrize(("n", "d"), [(30, 5), (20, 45)])
def test_leave_one_out_equals_refitting(n, d):
    X, Y = labelled_data(n, d, 3, seed=1)
    grid = [0.01, 1.0, 100.0]
    model = bioactivity.ManyTaskRidgeClassifier(penalties=grid).fit(X, Y)
    Z = (X - X.mean(0)) / X.std(0)
    for task in range(3):
        rows = np.flatnonzero(~np.isnan(Y[:, task]))
        y = 2 * Y[rows, task] - 1
        centred = Z[rows] - Z[rows].mean(0)
        unit = (centred**2).sum() / min(len(rows) - 1, d)
        errors, scores = [], []
        for alpha in np.array(grid) * unit:
            left_out = []
            for i in range(len(rows)):
                others = np.delete(np.arange(len(rows)), i)
                ridge = Ridge(alpha=alpha, tol=1e-12).fit(Z[rows][others], y[others])
                left_out.append(ridge.predict(Z[rows][[i]])[0])
            scores.append(left_out)
            errors.append(np.mean((np.array(left_out) - y) ** 2))
        np.testing.assert_allclose(model.loo_errors_[:, task], errors, rtol=1e-7)
        best = int(np.argmin(errors))
        assert model.alpha_[task] == pytest.approx(grid[best] * unit)
        np.testing.assert_allclose(model.loo_scores_[rows, task], scores[best], atol=1e-7)
        assert np.isnan(np.delete(model.loo_scores_[:, task], rows)).all()


def many_features(n=300, d=120, t=8, seed=3):
    """Correlated features, and tasks with labels missing at random."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.geomspace(5, 0.05, d) @ np.linalg.qr(rng.normal(size=(d, d)))[0] + 3
    Y = (X[:, :t] - 3 + rng.normal(size=(n, t)) > 0).astype(float)
    Y[rng.random(Y.shape) < 0.6] = np.nan
    return X, Y


def test_beyond_the_limit_every_task_still_gets_its_own_ridge():
    X, Y = many_features()
    solved = bioactivity.ManyTaskRidgeClassifier(decomposed_up_to=50).fit(X, Y)
    standardised = (X - X.mean(0)) / X.std(0)
    for task in range(Y.shape[1]):
        known = ~np.isnan(Y[:, task])
        reference = Ridge(alpha=solved.alpha_[task]).fit(standardised[known], 2 * Y[known, task] - 1)
        scores = solved.decision_function(X)[:, task]
        np.testing.assert_allclose(scores, reference.predict(standardised), atol=2e-4 * np.ptp(scores))
    every = bioactivity.ManyTaskRidgeClassifier(decomposed_up_to=120).fit(X, Y)  # as many as features: as before
    np.testing.assert_array_equal(every.coef_, bioactivity.ManyTaskRidgeClassifier().fit(X, Y).coef_)


def test_beyond_the_limit_penalties_are_as_good_on_unseen_rows():
    differences = []
    for seed in range(6):
        X, Y = many_features(n=900, seed=seed)
        train, test = X[:300], X[300:]
        models = [bioactivity.ManyTaskRidgeClassifier(decomposed_up_to=limit) for limit in (50, 400)]
        scores = [model.fit(train, Y[:300]).decision_function(test) for model in models]
        for task in range(Y.shape[1]):
            known = ~np.isnan(Y[300:, task])
            auc = [sk.roc_auc_score(Y[300:, task][known], one[known, task]) for one in scores]
            differences.append(auc[0] - auc[1])
    assert abs(np.mean(differences)) < 0.003 and np.abs(differences).max() < 0.06


def test_the_best_of_all_penalties_is_found_by_trying_some(monkeypatch):
    some, every = [], []
    for seed in range(4):
        X, Y = many_features(t=12, seed=seed)
        for found, step in ((some, 3), (every, 100)):
            monkeypatch.setattr(bioactivity, "PENALTY_STEP", step)
            found.append(bioactivity.ManyTaskRidgeClassifier(np.logspace(-2.5, 3, 25), decomposed_up_to=50).fit(X, Y))
    assert all(np.isfinite(one.loo_errors_).all() for one in every)
    assert all(np.isfinite(one.loo_errors_).sum(0).max() <= 13 for one in some)
    for one, other in zip(some, every, strict=True):
        np.testing.assert_array_equal(one.alpha_, other.alpha_)
        np.testing.assert_array_equal(one.coef_, other.coef_)


def test_penalties_out_of_order_are_refused():
    for penalties in ([1.0, 0.1], [1.0, 1.0], [0.0, 1.0], []):
        with pytest.raises(ValueError, match="positive numbers in ascending order"):
            bioactivity.ManyTaskRidgeClassifier(penalties).fit(np.eye(4), np.array([0.0, 1.0, 0.0, 1.0]))


def test_beyond_the_limit_poor_tasks_survive():
    X, Y = many_features()
    Y[:, 0] = np.nan
    Y[:, 1] = np.where(np.isnan(Y[:, 1]), np.nan, 1.0)
    Y[2:, 2] = np.nan
    X[:, 5] = 7.0
    scores = bioactivity.ManyTaskRidgeClassifier(decomposed_up_to=50).fit(X, Y).decision_function(X)
    assert np.isfinite(scores).all()
    assert np.ptp(scores[:, 0]) == 0 and scores[0, 0] == 0
    np.testing.assert_allclose(scores[:, 1], 1.0, atol=1e-5)


def test_predictions_stay_small_and_can_be_joined():
    rng = np.random.default_rng(4)
    names = [f"c{i}" for i in rng.permutation(30)]
    labels = pd.DataFrame((rng.random((30, 3)) < 0.5).astype(float), index=names, columns=["b", "a", "c"])
    tables = []
    for method in ("rcca", "pca_cp"):
        head = pd.DataFrame({"Metadata_Compound": names, "role": ["train"] * 20 + ["test"] * 10})
        keys = pd.DataFrame([("random", 0, 1, 2, method, "true_pairs")] * 30, columns=KEYS)
        table = pd.concat([head, keys, embedding_table(rng.normal(size=(30, 2)))], axis=1)
        tables.append(bioactivity.predict_folds(table, labels))
    joined = bioactivity.join_predictions(tables)
    assert list(joined) == bioactivity.PREDICTION_COLUMNS and len(joined) == 2 * 10 * 3
    for name in ("split", "method", "control", "model", "compound", "task"):
        assert isinstance(joined[name].dtype, pd.CategoricalDtype)
        assert list(joined[name].cat.categories) == sorted(joined[name].cat.categories)
    assert joined.memory_usage(deep=False)[1:].sum() / len(joined) < 30
    own = labels.loc[joined["compound"].astype(str)].to_numpy()
    column = joined["task"].astype(str).map({"b": 0, "a": 1, "c": 2}).to_numpy()
    np.testing.assert_array_equal(joined["label"], own[np.arange(len(own)), column])
    assert set(joined["compound"].astype(str)) == set(names[20:])
    apart = [bioactivity.evaluate_folds(table) for table in tables]
    order = ["method", "metric", "task"]
    values = [
        table.sort_values(order, ignore_index=True) for table in (bioactivity.evaluate_folds(joined), pd.concat(apart))
    ]
    pd.testing.assert_frame_equal(*values)
    assert list(bioactivity.join_predictions([])) == bioactivity.PREDICTION_COLUMNS


def test_classifier_is_an_estimator_and_survives_poor_tasks():
    X, Y = labelled_data(40, 6, 5)
    X[:, 2] = 7.0  # constant
    Y[:, 0] = np.nan
    Y[:, 1] = np.where(np.isnan(Y[:, 1]), np.nan, 1.0)
    Y[2:, 2] = np.nan
    Y[:2, 2] = [0.0, 1.0]
    model = clone(bioactivity.ManyTaskRidgeClassifier(penalties=[0.1, 1.0]))
    scores = model.fit(X, Y).decision_function(X)
    assert np.isfinite(scores).all() and np.isfinite(model.coef_).all()
    assert np.ptp(scores[:, 0]) == np.ptp(scores[:, 2]) == 0 and scores[0, 0] == 0
    np.testing.assert_allclose(scores[:, 1], 1.0, atol=1e-12)
    assert set(np.unique(model.predict(X))) <= {0, 1} and model.get_params()["penalties"] == [0.1, 1.0]
    np.testing.assert_array_equal(
        bioactivity.ManyTaskRidgeClassifier().fit(X, Y[:, 3]).decision_function(X)[:, 0],
        bioactivity.ManyTaskRidgeClassifier().fit(X, Y[:, [3]]).decision_function(X)[:, 0],
    )
    with pytest.raises(ValueError, match="not finite"):
        model.fit(np.full((40, 2), np.nan), Y)
    with pytest.raises(ValueError, match="0, 1 or NaN"):
        model.fit(X, Y + 1)
    with pytest.raises(ValueError, match="6 features"):
        model.decision_function(X[:, :3])


def test_signal_is_found_and_noise_is_shrunk():
    X, Y = labelled_data(300, 20, 4, seed=2)
    test_X, test_Y = X[200:], Y[200:]
    model = bioactivity.ManyTaskRidgeClassifier().fit(X[:200], Y[:200])
    table = bioactivity.evaluate_tasks(test_Y, model.decision_function(test_X))
    assert (table["roc_auc"] > 0.7).all()
    noise = bioactivity.ManyTaskRidgeClassifier().fit(np.random.default_rng(0).normal(size=(200, 20)), Y[:200])
    assert np.median(np.abs(noise.coef_)) < 0.2 * np.median(np.abs(model.coef_))
    forest = bioactivity.random_forest_scores(X[:200], Y[:200], test_X, seed=0, n_trees=40)
    assert (bioactivity.evaluate_tasks(test_Y, forest)["roc_auc"] > 0.6).all()
    again = bioactivity.random_forest_scores(X[:200], Y[:200], test_X, seed=0, n_trees=40)
    np.testing.assert_array_equal(forest, again)
    one_class = bioactivity.random_forest_scores(X[:9], np.ones((9, 1)), test_X)
    assert (one_class == 0.5).all()


def test_evaluate_tasks_names_tasks_and_lifts_over_prevalence():
    labels = pd.DataFrame({"t1": [1.0, 0, 0, np.nan, 0], "t2": [1.0, 1, np.nan, 1, 1]})
    scores = np.array([[0.9, 1], [0.1, 2], [0.3, 3], [9.0, 4], [0.2, 5]])
    table = bioactivity.evaluate_tasks(labels, scores).set_index("task")
    assert table.loc["t1"].to_dict() == {
        "n_active": 1,
        "n_inactive": 3,
        "roc_auc": 1.0,
        "pr_auc": 1.0,
        "pr_auc_lift": 4.0,
    }
    assert table.loc["t2", ["roc_auc", "pr_auc", "pr_auc_lift"]].isna().all()


def test_label_matrix_counts_given_compounds_only():
    activity = pd.DataFrame(
        {
            COMPOUND: ["a", "b", "c", "d", "a", "b", "x"],
            "task": ["t1", "t1", "t1", "t1", "t2", "t2", "t2"],
            "active": np.array([1, 0, 1, 0, 1, 1, 0], dtype=np.int8),
        }
    )
    tasks = pd.DataFrame({"task": ["t2", "t1", "t3"], "target": "", "family": ["f", "g", "g"]})
    labels, table = bioactivity.label_matrix(activity, tasks, ["d", "c", "b", "a"], min_active=2, min_inactive=2)
    assert list(labels.columns) == ["t1"] and labels["t1"].tolist() == [0, 1, 0, 1]
    assert table["n_active"].tolist() == [2, 2, 0] and table["n_inactive"].tolist() == [0, 2, 0]
    assert table["tested"].tolist() == [False, True, False] and table["family"].tolist() == ["f", "g", "g"]
    with pytest.raises(ScreenError, match="twice"):
        bioactivity.label_matrix(activity, tasks, ["a", "a"])


def null_predictions(seed=0, n=240, n_tasks=40):
    """TX and CP see every task equally badly: any TX-strong, CP-weak task is luck."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, n_tasks)) < 0.4).astype(float)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    fold = rng.permutation(n) % 3
    frames = []
    for method, control in (("raw_cp", ""), ("tx", ""), ("contrastive", "true_pairs")):
        scores = np.nan_to_num(labels) * 0.6 + rng.normal(size=labels.shape)
        row, task = np.nonzero(~np.isnan(labels))
        frames.append(
            pd.DataFrame(
                {
                    "split": "random",
                    "repeat": 0,
                    "fold": fold[row],
                    "seed": 0,
                    "method": method,
                    "control": control,
                    "compound": [f"c{i}" for i in row],
                    "task": [f"t{t}" for t in task],
                    "label": labels[row, task],
                    "score": scores[row, task] + fold[row] * 5.0,  # folds are not on one scale
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def test_fold_auc_is_taken_within_folds():
    predictions = null_predictions(n_tasks=4)
    table = bioactivity.fold_auc(predictions)
    for _, row in table.iterrows():
        one = predictions[(predictions["method"] == row["method"]) & (predictions["task"] == row["task"])]
        expected = np.mean([sk.roc_auc_score(f["label"], f["score"]) for _, f in one.groupby("fold")])
        assert row["roc_auc"] == pytest.approx(expected, abs=1e-12)
    assert len(table) == 12
    with pytest.raises(ValueError, match="twice"):
        bioactivity.fold_auc(pd.concat([predictions, predictions.head(1)]))


def test_choosing_and_measuring_apart_removes_regression_to_the_mean():
    honest, naive = [], []
    for seed in range(6):
        predictions = null_predictions(seed)
        first = pd.Series(halves(predictions["compound"].unique(), 0), index=predictions["compound"].unique())
        for same, collected in ((False, honest), (True, naive)):
            table = bioactivity.choose_and_measure(predictions, first, same_compounds=same)
            assert table["chosen"].any() and set(table["half"]) == {"first", "second"}
            mean = table[table["chosen"]].groupby("method")["roc_auc"].mean()
            collected.append(mean["contrastive"] - mean["raw_cp"])
    assert abs(np.mean(honest)) < 0.01
    assert np.mean(naive) > 0.03  # CP "improves" by bad luck alone


def test_choose_and_measure_measures_on_the_other_half():
    predictions = null_predictions(1)
    names = predictions["compound"].unique()
    first = pd.Series(halves(names, 0), index=names)
    table = bioactivity.choose_and_measure(predictions, first, tx_min=0.6, margin=0.02)
    half = predictions["compound"].map(first)
    chosen_on, measured_on = (bioactivity.fold_auc(predictions[mask]) for mask in (half, ~half))
    wide = chosen_on.pivot(index="task", columns="method", values="roc_auc")
    expected = wide.index[(wide["tx"] >= 0.6) & (wide["tx"] - wide["raw_cp"] >= 0.02)]
    got = table[(table["half"] == "first") & (table["method"] == "contrastive")].set_index("task")
    assert set(got.index[got["chosen"]]) == set(expected)
    truth = measured_on[measured_on["method"] == "contrastive"].set_index("task")["roc_auc"]
    pd.testing.assert_series_equal(got["roc_auc"], truth[got.index], check_names=False)
    with pytest.raises(ScreenError, match="no predictions of tx"):
        bioactivity.choose_and_measure(predictions[predictions["method"] != "tx"], first)
    assert bioactivity.tx_strong_cp_weak([0.5, 0.7, np.nan], [0.8, 0.72, 0.9]).tolist() == [
        True,
        False,
        False,
    ]


def consensus_table(values, method="raw_cp", control="", seed=0, folds=2):
    """Consensus embeddings of two folds, with the keys of the stage contract."""
    ids = [f"c{row:03d}" for row in range(len(values))]
    tables = []
    for fold in range(folds):
        role = np.where(np.arange(len(values)) % folds == fold, "test", "train")
        keys = pd.DataFrame([("random", 0, fold, seed, method, control)] * len(values), columns=KEYS)
        head = pd.DataFrame({COMPOUND: ids, "role": role})
        tables.append(pd.concat([head, keys, embedding_table(values)], axis=1))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def fold_data():
    values, labels = labelled_data(120, 5, 3)
    labels = pd.DataFrame(labels, index=[f"c{row:03d}" for row in range(120)], columns=["t0", "t1", "t2"])
    return values.astype(np.float32), labels


def test_folds_are_predicted_from_their_training_compounds(fold_data):
    values, labels = fold_data
    predictions = bioactivity.predict_folds(consensus_table(values), labels)
    assert list(predictions.columns) == [*KEYS, "model", "compound", "task", "label", "score"]
    assert len(predictions) == labels.notna().sum().sum()  # every label is predicted once a repeat
    test = np.arange(120) % 2 == 1
    model = bioactivity.ManyTaskRidgeClassifier().fit(values[~test], labels.to_numpy()[~test])
    expected = pd.DataFrame(model.decision_function(values[test]), index=labels.index[test], columns=labels.columns)
    mine = predictions[predictions["fold"] == 1].pivot(index="compound", columns="task", values="score")
    known = labels[test].notna()
    np.testing.assert_allclose(mine.to_numpy()[known.to_numpy()], expected.to_numpy()[known.to_numpy()], rtol=1e-5)
    forests = bioactivity.predict_folds(consensus_table(values), labels[["t0"]], model="random_forest", seed=3)
    assert set(forests["model"]) == {"random_forest"} and forests["score"].between(0, 1).all()


def test_folds_are_evaluated_as_scikit_learn_does(fold_data):
    values, labels = fold_data
    predictions = bioactivity.predict_folds(consensus_table(values), labels)
    table = bioactivity.evaluate_folds(predictions)
    for key, part in predictions.groupby(["fold", "task"]):
        mine = table[(table["fold"] == key[0]) & (table["task"] == key[1])].set_index("metric")
        assert mine.loc["roc_auc", "value"] == pytest.approx(sk.roc_auc_score(part["label"], part["score"]))
        assert mine.loc["pr_auc", "value"] == pytest.approx(sk.average_precision_score(part["label"], part["score"]))
        assert mine.loc["roc_auc", "n_active"] == part["label"].sum()
    nothing = bioactivity.predict_folds(consensus_table(values), labels[[]])
    assert len(nothing) == 0 and len(bioactivity.evaluate_folds(nothing)) == 0
    assert len(bioactivity.task_gains(nothing)) == 0
    assert len(bioactivity.chosen_gains(nothing, pd.Series(dtype=bool))) == 0


def test_side_by_side_representations_weigh_the_same(fold_data):
    values, _ = fold_data
    first = consensus_table(values * 100, "sphered_cp")
    second = consensus_table(np.hstack([values, values])[:, :7], "rcca", "deranged", seed=2)
    both = bioactivity.concatenate(first, second)
    assert set(both["method"]) == {"concat:rcca"} and set(both["control"]) == {"deranged"} and set(both["seed"]) == {2}
    part = both[both["fold"] == 0]
    codes, training = embedding_values(part), (part["role"] == "train").to_numpy()
    variances = [codes[training][:, block].var(axis=0).sum() for block in (slice(0, 5), slice(5, 12))]
    assert variances == pytest.approx([1.0, 1.0], rel=1e-4)
    np.testing.assert_allclose(np.corrcoef(codes[:, 0], values[:, 0])[0, 1], 1, atol=1e-5)


def test_wells_are_put_side_by_side_with_the_scales_of_training_compounds(fold_data):
    values, _ = fold_data
    first, second = consensus_table(values, "sphered_cp"), consensus_table(values[:, :3] * 9, "rcca", "true_pairs")
    metadata = {PLATE: "p", WELL: "", DOSE: np.nan, CONTROL: False}
    wells = [table.drop(columns="role").assign(**metadata) for table in (first, second)]
    both = bioactivity.concatenate_wells(*wells, first, second)
    assert set(both["method"]) == {"concat:rcca"} and set(both["control"]) == {"true_pairs"}
    expected = bioactivity.concatenate(first, second)
    np.testing.assert_allclose(embedding_values(both), embedding_values(expected), rtol=1e-6)
    assert list(both.columns[:5]) == METADATA_COLUMNS
    with pytest.raises(ValueError, match="other wells"):
        bioactivity.concatenate_wells(wells[0].iloc[::-1], wells[1], first, second)
    constant = bioactivity.concatenate(first, consensus_table(np.ones((len(values), 2)), "rcca"))
    assert np.isfinite(embedding_values(constant)).all()


def test_a_second_opinion_stands_beside_the_first_on_the_same_folds_and_tasks(fold_data):
    values, labels = fold_data
    tables = {"raw_cp": consensus_table(values, "raw_cp"), "rcca": consensus_table(values, "rcca", "true_pairs")}
    repeated = pd.concat([tables["rcca"], *(tables["rcca"].assign(**{k: v}) for k, v in
                          (("repeat", 1), ("split", "moa"), ("seed", 1), ("control", "deranged")))])  # fmt: skip
    forests = bioactivity.second_opinion(tables | {"rcca": repeated}, labels, n_trees=10)
    assert set(forests["model"]) == {"random_forest"} and set(forests["control"]) == {"", "true_pairs"}
    assert forests[["split", "repeat", "seed"]].drop_duplicates().to_numpy().tolist() == [["random", 0, 0]]
    linear = pd.concat([bioactivity.predict_folds(table, labels) for table in (tables["raw_cp"], repeated)])
    linear = pd.concat([linear, bioactivity.predict_folds(tables["raw_cp"].assign(method="pca_cp"), labels)])
    values = bioactivity.evaluate_folds(pd.concat([linear, forests], ignore_index=True))
    beside = bioactivity.opinions_beside(values)
    assert list(beside.index) == ["raw_cp", "rcca"] and list(beside) == ["random_forest", "ridge", "tasks"]
    roc = values[(values["metric"] == "roc_auc") & (values["method"] == "raw_cp") & (values["model"] == "ridge")]
    assert beside.loc["raw_cp", "ridge"] == pytest.approx(roc["value"].mean())
    assert bioactivity.second_opinion({}, labels).empty
    assert bioactivity.opinions_beside(bioactivity.evaluate_folds(linear)).empty


def test_gains_are_differences_of_the_same_task():
    predictions = null_predictions(2, n_tasks=6)
    gains = bioactivity.task_gains(predictions)
    auc = bioactivity.fold_auc(predictions).set_index(["method", "task"])["roc_auc"]
    assert "raw_cp" not in set(gains["method"])
    for row in gains.itertuples():
        assert row.gain == pytest.approx(auc[row.method, row.task] - auc["raw_cp", row.task])


def test_chosen_gains_show_regression_to_the_mean():
    predictions = null_predictions(3)
    names = predictions["compound"].unique()
    first = pd.Series(halves(names, 0), index=names)
    table = bioactivity.chosen_gains(predictions, first, n_bootstrap=200).set_index(["method", "how"])
    measured = bioactivity.choose_and_measure(predictions, first)
    chosen = measured[measured["chosen"]].pivot_table(index=["half", "task"], columns="method", values="roc_auc")
    expected = (chosen["contrastive"] - chosen["raw_cp"]).mean()
    honest, biased = (table.loc[("contrastive", how)] for how in ("other half", "same compounds"))
    assert honest["mean"] == pytest.approx(expected) and honest["n_tasks"] == len(chosen)
    assert honest["ci_low"] <= honest["mean"] <= honest["ci_high"]
    assert biased["mean"] > honest["mean"]
