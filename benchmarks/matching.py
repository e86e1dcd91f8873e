"""Models that learn velocities: how far samples come to the data in the plane, and FID by the number of steps.

    python benchmarks/matching.py toys [--steps N]
    python benchmarks/matching.py steps NAME=1,2,10 NAME=10,50 NAME [--samples N] [--split validation]

``toys`` trains on points and prints the squared sliced 2-Wasserstein distance (10,000 samples, 200 fixed projections)
to the data before and after, beside that of two sets of data, and how straight the curves are. ``steps`` prints FID,
the share of confident samples and the rarest digit of trained models, name or run folder, by steps of their solver,
with the floor of as many training images, and samples per second of CPU time, all in one process; flows have no steps.
NAME:euler=1 is one plain step of Euler's method, without guidance.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

import zoo
from zoo.data.base import TensorData
from zoo.data.mnist import MNIST
from zoo.data.toys import EightGaussians, Moons
from zoo.families.flow_matching import FlowMatching
from zoo.families.interpolant import Interpolant
from zoo.families.rectified_flow import RectifiedFlow
from zoo.families.velocity import VelocityModel
from zoo.maths.paths import PATHS
from zoo.metrics.distribution import class_shares, frechet
from zoo.metrics.extractors import Digits
from zoo.metrics.sliced import sliced_wasserstein
from zoo.names import is_run
from zoo.nets.timed_mlp import TimedMLP
from zoo.results import SPLITS
from zoo.runs import load_run

POINTS, BATCH, LR = 10_000, 256, 5e-3


def net(out: int = 2) -> TimedMLP:
    return TimedMLP(2, 64, 2, out_features=out)


MODELS: dict[str, Callable[[], VelocityModel]] = {
    **{
        f"flow_matching, {path}": lambda path=path: FlowMatching(net(), [2], levels=None, path=path, steps=25)
        for path, p in PATHS.items()
        if p.g is None
    },
    "flow_matching, optimal pairing": lambda: FlowMatching(net(), [2], levels=None, pairing="optimal", steps=25),
    **{
        f"interpolant, {path}": lambda path=path: Interpolant(net(4), [2], levels=None, path=path, steps=25)
        for path in PATHS
    },
}


def train(model: VelocityModel, data: TensorData, steps: int, lr: float = LR) -> None:
    """Minimise the loss, with a learning rate that falls to zero."""
    x = data.split("train")[0]
    parameters = list(model.players()["model"].parameters)
    optimiser = torch.optim.Adam(parameters, lr=lr)
    model.train()
    for i in range(steps):
        model.steps_done = i
        optimiser.param_groups[0]["lr"] = lr * (1 - i / steps)
        rows = torch.randint(len(x), (BATCH,))
        loss = model.loss((x[rows], torch.zeros(BATCH, dtype=torch.long)))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()


def toys(steps: int) -> None:
    for data in (EightGaussians(), Moons()):
        real = data.split("train")[0][:POINTS]
        more = data.draw(POINTS, torch.Generator().manual_seed(99))[0]
        start = sliced_wasserstein(torch.randn(POINTS, 2, generator=torch.Generator().manual_seed(0)), real)
        print(f"\n{data.name}: noise {start:.5f}, real against real {sliced_wasserstein(real, more):.5f}")
        print(f"{'model':36s}     end end/start straightness one step seconds")
        for name, build in MODELS.items():
            torch.manual_seed(0)
            model, began = build(), time.process_time()
            train(model, data, steps)
            print(f"{name:36s} {row(model, real, start)} {time.process_time() - began:7.1f}", flush=True)
            if name == "flow_matching, linear":
                again = RectifiedFlow(net(), [2], teacher=model, levels=None, pair_batches=40, teacher_steps=20)
                again.adopt()
                began = time.process_time()
                train(again, data, steps, LR / 2)
                again.steps = 25
                print(f"{'rectified_flow, of the above':36s} {row(again, real, start)} "
                      f"{time.process_time() - began:7.1f}", flush=True)  # fmt: skip


def row(model: VelocityModel, real: torch.Tensor, start: float) -> str:
    end = sliced_wasserstein(model.sample(POINTS, seed=0), real)
    one = sliced_wasserstein(model.sample(POINTS, seed=0, steps=1, solver="euler"), real)
    return f"{end:.5f} {end / start:9.3f} {model.straightness(512, seed=0):12.4f} {one:8.4f}"


def by_steps(asked: list[str], samples: int, split: str) -> None:
    look, data = Digits(), MNIST()
    images, train_images = data.split(split)[0], data.split("train")[0]
    real = look(images / 255)["features"]
    order = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(0))[:samples]
    floor = frechet(look(train_images[order] / 255)["features"], real)[0]
    print(f"{samples} samples; floor {floor:.2f}; confident {split} images "
          f"{class_shares(look(images / 255)['logits'])['confident_share'][0]:.3f}")  # fmt: skip
    print(f"{'model':28s} solver   steps calls    FID confident rarest digit samples/s")
    for words in asked:
        name, _, counts = words.partition("=")
        name, _, solver = name.partition(":")
        model = load_run(name) if is_run(name) else zoo.load(name)
        own = getattr(model, "steps", None) if isinstance(model, VelocityModel) else None
        for steps in [int(c) for c in counts.split(",") if c] or [own]:
            options: dict[str, Any] = {"steps": steps} if steps else {}
            options |= {"solver": solver, "guidance_scale": 1.0} if solver else {}
            found = measured(model, options, samples, look, real)
            named = solver or (model.solver if steps else "-")
            print(f"{name.rpartition('/')[2]:28s} {named:8s} {steps or '-':>5} {found}", flush=True)


def measured(model: Any, options: dict[str, Any], samples: int, look: Digits, real: torch.Tensor) -> str:
    seconds, parts = 0.0, []
    for i in range(0, samples, 250):
        labels = {"labels": torch.arange(i, i + 250) % model.num_classes} if model.num_classes else {}
        began = time.process_time()
        parts.append(model.sample(250, seed=i, **options, **labels))
        seconds += time.process_time() - began
    seen = look((torch.cat(parts) * 255).round() / 255)
    shares = class_shares(seen["logits"])
    rarest = min(v[0] for k, v in shares.items() if k.startswith("digit"))
    return (f"{model.calls(options):5.0f} {frechet(seen['features'], real)[0]:6.2f} "
            f"{shares['confident_share'][0]:9.3f} {rarest:12.3f} {samples / seconds:9.1f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["toys", "steps"])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--split", choices=SPLITS, default="test", help="of steps: against whose digits (default test)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "toys":
        toys(args.steps)
    else:
        by_steps(args.models, args.samples, args.split)


if __name__ == "__main__":
    main()
