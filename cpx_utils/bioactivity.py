"""Predict assay outcomes from embeddings, many tasks at once, and find the tasks on which TX excels and CP doesn't.

A screen's activity table is sparse: each task has its own labelled compounds. The ridge classifier below is exact for
each task's own labels and picks each task's penalty by closed-form leave-one-out. Scores of different folds come from
different models and are not comparable, so areas under curves are taken within a fold and then averaged.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals
from sklearn.base import BaseEstimator
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_array

from cpx_utils.metrics import pr_auc, roc_auc
from cpx_utils.profiles import COMPOUND, KEYS, METADATA_COLUMNS, embedding_table, embedding_values

PENALTIES = np.logspace(-2.5, 3.0, 12)
_PREDICTION_TYPES = dict.fromkeys([*KEYS, "model", "compound", "task"], "category")
_PREDICTION_TYPES |= dict.fromkeys(["repeat", "fold", "seed"], "int16") | {"label": "int8", "score": "float32"}


def label_matrix(
    activity: pd.DataFrame, tasks: pd.DataFrame, compounds: np.ndarray, *, min_active: int = 25, min_inactive: int = 25
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels of the given compounds, and which tasks have enough of them.

    Returns
    -------
    labels, table
        (n_compounds, n_tested_tasks), index compound in the order given, columns task: 1, 0 or NaN (missing); and every
        task: the columns of `tasks` and `n_active, n_inactive, tested`.
    """
    names = pd.Index(np.asarray(compounds, dtype=object).astype(str), name=COMPOUND)
    task_names = pd.Index(tasks["task"].astype(str), name="task")
    labels = activity.astype({COMPOUND: str, "task": str}).pivot(index=COMPOUND, columns="task", values="active")
    labels = labels.reindex(index=names, columns=task_names).astype(float)
    table = tasks.reset_index(drop=True)
    table = table.assign(n_active=(labels == 1).sum().to_numpy(), n_inactive=(labels == 0).sum().to_numpy())
    table["tested"] = (table["n_active"] >= min_active) & (table["n_inactive"] >= min_inactive)
    return labels.loc[:, table["tested"].to_numpy(bool)], table


class ManyTaskRidgeClassifier(BaseEstimator):
    r"""L2-regularised linear classifiers by least squares on -1/+1, one a task, with missing labels.

    For each task, on its labelled compounds only, minimises :math:`\|y - Xw - b\|^2 + \lambda \|w\|^2` with a free
    intercept (equal to `sklearn.linear_model.Ridge`). The penalty is the one of smallest leave-one-out squared error,
    :math:`e_i / (1 - h_{ii})` in closed form (Allen 1974; Rifkin and Lippert 2007). Squared error rather than the
    ROC-AUC of leave-one-out scores, because leaving out an active lowers the intercept of its own model: with strong
    penalties such scores rank actives below inactives, and their AUC falls to 0 where it should be one half.

    Features are standardised on all training rows, labelled or not. A task with one class only in training gets a
    constant score, and a task without any label the score 0.

    Parameters
    ----------
    penalties
        Ascending, relative to the mean non-trivial eigenvalue of a task's Gram matrix, so that one grid serves
        embeddings of any width. Default: 12 values from 10^-2.5 to 10^3.

    Attributes
    ----------
    coef_, intercept_ : arrays (n_features, n_tasks), (n_tasks,)
        On standardised features.
    alpha_ : array (n_tasks,)
        The chosen penalty on scikit-learn's scale; NaN for a task with fewer than three labels.
    loo_errors_ : array (n_penalties, n_tasks)
        Mean leave-one-out squared error (the standardisation is not redone).
    """

    def __init__(self, penalties: Sequence[float] = tuple(PENALTIES)):
        self.penalties = penalties

    def fit(self, X: np.ndarray, Y: np.ndarray) -> "ManyTaskRidgeClassifier":
        """Fit on X (n_train, n_features), finite, and Y (n_train, n_tasks): 1 active, 0 inactive, NaN missing.

        Values between 0 and 1 say how sure a label is, as those of a teacher (`crossfit.distil_folds`).
        """
        X = check_array(X, dtype=float)
        Y = np.array(Y, dtype=float, order="F")  # sums round alike in any layout
        labelled = ~np.isnan(Y)
        if (Y[labelled] < 0).any() or (Y[labelled] > 1).any():
            raise ValueError("labels must lie between 0 and 1, or be NaN (missing)")
        self.mean_, deviation = X.mean(0), X.std(0)
        # A feature that is constant up to rounding must not be blown up to noise of unit size.
        constant = deviation <= 1e-12 * np.maximum(np.abs(self.mean_), 1.0)
        self.scale_ = np.where(constant, 1.0, deviation)
        X, targets = np.where(constant, 0.0, (X - self.mean_) / self.scale_), 2.0 * Y - 1.0
        # Ridge solutions turn with their features, so 500 genes predicted from 50 components cost what 50 features do.
        left, lengths, axes = np.linalg.svd(X, full_matrices=False)
        rank = max((lengths > 1e-10 * lengths[0]).sum(), 1)
        turned = left[:, :rank] * lengths[:rank]  # (n_train, rank)
        coefficients = np.zeros((rank, Y.shape[1]))
        self.intercept_, self.alpha_ = np.zeros(Y.shape[1]), np.full(Y.shape[1], np.nan)
        self.loo_errors_ = np.full((len(self.penalties), Y.shape[1]), np.nan)
        patterns: dict[bytes, list[int]] = {}  # tasks labelled for the same compounds share one decomposition
        for task in range(Y.shape[1]):
            patterns.setdefault(labelled[:, task].tobytes(), []).append(task)
        for tasks in patterns.values():
            rows = np.flatnonzero(labelled[:, tasks[0]])
            if len(rows) < 3:
                self.intercept_[tasks] = targets[np.ix_(rows, tasks)].mean(0) if len(rows) else 0.0
            else:
                coefficients[:, tasks] = self._fit_pattern(turned, targets, rows, np.array(tasks), X.shape[1])
        self.coef_ = axes[:rank].T @ coefficients
        return self

    def _fit_pattern(self, X: np.ndarray, targets: np.ndarray, rows, tasks, n_features: int) -> np.ndarray:
        """Coefficients (rank, t) of tasks that share their labelled rows, from one eigendecomposition.

        `X` (n_train, rank) stands for `n_features` features, which set the scale of the penalties.
        """
        n = len(rows)
        y = targets[np.ix_(rows, tasks)]  # (n, t)
        y_mean, centre = y.mean(0), X[rows].mean(0)
        centred = X[rows] - centre  # (n, r)
        primal = centred.shape[1] <= n
        eigenvalue, vectors = np.linalg.eigh(centred.T @ centred if primal else centred @ centred.T)
        basis = centred @ vectors if primal else vectors  # (n, r) left singular vectors, times singular values or not
        eigenvalue = np.maximum(eigenvalue, 0.0)
        unit = eigenvalue.sum() / min(n - 1, n_features) or 1.0
        alphas = np.asarray(self.penalties, dtype=float) * unit
        shrink = 1.0 / (eigenvalue[:, None] + alphas)  # (r, p)
        # In the dual, basis * eigenvalue * basis' / (eigenvalue + alpha) is the same hat matrix.
        weight = shrink if primal else eigenvalue[:, None] * shrink
        leverage = 1.0 / n + basis**2 @ weight  # (n, p), below 1 since every penalty is positive and n > 1
        projected = basis.T @ (y - y_mean)  # (r, t)
        shrunk = weight[:, :, None] * projected[:, None, :]  # (r, p, t)
        fitted = (basis @ shrunk.reshape(len(weight), -1)).reshape(n, *shrunk.shape[1:]) + y_mean
        errors = (((y[:, None, :] - fitted) / (1.0 - leverage)[:, :, None]) ** 2).mean(0)  # (p, t)
        # Of equal errors the strongest penalty: the simpler model.
        best = len(alphas) - 1 - errors[::-1].argmin(0)
        solution = shrink[:, best] * projected  # (r, t)
        coefficients = vectors @ solution if primal else centred.T @ (basis @ solution)
        self.intercept_[tasks] = y_mean - centre @ coefficients
        self.alpha_[tasks], self.loo_errors_[:, tasks] = alphas[best], errors
        return coefficients

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scores (n, n_tasks); larger means more likely active, 0 lies half-way between the classes."""
        return ((np.asarray(X, dtype=float) - self.mean_) / self.scale_) @ self.coef_ + self.intercept_


def predict_folds(consensus: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Train every task on a fold's training compounds and score its test compounds, for each representation.

    Parameters
    ----------
    consensus, labels
        Metadata_Compound, `role` (train, test), `KEYS` and z000 ...; and from `label_matrix`.

    Returns
    -------
    DataFrame
        `KEYS`, `model` (ridge), `compound, task, label, score`: one row a labelled test compound, task and
        representation. Names are categories, since a large screen has tens of millions of rows.
    """
    tables = []
    for key, part in consensus.groupby(KEYS, sort=False):
        training = part[part["role"] == "train"]
        fitted = ManyTaskRidgeClassifier()
        fitted.fit(embedding_values(training), labels.reindex(training[COMPOUND]).to_numpy(float))
        tables.append(score_test(fitted, part, labels, dict(zip(KEYS, key, strict=True))))
    return join_predictions(tables)


def score_test(fitted: ManyTaskRidgeClassifier, part: pd.DataFrame, labels: pd.DataFrame, key: dict) -> pd.DataFrame:
    """Scores of a fold's test compounds for the tasks in which they have a label, a row each, with the keys `key`."""
    test = part[part["role"] != "train"]
    outcome = labels.reindex(test[COMPOUND]).to_numpy(float)
    compound, task = np.nonzero(~np.isnan(outcome))
    scores = fitted.decision_function(embedding_values(test))
    columns = {"compound": test[COMPOUND].astype(str).to_numpy()[compound]}
    columns |= {"task": labels.columns.astype(str).to_numpy()[task]}
    columns |= {"label": outcome[compound, task], "score": scores[compound, task]}
    return pd.DataFrame(key | {"model": "ridge"} | columns).astype(_PREDICTION_TYPES)


def join_predictions(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of test predictions below each other, their names still categories, in alphabetical order."""
    joined = {}
    for name, kind in _PREDICTION_TYPES.items():
        parts = [table[name] for table in tables]
        if kind == "category":
            joined[name] = union_categoricals(parts, sort_categories=True)
        else:
            joined[name] = np.concatenate(parts)
    return pd.DataFrame(joined)


def concatenate(
    first: pd.DataFrame, second: pd.DataFrame, consensus: tuple[pd.DataFrame, pd.DataFrame] | None = None
) -> pd.DataFrame:
    """Two representations side by side: a table like the second, its method `concat:<method of the second>`.

    They are consensus tables, or embedded wells with the two `consensus` tables beside them. The first (sphered CP,
    say) has one draw a fold, the second any number. Each block is scaled to the same total variance over a fold's
    training compounds, so that the wider one doesn't win by its width. Raises ValueError where they hold different
    compounds or wells in a fold.
    """
    ids = [COMPOUND, "role"] if consensus is None else METADATA_COLUMNS
    fold, (first_consensus, second_consensus) = KEYS[:3], consensus or (first, second)
    tables = []
    for key, part in second.groupby(KEYS, sort=False):
        mine = rows_of(first, fold, key)
        if not mine[ids].reset_index(drop=True).equals(part[ids].reset_index(drop=True)):
            raise ValueError(f"{key[4]} holds other compounds or wells than the representation it is put beside")
        blocks = []
        for table, of_all in (
            (mine, rows_of(first_consensus, fold, key)),
            (part, rows_of(second_consensus, KEYS, key)),
        ):
            training = embedding_values(of_all)[(of_all["role"] == "train").to_numpy()]
            scale = float(np.sqrt(training.var(axis=0).sum())) or 1.0  # 1 for a block that is constant there
            blocks.append(embedding_values(table) / scale)
        head = part[[*ids, *KEYS]].reset_index(drop=True).assign(method=f"concat:{key[4]}")
        tables.append(pd.concat([head, embedding_table(np.hstack(blocks))], axis=1))
    return pd.concat(tables, ignore_index=True)


def rows_of(table: pd.DataFrame, columns: Sequence[str], key: Sequence) -> pd.DataFrame:
    """Rows of a table whose `columns` have the first values of a key."""
    return table[(table[list(columns)] == list(key)[: len(columns)]).all(axis=1)]


def evaluate_folds(predictions: pd.DataFrame) -> pd.DataFrame:
    """ROC- and PR-AUC of every representation, test fold and task, from the table of `predict_folds`.

    Columns `KEYS`, `model, task, n_active, n_inactive, metric, value`; metric is roc_auc, pr_auc or pr_auc_lift (PR-AUC
    over the share of actives, 1 by chance). What one class alone can't tell has no row.
    """
    ids = [*KEYS, "model", "task", "n_active", "n_inactive"]
    tables = [pd.DataFrame(columns=[*ids, "roc_auc", "pr_auc", "pr_auc_lift"])]
    for key, part in predictions.groupby([*KEYS, "model"], sort=False):
        compound, names = pd.factorize(part["compound"])
        task, tasks = pd.factorize(part["task"], sort=True)
        labels, scores = (np.full((len(names), len(tasks)), np.nan) for _ in range(2))
        labels[compound, task], scores[compound, task] = part["label"], part["score"]
        table = pd.DataFrame([key] * len(tasks), columns=[*KEYS, "model"]).assign(task=np.asarray(tasks, dtype=object))
        table = table.assign(n_active=(labels == 1).sum(0), n_inactive=(labels == 0).sum(0))
        table["roc_auc"] = roc_auc(labels, scores)
        table["pr_auc"] = pr_auc(labels, scores)
        table["pr_auc_lift"] = table["pr_auc"] * (table["n_active"] + table["n_inactive"]) / table["n_active"]
        tables.append(table)
    measured = pd.concat(tables[1:] or tables, ignore_index=True)
    return measured.melt(ids, var_name="metric", value_name="value").dropna(subset="value").reset_index(drop=True)


def tx_strong_cp_weak(
    cp_auc: np.ndarray, tx_auc: np.ndarray, *, tx_min: float = 0.65, margin: float = 0.05
) -> np.ndarray:
    """Tasks (boolean) on which TX reaches `tx_min` and beats CP by at least `margin`; never where an AUC is NaN."""
    return (tx_auc >= tx_min) & (tx_auc - cp_auc >= margin)


@dataclass(frozen=True)
class PredictionFold:
    """Predictions of one test fold of a repeat, dense.

    `rows` (n,) are positions in `Predictions.compounds`; `labels` (n, n_tasks) hold 1, 0 or NaN; `scores`
    (n, n_tasks, n_columns) are NaN in columns that the fold lacks (`present` is False there).
    """

    repeat: int
    fold: int
    rows: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """All test predictions, dense by fold; `columns` has one row a fitted model: method, control, seed."""

    compounds: np.ndarray
    tasks: np.ndarray
    columns: pd.DataFrame
    folds: tuple[PredictionFold, ...]


def dense_predictions(predictions: pd.DataFrame) -> Predictions:
    """Turn a long table of test predictions into arrays, fold by fold.

    A compound that some model of a fold lacks for a task is left out of that task for all models, so that every
    comparison is on the same compounds. Raises ValueError where a prediction occurs twice or labels contradict.
    """
    compound, compounds = pd.factorize(predictions["compound"], sort=True)
    task, tasks = pd.factorize(predictions["task"], sort=True)
    keys = ["method", "control", "seed"]
    column = predictions.groupby(keys, sort=True, observed=True).ngroup().to_numpy()
    columns = predictions[keys].iloc[np.unique(column, return_index=True)[1]].reset_index(drop=True)
    label, score = predictions["label"].to_numpy(dtype=float), predictions["score"].to_numpy(dtype=np.float32)
    folds = []
    by_fold = predictions.groupby(["repeat", "fold"], sort=True, observed=True).indices
    for (repeat, fold), at in by_fold.items():
        rows, local = np.unique(compound[at], return_inverse=True)
        scores = np.full((len(rows), len(tasks), len(columns)), np.nan, dtype=np.float32)
        labels = np.full((len(rows), len(tasks)), np.nan)
        scores[local, task[at], column[at]] = score[at]
        labels[local, task[at]] = label[at]
        if np.isfinite(scores).sum() < len(at) or (labels[local, task[at]] != label[at]).any():
            raise ValueError(
                f"a prediction occurs twice, or labels contradict each other, in test fold {repeat}-{fold}"
            )
        present = np.isfinite(scores).any((0, 1))
        labels[~np.isfinite(scores[:, :, present]).all(2)] = np.nan
        folds.append(PredictionFold(int(repeat), int(fold), rows, labels, scores, present))
    return Predictions(np.asarray(compounds, dtype=object), np.asarray(tasks, dtype=object), columns, tuple(folds))


def fold_auc(predictions: pd.DataFrame) -> pd.DataFrame:
    """ROC-AUC of every method and task: within each test fold, then averaged over folds, repeats and draws.

    Columns `method, control, task, roc_auc`; folds in which a task has one class only are left out of its average.
    """
    ids = ["method", "control", "task"]
    tables = [pd.DataFrame(columns=[*ids, "seed", "roc_auc"])]
    dense = dense_predictions(predictions)
    for one in dense.folds:
        for column in np.flatnonzero(one.present):  # all columns at once would not fit into memory
            values = {"task": dense.tasks, "roc_auc": roc_auc(one.labels, one.scores[:, :, column])}
            tables.append(pd.DataFrame(dict(dense.columns.iloc[column]) | values))
    measured = pd.concat(tables[1:] or tables, ignore_index=True)
    of_draws = measured.groupby([*ids, "seed"], sort=True, as_index=False)["roc_auc"].mean()
    return of_draws.groupby(ids, sort=True, as_index=False)["roc_auc"].mean()


def task_gains(auc: pd.DataFrame, reference: str = "raw_cp") -> pd.DataFrame:
    """What `fold_auc` measured, minus the reference method's: `method, control, task, gain`."""
    base = auc[auc["method"] == reference].set_index("task")["roc_auc"]
    gains = auc.assign(gain=auc["roc_auc"] - auc["task"].map(base)).drop(columns="roc_auc")
    return gains[gains["method"] != reference].reset_index(drop=True)


def choose_tasks(
    consensus: Mapping[str, pd.DataFrame],
    labels: pd.DataFrame,
    *,
    cp: Sequence[str] = ("raw_cp", "sphered_cp", "cell_count"),
    groups: pd.Series | None = None,
    tx_min: float = 0.65,
    margin: float = 0.05,
    n_inner: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose each fold's TX-strong and CP-weak tasks by cross-validation among its training compounds alone.

    A task whose CP looks weak on some compounds looks better on others: part of the weakness was bad luck. So tasks are
    chosen by compounds that measure nothing.

    Parameters
    ----------
    consensus : mapping from method to DataFrame
        As `predict_folds` takes them, among them `tx` (TX itself) and those of `cp`, of which the better one counts:
        weak is what no CP feature predicts.
    labels : DataFrame
        From `label_matrix`.
    groups : Series of groups by compound, optional
        Kept together in the inner folds; default: compounds.
    tx_min, margin : float
        As for :func:`tx_strong_cp_weak`.
    n_inner, seed : int
        Inner folds, and their seed.

    Returns
    -------
    DataFrame
        `split, repeat, fold, task, cp_auc, tx_auc, chosen`.
    """
    tables = []
    fold_keys = KEYS[:3]
    cp_tables = [consensus[name] for name in cp if name in consensus]
    for key, part in consensus["tx"].groupby(fold_keys, sort=False):
        tx_auc, *cp_auc = (
            _inner_auc(rows_of(table, fold_keys, key), labels, groups, n_inner, seed) for table in (part, *cp_tables)
        )
        best_cp = np.fmax.reduce(cp_auc)
        chosen = tx_strong_cp_weak(best_cp, tx_auc, tx_min=tx_min, margin=margin)
        found = {"task": labels.columns.astype(str), "cp_auc": best_cp, "tx_auc": tx_auc, "chosen": chosen}
        tables.append(pd.DataFrame(dict(zip(fold_keys, key, strict=True)) | found))
    return pd.concat(tables, ignore_index=True)


def _inner_auc(
    table: pd.DataFrame, labels: pd.DataFrame, groups: pd.Series | None, n_inner: int, seed: int
) -> np.ndarray:
    """Cross-validated ROC-AUC of each task among a fold's training compounds (n_tasks,)."""
    table = table[table["role"] == "train"].sort_values(COMPOUND)
    outcome = labels.reindex(table[COMPOUND].astype(str)).to_numpy(float)
    scored = held_out_scores(table, outcome, groups, n_inner, seed)
    measured = [roc_auc(outcome[held_out], scores) for held_out, scores in scored]
    n_measured = (~np.isnan(measured)).sum(axis=0)
    return np.where(n_measured > 0, np.nansum(measured, axis=0) / np.maximum(n_measured, 1), np.nan)


def held_out_scores(
    table: pd.DataFrame, outcome: np.ndarray, groups: pd.Series | None, n_inner: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows held out in each inner fold, and their scores (n_held_out, n_tasks) by models trained without their groups.

    `table` has a compound a row and its embedding, `outcome` (n_compounds, n_tasks) labels; `groups` are kept together.
    """
    names, values = table[COMPOUND].astype(str), embedding_values(table)
    group = names if groups is None else names.map(groups).fillna(names)
    inner = GroupKFold(n_inner, shuffle=True, random_state=seed)
    for training, held_out in inner.split(values, groups=group.to_numpy(str)):
        fitted = ManyTaskRidgeClassifier().fit(values[training], outcome[training])
        yield held_out, fitted.decision_function(values[held_out])
