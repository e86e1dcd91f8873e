"""Nearest neighbours in feature space: density and coverage, and how near samples come to training images.

References:
    M. F. Naeem and others, Reliable Fidelity and Diversity Metrics for Generative Models (density, coverage), 2020,
    arXiv:2002.09797.
    C. Meehan, K. Chaudhuri, S. Dasgupta, A Non-Parametric Test to Detect Data-Copying in Generative Models, 2020,
    arXiv:2004.05675: copies are nearer to training examples than unseen examples are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from tqdm.auto import tqdm

from zoo.errors import ResultError
from zoo.metrics.distribution import Estimate, check_pair

__all__ = ["NEIGHBOURS", "copying", "density_coverage", "nearest_distances"]

NEIGHBOURS = {"density_neighbours": 5, "copied_quantile": 0.01, "copied_limit": 0.1}
"""Constants, part of every protocol: k of density and coverage; the share of unseen images that count as too near by
definition; the share of samples above which a model is flagged."""

_ROWS = 1_000  # distances of so many rows at a time: 1,000 x 55,000 float32 are 220 MB


def density_coverage(generated: Tensor, real: Tensor, *, neighbours: int | None = None) -> tuple[Estimate, Estimate]:
    """Return density and coverage of features (N, D) against (M, D), with balls around real examples only.

    A ball reaches to the k-th nearest real neighbour. Density is the mean number of balls that a generated sample lies
    in, over k: about 1 for one distribution, and it may exceed 1. Coverage is the share of balls that hold a generated
    sample.

    Raises:
        ResultError: fewer samples than features, or than neighbours.
    """
    check_pair(generated, real)
    k = neighbours or NEIGHBOURS["density_neighbours"]
    if len(real) <= k:
        raise ResultError(f"density and coverage with {k} neighbours need more than {k} real images, got {len(real)}")
    x, y = real.float(), generated.float()
    radius = torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(_ROWS)])
    inside, covered = 0, torch.zeros(len(x), dtype=torch.bool)
    for part in y.split(_ROWS):
        within = torch.cdist(part, x) < radius  # (rows, M)
        inside += int(within.sum())
        covered |= within.any(0)
    coverage = float(covered.double().mean())
    return (inside / (k * len(y)), None, None), (coverage, None, None)


def nearest_distances(features: Tensor, training: Tensor, *, progress: bool = False) -> Tensor:
    """Return the distance of each row (N, D) to the nearest row of (M, D), float32 (N,)."""
    y = training.float()
    squares = y.square().sum(1)
    parts = []
    for part in tqdm(
        features.float().split(_ROWS), "nearest training images", delay=2, leave=False, disable=not progress
    ):
        index = torch.addmm(squares, part, y.T, alpha=-2).argmin(1)  # |y|^2 - 2 x.y, which has the same nearest
        parts.append((part - y[index]).square().sum(1))  # free of cancellation
    return torch.cat(parts).sqrt()


def copying(samples: Tensor, unseen: Tensor) -> dict[str, Estimate]:
    """Compare how near samples come to training images with how near unseen images come.

    Args:
        samples: distances of samples to their nearest training images, (N,).
        unseen: the same of real images that were not trained on, (M,).

    Returns:
        ``nearest_ratio``, the ratio of the medians: 1 for unseen images, 0 for copies; ``copied_share``, the share of
        samples that are at least as near as the nearest 1 % of unseen images: 0.01 for unseen images, 1 for copies.
    """
    median = float(unseen.double().median())
    ratio = float(samples.double().median()) / median if median else math.inf
    limit = torch.quantile(unseen.double(), NEIGHBOURS["copied_quantile"])
    share = float((samples.double() <= limit).double().mean())
    error = math.sqrt(share * (1 - share) / len(samples))
    return {"nearest_ratio": (ratio, None, None), "copied_share": (share, error, None)}
