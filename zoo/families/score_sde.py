"""Score-based models in continuous time: a stochastic equation turns data into noise, its reverse noise into data.

    dx = f(t) x dt + g(t) dw,   reverse: dx = (f x - g^2 score) dt + g dw,   score = grad log p_t(x)
    probability flow: dx/dt = f x - g^2 score / 2, whose marginals are the same

The score is learned by denoising, score = -(x - alpha x_0) / sigma^2 with x_0 what the network expects behind x. The
likelihood is that of the probability flow, a density of the data dequantised by uniform noise, as they are at the
earliest time of the schedule:

    log p(x) = log p_1(x_1) + int div(dx/dt) dt,   log P(k) >= E log p((k + u) / L) - D log L.

References:
    Y. Song and others, Score-Based Generative Modeling through Stochastic Differential Equations, 2020,
    arXiv:2011.13456.
    B. D. O. Anderson, Reverse-time diffusion equation models, 1982.
    T. Karras and others, Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.denoising import Denoise
from zoo.families.diffusion import Diffusion
from zoo.families.noise_latents import NoiseLatents
from zoo.maths.noise import rand
from zoo.maths.ode_likelihood import normal_log_density, rademacher, rows_at_once, transport
from zoo.maths.samplers import velocity
from zoo.maths.schedules import VP, Schedule
from zoo.model import HasLikelihood, seeded

__all__ = ["ScoreSDE"]

_ROWS = 250


class ScoreSDE(HasLikelihood, NoiseLatents, Diffusion):
    """A model of the score at all times.

    Args:
        network: (B, C, ...), lambda (B,), labels (B,) or None -> (B, C, ...).
        shape: of an example.
        schedule: VP, SubVP, VE, EDM, or any other; VP if left out.
        likelihood_steps: steps of the Runge-Kutta method of order 4 for `log_prob`.
        likelihood_examples: over how many test examples an evaluation takes the mean of `log_prob`.

    The other arguments are those of `zoo.families.diffusion.Diffusion`.

    Raises:
        ConfigError: an unknown prediction, or numbers out of range.
    """

    samplers: ClassVar[tuple[str, ...]] = ("euler_maruyama", "predictor_corrector", *Diffusion.samplers)
    dequantizes = True

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        schedule: Schedule | None = None,
        likelihood_steps: int = 12,
        likelihood_examples: int | None = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, shape, schedule or VP(), **kwargs)
        if likelihood_steps < 1:
            raise ConfigError(f"likelihood_steps must be at least 1, got {likelihood_steps}")
        self.likelihood_steps, self.likelihood_examples = likelihood_steps, likelihood_examples
        self.likelihood_solver = f"rk4, {likelihood_steps} steps, Hutchinson's trace with one probe of signs"

    def log_density(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        steps: int | None = None,
        probe: Tensor | None = None,
    ) -> Tensor:
        """Return log p of points at the earliest time, in nats: (B, *shape) in the model's range -> (B,).

        Args:
            x: the points.
            labels: int64 (B,), or None.
            steps: of the solver, even in lambda; by default the model's own.
            probe: of the trace, e with E[e e^T] = I; the exact trace if left out.
        """
        log_snrs = self.schedule.grid((self.likelihood_steps if steps is None else steps) + 1, "log_snr").flip(0)
        flow = velocity(Denoise(self, labels, 1.0, False, None), self.schedule)
        z, trace = transport(flow, x, log_snrs, "rk4", probe)
        sigma = self.schedule.coefficients(log_snrs[-1])[1].to(x)  # the noise is N(0, sigma^2 I) at the last level
        return normal_log_density(z / sigma) - math.prod(self.shape) * torch.log(sigma) + trace

    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int] | Tensor | int | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Return log p(x) or its bound, given y where conditional: (B, *shape) in data range -> (B,), nats.

        One draw of the dequantisation, and of the signs that estimate the trace, an example; ``k`` has no effect.

        Args:
            x: examples.
            labels: of a conditional model.
            k: ignored.
            seed: of the noise.
            steps: of the solver, by default the model's own.

        Raises:
            ConfigError: labels that are missing or too many.
        """
        given, generator = self.given_labels(len(x), labels), seeded(seed)
        total, rows = [], rows_at_once(self.shape, _ROWS)
        for i in range(0, len(x), rows):
            part = x[i : i + rows]
            u = rand(part.shape, generator, x.device, x.dtype)
            y = given[i : i + rows] if given is not None else None
            density = self.log_density(
                self.centre(part, u), y, steps=steps, probe=rademacher(part.shape, generator, part)
            )
            volume = math.prod(self.shape) * math.log(2 / self.levels) if self.levels is not None else 0.0
            total.append(density + volume)
        return torch.cat(total)

    def likelihood(self, k: int = 1) -> str:
        return "ode" if self.levels is None else "ode+dequant"
