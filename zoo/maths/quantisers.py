"""Quantisers without learnt weights, and what all quantisers share.

References:
    A. van den Oord, O. Vinyals, K. Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937.
    F. Mentzer, D. Minnen, E. Agustsson, M. Tschannen, Finite Scalar Quantization: VQ-VAE Made Simple, 2023,
    arXiv:2309.15505.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.maths.constants import constants

__all__ = ["FiniteScalars", "entropy", "perplexity", "straight_through"]

_MARGIN = 1e-3
"""How far the bound lies outside the outermost integers: any less than 1/2 rounds to them, more than 0 makes two levels
possible."""


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """Return the value of z_q with the gradient of z: the quantiser's own gradient, zero or undefined, is left out.

    Of the shape of both.
    """
    return z + (z_q - z).detach()


def entropy(p: Tensor) -> Tensor:
    """Return -sum p log p in nats over the last dimension, (..., K) -> (...); its gradient is finite at p = 0 too."""
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(-1)


def perplexity(codes: Tensor, size: int) -> Tensor:
    """Return exp H of the frequencies of integer codes 0..size-1: 1 if one is used, ``size`` if all are used evenly.

    Codes of any shape give one number, of shape ().
    """
    p = torch.bincount(codes.flatten(), minlength=size).to(torch.get_default_dtype()) / codes.numel()
    return torch.exp(-torch.xlogy(p, p).sum())


class FiniteScalars:
    """A grid of prod(levels) points: each number of a vector is bounded by tanh and rounded to one of its levels.

    With L levels, h = (L - 1) / 2 and a little more, and o = 0 for odd L, 1/2 for even L (the half step that makes an
    even number of integers fit around 0):

        round(h tanh(z + atanh(o / h)) - o),  divided by floor(L / 2)  ->  [-1, 1]

    Args:
        levels: of each number, all at least 2.

    Raises:
        ConfigError: no levels, or fewer than 2.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        if not levels or min(levels) < 2:
            raise ConfigError(f"every number of a finite scalar quantiser needs at least 2 levels, got {list(levels)}")
        self.levels = tuple(int(L) for L in levels)
        self.size = math.prod(self.levels)
        self._radix = [math.prod(self.levels[:i]) for i in range(len(self.levels))]

    def bound(self, z: Tensor) -> Tensor:
        """Return values that round to one of L integers: (..., D) -> (..., D), 0 -> 0."""
        half = (constants(self.levels, z) - 1) / 2 + _MARGIN
        offset = constants([0.5 * (L % 2 == 0) for L in self.levels], z)
        return half * torch.tanh(z + torch.atanh(offset / half)) - offset

    def quantise(self, z: Tensor) -> Tensor:
        """Return the points of the grid in [-1, 1], with the gradient of `bound`: (..., D) -> (..., D)."""
        bounded = self.bound(z)
        return straight_through(bounded, bounded.round()) / self._half(z)

    def index(self, points: Tensor) -> Tensor:
        """Return the number of each point of the grid: (..., D) in [-1, 1] -> int64 (...), 0..size-1."""
        digits = (points * self._half(points) + self._half(points)).round().long()
        return (digits * constants(self._radix, digits)).sum(-1)

    def point(self, index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the points of numbers: int64 (...), 0..size-1 -> (..., D) in [-1, 1]."""
        radix, levels = (constants(v, index) for v in (self._radix, self.levels))
        digits = (index[..., None] // radix % levels).to(dtype or torch.get_default_dtype())
        return (digits - self._half(digits)) / self._half(digits)

    def _half(self, like: Tensor) -> Tensor:
        return constants([L // 2 for L in self.levels], like)
