"""How far latents separate the factors that made the data: the mutual information gap.

    MIG = 1/K sum_k (I(z_a; v_k) - I(z_b; v_k)) / H(v_k),   a and b being the latents that know most of factor v_k

Latents, here the means of a posterior, are cut into bins of equal width between their least and largest value, as
Locatello and others do; information is that of the counts, in nats.

References:
    R. T. Q. Chen, X. Li, R. Grosse, D. Duvenaud, Isolating Sources of Disentanglement in Variational Autoencoders,
    2018, arXiv:1802.04942, equation 6.
    F. Locatello and others, Challenging Common Assumptions in the Unsupervised Learning of Disentangled
    Representations, 2018, arXiv:1811.12359, appendix C: 20 bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import ResultError

__all__ = ["BINS", "mutual_information", "mutual_information_gap"]

BINS = 20


def _binned(z: Tensor, bins: int) -> Tensor:
    """Return the bin of each number, column by column: (N, D) -> int64 (N, D)."""
    low, high = z.amin(0), z.amax(0)
    width = torch.where(high > low, high - low, torch.ones_like(low))
    return ((z - low) / width * bins).long().clamp(max=bins - 1)


def mutual_information(latents: Tensor, factors: Tensor, bins: int = BINS) -> Tensor:
    """Return I(z_d; v_k) in nats, (D, K) in float64.

    Args:
        latents: (N, D), cut into bins.
        factors: int64 (N, K), from 0 up.
        bins: of each latent.

    Raises:
        ResultError: numbers of examples that differ, or none.
    """
    if len(latents) != len(factors) or not len(latents):
        raise ResultError(f"{len(latents)} latents and the factors of {len(factors)} examples do not go together")
    z, found = _binned(latents.double(), bins), []
    for v in factors.unbind(1):
        values = int(v.max()) + 1
        joint = torch.stack([torch.bincount(column * values + v, minlength=bins * values) for column in z.unbind(1)])
        p = (joint.double() / len(v)).unflatten(1, (bins, values))
        apart = p.sum(2, keepdim=True) * p.sum(1, keepdim=True)
        found.append(torch.where(p > 0, p * torch.log(p / apart), 0.0).sum((1, 2)))
    return torch.stack(found, 1)


def mutual_information_gap(latents: Tensor, factors: Tensor, bins: int = BINS) -> float:
    """Return the gap, 1 where each factor has a latent of its own that tells it exactly, 0 where none stands out.

    Args:
        latents: (N, D), at least two.
        factors: int64 (N, K), from 0 up; one that has a single value says nothing and is left out.
        bins: of each latent.

    Raises:
        ResultError: fewer than two latents, or no factor that varies.
    """
    if latents.shape[1] < 2:
        raise ResultError("a gap is between two latents; the model has one")
    information = mutual_information(latents, factors, bins)
    shares = [torch.bincount(v).double() / len(v) for v in factors.unbind(1)]
    entropy = torch.stack([-torch.special.xlogy(p, p).sum() for p in shares])
    if not (entropy > 0).any():
        raise ResultError("no factor of these examples varies, so there is no gap to measure")
    first, second = information.topk(2, 0).values  # (K,) each
    return float(((first - second) / entropy)[entropy > 0].mean())
