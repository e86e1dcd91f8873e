"""Convolutional networks that halve or double the image at each layer.

Neither has batch normalisation: examples of a batch do not see each other, as a per-example gradient penalty needs and
as several devices need to compute what one would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import halvings, made_of, stage_widths, wants_convolutions
from zoo.nets.activations import activation as activation_layer
from zoo.nets.image_map import ImageMap
from zoo.spec import Recorded

__all__ = ["DownsamplingNet", "UpsamplingNet", "fitted_widths"]


def fitted_widths(arguments: Mapping[str, Any], shape: Sequence[int], *, doubling: bool = False) -> list[int]:
    """Return the channels of a network for images of ``shape``, one for each halving.

    Those of the entry where the sides stay what they are, else as many as the image can be halved.

    Args:
        arguments: ``widths`` and ``shape`` of a network, if there is one.
        shape: (C, H, W).
        doubling: whether the network doubles, so that the coarsest grid comes first.

    Raises:
        ConfigError: sides that cannot be halved so often.
    """
    widths = list(arguments.get("widths") or [])
    if widths and list(arguments["shape"][1:]) == list(shape[1:]):
        return widths
    found = stage_widths(shape[1:], halvings(shape[1:]), min(widths, default=0))
    return found[::-1] if doubling else found


class UpsamplingNet(Recorded, nn.Module):
    """Vector to image: (B, latent_dim) -> (B, C, H, W), a linear layer and one doubling a width.

    Args:
        latent_dim: size of the vector.
        widths: channels before each doubling; (H, W) must be divisible by 2 ** len(widths).
        shape: (C, H, W) of the output.
        activation: name of the non-linearity.
        groups: groups of channels that are normalised before each activation, example by example; 0 for none.
        refine: whether a 3x3 convolution follows each doubling but the last.

    Raises:
        ConfigError: the image cannot be halved so often, or the widths do not divide into the groups.

    References:
        Y. Wu, K. He, Group Normalization, 2018, arXiv:1803.08494.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width"}

    def __init__(
        self,
        latent_dim: int,
        widths: list[int],
        shape: list[int],
        activation: str = "relu",
        groups: int = 0,
        refine: bool = False,
    ) -> None:
        super().__init__()
        channels, *size = shape
        factor = 2 ** len(widths)
        if not widths or any(s % factor for s in size):
            raise ConfigError(
                f"UpsamplingNet doubles {len(widths)} times, so sides of {tuple(size)} must be multiples of {factor}; "
                f"change the number of widths"
            )
        if groups and any(w % groups for w in widths):
            raise ConfigError(f"UpsamplingNet: widths {list(widths)} do not divide into {groups} groups")

        def activated(width: int) -> list[nn.Module]:
            return [*([nn.GroupNorm(groups, width)] if groups else []), activation_layer(activation)]

        self.base = (widths[0], *(s // factor for s in size))
        self.inner = nn.Linear(latent_dim, math.prod(self.base))
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [*activated(n_in), nn.ConvTranspose2d(n_in, n_out, 4, 2, 1)]
            if refine:
                layers += [*activated(n_out), nn.Conv2d(n_out, n_out, 3, 1, 1)]
        layers += [*activated(widths[-1]), nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1)]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from (inputs,) to (C, H, W); an `ImageMap` where an image is in them."""
        if wants_convolutions(outputs) and math.prod(inputs) >= math.prod(outputs):
            return ImageMap.resized(arguments, inputs, outputs)
        widths = fitted_widths(arguments, outputs, doubling=True)
        fitted = {**arguments, "latent_dim": math.prod(inputs), "widths": widths, "shape": list(outputs)}
        if wants_convolutions(outputs):
            fitted["refine"] = True
        return made_of(cls, fitted)

    def forward(self, z: Tensor) -> Tensor:
        h = self.inner(z.flatten(1)).unflatten(1, self.base)  # (B, widths[0], H / 2^n, W / 2^n)
        return self.layers(h)


class DownsamplingNet(Recorded, nn.Module):
    """Image to vector: (B, C, H, W) -> (B, out), one halving a width, then linear layers.

    Args:
        widths: channels after each halving.
        shape: (C, H, W) of the input.
        out: size of the output; 1 for a critic.
        hidden: width of one linear layer before the output, 0 for none.
        activation: name of the non-linearity.
        bias: whether the last layer has one; a Wasserstein critic needs none, as only differences of scores count.

    Raises:
        ConfigError: the image is too small to be halved so often.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "hidden": "width"}

    def __init__(
        self,
        widths: list[int],
        shape: list[int],
        out: int = 1,
        hidden: int = 0,
        activation: str = "leaky_relu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        channels, *size = shape
        sides = [s >> len(widths) for s in size]
        if not widths or min(sides) < 1:
            raise ConfigError(f"DownsamplingNet cannot halve sides of {tuple(size)} {len(widths)} times")
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([channels, *widths]):
            layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), activation_layer(activation)]
        layers.append(nn.Flatten())
        features = widths[-1] * math.prod(sides)
        if hidden:
            layers += [nn.Linear(features, hidden), activation_layer(activation)]
        layers.append(nn.Linear(hidden or features, out, bias=bias))
        self.layers = nn.Sequential(*layers)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from an image, (C, H, W), to (outputs,)."""
        widths = fitted_widths(arguments, inputs)
        fitted = {**arguments, "widths": widths, "shape": list(inputs), "out": math.prod(outputs)}
        return made_of(cls, fitted)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
