"""What an energy says of test examples, of uniform noise, and of the model's own samples.

References:
    Y. Du, I. Mordatch, Implicit Generation and Generalization in Energy-Based Models, 2019, arXiv:1903.08689: an
    energy as a detector of other data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.abilities import HasEnergy, in_batches, takes_labels
from zoo.diagnostics.figures import picture_of
from zoo.metrics.energies import auroc, energy_gap, uniform_noise

__all__ = ["Energies", "energies", "plot_energies"]

_SAMPLES = 64


@dataclass(frozen=True)
class Energies:
    """Energies in nats up to one constant: of test examples and of noise (N,), of samples (n,) or none."""

    test: Tensor
    noise: Tensor
    samples: Tensor | None = None

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        groups = {"test": self.test, "noise": self.noise, "samples": self.samples}
        found: dict[str, Any] = {f"{name}_energy": float(e.mean()) for name, e in groups.items() if e is not None}
        found |= {"test_deviation": float(self.test.std()), "auroc_noise": auroc(self.test, self.noise)[0]}
        if self.samples is not None:
            found["energy_gap"] = energy_gap(self.test, self.samples)[0]
        return {**found, "examples": len(self.test)}


def energies(model: HasEnergy, x: Tensor, labels: Tensor | None = None, seed: int = 0) -> Energies:
    """Return energies of examples (N, *shape) in data range, of as much noise, and of a few samples.

    The noise is that of `zoo.metrics.energies.uniform_noise`. A conditional model is told the labels of the examples,
    (N,) or (N, T), in all three.
    """
    noise = uniform_noise(x, seed)
    samples = None
    if model.generates:
        n = min(_SAMPLES, len(x))
        condition = labels[:n] if labels is not None and takes_labels(model, model.energy) else None
        drawn = model.sample(n, seed=seed, labels=condition)
        samples = in_batches(model, model.energy, drawn, condition).double()
    return Energies(
        in_batches(model, model.energy, x, labels).double(), in_batches(model, model.energy, noise, labels).double(),
        samples,
    )  # fmt: skip


def plot_energies(found: Energies) -> np.ndarray:
    """Draw the histograms of the energies over one another, uint8 (height, width, 3)."""
    from matplotlib.figure import Figure

    groups = [("test examples", found.test), ("uniform noise", found.noise)]
    groups += [("samples", found.samples)] if found.samples is not None else []
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    every = torch.cat([e for _, e in groups])
    bins = np.linspace(float(every.min()), float(every.max()) + 1e-9, 80)
    for name, energy in groups:
        axes.hist(energy.numpy(), bins=bins, density=True, histtype="step", label=name)
    axes.set_xlabel("energy in nats, up to a constant", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8)
    return picture_of(figure)
