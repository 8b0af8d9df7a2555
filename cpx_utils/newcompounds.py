"""What the study says about compounds it has never met: nearest mechanisms and predicted activities."""

import numpy as np
import pandas as pd

from cpx_utils.bioactivity import ManyTaskRidgeClassifier
from cpx_utils.encoders import Encoder
from cpx_utils.metrics import cosine_similarity
from cpx_utils.preprocessing import FeaturePreparation, consensus
from cpx_utils.profiles import COMPOUND, CONTROL, feature_columns


def embed_compounds(
    wells: pd.DataFrame, preparation: FeaturePreparation, encoder: Encoder
) -> tuple[pd.DataFrame, np.ndarray]:
    """One embedding a compound from plate-normalised CP wells.

    Parameters
    ----------
    wells
        Metadata and features, with at least the features that `preparation` was fitted on.
    preparation, encoder
        As saved together by the study.

    Returns
    -------
    compounds, codes
        Metadata_Compound; and codes (n_compounds, d), measured from the wells' own negative controls, or from their
        mean where there are none.
    """
    codes = encoder.transform(preparation.transform(wells[feature_columns(wells)]))
    control = wells[CONTROL].to_numpy(bool)
    codes = codes - (codes[control] if control.any() else codes).mean(axis=0)
    metadata, averages = consensus(wells, codes, by="compound")
    return metadata[[COMPOUND]], averages


def nearest_mechanisms(
    new: pd.DataFrame,
    new_codes: np.ndarray,
    library: pd.DataFrame,
    library_codes: np.ndarray,
    *,
    n_neighbours: int = 3,
) -> pd.DataFrame:
    """Rank the mechanisms of action of a library by how close their compounds lie to each new compound.

    Parameters
    ----------
    new, library
        Compounds: Metadata_Compound, and for the library MoA (lists).
    new_codes, library_codes
        Their consensus embeddings, centred on negative controls, (n_new, d) and (n_library, d).
    n_neighbours
        A mechanism's score is the mean cosine similarity of its so many nearest compounds (all, if it has fewer).

    Returns
    -------
    DataFrame
        One row a new compound and mechanism: `compound`, `rank` (1 = best), `mechanism`, `score`, `n_compounds` of the
        mechanism, `nearest` (its nearest compound), `chance`: the share of library compounds *without* this mechanism
        that score at least as high for it. A small share says that few unrelated compounds look this much alike.
    """
    similarity = cosine_similarity(new_codes, library_codes)  # (n_new, n_library)
    within = cosine_similarity(library_codes)
    np.fill_diagonal(within, -np.inf)
    members: dict[str, list[int]] = {}
    for row, names in enumerate(library["MoA"]):
        for name in names:
            members.setdefault(name, []).append(row)
    ids = library[COMPOUND].to_numpy()
    tables = []
    for mechanism, rows in sorted(members.items()):
        top = min(n_neighbours, len(rows))
        score = np.sort(similarity[:, rows], axis=1)[:, -top:].mean(axis=1)
        others = np.setdiff1d(np.arange(len(library)), rows)
        null = np.sort(np.sort(within[np.ix_(others, rows)], axis=1)[:, -top:].mean(axis=1))
        tables.append(pd.DataFrame({
            "compound": new[COMPOUND].to_numpy(),
            "mechanism": mechanism,
            "score": score,
            "n_compounds": len(rows),
            "nearest": ids[np.asarray(rows)[similarity[:, rows].argmax(axis=1)]],
            "chance": 1 - np.searchsorted(null, score, side="left") / max(len(null), 1),
        }))  # fmt: skip
    if not tables:
        columns = ["compound", "rank", "mechanism", "score", "n_compounds", "nearest", "chance"]
        return pd.DataFrame(columns=columns)
    table = pd.concat(tables, ignore_index=True)
    rank = table.groupby("compound", sort=False)["score"].rank(ascending=False, method="first").astype(int)
    table.insert(1, "rank", rank)
    return table.sort_values(["compound", "rank"], ignore_index=True)


def is_known_mechanism(ranked: pd.DataFrame, compounds: pd.DataFrame) -> list[bool]:
    """For each row of `nearest_mechanisms`: is it a mechanism that the compound is annotated with?"""
    known = compounds.set_index(COMPOUND)["MoA"]
    pairs = zip(ranked["compound"], ranked["mechanism"], strict=True)
    return [mechanism in list(known.get(compound, [])) for compound, mechanism in pairs]


def mechanisms_found(ranked: pd.DataFrame, compounds: pd.DataFrame, within: int) -> pd.DataFrame:
    """For new compounds whose mechanism is known: whether it is among the first `within`, and the chance of that.

    Parameters
    ----------
    ranked
        From `nearest_mechanisms`.
    compounds
        Metadata_Compound and MoA (lists) of the new compounds.
    within
        Number of first ranks that count as found.

    Returns
    -------
    DataFrame
        One row a compound whose MoA the library holds: `compound`, `best_rank`, `found` (0, 1), `chance`.
    """
    known = compounds.set_index(COMPOUND)["MoA"]
    rows = []
    for compound, table in ranked.groupby("compound", sort=False):
        own = table[table["mechanism"].isin(list(known.get(compound, [])))]
        if len(own):
            # Chance that none of `len(own)` mechanisms is among the first `within` of all, drawn without replacement.
            misses = np.arange(len(own))
            none = np.prod(np.clip((len(table) - within - misses) / (len(table) - misses), 0, 1))
            rows.append((compound, own["rank"].min(), float(own["rank"].min() <= within), 1 - none))
    return pd.DataFrame(rows, columns=["compound", "best_rank", "found", "chance"])


def predict_activities(codes: np.ndarray, labels: pd.DataFrame, new_codes: np.ndarray) -> pd.DataFrame:
    """Probability that each new compound is active in each task.

    Parameters
    ----------
    codes
        Consensus embeddings of the library's compounds (n_library, d).
    labels
        Their labels (n_library, n_tasks): 1, 0 or NaN.
    new_codes
        Embeddings of the new compounds (n_new, d).

    Returns
    -------
    DataFrame (n_new, n_tasks)
        Probabilities: the linear scores through a logistic curve that was fitted on leave-one-out scores, so that an
        uninformative model says the share of actives and no more.

    References
    ----------
    Platt 1999, "Probabilistic outputs for support vector machines".
    """
    from sklearn.linear_model import LogisticRegression

    model = ManyTaskRidgeClassifier().fit(codes, labels.to_numpy(float))
    scores = model.decision_function(new_codes)
    probabilities = np.full(scores.shape, np.nan)
    for column in range(scores.shape[1]):
        outcome = labels.iloc[:, column].to_numpy(float)
        known = ~np.isnan(outcome) & np.isfinite(model.loo_scores_[:, column])
        if len(np.unique(outcome[known])) == 2:
            curve = LogisticRegression().fit(model.loo_scores_[known, column : column + 1], outcome[known])
            probabilities[:, column] = curve.predict_proba(scores[:, column : column + 1])[:, 1]
    return pd.DataFrame(probabilities, columns=labels.columns)
