"""Losses against loops over their equations."""

import math

import numpy as np
import pytest
import torch

from cpx_utils.losses import (
    LOWEST_SAFE_TEMPERATURE,
    barlow_twins,
    cloob,
    info_nce,
    info_nce_gradients,
    reconstruction,
    siglip,
    soft_info_nce,
    soft_targets,
    vicreg,
)


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


@pytest.mark.parametrize("temperature", [LOWEST_SAFE_TEMPERATURE, 0.3, 10.0])
@pytest.mark.parametrize("softness", [0.0, 0.4])
def test_closed_gradients_are_those_of_automatic_differentiation(temperature, softness):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        cp, tx = (torch.tensor(one, dtype=dtype, requires_grad=True) for one in codes(n=40))
        target = soft_targets(tx, softness)
        soft_info_nce(cp, tx, temperature, target).backward()
        with torch.no_grad():
            closed = info_nce_gradients(cp, tx, temperature, target if softness else None)
        for mine, one in zip(closed, (cp, tx), strict=True):
            assert mine.dtype == dtype
            torch.testing.assert_close(mine, one.grad, rtol=0, atol=tolerance * one.grad.abs().max().item())


def test_closed_gradients_stay_finite_at_the_lowest_temperature():
    code = torch.eye(300, 8)
    opposite = torch.cat([code, -code])
    for one in info_nce_gradients(opposite, opposite.flip(0), LOWEST_SAFE_TEMPERATURE):
        assert torch.isfinite(one).all()


def test_reconstruction_is_the_mean_squared_error_over_pairs_and_features():
    predicted, observed = codes(n=6, d=9)
    expected = np.mean([(p - o) ** 2 for p, o in zip(predicted.ravel(), observed.ravel(), strict=True)])
    assert reconstruction(torch.tensor(predicted), torch.tensor(observed)).item() == pytest.approx(expected)
    standardised = torch.tensor((predicted - predicted.mean(0)) / predicted.std(0))
    assert reconstruction(torch.zeros_like(standardised), standardised).item() == pytest.approx(1)


# --------------------------------------------------------------------------------------------- soft targets


def unit(rows):
    return [[a / math.sqrt(sum(b * b for b in row)) for a in row] for row in rows]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def both(function, n=6, d=4, seed=0, **options):
    """The loss of random codes, and the codes as lists."""
    cp, tx = codes(n, d, seed)
    return function(torch.tensor(cp), torch.tensor(tx), **options).item(), cp.tolist(), tx.tolist()


def test_soft_info_nce_equals_the_loop():
    target = np.random.default_rng(3).dirichlet(np.ones(6), size=6)
    loss, cp, tx = both(soft_info_nce, temperature=0.4, target=torch.tensor(target))
    cp, tx, total = unit(cp), unit(tx), 0.0
    for i in range(6):
        over_tx = sum(math.exp(dot(cp[i], tx[k]) / 0.4) for k in range(6))
        over_cp = sum(math.exp(dot(cp[k], tx[i]) / 0.4) for k in range(6))
        for j in range(6):
            total -= target[i, j] * math.log(math.exp(dot(cp[i], tx[j]) / 0.4) / over_tx)
            total -= target[i, j] * math.log(math.exp(dot(cp[j], tx[i]) / 0.4) / over_cp)
    assert loss == pytest.approx(total / 12, rel=1e-10)


def test_hard_targets_give_info_nce():
    cp, tx = (torch.tensor(one) for one in codes())
    for target in (torch.eye(7, dtype=torch.float64), soft_targets(tx, 0.0)):
        assert soft_info_nce(cp, tx, 0.3, target).item() == pytest.approx(info_nce(cp, tx, 0.3).item(), rel=1e-12)


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
    assert soft_targets(given[:1], 0.6).tolist() == [[1.0]]
    assert torch.isfinite(soft_targets(torch.zeros(4, 3), 0.6)).all()


def test_inactive_compounds_share_the_answer_and_active_ones_keep_it():
    rng = np.random.default_rng(5)
    tx = np.vstack([0.1 * rng.normal(size=(20, 8)), 4 * rng.normal(size=(5, 8))])
    targets = soft_targets(torch.tensor(tx), 0.5)
    assert targets.diagonal()[:20].max() < 0.6  # shared among twenty
    assert targets.diagonal()[20:].min() > 0.95
    assert targets[:20, 20:].max() < 0.01


# --------------------------------------------------------------------------------------- the other losses


def test_siglip_equals_the_loop():
    loss, cp, tx = both(siglip, temperature=0.2)
    cp, tx, total = unit(cp), unit(tx), 0.0
    for i in range(6):
        for j in range(6):
            sign = 1 if i == j else -1
            total -= math.log(1 / (1 + math.exp(-sign * (dot(cp[i], tx[j]) / 0.2 - math.log(5)))))
    assert loss == pytest.approx(total / 6, rel=1e-10)


def test_siglips_bias_is_right_for_codes_that_know_nothing():
    def at(shift):
        cp, tx = torch.eye(20)[:10], torch.eye(20)[10:]  # every similarity is 0
        logits = torch.full((10, 10), shift - math.log(9))
        signs = 2 * torch.eye(10) - 1
        return siglip(cp, tx, 0.3).item(), -torch.nn.functional.logsigmoid(signs * logits).sum(dim=1).mean().item()

    own, same = at(0.0)
    assert own == pytest.approx(same, rel=1e-6)
    assert own < min(at(0.2)[1], at(-0.2)[1])


def naive_retrieval(queries, stored, beta):
    found = []
    for query in queries:
        weights = [math.exp(beta * dot(query, one)) for one in stored]
        found.append([sum(w * one[k] for w, one in zip(weights, stored, strict=True)) for k in range(len(query))])
    return unit(found)


@pytest.mark.parametrize("beta", [0.5, 8.0])
def test_cloob_equals_the_loop(beta):
    loss, cp, tx = both(cloob, temperature=0.3, beta=beta)
    cp, tx, total = unit(cp), unit(tx), 0.0
    cp_of_cp, cp_of_tx = naive_retrieval(cp, cp, beta), naive_retrieval(tx, cp, beta)
    tx_of_cp, tx_of_tx = naive_retrieval(cp, tx, beta), naive_retrieval(tx, tx, beta)
    for i in range(6):
        others = [j for j in range(6) if j != i]
        own = math.exp(dot(cp_of_cp[i], cp_of_tx[i]) / 0.3)
        total -= math.log(own / sum(math.exp(dot(cp_of_cp[i], cp_of_tx[j]) / 0.3) for j in others))
        own = math.exp(dot(tx_of_cp[i], tx_of_tx[i]) / 0.3)
        total -= math.log(own / sum(math.exp(dot(tx_of_cp[j], tx_of_tx[i]) / 0.3) for j in others))
    assert loss == pytest.approx(total / 12, rel=1e-10)


def test_cloob_of_codes_that_know_nothing_is_log_of_the_others():
    same_code = torch.ones(9, 5)
    assert cloob(same_code, same_code, 0.1).item() == pytest.approx(math.log(8), rel=1e-5)


def naive_covariance(rows, i, j):
    n = len(rows)
    means = [sum(row[k] for row in rows) / n for k in (i, j)]
    return sum((row[i] - means[0]) * (row[j] - means[1]) for row in rows) / (n - 1)


def test_vicreg_equals_the_loop():
    loss, cp, tx = both(vicreg, n=6, d=4, invariance=3.0, variance=5.0, covariance=2.0)
    total = 3.0 * sum((a - b) ** 2 for x, y in zip(cp, tx, strict=True) for a, b in zip(x, y, strict=True)) / 24
    for rows in (cp, tx):
        spread = [math.sqrt(naive_covariance(rows, k, k) + 1e-4) for k in range(4)]
        total += 5.0 * sum(max(0.0, 1 - one) for one in spread) / 4 / 2
        total += 2.0 * sum(naive_covariance(rows, i, j) ** 2 for i in range(4) for j in range(4) if i != j) / 4
    assert loss == pytest.approx(total, rel=1e-10)


def test_vicreg_punishes_a_collapse():
    collapsed = torch.ones(8, 4)
    assert vicreg(collapsed, collapsed).item() == pytest.approx(25 * (1 - 0.01), rel=1e-4)
    spread = 3 * torch.linalg.qr(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)))[0] * math.sqrt(50)
    assert vicreg(spread - spread.mean(dim=0), spread - spread.mean(dim=0)).item() < 1


def test_barlow_twins_equals_the_loop():
    loss, cp, tx = both(barlow_twins, n=9, d=4, redundancy=0.1)
    n, total = 9, 0.0
    for i in range(4):
        for j in range(4):
            x, y = [row[i] for row in cp], [row[j] for row in tx]
            mean_x, mean_y = sum(x) / n, sum(y) / n
            covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / n
            variances = [sum((a - m) ** 2 for a in z) / n for z, m in ((x, mean_x), (y, mean_y))]
            correlation = covariance / math.sqrt((variances[0] + 1e-8) * (variances[1] + 1e-8))
            total += (1 - correlation) ** 2 if i == j else 0.1 * correlation**2
    assert loss == pytest.approx(total, rel=1e-8)


@pytest.mark.parametrize("loss", [lambda *x: siglip(*x, 0.3), lambda *x: cloob(*x, 0.3), vicreg, barlow_twins])
def test_gradients_are_those_of_the_losses_differences(loss):
    inputs = tuple(torch.tensor(one, requires_grad=True) for one in codes(n=5))
    assert torch.autograd.gradcheck(loss, inputs)
    # Each falls on its own gradient, and true pairs cost less than others.
    cp = torch.tensor(codes(n=12, d=3)[0])
    assert loss(cp, cp).item() < loss(cp, cp.roll(1, 0)).item()


def test_losses_of_several_networks_are_those_of_each():
    generator = torch.Generator().manual_seed(4)
    cp, tx, given = (torch.randn(3, 7, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    target = soft_targets(given, 0.4)
    gradients = info_nce_gradients(cp, tx, 0.2, target)
    for k in range(3):
        torch.testing.assert_close(target[k], soft_targets(given[k], 0.4))
        torch.testing.assert_close(info_nce(cp, tx, 0.2)[k], info_nce(cp[k], tx[k], 0.2))
        torch.testing.assert_close(soft_info_nce(cp, tx, 0.2, target)[k], soft_info_nce(cp[k], tx[k], 0.2, target[k]))
        torch.testing.assert_close(reconstruction(cp, tx)[k], torch.nn.functional.mse_loss(cp[k], tx[k]))
        for one, other in zip(gradients, info_nce_gradients(cp[k], tx[k], 0.2, target[k]), strict=True):
            torch.testing.assert_close(one[k], other)
