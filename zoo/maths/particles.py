"""Particles between those of a GAN and those of Langevin: one family of equations whose marginals do not change.

    dX = [beta grad log(q / p_t)(X) + D grad log p_t(X)] dt + sqrt(2 D) dW,   D = mix beta

p_t is the law of the particles. In its Fokker-Planck equation the terms of D cancel, so that p_t depends on beta alone.
``mix`` 0 follows the gradient of the best discriminator's logit, log(q / p_t); at 1 p_t drops out of the drift, which
is Langevin's at q. The drift is that of the logit, not of the log-probability that a discriminator gives.

References:
    J. Zhang, H. Shi, J. Yu, E. Xie, Z. Li, DiffFlow: A Unified SDE Framework for Score-Based Diffusion Models and
    Generative Adversarial Networks, 2023, arXiv:2307.02159.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["between"]

Field = Callable[[Tensor, float], Tensor]
"""(x (B, ...), t) -> (B, ...)."""


def between(
    x: Tensor,
    steps: int,
    h: float,
    randn: Callable[..., Tensor],
    mix: float,
    score: Field | None = None,
    logit_slope: Field | None = None,
    beta: float | Callable[[float], float] = 1.0,
) -> Tensor:
    """Return the particles after so many steps of Euler and Maruyama, (B, ...) -> (B, ...).

    Args:
        x: particles at time 0.
        steps: how many.
        h: of a step.
        randn: noise of a shape; asked for only where ``mix`` is above 0.
        mix: D / beta, in [0, 1].
        score: grad log q; needed unless ``mix`` is 0.
        logit_slope: grad log(q / p_t); needed unless ``mix`` is 1.
        beta: speed, or that at a time.

    Raises:
        ConfigError: a mix outside of [0, 1], or without a field that it needs.
    """
    if not 0 <= mix <= 1 or (mix > 0 and score is None) or (mix < 1 and logit_slope is None):
        raise ConfigError(
            f"mix must lie in [0, 1], above 0 it needs a score and below 1 the slope of a discriminator, got {mix}"
        )
    for i in range(steps):
        drift, speed = 0.0, beta(i * h) if callable(beta) else beta
        if score is not None and mix > 0:  # D grad log p = D (grad log q - grad log(q / p))
            drift = mix * speed * score(x, i * h)
        if logit_slope is not None and mix < 1:
            drift = drift + (1 - mix) * speed * logit_slope(x, i * h)
        x = x + h * drift
        if mix > 0:
            x = x + math.sqrt(2 * mix * speed * h) * randn(*x.shape)
    return x
