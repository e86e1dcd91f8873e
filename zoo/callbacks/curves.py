"""The curves of a run: what metrics.csv holds, as panels that can be read.

Losses come first, then what belongs together in one panel (a term of several players, the shares of the digits), then
single terms. Six panels are in ``loss.png``, the others in ``loss-more.png``. Colours are those of the splits, the
players and the numbers, whatever else is drawn.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.files import write_whole

__all__ = ["MOST", "panels", "plot_losses"]

MOST = 6
"""Panels of one file."""

_LARGEST = 1e300
"""Values from here on cannot be drawn, nor those that are no numbers: differences of them are infinite."""

Points = list[tuple[int, float]]

_SPLITS = {"train": "C0", "validation": "C1", "watch": "C2", "test": "C3"}
_PLAYERS = {"critic": "C0", "generator": "C1", "discriminator": "C0", "potential": "C0", "map": "C1", "model": "C2"}
_ORDER = {split: place for place, split in enumerate(_SPLITS)}
_DASHES = {"train": "-", "watch": "-", "validation": "--", "test": ":"}


def plot_losses(metrics: Path, path: Path) -> None:
    """Plot every column of ``metrics.csv`` that is of a split against the step, into ``path`` and what is beside it."""
    if not metrics.is_file():
        return
    with metrics.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    terms: dict[str, dict[str, Points]] = {}
    for row in rows:
        for column, value in row.items():
            split, _, term = (column or "").partition("/")
            if term and value and abs(float(value)) < _LARGEST:
                terms.setdefault(term, {}).setdefault(split, []).append((int(row["step"]), float(value)))
    losses = [t for t in terms if t.endswith("_loss") and "train" in terms[t]]
    if losses and "train" not in terms.get("loss", {}):  # of players, which have their own: it is the first one's again
        terms.pop("loss", None)
    found = panels(terms)
    more = path.with_name(f"{path.stem}-more{path.suffix}")
    for shown, file in ((found[:MOST], path), (found[MOST:], more)):
        if shown:
            write_whole(file, _drawn(shown, terms))
        elif file == more:
            more.unlink(missing_ok=True)


def panels(terms: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the panels in their order, each with the terms that are in it.

    Args:
        terms: names of terms, such as ``loss``, ``critic_loss``, ``critic_gradient``, ``digit_share_3``.
    """
    losses = sorted((t for t in terms if t.split("_")[-1] == "loss"), key=lambda t: (t != "loss", t))
    groups: dict[str, list[str]] = {}
    for term in sorted(set(terms) - set(losses), key=_natural):
        groups.setdefault(_group(term), []).append(term)
    several = [(name, members) for name, members in groups.items() if len(members) > 1]
    single = [(members[0], members) for members in groups.values() if len(members) == 1]
    return [*((t, [t]) for t in losses), *several, *single]


def _group(term: str) -> str:
    """Return what a term is of, without the player or the number that it is for."""
    first, _, rest = term.partition("_")
    if first in _PLAYERS and rest:
        return rest
    return re.sub(r"_\d+$", "", term)


def _natural(term: str) -> tuple[Any, ...]:
    return tuple((int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", term))


def _drawn(shown: Sequence[tuple[str, list[str]]], terms: Mapping[str, Mapping[str, Points]]) -> bytes:
    from matplotlib.figure import Figure

    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * lines), layout="constrained")
    for i, (title, members) in enumerate(shown):
        axes = figure.add_subplot(lines, columns, i + 1)
        drawn: list[tuple[int, float]] = []
        for place, term in enumerate(members):
            for split, points in sorted(terms[term].items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))):
                axes.plot(*zip(*points, strict=True), **_style(title, term, split, place, len(points)))
                drawn += points
        axes.set_ylim(*_limits(drawn))
        axes.set_title(title.replace("_", " "), fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncols=2 if len(members) > 4 else 1)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def _style(title: str, term: str, split: str, place: int, points: int) -> dict[str, Any]:
    """Return colour, dashes and label of a line: of the split where it is alone, else of the player or the number."""
    marks = {"marker": "o" if points < 12 else None, "markersize": 3, "linewidth": 1.2}
    if title == term:
        return {"color": _SPLITS.get(split, "C4"), "label": split, **marks}
    of = term.removesuffix(f"_{title}").removeprefix(f"{title}_")
    number = re.search(r"(\d+)$", term)
    colour = f"C{int(number[1]) % 10}" if number else _PLAYERS.get(of, f"C{place % 10}")
    label = of if split in ("train", "watch") else f"{of}, {split}"
    return {"color": colour, "linestyle": _DASHES.get(split, "-."), "label": label, **marks}


def _limits(points: Points) -> tuple[float, float]:
    """Return the range of the values after the first twentieth of the steps, which would hide all that follows."""
    last = max(step for step, _ in points)
    late = [value for step, value in points if step >= last / 20]
    pad = 0.05 * (max(late) - min(late)) or 0.05 * abs(late[0]) or 1.0
    return min(late) - pad, max(late) + pad
