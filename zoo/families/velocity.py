"""What all models share that learn the velocity of a path from noise to data: labels, guidance, solving, both ways.

    dx/dt = v(x, t, y),   x(0) = noise,   x(1) = data

Grey levels are given the width of an interval, (k + u) / L with uniform u, and then scaled to [-1, 1], so that the
density that the velocity transports is one of dequantised images; points are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.abilities import NoisyView
from zoo.errors import ConfigError, check_choice, close_matches
from zoo.families.guided import Guided
from zoo.maths.dequantisation import dequantise, from_continuous
from zoo.maths.guidance import Field, calls_per_step, guide
from zoo.maths.noise import rand, randn
from zoo.maths.ode_likelihood import MEDIUM_IMAGE, ode_log_density, rademacher, rows_at_once
from zoo.maths.paths import arc, straightness
from zoo.maths.paths import path as path_of
from zoo.maths.solvers import ADAPTIVE, SOLVERS, Solver, integrate, integrate_adaptive, time_grid, trajectory
from zoo.model import FlowModel, HasLikelihood, seeded
from zoo.nets.class_shift import ENDS, ClassShift

__all__ = ["OdeLikelihood", "VelocityModel"]

_ROWS = 250  # of larger images, of which fewer are taken at a time


class VelocityModel(Guided, FlowModel):
    """A network that says where to go, and a solver that goes there.

    Args:
        network: v(x (B, *shape), time (B,), labels (B,) or None) -> (B, *shape), told ``time_scale`` t as time; for
            labels, one with the null label ``num_classes``.
        shape: of an example.
        levels: grey levels of the data, None for continuous values.
        num_classes: labels that the network is told, 0 for none.
        label_dropout: chance that training tells the null label instead, which guidance needs.
        guidance_scale: default of sampling.
        weak_batches: after how many batches of training a weak version of the network is kept for guidance, 0 for none;
            see `zoo.nets.weak_copy.WeakCopy`.
        steps: default number of steps of sampling.
        solver: default of sampling.
        time_scale: of the time that the network is told.
        data_scale: sigma of `zoo.maths.paths.NoisePath.scales`, about the standard deviation of the data as the model
            sees them: the network then gives only what the best linear guess leaves of the velocity; None for the
            velocity itself.
        shift: condition-aware reparameterisation: ``source``, ``target`` or ``joint``, which ends of the path are moved
            by shifts that are learnt for each class, see `zoo.nets.class_shift.ClassShift`; ``none`` for the path
            itself. The network sees shifted states, and all else the states themselves.
        lr: peak learning rate.
        betas: of Adam.

    Raises:
        ConfigError: an unknown solver or shift, a shift without classes, or label dropout outside of [0, 1).
    """

    family = "flow"
    invertible = True
    diagnosed_examples = 200  # each costs many evaluations
    end = 1.0  # the time of the data; a path whose velocity has no bound there ends a little earlier

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        levels: int | None = 256,
        num_classes: int = 0,
        label_dropout: float = 0.1,
        guidance_scale: float = 1.0,
        weak_batches: int = 0,
        steps: int = 10,
        solver: str = "midpoint",
        time_scale: float = 10.0,
        data_scale: float | None = None,
        shift: str = "none",
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        _check_solver(solver)
        self.set_guidance(network, num_classes, label_dropout, guidance_scale, weak_batches)
        self.network, self.shape, self.levels = network, tuple(shape), levels
        self.steps_to_move = getattr(network, "steps_to_move", 2)
        self.steps, self.solver, self.time_scale, self.data_scale = steps, solver, time_scale, data_scale
        self.path = path_of("linear")
        self.lr, self.betas = lr, betas
        check_choice("shift", shift, ("none", *ENDS))
        if shift != "none" and not num_classes:
            raise ConfigError("a shift of the path's ends is told the class; set num_classes, or leave shift out")
        self.shift = ClassShift(num_classes, self.shape, shift) if shift != "none" else None

    # -- the velocity -------------------------------------------------------------------------------------------------

    def velocity(self, x: Tensor, t: Tensor, labels: Tensor | None = None, network: nn.Module | None = None) -> Tensor:
        """Return v(x, t, y) by the network or another one: (B, *shape) and times (B,) or () -> (B, *shape).

        With shifts mu_t(y) of the path it is that of z_t = x_t + mu_t(y), seen from x: v_z(x + mu_t, t, y) - dmu_t/dt.
        """
        network = self.network if network is None else network
        if self.shift is None:
            return self._unshifted(x, t, labels, network)
        mu, slope = self.shift(len(x), labels, self.path.a(t), self.path.b(t))
        return self._unshifted(x + mu, t, labels, network) - slope

    def _unshifted(self, x: Tensor, t: Tensor, labels: Tensor | None, network: nn.Module) -> Tensor:
        time = self.time_scale * t if t.ndim else (self.time_scale * t).expand(len(x))
        time = time.to(self.dtype)
        if self.data_scale is None:
            return network(x.to(self.dtype), time, labels).to(x.dtype)
        beside = t.reshape(-1, *[1] * (x.ndim - 1)) if t.ndim else t
        c_in, c_skip, c_out = self.path.scales(beside, self.data_scale)
        v = network((c_in * x).to(self.dtype), time, labels).to(x.dtype)
        return torch.addcmul(c_skip * x, c_out, v)

    def field(self, labels: Tensor | None = None, guidance_scale: float | None = None) -> Field:
        """Return x, t -> v with the labels built in, guided by ``guidance_scale`` (the model's own if left out)."""
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        if labels is None and guidance_scale is None and self.weak is None:
            scale = 1.0
        weak = None if self.weak is None else partial(self.velocity, network=self.weak)
        return guide(self.velocity, scale, labels, self.num_classes or None, weak)

    # -- data range and back ------------------------------------------------------------------------------------------

    def continuous(self, x: Tensor, u: Tensor | float = 0.5) -> Tensor:
        """Return examples as the model sees them, grey levels in [-1, 1]; u in [0, 1] is the place in the interval."""
        if self.levels is None:
            return x
        return 2 * dequantise(x, u, self.levels) - 1

    def training_examples(self, x: Tensor) -> Tensor:
        """Return `continuous` examples, each value at a random place of its interval."""
        return x if self.levels is None else self.continuous(x, self.rand(*x.shape))

    def pairing_groups(self, labels: Tensor) -> Tensor:
        """Return of which group each example's partner is, int64 (B,): of its rank's share, and its class if told."""
        share = len(labels) // max(1, len(self._streams))
        ranks = torch.arange(len(labels), device=labels.device) // share
        return ranks * self.num_classes + labels if self.num_classes else ranks

    def data_range(self, x: Tensor) -> Tensor:
        """Return what the model made in data range, clamped."""
        return x if self.levels is None else from_continuous((x + 1) / 2, self.levels)

    # -- sampling, and both ways --------------------------------------------------------------------------------------

    def solve(self, field: Field, x: Tensor, steps: int, solver: str | Solver, *, back: bool = False) -> Tensor:
        """Return the state at the other end of time; an adaptive solver keeps to a tolerance of 1e-5."""
        _check_solver(solver)
        start, end = (self.end, 0.0) if back else (0.0, self.end)
        if solver in ADAPTIVE:
            return integrate_adaptive(field, x, [start, end], solver)
        return integrate(field, x, time_grid(steps, start, end), solver)

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n states at time 0, (n, *shape)."""
        return randn((n, *self.shape), generator, self.device, torch.promote_types(self.dtype, torch.float32))

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        steps: int | None = None,
        solver: str | Solver | None = None,
        guidance_scale: float | None = None,
    ) -> Tensor:
        """Go from noise to data.

        Args:
            steps: of a fixed-step solver, by default the model's own.
            solver: ``euler``, ``midpoint``, ``heun``, ``rk4``, or an adaptive one, by default the model's own; or a
                `zoo.maths.solvers.Solver` of one's own.
            guidance_scale: w of (1 - w) v(x, t) + w v(x, t, y); 1 is the conditional model, 0 the unconditional one.
                With a weak network, the first is that one's v(x, t, y).
        """
        field = self.field(labels, guidance_scale)
        steps = self.steps if steps is None else steps
        x = self.solve(field, self.noise(n, generator), steps, solver or self.solver)
        return self.data_range(x)

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"solver": (*SOLVERS, *ADAPTIVE)}

    watchable = True

    def state_examples(self, x: Tensor) -> Tensor:
        return self.data_range(x)

    def noisy_view(self, labels: Tensor | None, guidance_scale: float | None = None) -> NoisyView:
        """Return the model as what restores pictures sees it. Raises `ConfigError` where its path has a third part."""
        time = self.path.time
        if time is None:
            raise ConfigError("this model's path from noise to data has a third part, so that it does not restore")
        field = self.field(labels, 1.0 if guidance_scale is None else guidance_scale)

        def of_unit_variance(x: Tensor, log_snr: Tensor) -> Tensor:
            t = time(torch.exp(-0.5 * log_snr))
            x = x * torch.sqrt(self.path.a(t)[0] ** 2 + self.path.b(t)[0] ** 2)
            return self.path.expected_data(x, field(x, t), t)

        return NoisyView(of_unit_variance, (-10.0, 10.0), self.continuous, self.data_range)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latents of one example, as ``decode`` takes them."""
        return self.shape

    @torch.no_grad()
    def encode(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the noise that examples come from: (B, *shape) in data range -> (B, *shape)."""
        return self.solve(self.field(labels, 1.0), self.continuous(x), self.steps, self.solver, back=True)

    @torch.no_grad()
    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the examples that noise goes to: (B, *shape) -> (B, *shape) in data range."""
        return self.data_range(self.solve(self.field(labels, 1.0), z, self.steps, self.solver))

    between = staticmethod(arc)

    @torch.no_grad()
    def trajectory(
        self,
        n: int,
        *,
        seed: int | torch.Generator | None = None,
        labels: Sequence[int] | Tensor | int | None = None,
        frames: int = 9,
    ) -> tuple[Tensor, Tensor]:
        """Return states on the way from noise to data, (frames, n, *shape) in data range, and their times, (frames,).

        The way is that of RK4 from each frame to the next.
        """
        states, _, times = self._way(n, seed, labels, frames)
        return self.data_range(states), times

    @torch.no_grad()
    def straightness(
        self,
        n: int = 256,
        *,
        seed: int | torch.Generator | None = None,
        labels: Sequence[int] | Tensor | int | None = None,
        frames: int = 17,
    ) -> float:
        """Return S(Z) of n curves per dimension, 0 where all are straight; see `zoo.maths.paths.straightness`."""
        states, field, times = self._way(n, seed, labels, frames)
        v = torch.stack([field(x, t) for x, t in zip(states, times, strict=True)])
        return float(straightness(v, states)) / math.prod(self.shape)

    def _way(self, n: int, seed: Any, labels: Any, frames: int) -> tuple[Tensor, Field, Tensor]:
        times = torch.tensor(time_grid(frames - 1, 0.0, self.end), device=self.device, dtype=self.dtype)
        field = self.field(self._labels(n, labels))
        return trajectory(field, self.noise(n, seeded(seed)), times, "rk4"), field, times

    def calls(self, options: Mapping[str, Any]) -> float:
        """Evaluations of the network for one batch; those of an adaptive solver are taken to be RK4's."""
        chosen = self.sampler(options)
        asked = options.get("solver") or self.chosen_options.get("solver")
        solver = asked if isinstance(asked, Solver) else SOLVERS.get(chosen["solver"], SOLVERS["rk4"])
        guided = calls_per_step(chosen["guidance_scale"]) if self.num_classes or self.weak else 1
        return chosen["steps"] * solver.calls * guided

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network with the model's own options."""
        return int(self.calls({}))


class OdeLikelihood(HasLikelihood):
    """Mixin of a `VelocityModel`: its density by the change of variables along its curves.

    Attributes:
        likelihood_steps: of RK4.
    """

    likelihood_steps: int

    def set_likelihood(self, steps: int, examples: int) -> None:
        """Say with how many steps and over how many test examples `log_prob` is taken by default."""
        self.likelihood_steps, self.likelihood_examples = steps, examples
        self.likelihood_solver = f"rk4, {steps} steps, closer near the data, Hutchinson's trace with one probe of signs"

    @torch.no_grad()
    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int] | Tensor | int | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
        steps: int | None = None,
        exact: bool = False,
    ) -> Tensor:
        """Return log p(x), or an unbiased estimate of a lower bound for grey levels, in nats: (B, *shape) -> (B,).

        Args:
            x: examples.
            labels: the class of each, for conditional models.
            k: ignored.
            seed: of the places in the intervals of grey levels, and of the probes of the trace.
            steps: of RK4, by default ``likelihood_steps``.
            exact: take the exact trace, one backward pass for each dimension, instead of Hutchinson's estimate.
        """
        generator = seeded(seed)
        given = self.given_labels(len(x), labels)
        y, volume = x.to(self.dtype), 0.0
        if self.levels is not None:
            u = rand(y.shape, generator, self.device, self.dtype)
            y, volume = self.continuous(y, u), math.prod(self.shape) * math.log(2 / self.levels)
        probe = None if exact else rademacher(y.shape, generator, y)
        grid = time_grid(self.likelihood_steps if steps is None else steps)
        times = [self.end * (1 - s * s) for s in grid]  # closer near the data, where the velocity changes fastest
        rows = len(y) if math.prod(self.shape) <= MEDIUM_IMAGE else rows_at_once(self.shape, _ROWS)
        density = [
            ode_log_density(
                self.field(None if given is None else given[i : i + rows], 1.0), y[i : i + rows], times, "rk4",
                None if probe is None else probe[i : i + rows],
            )[0]
            for i in range(0, len(y), rows)
        ]  # fmt: skip
        return torch.cat(density) + volume

    def likelihood(self, k: int = 1) -> str:
        return "ode" if self.levels is None else "ode+dequant"


def _check_solver(solver: str | Solver) -> None:
    known = (*SOLVERS, *ADAPTIVE)
    if not isinstance(solver, Solver) and solver not in known:
        raise ConfigError(f"unknown solver {solver!r}.{close_matches(solver, known)} There are: {', '.join(known)}")
