"""``zoo show NAME``: what a model is, how it is trained, what it reached, and whom to cite."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from zoo.registry import Entry, load_registry, pretrained_folder
from zoo.spec import is_spec
from zoo.trained_parts import TrainedPart, declared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a name of the registry")
    parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    entry = load_registry(*args.registry).resolve(args.name)
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


def _results(entry: Entry) -> dict[str, Any]:
    path = pretrained_folder(entry.name) / "eval.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _lines(entry: Entry, results: dict[str, Any], parts: Mapping[str, TrainedPart]) -> list[str]:
    lines = [
        f"{entry.name}: {entry.summary}",
        f"family    {entry.family}",
        f"weights   {'yes' if entry.pretrained else 'none yet'}",
    ]
    paper = entry.paper
    if paper:
        where = f"arXiv {paper['arxiv']}" if "arxiv" in paper else paper.get("url", "")
        lines.append(f"paper     {paper['title']}. {paper['authors']}, {paper['year']}. {where}")
    lines.append(f"model     {entry.model['class_path']}")
    lines += [f"            {k}: {_short(v)}" for k, v in (entry.model.get("init_args") or {}).items()]
    for part, declaration in parts.items():
        lines.append(f"takes     --{part}, as it is {declaration.what}, such as {declaration.example}")
    lines.append(f"data      {entry.data['class_path']}  {_short(entry.data.get('init_args') or {})}")
    lines.append(f"trainer   {_short(dict(entry.trainer))}")
    lines.append(f"training  {_short(dict(entry.training))}")
    metrics = results.get("metrics", {})
    if metrics:
        lines.append("results   " + ", ".join(f"{k} {_value(v)}" for k, v in metrics.items() if _value(v)))
    given = entry.model.get("init_args") or {}
    needed = [f" --{part} {declaration.example}" for part, declaration in parts.items() if given.get(part) is not None]
    lines += ["", f"train it  zoo fit --model {entry.name}{''.join(needed)}"]
    if entry.pretrained:
        lines.append(f"use it    zoo sample {entry.name} -n 64 --seed 0 --out samples.png")
    if paper:
        lines += ["", "cite", _bibtex(paper)]
    return lines


def _short(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        inner = ", ".join(f"{k}={_short(v)}" for k, v in (value.get("init_args") or {}).items())
        return f"{value['class_path'].rpartition('.')[2]}({inner})"
    if isinstance(value, dict):
        return ", ".join(f"{k}={_short(v)}" for k, v in value.items()) or "defaults"
    return str(value)


def _value(value: Any) -> str:
    number = value.get("value") if isinstance(value, dict) else value
    return f"{number:.4g}" if isinstance(number, (int, float)) else ""


def _bibtex(paper: Any) -> str:
    first = re.split(r",| and ", paper["authors"])[0].split()[-1].lower()
    word = next((w for w in re.findall(r"[A-Za-z]+", paper["title"]) if len(w) > 3), "paper").lower()
    fields = {"title": paper["title"], "author": paper["authors"].replace(", ", " and "), "year": paper["year"]}
    if "arxiv" in paper:
        fields |= {"eprint": paper["arxiv"], "archivePrefix": "arXiv"}
    elif "url" in paper:
        fields["url"] = paper["url"]
    body = ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items())
    return f"@misc{{{first}{paper['year']}{word},\n{body}\n}}"
