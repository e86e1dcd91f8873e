"""Whether likelihoods by an ODE have enough steps: bits/dim with the model's steps, and with twice as many.

    python benchmarks/ode_likelihood.py flow_matching-mnist score_sde-mnist [--examples N] [--split validation]

Both use one seed, so the same places in the intervals of grey levels and the same probes of the trace.
"""

from __future__ import annotations

import argparse
import math

import torch

import zoo
from zoo.registry import load_registry
from zoo.results import SPLITS

BATCH = 100


def bits(name: str, examples: int, factor: int, split: str = "test") -> torch.Tensor:
    """Return bits/dim of each of the first images of a split."""
    model, data = zoo.load(name), load_registry().resolve(name).build_data()
    model.likelihood_steps *= factor
    x, labels = (t[:examples] for t in data.split(split))
    x = data.to_float(x, model.dtype)
    found = []
    for i in range(0, examples, BATCH):
        given = {"labels": labels[i : i + BATCH]} if model.num_classes else {}
        found.append(model.log_prob(x[i : i + BATCH], seed=i, **given))
    return -torch.cat(found).double() / (math.prod(model.shape) * math.log(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--examples", type=int, default=1_000)
    parser.add_argument("--split", choices=SPLITS, default="test", help="whose images (default test)")
    args = parser.parse_args()
    print(f"{'model':28s} images  steps  bits/dim  twice   difference")
    for name in args.names:
        once, twice = (bits(name, args.examples, factor, args.split) for factor in (1, 2))
        steps = zoo.load(name).likelihood_steps
        error = float(once.std()) / math.sqrt(len(once))
        print(
            f"{name:28s} {len(once):6d} {steps:6d}  {float(once.mean()):.4f}    {float(twice.mean()):.4f}  "
            f"{float((twice - once).mean()):+.5f}   (standard error over images {error:.4f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
