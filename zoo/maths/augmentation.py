"""Differentiable augmentation that adapts its probability to how sure the critic is of the data.

Each of a few transformations (shift, scaling with rotation, brightness, contrast) is applied to an image with
probability p, to data and samples alike, so that the critic never sees an image as it is alone; p rises while the mean
sign of the critic's scores of data is above the target, and falls below it. At p = 0 images pass unchanged.

References:
    T. Karras and others, Training Generative Adversarial Networks with Limited Data, 2020, arXiv:2006.06676.
    S. Zhao and others, Differentiable Augmentation for Data-Efficient GAN Training, 2020, arXiv:2006.10738.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Augmentation"]

_SHIFT, _SCALE, _TURN, _BRIGHTNESS, _CONTRAST = 0.125, 0.2, math.pi / 12, 0.2, 0.5


class Augmentation(nn.Module):
    """Augment images in [-1, 1] with probability p, which is a buffer.

    Args:
        target: mean sign of the scores of data that is aimed at.
        images: images in which p can rise from 0 to 1.
    """

    draws = 9
    """Uniform numbers that an image needs."""

    p: Tensor

    def __init__(self, target: float, images: int) -> None:
        super().__init__()
        self.target, self.images = target, images
        self.register_buffer("p", torch.zeros(()))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """Return images (B, C, H, W), each transformed where its number says so.

        Args:
            x: images, -1 outside.
            u: uniform in [0, 1), (B, draws): three choices, then six sizes.
        """
        chosen = (u[:, :3] < self.p).to(x.dtype)  # (B, 3): shift, affine, colour
        s = 2 * u[:, 3:] - 1  # (B, 6) in [-1, 1)
        shift = 2 * _SHIFT * s[:, :2] * chosen[:, :1]  # in halves of the image, as affine_grid counts
        scale = (_SCALE * s[:, 2] * chosen[:, 1]).exp()
        turn = _TURN * s[:, 3] * chosen[:, 1]
        cos, sin = turn.cos() * scale, turn.sin() * scale
        theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        moved = F.grid_sample(x + 1, grid, align_corners=False) - 1
        geometric = chosen[:, :2].amax(1).view(-1, 1, 1, 1) > 0
        x = torch.where(geometric, moved, x)
        colour = chosen[:, 2].view(-1, 1, 1, 1)
        mean = x.mean((1, 2, 3), keepdim=True)
        contrast = (_CONTRAST * s[:, 4]).exp().view(-1, 1, 1, 1)
        coloured = (x - mean) * contrast + mean + _BRIGHTNESS * s[:, 5].view(-1, 1, 1, 1)
        return torch.where(colour > 0, coloured, x)

    def adapt(self, sign: Tensor, images: int) -> None:
        """Move p by one step: up where the mean sign of the scores of data, in [-1, 1], is above the target."""
        self.p.add_((sign - self.target).sign() * (images / self.images)).clamp_(0, 1)
