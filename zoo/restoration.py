"""Pictures from a measurement of them, by a trained model that was never told of the measurement: draws from p(x | y).

    denoisers and velocities    a sampler whose denoiser is told y (`zoo.maths.measurements.denoised`)
    energies                    a chain of exp(-E(x) / T) p(y | x), by `zoo.maths.chains.mala`

Both are exact for Gaussian data and a linear measurement, in the limit of small steps and of many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.abilities import HasEnergy, SeesThroughNoise
from zoo.checking import count_of, from_levels, option_of, tensor_of, trusted
from zoo.devices import repeatable
from zoo.errors import ConfigError, DataError, check_choice
from zoo.maths.chains import mala, potential
from zoo.maths.measurements import MEASUREMENTS, Measurement, blur, denoised, downsample, inpaint
from zoo.maths.noise import rand, randn
from zoo.maths.samplers import ddim
from zoo.maths.schedules import Schedule
from zoo.model import GenerativeModel, seeded

__all__ = ["array_of", "measured", "operator_of", "restored"]


def operator_of(
    kind: str, shape: tuple[int, ...], *, mask: Tensor | None = None, factor: int = 4, width: float = 1.5
) -> Callable[[Tensor], Tensor]:
    """Return the operator of this name for images of a shape.

    Args:
        kind: ``inpaint``, ``downsample`` or ``blur``.
        shape: (C, H, W).
        mask: of ``inpaint``: true where a pixel is seen; what broadcasts to the shape.
        factor: of ``downsample``: pixels of a side whose mean is seen; it divides both sides.
        width: of ``blur``: standard deviation in pixels.

    Raises:
        ConfigError: an unknown name, no image, or options that do not fit.
    """
    check_choice("measure", kind, MEASUREMENTS)
    if len(shape) != 3:
        raise ConfigError(f"measurements are of images (C, H, W), this model's examples are {shape}")
    if kind == "inpaint":
        if mask is None or mask.shape[-2:] != shape[1:]:
            raise ConfigError(f"inpaint takes a mask of {shape[1]} x {shape[2]}, true where a pixel is seen")
        return inpaint(mask)
    if kind == "blur":
        width = option_of("width", width, "float", "blur")
        if not (0 < width <= min(shape[1:])):
            raise ConfigError(f"width must lie between 0 and the sides of the image, {shape[1:]}, got {width!r}")
        return blur(width)
    if not isinstance(factor, int) or isinstance(factor, bool) or factor < 2 or any(s % factor for s in shape[1:]):
        raise ConfigError(f"factor must be an integer above 1 that divides {shape[1]} and {shape[2]}, got {factor!r}")
    return downsample(factor)


def measured(operator: Callable[[Tensor], Tensor], x: Tensor, noise: float, seed: int = 0) -> Tensor:
    """Return y = A x + noise n of examples x, (B, *shape) in data range."""
    y = operator(x)
    return y + noise * randn(y.shape, seeded(seed), y.device, y.dtype)


@torch.no_grad()
def restored(
    model: GenerativeModel,
    operator: Callable[[Tensor], Tensor],
    y: Tensor,
    n: int,
    *,
    noise: float = 0.02,
    seed: int | torch.Generator | None = None,
    labels: Any = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> Tensor:
    """Draw examples that could have been measured so, (n, *shape) in data range.

    Args:
        model: one that denoises examples, or follows a velocity or an energy of them.
        operator: A, linear, of examples in data range; it keeps constants, or gives 0 where nothing is seen.
        y: what was measured, of the shape that the operator gives for one example or for n of them.
        n: how many.
        noise: standard deviation of the noise of y, in units of the data, positive.
        seed: as of `zoo.model.GenerativeModel.sample`.
        labels: classes of a conditional model; drawn evenly if left out.
        steps: evaluations of the denoiser, by default 50; of a chain, by default 2,000.
        guidance_scale: of the conditional model against the unconditional one, 1 for none.

    Raises:
        ConfigError: a model that has none of the three, or numbers out of range.
        DataError: a measurement of another shape, or of numbers that are not finite.
    """
    n = count_of(n, "n", each=math.prod(model.shape))
    noise = option_of("noise", noise, "float", "what was measured")
    guidance_scale = option_of("guidance_scale", guidance_scale, "float | None", type(model).__name__)
    if noise <= 0:
        raise ConfigError(f"noise must be a positive number, got {noise!r}")
    steps = None if steps is None else count_of(steps, "steps")
    if steps == 1:
        raise ConfigError("steps must be at least 2, got 1")
    example = torch.zeros(1, *model.shape, device=model.device, dtype=model.dtype)
    y = _seen(model, y, float(noise)).to(example)
    expected = operator(example).shape[1:]
    y = y[None] if y.shape == expected else y
    if y.shape[1:] != expected or len(y) not in (1, n):
        raise DataError(
            f"what was measured must have shape {tuple(expected)} or {(n, *expected)}, got {tuple(y.shape)}"
        )
    seen, generator = Measurement(operator, y.expand(n, *expected), float(noise)), seeded(seed)
    condition = model._labels(n, labels)
    if isinstance(model, SeesThroughNoise):
        draw = partial(_denoising, guidance_scale=guidance_scale, steps=steps or 50)
    elif isinstance(model, HasEnergy):
        if guidance_scale is not None:
            raise ConfigError("guidance_scale is of denoisers and velocities, not of energies; leave it out")
        draw = partial(_chain, steps=steps or 2000)
    else:
        raise ConfigError(
            f"{type(model).__name__} has no score, velocity or energy of its examples, so it restores none; take a "
            f"diffusion model, a flow matching model or an energy"
        )
    was = model.training
    model.eval()
    try:
        with trusted(), repeatable(model.device):
            return draw(model, seen, generator, condition)
    finally:
        model.train(was)


def array_of(value: Any, what: str) -> Tensor:
    """Return numbers, nested lists of them included, as a tensor. Raises `DataError`."""
    if isinstance(value, (list, tuple)):
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise DataError(f"{what} must be numbers, with as many in each row, got a list of others") from None
    return tensor_of(value, what, "numbers")


_BEYOND = 0.5
"""How far beyond the data range a measurement may lie, beside its noise."""


def _seen(model: GenerativeModel, y: Any, noise: float) -> Tensor:
    """Return what was measured, in data range but for its noise; integers are levels. Raises `DataError`."""
    y = array_of(y, "what was measured")
    if not y.is_floating_point():
        return from_levels(model, y, "what was measured")
    if not y.isfinite().all():
        raise DataError("what was measured holds numbers that are not finite")
    slack = _BEYOND + 8 * noise
    if model.levels is not None and y.numel() and not -slack <= float(y.min()) <= float(y.max()) <= 1 + slack:
        raise DataError(
            f"what was measured must lie in [0, 1] but for its noise of {noise:g}, got {float(y.min()):g} to "
            f"{float(y.max()):g}; bring it into the data range"
        )
    return y


def _denoising(
    model: Any,
    seen: Measurement,
    generator: torch.Generator,
    labels: Tensor | None,
    guidance_scale: float | None,
    steps: int,
) -> Tensor:
    view, like = model.noisy_view(labels, guidance_scale), {"device": model.device, "dtype": model.dtype}
    offset, top = (float(view.into(torch.full((1, *model.shape), v, **like)).mean()) for v in (0.0, 1.0))
    seen = seen.mapped(top - offset, offset, model.shape)
    schedule = Schedule()

    def condition(x: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = schedule.coefficients(log_snr)
        x_0 = denoised(lambda x: view.denoise(x, log_snr), x, sigma**2 / alpha, seen)
        return x_0 if model.levels is None else x_0.clamp(-1, 1)

    def noise() -> Tensor:
        return randn((len(seen.y), *model.shape), generator, **like)

    log_snrs = torch.linspace(*view.ends, steps, dtype=torch.float64)
    return view.back(ddim(condition, noise(), log_snrs, schedule, noise, eta=1.0))


def _chain(model: Any, seen: Measurement, generator: torch.Generator, labels: Tensor | None, steps: int) -> Tensor:
    bounded = model.levels is not None

    def joint(x: Tensor) -> Tensor:
        return model.energy(x, labels=labels) / model.temperature + seen.misfit(x)

    there = (generator, model.device, model.dtype)
    x = rand((len(seen.y), *model.shape), *there) if bounded else randn((len(seen.y), *model.shape), *there)
    U = potential(joint, 1.0, bounded)
    h = 0.5 * seen.std**2  # half of what is stable along what is measured, with an operator of norm 1
    return mala(U, x, steps, h, lambda *s: randn(s, *there), lambda *s: rand(s, *there))[0]
