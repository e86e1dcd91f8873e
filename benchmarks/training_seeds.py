"""How far other seeds of training move a number: a recipe trained several times, the spread that papers hide.

    python benchmarks/training_seeds.py vae-mnist gan-mnist          # three seeds each
    python benchmarks/training_seeds.py wgan_gp-mnist --seeds 5 --budget 5TFLOP
    python benchmarks/training_seeds.py --table                      # from what is there, training nothing

Weights, noise and order of the data follow the seed; everything else is the registry's recipe. Each run is evaluated as
the tables are. Finished ones are kept in results/training_seeds.json, runs in ``--work`` go on where they stopped, and
the table with mean and standard deviation over the seeds is results/training_seeds.md.
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.api import evaluate
from zoo.files import write_whole
from zoo.leaderboard.columns import likelihood
from zoo.registry import load_registry
from zoo.reproduce import trained
from zoo.results import SPLITS
from zoo.spec import class_of

SHOWN = ("fid", "kid", "precision", "recall", "frechet_random", "frechet_pca", "likelihood")


def measured(name: str, seed: int, budget: str | None, work: Path, samples: int, split: str) -> dict[str, Any]:
    """Train a recipe with a seed, or go on, and measure it; return the row."""
    entry = load_registry().resolve(name)
    run = work / f"{entry.name}-seed{seed}{f'-{budget}' if budget else ''}"
    words = ["--training.seed", str(seed), *(["--training.budget", budget] if budget else [])]
    if "seed" in inspect.signature(class_of(entry.data["class_path"], tuple(entry.allow))).parameters:
        words += ["--data.seed", str(seed)]
    trained(entry, run, [] if run.exists() else words, {})
    result = evaluate(run, samples=samples, split=split, k=entry.evaluation.get("k"), out=run)
    facts = {"name": entry.name, "seed": seed, "budget": budget, "split": split, "samples": samples}
    facts |= {"weights_sha256": result.identity.weights_sha256, "tflop": result.cost.training_tflop}
    facts |= {n: result.metrics[n].value for n in SHOWN if n in result.metrics}
    found = likelihood(result)
    return facts | ({"likelihood": found[1].value, "unit": found[0]} if found is not None else {})


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the markdown: a line a model and budget, mean and standard deviation of each number over its seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[n] for n in ("name", "budget", "split", "samples")), []).append(row)
    columns = [n for n in SHOWN if any(n in row for row in rows)]
    lines = [f"| model | training | split | seeds | {' | '.join(columns)} |", "|---" * (4 + len(columns)) + "|"]
    for (name, budget, split, _), group in groups.items():
        cells = [_spread([row[n] for row in group if n in row]) for n in columns]
        seeds = ", ".join(str(row["seed"]) for row in group)
        lines.append(f"| {name} | {budget or 'the recipe'} | {split} | {seeds} | {' | '.join(cells)} |")
    about = "Mean ± standard deviation over seeds of training; made by `python benchmarks/training_seeds.py`."
    return "\n".join(["# Seeds of training", "", about, "", *lines, ""])


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{deviation}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of the registry")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1 ... (default 3)")
    parser.add_argument("--budget", help="of each training, such as 5TFLOP (default: the recipe's own length)")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--work", type=Path, default=Path("runs/training_seeds"), help="where the runs go")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    kept = args.out / "training_seeds.json"
    rows = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    for seed in [] if args.table else range(args.seeds):  # one of each model before the second of any
        for name in args.names:
            full = load_registry().resolve(name).name
            wanted = (full, seed, args.budget, args.split, args.samples)
            if wanted in {tuple(r[n] for n in ("name", "seed", "budget", "split", "samples")) for r in rows}:
                continue
            rows.append(measured(name, seed, args.budget, args.work, args.samples, args.split))
            write_whole(kept, json.dumps(rows, indent=1) + "\n")
            print(rows[-1], flush=True)
    if rows:
        write_whole(args.out / "training_seeds.md", table(rows))
        print(table(rows))


if __name__ == "__main__":
    main()
