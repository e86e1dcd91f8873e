"""Infinity: VAR over bits, which learns to correct its own errors.

    p(b) = prod_k prod_i prod_l p(b_kil | b_1, ..., b_{k-1}),   bits l of cells i independent given the smaller scales

So no index of 2^L values is ever formed. In training some bits are flipped: with them the residual changes, and with it
all bits of larger scales. The network sees the flipped bits and is taught the bits of the residuals that these leave,
unflipped: how to repair what went wrong.

References:
    J. Han, J. Liu, Y. Jiang, B. Yan, Y. Zhang, Z. Yuan, B. Peng, X. Liu, Infinity: Scaling Bitwise AutoRegressive
    Modeling for High-Resolution Image Synthesis, 2024, arXiv:2412.04431, sections 3.2 to 3.4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.families.var import VAR
from zoo.model import Batch

__all__ = ["Infinity"]

_STEP = 0.01
"""Rates of flipped bits are multiples of this."""


class Infinity(VAR):
    """`VAR` over the bits of a `zoo.families.multi_scale_vq.MultiScaleVQ` whose quantiser is `BSQ` or `LFQ`.

    Args:
        shape: of the bits of an example, (L, 1, cells).
        levels: 2.
        scales: s_1, ..., s_S.
        channels: of the tokenizer's map: L.
        flips: p; in training each scale of each example has a rate drawn evenly from 0, 0.01, ..., p with which its
            bits are flipped; 0 for none.
        flipped_scales: how many scales, from the first, have flipped bits; all but the last, whose flips no scale would
            see, if left out.

    The other arguments are those of `VAR`.

    Raises:
        ConfigError: codes that are no bits, or numbers out of range.
    """

    def __init__(self, *args: Any, flips: float = 0.3, flipped_scales: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        most = len(self.scales) - 1
        count = most if flipped_scales is None else flipped_scales
        if self.levels != 2 or not 0 <= flips <= 1 or not 0 <= count <= most:
            raise ConfigError(
                f"Infinity has bits, a rate of flips in [0, 1] and at most {most} scales with flips; got {self.levels} "
                f"levels, {flips} and {flipped_scales}; a tokenizer with bits is infinity_tokenizer-mnist"
            )
        self.flips, self.flipped_scales = flips, count

    @property
    def learns_from_latents(self) -> bool:
        """Whether training is given the tokenizer's maps, (B, D, h, h): codes alone do not say what flips leave."""
        return self.flips > 0 and self.flipped_scales > 0

    def rates(self, n: int) -> Tensor:
        """Draw the rates of flips of n examples, (n, scales with flips)."""
        count = round(self.flips / _STEP) + 1
        return (self.rand(n, self.flipped_scales) * count).floor().clamp(max=count - 1) * _STEP

    def corrected(self, f: Tensor, rates: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return flipped bits, which the network sees, and the bits it is taught: int64 (B, L, 1, cells) each.

        Args:
            f: maps of the tokenizer, (B, D, h, h).
            rates: of flips, (B, scales with flips).
            u: uniform numbers (B, L, cells): a bit is flipped where its number lies below the rate.
        """
        q, r, seen, taught, begin = self.tokenizer, f, [], [], 0
        for k, s in enumerate(self.scales):
            b = q.quantiser.codes(q.reduce(r, k))  # (B, L, s, s)
            taught.append(b)
            if k < rates.shape[1]:
                flip = u[:, :, begin : begin + s * s].unflatten(2, (s, s)) < rates[:, k, None, None, None]
                b = torch.where(flip, 1 - b, b)
            seen.append(b)
            r = r - q.enlarge(q.quantiser.embed(b).to(f.dtype), k)
            begin += s * s
        return q.joined(seen), q.joined(taught)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of -log p(bits), in nats; of maps, that of the bits that flips leave, given the flipped."""
        x, labels = batch
        if tuple(x.shape[1:]) == self.shape:
            return super().loss(batch)
        B, G, _, L = len(x), *self.shape
        with torch.no_grad():
            seen, taught = self.corrected(x, self.rates(B), self.rand(B, G, L))
        return {"loss": -self.scores(self.inputs(seen), taught, self.dropped(labels)).mean()}
