"""Pictures in tar shards, as WebDataset lays them out: ``00001.jpg`` and ``00001.cls`` are one example.

Read through the library webdataset (extra ``webdataset``), from local files only, and without its decoders, some of
which run code: what is read is the bytes of a picture and the text of a label.
"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.classes import checked_names
from zoo.data.layout import SPLITS, arrange
from zoo.data.pictures import ENDINGS, Preparation, parse_size
from zoo.data.sources import Folder, with_endings
from zoo.data.streams import Record, StreamImages
from zoo.errors import ConfigError, DataError

__all__ = ["WebDatasetImages"]

_NAMES = "classes.txt"


class WebDatasetImages(StreamImages):
    """Tar shards below a folder, of which those of training are streamed and never held in memory.

    Splits are folders (``train/*.tar``, ``val/*.tar``, ...) or the beginnings of names (``train-000.tar``,
    ``val-000.tar``); all three must be there. The text of ``.cls`` is the label, a whole number; ``classes.txt`` in the
    folder, with a name a line, says what the labels are called.

    Args:
        folder: where the shards are.
        size: side of the square, or height and width.
        channels: 1 (grey) or 3 (RGB).
        batch_size: images a batch and device.
        seed: of the order of training batches, and of their augmentation.
        augment: names of augmentations of training batches, such as ``flip,crop:4``; see `zoo.data.images`.
        resize: how a picture gets its size: ``crop``, ``pad`` or ``stretch``.
        background: colour behind transparent pixels and around padded pictures.
        buffer: pictures that are shuffled among each other, as files, within the order of the shards.
        memory: GiB that a decoded validation or test split may take.
        workers: threads that decode.

    Raises:
        DataError: no shards, shards that cannot be read, examples without a picture, or labels that are no numbers.
    """

    name = "webdataset"

    def __init__(
        self,
        folder: str = "shards",
        size: int | list[int] = 32,
        channels: int = 3,
        batch_size: int = 64,
        seed: int = 0,
        augment: str | None = None,
        resize: str = "crop",
        background: str = "white",
        buffer: int = 1000,
        memory: float = 0.5,
        workers: int = 2,
    ) -> None:
        super().__init__(
            Preparation(*parse_size(size, self.name), channels, resize, background), buffer=buffer, memory=memory,
            workers=workers, batch_size=batch_size, seed=seed, augment=augment,
        )  # fmt: skip
        self.folder = Path(folder).expanduser()

    @functools.cached_property
    def shards(self) -> dict[str, list[Path]]:
        """The shards of each split, sorted by their names."""
        if not self.folder.is_dir():
            raise DataError(
                f"the folder of shards {self.folder.absolute()} does not exist; give the right one with --data.folder"
            )
        files = with_endings(Folder(self.folder).files(), {".tar"})
        outer = [
            (parts[0].partition("-")[0].partition("_")[0], *parts) if len(parts) == 1 else parts for parts in files
        ]
        real = dict(zip(outer, files, strict=True))
        found = arrange(sorted(outer), str(self.folder.absolute()), "splits", classes=False).examples if files else {}
        if set(found) != set(SPLITS):
            lacking = ", ".join(split for split in SPLITS if split not in found)
            raise DataError(
                f"{self.folder.absolute()} has no shards for {lacking}; name them train-000.tar, val-000.tar, "
                "test-000.tar and so on, or put them into folders of these names"
            )
        return {s: [self.folder.joinpath(*real[parts]).absolute() for parts, _ in found[s]] for s in SPLITS}

    @functools.cached_property
    def _index(self) -> dict[str, list[int]]:
        """Labels of the records of each split, from the headers and the labels alone."""
        return {split: [label for shard in shards for label in _labels(shard)] for split, shards in self.shards.items()}

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return 1 + max(self._index["train"], default=-1) if self._labelled else 0

    @property
    def _labelled(self) -> bool:
        return any(label >= 0 for label in self._index["train"])

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        path = self.folder / _NAMES
        if not path.is_file():
            return ()
        try:
            return checked_names(path.read_text(encoding="utf-8").split("\n")[: self.num_classes], self.num_classes)
        except (ConfigError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {error}") from error

    def count(self, split: str) -> int:
        return len(self._index[split])

    def records(self, split: str) -> Iterator[Record]:
        return self._read(self.shards[split])

    def epoch(self, seed: int) -> Iterator[Record]:
        shards = self.shards["train"]
        order = torch.randperm(len(shards), generator=torch.Generator().manual_seed(seed)).tolist()
        return self._read([shards[i] for i in order])

    def _read(self, shards: Sequence[Path]) -> Iterator[Record]:
        wds = _library()  # its own opener would run what a name such as pipe:... says
        stream = wds.group_by_keys(wds.tar_file_expander(_opened(shards)))
        try:
            for sample in stream:
                name = f"{sample['__key__']} in {sample['__url__']}"
                picture = next((v for k, v in sample.items() if "." + k.rpartition(".")[2].lower() in ENDINGS), None)
                if picture is None:
                    raise DataError(f"{name} has no picture, only {', '.join(k for k in sample if k[:2] != '__')}")
                yield picture, _label(sample.get("cls"), name), name
        except (OSError, tarfile.TarError, ValueError) as error:
            raise DataError(f"the shards of {self.folder} cannot be read: {error}") from error


def _opened(shards: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Open one shard after the other, in the form in which webdataset passes them on."""
    for shard in shards:
        with shard.open("rb") as stream:
            yield {"url": str(shard), "stream": stream}


def _library() -> Any:
    try:
        from webdataset import tariterators
    except ImportError as error:
        raise DataError(
            'tar shards are read through webdataset; install it with pip install "generative-zoo[webdataset]"'
        ) from error
    return tariterators


def _label(text: bytes | None, name: str) -> int:
    if text is None:
        return 0
    try:
        label = int(text)
    except ValueError as error:
        raise DataError(f"{name} has the label {text[:40]!r}, which is no whole number") from error
    if label < 0:
        raise DataError(f"{name} has the label {label}; labels begin at 0")
    return label


def _labels(shard: Path) -> list[int]:
    """Return the label of each record of a shard in order, -1 where it has none. Raises `DataError`."""
    labels: dict[str, int] = {}
    pictures: set[str] = set()
    try:
        with tarfile.open(shard) as archive:
            for member in archive:
                base, _, ending = member.name.rpartition("/")[2].partition(".")
                key = f"{member.name.rpartition('/')[0]}/{base}"
                if not member.isfile() or not base:
                    continue
                labels.setdefault(key, -1)
                if ending == "cls":
                    content = archive.extractfile(member)
                    labels[key] = _label(content.read(40) if content is not None else None, f"{key} in {shard}")
                elif "." + ending.rpartition(".")[2].lower() in ENDINGS:
                    pictures.add(key)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard} cannot be read as a tar file: {error}") from error
    return [label for key, label in labels.items() if key in pictures]
