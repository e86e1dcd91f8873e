"""``zoo push RUN|NAME|FOLDER --repo R``: publish a model on the Hub as one commit."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "which", metavar="RUN|NAME|FOLDER", help="a run folder, a registered name with weights, or a model folder"
    )
    parser.add_argument("--repo", required=True, metavar="NAMESPACE/NAME", help="where to; created if need be")
    parser.add_argument("--revision", default="main", help="branch; created if need be (default main)")
    parser.add_argument("--tag", default=None, help="name to give the commit, such as v1")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry_run", action="store_true", help="check everything and send nothing")
    parser.epilog = "The token comes from HF_TOKEN or `hf auth login`. Another Hub: set HF_ENDPOINT."


def run(args: argparse.Namespace) -> int:
    from zoo.hub import push

    result = push(
        args.which,
        args.repo,
        private=True if args.private else None,
        revision=args.revision,
        tag=args.tag,
        dry_run=args.dry_run,
        progress=sys.stderr.isatty(),
    )
    for name, size in result.files.items():
        print(f"{size:>12,}  {name}")
    total = f"{len(result.files)} files, {sum(result.files.values()):,} bytes"
    if result.commit is None:
        print(f"{total} would go to {result.url}; nothing was sent")
    else:
        print(f"{total} are at {result.url}" + (f", tagged {args.tag}" if args.tag else ""))
    return 0
