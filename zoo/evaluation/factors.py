"""Data whose every factor is known, and how far the latents of a model separate these."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from zoo.abilities import HasPosterior, in_batches
from zoo.errors import ResultError
from zoo.metrics.disentanglement import BINS, mutual_information_gap
from zoo.results import Metric

__all__ = ["HasFactors", "factor_metrics", "factor_protocol", "separates"]


@runtime_checkable
class HasFactors(Protocol):
    """Data that know what each example was made from: ``factors`` of a split, int64 (N, K), named ``factor_names``."""

    factor_names: tuple[str, ...]

    def factors(self, split: str) -> Tensor: ...


def separates(model: Any, data: Any) -> bool:
    """Tell whether there is a gap to measure: a Gaussian posterior of two latents at least, and data with factors."""
    return isinstance(model, HasPosterior) and isinstance(data, HasFactors) and math.prod(model.latent_shape or ()) > 1


def factor_protocol(data: HasFactors, examples: int) -> dict[str, Any]:
    """Return what the number depends on."""
    return {"examples": examples, "bins": BINS, "names": list(data.factor_names)}


def factor_metrics(model: Any, data: Any, split: str, examples: int) -> dict[str, Metric]:
    """Return ``mig``, the mutual information gap of the posterior's means of the first ``examples`` of a split.

    Raises:
        ResultError: means that are NaN or infinite.
    """
    x = data.to_float(data.split(split)[0][:examples], model.dtype)
    mean, _ = in_batches(model, model.posterior, x)
    if not bool(mean.isfinite().all()):
        raise ResultError("means of the posterior are NaN or infinite; look into the model")
    return {"mig": Metric(mutual_information_gap(mean.flatten(1), data.factors(split)[:examples]))}
