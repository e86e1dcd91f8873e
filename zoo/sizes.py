"""Networks of several sizes: ``--model.size small|base|large``, ``zoo.create(NAME, size="large")``.

    small: half the width,   base: the entry's own, grown with the data,   large: twice the width, 1.5 times the depth

so that small has a quarter to half of the weights of base, and large two to seven times as many: what hangs on the
shape alone does not scale. A network, or a model whose network is its own, declares which of its arguments are which:

    sized = {"widths": "width", "blocks": "depth"}

Numbers of channels, lists of them and numbers of heads are a ``width``; of ``inner`` widths the first and the last are
what goes in and comes out, and stay; a ``depth`` counts blocks or layers that shapes do not hang on. What a user writes
out beside a size is what counts. A trained part, such as a teacher, has the size that it was trained with. Importing
this module imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from zoo.errors import ConfigError, close_matches
from zoo.signature import default_of
from zoo.spec import class_of, is_spec
from zoo.trained_parts import declared

__all__ = ["SIZES", "sized_model"]

SIZES: Mapping[str, tuple[float, float]] = {"small": (0.5, 1.0), "base": (1.0, 1.0), "large": (2.0, 1.5)}
"""Name -> factors of width and depth."""


def sized_model(spec: Mapping[str, Any], size: str, allow: Collection[str] = ()) -> dict[str, Any]:
    """Return the spec of a model whose networks are of another size; those of trained parts stay.

    Args:
        spec: of a model as it follows from its entry and the data.
        size: of `SIZES`.
        allow: class-path prefixes that the user's own overlay allows.

    Raises:
        ConfigError: an unknown size, or a model that declares nothing that has one.
    """
    if size not in SIZES:
        raise ConfigError(f"unknown size {size!r}.{close_matches(str(size), SIZES)} It is {', '.join(SIZES)}")
    found = _sized(spec, *SIZES[size], allow)
    if found is None:
        raise ConfigError(
            f"{class_of(spec['class_path'], allow).__name__} and its networks do not say what a size scales; leave the "
            f"size out, and set their arguments"
        )
    return found


def _sized(spec: Mapping[str, Any], width: float, depth: float, allow: Collection[str]) -> dict[str, Any] | None:
    """Return the spec with all that has a size scaled, None where nothing has one."""
    cls, arguments = class_of(spec["class_path"], allow), dict(spec.get("init_args") or {})
    parts, declares = declared(spec["class_path"], tuple(allow)), getattr(cls, "sized", {})
    has_one = bool(declares)
    for name, value in arguments.items():
        if is_spec(value) and name not in parts:
            inner = _sized(value, width, depth, allow)
            has_one |= inner is not None
            arguments[name] = value if inner is None else inner
    for name, kind in declares.items():
        value = arguments.get(name, default_of(cls, name))
        if value:
            arguments[name] = _scaled(value, kind, width, depth)
    return {**spec, "init_args": arguments} if has_one else None


def _scaled(value: Any, kind: str, width: float, depth: float) -> Any:
    if kind == "depth":
        return math.ceil(value * depth)
    if kind == "inner":
        return [value[0], *(_scaled(v, "width", width, depth) for v in value[1:-1]), value[-1]]
    if isinstance(value, (list, tuple)):
        return [_scaled(v, "width", width, depth) for v in value]
    return max(1, round(value * width))
