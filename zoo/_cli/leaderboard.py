"""``zoo leaderboard``: all known results as tables."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="look here too (always: bundled weights, ./results, ./runs)"
    )
    parser.add_argument("--dataset", help="only this data set")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--sort", metavar="COLUMN", help="fid, likelihood, parameters, samples_per_second, name, ...")
    parser.add_argument("--markdown", action="store_true", help="print markdown")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from zoo.leaderboard import collect, default_folders, tables, to_json, to_markdown, to_text

    known = [folder for folder in default_folders() if folder.is_dir()]
    results, left_out = collect([*known, *args.folders])
    found = tables(results, dataset=args.dataset, family=args.family, sort=args.sort) if results else []
    if args.json:
        print(to_json(found, left_out))
        return 0
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    if not found:
        print("no results yet; make one with `zoo evaluate NAME`", file=sys.stderr)
        return 0
    print(to_markdown(found) if args.markdown else to_text(found))
    return 0
