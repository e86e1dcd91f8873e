"""Distance between clouds of points, from their projections onto lines.

    SW^2 = mean over directions u of W_2^2(u^T X, u^T Y),   W_2^2 in one dimension pairs points in sorted order

References:
    J. Rabin, G. Peyre, J. Delon, M. Bernot, Wasserstein Barycenter and Its Application to Texture Mixing, 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import ResultError

__all__ = ["sliced_wasserstein"]


def sliced_wasserstein(x: Tensor, y: Tensor, *, directions: int = 200, seed: int = 0) -> float:
    """Return the squared sliced 2-Wasserstein distance of as many points: (N, ...) each.

    Args:
        x, y: points.
        directions: how many, the same ones for the same seed and dimension.
        seed: of the directions.

    Raises:
        ResultError: clouds of different size or dimension.
    """
    X, Y = x.flatten(1).double(), y.flatten(1).double()
    if X.shape != Y.shape:
        raise ResultError(
            f"the clouds must have as many points of one dimension, got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    u = torch.randn(X.shape[1], directions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u = (u / u.norm(dim=0)).to(X.device)
    return float(((X @ u).sort(0).values - (Y @ u).sort(0).values).square().mean())
