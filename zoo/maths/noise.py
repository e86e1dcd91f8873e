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

__all__ = ["multinomial", "rand", "randint", "randn", "sent"]

Where = torch.device | str
_HALF = (torch.float16, torch.bfloat16)


def sent(x: Tensor, device: Where, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor on a device, of a type; the processor does not wait until it has arrived on a GPU.

    Of any shape.
    """
    if x.device == device and dtype in (None, x.dtype):
        return x
    where = torch.device(device)
    if x.device.type == "cpu" and where.type == "cuda":
        return x.to(dtype or x.dtype).pin_memory().to(where, non_blocking=True)
    return x.to(where, dtype or x.dtype)


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
    return x if there == device and single is dtype else sent(x, device, dtype)


def rand(
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: Where = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return numbers uniform in [0, 1) of ``shape``; what half precision would round to 1 is the number before."""
    there = device if generator is None else generator.device
    single = torch.float32 if dtype in _HALF else dtype
    u = sent(torch.rand(tuple(shape), generator=generator, device=there, dtype=single), device, dtype)
    return u.clamp_(max=1 - torch.finfo(dtype).eps / 2) if dtype in _HALF else u


def randint(high: int, shape: Sequence[int], generator: torch.Generator | None, device: Where = "cpu") -> Tensor:
    """Return integers uniform in 0, ..., high - 1, int64 of ``shape``."""
    there = device if generator is None else generator.device
    return sent(torch.randint(high, tuple(shape), generator=generator, device=there), device)


def multinomial(p: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Return n draws of each row of probabilities, with replacement where n is 1: (..., K) -> int64 (..., n)."""
    there = p if generator is None else p.to(generator.device)
    return torch.multinomial(there, n, generator=generator).to(p.device)
