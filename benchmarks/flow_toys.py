"""Normalising flows on points in the plane: how far their samples come to the data, and whether densities sum to one.

    python benchmarks/flow_toys.py [--steps N]

Prints the squared sliced 2-Wasserstein distance (10,000 samples, 200 fixed projections) between samples and data before
and after training, beside that of two sets of data, and the integral of the density on a grid.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from zoo.data.base import TensorData
from zoo.data.toys import EightGaussians, Moons
from zoo.families.ffjord import FFJORD
from zoo.families.glow import Glow
from zoo.families.nice import NICE
from zoo.families.normalising_flow import NormalisingFlow
from zoo.families.realnvp import RealNVP
from zoo.metrics.sliced import sliced_wasserstein
from zoo.nets.timed_mlp import TimedMLP

POINTS, BATCH, LR = 10_000, 256, 5e-3
MODELS: dict[str, tuple[Callable[[], NormalisingFlow], float, float]] = {
    "nice": (lambda: NICE([2], hidden=[64, 64], levels=None, prior="normal"), 1.0, LR),
    "realnvp": (lambda: RealNVP([2], couplings=12, width=64, levels=None, alpha=None), 4.0, 2e-3),
    "realnvp, splines": (
        lambda: RealNVP([2], couplings=4, width=32, levels=None, alpha=None, coupling="spline"),
        1.0,
        LR,
    ),
    "glow": (lambda: Glow([2], steps=[10], squeezes=[1], width=64, levels=None, alpha=None), 2.0, LR),
    "glow, splines": (lambda: Glow([2], [4], [1], width=32, levels=None, alpha=None, coupling="spline"), 1.0, LR),
    "ffjord": (lambda: FFJORD(TimedMLP(2, 32, 2), [2], steps=5, levels=None), 1.0, LR),
    "ffjord, regularised": (
        lambda: FFJORD(TimedMLP(2, 32, 2), [2], steps=5, levels=None, kinetic=0.01, jacobian=0.01),
        1.0,
        LR,
    ),
}
"""Name -> the model, its share of the steps, and its learning rate."""


def train(model: NormalisingFlow, data: TensorData, steps: int, lr: float) -> None:
    """Maximise the likelihood, with a learning rate that falls to zero."""
    x = data.split("train")[0]
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - i / steps)
        loss = model.loss((x[torch.randint(len(x), (BATCH,))], torch.zeros(BATCH)))["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval()


def mass(model: NormalisingFlow, reach: float = 6.0, n: int = 401) -> float:
    """Return the integral of the density over [-reach, reach]^2, by the trapezoidal rule."""
    line = torch.linspace(-reach, reach, n)
    grid = torch.cartesian_prod(line, line)
    p = torch.cat([model.log_prob(part).double().exp() for part in grid.split(20_000)])
    return p.sum().item() * (2 * reach / (n - 1)) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    for data in (EightGaussians(), Moons()):
        real = data.split("train")[0][:POINTS]
        more = data.draw(POINTS, torch.Generator().manual_seed(99))[0]
        print(f"\n{data.name}: real against real {sliced_wasserstein(real, more):.5f}")
        print(f"{'model':20s} steps    start      end end/start integral    nats seconds")
        for name, (build, share, lr) in MODELS.items():
            torch.manual_seed(0)
            print(f"{name:20s} {row(build(), data, real, int(steps * share), lr)}", flush=True)


def row(model: NormalisingFlow, data: TensorData, real: torch.Tensor, steps: int, lr: float) -> str:
    """Train a model and return its numbers."""
    start = sliced_wasserstein(model.sample(POINTS, seed=0), real)
    began = time.process_time()
    train(model, data, steps, lr)
    seconds = time.process_time() - began
    end = sliced_wasserstein(model.sample(POINTS, seed=0), real)
    nats = -model.log_prob(data.split("test")[0], seed=0).mean().item()
    return f"{steps:5d} {start:8.5f} {end:8.5f} {end / start:9.3f} {mass(model):8.4f} {nats:7.3f} {seconds:7.1f}"


if __name__ == "__main__":
    main()
