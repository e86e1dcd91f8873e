"""Resampling by a rational factor: a polyphase bank of windowed sinc filters.

    y(m / r') = sum_n x(n / r) g(m / r' - n / r),   g = c sinc(c r t) w(t),   c = min(1, r' / r),

w being a Kaiser window over a fixed number of zero crossings. The cut-off lies below both Nyquist frequencies.

References:
    J. O. Smith, Digital Audio Resampling Home Page, 2002.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["resample"]

_ZEROS, _ROLL, _BETA = 24, 0.94, 10.0


def resample(x: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resample waveforms, treated as silent beyond their ends: (..., N) -> (..., ceil(N new_rate / rate)).

    Args:
        x: waveforms.
        rate: their samples a second.
        new_rate: the wanted samples a second.
    """
    if rate == new_rate:
        return x
    common = math.gcd(rate, new_rate)
    down, up = rate // common, new_rate // common
    cutoff = _ROLL * min(1.0, up / down)  # of the input's Nyquist frequency
    half = math.ceil(_ZEROS / cutoff)
    # Output m = q up + p lies at input time q down + p down / up: one filter a phase p, moved on by `down` a block q.
    tap = torch.arange(-half, half + down + 1, dtype=torch.float64)
    t = torch.arange(up, dtype=torch.float64)[:, None] * down / up - tap  # (up, taps)
    inside = (1 - (t / half) ** 2).clamp_min(0)
    window = torch.special.i0(_BETA * inside.sqrt()) / torch.special.i0(torch.tensor(_BETA, dtype=torch.float64))
    bank = cutoff * torch.sinc(cutoff * t) * window * (t.abs() <= half)
    N = x.shape[-1]
    count = -(-N * up // down)
    blocks = -(-count // up)
    flat = F.pad(x.reshape(-1, 1, N), (half, half + down * (blocks + 1)))  # (B, 1, padded)
    y = F.conv1d(flat, bank[:, None].to(x.dtype), stride=down)[..., :blocks]  # (B, up, blocks)
    return y.transpose(1, 2).flatten(1)[:, :count].reshape(*x.shape[:-1], count)
