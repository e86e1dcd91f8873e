"""What all diffusion models share: noisy data, a network that sees through the noise, and samplers that use it.

    x_t = alpha x_0 + sigma eps,   network(c_in x_t, lambda, y) -> eps, x_0, v or the like,   mean squared error

The network is told the log signal-to-noise lambda, not a step; a `zoo.maths.schedules.Schedule` says which lambdas
there are, `zoo.maths.conversions` turns what is predicted into x_0, and every sampler of `zoo.maths.samplers` asks for
x_0 only. Data in [0, 1] become [-1, 1] inside.

References:
    J. Sohl-Dickstein and others, Deep Unsupervised Learning using Nonequilibrium Thermodynamics, 2015,
    arXiv:1503.03585.
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.abilities import NoisyView
from zoo.errors import ConfigError, close_matches
from zoo.families.denoising import Denoise, known_pixels
from zoo.families.guided import Guided
from zoo.maths import samplers
from zoo.maths.conversions import KINDS, SIGMA_DATA, input_scale, noise_of, prediction_of, to_data
from zoo.maths.dequantisation import dequantise, from_continuous
from zoo.maths.guidance import calls_per_step
from zoo.maths.noise import randn
from zoo.maths.samplers import Sampler
from zoo.maths.schedules import Schedule
from zoo.maths.solvers import SOLVERS
from zoo.model import Batch, ScoreModel, name_of, seeded

__all__ = ["SAMPLERS", "Diffusion"]

SAMPLERS = ("ancestral", "ddim", "euler_maruyama", "predictor_corrector", "ode", "heun", "dpm_solver", "consistency")
"""All samplers; each model takes some of them."""

_TAKEN_BY = {
    "eta": ("ddim",),
    "solver": ("ode",),
    "snr": ("predictor_corrector",),
    "spacing": tuple(s for s in SAMPLERS if s not in ("euler_maruyama", "predictor_corrector")),
}
"""Samplers that an option is of; those of the reverse equation go by time."""

_SPACING = {"heun": "rho", "dpm_solver": "log_snr", "ode": "log_snr"}
"""What is even between levels where it is not time."""


class Diffusion(Guided, ScoreModel):
    """Base of the diffusion models: objective, samplers, encoding, completion.

    Args:
        network: (B, C, ...), lambda (B,), labels (B,) or None -> (B, C, ...), or more channels where the model says so.
        shape: of an example.
        schedule: of the noise.
        predict: what the network gives, of `zoo.maths.conversions.KINDS`.
        num_classes: labels that the network is conditioned on, 0 for none.
        label_dropout: share of the labels that training replaces by the null label ``num_classes``.
        guidance_scale: default of sampling, 1 for none.
        weak_batches: after how many batches of training a weak version of the network is kept for guidance, 0 for none;
            see `zoo.nets.weak_copy.WeakCopy`.
        sampler: default of sampling, of those that the class takes.
        steps: default of sampling.
        levels: grey levels of the data, None for continuous data of about unit size, which are taken as they are.
        sigma_data: standard deviation of the data that the prediction ``edm`` supposes.
        rate: samples a second where examples are recordings, mu-law codes; None where they are not.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: an unknown prediction, or numbers out of range.
    """

    family = "diffusion"
    samplers: ClassVar[tuple[str, ...]] = ("ddim", "heun", "dpm_solver", "ode")
    dequantizes: ClassVar[bool] = False
    strip: ClassVar[str] = "ddim"
    """Sampler that `denoising` shows."""

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        schedule: Schedule,
        predict: str = "v",
        num_classes: int = 0,
        label_dropout: float = 0.1,
        guidance_scale: float = 1.0,
        weak_batches: int = 0,
        sampler: str = "dpm_solver",
        steps: int = 15,
        levels: int | None = 256,
        sigma_data: float = SIGMA_DATA,
        rate: int | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        super().__init__()
        if predict not in KINDS:
            raise ConfigError(
                f"unknown prediction {predict!r}.{close_matches(predict, KINDS)} It is {', '.join(KINDS)}"
            )
        if sigma_data <= 0:
            raise ConfigError(f"sigma_data must be positive, got {sigma_data}")
        self.check_sampler(sampler)
        if guidance_scale != 1 and not num_classes and not weak_batches:
            raise ConfigError(
                f"guidance needs classes or weak_batches, and there are none; leave guidance_scale at 1, got "
                f"{guidance_scale}"
            )
        self.set_guidance(network, num_classes, label_dropout, guidance_scale, weak_batches)
        self.network, self.schedule, self.predict = network, schedule, predict
        self.shape, self.levels, self.sigma_data, self.rate = tuple(shape), levels, sigma_data, rate
        self.default_sampler, self.steps = sampler, steps
        self.lr, self.betas = lr, (float(betas[0]), float(betas[1]))
        self.steps_to_move = getattr(network, "steps_to_move", 2)

    def compilable(self) -> list[nn.Module]:
        return [self.network]

    # -- data range ---------------------------------------------------------------------------------------------------

    def centre(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return data in [0, 1] as [-1, 1]; with uniform noise, levels k as 2 (k + u) / L - 1."""
        if self.levels is None:
            return x
        if noise is None or not self.dequantizes:
            return 2 * x - 1
        return 2 * dequantise(x, noise, self.levels) - 1

    def uncentre(self, x: Tensor) -> Tensor:
        """Return the way back, into [0, 1]."""
        if self.levels is None:
            return x
        x = (x + 1) / 2
        return from_continuous(x, self.levels) if self.dequantizes else x.clamp(0, 1)

    # -- the network and its objective --------------------------------------------------------------------------------

    def output(
        self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None, network: nn.Module | None = None
    ) -> Tensor:
        """Return what a network, the own one if left out, gives for noisy data: (B, C, ...), (B,) -> (B, C.., ...).

        It is of the type of x: a network of half precision sees rounded states, and is not what they are kept in.
        """
        alpha, sigma = self.schedule.coefficients(_column(log_snr, x))
        scale = input_scale(self.predict, alpha, sigma, self.sigma_data)
        network = self.network if network is None else network
        return network((x * scale).to(self.dtype), log_snr.to(self.dtype), labels).to(x.dtype)

    def weak_output(self, x: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the weak network gives, as `output`."""
        return self.output(x, log_snr, labels, self.weak)

    def data_of(self, value: Tensor, x: Tensor, log_snr: Tensor) -> Tensor:
        """Return x_0 from a prediction about x, lambda being one number or (B, 1, ...)."""
        return to_data(self.predict, value, x, *self.schedule.coefficients(log_snr), self.sigma_data)

    def training_levels(self, u: Tensor) -> Tensor:
        """Return the lambdas to train on, from uniform numbers: (B,) -> (B,)."""
        return self.schedule.training_log_snr(u.double()).to(u.dtype)

    def noisy(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return x_0 in the model's range, x_t, its lambda (B,), and labels of which some are the null label."""
        x, labels = batch
        self.keep_early()
        x_0 = self.centre(x, self.rand(*x.shape) if self.dequantizes else None)
        log_snr = self.training_levels(self.even(len(x)))
        alpha, sigma = self.schedule.coefficients(_column(log_snr, x))
        return x_0, alpha * x_0 + sigma * self.randn(*x.shape), log_snr, self.dropped(labels)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``mse``, the mean squared error of the prediction per dimension, which is ``loss``."""
        x_0, x, log_snr, labels = self.noisy(batch)
        mse = self.errors(self.output(x, log_snr, labels), x_0, x, log_snr).mean()
        return {"loss": mse, "mse": mse}

    def errors(self, out: Tensor, x_0: Tensor, x: Tensor, log_snr: Tensor) -> Tensor:
        """Return squared errors of the prediction, of the shape of x."""
        alpha, sigma = self.schedule.coefficients(_column(log_snr, x))
        target = prediction_of(self.predict, x, x_0, alpha, sigma, self.sigma_data)
        return (out[:, : x.shape[1]] - target).square()

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        sampler: str | Sampler | None = None,
        steps: int | None = None,
        eta: float = 0.0,
        guidance_scale: float | None = None,
        spacing: str | None = None,
        solver: str = "rk4",
        snr: float = 0.16,
        clip: bool = True,
        given: Tensor | None = None,
        known: Tensor | int | None = None,
    ) -> Tensor:
        """Draw ``n`` examples in data range.

        Args:
            n: how many.
            generator: of all noise.
            labels: int64 (n,) for a conditional model, else none.
            sampler: of those that the class takes, or a function (denoise, x, log_snrs, schedule, noise) -> x_0, see
                `zoo.maths.samplers.Sampler`; the model's own if left out.
            steps: levels of noise, by default the model's own; most samplers call the network once at each.
            eta: of ``ddim``: share of the noise that is drawn anew.
            guidance_scale: w of (1 - w) unconditional or weak + w conditional, 1 for none; by default the model's own.
            spacing: what is even between levels: time, log_snr or rho; the sampler's own if left out, and time for
                ``euler_maruyama`` and ``predictor_corrector``.
            solver: of ``ode``: euler, midpoint, heun or rk4.
            snr: of ``predictor_corrector``.
            clip: keep what the network takes for the data in their range.
            given: partly known examples in [0, 1] to complete, *shape or (n, *shape), NaN where a pixel is unknown.
            known: which pixels of ``given`` are kept, instead of NaN: a number of rows from the top of images, or of
                first frames of videos, or a mask.

        Raises:
            ConfigError: a sampler that does not work with this model, or numbers out of range.
        """
        sampler = self.default_sampler if sampler is None else sampler
        if isinstance(sampler, str):
            self.check_sampler(sampler, eta=eta, solver=solver, snr=snr, spacing=spacing)
        else:
            _check_own(sampler, eta=eta, solver=solver, snr=snr)
        noise = self._noise_of(n, generator)
        log_snrs, times = self._grid(sampler, self.steps if steps is None else steps, spacing)
        kept = known_pixels(self, n, given, known)
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        denoise = self.denoiser(labels, scale, clip and self.levels is not None, kept)
        x = self._start(log_snrs[0], noise, kept)
        if not isinstance(sampler, str):
            return self.uncentre(sampler(denoise, x, log_snrs, self.schedule, noise))
        run: dict[str, Callable[[], Tensor]] = {
            "ancestral": lambda: samplers.ancestral(denoise, x, log_snrs, self.reverse(denoise), noise),
            "ddim": lambda: samplers.ddim(denoise, x, log_snrs, self.schedule, noise, eta),
            "euler_maruyama": lambda: samplers.euler_maruyama(denoise, x, times, self.schedule, noise),
            "predictor_corrector": lambda: samplers.predictor_corrector(denoise, x, times, self.schedule, noise, snr),
            "ode": lambda: samplers.ode(denoise, x, log_snrs, self.schedule, solver),
            "heun": lambda: samplers.heun(denoise, x, log_snrs, self.schedule),
            "dpm_solver": lambda: samplers.dpm_solver(denoise, x, log_snrs, self.schedule),
            "consistency": lambda: samplers.consistency(denoise, x, log_snrs, self.schedule, noise),
        }
        return self.uncentre(run[sampler]())

    def noisy_view(self, labels: Tensor | None, guidance_scale: float | None = None) -> NoisyView:
        """Return the model as what restores pictures sees it."""
        scale = 1.0 if guidance_scale is None else guidance_scale
        denoise, schedule = Denoise(self, labels, scale, False, None), self.schedule
        first = torch.tensor([1.0, self.first_time()], dtype=torch.float64)

        def of_unit_variance(x: Tensor, log_snr: Tensor) -> Tensor:
            return denoise(x * schedule.coefficients(log_snr)[0] * torch.sqrt(1 + torch.exp(-log_snr)), log_snr)

        least, largest = schedule.log_snr(first).tolist()
        return NoisyView(
            of_unit_variance, (least, largest), lambda x: self.centre(x, torch.full_like(x, 0.5)), self.uncentre
        )

    watchable = True

    def state_examples(self, x: Tensor) -> Tensor:
        return self.uncentre(x)

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"sampler": self.samplers, "spacing": ("time", "log_snr", "rho"), "solver": tuple(SOLVERS)}

    def denoiser(self, labels: Tensor | None, scale: float, clip: bool, known: tuple[Tensor, Tensor] | None) -> Denoise:
        """Return the model as the samplers see it."""
        return Denoise(self, labels, scale, clip, known)

    def check_sampler(self, sampler: str, **options: Any) -> None:
        """Raise `ConfigError` where a sampler does not exist, does not work with this model, or has no such option."""
        name = type(self).__name__
        if sampler not in SAMPLERS:
            near = close_matches(str(sampler), SAMPLERS)
            raise ConfigError(f"unknown sampler {sampler!r}.{near} {name} takes {', '.join(self.samplers)}")
        if sampler not in self.samplers:
            raise ConfigError(f"the sampler {sampler} does not work with {name}; it takes {', '.join(self.samplers)}")
        usual = self.sampling_options() if options else {}
        for option, value in options.items():
            if value != usual[option] and sampler not in _TAKEN_BY[option]:
                whose = f"the sampler {_TAKEN_BY[option][0]}" if len(_TAKEN_BY[option]) == 1 else "other samplers"
                raise ConfigError(f"{option} is an option of {whose}, not of {sampler}; leave it out")

    def reverse(self, denoise: Denoise) -> samplers.Reverse:
        """Return p(x_s | x_t), for ancestral sampling."""
        raise NotImplementedError

    def first_time(self) -> float:
        """Return the earliest time that the network knows."""
        return self.schedule.first

    def _grid(self, sampler: str | Sampler, steps: int, spacing: str | None) -> tuple[Tensor, Tensor]:
        """Return rising lambdas, and the falling times of samplers that go by time."""
        usual = _SPACING.get(sampler, "time") if isinstance(sampler, str) else "time"
        log_snrs = self.schedule.grid(steps, spacing or usual, self.first_time())
        return log_snrs, torch.linspace(1.0, self.first_time(), steps, dtype=torch.float64)

    def _noise_of(self, n: int, generator: torch.Generator) -> samplers.Noise:
        dtype = torch.promote_types(self.dtype, torch.float32)
        return lambda: randn((n, *self.shape), generator, self.device, dtype)

    def _start(self, level: Tensor, noise: samplers.Noise, kept: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the state at the first level: noise, and what is known seen through it."""
        z = noise()
        alpha, sigma = self.schedule.coefficients(level.to(z))
        x = sigma * z
        return x if kept is None else torch.where(kept[1], x + alpha * kept[0], x)

    @property
    def calls_per_sample(self) -> int:
        """Evaluations of the network with the model's own sampler and number of steps."""
        return self.calls(self.sampling_options())

    def calls(self, options: Mapping[str, Any]) -> int:
        """Return the evaluations of the network with these sampling options; guided steps are two."""
        options = {**self.chosen_options, **options}
        sampler, steps = options.get("sampler") or self.default_sampler, options.get("steps") or self.steps
        scale = options.get("guidance_scale")
        solver = SOLVERS[options.get("solver", "rk4")].calls if sampler == "ode" else 1
        each = 2 if sampler in ("heun", "predictor_corrector") else solver
        return ((steps - 1) * each + 1) * calls_per_step(self.guidance_scale if scale is None else scale)

    # -- looking into it ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def denoising(self, n: int, frames: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return states on the way from noise to ``n`` samples, and the data seen in each, (frames, n, *shape) each."""
        states: list[Tensor] = []
        seen: list[Tensor] = []
        noise = self._noise_of(n, seeded(seed))
        labels = self._labels(n, None)
        scale = 1.0 if labels is None and self.weak is None else self.guidance_scale  # what is told nothing is plain
        denoise = self.denoiser(labels, scale, self.levels is not None, None)
        log_snrs, _ = self._grid(self.strip, frames, None)

        def watched(x: Tensor, log_snr: Tensor) -> Tensor:
            x_0, (alpha, sigma) = denoise(x, log_snr), self.schedule.coefficients(log_snr)
            states.append(self.uncentre(x * torch.rsqrt(alpha**2 + sigma**2)))
            seen.append(self.uncentre(x_0))
            return x_0

        walk = samplers.consistency if self.strip == "consistency" else samplers.ddim
        walk(watched, self._start(log_snrs[0], noise, None), log_snrs, self.schedule, noise)
        return torch.stack(states), torch.stack(seen)

    def score(self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the gradient of log q(x) at lambda: (B, *shape) in the model's range and () -> (B, *shape)."""
        alpha, sigma = self.schedule.coefficients(log_snr)
        x_0 = Denoise(self, labels, 1.0, False, None)(x, log_snr)
        return -noise_of(x, x_0, alpha, sigma) / sigma


def _column(value: Tensor, like: Tensor) -> Tensor:
    """Return (B,) as (B, 1, ...), to broadcast."""
    return value.view(-1, *[1] * (like.ndim - 1))


def _check_own(sampler: Any, **options: Any) -> None:
    """Raise `ConfigError` for what is no sampler, and for options that a sampler of one's own does not have."""
    if not callable(sampler):
        raise ConfigError(
            f"sampler must be a name or a function (denoise, x, log_snrs, schedule, noise) -> x_0, got {sampler!r}"
        )
    usual = {"eta": 0.0, "solver": "rk4", "snr": 0.16}
    for option, value in options.items():
        if value != usual[option]:
            raise ConfigError(f"{option} is an option of other samplers, not of {name_of(sampler)}; leave it out")
