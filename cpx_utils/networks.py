"""The torch modules behind the contrastive encoder and the autoencoder, and how they are trained.

Networks with linear heads are trained side by side: a few hundred compounds keep a processor busy for so short a time
that calling torch takes longer than computing.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.adamw import adamw

from cpx_utils.losses import info_nce, info_nce_gradients, reconstruction, soft_info_nce, soft_targets
from cpx_utils.profiles import ScreenError

Amounts = dict[str, Any]  # numbers that may differ among networks side by side, then tensors (n_networks, 1, 1)


def head(n_inputs: int, n_outputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """A linear map (no hidden layers) or a small multilayer perceptron, (n, n_inputs) -> (n, n_outputs)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout)]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))


class TwoTower(nn.Module):
    """A head for each modality into one space, trained by InfoNCE with targets of some softness.

    Radford 2021 (arXiv 2103.00020), with heads small enough for a few hundred compounds.
    """

    def __init__(
        self, n_cp: int, n_tx: int, n_dimensions: int, hidden: Sequence[int], dropout: float, softness: float = 0.0
    ):
        super().__init__()
        self.softness = softness
        self.cp = head(n_cp, n_dimensions, hidden, dropout)
        self.tx = head(n_tx, n_dimensions, hidden, dropout)

    def forward(self, cp: torch.Tensor, tx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of both modalities, each (n_pairs, n_dimensions)."""
        return self.cp(cp), self.tx(tx)

    def loss(self, cp: torch.Tensor, tx: torch.Tensor, amounts: Amounts, noise=None) -> torch.Tensor:
        """Loss of each network side by side; with generators of `noise` as in training, else of clean profiles."""
        inputs = (cp, tx) if noise is None else [_noisy(one, amounts["input_noise"], noise) for one in (cp, tx)]
        # By its logarithm, which rounds as in the published tables.
        temperature = torch.as_tensor(amounts["temperature"], device=cp.device).log().exp()
        if self.softness:
            return soft_info_nce(*self(*inputs), temperature, soft_targets(tx, self.softness))
        return info_nce(*self(*inputs), temperature)

    @torch.no_grad()
    def set_gradients(self, cp: torch.Tensor, tx: torch.Tensor, amounts: Amounts, noise) -> None:
        """Set the gradients of linear heads for a step of training, in closed form."""
        target = _each(soft_targets(tx, self.softness), len(noise)) if self.softness else None
        noisy = [_noisy(one, amounts["input_noise"], noise) for one in (cp, tx)]
        gradients = info_nce_gradients(*self(*noisy), amounts["temperature"], target)
        for linear, inputs, gradient in zip((self.cp, self.tx), noisy, gradients, strict=True):
            set_linear_gradients(linear, inputs, gradient)


class BimodalAutoencoder(nn.Module):
    """Two encoders, one shared code, two decoders.

    The code is the mean of what the present modalities say, so CP alone gives a code too, and TX alone as well.
    Ngiam 2011 (ICML), "bimodal deep autoencoder", trained with missing modalities.
    """

    def __init__(self, n_cp: int, n_tx: int, n_dimensions: int, hidden: Sequence[int], dropout: float):
        super().__init__()
        self.encode_cp = head(n_cp, n_dimensions, hidden, dropout)
        self.encode_tx = head(n_tx, n_dimensions, hidden, dropout)
        self.decode_cp = head(n_dimensions, n_cp, hidden[::-1], dropout)
        self.decode_tx = head(n_dimensions, n_tx, hidden[::-1], dropout)

    def forward(
        self, cp: torch.Tensor, tx: torch.Tensor, has_cp: torch.Tensor, has_tx: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct both modalities from whichever is present.

        Parameters
        ----------
        cp, tx
            Profiles (n_pairs, n_cp) and (n_pairs, n_tx).
        has_cp, has_tx
            1 where the modality is present and 0 where it was dropped, (n_pairs, 1); at least one must be present.

        Returns
        -------
        cp, tx
            Reconstructions, (n_pairs, n_cp) and (n_pairs, n_tx).
        """
        code = has_cp * self.encode_cp(cp) + has_tx * self.encode_tx(tx)  # (n_pairs, n_dimensions)
        code = code / (has_cp + has_tx)
        return self.decode_cp(code), self.decode_tx(code)

    def loss(self, cp: torch.Tensor, tx: torch.Tensor, amounts: Amounts, noise=None) -> torch.Tensor:
        """Loss of each network side by side; with generators of `noise` as in training, else from clean CP alone."""
        inputs = cp, tx, torch.ones_like(cp[..., :1]), torch.zeros_like(cp[..., :1])
        cp_out, tx_out = self(*(inputs if noise is None else self._spoiled(cp, tx, amounts, noise)))
        cp_weight = torch.as_tensor(amounts["cp_weight"], device=cp.device).reshape(-1)
        return cp_weight * reconstruction(cp_out, cp) + reconstruction(tx_out, tx)

    def _spoiled(self, cp, tx, amounts, noise):
        """What a training step encodes: noisy CP and TX, and which of them are present, each (..., n_pairs, 1)."""
        noisy = [_noisy(one, amounts["input_noise"], noise) for one in (cp, tx)]
        draw, tx_dropout = _drawn("uniform_", cp[..., :1], noise), amounts["tx_dropout"]
        has_tx = (draw >= tx_dropout).float()
        has_cp = (draw < tx_dropout + (1 - tx_dropout) / 2).float()  # of the rest, half see TX alone
        return *noisy, has_cp, has_tx

    @torch.no_grad()
    def set_gradients(self, cp: torch.Tensor, tx: torch.Tensor, amounts: Amounts, noise) -> None:
        """Set the gradients of linear heads for a step of training, in closed form."""
        *inputs, has_cp, has_tx = self._spoiled(cp, tx, amounts, noise)
        encoders, decoders = (self.encode_cp, self.encode_tx), (self.decode_cp, self.decode_tx)
        shares = [one / (has_cp + has_tx) for one in (has_cp, has_tx)]
        cp_part, tx_part = (share * encode(one) for share, encode, one in zip(shares, encoders, inputs, strict=True))
        code = cp_part + tx_part  # (n_pairs, n_dimensions)
        of_code = torch.zeros_like(code)
        for decode, one, weight in zip(decoders, (cp, tx), (amounts["cp_weight"], 1.0), strict=True):
            target = _each(one, len(noise))
            error = (decode(code) - target).mul_(2 * weight / target.shape[-2:].numel())  # (n_pairs, n_features)
            set_linear_gradients(decode, code, error)
            of_code += error @ decode[0].weight
        for encode, one, share in zip(encoders, inputs, shares, strict=True):
            set_linear_gradients(encode, one, share * of_code)


def set_linear_gradients(linear: nn.Sequential, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
    r"""Set the gradients of a linear head by hand: :math:`\partial L / \partial W = G^\top X`, and :math:`G` summed.

    Parameters
    ----------
    linear
        From `head`, without hidden layers.
    inputs
        What the head was given, :math:`X` (..., n, n_inputs); of networks side by side, one for each or for each run of
        them, as `LinearMembers` takes them.
    gradient
        Of the loss with respect to what the head gave, :math:`G` (..., n, n_outputs).
    """
    seen = gradient
    if inputs.ndim == 3 and len(inputs) < len(gradient):  # (n_runs, n, networks of a run x n_outputs)
        seen = gradient.unflatten(0, (len(inputs), -1)).transpose(1, 2).flatten(2)
    linear[0].weight.grad = (seen.mT @ inputs).view_as(linear[0].weight)  # (..., n_outputs, n_inputs)
    linear[0].bias.grad = gradient.sum(dim=-2).view_as(linear[0].bias)


class LinearMembers(nn.Module):
    """The linear layers of several networks side by side: (n_networks, n, n_inputs) -> (n_networks, n, n_outputs).

    Runs of networks that are given the same inputs, all equally long, take them once: (n_runs, n, n_inputs).
    """

    def __init__(self, layers: list[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers])[:, None])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Each network's layer on its own inputs."""
        if len(inputs) == len(self.weight):
            return torch.baddbmm(self.bias, inputs, self.weight.mT)
        n_runs = len(inputs)
        weight, bias = (one.unflatten(0, (n_runs, -1)).flatten(1, 2) for one in (self.weight, self.bias.mT))
        outputs = torch.baddbmm(bias.mT, inputs, weight.mT)  # (n_runs, n, networks of a run x n_outputs)
        return outputs.unflatten(2, (-1, self.weight.shape[1])).transpose(1, 2).flatten(0, 1)


def side_by_side(networks: list[nn.Module]) -> nn.Module:
    """One module that computes all of some networks of one shape, whose heads are linear, at once.

    A few hundred compounds keep a processor busy for so short a time that calling torch takes longer than computing.
    The module takes inputs with a dimension of networks in front; `write_back` gives its weights back.
    """
    together = copy.deepcopy(networks[0])
    for name, _ in networks[0].named_children():
        setattr(together, name, nn.Sequential(LinearMembers([getattr(network, name)[0] for network in networks])))
    return together


@torch.no_grad()
def write_back(together: nn.Module, networks: list[nn.Module], which: Iterable[int]) -> None:
    """Copy the weights of what `side_by_side` made into the networks it was made of, those at the places `which`."""
    for name, members in together.named_children():
        for number in which:
            layer = getattr(networks[number], name)[0]
            layer.weight.copy_(members[0].weight[number])
            layer.bias.copy_(members[0].bias[number, 0])


class AdamW:
    """Steps of AdamW (Loshchilov 2019, arXiv 1711.05101), computed by torch, with a rate for each network side by side.

    Making a `torch.optim.AdamW` loads torch's compiler, a second or two, and it knows one rate a tensor.

    Parameters
    ----------
    parameters
        Trained in place; those without a gradient at a step stay.
    learning_rates
        Of each network side by side, or of one alone. Equal ones should be neighbours: one call moves them all.
    weight_decay
        As `torch.optim.AdamW` takes it; its other settings are that class's defaults.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rates: list[float], weight_decay: float):
        self._trained, self._rates, self._n_steps = list(parameters), learning_rates, 0
        self._means, self._squares = ([torch.zeros_like(one) for one in self._trained] for _ in range(2))
        self._settings = {"weight_decay": weight_decay, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
        self._settings |= {"fused": True, "amsgrad": False, "maximize": False}

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters against their gradients."""
        present = [place for place, one in enumerate(self._trained) if one.grad is not None]
        parts = [[some[place] for place in present] for some in (self._trained, self._means, self._squares)]
        parts.insert(1, [one.grad for one in parts[0]])  # weights, gradients, means, squares
        start = 0
        for rate, run in groupby(self._rates):
            end = start + len(list(run))
            where = slice(start, end) if end - start < len(self._rates) else ...
            steps = [torch.full((), float(self._n_steps), device=one.device) for one in parts[0]]
            adamw(*([one[where] for one in some] for some in parts), [], steps, lr=rate, **self._settings)
            start = end
        self._n_steps += 1

    @torch.no_grad()
    def keep(self, places: Sequence[int]) -> None:
        """Go on with the networks at these places; what was trained holds their weights alone then."""
        for one in self._trained:
            one.data, one.grad = one.data[places], None
        for moments in (self._means, self._squares):
            moments[:] = [one[places] for one in moments]
        self._rates = [self._rates[place] for place in places]


@dataclass
class Member:
    """One network of an encoder and its training; wells are rows of the data (n_compounds, most wells), and how many.

    Attributes
    ----------
    encoder
        A `cpx_utils.encoders.NetworkEncoder`: its parameters, its `history_`, and its `best_epoch_` for a training
        without held-out compounds.
    number, run
        Which of the encoder's networks; members of one run see the same batches.
    rng, batches_rng
        Generators of the seeds of noise and weights, and of the batches.
    training, validation
        Wells of compounds to train on and to hold out.
    """

    encoder: Any
    number: int
    run: int
    rng: np.random.Generator
    batches_rng: np.random.Generator
    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray] | None = None
    noise: Any = None
    network: Any = None
    epochs: int = 0
    lowest: float = np.inf
    waited: int = 0  # epochs since the lowest loss


def train(profiles: Sequence[np.ndarray], members: list[Member]) -> None:
    """Train members together, each for its encoder's `best_epoch_`, or with held-out compounds until it stops.

    A network that has ended leaves, and the others go on faster. With hidden layers they are trained one by one.

    Parameters
    ----------
    profiles
        CP and TX inputs (n_wells, n_components) of all members.
    members
        They get their `network`; encoders may differ in what `NetworkEncoder.amounts` names and the learning rate.
    """
    encoder = members[0].encoder
    if encoder.hidden and len(members) > 1:
        for member in members:
            train(profiles, [member])
        return
    device, is_stacked, is_watched = encoder.device_, not encoder.hidden, members[0].validation is not None
    data = [torch.as_tensor(one, device=device) for one in profiles]
    n_compounds = min(len(member.training[0]) for member in members)
    generators: dict[int, torch.Generator] = {}
    for member in members:
        seed = int(member.rng.integers(2**31))
        member.noise = generators.setdefault(seed, torch.Generator(device=device).manual_seed(seed))
        member.epochs = encoder.most_epochs(n_compounds) if is_watched else member.encoder.best_epoch_
    with torch.random.fork_rng(devices=[]):  # weights and dropout are seeded; the caller's state stays
        for member in members:
            torch.manual_seed(int(member.rng.integers(2**31)))
            member.network = member.encoder._network(*(one.shape[1] for one in data)).to(device)
        network = side_by_side([one.network for one in members]) if is_stacked else members[0].network
        rates = [member.encoder.learning_rate for member in members]
        optimiser = AdamW(network.parameters(), rates, encoder.weight_decay)
        present, amounts = members, _amounts(members)
        watched = _watched_rows(data, members) if is_watched else []
        for epoch in range(1, max(member.epochs for member in members) + 1):
            network.train()
            noise = [member.noise for member in present]
            for batch in _batches(present, n_compounds, encoder.batch_size):
                inputs = [_rows_of(one, batch) for one in data]
                if is_stacked:
                    network.set_gradients(*inputs, amounts, noise)
                else:
                    network.zero_grad()
                    network.loss(*inputs, amounts, noise).sum().backward()
                optimiser.step()
            ended = np.array([epoch == member.epochs for member in present])
            if is_watched:
                ended |= _note_losses(network.eval(), present, watched, epoch, amounts)
            if ended.any():
                if is_stacked:
                    write_back(network, [one.network for one in present], np.flatnonzero(ended))
                stay = np.flatnonzero(~ended)
                if not len(stay):
                    break
                optimiser.keep(stay)
                present, watched = [present[place] for place in stay], [[one[stay] for one in some] for some in watched]
                amounts = _amounts(present)
    for member in members:
        member.network.eval()


def _amounts(members):
    """What may differ among networks: a number where all members agree, else a tensor (n_networks, 1, 1)."""
    encoder = members[0].encoder
    values = {name: [getattr(member.encoder, name) for member in members] for name in encoder.amounts}
    return {
        name: some[0] if len(set(some)) == 1 else torch.tensor(some, device=encoder.device_).view(-1, 1, 1)
        for name, some in values.items()
    }


def _note_losses(network, members, watched, epoch, amounts):
    """Note each member's losses in its history; True (n_networks,) of those that have waited long enough."""
    with torch.no_grad():
        losses = [network.loss(*rows, amounts).reshape(-1).tolist() for rows in watched]
    for member, training, validation in zip(members, *losses, strict=True):
        line = {"member": member.number, "epoch": epoch, "training": training, "validation": validation}
        member.encoder.history_.append(line)
        member.waited = 0 if validation < member.lowest else member.waited + 1
        member.lowest = min(member.lowest, validation)
    return np.array([member.waited >= member.encoder.patience for member in members])


def _watched_rows(data, members):
    """CP and TX of training and of held-out compounds, equally many: a loss that depends on their number compares."""
    n_watched = min(len(member.validation[0]) for member in members)
    return [
        [_rows_of(values, [wells[:n_watched, 0] for wells, _ in some]) for values in data]
        for some in ([member.training for member in members], [member.validation for member in members])
    ]


def _batches(members, n_compounds, batch_size):
    """An epoch's batches: for each a list of the rows of every member, or of every run if all are equally long.

    An epoch shows one random well of every compound, or of `n_compounds` drawn from them.
    """
    runs = [list(run) for _, run in groupby(members, key=lambda member: member.run)]
    batches = []
    for run in runs:
        (rows, counts), rng = run[0].training, run[0].batches_rng
        chosen = rows[np.arange(len(rows)), (rng.random(len(rows)) * counts).astype(int)]
        rng.shuffle(chosen)
        batches.append(np.array_split(chosen[:n_compounds], -(-n_compounds // batch_size)))
    if len({len(run) for run in runs}) > 1:
        batches = [own for own, run in zip(batches, runs, strict=True) for _ in run]
    return zip(*batches, strict=True)


def _rows_of(values, rows):
    """Rows of a tensor for each list of them: (n_lists, n, d)."""
    picked = torch.as_tensor(np.concatenate(rows), device=values.device)
    return values.index_select(0, picked).view(len(rows), -1, values.shape[1])


def _drawn(distribution, like, generators):
    """Random numbers for each network (n_networks, ...) from its generator; networks of one generator share them."""
    drawn = torch.empty((len(generators), *like.shape[1:]), dtype=like.dtype, device=like.device)
    known: dict[torch.Generator, torch.Tensor] = {}
    for part, generator in zip(drawn, generators, strict=True):
        if generator in known:
            part.copy_(known[generator])
        else:
            known[generator] = getattr(part, distribution)(generator=generator)
    return drawn


def _noisy(values, amount, generators):
    """Each network's values with noise of its own; without noise the values, still shared by runs of networks."""
    if isinstance(amount, (int, float)) and not amount:
        return values
    return _drawn("normal_", values, generators).mul_(amount).add_(_each(values, len(generators)))


def _each(values, n_networks):
    """Values of runs of networks, (n_runs, ...), for each network of a run: (n_networks, ...)."""
    if len(values) in (1, n_networks):  # one run broadcasts
        return values
    return values.repeat_interleave(n_networks // len(values), dim=0)


def pick_device(name: str) -> str:
    """`cpu` or `cuda`, whichever `auto` finds; raises ScreenError for another name, or where there is no GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise ScreenError(f"no device is called {name!r}; devices are auto, cpu and cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ScreenError("device cuda was asked for and no GPU is there; use auto or cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
