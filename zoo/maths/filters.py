"""Low-pass filters for signals that stand for continuous ones, and moves of images by parts of a pixel.

    h(x) = 2 f_c sinc(2 f_c x) w(x),   w(x) = I_0(beta sqrt(1 - (2 x / L)^2)) / I_0(beta)   for |x| <= L / 2

f_c is the cut-off, L the extent. A filter with n taps, f_h half as wide as its transition band, at a rate of s samples
dampens what lies beyond f_c + f_h by about

    A = 2.285 (n - 1) pi 4 f_h / s + 7.95   decibels,

from which Kaiser's rule gives beta. Frequencies are in cycles, rates in samples, both for one unit of length; sample i
of n stands at (i + 1/2 - n/2) / s, so that grids of any rate have one middle.

References:
    J. F. Kaiser, Nonrecursive Digital Filter Design Using the I_0-sinh Window Function, 1974.
    T. Karras and others, Alias-Free Generative Adversarial Networks, 2021, arXiv:2106.12423, sections 3 and E.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attenuation", "kaiser_beta", "low_pass", "moved", "resampling"]


def attenuation(taps: int, half_width: float, rate: float) -> float:
    """Return how far a filter dampens its stop band, in decibels, by Kaiser's formula.

    Args:
        taps: number of taps.
        half_width: half of the transition band.
        rate: of the taps.
    """
    return 2.285 * (taps - 1) * math.pi * 4 * half_width / rate + 7.95


def kaiser_beta(decibels: float) -> float:
    """Return the window's parameter that gives this attenuation, 0 for a rectangular window at 21 dB or less."""
    if decibels > 50:
        return 0.1102 * (decibels - 8.7)
    if decibels > 21:
        return 0.5842 * (decibels - 21) ** 0.4 + 0.07886 * (decibels - 21)
    return 0.0


def low_pass(x: Tensor, taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """Return a filter at places x of any shape, in float64; its taps at ``rate`` add up to one.

    Args:
        x: places, 0 in the middle.
        taps: number of taps.
        cutoff: f_c, at which half of the amplitude is left.
        half_width: f_h.
        rate: of the taps, whose extent is ``taps / rate``.
    """
    extent = taps / rate
    beta = torch.tensor(kaiser_beta(attenuation(taps, half_width, rate)), dtype=torch.float64)

    def at(x: Tensor) -> Tensor:
        inside = (1 - (2 * x / extent).square()).clamp_min(0).sqrt()
        window = torch.special.i0(beta * inside) / torch.special.i0(beta)
        return torch.sinc(2 * cutoff * x) * window * (x.abs() <= extent / 2)

    grid = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) / rate
    return at(x.double()) / at(grid).sum()


def resampling(
    sizes: tuple[int, int], rates: tuple[float, float], taps: int, cutoff: float, half_width: float
) -> Tensor:
    """Return the matrix that filters a signal and samples it at another rate, about the same middle: (n_out, n_in).

    The filter is one of the higher rate; what lies beyond the signal's ends counts as zero.

    Args:
        sizes: samples before and after.
        rates: before and after.
        taps: of the filter, at the higher rate.
        cutoff: f_c.
        half_width: f_h.
    """
    source, target = (
        (torch.arange(n, dtype=torch.float64) + 0.5 - n / 2) / s for n, s in zip(sizes, rates, strict=True)
    )
    gain = max(1.0, rates[1] / rates[0])  # of the zeros that are filled in
    return gain * low_pass(target[:, None] - source, taps, cutoff, half_width, max(rates))


def moved(x: Tensor, right: float, down: float, zeros: int = 3) -> tuple[Tensor, Tensor]:
    """Move images by parts of a pixel: (B, C, H, W) -> the same, and where they are known, a mask (H, W).

    Each pixel is a sum of its neighbours weighted by Lanczos' kernel, sinc(x) sinc(x / a), whose weights add up to one;
    it is known where all of them lie within the image. Moves by whole pixels are exact, and known wherever there is a
    pixel to move.

    Args:
        x: images.
        right, down: in pixels.
        zeros: a, crossings of zero on either side of the kernel.
    """
    known = torch.ones(x.shape[2:], dtype=torch.bool, device=x.device)
    for dim, shift in ((2, down), (3, right)):
        whole = math.floor(shift)
        part = shift - whole
        taps = torch.arange(1 - zeros, zeros + 1, dtype=torch.float64) if part else torch.zeros(1, dtype=torch.float64)
        weights = torch.sinc(taps - part) * torch.sinc((taps - part) / zeros)
        weights = (weights / weights.sum()).to(x)
        n, reach = x.shape[dim], zeros + abs(whole)
        place = torch.arange(n, device=x.device)
        pad = [0, 0, reach, reach] if dim == 2 else [reach, reach]
        wide, found = F.pad(x, pad), torch.zeros_like(x)
        inside = torch.ones(n, dtype=torch.bool, device=x.device)
        for tap, weight in zip(taps.long().tolist(), weights, strict=True):
            offset = -whole - tap
            found = found + weight * wide.narrow(dim, reach + offset, n)
            inside &= (place + offset >= 0) & (place + offset < n)
        x = found
        known &= inside[:, None] if dim == 2 else inside
    return x, known
