"""What one training step costs beyond its arithmetic: the zoo's run and a default Trainer against the bare loop.

    python benchmarks/step_overhead.py --threads 1

All arms train the same VAE of a few hundred parameters on the same stream of batches with the same arithmetic, so what
differs is the machinery around it: Lightning's, and torch's fused AdamW or the zoo's, which has the same kernel. The
zoo's arm has metrics.csv, the progress bar, the moving average and checkpoints on, and one checkpoint falls into the
timed window; the default Trainer has its logger, its bar, its checkpoint at the end of the epoch (outside the window)
and three ``self.log`` a step. The arms take turns, medians of the rounds are printed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from timing import Arm, Window, header, medians, silent, take_turns

from zoo.data.base import BatchStream
from zoo.data.toys import EightGaussians
from zoo.families.vae import VAE
from zoo.nets.mlp import MLP
from zoo.training.fit import Run

BATCH, POINTS = 16, 100_000


def _mlp(*features: int) -> dict[str, Any]:
    return {"class_path": "zoo.nets.mlp.MLP", "init_args": {"features": list(features), "activation": "relu"}}


ENTRY = {
    "name": "tiny",
    "model": {
        "class_path": "zoo.families.vae.VAE",
        "init_args": {
            "encoder": _mlp(2, 24, 4), "decoder": _mlp(2, 24, 4), "shape": [2], "latent_dim": 2,
            "likelihood": "gaussian",
        },
    },
    "data": {"class_path": "zoo.data.toys.EightGaussians", "init_args": {"batch_size": BATCH, "points": POINTS}},
    "trainer": {"accelerator": "cpu"},
    "training": {"sample_every": 0},
}  # fmt: skip


def model() -> VAE:
    torch.manual_seed(0)
    return VAE(MLP([2, 24, 4], "relu"), MLP([2, 24, 4], "relu"), [2], 2, "gaussian")


def stream() -> BatchStream:
    return BatchStream(EightGaussians(BATCH, points=POINTS).split("train"), BATCH, seed=0)


class Default(LightningModule):
    """The same model as a tutorial has it: an optimizer and three logged terms."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model()

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        terms = self.model.loss(batch)
        for name in ("loss", "reconstruction", "kl"):
            self.log(name, terms[name])
        return terms["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.0, fused=True)


def bare(warm: int, steps: int) -> float:
    net, window = model(), Window(warm, steps)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    for batch, _ in zip(stream(), range(warm + steps), strict=False):
        optimizer.zero_grad()
        net.loss(batch)["loss"].backward()
        optimizer.step()
        window.tick()
    return window.seconds


def default(warm: int, steps: int) -> float:
    window = Window(warm, steps)
    with tempfile.TemporaryDirectory() as folder, silent():
        trainer = Trainer(max_steps=warm + steps + 1, accelerator="cpu", default_root_dir=folder, callbacks=[window])
        trainer.fit(Default(), stream())
    return window.seconds


def engine(warm: int, steps: int) -> float:
    window = Window(warm, steps)
    with tempfile.TemporaryDirectory() as folder, silent():
        every = ["--training.checkpoint_every", str(warm + steps // 2), "--trainer.max_steps", str(warm + steps + 1)]
        run = Run(ENTRY, every, folder=Path(folder) / "run")
        run.arguments["callbacks"] = [window]
        run.start()
    return window.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000, help="timed steps an arm and round")
    parser.add_argument("--warm", type=int, default=100, help="steps before them")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    arms = {
        "bare loop": Arm(bare),
        "default Trainer": Arm(default, lightning=True),
        "zoo": Arm(engine, lightning=True),
    }
    found = take_turns(arms, rounds=args.rounds, warm=args.warm, steps=args.steps, threads=args.threads)
    median = medians(found)
    print(header(args.threads))
    print(f"{sum(p.numel() for p in model().parameters())} parameters, {args.steps} steps an arm, {args.rounds} rounds")
    print(f"{'':<18}{'us/step':>9}{'over bare':>11}   range")
    for name, value in median.items():
        low, high = min(found[name]) * 1e6, max(found[name]) * 1e6
        print(f"{name:<18}{value * 1e6:>9.0f}{(value - median['bare loop']) * 1e6:>11.0f}   {low:.0f}..{high:.0f}")
    ratio = (median["zoo"] - median["bare loop"]) / (median["default Trainer"] - median["bare loop"])
    print(f"zoo's overhead / default Trainer's overhead: {ratio:.2f} (goal: at most 0.50)")


if __name__ == "__main__":
    main()
