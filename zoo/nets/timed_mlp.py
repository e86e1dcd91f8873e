"""A residual fully connected network that is told a time and perhaps a class: for points, not for images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import LEAST_WIDTH, made_of, stage_widths, wants_convolutions
from zoo.nets.embeddings import PERIODS, Embedding
from zoo.nets.timed_conv import TimedConv
from zoo.nets.unet import UNet
from zoo.spec import Recorded

__all__ = ["TimedMLP"]


class TimedMLP(Recorded, nn.Module):
    """(B, features), time (B,), labels (B,) or None -> (B, out_features).

    h <- h + W_2 SiLU(W_1 h + U e) for each of ``depth`` blocks; all functions are smooth, as a derivative needs.

    Args:
        features: of an example.
        width: of the stream and of the embedding, even.
        depth: number of blocks.
        out_features: of the output; those of the example if left out.
        num_classes: labels 0..num_classes-1, the null label being num_classes; 0 for none.
        periods: shortest and longest period of the waves by which the time is told.

    Raises:
        ConfigError: no block, or an odd width.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "depth": "depth"}

    def __init__(
        self,
        features: int,
        width: int = 64,
        depth: int = 2,
        out_features: int | None = None,
        num_classes: int = 0,
        periods: Sequence[float] = PERIODS,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ConfigError(f"TimedMLP needs at least 1 block, got {depth}")
        self.embedding = Embedding(width, num_classes, periods)
        self.stem = nn.Linear(features, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.told = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, out_features or features)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of a network of these shapes: of images, (C, H, W), that of a `zoo.nets.unet.UNet`, or of a
        `zoo.nets.timed_conv.TimedConv` to one number.

        The U-Net is one of diffusion models; in the place of a network narrower than 64, which a solver calls many
        times in training, one of few stages without attention.
        """
        passed = {k: arguments[k] for k in ("num_classes", "periods") if k in arguments}
        if len(inputs) == 3 and len(outputs) == 1:
            return TimedConv.resized({**passed, "widths": [16, 32, 64]}, inputs, outputs)
        if len(inputs) == 3 and arguments.get("width", LEAST_WIDTH) < LEAST_WIDTH:
            widths = stage_widths(inputs[1:], 3 if wants_convolutions(inputs) else 2)  # it halves odd sides too
            return made_of(UNet, {**passed, "channels": inputs[0], "widths": widths, "out_channels": outputs[0]})
        if len(inputs) == 3:
            first = {"widths": [32, 64], "embedding": 64, "attention": [1], "patch": 2}
            return UNet.resized({**first, **passed}, inputs, outputs)
        features, out = math.prod(inputs), math.prod(outputs)
        kept = {k: v for k, v in arguments.items() if k != "out_features"} | {"features": features}
        return made_of(cls, kept | ({"out_features": out} if out != features else {}))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        e, h = self.embedding(time, labels), self.stem(x)
        for first, embed, second in zip(self.first, self.told, self.second, strict=True):
            h = h + second(F.silu(first(h) + embed(e)))
        return self.out(F.silu(h))
