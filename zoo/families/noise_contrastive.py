"""Noise-contrastive estimation: an energy and its normaliser, learnt by telling data from noise of a known density.

    log p(x) = -E(x) - c,   G(x) = log p(x) - log q(x) - log nu
    L = E_data softplus(-G(x)) + nu E_q softplus(G(y)),   nu draws of the noise q for each example

c, the logarithm of the normaliser, is a parameter like any other: the minimiser is E(x) + c = -log p_data(x), which no
likelihood could find, as it would let c fall for ever. The noise's log-density belongs into G; without it the energy is
that of p / q. No chain runs in training.

References:
    M. Gutmann, A. Hyvarinen, Noise-contrastive estimation: A new estimation principle for unnormalized statistical
    models, 2010, equations 3, 4 and 8; M. Gutmann, A. Hyvarinen, Noise-Contrastive Estimation of Unnormalized
    Statistical Models, with Applications to Natural Image Statistics, 2012, for several draws of noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.abilities import HasEnergy
from zoo.checking import count_of
from zoo.errors import ConfigError, check_choice
from zoo.maths import noise as noises
from zoo.maths.chains import SAMPLERS, chain_states, evaluations, frames_of, potential
from zoo.maths.dequantisation import dequantise
from zoo.model import Batch, HasLikelihood, ImplicitModel, seeded

__all__ = ["NoiseContrastive"]


class NoiseContrastive(HasEnergy, HasLikelihood, ImplicitModel):
    """An energy at temperature 1, its log-normaliser, and noise of a known density.

    Args:
        network: f(x), (B, *shape) -> (B, 1). Of images E = f and the noise is uniform on [0, 1]; of points
            E = f + |x|^2 / (2 spread^2) and the noise a Gaussian.
        shape: of an example.
        levels: of the data, None for points.
        noise_ratio: nu, draws of noise for each example.
        spread: standard deviation of the noise of points, which should cover the data.
        sampler: default of sampling, of ``langevin``, ``mala`` and ``hmc``.
        step_size: of the chain, h of `zoo.maths.chains`.
        steps: default of sampling, steps or trajectories of the chain.
        lr: peak learning rate.
        betas: of Adam.

    Raises:
        ConfigError: numbers that are not positive, or an unknown sampler.
    """

    family = "energy"

    def __init__(
        self,
        network: nn.Module,
        shape: list[int],
        levels: int | None = 256,
        noise_ratio: int = 1,
        spread: float = 2.0,
        sampler: str = "mala",
        step_size: float = 0.005,
        steps: int = 500,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        check_choice("sampler", sampler, SAMPLERS)
        if noise_ratio < 1 or steps < 1 or not all(v > 0 and math.isfinite(v) for v in (spread, step_size)):
            raise ConfigError(
                f"noise_ratio and steps must be at least 1, spread and step_size positive, got {noise_ratio}, {steps}, "
                f"{spread!r} and {step_size!r}"
            )
        self.network, self.shape, self.levels = network, tuple(shape), levels
        self.noise_ratio, self.spread = noise_ratio, spread
        self.default_sampler, self.step_size, self.steps, self.lr = sampler, step_size, steps, lr
        self.betas = (float(betas[0]), float(betas[1]))
        start = 0.0 if self.bounded else math.prod(self.shape) * math.log(spread * math.sqrt(2 * math.pi))
        self.log_normaliser = nn.Parameter(torch.tensor(start))  # c of the noise itself, where f = 0

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the network maps to what; see `zoo.fitting`."""
        return {"network": (tuple(arguments["shape"]), (1,))}

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data, which are theirs alone; see `zoo.fitting`."""
        return dict(arguments)

    @property
    def bounded(self) -> bool:
        """Whether examples lie in [0, 1]."""
        return self.levels is not None

    # -- the density --------------------------------------------------------------------------------------------------

    def energy(self, x: Tensor, *, labels: Any = None) -> Tensor:
        """Return E(x), in nats, (B, *shape) in data range -> (B,)."""
        self._labels(x.shape[0], labels)  # refuses them
        f = self.network(x).reshape(x.shape[0])
        return f if self.bounded else f + x.flatten(1).square().sum(1) / (2 * self.spread**2)

    def log_noise(self, x: Tensor) -> Tensor:
        """Return log q(x), (B, *shape) -> (B,), in nats; that of the uniform law is 0 within the data's range."""
        if self.bounded:
            return x.new_zeros(len(x))
        constant = math.prod(self.shape) * math.log(self.spread * math.sqrt(2 * math.pi))
        return -x.flatten(1).square().sum(1) / (2 * self.spread**2) - constant

    def log_prob(
        self, x: Tensor, *, labels: Any = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return -E(x) - c in nats, (B, *shape) in data range -> (B,): an estimate (``~``), as c is learnt.

        Of images at a random place of each grey level's interval, by ``seed``, and less D log ``levels``.
        """
        if self.levels is None:
            return -self.energy(x, labels=labels) - self.log_normaliser
        y = dequantise(x, noises.rand(x.shape, seeded(seed), self.device, self.dtype), self.levels)
        return -self.energy(y, labels=labels) - self.log_normaliser - math.prod(self.shape) * math.log(self.levels)

    def likelihood(self, k: int = 1) -> str:
        return "nce" if self.levels is None else "nce+dequant"

    # -- training -----------------------------------------------------------------------------------------------------

    def compilable(self) -> list[nn.Module]:
        """Return the network: training does not differentiate it in x."""
        return [self.network]

    def from_noise(self, n: int, rand: Callable[..., Tensor], randn: Callable[..., Tensor]) -> Tensor:
        """Draw n examples of q, (n, *shape)."""
        return rand(n, *self.shape) if self.bounded else self.spread * randn(n, *self.shape)

    def logit(self, x: Tensor) -> Tensor:
        """Return G(x), the logit of x being an example and not noise, (B,)."""
        return -self.energy(x) - self.log_normaliser - self.log_noise(x) - math.log(self.noise_ratio)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the negative log-likelihood of telling an example from its nu draws of noise, and how often it is."""
        x = batch[0]
        if self.levels is not None:
            x = dequantise(x, self.rand(*x.shape), self.levels)
        B = len(x)
        drawn = [self.from_noise(B, self.rand, self.randn) for _ in range(self.noise_ratio)]
        G, G_noise = self.logit(torch.cat([x, *drawn])).split([B, B * self.noise_ratio])
        loss = F.softplus(-G).mean() + self.noise_ratio * F.softplus(G_noise).mean()
        accuracy = ((G > 0).to(G).mean() + (G_noise < 0).to(G).mean()) / 2
        return {"loss": loss, "told_apart": accuracy.detach(), "log_normaliser": self.log_normaliser.detach().clone()}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"sampler": tuple(SAMPLERS)}

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        step_size: float | None = None,
    ) -> Tensor:
        """Run chains from the noise.

        Args:
            steps: of the chain, trajectories of ten leaps for ``hmc``; by default the model's own.
            sampler: ``langevin``, ``mala`` or ``hmc``; by default the model's.
            step_size: h; a leap of ``hmc`` is sqrt(2 h).
        """
        count = self.steps if steps is None else count_of(steps, "steps")
        h = self.step_size if step_size is None else step_size
        return self._states(n, generator, sampler or self.default_sampler, [0, count], h)[-1]

    @torch.no_grad()
    def chains(
        self, n: int, frames: int, *, seed: int | torch.Generator | None = None, labels: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return states of the chains of ``sample``, (F, n, *shape), and after how many steps they are, (F,)."""
        self._labels(n, labels)  # refuses them
        steps = frames_of(self.steps, frames)
        return self._states(n, seeded(seed), self.default_sampler, steps, self.step_size), torch.tensor(steps)

    def _states(self, n: int, generator: torch.Generator, sampler: str, steps: list[int], h: float) -> Tensor:
        there = (generator, self.device, self.dtype)
        rand, randn = (lambda *s: noises.rand(s, *there)), (lambda *s: noises.randn(s, *there))
        U = potential(self.energy, 1.0, self.bounded)
        return chain_states(sampler, U, self.from_noise(n, rand, randn), steps, h, randn, rand, self.bounded)

    def calls(self, options: Mapping[str, Any]) -> float:
        """Evaluations of the network, each with its gradient, for one batch."""
        return evaluations(options.get("sampler") or self.default_sampler, options.get("steps") or self.steps)

    @property
    def calls_per_sample(self) -> int:
        return int(self.calls({}))
