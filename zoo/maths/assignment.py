"""Which noise goes with which example: the pairing of a batch that costs least, found exactly.

    min over permutations s of sum_i |x_i - y_s(i)|^2

References:
    A. Tong and others, Improving and generalizing flow-based generative models with minibatch optimal transport, 2023,
    arXiv:2302.00482.
    D. F. Crouse, On implementing 2D rectangular assignment algorithms, 2016 (the algorithm, in SciPy).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["optimal_pairing"]


def optimal_pairing(x: Tensor, y: Tensor, groups: Tensor | None = None) -> Tensor:
    """Return s, int64 (B,), such that pairing x_i with y_s(i) has the least sum of squared distances.

    Args:
        x: (B, ...).
        y: (B, ...), as many.
        groups: int64 (B,); y is permuted only among places i of one group, such as the examples of one class.
    """
    X, Y = x.detach().flatten(1).double().cpu(), y.detach().flatten(1).double().cpu()
    pairing = torch.arange(len(X))
    groups = torch.zeros(len(X), dtype=torch.int64) if groups is None else groups.cpu()
    for group in groups.unique():
        places = (groups == group).nonzero().flatten()
        pairing[places] = places[_assign(X[places], Y[places])]
    return pairing.to(x.device)


def _assign(X: Tensor, Y: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment  # takes a tenth of a second to import

    cost = X.square().sum(1)[:, None] + Y.square().sum(1) - 2 * X @ Y.T  # (n, n), |x_i - y_j|^2
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])
