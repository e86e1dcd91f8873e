"""Any folder or zip archive of pictures, of any size and colour, in memory or decoded while training."""

from __future__ import annotations

import functools
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from tqdm.auto import tqdm

from zoo.data.base import Split
from zoo.data.images import ImageData
from zoo.data.layout import Example, Layout, arrange, divide, share
from zoo.data.pictures import ENDINGS, FOREIGN, BadPicture, Preparation, parse_size
from zoo.data.rows import Rows
from zoo.data.sources import FileSource, Parts, data_root, open_source, with_endings
from zoo.errors import ConfigError, DataError

__all__ = ["ImageFolder", "ImageNet64", "PictureFiles", "data_root"]

log = logging.getLogger("zoo.data")

_HELD = 0.1
_LOOKED_AT = 50_000
"""Files at whose beginnings a run looks before it trains, evenly taken from all: this takes some seconds."""


class PictureFiles(ImageData):
    """Base of the data sets that are picture files: what fits the budget of memory is decoded once, else on the fly.

    Subclasses give `source`, and the files of a split by `files`.

    Args:
        preparation: of the files.
        memory: GiB that the decoded pictures of all splits may take; above it they are decoded as they are needed.
        workers: threads that decode; as many as there are cores, at most eight, if left out.
        skip: leave out files that are broken, instead of refusing the data.
        batch_size, seed, limit, augment: as in `ImageData`.
    """

    def __init__(
        self,
        preparation: Preparation,
        *,
        memory: float,
        workers: int | None,
        skip: bool,
        batch_size: int,
        seed: int,
        limit: int | None,
        augment: str | None,
    ) -> None:
        self.picture, self.shape = preparation, preparation.shape
        super().__init__(batch_size, seed, limit, augment)
        if not memory >= 0:
            raise ConfigError(f"memory must be a number of GiB, at least 0, got {memory}")
        if workers is not None and workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.memory, self.workers, self.skip = memory, workers or min(8, cores), skip
        self._said: set[str] = set()

    @property
    def source(self) -> FileSource:
        """Where the files are."""
        raise NotImplementedError

    @property
    def total(self) -> int:
        """Number of files of all splits."""
        raise NotImplementedError

    def files(self, split: str) -> list[tuple[Parts, int]]:
        """Return the files of a split and their labels, in the order of the examples."""
        raise NotImplementedError

    @property
    def in_memory(self) -> bool:
        """Whether the decoded pictures stay in memory."""
        return self.total * math.prod(self.shape) <= self.memory * 2**30

    @property
    def preparation(self) -> dict[str, Any]:
        picture = self.picture
        return {"resize": picture.resize, "background": picture.background, **super().preparation}

    def read(self, split: str) -> Split:
        files = self.files(split)
        if not files:
            raise DataError(f"the folder {self.source.where} holds no images for the {split} split")
        parts, labels = [f for f, _ in files], torch.tensor([label for _, label in files])
        if self.in_memory:
            return self._decoded(parts, split), labels
        some = parts[:: -(-len(parts) // _LOOKED_AT)]
        self._refuse(self._bad(self.picture.check, some, f"looking at the {split} split"), len(some))
        return self._lazy(parts), labels  # type: ignore[return-value]

    def readable(self, files: Sequence[Parts]) -> list[Parts]:
        """Return the files without the broken ones, which are found by decoding all, where these are to be left out."""
        if not self.skip:
            return list(files)
        bad = self._bad(self.picture.read, files, "looking for broken files")
        self._refuse(bad, len(files))
        return [parts for parts in files if parts not in bad]

    def _decoded(self, files: Sequence[Parts], split: str) -> Tensor:
        x = torch.empty((len(files), *self.shape), dtype=torch.uint8)
        index = {parts: i for i, parts in enumerate(files)}

        def decode(parts: Parts, stream: BinaryIO) -> None:
            x[index[parts]] = self.picture.read(stream)

        self._refuse(self._bad(decode, files, f"reading the {split} split", named=True), len(files))
        return x

    def _bad(self, use: Any, files: Sequence[Parts], what: str, *, named: bool = False) -> dict[Parts, str]:
        """Open every file and use it; return why, where that fails."""

        def attempt(parts: Parts) -> str | None:
            try:
                with self.source.open(parts) as stream:
                    use(parts, stream) if named else use(stream)
            except (BadPicture, OSError, RuntimeError) as error:
                return str(error) or type(error).__name__
            return None

        with warnings.catch_warnings():  # what Pillow warns of is an error here, and nothing is said twice
            warnings.simplefilter("ignore")
            reasons = list(self._each(attempt, files, what))
        return {parts: why for parts, why in zip(files, reasons, strict=True) if why is not None}

    def _each(self, function: Any, files: Sequence[Parts], what: str) -> Iterator[Any]:
        bar = tqdm(total=len(files), desc=what, delay=2, leave=False, unit="file")
        with bar, ThreadPoolExecutor(self.workers) as pool:
            for first in range(0, len(files), 256):  # so that no more pictures wait than these
                part = files[first : first + 256]
                yield from pool.map(function, part)
                bar.update(len(part))

    def _refuse(self, bad: Mapping[Parts, str], total: int) -> None:
        if bad:
            first = "; ".join(f"{self.source.name(parts)} ({why})" for parts, why in list(bad.items())[:3])
            self._left_out(
                f"{len(bad)} of {total} files cannot be read as pictures: {first}{'; ...' if len(bad) > 3 else ''}"
            )

    def _left_out(self, what: str, advice: str = "mend or remove them") -> None:
        """Say what is left out, once, or refuse it."""
        if not self.skip:
            raise DataError(f"{what}; {advice}, or leave them out with --data.skip true")
        if what not in self._said:
            self._said.add(what)
            log.warning("left out: %s", what)

    def _lazy(self, files: Sequence[Parts]) -> Rows:
        def read(i: int) -> Tensor:
            try:
                with self.source.open(files[i]) as stream:
                    return self.picture.read(stream)
            except (BadPicture, OSError, RuntimeError) as error:
                raise DataError(
                    f"{self.source.name(files[i])} cannot be read as a picture ({error}); mend or remove it, or leave "
                    "broken files out with --data.skip true"
                ) from error

        return Rows(len(files), self.shape, read, workers=self.workers)


class ImageFolder(PictureFiles):
    """All pictures below a folder or in a zip archive, 8 bits, of one size.

    Sub-folders are classes, as in ``folder/cat/1.png``; without any there are none. The folder may have ``train`` with
    ``validation`` (``val``, ``valid``, ...) and ``test`` beside it; what it lacks of these is taken from the training
    pictures, chosen by a fixed seed: a tenth each, unless another share is asked for. Labels are those of training in
    all splits. See `zoo.data.layout` for what folders can mean, and `zoo.data.pictures` for what is done to a file.

    Args:
        folder: the folder or the zip archive.
        size: side of the square, or height and width.
        channels: 1 (grey) or 3 (RGB).
        batch_size: images a batch and device.
        seed: of the order of training batches, and of their augmentation.
        limit: use only the first so many training images.
        augment: names of augmentations of training batches, such as ``flip,crop:4``; see `zoo.data.images`.
        resize: how a picture gets its size: ``crop`` (its middle), ``pad`` (with the background) or ``stretch``.
        background: colour behind transparent pixels and around padded pictures.
        layout: what the outermost folders are: ``auto`` (seen from their names), ``splits``, ``classes``, or ``flat``:
            folders mean nothing, and there are no classes.
        validation: share of the training pictures (below 1) or number of them (from 1) that is validation, where the
            folder has no such split; a tenth if left out.
        test: the same for the test split.
        skip: leave out broken files, pictures in formats that are not read, pictures beside class folders, and classes
            that training does not have, instead of refusing the folder.
        memory: GiB that decoded pictures may take; larger folders are decoded while training.
        workers: threads that decode; as many as there are cores, at most eight, if left out.

    Raises:
        DataError: the folder is missing, holds no images, is not clear, or holds files that are no pictures.
        ConfigError: an option that makes no sense, or none with this folder.
    """

    name = "image_folder"

    def __init__(
        self,
        folder: str = "images",
        size: int | list[int] = 32,
        channels: int = 3,
        batch_size: int = 64,
        seed: int = 0,
        limit: int | None = None,
        augment: str | None = None,
        resize: str = "crop",
        background: str = "white",
        layout: str = "auto",
        validation: float | None = None,
        test: float | None = None,
        skip: bool = False,
        memory: float = 0.5,
        workers: int | None = None,
    ) -> None:
        preparation = Preparation(*parse_size(size, self.name), channels, resize, background)
        super().__init__(
            preparation, memory=memory, workers=workers, skip=skip, batch_size=batch_size, seed=seed, limit=limit,
            augment=augment,
        )  # fmt: skip
        self.folder, self.size, self.channels, self.layout = Path(folder).expanduser(), size, channels, layout
        self.held = {"validation": validation, "test": test}
        for split, value in self.held.items():
            if value is not None:
                share(value, 1, f"--data.{split}")

    @functools.cached_property
    def source(self) -> FileSource:  # type: ignore[override]
        return open_source(self.folder, "--data.folder", "image folder")

    @functools.cached_property
    def _layout(self) -> Layout:
        every = self.source.files()
        foreign = with_endings(every, FOREIGN)
        if foreign:
            self._left_out(
                f"{len(foreign)} pictures are in formats that are not read, such as {self.source.name(foreign[0])}",
                "store them as PNG or JPEG",
            )
        layout = arrange(self.readable(with_endings(every, ENDINGS)), self.source.where, self.layout)
        for files, what, advice in (
            (layout.loose, "pictures lie beside class folders and have no class",
             "put them into class folders, take all pictures without classes by --data.layout flat"),
            (layout.unknown, "pictures are of classes that the training split does not have", "remove them"),
        ):  # fmt: skip
            if files:
                self._left_out(f"{len(files)} {what}, such as {self.source.name(files[0])}", advice)
        return layout

    @functools.cached_property
    def _divided(self) -> dict[str, list[Example]]:
        """Return the examples of each split: its own folder's, or its share of the training pictures."""
        own = self._layout.examples
        held: dict[str, float] = {}
        for split, value in self.held.items():
            if split not in own:
                held[split] = _HELD if value is None else value
            elif value is not None:
                raise ConfigError(
                    f"{self.source.where} has a {split} split of its own, so that --data.{split} does not apply; leave "
                    "it out"
                )
        if not any(own.values()):
            raise DataError(f"the folder {self.source.where} holds no images that have one of {_some(ENDINGS)}")
        return {**own, **divide(own["train"], self.source.where, held)}

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the class folders of the training split, in the order of their labels."""
        return self._layout.classes

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return len(self.class_names)

    @property
    def total(self) -> int:
        return sum(map(len, self._divided.values()))

    @property
    def preparation(self) -> dict[str, Any]:
        own = self._layout.examples
        chosen = {s: _HELD if v is None else v for s, v in self.held.items() if s not in own}
        return {**super().preparation, **({"held_out": chosen} if chosen else {})}

    def files(self, split: str) -> list[tuple[Parts, int]]:
        index = {name: i for i, name in enumerate(self.class_names)}
        return [(parts, 0 if name is None else index[name]) for parts, name in self._divided[split]]


class ImageNet64(ImageFolder):
    """ImageNet in 64 x 64, as a folder: ``train/n01440764/*.png`` and ``val/n01440764/*.png``, 1,281,167 / 50,000.

    The validation pictures are the test split, as everywhere; a share of the training pictures is validation.

    Args:
        folder: where ``train`` and ``val`` are; ``imagenet64`` below ``ZOO_DATA`` or the user's cache folder if left
            out.
        batch_size, seed, limit, augment, validation, skip, memory, workers: as in `ImageFolder`.

    References:
        J. Deng and others, ImageNet: A Large-Scale Hierarchical Image Database, 2009. P. Chrabaszcz, I. Loshchilov,
        F. Hutter, A Downsampled Variant of ImageNet as an Alternative to the CIFAR datasets, 2017, arXiv:1707.08819.
    """

    name = "imagenet64"

    def __init__(
        self,
        folder: str | None = None,
        batch_size: int = 128,
        seed: int = 0,
        limit: int | None = None,
        augment: str | None = None,
        validation: float = 10_000,
        skip: bool = False,
        memory: float = 0.5,
        workers: int | None = None,
    ) -> None:
        super().__init__(
            folder if folder is not None else str(data_root() / "imagenet64"), 64, 3, batch_size, seed, limit, augment,
            validation=validation, skip=skip, memory=memory, workers=workers,
        )  # fmt: skip

    @functools.cached_property
    def _layout(self) -> Layout:
        layout = super()._layout
        if "test" in layout.examples or "validation" not in layout.examples:
            raise DataError(
                f"{self.source.where} must hold train and val, with a folder for each class in both, as "
                "train/n01440764/1.png; the pictures in val are the test split"
            )
        layout.examples["test"] = layout.examples.pop("validation")
        return layout


def _some(endings: set[str]) -> str:
    return ", ".join(sorted(endings))
