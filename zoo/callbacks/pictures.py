"""Pictures in the run folder: samples from the averaged weights, in their kind, or what features see; loss curves."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.abilities import HasFeatures
from zoo.callbacks.ema import EMA
from zoo.callbacks.logged_pictures import send_picture
from zoo.context import decode_texts
from zoo.files import write_whole
from zoo.images import clips_png, png_bytes
from zoo.media import default_file, feature_picture, medium, save_samples

__all__ = ["Pictures", "plot_losses"]

log = logging.getLogger("zoo.callbacks")


class Pictures(Callback):
    """Write ``samples/step-XXXXXXXX.png`` and ``loss.png`` every so many steps, and at the end.

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
    """

    def __init__(self, folder: str | Path, *, every: int = 1000, count: int = 64, ema: EMA | None = None) -> None:
        self.folder, self.every, self.count, self.ema = Path(folder), every, count, ema
        self._drawn = -1
        self._told: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what a run that was stopped right after its checkpoint has not come to."""
        step = trainer.global_step
        if step and not any(self.folder.glob(f"samples/step-{step:08d}.*")):
            self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.every and trainer.global_step % self.every == 0 and trainer.is_global_zero:
            self.draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if self._drawn == trainer.global_step:  # the last row of the losses has come since
            self._curves(trainer)
        self.draw(trainer, pl_module)

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw both pictures for the current step, once a step; say what of it cannot be drawn."""
        step = trainer.global_step
        if self._drawn == step:
            return
        self._drawn = step
        with self._telling(step, "the samples" if pl_module.generates else "the features"):
            self._picture(trainer, pl_module)
        self._curves(trainer)

    def _curves(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        with self._telling(trainer.global_step, "the loss curves"):
            plot_losses(self.folder / "metrics.csv", self.folder / "loss.png")

    def _picture(self, trainer: Trainer, model: Any) -> None:
        with self.ema.applied() if self.ema is not None else contextlib.nullcontext():
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
            if reason not in self._told:
                self._told.add(reason)
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


def plot_losses(metrics: Path, path: Path) -> None:
    """Plot every column of ``metrics.csv`` that holds a loss term against the step."""
    if not metrics.is_file():
        return
    with metrics.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    terms: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        for column, value in row.items():
            split, _, term = (column or "").partition("/")
            if term and value and math.isfinite(float(value)):
                terms.setdefault(term, {}).setdefault(split, []).append((int(row["step"]), float(value)))
    if not terms:
        return
    from matplotlib.figure import Figure

    columns = min(3, len(terms))
    lines = -(-len(terms) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * lines), layout="constrained")
    for i, (term, splits) in enumerate(sorted(terms.items(), key=lambda t: (t[0] != "loss", t[0]))):
        axes = figure.add_subplot(lines, columns, i + 1)
        for split, points in splits.items():
            axes.plot(*zip(*points, strict=True), label=split, marker="o" if len(points) < 12 else None, markersize=3)
        axes.set_ylim(*_limits([p for points in splits.values() for p in points]))
        axes.set_title(term, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    write_whole(path, stream.getvalue())


def _limits(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Return the range of the values after the first twentieth of the steps, which would hide all that follows."""
    last = max(step for step, _ in points)
    late = [value for step, value in points if step >= last / 20]
    pad = 0.05 * (max(late) - min(late)) or 0.05 * abs(late[0]) or 1.0
    return min(late) - pad, max(late) + pad
