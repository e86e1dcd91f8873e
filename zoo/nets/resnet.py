"""Residual convolutional networks between images and small maps of features: the two halves of an autoencoder.

No batch normalisation: examples of a batch do not see each other.

References:
    A. van den Oord, O. Vinyals, K. Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937,
    section 4.1: strided convolutions, then residual blocks of a 3x3 and a 1x1 convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of, stage_widths, wants_convolutions
from zoo.nets.activations import activation as activation_layer
from zoo.spec import Recorded

__all__ = ["ResidualBlock", "ResidualDecoder", "ResidualEncoder"]


def _halved(image: Sequence[int], grid: Sequence[int]) -> int:
    """Return how often the sides of an image, (C, H, W), are halved to be those of a map. Raises `ConfigError`."""
    n = round(math.log2(max(image[1] / grid[1], 1)))
    if n < 1 or [g * 2**n for g in grid[1:]] != list(image[1:]):
        raise ConfigError(
            f"sides of {tuple(image[1:])} cannot be halved to {tuple(grid[1:])}, once at least and equally often"
        )
    return n


def _grown(arguments: Mapping[str, Any], image: Sequence[int], n: int) -> dict[str, Any]:
    """Return the arguments of one half for images of this shape that are halved n times; its widths grow with them."""
    widths, large = sorted(arguments["widths"]), wants_convolutions(image)
    if len(widths) != n or image[0] > widths[0] or large:
        widths = stage_widths(image[1:], n, max(widths[0], image[0]))
    return {**arguments, "widths": widths, **({"refine": True} if large else {})}


class ResidualBlock(nn.Module):
    """x + 1x1(act(3x3(act(x)))): (B, width, h, w) -> (B, width, h, w).

    Args:
        width: channels.
        activation: name of the non-linearity.
    """

    def __init__(self, width: int, activation: str = "relu") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            activation_layer(activation), nn.Conv2d(width, width, 3, 1, 1),
            activation_layer(activation), nn.Conv2d(width, width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResidualEncoder(Recorded, nn.Module):
    """Image to map, (B, C, H, W) -> (B, out, H / 2^n, W / 2^n): one halving a width, residual blocks, 1x1 convolution.

    Args:
        channels: C.
        widths: channels after each of the n halvings.
        out: channels of the map.
        blocks: residual blocks at the last width.
        activation: name of the non-linearity.
        refine: whether a residual block follows each halving but the last.

    Raises:
        ConfigError: no widths.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "blocks": "depth"}

    def __init__(
        self,
        channels: int,
        widths: list[int],
        out: int,
        blocks: int = 2,
        activation: str = "relu",
        refine: bool = False,
    ) -> None:
        super().__init__()
        if not widths:
            raise ConfigError("ResidualEncoder needs a width for each halving, at least one")
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([channels, *widths]):
            if refine and layers:
                layers.insert(len(layers) - 1, ResidualBlock(n_in, activation))
            layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), activation_layer(activation)]
        layers = layers[:-1]  # the blocks begin with one
        layers += [ResidualBlock(widths[-1], activation) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, activation_layer(activation), nn.Conv2d(widths[-1], out, 1))

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from an image, (C, H, W), to a map, (out, h, w)."""
        fitted = _grown(arguments, inputs, _halved(inputs, outputs))
        return made_of(cls, {**fitted, "channels": inputs[0], "out": outputs[0]})

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ResidualDecoder(Recorded, nn.Module):
    """Map to image, (B, features, h, w) -> (B, channels, 2^n h, 2^n w): 3x3 convolution, blocks, one doubling a width.

    Args:
        features: channels of the map.
        widths: channels before each of the n doublings.
        channels: of the output.
        blocks: residual blocks at the first width.
        activation: name of the non-linearity.
        refine: whether a residual block follows each doubling but the last.

    Raises:
        ConfigError: no widths.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "blocks": "depth"}

    def __init__(
        self,
        features: int,
        widths: list[int],
        channels: int,
        blocks: int = 2,
        activation: str = "relu",
        refine: bool = False,
    ) -> None:
        super().__init__()
        if not widths:
            raise ConfigError("ResidualDecoder needs a width for each doubling, at least one")
        layers: list[nn.Module] = [nn.Conv2d(features, widths[0], 3, 1, 1)]
        layers += [ResidualBlock(widths[0], activation) for _ in range(blocks)]
        for n_in, n_out in pairwise(widths):
            layers += [activation_layer(activation), nn.ConvTranspose2d(n_in, n_out, 4, 2, 1)]
            layers += [ResidualBlock(n_out, activation)] if refine else []
        layers += [activation_layer(activation), nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1)]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from a map, (features, h, w), to an image, (C, H, W)."""
        fitted = _grown(arguments, outputs, _halved(outputs, inputs))
        widths = fitted["widths"][::-1]
        return made_of(cls, {**fitted, "widths": widths, "features": inputs[0], "channels": outputs[0]})

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)
