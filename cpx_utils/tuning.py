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
CHOICE_COLUMNS = ["candidate", "score", "value", "standard_error", "n_compounds", "chosen"]


@dataclass(frozen=True)
class Choice:
    """The winner of a grid, and what every candidate scored.

    Attributes
    ----------
    parameters : dict
        Of the winner, for `set_params`.
    table : DataFrame
        One row a candidate: `candidate` (its parameters in words), `score` (which one), `value`, `standard_error`,
        `n_compounds` (both over held-out training compounds) and `chosen`.
    """

    parameters: dict[str, Any]
    table: pd.DataFrame


def candidates(grid: dict[str, list]) -> list[dict[str, Any]]:
    """Every combination of a grid's values; the last parameter changes fastest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


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
    n_splits: int = 2,
    seed: int = 0,
) -> Choice:
    """Choose among a grid's candidates on a fold's training compounds.

    Parameters
    ----------
    encoder
        Unfitted; it is cloned for every fit. An ensemble is scored by one of its members.
    grid
        Values to try for each parameter; with a single candidate nothing is fitted.
    prepared
        The fold (`cpx_utils.crossfit.PreparedFold`). Features stay prepared as they are, on all training compounds:
        scaling and selection know neither pairs nor replicates.
    score
        `retrieval`: mean rank of the own TX profile among those of the held-out compounds, 0 the nearest and 1 the
        farthest. `replicates`: mean average precision of held-out compounds' replicates, for methods without TX.
    n_splits
        Parts the training compounds are split into, by compound group; each is held out once, and the scores of all
        compounds are averaged.
    seed
        Of the split, together with the fold's number.

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
    options = candidates(grid)
    values: list[list[float]] = [[] for _ in options]
    if len(options) > 1:
        for training, held_out in inner_splits(prepared, n_splits, seed):
            for parameters, scores in zip(options, values, strict=True):
                single = {"n_members": 1} if "n_members" in encoder.get_params() else {}
                fitted = fit_wells(clone(encoder).set_params(**single | parameters), prepared, training)
                scores.extend(_scores(fitted, prepared, held_out, score))
    rows = [(in_words(parameters), score, *_summary(one)) for parameters, one in zip(options, values, strict=True)]
    table = pd.DataFrame(rows, columns=CHOICE_COLUMNS[:-1])
    sign = 1 if BEST[score] == "lowest" else -1
    winner = int(np.argmin((sign * table["value"]).fillna(np.inf)))
    table["chosen"] = np.arange(len(table)) == winner
    return Choice(options[winner], table)


def inner_splits(prepared, n_splits: int, seed: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Split a fold's training wells again, by compound group: boolean rows (n_wells,) to train on and to hold out."""
    names, group = np.unique(prepared.groups[prepared.is_training].astype(str), return_inverse=True)
    rng = np.random.default_rng([seed, prepared.repeat, prepared.fold + 1, len(names)])
    part = rng.permutation(len(names)) % min(n_splits, len(names))
    for number in range(part.max() + 1):
        training, held_out = (np.zeros(len(prepared.is_training), dtype=bool) for _ in range(2))
        held_out[prepared.is_training] = part[group] == number
        training[prepared.is_training] = part[group] != number
        yield training, held_out


def fit_wells(encoder: Encoder, prepared, rows: np.ndarray, tx: np.ndarray | None = None) -> Encoder:
    """Fit an encoder on some wells of a fold, boolean `rows` (n_wells,); `tx` (n_rows, n_genes) or their own TX."""
    if tx is None and encoder.uses_tx:
        tx = prepared.tx[prepared.partner[rows]]
    return encoder.name_features(prepared.preparation.features_).fit(
        prepared.cp[rows],
        tx if encoder.uses_tx else None,
        groups=prepared.groups[rows],
        controls=prepared.controls,
    )


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
