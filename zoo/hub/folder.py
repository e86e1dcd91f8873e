"""A folder as a model: safetensors and plain JSON, nothing that runs code.

The folder is what `save_pretrained` writes, what `push` uploads, what ships in ``zoo/pretrained`` and what the cache
holds: one form everywhere. Bytes are read once, hashed, and the same bytes are parsed.
"""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

import zoo
from zoo.classes import checked_names
from zoo.errors import ConfigError, CorruptWeightsError, WeightsMismatchError
from zoo.hub.layout import (
    CONFIG,
    FORMAT,
    WEIGHTS,
    Pins,
    check_header,
    check_sums,
    parse_config,
    read_folder,
    shown,
)
from zoo.model import GenerativeModel, Source
from zoo.registry import load_registry
from zoo.spec import ALLOWED, build, from_public

__all__ = ["built", "load_files", "load_pretrained", "model_names", "place", "public_names", "tied"]

_MALFORMED = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What a constructor raises when its arguments make no sense."""

_FILLS = {
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
}


_MOST_FOR_TRAINING = 4e9
"""Bytes of what only training needs that a constructor may make, although it is let go of at once."""

_LAYERS = ("blocks", "couplings", "depth", "heads", "scales", "squeezes", "stacks")
"""Arguments that say how often something is repeated: each time makes a tensor."""

_LONG = {
    **dict.fromkeys(
        ("queue", "levels", "likelihood_examples", "likelihood_steps", "rate", "shape", "steps", "table"), 1 << 24
    ),
    **dict.fromkeys(("augment_images", "kl_steps", "pair_batches", "pair_seed", "weak_batches"), 1 << 53),
}
"""Arguments that may be larger than any dimension of a tensor; the second row only counts what training has done."""

_FACTORIES = {
    getattr(torch, name)
    for name in ("arange", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn", "zeros")
}

_building = threading.Lock()
"""One construction at a time: torch has one random stream, and one list of hooks, for all threads."""

_PARTS = ("zoo.families.", "zoo.maths.", "zoo.nets.")


def public_names() -> dict[str, str]:
    """Return the short names that a published configuration may mention, with their class paths."""
    return {**{path.rpartition(".")[2]: path for path in ALLOWED}, **load_registry().classes()}


def model_names() -> dict[str, str]:
    """Return those of `public_names` that a model may consist of: what reads files, as data modules do, is no part."""
    return {n: path for n, path in public_names().items() if not path.startswith("zoo.") or path.startswith(_PARTS)}


def load_pretrained(
    folder: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    verify: bool = True,
    expected: Pins | None = None,
    source: Source | None = None,
) -> GenerativeModel:
    """Return the model of a folder, in eval mode; nothing in the folder is executed.

    Args:
        folder: what `save_pretrained` wrote.
        device: where to put it, the CPU if left out.
        dtype: floating-point type, the stored one if left out.
        verify: compare sha256 with all records before anything is parsed.
        expected: sha256 by file name that must hold as well.
        source: what to note as `GenerativeModel.source`.

    Raises:
        ModelFolderError: no model folder.
        NotAZooModelError: a configuration that is none of the zoo, or newer.
        CorruptWeightsError: a file differs from its record, or is cut.
        UnsafeWeightsError: pickled weights, or limits exceeded.
        ConfigError: a class that is not registered, an unknown or wrong argument.
        WeightsMismatchError: the tensors do not fit the model.
    """
    folder = Path(folder).expanduser()
    files = read_folder(folder)
    source = source or Source("folder", path=str(folder))
    return load_files(files, str(folder), source, device=device, dtype=dtype, verify=verify, expected=expected)


def load_files(
    files: Mapping[str, bytes],
    where: str,
    source: Source,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    verify: bool = True,
    expected: Pins | None = None,
) -> GenerativeModel:
    """Return the model of a folder's bytes, as `load_pretrained` does; ``where`` names them in errors.

    Raises as `load_pretrained` does.
    """
    digests = check_sums(files, where, expected=expected, names=(CONFIG, WEIGHTS)) if verify else {}
    config = parse_config(files[CONFIG], where)
    header = check_header(files[WEIGHTS], where)
    model = _construct(config, header, where)
    try:
        state = safetensors.torch.load(files[WEIGHTS])
    except SafetensorError as error:
        raise CorruptWeightsError(f"{where}: {WEIGHTS} cannot be read: {shown(error, 300)}") from error
    _fill(model, state)
    model.source = replace(source, sha256=digests.get(WEIGHTS))
    try:
        model.class_names = checked_names(config.get("class_names"), model.num_classes)
    except ConfigError as error:
        raise ConfigError(f"{where}: {CONFIG}: {error}") from error
    return place(model, device, dtype).eval()


def built(config: Mapping[str, Any], where: str) -> GenerativeModel:
    """Return a model as a published configuration describes it, its weights not yet those.

    Raises:
        ConfigError, NotAZooModelError: no configuration of registered names and plain data.
    """
    content = parse_config(json.dumps(config).encode(), where)
    try:
        with _building:
            spec = from_public({"name": content["model"], "args": content["args"]}, model_names())
            made: GenerativeModel = _published(spec, load_registry().allow)
            return made
    except _MALFORMED as error:
        raise ConfigError(f"{where}: it does not describe a model: {shown(error, 500)}") from error


def place(model: GenerativeModel, device: Any, dtype: Any) -> GenerativeModel:
    """Move the model to a device and floating-point type, where given. Raises `ConfigError`."""
    try:
        return model.to(device=device, dtype=dtype) if device is not None or dtype is not None else model
    except (AssertionError, RuntimeError, TypeError) as error:
        asked = " and ".join(str(x) for x in (device, dtype) if x is not None)
        raise ConfigError(f"the model cannot be put on {asked}: {str(error).splitlines()[0]}") from error


def _construct(config: Mapping[str, Any], header: Mapping[str, Any], where: str) -> GenerativeModel:
    """Build the model once without memory, to hold it against the header, then for real."""
    registry = load_registry()
    extra = registry.allow
    try:
        _check_numbers(config["args"], header)
        spec = from_public({"name": config["model"], "args": config["args"]}, model_names())
        with (
            warnings.catch_warnings(),
            _building,
            _few_parameters(4 * len(header) + 100),
            suppress(*_MALFORMED),
            torch.device("meta"),
            _Lean(header),
        ):
            warnings.simplefilter("ignore")  # of what is about to be refused
            _check_shapes(_published(spec, extra), header, where)
        # A constructor that reads numbers back has no shapes yet; what else is wrong comes up again here. The caller's
        # random stream is not ours to move.
        with _building, _Lean(header), torch.random.fork_rng(devices=[]):
            model = _published(spec, extra)
    except ConfigError as error:
        mine = f"this is zoo {zoo.__version__}, which reads format {FORMAT}"
        raise ConfigError(f"{where}: {shown(error, 500)} ({mine})") from error
    except _MALFORMED as error:
        raise ConfigError(f"{where}: {CONFIG} does not describe a model: {shown(error, 500)}") from error
    if not isinstance(model, GenerativeModel):
        raise ConfigError(f"{where}: {type(model).__name__} is no generative model")
    _check_shapes(model, header, where)
    return model


def _published(spec: Any, extra: tuple[str, ...]) -> Any:
    """Build a model without what only training needs, which no file of weights holds."""
    model = build(spec, extra)
    if isinstance(model, GenerativeModel):
        size = sum(v.numel() * v.element_size() for v in model.state_of_training().values())
        if size > _MOST_FOR_TRAINING:
            raise WeightsMismatchError(
                f"the configuration asks for {size / 1e9:.1f} GB that only training needs; more than "
                f"{_MOST_FOR_TRAINING / 1e9:.0f} GB are not made for a model that is loaded"
            )
        model.shed()
    return model


def _check_numbers(args: Any, header: Mapping[str, Any], name: str = "") -> None:
    """Hold the whole numbers of a configuration to the weights, before anything is made of them. Raises `ConfigError`.

    A dimension is not larger than those of the tensors, a repetition makes a tensor each time, and no example has more
    numbers than memory is for.
    """
    if isinstance(args, Mapping):
        for key, value in args.items():
            _check_numbers(value, header, key if isinstance(key, str) else "")
    elif isinstance(args, list):
        whole = [n for n in args if type(n) is int]
        if name == "shape" and len(whole) == len(args) and math.prod(min(abs(n), 1 << 27) for n in whole) > 1 << 26:
            raise ConfigError(f"examples of shape {shown(args[:8])} have more numbers than a model here may have")
        for value in args:
            _check_numbers(value, header, name)
    elif type(args) is int:
        largest = max((n for _, shape in header.values() for n in shape), default=0)
        limit = max(256, len(header)) if name in _LAYERS else max(1 << 16, min(largest, 1 << 26))
        limit = max(limit, _LONG.get(name, 0))
        if args > limit:
            number = args if args < 1 << 64 else "more than 2**64"
            raise ConfigError(f"{shown(name)!r} is {number}, more than the weights have room for: {limit} at most")


class _Lean(TorchFunctionMode):
    """Leave out the random filling of parameters, all of which are loaded; buffers and all else are computed.

    A tensor much larger than all of the weights together is refused before it takes memory.
    """

    def __init__(self, header: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        super().__init__()
        self.limit = max(1 << 25, 4 * sum(math.prod(shape) for _, shape in header.values()))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FACTORIES:
            self._check(func, args, kwargs or {})
        elif args and isinstance(args[0], nn.Parameter) and getattr(func, "__name__", "") in _FILLS:
            return args[0]
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self._hold(found)
        return found

    def _check(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        plain = {k: v for k, v in kwargs.items() if k not in ("device", "generator", "out", "pin_memory")}
        self._hold(func(*args, **plain, device="meta"))

    def _hold(self, tensor: Tensor) -> None:
        size = tensor.numel()
        if size > self.limit:
            raise WeightsMismatchError(
                f"the configuration asks for a tensor of {size} numbers, many more than the weights have"
            )


@contextmanager
def _few_parameters(limit: int) -> Iterator[None]:
    """Stop a constructor that makes many more tensors than the file holds."""
    count = 0

    def hook(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise WeightsMismatchError(
                f"the configuration asks for more than {limit} tensors, many more than the file has"
            )

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def tied(model: nn.Module) -> list[list[str]]:
    """Return the names of the state, those of one tied tensor together."""
    groups: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(value), []).append(name)
    return list(groups.values())


def _check_shapes(model: nn.Module, header: Mapping[str, tuple[str, tuple[int, ...]]], where: str) -> None:
    state = model.state_dict(keep_vars=True)
    missing = [names[0] for names in tied(model) if not any(n in header for n in names)]
    unexpected = [name for name in header if name not in state]
    wrong = [
        f"{name} is {shown(list(header[name][1]))} in the file and {list(value.shape)} in the model"
        for name, value in state.items()
        if name in header and tuple(value.shape) != header[name][1]
    ]
    wrong += [
        f"{name} is of type {header[name][0]} in the file and {str(value.dtype).removeprefix('torch.')} in the model"
        for name, value in state.items()
        if name in header and _kind(header[name][0]) != _kind(str(value.dtype))
    ]
    parts = [
        f"{title}: {', '.join(shown(n, 300) for n in names[:5])}"
        + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape or type", wrong))
        if names
    ]
    if parts:
        raise WeightsMismatchError(
            f"{where}: the weights do not fit {type(model).__name__} as {CONFIG} describes it; {'; '.join(parts)}"
        )


def _kind(dtype: str) -> str:
    """Return what numbers of a type are: truth, real or whole."""
    name = dtype.removeprefix("torch.").upper()
    return "truth" if name == "BOOL" else "real" if name.startswith(("F", "BF")) else "whole"


def _fill(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put the stored tensors into the model; ties stay ties.

    Where all real numbers are stored in one other type than the network's, as after ``model.to(torch.bfloat16)``, the
    whole model becomes of that type. Else each tensor is brought to the type that the network has for it.
    """
    for names in tied(model):
        stored = next(state[n] for n in names if n in state)
        for name in names:
            state.setdefault(name, stored)
    own = {name: value.dtype for name, value in model.state_dict().items() if value.is_floating_point()}
    stored_types = {state[name].dtype for name in own}
    if len(stored_types) == 1 and set(own.values()) != stored_types:
        model.to(dtype=stored_types.pop())
    model.load_state_dict(state, strict=True)
