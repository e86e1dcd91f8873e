"""FFJORD: a continuous normalising flow with a free-form velocity, trained by its likelihood.

    dx/dt = v(x, t),   x(0) = noise, x(1) = data,
    log p(x(1)) = log p(x(0)) - int_0^1 tr dv/dx dt

The trace is estimated by e^T (dv/dx) e with one random e for a whole curve, whose product with the Jacobian is one
backward pass.

References:
    W. Grathwohl and others, FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models, 2018,
    arXiv:1810.01367.
    C. Finlay, J.-H. Jacobsen, L. Nurbekyan, A. Oberman, How to train your neural ODE: the world of Jacobian and kinetic
    regularization, 2020, arXiv:2002.02798.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, close_matches
from zoo.families.normalising_flow import Draw, NormalisingFlow
from zoo.maths.noise import randn
from zoo.maths.ode_likelihood import divergence
from zoo.maths.solvers import ADAPTIVE, SOLVERS, integrate, integrate_adaptive, time_grid, trajectory
from zoo.model import Batch, seeded

__all__ = ["FFJORD"]

TRACES = ("exact", "hutchinson")

_EXACT = 16
"""Dimensions up to which likelihoods take the exact trace, whatever training does."""


class FFJORD(NormalisingFlow):
    """Continuous normalising flow.

    Args:
        network: v(x (B, *shape), time (B,)) -> (B, *shape), told ``time_scale`` t as time; smooth, as it is
            differentiated twice.
        shape: of an example.
        solver: one with fixed steps, ``euler``, ``midpoint``, ``heun`` or ``rk4``, or torchdiffeq's ``dopri5``,
            ``bosh3`` or ``dopri8``, whose steps depend on the batch.
        steps: of a fixed-step solver.
        tolerance: relative and absolute, of an adaptive solver.
        trace: in training, ``hutchinson`` or ``exact``; likelihoods take the exact one on up to 16 dimensions.
        kinetic: weight of the regulariser int |v|^2 dt.
        jacobian: weight of the regulariser int |e^T dv/dx|^2 dt, which is unbiased for the Frobenius norm; it needs the
            trace by Hutchinson.
        time_scale: of the time that the network is told.

    The other arguments are those of `zoo.families.normalising_flow.NormalisingFlow`.

    Raises:
        ConfigError: unknown or contradictory options.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: list[int],
        solver: str = "rk4",
        steps: int = 8,
        tolerance: float = 1e-5,
        trace: str = "hutchinson",
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        time_scale: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, prior="normal", width=32, **kwargs)
        for name, value, known in (("solver", solver, (*SOLVERS, *ADAPTIVE)), ("trace", trace, TRACES)):
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r}.{close_matches(value, known)} There are: {known}")
        if jacobian and trace == "exact":
            raise ConfigError("the Jacobian's regulariser is estimated with the trace; set trace to hutchinson")
        if steps < 1 or not 0 < tolerance < 1 or min(kinetic, jacobian) < 0:
            raise ConfigError("steps and tolerance must be positive, and the weights of regularisers not negative")
        self.network, self.time_scale = network, time_scale
        self.solver, self.steps, self.tolerance = solver, steps, tolerance
        self.trace, self.kinetic, self.jacobian = trace, kinetic, jacobian
        self.evaluations = 0  # of the network, in the last solution

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the velocity's network maps to what; see `zoo.fitting`."""
        return {"network": (tuple(arguments["shape"]), tuple(arguments["shape"]))}

    def compilable(self) -> list[nn.Module]:
        return []  # the network is differentiated twice

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v(x, t): (B, *shape) and a time of shape () -> (B, *shape)."""
        self.evaluations += 1
        return self.network(x, (self.time_scale * t).expand(len(x)))

    def _solve(self, field: Draw, x: Tensor, start: float, end: float) -> Tensor:
        self.evaluations = 0
        if self.solver in ADAPTIVE:
            return integrate_adaptive(field, x, [start, end], self.solver, self.tolerance)
        return integrate(field, x, time_grid(self.steps, start, end), self.solver)

    def transported(self, x: Tensor, probe: Tensor | None, *, differentiable: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return noise (B, D), log |det dz / dx| (B,), and int |v|^2 dt, int |e^T dv/dx|^2 dt, (B, 2).

        Args:
            x: continuous examples, (B, *shape).
            probe: e, (B, *shape), for Hutchinson's estimate; None for the exact trace, without the second integral.
            differentiable: whether a gradient with respect to the weights will be asked for.
        """

        def field(state: Tensor, t: Tensor) -> Tensor:
            x_t = state[:, :-3].unflatten(1, self.shape)
            v, trace, square = _derivatives(self.velocity, x_t, t, probe, differentiable)
            return torch.cat([v, torch.stack([trace, -v.square().sum(1), -square], 1)], 1)  # (B, D + 3)

        state = torch.cat([x.flatten(1), x.new_zeros(len(x), 3)], 1)
        if differentiable and not state.requires_grad:
            state.requires_grad_()  # so that the field's argument is no leaf, which counters of compute need
        state = self._solve(field, state, 1.0, 0.0)
        return state[:, :-3], state[:, -3], state[:, -2:]

    # -- what the base asks for ---------------------------------------------------------------------------------------

    def flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise of continuous examples and log |det dz / dx| by the exact trace."""
        return self.transported(x, None, differentiable=torch.is_grad_enabled())[:2]

    def to_noise(self, x: Tensor) -> Tensor:
        return self._solve(self.velocity, x, 1.0, 0.0).flatten(1)

    def flow_inverse(self, z: Tensor) -> Tensor:
        return self._solve(self.velocity, z.unflatten(1, self.shape), 0.0, 1.0)

    def density(self, x: Tensor, randn: Draw | None = None) -> Tensor:
        """Return log p(x) of continuous examples, (B,): by the exact trace on up to 16 dimensions, or without noise."""
        exact = randn is None or not self.estimated
        z, log_det, _ = self.transported(x, None if exact else randn(*x.shape), differentiable=torch.is_grad_enabled())
        return self._log_prior(z) + log_det

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` = ``nll`` + weighted regularisers, and the ``evaluations`` of the network on the way."""
        x, offset = self._continuous(batch[0], self.rand, self.randn)
        probe = self.randn(*x.shape) if self.trace == "hutchinson" else None
        z, log_det, integrals = self.transported(x, probe, differentiable=torch.is_grad_enabled())
        nll = -(self._log_prior(z) + log_det + offset).mean()
        kinetic, jacobian = integrals.mean(0)
        loss = nll + self.kinetic * kinetic + self.jacobian * jacobian
        terms = {"loss": loss, "nll": nll, "evaluations": nll.new_tensor(float(self.evaluations))}
        if self.kinetic:
            terms["kinetic"] = kinetic
        if self.jacobian:
            terms["jacobian"] = jacobian
        return terms

    # -- sampling -----------------------------------------------------------------------------------------------------

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"solver": (*SOLVERS, *ADAPTIVE)}

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        steps: int | None = None,
        solver: str | None = None,
    ) -> Tensor:
        """Draw noise and go from there to data.

        Args:
            temperature: factor of the noise's scale.
            steps: of a solver with fixed steps, by default the model's own.
            solver: by default the model's own.
        """
        own = self.steps, self.solver
        self.steps, self.solver = self.steps if steps is None else steps, self.solver if solver is None else solver
        try:
            return super().draw(n, generator, labels, temperature=temperature)
        finally:
            self.steps, self.solver = own

    @torch.no_grad()
    def trajectory(
        self, n: int, *, seed: int | torch.Generator | None = None, labels: None = None, frames: int = 9
    ) -> tuple[Tensor, Tensor]:
        """Return states on the way from noise to data, (frames, n, *shape) in data range, and their times, (frames,).

        The way is that of RK4 from each frame to the next.
        """
        self._labels(n, labels)
        times = time_grid(frames - 1)
        z = randn((n, *self.shape), seeded(seed), self.device, self.dtype)
        return self.data_range(trajectory(self.velocity, z, times, "rk4")), torch.tensor(times)

    @property
    def estimated(self) -> bool:
        """Whether the trace is Hutchinson's estimate: above 16 dimensions, where the exact one is too dear."""
        return math.prod(self.shape) > _EXACT

    def likelihood(self, k: int = 1) -> str:
        said = super().likelihood(k)
        return said.replace("exact", "ode") if "exact" in said else f"ode+{said}"

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network; of an adaptive solver, those of the last solution."""
        return self.steps * SOLVERS[self.solver].calls if self.solver in SOLVERS else max(1, self.evaluations)


def _derivatives(
    velocity: Draw, x: Tensor, t: Tensor, probe: Tensor | None, differentiable: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return v (B, D), the trace of dv/dx, or its estimate with a probe, (B,), and |e^T dv/dx|^2, (B,)."""
    if probe is None:
        v, trace = divergence(velocity, x, t, differentiable=differentiable)
        return v.flatten(1), trace, torch.zeros_like(trace)
    with torch.enable_grad():
        x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
        v = velocity(x, t)
        (g,) = torch.autograd.grad(v, x, probe, create_graph=differentiable)
    if not differentiable:
        v = v.detach()
    return v.flatten(1), (g * probe).flatten(1).sum(1), g.flatten(1).square().sum(1)
