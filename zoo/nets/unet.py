"""A small U-shaped convolutional network that is told a time and perhaps a class.

Each residual block normalises groups of channels, and its second normalisation is scaled and shifted by the embedding.
An image may be folded into patches first (space to depth): wide convolutions of small maps compute several times as
fast as narrow convolutions of large ones.

References:
    O. Ronneberger, P. Fischer, T. Brox, U-Net, 2015, arXiv:1505.04597.
    J. Ho, A. Jain, P. Abbeel, Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239, appendix B.
    P. Dhariwal, A. Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021, arXiv:2105.05233 (adaptive group norm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import LEAST_WIDTH, beyond_digits, made_of, stage_widths
from zoo.nets.embeddings import PERIODS, Embedding
from zoo.spec import Recorded

__all__ = ["UNet"]

FINEST, ATTENDED, COARSEST = 128, 16, 8
"""Longest sides of larger images: at the first stage, where attention begins, and at the bottom."""


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, width), width)


class _Block(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))) (1 + scale) + shift)): (B, width, h, w) -> the same."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.modulation = nn.Linear(embedding, 2 * width)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(F.silu(e))[:, :, None, None].chunk(2, 1)  # (B, width, 1, 1) each
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return x + self.conv2(F.silu(h))


class _Attention(nn.Module):
    """x + W_o softmax(Q K^T / sqrt(D)) V over all places of a map: (B, width, h, w) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, _norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.qkv(self.norm(x).flatten(2).transpose(1, 2))  # (B, T, 3 width)
        q, k, v = h.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, T, D) each
        y = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # (B, T, width)
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class _Stage(nn.Module):
    """Residual blocks of one width, and attention after the last: (B, width, h, w) -> the same."""

    def __init__(self, width: int, blocks: int, embedding: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, embedding) for _ in range(blocks))
        self.attention = _Attention(width, heads) if heads else None

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h, e)
        return h if self.attention is None else self.attention(h)


class UNet(Recorded, nn.Module):
    """(B, channels, H, W), time (B,), labels (B,) or None -> (B, out_channels, H, W).

    The output layer starts at zero. Maps are halved between stages, odd sides rounded up, and doubled back to the very
    size that they had.

    Args:
        channels: of the image.
        widths: channels of each stage, from the full size down; the last stage is the bottom.
        blocks: residual blocks of a stage on the way down, and again on the way up.
        embedding: size of the vector that tells time and label, even.
        out_channels: of the output; those of the image if left out.
        num_classes: labels 0..num_classes-1, the null label being num_classes; 0 for none.
        attention: indices of the stages, 0 the full size, that end in self-attention on both ways.
        heads: of attention.
        patch: side of the squares of pixels that are folded into channels before the first stage.
        periods: shortest and longest period of the waves by which the time is told.

    Raises:
        ConfigError: no widths, heads that do not divide a width, an unknown stage, or sides that patches do not divide.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "embedding": "width", "blocks": "depth"}

    def __init__(
        self,
        channels: int,
        widths: list[int],
        blocks: int = 1,
        embedding: int = 64,
        out_channels: int | None = None,
        num_classes: int = 0,
        attention: Sequence[int] = (),
        heads: int = 4,
        patch: int = 1,
        periods: Sequence[float] = PERIODS,
    ) -> None:
        super().__init__()
        if not widths or blocks < 1 or patch < 1:
            raise ConfigError("UNet needs at least one width, one block a stage and patches of at least one pixel")
        if any(not 0 <= level < len(widths) or widths[level] % heads for level in attention):
            raise ConfigError(
                f"UNet: attention {list(attention)} must name stages 0 to {len(widths) - 1} whose widths "
                f"{list(widths)} divide into {heads} heads"
            )
        self.patch = patch
        self.embedding = Embedding(embedding, num_classes, periods)

        def stage(level: int) -> _Stage:
            return _Stage(widths[level], blocks, embedding, heads if level in attention else 0)

        upper = range(len(widths) - 1)
        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(stage(level) for level in upper)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.bottom = stage(len(widths) - 1)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(nn.Conv2d(2 * widths[level], widths[level], 1) for level in upper)
        self.up = nn.ModuleList(stage(level) for level in upper)
        self.norm = _norm(widths[0])
        self.out = nn.Conv2d(widths[0], (out_channels or channels) * patch**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network between images of these shapes, (C, H, W) each.

        Images of no more values than a digit keep the stages, with patches that leave at least 3x3 places at the
        bottom. Larger ones have stages down to 8x8, of 64 channels doubled up to 512, two blocks each, and attention
        from 16x16 on, the proportions of Ho and others; pixels are folded only where a side is longer than 128.

        Raises:
            ConfigError: no image.
        """
        if len(inputs) != 3:
            raise ConfigError(
                f"UNet is a network of images, (C, H, W), and the examples have shape {tuple(inputs)}; choose a model "
                f"whose network takes such, or set --model.network"
            )
        channels, *sides = inputs
        passed = {k: v for k, v in arguments.items() if k != "out_channels"} | {"channels": channels}
        passed |= {"out_channels": outputs[0]} if outputs[0] != channels else {}
        if not beyond_digits(inputs):
            return made_of(cls, {**passed, "patch": _patch(sides, arguments.get("patch", 1), len(arguments["widths"]))})
        patch = next((p for p in (1, 2, 4, 8) if max(sides) <= FINEST * p and not any(s % p for s in sides)), 1)
        grids = [-(-max(sides) // patch)]
        while grids[-1] > COARSEST:
            grids.append(-(-grids[-1] // 2))
        first = max(LEAST_WIDTH, min(arguments["widths"]))
        passed |= {"widths": stage_widths(sides, len(grids), first), "patch": patch}
        passed |= {"attention": [level for level, side in enumerate(grids) if side <= ATTENDED]}
        passed |= {
            "blocks": max(2, arguments.get("blocks", 1)),
            "embedding": max(4 * first, arguments.get("embedding", 0)),
        }
        return made_of(cls, passed)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        if any(side % self.patch for side in x.shape[2:]):
            raise ConfigError(f"sides of {tuple(x.shape[2:])} do not divide into patches of {self.patch} pixels")
        e = self.embedding(time, labels)
        h, kept = self.descend(self.stem(F.pixel_unshuffle(x, self.patch)), e)
        return self.ascend(h, kept, e)

    def descend(self, h: Tensor, e: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the bottom, and what each stage above it hands over to the way up: (B, widths[0], h, w) -> maps."""
        kept = []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            h = stage(h, e)
            kept.append(h)
            h = shrink(h)
        return self.bottom(h, e), kept

    def ascend(self, h: Tensor, kept: Sequence[Tensor], e: Tensor) -> Tensor:
        """Return the output from what `descend` gives: (B, out_channels, H, W)."""
        levels = zip(reversed(self.grow), reversed(self.merge), reversed(self.up), reversed(kept), strict=True)
        for grow, merge, stage, skip in levels:
            h = F.interpolate(grow(h), skip.shape[2:])  # nearest
            h = stage(merge(torch.cat([h, skip], 1)), e)
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.patch)


def _patch(sides: Sequence[int], most: int, stages: int) -> int:
    """Return the largest patch up to ``most`` that divides the sides and leaves 3 places or more at the bottom."""
    least = 2 * 2 ** (stages - 1) + 1  # halving rounds up
    fits = [p for p in range(1, most + 1) if not any(s % p for s in sides) and min(sides) // p >= least]
    return max(fits, default=1)
