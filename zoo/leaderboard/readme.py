"""The model table of the README: every registered name, with what is known of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ResultError
from zoo.leaderboard.table import COLUMNS, likelihood
from zoo.results import Result

if TYPE_CHECKING:
    from zoo.registry import Entry

__all__ = ["BEGIN", "END", "block", "model_table", "rewrite"]

BEGIN, END = "<!-- models:begin -->", "<!-- models:end -->"
_HEAD = ("name", "family", "paper", "data", "-log p", "FID (floor)", "parameters", "TFLOP", "weights")


def model_table(registry: Mapping[str, Entry], results: Iterable[Result]) -> str:
    """Return the markdown table of all entries, in order of the registry.

    Args:
        registry: names and entries.
        results: those of bundled weights; an entry takes the first of its name on its own data set.
    """
    known: dict[tuple[str, str], Result] = {}
    for result in results:
        if not result.protocol.quick:
            known.setdefault((result.identity.name, result.data.name), result)
    lines = [_HEAD, ("---",) * 4 + ("---:",) * 4 + ("---",)]
    lines += [_cells(e, known.get((e.name, e.dataset))) for e in registry.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(entry: Entry, result: Result | None) -> tuple[str, ...]:
    measured = ("-",) * 4
    if result is not None:
        measured = (_likelihood(result), _fid(result), _cost(result, "parameters"), _cost(result, "training_tflop"))
    weights = "yes" if entry.pretrained or result is not None else "no"
    return (f"`{entry.name}`", entry.family, _paper(entry.paper), entry.dataset, *measured, weights)


def _paper(paper: Mapping[str, Any]) -> str:
    if not paper:
        return "-"
    text = f"{paper.get('title', 'paper')} ({paper.get('year', 'n.d.')})".replace("|", "/")
    url = f"https://arxiv.org/abs/{paper['arxiv']}" if paper.get("arxiv") else paper.get("url")
    return f"[{text}]({url})" if url else text


def _likelihood(result: Result) -> str:
    found = likelihood(result)
    if found is None:
        return "-"
    kind = result.protocol.likelihood or ""
    return f"{'' if kind in ('exact', 'ode') else '≤ '}{found[1].value:.3f} {found[0]} ({kind})"


def _fid(result: Result) -> str:
    if "fid" not in result.metrics:
        return "-"
    floor = f" ({result.floor['fid'].value:.2f})" if "fid" in result.floor else ""
    return f"{result.metrics['fid'].value:.2f}{floor}"


def _cost(result: Result, key: str) -> str:
    value = COLUMNS[key].value(result)
    return "-" if value is None else COLUMNS[key].show.format(value)


def block(text: str, where: str = "README.md") -> str:
    """Return what stands between the two markers. Raises `ResultError` if they are missing."""
    found = re.search(f"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", text, re.DOTALL)
    if found is None:
        raise ResultError(f"{where} has no lines {BEGIN!r} and {END!r}; put them where the model table belongs")
    return found.group(1).strip("\n")


def rewrite(path: str | Path, table: str) -> bool:
    """Replace the table between the markers, keeping all else; tell whether the file changed. Raises `ResultError`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}") from error
    if block(text, str(path)) == table:
        return False
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")
    return True
