"""Weigh the four claims: paired hierarchical bootstrap, multiplicity, verdicts.

The question behind every number is whether training on *true* CP-TX pairs beats what is had without transcriptomics:
raw CP, the best CP-only method, and the same method trained on deranged pairs, which keeps everything but the match
between a compound's Cell Painting and its transcriptome. `ENDPOINTS` names each claim's primary endpoint.

What varies in the bootstrap. *Compounds*, whole groups of one structure at a time: one resample serves all methods,
endpoints and draws, so differences are paired. *Draws*: the derangements, and the seeds of networks, are resampled
within each fold. *Pairing*: against the deranged control, the true pairing itself counts as one draw: had TX carried
nothing, it would be just another derangement, with a luck of its own that no resampling of compounds shows. Its spread
is that of the deranged draws; a single draw shows none, so nothing is judged against it. *Tasks*, for claims 1 and 4,
within families. Intervals are percentile intervals (Efron and Tibshirani 1993); resampling compounds and tasks as
crossed factors is conservative (Owen 2007, doi 10.1214/07-AOAS122).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.bioactivity import Predictions, dense_predictions, tx_strong_cp_weak
from cpx_utils.metrics import benjamini_hochberg
from cpx_utils.profiles import CP_ONLY, MIN_TASKS_PER_FAMILY
from cpx_utils.splits import halves

ENDPOINTS = {
    1: "tx_strong_tasks",  # mean ROC-AUC over tasks where TX excels and CP doesn't, chosen and measured on two halves
    2: "replicate_map",  # mean average precision of replicates
    3: "moa_map",  # mean average precision of mechanisms of action
    4: "family_auc",  # ROC-AUC, averaged over the tasks of a target family, then over families
}
SMALLEST_EFFECTS = {"tx_strong_tasks": 0.01, "replicate_map": 0.02, "moa_map": 0.02, "family_auc": 0.01}
CLAIM_COLUMNS = (
    "screen claim endpoint method reference effect ci_low ci_high p_adjusted verdict p_value detectable n_units "
    "value_method value_reference role reason deranged_effect deranged_low deranged_high"
).split()
DETECTABLE_IN_STANDARD_ERRORS = 2.8  # two-sided 5% and 80% power: 1.96 + 0.84
N_HALVINGS = 5  # of the compounds, to choose TX-strong, CP-weak tasks
MIN_CHOSEN_TASKS = 3
RESAMPLES_AT_ONCE = 256  # bounds memory
REFERENCES = {
    "raw": "raw CP", "best": "the best CP-only method", "lda": "lda_identity", "deranged": "its own deranged control"
}  # fmt: skip
NOTHING_PUBLISHED = "No published value of the same quantity on the same screen and split."


# ---------------------------------------------------------------------------- Comparisons and verdicts


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
    """Percentile interval and p of a bootstrapped difference (1 + n_bootstrap,): first the estimate, then replicates.

    p is twice the share of replicates on the far side of 0, with 1 added above and below so that it is never 0
    (Davison and Hinkley 1997). Undefined replicates (NaN) are left out; with fewer than two, all but the effect is NaN.
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


def verdict(
    comparisons: Mapping[str, Comparison], p_adjusted: float, *, smallest_effect: float, alpha: float = 0.05
) -> tuple[str, str, str]:
    """The verdict on one testable claim. Rules in order; the first that holds decides.

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
        Method minus reference, under the keys of `REFERENCES` (``lda`` may be left out).
    p_adjusted : float
        Larger p of ``best`` and ``deranged``, since both must hold (intersection-union; Berger 1982), after Holm.
    smallest_effect : float
        The smallest gain that would matter, in the endpoint's units.
    alpha : float

    Returns
    -------
    verdict, deciding, reason : str
        The second is the key of the comparison that decided.
    """
    seen = "{}; differences from {:.3f} up would have been detected with 80% power"
    needed = {key: comparisons[key] for key in ("best", "deranged")}
    hardest = max(needed, key=lambda key: (needed[key].p_in_favour, -needed[key].ci_low))
    if all(one.ci_low > 0 for one in needed.values()) and p_adjusted < alpha:
        return "supported", hardest, "better than the best CP-only method and than its own deranged control"
    raw = comparisons["raw"]
    explaining = {key: comparisons[key] for key in ("deranged", "best", "lda") if key in comparisons}
    unbeaten = {key: one for key, one in explaining.items() if not one.ci_low > 0}
    if raw.ci_low > 0 and unbeaten:
        least = min(unbeaten, key=lambda key: unbeaten[key].effect / max(unbeaten[key].detectable, 1e-12))
        high = unbeaten[least].ci_high
        rest = f"a gain of up to {high:.3f} over it is not excluded" if high > 0 else "it is worse than that"
        return "explained without TX", least, f"better than raw CP but not than {REFERENCES[least]}; {rest}"
    if raw.ci_low > 0:
        return "inconclusive", hardest, seen.format("does not survive Holm's correction", needed[hardest].detectable)
    for key, one in (("raw", raw), *needed.items()):
        if one.ci_high < smallest_effect:
            why = f"not better than raw CP, and a gain of {smallest_effect:g} over {REFERENCES[key]} is excluded"
            return "not supported", key, why
    return "inconclusive", "raw", seen.format("not clearly better than raw CP", raw.detectable)


# ------------------------------------------------------------------------------------------- Bootstrap


def _drawn(n: int, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n things is drawn with replacement, (1 + n_bootstrap, n); row 0 is the data: each once."""
    draws = rng.multinomial(n, np.full(n, 1.0 / n), size=n_bootstrap) if n else np.zeros((n_bootstrap, 0))
    return np.vstack([np.ones((1, n)), draws])


def resample_compounds(
    compounds: Iterable, *, n_bootstrap: int, rng: np.random.Generator, groups: pd.Series | None = None
) -> pd.DataFrame:
    """How often each compound (column) occurs in each resample (row): (1 + n_bootstrap, n_compounds), row 0 the data.

    Resampled are `groups` (of each compound, from `profiles.compound_groups`): compounds of a group come and go
    together. A compound that `groups` lacks is one of its own.
    """
    names = pd.Index(sorted({str(name) for name in compounds}))
    labels = names if groups is None else [str(groups.get(name, name)) for name in names]
    code, distinct = pd.factorize(np.asarray(labels, dtype=object), sort=True)
    return pd.DataFrame(_drawn(len(distinct), n_bootstrap, rng).astype(np.float32)[:, code], columns=names)


@dataclass
class EndpointBootstrap:
    """An endpoint's estimate (row 0) and bootstrap values, arrays (1 + n_bootstrap,) by (method, control).

    Under ``(method, "pairing")`` stands what the luck of one pairing adds to a method, from its deranged draws.
    ``families`` holds the same by target family.
    """

    endpoint: str
    values: dict[tuple[str, str], np.ndarray]
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
            luck = self.values[method, "pairing"]
            difference = difference + (luck if is_own_control else 0.0 * luck)  # 0 times NaN stays NaN
        return difference


def _average_draws(
    values: np.ndarray, fits: pd.DataFrame, rng: np.random.Generator
) -> dict[tuple[str, str], np.ndarray]:
    """Averages over the draws that a fold has of each method and control, each as often as it is drawn.

    `values` (1 + n_bootstrap, ..., n_fits) lose their last axis, whose method and control `fits` says. The luck of one
    pairing is a deranged draw's deviation from the mean of the draws, scaled so that its variance is unbiased; NaN
    where there is one draw, which shows no deviation.
    """
    averages = {}
    for (method, control), at in fits[["method", "control"]].astype(str).groupby(["method", "control"]).indices.items():
        k, n_bootstrap = len(at), len(values) - 1
        weights = {control: _drawn(k, n_bootstrap, rng) / k}
        if control == "deranged":
            deviations = (np.eye(k) - 1.0 / k) * np.sqrt(k / (k - 1)) if k > 1 else np.full((1, 1), np.nan)
            weights["pairing"] = np.vstack([np.zeros((1, k)), deviations[rng.integers(k, size=n_bootstrap)]])
        for name, weight in weights.items():
            averages[method, name] = np.einsum("b...k,bk->b...", values[..., at], weight)
    return averages


def _add(total: dict[tuple[str, str], np.ndarray], more: dict[tuple[str, str], np.ndarray]) -> dict:
    """Sum by method and control; a fold must have what the others have."""
    if total and total.keys() != more.keys():
        raise ValueError(f"{sorted(total.keys() ^ more.keys())} is missing from a fold that others have")
    return {key: total.get(key, 0.0) + values for key, values in more.items()}


def bootstrap_compound_endpoint(
    table: pd.DataFrame, value: str, resample: pd.DataFrame, rng: np.random.Generator, *, endpoint: str = ""
) -> EndpointBootstrap:
    """Bootstrap the mean of a value measured for each compound (claims 2 and 3); ``n_units`` are compounds.

    `table` has ``repeat, fold, seed, method, control, compound`` and the column `value`. All rows of a compound (its
    treatments) are averaged over, then draws, which `rng` resamples; rows without value are dropped. A compound that
    some model of a fold lacks is left out of that fold for all.
    """
    # A csv file reads "" (a method without TX) as missing.
    text = {"compound": table["compound"].astype(str), "control": table["control"].astype(object).fillna("")}
    table = table.assign(**text)[table[value].notna()]
    total, n_queries, used = {}, 0.0, set()
    for _, part in table.groupby(["repeat", "fold"], sort=True):
        by_fit = part.groupby(["compound", "method", "control", "seed"], observed=True)[value].agg(["sum", "count"])
        sums, counts = (by_fit[name].unstack(["method", "control", "seed"]) for name in ("sum", "count"))
        most = counts.max(axis=1)
        kept = counts.eq(most, axis=0).all(axis=1)
        weights = resample[sums.index[kept]].to_numpy(dtype=float)  # (1 + n_bootstrap, n_kept)
        fits = sums.columns.to_frame(index=False)
        total = _add(total, _average_draws(weights @ sums[kept].to_numpy(), fits, rng))
        n_queries = n_queries + weights @ most[kept].to_numpy()
        used |= set(sums.index[kept])
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {key: one / n_queries for key, one in total.items()} if used else {}
    return EndpointBootstrap(endpoint or value, values, len(used))


def weighted_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ROC-AUC of one task for many models under many resamples of the compounds: (n_resamples, n_models).

    :math:`AUC(w) = \\sum_{i \\in +, j \\in -} w_i w_j c_{ij} / (\\sum_+ w_i \\sum_- w_j)` with :math:`c_{ij}`
    = 1, 1/2 or 0 as i scores above, equal to or below j: exactly the AUC of the compounds repeated w times. NaN where a
    resample holds one class only.

    Parameters
    ----------
    labels, scores : arrays (n,), 1, 0 or NaN (missing), and (n, n_models)
    weights : array (n_resamples, n)
        Non-negative whole numbers, sums of which are exact in float32.
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
    for rows in np.array_split(np.arange(len(weights)), -(-len(weights) // RESAMPLES_AT_ONCE)):
        summed = (inner_weights[rows] @ wins).reshape(-1, n_models, len(outer))
        above = np.matmul(summed, outer_weights[rows, :, None])[:, :, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            result[rows] = above / pairs[rows, None]
    return result


def _task_auc(
    dense: Predictions, tasks: np.ndarray, weights: np.ndarray, seed: int, measured_on: np.ndarray | None = None
) -> dict[tuple[str, str], np.ndarray]:
    """Bootstrapped AUC within a fold, averaged over folds, (1 + n_bootstrap, n_tasks) by method and control.

    NaN where no fold measures a task. `measured_on` (n_compounds,) restricts it to some compounds.
    """
    sums = {}
    for number, one in enumerate(dense.folds):
        kept = slice(None) if measured_on is None else measured_on[one.rows]
        rows, labels, scores = one.rows[kept], one.labels[kept], one.scores[kept][..., one.present]
        auc = np.empty((len(weights), len(tasks), scores.shape[2]))
        for i, task in enumerate(tasks):
            known = np.flatnonzero(~np.isnan(labels[:, task]))
            auc[:, i] = weighted_auc(labels[known, task], scores[known, task], weights[:, rows[known]])
        # The same draws for every task of a fold: a draw is one embedding, and its luck is shared by all tasks.
        averages = _average_draws(auc, dense.columns[one.present], np.random.default_rng(seed + number))
        sums = _add(sums, {key: np.stack([np.nan_to_num(one), ~np.isnan(one)]) for key, one in averages.items()})
    with np.errstate(invalid="ignore", divide="ignore"):
        return {key: total / count for key, (total, count) in sums.items()}


def _over_tasks(auc: dict[tuple[str, str], np.ndarray], times: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Sum of the AUC that are defined, each task so many times, and of these times: (2, 1 + n_bootstrap) by method."""
    return {
        key: np.stack([(times * np.nan_to_num(one)).sum(1), (times * ~np.isnan(one)).sum(1)])
        for key, one in auc.items()
    }


def bootstrap_family_auc(
    dense: Predictions, tasks: pd.DataFrame, resample: pd.DataFrame, rng: np.random.Generator
) -> EndpointBootstrap:
    """Bootstrap the mean ROC-AUC of each target family, and its mean over testable families (claim 4).

    Tasks (``task, family``) are resampled within families, by `rng`, as are draws. In the mean, whose ``n_units`` are
    families, is each with `MIN_TASKS_PER_FAMILY` measured tasks but "other", which is no family. ``families`` holds
    all of them; their ``n_units`` are tasks.
    """
    weights = resample[dense.compounds.astype(str)].to_numpy()
    family_of = tasks.set_index(tasks["task"].astype(str))["family"].astype(object)
    family_of_task = family_of.reindex(dense.tasks.astype(str)).fillna("other").to_numpy(dtype=str)
    seed = int(rng.integers(2**31))
    families, means = {}, []
    for family in np.unique(family_of_task):
        auc = _task_auc(dense, np.flatnonzero(family_of_task == family), weights, seed)
        measured = np.any([~np.isnan(one[0]) for one in auc.values()], axis=0)
        n_tasks = int(measured.sum())
        if not n_tasks:
            continue
        times = _drawn(n_tasks, len(weights) - 1, rng)
        sums = _over_tasks({key: one[:, measured] for key, one in auc.items()}, times)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = {key: total / count for key, (total, count) in sums.items()}
        families[str(family)] = EndpointBootstrap(f"family_auc:{family}", mean, n_tasks)
        if n_tasks >= MIN_TASKS_PER_FAMILY and family != "other":
            means.append(mean)
    values = {key: np.mean([mean[key] for mean in means], axis=0) for key in (means[0] if means else ())}
    return EndpointBootstrap("family_auc", values, len(means), families)


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
    """Bootstrap the mean ROC-AUC over TX-strong, CP-weak tasks (claim 1); ``n_units`` are tasks.

    Tasks are chosen on one half of the compound `groups`, drawn by `seed`, by the oracle's (TX) and raw CP's ROC-AUC
    (`tx_min` or more, and `margin` above CP), and measured on the other half; the halves swap; several random halvings
    are averaged, so that the verdict does not hang on one. The choice stays as it is in the bootstrap: choosing saw
    none of the compounds that measure. `rng` resamples draws and the chosen tasks.
    """
    method = dense.columns["method"].to_numpy(dtype=object)
    lacking = [name for name in ("raw_cp", "tx") if not (method == name).any()]
    if lacking:
        reason = f"no predictions of {' and '.join(lacking)}, by which TX-strong, CP-weak tasks are chosen"
        return EndpointBootstrap("tx_strong_tasks", {}, 0, not_testable=reason)
    measurements = []  # (tasks chosen on a half, compounds of the other half)
    for number in range(N_HALVINGS):
        first = halves(dense.compounds, seed + number, groups)
        for chosen_on in (first, ~first):
            auc = dense.auc(chosen_on)
            cp_auc, tx_auc = (auc[:, method == name].mean(1) for name in ("raw_cp", "tx"))
            chosen = np.flatnonzero(tx_strong_cp_weak(cp_auc, tx_auc, tx_min=tx_min, margin=margin))
            if len(chosen):
                measurements.append((chosen, ~chosen_on))
    distinct = np.unique(np.concatenate([[], *(tasks for tasks, _ in measurements)])).astype(int)
    if len(distinct) < MIN_CHOSEN_TASKS:
        reason = (
            f"{len(distinct)} tasks are TX-strong and CP-weak (TX at least {tx_min:g} and {margin:g} above CP); "
            f"at least {MIN_CHOSEN_TASKS} are needed"
        )
        return EndpointBootstrap("tx_strong_tasks", {}, len(distinct), not_testable=reason)
    draws_seed = int(rng.integers(2**31))
    weights = resample[dense.compounds.astype(str)].to_numpy()
    times = np.zeros((len(weights), len(dense.tasks)))
    times[:, distinct] = _drawn(len(distinct), len(weights) - 1, rng)
    sums = {}
    for tasks, measured_on in measurements:
        auc = _task_auc(dense, tasks, weights, draws_seed, measured_on)
        sums = _add(sums, _over_tasks(auc, times[:, tasks]))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {key: total / count for key, (total, count) in sums.items()}
    return EndpointBootstrap("tx_strong_tasks", values, len(distinct))


# ------------------------------------------------------------- The four endpoints and the claims table


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
        Long tables of notebooks 05 and 06, each of one split: ``split, repeat, fold, seed, method, control, compound``
        and ``replicate_map``; ``average_precision``; ``task, label, score``. Left out or empty: not testable.
    tasks : DataFrame, optional
        ``task, family``, for claim 4.
    groups : Series of groups by compound, optional
        What is resampled and halved; default: compounds.
    tx_min, margin : float
        As for :func:`bootstrap_tx_strong_auc`.
    not_testable : mapping from claim number to reason, optional
        What isn't to be measured; what can't be is found out here and said in ``not_testable`` of its endpoint.
    """
    given = (replicate_per_treatment, moa_per_compound, predictions)
    replicates, moas, predicted = (table if table is not None and len(table) else None for table in given)
    measured = [table for table in (replicates, moas, predicted) if table is not None]
    splits = {str(split) for table in measured for split in table["split"].unique()}
    if len(splits) > 1:
        raise ValueError(f"weigh one split at a time, not {', '.join(sorted(splits))}")
    names = {str(name) for table in measured for name in table["compound"].unique()}
    rngs = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(1 + len(ENDPOINTS))]
    resample = resample_compounds(names, n_bootstrap=n_bootstrap, rng=rngs[0], groups=groups)
    dense = None if predicted is None else dense_predictions(predicted)
    if dense is None or not len(dense.tasks):
        reasons = dict.fromkeys((1, 4), "no bioactivity task was predicted on this screen")
    else:
        reasons = {} if tasks is not None else {4: "the tasks of this screen have no target families"}
    if replicates is None:
        reasons[2] = "no replicates were measured on this screen"
    if moas is None:
        reasons[3] = "no mechanism of action is shared by test compounds of this screen"
    reasons |= not_testable or {}
    choice = {"groups": groups, "tx_min": tx_min, "margin": margin, "seed": seed}
    makers = {
        1: lambda: bootstrap_tx_strong_auc(dense, resample, rngs[1], **choice),
        2: lambda: bootstrap_compound_endpoint(replicates, "replicate_map", resample, rngs[2]),
        3: lambda: bootstrap_compound_endpoint(moas, "average_precision", resample, rngs[3], endpoint="moa_map"),
        4: lambda: bootstrap_family_auc(dense, tasks, resample, rngs[4]),
    }
    return {
        claim: EndpointBootstrap(name, {}, 0, not_testable=reasons[claim]) if claim in reasons else makers[claim]()
        for claim, name in ENDPOINTS.items()
    }


def weigh_claims(
    screen: str,
    endpoints: Mapping[int, EndpointBootstrap],
    *,
    primary: str = "contrastive",
    smallest_effects: Mapping[str, float] | None = None,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Every comparison of every TX method, and the verdict of each claim on the method `primary`.

    Parameters
    ----------
    screen, primary : str
    endpoints : mapping from claim number to EndpointBootstrap
        From :func:`bootstrap_endpoints`.
    smallest_effects : mapping from endpoint to float, optional
        Gains that would matter, in the endpoint's units; default :data:`SMALLEST_EFFECTS`.
    alpha : float

    Returns
    -------
    DataFrame
        Columns :data:`CLAIM_COLUMNS`. One row a claim, method and reference: the CP-only methods, and ``deranged``, the
        same method on deranged pairs. The first row of a claim is the comparison that decided: it alone carries the
        verdict and its reason, and its ``p_adjusted`` is the claim's p after Holm over the
        testable claims. Other rows: Benjamini-Hochberg within the claim. Single target families have rows of their own,
        endpoint ``family_auc:<family>``, Benjamini-Hochberg over families; those of too few tasks have no p. ``effect``
        is method minus reference, ``detectable`` what would be found with 80% power, ``deranged_effect`` with its
        interval what the method's deranged control gains over the same reference.
    """
    from statsmodels.stats.multitest import multipletests

    limits = SMALLEST_EFFECTS | dict(smallest_effects or {})
    tables, families, reasons, asked, contests = {}, [], {}, {}, {}
    for claim, endpoint in endpoints.items():
        reached = {name: endpoint.values[name, ""][0] for name in CP_ONLY if (name, "") in endpoint.values}
        references = sorted(reached, key=lambda name: -reached[name])
        best = references[0] if references else ""
        table = _comparisons(claim, endpoint, references, best)
        table["p_adjusted"] = benjamini_hochberg(table["p_value"])
        tables[claim] = table.sort_values("method", key=lambda names: names.where(names != primary, ""), kind="stable")
        families += _family_comparisons(claim, endpoint, best)
        reasons[claim] = _why_not_testable(claim, endpoint, primary)
        if not reasons[claim]:
            own = table[table["method"] == primary].set_index("reference")[list(Comparison.__match_args__)]
            asked[claim] = {"raw": "raw_cp", "best": best, "lda": "lda_identity", "deranged": "deranged"}
            contests[claim] = {
                key: Comparison(*own.loc[name]) for key, name in asked[claim].items() if name in own.index
            }
    p_values = [max(contest["best"].p_in_favour, contest["deranged"].p_in_favour) for contest in contests.values()]
    adjusted = dict(zip(contests, multipletests(p_values, method="holm")[1] if p_values else [], strict=True))
    parts = []
    for claim, table in tables.items():
        if reasons[claim]:
            head = pd.DataFrame({"claim": [claim], "endpoint": ENDPOINTS[claim], "method": primary, "n_units": 0})
            said = {"verdict": "not testable", "reason": reasons[claim], "reference": ""}
        else:
            options = {"smallest_effect": limits[ENDPOINTS[claim]], "alpha": alpha}
            word, deciding, reason = verdict(contests[claim], adjusted[claim], **options)
            is_deciding = (table["method"] == primary) & (table["reference"] == asked[claim][deciding])
            head, table = table[is_deciding], table[~is_deciding]
            said = {"verdict": word, "reason": reason, "p_adjusted": adjusted[claim]}
        parts += [head.assign(**said), table]
    table = pd.concat([part for part in (*parts, *families) if len(part)], ignore_index=True)
    table = table.assign(screen=screen).reindex(columns=CLAIM_COLUMNS)
    return table.assign(**{name: table[name].astype(object).fillna("") for name in ("verdict", "role", "reason")})


def _why_not_testable(claim: int, endpoint: EndpointBootstrap, primary: str) -> str:
    """Why a claim has no verdict; "" if it has one."""
    values = endpoint.values
    lacking = "nothing was measured" if claim < 4 else f"no target family has {MIN_TASKS_PER_FAMILY} measured tasks"
    luck = values.get((primary, "pairing"), np.zeros(2))[1:]
    reasons = {
        endpoint.not_testable: bool(endpoint.not_testable),
        lacking: not values,
        f"{primary} was not evaluated on true pairs": (primary, "true_pairs") not in values,
        f"{primary} has no deranged control, without which a gain cannot be put down to TX": (
            (primary, "deranged") not in values
        ),
        f"{primary} has one derangement a fold, whose luck is unknown: at least two are needed to judge by": (
            np.isnan(luck).all()
        ),
        "raw_cp was not evaluated": ("raw_cp", "") not in values,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _comparisons(claim: int, endpoint: EndpointBootstrap, references: list[str], best: str) -> pd.DataFrame:
    """Rows of every TX method against CP-only references and its own deranged control; none without a reference."""
    rows, values = [], endpoint.values
    roles = {(name, ""): "best CP-only" if name == best else "CP-only" for name in references}
    for method in [method for method, control in values if control == "true_pairs" and references]:
        own, control = (method, "true_pairs"), (method, "deranged")
        for key, role in (roles | ({control: "deranged control"} if control in values else {})).items():
            deranged = Comparison(*[np.nan] * 5)
            if control in values and key != control:
                deranged = summarise_bootstrap(endpoint.difference(control, key))
            rows.append({
                "claim": claim, "endpoint": endpoint.endpoint, "method": method,
                "reference": "deranged" if key == control else key[0], "role": role,
                **asdict(summarise_bootstrap(endpoint.difference(own, key))), "n_units": endpoint.n_units,
                "value_method": float(values[own][0]), "value_reference": float(values[key][0]),
                "deranged_effect": deranged.effect, "deranged_low": deranged.ci_low, "deranged_high": deranged.ci_high,
            })  # fmt: skip
    return pd.DataFrame(rows, columns=None if rows else CLAIM_COLUMNS)


def _family_comparisons(claim: int, endpoint: EndpointBootstrap, best: str) -> list[pd.DataFrame]:
    """Rows of single target families: against raw CP, the claim's best CP-only method and the deranged control."""
    tables = []
    for family, one in endpoint.families.items():
        references = [name for name in dict.fromkeys(["raw_cp", best]) if (name, "") in one.values]
        table = _comparisons(claim, one, references, best)
        if one.n_units < MIN_TASKS_PER_FAMILY or family == "other":
            why = "no known family" if family == "other" else f"fewer than {MIN_TASKS_PER_FAMILY} tasks"
            table = table.assign(p_value=np.nan, reason=f"{why}: shown, not tested")
        tables.append(table)
    if not tables:
        return []
    table = pd.concat(tables, ignore_index=True)
    by_comparison = table.groupby(["method", "reference"])["p_value"]
    return [table.assign(p_adjusted=by_comparison.transform(lambda p: benjamini_hochberg(p.to_numpy())))]


# -------------------------------------------------------------------- Intervals for tables and figures


def interval_rows(endpoints: Iterable[EndpointBootstrap], versus: str | tuple[str, str] | None = None) -> pd.DataFrame:
    """Means of every method and control, or paired differences to a reference, with 95% intervals.

    Parameters
    ----------
    endpoints : iterable of EndpointBootstrap
        Each is followed by its target families, where it has any.
    versus : (method, control), or "deranged", optional
        What is subtracted, resample by resample: that method and control from all others, or its own deranged control
        from each method on true pairs. Default: nothing.

    Returns
    -------
    DataFrame
        ``endpoint, method, control, mean, ci_low, ci_high, n_units``.
    """
    rows = []
    for one in [one for endpoint in endpoints for one in (endpoint, *endpoint.families.values())]:
        for method, control in [key for key in one.values if key[1] != "pairing"]:
            distribution = one.values[method, control]
            if versus is not None:
                reference = (method, "deranged") if versus == "deranged" else versus
                wanted = control == "true_pairs" if versus == "deranged" else (method, control) != versus
                if not wanted or reference not in one.values:
                    continue
                distribution = one.difference((method, control), reference)
            found = summarise_bootstrap(distribution)
            rows.append((one.endpoint, method, control, found.effect, found.ci_low, found.ci_high, one.n_units))
    return pd.DataFrame(rows, columns=["endpoint", "method", "control", "mean", "ci_low", "ci_high", "n_units"])


def intervals(
    table: pd.DataFrame,
    value: str,
    *,
    versus: str | tuple[str, str] | None = None,
    unit: str = "compound",
    groups: pd.Series | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """:func:`interval_rows` (without ``endpoint``) of a value that each compound has; empty for an empty table.

    Parameters
    ----------
    table : DataFrame
        As for :func:`bootstrap_compound_endpoint`; `unit` names the column of what stands for compounds.
    versus
        As for :func:`interval_rows`.
    groups : Series of groups by compound, optional
        What is resampled; default: units.
    """
    measured = []
    if len(table):
        if groups is not None:  # a group goes by its first compound: one without company draws what it drew alone
            groups = groups.index.to_series().groupby(groups.to_numpy()).transform("min")
        rng = np.random.default_rng(seed)
        resample = resample_compounds(table[unit].unique(), n_bootstrap=n_bootstrap, rng=rng, groups=groups)
        measured.append(bootstrap_compound_endpoint(table.rename(columns={unit: "compound"}), value, resample, rng))
    return interval_rows(measured, versus).drop(columns="endpoint")


def beside_published(screen: str, split: str, measured: pd.DataFrame) -> pd.DataFrame:
    """Published values (published.csv) of exactly what a run measured, with the run's own beside them.

    Two numbers may be compared where the screen, the quantity and the split are the same; a number of another screen,
    or of another measure on this one, says nothing about a run, however alike the words. `measured` has ``quantity``,
    ``of``, ``here`` and, for counts, ``total_here``.
    """
    published = pd.read_csv(Path(__file__).with_name("published.csv"))
    same = published[(published["screen"] == screen) & (published["split"] == split)]
    own = measured.reindex(columns=["quantity", "of", "here", "total_here"])
    table = same.merge(own, on=["quantity", "of"], how="inner")
    return table[[*published.columns[:-2], "here", "total_here", "source", "doi"]]


def assay_counts(auc: pd.DataFrame) -> pd.DataFrame:
    """How many assays exceed a ROC-AUC (``method, task, roc_auc``) of 0.9 and of 0.7 by raw CP, by TX, and by TX alone.

    What Moshkov 2023 counted, as :func:`beside_published` takes it; empty where nothing was measured.
    """
    wide = auc.pivot_table("roc_auc", "task", "method", dropna=False).reindex(columns=["raw_cp", "tx"])
    wide = wide.dropna(axis="columns", how="all")
    rows = []
    for threshold in (0.9, 0.7):
        above = (wide > threshold).rename(columns={"raw_cp": "CP", "tx": "TX"})
        if {"CP", "TX"} <= set(above):
            above["TX but not CP"] = above["TX"] & ~above["CP"]
        rows += [(f"assays with ROC-AUC > {threshold}", name, int(above[name].sum()), len(wide)) for name in above]
    return pd.DataFrame(rows, columns=["quantity", "of", "here", "total_here"])
