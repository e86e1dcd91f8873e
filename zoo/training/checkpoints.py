"""When checkpoints are written, what is in them beside Lightning's state, and how a run goes on from one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from zoo.errors import DivergedError
from zoo.runs import sidecar
from zoo.training.checkpoint_io import sweep
from zoo.training.engine import Engine, Stopped

__all__ = ["Checkpoints"]


class Checkpoints(Checkpoint):
    """Write a checkpoint every so many steps, at the end, and before a signal ends the run.

    Args:
        folder: the run folder; files go to its ``checkpoints``.
        engine: knows whether a signal has come.
        every: steps between checkpoints.
        keep: how many of the newest are kept.
        metadata: plain data stored under ``zoo``: name, spec, planned steps.
    """

    def __init__(
        self, folder: str | Path, engine: Engine, *, every: int, keep: int = 2, metadata: dict[str, Any]
    ) -> None:
        super().__init__()
        self.folder = Path(folder) / "checkpoints"
        self.engine, self.every, self.keep, self.metadata = engine, every, keep, metadata
        self._validates = False  # whether a validation follows at the step that is saved
        self._saved = -1  # the step of the last one: what is on the disk, other processes may be about to change

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder, self.folder.parent, self.folder.parent / "samples"):
                sweep(folder)

    def path(self, step: int) -> Path:
        """Return the file of the checkpoint after ``step`` steps."""
        return self.folder / f"step-{step:08d}.ckpt"

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not self.engine.between_steps(trainer, pl_module):
            return
        if self.engine.stop_asked(trainer):
            self._save_before_validation(trainer)
            raise Stopped(self.engine.received or "", trainer.global_step)
        if trainer.global_step % self.every == 0:
            self._save_before_validation(trainer)

    def _save_before_validation(self, trainer: Trainer) -> None:
        """Write a checkpoint that knows whether a validation follows, for a run that goes on from it."""
        loop = trainer.fit_loop
        self._validates = bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))
        self.save(trainer)
        self._validates = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate where the run was stopped between a step and its validation, which Lightning would pass over."""
        if not self._validates:
            return
        self._validates = False
        loop = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False
        trainer.validating = True
        loop.run()
        trainer.training = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint of the current step, unless it is there already, then drop the oldest."""
        step = trainer.global_step
        if step == self._saved:
            return
        broken = [n for n, p in trainer.lightning_module.named_parameters() if not bool(p.isfinite().all())]
        if broken:  # the checkpoint of before is worth more
            raise DivergedError(
                f"the training diverged: the weights {broken[0]} are not finite (NaN or infinity) at step {step}"
            )
        self._saved = step
        if trainer.is_global_zero:
            for logger in trainer.loggers:  # a run that goes on from here has all rows up to here
                logger.save()
        trainer.save_checkpoint(self.path(step), weights_only=False)
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
                trainer.strategy.remove_checkpoint(old)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved = checkpoint["zoo"]["step"]
        self._validates = bool(checkpoint["zoo"].get("validates")) and bool(trainer.limit_val_batches)
        if trainer.is_global_zero:  # what is newer than the newest intact one is damaged
            for path in self.folder.glob("step-*.ckpt"):
                if path > self.path(self._saved):
                    aside = path.with_name(path.name + ".damaged")
                    path.replace(aside)
                    warnings.warn(f"the damaged {path.name} was put aside as {aside}", stacklevel=2)
                    sidecar(path).unlink(missing_ok=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        facts = {**self.metadata, "step": trainer.global_step}
        checkpoint["zoo"] = {**facts, "validates": True} if self._validates else facts
