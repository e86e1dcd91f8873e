"""Evaluate bundled models again as the code is now, and write their results and cards anew.

    python benchmarks/reevaluate.py [NAME ...]

Without names: those whose eval.json is of an older schema or lacks a constant of today's estimators. What is known of
their training, and what a person wrote on a card, stays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bundle import renew

import zoo
from zoo.leaderboard import bundled_folder
from zoo.metrics.distribution import ESTIMATORS
from zoo.metrics.neighbours import NEIGHBOURS
from zoo.registry import load_registry, pretrained_folder
from zoo.results import FILE, SCHEMA, read


def outdated(folder: Path) -> bool:
    """Tell whether a bundled result lacks something that an evaluation records today."""
    if json.loads((folder / FILE).read_text(encoding="utf-8"))["schema"] < SCHEMA:
        return True
    protocol = read(folder).protocol
    return protocol.samples is not None and not {*ESTIMATORS, *NEIGHBOURS} <= set(protocol.estimators)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--work", type=Path, help="where finished pieces are kept, so that it can go on")
    args = parser.parse_args()
    names = args.names or [p.parent.name for p in sorted(bundled_folder().glob(f"*/{FILE}")) if outdated(p.parent)]
    for name in names:
        folder = pretrained_folder(name)
        before = read(folder)
        p = before.protocol
        with tempfile.TemporaryDirectory() as out:
            after = zoo.evaluate(
                name, samples=p.samples or 10_000, seed=p.seeds[0], seeds=len(p.seeds), k=p.k, batch_size=p.batch_size,
                out=out, work=args.work,
            )  # fmt: skip
            (folder / FILE).write_bytes((Path(out) / FILE).read_bytes())
        renew(load_registry()[name], folder, "", None)
        for metric in before.metrics:
            print(f"{name} {metric}: {before.metrics[metric].value:.6g} -> {after.metrics[metric].value:.6g}")


if __name__ == "__main__":
    main()
