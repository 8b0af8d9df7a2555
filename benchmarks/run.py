"""How fast is it? Each row: ours beside what people would use, on the same data in one run, results compared.

python benchmarks/run.py                       # everything, about ten minutes on two cores
python benchmarks/run.py --quick               # everything in small, for a look; nothing is written
python benchmarks/run.py --only maps start-up  # some groups of rows, into the table of all

Both sides get the same number of threads (`--threads`, 1 by default, as a notebook of the study has), a warm-up, and
the best of several runs where a run is short. The table goes to benchmarks/results/speed.csv, curves of time against
size to figures/benchmarks/scaling; update_readme.py copies both into the README. No random number of one side reaches
the other: where both train on noise of their own, what is compared is the loss on unseen pairs.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from cpx_utils import bioactivity, clustering, metrics, preprocessing
from cpx_utils.encoders import ContrastiveEncoder
from cpx_utils.losses import info_nce
from cpx_utils.networks import TwoTower
from cpx_utils.profiles import COMPOUND, CONTROL, DOSE, PLATE, WELL
from cpx_utils.provenance import save_figure
from cpx_utils.simulation import planted_pairs

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "speed.csv"
SCALING = ROOT / "benchmarks" / "results" / "speed_scaling.csv"
FIGURE = ROOT / "figures" / "benchmarks" / "scaling"
N_PENALTIES = 25
# Sizes of the full table, and of a look at it.
SIZES = {
    False: {"compounds": 1300, "features": 1000, "tasks": 300, "embedding": 300, "scaled up": 4, "profiles": 5000,
            "memory": 52_000, "pairs": 10_000, "ensemble": 400, "epochs": 25, "deep_epochs": 5, "wells": 8000,
            "base": 1.0, "starts": 5, "study": []},
    True: {"compounds": 200, "features": 450, "tasks": 12, "embedding": 30, "scaled up": 1, "profiles": 600,
           "memory": 2000, "pairs": 600, "ensemble": 100, "epochs": 3, "deep_epochs": 1, "wells": 200, "base": 0.1,
           "starts": 1, "study": ["--profile", "smoke"]},
}  # fmt: skip
COLUMNS = ["group", "what", "ours", "theirs", "unit", "value", "value_theirs", "ratio", "wanted", "met", "compared",
           "difference", "tolerance", "equal"]  # fmt: skip


def row(
    what: str,
    ours: str,
    theirs: str,
    values: tuple[float, float],
    *,
    unit: str = "s",
    wanted: float = np.nan,
    compared: str = "",
    difference: float = np.nan,
    tolerance: float = np.nan,
) -> dict[str, Any]:
    """One row of the table.

    Parameters
    ----------
    what, ours, theirs
        The work with its size, and the two ways to do it.
    values
        Ours and theirs. Of seconds and megabytes fewer are better and `ratio` is theirs over ours; else ours over
        theirs.
    unit
        `s`, `MB`, `GFLOP/s`, or `exponent` (of time against size; theirs is the limit, met within a tenth).
    wanted
        The smallest ratio that will do.
    compared, difference, tolerance
        What of the results was compared, by how much it differs at most, and how much it may.
    """
    ratio = values[1] / values[0] if unit in ("s", "MB") else values[0] / values[1]
    met = np.nan if np.isnan(wanted) else ratio >= wanted
    if unit == "exponent":
        met = values[0] <= values[1] + 0.1
    equal = np.nan if np.isnan(difference) else difference <= tolerance
    return dict(zip(COLUMNS[1:], (what, ours, theirs, unit, *values, ratio, wanted, met, compared, difference,
                                  tolerance, equal), strict=True))  # fmt: skip


def timed(function: Callable[[], Any], repeats: int = 3, warm_up: bool = True) -> tuple[float, Any]:
    """Seconds of the quickest of some runs, after a warm-up, and what the last one returned."""
    if warm_up:
        function()
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


# --- data -------------------------------------------------------------------------------------------------------


def correlated_profiles(n: int, d: int, rng: np.random.Generator, n_factors: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Profiles (n, d) with a spectrum like that of real ones, and the factors (n, n_factors) behind them.

    As on cmea-u2os: the first component holds about 29% of the variance, 8 hold 80% and 19 hold 90%.
    """
    share = np.arange(1, n_factors + 1) ** -1.2
    share *= 0.95 / share.sum()
    factors = rng.normal(size=(n, n_factors))
    mixing = rng.normal(size=(n_factors, d)) * np.sqrt(share)[:, None]
    return factors @ mixing + np.sqrt(0.05) * rng.normal(size=(n, d)), factors


def assays(n: int, d: int, t: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardised profiles (n, d), and labels (n, t) of tasks that read their factors, a quarter of them missing."""
    rng = np.random.default_rng(seed)
    profiles, factors = correlated_profiles(n, d, rng)
    score = factors @ rng.normal(size=(factors.shape[1], t)) / np.sqrt(factors.shape[1]) + 0.7 * rng.normal(size=(n, t))
    rate = rng.uniform(0.1, 0.5, size=t)
    labels = (score > [np.quantile(one, 1 - share) for one, share in zip(score.T, rate, strict=True)]).astype(float)
    labels[rng.random((n, t)) < rng.uniform(0, 0.5, size=t)] = np.nan
    return (profiles - profiles.mean(0)) / profiles.std(0), labels


def plated_profiles(n: int, d: int, replicates: int = 4, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Wells of n / replicates treatments, each on as many plates, and their profiles (n, d)."""
    rng = np.random.default_rng(seed)
    compound = np.repeat(np.arange(n // replicates), replicates)
    points = 0.5 * rng.normal(size=(len(compound) // replicates, d))[compound] + rng.normal(size=(len(compound), d))
    wells = pd.DataFrame(
        {
            COMPOUND: [f"C{number:06d}" for number in compound],
            DOSE: 1.0,
            PLATE: [f"P{number}" for number in np.tile(np.arange(replicates), len(compound) // replicates)],
            WELL: "A01",
            CONTROL: False,
        }
    )
    return wells, points.astype(np.float32)


# --- many tasks -------------------------------------------------------------------------------------------------


def logistic_scores(X: np.ndarray, Y: np.ndarray, new: np.ndarray, *, choose: bool = False) -> np.ndarray:
    """Scores (n_new, t) of one scikit-learn LogisticRegression a task, run to convergence.

    With its default penalty, or with one chosen by LogisticRegressionCV: 10 penalties, five folds.
    """
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    options = {"l1_ratios": (0.0,), "use_legacy_attributes": False, "scoring": "neg_log_loss"} if choose else {}
    make = partial(LogisticRegressionCV if choose else LogisticRegression, max_iter=10_000, **options)
    scores = np.empty((len(new), Y.shape[1]))
    for task, labels in enumerate(Y.T):
        known = ~np.isnan(labels)
        model = make().fit(X[known], labels[known])
        assert np.max(model.n_iter_) < 10_000
        scores[:, task] = model.decision_function(new)
    return scores


def forest_scores(X: np.ndarray, Y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Scores (n_new, t) of one scikit-learn random forest of 500 trees a task."""
    from sklearn.ensemble import RandomForestClassifier

    scores = np.empty((len(new), Y.shape[1]))
    for task, labels in enumerate(Y.T):
        known = ~np.isnan(labels)
        forest = RandomForestClassifier(n_estimators=500, random_state=0).fit(X[known], labels[known])
        scores[:, task] = forest.predict_proba(new)[:, 1]
    return scores


def ridge_loop_scores(X: np.ndarray, Y: np.ndarray, new: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Scores (n_new, t) of one scikit-learn RidgeClassifierCV a task, with the penalties that ours tries."""
    from sklearn.linear_model import RidgeClassifierCV

    scores = np.empty((len(new), Y.shape[1]))
    for task, labels in enumerate(Y.T):
        known = ~np.isnan(labels)
        centred = X[known] - X[known].mean(0)
        unit = (centred**2).sum() / min(known.sum() - 1, X.shape[1])
        scores[:, task] = RidgeClassifierCV(penalties * unit).fit(X[known], labels[known]).decision_function(new)
    return scores


def shortfall(labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> float:
    """By how much our median ROC-AUC is below theirs; 0 where it isn't."""
    return max(0.0, float(np.nanmedian(metrics.roc_auc(labels, theirs)) - np.nanmedian(metrics.roc_auc(labels, ours))))


def many_tasks(size: dict) -> list[dict]:
    """Linear classifiers for hundreds of tasks beside loops over them."""
    n, d, t = size["compounds"], size["features"], size["tasks"]
    grid = np.logspace(-2.5, 3, N_PENALTIES)
    X, Y = assays(n + n // 2, d, t)
    X = (X - X[:n].mean(0)) / X[:n].std(0)
    train, new, known = X[:n], X[n:], Y[n:]

    def ours(tasks: slice = slice(None), width: int = d) -> np.ndarray:
        model = bioactivity.ManyTaskRidgeClassifier(penalties=grid).fit(train[:, :width], Y[:n, tasks])
        return model.decision_function(new[:, :width])

    fast, scores = timed(ours)
    slow, by_logistic = timed(lambda: logistic_scores(train, Y[:n], new), 1, warm_up=False)
    name = f"{t} tasks x {n:,} compounds x {d:,} features, labels missing"
    auc = "median ROC-AUC on unseen compounds, shortfall"
    rows = [
        row(name, f"ManyTaskRidgeClassifier, {N_PENALTIES} penalties", "LogisticRegression loop, one penalty",
            (fast, slow), wanted=100, compared=auc, difference=shortfall(known, scores, by_logistic),
            tolerance=0.005),
    ]  # fmt: skip
    n_some = size["scaled up"]
    for theirs, loop in (
        ("LogisticRegressionCV loop, 10 penalties, five folds", partial(logistic_scores, choose=True)),
        ("random forest loop, 500 trees", forest_scores),
    ):
        some, loop = slice(n_some), partial(loop, train, Y[:n, :n_some], new)
        seconds, by_loop = timed(loop, 1, warm_up=False)
        rows.append(
            row(name, "the same", f"{theirs}, scaled up from {n_some} tasks", (fast, seconds * t / n_some),
                compared=auc, difference=shortfall(known[:, some], scores[:, some], by_loop), tolerance=0.005)
        )  # fmt: skip
    width = size["embedding"]
    fast, scores = timed(partial(ours, width=width))
    slow, by_loop = timed(lambda: ridge_loop_scores(train[:, :width], Y[:n], new[:, :width], grid), 1, warm_up=False)
    rows.append(
        row(f"{t} tasks x {n:,} compounds x {width} features, labels missing", "the same",
            "RidgeClassifierCV loop, same penalties", (fast, slow), compared="scores, largest difference",
            difference=np.abs(scores - by_loop).max(), tolerance=1e-6)
    )  # fmt: skip
    return rows


def areas(size: dict) -> list[dict]:
    """Areas under curves of all tasks at once beside a loop over scikit-learn's."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    _, labels = assays(size["compounds"], 50, size["tasks"])
    scores = np.nan_to_num(labels) + np.random.default_rng(1).normal(size=labels.shape)

    def loop(score: Callable) -> np.ndarray:
        known = ~np.isnan(labels)
        return np.array([score(labels[k, j], scores[k, j]) for j, k in enumerate(known.T)])

    rows = []
    for name, ours, theirs, wanted in (
        ("ROC-AUC", metrics.roc_auc, roc_auc_score, 30.0),
        ("PR-AUC", metrics.pr_auc, average_precision_score, np.nan),
    ):
        fast, mine = timed(partial(ours, labels, scores), 10)
        slow, reference = timed(partial(loop, theirs), 3)
        rows.append(
            row(f"{name} of {size['tasks']} tasks x {size['compounds']:,} compounds, labels missing",
                f"metrics.{ours.__name__}", f"{theirs.__name__} loop", (fast, slow), wanted=wanted,
                compared="areas, largest difference", difference=np.abs(mine - reference).max(), tolerance=1e-10)
        )  # fmt: skip
    return rows


# --- clustering -------------------------------------------------------------------------------------------------


def copairs_map(wells: pd.DataFrame, points: np.ndarray, n_null: int = 0) -> pd.DataFrame:
    """Replicate mAP of each treatment by copairs, as `clustering.replicate_clustering` defines it; p with a null."""
    from copairs.map import average_precision, mean_average_precision

    meta = wells[[COMPOUND, PLATE]]
    by_query = average_precision(meta, points, [COMPOUND], [PLATE], [], [COMPOUND], progress_bar=False)
    if n_null:
        return mean_average_precision(by_query, [COMPOUND], n_null, 0.05, seed=0, progress_bar=False, max_workers=1)
    return by_query.groupby(COMPOUND, as_index=False)["average_precision"].mean()


def maps(size: dict) -> list[dict]:
    """Replicate clustering beside copairs: time, values, a permutation null, and memory at the size of LINCS."""
    n = size["profiles"]
    wells, points = plated_profiles(n, 200)
    fast, ours = timed(lambda: clustering.replicate_clustering(wells, points), 2)
    slow, theirs = timed(lambda: copairs_map(wells, points), 2)
    mine = ours.set_index("compound")["replicate_map"]
    reference = theirs.set_index(COMPOUND)["average_precision"][mine.index]
    values = {
        "compared": "mAP of each treatment, largest difference",
        "difference": np.abs(mine - reference).max(),
        "tolerance": 1e-6,
    }
    name = f"replicate mAP of {n:,} profiles x 200 features"
    ours = "replicate_clustering, silhouette included"
    rows = [row(name, ours, "copairs", (fast, slow), wanted=5, **values)]
    fast, _ = timed(lambda: clustering.replicate_p_values(wells, points, n_null=2000), 1)
    slow, _ = timed(lambda: copairs_map(wells, points, 2000), 1)
    rows.append(
        row(f"permutation p of {n // 4:,} treatments, 2,000 null draws", "replicate_p_values, queries of a "
            "treatment together", "copairs, queries alone", (fast, slow))
    )  # fmt: skip
    seconds, megabytes = in_child("memory", size["memory"])
    what = f"replicate mAP of {size['memory']:,} profiles x 200 features, a process of its own"
    rows.append(row(what, f"replicate_clustering ({seconds:.0f} s)", "limit", (megabytes, 4096.0), unit="MB", wanted=1))
    return rows


def in_child(what: str, number: int) -> tuple[float, float]:
    """Run a task of this file in a fresh process: its seconds, and its peak memory in megabytes."""
    call = [sys.executable, str(Path(__file__).resolve()), "--child", what, str(number)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    answer = subprocess.run(call, check=True, capture_output=True, text=True, env=environment)
    return tuple(json.loads(answer.stdout.splitlines()[-1]))


def child(number: int) -> None:
    """What `in_child` runs: replicate clustering of so many profiles."""
    wells, points = plated_profiles(number, 200)
    start = time.perf_counter()
    clustering.replicate_clustering(wells, points)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(json.dumps([seconds, peak]))


# --- networks ---------------------------------------------------------------------------------------------------


def dataloader_training(
    encoder: ContrastiveEncoder, cp: torch.Tensor, tx: torch.Tensor, epochs: int, n_workers: int = 0
) -> TwoTower:
    """Train the same network as people write it: DataLoader, automatic differentiation, AdamW."""
    torch.manual_seed(1)
    network = encoder._network(cp.shape[1], tx.shape[1])
    optimiser = torch.optim.AdamW(network.parameters(), lr=encoder.learning_rate, weight_decay=encoder.weight_decay)
    loader = DataLoader(TensorDataset(cp, tx), batch_size=encoder.batch_size, shuffle=True, num_workers=n_workers)
    for _ in range(epochs):
        for cp_batch, tx_batch in loader:
            batch = cp_batch, tx_batch
            if encoder.input_noise:
                batch = [one + encoder.input_noise * torch.randn_like(one) for one in batch]
            loss = info_nce(*network(*batch), network.temperature)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


class Products(TorchDispatchMode):
    """Notes the shapes of all matrix products that torch computes: `shapes`, a list of (rows, inner, columns)."""

    def __init__(self):
        super().__init__()
        self.shapes: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = args[-2:]
            self.shapes.append((*left.shape, right.shape[1]))
        return function(*args, **(kwargs or {}))

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each element of the inner dimension."""
        return sum(2 * rows * inner * columns for rows, inner, columns in self.shapes)

    def seconds(self) -> float:
        """The time that the same products take alone, on ready matrices."""
        pairs = [(torch.randn(rows, inner), torch.randn(inner, columns)) for rows, inner, columns in self.shapes]
        repeats = max(1, int(2e9 / self.flops))
        return timed(lambda: [torch.mm(*pair) for _ in range(repeats) for pair in pairs], 5)[0] / repeats


def products_of_a_step(encoder: ContrastiveEncoder, n_pairs: int, n_cp: int, n_tx: int) -> Products:
    """The matrix products of one training step, forward and backward, as automatic differentiation needs them."""
    network = encoder._network(n_cp, n_tx)
    batch = [torch.randn(n_pairs, n) for n in (n_cp, n_tx)]
    with Products() as products:
        info_nce(*network(*batch), network.temperature).backward()
    return products


def training_seconds(make: Callable[[int], ContrastiveEncoder], sets: list[tuple], epochs: int) -> tuple[float, Any]:
    """Seconds of the training alone, on several sets of pairs side by side; and the encoder of the first set.

    They are those of a fit less those of one without any epoch.
    """
    parts = [{"cp": cp, "tx": tx, "groups": np.arange(len(cp)), "controls": None} for cp, tx in sets]
    untrained, _ = timed(lambda: make(0).fit_parts(parts), 2)
    trained, fitted = timed(lambda: make(epochs).fit_parts(parts), 3)
    return trained - untrained, fitted[0][0]


def networks(size: dict) -> list[dict]:
    """Contrastive training beside a DataLoader loop and beside plain matrix products."""
    n, n_new = size["pairs"], min(500, size["pairs"] // 4)
    cp, tx = planted_pairs(n + n_new, 600, 978)
    rng = np.random.default_rng(0)
    sets = [(cp[:n], tx[:n]), *((cp[:n], tx[rng.permutation(n)]) for _ in range(3))]
    everything = {"n_cp_components": 600, "n_tx_components": 978, "cp_basis": "pca", "input_noise": 0.0,
                  "learning_rate": 0.002}  # fmt: skip
    linear, wide = "linear heads on 50 + 60 components, input noise", "linear heads on all 600 + 978 features, no noise"
    fold = "true pairs and three controls side by side, three networks each"
    # Name, parameters, epochs, sets of pairs, networks a set.
    forms = [
        (f"the study's form: {linear}", {}, size["epochs"], 1, 1),
        (f"the study's form; {fold}", {}, size["epochs"], 4, 3),
        (wide, everything, size["epochs"], 1, 1),
        (f"{wide}; {fold}", everything, size["epochs"], 4, 3),
        ("heads with 512 hidden units on all 600 + 978 features, no noise", everything | {"hidden": (512,)},
         size["deep_epochs"], 1, 1),
    ]  # fmt: skip
    rows = []
    for form, parameters, epochs, n_sets, n_members in forms:
        shared = {"validation_share": 0.0, "max_steps": 10**6, "device": "cpu", "n_members": n_members, **parameters}
        fast, encoder = training_seconds(
            lambda epochs, shared=shared: ContrastiveEncoder(max_epochs=epochs, **shared), sets[:n_sets], epochs
        )
        n_networks = n_sets * n_members
        ours = f"ContrastiveEncoder, {n_networks} networks" if n_networks > 1 else "ContrastiveEncoder, one network"
        scaled = ", scaled up from one network" if n_networks > 1 else ""
        inputs = [torch.as_tensor(one, dtype=torch.float32) for one in (encoder._cp_inputs(cp), encoder._tx_inputs(tx))]
        what = f"contrastive training, {n:,} pairs, {epochs} epochs, batches of {encoder.batch_size}; {form}"
        for n_workers in (0, 2):
            loop = partial(dataloader_training, encoder, inputs[0][:n], inputs[1][:n], epochs, n_workers)
            slow, network = timed(loop, 1)
            losses = [unseen_loss(one, [part[n:] for part in inputs]) for one in (encoder.networks_[0], network)]
            rows.append(
                row(what, ours, f"DataLoader loop, {n_workers} workers{scaled}", (fast, n_networks * slow),
                    wanted=3, compared="loss on unseen pairs (nats)", difference=abs(losses[0] - losses[1]),
                    tolerance=0.1)
            )  # fmt: skip
        steps = -(-n // encoder.batch_size)  # an epoch
        products = products_of_a_step(encoder, n // steps, *(one.shape[1] for one in inputs))
        flops = n_networks * products.flops * steps * epochs
        rates = [flops / fast / 1e9, products.flops / products.seconds() / 1e9]
        rows.append(
            row(f"products of forward and backward; {form}", ours, "the same products alone", tuple(rates),
                unit="GFLOP/s", wanted=0.5)
        )  # fmt: skip
    return rows + ensemble(cp[: size["ensemble"]], tx[: size["ensemble"]], size["epochs"])


def ensemble(cp: np.ndarray, tx: np.ndarray, epochs: int) -> list[dict]:
    """Three members of an ensemble side by side, beside a DataLoader loop for each."""
    shared = {"validation_share": 0.0, "max_steps": 10**6, "device": "cpu"}
    fast, encoder = training_seconds(
        lambda epochs: ContrastiveEncoder(n_members=3, max_epochs=epochs, **shared), [(cp, tx)], epochs
    )
    inputs = [torch.as_tensor(one, dtype=torch.float32) for one in (encoder._cp_inputs(cp), encoder._tx_inputs(tx))]
    slow, networks = timed(lambda: [dataloader_training(encoder, *inputs, epochs) for _ in range(3)], 2)
    losses = [np.mean([unseen_loss(one, inputs) for one in some]) for some in (encoder.networks_, networks)]
    what = f"contrastive training, {len(cp):,} pairs, {epochs} epochs, three members; the study's form"
    return [
        row(what, "ContrastiveEncoder, members side by side", "DataLoader loop a member", (fast, slow), wanted=3,
            compared="loss on the training pairs (nats)", difference=abs(losses[0] - losses[1]), tolerance=0.1)
    ]  # fmt: skip


def unseen_loss(network: TwoTower, pairs: list[torch.Tensor]) -> float:
    """InfoNCE of pairs, without noise."""
    with torch.no_grad():
        return info_nce(*network(*pairs), network.temperature).item()


# --- tables, start-up -------------------------------------------------------------------------------------------


def tables(size: dict) -> list[dict]:
    """A table of profiles from parquet and from CSV."""
    n = size["wells"]
    wells, points = plated_profiles(n, 600)
    table = pd.concat([wells, pd.DataFrame(points, columns=[f"Cells_{k}" for k in range(600)])], axis=1)
    with tempfile.TemporaryDirectory() as name:
        parquet, csv = Path(name, "cp.parquet"), Path(name, "cp.csv")
        table.to_parquet(parquet)
        table.to_csv(csv, index=False)
        fast, ours = timed(lambda: pd.read_parquet(parquet), 3)
        slow, theirs = timed(lambda: pd.read_csv(csv), 2)
    features = [column for column in table if column.startswith("Cells_")]
    difference = np.abs(ours[features].to_numpy() - theirs[features].to_numpy(np.float32)).max()
    what = f"reading {n:,} profiles x 600 features"
    return [row(what, "parquet", "CSV by pandas", (fast, slow), compared="values, largest difference",
                difference=difference, tolerance=1e-6)]  # fmt: skip


def first_imports(notebook: Path) -> str:
    """The import statements of a notebook's first code cell that has any."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = [line.rstrip() for cell in cells if cell["cell_type"] == "code" for line in cell["source"]]
    return "\n".join(line for line in lines if line.startswith(("import ", "from ")))


def start_kernel() -> None:
    """Start a kernel, wait until it answers, and end it."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager()
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=300)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def start_up(size: dict) -> list[dict]:
    """What starting takes: Python alone, a kernel, and each notebook's imports, Python included."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}

    def run(code: str) -> float:
        call = [sys.executable, "-c", code]
        return timed(lambda: subprocess.run(call, check=True, env=environment, cwd=ROOT), size["starts"])[0]

    bare = run("pass")
    kernel, _ = timed(start_kernel, size["starts"])
    rows = [row("start of a kernel until it answers", "ipykernel", "python -c pass", (kernel, bare))]
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        what = f"imports of {notebook.stem}, Python included"
        rows.append(row(what, "first cell", "python -c pass", (run(first_imports(notebook)), bare)))
    return rows


# --- the whole study --------------------------------------------------------------------------------------------


def study(size: dict) -> list[dict]:
    """The study on the simulated screen, from nothing, and how much of its time kernels take to start."""
    with tempfile.TemporaryDirectory() as name:
        call = [sys.executable, str(ROOT / "run_all.py"), *size["study"]]
        call += ["--results", f"{name}/results", "--figures", f"{name}/figures"]
        start = time.perf_counter()
        subprocess.run(call, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        (timings,) = Path(name).glob("results/*/*/tables/timings.csv")
        steps = pd.read_csv(timings).groupby("step")["seconds"].sum()
    what = " ".join(["run_all.py", *size["study"]])
    return [
        row(what, "from nothing, as many notebooks side by side as there are cores", "sum of its notebooks' times",
            (seconds, steps["total"])),
        row(what, "the same", "limit that is set", (seconds, 240.0), wanted=1),
        row(f"{what}: start of kernels", "of all notebooks", "a quarter of its time",
            (steps["kernel start"], seconds / 4), wanted=1),
    ]  # fmt: skip


# --- scaling ----------------------------------------------------------------------------------------------------


def fit_assays(n: int, d: int, t: int) -> Callable[[], Any]:
    """Many-task classifiers on so many compounds, features and tasks."""
    X, Y = assays(n, d, t)
    return lambda: bioactivity.ManyTaskRidgeClassifier().fit(X, Y)


def train_pairs(n: int) -> Callable[[], Any]:
    """Contrastive training on so many compounds of two wells each, ten epochs."""
    cp, tx = planted_pairs(n, 200, 300)
    wells, groups = np.repeat(cp, 2, axis=0), np.repeat(np.arange(n), 2)
    wells = wells + np.random.default_rng(2).normal(size=wells.shape)
    encoder = ContrastiveEncoder(n_members=1, max_epochs=10, max_steps=10**6, validation_share=0.0, device="cpu")
    return lambda: encoder.fit(wells, np.repeat(tx, 2, axis=0), groups=groups)


def prepare_wells(n: int) -> Callable[[], Any]:
    """Selection and scaling of the features of so many wells."""
    table = pd.DataFrame(plated_profiles(n, 300)[1], columns=[f"Cells_{k}" for k in range(300)])
    return lambda: preprocessing.FeaturePreparation().fit(table).transform(table)


def cluster_wells(n: int) -> Callable[[], Any]:
    """Replicate clustering of so many wells."""
    return partial(clustering.replicate_clustering, *plated_profiles(n, 100))


# What grows, the smallest size, the highest exponent allowed, and the work for a size.
GROWTH: dict[str, tuple[str, int, float, Callable[[int], Callable[[], Any]]]] = {
    "contrastive training": ("compounds", 1000, 1.0, train_pairs),
    "preparation of features": ("wells", 4000, 1.0, prepare_wells),
    "replicate clustering": ("wells", 1500, 2.0, cluster_wells),
    "many-task classifiers, by compounds": ("compounds", 600, 1.0, lambda n: fit_assays(n, 200, 40)),
    "many-task classifiers, by features": ("features", 64, 2.0, lambda n: fit_assays(600, n, 40)),
    "many-task classifiers, by tasks": ("tasks", 20, 1.0, lambda n: fit_assays(600, 200, n)),
}


def scaling(base: float) -> tuple[list[dict], pd.DataFrame]:
    """Seconds over a factor of 8 in size, with the exponent of time against size: rows, and the curves."""
    rows, points = [], []
    for work, (unit, smallest, limit, make) in GROWTH.items():
        sizes = [max(20, int(smallest * base)) * factor for factor in (1, 2, 4, 8)]
        seconds = [timed(make(n), 2)[0] for n in sizes]
        exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        what = f"{work}: time against {unit}, {sizes[0]:,} to {sizes[-1]:,}"
        rows.append(row(what, f"{seconds[0]:.2g} to {seconds[-1]:.2g} s", "limit", (exponent, limit), unit="exponent"))
        points += [(work, unit, n, one, exponent, limit) for n, one in zip(sizes, seconds, strict=True)]
    return rows, pd.DataFrame(points, columns=["work", "unit", "size", "seconds", "exponent", "limit"])


# --- the table --------------------------------------------------------------------------------------------------

GROUPS: dict[str, Callable[[dict], list[dict]]] = {
    "many tasks": many_tasks,
    "areas": areas,
    "maps": maps,
    "networks": networks,
    "tables": tables,
    "start-up": start_up,
    "study": study,
}


def machine() -> str:
    """The processor's name and the number of its cores that are ours."""
    name = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        lines = described.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def written(path: Path, table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Put a table into a file in place of the rows there that it measures again; returns what the file holds."""
    if path.is_file():
        before = pd.read_csv(path)
        table = pd.concat([before[~before[key].isin(table[key])], table], ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6g")
    return pd.read_csv(path)


def main() -> None:
    """Measure what was asked for, write table and picture, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*GROUPS, "scaling"], help="groups of rows to measure")
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing is written")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    threadpool_limits(given.threads)
    if given.child:
        return child(int(given.child[1]))
    parts, curves = [], None
    for group in given.only or [*GROUPS, "scaling"]:
        start = time.perf_counter()
        if group == "scaling":
            rows, curves = scaling(SIZES[given.quick]["base"])
        else:
            rows = GROUPS[group](SIZES[given.quick])
        parts.append(pd.DataFrame(rows).assign(group=group)[COLUMNS])
        print(f"{group}: {time.perf_counter() - start:.0f} s", flush=True)
        print(parts[-1].drop(columns=["group"]).to_string(index=False), flush=True)
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(threads=given.threads, machine=machine(), date=date.today().isoformat())
    if given.quick:
        return None
    written(TABLE, table, "group")
    if curves is not None:
        curves = written(SCALING, curves, "work")
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        growing = curves.groupby("work")[["exponent", "limit"]].first()
        faster = int((growing["exponent"] > growing["limit"] + 0.1).sum())
        title = "Over a factor of 8 in size, time grows as the dotted lines allow, or more slowly"
        title = title if not faster else f"{faster} of {len(growing)} kinds of work grow faster than the dotted lines"
        save_figure(draw_scaling(curves, title), FIGURE, curves)
    return None


def draw_scaling(curves: pd.DataFrame, title: str) -> Figure:
    """Seconds by size on logarithmic axes, a panel a kind of work; dotted, the growth that is allowed."""
    works = list(dict.fromkeys(curves["work"]))
    fig = Figure(figsize=(7.2, 2.4 * -(-len(works) // 3)), layout="constrained")
    fig.suptitle(title)
    for ax, work in zip(fig.subplots(-(-len(works) // 3), 3, squeeze=False).ravel(), works, strict=False):
        own = curves[curves["work"] == work].sort_values("size")
        exponent, limit = own[["exponent", "limit"]].iloc[0]
        ax.plot(
            own["size"], own["seconds"].iloc[0] * (own["size"] / own["size"].iloc[0]) ** limit, color="grey", ls=":"
        )
        ax.plot(own["size"], own["seconds"], marker="o")
        ax.set(xscale="log", yscale="log", xlabel=own["unit"].iloc[0], ylabel="seconds")
        ax.minorticks_off()
        ax.set_xticks(own["size"].iloc[[0, -1]], [f"{size:,.0f}" for size in own["size"].iloc[[0, -1]]])
        ax.set_title(f"{textwrap.fill(work, 26)}\nexponent {exponent:.2f}, dotted {limit:.0f}", size=9)
    return fig


if __name__ == "__main__":
    main()
