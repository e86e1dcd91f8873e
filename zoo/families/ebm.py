"""Energy-based model: Langevin chains that go on from a buffer of earlier ones, and the gap between two energies.

    p(x) proportional to exp(-E(x) / T),   T = s^2 / (2 alpha)
    x^- <- x^- - alpha grad E(x^-) + s n,   K steps from a row of the buffer, or at times from noise
    L = mean E(x^+) - mean E(x^-) + w (mean E(x^+)^2 + mean E(x^-)^2)

The chain carries no gradient. Step and noise fix the temperature of which the energy is a log-density: sqrt(2 alpha)
means T = 1. With classes the model is p(x, y) proportional to exp(-E(x, y) / T): each chain draws y given x after its K
steps in x given y, so that softmax(-E(x, .) / T) is p(y | x).

References:
    Y. Du, I. Mordatch, Implicit Generation and Generalization in Energy-Based Models, 2019, arXiv:1903.08689.
    T. Tieleman, Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient, 2008.
    W. Grathwohl and others, Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One, 2019,
    arXiv:1912.03263.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zoo.abilities import HasEnergy
from zoo.checking import count_of
from zoo.errors import ConfigError, check_choice
from zoo.maths import noise as noises
from zoo.maths.chains import (
    SAMPLERS,
    Potential,
    annealed_importance,
    chain,
    chain_states,
    evaluations,
    frames_of,
    langevin,
    potential,
    temperature,
)
from zoo.maths.dequantisation import dequantise
from zoo.model import Batch, HasLikelihood, ImplicitModel, seeded
from zoo.nets.spectral import normalise_layers
from zoo.signature import default_of

__all__ = ["EBM"]

STARTS = ("noise", "buffer")
ANNEALED = 200
"""Distributions between noise and model by which `EBM.log_prob` anneals."""

_BUFFERED = 2**25
"""Most numbers in the buffer, which is made anew wherever a model is loaded."""


class EBM(HasEnergy, HasLikelihood, ImplicitModel):
    """An energy, a buffer of chains, and three ways of drawing.

    Args:
        network: f(x), (B, *shape) -> (B, 1), or (B, num_classes). Of images E = f, beside the uniform law on [0, 1];
            of points E = f + T |x|^2 / (2 spread^2), beside a Gaussian, so that it has a law whatever f is.
        shape: of an example.
        levels: of the data, None for points.
        num_classes: labels of a joint model, 0 for none.
        chain_steps: K.
        step_size: alpha.
        noise: s, None for sqrt(2 alpha), which is T = 1.
        buffer: chains kept.
        restart: chance that a chain starts from noise.
        regulariser: w.
        data_noise: standard deviation of Gaussian noise on training images.
        spectral: whether linear layers and convolutions are normalised by their largest singular value.
        spread: standard deviation of noise that chains of points start from.
        sampler: default of sampling, of ``langevin``, ``mala`` and ``hmc``.
        steps: default of sampling, steps or trajectories of the chain.
        lr: peak learning rate.
        betas: of Adam.

    Raises:
        ConfigError: numbers out of range, or an unknown sampler.
    """

    family = "energy"
    training_parts = ("replay", "replay_labels", "oldest")
    likelihood_examples = 1_000  # each twenty of them, at 100 chains, cost an annealing

    replay: Tensor | None
    replay_labels: Tensor | None
    oldest: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        shape: list[int],
        levels: int | None = 256,
        num_classes: int = 0,
        chain_steps: int = 20,
        step_size: float = 1.0,
        noise: float | None = None,
        buffer: int = 10_000,
        restart: float = 0.05,
        regulariser: float = 1.0,
        data_noise: float = 0.0,
        spectral: bool = False,
        spread: float = 2.0,
        sampler: str = "langevin",
        steps: int = 500,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.0, 0.999),
    ) -> None:
        super().__init__()
        check_choice("sampler", sampler, SAMPLERS)
        positive = (step_size, spread, *([] if noise is None else [noise]))
        _check((chain_steps, buffer, steps), positive, (regulariser, data_noise), restart)
        if buffer * math.prod(shape) > _BUFFERED:
            raise ConfigError(
                f"a buffer of {buffer} chains of shape {tuple(shape)} is more than a model is loaded with; set "
                f"--model.buffer to {max(1, _BUFFERED // math.prod(shape))} at most"
            )
        if spectral:
            normalise_layers(network, (nn.Linear, nn.Conv2d))
        self.network, self.shape, self.levels, self.num_classes = network, tuple(shape), levels, num_classes
        self.chain_steps, self.step_size, self.spread = chain_steps, step_size, spread
        self.noise = math.sqrt(2 * step_size) if noise is None else noise
        self.temperature = temperature(step_size, self.noise)
        self.restart, self.regulariser, self.data_noise = restart, regulariser, data_noise
        self.default_sampler, self.steps, self.lr = sampler, steps, lr
        self.betas = (float(betas[0]), float(betas[1]))
        start = torch.Generator().manual_seed(0)
        rows = self.from_noise(buffer, lambda *s: torch.rand(s, generator=start), lambda *s: _normal(s, start))
        self.register_buffer("replay", self._kept(rows))
        self.register_buffer("replay_labels", torch.arange(buffer) % max(num_classes, 1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the network maps to what; see `zoo.fitting`."""
        return {"network": (tuple(arguments["shape"]), (arguments.get("num_classes") or 1,))}

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data: a buffer that fits in memory; see `zoo.fitting`."""
        most, chains = _BUFFERED // math.prod(arguments["shape"]), arguments.get("buffer", default_of(cls, "buffer"))
        return {**arguments, "buffer": most} if most < chains else dict(arguments)

    @property
    def bounded(self) -> bool:
        """Whether examples lie in [0, 1]."""
        return self.levels is not None

    def compilable(self) -> list[nn.Module]:
        """Return nothing: the network is differentiated in x."""
        return []

    # -- the energy ---------------------------------------------------------------------------------------------------

    def energies(self, x: Tensor) -> Tensor:
        """Return E(x, .), (B, *shape) -> (B, num_classes), or (B, 1)."""
        f = self.network(x).reshape(x.shape[0], -1)  # no len: a graph of any batch is exported
        if self.bounded:
            return f
        return f + self.temperature * x.flatten(1).square().sum(1, keepdim=True) / (2 * self.spread**2)

    def energy(self, x: Tensor, *, labels: Any = None) -> Tensor:
        """Return E(x) or E(x, y) in nats; without labels a joint model gives -T log sum_y exp(-E(x, y) / T)."""
        E = self.energies(x)
        if not self.num_classes:
            self._labels(x.shape[0], labels)  # refuses them
            return E[:, 0]
        if labels is None:
            return -self.temperature * torch.logsumexp(-E / self.temperature, 1)
        return E.gather(1, self._labels(x.shape[0], labels)[:, None])[:, 0]  # type: ignore[index]

    def classify(self, x: Tensor) -> Tensor:
        """Return p(y | x), (B, *shape) in data range -> (B, num_classes). Raises `ConfigError` without classes."""
        if not self.num_classes:
            raise ConfigError("this EBM was built without classes, so it cannot tell them; set num_classes")
        return torch.softmax(-self.energies(x) / self.temperature, 1)

    def potential(self, labels: Tensor | None = None) -> Potential:
        """Return E / T with its slope, infinite outside of the data's range."""
        if labels is None:
            return potential(self.energy, self.temperature, self.bounded)
        return potential(lambda x: self.energies(x).gather(1, labels[:, None])[:, 0], self.temperature, self.bounded)

    # -- training -----------------------------------------------------------------------------------------------------

    def from_noise(self, n: int, rand: Callable[..., Tensor], randn: Callable[..., Tensor]) -> Tensor:
        """Return what chains start from: uniform images, or points from a Gaussian of standard deviation ``spread``."""
        return rand(n, *self.shape) if self.bounded else self.spread * randn(n, *self.shape)

    def negatives(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return where chains end, (B, *shape) without a graph, and their labels; training puts them in the buffer.

        Args:
            labels: those of the data, which chains that start anew are told, int64 (B,).
        """
        B = len(labels)
        u, x, fine = self.rand(B, 2), self.from_noise(B, self.rand, self.randn), self.rand(B, *self.shape)
        y = labels
        if self.replay is not None and self.replay_labels is not None:
            rows = (u[:, 0] * len(self.replay)).long().clamp(max=len(self.replay) - 1)
            old = self.replay[rows]
            old = (old + fine) / 256 if self.bounded else old
            anew = u[:, 1] < self.restart
            x = torch.where(anew.reshape(-1, *[1] * len(self.shape)), x, old.to(x.dtype))
            y = torch.where(anew, labels, self.replay_labels[rows])
        U = self.potential(y if self.num_classes else None)
        x = langevin(U, x, self.chain_steps, self.noise**2 / 2, self.randn, self.bounded)
        if self.num_classes:
            gumbel = -torch.log(-torch.log(self.rand(B, self.num_classes).clamp(1e-7, 1 - 1e-7)))
            with torch.no_grad():
                y = (gumbel - self.energies(x) / self.temperature).argmax(1)
        if self.training:
            self.keep(x, y)
        return x, y

    @torch.no_grad()
    def keep(self, x: Tensor, y: Tensor) -> None:
        """Put the chains of all processes, in the order of their ranks, in the place of the oldest of the buffer."""
        if self.replay is None or self.replay_labels is None or self.oldest is None:
            return
        x, y = _joined(self._kept(x)), _joined(y)
        x, y = x[-len(self.replay) :], y[-len(self.replay) :]
        rows = (self.oldest + torch.arange(len(x), device=x.device)) % len(self.replay)
        self.replay[rows], self.replay_labels[rows] = x, y
        self.oldest.copy_((self.oldest + len(x)) % len(self.replay))

    def _kept(self, x: Tensor) -> Tensor:
        """Return states as the buffer has them: images as uint8."""
        return (x * 256).clamp(0, 255).to(torch.uint8) if self.bounded else x

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the gap of energies and its regulariser: the gradient is that of -log p(x) times T."""
        x, labels = batch
        x_, y_ = self.negatives(labels)
        if self.data_noise:
            x = x + self.data_noise * self.randn(*x.shape)
        E = self.energies(torch.cat([x, x_]))
        y = torch.cat([labels, y_]) if self.num_classes else torch.zeros(len(E), dtype=torch.int64, device=E.device)
        up, down = E.gather(1, y[:, None])[:, 0].chunk(2)
        gap = up.mean() - down.mean()
        size = up.square().mean() + down.square().mean()
        return {"loss": gap + self.regulariser * size, "gap": gap, "size": size}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"sampler": tuple(SAMPLERS), "init": ("noise", "buffer")}

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        init: str = "noise",
        step_size: float | None = None,
    ) -> Tensor:
        """Run chains.

        Args:
            steps: of the chain, trajectories of ten leaps for ``hmc``; by default the model's own.
            sampler: ``langevin``, or ``mala`` and ``hmc``, which end in exp(-E / T) exactly; by default the model's.
            init: ``noise``, or ``buffer`` for chains of training, which a published model does not have.
            step_size: alpha, by default that of training; a leap of ``hmc`` is sqrt(2 alpha T).
        """
        sampler, steps = sampler or self.default_sampler, self.steps if steps is None else steps
        check_choice("sampler", sampler, SAMPLERS)
        check_choice("init", init, STARTS)
        alpha = self.step_size if step_size is None else step_size
        if (
            not (alpha > 0 and math.isfinite(alpha))
            or isinstance(steps, bool)
            or not isinstance(steps, int)
            or steps < 1
        ):
            raise ConfigError(f"steps must be a positive integer and step_size positive, got {steps!r} and {alpha!r}")
        rand, randn = self._noise_of(generator)
        x = self._from_buffer(n, rand, labels) if init == "buffer" else self.from_noise(n, rand, randn)
        return chain(sampler, self.potential(labels), x, steps, alpha * self.temperature, randn, rand, self.bounded)

    @torch.no_grad()
    def chains(
        self, n: int, frames: int, *, seed: int | torch.Generator | None = None, labels: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return states of the chains of ``sample``, (F, n, *shape), and after how many steps they are, (F,)."""
        rand, randn = self._noise_of(seeded(seed))
        steps, U = frames_of(self.steps, frames), self.potential(self._labels(n, labels))
        h = self.step_size * self.temperature
        x = self.from_noise(n, rand, randn)
        return chain_states(self.default_sampler, U, x, steps, h, randn, rand, self.bounded), torch.tensor(steps)

    def _noise_of(self, generator: torch.Generator) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        there = (generator, self.device, self.dtype)
        return (lambda *shape: noises.rand(shape, *there)), (lambda *shape: noises.randn(shape, *there))

    def _from_buffer(self, n: int, rand: Callable[..., Tensor], labels: Tensor | None) -> Tensor:
        if self.replay is None or self.replay_labels is None:
            raise ConfigError("a published EBM has no buffer of chains: draw with init='noise', or load a checkpoint")
        if labels is None:
            rows = (rand(n) * len(self.replay)).long().clamp(max=len(self.replay) - 1)
        else:  # among rows of the label; noise has no preference where there is none
            fits = labels[:, None] == self.replay_labels  # (n, buffer)
            rows = (rand(n, len(self.replay)) + fits).argmax(1)
        x = self.replay[rows].to(self.dtype)
        return (x + rand(*x.shape)) / 256 if self.bounded else x

    def calls(self, options: Mapping[str, Any]) -> float:
        """Evaluations of the network, each with its gradient, for one batch."""
        return evaluations(options.get("sampler") or self.default_sampler, options.get("steps") or self.steps)

    @property
    def calls_per_sample(self) -> int:
        return int(self.calls({}))

    # -- an estimate of the likelihood --------------------------------------------------------------------------------

    @property
    def has_likelihood(self) -> bool:
        """Whether -E - log Z is a log-density that annealing estimates: at temperature 1 and without classes.

        At the temperature of cold noise the energies of images are thousands of nats apart, and annealing ends in one
        of their valleys.
        """
        return self.num_classes == 0 and math.isclose(self.temperature, 1.0)

    def log_prob(
        self, x: Tensor, *, labels: Any = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return -E(x) - log Z in nats, (B, *shape) in data range -> (B,), an estimate that is too good on average.

        Of images at a random place of each grey level's interval, and less D log ``levels``.

        Args:
            x: examples.
            labels: none.
            k: chains of `log_normaliser`.
            seed: of them.

        Raises:
            ConfigError: an energy at another temperature, or of labels too.
        """
        if not self.has_likelihood:
            raise ConfigError(
                "log_prob is of an EBM without classes at temperature 1, whose noise is left out; ask for energy(x)"
            )
        generator = seeded(seed)
        log_Z, _ = self.log_normaliser(ANNEALED, k, generator)
        if self.levels is None:
            return -self.energy(x, labels=labels) - log_Z
        y = dequantise(x, noises.rand(x.shape, generator, self.device, self.dtype), self.levels)
        return -self.energy(y, labels=labels) - log_Z - math.prod(self.shape) * math.log(self.levels)

    def likelihood(self, k: int = 1) -> str:
        return f"ais-{k}" if self.levels is None else f"ais-{k}+dequant"

    @torch.no_grad()
    def log_normaliser(
        self, distributions: int = 1000, chains: int = 100, seed: int | torch.Generator | None = None
    ) -> tuple[float, float]:
        """Return log Z of exp(-E(x) / T) by annealed importance sampling, and its standard error.

        It starts from the uniform law, or from the Gaussian of ``spread``. The estimate is below log Z on average, so
        that -E / T - log Z is too good: an estimate (``~``), no bound.
        """
        distributions, chains = count_of(distributions, "distributions"), count_of(chains, "chains")
        rand, randn = self._noise_of(seeded(seed))
        D, x = math.prod(self.shape), self.from_noise(chains, rand, randn)
        base = 0.0 if self.bounded else D * math.log(self.spread * math.sqrt(2 * math.pi))

        def prior(x: Tensor) -> Tensor:
            square = x.flatten(1).square().sum(1)
            return 0 * square if self.bounded else square / (2 * self.spread**2)

        betas = [i / distributions for i in range(distributions + 1)]
        start, end = potential(prior, 1.0, self.bounded), self.potential()
        log_w, _ = annealed_importance(start, end, x, betas, self.noise, randn, rand)  # a leap of h = s^2 / 2
        w = (log_w - log_w.max()).double().exp()
        error = float(w.std() / w.mean() / math.sqrt(chains)) if chains > 1 else math.inf
        return float(log_w.max() + w.mean().log()) + base, error


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _joined(x: Tensor) -> Tensor:
    """Return the rows of all processes that train together, in the order of their ranks: (B, ...) -> (world B, ...)."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def _check(counts: tuple[int, ...], positive: tuple[float, ...], weights: tuple[float, ...], restart: float) -> None:
    if min(counts) < 1:
        raise ConfigError(f"chain_steps, buffer and steps must be at least 1, got {', '.join(map(str, counts))}")
    if min(positive) <= 0:
        raise ConfigError(f"step_size, spread and noise must be positive, got {', '.join(map(str, positive))}")
    if not 0 <= restart <= 1 or min(weights) < 0:
        raise ConfigError(f"restart must lie in [0, 1] and weights must not be negative, got {restart}, {weights}")
