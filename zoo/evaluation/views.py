"""The second views that judge beside the extractor, fitted to the training images of a data set and kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from zoo.errors import ResultError
from zoo.metrics.fidelity import cached
from zoo.metrics.views import PixelPCA, RandomConvolutions

if TYPE_CHECKING:
    from zoo.data.base import TensorData
    from zoo.metrics.extractors import Extractor

__all__ = ["VIEWS", "fitted_view", "second_views"]

VIEWS: dict[str, Any] = {"random": RandomConvolutions, "pca": PixelPCA}
_FITTED = 5_000  # training images, the first ones
_VALUES = 20_000_000  # numbers in them, so fewer where they are large
_FEWEST = 100
_SMALLEST = 8  # pixels of a side that random filters can look at


def fitted_view(which: str, data: TensorData) -> Extractor:
    """Return the view ``random`` or ``pca`` of images like the training images of ``data``.

    Raises:
        ResultError: the data are no images, are too small or too large for it, or too few.
    """
    shape = tuple(data.shape)
    if len(shape) != 3 or min(shape[1:]) < _SMALLEST:
        raise ResultError(f"the view {which!r} is of images of 8 x 8 pixels or more, got {data.name} {shape}")
    images = data.read("train")[0][: min(_FITTED, _VALUES // math.prod(shape))]
    if len(images) < _FEWEST:
        raise ResultError(
            f"the view {which!r} is fitted to {_FEWEST} training images or more, of {data.name} it had {len(images)}"
        )
    images = data.transform(images, torch.Generator().manual_seed(0))
    kind = VIEWS[which]

    def compute() -> dict[str, torch.Tensor]:
        return kind.fit(torch.cat(list(data.to_float(images).split(500))))

    return kind(shape, cached(f"view-{which}", (data.name, data.fingerprint(images)), compute))


def second_views(data: TensorData) -> list[Extractor]:
    """Return the views that fit the data, none where they are no images."""
    found = []
    for which in VIEWS:
        try:
            found.append(fitted_view(which, data))
        except ResultError:
            continue
    return found
