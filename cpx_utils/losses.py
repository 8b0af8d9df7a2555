"""Losses as plain functions on tensors: small enough to read beside their equations."""

import torch
from torch.nn import functional


def info_nce(
    cp: torch.Tensor, tx: torch.Tensor, temperature: torch.Tensor | float, same: torch.Tensor | None = None
) -> torch.Tensor:
    """Symmetric InfoNCE: each CP code must pick its own TX code among the batch's, and each TX code its CP code.

    Parameters
    ----------
    cp, tx
        Codes of the same treatments, row by row (n_pairs, n_dimensions); they are brought to unit length here.
    temperature
        Divides the cosine similarities; the lower, the sharper the choice must be.
    same
        Boolean (n_pairs, n_pairs), True where two rows are of the same compound. Off the diagonal such pairs are left
        out of the sums: another dose of a compound isn't a wrong answer.

    Returns
    -------
    scalar tensor
        Mean over both directions, in nats; log(n_pairs) for codes that know nothing.

    References
    ----------
    van den Oord 2018 (arXiv 1807.03748), equation 4; symmetric as in Radford 2021 (arXiv 2103.00020).
    """
    cp, tx = functional.normalize(cp, dim=1), functional.normalize(tx, dim=1)
    logits = cp @ tx.T / temperature  # (n_pairs, n_pairs)
    if same is not None:
        own = torch.eye(len(cp), dtype=torch.bool, device=cp.device)
        logits = logits.masked_fill(same & ~own, float("-inf"))
    target = torch.arange(len(cp), device=cp.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def reconstruction(predicted: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Mean squared error over pairs and features; 1 for a prediction of the mean of standardised features."""
    return functional.mse_loss(predicted, observed)
