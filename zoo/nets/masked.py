"""Masked convolutions in raster order, and their exact evaluation one pixel at a time.

A pixel may depend on the rows above it and on what is left of it in its own row. A k x k convolution under that mask is
held as its live taps alone: one kernel of k//2 rows above, and one of a single row to the left; no weight is ever
multiplied by a zero of the mask. Within one pixel, colours follow each other: channels are split into equal blocks, one
a colour, and a block sees the blocks of earlier colours (mask A), or these and its own (mask B).

Incremental evaluation: ``layer.start(n, width)`` returns a state with

- ``row()``: begin the next row; what the rows above contribute is computed once, for all columns;
- ``pixel(column, ...)``: evaluate one pixel, from the taps of its own row, into preallocated buffers.

References:
    A. van den Oord, N. Kalchbrenner, K. Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, arXiv:1601.06759.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError

__all__ = ["ConvState", "HeadState", "MaskedConv2d", "MaskedResidual", "ResidualState", "colour_mask", "pointwise"]


def colour_mask(features_out: int, features_in: int, colours: int, *, own: bool) -> Tensor:
    """Return which input channels of a pixel each output channel may see: bool (features_out, features_in).

    Args:
        features_out: output channels, a multiple of ``colours``.
        features_in: input channels, a multiple of ``colours``.
        colours: number of colours, in the order in which they are drawn.
        own: whether a block sees its own colour (mask B) or earlier ones only (mask A).
    """
    to = torch.arange(features_out)[:, None] * colours // features_out
    of = torch.arange(features_in)[None, :] * colours // features_in
    return of <= to if own else of < to


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the 1 x 1 convolution of images (B, in, H, W) as one product of matrices, which is faster on CPUs.

    Args:
        x: best in channels-last order, in which the result is too.
        weight: (out, in, 1, 1).
        bias: (out,), or none.
    """
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


class MaskedConv2d(nn.Module):
    """k x k convolution that sees earlier pixels only: (B, in, H, W) -> (B, out, H, W).

    Args:
        features_in: input channels.
        features_out: output channels.
        kernel: odd k; 1 gives a map of each pixel by itself.
        mask: ``A`` hides the pixel's own value (and later colours), ``B`` shows what the same channel block computed.
        colours: number of colours that the channels are divided among.
        above: whether the k//2 rows above the pixel are seen too; a horizontal stack sees its own row alone.

    Raises:
        ConfigError: an even kernel, a mask other than A or B, channels that do not divide, or no live tap at all.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: int,
        *,
        mask: str = "B",
        colours: int = 1,
        above: bool = True,
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f"the kernel of a masked convolution must be odd and positive, got {kernel}")
        if mask not in ("A", "B"):
            raise ConfigError(f"mask must be 'A' or 'B', got {mask!r}")
        if features_in % colours or features_out % colours:
            raise ConfigError(
                f"a masked convolution from {features_in} to {features_out} channels does not divide them among "
                f"{colours} colours; choose multiples of {colours}"
            )
        p = kernel // 2
        self.kernel, self.mask, self.colours = kernel, mask, colours
        self.centre = mask == "B" or colours > 1
        if p + self.centre == 0:
            raise ConfigError("a 1 x 1 convolution under mask A sees nothing; use a larger kernel")
        self.above = nn.Parameter(torch.empty(features_out, features_in, p, kernel)) if p and above else None
        self.left = nn.Parameter(torch.empty(features_out, features_in, 1, p + self.centre))
        self.bias = nn.Parameter(torch.empty(features_out))
        bound = 1 / math.sqrt(features_in * (p * kernel * above + p + self.centre))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        own = colour_mask(features_out, features_in, colours, own=mask == "B").to(self.left) if colours > 1 else None
        self.register_buffer("own", own, persistent=False)  # (out, in): which colours of its own pixel each one sees

    def left_weight(self) -> Tensor:
        """Return the kernel of the pixel's own row, (out, in, 1, taps), the pixel itself last where it is seen."""
        if self.own is None:
            return self.left
        return torch.cat([self.left[..., :-1], self.left[..., -1:] * self.own[..., None, None]], -1)

    def forward(self, x: Tensor) -> Tensor:
        p, weight = self.kernel // 2, self.left_weight()
        if self.kernel == 1:
            return pointwise(x, weight, self.bias)
        left = F.conv2d(F.pad(x, (p, 0 if self.centre else -1)), weight, self.bias)
        if self.above is None:
            return left
        return left + F.conv2d(F.pad(x, (p, p, p, -1)), self.above)

    def start(self, n: int, width: int) -> ConvState:
        """Return the state of incremental evaluation of ``n`` images that are ``width`` pixels wide."""
        return ConvState(self, n, width)


class ConvState:
    """A masked convolution, evaluated pixel by pixel.

    The last k//2 rows of the input are kept, channels innermost and zero-padded on both sides, so that the taps of a
    pixel's own row are one contiguous vector an image, and all of what a row owes to the rows above is one product.

    Attributes:
        inputs: for each column, where to write the input of the current row's pixel: views (n, in).
    """

    def __init__(self, layer: MaskedConv2d, n: int, width: int) -> None:
        k, p, taps = layer.kernel, layer.kernel // 2, layer.left.shape[-1]
        out, C = layer.left.shape[:2]
        W, row = width, (width + 2 * p) * C
        left = layer.left_weight().detach()
        self.bias = layer.bias.detach()
        self.left = left.permute(3, 2, 1, 0).reshape(taps * C, out).contiguous()  # (taps * in, out)
        self.rows = left.new_zeros(n, 1 if layer.above is None else p, W + 2 * p, C)
        current = self.rows[:, -1]  # (n, W + 2p, C)
        self.inputs = current.unbind(1)[p : p + W]
        # Taps left of column c start at the padded column c; (n, taps * C), an overlapping view of the current row.
        strides = (self.rows.stride(0), C, 1)
        self.taps = self.rows.as_strided((n, W, taps * C), strides, current.storage_offset()).unbind(1)
        self.weight_above = None
        self.sums: Sequence[Tensor] = [self.bias] * W
        if layer.above is not None:
            self.weight_above = layer.above.detach().permute(2, 3, 1, 0).reshape(p * k * C, out).contiguous()
            self.windows = self.rows.as_strided((n, W, p, k * C), (p * row, C, row, 1))  # they overlap
            self.patches = left.new_empty(n, W, p, k * C)
            self.above = left.new_empty(n, W, out)
            self.sums = self.above.unbind(1)

    def row(self) -> None:
        """Begin the next row: fold in the rows above, and let the oldest of them go."""
        if self.weight_above is None:
            return
        self.patches.copy_(self.windows)
        patches = self.patches.flatten(2).flatten(0, 1)  # (n * W, p * k * C)
        torch.addmm(self.bias, patches, self.weight_above, out=self.above.flatten(0, 1))
        for i in range(self.rows.shape[1] - 1):
            self.rows[:, i] = self.rows[:, i + 1]

    def pixel(self, column: int, out: Tensor) -> None:
        """Write the convolution at a column of the current row, whose input is in ``inputs[column]``, into (n, out)."""
        torch.addmm(self.sums[column], self.taps[column], self.left, out=out)


class MaskedResidual(nn.Module):
    """Residual block under mask B: x + conv(ReLU(x)), or with a bottleneck x + 1x1(ReLU(conv(ReLU(1x1(ReLU(x)))))).

    Args:
        width: channels of the residual stream.
        kernel: odd k of the masked convolution.
        hidden: channels inside the bottleneck; none leaves the bottleneck out.
        colours: number of colours that the channels are divided among.
    """

    def __init__(self, width: int, kernel: int, hidden: int | None = None, *, colours: int = 1) -> None:
        super().__init__()
        h = hidden or width
        self.squeeze = MaskedConv2d(width, h, 1, colours=colours) if hidden else None
        self.conv = MaskedConv2d(h, h, kernel, colours=colours)
        self.expand = MaskedConv2d(h, width, 1, colours=colours) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(x)
        if self.squeeze is not None:
            h = F.relu(self.squeeze(h))
        h = self.conv(h)
        if self.expand is not None:
            h = self.expand(F.relu(h))
        return x + h

    def start(self, n: int, width: int) -> ResidualState:
        """Return the state of incremental evaluation of ``n`` images that are ``width`` pixels wide."""
        return ResidualState(self, n, width)


class ResidualState:
    """A residual block, evaluated pixel by pixel, on a residual stream that it updates in place."""

    def __init__(self, block: MaskedResidual, n: int, width: int) -> None:
        self.conv = block.conv.start(n, width)
        self.h = block.conv.bias.new_empty(n, len(block.conv.bias))
        self.squeeze = self.expand = None
        if block.squeeze is not None and block.expand is not None:
            # A 1 x 1 convolution reads a single pixel, so one column serves all of them.
            self.squeeze, self.expand = block.squeeze.start(n, 1), block.expand.start(n, 1)
            self.y = block.expand.bias.new_empty(n, len(block.expand.bias))

    def row(self) -> None:
        """Begin the next row."""
        self.conv.row()

    def pixel(self, column: int, x: Tensor) -> None:
        """Add the block's contribution at a column of the current row to the residual stream ``x``, (n, width)."""
        if self.squeeze is None or self.expand is None:
            torch.clamp_min(x, 0, out=self.conv.inputs[column])
            self.conv.pixel(column, self.h)
            x.add_(self.h)
            return
        torch.clamp_min(x, 0, out=self.squeeze.inputs[0])
        self.squeeze.pixel(0, self.h)
        torch.clamp_min(self.h, 0, out=self.conv.inputs[column])
        self.conv.pixel(column, self.h)
        torch.clamp_min(self.h, 0, out=self.expand.inputs[0])
        self.expand.pixel(0, self.y)
        x.add_(self.y)


class HeadState:
    """Two 1 x 1 maps, each after a ReLU, evaluated pixel by pixel.

    Attributes:
        z: what the second map made of the last pixel, (n, out).
    """

    def __init__(self, head: MaskedConv2d, out: MaskedConv2d, n: int) -> None:
        self.head, self.out = head.start(n, 1), out.start(n, 1)
        self.z = out.bias.new_empty(n, len(out.bias))

    def pixel(self, x: Tensor) -> None:
        """Evaluate the features of a pixel, (n, in)."""
        torch.clamp_min(x, 0, out=self.head.inputs[0])
        self.head.pixel(0, self.out.inputs[0])
        self.out.inputs[0].clamp_min_(0)
        self.out.pixel(0, self.z)
