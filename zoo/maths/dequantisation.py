"""Grey levels and the continuous values that stand for them.

Level k of L is the interval [k / L, (k + 1) / L). A density p of the continuous image bounds the probability of the
discrete one, whatever the density q of the place u in [0, 1) within the intervals:

    log P(k) = log int p((k + u) / L) du - D log L >= E_q [log p((k + u) / L) - log q(u)] - D log L.

References:
    L. Theis, A. van den Oord, M. Bethge, A note on the evaluation of generative models, 2015, arXiv:1511.01844.
    J. Ho and others, Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture
    Design, 2019, arXiv:1902.00275.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dequantise", "from_continuous", "logit_normal"]


def dequantise(x: Tensor, u: Tensor | float, levels: int) -> Tensor:
    """Return y = (k + u) / L in [0, 1] of levels x = k / (L - 1) and places u in [0, 1]."""
    return ((x * (levels - 1)).round() + u) / levels


def from_continuous(y: Tensor, levels: int, *, whole: bool = False) -> Tensor:
    """Return what y stands for in data range [0, 1]: whole levels k / (L - 1), or such that mid-intervals are levels.

    Args:
        y: continuous values; those outside of [0, 1] are clamped.
        levels: L.
        whole: round down to the level whose interval holds y.
    """
    k = (y * levels).floor() if whole else y * levels - 0.5
    return (k / (levels - 1)).clamp(0, 1)


def logit_normal(eps: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return u = sigmoid(mean + exp(log_scale) eps) and log q(u) of each element, for standard normal eps.

    Of the shape of eps.
    """
    v = torch.addcmul(mean, log_scale.exp(), eps)
    log_u = F.logsigmoid(v)
    log_slope = log_scale + 2 * log_u - v  # log du / d eps, as log(1 - u) = log u - v
    return log_u.exp(), -0.5 * (eps * eps + math.log(2 * math.pi)) - log_slope
