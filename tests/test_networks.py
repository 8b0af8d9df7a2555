"""The torch modules: what a missing modality means, closed gradients, networks side by side and their optimiser."""

import subprocess
import sys

import pytest
import torch

from cpx_utils.losses import info_nce, info_nce_gradients
from cpx_utils.networks import AdamW, BimodalAutoencoder, TwoTower, head, set_linear_gradients, side_by_side, write_back

N, N_CP, N_TX, N_DIMENSIONS = 9, 6, 11, 4


@pytest.fixture
def profiles():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, N_CP, generator=generator), torch.randn(N, N_TX, generator=generator)


def towers(n, hidden=()):
    torch.manual_seed(2)
    return [TwoTower(N_CP, N_TX, N_DIMENSIONS, hidden, 0.0) for _ in range(n)]


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


@pytest.mark.parametrize("n_runs", [1, 2, 4])
def test_runs_of_networks_may_share_their_inputs(profiles, n_runs):
    """Networks side by side compute what each computes alone, and so do their gradients."""
    cp, tx = (torch.stack([one + k for k in range(n_runs)]) for one in profiles)
    each = [one.repeat_interleave(4 // n_runs, dim=0) for one in (cp, tx)]
    alone = towers(4)
    together = side_by_side(alone)
    codes = together(cp, tx)
    for part, inputs, made, gradient, whole in zip(
        ("cp", "tx"), (cp, tx), codes, info_nce_gradients(*codes, 0.2), each, strict=True
    ):
        set_linear_gradients(getattr(together, part), inputs, gradient.detach())
        layer = getattr(together, part)[0]
        for number, network in enumerate(alone):
            own = getattr(network, part)(whole[number])
            torch.testing.assert_close(made[number], own)
            own.backward(gradient[number].detach())
            torch.testing.assert_close(layer.weight.grad[number], getattr(network, part)[0].weight.grad)
            torch.testing.assert_close(layer.bias.grad[number, 0], getattr(network, part)[0].bias.grad)


@pytest.mark.parametrize("rates", [(0.1, 0.1, 0.1, 0.1), (0.01, 0.01, 0.1, 0.1), (0.01, 0.1, 0.01, 0.3)])
def test_networks_side_by_side_step_as_torchs_optimiser_and_go_on_when_others_leave(profiles, rates):
    alone = towers(4)
    together, given_back, present = side_by_side(alone), towers(4), [0, 1, 2, 3]
    ours = AdamW(together.parameters(), list(rates), 0.1)
    theirs = [
        torch.optim.AdamW(one.parameters(), lr=rate, weight_decay=0.1) for one, rate in zip(alone, rates, strict=True)
    ]
    for leaves in ([], [1], [0, 3], [2]):
        for _ in range(3):
            together.zero_grad()
            info_nce(*together(*(torch.stack([one] * len(present)) for one in profiles)), 0.2).sum().backward()
            ours.step()
            for number in present:
                alone[number].zero_grad()
                info_nce(*alone[number](*profiles), 0.2).backward()
                theirs[number].step()
        write_back(together, [given_back[number] for number in present], range(len(present)))
        for number in present:
            for one, other in zip(given_back[number].parameters(), alone[number].parameters(), strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        stay = [place for place, number in enumerate(present) if number not in leaves]
        present = [present[place] for place in stay]
        if stay:
            ours.keep(stay)


def test_training_does_not_load_the_compiler_of_torch():
    code = "import sys, numpy as np; from cpx_utils.encoders import ContrastiveEncoder; r = np.random.default_rng(0); "
    code += "ContrastiveEncoder(max_epochs=1).fit(r.normal(size=(20, 4)), r.normal(size=(20, 5))); "
    code += "print('torch' in sys.modules, 'torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
