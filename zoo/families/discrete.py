"""What all autoencoders with discrete codes share: a likelihood, and the training step that also teaches the codes.

With codes c(x), the nearest ones to what the encoder says, and any distribution p(c) of codes,

    log p(x) = log sum_c p(c) p(x | c)  >=  log p(x | c(x)) + log p(c(x)).

Alone, an autoencoder takes p(c) as uniform, as it does while it is trained: its samples decode codes that have nothing
to do with each other. A prior that was fitted to the codes takes the place of that: `zoo.families.code_prior`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, check_choice
from zoo.fitting import grows, halvings
from zoo.maths.distributions import DiscretizedLogistic
from zoo.maths.noise import randint
from zoo.maths.observation import LIKELIHOODS, Observation, check_observation, drawn, first_raw_scale, observation
from zoo.maths.quantisers import perplexity
from zoo.model import Batch, LikelihoodModel
from zoo.nets.quantisers import Quantised
from zoo.sampling import Labels
from zoo.signature import default_of
from zoo.spec import class_of

__all__ = ["DiscreteAutoencoder"]

RECONSTRUCTIONS = ("likelihood", "mse", "l1")

LARGE_LR = 2e-4
"""Most that an autoencoder of larger pictures than the entry's learns with, as in van den Oord's section 4."""

LARGEST_GRID = 16
"""Longest side of the grid of codes at which an encoder for larger pictures stops halving them."""


class DiscreteAutoencoder(LikelihoodModel):
    """Base of the autoencoders with discrete codes; a family defines `quantise`, `embed` and `output`.

    Args:
        shape: of an example.
        grid: shape of the codes of an example, (G, h, w).
        codebook_size: values of a code.
        likelihood: of a dimension of x: ``bernoulli`` (data 0 or 1) or ``discretized_logistic`` (8-bit data).
        scale: of the logistic: ``predicted`` by the decoder, or learned for each ``pixel``, or one ``shared``.
        min_log_scale: the log of a scale, in units of x, stays above this.
        reconstruction: what trains the decoder: the ``likelihood``, or ``mse`` or ``l1``, squared or absolute errors of
            the locations summed over an example; the scale is then fitted by the likelihood of locations held fixed.
        commitment: weight of the commitment loss.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: unknown or contradictory options.
    """

    family = "vae"

    def __init__(
        self,
        shape: Sequence[int],
        grid: Sequence[int],
        codebook_size: int,
        likelihood: str = "discretized_logistic",
        scale: str = "predicted",
        min_log_scale: float = -5.0,
        reconstruction: str = "likelihood",
        commitment: float = 0.25,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        check_observation(likelihood, None, scale, ("bernoulli", "discretized_logistic"))
        check_choice("reconstruction", reconstruction, RECONSTRUCTIONS)
        raw_scale = first_raw_scale(likelihood, scale, shape)
        if reconstruction != "likelihood" and raw_scale is None:
            raise ConfigError(
                f"reconstruction {reconstruction!r} trains locations only, so it needs a discretized_logistic "
                f"likelihood whose scale is 'shared' or 'pixel', got {likelihood} and {scale!r}"
            )
        self.shape, self.grid, self.codebook_size = tuple(shape), tuple(grid), codebook_size
        self.observed, self.levels = likelihood, LIKELIHOODS[likelihood]
        self.scale, self.min_log_scale = scale, min_log_scale
        self.reconstruction, self.commitment = reconstruction, commitment
        self.lr, self.betas = lr, (float(betas[0]), float(betas[1]))
        self.raw_scale = None if raw_scale is None else nn.Parameter(raw_scale)

    # -- what follows from the data -----------------------------------------------------------------------------------

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with another shape; see `zoo.fitting`.

        The grid follows from the picture, as many pixels a code as before, more where it would exceed the largest grid.
        Pictures that are larger or have more colours than the entry's get larger codebooks, and larger networks learn
        more slowly.
        """
        if "shape" not in arguments:  # that of a part, which was fitted before
            return dict(arguments)
        (colours, *sides), (old_colours, *old_sides) = arguments["shape"], before["shape"]
        fitted = dict(arguments)
        if sides != old_sides and "grid" in before and arguments["grid"] == before["grid"]:
            n = halvings(sides, cls._largest_grid(), least=round(math.log2(old_sides[0] / before["grid"][0])))
            fitted["grid"] = [s >> n for s in sides]
        if grows(arguments, before):
            fitted["lr"] = min(arguments.get("lr", default_of(cls, "lr")), LARGE_LR)
        if colours > old_colours or grows(arguments, before):
            for name in cls.quantiser_arguments:
                if arguments[name] == before[name] and (kind := _quantiser(arguments[name])) is not None:
                    fitted[name] = {**arguments[name], "init_args": kind.grown(arguments[name]["init_args"])}
        return fitted

    quantiser_arguments: ClassVar[tuple[str, ...]] = ("quantiser",)
    """Arguments that are quantisers."""

    @classmethod
    def _largest_grid(cls) -> int:
        return LARGEST_GRID

    @classmethod
    def _channels(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Return the channels D of each quantiser, None where one is of a class that does not say."""
        if "shape" not in arguments:
            return None
        specs = [arguments[name] for name in cls.quantiser_arguments]
        kinds = [_quantiser(spec) for spec in specs]
        if None in kinds:
            return None
        return tuple(k.channels(s["init_args"]) for k, s in zip(kinds, specs, strict=True))  # type: ignore[union-attr]

    @classmethod
    def _observed(cls, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of what the decoder gives: one or two numbers for each of the example's."""
        channels, *sides = arguments["shape"]
        likelihood, scale = (arguments.get(k, default_of(cls, k)) for k in ("likelihood", "scale"))
        return (channels * (2 if likelihood != "bernoulli" and scale == "predicted" else 1), *sides)

    # -- what a family defines ----------------------------------------------------------------------------------------

    def quantise(self, x: Tensor) -> tuple[Tensor, dict[str, Quantised]]:
        """Return what the decoder sees and what each quantiser, by its name, made: (B, *shape) in data range."""
        raise NotImplementedError

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of examples: (B, *shape) in data range -> int64 (B, *grid), 0..codebook_size-1."""
        raise NotImplementedError

    def embed(self, codes: Tensor) -> Tensor:
        """Return what the decoder sees of codes: int64 (B, *grid) -> (B, ...)."""
        raise NotImplementedError

    def output(self, z: Tensor) -> Tensor:
        """Return the decoder's numbers, one or two (locations, then scales) for each of the example's."""
        raise NotImplementedError

    # -- data, codes, and back ----------------------------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the codes of one example, as ``decode`` takes them."""
        return tuple(self.grid)

    @property
    def latent_values(self) -> int:
        """How many values a code has."""
        return self.codebook_size

    def encode(self, x: Tensor) -> Tensor:
        """Return `codes`."""
        return self.codes(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the mean of p(x | codes): int64 (B, *grid) -> (B, *shape) in data range."""
        return self.observation(self.embed(codes)).mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x | codes(x)): (B, *shape) -> (B, *shape), both in data range."""
        return self.decode(self.codes(x))

    def code_stages(self) -> Tensor:
        """Return of which stage each code is, int64 (*grid), 0 for the coarsest; all 0 where there is no order."""
        return torch.zeros(self.grid, dtype=torch.int64)

    def partial(self, codes: Tensor, stages: int) -> Tensor:
        """Return the mean of p(x | the codes of the first stages): int64 (B, *grid) -> (B, *shape) in data range."""
        return self.observation(self.embed(codes)).mean

    def observation(self, z: Tensor) -> Observation:
        """Return p(x | z), element by element, of what the decoder sees: a distribution over (B, *shape)."""
        return observation(self.observed, self.output(z), self.shape, self.levels, self.raw_scale, self.min_log_scale)

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms, ``perplexity`` of the codes in the batch, and ``elbo`` under uniform codes.

        There is no ``elbo`` where the decoder saw something else than codes.
        """
        return self.objective(batch[0])[0]

    def objective(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Quantised], Observation]:
        """Return the terms of the loss, what the quantisers made, and p(x | codes)."""
        z, made = self.quantise(x)
        p = self.observation(z)
        nll = -p.log_prob(x).flatten(1).sum(1).mean()
        terms = {"reconstruction": nll}
        loss = nll
        if self.reconstruction != "likelihood":
            error = x - p.location
            error = error.square() if self.reconstruction == "mse" else error.abs()
            terms["reconstruction"] = error.flatten(1).sum(1).mean()
            held = DiscretizedLogistic(p.location.detach(), p.log_scale, self.levels)
            loss = terms["reconstruction"] - held.log_prob(x).flatten(1).sum(1).mean()
        for name, weight in self.weights().items():
            found = [q.losses[name] for q in made.values() if name in q.losses]
            if found:
                terms[name] = torch.stack(found).sum()
                loss = loss + weight * terms[name]
        for name, q in made.items():
            terms["perplexity" + name] = self.perplexity(q)
        nats = self.code_nats(made)
        bound = {} if nats is None else {"elbo": -nll - nats}
        return {"loss": loss, **terms, **bound}, made, p

    def perplexity(self, made: Quantised) -> Tensor:
        """Return how many codes of a codebook would be in use in the batch, were they used evenly, (): a mean."""
        return torch.stack([perplexity(c, self.codebook_size) for c in made.codes.unbind(1)]).mean()

    def weights(self) -> dict[str, float]:
        """Return the weights of the quantisers' losses, by their names."""
        return {"codebook": 1.0, "commitment": self.commitment, "entropy": 1.0}

    def code_nats(self, made: dict[str, Quantised]) -> float | Tensor | None:
        """Return what the codes of an example cost in the ``elbo``, in nats; None where what the decoder sees has none.

        Codes that are a function of x cost -log p(codes), p uniform.
        """
        return math.prod(self.grid) * math.log(self.codebook_size)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms, made, _ = self.objective(batch[0])
        self.learn(made)
        self.terms = {k: v.detach() for k, v in terms.items()}
        return terms["loss"]

    def learn(self, made: dict[str, Quantised]) -> None:
        """Teach the quantisers what needs no gradient; nothing but a training step calls this."""
        for name, q in made.items():
            self.quantisers()[name].learn(q, self.rand)

    def quantisers(self) -> dict[str, nn.Module]:
        """Return the quantisers by the names that `quantise` uses."""
        return {"": self.quantiser}

    # -- the likelihood -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, *, labels: Labels = None, k: int = 1, seed: int | torch.Generator | None = None
    ) -> Tensor:
        """Return log p(x | codes(x)) + log p(codes(x)), p(codes) uniform, in nats: (B, *shape) in data range -> (B,).

        ``k`` and ``seed`` have no effect: the codes are a function of x.
        """
        self.given_labels(len(x), labels)
        codes = self.codes(x)
        return self.log_likelihood(x, codes) - codes[0].numel() * math.log(self.codebook_size)

    def log_likelihood(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return log p(x | codes) in nats: (B, *shape) in data range, int64 (B, *grid) -> (B,)."""
        return self.observation(self.embed(codes)).log_prob(x).flatten(1).sum(1)

    def likelihood(self, k: int = 1) -> str:
        return "elbo"

    # -- sampling -----------------------------------------------------------------------------------------------------

    def option_words(self) -> dict[str, tuple[str, ...]]:
        return {"observe": ("mean", "sample")}

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, *, observe: str = "mean") -> Tensor:
        """Decode codes that are drawn uniformly, each by itself, for want of a prior.

        Args:
            observe: ``mean`` of p(x | codes), or ``sample`` for a draw from it, pixel by pixel.
        """
        return self.picture(self.uniform_codes(n, generator), generator, observe)

    def granule(self, options: Mapping[str, Any]) -> int:
        return 16

    def controls(self) -> dict[str, Callable[[Tensor, int], Tensor]]:
        """Return what evaluation measures beside samples: reconstructions of the test examples."""
        return {"reconstructions": lambda x, seed: self.reconstruct(x)}

    def uniform_codes(self, n: int, generator: torch.Generator) -> Tensor:
        """Return int64 (n, *grid), each value drawn uniformly by itself."""
        return randint(self.codebook_size, (n, *self.grid), generator, self.device)

    def picture(self, codes: Tensor, generator: torch.Generator, observe: str = "mean") -> Tensor:
        """Return mean or draw of p(x | codes) in data range. Raises `ConfigError`."""
        return drawn(self.observation(self.embed(codes)), observe, generator)


@runtime_checkable
class Grows(Protocol):
    """A class of quantisers that says how its arguments grow with pictures, and how many channels it takes."""

    def grown(self, arguments: Any) -> Any: ...

    def channels(self, arguments: Any) -> Any: ...


def _quantiser(spec: Mapping[str, Any]) -> Any:
    """Return the class of a quantiser that says how it grows and how many channels it has, None for any other."""
    try:
        kind = class_of(spec["class_path"])
    except ConfigError:  # a class of the user's own
        return None
    return kind if isinstance(kind, Grows) else None
