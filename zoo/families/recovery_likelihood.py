"""Diffusion recovery likelihood: a ladder of energies, each of data at one noise level given those at the next.

    x_{t+1} = a_{t+1} x_t + s_{t+1} eps,   y_t = a_{t+1} x_t,   t = 0 ... T - 1
    log p(y_t | x_{t+1}) = f(y_t, t) / b_t^2 - |x_{t+1} - y_t|^2 / (2 s_{t+1}^2) + const,   b_t^2 = c_t^2 B^2 s_{t+1}^2
    L = (s_1 / s_{t+1}) (f(y_t^-, t) - f(y_t^+, t)),   y^- by K Langevin steps of size b_t from x_{t+1}

Given a neighbour only a little noisier, an energy has nearly one mode, so that short chains from there mix, and
neither a buffer nor a bound on the network's slope is needed. The last level, t = T - 1, stands for noise: it has no
such term, and a_T counts as 1. Sampling goes down the ladder from normal noise, K steps on each rung. Of the first
rung, f / b_0^2 is the log-density of a_1 x_0 up to a constant: the model's energy. c_t^2 is the noise that data have at
t over that at 0.

References:
    R. Gao and others, Learning Energy-Based Models by Diffusion Recovery Likelihood, 2020, arXiv:2012.08125, equations
    4 to 10 and algorithms 1 and 2; c_t, the weight of the loss and the last level as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.abilities import HasEnergy
from zoo.checking import count_of
from zoo.errors import ConfigError
from zoo.maths.noise import randn
from zoo.model import Batch, ImplicitModel

__all__ = ["RecoveryLikelihood"]

Noise = Callable[..., Tensor]


class RecoveryLikelihood(HasEnergy, ImplicitModel):
    """Energies of data at T noise levels, trained by the likelihood of recovering each from the next.

    Args:
        network: f: (B, *shape) and the number of the level (B,) -> (B, 1). Of points f / b_t^2 is beside a Gaussian,
            -|y|^2 / (2 spread^2), so that each rung has a law whatever the network is.
        shape: of an example.
        levels: grey levels of the data, which are taken to [-1, 1]; None for points.
        rungs: T.
        chain_steps: K.
        step_size: B; chains are stable below about 0.1.
        spread: standard deviation of that Gaussian.
        lr: peak learning rate.
        betas: of Adam.

    Raises:
        ConfigError: fewer than 2 rungs, or numbers that are not positive.
    """

    family = "energy"

    def __init__(
        self,
        network: nn.Module,
        shape: list[int],
        levels: int | None = 256,
        rungs: int = 6,
        chain_steps: int = 30,
        step_size: float = 0.014,
        spread: float = 2.0,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if rungs < 2 or chain_steps < 1 or not all(v > 0 and math.isfinite(v) for v in (step_size, spread)):
            raise ConfigError(
                f"a ladder has at least 2 rungs, 1 step of its chains and a positive step_size and spread, got "
                f"{rungs}, {chain_steps}, {step_size!r} and {spread!r}"
            )
        self.network, self.shape, self.levels = network, tuple(shape), levels
        self.rungs, self.chain_steps, self.step_size = rungs, chain_steps, step_size
        self.spread, self.lr, self.betas = spread, lr, (float(betas[0]), float(betas[1]))
        a, s = ladder(rungs)
        whole = a.cumprod(0)
        noise = torch.sqrt(1 - whole**2)  # that data have at t, (T + 1,)
        b = torch.sqrt(noise[:-1] / noise[0]) * step_size * s[1:]
        last = torch.arange(rungs) == rungs - 1
        kept = {
            "a": torch.where(last, 1.0, a[1:]), "s": s[1:], "b": b, "recovers": (~last).double(),
            "whole": whole, "sigma": noise,
        }  # fmt: skip
        for name, values in kept.items():
            self.register_buffer(f"_{name}", values.float(), persistent=False)

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data, which are theirs alone; see `zoo.fitting`."""
        return dict(arguments)

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the network maps to what; see `zoo.fitting`."""
        return {"network": (tuple(arguments["shape"]), (1,), {})}

    # -- the energies -------------------------------------------------------------------------------------------------

    def values(self, y: Tensor, t: Tensor) -> Tensor:
        """Return f(y, t) of examples as the model sees them: (B, *shape), levels int64 (B,) -> (B,)."""
        f = self.network(y, t.to(y.dtype)).reshape(y.shape[0])
        if self.levels is not None:
            return f
        return f - self._b[t].to(y.dtype) ** 2 * y.flatten(1).square().sum(1) / (2 * self.spread**2)

    def energy(self, x: Tensor, *, labels: Any = None) -> Tensor:
        """Return -f(a_1 x, 0) / b_0^2, in nats, (B, *shape) in data range -> (B,)."""
        self._labels(x.shape[0], labels)  # refuses them
        t = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        return -self.values(self._a[0] * self.centre(x), t) / self._b[0] ** 2

    def centre(self, x: Tensor) -> Tensor:
        """Return examples as the model sees them, images in [-1, 1]."""
        return x if self.levels is None else 2 * x - 1

    def compilable(self) -> list[nn.Module]:
        """Return nothing: the network is differentiated in x."""
        return []

    def chain(self, x: Tensor, t: Tensor, noise: Noise, steps: int | None = None) -> Tensor:
        """Return y_t after so many Langevin steps from x_{t+1}, (B, *shape) each, without a graph.

        Args:
            x: x_{t+1}.
            t: levels, int64 (B,).
            noise: normal numbers of a shape.
            steps: K of training if left out.
        """
        b, s, recovers = (self._beside(v, t, x) for v in (self._b, self._s, self._recovers))
        y = x
        for _ in range(self.chain_steps if steps is None else steps):
            with torch.inference_mode(False), torch.enable_grad():
                y = y.detach().clone().requires_grad_(True)
                y = y.view_as(y)  # torch's FLOP counter cannot follow a leaf
                (slope,) = torch.autograd.grad(self.values(y, t).sum(), y)
            y = y.detach()
            pull = recovers * (x - y) / s**2
            y = y + 0.5 * (slope + b**2 * pull) + b * noise(*y.shape)
        return y

    def _beside(self, values: Tensor, t: Tensor, x: Tensor) -> Tensor:
        return values[t].reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)  # (B, 1, ...)

    # -- training -----------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the gap of f between recovered and true y_t, each level weighted by s_1 / s_{t+1}."""
        x = self.centre(batch[0])
        t = (self.rand(len(x)) * self.rungs).long().clamp(max=self.rungs - 1)
        alpha, sigma = self._beside(self._whole, t, x), self._beside(self._sigma, t, x)
        x_t = alpha * x + sigma * self.randn(*x.shape)
        whole = self._beside(self._whole, t + 1, x) / alpha  # a_{t+1}, of the last level too
        later = whole * x_t + torch.sqrt(1 - whole**2) * self.randn(*x.shape)
        up = self.values(self._beside(self._a, t, x) * x_t, t)
        down = self.values(self.chain(later, t, self.randn), t)
        gap = down - up
        return {"loss": (self._s[0] / self._s[t] * gap).mean(), "gap": gap.mean(), "size": up.abs().mean()}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, *, steps: int | None = None) -> Tensor:
        """Go down the ladder from normal noise.

        Args:
            steps: of the chain on each rung, by default those of training.
        """
        steps = None if steps is None else count_of(steps, "steps")
        there = (generator, self.device, self.dtype)
        x = randn((n, *self.shape), *there)
        for level in reversed(range(self.rungs)):
            t = torch.full((n,), level, dtype=torch.int64, device=self.device)
            y = self.chain(x, t, lambda *shape: randn(shape, *there), steps)
            x = y / self._a[level].to(y.dtype)
        return x if self.levels is None else ((x + 1) / 2).clamp(0, 1)

    def calls(self, options: Mapping[str, Any]) -> float:
        """Evaluations of the network, each with its gradient, for one batch."""
        return self.rungs * (options.get("steps") or self.chain_steps)

    @property
    def calls_per_sample(self) -> int:
        return int(self.calls({}))


def ladder(rungs: int) -> tuple[Tensor, Tensor]:
    """Return a and s of T + 1 steps, float64 (T + 1,): DDPM's 1,000 put together, half of them in the last.

    The first is one step, from data to x_0; then T - 1 of 500 / (T - 1) steps; then the rest.
    """
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    ends = [k * (1000 // (2 * (rungs - 1))) for k in range(rungs)] + [999]
    whole = torch.sqrt(1 - betas).cumprod(0)[ends]
    a = whole / torch.cat([torch.ones(1, dtype=torch.float64), whole[:-1]])
    return a, torch.sqrt(1 - a**2)
