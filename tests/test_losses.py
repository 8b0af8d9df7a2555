"""Losses against loops over their equations."""

import math

import numpy as np
import pytest
import torch

from cpx_utils.losses import info_nce, reconstruction


def naive_info_nce(cp, tx, temperature, same=None):
    """Equation of the docstring, one exponential at a time."""
    n = len(cp)

    def similarity(i, j):
        norms = math.sqrt(sum(a * a for a in cp[i])) * math.sqrt(sum(b * b for b in tx[j]))
        return sum(a * b for a, b in zip(cp[i], tx[j], strict=True)) / norms

    total = 0.0
    for i in range(n):
        allowed = [j for j in range(n) if j == i or same is None or not same[i][j]]
        own = math.exp(similarity(i, i) / temperature)
        over_tx = sum(math.exp(similarity(i, j) / temperature) for j in allowed)
        over_cp = sum(math.exp(similarity(j, i) / temperature) for j in allowed)
        total -= math.log(own / over_tx) + math.log(own / over_cp)
    return total / (2 * n)


def codes(n=7, d=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d)) * rng.uniform(0.1, 10, size=(n, 1))


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_info_nce_equals_the_loop(temperature):
    cp, tx = codes()
    loss = info_nce(torch.tensor(cp), torch.tensor(tx), temperature)
    assert loss.item() == pytest.approx(naive_info_nce(cp.tolist(), tx.tolist(), temperature), rel=1e-10)
    assert info_nce(torch.tensor(tx), torch.tensor(cp), torch.tensor(temperature)).item() == pytest.approx(loss.item())
    assert info_nce(torch.tensor(3 * cp), torch.tensor(tx), temperature).item() == pytest.approx(loss.item())


def test_pairs_of_one_compound_are_no_wrong_answers():
    cp, tx = codes(n=8)
    compound = np.array([0, 0, 1, 2, 2, 2, 3, 4])
    same = compound[:, None] == compound[None, :]
    loss = info_nce(torch.tensor(cp), torch.tensor(tx), 0.5, same=torch.tensor(same))
    assert loss.item() == pytest.approx(naive_info_nce(cp.tolist(), tx.tolist(), 0.5, same.tolist()), rel=1e-10)
    plain = info_nce(torch.tensor(cp), torch.tensor(tx), 0.5).item()
    assert loss.item() < plain
    assert info_nce(torch.tensor(cp), torch.tensor(tx), 0.5, same=torch.eye(8, dtype=bool)).item() == plain
    # Codes of the masked pairs get no gradient from one another.
    rows = torch.tensor(cp[:2], requires_grad=True)
    info_nce(rows, torch.tensor(tx[:2]), 0.5, same=torch.ones(2, 2, dtype=bool)).backward()
    np.testing.assert_allclose(rows.grad, 0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 16, 300])
def test_codes_that_know_nothing_cost_log_n(n):
    same_code = torch.ones(n, 5)
    assert info_nce(same_code, same_code, 0.1).item() == pytest.approx(math.log(n), rel=1e-5)


def test_codes_that_know_everything_cost_nothing():
    code = torch.eye(10, dtype=torch.float64)
    assert info_nce(code, code, 0.02).item() == pytest.approx(0, abs=1e-12)
    assert info_nce(code, code.roll(1, 0), 0.02).item() == pytest.approx(50, rel=1e-6)


def test_gradients_of_info_nce_are_those_of_its_differences():
    cp, tx = (torch.tensor(one, requires_grad=True) for one in codes(n=5))
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    same = torch.zeros(5, 5, dtype=bool)
    same[0, 1] = same[1, 0] = True
    assert torch.autograd.gradcheck(lambda *inputs: info_nce(*inputs, same=same), (cp, tx, temperature))


def test_reconstruction_is_the_mean_squared_error_over_pairs_and_features():
    predicted, observed = codes(n=6, d=9)
    expected = np.mean([(p - o) ** 2 for p, o in zip(predicted.ravel(), observed.ravel(), strict=True)])
    assert reconstruction(torch.tensor(predicted), torch.tensor(observed)).item() == pytest.approx(expected)
    standardised = torch.tensor((predicted - predicted.mean(0)) / predicted.std(0))
    assert reconstruction(torch.zeros_like(standardised), standardised).item() == pytest.approx(1)
