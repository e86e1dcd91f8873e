"""Mixture of discretised logistics: the distribution of a pixel whose colours follow each other.

One of M components is drawn for the whole pixel; within it, every colour is a discretised logistic variable whose
location moves with the colours drawn before it. On the axis [-1, 1], with x_r, x_g, x_b the colours in order:

    m_r = mu_r,    m_g = mu_g + alpha x_r,    m_b = mu_b + beta x_r + gamma x_g,
    P(x) = sum_i pi_i prod_c P(x_c given m_ci, s_ci).

References:
    T. Salimans, A. Karpathy, X. Chen, D. P. Kingma, PixelCNN++: Improving the PixelCNN with Discretized Logistic
    Mixture Likelihood and Other Modifications, 2017, arXiv:1701.05517.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.maths.distributions import DiscretizedLogistic

__all__ = ["LogisticMixture", "level_logits"]

_LEAST_LOG_SCALE = -7.0


class LogisticMixture:
    """Mixtures of M discretised logistics, one a pixel, from the numbers that a network gives for each.

    Args:
        parameters: (..., `size`): M log-weights, C M locations mu, C M log-scales, C (C - 1) / 2 M coefficients before
            their tanh, colour after colour.
        colours: C.
        levels: number of levels of a colour, at least 2.
    """

    def __init__(self, parameters: Tensor, colours: int, levels: int) -> None:
        C, pairs = colours, colours * (colours - 1) // 2
        M = parameters.shape[-1] // (1 + 2 * C + pairs)
        parts = parameters.split([M, C * M, C * M, pairs * M], -1)
        self.colours, self.levels = C, levels
        self.log_weights = parts[0].log_softmax(-1)  # (..., M)
        self.mu = parts[1].unflatten(-1, (C, M))
        self.log_scales = parts[2].unflatten(-1, (C, M)).clamp_min(_LEAST_LOG_SCALE) - math.log(2)  # of the axis [0, 1]
        self.coefficients = torch.tanh(parts[3].unflatten(-1, (pairs, M))) if pairs else None

    @staticmethod
    def size(colours: int, components: int) -> int:
        """Return how many numbers a pixel takes."""
        return components * (1 + 2 * colours + colours * (colours - 1) // 2)

    def location(self, x: Tensor, colour: int) -> Tensor:
        """Return the components' locations of a colour on the axis [0, 1], given the colours before it.

        Args:
            x: levels / (levels - 1) of the pixel, in [0, 1], (..., C); colours from ``colour`` on are not looked at.
            colour: 0..C-1.
        """
        m = self.mu[..., colour, :]
        for d in range(colour):
            if self.coefficients is not None:
                pair = colour * (colour - 1) // 2 + d
                m = m + self.coefficients[..., pair, :] * (2 * x[..., d, None] - 1)
        return (m + 1) / 2

    def log_parts(self, x: Tensor, colour: int) -> Tensor:
        """Return log P(x_c) under each component, given the colours before it: (..., C) in [0, 1] -> (..., M)."""
        part = DiscretizedLogistic(self.location(x, colour), self.log_scales[..., colour, :], self.levels)
        return part.log_prob(x[..., colour, None])

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log P of whole pixels, in nats: (..., C) in [0, 1] -> (...)."""
        return self.posterior(x, self.colours).logsumexp(-1)

    def posterior(self, x: Tensor, colour: int) -> Tensor:
        """Return the components' log-weights times the probabilities of the colours before ``colour``: (..., M)."""
        total = self.log_weights
        for c in range(colour):
            total = total + self.log_parts(x, c)
        return total

    def logits(self, x: Tensor, colour: int) -> Tensor:
        """Return log P of every level of a colour, given the colours before it: (..., C) -> (..., L)."""
        return level_logits(
            self.posterior(x, colour).log_softmax(-1), self.location(x, colour), self.log_scales[..., colour, :],
            self.levels,
        )  # fmt: skip


def level_logits(log_weights: Tensor, location: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Return log P of every level under a mixture: (..., M) each -> (..., levels).

    With sigma at the borders b_k = (k + 1/2) / (L - 1) between levels, z = (b_k - m) / s and h = 1 / (L - 1),
    P(k) = sigma(z_k) sigma(-z_{k-1}) (1 - exp(-h / s)), which does not cancel; the lowest and the highest level, whose
    bins are open, lack the factors of their missing border. One component at a time, to spare memory.
    """
    h = 1 / (levels - 1)
    borders = torch.arange(0.5, levels - 1, device=location.device, dtype=location.dtype) * h  # (L - 1,)
    total = location.new_zeros(*location.shape[:-1], levels)
    for w, m, log_s in zip(log_weights.exp().unbind(-1), location.unbind(-1), log_scale.unbind(-1), strict=True):
        rate = torch.exp(-log_s)[..., None]
        z = (borders - m[..., None]) * rate  # (..., L - 1)
        p = z.new_ones(*z.shape[:-1], levels)
        p[..., :-1] = torch.sigmoid(z)
        p[..., 1:] *= torch.sigmoid(-z)
        p[..., 1:-1] *= -torch.expm1(-rate * h)
        total += w[..., None] * p
    return total.clamp_min(torch.finfo(total.dtype).tiny).log()
