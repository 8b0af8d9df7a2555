"""The torch modules behind the contrastive encoder and the autoencoder, and the loop that trains them."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from cpx_utils.profiles import ScreenError

Loss = Callable[..., torch.Tensor]  # of a network, CP, TX and, with two views, the CP of other wells


def head(n_inputs: int, n_outputs: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """A linear map (no hidden layers) or a small multilayer perceptron, (n, n_inputs) -> (n, n_outputs)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout)]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))


class TwoTower(nn.Module):
    """A head for each modality into one space; in training the heads see their inputs with noise.

    Radford 2021 (arXiv 2103.00020), with heads small enough for a few hundred compounds. `input_noise` is the standard
    deviation of the noise.
    """

    def __init__(
        self, n_cp: int, n_tx: int, n_dimensions: int, hidden: Sequence[int], dropout: float, input_noise: float = 0.0
    ):
        super().__init__()
        self.input_noise = input_noise
        self.encode_cp = head(n_cp, n_dimensions, hidden, dropout)
        self.encode_tx = head(n_tx, n_dimensions, hidden, dropout)

    def noisy(self, values: torch.Tensor) -> torch.Tensor:
        """In training, values with new Gaussian noise; else the values."""
        return values + self.input_noise * torch.randn_like(values) if self.training else values

    def forward(self, cp: torch.Tensor, tx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of both modalities, each (n_pairs, n_dimensions)."""
        cp, tx = self.noisy(cp), self.noisy(tx)
        return self.encode_cp(cp), self.encode_tx(tx)

    def codes(self, modality: str, values: np.ndarray) -> np.ndarray:
        """Unit-length codes of one modality, `cp` or `tx`: (n, n_inputs) -> float32 (n, n_dimensions)."""
        values = torch.as_tensor(values, device=next(self.parameters()).device)
        with torch.no_grad():
            codes = getattr(self, f"encode_{modality}")(values)
            return nn.functional.normalize(codes, dim=1).cpu().numpy()


class BimodalAutoencoder(TwoTower):
    """Two encoders, one shared code, two decoders.

    The code is the mean of what the present modalities say, so CP alone gives a code too, and TX alone as well.
    Ngiam 2011 (ICML), "bimodal deep autoencoder", trained with missing modalities.
    """

    def __init__(
        self, n_cp: int, n_tx: int, n_dimensions: int, hidden: Sequence[int], dropout: float, input_noise: float = 0.0
    ):
        super().__init__(n_cp, n_tx, n_dimensions, hidden, dropout, input_noise)
        self.decode_cp = head(n_dimensions, n_cp, hidden[::-1], dropout)
        self.decode_tx = head(n_dimensions, n_tx, hidden[::-1], dropout)

    def forward(
        self, cp: torch.Tensor, tx: torch.Tensor, has_cp: torch.Tensor, has_tx: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct both modalities, (n_pairs, n_cp) and (n_pairs, n_tx), from whichever is present.

        `has_cp` and `has_tx` (n_pairs, 1) are 1 where a modality is present and 0 where it was dropped; at least one
        must be present.
        """
        cp_code, tx_code = super().forward(cp, tx)
        code = (has_cp * cp_code + has_tx * tx_code) / (has_cp + has_tx)  # (n_pairs, n_dimensions)
        return self.decode_cp(code), self.decode_tx(code)


def train(
    network: nn.Module,
    loss: Loss,
    inputs: tuple[torch.Tensor, torch.Tensor],
    wells: Sequence[np.ndarray],
    n_epochs: int,
    *,
    learning_rate: float,
    weight_decay: float,
    batch_size: int,
    rng: np.random.Generator,
    held_out: Sequence[np.ndarray] = (),
    patience: int = 0,
    n_views: int = 1,
    maps: np.ndarray | None = None,
) -> list[dict[str, float]]:
    """Train a network in place by `torch.optim.AdamW` (Loshchilov 2019, arXiv 1711.05101), and leave it in eval mode.

    Parameters
    ----------
    network, loss
        `loss(network, cp, tx)` gives the loss of a batch. With more than one view it also gets the CP of further wells
        of the same compounds.
    inputs
        CP (n_wells, n_cp) and TX (n_wells, n_tx), row by row pairs.
    wells, held_out
        For each compound the rows of its wells: of those to train on, and of those to watch, of which the first is
        looked at.
    n_epochs, learning_rate, weight_decay, batch_size, rng, n_views, maps
        As usual; batches are those of `epochs`. torch's own generator makes noise and dropout.
    patience
        Epochs without a new lowest loss on the held-out compounds that end the training.

    Returns
    -------
    list of dict
        A line an epoch: `epoch`, and the loss of `training` and `validation` (held-out) compounds without noise, of
        equally many, since a loss that depends on their number would not compare; and `chance_loss` of these. Empty
        without held-out compounds.
    """
    device = next(network.parameters()).device
    cp, tx = (torch.as_tensor(values, device=device) for values in inputs)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    ends = [0, -1][:n_views]  # of a compound's wells the first is watched, and with a second view the last
    watched = [[rows[ends] for rows in some[: len(held_out)]] for some in (wells, held_out) if held_out]
    watched = [batch_of(cp, tx, np.array(rows)) for rows in watched]
    chance = chance_loss(network, loss, watched[-1]) if held_out else 0.0
    history: list[dict[str, float]] = []
    for epoch, batches in zip(range(1, n_epochs + 1), epochs(wells, batch_size, rng, n_views, maps), strict=False):
        network.train()
        for rows in batches:
            optimiser.zero_grad()
            loss(network, *batch_of(cp, tx, rows)).backward()
            optimiser.step()
        if held_out:
            network.eval()
            with torch.no_grad():
                training, validation = (loss(network, *batch).item() for batch in watched)
            history.append({"epoch": epoch, "training": training, "validation": validation, "chance": chance})
            if epoch - 1 - np.argmin([line["validation"] for line in history]) >= patience:
                break
    network.eval()
    return history


def chance_loss(network: nn.Module, loss: Loss, batch: Sequence[torch.Tensor]) -> float:
    """Loss of a network of this form that says the same of every compound, since all its weights are 0.

    For InfoNCE this is log(n_pairs), whatever the temperature; for an autoencoder the error of predicting the mean.
    """
    blind = deepcopy(network).eval()
    with torch.no_grad():
        for weights in blind.parameters():
            weights.zero_()
        return loss(blind, *batch).item()


def batch_of(cp: torch.Tensor, tx: torch.Tensor, rows: np.ndarray) -> list[torch.Tensor]:
    """CP and TX of a batch's first wells, then the CP of each further view; `rows` is (n_compounds, n_views)."""
    first, *others = rows.T
    return [cp[first], tx[first], *(cp[other] for other in others)]


def epochs(
    wells: Sequence[np.ndarray],
    batch_size: int,
    rng: np.random.Generator,
    n_views: int = 1,
    maps: np.ndarray | None = None,
) -> Iterator[list[np.ndarray]]:
    """Batches (n_compounds, n_views) of one epoch after another: `n_views` random wells of each compound.

    One row a compound, so that none competes with itself. `wells` holds the rows of each compound's wells. Batches hold
    at most `batch_size` compounds, all about equally many; with `maps`, the plate map of each row, those of a batch are
    on one map.
    """
    flat, counts = np.concatenate(wells), np.array([len(rows) for rows in wells])  # (n_wells,), (n_compounds,)
    starts = np.cumsum(counts) - counts
    while True:
        place = (rng.random((len(counts), n_views)) * counts[:, None]).astype(int)
        chosen = rng.permutation(flat[starts[:, None] + place])  # (n_compounds, n_views)
        groups = [chosen]
        if maps is not None:
            groups = [chosen[maps[chosen[:, 0]] == name] for name in rng.permutation(np.unique(maps[chosen[:, 0]]))]
        yield [batch for rows in groups for batch in np.array_split(rows, -(-len(rows) // batch_size))]


def pick_device(name: str) -> str:
    """`cpu` or `cuda`, whichever `auto` finds; raises ScreenError for `cuda` where there is no GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ScreenError("device cuda was asked for and no GPU is there; use auto or cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
