"""Residual networks without normalisation for both players, made of the halves of `zoo.nets.resnet`.

References:
    Y. Huang and others, The GAN is dead; long live the GAN! A Modern GAN Baseline, 2025, arXiv:2501.05441, section 4:
    symmetric residual networks, no normalisation, the last convolution of each block starting at zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.fitting import made_of, wants_convolutions
from zoo.nets.conditioning import MinibatchDeviation
from zoo.nets.conv import fitted_widths
from zoo.nets.resnet import ResidualBlock, ResidualDecoder, ResidualEncoder
from zoo.spec import Recorded

__all__ = ["ResidualCritic", "ResidualGenerator"]


def _start_at_identity(net: nn.Module) -> None:
    """Let each residual block add nothing yet."""
    for block in net.modules():
        if isinstance(block, ResidualBlock):
            nn.init.zeros_(block.layers[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(block.layers[-1].bias)  # type: ignore[arg-type]


class ResidualGenerator(Recorded, nn.Module):
    """Vector to image: (B, latent_dim) -> (B, C, H, W), a linear layer, residual blocks, one doubling a width.

    Args:
        latent_dim: size of the vector.
        widths: channels before each doubling; (H, W) must be divisible by 2 ** len(widths).
        shape: (C, H, W) of the output.
        blocks: residual blocks at the first width.
        refine: whether a residual block follows each doubling but the last.

    Raises:
        ConfigError: no widths.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "blocks": "depth"}

    def __init__(
        self, latent_dim: int, widths: list[int], shape: list[int], blocks: int = 1, refine: bool = False
    ) -> None:
        super().__init__()
        self.base = (widths[0], *(s >> len(widths) for s in shape[1:]))
        self.inner = nn.Linear(latent_dim, math.prod(self.base))
        self.outer = ResidualDecoder(widths[0], widths, shape[0], blocks, "leaky_relu", refine)
        _start_at_identity(self.outer)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from (inputs,) to an image, (C, H, W)."""
        widths = fitted_widths(arguments, outputs, doubling=True)
        fitted = {**arguments, "latent_dim": math.prod(inputs), "widths": widths, "shape": list(outputs)}
        if wants_convolutions(outputs):
            fitted["refine"] = True
        return made_of(cls, fitted)

    def forward(self, z: Tensor) -> Tensor:
        return self.outer(self.inner(z.flatten(1)).unflatten(1, self.base))  # (B, widths[0], H / 2^n, W / 2^n)


class ResidualCritic(Recorded, nn.Module):
    """Image to scores: (B, C, H, W) -> (B, out), one halving a width, residual blocks, linear layers.

    Args:
        widths: channels after each halving.
        shape: (C, H, W) of the input.
        features: channels of the map before the linear layer.
        blocks: residual blocks at the last width.
        hidden: width of a linear layer before the output, 0 for none.
        out: numbers an example.
        group: examples whose deviation is a further plane of that map, 0 for none.
        refine: whether a residual block follows each halving but the last.

    Raises:
        ConfigError: no widths.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "features": "width", "hidden": "width", "blocks": "depth"}

    def __init__(
        self,
        widths: list[int],
        shape: list[int],
        features: int,
        blocks: int = 1,
        hidden: int = 0,
        out: int = 1,
        group: int = 0,
        refine: bool = False,
    ) -> None:
        super().__init__()
        self.inner = ResidualEncoder(shape[0], widths, features, blocks, "leaky_relu", refine)
        _start_at_identity(self.inner)
        size = math.prod(s >> len(widths) for s in shape[1:]) * (features + bool(group))
        layers = [nn.LeakyReLU(0.2), *([MinibatchDeviation(group)] if group else []), nn.Flatten()]
        layers += [nn.Linear(size, hidden), nn.LeakyReLU(0.2)] if hidden else []
        self.outer = nn.Sequential(*layers, nn.Linear(hidden or size, out))

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from an image, (C, H, W), to (outputs,)."""
        widths = fitted_widths(arguments, inputs)
        fitted = {**arguments, "widths": widths, "shape": list(inputs), "out": math.prod(outputs)}
        if wants_convolutions(inputs):
            fitted.update(features=max(arguments["features"], widths[-1]), blocks=1, refine=True)
        return made_of(cls, fitted)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))
