"""Audio as mu-law codes: synthetic tones, the embedded speech, and any folder of recordings.

Examples are windows of 8-bit codes, mono, at a sampling rate that the data set names. Test and validation windows
follow each other without overlap; what is left over at the end of a recording is not used.
"""

from __future__ import annotations

import functools
import logging
import math
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.base import Split, TensorData, derive_seed
from zoo.data.layout import arrange, divide, share
from zoo.data.recordings import ENDINGS, FOREIGN, read_recording, read_wav
from zoo.data.sources import FileSource, Parts, open_source, with_endings
from zoo.errors import ConfigError, DataError
from zoo.maths.mulaw import mulaw_encode
from zoo.maths.resample import resample

__all__ = ["CHORDS", "TONES", "Speech", "Tones", "WavFolder", "read_wav"]

TONES = (220.0, 261.63, 293.66, 329.63, 392.0, 440.0, 523.25, 659.26)
"""Frequencies in Hz: A3 C4 D4 E4 G4 A4 C5 E5."""

CHORDS = ((0, 1, 3), (1, 3, 4), (3, 4, 6), (5, 6, 7))
"""Triads, as indices of tones."""

log = logging.getLogger("zoo.data")

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
    """All recordings below a folder or in a zip archive, mixed down to mono and resampled.

    WAV files of any usual kind are read, and FLAC, Ogg, MP3 and AIFF where soundfile is installed (extra ``audio``).
    The folder may have ``train`` with ``validation`` (``val``, ...) and ``test`` beside it; what it lacks of these is
    taken from the training files, chosen by a fixed seed: a tenth each, unless another share is asked for.

    Args:
        folder: where the files are.
        length: samples a window.
        rate: samples a second that everything is resampled to.
        batch_size: windows a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training windows.
        layout: what the outermost folders are: ``auto`` (seen from their names), ``splits``, or ``flat`` for nothing.
        validation: share of the training files (below 1) or number of them (from 1) that is validation, where the
            folder has no such split; a tenth if left out.
        test: the same for the test split.
        skip: leave out files that cannot be read instead of refusing the folder.

    Raises:
        DataError: the folder is missing, has too few files, or holds files that are no recordings.
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
        layout: str = "auto",
        validation: float | None = None,
        test: float | None = None,
        skip: bool = False,
    ) -> None:
        super().__init__(length, rate, batch_size, seed, limit)
        self.folder, self.layout, self.skip = Path(folder).expanduser(), layout, skip
        self.held = {"validation": validation, "test": test}
        for split, value in self.held.items():
            if value is not None:
                share(value, 1, f"--data.{split}")

    @functools.cached_property
    def source(self) -> FileSource:
        """Where the files are."""
        return open_source(self.folder, "--data.folder", "audio folder")

    def read(self, split: str) -> Split:
        recordings, bad = [], []
        for parts in self._files(split):
            name = self.source.name(parts)
            try:
                with self.source.open(parts) as file:
                    x, rate = read_recording(file, name)
                recordings.append(resample(x, rate, self.rate))
            except DataError as error:
                bad.append(str(error))
            except (OSError, RuntimeError) as error:
                bad.append(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}")
        if bad:
            what = f"{len(bad)} of {len(bad) + len(recordings)} sound files cannot be read: {'; '.join(bad[:3])}"
            self._leave_out(what + ("; ..." if len(bad) > 3 else ""))
        x = self.windows(recordings, split)
        return x, torch.zeros(len(x), dtype=torch.int64)

    def _leave_out(self, what: str) -> None:
        """Say what is left out, or refuse it."""
        if not self.skip:
            raise DataError(f"{what}; leave such files out with --data.skip true")
        log.warning("left out: %s", what)

    @functools.cached_property
    def _divided(self) -> dict[str, list[Parts]]:
        every = self.source.files()
        foreign = with_endings(every, FOREIGN)
        if foreign:
            self._leave_out(
                f"{len(foreign)} sound files are of kinds that are not read, such as {self.source.name(foreign[0])}, "
                "store them as WAV or FLAC"
            )
        files = with_endings(every, ENDINGS)
        own = arrange(files, self.source.where, self.layout, classes=False).examples
        missing = [split for split in _SPLITS if not own.get(split)]
        if "train" in missing or len(own["train"]) <= len(missing):
            raise DataError(
                f"the folder {self.source.where} holds {len(files)} sound files; it needs three, or one in each of "
                "sub-folders train, validation and test"
            )
        for split, value in self.held.items():
            if split not in missing and value is not None:
                raise ConfigError(f"{self.source.where} has a {split} split of its own; leave out --data.{split}")
        held = {s: 0.1 if (v := self.held[s]) is None else v for s in self.held if s in missing}
        divided = {**own, **divide(own["train"], self.source.where, held)}
        return {split: [parts for parts, _ in examples] for split, examples in divided.items()}

    def _files(self, split: str) -> list[Parts]:
        return self._divided[split]
