"""A convolutional map from images to images that is told noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import halvings, made_of, stage_widths
from zoo.nets.resnet import ResidualBlock
from zoo.spec import Recorded

__all__ = ["ImageMap"]


class ImageMap(Recorded, nn.Module):
    """Image and noise to image: (B, C H W + noise_dim) -> (B, C, H, W), halving a width, then doubling with short-cuts.

        h_0 = x,  h_i = block(halve(h_{i-1})),  g_n = h_n + W z,  g_{i-1} = block(double(g_i) + h_{i-1})

    Args:
        shape: (C, H, W), of both images.
        noise_dim: size of z, which is added at the coarsest grid; 0 for none.
        widths: channels after each halving; (H, W) must be divisible by 2 ** len(widths).

    Raises:
        ConfigError: the image cannot be halved so often.

    References:
        O. Ronneberger, P. Fischer, T. Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015,
        arXiv:1505.04597.
    """

    def __init__(self, shape: list[int], noise_dim: int, widths: list[int]) -> None:
        super().__init__()
        channels, *size = shape
        factor = 2 ** len(widths)
        if not widths or any(s % factor for s in size):
            raise ConfigError(
                f"ImageMap halves {len(widths)} times, so sides of {tuple(size)} must be multiples of {factor}; change "
                f"the number of widths"
            )
        self.shape = tuple(shape)
        self.base = (widths[-1], *(s // factor for s in size))
        self.halving = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise([channels, *widths]))
        self.down = nn.ModuleList(ResidualBlock(w) for w in widths)
        self.noise = nn.Linear(noise_dim, math.prod(self.base)) if noise_dim else None
        self.doubling = nn.ModuleList(nn.ConvTranspose2d(b, a, 4, 2, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(ResidualBlock(w) for w in widths[:-1])
        self.last = nn.ConvTranspose2d(widths[0], channels, 4, 2, 1)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from an image and noise, (D + noise_dim,), to an image, (C, H, W)."""
        sides, noise_dim = outputs[1:], math.prod(inputs) - math.prod(outputs)
        widths = stage_widths(sides, halvings(sides), min(arguments.get("widths") or [0]))
        return made_of(cls, {"shape": list(outputs), "noise_dim": noise_dim, "widths": widths})

    def forward(self, xz: Tensor) -> Tensor:
        D = math.prod(self.shape)
        h, kept = xz[:, :D].unflatten(1, self.shape), []
        for i, (halve, block) in enumerate(zip(self.halving, self.down, strict=True)):
            h = block(halve(F.relu(h) if i else h))  # (B, widths[i], H / 2^(i+1), W / 2^(i+1))
            kept.append(h)
        if self.noise is not None:
            h = h + self.noise(xz[:, D:]).unflatten(1, self.base)
        for double, block, skip in zip(reversed(self.doubling), reversed(self.up), reversed(kept[:-1]), strict=True):
            h = block(double(F.relu(h)) + skip)
        return self.last(F.relu(h))
