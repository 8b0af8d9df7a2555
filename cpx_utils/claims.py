"""Weigh the four claims: paired hierarchical bootstrap, multiplicity, verdicts.

The question behind every number is whether training on *true* CP-TX pairs beats what is had without
transcriptomics: raw CP, the best CP-only method, and the same method trained on deranged pairs, which keeps
everything but the match between a compound's Cell Painting and its transcriptome. Each claim has one primary
endpoint:

1. ``tx_strong_tasks``: mean ROC-AUC over tasks where TX excels and CP does not, chosen on one half of the
   compounds and measured on the other;
2. ``replicate_map``: mean average precision of replicates;
3. ``moa_map``: mean average precision of mechanisms of action;
4. ``family_auc``: ROC-AUC, averaged over the tasks of a target family, then over families.

What varies in the bootstrap. *Compounds*: one resample of compounds serves all methods, endpoints and draws,
so differences are paired. *Draws*: the derangements, and the seeds of networks, are resampled within each
fold. *Pairing*: against the deranged control, the true pairing itself counts as one draw: had TX carried
nothing, it would be just another derangement, with a luck of its own that no resampling of compounds shows.
Its spread is that of the deranged draws. *Tasks*, for claims 1 and 4, within families. Intervals are
percentile intervals (Efron and Tibshirani 1993); resampling compounds and tasks as crossed factors is
conservative (Owen 2007, doi 10.1214/07-AOAS122).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cpx_utils.bioactivity import PredictionFold, Predictions, dense_predictions, tx_strong_cp_weak
from cpx_utils.metrics import benjamini_hochberg, retrieval_scores
from cpx_utils.profiles import CLAIM_TEXTS, UNITS
from cpx_utils.splits import halves

ENDPOINTS = {1: "tx_strong_tasks", 2: "replicate_map", 3: "moa_map", 4: "family_auc"}
CP_ONLY = ("raw_cp", "sphered_cp", "pca_cp", "cell_count", "lda_identity")
SMALLEST_EFFECTS = {"tx_strong_tasks": 0.01, "replicate_map": 0.02, "moa_map": 0.02, "family_auc": 0.01}
MIN_TASKS_PER_FAMILY = 3
CLAIM_COLUMNS = [
    "screen",
    "claim",
    "endpoint",
    "method",
    "reference",
    "effect",
    "ci_low",
    "ci_high",
    "p_adjusted",
    "verdict",
    "p_value",
    "detectable",
    "n_units",
    "value_method",
    "value_reference",
    "role",
    "reason",
    "would_change",
    "deranged_effect",
    "deranged_low",
    "deranged_high",
]
# Two-sided 5% and 80% power: 1.96 + 0.84 standard errors.
DETECTABLE_IN_STANDARD_ERRORS = 2.8


# --------------------------------------------------------------------------------------------------
# Comparisons and multiplicity


@dataclass(frozen=True)
class Comparison:
    """A difference with its 95% interval, bootstrap standard error and two-sided p."""

    effect: float
    ci_low: float
    ci_high: float
    standard_error: float
    p_value: float

    @property
    def detectable(self) -> float:
        """Smallest difference that such a study finds with 80% power: 2.8 standard errors."""
        return DETECTABLE_IN_STANDARD_ERRORS * self.standard_error

    @property
    def p_in_favour(self) -> float:
        """The two-sided p where the effect is positive, else 1: a significant loss is no evidence for a
        gain."""
        return self.p_value if self.effect > 0 else 1.0


def summarise_bootstrap(distribution: np.ndarray, *, level: float = 0.95) -> Comparison:
    """Interval and p of a bootstrapped difference.

    Parameters
    ----------
    distribution : array (1 + n_bootstrap,)
        First the estimate itself, then its bootstrap replicates. Undefined replicates (NaN) are left out.
    level : float
        Coverage of the interval.

    Returns
    -------
    Comparison
        Percentile interval; p is twice the share of replicates on the far side of 0, with 1 added above and
        below so that it is never 0 (Davison and Hinkley 1997).
    """
    estimate = float(distribution[0])
    replicates = distribution[1:][~np.isnan(distribution[1:])]
    if np.isnan(estimate) or len(replicates) < 2:
        return Comparison(estimate, np.nan, np.nan, np.nan, np.nan)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    below, above = (replicates <= 0).sum(), (replicates >= 0).sum()
    p_value = min(1.0, 2.0 * (1 + min(below, above)) / (len(replicates) + 1))
    return Comparison(estimate, float(low), float(high), float(replicates.std(ddof=1)), float(p_value))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment (1979); NaN stays NaN and does not count."""
    from statsmodels.stats.multitest import multipletests

    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    known = ~np.isnan(p_values)
    if known.any():
        adjusted[known] = multipletests(p_values[known], method="holm")[1]
    return adjusted


# --------------------------------------------------------------------------------------------------
# Verdicts


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict, the comparison that decided it (raw, best, lda or deranged; "" if none) and why."""

    verdict: str
    deciding: str
    reason: str


def claim_p_value(best: Comparison, deranged: Comparison) -> float:
    """Larger of the two p: both comparisons must hold for the claim (intersection-union; Berger 1982)."""
    return max(best.p_in_favour, deranged.p_in_favour)


def verdict(
    comparisons: Mapping[str, Comparison],
    p_adjusted: float,
    *,
    smallest_effect: float,
    alpha: float = 0.05,
    not_testable: str = "",
) -> Verdict:
    """The verdict on one claim. Rules in order; the first that holds decides.

    0. *not testable*: a reason is given.
    1. *supported*: better than the best CP-only method **and** than the method's own deranged control: both
       intervals above 0 and the claim's p, adjusted by Holm over the claims, below ``alpha``.
    2. *explained without TX*: better than raw CP (interval above 0), but not than deranged, or not than
       lda_identity or the best CP-only method (an interval that reaches 0).
    3. *not supported*: not better than raw CP (interval reaches 0) and the study would have seen it: the
       interval of at least one comparison that the claim must win excludes a gain of ``smallest_effect``.
    4. *inconclusive*: all else; what would have been detectable is stated.

    Parameters
    ----------
    comparisons : mapping
        Method minus reference, under the keys ``raw`` (raw CP), ``best`` (best CP-only method), ``lda``
        (lda_identity; may be left out) and ``deranged`` (the same method on deranged pairs).
    p_adjusted : float
        Holm-adjusted :func:`claim_p_value`.
    smallest_effect : float
        The smallest gain that would matter, in the endpoint's units.
    alpha : float
    not_testable : str
        Why the claim cannot be tested on this screen; "" if it can.

    Returns
    -------
    Verdict
    """
    if not_testable:
        return Verdict("not testable", "", not_testable)
    needed = {key: comparisons[key] for key in ("best", "deranged")}
    hardest = max(needed, key=lambda key: (needed[key].p_in_favour, -needed[key].ci_low))
    wins = all(one.ci_low > 0 for one in needed.values())
    if wins and p_adjusted < alpha:
        return Verdict("supported", hardest, "better than the best CP-only method and than its own deranged control")
    raw = comparisons["raw"]
    explaining = {key: comparisons[key] for key in ("deranged", "best", "lda") if key in comparisons}
    unbeaten = {key: one for key, one in explaining.items() if not one.ci_low > 0}
    if raw.ci_low > 0 and unbeaten:
        least = min(unbeaten, key=lambda key: unbeaten[key].effect / max(unbeaten[key].standard_error, 1e-12))
        high = unbeaten[least].ci_high
        rest = f"a gain of up to {high:.3f} over it is not excluded" if high > 0 else "it is worse than that"
        return Verdict("explained without TX", least, f"better than raw CP but not than {NAMES[least]}; {rest}")
    if not raw.ci_low > 0:
        excluded = {key: one for key, one in (("raw", raw), *needed.items()) if one.ci_high < smallest_effect}
        if excluded:
            key = next(iter(excluded))
            why = f"not better than raw CP, and a gain of {smallest_effect:g} over {NAMES[key]} is excluded"
            return Verdict("not supported", key, why)
        return Verdict("inconclusive", "raw", _detectable_sentence("not clearly better than raw CP", raw))
    return Verdict("inconclusive", hardest, _detectable_sentence("does not survive Holm's correction", needed[hardest]))


NAMES = {
    "raw": "raw CP",
    "best": "the best CP-only method",
    "lda": "lda_identity",
    "deranged": "its own deranged control",
}


def would_change(ruled: Verdict, comparisons: Mapping[str, Comparison]) -> str:
    """What would have to be different for another verdict, in one sentence from the comparisons' own numbers.

    Parameters
    ----------
    ruled : Verdict
    comparisons : mapping
        As for :func:`verdict`.

    Returns
    -------
    str
        For a supported claim, how much its narrowest gain could shrink; for others, how many times as many
        compounds would find a gain of the size seen (standard errors fall with the square root), or that none would.
    """
    if ruled.verdict == "not testable":
        return "a screen that has what is lacking here"
    needed = {key: comparisons[key] for key in ("best", "deranged")}
    if ruled.verdict == "supported":
        key = min(needed, key=lambda name: needed[name].ci_low)
        return f"a gain over {NAMES[key]} smaller by {needed[key].ci_low:.3f}"
    open_ones = {key: one for key, one in needed.items() if not one.ci_low > 0} or needed
    losing = {key: one for key, one in open_ones.items() if not one.effect > 0}
    if losing:
        key = min(losing, key=lambda name: losing[name].effect)
        return f"a gain over {NAMES[key]}, where {losing[key].effect:+.3f} is seen; more compounds alone would not do"
    key = max(open_ones, key=lambda name: open_ones[name].detectable / open_ones[name].effect)
    one = open_ones[key]
    times = (one.detectable / one.effect) ** 2
    return f"{max(times, 1.0):.1f} times the compounds, if the gain over {NAMES[key]} stays {one.effect:+.3f}"


def _detectable_sentence(what: str, one: Comparison) -> str:
    return f"{what}; differences from {one.detectable:.3f} up would have been detected with 80% power"


# --------------------------------------------------------------------------------------------------
# Bootstrap


@dataclass(frozen=True)
class CompoundResample:
    """How often each compound occurs in each bootstrap resample; row 0 is the data themselves."""

    compounds: pd.Index
    weights: np.ndarray  # (1 + n_bootstrap, n_compounds) float32
    groups: pd.Series  # of each compound, by its name

    def of(self, compounds: Iterable) -> np.ndarray:
        """Weights of the given compounds, (1 + n_bootstrap, n)."""
        at = self.compounds.get_indexer(pd.Index(np.asarray(compounds, dtype=object).astype(str)))
        if (at < 0).any():
            raise ValueError("a compound is missing from the bootstrap's list of compounds")
        return self.weights[:, at]


def resample_compounds(
    compounds: Iterable,
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
    groups: Mapping | pd.Series | None = None,
) -> CompoundResample:
    """Draw compounds with replacement.

    Parameters
    ----------
    compounds : iterable of str
    n_bootstrap : int
    rng : numpy.random.Generator
    groups : mapping or Series from compound to group, optional
        What is resampled (InChIKey blocks): compounds of a group come and go together. Default: the compound.

    Returns
    -------
    CompoundResample
    """
    names = pd.Index(sorted({str(name) for name in compounds}))
    labels = names if groups is None else pd.Index([str(groups.get(name, name)) for name in names])
    code, distinct = pd.factorize(labels, sort=True)
    n = len(distinct)
    drawn = rng.multinomial(n, np.full(n, 1.0 / max(n, 1)), size=n_bootstrap) if n else np.zeros((n_bootstrap, 0))
    weights = np.vstack([np.ones((1, n)), drawn]).astype(np.float32)
    return CompoundResample(names, weights[:, code], pd.Series(labels, index=names))


@dataclass
class EndpointBootstrap:
    """An endpoint's estimate (row 0) and bootstrap values, by (method, control).

    ``values[(method, control)]`` and ``pairing[method]`` are arrays (1 + n_bootstrap,); ``pairing`` is what
    the luck of one pairing adds to a method, estimated from its deranged draws. ``families`` holds the same
    by target family.
    """

    endpoint: str
    values: dict[tuple[str, str], np.ndarray]
    pairing: dict[str, np.ndarray]
    n_units: int
    families: dict[str, EndpointBootstrap] = field(default_factory=dict)
    not_testable: str = ""

    def key(self, method: str) -> tuple[str, str] | None:
        """Where a method's own values are: on true pairs, or without control for methods without TX."""
        return next((key for key in ((method, "true_pairs"), (method, "")) if key in self.values), None)

    def difference(self, method: str, reference: tuple[str, str]) -> np.ndarray:
        """Method minus reference, (1 + n_bootstrap,); against a method's deranged control the pairing's luck
        is added."""
        own = self.values[self.key(method)]
        difference = own - self.values[reference]
        if reference == (method, "deranged"):
            difference = difference + self.pairing.get(method, 0.0)
        return difference


class _Columns:
    """Fitted models of an endpoint (method, control, seed) and how they are resampled within one fold."""

    def __init__(self, columns: pd.DataFrame):
        pairs = list(zip(columns["method"].astype(str), columns["control"].fillna("").astype(str), strict=True))
        self.groups = sorted(set(pairs))
        self.members = [np.array([i for i, pair in enumerate(pairs) if pair == group]) for group in self.groups]
        self.paired = sorted({method for method, control in self.groups if control == "deranged"})

    def combine(self, values: np.ndarray, present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Average draws with their bootstrap weights: (B, n_columns) or (B, t, n_columns) -> (..., n_groups +
        n_paired).

        The last ``n_paired`` are the luck of one pairing: a deranged draw's deviation from the mean of the
        draws, scaled so that its variance is unbiased.
        """
        coefficients = self._coefficients(len(values), present, rng)
        if values.ndim == 2:
            return np.stack([np.einsum("bk,bk->b", values[:, at], c) for at, c in coefficients], axis=-1)
        return np.stack([np.einsum("btk,bk->bt", values[:, :, at], c) for at, c in coefficients], axis=-1)

    def _coefficients(
        self, n_rows: int, present: np.ndarray, rng: np.random.Generator
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        coefficients, pairing = [], []
        for (method, control), members in zip(self.groups, self.members, strict=True):
            at = members[present[members]]
            if not len(at):
                raise ValueError(f"{method} ({control or 'no control'}) is missing from a fold that others have")
            k = len(at)
            weights = np.full((n_rows, k), 1.0 / k)
            if k > 1:
                weights[1:] = rng.multinomial(k, np.full(k, 1.0 / k), size=n_rows - 1) / k
            coefficients.append((at, weights))
            if control == "deranged":
                luck = np.zeros((n_rows, k))
                if k > 1:
                    luck[np.arange(1, n_rows), rng.integers(k, size=n_rows - 1)] = 1.0
                    luck[1:] = (luck[1:] - 1.0 / k) * np.sqrt(k / (k - 1))
                pairing.append((at, luck))
        return coefficients + pairing

    def split(self, combined: np.ndarray) -> tuple[dict[tuple[str, str], np.ndarray], dict[str, np.ndarray]]:
        """Last axis of :meth:`combine` -> values by (method, control), pairing luck by method."""
        n = len(self.groups)
        values = {group: combined[..., i] for i, group in enumerate(self.groups)}
        return values, {method: combined[..., n + i] for i, method in enumerate(self.paired)}


def bootstrap_compound_endpoint(
    table: pd.DataFrame,
    value: str,
    resample: CompoundResample,
    rng: np.random.Generator,
    *,
    endpoint: str = "",
) -> EndpointBootstrap:
    """Bootstrap the mean of a value measured for each compound (claims 2 and 3).

    Parameters
    ----------
    table : DataFrame
        ``method, control, compound`` and ``value``; ``repeat``, ``fold`` and ``seed`` where there are any.
        Several rows a compound (its treatments) are all averaged over. Rows where ``value`` is NaN are
        dropped.
    value : str
        Column.
    resample : CompoundResample
    rng : numpy.random.Generator
        Resamples draws.
    endpoint : str

    Returns
    -------
    EndpointBootstrap
        Values are means over queries of all folds and repeats, then draws. A compound that some model of a
        fold lacks is left out of that fold for all.
    """
    table = table[table[value].notna()]
    # A csv file reads "" (a method without TX) as missing.
    table = table.assign(control=table["control"].astype(object).fillna(""))
    table = table.assign(**{name: 0 for name in ("repeat", "fold", "seed") if name not in table})
    keys = ["method", "control", "seed"]
    column = table.groupby(keys, sort=True, observed=True).ngroup().to_numpy()
    columns = _Columns(table[keys].iloc[np.unique(column, return_index=True)[1]])
    n_columns = column.max(initial=-1) + 1
    fold_of = table.groupby(["repeat", "fold"], sort=True, observed=True).ngroup().to_numpy()
    compound, names = pd.factorize(table["compound"], sort=True)
    numbers = table[value].to_numpy(dtype=float)
    numerator, denominator, used = 0.0, 0.0, np.zeros(len(names), dtype=bool)
    for fold in range(fold_of.max(initial=-1) + 1):
        at = np.flatnonzero(fold_of == fold)
        shape = (len(names), n_columns)
        flat = compound[at] * n_columns + column[at]
        totals = np.bincount(flat, weights=numbers[at], minlength=shape[0] * shape[1]).reshape(shape)
        counts = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
        present = counts.any(0)
        most = counts.max(1)
        kept = (most > 0) & (counts[:, present] == most[:, None]).all(1)
        weights = resample.of(names[kept]).astype(float)  # (1 + B, n_kept)
        numerator = numerator + columns.combine(weights @ totals[kept], present, rng)
        denominator = denominator + weights @ most[kept]
        used |= kept
    if not used.any():
        return EndpointBootstrap(endpoint or value, {}, {}, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        values, pairing = columns.split(numerator / denominator[:, None])
    return EndpointBootstrap(endpoint or value, values, pairing, int(used.sum()))


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray, *, block: int = 256) -> np.ndarray:
    """ROC-AUC of one task for many models under many resamples of the compounds.

    :math:`AUC(w) = \\sum_{i \\in +, j \\in -} w_i w_j c_{ij} / (\\sum_+ w_i \\sum_- w_j)` with :math:`c_{ij}`
    = 1, 1/2 or 0 as i scores above, equal to or below j: exactly the AUC of the compounds repeated w times.

    Parameters
    ----------
    labels : array (n,)
        1, 0 or NaN (missing).
    scores : array (n, n_models)
    weights : array (n_resamples, n)
        Non-negative whole numbers (sums of them are exact in float32).
    block : int
        Resamples at a time, which bounds memory.

    Returns
    -------
    array (n_resamples, n_models)
        NaN where a resample holds one class only.
    """
    active, inactive = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    n_models = scores.shape[1]
    result = np.full((len(weights), n_models), np.nan)
    if not len(active) or not len(inactive):
        return result
    # The larger class goes into the matrix product, the smaller one into the elementwise rest.
    inner, outer, flip = (inactive, active, False) if len(inactive) >= len(active) else (active, inactive, True)
    gap = scores[outer].T[None, :, :] - scores[inner][:, :, None]  # (inner, models, outer)
    wins = (0.5 + 0.5 * np.sign(-gap if flip else gap)).astype(np.float32).reshape(len(inner), -1)
    inner_weights, outer_weights = (np.ascontiguousarray(weights[:, at], dtype=np.float32) for at in (inner, outer))
    pairs = inner_weights.sum(1, dtype=float) * outer_weights.sum(1, dtype=float)
    for start in range(0, len(weights), block):
        rows = slice(start, start + block)
        summed = (inner_weights[rows] @ wins).reshape(-1, n_models, len(outer))
        above = np.matmul(summed, outer_weights[rows, :, None])[:, :, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            result[rows] = above / pairs[rows, None]
    return result


def _fold_auc(
    one: PredictionFold,
    tasks: np.ndarray,
    weights: np.ndarray,
    columns: _Columns,
    coefficients_seed: int,
    keep: np.ndarray,
) -> np.ndarray:
    """Bootstrapped AUC (1 + B, n_tasks, n_groups + n_paired) of some tasks on the kept compounds of one
    fold."""
    kept = keep[one.rows]
    rows = one.rows[kept]
    auc = np.full((len(weights), len(tasks), len(one.present)), np.nan)
    for i, task in enumerate(tasks):
        labels = one.labels[kept, task]
        known = np.flatnonzero(~np.isnan(labels))
        scores = one.scores[kept, task][known][:, one.present]
        auc[:, i, one.present] = weighted_auc(labels[known], scores, weights[:, rows[known]])
    # The same draws for every task of a fold: a draw is one embedding, and its luck is shared by all tasks.
    return columns.combine(auc, one.present, np.random.default_rng(coefficients_seed))


def _task_auc(
    dense: Predictions,
    tasks: np.ndarray,
    weights: np.ndarray,
    columns: _Columns,
    seed: int,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Mean over folds of the bootstrapped AUC within a fold, (1 + B, n_tasks, n_groups + n_paired); NaN if
    undefined."""
    keep = np.ones(len(dense.compounds), dtype=bool) if keep is None else keep
    total, count = 0.0, 0.0
    for number, one in enumerate(dense.folds):
        values = _fold_auc(one, tasks, weights, columns, seed + number, keep)
        total = total + np.nan_to_num(values)
        count = count + ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / count


def _task_weights(n_tasks: int, n_rows: int, rng: np.random.Generator, resample: bool) -> np.ndarray:
    """How often each task counts, (n_rows, n_tasks); row 0 and no resampling: once."""
    weights = np.ones((n_rows, n_tasks))
    if resample and n_tasks > 1:
        weights[1:] = rng.multinomial(n_tasks, np.full(n_tasks, 1.0 / n_tasks), size=n_rows - 1)
    return weights


def _weighted_task_sum(auc: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum over tasks of weight x AUC, and of the weights of tasks whose AUC is defined: (rows, groups)
    each."""
    return (
        np.einsum("bt,btg->bg", weights, np.nan_to_num(auc)),
        np.einsum("bt,btg->bg", weights, (~np.isnan(auc)).astype(float)),
    )


def bootstrap_family_auc(
    predictions: pd.DataFrame | Predictions,
    tasks: pd.DataFrame,
    resample: CompoundResample,
    rng: np.random.Generator,
    *,
    resample_tasks: bool = True,
    min_tasks: int = MIN_TASKS_PER_FAMILY,
    unknown: str = "other",
) -> EndpointBootstrap:
    """Bootstrap the mean ROC-AUC of each target family, and its mean over testable families (claim 4).

    Parameters
    ----------
    predictions : DataFrame or Predictions
    tasks : DataFrame
        ``task, family``.
    resample : CompoundResample
    rng : numpy.random.Generator
        Resamples draws, and tasks within families.
    resample_tasks : bool
        False: the tasks are the population, not a sample of it.
    min_tasks : int
        Families of fewer measured tasks are kept in ``families`` but not in the mean.
    unknown : str
        The name that stands for no known family: kept, not in the mean.

    Returns
    -------
    EndpointBootstrap
        ``n_units``: number of families in the mean; ``families``: one EndpointBootstrap a family, ``n_units``
        its tasks.
    """
    dense = predictions if isinstance(predictions, Predictions) else dense_predictions(predictions)
    columns = _Columns(dense.columns)
    weights = resample.of(dense.compounds)
    family_of = tasks.set_index(tasks["task"].astype(str))["family"].fillna(unknown).astype(str)
    families = family_of.reindex(pd.Index(dense.tasks.astype(str))).fillna(unknown).to_numpy(dtype=object)
    seed = int(rng.integers(2**31))
    result = EndpointBootstrap("family_auc", {}, {}, 0)
    means = []
    for family in sorted(set(families)):
        auc = _task_auc(dense, np.flatnonzero(families == family), weights, columns, seed)
        measured = ~np.isnan(auc[0]).any(1)
        auc = auc[:, measured]
        n_tasks = auc.shape[1]
        if not n_tasks:
            continue
        total, count = _weighted_task_sum(auc, _task_weights(n_tasks, len(weights), rng, resample_tasks))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / count
        result.families[family] = EndpointBootstrap(f"family_auc:{family}", *columns.split(mean), n_tasks)
        if n_tasks >= min_tasks and family != unknown:
            means.append(mean)
    if means:
        result.values, result.pairing = columns.split(np.mean(means, axis=0))
        result.n_units = len(means)
    return result


@dataclass(frozen=True)
class TaskChoice:
    """How TX-strong, CP-weak tasks are chosen: thresholds, number of random halvings and their seed."""

    tx_min: float = 0.65
    margin: float = 0.05
    n_halvings: int = 5
    seed: int = 0
    min_tasks: int = 3
    cp_method: str = "raw_cp"
    tx_method: str = "tx"


def bootstrap_tx_strong_auc(
    predictions: pd.DataFrame | Predictions,
    resample: CompoundResample,
    rng: np.random.Generator,
    *,
    choice: TaskChoice | None = None,
    resample_tasks: bool = True,
) -> EndpointBootstrap:
    """Bootstrap the mean ROC-AUC over TX-strong, CP-weak tasks (claim 1).

    Tasks are chosen on one half of the compound groups by the oracle's (TX) and raw CP's ROC-AUC, and measured on
    the other half; the halves swap; several random halvings are averaged, so that the verdict does not hang
    on one. The choice stays as it is in the bootstrap: choosing saw none of the compounds that measure.

    Parameters
    ----------
    predictions : DataFrame or Predictions
    resample : CompoundResample
    rng : numpy.random.Generator
    choice : TaskChoice, optional
    resample_tasks : bool
        Resample the chosen tasks too.

    Returns
    -------
    EndpointBootstrap
        ``n_units``: number of distinct chosen tasks. With fewer than ``choice.min_tasks`` there are no
        values.
    """
    choice = choice or TaskChoice()
    dense = predictions if isinstance(predictions, Predictions) else dense_predictions(predictions)
    columns = _Columns(dense.columns)
    weights = resample.of(dense.compounds)
    method = dense.columns["method"].to_numpy(dtype=object)
    lacking = [name for name in (choice.cp_method, choice.tx_method) if not (method == name).any()]
    if lacking:
        reason = f"no predictions of {' and '.join(lacking)}, by which TX-strong, CP-weak tasks are chosen"
        return EndpointBootstrap("tx_strong_tasks", {}, {}, 0, not_testable=reason)
    measurements = []  # (tasks chosen on a half, compounds of the other half)
    for number in range(choice.n_halvings):
        first = halves(dense.compounds, choice.seed + number, resample.groups)
        for chosen_on in (first, ~first):
            auc = dense.auc(chosen_on)
            cp_auc, tx_auc = (auc[:, method == name].mean(1) for name in (choice.cp_method, choice.tx_method))
            chosen = tx_strong_cp_weak(cp_auc, tx_auc, tx_min=choice.tx_min, margin=choice.margin)
            measurements.append((np.flatnonzero(chosen), ~chosen_on))
    distinct = np.unique(np.concatenate([tasks for tasks, _ in measurements])).astype(int)
    if len(distinct) < choice.min_tasks:
        reason = (
            f"{len(distinct)} tasks are TX-strong and CP-weak (TX at least {choice.tx_min:g} and"
            f" {choice.margin:g} above CP); at least {choice.min_tasks} are needed"
        )
        return EndpointBootstrap("tx_strong_tasks", {}, {}, len(distinct), not_testable=reason)
    seed = int(rng.integers(2**31))
    task_weights = np.zeros((len(weights), len(dense.tasks)))
    task_weights[:, distinct] = _task_weights(len(distinct), len(weights), rng, resample_tasks)
    total, count = 0.0, 0.0
    for tasks, measured_on in measurements:
        if len(tasks):
            auc = _task_auc(dense, tasks, weights, columns, seed, measured_on)
            one_total, one_count = _weighted_task_sum(auc, task_weights[:, tasks])
            total, count = total + one_total, count + one_count
    with np.errstate(invalid="ignore", divide="ignore"):
        return EndpointBootstrap("tx_strong_tasks", *columns.split(total / count), len(distinct))


# --------------------------------------------------------------------------------------------------
# The four endpoints and the claims table


def bootstrap_endpoints(
    *,
    replicate_per_treatment: pd.DataFrame | None = None,
    moa_per_compound: pd.DataFrame | None = None,
    predictions: pd.DataFrame | None = None,
    tasks: pd.DataFrame | None = None,
    methods: Iterable[str] | None = None,
    max_draws: int | None = None,
    groups: Mapping | pd.Series | None = None,
    choice: TaskChoice | None = None,
    resample_tasks: bool = True,
    not_testable: Mapping[int, str] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> dict[int, EndpointBootstrap]:
    """Bootstrap the primary endpoint of every claim with one resample of the compounds.

    Parameters
    ----------
    replicate_per_treatment, moa_per_compound, predictions : DataFrame, optional
        Long tables of notebooks 05 and 06, each of one split: ``split, repeat, fold, seed, method, control,
        compound`` and ``replicate_map``; ``average_precision``; ``task, label, score``. Left out or empty:
        not testable.
    tasks : DataFrame, optional
        ``task, family``, for claim 4.
    methods : iterable of str, optional
        Only these methods (name those without TX too); default: all in the tables.
    max_draws : int, optional
        Use only so many draws of each control in claims 1 and 4, the slowest part.
    groups : mapping or Series from compound to group, optional
        What is resampled; default: compounds.
    choice : TaskChoice, optional
    resample_tasks : bool
        Resample tasks as well as compounds in claims 1 and 4.
    not_testable : mapping from claim number to reason, optional
        What the screen lacks.
    n_bootstrap, seed : int

    Returns
    -------
    dict from claim number to EndpointBootstrap
        One that cannot be measured says why in ``not_testable``.
    """
    given = [_of_interest(t, methods) for t in (replicate_per_treatment, moa_per_compound, predictions)]
    replicates, moas, predicted = given
    names = {str(name) for table in given if table is not None for name in table["compound"].unique()}
    stream, *streams = np.random.SeedSequence(seed).spawn(1 + len(ENDPOINTS))
    resample = resample_compounds(names, n_bootstrap=n_bootstrap, rng=np.random.default_rng(stream), groups=groups)
    rngs = dict(zip(ENDPOINTS, map(np.random.default_rng, streams), strict=True))
    reasons = dict(not_testable or {})
    if replicates is None:
        reasons.setdefault(2, "no replicates were measured on this screen")
    if moas is None:
        reasons.setdefault(3, "no mechanism of action is shared by test compounds of this screen")
    dense = None
    if predicted is not None:
        few = slice(None) if max_draws is None else predicted["seed"] < max_draws
        dense = dense_predictions(predicted[few])
    for claim in (1, 4):
        if dense is None or not len(dense.tasks):
            reasons.setdefault(claim, "no bioactivity task was predicted on this screen")
    if tasks is None:
        reasons.setdefault(4, "the tasks of this screen have no target families")
    makers = {
        1: lambda rng: bootstrap_tx_strong_auc(dense, resample, rng, choice=choice, resample_tasks=resample_tasks),
        2: lambda rng: bootstrap_compound_endpoint(
            replicates, "replicate_map", resample, rng, endpoint="replicate_map"
        ),
        3: lambda rng: bootstrap_compound_endpoint(moas, "average_precision", resample, rng, endpoint="moa_map"),
        4: lambda rng: bootstrap_family_auc(dense, tasks, resample, rng, resample_tasks=resample_tasks),
    }
    return {
        claim: EndpointBootstrap(endpoint, {}, {}, 0, not_testable=reasons[claim])
        if claim in reasons
        else makers[claim](rngs[claim])
        for claim, endpoint in ENDPOINTS.items()
    }


def _of_interest(table: pd.DataFrame | None, methods: Iterable[str] | None) -> pd.DataFrame | None:
    if table is None or not len(table):
        return None
    if "split" in table and table["split"].nunique() > 1:
        raise ValueError(f"weigh one split at a time, not {', '.join(map(str, table['split'].unique()))}")
    if methods is not None:
        table = table[table["method"].isin(list(methods))]
    return table if len(table) else None


def weigh_claims(
    screen: str,
    endpoints: Mapping[int, EndpointBootstrap],
    *,
    primary: str = "contrastive",
    methods: Iterable[str] | None = None,
    cp_only: Iterable[str] = CP_ONLY,
    smallest_effects: Mapping[str, float] | None = None,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Every comparison of every TX method, and the verdict of each claim.

    Parameters
    ----------
    screen : str
        Name of the screen.
    endpoints : mapping from claim number to EndpointBootstrap
        From :func:`bootstrap_endpoints`.
    primary : str
        The method whose comparisons carry the verdicts.
    methods : iterable of str, optional
        Methods with TX to compare; default: all that were fitted on true pairs.
    cp_only : iterable of str
        Methods without TX; of those measured the one with the best estimate is the reference "best CP-only".
    smallest_effects : mapping from endpoint to float, optional
        Gains that would matter, in the endpoint's units; default :data:`SMALLEST_EFFECTS`.
    alpha : float

    Returns
    -------
    DataFrame
        Columns :data:`CLAIM_COLUMNS`. One row a claim, method and reference. The first row of a claim is the
        comparison that decided: it alone carries the verdict and its reason, and its ``p_adjusted`` is the
        claim's p after Holm over the testable claims. Other rows: Benjamini-Hochberg within the claim. Single
        target families have rows of their own, endpoint ``family_auc:<family>``, Benjamini-Hochberg over
        families; those of too few tasks have no p. Reference ``deranged`` is the same method on deranged
        pairs. ``effect`` is method minus reference in mAP or ROC-AUC, ``detectable`` what would be found with
        80% power, ``n_units`` counts compounds (claims 2, 3), tasks (claim 1, single families) or families
        (claim 4). ``deranged_effect`` with its interval is what the method's deranged control gains over the same
        reference; ``would_change`` says on the deciding row what would make for another verdict.
    """
    limits = {**SMALLEST_EFFECTS, **(smallest_effects or {})}
    rows: list[dict] = []
    families: list[dict] = []
    contests: dict[int, dict[str, Comparison]] = {}
    reasons: dict[int, str] = {}
    for claim in ENDPOINTS:
        endpoint = endpoints[claim]
        names = _cp_only_measured(endpoint, cp_only)
        reasons[claim] = _why_not_testable(claim, endpoint, primary, names)
        compared = [name for name in _tx_methods(endpoint, methods) if names]
        for method in sorted(compared, key=lambda name: (name != primary, name)):
            made = _comparison_rows(claim, endpoint, method, names, names[0])
            rows += [row for row, _ in made]
            if method == primary and not reasons[claim]:
                contests[claim] = _contest({row["reference"]: one for row, one in made}, names[0])
        families += _family_rows(claim, endpoint, methods, names[0] if names else "")
    p_values = np.array([claim_p_value(c["best"], c["deranged"]) for c in contests.values()])
    adjusted = dict(zip(contests, holm(p_values), strict=True))
    table = []
    for claim, endpoint in ENDPOINTS.items():
        ruled = verdict(
            contests.get(claim, {}),
            adjusted.get(claim, np.nan),
            smallest_effect=limits[endpoint],
            alpha=alpha,
            not_testable=reasons[claim],
        )
        own = _adjust_rows([row for row in rows if row["claim"] == claim])
        table += _place_verdict(claim, primary, own, ruled, contests.get(claim, {}), adjusted.get(claim, np.nan))
    return pd.DataFrame(table + families).assign(screen=screen).reindex(columns=CLAIM_COLUMNS)


def _tx_methods(endpoint: EndpointBootstrap, methods: Iterable[str] | None) -> list[str]:
    fitted = [method for method, control in endpoint.values if control == "true_pairs"]
    return fitted if methods is None else [method for method in fitted if method in set(methods)]


def _cp_only_measured(endpoint: EndpointBootstrap, cp_only: Iterable[str]) -> list[str]:
    """Methods without TX that were measured, the best estimate first."""
    names = [name for name in cp_only if endpoint.key(name) is not None]
    return sorted(names, key=lambda name: -endpoint.values[endpoint.key(name)][0])


def _why_not_testable(claim: int, endpoint: EndpointBootstrap, primary: str, cp_only: list[str]) -> str:
    if endpoint.not_testable:
        return endpoint.not_testable
    if not endpoint.values:
        return {4: f"no target family has {MIN_TASKS_PER_FAMILY} measured tasks"}.get(claim, "nothing was measured")
    if (primary, "true_pairs") not in endpoint.values:
        return f"{primary} was not evaluated on true pairs"
    if (primary, "deranged") not in endpoint.values:
        return f"{primary} has no deranged control, without which a gain cannot be put down to TX"
    if "raw_cp" not in cp_only:
        return "raw_cp was not evaluated"
    return ""


def _comparison_rows(
    claim: int, endpoint: EndpointBootstrap, method: str, references: list[str], best: str
) -> list[tuple[dict, Comparison]]:
    """Rows of one method against CP-only references and its own deranged control."""
    made = []
    targets = [(name, endpoint.key(name)) for name in references] + [("deranged", (method, "deranged"))]
    for reference, key in targets:
        if key not in endpoint.values:
            continue
        one = summarise_bootstrap(endpoint.difference(method, key))
        control = _control_against(endpoint, method, key)
        role = "best CP-only" if reference == best else "CP-only"
        row = {
            "claim": claim,
            "endpoint": endpoint.endpoint,
            "method": method,
            "reference": reference,
            "effect": one.effect,
            "ci_low": one.ci_low,
            "ci_high": one.ci_high,
            "p_adjusted": np.nan,
            "verdict": "",
            "p_value": one.p_value,
            "detectable": one.detectable,
            "n_units": endpoint.n_units,
            "value_method": float(endpoint.values[endpoint.key(method)][0]),
            "value_reference": float(endpoint.values[key][0]),
            "role": "deranged control" if reference == "deranged" else role,
            "reason": "",
            "would_change": "",
            "deranged_effect": control.effect,
            "deranged_low": control.ci_low,
            "deranged_high": control.ci_high,
        }
        made.append((row, one))
    return made


def _control_against(endpoint: EndpointBootstrap, method: str, reference: tuple[str, str]) -> Comparison:
    """The method's deranged control against the same reference; NaN against itself or where there is none."""
    control = (method, "deranged")
    if control == reference or control not in endpoint.values:
        return Comparison(*[np.nan] * 5)
    return summarise_bootstrap(endpoint.values[control] - endpoint.values[reference])


def _contest(by_reference: dict[str, Comparison], best: str) -> dict[str, Comparison]:
    """The comparisons that :func:`verdict` asks for."""
    contest = {
        "raw": by_reference["raw_cp"],
        "best": by_reference[best],
        "deranged": by_reference["deranged"],
    }
    return contest | ({"lda": by_reference["lda_identity"]} if "lda_identity" in by_reference else {})


def _family_rows(
    claim: int,
    endpoint: EndpointBootstrap,
    methods: Iterable[str] | None,
    best: str,
    unknown: str = "other",
) -> list[dict]:
    """Rows of single target families: against raw CP, the best CP-only method of the claim and the deranged
    control."""
    rows = []
    for family, one in endpoint.families.items():
        wanted = [name for name in dict.fromkeys(["raw_cp", best]) if one.key(name) is not None]
        for method in _tx_methods(one, methods):
            made = [row for row, _ in _comparison_rows(claim, one, method, wanted, best)]
            if one.n_units < MIN_TASKS_PER_FAMILY or family == unknown:
                why = "no known family" if family == unknown else f"fewer than {MIN_TASKS_PER_FAMILY} tasks"
                made = [row | {"p_value": np.nan, "reason": f"{why}: shown, not tested"} for row in made]
            rows += made
    if rows:
        table = pd.DataFrame(rows)
        adjusted = table.groupby(["method", "reference"])["p_value"].transform(
            lambda p: benjamini_hochberg(p.to_numpy())
        )
        rows = [row | {"p_adjusted": value} for row, value in zip(rows, adjusted, strict=True)]
    return rows


def _adjust_rows(rows: list[dict]) -> list[dict]:
    adjusted = benjamini_hochberg(np.array([row["p_value"] for row in rows], dtype=float))
    return [row | {"p_adjusted": value} for row, value in zip(rows, adjusted, strict=True)]


def _place_verdict(
    claim: int,
    primary: str,
    rows: list[dict],
    ruled: Verdict,
    contest: dict[str, Comparison],
    p_adjusted: float,
) -> list[dict]:
    """Put the verdict on the deciding row and that row first; without one, add a row that says why."""
    if not contest:
        empty = {"claim": claim, "endpoint": ENDPOINTS[claim], "method": primary, "reference": ""}
        empty |= {"verdict": ruled.verdict, "reason": ruled.reason, "role": "", "n_units": 0}
        empty |= {"would_change": would_change(ruled, contest)}
        return [empty, *rows]
    own = [row for row in rows if row["method"] == primary]
    reference = {
        "raw": "raw_cp",
        "lda": "lda_identity",
        "deranged": "deranged",
        "best": next(row["reference"] for row in own if row["role"] == "best CP-only"),
    }[ruled.deciding]
    deciding = next(row for row in own if row["reference"] == reference)
    others = [row for row in rows if row is not deciding]
    placed = deciding | {"verdict": ruled.verdict, "reason": ruled.reason, "p_adjusted": p_adjusted}
    placed |= {"would_change": would_change(ruled, contest)}
    return [placed, *others]


def sentences(claims: pd.DataFrame) -> list[str]:
    """The verdicts in plain words, one sentence or two a claim, every number from the table.

    Parameters
    ----------
    claims : DataFrame
        From :func:`weigh_claims` (of one screen, or several one after the other), or read back from its csv.

    Returns
    -------
    list of str
    """
    said = []
    for _, row in claims[claims["verdict"].fillna("") != ""].iterrows():
        head = f"Claim {row['claim']} ({CLAIM_TEXTS[int(row['claim'])]}): {row['verdict']} on {row['screen']}"
        if row["verdict"] == "not testable":
            said.append(f"{head}: {row['reason']}.")
            continue
        same = claims[
            (claims["screen"] == row["screen"])
            & (claims["endpoint"] == row["endpoint"])
            & (claims["method"] == row["method"])
        ]
        unit = UNITS[row["endpoint"]]
        parts = [_gap(same[same["reference"] == "raw_cp"], "raw CP")]
        best = same[(same["role"] == "best CP-only") & (same["reference"] != "raw_cp")]
        parts += [_gap(best, f"{best['reference'].iloc[0]}, the best method without TX")] if len(best) else []
        parts.append(_gap(same[same["reference"] == "deranged"], "its own deranged control"))
        said.append(
            f"{head} ({row['reason']}). {row['method']} reaches {row['value_method']:.3f} {unit}:"
            f" {'; '.join(parts)}; p = {row['p_adjusted']:.2g} after Holm."
        )
    return said


def _gap(rows: pd.DataFrame, name: str) -> str:
    row = rows.iloc[0]
    return f"{row['effect']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}] to {name}"


# --------------------------------------------------------------------------------------------------
# Intervals for figures


def paired_bootstrap(
    values_a: np.ndarray,
    values_b: np.ndarray,
    *,
    units: np.ndarray | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Mean difference of paired values, with units (compounds) resampled.

    Parameters
    ----------
    values_a, values_b : arrays (n,)
        Two methods' values of the same queries; pairs with a NaN are left out.
    units : array (n,), optional
        Compound of each value; default: each value is its own unit.
    n_bootstrap, seed : int

    Returns
    -------
    Comparison
        a minus b.
    """
    difference = np.asarray(values_a, dtype=float) - np.asarray(values_b, dtype=float)
    names = np.arange(len(difference)) if units is None else np.asarray(units)
    known = ~np.isnan(difference)
    code, distinct = pd.factorize(names[known])
    if not len(distinct):
        return summarise_bootstrap(np.full(1 + n_bootstrap, np.nan))
    resample = resample_compounds(
        [f"{i:09d}" for i in range(len(distinct))], n_bootstrap=n_bootstrap, rng=np.random.default_rng(seed)
    )
    weights = resample.weights.astype(float)
    totals = np.bincount(code, weights=difference[known])
    return summarise_bootstrap(weights @ totals / (weights @ np.bincount(code)))


def gain_parts(
    endpoints: Iterable[tuple[str, pd.DataFrame, str]], *, n_bootstrap: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Split the gain of each TX method over raw CP into what deranged pairs reach and what true pairs add.

    Parameters
    ----------
    endpoints : iterable of (name, table, column)
        Compound-level values as for :func:`interval_table`; empty tables are passed over.
    n_bootstrap, seed : int

    Returns
    -------
    DataFrame
        ``endpoint, method, part, effect, ci_low, ci_high``; part is "without TX" (deranged minus raw CP) or
        "from TX" (true minus deranged).
    """
    rows = []
    for name, table, column in endpoints:
        if not len(table):
            continue
        rng = np.random.default_rng(seed)
        resample = resample_compounds(table["compound"].unique(), n_bootstrap=n_bootstrap, rng=rng)
        one = bootstrap_compound_endpoint(table, column, resample, rng)
        for method in _tx_methods(one, None):
            if (method, "deranged") not in one.values or ("raw_cp", "") not in one.values:
                continue
            without = one.values[method, "deranged"] - one.values["raw_cp", ""]
            for part, values in (("without TX", without), ("from TX", one.difference(method, (method, "deranged")))):
                summary = summarise_bootstrap(values)
                rows.append((name, method, part, summary.effect, summary.ci_low, summary.ci_high))
    return pd.DataFrame(rows, columns=["endpoint", "method", "part", "effect", "ci_low", "ci_high"])


def retrieval_contrasts(
    retrieval: pd.DataFrame, *, reference: str = "ridge_tx", n_bootstrap: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Paired differences in cross-modal retrieval: each method minus a simple one, and minus its own deranged control.

    Parameters
    ----------
    retrieval : DataFrame
        One row a test compound: ``method, control, compound, rank, n_candidates``, and ``repeat, fold, seed``.
    reference : str
        Method whose true pairs are the yardstick of the others.
    n_bootstrap, seed : int

    Returns
    -------
    DataFrame
        ``method, measure, against, value, effect, ci_low, ci_high, n_units``: `measure` is "nearest tenth" (share of
        compounds whose own TX profile ranks there) or "mean rank" (0 the nearest, 1 the farthest), `against` is
        "own deranged pairs" or the reference. Compounds and draws are resampled, and the same ones for both sides;
        against deranged pairs the luck of one pairing is added, as for the claims.
    """
    table = retrieval_scores(retrieval)
    rows = []
    for measure, column in (("nearest tenth", "near"), ("mean rank", "rank_share")):
        rng = np.random.default_rng(seed)
        resample = resample_compounds(table["compound"].unique(), n_bootstrap=n_bootstrap, rng=rng)
        one = bootstrap_compound_endpoint(table, column, resample, rng)
        for method in _tx_methods(one, None):
            own = one.values[method, "true_pairs"]
            for against, key in (("own deranged pairs", (method, "deranged")), (reference, (reference, "true_pairs"))):
                if key in one.values and key != (method, "true_pairs"):
                    found = summarise_bootstrap(one.difference(method, key))
                    interval = (found.effect, found.ci_low, found.ci_high)
                    rows.append((method, measure, against, own[0], *interval, one.n_units))
    names = ["method", "measure", "against", "value", "effect", "ci_low", "ci_high", "n_units"]
    return pd.DataFrame(rows, columns=names)


def family_gains(
    predictions: pd.DataFrame,
    tasks: pd.DataFrame,
    *,
    reference: str = "raw_cp",
    groups: Mapping | pd.Series | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean gain in ROC-AUC over the reference method in each target family, for figures.

    Parameters
    ----------
    predictions, tasks : DataFrame
        As for :func:`bootstrap_family_auc`.
    reference : str
        Method without TX.
    groups : mapping or Series from compound to group, optional
        What is resampled; default: compounds.
    n_bootstrap, seed : int

    Returns
    -------
    DataFrame
        ``family, n_tasks, method, control, effect, ci_low, ci_high, tested``; empty where nothing was predicted.
    """
    columns = ["family", "n_tasks", "method", "control", "effect", "ci_low", "ci_high", "tested"]
    if not len(predictions):
        return pd.DataFrame(columns=columns)
    rng = np.random.default_rng(seed)
    names = predictions["compound"].unique()
    resample = resample_compounds(names, n_bootstrap=n_bootstrap, rng=rng, groups=groups)
    families = bootstrap_family_auc(predictions, tasks, resample, rng).families
    rows = []
    for family, one in families.items():
        tested = one.n_units >= MIN_TASKS_PER_FAMILY and family != "other"
        for method, control in one.values:
            if method != reference:
                summary = summarise_bootstrap(one.values[method, control] - one.values[reference, ""])
                effect = (summary.effect, summary.ci_low, summary.ci_high)
                rows.append((family, one.n_units, method, control, *effect, tested))
    return pd.DataFrame(rows, columns=columns)


def interval_table(
    per_unit: pd.DataFrame,
    value: str,
    *,
    unit: str = "compound",
    by: Iterable[str] = ("method", "control"),
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean and 95% interval of a compound-level value for every method and control, for figures.

    Parameters
    ----------
    per_unit : DataFrame
        ``method, control``, ``unit`` and ``value``; ``repeat``, ``fold`` and ``seed`` where there are any
        (draws are resampled within folds).
    value, unit : str
        Columns.
    by : iterable of str
        ``method``, ``control`` and any further columns to tell apart.
    n_bootstrap, seed : int

    Returns
    -------
    DataFrame
        ``by``, ``mean, ci_low, ci_high, n_units``; empty for an empty table.
    """
    by = list(by)
    if not len(per_unit):
        return pd.DataFrame(columns=[*by, "mean", "ci_low", "ci_high", "n_units"])
    further = [name for name in by if name not in ("method", "control")]
    groups = per_unit.groupby(further, sort=True, observed=True) if further else [((), per_unit)]
    tables = []
    for key, part in groups:
        part = part.rename(columns={unit: "compound"})
        rng = np.random.default_rng(seed)
        resample = resample_compounds(part["compound"].unique(), n_bootstrap=n_bootstrap, rng=rng)
        one = bootstrap_compound_endpoint(part, value, resample, rng)
        table = _interval_rows(one, "mean")
        for name, level in zip(further, key, strict=True):
            table[name] = level
        tables.append(table)
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return table.reindex(columns=[*by, "mean", "ci_low", "ci_high", "n_units"])


def _interval_rows(one: EndpointBootstrap, name: str) -> pd.DataFrame:
    rows = []
    for (method, control), distribution in one.values.items():
        summary = summarise_bootstrap(distribution)
        row = {"method": method, "control": control, name: summary.effect}
        rows.append(row | {"ci_low": summary.ci_low, "ci_high": summary.ci_high, "n_units": one.n_units})
    return pd.DataFrame(rows)


def endpoint_intervals(endpoints: Mapping[int, EndpointBootstrap]) -> pd.DataFrame:
    """Estimate and 95% interval of every method and control on each primary endpoint and each target family.

    Parameters
    ----------
    endpoints : mapping from claim number to EndpointBootstrap
        From :func:`bootstrap_endpoints`.

    Returns
    -------
    DataFrame
        ``claim, endpoint, method, control, value, ci_low, ci_high, n_units``.
    """
    columns = ["claim", "endpoint", "method", "control", "value", "ci_low", "ci_high", "n_units"]
    tables = []
    for claim, endpoint in endpoints.items():
        for one in (endpoint, *endpoint.families.values()):
            if one.values:
                tables.append(_interval_rows(one, "value").assign(claim=claim, endpoint=one.endpoint))
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
