"""Pictures in a table of the Hugging Face library `datasets` (extra ``datasets``).

It is read by rows: what fits the budget of memory is decoded once, else on the fly, in an order that any run can go on
from. Nothing of a data set is run as code; pictures are decoded by `zoo.data.pictures`, as those of a folder are. What
is too large for a disk is read as a stream, see `zoo.data.hugging_face_stream`.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from zoo.classes import same_text
from zoo.data.folder import PictureFiles
from zoo.data.layout import SPLIT_NAMES, divide, share
from zoo.data.pictures import Preparation, parse_size
from zoo.data.sources import FileSource, Parts
from zoo.errors import ConfigError, DataError, close_matches
from zoo.files import open_regular

__all__ = ["HuggingFaceImages", "as_files", "cell_bytes", "column_of", "open_table"]

_KINDS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}


def open_table(path: str, *, config: str | None, revision: str | None, streaming: bool) -> dict[str, Any]:
    """Return the splits of a data set by their names here, ``train``, ``validation`` and ``test``.

    Args:
        path: name on the Hub, a folder that ``save_to_disk`` made, or a folder or file of Parquet, Arrow, CSV or JSON.
        config: one of the configurations of the data set.
        revision: branch, tag or commit on the Hub.
        streaming: whether to read it as a stream.

    Raises:
        DataError: the library is missing, the data set is not there, or has no training split.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            'this is read through the library datasets; install it with pip install "generative-zoo[datasets]"'
        ) from error
    place = Path(path).expanduser()
    datasets.disable_progress_bars()
    try:
        if place.is_dir() and any((place / name).is_file() for name in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(str(place))
            if streaming:
                tables = found if isinstance(found, Mapping) else {"train": found}
                found = {name: table.to_iterable_dataset(num_shards=1) for name, table in tables.items()}
        elif place.is_file():
            kind = _KINDS.get(place.suffix.lower())
            if kind is None:
                raise DataError(f"{place} is none of {', '.join(_KINDS)}; name such a file, or a folder of them")
            found = datasets.load_dataset(kind, data_files={"train": str(place)}, streaming=streaming)
        else:
            found = datasets.load_dataset(
                str(place) if place.is_dir() else path, config, revision=revision, streaming=streaming
            )
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"the data set {path} cannot be had through datasets: {' '.join(str(error).split())[:300]}"
        ) from error
    tables = dict(found) if isinstance(found, Mapping) else {"train": found}
    splits: dict[str, Any] = {}
    for name, table in tables.items():
        split = SPLIT_NAMES.get(str(name).casefold())
        if split is not None:
            splits.setdefault(split, table)
    if "train" not in splits:
        raise DataError(f"the data set {path} has no split for training, only {', '.join(map(str, tables))}")
    return splits


def column_of(table: Any, name: str, option: str, path: str) -> Any:
    """Return the feature of a column. Raises `ConfigError`."""
    features = table.features
    if features is None or name not in features:
        known = list(features or ())
        raise ConfigError(
            f"{path} has no column {name!r}.{close_matches(name, known)} It has: {', '.join(known)}; "
            f"name one with {option}"
        )
    return features[name]


def as_files(table: Any, image: str, path: str) -> Any:
    """Return the table with its pictures as files, still to be decoded. Raises `ConfigError`."""
    import datasets

    if not isinstance(column_of(table, image, "--data.image", path), datasets.Image):
        raise ConfigError(f"the column {image!r} of {path} holds no pictures; name another with --data.image")
    return table.cast_column(image, datasets.Image(decode=False))


def cell_bytes(cell: Any) -> bytes:
    """Return a picture file of a cell. Raises `OSError`."""
    if not isinstance(cell, Mapping):
        raise OSError("the cell is empty")
    if cell.get("bytes") is not None:
        return cell["bytes"]
    if not cell.get("path"):
        raise OSError("the cell is empty")
    with open_regular(cell["path"]) as stream:
        return stream.read()


class _Table(FileSource):
    """The rows of the splits of a table as files, ``("train", "17")``."""

    def __init__(self, tables: Mapping[str, Any], image: str, where: str) -> None:
        self.tables, self.image, self.where = tables, image, where

    def open(self, parts: Parts) -> BinaryIO:
        split, row = parts
        return io.BytesIO(cell_bytes(self.tables[split][int(row)][self.image]))

    def name(self, parts: Parts) -> str:
        return f"row {parts[1]} of the split {parts[0]} of {self.where}"


class HuggingFaceImages(PictureFiles):
    """A table of pictures: a data set of the Hugging Face Hub, or local files of one.

    Splits that the data set lacks are taken from its training rows, chosen by a fixed seed: a tenth each, unless
    another share is asked for.

    Args:
        path: name on the Hub, a folder that ``save_to_disk`` made, or a folder or file of Parquet, Arrow, CSV or JSON.
        image: column of the pictures.
        label: column of the classes, numbers or names; none for data without classes.
        config: one of the configurations of the data set.
        revision: branch, tag or commit on the Hub.
        size: side of the square, or height and width.
        channels: 1 (grey) or 3 (RGB).
        batch_size, seed, limit, augment, resize, background, validation, test, skip, memory, workers: as in
            `zoo.data.folder.ImageFolder`.

    Raises:
        DataError: the library is missing, the data set is not there, or holds what are no pictures.
        ConfigError: a column that it does not have, or an option that makes no sense.
    """

    name = "hugging_face"

    def __init__(
        self,
        path: str = "dataset",
        image: str = "image",
        label: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        size: int | list[int] = 32,
        channels: int = 3,
        batch_size: int = 64,
        seed: int = 0,
        limit: int | None = None,
        augment: str | None = None,
        resize: str = "crop",
        background: str = "white",
        validation: float | None = None,
        test: float | None = None,
        skip: bool = False,
        memory: float = 0.5,
        workers: int | None = None,
    ) -> None:
        super().__init__(
            Preparation(*parse_size(size, self.name), channels, resize, background), memory=memory, workers=workers,
            skip=skip, batch_size=batch_size, seed=seed, limit=limit, augment=augment,
        )  # fmt: skip
        self.path, self.image, self.label, self.config, self.revision = path, image, label, config, revision
        self.held = {"validation": validation, "test": test}
        for split, value in self.held.items():
            if value is not None:
                share(value, 1, f"--data.{split}")

    @functools.cached_property
    def _tables(self) -> dict[str, Any]:
        found = open_table(self.path, config=self.config, revision=self.revision, streaming=False)
        return {split: as_files(table, self.image, self.path) for split, table in found.items()}

    @functools.cached_property
    def source(self) -> FileSource:  # type: ignore[override]
        return _Table(self._tables, self.image, self.path)

    @functools.cached_property
    def _labels(self) -> tuple[dict[str, list[int]], tuple[str, ...], int]:
        """Return the labels of the rows of each split, the names of the classes, and their number."""
        if self.label is None:
            return {}, (), 0
        feature = column_of(self._tables["train"], self.label, "--data.label", self.path)
        raw = {split: list(table[self.label]) for split, table in self._tables.items()}
        if getattr(feature, "names", None):
            return _numbers(raw, self.label, self.path), tuple(feature.names), len(feature.names)
        if all(isinstance(value, str) for value in raw["train"]):
            names = sorted({same_text(value) for value in raw["train"]})
            index = {name: i for i, name in enumerate(names)}
            unknown = [
                v for values in raw.values() for v in values if not isinstance(v, str) or same_text(v) not in index
            ]
            if unknown:
                raise DataError(f"{self.path} has rows of the class {unknown[0]!r}, which training does not have")
            return {s: [index[same_text(v)] for v in values] for s, values in raw.items()}, tuple(names), len(names)
        numbers = _numbers(raw, self.label, self.path)
        return numbers, (), 1 + max(numbers["train"])

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._labels[1]

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self._labels[2]

    @functools.cached_property
    def _divided(self) -> dict[str, list[Parts]]:
        rows = {
            split: self.readable([(split, str(i)) for i in range(len(table))]) for split, table in self._tables.items()
        }
        for split, value in self.held.items():
            if split in rows and value is not None:
                raise ConfigError(f"{self.path} has a {split} split of its own; leave out --data.{split}")
        held = {s: 0.1 if value is None else value for s, value in self.held.items() if s not in rows}
        divided = divide([(parts, None) for parts in rows["train"]], self.path, held)
        return {**rows, **{split: [parts for parts, _ in examples] for split, examples in divided.items()}}

    @property
    def total(self) -> int:
        return sum(map(len, self._divided.values()))

    def files(self, split: str) -> list[tuple[Parts, int]]:
        labels = self._labels[0]
        return [(parts, labels[parts[0]][int(parts[1])] if labels else 0) for parts in self._divided[split]]


def _numbers(raw: Mapping[str, list[Any]], column: str, path: str) -> dict[str, list[int]]:
    """Return labels that are whole numbers from 0 on. Raises `DataError`."""
    for split, values in raw.items():
        for i, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise DataError(
                    f"row {i} of the split {split} of {path} has {value!r} in its column {column!r}, which is no "
                    "class; classes are names, or whole numbers from 0 on"
                )
    return dict(raw)
