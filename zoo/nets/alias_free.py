"""A style-based generator whose details move with the picture, and not with the grid of pixels.

Every map of features stands for a continuous signal, whose band is limited below half of the rate at which it is
sampled. A pointwise non-linearity makes frequencies beyond any limit, so it happens at twice the rate, between two
low-pass filters:

    z -> sqrt(2) D[ leaky_relu( U[z] ) ],   U up-sampling, D down-sampling, both by Kaiser's windowed sinc

The first signal is a sum of waves, whose place is known at any point; there is no noise of pixels, and a margin around
the image keeps its border out of sight. Cut-offs grow geometrically from layer to layer, and so do rates, by doubling.

References:
    T. Karras and others, Alias-Free Generative Adversarial Networks, 2021, arXiv:2106.12423: configuration T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of, wants_convolutions
from zoo.maths.filters import resampling
from zoo.nets.style import ModulatedConv
from zoo.spec import Recorded

__all__ = ["AliasFreeSynthesis", "FilteredActivation", "FourierFeatures", "Passband", "bands"]

_FIRST_CUTOFF, _FIRST_STOP, _LAST_STOP = 2.0, 2**2.1, 2**0.3  # the last is a factor of half the image's rate
_TAPS = 6  # of a filter, for each sample of the lower of its two rates
_OUTPUT = 0.25  # factor of the image, which brings it near the range of data at the start


@dataclass(frozen=True)
class Passband:
    """What a signal may hold, in cycles and samples along the image's longer side.

    Attributes:
        cutoff: f_c, the highest frequency that is kept whole.
        half_width: f_h, half of the band in which filters fall off.
        rate: s, of samples.
    """

    cutoff: float
    half_width: float
    rate: float


def bands(layers: int, rate: float, critical: int = 2) -> list[Passband]:
    """Return the band after each layer of a synthesis, of which the first is also that of its input.

    Cut-offs and the ends of stop bands are geometric progressions; a rate is that of the image, halved as often as its
    half stays above the end of the stop band.

    Args:
        layers: number of layers.
        rate: of the image, more than 4 samples.
        critical: last layers, whose cut-off is half of the image's rate: they keep all that it can hold.
    """
    found = []
    for i in range(layers):
        share = min(i / (layers - critical), 1.0)
        cutoff = _FIRST_CUTOFF * (rate / 2 / _FIRST_CUTOFF) ** share
        stop = _FIRST_STOP * (rate / 2 * _LAST_STOP / _FIRST_STOP) ** share
        sampled = rate
        while sampled / 2 >= 2 * stop:
            sampled /= 2
        found.append(Passband(cutoff, max(sampled / 2, stop) - cutoff, sampled))
    return found


class FourierFeatures(nn.Module):
    """Waves of random frequency and phase, moved and turned by the style: (B, style_dim) -> (B, channels, *size).

    Args:
        channels: waves; a learnt matrix mixes them.
        style_dim: size of w, from which a linear layer makes (cos, sin, right, down), at the start (1, 0, 0, 0).
        size: (h, w) samples.
        band: of the signal; frequencies are uniform in the disc of its cut-off.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int, style_dim: int, size: Sequence[int], band: Passband) -> None:
        super().__init__()
        angle, radius = 2 * math.pi * torch.rand(channels), band.cutoff * torch.rand(channels).sqrt()
        self.register_buffer("frequencies", torch.stack([angle.cos(), angle.sin()], 1) * radius[:, None])  # (C, 2)
        self.register_buffer("phases", torch.rand(channels))
        self.mix = nn.Parameter(torch.randn(channels, channels) / math.sqrt(channels))
        self.affine = nn.Linear(style_dim, 4)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.size, self.rate = tuple(size), band.rate

    def forward(self, w: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return the waves.

        Args:
            w: styles (B, style_dim).
            shift: (B, 2) or (2,), by how much the picture is moved to the right and down, in its longer sides.
        """
        cos, sin, right, down = self.affine(w).unbind(1)
        norm = (cos.square() + sin.square()).sqrt()
        cos, sin, place = cos / norm, sin / norm, torch.stack([right, down], 1) / norm[:, None]  # (B,), (B,), (B, 2)
        place = place if shift is None else place + shift
        f = self.frequencies
        fx, fy = f[:, 0], f[:, 1]
        turned = torch.stack([cos[:, None] * fx + sin[:, None] * fy, cos[:, None] * fy - sin[:, None] * fx], 2)
        phase = self.phases - (turned * place[:, None]).sum(2)  # (B, C)
        y, x = ((torch.arange(n, device=w.device, dtype=w.dtype) + 0.5 - n / 2) / self.rate for n in self.size)
        across = turned[:, :, 0, None] * x + phase[:, :, None]  # (B, C, w)
        along = turned[:, :, 1, None] * y  # (B, C, h)
        waves = torch.sin(2 * math.pi * (along[..., :, None] + across[..., None, :]))  # (B, C, h, w)
        return F.conv2d(waves, self.mix[:, :, None, None])


class FilteredActivation(nn.Module):
    """Leaky ReLU between two low-pass filters, which keeps the mean square: (B, C, *before) -> (B, C, *after).

    Args:
        before: (h, w) samples of the input.
        after: (h, w) of the output, about the same middle.
        source: band of the input.
        target: band of the output.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int], source: Passband, target: Passband) -> None:
        super().__init__()
        fine = 2 * max(source.rate, target.rate)
        for axis, n, m in zip("yx", before, after, strict=True):
            middle = self.fine_samples(n, m, source, target)
            for name, sizes, band, rates, gain in (
                (f"up_{axis}", (n, middle), source, (source.rate, fine), 1.0),
                (f"down_{axis}", (middle, m), target, (fine, target.rate), 2**0.25),  # both together: sqrt(2)
            ):
                taps = _TAPS * round(fine / band.rate)
                filter_ = gain * resampling(sizes, rates, taps, band.cutoff, band.half_width)
                self.register_buffer(name, filter_.to(torch.get_default_dtype()), persistent=False)

    @staticmethod
    def fine_samples(before: int, after: int, source: Passband, target: Passband) -> int:
        """Return the samples of a side at the rate of the non-linearity: those of the input that the output sees."""
        fine = 2 * max(source.rate, target.rate)
        whole = round(before * fine / source.rate)
        seen = (after + _TAPS) * round(fine / target.rate)
        return whole if seen >= whole else seen + (whole - seen) % 2

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.up_y @ x @ self.up_x.T, 0.2)
        return self.down_y @ (x @ self.down_x.T)


class _Layer(nn.Module):
    """Modulated convolution of an input that is scaled to a mean square of one, bias, filtered activation."""

    magnitude: Tensor

    def __init__(self, n_in: int, n_out: int, style_dim: int, activation: nn.Module | None) -> None:
        super().__init__()
        whole = activation is not None
        self.conv = ModulatedConv(n_in, n_out, style_dim, 3 if whole else 1, demodulate=whole)
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.activation = activation
        self.register_buffer("magnitude", torch.ones(()))  # running mean square of the input
        self.seen: Tensor | None = None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        if self.training:
            self.seen = x.detach().to(self.magnitude.dtype).square().mean()
        x = self.conv(x * self.magnitude.rsqrt(), w) + self.bias[:, None, None]
        return x if self.activation is None else self.activation(x)


class AliasFreeSynthesis(Recorded, nn.Module):
    """Styles to an image that moves as a whole: (B, depth, style_dim) -> (B, C, H, W), around [-1, 1].

    Args:
        shape: (C, H, W), the longer side more than 4 pixels.
        style_dim: size of w.
        layers: filtered layers, more than two.
        base: twice the channels of a layer times the cut-off of its output, as long as they stay within ``widest``.
        widest: most channels of a layer.
        margin: samples of any rate around the image, which the last layer cuts off.

    Raises:
        ConfigError: an image that is too small, too few layers, or a number out of range.
    """

    sized: ClassVar[Mapping[str, str]] = {"base": "width", "widest": "width"}
    noise_shapes: ClassVar[tuple[tuple[int, int], ...]] = ()

    def __init__(
        self, shape: list[int], style_dim: int, layers: int = 14, base: int = 16384, widest: int = 512, margin: int = 10
    ) -> None:
        super().__init__()
        channels, *sides = shape
        if max(sides) <= 4 or layers < 3 or min(base, widest) < 1 or margin < 0:
            raise ConfigError(
                f"AliasFreeSynthesis needs a side of more than 4 pixels, 3 layers or more, channels, and a margin of 0 "
                f"or more; got sides {tuple(sides)}, {layers} layers, base {base}, widest {widest}, margin {margin}"
            )
        found = bands(layers, float(max(sides)))
        widths = [max(1, min(round(base / 2 / band.cutoff), widest)) for band in found]
        sizes = [[math.ceil(s * b.rate / max(sides)) + 2 * margin for s in sides] for b in found[:-1]]
        sizes += [list(sides)]
        self.input = FourierFeatures(widths[0], style_dim, sizes[0], found[0])
        self.layers = nn.ModuleList()
        for i in range(layers):
            j = max(i - 1, 0)  # the first layer has the band of the input on either side
            activation = FilteredActivation(sizes[j], sizes[i], found[j], found[i])
            self.layers.append(_Layer(widths[j], widths[i], style_dim, activation))
        self.image = _Layer(widths[-1], channels, style_dim, None)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from styles, (inputs,), to an image, (C, H, W)."""
        fitted = {**arguments, "style_dim": math.prod(inputs), "shape": list(outputs)}
        if wants_convolutions(outputs):  # two layers more for each doubling, as the paper's fourteen end at 1024
            more = max(0, math.ceil(math.log2(max(outputs[1:]) / 28)))
            fitted |= {"layers": arguments["layers"] + 2 * more, "widest": max(64, arguments["widest"])}
            fitted["base"] = arguments["base"] * 2 ** (more + 1)
        return made_of(cls, fitted)

    @property
    def depth(self) -> int:
        """Number of styles: that of the waves, one of each layer, and that of the image."""
        return len(self.layers) + 2

    @torch.no_grad()
    def follow(self, decay: float, shared: Callable[[Tensor], Tensor]) -> None:
        """Let the mean squares by which inputs are scaled follow those of the last batch in training.

        Args:
            decay: of the running mean.
            shared: (layers + 1,) -> the same, averaged over all processes that train together.
        """
        layers: list[_Layer] = [*self.layers, self.image]  # type: ignore[list-item]
        seen = [layer.seen for layer in layers if layer.seen is not None]
        if len(seen) == len(layers):
            for layer, square in zip(layers, shared(torch.stack(seen)), strict=True):
                layer.magnitude.lerp_(square.to(layer.magnitude.dtype), 1 - decay)

    def forward(self, w: Tensor, noise: Sequence[Tensor] = (), shift: Tensor | None = None) -> Tensor:
        x = self.input(w[:, 0], shift)
        for i, layer in enumerate([*self.layers, self.image]):
            x = layer(x, w[:, i + 1])
        return _OUTPUT * x
