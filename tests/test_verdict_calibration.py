"""benchmarks/verdict_calibration.py in small: the verdict machine on whole simulated screens."""

import numpy as np
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
    """12 verdicts on each of 4 screens, each wrong with at most 5%: more than 6 wrong ones have p < 0.02."""
    found = supported(bench, "tiny", {"shared_strength": 0.0}, range(4))
    assert found.sum() <= 6


def test_plain_shared_biology_is_found(bench):
    knobs = {"shared_strength": 2.0, "cp_shared": 1.0, "cp_only": 0.3, "moa_share": 0.9, "inactive_share": 0.1}
    found = supported(bench, "small", knobs, range(2))
    assert found.xs(3, level="claim").max() == 2  # some method on both screens


def test_shares_have_exact_intervals_and_limits(bench):
    rows = [
        ("identity only, small", "rcca", 3, seed, "supported" if seed < 2 else "inconclusive") for seed in range(40)
    ]
    rows += [
        ("TX strong, CP weak, default", "rcca", 2, seed, "supported" if seed < 30 else "not testable")
        for seed in range(40)
    ]
    table = bench.summary(pd.DataFrame(rows, columns=["setting", "method", "claim", "seed", "verdict"]))
    table = table.set_index("setting")
    assert table["share"].tolist() == [0.05, 0.75] and table["testable"].tolist() == [40, 30]
    assert table["limit"].tolist() == [bench.MAX_ERRORS, bench.POWER_WANTED[2]]
    # Clopper and Pearson: 2 of 40 and 30 of 40
    np.testing.assert_allclose(table["ci_low"], [0.00611, 0.58800], atol=5e-4)
    np.testing.assert_allclose(table["ci_high"], [0.16920, 0.87309], atol=5e-4)
