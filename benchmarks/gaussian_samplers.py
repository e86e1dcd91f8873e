"""Every schedule with every sampler and several numbers of steps, against a Gaussian whose law is known.

    python benchmarks/gaussian_samplers.py [--out benchmarks/results/gaussian_samplers.md]

Data are N(0.3, 0.5^2) in one dimension, the denoiser is exact, and x starts in its own law at the first level, so that
what is left is the sampler's error alone. A cell holds (mean - 0.3) / 0.5 and the standard deviation over 0.5: 0 and 1
are exact. Samplers without noise are affine maps, so that two points say what they make of the whole law; the others
are run on 10,000 points (standard errors .010 and .007). Consistency has the exact function to the end of the
trajectory. Nothing may diverge; few steps may miss the spread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from zoo.maths import samplers
from zoo.maths.schedules import EDM, VE, VP, Cosine, Linear, Schedule, Sigmoid, SubVP

MEAN, STD, POINTS = 0.3, 0.5, 10_000
STEPS = (2, 8, 40)
SCHEDULES: dict[str, Schedule] = {
    "linear": Linear(), "cosine": Cosine(), "sigmoid": Sigmoid(), "vp": VP(), "sub_vp": SubVP(), "ve": VE(),
    "edm": EDM(),
}  # fmt: skip
WITHOUT_NOISE = ("ddim", "heun", "dpm_solver", "ode, euler", "ode, midpoint", "ode, heun", "ode, rk4")
WITH_NOISE = ("ddim, eta 1", "euler_maruyama", "predictor_corrector", "consistency")
SAMPLERS = (*WITHOUT_NOISE, *WITH_NOISE)


def law(schedule: Schedule, log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of x at this level."""
    alpha, sigma = schedule.coefficients(log_snr)
    return alpha * MEAN, torch.sqrt(alpha**2 * STD**2 + sigma**2)


def denoiser(schedule: Schedule) -> samplers.Denoiser:
    """Return the expected data behind x."""

    def denoise(x: Tensor, log_snr: Tensor) -> Tensor:
        alpha, _ = schedule.coefficients(log_snr)
        mean, spread = law(schedule, log_snr)
        return MEAN + alpha * STD**2 / spread**2 * (x - mean)

    return denoise


def run(schedule: Schedule, sampler: str, steps: int) -> tuple[float, float]:
    """Return mean and standard deviation of what a sampler makes in so many steps."""
    levels, denoise = schedule.grid(steps, "log_snr"), denoiser(schedule)
    times = torch.linspace(1, schedule.first, steps, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(POINTS, 1, generator=generator, dtype=torch.float64)

    first = schedule.log_snr(times[:1])[0] if sampler in ("euler_maruyama", "predictor_corrector") else levels[0]
    mean, spread = law(schedule, first)
    exact = sampler in WITHOUT_NOISE
    x = mean + spread * (torch.tensor([[1.0], [-1.0]], dtype=torch.float64) if exact else noise())
    kind, _, method = sampler.partition(", ")
    end_mean, end_spread = law(schedule, levels[-1])

    def to_the_end(x: Tensor, log_snr: Tensor) -> Tensor:
        mean, spread = law(schedule, log_snr)
        return end_mean + end_spread * (x - mean) / spread

    ways: dict[str, Callable[[], Tensor]] = {
        "ddim": lambda: samplers.ddim(denoise, x, levels, schedule, noise, eta=1.0 if method else 0.0),
        "heun": lambda: samplers.heun(denoise, x, levels, schedule),
        "dpm_solver": lambda: samplers.dpm_solver(denoise, x, levels, schedule),
        "ode": lambda: samplers.ode(denoise, x, levels, schedule, method),
        "euler_maruyama": lambda: samplers.euler_maruyama(denoise, x, times, schedule, noise),
        "predictor_corrector": lambda: samplers.predictor_corrector(denoise, x, times, schedule, noise),
        "consistency": lambda: samplers.consistency(to_the_end, x, levels, schedule, noise),
    }
    found = ways[kind]()
    if exact:
        return float(found.mean()), float((found[0] - found[1]).abs() / 2)
    return float(found.mean()), float(found.std())


def cell(mean: float, spread: float) -> str:
    """Return the error of the mean, in standard deviations of the data, and the ratio of standard deviations."""
    error = round((mean - MEAN) / STD, 3) + 0.0  # no sign of a zero, which the processor decides
    return f"{error:+.3f} {spread / STD:.3f}"


def rows(schedules: tuple[str, ...] = tuple(SCHEDULES), steps: tuple[int, ...] = STEPS) -> Iterator[str]:
    """Yield the lines of the table."""
    for name in schedules:
        for sampler in SAMPLERS:
            cells = [cell(*run(SCHEDULES[name], sampler, n)) for n in steps]
            yield f"| {name} | {sampler} | {' | '.join(cells)} |"


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="file to write the table to (default: print it)")
    out = parser.parse_args().out
    head = f"| schedule | sampler | {' | '.join(f'{n} levels' for n in STEPS)} |\n|---|---|{'---|' * len(STEPS)}"
    said = (__doc__ or "").split("\n\n")[2].replace("\n", " ")
    text = f"# Samplers on a Gaussian\n\n`python benchmarks/gaussian_samplers.py`. {said}\n\n{head}\n"
    text += "\n".join(rows()) + "\n"
    if out is None:
        print(text, end="")
    else:
        Path(out).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
