"""Which choices make the encoders what they are? From the full form, change one at a time.

python benchmarks/ablation.py            # both screens, some minutes
python benchmarks/ablation.py --quick    # one fold of the simulated screen, one repeat of the real one
python benchmarks/ablation.py --mirror DIR   # read cmea-u2os from a folder laid out as HOST/PATH

The full forms are the encoders with their default parameters: heads with one hidden layer on whitened principal
components of CP and of TX. All forms are fitted on true and on deranged pairs, and compared on the same unseen
compounds: brackets hold 95% intervals of the difference to the full form, compounds resampled. The intervals know
nothing of other derangements or seeds. The table goes to benchmarks/results/ablation.csv, and to the screen as
Markdown.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cpx_utils import clustering, crossfit, preprocessing, splits
from cpx_utils.datasets import read_screen
from cpx_utils.encoders import METHODS, ON_DISCRIMINANTS, Encoder
from cpx_utils.metrics import retrieval_scores
from cpx_utils.profiles import ScreenError

RESULTS = Path(__file__).resolve().parent / "results"
DRAWS = {"true_pairs": 1, "deranged": 1}
# What changes, by method: the form of an encoder, then its numbers by a factor of two or more.
BOTH = {
    "linear heads": {"hidden": ()},
    "no noise": {"input_noise": 0.0},
    "input noise 1": {"input_noise": 1.0},
    "all TX components": {"n_tx_components": 10_000},
    "on discriminants": ON_DISCRIMINANTS,
    "whitening shrinkage 0.5": {"whitening_shrinkage": 0.5},
    "learning rate 0.02": {"learning_rate": 0.02},
}
CHANGES = {
    "contrastive": {
        "full form": {},
        **BOTH,
        "50 CP components": {"n_cp_components": 50},
        "temperature 0.15": {"temperature": 0.15},
        "temperature 0.6": {"temperature": 0.6},
    },
    "autoencoder": {
        "full form": {},
        **BOTH,
        "100 CP components": {"n_cp_components": 100},
        "CP weight 0.2": {"cp_weight": 0.2},
        "CP weight 1": {"cp_weight": 1.0},
    },
}
MIN_COMPOUNDS = 20  # a mean over fewer says nothing
LINEAR = ("ridge_tx", "rcca")  # beside the contrastive encoder, for scale
MEASURES = {
    "near": "own TX profile in the nearest tenth",
    "rank_share": "mean rank of the own TX profile",
    "replicate_map": "replicate mAP",
    "moa_map": "MoA mAP",
}


def prepared_screen(dataset: str, n_folds: int, n_repeats: int, mirror: str = "") -> tuple[list, pd.DataFrame]:
    """Folds and compounds of a screen, prepared as notebook 01 and its followers do."""
    screen = read_screen(dataset, mirror=mirror)
    cp, tx = (preprocessing.normalise_plates(table)[0] for table in (screen.cp, screen.tx))
    folds = splits.compound_folds(screen.compounds, n_folds=n_folds, n_repeats=n_repeats, seed=0)
    return list(crossfit.prepare_folds(cp, tx, screen.compounds, folds)), screen.compounds


def measure(name: str, encoder: Encoder, prepared, compounds: pd.DataFrame) -> pd.DataFrame:
    """Fit one form on one fold, on true and deranged pairs: `control`, `measure`, `compound`, `value`."""
    results, left_out = crossfit.crossfit_all({name: encoder}, [prepared], DRAWS, progress=False)
    if left_out:
        raise ScreenError(left_out[name])
    result = results[name]
    tables = [retrieval_scores(result.retrieval).melt(["control", "compound"], ["near", "rank_share"], "measure")]
    wells = clustering.by_fold([result.wells], clustering.replicate_clustering)
    replicates = wells.groupby(["control", "compound"], as_index=False)["replicate_map"].mean()
    tables.append(replicates.melt(["control", "compound"], ["replicate_map"], "measure"))
    mechanisms, _ = clustering.moa_clustering_by_fold(result.consensus, compounds)
    mechanisms = mechanisms.rename(columns={"average_precision": "moa_map"})
    tables.append(mechanisms.melt(["control", "compound"], ["moa_map"], "measure"))
    return pd.concat(tables, ignore_index=True).dropna(subset="value")


def measure_screen(folds: list, compounds: pd.DataFrame, name: str) -> pd.DataFrame:
    """Every form on every fold: `method`, `form`, and the columns of `measure`."""
    tables = []
    for prepared in tqdm(folds, desc=name):
        for method, changes in CHANGES.items():
            for form, change in changes.items():
                table = measure(method, METHODS[method](**change), prepared, compounds)
                tables.append(table.assign(method=method, form=form))
        for method in LINEAR:
            table = measure(method, METHODS[method](), prepared, compounds)
            tables.append(table.assign(method="contrastive", form=method))
    return pd.concat(tables, ignore_index=True)


def compare(values: pd.DataFrame, n_bootstrap: int = 2000) -> pd.DataFrame:
    """Mean of every form, and its difference to the full form with a 95% interval, compounds resampled.

    Parameters
    ----------
    values
        `method`, `form`, `control`, `measure`, `compound`, `value`; repeats of a compound are averaged first.
    n_bootstrap
        Resamples.

    Returns
    -------
    DataFrame
        `method`, `form`, `control`, `measure`, `value`, `difference`, `ci_low`, `ci_high`, `n_compounds`; measures of
        fewer than `MIN_COMPOUNDS` compounds are left out.
    """
    rows = []
    for (method, control, name), part in values.groupby(["method", "control", "measure"], sort=False):
        table = part.pivot_table(index="compound", columns="form", values="value", sort=False)
        if len(table) < MIN_COMPOUNDS:
            continue
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=n_bootstrap) / len(table)
        for form in table:
            difference = (table[form] - table["full form"]).to_numpy()
            low, high = np.quantile(drawn @ difference, [0.025, 0.975])
            rows.append((method, form, control, name, table[form].mean(), difference.mean(), low, high, len(table)))
    names = ["method", "form", "control", "measure", "value", "difference", "ci_low", "ci_high", "n_compounds"]
    return pd.DataFrame(rows, columns=names)


def markdown(table: pd.DataFrame) -> str:
    """The table for a README: a row a screen and form, true and deranged side by side."""
    measures = [name for name in MEASURES if name in set(table["measure"])]
    head = ["screen", "encoder", "form", *(f"{MEASURES[name]}: true / deranged" for name in measures)]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for (screen, method, form), part in table.groupby(["screen", "method", "form"], sort=False):
        cells = []
        for name in measures:
            rows = part[part["measure"] == name].set_index("control")
            if not len(rows):
                cells.append("–")
                continue
            true = rows.loc["true_pairs"]
            change = "" if form == "full form" else f" ({true['ci_low']:+.3f} to {true['ci_high']:+.3f})"
            cells.append(f"{true['value']:.3f}{change} / {rows.loc['deranged', 'value']:.3f}")
        lines.append("| " + " | ".join([screen, method, form, *cells]) + " |")
    return "\n".join(lines).replace("-0.", "−0.")


def main() -> None:
    """Measure both screens, write the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer folds")
    parser.add_argument("--mirror", default="", help="folder or address to read downloads from instead")
    given = parser.parse_args()
    torch.set_num_threads(1)  # many small matrices: more threads only wait for each other
    tables = []
    for dataset, n_folds, n_repeats in (("simulated", 3, 1), ("cmea-u2os", 5, 1 if given.quick else 3)):
        try:
            folds, compounds = prepared_screen(dataset, n_folds, n_repeats, given.mirror)
        except ScreenError as error:
            print(f"{dataset} is left out: {error}")
            continue
        folds = folds[:1] if given.quick and dataset == "simulated" else folds
        tables.append(compare(measure_screen(folds, compounds, dataset)).assign(screen=dataset))
    table = pd.concat(tables, ignore_index=True)
    table = table[["screen", *(name for name in table if name != "screen")]]
    if not given.quick:
        RESULTS.mkdir(exist_ok=True)
        table.to_csv(RESULTS / "ablation.csv", index=False, float_format="%.6g")
    print(markdown(table))


if __name__ == "__main__":
    main()
