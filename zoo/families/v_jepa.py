"""V-JEPA: features of tubes through a clip, predicted from the rest of it.

    short range: 8 blocks of 15 % of the places;  long range: 2 blocks of 70 %;  rows over columns .75 to 1.5
    targets: the union of the blocks, in all frames;  context: what is left, in all frames;  L1, the mean of both

A patch is a few frames deep. A block covers the same places in every frame: were it to move or to end, what it hides
could be copied from another frame. Blocks are taken one after the other, and one that would leave too small a context
is left out.

References:
    A. Bardes, Q. Garrido, J. Ponce, X. Chen, M. Rabbat, Y. LeCun, M. Assran, N. Ballas, Revisiting Feature Prediction
    for Learning Visual Representations from Video, 2024, arXiv:2404.08471, section 3 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.families.joint_embedding import JointEmbedding
from zoo.maths.block_masks import Mask, blocks, check_range, largest_block, slots

__all__ = ["VJEPA", "tubes"]


class VJEPA(JointEmbedding):
    """The video-based joint-embedding predictive architecture.

    Args:
        shape: (C, T, H, W).
        patch: frames, rows and columns of a patch.
        block_counts: blocks of each mask of a clip.
        block_scales: share of the places that a block of each mask has.
        aspect: least and largest rows over columns of a block.
        context_share: share of the places that a context has at most; of those beyond, drawn at random, none is seen.
            It bounds the compute.
        least: places that a context has at least.
        distance: d, the mean over features of ``smooth_l1``, ``l1`` or ``l2``.
        momentum: m at the start; 0 to take the encoder itself.

    The other arguments are those of `zoo.families.joint_embedding.JointEmbedding`.

    Raises:
        ConfigError: numbers out of range, or blocks that leave no context.
    """

    family = "world"

    def __init__(
        self,
        shape: Sequence[int],
        patch: int | Sequence[int] = (2, 8, 8),
        block_counts: Sequence[int] = (8, 2),
        block_scales: Sequence[float] = (0.15, 0.7),
        aspect: Sequence[float] = (0.75, 1.5),
        context_share: float = 0.5,
        least: int = 2,
        distance: str = "l1",
        momentum: float = 0.998,
        **kwargs: Any,
    ) -> None:
        if len(shape) != 4:
            raise ConfigError(f"V-JEPA is of clips, (C, T, H, W), got the shape {list(shape)}; choose other data")
        super().__init__(shape, patch, distance=distance, momentum=momentum, **kwargs)
        self.aspect = check_range("aspect", aspect, 0, math.inf)
        if len(block_counts) != len(block_scales) or not block_counts or min(block_counts) < 1:
            raise ConfigError(
                f"block_counts and block_scales say the blocks of each mask, got {list(block_counts)} and "
                f"{list(block_scales)}"
            )
        places = math.prod(self.token_grid[1:])
        self.block_counts = tuple(block_counts)
        self.block_scales = tuple(check_range("block_scales", (s, s), 0, 1)[0] for s in block_scales)
        self.least, self.most = least, max(1, round(context_share * places))
        largest = max(largest_block(self.token_grid[1:], (s, s), self.aspect) for s in self.block_scales)
        if not 0 < context_share <= 1 or not 1 <= least <= min(self.most, places - largest):
            raise ConfigError(
                f"a context of {least} places at least does not fit: a block takes up to {largest} of {places}, and "
                f"context_share {context_share} is {self.most}; choose a smaller patch, block or least"
            )

    def masks(self, n: int) -> list[Mask]:
        places = math.prod(self.token_grid[1:])
        return [
            tubes(self.rand(n, 4 * count + places), self.token_grid, scale, self.aspect, self.most, self.least)
            for count, scale in zip(self.block_counts, self.block_scales, strict=True)
        ]


def tubes(u: Tensor, grid: Sequence[int], scale: float, aspect: Sequence[float], count: int, least: int) -> Mask:
    """Return the union of blocks of places, in all frames, as one group of targets, and the other places as context.

    Args:
        u: uniform (B, 4 G + P): of G blocks, and of which of P places of a context are left out.
        grid: (t, h, w), P = h w places.
        scale: share of the places that a block has.
        aspect: least and largest rows over columns of a block.
        count: places of a context at most.
        least: places of a context at least: a block that would leave fewer is left out.
    """
    t, h, w = grid
    P = h * w
    G = (u.shape[1] - P) // 4
    maps = blocks(u[:, : 4 * G].unflatten(1, (G, 4)), (h, w), (scale, scale), aspect).flatten(2)  # (B, G, P)
    hidden = torch.zeros_like(maps[:, 0])
    for block in maps.unbind(1):
        wider = hidden | block
        hidden = torch.where(((~wider).sum(1) >= least)[:, None], wider, hidden)
    context, seen = slots(~hidden, count, u[:, 4 * G :])
    targets, asked = slots(hidden, P - least)

    def in_all_frames(places: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        frames = P * torch.arange(t, device=u.device)[:, None]
        return (frames + places[:, None]).flatten(1), there[:, None].expand(-1, t, -1).flatten(1)

    tokens, filled = in_all_frames(targets, asked)
    return Mask(*in_all_frames(context, seen), tokens[:, None], filled[:, None])
