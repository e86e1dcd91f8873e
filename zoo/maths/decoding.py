"""Decoding: from logits to the next value.

One uniform number per drawn value is the only noise, so that two samplers that see the same logits and the same noise
draw the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["Decoding", "inverse_cdf", "temper"]


def temper(logits: Tensor, temperature: float) -> Tensor:
    """Return logits of the distribution p^(1 / T) / Z: (..., L) -> (..., L), for T > 0.

    The largest logit is moved to 0 first, so that T -> 0 tends to the greedy choice and never to NaN.
    """
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def inverse_cdf(logits: Tensor, u: Tensor) -> Tensor:
    """Return the smallest k with F(k) > u, F being the distribution function of softmax(logits).

    Args:
        logits: (..., L).
        u: uniform numbers in [0, 1), shape (...).

    Returns:
        int64 (...), in 0..L-1, never a value of probability 0: u F(L-1) stays below F(L-1) after rounding.
    """
    cdf = logits.softmax(-1).cumsum(-1)
    return torch.searchsorted(cdf, u[..., None] * cdf[..., -1:], right=True).squeeze(-1)


@dataclass(frozen=True)
class Decoding:
    """How the next value is chosen; called with logits (..., L) and uniform noise (...), it returns int64 (...).

    Args:
        temperature: T > 0; below 1 sharpens, above 1 flattens.
        greedy: take the most probable value (the first of equals) and leave the noise unused.

    Raises:
        ConfigError: a temperature that is not a positive number.
    """

    temperature: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(
                f"temperature must be a positive number, got {self.temperature!r}; use greedy=True for the limit 0"
            )

    def __call__(self, logits: Tensor, u: Tensor) -> Tensor:
        if self.greedy:
            return logits.argmax(-1)
        return inverse_cdf(logits if self.temperature == 1 else temper(logits, self.temperature), u)
