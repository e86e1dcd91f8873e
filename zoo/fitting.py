"""Models that take the shape of the data: what of an entry's arguments follows from the data and the user's options.

A model's class declares what its networks map to what, and which of its arguments follow from the others:

    @classmethod
    def network_shapes(cls, arguments): return {"encoder": (inputs, outputs), "decoder": (inputs, outputs)}

    @classmethod
    def fitted_to(cls, arguments, before): return {**arguments, "grid": ...}

and a network's class how its arguments follow new shapes, plain data in and a spec out:

    @classmethod
    def resized(cls, arguments, inputs, outputs): return {"class_path": ..., "init_args": ...}

A network that is told a class beside has that behind its shapes, (inputs, outputs, {"num_classes": 3}): arguments of
the network that follow, whatever its shapes do.

Shape, number of classes, levels, and of sequences alphabet and rate, are those of the data, unless the user gives them;
parts that were trained before a model (`zoo.trained_parts`) are fitted first, and it follows them; another model
inside, such as a prior, is told the classes of the data. A network whose shapes stay what they are in the entry stays
as it is written there, so an entry on its own data is what it always was. A class that declares nothing is not fitted.
Importing this module imports no torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from zoo.errors import ConfigError
from zoo.signature import default_of
from zoo.spec import build, class_of, is_spec
from zoo.trained_parts import declared

__all__ = [
    "FitsData",
    "Resizes",
    "beyond_digits",
    "can_follow",
    "conditioned",
    "fitted_model",
    "fitted_to_data",
    "grows",
    "halvings",
    "made_of",
    "stage_widths",
    "wants_convolutions",
]

LARGEST_FLAT = 28 * 28
"""Pixels of the largest image that linear layers may mix; larger ones get convolutions."""

LARGEST_BASE = 7
"""Longest side of the grid at which convolutions stop halving an image: 4 for sides that are powers of two."""

LEAST_WIDTH, MOST_DOUBLINGS = 64, 3
"""Channels at the finest grid of a larger image, and how often they double towards the coarsest: 64 to 512."""


@runtime_checkable
class FitsData(Protocol):
    """A family that says what its networks take and give, and how its arguments follow from the data."""

    def network_shapes(self, arguments: Any) -> Any: ...

    def fitted_to(self, arguments: Any, before: Any) -> Any: ...


@runtime_checkable
class Resizes(Protocol):
    """A network whose arguments follow from what it is to take and give."""

    def resized(self, arguments: Any, inputs: Any, outputs: Any) -> Any: ...


def wants_convolutions(shape: Sequence[int]) -> bool:
    """Tell whether examples of this shape are images too large for linear layers on their pixels."""
    return len(shape) == 3 and math.prod(shape[1:]) > LARGEST_FLAT


def beyond_digits(shape: Sequence[int]) -> bool:
    """Tell whether examples of this shape hold more values than the digits that most entries are made for.

    Networks that are told a time grow for these: more stages, channels and blocks.
    """
    return math.prod(shape) > LARGEST_FLAT


def halvings(sides: Sequence[int], largest: int = LARGEST_BASE, least: int = 1) -> int:
    """Return how often an image is halved until its longest side is at most ``largest``, at least ``least`` times.

    More rarely where the sides allow no more, as long as the grid stays within twice ``largest``.

    Raises:
        ConfigError: a side cannot be halved so often; the sentence names the sizes nearby that can.
    """
    n = max(least, math.ceil(math.log2(max(sides) / largest)))
    for fewer in range(n, least - 1, -1):
        if all(s % 2**fewer == 0 for s in sides) and max(sides) <= 2 * largest * 2**fewer:
            return fewer
    factor = 2**n
    below, above = ([max(1, whole(s / factor)) * factor for s in sides] for whole in (math.floor, math.ceil))
    sizes = " or ".join(dict.fromkeys([_size(below), _size(above)]))
    often = "once" if n == 1 else f"{n} times"
    raise ConfigError(
        f"images of {' x '.join(map(str, sides))} cannot be halved {often}, as the convolutional networks for them do; "
        f"set --data.size to {sizes}"
    )


def _size(sides: Sequence[int]) -> str:
    return str(sides[0]) if len(set(sides)) == 1 else f"[{','.join(map(str, sides))}]"


def grows(arguments: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Tell whether convolutional networks grow: for other sides than the entry's, too large for linear layers."""
    shape, old = arguments["shape"], before["shape"]
    return wants_convolutions(shape) and list(shape[1:]) != list(old[1:])


def stage_widths(sides: Sequence[int], stages: int, first: int = 0) -> list[int]:
    """Return the channels of a network from the finest grid to the coarsest: doubled at each stage, up to 8 times.

    Args:
        sides: of the image; one too large for linear layers starts with 64 channels at least.
        stages: their number, at least 1.
        first: channels of the finest grid in the entry, 0 where it has no such network.
    """
    large = math.prod(sides) > LARGEST_FLAT or not first
    first = max(first, LEAST_WIDTH) if large else first
    return [first * 2 ** min(stage, MOST_DOUBLINGS) for stage in range(stages)]


def made_of(cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of an object of this class, as `Resizes.resized` does."""
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": dict(arguments)}


def can_follow(class_path: str, allow: Collection[str] = ()) -> bool:
    """Tell whether anything of a model of this class can follow from the data. Raises `ConfigError`."""
    return issubclass(class_of(class_path, allow), FitsData) or bool(declared(class_path, tuple(allow)))


def fitted_to_data(spec: Mapping[str, Any], chosen: Mapping[str, Any], data: Any, **options: Any) -> dict[str, Any]:
    """Return `fitted_model` of a data module's shape, classes, levels, alphabet, rate, texts; options as there.

    Raises:
        ConfigError: networks of these classes cannot have this shape, or one of so many dimensions.
    """
    beside = {name: getattr(data, name, None) for name in ("alphabet", "rate", "context")}
    if texts := beside.pop("context"):
        beside["text_length"] = texts[0]
    try:
        return fitted_model(spec, chosen, data.shape, data.num_classes, levels=data.levels, beside=beside, **options)
    except (ValueError, IndexError, TypeError) as error:  # of a network that takes a shape apart which has other parts
        old = (spec.get("init_args") or {}).get("shape")
        if old is not None and len(old) == len(data.shape):
            raise
        built = f", it is built for such as {tuple(old)}" if old is not None else ""
        raise ConfigError(
            f"{spec['class_path'].rpartition('.')[2]} cannot have examples of the shape {tuple(data.shape)}{built}; "
            f"choose other data, or another model (zoo list)"
        ) from error


def conditioned(spec: Mapping[str, Any], num_classes: int, allow: Collection[str] = ()) -> dict[str, Any]:
    """Return the spec of a model that is told one of so many classes, or whose prior is.

    Raises:
        ConfigError: no classes, or a model that is told none, whatever its arguments.
    """
    cls, arguments = class_of(spec["class_path"], allow), dict(spec.get("init_args") or {})
    if not num_classes:
        raise ConfigError("the data have no classes, so num_classes cannot be theirs; leave it out, or take others")
    if "num_classes" in inspect.signature(cls).parameters:
        if not issubclass(cls, FitsData) or "shape" not in arguments:
            return {**spec, "init_args": {**arguments, "num_classes": num_classes}}
        chosen = {**arguments, "num_classes": num_classes}
        return fitted_model(spec, chosen, arguments["shape"], num_classes, named={"num_classes"}, allow=allow)
    parts = declared(spec["class_path"], tuple(allow))
    inside = [k for k, v in arguments.items() if k not in parts and is_spec(v)]
    inside = [k for k in inside if {"shape", "num_classes"} <= {*_taken(arguments[k], allow)}]
    if not inside:
        raise ConfigError(
            f"a {cls.__name__} is told no class, so it has no num_classes; choose a model that is (zoo list)"
        )
    condition = {name: conditioned(arguments[name], num_classes, allow) for name in inside}
    return {**spec, "init_args": {**arguments, **condition}}


def _taken(spec: Mapping[str, Any], allow: Collection[str]) -> Collection[str]:
    """Return the names of the arguments that an object of this spec takes."""
    return inspect.signature(class_of(spec["class_path"], allow)).parameters.keys()


def fitted_model(
    spec: Mapping[str, Any],
    chosen: Mapping[str, Any],
    shape: Sequence[int],
    num_classes: int,
    *,
    levels: int | None = None,
    beside: Mapping[str, Any] | None = None,
    named: Collection[str] = (),
    kept: Collection[str] = (),
    allow: Collection[str] = (),
) -> dict[str, Any]:
    """Return the spec of a model for examples of ``shape``; it equals ``spec`` where nothing has to follow.

    Args:
        spec: as the entry has it.
        chosen: arguments as the user's options leave them.
        shape: of an example of the data.
        num_classes: of the data, 0 for none.
        levels: of the data, None for continuous or unknown ones, which change nothing.
        beside: what else the data are: the ``alphabet`` of texts and the ``text_length`` of captions, the ``rate`` of
            sound.
        named: arguments that the user gives, or gives a part of; they are left to the user.
        kept: trained parts that stay what they are, as their weights are given.
        allow: class-path prefixes that the user's own overlay allows.

    Raises:
        ConfigError: networks of these classes cannot have this shape.
    """
    before = dict(spec.get("init_args") or {})
    cls = class_of(spec["class_path"], allow)
    options = {k: v for k, v in chosen.items() if k in before or k in named}
    given = {k: v for k, v in options.items() if k in named and not is_spec(v)}
    after = {**before, **{k: v for k, v in options.items() if k in named or not is_spec(v)}}
    for part, declaration in declared(spec["class_path"], tuple(allow)).items():
        if part in named or part in kept or not is_spec(before.get(part)):
            continue
        inner = before[part].get("init_args") or {}
        after[part] = fitted_model(before[part], inner, shape, num_classes, levels=levels, allow=allow)
        if after[part] != before[part] and declaration.fitted is not None:
            after = dict(declaration.fitted(after, build(after[part], allow)))
    _tell_models_inside(after, {*named, *kept, *declared(spec["class_path"], tuple(allow))}, num_classes, allow)
    if not issubclass(cls, FitsData):
        return {**spec, "init_args": after}
    data = {"shape": list(shape), "num_classes": num_classes, "levels": levels, **(beside or {})}
    _follow(after, before, cls, data, named)
    if any(after.get(k) != before.get(k) for k in data):
        after = {**cls.fitted_to(after, before), **given}  # type: ignore[attr-defined]
    return {**spec, "init_args": _with_networks(cls, before, after, options, named, allow)}


def _follow(
    after: dict[str, Any], before: Mapping[str, Any], cls: type, data: Mapping[str, Any], named: Collection[str]
) -> None:
    """Set what is the data's own: their shape, the classes of a conditional model, and levels where one has them."""
    if "shape" in before and "shape" not in named:
        after["shape"] = data["shape"] if list(before["shape"]) != data["shape"] else before["shape"]
    if before.get("num_classes") and "num_classes" not in named:
        after["num_classes"] = data["num_classes"]
    for fact in set(data) - {"shape", "num_classes", "levels"} - set(named):
        if fact in inspect.signature(cls).parameters and before.get(fact, default_of(cls, fact)) != data[fact]:
            after[fact] = data[fact]
    if data["levels"] is None or "levels" in named or "levels" not in inspect.signature(cls).parameters:
        return
    if before.get("levels", default_of(cls, "levels")) != data["levels"] and (
        "levels" in before or default_of(cls, "levels") is not None
    ):
        after["levels"] = data["levels"]


def _tell_models_inside(
    after: dict[str, Any], named: Collection[str], num_classes: int, allow: Collection[str]
) -> None:
    """Let models inside that are trained with this one, such as a prior, be told the classes of the data."""
    for name, value in after.items():
        arguments = (value.get("init_args") or {}) if is_spec(value) else {}
        if name in named or "shape" not in arguments or not arguments.get("num_classes"):
            continue
        if issubclass(class_of(value["class_path"], allow), FitsData):
            after[name] = fitted_model(value, arguments, arguments["shape"], num_classes, allow=allow)
        elif not any(is_spec(v) for v in arguments.values()):  # its network is its own
            after[name] = {**value, "init_args": {**arguments, "num_classes": num_classes}}


def _followed(network: Any, arguments: Mapping[str, Any], old: Any, new: Any) -> dict[str, Any]:
    """Return the spec of a network of new shapes: what it would be of the old ones too is no reason to change it.

    Of a network that is told a class, all arguments belong together: stages, and which of them attend.
    """
    made = network.resized(arguments, *new[:2])
    if old is None or len(new) > 2:
        return made
    try:
        same = network.resized(arguments, *old)
    except ConfigError:  # an entry whose sides cannot be halved, with networks of its own
        return made
    if not same["class_path"] == made["class_path"] == made_of(network, {})["class_path"]:
        return made
    differing = {k: v for k, v in made["init_args"].items() if k not in same["init_args"] or same["init_args"][k] != v}
    return {**made, "init_args": {**arguments, **differing}}


def _with_networks(
    cls: Any,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    options: Mapping[str, Any],
    named: Collection[str],
    allow: Collection[str],
) -> dict[str, Any]:
    """Return the arguments with those networks resized whose shapes are others than in the entry."""
    fitted = dict(after)
    old, new = cls.network_shapes(before), cls.network_shapes(after)
    for name, (inputs, outputs, *condition) in new.items():
        if [inputs, outputs, *condition] == [*old.get(name, ())] or not is_spec(before.get(name)):
            continue
        network, arguments = class_of(before[name]["class_path"], allow), before[name].get("init_args") or {}
        made = {"class_path": before[name]["class_path"], "init_args": dict(arguments)}
        if (inputs, outputs) != tuple(old.get(name, ()))[:2] and issubclass(network, Resizes):
            made = _followed(network, arguments, old.get(name), (inputs, outputs, *condition))
        made = {**made, "init_args": {**made["init_args"], **_new(made, condition[0] if condition else {}, allow)}}
        if made == {"init_args": {}, **before[name]}:
            continue
        if name in named:  # what is chosen of it is chosen; of another class, all of it
            if not is_spec(options.get(name)) or options[name]["class_path"] != made["class_path"]:
                continue
            chosen = (options[name].get("init_args") or {}).items()
            kept = {k: v for k, v in chosen if v != arguments.get(k, default_of(network, k))}
            made = {**made, "init_args": {**made["init_args"], **kept}}
        fitted[name] = made
    return fitted


def _new(spec: Mapping[str, Any], condition: Mapping[str, Any], allow: Collection[str]) -> dict[str, Any]:
    """Return what a network is told that it takes and is not told yet."""
    cls, arguments, taken = class_of(spec["class_path"], allow), spec["init_args"], _taken(spec, allow)
    return {k: v for k, v in condition.items() if k in taken and arguments.get(k, default_of(cls, k)) != v}
