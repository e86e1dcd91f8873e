"""Samplers of diffusion models: pure functions of a denoiser, a state and falling levels of noise.

    denoiser(x, lambda) -> x_0,   lambda_1 < ... < lambda_N,   x_N+1 = x_0 at the last

A denoiser gives the data that it expects behind x of log signal-to-noise lambda, (B, ...) and a number; every sampler
works with every one of them, whatever the network predicts and on whatever schedule it was trained. All end in one
evaluation at lambda_N whose answer is the sample: N levels of noise are N calls, or as many as the table says.

    ancestral            x_s ~ p(x_s | x_t), which the model gives                           N calls
    ddim                 x_s = alpha_s x_0 + sqrt(sigma_s^2 - eta^2 v) eps + eta sqrt(v) z   N
    euler_maruyama       the reverse equation, step by step in time, where that is stable    N
    predictor_corrector  the same, and a Langevin step after each                            2N - 1
    ode                  the probability-flow equation in lambda, by any solver              solver's calls (N - 1) + 1
    heun                 the same equation in q = sigma / alpha, trapezoid rule              2N - 1
    dpm_solver           exponential integrator of second order, two evaluations remembered  N
    consistency          x_0 at once, noise again, x_0 at once, ...; from N of N + 1 levels  N

v is the variance of q(x_s | x_t, x_0). DDIM with eta = 0 is Euler's method for d(x / alpha) / dq = eps.

Where steps are so few, or a schedule so steep, that a method would blow up, a form of the same step that cannot takes
its place: `euler_maruyama` draws from q(x_s | x_t, x_0), `heun` averages x_0 instead of eps, and the Langevin step of
`predictor_corrector` has a largest size. `ode` follows x / sqrt(alpha^2 + sigma^2) wherever variance explodes.

References:
    J. Ho, A. Jain, P. Abbeel, Denoising Diffusion Probabilistic Models, 2020, arXiv:2006.11239.
    J. Song, C. Meng, S. Ermon, Denoising Diffusion Implicit Models, 2020, arXiv:2010.02502.
    Y. Song and others, Score-Based Generative Modeling through SDEs, 2020, arXiv:2011.13456, algorithms 2 to 5.
    T. Karras and others, Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364.
    C. Lu and others, DPM-Solver++, 2022, arXiv:2211.01095, algorithm 2.
    Y. Song and others, Consistency Models, 2023, arXiv:2303.01469, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.maths.conversions import noise_of
from zoo.maths.schedules import Schedule, posterior, transition
from zoo.maths.solvers import integrate
from zoo.maths.watching import step_done

__all__ = [
    "Denoiser",
    "Noise",
    "Reverse",
    "Sampler",
    "ancestral",
    "consistency",
    "ddim",
    "dpm_solver",
    "euler_maruyama",
    "heun",
    "heun_step",
    "invert",
    "langevin",
    "ode",
    "predictor_corrector",
    "velocity",
]

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), lambda ()) -> x_0 (B, ...)."""

Reverse = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x_t, lambda_t, lambda_s) -> mean and standard deviation of p(x_s | x_t)."""

Noise = Callable[[], Tensor]
"""Draws standard normal noise of the shape of x."""


class Sampler(Protocol):
    """A sampler of one's own, as a model takes it in the place of a name: all of the functions below can be made one.

    ``denoise`` has labels and guidance built in; ``x`` is the state at the first of the rising ``log_snrs`` (N,); what
    is returned is x_0 in the model's range, (B, ...). Tell of each step by `zoo.maths.watching.step_done`, so that
    callbacks hear of it.
    """

    def __call__(
        self, denoise: Denoiser, x: Tensor, log_snrs: Tensor, schedule: Schedule, noise: Noise, /
    ) -> Tensor: ...


_STEEPEST = 10.0  # fall of q in one step of the trapezoid rule


def _cast(log_snrs: Tensor, x: Tensor) -> Tensor:
    return log_snrs.to(x.device, x.dtype)


def ancestral(denoise: Denoiser, x: Tensor, log_snrs: Tensor, reverse: Reverse, noise: Noise) -> Tensor:
    """Draw x_s from p(x_s | x_t), level by level.

    Args:
        denoise: used at the last level.
        x: state at the first level, (B, ...).
        log_snrs: rising lambdas, (N,).
        reverse: gives p(x_s | x_t).
        noise: for each step.
    """
    for i, (later, earlier) in enumerate(pairwise(_cast(log_snrs, x))):
        mean, std = reverse(x, later, earlier)
        x = step_done(i, len(log_snrs), mean + std * noise(), earlier)
    return _end(denoise, x, _cast(log_snrs, x))


def _end(denoise: Denoiser, x: Tensor, log_snrs: Tensor) -> Tensor:
    """Return the answer at the last of N levels, which is the last of N steps."""
    return step_done(len(log_snrs) - 1, len(log_snrs), denoise(x, log_snrs[-1]))


def _ddim_step(x: Tensor, x_0: Tensor, start: Tensor, end: Tensor, schedule: Schedule) -> Tensor:
    """Go from one level to another, earlier or later one, along the noise that is seen: Euler's step in q."""
    (a_t, s_t), (a_s, s_s) = schedule.coefficients(start), schedule.coefficients(end)
    return a_s * x_0 + s_s * noise_of(x, x_0, a_t, s_t)


def ddim(
    denoise: Denoiser, x: Tensor, log_snrs: Tensor, schedule: Schedule, noise: Noise | None = None, eta: float = 0.0
) -> Tensor:
    """Go from level to level with the noise that the denoiser sees, or with part of it drawn anew.

    Args:
        denoise: the denoiser.
        x: state at the first level, (B, ...).
        log_snrs: rising lambdas, (N,).
        schedule: alpha and sigma of a lambda.
        noise: needed unless eta is 0.
        eta: 0 draws nothing, 1 has the variance of the posterior.

    Raises:
        ConfigError: eta outside [0, 1], or no noise for it.
    """
    if not 0 <= eta <= 1 or (eta and noise is None):
        raise ConfigError(f"eta must lie between 0 and 1, and needs noise above 0, got {eta}")
    log_snrs = _cast(log_snrs, x)
    for i, (later, earlier) in enumerate(pairwise(log_snrs)):
        x_0 = denoise(x, later)
        if not eta or noise is None:
            x = step_done(i, len(log_snrs), _ddim_step(x, x_0, later, earlier, schedule), earlier)
            continue
        (a_t, s_t), (a_s, s_s) = schedule.coefficients(later), schedule.coefficients(earlier)
        variance = -(eta**2) * s_s**2 * torch.expm1(later - earlier)
        kept = torch.sqrt(s_s**2 - variance)
        x = a_s * x_0 + kept * noise_of(x, x_0, a_t, s_t) + torch.sqrt(variance) * noise()
        x = step_done(i, len(log_snrs), x, earlier)
    return _end(denoise, x, log_snrs)


def invert(denoise: Denoiser, x_0: Tensor, log_snrs: Tensor, schedule: Schedule) -> Tensor:
    """Run DDIM backwards, from the data to the state at the first level: what `ddim` would turn into the data.
    Shapes (B, ...).

    The data count as the mean of the state at the last level; the error of both falls with the number of levels.
    """
    log_snrs = _cast(log_snrs, x_0)
    x = schedule.coefficients(log_snrs[-1])[0] * x_0
    for earlier, later in pairwise(log_snrs.flip(0)):
        x = _ddim_step(x, denoise(x, earlier), earlier, later, schedule)
    return x


def velocity(denoise: Denoiser, schedule: Schedule) -> Callable[[Tensor, Tensor], Tensor]:
    """Return dx / d lambda of the probability flow, alpha' x_0 + sigma' eps."""

    def slope(x: Tensor, log_snr: Tensor) -> Tensor:
        (alpha, sigma), (da, ds) = schedule.coefficients(log_snr), schedule.slopes(log_snr)
        x_0 = denoise(x, log_snr)
        return da * x_0 + ds * noise_of(x, x_0, alpha, sigma)

    return slope


def ode(denoise: Denoiser, x: Tensor, log_snrs: Tensor, schedule: Schedule, method: str = "rk4") -> Tensor:
    """Integrate the probability flow in lambda by one of `zoo.maths.solvers`, and denoise at the end. Shapes (B, ...).

    Where variance explodes, dx / d lambda = (x_0 - x) / 2 takes an x of hundreds down, and the relative error of each
    step counts: 16 levels of Euler's method leave 2 % of the spread. So x / sqrt(1 + sigma^2) is followed there, as
    where variance is preserved.
    """
    flow, end = velocity(denoise, schedule), _cast(log_snrs, x)[-1]
    if len(log_snrs) > 1 and schedule.kind == "ve":
        preserved = Schedule()

        def scaled(y: Tensor, log_snr: Tensor) -> Tensor:
            return denoise(y / preserved.coefficients(log_snr)[0], log_snr)

        y = integrate(velocity(scaled, preserved), x * preserved.coefficients(log_snrs[0].to(x))[0], log_snrs, method)
        return step_done(len(log_snrs) - 1, len(log_snrs), scaled(y, end))
    x = integrate(flow, x, log_snrs, method) if len(log_snrs) > 1 else x
    return step_done(len(log_snrs) - 1, len(log_snrs), denoise(x, end))


def heun_step(denoise: Denoiser, x: Tensor, later: Tensor, earlier: Tensor, schedule: Schedule) -> Tensor:
    """Go one step of the trapezoid rule in q; the lambdas are numbers, or (B, 1, ...) for steps of several kinds.

    The rule multiplies what x_0 changes by q_t / q_s. Where that is above 10, the mean of both x_0 is taken instead.
    """
    (a_t, s_t), (a_s, s_s) = schedule.coefficients(later), schedule.coefficients(earlier)
    x_0 = denoise(x, later)
    guess = _ddim_step(x, x_0, later, earlier, schedule)
    again = denoise(guess, earlier)
    change = noise_of(guess, again, a_s, s_s) - noise_of(x, x_0, a_t, s_t)
    ruled = guess + 0.5 * (s_s - a_s * s_t / a_t) * change
    mean = _ddim_step(x, 0.5 * (x_0 + again), later, earlier, schedule)
    return torch.where(earlier - later > 2 * math.log(_STEEPEST), mean, ruled)


def heun(denoise: Denoiser, x: Tensor, log_snrs: Tensor, schedule: Schedule) -> Tensor:
    """Integrate d(x / alpha) / dq = eps by the trapezoid rule, the last step to q = 0 by Euler's. Shapes (B, ...)."""
    log_snrs = _cast(log_snrs, x)
    for i, (later, earlier) in enumerate(pairwise(log_snrs)):
        x = step_done(i, len(log_snrs), heun_step(denoise, x, later, earlier, schedule), earlier)
    return _end(denoise, x, log_snrs)


def dpm_solver(denoise: Denoiser, x: Tensor, log_snrs: Tensor, schedule: Schedule) -> Tensor:
    """Second order multistep solver in data prediction: the linear part exactly, x_0 extrapolated from two levels.

    Shapes (B, ...).
    """
    log_snrs = _cast(log_snrs, x)
    before, last = None, None
    for i, (later, earlier) in enumerate(pairwise(log_snrs)):
        (_, s_t), (a_s, s_s) = schedule.coefficients(later), schedule.coefficients(earlier)
        x_0, h = denoise(x, later), 0.5 * (earlier - later)
        D = x_0 if before is None else x_0 + 0.5 * h / last * (x_0 - before)
        x = step_done(i, len(log_snrs), s_s / s_t * x - a_s * torch.expm1(-h) * D, earlier)
        before, last = x_0, h
    return _end(denoise, x, log_snrs)


def _score(denoise: Denoiser, x: Tensor, log_snr: Tensor, schedule: Schedule) -> Tensor:
    alpha, sigma = schedule.coefficients(log_snr)
    return -noise_of(x, denoise(x, log_snr), alpha, sigma) / sigma


def euler_maruyama(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: Schedule,
    noise: Noise,
    correct: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Simulate the reverse equation, dx = (f x - g^2 score) dt + g dw with t falling, in equal or other steps of t.

    Given x_0, a step multiplies x by 1 - h (f + g^2 / sigma^2). Where that is below 0, Euler's method would throw x
    beyond x_0; such a step is a draw from q(x_s | x_t, x_0), which has the equation as its limit.

    Args:
        denoise: the denoiser.
        x: state at the first time, (B, ...).
        times: falling, (N,).
        schedule: drift and diffusion.
        noise: for each step.
        correct: (x, lambda) -> x, called after each step.
    """
    times = times.double()
    log_snr, h, f, g2 = (
        schedule.log_snr(times),
        -times.diff(),
        schedule.drift(times)[:-1],
        schedule.diffusion(times)[:-1],
    )
    stable = h * (f + g2 / schedule.coefficients(log_snr[:-1])[1] ** 2) <= 1
    log_snrs = _cast(log_snr, x)
    steps = zip(pairwise(log_snrs), *(v.tolist() for v in (stable, h, f, g2)), strict=True)
    for i, ((now, after), *step) in enumerate(steps):
        x = _reverse_step(denoise, x, now, after, schedule, noise, *step)
        x = step_done(i, len(log_snrs), x if correct is None else correct(x, after), after)
    return _end(denoise, x, log_snrs)


def _reverse_step(
    denoise: Denoiser,
    x: Tensor,
    now: Tensor,
    after: Tensor,
    schedule: Schedule,
    noise: Noise,
    stable: bool,
    h: float,
    f: float,
    g2: float,
) -> Tensor:
    if stable:
        score = _score(denoise, x, now, schedule)
        return x - h * (f * x - g2 * score) + math.sqrt(h * g2) * noise()
    mean, variance = posterior(schedule, x, denoise(x, now), now, after)
    return mean + torch.sqrt(variance) * noise()


def langevin(x: Tensor, score: Tensor, noise: Tensor, step: Tensor | float) -> Tensor:
    """One step of unadjusted Langevin dynamics: x + step score + sqrt(2 step) z. Shapes (B, ...)."""
    return x + step * score + (2 * step) ** 0.5 * noise


def predictor_corrector(
    denoise: Denoiser, x: Tensor, times: Tensor, schedule: Schedule, noise: Noise, snr: float = 0.16
) -> Tensor:
    """Simulate the reverse equation with one Langevin step after each, whose size keeps to a signal-to-noise ratio.

    step = 2 alpha^2 (snr |z| / |score|)^2 with norms averaged over the batch, alpha^2 that of the schedule where it
    preserves variance and 1 where it explodes (Song, algorithms 4 and 5). |z| / |score| is about the standard deviation
    of x, and is held below twice that of x for data of unit size, so that a vanishing score makes no endless step.
    """

    def correct(x: Tensor, log_snr: Tensor) -> Tensor:
        score, z = _score(denoise, x, log_snr, schedule), noise()
        ratio = z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
        alpha, sigma = schedule.coefficients(log_snr)
        ratio = ratio.clamp(max=2 * float(torch.sqrt(alpha**2 + sigma**2)))
        return langevin(x, score, z, 2 * alpha**2 * (snr * ratio) ** 2)

    return euler_maruyama(denoise, x, times, schedule, noise, correct)


def consistency(function: Denoiser, x: Tensor, log_snrs: Tensor, schedule: Schedule, noise: Noise) -> Tensor:
    """Jump to the end of the trajectory, go back from there to the next level by noise, and jump again.

    Where alpha is 1, the way back is x + sqrt(sigma^2 - sigma_min^2) z: x has the noise of the end already.

    Args:
        function: f(x, lambda) -> the state at the end of the trajectory through x, (B, ...).
        x: state at the first level.
        log_snrs: rising lambdas, (N + 1,), from which to jump, and the end, where a jump is none.
        schedule: alpha and sigma of a lambda.
        noise: for each step but the first.
    """
    *levels, end = _cast(log_snrs, x)
    x = step_done(0, len(levels), function(x, levels[0]))
    for i, level in enumerate(levels[1:], 1):
        factor, variance = transition(schedule, level, end)
        x = step_done(i, len(levels), function(factor * x + torch.sqrt(variance) * noise(), level))
    return x
