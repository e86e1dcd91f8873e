"""Sound files as numbers: WAV in all its usual forms; FLAC, Ogg, MP3 and AIFF through soundfile (extra ``audio``)."""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError

__all__ = ["ENDINGS", "FOREIGN", "read_recording", "read_wav"]

_WAV = {".wav", ".wave"}
_LIBRARY = {".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"}

ENDINGS = _WAV | _LIBRARY
"""Endings of files that are recordings."""

FOREIGN = {".m4a", ".aac", ".wma", ".mp4", ".amr", ".ape", ".wv", ".caf", ".au", ".mid", ".midi", ".webm", ".mka"}
"""Endings of recordings that are not read, and are not passed over in silence."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_NAMES = {2: "ADPCM", 6: "A-law", 7: "mu-law", 17: "ADPCM", 80: "MPEG", 85: "MP3"}
_GUID = bytes.fromhex("000000001000800000aa00389b71")
"""End of the identifiers of an extensible header whose beginning is a plain format."""


def read_recording(file: BinaryIO, name: str) -> tuple[Tensor, int]:
    """Read a recording: its channels' mean, float32 (N,) in [-1, 1], and its rate; the ending of ``name`` says how.

    Raises:
        DataError: it cannot be read, or only by a library that is not installed, naming it as ``name``.
    """
    ending = "." + name.rpartition(".")[2].lower()
    if ending in _WAV:
        return read_wav(file, name)
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the library below it is missing
        raise DataError(
            f'{name} is read through soundfile; install it with pip install "generative-zoo[audio]", or store it as WAV'
        ) from error
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)  # (N, channels)
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"{name} is not a sound file that can be read: {error}") from error
    return _mono(samples, name), int(rate)


def read_wav(file: BinaryIO, name: str) -> tuple[Tensor, int]:
    """Read a WAV file: its channels' mean, float32 (N,) in [-1, 1], and its rate.

    Whole numbers of 8, 16, 24 and 32 bits and floating-point ones of 32 and 64 bits are read, with a plain or an
    extensible header, in any number of channels; floating-point values beyond one are clipped.

    Raises:
        DataError: it is none, naming it as ``name``.
    """
    try:
        form, data = _chunks(file)
        tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", form[:16])
    except (ValueError, struct.error) as error:
        raise DataError(f"{name} is not a WAV file that can be read: {error}") from error
    if tag == _EXTENSIBLE and len(form) >= 40:
        tag = struct.unpack("<H", form[24:26])[0] if form[26:40] == _GUID else tag
    size = frame // channels if channels else 0
    kind = _kind(tag, size)
    if kind is None or size * channels != frame or not 0 < bits <= 8 * size or rate < 1:
        what = _NAMES.get(tag, f"samples of {bits} bits" if tag in (_PCM, _FLOAT) else f"format {tag}")
        raise DataError(
            f"{name} has {what} in {channels} channels at {rate} Hz, which is not read; store it as WAV of 16 bits"
        )
    data = data[: len(data) // frame * frame]
    if kind == "i3":
        bytes_ = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = np.zeros((len(bytes_), 4), np.uint8)
        values[:, 1:] = bytes_  # the upper three of four
        samples = values.view("<i4")[:, 0].astype(np.float64) / 2**31
    else:
        samples = np.frombuffer(data, kind).astype(np.float64)
        samples = (samples - 128) / 128 if kind == "u1" else samples / 2 ** (8 * size - 1) if "i" in kind else samples
    return _mono(samples.reshape(-1, channels), name), rate


def _kind(tag: int, size: int) -> str | None:
    """Return numpy's name of a sample type, ``i3`` for three bytes; None where it is not read."""
    if tag == _PCM:
        return {1: "u1", 2: "<i2", 3: "i3", 4: "<i4"}.get(size)
    return {4: "<f4", 8: "<f8"}.get(size) if tag == _FLOAT else None


def _chunks(file: BinaryIO) -> tuple[bytes, bytes]:
    """Return the contents of the chunks ``fmt`` and ``data``. Raises `ValueError`."""
    head = file.read(12)
    if head[:4] in (b"RF64", b"BW64", b"riff"):
        raise ValueError("it is one of the 64-bit kinds; store it as plain WAV")
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise ValueError("it does not begin as one")
    form: bytes | None = None
    while len(header := file.read(8)) == 8:
        kind, size = header[:4], struct.unpack("<I", header[4:])[0]
        if kind == b"data":
            if form is None:
                raise ValueError("its samples come before their format")
            return form, file.read(size if 0 < size < 0xFFFFFFFF else -1)  # a stream did not know its length
        content = file.read(size + size % 2)
        if kind == b"fmt ":
            form = content[:size]
    raise ValueError("it ends before its samples begin")


def _mono(samples: np.ndarray, name: str) -> Tensor:
    """Return the mean over channels of (N, channels), float32 (N,) in [-1, 1]."""
    mean = samples.astype(np.float64).mean(1) if samples.size else np.zeros(0)
    if not bool(np.isfinite(mean).all()):
        raise DataError(f"{name} holds samples that are NaN or infinite; store it anew")
    return torch.from_numpy(mean.clip(-1, 1).astype(np.float32))
