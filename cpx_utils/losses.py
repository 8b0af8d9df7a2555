"""Losses as plain functions on tensors: small enough to read beside their equations.

InfoNCE, its soft form and the reconstruction error also take the pairs of several networks that are trained together:
tensors with one more dimension in front, and a loss for each network.
"""

import math

import torch
from torch.nn import functional

LOWEST_SAFE_TEMPERATURE = 0.025  # exp(1 / temperature) and its inverse then fit float32 with room for sums


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
        Mean over both directions, in nats; log(n_pairs) for codes that know nothing. With codes of several networks
        (n_networks, n_pairs, n_dimensions) one for each.

    References
    ----------
    van den Oord 2018 (arXiv 1807.03748), equation 4; symmetric as in Radford 2021 (arXiv 2103.00020).

    Failure mode: a compound that looks like another is a wrong answer all the same; inactive ones all look alike.
    """
    logits = _similarities(cp, tx) / temperature  # (n_pairs, n_pairs)
    if same is not None:
        own = torch.eye(len(cp), dtype=torch.bool, device=cp.device)
        logits = logits.masked_fill(same & ~own, float("-inf"))
    own_logits = logits.diagonal(dim1=-2, dim2=-1)
    return (logits.logsumexp(dim=-1) + logits.logsumexp(dim=-2) - 2 * own_logits).mean(dim=-1) / 2


def _similarities(cp: torch.Tensor, tx: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of each CP code with each TX code, (..., n_pairs, n_pairs)."""
    return functional.normalize(cp, dim=-1) @ functional.normalize(tx, dim=-1).mT


def soft_info_nce(
    cp: torch.Tensor, tx: torch.Tensor, temperature: torch.Tensor | float, target: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE with shares of the answer instead of one right answer.

    Parameters
    ----------
    cp, tx
        Codes of the same treatments, row by row (n_pairs, n_dimensions); they are brought to unit length here.
    temperature
        Divides the cosine similarities.
    target
        How right each pair is (n_pairs, n_pairs); each row sums to 1. The identity gives `info_nce`.

    Returns
    -------
    scalar tensor
        Mean cross-entropy of both directions, in nats; with codes of several networks one for each.

    References
    ----------
    Srinivasa 2023 (CWCL, arXiv 2309.14580), equation 3, with the weights of each row scaled to sum to 1. There the
    soft direction is one; here the same weights, which come from TX, serve both.

    Failure mode: the softer the target, the less is left to learn; with a uniform target nothing is.
    """
    logits = _similarities(cp, tx) / temperature  # (n_pairs, n_pairs)
    expected = (target * (logits + logits.mT)).sum(dim=-1)
    return (logits.logsumexp(dim=-1) + logits.logsumexp(dim=-2) - expected).mean(dim=-1) / 2


def info_nce_gradients(
    cp: torch.Tensor, tx: torch.Tensor, temperature: torch.Tensor | float, target: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Gradients of `info_nce`, or with a target of `soft_info_nce`, in closed form.

    With :math:`a_i, b_j` the codes at unit length, :math:`P` the softmax of :math:`s = a b^\top / \tau` along rows,
    :math:`Q` the same along columns, and :math:`T` the target,

    .. math:: \frac{\partial L}{\partial a} = \frac{1}{2 N \tau} (P + Q - T - T^\top)\, b

    and the same with the transpose for :math:`b`; what lies along a code is taken off, since length doesn't count.
    One exponential serves both directions, where automatic differentiation takes four.

    Parameters
    ----------
    cp, tx
        Codes of the same treatments, row by row (n_pairs, n_dimensions), or those of several networks
        (n_networks, n_pairs, n_dimensions).
    temperature
        At least `LOWEST_SAFE_TEMPERATURE`: below, exponentials leave the range of float32. One for all networks, or
        (n_networks, 1, 1).
    target
        As for `soft_info_nce`; none is the identity.

    Returns
    -------
    two tensors of the shape of `cp`
        Gradients with respect to `cp` and to `tx`.
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


def soft_targets(tx: torch.Tensor, softness: float) -> torch.Tensor:
    r"""How much of a CP profile's answer the TX profile of each pair is, by the similarity of TX profiles.

    .. math:: p_{ij} = (1 - s)\, \delta_{ij} + s\, \frac{w_{ij}}{\sum_k w_{ik}},
        \qquad w_{ij} = \exp\left(-\lVert y_i - y_j \rVert^2 / \tilde d\right)

    with :math:`\tilde d` a sixth of the mean squared distance between two different profiles. Distances, not cosines:
    profiles of inactive compounds point anywhere, but all lie near the origin, so they are near each other.

    Parameters
    ----------
    tx
        TX profiles as the head sees them, without noise (n_pairs, n_tx), or those of several networks.
    softness
        :math:`s`, from 0 (only the own profile is right) to 1.

    Returns
    -------
    tensor (n_pairs, n_pairs)
        Each row sums to 1; no gradient flows through it.
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


def siglip(cp: torch.Tensor, tx: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    r"""Sigmoid loss: every pair of the batch is judged by itself, right or wrong.

    .. math:: L = -\frac{1}{N} \sum_{i, j} \log \sigma\big(z_{ij} (s_{ij} / \tau - \log(N - 1))\big),
        \qquad z_{ii} = 1, \; z_{ij} = -1

    The bias is the log odds of a right pair, which makes a similarity of 0 the right answer of codes that know
    nothing; Zhai 2023 learns it, from a guess.

    Parameters
    ----------
    cp, tx
        Codes of the same treatments, row by row (n_pairs, n_dimensions); they are brought to unit length here.
    temperature
        :math:`\tau`.

    Returns
    -------
    scalar tensor
        Sum over a row's pairs, mean over rows, in nats.

    References
    ----------
    Zhai 2023 (arXiv 2303.15343), equation 1.

    Failure mode: nothing makes pairs of one row compete, so what all similarities share costs nothing to keep.
    """
    cp, tx = functional.normalize(cp, dim=1), functional.normalize(tx, dim=1)
    bias = math.log(max(len(cp) - 1, 1))
    logits = cp @ tx.T / temperature - bias  # (n_pairs, n_pairs)
    signs = 2 * torch.eye(len(cp), dtype=logits.dtype, device=cp.device) - 1
    return -functional.logsigmoid(signs * logits).sum(dim=1).mean()


def cloob(cp: torch.Tensor, tx: torch.Tensor, temperature: torch.Tensor | float, beta: float = 8.0) -> torch.Tensor:
    """InfoLOOB between patterns that a modern Hopfield network retrieves from the batch.

    Each code is replaced by a weighted mean of the batch's CP codes, then of its TX codes, the weights a softmax over
    its similarities to them. What single profiles show by chance is averaged away. InfoLOOB is InfoNCE without the
    own pair in the denominator, so that a pair that is found already still has something to learn.

    Parameters
    ----------
    cp, tx
        Codes of the same treatments, row by row (n_pairs, n_dimensions), at least 2; brought to unit length here.
    temperature
        Divides the cosine similarities of retrieved patterns.
    beta
        Sharpness of the retrieval; without bound, each code retrieves its own nearest stored one.

    Returns
    -------
    scalar tensor
        Mean over both directions, in nats; log(n_pairs - 1) for codes that know nothing.

    References
    ----------
    Fürst 2022 (arXiv 2110.11316), equations 7 to 10, without the factor 1/temperature in front of the loss.

    Failure mode: has no lower bound, and a small batch has little to retrieve from.
    """
    cp, tx = functional.normalize(cp, dim=1), functional.normalize(tx, dim=1)
    losses = []
    for stored in (cp, tx):
        by_cp, by_tx = (
            functional.normalize(torch.softmax(beta * query @ stored.T, dim=1) @ stored, dim=1) for query in (cp, tx)
        )
        logits = by_cp @ by_tx.T / temperature  # (n_pairs, n_pairs)
        # CP's patterns look for TX's along rows of the first store, the other way round along columns of the second.
        logits = logits if stored is cp else logits.T
        own = torch.eye(len(cp), dtype=torch.bool, device=cp.device)
        others = logits.masked_fill(own, float("-inf")).logsumexp(dim=1)
        losses.append((others - logits.diagonal()).mean())
    return (losses[0] + losses[1]) / 2


def vicreg(
    cp: torch.Tensor,
    tx: torch.Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> torch.Tensor:
    """Variance, invariance, covariance: pairs agree, no dimension dies, no two say the same. No wrong answers needed.

    Parameters
    ----------
    cp, tx
        Codes of the same treatments, row by row (n_pairs, n_dimensions), at least 2; not brought to unit length.
    invariance, variance, covariance
        Weights of the squared distance within pairs (mean over dimensions), of the hinge that keeps each dimension's
        standard deviation at 1 or above, and of the squared covariances between dimensions.

    Returns
    -------
    scalar tensor

    References
    ----------
    Bardes 2022 (arXiv 2105.04906), equations 1 to 6, scaled as in the authors' code.

    Failure mode: a head may fill dimensions with what its partner cannot know, only to keep their variance up.
    """
    total = invariance * functional.mse_loss(cp, tx)
    n_pairs, n_dimensions = cp.shape
    for codes in (cp, tx):
        total = total + variance * functional.relu(1 - torch.sqrt(codes.var(dim=0) + 1e-4)).mean() / 2
        centred = codes - codes.mean(dim=0)
        matrix = centred.T @ centred / (n_pairs - 1)  # (n_dimensions, n_dimensions)
        off_diagonal = matrix - torch.diag(matrix.diagonal())
        # As in the authors' code, the variance term is the mean of both modalities and this one their sum.
        total = total + covariance * off_diagonal.pow(2).sum() / n_dimensions
    return total


def barlow_twins(cp: torch.Tensor, tx: torch.Tensor, redundancy: float = 0.005) -> torch.Tensor:
    """The correlation of CP dimensions with TX dimensions should be the identity.

    Parameters
    ----------
    cp, tx
        Codes of the same treatments, row by row (n_pairs, n_dimensions), at least 2; each dimension is standardised
        over the batch here.
    redundancy
        Weight of the squared correlations off the diagonal.

    Returns
    -------
    scalar tensor
        0 at best; about the number of dimensions for codes that know nothing.

    References
    ----------
    Zbontar 2021 (arXiv 2103.03230), equations 1 and 2.

    Failure mode: correlations of small batches are mostly noise.
    """
    standardised = [
        (codes - codes.mean(dim=0)) / torch.sqrt(codes.var(dim=0, unbiased=False) + 1e-8) for codes in (cp, tx)
    ]
    correlation = standardised[0].T @ standardised[1] / len(cp)  # (n_dimensions, n_dimensions)
    on_diagonal = (1 - correlation.diagonal()).pow(2).sum()
    off_diagonal = correlation.pow(2).sum() - correlation.diagonal().pow(2).sum()
    return on_diagonal + redundancy * off_diagonal


def reconstruction(predicted: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Mean squared error over pairs and features; 1 for a prediction of the mean of standardised features.

    With the profiles of several networks (n_networks, n_pairs, n_features) one for each.
    """
    return (predicted - observed).square().mean(dim=(-2, -1))
