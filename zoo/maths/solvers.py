"""Solvers of ordinary differential equations dx/dt = v(x, t), as pure functions of v, x and the times.

A step from t to t + h, h of either sign, with k_1 = v(x, t):

    euler     x + h k_1                                                                       order 1, 1 call
    midpoint  x + h v(x + h k_1 / 2, t + h / 2)                                               order 2, 2 calls
    heun      x + h (k_1 + v(x + h k_1, t + h)) / 2                                           order 2, 2 calls
    rk4       x + h (k_1 + 2 k_2 + 2 k_3 + k_4) / 6                                           order 4, 4 calls

Adaptive solvers, which choose their steps by an error that they estimate, are torchdiffeq's.

References:
    E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, 1993.
    R. T. Q. Chen, torchdiffeq, 2018, https://github.com/rtqichen/torchdiffeq.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from zoo.errors import ConfigError, check_choice
from zoo.maths.constants import constants
from zoo.maths.noise import randn
from zoo.maths.watching import step_done

__all__ = [
    "ADAPTIVE",
    "SOLVERS",
    "Solver",
    "Velocity",
    "euler_maruyama",
    "integrate",
    "integrate_adaptive",
    "solver_of",
    "time_grid",
    "trajectory",
]

Velocity = Callable[[Tensor, Tensor], Tensor]
"""v(x, t): a state (B, ...) and a time, of shape (), -> the state's derivative, (B, ...)."""

Step = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Solver:
    """A fixed-step solver.

    Attributes:
        step: (v, x, t, h) -> x(t + h).
        order: p; the error at a given time falls as h^p.
        calls: of v in a step.
    """

    step: Step
    order: int
    calls: int


def _euler(v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    return x + h * v(x, t)


def _midpoint(v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    return x + h * v(x + h / 2 * v(x, t), t + h / 2)


def _heun(v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    k_1 = v(x, t)
    return x + h / 2 * (k_1 + v(x + h * k_1, t + h))


def _rk4(v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    k_1 = v(x, t)
    k_2 = v(x + h / 2 * k_1, t + h / 2)
    k_3 = v(x + h / 2 * k_2, t + h / 2)
    k_4 = v(x + h * k_3, t + h)
    return x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)


SOLVERS: dict[str, Solver] = {
    "euler": Solver(_euler, 1, 1),
    "midpoint": Solver(_midpoint, 2, 2),
    "heun": Solver(_heun, 2, 2),
    "rk4": Solver(_rk4, 4, 4),
}
"""Fixed-step solvers by name."""

ADAPTIVE = ("dopri5", "bosh3", "dopri8")
"""Names of the adaptive solvers."""


def time_grid(steps: int, start: float = 0.0, end: float = 1.0) -> list[float]:
    """Return steps + 1 evenly spaced times, the two ends exactly. Raises `ConfigError` below one step."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ConfigError(f"steps must be a positive integer, got {steps!r}")
    return [start + (end - start) * i / steps for i in range(steps)] + [end]


def solver_of(method: str | Solver) -> Solver:
    """Return a solver by its name, or itself. Raises `ConfigError`."""
    if isinstance(method, Solver):
        return method
    check_choice("solver", method, SOLVERS)
    return SOLVERS[method]


def _states(velocity: Velocity, x: Tensor, times: Sequence[float] | Tensor, method: str | Solver) -> Iterator[Tensor]:
    step = solver_of(method).step
    t = times.to(x.device, x.dtype) if isinstance(times, Tensor) else constants(list(times), x)
    if t.ndim != 1 or len(t) < 2:
        raise ConfigError(f"a solver needs at least two times, got {len(t) if t.ndim == 1 else tuple(t.shape)}")
    yield x
    for i, (now, after) in enumerate(pairwise(t)):
        x = step_done(i, len(t) - 1, step(velocity, x, now, after - now), after)
        yield x


def integrate(velocity: Velocity, x: Tensor, times: Sequence[float] | Tensor, method: str | Solver = "euler") -> Tensor:
    """Return the state at the last time: (B, ...) -> (B, ...).

    Args:
        velocity: v(x, t), called with times of shape ().
        x: the state at the first time.
        times: at least two, growing or falling; one step between each two.
        method: of `SOLVERS`, or a `Solver` of one's own.

    Raises:
        ConfigError: an unknown method, or fewer than two times.
    """
    for state in _states(velocity, x, times, method):
        x = state
    return x


def trajectory(velocity: Velocity, x: Tensor, times: Sequence[float] | Tensor, method: str = "euler") -> Tensor:
    """Return the states at all times, (len(times), B, ...); arguments as for `integrate`.

    States have the shape (B, ...).
    """
    return torch.stack(list(_states(velocity, x, times, method)))


def integrate_adaptive(
    velocity: Velocity,
    x: Tensor,
    times: Sequence[float] | Tensor,
    method: str = "dopri5",
    tolerance: float = 1e-5,
) -> Tensor:
    """Return the state at the last time, with steps chosen by torchdiffeq so that their errors keep to the tolerance.

    Args:
        velocity: v(x, t).
        x: the state at the first time, (B, ...).
        times: the first and the last are used.
        method: of `ADAPTIVE`.
        tolerance: relative and absolute.

    Raises:
        ConfigError: an unknown method.
    """
    check_choice("adaptive solver", method, ADAPTIVE)
    from torchdiffeq import odeint

    ends = torch.as_tensor(times, dtype=torch.float64)[[0, -1]].to(x.device, x.dtype)
    options = {"step_t": ends[1:]}  # a step ends there: what it interpolates between its steps is less exact
    states: Tensor = odeint(
        lambda t, state: velocity(state, t), x, ends, rtol=tolerance, atol=tolerance, method=method, options=options
    )
    return states[-1]


def euler_maruyama(
    drift: Velocity,
    spread: Callable[[Tensor], Tensor],
    x: Tensor,
    times: Sequence[float] | Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return a draw of the state at the last time of dx = f(x, t) dt + g(t) dw: (B, ...) -> (B, ...).

    Args:
        drift: f(x, t), called with times of shape ().
        spread: g(t), of shape ().
        x: the state at the first time.
        times: growing.
        generator: of the noise, on the device of x.
    """
    t = torch.as_tensor(times, dtype=torch.float64).to(x.device, x.dtype)
    for now, after in pairwise(t):
        h = after - now
        dw = h.sqrt() * randn(x.shape, generator, x.device, x.dtype)
        x = x + h * drift(x, now) + spread(now) * dw
    return x
