"""Choose an encoder's parameters inside the training compounds of a fold, from one small grid that is written down.

A default that was chosen while looking at test compounds makes every test afterwards too kind. Here each fold chooses
for itself: its training compounds are split again, every candidate is fitted on one part of them and scored on the
other, and the winner is then fitted on all of them. Test compounds take no part: neither their CP, nor their TX, nor
their labels. The score asks what any screen can answer, whatever it knows of mechanisms or assays: does a compound
find its own TX profile, or do replicates find each other?

Candidates are scored on true pairs only, and every control of the fold takes over the choice. So true and deranged
pairs differ in nothing but the pairs. What would suit deranged pairs best is not looked for; where TX knows nothing,
scores on true pairs are noise, and so is the choice, which then favours neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from cpx_utils.clustering import replicate_clustering
from cpx_utils.encoders import Encoder
from cpx_utils.metrics import retrieval_rank
from cpx_utils.preprocessing import consensus
from cpx_utils.profiles import COMPOUND, CONTROL, ScreenError

BEST = {"retrieval": "lowest", "replicates": "highest"}
ENOUGH_SCORES = 500  # held-out compounds after which no further part is held out: the mean rank is known to 0.01
CHOICE_COLUMNS = ["candidate", "parameters", "score", "value", "standard_error", "n_compounds", "chosen"]


@dataclass(frozen=True)
class Choice:
    """The winner of a grid, and what every candidate scored.

    Attributes
    ----------
    parameters : dict
        Of the winner, for `set_params`.
    table : DataFrame
        One row a candidate: `candidate` (its parameters in words), `parameters` (in JSON), `score` (which one),
        `value`, `standard_error`, `n_compounds` (both over held-out training compounds) and `chosen`.
    """

    parameters: dict[str, Any]
    table: pd.DataFrame


def candidates(grid: dict[str, list], n_candidates: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Combinations of a grid's values.

    Parameters
    ----------
    grid
        Values to try for each parameter.
    n_candidates
        How many combinations to draw where there are more; 0 takes them all, the last parameter changing fastest. They
        are drawn as a Latin hypercube, so that every value of a parameter is tried equally often, up to one (McKay
        1979): with several parameters that covers a grid better than fewer values of each would (Bergstra 2012).
    seed
        Of the draw.

    Returns
    -------
    list of dict
    """
    every = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if not 0 < n_candidates < len(every):
        return every
    rng = np.random.default_rng([seed, n_candidates])
    columns = [rng.permutation(np.resize(np.arange(len(values)), n_candidates)) for values in grid.values()]
    drawn = dict.fromkeys(zip(*columns, strict=True))  # the same combination twice is tried once
    return [{name: grid[name][at] for name, at in zip(grid, places, strict=True)} for places in sorted(drawn)]


def in_words(parameters: dict[str, Any]) -> str:
    """Name a candidate, such as ``temperature=0.3, input_noise=1``."""
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in parameters.items()
    )


def choose(
    encoder: Encoder,
    grid: dict[str, list],
    prepared,
    *,
    score: str = "retrieval",
    n_candidates: int = 0,
    n_splits: int = 3,
    max_groups: int = 1500,
    seed: int = 0,
) -> Choice:
    """Choose among a grid's candidates on a fold's training compounds.

    Parameters
    ----------
    encoder
        Unfitted; it is cloned for every fit. An ensemble is scored by one of its members.
    grid, n_candidates
        Values to try for each parameter, and how many combinations of them (`candidates`). Where some are drawn, one
        more is tried: the combination of `main_effects`. With a single candidate nothing is fitted.
    prepared
        The fold (`cpx_utils.crossfit.PreparedFold`). Features stay prepared as they are, on all training compounds:
        scaling and selection know neither pairs nor replicates.
    score
        `retrieval`: mean rank of the own TX profile among those of the held-out compounds, 0 the nearest and 1 the
        farthest. `replicates`: mean average precision of held-out compounds' replicates, for methods without TX.
    n_splits
        Parts the training compounds are split into, by compound group; each is held out once, and the scores of all
        compounds are averaged. On large screens the first parts do, with 500 compounds or more.
    max_groups
        Most compound groups that take part, drawn at random: on large screens that many tell candidates apart, and
        the choice stays quick.
    seed
        Of the candidates, and of the split together with the fold's number. All folds try the same candidates.

    Returns
    -------
    Choice
        The best candidate, the first one of equals; the first one too where nothing can be scored.

    Raises
    ------
    ScreenError
        When the grid names a parameter that the encoder doesn't have, the score is unknown or asks for TX codes of an
        encoder that has none, or when a candidate cannot be fitted.
    """
    if score not in BEST:
        raise ScreenError(f"score {score!r} is unknown: choose one of {', '.join(BEST)}")
    if score == "retrieval" and not encoder.cross_modal:
        raise ScreenError(f"{type(encoder).__name__} gives TX profiles no codes; choose by replicates instead")
    unknown = [name for name in grid if name not in encoder.get_params()]
    if unknown:
        raise ScreenError(f"{type(encoder).__name__} has no parameter {unknown[0]!r} to choose")
    options = candidates(grid, n_candidates, seed)
    parts = _enough(prepared, list(inner_splits(prepared, n_splits, seed, max_groups)))
    values = _held_out_scores(encoder, options, prepared, parts, score) if len(options) > 1 else [[]]
    sign = 1 if BEST[score] == "lowest" else -1
    if 1 < len(options) < len(candidates(grid)):
        best = main_effects(options, [sign * np.nanmean(one) if len(one) else np.nan for one in values])
        if best not in options:
            options.append(best)
            values += _held_out_scores(encoder, [best], prepared, parts, score)
    rows = [
        (in_words(parameters), json.dumps(parameters), score, *_summary(one))
        for parameters, one in zip(options, values, strict=True)
    ]
    table = pd.DataFrame(rows, columns=CHOICE_COLUMNS[:-1])
    winner = int(np.argmin((sign * table["value"]).fillna(np.inf)))
    table["chosen"] = np.arange(len(table)) == winner
    return Choice(options[winner], table)


def main_effects(options: list[dict[str, Any]], scores: list[float]) -> dict[str, Any]:
    """Combine the values that did best on average, parameter by parameter.

    Where combinations are drawn, the best of each parameter's values seldom meet in one. As in a fractional factorial
    design, each value is judged by the mean score of the candidates that have it (Box, Hunter & Hunter 1978).

    Parameters
    ----------
    options
        The candidates.
    scores
        One each, the lower the better; NaN where nothing could be scored.

    Returns
    -------
    dict
        A combination of values that occur; the first of equals.
    """
    table = pd.DataFrame(options).assign(score=scores)
    combined = {}
    for name in options[0]:
        values = list(dict.fromkeys(one[name] for one in options))
        means = [table.loc[table[name] == value, "score"].mean() for value in values]
        combined[name] = values[int(np.argmin(np.nan_to_num(means, nan=np.inf)))]
    return combined


def _held_out_scores(encoder, options, prepared, parts, score):
    """For each of the options one value for each held-out compound, or treatment, of the inner splits."""
    single = {"n_members": 1} if "n_members" in encoder.get_params() else {}
    encoder = clone(encoder).set_params(**single).name_features(prepared.preparation.features_)
    wells = [training_wells(encoder, prepared, training) for training, _ in parts]
    values = []
    for fitted in encoder.fit_parts(wells, options):
        scores = [_scores(one, prepared, held_out, score) for one, (_, held_out) in zip(fitted, parts, strict=True)]
        values.append(np.concatenate(scores) if scores else [])
    return values


def _enough(prepared, parts):
    """The first of the inner splits, so many that `ENOUGH_SCORES` compounds are held out."""
    n_compounds = [prepared.cp_wells[COMPOUND][held_out].nunique() for _, held_out in parts]
    return parts[: int(np.searchsorted(np.cumsum(n_compounds), ENOUGH_SCORES)) + 1]


def inner_splits(prepared, n_splits: int, seed: int, max_groups: int = 1500) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Split a fold's training wells again, by compound group: boolean rows (n_wells,) to train on and to hold out.

    Of more than `max_groups` groups, so many take part, drawn at random.
    """
    names, group = np.unique(prepared.groups[prepared.is_training].astype(str), return_inverse=True)
    rng = np.random.default_rng([seed, prepared.repeat, prepared.fold + 1, len(names)])
    order = rng.permutation(len(names))
    part = np.where(order < max_groups, order % min(n_splits, len(names)), -1)
    for number in range(part.max() + 1):
        training, held_out = (np.zeros(len(prepared.is_training), dtype=bool) for _ in range(2))
        held_out[prepared.is_training] = part[group] == number
        training[prepared.is_training] = (part[group] != number) & (part[group] >= 0)
        yield training, held_out


def fit_wells(encoder: Encoder, prepared, rows: np.ndarray, tx: np.ndarray | None = None) -> Encoder:
    """Fit an encoder on some wells of a fold, boolean `rows` (n_wells,); `tx` (n_rows, n_genes) or their own TX."""
    encoder = encoder.name_features(prepared.preparation.features_)
    return encoder.fit(**training_wells(encoder, prepared, rows, tx))


def training_wells(
    encoder: Encoder, prepared, rows: np.ndarray, tx: np.ndarray | None = None
) -> dict[str, np.ndarray | None]:
    """What `Encoder.fit` takes, of some wells of a fold as in `fit_wells`."""
    if tx is None and encoder.uses_tx:
        tx = prepared.tx[prepared.partner[rows]]
    return {
        "cp": prepared.cp[rows],
        "tx": tx if encoder.uses_tx else None,
        "groups": prepared.groups[rows],
        "controls": prepared.controls,
    }


def paired_codes(
    encoder: Encoder, prepared, rows: np.ndarray, codes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CP and TX consensus codes of the compounds of some wells, in the space that both share.

    Parameters
    ----------
    encoder
        A fitted cross-modal encoder.
    prepared, rows
        The fold, and boolean rows (n_wells,) of wells with a TX partner.
    codes
        `encoder.transform(prepared.cp[rows])`, where it is known already.

    Returns
    -------
    compounds, cp, tx
        Ids (n_compounds,), and codes, each (n_compounds, n_dimensions).
    """
    codes = encoder.transform(prepared.cp[rows]) if codes is None else codes
    metadata, cp = consensus(prepared.cp_wells[rows], codes, by="compound")
    own = prepared.tx_treatments[COMPOUND].isin(metadata[COMPOUND]).to_numpy()
    treated = prepared.tx_treatments[own].assign(**{CONTROL: False})
    _, tx = consensus(treated, encoder.transform_tx(prepared.tx[own]), by="compound")
    return metadata[COMPOUND].to_numpy(), cp, tx


def _scores(encoder, prepared, held_out, score):
    """One value for each held-out compound, or treatment."""
    if score == "retrieval":
        _, cp, tx = paired_codes(encoder, prepared, held_out)
        return retrieval_rank(cp, tx) / max(len(cp) - 1, 1)
    rows = held_out | prepared.cp_wells[CONTROL].to_numpy(bool)
    table = replicate_clustering(prepared.cp_wells[rows].reset_index(drop=True), encoder.transform(prepared.cp[rows]))
    return table["replicate_map"].to_numpy()


def _summary(values):
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return np.nan, np.nan, len(known)
    return known.mean(), known.std(ddof=1) / np.sqrt(len(known)), len(known)
