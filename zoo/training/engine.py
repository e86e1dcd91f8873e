"""What happens around every step: noise, learning rate, logging, and stopping when asked.

All of it is a function of the step: nothing here needs to be restored when a run resumes, except the step.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.data.base import derive_seed
from zoo.errors import DivergedError
from zoo.model import Player
from zoo.training.compiling import begin_step
from zoo.training.settings import TrainingSettings, rate

__all__ = ["Engine", "MetricsLog", "Stopped"]

_NOISE, _GLOBAL, _VALIDATION = 1, 2, 3
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
_PATIENCE = 10.0
"""Seconds after a first signal in which a further Ctrl-C changes nothing: the step ends, its checkpoint is written."""


class Stopped(Exception):
    """Raised in a training that a signal ends: once the checkpoint of its step is written, or before the first step.

    Attributes:
        signal_name: such as SIGINT.
        step: that was made, or was to be made.
        kept: whether there is a checkpoint to go on from; False where the run ended before it had any.
        exit_code: of a command that ends by it: 130 after Ctrl-C, else 143.

    Args:
        when: the signal came ``after`` the step, ``before`` it, or ``within`` one that did not end.
    """

    def __init__(self, signal_name: str, step: int, when: Literal["after", "before", "within"] = "after") -> None:
        super().__init__(f"{signal_name} {when} step {step}")
        self.signal_name, self.step = signal_name, step
        self.kept = True

    @property
    def exit_code(self) -> int:
        return 130 if self.signal_name == "SIGINT" else 143


def _as_asked(optimizers: Sequence[torch.optim.Optimizer], players: Sequence[Player]) -> list[list[float]]:
    """Return the peak rate of each group, and give each optimizer the options of its player.

    A run that is resumed has the options of the checkpoint in its optimizers; those that it is asked for now, which its
    configuration says, take their place.
    """
    ours = all(len(o.param_groups) == 1 or all("rate_factor" in g for g in o.param_groups) for o in optimizers)
    if len(optimizers) == len(players) and ours:
        for optimizer, player in zip(optimizers, players, strict=True):
            asked = {"betas": tuple(player.betas), "weight_decay": player.weight_decay}
            for group in optimizer.param_groups:
                group["initial_lr"] = player.lr * group.get("rate_factor", 1.0)
                group.update({name: value for name, value in asked.items() if name in group})
    return [[g.setdefault("initial_lr", g["lr"]) for g in o.param_groups] for o in optimizers]


class Engine(Callback):
    """Seed the noise of every step, set the learning rate, and turn signals into a clean stop.

    The random state of a step is a function of (seed, step, rank): the model's own streams, and torch's global
    generator for layers such as dropout.

    A signal that comes after the first step has begun ends the run when its step is done and its checkpoint is
    written; before that, where data are read and compiled, at once.

    Attributes:
        batches: batches seen since the start of the run, interruptions included.
        past: batches to pass over when going on from a checkpoint.

    Args:
        settings: the engine's settings.
        total: planned steps, the schedule's length; None for an endless constant schedule.
        ranks: ranks whose noise this process draws; its own rank unless a test says otherwise.
    """

    def __init__(self, settings: TrainingSettings, total: int | None, ranks: tuple[int, ...] | None = None) -> None:
        self.settings, self.total, self.ranks = settings, total, ranks
        self.received: str | None = None
        self._since = 0.0
        self._trainer: Trainer | None = None  # once its steps have begun
        self._from, self._process = 0, os.getpid()
        self.batches = self.past = 0
        self._peak: list[list[float]] = []
        self._streams: list[torch.Generator] = []
        self._seed_global: Callable[[int], Any] = torch.manual_seed
        self._rate: float | None = None
        self._previous: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.driven = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._peak = _as_asked(trainer.optimizers, list(pl_module.players().values()))
        self.ranks = self.ranks or (trainer.global_rank,)
        where = pl_module.device if self.settings.noise == "device" else "cpu"
        self._streams = [torch.Generator(device=where) for _ in self.ranks]
        if pl_module.device.type == "cpu":  # torch.manual_seed would visit every kind of accelerator
            self._seed_global = torch.default_generator.manual_seed
        pl_module.set_noise(self._streams)
        step = type(pl_module).training_step  # Lightning looks at its arguments before every step
        step.__signature__ = inspect.signature(step)
        trainer.train_dataloader.step = self.batches
        self._trainer = trainer
        self._listen()

    @contextlib.contextmanager
    def listening(self, step: int = 0) -> Iterator[None]:
        """Take over the signals that end a run, from before the first step after ``step`` on, and give them back."""
        self._from = step
        self._listen()
        try:
            yield
        finally:
            self._give_back()

    def _listen(self) -> None:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._receive)

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._receive:  # Lightning's own teardown puts back those before the run
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous, self._trainer = {}, None

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a process that reads data, which goes when the run goes
            return
        if self.received is None:
            self.received, self._since = signal.Signals(number).name, time.monotonic()
            if self._trainer is None:
                raise Stopped(self.received, self._from + 1, "before")
        elif number == signal.SIGINT and self._trainer is not None and time.monotonic() - self._since > _PATIENCE:
            raise Stopped("SIGINT", self._trainer.global_step + 1, "within")  # the step that is to end does not

    def _seed(self, *parts: int) -> None:
        for rank, stream in zip(self.ranks or (0,), self._streams, strict=True):
            stream.manual_seed(derive_seed(self.settings.seed, *parts, rank, _NOISE))
        self._seed_global(derive_seed(self.settings.seed, *parts, (self.ranks or (0,))[0], _GLOBAL))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._seed(self.batches)
        if self.settings.compile:
            begin_step(self.settings.compile_mode)
        factor = rate(trainer.global_step, self.settings, self.total)
        if factor == self._rate:
            return
        self._rate = factor
        for optimizer, peaks in zip(trainer.optimizers, self._peak, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.batches += 1

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["zoo_batches"] = self.batches

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.batches = checkpoint["zoo_batches"] + self.past

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._streams:
            self._seed(_VALIDATION)

    @staticmethod
    def between_steps(trainer: Trainer, pl_module: LightningModule) -> bool:
        """Tell whether no gradient is waiting for the rest of its accumulation."""
        if pl_module.automatic_optimization:
            return not trainer.fit_loop._should_accumulate()
        return not any(pl_module._pending.values())

    def stop_asked(self, trainer: Trainer) -> bool:
        """Tell, on every rank alike, whether some rank was sent a signal."""
        if trainer.world_size > 1 and dist.is_initialized():
            flag = torch.tensor([int(self.received is not None)], device=trainer.strategy.root_device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            if flag.item() and self.received is None:
                self.received = "a signal to another process"
        return self.received is not None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._give_back()
        pl_module.driven = False


class MetricsLog(Callback):
    """Keep the model's loss terms on the device and log their means every so many steps.

    ``self.log`` is not used: its bookkeeping costs more than a small training step. Nothing is computed with the terms
    until a row is due.

    Args:
        every: steps between rows.
        lenient: leave terms that are not finite out of a row, as the updates of their steps were; one of which none is
            finite still ends the run.
        watched: let others see the means since the last row where an epoch ends and where a validation begins, too.
    """

    def __init__(self, every: int = 50, *, lenient: bool = False, watched: bool = False) -> None:
        self.every, self.lenient, self.watched = every, lenient, watched
        self._validating = False
        self._kept: list[dict[str, Tensor]] = []
        self._sizes: list[int] = []
        self._since = time.perf_counter()
        self._logged = 0  # the step of the last row: while gradients accumulate, a step has several batches
        self.last: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged = trainer.global_step
        self._reset()

    def _reset(self) -> None:
        self._kept, self._sizes, self._since = [], [], time.perf_counter()

    def _means(self, trainer: Trainer, split: str, weights: list[int]) -> dict[str, float]:
        """Return the weighted mean of each term over all ranks; a term may be missing from early batches."""
        names = sorted({name for terms in self._kept for name in terms})
        if not names:
            return {}
        sums = []
        for name in names:
            here = [(terms[name], w) for terms, w in zip(self._kept, weights, strict=True) if name in terms]
            values = torch.stack([value for value, _ in here]).double()
            w = values.new_tensor([w for _, w in here])
            if self.lenient and split == "train":
                good = values.isfinite()
                values, w = values.where(good, 0.0), w * good
            sums += [values @ w, w.sum()]
        packed = torch.stack(sums)
        if trainer.world_size > 1 and dist.is_initialized():
            dist.all_reduce(packed)
        means = (packed[::2] / packed[1::2]).tolist()
        return {f"{split}/{n}": v for n, v in zip(names, means, strict=True)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._kept.append(dict(pl_module.terms))
        self._sizes.append(len(batch[1]))
        step = trainer.global_step
        if step % self.every == 0 and step != self._logged:
            self._row(trainer)
        elif self.watched and (step == trainer.max_steps or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch):
            self._show(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the terms of the steps since the last row, which may tell what happened.

        Not of several processes, of which the others may be elsewhere, nor where a run was stopped in good order: the
        row that it was in will be written when it goes on.
        """
        fault = isinstance(exception, Exception) and not isinstance(exception, Stopped)
        if fault and trainer.world_size == 1 and self._kept and not self._validating:
            with contextlib.suppress(Exception):  # the first error is the one to see
                self._write(trainer, self._train_row(trainer))

    def _show(self, trainer: Trainer) -> None:
        """Tell other callbacks the means since the last row, without a row of their own."""
        if self._kept:
            row = self._means(trainer, "train", [1] * len(self._kept))
            self.last.update(row)
            trainer.callback_metrics.update({k: torch.tensor(v) for k, v in row.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._kept:
            self._row(trainer)

    def _train_row(self, trainer: Trainer) -> dict[str, float]:
        row = self._means(trainer, "train", [1] * len(self._kept))
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["examples_per_second"] = (
            sum(self._sizes) * trainer.world_size / max(1e-9, time.perf_counter() - self._since)
        )
        return row

    def _row(self, trainer: Trainer) -> None:
        row = self._train_row(trainer)
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in row.items() if k.startswith("train/")})
        self._write(trainer, row)
        self._logged = trainer.global_step
        self._reset()
        broken = sorted(name.removeprefix("train/") for name, value in row.items() if not math.isfinite(value))
        if broken:
            raise DivergedError(
                f"the training diverged: {', '.join(broken)} is not finite (NaN or infinity) at step {self._logged}"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.watched and trainer.training:
            self._show(trainer)
        self._validating = True
        self._held = (self._kept, self._sizes, pl_module.terms)
        self._kept, self._sizes = [], []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._kept.append(dict(pl_module.terms))
        self._sizes.append(len(batch[1]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row of a validation before its last hook, at which other callbacks look at the metrics."""
        row = self._means(trainer, "validation", self._sizes)
        self._kept, self._sizes, pl_module.terms = self._held
        self._validating = False
        if trainer.sanity_checking:
            return
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in row.items()})
        self._write(trainer, row)

    on_test_start, on_test_batch_end = on_validation_start, on_validation_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, self._means(trainer, "test", self._sizes))

    def _write(self, trainer: Trainer, row: dict[str, float]) -> None:
        self.last.update(row)
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step)
