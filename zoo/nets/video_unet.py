"""A U-shaped network of videos, factorised: convolutions see one frame, attention sees one place through all frames.

Frames go through the blocks of `zoo.nets.unet` as images do; after them, at every stage, each place of the map attends
to itself in the other frames,

    h[:, i] <- h[:, i] + W_o softmax(Q K^T / sqrt(D)) V  over the T vectors of place i, with sinusoids of their times.

Without that a video is T images drawn each by itself.

References:
    J. Ho, T. Salimans, A. Gritsenko, W. Chan, M. Norouzi, D. J. Fleet, Video Diffusion Models, 2022, arXiv:2204.03458,
    section 3 (factorised space-time attention).
    G. Bertasius, H. Wang, L. Torresani, Is Space-Time Attention All You Need for Video Understanding?, 2021,
    arXiv:2102.05095 (divided attention).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of
from zoo.nets.embeddings import PERIODS, Embedding, sinusoids
from zoo.nets.unet import _Block, _norm
from zoo.spec import Recorded

__all__ = ["TimeAttention", "VideoUNet"]


class TimeAttention(nn.Module):
    """Self-attention of each place over the frames: (B, T, width, h, w) -> the same; the identity at the start.

    Args:
        width: channels, a multiple of ``heads`` and even.
        heads: of attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, _norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C, H, W = x.shape
        times = sinusoids(torch.arange(T, dtype=x.dtype, device=x.device), C, (4.0, 4.0 * T))  # (T, C)
        h = self.norm(x.flatten(0, 1)).flatten(2).unflatten(0, (B, T))  # (B, T, C, HW)
        h = h.permute(0, 3, 1, 2) + times  # (B, HW, T, C)
        q, k, v = self.qkv(h).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)  # (B, HW, heads, T, D) each
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(3)  # (B, HW, T, C)
        return x + self.out(y).permute(0, 2, 3, 1).unflatten(3, (H, W))


class _Stage(nn.Module):
    """Blocks of one width, frame by frame, then attention over time: (B, T, width, h, w) -> the same."""

    def __init__(self, width: int, blocks: int, embedding: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, embedding) for _ in range(blocks))
        self.attention = TimeAttention(width, heads)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        B, T = h.shape[:2]
        h, e = h.flatten(0, 1), e.repeat_interleave(T, 0)
        for block in self.blocks:
            h = block(h, e)
        return self.attention(h.unflatten(0, (B, T)))


class VideoUNet(Recorded, nn.Module):
    """(B, channels, T, H, W), time (B,), labels (B,) or None -> (B, out_channels, T, H, W), for any T.

    The output layer and every attention over time start at zero.

    Args:
        channels: of the video.
        widths: channels of each stage, even, from the full size down; the last stage is the bottom.
        blocks: residual blocks of a stage on the way down, and again on the way up.
        embedding: size of the vector that tells time and label, even.
        out_channels: of the output; those of the video if left out.
        num_classes: labels 0..num_classes-1, the null label being num_classes; 0 for none.
        heads: of attention over time.
        patch: side of the squares of pixels that are folded into channels before the first stage.
        periods: shortest and longest period of the waves by which the time of the noise is told.

    Raises:
        ConfigError: no widths, heads that do not divide a width, or sides that patches do not divide.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "embedding": "width", "blocks": "depth"}

    steps_to_move = 3
    """Training steps until every tensor has moved: the outputs first, then what they let through."""

    def __init__(
        self,
        channels: int,
        widths: list[int],
        blocks: int = 1,
        embedding: int = 64,
        out_channels: int | None = None,
        num_classes: int = 0,
        heads: int = 4,
        patch: int = 1,
        periods: Sequence[float] = PERIODS,
    ) -> None:
        super().__init__()
        if not widths or blocks < 1 or patch < 1:
            raise ConfigError("VideoUNet needs at least one width, one block a stage and patches of at least one pixel")
        if any(w % heads or w % 2 for w in widths):
            raise ConfigError(f"VideoUNet: widths {list(widths)} must be even and divide into {heads} heads")
        self.patch = patch
        self.embedding = Embedding(embedding, num_classes, periods)

        def stage(level: int) -> _Stage:
            return _Stage(widths[level], blocks, embedding, heads)

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
        """Return the spec of such a network between videos, (C, T, H, W) each; their sides and frames may be any.

        Raises:
            ConfigError: no video.
        """
        if len(inputs) != 4:
            raise ConfigError(
                f"VideoUNet is a network of videos, (C, T, H, W), and the examples have shape {tuple(inputs)}; choose "
                f"a model whose network takes such, or set --model.network"
            )
        return made_of(cls, {**arguments, "channels": inputs[0], "out_channels": outputs[0]})

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        B, _, T, *sides = x.shape
        if any(side % self.patch for side in sides):
            raise ConfigError(f"sides of {tuple(sides)} do not divide into patches of {self.patch} pixels")
        e = self.embedding(time, labels)
        h = self.stem(F.pixel_unshuffle(x.transpose(1, 2).flatten(0, 1), self.patch))  # (B T, widths[0], h, w)
        kept = []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            h = stage(h.unflatten(0, (B, T)), e).flatten(0, 1)
            kept.append(h)
            h = shrink(h)
        h = self.bottom(h.unflatten(0, (B, T)), e).flatten(0, 1)
        for grow, merge, stage in zip(reversed(self.grow), reversed(self.merge), reversed(self.up), strict=True):
            skip = kept.pop()
            h = merge(torch.cat([F.interpolate(grow(h), skip.shape[2:]), skip], 1))
            h = stage(h.unflatten(0, (B, T)), e).flatten(0, 1)
        frames = F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.patch)  # (B T, C', H, W)
        return frames.unflatten(0, (B, T)).transpose(1, 2)
