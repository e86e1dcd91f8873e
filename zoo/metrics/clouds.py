"""Clouds of points against test points, by Sinkhorn's divergence: no features are needed where examples are points."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.maths.transport import cost_matrix, sinkhorn_divergence
from zoo.metrics.distribution import Estimate

__all__ = ["CLOUDS", "cloud_estimates", "cloud_protocol"]

CLOUDS = {"points": 250, "clouds": 4, "eps_share": 0.05}
"""How many points a cloud has, over how many pairs of clouds the mean is taken, and eps as a share of the mean squared
distance between test points."""


def cloud_protocol(samples: int, reference: int) -> dict[str, Any]:
    """Return what the numbers depend on."""
    size, clouds = _sizes(samples, reference)
    return {"samples": size * clouds, **CLOUDS, "points": size, "clouds": clouds}


def cloud_estimates(x: Tensor, test: Tensor) -> dict[str, Estimate]:
    """Return ``sinkhorn``, the debiased entropic transport cost between samples (N, D) and test points (M, D).

    It is that of squared distances, 0 on average for equal laws but for what finite clouds differ by: see the floor.
    The standard error is over pairs of clouds, which share no points.
    """
    size, clouds = _sizes(len(x), len(test))
    pairs = [(part[: size * clouds].double().chunk(clouds)) for part in (x, test)]
    scale = float(cost_matrix(pairs[1][0], pairs[1][0]).mean()) or 1.0  # 1 where all test points are one
    eps = CLOUDS["eps_share"] * scale
    found = torch.stack([
        sinkhorn_divergence(a, b, eps, iterations=200, tolerance=1e-4)
        for a, b in zip(*pairs, strict=True)
    ])  # fmt: skip
    error = float(found.std()) / math.sqrt(clouds) if clouds > 1 else None
    return {"sinkhorn": (float(found.mean()), error, None)}


def _sizes(samples: int, reference: int) -> tuple[int, int]:
    """Return points of a cloud, and how many clouds."""
    most = min(samples, reference)
    size = max(1, min(int(CLOUDS["points"]), most))
    return size, max(1, min(int(CLOUDS["clouds"]), most // size))
