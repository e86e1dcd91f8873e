"""Markov chains that end in p(x) proportional to exp(-U(x)), as pure functions of U, its slope, a state and noise.

    langevin   x' = x - h grad U(x) + sqrt(2 h) n                           exp(-U) as h -> 0
    mala       the same, accepted with chance min(1, ratio)                 exp(-U) exactly
    hmc        L leapfrog steps of size e from a fresh momentum, accepted   exp(-U) exactly

One leapfrog step of size e is the proposal of mala at h = e^2 / 2. For an energy E at temperature T, U = E / T: what
descends E by step alpha with noise s is langevin at h = s^2 / 2, and its temperature is T = s^2 / (2 alpha).

References:
    G. O. Roberts, R. L. Tweedie, Exponential convergence of Langevin distributions and their discrete approximations,
    1996: the test of Metropolis for Langevin's step.
    R. M. Neal, MCMC using Hamiltonian dynamics, 2011, arXiv:1206.1901, section 3.
    R. M. Neal, Annealed Importance Sampling, 1998, arXiv:physics/9803008.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from zoo.errors import ConfigError, check_choice

__all__ = [
    "SAMPLERS",
    "Noise",
    "Potential",
    "annealed_importance",
    "chain",
    "chain_states",
    "evaluations",
    "frames_of",
    "hmc",
    "langevin",
    "leapfrog",
    "mala",
    "potential",
    "temperature",
]

SAMPLERS = ("langevin", "mala", "hmc")
"""Names that `chain` takes."""

LEAPS = 10
"""Of a trajectory of ``hmc``, each with a gradient."""

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x (B, ...) -> U(x) (B,) and grad U(x) (B, ...), without a graph; U is infinite where p is 0."""

Noise = Callable[..., Tensor]
"""Numbers of the shape that it is called with."""


def potential(energy: Callable[[Tensor], Tensor], temperature: float = 1.0, bounded: bool = False) -> Potential:
    """Return U = E / T with its slope by autograd, whatever the mode around; parameters get no gradient.

    Args:
        energy: (B, ...) -> (B,).
        temperature: T.
        bounded: whether x lies in [0, 1]; outside U is infinite.
    """

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_(True)
            x = x.view_as(x)  # torch's FLOP counter cannot follow a leaf
            E = energy(x)
            (slope,) = torch.autograd.grad(E.sum(), x)
        U = E.detach() / temperature
        if bounded:
            outside = ((x < 0) | (x > 1)).flatten(1).any(1)
            U = U.masked_fill(outside, math.inf)
        return U, slope / temperature

    return both


def temperature(step_size: float, noise: float) -> float:
    """Return T = s^2 / (2 alpha), at which x' = x - alpha grad E + s n draws from exp(-E / T) as both go to 0."""
    return noise**2 / (2 * step_size)


def _beside(a: Tensor, x: Tensor) -> Tensor:
    return a.reshape(-1, *[1] * (x.ndim - 1))  # (B, 1, ...)


def langevin(U: Potential, x: Tensor, steps: int, h: float, randn: Noise, bounded: bool = False) -> Tensor:
    """Return the state after so many steps, (B, ...) -> (B, ...), clamped to [0, 1] after each where ``bounded``."""
    for _ in range(steps):
        x = x - h * U(x)[1] + math.sqrt(2 * h) * randn(*x.shape)
        x = x.clamp(0, 1) if bounded else x
    return x


def mala(U: Potential, x: Tensor, steps: int, h: float, randn: Noise, rand: Noise) -> tuple[Tensor, Tensor]:
    """Return the state after so many tested steps, (B, ...), and the share of them that each accepted, (B,)."""
    return hmc(U, x, steps, math.sqrt(2 * h), randn, rand, leaps=1)


def leapfrog(U: Potential, x: Tensor, v: Tensor, size: float, leaps: int) -> tuple[Tensor, Tensor]:
    """Return place and momentum after so many leaps: reversible by turning the momentum round, and of volume 1.

    Shapes (B, ...) all.
    """
    v = v - size / 2 * U(x)[1]
    for i in range(leaps):
        x = x + size * v
        v = v - (size if i < leaps - 1 else size / 2) * U(x)[1]
    return x, v


def hmc(
    U: Potential, x: Tensor, steps: int, size: float, randn: Noise, rand: Noise, leaps: int = LEAPS
) -> tuple[Tensor, Tensor]:
    """Return the state after so many trajectories, (B, ...), and the share of them that each accepted, (B,).

    Args:
        U: the potential; where it is infinite, or not a number, nothing is accepted.
        x: the state, (B, ...), where U is finite.
        steps: trajectories.
        size: of a leap.
        randn, rand: noise.
        leaps: of a trajectory.
    """
    accepted = torch.zeros(len(x), device=x.device, dtype=x.dtype)
    now, slope = U(x)
    for _ in range(steps):
        v = randn(*x.shape)
        y, w, g = x, v, slope
        for _ in range(leaps):
            w = w - size / 2 * g
            y = y + size * w
            there, g = U(y)
            w = w - size / 2 * g
        kinetic = (v.square() - w.square()).flatten(1).sum(1) / 2
        taken = rand(len(x)).log() < now - there + kinetic  # false where that is not a number
        x, slope = (torch.where(_beside(taken, x), a, b) for a, b in ((y, x), (g, slope)))
        now = torch.where(taken, there, now)
        accepted = accepted + taken.to(x.dtype) / steps
    return x, accepted


def chain(
    sampler: str, U: Potential, x: Tensor, steps: int, h: float, randn: Noise, rand: Noise, bounded: bool = False
) -> Tensor:
    """Return the state after so many steps, or trajectories of ten leaps, of a sampler by its name, (B, ...).

    Args:
        sampler: one of `SAMPLERS`.
        U: the potential.
        x: the state, (B, ...).
        steps: of the chain, at least 1.
        h: of a step of Langevin's; a leap of ``hmc`` is sqrt(2 h).
        randn, rand: noise.
        bounded: whether ``langevin`` is clamped to [0, 1]; the others accept nothing where U is infinite.

    Raises:
        ConfigError: an unknown sampler, or an h that is not positive.
    """
    check_choice("sampler", sampler, SAMPLERS)
    if not (h > 0 and math.isfinite(h)):
        raise ConfigError(f"step_size must be positive, got {h!r}")
    if sampler == "langevin":
        return langevin(U, x, steps, h, randn, bounded)
    if sampler == "mala":
        return mala(U, x, steps, h, randn, rand)[0]
    return hmc(U, x, steps, math.sqrt(2 * h), randn, rand)[0]


def chain_states(
    sampler: str, U: Potential, x: Tensor, steps: Sequence[int], h: float, randn: Noise, rand: Noise,
    bounded: bool = False,
) -> Tensor:  # fmt: skip
    """Return the states of one `chain` after each of a rising series of steps that begins with 0, (F, B, ...)."""
    states = [x]
    for before, after in pairwise(steps):
        states.append(chain(sampler, U, states[-1], after - before, h, randn, rand, bounded))
    return torch.stack(states)


def evaluations(sampler: str, steps: int) -> int:
    """Return how often a `chain` of so many steps evaluates its potential."""
    return steps * (LEAPS if sampler == "hmc" else 1)


def frames_of(steps: int, frames: int) -> list[int]:
    """Return numbers of steps at which a chain is looked at: 0, 1, ... each a like factor more, ``steps``."""
    inner = [round(steps ** (i / max(1, frames - 2))) for i in range(frames - 1)]
    return sorted({0, *inner, steps})


def annealed_importance(
    start: Potential,
    end: Potential,
    x: Tensor,
    betas: Sequence[float],
    size: float,
    randn: Noise,
    rand: Noise,
    leaps: int = 5,
) -> tuple[Tensor, Tensor]:
    """Return log weights (B,) whose mean of exp is Z_end / Z_start, and the states that end near exp(-U_end).

    The chain goes through U_b = (1 - b) U_start + b U_end; each weight is unbiased after exp, so that the logarithm of
    their mean is below log(Z_end / Z_start) on average, and a log-density that subtracts it is too good.

    Args:
        start, end: potentials.
        x: exact draws from exp(-U_start), (B, ...).
        betas: rising from 0 to 1.
        size: of a leap.
        randn, rand: noise.
        leaps: of the one trajectory at each beta.
    """
    log_w = torch.zeros(len(x), device=x.device, dtype=x.dtype)
    for before, b in pairwise(betas):
        log_w = log_w - (b - before) * (end(x)[0] - start(x)[0])

        def mixed(x: Tensor, b: float = b) -> tuple[Tensor, Tensor]:
            (U_0, g_0), (U_1, g_1) = start(x), end(x)
            return (1 - b) * U_0 + b * U_1, (1 - b) * g_0 + b * g_1

        if b < 1:
            x, _ = hmc(mixed, x, 1, size, randn, rand, leaps)
    return log_w, x
