"""The density of what an ordinary differential equation carries from one end of time to the other.

    dx/dt = v(x, t),   d log p_t(x_t) / dt = -tr dv/dx,
    log p_1(x_1) = log p_0(x_0) + int_1^0 tr dv/dx dt along the curve through x_1,

with the trace exact, or estimated without bias by e^T (dv/dx) e for a random e with E[e e^T] = I (Hutchinson).

References:
    R. T. Q. Chen and others, Neural Ordinary Differential Equations, 2018, arXiv:1806.07366.
    W. Grathwohl and others, FFJORD, 2018, arXiv:1810.01367.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.maths.noise import randint
from zoo.maths.solvers import SOLVERS, Velocity, integrate, integrate_adaptive

__all__ = ["divergence", "normal_log_density", "ode_log_density", "rademacher", "rows_at_once", "transport"]

SMALL_IMAGE, MEDIUM_IMAGE = 28 * 28, 3 * 32 * 32
"""Values of an example of which a whole batch is taken at once, and from which on batches become smaller."""


def rademacher(shape: Sequence[int], generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Return a tensor of independent signs, +1 or -1 with equal probability. Of the shape that is given."""
    return randint(2, shape, generator, like.device).to(like.dtype) * 2 - 1


def rows_at_once(shape: Sequence[int], usual: int) -> int:
    """Return how many examples of this shape a likelihood takes at a time, so that memory does not grow with them.

    Args:
        shape: of an example; from 3x32x32 on they are fewer.
        usual: how many of smaller ones.
    """
    values = math.prod(shape)
    return usual if values <= MEDIUM_IMAGE else max(1, usual * SMALL_IMAGE // values)


def normal_log_density(z: Tensor) -> Tensor:
    """Return log N(z; 0, I) in nats: (B, ...) -> (B,)."""
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


def divergence(
    velocity: Velocity, x: Tensor, t: Tensor, probe: Tensor | None = None, *, differentiable: bool = False
) -> tuple[Tensor, Tensor]:
    """Return v(x, t), (B, ...), and the trace of its Jacobian, (B,): exact, or Hutchinson's estimate with a probe.

    Args:
        velocity: v, which must treat the examples of a batch each by itself.
        x: (B, ...).
        t: time, ().
        probe: e, of the shape of x; the exact trace takes one backward pass for each dimension.
        differentiable: keep the graph, for training by the likelihood.
    """
    with torch.enable_grad():
        x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
        v = velocity(x, t)
        if probe is not None:
            (g,) = torch.autograd.grad((v * probe).sum(), x, create_graph=differentiable)
            trace = (g * probe).flatten(1).sum(1)
        else:
            rows = v.flatten(1).sum(0)  # (D,), the batch summed: examples do not see each other
            trace = torch.zeros_like(v.flatten(1)[:, 0])
            for i, row in enumerate(rows):
                last = i == len(rows) - 1 and not differentiable
                (g,) = torch.autograd.grad(row, x, create_graph=differentiable, retain_graph=not last)
                trace = trace + g.flatten(1)[:, i]
    return (v, trace) if differentiable else (v.detach(), trace.detach())


def transport(
    velocity: Velocity,
    x: Tensor,
    times: Sequence[float] | Tensor,
    method: str = "rk4",
    probe: Tensor | None = None,
    tolerance: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Return the state at the last time, (B, ...), and the integral of the trace of dv/dx over the way, (B,).

    Args:
        velocity: v(x, t).
        x: the state at the first time.
        times: of the steps of a fixed-step solver; the ends of an adaptive one.
        method: of `zoo.maths.solvers.SOLVERS` or ``ADAPTIVE``.
        probe: see `divergence`.
        tolerance: of an adaptive solver.
    """
    shape = x.shape

    def field(state: Tensor, t: Tensor) -> Tensor:
        v, trace = divergence(velocity, state[:, :-1].unflatten(1, shape[1:]), t, probe)
        return torch.cat([v.flatten(1), trace[:, None]], 1)  # (B, D + 1)

    state = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1)
    if method in SOLVERS:
        state = integrate(field, state, times, method)
    else:
        state = integrate_adaptive(field, state, times, method, tolerance)
    return state[:, :-1].unflatten(1, shape[1:]), state[:, -1]


def ode_log_density(
    velocity: Velocity,
    x: Tensor,
    times: Sequence[float] | Tensor,
    method: str = "rk4",
    probe: Tensor | None = None,
    tolerance: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Return log p(x) in nats, (B,), and the noise that x came from, (B, ...), the noise being standard normal.

    Args:
        times: from the time of the data to that of the noise, in either direction of time.

    The other arguments are those of `transport`.
    """
    z, trace = transport(velocity, x, times, method, probe, tolerance)
    return normal_log_density(z) + trace, z
