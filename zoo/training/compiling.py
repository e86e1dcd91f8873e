"""Networks that are compiled for training, and the steps of captured graphs."""

from __future__ import annotations

from torch import compiler, nn

__all__ = ["begin_step", "compiled"]

_CAPTURED = ("reduce-overhead", "max-autotune")
"""Modes in which torch.compile records the kernels of a pass on a GPU and replays them."""


def compiled(network: nn.Module, mode: str) -> None:
    """Compile a network's forward pass, in place, so that the names of its weights stay."""
    if mode == "default":
        network.compile()
    else:
        network.compile(mode=mode)


def begin_step(mode: str) -> None:
    """Say that a step begins: from here on a replay may overwrite what the one before gave."""
    if mode in _CAPTURED:
        compiler.cudagraph_mark_step_begin()
