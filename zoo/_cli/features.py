"""``zoo features NAME|RUN``: what a probe and neighbours read off the features of trained models."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from zoo.errors import ConfigError, ZooError, check_choice
from zoo.results import SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", nargs="+", metavar="NAME|RUN", help="names, wildcards, addresses on the Hub, or runs")
    parser.add_argument("--data", metavar="NAME", help="data set (default: what the model was trained on)")
    parser.add_argument("--split", default="test", help="test, or validation (default test)")
    parser.add_argument("--limit", type=int, help="take only the first so many examples of the split")
    parser.add_argument("--quick", action="store_true", help="5,000 training and 1,000 test examples; marked")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    parser.add_argument("--out", metavar="FILE", help="write into this JSON file, beside the models that it holds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = (
        "Beside the features: those of the model before training, and the pixels themselves. Models of a wildcard that "
        "have no weights or no features are passed over."
    )


def run(args: argparse.Namespace) -> int:
    check_choice("split", args.split, SPLITS)
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"limit must be a positive integer, got {args.limit}")
    import zoo
    from zoo import representations
    from zoo.devices import chosen_device

    names, device = _names(args.which), chosen_device(args.device)
    if args.out is not None and Path(args.out).exists():
        representations.read(args.out)  # says now what would be lost later
    found, failed = [], []
    for name, wild in names.items():
        try:
            row = zoo.evaluate_features(
                name, args.data, split=args.split, limit=args.limit, quick=args.quick, device=device
            )
        except ZooError as error:
            if len(names) == 1 and not wild:
                raise
            (failed if not wild else []).append(name)
            print(f"zoo: {'left out' if wild else 'error'}: {name}: {error}", file=sys.stderr)
            continue
        found.append(row)
        if args.out is not None:
            representations.write(args.out, [row])
    if args.json:
        json.dump([asdict(row) for row in found], sys.stdout, indent=1, ensure_ascii=False)
        print()
    elif found:
        print(representations.to_table(found))
    if failed:
        raise ZooError(f"the features of {len(failed)} of {len(names)} models were not measured: {', '.join(failed)}")
    return 0


def _names(asked: list[str]) -> dict[str, bool]:
    """Return each name, and whether a wildcard gave it. Raises `ConfigError` for a wildcard that gives none."""
    from zoo.registry import load_registry

    names: dict[str, bool] = {}
    for which in asked:
        if "*" not in which and "?" not in which:
            names[which] = False
            continue
        given = [entry.name for entry in load_registry().find(which, pretrained=True)]
        if not given:
            raise ConfigError(f"no registered model with weights is called {which!r}; zoo list shows them")
        names |= {name: True for name in given if name not in names}
    return names
