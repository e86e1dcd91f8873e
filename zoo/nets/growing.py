"""Networks of both players that grow from small images to large ones, a stage at a time.

Stage k works at the sides of the first one, doubled k times. One number says how far a network has come, its
growth k + alpha, of which stage k alone counts where alpha is 0, and where it is not, stage k + 1 is faded in,

    image = (1 - alpha) up(image of stage k) + alpha (image of stage k + 1),   up by nearest neighbours

and in the critic its features likewise. Weights are drawn from N(0, 1) and scaled whenever they are used, by what He's
initialisation would have scaled them by once, so that an optimizer whose steps do not depend on the size of gradients
moves all of them at one rate.

References:
    T. Karras, T. Aila, S. Laine, J. Lehtinen, Progressive Growing of GANs for Improved Quality, Stability, and
    Variation, 2017, arXiv:1710.10196, sections 2 to 4 and appendix A.
    K. He, X. Zhang, S. Ren, J. Sun, Delving Deep into Rectifiers, 2015, arXiv:1502.01852: the scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of
from zoo.nets.conditioning import MinibatchDeviation
from zoo.nets.conv import fitted_widths
from zoo.spec import Recorded

__all__ = ["EqualisedConv", "EqualisedLinear", "Growing", "GrowingCritic", "GrowingGenerator", "doubled", "halved"]

_GAIN = math.sqrt(2)  # of He's initialisation, before a rectifier


def doubled(x: Tensor, times: int = 1) -> Tensor:
    """Return images whose pixels are repeated: (B, C, H, W) -> (B, C, 2^times H, 2^times W)."""
    return x if times < 1 else F.interpolate(x, scale_factor=float(2**times), mode="nearest")


def halved(x: Tensor, times: int = 1) -> Tensor:
    """Return the means of blocks of pixels: (B, C, H, W) -> (B, C, H / 2^times, W / 2^times)."""
    return x if times < 1 else F.avg_pool2d(x, 2**times)


class _Equalised(nn.Module):
    """Weights N(0, 1), which ``scale`` multiplies at each use."""

    def __init__(self, shape: Sequence[int], gain: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(*shape)), nn.Parameter(torch.zeros(shape[0]))
        self.scale = gain / math.sqrt(math.prod(shape[1:]))


class EqualisedLinear(_Equalised):
    """Linear layer with an equalised learning rate: (B, n_in) -> (B, n_out).

    Args:
        n_in: numbers of the input.
        n_out: numbers of the output.
        gain: of its initialisation.
    """

    def __init__(self, n_in: int, n_out: int, gain: float = _GAIN) -> None:
        super().__init__((n_out, n_in), gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class EqualisedConv(_Equalised):
    """Convolution with an equalised learning rate, which keeps the sides: (B, n_in, H, W) -> (B, n_out, H, W).

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        kernel: side of the kernel, odd.
        gain: of its initialisation.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int = 3, gain: float = _GAIN) -> None:
        super().__init__((n_out, n_in, kernel, kernel), gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[2] // 2)


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def _normalised(x: Tensor) -> Tensor:
    """Scale the features of each pixel to a mean square of one."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Growing(nn.Module):
    """A network of stages, and how far it has grown.

    The growth is a buffer, so that it is saved with the weights; the stage that follows from it is kept beside, which
    spares a look at the device in every step.

    Args:
        stages: their number.
    """

    growth: Tensor

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.stages = stages
        self.register_buffer("growth", torch.zeros(()))
        self._stage, self._fading, self._known = 0, False, True

    def grow(self, growth: float) -> None:
        """Set the growth, from 0 to ``stages`` - 1; see this module."""
        self.growth.fill_(growth)
        self._note(growth)

    def _note(self, growth: float) -> None:
        self._stage, self._fading, self._known = math.ceil(growth), not float(growth).is_integer(), True

    @property
    def stage(self) -> int:
        """The last stage that takes part."""
        if not self._known:
            self._note(float(self.growth))
        return self._stage

    @property
    def fading(self) -> bool:
        """Whether the last stage is being faded in."""
        return self.stage >= 0 and self._fading

    @property
    def alpha(self) -> Tensor:
        """The share of the last stage where it is being faded in, ()."""
        return self.growth - (self.stage - 1)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = False


class GrowingGenerator(Recorded, Growing):
    """Latent to image, at the sides of the stage: (B, latent_dim) -> (B, C, H / 2^k, W / 2^k).

    Features are normalised pixel by pixel after each convolution, and z to the sphere.

    Args:
        latent_dim: size of the vector.
        widths: channels of each stage; (H, W) must be divisible by 2 ** (len(widths) - 1).
        shape: (C, H, W) of the last stage's images.

    Raises:
        ConfigError: the image cannot be halved so often.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width"}

    def __init__(self, latent_dim: int, widths: list[int], shape: list[int]) -> None:
        super().__init__(len(widths))
        self.base = (widths[0], *_base(widths, shape))
        self.first = EqualisedLinear(latent_dim, math.prod(self.base))
        self.blocks = nn.ModuleList([nn.ModuleList([EqualisedConv(widths[0], widths[0])])])
        for n_in, n_out in pairwise(widths):
            self.blocks.append(nn.ModuleList([EqualisedConv(n_in, n_out), EqualisedConv(n_out, n_out)]))
        self.images = nn.ModuleList(EqualisedConv(n, shape[0], 1, gain=1.0) for n in widths)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from (inputs,) to an image, (C, H, W)."""
        widths = _fitted(arguments, outputs)[::-1]
        return made_of(cls, {**arguments, "latent_dim": math.prod(inputs), "widths": widths, "shape": list(outputs)})

    def forward(self, z: Tensor) -> Tensor:
        x = _normalised(_activated(self.first(_normalised(z)).unflatten(1, self.base)))
        before = x
        for k, block in enumerate(self.blocks[: self.stage + 1]):
            before, x = x, doubled(x, min(k, 1))
            for conv in block:  # type: ignore[attr-defined]
                x = _normalised(_activated(conv(x)))
        image = self.images[self.stage](x)
        if not self.fading:
            return image
        return torch.lerp(doubled(self.images[self.stage - 1](before)), image, self.alpha.to(image.dtype))


class GrowingCritic(Recorded, Growing):
    """Image, at the sides of the stage or larger ones, to scores: (B, C, H / 2^k, W / 2^k) -> (B, out).

    Args:
        widths: channels of each stage, as those of the generator, the smallest images first.
        shape: (C, H, W) of the last stage's images.
        out: numbers an example.
        group: examples whose deviation is a further plane of the smallest map; 0 leaves it out.

    Raises:
        ConfigError: the image cannot be halved so often.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width"}

    def __init__(self, widths: list[int], shape: list[int], out: int = 1, group: int = 4) -> None:
        super().__init__(len(widths))
        sides, self.side = _base(widths, shape), shape[1]
        self.images = nn.ModuleList(EqualisedConv(shape[0], n, 1) for n in widths)
        deviation = [MinibatchDeviation(group)] if group else []
        self.last = nn.Sequential(*deviation, EqualisedConv(widths[0] + bool(group), widths[0]), nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList()
        for n_out, n_in in pairwise(widths):
            self.blocks.append(nn.ModuleList([EqualisedConv(n_in, n_in), EqualisedConv(n_in, n_out)]))
        self.head = nn.Sequential(
            nn.Flatten(), EqualisedLinear(widths[0] * math.prod(sides), widths[0]), nn.LeakyReLU(0.2),
            EqualisedLinear(widths[0], out, gain=1.0),
        )  # fmt: skip

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from an image, (C, H, W), to (outputs,)."""
        widths = _fitted(arguments, inputs)[::-1]
        return made_of(cls, {**arguments, "widths": widths, "shape": list(inputs), "out": math.prod(outputs)})

    def forward(self, x: Tensor) -> Tensor:
        own = self.side >> (self.stages - 1 - self.stage)
        x = halved(x, (x.shape[2] // own).bit_length() - 1)
        h = _activated(self.images[self.stage](x))
        for k in range(self.stage, 0, -1):
            for conv in self.blocks[k - 1]:  # type: ignore[attr-defined]
                h = _activated(conv(h))
            h = halved(h)
            if k == self.stage and self.fading:
                h = torch.lerp(_activated(self.images[k - 1](halved(x))), h, self.alpha.to(h.dtype))
        return self.head(self.last(h))


def _base(widths: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Return the sides of the first stage's images. Raises `ConfigError`."""
    factor = 2 ** (len(widths) - 1)
    if not widths or any(s % factor for s in shape[1:]):
        raise ConfigError(
            f"images of {len(widths)} stages are halved {len(widths) - 1} times, which sides of {tuple(shape[1:])} "
            f"do not allow; change the number of widths"
        )
    return [s // factor for s in shape[1:]]


def _fitted(arguments: Mapping[str, Any], shape: Sequence[int]) -> list[int]:
    """Return the channels of each stage, the largest images first; the entry's where images have the same sides."""
    own = list(arguments["widths"])[::-1]
    halvings = fitted_widths({"widths": own[:-1], "shape": arguments["shape"]}, shape)
    return [*halvings, own[-1] if halvings == own[:-1] else halvings[-1]]
