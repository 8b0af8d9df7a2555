"""Losses as plain functions on tensors: small enough to read beside their equations.

All take the pairs of several networks that are trained together, too: tensors with one more dimension in front, and a
loss for each network.
"""

import torch
from torch.nn import functional

TEMPERATURES = (0.025, 10.0)  # exp(1 / temperature) and its inverse then fit float32 with room for sums


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
    own_logits = logits.diagonal(dim1=-2, dim2=-1)
    return (logits.logsumexp(dim=-1) + logits.logsumexp(dim=-2) - 2 * own_logits).mean(dim=-1) / 2


def _similarities(cp, tx):
    """Cosine similarity of each CP code with each TX code, (..., n_pairs, n_pairs)."""
    return functional.normalize(cp, dim=-1) @ functional.normalize(tx, dim=-1).mT


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
    expected = (target * (logits + logits.mT)).sum(dim=-1)
    return (logits.logsumexp(dim=-1) + logits.logsumexp(dim=-2) - expected).mean(dim=-1) / 2


def soft_targets(tx: torch.Tensor, softness: float) -> torch.Tensor:
    r"""How much of a CP profile's answer the TX profile of each pair is: (n_pairs, n_pairs), each row sums to 1.

    .. math:: p_{ij} = (1 - s)\, \delta_{ij} + s\, \frac{w_{ij}}{\sum_k w_{ik}},
        \qquad w_{ij} = \exp\left(-\lVert y_i - y_j \rVert^2 / \tilde d\right)

    with the softness :math:`s` from 0 (only the own profile is right) to 1, TX profiles :math:`y` (n_pairs, n_tx) as
    the head sees them, without noise, and :math:`\tilde d` a sixth of the mean squared distance between two different
    profiles. Distances, not cosines: profiles of inactive compounds point anywhere, but all lie near the origin, so
    they are near each other. No gradient flows through the targets.
    """
    n_pairs = tx.shape[-2]
    tx = tx.detach()
    squares = (tx * tx).sum(dim=-1, keepdim=True)
    distance = (squares + squares.mT).sub_(tx @ tx.mT, alpha=2)  # (..., n_pairs, n_pairs), squared
    distance.clamp_min_(0).diagonal(dim1=-2, dim2=-1).zero_()
    scale = distance.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-12) / max(n_pairs * (n_pairs - 1), 1) / 6
    target = torch.softmax(distance.div_(-scale), dim=-1).mul_(softness)
    target.diagonal(dim1=-2, dim2=-1).add_(1 - softness)
    return target


def info_nce_gradients(cp, tx, temperature, target=None) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Gradients of `info_nce`, or with a target of `soft_info_nce`, by `cp` and by `tx`, in closed form.

    With codes :math:`a, b` at unit length, :math:`P` the softmax of :math:`s = a b^\top / \tau` along rows, :math:`Q`
    along columns, and :math:`T` the target: :math:`\partial L / \partial a = (P + Q - T - T^\top)\, b / (2 N \tau)`,
    with the transpose for :math:`b`; what lies along a code is taken off, since length doesn't count. One exponential
    serves both directions. The temperature, (n_networks, 1, 1) or one number, lies within `TEMPERATURES`.
    """
    n_pairs = cp.shape[-2]
    codes = torch.stack((cp, tx))  # (2, ..., n_pairs, n_dimensions): one call for both is faster than two
    inverse = torch.linalg.vector_norm(codes, dim=-1, keepdim=True).clamp_min_(1e-12).reciprocal_()
    cp, tx = codes.mul_(inverse)
    shares = torch.matmul(cp / temperature, tx.mT).exp_()  # (..., n_pairs, n_pairs)
    sums = [shares.sum(dim=dim, keepdim=True).reciprocal_() for dim in (-1, -2)]
    shares.mul_(sums[0] + sums[1])
    if target is None:
        shares.diagonal(dim1=-2, dim2=-1).sub_(2)
    else:
        shares.sub_(target).sub_(target.mT)
    gradients = torch.stack((torch.matmul(shares, tx), torch.matmul(shares.mT, cp)))
    gradients.addcmul_(codes, (codes * gradients).sum(dim=-1, keepdim=True), value=-1)
    cp_gradient, tx_gradient = gradients.mul_(inverse / (2 * n_pairs * temperature))
    return cp_gradient, tx_gradient


def reconstruction(predicted: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Mean squared error over pairs and features; 1 for a prediction of the mean of standardised features."""
    return (predicted - observed).square().mean(dim=(-2, -1))
