"""Memory that one step frees and the next one asks for again."""

from __future__ import annotations

import contextlib
import ctypes
import platform

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)
_LARGEST = 32 * 2**20  # the most that _MMAP_THRESHOLD may be


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, up to blocks of 32 MiB, where its C library is glibc.

    Otherwise the allocator gives activations and gradients back to the system after every step, and the kernel clears
    and maps the same pages for the next one, which takes about a twentieth of a small model's step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
