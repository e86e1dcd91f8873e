"""Spans of a sequence that end where gates say so, soft or hard, and what is written of rows of tokens.

With g_t the chance that a token ends at place t, where it ends in any case after J places and at the end of the
sequence, a token of length l ends at t with the chance w_{t,l}:

    w_{t,l} = a_{t,l} g_t (l < J),   w_{t,J} = a_{t,J};   a_{t+1,1} = sum_l w_{t,l},   a_{t+1,l+1} = a_{t,l} - w_{t,l}

a_{t,l} being the chance that place t is the l-th of its token, a_{1,1} = 1. Every place lies in one token: the chances
of all that hold it sum to 1. Without the bound J, a place j before the end of a token at t is in it with the chance

    m_{t,j} = prod_{1 <= i <= j} (1 - g_{t-i}),   g_t m_{t,j} = sum_{l > j} w_{t,l}

References:
    T. Datta, K. Huang, S. Kakade, D. Brandfonbrener, GQ-VAE: A gated quantized VAE for learning variable length tokens,
    2025, arXiv:2512.21913: the soft masks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["before", "hard_gates", "left_packed", "span_chances", "span_masks", "written"]


def before(values: Tensor, reach: int, fill: float = 0) -> Tensor:
    """Return values (B, T) and those up to ``reach`` - 1 places before, (B, T, reach); ``fill`` before the first."""
    T = values.shape[1]
    return torch.stack([F.pad(values, (j, 0), value=fill)[:, :T] for j in range(reach)], 2)


def span_masks(gates: Tensor, reach: int) -> Tensor:
    """Return m: gates in [0, 1], (B, T) -> (B, T, J), J being ``reach``."""
    apart = before(1 - gates, reach + 1)[:, :, 1:reach]  # 1 - g at 1, ..., J - 1 places before; 0 before the first
    return torch.cat([torch.ones_like(gates)[:, :, None], apart.cumprod(2)], 2)


def span_chances(gates: Tensor, reach: int) -> Tensor:
    """Return w: gates in [0, 1], (B, T) -> (B, T, J), J being ``reach`` and the lengths 1 to J in order."""
    B, T = gates.shape
    at = F.pad(gates.new_ones(B, 1), (0, reach - 1))  # a, (B, J)
    chances = []
    for t, g in enumerate(gates.unbind(1)):
        open_gates = F.pad(g[:, None].expand(-1, reach - 1), (0, 1), value=1.0) if t < T - 1 else torch.ones_like(at)
        ends = at * open_gates
        chances.append(ends)
        at = torch.cat([ends.sum(1, keepdim=True), (at - ends)[:, :-1]], 1)
    return torch.stack(chances, 1)


def hard_gates(gates: Tensor, reach: int) -> Tensor:
    """Return where tokens end, bool (B, T): where a gate is above 1/2, after ``reach`` places, and at the end."""
    wanted = (gates > 0.5).unbind(1)
    since, ends = torch.zeros(len(gates), dtype=torch.int64, device=gates.device), []
    for t, ends_here in enumerate(wanted):
        since = since + 1
        end = ends_here | (since >= reach) if t < len(wanted) - 1 else torch.ones_like(ends_here)
        since = since.masked_fill(end, 0)
        ends.append(end)
    return torch.stack(ends, 1)


def left_packed(tokens: Tensor) -> Tensor:
    """Move what is not negative to the left, in its order: int64 (B, T) -> (B, T), -1 behind the last."""
    order = (tokens < 0).to(torch.int8).argsort(dim=1, stable=True)
    return tokens.gather(1, order)


def written(tokens: Tensor, strings: Tensor, lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Write rows of tokens out, one after the other.

    Args:
        tokens: int64 (B, n), negative where there is none.
        strings: what each token stands for, from the left, int64 (V, J).
        lengths: how much of its string counts, int64 (V,).
        count: values to return of each row.

    Returns:
        Values, int64 (B, count), 0 behind the last; and how many each row really has, int64 (B,).
    """
    n = lengths[tokens.clamp(min=0)].masked_fill(tokens < 0, 0)  # (B, n)
    ends = n.cumsum(1)
    place = torch.arange(count, device=tokens.device)
    which = torch.searchsorted(ends, place.expand(len(tokens), -1).contiguous(), right=True)  # (B, count)
    inside = which.clamp(max=tokens.shape[1] - 1)
    offset = place - (ends - n).gather(1, inside)
    found = strings[tokens.gather(1, inside).clamp(min=0), offset.clamp(0, strings.shape[1] - 1)]
    total = ends[:, -1]
    return found.masked_fill(place >= total[:, None], 0), total
