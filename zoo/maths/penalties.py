"""Gradient penalties on critics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradient_penalty", "squared_gradient", "zero_centred_penalty"]


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Return (||grad D(x_hat)||_2 - 1)^2 for each example, at x_hat = alpha real + (1 - alpha) fake.

    The norm is over all dimensions of an example. The result is differentiable in the critic's parameters when
    gradients are on; it can also be computed where they are off, as in validation.

    Args:
        critic: examples (B, ...) -> scores with one value an example, none depending on another example.
        real: data (B, ...).
        fake: samples (B, ...).
        alpha: weights of the real examples (B,), in [0, 1].

    Returns:
        (B,)

    References:
        I. Gulrajani and others, Improved Training of Wasserstein GANs, 2017, arXiv:1704.00028, equation 3.
    """
    create_graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        a = alpha.reshape(-1, *[1] * (real.ndim - 1))  # (B, 1, ...)
        x_hat = (a * real + (1 - a) * fake).detach().requires_grad_()
        # A view, because torch's FLOP counter cannot follow a leaf through a second derivative.
        x_hat = x_hat.view_as(x_hat)
        (gradient,) = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=create_graph)
        return (gradient.flatten(1).norm(dim=1) - 1) ** 2


def squared_gradient(scores: Tensor, x: Tensor) -> Tensor:
    """Return ||grad_x D(x)||_2^2 for each example, from scores that were computed on ``x``.

    Args:
        scores: one value an example, (B,) or (B, 1), none depending on another example.
        x: what they were computed on, (B, ...), requiring gradients.

    Returns:
        (B,), differentiable in the critic's parameters.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def zero_centred_penalty(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ||grad D(x)||_2^2 / 2 for each example: R1 where x are data, R2 where they are samples, times gamma.

    Args:
        critic: examples (B, ...) -> scores with one value an example, none depending on another example.
        x: examples (B, ...).

    Returns:
        (B,), differentiable in the critic's parameters.

    References:
        L. Mescheder, A. Geiger, S. Nowozin, Which Training Methods for GANs do actually Converge?, 2018,
        arXiv:1801.04406, equations 9 and 10.
    """
    x = x.detach().requires_grad_()
    x = x.view_as(x)
    return squared_gradient(critic(x), x) / 2
