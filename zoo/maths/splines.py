"""Monotone rational-quadratic splines, element by element, with linear tails.

References:
    C. Durkan, A. Bekasov, I. Murray, G. Papamakarios, Neural Spline Flows, 2019, arXiv:1906.04032.
    J. A. Gregory, R. Delbourgo, Piecewise rational quadratic interpolation to monotonic data, 1982.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["rational_quadratic", "rational_quadratic_inverse"]

_LEAST_SIZE = 1e-3
_LEAST_SLOPE = 1e-3


def rational_quadratic(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Return the spline's y and log dy / dx of each element; outside of [-bound, bound] it is the identity.

    Args:
        x: of any shape.
        raw: (*x.shape, 3 K - 1): widths and heights of K bins before a softmax, and the slopes at the K - 1 inner knots
            before a softplus; all zero, it is the identity.
        bound: half the side of the square that the spline maps onto itself.
    """
    knots = _knots(raw, bound)
    inside = x.abs() < bound
    x_in = x.clamp(-bound, bound)
    x_k, width, y_k, height, d_k, d_next = _bin(x_in, knots, 0)
    s = height / width
    xi = (x_in - x_k) / width
    rest = xi * (1 - xi)
    denominator = s + (d_next + d_k - 2 * s) * rest
    y = y_k + height * (s * xi**2 + d_k * rest) / denominator
    slope = s**2 * (d_next * xi**2 + 2 * s * rest + d_k * (1 - xi) ** 2) / denominator**2
    return torch.where(inside, y, x), torch.where(inside, slope.log(), 0.0)


def rational_quadratic_inverse(y: Tensor, raw: Tensor, bound: float) -> Tensor:
    """Return the x whose image under `rational_quadratic` is y: the root of a quadratic equation in each bin.

    Of the shape of y.
    """
    knots = _knots(raw, bound)
    y_in = y.clamp(-bound, bound)
    x_k, width, y_k, height, d_k, d_next = _bin(y_in, knots, 1)
    s = height / width
    excess = (y_in - y_k) * (d_next + d_k - 2 * s)
    a = height * (s - d_k) + excess
    b = height * d_k - excess
    c = -s * (y_in - y_k)
    root = (b**2 - 4 * a * c).clamp(min=0).sqrt()
    xi = 2 * c / (-b - root)
    return torch.where(y.abs() < bound, x_k + xi * width, y)


def _knots(raw: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return abscissas, ordinates and slopes of the K + 1 knots, (..., K + 1) each."""
    K = (raw.shape[-1] + 1) // 3
    widths, heights, slopes = raw.split([K, K, K - 1], dim=-1)
    corners = []
    for sizes in (widths, heights):
        share = _LEAST_SIZE + (1 - _LEAST_SIZE * K) * sizes.softmax(-1)
        inner = 2 * bound * share.cumsum(-1)[..., :-1] - bound
        corners.append(torch.cat([torch.full_like(inner[..., :1], -bound), inner], -1))
    end = torch.full_like(corners[0][..., :1], bound)
    shift = math.log(math.expm1(1 - _LEAST_SLOPE))  # raw slopes of zero mean slopes of one, as in the tails
    inner = _LEAST_SLOPE + F.softplus(slopes + shift)
    one = torch.ones_like(inner[..., :1])
    return torch.cat([corners[0], end], -1), torch.cat([corners[1], end], -1), torch.cat([one, inner, one], -1)


def _bin(value: Tensor, knots: tuple[Tensor, Tensor, Tensor], axis: int) -> tuple[Tensor, ...]:
    """Return left end, width, lower end, height, and both slopes of the bin that a value on an axis falls into."""
    inner = knots[axis][..., 1:-1].detach().contiguous()
    k = torch.searchsorted(inner, value[..., None].detach(), right=True)
    x, y, d = (torch.stack([v.gather(-1, k), v.gather(-1, k + 1)]).squeeze(-1) for v in knots)
    return x[0], x[1] - x[0], y[0], y[1] - y[0], d[0], d[1]
