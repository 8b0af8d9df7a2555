"""How fast is it? Each row: ours beside what people would use, on the same data in one run, results compared.

    python benchmarks/speed.py                    # everything, some minutes; writes benchmarks/results/speed.csv
    python benchmarks/speed.py --quick            # everything in small, for a look; nothing is written
    python benchmarks/speed.py --only maps study  # some groups, into the table of all

Both sides get one thread, as a notebook of the study has, a warm-up, and the best of several runs where a run is short.
Only ratios mean anything: seconds are those of one machine in one hour.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, TensorDataset

from cpx_utils import bioactivity, clustering, metrics
from cpx_utils.encoders import ContrastiveEncoder
from cpx_utils.losses import info_nce
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "speed.csv"
FULL = {"compounds": 600, "features": 400, "tasks": 100, "loop": 5, "profiles": 5000, "pairs": 10_000, "epochs": 10}
QUICK = {"compounds": 200, "features": 60, "tasks": 12, "loop": 2, "profiles": 400, "pairs": 500, "epochs": 2}


def row(what: str, ours: str, theirs: str, seconds: tuple[float, float], compared: str = "", difference=np.nan) -> dict:
    """A row of the table; `seconds` are ours and theirs, `difference` that of their results."""
    return {
        "what": what,
        "ours": ours,
        "theirs": theirs,
        "seconds": seconds[0],
        "seconds_theirs": seconds[1],
        "ratio": seconds[1] / seconds[0],
        "compared": compared,
        "difference": difference,
    }


def timed(function: Callable, repeats: int = 3) -> tuple[float, object]:
    """Seconds of the quickest of some runs, and what the last one returned; of a single run without a warm-up."""
    if repeats > 1:
        function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def assays(n: int, d: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Profiles (n, d) of forty factors, and labels (n, t) of tasks that read these, a quarter of them missing."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(n, 40))
    profiles = factors @ rng.normal(size=(40, d)) + rng.normal(size=(n, d))
    readout = factors @ rng.normal(size=(40, t)) + 4 * rng.normal(size=(n, t))
    labels = (readout > np.quantile(readout, 0.75, axis=0)).astype(float)
    labels[rng.random((n, t)) < 0.25] = np.nan
    return (profiles - profiles.mean(0)) / profiles.std(0), labels


def many_tasks(size: dict) -> list[dict]:
    """Linear classifiers for hundreds of tasks beside a loop over scikit-learn's."""
    from sklearn.linear_model import LogisticRegressionCV

    n, t, n_loop = size["compounds"], size["tasks"], size["loop"]
    X, Y = assays(2 * n, size["features"], t)
    model = bioactivity.ManyTaskRidgeClassifier()
    fast, _ = timed(lambda: model.fit(X[:n], Y[:n]))
    scores = model.decision_function(X[n:])

    legacy = {"use_legacy_attributes": False}

    def loop() -> np.ndarray:
        columns = []
        for labels in Y[:n, :n_loop].T:
            known = ~np.isnan(labels)
            one = LogisticRegressionCV(scoring="neg_log_loss", max_iter=10_000, l1_ratios=(0.0,), **legacy)
            columns.append(one.fit(X[:n][known], labels[known]).decision_function(X[n:]))
        return np.column_stack(columns)

    slow, reference = timed(loop, 1)
    auc = [np.nanmedian(metrics.roc_auc(Y[n:, :n_loop], one)) for one in (scores[:, :n_loop], reference)]
    what = f"{t} tasks x {n:,} compounds x {size['features']:,} features, penalty chosen"
    theirs = f"LogisticRegressionCV loop, scaled up from {n_loop} tasks"
    return [row(what, "ManyTaskRidgeClassifier", theirs, (fast, slow * t / n_loop), "median ROC-AUC", auc[0] - auc[1])]


def areas(size: dict) -> list[dict]:
    """Areas under ROC curves of all tasks at once beside a loop over scikit-learn's."""
    from sklearn.metrics import roc_auc_score

    _, labels = assays(size["compounds"], 50, size["tasks"])
    scores = np.nan_to_num(labels) + np.random.default_rng(1).normal(size=labels.shape)
    known = ~np.isnan(labels)
    fast, ours = timed(partial(metrics.roc_auc, labels, scores), 10)
    slow, theirs = timed(lambda: [roc_auc_score(labels[k, j], scores[k, j]) for j, k in enumerate(known.T)])
    what = f"ROC-AUC of {size['tasks']} tasks x {size['compounds']:,} compounds"
    difference = np.abs(ours - np.array(theirs)).max()
    return [row(what, "metrics.roc_auc", "roc_auc_score loop", (fast, slow), "largest difference", difference)]


def maps(size: dict) -> list[dict]:
    """Replicate clustering beside copairs."""
    from copairs.map import average_precision

    rng = np.random.default_rng(0)
    n = size["profiles"] // 4
    compound = np.repeat(np.arange(n), 4)
    points = (0.5 * rng.normal(size=(n, 200))[compound] + rng.normal(size=(4 * n, 200))).astype(np.float32)
    wells = pd.DataFrame({COMPOUND: [f"C{number:06d}" for number in compound], DOSE: 1.0, WELL: "A01", CONTROL: False})
    wells[PLATE] = np.tile(["P0", "P1", "P2", "P3"], n)
    fast, ours = timed(lambda: clustering.replicate_clustering(wells, points))
    meta = wells[[COMPOUND, PLATE]]
    call = partial(average_precision, meta, points, [COMPOUND], [PLATE], [], [COMPOUND], progress_bar=False)
    slow, theirs = timed(call, 1)
    theirs = theirs.groupby(COMPOUND)["average_precision"].mean()
    difference = np.abs(ours.set_index("compound")["replicate_map"] - theirs).max()
    what = f"replicate mAP of {4 * n:,} profiles x 200 features"
    return [row(what, "replicate_clustering", "copairs", (fast, slow), "mAP, largest difference", difference)]


def training(size: dict) -> list[dict]:
    """Contrastive training beside the loop that people write: DataLoader, automatic differentiation, AdamW."""
    n, n_new, epochs = size["pairs"], size["pairs"] // 10, size["epochs"]
    rng = np.random.default_rng(0)
    shared = 0.6 * rng.normal(size=(n + n_new, 10))
    cp, tx = ((shared @ rng.normal(size=(10, d)) + rng.normal(size=(n + n_new, d))).astype("f4") for d in (600, 978))
    make = partial(ContrastiveEncoder, validation_share=0.0, max_steps=10**6, device="cpu")
    groups = np.arange(n)
    prepared, _ = timed(lambda: make(max_epochs=0).fit(cp[:n], tx[:n], groups), 2)
    whole, encoder = timed(lambda: make(max_epochs=epochs).fit(cp[:n], tx[:n], groups), 2)
    inputs = [torch.as_tensor(x) for x in (encoder._inputs("cp", cp), encoder._inputs("tx", tx))]

    def loop():
        torch.manual_seed(1)
        network = encoder._untrained()
        optimiser = torch.optim.AdamW(network.parameters(), lr=encoder.learning_rate, weight_decay=encoder.weight_decay)
        loader = DataLoader(TensorDataset(*(x[:n] for x in inputs)), batch_size=encoder.batch_size, shuffle=True)
        for _ in range(epochs):
            for batch in loader:
                loss = info_nce(*network(*batch), encoder.temperature)  # the heads make noise of their own
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return network.eval()

    slow, network = timed(loop, 2)
    with torch.no_grad():
        losses = [info_nce(*net(*(x[n:] for x in inputs)), encoder.temperature) for net in (encoder.network_, network)]
    what = f"contrastive training, {n:,} pairs, {epochs} epochs, default heads"
    difference = float(losses[0] - losses[1])
    return [
        row(what, "ContrastiveEncoder", "DataLoader loop", (whole - prepared, slow), "loss, unseen pairs", difference)
    ]


def study(size: dict) -> list[dict]:
    """The study on the simulated screen from nothing, and a second run in which nothing is stale."""
    call = [sys.executable, str(ROOT / "run_all.py"), "--jobs", "2", *(["--profile", "smoke"] if size is QUICK else [])]
    with tempfile.TemporaryDirectory() as folder:
        call += ["--results", f"{folder}/results", "--figures", f"{folder}/figures"]
        seconds = [timed(lambda: subprocess.run(call, check=True, capture_output=True), 1)[0] for _ in range(2)]
    return [row("run_all.py, two notebooks at a time", "nothing is stale", "from nothing", (seconds[1], seconds[0]))]


GROUPS = {"many-tasks": many_tasks, "areas": areas, "maps": maps, "training": training, "study": study}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    rows = []
    with threadpool_limits(1):
        for name in options.only:
            rows += [{"group": name, **one} for one in GROUPS[name](QUICK if options.quick else FULL)]
            print(pd.DataFrame(rows[-1:]).T.to_string(header=False), end="\n\n", flush=True)
    if not options.quick:
        table = pd.DataFrame(rows).assign(date=date.today().isoformat(), cores=os.cpu_count())
        if TABLE.is_file():
            kept = pd.read_csv(TABLE)
            table = pd.concat([kept[~kept["group"].isin(options.only)], table], ignore_index=True)
        table.to_csv(TABLE, index=False, float_format="%.4g")
    return 0


if __name__ == "__main__":
    sys.exit(main())
