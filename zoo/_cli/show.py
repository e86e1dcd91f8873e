"""``zoo show NAME|RUN``: what a model is, how it is trained, what it reached, and whom to cite."""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.bundled import WEIGHTS_PACKAGE, lacks_weights
from zoo.catalogue import bibtex
from zoo.errors import ModelFolderError, RunError
from zoo.names import is_path
from zoo.registry import Entry, load_registry, pretrained_folder
from zoo.spec import is_spec
from zoo.trained_parts import TrainedPart, declared

_WIDTH, _DEEPEST = 120, 8
"""Characters of a line, and how far in the objects in objects are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME|RUN", help="a name of the registry, a run folder or a model folder")
    parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    registry = load_registry(*args.registry)
    if is_path(args.name):
        metadata = _folder(Path(args.name).expanduser())
        print(json.dumps(metadata, indent=2) if args.json else "\n".join(_folder_lines(args.name, metadata)))
        return 0
    entry = registry.resolve(args.name)
    results, parts = _results(entry), _parts(entry)
    if args.json:
        content = {k: v for k, v in dataclasses.asdict(entry).items() if v}
        said = {n: {"what": p.what, "example": p.example, "needs": p.needs} for n, p in parts.items()}
        print(json.dumps({**content, **({"trained_parts": said} if said else {}), "results": results}, indent=2))
        return 0
    print("\n".join(_lines(entry, results, parts)))
    return 0


def _parts(entry: Entry) -> Mapping[str, TrainedPart]:
    """Return the trained parts that the model's class takes.

    A class of the zoo is asked, which means to import it, only where its entry holds another model or a user's class.
    """
    held = [v["class_path"] for v in (entry.model.get("init_args") or {}).values() if is_spec(v)]
    plain = ("zoo.nets.", "zoo.maths.", "torch.")
    ours = entry.model["class_path"].startswith("zoo.")
    if ours and all(str(path).startswith(plain) for path in held):
        return {}
    return declared(entry.model["class_path"], tuple(entry.allow))


def _folder(path: Path) -> dict[str, Any]:
    """Return what run.json or config.json of a folder says. Raises `RunError` where it is neither a run nor a model."""
    from zoo.hub.layout import read_file

    file = path / ("run.json" if (path / "run.json").is_file() else "config.json")
    try:
        metadata = json.loads(read_file(file))
    except (ModelFolderError, ValueError, RecursionError) as error:
        raise RunError(f"{path} has no run.json or config.json that can be read; is it a run or a model?") from error
    return metadata if isinstance(metadata, dict) else {}


def _folder_lines(name: str, metadata: dict[str, Any]) -> list[str]:
    """Return what is known of a run or a model folder; its text is foreign, so that it is shown as plain text only."""
    from zoo.hub.layout import shown

    spec, cost, data = (_mapping(metadata.get(part)) for part in ("spec", "cost", "data"))
    arguments = spec.get("init_args") or metadata.get("args") or {}
    lines = [f"{shown(name)}: " + shown(metadata.get("name") or "a model folder")]
    lines.append("model     " + shown(spec.get("class_path") or metadata.get("model") or ""))
    lines += _tree(arguments, lambda value: shown(value, 200))
    lines.append("data      " + shown(data.get("class_path") or data.get("name") or ""))
    lines += _tree(data.get("init_args") or {}, lambda value: shown(value, 200))
    names = metadata.get("class_names")
    lines += _class_lines([shown(n) for n in names] if isinstance(names, list) else [])
    if "step" in metadata:
        lines.append(
            f"training  {shown(metadata.get('status'))} at step {shown(metadata['step'])} of "
            f"{shown(metadata.get('steps'))}"
        )
    if cost.get("training_tflop") is not None:
        lines.append(f"compute   {shown(cost['training_tflop'])} TFLOP in {shown(cost.get('seconds'))} s")
    return lines


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return what should be a mapping, and nothing where a damaged file has something else in its place."""
    return value if isinstance(value, dict) else {}


def _class_lines(names: list[str]) -> list[str]:
    """Return the classes in the order of their labels; of many, the first and the last."""
    if not names:
        return []
    parts = [f"{i} {n}" for i, n in enumerate(names)]
    parts = parts if len(parts) <= 24 else [*parts[:20], "...", parts[-1]]
    return [f"classes   {len(names)}: " + ", ".join(parts)]


def _results(entry: Entry) -> dict[str, Any]:
    path = pretrained_folder(entry.name) / "eval.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _lines(entry: Entry, results: dict[str, Any], parts: Mapping[str, TrainedPart]) -> list[str]:
    lines = [
        f"{entry.name}: {entry.summary}",
        f"family    {entry.family}",
        f"weights   {_weights(entry)}",
    ]
    paper = entry.paper
    if paper:
        where = f"arXiv {paper['arxiv']}" if "arxiv" in paper else paper.get("url", "")
        lines.append(f"paper     {paper['title']}. {paper['authors']}, {paper['year']}. {where}")
    lines.append(f"model     {entry.model['class_path']}")
    lines += _tree(entry.model.get("init_args") or {})
    for part, declaration in parts.items():
        lines.append(f"takes     --{part}, as it is {declaration.what}, such as {declaration.example}")
    lines += [f"data      {entry.data['class_path']}", *_tree(entry.data.get("init_args") or {})]
    if entry.pretrained:
        lines += _class_lines(_folder(pretrained_folder(entry.name)).get("class_names") or [])
    lines += ["trainer", *_tree(entry.trainer), "training", *_tree(entry.training)]
    lines += ["gpu, which changes on one (--recipe)", *_tree(entry.gpu)] if entry.gpu else []
    metrics = {k: _value(v) for k, v in results.get("metrics", {}).items() if _value(v)}
    if metrics:
        shares = [metrics.pop(f"digit_share_{k}") for k in range(10) if f"digit_share_{k}" in metrics]
        lines += ["results", *_tree({**metrics, **({"digit_share_0 to 9": " ".join(shares)} if shares else {})})]
    if entry.overlays:
        lines.append("from      " + ", ".join(overlay.path for overlay in entry.overlays))
    given = entry.model.get("init_args") or {}
    needed = [f" --{part} {declaration.example}" for part, declaration in parts.items() if given.get(part) is not None]
    lines += ["", f"train it  zoo fit --model {entry.name}{''.join(needed)}"]
    if entry.pretrained:
        draws = (results.get("cost") or {}).get("samples_per_second") is not None or not results
        use = f"zoo sample {entry.name} -n 64 --seed 0 --out samples.png" if draws else f"zoo export {entry.name}"
        lines.append(f"use it    {use}")
    if paper:
        lines += ["", "cite", bibtex(paper)]
    return lines


def _weights(entry: Entry) -> str:
    if not entry.pretrained:
        return f"none: {entry.untrained}" if entry.untrained else "none yet"
    return f"yes, in the package {WEIGHTS_PACKAGE}, which is not installed" if lacks_weights(entry.name) else "yes"


def _tree(arguments: Any, write: Callable[[str], str] = str, depth: int = 0) -> list[str]:
    """Return a line for each argument, those of an object further in below it; ``write`` makes text fit to be shown.

    What is no mapping, as in a damaged file, has no arguments.
    """
    lines, indent = [], "  " * (depth + 5)
    for name, value in _mapping(arguments).items():
        head = f"{indent}{write(str(name))}: "
        if isinstance(value, Mapping) and isinstance(value.get("init_args", {}), Mapping) and depth < _DEEPEST:
            kind = value.get("class_path") or value.get("name") or ""
            inner = value.get("init_args" if "class_path" in value else "args", {}) if kind else value
            lines += [head + write(str(kind).rpartition(".")[2] if kind else ""), *_tree(inner, write, depth + 1)]
        else:
            lines += textwrap.wrap(head + write(_short(value)), _WIDTH, subsequent_indent=indent + "  ") or [head]
    return lines


def _short(value: Any, depth: int = 0) -> str:
    if isinstance(value, (dict, list)) and depth > _DEEPEST:
        return "..."
    if isinstance(value, dict):
        own = _mapping(value.get("init_args")) if "class_path" in value else value
        inner = ", ".join(f"{k}={_short(v, depth + 1)}" for k, v in own.items())
        return f"{str(value['class_path']).rpartition('.')[2]}({inner})" if own is not value else inner or "defaults"
    if isinstance(value, list):
        return f"[{', '.join(_short(v, depth + 1) if isinstance(v, (dict, list)) else repr(v) for v in value)}]"
    return str(value)


def _value(value: Any) -> str:
    number = value.get("value") if isinstance(value, dict) else value
    return f"{number:.4g}" if isinstance(number, (int, float)) else ""
