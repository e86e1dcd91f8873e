"""What a model can do, in one room: export, serving, pictures, evaluation and diagnosis ask here, never by name.

A family takes part by having the methods of a protocol, or by inheriting a mixin; an `isinstance` then finds it. Parts
of a model that are networks are asked for by functions. Where a method has an argument ``labels``, a conditional model
is told the condition of each example: its class, or its text. Examples x are (B, *shape) in data range throughout.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from zoo.model import HasLikelihood

__all__ = [
    "Classifies",
    "DecodesNoise",
    "Denoises",
    "DrawsCodes",
    "DrawsValues",
    "Embeds",
    "Encodes",
    "FitsCodes",
    "HasCodes",
    "HasControls",
    "HasCritic",
    "HasEnergy",
    "HasFeatures",
    "HasGenerator",
    "HasLatentPrior",
    "HasLikelihood",
    "HasMapLatents",
    "HasPosterior",
    "HasStraightness",
    "HasStyles",
    "HasVelocity",
    "Interpolates",
    "Inverts",
    "MapsCodes",
    "NoisyView",
    "PredictsData",
    "PredictsPatches",
    "ReadsCodes",
    "Refines",
    "RunsChains",
    "ScoresByCritic",
    "SeesThroughNoise",
    "Settles",
    "StoresExamples",
    "Tokenises",
    "TokenisesText",
    "Translates",
    "Travels",
    "Unmasks",
    "Vocodes",
    "WritesCaptions",
    "WritesSound",
    "WritesText",
    "autoencoder_of",
    "decode",
    "diagnosed_examples",
    "draws_images",
    "end_of_time",
    "has_likelihood",
    "in_batches",
    "is_conditional",
    "latents",
    "map_grid_of",
    "network_of",
    "prior_of",
    "reconstruct",
    "refining",
    "takes_class",
    "takes_labels",
    "takes_option",
    "weak_of",
    "writes_sound",
    "writes_text",
]

_BATCH = 500


# -- what x is worth, and what it looks like --------------------------------------------------------------------------


class HasEnergy:
    """Mixin of a `zoo.model.GenerativeModel` with p(x) proportional to exp(-energy(x) / temperature).

    An energy is no likelihood: the constant log Z is not known. A model that estimates it by annealed importance
    sampling adds `zoo.model.HasLikelihood` and calls that ``ais-K``; such a value is no bound and is not ranked.

    Attributes:
        temperature: T, positive.

    References:
        Y. LeCun and others, A Tutorial on Energy-Based Learning, 2006.
    """

    takes_examples = takes_anything = ("energy", "score")  # checked as `zoo.checking` says, outside of data range too
    temperature: float = 1.0

    def energy(self, x: Tensor, *, labels: Any = None) -> Tensor:
        """Return E(x), or E(x, y), in nats up to one constant: (B, *shape) in data range -> (B,)."""
        raise NotImplementedError

    def score(self, x: Tensor, *, labels: Any = None) -> Tensor:
        """Return the gradient of log p(x), -grad E(x) / T, of the shape of x; it carries no graph.

        The gradient in x is taken whatever the mode around, as in ``draw``, and parameters get none.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_(True)
            x = x.view_as(x)  # torch's FLOP counter cannot follow a leaf
            (slope,) = torch.autograd.grad(self.energy(x, labels=labels).sum(), x)
        return -slope / self.temperature


class HasFeatures:
    """Mixin of a `zoo.model.GenerativeModel` that represents examples by features, whether or not it generates any.

    Attributes:
        feature_dim: D, the size of a feature.
        token_grid: how the tokens of an example lie, (h, w) of an image or (t, h, w) of a video; None where they have
            no place, and for an image whose tokens fill its own aspect ratio.
    """

    takes_examples = ("features",)  # of shapes that `zoo.model.GenerativeModel.fits`
    feature_dim: int
    token_grid: tuple[int, ...] | None = None

    def features(self, x: Tensor, *, pool: str | None = "mean") -> Tensor:
        """Return the features of examples, (B, *shape) -> (B, D); with ``pool=None`` of each token, (B, tokens, D)."""
        raise NotImplementedError


@runtime_checkable
class Classifies(Protocol):
    """Tells classes: ``classify`` gives p(y | x) of examples, (B, *shape) -> (B, num_classes), where it has classes."""

    num_classes: int

    def classify(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class PredictsPatches(Protocol):
    """Features of hidden patches told from those in sight, as a joint-embedding predictive architecture does.

    ``masks`` draws what is hidden, as in training, ``targets`` gives what is to be told of every patch, (B, N, D), and
    ``predict`` what is told of the patches at some places, (B, P, D), from those at others; -1 for no place.
    """

    token_grid: tuple[int, ...] | None

    def masks(self, n: int) -> Any: ...

    def targets(self, x: Tensor) -> Tensor: ...

    def predict(self, x: Tensor, context: Tensor, targets: Tensor) -> Tensor: ...


@runtime_checkable
class WritesText(Protocol):
    """Examples stand for texts: ``text`` turns (B, T) into B strings where the model has an ``alphabet``."""

    alphabet: str | None

    def text(self, x: Tensor) -> list[str]: ...


@runtime_checkable
class WritesCaptions(Protocol):
    """Images and texts of one model, both ways: ``caption`` writes of images (B, *shape), ``joint`` draws n of both.

    ``text_log_prob`` is log p(text), or of a text about an image that is ``given``, in nats, (B,).
    """

    def caption(self, x: Tensor) -> list[str]: ...

    def joint(self, n: int, *, seed: Any = None) -> tuple[list[str], Tensor]: ...

    def text_log_prob(self, texts: Any, *, given: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class WritesSound(Protocol):
    """Examples are recordings: mu-law levels, ``rate`` a second; None where they are not."""

    rate: int | None


@runtime_checkable
class Vocodes(WritesSound, Protocol):
    """Recordings from spectrograms: ``sample`` takes a ``recording`` and draws what has its spectrogram.

    ``spectrogram`` gives what it sees of recordings in data range, (B, T) -> (B, bands, frames).
    """

    def spectrogram(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasControls(Protocol):
    """Further pictures to judge by, such as the reconstructions of an autoencoder whose codes have a prior."""

    def controls(self) -> Mapping[str, Callable[[Tensor, int], Tensor]]:
        """Return name -> (test examples (B, *shape), seed) -> pictures (B, *shape) in data range."""


# -- latents and codes ------------------------------------------------------------------------------------------------


@runtime_checkable
class Encodes(Protocol):
    """Examples to latents and back: ``decode`` takes what ``encode`` gives, or the first of what it gives."""

    def encode(self, x: Tensor, *args: Any, **kwargs: Any) -> Any: ...

    def decode(self, z: Tensor, *args: Any, **kwargs: Any) -> Tensor: ...


@runtime_checkable
class HasPosterior(Encodes, Protocol):
    """A Gaussian posterior: ``posterior(x)`` gives mean and log-variance of q(z | x), (B, latent_dim) each."""

    def posterior(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class HasMapLatents(Protocol):
    """Latents that are a map of numbers: ``latents(x)`` gives (B, C, h, w), (B, *grid), ``images`` takes them back.

    Where the model has codes too, ``grid`` is that of the codes, see `MapsCodes`.
    """

    grid: tuple[int, ...]

    def latents(self, x: Tensor) -> Tensor: ...

    def images(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class HasCodes(Protocol):
    """Discrete latents: ``codes(x)`` gives int64 (B, G, ...), of each of G codebooks, 0 to ``codebook_size`` - 1."""

    codebook_size: int

    def codes(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class Embeds(HasCodes, Protocol):
    """Codes as vectors: ``observation(embed(codes))`` is p(x | codes), with a ``mean``."""

    def embed(self, codes: Tensor) -> Tensor: ...

    def observation(self, z: Tensor) -> Any: ...


@runtime_checkable
class Tokenises(HasCodes, Protocol):
    """An autoencoder with codes, int64 (B, *grid), over which a prior can be fitted."""

    grid: tuple[int, ...]

    def decode(self, codes: Tensor) -> Tensor: ...

    def reconstruct(self, x: Tensor) -> Tensor: ...

    def log_likelihood(self, x: Tensor, codes: Tensor) -> Tensor: ...

    def uniform_codes(self, n: int, generator: torch.Generator) -> Tensor: ...

    def picture(self, codes: Tensor, generator: torch.Generator, observe: str = "mean") -> Tensor: ...


@runtime_checkable
class TokenisesText(Protocol):
    """Texts as rows of fewer tokens out of a ``vocabulary``, each of which stands for a string of its own.

    ``tokenised`` gives the tokens of examples, int64 (B, n) from the left with -1 behind the last, and log p(x given
    the tokens) in nats, (B,), 0 where they tell x exactly; ``spelling`` what each stands for, int64 (vocabulary, J)
    from the left, and how many characters that is, at least 1, int64 (vocabulary,).
    """

    vocabulary: int
    alphabet: str | None
    levels: int | None

    def tokenised(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def spelling(self) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class FitsCodes(Protocol):
    """A class of priors whose arguments follow from the codes of an autoencoder: ``fitted_to_codes``."""

    def fitted_to_codes(self, arguments: Any, autoencoder: Any) -> Any: ...


@runtime_checkable
class ReadsCodes(Protocol):
    """A prior that sees codes through their autoencoder, which ``reads`` makes known to it."""

    def reads(self, autoencoder: Any) -> None: ...


@runtime_checkable
class StoresExamples(Protocol):
    """What a model makes of examples before it learns from them never changes: ``stored`` gives integers (B, ...).

    Its loss takes a batch of these in the place of examples, which are floating-point numbers; ``storable`` tells
    whether they are all that it learns from.
    """

    storable: bool

    def stored(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class DrawsCodes(Tokenises, Protocol):
    """Codes with probabilities q(c | x): ``drawn_codes`` draws some, (B, *grid), and gives log q of them, (B,)."""

    def drawn_codes(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class Refines(HasCodes, Protocol):
    """Codes in stages, the coarse ones first.

    ``code_stages`` says of which stage each code is, int64 (*grid), 0 for the coarsest, all 0 where there are none;
    ``partial`` is the mean of p(x | the codes (B, *grid) of the first ``stages`` stages), (B, *shape) in data range.
    """

    def code_stages(self) -> Tensor: ...

    def partial(self, codes: Tensor, stages: int) -> Tensor: ...


@runtime_checkable
class Unmasks(Protocol):
    """A sampler that fills in what is masked: ``unmasking`` tells what it has after each of its steps.

    A prior gives codes or latents, (n, *shape), and which of them are kept, bool (n, *shape) or (n, 1, h, w); the pair
    of an autoencoder and a prior gives images, (steps, n, *shape) twice: what is kept alone, and all.
    """

    def unmasking(self, n: int, seed: int = 0, labels: Tensor | None = None) -> Any: ...


@runtime_checkable
class MapsCodes(HasCodes, HasMapLatents, Protocol):
    """Codes, (B, *grid), and beside them continuous tokens that the decoder was trained on, a map (B, *map_grid)."""

    map_grid: tuple[int, ...]


@runtime_checkable
class DecodesNoise(Protocol):
    """Latents to examples: ``decode`` takes z, (B, ``latent_dim``), which is standard normal."""

    latent_dim: int

    def decode(self, z: Tensor, *args: Any, **kwargs: Any) -> Tensor: ...


@runtime_checkable
class HasLatentPrior(Protocol):
    """Latents that ``decode`` takes come from a prior of the model's own: ``log_prior``, (B, latent_dim) -> (B,)."""

    latent_dim: int

    def log_prior(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class HasGenerator(DecodesNoise, Protocol):
    """``decode`` is ``to_data(generate(z, labels))``, labels int64 (B,) that nobody checks, as in an exported graph."""

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def to_data(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasStyles(DecodesNoise, Protocol):
    """A latent as a style for each of ``depth`` layers, which two latents can share; ``to_data`` of what is synthesised
    are examples."""

    depth: int

    def styles(self, z: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def truncated(self, w: Tensor, psi: float) -> Tensor: ...

    def mixed(self, first: Tensor, second: Tensor, layer: Tensor | int) -> Tensor: ...

    def synthesise(self, w: Tensor, noise: Sequence[Tensor]) -> Tensor: ...

    def to_data(self, x: Tensor) -> Tensor: ...

    def fixed_noise(self) -> list[Tensor]: ...


@runtime_checkable
class Translates(DecodesNoise, Protocol):
    """Pictures that can be moved before they are drawn: ``to_data(translated(z, right, down))`` are examples."""

    def translated(self, z: Tensor, right: float, down: float, labels: Tensor | None = None) -> Tensor: ...

    def to_data(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasCritic(Protocol):
    """A game of two: ``critic_loss`` is the critic's side, so that no loss says whether the samples are any good."""

    def critic_loss(self, batch: Any, *args: Any, **kwargs: Any) -> Mapping[str, Tensor]: ...


@runtime_checkable
class ScoresByCritic(HasCritic, Protocol):
    """The critic is a network of examples as ``given`` brings them into its range: of a batch, x and labels."""

    critic: nn.Module

    def given(self, batch: Any) -> tuple[Tensor, Tensor | None]: ...


@runtime_checkable
class Inverts(Encodes, Protocol):
    """``decode`` is the inverse of ``encode``, up to rounding or to the steps of a solver: ``invertible`` is true."""

    invertible: bool


@runtime_checkable
class Interpolates(Protocol):
    """A line of the model's own between latents a and b, (B, ...) each: ``between(a, b, share)``, share in [0, 1]."""

    def between(self, a: Tensor, b: Tensor, share: Tensor) -> Tensor: ...


# -- ways of sampling -------------------------------------------------------------------------------------------------


@runtime_checkable
class Denoises(Protocol):
    """Noise to examples, step by step: ``denoising`` gives the states on the way and what is seen in each of them."""

    def denoising(self, n: int, frames: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class PredictsData(Protocol):
    """One step of a denoiser: ``output`` of the network at log-SNR (B,), and ``data_of`` it, (B, *shape) each."""

    def output(self, x: Tensor, log_snr: Tensor, *args: Any) -> Tensor: ...

    def data_of(self, value: Tensor, x: Tensor, log_snr: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class NoisyView:
    """Data seen through noise, x_t = alpha x_0 + sigma eps with alpha^2 + sigma^2 = 1, as a model that denoises has it.

    Attributes:
        denoise: (x_t, lambda) -> E[x_0 | x_t], (B, *shape) and () -> (B, *shape), not cut to any range, with a graph.
        ends: the least and the largest lambda = log(alpha^2 / sigma^2) that the model knows.
        into: from data range to where the model has its data: affine.
        back: the way back, cut to the data range.
    """

    denoise: Callable[[Tensor, Tensor], Tensor]
    ends: tuple[float, float]
    into: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


@runtime_checkable
class SeesThroughNoise(Protocol):
    """A denoiser of examples themselves, not of latents: ``noisy_view`` of int64 labels (B,), guided by so much."""

    def noisy_view(self, labels: Tensor | None, guidance_scale: float | None = None) -> NoisyView: ...


@runtime_checkable
class HasVelocity(Protocol):
    """Noise to data by an ODE of so many ``steps``: ``velocity`` of x (B, *shape) at times t (B,) is (B, *shape)."""

    steps: int

    def velocity(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor: ...


@runtime_checkable
class Travels(Protocol):
    """Noise to data along curves: ``trajectory`` gives states in data range, (frames, n, *shape), and their times."""

    def trajectory(self, n: int, *, seed: Any = None, labels: Any = None, frames: int = 9) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class RunsChains(Protocol):
    """Samples are the ends of chains: ``chains`` gives states in data range, (F, n, *shape), and their steps, (F,).

    The first is the start, the last what ``sample`` of the same seed gives.
    """

    def chains(self, n: int, frames: int, *, seed: Any = None, labels: Any = None) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class HasStraightness(Protocol):
    """How far its curves are from straight lines: ``straightness(n)``, per dimension, 0 for lines."""

    def straightness(self, n: int, *, seed: Any = None) -> float: ...


@runtime_checkable
class DrawsValues(Protocol):
    """Value by value: called on values as it takes them it gives all logits, (B, ..., L).

    ``start`` gives the state of cached evaluation; ``from_sequence`` makes examples of sequences (B, T) in the order of
    drawing, and ``arranged`` what the model takes of the levels of examples, int64 (B, *shape).
    """

    def start(self, n: int, labels: Tensor | None = None) -> Any: ...

    def from_sequence(self, x: Tensor) -> Tensor: ...

    def arranged(self, k: Tensor) -> Tensor: ...


@runtime_checkable
class Settles(Protocol):
    """A network that computes something from its weights alone: ``settle`` puts the outcome in its place."""

    def settle(self) -> None: ...


# -- questions --------------------------------------------------------------------------------------------------------


def is_conditional(model: Any) -> bool:
    """Tell whether the model is told something of each example: a class or a text."""
    return model.num_classes > 0 or bool(model.context)


def has_likelihood(model: Any) -> bool:
    """Tell whether the model, as it was built, gives log-likelihoods."""
    return isinstance(model, HasLikelihood) and model.has_likelihood


def writes_text(model: Any) -> bool:
    """Tell whether the model's examples are texts; an ``alphabet`` alone may be that of what the model is told."""
    return isinstance(model, WritesText) and model.alphabet is not None


def writes_sound(model: Any) -> bool:
    """Tell whether the model's examples are recordings."""
    return isinstance(model, WritesSound) and model.rate is not None


def takes_option(model: Any, name: str) -> bool:
    """Tell whether ``sample`` takes an option of this name, such as ``given`` for completing or ``truncation``."""
    return name in model.sampling_options()


def draws_images(model: Any) -> bool:
    """Tell whether the model generates examples of shape (C, H, W)."""
    return model.generates and len(model.shape) == 3


def takes_labels(model: Any, method: Callable[..., Any]) -> bool:
    """Tell whether a method of the model is told the condition of each example."""
    return is_conditional(model) and "labels" in inspect.signature(method).parameters


def takes_class(model: Any) -> bool:
    """Tell whether the condition goes into the latents and out of them: the model is conditional in what it decodes."""
    return isinstance(model, Encodes) and takes_labels(model, model.decode)


def diagnosed_examples(model: Any) -> int | None:
    """Return how many examples a diagnosis encodes at most, where each costs many evaluations; None for any number."""
    return getattr(model, "diagnosed_examples", None)


def end_of_time(model: HasVelocity) -> float:
    """Return the time at which a flow has reached the data, 1 but where its path has no bounded velocity there."""
    return float(getattr(model, "end", 1.0))


# -- models inside a model --------------------------------------------------------------------------------------------


def autoencoder_of(model: Any) -> Any | None:
    """Return the frozen autoencoder whose codes or latents the model works on, if there is one."""
    return getattr(model, "autoencoder", None)


def prior_of(model: Any) -> Any | None:
    """Return the model of the codes or latents of `autoencoder_of`, if there is one."""
    return getattr(model, "prior", None) if autoencoder_of(model) is not None else None


def network_of(model: Any) -> nn.Module | None:
    """Return the network of a model that has a single one, of noise, of a velocity or of an energy, if it has."""
    return getattr(model, "network", None)


def map_grid_of(model: HasMapLatents) -> tuple[int, ...]:
    """Return the shape of the map of latents of one example."""
    return tuple(model.map_grid if isinstance(model, MapsCodes) else model.grid)


def refining(model: Any) -> Refines | None:
    """Return what has codes in several stages, the model or the autoencoder inside it, if there is one."""
    inside = autoencoder_of(model)
    found = next((m for m in (model, inside) if isinstance(m, Refines)), None)
    return found if found is not None and bool(found.code_stages().any()) else None


def weak_of(model: Any) -> nn.Module | None:
    """Return the worse network that guidance leads away from, if there is one."""
    return getattr(model, "weak", None)


# -- methods over many examples ---------------------------------------------------------------------------------------


@torch.no_grad()
def in_batches(model: Any, method: Callable[..., Any], x: Tensor, labels: Tensor | None = None) -> Any:
    """Apply a method of the model to x (N, ...), on its device, with labels where it takes them; results on the CPU.

    Returns:
        A tensor (N, ...), or as many tensors as the method gives.
    """
    conditional = labels is not None and takes_labels(model, method)
    parts = []
    for start in range(0, len(x), _BATCH):
        part = slice(start, start + _BATCH)
        given = {"labels": labels[part].to(model.device)} if conditional else {}  # type: ignore[index]
        found = method(x[part].to(model.device), **given)
        parts.append(tuple(t.cpu() for t in found) if isinstance(found, tuple) else (found.cpu(),))
    whole = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return whole if len(whole) > 1 else whole[0]


def _embedding(model: Any) -> Embeds | None:
    """Return what turns codes into vectors: the model, or the autoencoder inside a prior of its codes."""
    inner = model if prior_of(model) is None else autoencoder_of(model)
    return inner if isinstance(inner, Embeds) else None


def latents(model: Any, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the latent of each example, (N, *shape) -> (N, ...): of a posterior the mean, of codes their vectors."""
    embedding, z = _embedding(model), None
    if isinstance(model, MapsCodes):
        z = in_batches(model, model.latents, x)
    elif embedding is not None:
        z = in_batches(model, lambda x: embedding.embed(embedding.codes(x)), x)
    else:
        z = in_batches(model, model.encode, x, labels)
    first: Tensor = z[0] if isinstance(z, tuple) else z
    return first


def decode(model: Any, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the example that each latent stands for, in data range: (N, ...) -> (N, *shape)."""
    embedding = _embedding(model)
    if isinstance(model, MapsCodes):
        x: Tensor = in_batches(model, model.images, z)
    elif embedding is not None:
        x = in_batches(model, lambda z: embedding.observation(z).mean, z)
    else:
        x = in_batches(model, model.decode, z, labels)
    return x


def reconstruct(model: Any, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return what is left of each example after its latent: (N, *shape) -> (N, *shape), both in data range."""
    return decode(model, latents(model, x, labels), labels)
