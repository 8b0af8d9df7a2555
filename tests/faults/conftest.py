"""What the faults share: benchmarks/faults.py, whose quick version these tests are, and an undisturbed study."""

import pytest


@pytest.fixture(scope="session")
def faults(load_benchmark):
    return load_benchmark("faults")


@pytest.fixture(scope="session")
def bench(faults, tmp_path_factory):
    return faults.Bench(tmp_path_factory.mktemp("faults"), seed=0)
