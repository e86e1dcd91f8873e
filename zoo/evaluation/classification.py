"""How right a generative model is about the classes that it tells of examples by itself."""

from __future__ import annotations

from typing import Any

import torch

from zoo.abilities import Classifies, in_batches
from zoo.errors import ResultError
from zoo.metrics.distribution import Estimate
from zoo.results import Metric

__all__ = ["class_metrics", "tells_classes"]


def tells_classes(model: Any, data: Any) -> bool:
    """Tell whether the model says which of the data's classes an example belongs to."""
    return isinstance(model, Classifies) and model.num_classes > 1 and model.num_classes == data.num_classes


def class_metrics(model: Any, data: Any, split: str, examples: int) -> dict[str, Metric]:
    """Return ``class_accuracy``, the share of the first ``examples`` of a split whose likeliest class is their own.

    Raises:
        ResultError: probabilities that are NaN or infinite.
    """
    stored, labels = data.split(split)
    p = in_batches(model, model.classify, data.to_float(stored[:examples], model.dtype))
    if not bool(p.isfinite().all()):
        raise ResultError("probabilities of classes are NaN or infinite; look into the model")
    return {"class_accuracy": Metric(*_share((p.argmax(1) == labels[:examples]).double()))}


def _share(hits: torch.Tensor) -> Estimate:
    return float(hits.mean()), float(hits.std() / len(hits) ** 0.5) if len(hits) > 1 else None, None
