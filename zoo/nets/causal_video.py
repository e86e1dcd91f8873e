"""Causal networks between videos and their latents: what a latent says of a frame depends on no later frame.

    x_0, x_{1:4}, x_{5:8}, ...  ->  z_0, z_1, z_2, ...

The first frame is an image of its own: it stands in for a group of four equal ones. Each group of 4 frames and each
4 x 4 pixels become channels by Haar's wavelets (`zoo.maths.wavelets`). Convolutions are factorised: 3 x 3 over the
places of one latent frame, then 3 latent frames back in time, where what was before the beginning equals the first.
Normalisation sees one frame, and attention over time looks back only.

References:
    N. Agarwal and others, Cosmos World Foundation Model Platform for Physical AI, 2025, arXiv:2501.03575, section 4.1.
    L. Yu and others, Language Model Beats Diffusion: Tokenizer is Key to Visual Generation, 2023, arXiv:2310.05737
    (causal 3-D convolutions, one tokenizer for images and videos).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.maths.wavelets import haar, inverse_haar
from zoo.spec import Recorded

__all__ = ["CausalBlock", "CausalDecoder", "CausalEncoder", "CausalTimeAttention", "CausalTimeConv"]

_AXES = (2, 3, 4)


class CausalTimeConv(nn.Module):
    """Convolution of each place over itself and the ``kernel`` - 1 frames before: (B, T, C, h, w) -> the same."""

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv, self.kernel = nn.Conv2d(kernel * width, width, 1), kernel

    def forward(self, x: Tensor) -> Tensor:
        B, T = x.shape[:2]
        before = torch.cat([x[:, :1].expand(-1, self.kernel - 1, -1, -1, -1), x], 1)
        seen = torch.cat([before[:, i : i + T] for i in range(self.kernel)], 2)  # (B, T, kernel C, h, w)
        return self.conv(seen.flatten(0, 1)).unflatten(0, (B, T))


class CausalTimeAttention(nn.Module):
    """Attention of each place to itself and its past: (B, T, C, h, w) -> the same, the identity at the start.

    It is told no times: equal frames give equal answers.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, _norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = _each(self.norm, x).permute(0, 3, 4, 1, 2)  # (B, h, w, T, C)
        q, k, v = self.qkv(h).unflatten(4, (3, self.heads, -1)).permute(4, 0, 1, 2, 5, 3, 6)  # (B, h, w, heads, T, D)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(3, 4).flatten(4)
        return x + self.out(y).permute(0, 3, 4, 1, 2)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, width), width)


def _each(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module of images to each frame by itself: (B, T, C, h, w) -> (B, T, C', h', w')."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class CausalBlock(nn.Module):
    """x + time(act(norm(space(act(norm(x)))))): (B, T, width, h, w) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.space, self.time = nn.Conv2d(width, width, 3, padding=1), CausalTimeConv(width)

    def forward(self, x: Tensor) -> Tensor:
        h = _each(self.space, F.silu(_each(self.norm1, x)))
        return x + self.time(F.silu(_each(self.norm2, h)))


class _Causal(Recorded, nn.Module):
    """What both halves have: a first map, blocks, attention, and a last map."""

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "blocks": "depth"}

    steps_to_move = 3
    """Training steps until every tensor has moved: what attention lets through moves after its output has."""

    def __init__(self, n_in: int, n_out: int, width: int, blocks: int, heads: int, levels: int) -> None:
        super().__init__()
        if levels < 0 or blocks < 1 or width % heads:
            raise ConfigError(
                f"{type(self).__name__} needs levels from 0, blocks from 1 and a width that divides into its heads, "
                f"got levels {levels}, blocks {blocks}, width {width} and heads {heads}"
            )
        self.levels, self.group = levels, 2**levels
        self.first = nn.Conv2d(n_in, width, 3, padding=1)
        self.blocks = nn.ModuleList(CausalBlock(width) for _ in range(blocks))
        self.attention, self.norm = CausalTimeAttention(width, heads), _norm(width)
        self.last = nn.Conv2d(width, n_out, 1)

    def body(self, h: Tensor) -> Tensor:
        h = _each(self.first, h.transpose(1, 2))
        for block in self.blocks:
            h = block(h)
        h = _each(self.norm, self.attention(h))
        return _each(self.last, F.silu(h)).transpose(1, 2)


class CausalEncoder(_Causal):
    """Video to latents, (B, channels, 1 + n g, H, W) -> (B, out, 1 + n, H / g, W / g), g = 2^levels.

    Args:
        channels: of the video.
        width: of the blocks.
        out: channels of a latent.
        blocks: how many.
        heads: of attention over time.
        levels: of the wavelets.

    Raises:
        ConfigError: numbers out of range, or videos that do not divide so.
    """

    def __init__(self, channels: int, width: int, out: int, blocks: int = 2, heads: int = 4, levels: int = 2) -> None:
        super().__init__(channels * 8**levels, out, width, blocks, heads, levels)

    def forward(self, x: Tensor) -> Tensor:
        if (x.shape[2] - 1) % self.group:
            raise ConfigError(
                f"videos must have 1 frame and then groups of {self.group}, got {x.shape[2]} frames; take "
                f"{1 + (x.shape[2] - 1) // self.group * self.group}"
            )
        first = x[:, :, :1].expand(-1, -1, self.group, -1, -1)
        return self.body(haar(torch.cat([first, x[:, :, 1:]], 2), self.levels, _AXES))


class CausalDecoder(_Causal):
    """Latents to video, (B, features, 1 + n, h, w) -> (B, channels, 1 + n g, g h, g w), g = 2^levels.

    Args:
        features: channels of a latent.
        width: of the blocks.
        channels: of the output.
        blocks: how many.
        heads: of attention over time.
        levels: of the wavelets.

    Raises:
        ConfigError: numbers out of range.
    """

    def __init__(
        self, features: int, width: int, channels: int, blocks: int = 3, heads: int = 4, levels: int = 2
    ) -> None:
        super().__init__(features, channels * 8**levels, width, blocks, heads, levels)

    def forward(self, z: Tensor) -> Tensor:
        return inverse_haar(self.body(z), self.levels, _AXES)[:, :, self.group - 1 :]
