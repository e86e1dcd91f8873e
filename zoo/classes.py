"""Names of classes: where labels come as names, which numbers they are.

A data module knows the names that its labels stand for, a model that is trained on it keeps them as `class_names`, and
they travel in run folders, checkpoints and published configurations. Names are the same text however an accent was
typed: all are compared in the composed form of Unicode.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ConfigError, DataError, close_matches

__all__ = ["MOST", "checked_names", "label_numbers", "names_for", "same_names", "same_text"]

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


def label_numbers(labels: Any, names: Sequence[str], what: str) -> Any:
    """Return labels with every name replaced by its number; what are numbers already passes unchanged.

    Args:
        labels: one or several, as names, as numbers, or as a tensor or an array.
        names: of the labels 0, 1, ...
        what: who takes the labels, for messages.

    Raises:
        ConfigError: a name that is not among ``names``, or something that is neither name nor number.
    """
    if isinstance(labels, str):
        return _number(labels, names, what)
    if isinstance(labels, (set, frozenset, Mapping)):
        raise ConfigError(f"{what}: labels must be in an order, got a {type(labels).__name__}; pass a list")
    if isinstance(labels, (list, tuple)):
        return [_number(label, names, what) if isinstance(label, str) else _whole(label, what) for label in labels]
    return labels


def _number(name: str, names: Sequence[str], what: str) -> int:
    if not names:
        raise ConfigError(f"{what} knows its classes by number only, got the label {name[:100]!r}")
    wanted = same_text(name)
    if wanted not in names:
        known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ConfigError(f"{what} has no class {name[:100]!r}.{close_matches(wanted, names)} Its classes are: {known}")
    return list(names).index(wanted)


def _whole(label: Any, what: str) -> Any:
    if isinstance(label, (bool, float)) or not (hasattr(label, "__index__") or hasattr(label, "item")):
        raise ConfigError(f"{what}: each label must be a whole number or the name of a class, got {str(label)[:100]!r}")
    return label


def same_names(model: Sequence[str], data: Sequence[str], what: str) -> None:
    """Raise `DataError` where model and data both name their classes, and not alike."""
    if model and data and tuple(model) != tuple(data):
        i = next((i for i, (a, b) in enumerate(zip(model, data, strict=False)) if a != b), min(len(model), len(data)))
        a, b = (repr(names[i]) if i < len(names) else "none" for names in (model, data))
        raise DataError(
            f"{what} was made for {len(model)} classes, of which label {i} is {a}; in the data there are {len(data)}, "
            f"and it is {b}; give data with the classes of the model, in their order"
        )
