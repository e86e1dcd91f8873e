"""Audio as mu-law codes: synthetic tones, the embedded speech, and any folder of WAV files.

Examples are windows of 8-bit codes, mono, at a sampling rate that the data set names. Test and validation windows
follow each other without overlap; what is left over at the end of a recording is not used.
"""

from __future__ import annotations

import math
import sys
import wave
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from zoo.data.base import Split, TensorData, derive_seed
from zoo.errors import DataError
from zoo.maths.mulaw import mulaw_encode
from zoo.maths.resample import resample

__all__ = ["CHORDS", "TONES", "Speech", "Tones", "WavFolder", "read_wav"]

TONES = (220.0, 261.63, 293.66, 329.63, 392.0, 440.0, 523.25, 659.26)
"""Frequencies in Hz: A3 C4 D4 E4 G4 A4 C5 E5."""

CHORDS = ((0, 1, 3), (1, 3, 4), (3, 4, 6), (5, 6, 7))
"""Triads, as indices of tones."""

_SPLITS = {"train": 0, "validation": 1, "test": 2}


class _Audio(TensorData):
    """Windows of mu-law codes."""

    unit = "bits_per_sample"
    levels = 256

    def __init__(self, length: int, rate: int, batch_size: int, seed: int, limit: int | None) -> None:
        super().__init__(batch_size, seed, limit)
        if length < 1 or rate < 1:
            raise DataError(f"{self.name}: length and rate must be positive, got {length} and {rate}")
        self.length, self.rate, self.shape = length, rate, (length,)

    @property
    def counting(self) -> str:
        """How the likelihood of the audio is counted, for the protocol."""
        return f"windows of {self.length} mu-law codes without overlap, each sample given those before it in its window"

    def windows(self, recordings: list[Tensor], split: str) -> Tensor:
        """Cut recordings in [-1, 1] into windows uint8 (n, length); those for training overlap by seven eighths."""
        stride = max(1, self.length // 8) if split == "train" else self.length
        codes = [mulaw_encode(x).to(torch.uint8) for x in recordings]
        parts = [k.unfold(0, self.length, stride) for k in codes if len(k) >= self.length]
        if not parts:
            raise DataError(
                f"{self.name}: no recording of the {split} split has {self.length} samples at {self.rate} Hz; set "
                "--data.length lower"
            )
        return torch.cat(parts)


class Tones(_Audio):
    """Synthetic tones: a sine of one of eight frequencies, or a chord of three of them, with random phases.

    The label is the index in `TONES`, or 8 plus the index in `CHORDS`. A sine has an amplitude between 0.3 and 0.9; the
    notes of a chord share that amplitude evenly. Every split is drawn with a seed of its own.

    Args:
        length: samples a clip.
        rate: samples a second.
        clips: of the training split; validation and test have a sixteenth each.
        batch_size: clips a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training clips.
    """

    name = "tones"
    num_classes = len(TONES) + len(CHORDS)

    def __init__(
        self,
        length: int = 1024,
        rate: int = 8000,
        clips: int = 8000,
        batch_size: int = 8,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(length, rate, batch_size, seed, limit)
        self.clips = clips

    def read(self, split: str) -> Split:
        generator = torch.Generator().manual_seed(derive_seed(_SPLITS[split], len(self.name)))
        n = self.clips if split == "train" else max(1, self.clips // 16)
        labels = torch.randint(self.num_classes, (n,), generator=generator)
        amplitude = 0.3 + 0.6 * torch.rand(n, 1, generator=generator, dtype=torch.float64)
        phase = 2 * math.pi * torch.rand(n, 3, 1, generator=generator, dtype=torch.float64)
        # A sine is a chord of one note: the other two are silent.
        notes = torch.tensor([(i, i, i) for i in range(len(TONES))] + list(CHORDS))[labels]  # (n, 3)
        share = torch.tensor([(1.0, 0.0, 0.0)] * len(TONES) + [(1 / 3,) * 3] * len(CHORDS), dtype=torch.float64)[labels]
        omega = 2 * math.pi / self.rate * torch.tensor(TONES, dtype=torch.float64)[notes]
        x = torch.empty(n, self.length, dtype=torch.uint8)
        t = torch.arange(self.length, dtype=torch.float64)
        for i in range(0, n, 500):
            part = slice(i, i + 500)
            waves = (omega[part, :, None] * t + phase[part]).sin() * share[part, :, None]  # (500, 3, T)
            x[part] = mulaw_encode(amplitude[part] * waves.sum(1)).to(torch.uint8)
        return x, labels


class Speech(_Audio):
    """Five embedded utterances of one reader, 24.7 s: the last is test, the shortest of the others is validation.

    Args:
        length: samples a window.
        rate: samples a second; the recordings have 16,000.
        batch_size: windows a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training windows.
    """

    name = "speech"
    _UTTERANCES = {"train": ("0870", "0890", "0920"), "validation": ("0880",), "test": ("0930",)}

    def __init__(
        self, length: int = 4096, rate: int = 16000, batch_size: int = 8, seed: int = 0, limit: int | None = None
    ) -> None:
        super().__init__(length, rate, batch_size, seed, limit)

    def read(self, split: str) -> Split:
        folder = resources.files("zoo.data").joinpath("assets", "librivox")
        recordings = []
        for number in self._UTTERANCES[split]:
            with folder.joinpath(f"sense_and_sensibility_01_austen_64kb-{number}.wav").open("rb") as file:
                x, rate = read_wav(file, number)
            recordings.append(resample(x, rate, self.rate))
        x = self.windows(recordings, split)
        return x, torch.zeros(len(x), dtype=torch.int64)


class WavFolder(_Audio):
    """All WAV files below a folder, mixed down to mono and resampled.

    A tenth of the files is test and a tenth is validation, chosen by a fixed seed, unless the folder has ``train``,
    ``validation`` and ``test``.

    Args:
        folder: where the files are.
        length: samples a window.
        rate: samples a second that everything is resampled to.
        batch_size: windows a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training windows.

    Raises:
        DataError: the folder is missing, has fewer than three files, or holds a file that is no WAV file.
    """

    name = "wav_folder"

    def __init__(
        self,
        folder: str = "audio",
        length: int = 4096,
        rate: int = 16000,
        batch_size: int = 8,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(length, rate, batch_size, seed, limit)
        self.folder = Path(folder).expanduser()

    def read(self, split: str) -> Split:
        files = self._files(split)
        recordings = []
        for path in files:
            try:
                with path.open("rb") as file:
                    x, rate = read_wav(file, str(path))
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            recordings.append(resample(x, rate, self.rate))
        x = self.windows(recordings, split)
        return x, torch.zeros(len(x), dtype=torch.int64)

    def _files(self, split: str) -> list[Path]:
        if not self.folder.is_dir():
            raise DataError(
                f"the audio folder {self.folder.absolute()} does not exist; give the right one with --data.folder"
            )
        own = all((self.folder / s).is_dir() for s in _SPLITS)
        root = self.folder / split if own else self.folder
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() == ".wav")
        if len(files) < (1 if own else 3):
            raise DataError(
                f"the folder {root.absolute()} holds {len(files)} WAV files; it needs "
                + ("at least one" if own else "three, or sub-folders train, validation and test")
            )
        if own:
            return files
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(derive_seed(0))).tolist()
        tenth = max(1, len(files) // 10)
        chosen = {"test": order[:tenth], "validation": order[tenth : 2 * tenth], "train": order[2 * tenth :]}[split]
        return [files[i] for i in sorted(chosen)]


def read_wav(file: BinaryIO, name: str) -> tuple[Tensor, int]:
    """Read a WAV file of 8, 16, 24 or 32 bit integers: its channels' mean, float32 (N,) in [-1, 1), and its rate.

    Raises:
        DataError: it is none, naming it as ``name``.
    """
    try:
        with wave.open(file, "rb") as recording:
            channels, size, rate, frames = recording.getparams()[:4]
            raw = recording.readframes(frames)
    except (wave.Error, EOFError, RuntimeError) as error:
        raise DataError(f"{name} is not a WAV file of whole numbers that can be read: {error}") from error
    if size not in (1, 2, 3, 4) or channels < 1 or rate < 1:
        raise DataError(f"{name} has samples of {8 * size} bits in {channels} channels at {rate} Hz, which is not read")
    data = torch.frombuffer(bytearray(raw[: len(raw) // size * size] or b"\0" * size), dtype=torch.uint8)
    parts = data.reshape(-1, size).long()
    if sys.byteorder != "little":
        parts = parts.flip(1)
    if size == 1:
        value = parts[:, 0] - 128
    else:
        value = (parts << (8 * torch.arange(size))).sum(1)
        value = torch.where(value >= 1 << (8 * size - 1), value - (1 << (8 * size)), value)
    x = value.double() / (1 << (8 * size - 1))
    return x[: len(x) // channels * channels].reshape(-1, channels).mean(1).float(), rate
