"""How far a call walks through the package before arithmetic begins: the ways of a seed, of options, and of a batch.

    python benchmarks/walks.py

Counts calls of the package's own functions, the distinct functions among them, and the deepest chain, and prints that
chain. A seed is `sample` of a small VAE; options are those of ``zoo fit`` until the run is ready to start; a batch is
one step of training, the mean of 40.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zoo
from zoo.registry import load_registry
from zoo.training.fit import Run

PACKAGE = str(Path(zoo.__file__).parent)
STEPS = 40


class Walk:
    """What was called, how often, and the longest chain, of those through ``below`` if given."""

    def __init__(self, below: str = "") -> None:
        self.below = below
        self.calls, self.functions, self.chain, self._now = 0, set[Any](), list[str](), list[str]()

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return
        if event == "call":
            self.calls += 1
            self.functions.add(code)
            self._now.append(getattr(code, "co_qualname", code.co_name))
            if len(self._now) > len(self.chain) and (not self.below or self.below in self._now):
                self.chain = list(self._now)
        elif event == "return" and self._now:
            self._now.pop()

    def tell(self, what: str, times: int = 1) -> None:
        print(
            f"{what:<10} {self.calls / times:8.1f} calls {len(self.functions):5d} functions {len(self.chain):4d} deep"
        )
        print("           " + " > ".join(self.chain))


@contextmanager
def walked(below: str = "") -> Iterator[Walk]:
    walk = Walk(below)
    sys.setprofile(walk)
    try:
        yield walk
    finally:
        sys.setprofile(None)


def main() -> None:
    entry = {**load_registry()["vae-mnist"].for_training(), "own_data": True}
    model = zoo.create("vae-mnist")
    model.sample(2, seed=0)
    with walked() as seed:
        model.sample(2, seed=0)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--training.sample_every", "0"]
    with tempfile.TemporaryDirectory() as top:
        with walked() as options:
            Run(entry, [*quiet, "--trainer.max_steps", "20"], folder=Path(top) / "a")
        counts = []
        for steps in (20, 20 + STEPS):
            run = Run(entry, [*quiet, "--trainer.max_steps", str(steps)], folder=Path(top) / str(steps))
            with walked("GenerativeModel.training_step") as batch:
                run.start()
            counts.append(batch.calls)
    batch.calls = counts[1] - counts[0]
    seed.tell("seed")
    options.tell("options")
    batch.tell("batch", STEPS)


if __name__ == "__main__":
    main()
