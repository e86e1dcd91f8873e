"""Tell a user early when an adversarial model fails: which digits it draws, how much its samples vary, and who wins.

Every so many steps a few hundred samples are drawn, with the averaged weights and one seed; what is seen goes into
metrics.csv in columns ``watch/...``, and each symptom is one sentence on standard error, once.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.abilities import HasCritic, draws_images
from zoo.callbacks.ema import EMA
from zoo.data.base import TensorData
from zoo.model import GenerativeModel
from zoo.training.engine import MetricsLog

__all__ = ["COVERED", "GANMonitor", "monitors_for", "symptoms"]

COVERED = 0.03
"""Share of the samples from which on a digit counts as covered."""

_BYTES = 1 << 28
"""Of the training images by whose spread that of samples is judged."""

_COUNT, _ALIKE, _NO_GRADIENT = 500, 0.3, 1e-6
_DIGITS = ("mnist", "binary_mnist", "binary_mnist_threshold")

log = logging.getLogger("zoo.training")


def symptoms(metrics: Mapping[str, float], digits: bool) -> list[str]:
    """Return a sentence for each sign of failure.

    Args:
        metrics: ``variety``, ``digit_share_0`` ... ``digit_share_9`` where ``digits``, and means of the loss terms.
        digits: whether the samples are digits.
    """
    found = []
    broken = sorted(k for k, v in metrics.items() if not math.isfinite(v))
    if broken:
        found.append(
            f"{', '.join(broken)} is not a finite number any more: the run has diverged; lower the learning rate"
        )
    if metrics["variety"] < _ALIKE:
        found.append(
            f"the samples vary {100 * metrics['variety']:.0f} % as much as the data: the generator has collapsed to "
            f"few images; lower the learning rate, or strengthen the critic's penalty"
        )
    lost = [k for k in range(10) if digits and metrics[f"digit_share_{k}"] < COVERED]
    if lost:
        found.append(
            f"{'digit' if len(lost) == 1 else 'digits'} {', '.join(map(str, lost))} under {100 * COVERED:.0f} % of "
            f"{_COUNT} samples: the generator misses modes of the data"
        )
    if metrics.get("generator_gradient", 1.0) < _NO_GRADIENT:
        found.append(
            f"the generator's gradient has norm {metrics['generator_gradient']:.1g}: the critic tells data from "
            f"samples too well to teach it; weaken the critic, or add a penalty on its gradient"
        )
    return found


class GANMonitor(Callback):
    """Look at samples every so many steps, and at the end.

    Attributes:
        seen: what was seen last.

    Args:
        spread: standard deviation of the data over examples, averaged over pixels.
        every: steps between looks.
        ema: the average whose weights are sampled, if the run keeps one.
        metrics: the log of the loss terms.
        classify: images (N, 1, 28, 28) in [0, 1] -> digits (N,), where the data are digits.
    """

    def __init__(
        self,
        spread: float,
        *,
        every: int,
        ema: EMA | None = None,
        metrics: MetricsLog | None = None,
        classify: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.spread, self.every, self.ema, self.metrics, self.classify = spread, every, ema, metrics, classify
        self.seen: dict[str, float] = {}
        self._said: set[str] = set()
        self._step = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look(trainer, pl_module)

    def look(self, trainer: Trainer, model: GenerativeModel) -> None:
        """Draw, measure, log, and warn; once a step, by the first process."""
        if not trainer.is_global_zero or self._step == trainer.global_step:
            return
        self._step = trainer.global_step
        try:
            self._look(trainer, model)
        except Exception as error:  # what a look fails at is told; it costs no training
            self._warn(f"the samples could not be looked at: {' '.join(str(error).split()) or type(error).__name__}")

    def _look(self, trainer: Trainer, model: GenerativeModel) -> None:
        with self.ema.applied() if self.ema is not None else contextlib.nullcontext():
            x = model.sample(_COUNT, seed=1).float().cpu()
        self.seen = {"variety": float(x.std(0).mean()) / self.spread}
        if self.classify is not None:
            shares = self.classify(x).bincount(minlength=10).double() / len(x)
            self.seen |= {f"digit_share_{k}": float(share) for k, share in enumerate(shares)}
            self.seen["digits_covered"] = float((shares >= COVERED).sum())
        for logger in trainer.loggers:
            logger.log_metrics({f"watch/{k}": v for k, v in self.seen.items()}, step=trainer.global_step)
        terms = {k.removeprefix("train/"): v for k, v in (self.metrics.last if self.metrics else {}).items()}
        for sentence in symptoms({**terms, **self.seen}, self.classify is not None):
            self._warn(sentence)

    def _warn(self, sentence: str) -> None:
        """Say a sentence, once for each beginning."""
        if sentence[:20] not in self._said:
            self._said.add(sentence[:20])
            log.warning("step %d: %s", self._step, sentence)


def monitors_for(
    model: GenerativeModel, data: TensorData, every: int, ema: EMA | None, metrics: MetricsLog
) -> list[Callback]:
    """Return what watches a run: something for models with a critic that draw images, unless pictures are off.

    No number of such a training says whether the samples are any good.
    """
    if not every or not isinstance(model, HasCritic) or not draws_images(model):
        return []
    few = max(16, min(2 * _COUNT, _BYTES // (4 * math.prod(data.shape))))
    x = data.to_float(data.first(few)[0])
    classify = _digits if data.name in _DIGITS and tuple(model.shape) == (1, 28, 28) else None
    return [GANMonitor(float(x.std(0).mean()), every=every, ema=ema, metrics=metrics, classify=classify)]


@torch.no_grad()
def _digits(x: Tensor) -> Tensor:
    """Return the digit that the shipped classifier sees in each image."""
    from zoo.metrics.classifier import digit_classifier

    return digit_classifier()(x)[1].argmax(1)
