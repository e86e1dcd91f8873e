"""A Transformer over the patches of an image, told a time and perhaps a class by adaptive layer normalisation.

    x <- x + g_1 A((1 + a_1) LN(x) + b_1),   x <- x + g_2 W_2 GELU(W_1 ((1 + a_2) LN(x) + b_2)),
    (a, b, g)_{1,2} = W SiLU(e),   W = 0 at the start (adaLN-Zero)

so that each block starts as the identity, and the network, whose last layer starts at zero too, as zero.

References:
    W. Peebles, S. Xie, Scalable Diffusion Models with Transformers, 2022, arXiv:2212.09748.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import beyond_digits, made_of
from zoo.nets.embeddings import PERIODS, Embedding, grid_positions
from zoo.spec import Recorded

__all__ = ["DiT", "DiTBlock"]

PATCHES, MOST_PATCHES = 256, 1024
"""Patches of a larger image, as in the paper, and the most where its sides divide into no such number."""

FEWER_PATCHES = 64
"""The same of an image of no more values than a digit."""


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


class DiTBlock(nn.Module):
    """Self-attention and a two-layer network, gated by the embedding: (B, T, d) and (B, d) -> (B, T, d).

    An embedding of each position, (B, T, d), gates position by position (the spatial adaLN of FlowAR, Ren and others,
    2024, arXiv:2412.15205).

    Args:
        width: d, a multiple of ``heads``.
        heads: of attention.
        hidden: width of the two-layer network.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # has no weights, so it serves both halves
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, e: Tensor, mask: Tensor | None = None, past: list[Tensor] | None = None) -> Tensor:
        """Evaluate all positions.

        Args:
            x: (B, T, d).
            e: (B, d), or (B, T, d).
            mask: which keys each query sees, bool (T, T); all without one.
            past: keys and values of earlier positions, (2, B, heads, T', D), which all are seen; those of x are added.
        """
        e = e[:, None] if e.ndim == 2 else e
        a_1, b_1, g_1, a_2, b_2, g_2 = self.modulation(F.silu(e)).chunk(6, 2)  # (B, 1 or T, d) each
        qkv = self.qkv(_modulate(self.norm(x), a_1, b_1)).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, D) each
        if past is not None:
            past.append(torch.stack([k, v]))
            k, v = torch.cat(past, 3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)  # (B, T, d)
        x = torch.addcmul(x, g_1, self.out(y))
        y = self.down(F.gelu(self.up(_modulate(self.norm(x), a_2, b_2))))
        return torch.addcmul(x, g_2, y)


class DiT(Recorded, nn.Module):
    """(B, channels, H, W), time (B,), labels (B,) or None -> (B, out_channels, H, W).

    Args:
        channels: of the image.
        size: side of the image, or its height and width, multiples of ``patch``.
        patch: side of a patch; the image has H W / patch^2 of them.
        width: of the stream, a multiple of ``heads`` and of 4.
        depth: number of blocks.
        heads: of attention.
        out_channels: of the output; those of the image if left out.
        num_classes: labels 0..num_classes-1, the null label being num_classes; 0 for none.
        hidden: width of the blocks' two-layer networks; 4 ``width`` if left out.
        periods: shortest and longest period of the waves by which the time is told.

    Raises:
        ConfigError: sizes that do not divide.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "hidden": "width", "depth": "depth"}

    steps_to_move = 3
    """Training steps until every tensor has moved: the output first, then the gates, then what they let through."""

    def __init__(
        self,
        channels: int,
        size: int | Sequence[int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        out_channels: int | None = None,
        num_classes: int = 0,
        hidden: int | None = None,
        periods: Sequence[float] = PERIODS,
    ) -> None:
        super().__init__()
        sides = (size, size) if isinstance(size, int) else tuple(size)
        whole = len(sides) == 2 and all(isinstance(s, int) and s > 0 for s in sides)
        if not whole or patch < 1 or any(s % patch for s in sides) or width % heads or width % 4:
            raise ConfigError(
                f"DiT: the size {size}, one side or two, must be a multiple of the patch {patch}, and the width "
                f"{width} one of 4 and of the {heads} heads"
            )
        self.sides, self.patch = sides, patch
        self.grid = (sides[0] // patch, sides[1] // patch)
        self.embedding = Embedding(width, num_classes, periods)
        self.stem = nn.Linear(channels * patch**2, width)
        self.register_buffer("positions", grid_positions(*self.grid, width), persistent=False)  # (T, width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, hidden or 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, (out_channels or channels) * patch**2)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network between images of these shapes, (C, H, W) each.

        Images of no more values than a digit keep width and depth, and have about 64 patches at most; larger ones have
        about 256, width 384, 12 blocks and 6 heads at least, which is the paper's DiT-S.

        Raises:
            ConfigError: no image, or sides that divide into no such patches.
        """
        if len(inputs) != 3:
            raise ConfigError(
                f"DiT is a network of images, (C, H, W), and the examples have shape {tuple(inputs)}; choose a model "
                f"whose network takes such, or set --model.network"
            )
        channels, *sides = inputs
        passed = {k: v for k, v in arguments.items() if k != "out_channels"} | {"channels": channels}
        passed |= {"out_channels": outputs[0]} if outputs[0] != channels else {}
        passed |= {"size": sides[0] if sides[0] == sides[1] else sides}
        if not beyond_digits(inputs):
            return made_of(cls, {**passed, "patch": patch_of(sides, FEWER_PATCHES)})
        passed |= {"patch": patch_of(sides, PATCHES), "depth": max(12, arguments["depth"])}
        if arguments["width"] < 384:
            passed |= {"width": 384, "heads": 6, "hidden": None}
        return made_of(cls, passed)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        if x.shape[2:] != self.sides:
            raise ConfigError(f"DiT is built for sides of {self.sides[0]} x {self.sides[1]}, got {tuple(x.shape[2:])}")
        e = self.embedding(time, labels)
        tokens = F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)  # (B, T, C patch^2)
        h = self.stem(tokens) + self.positions
        for block in self.blocks:
            h = block(h, e)
        a, b = self.modulation(F.silu(e))[:, None].chunk(2, 2)  # (B, 1, width) each
        h = self.out(_modulate(self.norm(h), a, b)).transpose(1, 2)  # (B, C' patch^2, T)
        return F.pixel_shuffle(h.unflatten(2, self.grid), self.patch)


def patch_of(sides: Sequence[int], count: int) -> int:
    """Return the side of a patch such that an image has ``count`` of them at most, and not many fewer.

    Where its sides do not divide so, it has more, up to 1024. Raises `ConfigError` that names sizes nearby that do.
    """
    area, divisors = math.prod(sides), [p for p in range(1, min(sides) + 1) if not any(s % p for s in sides)]
    fits = [p for p in divisors if count / 8 < area // p**2 <= count]
    finer = [p for p in divisors if count < area // p**2 <= MOST_PATCHES]
    if fits or finer:
        return min(fits) if fits else max(finer)
    p = math.ceil(math.sqrt(area / count))
    below, above = ([max(1, whole(s / p)) * p for s in sides] for whole in (math.floor, math.ceil))
    sizes = " or ".join(dict.fromkeys(str(s[0]) if len({*s}) == 1 else f"[{s[0]},{s[1]}]" for s in (below, above)))
    raise ConfigError(
        f"images of {' x '.join(map(str, sides))} cannot be cut into {count} square patches at most, as a Transformer "
        f"over patches needs; set --data.size to {sizes}"
    )
