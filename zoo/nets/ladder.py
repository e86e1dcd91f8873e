"""The two halves of a hierarchical autoencoder: features from the bottom up, groups of latents from the top down.

Scales halve an image n times; each has some groups of latents, maps of as many channels. The state of the way down
begins as a learnt map at the coarsest scale; each group says what it expects of its latents, sees the features of the
way up beside it, takes the latents in and passes a residual block; between scales the state is doubled.

References:
    A. Vahdat, J. Kautz, NVAE: A Deep Hierarchical Variational Autoencoder, 2020, arXiv:2007.03898, figures 2 and 3.
    C. K. Sonderby and others, Ladder Variational Autoencoders, 2016, arXiv:1602.02282.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of, stage_widths, wants_convolutions
from zoo.nets.activations import activation as activation_layer
from zoo.nets.resnet import ResidualBlock
from zoo.spec import Recorded

__all__ = ["LadderDecoder", "LadderEncoder"]

_BOUND = 5.0
"""Largest absolute value of the log of a scale or of its factor, as in the paper's implementation."""


def _checked(widths: Sequence[int], groups: Sequence[int]) -> None:
    if not widths or len(widths) != len(groups) or min(groups) < 1:
        raise ConfigError(
            f"a ladder needs a width for each scale, at least one, and as many numbers of groups, all positive, got "
            f"{list(widths)} and {list(groups)}"
        )


def _grown(arguments: Mapping[str, Any], image: Sequence[int]) -> dict[str, Any]:
    """Return the arguments for images of this shape: their widths grow with them. Raises `ConfigError`."""
    n = len(arguments["widths"])
    if len(image) != 3 or any(side % 2**n for side in image[1:]):
        raise ConfigError(
            f"a ladder halves the sides of an image {n} times, those of {tuple(image)} cannot be; set --data.size to a "
            f"multiple of {2**n}"
        )
    widths = list(arguments["widths"])
    if image[0] > arguments["widths"][0] or wants_convolutions(image):
        widths = stage_widths(image[1:], n, max(widths[0], image[0]))
    return {**arguments, "widths": widths}


class LadderEncoder(Recorded, nn.Module):
    """Image to the features beside each group, the coarsest first: (B, C, H, W) -> maps (B, width, h, w).

    Args:
        channels: C.
        widths: channels of each scale, the finest first; every scale halves the one before.
        groups: of latents at each scale.
        activation: name of the non-linearity.

    Raises:
        ConfigError: numbers of scales that differ, or none.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width"}

    def __init__(self, channels: int, widths: list[int], groups: list[int], activation: str = "silu") -> None:
        super().__init__()
        _checked(widths, groups)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise([channels, *widths]))
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualBlock(w, activation) for _ in range(n)) for w, n in zip(widths, groups, strict=True)
        )

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network of images of another shape."""
        return made_of(cls, {**_grown(arguments, inputs), "channels": inputs[0]})

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for down, blocks in zip(self.downs, self.blocks, strict=True):
            x = down(x)
            for block in blocks:
                x = block(x)
                features.append(x)
        return features[::-1]


class _Group(nn.Module):
    """One group of latents, maps of C channels beside a state of some width."""

    def __init__(self, width: int, latent: int, activation: str) -> None:
        super().__init__()
        self.prior = nn.Sequential(activation_layer(activation), nn.Conv2d(width, 2 * latent, 3, 1, 1))
        self.posterior = nn.Sequential(activation_layer(activation), nn.Conv2d(2 * width, 2 * latent, 3, 1, 1))
        self.take = nn.Conv2d(latent, width, 1)
        self.block = ResidualBlock(width, activation)
        with torch.no_grad():  # of standard normal latents, nearly
            self.prior[1].weight.mul_(0.1)
            self.prior[1].bias.zero_()


class LadderDecoder(Recorded, nn.Module):
    """Groups of latents to an image, the coarsest first, one after the other.

    `start` gives the state of n examples; for each group, `prior` gives mean and log of the scale of p(z_l | z_<l),
    `posterior` by how much those of q(z_l | z_<l, x) differ, given the features beside it, and `update` the state that
    knows z_l; `output` the numbers of p(x | z).

    Args:
        size: (H, W) of the image.
        widths: channels of each scale, the finest first, those of the encoder.
        groups: of latents at each scale.
        latent: channels of each group's latents.
        channels: of the output.
        activation: name of the non-linearity.

    Attributes:
        latent_shapes: of the latents of each group, (C, h, w), the coarsest first.

    Raises:
        ConfigError: numbers of scales that differ, or sides that cannot be halved so often.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width"}

    def __init__(
        self,
        size: list[int],
        widths: list[int],
        groups: list[int],
        latent: int,
        channels: int,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        _checked(widths, groups)
        n = len(widths)
        if any(side % 2**n for side in size):
            raise ConfigError(f"sides of {tuple(size)} cannot be halved {n} times; use multiples of {2**n}")
        self.latent_shapes: list[tuple[int, ...]] = []
        scales: list[nn.Module] = []
        for level in range(n - 1, -1, -1):
            grid = [side >> (level + 1) for side in size]
            self.latent_shapes += [(latent, *grid)] * groups[level]
            scales.append(nn.ModuleList(_Group(widths[level], latent, activation) for _ in range(groups[level])))
        coarse = [side >> n for side in size]
        self.first = nn.Parameter(0.1 * torch.randn(widths[-1], *coarse))
        self.scales = nn.ModuleList(scales)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 4, 2, 1) for a, b in list(pairwise(widths))[::-1])
        self.out = nn.Sequential(
            activation_layer(activation), nn.ConvTranspose2d(widths[0], widths[0], 4, 2, 1),
            activation_layer(activation), nn.Conv2d(widths[0], channels, 3, 1, 1),
        )  # fmt: skip
        self._place = [(s, g) for s, scale in enumerate(scales) for g in range(len(list(scale.children())))]

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network of images of another shape."""
        fitted = {**_grown(arguments, outputs), "size": list(outputs[1:]), "channels": outputs[0]}
        return made_of(cls, fitted)

    def start(self, n: int) -> Tensor:
        return self.first.expand(n, *self.first.shape)

    def prior(self, group: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return _moments(self._group(group).prior(state))

    def posterior(self, group: int, state: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return _moments(self._group(group).posterior(torch.cat([state, features], 1)))

    def update(self, group: int, state: Tensor, z: Tensor) -> Tensor:
        part, (scale, place) = self._group(group), self._place[group]
        state = part.block(state + part.take(z))
        if place == len(self.scales[scale]) - 1 and scale < len(self.ups):  # type: ignore[arg-type]
            state = self.ups[scale](state)
        return state

    def output(self, state: Tensor) -> Tensor:
        return self.out(state)

    def _group(self, group: int) -> _Group:
        scale, place = self._place[group]
        return self.scales[scale][place]  # type: ignore[index,return-value]


def _moments(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return a mean and a bounded log of a scale: (B, 2 C, h, w) -> two of (B, C, h, w)."""
    mean, log_scale = raw.chunk(2, 1)
    return mean, _BOUND * torch.tanh(log_scale / _BOUND)
