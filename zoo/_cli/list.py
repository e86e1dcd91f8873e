"""``zoo list``: names, one a line, with family, data set and weights."""

from __future__ import annotations

import argparse
import json

from zoo.registry import load_registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell wildcard over names, such as '*mnist*'")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--dataset", help="only this data set")
    parser.add_argument("--pretrained", action="store_true", default=None, help="only names with weights")
    parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    registry = load_registry(*args.registry)
    found = registry.find(args.pattern, family=args.family, dataset=args.dataset, pretrained=args.pretrained)
    short = {target: alias for alias, target in registry.aliases.items()}
    rows = [
        {
            "name": e.name,
            "family": e.family,
            "dataset": e.dataset,
            "weights": e.pretrained,
            "alias": short.get(e.name),
            "summary": e.summary,
        }
        for e in found
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    columns = ("name", "family", "dataset", "weights")
    shown = [dict(zip(columns, columns, strict=True), summary="summary")]
    shown += [{**r, "weights": "yes" if r["weights"] else "-"} for r in rows]
    widths = [max(len(r[k]) for r in shown) for k in columns]
    for r in shown:
        print("  ".join([*(f"{r[k]:<{w}}" for k, w in zip(columns, widths, strict=True)), r["summary"]]))
    return 0
