"""Blocks whose attention is linear in the length: a sum over the past takes the place of the softmax.

    y_t = sum_{s<=t} (R_t f(q_t))^T (R_s f(k_s)) v_s / f(q_t)^T sum_{s<=t} f(k_s),   f(x) = elu(x) + 1

R turns features by their position, as in RoFormer's equation 19, and is left out of the divisor, which stays positive.
The sums are the whole state, so one position costs the same however many stand before it.

References:
    A. Katharopoulos, A. Vyas, N. Pappas, F. Fleuret, Transformers are RNNs: Fast Autoregressive Transformers with
    Linear Attention, 2020, arXiv:2006.16236, equations 9 to 12.
    J. Su and others, RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, arXiv:2104.09864.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nets.attention import AttentionBlock, Maps, Tables, rotate

__all__ = ["LinearAttentionBlock", "LinearAttentionState", "linear_attention"]

_CHUNK = 64


def linear_attention(q: Tensor, k: Tensor, v: Tensor, tables: Tables | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, and the two sums at the end, of queries, keys and values (B, H, T, D).

    Within chunks the products are formed as of a masked attention, between them by the sums: O(T) in all.

    Returns:
        y (B, H, T, D), sum of k v^T (B, H, D, D), sum of k (B, H, D).
    """
    q, k = F.elu(q) + 1, F.elu(k) + 1
    turned_q, turned_k = (q, k) if tables is None else (rotate(q, tables), rotate(k, tables))
    state = q.new_zeros(*q.shape[:2], q.shape[3], q.shape[3])  # (B, H, D, D)
    made = []
    for start in range(0, q.shape[2], _CHUNK):
        part = slice(start, start + _CHUNK)
        a, b, c = turned_q[:, :, part], turned_k[:, :, part], v[:, :, part]
        within = (a @ b.transpose(-1, -2)).tril()  # (B, H, m, m)
        made.append(a @ state + within @ c)
        state = state + b.transpose(-1, -2) @ c
    divisor = (q * k.cumsum(2)).sum(-1, keepdim=True)  # (B, H, T, 1)
    return torch.cat(made, 2) / divisor, state, k.sum(2)


class LinearAttentionBlock(AttentionBlock):
    """As `zoo.nets.attention.AttentionBlock` under the causal mask, of the same parameters: (B, T, d) -> (B, T, d)."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        mask: Tensor | None = None,
        tables: Tables | None = None,
        drop: Callable[[Tensor], Tensor] | None = None,
        keep: Callable[[tuple[Tensor, Tensor]], None] | None = None,
    ) -> Tensor:
        """Evaluate all positions; ``keep`` is told the two sums. There is no mask but the causal one."""
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        y, *sums = linear_attention(*qkv, tables)
        if keep is not None:
            keep((sums[0], sums[1]))
        y = self.out(y.transpose(1, 2).flatten(2))  # (B, T, d)
        x = x + (y if drop is None else drop(y))
        y = self.down(F.gelu(self.up(self.norm2(x))))
        return x + (y if drop is None else drop(y))

    def cache(self, n: int, size: int, like: Tensor) -> LinearAttentionState:  # type: ignore[override]
        return LinearAttentionState(n, self.heads, self.norm1.normalized_shape[0] // self.heads, like)

    def step(self, x: Tensor, maps: Maps, cache: LinearAttentionState, tables: Tables | None) -> Tensor:  # type: ignore[override]
        """Evaluate the next position: (B, d) -> (B, d)."""
        qkv, out, up, down = maps
        h = torch.addmm(qkv[0], self.norm1(x), qkv[1])
        q, k, v = h.unflatten(1, (3, self.heads, -1)).transpose(0, 1)  # (B, H, D) each
        y = cache.step(q, k, v, tables)
        x = x + torch.addmm(out[0], y.flatten(1), out[1])
        return x + torch.addmm(down[0], F.gelu(torch.addmm(up[0], self.norm2(x), up[1])), down[1])


class LinearAttentionState:
    """The two sums of one block for n sequences, whatever their length."""

    def __init__(self, n: int, heads: int, features: int, like: Tensor) -> None:
        self.products = like.new_zeros(n, heads, features, features)
        self.keys = like.new_zeros(n, heads, features)

    def fill(self, sums: tuple[Tensor, Tensor]) -> None:
        """Take the sums of all positions so far."""
        self.products, self.keys = sums

    def step(self, q: Tensor, k: Tensor, v: Tensor, tables: Tables | None) -> Tensor:
        """Add a position and return its y: three times (n, H, D) -> (n, H, D)."""
        q, k = F.elu(q) + 1, F.elu(k) + 1
        self.keys = self.keys + k
        divisor = (q * self.keys).sum(-1, keepdim=True)
        if tables is not None:
            q, k = rotate(q, tables), rotate(k, tables)
        self.products = self.products + k[..., None] * v[..., None, :]
        return (q[..., None, :] @ self.products)[..., 0, :] / divisor

    def select(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self.products, self.keys = self.products[rows], self.keys[rows]
