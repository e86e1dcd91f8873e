"""Residual convolutional networks between images and small maps of features: the two halves of an autoencoder.

No batch normalisation: examples of a batch do not see each other.

References:
    A. van den Oord, O. Vinyals, K. Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937,
    section 4.1: strided convolutions, then residual blocks of a 3x3 and a 1x1 convolution.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.activations import activation as activation_layer
from zoo.spec import Recorded

__all__ = ["ResidualBlock", "ResidualDecoder", "ResidualEncoder"]


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

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)
