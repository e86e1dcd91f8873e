"""Coupling layers: one part of the channels moves the other, by what a network says of it.

References:
    L. Dinh, D. Krueger, Y. Bengio, NICE: Non-linear Independent Components Estimation, 2014, arXiv:1410.8516: additive.
    L. Dinh, J. Sohl-Dickstein, S. Bengio, Density estimation using Real NVP, 2016, arXiv:1605.08803: affine, factoring
    out.
    D. P. Kingma, P. Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions, 2018, arXiv:1807.03039.
    C. Durkan and others, Neural Spline Flows, 2019, arXiv:1906.04032.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_choice
from zoo.maths.splines import rational_quadratic, rational_quadratic_inverse
from zoo.maths.transforms import affine, affine_inverse, squeeze, unsqueeze
from zoo.nets.bijections import Bijection

__all__ = ["KINDS", "Coupling", "CouplingNet", "FactorOut", "Network"]

Network = Callable[[int, int], nn.Module]
"""(n_in, n_out) -> a network from (B, n_in, ...) to (B, n_out, ...)."""

KINDS = ("additive", "affine", "spline")

_BOUND, _BINS = 4.0, 8
"""Half the side of the square in which splines bend, and their bins."""
_CAP = 3.0
"""Log-scales of affine couplings stay within +- this, smoothly."""


class CouplingNet(nn.Module):
    """Convolution k x k, convolution 1x1, convolution k x k, on a squeezed image: (B, C_in, H, W) -> (B, C_out, H, W).

    Each place has a learned bias, as the borders of an image are unlike its middle, and with ``context`` a vector that
    sees the whole input is added everywhere. The last layer starts at zero, and with it the coupling as the identity.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        size: (H, W).
        width: hidden channels.
        kernel: k; 1 on vectors, whose size is (1, 1).
        fold: factor by which the image is squeezed before the wide layers; the output is unsqueezed.
        context: width of the network that sees the whole input, 0 for none.
    """

    def __init__(
        self, n_in: int, n_out: int, size: Sequence[int], width: int, kernel: int = 3, fold: int = 1, context: int = 0
    ) -> None:
        super().__init__()
        H, W = (s // fold for s in size)
        n_in, n_out, k = n_in * fold**2, n_out * fold**2, kernel if H * W > 1 else 1
        self.fold = fold
        self.first = nn.Conv2d(n_in, width, k, padding=k // 2)
        self.place = nn.Parameter(torch.zeros(width, H, W)) if H * W > 1 else None
        self.middle = nn.Conv2d(width, width, 1)
        self.last = nn.Conv2d(width, n_out, k, padding=k // 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.context = None
        if context:
            self.context = nn.Sequential(nn.Linear(n_in * H * W, context), nn.ReLU(), nn.Linear(context, width))

    def forward(self, x: Tensor) -> Tensor:
        x = squeeze(x, self.fold)
        h = self.first(x)
        if self.place is not None:
            h = h + self.place
        h = self.middle(F.relu(h))
        if self.context is not None:
            h = h + self.context(x.flatten(1))[..., None, None]  # (B, width, 1, 1)
        return unsqueeze(self.last(F.relu(h)), self.fold)


class Coupling(Bijection):
    """Two parts of the channels, a and b: z_a = x_a and z_b = g(x_b; net(x_a)) with g monotone in each number.

    Args:
        channels: C of inputs (B, C, ...), divided into halves.
        network: (n_in, n_out) -> a network from n_in channels to n_out.
        kind: ``additive``, g = x + t; ``affine``, g = x exp(s) + t with |s| < 3; ``spline``, a rational-quadratic one.
        swap: the second half moves the first one, instead of being moved by it.

    Raises:
        ConfigError: unknown kind, or a single channel.
    """

    def __init__(self, channels: int, network: Network, kind: str = "affine", swap: bool = False) -> None:
        super().__init__()
        check_choice("coupling", kind, KINDS)
        if channels < 2:
            raise ConfigError("a coupling divides the channels into two parts, but there is one; squeeze it first")
        self.kind, self.swap = kind, swap
        self.sizes = [channels // 2, channels - channels // 2]
        n_a, n_b = reversed(self.sizes) if swap else self.sizes
        self.net = network(n_a, {"additive": 1, "affine": 2, "spline": 3 * _BINS - 1}[kind] * n_b)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self._parts(x)
        out = self.net(a)
        if self.kind == "additive":
            b, log_det = b + out, x.new_zeros(())
        elif self.kind == "affine":
            b, log_det = affine(b, *_shift_and_scale(out))
        else:
            b, each = rational_quadratic(b, _per_element(out, b), _BOUND)
            log_det = each.flatten(1).sum(1)
        return self._joined(a, b), log_det

    def inverse(self, z: Tensor) -> Tensor:
        a, b = self._parts(z)
        out = self.net(a)
        if self.kind == "additive":
            b = b - out
        elif self.kind == "affine":
            b = affine_inverse(b, *_shift_and_scale(out))
        else:
            b = rational_quadratic_inverse(b, _per_element(out, b), _BOUND)
        return self._joined(a, b)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, dim=1)
        return (second, first) if self.swap else (first, second)

    def _joined(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([b, a] if self.swap else [a, b], dim=1)


class FactorOut(Bijection):
    """Set half of the channels aside as noise and let the rest go on: (B, C, H, W) -> flat (B, C H W).

    The half that leaves may first be shifted and scaled by what a network says of the other half, which is the same as
    giving it a learned Gaussian prior in the place of the standard normal one.

    Args:
        shape: (C, H, W).
        rest: what the second half goes through, an image to a flat vector.
        network: as in `Coupling`, for that prior; None for none.
    """

    def __init__(self, shape: Sequence[int], rest: Bijection, network: Network | None = None) -> None:
        super().__init__()
        C = shape[0]
        self.sizes = [C // 2, C - C // 2]
        self.shape = (C // 2, *shape[1:])
        self.rest = rest
        self.prior = network(self.sizes[1], 2 * self.sizes[0]) if network is not None else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out, stay = x.split(self.sizes, dim=1)
        z, log_det = self.rest(stay)
        if self.prior is not None:
            out, more = affine(out, *_shift_and_scale(self.prior(stay)))
            log_det = log_det + more
        return torch.cat([out.flatten(1), z], 1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        n = math.prod(self.shape)
        out, stay = z[:, :n].unflatten(1, self.shape), self.rest.inverse(z[:, n:])
        if self.prior is not None:
            out = affine_inverse(out, *_shift_and_scale(self.prior(stay)))
        return torch.cat([out, stay], 1)


def _shift_and_scale(out: Tensor) -> tuple[Tensor, Tensor]:
    shift, raw = out.chunk(2, dim=1)
    return shift, _CAP * torch.tanh(raw / _CAP)


def _per_element(out: Tensor, b: Tensor) -> Tensor:
    """Bring a spline's numbers last: (B, P n, H, W) -> (B, n, H, W, P)."""
    return out.unflatten(1, (b.shape[1], -1)).movedim(2, -1)
