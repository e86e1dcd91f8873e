"""The horizontal stack of gated layers as one compiled function for a whole row of pixels, for few images at a time.

The same arithmetic as `zoo.nets.gated.GatedState` and `zoo.maths.decoding.Decoding`, without an operator call between
any two numbers; the vertical stack stays with torch, whose products over a whole row are as fast. `zoo.nets.compiled`
says how it is compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.nets.compiled import Kernels, kernels
from zoo.nets.gated import GatedState

__all__ = ["CompiledRow"]


class CompiledRow:
    """Draws the pixels of one row after another of images of one colour.

    Args:
        layers: states of the gated layers, the first one under mask A; their `GatedState.row` must have been called
            before each row.
        to_skip: map of all gated features (and their ones) to the head's input, or none where the last layer gives it.
        head: weights (in, out) and biases of the head's two maps.
        table: what the first layer sees of each level, (levels, e).

    Raises:
        ConfigError: numba is not installed, or the model is not on the CPU in single or double precision.
    """

    def __init__(
        self, layers: Sequence[GatedState], to_skip: Tensor | None, head: Sequence[Tensor], table: Tensor
    ) -> None:
        self.parts = kernels(table.dtype, table.device)
        first, *rest = layers
        n, W, w = *first.s.shape[:2], first.g.shape[1] - 1
        taps = rest[0].left.shape[0] // w if rest else 1
        sums = table.new_empty(len(layers), n, W, 2 * w)
        for layer, s in zip(layers, sums, strict=True):
            layer.s = s  # the vertical stacks write where the compiled loop reads
        left = torch.stack([layer.left for layer in rest]) if rest else table.new_zeros(0, w, 2 * w)
        none = table.new_zeros(w + 1, w)
        out = torch.stack([none if layer.out is None else layer.out for layer in layers])
        flows = torch.tensor([layer.out is not None for layer in layers])
        self.image = first.horizontal.rows[:, -1]  # (n, W + 2 p, e)
        # The residual stream of the current row, padded on the left by what the taps reach.
        stream = table.new_zeros(n, len(layers), W + taps - 1, w)
        skip = table.new_zeros(0, 0) if to_skip is None else to_skip
        flat = (self.image.flatten(1), first.left, left, out, flows, stream.flatten(2), skip, *head, table)
        self.arrays = tuple(t.detach().numpy() for t in (sums, *flat))

    def draw(self, base: Tensor, noise: Tensor, k: Tensor, known: Tensor, temperature: float, greedy: bool) -> None:
        """Draw the next row.

        Args:
            base: what each pixel's residual stream starts from after the first layer, (W, width).
            noise: uniform numbers in [0, 1), (W, n).
            k: int64 (W, n), the known values; the others are written.
            known: bool (W, n).
            temperature: of every softmax.
            greedy: take the most probable value everywhere.
        """
        rest = (
            base.contiguous().numpy(),
            noise.numpy(),
            k.numpy(),
            known.numpy(),
            temperature,
            greedy,
        )
        _compiled(self.parts)(*self.arrays, *rest)


@functools.lru_cache(maxsize=2)
def _compiled(parts: Kernels) -> Callable[..., None]:
    real, tanh, add_product, choose = parts.real, parts.tanh, parts.add_product, parts.choose

    @parts.compile
    def layer(z, sums, taps, weight, g):
        z[:] = sums
        add_product(z, taps, weight)
        for j in range(len(z)):
            z[j] = tanh(z[j])
        w = len(z) // 2
        for j in range(w):
            g[j] = z[j] + z[j] * z[w + j]

    @parts.compile
    def rectify(x):
        for j in range(len(x)):
            x[j] = max(x[j], real(0))

    @parts.compile
    def run(
        sums, image, first_left, left, out, flows, stream, skip, head, head_bias, last, last_bias, table,
        base, noise, k, known, temperature, greedy,
    ):  # fmt: skip
        N, n, W, w = sums.shape[0], sums.shape[1], sums.shape[2], out.shape[2]
        e, taps = table.shape[1], stream.shape[2] // w - W + 1
        reach, pad = len(first_left), (image.shape[1] // e - W) // 2
        z, g = np.empty(2 * w, real), np.ones((N, w + 1), real)
        x, h = np.empty(len(head), real), np.empty(len(head_bias), real)
        logits, cdf = np.empty(len(last_bias), real), np.empty(len(last_bias), real)
        for b in range(n):
            for c in range(W):
                layer(z, sums[0, b, c], image[b, c * e : c * e + reach], first_left, g[0])
                begin, here, end = c * w, (c + taps - 1) * w, (c + taps) * w
                if flows[0]:
                    stream[b, 0, here:end] = base[c]
                    add_product(stream[b, 0, here:end], g[0], out[0])
                for i in range(1, N):
                    layer(z, sums[i, b, c], stream[b, i - 1, begin:end], left[i - 1], g[i])
                    if flows[i]:
                        stream[b, i, here:end] = stream[b, i - 1, here:end]
                        add_product(stream[b, i, here:end], g[i], out[i])
                if not known[c, b]:
                    if len(skip):
                        x[:] = 0
                        add_product(x, g.reshape(-1), skip)
                    else:
                        x[:] = stream[b, N - 1, here:end]
                    rectify(x)
                    h[:] = head_bias
                    add_product(h, x, head)
                    rectify(h)
                    logits[:] = last_bias
                    add_product(logits, h, last)
                    k[c, b] = choose(logits, noise[c, b], temperature, greedy, cdf)
                image[b, (pad + c) * e : (pad + c + 1) * e] = table[k[c, b]]

    return run
