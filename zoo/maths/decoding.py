"""Decoding: from logits to the next value, or to the most probable sequence.

One uniform number per drawn value is the only noise, so that two samplers that see the same logits and the same noise
draw the same integers.

References:
    A. Holtzman and others, The Curious Case of Neural Text Degeneration, 2020, arXiv:1904.09751 (top-p).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = [
    "BeamState",
    "Decoding",
    "ValueState",
    "beam_search",
    "decode",
    "inverse_cdf",
    "known_beginning",
    "temper",
    "top_k",
    "top_p",
]


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


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits, exactly k of them where some are equal: (..., L) -> (..., L), the others -inf."""
    if k >= logits.shape[-1]:
        return logits
    values, index = logits.topk(k, -1)
    return torch.full_like(logits, -torch.inf).scatter(-1, index, values)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most probable values whose probabilities sum to at least p, never an empty one.

    Args:
        logits: (..., L).
        p: in (0, 1]; 1 keeps everything.

    Returns:
        (..., L), -inf outside the set.
    """
    if p >= 1:
        return logits
    values, index = logits.sort(stable=True, dim=-1, descending=True)
    q = values.softmax(-1)
    before = q.cumsum(-1) - q  # probability of all that are more probable
    kept = before < p
    kept[..., 0] = True
    return torch.full_like(logits, -torch.inf).scatter(-1, index, values.masked_fill(~kept, -torch.inf))


@dataclass(frozen=True)
class Decoding:
    """How the next value is chosen; called with logits (..., L) and uniform noise (...), it returns int64 (...).

    Args:
        temperature: T > 0; below 1 sharpens, above 1 flattens.
        greedy: take the most probable value (the first of equals) and leave the noise unused.
        top_k: draw among the k most probable values only.
        top_p: draw among the most probable values whose probabilities, after temperature and top_k, sum to at least p.

    Raises:
        ConfigError: a temperature that is not a positive number, a top_k below 1, or a top_p outside (0, 1].
    """

    temperature: float = 1.0
    greedy: bool = False
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(
                f"temperature must be a positive number, got {self.temperature!r}; use greedy=True for the limit 0"
            )
        if self.top_k is not None and (isinstance(self.top_k, bool) or self.top_k != int(self.top_k) or self.top_k < 1):
            raise ConfigError(f"top_k must be a positive integer, got {self.top_k!r}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie in (0, 1], got {self.top_p!r}")

    def __call__(self, logits: Tensor, u: Tensor) -> Tensor:
        if self.greedy:
            return logits.argmax(-1)
        return inverse_cdf(self.restrict(logits), u)

    def restrict(self, logits: Tensor) -> Tensor:
        """Return the logits of the distribution that values are drawn from: (..., L) -> (..., L)."""
        if self.temperature != 1:
            logits = temper(logits, self.temperature)
        if self.top_k is not None:
            logits = top_k(logits, self.top_k)
        return logits if self.top_p is None else top_p(logits, self.top_p)


class ValueState(Protocol):
    """Where a network stands within the examples that are being drawn value by value, one a row."""

    def logits(self) -> Tensor:
        """Return the logits (n, L) of the next value; a buffer that the next call may reuse."""

    def put(self, values: Tensor) -> None:
        """Tell the next values: int64 (n,), or (n, m) for several at once."""


class BeamState(ValueState, Protocol):
    """One whose rows can be chosen anew."""

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, int64 (n',), which may repeat or leave out some."""


def decode(
    state: ValueState,
    choose: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    given: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Draw examples value by value; a beginning that is known in all of them is put at once.

    Args:
        state: before the first value.
        choose: (logits (n, L), u (n,)) -> values int64 (n,), such as a `Decoding`.
        noise: uniform numbers in [0, 1), (T, n); known values leave theirs unused, so that the noise of a value does
            not depend on what is given.
        given: int64 (n, T), the values that are known.
        known: bool (n, T), which ones are taken from ``given``.

    Returns:
        int64 (n, T).
    """
    T, n = noise.shape
    k = torch.empty(T, n, dtype=torch.int64, device=noise.device)
    u, out, masks = noise.unbind(), k.unbind(), []
    all_known, some_known, first = [False] * T, [False] * T, 0
    if given is not None and known is not None:
        k.copy_(given.T)
        all_known, some_known, masks = known.all(0).tolist(), known.any(0).tolist(), known.T.unbind()
        first = known_beginning(known)
    if first:
        state.put(k[:first].T)
    for t in range(first, T):
        if not all_known[t]:
            chosen = choose(state.logits(), u[t])
            out[t].copy_(torch.where(masks[t], out[t], chosen) if some_known[t] else chosen)
        state.put(out[t])
    return k.T


def known_beginning(known: Tensor) -> int:
    """Return how many first values are known in all examples: bool (n, T) -> 0..T."""
    return int(known.all(0).long().cumprod(0).sum())


def beam_search(state: BeamState, length: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the most probable continuations that a beam finds, the best first.

    At every step each kept sequence is extended by every value, and the ``width`` most probable of all extensions are
    kept. With ``width >= L**(length - 1)`` nothing is ever dropped that matters, and the first one is the maximum.

    Args:
        state: of a single row, before the first value.
        length: values a sequence, at least 1.
        width: sequences kept, at least 1.

    Returns:
        values int64 (b, length) and their log-probabilities (b,), b = min(width, L**length).

    Raises:
        ConfigError: a length or width below 1.
    """
    if length < 1 or width < 1:
        raise ConfigError(f"a beam needs a positive length and width, got length {length} and width {width}")
    log_p, values = None, None
    for t in range(length):
        step = state.logits().log_softmax(-1)  # (b, L)
        total = step if log_p is None else log_p[:, None] + step
        L = total.shape[-1]
        log_p, flat = total.flatten().topk(min(width, total.numel()))
        rows, last = flat // L, flat % L
        values = last[:, None] if values is None else torch.cat([values[rows], last[:, None]], 1)
        if t < length - 1:
            state.select(rows)
            state.put(last)
    return values, log_p
