"""``zoo verify NAME|FOLDER``: hold every file of a model against all records of its sha256."""

from __future__ import annotations

import argparse
import json

from zoo.names import parse_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "which",
        metavar="NAME|FOLDER",
        help="a registered name, namespace/name, or the folder of a model or a run, such as ./folder",
    )
    parser.add_argument("--revision", default=None, help="branch, tag or commit (default: the pinned one, else main)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = "A model that is not in the cache is downloaded first. The exit code is 2 where anything differs."


def run(args: argparse.Namespace) -> int:
    from zoo.hub import pull, verify

    parsed = parse_name(args.which, args.revision)
    if parsed.is_run:
        from zoo.runs import verify_run

        folder, digests = parsed.path, verify_run(parsed.path)
    else:
        folder = pull(args.which, args.revision)
        digests = verify(folder)
    if args.json:
        print(
            json.dumps({"model": args.which, "folder": str(folder), "sha256": dict(sorted(digests.items()))}, indent=2)
        )
        return 0
    for name, digest in sorted(digests.items()):
        print(f"{digest}  {name}")
    print(f"{args.which}: every file is as recorded, in {folder}")
    return 0
