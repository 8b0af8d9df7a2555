"""The torch modules behind the contrastive encoder and the autoencoder."""

import copy
from collections.abc import Iterable, Sequence
from itertools import groupby

import torch
from torch import nn
from torch.optim.adamw import adamw


def head(n_inputs: int, n_outputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """A linear map (no hidden layers) or a small multilayer perceptron, (n, n_inputs) -> (n, n_outputs)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout)]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))


class TwoTower(nn.Module):
    """A head for each modality into one space.

    Radford 2021 (arXiv 2103.00020), with heads small enough for a few hundred compounds.
    """

    def __init__(self, n_cp: int, n_tx: int, n_dimensions: int, hidden: Sequence[int], dropout: float):
        super().__init__()
        self.cp = head(n_cp, n_dimensions, hidden, dropout)
        self.tx = head(n_tx, n_dimensions, hidden, dropout)

    def forward(self, cp: torch.Tensor, tx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of both modalities, each (n_pairs, n_dimensions)."""
        return self.cp(cp), self.tx(tx)


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

    @torch.no_grad()
    def set_gradients(self, inputs, present, targets, weights) -> None:
        """Set the gradients of linear heads for the weighted sum of both reconstruction errors, in closed form.

        Parameters
        ----------
        inputs, targets
            What is encoded and what should be rebuilt, CP (n_pairs, n_cp) and TX (n_pairs, n_tx).
        present
            As `forward` takes them, each (n_pairs, 1).
        weights
            Of the mean squared errors of CP and of TX.
        """
        encoders, decoders = (self.encode_cp, self.encode_tx), (self.decode_cp, self.decode_tx)
        shares = [one / (present[0] + present[1]) for one in present]
        cp_part, tx_part = (share * encode(one) for share, encode, one in zip(shares, encoders, inputs, strict=True))
        code = cp_part + tx_part  # (n_pairs, n_dimensions)
        of_code = torch.zeros_like(code)
        for decode, target, weight in zip(decoders, targets, weights, strict=True):
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
