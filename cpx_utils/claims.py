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

What varies in the bootstrap. *Compounds*, whole groups of one structure at a time: one resample serves all methods,
endpoints and draws, so differences are paired. *Draws*: the derangements, and the seeds of networks, are resampled
within each fold. *Pairing*: against the deranged control, the true pairing itself counts as one draw: had TX carried
nothing, it would be just another derangement, with a luck of its own that no resampling of compounds shows. Its spread
is that of the deranged draws; a single draw shows none, so nothing is judged against it. *Tasks*, for claims 1 and 4,
within families. Intervals are percentile intervals (Efron and Tibshirani 1993); resampling compounds and tasks as
crossed factors is conservative (Owen 2007, doi 10.1214/07-AOAS122).

Last come published numbers on the same screens, and which of them may stand beside a run's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.bioactivity import Predictions, dense_predictions, tx_strong_cp_weak
from cpx_utils.metrics import benjamini_hochberg
from cpx_utils.profiles import CLAIM_TEXTS, CP_ONLY, MIN_TASKS_PER_FAMILY, UNITS, ScreenError
from cpx_utils.splits import halves

ENDPOINTS = {1: "tx_strong_tasks", 2: "replicate_map", 3: "moa_map", 4: "family_auc"}
SMALLEST_EFFECTS = {"tx_strong_tasks": 0.01, "replicate_map": 0.02, "moa_map": 0.02, "family_auc": 0.01}
CLAIM_COLUMNS = (
    "screen claim endpoint method reference effect ci_low ci_high p_adjusted verdict p_value detectable n_units "
    "value_method value_reference role reason would_change deranged_effect deranged_low deranged_high"
).split()
# Two-sided 5% and 80% power: 1.96 + 0.84 standard errors.
DETECTABLE_IN_STANDARD_ERRORS = 2.8
N_HALVINGS = 5  # of the compounds, to choose TX-strong, CP-weak tasks
MIN_CHOSEN_TASKS = 3
NAMES = {
    "raw": "raw CP",
    "best": "the best CP-only method",
    "lda": "lda_identity",
    "deranged": "its own deranged control",
}
NOTHING_PUBLISHED = "No published value of the same quantity on the same screen and split."


# --------------------------------------------------------------------------------------------------
# Comparisons and verdicts


@dataclass(frozen=True)
class Comparison:
    """A difference with its 95% interval, what could have been detected (80% power), and a two-sided p."""

    effect: float
    ci_low: float
    ci_high: float
    detectable: float
    p_value: float

    @property
    def p_in_favour(self) -> float:
        """The two-sided p where the effect is positive, else 1: a significant loss is no evidence for a gain."""
        return self.p_value if self.effect > 0 and not np.isnan(self.p_value) else 1.0


def summarise_bootstrap(distribution: np.ndarray) -> Comparison:
    """Interval and p of a bootstrapped difference.

    Parameters
    ----------
    distribution : array (1 + n_bootstrap,)
        First the estimate itself, then its bootstrap replicates. Undefined replicates (NaN) are left out.

    Returns
    -------
    Comparison
        Percentile interval; p is twice the share of replicates on the far side of 0, with 1 added above and
        below so that it is never 0 (Davison and Hinkley 1997). NaN with fewer than two replicates.
    """
    estimate = float(distribution[0])
    replicates = distribution[1:][~np.isnan(distribution[1:])]
    if np.isnan(estimate) or len(replicates) < 2:
        return Comparison(estimate, np.nan, np.nan, np.nan, np.nan)
    low, high = np.quantile(replicates, [0.025, 0.975])
    below, above = (replicates <= 0).sum(), (replicates >= 0).sum()
    p_value = min(1.0, 2.0 * (1 + min(below, above)) / (len(replicates) + 1))
    detectable = DETECTABLE_IN_STANDARD_ERRORS * float(replicates.std(ddof=1))
    return Comparison(estimate, float(low), float(high), detectable, float(p_value))


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict, the comparison that decided it (raw, best, lda or deranged; "" if none) and why."""

    verdict: str
    deciding: str
    reason: str


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
        Larger p of ``best`` and ``deranged``, since both must hold (intersection-union; Berger 1982), after Holm.
    smallest_effect : float
        The smallest gain that would matter, in the endpoint's units.
    alpha : float
    not_testable : str
        Why the claim cannot be tested on this screen; "" if it can.
    """
    if not_testable:
        return Verdict("not testable", "", not_testable)
    seen = "; differences from {:.3f} up would have been detected with 80% power"
    needed = {key: comparisons[key] for key in ("best", "deranged")}
    hardest = max(needed, key=lambda key: (needed[key].p_in_favour, -needed[key].ci_low))
    wins = all(one.ci_low > 0 for one in needed.values())
    if wins and p_adjusted < alpha:
        return Verdict("supported", hardest, "better than the best CP-only method and than its own deranged control")
    raw = comparisons["raw"]
    explaining = {key: comparisons[key] for key in ("deranged", "best", "lda") if key in comparisons}
    unbeaten = {key: one for key, one in explaining.items() if not one.ci_low > 0}
    if raw.ci_low > 0 and unbeaten:
        least = min(unbeaten, key=lambda key: unbeaten[key].effect / max(unbeaten[key].detectable, 1e-12))
        high = unbeaten[least].ci_high
        rest = f"a gain of up to {high:.3f} over it is not excluded" if high > 0 else "it is worse than that"
        return Verdict("explained without TX", least, f"better than raw CP but not than {NAMES[least]}; {rest}")
    if not raw.ci_low > 0:
        excluded = {key: one for key, one in (("raw", raw), *needed.items()) if one.ci_high < smallest_effect}
        if excluded:
            key = next(iter(excluded))
            why = f"not better than raw CP, and a gain of {smallest_effect:g} over {NAMES[key]} is excluded"
            return Verdict("not supported", key, why)
        return Verdict("inconclusive", "raw", "not clearly better than raw CP" + seen.format(raw.detectable))
    why = "does not survive Holm's correction" + seen.format(needed[hardest].detectable)
    return Verdict("inconclusive", hardest, why)


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


# --------------------------------------------------------------------------------------------------
# Bootstrap


def _drawn(n: int, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n things is drawn with replacement, (1 + n_bootstrap, n); row 0 is the data: each once."""
    draws = rng.multinomial(n, np.full(n, 1.0 / n), size=n_bootstrap) if n else np.zeros((n_bootstrap, 0))
    return np.vstack([np.ones((1, n)), draws])


def resample_compounds(
    compounds: Iterable,
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
    groups: pd.Series | None = None,
) -> pd.DataFrame:
    """Draw groups of compounds with replacement.

    Parameters
    ----------
    compounds : iterable of str
    n_bootstrap : int
    rng : numpy.random.Generator
    groups : Series of groups by compound, optional
        What is resampled (:func:`profiles.compound_groups`): compounds of a group come and go together. Default, and
        for compounds that it lacks: the compound.

    Returns
    -------
    DataFrame (1 + n_bootstrap, n_compounds)
        How often each compound (column) occurs in each resample, float32; row 0 is the data themselves.
    """
    names = pd.Index(sorted({str(name) for name in compounds}))
    labels = names if groups is None else pd.Index([str(groups.get(name, name)) for name in names])
    code, distinct = pd.factorize(labels, sort=True)
    weights = _drawn(len(distinct), n_bootstrap, rng).astype(np.float32)
    return pd.DataFrame(weights[:, code], columns=names)


@dataclass
class EndpointBootstrap:
    """An endpoint's estimate (row 0) and bootstrap values, by (method, control).

    ``values[(method, control)]`` and ``pairing[method]`` are arrays (1 + n_bootstrap,); ``pairing`` is what
    the luck of one pairing adds to a method, estimated from its deranged draws: NaN where there is one only, which
    shows no luck. ``families`` holds the same by target family.
    """

    endpoint: str
    values: dict[tuple[str, str], np.ndarray]
    pairing: dict[str, np.ndarray]
    n_units: int
    families: dict[str, EndpointBootstrap] = field(default_factory=dict)
    not_testable: str = ""

    def difference(self, one: tuple[str, str], other: tuple[str, str]) -> np.ndarray:
        """One (method, control) minus another, (1 + n_bootstrap,).

        Between a method and its own deranged control the pairing's luck is added. Replicates are NaN, and nothing is
        judged, where either side is a deranged control of a single draw.
        """
        difference = self.values[one] - self.values[other]
        is_own_control = other == (one[0], "deranged")
        for method in {method for method, control in (one, other) if control == "deranged"}:
            luck = self.pairing[method]
            difference = difference + (luck if is_own_control else 0.0 * luck)  # 0 times NaN stays NaN
        return difference


class _Fits:
    """Fitted models of an endpoint (method, control, seed) and how they are resampled within one fold."""

    def __init__(self, columns: pd.DataFrame):
        pairs = list(zip(columns["method"].astype(str), columns["control"].fillna("").astype(str), strict=True))
        self.groups = sorted(set(pairs))
        self.members = [np.array([i for i, pair in enumerate(pairs) if pair == group]) for group in self.groups]
        self.paired = sorted({method for method, control in self.groups if control == "deranged"})

    def combine(self, values: np.ndarray, present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Average draws with their bootstrap weights: (B, ..., n_columns) -> (B, ..., n_groups + n_paired).

        The last ``n_paired`` are the luck of one pairing: a deranged draw's deviation from the mean of the draws,
        scaled so that its variance is unbiased; NaN from one draw, which has no deviation to show.
        """
        n_rows = len(values)
        coefficients, pairing = [], []
        for (method, control), members in zip(self.groups, self.members, strict=True):
            at = members[present[members]]
            if not len(at):
                raise ValueError(f"{method} ({control or 'no control'}) is missing from a fold that others have")
            k = len(at)
            coefficients.append((at, _drawn(k, n_rows - 1, rng) / k))
            if control == "deranged":
                luck = np.zeros((n_rows, k))
                luck[1:] = np.nan
                if k > 1:
                    luck[1:] = -1.0 / k
                    luck[np.arange(1, n_rows), rng.integers(k, size=n_rows - 1)] += 1.0
                    luck[1:] *= np.sqrt(k / (k - 1))
                pairing.append((at, luck))
        combined = [np.einsum("b...k,bk->b...", values[..., at], c) for at, c in coefficients + pairing]
        return np.stack(combined, axis=-1)

    def endpoint(self, name: str, combined: np.ndarray, n_units: int) -> EndpointBootstrap:
        """What :meth:`combine` made (B, n_groups + n_paired), as an endpoint."""
        n = len(self.groups)
        values = {group: combined[:, i] for i, group in enumerate(self.groups)}
        pairing = {method: combined[:, n + i] for i, method in enumerate(self.paired)}
        return EndpointBootstrap(name, values, pairing, n_units)


def bootstrap_compound_endpoint(
    table: pd.DataFrame, value: str, resample: pd.DataFrame, rng: np.random.Generator, *, endpoint: str = ""
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
    resample : DataFrame
        From :func:`resample_compounds`.
    rng : numpy.random.Generator
        Resamples draws.
    endpoint : str
        Its name; default: the column's.

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
    fits = _Fits(table[keys].iloc[np.unique(column, return_index=True)[1]])
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
        weights = resample[names[kept].astype(str)].to_numpy(dtype=float)  # (1 + n_bootstrap, n_kept)
        numerator = numerator + fits.combine(weights @ totals[kept], present, rng)
        denominator = denominator + weights @ most[kept]
        used |= kept
    if not used.any():
        return EndpointBootstrap(endpoint or value, {}, {}, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return fits.endpoint(endpoint or value, numerator / denominator[:, None], int(used.sum()))


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


def _task_auc(
    dense: Predictions,
    tasks: np.ndarray,
    weights: np.ndarray,
    fits: _Fits,
    seed: int,
    measured_on: np.ndarray | None = None,
) -> np.ndarray:
    """Mean over folds of some tasks' bootstrapped AUC within a fold, (1 + n_bootstrap, n_tasks, n_groups + n_paired).

    `measured_on` (n_compounds,) restricts it to some compounds. NaN where no fold measures a task.
    """
    total, count = 0.0, 0.0
    for number, one in enumerate(dense.folds):
        kept = slice(None) if measured_on is None else measured_on[one.rows]
        rows, labels, scores = one.rows[kept], one.labels[kept], one.scores[kept]
        auc = np.full((len(weights), len(tasks), len(one.present)), np.nan)
        for i, task in enumerate(tasks):
            known = np.flatnonzero(~np.isnan(labels[:, task]))
            of_models = scores[known, task][:, one.present]
            auc[:, i, one.present] = weighted_auc(labels[known, task], of_models, weights[:, rows[known]])
        # The same draws for every task of a fold: a draw is one embedding, and its luck is shared by all tasks.
        values = fits.combine(auc, one.present, np.random.default_rng(seed + number))
        total = total + np.nan_to_num(values)
        count = count + ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / count


def bootstrap_family_auc(
    dense: Predictions, tasks: pd.DataFrame, resample: pd.DataFrame, rng: np.random.Generator
) -> EndpointBootstrap:
    """Bootstrap the mean ROC-AUC of each target family, and its mean over testable families (claim 4).

    Parameters
    ----------
    dense : Predictions
    tasks : DataFrame
        ``task, family``.
    resample : DataFrame
        From :func:`resample_compounds`.
    rng : numpy.random.Generator
        Resamples draws, and tasks within families.

    Returns
    -------
    EndpointBootstrap
        ``n_units``: number of families in the mean: those of `MIN_TASKS_PER_FAMILY` measured tasks, without "other",
        which is no family. ``families``: one EndpointBootstrap each, all of them, ``n_units`` its tasks.
    """
    fits = _Fits(dense.columns)
    weights = resample[dense.compounds.astype(str)].to_numpy()
    family_of = tasks.set_index(tasks["task"].astype(str))["family"].fillna("other").astype(str)
    family_of_task = family_of.reindex(pd.Index(dense.tasks.astype(str))).fillna("other").to_numpy(dtype=object)
    seed = int(rng.integers(2**31))
    families, means = {}, []
    for family in sorted(set(family_of_task)):
        auc = _task_auc(dense, np.flatnonzero(family_of_task == family), weights, fits, seed)
        auc = auc[:, ~np.isnan(auc[0]).any(1)]
        n_tasks = auc.shape[1]
        if not n_tasks:
            continue
        times = _drawn(n_tasks, len(weights) - 1, rng)
        total = np.einsum("bt,btg->bg", times, np.nan_to_num(auc))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / np.einsum("bt,btg->bg", times, (~np.isnan(auc)).astype(float))
        families[family] = fits.endpoint(f"family_auc:{family}", mean, n_tasks)
        if n_tasks >= MIN_TASKS_PER_FAMILY and family != "other":
            means.append(mean)
    if not means:
        return EndpointBootstrap("family_auc", {}, {}, 0, families)
    endpoint = fits.endpoint("family_auc", np.mean(means, axis=0), len(means))
    endpoint.families = families
    return endpoint


def bootstrap_tx_strong_auc(
    dense: Predictions,
    resample: pd.DataFrame,
    rng: np.random.Generator,
    *,
    groups: pd.Series | None = None,
    tx_min: float = 0.65,
    margin: float = 0.05,
    seed: int = 0,
) -> EndpointBootstrap:
    """Bootstrap the mean ROC-AUC over TX-strong, CP-weak tasks (claim 1).

    Tasks are chosen on one half of the compound groups by the oracle's (TX) and raw CP's ROC-AUC, and measured on
    the other half; the halves swap; several random halvings are averaged, so that the verdict does not hang
    on one. The choice stays as it is in the bootstrap: choosing saw none of the compounds that measure.

    Parameters
    ----------
    dense : Predictions
    resample : DataFrame
        From :func:`resample_compounds`.
    rng : numpy.random.Generator
        Resamples draws and the chosen tasks.
    groups : Series of groups by compound, optional
    tx_min, margin : float
        ROC-AUC from which TX counts as strong, and by how much it must exceed raw CP.
    seed : int
        Of the halvings.

    Returns
    -------
    EndpointBootstrap
        ``n_units``: number of distinct chosen tasks. With fewer than `MIN_CHOSEN_TASKS` there are no values.
    """
    fits = _Fits(dense.columns)
    method = dense.columns["method"].to_numpy(dtype=object)
    lacking = [name for name in ("raw_cp", "tx") if not (method == name).any()]
    if lacking:
        reason = f"no predictions of {' and '.join(lacking)}, by which TX-strong, CP-weak tasks are chosen"
        return EndpointBootstrap("tx_strong_tasks", {}, {}, 0, not_testable=reason)
    measurements = []  # (tasks chosen on a half, compounds of the other half)
    for number in range(N_HALVINGS):
        first = halves(dense.compounds, seed + number, groups)
        for chosen_on in (first, ~first):
            auc = dense.auc(chosen_on)
            cp_auc, tx_auc = (auc[:, method == name].mean(1) for name in ("raw_cp", "tx"))
            chosen = tx_strong_cp_weak(cp_auc, tx_auc, tx_min=tx_min, margin=margin)
            measurements.append((np.flatnonzero(chosen), ~chosen_on))
    distinct = np.unique(np.concatenate([tasks for tasks, _ in measurements])).astype(int)
    if len(distinct) < MIN_CHOSEN_TASKS:
        reason = (
            f"{len(distinct)} tasks are TX-strong and CP-weak (TX at least {tx_min:g} and {margin:g} above CP); "
            f"at least {MIN_CHOSEN_TASKS} are needed"
        )
        return EndpointBootstrap("tx_strong_tasks", {}, {}, len(distinct), not_testable=reason)
    draws_seed = int(rng.integers(2**31))
    weights = resample[dense.compounds.astype(str)].to_numpy()
    times = np.zeros((len(weights), len(dense.tasks)))
    times[:, distinct] = _drawn(len(distinct), len(weights) - 1, rng)
    total, count = 0.0, 0.0
    for tasks, measured_on in measurements:
        if len(tasks):
            auc = _task_auc(dense, tasks, weights, fits, draws_seed, measured_on)
            total = total + np.einsum("bt,btg->bg", times[:, tasks], np.nan_to_num(auc))
            count = count + np.einsum("bt,btg->bg", times[:, tasks], (~np.isnan(auc)).astype(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        return fits.endpoint("tx_strong_tasks", total / count, len(distinct))


# --------------------------------------------------------------------------------------------------
# The four endpoints and the claims table


def bootstrap_endpoints(
    *,
    replicate_per_treatment: pd.DataFrame | None = None,
    moa_per_compound: pd.DataFrame | None = None,
    predictions: pd.DataFrame | None = None,
    tasks: pd.DataFrame | None = None,
    groups: pd.Series | None = None,
    tx_min: float = 0.65,
    margin: float = 0.05,
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
    groups : Series of groups by compound, optional
        What is resampled and halved; default: compounds.
    tx_min, margin : float
        As for :func:`bootstrap_tx_strong_auc`.
    not_testable : mapping from claim number to reason, optional
        What the screen lacks.
    n_bootstrap, seed : int

    Returns
    -------
    dict from claim number to EndpointBootstrap
        One that cannot be measured says why in ``not_testable``.
    """
    given = [table for table in (replicate_per_treatment, moa_per_compound, predictions) if table is not None]
    for table in given:
        if "split" in table and table["split"].nunique() > 1:
            raise ValueError(f"weigh one split at a time, not {', '.join(map(str, table['split'].unique()))}")
    names = {str(name) for table in given if len(table) for name in table["compound"].unique()}
    stream, *streams = np.random.SeedSequence(seed).spawn(1 + len(ENDPOINTS))
    resample = resample_compounds(names, n_bootstrap=n_bootstrap, rng=np.random.default_rng(stream), groups=groups)
    dense = None if predictions is None or not len(predictions) else dense_predictions(predictions)
    reasons = dict(not_testable or {})
    if replicate_per_treatment is None or not len(replicate_per_treatment):
        reasons.setdefault(2, "no replicates were measured on this screen")
    if moa_per_compound is None or not len(moa_per_compound):
        reasons.setdefault(3, "no mechanism of action is shared by test compounds of this screen")
    if dense is None or not len(dense.tasks):
        reasons = {claim: "no bioactivity task was predicted on this screen" for claim in (1, 4)} | reasons
    if tasks is None:
        reasons.setdefault(4, "the tasks of this screen have no target families")
    endpoints = {}
    for (claim, name), one_stream in zip(ENDPOINTS.items(), streams, strict=True):
        rng = np.random.default_rng(one_stream)
        if claim in reasons:
            endpoints[claim] = EndpointBootstrap(name, {}, {}, 0, not_testable=reasons[claim])
        elif claim == 1:
            choice = {"groups": groups, "tx_min": tx_min, "margin": margin, "seed": seed}
            endpoints[claim] = bootstrap_tx_strong_auc(dense, resample, rng, **choice)
        elif claim == 4:
            endpoints[claim] = bootstrap_family_auc(dense, tasks, resample, rng)
        else:
            tables = {2: (replicate_per_treatment, "replicate_map"), 3: (moa_per_compound, "average_precision")}
            endpoints[claim] = bootstrap_compound_endpoint(*tables[claim], resample, rng, endpoint=name)
    return endpoints


def weigh_claims(
    screen: str,
    endpoints: Mapping[int, EndpointBootstrap],
    *,
    primary: str = "contrastive",
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
    smallest_effects : mapping from endpoint to float, optional
        Gains that would matter, in the endpoint's units; default :data:`SMALLEST_EFFECTS`.
    alpha : float

    Returns
    -------
    DataFrame
        Columns :data:`CLAIM_COLUMNS`. One row a claim, method and reference: the CP-only methods, the best of which is
        the reference "best CP-only", and ``deranged``, the same method on deranged pairs. The first row of a claim is
        the comparison that decided: it alone carries the verdict, its reason and what would change it, and its
        ``p_adjusted`` is the claim's p after Holm over the testable claims. Other rows: Benjamini-Hochberg within the
        claim. Single target families have rows of their own, endpoint ``family_auc:<family>``, Benjamini-Hochberg over
        families; those of too few tasks have no p. ``effect`` is method minus reference in mAP or ROC-AUC,
        ``detectable`` what would be found with 80% power, ``n_units`` counts compounds (claims 2, 3), tasks (claim 1,
        single families) or families (claim 4). ``deranged_effect`` with its interval is what the method's deranged
        control gains over the same reference. Nothing is judged against a single derangement.
    """
    from statsmodels.stats.multitest import multipletests

    limits = SMALLEST_EFFECTS | dict(smallest_effects or {})
    rows, families, reasons, contests = {}, [], {}, {}
    for claim, endpoint in endpoints.items():
        reached = {name: endpoint.values[name, ""][0] for name in CP_ONLY if (name, "") in endpoint.values}
        references = sorted(reached, key=lambda name: -reached[name])  # the best first
        best = references[0] if references else ""
        rows[claim] = _comparisons(claim, endpoint, references, best) if references else []
        rows[claim].sort(key=lambda row: (row["method"] != primary, row["method"]))
        adjusted = benjamini_hochberg([row["p_value"] for row in rows[claim]])
        rows[claim] = [row | {"p_adjusted": p} for row, p in zip(rows[claim], adjusted, strict=True)]
        families += _family_comparisons(claim, endpoint, best)
        reasons[claim] = _why_not_testable(claim, endpoint, primary, references)
        if not reasons[claim]:
            own = {row["reference"]: row for row in rows[claim] if row["method"] == primary}
            asked = {"raw": "raw_cp", "best": best, "deranged": "deranged", "lda": "lda_identity"}
            contests[claim] = {
                key: Comparison(*(own[name][column] for column in Comparison.__match_args__))
                for key, name in asked.items()
                if name in own
            }
    p_values = [max(contest["best"].p_in_favour, contest["deranged"].p_in_favour) for contest in contests.values()]
    adjusted = dict(zip(contests, multipletests(p_values, method="holm")[1] if p_values else [], strict=True))
    table = []
    for claim, own in rows.items():
        contest, p_adjusted = contests.get(claim, {}), adjusted.get(claim, np.nan)
        options = {"smallest_effect": limits[ENDPOINTS[claim]], "alpha": alpha, "not_testable": reasons[claim]}
        ruled = verdict(contest, p_adjusted, **options)
        said = {"verdict": ruled.verdict, "reason": ruled.reason, "would_change": would_change(ruled, contest)}
        if contest:  # the deciding row first
            reference = {"raw": "raw_cp", "lda": "lda_identity", "deranged": "deranged"}.get(ruled.deciding)
            is_deciding = [
                row["method"] == primary and (row["reference"] == reference if reference else "best" in row["role"])
                for row in own
            ]
            deciding = own.pop(is_deciding.index(True)) | {"p_adjusted": p_adjusted}
        else:
            deciding = {"claim": claim, "endpoint": ENDPOINTS[claim], "method": primary, "reference": "", "n_units": 0}
        table += [deciding | said, *own]
    table = pd.DataFrame(table + families).assign(screen=screen).reindex(columns=CLAIM_COLUMNS)
    words = ["verdict", "role", "reason", "would_change"]
    return table.assign(**{name: table[name].astype(object).fillna("") for name in words})


def _why_not_testable(claim: int, endpoint: EndpointBootstrap, primary: str, cp_only: list[str]) -> str:
    if endpoint.not_testable:
        return endpoint.not_testable
    if not endpoint.values:
        return {4: f"no target family has {MIN_TASKS_PER_FAMILY} measured tasks"}.get(claim, "nothing was measured")
    if (primary, "true_pairs") not in endpoint.values:
        return f"{primary} was not evaluated on true pairs"
    if (primary, "deranged") not in endpoint.values:
        return f"{primary} has no deranged control, without which a gain cannot be put down to TX"
    if np.isnan(endpoint.pairing[primary][1:]).all():
        return f"{primary} has one derangement a fold, whose luck is unknown: at least two are needed to judge by"
    return "" if "raw_cp" in cp_only else "raw_cp was not evaluated"


def _comparisons(claim: int, endpoint: EndpointBootstrap, references: list[str], best: str) -> list[dict]:
    """Rows of every TX method against CP-only references and its own deranged control."""
    rows = []
    undefined = Comparison(*[np.nan] * 5)
    for method in [method for method, control in endpoint.values if control == "true_pairs"]:
        own, control = (method, "true_pairs"), (method, "deranged")
        for reference in (*references, "deranged"):
            key = control if reference == "deranged" else (reference, "")
            if key not in endpoint.values:
                continue
            one = summarise_bootstrap(endpoint.difference(own, key))
            has_control = reference != "deranged" and control in endpoint.values
            deranged = summarise_bootstrap(endpoint.difference(control, key)) if has_control else undefined
            role = "best CP-only" if reference == best else "CP-only"
            rows.append({
                "claim": claim, "endpoint": endpoint.endpoint, "method": method, "reference": reference, **asdict(one),
                "n_units": endpoint.n_units, "value_method": float(endpoint.values[own][0]),
                "value_reference": float(endpoint.values[key][0]),
                "role": "deranged control" if reference == "deranged" else role, "deranged_effect": deranged.effect,
                "deranged_low": deranged.ci_low, "deranged_high": deranged.ci_high,
            })  # fmt: skip
    return rows


def _family_comparisons(claim: int, endpoint: EndpointBootstrap, best: str) -> list[dict]:
    """Rows of single target families: against raw CP, the claim's best CP-only method and the deranged control."""
    rows = []
    for family, one in endpoint.families.items():
        references = [name for name in dict.fromkeys(["raw_cp", best]) if (name, "") in one.values]
        made = _comparisons(claim, one, references, best)
        if one.n_units < MIN_TASKS_PER_FAMILY or family == "other":
            why = "no known family" if family == "other" else f"fewer than {MIN_TASKS_PER_FAMILY} tasks"
            made = [row | {"p_value": np.nan, "reason": f"{why}: shown, not tested"} for row in made]
        rows += made
    if not rows:
        return rows
    table = pd.DataFrame(rows)
    adjusted = table.groupby(["method", "reference"])["p_value"].transform(lambda p: benjamini_hochberg(p.to_numpy()))
    return [row | {"p_adjusted": value} for row, value in zip(rows, adjusted, strict=True)]


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
        same = claims[(claims[["screen", "endpoint", "method"]] == row[["screen", "endpoint", "method"]]).all(axis=1)]
        names = {"raw_cp": "raw CP"}
        names |= {
            name: f"{name}, the best method without TX"
            for name in same.loc[same["role"] == "best CP-only", "reference"]
            if name != "raw_cp"
        }
        names["deranged"] = "its own deranged control"
        gaps = same.set_index("reference").loc[list(names)]
        parts = [
            f"{gap['effect']:+.3f} [{gap['ci_low']:+.3f}, {gap['ci_high']:+.3f}] to {names[reference]}"
            for reference, gap in gaps.iterrows()
        ]
        said.append(
            f"{head} ({row['reason']}). {row['method']} reaches {row['value_method']:.3f} {UNITS[row['endpoint']]}:"
            f" {'; '.join(parts)}; p = {row['p_adjusted']:.2g} after Holm."
        )
    return said


# --------------------------------------------------------------------------------------------------
# Intervals for tables and figures


def interval_rows(endpoints: Iterable[EndpointBootstrap], versus: str | tuple[str, str] | None = None) -> pd.DataFrame:
    """Means of every method and control, or paired differences to a reference, with 95% intervals.

    Parameters
    ----------
    endpoints : iterable of EndpointBootstrap
        Each is followed by its target families, where it has any.
    versus : (method, control), or "deranged", optional
        What to subtract: that method and control from all others, or from each method on true pairs its own deranged
        control. Default: nothing.

    Returns
    -------
    DataFrame
        ``endpoint, method, control, mean, ci_low, ci_high, n_units``.
    """
    rows = []
    for one in [one for endpoint in endpoints for one in (endpoint, *endpoint.families.values())]:
        for method, control in one.values:
            distribution = one.values[method, control]
            if versus is not None:
                reference = (method, "deranged") if versus == "deranged" else versus
                wanted = control == "true_pairs" if versus == "deranged" else (method, control) != versus
                if not wanted or reference not in one.values:
                    continue
                distribution = one.difference((method, control), reference)
            summary = summarise_bootstrap(distribution)
            interval = (summary.effect, summary.ci_low, summary.ci_high)
            rows.append((one.endpoint, method, control, *interval, one.n_units))
    return pd.DataFrame(rows, columns=["endpoint", "method", "control", "mean", "ci_low", "ci_high", "n_units"])


def intervals(
    table: pd.DataFrame,
    value: str,
    *,
    versus: str | tuple[str, str] | None = None,
    by: Iterable[str] = (),
    unit: str = "compound",
    groups: pd.Series | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean and 95% interval of a compound-level value for every method and control, or paired differences of them.

    Parameters
    ----------
    table : DataFrame
        ``method, control``, ``unit`` and ``value``; ``repeat``, ``fold`` and ``seed`` where there are any
        (draws are resampled within folds).
    value, unit : str
        Columns.
    versus : (method, control), or "deranged", optional
        What is subtracted, on the same resamples, as in :func:`interval_rows`.
    by : iterable of str
        Further columns to tell apart; each combination is bootstrapped by itself, with the same seed.
    groups : Series of groups by compound, optional
        What is resampled; default: units.
    n_bootstrap, seed : int

    Returns
    -------
    DataFrame
        ``method, control``, ``by``, ``mean, ci_low, ci_high, n_units``; empty for an empty table.
    """
    by = list(by)
    if groups is not None:  # a group goes by its first compound, so that one without company draws what it drew alone
        groups = groups.index.to_series().groupby(groups.to_numpy()).transform("min")
    tables = []
    for key, part in table.groupby(by, sort=True, observed=True) if by and len(table) else [((), table)]:
        if not len(part):
            continue
        rng = np.random.default_rng(seed)
        resample = resample_compounds(part[unit].unique(), n_bootstrap=n_bootstrap, rng=rng, groups=groups)
        one = bootstrap_compound_endpoint(part.rename(columns={unit: "compound"}), value, resample, rng)
        tables.append(interval_rows([one], versus).assign(**dict(zip(by, key, strict=True))))
    columns = ["method", "control", *by, "mean", "ci_low", "ci_high", "n_units"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def family_gains(
    predictions: pd.DataFrame,
    tasks: pd.DataFrame,
    *,
    groups: pd.Series | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean gain in ROC-AUC over raw CP in each target family, for figures.

    Parameters
    ----------
    predictions, tasks : DataFrame
        Long tables, as for :func:`bootstrap_endpoints`.
    groups, n_bootstrap, seed
        As for :func:`intervals`.

    Returns
    -------
    DataFrame
        ``family, n_tasks, method, control, effect, ci_low, ci_high, tested``; empty where nothing was predicted.
    """
    families = {}
    if len(predictions):
        rng = np.random.default_rng(seed)
        names = predictions["compound"].unique()
        resample = resample_compounds(names, n_bootstrap=n_bootstrap, rng=rng, groups=groups)
        families = bootstrap_family_auc(dense_predictions(predictions), tasks, resample, rng).families
    table = interval_rows(families.values(), ("raw_cp", "")).rename(columns={"n_units": "n_tasks", "mean": "effect"})
    table["family"] = table["endpoint"].str.removeprefix("family_auc:")
    table["tested"] = (table["n_tasks"] >= MIN_TASKS_PER_FAMILY) & (table["family"] != "other")
    return table[["family", "n_tasks", "method", "control", "effect", "ci_low", "ci_high", "tested"]]


# --------------------------------------------------------------------------------------------------
# Published numbers


def beside_published(screen: str, split: str, measured: pd.DataFrame) -> pd.DataFrame:
    """Published values of exactly what a run measured, with the run's own beside them.

    Two numbers may be compared where the screen, the quantity and the split are the same; a number of another screen,
    or of another measure on this one, says nothing about a run, however alike the words.

    Parameters
    ----------
    screen, split : str
        Of the run, such as "cdrp-u2os" and "scaffold".
    measured : DataFrame
        ``quantity``, ``of`` (both as spelled in published.csv), ``here`` and, for counts, ``total_here``.

    Returns
    -------
    DataFrame
        Matching rows of published.csv with ``here`` and ``total_here`` before the source. Where a range was published,
        ``value`` and ``upper`` are its ends; ``total`` is what a count is out of.

    Raises
    ------
    ScreenError
        ``measured`` holds the same quantity twice.
    """
    if measured.duplicated(["quantity", "of"]).any():
        raise ScreenError("a quantity to lay beside published ones was measured twice")
    published = pd.read_csv(Path(__file__).with_name("published.csv"))
    same = published[(published["screen"] == screen) & (published["split"] == split)]
    own = measured.reindex(columns=["quantity", "of", "here", "total_here"])
    table = same.merge(own, on=["quantity", "of"], how="inner")
    return table[[*published.columns[:-2], "here", "total_here", "source", "doi"]]


def assay_counts(auc: pd.DataFrame, methods: Mapping[str, str]) -> pd.DataFrame:
    """How many assays exceed a ROC-AUC of 0.9 and of 0.7, by modality: what Moshkov 2023 counted.

    Parameters
    ----------
    auc : DataFrame
        ``method, task, roc_auc``, one row a method and task.
    methods : mapping
        Method to the name of its modality in published.csv: ``{"raw_cp": "CP", "tx": "TX"}``.

    Returns
    -------
    DataFrame
        ``quantity, of, here, total_here``; with CP and TX also "TX but not CP". Empty where nothing was measured.
    """
    known = auc[auc["method"].isin(list(methods))]
    wide = known.assign(of=known["method"].map(dict(methods))).pivot(index="task", columns="of", values="roc_auc")
    rows = []
    for threshold in (0.9, 0.7):
        above = wide > threshold
        if {"CP", "TX"} <= set(above):
            above["TX but not CP"] = above["TX"] & ~above["CP"]
        rows += [(f"assays with ROC-AUC > {threshold}", name, int(above[name].sum()), len(wide)) for name in above]
    return pd.DataFrame(rows, columns=["quantity", "of", "here", "total_here"])
