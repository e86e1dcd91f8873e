"""A convolutional network that is told a time and gives one number: the way down of a U-Net."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import beyond_digits, made_of, stage_widths
from zoo.nets.embeddings import PERIODS, Embedding
from zoo.spec import Recorded

__all__ = ["TimedConv"]

COARSEST = 8
"""Longest side of the coarsest map of a larger image."""


class TimedConv(Recorded, nn.Module):
    """(B, channels, H, W), time (B,), labels (B,) or None -> (B, 1).

    Blocks h + W_2 SiLU(W_1 SiLU(h) + U e) without normalisation, whose slope in x stays that of the network; maps are
    halved between stages by means. The number is sum_c w_c(e) sum_hw SiLU(h_c), the weights being told the time.

    Args:
        channels: of the image.
        widths: channels of each stage, from the full size down.
        blocks: of a stage.
        embedding: size of the vector that tells the time, even.
        stride: pixels from one place of the first stage to the next, 1 or more.
        num_classes: labels 0..num_classes-1, the null label being num_classes; 0 for none.
        periods: shortest and longest period of the waves by which the time is told.

    Raises:
        ConfigError: no stages or blocks.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "embedding": "width", "blocks": "depth"}

    def __init__(
        self,
        channels: int,
        widths: list[int],
        blocks: int = 1,
        embedding: int = 64,
        stride: int = 1,
        num_classes: int = 0,
        periods: Sequence[float] = PERIODS,
    ) -> None:
        super().__init__()
        if not widths or blocks < 1 or stride < 1:
            raise ConfigError(
                f"TimedConv needs at least one width, one block and a stride of 1, got {widths}, {blocks} and {stride}"
            )
        self.embedding = Embedding(embedding, num_classes, periods)
        self.stem = nn.Conv2d(channels, widths[0], stride + 2, stride, padding=1)
        self.stages = nn.ModuleList(nn.ModuleList(_Block(w, embedding) for _ in range(blocks)) for w in widths)
        self.between = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.out = nn.Linear(embedding, widths[-1])

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from an image, (C, H, W), to (1,).

        Images of no more values than a digit keep the stages; larger ones have stages down to 8x8, of 64 channels
        doubled up to 512. Raises `ConfigError`: no image.
        """
        if len(inputs) != 3:
            raise ConfigError(
                f"TimedConv is a network of images, (C, H, W), and the examples have shape {tuple(inputs)}; choose a "
                f"model whose network takes such, or set --model.network"
            )
        fitted = {**arguments, "channels": inputs[0]}
        if beyond_digits(inputs):
            stages = 1 + max(0, math.ceil(math.log2(max(inputs[1:]) / COARSEST)))
            fitted["widths"] = stage_widths(inputs[1:], stages, max(64, min(arguments["widths"])))
        return made_of(cls, fitted)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        e, h = self.embedding(time, labels), self.stem(x)
        for i, stage in enumerate(self.stages):
            if i:
                h = self.between[i - 1](F.avg_pool2d(h, 2, ceil_mode=True))
            for block in stage:
                h = block(h, e)
        seen = F.silu(h).sum((2, 3))  # (B, widths[-1])
        return torch.sum(seen * self.out(F.silu(e)), 1, keepdim=True)


class _Block(nn.Module):
    """(B, width, h, w) -> the same."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.modulation = nn.Linear(embedding, width)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        return h + self.second(F.silu(self.first(F.silu(h)) + self.modulation(F.silu(e))[:, :, None, None]))
