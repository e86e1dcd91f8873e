"""Random numbers from a generator, for any device: drawn where the generator is, then moved.

A seed gives a generator on the CPU (`zoo.sampling.seeded`), so that equal seeds give equal noise, and equal pictures up
to rounding, on every device: the streams of torch's CPU and CUDA generators differ. Numbers of half precision are those
of single precision, rounded.

The stream of a generator is torch's: one call for each tensor, in the order in which a family's sampler asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    return _drawn(torch.randn, shape, generator, device, dtype)


def rand(
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: Where = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return numbers uniform in [0, 1) of ``shape``."""
    return _drawn(torch.rand, shape, generator, device, dtype)


def randint(high: int, shape: Sequence[int], generator: torch.Generator | None, device: Where = "cpu") -> Tensor:
    """Return integers uniform in 0, ..., high - 1, int64 of ``shape``."""
    return _drawn(torch.randint, shape, generator, device, torch.int64, high)


def multinomial(p: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Return n draws of each row of probabilities, with replacement where n is 1: (..., K) -> int64 (..., n)."""
    there = p if generator is None else p.to(generator.device)
    return torch.multinomial(there, n, generator=generator).to(p.device)


def _drawn(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: Where,
    dtype: torch.dtype,
    *args: Any,
) -> Tensor:
    there = device if generator is None else generator.device
    single = torch.float32 if dtype in _HALF else dtype
    drawn = draw(*args, tuple(shape), generator=generator, device=there, dtype=single)
    return drawn.to(device, dtype)
