"""What a run does when a gradient or a loss is not finite, beside ending: skip the update, or go back and pass on."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from zoo.errors import ConfigError, DivergedError, RunError
from zoo.runs import last_checkpoint, read_model_checkpoint
from zoo.training.settings import TrainingSettings

__all__ = ["MOST", "SkipsUpdates", "check_divergence", "gone_back"]

log = logging.getLogger("zoo.training")

MOST = 3
"""How often a run goes back."""


def check_divergence(settings: TrainingSettings, world: int) -> None:
    """Raise `ConfigError` where a run of so many processes cannot do what the settings ask for."""
    if settings.on_divergence == "back" and world > 1:
        raise ConfigError(
            "--training.on_divergence back is for one device: processes do not go back together; use skip, or stop"
        )


class SkipsUpdates(Callback):
    """Leave out each update whose gradients are not all finite; weights and moments stay, and the step counts.

    Looking at the gradients waits for the device at every step, which a run that ends or goes back does not.

    Attributes:
        skipped: updates left out since the start of the run, interruptions included.

    Args:
        every: steps between warnings.
        facts: what run.json says, which is told of them.
    """

    def __init__(self, every: int, facts: dict[str, Any]) -> None:
        self.every, self.facts = every, facts
        self.skipped = self._reported = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            self._guard(optimizer)

    def _guard(self, optimizer: Optimizer) -> None:
        step = optimizer.step

        def guarded(closure: Any = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            if _finite(optimizer):
                step()
            else:
                self.skipped += 1
            return loss

        optimizer.step = guarded  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.skipped != self._reported and trainer.global_step % self.every == 0:
            self._tell(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.skipped != self._reported:
            self._tell(trainer)

    def _tell(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            new = self.skipped - self._reported
            log.warning("step %d: %d updates were skipped, whose gradients were not finite", trainer.global_step, new)
        self._reported = self.facts["skipped_updates"] = self.skipped

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.skipped:
            checkpoint["zoo_skipped"] = self.facts["skipped_updates"] = self.skipped

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.skipped = self._reported = int(checkpoint.get("zoo_skipped", 0))
        if self.skipped:
            self.facts["skipped_updates"] = self.skipped


def _finite(optimizer: Optimizer) -> bool:
    """Tell whether all gradients that an optimizer is about to use are finite, on every process alike."""
    gradients: list[Tensor] = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    if not gradients:
        return True
    largest = torch._foreach_norm(gradients, ord=float("inf"))
    finite = torch.stack([n.float() for n in largest]).isfinite().all()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        flag = finite.int()
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag)
    return bool(finite)


def gone_back(run: Any, error: DivergedError) -> Any:
    """Return a run that goes on from the last checkpoint, past the batches that were seen since.

    The same batches and noise would lead to the same end; those that follow need not.

    Args:
        run: the `zoo.training.fit.Run` that diverged.
        error: which says how.

    Raises:
        DivergedError: the run is not to go back, has no checkpoint, or has gone back `MOST` times.

    References:
        A. Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022, arXiv:2204.02311, section 5.1.
    """
    if run.settings.on_divergence != "back" or run.engine is None:
        raise error
    if len(run.went_back) >= MOST:
        raise DivergedError(f"{error}; it went back {MOST} times") from error
    try:
        content = read_model_checkpoint(last_checkpoint(run.folder))
    except RunError:
        raise error from None
    step, seen = content["zoo"]["step"], run.engine.batches
    past = seen - content["zoo_batches"]
    what = str(error).partition(";")[0]
    warnings.warn(f"{what}; going back to step {step}, past the {past} batches since", stacklevel=3)
    again = type(run)(
        run.entry, ["--config", str(run.folder / "config.yaml")], allow=run.allow, folder=run.folder, resume=True,
        callbacks=run.given_callbacks, objects=run.objects, command=run.command,
    )  # fmt: skip
    again.asked, again.registry = run.asked, run.registry
    again.went_back = [*run.went_back, {"to": step, "past_batches": past, "because": what}]
    return again
