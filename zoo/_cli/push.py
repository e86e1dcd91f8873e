"""``zoo push RUN|NAME|FOLDER --repo R``: publish a model on the Hub as one commit."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "which", metavar="RUN|NAME|FOLDER", help="a run folder, a registered name with weights, or a model folder"
    )
    parser.add_argument("--repo", required=True, metavar="NAMESPACE/NAME", help="where to; created if need be")
    parser.add_argument("--revision", default="main", help="branch; created if need be (default main)")
    parser.add_argument("--tag", default=None, help="name to give the commit, such as v1")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry_run", action="store_true", help="build, check and show everything, and send nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = "The token comes from HF_TOKEN or `hf auth login`. Another Hub: set HF_ENDPOINT."


def run(args: argparse.Namespace) -> int:
    from zoo.hub import push

    shown: dict[str, int] = {}

    def show(files: Mapping[str, int]) -> None:
        shown.update(files)
        if args.json:
            return
        for name, size in files.items():
            print(f"{size:>12,}  {name}")
        print(f"{sum(files.values()):>12,}  bytes in {len(files)} files for {args.repo}", flush=True)

    result = push(
        args.which,
        args.repo,
        private=True if args.private else None,
        revision=args.revision,
        tag=args.tag,
        dry_run=args.dry_run,
        progress=sys.stderr.isatty(),
        show=show,
    )
    if args.json:
        facts = {"repo": args.repo, "url": result.url, "commit": result.commit, "tag": args.tag, "files": shown}
        print(json.dumps(facts, indent=2))
        return 0
    if result.commit is None:
        print(f"nothing was sent; it would go to {result.url}")
        return 0
    if result.files["README.md"] != shown["README.md"]:
        print("README.md keeps what was written by hand on the Hub")
    print(f"they are at {result.url}" + (f", tagged {args.tag}" if args.tag else ""))
    return 0
