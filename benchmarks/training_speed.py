"""Time one training step of a VAE 784-400-20 on MNIST: the zoo's own fit against what one would write otherwise.

    python benchmarks/training_speed.py --threads 2
    python benchmarks/training_speed.py --threads 1

Batch 128, Adam, Bernoulli likelihood. The classical example takes grey levels for probabilities; the zoo refuses those
as no likelihood, and trains on digits that are thresholded once, before the timed steps. The arms:

    plain        a loop over torchvision's MNIST, ToTensor and DataLoader(batch_size=128, shuffle=True), Adam as it
                 comes, and the loss read at every step
    default      Lightning's Trainer as it comes over that loader, with three ``self.log`` a step
    zoo          zoo fit: metrics.csv, progress bar, moving average, checkpoints (one falls into the timed window)
    fused        the zoo's arithmetic without Lightning: batches by index, losses from logits, fused Adam
    products     the matrix products of the same shapes alone, forward and backward

The arms take turns, each in a process of its own; medians of the rounds are printed. The step is timed after a few that
are not.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from timing import Arm, Window, header, medians, silent, take_turns
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from zoo.data.base import BatchStream
from zoo.data.mnist import ThresholdMNIST
from zoo.families.vae import VAE
from zoo.nets.mlp import MLP
from zoo.training.fit import Run

BATCH = 128
GOALS = {
    "plain / zoo": {1: (">=", 2.0), 2: (">=", 2.8)},
    "default / zoo": {1: (">=", 2.6), 2: (">=", 3.3)},
    "zoo / products": {1: ("<=", 2.5), 2: ("<=", 2.5)},
}


# -- as one would write it otherwise -----------------------------------------------------------------------------------


class Plain(nn.Module):
    """The classical example: 784-400-(20, 20)-400-784."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.mean, self.log_var = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.up, self.out = nn.Linear(20, 400), nn.Linear(400, 784)

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.hidden(x.view(-1, 784)))
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        image = torch.sigmoid(self.out(F.relu(self.up(z))))
        reconstruction = F.binary_cross_entropy(image, x.view(-1, 784), reduction="sum")
        kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        return reconstruction + kl, reconstruction, kl


class Tutorial(LightningModule):
    """The same in Lightning, as tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss, reconstruction, kl = self.net.terms(batch[0])
        self.log("loss", loss)
        self.log("reconstruction", reconstruction)
        self.log("kl", kl)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@cache
def batches() -> DataLoader:
    """Return the training digits as torchvision's example has them, read from files that are unpacked for it."""
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root, "MNIST", "raw")
        raw.mkdir(parents=True)
        for file in resources.files("zoo.data").joinpath("assets", "mnist").iterdir():
            if file.name.endswith(".gz"):
                (raw / file.name.removesuffix(".gz")).write_bytes(gzip.decompress(file.read_bytes()))
        data = datasets.MNIST(root, train=True, transform=transforms.ToTensor())
    return DataLoader(data, batch_size=BATCH, shuffle=True)


def plain(warm: int, steps: int) -> float:
    model, window, total = Plain(), Window(warm, steps), 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for (x, _), _ in zip(batches(), range(warm + steps), strict=False):
        optimizer.zero_grad()
        loss = model.terms(x)[0]
        loss.backward()
        total += loss.item()
        optimizer.step()
        window.tick()
    return window.seconds


def default(warm: int, steps: int) -> float:
    window = Window(warm, steps)
    with tempfile.TemporaryDirectory() as folder, silent():
        trainer = Trainer(max_steps=warm + steps + 1, accelerator="cpu", default_root_dir=folder, callbacks=[window])
        trainer.fit(Tutorial(), batches())
    return window.seconds


# -- the zoo -----------------------------------------------------------------------------------------------------------


def _mlp(*features: int) -> dict[str, Any]:
    return {"class_path": "zoo.nets.mlp.MLP", "init_args": {"features": list(features), "activation": "relu"}}


ENTRY = {
    "name": "vae",
    "model": {
        "class_path": "zoo.families.vae.VAE",
        "init_args": {
            "encoder": _mlp(784, 400, 40), "decoder": _mlp(20, 400, 784), "shape": [1, 28, 28], "latent_dim": 20,
            "likelihood": "bernoulli", "lr": 1e-3,
        },
    },
    "data": {"class_path": "zoo.data.mnist.ThresholdMNIST", "init_args": {"batch_size": BATCH}},
    "trainer": {"accelerator": "cpu"},
    "training": {"sample_every": 0},
}  # fmt: skip


def engine(warm: int, steps: int) -> float:
    window = Window(warm, steps)
    with tempfile.TemporaryDirectory() as folder, silent():
        args = ["--training.checkpoint_every", str(warm + steps // 2), "--trainer.max_steps", str(warm + steps + 1)]
        run = Run(ENTRY, args, folder=Path(folder) / "run")
        run.arguments["callbacks"] = [window]
        run.start()
    return window.seconds


def fused(warm: int, steps: int) -> float:
    """The zoo's model and batches in a bare loop."""
    model = VAE(MLP([784, 400, 40], "relu"), MLP([20, 400, 784], "relu"), [1, 28, 28], 20)
    window, data = Window(warm, steps), ThresholdMNIST()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    for (x, labels), _ in zip(BatchStream(data.split("train"), BATCH, seed=0), range(warm + steps), strict=False):
        optimizer.zero_grad()
        model.loss((data.to_float(x), labels))["loss"].backward()
        optimizer.step()
        window.tick()
    return window.seconds


def products(warm: int, steps: int) -> float:
    """Forward, backward to the weights, and backward to the inputs of every layer but the first, into kept memory."""
    window = Window(warm, steps)
    sets = []
    for a, b in [(784, 400), (400, 40), (20, 400), (400, 784)]:
        x, w, g = torch.randn(BATCH, a), torch.randn(b, a), torch.randn(BATCH, b)
        sets.append((x, w, g, torch.empty_like(g), torch.empty_like(w), torch.empty_like(x)))
    for _ in range(warm + steps):
        for i, (x, w, g, y, dw, dx) in enumerate(sets):
            torch.mm(x, w.T, out=y)
            torch.mm(g.T, x, out=dw)
            if i:
                torch.mm(g, w, out=dx)
        window.tick()
    return window.seconds


def report(found: dict[str, list[float]], threads: int) -> None:
    """Print medians and ranges, and the ratios with their goals."""
    median = medians(found)
    print(f"{'':<12}{'ms/step':>9}   range")
    for name, value in median.items():
        print(f"{name:<12}{value * 1e3:>9.2f}   {min(found[name]) * 1e3:.2f}..{max(found[name]) * 1e3:.2f}")
    for name, goals in GOALS.items():
        a, b = name.split(" / ")
        sign, goal = goals[min(threads, 2)]
        ratio = median[a] / median[b]
        held = ratio >= goal if sign == ">=" else ratio <= goal
        print(f"{name:<18}{ratio:>6.2f}   goal {sign} {goal}: {'held' if held else 'MISSED'}")
    print(f"{'fused / products':<18}{median['fused'] / median['products']:>6.2f}")
    print(f"{'zoo / fused':<18}{median['zoo'] / median['fused']:>6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200, help="timed steps an arm and round")
    parser.add_argument("--warm", type=int, default=20, help="steps before them")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    arms = {
        "plain": Arm(plain),
        "default": Arm(default, lightning=True),
        "zoo": Arm(engine, lightning=True),
        "fused": Arm(fused),
        "products": Arm(products),
    }
    found = take_turns(arms, rounds=args.rounds, warm=args.warm, steps=args.steps, threads=args.threads)
    print(header(args.threads))
    print(f"VAE 784-400-20, batch {BATCH}, {args.steps} steps an arm, {args.rounds} rounds")
    report(found, args.threads)


if __name__ == "__main__":
    main()
