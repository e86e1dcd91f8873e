"""Denoising diffusion probabilistic models: a Markov chain from noise to data, trained by the noise that it must see.

    q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I),   t = 1/T, ..., 1
    p(x_s | x_t) = N(mean of q(x_s | x_t, x_0(x_t)), variance)

The loss is the mean squared error of the network's prediction, every step weighing the same. The likelihood is the
variational bound of the whole chain,

    -log p(x_0) <= KL(q(x_1 | x_0) || p(x_1)) + sum_t KL(q(x_s | x_t, x_0) || p(x_s | x_t)) - E log p(x_0 | x_{1/T}).

References:
    J. Ho, A. Jain, P. Abbeel, Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239.
    A. Nichol, P. Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021, arXiv:2102.09672.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.denoising import Denoise
from zoo.families.diffusion import Diffusion
from zoo.families.noise_latents import NoiseLatents
from zoo.maths.noise import rand, randn
from zoo.maths.samplers import Reverse
from zoo.maths.schedules import Cosine, Schedule, posterior, posterior_variance, transition
from zoo.model import Batch, HasLikelihood, seeded

__all__ = ["DDPM"]

VARIANCES = ("small", "large", "learned")
_ROWS = 500
_NEAR = 1e-4  # between lambdas in single and in double precision
_WEIGHT = 1e-3  # of the bound beside the squared error, where the variance is learned


class DDPM(HasLikelihood, NoiseLatents, Diffusion):
    """Diffusion in T steps.

    Args:
        network: (B, C, ...), lambda (B,), labels (B,) or None -> (B, C, ...); with a learned variance (B, 2 C, ...).
        shape: of an example.
        schedule: of the noise, one that preserves variance; a cosine if left out.
        table: T.
        variance: of p(x_s | x_t): ``small``, that of q(x_s | x_t, x_0); ``large``, that of q(x_t | x_s); ``learned``,
            between both in logarithm, trained by the bound with the means held fixed.
        likelihood_examples: over how many test examples an evaluation takes the mean of `log_prob`, None for all;
            continuous data have no likelihood.

    The other arguments are those of `zoo.families.diffusion.Diffusion`.

    Raises:
        ConfigError: an unknown variance or prediction, a schedule of another kind, or numbers out of range.
    """

    samplers: ClassVar[tuple[str, ...]] = ("ancestral", *Diffusion.samplers)

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        schedule: Schedule | None = None,
        table: int = 1000,
        variance: str = "large",
        likelihood_examples: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, shape, schedule or Cosine(), **kwargs)
        if variance not in VARIANCES or table < 2:
            raise ConfigError(
                f"variance must be small, large or learned and table at least 2, got {variance!r}, {table}"
            )
        if self.schedule.kind != "vp":
            raise ConfigError(
                f"DDPM needs a schedule that preserves variance, and {type(self.schedule).__name__} does not; use "
                f"score_sde for it"
            )
        self.variance, self.table, self.likelihood_examples = variance, table, likelihood_examples
        steps = torch.arange(1, table + 1, dtype=torch.float64) / table
        self.register_buffer("log_snrs", self.schedule.log_snr(steps), persistent=False)  # falling, (T,)

    @classmethod
    def outputs(cls, arguments: Mapping[str, Any]) -> int:
        return 2 if arguments.get("variance") == "learned" else 1

    def first_time(self) -> float:
        return 1 / self.table

    def training_levels(self, u: Tensor) -> Tensor:
        return self.log_snrs[(u * self.table).long().clamp(max=self.table - 1)].to(u.dtype)

    # -- the chain ----------------------------------------------------------------------------------------------------

    def log_variance(self, rest: Tensor, later: Tensor, earlier: Tensor) -> Tensor:
        """Return log variance of p(x_s | x_t).

        Args:
            rest: what a network with a learned variance gives beside its prediction, (B, C, ...), else empty.
            later: lambda at t, () or (B, 1, ...).
            earlier: lambda at s.
        """
        large = torch.log(transition(self.schedule, later, earlier)[1])
        return self._chosen(large, rest, later, earlier)

    def _chosen(self, large: Tensor, rest: Tensor, later: Tensor, earlier: Tensor) -> Tensor:
        """Return the larger log variance, that of q(x_s | x_t, x_0), or what the network says between both."""
        if self.variance == "large":
            return large
        small = torch.log(posterior_variance(self.schedule, later, earlier))
        return small if self.variance == "small" else small + ((rest + 1) / 2).clamp(0, 1) * (large - small)

    def reverse(self, denoise: Denoise) -> Reverse:
        def step(x: Tensor, later: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor]:
            x_0, rest = denoise.both(x, later)
            mean = posterior(self.schedule, x, x_0, later, earlier)[0]
            return mean, torch.exp(0.5 * self.log_variance(rest, later, earlier))

        return step

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``mse``, per dimension, and ``loss``: the same, plus the bound / 1000 for a learned variance."""
        x_0, x, log_snr, labels = self.noisy(batch)
        out = self.output(x, log_snr, labels)
        mse = self.errors(out, x_0, x, log_snr).mean()
        if self.variance != "learned":
            return {"loss": mse, "mse": mse}
        C = x.shape[1]
        value = self.data_of(out[:, :C].detach(), x, log_snr.view(-1, *[1] * (x.ndim - 1)))
        i = 1 + torch.searchsorted(-self.log_snrs, -log_snr.double() - _NEAR)  # steps are counted from 1
        terms = self.bound_terms(x_0, value, out[:, C:], i).mean() / math.prod(self.shape)
        return {"loss": mse + _WEIGHT * self.table * terms, "mse": mse, "vlb": terms * self.table}

    # -- the bound ----------------------------------------------------------------------------------------------------

    def bound_terms(self, x_0: Tensor, value: Tensor, rest: Tensor, i: Tensor) -> Tensor:
        """Return each example's term of the bound at its own step, in nats, (B,): a divergence, or -log p at the first.

        Args:
            x_0: the data in the model's range, (B, *shape).
            value: what the network takes for them at that step.
            rest: what it gives beside that.
            i: the step, 1 to T, (B,).
        """
        column = (-1, *[1] * (x_0.ndim - 1))
        later = self.log_snrs[(i - 1).clamp(min=1)].view(column)  # the first step has its own term below
        earlier = self.log_snrs[(i - 2).clamp(min=0)].view(column)
        log_p = self.log_variance(rest, later, earlier)
        log_q = torch.log(posterior_variance(self.schedule, later, earlier))
        gap = posterior(self.schedule, torch.zeros_like(x_0), value - x_0, later, earlier)[0]  # of the means
        kl = 0.5 * (log_p - log_q + torch.exp(log_q - log_p) + gap**2 * torch.exp(-log_p) - 1)
        if self.levels is None:
            return kl.flatten(1).sum(1)
        nll = -discretized_gaussian(x_0, value, 0.5 * self._first_log_variance(rest), self.levels)
        return torch.where(i == 1, nll.flatten(1).sum(1), kl.flatten(1).sum(1))

    def _first_log_variance(self, rest: Tensor) -> Tensor:
        """Return log variance of p(x_0 | x_{1/T}): that of the second step where it would be 0 (Nichol)."""
        large = torch.log(self.schedule.coefficients(self.log_snrs[0])[1] ** 2)
        return self._chosen(large, rest, self.log_snrs[1], self.log_snrs[0])

    @torch.no_grad()
    def vlb(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        strata: int | None = 16,
        seed: int | torch.Generator | None = None,
    ) -> Tensor:
        """Return the bound on -log p(x), in nats: (B, *shape) in data range -> (B,).

        The terms of the steps 2 to T are estimated without bias: these steps are cut into strata, and one step of each,
        drawn evenly, stands for all of its stratum. Terms fall about as 1 / i, so the strata are of about equal length
        in log i, and no image's estimate hangs on whether it met the first steps. The first and the last term are
        always there.

        Args:
            x: examples.
            labels: (B,) for a conditional model.
            strata: how many at most, None for the full sum.
            seed: of the noise and of the steps.

        Raises:
            ConfigError: no strata.
        """
        if strata is not None and strata < 1:
            raise ConfigError(f"strata must be at least 1, got {strata}")
        generator, total = seeded(seed), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        edges = _edges(self.table, strata)
        x_0 = self.centre(x)
        for low, high in [(1, 2), *pairwise(edges)]:
            u = rand((len(x),), generator, x.device)
            i = low + (u * (high - low)).long().clamp(max=high - low - 1)
            log_snr = self.log_snrs[i - 1].to(x.dtype)
            eps = randn(x.shape, generator, x.device, x.dtype)
            level = log_snr.view(-1, *[1] * (x.ndim - 1))
            alpha, sigma = self.schedule.coefficients(level)
            x_t = alpha * x_0 + sigma * eps
            out = self.output(x_t, log_snr, labels)
            C = x.shape[1]
            value = self.data_of(out[:, :C], x_t, level).clamp(-1, 1)
            total += (high - low) * self.bound_terms(x_0, value, out[:, C:], i)
        return total + self.prior_term(x_0)

    def prior_term(self, x_0: Tensor) -> Tensor:
        """Return KL(q(x_1 | x_0) || N(0, I)), in nats: (B, *shape) in the model's range -> (B,)."""
        alpha, sigma = self.schedule.coefficients(self.log_snrs[-1])
        kl = 0.5 * (sigma**2 + (alpha * x_0.double()) ** 2 - 1) - torch.log(sigma)
        return kl.flatten(1).sum(1)

    def log_prob(
        self,
        x: Tensor,
        *,
        labels: Sequence[int] | Tensor | int | None = None,
        k: int = 1,
        seed: int | torch.Generator | None = None,
    ) -> Tensor:
        """Return minus `vlb` of 16 strata: (B, *shape) in data range -> (B,), nats; ``k`` has no effect.

        Raises:
            ConfigError: labels that are missing or too many, or continuous data.
        """
        if not self.has_likelihood:
            raise ConfigError("this DDPM is one of continuous data, which have no discrete likelihood; set its levels")
        given = self.given_labels(len(x), labels)
        parts, generator = range(0, len(x), _ROWS), seeded(seed)
        bounds = [
            self.vlb(x[i : i + _ROWS], given[i : i + _ROWS] if given is not None else None, seed=generator)
            for i in parts
        ]
        return -torch.cat(bounds).to(x.dtype)

    @property
    def has_likelihood(self) -> bool:
        return self.levels is not None

    def likelihood(self, k: int = 1) -> str:
        return "vlb"


def _edges(table: int, strata: int | None) -> list[int]:
    """Return where the strata of the steps 2 to T begin, even in the logarithm, and T + 1; None: one a step."""
    if strata is None or strata >= table - 1:
        return list(range(2, table + 2))
    ratio = (table + 1) / 2
    return sorted({round(2 * ratio ** (i / strata)) for i in range(strata + 1)})


def discretized_gaussian(x: Tensor, mean: Tensor, log_std: Tensor, levels: int) -> Tensor:
    """Return log P of levels in [-1, 1] under a Gaussian whose mass beyond both ends belongs to the last levels.

    Args:
        x: 2 k / (levels - 1) - 1.
        mean: of the Gaussian, as x.
        log_std: what broadcasts to x.
        levels: how many.
    """
    x, mean, half = x.double(), mean.double(), 1 / (levels - 1)
    upper, lower = ((x + s - mean) * torch.exp(-log_std) for s in (half, -half))
    upper = torch.where(x > 1 - half, torch.inf, upper)
    lower = torch.where(x < half - 1, -torch.inf, lower)
    flip = lower > 0  # in the upper tail the difference is taken in the lower one, where it is not cancelled
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    return log_b + torch.log1p(-torch.exp(log_a - log_b).clamp(max=1 - 1e-15))
