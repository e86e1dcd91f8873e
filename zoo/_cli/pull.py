"""``zoo pull NAME``: bring a model's files into the local cache, checked."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="NAME", help="a registered name, or namespace/name, with @revision if wanted")
    parser.add_argument("--revision", default=None, help="branch, tag or commit (default: the pinned one, else main)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = "Private models: set HF_TOKEN, or run `hf auth login`. Another Hub: set HF_ENDPOINT."


def run(args: argparse.Namespace) -> int:
    from zoo.hub import pull

    folder = pull(args.which, args.revision)
    if args.json:
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        print(json.dumps({"model": args.which, "folder": str(folder), "files": files}, indent=2))
        return 0
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path.name}")
    print(f"{args.which}: {folder}")
    return 0
