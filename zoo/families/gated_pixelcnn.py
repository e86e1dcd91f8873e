"""Gated PixelCNN: two stacks of convolutions without a blind spot, gated activations, and classes to condition on.

References:
    A. van den Oord, N. Kalchbrenner, O. Vinyals, L. Espeholt, A. Graves, K. Kavukcuoglu, Conditional Image Generation
    with PixelCNN Decoders, 2016, arXiv:1606.05328.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.raster import RasterModel
from zoo.nets.compiled_gated import CompiledRow
from zoo.nets.gated import GatedLayer, augmented, shift_down
from zoo.nets.masked import MaskedConv2d

__all__ = ["GatedPixelCNN", "GatedPixelCNNState"]


class GatedPixelCNN(RasterModel):
    """Gated layers of a vertical and a horizontal stack, a head of 1 x 1 convolutions, a softmax a value.

    The first layer has mask A and no residual connection; ``depth`` layers under mask B follow.

    Args:
        shape: (C, H, W) of an image.
        levels: values of a pixel's colour, at least 2; 2 is the binary model.
        num_classes: classes to condition on, each adding a learnt bias before every gate; 0 for none.
        width: channels of both stacks, a multiple of C.
        depth: number of gated layers after the first.
        first_kernel: odd kernel k of the first layer.
        kernel: odd kernel k of the others: the vertical stack's convolutions are (k // 2 + 1) x k, which is a k x k
            convolution without its masked rows, the horizontal stack's reach k // 2 pixels to the left.
        square: let the vertical convolutions be k x k, reaching k rows up instead of k // 2 + 1.
        skip: channels that every layer adds to the sum which the head reads; 0 lets the head read the last layer.
        head: channels of the head, ``skip`` or ``width`` if left out.
        embedding: channels of a learnt table that the first layer sees in the place of each grey level; none for the
            grey level itself, in [0, 1].
        position: whether each pixel has a bias of its own after the first layer, in both stacks.
        lr: peak learning rate.
        betas: Adam's decay rates.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        num_classes: int = 0,
        width: int = 32,
        depth: int = 8,
        first_kernel: int = 7,
        kernel: int = 3,
        square: bool = False,
        skip: int = 0,
        head: int | None = None,
        embedding: int | None = None,
        position: bool = False,
        lr: float = 2.0e-3,
        betas: Sequence[float] = (0.9, 0.999),
    ) -> None:
        super().__init__(shape, levels, num_classes)
        C, H, W = self.shape
        self.lr, self.betas = lr, tuple(betas)
        e, end = embedding or 1, skip or width
        head = head or end
        self.embedding = nn.Parameter(torch.randn(levels, embedding)) if embedding else None
        self.position = nn.Parameter(torch.zeros(2, width, H, W)) if position else None

        def layer(features_in: int, k: int, mask: str, last: bool) -> GatedLayer:
            options = {"skip": skip, "mask": mask, "colours": C, "classes": num_classes, "last": last and skip > 0}
            return GatedLayer(features_in, width, k, k if square else k // 2 + 1, **options)

        self.first = layer(e * C, first_kernel, "A", depth == 0)
        self.layers = nn.ModuleList(layer(width, kernel, "B", i == depth - 1) for i in range(depth))
        self.head = MaskedConv2d(end, head, 1, colours=C)
        self.out = MaskedConv2d(head, levels * C, 1, colours=C)

    def features(self, k: Tensor) -> Tensor:
        """Return what the first layer sees of levels: int64 (...) -> (..., e)."""
        if self.embedding is not None:
            return F.embedding(k, self.embedding)
        return (k.to(self.out.bias.dtype) / (self.levels - 1))[..., None]

    def forward(self, k: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.logits(self.features(k.permute(0, 2, 3, 1)).flatten(3), labels)  # of (B, H, W, C * e)

    def logits(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return all logits of features, those of a colour side by side: (B, H, W, C * e) -> (B, C, H, W, levels)."""
        x = features.permute(0, 3, 1, 2)
        v, h, skip = self.first(shift_down(x), x, None, labels)
        if self.position is not None:
            v, h = v + self.position[0], h + self.position[1]
        for layer in self.layers:
            v, h, skip = layer(v, h, skip, labels)
        x = self.out(F.relu(self.head(F.relu(h if skip is None else skip))))
        return x.permute(0, 2, 3, 1).unflatten(3, (self.shape[0], self.levels)).permute(0, 3, 1, 2, 4)

    def start(self, n: int, labels: Tensor | None = None) -> GatedPixelCNNState:
        return GatedPixelCNNState(self, n, labels)

    def decode_compiled(
        self,
        labels: Tensor | None,
        noise: Tensor,
        given: Tensor | None,
        known: Tensor | None,
        temperature: float,
        greedy: bool,
    ) -> Tensor:
        H, W, C, n = noise.shape
        if C > 1:
            raise ConfigError("compiled sampling is for images of one colour; leave compiled out")
        state = self.start(n, labels)
        head = (state.head.left, state.head.bias, state.out.left, state.out.bias)
        rows = CompiledRow(state.layers, state.to_skip, head, state.table)
        k, kept = torch.zeros(H, W, n, dtype=torch.int64), torch.zeros(H, W, n, dtype=torch.bool)
        if given is not None and known is not None:
            k.copy_(given[:, 0].permute(1, 2, 0))
            kept.copy_(known[:, 0].permute(1, 2, 0))
        for r in range(H):
            state.row()
            rows.draw(state.base, noise[r, :, 0], k[r], kept[r], temperature, greedy)
        return k.permute(2, 0, 1)[:, None]  # (n, 1, H, W)


class GatedPixelCNNState:
    """A gated PixelCNN, evaluated pixel by pixel: a `zoo.nets.raster.RasterState` that computes everything once.

    The vertical stack is evaluated once a row, for all columns. With several colours the horizontal stack is evaluated
    once a colour; a colour's block of channels is final when the colours before it are known, so the last evaluation
    leaves every cache complete.
    """

    def __init__(self, model: GatedPixelCNN, n: int, labels: Tensor | None = None) -> None:
        C, _, W = model.shape
        self.r = -1
        modules = [model.first, *model.layers]
        self.layers = [layer.start(n, W, labels) for layer in modules]
        new = model.out.bias.new_empty
        self.head, self.out = model.head.start(n, 1), model.out.start(n, 1)
        self.z = new(n, len(model.out.bias))
        self.z_of = self.z.split(model.levels, 1)
        self.x = new(n, model.head.left.shape[1])
        # Where each layer's horizontal features go: what the next layer reads, at last what the head reads.
        self.flow = list(zip(self.layers, [layer.inputs for layer in self.layers[1:]] + [[self.x] * W], strict=True))
        self.to_skip = None
        if modules[0].to_skip is not None:
            self.to_skip = torch.cat([augmented(layer.to_skip) for layer in modules])
            self.g = torch.ones(n, len(self.to_skip), device=self.z.device, dtype=self.z.dtype)
            for layer, g in zip(self.layers, self.g.split(model.first.width + 1, 1), strict=True):
                layer.g, layer.gated = g, g[:, :-1]
        self.position = None if model.position is None else model.position.detach().permute(0, 2, 3, 1)  # (2, H, W, w)
        self.base = new(W, model.first.width).zero_()
        self.inputs = [v.chunk(C, 1) for v in self.layers[0].inputs]
        self.table = model.features(torch.arange(model.levels, device=self.z.device)).detach()  # (levels, e)

    def row(self) -> None:
        self.r += 1
        first, *rest = self.layers
        first.rows[:, -1] = first.horizontal.rows[:, -1]  # the image's row above, padding included
        for layer, following in zip(self.layers, [*rest, None], strict=True):
            layer.row(None if following is None else following.above)
            if layer is first and self.position is not None:
                self.base = self.position[1, self.r]
                if rest:
                    rest[0].above.add_(self.position[0, self.r], alpha=2)

    def logits(self, column: int, colour: int) -> Tensor:
        for layer, out in self.flow:
            layer.pixel(column)
            if layer.out is not None:
                h = self.base[column] if layer is self.layers[0] else layer.inputs[column]
                torch.addmm(h, layer.g, layer.out, out=out[column])
        if self.to_skip is not None:
            torch.mm(self.g, self.to_skip, out=self.x)
        torch.clamp_min(self.x, 0, out=self.head.inputs[0])
        self.head.pixel(0, self.out.inputs[0])
        self.out.inputs[0].clamp_min_(0)
        self.out.pixel(0, self.z)
        return self.z_of[colour]

    def put(self, column: int, colour: int, values: Tensor) -> None:
        self.inputs[column][colour].copy_(self.table[values])
