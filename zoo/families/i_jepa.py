"""I-JEPA: features of four blocks of an image, predicted from the rest of it.

    targets: 4 blocks, 15 to 20 % of the patches each, rows over columns .75 to 1.5
    context: a block of 85 to 100 %, without the targets; each target is predicted apart, from the same context

References:
    M. Assran and others, Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture, 2023,
    arXiv:2301.08243.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ConfigError
from zoo.families.joint_embedding import JointEmbedding
from zoo.fitting import beyond_digits
from zoo.maths.block_masks import Mask, check_range, largest_block, multi_block
from zoo.nets.dit import FEWER_PATCHES, PATCHES, patch_of

__all__ = ["IJEPA"]


class IJEPA(JointEmbedding):
    """The image-based joint-embedding predictive architecture.

    Args:
        shape: (C, H, W).
        blocks: target blocks of an image.
        target_scale: least and largest share of the patches that a target has.
        target_aspect: least and largest rows over columns of a target.
        context_scale: share of the patches that the context has before the targets are taken out.
        context_share: share of the patches that a context has at most; of those beyond, drawn at random, none is seen.
            It bounds the compute.
        least: patches that a context has at least.

    The other arguments are those of `zoo.families.joint_embedding.JointEmbedding`.

    Raises:
        ConfigError: numbers out of range, or more patches asked for than there are.
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch: int | Sequence[int] = 4,
        blocks: int = 4,
        target_scale: Sequence[float] = (0.15, 0.2),
        target_aspect: Sequence[float] = (0.75, 1.5),
        context_scale: Sequence[float] = (0.85, 1.0),
        context_share: float = 0.5,
        least: int = 6,
        **kwargs: Any,
    ) -> None:
        if len(shape) != 3:
            raise ConfigError(f"I-JEPA is of images, (C, H, W), got the shape {list(shape)}; choose other data")
        super().__init__(shape, patch, **kwargs)
        self.target_scale, self.context_scale = (
            check_range(name, bounds, 0, 1)
            for name, bounds in (("target_scale", target_scale), ("context_scale", context_scale))
        )
        self.target_aspect = check_range("target_aspect", target_aspect, 0, math.inf)
        if not 0 < context_share <= 1 or blocks < 1:
            raise ConfigError(
                f"context_share must lie in (0, 1] and there must be a block, got {context_share} and {blocks}"
            )
        self.blocks, self.in_sight = blocks, max(1, round(context_share * self.tokens))
        most = self.tokens - largest_block(self.token_grid, self.target_scale, self.target_aspect)
        if not 1 <= least <= min(most, self.in_sight):
            raise ConfigError(
                f"a context of {least} patches at least does not fit: {self.tokens} patches leave {max(0, most)} "
                f"beside a target, and context_share {context_share} is {self.in_sight}; choose a smaller patch"
            )
        self.least = least

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other images: patches, about 64 of a small one, 256 of a larger."""
        fitted = dict(arguments)
        if "patch" in arguments and list(arguments["shape"][1:]) != list(before["shape"][1:]):
            shape = arguments["shape"]
            fitted["patch"] = patch_of(shape[1:], PATCHES if beyond_digits(shape) else FEWER_PATCHES)
        return fitted

    def masks(self, n: int) -> list[Mask]:
        u = self.rand(n, 4 * self.blocks + 4 + self.tokens)
        return [
            multi_block(
                u, self.token_grid, self.in_sight, self.target_scale, self.target_aspect, self.context_scale, self.least
            )
        ]
