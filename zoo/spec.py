"""Objects as plain data: which class, with which arguments, and nothing that needs a pickle.

A *spec* is ``{"class_path": "zoo.nets.mlp.MLP", "init_args": {...}}`` with plain JSON values, where a nested object is
a spec again. This is the form of LightningCLI, used in registry.yaml, run configurations and checkpoints, which are
local. What is published names no import path: ``{"name": "MLP", "args": {...}}``, resolved through the classes that the
registry mentions.

`Recorded` gives every object that it is mixed into its own spec, however it was constructed. `build` is the way back;
it checks every class path against the allow-list before anything is imported.

Constructors that pass their ``**kwargs`` on are written out (`zoo.signature`), so that a spec is complete, and parsers
and help see every argument with its default.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from zoo.errors import ConfigError, close_matches
from zoo.signature import whole_signature

__all__ = [
    "ALLOWED",
    "FOLLOWING",
    "MOVED",
    "Recorded",
    "allowed",
    "build",
    "class_of",
    "class_paths",
    "from_public",
    "plain",
    "refusal",
    "to_public",
]

ALLOWED: tuple[str, ...] = ("torch.nn.GELU", "torch.nn.LeakyReLU", "torch.nn.ReLU", "torch.nn.SiLU", "torch.nn.Tanh")
"""Class paths outside ``zoo.`` that a spec may name."""

FOLLOWING: tuple[str, ...] = ("zoo.nets.image_map.ImageMap",)
"""Class paths that no entry of the registry names, of networks that those of an entry become on other data."""

MOVED: dict[str, str] = {
    "zoo.families.resampling.ChosenByCritic": "zoo.families.chosen_by_critic.ChosenByCritic",
}
"""Class paths of before -> where the class is now, so that old checkpoints, configurations and folders keep loading."""

# Rooms whose constructors only keep and compute. Not training: its classes import what their arguments name.
_OURS = re.compile(r"^zoo\.(families|nets|data|maths|metrics)(\.[a-z_][a-z0-9_]*)+\.[A-Z]\w*\Z")
_WHOLE = re.compile(r"(int|(?:list|Sequence)\[int\]|tuple\[int(?:, (?:int|\.\.\.))*\])( \| None)?")
_PARTS = ("zoo.families.", "zoo.nets.", "zoo.maths.")
_LEAST = {
    "levels": 2,
    **dict.fromkeys(("shape", "grid", "latent_dim", "heads", "size", "patch", "rate", "steps", "teacher_steps"), 1),
    **dict.fromkeys(("likelihood_steps", "likelihood_examples", "out_channels", "out_features"), 1),
}
"""Least values of whole numbers that say how many of something there are, by argument; of all others it is 0."""

_SPEC = {"class_path", "init_args"}
_SIMPLE = {"int": int, "float": (int, float), "str": str, "bool": bool}


class Recorded:
    """Mixin: remembers the constructor's arguments, as a spec, in `spec`.

    An object whose arguments are not plain (a callable, a module that is not `Recorded`) works as any other, and its
    ``spec`` raises `ConfigError` that names the argument: such a model cannot be saved.
    """

    sized: ClassVar[Mapping[str, str]] = {}
    """Arguments that are sizes, see `zoo.sizes`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__, super(cls, cls).__init__)  # type: ignore[method-assign]

    @property
    def spec(self) -> dict[str, Any]:
        """Class path and arguments, defaults included, as plain data."""
        cls = type(self)
        arguments = self.__dict__["_arguments"]
        init_args = {}
        for name, value in arguments.items():
            try:
                init_args[name] = plain(value)
            except ConfigError as error:
                raise ConfigError(
                    f"{cls.__name__} cannot be written as plain data: argument {name!r}: {error}"
                ) from error
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": init_args}


def _recording(init: Callable[..., None], inherited: Callable[..., None]) -> Callable[..., None]:
    signature = whole_signature(init, inherited)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in self.__dict__:  # the outermost constructor only
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = dict(list(bound.arguments.items())[1:])
            for star in signature.parameters.values():  # what cannot be told beforehand goes under its own names
                if star.kind is star.VAR_KEYWORD:
                    arguments.update(arguments.pop(star.name))
                elif star.kind is star.VAR_POSITIONAL and not arguments[star.name]:
                    del arguments[star.name]
            _check_sizes(type(self), arguments)
            self.__dict__["_arguments"] = arguments
        init(self, *args, **kwargs)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


_LARGEST = {"depth": 10_000, "width": 2**20, "inner": 2**24}
"""Sizes of the parts of a network beyond which nothing that a machine of today holds could be meant."""


def _check_sizes(cls: type[Recorded], arguments: Mapping[str, Any]) -> None:
    """Refuse sizes, by the names that `zoo.sizes` knows, that would be looped over or allocated without an end."""
    for name, kind in cls.sized.items():
        value, most = arguments.get(name), _LARGEST.get(kind)
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if most is not None and isinstance(number, int) and number > most:
                shown = f"{number:,}" if number < 10**30 else "a number of more than 30 digits"
                raise ConfigError(f"{name!r} of {cls.__name__} must be at most {most:,}, got {shown}")


def plain(value: Any) -> Any:
    """Return ``value`` as JSON data: numbers, strings, lists, mappings, and specs in the place of objects."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) for k in value):
            raise ConfigError("a mapping whose keys are not all strings is not plain data")
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, Recorded):
        return value.spec
    path = f"{type(value).__module__}.{type(value).__qualname__}"
    simple = path.replace("torch.nn.modules.activation.", "torch.nn.")
    if simple in ALLOWED:
        return {"class_path": simple, "init_args": {}}
    raise ConfigError(f"a value of type {path} is not plain data, and is no object of the zoo")


def allowed(class_path: str, extra: Iterable[str] = ()) -> bool:
    """Tell whether a spec may name this class. ``extra`` holds prefixes that a user's own overlay allows."""
    return (
        class_path in ALLOWED
        or _OURS.match(class_path) is not None
        or any(class_path == e or class_path.startswith(e.rstrip(".") + ".") for e in extra)
    )


def class_of(class_path: str, extra: Iterable[str] = ()) -> type:
    """Import the class, after the allow-list has been asked. Raises `ConfigError`."""
    if not isinstance(class_path, str) or not allowed(class_path, extra):
        raise ConfigError(refusal(class_path))
    module, _, name = MOVED.get(class_path, class_path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module of a user's own runs code of theirs, which may fail in any way
        if class_path in ALLOWED or _OURS.match(class_path):
            if not isinstance(error, (ImportError, AttributeError)):
                raise
            raise ConfigError(f"class {class_path!r} does not exist in this version of the zoo: {error}") from error
        raise ConfigError(_not_imported(class_path, error)) from error
    if not isinstance(found, type):
        raise ConfigError(f"{class_path!r} is not a class")
    if _OURS.match(class_path) and not found.__module__.startswith("zoo."):  # only imported there
        raise ConfigError(f"{class_path!r} is no class of the zoo, but {found.__module__}.{found.__qualname__}")
    return found


def _not_imported(class_path: str, error: Exception) -> str:
    """Return the sentence on a class of the user's own that cannot be had, and says what to do."""
    module, _, name = class_path.rpartition(".")
    reason = f"{type(error).__name__}: {error}".rstrip(".: ")[:300]
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return (
            f"class {class_path!r} cannot be imported: there is no module {error.name!r}; install its package, or put "
            f"the folder that it is in on PYTHONPATH"
        )
    if isinstance(error, AttributeError) and module in sys.modules:
        return f"class {class_path!r} cannot be imported: {reason}; define {name} in {module}, or name another class"
    return f"class {class_path!r} cannot be imported: {reason}; mend {module}, and try `python -c 'import {module}'`"


def refusal(class_path: Any) -> str:
    """Return the sentence that refuses a class which is not on the allow-list, and says how to allow it."""
    shown = str(class_path)[:200]
    return (
        f"class {shown!r} is not on the allow-list, so it is not imported; if you trust it, allow it in a registry "
        f"file of your own (allow: [{shown.rpartition('.')[0] or shown}]), which --registry or ZOO_REGISTRY names"
    )


def is_spec(value: Any) -> bool:
    """Tell whether ``value`` is a nested spec rather than an ordinary mapping."""
    return isinstance(value, Mapping) and "class_path" in value and set(value) <= _SPEC


def class_paths(value: Any) -> set[str]:
    """Collect every class path that a spec, or any nesting of lists and mappings, names. Raises `ConfigError`."""
    found, left = set(), [value]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            if "class_path" in value and set(value) <= _SPEC:  # `is_spec`, of which there are many here
                if not isinstance(value["class_path"], str):
                    raise ConfigError(f"a class path must be text, got {str(value['class_path'])[:100]!r}")
                found.add(value["class_path"])
            left += value.values()
        elif isinstance(value, (list, tuple)):
            left += value
    return found


def build(spec: Any, extra: Iterable[str] = ()) -> Any:
    """Construct the object that a spec describes.

    All class paths are checked before the first import; unknown arguments and wrong plain types are refused with
    close matches. Raises `ConfigError`.
    """
    extra = tuple(extra)
    for path in sorted(class_paths(spec)):
        if not allowed(path, extra):
            class_of(path, extra)  # raises, naming the path
    return _construct(spec, extra)


def _construct(value: Any, extra: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_construct(v, extra) for v in value]
    if not is_spec(value):
        return value
    cls = class_of(value["class_path"], extra)
    args = {k: _construct(v, extra) for k, v in (value.get("init_args") or {}).items()}
    check_arguments(cls, args)
    try:
        return cls(**args)
    except TypeError as error:  # of a constructor that keeps its **kwargs to itself
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in args or unknown[1] in inspect.signature(cls).parameters:
            raise
        raise ConfigError(f"{cls.__name__} has no argument {unknown[1]!r}") from error


def check_arguments(cls: type, args: Mapping[str, Any]) -> None:
    """Refuse unknown and missing arguments, and plain values of the wrong type, in one sentence."""
    signature = inspect.signature(cls).parameters.values()
    parameters = {p.name: p for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature)
    for name, value in args.items():
        if name not in parameters:
            if takes_any:
                continue
            raise ConfigError(f"{cls.__name__} has no argument {str(name)[:100]!r}.{close_matches(name, parameters)}")
        annotation = parameters[name].annotation
        expected = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        kind = _SIMPLE.get(expected)
        wrong_bool = isinstance(value, bool) and kind is not None and kind is not bool
        if kind is not None and (wrong_bool or not isinstance(value, kind)):
            raise ConfigError(f"{cls.__name__}: argument {name!r} must be of type {expected}, got {_cut(value)}")
        _check_whole(cls, name, value, _written(annotation))
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in args]
    if missing:
        more = f", and {', '.join(map(repr, missing[1:]))}" if missing[1:] else ""
        raise ConfigError(f"{cls.__name__} needs the argument {missing[0]!r}{more}")


def _written(annotation: Any) -> str:
    """Return an annotation as it is written in a signature, whether or not it was evaluated."""
    text = str(annotation)
    if text.startswith("<class "):
        return annotation.__name__
    return text.replace("collections.abc.", "").replace("typing.", "").replace("Optional[int]", "int | None")


def _check_whole(cls: type, name: str, value: Any, annotation: str) -> None:
    """Hold the whole numbers of a model's part to what there can be: neither fractions nor less than nothing."""
    match = _WHOLE.fullmatch(annotation)
    if match is None or not cls.__module__.startswith(_PARTS) or (value is None and match[2]):
        return
    several = match[1] != "int"
    if several and not isinstance(value, (list, tuple)):
        raise ConfigError(f"{cls.__name__}: argument {name!r} must be a list of integers, got {_cut(value)}")
    least = _LEAST.get(name, 0)
    for number in value if several else [value]:
        if isinstance(number, bool) or not isinstance(number, int):
            what = "hold integers" if several else "be an integer"
            raise ConfigError(f"{cls.__name__}: argument {name!r} must {what}, got {_cut(number)}")
        if not least <= number < 2**63:
            limits = f"at least {least}" if number < least else "below 2**63"
            raise ConfigError(f"{cls.__name__}: argument {name!r} must be {limits}, got {_cut(number)}")


def _cut(value: Any) -> str:
    """Return a foreign value for a message; a number of thousands of digits has no text."""
    try:
        return repr(value)[:100]
    except ValueError:
        return "a number of thousands of digits"


def to_public(spec: Any, names: Mapping[str, str]) -> Any:
    """Turn a spec into its published form. ``names`` maps short class names to class paths.

    Raises `ConfigError` when a class is not among the registered ones, or two classes share a short name.
    """
    if isinstance(spec, list):
        return [to_public(v, names) for v in spec]
    if not isinstance(spec, Mapping):
        return spec
    if not is_spec(spec):
        return {k: to_public(v, names) for k, v in spec.items()}
    short = spec["class_path"].rpartition(".")[2]
    if names.get(short) != spec["class_path"]:
        raise ConfigError(f"class {spec['class_path']!r} is not mentioned by the registry, so it cannot be published")
    return {"name": short, "args": {k: to_public(v, names) for k, v in spec["init_args"].items()}}


def _moved_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return the short names of before of the classes that are registered under another one now."""
    known = set(names.values())
    return {old.rpartition(".")[2]: new for old, new in MOVED.items() if new in known}


def from_public(public: Any, names: Mapping[str, str]) -> Any:
    """Turn the published form back into a spec, through registered names only. Raises `ConfigError`."""
    if isinstance(public, list):
        return [from_public(v, names) for v in public]
    if not isinstance(public, Mapping):
        return public
    if "class_path" in public or "init_args" in public:
        raise ConfigError("a published configuration must not name an import path")
    if set(public) != {"name", "args"}:
        return {k: from_public(v, names) for k, v in public.items()}
    name, args = public["name"], public["args"]
    names = {**_moved_names(names), **names}
    if not isinstance(name, str) or name not in names:
        raise ConfigError(
            f"class {str(name)[:200]!r} is not registered in this version.{close_matches(str(name), names)}"
        )
    if not isinstance(args, Mapping):
        raise ConfigError(f"the arguments of {name!r} must be a mapping")
    return {"class_path": names[name], "init_args": {k: from_public(v, names) for k, v in args.items()}}
