"""A Transformer over some or all patches of an image or a video, and one that predicts what it would say of others.

    encoder:    z = LN(blocks(W patches + p)),  at the places that it is given
    predictor:  out = W_o LN(blocks([W_i z + p_context, m + p_targets])), at the targets; m is one learnt vector

Everything that is there sees everything; what is not there is left out, not hidden by zeros. The vector p of a place is
fixed, sines and cosines of its coordinates.

References:
    A. Dosovitskiy and others, An Image is Worth 16x16 Words, 2020, arXiv:2010.11929.
    M. Assran and others, Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture, 2023,
    arXiv:2301.08243: the narrow predictor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.attention import AttentionBlock
from zoo.nets.embeddings import lattice_positions

__all__ = ["PatchEncoder", "PatchPredictor", "patches", "patches_of"]


def patches_of(size: Sequence[int], patch: int | Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the grid of patches of an image (H, W) or a video (T, H, W), and the sides of a patch.

    Raises:
        ConfigError: sides that do not divide.
    """
    sides = (patch,) * len(size) if isinstance(patch, int) else tuple(patch)
    if len(sides) != len(size) or any(p < 1 or s % p for s, p in zip(size, sides, strict=True)):
        raise ConfigError(
            f"examples of sides {list(size)} do not divide into patches of {list(sides)}; choose sides of a patch that "
            f"divide them"
        )
    return tuple(s // p for s, p in zip(size, sides, strict=True)), sides


def patches(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Cut examples into patches, the last coordinate fastest: (B, C, *size) -> (B, N, C * prod(sides))."""
    D = len(sides)
    for i, p in enumerate(sides):
        x = x.unflatten(2 + 2 * i, (-1, p))  # (B, C, n_1, p_1, n_2, p_2, ...)
    x = x.permute(0, *range(2, 2 + 2 * D, 2), 1, *range(3, 3 + 2 * D, 2))  # (B, n_1, ..., C, p_1, ...)
    return x.flatten(1 + D).flatten(1, D)


def _of(x: Tensor, index: Tensor) -> Tensor:
    """Return rows of (B, N, d) at int64 (B, K): (B, K, d)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


class _Blocks(nn.Module):
    """Blocks in which what is there sees what is there: (B, T, d) -> (B, T, d), normalised."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"a width of {width} does not divide among {heads} heads")
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, 4 * width, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, there: Tensor | None = None) -> Tensor:
        mask = None if there is None else there[:, None, None]  # (B, 1, 1, T)
        for block in self.blocks:
            x = block(x, mask, causal=False)
        return self.norm(x)


class PatchEncoder(nn.Module):
    """Examples to a vector for each patch: (B, C, *size) -> (B, N, width).

    Args:
        shape: of an example, (C, H, W) or (C, T, H, W).
        patch: side of a patch, or sides in the order of the shape.
        width: of the stream, a multiple of ``heads`` and of twice the number of sides.
        depth: number of blocks.
        heads: of attention.

    Raises:
        ConfigError: sizes that do not divide.
    """

    def __init__(self, shape: Sequence[int], patch: int | Sequence[int], width: int, depth: int, heads: int) -> None:
        super().__init__()
        channels, *size = shape
        self.grid, self.sides = patches_of(size, patch)
        self.first = nn.Linear(channels * torch.Size(self.sides).numel(), width)
        self.register_buffer("positions", lattice_positions(self.grid, width), persistent=False)  # (N, width)
        self.trunk = _Blocks(width, depth, heads)

    def forward(self, x: Tensor, index: Tensor | None = None, there: Tensor | None = None) -> Tensor:
        """Return the vectors of all patches, or of some of which no other is looked at.

        Args:
            x: (B, C, *size).
            index: places of the patches that are there, int64 (B, K).
            there: which of these slots are filled, bool (B, K), at least one a row; all of them if left out.
        """
        tokens = patches(x, self.sides)  # (B, N, C prod(sides))
        places = self.positions.to(x)
        if index is None:
            return self.trunk(self.first(tokens) + places)
        return self.trunk(self.first(_of(tokens, index)) + places[index], there)


class PatchPredictor(nn.Module):
    """What is known of some patches to what is expected of others: (B, K, features) -> (B, G, P, features).

    Args:
        grid: of patches.
        features: of the vectors that come in and go out.
        width: of the stream, a multiple of ``heads`` and of twice the number of sides of the grid.
        depth: number of blocks.
        heads: of attention.
    """

    def __init__(self, grid: Sequence[int], features: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("positions", lattice_positions(grid, width), persistent=False)  # (N, width)
        self.trunk = _Blocks(width, depth, heads)
        self.last = nn.Linear(width, features)

    def forward(self, z: Tensor, context: Tensor, seen: Tensor, targets: Tensor, asked: Tensor) -> Tensor:
        """Predict each group of targets by itself, from the same context.

        Args:
            z: vectors of the context, (B, K, features).
            context: their places, int64 (B, K).
            seen: which of these slots are filled, bool (B, K).
            targets: places that are asked for, int64 (B, G, P).
            asked: which of these slots are filled, bool (B, G, P).
        """
        (B, G, _), K, places = targets.shape, context.shape[1], self.positions.to(z)
        known = self.first(z) + places[context]  # (B, K, width)
        wanted = (self.mask + places[targets]).flatten(0, 1)  # (B G, P, width)
        stream = torch.cat([known.repeat_interleave(G, 0), wanted], 1)  # (B G, K + P, width)
        there = torch.cat([seen.repeat_interleave(G, 0), asked.flatten(0, 1)], 1)
        return self.last(self.trunk(stream, there)[:, K:]).unflatten(0, (B, G))
