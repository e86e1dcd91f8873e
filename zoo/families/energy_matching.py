"""Energy matching: one energy without time that moves noise to data far away, and is their log-density close by.

    L_OT = E w(t) |-grad V(x_t) - (x_1 - x_0)|^2,   x_t = (1 - t) x_0 + t x_1,   (x_0, x_1) paired optimally in a batch
    L_CD = mean V(x^+) - mean V(x^-),   L = L_OT + lambda max(L_CD, -c)
    x^- <- x^- - dt grad V(x^-) + sqrt(2 eps(t) dt) n;   eps(t) = 0 up to tau, linear to eps_max at 1, constant after

Half of the chains start at data, half at noise. With lambda = 0, the warm-up, V is the potential of the transport; with
lambda above 0 exp(-V / eps_max) becomes the density at the data. Contrast belongs after a warm-up, from whose weights a
run starts with ``start``: without one, chains would end far from the data.

References:
    M. Balcerak and others, Energy Matching: Unifying Flow Matching and Energy-Based Models for Generative Modeling,
    2025, arXiv:2504.10612.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.abilities import HasEnergy
from zoo.checking import count_of
from zoo.errors import ConfigError
from zoo.maths.assignment import optimal_pairing
from zoo.maths.chains import frames_of
from zoo.maths.noise import randn
from zoo.maths.solvers import euler_maruyama
from zoo.model import Batch, FlowModel, Player, TrainedPart, seeded

__all__ = ["EnergyMatching"]


class EnergyMatching(HasEnergy, FlowModel):
    """V and the two ways of training it.

    Args:
        network: f(x), (B, *shape) -> (B, 1), smooth; images are seen in [-1, 1].
        shape: of an example.
        levels: of the data, None for points.
        start: a warm-up's model, whose weights training starts from.
        scale: V = scale f.
        contrast: lambda; 0 is the warm-up.
        eps_max: temperature at the data.
        tau: time from which eps rises and w falls; 1 for a jump of eps at t = 1 and w = 1 throughout.
        chain_steps: of negatives.
        step_size: dt of negatives and of sampling.
        trim: share of negatives, those of largest energy, that are left out.
        floor: c.
        end: T_s, the time at which sampling stops, at least 1.
        lr: peak learning rate.
        betas: of Adam.

    Raises:
        ConfigError: numbers out of range.
    """

    family = "energy"
    training_parts = ("start",)
    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {}

    def __init__(
        self,
        network: nn.Module,
        shape: list[int],
        levels: int | None = 256,
        start: nn.Module | None = None,
        scale: float = 1.0,
        contrast: float = 0.0,
        eps_max: float = 0.01,
        tau: float = 1.0,
        chain_steps: int = 200,
        step_size: float = 0.01,
        trim: float = 0.1,
        floor: float = 0.02,
        end: float = 1.0,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        super().__init__()
        if min(contrast, eps_max, floor) < 0 or not 0 <= tau <= 1 or not 0 <= trim < 1 or end < 1:
            raise ConfigError(
                f"contrast, eps_max and floor must not be negative, tau and trim lie in [0, 1] and end be at least 1, "
                f"got {contrast}, {eps_max}, {floor}, {tau}, {trim} and {end}"
            )
        if chain_steps < 1 or step_size <= 0:
            raise ConfigError(f"chain_steps and step_size must be positive, got {chain_steps} and {step_size}")
        self.network, self.shape, self.levels, self.scale = network, tuple(shape), levels, scale
        self.start = None if start is None else start.requires_grad_(False).eval()
        self.contrast, self.eps_max, self.tau, self.floor, self.trim = contrast, eps_max, tau, floor, trim
        self.chain_steps, self.step_size, self.end = chain_steps, step_size, end
        self.temperature = eps_max or 1.0
        self.lr, self.betas = lr, (float(betas[0]), float(betas[1]))
        last = [*network.parameters()][-1]
        if last.ndim == 1:
            last.requires_grad_(False)  # a constant of V, which neither loss can see

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the network maps to what; see `zoo.fitting`."""
        return {"network": (tuple(arguments["shape"]), (1,))}

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data: V in proportion to their numbers, as distances are sums."""
        ratio = math.prod(arguments["shape"]) / math.prod(before["shape"])
        return {**arguments, "scale": arguments.get("scale", 1.0) * ratio} if ratio != 1 else dict(arguments)

    def train(self, mode: bool = True) -> EnergyMatching:
        """Set the mode; the warm-up's model stays in eval mode."""
        super().train(mode)
        if self.start is not None:
            self.start.eval()
        return self

    def players(self) -> dict[str, Player]:
        return {"model": Player([p for p in self.network.parameters() if p.requires_grad], self.lr, self.betas)}

    def compilable(self) -> list[nn.Module]:
        """Return nothing: the network is differentiated in x, and again in its parameters."""
        return []

    def adopt(self) -> None:
        """Start from the warm-up's weights. Raises `ConfigError` where the networks differ."""
        if self.start is None:
            return
        own, given = self.network.state_dict(), self.start.network.state_dict()
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in given.items()}:
            raise ConfigError("the network differs from the warm-up's, so it cannot start from its weights")
        self.network.load_state_dict(given)

    # -- the energy ---------------------------------------------------------------------------------------------------

    def inner(self, x: Tensor) -> Tensor:
        """Return V of examples as the model sees them, (B, *shape) -> (B,)."""
        return self.scale * self.network(x).reshape(x.shape[0])

    def energy(self, x: Tensor, *, labels: Any = None) -> Tensor:
        """Return V(x); the density is exp(-V / eps_max) in the model's own range, [-1, 1] for images."""
        self._labels(x.shape[0], labels)  # refuses them
        return self.inner(x if self.levels is None else 2 * x - 1)

    def velocity(self, x: Tensor, create_graph: bool = False) -> Tensor:
        """Return -grad V, (B, *shape) as the model sees examples, whatever the mode around."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_(True)
            x = x.view_as(x)  # torch's FLOP counter cannot follow a leaf
            (slope,) = torch.autograd.grad(self.inner(x).sum(), x, create_graph=create_graph)
        return -slope

    def eps(self, t: Tensor) -> Tensor:
        """Return eps(t): 0 up to tau, linear to eps_max at 1, constant after."""
        if self.tau == 1:
            return self.eps_max * (t >= 1).to(t.dtype)
        return self.eps_max * ((t - self.tau) / (1 - self.tau)).clamp(0, 1)

    def weight(self, t: Tensor) -> Tensor:
        """Return w(t): 1 up to tau, linear to 0 at 1."""
        return torch.ones_like(t) if self.tau == 1 else ((1 - t) / (1 - self.tau)).clamp(0, 1)

    # -- training -----------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the error of the velocity per dimension, and the gap of energies where there is contrast."""
        x = batch[0]
        x_1 = x if self.levels is None else 2 * x - 1
        x_0 = self.paired(self.randn(*x.shape), x_1)
        t = self.rand(len(x))
        beside = t.reshape(-1, *[1] * (x.ndim - 1))  # (B, 1, ...)
        v = self.velocity((1 - beside) * x_0 + beside * x_1, create_graph=torch.is_grad_enabled())
        w = self.weight(t) if self.contrast else torch.ones_like(t)
        mse = (w * (v - (x_1 - x_0)).square().flatten(1).mean(1)).mean()
        if not self.contrast:
            return {"loss": mse, "mse": mse}
        ranks = max(1, len(self._streams))  # each rank's share is trimmed by itself
        up = self.inner(x_1).reshape(ranks, -1)
        down = self.inner(self.negatives(x_1)).reshape(ranks, -1).sort(1).values
        gap = up.mean(1) - down[:, : max(1, round(down.shape[1] * (1 - self.trim)))].mean(1)  # (ranks,)
        held = (self.contrast * gap).clamp(min=-self.floor).mean()
        return {"loss": mse + held, "mse": mse, "gap": gap.mean()}

    def paired(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        """Return the noise in the order in which it goes with the examples, each rank's share by itself."""
        ranks = torch.arange(len(x_1), device=x_1.device) // (len(x_1) // max(1, len(self._streams)))
        return x_0[optimal_pairing(x_1, x_0, ranks)]

    @torch.no_grad()
    def negatives(self, x_1: Tensor) -> Tensor:
        """Return where chains end, (B, *shape) without a graph: half from data, half from noise, by turns."""
        even = (torch.arange(len(x_1), device=x_1.device) % 2 == 0).reshape(-1, *[1] * (x_1.ndim - 1))
        x = torch.where(even, x_1, self.randn(*x_1.shape))
        for i in range(self.chain_steps):
            t = x.new_full((), i * self.step_size)
            spread = (2 * self.eps(t) * self.step_size).sqrt()
            x = x + self.step_size * self.velocity(x) + spread * self.randn(*x.shape)
        return x if self.levels is None else x.clamp(-1, 1)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        end: float | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Follow dx = -grad V dt + sqrt(2 eps(t)) dW from normal noise.

        Args:
            end: T_s, by default the model's; noise sets in before 1 where tau is below, at 1 where it is 1.
            steps: of Euler and Maruyama, by default such that one is ``step_size`` long.
        """
        last = self.end if end is None else end
        if not (last >= 1 and math.isfinite(last)):
            raise ConfigError(f"end, the time at which sampling stops, must be at least 1, got {last!r}")
        count = round(last / self.step_size) if steps is None else count_of(steps, "steps")
        times = [last * i / count for i in range(count + 1)]
        x = randn((n, *self.shape), generator, self.device, self.dtype)
        x = euler_maruyama(lambda x, t: self.velocity(x), lambda t: (2 * self.eps(t)).sqrt(), x, times, generator)
        return x if self.levels is None else ((x + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def chains(
        self, n: int, frames: int, *, seed: int | torch.Generator | None = None, labels: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return states of the way of ``sample``, (F, n, *shape), and after how many steps they are, (F,)."""
        self._labels(n, labels)  # refuses them
        count, generator = round(self.end / self.step_size), seeded(seed)
        steps, times = frames_of(count, frames), [self.end * i / count for i in range(count + 1)]
        states = [randn((n, *self.shape), generator, self.device, self.dtype)]
        for a, b in pairwise(steps):
            part = times[a : b + 1]
            states.append(
                euler_maruyama(
                    lambda x, t: self.velocity(x), lambda t: (2 * self.eps(t)).sqrt(), states[-1], part, generator
                )
            )
        x = torch.stack(states)
        return x if self.levels is None else ((x + 1) / 2).clamp(0, 1), torch.tensor(steps)

    @property
    def calls_per_sample(self) -> int:
        return round(self.end / self.step_size)


EnergyMatching.trained_parts = {
    "start": TrainedPart(
        what="contrast after the warm-up of an energy",
        example="energy_matching-mnist",
        requires=EnergyMatching,
        needs="an energy that was warmed up by transport",
    )
}
