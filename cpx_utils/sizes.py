"""How much paired data does it take? The study's endpoints with ever fewer training pairs.

TX is what is expensive, so the question that a screening group asks first is how many compounds need it. Encoders are
fitted on a share of a fold's training compounds, and everything else stays: the test compounds, the features, and the
labels that assays are learned from.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.base import clone

from cpx_utils import bioactivity, clustering, crossfit, executors
from cpx_utils.claims import intervals
from cpx_utils.encoders import Encoder
from cpx_utils.profiles import compound_groups

ENDPOINTS = ("replicate_map", "moa_map", "roc_auc")


def fewer_pairs(prepared: crossfit.PreparedFold, share: float, seed: int) -> crossfit.PreparedFold:
    """The fold with a random share of its training compounds; larger shares of a seed hold the smaller ones.

    Parameters
    ----------
    prepared
        A fold.
    share
        Of the training compounds (groups), above 0 and up to 1; at least two compounds stay.
    seed
        Of the order in which compounds are taken.

    Returns
    -------
    PreparedFold
        The same wells; `is_training` and `tx_is_training` are True for fewer of them.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of the training compounds lies above 0 and up to 1, not at {share:g}")
    names = np.unique(prepared.groups[prepared.is_training].astype(str))
    order = np.random.default_rng([seed, prepared.repeat, prepared.fold + 1]).permutation(len(names))
    kept = set(names[order[: max(2, round(share * len(names)))]])
    is_training = prepared.is_training & np.isin(prepared.groups.astype(str), list(kept))
    partners = np.unique(prepared.partner[is_training])
    tx_is_training = prepared.tx_is_training & np.isin(np.arange(len(prepared.tx)), partners)
    return replace(prepared, is_training=is_training, tx_is_training=tx_is_training)


def data_size_curve(
    encoders: dict[str, dict[str, Encoder]],
    folds: list[crossfit.PreparedFold],
    compounds: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    shares: list[float],
    replicates: bool = True,
    seed: int = 0,
    n_bootstrap: int = 500,
    whole: dict[str, Mapping[str, pd.DataFrame]] | None = None,
) -> pd.DataFrame:
    """Replicate mAP, MoA mAP and mean ROC-AUC of unseen compounds by the number of training pairs.

    Parameters
    ----------
    encoders
        By method, an unfitted encoder for each fold's name; cloned for every fit. Methods with TX are fitted on true
        and on deranged pairs.
    folds
        From `prepare_folds`, each with test compounds.
    compounds
        Metadata_Compound, MoA (lists), InChIKey14.
    labels
        Of the tasks to predict (n_compounds, n_tasks), from `bioactivity.label_matrix`; may have no columns.
    shares
        Of the training compounds that an encoder may see.
    replicates
        Whether the screen has replicates to cluster.
    seed
        Of the order of compounds and of the derangement.
    n_bootstrap
        Resamples of compound groups (tasks for ROC-AUC) behind each interval.
    whole
        `wells` and `consensus`: embeddings of these folds by method, trained on all compounds (first draws). With them
        nothing is fitted again for a share of 1, and the curve ends where the study is.

    Returns
    -------
    DataFrame
        `method, control, share, n_compounds` (training compounds, mean over folds), `endpoint, mean, ci_low, ci_high,
        n_units`. A method that cannot be fitted on so few compounds has no row for that share.
    """
    parts: dict[str, list] = {name: [] for name in ENDPOINTS}
    sizes = []
    for share in shares:
        smaller = [fewer_pairs(prepared, share, seed) for prepared in folds]
        n_compounds = np.mean([len(np.unique(one.groups[one.is_training].astype(str))) for one in smaller])
        sizes.append((share, round(float(n_compounds))))
        for method, by_fold in encoders.items():
            if share == 1 and whole is not None:
                tables = [(whole["wells"][method], whole["consensus"][method])]
            else:
                tables = [found for one in smaller for found in _fitted(method, by_fold[one.name], one, seed)]
            for wells, consensus in tables:
                for name, table in _measured(wells, consensus, compounds, labels, replicates).items():
                    parts[name].append(table.assign(share=share))
    by_group = {"groups": compound_groups(compounds)}
    units = {"replicate_map": by_group, "moa_map": by_group, "roc_auc": {"unit": "task"}}
    options = {"n_bootstrap": n_bootstrap, "seed": seed}
    tables = [
        intervals(part, name, **unit, **options).assign(share=share, endpoint=name)
        for name, unit in units.items()
        if parts[name]
        for share, part in pd.concat(parts[name]).groupby("share")
    ]
    columns = ["method", "control", "share", "n_compounds", "endpoint", "mean", "ci_low", "ci_high", "n_units"]
    if not tables:
        return pd.DataFrame(columns=columns)
    table = pd.concat(tables, ignore_index=True)
    table["n_compounds"] = table["share"].map(dict(sizes))
    return table[columns]


def _fitted(method, encoder, prepared, seed):
    """Embeddings of wells and of compounds, of an encoder fitted on a fold; none where it cannot be fitted."""
    results, _ = crossfit.crossfit_all(
        {method: clone(encoder)}, [prepared], {"true_pairs": 1, "deranged": 1}, first_seed=seed,
        progress=False, executor=executors.Serial(),  # too little at a time to send it anywhere
    )  # fmt: skip
    return [(result.wells, result.consensus) for result in results.values()]


def _measured(wells, consensus, compounds, labels, replicates):
    """Values of each endpoint by compound (task for ROC-AUC), for those that can be measured."""
    found = {}
    if replicates:
        found["replicate_map"] = clustering.replicate_clustering_by_fold(wells)
    moa, _ = clustering.moa_clustering_by_fold(consensus, compounds)
    found["moa_map"] = moa.rename(columns={"average_precision": "moa_map"})
    if len(labels.columns):
        values = bioactivity.evaluate_folds(bioactivity.predict_folds(consensus, labels))
        found["roc_auc"] = values[values["metric"] == "roc_auc"].rename(columns={"value": "roc_auc"})
    return {name: table for name, table in found.items() if len(table)}
