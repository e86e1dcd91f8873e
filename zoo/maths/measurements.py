"""Linear measurements of examples, y = A x + s n, and what a denoiser says of x_0 once y is known too.

    E[x_0 | x_t, y] = E[x_0 | x_t] + V A^T (s^2 I + A V A^T)^-1 (y - A E[x_0 | x_t])
    V = Cov[x_0 | x_t] = sigma_t^2 / alpha_t  d E[x_0 | x_t] / d x_t                       (second order Tweedie)

is exact where x_0 given x_t is Gaussian, so for Gaussian data at all levels, and the best linear correction elsewhere.
Nothing is trained: V is applied by a product with the denoiser's Jacobian, the inverse by a few conjugate gradients.
Whatever sampler then runs with the corrected denoiser draws from p(x_0 | y).

References:
    F. Rozet and others, Learning Diffusion Priors from Observations by Expectation Maximization, 2024,
    arXiv:2405.13712, equations 17 to 19 and algorithm 3: moment matching.
    H. Chung and others, Diffusion Posterior Sampling for General Noisy Inverse Problems, 2022, arXiv:2209.14687: the
    same with V isotropic.
    J. Song and others, Pseudoinverse-Guided Diffusion Models for Inverse Problems, 2023: V = r_t^2 I.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MEASUREMENTS", "Measurement", "blur", "denoised", "downsample", "inpaint"]

Operator = Callable[[Tensor], Tensor]
"""A: linear in examples (B, ...) -> (B, ...), row by row."""


@dataclass(frozen=True)
class Measurement:
    """What was seen of examples.

    Attributes:
        operator: A.
        y: what it gave, (B, ...) or (1, ...).
        std: s, standard deviation of its noise, positive.
    """

    operator: Operator
    y: Tensor
    std: float

    def adjoint(self, u: Tensor, x: Tensor) -> Tensor:
        """Return A^T u, of the shape of x: the gradient of <A x, u>."""
        with torch.enable_grad():
            z = torch.zeros_like(x, requires_grad=True)
            return torch.autograd.grad(self.operator(z), z, u)[0]

    def misfit(self, x: Tensor) -> Tensor:
        """Return -log p(y | x) but for a constant, (B,)."""
        return (self.y - self.operator(x)).flatten(1).square().sum(1) / (2 * self.std**2)

    def mapped(self, scale: float, offset: float, shape: Sequence[int]) -> Measurement:
        """Return the measurement of scale x + offset, x of this shape (without B)."""
        seen = self.operator(torch.ones(1, *shape, dtype=self.y.dtype, device=self.y.device))
        return Measurement(self.operator, scale * self.y + offset * seen, abs(scale) * self.std)


def inpaint(mask: Tensor) -> Operator:
    """Return the operator that keeps what is true in a mask that broadcasts to examples, and gives 0 elsewhere."""
    return lambda x: x * mask.to(x)


def downsample(factor: int) -> Operator:
    """Return the means of squares of ``factor`` pixels: (B, C, H, W) -> (B, C, H / factor, W / factor)."""
    return lambda x: F.avg_pool2d(x, factor)


def blur(width: float) -> Operator:
    """Return a Gaussian blur of this standard deviation in pixels, the border reflected: (B, C, H, W) of that shape.

    The kernel ends at three standard deviations.
    """
    reach = max(1, math.ceil(3 * width))
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (places / width) ** 2)
    kernel /= kernel.sum()

    def blurred(x: Tensor) -> Tensor:
        for dim in (2, 3):
            along = x.movedim(dim, 3)
            left = min(reach, along.shape[3] - 1)  # a border cannot be reflected beyond the picture
            k = kernel[reach - left : reach + left + 1].to(x) / kernel[reach - left : reach + left + 1].sum().to(x)
            padded = F.pad(along.flatten(0, 1), (left, left), mode="reflect")  # (B C, other, side + 2 left)
            x = F.conv2d(padded[:, None], k.view(1, 1, 1, -1)).view(along.shape).movedim(3, dim)
        return x

    return blurred


def denoised(
    denoise: Callable[[Tensor], Tensor], x: Tensor, variance: Tensor | float, seen: Measurement, iterations: int = 3
) -> Tensor:
    """Return E[x_0 | x_t, y], (B, ...) -> (B, ...); gradients in x are taken whatever the mode around.

    Args:
        denoise: x_t -> E[x_0 | x_t], row by row.
        x: x_t, (B, ...).
        variance: sigma_t^2 / alpha_t.
        seen: the measurement.
        iterations: of conjugate gradients, each a product with the Jacobian; as many as there are different numbers
            in y give the inverse itself. A row stops where the denoiser's Jacobian is not positive.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_(True)
        x_0 = denoise(x)

        def spread(u: Tensor) -> Tensor:  # V A^T u
            return variance * torch.autograd.grad(x_0, x, seen.adjoint(u, x), retain_graph=True)[0]

        with torch.no_grad():
            found = x_0.detach()
            rest = seen.y - seen.operator(found)  # (B, ...) in the space of y
            w = _solved(lambda u: seen.std**2 * u + seen.operator(spread(u)), rest, iterations)
            return found + spread(w)


def _solved(matrix: Operator, b: Tensor, iterations: int) -> Tensor:
    """Return w with matrix w = b, row by row, by conjugate gradients."""

    def inner(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1).reshape(-1, *[1] * (b.ndim - 1))  # (B, 1, ...)

    w, r = torch.zeros_like(b), b
    p, size = r, inner(r, r)
    smallest = size * torch.finfo(b.dtype).eps ** 2
    for _ in range(iterations):
        q = matrix(p)
        curve = inner(p, q)
        goes = (curve > 0) & (size > smallest)
        step = torch.where(goes, size / curve, torch.zeros_like(size))
        w, r = w + step * p, r - step * q
        before, size = size, torch.where(goes, inner(r, r), torch.zeros_like(size))
        p = r + torch.where(goes, size / before, torch.zeros_like(size)) * p
    return w


MEASUREMENTS = ("inpaint", "downsample", "blur")
"""Names of the operators."""
