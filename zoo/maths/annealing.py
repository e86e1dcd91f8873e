"""Weights that grow from 0 to 1 in the course of training: pure functions of the step.

With t the number of completed steps and T the length of the schedule, every weight lies between 0 and 1 and is, for
good or in the limit, 1 after T.

References:
    S. R. Bowman and others, Generating Sentences from a Continuous Space, 2015, arXiv:1511.06349: KL annealing, linear
    and sigmoid.
    H. Fu and others, Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing, 2019,
    arXiv:1903.10145.
"""

from __future__ import annotations

import math

from zoo.errors import ConfigError, check_choice

__all__ = ["SCHEDULES", "annealed", "check_schedule", "cosine", "cyclical", "linear", "sigmoid"]

SCHEDULES = ("constant", "linear", "sigmoid", "cyclical")


def linear(step: int, steps: int) -> float:
    """Return min(1, t / T)."""
    return min(1.0, step / steps)


def cosine(step: int, steps: int) -> float:
    """Return (1 - cos(pi min(1, t / T))) / 2."""
    return (1 - math.cos(math.pi * min(1.0, step / steps))) / 2


def sigmoid(step: int, steps: int, steepness: float = 10.0) -> float:
    """Return 1 / (1 + exp(-k (t / T - 1/2))), k the steepness: 1/2 at T / 2, 0.007 at 0 and 0.993 at T for k = 10."""
    return 1 / (1 + math.exp(-steepness * (step / steps - 0.5)))


def cyclical(step: int, steps: int, cycles: int = 4, ramp: float = 0.5) -> float:
    """Return min(1, tau / R) with tau = (t mod (T / M)) / (T / M), the part of its cycle that is done; 1 from T on.

    Args:
        step: t.
        steps: T.
        cycles: M.
        ramp: R, the share of each cycle in which the weight grows linearly; it is 1 in the rest of the cycle.
    """
    if step >= steps:
        return 1.0
    tau = (step * cycles % steps) / steps
    return min(1.0, tau / ramp)


def annealed(step: int, schedule: str, steps: int, cycles: int = 4) -> float:
    """Return the weight of a schedule by name: ``constant`` (always 1), ``linear``, ``sigmoid`` or ``cyclical``."""
    if schedule == "constant":
        return 1.0
    if schedule == "cyclical":
        return cyclical(step, steps, cycles)
    return linear(step, steps) if schedule == "linear" else sigmoid(step, steps)


def check_schedule(schedule: str, steps: int, cycles: int = 4) -> None:
    """Raise `ConfigError` for an unknown schedule, or a length or number of cycles that makes none."""
    check_choice("schedule", schedule, SCHEDULES)
    if schedule != "constant" and steps < 1:
        raise ConfigError(f"a {schedule} schedule needs the number of steps it takes, at least 1, got {steps}")
    if cycles < 1:
        raise ConfigError(f"a cyclical schedule needs at least 1 cycle, got {cycles}")
