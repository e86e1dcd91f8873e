"""Guidance, as a wrapper of any network: away from the average class, or away from a worse network.

    classifier-free:  guided(x, t) = (1 - w) f(x, t, null) + w f(x, t, y)
    autoguidance:     guided(x, t) = (1 - w) g(x, t, y) + w f(x, t, y),   g a weak version of f

w = 0 is the unconditional or weak model, w = 1 the model itself, w > 1 moves away from the average class or from what
the weak model gets wrong. Ho and Salimans write the first with a weight that is ours minus 1. f may be anything that is
affine in the score: noise, data, velocity or the score itself, at one x and t.

References:
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
    T. Karras and others, Guiding a Diffusion Model with a Bad Version of Itself, 2024, arXiv:2406.02507, equation 3.
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


def guide(
    function: LabelledField,
    scale: float,
    labels: Tensor | None,
    null: int | None,
    weak: LabelledField | None = None,
) -> Field:
    """Return x, t -> (1 - w) f(x, t, null) + w f(x, t, labels); a branch of weight 0 is not called.

    Args:
        function: f, called as f(x, t, labels).
        scale: w; 0 and 1 equal the unconditional and the conditional f to the bit.
        labels: y, int64 (B,); None for an f without classes, which takes scale 1 only.
        null: label that stands for no class; None calls f with no labels instead.
        weak: g, which stands in for f with the null label.

    Raises:
        ConfigError: a scale that is not finite, or one other than 1 with neither labels nor a weak function.
    """
    if not math.isfinite(scale):
        raise ConfigError(f"the guidance scale must be finite, got {scale}")
    if scale == 1:
        return lambda x, t: function(x, t, labels)
    if weak is None and labels is None:
        raise ConfigError(
            f"guidance needs a model that is conditional on labels or keeps a weak version of itself, and this one "
            f"does neither; leave the guidance scale at 1 instead of {scale:g}"
        )
    base, base_labels = (weak, labels) if weak is not None else (function, None)
    if weak is None and labels is not None and null is not None:
        base_labels = torch.full_like(labels, null)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        worse = base(x, t, base_labels)
        return worse if scale == 0 else (1 - scale) * worse + scale * function(x, t, labels)

    return guided


def calls_per_step(scale: float) -> int:
    """Return how many evaluations of f one evaluation of the guided function makes: 1 at w = 0 and 1, else 2."""
    return 1 if scale in (0, 1) else 2
