"""Names of classes: where labels come as names, which numbers they are.

A data module knows the names that its labels stand for, a model that is trained on it keeps them as `class_names`, and
they travel in run folders, checkpoints and published configurations. Names are the same text however an accent was
typed: all are compared in the composed form of Unicode.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from zoo.errors import ConfigError, DataError

__all__ = ["MOST", "checked_names", "names_for", "same_names", "same_text"]

MOST, _LONGEST = 100_000, 200


def same_text(name: str) -> str:
    """Return a name in the composed form of Unicode, in which equal names are equal strings."""
    return unicodedata.normalize("NFC", name)


def checked_names(names: Any, count: int) -> tuple[str, ...]:
    """Return foreign names of ``count`` classes as they are kept: none at all, or one for each class.

    Raises:
        ConfigError: they are no list of so many different, printable texts of up to 200 characters.
    """
    if names is None or (isinstance(names, (list, tuple)) and not names):
        return ()
    good = isinstance(names, (list, tuple)) and len(names) <= MOST
    good = good and all(isinstance(n, str) and n.isprintable() and 0 < len(n) <= _LONGEST for n in names)
    if not good or len(set(names)) != len(names) or len(names) != count:
        raise ConfigError(f"class_names must be {count} different names of at most {_LONGEST} printable characters")
    return tuple(names)


def names_for(count: int, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that a model of ``count`` classes takes over from its data: all, or none where they differ."""
    return tuple(names) if count and len(names) == count else ()


def same_names(model: Sequence[str], data: Sequence[str], what: str) -> None:
    """Raise `DataError` where model and data both name their classes, and not alike."""
    if model and data and tuple(model) != tuple(data):
        i = next((i for i, (a, b) in enumerate(zip(model, data, strict=False)) if a != b), min(len(model), len(data)))
        a, b = (repr(names[i]) if i < len(names) else "none" for names in (model, data))
        raise DataError(
            f"{what} was made for {len(model)} classes, of which label {i} is {a}; in the data there are {len(data)}, "
            f"and it is {b}; give data with the classes of the model, in their order"
        )
