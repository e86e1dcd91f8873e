"""Transformers of both players of a GAN on latents: the latent is cut into tokens, which all see one another.

The generator starts from learnt tokens, and each of its blocks is modulated by w, the mapping of z: LayerNorms are
scaled and shifted, and what a block adds is gated. The critic reads tokens and answers from one more, its own.

References:
    S. Hyun, J. Lee, J.-P. Heo, Scalable GANs with Transformers, 2025, arXiv:2509.24935.
    W. Peebles, S. Xie, Scalable Diffusion Models with Transformers, 2022, arXiv:2212.09748: the modulation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of
from zoo.spec import Recorded

__all__ = ["TransformerCritic", "TransformerGenerator"]


class _Attention(nn.Module):
    """Self-attention of all positions: (B, T, d) -> (B, T, d)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"a width of {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # (B, T, d)


class _Block(nn.Module):
    """Attention and a two-layer network, each added to the stream; modulated by w where ``style_dim`` is given."""

    def __init__(self, width: int, heads: int, style_dim: int = 0) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=not style_dim) for _ in range(2))
        self.attention = _Attention(width, heads)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(style_dim, 6 * width) if style_dim else None
        if self.modulation is not None:
            nn.init.normal_(self.modulation.weight, std=0.02)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, w: Tensor | None = None) -> Tensor:
        if self.modulation is None:
            x = x + self.attention(self.norm1(x))
            return x + self.network(self.norm2(x))
        s1, b1, g1, s2, b2, g2 = self.modulation(w)[:, None].chunk(6, 2)  # (B, 1, d) each
        x = x + (1 + g1) * self.attention(self.norm1(x) * (1 + s1) + b1)
        return x + (1 + g2) * self.network(self.norm2(x) * (1 + s2) + b2)


class TransformerGenerator(Recorded, nn.Module):
    """Noise to latent: (B, n) -> (B, tokens * channels).

    Args:
        latent_dim: n, of z and, in conditional models, the class's embedding.
        tokens: T.
        channels: numbers a token.
        width: d of the stream, and of w.
        depth: blocks.
        heads: of attention, which divide the width.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "depth": "depth"}

    def __init__(self, latent_dim: int, tokens: int, channels: int, width: int, depth: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(latent_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.start = nn.Parameter(torch.randn(tokens, width))
        self.blocks = nn.ModuleList(_Block(width, heads, width) for _ in range(depth))
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, channels)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from (inputs,) to a latent, (outputs,)."""
        return made_of(cls, {**arguments, "latent_dim": math.prod(inputs), **_cut(arguments["tokens"], outputs)})

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z)
        x = self.start.expand(len(z), -1, -1)
        for block in self.blocks:
            x = block(x, w)
        return self.last(self.norm(x)).flatten(1)  # (B, T * channels)


class TransformerCritic(Recorded, nn.Module):
    """Latent to scores: (B, tokens * channels) -> (B, out).

    Args:
        tokens: T.
        channels: numbers a token.
        width: d of the stream.
        depth: blocks.
        heads: of attention, which divide the width.
        out: numbers an example.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "depth": "depth"}

    def __init__(self, tokens: int, channels: int, width: int, depth: int = 2, heads: int = 2, out: int = 1) -> None:
        super().__init__()
        self.tokens = tokens
        self.first = nn.Linear(channels, width)
        self.position = nn.Parameter(torch.randn(tokens, width) / math.sqrt(width))
        self.answer = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        # Without a bias: a constant added to all scores changes no pairing.
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, out, bias=False)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from a latent, (inputs,), to (outputs,)."""
        return made_of(cls, {**arguments, **_cut(arguments["tokens"], inputs), "out": math.prod(outputs)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.reshape(len(x), self.tokens, -1)) + self.position  # (B, T, d)
        x = torch.cat([self.answer.expand(len(x), -1, -1), x], 1)  # (B, T + 1, d)
        for block in self.blocks:
            x = block(x)
        return self.last(self.norm(x[:, 0]))


def _cut(tokens: int, latent: Sequence[int]) -> dict[str, int]:
    """Return into how many tokens of how many channels a latent is cut: as many as before, or the most that divide."""
    tokens = math.gcd(tokens, math.prod(latent))
    return {"tokens": tokens, "channels": math.prod(latent) // tokens}
