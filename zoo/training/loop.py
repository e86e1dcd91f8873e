"""The loop over batches without most of Lightning's Python, which costs a small model more than its optimizer does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from zoo.model import GenerativeModel
from zoo.training.hooks import NoProfiler

__all__ = ["LeanEpochLoop", "run_lean"]

_KNOWN = "2.6."
"""The versions of Lightning whose steps the short way follows; others run their own."""

_INNER = (
    "on_before_backward", "on_after_backward", "on_before_zero_grad", "on_before_optimizer_step",
)  # fmt: skip
_MODULE = (
    *_INNER, "on_train_batch_start", "on_train_batch_end", "backward", "optimizer_step", "optimizer_zero_grad",
    "configure_gradient_clipping",
)  # fmt: skip
"""Hooks of a module, inside a step, that are Lightning's or the base's in an ordinary family."""


def _own(name: str) -> tuple[Any, ...]:
    return getattr(LightningModule, name), getattr(GenerativeModel, name)


@dataclass(frozen=True)
class _Plan:
    """Who is called at the start and the end of each step, and by whom the optimizer is driven."""

    starts: tuple[Callable[..., Any], ...]
    ends: tuple[Callable[..., Any], ...]
    automatic: bool  # the loss is differentiated here; else by Lightning's loops


class LeanEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a short way for the ordinary step.

    An ordinary step is one of a single device in full precision, where gradients are neither accumulated nor clipped by
    Lightning and nobody listens to the hooks inside the step. It does what Lightning's does, in the same order, and
    keeps the same counters, so that checkpoints hold the same and a run goes on in either. All other steps, and the
    first one after a restart, are Lightning's.
    """

    _plan: _Plan | None = None

    def reset(self) -> None:
        self._plan = self._ordinary()
        super().reset()

    def _ordinary(self) -> _Plan | None:
        trainer, module = self.trainer, self.trainer.lightning_module
        if (
            type(trainer.strategy) is not SingleDeviceStrategy
            or type(trainer.precision_plugin) is not Precision
            or not isinstance(trainer.profiler, NoProfiler)
            or trainer.accumulate_grad_batches != 1
            or trainer.gradient_clip_val
            or trainer.strategy.lr_scheduler_configs
            or any(getattr(type(module), name) not in _own(name) for name in _MODULE)
            or any(_listens(part, name) for part in trainer.callbacks for name in _INNER)
            or any(
                type(part).on_before_batch_transfer is not DataHooks.on_before_batch_transfer
                for part in (module, trainer.datamodule or module)
            )
        ):
            return None
        starts, ends = (
            tuple(getattr(part, name) for part in trainer.callbacks if _listens(part, name))
            for name in ("on_train_batch_start", "on_train_batch_end")
        )
        return _Plan(starts, ends, type(module).training_step is GenerativeModel.training_step)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self._plan is None or self.restarting or type(data_fetcher) is not _PrefetchDataFetcher:
            super().advance(data_fetcher)
            return
        trainer, module, progress, plan = self.trainer, self.trainer.lightning_module, self.batch_progress, self._plan
        self.val_loop.restarting = False
        batch, _, _ = next(data_fetcher)
        progress.is_last_batch = data_fetcher.done
        batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        progress.increment_ready()
        index = self.batch_idx
        trainer._logger_connector.on_batch_start(batch)
        names = module.__dict__  # Module's own way of setting an attribute takes ten times as long
        names["_current_fx_name"] = "on_train_batch_start"
        for call in plan.starts:
            call(trainer, module, batch, index)
        progress.increment_started()
        output = self._step(module, batch, index, plan.automatic)
        progress.increment_processed()
        names["_current_fx_name"] = "on_train_batch_end"
        for call in plan.ends:
            call(trainer, module, output, batch, index)
        names["_current_fx_name"] = None
        logged = bool(self._results)  # somebody called self.log
        if logged:
            trainer._logger_connector.on_batch_end()
        progress.increment_completed()
        if logged:
            trainer._logger_connector.update_train_step_metrics()

    def _step(self, module: LightningModule, batch: Any, index: int, automatic: bool) -> dict[str, Tensor]:
        module.__dict__["_current_fx_name"] = "training_step"
        if not automatic:
            kwargs = OrderedDict(batch=batch, batch_idx=index)
            if module.automatic_optimization:
                return self.automatic_optimization.run(self.trainer.optimizers[0], index, kwargs)
            return self.manual_optimization.run(kwargs)
        done, optimizer = self.automatic_optimization.optim_progress.optimizer, self.trainer.optimizers[0]
        done.step.increment_ready()
        loss = module.training_step(batch, index)
        done.zero_grad.increment_ready()
        done.zero_grad.increment_started()
        optimizer.zero_grad()
        done.zero_grad.increment_completed()
        loss.backward()
        optimizer.step()
        done.step.increment_completed()
        return {"loss": loss.detach()}


def _listens(part: Callback, name: str) -> bool:
    hook = getattr(part, name)
    return callable(hook) and getattr(hook, "__func__", None) is not getattr(Callback, name)


def run_lean(trainer: Trainer) -> Trainer:
    """Give a trainer, before it runs, the lean loop in the place of its own, if it was made after that one."""
    if not lightning.__version__.startswith(_KNOWN):
        return trainer
    own = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = LeanEpochLoop(trainer, min_steps=own.min_steps, max_steps=own.max_steps)
    return trainer
