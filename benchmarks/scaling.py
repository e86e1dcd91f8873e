"""Quality against counted compute, for one model of each family: docs/scaling.md with its curves.

    python benchmarks/scaling.py --budgets 1 5                 # TFLOP; what is there already is not trained again
    python benchmarks/scaling.py --models vae wgan_gp --budgets 1 5 20 50
    python benchmarks/scaling.py --table                       # from the results, training nothing

Every rung is the recipe of the registry with ``--budget``, which also sets the length of its schedule: one training a
rung, not one training that is looked at four times. It is evaluated as the tables are, with 10,000 samples on test data
(--samples). Finished rungs are kept in results/scaling.json; runs in ``--work`` go on where they were interrupted. The
50 TFLOP of the track hold for the last rung; a model whose recipe is shorter than the rung is trained longer here.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.api import evaluate
from zoo.errors import ConfigError
from zoo.files import write_whole
from zoo.leaderboard.columns import likelihood, mark_of
from zoo.registry import load_registry
from zoo.reproduce import trained
from zoo.results import SPLITS

LADDER = (
    "vae", "vq_vae", "dcgan", "wgan_gp", "pixelcnn", "realnvp", "flow_matching", "ddpm", "consistency",
    "transformer-shakespeare", "wavenet",
)  # fmt: skip
"""One model of each family, and of each kind within the larger ones."""
BUDGETS = (1.0, 5.0, 20.0, 50.0)
CURVES = "scaling.png"


def rung(name: str, tflop: float, work: Path, samples: int, split: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Train a recipe for so much compute, or go on, and measure it; return the row."""
    entry = load_registry().resolve(name)
    run = work / f"{entry.name}-{tflop:g}TFLOP"
    words = [] if run.exists() else ["--training.budget", f"{tflop:g}TFLOP", *arguments]
    trained(entry, run, words, {})
    result = evaluate(run, samples=samples, split=split, out=run)
    logp = likelihood(result)
    facts = {"name": entry.name, "family": entry.family, "data": result.data.name, "split": split, "budget": tflop}
    facts |= {"tflop": result.cost.training_tflop, "parameters": result.cost.parameters, "samples": samples}
    facts |= {"weights_sha256": result.identity.weights_sha256}
    for metric in ("fid", "kid", "frechet_random", "frechet_pca"):
        if metric in result.metrics:
            facts[metric] = result.metrics[metric].value
    if logp is not None:
        facts |= {"likelihood": logp[1].value, "unit": logp[0], "kind": result.protocol.likelihood}
        facts |= {"mark": mark_of(result)}
    return facts


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the markdown table: a line a model, a column a rung, with the likelihood and the Fréchet distance."""
    budgets = sorted({r["budget"] for r in rows})
    head = ["model", "family", *(f"{b:g} TFLOP" for b in budgets)]
    lines = [f"| {' | '.join(head)} |", "|---|---" + "|---:" * len(budgets) + "|"]
    for name in dict.fromkeys(r["name"] for r in rows):
        mine = {r["budget"]: r for r in rows if r["name"] == name}
        family = next(iter(mine.values()))["family"]
        lines.append(f"| `{name}` | {family} | {' | '.join(_cell(mine.get(b)) for b in budgets)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    parts = [f"FID {row['fid']:.2f}"] if "fid" in row else []
    parts += [f"{row['mark']}{row['likelihood']:.3f} {row['unit']}"] if "likelihood" in row else []
    return "<br>".join(parts) or "-"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw Fréchet distance and likelihood over counted compute, a curve a model; a panel for each unit."""
    from matplotlib.figure import Figure

    units = [("fid", "FID, digit classifier")]
    units += [(u, f"-log p, {u}") for u in dict.fromkeys(r["unit"] for r in rows if "unit" in r)]
    panels = [(u, title) for u, title in units if u != "fid" or any("fid" in r for r in rows)]
    figure = Figure(figsize=(5 * max(1, len(panels)), 4.5), layout="constrained")
    names = list(dict.fromkeys(r["name"] for r in rows))
    for at, (unit, title) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), at)
        for i, name in enumerate(names):
            field = "fid" if unit == "fid" else "likelihood"
            mine = [r for r in rows if r["name"] == name and field in r and (unit == "fid" or r["unit"] == unit)]
            mine.sort(key=lambda r: r["tflop"] or r["budget"])
            if mine:
                x = [r["tflop"] or r["budget"] for r in mine]
                axes.plot(x, [r[field] for r in mine], marker="osD^v<>P*Xh"[i % 11], color=f"C{i % 10}", label=name)
        axes.set_xscale("log")
        if unit == "fid":
            axes.set_yscale("log")
        axes.set_xlabel("training compute, TFLOP")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def page(rows: Sequence[dict[str, Any]], command: str) -> str:
    """Return docs/scaling.md."""
    few = sorted({r["samples"] for r in rows})
    drawn = " or ".join(f"{n:,}" for n in few)
    split = " and ".join(sorted({r["split"] for r in rows}))
    return "\n".join(
        [
            "# Quality against compute",
            "",
            "One model of each family, trained by its own recipe for a given number of operations, counted over all",
            "its players and stages. Each rung is a training of its own, whose schedule ends where its compute does.",
            "",
            f"Distances are of {drawn} samples, on the {split} split; `≤` marks a bound of a likelihood.",
            "",
            f"![curves of quality over compute]({CURVES})",
            "",
            table(rows),
            "",
            "A rung that is missing was not trained yet. Made by:",
            "",
            f"    {command}",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(LADDER), help="names of the registry")
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS), help="TFLOP of each rung")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--work", type=Path, default=Path("runs/scaling"), help="where the runs go")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "scaling.json")
    parser.add_argument("--page", type=Path, default=Path(__file__).parent.parent / "docs" / "scaling.md")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args, words = parser.parse_known_args(argv)
    if any(not word.startswith(("--trainer.", "--training.")) for word in words if word.startswith("--")):
        parser.error(f"unknown option {words[0]!r}")
    if not all(math.isfinite(b) and b > 0 for b in args.budgets):
        raise ConfigError(f"budgets are positive numbers of TFLOP, got {args.budgets}")
    torch.set_num_threads(1)
    rows = json.loads(args.results.read_text(encoding="utf-8")) if args.results.is_file() else []
    for tflop in [] if args.table else sorted(args.budgets):
        for name in args.models:
            full = load_registry().resolve(name).name
            done = {(r["name"], r["budget"], r["samples"], r["split"]) for r in rows}
            if (full, tflop, args.samples, args.split) in done:
                continue
            rows.append(rung(name, tflop, args.work, args.samples, args.split, words))
            write_whole(args.results, json.dumps(rows, indent=1) + "\n")
            print(rows[-1], flush=True)
    if not rows:
        print("no rung is there yet; train some with --budgets")
        return
    budgets = " ".join(f"{b:g}" for b in sorted({r["budget"] for r in rows}))
    write_whole(args.page, page(rows, f"python benchmarks/scaling.py --budgets {budgets}"))
    plot(rows, args.page.parent / CURVES)
    print(table(rows))


if __name__ == "__main__":
    main()
