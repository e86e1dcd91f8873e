"""What a training will cost, before it starts: counted operations, and time from a few real steps."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from lightning.pytorch import Callback, Trainer

from zoo.callbacks.ema import EMA
from zoo.data.base import TensorData
from zoo.model import GenerativeModel
from zoo.training.compute import parameter_count
from zoo.training.engine import Engine, MetricsLog
from zoo.training.hooks import Hooks, NoProfiler
from zoo.training.report import hardware
from zoo.training.settings import TrainingSettings

__all__ = ["Estimable", "estimate"]


class Estimable(Protocol):
    """What is asked of a `zoo.training.fit.Run` here."""

    name: str
    model: GenerativeModel
    data: TensorData
    settings: TrainingSettings
    arguments: Mapping[str, Any]
    total: int
    world: int
    accumulate: int
    earlier: Mapping[str, float | None]
    new_trainer: Callable[[Mapping[str, Any]], Trainer]

    def spent(self, steps: int) -> float:
        """Return the operations of so many steps from the start."""


class _Clock(Callback):
    """Time from the end of one batch to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def estimate(run: Estimable) -> dict[str, Any]:
    """Return TFLOP, parameters, size of a checkpoint, and the time that the steps take; the run's model stays as it is.

    The time is that of training steps on one device, data and optimizer included; validation, pictures and
    checkpoints come on top, and several devices need the time of one when each computes a batch of its own.
    """
    parameters = parameter_count(run.model)
    seconds, steps = _seconds_per_step(run)
    own = run.spent(run.total) / 1e12
    stages: dict[str, Any] = {"training_tflop": own}
    if run.earlier:  # as in the account of a run: all stages count, unless one is not known
        every = {**run.earlier, run.name: own}
        stages = {"training_tflop": None if None in every.values() else sum(every.values()), "stages": every}
    tensors = 3 + (run.settings.ema is not None)  # weights, two moments, moving average
    return {
        "name": run.name,
        "steps": run.total,
        **stages,
        "parameters": parameters,
        "checkpoint_megabytes": tensors * parameters * run.model.dtype.itemsize / 1e6,
        "seconds_per_step": seconds,
        "measured_steps": steps,
        "estimated_minutes": seconds * run.total / 60,
        "devices": run.world,
        "hardware": hardware(),
    }


def _seconds_per_step(run: Estimable) -> tuple[float, int]:
    """Train a copy of the model for a few whole periods and return the time of a step and their number."""
    model, clock = copy.deepcopy(run.model), _Clock()
    model.past_phases()
    warm, steps = max(2, model.period), model.period * -(-6 // model.period)
    engine = Engine(run.settings, run.total)
    average = [EMA(run.settings.ema, run.settings.ema_every)] if run.settings.ema is not None else []
    settings = {
        **run.arguments, "devices": 1, "num_nodes": 1, "strategy": "auto", "max_steps": warm + steps, "max_epochs": -1,
        "logger": False, "enable_progress_bar": False, "enable_checkpointing": True, "limit_val_batches": 0,
        "callbacks": [Hooks([engine, *average, MetricsLog(run.settings.log_every), clock])], "profiler": NoProfiler(),
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        run.new_trainer(settings).fit(model, datamodule=run.data)
    ends = clock.ends[warm * run.accumulate - 1 :]
    return (ends[-1] - ends[0]) / steps, steps
