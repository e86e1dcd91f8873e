"""Models that take the shape of the data: what of an entry's arguments follows from the data and the user's options.

A model's class declares what its networks map to what:

    @classmethod
    def network_shapes(cls, arguments): return {"encoder": (inputs, outputs), "decoder": (inputs, outputs)}

and a network's class how its arguments follow new shapes, plain data in and a spec out:

    @classmethod
    def resized(cls, arguments, inputs, outputs): return {"class_path": ..., "init_args": ...}

A network whose shapes stay what they are in the entry stays as it is written there, so an entry on its own data is
what it always was. A class that declares nothing is not fitted. Importing this module imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from zoo.errors import ConfigError
from zoo.spec import class_of, is_spec

__all__ = ["fitted_model", "halvings", "wants_convolutions"]

LARGEST_FLAT = 28 * 28
"""Pixels of the largest image that linear layers may mix; larger ones get convolutions."""

LARGEST_BASE = 8
"""Longest side of the grid at which convolutions stop halving an image."""


@runtime_checkable
class FitsData(Protocol):
    """A family that says what its networks take and give, and how its arguments follow from the data."""

    def network_shapes(self, arguments: Any) -> Any: ...

    def fitted_to(self, arguments: Any) -> Any: ...


@runtime_checkable
class Resizes(Protocol):
    """A network whose arguments follow from what it is to take and give."""

    def resized(self, arguments: Any, inputs: Any, outputs: Any) -> Any: ...


def wants_convolutions(shape: Sequence[int]) -> bool:
    """Tell whether examples of this shape are images too large for linear layers on their pixels."""
    return len(shape) == 3 and math.prod(shape[1:]) > LARGEST_FLAT


def halvings(sides: Sequence[int]) -> int:
    """Return how often an image is halved until its longest side is at most 8, at least once.

    Raises:
        ConfigError: a side cannot be halved so often; the sentence names the sizes nearby that can.
    """
    n = max(1, math.ceil(math.log2(max(sides) / LARGEST_BASE)))
    factor = 2**n
    if all(s % factor == 0 for s in sides):
        return n
    below, above = ([max(1, whole(s / factor)) * factor for s in sides] for whole in (math.floor, math.ceil))
    raise ConfigError(
        f"images of {' x '.join(map(str, sides))} cannot be halved {n} times, as the convolutional networks for them "
        f"do; set --data.size to {_size(below)} or {_size(above)}"
    )


def _size(sides: Sequence[int]) -> str:
    return str(sides[0]) if len(set(sides)) == 1 else f"[{','.join(map(str, sides))}]"


def fitted_model(
    spec: Mapping[str, Any],
    chosen: Mapping[str, Any],
    shape: Sequence[int],
    num_classes: int,
    *,
    named: Collection[str] = (),
    allow: Collection[str] = (),
) -> dict[str, Any]:
    """Return the spec of a model for examples of ``shape``; it equals ``spec`` where nothing has to follow.

    Args:
        spec: as the entry has it.
        chosen: arguments as the user's options leave them.
        shape: of an example of the data.
        num_classes: of the data, 0 for none.
        named: arguments that the user gives, or gives a part of; they are left to the user.
        allow: class-path prefixes that the user's own overlay allows.

    Raises:
        ConfigError: networks of these classes cannot have this shape.
    """
    before = dict(spec.get("init_args") or {})
    cls = class_of(spec["class_path"], allow)
    shapes = cls.network_shapes if issubclass(cls, FitsData) else None
    if shapes is None or "shape" not in before:
        return dict(spec)
    options = {k: v for k, v in chosen.items() if k in before or k in named}
    after = {**before, **{k: v for k, v in options.items() if not is_spec(v)}}
    if "shape" not in named:
        after["shape"] = list(shape)
    if before.get("num_classes") and num_classes and "num_classes" not in named:
        after["num_classes"] = num_classes
    if list(after["shape"]) != list(before["shape"]):
        after = {**cls.fitted_to(after), **{k: v for k, v in options.items() if k in named and not is_spec(v)}}  # type: ignore[attr-defined]
    old, new = shapes(before), shapes(after)
    for name, (inputs, outputs) in new.items():
        if name in named or (inputs, outputs) == old[name]:
            continue
        network = class_of(before[name]["class_path"], allow)
        if issubclass(network, Resizes):
            after[name] = network.resized(before[name].get("init_args") or {}, inputs, outputs)
    return {**spec, "init_args": after}
