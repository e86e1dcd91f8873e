"""What a denoising network may predict, and how each of these gives all the others.

    x = alpha x_0 + sigma eps,   r = sqrt(alpha^2 + sigma^2)

    eps    the noise
    x0     the data
    v      (alpha eps - sigma x_0) / r        where r = 1, the velocity along the arc from data to noise
    score  -eps / sigma                       the gradient of log q(x | x_0)
    edm    (x_0 - c_skip y) / c_out, y = x / alpha, q = sigma / alpha, with data of standard deviation s:
           c_skip = s^2 / (q^2 + s^2), c_out = q s / sqrt(q^2 + s^2): a target of variance 1 at every level of noise

Each is affine in x_0 given x, so that the conditional means of all of them are related as they are themselves: a
network that has learned one of them by least squares has learned them all.

References:
    J. Ho, A. Jain, P. Abbeel, Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239.
    T. Salimans, J. Ho, Progressive Distillation for Fast Sampling of Diffusion Models, 2022, arXiv:2202.00512: v.
    T. Karras and others, Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import ConfigError, close_matches

__all__ = ["KINDS", "SIGMA_DATA", "convert", "input_scale", "noise_of", "prediction_of", "to_data"]

KINDS = ("eps", "x0", "v", "score", "edm")
SIGMA_DATA = 0.5
"""Standard deviation of the data that ``edm`` supposes."""


def _edm(alpha: Tensor, sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    q = sigma / alpha
    r2 = q * q + sigma_data**2
    return sigma_data**2 / r2, q * sigma_data * torch.rsqrt(r2)


def to_data(
    kind: str, value: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float = SIGMA_DATA
) -> Tensor:
    """Return x_0 from a prediction of some kind.

    Args:
        kind: of `KINDS`.
        value: the prediction, (B, ...).
        x: noisy data, (B, ...).
        alpha: of x, what broadcasts to it.
        sigma: of x, positive.
        sigma_data: for ``edm``.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind == "x0":
        return value
    if kind == "eps":
        return (x - sigma * value) / alpha
    if kind == "score":
        return (x + sigma**2 * value) / alpha
    if kind == "v":
        r = torch.sqrt(alpha**2 + sigma**2)
        return (alpha * x / r - sigma * value) / r
    if kind == "edm":
        skip, out = _edm(alpha, sigma, sigma_data)
        return skip * x / alpha + out * value
    raise ConfigError(f"unknown prediction {kind!r}.{close_matches(str(kind), KINDS)} There are: {', '.join(KINDS)}")


def noise_of(x: Tensor, x_0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return eps = (x - alpha x_0) / sigma. Of the shape of x."""
    return (x - alpha * x_0) / sigma


def prediction_of(
    kind: str, x: Tensor, x_0: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float = SIGMA_DATA
) -> Tensor:
    """Return what a prediction of this kind would be, were x_0 the truth; arguments as for `to_data`.

    Of the shape of x. Raises `ConfigError` for a kind that there is none of.
    """
    if kind == "x0":
        return x_0
    eps = noise_of(x, x_0, alpha, sigma)
    if kind == "eps":
        return eps
    if kind == "score":
        return -eps / sigma
    if kind == "v":
        return (alpha * eps - sigma * x_0) * torch.rsqrt(alpha**2 + sigma**2)
    if kind == "edm":
        skip, out = _edm(alpha, sigma, sigma_data)
        return (x_0 - skip * x / alpha) / out
    raise ConfigError(f"unknown prediction {kind!r}.{close_matches(str(kind), KINDS)} There are: {', '.join(KINDS)}")


def convert(
    value: Tensor, source: str, target: str, x: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float = SIGMA_DATA
) -> Tensor:
    """Return a prediction of one kind as one of another. Of the shape of x."""
    return prediction_of(target, x, to_data(source, value, x, alpha, sigma, sigma_data), alpha, sigma, sigma_data)


def input_scale(kind: str, alpha: Tensor, sigma: Tensor, sigma_data: float = SIGMA_DATA) -> Tensor:
    """Return the factor that brings x to about unit variance before it enters a network. Of the shape of alpha."""
    variance = sigma_data**2 if kind == "edm" else 1.0
    return torch.rsqrt(alpha**2 * variance + sigma**2)
