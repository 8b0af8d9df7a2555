"""Weigh the four claims: paired bootstrap, multiplicity, verdicts.

Each claim is two questions. *The paper's comparison*: is the method better than raw CP? *Attribution to TX*: is it
better than the same method on deranged pairs, and on random codes, which keep everything but the match between a
compound's Cell Painting and its transcriptome? Each has three answers, and one of them is "open": an interval that
reaches 0 explains nothing. Beside both stands whether a method without TX, fixed beforehand, does as well.
`ENDPOINTS` names each claim's primary endpoint.

What varies in the bootstrap. *Compounds*, whole groups of one structure at a time, or whole mechanisms for claim 3: one
resample serves all methods and draws of an endpoint, so differences are paired. *Draws*: the derangements, and the
seeds of networks, within each fold. *Pairing*: against a control, the true pairing itself counts as one draw: had TX
carried nothing, it would be just another derangement, with a luck of its own that no resampling of compounds shows.
*Folds*: where the folds of a difference disagree by more than their compounds explain, the interval is widened to what
they show, since each fold is a training of its own. Tasks are not resampled: a claim is about the assays at hand, whose
compounds vary already. Intervals are percentile intervals (Efron and Tibshirani 1993).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cpx_utils.bioactivity import Predictions, dense_predictions
from cpx_utils.metrics import benjamini_hochberg
from cpx_utils.profiles import COMPOUND, CP_ONLY, LINEAR_TX, MIN_TASKS_PER_FAMILY

ENDPOINTS = {
    1: "tx_strong_tasks",  # mean ROC-AUC over tasks where TX excels and CP doesn't, chosen inside each training fold
    2: "replicate_map",  # mean average precision of replicates
    3: "moa_map",  # mean average precision of mechanisms of action
    4: "family_auc",  # gain in ROC-AUC of the k-th best target family: at least k families gain
}
SMALLEST_EFFECTS = {"tx_strong_tasks": 0.01, "replicate_map": 0.02, "moa_map": 0.02, "family_auc": 0.01}
# What a claim must beat without TX, fixed before any result: the strongest that no pair teaches.
REFERENCES = {
    1: ("sphered_cp", "cell_count"),
    2: ("lda_identity", "sphered_cp"),
    3: ("lda_identity", "sphered_cp"),
    4: ("sphered_cp", "cell_count"),
}
CONTROL_WORDS = {
    "deranged": "deranged pairs",
    "random_codes": "random codes",
    "deranged_in_plate": "pairs deranged within plate maps",
}
TX_CONTROLS = tuple(CONTROL_WORDS)  # that a gain from TX must beat, where they were fitted
MIN_DERANGEMENTS, MIN_FITS = 2, 3  # draws a fold, of deranged pairs and of a network on true pairs, to judge by
CLAIM_COLUMNS = (
    "screen claim endpoint method reference effect ci_low ci_high p_adjusted comparison attribution verdict reason "
    "role p_value detectable shrunk n_units value_method value_reference"
).split()
DETECTABLE_IN_STANDARD_ERRORS = 2.8  # two-sided 5% and 80% power: 1.96 + 0.84
MIN_CHOSEN_TASKS = 3
RESAMPLES_AT_ONCE = 256  # bounds memory
NOTHING_PUBLISHED = "No published value of the same quantity on the same screen and split."


# ---------------------------------------------------------------------------- Comparisons and verdicts


@dataclass(frozen=True)
class Comparison:
    """A difference with its 95% interval, what could have been detected (80% power), and a two-sided p."""

    effect: float
    ci_low: float = np.nan
    ci_high: float = np.nan
    detectable: float = np.nan
    p_value: float = np.nan

    @property
    def p_in_favour(self) -> float:
        """The two-sided p where the effect is positive, else 1: a significant loss is no evidence for a gain."""
        return self.p_value if self.effect > 0 and not np.isnan(self.p_value) else 1.0


def summarise_bootstrap(distribution: np.ndarray, *, tail_low: float = 0.025, tail_high: float = 0.025) -> Comparison:
    """Percentile interval and p of a bootstrapped difference (1 + n_bootstrap,): first the estimate, then replicates.

    p is twice the share of replicates on the far side of 0, with 1 added above and below so that it is never 0
    (Davison and Hinkley 1997). Undefined replicates (NaN) are left out; with fewer than two, all but the effect is NaN.
    """
    estimate = float(distribution[0])
    replicates = distribution[1:][~np.isnan(distribution[1:])]
    if np.isnan(estimate) or len(replicates) < 2:
        return Comparison(estimate)
    low, high = np.quantile(replicates, [tail_low, 1 - tail_high])
    below, above = (replicates <= 0).sum(), (replicates >= 0).sum()
    p_value = min(1.0, 2.0 * (1 + min(below, above)) / (len(replicates) + 1))
    detectable = DETECTABLE_IN_STANDARD_ERRORS * float(replicates.std(ddof=1))
    return Comparison(estimate, float(low), float(high), detectable, float(p_value))


def at_least(differences: Sequence[np.ndarray], k: int) -> Comparison:
    """The k-th largest of several differences, with an interval and a p for "at least k of them are above 0".

    Each difference is a bootstrap (1 + n_bootstrap,). With n differences, p is n - k + 1 times the k-th smallest p (the
    partial conjunction of Benjamini and Heller 2008, doi 10.1111/j.1541-0420.2007.00984.x, in Bonferroni's form, which
    holds however the differences depend on each other), and the interval is the one that belongs to it: its lower end
    is above 0 where p is below 0.05, and its upper end is below a gain that fewer than k of them can reach.
    """
    n = len(differences)
    tails = {"tail_low": 0.025 / (n - k + 1), "tail_high": 0.025 / k}
    each = [summarise_bootstrap(one, **tails) for one in differences]
    names = ("effect", "ci_low", "ci_high")
    kth = {name: -np.sort([-getattr(one, name) for one in each])[k - 1] for name in names}  # NaN last
    p_value = min(1.0, (n - k + 1) * sorted(one.p_in_favour for one in each)[k - 1])
    detectable = np.sort([one.detectable for one in each])[k - 1]
    if np.isnan(kth["ci_low"]):
        return Comparison(float(kth["effect"]))
    return Comparison(*(float(kth[name]) for name in names), float(detectable), p_value)


@dataclass(frozen=True)
class Ruling:
    """What was shown of a claim: `comparison` with raw CP, `attribution` to TX, the `verdict` in words, and why."""

    comparison: str
    attribution: str
    verdict: str
    reason: str


def rule(
    raw: Comparison,
    controls: Mapping[str, Comparison],
    references: Mapping[str, Comparison],
    p_adjusted: float,
    *,
    smallest_effect: float,
    alpha: float = 0.05,
    unjudged: str = "",
) -> Ruling:
    """The ruling on one testable claim, from the intervals of the method minus what it is compared with.

    *Comparison* with raw CP: *holds* (interval above 0), *does not hold* (interval below `smallest_effect`), *open*.

    *Attribution* to TX: *shown* (the intervals over all `controls` above 0), *excluded* (the interval over a deranged
    control below `smallest_effect`: two one-sided tests, Schuirmann 1987), *open*.

    *Verdict*: *supported* (holds, shown, better than every reference, p below alpha); *holds, TX not needed* (holds,
    excluded); *TX helps, a CP-only method does as well* (holds, shown, a gain of `smallest_effect` over a reference
    excluded); *TX helps, lead over CP-only open* (holds, shown, neither); *holds, attribution open*; *does not hold*;
    *open*.

    Parameters
    ----------
    raw : Comparison
        The method minus raw CP.
    controls, references : mapping from name to Comparison
        The method minus itself under a control, and minus the CP-only methods that were fixed beforehand.
    p_adjusted : float
        The largest p of all these, since all must hold (intersection-union; Berger 1982), after Holm over the claims.
    smallest_effect : float
        The smallest gain that would matter, in the endpoint's units.
    alpha : float
    unjudged : str
        Why attribution may not be judged, such as too few derangements; it is open then.
    """
    comparison = _answer(raw, smallest_effect, "holds", "does not hold")
    deranged = [one for name, one in controls.items() if name.startswith("deranged")]
    if unjudged or not deranged:
        attribution = "open"
    elif any(one.ci_high < smallest_effect for one in deranged):
        attribution = "excluded"
    else:
        attribution = "shown" if all(one.ci_low > 0 for one in controls.values()) else "open"
    if comparison != "holds":
        verdict = comparison
    elif attribution == "excluded":
        verdict = "holds, TX not needed"
    elif attribution == "open":
        verdict = "holds, attribution open"
    elif any(one.ci_high < smallest_effect for one in references.values()):
        verdict = "TX helps, a CP-only method does as well"
    elif references and all(one.ci_low > 0 for one in references.values()) and p_adjusted < alpha:
        verdict = "supported"
    else:
        verdict = "TX helps, lead over CP-only open"
    reason = [f"over raw CP {_words(raw)}"]
    reason += [f"over {CONTROL_WORDS[name]} {_words(one)}" for name, one in controls.items()]
    reason += [f"over {name} {_words(one)}" for name, one in references.items()]
    reason += [f"all of these together p = {p_adjusted:.2g} after Holm's correction"]
    reason += [unjudged] if unjudged else []
    return Ruling(comparison, attribution, verdict, "; ".join(reason))


def _answer(one: Comparison, smallest_effect: float, yes: str, no: str) -> str:
    if one.ci_low > 0:
        return yes
    return no if one.ci_high < smallest_effect else "open"


def _words(one: Comparison) -> str:
    return f"{one.effect:+.3f} ({one.ci_low:+.3f} to {one.ci_high:+.3f})"


# ------------------------------------------------------------------------------------------- Bootstrap


def _drawn(n: int, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n things is drawn with replacement, (1 + n_bootstrap, n); row 0 is the data: each once."""
    draws = rng.multinomial(n, np.full(n, 1.0 / n), size=n_bootstrap) if n else np.zeros((n_bootstrap, 0))
    return np.vstack([np.ones((1, n)), draws])


def resample_compounds(
    compounds: Iterable, *, n_bootstrap: int, rng: np.random.Generator, groups: pd.Series | None = None
) -> pd.DataFrame:
    """How often each compound (column) occurs in each resample (row): (1 + n_bootstrap, n_compounds), row 0 the data.

    Resampled are `groups` (of each compound, from `profiles.compound_groups` or :func:`mechanism_groups`): compounds of
    a group come and go together. A compound that `groups` lacks is one of its own.
    """
    names = pd.Index(sorted({str(name) for name in compounds}))
    labels = names if groups is None else [str(groups.get(name, name)) for name in names]
    code, distinct = pd.factorize(np.asarray(labels, dtype=object), sort=True)
    return pd.DataFrame(_drawn(len(distinct), n_bootstrap, rng).astype(np.float32)[:, code], columns=names)


def mechanism_groups(compounds: pd.DataFrame, groups: pd.Series) -> pd.Series:
    """The mechanism that each compound is resampled with, or its structure group where no mechanism is known.

    Average precisions of one mechanism's compounds rise and fall together, so claim 3 resamples mechanisms. A structure
    with several goes with the one that most compounds have.

    Parameters
    ----------
    compounds : DataFrame
        Metadata_Compound, MoA (lists).
    groups : Series of structure groups by compound, from `profiles.compound_groups`
    """
    known = compounds[[COMPOUND, "MoA"]].explode("MoA").dropna(subset="MoA")
    known = known.assign(n=known["MoA"].map(known["MoA"].value_counts()), group=known[COMPOUND].map(groups))
    known = known.sort_values(["n", "MoA"], ascending=[False, True]).drop_duplicates("group")
    return groups.map(known.set_index("group")["MoA"]).fillna(groups)


@dataclass
class EndpointBootstrap:
    """An endpoint's estimate (row 0) and bootstrap values, arrays (1 + n_bootstrap,) by (method, control).

    Under ``(method, "pairing")`` stands what the luck of one pairing adds to a method, from its deranged draws.
    ``by_fold`` holds the estimates of single test folds (n_repeats, n_folds) by (method, control), ``n_draws`` how many
    draws each fold has at least, and ``families`` the same as here by target family.
    """

    endpoint: str
    values: dict[tuple[str, str], np.ndarray]
    n_units: int
    families: dict[str, EndpointBootstrap] = field(default_factory=dict)
    not_testable: str = ""
    by_fold: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    n_draws: dict[tuple[str, str], int] = field(default_factory=dict)

    def difference(self, one: tuple[str, str], other: tuple[str, str]) -> np.ndarray:
        """One (method, control) minus another, (1 + n_bootstrap,).

        Between a method and its own control the pairing's luck is added, and replicates are NaN, so that nothing is
        judged, where a deranged control has a single draw. Replicates are spread further where folds differ by more.
        """
        difference = self.values[one] - self.values[other]
        for method in {method for method, control in (one, other) if control.startswith("deranged")}:
            if self.n_draws.get((method, "deranged"), MIN_DERANGEMENTS) < MIN_DERANGEMENTS:
                difference = np.concatenate([difference[:1], np.full(len(difference) - 1, np.nan)])
        if other[1] in TX_CONTROLS and other[0] == one[0] and (one[0], "pairing") in self.values:
            difference = difference + self.values[one[0], "pairing"]
        folds = np.atleast_2d(self.by_fold.get(one, np.nan) - self.by_fold.get(other, np.nan))
        folds = folds[(~np.isnan(folds)).sum(axis=1) > 1]  # of repeats with two measured folds or more
        replicates = difference[1:][~np.isnan(difference[1:])]
        if not len(folds) or len(replicates) < 2 or not replicates.var():
            return difference
        of_folds = (np.nanvar(folds, axis=1, ddof=1) / (~np.isnan(folds)).sum(axis=1)).mean()
        return difference[0] + (difference - difference[0]) * max(1.0, np.sqrt(of_folds / replicates.var()))


def _average_draws(
    values: np.ndarray, fits: pd.DataFrame, rng: np.random.Generator
) -> dict[tuple[str, str], np.ndarray]:
    """Averages over the draws that a fold has of each method and control, which are resampled.

    `values` (1 + n_bootstrap, ..., n_fits) lose their last axis, whose method and control `fits` says. Deviations of
    resampled draws are scaled so that the variance of their mean is unbiased, however few there are. The luck of one
    pairing is a deranged draw's deviation from the mean of the draws; none where there is one draw.
    """
    averages = {}
    for (method, control), at in fits[["method", "control"]].astype(str).groupby(["method", "control"]).indices.items():
        k, n_bootstrap = len(at), len(values) - 1
        unbiased = np.sqrt(k / (k - 1)) if k > 1 else 0.0
        weights = {control: 1.0 / k + unbiased * (_drawn(k, n_bootstrap, rng) - 1.0) / k}
        if control == "deranged":
            deviations = (np.eye(k) - 1.0 / k) * unbiased
            weights["pairing"] = np.vstack([np.zeros((1, k)), deviations[rng.integers(k, size=n_bootstrap)]])
        for name, weight in weights.items():
            averages[method, name] = np.einsum("b...k,bk->b...", values[..., at], weight)
    return averages


def _over_folds(endpoint: str, parts: Sequence[tuple], n_units: int) -> EndpointBootstrap:
    """Weighted means over test folds, each a (repeat, totals, weights, fits): of these the first three by model.

    Totals and weights are (1 + n_bootstrap,) by (method, control); a fold must have the models that the others have.
    """
    if not n_units:
        return EndpointBootstrap(endpoint, {}, 0)
    values, by_fold = {}, {}
    for key in dict.fromkeys(key for _, totals, _, _ in parts for key in totals):
        if not all(key in totals for _, totals, _, _ in parts):
            raise ValueError(f"{key} is missing from a fold that others have")
        values[key] = _ratio(sum(totals[key] for _, totals, _, _ in parts), sum(one[key] for _, _, one, _ in parts))
        single = pd.DataFrame({"repeat": [repeat for repeat, *_ in parts]})
        single["value"] = [_ratio(totals[key][:1], weights[key][:1])[0] for _, totals, weights, _ in parts]
        single["fold"] = single.groupby("repeat").cumcount()  # a repeat may measure fewer folds than another
        by_fold[key] = single.pivot(index="repeat", columns="fold", values="value").to_numpy()
    draws = pd.concat([fits.astype(str).groupby(["method", "control"]).size() for *_, fits in parts])
    n_draws = draws.groupby(level=[0, 1]).min().to_dict()
    return EndpointBootstrap(endpoint, values, n_units, by_fold=by_fold, n_draws=n_draws)


def _ratio(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / weight


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
    folds, used = [], set()
    for (repeat, _), part in table.groupby(["repeat", "fold"], sort=True):
        by_fit = part.groupby(["compound", "method", "control", "seed"], observed=True)[value].agg(["sum", "count"])
        total, count = (by_fit[name].unstack(["method", "control", "seed"]) for name in ("sum", "count"))
        most = count.max(axis=1)
        kept = count.eq(most, axis=0).all(axis=1)
        times = resample[total.index[kept]].to_numpy(dtype=float)  # (1 + n_bootstrap, n_kept)
        fits = total.columns.to_frame(index=False)
        averages = _average_draws(times @ total[kept].to_numpy(), fits, rng)
        n_queries = times @ most[kept].to_numpy()
        folds.append((repeat, averages, dict.fromkeys(averages, n_queries), fits))
        used |= set(total.index[kept])
    return _over_folds(endpoint or value, folds, len(used))


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


def bootstrap_task_auc(
    dense: Predictions,
    wanted: Sequence[np.ndarray],
    resample: pd.DataFrame,
    rng: np.random.Generator,
    *,
    endpoint: str,
) -> EndpointBootstrap:
    """Bootstrap the mean ROC-AUC over the tasks that each fold is asked for (claims 1 and 4); ``n_units`` are tasks.

    `wanted` (n_tasks,) of bool for each fold of `dense`. An AUC is taken within a fold; folds in which a task has one
    class only don't count. The draws of a fold, which `rng` resamples, are the same for all its tasks: a draw is one
    embedding.
    """
    times = resample[dense.compounds.astype(str)].to_numpy()
    folds, measured = [], set()
    for one, of_fold in zip(dense.folds, wanted, strict=True):
        scores, fits = one.scores[..., one.present], dense.columns[one.present]
        auc = np.full((len(times), int(of_fold.sum()), len(fits)), np.nan)
        for i, task in enumerate(np.flatnonzero(of_fold)):
            known = np.flatnonzero(~np.isnan(one.labels[:, task]))
            auc[:, i] = weighted_auc(one.labels[known, task], scores[known, task], times[:, one.rows[known]])
            measured |= {task} if not np.isnan(auc[0, i]).all() else set()
        averages = _average_draws(auc, fits, rng)
        totals = {key: np.nansum(values, axis=1) for key, values in averages.items()}
        weights = {key: (~np.isnan(values)).sum(axis=1) for key, values in averages.items()}
        folds.append((one.repeat, totals, weights, fits))
    return _over_folds(endpoint, folds, len(measured))


def bootstrap_tx_strong_auc(
    dense: Predictions, chosen: pd.DataFrame, resample: pd.DataFrame, rng: np.random.Generator
) -> EndpointBootstrap:
    """Bootstrap the mean ROC-AUC over TX-strong, CP-weak tasks (claim 1); ``n_units`` are tasks.

    `chosen` has ``repeat, fold, task, chosen`` from `bioactivity.choose_tasks`: each fold measures the tasks that its
    own training compounds chose, so that choosing saw none of the compounds that measure.
    """
    by_fold = chosen[chosen["chosen"].astype(bool)].groupby(["repeat", "fold"])["task"].agg(set)
    wanted = [np.isin(dense.tasks.astype(str), list(by_fold.get((one.repeat, one.fold), ()))) for one in dense.folds]
    n_chosen = int(np.any(wanted, axis=0).sum())
    if n_chosen >= MIN_CHOSEN_TASKS:
        return bootstrap_task_auc(dense, wanted, resample, rng, endpoint=ENDPOINTS[1])
    reason = f"{n_chosen} tasks are TX-strong and CP-weak by training compounds; {MIN_CHOSEN_TASKS} are needed"
    return EndpointBootstrap(ENDPOINTS[1], {}, n_chosen, not_testable=reason)


def bootstrap_family_auc(
    dense: Predictions, tasks: pd.DataFrame, resample: pd.DataFrame, rng: np.random.Generator
) -> EndpointBootstrap:
    """Bootstrap the mean ROC-AUC of each target family, and its mean over testable families (claim 4).

    `tasks` has ``task, family``. In the mean, whose ``n_units`` are families, is each with `MIN_TASKS_PER_FAMILY`
    measured tasks but "other", which is no family. ``families`` holds all of them; their ``n_units`` are tasks.
    """
    family_of = tasks.set_index(tasks["task"].astype(str))["family"].astype(object)
    family_of = family_of.reindex(dense.tasks.astype(str)).fillna("other").to_numpy(dtype=str)
    seed = int(rng.integers(2**31))  # the same draws for every family: a draw is one embedding
    families = {}
    for family in np.unique(family_of):
        wanted = [family_of == family] * len(dense.folds)
        name = f"{ENDPOINTS[4]}:{family}"
        one = bootstrap_task_auc(dense, wanted, resample, np.random.default_rng(seed), endpoint=name)
        if one.values:
            families[str(family)] = one
    tested = tested_families(families)
    means = {key: np.mean([one.values[key] for one in tested], axis=0) for key in (tested[0].values if tested else ())}
    draws = tested[0].n_draws if tested else {}
    return EndpointBootstrap(ENDPOINTS[4], means, len(tested), families, n_draws=draws)


def tested_families(families: Mapping[str, EndpointBootstrap]) -> list[EndpointBootstrap]:
    """The known families with tasks enough to be tested."""
    return [one for name, one in families.items() if name != "other" and one.n_units >= MIN_TASKS_PER_FAMILY]


# ------------------------------------------------------------- The four endpoints and the claims table


def bootstrap_endpoints(
    *,
    replicate_per_treatment: pd.DataFrame | None = None,
    moa_per_compound: pd.DataFrame | None = None,
    predictions: pd.DataFrame | None = None,
    chosen: pd.DataFrame | None = None,
    tasks: pd.DataFrame | None = None,
    groups: pd.Series | None = None,
    moa_groups: pd.Series | None = None,
    not_testable: Mapping[int, str] | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> dict[int, EndpointBootstrap]:
    """Bootstrap the primary endpoint of every claim.

    Parameters
    ----------
    replicate_per_treatment, moa_per_compound, predictions : DataFrame, optional
        Long tables of notebooks 05 and 06, each of one split: ``split, repeat, fold, seed, method, control, compound``
        and ``replicate_map``; ``average_precision``; ``task, label, score``. Left out or empty: not testable.
    chosen : DataFrame, optional
        ``repeat, fold, task, chosen`` from `bioactivity.choose_tasks`, for claim 1.
    tasks : DataFrame, optional
        ``task, family``, for claim 4.
    groups, moa_groups : Series of groups by compound, optional
        What is resampled, and what for claim 3 (:func:`mechanism_groups`); default: compounds, and `groups`.
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
    rngs = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2 + len(ENDPOINTS))]
    resample = resample_compounds(names, n_bootstrap=n_bootstrap, rng=rngs[0], groups=groups)
    dense = None if predicted is None else dense_predictions(predicted)
    reasons = {}
    if dense is None or not len(dense.tasks):
        reasons |= dict.fromkeys((1, 4), "no bioactivity task was predicted on this screen")
    else:
        reasons |= {} if chosen is not None else {1: "no task was chosen by TX and CP inside training folds"}
        reasons |= {} if tasks is not None else {4: "the tasks of this screen have no target families"}
    if replicates is None:
        reasons[2] = "no replicates were measured on this screen"
    if moas is None:
        reasons[3] = "no mechanism of action is shared by test compounds of this screen"
    reasons |= not_testable or {}
    endpoints = {
        claim: EndpointBootstrap(ENDPOINTS[claim], {}, 0, not_testable=reason) for claim, reason in reasons.items()
    }
    if 1 not in reasons:
        endpoints[1] = bootstrap_tx_strong_auc(dense, chosen, resample, rngs[1])
    if 2 not in reasons:
        endpoints[2] = bootstrap_compound_endpoint(replicates, "replicate_map", resample, rngs[2])
    if 3 not in reasons:
        by_moa = resample
        if moa_groups is not None:
            by_moa = resample_compounds(names, n_bootstrap=n_bootstrap, rng=rngs[5], groups=moa_groups)
        endpoints[3] = bootstrap_compound_endpoint(moas, "average_precision", by_moa, rngs[3], endpoint=ENDPOINTS[3])
    if 4 not in reasons:
        endpoints[4] = bootstrap_family_auc(dense, tasks, resample, rngs[4])
    return {claim: endpoints[claim] for claim in ENDPOINTS}


def weigh_claims(
    screen: str,
    endpoints: Mapping[int, EndpointBootstrap],
    *,
    methods: Sequence[str] = ("contrastive", "autoencoder"),
    references: Mapping[int, Sequence[str]] | None = None,
    smallest_effects: Mapping[str, float] | None = None,
    min_families: int = 2,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Every comparison of every TX method, and the ruling on each claim for the methods that carry verdicts.

    Parameters
    ----------
    screen : str
    endpoints : mapping from claim number to EndpointBootstrap
        From :func:`bootstrap_endpoints`.
    methods : sequence of str
        Those whose rows against raw CP carry the verdicts.
    references : mapping from claim number to CP-only methods, optional
        What must be beaten, as far as it was evaluated; default :data:`REFERENCES`.
    smallest_effects : mapping from endpoint to float, optional
        Gains that would matter, in the endpoint's units; default :data:`SMALLEST_EFFECTS`.
    min_families : int
        How many target families must gain for claim 4.
    alpha : float

    Returns
    -------
    DataFrame
        Columns :data:`CLAIM_COLUMNS`. One row a claim, method and reference: CP-only methods (``role`` is reference
        for those of `references`), and the method itself under its controls. ``effect`` is method minus reference,
        ``detectable`` what would be found with 80% power. The row against raw CP of a method that carries verdicts
        comes first, with what was ruled and why; its ``p_adjusted`` is the claim's p after Holm over the testable
        claims. Other rows: Benjamini-Hochberg within the claim. Of claim 4 the effect is that of the
        `min_families`-th best family (:func:`at_least`), and the values are means over families. Single families have
        rows of their own, endpoint ``family_auc:<family>``, Benjamini-Hochberg over families, ``shrunk`` their effect
        drawn towards the mean of all families by what is noise in it; those of too few tasks have no p.
    """
    from statsmodels.stats.multitest import multipletests

    limits = SMALLEST_EFFECTS | dict(smallest_effects or {})
    wanted = dict(REFERENCES) | dict(references or {})
    tables, families, lacking = {}, {}, {}
    for claim, endpoint in endpoints.items():
        table = _comparisons(claim, endpoint, min_families)
        table["role"] = table["role"].where(~table["reference"].isin(wanted[claim]), "reference")
        tables[claim] = table.assign(p_adjusted=benjamini_hochberg(table["p_value"]))
        families[claim] = _family_comparisons(claim, endpoint)
        lacking |= {(claim, method): _why_not_testable(endpoint, method, min_families) for method in methods}
    p_adjusted = {}
    for method in methods:
        testable = [claim for claim in endpoints if not lacking[claim, method]]
        compared = {claim: families[claim] if len(families[claim]) else tables[claim] for claim in testable}
        p_values = [_p_of_all(compared[claim], method, wanted[claim], min_families) for claim in testable]
        adjusted = multipletests(p_values, method="holm")[1] if p_values else []
        p_adjusted |= {(claim, method): p for claim, p in zip(testable, adjusted, strict=True)}
    parts = []
    for claim, table in tables.items():
        heads = []
        for method in methods:
            if lacking[claim, method]:
                head = {"claim": claim, "endpoint": ENDPOINTS[claim], "method": method, "n_units": 0, "reference": ""}
                said = {"verdict": "not testable", "reason": lacking[claim, method]}
                heads.append(pd.DataFrame([head | said]))
                continue
            legs = _needed(table, method, wanted[claim])
            ruling = rule(
                legs["raw_cp"],
                {name: leg for name, leg in legs.items() if name in TX_CONTROLS},
                {name: leg for name, leg in legs.items() if name in wanted[claim]},
                p_adjusted[claim, method],
                smallest_effect=limits[ENDPOINTS[claim]],
                alpha=alpha,
                unjudged=_unjudged(endpoints[claim], method),
            )
            is_head = (table["method"] == method) & (table["reference"] == "raw_cp")
            heads.append(table[is_head].assign(**asdict(ruling), p_adjusted=p_adjusted[claim, method]))
            table = table[~is_head]
        parts += [*heads, table]
    table = pd.concat([part for part in (*parts, *families.values()) if len(part)], ignore_index=True)
    table = table.assign(screen=screen).reindex(columns=CLAIM_COLUMNS)
    words = ("comparison", "attribution", "verdict", "reason", "role")
    return table.assign(**{name: table[name].astype(object).fillna("") for name in words})


def _needed(table: pd.DataFrame, method: str, references: Sequence[str]) -> dict[str, Comparison]:
    """The comparisons on which a method's verdict rests, by reference."""
    own = table[(table["method"] == method) & table["reference"].isin(["raw_cp", *TX_CONTROLS, *references])]
    return {
        row["reference"]: Comparison(*(row[name] for name in Comparison.__match_args__)) for _, row in own.iterrows()
    }


def _p_of_all(table: pd.DataFrame, method: str, references: Sequence[str], min_families: int) -> float:
    """The p of "better than raw CP, than its controls and than the references" in one claim's comparisons.

    Where these are of single families, of the same `min_families` families (those of too few tasks have a reason).
    """
    is_family = table["endpoint"].str.contains(":").any()
    tested = table[table["reason"].isna()] if is_family else table
    by_unit = [_needed(part, method, references).values() for _, part in tested.groupby("endpoint", sort=False)]
    p_values = sorted(max(leg.p_in_favour for leg in legs) for legs in by_unit)
    if not is_family:
        return p_values[0]
    return min(1.0, (len(p_values) - min_families + 1) * p_values[min_families - 1])


def _why_not_testable(endpoint: EndpointBootstrap, method: str, min_families: int) -> str:
    """Why a claim has no verdict for a method; "" if it has one."""
    is_family = endpoint.endpoint == ENDPOINTS[4]
    few = f"{endpoint.n_units} target families have {MIN_TASKS_PER_FAMILY} measured tasks; {min_families} are needed"
    reasons = {
        endpoint.not_testable: bool(endpoint.not_testable),
        few: is_family and endpoint.n_units < min_families,
        "nothing was measured": not endpoint.values,
        f"{method} was not evaluated on true pairs": (method, "true_pairs") not in endpoint.values,
        "raw_cp was not evaluated": ("raw_cp", "") not in endpoint.values,
    }
    return _first_that_holds(reasons)


def _unjudged(endpoint: EndpointBootstrap, method: str) -> str:
    """Why a gain of a method may not be put down to TX, whatever its intervals; "" if it may."""
    derangements = endpoint.n_draws.get((method, "deranged"), 0)
    fits = endpoint.n_draws.get((method, "true_pairs"), 0)
    few = f"attribution isn't judged by {derangements} derangements a fold, {MIN_DERANGEMENTS} are needed"
    few_fits = f"attribution isn't judged by {fits} fits of the true pairs a fold, {MIN_FITS} are needed"
    return _first_that_holds({
        few: derangements < MIN_DERANGEMENTS,
        "attribution isn't judged without random codes": (method, "random_codes") not in endpoint.values,
        few_fits: method not in LINEAR_TX and fits < MIN_FITS,
    })  # fmt: skip


def _first_that_holds(reasons: Mapping[str, bool]) -> str:
    return next((reason for reason, holds in reasons.items() if holds), "")


def _comparisons(claim: int, endpoint: EndpointBootstrap, min_families: int = 0) -> pd.DataFrame:
    """Rows of every TX method against the CP-only methods and itself under its controls.

    With `min_families` the difference of an endpoint with families is that of its `min_families`-th best family.
    """
    rows, values = [], endpoint.values
    tested = tested_families(endpoint.families)
    for method in [method for method, control in values if control == "true_pairs"]:
        own = (method, "true_pairs")
        others = {name: (name, "") for name in CP_ONLY} | {name: (method, name) for name in TX_CONTROLS}
        for name, other in others.items():
            if other not in values:
                continue
            if len(tested) >= min_families > 0:
                found = at_least([one.difference(own, other) for one in tested], min_families)
            else:
                found = summarise_bootstrap(endpoint.difference(own, other))
            rows.append({
                "claim": claim, "endpoint": endpoint.endpoint, "method": method, "reference": name,
                "role": "control" if name in TX_CONTROLS else "CP-only", **asdict(found), "n_units": endpoint.n_units,
                "value_method": float(values[own][0]), "value_reference": float(values[other][0]),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=None if rows else CLAIM_COLUMNS)


def _family_comparisons(claim: int, endpoint: EndpointBootstrap) -> pd.DataFrame:
    """Rows of single target families."""
    if not endpoint.families:
        return pd.DataFrame()
    table = pd.concat([_comparisons(claim, one) for one in endpoint.families.values()], ignore_index=True)
    few = np.where(
        table["endpoint"].str.endswith(":other"), "no known family", f"fewer than {MIN_TASKS_PER_FAMILY} tasks"
    )
    untested = ~table["endpoint"].isin([one.endpoint for one in tested_families(endpoint.families)])
    table.loc[untested, "reason"] = pd.Series(few) + ": shown, not tested"
    table.loc[untested, "p_value"] = np.nan
    by_comparison = table.groupby(["method", "reference"])
    table["p_adjusted"] = by_comparison["p_value"].transform(lambda p: benjamini_hochberg(p.to_numpy()))
    for _, part in table[table["p_value"].notna()].groupby(["method", "reference"]):
        table.loc[part.index, "shrunk"] = shrink(part["effect"], part["detectable"] / DETECTABLE_IN_STANDARD_ERRORS)
    return table


def shrink(effects: pd.Series, standard_errors: pd.Series) -> pd.Series:
    """Effects drawn towards their mean by the share of noise in them (DerSimonian and Laird 1986; Morris 1983).

    The best of several families is best by luck, too; drawn towards the mean, it is what a new look at it would show.
    """
    weight = 1.0 / np.maximum(standard_errors, 1e-12) ** 2
    mean = (weight * effects).sum() / weight.sum()
    excess = (weight * (effects - mean) ** 2).sum() - (len(effects) - 1)
    scale = weight.sum() - (weight**2).sum() / weight.sum()
    between = max(0.0, excess / scale) if scale > 0 else 0.0
    centre = (effects / (between + 1 / weight)).sum() / (1 / (between + 1 / weight)).sum()
    return centre + (effects - centre) * between / (between + 1 / weight)


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
