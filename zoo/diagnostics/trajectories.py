"""The way from noise to data, and the way back: curves of a flow, and what is left of an example after both ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.abilities import Inverts, Travels, in_batches
from zoo.diagnostics.figures import picture_of, sheet_of

__all__ = ["Inversion", "inversion", "plot_inversion", "plot_trajectories"]


@dataclass(frozen=True)
class Inversion:
    """Examples, their latents, and what these decode to.

    Attributes:
        x: examples in data range, (N, *shape).
        z: latents, (N, ...).
        again: decoded, (N, *shape).
    """

    x: Tensor
    z: Tensor
    again: Tensor

    @property
    def difference(self) -> Tensor:
        """Absolute difference, (N, *shape)."""
        return (self.again - self.x).abs()

    def summary(self) -> dict[str, float | int]:
        """Return how far examples come back from where they were, and the moments of the latents as numbers."""
        z = self.z.double()
        return {
            "examples": len(self.x), "largest_difference": float(self.difference.max()),
            "mean_difference": float(self.difference.double().mean()),
            "latent_mean": float(z.mean()), "latent_deviation": float(z.std()),
        }  # fmt: skip


def inversion(model: Inverts, x: Tensor, labels: Tensor | None = None) -> Inversion:
    """Encode examples and decode them again: (N, *shape) in data range; labels for conditional models."""
    z = in_batches(model, model.encode, x, labels)
    return Inversion(x, z, in_batches(model, model.decode, z, labels))


def plot_inversion(found: Inversion, columns: int = 12) -> np.ndarray:
    """Draw rows of images, their latents where these have the same shape, the images decoded, and the difference.

    The difference is enlarged so that the largest one is white.
    """
    shown = slice(0, columns)
    x, z, gap = found.x[shown], found.z[shown], found.difference[shown]
    latents = [(0.5 + z / 6).clamp(0, 1)] if z.shape == x.shape else []
    rows = [x, *latents, found.again[shown].clamp(0, 1), gap / gap.max().clamp(min=1e-12)]
    return sheet_of(torch.cat([row.to(x) for row in rows]), columns=len(x))


def plot_trajectories(states: Tensor, times: Tensor) -> np.ndarray:
    """Draw states (T, N, *shape): images with one row an example, points with one panel a time and their curves."""
    if states.ndim == 5:
        return sheet_of(states.transpose(0, 1).flatten(0, 1).clamp(0, 1), columns=len(states))
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * len(states), 2.2), dpi=100, layout="constrained")
    reach = 1.1 * float(states.abs().max())
    for i, (axes, t) in enumerate(zip(figure.subplots(1, len(states)), times.tolist(), strict=True)):
        axes.plot(*states[: i + 1, :50].permute(2, 0, 1), color="0.8", linewidth=0.5)
        axes.scatter(*states[i].T, s=1)
        axes.set(title=f"t = {t:.2f}", xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect=1)
    return picture_of(figure)


def travel(model: Travels, n: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return states from noise to data and their times, on the CPU: (frames, n, *shape), (frames,)."""
    states, times = model.trajectory(n, seed=seed, frames=frames)
    return states.cpu(), times.cpu()
