"""Fit a method on every fold, on true and on deranged pairs, and embed the compounds it never saw.

This is where the strict regime is kept: everything below is fitted on a fold's training compounds, and the test
compounds enter through `transform` only. Notebooks 02, 03 and 04 call the same functions with other methods.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone

from cpx_utils import executors, splits, tuning
from cpx_utils.encoders import Encoder
from cpx_utils.metrics import retrieval_rank
from cpx_utils.preprocessing import FeaturePreparation, consensus, pair_rows
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    KEYS,
    METADATA_COLUMNS,
    ScreenError,
    compound_groups,
    embedding_table,
    embedding_values,
    feature_columns,
)

REGIMES = ("strict", "transductive")
CONTROLS = ("true_pairs", "deranged", "rows_shuffled", "random_codes", "untrained")
CENTRED = 1e-4  # largest mean of a feature on its own training wells; rounding leaves 1e-7
_WELL_ARRAYS = ("is_training", "is_test", "partner")  # of a PreparedFold, beside `groups` and `cp`


@dataclass(frozen=True)
class PreparedFold:
    """One fold with its features prepared on training compounds; rows of CP are wells, rows of TX treatments.

    Attributes
    ----------
    split, repeat, fold
        Which fold it is; `fold` -1 trains on all compounds and tests on none.
    cp_wells, cp
        Metadata and prepared CP profiles (n_wells, n_cp_features) of all compounds' wells and the negative controls.
    tx_treatments, tx
        Metadata and prepared TX consensus profiles (n_treatments, n_genes) of all compounds.
    is_training : array of bool (n_wells,)
        Wells of training compounds that have a TX partner.
    is_test : array of bool (n_wells,)
        Wells of test compounds.
    partner : array of int (n_wells,)
        Row of `tx` that belongs to each well, -1 for none.
    tx_is_training : array of bool (n_treatments,)
    groups : array (n_wells,)
        Compound group of each well (first InChIKey block, else the id).
    preparation
        The fitted CP preparation, for saving beside the encoders.
    regime
        `strict`: nothing is fitted on test compounds. `transductive`: what needs no TX is fitted on their CP too.
    """

    split: str
    repeat: int
    fold: int
    cp_wells: pd.DataFrame
    cp: np.ndarray
    tx_treatments: pd.DataFrame
    tx: np.ndarray
    is_training: np.ndarray
    is_test: np.ndarray
    partner: np.ndarray
    tx_is_training: np.ndarray
    groups: np.ndarray
    preparation: FeaturePreparation
    regime: str = "strict"

    @property
    def controls(self) -> np.ndarray:
        """Prepared CP profiles of the negative controls (n_controls, n_cp_features)."""
        return self.cp[self.cp_wells[CONTROL].to_numpy(bool)]

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
    regime: str = "strict",
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
    regime
        `strict`, the study's own: test compounds are absent from everything that is fitted. `transductive`: their CP
        (never TX or labels) takes part in what needs no TX: feature selection, scaling, sphering, components,
        discriminants. A screen that waits for all its plates could do so; a new plate next year could not.
    **preparation
        Parameters of `FeaturePreparation` for CP. TX is standardised gene by gene and otherwise left as it is.

    Raises
    ------
    ScreenError
        Folds part what belongs together (`splits.require_apart`), groups join different structures, features aren't
        centred on the training wells, or no training well has a TX partner.
    """
    if regime not in REGIMES:
        raise ScreenError(f"regime {regime!r} is unknown: choose one of {', '.join(REGIMES)}")
    splits.require_apart(folds, compounds)
    group_of = compound_groups(compounds)
    _require_compounds_as_groups(group_of, compounds)
    cases = list(folds.groupby(["split", "repeat"], sort=False))
    for (split, repeat), rows in cases:
        fold_of = rows.set_index(COMPOUND)["fold"]
        for fold in sorted(fold_of.unique()):
            yield _prepare(cp, tx, group_of, fold_of, (split, int(repeat), int(fold)), preparation, regime)
    if with_all:
        (split, repeat), rows = cases[0]
        yield _prepare(
            cp, tx, group_of, rows.set_index(COMPOUND)["fold"], (split, int(repeat), -1), preparation, regime
        )


def save_fold(prepared: PreparedFold, folder: Path) -> None:
    """Write a prepared fold into a folder, for workers that cannot be handed it in memory."""
    wells = prepared.cp_wells.assign(
        groups=prepared.groups.astype(str), **{name: getattr(prepared, name) for name in _WELL_ARRAYS}
    )
    wells.to_parquet(folder / "cp_wells.parquet")
    prepared.tx_treatments.assign(tx_is_training=prepared.tx_is_training).to_parquet(folder / "tx_treatments.parquet")
    for name in ("cp", "tx"):
        np.save(folder / f"{name}.npy", getattr(prepared, name), allow_pickle=False)
    prepared.preparation.save(folder / "preparation.json")
    key = {name: getattr(prepared, name) for name in ("split", "repeat", "fold", "regime")}
    (folder / "fold.json").write_text(json.dumps(key), encoding="utf-8")


def load_fold(folder: Path) -> PreparedFold:
    """Read what `save_fold` wrote; every array and table is equal to the one that was saved."""
    wells = pd.read_parquet(folder / "cp_wells.parquet")
    treatments = pd.read_parquet(folder / "tx_treatments.parquet")
    arrays = {name: wells.pop(name).to_numpy() for name in _WELL_ARRAYS}
    return PreparedFold(
        **json.loads((folder / "fold.json").read_text(encoding="utf-8")),
        groups=wells.pop("groups").to_numpy(object),
        cp_wells=wells,
        **arrays,
        tx_is_training=treatments.pop("tx_is_training").to_numpy(),
        tx_treatments=treatments,
        **{name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("cp", "tx")},
        preparation=FeaturePreparation.load(folder / "preparation.json"),
    )


def fold_sizes(folds: list[PreparedFold]) -> pd.DataFrame:
    """What each fold trains and tests on: fold, training and test compounds and wells, CP features, genes."""
    rows = []
    for prepared in folds:
        compounds = prepared.cp_wells[COMPOUND]
        row = {"fold": prepared.name}
        for name, wells in (("training", prepared.is_training), ("test", prepared.is_test)):
            row |= {f"{name} compounds": compounds[wells].nunique(), f"{name} wells": int(wells.sum())}
        rows.append(row | {"CP features": prepared.cp.shape[1], "genes": prepared.tx.shape[1]})
    return pd.DataFrame(rows)


def _prepare(cp, tx, group_of, fold_of, key, parameters, regime):
    fold = key[2]
    treated = ~cp[CONTROL].to_numpy(bool)
    cp_fold = cp[COMPOUND].map(fold_of)
    in_training = treated & cp_fold.notna().to_numpy() & (cp_fold != fold).to_numpy()
    seen = in_training if regime == "strict" else treated & cp_fold.notna().to_numpy()
    preparation = FeaturePreparation(**parameters).fit(cp.loc[seen, feature_columns(cp)])

    tx = tx[~tx[CONTROL].to_numpy(bool)]
    tx_fold = tx[COMPOUND].map(fold_of)
    tx_training = tx_fold.notna().to_numpy() & (tx_fold != fold).to_numpy()
    genes = feature_columns(tx)
    tx_preparation = FeaturePreparation(max_correlation=1, tame_tails=False).fit(tx.loc[tx_training, genes])
    cp_values, tx_wells = preparation.transform(cp[feature_columns(cp)]), tx_preparation.transform(tx[genes])
    if regime == "strict":
        _require_own_means(cp_values, in_training, "CP", key)
    _require_own_means(tx_wells, tx_training, "TX", key)
    tx_treatments, tx_values = consensus(tx[METADATA_COLUMNS], tx_wells)

    partner = pair_rows(cp[METADATA_COLUMNS], tx_treatments)
    if not (in_training & (partner >= 0)).any():
        raise ScreenError(
            "no CP well has a TX profile of the same compound at the same dose to train on; doses (micromolar) must "
            "agree to three digits, or be left out of one table"
        )
    tx_fold = tx_treatments[COMPOUND].map(fold_of)
    return PreparedFold(
        *key,
        cp_wells=cp[METADATA_COLUMNS],
        cp=cp_values,
        tx_treatments=tx_treatments,
        tx=tx_values,
        is_training=in_training & (partner >= 0),
        is_test=treated & (cp_fold == fold).to_numpy(),
        partner=partner,
        tx_is_training=tx_fold.notna().to_numpy() & (tx_fold != fold).to_numpy(),
        groups=cp[COMPOUND].map(group_of).fillna(cp[COMPOUND]).to_numpy(object),
        preparation=preparation,
        regime=regime,
    )


def _require_compounds_as_groups(group_of, compounds):
    """Refuse groups that join structures: encoders learn to tell groups apart, so a group of an MoA would teach it."""
    ids = compounds[COMPOUND].astype(str).to_numpy()
    blocks = compounds["InChIKey14"].fillna("").astype(str).to_numpy()
    structures = pd.Series(np.where(blocks != "", blocks, ids), index=group_of.reindex(ids).to_numpy())
    joined = structures.groupby(level=0).unique()
    joined = joined[joined.map(len) > 1]
    if len(joined):
        raise ScreenError(
            f"group {joined.index[0]!r} joins {len(joined.iloc[0])} different structures ({joined.iloc[0][0]}, "
            f"{joined.iloc[0][1]}): encoders may learn compounds, never labels such as MoAs; group by "
            "profiles.compound_groups"
        )


def _require_own_means(values, training, modality, key):
    """Refuse features that aren't centred on the training wells: then others took part in fitting them."""
    total = np.zeros(values.shape[1])
    for start in range(0, len(values), 4096):  # in blocks: a large screen's training wells are gigabytes
        total += values[start : start + 4096][training[start : start + 4096]].sum(axis=0, dtype=np.float64)
    furthest = np.abs(total).max() / max(training.sum(), 1)
    if furthest > CENTRED:
        raise ScreenError(
            f"{modality} features of fold {key[0]}-{key[1]}-{key[2]} are not centred on its training wells (a mean of "
            f"{furthest:.2g}): test compounds took part in scaling; fit FeaturePreparation on training wells alone"
        )


def training_tx(prepared: PreparedFold, control: str, seed: int) -> np.ndarray:
    """TX profile that each training well is paired with under a control: float32 (n_training_wells, n_genes).

    Parameters
    ----------
    control
        `true_pairs`; `deranged` (each compound gets all TX profiles of one other training compound, dose by dose, and
        none its own: what pairing teaches when TX knows nothing); `rows_shuffled` (rows permuted, replicates torn
        apart); `random_codes` (a random vector a compound); `untrained` (true pairs, for a network at initialisation).
    seed
        Number of the draw.
    """
    partner = prepared.partner[prepared.is_training]
    rng = np.random.default_rng([seed, prepared.repeat, prepared.fold + 1, CONTROLS.index(control)])
    if control == "deranged":
        training = np.flatnonzero(prepared.tx_is_training)
        treatments = prepared.tx_treatments.iloc[training]
        groups = pd.Series(prepared.groups, index=prepared.cp_wells[COMPOUND].to_numpy())
        groups = groups[~groups.index.duplicated()]
        units = treatments[COMPOUND].map(groups).fillna(treatments[COMPOUND]).to_numpy(str)
        moved = np.arange(len(prepared.tx))
        moved[training] = training[splits.deranged_rows(units, treatments[DOSE].to_numpy(), rng)]
        return prepared.tx[moved[partner]]
    if control == "rows_shuffled":
        return prepared.tx[partner[rng.permutation(len(partner))]]
    if control == "random_codes":
        _, compound = np.unique(prepared.groups[prepared.is_training].astype(str), return_inverse=True)
        return rng.normal(size=(compound.max() + 1, prepared.tx.shape[1])).astype(np.float32)[compound]
    return prepared.tx[partner]


def fit_encoder(encoder: Encoder, prepared: PreparedFold, control: str = "true_pairs", seed: int = 0) -> Encoder:
    """Fit an encoder on a fold's training wells; raises ScreenError where the method can't be fitted.

    Under the control `untrained` a network sees its inputs scaled and takes no training step.
    """
    if control == "untrained":
        if not _can_stay_untrained(encoder):
            raise ScreenError(f"{type(encoder).__name__} takes no training steps that could be left out")
        encoder.set_params(max_epochs=0)
    if prepared.regime == "transductive" and not encoder.uses_tx:
        return tuning.fit_wells(encoder, prepared, prepared.is_training | prepared.is_test)
    tx = training_tx(prepared, control, seed) if encoder.uses_tx else None
    return tuning.fit_wells(encoder, prepared, prepared.is_training, tx)


def _can_stay_untrained(encoder):
    return "max_epochs" in encoder.get_params()


@dataclass
class CrossfitResult:
    """What a method gives on all folds.

    Attributes
    ----------
    wells : DataFrame
        Embeddings of test compounds' wells and of the negative controls: metadata, `KEYS`, z000 ...
    consensus : DataFrame
        Embeddings of all compounds, wells averaged: Metadata_Compound, `role` (train, test), `KEYS`, z000 ...
    retrieval : DataFrame
        One row a test compound: `KEYS`, compound, rank (0 = its own TX profile is the nearest), n_candidates.
    history : DataFrame
        Training curves of networks: `KEYS`, member, epoch, training, validation.
    encoders : dict
        Encoders fitted on true pairs (draw 0), by name of the fold.
    n_fits : int
        Number of encoders fitted; those of the choice among parameters don't count.
    choices : DataFrame
        `split`, `repeat`, `fold`, `method` and the columns of `tuning.Choice.table`; empty without a grid.
    """

    wells: pd.DataFrame
    consensus: pd.DataFrame
    retrieval: pd.DataFrame
    history: pd.DataFrame
    encoders: dict[str, Encoder]
    n_fits: int
    choices: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def n_dimensions(self) -> int:
        """Length of the embedding."""
        return embedding_values(self.consensus.iloc[:0]).shape[1]


@dataclass(frozen=True)
class _Fit:
    """One encoder to fit: where, on which pairs, with which parameters.

    Attributes
    ----------
    order : int
        Its place among all fits of the method.
    key : dict
        `KEYS`.
    seed : int
        Of the encoder and of the control's draw.
    is_kept : bool
        Whether the fitted encoder itself is wanted.
    """

    order: int
    key: dict
    seed: int
    is_kept: bool


@dataclass(frozen=True)
class _Submitted:
    """A method's work, handed over: the choice of each fold by the fold's name, and calls that make several fits."""

    method: str
    has_grid: bool
    folds: dict[str, PreparedFold]
    choices: dict[str, executors.Call]
    calls: deque[tuple[list[_Fit], str, executors.Call]]
    n_fits: int


def crossfit(
    method: str,
    make: Callable[[int], Encoder],
    folds: list[PreparedFold],
    *,
    controls: dict[str, int] | None = None,
    grid: dict[str, list] | None = None,
    n_candidates: int = 0,
    draws_elsewhere: int = 3,
    first_seed: int = 0,
    progress: bool = True,
    executor: executors.Executor | None = None,
) -> CrossfitResult:
    """Fit a method on every fold and control, and embed.

    Parameters
    ----------
    method
        Its key, such as `rcca`.
    make
        Gives a fresh encoder for a seed.
    folds
        From `prepare_folds`.
    controls
        Number of draws of each control, such as ``{"true_pairs": 1, "deranged": 3}``; ignored for methods without TX,
        and `untrained` for methods without training steps.
    grid
        Values of parameters to choose from in each fold, on its training compounds and their true pairs
        (`tuning.choose`: by retrieval where the method has TX codes, else by replicates). Every control of the fold
        inherits the choice, so that only the pairs differ.
    n_candidates
        Combinations of the grid's values to try; 0 tries all.
    draws_elsewhere
        Most draws of a control on other kinds of split than the first fold's, which carries the verdicts.
    first_seed
        Draw d uses the seed ``1000 * first_seed + d``, so that other seeds share no draw.
    progress
        Whether to show a progress bar.
    executor
        Where fits are computed; None: where the runner says (`executors.current`). The result is the same.

    Raises
    ------
    ScreenError
        Where the method can't be fitted on this screen.
    """
    executor = executor or executors.current()
    options = {"controls": controls, "grid": grid, "n_candidates": n_candidates}
    options |= {"draws_elsewhere": draws_elsewhere, "first_seed": first_seed}
    return _gather(_submit(method, make, _share(folds, executor), executor, **options), progress)


def _share(folds, executor):
    """Each fold with what stands for it among the arguments of a call."""
    return [(prepared, executor.share(prepared, save_fold, load_fold)) for prepared in folds]


def _submit(method, make, folds, executor, *, controls, grid, n_candidates, first_seed, draws_elsewhere=3):
    """Hand over everything there is to fit of a method; `folds` come from `_share`."""
    first = make(1000 * first_seed)
    draws = [(control, seed) for control, n in (controls or {"true_pairs": 1}).items() for seed in range(n)]
    draws = [draw for draw in draws if draw[0] != "untrained" or _can_stay_untrained(first)]
    draws = draws if first.uses_tx else [("", 0)]
    how = {"score": "retrieval" if first.cross_modal else "replicates", "n_candidates": n_candidates}
    how |= {"seed": first_seed}
    choices, calls, n_fits = {}, deque(), 0
    for prepared, shared in folds:
        together: dict[int, list[_Fit]] = {}  # by seed: the controls of one draw are fitted side by side
        for control, seed in draws:
            elsewhere = prepared.split != folds[0][0].split and seed >= draws_elsewhere
            if elsewhere or (prepared.fold < 0 and (control, seed) not in (("true_pairs", 0), ("", 0))):
                continue
            key = dict(zip(KEYS, (prepared.split, prepared.repeat, prepared.fold, seed, method, control), strict=True))
            is_kept = seed == 0 and control in ("", "true_pairs")
            together.setdefault(seed, []).append(_Fit(n_fits, key, 1000 * first_seed + seed, is_kept))
            n_fits += 1
        if together:
            choices[prepared.name] = executor.submit(_choose, first, grid or {}, shared, how)
        for fits in together.values():
            arguments = make(fits[0].seed), shared, choices[prepared.name], fits
            calls.append((fits, prepared.name, executor.submit(_fit_and_embed, *arguments)))
    return _Submitted(method, bool(grid), {one.name: one for one, _ in folds}, choices, calls, n_fits)


def _choose(encoder, grid, prepared, how):
    return tuning.choose(encoder, grid, prepared, **how)


def _fit_and_embed(encoder, prepared, choice, fits):
    """For each of some fits with one seed: its tables by name, and the encoder where it is wanted."""
    controls = [fit.key["control"] or "true_pairs" for fit in fits]
    fitted = _fit_controls(encoder.set_params(**choice.parameters), prepared, controls, fits[0].seed)
    done = []
    for fit, one in zip(fits, fitted, strict=True):
        tables = {"history": pd.DataFrame(one.history_)} if hasattr(one, "history_") else {}
        if prepared.fold >= 0:
            tables |= dict(zip(("wells", "consensus", "retrieval"), _embed(one, prepared), strict=True))
        tables = {name: _keyed(table, fit.key) for name, table in tables.items()}
        done.append((tables, one if fit.is_kept else None))
    return done


def _fit_controls(encoder, prepared, controls, seed):
    """`fit_encoder` for each of several controls, with networks trained side by side."""
    paired = [control for control in controls if encoder.side_by_side and control != "untrained"]
    fitted = {}
    if len(paired) > 1:
        encoder = encoder.name_features(prepared.preparation.features_)
        wells = tuning.training_wells(encoder, prepared, prepared.is_training)
        parts = [wells | {"tx": training_tx(prepared, control, seed)} for control in paired]
        fitted = dict(zip(paired, encoder.fit_parts(parts)[0], strict=True))
    return [fitted.get(one) or fit_encoder(clone(encoder), prepared, one, seed) for one in controls]


def _gather(submitted, progress):
    """Take the results of what was submitted, in its order."""
    from tqdm import tqdm

    parts: dict[str, dict] = {"wells": {}, "consensus": {}, "retrieval": {}, "history": {}}
    encoders, choices = {}, []
    for _ in tqdm(range(len(submitted.calls)), desc=submitted.method, disable=not progress, mininterval=2):
        # Taken off the queue, so that what nobody wants is gone before the next comes.
        fits, name, call = submitted.calls.popleft()
        if submitted.has_grid and name in submitted.choices:
            table, prepared = submitted.choices.pop(name).result().table, submitted.folds[name]
            where = {"split": prepared.split, "repeat": prepared.repeat, "fold": prepared.fold}
            choices.append(pd.DataFrame([where | {"method": submitted.method}] * len(table)).join(table))
        for fit, (tables, encoder) in zip(fits, call.result(), strict=True):
            if fit.is_kept:
                encoders[name] = encoder
            for kind, table in tables.items():
                parts[kind][fit.order] = table
    joined = {
        name: pd.concat([tables[order] for order in sorted(tables)], ignore_index=True) if tables else pd.DataFrame()
        for name, tables in parts.items()
    }
    choices = pd.concat(choices, ignore_index=True) if choices else pd.DataFrame()
    return CrossfitResult(**joined, encoders=encoders, n_fits=submitted.n_fits, choices=choices)


def crossfit_all(
    encoders: dict[str, Encoder],
    folds: list[PreparedFold],
    controls: dict[str, int],
    *,
    grids: dict[str, dict[str, list]] | None = None,
    n_candidates: int = 0,
    first_seed: int = 0,
    step: Callable = nullcontext,
    progress: bool = True,
    executor: executors.Executor | None = None,
) -> tuple[dict[str, CrossfitResult], dict[str, str]]:
    """`crossfit` several methods; those that the screen doesn't allow are left out with their reason.

    Parameters
    ----------
    encoders
        An unfitted encoder for each method; it is cloned for every fit, with a seed of its own where it has one.
    folds, controls, n_candidates, first_seed, executor
        As for `crossfit`. All methods are handed over before the first result is waited for.
    grids
        By method, the `grid` of `crossfit`; methods without one keep the parameters of their encoder.
    step
        Context manager that is entered with the name of each method's work, such as `Workspace.step`. On a cluster,
        its time is that of waiting for the method.
    progress
        Whether to show progress bars.

    Returns
    -------
    results, left_out
        By method: what it gives, or why it can't be fitted here.
    """
    executor = executor or executors.current()
    shared = _share(folds, executor)
    submitted = {}
    for method, encoder in encoders.items():
        has_seed = "seed" in encoder.get_params()

        def make(seed, encoder=encoder, has_seed=has_seed):
            return clone(encoder).set_params(**({"seed": seed} if has_seed else {}))

        options = {"controls": controls, "grid": (grids or {}).get(method), "n_candidates": n_candidates}
        submitted[method] = _submit(method, make, shared, executor, first_seed=first_seed, **options)
    results, left_out = {}, {}
    for method in encoders:
        try:
            with step(f"fit {method}"):
                results[method] = _gather(submitted.pop(method), progress)
        except ScreenError as error:
            left_out[method] = str(error)
    return results, left_out


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


def retrieval_curves(
    retrieval: pd.DataFrame, n_points: int = 51, *, n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Share of test compounds whose own TX profile lies within a share of the ranking, point by point with intervals.

    Parameters
    ----------
    retrieval
        Method, control, compound, and `rank_share`: rank over (candidates - 1). A compound may have several rows, of
        repeats and draws; all count.
    n_points
        Points between 0 and 1.
    n_bootstrap, seed
        Resamples of compounds, the same ones for all curves.

    Returns
    -------
    DataFrame
        `method`, `control`, `rank_share`, `share_of_compounds`, `ci_low`, `ci_high` (95%).
    """
    grid = np.linspace(0, 1, n_points)
    names = np.unique(retrieval["compound"].astype(str))
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_bootstrap)
    tables = []
    for (method, control), part in retrieval.groupby(["method", "control"], sort=False):
        compound = np.searchsorted(names, part["compound"].astype(str))
        found = part["rank_share"].to_numpy()[:, None] <= grid  # (n_rows, n_points)
        found_by = np.zeros((len(names), n_points))
        np.add.at(found_by, compound, found)
        rows_by = np.bincount(compound, minlength=len(names))
        with np.errstate(invalid="ignore"):  # a resample without any compound of a curve
            resampled = times @ found_by / (times @ rows_by)[:, None]  # (n_bootstrap, n_points)
        low, high = np.nanquantile(resampled, [0.025, 0.975], axis=0)
        curve = {"rank_share": grid, "share_of_compounds": found.mean(axis=0), "ci_low": low, "ci_high": high}
        tables.append(pd.DataFrame({"method": method, "control": control, **curve}))
    return pd.concat(tables, ignore_index=True)


def _keyed(table, key):
    metadata = [name for name in table.columns if str(name).startswith("Metadata_") or name == "role"]
    rest = [name for name in table.columns if name not in metadata]
    keys = pd.DataFrame([key] * len(table), index=table.index, columns=KEYS)
    return pd.concat([table[metadata], keys, table[rest]], axis=1)


def _embed(encoder, prepared):
    """Embeddings of a fold (wells, consensus), and the ranks of its test compounds' own TX profiles."""
    codes = encoder.transform(prepared.cp)
    control = prepared.cp_wells[CONTROL].to_numpy(bool)
    # Similarities are measured from the negative controls, or from the training mean where a screen has none.
    centred = codes - codes[control if control.any() else prepared.is_training].mean(axis=0)
    shown = prepared.is_test | control
    wells = pd.concat([prepared.cp_wells[shown].reset_index(drop=True), embedding_table(centred[shown])], axis=1)
    metadata, averages = consensus(prepared.cp_wells, centred, by="compound")
    test = set(prepared.cp_wells.loc[prepared.is_test, COMPOUND])
    is_test = metadata[COMPOUND].isin(test).to_numpy()
    role = pd.Series(np.where(is_test, "test", "train"), name="role")
    compounds = pd.concat([metadata[[COMPOUND]], role, embedding_table(averages)], axis=1)
    return wells, compounds, _retrieval(encoder, prepared, codes)


def cross_modal_codes(
    encoder: Encoder, prepared: PreparedFold, codes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test compounds of a fold in the space that CP and TX share.

    Parameters
    ----------
    encoder
        A fitted cross-modal encoder.
    prepared
        The fold.
    codes
        `encoder.transform(prepared.cp)`, where it is known already.

    Returns
    -------
    compounds, cp, tx
        Ids (n_test,), and the codes of their CP and TX consensus profiles, each (n_test, n_dimensions).
    """
    rows = prepared.is_test & (prepared.partner >= 0)
    return tuning.paired_codes(encoder, prepared, rows, None if codes is None else codes[rows])


def _retrieval(encoder, prepared, codes):
    if not encoder.cross_modal:
        return pd.DataFrame()
    compounds, cp, tx = cross_modal_codes(encoder, prepared, codes)
    return pd.DataFrame({"compound": compounds, "rank": retrieval_rank(cp, tx), "n_candidates": len(compounds)})


def oracle_consensus(folds: list[PreparedFold], with_cp: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What TX itself would give, were it measured for new compounds too: a ceiling, never a competitor.

    `cp_tx` is made for the first fold's kind of split alone: it is wide, and only shown.

    Parameters
    ----------
    folds
        From `prepare_folds`.
    with_cp
        Consensus table of a CP method, for `cp_tx`: both side by side, each scaled to the same total variance.

    Returns
    -------
    dict
        Consensus tables `tx` (prepared TX profiles) and `cp_tx`.
    """
    tables: dict[str, list] = {"tx": [], "cp_tx": []}
    for prepared in folds:
        if prepared.fold < 0:
            continue
        metadata, tx = consensus(prepared.tx_treatments.assign(**{CONTROL: False}), prepared.tx, by="compound")
        mine = with_cp.query("split == @prepared.split and repeat == @prepared.repeat and fold == @prepared.fold")
        mine = mine.set_index(COMPOUND)
        both = metadata[COMPOUND].isin(mine.index).to_numpy()
        metadata, tx, mine = metadata[both].reset_index(drop=True), tx[both], mine.loc[metadata[COMPOUND][both]]
        cp = embedding_values(mine)
        training = (mine["role"] == "train").to_numpy()
        stacked = np.hstack([block / np.sqrt(block[training].var(axis=0).sum()) for block in (cp, tx)])
        role = pd.Series(mine["role"].to_numpy(), name="role")
        widest = {"cp_tx": stacked} if prepared.split == folds[0].split else {}
        for method, values in ({"tx": tx} | widest).items():
            key = dict(zip(KEYS, (prepared.split, prepared.repeat, prepared.fold, 0, method, ""), strict=True))
            tables[method].append(_keyed(pd.concat([metadata[[COMPOUND]], role, embedding_table(values)], axis=1), key))
    return {method: pd.concat(parts, ignore_index=True) for method, parts in tables.items()}


def save_encoders(result: CrossfitResult, folds: list[PreparedFold], folder) -> None:
    """Save the encoders fitted on true pairs, each beside the CP preparation of its fold: `folder/<fold>/`."""
    preparations = {prepared.name: prepared.preparation for prepared in folds}
    for name, encoder in result.encoders.items():
        encoder.save(folder / name)
        preparations[name].save(folder / name / "preparation.json")
