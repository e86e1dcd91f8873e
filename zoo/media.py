"""Samples as files of their kind: sheets of images, texts, recordings with spectrograms, arrays of numbers."""

from __future__ import annotations

import io
import os
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.images import png_bytes
from zoo.maths.mulaw import mulaw_decode
from zoo.model import GenerativeModel

__all__ = [
    "check_ending",
    "default_file",
    "medium",
    "page",
    "samples_of",
    "save_samples",
    "spectrogram_png",
    "wav_bytes",
    "waveform",
]

_GAP = 0.05  # seconds of silence between recordings


def medium(model: GenerativeModel) -> str:
    """Return what a model makes: ``text``, ``audio``, ``image`` or ``points``."""
    if getattr(model, "alphabet", None) is not None:
        return "text"
    if getattr(model, "rate", None) is not None:
        return "audio"
    return "image" if len(model.shape) == 3 and model.shape[0] in (1, 3) else "points"


def default_file(model: GenerativeModel, stem: str) -> str | None:
    """Return the name of the file that samples go to unless another is asked for; None for text, which is printed."""
    return {"text": None, "audio": f"{stem}.wav", "image": f"{stem}.png", "points": f"{stem}.npz"}[medium(model)]


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
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def samples_of(model: Any, x: Tensor) -> dict[str, bytes]:
    """Return samples as files by their ending: ``.png`` for images, ``.txt``, or ``.wav`` with its ``.png``."""
    kind = medium(model)
    if kind == "text":
        return {".txt": page(model.text(x)).encode()}
    if kind == "audio":
        sound = waveform(model, x)
        return {".wav": wav_bytes(sound, model.rate), ".png": spectrogram_png(sound, model.rate)}
    return {".png": png_bytes(x, scale=2)} if kind == "image" else {}


def check_ending(model: GenerativeModel, path: str | Path) -> None:
    """Raise `ConfigError` unless samples of the model can go to a file of this ending."""
    fitting = {"text": ".txt", "audio": ".wav", "image": ".png", "points": None}[medium(model)]
    if Path(path).suffix not in (fitting, ".npz"):
        raise ConfigError(
            f"samples of this {type(model).__name__} go to {f'{fitting} or ' if fitting else ''}.npz, not to "
            f"{Path(path).name!r}"
        )


def save_samples(model: Any, x: Tensor, path: str | Path, **facts: Any) -> list[Path]:
    """Write samples (n, *shape) in data range to a file of the kind that its ending names, and return what was written.

    Args:
        model: that drew them.
        x: samples.
        path: ``.npz`` for the numbers of any model; ``.png`` for images; ``.txt`` for texts; ``.wav`` for recordings,
            whose spectrogram is written beside it.
        facts: further entries of an ``.npz`` file.

    Raises:
        ConfigError: an ending that does not fit the model.
    """
    path = Path(path)
    check_ending(model, path)
    if path.suffix == ".npz":
        stream = io.BytesIO()
        np.savez_compressed(stream, samples=x.cpu().numpy(), **facts)
        files = {".npz": stream.getvalue()}
    else:
        files = samples_of(model, x)
    path.parent.mkdir(parents=True, exist_ok=True)
    return [_write(path.with_suffix(ending), content) for ending, content in files.items()]


def _write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return path
