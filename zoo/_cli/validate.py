"""``zoo validate`` and ``zoo test``: the model's loss terms over one split."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from zoo._cli import fit
from zoo.errors import ZooError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="NAME|RUN", nargs="?", help="a model with weights, or a run folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    fit.add_arguments(parser, resume=False)


def run(args: argparse.Namespace, split: str = "validation") -> int:
    saved = Path(args.which or "") / "config.yaml"
    if args.help:
        args.config, args.model = (
            (str(saved), args.model) if saved.is_file() else (args.config, args.model or args.which)
        )
        return fit.show_help(args)
    if args.which is None:
        raise ZooError("no model is named; give a name with weights (zoo list --pretrained shows them) or a run folder")
    folder = args.which if saved.is_file() else None
    if folder is None and args.model is None:
        args.model = args.which.partition("@")[0]
    if args.config is not None and folder is not None:
        raise ZooError("a run folder has its own configuration; leave --config out")
    entry, rest = fit.entry_of(args, folder)
    from zoo.hub import load
    from zoo.training.fit import Run, validate

    model = load(Path(folder) if folder is not None else args.which)
    terms = validate(Run(fit.plain_entry(entry), rest, allow=entry.allow), model, split)
    if args.json:
        print(json.dumps(terms, indent=2))
    else:
        print("\n".join(f"{name:<28} {value:.6g}" for name, value in sorted(terms.items())))
    return 0
