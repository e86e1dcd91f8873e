"""Published text names no folder of the person who publishes: a path is reduced to its last part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["without_folders"]

_PATH = re.compile(
    r"(?<![\w.~/\\-])(?:file://)?"  # where a word begins
    r"(?:(?!//)|(?<!:))"  # no address such as https://a/b
    r"(?:~[\w.-]*|[A-Za-z]:|\\)?[/\\][^\s\"'`,;=(){}\[\]<>|]+"
)


def without_folders(value: Any) -> Any:
    """Return text, or any nesting of lists and mappings, with each absolute path in it cut down to its last part.

    Absolute are ``/a/b``, ``~/a/b``, ``C:\\a\\b`` and ``file:///a/b``, also behind ``=`` or ``:``; a whole text that is
    one may hold blanks. Addresses such as ``https://a/b``, and relative paths, stay.
    """
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {k: without_folders(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(v) for v in value]
    return value


def _text(text: str) -> str:
    home = str(Path.home())
    if len(home) > 1:  # its name may hold blanks
        text = re.sub(re.escape(home) + r"(?=[/\\]|\b)", "~", text)
    if re.match(r"(?:/|~[\w.-]*/|[A-Za-z]:[/\\]|\\\\)", text) and "\n" not in text and " /" not in text:
        return _last(text)
    return _PATH.sub(lambda match: _last(match[0]), text)


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path
