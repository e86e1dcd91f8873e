"""Noise schedules of diffusion models: how much of the data and how much noise there is at a time t.

    x_t = alpha x_0 + sigma eps,   eps ~ N(0, I),   t = 0 data, t = 1 noise

The common currency is the log signal-to-noise ratio, lambda = log(alpha^2 / sigma^2): it falls as t grows, networks
take it as their time input, and alpha and sigma are functions of it alone, so that nothing ever rounds a time to a
step. With q = sigma / alpha = exp(-lambda / 2), the noise level of the data x / alpha,

    variance preserving       alpha = 1 / sqrt(1 + q^2)       alpha^2 + sigma^2 = 1
    variance exploding        alpha = 1
    sub-variance preserving   alpha = 2 / (q + sqrt(q^2 + 4)) sigma = 1 - alpha^2

The same process as an equation, dx = f(t) x dt + g(t) dw, has f = d log alpha / dt and g^2 = -sigma^2 d lambda / dt.

References:
    J. Ho, A. Jain, P. Abbeel, Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239.
    A. Nichol, P. Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021, arXiv:2102.09672.
    Y. Song and others, Score-Based Generative Modeling through Stochastic Differential Equations, 2020,
    arXiv:2011.13456.
    D. P. Kingma and others, Variational Diffusion Models, 2021, arXiv:2107.00630: lambda.
    T. Karras and others, Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364.
    A. Jabri, D. Fleet, T. Chen, Scalable Adaptive Computation for Iterative Generation, 2022, arXiv:2212.11972.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.spec import Recorded

__all__ = [
    "EDM", "VE", "VP", "Cosine", "Linear", "Schedule", "Sigmoid", "SubVP", "posterior", "posterior_variance",
    "transition",
]  # fmt: skip


class Schedule(Recorded):
    """A falling function from time to log signal-to-noise, and what goes with it.

    Attributes:
        first: time at which continuous models begin to see data, above 0.
        kind: ``vp``, ``ve`` or ``sub_vp``.
    """

    first: float = 1e-3
    kind: str = "vp"

    def log_snr(self, t: Tensor) -> Tensor:
        """Return lambda at times between `first` and 1, any shape; float64 where it is to be exact."""
        raise NotImplementedError

    def training_log_snr(self, u: Tensor) -> Tensor:
        """Return the lambdas to train on, from uniform u in [0, 1): those of even times between `first` and 1."""
        return self.log_snr(self.first + (1 - self.first) * u)

    def coefficients(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at lambda, any shape; infinity means the data themselves."""
        q = torch.exp(-0.5 * log_snr)
        if self.kind == "ve":
            return torch.ones_like(q), q
        alpha = torch.rsqrt(1 + q * q) if self.kind == "vp" else 2 / (q + torch.sqrt(q * q + 4))
        return alpha, alpha * q

    def slopes(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Return d alpha / d lambda and d sigma / d lambda."""
        q, (alpha, sigma) = torch.exp(-0.5 * log_snr), self.coefficients(log_snr)
        if self.kind == "ve":
            return torch.zeros_like(q), -0.5 * sigma
        if self.kind == "vp":
            return 0.5 * alpha * sigma**2, -0.5 * sigma * alpha**2
        root = torch.sqrt(q * q + 4)
        return 0.5 * sigma / root, -0.5 * sigma * (1 - q / root)

    def drift(self, t: Tensor) -> Tensor:
        """Return f(t) of dx = f(t) x dt + g(t) dw."""
        log_snr = self.log_snr(t)
        return self.slopes(log_snr)[0] / self.coefficients(log_snr)[0] * self._rate(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t)^2 of dx = f(t) x dt + g(t) dw."""
        return -(self.coefficients(self.log_snr(t))[1] ** 2) * self._rate(t)

    def _rate(self, t: Tensor) -> Tensor:
        """Return d lambda / dt."""
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            return torch.autograd.grad(self.log_snr(t).sum(), t)[0]

    def grid(self, steps: int, spacing: str = "time", first: float | None = None) -> Tensor:
        """Return ``steps`` rising lambdas, from the most noise to the least, float64.

        Args:
            steps: at least 1.
            spacing: what is even between the ends: ``time``, ``log_snr``, or ``rho``, q to the power 1/7 (EDM).
            first: the time at which it ends, by default the schedule's own.

        Raises:
            ConfigError: no steps, or an unknown spacing.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"steps must be a positive integer, got {steps!r}")
        last = self.first if first is None else first
        ends = self.log_snr(torch.tensor([1.0, last], dtype=torch.float64))
        share = torch.linspace(0, 1, steps, dtype=torch.float64)
        if spacing == "time":
            return self.log_snr(1 + (last - 1) * share)
        if spacing == "log_snr":
            return torch.lerp(ends[0], ends[1], share)
        if spacing == "rho":
            root = torch.exp(-ends / 14)
            return -14 * torch.log(torch.lerp(root[0], root[1], share))
        raise ConfigError(f"spacing must be time, log_snr or rho, got {spacing!r}")


class Linear(Schedule):
    """Ho's steps: beta_i even from ``start`` to ``end``, alpha_i^2 = prod (1 - beta_j); log alpha linear in between.

    Args:
        start: beta_1.
        end: beta_T.
        table: T, how many steps.

    Raises:
        ConfigError: betas that do not lie between 0 and 1, or no steps.
    """

    def __init__(self, start: float = 1e-4, end: float = 0.02, table: int = 1000) -> None:
        if not (0 < start < 1 and 0 < end < 1 and table >= 1):
            raise ConfigError(f"betas must lie between 0 and 1, on at least one step, got {start}, {end}, {table}")
        beta = torch.linspace(start, end, table, dtype=torch.float64)
        zero = torch.zeros(1, dtype=torch.float64)
        self.log_alpha_squared = torch.cat([zero, torch.log1p(-beta).cumsum(0)])
        self.first = 1 / table

    def log_snr(self, t: Tensor) -> Tensor:
        logs = self.log_alpha_squared.to(t.device)
        place = (t * (len(logs) - 1)).double()
        i = place.detach().floor().long().clamp(0, len(logs) - 2)
        log = torch.lerp(logs[i], logs[i + 1], place - i)
        return -torch.log(torch.expm1(-log)).to(t.dtype)


class Cosine(Schedule):
    """alpha^2 = h(t) / h(0), h(t) = cos^2(pi/2 (t + s) / (1 + s)).

    The end without any signal is left out: t = 1 is the time at which lambda has fallen to ``floor``.

    Args:
        offset: s, which keeps the first steps from being too small to see.
        floor: the lowest lambda, negative.

    Raises:
        ConfigError: numbers out of range.
    """

    def __init__(self, offset: float = 0.008, floor: float = -12.0) -> None:
        if not (offset >= 0 and floor < 0):
            raise ConfigError(f"offset must not be negative and floor must be, got {offset} and {floor}")
        self.offset, self.floor = offset, floor
        self._start = math.cos(0.5 * math.pi * offset / (1 + offset)) ** 2
        last = math.sqrt(self._start / (1 + math.exp(-floor)))
        self._last = 2 / math.pi * math.acos(last) * (1 + offset) - offset

    def log_snr(self, t: Tensor) -> Tensor:
        h = torch.cos(0.5 * math.pi * (t * self._last + self.offset) / (1 + self.offset)) ** 2
        return torch.logit(h / self._start)


class Sigmoid(Schedule):
    """alpha^2 falls from 1 to 0 as a piece of a sigmoid; t = 1 is where lambda has fallen to ``floor``.

    Args:
        start: argument of the sigmoid at t = 0.
        end: where alpha^2 would be 0.
        temperature: divides both.
        floor: the lowest lambda, negative.

    Raises:
        ConfigError: numbers out of range.
    """

    def __init__(self, start: float = -3.0, end: float = 3.0, temperature: float = 1.0, floor: float = -12.0) -> None:
        if not (start < end and temperature > 0 and floor < 0):
            raise ConfigError(
                f"start must be below end, the temperature positive and floor negative, got {start}, {end}, "
                f"{temperature}, {floor}"
            )
        self.start, self.end, self.temperature, self.floor = start, end, temperature, floor
        self._low, self._high = (1 / (1 + math.exp(-place / temperature)) for place in (start, end))
        value = self._high - (self._high - self._low) / (1 + math.exp(-floor))
        self._last = (temperature * math.log(value / (1 - value)) - start) / (end - start)

    def log_snr(self, t: Tensor) -> Tensor:
        value = torch.sigmoid((self.start + t * self._last * (self.end - self.start)) / self.temperature)
        return torch.logit((self._high - value) / (self._high - self._low))


class VP(Schedule):
    """Continuous variance preserving equation with beta(t) = beta_min + t (beta_max - beta_min) (Song, eq. 32).

    Args:
        beta_min: beta(0), positive.
        beta_max: beta(1), above it.
        first: earliest time.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, first: float = 1e-3) -> None:
        if not 0 < beta_min < beta_max or not 0 < first < 1:
            raise ConfigError(f"betas must rise from above 0, and first lie in it, got {beta_min}, {beta_max}, {first}")
        self.beta_min, self.beta_max, self.first = beta_min, beta_max, first

    def integral(self, t: Tensor) -> Tensor:
        """Return the integral of beta from 0 to t."""
        return self.beta_min * t + 0.5 * t * t * (self.beta_max - self.beta_min)

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(self.integral(t)))


class SubVP(VP):
    """Sub-VP equation: the means of VP, and the smaller sigma = 1 - alpha^2 (Song, eq. 29)."""

    kind = "sub_vp"

    def log_snr(self, t: Tensor) -> Tensor:
        B = self.integral(t)
        return -B - 2 * torch.log(-torch.expm1(-B))  # 2 log(alpha / (1 - alpha^2)), alpha^2 = exp(-B)


class VE(Schedule):
    """Variance exploding equation: sigma grows geometrically from ``sigma_min`` to ``sigma_max`` (Song, eq. 30)."""

    kind = "ve"
    first = 1e-5

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ConfigError(f"sigma must rise from above 0, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min))


class EDM(Schedule):
    """Karras' noise levels: sigma^(1/rho) even in time, trained on log-normal ones; sigma_data is the network's.

    Args:
        sigma_min: lowest level.
        sigma_max: highest level.
        rho: how many of the levels are low.
        mean: of log sigma in training.
        std: of log sigma in training.
    """

    kind = "ve"
    first = 1e-5

    def __init__(
        self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, mean: float = -1.2, std: float = 1.2
    ) -> None:
        if not (0 < sigma_min < sigma_max and rho > 0 and std > 0):
            raise ConfigError(
                f"sigma must rise from above 0, got {sigma_min} and {sigma_max}; rho and std are positive"
            )
        self.sigma_min, self.sigma_max, self.rho, self.mean, self.std = sigma_min, sigma_max, rho, mean, std

    def log_snr(self, t: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return -2 * self.rho * torch.log(low + t * (high - low))

    def training_log_snr(self, u: Tensor) -> Tensor:
        z = torch.special.ndtri(u.double().clamp(1e-6, 1 - 1e-6)).to(u.dtype)
        return -2 * (self.mean + self.std * z)


# -- steps from one level of noise to another --------------------------------------------------------------------------


def transition(schedule: Schedule, later: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factor and the variance of q(x_t | x_s), t later than s: x_t = factor x_s + N(0, variance).

    Of one step of a chain that preserves variance, they are sqrt(1 - beta_t) and beta_t (Ho, eq. 2).

    Args:
        schedule: of both.
        later: lambda at t, the smaller one.
        earlier: lambda at s.
    """
    (a_t, s_t), (a_s, _) = schedule.coefficients(later), schedule.coefficients(earlier)
    return a_t / a_s, -(s_t**2) * torch.expm1(later - earlier)


def posterior_variance(schedule: Schedule, later: Tensor, earlier: Tensor) -> Tensor:
    """Return the variance of q(x_s | x_t, x_0), which of one step of a chain is beta tilde_t (Ho, eq. 7).

    Args:
        schedule: of both.
        later: lambda at t.
        earlier: lambda at s, the larger one; infinity gives 0.
    """
    return schedule.coefficients(earlier)[1] ** 2 * -torch.expm1(later - earlier)


def posterior(schedule: Schedule, x: Tensor, x_0: Tensor, later: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of q(x_s | x_t, x_0), s earlier than t (Ho, eq. 6 and 7).

    Args:
        schedule: of all three.
        x: x_t.
        x_0: the data.
        later: lambda at t, one number or what broadcasts to x.
        earlier: lambda at s; infinity gives x_0 itself.
    """
    (a_t, _), (a_s, _) = schedule.coefficients(later), schedule.coefficients(earlier)
    kept = torch.exp(later - earlier)  # (alpha_t sigma_s / (alpha_s sigma_t))^2
    mean = a_s / a_t * kept * x + a_s * -torch.expm1(later - earlier) * x_0
    return mean, posterior_variance(schedule, later, earlier)
