"""Pieces of pages in MyST, and sections of model cards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["card_of", "cell", "details", "fence", "grid", "orphan", "table"]


def cell(text: str) -> str:
    """Return text that stays within a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, whose cells are markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def orphan() -> list[str]:
    """Return the first lines of a page that no table of contents names, as its list is a page of its own.

    The navigation beside each page has all that tables of contents name: hundreds of names would hide the others there,
    and cost more time than the pages.
    """
    return ["---", "orphan: true", "---", ""]


def fence(language: str, text: str) -> list[str]:
    """Return the lines of a block of code, or of a directive such as ``{toctree}``."""
    mark = "```" if "```" not in text else "````"
    return [f"{mark}{language}", text, mark]


def details(title: str, lines: Sequence[str]) -> list[str]:
    """Return lines that are hidden until they are asked for."""
    return [f"::::{{dropdown}} {title}", *lines, "::::"]


def grid(cards: Iterable[tuple[str, str, str, str]]) -> list[str]:
    """Return a grid of cards: (title, page that it leads to, picture or none, sentence)."""
    lines = ["::::{grid} 1 2 3 3", ":gutter: 2", ""]
    for title, page, picture, sentence in cards:
        lines += [f":::{{grid-item-card}} {title}", f":link: {page}", ":link-type: doc"]
        lines += [f":img-top: {picture}", f":img-alt: samples of {title}"] if picture else []
        lines += ["", sentence, ":::"]
    return [*lines, "::::"]


def card_of(path: Path) -> dict[str, str]:
    """Return heading -> text of the sections of a model card; nothing where there is none."""
    if not path.is_file():
        return {}
    text = re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    parts = re.split(r"(?m)^## (.+)$", text)
    return {heading.strip(): body.strip() for heading, body in zip(parts[1::2], parts[2::2], strict=True)}
