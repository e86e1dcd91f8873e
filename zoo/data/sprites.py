"""Sprites: white shapes whose every factor is known, computed and complete, for measuring what latents separate.

    shape (square, ellipse, heart) x scale (4) x orientation (6) x row (10) x column (10) = 7,200 images of 28 x 28

Each combination of factors is there once, and no two images are equal: orientations lie within a quarter turn, after
which a square would repeat, and places are whole pixels. The idea is that of dSprites, the images are made here.

References:
    L. Matthey, I. Higgins, D. Hassabis, A. Lerchner, dSprites: Disentanglement testing Sprites dataset, 2017.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from zoo.data.base import Split
from zoo.data.images import ImageData

__all__ = ["FACTORS", "Sprites"]

FACTORS: dict[str, int] = {"shape": 3, "scale": 4, "orientation": 6, "row": 10, "column": 10}
"""Factors and how many values each has, in the order of `Sprites.factors`; the last one changes fastest."""

_SIDE, _REACH, _FINE = 28, 9, 8
"""Pixels of a side; of a sprite, from its centre to its edge at most; points a pixel at which shapes are sampled."""

_RADII = (4.5, 5.6, 6.8, 8.0)
_SIZES = {"train": 6_000, "validation": 200, "test": 1_000}


def _inside(shape: int, u: Tensor, v: Tensor) -> Tensor:
    """Tell which points lie in a shape of radius one, its axes being u to the right and v upwards."""
    if shape == 0:  # a square of the circle's width
        return torch.maximum(u.abs(), v.abs()) < 0.7
    if shape == 1:  # an ellipse, twice as long as wide
        return u.square() + (2 * v).square() < 1
    u, v = 1.3 * u, 1.3 * v + 0.15  # the sextic heart
    return (u.square() + v.square() - 1) ** 3 < u.square() * v**3


@functools.lru_cache(maxsize=1)
def _sprites() -> Tensor:
    """Return each shape, scale and orientation about its centre: bool (72, 19, 19), a pixel on where half of it is."""
    n = 2 * _REACH + 1
    line = (torch.arange(n * _FINE, dtype=torch.float64) + 0.5) / _FINE - n / 2
    y, x = torch.meshgrid(-line, line, indexing="ij")
    found = []
    for shape, radius, turn in itertools.product(range(3), _RADII, range(6)):
        angle = turn * math.pi / 12
        u, v = (
            (x * math.cos(angle) + y * math.sin(angle)) / radius,
            (y * math.cos(angle) - x * math.sin(angle)) / radius,
        )
        covered = _inside(shape, u, v).double().unflatten(1, (n, _FINE)).unflatten(0, (n, _FINE)).mean((1, 3))
        found.append(covered > 0.5)
    return torch.stack(found)


@functools.lru_cache(maxsize=1)
def _images() -> tuple[Tensor, Tensor]:
    """Return all images, uint8 (7200, 1, 28, 28), and the values of their factors, int64 (7200, 5)."""
    sprites, n = _sprites().to(torch.uint8), 2 * _REACH + 1
    places = _SIDE - n + 1
    images = torch.zeros(len(sprites), places, places, _SIDE, _SIDE, dtype=torch.uint8)
    for row, column in itertools.product(range(places), repeat=2):
        images[:, row, column, row : row + n, column : column + n] = sprites
    factors = torch.cartesian_prod(*(torch.arange(k) for k in FACTORS.values()))
    return images.reshape(-1, 1, _SIDE, _SIDE), factors


class Sprites(ImageData):
    """White shapes on black: 6,000 / 200 / 1,000 of all 7,200 images, shape (1, 28, 28), pixels 0 or 1, three classes.

    Args:
        batch_size: images a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training images.
        augment: names of augmentations of training batches; see `zoo.data.images`.

    Attributes:
        factor_names: of the columns of `factors`.
    """

    name = "sprites"
    shape = (1, _SIDE, _SIDE)
    levels = 2
    num_classes = 3
    class_names = ("square", "ellipse", "heart")
    factor_names = tuple(FACTORS)

    def read(self, split: str) -> Split:
        index = self._index(split)
        images, factors = _images()
        return images[index], factors[index, 0]

    def factors(self, split: str) -> Tensor:
        """Return the values of the factors of each example of a split, int64 (N, 5), from 0 up."""
        found = _images()[1][self._index(split)]
        return found[: self.limit] if split == "train" and self.limit is not None else found

    @staticmethod
    def _index(split: str) -> Tensor:
        order = torch.randperm(math.prod(FACTORS.values()), generator=torch.Generator().manual_seed(0))
        return dict(zip(_SIZES, order.split(list(_SIZES.values())), strict=True))[split]
