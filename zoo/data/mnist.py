"""MNIST, embedded in full, and its binary versions.

References:
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition, 1998. The data
    are by Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0; see ``assets/mnist/LICENSE.md``.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import struct
from importlib import resources

import torch
from torch import Tensor

from zoo.data.base import Split
from zoo.data.images import ImageData
from zoo.errors import ConfigError, DataError

__all__ = ["MNIST", "BinaryMNIST", "FewLabelsMNIST", "ThresholdMNIST", "read_mnist", "split_indices"]

_SHA256 = {
    "t10k-images-idx3-ubyte.gz": "1a1a05eab793c14bb050b398624a11b0ffd1a2953baed553b1b9bd079e2a20be",
    "t10k-labels-idx1-ubyte.gz": "b91679a0acfe4ba0e50a2437a903084cba1f5f92592b016a25a7dfd00455798b",
    "train-images-idx3-ubyte.gz": "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
    "train-labels-idx1-ubyte.gz": "1787548bbe0bff1ec2ecdc0ef292b02df999e2d1a6002d27500982c652b17203",
}
_VALIDATION = 5_000
_SPLIT_SEED = 0
_LABEL_SEED, _MOST_LABELS = 0, 10_000


def _read_idx(name: str) -> Tensor:
    raw = resources.files("zoo.data").joinpath("assets", "mnist", name).read_bytes()
    if hashlib.sha256(raw).hexdigest() != _SHA256[name]:
        raise DataError(
            f"the embedded file {name} is damaged: its sha256 is not the recorded one; reinstall the package"
        )
    data = bytearray(gzip.decompress(raw))
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    return torch.frombuffer(data, dtype=torch.uint8, offset=4 + 4 * len(shape)).reshape(shape)


@functools.lru_cache(maxsize=2)
def read_mnist(part: str) -> Split:
    """Return the original ``train`` (60,000) or ``t10k`` (10,000) part: uint8 (N, 1, 28, 28) and int64 (N,)."""
    images = _read_idx(f"{part}-images-idx3-ubyte.gz")
    return images[:, None], _read_idx(f"{part}-labels-idx1-ubyte.gz").long()


def split_indices() -> tuple[Tensor, Tensor]:
    """Return the fixed division of the 60,000: indices of 55,000 training and 5,000 validation digits."""
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(_SPLIT_SEED))
    return order[_VALIDATION:].sort().values, order[:_VALIDATION].sort().values


class MNIST(ImageData):
    """The 8-bit digits: 55,000 / 5,000 / 10,000, shape (1, 28, 28), 256 levels.

    Args:
        batch_size: examples a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training examples.
        augment: names of augmentations of training batches, such as ``crop:2``; see `zoo.data.images`.
    """

    name = "mnist"
    shape = (1, 28, 28)
    levels = 256
    num_classes = 10

    def read(self, split: str) -> Split:
        if split == "test":
            return read_mnist("t10k")
        images, labels = read_mnist("train")
        train, validation = split_indices()
        index = train if split == "train" else validation
        return images[index], labels[index]


class BinaryMNIST(MNIST):
    """Dynamically binarised MNIST: each pixel is drawn as Bernoulli(grey level / 255), anew for every training batch.

    Validation and test sets are drawn once, with seeds 1 and 0.

    References:
        R. Salakhutdinov, I. Murray, On the quantitative analysis of deep belief networks, 2008.
    """

    name = "binary_mnist"
    levels = 2

    def read(self, split: str) -> Split:
        x, labels = super().read(split)
        if split == "train":
            return x, labels
        generator = torch.Generator().manual_seed(0 if split == "test" else 1)
        return torch.cat([_bernoulli(part, generator) for part in x.split(1000)]), labels

    def transform(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return _bernoulli(x, generator)


class FewLabelsMNIST(BinaryMNIST):
    """Dynamically binarised MNIST of whose training labels a few are known, as many of each class; the others are -1.

    The labelled digits are put in again and again until they make up a share of the training split, so that every batch
    has some. Validation and test digits are those of `BinaryMNIST`, and have all their labels.

    Args:
        batch_size: examples a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training examples, which are half labelled ones until these are through.
        augment: names of augmentations of training batches, such as ``crop:2``; see `zoo.data.images`.
        labelled: how many digits have a label, a multiple of ten.
        share: of labelled digits in the training split.

    Raises:
        ConfigError: a number of labels that ten classes cannot share, or a share outside (0, 1).

    References:
        D. P. Kingma and others, Semi-supervised Learning with Deep Generative Models, 2014, arXiv:1406.5298: 100 to
        3,000 labels, balanced.
    """

    def __init__(
        self,
        batch_size: int = 128,
        seed: int = 0,
        limit: int | None = None,
        augment: str | None = None,
        labelled: int = 100,
        share: float = 0.2,
    ) -> None:
        super().__init__(batch_size, seed, limit, augment)
        if labelled % 10 or not 10 <= labelled <= _MOST_LABELS or not 0 < share < 1:
            raise ConfigError(
                f"labelled must be a multiple of 10 from 10 to {_MOST_LABELS:,}, and share lie between 0 and 1, got "
                f"{labelled} and {share}"
            )
        self.labelled, self.share = labelled, share

    def known(self) -> Tensor:
        """Return which training digits have a label, by their numbers among the 55,000: int64 (labelled,), mixed."""
        _, labels = super().read("train")
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_LABEL_SEED))
        first = [order[labels[order] == y][: self.labelled // 10] for y in range(10)]
        return torch.stack(first, 1).flatten()  # the classes take turns

    def read(self, split: str) -> Split:
        x, labels = super().read(split)
        if split != "train":
            return x, labels
        known = self.known()
        hidden = torch.ones(len(labels), dtype=torch.bool)
        hidden[known] = False
        rest = hidden.nonzero()[:, 0]
        count = max(len(known), round(len(rest) * self.share / (1 - self.share)))
        again = known.repeat(-(-count // len(known)))[:count]
        index = torch.cat([again, rest])
        seen = torch.cat([labels[again], torch.full_like(rest, -1)])
        first = 2 * min(len(known), len(rest))  # so that a few first examples are of both kinds
        mixed = torch.arange(first).view(2, -1).T.flatten()
        mixed[1::2] += count - first // 2
        others = torch.cat([torch.arange(first // 2, count), torch.arange(count + first // 2, len(index))])
        order = torch.cat([mixed, others])
        return x[index[order]], seen[order]


class ThresholdMNIST(MNIST):
    """MNIST with each pixel replaced by (grey level / 255 > 0.5)."""

    name = "binary_mnist_threshold"
    levels = 2

    def read(self, split: str) -> Split:
        x, labels = super().read(split)
        return (x > 127).to(torch.uint8), labels


def _bernoulli(x: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(x.shape, generator=generator) * 255 < x).to(torch.uint8)
