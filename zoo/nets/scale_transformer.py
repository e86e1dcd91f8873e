"""A Transformer over the cells of maps of growing scales: those of one scale see one another and all smaller scales.

References:
    K. Tian and others, Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction, 2024,
    arXiv:2404.02905, section 3.2 (the mask, the levels, adaLN from the class).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.dit import DiTBlock

__all__ = ["ScaleTransformer", "block_causal", "scale_of"]

Past = list[list[Tensor]]


def block_causal(scales: Sequence[int]) -> Tensor:
    """Return which cells (second index) each cell (first) sees, bool (L, L): those of its own and of smaller scales."""
    level = scale_of(scales)
    return level[:, None] >= level


def scale_of(scales: Sequence[int]) -> Tensor:
    """Return the number of the scale of each cell, int64 (L,), L = sum_k s_k^2."""
    return torch.repeat_interleave(torch.arange(len(scales)), torch.tensor([s * s for s in scales]))


class ScaleTransformer(nn.Module):
    """What each cell of scale k is to be, given the class and an input that is made of the scales before k.

    The first scale has the class for its input.

    Args:
        channels: C, of the inputs of the other scales.
        scales: sides of the maps, growing.
        width: d, a multiple of ``heads``.
        depth: number of blocks.
        heads: of attention.
        hidden: width of the blocks' two-layer networks, 4 d if left out.
        num_classes: labels 0..num_classes-1; the null label is num_classes.
        out: channels of the output.

    Raises:
        ConfigError: a width that does not divide.
    """

    def __init__(
        self,
        channels: int,
        scales: Sequence[int],
        width: int,
        depth: int,
        heads: int,
        hidden: int | None,
        num_classes: int,
        out: int,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ConfigError(f"a width of {width} does not divide among {heads} heads")
        self.scales, self.num_classes = tuple(scales), num_classes
        self.ends = torch.tensor([s * s for s in scales]).cumsum(0).tolist()
        self.condition = nn.Embedding(num_classes + 1, width)
        self.word = nn.Linear(channels, width) if len(scales) > 1 else None
        self.level = nn.Parameter(0.02 * torch.randn(len(scales), width))
        self.position = nn.Parameter(0.02 * torch.randn(self.ends[-1], width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads, hidden or 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, out)
        nn.init.normal_(self.condition.weight, std=0.5)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("mask", block_causal(scales), persistent=False)
        self.register_buffer("cells", scale_of(scales), persistent=False)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, first: int = 0, past: Past | None = None) -> Tensor:
        """Evaluate scales from ``first`` on.

        Args:
            inputs: of all these scales but the first of all, side by side: (B, l, C), l cells, none for scale 0 alone.
            labels: int64 (B,), or None for the null label.
            first: number of the first of these scales; more than 0 only with ``past``.
            past: a list a block, of the keys and values of the scales before; one scale at a time then.

        Returns:
            (B, cells of these scales, out).
        """
        labels = inputs.new_full((len(inputs),), self.num_classes, dtype=torch.int64) if labels is None else labels
        e = self.condition(labels)  # (B, d)
        parts = [e[:, None].expand(-1, self.ends[0], -1)] if first == 0 else []
        if inputs.shape[1]:
            parts.append(self.word(inputs))
        x, begin = torch.cat(parts, 1), self.ends[first - 1] if first else 0
        here = slice(begin, begin + x.shape[1])
        x = x + self.position[here] + self.level[self.cells[here]]
        mask = self.mask[here, here] if past is None else None
        for i, block in enumerate(self.blocks):
            x = block(x, e, mask, None if past is None else past[i])
        a, b = self.modulation(F.silu(e))[:, None].chunk(2, 2)  # (B, 1, d) each
        return self.out(torch.addcmul(b, self.norm(x), 1 + a))

    def nothing(self) -> Past:
        """Return the past before the first scale."""
        return [[] for _ in self.blocks]
