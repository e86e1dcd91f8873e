"""Haar's wavelets: cells of 2 along each axis as their mean and their differences, and back.

    low = (a + b) / 2,   high = (a - b) / 2,   a = low + high,   b = low - high

along each axis in turn, so that an axis is halved and the channels doubled; several levels transform every band again
(wavelet packets). The scale makes low the mean, in the range of the data: the sum of squares is halved by each axis and
level, |haar(x)|^2 = 2^(-axes levels) |x|^2.

References:
    A. Haar, Zur Theorie der orthogonalen Funktionensysteme, 1910.
    N. Agarwal and others, Cosmos World Foundation Model Platform for Physical AI, 2025, arXiv:2501.03575, section 4.1
    (two levels before an encoder of images or videos).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["haar", "inverse_haar"]


def haar(x: Tensor, levels: int, axes: Sequence[int]) -> Tensor:
    """Return the bands of x as channels, the lowest ones first: (B, C, ...) -> (B, C 2^(axes levels), ...).

    Args:
        x: with the channels in dimension 1.
        levels: how often each axis is halved, at least 0.
        axes: dimensions from 2 on.

    Raises:
        ConfigError: an axis that cannot be halved so often.
    """
    if any(x.shape[axis] % 2**levels for axis in axes):
        raise ConfigError(f"sides of {tuple(x.shape[a] for a in axes)} cannot be halved {levels} times")
    for _ in range(levels):
        for axis in axes:
            a, b = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
            x = torch.cat([a + b, a - b], 1) / 2
    return x


def inverse_haar(x: Tensor, levels: int, axes: Sequence[int]) -> Tensor:
    """Undo `haar`: (B, C 2^(axes levels), ...) -> (B, C, ...)."""
    for _ in range(levels):
        for axis in reversed(axes):
            low, high = x.chunk(2, 1)
            x = torch.stack([low + high, low - high], axis + 1).flatten(axis, axis + 1)
    return x
