"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of, wants_convolutions
from zoo.nets.activations import activation as activation_layer
from zoo.nets.conv import DownsamplingNet, UpsamplingNet
from zoo.spec import Recorded

__all__ = ["MLP"]


class MLP(Recorded, nn.Module):
    """Linear layers with an activation between each two: (B, ...) with features[0] values -> (B, features[-1]).

    Args:
        features: width of the input, of each hidden layer, and of the output.
        activation: name of the non-linearity (see `zoo.nets.activations`).
        bias: whether the last layer has one; a Wasserstein critic needs none, as only differences of scores count.

    Raises:
        ConfigError: fewer than two widths, or an unknown activation.
    """

    sized: ClassVar[Mapping[str, str]] = {"features": "inner"}

    def __init__(self, features: list[int], activation: str = "gelu", bias: bool = True) -> None:
        super().__init__()
        if len(features) < 2 or min(features) < 1:
            raise ConfigError(f"MLP needs at least an input and an output width, all positive, got {list(features)}")
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(features[:-1]):
            layers += [nn.Linear(n_in, n_out), activation_layer(activation)]
        self.layers = nn.Sequential(*layers, nn.Linear(features[-2], features[-1], bias=bias))

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of a network of these shapes: an MLP, or a convolutional one where an image is too large."""
        if wants_convolutions(inputs):
            arguments = {k: v for k, v in arguments.items() if k != "features"}
            return DownsamplingNet.resized({**arguments, "hidden": 256}, inputs, outputs)
        if wants_convolutions(outputs):
            activation = arguments.get("activation", "gelu")
            return UpsamplingNet.resized({"activation": activation, "groups": 8, "refine": True}, inputs, outputs)
        features = [math.prod(inputs), *arguments["features"][1:-1], math.prod(outputs)]
        return made_of(cls, {**arguments, "features": features})

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))  # (B, features[-1])
