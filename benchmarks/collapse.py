"""Fit a small VAE on binary MNIST with beta = 1 and with beta = 50, and let the collapse report tell them apart.

    python benchmarks/collapse.py > benchmarks/results/collapse.txt

It ends with an error unless beta = 1 reaches a test negative ELBO below 110 nats with more than 5 active units, and
beta = 50 has none. About 5 minutes on one core.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from zoo.data.mnist import BinaryMNIST
from zoo.diagnostics import Collapse, posterior_collapse
from zoo.families.vae import VAE
from zoo.runs import load_run
from zoo.training.compute import parameter_count
from zoo.training.fit import Run

STEPS = {1.0: 16_000, 50.0: 2_000}
LIMIT, MOST_PARAMETERS, LEAST_ACTIVE = 110.0, 300_000, 5


def entry(beta: float) -> dict[str, Any]:
    """Return the recipe of the VAE 784-180-10 as plain data."""

    def mlp(*features: int) -> dict[str, Any]:
        return {"class_path": "zoo.nets.mlp.MLP", "init_args": {"features": list(features), "activation": "relu"}}

    model = {
        "class_path": "zoo.families.vae.VAE",
        "init_args": {
            "encoder": mlp(784, 180, 20), "decoder": mlp(10, 180, 784), "shape": [1, 28, 28], "latent_dim": 10,
            "beta": beta, "lr": 2e-3,
        },
    }  # fmt: skip
    data = {"class_path": "zoo.data.mnist.BinaryMNIST", "init_args": {"batch_size": 128}}
    training = {"ema": 0.999, "warmup": 200, "schedule": "cosine"}
    return {
        "name": "small_vae",
        "model": model,
        "data": data,
        "trainer": {"max_steps": STEPS[beta]},
        "training": training,
    }


def fit(beta: float, folder: Path) -> tuple[VAE, float]:
    """Train, and return the model with its averaged weights and the compute, in TFLOP."""
    options = ["--trainer.enable_progress_bar", "false", "--training.sample_every", "0", "--trainer.accelerator", "cpu"]
    run = Run(entry(beta), options, folder=folder)
    run.start()
    return load_run(folder), run.flops * run.total / 1e12


def measure(model: VAE) -> tuple[float, float, Collapse]:
    """Return negative ELBO and its standard error, in nats over all test images, and the collapse report."""
    data = BinaryMNIST()
    x = data.to_float(data.split("test")[0])
    nelbo = -model.log_prob(x, seed=0).double()
    return float(nelbo.mean()), float(nelbo.std()) / len(nelbo) ** 0.5, posterior_collapse(model, x)


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for beta in STEPS:
        with tempfile.TemporaryDirectory() as folder:
            model, tflop = fit(beta, Path(folder) / "run")
        nelbo, error, report = found[beta] = measure(model)
        kl = " ".join(f"{v:.3f}" for v in report.kl.sort(descending=True).values.tolist())
        variance = " ".join(f"{v:.4f}" for v in report.variance.sort(descending=True).values.tolist())
        size = f"{parameter_count(model):,} parameters, {STEPS[beta]:,} steps, {tflop:.1f} TFLOP"
        print(f"beta {beta:g}: VAE 784-180-10, {size}")
        print(f"  test negative ELBO (beta = 1)  {nelbo:.2f} ± {error:.2f} nats, {report.examples:,} images")
        print(f"  active units                   {report.active_units} of {len(report.kl)}")
        print(f"  KL of each dimension, nats     {kl}")
        print(f"  variance of posterior means    {variance}", flush=True)
        assert parameter_count(model) <= MOST_PARAMETERS
    assert found[1.0][0] < LIMIT, f"negative ELBO {found[1.0][0]:.2f}, not below {LIMIT}"
    assert found[1.0][2].active_units > LEAST_ACTIVE and found[50.0][2].active_units == 0
    print(f"below {LIMIT:g} nats with beta = 1; the report tells the two apart")


if __name__ == "__main__":
    main()
