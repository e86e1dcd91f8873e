"""Couplings of the numbers of a vector, conditional on a context, one pass either way.

    y_a = x_a,   y_b = x_b exp(s) + t,   (s, t) = net(x_a, h),   log |det dy / dx| = sum s

Every other number is a, the rest b; they change places from one coupling to the next. The last layers start at zero,
and with them the whole as the identity.

References:
    L. Dinh, J. Sohl-Dickstein, S. Bengio, Density estimation using Real NVP, 2016, arXiv:1605.08803, equations 7 to 9.
    J. Su, G. Wu, f-VAEs: Improve VAEs with Conditional Flows, 2018, arXiv:1809.05861: conditional flows as decoders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of
from zoo.maths.transforms import affine, affine_inverse
from zoo.spec import Recorded

__all__ = ["ConditionalCouplings"]

_CAP = 3.0  # log-scales stay within +- this, smoothly


class _Coupling(nn.Module):
    """One coupling: numbers of one parity move those of the other."""

    def __init__(self, features: int, context: int, hidden: int, odd: bool) -> None:
        super().__init__()
        self.odd = odd
        a, b = (features // 2, features - features // 2) if odd else (features - features // 2, features // 2)
        self.first, self.last = nn.Linear(a + context, hidden), nn.Linear(hidden, 2 * b)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b."""
        even, odd = x[..., ::2], x[..., 1::2]
        return (odd, even) if self.odd else (even, odd)

    def joined(self, a: Tensor, b: Tensor) -> Tensor:
        even, odd = (b, a) if self.odd else (a, b)
        more = even.shape[-1] - odd.shape[-1]
        return torch.stack([even, F.pad(odd, (0, more))], -1).flatten(-2)[..., : even.shape[-1] + odd.shape[-1]]

    def moves(self, a: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return t and s."""
        t, s = self.last(F.gelu(self.first(torch.cat([a, h], -1)))).chunk(2, -1)
        return t, _CAP * torch.tanh(s / _CAP)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.parts(x)
        b, log_det = affine(b, *self.moves(a, h))
        return self.joined(a, b), log_det

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        a, b = self.parts(y)
        return self.joined(a, affine_inverse(b, *self.moves(a, h)))


class ConditionalCouplings(Recorded, nn.Module):
    """Couplings one after the other: (B, features), context (B, context) -> (B, features), with log |det| (B,).

    Args:
        features: numbers of the vector, at least 2.
        context: numbers of h, which every coupling sees, at least 1.
        hidden: width of their networks.
        couplings: their number.

    Raises:
        ConfigError: numbers out of range.
    """

    sized: ClassVar[Mapping[str, str]] = {"hidden": "width", "couplings": "depth"}

    def __init__(self, features: int, context: int, hidden: int = 256, couplings: int = 4) -> None:
        super().__init__()
        if features < 2 or min(context, hidden, couplings) < 1:
            raise ConfigError(
                f"ConditionalCouplings need at least 2 features, and at least 1 number of context, hidden width and "
                f"coupling, got {features}, {context}, {hidden} and {couplings}"
            )
        self.features, self.context = features, context
        self.couplings = nn.ModuleList(_Coupling(features, context, hidden, i % 2 == 1) for i in range(couplings))

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such couplings whose context is (inputs,), for examples of the shape of the outputs."""
        return made_of(cls, {**arguments, "context": math.prod(inputs), "features": math.prod(outputs)})

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, more = coupling(x, h)
            log_det = log_det + more
        return x, log_det

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        """Return x."""
        for coupling in reversed(self.couplings):
            y = coupling.inverse(y, h)  # type: ignore[operator]
        return y
