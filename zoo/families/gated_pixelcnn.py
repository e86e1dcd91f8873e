"""Gated PixelCNN: two stacks of convolutions without a blind spot, gated activations, and classes to condition on.

References:
    A. van den Oord, N. Kalchbrenner, O. Vinyals, L. Espeholt, A. Graves, K. Kavukcuoglu, Conditional Image Generation
    with PixelCNN Decoders, 2016, arXiv:1606.05328.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.raster import RasterModel
from zoo.maths.decoding import Decoding
from zoo.nets.compiled_gated import CompiledRow
from zoo.nets.decoding_states import RasterState
from zoo.nets.gated import GatedLayer, augmented, shift_down
from zoo.nets.masked import HeadState, MaskedConv2d

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
        position: whether each pixel has a bias of its own after the first layer, in both stacks.

    The other arguments are those of `zoo.families.raster.RasterModel`.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "skip": "width", "head": "width", "depth": "depth"}

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
        position: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, num_classes, **kwargs)
        C, H, W = self.shape
        end = skip or width
        head = head or end
        self.position = nn.Parameter(torch.zeros(2, width, H, W)) if position else None

        def layer(features_in: int, kernel: int, mask: str, last: bool) -> GatedLayer:
            options = {"skip": skip, "mask": mask, "colours": C, "classes": num_classes, "last": last and skip > 0}
            return GatedLayer(features_in, width, kernel, kernel if square else kernel // 2 + 1, **options)

        self.first = layer(self.per_colour * C, first_kernel, "A", depth == 0)
        self.layers = nn.ModuleList(layer(width, kernel, "B", i == depth - 1) for i in range(depth))
        self.head = MaskedConv2d(end, head, 1, colours=C)
        self.out = MaskedConv2d(head, levels * C, 1, colours=C)

    def logits(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        x = features.permute(0, 3, 1, 2)
        v, h, skip = self.first(shift_down(x), x, None, labels)
        if self.position is not None:
            v, h = v + self.position[0], h + self.position[1]
        for layer in self.layers:
            v, h, skip = layer(v, h, skip, labels)
        return self.by_colour(self.out(F.relu(self.head(F.relu(h if skip is None else skip)))))

    def start(self, n: int, labels: Tensor | None = None) -> GatedPixelCNNState:
        return GatedPixelCNNState(self, n, labels)

    def decode_compiled(
        self, noise: Tensor, given: Tensor | None, known: Tensor | None, labels: Tensor | None, choose: Decoding
    ) -> Tensor:
        (C, H, W), n = self.shape, noise.shape[1]
        if C > 1:
            raise ConfigError("compiled sampling is for images of one colour; leave compiled out")
        state = self.start(n, labels)
        head, out = state.head.head, state.head.out
        rows = CompiledRow(state.layers, state.to_skip, (head.left, head.bias, out.left, out.bias), state.table)
        u, values = noise.view(H, W, n), torch.zeros(H, W, n, dtype=torch.int64)
        kept = torch.zeros_like(values, dtype=torch.bool)
        if given is not None and known is not None:
            values.copy_(given.T.view(H, W, n))
            kept.copy_(known.T.view(H, W, n))
        for r in range(H):
            state.row()
            rows.draw(state.base, u[r], values[r], kept[r], choose.temperature, choose.greedy)
        return values.flatten(0, 1).T  # (n, T)


class GatedPixelCNNState(RasterState):
    """A gated PixelCNN, evaluated pixel by pixel, everything once.

    The vertical stack is evaluated once a row, for all columns. With several colours the horizontal stack is evaluated
    once a colour; a colour's block of channels is final when the colours before it are known, so the last evaluation
    leaves every cache complete.
    """

    def __init__(self, model: GatedPixelCNN, n: int, labels: Tensor | None = None) -> None:
        C, _, W = model.shape
        modules = [model.first, *model.layers]
        self.layers = [layer.start(n, W, labels) for layer in modules]
        self.head = HeadState(model.head, model.out, n)
        self.z_of = self.head.z.split(model.levels, 1)
        new = model.out.bias.new_empty
        self.x = new(n, model.head.left.shape[1])
        # Where each layer's horizontal features go: what the next layer reads, at last what the head reads.
        self.flow = list(zip(self.layers, [layer.inputs for layer in self.layers[1:]] + [[self.x] * W], strict=True))
        self.to_skip = None
        if modules[0].to_skip is not None:
            self.to_skip = torch.cat([augmented(layer.to_skip) for layer in modules])
            self.g = torch.ones(n, len(self.to_skip), device=self.x.device, dtype=self.x.dtype)
            for layer, g in zip(self.layers, self.g.split(model.first.width + 1, 1), strict=True):
                layer.g, layer.gated = g, g[:, :-1]
        self.position = None if model.position is None else model.position.detach().permute(0, 2, 3, 1)  # (2, H, W, w)
        self.base = new(W, model.first.width).zero_()
        super().__init__(model.shape, model.table(), [v.chunk(C, 1) for v in self.layers[0].inputs])

    def row(self) -> None:
        super().row()
        first, *rest = self.layers
        first.rows[:, -1] = first.horizontal.rows[:, -1]  # the image's row above, padding included
        for layer, following in zip(self.layers, [*rest, None], strict=True):
            layer.row(None if following is None else following.above)
            if layer is first and self.position is not None:
                self.base = self.position[1, self.r]
                if rest:
                    rest[0].above.add_(self.position[0, self.r], alpha=2)

    def evaluate(self, column: int, colour: int) -> Tensor:
        for layer, out in self.flow:
            layer.pixel(column)
            if layer.out is not None:
                h = self.base[column] if layer is self.layers[0] else layer.inputs[column]
                torch.addmm(h, layer.g, layer.out, out=out[column])
        if self.to_skip is not None:
            torch.mm(self.g, self.to_skip, out=self.x)
        self.head.pixel(self.x)
        return self.z_of[colour]
