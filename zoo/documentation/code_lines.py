"""Lines of code that stand on a page: whether they are in the function that the page names, and where."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence

__all__ = ["code_lines", "place_of"]

_BLOCK = re.compile(r"^```\{code-line\} (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code_lines(page: str) -> list[tuple[str, list[str]]]:
    """Return (module:object, lines) of each block of a page in markdown."""
    return [(where, text.splitlines()) for where, text in _BLOCK.findall(page)]


def place_of(where: str, lines: Sequence[str]) -> int | None:
    """Return the number of the first of these lines in the file of an object, None where they do not follow each other.

    Args:
        where: ``module:object``, such as ``zoo.families.vae:VAE.loss``, or a module.
        lines: as they are shown; indentation and empty lines do not count.

    Raises:
        AttributeError, ImportError: there is no such object.
    """
    module, _, name = where.partition(":")
    found = importlib.import_module(module)
    for part in filter(None, name.split(".")):
        found = inspect.getattr_static(found, part)
    found = getattr(found, "__func__", found)
    source, first = inspect.getsourcelines(inspect.unwrap(found))
    first = max(1, first)  # of a module it is 0
    wanted = [line.strip() for line in lines if line.strip()]
    there = [(first + i, line.strip()) for i, line in enumerate(source) if line.strip()]
    for start in range(len(there) - len(wanted) + 1):
        if [line for _, line in there[start : start + len(wanted)]] == wanted:
            return there[start][0]
    return None
