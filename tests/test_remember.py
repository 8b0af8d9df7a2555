"""Results remembered by the content of their arguments."""

import numpy as np
import pytest

from cpx_utils.encoders import METHODS, _discriminants, _ridge_spectra, leading_components
from cpx_utils.remember import remembered


@pytest.fixture
def counted():
    calls = []

    @remembered(2)
    def scaled(values, factor):
        """Scale."""
        calls.append(factor)
        return values * factor, factor

    scaled.calls = calls
    return scaled


def test_equal_content_is_computed_once_and_shared(counted):
    values = np.arange(6.0).reshape(2, 3)
    first, again = counted(values, 2), counted(values.copy(), 2)
    assert counted.calls == [2] and again is first and counted.__doc__ == "Scale."
    np.testing.assert_array_equal(first[0], values * 2)
    with pytest.raises(ValueError, match="read-only"):
        first[0][0] = 1
    np.testing.assert_array_equal(counted(np.asfortranarray(values), 2)[0], values * 2)
    assert counted.calls == [2]


@pytest.mark.parametrize(
    "other",
    [
        lambda values: np.where(values == 5, 5.0000001, values),
        lambda values: values.reshape(3, 2),
        lambda values: values.astype(np.float32),
        lambda values: values.view(np.int64),
        lambda values: values[:, ::-1],
    ],
)
def test_other_bytes_shapes_and_types_are_computed_anew(counted, other):
    values = np.arange(6.0).reshape(2, 3)
    counted(values, 2)
    np.testing.assert_array_equal(counted(other(values), 2)[0], other(values) * 2)
    assert counted.calls == [2, 2]


def test_other_numbers_are_computed_anew_and_the_oldest_is_forgotten(counted):
    values = np.ones(3)
    for factor in (1, 2, 1, 3, 1, 2):
        counted(values, factor)
    assert counted.calls == [1, 2, 3, 2]  # 1 was asked for in between
    counted.forget()
    counted(values, 2)
    assert counted.calls[-1] == 2 and len(counted.calls) == 5


@pytest.mark.parametrize("method", ["sphered_cp", "pca_cp", "lda_identity", "ridge_tx", "rcca", "rcca_replicates"])
def test_encoders_are_the_same_with_and_without_a_memory(method):
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(20), 3)
    cp = rng.normal(size=(20, 12))[groups] + rng.normal(size=(60, 12))
    true, other = (rng.normal(size=(20, 15))[groups] for _ in range(2))

    def embed(tx):
        return METHODS[method]().fit(cp, tx, groups=groups).transform(cp)

    for memory in (_discriminants, _ridge_spectra, leading_components):
        memory.forget()
    fresh = embed(true)
    remembered_after_other_pairs = (embed(other), embed(true))[1]
    np.testing.assert_array_equal(remembered_after_other_pairs, fresh)
    uses_tx = METHODS[method]().uses_tx
    assert np.allclose(embed(other), fresh) is not uses_tx
