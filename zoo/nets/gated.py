"""Gated layers of two stacks of masked convolutions, which together see every earlier pixel.

A single stack of masked convolutions never sees some pixels above and to the right (the blind spot). Here a vertical
stack sees all rows above, by real two-dimensional convolutions without any mask, and a horizontal stack sees what is
left of the pixel in its own row; each layer feeds the vertical features of the row above into the horizontal ones.

The shift by one row is done once, at the input: a convolution commutes with it, so what this module calls the vertical
features of row r are those of row r - 1, and depend on the rows above r alone.

References:
    A. van den Oord, N. Kalchbrenner, O. Vinyals, L. Espeholt, A. Graves, K. Kavukcuoglu, Conditional Image Generation
    with PixelCNN Decoders, 2016, arXiv:1606.05328, figure 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from zoo.nets.masked import MaskedConv2d, pointwise

__all__ = ["GatedLayer", "GatedState", "augmented", "gate", "shift_down"]


def shift_down(x: Tensor) -> Tensor:
    """Move images (B, C, H, W) one row down; the first row becomes zero and the last one is lost."""
    return F.pad(x, (0, 0, 1, -1))


def gate(x: Tensor, colours: int = 1) -> Tensor:
    """Return tanh(a) sigmoid(b), a and b being the halves of each colour's block: (B, 2 w, H, W) -> (B, w, H, W)."""
    x = x.permute(0, 2, 3, 1).unflatten(3, (colours, 2, -1))  # (B, H, W, colours, 2, w / colours)
    return _Gate.apply(x.contiguous()).flatten(3).permute(0, 3, 1, 2)


class _Gate(torch.autograd.Function):
    """tanh(a) sigmoid(b) of (..., 2, w) -> (..., w), by one tanh: sigmoid(b) = (1 + tanh(b / 2)) / 2."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        t = torch.empty_like(x)
        t[..., 0, :] = x[..., 0, :]
        torch.mul(x[..., 1, :], 0.5, out=t[..., 1, :])
        t.tanh_()
        ctx.save_for_backward(t)
        return torch.addcmul(t[..., 0, :], t[..., 0, :], t[..., 1, :]).mul_(0.5)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (t,) = ctx.saved_tensors
        a, b = t.unbind(-2)
        # d/da = (1 - a^2) (1 + b) / 2 and d/db = a (1 - b^2) / 4, a and b being the tanh of both halves
        out = torch.addcmul(t.new_ones(()), t, t, value=-1)
        out[..., 0, :] *= (b + 1).mul_(grad).mul_(0.5)
        out[..., 1, :] *= (a * grad).mul_(0.25)
        return out


class GatedLayer(nn.Module):
    """One layer of both stacks: (B, in, H, W) twice -> vertical, horizontal (B, width, H, W), skip (B, skip, H, W).

        u = vertical * v,                     v' = tanh(u_1 + c_1) sigmoid(u_2 + c_2)
        z = horizontal * h + link u,          g = tanh(z_1 + d_1) sigmoid(z_2 + d_2)
        h' = h + out g,                       skip' = skip + to_skip g

    where c and d are what the class adds. Under mask A, which hides the pixel's own value, h' has no residual term.

    Args:
        features_in: channels of what the layer reads, ``width`` under mask B.
        width: channels of both stacks, a multiple of ``colours``.
        kernel: odd k: the vertical kernel has k columns, the horizontal one k // 2 pixels to the left.
        rows: rows of the vertical kernel, the one just above the pixel last; the paper's is k // 2 + 1.
        skip: channels of the skip connection, 0 for none.
        mask: ``A`` hides the pixel's own value, ``B`` shows what the same channel block computed.
        colours: number of colours that the channels are divided among.
        classes: classes that the layer is conditioned on, 0 for none.
        last: leave out the residual connection, which nothing would read after the last layer.
    """

    def __init__(
        self,
        features_in: int,
        width: int,
        kernel: int,
        rows: int,
        *,
        skip: int = 0,
        mask: str = "B",
        colours: int = 1,
        classes: int = 0,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.kernel, self.rows, self.colours, self.residual = width, kernel, rows, colours, mask == "B"
        self.vertical = nn.Conv2d(features_in, 2 * width, (rows, kernel))
        self.link = nn.Conv2d(2 * width, 2 * width, 1, bias=False)
        self.horizontal = MaskedConv2d(features_in, 2 * width, kernel, mask=mask, colours=colours, above=False)
        self.out = None if last else MaskedConv2d(width, width, 1, colours=colours)
        self.to_skip = MaskedConv2d(width, skip, 1, colours=colours) if skip else None
        # What each class adds to both stacks before their gates.
        self.condition = nn.Parameter(torch.zeros(classes, 2, 2 * width)) if classes else None

    def forward(
        self, v: Tensor, h: Tensor, skip: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        p = self.kernel // 2
        u = self.vertical(F.pad(v, (p, p, self.rows - 1, 0)))
        z = self.horizontal(h) + pointwise(u, self.link.weight)
        if self.condition is not None and labels is not None:
            c, d = F.embedding(labels, self.added().flatten(1)).unflatten(1, (2, -1)).unbind(1)  # (B, 2 width) each
            u, z = u + c[..., None, None], z + d[..., None, None]
        g = gate(z, self.colours)
        if self.to_skip is not None:
            skip = self.to_skip(g) if skip is None else skip + self.to_skip(g)
        if self.out is not None:
            h = h + self.out(g) if self.residual else self.out(g)
        return gate(u), h, skip

    def added(self) -> Tensor:
        """Return what each class adds to both stacks, and last what they add on average: (classes + 1, 2, 2 width)."""
        return torch.cat([self.condition, self.condition.mean(0, keepdim=True)])

    def start(self, n: int, width: int, labels: Tensor | None = None) -> GatedState:
        """Return the state of incremental evaluation of ``n`` images that are ``width`` pixels wide."""
        return GatedState(self, n, width, labels)


class GatedState:
    """A gated layer, evaluated row by row in its vertical stack and pixel by pixel in its horizontal one.

    Both gates are computed by one tanh: with t = (tanh a, tanh b / 2), t_1 + t_1 t_2 = 2 tanh(a) sigmoid(b). The
    halves of b and the factor 2 are folded into copies of the weights; vertical features are kept doubled.

    Attributes:
        inputs: for each column, where to write the horizontal stack's input at the current row: views (n, in).
        above: where to write the vertical stack's input of the current row, (n, W, in), doubled under mask B.
        g: twice the gated features of the pixel evaluated last, and a one for the biases: (n, width + 1).
    """

    def __init__(self, layer: GatedLayer, n: int, width: int, labels: Tensor | None = None) -> None:
        w, p, R, W = layer.width, layer.kernel // 2, layer.rows, width
        half = torch.cat([layer.link.weight.new_ones(w), layer.link.weight.new_full((w,), 0.5)])
        # Channels of the horizontal stack in the order (half, colour, rest), so that its halves lie side by side.
        order = torch.arange(2 * w).view(layer.colours, 2, -1).transpose(0, 1).flatten()
        self.horizontal = layer.horizontal.start(n, W)
        self.horizontal.left = (self.horizontal.left[:, order] * half).contiguous()
        self.inputs, self.taps, self.left = self.horizontal.inputs, self.horizontal.taps, self.horizontal.left
        vertical = layer.vertical.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)  # (rows * k * in, 2 w)
        self.vertical = (vertical * half * (0.5 if layer.residual else 1.0)).contiguous()
        self.link = (layer.link.weight.detach()[:, :, 0, 0].T[:, order] * half / half[:, None]).contiguous()
        # The class is added to u before its gate but not before the link, which is undone in the sums' constant.
        c, d = 0.0, 0.0
        if layer.condition is not None and labels is not None:
            c, d = layer.added().detach()[labels].repeat_interleave(W, 0).unbind(1)  # (n * W, 2 w) each
            c, d = c * half, d[:, order] * half - (c * half) @ self.link
        self.bias = layer.vertical.bias.detach() * half + c
        self.constant = layer.horizontal.bias.detach()[order] * half + d
        C = layer.vertical.in_channels
        self.rows = half.new_zeros(n, R, W + 2 * p, C)
        self.above = self.rows[:, -1, p : p + W]
        size = (n, W, R, layer.kernel * C)
        self.windows = self.rows.as_strided(size, (self.rows.stride(0), C, (W + 2 * p) * C, 1))  # they overlap
        self.patches = half.new_empty(size)
        self.u, self.s = half.new_empty(n, W, 2 * w), half.new_empty(n, W, 2 * w)
        self.u_of, self.sums = self.u.chunk(2, 2), self.s.unbind(1)
        self.u_rows, self.patch_rows = self.u.flatten(0, 1), self.patches.flatten(2).flatten(0, 1)  # (n * W, ...)
        self.moves = [(self.rows[:, i], self.rows[:, i + 1]) for i in range(R - 1)]
        self.z = half.new_empty(n, 2 * w)
        self.z_of = self.z.chunk(2, 1)
        self.g = half.new_ones(n, w + 1)
        self.gated = self.g[:, :w]
        self.out = None if layer.out is None else augmented(layer.out)

    def row(self, out: Tensor | None) -> None:
        """Begin the next row: fold in the rows above; the doubled vertical features go into ``out``, (n, W, w)."""
        self.patches.copy_(self.windows)
        torch.addmm(self.bias, self.patch_rows, self.vertical, out=self.u_rows)
        torch.addmm(self.constant, self.u_rows, self.link, out=self.s.flatten(0, 1))
        if out is not None:
            self.u.tanh_()
            torch.addcmul(self.u_of[0], *self.u_of, out=out)
        for older, newer in self.moves:
            older.copy_(newer)

    def pixel(self, column: int) -> None:
        """Compute the gated features at a column of the current row, with ``inputs[column]`` filled in, into ``g``."""
        torch.addmm(self.sums[column], self.taps[column], self.left, out=self.z)
        self.z.tanh_()
        torch.addcmul(self.z_of[0], *self.z_of, out=self.gated)


def augmented(layer: MaskedConv2d) -> Tensor:
    """Return the weight of a 1 x 1 convolution of doubled features followed by a one: (in + 1, out), the bias last."""
    weight = layer.left_weight().detach()[:, :, 0, 0].T
    return torch.cat([weight * 0.5, layer.bias.detach()[None]]).contiguous()
