"""How good features are: what a linear classifier, or the nearest neighbours, read off a frozen encoder.

The probe is multinomial logistic regression on features standardised by the training examples' moments, its L2 penalty
chosen on validation examples, fitted by L-BFGS from zero: no noise, one answer.

References:
    G. Alain, Y. Bengio, Understanding intermediate layers using linear classifier probes, 2016, arXiv:1610.01644.
    O. Roy, M. Vetterli, The effective rank: A measure of effective dimensionality, 2007.
    Q. Garrido and others, RankMe, 2022, arXiv:2210.02885: the rank as a sign of collapse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.metrics.distribution import Estimate

__all__ = ["PROBE", "effective_rank", "feature_std", "knn_accuracy", "probe_accuracy", "share", "standardised"]

PROBE = {
    "l2": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1], "iterations": 100, "neighbours": 20, "few_share": 0.01, "few_seeds": 5,
}  # fmt: skip
"""Constants of the protocol: penalties among which validation chooses, L-BFGS iterations, k, and the few labels."""

_ROWS = 1_000


def standardised(train: Tensor, *others: Tensor) -> list[Tensor]:
    """Return features (N, D), each dimension with the mean and standard deviation of the first ones' taken out."""
    mean, std = train.mean(0), train.std(0, correction=0)
    std = torch.where(std > 1e-6 * std.max().clamp_min(1e-30), std, torch.inf)  # what never varies tells nothing
    return [(x - mean) / std for x in (train, *others)]


def share(right: Tensor) -> Estimate:
    """Return the share of true values in (N,), with its standard error."""
    p = float(right.double().mean())
    return p, math.sqrt(p * (1 - p) / len(right)), None


def probe_accuracy(
    train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int
) -> tuple[Estimate, float]:
    """Return the accuracy of a linear probe on the test examples, and the penalty that validation chose.

    Args:
        train, validation, test: standardised features (N, D) and labels int64 (N,), 0 to ``classes`` - 1.
        classes: how many.
    """
    best: tuple[float, float, Tensor] | None = None
    weight = torch.zeros(train[0].shape[1] + 1, classes, dtype=train[0].dtype)
    for l2 in sorted(PROBE["l2"], reverse=True):  # each starts from the last, which is smoother
        weight = _fitted(*train, weight, l2)
        right = float((_scores(validation[0], weight).argmax(1) == validation[1]).double().mean())
        if best is None or right > best[0]:
            best = right, l2, weight
    assert best is not None
    return share(_scores(test[0], best[2]).argmax(1) == test[1]), best[1]


def _scores(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight[:-1] + weight[-1]


def _fitted(x: Tensor, labels: Tensor, start: Tensor, l2: float) -> Tensor:
    """Return the weights (D + 1, K) that minimise cross entropy + l2 / 2 |W|^2, the bias left free."""
    weight = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=PROBE["iterations"], tolerance_grad=1e-5, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(_scores(x, weight), labels) + l2 / 2 * weight[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach()


def knn_accuracy(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, k: int | None = None
) -> Estimate:
    """Return the accuracy of the majority of the k training examples that are nearest by cosine; k is 20.

    Among classes of as many votes, the one whose neighbours are nearer wins.
    """
    x, labels = F.normalize(train[0], dim=1), train[1]
    k = min(PROBE["neighbours"] if k is None else k, len(x))
    right = []
    for rows, truth in zip(test[0].split(_ROWS), test[1].split(_ROWS), strict=True):
        near, index = (F.normalize(rows, dim=1) @ x.T).topk(k, dim=1)
        votes = torch.zeros(len(rows), classes, dtype=x.dtype)
        votes.scatter_add_(1, labels[index], 1 + near / (4 * k))
        right.append(votes.argmax(1) == truth)
    return share(torch.cat(right))


def few_labels(labels: Tensor, portion: float, seed: int) -> Tensor:
    """Return indices of a portion of the examples, as many of each class as of any, drawn with a seed."""
    classes = labels.unique()
    each = max(1, round(portion * len(labels) / len(classes)))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == y][:each] for y in classes])


def effective_rank(features: Tensor) -> Estimate:
    """Return exp of the entropy of the singular values over their sum: (N, D) -> between 1 and min(N, D).

    They are those of the features less their mean, which all examples share and which tells them not apart. Features
    that do not vary beyond the rounding of single precision have 1.
    """
    features = features.double()
    x = features - features.mean(0)
    squares = torch.linalg.eigvalsh(x @ x.T if len(x) < x.shape[1] else x.T @ x)  # right down to 1e-8 of the largest
    values = squares.clamp_min(0).sqrt()
    values = values.where(values > 1e-6 * features.norm(), 0.0)
    p = values / values.sum().clamp_min(1e-300)
    return float((-torch.special.xlogy(p, p).sum()).exp()), None, None


def feature_std(features: Tensor) -> Estimate:
    """Return the standard deviation over examples, the mean over dimensions: (N, D) -> a number, 0 after collapse."""
    return float(features.double().std(0).mean()), None, None


def mean_of(values: Sequence[Estimate]) -> Estimate:
    """Return the mean of several runs with its standard error over them."""
    numbers = torch.tensor([v for v, _, _ in values], dtype=torch.float64)
    error = float(numbers.std()) / math.sqrt(len(numbers)) if len(numbers) > 1 else None
    return float(numbers.mean()), error, None
