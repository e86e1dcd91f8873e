"""PixelSNAIL: masked convolutions for what is near, causal attention for all that came before.

    u = first(x)                                                   convolution under mask A
    repeat:  u <- u + gate(C_2 elu(C_1 elu(u)))                    residual blocks, mask B
             k_j, v_j = K [x_j, u_j, b_j],  q_i = Q [u_i, b_i]     b: where a pixel is
             a_i = sum_{j < i} softmax_j(q_i k_j / sqrt(d)) v_j
             u <- u + gate(W_2 elu(W_1 elu(u) + W_a elu(a)))

A pixel asks those before it, and these answer with their own values; the first one gets no answer. The single stack of
convolutions has a blind spot to the right above a pixel, which the attention fills.

References:
    X. Chen, N. Mishra, M. Rohaninejad, P. Abbeel, PixelSNAIL: An Improved Autoregressive Generative Model, 2017,
    arXiv:1712.09763, figures 3 and 4.
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
from zoo.nets.gated import gate
from zoo.nets.masked import MaskedConv2d, pointwise

__all__ = ["PixelSNAIL", "PixelSNAILState"]


class _Residual(nn.Module):
    """u + gate(C_2 elu(C_1 elu(u))), C_1 a k x k and C_2 a 1 x 1 convolution under mask B."""

    def __init__(self, width: int, kernel: int, colours: int) -> None:
        super().__init__()
        self.conv = MaskedConv2d(width, width, kernel, colours=colours)
        self.out = MaskedConv2d(width, 2 * width, 1, colours=colours)
        self.colours = colours

    def forward(self, u: Tensor) -> Tensor:
        return u + gate(self.out(F.elu(self.conv(F.elu(u)))), self.colours)


class _Attention(nn.Module):
    """What a pixel learns of all before it, (B, C e, H, W) and (B, width, H, W) -> (B, width, H, W).

    The question is that of the first colour's channels, which have seen none of the pixel itself.
    """

    place: Tensor

    def __init__(self, seen: int, width: int, heads: int, key: int, colours: int, size: Sequence[int]) -> None:
        super().__init__()
        self.heads, self.key, self.colours, self.first = heads, key, colours, width // colours
        self.ask = nn.Linear(self.first + 2, heads * key)
        self.tell = nn.Linear(seen + width + 2, heads * key + width)
        self.own = MaskedConv2d(width, width, 1, colours=colours)
        self.heard = nn.Linear(width, width)
        self.out = MaskedConv2d(width, 2 * width, 1, colours=colours)
        rows, columns = (torch.linspace(-0.5, 0.5, s) for s in size)
        self.register_buffer("place", torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1), persistent=False)

    def queries(self, u: Tensor, place: Tensor) -> Tensor:
        """Return queries of pixels, (..., width) at (..., 2) -> (..., heads, key)."""
        return self.ask(torch.cat([u[..., : self.first], place], -1)).unflatten(-1, (self.heads, -1))

    def keys_and_values(self, x: Tensor, u: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys (..., heads, key) and values (..., heads, width / heads) of pixels."""
        kv = self.tell(torch.cat([x, u, place], -1))
        k, v = kv.split([self.heads * self.key, kv.shape[-1] - self.heads * self.key], -1)
        return k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        B, _, H, W = u.shape
        rows = [v.permute(0, 2, 3, 1).flatten(1, 2) for v in (x, u)]  # (B, H W, ...)
        place = self.place.to(u).flatten(0, 1).expand(B, -1, -1)
        q = self.queries(rows[1], place).transpose(1, 2)  # (B, heads, H W, key)
        k, v = (part.transpose(1, 2) for part in self.keys_and_values(*rows, place))
        a = F.scaled_dot_product_attention(q[:, :, 1:], k[:, :, :-1], v[:, :, :-1], is_causal=True)
        a = F.pad(a, (0, 0, 1, 0)).transpose(1, 2).reshape(B, H, W, -1).permute(0, 3, 1, 2)
        return u + gate(self.out(F.elu(self.own(F.elu(u)) + self.listened(a))), self.colours)

    def listened(self, a: Tensor) -> Tensor:
        """Return W_a elu(a) of maps."""
        return pointwise(F.elu(a), self.heard.weight[:, :, None, None], self.heard.bias)


class PixelSNAIL(RasterModel):
    """Blocks of masked residual convolutions, each followed by attention to all earlier pixels; a softmax a value.

    Args:
        shape: (C, H, W) of an image.
        levels: values of a pixel's colour, at least 2; 2 is the binary model.
        width: channels of the stream, a multiple of C and of ``heads``.
        depth: blocks, each of ``residuals`` convolutions and one attention.
        residuals: residual convolutions of a block.
        first_kernel: odd kernel of the first convolution, under mask A.
        kernel: odd kernel of the residual convolutions.
        heads: of each attention.
        key: features of a head's keys.

    The other arguments are those of `zoo.families.raster.RasterModel`.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "depth": "depth"}

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        levels: int = 256,
        width: int = 32,
        depth: int = 2,
        residuals: int = 2,
        first_kernel: int = 7,
        kernel: int = 3,
        heads: int = 1,
        key: int = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, levels, num_classes=0, **kwargs)
        C, H, W = self.shape
        if min(depth, heads, key) < 1 or residuals < 0 or width % heads or width % C:
            raise ConfigError(
                f"depth, heads and key must be at least 1, residuals not negative, and the width of {width} a multiple "
                f"of {C} colours and of {heads} heads"
            )
        self.first = MaskedConv2d(self.per_colour * C, width, first_kernel, mask="A", colours=C)

        def block() -> nn.ModuleList:
            attention = _Attention(self.per_colour * C, width, heads, key, C, (H, W))
            return nn.ModuleList([*(_Residual(width, kernel, C) for _ in range(residuals)), attention])

        self.blocks = nn.ModuleList(block() for _ in range(depth))
        self.out = MaskedConv2d(width, levels * C, 1, colours=C)

    def logits(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        x = features.permute(0, 3, 1, 2)
        u = self.first(x).contiguous(memory_format=torch.channels_last)
        for *residuals, attention in self.blocks:
            for residual in residuals:
                u = residual(u)
            u = attention(x, u)
        return self.by_colour(self.out(F.elu(u)))

    def start(self, n: int, labels: Tensor | None = None) -> PixelSNAILState:
        return PixelSNAILState(self, n)


class _ResidualState:
    """A residual convolution, pixel by pixel, on a stream that it updates in place."""

    def __init__(self, part: _Residual, n: int, width: int) -> None:
        self.conv, self.out = part.conv.start(n, width), part.out.start(n, 1)
        self.h, self.z = (layer.bias.new_empty(n, len(layer.bias)) for layer in (part.conv, part.out))
        self.colours = part.colours

    def row(self) -> None:
        self.conv.row()

    def pixel(self, column: int, u: Tensor) -> None:
        self.conv.inputs[column].copy_(F.elu(u))
        self.conv.pixel(column, self.h)
        self.out.inputs[0].copy_(F.elu(self.h))
        self.out.pixel(0, self.z)
        u.add_(gate(self.z[:, :, None, None], self.colours)[:, :, 0, 0])


class _AttentionState:
    """An attention, pixel by pixel, with the keys and values of all pixels that are complete."""

    def __init__(self, part: _Attention, n: int) -> None:
        self.part, self.own, self.out = part, part.own.start(n, 1), part.out.start(n, 1)
        size, like = part.place.shape[0] * part.place.shape[1], part.heard.weight
        self.place = part.place.to(like).flatten(0, 1)
        self.width = len(like)
        self.keys = like.new_empty(n, part.heads, size, part.key)
        self.values = like.new_empty(n, part.heads, size, self.width // part.heads)
        self.h, self.z, self.u = (like.new_empty(n, m) for m in (self.width, 2 * self.width, self.width))

    def pixel(self, t: int, u: Tensor) -> None:
        """Update the stream at pixel t; what it was before is kept for the answers."""
        part, n = self.part, len(u)
        self.u.copy_(u)
        a = u.new_zeros(n, self.width)
        if t:
            q = part.queries(u, self.place[t].expand(n, 2))[:, :, None]  # (n, heads, 1, key)
            a = F.scaled_dot_product_attention(q, self.keys[:, :, :t], self.values[:, :, :t]).flatten(1)
        self.own.inputs[0].copy_(F.elu(u))
        self.own.pixel(0, self.h)
        h = self.h + F.linear(F.elu(a), part.heard.weight, part.heard.bias)
        self.out.inputs[0].copy_(F.elu(h))
        self.out.pixel(0, self.z)
        u.add_(gate(self.z[:, :, None, None], part.colours)[:, :, 0, 0])

    def complete(self, t: int, x: Tensor) -> None:
        """Take pixel t, whose features are x (n, C e), in among those that answer."""
        self.keys[:, :, t], self.values[:, :, t] = self.part.keys_and_values(x, self.u, self.place[t].expand(len(x), 2))


class PixelSNAILState(RasterState):
    """A PixelSNAIL, evaluated pixel by pixel, every activation once.

    With several colours the stack is evaluated once a colour, and the last evaluation leaves every cache complete; a
    pixel's key and value are computed once all its colours are known.
    """

    def __init__(self, model: PixelSNAIL, n: int) -> None:
        C, _, W = model.shape
        self.first, self.out = model.first.start(n, W), model.out.start(n, 1)
        self.parts = [
            (*(_ResidualState(r, n, W) for r in residuals), _AttentionState(attention, n))
            for *residuals, attention in model.blocks
        ]
        self.u = model.first.bias.new_empty(n, len(model.first.bias))
        self.z = model.out.bias.new_empty(n, len(model.out.bias))
        self.z_of = self.z.split(model.levels, 1)
        super().__init__(model.shape, model.table(), [v.chunk(C, 1) for v in self.first.inputs])

    def row(self) -> None:
        super().row()
        self.first.row()
        for *residuals, _ in self.parts:
            for residual in residuals:
                residual.row()

    def evaluate(self, column: int, colour: int) -> Tensor:
        self.first.pixel(column, self.u)
        for *residuals, attention in self.parts:
            for residual in residuals:
                residual.pixel(column, self.u)
            attention.pixel(self.r * self.width + column, self.u)
        self.out.inputs[0].copy_(F.elu(self.u))
        self.out.pixel(0, self.z)
        return self.z_of[colour]

    def see(self, column: int, colour: int, values: Tensor) -> None:
        super().see(column, colour, values)
        if colour == self.colours - 1:
            for *_, attention in self.parts:
                attention.complete(self.r * self.width + column, self.first.inputs[column])
