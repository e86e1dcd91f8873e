"""CelebA: aligned faces of celebrities, from the files that its authors publish.

References:
    Z. Liu, P. Luo, X. Wang, X. Tang, Deep Learning Face Attributes in the Wild, 2015, arXiv:1411.7766.
"""

from __future__ import annotations

import functools
from pathlib import Path

from zoo.data.folder import PictureFiles
from zoo.data.pictures import ENDINGS, Preparation, parse_size
from zoo.data.sources import FileSource, Parts, data_root, open_source, with_endings
from zoo.errors import ConfigError, DataError, close_matches

__all__ = ["CelebA"]

_PARTITION, _ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"
_PICTURES = ("img_align_celeba", "img_align_celeba.zip")
_SPLITS = {"train": "0", "validation": "1", "test": "2"}


class CelebA(PictureFiles):
    """CelebA, the official partition: 162,770 / 19,867 / 19,962 RGB faces, of any size.

    ``root/celeba`` must hold ``img_align_celeba`` (a folder, or the zip archive of that name) and
    ``list_eval_partition.txt``, as torchvision lays them out. Of the 178 x 218 pixels a square in the middle is taken.

    Args:
        root: folder in which ``celeba`` lies; ``ZOO_DATA`` or the user's cache folder if left out.
        size: side of the square, or height and width.
        middle: side in pixels of the square that is taken from the middle before resizing.
        attribute: one of the 40 attributes of ``list_attr_celeba.txt``, such as ``Smiling``, as the class: 1 where it
            is true, else 0. No classes if left out.
        batch_size: images a batch and device.
        seed: of the order of training batches, and of their augmentation.
        limit: use only the first so many training images.
        augment: names of augmentations of training batches, such as ``flip``; see `zoo.data.images`.
        skip: leave out broken files instead of refusing the data.
        memory: GiB that decoded pictures may take; with more they are decoded while training.
        workers: threads that decode; as many as there are cores, at most eight, if left out.
    """

    name = "celeba"

    def __init__(
        self,
        root: str | None = None,
        size: int | list[int] = 64,
        middle: int = 148,
        attribute: str | None = None,
        batch_size: int = 64,
        seed: int = 0,
        limit: int | None = None,
        augment: str | None = None,
        skip: bool = False,
        memory: float = 0.5,
        workers: int | None = None,
    ) -> None:
        if not 1 <= middle <= 178:
            raise ConfigError(f"celeba: middle must be between 1 and 178, the width of its pictures, got {middle}")
        preparation = Preparation(*parse_size(size, self.name), middle=middle)
        super().__init__(
            preparation, memory=memory, workers=workers, skip=skip, batch_size=batch_size, seed=seed, limit=limit,
            augment=augment,
        )  # fmt: skip
        self.folder = (Path(root).expanduser() if root is not None else data_root()) / "celeba"
        self.attribute = attribute

    @functools.cached_property
    def source(self) -> FileSource:  # type: ignore[override]
        found = [self.folder / name for name in _PICTURES if (self.folder / name).exists()]
        if not found or not (self.folder / _PARTITION).is_file():
            raise DataError(
                f"celeba is not in {self.folder.absolute()}; put {_PICTURES[0]} (a folder or .zip) and {_PARTITION} of "
                "its authors there, or name the folder around celeba with --data.root"
            )
        return open_source(found[0], "--data.root", "folder")

    def _table(self, name: str) -> list[list[str]]:
        try:
            return [
                line.split() for line in (self.folder / name).read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.folder / name} cannot be read: {error}") from error

    @functools.cached_property
    def _labels(self) -> dict[str, int]:
        if self.attribute is None:
            return {}
        table = self._table(_ATTRIBUTES)
        names = table[1] if len(table) > 1 else []
        if self.attribute not in names:
            raise ConfigError(
                f"celeba has no attribute {self.attribute!r}.{close_matches(self.attribute, names)} "
                f"It has: {', '.join(names)}"
            )
        column = 1 + names.index(self.attribute)
        if any(len(row) != len(names) + 1 for row in table[2:]):
            raise DataError(f"{self.folder / _ATTRIBUTES} has rows of another length than its {len(names)} attributes")
        return {row[0]: int(row[column] == "1") for row in table[2:]}

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"not {self.attribute}", self.attribute) if self.attribute is not None else ()

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return len(self.class_names)

    @functools.cached_property
    def _files(self) -> dict[str, list[Parts]]:
        parts = {parts[-1]: parts for parts in self.readable(with_endings(self.source.files(), ENDINGS))}
        found: dict[str, list[Parts]] = {split: [] for split in _SPLITS}
        split_of = {number: split for split, number in _SPLITS.items()}
        lacking = []
        for row in self._table(_PARTITION):
            if len(row) != 2 or row[1] not in split_of:
                raise DataError(
                    f"{self.folder / _PARTITION} has a line that is no name and a part: {' '.join(row)[:60]!r}"
                )
            if row[0] in parts:
                found[split_of[row[1]]].append(parts[row[0]])
            else:
                lacking.append(row[0])
        if lacking:
            self._left_out(
                f"{len(lacking)} files of {_PARTITION} are not in {self.source.where}, such as {lacking[0]}",
                "unpack the archive anew",
            )
        return found

    @property
    def total(self) -> int:
        return sum(map(len, self._files.values()))

    def files(self, split: str) -> list[tuple[Parts, int]]:
        return [(parts, self._labels.get(parts[-1], 0)) for parts in self._files[split]]
