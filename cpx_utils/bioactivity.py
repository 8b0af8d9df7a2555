"""Endpoint 3: predict assay outcomes from embeddings, many tasks at once.

A screen's activity table is sparse: each task has its own labelled compounds. The ridge classifier below is
exact for each task's own labels, picks each task's penalty by closed-form leave-one-out, and does so for all
tasks in one decomposition a task. Scores of different folds come from different models and are not
comparable, so areas under curves are taken within a fold and then averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from cpx_utils.metrics import pr_auc, roc_auc
from cpx_utils.profiles import COMPOUND, KEYS, METADATA_COLUMNS, ScreenError, embedding_table, embedding_values

DEFAULT_PENALTIES = np.logspace(-2.5, 3.0, 12)
DECOMPOSED_UP_TO = 400
# Beyond it, of so many neighbouring penalties one is tried at first.
PENALTY_STEP = 3
PREDICTION_COLUMNS = [*KEYS, "model", "compound", "task", "label", "score"]


def label_matrix(
    activity: pd.DataFrame,
    tasks: pd.DataFrame,
    compounds: np.ndarray,
    *,
    min_active: int = 25,
    min_inactive: int = 25,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of the given compounds, and which tasks have enough of them.

    Parameters
    ----------
    activity : DataFrame
        ``Metadata_Compound, task, active`` (0/1); a missing label has no row.
    tasks : DataFrame
        ``task, target, family``.
    compounds : array (n_compounds,)
        The compounds that take part, in the order of the rows wanted.
    min_active, min_inactive : int
        A task with fewer labels of either kind among ``compounds`` is listed but not tested.

    Returns
    -------
    labels : DataFrame (n_compounds, n_tested_tasks)
        Index compound, columns task: 1, 0 or NaN (missing).
    table : DataFrame
        Every task: the columns of ``tasks`` and ``n_active, n_inactive, tested``.
    """
    names = pd.Index(np.asarray(compounds, dtype=object).astype(str), name=COMPOUND)
    if names.has_duplicates:
        raise ScreenError(f"compound {names[names.duplicated()][0]} is listed twice where labels are asked for")
    row = names.get_indexer(activity[COMPOUND].astype(str))
    task_names = pd.Index(tasks["task"].astype(str))
    column = task_names.get_indexer(activity["task"].astype(str))
    known = (row >= 0) & (column >= 0)
    values = np.full((len(names), len(task_names)), np.nan)
    values[row[known], column[known]] = activity["active"].to_numpy(dtype=float)[known]
    table = tasks.reset_index(drop=True).copy()
    table["n_active"] = (values == 1).sum(0)
    table["n_inactive"] = (values == 0).sum(0)
    table["tested"] = (table["n_active"] >= min_active) & (table["n_inactive"] >= min_inactive)
    tested = table["tested"].to_numpy(dtype=bool)
    columns = pd.Index(task_names[tested].to_numpy(dtype=object), name="task")
    return pd.DataFrame(values[:, tested], index=names, columns=columns), table


class ManyTaskRidgeClassifier(ClassifierMixin, BaseEstimator):
    """L2-regularised linear classifiers by least squares on -1/+1, one a task, with missing labels and
    leave-one-out.

    For each task, on its labelled compounds only, minimises :math:`\\|y - Xw - b\\|^2 + \\lambda \\|w\\|^2`
    with a free intercept (equal to ``sklearn.linear_model.Ridge``). The penalty is the one of smallest
    leave-one-out squared error,
    :math:`e_i / (1 - h_{ii})` in closed form (Allen 1974; Rifkin and Lippert 2007). Squared error rather than
    the ROC-AUC of leave-one-out scores, because leaving out an active lowers the intercept of its own model:
    with strong penalties such scores rank actives below inactives, and their AUC falls to 0 where it should
    be one half.

    Features are standardised on the training rows (all of them, labelled or not) inside.

    Parameters
    ----------
    penalties : array (n_penalties,), optional
        Grid relative to the mean non-trivial eigenvalue of a task's Gram matrix, so that one grid serves
        embeddings of any width. Default: 12 values from 10^-2.5 to 10^3.
    decomposed_up_to : int
        Most features, or rows, for which each task has a decomposition of its own (see Notes).

    Attributes
    ----------
    coef_ : array (n_features, n_tasks)
        On standardised features.
    intercept_, alpha_ : arrays (n_tasks,)
        ``alpha_`` is the chosen penalty on scikit-learn's scale.
    loo_scores_ : array (n_train, n_tasks)
        Leave-one-out decision values at the chosen penalty (the standardisation is not redone), NaN where
        unlabelled.
    loo_errors_ : array (n_penalties, n_tasks)
        Mean leave-one-out squared error, NaN of penalties that were not tried (see Notes).
    mean_, scale_ : arrays (n_features,)
    classes_ : array([0, 1])

    Notes
    -----
    A task with one class only in training gets a constant score, and a task without any label the score 0.

    Beyond `decomposed_up_to` features and rows a decomposition a task would take hours, since it grows with the cube of
    their number. Then one decomposition of all training rows serves all tasks: with its eigenvalues, scaled to a task's
    number of labels, leave-one-out is approximate and picks the penalty, from every third one first and then from those
    around the best; at that penalty the task's own equation is solved by conjugate gradients, all tasks at once, with
    the same decomposition as preconditioner (Hestenes and Stiefel 1952), to a relative residual of 1e-5.
    """

    def __init__(self, penalties: np.ndarray | None = None, decomposed_up_to: int = DECOMPOSED_UP_TO):
        self.penalties = penalties
        self.decomposed_up_to = decomposed_up_to

    def fit(self, X: np.ndarray, Y: np.ndarray) -> ManyTaskRidgeClassifier:
        """Fit all tasks.

        Parameters
        ----------
        X : array (n_train, n_features)
            Finite.
        Y : array (n_train, n_tasks)
            1 active, 0 inactive, NaN missing.

        Returns
        -------
        ManyTaskRidgeClassifier
        """
        X = np.asarray(X, dtype=float)
        Y = np.asarray(Y, dtype=float)
        Y = Y[:, None] if Y.ndim == 1 else Y
        if X.ndim != 2 or len(X) != len(Y) or not len(X):
            raise ValueError(f"X {X.shape} and Y {Y.shape} must have the same rows, at least one")
        if not np.isfinite(X).all():
            raise ValueError("X holds values that are not finite")
        labelled = ~np.isnan(Y)
        if not np.isin(Y[labelled], (0.0, 1.0)).all():
            raise ValueError("labels must be 0, 1 or NaN (missing)")
        grid = DEFAULT_PENALTIES if self.penalties is None else np.asarray(self.penalties, dtype=float)
        if grid.ndim != 1 or not len(grid) or not (grid > 0).all() or not (np.diff(grid) > 0).all():
            raise ValueError("penalties must be positive numbers in ascending order")
        self.classes_ = np.array([0, 1])
        self.n_features_in_ = X.shape[1]
        self.mean_ = X.mean(0)
        deviation = X.std(0)
        # A feature that is constant up to rounding must not be blown up to noise of unit size.
        constant = deviation <= 1e-12 * np.maximum(np.abs(self.mean_), 1.0)
        self.scale_ = np.where(constant, 1.0, deviation)
        standardised = np.where(constant, 0.0, (X - self.mean_) / self.scale_)
        solve = self._solve_tasks if min(X.shape) > self.decomposed_up_to else self._fit_tasks
        solve(standardised, 2.0 * Y - 1.0, labelled, grid)
        return self

    def _fit_tasks(self, X: np.ndarray, targets: np.ndarray, labelled: np.ndarray, grid: np.ndarray) -> None:
        n_tasks = targets.shape[1]
        self.coef_ = np.zeros((X.shape[1], n_tasks))
        self.intercept_ = np.zeros(n_tasks)
        self.alpha_ = np.full(n_tasks, np.nan)
        self.loo_scores_ = np.full(targets.shape, np.nan)
        self.loo_errors_ = np.full((len(grid), n_tasks), np.nan)
        # Tasks labelled for the same compounds share one decomposition.
        patterns: dict[bytes, list[int]] = {}
        for task in range(n_tasks):
            patterns.setdefault(labelled[:, task].tobytes(), []).append(task)
        gram = X @ X.T if X.shape[1] > X.shape[0] else None
        for tasks in patterns.values():
            rows = np.flatnonzero(labelled[:, tasks[0]])
            if len(rows) < 3:
                self.intercept_[tasks] = targets[np.ix_(rows, tasks)].mean(0) if len(rows) else 0.0
                continue
            self._fit_pattern(X, gram, targets, rows, np.array(tasks), grid)

    def _solve_tasks(self, X: np.ndarray, targets: np.ndarray, labelled: np.ndarray, grid: np.ndarray) -> None:
        """All tasks on one eigendecomposition of all rows; `X` is centred. Float32 is enough for the tolerances."""
        count = np.maximum(labelled.sum(0), 1).astype(np.float32)  # (t,)
        mask = labelled.astype(np.float32)
        mean = np.where(labelled, targets, 0.0).sum(0) / count
        y = np.where(labelled, targets - mean, 0.0).astype(np.float32)  # (n, t)
        eigenvalue, rows, vectors = _principal_rows(X)  # (r, 1), (n, r), (d, r)
        centre = rows.T @ mask / count  # (r, t)
        spread = (rows**2).sum(1) @ mask - count * (centre**2).sum(0)
        unit = np.maximum(spread, 1e-12) / np.maximum(np.minimum(count - 1, X.shape[1]), 1)  # (t,)
        projected = rows.T @ y  # (r, t)

        def left_out(penalty, leverage):
            """Residuals (n, t) of rows that their own task's fit has not seen, for one penalty a task."""
            fitted = rows @ (projected / (eigenvalue * count + penalty))
            fitted -= np.einsum("nt,nt->t", fitted, mask) / count
            residual = np.subtract(y, fitted, out=fitted)
            residual *= mask
            leverage = np.minimum((1.0 + leverage) / count, np.float32(0.95))
            return np.divide(residual, np.subtract(1.0, leverage, out=leverage), out=residual)

        penalties = (grid[:, None] * unit).astype(np.float32)  # (p, t)
        task = np.arange(len(unit))
        self.loo_errors_ = np.full(penalties.shape, np.nan)

        def best_of(places):
            """Add the errors at one penalty a task for each line of `places` (k, t); best place of each task so far."""
            tried = penalties[places, task]
            for place, penalty, leverage in zip(
                places, tried, _leverages(rows, eigenvalue, tried / count), strict=True
            ):
                self.loo_errors_[place, task] = (left_out(penalty, leverage) ** 2).sum(0) / count
            # Of equal errors the strongest penalty: the simpler model.
            return len(grid) - 1 - np.nan_to_num(self.loo_errors_, nan=np.inf)[::-1].argmin(0)

        # The error has one valley along the penalties, so every third one tells where it lies.
        coarse = np.unique([*range(0, len(grid), PENALTY_STEP), len(grid) - 1])
        best = best_of(np.repeat(coarse[:, None], len(unit), axis=1))
        near = [step for step in range(1 - PENALTY_STEP, PENALTY_STEP) if step]
        best = best_of(np.clip(best + np.array(near)[:, None], 0, len(grid) - 1))
        chosen = penalties[best, task]
        residual = left_out(chosen, next(_leverages(rows, eigenvalue, chosen[None] / count)))
        self.loo_scores_ = np.where(labelled, targets - residual, np.nan)
        self.alpha_ = chosen.astype(float)

        def apply(weights):
            """Each task's own normal equation, left side: (r, t) -> (r, t)."""
            within = rows @ weights  # (n, t)
            within -= np.einsum("rt,rt->t", centre, weights)
            within *= mask  # sums to 0 over a task's rows
            return rows.T @ within + chosen * weights

        weights = _conjugate_gradients(apply, projected, 1.0 / (eigenvalue * count + chosen))
        self.coef_ = (vectors @ weights).astype(float)
        self.intercept_ = mean - np.einsum("rt,rt->t", centre, weights)

    def _fit_pattern(
        self,
        X: np.ndarray,
        gram: np.ndarray | None,
        targets: np.ndarray,
        rows: np.ndarray,
        tasks: np.ndarray,
        grid: np.ndarray,
    ) -> None:
        """Tasks that share their labelled rows: one eigendecomposition, all penalties, all leave-one-out
        residuals."""
        n = len(rows)
        y = targets[np.ix_(rows, tasks)]  # (n, t)
        y_mean = y.mean(0)
        centre = X[rows].mean(0)
        centred = X[rows] - centre  # (n, d)
        primal = centred.shape[1] <= n
        if primal:
            eigenvalue, vectors = np.linalg.eigh(centred.T @ centred)
            scores = centred @ vectors  # (n, d), left singular vectors times singular values
        else:
            block = (centred @ centred.T) if gram is None else _doubly_centred(gram[np.ix_(rows, rows)])
            eigenvalue, left = np.linalg.eigh(block)
        eigenvalue = np.maximum(eigenvalue, 0.0)
        unit = eigenvalue.sum() / min(n - 1, X.shape[1]) or 1.0
        alphas = grid * unit
        shrink = 1.0 / (eigenvalue[:, None] + alphas)  # (r, p)
        # In the dual, left * eigenvalue * left' / (eigenvalue + alpha) is the same hat matrix.
        basis, weight = (scores, shrink) if primal else (left, eigenvalue[:, None] * shrink)
        leverage = 1.0 / n + basis**2 @ weight  # (n, p)
        projected = basis.T @ (y - y_mean)  # (r, t)
        shrunk = weight[:, :, None] * projected[:, None, :]  # (r, p, t)
        fitted = (basis @ shrunk.reshape(len(weight), -1)).reshape(n, *shrunk.shape[1:]) + y_mean
        # (n, p, t); 1 - h > 0 since every penalty is positive and n > 1
        residual = (y[:, None, :] - fitted) / (1.0 - leverage)[:, :, None]
        errors = (residual**2).mean(0)  # (p, t)
        # Of equal errors the strongest penalty: the simpler model.
        best = len(grid) - 1 - errors[::-1].argmin(0)
        picked = np.arange(len(tasks))
        solution = shrink[:, best] * projected  # (r, t)
        coefficients = vectors @ solution if primal else centred.T @ (left @ solution)
        self.coef_[:, tasks] = coefficients
        self.intercept_[tasks] = y_mean - centre @ coefficients
        self.alpha_[tasks] = alphas[best]
        self.loo_errors_[:, tasks] = errors
        self.loo_scores_[np.ix_(rows, tasks)] = (y[:, None, :] - residual)[:, best, picked]

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scores (n, n_tasks); larger means more likely active, 0 lies half-way between the classes."""
        check_is_fitted(self, "coef_")
        X = np.asarray(X, dtype=float)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has shape {X.shape}, but the classifier was fitted on {self.n_features_in_} features")
        return ((X - self.mean_) / self.scale_) @ self.coef_ + self.intercept_

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predicted class 0 or 1, (n, n_tasks)."""
        return (self.decision_function(X) > 0).astype(int)


def _principal_rows(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues (r, 1) of the covariance of centred rows, the rows (n, r) on its eigenvectors, and these (d, r).

    From the smaller of the two Gram matrices, and in float32.
    """
    n, d = X.shape
    if d <= n:
        single = X.astype(np.float32)
        # No eigenvalue is too small to keep here, and what rounding leaves of them only preconditions.
        eigenvalue, vectors = eigh(single.T @ single / n, driver="evd", check_finite=False)
        rows = single @ vectors
    else:
        eigenvalue, left = np.linalg.eigh(X @ X.T / n)
        kept = eigenvalue > 1e-9 * eigenvalue[-1]  # the others are rounding: the mean is taken off
        eigenvalue, left = eigenvalue[kept], left[:, kept].astype(np.float32)
        length = np.sqrt(n * eigenvalue).astype(np.float32)
        rows, vectors = left * length, X.T.astype(np.float32) @ left / length
    return np.maximum(eigenvalue, 0.0).astype(np.float32)[:, None], rows, vectors


def _leverages(rows: np.ndarray, eigenvalue: np.ndarray, ridges: np.ndarray) -> Iterator[np.ndarray]:
    """Sum over components of ``rows**2 / (eigenvalue + ridge)``: (n, t) for each line of `ridges` (p, t).

    It is smooth in the logarithm of the ridge, so it is computed on a grid of them, whatever p and t are, and
    interpolated; steps of a fifth leave errors of about a thousandth.
    """
    step = 0.2
    place = np.log(ridges.astype(float)) / step
    first = np.floor(place.min())
    place -= first
    nodes = np.exp(step * (first + np.arange(int(place.max()) + 2)))
    at_nodes = rows**2 @ (1.0 / (eigenvalue + nodes)).astype(np.float32)  # (n, n_nodes)
    task = np.arange(ridges.shape[1])
    for line in place:
        lower = line.astype(int)
        mix = np.zeros((len(nodes), len(task)), dtype=np.float32)
        mix[lower, task] = 1.0 - (line - lower)
        mix[lower + 1, task] = line - lower
        yield at_nodes @ mix


def _conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray],
    right: np.ndarray,
    precondition: np.ndarray,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 200,
) -> np.ndarray:
    """Solve a positive definite system for every column of `right` (d, t) at once; `precondition` is diagonal."""
    solution, residual = np.zeros_like(right), right.copy()
    step = precondition * residual
    direction = step.copy()
    product = np.einsum("dt,dt->t", residual, step)
    enough = tolerance * np.linalg.norm(right, axis=0)
    for _ in range(max_iterations):
        if (np.linalg.norm(residual, axis=0) <= enough).all():
            break
        image = apply(direction)
        length = product / np.maximum(np.einsum("dt,dt->t", direction, image), 1e-30)
        solution += length * direction
        image *= length
        residual -= image
        step = precondition * residual
        following = np.einsum("dt,dt->t", residual, step)
        direction *= following / np.maximum(product, 1e-30)
        direction += step
        product = following
    return solution


def _doubly_centred(gram: np.ndarray) -> np.ndarray:
    """Gram matrix of rows after their mean is taken off."""
    means = gram.mean(0)
    return gram - means - means[:, None] + means.mean()


def random_forest_scores(
    X_train: np.ndarray, Y_train: np.ndarray, X_test: np.ndarray, *, seed: int = 0, n_trees: int = 200
) -> np.ndarray:
    """Scores of one random forest a task: the second opinion beside the linear models.

    Parameters
    ----------
    X_train : array (n_train, n_features)
    Y_train : array (n_train, n_tasks)
        1, 0 or NaN (missing).
    X_test : array (n_test, n_features)
    seed, n_trees : int

    Returns
    -------
    array (n_test, n_tasks)
        Share of the votes for "active"; one half for a task with one class only in training.

    References
    ----------
    Breiman, Machine Learning 45 (2001).
    """
    from sklearn.ensemble import RandomForestClassifier

    Y_train = np.asarray(Y_train, dtype=float)
    scores = np.full((len(X_test), Y_train.shape[1]), 0.5)
    for task in range(Y_train.shape[1]):
        rows = ~np.isnan(Y_train[:, task])
        labels = Y_train[rows, task].astype(int)
        if len(np.unique(labels)) < 2:
            continue
        forest = RandomForestClassifier(
            n_estimators=n_trees,
            min_samples_leaf=3,
            class_weight="balanced_subsample",
            random_state=seed + task,
            n_jobs=1,
        )
        forest.fit(np.asarray(X_train)[rows], labels)
        scores[:, task] = forest.predict_proba(np.asarray(X_test))[:, 1]
    return scores


def predict_folds(
    consensus: pd.DataFrame, labels: pd.DataFrame, *, model: str = "ridge", seed: int = 0, n_trees: int = 200
) -> pd.DataFrame:
    """Train every task on a fold's training compounds and score its test compounds, for each representation.

    Parameters
    ----------
    consensus : DataFrame
        Metadata_Compound, `role` (train, test), `KEYS` and z000 ...
    labels : DataFrame (n_compounds, n_tasks)
        Index compound, columns task: 1, 0 or NaN, from :func:`label_matrix`.
    model : {"ridge", "random_forest"}
        :class:`ManyTaskRidgeClassifier`, or :func:`random_forest_scores` as the second opinion.
    seed, n_trees : int
        Of the random forest.

    Returns
    -------
    DataFrame
        `KEYS`, ``model, compound, task, label, score``: one row a labelled test compound, task and
        representation; tasks that lack a class among a fold's training compounds have none there. Names are
        categories, since a large screen has tens of millions of rows.
    """
    tables = []
    for key, part in consensus.groupby(KEYS, sort=False):
        values, outcome = embedding_values(part), labels.reindex(part[COMPOUND]).to_numpy(float)
        training = (part["role"] == "train").to_numpy()
        if model == "ridge":
            fitted = ManyTaskRidgeClassifier().fit(values[training], outcome[training])
            scores = fitted.decision_function(values[~training])
        else:
            options = {"seed": seed, "n_trees": n_trees}
            scores = random_forest_scores(values[training], outcome[training], values[~training], **options)
        known = ~np.isnan(outcome[~training]) & np.isfinite(scores)
        compound, task = np.nonzero(known)
        same = np.zeros(len(compound), dtype=np.int8)
        columns: dict[str, object] = {}
        for name, value in zip([*KEYS, "model"], [*key, model], strict=True):
            number = isinstance(value, int | np.integer)
            columns[name] = same + np.int16(value) if number else pd.Categorical.from_codes(same, [str(value)])
        names = part.loc[~training, COMPOUND].astype(str)
        place = np.argsort(np.argsort(names.to_numpy(object)))  # categories are sorted
        columns["compound"] = pd.Categorical.from_codes(place[compound], sorted(names))
        columns["task"] = pd.Categorical.from_codes(task, labels.columns.astype(str))
        columns["label"] = outcome[~training][known].astype(np.int8)
        columns["score"] = scores[known].astype(np.float32)
        tables.append(pd.DataFrame(columns))
    return join_predictions(tables)


def join_predictions(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables of test predictions below each other, their names still categories, in alphabetical order."""
    tables = list(tables)
    if not tables:
        return pd.DataFrame(columns=PREDICTION_COLUMNS)
    joined = {}
    for name in PREDICTION_COLUMNS:
        parts = [table[name] for table in tables]
        if isinstance(parts[0].dtype, pd.CategoricalDtype):
            joined[name] = union_categoricals(parts, sort_categories=True)
        else:
            joined[name] = np.concatenate([part.to_numpy() for part in parts])
    return pd.DataFrame(joined)


def second_opinion(
    consensus: Mapping[str, pd.DataFrame], labels: pd.DataFrame, seed: int = 0, *, n_trees: int = 100
) -> pd.DataFrame:
    """Random forests on a part of the folds, cheap enough to stand beside the linear models of all.

    Parameters
    ----------
    consensus : mapping
        Consensus tables by method. Of each the first split and repeat, and the first draw on true pairs (or without
        TX) take part.
    labels : DataFrame (n_compounds, n_tasks)
        As in :func:`predict_folds`.
    seed, n_trees : int
        Of the forests.

    Returns
    -------
    DataFrame
        As :func:`predict_folds`; no rows without consensus tables.
    """
    tables = []
    for table in consensus.values():
        first = table[["split", "repeat"]].iloc[0]
        part = table[(table[["split", "repeat"]] == first).all(axis=1)]
        part = part[(part["seed"] == 0) & part["control"].isin(["", "true_pairs"])]
        tables.append(predict_folds(part, labels, model="random_forest", seed=seed, n_trees=n_trees))
    return join_predictions(tables)


def opinions_beside(values: pd.DataFrame) -> pd.DataFrame:
    """Mean ROC-AUC of linear models and random forests over the folds and tasks that both measured.

    Parameters
    ----------
    values : DataFrame
        From :func:`evaluate_folds`, both models' one below the other.

    Returns
    -------
    DataFrame
        Index method, columns ``random_forest, ridge`` and ``tasks`` (their number); no rows where a model is missing.
    """
    auc = values[values["metric"] == "roc_auc"]
    wide = auc.pivot_table(index=[*KEYS, "task"], columns="model", values="value")
    wide = wide.reindex(columns=["random_forest", "ridge"]).dropna().reset_index()
    by_method = wide.groupby("method", sort=False)
    return by_method[["random_forest", "ridge"]].mean().assign(tasks=by_method["task"].nunique())


def concatenate(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Two representations side by side: ``concat:<method of the second>``.

    Parameters
    ----------
    first, second : DataFrame
        Consensus tables; the first (sphered CP, say) has one draw a fold, the second any number. Each block is
        scaled to the same total variance over a fold's training compounds, so that the wider one doesn't win by
        its width.

    Returns
    -------
    DataFrame
        Consensus table with the second one's keys.
    """
    tables = []
    for key, part in second.groupby(KEYS, sort=False):
        mine = _of_fold(first, key).set_index(COMPOUND).loc[part[COMPOUND]]
        scales = _block_scales(mine, part)
        blocks = [embedding_values(table) / scale for table, scale in zip((mine, part), scales, strict=True)]
        head = part[[COMPOUND, "role", *KEYS]].reset_index(drop=True)
        tables.append(pd.concat([head.assign(method=f"concat:{key[4]}"), embedding_table(np.hstack(blocks))], axis=1))
    return pd.concat(tables, ignore_index=True)


def concatenate_wells(
    first: pd.DataFrame, second: pd.DataFrame, first_consensus: pd.DataFrame, second_consensus: pd.DataFrame
) -> pd.DataFrame:
    """:func:`concatenate` for tables of embedded wells, with the scales of the training compounds' consensus.

    Parameters
    ----------
    first, second : DataFrame
        Embedded wells: metadata columns, `KEYS` and z000 ...; the same wells in each fold.
    first_consensus, second_consensus : DataFrame
        Consensus tables of the same two representations, which tell the variances over training compounds.

    Returns
    -------
    DataFrame
        Embedded wells with the second one's keys, method ``concat:<method of the second>``.

    Raises
    ------
    ValueError
        The two tables hold different wells in a fold.
    """
    tables = []
    by_key = dict(iter(second_consensus.groupby(KEYS, sort=False)))
    for key, part in second.groupby(KEYS, sort=False):
        mine = _of_fold(first, key)
        if not mine[METADATA_COLUMNS].reset_index(drop=True).equals(part[METADATA_COLUMNS].reset_index(drop=True)):
            raise ValueError(f"{key[4]} holds other wells than the representation it is put beside")
        scales = _block_scales(_of_fold(first_consensus, key), by_key[key])
        blocks = [embedding_values(table) / scale for table, scale in zip((mine, part), scales, strict=True)]
        head = part[[*METADATA_COLUMNS, *KEYS]].reset_index(drop=True)
        tables.append(pd.concat([head.assign(method=f"concat:{key[4]}"), embedding_table(np.hstack(blocks))], axis=1))
    return pd.concat(tables, ignore_index=True)


def _of_fold(table: pd.DataFrame, key: tuple) -> pd.DataFrame:
    return table[(table[["split", "repeat", "fold"]] == list(key[:3])).all(axis=1)]


def _block_scales(*consensus: pd.DataFrame) -> list[float]:
    """Root of each block's total variance over training compounds; 1 for a block that is constant there."""
    values = [embedding_values(table)[(table["role"] == "train").to_numpy()] for table in consensus]
    return [float(np.sqrt(block.var(axis=0).sum())) or 1.0 for block in values]


def evaluate_tasks(labels: np.ndarray, scores: np.ndarray, tasks: np.ndarray | None = None) -> pd.DataFrame:
    """ROC- and PR-AUC of every task in one test fold.

    Parameters
    ----------
    labels : array or DataFrame (n_compounds, n_tasks)
        1, 0 or NaN (missing).
    scores : array (n_compounds, n_tasks)
    tasks : array (n_tasks,), optional
        Task names; default: the columns of ``labels`` or else numbers.

    Returns
    -------
    DataFrame
        ``task, n_active, n_inactive, roc_auc, pr_auc, pr_auc_lift`` (PR-AUC over the share of actives, 1 by
        chance).
    """
    if tasks is None:
        tasks = labels.columns if isinstance(labels, pd.DataFrame) else np.arange(np.asarray(labels).shape[1])
    labels = np.asarray(labels, dtype=float)
    n_active = (labels == 1).sum(0)
    n_inactive = (labels == 0).sum(0)
    precision = pr_auc(labels, scores)
    with np.errstate(invalid="ignore", divide="ignore"):
        lift = precision * (n_active + n_inactive) / n_active
    return pd.DataFrame(
        {
            "task": np.asarray(tasks),
            "n_active": n_active,
            "n_inactive": n_inactive,
            "roc_auc": roc_auc(labels, scores),
            "pr_auc": precision,
            "pr_auc_lift": lift,
        }
    )


def evaluate_folds(predictions: pd.DataFrame) -> pd.DataFrame:
    """:func:`evaluate_tasks` of every representation and fold in a table of test predictions, long.

    Parameters
    ----------
    predictions : DataFrame
        From :func:`predict_folds`.

    Returns
    -------
    DataFrame
        `KEYS`, ``model, task, n_active, n_inactive, metric, value``; metric is roc_auc, pr_auc or pr_auc_lift.
    """
    tables = []
    for key, part in predictions.groupby([*KEYS, "model"], sort=False):
        compound, names = pd.factorize(part["compound"])
        task, tasks = pd.factorize(part["task"], sort=True)
        labels, scores = (np.full((len(names), len(tasks)), np.nan) for _ in range(2))
        labels[compound, task], scores[compound, task] = part["label"], part["score"]
        table = evaluate_tasks(labels, scores, np.asarray(tasks, dtype=object))
        tables.append(pd.concat([pd.DataFrame([key] * len(table), columns=[*KEYS, "model"]), table], axis=1))
    ids = [*KEYS, "model", "task", "n_active", "n_inactive"]
    if not tables:
        return pd.DataFrame(columns=[*ids, "metric", "value"])
    measured = pd.concat(tables, ignore_index=True)
    return measured.melt(ids, var_name="metric", value_name="value").dropna(subset="value").reset_index(drop=True)


def tx_strong_cp_weak(
    cp_auc: np.ndarray, tx_auc: np.ndarray, *, tx_min: float = 0.65, margin: float = 0.05
) -> np.ndarray:
    """Tasks on which TX excels and CP does not: TX reaches ``tx_min`` and beats CP by at least ``margin``.

    Parameters
    ----------
    cp_auc, tx_auc : arrays (n_tasks,)
        ROC-AUC of the same compounds; NaN (unmeasurable) is never chosen.
    tx_min, margin : float

    Returns
    -------
    boolean array (n_tasks,)
    """
    cp_auc, tx_auc = np.asarray(cp_auc, dtype=float), np.asarray(tx_auc, dtype=float)
    with np.errstate(invalid="ignore"):
        return (tx_auc >= tx_min) & (tx_auc - cp_auc >= margin)


@dataclass(frozen=True)
class PredictionFold:
    """Predictions of one test fold, dense.

    ``rows`` (n,) are positions in ``Predictions.compounds``; ``labels`` (n, n_tasks) hold 1, 0 or NaN;
    ``scores`` (n, n_tasks, n_columns) are NaN in columns that the fold lacks (``present`` is False there).
    """

    repeat: int
    fold: int
    rows: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """All test predictions, dense by fold: :func:`dense_predictions` of the long table.

    ``columns`` has one row a fitted model: method, control, seed (number of the draw).
    """

    compounds: np.ndarray
    tasks: np.ndarray
    columns: pd.DataFrame
    folds: tuple[PredictionFold, ...]

    def auc(self, keep: np.ndarray | None = None) -> np.ndarray:
        """ROC-AUC within each fold, averaged over folds: (n_tasks, n_columns); NaN where no fold measures it.

        ``keep`` (n_compounds,) restricts it to some compounds.
        """
        total = np.zeros((len(self.tasks), len(self.columns)))
        count = np.zeros_like(total)
        for one in self.folds:
            kept = slice(None) if keep is None else np.asarray(keep)[one.rows]
            labels = one.labels[kept]
            for column in np.flatnonzero(one.present):  # all columns at once would not fit into memory
                values = roc_auc(labels, one.scores[kept, :, column])
                total[:, column] += np.nan_to_num(values)
                count[:, column] += ~np.isnan(values)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def dense_predictions(predictions: pd.DataFrame) -> Predictions:
    """Turn the long table of test predictions into arrays, fold by fold.

    Parameters
    ----------
    predictions : DataFrame
        ``repeat, fold, seed, method, control, compound, task, label, score`` (and ``split``, of one kind):
        one row a test compound, task and fitted model. Rows without label or score are dropped; a compound
        that some model of a fold lacks for a task is left out of that task for all models, so that every
        comparison is on the same compounds.

    Returns
    -------
    Predictions

    Raises
    ------
    ValueError
        A prediction occurs twice, or compounds have contradicting labels.
    """
    table = predictions[predictions["label"].notna() & predictions["score"].notna()]
    if table["control"].isna().any():  # a csv file reads "" (a method without TX) as missing
        table = table.assign(control=table["control"].astype(object).fillna(""))
    compound, compounds = pd.factorize(table["compound"], sort=True)
    task, tasks = pd.factorize(table["task"], sort=True)
    keys = ["method", "control", "seed"]
    column = table.groupby(keys, sort=True, observed=True).ngroup().to_numpy()
    columns = table[keys].iloc[np.unique(column, return_index=True)[1]].reset_index(drop=True)
    label = table["label"].to_numpy(dtype=float)
    score = table["score"].to_numpy(dtype=np.float32)
    fold_of = table.groupby(["repeat", "fold"], sort=True, observed=True).ngroup().to_numpy()
    names = table[["repeat", "fold"]].to_numpy()
    folds = []
    for number in range(fold_of.max(initial=-1) + 1):
        at = np.flatnonzero(fold_of == number)
        rows, local = np.unique(compound[at], return_inverse=True)
        scores = np.full((len(rows), len(tasks), len(columns)), np.nan, dtype=np.float32)
        labels = np.full((len(rows), len(tasks)), np.nan)
        scores[local, task[at], column[at]] = score[at]
        labels[local, task[at]] = label[at]
        repeat, fold = (int(value) for value in names[at[0]])
        if np.isfinite(scores).sum() < len(at):
            raise ValueError(f"predictions of repeat {repeat}, fold {fold} hold the same prediction twice")
        if (labels[local, task[at]] != label[at]).any():
            raise ValueError(f"predictions of repeat {repeat}, fold {fold} hold contradicting labels")
        present = np.isfinite(scores).any((0, 1))
        complete = np.isfinite(scores[:, :, present]).all(2)
        labels[~complete] = np.nan
        folds.append(PredictionFold(repeat, fold, rows, labels, scores, present))
    return Predictions(np.asarray(compounds, dtype=object), np.asarray(tasks, dtype=object), columns, tuple(folds))


def fold_auc(predictions: pd.DataFrame | Predictions) -> pd.DataFrame:
    """ROC-AUC of every method and task: within each test fold, then averaged over folds, repeats and draws.

    Parameters
    ----------
    predictions : DataFrame or Predictions
        As in :func:`dense_predictions`.

    Returns
    -------
    DataFrame
        ``method, control, task, roc_auc``; folds in which a task has one class only are left out of its
        average.
    """
    dense = predictions if isinstance(predictions, Predictions) else dense_predictions(predictions)
    return _auc_table(dense, None)


def _auc_table(dense: Predictions, keep: np.ndarray | None) -> pd.DataFrame:
    values = pd.DataFrame(dense.auc(keep).T, columns=pd.Index(dense.tasks, name="task"))
    keys = [dense.columns["method"].to_numpy(dtype=object), dense.columns["control"].to_numpy(dtype=object)]
    mean = values.groupby(keys, sort=True).mean().rename_axis(["method", "control"])
    return mean.melt(ignore_index=False, var_name="task", value_name="roc_auc").reset_index()


def choose_and_measure(
    predictions: pd.DataFrame | Predictions,
    first_half: pd.Series,
    *,
    tx_min: float = 0.65,
    margin: float = 0.05,
    cp_method: str = "raw_cp",
    tx_method: str = "tx",
    same_compounds: bool = False,
) -> pd.DataFrame:
    """Choose TX-strong, CP-weak tasks on one half of the compounds, measure every method on the other; then
    swap.

    Choosing and measuring on the same scores would make CP look poor by bad luck and every other method
    better by regression to the mean. ``same_compounds=True`` does exactly that, for a notebook to show by how
    much.

    Parameters
    ----------
    predictions : DataFrame or Predictions
        As in :func:`dense_predictions`, test compounds of every fold.
    first_half : Series
        Index compound, True for the first half (:func:`cpx_utils.splits.halves`).
    tx_min, margin : float
        As in :func:`tx_strong_cp_weak`.
    cp_method, tx_method : str
        Whose ROC-AUC decides.
    same_compounds : bool
        Measure on the half on which tasks were chosen (biased; for demonstration only).

    Returns
    -------
    DataFrame
        One row a half, task, method and control: ``half`` ("first" or "second": where tasks were chosen),
        ``task, method, control, chosen, cp_auc_chosen_on, tx_auc_chosen_on, roc_auc`` (on the measured half).
    """
    dense = predictions if isinstance(predictions, Predictions) else dense_predictions(predictions)
    missing = {cp_method, tx_method} - set(dense.columns["method"])
    if missing:
        raise ScreenError(f"no predictions of {', '.join(sorted(missing))}, which choosing TX-strong tasks needs")
    in_first = pd.Series(first_half).reindex(dense.compounds)
    if in_first.isna().any():
        raise ValueError("first_half must tell the half of every predicted compound")
    in_first = in_first.to_numpy(dtype=bool)
    auc = {"first": _auc_table(dense, in_first), "second": _auc_table(dense, ~in_first)}
    tables = []
    for half, other in (("first", "second"), ("second", "first")):
        by_method = auc[half].groupby(["method", "task"])["roc_auc"].mean()
        cp_auc, tx_auc = by_method[cp_method], by_method[tx_method]
        chosen = pd.Series(
            tx_strong_cp_weak(cp_auc, tx_auc[cp_auc.index], tx_min=tx_min, margin=margin), index=cp_auc.index
        )
        measured = auc[half if same_compounds else other].copy()
        measured.insert(0, "half", half)
        measured["chosen"] = measured["task"].map(chosen).fillna(False).astype(bool)
        measured["cp_auc_chosen_on"] = measured["task"].map(cp_auc)
        measured["tx_auc_chosen_on"] = measured["task"].map(tx_auc)
        tables.append(measured)
    columns = [
        "half",
        "task",
        "method",
        "control",
        "chosen",
        "cp_auc_chosen_on",
        "tx_auc_chosen_on",
        "roc_auc",
    ]
    return pd.concat(tables, ignore_index=True)[columns]


def task_gains(predictions: pd.DataFrame, reference: str = "raw_cp") -> pd.DataFrame:
    """ROC-AUC of every method, control and task minus the reference method's.

    Parameters
    ----------
    predictions : DataFrame
        As in :func:`dense_predictions`.
    reference : str
        Method without TX.

    Returns
    -------
    DataFrame
        ``method, control, task, gain``; empty where nothing was predicted.
    """
    if not len(predictions):
        return pd.DataFrame({name: pd.Series(dtype=object) for name in ("method", "control", "task", "gain")})
    auc = fold_auc(predictions)
    base = auc[auc["method"] == reference].set_index("task")["roc_auc"]
    auc["gain"] = auc["roc_auc"] - auc["task"].map(base)
    return auc.loc[auc["method"] != reference, ["method", "control", "task", "gain"]].reset_index(drop=True)


def chosen_gains(
    predictions: pd.DataFrame,
    first_half: pd.Series,
    *,
    tx_min: float = 0.65,
    margin: float = 0.05,
    reference: str = "raw_cp",
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Gain over raw CP on TX-strong, CP-weak tasks, measured on the other half of the compounds and on the same.

    Parameters
    ----------
    predictions, first_half, tx_min, margin
        As in :func:`choose_and_measure`.
    reference : str
        Method without TX.
    n_bootstrap, seed : int
        Of the intervals, for which tasks are resampled.

    Returns
    -------
    DataFrame
        ``method, control, how`` ("other half" or "same compounds"), ``mean, ci_low, ci_high, n_tasks``; empty where no
        task is chosen.
    """
    columns = ["method", "control", "how", "mean", "ci_low", "ci_high", "n_tasks"]
    if not len(predictions):
        return pd.DataFrame(columns=columns)
    dense = dense_predictions(predictions)
    rows = []
    for how in ("other half", "same compounds"):
        table = choose_and_measure(
            dense, first_half, tx_min=tx_min, margin=margin, same_compounds=how == "same compounds"
        )
        table = table[table["chosen"]]
        base = table[table["method"] == reference].set_index(["half", "task"])["roc_auc"]
        for (method, control), part in table[table["method"] != reference].groupby(["method", "control"], sort=False):
            gain = part.set_index(["half", "task"])["roc_auc"].sub(base).dropna().to_numpy()
            if not len(gain):
                continue
            drawn = np.random.default_rng(seed).choice(gain, (n_bootstrap, len(gain))).mean(axis=1)
            rows.append((method, control, how, gain.mean(), *np.quantile(drawn, [0.025, 0.975]), len(gain)))
    return pd.DataFrame(rows, columns=columns)
