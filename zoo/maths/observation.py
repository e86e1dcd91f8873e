"""What a decoder says about an example: p(x | z), number by number, from the outputs of a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError, check_choice
from zoo.maths.distributions import Bernoulli, Categorical, DiscretizedLogistic, Gaussian, Laplace

__all__ = ["LIKELIHOODS", "SCALES", "Observation", "check_observation", "drawn", "first_raw_scale", "observation"]

LIKELIHOODS = {
    "bernoulli": 2,
    "discretized_logistic": 256,
    "categorical": 256,
    "gaussian": None,
    "laplace": None,
    "cross_entropy": None,
}
"""Likelihoods -> levels of the data that they are meant for (None: continuous, or any)."""

SCALES = ("predicted", "pixel", "shared")
"""Where the scale of a logistic, Gaussian or Laplacian comes from: the network, or a parameter for each number, or for
all."""

Observation = Bernoulli | Categorical | DiscretizedLogistic | Gaussian | Laplace


def observation(
    likelihood: str,
    out: Tensor,
    shape: Sequence[int],
    levels: int | None,
    raw_scale: Tensor | None = None,
    min_log_scale: float = -5.0,
) -> Observation:
    """Return the distribution of examples (B, *shape).

    Args:
        likelihood: one of `LIKELIHOODS`; ``cross_entropy`` has the Bernoulli's formula.
        out: of the network, (B, ...): logits or locations in the order of the example's numbers; after all locations
            the scales, where they are predicted; for a categorical, ``levels`` logits for each number, side by side.
        shape: of an example.
        levels: of the data.
        raw_scale: the scale's parameter, before the softplus, which broadcasts to ``shape``; none for a predicted one.
        min_log_scale: the log of a scale stays above this.
    """
    if likelihood in ("bernoulli", "cross_entropy"):
        return Bernoulli(out.reshape(-1, *shape))
    if likelihood == "categorical":
        return Categorical(out.reshape(-1, *shape, levels))
    if raw_scale is None:
        location, raw_scale = out.reshape(-1, 2, *shape).unbind(1)  # (B, *shape) each
    else:
        location = out.reshape(-1, *shape)
    log_scale = min_log_scale + F.softplus(raw_scale - min_log_scale)
    if likelihood == "gaussian":
        return Gaussian(location, log_scale)
    if likelihood == "laplace":
        return Laplace(location, log_scale)
    return DiscretizedLogistic(location, log_scale, levels or 256)


def first_raw_scale(likelihood: str, scale: str, shape: Sequence[int]) -> Tensor | None:
    """Return what a learnt scale starts from, before the softplus; none where there is none, or it is predicted."""
    if likelihood not in ("discretized_logistic", "gaussian", "laplace") or scale == "predicted":
        return None
    return torch.full(tuple(shape) if scale == "pixel" else (1,) * len(shape), -1.0)


def drawn(p: Observation, observe: str, generator: torch.Generator) -> Tensor:
    """Return the ``mean`` of p(x | z), or a ``sample``, number by number. Raises `ConfigError`."""
    if observe not in ("mean", "sample"):
        raise ConfigError(f"observe must be 'mean' or 'sample', got {observe!r}")
    return p.mean if observe == "mean" else p.sample(generator)


def check_observation(
    likelihood: str, levels: int | None, scale: str, likelihoods: Iterable[str] = tuple(LIKELIHOODS)
) -> None:
    """Raise `ConfigError` for a likelihood or scale that is none of those known, or levels that do not fit."""
    check_choice("likelihood", likelihood, likelihoods)
    check_choice("scale", scale, SCALES)
    if levels is not None and (levels < 2 or (likelihood == "bernoulli" and levels != 2)):
        raise ConfigError(f"a {likelihood} likelihood does not describe data with {levels} levels")
