"""The torch modules: shapes, what a missing modality means, and that every weight learns."""

import subprocess
import sys

import pytest
import torch

from cpx_utils.losses import info_nce, info_nce_gradients, reconstruction
from cpx_utils.networks import (
    AdamW,
    BimodalAutoencoder,
    TwoTower,
    head,
    keep,
    set_linear_gradients,
    side_by_side,
    write_back,
)

N, N_CP, N_TX, N_DIMENSIONS = 9, 6, 11, 4


@pytest.fixture
def profiles():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, N_CP, generator=generator), torch.randn(N, N_TX, generator=generator)


def autoencoder(hidden=(), dropout=0.0):
    torch.manual_seed(1)
    return BimodalAutoencoder(N_CP, N_TX, N_DIMENSIONS, hidden, dropout)


def test_a_head_without_hidden_layers_is_linear(profiles):
    cp, _ = profiles
    linear = head(N_CP, N_DIMENSIONS, (), 0.5)
    assert [type(layer) for layer in linear] == [torch.nn.Linear]
    assert linear(cp).shape == (N, N_DIMENSIONS)
    torch.testing.assert_close(linear(cp), cp @ linear[0].weight.T + linear[0].bias)


def test_hidden_layers_have_the_widths_asked_for(profiles):
    cp, _ = profiles
    deep = head(N_CP, N_DIMENSIONS, [13, 7], 0.5)
    linear = [layer for layer in deep if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(6, 13), (13, 7), (7, 4)]
    assert sum(isinstance(layer, torch.nn.Dropout) and layer.p == 0.5 for layer in deep) == 2
    assert deep(cp).shape == (N, N_DIMENSIONS)
    deep.eval()
    torch.testing.assert_close(deep(cp), deep(cp))


@pytest.mark.parametrize("hidden", [(), (8,), [8, 5]])
def test_both_towers_end_in_one_space(profiles, hidden):
    network = TwoTower(N_CP, N_TX, N_DIMENSIONS, hidden, 0.0, 0.2, False)
    codes = network(*profiles)
    assert [code.shape for code in codes] == [(N, N_DIMENSIONS)] * 2
    assert network.temperature.item() == pytest.approx(0.2)
    assert not network.log_temperature.requires_grad


def test_temperature_stays_within_its_bounds():
    for start, kept in ((1e-6, 0.01), (1e6, 10.0), (1, 1.0)):
        network = TwoTower(N_CP, N_TX, N_DIMENSIONS, (), 0.0, start, True)
        assert network.temperature.item() == pytest.approx(kept)
        assert network.log_temperature.requires_grad


def test_steps_are_those_of_the_optimiser_of_torch(profiles):
    networks = [TwoTower(N_CP, N_TX, N_DIMENSIONS, (5,), 0.0, 0.2, True) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    ours = AdamW(networks[0].parameters(), [0.05], 0.1)
    theirs = torch.optim.AdamW(networks[1].parameters(), lr=0.05, weight_decay=0.1)
    for step in range(12):
        for network, optimiser in zip(networks, (ours, theirs), strict=True):
            network.zero_grad()
            codes = network(*profiles)
            loss = codes[0].square().mean() if step % 3 == 2 else info_nce(*codes, network.temperature)
            loss.backward()  # at every third step, TX's head and the temperature have no gradient
            optimiser.step()
    for (name, one), other in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_training_does_not_load_the_compiler_of_torch():
    code = "import sys, numpy as np; from cpx_utils.encoders import ContrastiveEncoder; r = np.random.default_rng(0); "
    code += "ContrastiveEncoder(max_epochs=1).fit(r.normal(size=(20, 4)), r.normal(size=(20, 5))); "
    code += "print('torch' in sys.modules, 'torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("hidden", [(), (8, 5)])
def test_autoencoder_rebuilds_both_modalities(profiles, hidden):
    ones = torch.ones(N, 1)
    cp_out, tx_out = autoencoder(hidden)(*profiles, ones, ones)
    assert cp_out.shape == (N, N_CP)
    assert tx_out.shape == (N, N_TX)


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


def test_gradients_reach_every_weight_of_the_towers(profiles):
    network = TwoTower(N_CP, N_TX, N_DIMENSIONS, (8, 5), 0.0, 0.2, True)
    info_nce(*network(*profiles), network.temperature).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_gradients_reach_every_weight_of_the_autoencoder(profiles):
    network = autoencoder((8, 5))
    cp, tx = profiles
    outputs = network(cp, tx, torch.ones(N, 1), torch.ones(N, 1))
    sum(reconstruction(out, given) for out, given in zip(outputs, (cp, tx), strict=True)).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_closed_gradients_of_the_autoencoder_are_those_of_automatic_differentiation(profiles):
    generator = torch.Generator().manual_seed(3)
    network, targets = autoencoder(), tuple(torch.randn(one.shape, generator=generator) for one in profiles)
    has_cp = (torch.arange(N)[:, None] % 3 != 0).float()
    present = (has_cp, ((torch.arange(N)[:, None] % 2 == 0) | (has_cp == 0)).float())
    outputs = network(*profiles, *present)
    (0.3 * reconstruction(outputs[0], targets[0]) + 2 * reconstruction(outputs[1], targets[1])).backward()
    expected = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    network.zero_grad()
    network.set_reconstruction_gradients(profiles, present, targets, (0.3, 2.0))
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_without_tx_no_gradient_reaches_its_encoder(profiles):
    network = autoencoder()
    cp, tx = profiles
    outputs = network(cp, tx, torch.ones(N, 1), torch.zeros(N, 1))
    sum(reconstruction(out, given) for out, given in zip(outputs, (cp, tx), strict=True)).backward()
    assert all(weight.grad.abs().sum() == 0 for weight in network.encode_tx.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in network.decode_tx.parameters())


def test_networks_side_by_side_compute_what_each_computes_and_give_their_weights_back(profiles):
    cp, tx = profiles
    torch.manual_seed(2)
    towers = [TwoTower(N_CP, N_TX, N_DIMENSIONS, (), 0.0, 0.2, False) for _ in range(3)]
    codes = side_by_side(towers)(torch.stack([cp, 2 * cp, -cp]), torch.stack([tx, tx, tx + 1]))
    for number, (network, inputs) in enumerate(zip(towers, ((cp, tx), (2 * cp, tx), (-cp, tx + 1)), strict=True)):
        for one, other in zip(codes, network(*inputs), strict=True):
            torch.testing.assert_close(one[number], other)
    together = side_by_side(towers)
    with torch.no_grad():
        for parameter in together.parameters():
            parameter.add_(1.0)
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in towers]
    write_back(together, towers, [0, 2])
    for number, (network, old) in enumerate(zip(towers, before, strict=True)):
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, old[name] + (name != "log_temperature" and number != 1))


@pytest.mark.parametrize("n_runs", [1, 2, 4])
def test_runs_of_networks_may_share_their_inputs(profiles, n_runs):
    cp, tx = (torch.stack([one + k for k in range(n_runs)]) for one in profiles)
    each = [one.repeat_interleave(4 // n_runs, dim=0) for one in (cp, tx)]
    torch.manual_seed(4)
    towers = [TwoTower(N_CP, N_TX, N_DIMENSIONS, (), 0.0, 0.2, False) for _ in range(4)]
    together = side_by_side(towers)
    codes = together(cp, tx)
    for shared, own in zip(codes, together(*each), strict=True):
        torch.testing.assert_close(shared, own)
    gradients = info_nce_gradients(*codes, 0.2)
    for part, inputs, gradient, alone in zip(("cp", "tx"), (cp, tx), gradients, each, strict=True):
        linear = getattr(together, part)
        set_linear_gradients(linear, inputs, gradient.detach())
        found = [one.grad.clone() for one in linear.parameters()]
        set_linear_gradients(linear, alone, gradient.detach())
        for one, other in zip(found, linear.parameters(), strict=True):
            torch.testing.assert_close(one, other.grad)


def test_a_temperature_of_its_own_stays_with_each_network(profiles):
    towers = [TwoTower(N_CP, N_TX, N_DIMENSIONS, (), 0.0, temperature, False) for temperature in (0.1, 0.3, 1.0)]
    together = side_by_side(towers)
    codes = together(*(torch.stack([one] * 3) for one in profiles))
    losses = info_nce(*codes, together.temperature)
    alone = [info_nce(*network(*profiles), network.temperature).item() for network in towers]
    assert losses.tolist() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("rates", [(0.1, 0.1, 0.1, 0.1), (0.01, 0.01, 0.1, 0.1), (0.01, 0.1, 0.01, 0.3)])
def test_networks_side_by_side_step_at_their_own_rates_and_go_on_when_others_leave(profiles, rates):
    torch.manual_seed(3)
    towers = [TwoTower(N_CP, N_TX, N_DIMENSIONS, (), 0.0, 0.2, False) for _ in rates]
    together, present = side_by_side(towers), [0, 1, 2, 3]
    ours = AdamW(together.parameters(), list(rates), 0.1)
    alone = [
        torch.optim.AdamW(one.parameters(), lr=rate, weight_decay=0.1) for one, rate in zip(towers, rates, strict=True)
    ]
    for leaves in ([], [1], [0, 3], [2]):
        for _ in range(3):
            together.zero_grad()
            info_nce(*together(*(torch.stack([one] * len(present)) for one in profiles)), 0.2).sum().backward()
            ours.step()
            for number in present:
                alone[number].zero_grad()
                info_nce(*towers[number](*profiles), 0.2).backward()
                alone[number].step()
        for place, number in enumerate(present):
            for head_name in ("cp", "tx"):
                stacked, own = getattr(together, head_name)[0], getattr(towers[number], head_name)[0]
                torch.testing.assert_close(stacked.weight[place], own.weight, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(stacked.bias[place, 0], own.bias, atol=1e-5, rtol=1e-4)
        stay = [place for place, number in enumerate(present) if number not in leaves]
        present = [present[place] for place in stay]
        if stay:
            keep(together, ours, stay)
    assert not present
