"""Do other views agree with the digit classifier? Bundled models of pictures in three views, and tests of copying.

    python benchmarks/second_views.py                     # all bundled models of digits
    python benchmarks/second_views.py --fast              # only those that draw 200 samples a second or more
    python benchmarks/second_views.py NAME ... --split validation
    python benchmarks/second_views.py --table             # from what is there, drawing nothing

Of each model 2,000 samples for each of three seeds (--samples, --seeds) are compared with all images of the split in
the classifier's features, in those of random convolutions, and in principal components of pixels: Fréchet distances
with their standard errors over the seeds, and the place that each view gives the row. 2,000 samples score higher than
10,000 by the bias of the estimate, which the floor shows, so nothing here compares with the tables of 10,000. Beside
them, how near samples come to training images, by the same test for validation images, which no training has seen.

Finished rows are kept in results/second_views.json, by the sha256 of their weights: a run that was interrupted goes on,
and only new weights are drawn again. The table is results/second_views.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.files import write_whole
from zoo.leaderboard import bundled_folder
from zoo.registry import load_registry
from zoo.results import FILE, SPLITS, read

VIEWS = {"fid": "digit classifier", "frechet_random": "random convolutions", "frechet_pca": "PCA of pixels"}
KEPT = (*VIEWS, "kid", "nearest_ratio", "copied_share")
FAST = 200.0  # samples a second
APART = 3  # places between two views that are worth a word


def measured(name: str, split: str, samples: int, seeds: int) -> dict[str, Any]:
    """Return the row of a model: metrics, floor, and what they depend on."""
    # one test example is enough for a likelihood that is not looked at
    result = zoo.evaluate(name, samples=samples, seeds=seeds, limit=1, split=split, progress=True)
    found = {n: {"value": m.value, "standard_error": m.standard_error} for n, m in result.metrics.items() if n in KEPT}
    floor = {n: m.value for n, m in result.floor.items() if n in KEPT}
    views = result.protocol.estimators["views"]
    return {
        "name": name, "weights_sha256": result.identity.weights_sha256, "data": result.data.name, "split": split,
        "digest": result.data.digest, "samples": samples, "seeds": seeds, "views": views, "metrics": found,
        "floor": floor, "conditional": result.protocol.conditional,
    }  # fmt: skip


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a row another one."""
    return tuple(row[n] for n in ("name", "weights_sha256", "split", "samples", "seeds"))


def places(rows: Sequence[dict[str, Any]], view: str) -> dict[str, int]:
    """Return name -> place by a view, 1 for the least distance."""
    order = sorted(rows, key=lambda r: r["metrics"][view]["value"])
    return {r["name"]: i for i, r in enumerate(order, 1)}


def agreement(a: dict[str, int], b: dict[str, int]) -> float:
    """Return Spearman's rank correlation of two orders of the same names, 1 where they are the same."""
    n = len(a)
    return 1 - 6 * sum((a[name] - b[name]) ** 2 for name in a) / (n * (n * n - 1)) if n > 1 else math.nan


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the markdown of rows that compare, by the place of the classifier; and where the views disagree."""
    order = {view: places(rows, view) for view in VIEWS}
    first, reference = order["fid"], rows[0]
    head = ["model", *(f"{what} (place)" for what in VIEWS.values()), "nearest ratio", "copied share"]
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row in sorted(rows, key=lambda r: first[r["name"]]):
        cells = [_number(row["metrics"][view], view) + f" ({order[view][row['name']]})" for view in VIEWS]
        copied = [f"{row['metrics'][n]['value']:.{d}f}" for n, d in (("nearest_ratio", 2), ("copied_share", 4))]
        lines.append(f"| {row['name']} | {' | '.join([*cells, *copied])} |")
    floor = reference["floor"]
    cells = [f"{floor[view]:.4g}" if view in floor else "" for view in VIEWS]
    cells += [f"{floor[n]:.{d}f}" if n in floor else "" for n, d in (("nearest_ratio", 2), ("copied_share", 4))]
    lines.append(f"| real images (floor) | {' | '.join(cells)} |")
    said = []
    for view, what in list(VIEWS.items())[1:]:
        moved = {n: (first[n], order[view][n]) for n in first if abs(first[n] - order[view][n]) >= APART}
        words = "; ".join(f"{n} {a} there, {b} here" for n, (a, b) in sorted(moved.items(), key=lambda m: m[1]))
        said.append(
            f"{what[0].upper()}{what[1:]} against the classifier: rank correlation {agreement(first, order[view]):.2f}"
            + (f"; {APART} or more places apart: {words}." if words else "; no row is so much as three places apart.")
        )
    shared = f"{reference['samples']:,} samples for each of {reference['seeds']} seeds, {reference['split']} images"
    return "\n".join([f"{shared}; ± is the standard error over seeds.", "", *lines, "", "\n\n".join(said)])


def _number(metric: dict[str, Any], view: str) -> str:
    digits = 2 if view == "fid" else 4
    error = metric["standard_error"]
    return f"{metric['value']:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return all rows as markdown: a table for each data set, split, kind of labels and number of samples."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if all(view in row["metrics"] for view in VIEWS):
            group = (row["data"], row["split"], row["conditional"], row["samples"], row["seeds"])
            groups.setdefault(group, []).append(row)
    parts = ["# Second views", "", "Made by `python benchmarks/second_views.py`, which says what the columns are."]
    for (data, split, conditional, *_), group in sorted(groups.items(), key=lambda g: str(g[0])):
        parts += ["", f"## {data}, {split} split, {'told the class' if conditional else 'not told the class'}", ""]
        parts.append(table(group))
    return "\n".join(parts) + "\n"


def asked(names: Sequence[str], fast: bool) -> list[str]:
    """Return the bundled models of digits, the fastest first; with ``fast`` only those that draw quickly."""
    shipped = [read(path) for path in sorted(bundled_folder().glob(f"*/{FILE}"))]
    rate = {r.identity.name: r.cost.samples_per_second or 0.0 for r in shipped if "fid" in r.metrics}
    chosen = list(names) or sorted(rate, key=lambda n: -rate[n])
    return [load_registry().resolve(n).name for n in chosen if not fast or rate.get(n, 0.0) >= FAST]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", help="bundled names or run folders; all bundled models of digits by default"
    )
    parser.add_argument("--fast", action="store_true", help=f"only models that draw {FAST:.0f} samples a second")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--samples", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--table", action="store_true", help="draw nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = args.out / "second_views.json"
    rows = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    pins = {e.name: e.weights.get("sha256") for e in load_registry().values()}
    for name in [] if args.table else asked(args.names, args.fast):
        wanted = (name, pins.get(name), args.split, args.samples, args.seeds)
        if wanted in {key(row) for row in rows}:
            continue
        row = measured(name, args.split, args.samples, args.seeds)
        same = (row["name"], row["split"], row["samples"], row["seeds"])
        rows = [r for r in rows if (r["name"], r["split"], r["samples"], r["seeds"]) != same] + [row]
        write_whole(kept, json.dumps(rows, indent=1) + "\n")
        print({n: round(m["value"], 4) for n, m in row["metrics"].items()} | {"model": name}, flush=True)
    if rows:
        write_whole(args.out / "second_views.md", page(rows))
        print(page(rows))


if __name__ == "__main__":
    main()
