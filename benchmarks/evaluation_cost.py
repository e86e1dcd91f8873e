"""What it costs to turn 10,000 samples of digits into numbers, once the references are cached, in CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/evaluation_cost.py

Sampling is not in it: the samples are noised training images. The goal is 45 s on one thread for features, FID, KID,
the inception score, precision and recall; density, coverage and nearest training images are apart.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from zoo.data.mnist import MNIST
from zoo.evaluation.comparison import Reference
from zoo.metrics import fidelity
from zoo.metrics.distribution import frechet, inception_score, kernel, precision_recall
from zoo.metrics.extractors import Digits
from zoo.metrics.neighbours import density_coverage

GOAL = 45.0


def main() -> int:
    torch.set_num_threads(1)
    data, n = MNIST(), 10_000
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        reference = Reference(data, Digits())
        generator = torch.Generator().manual_seed(0)
        x = data.to_float(data.split("train")[0][:n])
        x = (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
        first = cpu(lambda: reference.compare(x, None))[1] + cpu(lambda: reference.floor(n))[1]
        print(
            f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"
        )
        print(f"{'first time, references and floor made':<44}{first:8.1f} s")
        again = Reference(data, Digits())
        real, read = cpu(again._real)
        drawn, extracted = cpu(lambda: fidelity.extract(again.extractor, x))
        a, b = drawn["features"], real["features"]
        steps: dict[str, Callable[[], Any]] = {
            "FID": lambda: frechet(a, b),
            "KID": lambda: kernel(a, b),
            "inception score": lambda: inception_score(drawn["logits"]),
            "precision and recall": lambda: precision_recall(a, b),
        }
        spent = {"cached references": read, "features of the samples": extracted}
        spent |= {name: cpu(step)[1] for name, step in steps.items()}
        for name, seconds in spent.items():
            print(f"{name:<44}{seconds:8.1f} s")
        total = sum(spent.values())
        print(f"{'together':<44}{total:8.1f} s, goal {GOAL:.0f} s: {'met' if total <= GOAL else 'MISSED'}")
        print(f"{'apart: density and coverage':<44}{cpu(lambda: density_coverage(a, b))[1]:8.1f} s")
        print(f"{'apart: nearest training images':<44}{cpu(lambda: again._copying(a))[1]:8.1f} s")
        print(f"{'apart: floor from the cache':<44}{cpu(lambda: again.floor(n))[1]:8.1f} s")
    return 0 if total <= GOAL else 1


def cpu(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and its CPU seconds."""
    begin = time.process_time()
    return function(), time.process_time() - begin


if __name__ == "__main__":
    sys.exit(main())
