"""Who looks on while a sampler steps from noise to data, and may change its state.

A sampler tells `step_done` after each of its steps; whoever asked for samples `watching` is called there, in the same
thread. Without anybody it costs a look into an empty dictionary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["Callback", "Step", "step_done", "watching"]

_watchers: dict[int, tuple[Callback, int, Callable[[Tensor], Tensor]]] = {}  # by thread


@dataclass(frozen=True)
class Step:
    """A step that a sampler has made.

    Attributes:
        index: 0 for the first.
        total: steps in all; the last one's state is what samples are made of.
        x: the state after it, (n, ...), as the model has it: noisy, not in data range, a latent of a model of latents.
        level: where it is, the log signal-to-noise of a diffusion model or the time of a flow; None at the end of a
            diffusion model, where no noise is left.
        to_data: what `images` is made by.
    """

    index: int
    total: int
    x: Tensor
    level: float | None
    to_data: Callable[[Tensor], Tensor]

    @property
    def images(self) -> Tensor:
        """Return the state in data range, (n, *shape)."""
        return self.to_data(self.x)


Callback = Callable[[Step], Tensor | None]
"""Called after each step; what it returns, of the shape of `Step.x`, takes the state's place."""


@contextmanager
def watching(callback: Callback | None, n: int, to_data: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a callback be told of the steps inside.

    Args:
        callback: None for nobody.
        n: rows of a state that are asked for; those that fill up a batch are not shown.
        to_data: state (n, ...) -> examples (n, *shape) in data range.
    """
    thread = threading.get_ident()
    before = _watchers.pop(thread, None)
    if callback is not None:
        _watchers[thread] = (callback, n, to_data)
    try:
        yield
    finally:
        _watchers.pop(thread, None)
        if before is not None:
            _watchers[thread] = before


def step_done(index: int, total: int, x: Tensor, level: Tensor | None = None) -> Tensor:
    """Tell of a step, and return the state to go on with: the given one, or what the callback put in its place.
    It has the shape of x, (B, ...).

    Raises:
        ConfigError: the callback returned something else than a state.
    """
    watch = _watchers.get(threading.get_ident()) if _watchers else None
    if watch is None:
        return x
    callback, n, to_data = watch
    changed = callback(Step(index, total, x[:n], None if level is None else float(level), to_data))
    if changed is None:
        return x
    if not isinstance(changed, Tensor) or changed.shape != x[:n].shape:
        raise ConfigError(
            f"a callback returns None, or a state of shape {tuple(x[:n].shape)}; this one returned "
            f"{tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__}"
        )
    whole = x.clone()
    whole[:n] = changed
    return whole
