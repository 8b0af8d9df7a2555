"""The full-size benchmark: what it reads off a finished run, and the README's table of it."""

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def full_size(load_benchmark):
    return load_benchmark("full_size")


@pytest.fixture
def run(tmp_path):
    """The tables of a finished run that the benchmark reads."""
    tables = tmp_path / "tables"
    tables.mkdir()
    steps = [("01_prepare_profiles", "total", 61.4, 900.2), ("01_prepare_profiles", "read", 5.0, 100.0)]
    steps += [("03_train_contrastive", "total", 300.0, 2100.0)]
    pd.DataFrame(steps, columns=["stage", "step", "seconds", "peak_mb"]).to_csv(tables / "timings.csv", index=False)
    claims = pd.DataFrame({"claim": [1, 1, 2], "verdict": ["supported", None, "not testable"]})
    claims.to_csv(tables / "claims.csv", index=False)
    predictions = pd.DataFrame({"task": ["a", "a", "b", "c"], "tested": [True, True, True, False]})
    predictions.to_parquet(tables / "predictions.parquet")
    ranks = [("contrastive", "true_pairs", rank, 21) for rank in (0, 2, 3, 20)]
    ranks += [("contrastive", "deranged", rank, 21) for rank in (1, 9, 10, 15)]
    ranks += [("contrastive_soft", "true_pairs", 0, 21)]
    columns = ["method", "control", "rank", "n_candidates"]
    pd.DataFrame(ranks, columns=columns).to_csv(tables / "retrieval_03.csv", index=False)
    return tmp_path


def test_a_run_is_measured_by_its_own_tables(full_size, run):
    table = full_size.measure("cdrp-bio", run, 700.4)
    values = table.set_index(["what", "item"])["value"].to_dict()
    assert values == {
        ("wall clock", "seconds"): 700,
        ("seconds", "01_prepare_profiles"): 61,
        ("peak MB", "01_prepare_profiles"): 900,
        ("seconds", "03_train_contrastive"): 300,
        ("peak MB", "03_train_contrastive"): 2100,
        ("verdict", "claim 1"): "supported",
        ("verdict", "claim 2"): "not testable",
        ("tested", "tasks"): 2,
        ("own TX in the nearest tenth", "true_pairs"): 0.5,
        ("own TX in the nearest tenth", "deranged"): 0.25,
    }
    assert set(table["screen"]) == {"cdrp-bio"}


def test_every_screen_has_a_stand_in(full_size, load_benchmark):
    assert set(full_size.SCREENS) == set(load_benchmark("stand_ins").SHAPES)


def test_the_readme_shows_time_memory_and_what_was_found(full_size, load_benchmark, run, tmp_path, monkeypatch):
    update_readme = load_benchmark("update_readme")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    full_size.measure("cdrp-bio", run, 690).to_csv(tmp_path / "benchmarks" / "results" / "full_size.csv", index=False)
    monkeypatch.setattr(update_readme, "ROOT", tmp_path)
    row = update_readme.full_size_block().splitlines()[2]
    for words in ("`cdrp-bio`", "11.5 min", "03_train_contrastive (5.0 min)", "2.1 GB", "| 2 |", "0.50 / 0.25"):
        assert words in row
    assert "claim 1: supported; claim 2: not testable" in row
