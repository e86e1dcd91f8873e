"""Blocks of a grid of patches: what a joint-embedding predictive architecture sees, and what it is to predict.

A block has a share s of the grid's N places and an aspect a, rows over columns:

    rows = round(sqrt(s N a)),   columns = round(sqrt(s N / a)),   each at least 1 and within the grid

and lies anywhere inside. Everything here is a function of uniform numbers that the caller draws, makes tensors of sizes
that are known beforehand, and stays on their device: of places that are more or fewer than the slots for them, some are
left out, or some slots are marked as empty.

References:
    M. Assran and others, Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture, 2023,
    arXiv:2301.08243, section 3: four targets of 15 to 20 % each, a context of 85 to 100 % without the targets.
    There sizes are drawn once a batch, and all lists are cut to the shortest of the batch; here each image has its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["Mask", "block_sides", "blocks", "check_range", "largest_block", "multi_block", "slots"]

Range = Sequence[float]


@dataclass(frozen=True)
class Mask:
    """Which tokens of each example are seen, and which are to be predicted from them.

    Attributes:
        context: places of the tokens that are seen, int64 (B, K).
        seen: which of these slots are filled, bool (B, K); an empty one repeats the first.
        targets: places of the tokens that are asked for, in G groups that are predicted apart, int64 (B, G, P).
        asked: which of these slots are filled, bool (B, G, P).
    """

    context: Tensor
    seen: Tensor
    targets: Tensor
    asked: Tensor


def check_range(name: str, bounds: Range, least: float, most: float) -> tuple[float, float]:
    """Return two rising numbers between ``least``, itself left out, and ``most``. Raises `ConfigError`."""
    if len(bounds) != 2 or not least < bounds[0] <= bounds[1] <= most:
        raise ConfigError(f"{name} must be two rising numbers, above {least:g} and up to {most:g}, got {list(bounds)}")
    return float(bounds[0]), float(bounds[1])


def block_sides(u: Tensor, grid: Sequence[int], scale: Range, aspect: Range) -> tuple[Tensor, Tensor]:
    """Return rows and columns of blocks, int64 (...): u uniform (..., 2), of the share and of the aspect."""
    h, w = grid
    area = h * w * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    ratio = aspect[0] + (aspect[1] - aspect[0]) * u[..., 1]
    rows, columns = (area * ratio).sqrt().round().clamp(1, h), (area / ratio).sqrt().round().clamp(1, w)
    return rows.long(), columns.long()


def blocks(u: Tensor, grid: Sequence[int], scale: Range, aspect: Range) -> Tensor:
    """Return blocks as maps: u uniform (..., 4), of the share, the aspect, the row and the column -> bool (..., h, w).

    Args:
        u: in [0, 1).
        grid: (h, w).
        scale: least and largest share of the grid.
        aspect: least and largest rows over columns.
    """
    h, w = grid
    rows, columns = block_sides(u, grid, scale, aspect)
    top, left = (u[..., 2] * (h - rows + 1)).long(), (u[..., 3] * (w - columns + 1)).long()
    i, j = torch.arange(h, device=u.device), torch.arange(w, device=u.device)
    high = (i >= top[..., None]) & (i < (top + rows)[..., None])  # (..., h)
    wide = (j >= left[..., None]) & (j < (left + columns)[..., None])  # (..., w)
    return high[..., :, None] & wide[..., None, :]


def largest_block(grid: Sequence[int], scale: Range, aspect: Range) -> int:
    """Return the most places that a block of these bounds has."""
    u = torch.cartesian_prod(torch.linspace(0, 1, 201), torch.linspace(0, 1, 201))
    rows, columns = block_sides(u.double(), grid, scale, aspect)
    return int((rows * columns).max())


def slots(allowed: Tensor, count: int, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return ``count`` allowed places, or all and empty slots: bool (..., N) -> int64 (..., count), bool (..., count).

    An empty slot repeats the first place.

    Args:
        allowed: at least one of each row.
        count: at most N.
        order: uniform (..., N): the largest are taken where there are too many. The first ones without it.
    """
    N = allowed.shape[-1]
    if order is None:
        order = torch.arange(N, 0, -1, device=allowed.device, dtype=torch.float32) / (N + 1)
    key, index = torch.where(allowed, 1 + order, 0.0).topk(count, dim=-1)
    filled = key > 0
    return torch.where(filled, index, index[..., :1]), filled


def multi_block(
    u: Tensor,
    grid: Sequence[int],
    count: int,
    target_scale: Range = (0.15, 0.2),
    target_aspect: Range = (0.75, 1.5),
    context_scale: Range = (0.85, 1.0),
    least: int = 1,
) -> Mask:
    """Return target blocks, and a context block without any of their places.

    Where the context would have fewer than ``least`` places, everything but the targets is the context; where that is
    not enough either, all targets of the image are the first one.

    Args:
        u: uniform (B, 4 G + 4 + N): of G targets, of the context, and of which places of a context are left out.
        grid: (h, w), N places.
        count: K, places of a context at most.
        target_scale, target_aspect: of the targets.
        context_scale: of the context, whose aspect is 1.
        least: places of a context, at most N minus those of the largest target.
    """
    N, B = math.prod(grid), len(u)
    G = (u.shape[1] - N) // 4 - 1
    targets = blocks(u[:, : 4 * G].unflatten(1, (G, 4)), grid, target_scale, target_aspect).flatten(2)  # (B, G, N)
    inside = blocks(u[:, 4 * G : 4 * G + 4], grid, context_scale, (1.0, 1.0)).flatten(1)  # (B, N)
    free = ~targets.any(1)
    targets = torch.where((free.sum(1) >= least)[:, None, None], targets, targets[:, :1])
    free = ~targets.any(1)
    context = inside & free
    context = torch.where((context.sum(1) >= least)[:, None], context, free)
    seen, filled = slots(context, count, u[:, 4 * G + 4 :])
    asked = slots(targets, largest_block(grid, target_scale, target_aspect))
    assert seen.shape == (B, count)
    return Mask(seen, filled, *asked)
