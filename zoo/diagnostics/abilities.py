"""What a model can do, which decides the diagnostics that it gets: dispatch is on abilities, never on names.

A family takes part by having the methods of a protocol here. Where such a method has an argument ``labels``, a
conditional model is told the class of each example.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = [
    "Denoises",
    "Embeds",
    "Encodes",
    "Generates",
    "HasCodes",
    "HasPosterior",
    "HasStyles",
    "Inverts",
    "Travels",
    "decode",
    "in_batches",
    "is_told",
    "latents",
    "reconstruct",
]

_BATCH = 500


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
class Generates(Protocol):
    """Latents to examples: ``decode`` takes z, (B, ``latent_dim``), which is standard normal."""

    latent_dim: int

    def decode(self, z: Tensor, *args: Any, **kwargs: Any) -> Tensor: ...


@runtime_checkable
class HasStyles(Generates, Protocol):
    """A latent as a style for each of ``depth`` layers, which two latents can share."""

    depth: int

    def styles(self, z: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def truncated(self, w: Tensor, psi: float) -> Tensor: ...

    def mixed(self, first: Tensor, second: Tensor, layer: Tensor | int) -> Tensor: ...

    def synthesise(self, w: Tensor, noise: Sequence[Tensor]) -> Tensor: ...

    def fixed_noise(self) -> list[Tensor]: ...


@runtime_checkable
class Denoises(Protocol):
    """Noise to examples, step by step: ``denoising`` gives the states on the way and what is seen in each of them."""

    def denoising(self, n: int, frames: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class Travels(Protocol):
    """Noise to data along curves: ``trajectory`` gives states in data range, (frames, n, *shape), and their times."""

    def trajectory(self, n: int, *, seed: Any = None, labels: Any = None, frames: int = 9) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class Inverts(Encodes, Protocol):
    """``decode`` is the inverse of ``encode``, up to rounding or to the steps of a solver: ``invertible`` is true."""

    invertible: bool


@torch.no_grad()
def in_batches(model: Any, method: Callable[..., Any], x: Tensor, labels: Tensor | None = None) -> Any:
    """Apply a method of the model to x (N, ...), on its device, with labels where it takes them; results on the CPU.

    Returns:
        A tensor (N, ...), or as many tensors as the method gives.
    """
    told = labels is not None and _takes_labels(model, method)
    parts = []
    for start in range(0, len(x), _BATCH):
        part = slice(start, start + _BATCH)
        given = {"labels": labels[part].to(model.device)} if told else {}  # type: ignore[index]
        found = method(x[part].to(model.device), **given)
        parts.append(tuple(t.cpu() for t in found) if isinstance(found, tuple) else (found.cpu(),))
    whole = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return whole if len(whole) > 1 else whole[0]


def is_told(model: Any) -> bool:
    """Tell whether the class goes into the latents and out of them: the model is conditional in what it decodes."""
    return isinstance(model, Encodes) and _takes_labels(model, model.decode)


def _takes_labels(model: Any, method: Callable[..., Any]) -> bool:
    return model.num_classes > 0 and "labels" in inspect.signature(method).parameters


def _embedding(model: Any) -> Embeds | None:
    """Return what turns codes into vectors: the model, or the autoencoder inside a model of its codes."""
    inner = getattr(model, "autoencoder", model)
    return inner if isinstance(inner, Embeds) else None


def latents(model: Any, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the latent of each example, (N, *shape) -> (N, ...): of a posterior the mean, of codes their vectors."""
    embedding = _embedding(model)
    if embedding is not None:
        return in_batches(model, lambda x: embedding.embed(embedding.codes(x)), x)
    z = in_batches(model, model.encode, x, labels)
    return z[0] if isinstance(z, tuple) else z


def decode(model: Any, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the example that each latent stands for, in data range: (N, ...) -> (N, *shape)."""
    embedding = _embedding(model)
    if embedding is not None:
        return in_batches(model, lambda z: embedding.observation(z).mean, z)
    return in_batches(model, model.decode, z, labels)


def reconstruct(model: Any, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return what is left of each example after its latent: (N, *shape) -> (N, *shape), both in data range."""
    return decode(model, latents(model, x, labels), labels)
