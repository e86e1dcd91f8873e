"""Has the posterior collapsed? KL and activity of each latent dimension.

References:
    Y. Burda, R. Grosse, R. Salakhutdinov, Importance Weighted Autoencoders, 2015, arXiv:1509.00519, section 5.2:
    a unit u is active where Var_x(E_q[z_u given x]) > 0.01.
    S. R. Bowman and others, Generating Sentences from a Continuous Space, 2015, arXiv:1511.06349: the collapse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from zoo.abilities import HasPosterior, in_batches
from zoo.diagnostics.figures import picture_of
from zoo.maths.distributions import gaussian_kl

__all__ = ["THRESHOLD", "Collapse", "plot_collapse", "posterior_collapse"]

THRESHOLD = 0.01
"""Variance of the posterior mean over the data above which a unit counts as active."""


@dataclass(frozen=True)
class Collapse:
    """How much each latent dimension says about the data.

    Attributes:
        kl: KL(q(z_u | x) || p(z_u)) averaged over the examples, in nats, (latent_dim,).
        variance: Var_x(E_q[z_u | x]) over the examples, (latent_dim,).
        examples: how many.
    """

    kl: Tensor
    variance: Tensor
    examples: int

    @property
    def active(self) -> Tensor:
        """Which dimensions are active, bool (latent_dim,)."""
        return self.variance > THRESHOLD

    @property
    def active_units(self) -> int:
        """Number of active dimensions; 0 is a collapsed posterior."""
        return int(self.active.sum())

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        return {
            "active_units": self.active_units,
            "latent_dim": len(self.kl),
            "kl_nats": float(self.kl.sum()),
            "kl_nats_per_dimension": self.kl.tolist(),
            "variance_of_mean_per_dimension": self.variance.tolist(),
            "threshold": THRESHOLD,
            "examples": self.examples,
        }


def posterior_collapse(model: HasPosterior, x: Tensor, labels: Tensor | None = None) -> Collapse:
    """Measure KL and activity of every latent dimension.

    Args:
        model: with a Gaussian posterior.
        x: examples in data range, (N, *shape), at least 2.
        labels: (N,), for a conditional model.
    """
    mean, log_var = (t.double() for t in in_batches(model, model.posterior, x, labels))
    return Collapse(gaussian_kl(mean, log_var).mean(0), mean.var(0), len(x))


def plot_collapse(report: Collapse) -> np.ndarray:
    """Plot KL and variance of the mean of each dimension, most informative first, uint8 (height, width, 3)."""
    from matplotlib.figure import Figure

    order = report.kl.argsort(descending=True)
    colours = ["#1f77b4" if a else "#c8c8c8" for a in report.active[order].tolist()]
    place = np.arange(len(order))
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(place, report.kl[order].numpy(), color=colours)
    left.set_ylabel("KL, nats")
    left.set_title(f"KL of each latent dimension, {float(report.kl.sum()):.1f} nats in all", fontsize=9)
    right.bar(place, report.variance[order].clamp(min=1e-6).numpy(), color=colours)
    right.set_yscale("log")
    right.axhline(THRESHOLD, color="#d62728", linewidth=1)
    right.set_ylabel("variance of the mean")
    right.set_title(f"{report.active_units} of {len(order)} units active (above {THRESHOLD})", fontsize=9)
    for axes in (left, right):
        axes.set_xlabel("latent dimension, sorted by KL", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xlim(-1, len(order))
    return picture_of(figure)
