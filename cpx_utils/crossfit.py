"""Fit a method on every fold, on true and on deranged pairs, and embed the compounds it never saw.

This is where the strict regime is kept: everything below is fitted on a fold's training compounds, and the test
compounds enter through `transform` only. Notebooks 02, 03 and 04 call the same functions with other methods; 06
distils, and 07 draws the data-size curve.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from cpx_utils import bioactivity, clustering, splits
from cpx_utils.claims import intervals
from cpx_utils.encoders import Encoder
from cpx_utils.metrics import retrieval_rank
from cpx_utils.preprocessing import FeaturePreparation, consensus, pair_rows
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    KEYS,
    METADATA_COLUMNS,
    PLATE,
    ScreenError,
    compound_groups,
    embedding_table,
    embedding_values,
    feature_columns,
)

# Append only: the place of a control here seeds its draws.
CONTROLS = ("true_pairs", "deranged", "rows_shuffled", "random_codes", "untrained", "deranged_in_plate")
# Most draws on other kinds of split than the first, which carries the verdicts: what attribution asks for.
DRAWS_ELSEWHERE = {"true_pairs": 3, "deranged": 2, "random_codes": 1}
# Of the curve: the unit of each endpoint, and the column that holds its values.
CURVE_ENDPOINTS = {
    "replicate_map": ("compound", "replicate_map"),
    "moa_map": ("compound", "average_precision"),
    "roc_auc": ("task", "value"),
}


@dataclass(frozen=True)
class PreparedFold:
    """One fold with its features prepared on training compounds; rows of CP are wells, rows of TX treatments.

    Attributes
    ----------
    split, repeat, fold
        Which fold it is; `fold` -1 trains on all compounds and tests on none.
    cp_wells, cp, tx_treatments, tx
        Metadata and prepared profiles: CP (n_wells, n_cp_features) of all wells, controls too, and the TX consensus of
        each treatment (n_treatments, n_genes).
    is_paired_training, is_training, is_test, tx_is_training : array of bool
        Wells of training compounds that have a TX partner, and all of theirs; wells of test compounds; treatments of
        training compounds.
    partner : array of int (n_wells,)
        Row of `tx` that belongs to each well, -1 for none.
    groups, tx_groups : array
        Compound group of each well and of each treatment (first InChIKey block, else the id).
    maps
        Plate map of each well (`splits.plate_maps`).
    preparation
        The fitted CP preparation, for saving beside the encoders.
    """

    split: str
    repeat: int
    fold: int
    cp_wells: pd.DataFrame
    cp: np.ndarray
    tx_treatments: pd.DataFrame
    tx: np.ndarray
    is_paired_training: np.ndarray
    is_training: np.ndarray
    is_test: np.ndarray
    partner: np.ndarray
    tx_is_training: np.ndarray
    groups: np.ndarray
    tx_groups: np.ndarray
    maps: np.ndarray
    preparation: FeaturePreparation

    @property
    def name(self) -> str:
        """Name of the fold in file paths."""
        return "all" if self.fold < 0 else f"{self.split}-{self.repeat}-{self.fold}"


def prepare_folds(
    cp: pd.DataFrame,
    tx: pd.DataFrame,
    compounds: pd.DataFrame,
    folds: pd.DataFrame,
    *,
    with_all: bool = False,
    **preparation: float,
) -> Iterator[PreparedFold]:
    """Yield each fold of the study, features prepared on its training compounds.

    Parameters
    ----------
    cp, tx
        Plate-normalised wells of both modalities.
    compounds, folds
        Compounds, and the fold of each in each repeat (`cpx_utils.splits.compound_folds`).
    with_all
        Whether to yield at last a fold -1 that trains on all compounds, for the encoders that meet new screens.
    **preparation
        Parameters of `FeaturePreparation` for CP. TX is standardised gene by gene and otherwise left as it is.

    Raises
    ------
    ScreenError
        Folds part what belongs together (`splits.require_apart`), or no training well has a TX partner.
    """
    splits.require_apart(folds, compounds)
    group_of = compound_groups(compounds)
    fold_of = {key: rows.set_index(COMPOUND)["fold"] for key, rows in folds.groupby(["split", "repeat"], sort=False)}
    keys = [(*key, fold) for key, folds_of in fold_of.items() for fold in sorted(folds_of.unique())]
    if with_all:
        keys.append((*keys[0][:2], -1))
    for split, repeat, fold in keys:
        key = (split, int(repeat), int(fold))
        yield _prepare(cp, tx, group_of, fold_of[split, repeat], key, preparation)


def fold_sizes(folds: list[PreparedFold]) -> pd.DataFrame:
    """What each fold trains and tests on: fold, training and test compounds and wells, CP features, genes."""
    rows = []
    for one in folds:
        training, test = (one.cp_wells.loc[part, COMPOUND] for part in (one.is_paired_training, one.is_test))
        compounds = {"training compounds": training.nunique(), "training wells": len(training)}
        compounds |= {"test compounds": test.nunique(), "test wells": len(test)}
        rows.append({"fold": one.name} | compounds | {"CP features": one.cp.shape[1], "genes": one.tx.shape[1]})
    return pd.DataFrame(rows)


def _prepare(cp, tx, group_of, fold_of, key, parameters):
    fold = key[2]

    def in_training(rows):
        own = rows[COMPOUND].map(fold_of)
        return (own.notna() & (own != fold)).to_numpy()

    treated = ~cp[CONTROL].to_numpy(bool)
    cp_training = treated & in_training(cp)
    preparation = FeaturePreparation(**parameters).fit(cp.loc[cp_training, feature_columns(cp)])

    tx = tx[~tx[CONTROL].to_numpy(bool)]
    tx_training, genes = in_training(tx), feature_columns(tx)
    tx_preparation = FeaturePreparation(max_correlation=1, tame_tails=False).fit(tx.loc[tx_training, genes])
    tx_treatments, tx_values = consensus(tx[METADATA_COLUMNS], tx_preparation.transform(tx))

    partner = pair_rows(cp[METADATA_COLUMNS], tx_treatments)
    if not (cp_training & (partner >= 0)).any():
        raise ScreenError(
            "no CP well has a TX profile of the same compound at the same dose to train on; doses (micromolar) must "
            "agree to three digits, or be left out of one table"
        )
    return PreparedFold(
        *key,
        cp_wells=cp[METADATA_COLUMNS],
        cp=preparation.transform(cp),
        tx_treatments=tx_treatments,
        tx=tx_values,
        is_paired_training=cp_training & (partner >= 0),
        is_training=cp_training,
        is_test=treated & (cp[COMPOUND].map(fold_of) == fold).to_numpy(),
        partner=partner,
        tx_is_training=in_training(tx_treatments),
        groups=cp[COMPOUND].map(group_of).fillna(cp[COMPOUND]).to_numpy(object),
        tx_groups=tx_treatments[COMPOUND].map(group_of).fillna(tx_treatments[COMPOUND]).to_numpy(object),
        maps=splits.plate_maps(cp[PLATE].to_numpy(), cp[COMPOUND].to_numpy(), treated),
        preparation=preparation,
    )


def training_tx(prepared: PreparedFold, control: str, seed: int) -> np.ndarray:
    """TX profile that each training well is paired with under a control: float32 (n_training_wells, n_genes).

    `true_pairs`; `deranged` (each compound gets all TX profiles of one other training compound, dose by dose, and none
    its own: what pairing teaches when TX knows nothing); `rows_shuffled` (rows permuted, replicates torn apart);
    `random_codes` (a random vector a compound); `untrained` (true pairs, for a network at initialisation);
    `deranged_in_plate` (deranged among compounds of one plate map: true pairs share plates, and deranged ones across
    maps don't, so a method that knows plates by both views beats those without knowing a compound). `seed` numbers the
    draw.
    """
    partner = prepared.partner[prepared.is_paired_training]
    rng = np.random.default_rng([seed, prepared.repeat, prepared.fold + 1, CONTROLS.index(control)])
    if control in ("deranged", "deranged_in_plate"):
        training = np.flatnonzero(prepared.tx_is_training)
        groups, doses = prepared.tx_groups[training].astype(str), prepared.tx_treatments[DOSE].to_numpy()[training]
        map_of = dict(zip(prepared.groups.astype(str), prepared.maps, strict=True))
        maps = np.array([map_of.get(name, -1) for name in groups]) if control == "deranged_in_plate" else None
        moved = np.arange(len(prepared.tx))
        moved[training] = training[splits.deranged_rows(groups, doses, rng, maps)]
        return prepared.tx[moved[partner]]
    if control == "rows_shuffled":
        return prepared.tx[partner[rng.permutation(len(partner))]]
    if control == "random_codes":
        _, compound = np.unique(prepared.groups[prepared.is_paired_training].astype(str), return_inverse=True)
        return rng.normal(size=(compound.max() + 1, prepared.tx.shape[1])).astype(np.float32)[compound]
    return prepared.tx[partner]


def fit_encoder(encoder: Encoder, prepared: PreparedFold, control: str = "true_pairs", seed: int = 0) -> Encoder:
    """Fit a clone of an encoder on a fold's training wells under one control, as `fit_draws` does."""
    return next(fit_draws(encoder, prepared, [(control, seed)]))


def fit_draws(encoder: Encoder, prepared: PreparedFold, draws: Sequence[tuple[str, int]]) -> Iterator[Encoder]:
    """Fit clones of an encoder on a fold's training wells, one a draw; what CP alone tells is learned once.

    A draw is a control and the seed of its pairs and of the encoder, where that has one. Wells that a method learns
    from are those with TX, or all of the training compounds where it needs no TX or takes wells without. Under the
    control `untrained` a network sees its inputs scaled and takes no training step. Raises ScreenError where the method
    can't be fitted.
    """
    half = clone(encoder)
    if hasattr(half, "name_features"):
        half.name_features(prepared.preparation.features_)
    rows = prepared.is_paired_training if half.uses_tx and not half.takes_unpaired else prepared.is_training
    cp, groups = prepared.cp[rows].astype(np.float64), prepared.groups[rows]
    half.fit_cp(cp, groups, prepared.cp[prepared.cp_wells[CONTROL].to_numpy(bool)])
    tx = np.full((len(rows), prepared.tx.shape[1]), np.nan, dtype=np.float32)
    for control, seed in draws:
        fitted = copy(half).set_params(**({"seed": seed} if "seed" in half.get_params() else {}))
        if control == "untrained":
            fitted.set_params(max_epochs=0)
        if half.uses_tx:
            tx[prepared.is_paired_training] = training_tx(prepared, control, seed)
        yield fitted.fit_tx(cp, tx[rows], groups, prepared.maps[rows])


# --- fitting --------------------------------------------------------------------------------------------------


@dataclass
class CrossfitResult:
    """What a method gives on all folds.

    Attributes
    ----------
    wells, consensus : DataFrame
        Embeddings of wells (test compounds, negative controls: metadata, `KEYS`, z000 ...), and of all compounds, wells
        averaged (Metadata_Compound, `role` train or test, `KEYS`, z000 ...).
    retrieval : DataFrame
        One row a test compound: `KEYS`, compound, rank (0 = its own TX profile is the nearest), n_candidates.
    history : DataFrame
        Training curves of networks (`KEYS`, epoch, training, validation).
    encoders : dict
        Encoders fitted on true pairs (draw 0), or on CP alone by methods without TX, by name of the fold.
    n_fits : int
        Number of encoders fitted.
    """

    wells: pd.DataFrame
    consensus: pd.DataFrame
    retrieval: pd.DataFrame
    history: pd.DataFrame
    encoders: dict[str, Encoder]
    n_fits: int

    @property
    def n_dimensions(self) -> int:
        """Length of the embedding."""
        return embedding_values(self.consensus.iloc[:0]).shape[1]


def crossfit_all(
    encoders: dict[str, Encoder],
    folds: list[PreparedFold],
    controls: dict[str, int],
    *,
    first_seed: int = 0,
    step: Callable = nullcontext,
    progress: bool = True,
) -> tuple[dict[str, CrossfitResult], dict[str, str]]:
    """Fit methods on every fold and control, and embed what they never saw.

    Fits are computed in this process, or on the Dask cluster that the environment variable CPX_SCHEDULER names, each
    on one thread. The results are the same.

    Parameters
    ----------
    encoders
        An unfitted encoder for each method; it is cloned for every fit, with a seed of its own where it has one.
    folds
        From `prepare_folds`.
    controls
        Draws of each control, such as ``{"true_pairs": 1, "deranged": 3}``; of no matter to methods without TX.
    first_seed
        Draw d uses the seed ``1000 * first_seed + d``, so that other seeds share no draw.
    step, progress
        Context manager that is entered with the name of each method's work, such as `Workspace.step`; and whether to
        show progress bars.

    Returns
    -------
    results, left_out
        By method: what it gives, or why it can't be fitted here.
        A parameter out of bounds, or a scheduler that doesn't answer, is a ScreenError.
    """
    from tqdm import tqdm

    client = cluster()
    handed = client.scatter(folds, hash=False) if client else folds
    work: dict[str, list] = {}
    for method, encoder in encoders.items():
        encoder.check_parameters()
        draws = [_draws(encoder, controls, prepared, folds) for prepared in folds]
        calls = [(method, encoder, *call, first_seed) for call in zip(handed, draws, strict=True)]
        work[method] = [client.submit(_fit_fold, *call, pure=False) for call in calls] if client else calls
    results, left_out = {}, {}
    for method in encoders:
        try:
            with step(f"fit {method}"):
                waiting = tqdm(work.pop(method), desc=method, disable=not progress, mininterval=2)
                made = [call.result() if client else _fit_fold(*call) for call in waiting]
        except ScreenError as error:
            left_out[method] = str(error)
            continue
        results[method] = _join(made, folds)
    return results, left_out


def _join(made, folds):
    """The result of a method from what `_fit_fold` gives for each of the folds."""
    tables = {}
    for name in ("wells", "consensus", "retrieval", "history"):
        parts = [table for fold in made for kind, table in fold["tables"] if kind == name]
        tables[name] = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    kept = {prepared.name: fold["encoder"] for prepared, fold in zip(folds, made, strict=True) if fold["encoder"]}
    return CrossfitResult(**tables, encoders=kept, n_fits=sum(fold["n_fits"] for fold in made))


def _draws(encoder, controls, prepared, folds):
    """Controls and draws to fit a method on in a fold: fewer where no verdict hangs on them."""
    if not encoder.uses_tx:
        return [("", 0)]
    if prepared.fold < 0:
        return [("true_pairs", 0)]
    most = controls if prepared.split == folds[0].split else DRAWS_ELSEWHERE
    can = {"untrained": "max_epochs" in encoder.get_params()}
    # On all folds or on none, so that claims find every control in each.
    can["deranged_in_plate"] = all(len(np.unique(one.maps[one.is_paired_training])) > 1 for one in folds)
    allowed = {
        control: min(number, most.get(control, 0)) for control, number in controls.items() if can.get(control, True)
    }
    return [(control, draw) for control, number in allowed.items() for draw in range(number)]


@cache
def cluster() -> Any:
    """The `distributed.Client` of the scheduler that CPX_SCHEDULER names, or None."""
    address = os.environ.get("CPX_SCHEDULER")
    return connect(address) if address else None


def connect(address: str) -> Any:
    """A `distributed.Client` of a scheduler, such as tcp://192.168.0.1:8786; ScreenError where none answers."""
    try:
        from distributed import Client

        return Client(address, timeout=5, set_as_default=False)
    except Exception as error:  # whatever answers at the address may be no scheduler at all
        raise ScreenError(
            f"no Dask scheduler answers at {address} ({error}); install Dask here and on every worker "
            "(pip install -e '.[dask]'), start `dask scheduler`, and give the address that it prints"
        ) from None


def _fit_fold(method, encoder, prepared, draws, first_seed):
    """Fit a method on a fold under each draw: its tables by kind, the encoder to keep, the number of fits."""
    from threadpoolctl import threadpool_limits

    tables, kept = [], None
    seeded = [(control or "true_pairs", 1000 * first_seed + draw) for control, draw in draws]
    with threadpool_limits(1):  # sums over threads round differently
        for (control, draw), fitted in zip(draws, fit_draws(encoder, prepared, seeded), strict=True):
            made = {"history": pd.DataFrame(fitted.history_)} if hasattr(fitted, "history_") else {}
            if prepared.fold >= 0:
                made |= _embed(fitted, prepared)
            key = (prepared.split, prepared.repeat, prepared.fold, draw, method, control)
            tables += [(kind, _keyed(table, key)) for kind, table in made.items()]
            kept = fitted if draw == 0 and control in ("", "true_pairs") else kept
    return {"tables": tables, "encoder": kept, "n_fits": len(draws)}


def _keyed(table, key):
    """A table with the values of `KEYS` behind its metadata."""
    metadata = [name for name in table.columns if str(name).startswith("Metadata_") or name == "role"]
    rest = [name for name in table.columns if name not in metadata]
    return table.assign(**dict(zip(KEYS, key, strict=True)))[[*metadata, *KEYS, *rest]]


def _embed(encoder, prepared):
    """Embeddings of a fold (wells, consensus), and the ranks of its test compounds' own TX profiles."""
    codes = encoder.transform(prepared.cp)
    control = prepared.cp_wells[CONTROL].to_numpy(bool)
    # Similarities are measured from the negative controls, or from the training mean where a screen has none.
    centred = codes - codes[control if control.any() else prepared.is_paired_training].mean(axis=0)
    shown = prepared.is_test | control
    wells = pd.concat([prepared.cp_wells[shown].reset_index(drop=True), embedding_table(centred[shown])], axis=1)
    metadata, averages = consensus(prepared.cp_wells, centred, by="compound")
    is_test = metadata[COMPOUND].isin(prepared.cp_wells.loc[prepared.is_test, COMPOUND])
    metadata = metadata[[COMPOUND]].assign(role=np.where(is_test, "test", "train"))
    compounds = pd.concat([metadata, embedding_table(averages)], axis=1)
    made = {"wells": wells, "consensus": compounds, "retrieval": pd.DataFrame()}
    if encoder.uses_tx:
        made["retrieval"] = _own_tx_ranks(prepared, *cross_modal_codes(encoder, prepared, codes=codes))
    return made


def _own_tx_ranks(prepared, names, cp, tx):
    """Rank of each test compound's own TX profile among those of all, and of the compounds of its plate map."""
    table = pd.DataFrame({"compound": names, "rank": retrieval_rank(cp, tx), "n_candidates": len(names)})
    map_of = dict(zip(prepared.cp_wells[COMPOUND], prepared.maps, strict=True))
    for rows in table.groupby(table["compound"].map(map_of)).indices.values():
        table.loc[rows, "rank_in_map"] = retrieval_rank(cp[rows], tx[rows])
        table.loc[rows, "n_in_map"] = len(rows)
    return table.astype({"rank_in_map": int, "n_in_map": int})


def cross_modal_codes(
    encoder: Encoder, prepared: PreparedFold, codes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, CP codes and TX codes (n_compounds, n_dimensions) of a fold's test compounds, both from consensus profiles.

    Parameters
    ----------
    encoder
        A fitted encoder that learned from TX.
    prepared
        The fold.
    codes
        `encoder.transform(prepared.cp)`, where it is known already.
    """
    rows = prepared.is_test & (prepared.partner >= 0)
    codes = encoder.transform(prepared.cp[rows]) if codes is None else codes[rows]
    metadata, cp = consensus(prepared.cp_wells[rows], codes, by="compound")
    own = prepared.tx_treatments[COMPOUND].isin(metadata[COMPOUND]).to_numpy()
    treated = prepared.tx_treatments[own].assign(**{CONTROL: False})
    _, tx = consensus(treated, encoder.transform_tx(prepared.tx[own]), by="compound")
    return metadata[COMPOUND].to_numpy(), cp, tx


# --- what notebooks make of it ----------------------------------------------------------------------------------


def method_table(
    results: dict[str, CrossfitResult], left_out: dict[str, str], oracles: dict[str, pd.DataFrame] | None = None
) -> pd.DataFrame:
    """Which representations a stage made: method, kind (CP only, with TX, oracle), dimensions, left_out (reason)."""
    rows = [
        (method, "with TX" if (result.consensus["control"] != "").any() else "CP only", result.n_dimensions, "")
        for method, result in results.items()
    ]
    rows += [(method, "oracle", embedding_values(table).shape[1], "") for method, table in (oracles or {}).items()]
    rows += [(method, "", 0, reason) for method, reason in left_out.items()]
    return pd.DataFrame(rows, columns=["method", "kind", "dimensions", "left_out"])


def oracle_consensus(
    folds: list[PreparedFold], with_cp: pd.DataFrame, encoders: Mapping[str, Encoder] | None = None
) -> dict[str, pd.DataFrame]:
    """What TX itself would give, were it measured for new compounds too: no ceiling, and never a competitor.

    Consensus tables `tx` (prepared TX profiles) and `cp_tx` (beside those of `with_cp`, the consensus table of a CP
    method, each scaled to the same total variance); or, with the `encoders` of folds, by name, only `tx_encoded`: TX
    profiles as their TX head embeds them. All but `tx` for the first fold's kind of split alone, since they are shown
    only.
    """
    parts, main, method = [], folds[0].split, "tx" if encoders is None else "tx_encoded"
    for prepared in folds:
        if prepared.fold < 0 or (encoders is not None and prepared.split != main):
            continue
        key = (prepared.split, prepared.repeat, prepared.fold, 0, method, "")
        metadata, tx = consensus(prepared.tx_treatments.assign(**{CONTROL: False}), prepared.tx, by="compound")
        role = bioactivity.rows_of(with_cp, KEYS[:3], key).set_index(COMPOUND)["role"]
        has_cp = metadata[COMPOUND].isin(role.index).to_numpy()
        table = metadata.loc[has_cp, [COMPOUND]].reset_index(drop=True)
        table["role"] = table[COMPOUND].map(role)
        values = tx[has_cp] if encoders is None else encoders[prepared.name].transform_tx(tx[has_cp])
        parts.append(_keyed(pd.concat([table, embedding_table(values)], axis=1), key))
    oracles = {method: pd.concat(parts, ignore_index=True)}
    if encoders is None:
        own = oracles["tx"][oracles["tx"]["split"] == main]
        cp = with_cp.merge(own[[COMPOUND, *KEYS[:3]]])
        oracles["cp_tx"] = bioactivity.concatenate(cp, own).assign(method="cp_tx")
    return oracles


def chemistry_consensus(with_cp: pd.DataFrame, compounds: pd.DataFrame) -> pd.DataFrame:
    """What structures alone tell, without any cells: ECFP4 fingerprints (Rogers 2010, doi 10.1021/ci100050t).

    A consensus table of the method `chemistry` with the rows of another method's, `with_cp`; 1,024 bits. A compound
    without a readable SMILES has none of them set: were it left out, claims would lose it for every method. Without any
    structure the table is empty.
    """
    from rdkit import RDLogger
    from rdkit.Chem import MolFromSmiles
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    RDLogger.DisableLog("rdApp.*")
    generator = GetMorganGenerator(radius=2, fpSize=1024)
    smiles = compounds.set_index(COMPOUND)["SMILES"].replace("", None).dropna()
    molecules = smiles.map(MolFromSmiles).dropna()
    bits = {name: generator.GetFingerprintAsNumPy(molecule) for name, molecule in molecules.items()}
    table = with_cp.head(len(with_cp) if bits else 0).reset_index(drop=True).assign(method="chemistry")
    nothing = np.zeros(1024)
    values = np.array([bits.get(name, nothing) for name in table[COMPOUND]], dtype=np.float32).reshape(-1, 1024)
    return pd.concat([table[[COMPOUND, "role", *KEYS]], embedding_table(values)], axis=1)


def save_encoders(result: CrossfitResult, folds: list[PreparedFold], folder) -> None:
    """Save a result's encoders, each beside the CP preparation of its fold: `folder/<fold>/`."""
    for prepared in folds:
        result.encoders[prepared.name].save(folder / prepared.name)
        prepared.preparation.save(folder / prepared.name / "preparation.json")


def distil_folds(
    student: pd.DataFrame,
    teacher: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    groups: pd.Series,
    n_derangements: int = 2,
    weight: float = 0.5,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict from CP alone with models that learned from labels and from a teacher who sees TX.

    The teacher scores each training compound by models of TX that were trained without it (and its group). The student
    learns from CP: of labelled compounds `weight` of the teacher's score and the rest of the label, of others the
    score. Distillation into privileged information (Lopez-Paz 2016, arXiv 1511.03643; Vapnik 2015). Under the control
    `deranged` each compound gets the teacher's score of another one.

    Parameters
    ----------
    student, teacher : DataFrame
        Consensus tables of a CP method and of `tx`, as `bioactivity.predict_folds` takes them.
    labels : DataFrame
        From `bioactivity.label_matrix`.
    groups : Series of groups by compound
    n_derangements, weight, seed
        Draws of the control; the teacher's share, from 0 to 1; and the seed of inner folds and derangements.

    Returns
    -------
    DataFrame
        As of `bioactivity.predict_folds`, method `distilled`.

    Failure mode: a teacher that knows no more than CP only repeats the labels, more softly.
    """
    tables = []
    for number, (key, part) in enumerate(student.groupby(KEYS, sort=False)):
        taught = part[part["role"] == "train"].sort_values(COMPOUND)
        seen = taught[[COMPOUND]].merge(bioactivity.rows_of(teacher, KEYS[:3], key), on=COMPOUND)
        names = seen[COMPOUND]
        outcome = labels.reindex(names).to_numpy(float)
        scores = np.zeros(outcome.shape)
        for held_out, decisions in bioactivity.held_out_scores(seen, outcome, groups, 5, seed):
            scores[held_out] = np.clip((decisions + 1) / 2, 0, 1)
        own, group = labels.reindex(taught[COMPOUND]), names.map(groups).fillna(names).to_numpy(str)
        rng = np.random.default_rng([seed, number])
        for control, draw in [("true_pairs", 0), *(("deranged", draw) for draw in range(n_derangements))]:
            partner = slice(None) if control == "true_pairs" else splits.deranged_rows(group, None, rng)
            soft = pd.DataFrame(scores[partner], index=names, columns=labels.columns)
            target = (own * (1 - weight) + soft.reindex(own.index) * weight).fillna(own).fillna(soft)
            fitted = bioactivity.ManyTaskRidgeClassifier().fit(embedding_values(taught), target.to_numpy(float))
            named = dict(zip(KEYS, (*key[:3], draw, "distilled", control), strict=True))
            tables.append(bioactivity.score_test(fitted, part, labels, named))
    return bioactivity.join_predictions(tables)


# --- how much paired data it takes ------------------------------------------------------------------------------


def fewer_pairs(prepared: PreparedFold, share: float, seed: int) -> PreparedFold:
    """The fold with TX for a random share of its training compounds, above 0 and up to 1, at least two.

    The same wells, and all training compounds keep their CP; `is_paired_training` and `tx_is_training` are True for
    fewer. Larger shares of a seed hold the smaller ones.
    """
    if not 0 < share <= 1:
        raise ScreenError(f"a share of the training compounds lies above 0 and up to 1, not at {share:g}")
    names = np.unique(prepared.groups[prepared.is_paired_training].astype(str))
    order = np.random.default_rng([seed, prepared.repeat, prepared.fold + 1]).permutation(len(names))
    kept = names[order[: max(2, round(share * len(names)))]]
    is_paired_training = prepared.is_paired_training & np.isin(prepared.groups.astype(str), kept)
    partners = np.unique(prepared.partner[is_paired_training])
    tx_is_training = prepared.tx_is_training & np.isin(np.arange(len(prepared.tx)), partners)
    return replace(prepared, is_paired_training=is_paired_training, tx_is_training=tx_is_training)


def data_size_curve(
    encoders: dict[str, Encoder],
    folds: list[PreparedFold],
    compounds: pd.DataFrame,
    labels: pd.DataFrame,
    whole: dict[str, Mapping[str, pd.DataFrame]],
    *,
    shares: list[float],
    replicates: bool = True,
    seed: int = 0,
    n_bootstrap: int = 500,
) -> pd.DataFrame:
    """Replicate mAP, MoA mAP and mean ROC-AUC of unseen compounds by the number of training pairs.

    Encoders are fitted with the TX of a share of a fold's training compounds; their CP, test compounds, features and
    assay labels stay, so methods without TX stay level.

    Parameters
    ----------
    encoders
        By method, an encoder whose parameters are taken. Methods with TX are fitted on true and on deranged pairs.
    folds, compounds, labels
        Folds with test compounds; Metadata_Compound, MoA (lists), InChIKey14; and labels of the tasks to predict from
        `bioactivity.label_matrix`, which may have no columns.
    whole
        `wells` and `consensus`: embeddings of these folds by method, trained on all compounds (first draws): what a
        share of 1 and methods without TX give.
    shares, replicates
        Of the training compounds that an encoder may see; whether the screen has replicates to cluster.
    seed, n_bootstrap
        Seed of the order of compounds and of the derangement; resamples of groups (tasks for ROC-AUC) an interval.

    Returns
    -------
    DataFrame
        `method, control, share, n_compounds` (training compounds, mean over folds), `endpoint, mean, ci_low, ci_high,
        n_units`. A method that cannot be fitted on so few compounds has no row for that share.
    """
    columns = ["method", "control", "share", "n_compounds", "endpoint", "mean", "ci_low", "ci_high", "n_units"]
    groups = {"compound": compound_groups(compounds), "task": None}
    tables_of: dict[str, list] = {endpoint: [] for endpoint in CURVE_ENDPOINTS}
    for share in sorted(shares):
        smaller = [fewer_pairs(prepared, share, seed) for prepared in folds]
        n_compounds = np.mean([len(np.unique(one.groups[one.is_paired_training].astype(str))) for one in smaller])
        refitted = {method: encoder for method, encoder in encoders.items() if encoder.uses_tx and share < 1}
        controls = {"true_pairs": 1, "deranged": 1}
        results, left_out = crossfit_all(refitted, smaller, controls, first_seed=seed, progress=False)
        measured = []
        for method in (name for name in encoders if name not in left_out):
            tables = vars(results[method]) if method in results else {kind: whole[kind][method] for kind in whole}
            measured.append(_endpoint_values(tables, replicates, compounds, labels))
        for endpoint, (unit, column) in CURVE_ENDPOINTS.items():
            values = [one[endpoint] for one in measured if len(one.get(endpoint, ()))]
            if values:
                options = {"unit": unit, "groups": groups[unit], "n_bootstrap": n_bootstrap, "seed": seed}
                table = intervals(pd.concat(values), column, **options)
                table = table.assign(share=share, endpoint=endpoint, n_compounds=round(float(n_compounds)))
                tables_of[endpoint].append(table[columns])
    curves = [table for tables in tables_of.values() for table in tables]
    return pd.concat(curves or [pd.DataFrame(columns=columns)], ignore_index=True)


def _endpoint_values(tables, replicates, compounds, labels):
    """Values of the curve's endpoints by unit, from a method's embeddings of `wells` and its `consensus`."""
    values = {"moa_map": clustering.moa_clustering_by_fold(tables["consensus"], compounds)[0]}
    if replicates:
        values["replicate_map"] = clustering.by_fold([tables["wells"]], clustering.replicate_clustering)
    if len(labels.columns):
        predictions = bioactivity.predict_folds(tables["consensus"], labels)
        values["roc_auc"] = bioactivity.evaluate_folds(predictions).query("metric == 'roc_auc'")
    return values
