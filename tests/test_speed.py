"""The speed benchmark: both sides do the same work and agree; no assertion here depends on a clock."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cpx_utils.encoders import ContrastiveEncoder

ROOT = Path(__file__).resolve().parents[1]
TINY = {"compounds": 120, "features": 410, "tasks": 6, "embedding": 20, "scaled up": 1, "profiles": 80,
        "memory": 80, "pairs": 240, "ensemble": 60, "epochs": 2, "deep_epochs": 1, "wells": 40, "base": 0.02,
        "starts": 1, "study": ["--profile", "smoke"]}  # fmt: skip


@pytest.fixture(scope="module")
def speed(load_benchmark):
    return load_benchmark("run")


@pytest.mark.parametrize(
    ("values", "unit", "wanted", "ratio", "met"),
    [
        ((2.0, 8.0), "s", 3, 4.0, True),
        ((2.0, 8.0), "s", 5, 4.0, False),
        ((1000.0, 4000.0), "MB", 1, 4.0, True),
        ((40.0, 80.0), "GFLOP/s", 0.5, 0.5, True),
        ((40.0, 90.0), "GFLOP/s", 0.5, 40 / 90, False),
        ((1.05, 1.0), "exponent", np.nan, 1.05, True),
        ((2.2, 2.0), "exponent", np.nan, 1.1, False),
    ],
)
def test_a_row_says_whether_what_is_wanted_is_met(speed, values, unit, wanted, ratio, met):
    made = speed.row("work", "ours", "theirs", values, unit=unit, wanted=wanted, difference=0.1, tolerance=0.2)
    assert made["ratio"] == pytest.approx(ratio) and bool(made["met"]) == met and made["equal"]
    assert not speed.row("work", "ours", "theirs", values, difference=0.3, tolerance=0.2)["equal"]
    open_row = speed.row("work", "ours", "theirs", values)
    assert np.isnan(open_row["met"]) and np.isnan(open_row["equal"])
    assert set(made) == set(speed.COLUMNS) - {"group"}


def test_profiles_have_the_spectrum_of_real_ones(speed):
    profiles, _ = speed.correlated_profiles(1500, 300, np.random.default_rng(0))
    share = np.sort(np.linalg.eigvalsh(np.corrcoef(profiles.T)))[::-1] / 300
    assert 0.2 < share[0] < 0.4
    assert 0.6 < share[:8].sum() < 0.85 and share[:19].sum() < 0.95


def test_many_tasks_agree_with_loops_where_both_are_exact(speed):
    rows = pd.DataFrame(speed.many_tasks(TINY))
    assert (
        rows["theirs"].str.startswith(("LogisticRegression", "random forest", "RidgeClassifierCV")).all()
        and len(rows) == 4
    )
    exact = rows[rows["theirs"].str.startswith("RidgeClassifierCV")].iloc[0]
    assert exact["equal"] and exact["difference"] < 1e-6
    assert rows["difference"].notna().all() and (rows["value"] > 0).all()


def test_areas_agree_with_scikit_learn(speed):
    rows = pd.DataFrame(speed.areas(TINY))
    assert len(rows) == 2 and rows["equal"].astype(bool).all() and (rows["difference"] < 1e-10).all()


def test_maps_agree_with_copairs(speed, monkeypatch):
    monkeypatch.setattr(speed, "in_child", lambda what, number: (1.0, 100.0))
    rows = pd.DataFrame(speed.maps(TINY))
    compared = rows[rows["compared"] != ""]
    assert len(compared) == 1 and compared["equal"].astype(bool).all()
    memory = rows[rows["unit"] == "MB"].iloc[0]
    assert memory["met"] and memory["value"] == 100


def test_memory_is_measured_in_a_process_that_does_nothing_else(speed, capsys):
    speed.child(80)
    seconds, megabytes = json.loads(capsys.readouterr().out)
    assert seconds > 0 and 50 < megabytes < 100_000


def test_networks_run_beside_their_loops(speed):
    rows = pd.DataFrame(speed.networks(TINY))
    loops, products = rows[rows["unit"] == "s"], rows[rows["unit"] == "GFLOP/s"]
    assert len(loops) == 2 * 5 + 1 and len(products) == 5
    assert loops["theirs"].str.startswith("DataLoader loop").all()
    assert loops["theirs"].str.contains("scaled up").tolist() == loops["ours"].str.contains("12 networks").tolist()
    assert rows.loc[rows["unit"] == "s", "difference"].notna().all()


def test_both_ways_to_train_reach_the_same_loss(speed):
    cp, tx = speed.planted_pairs(500, 30, 40)
    encoder = ContrastiveEncoder(n_members=1, max_epochs=60, validation_share=0.0, input_noise=0.5)
    encoder.fit(cp[:400], tx[:400], groups=np.arange(400))
    inputs = speed.network_inputs(encoder, cp, tx)
    network = speed.dataloader_training(encoder, inputs[0][:400], inputs[1][:400], 60)
    losses = [speed.unseen_loss(one, [part[400:] for part in inputs]) for one in (encoder.networks_[0], network)]
    assert losses[0] < 0.8 * np.log(100)
    assert losses[0] == pytest.approx(losses[1], abs=0.1)


def test_products_of_a_step_are_those_of_forward_and_backward(speed):
    encoder, n, n_cp, n_tx, k = ContrastiveEncoder(), 40, 7, 9, 32
    products = speed.products_of_a_step(encoder, n, n_cp, n_tx)
    heads = 2 * n * k * (n_cp + n_tx)  # forward; backward once more, since inputs need no gradient
    logits = 2 * n * n * k  # forward; backward twice
    assert products.flops == 2 * heads + 3 * logits
    assert products.seconds() > 0


def test_tables_hold_the_same_values_in_both_formats(speed):
    assert speed.tables(TINY)[0]["equal"]


def test_first_imports_are_found_in_every_notebook(speed):
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert len(notebooks) >= 8
    for notebook in notebooks:
        code = speed.first_imports(notebook)
        assert "from cpx_utils" in code
        compile(code, notebook.name, "exec")


def test_the_study_is_timed_by_its_own_table(speed, monkeypatch):
    def run_all(call, **options):
        assert call[2:4] == ["--profile", "smoke"]
        folder = Path(call[call.index("--results") + 1]) / "simulated" / "smoke" / "tables"
        folder.mkdir(parents=True)
        steps = [("01", "total", 50.0), ("01", "kernel start", 1.0), ("02", "total", 30.0), ("02", "kernel start", 2.0)]
        pd.DataFrame(steps, columns=["stage", "step", "seconds"]).to_csv(folder / "timings.csv", index=False)

    monkeypatch.setattr(speed.subprocess, "run", run_all)
    beside, limit, kernels = speed.study(TINY)
    assert beside["value_theirs"] == 80.0 and limit["value_theirs"] == 240.0 and limit["met"]
    assert kernels["value"] == 3.0 and kernels["value_theirs"] == pytest.approx(limit["value"] / 4)
    assert limit["what"] == "run_all.py --profile smoke"


def test_scaling_fits_an_exponent_to_every_kind_of_work(speed, monkeypatch):
    rows, curves = speed.scaling(0.02)
    assert len(rows) == len(speed.GROWTH) and (curves.groupby("work").size() == 4).all()
    assert (curves.groupby("work")["size"].agg(lambda sizes: sizes.max() / sizes.min()) == 8).all()
    clock = {100: 1.0, 200: 4.0, 400: 16.0, 800: 64.0}
    monkeypatch.setattr(speed, "GROWTH", {"squares": ("things", 100, 2.0, lambda n: n)})
    monkeypatch.setattr(speed, "timed", lambda n, repeats: (clock[n], None))
    rows, curves = speed.scaling(1.0)
    assert rows[0]["value"] == pytest.approx(2) and rows[0]["met"]
    assert curves["seconds"].tolist() == list(clock.values())


def test_a_group_measured_again_replaces_its_rows_only(speed, tmp_path):
    path = tmp_path / "results" / "speed.csv"
    speed.written(path, pd.DataFrame({"group": ["a", "a", "b"], "value": [1.0, 2.0, 3.0]}), "group")
    after = speed.written(path, pd.DataFrame({"group": ["a"], "value": [9.0]}), "group")
    assert after.to_dict("list") == {"group": ["b", "a"], "value": [3.0, 9.0]}
