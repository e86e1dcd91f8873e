"""PixelRNN with Row LSTM layers: a recurrence from row to row, all pixels of a row at once.

    o, f, i, g = K_ss * h_{r-1} + K_is * x_r          convolutions along the row, K_is masked, K_ss not
    c_r = sigmoid(f) c_{r-1} + sigmoid(i) tanh(g),    h_r = sigmoid(o) tanh(c_r)

K_is sees a pixel and what is left of it, under mask B; the state that comes from the row above has seen a triangle of
pixels, which widens by half of a kernel to either side with each row up. A layer is a residual one: x + W h.

References:
    A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, arXiv:1601.06759, sections
    3.1 and 3.3, equation 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.raster import RasterModel
from zoo.nets.decoding_states import RasterState
from zoo.nets.masked import HeadState, MaskedConv2d

__all__ = ["RowLSTM", "RowLSTMState"]


class _Layer(nn.Module):
    """A residual Row LSTM layer, (B, 2 h, H, W) -> (B, 2 h, H, W); gates lie by colour, then o, f, i, g."""

    def __init__(self, hidden: int, kernel: int, colours: int) -> None:
        super().__init__()
        self.hidden, self.kernel, self.colours = hidden, kernel, colours
        self.seen = MaskedConv2d(2 * hidden, 4 * hidden, kernel, colours=colours, above=False)
        self.past = nn.Conv1d(hidden, 4 * hidden, kernel, padding=kernel // 2, bias=False)
        self.out = MaskedConv2d(hidden, 2 * hidden, 1, colours=colours)
        with torch.no_grad():  # states are kept at first
            self.seen.bias.view(colours, 4, -1)[:, 1] += 1

    def cell(self, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new cells and states: gates (B, 4 h, ...) and cells (B, h, ...) -> two of (B, h, ...)."""
        o, f, i, g = gates.unflatten(1, (self.colours, 4, -1)).unbind(2)  # (B, colours, h / colours, ...) each
        c = f.sigmoid() * c.unflatten(1, (self.colours, -1)) + i.sigmoid() * g.tanh()
        return c.flatten(1, 2), (o.sigmoid() * c.tanh()).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.seen(x)
        h = c = x.new_zeros(len(x), self.hidden, x.shape[3])
        rows = []
        for r in range(x.shape[2]):
            c, h = self.cell(gates[:, :, r] + self.past(h), c)
            rows.append(h)
        return x + self.out(torch.stack(rows, 2))


class RowLSTM(RasterModel):
    """PixelRNN: a convolution under mask A, residual Row LSTM layers, a head of 1 x 1 convolutions, a softmax a value.

    Args:
        shape: (C, H, W) of an image.
        levels: values of a pixel's colour, at least 2; 2 is the binary model.
        width: h, features of a state, a multiple of C; the stream has twice as many channels.
        depth: number of layers.
        first_kernel: odd kernel of the first convolution, under mask A.
        kernel: odd kernel of both convolutions of a layer.
        head: channels of the head, 2 ``width`` if left out.

    The other arguments are those of `zoo.families.raster.RasterModel`.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "head": "width", "depth": "depth"}

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        width: int = 16,
        depth: int = 4,
        first_kernel: int = 7,
        kernel: int = 3,
        head: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, num_classes=0, **kwargs)
        C = self.shape[0]
        head = head or 2 * width
        if depth < 1 or width < 1 or width % C or kernel % 2 == 0:
            raise ConfigError(
                f"depth must be at least 1, the kernel odd and the width of {width} a positive multiple of {C} colours"
            )
        self.first = MaskedConv2d(self.per_colour * C, 2 * width, first_kernel, mask="A", colours=C)
        self.layers = nn.ModuleList(_Layer(width, kernel, C) for _ in range(depth))
        self.head = MaskedConv2d(2 * width, head, 1, colours=C)
        self.out = MaskedConv2d(head, levels * C, 1, colours=C)

    def logits(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.first(features.permute(0, 3, 1, 2))
        for layer in self.layers:
            x = layer(x)
        return self.by_colour(self.out(F.relu(self.head(F.relu(x)))))

    def start(self, n: int, labels: Tensor | None = None) -> RowLSTMState:
        return RowLSTMState(self, n)


class _LayerState:
    """A layer, pixel by pixel, on a stream that it updates in place; what the row above says is computed once a row."""

    def __init__(self, layer: _Layer, n: int, width: int) -> None:
        self.layer, self.seen, self.out = layer, layer.seen.start(n, width), layer.out.start(n, 1)
        new = layer.seen.bias.new_zeros
        self.h, self.c, self.above = (new(n, layer.hidden, width) for _ in range(3))
        self.gates, self.y = new(n, 4 * layer.hidden), new(n, 2 * layer.hidden)
        self.past = new(n, 4 * layer.hidden, width)

    def row(self) -> None:
        self.seen.row()
        self.past = self.layer.past(self.h)
        self.above.copy_(self.c)

    def pixel(self, column: int, x: Tensor) -> None:
        self.seen.inputs[column].copy_(x)
        self.seen.pixel(column, self.gates)
        c, h = self.layer.cell(self.gates + self.past[:, :, column], self.above[:, :, column])
        self.c[:, :, column], self.h[:, :, column] = c, h
        self.out.inputs[0].copy_(h)
        self.out.pixel(0, self.y)
        x.add_(self.y)


class RowLSTMState(RasterState):
    """A Row LSTM network, evaluated pixel by pixel, every activation once.

    With several colours the stack is evaluated once a colour, and the last evaluation leaves every state complete.
    """

    def __init__(self, model: RowLSTM, n: int) -> None:
        C, _, W = model.shape
        self.first = model.first.start(n, W)
        self.layers = [_LayerState(layer, n, W) for layer in model.layers]
        self.head = HeadState(model.head, model.out, n)
        self.x = model.first.bias.new_empty(n, len(model.first.bias))
        self.z_of = self.head.z.split(model.levels, 1)
        super().__init__(model.shape, model.table(), [v.chunk(C, 1) for v in self.first.inputs])

    def row(self) -> None:
        super().row()
        self.first.row()
        for layer in self.layers:
            layer.row()

    def evaluate(self, column: int, colour: int) -> Tensor:
        self.first.pixel(column, self.x)
        for layer in self.layers:
            layer.pixel(column, self.x)
        self.head.pixel(self.x)
        return self.z_of[colour]
