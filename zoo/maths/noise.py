"""Random numbers from a generator, for any device: drawn where the generator is, then moved.

A seed gives a generator on the CPU (`zoo.sampling.seeded`), so that equal seeds give equal noise, and equal pictures up
to rounding, on every device: the streams of torch's CPU and CUDA generators differ. Numbers of half precision are those
of single precision, rounded.

The stream of a generator is torch's: one call for each tensor, in the order in which a family's sampler asks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["multinomial", "rand", "randint", "randn"]

Where = torch.device | str
_HALF = (torch.float16, torch.bfloat16)


def randn(
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: Where = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return standard normal numbers of ``shape``; torch's own generator of the device is asked where none is given."""
    there = device if generator is None else generator.device
    single = torch.float32 if dtype in _HALF else dtype
    x = torch.randn(tuple(shape), generator=generator, device=there, dtype=single)
    return x if there == device and single is dtype else x.to(device, dtype)


def rand(
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: Where = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return numbers uniform in [0, 1) of ``shape``."""
    there = device if generator is None else generator.device
    single = torch.float32 if dtype in _HALF else dtype
    x = torch.rand(tuple(shape), generator=generator, device=there, dtype=single)
    return x if there == device and single is dtype else x.to(device, dtype)


def randint(high: int, shape: Sequence[int], generator: torch.Generator | None, device: Where = "cpu") -> Tensor:
    """Return integers uniform in 0, ..., high - 1, int64 of ``shape``."""
    there = device if generator is None else generator.device
    return torch.randint(high, tuple(shape), generator=generator, device=there).to(device)


def multinomial(p: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Return n draws of each row of probabilities, with replacement where n is 1: (..., K) -> int64 (..., n)."""
    there = p if generator is None else p.to(generator.device)
    return torch.multinomial(there, n, generator=generator).to(p.device)
