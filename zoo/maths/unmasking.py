"""Filling in what is masked, a few positions at a time: how many are left after each step, and which.

    m_t = max(1, min(m_{t-1} - 1, floor(m_0 cos(pi t / 2T)))) for t < T,  m_T = 0

Which ones may depend on what was drawn, on chance, or on neither: a Halton sequence visits a grid so that what comes in
a row lies far apart, and positions drawn together say little of each other.

References:
    H. Chang and others, MaskGIT: Masked Generative Image Transformer, 2022, arXiv:2202.04200, section 3.2.
    V. Besnier and others, Halton Scheduler for Masked Generative Image Transformer, 2025, arXiv:2503.17076.
    T. Li and others, Autoregressive Image Generation without Vector Quantization, 2024, arXiv:2406.11838, section 4.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

__all__ = ["ORDERS", "gumbel", "halton_order", "left_masked", "lowest", "masked_counts", "masked_sets"]

ORDERS = ("confidence", "random", "halton")


def left_masked(first: Tensor, before: Tensor, t: int, steps: int) -> Tensor:
    """Return m_t, how many positions are masked after step t of ``steps``: int64 of the shape of both.

    Args:
        first: m_0, int64, how many were masked at the start, of each example.
        before: m_{t-1}.
        t: 1 to ``steps``.
        steps: T.
    """
    if t >= steps:
        return torch.zeros_like(before)
    wanted = (first.double() * math.cos(math.pi * t / (2 * steps))).floor().long()
    return torch.minimum(wanted, before - 1).clamp(min=1).minimum(before)


def masked_counts(length: int, steps: int) -> list[int]:
    """Return m_0 = ``length``, m_1, ..., of ``steps`` steps from nothing known, down to the first 0."""
    first = torch.tensor(length)
    counts, left = [length], first
    for t in range(1, steps + 1):
        left = left_masked(first, left, t, steps)
        counts.append(int(left))
        if not counts[-1]:
            break
    return counts


@functools.lru_cache(maxsize=64)
def halton_order(rows: int, columns: int) -> tuple[int, ...]:
    """Return the cells of a grid, row by row from 0, as the Halton sequence of bases 2 and 3 first meets them.

    The k-th point is (phi_2(k), phi_3(k)), k = 1, 2, ..., phi_b(k) being the digits of k in base b, mirrored at the
    point; the first number chooses the row.
    """
    met: dict[int, None] = {}
    k = 0
    while len(met) < rows * columns:
        k += 1
        met[int(_mirrored(k, 2) * rows) * columns + int(_mirrored(k, 3) * columns)] = None
    return tuple(met)


def _mirrored(k: int, base: int) -> float:
    """Return sum_i d_i base^-(i+1) of the digits d_i of k, the last one first."""
    value, unit = 0.0, 1.0
    while k:
        unit /= base
        k, digit = divmod(k, base)
        value += unit * digit
    return value


def lowest(score: Tensor, count: Tensor, u: Tensor | None = None) -> Tensor:
    """Return which numbers are the ``count`` lowest of each row: scores (B, N), int64 (B, 1) -> bool (B, N).

    Of equal ones the first count as lower; with uniform numbers u, (B, N), those with the lower ones, so that no place
    is preferred.
    """
    if u is None:
        return score.argsort(dim=1, stable=True).argsort(dim=1) < count
    order = u.argsort(dim=1)
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, order, lowest(score.gather(1, order), count))


def gumbel(u: Tensor) -> Tensor:
    """Return standard Gumbel noise of numbers uniform in [0, 1). Of any shape."""
    return -torch.log(-torch.log(u))


def masked_sets(ratio: Tensor, u: Tensor) -> Tensor:
    """Return a random set of each example, bool (B, N), of max(1, floor(ratio N)) positions.

    Args:
        ratio: in [0, 1], (B,).
        u: uniform numbers (B, N), whose order chooses the positions.
    """
    count = (ratio * u.shape[1]).floor().long().clamp(min=1)
    return lowest(u, count[:, None])
