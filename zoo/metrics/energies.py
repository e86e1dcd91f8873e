"""What energies say: whether samples are where the data are, and whether other data are told from the model's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.metrics.distribution import Estimate

__all__ = ["auroc", "energy_gap", "uniform_noise"]


def energy_gap(test: Tensor, samples: Tensor) -> Estimate:
    """Return (mean of the test examples' energies - mean of the samples') / sd of the test examples' energies.

    Positive where samples have a lower energy than data, as those of a cold sampler; about 0 for a chain that mixes.

    Args:
        test: energies of test examples, (N,), N at least 2.
        samples: energies of samples, (M,).
    """
    spread = test.double().std().clamp_min(torch.finfo(torch.float64).tiny)
    gap = (test.double().mean() - samples.double().mean()) / spread
    variance = 1 / len(test) + float((samples.double().var() / spread.square()) if len(samples) > 1 else 0) / len(
        samples
    )
    return float(gap), math.sqrt(variance), None


def auroc(inside: Tensor, outside: Tensor) -> Estimate:
    """Return the share of pairs in which what is outside has the higher energy, ties counting half: 1 is perfect.

    That is the area under the curve of true against false positives, when energies are a detector of other data.

    Args:
        inside: energies of the model's own data, (N,).
        outside: energies of other data, (M,).

    References:
        J. A. Hanley, B. J. McNeil, The meaning and use of the area under a receiver operating characteristic (ROC)
        curve, 1982: the standard error.
    """
    own, other = inside.double().sort().values, outside.double()
    below = torch.searchsorted(own, other, right=False).double()
    upto = torch.searchsorted(own, other, right=True).double()
    area = float(((below + upto) / 2).mean() / len(own))
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    spread = area * (1 - area) + (len(other) - 1) * (q1 - area**2) + (len(own) - 1) * (q2 - area**2)
    return area, math.sqrt(max(spread, 0.0) / (len(own) * len(other))), None


def uniform_noise(x: Tensor, seed: int) -> Tensor:
    """Return uniform noise of the shape of x, over [0, 1], or over the range of values where that is wider."""
    low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return low + (high - low) * noise
