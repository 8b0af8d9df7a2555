"""The torch modules behind the contrastive encoder and the autoencoder."""

import torch
from torch import nn


def head(n_inputs: int, n_outputs: int, hidden: list[int] | tuple[int, ...], dropout: float) -> nn.Sequential:
    """A linear map (no hidden layers) or a small multilayer perceptron, (n, n_inputs) -> (n, n_outputs)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout)]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))


class TwoTower(nn.Module):
    """A head for each modality into one space, and the temperature at which they are compared.

    Radford 2021 (arXiv 2103.00020), with heads small enough for a few hundred compounds.
    """

    def __init__(
        self,
        n_cp: int,
        n_tx: int,
        n_dimensions: int,
        hidden: list[int],
        dropout: float,
        temperature: float,
        learn_temperature: bool,
    ):
        super().__init__()
        self.cp = head(n_cp, n_dimensions, hidden, dropout)
        self.tx = head(n_tx, n_dimensions, hidden, dropout)
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log(), requires_grad=learn_temperature)

    def forward(self, cp: torch.Tensor, tx: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes of both modalities, each (n_pairs, n_dimensions)."""
        return self.cp(cp), self.tx(tx)

    @property
    def temperature(self) -> torch.Tensor:
        """The temperature, kept between 0.01 and 10."""
        return self.log_temperature.exp().clamp(0.01, 10.0)


class BimodalAutoencoder(nn.Module):
    """Two encoders, one shared code, two decoders.

    The code is the mean of what the present modalities say, so CP alone gives a code too, and TX alone as well.
    Ngiam 2011 (ICML), "bimodal deep autoencoder", trained with missing modalities.
    """

    def __init__(self, n_cp: int, n_tx: int, n_dimensions: int, hidden: list[int], dropout: float):
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
