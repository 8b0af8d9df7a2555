"""What test modules share: one thread for torch, and the tiny simulated screen, prepared once a session.

Tests must not change these objects; they copy what they spoil.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

from cpx_utils import crossfit, preprocessing, simulation, splits

# Modules that take longest, longest first: a worker that came to one of them last would work on it alone.
SLOWEST = ("test_notebooks", "test_missing_parts", "test_real_screen", "test_run_all", "test_crossfit",
           "test_clustering", "test_encoders", "test_claims")  # fmt: skip

# Whoever imports nbformat waits two seconds for it (cpx_utils/pipeline.py).
sys.modules.setdefault("rfc3987_syntax", None)

# Many small matrices: more threads only wait for each other, and the runners of one machine share its cores.
torch.set_num_threads(1)
threadpool_limits(1)


def pytest_collection_modifyitems(items):
    """Put the slowest modules first; the order within each stays."""
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.module.__name__, len(places)))


@pytest.fixture(scope="session")
def tiny_screen():
    """The tiny simulated screen: 72 compounds, 2 doses, 3 CP and 2 TX replicates."""
    return simulation.simulate_screen("tiny", seed=0)


@pytest.fixture(scope="session")
def tiny_tables(tiny_screen):
    """Its plate-normalised wells and its folds: cp, tx, compounds, folds, as `prepare_folds` takes them."""
    cp, tx = (preprocessing.normalise_plates(table)[0] for table in (tiny_screen.cp, tiny_screen.tx))
    folds = splits.compound_folds(tiny_screen.compounds, n_folds=3, n_repeats=1, seed=0)
    return cp, tx, tiny_screen.compounds, folds


@pytest.fixture(scope="session")
def tiny_folds(tiny_tables):
    """Its three prepared folds, and at last the one that trains on all compounds."""
    return list(crossfit.prepare_folds(*tiny_tables, with_all=True))


@pytest.fixture(scope="session")
def load_benchmark():
    """A function that imports a script of benchmarks/, which is no package, by its name."""

    def load(name):
        path = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
        specification = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load
