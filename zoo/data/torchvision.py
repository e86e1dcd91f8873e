"""Data sets that torchvision downloads or finds on disk: Fashion-MNIST and CIFAR-10.

References:
    H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017, arXiv:1708.07747.
    A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.data.base import Split, TensorData, derive_seed
from zoo.data.folder import data_root
from zoo.errors import DataError

__all__ = ["CIFAR10", "FashionMNIST"]

_VALIDATION = 5_000


class _Torchvision(TensorData):
    """Read a torchvision data set whole; 5,000 training images, by a fixed seed, are the validation split."""

    title = ""
    num_classes = 10

    def __init__(self, root: str | None = None, batch_size: int = 128, seed: int = 0, limit: int | None = None) -> None:
        super().__init__(batch_size, seed, limit)
        self.root = Path(root).expanduser() if root is not None else data_root()

    def _open(self, train: bool) -> Any:
        try:
            import torchvision.datasets
        except ImportError as error:
            raise DataError(f"{self.name} is read through torchvision; install torchvision") from error
        kind = getattr(torchvision.datasets, self.title)
        try:
            return kind(str(self.root), train=train, download=False)
        except RuntimeError:
            pass
        try:
            return kind(str(self.root), train=train, download=True)
        except Exception as error:
            raise DataError(
                f"{self.name} is not in {self.root.absolute()} and cannot be downloaded ({type(error).__name__}); put "
                f"torchvision's {self.title} files there, or name their folder with --data.root"
            ) from error

    def read(self, split: str) -> Split:
        found = self._open(train=split != "test")
        x = torch.as_tensor(found.data)
        x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()  # (N, C, H, W)
        labels = torch.as_tensor(found.targets).long()
        if split == "test":
            return x, labels
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive_seed(0)))
        chosen = (order[:_VALIDATION] if split == "validation" else order[_VALIDATION:]).sort().values
        return x[chosen], labels[chosen]


class FashionMNIST(_Torchvision):
    """Fashion-MNIST: 55,000 / 5,000 / 10,000 grey images, shape (1, 28, 28), 256 levels.

    Args:
        root: folder of torchvision's files; ``ZOO_DATA`` or the user's cache folder if left out.
        batch_size: images a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training images.
    """

    name, title, shape = "fashion_mnist", "FashionMNIST", (1, 28, 28)


class CIFAR10(_Torchvision):
    """CIFAR-10: 45,000 / 5,000 / 10,000 RGB images, shape (3, 32, 32), 256 levels.

    Args:
        root: folder of torchvision's files; ``ZOO_DATA`` or the user's cache folder if left out.
        batch_size: images a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training images.
    """

    name, title, shape = "cifar10", "CIFAR10", (3, 32, 32)
