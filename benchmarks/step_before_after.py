"""What one training step of the zoo costs in this checkout and in an earlier one, in turns on one machine.

    git worktree add ../before COMMIT && python benchmarks/step_before_after.py ../before

The arms are ``zoo`` of `step_overhead` and of `training_speed`, of each checkout with its own files, in a process each,
one of which computes at a time. Beside the time of the clock stands the processor's, which other work on the machine
disturbs less; what counts are the medians of the ratios of runs that followed one another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from timing import header

GOAL = 1.05
ARMS = {"step_overhead": "a tiny model", "training_speed": "a VAE of MNIST"}

WORKER = """
import sys, time, types
folder, threads = sys.argv[1], int(sys.argv[2])
sys.path[:0] = [folder, folder + "/benchmarks"]
import step_overhead, timing, training_speed
timing._begin(threads, True)
# a window takes differences: the clock's seconds are the real part, the processor's the imaginary one
timing.time = types.SimpleNamespace(perf_counter=lambda: complex(time.perf_counter(), time.process_time()))
for line in sys.stdin:
    arm, warm, steps = line.split()
    took = sys.modules[arm].engine(int(warm), int(steps))
    print(f"took {took.real} {took.imag}", flush=True)
"""


class Checkout:
    """A process that measures the arms of one checkout when it is told to."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.commit = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=7", "--exclude=*"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder.resolve()), str(threads)], cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip

    def measure(self, arm: str, warm: int, steps: int) -> tuple[float, float]:
        """Return the seconds of a step by the clock and of the processor."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{arm} {warm} {steps}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("took "):
                clock, processor = map(float, line.split()[1:])
                return clock, processor
        raise SystemExit(f"the process of {self.commit} has ended")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="another checkout")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, nargs=2, default=(600, 150), help="timed steps of a run, of each arm")
    args = parser.parse_args()
    pair = [Checkout(args.before, args.threads), Checkout(Path(__file__).parent.parent, args.threads)]
    print(header(args.threads))
    for (arm, what), steps in zip(ARMS.items(), args.steps, strict=True):
        found: list[list[tuple[float, float]]] = [[], []]
        for i in range(args.rounds + 1):
            for which in (0, 1) if i % 2 else (1, 0):
                took = pair[which].measure(arm, max(10, steps // 10), steps)
                found[which] += [took] if i else []  # the first run of a process is dearer
        print(f"\nzoo of {arm}, {what}, {args.rounds} rounds of {steps} steps: ms/step by the clock, of the processor")
        for checkout, values in zip(pair, found, strict=True):
            clock, processor = (statistics.median(v[k] for v in values) * 1e3 for k in (0, 1))
            print(f"{checkout.commit:<14}{clock:>9.3f}{processor:>9.3f}")
        for k, name in ((0, "the clock"), (1, "the processor")):
            ratios = sorted(b[k] / a[k] for a, b in zip(*found, strict=True))
            print(
                f"after / before, by {name}: {statistics.median(ratios):.3f} (goal: at most {GOAL}), "
                f"{ratios[0]:.2f}..{ratios[-1]:.2f}"
            )


if __name__ == "__main__":
    main()
