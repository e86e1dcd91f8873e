"""Invertible maps and the logarithm of the determinant of their Jacobian, as pure functions.

A map and its inverse are two functions side by side. A map that returns a pair returns the image and log |det dy / dx|:
(B,) where it couples numbers, or one number an element where it works element by element, to be summed by the caller.

References:
    L. Dinh, J. Sohl-Dickstein, S. Bengio, Density estimation using Real NVP, 2016, arXiv:1605.08803.
    D. P. Kingma, P. Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions, 2018, arXiv:1807.03039.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError

__all__ = [
    "affine",
    "affine_inverse",
    "checkerboard",
    "from_logit",
    "from_lu",
    "squeeze",
    "squeezed_checkerboard",
    "to_logit",
    "unsqueeze",
]


def affine(x: Tensor, shift: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return y = x exp(log_scale) + shift and log |det|, (B,): all (B, ...) of one shape."""
    return torch.addcmul(shift, x, log_scale.exp()), log_scale.flatten(1).sum(1)


def affine_inverse(y: Tensor, shift: Tensor, log_scale: Tensor) -> Tensor:
    """Return x = (y - shift) exp(-log_scale). Of the shape of y."""
    return (y - shift) * torch.exp(-log_scale)


def to_logit(y: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return x = logit(s) with s = alpha + (1 - 2 alpha) y, and log |dx / dy| of each element, for y in [0, 1].

    Args:
        y: of any shape.
        alpha: in [0, 0.5); positive, so that the ends of the interval stay finite.
    """
    s = alpha + (1 - 2 * alpha) * y
    log_s, log_rest = s.log(), torch.log1p(-s)
    return log_s - log_rest, math.log(1 - 2 * alpha) - log_s - log_rest


def from_logit(x: Tensor, alpha: float) -> Tensor:
    """Return y = (sigmoid(x) - alpha) / (1 - 2 alpha), which leaves [0, 1] by at most alpha / (1 - 2 alpha).

    Of the shape of x.
    """
    return (torch.sigmoid(x) - alpha) / (1 - 2 * alpha)


def squeeze(x: Tensor, factor: int) -> Tensor:
    """Move squares of factor x factor pixels into channels: (B, C, H, W) -> (B, C f^2, H / f, W / f).

    Pixel (i, j) of a square of channel c becomes channel c f^2 + i f + j. The map permutes numbers: log |det| is 0.

    Raises:
        ConfigError: a side that ``factor`` does not divide.
    """
    if x.shape[-2] % factor or x.shape[-1] % factor:
        raise ConfigError(f"sides of {tuple(x.shape[-2:])} cannot be squeezed by {factor}")
    return F.pixel_unshuffle(x, factor) if factor > 1 else x


def unsqueeze(x: Tensor, factor: int) -> Tensor:
    """Undo `squeeze`: (B, C f^2, h, w) -> (B, C, h f, w f)."""
    return F.pixel_shuffle(x, factor) if factor > 1 else x


def checkerboard(height: int, width: int) -> Tensor:
    """Return the mask of pixels (i, j) with i + j even, bool (H, W)."""
    return (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 0


def squeezed_checkerboard(channels: int) -> Tensor:
    """Return which channels of an image squeezed by 2 hold the pixels of `checkerboard`, bool (4 channels,)."""
    return checkerboard(2, 2).flatten().repeat(channels)


def from_lu(permutation: Tensor, lower: Tensor, upper: Tensor, sign: Tensor, log_diagonal: Tensor) -> Tensor:
    """Return W = P L U, (n, n), with log |det W| = sum(log_diagonal).

    Args:
        permutation: P, (n, n).
        lower: only what is below its diagonal counts; L has ones on it.
        upper: only what is above its diagonal counts.
        sign: of the diagonal of U, (n,).
        log_diagonal: log of its absolute value, (n,).
    """
    one = torch.eye(len(sign), dtype=lower.dtype, device=lower.device)
    return permutation @ (lower.tril(-1) + one) @ (upper.triu(1) + torch.diag(sign * log_diagonal.exp()))
