"""Prediction of clips: how far what a model draws after the first frames is from what came, and from copying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.abilities import is_conditional, takes_option
from zoo.metrics.distribution import Estimate
from zoo.results import Metric

__all__ = ["PREDICTED", "prediction_metrics", "predicts"]

PREDICTED = 200
"""Clips that are continued, the first ones of the split."""

_AT_ONCE = 50


def predicts(model: Any) -> bool:
    """Tell whether a model continues clips."""
    return model.generates and len(model.shape) == 4 and model.shape[1] > 1 and takes_option(model, "given")


def frames_given(model: Any) -> int:
    """Return how many frames a clip is continued from: half of them, and the middle one."""
    return (model.shape[1] + 1) // 2


@torch.no_grad()
def prediction_metrics(
    model: Any, examples: Callable[[int, int], tuple[Tensor, Tensor]], count: int, seed: int
) -> dict[str, Metric]:
    """Return ``prediction_error`` and ``prediction_error_copy``, mean squared errors a pixel of the later half.

    The model is given `frames_given`, and its continuation is compared with what came; the other number is that of the
    last given frame, again and again.

    Args:
        model: that takes ``given``, in eval mode.
        examples: (start, stop) -> clips (B, C, T, H, W) in the model's range, and labels.
        count: how many clips.
        seed: of the noise; it grows from batch to batch.
    """
    k = frames_given(model)
    errors: dict[str, list[Tensor]] = {"prediction_error": [], "prediction_error_copy": []}
    for start in range(0, count, _AT_ONCE):
        x, labels = examples(start, min(start + _AT_ONCE, count))
        condition = {"labels": labels.to(model.device)} if is_conditional(model) else {}
        given = x.to(model.device)
        drawn = model.sample(len(x), seed=seed + start, given=given, known=k, **condition).cpu()
        copied = x[:, :, k - 1 : k].expand_as(x[:, :, k:])
        for name, guess in zip(errors, (drawn[:, :, k:], copied), strict=True):
            errors[name].append((guess.double() - x[:, :, k:].double()).square().flatten(1).mean(1))
    return {name: Metric(*_mean(torch.cat(parts))) for name, parts in errors.items()}


def _mean(values: Tensor) -> Estimate:
    return float(values.mean()), float(values.std() / len(values) ** 0.5) if len(values) > 1 else None, None
