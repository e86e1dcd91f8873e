"""Classifier-free guidance, as a wrapper of any network that is told the class.

    guided(x, t) = (1 - w) f(x, t, null) + w f(x, t, y)

w = 0 is the unconditional model, w = 1 the conditional one, w > 1 moves away from the average class. The paper writes
the same family with a weight that is ours minus 1. f may be anything that is affine in the score: noise, data, velocity
or the score itself, at one x and t.

References:
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["Field", "LabelledField", "calls_per_step", "guide"]

Field = Callable[[Tensor, Tensor], Tensor]
LabelledField = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def guide(function: LabelledField, scale: float, labels: Tensor | None, null: int | None) -> Field:
    """Return x, t -> (1 - w) f(x, t, null) + w f(x, t, labels); a branch of weight 0 is not called.

    Args:
        function: f, called as f(x, t, labels).
        scale: w; 0 and 1 equal the unconditional and the conditional f to the bit.
        labels: y, int64 (B,); None for an f without classes, which takes scale 1 only.
        null: label that stands for no class; None calls f with no labels instead.

    Raises:
        ConfigError: a scale that is not finite, or one other than 1 without labels.
    """
    if not math.isfinite(scale):
        raise ConfigError(f"the guidance scale must be finite, got {scale}")
    if labels is None:
        if scale != 1:
            raise ConfigError(
                f"guidance needs a model that is conditional on labels, and this one is not; leave the guidance scale "
                f"at 1 instead of {scale:g}"
            )
        return lambda x, t: function(x, t, None)
    nothing = None if null is None else torch.full_like(labels, null)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        if scale == 1:
            return function(x, t, labels)
        unconditional = function(x, t, nothing)
        if scale == 0:
            return unconditional
        return (1 - scale) * unconditional + scale * function(x, t, labels)

    return guided


def calls_per_step(scale: float) -> int:
    """Return how many evaluations of f one evaluation of the guided function makes: 1 at w = 0 and 1, else 2."""
    return 1 if scale in (0, 1) else 2
