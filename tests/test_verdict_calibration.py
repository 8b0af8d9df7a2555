"""benchmarks/verdict_calibration.py in small: the verdict machine on whole simulated screens."""

import pandas as pd
import pytest

from cpx_utils.profiles import VERDICTS


@pytest.fixture(scope="module")
def bench(load_benchmark):
    return load_benchmark("verdict_calibration")


def supported(bench, size, knobs, seeds):
    """Whole screens through the study's own code: how often each method's claim is supported."""
    options = {"n_derangements": 3, "n_bootstrap": 200}
    tables = [bench.verdicts_of_screen(size, knobs, seed, **options) for seed in seeds]
    table = pd.concat(tables, ignore_index=True)
    assert set(table["verdict"]) <= set(VERDICTS)
    assert len(table) == len(seeds) * len(bench.PRIMARIES) * 4
    return (table["verdict"] == "supported").groupby([table["method"], table["claim"]]).sum()


def test_where_tx_knows_identity_only_nothing_is_supported(bench):
    """8 verdicts on each of 2 screens, each wrong with at most 5%: more than 3 wrong ones have p < 0.01."""
    found = supported(bench, "tiny", {"shared_strength": 0.0}, range(2))
    assert found.sum() <= 3
