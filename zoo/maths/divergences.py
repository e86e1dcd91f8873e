"""Convex conjugates by which a divergence softens a marginal of optimal transport, the squared mean discrepancy, and a
distance of features.

    D_Psi(rho | nu) = E_nu Psi(d rho / d nu) = sup_v  -E_rho v - E_nu Psi*(-v)

Each Psi* is convex and non-decreasing. Its slope at the optimum is the density ratio: Psi*'(-v) = d rho / d nu.

References:
    J. Choi, J. Choi, M. Kang, Generative Modeling through the Semi-dual Formulation of Unbalanced Optimal Transport,
    2023, arXiv:2305.14777.
    A. Gretton and others, A Kernel Two-Sample Test, 2012, equation 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import check_choice

__all__ = ["CONJUGATES", "MULTIPLES", "bandwidths", "conjugate", "feature_distance", "squared_mmd"]

_MOST = 30.0  # exp continues as a line from there, with the same value and slope


def _kl(v: Tensor) -> Tensor:
    low = v.clamp(max=_MOST)
    return low.exp() * (1 + (v - low)) - 1


def _chi(v: Tensor) -> Tensor:
    return torch.where(v >= -2, v.clamp(min=-2).square() / 4 + v, torch.full_like(v, -1.0))


def _jsd(v: Tensor) -> Tensor:
    """-log(2 - e^v) below log 2, where it has its end; from near there it continues as a line."""
    low = v.clamp(max=0.6)
    e = low.exp()
    return -torch.log(2 - e) + e / (2 - e) * (v - low)


CONJUGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "kl": _kl,
    "chi": _chi,
    "softplus": lambda v: 2 * F.softplus(v) - 2 * math.log(2),
    "jsd": _jsd,
    "linear": lambda v: v,
}
"""Psi* by name, all with value 0 and slope 1 at 0: ``kl`` e^v - 1, ``chi`` v^2 / 4 + v from -2 on, ``softplus``,
``jsd`` -log(2 - e^v), and ``linear``, which lets the marginal be nothing but nu."""


def conjugate(name: str) -> Callable[[Tensor], Tensor]:
    """Return Psi* of this name. Raises `ConfigError` on an unknown one."""
    check_choice("divergence", name, CONJUGATES)
    return CONJUGATES[name]


MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths as multiples of the median distance, where nobody says others."""


def bandwidths(y: Tensor, multiples: Sequence[float] = MULTIPLES) -> list[float] | list[Tensor]:
    """Return bandwidths around the median distance of points (n, ...), by default a quarter of it to four times.

    What is finer than the smallest, sigma, is hardly seen: a wave of number k counts by exp(-k^2 sigma^2 / 2). They are
    numbers where y is on the CPU, and tensors, (), on a device that nobody has to wait for.
    """
    found = torch.pdist(y.detach().flatten(1).to(torch.promote_types(y.dtype, torch.float32))).median()
    median = (float(found) or 1.0) if y.device.type == "cpu" else torch.where(found == 0, 1.0, found)
    return [median * m for m in multiples]


def squared_mmd(x: Tensor, y: Tensor, widths: Sequence[float | Tensor]) -> Tensor:
    """Return the unbiased estimate of MMD^2 under a sum of Gaussian kernels, which can fall below 0.

    Args:
        x: (n, ...), n at least 2.
        y: (m, ...), m at least 2.
        widths: standard deviations of the kernels.
    """

    def k(a: Tensor, b: Tensor) -> Tensor:
        square = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
        return torch.stack([torch.exp(-square / (2 * w**2)) for w in widths]).sum(0)

    x, y = x.flatten(1), y.flatten(1)
    own = [(k(a, a).sum() - k(a, a).diagonal().sum()) / (len(a) * (len(a) - 1)) for a in (x, y)]
    return own[0] + own[1] - 2 * k(x, y).mean()


Features = Callable[[Tensor], Tensor | Sequence[Tensor]]


def feature_distance(phi: Features, x: Tensor, x_hat: Tensor) -> Tensor:
    """Return |phi(x) - phi(x_hat)|^2, summed over features and examples' dimensions, averaged over the batch.

    Args:
        phi: (B, ...) -> a tensor of features or several, (B, ...) each.
        x: examples, which get no gradient.
        x_hat: what is compared with them.
    """
    with torch.no_grad():
        real = phi(x)
    shown = phi(x_hat)
    pairs = [(real, shown)] if isinstance(real, Tensor) else zip(real, shown, strict=True)
    return torch.stack([(a - b).square().flatten(1).sum(1).mean() for a, b in pairs]).sum()
