"""Docstrings of the zoo as Sphinx reads them: plain words and formulas, in which no sign is markup but backticks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["as_markup", "process_docstring"]

_CODE = re.compile(r"(``.*?``|`[^`]+`)")
_SIGN = re.compile(r"[\\*|]|(?<=\w)_(?!\w)")
_SECTION = re.compile(
    r"(Args|Arguments|Attributes|Example|Examples|Note|Raises|References|Returns|Yields|Warns):", re.IGNORECASE
)


def as_markup(lines: Iterable[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText that shows what they say.

    Bars, stars and single underscores at the end of a word are signs of formulas, so they are escaped outside of
    backticks. A block that is indented after an empty line, and is no section, is a formula, and keeps its lines.
    """
    made: list[str] = []
    section = formula = False
    for line in lines:
        text = line.strip()
        if text and not line.startswith("    "):
            section, formula = bool(_SECTION.fullmatch(text)), False
        elif text and not section and not formula and made and not made[-1].strip():
            formula = True
            made += ["::", ""]
        made.append(line if formula else _escaped(line))
    return made


def _escaped(line: str) -> str:
    parts = _CODE.split(line)
    return "".join(part if i % 2 else _SIGN.sub(r"\\\g<0>", part) for i, part in enumerate(parts))


def process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change the lines of a docstring in place, before its sections are taken apart."""
    lines[:] = as_markup(lines)
