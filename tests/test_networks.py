"""The torch modules and the training loop: what a missing modality means, and what a step is."""

import copy
import itertools

import numpy as np
import pytest
import torch

from cpx_utils.losses import info_nce
from cpx_utils.networks import BimodalAutoencoder, TwoTower, batch_of, chance_loss, epochs, head, train

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
    train(ours, loss_of, inputs, np.arange(N)[:, None], 5, rng=rng, **OPTIONS)
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=0.02, weight_decay=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        loss_of(theirs, *inputs).backward()
        optimiser.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


WELLS = [np.array(rows) for rows in ([0, 1, 2], [3], [4, 5], [6, 7, 8, 9], [10])]
COMPOUND_OF = np.repeat(range(5), [len(rows) for rows in WELLS])


def test_an_epoch_shows_every_compound_once_in_equal_batches_of_as_many_of_its_wells_as_asked_for():
    for n_views in (1, 2):
        seen = []
        for batches in itertools.islice(epochs(WELLS, 2, np.random.default_rng(1), n_views), 20):
            assert [batch.shape for batch in batches] == [(2, n_views), (2, n_views), (1, n_views)]
            rows = np.concatenate(batches)
            assert sorted(COMPOUND_OF[rows[:, 0]]) == list(range(5))
            assert (COMPOUND_OF[rows] == COMPOUND_OF[rows[:, :1]]).all()
            seen.append(rows)
        assert set(np.ravel(seen)) == set(range(11)) and len({str(rows) for rows in seen}) > 15


def test_batches_within_maps_hold_compounds_of_one_map_alone():
    maps = np.array([7, 7, 3, 3, 7])[COMPOUND_OF]
    orders = set()
    for batches in itertools.islice(epochs(WELLS, 2, np.random.default_rng(1), 2, maps), 20):
        assert sorted(COMPOUND_OF[np.concatenate(batches)[:, 0]]) == list(range(5))
        assert sorted(len(batch) for batch in batches) == [1, 2, 2]
        orders.add(str([np.unique(maps[batch]).tolist() for batch in batches]))
    assert orders == {"[[3], [7], [7]]", "[[7], [7], [3]]"}


def test_a_loss_gets_the_pairs_of_the_first_wells_and_the_cp_of_the_others():
    cp, tx = torch.arange(11.0)[:, None], -torch.arange(11.0)[:, None]
    first, of_first, *others = batch_of(cp, tx, np.array([[4, 5, 4], [2, 0, 1]]))
    assert first[:, 0].tolist() == [4, 2] and of_first[:, 0].tolist() == [-4, -2]
    assert [other[:, 0].tolist() for other in others] == [[5, 0], [4, 1]]


def test_training_ends_when_the_held_out_loss_no_longer_falls(profiles):
    losses = iter([4.0, 0.5, 3.0, 0.5, 2.0, 0.5, 2.5, 0.5, 2.2, 0.5, 1.0])  # chance; training, held-out

    def planned(network, cp, tx):
        return network.encode_cp(cp).sum() * 0 + (0 if network.training else next(losses))

    network = TwoTower(N_CP, N_TX, N_DIMENSIONS, (), 0.0)
    options = OPTIONS | {"rng": np.random.default_rng(0), "held_out": list(np.array([[7], [8]])), "patience": 2}
    history = train(network, planned, profiles, np.arange(7)[:, None], 50, **options)
    assert [line["validation"] for line in history] == [3.0, 2.0, 2.5, pytest.approx(2.2)]
    assert [line["epoch"] for line in history] == [1, 2, 3, 4] and not network.training
    assert {line["chance"] for line in history} == {4.0}


def test_chance_is_the_loss_of_codes_that_say_the_same_of_all(profiles):
    batch = [torch.as_tensor(values[:8]) for values in profiles]
    network = TwoTower(N_CP, N_TX, N_DIMENSIONS, (8,), 0.5, 1.0)
    before = [weights.clone() for weights in network.parameters()]
    chance = chance_loss(network, lambda network, cp, tx: info_nce(*network(cp, tx), 0.1), batch)
    assert chance == pytest.approx(np.log(8), rel=1e-6)
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
