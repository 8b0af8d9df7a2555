"""Losses against loops over their equations."""

import math

import numpy as np
import pytest
import torch

from cpx_utils.losses import info_nce, soft_info_nce, soft_targets


def codes(n=7, d=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d)) * rng.uniform(0.1, 10, size=(n, 1))


def naive_info_nce(cp, tx, temperature, target):
    """Cross-entropy of both directions, one exponential at a time; the identity as target gives InfoNCE."""
    n, total = len(cp), 0.0

    def share(i, j):
        norms = math.sqrt(sum(a * a for a in cp[i])) * math.sqrt(sum(b * b for b in tx[j]))
        return math.exp(sum(a * b for a, b in zip(cp[i], tx[j], strict=True)) / norms / temperature)

    for i in range(n):
        over_tx, over_cp = sum(share(i, k) for k in range(n)), sum(share(k, i) for k in range(n))
        for j in range(n):
            total -= target[i][j] * (math.log(share(i, j) / over_tx) + math.log(share(j, i) / over_cp))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_info_nce_equals_the_loop(temperature):
    cp, tx = codes()
    expected = naive_info_nce(cp, tx, temperature, np.eye(7))
    cp, tx = torch.tensor(cp), torch.tensor(tx)
    assert info_nce(cp, tx, temperature).item() == pytest.approx(expected, rel=1e-10)
    assert info_nce(tx, 3 * cp, torch.tensor(temperature)).item() == pytest.approx(expected, rel=1e-6)
    assert soft_info_nce(cp, tx, temperature, soft_targets(tx, 0.0)).item() == pytest.approx(expected, rel=1e-10)


def test_soft_info_nce_equals_the_loop():
    cp, tx = codes(n=6)
    target = np.random.default_rng(3).dirichlet(np.ones(6), size=6)
    loss = soft_info_nce(torch.tensor(cp), torch.tensor(tx), 0.4, torch.tensor(target))
    assert loss.item() == pytest.approx(naive_info_nce(cp, tx, 0.4, target), rel=1e-10)


@pytest.mark.parametrize("n", [2, 300])
def test_codes_that_know_nothing_cost_log_n_and_those_that_know_everything_nothing(n):
    same_code, own_code = torch.ones(n, 5), torch.eye(n, dtype=torch.float64)
    assert info_nce(same_code, same_code, 0.1).item() == pytest.approx(math.log(n), rel=1e-5)
    assert info_nce(own_code, own_code, 0.02).item() == pytest.approx(0, abs=1e-12)
    assert info_nce(own_code, own_code.roll(1, 0), 0.02).item() == pytest.approx(50, rel=1e-6)


def test_soft_targets_equal_the_loop_and_let_no_gradient_through():
    tx = np.random.default_rng(4).normal(size=(7, 5))
    given = torch.tensor(tx, requires_grad=True)
    targets = soft_targets(given, 0.6)
    assert not targets.requires_grad
    distance = [[sum((a - b) ** 2 for a, b in zip(tx[i], tx[j], strict=True)) for j in range(7)] for i in range(7)]
    scale = np.mean([distance[i][j] for i in range(7) for j in range(7) if i != j]) / 6
    for i in range(7):
        weights = [math.exp(-distance[i][j] / scale) for j in range(7)]
        expected = [0.4 * (i == j) + 0.6 * weights[j] / sum(weights) for j in range(7)]
        np.testing.assert_allclose(targets[i], expected, rtol=1e-8)
    assert soft_targets(given[:1], 0.6).item() == pytest.approx(1.0)
    assert torch.isfinite(soft_targets(torch.zeros(4, 3), 0.6)).all()


def test_inactive_compounds_share_the_answer_and_active_ones_keep_it():
    rng = np.random.default_rng(5)
    tx = np.vstack([0.1 * rng.normal(size=(20, 8)), 4 * rng.normal(size=(5, 8))])
    targets = soft_targets(torch.tensor(tx), 0.5)
    assert targets.diagonal()[:20].max() < 0.6  # shared among twenty
    assert targets.diagonal()[20:].min() > 0.95
    assert targets[:20, 20:].max() < 0.01
