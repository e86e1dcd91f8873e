"""A Transformer that reads a whole sequence, both ways: values to a vector for each of them.

References:
    J. Devlin and others, BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2018,
    arXiv:1810.04805.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.attention import AttentionBlock, rotary_tables

__all__ = ["SequenceBlocks", "SequenceEncoder"]


class SequenceBlocks(nn.Module):
    """Blocks with rotary positions in which all see one another: (B, T, width) -> (B, T, width), normalised.

    Args:
        width: of the stream, an even number for each head.
        depth: number of blocks.
        heads: of attention.

    Raises:
        ConfigError: a width that does not divide so.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % (2 * heads):
            raise ConfigError(f"a width of {width} does not divide among {heads} heads, an even number each")
        self.features = width // heads
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, 4 * width, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        tables = rotary_tables(0, x.shape[1], self.features, x)
        for block in self.blocks:
            x = block(x, None, tables, causal=False)
        return self.norm(x)


class SequenceEncoder(nn.Module):
    """Values 0..L-1, int64 (B, T), to (B, T, width).

    Args:
        levels: L.
        width, depth, heads: of `SequenceBlocks`.
    """

    def __init__(self, levels: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(levels, width)
        self.blocks = SequenceBlocks(width, depth, heads)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, values: Tensor) -> Tensor:
        return self.blocks(self.embedding(values))
