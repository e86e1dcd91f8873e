"""Where a network stands within what is being drawn value by value: the states that all networks share.

`zoo.maths.decoding.decode` draws with any `zoo.maths.decoding.ValueState`. `FullPasses` makes one out of any causal
network, at the price of one full forward pass for every value: it is the reference that a cached state must equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.maths.decoding import ValueState

__all__ = ["FullPasses", "GuidedState", "RasterState"]


class FullPasses:
    """The naive state: every value costs one forward pass.

    Args:
        predict: (values so far int64 (n, t), labels (n,) or none) -> logits (n, levels) of the next value.
        n: how many are drawn.
        labels: int64 (n,), of a conditional network.
        device: of the values.
    """

    def __init__(
        self, predict: Callable[[Tensor, Tensor | None], Tensor], n: int, labels: Tensor | None, device: torch.device
    ) -> None:
        self.predict, self.labels = predict, labels
        self.k = torch.empty(n, 0, dtype=torch.int64, device=device)

    def logits(self) -> Tensor:
        return self.predict(self.k, self.labels)

    def put(self, values: Tensor) -> None:
        self.k = torch.cat([self.k, values.reshape(len(values), -1)], 1)

    def select(self, rows: Tensor) -> None:
        self.k = self.k[rows]
        self.labels = None if self.labels is None else self.labels[rows]


class GuidedState:
    """A state of 2 n examples as one of n: the logits l of the first half, moved away from those of the other half.

    The halves have the same values and another condition: l + weight (l - l'), l and l' being log-probabilities.

    References:
        J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
    """

    def __init__(self, state: ValueState, weight: float) -> None:
        self.state, self.weight = state, weight

    def logits(self) -> Tensor:
        wanted, other = self.state.logits().log_softmax(-1).chunk(2)
        return wanted + self.weight * (wanted - other)

    def put(self, values: Tensor) -> None:
        self.state.put(torch.cat([values, values]))


class RasterState:
    """Base of the cached states of images: rows from the top, pixels from the left, colours in order.

    A network gives `row` and `evaluate`; every value is evaluated once, also where it is known beforehand, as later
    pixels read what it leaves in the caches.

    Args:
        shape: (C, H, W) of an image.
        table: what the network sees of each level, (levels, e).
        inputs: for each column and colour, where to write that: views (n, e).
    """

    def __init__(self, shape: Sequence[int], table: Tensor, inputs: Sequence[Sequence[Tensor]]) -> None:
        self.colours, _, self.width = shape
        self.table, self.inputs = table, inputs
        self.r, self.column, self.colour = -1, 0, 0
        self.found: Tensor | None = None

    def row(self) -> None:
        """Begin the next row, the first one included."""
        self.r += 1

    def evaluate(self, column: int, colour: int) -> Tensor:
        """Return the logits (n, levels) of a colour of the current row's pixel; a buffer that the next call reuses."""
        raise NotImplementedError

    def see(self, column: int, colour: int, values: Tensor) -> None:
        """Take the values int64 (n,) of what was evaluated last."""
        self.inputs[column][colour].copy_(self.table[values])

    def logits(self) -> Tensor:
        if self.found is None:
            if self.column == self.colour == 0:
                self.row()
            self.found = self.evaluate(self.column, self.colour)
        return self.found

    def put(self, values: Tensor) -> None:
        for value in (values,) if values.ndim == 1 else values.unbind(1):
            self.logits()
            self.see(self.column, self.colour, value)
            self.found = None
            self.colour = (self.colour + 1) % self.colours
            self.column = (self.column + (self.colour == 0)) % self.width
