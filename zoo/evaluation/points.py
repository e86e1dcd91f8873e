"""Which examples are points, and what training points score in the place of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from zoo.metrics.clouds import cloud_estimates
from zoo.metrics.distribution import Estimate

if TYPE_CHECKING:
    from zoo.data.base import TensorData

__all__ = ["are_points", "cloud_floor"]


def are_points(data: TensorData) -> bool:
    """Tell whether examples are points of a plane or of a space, (D,) without grey levels."""
    return data.levels is None and len(data.shape) == 1


def cloud_floor(data: TensorData, samples: int, split: str) -> dict[str, Estimate]:
    """Return the same of training points in the place of samples, the first ones."""
    train, test = (data.to_float(data.split(name)[0][:samples], torch.float32) for name in ("train", split))
    return cloud_estimates(train, test) if min(len(train), len(test)) > 1 else {}
