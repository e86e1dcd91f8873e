"""``zoo show NAME``: what a model is, how it is trained, what it reached, and whom to cite."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from typing import Any

from zoo.registry import Entry, load_registry, pretrained_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a name of the registry")
    parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    entry = load_registry(*args.registry).resolve(args.name)
    results = _results(entry)
    if args.json:
        content = {k: v for k, v in dataclasses.asdict(entry).items() if v}
        print(json.dumps({**content, "results": results}, indent=2))
        return 0
    print("\n".join(_lines(entry, results)))
    return 0


def _results(entry: Entry) -> dict[str, Any]:
    path = pretrained_folder(entry.name) / "eval.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _lines(entry: Entry, results: dict[str, Any]) -> list[str]:
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
    lines.append(f"data      {entry.data['class_path']}  {_short(entry.data.get('init_args') or {})}")
    lines.append(f"trainer   {_short(dict(entry.trainer))}")
    lines.append(f"training  {_short(dict(entry.training))}")
    metrics = results.get("metrics", {})
    if metrics:
        lines.append("results   " + ", ".join(f"{k} {_value(v)}" for k, v in metrics.items() if _value(v)))
    lines += ["", "train it  zoo fit --model " + entry.name]
    if entry.pretrained:
        draws = (results.get("cost") or {}).get("samples_per_second") is not None or not results
        use = f"zoo sample {entry.name} -n 64 --seed 0 --out samples.png" if draws else f"zoo export {entry.name}"
        lines.append(f"use it    {use}")
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
