"""The benchmark of repeatability: what it compares, and how it tells small differences from other results."""

import math
import shutil

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def determinism(load_benchmark):
    return load_benchmark("determinism")


@pytest.fixture
def runs(tmp_path):
    """Two equal runs: tables of numbers and words, a model, a figure, and what tells of times."""
    tables = tmp_path / "first" / "results" / "simulated" / "smoke" / "tables"
    tables.mkdir(parents=True)
    claims = pd.DataFrame({"claim": [1, 2], "method": "contrastive", "reference": ["raw_cp", "deranged"],
                           "endpoint": "moa_map", "effect": [0.25, None], "verdict": ["supported", None]})  # fmt: skip
    claims.to_csv(tables / "claims.csv", index=False)
    codes = pd.DataFrame({"compound": ["a", "b"], "z000": [1.0, 2.0], "z001": [3.0, None]})
    codes.to_parquet(tables.parent / "codes.parquet", index=False)
    (tables / "timings.csv").write_text("1")
    (tables.parent / "encoder.safetensors").write_bytes(b"w")
    (tmp_path / "first" / "figures").mkdir()
    (tmp_path / "first" / "figures" / "01_map.svg").write_text("<svg/>")
    (tables.parent / "report").mkdir()
    (tables.parent / "report" / "01_map.svg").write_text("<svg/>")
    shutil.copytree(tmp_path / "first", tmp_path / "other")
    return tmp_path / "first", tmp_path / "other"


def compared(determinism, runs):
    return {(what, item): value for what, item, value in determinism.compare(*runs)}


def test_equal_runs_are_equal_whatever_their_times(determinism, runs):
    other = runs[1] / "results" / "simulated" / "smoke"
    (other / "tables" / "timings.csv").write_text("2")
    (other / "report" / "01_map.svg").write_text("a copy")
    assert compared(determinism, runs) == {
        ("files", "table"): 2, ("identical files", "table"): 2, ("files", "model"): 1, ("identical files", "model"): 1,
        ("files", "figure"): 1, ("identical files", "figure"): 1, ("different words", "all tables"): 0,
        ("verdicts changed", "claims"): 0,
    }  # fmt: skip


def test_differences_are_measured_by_table_and_column(determinism, runs):
    other = runs[1] / "results" / "simulated" / "smoke"
    codes = pd.read_parquet(other / "codes.parquet")
    codes.assign(compound=["a", "c"], z000=[1.0, 2.5], z001=[3.1, None]).to_parquet(other / "codes.parquet")
    claims = pd.read_csv(other / "tables" / "claims.csv")
    claims.assign(verdict=["inconclusive", None]).to_csv(other / "tables" / "claims.csv", index=False)
    (other / "encoder.safetensors").unlink()
    found = compared(determinism, runs)
    assert found["largest difference", "codes.parquet: z000"] == 0.5
    assert found["largest difference", "tables/claims.csv: none"] == 0
    assert found["different words", "all tables"] == 2 and found["verdicts changed", "claims"] == 1
    assert found["identical files", "table"] == 0 and found["identical files", "model"] == 0


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (pd.DataFrame({"x": [1.0, None]}), ("none", 0.0, 0)),
        (pd.DataFrame({"x": [1.0, 2.0]}), ("x", math.inf, 0)),
        (pd.DataFrame({"x": [1.0]}), ("rows", math.inf, 0)),
        (pd.DataFrame({"y": [1.0, None]}), ("rows", math.inf, 0)),
        (pd.DataFrame({"x": ["1", "b"]}), ("none", 0.0, 2)),
    ],
)
def test_missing_values_and_other_rows_are_no_small_difference(determinism, other, expected):
    assert determinism.difference_of(pd.DataFrame({"x": [1.0, None]}), other) == expected


def test_what_must_be_the_same_changes_nothing_that_libraries_see(determinism):
    same = [setting for setting in determinism.SETTINGS.values() if setting.same]
    assert len(same) == 4 and all(setting.threads == 1 and not setting.environment for setting in same)
    assert {setting.device for setting in determinism.SETTINGS.values()} == {"cpu"}
