"""A critic that also tells what it saw on the way to its score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of
from zoo.nets.conv import fitted_widths
from zoo.spec import Recorded

__all__ = ["FeatureCritic"]


class FeatureCritic(Recorded, nn.Module):
    """Image to scores and to the features of one of its layers: (B, C, H, W) -> (B, out) and (B, ...).

    One halving a width, then linear layers.

    Args:
        widths: channels after each halving.
        shape: (C, H, W) of the input.
        layer: whose features are told, from 1 to the number of widths.
        hidden: width of the linear layer before the output.
        out: numbers an example.

    Raises:
        ConfigError: the image is too small to be halved so often, or there is no such layer.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "hidden": "width"}

    def __init__(self, widths: list[int], shape: list[int], layer: int, hidden: int = 64, out: int = 1) -> None:
        super().__init__()
        channels, *size = shape
        sides = [s >> len(widths) for s in size]
        if not widths or min(sides) < 1:
            raise ConfigError(f"FeatureCritic cannot halve sides of {tuple(size)} {len(widths)} times")
        if not 1 <= layer <= len(widths):
            raise ConfigError(f"layer must be one of the {len(widths)} that halve the image, from 1 on, got {layer}")
        stages = [
            nn.Sequential(nn.Conv2d(n_in, n_out, 4, 2, 1), nn.LeakyReLU(0.2))
            for n_in, n_out in pairwise([channels, *widths])
        ]
        self.below, self.above = nn.Sequential(*stages[:layer]), nn.Sequential(*stages[layer:])
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * math.prod(sides), hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, out)
        )

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from an image, (C, H, W), to (outputs,)."""
        widths = fitted_widths(arguments, inputs)
        layer = min(arguments["layer"], len(widths))
        fitted = {**arguments, "widths": widths, "shape": list(inputs), "out": math.prod(outputs), "layer": layer}
        return made_of(cls, fitted)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.below(x)
        return self.head(self.above(features)), features
