"""Scheduled sampling: how often a sequence model is shown the true previous value while it trains.

    linear               eps_i = max(0, 1 - i / k)
    exponential          eps_i = k^i,                     0 < k < 1
    inverse_sigmoid      eps_i = k / (k + exp(i / k)),    k >= 1

References:
    S. Bengio, O. Vinyals, N. Jaitly, N. Shazeer, Scheduled Sampling for Sequence Prediction with Recurrent Neural
    Networks, 2015, arXiv:1506.03099.
    T. Mihaylova, A. F. T. Martins, Scheduled Sampling for Transformers, 2019, arXiv:1906.07651 (in two passes).
"""

from __future__ import annotations

import math

from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["SCHEDULES", "mix", "teacher_probability"]

SCHEDULES = ("linear", "exponential", "inverse_sigmoid")


def teacher_probability(schedule: str | None, k: float, step: int) -> float:
    """Return eps_i, the probability that a value shown at training step i is the true one; 1 without a schedule.

    Args:
        schedule: one of `SCHEDULES`, or None for teacher forcing throughout.
        k: constant of the schedule.
        step: i >= 0.

    Raises:
        ConfigError: an unknown schedule, or a k outside its range.
    """
    if schedule is None:
        return 1.0
    if schedule not in SCHEDULES:
        raise ConfigError(f"scheduled must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if schedule == "exponential" and not 0 < k < 1:
        raise ConfigError(f"the exponential schedule needs 0 < scheduled_k < 1, got {k}")
    if schedule != "exponential" and k < 1:
        raise ConfigError(f"the {schedule} schedule needs scheduled_k >= 1, got {k}")
    if schedule == "linear":
        return max(0.0, 1.0 - step / k)
    if schedule == "exponential":
        return k**step
    return k / (k + math.exp(min(step / k, 700.0)))


def mix(true: Tensor, drawn: Tensor, u: Tensor, eps: float) -> Tensor:
    """Return the true value where u < eps and the model's own elsewhere, all of one shape; u is uniform in [0, 1)."""
    return true.where(u < eps, drawn)
