"""Edges of images: where their brightness changes steeply.

References:
    I. Sobel, G. Feldman, An Isotropic 3x3 Image Gradient Operator, 1968.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["STEEP", "edges"]

STEEP = 0.25
"""Slope from which on there is an edge, 1 being a step from black to white."""


def edges(x: Tensor) -> Tensor:
    """Return 1 where the gradient of the brightness is steep and 0 elsewhere: (B, C, H, W) in [0, 1] -> (B, 1, H, W).

    The gradient is Sobel's, divided by 4, of the mean over channels; the picture's border is repeated outside.
    """
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=x.dtype, device=x.device) / 4
    slopes = F.conv2d(grey, torch.stack([across, across.T])[:, None])  # (B, 2, H, W)
    return (slopes.square().sum(1, keepdim=True) >= STEEP**2).to(x.dtype)
