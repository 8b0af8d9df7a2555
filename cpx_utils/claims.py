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
from cpx_utils.profiles import COMPOUND, CONTROL_LABELS, CP_ONLY, LINEAR_TX, MIN_TASKS_PER_FAMILY

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
TX_CONTROLS = ("deranged", "random_codes", "deranged_in_plate")  # that a gain from TX must beat, where they were fitted
MIN_DERANGEMENTS, MIN_FITS = 2, 3  # draws a fold, of deranged pairs and of a network on true pairs, to judge by
CLAIM_COLUMNS = (
    "screen claim endpoint method reference effect ci_low ci_high p_adjusted comparison attribution verdict reason "
    "role p_value detectable shrunk n_units value_method value_reference"
).split()
DETECTABLE_IN_STANDARD_ERRORS = 2.8  # two-sided 5% and 80% power: 1.96 + 0.84
MIN_CHOSEN_TASKS = 3
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
    n_beyond = min((replicates <= 0).sum(), (replicates >= 0).sum())
    p_value = min(1.0, 2.0 * (1 + n_beyond) / (len(replicates) + 1))
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
    each = [summarise_bootstrap(one, tail_low=0.025 / (n - k + 1), tail_high=0.025 / k) for one in differences]
    effect, low, high = -np.sort([(-one.effect, -one.ci_low, -one.ci_high) for one in each], axis=0)[k - 1]  # NaN last
    if np.isnan(low):
        return Comparison(effect)
    detectable = np.sort([one.detectable for one in each])[k - 1]
    p_value = min(1.0, (n - k + 1) * sorted(one.p_in_favour for one in each)[k - 1])
    return Comparison(effect, low, high, detectable, p_value)


def rule(
    raw: Comparison,
    controls: Mapping[str, Comparison],
    references: Mapping[str, Comparison],
    p_adjusted: float,
    *,
    smallest_effect: float,
    alpha: float = 0.05,
    unjudged: str = "",
) -> dict[str, str]:
    """What was shown of one testable claim, by the intervals of a method minus what it is compared with.

    Each answer is the first whose condition holds. "No" needs an interval below `smallest_effect` (two one-sided
    tests, Schuirmann 1987); one that reaches 0 leaves a question open.

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

    Returns
    -------
    dict
        `comparison`, `attribution`, `verdict`, and the `reason`: the numbers that decided.
    """
    deranged = [one for name, one in controls.items() if name.startswith("deranged")]
    comparison = _first_that_holds([
        ("holds", raw.ci_low > 0),
        ("does not hold", raw.ci_high < smallest_effect),
        ("open", True),
    ])  # fmt: skip
    attribution = _first_that_holds([
        ("open", unjudged or not deranged),
        ("excluded", any(one.ci_high < smallest_effect for one in deranged)),
        ("shown", all(one.ci_low > 0 for one in controls.values())),
        ("open", True),
    ])  # fmt: skip
    verdict = _first_that_holds([
        (comparison, comparison != "holds"),
        ("holds, TX not needed", attribution == "excluded"),
        ("holds, attribution open", attribution == "open"),
        ("TX helps, a CP-only method does as well", any(one.ci_high < smallest_effect for one in references.values())),
        ("supported", references and all(one.ci_low > 0 for one in references.values()) and p_adjusted < alpha),
        ("TX helps, lead over CP-only open", True),
    ])  # fmt: skip
    compared = {"raw CP": raw, **{CONTROL_LABELS[name]: one for name, one in controls.items()}, **references}
    reason = [
        f"over {name} {one.effect:+.3f} ({one.ci_low:+.3f} to {one.ci_high:+.3f})" for name, one in compared.items()
    ]
    reason.append(f"all of these together p = {p_adjusted:.2g} after Holm's correction")
    reason += [unjudged] if unjudged else []
    return {"comparison": comparison, "attribution": attribution, "verdict": verdict, "reason": "; ".join(reason)}


def _first_that_holds(cases: Sequence[tuple[str, object]]) -> str:
    """The first answer whose condition is true; "" if none is."""
    return next((answer for answer, holds in cases if holds), "")


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
    ``by_fold`` holds the estimates of single test folds by (method, control), with their repeats as index; ``n_draws``
    how many draws each fold has at least, and ``families`` the same as here by target family.
    """

    endpoint: str
    values: dict[tuple[str, str], np.ndarray]
    n_units: int
    families: dict[str, EndpointBootstrap] = field(default_factory=dict)
    not_testable: str = ""
    by_fold: dict[tuple[str, str], pd.Series] = field(default_factory=dict)
    n_draws: dict[tuple[str, str], int] = field(default_factory=dict)

    def difference(self, one: tuple[str, str], other: tuple[str, str]) -> np.ndarray:
        """One (method, control) minus another, (1 + n_bootstrap,).

        Between a method and its own control the pairing's luck is added, and replicates are NaN, so that nothing is
        judged, where that deranged control has a single draw. Replicates are spread further where folds differ by more.
        """
        difference = self.values[one] - self.values[other]
        for method, control in (one, other):
            n_draws = self.n_draws.get((method, control), MIN_DERANGEMENTS)
            if control.startswith("deranged") and n_draws < MIN_DERANGEMENTS:
                return np.concatenate([difference[:1], np.full(len(difference) - 1, np.nan)])
        if other[1] in TX_CONTROLS and other[0] == one[0] and (one[0], "pairing") in self.values:
            difference = difference + self.values[one[0], "pairing"]
        of_folds = []  # the variance of a repeat's mean over its folds, by their spread
        if one in self.by_fold and other in self.by_fold:
            folds = (self.by_fold[one] - self.by_fold[other]).dropna()
            of_folds = [fold.to_numpy().var(ddof=1) / len(fold) for _, fold in folds.groupby(level=0) if len(fold) > 1]
        replicates = difference[1:][~np.isnan(difference[1:])]
        if of_folds and len(replicates) > 1 and replicates.var() > 0:
            widening = max(1.0, np.sqrt(np.mean(of_folds) / replicates.var()))
            difference = difference[0] + (difference - difference[0]) * widening
        return difference


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
    """Weighted means over test folds, each a (repeat, totals, weights, fits).

    Totals are (1 + n_bootstrap,) by (method, control), weights (1 + n_bootstrap,) the same for all of them. A fold must
    have the models that the others have.
    """
    if not n_units:
        return EndpointBootstrap(endpoint, {}, 0)
    repeats, totals, weights, fits = zip(*parts, strict=True)
    if any(one.keys() != totals[0].keys() for one in totals):
        raise ValueError(f"{endpoint}: a model is missing from a fold that others have")
    values, by_fold = {}, {}
    for key in totals[0]:
        values[key] = _ratio(sum(one[key] for one in totals), sum(weights))
        of_data = [_ratio(one[key][:1], weight[:1])[0] for one, weight in zip(totals, weights, strict=True)]
        by_fold[key] = pd.Series(of_data, repeats)
    draws = pd.concat([one.astype(str).groupby(["method", "control"]).size() for one in fits])
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
    control = table["control"].astype(object).fillna("")  # a csv file reads "" (a method without TX) as missing
    table = table.assign(compound=table["compound"].astype(str), control=control)[table[value].notna()]
    folds, used = [], set()
    for (repeat, _), part in table.groupby(["repeat", "fold"], sort=True):
        by_fit = part.groupby(["compound", "method", "control", "seed"], observed=True)[value].agg(["sum", "count"])
        total, count = (by_fit[name].unstack(["method", "control", "seed"]) for name in ("sum", "count"))
        most = count.max(axis=1)
        kept = count.eq(most, axis=0).all(axis=1)
        times = resample[total.index[kept]].to_numpy(dtype=float)  # (1 + n_bootstrap, n_kept)
        fits = total.columns.to_frame(index=False)
        averages = _average_draws(times @ total[kept].to_numpy(), fits, rng)
        folds.append((repeat, averages, times @ most[kept].to_numpy(), fits))
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
    of_active, of_inactive = weights[:, active].astype(np.float32), weights[:, inactive].astype(np.float32)
    above = np.empty((len(weights), scores.shape[1]))
    for model, score in enumerate(scores.T):
        wins = 0.5 + 0.5 * np.sign(score[active][:, None] - score[inactive])  # (n_active, n_inactive)
        above[:, model] = ((of_active @ wins.astype(np.float32)) * of_inactive).sum(axis=1, dtype=float)
    pairs = of_active.sum(axis=1, dtype=float) * of_inactive.sum(axis=1, dtype=float)
    return _ratio(above, pairs[:, None])


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
            auc[:, i] = weighted_auc(one.labels[:, task], scores[:, task], times[:, one.rows])
            measured |= {task} if not np.isnan(auc[0, i]).all() else set()
        averages = _average_draws(auc, fits, rng)
        totals = {key: np.nansum(values, axis=1) for key, values in averages.items()}
        n_tasks = (~np.isnan(auc[:, :, 0])).sum(axis=1)  # which tasks are measured depends on labels, not on models
        folds.append((one.repeat, totals, n_tasks, fits))
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
    for family in map(str, np.unique(family_of)):
        wanted, draws = [family_of == family] * len(dense.folds), np.random.default_rng(seed)
        one = bootstrap_task_auc(dense, wanted, resample, draws, endpoint=f"{ENDPOINTS[4]}:{family}")
        if one.values:
            families[family] = one
    tested = tested_families(families)
    if not tested:
        return EndpointBootstrap(ENDPOINTS[4], {}, 0, families)
    means = {key: np.mean([one.values[key] for one in tested], axis=0) for key in tested[0].values}
    return EndpointBootstrap(ENDPOINTS[4], means, len(tested), families, n_draws=tested[0].n_draws)


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
    measured = [table[["split", "compound"]] for table in (replicates, moas, predicted) if table is not None]
    splits = {str(split) for table in measured for split in table["split"].unique()}
    if len(splits) > 1:
        raise ValueError(f"weigh one split at a time, not {', '.join(sorted(splits))}")
    no_task = ("no bioactivity task was predicted on this screen", predicted is None)
    lacking = {
        1: [no_task, ("no task was chosen by TX and CP inside training folds", chosen is None)],
        2: [("no replicates were measured on this screen", replicates is None)],
        3: [("no mechanism of action is shared by test compounds of this screen", moas is None)],
        4: [no_task, ("the tasks of this screen have no target families", tasks is None)],
    }
    reasons = {claim: _first_that_holds(cases) for claim, cases in lacking.items()} | dict(not_testable or {})
    names = {name for table in measured for name in table["compound"].unique()}
    streams = np.random.SeedSequence(seed).spawn(2 + len(ENDPOINTS))
    rng, *rngs, moa_rng = (np.random.default_rng(stream) for stream in streams)
    resample = resample_compounds(names, n_bootstrap=n_bootstrap, rng=rng, groups=groups)
    moa_groups = groups if moa_groups is None else moa_groups
    by_moa = resample_compounds(names, n_bootstrap=n_bootstrap, rng=moa_rng, groups=moa_groups)
    dense = None if predicted is None else dense_predictions(predicted)
    measures = {
        1: lambda: bootstrap_tx_strong_auc(dense, chosen, resample, rngs[0]),
        2: lambda: bootstrap_compound_endpoint(replicates, "replicate_map", resample, rngs[1]),
        3: lambda: bootstrap_compound_endpoint(moas, "average_precision", by_moa, rngs[2], endpoint=ENDPOINTS[3]),
        4: lambda: bootstrap_family_auc(dense, tasks, resample, rngs[3]),
    }
    return {
        claim: EndpointBootstrap(ENDPOINTS[claim], {}, 0, not_testable=reasons[claim]) if reasons[claim] else measure()
        for claim, measure in measures.items()
    }


def weigh_claims(
    screen: str,
    endpoints: Mapping[int, EndpointBootstrap],
    *,
    methods: Sequence[str] = ("contrastive", "autoencoder"),
    references: Mapping[int, Sequence[str]] = REFERENCES,
    smallest_effects: Mapping[str, float] = SMALLEST_EFFECTS,
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
    references : mapping from claim number to CP-only methods
        What must be beaten, as far as it was evaluated.
    smallest_effects : mapping from endpoint to float
        Gains that would matter, in the endpoint's units.
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
    compared = {claim: _comparisons(claim, one, references[claim], min_families) for claim, one in endpoints.items()}
    families = {claim: _family_comparisons(claim, one) for claim, one in endpoints.items()}
    rules = {"smallest_effects": smallest_effects, "min_families": min_families, "alpha": alpha}
    ruled = [_rulings(method, endpoints, compared, families, references, **rules) for method in methods]
    table = pd.concat([*ruled, *(part for part in compared.values() if len(part))])
    # What was ruled came first, and stands for the plain comparison.
    table = table.drop_duplicates(["claim", "method", "reference"], keep="first").sort_values("claim", kind="stable")
    table = pd.concat([table, *(part for part in families.values() if len(part))], ignore_index=True)
    table = table.assign(screen=screen).reindex(columns=CLAIM_COLUMNS)
    words = ("comparison", "attribution", "verdict", "reason", "role")
    return table.assign(**{name: table[name].astype(object).fillna("") for name in words})


def _rulings(
    method: str,
    endpoints: Mapping[int, EndpointBootstrap],
    compared: Mapping[int, pd.DataFrame],
    families: Mapping[int, pd.DataFrame],
    references: Mapping[int, Sequence[str]],
    *,
    smallest_effects: Mapping[str, float],
    min_families: int,
    alpha: float,
) -> pd.DataFrame:
    """For each claim the row of a method against raw CP with what was ruled, or why the claim isn't testable.

    `compared` and `families` are the comparisons of each claim and of its single families.
    """
    from statsmodels.stats.multitest import multipletests

    why_not = {claim: _why_not_testable(one, method, min_families) for claim, one in endpoints.items()}
    p_values = {}
    for claim in [claim for claim in endpoints if not why_not[claim]]:
        tested = families[claim][families[claim]["reason"].isna()]
        decisive = tested if len(tested) else compared[claim]  # the same families must win every comparison
        p_values[claim] = _p_of_all(_decisive_rows(decisive, method, references[claim]), min_families)
    adjusted = multipletests(list(p_values.values()), method="holm")[1] if p_values else ()
    p_adjusted = dict(zip(p_values, adjusted, strict=True))
    rows = []
    for claim, endpoint in endpoints.items():
        if why_not[claim]:
            row = {"claim": claim, "endpoint": ENDPOINTS[claim], "method": method, "n_units": 0, "reference": ""}
            rows.append(row | {"verdict": "not testable", "reason": why_not[claim]})
            continue
        own = _decisive_rows(compared[claim], method, references[claim]).set_index("reference")
        over = {name: Comparison(*numbers) for name, *numbers in own[list(Comparison.__match_args__)].itertuples()}
        ruling = rule(
            over["raw_cp"],
            {name: one for name, one in over.items() if name in TX_CONTROLS},
            {name: one for name, one in over.items() if name in references[claim]},
            p_adjusted[claim],
            smallest_effect=smallest_effects[ENDPOINTS[claim]],
            alpha=alpha,
            unjudged=_unjudged(endpoint, method),
        )
        rows.append({"reference": "raw_cp", **own.loc["raw_cp"], **ruling, "p_adjusted": p_adjusted[claim]})
    return pd.DataFrame(rows)


def _decisive_rows(table: pd.DataFrame, method: str, references: Sequence[str]) -> pd.DataFrame:
    """The rows on which a method's verdict rests: over raw CP, its controls and the references."""
    return table[(table["method"] == method) & table["reference"].isin(["raw_cp", *TX_CONTROLS, *references])]


def _p_of_all(rows: pd.DataFrame, min_families: int) -> float:
    """The p of "all rows are gains", or, where they are of several families, of "those of the same families are".

    Of at least `min_families`, as in :func:`at_least`.
    """
    in_favour = rows["p_value"].where(rows["effect"] > 0).fillna(1.0)
    largest = in_favour.groupby(rows["endpoint"]).max().sort_values()
    k = min(min_families, len(largest))
    return min(1.0, (len(largest) - k + 1) * largest.iloc[k - 1])


def _why_not_testable(endpoint: EndpointBootstrap, method: str, min_families: int) -> str:
    """Why a claim has no verdict for a method; "" if it has one."""
    few = f"{endpoint.n_units} target families have {MIN_TASKS_PER_FAMILY} measured tasks; {min_families} are needed"
    return _first_that_holds([
        (endpoint.not_testable, endpoint.not_testable),
        (few, endpoint.endpoint == ENDPOINTS[4] and endpoint.n_units < min_families),
        (f"{method} was not evaluated on true pairs", (method, "true_pairs") not in endpoint.values),
        ("raw_cp was not evaluated", ("raw_cp", "") not in endpoint.values),
    ])  # fmt: skip


def _unjudged(endpoint: EndpointBootstrap, method: str) -> str:
    """Why a gain of a method may not be put down to TX, whatever its intervals; "" if it may."""
    derangements, fits = (endpoint.n_draws.get((method, control), 0) for control in ("deranged", "true_pairs"))
    few = f"attribution isn't judged by {derangements} derangements a fold, {MIN_DERANGEMENTS} are needed"
    few_fits = f"attribution isn't judged by {fits} fits of the true pairs a fold, {MIN_FITS} are needed"
    return _first_that_holds([
        (few, derangements < MIN_DERANGEMENTS),
        ("attribution isn't judged without random codes", (method, "random_codes") not in endpoint.values),
        (few_fits, method not in LINEAR_TX and fits < MIN_FITS),
    ])  # fmt: skip


def _comparisons(
    claim: int, endpoint: EndpointBootstrap, references: Sequence[str] = (), min_families: int = 0
) -> pd.DataFrame:
    """Rows of every TX method against the CP-only methods and itself under its controls.

    With `min_families` the difference of an endpoint with families is that of its `min_families`-th best family.
    """
    tested = tested_families(endpoint.families)
    roles = dict.fromkeys(CP_ONLY, "CP-only") | dict.fromkeys(references, "reference")
    rows, values = [], endpoint.values
    for method in [method for method, control in values if control == "true_pairs"]:
        own = (method, "true_pairs")
        others = {name: (name, "") for name in CP_ONLY} | {name: (method, name) for name in TX_CONTROLS}
        for name, other in [(name, key) for name, key in others.items() if key in values]:
            if len(tested) >= min_families > 0:
                found = at_least([one.difference(own, other) for one in tested], min_families)
            else:
                found = summarise_bootstrap(endpoint.difference(own, other))
            rows.append({
                "claim": claim, "endpoint": endpoint.endpoint, "method": method, "reference": name,
                "role": "control" if name in TX_CONTROLS else roles[name], **asdict(found), "n_units": endpoint.n_units,
                "value_method": float(values[own][0]), "value_reference": float(values[other][0]),
            })  # fmt: skip
    table = pd.DataFrame(rows, columns=None if rows else CLAIM_COLUMNS)
    return table.assign(p_adjusted=benjamini_hochberg(table["p_value"]))


def _family_comparisons(claim: int, endpoint: EndpointBootstrap) -> pd.DataFrame:
    """Rows of single target families; those that aren't tested have a reason and no p."""
    if not endpoint.families:
        return pd.DataFrame(columns=CLAIM_COLUMNS)
    table = pd.concat([_comparisons(claim, one) for one in endpoint.families.values()], ignore_index=True)
    tested = table["endpoint"].isin([one.endpoint for one in tested_families(endpoint.families)])
    few = f"fewer than {MIN_TASKS_PER_FAMILY} tasks: shown, not tested"
    why = np.where(table["endpoint"].str.endswith(":other"), "no known family: shown, not tested", few)
    table = table.assign(reason=pd.Series(why).mask(tested), p_value=table["p_value"].where(tested))
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
        for key in [key for key in one.values if key[1] != "pairing"]:
            reference = (key[0], "deranged") if versus == "deranged" else versus
            is_compared = key[1] == "true_pairs" if versus == "deranged" else key != versus
            if versus is None:
                distribution = one.values[key]
            elif is_compared and reference in one.values:
                distribution = one.difference(key, reference)
            else:
                continue
            found = summarise_bootstrap(distribution)
            rows.append((one.endpoint, *key, found.effect, found.ci_low, found.ci_high, one.n_units))
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
    return same.merge(own, on=["quantity", "of"])[[*published.columns[:-2], "here", "total_here", "source", "doi"]]


def assay_counts(auc: pd.DataFrame) -> pd.DataFrame:
    """How many assays exceed a ROC-AUC (``method, task, roc_auc``) of 0.9 and of 0.7 by raw CP, by TX, and by TX alone.

    What Moshkov 2023 counted, as :func:`beside_published` takes it; empty where nothing was measured.
    """
    wide = auc.pivot_table("roc_auc", "task", "method", dropna=False).reindex(columns=["raw_cp", "tx"])
    rows = []
    for threshold in (0.9, 0.7) if len(wide) else ():
        cp, tx = wide["raw_cp"] > threshold, wide["tx"] > threshold
        for name, above in (("CP", cp), ("TX", tx), ("TX but not CP", tx & ~cp)):
            rows.append((f"assays with ROC-AUC > {threshold}", name, int(above.sum()), len(wide)))
    return pd.DataFrame(rows, columns=["quantity", "of", "here", "total_here"])
