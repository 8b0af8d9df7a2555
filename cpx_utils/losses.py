"""Losses as plain functions on tensors: small enough to read beside their equations."""

import torch
from torch.nn import functional


def info_nce(cp: torch.Tensor, tx: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """Symmetric InfoNCE: each CP code must pick its own TX code among the batch's, and each TX code its CP code.

    Parameters
    ----------
    cp, tx
        Codes of the same treatments, row by row (n_pairs, n_dimensions); they are brought to unit length here.
    temperature
        Divides the cosine similarities; the lower, the sharper the choice must be.

    Returns
    -------
    scalar tensor
        Mean over both directions, in nats; log(n_pairs) for codes that know nothing.

    References
    ----------
    van den Oord 2018 (arXiv 1807.03748), equation 4; symmetric as in Radford 2021 (arXiv 2103.00020).

    Failure mode: a compound that looks like another is a wrong answer all the same; inactive ones all look alike.
    """
    logits = _similarities(cp, tx) / temperature  # (n_pairs, n_pairs)
    return (logits.logsumexp(dim=1) + logits.logsumexp(dim=0) - 2 * logits.diagonal()).mean() / 2


def _similarities(cp, tx):
    """Cosine similarity of each CP code with each TX code, (n_pairs, n_pairs)."""
    return functional.normalize(cp, dim=1) @ functional.normalize(tx, dim=1).T


def soft_info_nce(
    cp: torch.Tensor, tx: torch.Tensor, temperature: torch.Tensor | float, target: torch.Tensor
) -> torch.Tensor:
    """`info_nce` with shares of the answer instead of one right answer.

    `target` says how right each pair is (n_pairs, n_pairs); each row sums to 1, and the identity gives `info_nce`.
    Srinivasa 2023 (CWCL, arXiv 2309.14580), equation 3, with the weights of each row scaled to sum to 1. There the soft
    direction is one; here the same weights, which come from TX, serve both.

    Failure mode: the softer the target, the less is left to learn; with a uniform target nothing is.
    """
    logits = _similarities(cp, tx) / temperature  # (n_pairs, n_pairs)
    expected = (target * (logits + logits.T)).sum(dim=1)
    return (logits.logsumexp(dim=1) + logits.logsumexp(dim=0) - expected).mean() / 2


def soft_targets(tx: torch.Tensor, softness: float) -> torch.Tensor:
    r"""How much of a CP profile's answer the TX profile of each pair is: (n_pairs, n_pairs), each row sums to 1.

    .. math:: p_{ij} = (1 - s)\, \delta_{ij} + s\, \frac{w_{ij}}{\sum_k w_{ik}},
        \qquad w_{ij} = \exp\left(-\lVert y_i - y_j \rVert^2 / \tilde d\right)

    with the softness :math:`s` from 0 (only the own profile is right) to 1, TX profiles :math:`y` (n_pairs, n_tx) as
    the head sees them, without noise, and :math:`\tilde d` a sixth of the mean squared distance between two different
    profiles. Distances, not cosines: profiles of inactive compounds point anywhere, but all lie near the origin, so
    they are near each other. No gradient flows through the targets.
    """
    tx = tx.detach()
    n_pairs = len(tx)
    distance = torch.cdist(tx, tx).square()  # (n_pairs, n_pairs)
    scale = distance.sum().clamp_min(1e-12) / max(n_pairs * (n_pairs - 1), 1) / 6
    return (1 - softness) * torch.eye(n_pairs, dtype=tx.dtype, device=tx.device) + softness * torch.softmax(
        -distance / scale, dim=1
    )


def reconstruction(predicted: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Mean squared error over pairs and features; 1 for a prediction of the mean of standardised features."""
    return (predicted - observed).square().mean()
