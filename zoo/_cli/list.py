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
        {"name": e.name, "family": e.family, "dataset": e.dataset, "weights": e.pretrained, "alias": short.get(e.name), "summary": e.summary}
        for e in found
    ]  # fmt: skip
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    widths = [max([len(str(r[k])) for r in rows] + [len(k)]) for k in ("name", "family", "dataset")]
    print(f"{'name':<{widths[0]}}  {'family':<{widths[1]}}  {'dataset':<{widths[2]}}  weights  summary")
    for r in rows:
        weights = "yes" if r["weights"] else "-"
        print(
            f"{r['name']:<{widths[0]}}  {r['family']:<{widths[1]}}  {r['dataset']:<{widths[2]}}  {weights:<7}  {r['summary']}"
        )
    return 0
