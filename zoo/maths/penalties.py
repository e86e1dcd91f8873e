"""Gradient penalties on critics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradient_penalty"]


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
