"""``zoo cache list|rm|prune|verify``: the zoo's models in the Hub's cache here, in the words of ``hf cache``."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
from typing import Any

from zoo.errors import ConfigError

ACTIONS = ("list", "rm", "prune", "verify")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS, nargs="?", default="list", help="what to do (default: list)")
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="of rm: namespace/name, or one commit of it by @revision"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--cache-dir", default=None, help="another cache than that of HF_HUB_CACHE or HF_HOME")
    parser.epilog = (
        "list: the models with their sizes. rm: remove some. prune: remove commits that no branch, tag or registry "
        "entry points to, and what killed downloads left. verify: hold all files against their recorded sha256; the "
        "exit code is 2 where one differs. Models of other libraries in the same cache are neither shown nor touched."
    )


def run(args: argparse.Namespace) -> int:
    from zoo.hub import keeping
    from zoo.hub.session import cache_folder

    where = cache_folder(args.cache_dir)
    if (args.action == "rm") != bool(args.names):
        raise ConfigError("`zoo cache rm` takes the models to remove, and the other actions take no names")
    if args.json:
        return _json(args, where)
    if args.action == "list":
        return _list(keeping.cached_models(args.cache_dir), where)
    if args.action == "verify":
        bad = 0
        for kept, error in keeping.verify_cached(args.cache_dir):
            print(
                f"{'damaged' if error else 'good':<8} {kept.repo}@{kept.commit[:12]}" + (f"  {error}" if error else "")
            )
            bad += error is not None
        print(f"{bad} damaged; remove them with `zoo cache rm NAME`, and pull them again" if bad else "all good")
        return 2 if bad else 0
    if args.action == "prune":
        freed = keeping.prune(args.cache_dir)
        print(
            f"removed {freed.models} commits and {freed.downloads} unfinished downloads, {_size(freed.size)}, "
            f"from {where}"
        )
        return 0
    for name in args.names:
        freed = keeping.remove(name, args.cache_dir)
        print(f"removed {name}: {freed.models} {'commit' if freed.models == 1 else 'commits'}, {_size(freed.size)}")
    return 0


def _json(args: argparse.Namespace, where: object) -> int:
    """Do what was asked, and print what came of it."""
    from zoo.hub import keeping

    facts: dict[str, Any] = {"cache": str(where)}
    if args.action == "list":
        facts["models"] = [_facts(kept) for kept in keeping.cached_models(args.cache_dir)]
    elif args.action == "verify":
        checked = keeping.verify_cached(args.cache_dir)
        facts["models"] = [{**_facts(kept), "error": str(error) if error else None} for kept, error in checked]
    elif args.action == "prune":
        facts["removed"] = dataclasses.asdict(keeping.prune(args.cache_dir))
    else:
        facts["removed"] = {name: dataclasses.asdict(keeping.remove(name, args.cache_dir)) for name in args.names}
    print(json.dumps(facts, indent=2))
    return 2 if any(model.get("error") for model in facts.get("models", ())) else 0


def _facts(kept: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(kept), "folder": str(kept.folder)}


def _list(models: list, where: object) -> int:
    for kept in models:
        day = datetime.datetime.fromtimestamp(kept.modified).strftime("%Y-%m-%d")
        refs = f"  ({', '.join(kept.refs)})" if kept.refs else "  (detached)"
        print(f"{_size(kept.size):>10}  {day}  {kept.repo}@{kept.commit[:12]}{refs}")
    total = sum(kept.size for kept in models)
    print(f"{_size(total):>10}  in all, {len(models)} {'model' if len(models) == 1 else 'models'} in {where}")
    return 0


def _size(number: int) -> str:
    """Return bytes as people read them, in powers of 1000 as ``hf cache`` does."""
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
