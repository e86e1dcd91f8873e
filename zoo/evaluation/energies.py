"""Energies of test examples, samples and noise: what a model with an energy is measured by besides its samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.abilities import in_batches
from zoo.errors import ResultError
from zoo.metrics.distribution import Estimate
from zoo.metrics.energies import auroc, energy_gap, uniform_noise

__all__ = ["energy_estimates"]


@torch.no_grad()
def energy_estimates(
    model: Any,
    test: tuple[Tensor, Tensor],
    drawn: tuple[Tensor, Tensor | None] | None,
    seed: int,
    other: Tensor | None = None,
) -> dict[str, Estimate]:
    """Return ``energy_gap``, test minus samples in sd of the test energies, ``auroc_noise`` and ``auroc_other``.

    The areas are against uniform noise, and against examples of another data set if there is one.

    Args:
        model: with `zoo.abilities.HasEnergy`, in eval mode.
        test: examples (N, *shape) in data range, with their labels.
        drawn: samples (M, *shape) with the labels that they were drawn for, if the model generates.
        seed: of the noise, see `zoo.metrics.energies.uniform_noise`.
        other: examples of other data, (L, *shape) in data range; a conditional model is told the labels of test
            examples for them, over and over.

    Raises:
        ResultError: energies that are not finite.
    """
    x, labels = test
    own = _finite(in_batches(model, model.energy, x, labels), "test examples")
    found = {
        "auroc_noise": auroc(own, _finite(in_batches(model, model.energy, uniform_noise(x, seed), labels), "noise"))
    }
    if other is not None:
        rows = torch.arange(len(other)) % len(x)
        found["auroc_other"] = auroc(own, _finite(in_batches(model, model.energy, other, labels[rows]), "other data"))
    if drawn is not None:
        samples = in_batches(model, model.energy, drawn[0].to(x.dtype), drawn[1])
        found = {"energy_gap": energy_gap(own, _finite(samples, "samples")), **found}
    return found


def _finite(energy: Tensor, what: str) -> Tensor:
    if not bool(energy.isfinite().all()):
        bad = int((~energy.isfinite()).sum())
        raise ResultError(f"the energy of {bad} of {len(energy)} {what} is NaN or infinite; look into the model")
    return energy
