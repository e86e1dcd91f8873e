"""What the training benchmarks share: a window of steps timed from inside a run, and arms that take turns."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback

__all__ = ["Window", "header", "medians", "process", "silent", "take_turns"]


class Window(Callback):
    """Time the steps of a run after ``warm`` ones, from the end of one batch to the end of another.

    Whatever else the run does meanwhile (logging, checkpoints) is inside.

    Attributes:
        seconds: per step, once ``warm + steps`` steps have ended.

    Args:
        warm: steps that are not timed.
        steps: steps that are.
    """

    def __init__(self, warm: int, steps: int) -> None:
        self.warm, self.steps, self.seconds = warm, steps, float("nan")
        self._done = 0

    def tick(self) -> None:
        """Count one step."""
        self._done += 1
        if self._done == self.warm:
            self._start = time.perf_counter()
        elif self._done == self.warm + self.steps:
            self.seconds = (time.perf_counter() - self._start) / self.steps

    def on_train_batch_end(self, *args: Any) -> None:
        self.tick()


@contextlib.contextmanager
def process(*, lightning: bool) -> Iterator[None]:
    """Let an arm run as in a process of its own: Lightning, once imported, has torch look for a GPU driver often."""
    names = ("PYTORCH_NVML_BASED_CUDA_CHECK", "CUDA_VISIBLE_DEVICES")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    if lightning:
        os.environ[names[0]] = "1"
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what a run prints to itself, its progress bar included."""
    sink = io.StringIO()
    with contextlib.redirect_stderr(sink), contextlib.redirect_stdout(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def take_turns(arms: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every arm once a round, in an order that rotates, and return its seconds per step."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            found[name].append(arms[name]())
    return found


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each arm."""
    return {name: statistics.median(values) for name, values in found.items()}


def header(threads: int) -> str:
    """Say on what this is measured."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores{load}; {threads} compute thread(s)"
