"""Lightning's hooks without their price: several callbacks that answer as one, and a profiler that does nothing fast.

Lightning asks every callback at every hook of every step, each time through a profiler's context. On small models that
costs more than the model; here only those are asked that have something to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.profilers import Profiler

__all__ = ["Hooks", "NoProfiler"]

_HOOKS = [name for name in vars(Callback) if name.startswith("on_") or name in ("setup", "teardown")]
_DIRECT = {"on_save_checkpoint", "on_load_checkpoint"}
"""Hooks that Lightning calls without asking whether they can be called."""


class Hooks(Checkpoint):
    """Callbacks that Lightning sees as a single one; each hook reaches those that define it, in their order.

    Args:
        parts: the callbacks.
    """

    def __init__(self, parts: Sequence[Callback]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        for name in _HOOKS:
            calls = [getattr(p, name) for p in parts if getattr(type(p), name) is not getattr(Callback, name)]
            if calls or name not in _DIRECT:
                setattr(self, name, _all(calls))


def _all(calls: list[Callable[..., None]]) -> Callable[..., None] | None:
    if len(calls) < 2:
        return calls[0] if calls else None

    def call(*args: Any, **kwargs: Any) -> None:
        for one in calls:
            one(*args, **kwargs)

    return call


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *args: Any) -> None:
        return None


class NoProfiler(Profiler):
    """Profiler whose contexts are one object that does nothing."""

    _nothing = _Nothing()

    def start(self, action_name: str) -> None:
        return None

    def stop(self, action_name: str) -> None:
        return None

    def profile(self, action_name: str) -> Any:
        return self._nothing
