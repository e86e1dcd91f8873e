"""Pictures in a stream of the Hugging Face library `datasets` (extra ``datasets``): never downloaded as a whole."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.data.hugging_face import as_files, cell_bytes, column_of, open_table
from zoo.data.layout import SPLITS
from zoo.data.pictures import Preparation, parse_size
from zoo.data.streams import Record, StreamImages
from zoo.errors import ConfigError, DataError

__all__ = ["HuggingFaceStream"]


class HuggingFaceStream(StreamImages):
    """A stream of pictures: a data set of the Hugging Face Hub that is too large to be downloaded, or local files.

    Splits that the data set lacks are the first rows of its training split: ``test`` of them, then ``validation``.

    Args:
        path: name on the Hub, a folder that ``save_to_disk`` made, or a folder or file of Parquet, Arrow, CSV or JSON.
        image: column of the pictures.
        label: column of the classes, whose names the data set must state; none for data without classes.
        config: one of the configurations of the data set.
        revision: branch, tag or commit on the Hub.
        examples: rows of the training split, held out ones included, where the data set does not state them; local ones
            are counted.
        validation: rows that are validation, where the data set has no such split.
        test: the same for the test split.
        size: side of the square, or height and width.
        channels: 1 (grey) or 3 (RGB).
        batch_size, seed, augment, resize, background, buffer, memory, workers: as in
            `zoo.data.webdataset.WebDatasetImages`.
    """

    name = "hugging_face_stream"

    def __init__(
        self,
        path: str = "dataset",
        image: str = "image",
        label: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        examples: int | None = None,
        validation: int = 1000,
        test: int = 1000,
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
        if min(validation, test) < 1 or (examples is not None and examples < 1):
            raise ConfigError("hugging_face_stream: examples, validation and test must be at least 1")
        self.path, self.image, self.label, self.config, self.revision = path, image, label, config, revision
        self.examples, self.held = examples, {"test": test, "validation": validation}

    @functools.cached_property
    def _streams(self) -> dict[str, tuple[Any, int, int | None]]:
        """Return (stream, rows to leave out at its start, rows to take) of each split."""
        found = open_table(self.path, config=self.config, revision=self.revision, streaming=True)
        found = {split: as_files(stream, self.image, self.path) for split, stream in found.items()}
        first, streams = 0, {}
        for split in ("test", "validation"):
            if split in found:
                streams[split] = (found[split], 0, None)
            else:
                streams[split] = (found["train"], first, self.held[split])
                first += self.held[split]
        return {**streams, "train": (found["train"], first, None)}

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.label is None:
            return ()
        feature = column_of(self._streams["train"][0], self.label, "--data.label", self.path)
        if not getattr(feature, "names", None):
            raise ConfigError(
                f"{self.path} does not state the classes of its column {self.label!r}, which a stream needs; read it "
                "as a table with --data hugging_face, or leave --data.label out"
            )
        return tuple(feature.names)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return len(self.class_names)

    @functools.cached_property
    def _counts(self) -> dict[str, int]:
        counts = {split: self._whole(split) for split in SPLITS if self._streams[split][2] is None}
        for split, (_, _, taken) in self._streams.items():
            if taken is not None:
                counts[split] = taken
        counts["train"] -= self._streams["train"][1]
        if counts["train"] < 1:
            raise DataError(
                f"{self.path} has no training rows beside the {self._streams['train'][1]} for validation and test; set "
                "--data.validation and --data.test lower"
            )
        return counts

    def _whole(self, split: str) -> int:
        """Return the rows of a split of the data set itself."""
        stream = self._streams[split][0]
        if split == "train" and self.examples is not None:
            return self.examples
        stated = (stream.info.splits or {}).get(str(stream.split)) if stream.info is not None else None
        if stated is not None and stated.num_examples:
            return stated.num_examples
        if not Path(self.path).expanduser().exists():
            raise ConfigError(f"{self.path} does not state how many rows it has; say so with --data.examples")
        return sum(1 for _ in stream)

    def count(self, split: str) -> int:
        return self._counts[split]

    def records(self, split: str) -> Iterator[Record]:
        stream, first, _ = self._streams[split]
        return self._records(stream.skip(first) if first else stream, self.count(split))

    def epoch(self, seed: int) -> Iterator[Record]:
        stream, first, _ = self._streams["train"]
        stream = stream.skip(first) if first else stream.shuffle(seed=seed % 2**32, buffer_size=1)  # the shards
        return self._records(stream, self.count("train"))

    def _records(self, stream: Any, count: int) -> Iterator[Record]:
        came = 0
        for i, row in enumerate(itertools.islice(stream, count)):
            name = f"row {i} of {self.path}"
            label = row[self.label] if self.label is not None else 0
            if isinstance(label, bool) or not isinstance(label, int) or label < 0:
                raise DataError(f"{name} has {label!r} in the column {self.label!r}, which is no class")
            try:
                yield cell_bytes(row[self.image]), label, name
            except OSError as error:
                raise DataError(f"{name} has no picture: {error}") from error
            came += 1
        if came < count:
            raise DataError(f"{self.path} ended after {came} rows, {count} were expected; set --data.examples right")
