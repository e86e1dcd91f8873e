"""Decoding of images in raster order: one loop for every autoregressive network, cached or not.

A network that is evaluated pixel by pixel offers a `RasterState`. `FullPasses` makes one out of any causal network, at
the price of one full forward pass for every pixel and colour: it is the reference that a cached state must equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["FullPasses", "Guided", "RasterState", "decode"]


class RasterState(Protocol):
    """Where a network stands within the images that are being drawn."""

    def row(self) -> None:
        """Begin the next row, the first one included."""

    def logits(self, column: int, colour: int) -> Tensor:
        """Return the logits (n, levels) of a colour of the current row's pixel; a buffer that the next call reuses."""

    def put(self, column: int, colour: int, values: Tensor) -> None:
        """Tell the values int64 (n,) of what `logits` was last asked for."""


class FullPasses:
    """The naive state: every value costs one pass of ``forward``, (n, C, H, W) int64 -> (n, C, H, W, levels)."""

    def __init__(self, forward: Callable[[Tensor], Tensor], n: int, shape: Sequence[int], device: torch.device) -> None:
        self.forward = forward
        self.k = torch.zeros(n, *shape, dtype=torch.int64, device=device)
        self.r = -1

    def row(self) -> None:
        self.r += 1

    def logits(self, column: int, colour: int) -> Tensor:
        return self.forward(self.k)[:, colour, self.r, column]

    def put(self, column: int, colour: int, values: Tensor) -> None:
        self.k[:, colour, self.r, column] = values


class Guided:
    """A state of 2 n images as one of n: the logits l of the first half, moved away from those of the other half.

    The halves have the same pixels and another condition: l + weight (l - l'), l and l' being log-probabilities.

    References:
        J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
    """

    def __init__(self, state: RasterState, weight: float) -> None:
        self.state, self.weight = state, weight

    def row(self) -> None:
        self.state.row()

    def logits(self, column: int, colour: int) -> Tensor:
        wanted, other = self.state.logits(column, colour).log_softmax(-1).chunk(2)
        return wanted + self.weight * (wanted - other)

    def put(self, column: int, colour: int, values: Tensor) -> None:
        self.state.put(column, colour, values.repeat(2))


def decode(
    state: RasterState,
    choose: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    given: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Draw images value by value: rows from the top, pixels from the left, colours in order.

    Args:
        state: a state before its first row.
        choose: (logits (n, levels), u (n,)) -> values int64 (n,); see `zoo.maths.decoding.Decoding`.
        noise: uniform numbers in [0, 1), (H, W, C, n); known pixels leave theirs unused, so that the noise of a pixel
            does not depend on what is given.
        given: values int64 (n, C, H, W) of the pixels that are known.
        known: bool (n, C, H, W), which pixels are taken from ``given``.

    Returns:
        int64 (n, C, H, W).
    """
    H, W, C, n = noise.shape
    k = torch.empty(H, W, C, n, dtype=torch.int64, device=noise.device)
    u, out = noise.flatten(0, 2).unbind(), k.flatten(0, 2).unbind()
    all_known, some_known, masks = [False] * len(u), [False] * len(u), []
    if given is not None and known is not None:
        k.copy_(given.permute(2, 3, 1, 0))  # (H, W, C, n)
        kept = known.permute(2, 3, 1, 0).flatten(0, 2)  # (H * W * C, n)
        all_known, some_known, masks = kept.all(1).tolist(), kept.any(1).tolist(), kept.unbind()
    i = 0
    for _ in range(H):
        state.row()
        for c in range(W):
            for colour in range(C):
                if not all_known[i]:
                    chosen = choose(state.logits(c, colour), u[i])
                    out[i].copy_(torch.where(masks[i], out[i], chosen) if some_known[i] else chosen)
                elif not isinstance(state, FullPasses):
                    state.logits(c, colour)  # later pixels read what this one leaves in the caches
                state.put(c, colour, out[i])
                i += 1
    return k.permute(3, 2, 0, 1)  # (n, C, H, W)
