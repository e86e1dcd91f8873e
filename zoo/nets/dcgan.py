"""The two convolutional networks of DCGAN, with batch normalisation in both.

Neither has a hidden linear layer; the critic halves by strided convolutions, the generator doubles by transposed ones;
the generator's output and the critic's input are not normalised.

References:
    A. Radford, L. Metz, S. Chintala, Unsupervised Representation Learning with Deep Convolutional Generative
    Adversarial Networks, 2015, arXiv:1511.06434.
    S. Ioffe, C. Szegedy, Batch Normalization, 2015, arXiv:1502.03167.
"""

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

__all__ = ["DCGANCritic", "DCGANGenerator"]


class DCGANGenerator(Recorded, nn.Module):
    """Vector to image: (B, latent_dim) -> (B, C, H, W), one doubling a width.

    Args:
        latent_dim: size of the vector.
        widths: channels before each doubling; (H, W) must be divisible by 2 ** len(widths).
        shape: (C, H, W) of the output.
        batch_norm: whether layers but the last are normalised over the batch; several processes, which each see their
            own batch, then compute something else than one would.

    Raises:
        ConfigError: the image cannot be halved so often.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width"}

    def __init__(self, latent_dim: int, widths: list[int], shape: list[int], batch_norm: bool = True) -> None:
        super().__init__()
        channels, *size = shape
        base = _base(widths, size)
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, widths[0] * math.prod(base), bias=not batch_norm),
            nn.Unflatten(1, (widths[0], *base)),
        ]
        for n_in, n_out in pairwise([*widths, channels]):
            layers += [*([nn.BatchNorm2d(n_in)] if batch_norm else []), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(n_in, n_out, 4, 2, 1))
        self.layers = nn.Sequential(*layers)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from (inputs,) to an image, (C, H, W)."""
        widths = fitted_widths(arguments, outputs, doubling=True)
        return made_of(cls, {**arguments, "latent_dim": math.prod(inputs), "widths": widths, "shape": list(outputs)})

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z.flatten(1))


class DCGANCritic(Recorded, nn.Module):
    """Image to score: (B, C, H, W) -> (B, out), one halving a width.

    Args:
        widths: channels after each halving; (H, W) must be divisible by 2 ** len(widths).
        shape: (C, H, W) of the input.
        out: numbers an example.
        batch_norm: whether layers but the first are normalised over the batch.

    Raises:
        ConfigError: the image cannot be halved so often.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width"}

    def __init__(self, widths: list[int], shape: list[int], out: int = 1, batch_norm: bool = True) -> None:
        super().__init__()
        channels, *size = shape
        base = _base(widths, size)
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(pairwise([channels, *widths])):
            layers.append(nn.Conv2d(n_in, n_out, 4, 2, 1))
            layers += [*([nn.BatchNorm2d(n_out)] if batch_norm and i else []), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * math.prod(base), out))

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from an image, (C, H, W), to (outputs,)."""
        widths = fitted_widths(arguments, inputs)
        return made_of(cls, {**arguments, "widths": widths, "shape": list(inputs), "out": math.prod(outputs)})

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _base(widths: list[int], size: list[int]) -> list[int]:
    factor = 2 ** len(widths)
    if not widths or any(s % factor for s in size):
        raise ConfigError(
            f"sides of {tuple(size)} are halved {len(widths)} times, so they must be multiples of {factor}; change the "
            f"number of widths"
        )
    return [s // factor for s in size]
