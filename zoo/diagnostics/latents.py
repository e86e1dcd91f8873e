"""Where the examples lie in latent space, and what lies between them.

References:
    T. White, Sampling Generative Networks, 2016, arXiv:1609.04468: attribute vectors.
    D. P. Kingma and others, Semi-supervised Learning with Deep Generative Models, 2014, arXiv:1406.5298: analogies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.abilities import Encodes, Interpolates, decode, latents
from zoo.diagnostics.figures import picture_of
from zoo.errors import ConfigError

__all__ = [
    "Arithmetic",
    "Scatter",
    "analogies",
    "attribute_arithmetic",
    "closest_classes",
    "interpolation",
    "latent_scatter",
    "plot_scatter",
    "scatter_of",
]


@dataclass(frozen=True)
class Scatter:
    """Latents in the plane.

    Attributes:
        points: float64 (N, 2): the latents themselves where these have two dimensions, else their two first principal
            components.
        labels: (N,), or none.
        explained: share of the variance of the latents along both axes.
        class_share: share of the variance of the latents, in all dimensions, that lies between classes; None without
            labels.
    """

    points: Tensor
    labels: Tensor | None
    explained: tuple[float, float]
    class_share: float | None

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        return {
            "explained_variance": list(self.explained),
            "variance_between_classes": self.class_share,
            "examples": len(self.points),
        }


def latent_scatter(model: Encodes, x: Tensor, labels: Tensor | None = None) -> Scatter:
    """Project the latents of examples (N, *shape), with labels (N,), texts (N, T) or none, to the plane."""
    return scatter_of(latents(model, x, labels).flatten(1).double(), labels)


def scatter_of(z: Tensor, labels: Tensor | None = None) -> Scatter:
    """Project vectors (N, D), with labels (N,), texts (N, T) or none, to the plane; each text is a class of its own."""
    if labels is not None and labels.ndim > 1:
        labels = labels.unique(dim=0, return_inverse=True)[1]
    centred = z - z.mean(0)
    total = float(centred.square().sum()) or 1.0
    points = z if z.shape[1] <= 2 else centred @ _components(centred)
    first, *second = ((points - points.mean(0)).square().sum(0) / total).tolist()
    if not second:  # latents of one dimension
        points, second = torch.cat([points, torch.zeros_like(points)], 1), [0.0]
    between = None
    if labels is not None:
        groups = [centred[labels == y] for y in labels.unique()]
        between = float(sum(len(g) * g.mean(0).square().sum() for g in groups) / total)
    return Scatter(points, labels, (first, second[0]), between)


def _components(centred: Tensor) -> Tensor:
    """Return the two first principal directions of (N, D), as columns (D, 2), with signs that repeat."""
    if centred.shape[1] <= 512:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        found = vectors[:, values.argsort(descending=True)[:2]]
    else:  # by random projections, with iterations enough for many digits
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = torch.svd_lowrank(centred, q=8, niter=16)[2][:, :2]
    return found * found.gather(0, found.abs().argmax(0)[None]).sign()


def plot_scatter(report: Scatter) -> np.ndarray:
    """Plot the points, coloured by label, uint8 (height, width, 3)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    colours: Any = report.labels.numpy() if report.labels is not None else "#1f77b4"
    dots = axes.scatter(*report.points.T.numpy(), c=colours, cmap="tab10", s=4, alpha=0.6, linewidths=0)
    if report.labels is not None:
        axes.legend(
            *dots.legend_elements(num=None), fontsize=8, title="label", loc="center left", bbox_to_anchor=(1, 0.5)
        )
    first, second = (100 * share for share in report.explained)
    axes.set_xlabel(f"first axis, {first:.0f} % of the variance", fontsize=8)
    axes.set_ylabel(f"second axis, {second:.0f} % of the variance", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    return picture_of(figure)


def interpolation(model: Encodes, ends: Tensor, steps: int = 11, labels: Tensor | None = None) -> Tensor:
    """Decode the line between the latents of two examples: a straight one, or what the model's ``between`` draws.

    Args:
        model: that encodes and decodes.
        ends: the two, (2, *shape) in data range.
        steps: points on the line, both ends included, at least 2.
        labels: (2,), for a conditional model; each point takes that of the nearer end.

    Returns:
        Decoded points, (steps, *shape) in data range.
    """
    if steps < 2 or len(ends) != 2:
        raise ConfigError(f"an interpolation has two ends and at least 2 steps, got {len(ends)} and {steps}")
    a, b = latents(model, ends, labels)
    t = torch.linspace(0, 1, steps, dtype=a.dtype)
    between = model.between if isinstance(model, Interpolates) else torch.lerp
    z = torch.cat([between(a[None], b[None], s) for s in t])
    return decode(model, z, labels[(t > 0.5).long()] if labels is not None else None)


@dataclass(frozen=True)
class Arithmetic:
    """Examples moved along an attribute vector.

    Attributes:
        images: decoded, (count, steps, *shape): the step is the share of the vector that was added.
        shares: those shares, (steps,).
        vector: mean latent of the one set minus that of the other, (...).
    """

    images: Tensor
    shares: Tensor
    vector: Tensor


def attribute_arithmetic(
    model: Encodes,
    x: Tensor,
    labels: Tensor,
    without: Sequence[int],
    having: Sequence[int],
    *,
    count: int = 6,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
) -> Arithmetic:
    """Add to latents of examples without an attribute the difference of the means, those having it minus those without.

    Args:
        model: that encodes and decodes.
        x: examples in data range, (N, *shape).
        labels: (N,).
        without: labels of the examples that lack the attribute; the first ``count`` of them are moved.
        having: labels of the examples that have it.
        count: examples to move.
        shares: of the vector that are added.

    Raises:
        ConfigError: a set that is empty among the examples, or sets that overlap.
    """
    if set(without) & set(having):
        raise ConfigError(f"the two sets of labels overlap: {sorted(set(without) & set(having))}")
    masks = [torch.isin(labels, torch.tensor(list(group), dtype=labels.dtype)) for group in (without, having)]
    if not all(bool(mask.any()) for mask in masks):
        raise ConfigError(
            f"there are no examples with the labels {list(without) if not masks[0].any() else list(having)}"
        )
    z, target = (latents(model, x[mask], labels[mask]) for mask in masks)
    vector = target.mean(0) - z.mean(0)
    z, y, t = z[:count], labels[masks[0]][:count], torch.tensor(list(shares), dtype=z.dtype)
    moved = z[:, None] + t.view(1, -1, *[1] * vector.ndim) * vector  # (count, steps, ...)
    images = decode(model, moved.flatten(0, 1), y.repeat_interleave(len(t)))
    return Arithmetic(images.unflatten(0, (len(z), len(t))), t, vector)


def closest_classes(model: Encodes, x: Tensor, labels: Tensor) -> tuple[int, int]:
    """Return the two labels whose examples have the closest mean latents."""
    z = latents(model, x, labels).flatten(1).double()
    present = labels.unique()
    if len(present) < 2:
        raise ConfigError("attribute arithmetic needs examples with at least two labels")
    means = torch.stack([z[labels == y].mean(0) for y in present])
    distances = torch.cdist(means, means).fill_diagonal_(torch.inf)
    i, j = divmod(int(distances.argmin()), len(present))
    return int(present[i]), int(present[j])


def analogies(model: Encodes, x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Decode the latent of each example under every class, by a conditional model: (N, *shape) -> (N, K, *shape)."""
    z = latents(model, x, labels)
    images = decode(model, z.repeat_interleave(classes, 0), torch.arange(classes).repeat(len(z)))
    return images.unflatten(0, (len(z), classes))
