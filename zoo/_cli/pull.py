"""``zoo pull NAME``: bring a model's files into the local cache, checked."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="NAME", help="a registered name, or namespace/name, with @revision if wanted")
    parser.add_argument("--revision", default=None, help="branch, tag or commit (default: the pinned one, else main)")
    parser.epilog = "Private models: set HF_TOKEN, or run `hf auth login`. Another Hub: set HF_ENDPOINT."


def run(args: argparse.Namespace) -> int:
    from zoo.hub import pull

    folder = pull(args.which, args.revision)
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path.name}")
    print(f"{args.which}: {folder}")
    return 0
