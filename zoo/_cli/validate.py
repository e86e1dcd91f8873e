"""``zoo validate`` and ``zoo test``: the model's loss terms over one split."""

from __future__ import annotations

import argparse
import json

from zoo._cli import fit
from zoo.errors import ZooError
from zoo.names import parse_name
from zoo.registry import load_registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="NAME|RUN", nargs="?", help="a model with weights, or a run folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    fit.add_arguments(parser, resume=False)


def run(args: argparse.Namespace, split: str = "validation") -> int:
    if args.help:
        if args.which is not None and args.model is None and args.config is None:
            parsed = parse_name(args.which, registry=load_registry(*args.registry))
            args.model = None if parsed.entry is None else parsed.entry.name
            args.config = str(parsed.path / "config.yaml") if parsed.is_run else None
        fit.show_help(args)
    if args.which is None:
        raise ZooError("no model is named; give a name with weights (zoo list --pretrained shows them) or a run folder")
    from zoo.hub import load

    parsed = parse_name(args.which, registry=load_registry(*args.registry))
    folder = str(parsed.path) if parsed.is_run else None
    if args.model is None and args.config is None and folder is None:
        args.model = load(args.which).source.name if parsed.entry is None else parsed.entry.name
    if args.config is not None and folder is not None:
        raise ZooError("a run folder has its own configuration; leave --config out")
    entry, rest = fit.entry_of(args, folder)
    rest = fit.seeded(args, entry, rest)
    from zoo.training.fit import Run, validate

    model = load(args.which)
    terms = validate(Run(entry.for_training(), rest, allow=entry.allow), model, split)
    if args.json:
        print(json.dumps(terms, indent=2))
    else:
        print("\n".join(f"{name:<28} {value:.6g}" for name, value in sorted(terms.items())))
    return 0
