"""Gated autoregressive transforms of vectors, parallel one way and sequential the other.

One step, with masked layers that give s_i and m_i from x_1, ..., x_{i-1} and a context h alone:

    y_i = sigma_i x_i + (1 - sigma_i) m_i,   sigma_i = sigmoid(s_i),   log |det dy / dx| = sum_i log sigma_i

The order of the features is turned round from one step to the next. Read from noise to latents this is an inverse
autoregressive flow, whose draws cost one pass; read from latents to noise a masked autoregressive flow, whose density
does.

References:
    D. P. Kingma and others, Improving Variational Inference with Inverse Autoregressive Flow, 2016, arXiv:1606.04934,
    equations 13 and 14.
    M. Germain and others, MADE: Masked Autoencoder for Distribution Estimation, 2015, arXiv:1502.03509.
    G. Papamakarios and others, Masked Autoregressive Flow for Density Estimation, 2017, arXiv:1705.07057.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.spec import Recorded

__all__ = ["AutoregressiveFlow"]

_OPEN = 1.5
"""What a gate starts from: near the identity, as section 4 of Kingma and others asks."""


class _Masked(nn.Linear):
    """A linear layer whose output of degree b sees inputs of degree a only where a <= b, or a < b where strict."""

    mask: Tensor

    def __init__(self, degrees_in: Tensor, degrees_out: Tensor, *, strict: bool) -> None:
        super().__init__(len(degrees_in), len(degrees_out))
        to, of = degrees_out[:, None], degrees_in[None]
        self.register_buffer("mask", (of < to if strict else of <= to).to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class _Step(nn.Module):
    """One autoregressive transform, features in their own order, or in the opposite one."""

    def __init__(self, features: int, hidden: int, context: int, backwards: bool) -> None:
        super().__init__()
        degrees = torch.arange(1, features + 1)
        degrees = degrees.flip(0) if backwards else degrees
        inner = torch.arange(hidden) % max(1, features - 1) + 1
        self.first = _Masked(degrees, inner, strict=False)
        self.told = nn.Linear(context, hidden, bias=False) if context else None
        self.second = _Masked(inner, inner, strict=False)
        self.last = _Masked(inner, degrees.repeat(2), strict=True)
        self.order = degrees.argsort().tolist()
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias[:features] = _OPEN
            self.last.bias[features:] = 0

    def gates(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return s and m, (..., d) each."""
        y = self.first(x)
        if self.told is not None:
            y = y + self.told(h)
        s, m = self.last(F.elu(self.second(F.elu(y)))).chunk(2, -1)
        return s, m

    def forward(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        s, m = self.gates(x, h)
        gate = torch.sigmoid(s)
        return gate * x + (1 - gate) * m, F.logsigmoid(s).sum(-1)

    def inverse(self, y: Tensor, h: Tensor | None) -> Tensor:
        x = torch.zeros_like(y)
        for i in self.order:
            s, m = (v[..., i] for v in self.gates(x, h))
            gate = torch.sigmoid(s)
            solved = (y[..., i] - (1 - gate) * m) / gate
            x = torch.cat([x[..., :i], solved[..., None], x[..., i + 1 :]], -1)
        return x


class AutoregressiveFlow(Recorded, nn.Module):
    """Steps of gated autoregressive transforms: (..., d) -> (..., d), with log |det| (...), in one pass.

    Args:
        features: d.
        hidden: width of the two masked layers of each step.
        steps: their number, each in the order opposite to the one before.
        context: size of h, which every step sees; 0 for none.

    Raises:
        ConfigError: numbers below 1, or a negative context.
    """

    sized: ClassVar[Mapping[str, str]] = {"hidden": "width"}

    def __init__(self, features: int, hidden: int = 64, steps: int = 2, context: int = 0) -> None:
        super().__init__()
        if min(features, hidden, steps) < 1 or context < 0:
            raise ConfigError(
                f"an autoregressive flow needs features, hidden and steps of at least 1 and a context of at least 0, "
                f"got {features}, {hidden}, {steps} and {context}"
            )
        self.features, self.context = features, context
        self.steps = nn.ModuleList(_Step(features, hidden, context, bool(i % 2)) for i in range(steps))

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy / dx|, (..., d) and (...), for a context (..., context)."""
        log_det = x.new_zeros(())
        for step in self.steps:
            x, more = step(x, h)
            log_det = log_det + more
        return x, log_det

    def inverse(self, y: Tensor, h: Tensor | None = None) -> Tensor:
        """Return x, feature by feature: d passes of each step."""
        for step in reversed(self.steps):
            y = step.inverse(y, h)
        return y
