"""Where models are computed: the device that a command takes by itself, and what makes a GPU repeat itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from zoo.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["chosen_device", "repeatable"]


def chosen_device(asked: str | None = None) -> str:
    """Return the device that was asked for; where none was, a GPU if there is one, else the CPU.

    Raises:
        ConfigError: no device of this name, or a GPU that this machine does not have.
    """
    import torch

    if asked in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(str(asked))
    except RuntimeError:
        raise ConfigError(f"{str(asked)[:80]!r} is no device; give cpu, cuda, or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {asked} was asked for, this machine has {torch.cuda.device_count()} GPU(s)")
    return str(device)


def repeatable(device: torch.device) -> AbstractContextManager[None]:
    """Let convolutions on a GPU give the same bits whenever they are computed, in full single precision.

    cuDNN otherwise takes the algorithm that it finds fastest, some of which add in another order each time, and rounds
    the factors of a product in single precision to 10 bits (TF32): equal seeds would give other pixels. Elsewhere this
    changes nothing.
    """
    return _repeating() if device.type == "cuda" else nullcontext()


@contextmanager
def _repeating() -> Iterator[None]:
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    _set(True, False, "ieee", "ieee")
    try:
        yield
    finally:
        _set(*before)


def _set(deterministic: bool, benchmark: bool, conv: str, rnn: str) -> None:
    import torch

    cudnn = torch.backends.cudnn
    cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = conv, rnn
