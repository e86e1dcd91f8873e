"""Tensors as data: from Python, or from a file of them, divided into splits where they are not.

Images are (N, C, H, W), uint8 or values in [0, 1]; points (N, D); sequences of integers (N, T). What ``zoo.fit`` is
given is written into the run folder, so that any process can go on with the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.batches import parts_of
from zoo.classes import checked_names
from zoo.data.base import Split, TensorData, derive_seed
from zoo.errors import ConfigError, DataError
from zoo.files import write_whole

__all__ = ["Tensors", "held_out", "hold", "stored"]

log = logging.getLogger("zoo.data")

SPLITS = ("train", "validation", "test")
FILE = "data.safetensors"
LARGEST = 8 * 2**30
"""Bytes of tensors above which they are not copied into a run folder."""

_held: dict[str, Any] = {}
_MEMORY = "memory:"


def hold(given: Any) -> str:
    """Keep an object of this process, and return the word by which the data modules of this process find it."""
    word = f"{_MEMORY}{len(_held) + 1}"
    _held[word] = given
    return word


def held(word: str, how: str) -> Any:
    """Return what is kept under a word. Raises `DataError` where another process has it, saying how to go on."""
    if word not in _held:
        raise DataError(f"the data of this run were given to Python and are not on the disk; {how}")
    return _held[word]


def stored(x: Tensor, levels: int | None, what: str) -> tuple[Tensor, int | None]:
    """Return examples as a data module stores them, and their number of levels, None for continuous ones.

    Args:
        x: (N, ...), as it was given.
        levels: what was asked for: a number, 0 for continuous values, or None for what the examples look like: 256 for
            images, 2 where there are but two, one more than the greatest of sequences of integers, none for points.
        what: they are, for messages.

    Raises:
        DataError: values or a shape that could be read in two ways, NaN, or infinity.
    """
    if x.ndim < 2 or not len(x):
        raise DataError(f"{what} have shape {tuple(x.shape)}; give a batch of at least one example, (N, ...)")
    if x.is_complex():
        raise DataError(f"{what} are complex numbers; give real ones")
    image = x.ndim == 4
    if x.ndim == 3 and levels is None:
        raise DataError(f"{what} have shape {tuple(x.shape)}; images are (N, C, H, W): add the channel with x[:, None]")
    if image and x.shape[1] > 4 and x.shape[3] in (1, 3, 4):
        raise DataError(f"{what} have shape {tuple(x.shape)}; the channel comes first, as by x.permute(0, 3, 1, 2)")
    if not x.is_floating_point():
        return _integers(x.to(torch.uint8) if x.dtype == torch.bool else x, levels, image, what)
    low, high = (float(v) for v in torch.aminmax(x))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{what} hold NaN or infinity; give finite numbers")
    if not image and not levels:
        return x.to(torch.float32), None
    if low < -1e-4 or high > 1 + 1e-4:
        hint = "(x + 1) / 2 brings -1 to 1 there" if low < 0 else "divide by 255, or give uint8"
        raise DataError(f"{what} have values from {low:g} to {high:g}; images are in [0, 1]: {hint}")
    if levels == 0:
        return x.to(torch.float32), None
    if levels is None:
        levels = 2 if bool(((x == 0) | (x == 1)).all()) else 256
    scaled = x.double() * (levels - 1)
    rounded = scaled.round().clamp_(0, levels - 1)
    if float((scaled - rounded).abs().max()) > 1e-2:
        log.warning(
            "%s are rounded to %d levels, as those of a picture file; levels=0 keeps them continuous", what, levels
        )
    return rounded.to(torch.uint8), levels


def _integers(x: Tensor, levels: int | None, image: bool, what: str) -> tuple[Tensor, int]:
    low, high = int(x.min()), int(x.max())
    if levels is None:
        levels = 2 if high <= 1 else 256 if image else high + 1
    if levels == 0:
        raise DataError(f"{what} are integers, which levels=0 calls continuous; give floating numbers")
    if low < 0 or high >= levels or levels > 256:
        raise DataError(f"{what} have integers from {low} to {high}; give levels between 0 and {min(levels, 256) - 1}")
    return x.to(torch.uint8), levels


def held_out(n: int, shares: Mapping[str, float]) -> dict[str, Tensor]:
    """Divide n examples at random, the same way every time: shares of validation and test, the rest for training.

    Raises:
        DataError: nothing would be left to train on.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(n, 0)))
    found, first = {}, 0
    for split, share in shares.items():
        count = max(1, round(n * share)) if share else 0
        found[split], first = order[first : first + count].sort().values, first + count
    if first >= n:
        raise DataError(f"of {n} examples {first} are held out for {' and '.join(shares)}; give more examples")
    return {"train": order[first:].sort().values, **found}


class Tensors(TensorData):
    """Examples that are tensors: of this process, or in a file of the kinds .safetensors, .npz and .npy.

    A file, or what Python gives, has ``train`` (or one array of any name), and perhaps ``validation`` and ``test``,
    each with labels under ``train_labels`` and so on. What is missing is held out of the training examples.

    Args:
        path: the file, or the word under which this process keeps the tensors.
        levels: grey levels, or the size of the alphabet of sequences; 0 for continuous values; by default what the
            examples look like (see `stored`).
        validation: share that is held out where there is no validation split.
        test: the same for the test split.
        class_names: of the labels 0, 1, ...
        sha256: of the file, which is held against it before it is opened.
        batch_size: examples a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training examples.
    """

    name = "tensors"

    def __init__(
        self,
        path: str,
        levels: int | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        class_names: list[str] | None = None,
        sha256: str | None = None,
        batch_size: int = 128,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed, limit)
        for name, value in (("validation", validation), ("test", test)):
            if not 0 < value < 1:
                raise ConfigError(f"data.{name} must lie between 0 and 1, got {value}")
        if levels is not None and levels != 0 and not 2 <= levels <= 256:
            raise ConfigError(f"data.levels must be 0, for continuous values, or 2 to 256, got {levels}")
        self.path, self.sha256 = path, sha256
        self.asked = {"levels": levels, "validation": validation, "test": test}
        self._whole = self._divided(self._raw())
        labels = [y for _, y in self._whole.values() if y is not None]
        self.shape = tuple(self._whole["train"][0].shape[1:])
        self.num_classes = max(int(y.max()) for y in labels) + 1 if labels else 0
        self.class_names = checked_names(class_names, self.num_classes)

    def read(self, split: str) -> Split:
        x, labels = self._whole[split]
        return x, torch.zeros(len(x), dtype=torch.int64) if labels is None else labels

    # -- where they are -----------------------------------------------------------------------------------------------

    def _raw(self) -> dict[str, Tensor]:
        """Return the tensors by their names, as they were given."""
        if self.path.startswith(_MEMORY):
            return _named(held(self.path, "go on from Python: zoo.fit(resume=RUN, data=...)"))
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise DataError(f"there is no file of tensors {path}; give its path with --data.path")
        content = path.read_bytes()
        if self.sha256 is not None and hashlib.sha256(content).hexdigest() != self.sha256:
            raise DataError(
                f"{path} is not the file that it was: its sha256 differs; give the old one with --data.path"
            )
        try:
            return _named(_opened(path, content))
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{path} cannot be read as tensors: {' '.join(str(error).split())[:200]}") from error

    def _divided(self, raw: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor | None]]:
        found: dict[str, tuple[Tensor, Tensor | None]] = {}
        for split in (s for s in SPLITS if s in raw):
            what = f"the {split} examples"
            x, self.levels = stored(raw[split], self.asked["levels"] if split == "train" else self._levels(), what)
            found[split] = (x, _labels(raw.get(f"{split}_labels"), len(x), what))
            if x.shape[1:] != found["train"][0].shape[1:]:
                raise DataError(f"{what} have shape {tuple(x.shape[1:])}, those of training another one")
        missing = {s: float(self.asked[s] or 0) for s in SPLITS[1:] if s not in found}
        if missing:
            x, y = found["train"]
            for split, index in held_out(len(x), missing).items():
                found[split] = (x[index], None if y is None else y[index])
        return found

    def _levels(self) -> int:
        return 0 if self.levels is None else self.levels

    # -- in a run folder ----------------------------------------------------------------------------------------------

    def kept_in(self, folder: Path) -> dict[str, Any]:
        """Return the arguments by which these data are read again once `write` has written them to a run folder."""
        if not self.path.startswith(_MEMORY) or self._size() > LARGEST:
            return {}
        digest = hashlib.sha256(self._content()).hexdigest()
        return {"path": str((folder / FILE).resolve()), "levels": self._levels(), "sha256": digest}

    def write(self, folder: Path) -> None:
        """Write the data to a run folder, if they are this process's alone."""
        if self.path.startswith(_MEMORY) and self._size() <= LARGEST:
            write_whole(folder / FILE, self._content())

    def _size(self) -> int:
        return sum(x.nbytes for x, _ in self._whole.values())

    def _content(self) -> bytes:
        from safetensors.torch import save

        tensors = {split: x.contiguous() for split, (x, _) in self._whole.items()}
        tensors |= {f"{split}_labels": y.contiguous() for split, (_, y) in self._whole.items() if y is not None}
        return save(tensors, {"levels": json.dumps(self.levels)})


def _opened(path: Path, content: bytes) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load

        return load(content)
    found = np.load(path, allow_pickle=False)
    return found if isinstance(found, np.ndarray) else dict(found)


def _named(given: Any) -> dict[str, Tensor]:
    """Return tensors by split, and labels under ``SPLIT_labels``, of what was given. Raises `DataError`."""
    if isinstance(given, Mapping):
        splits = [k for k in given if k in SPLITS]
        rest = [k for k in given if k not in SPLITS and not str(k).endswith("_labels")]
        if not splits and len(rest) == 1:
            given = {"train": given[rest[0]]}
        elif "train" not in splits or rest:
            names = ", ".join(map(str, given))
            raise DataError(f"tensors by name are train, validation, test and the same with _labels; got {names}")
        found: dict[str, Tensor] = {}
        for name, value in given.items():
            x, labels = parts_of(value)
            found |= {name: x} if labels is None else {name: x, f"{name}_labels": labels}
        return found
    x, labels = parts_of(given)
    return {"train": x} if labels is None else {"train": x, "train_labels": labels}


def _labels(labels: Tensor | None, n: int, what: str) -> Tensor | None:
    if labels is None:
        return None
    if labels.is_floating_point() or labels.ndim != 1 or len(labels) != n or int(labels.min()) < 0:
        raise DataError(
            f"{what} have labels of type {labels.dtype} and shape {tuple(labels.shape)}; give {n} integers from 0"
        )
    return labels.to("cpu", torch.int64)
