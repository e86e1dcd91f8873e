"""Pictures in the run folder: samples from the averaged weights, in their kind, or what features see; loss curves."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.abilities import HasFeatures
from zoo.callbacks.curves import plot_losses
from zoo.callbacks.ema import EMA
from zoo.callbacks.logged_pictures import send_picture
from zoo.callbacks.sharded import is_sharded, whole
from zoo.context import decode_texts
from zoo.files import write_whole
from zoo.images import clips_png, png_bytes
from zoo.media import default_file, feature_picture, medium, save_samples
from zoo.progress import drawing_bar

__all__ = ["Pictures", "first_picture", "plot_losses"]

_FIRST = 100

log = logging.getLogger("zoo.callbacks")


def first_picture(every: int) -> int:
    """Return the step of the first picture, soon after the start; 0 where pictures come at the end only."""
    return min(_FIRST, every)


class Pictures(Callback):
    """Write ``samples/step-XXXXXXXX.png`` and ``loss.png`` soon after the start, every so many steps, and at the end.

    Models of text write ``.txt``, those of audio ``.wav`` with its spectrogram, those of videos ``.gif`` with a sheet
    of one clip a row. What is told a text draws for the texts of the first validation examples, with these as captions.
    The samples use one seed, so that they can be compared across steps; sampling has its own generator and leaves the
    training noise alone. A model that does not generate shows the features of validation examples as colours instead,
    in ``features.png``. A picture that cannot be drawn is told, once for each reason, and the training goes on.

    Args:
        folder: the run folder.
        every: steps between pictures, 0 for the end only.
        count: images a grid; of texts, recordings and clips a sixteenth as many.
        ema: the average whose weights are sampled, if the run keeps one.
        bar: show one over what takes long to draw.
    """

    def __init__(
        self, folder: str | Path, *, every: int = 1000, count: int = 64, ema: EMA | None = None, bar: bool = False
    ) -> None:
        self.folder, self.every, self.count, self.ema, self.bar = Path(folder), every, count, ema, bar
        self._first = first_picture(every)
        self._drawn = -1
        self._reported: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what a run that was stopped right after its checkpoint has not come to."""
        step = trainer.global_step
        if step and not is_sharded(trainer) and not any(self.folder.glob(f"samples/step-{step:08d}.*")):
            self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not self.every:
            return
        step = trainer.global_step
        if (step % self.every == 0 or step == self._first) and (trainer.is_global_zero or is_sharded(trainer)):
            self.draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (trainer.is_global_zero or is_sharded(trainer)):
            return
        if self._drawn == trainer.global_step:  # the last row of the losses has come since
            self._curves(trainer)
        self.draw(trainer, pl_module)

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw both pictures for the current step, once a step; say what of it cannot be drawn.

        The first process does; where parameters are divided among them, all have to come here with theirs.
        """
        step = trainer.global_step
        if self._drawn == step:
            return
        self._drawn = step
        with self._telling(step, "the samples" if pl_module.generates else "the features"):
            self._picture(trainer, pl_module)
        self._curves(trainer)

    def _curves(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.save()
        with self._telling(trainer.global_step, "the loss curves"):
            plot_losses(self.folder / "metrics.csv", self.folder / "loss.png")

    def _picture(self, trainer: Trainer, model: Any) -> None:
        with self.ema.applied() if self.ema is not None else contextlib.nullcontext(), whole(trainer):
            if not trainer.is_global_zero:
                return
            if model.generates:
                self._samples(trainer, model)
            elif isinstance(model, HasFeatures) and medium(model) in ("image", "video"):
                self._features(trainer, model)

    @contextlib.contextmanager
    def _telling(self, step: int, what: str) -> Iterator[None]:
        """Say in one sentence what cannot be drawn, and go on; a full disk is for the whole run to end on."""
        try:
            yield
        except Exception as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if reason not in self._reported:
                self._reported.add(reason)
                log.warning("step %d: %s could not be drawn, and the training goes on: %s", step, what, reason)

    def _samples(self, trainer: Trainer, model: Any) -> None:
        kind = medium(model)
        if kind == "points":
            return
        count = self.count if kind == "image" else max(1, self.count // 16)
        labels = captions = None
        if model.context:
            labels = _validation(trainer)[1][:count]
            count, captions = len(labels), decode_texts(labels, model.alphabet)
        with drawing_bar(model, {}, what="drawing pictures", shown=self.bar):
            samples = model.sample(count, seed=0, labels=labels)
        ending = Path(default_file(model, "samples") or "samples.txt").suffix
        for name in (f"samples/step-{trainer.global_step:08d}", "samples"):
            save_samples(model, samples, self.folder / f"{name}{ending}", captions=captions)
        self._sent(trainer, "samples", self.folder / f"samples{ending}")

    def _features(self, trainer: Trainer, model: Any) -> None:
        """Draw validation examples in the first row, and below each its features as colours."""
        x = trainer.datamodule.to_float(_validation(trainer)[0][: max(1, self.count // 4)], model.dtype)
        training = model.training
        model.eval()
        try:
            rows = feature_picture(model, x)
        finally:
            model.train(training)
        if medium(model) == "video":  # each clip above its features
            picture = clips_png(rows.transpose(0, 1).flatten(0, 1), scale=2)
        else:
            picture = png_bytes(rows.flatten(0, 1), columns=rows.shape[1], scale=2)
        for name in (f"samples/step-{trainer.global_step:08d}.png", "features.png"):
            write_whole(self.folder / name, picture)
        self._sent(trainer, "features", self.folder / "features.png")

    def _sent(self, trainer: Trainer, name: str, path: Path) -> None:
        """Give a picture to the loggers that take some; what one refuses is told, once for each reason."""
        for logger in trainer.loggers if path.suffix == ".png" else ():
            with self._telling(trainer.global_step, f"the {name} for {type(logger).__name__}"):
                send_picture(logger, name, path, trainer.global_step)


def _validation(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Return the validation split of the run's data: examples as they are stored, and labels."""
    return trainer.datamodule.split("validation")
