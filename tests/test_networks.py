"""The torch modules and the training loop: what a missing modality means, and what a step is."""

import copy

import numpy as np
import pytest
import torch

from cpx_utils.losses import info_nce
from cpx_utils.networks import BimodalAutoencoder, TwoTower, head, train

N, N_CP, N_TX, N_DIMENSIONS = 9, 6, 11, 4


@pytest.fixture
def profiles():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, N_CP, generator=generator), torch.randn(N, N_TX, generator=generator)


def autoencoder(hidden=()):
    torch.manual_seed(1)
    return BimodalAutoencoder(N_CP, N_TX, N_DIMENSIONS, hidden, 0.0)


def test_a_head_is_linear_or_has_the_widths_asked_for(profiles):
    cp, _ = profiles
    linear = head(N_CP, N_DIMENSIONS, (), 0.5)
    torch.testing.assert_close(linear(cp), cp @ linear[0].weight.T + linear[0].bias)
    deep = head(N_CP, N_DIMENSIONS, [13, 7], 0.5)
    layers = [layer for layer in deep if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(6, 13), (13, 7), (7, 4)]
    assert sum(isinstance(layer, torch.nn.Dropout) and layer.p == 0.5 for layer in deep) == 2


def test_a_missing_modality_leaves_the_code_to_the_other(profiles):
    cp, tx = profiles
    network = autoencoder().eval()
    yes, no = torch.ones(N, 1), torch.zeros(N, 1)
    for has_cp, has_tx, code in (
        (yes, no, network.encode_cp(cp)),
        (no, yes, network.encode_tx(tx)),
        (yes, yes, (network.encode_cp(cp) + network.encode_tx(tx)) / 2),
    ):
        for out, decode in zip(network(cp, tx, has_cp, has_tx), (network.decode_cp, network.decode_tx), strict=True):
            torch.testing.assert_close(out, decode(code))
    # Whatever stands in the place of a missing profile doesn't matter, row by row.
    mixed = (torch.arange(N)[:, None] % 2).float()
    wild = torch.where(mixed == 1, tx, torch.full_like(tx, 1e3))
    for one, other in zip(network(cp, tx, yes, mixed), network(cp, wild, yes, mixed), strict=True):
        torch.testing.assert_close(one, other)


def loss_of(network, cp, tx):
    return info_nce(*network(cp, tx), 0.3)


OPTIONS = {"learning_rate": 0.02, "weight_decay": 0.01, "batch_size": 256}


def test_a_training_is_the_loop_that_people_write():
    """One batch an epoch and one well a compound leave nothing to chance but the order."""
    rng = np.random.default_rng(0)
    inputs = tuple(torch.as_tensor(rng.normal(size=(N, d)), dtype=torch.float32) for d in (N_CP, N_TX))
    torch.manual_seed(2)
    ours = TwoTower(N_CP, N_TX, N_DIMENSIONS, (), 0.0)
    theirs = copy.deepcopy(ours)
    train(ours, loss_of, inputs, [[i] for i in range(N)], 5, rng=rng, **OPTIONS)
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=0.02, weight_decay=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        loss_of(theirs, *inputs).backward()
        optimiser.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_an_epoch_shows_one_well_of_every_compound_in_equal_batches():
    seen = []

    def spy(network, cp, tx):
        seen.append(cp[:, 0].detach().int().tolist())
        return network.cp(cp).sum() * 0

    wells = [[0, 1, 2], [3], [4, 5], [6, 7, 8, 9], [10]]
    inputs = torch.arange(11.0)[:, None].repeat(1, N_CP), torch.zeros(11, N_TX)
    network = TwoTower(N_CP, N_TX, N_DIMENSIONS, (), 0.0)
    train(network, spy, inputs, wells, 20, rng=np.random.default_rng(1), **OPTIONS | {"batch_size": 2})
    assert [len(batch) for batch in seen[:3]] == [2, 2, 1] and len(seen) == 60
    of_compound = {row: compound for compound, rows in enumerate(wells) for row in rows}
    for first in range(0, 60, 3):
        epoch = [row for batch in seen[first : first + 3] for row in batch]
        assert sorted(of_compound[row] for row in epoch) == list(range(5))
    assert {row for batch in seen for row in batch} == set(range(11))


def test_training_ends_when_the_held_out_loss_no_longer_falls(profiles):
    losses = iter([0.5, 3.0, 0.5, 2.0, 0.5, 2.5, 0.5, 2.2, 0.5, 1.0])  # of training and of held-out compounds

    def planned(network, cp, tx):
        return network.cp(cp).sum() * 0 + (0 if network.training else next(losses))

    network = TwoTower(N_CP, N_TX, N_DIMENSIONS, (), 0.0)
    options = OPTIONS | {"rng": np.random.default_rng(0), "held_out": [[7], [8]], "patience": 2}
    history = train(network, planned, profiles, [[i] for i in range(7)], 50, **options)
    assert [line["validation"] for line in history] == [3.0, 2.0, 2.5, pytest.approx(2.2)]
    assert [line["epoch"] for line in history] == [1, 2, 3, 4] and not network.training
