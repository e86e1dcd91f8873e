"""Distances between two sets of features, and what a classifier says about one: tensors -> numbers.

The estimators are torch-fidelity's; here is their protocol, and the refusal of what they would answer without sense.
Everywhere the first set is generated and the second is real.

References:
    M. Heusel and others, GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (FID),
    2017, arXiv:1706.08500.
    M. Binkowski and others, Demystifying MMD GANs (KID), 2018, arXiv:1801.01401.
    T. Salimans and others, Improved Techniques for Training GANs (inception score), 2016, arXiv:1606.03498.
    T. Kynkaanniemi and others, Improved Precision and Recall Metric for Assessing Generative Models, 2019,
    arXiv:1904.06991.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.errors import ResultError

__all__ = [
    "ESTIMATORS",
    "Estimate",
    "accuracy",
    "check_pair",
    "class_shares",
    "frechet",
    "inception_score",
    "kernel",
    "kernel_of_all_pairs",
    "packed",
    "precision_recall",
    "unpacked",
]

ESTIMATORS = {"kid_subsets": 100, "kid_subset_size": 1000, "is_splits": 10, "prc_neighbours": 3}
"""Constants of the estimators, part of every protocol; subsets are smaller only where there are fewer samples."""

_SEED = 2020
_ROWS = 2_500  # distances of so many samples at a time: 10,000 x 2,500 float32 are 100 MB

Estimate = tuple[float, float | None, float | None]
"""Value, standard error and spread over overlapping subsets, None where it is not known."""


def packed(estimate: Estimate) -> Tensor:
    """Return an estimate as three numbers, float64 (3,), NaN where there is none: the form in which it is cached."""
    return torch.tensor([math.nan if value is None else value for value in estimate], dtype=torch.float64)


def unpacked(numbers: Tensor) -> Estimate:
    """Return the estimate that `packed` made these numbers of."""
    value, error, spread = (None if math.isnan(v) else v for v in numbers.tolist())
    return value, error, spread  # type: ignore[return-value]


def frechet(generated: Tensor, real: Tensor) -> Estimate:
    """Return FID, |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), of features (N, D) and (M, D).

    Raises:
        ResultError: fewer samples than features, for which the covariance is singular and the number means nothing.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    check_pair(generated, real, covariance=True)
    first, second = (fid_features_to_statistics(f.double()) for f in (generated, real))
    return fid_statistics_to_metric(first, second, False)["frechet_inception_distance"], None, None


def kernel(generated: Tensor, real: Tensor, *, subsets: int | None = None, size: int | None = None) -> Estimate:
    """Return KID, the unbiased squared MMD with kernel (x.y / D + 1)^3, as the mean over subsets; may fall below 0.

    Args:
        generated: features (N, D).
        real: features (M, D).
        subsets: how many, by default 100.
        size: of each, by default 1,000 or all samples if these are fewer.
    """
    from torch_fidelity.metric_kid import kid_features_to_metric

    check_pair(generated, real)
    size = size or min(ESTIMATORS["kid_subset_size"], len(generated), len(real))
    found = kid_features_to_metric(
        generated.double(), real.double(), verbose=False, rng_seed=_SEED,
        kid_subsets=subsets or ESTIMATORS["kid_subsets"], kid_subset_size=size,
    )  # fmt: skip
    return found["kernel_inception_distance_mean"], None, found["kernel_inception_distance_std"]


def kernel_of_all_pairs(generated: Tensor, real: Tensor) -> Estimate:
    """Return KID over all pairs of features (N, D) and (M, D), unbiased, and its standard error; for small sets.

        sum_{i != j} k(x_i, x_j) / N(N - 1) + sum_{i != j} k(y_i, y_j) / M(M - 1) - 2 sum_{i, j} k(x_i, y_j) / N M

    The error is the jackknife's, over both sets: how far the value would move with other samples and other real images.

    References:
        A. Gretton and others, A Kernel Two-Sample Test, 2012, JMLR 13, lemma 6: the estimator.
        B. Efron, C. Stein, The Jackknife Estimate of Variance, 1981, The Annals of Statistics 9: the error.
    """
    check_pair(generated, real, pairs=True)
    x, y = generated.double(), real.double()
    N, M = len(x), len(y)
    (xx, dx), (yy, dy), (xy, _), (yx, _) = (_kernel_sums(a, b) for a, b in ((x, x), (y, y), (x, y), (y, x)))
    xx, yy = xx - dx, yy - dy  # a pair has two members
    within_x, within_y, between = xx.sum() / (N * (N - 1)), yy.sum() / (M * (M - 1)), 2 * xy.sum() / (N * M)
    value = float(within_x + within_y - between)
    if min(N, M) < 3:
        return value, None, None
    without_x = (xx.sum() - 2 * xx) / ((N - 1) * (N - 2)) + within_y - 2 * (xy.sum() - xy) / ((N - 1) * M)  # (N,)
    without_y = within_x + (yy.sum() - 2 * yy) / ((M - 1) * (M - 2)) - 2 * (yx.sum() - yx) / (N * (M - 1))  # (M,)
    variance = sum((len(v) - 1) * v.var(unbiased=False) for v in (without_x, without_y))
    return value, math.sqrt(float(variance)), None


def _kernel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum_j k(a_i, b_j) for each i, (N,), and k(a_i, a_i), (N,)."""
    D = a.shape[1]
    sums = torch.cat([((rows @ b.T) / D + 1).pow(3).sum(1) for rows in a.split(_ROWS)])
    return sums, ((a * a).sum(1) / D + 1).pow(3)


def precision_recall(generated: Tensor, real: Tensor) -> tuple[Estimate, Estimate]:
    """Return the share of generated samples within the real set's balls, and of real ones within the generated set's.

    A ball reaches to the third nearest neighbour. Features are (N, D) and (M, D).
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    check_pair(generated, real)
    found = prc_features_to_metric(
        generated.float(), real.float(), verbose=False, save_cpu_ram=True, prc_batch_size=_ROWS,
        prc_neighborhood=ESTIMATORS["prc_neighbours"],
    )  # fmt: skip
    return (found["precision"], None, None), (found["recall"], None, None)


def inception_score(logits: Tensor, *, splits: int | None = None) -> Estimate:
    """Return exp of the mean divergence of p(y | x) from p(y), from logits (N, K): between 1 and K, K being best.
    Raises `ResultError` where there are too few.

    The error is that of the mean over the splits, which do not overlap.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric

    splits = splits or ESTIMATORS["is_splits"]
    if len(logits) < splits:
        raise ResultError(f"the inception score over {splits} splits needs as many samples, got {len(logits)}")
    found = isc_features_to_metric(logits, splits, True, _SEED)
    deviation = found["inception_score_std"]  # over n, not n - 1
    return found["inception_score_mean"], deviation / math.sqrt(splits - 1) if splits > 1 else None, None


def class_shares(logits: Tensor, *, confidence: float = 0.9) -> dict[str, Estimate]:
    """Return the share of samples put into some class with more than ``confidence``, and the share of each class.

    Args:
        logits: (N, K).
        confidence: probability of the likeliest class, above which a sample counts.
    """
    p, classes = logits.double().softmax(1).max(1)
    shares = {"confident_share": (p > confidence).double().mean()}
    counts = torch.bincount(classes, minlength=logits.shape[1]).double() / len(logits)
    shares |= {f"digit_share_{i}": share for i, share in enumerate(counts)}
    return {k: (float(v), math.sqrt(float(v * (1 - v)) / len(logits)), None) for k, v in shares.items()}


def accuracy(logits: Tensor, labels: Tensor) -> Estimate:
    """Return the share of samples, logits (N, K), whose likeliest class is the one that was asked for, (N,)."""
    share = float((logits.argmax(1) == labels.to(logits.device)).double().mean())
    return share, math.sqrt(share * (1 - share) / len(labels)), None


def check_pair(generated: Tensor, real: Tensor, *, covariance: bool = False, pairs: bool = False) -> None:
    """Refuse two sets of features that no distance between them means anything for.

    Args:
        generated: features (N, D).
        real: features (M, D).
        covariance: whether the covariance of the real ones must not be singular.
        pairs: whether only pairs are looked at, of which two of each are enough.

    Raises:
        ResultError: matrices of other shapes, too few rows, or numbers that are not finite.
    """
    for what, features in (("generated", generated), ("real", real)):
        if features.ndim != 2 or features.shape[1] != generated.shape[1]:
            raise ResultError(f"features must be two matrices of equal width, got {tuple(features.shape)}")
        if len(features) < (2 if pairs or (features is real and not covariance) else features.shape[1]):
            raise ResultError(
                f"{len(features)} {what} samples are too few for features of {features.shape[1]} dimensions; "
                f"take at least {features.shape[1]}, and 10,000 for numbers that compare"
            )
        if not bool(features.isfinite().all()):
            raise ResultError(f"features of the {what} samples hold NaN or infinity; look into the samples")
