"""Blocks with a selective state space: what is kept of the past, and for how long, depends on the value read.

    u = SiLU(conv(W_u x)),   D_t = softplus(W_D u_t + b),   B_t, C_t = W u_t
    h_t = exp(D_t A) h_{t-1} + D_t B_t u_t,   y_t = C_t h_t + S u_t,   x <- x + W_o (y SiLU(W_g x))

A is diagonal and negative, so the factor lies in (0, 1). One position costs the same however many stand before it.

References:
    A. Gu, T. Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, arXiv:2312.00752, algorithm 2
    and section 3.4.
    W. D. Hillis, G. L. Steele, Data Parallel Algorithms, 1986 (the scan in log T rounds).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SelectiveBlock", "SelectiveState", "scan", "scan_by_steps"]

Maps = list[tuple[Tensor, Tensor]]
_STATES, _KERNEL = 16, 4
_STEPS = (1e-3, 0.1)
"""Range of D at the start; section 3.6 of the paper."""


def scan_by_steps(a: Tensor, b: Tensor) -> Tensor:
    """Return h_t = a_t h_{t-1} + b_t from h_0 = 0, one position after the other: (B, T, ...) -> (B, T, ...)."""
    h, found = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        found.append(h)
    return torch.stack(found, 1)


def scan(a: Tensor, b: Tensor) -> Tensor:
    """Return what `scan_by_steps` does in log2 T rounds over all positions at once; factors never exceed those of a."""
    shift = 1
    while shift < b.shape[1]:
        earlier = (0, 0) * (b.ndim - 2) + (shift, 0)
        b = b + a * F.pad(b[:, :-shift], earlier)
        a = a * F.pad(a[:, :-shift], earlier, value=0.0)
        shift *= 2
    return b


class SelectiveBlock(nn.Module):
    """Pre-norm block of one selective state space, added to the stream: (B, T, d) -> (B, T, d).

    Args:
        width: d.
        heads: not used; blocks of a Transformer are built alike.
        hidden: not used either, the inner width being 2 d.
        depth: number of blocks of the whole network; the map back into the stream starts 1 / sqrt(2 depth) smaller.
    """

    def __init__(self, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        inner, self.rank = 2 * width, max(1, math.ceil(width / 16))
        self.norm = nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.conv = nn.Conv1d(inner, inner, _KERNEL, padding=_KERNEL - 1, groups=inner)
        self.choose, self.step_size = nn.Linear(inner, self.rank + 2 * _STATES, bias=False), nn.Linear(self.rank, inner)
        self.log_a = nn.Parameter(torch.arange(1, _STATES + 1).float().log().repeat(inner, 1))  # (2 d, N)
        self.skip = nn.Parameter(torch.ones(inner))
        for layer, scale in ((self.into, 1.0), (self.out, 2 * depth), (self.choose, 1.0)):
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features * scale))
        for layer in (self.into, self.out):
            nn.init.zeros_(layer.bias)
        first = torch.exp(torch.empty(inner).uniform_(*(math.log(s) for s in _STEPS)))
        with torch.no_grad():
            self.step_size.bias.copy_(first + torch.log(-torch.expm1(-first)))  # softplus of it is the step

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        tables: object = None,
        drop: Callable[[Tensor], Tensor] | None = None,
        keep: Callable[[tuple[Tensor, Tensor]], None] | None = None,
    ) -> Tensor:
        """Evaluate all positions; ``keep`` is told the inputs of the convolution and the last state."""
        T = x.shape[1]
        v, gate = self.into(self.norm(x)).chunk(2, -1)  # (B, T, 2 d) each
        u = F.silu(self.conv(v.transpose(1, 2))[..., :T].transpose(1, 2))
        a, b, c = self._chosen(u)
        h = scan(a, b)  # (B, T, 2 d, N)
        if keep is not None:
            keep((F.pad(v, (0, 0, _KERNEL - 1, 0))[:, -(_KERNEL - 1) :], h[:, -1]))
        y = self.out(((h * c).sum(-1) + self.skip * u) * F.silu(gate))
        return x + (y if drop is None else drop(y))

    def _chosen(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return exp(D A), D B u and C of values (..., 2 d): twice (..., 2 d, N), and (..., 1, N)."""
        low, b, c = self.choose(u).split((self.rank, _STATES, _STATES), -1)
        step = F.softplus(self.step_size(low))[..., None]  # (..., 2 d, 1)
        return torch.exp(-step * self.log_a.exp()), step * b[..., None, :] * u[..., None], c[..., None, :]

    def maps(self, n: int) -> None:
        """Return nothing: no weights are laid out anew."""

    def cache(self, n: int, size: int, like: Tensor) -> SelectiveState:
        """Return what one position needs of the earlier ones, of n sequences."""
        return SelectiveState(n, self.skip.numel(), like)

    def step(self, x: Tensor, maps: None, cache: SelectiveState, tables: object) -> Tensor:
        """Evaluate the next position: (B, d) -> (B, d)."""
        v, gate = self.into(self.norm(x)).chunk(2, -1)  # (B, 2 d) each
        seen = torch.cat([cache.inputs, v[:, None]], 1)  # (B, 4, 2 d)
        u = F.silu((seen * self.conv.weight[:, 0].T).sum(1) + self.conv.bias)
        a, b, c = self._chosen(u)
        cache.inputs, cache.h = seen[:, 1:], a * cache.h + b
        return x + self.out(((cache.h * c).sum(-1) + self.skip * u) * F.silu(gate))


class SelectiveState:
    """The last inputs of the convolution and the state of one block for n sequences, whatever their length."""

    def __init__(self, n: int, inner: int, like: Tensor) -> None:
        self.inputs, self.h = like.new_zeros(n, _KERNEL - 1, inner), like.new_zeros(n, inner, _STATES)

    def fill(self, kept: tuple[Tensor, Tensor]) -> None:
        """Take what all positions so far leave."""
        self.inputs, self.h = kept

    def select(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self.inputs, self.h = self.inputs[rows], self.h[rows]
