"""Tiles of a roguelike game, embedded: 2,137 colour pictures of 32 x 32, for everything that needs no network.

References:
    Dungeon Crawl Stone Soup contributors, crawl-tiles, release of November 2015, CC0; see ``assets/tiles/LICENSE.md``.
"""

from __future__ import annotations

import functools
import hashlib
import io
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from zoo.data.base import Split
from zoo.data.images import ImageData
from zoo.errors import DataError

__all__ = ["CLASSES", "NEAR", "Tiles", "composited", "nearness", "read_tiles"]

CLASSES = ("mon", "item", "player")
"""Monsters, items, and what a player is drawn from: the labels 0, 1, 2."""

NEAR = 0.5
"""Nearness under which two tiles are near-duplicates."""

_SHA256 = "38787444d833f6d34023c5027066886fe625464a23c9f10fe1726e70d6e9c3c5"
_SPLITS = ("train", "validation", "test")
_BACKGROUND = 255


def composited(rgba: np.ndarray) -> Tensor:
    """Return tiles uint8 (N, H, W, 4) over white, uint8 (N, 3, H, W), rounded to the nearest level."""
    alpha = rgba[..., 3:].astype(np.int32)
    over = (rgba[..., :3] * alpha + _BACKGROUND * (255 - alpha) + 127) // 255
    return torch.from_numpy(over.astype(np.uint8).transpose(0, 3, 1, 2).copy())


def nearness(x: Tensor) -> Tensor:
    """Return the distance of each pair of tiles, (N, N), over how far the fainter of the two is from white."""
    flat = x.flatten(1).float()
    ink = (_BACKGROUND - flat).norm(dim=1)
    relative = torch.cdist(flat, flat) / torch.minimum(ink[:, None], ink[None]).clamp(min=1)
    return relative.fill_diagonal_(torch.inf)


@functools.lru_cache(maxsize=1)
def read_tiles() -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Return the tiles uint8 (2137, 3, 32, 32), labels and split numbers int64 (2137,), and their names.

    Raises:
        DataError: the embedded file is damaged.
    """
    raw = resources.files("zoo.data").joinpath("assets", "tiles", "tiles32.npz").read_bytes()
    if hashlib.sha256(raw).hexdigest() != _SHA256:
        raise DataError("the embedded tiles are damaged: their sha256 is not the recorded one; reinstall the package")
    with np.load(io.BytesIO(raw), allow_pickle=False) as content:
        rgba, name, split = content["rgba"], content["name"].tolist(), content["split"]
    labels = torch.tensor([CLASSES.index(n.partition("/")[0]) for n in name])
    return composited(rgba), labels, torch.from_numpy(split).long(), name


class Tiles(ImageData):
    """Game tiles on white: 1,709 / 214 / 214 colour pictures, shape (3, 32, 32), 256 levels, three classes.

    There is no official split. A tenth of each class is validation and a tenth test, by a fixed seed; near-duplicates,
    such as one potion in two colours, are on one side.

    Args:
        batch_size: pictures a batch and device.
        seed: of the order of training batches, and of their augmentation.
        limit: use only the first so many training pictures.
        augment: names of augmentations of training batches, such as ``flip,crop:2``; see `zoo.data.images`.
    """

    name = "tiles"
    shape = (3, 32, 32)
    num_classes = len(CLASSES)
    class_names = CLASSES

    def __init__(
        self, batch_size: int = 64, seed: int = 0, limit: int | None = None, augment: str | None = None
    ) -> None:
        super().__init__(batch_size, seed, limit, augment)

    def read(self, split: str) -> Split:
        x, labels, parts, _ = read_tiles()
        own = parts == _SPLITS.index(split)
        return x[own], labels[own]
