"""Edges of images: where their brightness changes steeply.

References:
    I. Sobel, G. Feldman, An Isotropic 3x3 Image Gradient Operator, 1968.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["STEEP", "edges"]

STEEP = 0.25
"""Slope from which on there is an edge, 1 being a step from black to white."""


def edges(x: Tensor) -> Tensor:
    """Return 1 where the gradient of the brightness is steep and 0 elsewhere: (B, C, H, W) in [0, 1] -> (B, 1, H, W).

    The gradient is Sobel's, divided by 4, of the mean over channels; the picture's border is repeated outside.
    """
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")  # (B, 1, H + 2, W + 2)
    across, along = grey[..., 2:] - grey[..., :-2], grey[..., 2:, :] - grey[..., :-2, :]
    right = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4
    down = (along[..., :-2] + 2 * along[..., 1:-1] + along[..., 2:]) / 4
    return (right.square() + down.square() >= STEEP**2).to(x.dtype)
