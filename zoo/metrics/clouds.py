"""Clouds of points against test points: no features are needed where examples are points, which are their own.

Sinkhorn's divergence says how far points must be carried. Of clouds of some hundred points, chance alone leaves some
modes with more points than others, and what these must be carried costs as much as what fills the gaps between modes;
density and coverage, of the balls around test points, see that filling.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.maths.transport import cost_matrix, sinkhorn_divergence
from zoo.metrics.distribution import Estimate
from zoo.metrics.neighbours import NEIGHBOURS, density_coverage

__all__ = ["CLOUDS", "cloud_estimates", "cloud_protocol"]

CLOUDS = {"points": 250, "clouds": 4, "eps_share": 0.05}
"""How many points a cloud has, over how many pairs of clouds the mean is taken, and eps as a share of the mean squared
distance between test points."""


def cloud_protocol(samples: int, reference: int) -> dict[str, Any]:
    """Return what the numbers depend on, by the number."""
    size, clouds = _sizes(samples, reference)
    return {
        "sinkhorn": {"samples": size * clouds, **CLOUDS, "points": size, "clouds": clouds},
        "density": {"samples": size * clouds, "points": size * clouds, "neighbours": NEIGHBOURS["density_neighbours"]},
    }


def cloud_estimates(x: Tensor, test: Tensor) -> dict[str, Estimate]:
    """Return ``sinkhorn``, ``density`` and ``coverage`` of samples (N, D) against test points (M, D).

    Sinkhorn's is the debiased entropic cost of squared distances, 0 on average for equal laws but for what finite
    clouds differ by: see the floor. Its standard error is over pairs of clouds, which share no points. Density and
    coverage are those of `density_coverage` with all these points; there are none of fewer points than neighbours.
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
    estimates: dict[str, Estimate] = {"sinkhorn": (float(found.mean()), error, None)}
    x, test = x[: size * clouds], test[: size * clouds]
    if len(test) > NEIGHBOURS["density_neighbours"]:
        estimates["density"], estimates["coverage"] = density_coverage(x, test)
    return estimates


def _sizes(samples: int, reference: int) -> tuple[int, int]:
    """Return points of a cloud, and how many clouds."""
    most = min(samples, reference)
    size = max(1, min(int(CLOUDS["points"]), most))
    return size, max(1, min(int(CLOUDS["clouds"]), most // size))
