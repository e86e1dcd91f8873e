"""``zoo verify NAME|FOLDER``: hold every file of a model against all records of its sha256."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "which",
        metavar="NAME|FOLDER",
        help="a registered name, namespace/name, or a model folder that starts with ./, / or ~",
    )
    parser.add_argument("--revision", default=None, help="branch, tag or commit (default: the pinned one, else main)")
    parser.epilog = "A model that is not in the cache is downloaded first. The exit code is 2 where anything differs."


def run(args: argparse.Namespace) -> int:
    from zoo.hub import pull, verify

    folder = pull(args.which, args.revision)
    for name, digest in sorted(verify(folder).items()):
        print(f"{digest}  {name}")
    print(f"{args.which}: every file is as recorded, in {folder}")
    return 0
