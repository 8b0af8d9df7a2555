"""What does a GPU change: seconds, and by how much do results differ from those of the CPU?

python benchmarks/device.py                  # networks of several sizes, then the whole study on either device
python benchmarks/device.py --only networks  # one of both parts, into the table of both
python benchmarks/device.py --devices cpu    # a look on a machine without a GPU; nothing is written

Networks are trained on the CPU (on as many threads as torch takes by itself) and on the GPU, with the same seeds, on
the same pairs, which share ten effects. The study is run on both at the same time, as `run_all.py -p device=...` does
it. The two devices draw other noise from the same seed and add in another order, so tables are not the same bytes; the
table benchmarks/results/device.csv says how far apart they are, and whether a verdict depends on the device.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cpx_utils.encoders import AutoencoderEncoder, ContrastiveEncoder, Encoder
from cpx_utils.metrics import retrieval_rank
from cpx_utils.simulation import planted_pairs

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "device.csv"
DEVICES = ("cpu", "cuda")
N_NEW = 500  # unseen pairs, on which both devices' networks are compared
SHAPE = (600, 978)  # features of CP and TX
WIDE = {"n_cp_components": 600, "n_tx_components": 978, "cp_basis": "pca", "learning_rate": 0.002}
# Name, encoder, numbers of training pairs, its parameters.
NETWORKS: list[tuple[str, type[Encoder], tuple[int, ...], dict[str, Any]]] = [
    ("contrastive, the study's form", ContrastiveEncoder, (400, 10_000), {"max_epochs": 40}),
    ("autoencoder, the study's form", AutoencoderEncoder, (400, 10_000), {"max_epochs": 40}),
    ("contrastive, 512 hidden units on all features", ContrastiveEncoder, (400, 10_000),
     {"max_epochs": 10, "hidden": (512,), **WIDE}),
    ("contrastive, 2,048 hidden units on all features, batches of 2,048", ContrastiveEncoder, (10_000,),
     {"max_epochs": 10, "hidden": (2048,), "batch_size": 2048, **WIDE}),
]  # fmt: skip


def finished(device: str) -> None:
    """Wait until a device has done what it was sent."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of one call, and what it returned."""
    finished(device)
    start = time.perf_counter()
    result = function()
    finished(device)
    return time.perf_counter() - start, result


def own_found(encoder: Encoder, cp: np.ndarray, tx: np.ndarray) -> float:
    """Share of unseen pairs whose own TX profile is the nearest of all to the CP profile."""
    return float(np.mean(retrieval_rank(encoder.transform(cp), encoder.transform_tx(tx)) == 0))


def train(kind: type[Encoder], parameters: dict, n: int, device: str) -> tuple[float, float]:
    """Train on so many pairs: seconds of the training alone, and the share of unseen pairs found again."""
    cp, tx = planted_pairs(n + N_NEW, *SHAPE, strength=0.08)  # so weak that not every pair is found again
    shared = {"n_members": 1, "validation_share": 0.0, "max_steps": 10**6, **parameters, "device": device}

    def fit(epochs: int) -> Encoder:
        return kind(**{**shared, "max_epochs": epochs}).fit(cp[:n], tx[:n], groups=np.arange(n))

    fit(1)  # kernels are loaded at their first use
    untrained, _ = seconds_of(lambda: fit(0), device)
    trained, encoder = seconds_of(lambda: fit(parameters["max_epochs"]), device)
    return trained - untrained, own_found(encoder, cp[n:], tx[n:])


def train_networks(devices: Iterable[str], largest: int = 10_000) -> list[dict]:
    """Train each network on each device, on at most so many pairs."""
    rows = []
    for name, kind, numbers, parameters in NETWORKS:
        for n in dict.fromkeys(min(number, largest) for number in numbers):
            what = f"{name}; {n:,} pairs, {parameters['max_epochs']} epochs"
            for device in devices:
                seconds, found = train(kind, parameters, n, device)
                rows += [
                    {"what": what, "item": "seconds", "device": device, "value": round(seconds, 3)},
                    {"what": what, "item": "unseen pairs found first", "device": device, "value": round(found, 4)},
                ]
    return rows


def product_rates(device: str, n: int = 4096) -> list[dict]:
    """TFLOP/s of a plain matrix product (n, n) x (n, n) in float32, as the study computes, and in bfloat16."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        left @ right
        seconds, _ = seconds_of(lambda left=left, right=right: [left @ right for _ in range(5)], device)
        name = str(dtype).removeprefix("torch.")
        rows.append({"what": f"matrix product {n:,} x {n:,}, {name}", "item": "TFLOP/s", "device": device,
                     "value": round(5 * 2 * n**3 / seconds / 1e12, 3)})  # fmt: skip
    return rows


def run_study(device: str, folder: Path, profile: str, jobs: int) -> tuple[float, Path]:
    """Run the whole study on the simulated screen; its seconds and its folder."""
    results = folder / device
    call = [sys.executable, str(ROOT / "run_all.py"), "--profile", profile, "--jobs", str(jobs), "-p",
            f"device={device}", "--results", str(results), "--figures", str(results / "figures")]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    start = time.perf_counter()
    subprocess.run(call, check=True, cwd=ROOT, env=environment)
    return time.perf_counter() - start, results / "simulated" / profile


def compare_studies(runs: dict[str, Path]) -> list[dict]:
    """How far the claims of two runs lie apart, by method, and which verdicts differ."""
    one, other = (pd.read_csv(run / "tables" / "claims.csv") for run in runs.values())
    keys = ["claim", "endpoint", "method", "reference"]
    both = one.merge(other, on=keys, suffixes=("", "_other"), how="outer", indicator=True)
    assert (both["_merge"] == "both").all(), "the two runs compare other things"
    rows = []
    for method, part in both.groupby("method"):
        apart = (part["effect"] - part["effect_other"]).abs().max()
        width = ((part["ci_high"] - part["ci_low"]) / 2).median()
        rows += [
            {"what": f"study, {method}", "item": "largest difference of an effect", "value": round(apart, 5)},
            {"what": f"study, {method}", "item": "half width of its interval, median", "value": round(width, 5)},
            {"what": f"study, {method}", "item": "verdicts that differ",
             "value": int((part["verdict"].fillna("") != part["verdict_other"].fillna("")).sum())},
        ]  # fmt: skip
    return [row | {"device": " and ".join(runs)} for row in rows]


def study(devices: Iterable[str], profile: str, jobs: int) -> list[dict]:
    """Run the study on each device, at the same time: its seconds, and how far apart the results of two devices are."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        calls = {device: pool.submit(run_study, device, Path(folder), profile, jobs) for device in devices}
        done = {device: call.result() for device, call in calls.items()}
        rows = [
            {"what": f"whole study, profile {profile}", "item": "seconds", "device": device, "value": round(seconds)}
            for device, (seconds, _) in done.items()
        ]
        runs = {device: run for device, (_, run) in done.items()}
        return rows + (compare_studies(runs) if len(runs) == 2 else [])


def main() -> None:
    """Train, run, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=DEVICES)
    parser.add_argument("--only", choices=("networks", "study"), help="one part")
    parser.add_argument("--profile", default="default", help="of the study")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="notebooks side by side")
    parser.add_argument("--table", type=Path, default=TABLE, help="where the table goes")
    given = parser.parse_args()
    if "cuda" in given.devices and not torch.cuda.is_available():
        parser.error("no GPU is there; --devices cpu looks at the CPU alone")
    parts = {
        "networks": lambda: (
            [row for device in given.devices for row in product_rates(device)] + train_networks(given.devices)
        ),
        "study": lambda: study(given.devices, given.profile, given.jobs),
    }
    for part in [given.only] if given.only else parts:
        table = pd.DataFrame(parts[part]()).assign(part=part)
        print(table.to_string(index=False), flush=True)
        if set(given.devices) == set(DEVICES):
            gpu = torch.cuda.get_device_name()
            machine = f"{gpu}; {os.cpu_count()} cores {platform.machine()}; torch {torch.__version__}"
            table = table.assign(machine=machine, date=date.today().isoformat())
            if given.table.is_file():
                table = pd.concat([pd.read_csv(given.table).query("part != @part"), table])
            table.to_csv(given.table, index=False)


if __name__ == "__main__":
    main()
