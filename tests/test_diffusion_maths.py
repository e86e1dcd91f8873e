"""Laws of noise schedules, predictions, samplers and guidance, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.maths import samplers
from zoo.maths.conversions import KINDS, convert, noise_of, prediction_of, to_data
from zoo.maths.guidance import calls_per_step, guide
from zoo.maths.schedules import EDM, VE, VP, Cosine, Linear, Schedule, Sigmoid, SubVP, posterior, transition

SCHEDULES: dict[str, Schedule] = {
    "linear": Linear(), "cosine": Cosine(), "sigmoid": Sigmoid(), "vp": VP(), "sub_vp": SubVP(), "ve": VE(),
    "edm": EDM(),
}  # fmt: skip
EXACT = {name: schedule for name, schedule in SCHEDULES.items() if name != "linear"}
MEAN, STD = 0.3, 0.5


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gaussian(schedule: Schedule, mean: float = MEAN, std: float = STD) -> samplers.Denoiser:
    """The expected data behind x, where the data are N(mean, std^2)."""

    def denoise(x: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = schedule.coefficients(log_snr)
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)

    return denoise


def mixture(schedule: Schedule) -> samplers.Denoiser:
    """The same for a mixture of two narrow Gaussians of unequal weight."""
    centre, std, weight = double(-0.8, 0.6), 0.15, double(0.3, 0.7)

    def denoise(x: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = schedule.coefficients(log_snr)
        v = alpha**2 * std**2 + sigma**2
        gap = x[..., None] - alpha * centre
        share = torch.softmax(torch.log(weight) - 0.5 * gap**2 / v, -1)
        return (share * (centre + alpha * std**2 / v * gap)).sum(-1)

    return denoise


# -- schedules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_signal_to_noise_falls_and_coefficients_belong_to_it(name: str) -> None:
    schedule = SCHEDULES[name]
    levels = schedule.grid(1000)
    assert levels.dtype == torch.float64 and (levels.diff() > 0).all()
    alpha, sigma = schedule.coefficients(levels)
    torch.testing.assert_close(torch.log(alpha**2 / sigma**2), levels, rtol=0, atol=1e-9)
    kind = {"vp": alpha**2 + sigma**2, "ve": alpha, "sub_vp": alpha**2 + sigma}[schedule.kind]
    torch.testing.assert_close(kind, torch.ones_like(kind), rtol=0, atol=1e-12)
    da, ds = schedule.slopes(levels)
    up, down = schedule.coefficients(levels + 1e-5), schedule.coefficients(levels - 1e-5)
    torch.testing.assert_close(da, (up[0] - down[0]) / 2e-5, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(ds, (up[1] - down[1]) / 2e-5, rtol=1e-6, atol=1e-10)
    ends = schedule.coefficients(double(math.inf))
    assert ends[0] == 1 and ends[1] == 0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("spacing", ["time", "log_snr", "rho"])
def test_grids_have_the_same_ends(name: str, spacing: str) -> None:
    schedule = SCHEDULES[name]
    levels = schedule.grid(7, spacing)
    ends = schedule.log_snr(double(1.0, schedule.first))
    torch.testing.assert_close(levels[[0, -1]], ends, rtol=0, atol=1e-8)
    even = {"log_snr": levels, "rho": torch.exp(-levels / 14)}.get(spacing)
    if even is not None:
        torch.testing.assert_close(even.diff().std() / even.diff().mean().abs(), double(0.0)[0], rtol=0, atol=1e-9)


def test_formulas_of_the_papers() -> None:
    t = torch.linspace(0.05, 0.999, 50, dtype=torch.float64)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    steps = torch.arange(1, 1001, dtype=torch.float64) / 1000
    alpha, _ = SCHEDULES["linear"].coefficients(SCHEDULES["linear"].log_snr(steps))
    torch.testing.assert_close(alpha**2, torch.cumprod(1 - betas, 0), rtol=1e-10, atol=0)
    B = 0.1 * t + 0.5 * t**2 * 19.9
    beta = 0.1 + 19.9 * t
    torch.testing.assert_close(VP().coefficients(VP().log_snr(t))[0], torch.exp(-B / 2))
    torch.testing.assert_close(VP().drift(t), -beta / 2)
    torch.testing.assert_close(VP().diffusion(t), beta)
    torch.testing.assert_close(SubVP().drift(t), -beta / 2)
    torch.testing.assert_close(SubVP().diffusion(t), beta * (1 - torch.exp(-2 * B)))
    sigma = 0.01 * 5000**t
    torch.testing.assert_close(VE().diffusion(t), sigma**2 * 2 * math.log(5000))
    assert not VE().drift(t).any()
    h = torch.cos(0.5 * math.pi * (t * Cosine()._last + 0.008) / 1.008) ** 2
    torch.testing.assert_close(
        Cosine().coefficients(Cosine().log_snr(t))[0] ** 2, h / math.cos(0.004 * math.pi / 1.008) ** 2
    )
    rho = (80 ** (1 / 7) + torch.linspace(0, 1, 18, dtype=torch.float64) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(EDM().coefficients(EDM().grid(18))[1][:-1], rho[:-1], rtol=1e-3, atol=0)
    z = torch.log(EDM().coefficients(EDM().training_log_snr(torch.linspace(0.001, 0.999, 999).double()))[1])
    assert z.mean() == pytest.approx(-1.2, abs=1e-3) and z.std() == pytest.approx(1.2, rel=0.02)


@pytest.mark.parametrize("name", SCHEDULES)
def test_single_steps_compose_to_the_marginal(name: str) -> None:
    schedule = SCHEDULES[name]
    levels = schedule.grid(300).flip(0)  # from the data on
    alpha, sigma = schedule.coefficients(levels)
    factor, variance = alpha[0], sigma[0] ** 2
    for earlier, later in pairwise(levels):
        step, spread = transition(schedule, later, earlier)
        factor, variance = factor * step, variance * step**2 + spread
    torch.testing.assert_close(factor, alpha[-1], rtol=1e-9, atol=0)
    torch.testing.assert_close(variance, sigma[-1] ** 2, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_is_what_bayes_rule_says_of_scalars(name: str) -> None:
    schedule, x_0, x_t = SCHEDULES[name], 0.4, 0.9
    earlier, later = schedule.log_snr(double(0.4, 0.5))
    (a_s, s_s), (step, spread) = schedule.coefficients(earlier), transition(schedule, later, earlier)
    mean, variance = posterior(schedule, double(x_t), double(x_0), later, earlier)
    x = mean + torch.linspace(-12, 12, 20001, dtype=torch.float64) * variance.sqrt()
    log = -0.5 * (x - a_s * x_0) ** 2 / s_s**2 - 0.5 * (x_t - step * x) ** 2 / spread
    p = torch.softmax(log, 0)
    torch.testing.assert_close((p * x).sum(), mean[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close((p * (x - mean) ** 2).sum(), variance, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve"])
def test_marginals_are_those_of_simulated_paths(name: str) -> None:
    schedule, paths, steps, x_0 = SCHEDULES[name], 5_000, 200, 1.5
    generator = torch.Generator().manual_seed(0)
    times = torch.linspace(schedule.first, 0.6, steps + 1, dtype=torch.float64)
    alpha, sigma = schedule.coefficients(schedule.log_snr(times))
    f, g2, h = schedule.drift(times), schedule.diffusion(times), times.diff()
    noise = torch.randn(steps + 1, paths, generator=generator, dtype=torch.float64)
    x = alpha[0] * x_0 + sigma[0] * noise[-1]
    for i in range(steps):
        x = x + h[i] * f[i] * x + (h[i] * g2[i]).sqrt() * noise[i]
    assert abs(x.mean() - alpha[-1] * x_0) < 4 * sigma[-1] / math.sqrt(paths) + 0.005
    assert x.var() == pytest.approx(float(sigma[-1] ** 2), rel=0.07)


# -- predictions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("name", ["cosine", "sub_vp", "edm"])
def test_predictions_are_interchangeable(source: str, name: str) -> None:
    schedule, generator = SCHEDULES[name], torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    alpha, sigma = (c[:, None] for c in schedule.coefficients(schedule.grid(7, "log_snr")[1:-1]))
    x = alpha * x_0 + sigma * eps
    value = prediction_of(source, x, x_0, alpha, sigma)
    torch.testing.assert_close(to_data(source, value, x, alpha, sigma), x_0, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(noise_of(x, x_0, alpha, sigma), eps, rtol=1e-6, atol=1e-8)
    for target in KINDS:
        there = convert(value, source, target, x, alpha, sigma)
        torch.testing.assert_close(there, prediction_of(target, x, x_0, alpha, sigma), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(convert(there, target, source, x, alpha, sigma), value, rtol=1e-6, atol=1e-7)


def test_edm_target_has_unit_variance_at_every_level() -> None:
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 100_000, generator=generator, dtype=torch.float64)
    for q in (0.01, 0.5, 40.0):
        alpha, sigma = double(1.0), double(q)
        target = prediction_of("edm", 0.5 * x_0 + q * eps, 0.5 * x_0, alpha, sigma)
        assert target.var() == pytest.approx(1, rel=0.02)


def test_unknown_predictions_and_spacings_are_refused() -> None:
    one = double(1.0)
    with pytest.raises(ConfigError, match=r"unknown prediction 'epz'.*'eps'"):
        to_data("epz", one, one, one, one)
    with pytest.raises(ConfigError, match="spacing"):
        VP().grid(3, "even")
    with pytest.raises(ConfigError, match="steps must be a positive integer"):
        VP().grid(0)


# -- samplers ----------------------------------------------------------------------------------------------------------


def _run(name: str, denoise: samplers.Denoiser, x: Tensor, levels: Tensor, schedule: Schedule) -> Tensor:
    way: dict[str, Callable[[], Tensor]] = {
        "ddim": lambda: samplers.ddim(denoise, x, levels, schedule),
        "heun": lambda: samplers.heun(denoise, x, levels, schedule),
        "dpm_solver": lambda: samplers.dpm_solver(denoise, x, levels, schedule),
        "ode": lambda: samplers.ode(denoise, x, levels, schedule),
    }
    return way[name]()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 800), ("heun", 60), ("dpm_solver", 60), ("ode", 30)])
def test_flow_reaches_mean_and_deviation_of_a_gaussian(name: str, sampler: str, steps: int) -> None:
    """Every sampler is an affine map of a Gaussian's states, so two points show what it makes of all of them."""
    schedule = EXACT[name]
    levels = schedule.grid(steps, "log_snr")
    alpha, sigma = schedule.coefficients(levels[0])
    centre, spread = alpha * MEAN, torch.sqrt(alpha**2 * STD**2 + sigma**2)
    low, high = _run(sampler, gaussian(schedule), torch.stack([centre - spread, centre + spread]), levels, schedule)
    assert (low + high) / 2 == pytest.approx(MEAN, rel=0.01)
    assert (high - low) / 2 == pytest.approx(STD, rel=0.01)


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve", "cosine"])
def test_reverse_equation_reaches_mean_and_deviation_of_a_gaussian(name: str) -> None:
    schedule, n, generator = SCHEDULES[name], 4_000, torch.Generator().manual_seed(0)
    alpha, sigma = schedule.coefficients(schedule.grid(2)[0])
    x = alpha * MEAN + torch.sqrt(alpha**2 * STD**2 + sigma**2) * torch.randn(n, 1, generator=generator).double()

    def noise() -> Tensor:
        return torch.randn(n, 1, generator=generator, dtype=torch.float64)

    times = torch.linspace(1, schedule.first, 200, dtype=torch.float64)
    for walk in (samplers.euler_maruyama, samplers.predictor_corrector):
        found = walk(gaussian(schedule), x, times, schedule, noise)
        assert found.mean() == pytest.approx(MEAN, abs=0.04) and found.std() == pytest.approx(STD, rel=0.06)


@pytest.mark.parametrize("spacing", ["time", "log_snr", "rho"])
@pytest.mark.parametrize("steps", [2, 3, 4, 8, 10, 40])
@pytest.mark.parametrize("name", SCHEDULES)
def test_no_sampler_diverges_with_any_schedule_and_any_number_of_steps(name: str, steps: int, spacing: str) -> None:
    """Of a Gaussian, from its own state at the first level: few steps may miss the spread, none may leave the data."""
    schedule, n, generator = SCHEDULES[name], 2_000, torch.Generator().manual_seed(0)
    levels = schedule.grid(steps, spacing)
    times = torch.linspace(1, schedule.first, steps, dtype=torch.float64)
    alpha, sigma = schedule.coefficients(levels[0])

    def noise() -> Tensor:
        return torch.randn(n, 1, generator=generator, dtype=torch.float64)

    x, denoise = alpha * MEAN + torch.sqrt(alpha**2 * STD**2 + sigma**2) * noise(), gaussian(schedule)
    walks = {
        **{name: _run(name, denoise, x, levels, schedule) for name in ("ddim", "heun", "dpm_solver")},
        **{
            f"ode, {name}": samplers.ode(denoise, x, levels, schedule, name)
            for name in ("euler", "midpoint", "heun", "rk4")
        },
        "consistency": samplers.consistency(denoise, x, levels, schedule, noise),
        "euler_maruyama": samplers.euler_maruyama(denoise, x, times, schedule, noise),
        "predictor_corrector": samplers.predictor_corrector(denoise, x, times, schedule, noise),
    }
    for sampler, found in walks.items():
        off, spread = (3.0, 5.0) if sampler in ("ode, euler", "ode, midpoint") else (0.6, 3.0)  # those are coarse
        assert found.isfinite().all() and abs(found.mean() - MEAN) < off * STD, f"{sampler}: mean {found.mean():.3g}"
        assert found.std() < spread * STD, f"{sampler}: deviation {found.std():.3g} of {STD}"


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_more_levels_take_the_flow_no_further_from_the_gaussian(name: str, method: str) -> None:
    """Of an x of hundreds, where variance explodes, no step may take too much: its error would be the spread's."""
    schedule, worst = SCHEDULES[name], []
    for steps in (16, 40, 100):
        levels = schedule.grid(steps, "log_snr")
        alpha, sigma = schedule.coefficients(levels[0])
        ends = double(-1.0, 1.0)[:, None] * torch.sqrt(alpha**2 * STD**2 + sigma**2) + alpha * MEAN
        low, high = samplers.ode(gaussian(schedule), ends, levels, schedule, method)
        worst.append(abs(float(high - low) / 2 / STD - 1))
    assert all(b <= a + 0.01 for a, b in pairwise(worst)) and worst[0] < 0.15 and worst[-1] < 0.02


def test_reverse_steps_that_would_blow_up_are_draws_from_the_posterior() -> None:
    """Sigmoid's first steps are steep: Euler's method multiplies the error of x by more than ten there."""
    schedule, times = Sigmoid(), torch.linspace(1, Sigmoid().first, 8, dtype=torch.float64)
    log_snr, h = schedule.log_snr(times), 1 / 7
    pull = schedule.drift(times[:1]) + schedule.diffusion(times[:1]) / schedule.coefficients(log_snr[0])[1] ** 2
    factor = 1 - h * pull
    assert factor.abs() > 1
    x, zero = double(5.0, -5.0), double(0.0, 0.0)
    found = samplers.euler_maruyama(lambda x, _: zero, x, times[:2], schedule, lambda: zero, correct=lambda x, _: x)
    assert (found == 0).all()  # the answer is what is denoised
    seen: list[Tensor] = []
    samplers.euler_maruyama(lambda x, _: zero, x, times[:2], schedule, lambda: zero, lambda x, _: seen.append(x) or x)
    assert torch.equal(seen[0], posterior(schedule, x, zero, log_snr[0], log_snr[1])[0])


def test_consistency_goes_back_by_the_noise_that_is_missing() -> None:
    """The end of a trajectory has the noise of sigma_min: sqrt(sigma^2 - sigma_min^2) is missing (algorithm 1)."""
    schedule = EDM()
    levels = schedule.grid(4, "rho")
    sigma = (-levels / 2).exp()
    x = samplers.consistency(lambda x, _: x, torch.zeros(200_000).double(), levels[1:], schedule, _normal(200_000))
    assert x.std() == pytest.approx(float(torch.sqrt(sigma[2] ** 2 - sigma[3] ** 2)), rel=0.01)


def _normal(n: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(n, generator=generator, dtype=torch.float64)


def test_langevin_has_the_stationary_variance_of_its_chain() -> None:
    v, step, zero, one = 0.6, 0.2, double(0.0), double(1.0)
    a, b = samplers.langevin(one, -one / v, zero, step), samplers.langevin(zero, zero, one, step)
    closed = v / (1 - step / (2 * v))
    assert float(b**2 / (1 - a**2)) == pytest.approx(closed, rel=1e-12)
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(20_000, dtype=torch.float64)
    for _ in range(60):
        x = samplers.langevin(x, -x / v, torch.randn(len(x), generator=generator, dtype=torch.float64), step)
    assert x.var() == pytest.approx(closed, rel=0.03)


def test_ddim_with_eta_one_has_the_posterior_variance() -> None:
    schedule = Cosine()
    levels, x = schedule.grid(30)[10:12], double(0.7)
    seen = []

    def denoise(x: Tensor, log_snr: Tensor) -> Tensor:
        seen.append(x)
        return gaussian(schedule)(x, log_snr)

    for z in (1.0, -1.0):
        samplers.ddim(denoise, x, levels, schedule, lambda z=z: double(z), eta=1.0)
    mean, variance = posterior(schedule, x, gaussian(schedule)(x, levels[0]), levels[0], levels[1])
    torch.testing.assert_close((seen[1] - seen[3]) / 2, variance.sqrt()[None])
    torch.testing.assert_close((seen[1] + seen[3]) / 2, mean)


def test_ddim_without_noise_draws_none_and_can_be_inverted() -> None:
    schedule = Cosine()
    x_0 = double(-1.0, -0.8, -0.65, 0.45, 0.6, 0.8)

    def never() -> Tensor:
        raise AssertionError("noise was drawn")

    errors = []
    for steps in (20, 40, 80, 160):
        levels = schedule.grid(steps)
        z = samplers.invert(mixture(schedule), x_0, levels, schedule)
        errors.append(float((samplers.ddim(mixture(schedule), z, levels, schedule, never) - x_0).abs().max()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 4
    with pytest.raises(ConfigError, match="eta must lie between 0 and 1"):
        samplers.ddim(mixture(schedule), x_0, schedule.grid(3), schedule, never, eta=1.5)


def _error(sampler: str, steps: int, schedule: Schedule, spacing: str = "log_snr") -> tuple[float, int]:
    """Root mean square error of the state at the earliest time, and how many calls had been made by then."""
    inner, calls, state = mixture(schedule), 0, torch.zeros(())

    def denoise(x: Tensor, log_snr: Tensor) -> Tensor:
        nonlocal calls, state
        calls, state = calls + 1, x  # the last call is made at the earliest time
        return inner(x, log_snr)

    levels = schedule.grid(2 if steps == 0 else steps + 1, spacing)
    x = schedule.coefficients(levels[0])[1] * torch.linspace(-1.7, 1.6, 23, dtype=torch.float64)
    if sampler == "exact":
        samplers.ode(denoise, x, schedule.grid(400, spacing), schedule)
        return state, calls  # type: ignore[return-value]
    _run(sampler, denoise, x, levels, schedule)
    truth = _truth(schedule)
    return float((state - truth).norm() / truth.norm()), calls - 1


_KNOWN: dict[int, Tensor] = {}


def _truth(schedule: Schedule) -> Tensor:
    if id(schedule) not in _KNOWN:
        _KNOWN[id(schedule)] = _error("exact", 0, schedule)[0]  # type: ignore[assignment]
    return _KNOWN[id(schedule)]


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 2), ("dpm_solver", 2)])
def test_error_falls_at_the_order_of_the_solver(sampler: str, order: int) -> None:
    steps = [64, 128, 256]
    logs = torch.tensor([math.log(_error(sampler, n, SCHEDULES["vp"])[0]) for n in steps])
    x = torch.log(torch.tensor(steps, dtype=torch.float32))
    fitted = -((logs - logs.mean()) * (x - x.mean())).sum() / (x - x.mean()).square().sum()
    assert float(fitted) == pytest.approx(order, abs=0.2)


def test_second_order_solvers_need_fewer_calls_than_euler() -> None:
    def calls(sampler: str) -> int:
        for steps in (16, 32, 64, 128, 256, 512, 1024):
            error, made = _error(sampler, steps, SCHEDULES["vp"])
            if error < 1e-3:
                return made
        return 2048

    euler = calls("ddim")
    assert calls("heun") < euler / 2 and calls("dpm_solver") < euler / 2


# -- guidance ----------------------------------------------------------------------------------------------------------


def test_guidance_at_zero_and_one_is_one_branch_to_the_bit() -> None:
    asked: list[list[int]] = []

    def f(x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        asked.append(labels.tolist())  # type: ignore[union-attr]
        return x * (labels[:, None] + 0.1)  # type: ignore[index]

    x, t, y = torch.randn(2, 3), torch.zeros(2), torch.tensor([4, 7])
    for scale, labels in ((0.0, [10, 10]), (1.0, [4, 7])):
        asked.clear()
        assert torch.equal(guide(f, scale, y, 10)(x, t), f(x, t, torch.tensor(labels)))
        assert asked == [labels, labels] and calls_per_step(scale) == 1
    asked.clear()
    out = guide(f, 3.0, y, 10)(x, t)
    torch.testing.assert_close(out, -2 * f(x, t, torch.tensor([10, 10])) + 3 * f(x, t, y))
    assert asked[:2] == [[10, 10], [4, 7]] and calls_per_step(3.0) == 2


def test_guidance_is_refused_without_classes() -> None:
    with pytest.raises(ConfigError, match="conditional"):
        guide(lambda x, t, y: x, 2.0, None, None)
    with pytest.raises(ConfigError, match="finite"):
        guide(lambda x, t, y: x, math.nan, None, None)
