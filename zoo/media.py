"""Samples as files of their kind: sheets of images, videos, texts, recordings with spectrograms, arrays of numbers."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.abilities import HasFeatures, writes_sound, writes_text
from zoo.errors import ConfigError
from zoo.files import write_together
from zoo.images import animation_bytes, captioned_png, clips_png, png_bytes
from zoo.maths.mulaw import mulaw_decode
from zoo.model import GenerativeModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "check_ending",
    "default_file",
    "feature_picture",
    "medium",
    "page",
    "samples_of",
    "save_samples",
    "spectrogram",
    "spectrogram_png",
    "wav_bytes",
    "waveform",
]

_GAP = 0.05  # seconds of silence between recordings
_ENDINGS = {
    "text": (".txt",), "audio": (".wav",), "image": (".png",), "video": (".gif", ".apng", ".png"), "points": (),
}  # fmt: skip


def medium(model: GenerativeModel) -> str:
    """Return the kind of a model's examples: ``text``, ``audio``, ``image``, ``video`` or ``points``."""
    if writes_text(model):
        return "text"
    if writes_sound(model):
        return "audio"
    kinds = {3: "image", 4: "video"}
    return kinds.get(len(model.shape), "points") if model.shape[0] in (1, 3) else "points"


def default_file(model: GenerativeModel, stem: str) -> str | None:
    """Return the name of the file that samples go to unless another is asked for; None for text, which is printed."""
    ending = {"text": None, "points": ".npz"}.get(medium(model), (_ENDINGS[medium(model)] or (None,))[0])
    return None if ending is None else f"{stem}{ending}"


def page(texts: list[str]) -> str:
    """Return texts one after the other, with a line between them."""
    return ("\n" + "-" * 40 + "\n").join(text.rstrip("\n") for text in texts) + "\n"


def waveform(model: Any, x: Tensor) -> Tensor:
    """Return the recordings that samples in data range stand for, with silence between: (n, T) -> (N,) in [-1, 1]."""
    recordings = mulaw_decode(x.float().cpu(), model.levels)
    gap = torch.zeros(len(x), int(_GAP * model.rate))
    return torch.cat([recordings, gap], 1).flatten()[: -gap.shape[1] or None]


def wav_bytes(x: Tensor, rate: int) -> bytes:
    """Return a WAV file of 16 bits, mono, of a waveform (N,) in [-1, 1]."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((x.clamp(-1, 1) * 32767).round().numpy().astype("<i2").tobytes())
    return stream.getvalue()


def spectrogram_png(x: Tensor, rate: int) -> bytes:
    """Return the spectrogram of a waveform (N,) as a PNG file: decibels below its loudest point, time and frequency."""
    stream = io.BytesIO()
    _drawn_spectrogram(x, rate).savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def spectrogram(x: Tensor, rate: int) -> np.ndarray:
    """Return the spectrogram of a waveform (N,) as a picture, uint8 (height, width, 3); see `spectrogram_png`."""
    from PIL import Image

    with Image.open(io.BytesIO(spectrogram_png(x, rate))) as picture:
        return np.asarray(picture.convert("RGB"))


def _drawn_spectrogram(x: Tensor, rate: int) -> Figure:
    from matplotlib.figure import Figure

    size = 512 if len(x) >= 1024 else 128
    padded = torch.nn.functional.pad(x, (0, max(0, size - len(x))))
    power = torch.stft(padded, size, size // 4, window=torch.hann_window(size), return_complex=True).abs().square()
    decibels = 10 * (power / power.max().clamp_min(1e-12)).clamp_min(1e-8).log10()  # (frequencies, times)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(
        decibels.numpy(), origin="lower", aspect="auto", vmin=-80, vmax=0, cmap="magma",
        extent=(0, len(padded) / rate, 0, rate / 2000), interpolation="nearest",
    )  # fmt: skip
    axes.set_xlabel("time in s")
    axes.set_ylabel("frequency in kHz")
    figure.colorbar(picture, ax=axes, label="dB")
    return figure


def samples_of(
    model: Any, x: Tensor, *, captions: Sequence[str] | None = None, ending: str | None = None
) -> dict[str, bytes]:
    """Return samples (n, *shape) in data range as files by their ending.

    Images are a sheet, ``.png``, each with its caption if there are any; texts ``.txt``; recordings ``.wav`` with their
    spectrogram, ``.png``; videos ``.gif`` (or ``.apng``, without loss of colours) with a sheet of one clip a row,
    ``.png``, or that sheet alone where ``ending`` says so; points have none.
    """
    kind = medium(model)
    if kind == "text":
        return {".txt": page(model.text(x)).encode()}
    if kind == "audio":
        sound = waveform(model, x)
        return {".wav": wav_bytes(sound, model.rate), ".png": spectrogram_png(sound, model.rate)}
    if kind == "video":
        moving = {} if ending == ".png" else {ending or ".gif": animation_bytes(x, apng=ending == ".apng", scale=2)}
        return {**moving, ".png": clips_png(x, scale=2)}
    if kind == "image":
        return {".png": png_bytes(x, scale=2) if captions is None else captioned_png(x, captions, scale=2)}
    return {}


@torch.no_grad()
def feature_picture(model: Any, x: Tensor) -> Tensor:
    """Return examples, and three principal components of the features of their tokens as colours.

    Args:
        model: with `zoo.abilities.HasFeatures`, of images or videos, in eval mode.
        x: images (N, C, H, W) or videos (N, C, T, H, W) in data range.

    Returns:
        (2, N, 3, H, W), or (2, N, 3, T, H, W), in [0, 1], the examples first.
    """
    tokens = model.features(x.to(model.device), pool=None).double().cpu()  # (N, K, D)
    centred = tokens - tokens.mean((0, 1))
    _, axes = torch.linalg.eigh(centred.flatten(0, 1).T @ centred.flatten(0, 1))  # rising
    axes = axes.flip(1)[:, :3]
    axes = axes * axes.gather(0, axes.abs().argmax(0)[None]).sign()
    parts = torch.nn.functional.pad(centred @ axes, (0, 3 - axes.shape[1]))  # (N, K, 3)
    low, high = parts.amin((0, 1)), parts.amax((0, 1))
    colours = (parts - low) / (high - low).clamp_min(1e-12)
    colours = colours.movedim(2, 1).unflatten(2, _token_grid(model, tokens.shape[1])).float()  # (N, 3, *grid)
    colours = torch.nn.functional.interpolate(colours, size=tuple(x.shape[2:]), mode="nearest")
    return torch.stack([x.float().cpu().expand_as(colours), colours])


def _token_grid(model: HasFeatures, tokens: int) -> tuple[int, ...]:
    """Return how tokens lie: as the model says, else over an image with its aspect ratio, else in a row."""
    if model.token_grid is not None:
        return tuple(model.token_grid)
    if len(model.shape) == 3:
        rows = max(1, round((tokens * model.shape[1] / model.shape[2]) ** 0.5))
        if tokens % rows == 0:
            return rows, tokens // rows
    return (*(1 for _ in model.shape[2:]), tokens)


def check_ending(model: GenerativeModel, path: str | Path) -> None:
    """Raise `ConfigError` unless samples of the model can go to a file of this ending."""
    fitting = (*_ENDINGS[medium(model)], ".npz")
    if Path(path).suffix not in fitting:
        listed = " or ".join([", ".join(fitting[:-1]), fitting[-1]] if len(fitting) > 1 else fitting)
        raise ConfigError(f"samples of this {type(model).__name__} go to {listed}, not to {Path(path).name!r}")


def save_samples(
    model: Any, x: Tensor, path: str | Path, *, captions: Sequence[str] | None = None, **metadata: Any
) -> list[Path]:
    """Write samples (n, *shape) in data range to a file of the kind that its ending names, and return what was written.

    Args:
        model: that drew them.
        x: samples.
        path: ``.npz`` for the numbers of any model; ``.png`` for images; ``.txt`` for texts; ``.wav`` for recordings,
            whose spectrogram is written beside it; ``.gif`` or ``.apng`` for videos, with a sheet of one clip a row
            beside it, or ``.png`` for that sheet alone.
        captions: the text of each image, which goes below it.
        metadata: further entries of an ``.npz`` file.

    Raises:
        ConfigError: an ending that does not fit the model.
    """
    path = Path(path)
    check_ending(model, path)
    if path.suffix == ".npz":
        stream = io.BytesIO()
        np.savez_compressed(stream, samples=x.cpu().numpy(), **metadata)
        files = {".npz": stream.getvalue()}
    else:
        files = samples_of(model, x, captions=captions, ending=path.suffix)
    return write_together({path.with_suffix(ending): content for ending, content in files.items()})
