"""Energies in the plane, and chains on their way: where a model puts its probability, and whether chains get there.

References:
    E. Nijkamp, M. Hill, S.-C. Zhu, Y. N. Wu, Learning Non-Convergent Non-Persistent Short-Run MCMC Toward Energy-Based
    Model, 2019, arXiv:1904.09770: chains that stop short of the law of their energy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.abilities import HasEnergy, in_batches
from zoo.diagnostics.figures import picture_of, sheet_of

__all__ = ["Chains", "Landscape", "chains", "landscape", "plot_chains", "plot_landscape"]

_CHAINS, _FRAMES, _SHOWN = 200, 10, 8
_DEPTH = 12.0
"""Nats above the lowest energy that a landscape is coloured up to."""


@dataclass(frozen=True)
class Landscape:
    """E / T over a square of the plane, the examples that lie there, and samples.

    Attributes:
        axis: places along each side, (R,).
        height: E / T at (row y, column x), (R, R), nats.
        x: examples, (N, 2).
        samples: of the model, (n, 2), or none.
    """

    axis: Tensor
    height: Tensor
    x: Tensor
    samples: Tensor | None = None

    @property
    def log_normaliser(self) -> float:
        """log of the integral of exp(-E / T) over the square, by the rule of rectangles."""
        cell = 2 * math.log(float(self.axis[1] - self.axis[0]))
        return float(torch.logsumexp(-self.height.flatten(), 0)) + cell

    def density(self) -> Tensor:
        """Probability of each cell given the square, (R, R)."""
        return torch.softmax(-self.height.flatten(), 0).reshape(self.height.shape)

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain data: the normaliser, and moments of the energy's law beside the data's."""
        p = self.density()
        mean = [float((p.sum(i) * self.axis).sum()) for i in (0, 1)]
        spread = [float((p.sum(i) * self.axis.square()).sum()) - m * m for i, m in zip((0, 1), mean, strict=True)]
        return {
            "log_normaliser": self.log_normaliser, "from": float(self.axis[0]), "to": float(self.axis[-1]),
            "mean": mean, "variance": spread, "data_mean": self.x.double().mean(0).tolist(),
            "data_variance": self.x.double().var(0).tolist(),
        }  # fmt: skip


def landscape(model: HasEnergy, x: Tensor, resolution: int = 201, seed: int = 0) -> Landscape:
    """Return E / T over the square that holds examples (N, 2) and half as much room again, with as many samples.

    Args:
        model: with an energy of points in the plane.
        x: examples.
        resolution: points a side.
        seed: of the samples, 500 at most.
    """
    reach = 1.5 * float(x.abs().max())
    axis = torch.linspace(-reach, reach, resolution, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).flip(1).to(x.dtype)  # rows of one y
    E = in_batches(model, model.energy, grid).double() / model.temperature
    drawn = model.sample(min(500, len(x)), seed=seed).cpu() if model.generates else None
    return Landscape(axis, E.reshape(resolution, resolution), x, drawn)


def plot_landscape(found: Landscape) -> np.ndarray:
    """Draw E / T less its lowest value beside the examples, the probability that follows, and samples."""
    from matplotlib.figure import Figure

    low, high = float(found.axis[0]), float(found.axis[-1])
    panels = [("E / T less its least, nats", (found.height - found.height.min()).clamp(max=_DEPTH), "viridis_r")]
    panels += [("probability, and test examples", found.density(), "Greys")]
    panels += [("probability, and samples", found.density(), "Greys")] if found.samples is not None else []
    points = [None, found.x[:500], found.samples]
    figure = Figure(figsize=(3.4 * len(panels), 3.3), layout="constrained")
    for axes, (title, values, colours), shown in zip(figure.subplots(1, len(panels)), panels, points, strict=False):
        image = axes.imshow(values.numpy(), origin="lower", extent=(low, high, low, high), cmap=colours)
        if shown is None:
            figure.colorbar(image, ax=axes, shrink=0.8)
        else:
            axes.scatter(*shown.T.numpy(), s=2, color="tab:red", linewidths=0)
        axes.set_title(title, fontsize=9)
        axes.set(xlim=(low, high), ylim=(low, high))
        axes.tick_params(labelsize=7)
    return picture_of(figure)


@dataclass(frozen=True)
class Chains:
    """Chains of the model's sampler at a few of their steps.

    Attributes:
        steps: how many each frame is after, (F,).
        states: in data range, (F, n, *shape).
        energy: of the states, (F, n), nats up to a constant.
        test: energies of test examples, (N,).
    """

    steps: Tensor
    states: Tensor
    energy: Tensor
    test: Tensor

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain data; ``gap`` is the last mean less the examples', in their deviations."""
        return {
            "steps": self.steps.tolist(), "energy": self.energy.mean(1).tolist(),
            "deviation": self.energy.std(1).tolist(), "test_energy": float(self.test.mean()),
            "gap": float((self.energy[-1].mean() - self.test.mean()) / self.test.std()), "chains": self.energy.shape[1],
        }  # fmt: skip


def chains(model: Any, x: Tensor, labels: Tensor | None = None, seed: int = 0) -> Chains:
    """Return chains of a model with an energy that `zoo.abilities.RunsChains`, beside test examples (N, *shape)."""
    n = min(_CHAINS if len(model.shape) == 1 else 4 * _SHOWN, len(x))
    condition = labels[:n] if labels is not None and model.num_classes else None
    states, steps = model.chains(n, _FRAMES, seed=seed, labels=condition)
    energy = torch.stack([in_batches(model, model.energy, state, condition) for state in states]).double()
    return Chains(steps.cpu(), states.cpu(), energy, in_batches(model, model.energy, x, labels).double())


def plot_chains(found: Chains) -> np.ndarray:
    """Draw the energies of chains over their steps beside those of test examples; under it the states."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    low, middle, high = found.energy.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), 1)
    axes.fill_between(found.steps, low, high, alpha=0.3, label="chains, 10 % to 90 %")
    axes.plot(found.steps, middle, marker="o", markersize=3)
    least, most = found.test.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
    axes.axhspan(least, most, color="tab:orange", alpha=0.3, label="test examples, 10 % to 90 %")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel("step of the chain", fontsize=8)
    axes.set_ylabel("energy in nats, up to a constant", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8)
    curve = picture_of(figure)
    below = _states(found, curve.shape[1])
    return curve if below is None else _under(curve, below)


def _states(found: Chains, width: int) -> np.ndarray | None:
    """Return images with one row a chain, or points with one panel a step; nothing of other shapes."""
    if found.states.ndim == 5:
        rows = found.states[:, :_SHOWN].transpose(0, 1).flatten(0, 1)
        return sheet_of(rows.clamp(0, 1), columns=len(found.steps), width=width)
    if found.states.shape[2:] != (2,):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.1), layout="constrained")
    reach = 1.1 * float(found.states.abs().max())
    panels = zip(figure.subplots(1, len(found.steps)), found.states, found.steps.tolist(), strict=True)
    for axes, state, step in panels:
        axes.scatter(*state.T.numpy(), s=1, linewidths=0)
        axes.set_title(f"{step}", fontsize=7)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect=1)
    return picture_of(figure)


def _under(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Put one picture under another on white, uint8 (height, width, 3)."""
    whole = np.full((len(above) + len(below), max(above.shape[1], below.shape[1]), 3), 255, dtype=np.uint8)
    whole[: len(above), : above.shape[1]] = above
    whole[len(above) :, : below.shape[1]] = below
    return whole
