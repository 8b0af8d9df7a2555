"""How often does the verdict machine err, and how often does it find what is there?

python benchmarks/verdict_calibration.py                    # everything, about half an hour on two cores
python benchmarks/verdict_calibration.py --screens 20       # fewer screens a setting, for a quick look
python benchmarks/verdict_calibration.py --only null        # the permutation nulls alone

Each simulated screen goes through the study's own code, from plate normalisation to the claims table, with linear
methods in the part of the encoder. Where TX knows compounds and nothing else (shared_strength=0), every "supported" is
an error. Where CP shows shared biology weakly and TX shows it strongly, "supported" is what should come out. Tables go
to benchmarks/results/, the picture to figures/benchmarks/; update_readme.py copies both into the README.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from cpx_utils import bioactivity, claims, clustering, crossfit, plots, preprocessing, simulation, splits
from cpx_utils.encoders import METHODS
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, VERDICTS, compound_groups
from cpx_utils.provenance import save_figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CP_ONLY = ("raw_cp", "lda_identity")
PRIMARIES = ("rcca",)
# What is simulated: size, knobs, and how many screens of it.
SETTINGS = {
    "identity only, small": ("small", {"shared_strength": 0.0, "n_tasks": 64}, 200),
    # TX all but free of noise, and CP so weak that replicates alone teach little: where TX must help if it ever does.
    "TX strong, CP weak, default": (
        "default",
        {"shared_strength": 4.0, "cp_shared": 0.04, "cp_only": 0.0, "cp_position": 0.0, "task_noise": 0.3},
        40,
    ),
}
MAX_ERRORS = 0.05
POWER_WANTED = {1: 0.6, 2: 0.8, 3: 0.8}
LIMITS = {"identity only": dict.fromkeys((1, 2, 3, 4), MAX_ERRORS), "TX strong": POWER_WANTED}


def verdicts_of_screen(
    size: str, knobs: dict, seed: int, *, n_derangements: int = 4, n_bootstrap: int = 500
) -> pd.DataFrame:
    """Simulate one screen and weigh its claims with each linear TX method as the primary one.

    Parameters
    ----------
    size, knobs, seed
        Of `cpx_utils.simulation.simulate_screen`.
    n_derangements, n_bootstrap
        Draws of the deranged control a fold, and resamples.

    Returns
    -------
    DataFrame
        seed, method, claim, verdict, p_adjusted.
    """
    screen = simulation.simulate_screen(size, seed=seed, **knobs)
    cp, tx = (preprocessing.normalise_plates(table)[0] for table in (screen.cp, screen.tx))
    groups = compound_groups(screen.compounds)
    folds = splits.compound_folds(screen.compounds, n_folds=3, seed=seed)
    prepared = list(crossfit.prepare_folds(cp, tx, screen.compounds, folds))
    controls = {"true_pairs": 1, "deranged": n_derangements}
    encoders = {name: METHODS[name]() for name in (*CP_ONLY, *PRIMARIES)}
    results, left_out = crossfit.crossfit_all(encoders, prepared, controls, first_seed=seed, progress=False)
    assert not left_out, left_out
    oracle = crossfit.oracle_consensus(prepared, results["raw_cp"].consensus)["tx"]
    consensus = [one.consensus for one in results.values()]
    replicates = clustering.by_fold([one.wells for one in results.values()], clustering.replicate_clustering)
    moa = [clustering.moa_clustering_by_fold(table, screen.compounds)[0] for table in consensus]
    labels, _ = bioactivity.label_matrix(screen.activity, screen.tasks, screen.compounds[COMPOUND].to_numpy())
    predictions = [bioactivity.predict_folds(table, labels) for table in (*consensus, oracle)]
    endpoints = claims.bootstrap_endpoints(
        replicate_per_treatment=replicates,
        moa_per_compound=pd.concat(moa, ignore_index=True),
        predictions=pd.concat(predictions, ignore_index=True),
        tasks=screen.tasks,
        groups=groups,
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
    tables = []
    for primary in PRIMARIES:
        table = claims.weigh_claims(screen.name, endpoints, primary=primary)
        decided = table[table["verdict"].fillna("") != ""]
        tables.append(decided[["claim", "verdict", "p_adjusted"]].assign(method=primary, seed=seed))
    return pd.concat(tables, ignore_index=True)


def weigh_many(setting: str, n_screens: int, *, first_seed: int, n_jobs: int) -> pd.DataFrame:
    """`verdicts_of_screen` for many seeds of a setting, side by side: the tables one after the other."""
    size, knobs, _ = SETTINGS[setting]
    tables, start = [], time.time()
    # One process a core and one thread a process: small matrices gain nothing from more.
    with ProcessPoolExecutor(n_jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        seeds = range(first_seed, first_seed + n_screens)
        for done in as_completed([pool.submit(verdicts_of_screen, size, knobs, seed) for seed in seeds]):
            tables.append(done.result())
            if len(tables) % 20 == 0:
                print(f"{setting}: {len(tables)} of {n_screens} screens, {time.time() - start:.0f} s", flush=True)
    table = pd.concat(tables, ignore_index=True).assign(setting=setting)
    return table.sort_values(["method", "claim", "seed"], ignore_index=True)


def summary(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Share of screens whose claim is supported, with its exact 95% interval (Clopper and Pearson 1934).

    Parameters
    ----------
    verdicts
        setting, method, claim, seed, verdict.

    Returns
    -------
    DataFrame
        setting, method, claim, screens, supported, testable, share, ci_low, ci_high, limit.
    """
    from statsmodels.stats.proportion import proportion_confint

    rows = []
    for (setting, method, claim), part in verdicts.groupby(["setting", "method", "claim"], sort=False):
        n, supported = len(part), int((part["verdict"] == "supported").sum())
        low, high = proportion_confint(supported, n, method="beta")
        testable = int((part["verdict"] != "not testable").sum())
        limit = LIMITS.get(setting.split(",")[0], {}).get(claim, np.nan)
        rows.append((setting, method, claim, n, supported, testable, supported / n, low, high, limit))
    columns = "setting method claim screens supported testable share ci_low ci_high limit".split()
    return pd.DataFrame(rows, columns=columns)


def null_table(n_screens: int = 30, n_treatments: int = 100) -> pd.DataFrame:
    """Share of p below 0.05 under the null of the replicate mAP by number of replicates, with its 95% interval.

    Screens of Gaussian noise, one well of each treatment on each plate.
    """
    from statsmodels.stats.proportion import proportion_confint

    rows = []
    for n_replicates in (2, 3, 4, 6):
        names = [f"c{number:04d}" for number in range(n_treatments)] * n_replicates
        plates = np.repeat([f"p{plate}" for plate in range(n_replicates)], n_treatments)
        wells = pd.DataFrame({PLATE: plates, COMPOUND: names, DOSE: np.nan, CONTROL: False})
        p = np.concatenate([
            clustering.replicate_p_values(
                wells, np.random.default_rng([n_replicates, seed]).normal(size=(len(wells), 20)), seed=seed
            )["p_value"]
            for seed in range(n_screens)
        ])  # fmt: skip
        low, high = proportion_confint((p < 0.05).sum(), len(p), method="beta")
        rows.append((n_replicates, len(p), *[(p < level).mean() for level in (0.05, 0.01, 0.001)], low, high))
    columns = "n_replicates n_treatments below_0.05 below_0.01 below_0.001 ci_low ci_high".split()
    return pd.DataFrame(rows, columns=columns)


def main() -> None:
    """Run what was asked for, write tables and the picture, print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screens", type=int, help="screens a setting, instead of each setting's own number")
    parser.add_argument("--only", choices=["null", *SETTINGS], action="append", help="a part of it; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--first-seed", type=int, default=1000, help="seeds count from here")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    wanted = options.only or ["null", *SETTINGS]
    if "null" in wanted:
        nulls = null_table()
        nulls.to_csv(RESULTS / "permutation_null.csv", index=False)
        print(nulls.round(4).to_string(index=False), flush=True)
    path = RESULTS / "verdicts.csv"
    for setting in [name for name in SETTINGS if name in wanted]:
        n_screens = options.screens or SETTINGS[setting][2]
        made = weigh_many(setting, n_screens, first_seed=options.first_seed, n_jobs=options.jobs)
        # Each setting is written when it is done, so that an interruption loses one at most.
        before = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["setting"])
        pd.concat([before[before["setting"] != setting], made], ignore_index=True).to_csv(path, index=False)
        counts = made.groupby(["method", "claim", "verdict"]).size().unstack(fill_value=0)
        print(setting, counts.reindex(columns=VERDICTS, fill_value=0).to_string(), sep="\n", flush=True)
    if path.exists():
        table = summary(pd.read_csv(path))
        errors = table[table["limit"] == MAX_ERRORS]
        title = "Where TX knows identity only, at most {:.1%} of screens have a claim called supported".format(
            errors["share"].max()
        )
        figures = ROOT / "figures" / "benchmarks"
        figures.mkdir(parents=True, exist_ok=True)
        names = {"setting": table["setting"] + ", " + table["screens"].astype(str) + " screens"}
        names["claim"] = "claim " + table["claim"].astype(int).astype(str)
        drawn = table.assign(**names).rename(columns={"share": "mean"}).sort_values("claim", kind="stable")
        limits = drawn.groupby("setting")["limit"].max()  # that must not be passed, or must be reached
        look = {"row": "claim", "facet": "setting", "mark": "method", "filled": PRIMARIES, "line_label": "limit"}
        figure = plots.intervals(drawn, xlabel="called supported", line=limits.to_dict(), title=title, **look)
        save_figure(figure, figures / "verdict_calibration", table)


if __name__ == "__main__":
    main()
