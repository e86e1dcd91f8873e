"""``zoo docs``: open the documentation in the browser, built on this machine; or build it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--build", action="store_true", help="build it anew, and do not open it")
    parser.add_argument("--strict", action="store_true", help="with --build: refuse warnings, and links to nowhere")
    parser.add_argument("--out", metavar="DIR", help="where the site is (default: zoo/docs in the user's cache)")
    parser.add_argument("--json", action="store_true", help="print where the site is as JSON")


def run(args: argparse.Namespace) -> int:
    from zoo.documentation import build_site, site_folder, stale
    from zoo.errors import ConfigError

    if args.strict and not args.build:
        raise ConfigError("--strict goes with --build; without it nothing need be built")
    folder = Path(args.out).expanduser() if args.out is not None else site_folder()
    page = folder.absolute() / "index.html"
    built = args.build or stale(folder)
    if built:
        build_site(folder, strict=args.strict)
    opened = False if args.build else _opened(page)
    if args.json:
        print(json.dumps({"page": str(page), "built": built, "opened": opened}))
    elif args.build:
        print(f"built: {page}")
    else:
        print(f"{'opened' if opened else 'there is no browser to open it in; it is'} {page}")
    return 0


def _opened(page: Path) -> bool:
    import webbrowser

    return webbrowser.open(page.as_uri())
