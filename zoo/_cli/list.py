"""``zoo list``: names, one a line, with family, data set and weights; or the models that a namespace of the Hub has."""

from __future__ import annotations

import argparse
import json
from typing import Any

from zoo.errors import ZooError
from zoo.registry import load_registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell wildcard over names, such as '*mnist*'")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--dataset", help="only this data set")
    parser.add_argument("--pretrained", action="store_true", default=None, help="only names with weights")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave out names that match")
    parser.add_argument(
        "--sort", metavar="COLUMN", help="name, family, dataset, year, or fid, likelihood, parameters, ...: best first"
    )
    parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    parser.add_argument("--hub", metavar="NAMESPACE", help="the models that a user or organisation has on the Hub")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.hub is not None:
        return _hub(args)
    registry = load_registry(*args.registry)
    facts = {"family": args.family, "dataset": args.dataset, "pretrained": args.pretrained}
    if args.exclude or args.sort:
        from zoo.catalogue import select

        found = select(args.pattern, **facts, exclude_filters=args.exclude, sort=args.sort)
    else:
        found = registry.find(args.pattern, **facts)
    short = {target: alias for alias, target in registry.aliases.items()}
    rows = [
        {
            "name": e.name,
            "family": e.family,
            "dataset": e.dataset,
            "weights": e.pretrained,
            "untrained": e.untrained or None,
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
    shown += [{**r, "weights": "yes" if r["weights"] else "no", "summary": _summary(r)} for r in rows]
    widths = [max(len(r[k]) for r in shown) for k in columns]
    for r in shown:
        print("  ".join([*(f"{r[k]:<{w}}" for k, w in zip(columns, widths, strict=True)), r["summary"]]))
    return 0


def _summary(row: dict[str, Any]) -> str:
    alias = row["alias"]
    notes = [f"what {alias} means"] if alias and row["name"].startswith(f"{alias}.") else []
    notes += [f"no weights: {row['untrained']}"] if row["untrained"] is not None else []
    return f"{row['summary']} ({'; '.join(notes)})" if notes else row["summary"]


def _hub(args: argparse.Namespace) -> int:
    from fnmatch import fnmatchcase

    from zoo.hub import list as list_hub

    if args.family or args.dataset or args.pretrained or args.registry or args.exclude or args.sort:
        raise ZooError("zoo list --hub takes a pattern and --json only: the other options are about the registry")
    found = [repo for repo in list_hub(args.hub) if fnmatchcase(repo.rpartition("/")[2], args.pattern)]
    if args.json:
        print(json.dumps([{"name": repo} for repo in found], indent=2))
        return 0
    for repo in found:
        print(repo)
    if not found:
        print(f"{args.hub} has no models of the zoo that match {args.pattern!r}")
    return 0
