"""A convolutional network that is told a time and gives one number: the way down of a U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.embeddings import PERIODS, Embedding
from zoo.spec import Recorded

__all__ = ["TimedConv"]


class TimedConv(Recorded, nn.Module):
    """(B, channels, H, W), time (B,), labels (B,) or None -> (B, 1).

    Blocks h + W_2 SiLU(W_1 SiLU(h) + U e) without normalisation, whose slope in x stays that of the network; maps are
    halved between stages by means. The number is sum_c w_c(e) sum_hw SiLU(h_c), the weights being told the time.

    Args:
        channels: of the image.
        widths: channels of each stage, from the full size down.
        blocks: of a stage.
        embedding: size of the vector that tells the time, even.
        num_classes: labels 0..num_classes-1, the null label being num_classes; 0 for none.
        periods: shortest and longest period of the waves by which the time is told.

    Raises:
        ConfigError: no stages or blocks.
    """

    def __init__(
        self,
        channels: int,
        widths: list[int],
        blocks: int = 1,
        embedding: int = 64,
        num_classes: int = 0,
        periods: Sequence[float] = PERIODS,
    ) -> None:
        super().__init__()
        if not widths or blocks < 1:
            raise ConfigError(f"TimedConv needs at least one width and one block, got {widths} and {blocks}")
        self.embedding = Embedding(embedding, num_classes, periods)
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(nn.ModuleList(_Block(w, embedding) for _ in range(blocks)) for w in widths)
        self.between = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.out = nn.Linear(embedding, widths[-1])

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
