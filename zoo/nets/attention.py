"""Transformer blocks, their masks and positions, and their evaluation one position at a time.

    x <- x + A(LN(x)),   x <- x + W_2 GELU(W_1 LN(x)),
    A(h) = W_o softmax(Q K^T / sqrt(D) + mask) V,  heads side by side

References:
    A. Vaswani and others, Attention Is All You Need, 2017, arXiv:1706.03762.
    J. Su and others, RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, arXiv:2104.09864.
    I. Beltagy, M. E. Peters, A. Cohan, Longformer, 2020, arXiv:2004.05150 (sliding windows).
    C. Raffel and others, T5, 2020, arXiv:1910.10683 (prefix masks).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AttentionBlock", "KeyValueCache", "attention_mask", "rotary_tables", "rotate"]

Tables = tuple[Tensor, Tensor]
Maps = list[tuple[Tensor, Tensor]]


def attention_mask(length: int, *, window: int | None = None, prefix: int | None = None) -> Tensor | None:
    """Return which keys (second index) each query (first index) sees: bool (length, length), or None for causal.

    Args:
        length: positions.
        window: a query sees itself and the window - 1 positions before it.
        prefix: the first so many positions all see one another.
    """
    if window is None and prefix is None:
        return None
    i = torch.arange(length)
    mask = i[:, None] >= i
    if window is not None:
        mask &= i[:, None] - i < window
    if prefix is not None:
        mask |= (i[:, None] < prefix) & (i < prefix)
    return mask


def rotary_tables(first: int, count: int, features: int, like: Tensor) -> Tables:
    """Return cos and signed sin of the angles of ``count`` positions from ``first`` on: two (count, features)."""
    half = features // 2
    where = like.device if like.device.type != "mps" else "cpu"  # which has no double precision
    theta = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=where) / half)
    angle = torch.arange(first, first + count, dtype=torch.float64, device=where)[:, None] * theta  # (count, half)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], -1).to(like), torch.cat([-sin, sin], -1).to(like)


def rotate(x: Tensor, tables: Tables) -> Tensor:
    """Turn pairs (i, i + D/2) of features by the angle of their position: (..., T, D) -> (..., T, D)."""
    cos, sin = tables
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and a two-layer network, each added to the stream: (B, T, d) -> (B, T, d).

    Args:
        width: d, a multiple of ``heads``; d / heads must be even under rotary positions.
        heads: attention heads.
        hidden: width of the two-layer network.
        depth: number of blocks of the whole network; maps back into the stream start 1 / sqrt(2 depth) smaller.
    """

    def __init__(self, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        for layer, scale in ((self.qkv, 1.0), (self.out, 2 * depth), (self.up, 1.0), (self.down, 2 * depth)):
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features * scale))
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        tables: Tables | None = None,
        drop: Callable[[Tensor], Tensor] | None = None,
        keep: Callable[[Tensor], None] | None = None,
        causal: bool = True,
        places: Tensor | None = None,
        past: Tensor | None = None,
    ) -> Tensor:
        """Evaluate all positions, or some.

        Args:
            x: (B, T, d).
            mask: bool (T, T) or (B, 1, T, T), or None for what ``causal`` says; with a past (.., T, T' + T).
            tables: of rotary positions, (T, D) or (B, 1, T, D) each.
            drop: applied to what is added to the stream.
            keep: told keys and values (2, B, H, T, D).
            causal: without a mask, whether a position sees those up to itself, or all.
            places: int64 (m,): return these positions alone, (B, m, d), each of which sees all.
            past: what ``keep`` was told of T' earlier positions, (2, B, H, T', D), which stand before x.
        """
        if places is not None:
            return self._at(x, places)
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        qk, v = qkv[:2], qkv[2]
        if tables is not None:
            qk = rotate(qk, tables)
        if keep is not None:
            keep(torch.stack([qk[1], v]))
        k, v = (qk[1], v) if past is None else torch.cat([past, torch.stack([qk[1], v])], 3)
        y = F.scaled_dot_product_attention(qk[0], k, v, attn_mask=mask, is_causal=causal and mask is None)
        y = self.out(y.transpose(1, 2).flatten(2))  # (B, T, d)
        x = x + (y if drop is None else drop(y))
        y = self.down(F.gelu(self.up(self.norm2(x))))
        return x + (y if drop is None else drop(y))

    def _at(self, x: Tensor, places: Tensor) -> Tensor:
        """Evaluate some positions, which see all: keys and values of every one, and the rest of the work of these."""
        d, h = x.shape[2], self.norm1(x)
        w, b = self.qkv.weight.split((d, 2 * d)), self.qkv.bias.split((d, 2 * d))
        q = F.linear(h[:, places], w[0], b[0]).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, m, D)
        k, v = F.linear(h, w[1], b[1]).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        x = x[:, places] + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def maps(self, n: int) -> Maps:
        """Return bias and transposed weight of the four linear maps, laid out for products with ``n`` rows.

        A single row times a matrix is read fastest row by row, so the transposes are then copied: 1.3 times as fast.
        """
        layers = (self.qkv, self.out, self.up, self.down)
        turned = (layer.weight.detach().T for layer in layers)
        return [(m.bias.detach(), w.contiguous() if n == 1 else w) for m, w in zip(layers, turned, strict=True)]

    def cache(self, n: int, size: int, like: Tensor) -> KeyValueCache:
        """Return storage for the keys and values of n sequences and ``size`` positions, of the type of ``like``."""
        return KeyValueCache(n, self.heads, size, self.norm1.normalized_shape[0] // self.heads, like)

    def step(self, x: Tensor, maps: Maps, cache: KeyValueCache, tables: Tables | None) -> Tensor:
        """Evaluate the next position: (B, d) -> (B, d), from the keys and values of the earlier ones."""
        qkv, out, up, down = maps
        h = torch.addmm(qkv[0], self.norm1(x), qkv[1])
        h = h.unflatten(1, (3, self.heads, -1)).transpose(0, 1)  # (3, B, H, D)
        qk = h[:2] if tables is None else rotate(h[:2], tables)
        cache.put(qk[1], h[2])
        y = F.scaled_dot_product_attention(qk[0][:, :, None], *cache.seen())  # (B, H, 1, D)
        x = x + torch.addmm(out[0], y.flatten(1), out[1])
        return x + torch.addmm(down[0], F.gelu(torch.addmm(up[0], self.norm2(x), up[1])), down[1])


class KeyValueCache:
    """Keys and values of one block, in storage for ``size`` positions that is allocated once.

    Beyond ``size`` positions the newest takes the place of the oldest, as a sliding window asks for. Attention does not
    depend on the order of its keys, so the ring is read as it lies.

    Args:
        n: sequences.
        heads: attention heads.
        size: positions to hold.
        features: of a head.
        like: a tensor of the wanted type and device.
    """

    def __init__(self, n: int, heads: int, size: int, features: int, like: Tensor) -> None:
        self.size, self.count = size, 0
        self.keys, self.values = like.new_empty(2, n, heads, size, features)

    def put(self, k: Tensor, v: Tensor) -> None:
        """Store the next position: keys and values (n, H, D)."""
        slot = self.count % self.size
        self.keys[:, :, slot] = k
        self.values[:, :, slot] = v
        self.count += 1

    def fill(self, kv: Tensor) -> None:
        """Store the first positions at once: (2, n, H, T, D)."""
        T = kv.shape[3]
        first = max(0, T - self.size)
        slots = torch.arange(first, T, device=kv.device) % self.size
        self.keys[:, :, slots], self.values[:, :, slots] = kv[:, :, :, first:]
        self.count = T

    def seen(self) -> Tables:
        """Return the keys and values held: two views (n, H, min(count, size), D)."""
        if self.count >= self.size:
            return self.keys, self.values
        return self.keys[:, :, : self.count], self.values[:, :, : self.count]

    def select(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self.keys, self.values = self.keys[rows], self.values[rows]
