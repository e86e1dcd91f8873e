"""What docstrings say of arguments: name -> meaning, from the ``Args:`` of a function, or of a class and its bases."""

from __future__ import annotations

import inspect
import re
from typing import Any

__all__ = ["arguments_of", "meanings"]

_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \w+)*)(?: \([^)]*\))?: *(?P<text>.*)")
_DEFAULT = re.compile(r"\s*(Default|Defaults to):? ``?[^`]*``?\.?")
_SECTION = re.compile(r"(Args|Arguments|Parameters):")


def meanings(documented: Any) -> dict[str, str]:
    """Return argument -> meaning as the docstring of a class says, or one of those that it inherits from."""
    found: dict[str, str] = {}
    for cls in inspect.getmro(documented):
        for text in (cls.__doc__, cls.__dict__.get("__init__", object).__doc__):
            found = {**arguments_of(text or ""), **found}
    return found


def arguments_of(docstring: str) -> dict[str, str]:
    """Return what the ``Args:`` of one docstring say."""
    lines = inspect.cleandoc(docstring).splitlines()
    start = next((i for i, line in enumerate(lines) if _SECTION.fullmatch(line.strip())), None)
    if start is None:
        return {}
    outer = len(lines[start]) - len(lines[start].lstrip())
    found: dict[str, list[str]] = {}
    inner, current = None, []
    for line in lines[start + 1 :]:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= outer:
            break
        inner = indent if inner is None and line.strip() else inner
        entry = _ENTRY.fullmatch(line.strip()) if line.strip() and indent == inner else None
        if entry is not None:
            current = [entry["text"]]
            found.update(dict.fromkeys((n.lstrip("*") for n in entry["names"].split(", ")), current))
        else:
            current.append(line.strip())
    return {name: _plain(" ".join(filter(None, text))) for name, text in found.items()}


def _plain(text: str) -> str:
    text = _DEFAULT.sub("", re.sub(r":\w+:`~?([^`]*)`", r"\1", text))
    return text.replace("``", "`").strip().removesuffix(".")
