"""Mu-law companding: a waveform as one of mu + 1 codes a sample, finer where it is quiet.

    f(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu),   k = round((f(x) + 1) / 2 * mu)

The code is within half a step of f(x), so that the waveform of the code is within
((1 + mu)^(1/mu) - 1) (1/mu + |x|) of x.

References:
    ITU-T Recommendation G.711, Pulse code modulation of voice frequencies, 1988.
    A. van den Oord and others, WaveNet, 2016, arXiv:1609.03499, section 2.2.
"""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["mulaw_bound", "mulaw_decode", "mulaw_encode"]


def mulaw_encode(x: Tensor, levels: int = 256) -> Tensor:
    """Return the codes of a waveform: floats in [-1, 1] (clipped to it) -> int64 0..levels-1. Of the same shape."""
    mu = levels - 1
    x = x.clamp(-1, 1)
    f = x.sign() * (mu * x.abs()).log1p() / math.log1p(mu)
    return ((f + 1) / 2 * mu).round().long()


def mulaw_decode(f: Tensor, levels: int = 256) -> Tensor:
    """Return the waveform in [-1, 1] of codes in data range: floats k / (levels - 1) in [0, 1]. Of the same shape."""
    mu = levels - 1
    f = 2 * f - 1
    return f.sign() * (f.abs() * math.log1p(mu)).expm1() / mu


def mulaw_bound(x: Tensor, levels: int = 256) -> Tensor:
    """Return the largest error of encoding and decoding x in [-1, 1]. Of the shape of x."""
    mu = levels - 1
    return math.expm1(math.log1p(mu) / mu) * (1 / mu + x.abs())
