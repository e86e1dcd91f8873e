"""Data sets that torchvision downloads or finds on disk, or that lie there as their authors publish them.

References:
    H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017, arXiv:1708.07747.
    A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    Y. Netzer and others, Reading Digits in Natural Images with Unsupervised Feature Learning (SVHN), 2011.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.data.base import Split, derive_seed
from zoo.data.images import ImageData
from zoo.data.sources import data_root
from zoo.errors import DataError

__all__ = ["CIFAR10", "SVHN", "FashionMNIST"]

_VALIDATION = 5_000


class _Torchvision(ImageData):
    """Read a data set whole; 5,000 training images, by a fixed seed, are the validation split."""

    title = ""
    num_classes = 10

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        seed: int = 0,
        limit: int | None = None,
        augment: str | None = None,
    ) -> None:
        super().__init__(batch_size, seed, limit, augment)
        self.root = Path(root).expanduser() if root is not None else data_root()

    def _published(self, train: bool) -> Split | None:
        """Return a part from the files that the authors or a distribution publish, None where they are not there."""
        return None

    def _options(self, train: bool) -> dict[str, Any]:
        return {"train": train}

    def _open(self, train: bool) -> Any:
        try:
            import torchvision.datasets
        except ImportError as error:
            raise DataError(
                f'{self.name} is read through torchvision; install it with pip install "generative-zoo[vision]"'
            ) from error
        kind = getattr(torchvision.datasets, self.title)
        try:
            return kind(str(self.root), **self._options(train), download=False)
        except RuntimeError:
            pass
        try:
            return kind(str(self.root), **self._options(train), download=True)
        except Exception as error:
            raise DataError(
                f"{self.name} is not in {self.root.absolute()} and cannot be downloaded ({type(error).__name__}); put "
                f"torchvision's {self.title} files there{self._elsewhere()}, or name their folder with --data.root"
            ) from error

    def _elsewhere(self) -> str:
        """Return what else can be put into the folder, for messages."""
        return ""

    def _part(self, train: bool) -> Split:
        """Return the original training or test part: uint8 (N, C, H, W) and int64 (N,)."""
        published = self._published(train)
        if published is not None:
            return published
        found = self._open(train)
        x = torch.as_tensor(found.data)
        x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
        return x, torch.as_tensor(found.targets).long()

    def read(self, split: str) -> Split:
        x, labels = self._part(split != "test")
        if split == "test":
            return x, labels
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive_seed(0)))
        chosen = (order[:_VALIDATION] if split == "validation" else order[_VALIDATION:]).sort().values
        return x[chosen], labels[chosen]


def _verified(path: Path, data: bytes, md5: str) -> bytes:
    """Return the bytes, held against the digest that the authors publish. Raises `DataError`."""
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is damaged or another file: its MD5 is not that of the data set; get it again")
    return data


class FashionMNIST(_Torchvision):
    """Fashion-MNIST: 55,000 / 5,000 / 10,000 grey images, shape (1, 28, 28), 256 levels.

    Read from the four IDX files, gzipped by whomever, in ``root``, ``root/fashion-mnist`` or where Debian's package
    dataset-fashion-mnist installs them; else through torchvision.

    Args:
        root: folder of the files; ``ZOO_DATA`` or the user's cache folder if left out.
        batch_size: images a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training images.
        augment: names of augmentations of training batches, such as ``flip,crop:2``; see `zoo.data.images`.
    """

    name, title, shape = "fashion_mnist", "FashionMNIST", (1, 28, 28)
    class_names = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    debian = Path("/usr/share/datasets/fashion-mnist")
    _MD5 = {
        "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
    }

    def _published(self, train: bool) -> Split | None:
        part = "train" if train else "t10k"
        names = [f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"]
        for folder in (self.root, self.root / "fashion-mnist", self.debian):
            if all((folder / name).is_file() for name in names):
                images, labels = (_idx(folder / name, self._MD5[name]) for name in names)
                return images[:, None], labels.long()
        return None

    def _elsewhere(self) -> str:
        return " or the four .gz files of its authors, install Debian's package dataset-fashion-mnist"


def _idx(path: Path, md5: str) -> torch.Tensor:
    """Return the array of an IDX file, uint8. Raises `DataError`."""
    try:
        data = bytearray(_verified(path, gzip.decompress(path.read_bytes()), md5))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return torch.frombuffer(data, dtype=torch.uint8, offset=4 + 4 * len(shape)).reshape(shape)


class CIFAR10(_Torchvision):
    """CIFAR-10: 45,000 / 5,000 / 10,000 RGB images, shape (3, 32, 32), 256 levels.

    Read from the authors' binary version (``cifar-10-batches-bin``, six files held against the published MD5), which
    runs no code, where it is in ``root``; else through torchvision. Both give the same images in the same order.

    Args:
        root: folder of the files; ``ZOO_DATA`` or the user's cache folder if left out.
        batch_size: images a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training images.
        augment: names of augmentations of training batches, such as ``flip,crop:4``; see `zoo.data.images`.
    """

    name, title, shape = "cifar10", "CIFAR10", (3, 32, 32)
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    _MD5 = {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    }

    def _published(self, train: bool) -> Split | None:
        folder = next(
            (f for f in (self.root / "cifar-10-batches-bin", self.root) if (f / "test_batch.bin").is_file()), None
        )
        if folder is None:
            return None
        rows = np.concatenate(list(self._rows(folder, train)))
        return torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(
            rows[:, 0].astype(np.int64)
        )

    def _rows(self, folder: Path, train: bool) -> Iterator[np.ndarray]:
        for name, md5 in self._MD5.items():
            if name.startswith("data") == train:
                try:
                    data = (folder / name).read_bytes()
                except OSError as error:
                    raise DataError(f"{folder / name} cannot be read: {error.strerror or error}") from error
                yield np.frombuffer(_verified(folder / name, data, md5), np.uint8).reshape(-1, 3073)

    def _elsewhere(self) -> str:
        return " or the authors' binary version, cifar-10-batches-bin"


class SVHN(_Torchvision):
    """Street View House Numbers, cropped: 68,257 / 5,000 / 26,032 RGB images, shape (3, 32, 32), 256 levels.

    Read through torchvision and SciPy; the labels are the digits.

    Args:
        root: folder of torchvision's files; ``ZOO_DATA`` or the user's cache folder if left out.
        batch_size: images a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training images.
        augment: names of augmentations of training batches, such as ``crop:4``; see `zoo.data.images`.
    """

    name, title, shape = "svhn", "SVHN", (3, 32, 32)

    def _options(self, train: bool) -> dict[str, Any]:
        return {"split": "train" if train else "test"}

    def _part(self, train: bool) -> Split:
        found = self._open(train)
        return torch.as_tensor(found.data), torch.as_tensor(found.labels).long()  # (N, 3, 32, 32), a ten being a zero
