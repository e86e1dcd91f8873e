"""What is generated in the README and in the docs: the model table, the home track, and the best of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ResultError
from zoo.leaderboard.columns import COLUMNS, likelihood, mark_of
from zoo.leaderboard.render import to_markdown
from zoo.leaderboard.table import Table, tables
from zoo.plain_sampling import of_plain_model, short_departures
from zoo.results import Result

if TYPE_CHECKING:
    from zoo.registry import Entry

__all__ = ["BLOCKS", "address", "best_table", "block", "home_table", "measured", "model_table", "rewrite"]

BLOCKS = ("models", "home", "best", "published", "representations")
"""Generated blocks: between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``."""

_HEAD = ("name", "family", "paper", "data", "-log p", "FID (floor)", "parameters", "TFLOP", "weights")


_BEST = ("data", "#", "model", "family", "distance (floor)", "-log p", "TFLOP", "samples/s")


def model_table(registry: Mapping[str, Entry], results: Iterable[Result]) -> str:
    """Return the markdown table of all entries, in order of the registry.

    Args:
        registry: names and entries.
        results: those of bundled weights; an entry takes the first of its name on its own data set.
    """
    known: dict[tuple[str, str], Result] = {}
    for result in results:
        if not result.protocol.quick and result.data.split == "test":
            known.setdefault((result.identity.name, result.data.name), result)
    lines = [_HEAD, ("---",) * 4 + ("---:",) * 4 + ("---",)]
    lines += [_cells(e, known.get((e.name, e.dataset))) for e in registry.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(entry: Entry, result: Result | None) -> tuple[str, ...]:
    measured = ("-",) * 4
    if result is not None:
        measured = (
            _likelihood(result),
            _distance(result),
            _cost(result, "parameters"),
            _cost(result, "training_tflop"),
        )
    weights = "yes" if entry.pretrained or result is not None else "no"
    return (f"`{entry.name}`", entry.family, _paper(entry.paper), entry.dataset, *measured, weights)


def _paper(paper: Mapping[str, Any]) -> str:
    if not paper:
        return "-"
    text = f"{paper.get('title', 'paper')} ({paper.get('year', 'n.d.')})".replace("|", "/")
    url = address(paper)
    return f"[{text}]({url})" if url else text


def address(paper: Mapping[str, Any]) -> str:
    """Return where a paper of the registry is, or an empty text."""
    return f"https://arxiv.org/abs/{paper['arxiv']}" if paper.get("arxiv") else str(paper.get("url") or "")


def _likelihood(result: Result) -> str:
    found = likelihood(result)
    if found is None:
        return "-"
    kind = f"{result.protocol.likelihood or ''}{', plain' if of_plain_model(asdict(result.protocol)) else ''}"
    return f"{mark_of(result)}{found[1].value:.3f} {found[0]} ({kind})"


def measured(result: Result) -> str:
    """Return likelihood and distance of a result in a line, each with its kind."""
    numbers = [_likelihood(result), _distance(result)]
    return ", ".join(
        f"{'FID ' if i and 'fid' in result.metrics else ''}{text}" for i, text in enumerate(numbers) if text != "-"
    )


_DISTANCES = {
    "fid": ("", "{:.2f}"), "frechet_lite0": ("Fréchet, lite0 ", "{:.2f}"),
    "frechet_clips": ("Fréchet, clips ", "{:.2f}"), "kid": ("KID ", "{:.4f}"),
}  # fmt: skip
"""Metric -> what stands before its number, and its format; the first that a result has is shown."""


def _distance(result: Result) -> str:
    name = next((n for n in _DISTANCES if n in result.metrics), None)
    if name is None:
        return "-"
    what, show = _DISTANCES[name]
    if name == "kid" and result.protocol.extractor not in (None, "digit-classifier"):
        what = f"KID, {result.protocol.extractor.removeprefix('efficientnet-')} "
    floor = f" ({show.format(result.floor[name].value)})" if name in result.floor else ""
    how = short_departures(asdict(result.protocol))
    return f"{what}{show.format(result.metrics[name].value)}{floor}{f', {how}' if how else ''}"


def _cost(result: Result, key: str) -> str:
    value = COLUMNS[key].value(result)
    return "-" if value is None else COLUMNS[key].show.format(value)


def home_table(registry: Mapping[str, Entry], results: Iterable[Result]) -> str:
    """Return the home track in markdown: registered models with weights, a table for each data set of pictures.

    Args:
        registry: names and entries.
        results: those of bundled weights.
    """
    own = _home_tables(registry, results)
    return to_markdown(own) if own else "No results yet."


def best_table(registry: Mapping[str, Entry], results: Iterable[Result], rows: int = 3) -> str:
    """Return the best rows of the home track on digits and on colour tiles in markdown, with the floor in brackets.

    Args:
        registry: names and entries.
        results: those of bundled weights.
        rows: of each data set.
    """
    lines = [_BEST, ("---", "---:", "---", "---", "---:", "---:", "---:", "---:")]
    for table in _home_tables(registry, results):
        for row in table.rows[:rows] if table.dataset in ("mnist", "tiles") else ():
            own, distance = row.result, _distance(row.result)
            distance = distance if "fid" not in own.metrics else f"FID {distance}"
            cost = (_cost(own, "training_tflop"), _cost(own, "samples_per_second"))
            place = str(row.rank or "-")
            lines.append(
                (table.dataset, place, f"`{own.identity.name}`", own.identity.family, distance, _likelihood(own), *cost)
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _home_tables(registry: Mapping[str, Entry], results: Iterable[Result]) -> list[Table]:
    """Return the tables of the home track, the longest first."""
    own = [
        r
        for r in results
        if not r.protocol.quick
        and r.data.split == "test"
        and (entry := registry.get(r.identity.name)) is not None
        and entry.pretrained
        and entry.dataset == r.data.name
        and (r.data.name == "tiles" or "mnist" in r.data.name.split("_"))
    ]
    return sorted(tables(own, only="home"), key=lambda t: -len(t.rows)) if own else []


def block(text: str, name: str = "models", where: str = "README.md") -> str:
    """Return what stands between the two markers. Raises `ResultError` if they are missing."""
    begin, end = _markers(name)
    found = re.search(f"{re.escape(begin)}\n(.*?){re.escape(end)}", text, re.DOTALL)
    if found is None:
        raise ResultError(f"{where} has no lines {begin!r} and {end!r}; put them where the {name} table belongs")
    return found.group(1).strip("\n")


def rewrite(path: str | Path, content: Mapping[str, str]) -> bool:
    """Replace the blocks that the file has, keeping all else; tell whether it changed.

    Args:
        path: a markdown file.
        content: name of a block -> what belongs there.

    Raises:
        ResultError: the file cannot be read, or has none of these blocks, or half of one.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}") from error
    own = [name for name in content if any(marker in text for marker in _markers(name))] or list(content)[:1]
    fresh = text
    for name in own:
        block(fresh, name, str(path))
        begin, end = _markers(name)
        head, _, rest = fresh.partition(begin)
        _, _, tail = rest.partition(end)
        fresh = f"{head}{begin}\n{content[name]}\n{end}{tail}"
    if fresh != text:
        path.write_text(fresh, encoding="utf-8")
    return fresh != text


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
