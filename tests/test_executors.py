"""Calls and their results, here and from files; the cluster's side is in test_cluster.py."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from cpx_utils import crossfit, executors
from cpx_utils.profiles import ScreenError


def test_a_serial_call_is_computed_once_and_when_it_is_asked_for():
    made = []

    def make(value):
        made.append(value)
        return value

    executor = executors.Serial()
    first = executor.submit(make, 1)
    both = [executor.submit(lambda one, more: one + more, first, more) for more in (1, 2)]
    assert made == []
    assert [call.result() for call in both] == [2, 3] and first.result() == 1
    assert made == [1]


def test_a_call_that_fails_raises_where_it_is_asked_for():
    call = executors.Serial().submit(int, "x")
    for _ in range(2):
        with pytest.raises(ValueError, match="'x'"):
            call.result()


def test_without_a_scheduler_everything_is_serial(monkeypatch):
    monkeypatch.setenv(executors.SCHEDULER_VARIABLE, "")
    executors.current.cache_clear()
    assert isinstance(executors.current(), executors.Serial)
    value = object()
    assert executors.current().share(value, None, None) is value


def test_a_fold_comes_back_from_files_as_it_was(tiny_folds, tmp_path):
    for prepared in (tiny_folds[0], tiny_folds[-1]):
        folder = tmp_path / prepared.name
        folder.mkdir()
        crossfit.save_fold(prepared, folder)
        again = crossfit.load_fold(folder)
        for field in dataclasses.fields(prepared):
            one, other = getattr(prepared, field.name), getattr(again, field.name)
            if isinstance(one, pd.DataFrame):
                pd.testing.assert_frame_equal(one, other, check_exact=True)
            elif isinstance(one, np.ndarray):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
            elif field.name == "preparation":
                assert one.features_ == other.features_ and one.get_params() == other.get_params()
            else:
                assert one == other


def test_no_scheduler_is_one_line():
    for address in ("tcp://127.0.0.1:9", "nonsense", "http://127.0.0.1"):
        with pytest.raises(ScreenError) as error:
            executors.connect(address, seconds=0.5)
        assert f"no Dask scheduler answers at {address}" in str(error.value) and "\n" not in str(error.value)
