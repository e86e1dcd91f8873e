"""Exact incremental evaluation of `zoo.nets.streams.Streams`: through short-cuts and resampling, nothing twice.

The down stream is evaluated once a row: a row of scale s exists for every 2^s-th row of the image, and a doubled row
waits for the finer row that reads it. The down-right stream is evaluated once a pixel: a pixel of scale s exists where
row and column are multiples of 2^s; doubling writes the four finer pixels at once, which the following ones read. What
the rows above and the down stream contribute to the down-right one is folded in once per row of each scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nets.streams import ShiftedConv2d, StreamBlock, Streams, concat_elu

__all__ = ["StreamsState"]


def _across(row: Tensor) -> Tensor:
    """Return a row (n, w, 1, W) with its channels last: (n, W, w)."""
    return row[:, :, 0].transpose(1, 2)


class _Row:
    """A shifted convolution of whole rows, which keeps the row above."""

    def __init__(self, conv: ShiftedConv2d) -> None:
        self.conv, self.above = conv, None

    def see(self, row: Tensor) -> None:
        """Keep a row (n, in, 1, W) as the one above the next."""
        self.above = row

    def __call__(self, row: Tensor) -> Tensor:
        """Return the convolution at a row, given the one seen before it: (n, in, 1, W) -> (n, out, 1, W / s)."""
        above = torch.zeros_like(row) if self.above is None else self.above
        x = F.pad(torch.cat([above, row], 2), (self.conv.left, self.conv.right))
        self.above = row
        return F.conv2d(x, self.conv.weight, self.conv.bias, self.conv.stride)


class _BlockRow:
    """A block of the down stream, evaluated row by row."""

    def __init__(self, block: StreamBlock) -> None:
        self.nin, self.conv1, self.conv2 = block.nin, _Row(block.conv1), _Row(block.conv2)

    def __call__(self, x: Tensor, aside: Tensor | None = None) -> Tensor:
        h = self.conv1(concat_elu(x))
        if self.nin is not None and aside is not None:
            h += self.nin(concat_elu(aside))
        a, b = self.conv2(concat_elu(h)).chunk(2, 1)
        return torch.addcmul(x, a, torch.sigmoid(b))


class _Pixel:
    """A 2 x 2 convolution up and to the left, evaluated pixel by pixel.

    Attributes:
        inputs: for each column, where to write the input of the current row's pixel: views (n, in).
        sums: for each column of the output, what the row above contributes, the bias included: (n, W / s, out).
    """

    def __init__(self, conv: ShiftedConv2d, n: int, width: int) -> None:
        weight, C, s = conv.weight.detach(), conv.in_channels, conv.stride[0]
        above, left = weight.permute(2, 3, 1, 0).flatten(1, 2).unbind(0)  # (2 * in, out), of the row above and its own
        self.weight_above, self.left, self.bias = above.contiguous(), left.contiguous(), conv.bias.detach()
        row = weight.new_zeros(n, width + 1, C)  # the first column is padding
        self.inputs = row.unbind(1)[1:]
        stride = row.stride(0)
        self.windows = row.as_strided((n, width // s, 2 * C), (stride, s * C, 1))  # they overlap
        self.taps = self.windows.unbind(1)
        self.sums = weight.new_empty(n, width // s, conv.out_channels)
        self.sum_of = self.sums.unbind(1)

    def row(self) -> None:
        """Begin the next row of the output: fold in the input's row above."""
        x = self.windows.reshape(-1, self.windows.shape[2])  # (n * W / s, 2 * in)
        torch.addmm(self.bias, x, self.weight_above, out=self.sums.flatten(0, 1))

    def pixel(self, column: int, out: Tensor | None = None) -> Tensor:
        """Return the convolution at a column of the output: (n, out)."""
        return torch.addmm(self.sum_of[column], self.taps[column], self.left, out=out)


def _write_concat_elu(x: Tensor, out: Tensor) -> None:
    a, b = out.chunk(2, 1)
    a.copy_(x)
    torch.neg(x, out=b)
    F.elu(out, inplace=True)


class _BlockPixel:
    """A block of the down-right stream, evaluated pixel by pixel."""

    def __init__(self, block: StreamBlock, n: int, width: int) -> None:
        w = block.conv1.out_channels
        self.conv1, self.conv2 = _Pixel(block.conv1, n, width), _Pixel(block.conv2, n, width)
        nin = block.nin.weight.detach().flatten(1).T  # (2 * aside, w), rows of (u, short-cut) and of their negatives
        of = nin.unflatten(0, (2, -1, w))  # (2, u or u and short-cut, w, w)
        self.of_u = of[:, 0].flatten(0, 1).contiguous()  # (2 * w, w)
        self.of_short = of[:, 1].flatten(0, 1).contiguous() if of.shape[1] == 2 else None
        self.h, self.z = nin.new_empty(n, w), nin.new_empty(n, 2 * w)
        self.a, self.b = self.z.chunk(2, 1)

    def row(self, u: Tensor) -> None:
        """Begin the next row, at which the down stream is u, (n, w, 1, W)."""
        self.conv1.row()
        self.conv2.row()
        self.conv1.sums += concat_elu(_across(u), 2) @ self.of_u

    def pixel(self, column: int, x: Tensor, celu: Tensor, short: Tensor | None = None) -> Tensor:
        """Return the block's output at a column of the current row: x and what is returned are (n, w).

        Args:
            column: of the row.
            x: the stream.
            celu: `concat_elu` of it.
            short: `concat_elu` of the short-cut, on the way up.
        """
        self.conv1.inputs[column].copy_(celu)
        self.conv1.pixel(column, self.h)
        if short is not None:
            self.h.addmm_(short, self.of_short)
        _write_concat_elu(self.h, self.conv2.inputs[column])
        self.conv2.pixel(column, self.z)
        return torch.addcmul(x, self.a, self.b.sigmoid_())


class StreamsState:
    """Both streams of a PixelCNN++, evaluated row by row and pixel by pixel.

    Attributes:
        inputs: for each column, where to write the image's features at the current row's pixel: views (n, in).
    """

    def __init__(self, streams: Streams, n: int, width: int) -> None:
        self.net, self.r, self.scales = streams, -1, len(streams.down_u)
        widths = [width >> s for s in range(self.scales)]
        # The current row of the image, the first column padding.
        self.image = streams.first_u.weight.new_zeros(n, width + 1, streams.first_u.in_channels)
        self.inputs, self.left_of = self.image.unbind(1)[1:], self.image.unbind(1)
        self.first_u, self.first_left = _Row(streams.first_u), streams.first_left
        self.left = streams.first_left.weight.detach()[:, :, 1, 0].T.contiguous()
        self.down_u = [[_BlockRow(b) for b in blocks] for blocks in streams.down_u]
        self.up_u = [[_BlockRow(b) for b in blocks] for blocks in streams.up_u]
        self.halve_u = [_Row(conv) for conv in streams.halve_u]
        self.down_l = [[_BlockPixel(b, n, W) for b in bs] for bs, W in zip(streams.down_l, widths, strict=True)]
        self.up_l = [[_BlockPixel(b, n, W) for b in bs] for bs, W in zip(streams.up_l, widths, strict=True)]
        self.halve_l = [_Pixel(conv, n, W) for conv, W in zip(streams.halve_l, widths, strict=False)]
        self.double_l = [_Doubling(conv, n, W) for conv, W in zip(streams.double_l, widths[1:], strict=True)]
        self.doubled: list[Tensor | None] = [None] * self.scales  # two rows of each scale, from the coarser one

    def row(self) -> None:
        """Begin the next row of the image."""
        self.r += 1
        active = [s for s in range(self.scales) if self.r % 2**s == 0]  # scales that have a row here
        u = self._first()
        us = [u]
        for s in active:
            if s:
                us.append(self.halve_u[s - 1](us[-1]))
                self.halve_l[s - 1].row()
            for block_u, block_l in zip(self.down_u[s], self.down_l[s], strict=True):
                us.append(block_u(us[-1]))
                block_l.row(us[-1])
            if s == active[-1] and s < self.scales - 1:
                self.halve_u[s].see(us[-1])
        for s in reversed(active):
            u = us.pop() if s == self.scales - 1 else self.doubled[s][:, :, (self.r >> s) % 2, None]
            for block_u, block_l in zip(self.up_u[s], self.up_l[s], strict=True):
                u = block_u(u, us.pop())
                block_l.row(u)
            if s:
                self.doubled[s - 1] = self.net.double_u[s - 1](u)

    def _first(self) -> Tensor:
        """Compute what the image's row above contributes to both streams; return the down one, (n, w, 1, W)."""
        net = self.net
        row = self.image.transpose(1, 2)[:, :, None, 1:].clone()  # (n, in, 1, W), of the row above
        if self.r == 0:  # above the image both streams are zero, without any bias
            u = row.new_zeros(len(row), net.first_u.out_channels, 1, row.shape[3])
            l = u + net.first_left.bias[:, None, None]
            l[..., 0] = 0  # the shifted-in column
        else:
            u, left = self.first_u(row), F.conv2d(row, net.first_left.weight[:, :, :1], net.first_left.bias)
            l = net.first_above(row) + F.pad(left, (1, -1))
        if net.position is not None:
            u, l = u + net.position[0, :, self.r, None], l + net.position[1, :, self.r, None]
        self.sums = _across(l).contiguous().unbind(1)
        return u

    def pixel(self, column: int) -> Tensor:
        """Return the features at a column of the current row: (n, width), before anything is known of the pixel."""
        l = torch.addmm(self.sums[column], self.left_of[column], self.left)
        steps = [s for s in range(self.scales) if self.r % 2**s == 0 and column % 2**s == 0]
        last = steps[-1]
        shorts: list[Tensor] = []  # of each layer on the way down, after concat_elu
        for s in steps:
            if s:
                l = self.halve_l[s - 1].pixel(column >> s)
            shorts.append(concat_elu(l))
            for block in self.down_l[s]:
                l = block.pixel(column >> s, l, shorts[-1])
                shorts.append(concat_elu(l))
            if s < self.scales - 1:
                self.halve_l[s].inputs[column >> s].copy_(l)
        for s in reversed(steps):
            if s == self.scales - 1:
                celu = shorts.pop()
            else:
                if s == last:
                    l = self.double_l[s].read(self.r >> s, column >> s)
                celu = concat_elu(l)
            for block in self.up_l[s]:
                l = block.pixel(column >> s, l, celu, shorts.pop())
                celu = concat_elu(l) if block is not self.up_l[s][-1] else celu
            if s:
                self.double_l[s - 1].write(column >> s, l)
                l = self.double_l[s - 1].read(self.r >> (s - 1), column >> (s - 1))
        return l


class _Doubling:
    """A 2 x 2 transposed convolution of stride 2: each pixel is written once and read as four finer ones."""

    def __init__(self, conv: nn.ConvTranspose2d, n: int, width: int) -> None:
        w = conv.out_channels
        self.weight = conv.weight.detach().permute(0, 2, 3, 1).flatten(1).contiguous()  # (in, 2 * 2 * out)
        self.bias = conv.bias.detach().repeat(4)
        self.cells = self.weight.new_empty(width, n, 4 * w)
        self.parts = [cell.chunk(4, 1) for cell in self.cells]  # top left, top right, bottom left, bottom right

    def write(self, column: int, x: Tensor) -> None:
        """Take the coarse pixel at a column, (n, in)."""
        torch.addmm(self.bias, x, self.weight, out=self.cells[column])

    def read(self, row: int, column: int) -> Tensor:
        """Return the fine pixel at a row and a column, (n, out)."""
        return self.parts[column // 2][2 * (row % 2) + column % 2]
