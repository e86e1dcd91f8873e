"""What a run cost, and the bar that shows how far it is."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.errors import DivergedError
from zoo.training.checkpoint_io import write_atomic
from zoo.training.engine import MetricsLog
from zoo.training.patience import why_early

__all__ = ["CostReport", "StepBar", "hardware", "versions"]


def hardware() -> str:
    """Return a short description of the compute device and machine, without host names."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Return the versions of what computes the numbers."""
    import lightning

    import zoo

    return {
        "zoo": zoo.__version__,
        "torch": str(torch.__version__),
        "lightning": lightning.__version__,
        "python": platform.python_version(),
    }


def peak_memory() -> int:
    """Return the largest resident memory of this process in bytes, or of the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class CostReport(Callback):
    """Keep ``run.json`` up to date: what is trained, how far it is, and what it has cost.

    Args:
        folder: the run folder.
        metadata: what identifies the run (name, data, command, ...).
        spent: operations of so many training steps over all devices.
        earlier: TFLOP of the trainings that this one builds on, by name, None where that is not known; they count.
        total: planned steps; a run that ends before them has stopped early.

    Attributes:
        stopped_because: why the run ended before its planned steps; None where it did not.
    """

    def __init__(
        self,
        folder: str | Path,
        metadata: dict[str, Any],
        spent: Callable[[int], float],
        earlier: Mapping[str, float | None] | None = None,
        total: int = 0,
    ) -> None:
        self.path = Path(folder) / "run.json"
        self.metadata, self.spent, self.earlier = metadata, spent, dict(earlier or {})
        self.seconds_before, self.examples_before = 0.0, 0
        self._start = time.perf_counter()
        self._examples = 0
        self._status = "running"
        self.total = total
        self.stopped_because: str | None = None
        self._cost: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._examples += len(batch[1]) * trainer.world_size

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        spent = {"seconds": self._seconds(), "examples": self.examples_before + self._examples}
        checkpoint["zoo_cost"] = {**spent, "earlier": self.earlier}
        self._write(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("zoo_cost", {})
        self.seconds_before, self.examples_before = saved.get("seconds", 0.0), saved.get("examples", 0)
        self.earlier = saved.get("earlier") or self.earlier

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopped_because = why_early(trainer, self.total)
        self._status = "finished" if self.stopped_because is None else "stopped early"
        self._write(trainer)

    def numbers(self) -> dict[str, Any]:
        """Return what was written of the cost last."""
        return dict(self._cost)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._status = "diverged" if isinstance(exception, DivergedError) else "stopped"
        with contextlib.suppress(OSError):  # on a full disk the first error is the one to see
            self._write(trainer)

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self._start

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        step, seconds = trainer.global_step, self._seconds()
        own = round(self.spent(step) / 1e12, 6)
        stages = {**self.earlier, self.metadata["name"]: own}
        cost = {
            "training_tflop": None if None in stages.values() else round(sum(stages.values()), 6),
            **({"stages": stages} if self.earlier else {}),
            "tflop_per_step": self.spent(max(1, step)) / max(1, step) / 1e12,
            "seconds": round(seconds, 1),
            "examples": self.examples_before + self._examples,
            "examples_per_second": round((self.examples_before + self._examples) / max(seconds, 1e-9), 1),
            "peak_memory_bytes": peak_memory(),
            "hardware": hardware(),
        }
        self._cost = cost
        status = {"status": self._status, **({"reason": self.stopped_because} if self.stopped_because else {})}
        content = {**self.metadata, **status, "step": step, "cost": cost, "versions": versions()}
        write_atomic(self.path, (json.dumps(content, indent=2) + "\n").encode())


def _bar_of_the_place() -> Any:
    """Return tqdm as it suits a terminal or a notebook; one without widgets has the bar of a terminal."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        from tqdm.auto import tqdm
    return tqdm


class StepBar(Callback):
    """One bar over all planned steps, with the remaining time and the last logged losses, refreshed twice a second.

    Args:
        total: planned steps.
        metrics: knows the losses.
    """

    def __init__(self, total: int | None, metrics: MetricsLog) -> None:
        self.total, self.metrics = total, metrics
        self._bar: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._bar = _bar_of_the_place()(
                total=self.total, initial=trainer.global_step, unit="step", mininterval=0.5, dynamic_ncols=True,
                file=sys.stderr, desc="training", smoothing=0.05,
            )  # fmt: skip

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._bar is None:
            return
        self._bar.update(trainer.global_step - self._bar.n)
        if trainer.global_step % self.metrics.every == 0:
            losses = {k.removeprefix("train/"): v for k, v in self.metrics.last.items() if k.startswith("train/")}
            shown = [f"{k} {v:.4g}" for k, v in losses.items() if k.endswith("loss")]
            self._bar.set_postfix_str(", ".join(shown), refresh=False)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()
