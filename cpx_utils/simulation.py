"""Paired screens with a known truth: what the study finds can be held against what was put in.

Every compound has latent effects of three kinds: *shared* ones, which both the image and the RNA show, *CP-only* ones
and *TX-only* ones. Mechanisms of action (MoA) and assays act through them. On top lie what real screens have:
inactive compounds, doses with a Hill response, plates, well positions, correlated and heavy-tailed noise, controls,
cell counts and missing labels. `shared_strength=0` removes the shared effects from TX: then TX still tells compounds
apart and says nothing else, and no method may be found to gain from it.

Strengths of effects and noise come in `PRESETS`, chosen such that replicates, spectra, correlations between features
and the predictability of TX from CP resemble those of real screens (`CALIBRATION_TARGETS`).
"""

import tomllib
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from cpx_utils.metrics import nearest_decile, retrieval_rank
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL, Screen, ScreenError

N_COMPOUNDS_MEASURED = 162  # as in cmea-u2os: spectra of more compounds are flatter, and ridge learns more from them
# How far a screen may lie from the reference and still count as alike. 0.08 in a correlation or share is a fraction of
# what separates CDRP-bio from LINCS Pilot 1 in CP, and more than two seeds of the simulator usually differ by. R2 of
# genes are small numbers, of which 0.08 would be all. Numbers of components are ratios by nature.
ABSOLUTE_TOLERANCE = 0.08
R2_TOLERANCE = 0.05
FACTOR_TOLERANCE = 1.5
CELL_COUNT = "Cells_Number_Object_Number"
# What real screens show: group, statistic, reference, source. CDRP-bio and LINCS Pilot 1 are from the replicate
# correlations that Haghighi 2022 published, cmea-u2os (a consensus profile for each of 162 compounds) was measured with
# `screen_statistics`.
CALIBRATION_TARGETS = pd.read_csv(Path(__file__).with_name("calibration_targets.csv"))
# Feature and gene names, skeletons, and what the assays of each family read.
NAMES = tomllib.loads(Path(__file__).with_name("simulation.toml").read_text(encoding="utf-8"))


# --- knobs ----------------------------------------------------------------------------------------------------


# Knobs that make a screen resemble a real one, applied on top of a size; tests hold each to tolerances.
PRESETS: dict[str, dict[str, Any]] = NAMES["presets"]
# The real screen that a preset imitates, as `CALIBRATION_TARGETS` calls it.
IMITATES = {"cdrp-bio": "CDRP-bio", "lincs": "LINCS Pilot 1"}


def simulation_settings(size: str = "default", preset: str = "cdrp-bio", **knobs: float) -> SimpleNamespace:
    """The settings of a size and preset with some knobs turned; raises ScreenError for any that is unknown."""
    known = {"size": NAMES["sizes"], "preset": PRESETS, "knob": NAMES["knobs"]}
    for kind, name in (("size", size), ("preset", preset), *(("knob", knob) for knob in knobs)):
        if name not in known[kind]:
            raise ScreenError(f"no simulated screen has the {kind} {name!r}; it is one of {', '.join(known[kind])}")
    settings = SimpleNamespace(**(NAMES["knobs"] | NAMES["sizes"][size] | PRESETS[preset] | knobs))
    if not settings.shared_strength >= 0:
        raise ScreenError(f"shared_strength is {settings.shared_strength:g}; it is 0 (TX shares nothing) or positive")
    return settings


def simulate_screen(size: str = "default", seed: int = 0, preset: str = "cdrp-bio", **knobs: float) -> Screen:
    """Draw a paired screen.

    Parameters
    ----------
    size
        `default` (600 compounds), `small` or `tiny`.
    seed
        Seed of every random draw; the same seed gives the same screen.
    preset
        What real screen it resembles in effects and noise: a key of `PRESETS`.
    **knobs
        Any knob of `simulation.toml`, instead of the size's and the preset's value.

    Returns
    -------
    Screen
        Wells of both modalities with their controls, compounds with MoA and structure, tasks and labels. The truth
        behind it is in `simulate_truth` with the settings of the same size, preset and knobs.

    Raises
    ------
    ScreenError
        For an unknown size, preset or knob.
    """
    settings = simulation_settings(size, preset, **knobs)
    truth = simulate_truth(settings, seed)
    rng = np.random.default_rng([seed, 1])
    cp = _cell_painting_wells(settings, truth, rng)
    tx = _transcriptomics_wells(settings, truth, rng)
    tasks, activity = _assays(settings, truth, rng)
    smiles, keys = _structures(truth["moa"], rng)
    compounds = pd.DataFrame(
        {
            COMPOUND: truth["compound"],
            "InChIKey14": keys,
            "SMILES": smiles,
            "MoA": [[f"mechanism {moa + 1:02d}"] for moa in truth["moa"]],
            "target": [[f"target {moa + 1:02d}"] for moa in truth["moa"]],
        }
    )
    note = (
        "Simulated data: they show whether the study works, and nothing about biology. "
        f"Effects and noise resemble {IMITATES[preset]}; "
        f"shared effects reach TX with {settings.shared_strength:g} times the strength that this takes."
    )
    return Screen(
        f"simulated-{size}" if size != "default" else "simulated", cp, tx, compounds, activity, tasks, (note,)
    )


# --- biology: effects, mechanisms, structures, assays ---------------------------------------------------------


def simulate_truth(settings: SimpleNamespace, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw what a real screen never tells: latent effects, potencies and loadings.

    Returns
    -------
    dict
        `compound` (n,) ids; `moa` (n,) index; `amplitude` (n,), 0 for inactive compounds; `response` (n, n_doses) of
        the Hill equation; `tx_amplitude` and `tx_response`, which are the same unless TX shares nothing; `shared`
        (n, n_shared), `cp_only`, `tx_only` likewise; the loadings `cp_from_shared` (n_shared, n_cp_features),
        `cp_from_cp_only`, `tx_from_shared`, `tx_from_tx_only`; and of the noise `cp_noise_loadings`,
        `tx_noise_loadings`, `cp_from_handling`.
    """
    rng = np.random.default_rng([seed, 0])
    n = settings.n_compounds
    moa = rng.permutation(np.arange(n) % settings.n_moas)
    # TX-only effects may follow the MoA only where TX shares anything at all: a TX that knows the MoA would teach it
    # to any encoder, and shared_strength=0 promises a TX that knows compounds and nothing else.
    tx_moa_share = settings.moa_share_private * min(1.0, settings.shared_strength)
    active = rng.random(n) >= settings.inactive_share
    ec50 = 10.0 ** rng.normal(0.4, 0.4, n)  # micromolar
    dose = np.asarray(settings.doses)
    response = dose**settings.hill_slope / (dose**settings.hill_slope + ec50[:, None] ** settings.hill_slope)
    amplitude = active * rng.lognormal(0.0, settings.amplitude_spread, n)
    # Which compounds act, and from which dose on, is shared knowledge too: without it TX has strengths of its own.
    same = np.arange(n) if settings.shared_strength else np.random.default_rng([seed, 2]).permutation(n)
    return {
        "compound": np.array([f"SIM-{number:05d}" for number in range(1, n + 1)], dtype=object),
        "moa": moa,
        "amplitude": amplitude,
        "response": response,
        "tx_amplitude": amplitude[same],
        "tx_response": response[same],
        "shared": _moa_effects(moa, settings.n_shared, settings.moa_share, rng),
        "cp_only": _moa_effects(moa, settings.n_cp_only, settings.moa_share_private, rng),
        "tx_only": _moa_effects(moa, settings.n_tx_only, tx_moa_share, rng),
        # A CP feature reads few processes strongly (steep spectrum), genes read many a little (flat spectrum).
        "cp_from_shared": _loadings(settings.n_shared, settings.n_cp_features, 0.3, rng),
        "cp_from_cp_only": _loadings(settings.n_cp_only, settings.n_cp_features, settings.cp_only_decay, rng),
        "tx_from_shared": _loadings(settings.n_shared, settings.n_genes, 0.2, rng),
        "tx_from_tx_only": _loadings(settings.n_tx_only, settings.n_genes, settings.tx_only_decay, rng),
        "cp_noise_loadings": _loadings(settings.cp_noise_rank, settings.n_cp_features, settings.cp_noise_decay, rng),
        "tx_noise_loadings": _loadings(settings.tx_noise_rank, settings.n_genes, settings.tx_noise_decay, rng),
        "cp_from_handling": rng.normal(size=settings.n_cp_features),
    }


def _moa_effects(moa: np.ndarray, n_effects: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Unit-variance effects (n_compounds, n_effects) of which `share` of the variance belongs to the MoA."""
    centres = rng.normal(size=(moa.max() + 1, n_effects))
    own = rng.normal(size=(len(moa), n_effects))
    return np.sqrt(share) * centres[moa] + np.sqrt(1 - share) * own


def _loadings(n_effects: int, n_features: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Loadings (n_effects, n_features): effect k weighs k^-decay, and a feature has unit variance on average."""
    weights = np.arange(1, n_effects + 1) ** -decay
    return rng.normal(size=(n_effects, n_features)) * (weights / np.linalg.norm(weights))[:, None]


def _structures(moa: np.ndarray, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """SMILES and first InChIKey blocks; compounds of an MoA prefer some skeletons, as chemical series do."""
    from rdkit import Chem

    pool = list(product(range(len(NAMES["cores"])), NAMES["substituents"], NAMES["substituents"]))
    order = rng.permutation(len(pool))
    by_core = {core: [pool[index] for index in order if pool[index][0] == core] for core in range(len(NAMES["cores"]))}
    preferred = rng.integers(len(NAMES["cores"]), size=(moa.max() + 1, 3))
    smiles: dict[str, str] = {}  # by first InChIKey block
    for number, group in enumerate(moa, start=1):
        core = rng.choice(preferred[group]) if rng.random() < 0.7 else rng.integers(len(NAMES["cores"]))
        while len(smiles) < number:
            core = core if by_core[core] else max(by_core, key=lambda name: len(by_core[name]))
            _, a, b = by_core[core].pop()
            molecule = Chem.MolFromSmiles(NAMES["cores"][core].format(a=a, b=b))
            smiles.setdefault(Chem.MolToInchiKey(molecule)[:14], Chem.MolToSmiles(molecule))
    return list(smiles.values()), list(smiles)


def _assays(settings: SimpleNamespace, truth: dict, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Binary assays by family: a family reads shared, CP-only, TX-only, all or none of the effects."""
    amplitudes = {"shared": "amplitude", "cp_only": "amplitude", "tx_only": "tx_amplitude"}
    expressed = {name: truth[amplitude][:, None] * truth[name] for name, amplitude in amplitudes.items()}
    expressed["tx_only"] = expressed["tx_only"][:, : settings.n_tx_only_read]
    sources = {
        "shared": expressed["shared"],
        "cp_only": expressed["cp_only"],
        "tx_only": expressed["tx_only"],
        "all": np.hstack(list(expressed.values())),
        "none": rng.normal(size=(settings.n_compounds, 4)),
    }
    families = list(NAMES["families"].items())
    family_direction = {family: rng.normal(size=sources[kind].shape[1]) for family, kind in families}
    tasks, labels = [], []
    for number in range(settings.n_tasks):
        family, kind = families[number % len(families)]
        # Assays of a family resemble each other: a common direction and one of their own.
        direction = family_direction[family] + rng.normal(size=len(family_direction[family]))
        readout = sources[kind] @ direction
        readout = readout / readout.std() + settings.task_noise * rng.normal(size=settings.n_compounds)
        active = readout > np.quantile(readout, 1 - rng.uniform(0.12, 0.3))
        measured = rng.random(settings.n_compounds) >= settings.missing_labels
        name = f"{family} assay {number // len(families) + 1:02d}"
        tasks.append({"task": name, "target": "", "family": family, "source": "simulated"})
        labels.append(pd.DataFrame({
            COMPOUND: truth["compound"][measured], "task": name, "active": active[measured].astype(np.int8)
        }))  # fmt: skip
    return pd.DataFrame(tasks), pd.concat(labels, ignore_index=True)


# --- plates: what is measured where ---------------------------------------------------------------------------


def _cell_painting_wells(settings: SimpleNamespace, truth: dict, rng: np.random.Generator) -> pd.DataFrame:
    """CP wells: effects on plates, replicate noise, handling, heavy tails, plate effects, and a cell count."""
    signal = settings.cp_shared * truth["shared"] @ truth["cp_from_shared"]
    signal = signal + settings.cp_only * truth["cp_only"] @ truth["cp_from_cp_only"]  # (n_compounds, n_features)
    strength = truth["amplitude"][:, None] * truth["response"]  # (n_compounds, n_doses)
    layout, effect = _layout(settings, truth["compound"], strength, signal, settings.n_cp_replicates, "CP", rng)
    values = effect + settings.cp_noise * _noise(
        truth["cp_noise_loadings"], settings.cp_noise_correlated, effect.shape, rng
    )
    treated = ~layout[CONTROL].to_numpy()
    values = values + settings.cp_handling * treated[:, None] * truth["cp_from_handling"]
    # Fewer cells where the treatment is strong; the count itself is a feature, as CellProfiler reports it.
    # Strength is relative to the usual effect: how loud noise is beside it has no part in how many cells die.
    usual = max(np.hypot(settings.cp_shared, settings.cp_only), 1e-12)
    strength = np.linalg.norm(effect, axis=1) / np.sqrt(effect.shape[1]) / usual
    count = 200 * np.exp(-0.5 * strength + 0.15 * rng.normal(size=len(strength)))
    if settings.tail:
        values = np.sinh(settings.tail * values) / settings.tail
    values = _plate_effects(values, layout, settings.plate_strength, settings.cp_position, rng)
    names = _cell_painting_names(settings.n_cp_features - 1)
    table = pd.DataFrame(values[:, : len(names)].astype(np.float32), columns=names)
    return pd.concat([layout, table, pd.Series(count.astype(np.float32), name=CELL_COUNT)], axis=1)


def _transcriptomics_wells(settings: SimpleNamespace, truth: dict, rng: np.random.Generator) -> pd.DataFrame:
    """TX wells: effects on plates, replicate noise, plate effects."""
    signal = settings.shared_strength * settings.tx_shared * truth["shared"] @ truth["tx_from_shared"]
    signal = signal + settings.tx_only * truth["tx_only"] @ truth["tx_from_tx_only"]  # (n_compounds, n_genes)
    strength = truth["tx_amplitude"][:, None] * truth["tx_response"]  # (n_compounds, n_doses)
    layout, effect = _layout(settings, truth["compound"], strength, signal, settings.n_tx_replicates, "TX", rng)
    values = effect + settings.tx_noise * _noise(
        truth["tx_noise_loadings"], settings.tx_noise_correlated, effect.shape, rng
    )
    values = _plate_effects(values, layout, settings.plate_strength, settings.tx_position, rng)
    genes = [f"{stem}{number}" for number, stem in product(range(1, settings.n_genes + 1), NAMES["gene_stems"])]
    table = pd.DataFrame(values.astype(np.float32), columns=genes[: settings.n_genes])
    return pd.concat([layout, table], axis=1)


def _layout(
    settings: SimpleNamespace,
    compounds: np.ndarray,
    strength: np.ndarray,
    signal: np.ndarray,
    n_replicates: int,
    prefix: str,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Put treatments and controls on plates: metadata (n_wells rows) and noise-free effect (n_wells, n_features).

    A plate map holds the same treatments in the same wells on each of its replicate plates, as screens are run.
    """
    n_doses = len(settings.doses)
    treatment = rng.permutation(settings.n_compounds * n_doses)
    strength = strength.ravel()  # (n_compounds * n_doses,)
    doses = np.tile(settings.doses, settings.n_compounds)
    maps = np.array_split(treatment, -(-len(treatment) // settings.n_treatments_per_plate))
    positions = [f"{row}{column:02d}" for row, column in product("ABCDEFGHIJKLMNOP", range(1, 25))]
    n_wells = len(maps[0]) + settings.n_control_wells
    if n_wells > len(positions):
        raise ScreenError(f"{n_wells} wells don't fit on a plate of {len(positions)}; set n_treatments_per_plate lower")
    tables, effects = [], []
    for number, on_map in enumerate(maps, start=1):
        wells = positions[: len(on_map) + settings.n_control_wells]
        of_map = pd.DataFrame({
            PLATE: "",
            WELL: rng.permutation(wells),
            COMPOUND: np.append(compounds[on_map // n_doses], ["DMSO"] * settings.n_control_wells),
            DOSE: np.append(doses[on_map], [0.0] * settings.n_control_wells),
            CONTROL: np.arange(len(wells)) >= len(on_map),
        })  # fmt: skip
        effect = np.zeros((len(wells), signal.shape[1]))
        effect[: len(on_map)] = strength[on_map, None] * signal[on_map // n_doses]
        names = [f"{prefix}-{number:02d}-{replicate}" for replicate in range(1, n_replicates + 1)]
        tables += [of_map.assign(**{PLATE: name}) for name in names]
        effects += [effect] * n_replicates
    return pd.concat(tables, ignore_index=True), np.concatenate(effects)


def _cell_painting_names(n_features: int) -> list[str]:
    """CellProfiler's names of features."""
    names = [f"{part}_{shape}" for part, shape in product(NAMES["compartments"], NAMES["shape_measurements"])]
    names += [
        f"{part}_{measurement.format(channel)}"
        for measurement, part, channel in product(
            NAMES["channel_measurements"], NAMES["compartments"], NAMES["channels"]
        )
    ]
    names += [f"Cells_Neighbors_NumberOfNeighbors_{number}" for number in range(1, n_features - len(names) + 1)]
    return names[:n_features]


# --- noise: of replicates, plates and places ------------------------------------------------------------------


def _noise(loadings: np.ndarray, share: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Replicate noise of unit variance: a share in a few correlated directions, the rest in each feature by itself."""
    correlated = rng.standard_t(5, size=(shape[0], len(loadings))) * np.sqrt(3 / 5) @ loadings
    return np.sqrt(share) * correlated + np.sqrt(1 - share) * rng.normal(size=shape)


def _plate_effects(
    values: np.ndarray, layout: pd.DataFrame, plate_strength: float, position_strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Give each plate an offset and a scale a feature, and each well a trend over rows and columns."""
    n_features = values.shape[1]
    plate, plates = pd.factorize(layout[PLATE])
    offset = plate_strength * rng.normal(size=(len(plates), n_features))
    scale = np.exp(0.2 * plate_strength * rng.normal(size=(len(plates), n_features)))
    row = layout[WELL].str[0].map(ord) - 64
    column = layout[WELL].str[1:].astype(int)
    trend = np.column_stack([row / row.max() - 0.5, column / column.max() - 0.5])  # (n_wells, 2)
    position = position_strength * trend @ rng.normal(size=(2, n_features))
    return (values + position) * scale[plate] + offset[plate]


# --- likeness to real screens ---------------------------------------------------------------------------------


def screen_statistics(
    correlations: dict[str, pd.DataFrame],
    profiles: dict[str, np.ndarray],
    ridge: BaseEstimator,
    beside: str = "CDRP-bio",
) -> pd.DataFrame:
    """The statistics of `CALIBRATION_TARGETS` for the screen at hand, and how far it lies from the published ones.

    Parameters
    ----------
    correlations
        `CP` and `TX`: from `preprocessing.replicate_correlations`.
    profiles
        `CP` and `TX`: one consensus profile for each of the same compounds (n_compounds, n_features), CP after the
        inverse hyperbolic sine. The first `N_COMPOUNDS_MEASURED` are looked at.
    ridge
        An `encoders.RidgeTX`, which predicts TX from CP.
    beside
        The real screen whose replicates stand beside these: `CDRP-bio` or `LINCS Pilot 1`. All else is measured on
        cmea-u2os.

    Returns
    -------
    DataFrame
        Rows of `CALIBRATION_TARGETS` with `here` (NaN where the screen has no replicates) and `deviation` from the
        reference in tolerances: 1 is `ABSOLUTE_TOLERANCE`, `R2_TOLERANCE` for what says R², and for numbers of
        components the `FACTOR_TOLERANCE`.
    """
    here = {}
    for modality, table in correlations.items():
        replicates = table.loc[table["kind"] == "replicates", "correlation"]
        chance = table.loc[table["kind"] == "different treatments", "correlation"].quantile(0.9)
        here |= _quantiles(f"{modality} replicate correlation", replicates, ["5%", "median", "95%"])
        here[f"{modality} replicate correlation", "null, 90%"] = chance
        beyond = (replicates > chance).mean() if pd.notna(chance) else np.nan
        here["treatments above 90% of the null", modality] = beyond
    cp, tx = (profiles[modality][:N_COMPOUNDS_MEASURED] for modality in ("CP", "TX"))
    here |= _spectrum("CP", cp) | _spectrum("TX", tx)
    r2, nearest = predictability(cp, tx, ridge)
    here |= _quantiles("ridge CP→TX, out-of-fold R² of genes", r2, ["median", "75%", "95%"])
    here["ridge CP→TX, shares", "genes, R² above 0.1"] = np.where(np.isnan(r2), np.nan, r2 > 0.1).mean()
    here["ridge CP→TX, shares", "own TX in nearest 10%"] = nearest
    rows = CALIBRATION_TARGETS[CALIBRATION_TARGETS["source"].isin([beside, "cmea-u2os"])].reset_index(drop=True)
    keys = pd.MultiIndex.from_frame(rows[["group", "statistic"]])
    rows["here"] = pd.Series(here, dtype=float).reindex(keys).to_numpy()
    of_r2 = (rows["group"] + rows["statistic"]).str.contains("R²")
    distance = (rows["here"] - rows["reference"]).abs() / np.where(of_r2, R2_TOLERANCE, ABSOLUTE_TOLERANCE)
    counts = rows[rows["group"].str.contains("components")]
    distance[counts.index] = np.log(counts["here"] / counts["reference"]).abs() / np.log(FACTOR_TOLERANCE)
    return rows.assign(deviation=distance.round(9))  # a factor of exactly 1.5 is 1 and no more


def _quantiles(group: str, values: Iterable[float], names: list[str]) -> dict[tuple[str, str], float]:
    """Quantiles of values by the names that `CALIBRATION_TARGETS` has for them, such as "median" and "95%"."""
    values = pd.Series(values, dtype=float)
    return {(group, name): values.quantile(float(name.replace("median", "50%")[:-1]) / 100) for name in names}


def _spectrum(modality: str, values: np.ndarray) -> dict[tuple[str, str], float]:
    """Statistics of the principal components of profiles (n_compounds, n_features) and of their features' likeness."""
    values = values[:, values.std(axis=0) > 1e-9]
    variance = np.linalg.svd((values - values.mean(axis=0)) / values.std(axis=0), compute_uv=False) ** 2
    cumulative = np.cumsum(variance) / variance.sum()
    here = {("variance of component 1, share", modality): cumulative[0]}
    here["participation ratio of the components", modality] = 1 / (np.diff(cumulative, prepend=0.0) ** 2).sum()
    for share in (50, 80, 90):
        needed = 1 + int(np.searchsorted(cumulative, share / 100))
        here[f"{modality} components for a share of the variance", f"{share}%"] = needed
    between = np.abs(np.corrcoef(values.T))[np.triu_indices(values.shape[1], 1)]
    return here | _quantiles(f"{modality} feature correlation, absolute", between, ["median", "90%", "99%"])


def predictability(cp: np.ndarray, tx: np.ndarray, ridge: BaseEstimator) -> tuple[np.ndarray, float]:
    """How well ridge regression predicts the TX of unseen compounds from their CP, in five folds drawn twice.

    Parameters
    ----------
    cp, tx
        One profile a compound, the same compounds in both (n_compounds, n_features).
    ridge
        An `encoders.RidgeTX`.

    Returns
    -------
    r2 : array (n_genes,)
        Out-of-fold coefficient of determination of each gene that varies, mean over repeats.
    nearest : float
        Share of compounds whose own TX profile ranks in the nearest tenth of their test fold. Both are NaN where test
        folds would hold fewer than two compounds.
    """
    cp, tx = np.asarray(cp, dtype=np.float64), np.asarray(tx, dtype=np.float64)
    tx = tx[:, tx.std(axis=0) > 1e-9]
    if len(cp) < 10:
        return np.full(tx.shape[1], np.nan), float("nan")
    r2, near = [], []
    for repeat in range(2):
        predicted = np.empty_like(tx)
        for train, test in KFold(5, shuffle=True, random_state=repeat).split(cp):
            cp_scaler, tx_scaler = StandardScaler().fit(cp[train]), StandardScaler().fit(tx[train])
            fitted = clone(ridge).fit(cp_scaler.transform(cp[train]), tx_scaler.transform(tx[train]), train)
            codes = fitted.transform(cp_scaler.transform(cp[test]))  # (n_test, n_components)
            predicted[test] = tx_scaler.inverse_transform(codes @ fitted.tx_projection_.T + fitted.tx_mean_)
            rank = retrieval_rank(codes, fitted.transform_tx(tx_scaler.transform(tx[test])))
            near.extend(nearest_decile(rank, len(test)))
        r2.append(r2_score(tx, predicted, multioutput="raw_values"))
    return np.mean(r2, axis=0), float(np.mean(near))
