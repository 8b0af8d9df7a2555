"""How often does the verdict machine err, and how often does it find what is there?

python benchmarks/verdict_calibration.py                                      # everything, many hours
python benchmarks/verdict_calibration.py --screens 20 --settings boundary-a   # fewer screens, of some settings
python benchmarks/verdict_calibration.py --screens 0                          # the tables alone, from what is there

Small simulated screens of `SETTINGS`, where it is known what TX can teach, go through the study's own code as in
notebooks 01 to 07, with their methods, parameters, references and rule. What a screen gave is added to
benchmarks/results/verdicts/SETTING.csv when it is done, and screens that stand there are not computed again: delete the
file after a change of the study. From these files verdict_legs.csv (how often each comparison errs, whether its
standard error and interval are right) and verdict_confusion.csv (verdicts by setting) are made.

Where an effect isn't 0 by construction, its truth is the mean over the screens of a setting. Screens differ in what
there is to find, too, which a standard error from one screen doesn't hold: `se_over_sd` is then somewhat too low.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from statsmodels.stats.proportion import proportion_confint
from threadpoolctl import threadpool_limits

from cpx_utils import bioactivity, claims, clustering, crossfit, preprocessing, simulation, splits
from cpx_utils.encoders import METHODS
from cpx_utils.profiles import (
    COMPOUND,
    CONTROL,
    DOSE,
    LINEAR_TX,
    PLATE,
    VERDICTS,
    Screen,
    compound_groups,
    feature_columns,
)

threadpool_limits(1)  # small matrices gain nothing from more than one thread a process
RESULTS = Path(__file__).resolve().parent / "results"
CP_ONLY = ("raw_cp", "sphered_cp", "cell_count", "lda_identity")
# The methods with a verdict, and the names under which their twins take the place of a reference.
TWINS = {"contrastive": "sphered_cp", "autoencoder": "cell_count", "rcca": "lda_identity"}
# Draws a fold as in notebooks 02 to 04; of derangements, bioactivity is predicted with two, as in notebook 06.
NETWORK_DRAWS = {"true_pairs": 3, "deranged": 2, "random_codes": 1, "deranged_in_plate": 1}
LINEAR_DRAWS = NETWORK_DRAWS | {"true_pairs": 1, "deranged": 10}
KEY = ["setting", "method", "claim", "reference"]
COLUMNS = (
    "setting seed claim method endpoint reference effect ci_low ci_high se p_value comparison attribution verdict "
    "planted seconds"
).split()


# --- settings -------------------------------------------------------------------------------------------------


def moved(
    table: pd.DataFrame, labels: pd.Series, strength: float | pd.Series, rng: np.random.Generator
) -> pd.DataFrame:
    """Add to each well that has a label the label's random vector, times `strength` standard deviations of controls."""
    features, has_label = feature_columns(table), pd.get_dummies(labels).to_numpy(float)  # (n_wells, n_labels)
    spread = table.loc[table[CONTROL].astype(bool), features].std().to_numpy()
    vectors = rng.normal(size=(has_label.shape[1], len(features))) * spread
    added = np.reshape(strength, (-1, 1)) * (has_label @ vectors)
    return table.assign(**(table[features] + added.astype(np.float32)))


def co_plated(
    table: pd.DataFrame, truth: dict, rng: np.random.Generator, strength: float, n_maps: int = 5
) -> pd.DataFrame:
    """Put all compounds of a mechanism on one of a few plate maps, each of which moves its treated wells.

    Both modalities do so: TX knows the map and, by it, something of the mechanism. Plates may have no effects of their
    own yet. Controls, which don't move, are dealt out to the maps.
    """
    maps = table[COMPOUND].map(pd.Series(truth["moa"] % n_maps, truth["compound"]))
    number = maps.fillna(pd.Series(np.arange(len(table)) % n_maps, table.index)).astype(int).astype(str)
    plates = table[PLATE].str[:3] + number + table[PLATE].str[-2:]  # CP-01-2 becomes CP-4-2
    return moved(table.assign(**{PLATE: plates}), maps, strength, rng)


def by_chemistry(table: pd.DataFrame, truth: dict, rng: np.random.Generator, strength: float) -> pd.DataFrame:
    """Let both modalities show a compound's scaffold, which mechanisms prefer: TX knows chemistry, no mechanism."""
    return moved(table, table[COMPOUND].map(truth["scaffold_of"]), strength, rng)


def by_activity(table: pd.DataFrame, truth: dict, rng: np.random.Generator, strength: float) -> pd.DataFrame:
    """Let both modalities show how strongly a treatment acts, in one direction for all compounds."""
    acts = pd.DataFrame(truth["amplitude"][:, None] * truth["response"], truth["compound"], truth["doses"])
    of_wells = acts.stack().reindex(pd.MultiIndex.from_frame(table[[COMPOUND, DOSE]])).fillna(0.0)
    return moved(table, pd.Series("acts", table.index), strength * of_wells, rng)


IDENTITY = {"shared_strength": 0.0, "n_tasks": 64}
NO_PLATE_EFFECTS = {"plate_strength": 0.0, "cp_position": 0.0, "tx_position": 0.0}
TX_STRONG = {"shared_strength": 4.0, "cp_only": 0.0, "cp_position": 0.0, "n_tasks": 64, "task_noise": 0.3}
# What a setting may have: knobs of the simulator, for a small screen; a change of its tables of wells; standard
# deviations of noise that methods without TX see on normalised CP; and of which comparison the expected effect is 0 by
# construction: with a control, in claims 2 and 3 (in the others some labels depend on what TX shows, and codes of
# training compounds remember it), or, in all claims, with a method's "twin", which then is its only reference: the
# method itself, with TX replicates of its own.
PLAIN = {"knobs": IDENTITY, "change": lambda table, truth, rng: table, "reference_noise": 0.0, "zero": "none"}
SETTINGS = {
    "identity-only": PLAIN | {"zero": "deranged"},
    "activity-only": PLAIN | {"knobs": IDENTITY | {"tx_only": 0.0}, "change": partial(by_activity, strength=0.5)},
    # Strengths with which the nearest stranger is on the own map for 0.3, 0.5 and 0.9 of CP wells; by chance for 0.2.
    **{
        f"plates-{name}": PLAIN
        | {
            "knobs": IDENTITY | NO_PLATE_EFFECTS,
            "change": partial(co_plated, strength=strength),
            "zero": "deranged_in_plate",
        }
        for name, strength in (("weak", 0.1), ("middle", 0.2), ("strong", 0.4))
    },
    "boundary-a": PLAIN | {"reference_noise": 1.0, "zero": "deranged"},
    "boundary-b": PLAIN | {"knobs": TX_STRONG | {"n_tx_replicates": 4}, "zero": "twin"},
    "chemistry": PLAIN | {"change": partial(by_chemistry, strength=0.3)},
    # Aimed at 0.01, 0.02 and 0.04 mAP of claim 3, contrastive over deranged; the table tells what they came to.
    **{
        f"effect-{name}": PLAIN | {"knobs": IDENTITY | {"shared_strength": strength}}
        for name, strength in (("half", 0.5), ("once", 0.7), ("twice", 1.0))
    },
    "tx-strong": PLAIN | {"knobs": TX_STRONG},
}


# --- one screen, and many -------------------------------------------------------------------------------------


def prepared_folds(setting: dict, seed: int, size: str) -> tuple[Screen, list, list]:
    """Simulate a screen: it, its folds as methods without TX see them, and as those with TX do.

    The latter are lists of prepared folds: one, or a second one for twins, with the other half of the TX replicates.
    """
    rng, settings = np.random.default_rng([seed, 3]), simulation.simulation_settings(size, **setting["knobs"])
    screen = simulation.simulate_screen(size, seed=seed, **setting["knobs"])
    truth = simulation.simulate_truth(settings, seed) | {
        "doses": settings.doses,
        "scaffold_of": screen.compounds.set_index(COMPOUND)["SMILES"].map(MurckoScaffoldSmiles),
    }
    cp, tx = (
        preprocessing.normalise_plates(setting["change"](table, truth, rng))[0] for table in (screen.cp, screen.tx)
    )
    folds = splits.compound_folds(screen.compounds, n_folds=3, seed=seed)
    noisy = moved(cp, pd.Series(np.arange(len(cp))), setting["reference_noise"], rng)
    is_second = tx[PLATE].str[-1].astype(int) > settings.n_tx_replicates / 2
    with_tx = [(cp, tx[~is_second]), (cp, tx[is_second])] if setting["zero"] == "twin" else [(cp, tx)]
    prepared = [list(crossfit.prepare_folds(*one, screen.compounds, folds)) for one in [(noisy, tx), *with_tx]]
    return screen, prepared[0], prepared[1:]


def fitted(
    names: Sequence[str], folds: list, draws: dict, seed: int, **training
) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Fit methods with the notebooks' parameters, which are the encoders' defaults: wells and consensus of each."""
    encoders = {name: METHODS[name](**training) for name in names}
    results, left_out = crossfit.crossfit_all(encoders, folds, draws, first_seed=seed, progress=False)
    assert not left_out, left_out
    return {name: (one.wells, one.consensus) for name, one in results.items()}


def weigh_screen(
    name: str, seed: int, *, size: str = "small", min_active: int = 25, n_bootstrap: int = 2000, **training
) -> pd.DataFrame:
    """Simulate one screen of a setting and weigh its claims with each method.

    Parameters
    ----------
    name, seed
        Of `SETTINGS`, and of the simulation, folds, encoders and bootstrap.
    size, min_active, n_bootstrap, **training
        Of the screen, notebook 06, notebook 07 and networks; for quick tests.

    Returns
    -------
    DataFrame
        `COLUMNS`, a row a method, claim and comparison, target families too. The row over raw CP (or the only one,
        where nothing can be tested) has comparison, attribution and verdict; `planted` is 0, or NaN where the effect
        has to be measured.
    """
    setting, start = SETTINGS[name], time.time()
    screen, seen, (folds, *of_twins) = prepared_folds(setting, seed, size)
    compounds, groups = screen.compounds, compound_groups(screen.compounds)
    tables = fitted(CP_ONLY, seen, {}, seed)
    labels, _ = bioactivity.label_matrix(
        screen.activity, screen.tasks, compounds[COMPOUND], min_active=min_active, min_inactive=min_active
    )
    choice = {method: consensus for method, (_, consensus) in tables.items()} | crossfit.oracle_consensus(
        folds, tables["raw_cp"][1]
    )
    chosen = bioactivity.choose_tasks(choice, labels, groups=groups, seed=seed)
    for method in TWINS:
        draws, own = (LINEAR_DRAWS, {}) if method in LINEAR_TX else (NETWORK_DRAWS, training)
        tables |= fitted([method], folds, draws, seed, **own)
        for other in of_twins:  # with other seeds
            twin = fitted([method], other, {"true_pairs": draws["true_pairs"]}, seed + 500_000, **own)[method]
            tables[TWINS[method]] = [table.assign(method=TWINS[method], control="") for table in twin]
    wells, consensus = zip(*tables.values(), strict=True)
    predicted = [one[(one["control"] != "deranged") | (one["seed"] < 2)] for one in consensus]
    endpoints = claims.bootstrap_endpoints(
        replicate_per_treatment=clustering.by_fold(wells, clustering.replicate_clustering),
        moa_per_compound=pd.concat([clustering.moa_clustering_by_fold(one, compounds)[0] for one in consensus]),
        predictions=bioactivity.join_predictions([bioactivity.predict_folds(one, labels) for one in predicted]),
        chosen=chosen,
        tasks=screen.tasks,
        groups=groups,
        moa_groups=claims.mechanism_groups(compounds, groups),
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
    rows = pd.concat([decisive_rows(name, endpoints, method) for method in TWINS], ignore_index=True)
    return rows.assign(seed=seed, seconds=round(time.time() - start, 1))[COLUMNS]


def decisive_rows(name: str, endpoints: dict, method: str) -> pd.DataFrame:
    """`COLUMNS` but seed and seconds: the comparisons on which a method's verdicts rest."""
    zero, twin = SETTINGS[name]["zero"], TWINS[method]
    references = {claim: (twin,) for claim in endpoints} if zero == "twin" else claims.REFERENCES
    table = claims.weigh_claims(name, endpoints, methods=(method,), references=references)
    pairs = zip(table["claim"], table["reference"], strict=True)
    is_leg = [one in ("", "raw_cp", *claims.TX_CONTROLS, *references[claim]) for claim, one in pairs]
    table = table[np.array(is_leg) & (table["method"] == method)]
    reference = table["reference"].replace(twin, "twin") if zero == "twin" else table["reference"]
    is_zero = (reference == zero) & (table["claim"].isin([2, 3]) | (zero == "twin"))
    return table.assign(
        setting=name,
        reference=reference,
        se=table["detectable"] / claims.DETECTABLE_IN_STANDARD_ERRORS,
        planted=np.where(is_zero, 0.0, np.nan),
    )


def weigh_many(name: str, folder: Path, n_screens: int, *, first_seed: int = 1000, jobs: int = 1, **options) -> None:
    """`weigh_screen` for those seeds of a setting that aren't in its file in `folder` yet, which grows by each."""
    path = folder / f"{name}.csv"
    done = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    todo = [seed for seed in range(first_seed, first_seed + n_screens) if seed not in set(done["seed"])]
    with ProcessPoolExecutor(jobs) as pool:
        for table in (pool.map if jobs > 1 else map)(partial(weigh_screen, name, **options), todo):
            done = pd.concat([done, table]) if len(done) else table
            done.to_csv(path.with_suffix(".part"), index=False, float_format="%.6g")
            path.with_suffix(".part").replace(path)  # whole or not at all
            print(f"{name}, seed {table['seed'].iloc[0]}: {table['seconds'].iloc[0]} s", flush=True)


# --- what many screens show -----------------------------------------------------------------------------------


def legs_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How often each comparison errs, from rows of `weigh_screen` of any number of screens and settings.

    Returns
    -------
    DataFrame
        `KEY` and: screens; the true effect `truth`, 0 where that is `by_construction`, else the mean over screens (of
        claim 4, that of the family which is second best in the mean); `effect`, the mean; how often the interval was
        above 0 (`rejected`, and `share` with its exact 95% interval, Clopper and Pearson 1934), above the truth
        (`above`: what is rejected where the truth is at the boundary), and held the truth (`coverage`); and the mean
        standard error over the standard deviation across screens (`se_over_sd`; of claim 4 the mean of that over
        families).
    """
    rows = rows.dropna(subset="p_value")  # without claims that can't be tested, and families of few tasks
    of_family = rows["endpoint"].str.contains(":")
    units = rows[of_family | (rows["claim"] != 4)].groupby([*KEY, "endpoint"], sort=False)
    truth = units["effect"].mean().groupby(KEY).apply(lambda means: means.nlargest(2).iloc[-1])  # claims 1 to 3: one
    rows = rows[~of_family].join(truth.rename("truth"), on=KEY)
    rows = rows.assign(by_construction=rows["planted"].notna(), truth=rows["planted"].fillna(rows["truth"]))
    rows = rows.assign(
        share=rows["ci_low"] > 0,
        above=rows["ci_low"] > rows["truth"],
        coverage=rows["truth"].between(rows["ci_low"], rows["ci_high"]),
    )
    by_leg = rows.groupby(KEY, sort=False)
    table = (
        by_leg[["truth", "by_construction", "effect", "share", "above", "coverage"]]
        .mean()
        .astype({"by_construction": bool})
    )
    table["rejected"], table["screens"] = by_leg["share"].sum(), by_leg.size()
    table["ci_low"], table["ci_high"] = proportion_confint(table["rejected"], table["screens"], method="beta")
    table["se_over_sd"] = (units["se"].mean() / units["effect"].std()).groupby(KEY).mean()
    return table.reset_index()


def confusion_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Number of screens by setting, method and claim with each verdict, and with attribution `shown` and `excluded`."""
    heads = rows.dropna(subset="verdict").fillna({"attribution": ""})
    cells = [heads[name] for name in KEY[:3]]
    answers = pd.crosstab(cells, heads["attribution"]).reindex(columns=["shown", "excluded"], fill_value=0)
    return pd.crosstab(cells, heads["verdict"]).reindex(columns=VERDICTS, fill_value=0).join(answers).reset_index()


def main() -> None:
    """Weigh the screens that lack, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screens", type=int, default=100, help="screens a setting (default: 100)")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--first-seed", type=int, default=1000, help="seeds count from here (default: 1000)")
    options = parser.parse_args()
    (RESULTS / "verdicts").mkdir(parents=True, exist_ok=True)
    for name in [name for name in SETTINGS if name in options.settings]:
        weigh_many(name, RESULTS / "verdicts", options.screens, first_seed=options.first_seed, jobs=options.jobs)
    paths = sorted((RESULTS / "verdicts").glob("*.csv"))
    for name, summary in (("verdict_legs", legs_table), ("verdict_confusion", confusion_table)) if paths else ():
        summary(pd.concat(map(pd.read_csv, paths))).to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
