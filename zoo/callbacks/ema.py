"""Exponential moving average of the weights: what is validated, sampled and published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.callbacks.sharded import changed, is_sharded, pieces_of, whole_state

__all__ = ["EMA"]

_YOUNG = 100


class EMA(Callback):
    """Average the trainable parameters: ema <- d^k ema + (1 - d^k) parameter, every k steps.

    d = min(decay, (1 + t) / (10 + t)) with t the number of steps before those k, so that a young average forgets the
    random initialisation; k is 1 in the first hundred steps and `every` from then on, because a pass over weights and
    average is limited by memory and takes up to a tenth of a small model's step. Buffers are not averaged. During
    validation the model holds the average; checkpoints hold both, the raw weights under ``state_dict`` and the average
    under ``ema``.

    Args:
        decay: of the average in one step, between 0 and 1.
        every: steps between updates after the first hundred.

    References:
        B. T. Polyak, A. B. Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """

    def __init__(self, decay: float, every: int = 1) -> None:
        self.decay, self.every = decay, every
        self.updates = 0
        self._live: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._names: list[str] = []
        self._loaded: dict[str, Tensor] | None = None
        self._swapped = False
        self._trainer: Trainer | None = None  # where parameters are divided

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer if is_sharded(trainer) else None
        named = [(n, p) for n, p in pl_module.named_parameters() if p.requires_grad]
        self._names, self._live = [n for n, _ in named], [p.data for _, p in named]
        start = dict(zip(self._names, self._live, strict=True)) if self._loaded is None else self._loaded
        self._mean = [start[n].to(p.device, p.dtype, copy=True) for n, p in named]
        self._loaded = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:  # a strategy that divides parameters reads the checkpoint once they are divided
            self._mean = pieces_of(trainer, pl_module, self._loaded, self._live)
            self._loaded = None

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.updates += 1
        k = 1 if self.updates <= _YOUNG else self.every
        if self.updates % k == 0:
            t = self.updates - k
            decay = min(self.decay, (1 + t) / (10 + t))
            torch._foreach_lerp_(self._mean, self._live, 1 - decay**k)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model hold the average for a while."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the contents of the model's parameters and the average."""
        for live, mean in zip(self._live, self._mean, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)
        self._swapped = not self._swapped
        if self._trainer is not None:
            changed(self._trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._mean and not self._swapped:
            self.swap()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._swapped:
            self.swap()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._swapped:
            self.swap()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        mean = dict(zip(self._names, self._live if self._swapped else self._mean, strict=True))
        if is_sharded(trainer):
            with nullcontext() if self._swapped else self.applied():
                mean = whole_state(trainer, self._names)
        checkpoint["ema"] = {"decay": self.decay, "updates": self.updates, "parameters": mean}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("ema")
        if saved is not None:
            self.updates, self._loaded = saved["updates"], saved["parameters"]
