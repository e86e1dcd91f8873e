"""What the training benchmarks share: a window of steps timed from inside a run, and arms that take turns."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback

from zoo.training.fit import quiet_lightning

__all__ = ["Arm", "Window", "header", "medians", "silent", "take_turns"]

_ASK_DRIVER = "PYTORCH_NVML_BASED_CUDA_CHECK"


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
def silent() -> Iterator[None]:
    """Keep what a run prints to itself, its progress bar included."""
    sink = io.StringIO()
    with contextlib.redirect_stderr(sink), contextlib.redirect_stdout(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Arm:
    """What is timed in a process of its own.

    Args:
        run: function of (warm, steps) of a module's top level that returns seconds per step.
        lightning: whether the arm is one of Lightning's, which has torch ask the GPU's driver library what there is.
    """

    run: Callable[[int, int], float]
    lightning: bool = False


def _begin(threads: int, lightning: bool) -> None:
    torch.set_num_threads(threads)
    os.environ.pop(_ASK_DRIVER, None)
    if lightning:
        os.environ[_ASK_DRIVER] = "1"
    quiet_lightning()


def take_turns(arms: Mapping[str, Arm], *, rounds: int, warm: int, steps: int, threads: int) -> dict[str, list[float]]:
    """Run every arm once a round, each in a process of its own, one at a time, and return its seconds per step."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pools = {
            name: stack.enter_context(ProcessPoolExecutor(1, spawn, _begin, (threads, arm.lightning)))
            for name, arm in arms.items()
        }
        for i in range(rounds):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                found[name].append(pools[name].submit(arms[name].run, warm, steps).result())
    return found


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each arm."""
    return {name: statistics.median(values) for name, values in found.items()}


def header(threads: int) -> str:
    """Say on what this is measured."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores{load}; {threads} compute thread(s)"
