"""``zoo reproduce NAME``: train a recipe again and say whether the result falls into the recorded band."""

from __future__ import annotations

import argparse
import dataclasses
import json

from zoo._cli.fit import named_parts
from zoo.errors import ZooError, check_choice, close_matches
from zoo.registry import load_registry
from zoo.results import FILES, SPLITS

OPTIONS = """the recipe is the registry's: about the time that `zoo fit --model NAME --dry_run` estimates.
A model that builds on a trained one is told it as in `zoo fit`, such as --autoencoder NAME|RUN.
A run that was interrupted goes on with the same --run. Exit code 0: inside every band; 1: outside of one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = OPTIONS
    parser.set_defaults(parser=parser, rest=[])
    parser.add_argument("name", metavar="NAME", help="a name of the registry that has an expected result")
    parser.add_argument(
        "--run", metavar="DIR", help="the run folder; one that exists is continued (default: a new one)"
    )
    parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    parser.add_argument(
        "--split", default="test", help="evaluate on test, of which the bands are, or on validation (default test)"
    )
    parser.add_argument("--samples", type=int, help="samples of the evaluation (default: the registry's, else 10000)")
    parser.add_argument("--devices", type=int, default=1, help="processes of the evaluation (default 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    check_choice("split", args.split, SPLITS)
    entry = load_registry(*args.registry).recipe(args.name)
    parts, unknown = named_parts(entry, args.rest, args.registry)
    if unknown:
        known = [o for action in args.parser._actions for o in action.option_strings]
        raise ZooError(f"zoo reproduce: unknown option {unknown[0]!r}.{close_matches(unknown[0], known)}")
    from zoo.reproduce import reproduce
    from zoo.training.fit import Stopped

    try:
        found = reproduce(
            args.name,
            run=args.run,
            registry=args.registry,
            parts=parts,
            samples=args.samples,
            devices=args.devices,
            split=args.split,
        )
    except Stopped as stop:
        folder = stop.folder  # type: ignore[attr-defined]
        go_on = f"the checkpoint is kept. Go on with: zoo reproduce {args.name} --run {folder}"
        print(f"zoo: {stop}; {go_on if stop.kept else 'there was no checkpoint yet'}")
        return stop.exit_code
    if args.json:
        bands = [{**dataclasses.asdict(band), "inside": band.inside} for band in found.bands]
        facts = {
            "name": args.name,
            "run": str(found.folder),
            "split": args.split,
            "inside": found.inside,
            "bands": bands,
        }
        print(json.dumps(facts, indent=2))
        return 0 if found.inside else 1
    on, of = ("", "") if args.split == "test" else (f" on the {args.split} split", " of the test split")
    for band in found.bands:
        verdict = f"{'inside' if band.inside else 'OUTSIDE'} the band [{band.low:g}, {band.high:g}]{of}"
        print(f"{args.name}: {band.metric} {band.value:.4g}{on} is {verdict}")
    where = f"the run and its {FILES[args.split]} are in {found.folder}"
    print(f"{'reproduced' if found.inside else 'not reproduced'}; {where}")
    return 0 if found.inside else 1
