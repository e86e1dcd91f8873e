"""Early stopping, exact under resume: what it has seen is in the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from zoo.errors import ConfigError, RunError
from zoo.model import GenerativeModel
from zoo.runs import run_metadata
from zoo.training.engine import MetricsLog
from zoo.training.settings import TrainingSettings

__all__ = ["Patience", "check_not_over", "early_stopping", "why_early"]


class Patience(Callback):
    """End a run when a term of the validation has not become smaller for so many validations.

    Attributes:
        best: the least value so far.
        waited: validations since then.
        reason: why the run was ended; None while it goes on.

    Args:
        metrics: knows the means of the last validation.
        patience: validations without improvement after which to stop, at least 1.
        min_delta: what an improvement is at least, in the unit of the term.
        monitor: the term, ``validation/loss`` or another column of metrics.csv.

    References:
        L. Prechelt, Early Stopping - But When?, 1998.
    """

    def __init__(
        self, metrics: MetricsLog, patience: int, min_delta: float = 0.0, monitor: str = "validation/loss"
    ) -> None:
        self.metrics, self.patience, self.min_delta, self.monitor = metrics, patience, min_delta, monitor
        self.best, self.waited = float("inf"), 0
        self.reason: str | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        value = self.metrics.last.get(self.monitor)
        if value is None:
            known = ", ".join(sorted(k for k in self.metrics.last if "/" in k)) or "none"
            raise ConfigError(f"--training.monitor {self.monitor} is no term that this run logs; there are: {known}")
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            least = f" by {self.min_delta:g}" if self.min_delta else ""
            self.reason = f"{self.monitor} has not improved{least} on {self.best:.6g} for {self.waited} validations"
            trainer.should_stop = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["zoo_patience"] = {"monitor": self.monitor, "best": self.best, "waited": self.waited}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("zoo_patience")
        if saved and saved.get("monitor") == self.monitor:
            self.best, self.waited = float(saved["best"]), int(saved["waited"])


def check_not_over(folder: Path, checkpoint: Mapping[str, Any], settings: TrainingSettings) -> None:
    """Refuse to go on with a run that has ended early, with the patience that it ended by. Raises `RunError`."""
    saved = checkpoint.get("zoo_patience")
    if settings.patience is None or not isinstance(saved, dict):
        return
    facts = run_metadata(folder)
    same = saved.get("monitor") == (settings.monitor or "validation/loss")
    if same and facts.get("status") == "stopped early" and int(saved.get("waited", 0)) >= settings.patience:
        raise RunError(
            f"{folder} has stopped early at step {facts.get('step')}: {facts.get('reason')}; give a larger "
            f"--training.patience to go on"
        )


def early_stopping(
    settings: TrainingSettings, model: GenerativeModel, metrics: MetricsLog, validates: bool
) -> list[Patience]:
    """Return what ends a run early, where the settings ask for it.

    Raises:
        ConfigError: nothing is validated, or the model's loss is one player's of a game, which measures nothing.
    """
    if settings.patience is None:
        return []
    if not validates:
        raise ConfigError("--training.patience waits for validations, and --trainer.limit_val_batches 0 leaves none")
    if settings.monitor is None and len(model.players()) > 1:
        raise ConfigError(
            f"{type(model).__name__} is trained as a game, and a player's validation loss does not say how good the "
            f"samples are; leave --training.patience out, or name another term by --training.monitor"
        )
    return [Patience(metrics, settings.patience, settings.min_delta, settings.monitor or "validation/loss")]


def why_early(trainer: Trainer, total: int) -> str | None:
    """Return why a training ended before its planned steps; None where it did not."""
    if trainer.global_step >= total:
        return None
    for callback in trainer.callbacks:
        for part in (callback, *getattr(callback, "parts", ())):
            if isinstance(part, Patience) and part.reason:
                return part.reason
            if isinstance(part, EarlyStopping) and (part.stopped_epoch or part.wait_count >= part.patience):
                return f"{type(part).__name__}: {part.monitor} has not improved for {part.wait_count} checks"
            if isinstance(part, Timer) and (part.time_remaining() or 0) <= 0:
                return "--trainer.max_time is over"
    return "a callback asked for it"
