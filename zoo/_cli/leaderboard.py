"""``zoo leaderboard``: all known results as tables, or as a web page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zoo.errors import ZooError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER|REPO",
        help="look here too: folders, files, or Hub repositories as namespace/name[@revision] "
        "(always: bundled weights, ./results, ./runs)",
    )
    parser.add_argument("--dataset", help="only this data set")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--track", help="only this track: home (at most 50 TFLOP of training) or open")
    parser.add_argument("--sort", metavar="COLUMN", help="fid, likelihood, parameters, samples_per_second, name, ...")
    parser.add_argument("--markdown", action="store_true", help="print markdown")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--csv", action="store_true", help="print CSV: one line a result, every column, the protocol")
    parser.add_argument(
        "--html", metavar="DIR", help="write a web page into this folder, ready to be opened or to be a static Space"
    )


def run(args: argparse.Namespace) -> int:
    from zoo.leaderboard import (
        default_folders,
        find,
        pins_of,
        tables,
        to_csv,
        to_json,
        to_markdown,
        to_text,
        write_site,
    )
    from zoo.registry import load_registry

    known = [folder for folder in default_folders() if folder.is_dir()]
    registry = load_registry()
    folders, names, failed = _given(args.folders)
    found, left_out = find([*known, *folders], pins_of(registry), names)
    left_out = failed + left_out
    results = [result for result, _ in found]
    arranged = (
        tables(results, dataset=args.dataset, family=args.family, sort=args.sort, only=args.track) if results else []
    )
    if args.html is not None:
        folders = {id(result): folder for result, folder in found}
        print(f"written to {write_site(args.html, arranged, folders, registry, left_out)}")
    if args.json:
        print(to_json(arranged, left_out))
        return 0
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    if args.csv:
        print(to_csv(arranged), end="")
        return 0
    if not arranged:
        print("no results yet; make one with `zoo evaluate NAME`", file=sys.stderr)
        return 0
    if args.html is None or args.markdown:
        print(to_markdown(arranged) if args.markdown else to_text(arranged))
    return 0


def _given(asked: list[str]) -> tuple[list[Path], dict[Path, str], list[str]]:
    """Return folders and files, the names of those that are Hub repositories, and why others of these are left out."""
    folders, names, failed = [], {}, []
    for which in asked:
        path = Path(which)
        if path.exists() or which.count("/") != 1 or which.startswith((".", "~", "/")):
            folders.append(path)
            continue
        import zoo

        try:
            path = Path(zoo.pull(which))
        except ZooError as error:
            failed.append(str(error) if which in str(error) else f"{which}: {error}")
        else:
            folders.append(path)
            names[path] = which
    return folders, names, failed
