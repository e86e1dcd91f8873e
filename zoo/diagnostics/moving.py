"""What moves: frames as one file, frames of states side by side, and the samples of a run over its training."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.diagnostics.figures import picture_of, sheet_of

__all__ = ["animation", "frames_in_plane", "frames_of", "sheets_of_training", "training_strip"]

_HOLD = 1_200  # milliseconds that the last frame stays
_MOST = 12  # sheets of a training that are shown
_STEP = re.compile(r"step-(\d+)\.png")


def animation(frames: Sequence[np.ndarray], milliseconds: int = 150) -> bytes:
    """Return frames, uint8 (height, width, 3) of one size each, as a GIF file that starts again after its last one."""
    from PIL import Image

    pictures = [Image.fromarray(frame).quantize(128) for frame in frames]
    durations = [milliseconds] * (len(pictures) - 1) + [_HOLD]
    stream = io.BytesIO()
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return stream.getvalue()


def frames_of(states: Tensor, *below: Tensor, width: int = 400) -> tuple[np.ndarray, ...]:
    """Return a frame for each of T states, (T, n, C, H, W) in [0, 1]: the n images in a row, others' rows below it."""
    rows = torch.cat([states, *below], 1)  # (T, rows * n, C, H, W)
    return tuple(sheet_of(frame.clamp(0, 1), columns=states.shape[1], width=width) for frame in rows)


def frames_in_plane(states: Tensor, times: Tensor) -> tuple[np.ndarray, ...]:
    """Return a frame for each of T states of points, (T, N, 2), at times (T,), all to one scale."""
    from matplotlib.figure import Figure

    reach, frames = 1.1 * float(states.abs().max()), []
    for points, t in zip(states, times.tolist(), strict=True):
        figure = Figure(figsize=(3, 3.2), dpi=100, layout="constrained")
        axes = figure.add_subplot()
        axes.scatter(*points.T, s=2)
        axes.set(title=f"t = {t:.2f}", xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect=1)
        frames.append(picture_of(figure))
    return tuple(frames)


def sheets_of_training(run: str | Path) -> dict[int, Path]:
    """Return step -> sheet of samples of a run folder, in order, twelve of them at most, the first and the last too."""
    found = {int(m[1]): p for p in Path(run).glob("samples/step-*.png") if (m := _STEP.fullmatch(p.name))}
    steps = sorted(found)
    if len(steps) > _MOST:
        steps = [steps[round(i * (len(steps) - 1) / (_MOST - 1))] for i in range(_MOST)]
    return {step: found[step] for step in steps}


def training_strip(sheets: dict[int, Path]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return the upper part of each sheet below the one before it, and each whole sheet as a frame, with their steps.

    Args:
        sheets: of `sheets_of_training`, at least two.
    """
    from PIL import Image, ImageDraw

    left, pictures = 64, {}
    for step, path in sheets.items():
        with Image.open(path) as picture:
            pictures[step] = picture.convert("RGB")
    width, height = (max(getattr(p, side) for p in pictures.values()) for side in ("width", "height"))
    tall = max(1, height // 8)
    strip = Image.new("RGB", (left + width, len(pictures) * (tall + 2)), "white")
    frames = []
    for i, (step, picture) in enumerate(pictures.items()):
        strip.paste(picture.crop((0, 0, picture.width, tall)), (left, i * (tall + 2)))
        ImageDraw.Draw(strip).text((4, i * (tall + 2) + tall // 2 - 6), f"{step:,}", fill="black")
        frame = Image.new("RGB", (width, height + 16), "white")
        frame.paste(picture, (0, 16))
        ImageDraw.Draw(frame).text((2, 2), f"step {step:,}", fill="black")
        frames.append(np.asarray(frame))
    return np.asarray(strip), tuple(frames)
