"""Style-based generator and its critic: a mapping from z to w, and a synthesis whose every layer is styled by w.

References:
    T. Karras, S. Laine, T. Aila, A Style-Based Generator Architecture for Generative Adversarial Networks, 2018,
    arXiv:1812.04948: mapping, constant input, noise at each layer.
    T. Karras and others, Analyzing and Improving the Image Quality of StyleGAN, 2019, arXiv:1912.04958: modulation and
    demodulation of weights, images added up over resolutions.
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
from zoo.fitting import halvings, made_of, stage_widths, wants_convolutions
from zoo.nets.conditioning import MinibatchDeviation
from zoo.nets.conv import fitted_widths
from zoo.spec import Recorded

__all__ = ["DeviationCritic", "ModulatedConv", "StyleMapping", "StyleSynthesis"]

_EPS = 1e-8


class StyleMapping(Recorded, nn.Module):
    """Latent to style: (B, n) -> (B, style_dim), after z is scaled to a mean square of 1.

    Args:
        latent_dim: n, of z and, in conditional models, the class's embedding.
        style_dim: size of w.
        depth: linear layers.
    """

    def __init__(self, latent_dim: int, style_dim: int, depth: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([latent_dim, *[style_dim] * depth]):
            layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2)]
            nn.init.kaiming_normal_(layers[-2].weight, 0.2)  # type: ignore[arg-type]
            nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from (inputs,) to (outputs,)."""
        return made_of(cls, {**arguments, "latent_dim": math.prod(inputs), "style_dim": math.prod(outputs)})

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z * (z.square().mean(1, keepdim=True) + _EPS).rsqrt())


class ModulatedConv(nn.Module):
    """Convolution whose weights are scaled by the style and then to unit norm: (B, n_in, h, w) -> (B, n_out, h', w').

        w'_oik = s_i w_oik,   w''_oik = w'_oik / sqrt(sum_ik w'_oik^2 + eps)

    Scaling the input by s and the output by the norm is the same, and one convolution for all examples. With inputs of
    unit variance the output has unit variance where no padding is met.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        style_dim: size of w, of which s is an affine function that starts around 1.
        kernel: side of the kernel.
        up: doubles the image, by a transposed 4x4 convolution: each output pixel meets a quarter of the taps.
        demodulate: whether the weights are scaled to unit norm.
    """

    def __init__(
        self, n_in: int, n_out: int, style_dim: int, kernel: int = 3, *, up: bool = False, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.up, self.demodulate, self.kernel = up, demodulate, 4 if up else kernel
        self.taps = 4 if up else kernel**2  # that an output pixel meets
        self.affine = nn.Linear(style_dim, n_in)
        nn.init.normal_(self.affine.weight, std=style_dim**-0.5)
        nn.init.ones_(self.affine.bias)
        shape = (n_in, n_out) if up else (n_out, n_in)
        self.weight = nn.Parameter(torch.randn(*shape, self.kernel, self.kernel) / math.sqrt(n_in * self.taps))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s = self.affine(w)  # (B, n_in)
        x = x * s[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, self.weight, stride=2, padding=1)
        else:
            x = F.conv2d(x, self.weight, padding=self.kernel // 2)
        if not self.demodulate:
            return x
        squares = self.weight.square().sum((2, 3)) * (self.taps / self.kernel**2)
        norm = s.square() @ (squares if self.up else squares.T)  # (B, n_in) (n_in, n_out)
        return x * (norm + _EPS).rsqrt()[:, :, None, None]


class _Layer(nn.Module):
    """Modulated convolution, noise of a learnt strength, bias, and the activation, which keeps the mean square."""

    def __init__(self, n_in: int, n_out: int, style_dim: int, up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(n_in, n_out, style_dim, up=up)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        x = self.conv(x, w) + self.strength * noise + self.bias[:, None, None]
        return F.leaky_relu(x, 0.2) * math.sqrt(2)


class StyleSynthesis(Recorded, nn.Module):
    """Styles and noise to an image: (B, layers, style_dim), noise of `noise_shapes` -> (B, C, H, W).

    A learnt constant, then two styled layers at each resolution (one at the first), the first of which doubles the
    image. Each resolution adds to the image; where the last is smaller than the image, its contribution has the pixels
    of a block as channels.

    Args:
        widths: channels at each resolution.
        shape: (C, H, W).
        style_dim: size of w.
        base: side of the constant, or both, (h, w).

    Raises:
        ConfigError: the resolutions do not fit the image.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width"}

    def __init__(self, widths: list[int], shape: list[int], style_dim: int, base: int | list[int] = 7) -> None:
        super().__init__()
        channels, height, width = shape
        h, w = (base, base) if isinstance(base, int) else base
        last = [side * 2 ** (len(widths) - 1) for side in (h, w)]
        if not widths or min(h, w) < 1 or height % last[0] or width % last[1] or height // last[0] != width // last[1]:
            raise ConfigError(
                f"StyleSynthesis ends at {last[0]} x {last[1]} pixels, which does not divide {height} x {width}; "
                f"change base or the number of widths"
            )
        self.constant = nn.Parameter(torch.randn(1, widths[0], h, w))
        self.layers, self.images = nn.ModuleList(), nn.ModuleList()
        self.biases = nn.ParameterList()
        self.noise_shapes: list[tuple[int, int]] = []
        for i, n_out in enumerate(widths):
            block = height // last[0] if i == len(widths) - 1 else 1
            n_in = widths[max(i - 1, 0)]
            for n, up in ((n_in, True), (n_out, False)) if i else ((n_in, False),):
                self.layers.append(_Layer(n, n_out, style_dim, up))
                self.noise_shapes.append((h * 2**i, w * 2**i))
            self.images.append(ModulatedConv(n_out, channels * block**2, style_dim, 1, demodulate=False))
            self.biases.append(nn.Parameter(torch.zeros(channels * block**2)))
        self.block = height // last[0]

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from styles, (inputs,), to an image, (C, H, W)."""
        fitted = {**arguments, "style_dim": math.prod(inputs), "shape": list(outputs)}
        sides = list(outputs[1:])
        if sides == list(arguments["shape"][1:]):
            return made_of(cls, fitted)
        n = halvings(sides)
        h, w = (side >> n for side in sides)
        stages = n + wants_convolutions(outputs)  # a small image ends with the pixels of a block as channels
        widths = stage_widths(sides, stages, min(arguments["widths"]))[::-1]
        return made_of(cls, {**fitted, "widths": widths, "base": h if h == w else [h, w]})

    @property
    def depth(self) -> int:
        """Number of styles: one a styled layer, and one a contribution to the image."""
        return len(self.layers) + len(self.images)

    def forward(self, w: Tensor, noise: Sequence[Tensor]) -> Tensor:
        x, image, k, n = self.constant.expand(w.shape[0], -1, -1, -1), None, 0, 0
        for i, (to_image, bias) in enumerate(zip(self.images, self.biases, strict=True)):
            for _ in range(2 if i else 1):
                x = self.layers[n](x, w[:, k], noise[n])
                k, n = k + 1, n + 1
            new = to_image(x, w[:, k]) + bias[:, None, None]
            k += 1
            if i == len(self.images) - 1:
                new = F.pixel_shuffle(new, self.block)
            if image is not None:
                image = F.interpolate(image, scale_factor=new.shape[-1] / image.shape[-1], mode="bilinear")
            image = new if image is None else image + new
        return image


class DeviationCritic(Recorded, nn.Module):
    """Image to scores that also judges how much images vary: (B, C, H, W) -> (B, out).

    One halving a width, the deviation within groups as a further plane, and linear layers.

    Args:
        widths: channels after each halving.
        shape: (C, H, W) of the input.
        hidden: width of the linear layer before the output.
        out: numbers an example.
        group: examples of a group; 0 leaves the deviation out.

    Raises:
        ConfigError: the image is too small to be halved so often.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width", "hidden": "width"}

    def __init__(self, widths: list[int], shape: list[int], hidden: int, out: int = 1, group: int = 4) -> None:
        super().__init__()
        channels, *size = shape
        sides = [s >> len(widths) for s in size]
        if not widths or min(sides) < 1:
            raise ConfigError(f"DeviationCritic cannot halve sides of {tuple(size)} {len(widths)} times")
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([channels, *widths]):
            layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), nn.LeakyReLU(0.2)]
        features = (widths[-1] + bool(group)) * math.prod(sides)
        layers += [*([MinibatchDeviation(group)] if group else []), nn.Flatten()]
        layers += [nn.Linear(features, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, out)]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from an image, (C, H, W), to (outputs,)."""
        widths = fitted_widths(arguments, inputs)
        return made_of(cls, {**arguments, "widths": widths, "shape": list(inputs), "out": math.prod(outputs)})

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
