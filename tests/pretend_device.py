"""A device that is not there: tensors that say they are on another device, compute on the CPU, and refuse to be mixed.

Real kernels on a GPU refuse a tensor of the CPU beside one of theirs, unless it is a single number that they read as a
scalar. `Pretend` does the same here, so that ``torch.zeros(n)`` without ``device=`` in a loss or a sampler is found
where no GPU is. Which kernels a GPU lacks, and what they cost, it does not know.

`waits` notes what makes the processor wait for a GPU: a number that is read, a tensor that is moved from one to the
other, a choice whose size depends on the numbers.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

__all__ = ["DEVICE", "DeviceMistakeError", "Pretend", "pretend_device", "send", "waits"]

DEVICE = torch.device("meta")
_TAKES_CPU_SCALARS = ("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::pow", "aten::where", "aten::maximum",
                      "aten::minimum", "aten::eq", "aten::ne", "aten::lt", "aten::le", "aten::gt", "aten::ge",
                      "aten::remainder", "aten::fill_", "aten::copy_", "aten::index", "aten::index_put")  # fmt: skip
_SIZED_BY_VALUES = ("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::equal",
                    "aten::unique_consecutive", "aten::repeat_interleave.Tensor", "aten::is_nonzero")  # fmt: skip
_waits: list[list[str]] = []
_MOVES = ("aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense")


class DeviceMistakeError(AssertionError):
    """A tensor of the CPU met one of the device."""


class Pretend(Tensor):
    """A tensor that says it is on the device; ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> Pretend:
        made = Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
            layout=real.layout, device=DEVICE, requires_grad=real.requires_grad,
        )  # fmt: skip
        made.held = real.detach()
        return made

    def new_tensor(self, data: Any, **options: Any) -> Pretend:
        return Pretend(self.held.new_tensor(data, **options))  # made without a dispatch

    def __repr__(self, **_: Any) -> str:
        return f"Pretend({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Make what is asked for on the device there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Put numbers that are written out where they are asked for: no dispatch sees ``torch.tensor``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            device = torch.device(kwargs.pop("device", None) or "cpu")
            made = func(*args, **kwargs)
            return made.to(device)
        return func(*args, **kwargs)


def _waiting(name: str, tensors: list[Tensor], there: list[Tensor], to_device: bool | None) -> str | None:
    """Return why an operation makes the processor wait for the device, None where it does not."""
    if name == "aten::_local_scalar_dense" and there:
        return "a number is read"
    if name == "aten::_to_copy" and to_device is not None and to_device != bool(there):
        return f"{tuple(tensors[0].shape)} is moved {'to' if to_device else 'from'} the device"
    if name == "aten::copy_" and 0 < len(there) < len(tensors):
        return f"{tuple(tensors[0].shape)} is copied between devices"
    if there and name in _SIZED_BY_VALUES:
        return f"{name} has a size that depends on numbers"
    chooses = name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
    if there and chooses:
        if any(not isinstance(t, Pretend) and t.ndim for t in tensors):
            return "a position is moved to the device"
        positions = tensors[1:] if name == "aten::index" else tensors[1:-1]
        masked = any(t.dtype == torch.bool for t in positions if isinstance(t, Pretend))
        if masked and (name == "aten::index" or tensors[-1].numel() > 1):
            return "a choice by a mask has a size that depends on numbers"
    return None


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    flat, form = tree_flatten((args, kwargs))
    tensors = [a for a in flat if isinstance(a, Tensor)]
    there = [a for a in tensors if isinstance(a, Pretend)]
    asked = kwargs.get("device")
    moved = None if asked is None else torch.device(asked).type == DEVICE.type
    reason = _waiting(name, tensors, there, moved) if _waits else None
    if reason is not None:
        _waits[-1].append(f"{reason}, {_place()}")
    generators = [a for a in flat if isinstance(a, torch.Generator)]
    to_device = asked is not None and torch.device(asked).type == DEVICE.type
    if there and name not in _MOVES:
        for other in (a for a in tensors if not isinstance(a, Pretend)):
            scalar = other.ndim == 0 and name.rstrip("_") in {n.rstrip("_") for n in _TAKES_CPU_SCALARS}
            position = "index" in name and not other.is_floating_point()
            if not scalar and not position:
                raise DeviceMistakeError(f"{name}: a tensor of the CPU, {tuple(other.shape)}, beside one of {DEVICE}")
    if generators and (there or to_device) and generators[0].device.type != DEVICE.type:
        raise DeviceMistakeError(f"{name}: a generator of the CPU draws for {DEVICE}")
    flat = [a.held if isinstance(a, Pretend) else a for a in flat]
    real_args, real_kwargs = tree_unflatten(flat, form)
    if asked is not None:
        real_kwargs = {**real_kwargs, "device": torch.device("cpu")}
    out = func(*real_args, **real_kwargs)
    if name == "aten::_to_copy" and asked is not None:
        on_device = to_device
    elif name == "aten::_local_scalar_dense":
        on_device = False
    elif name == "aten::copy_":
        return args[0]
    else:
        on_device = bool(there) or to_device
    if not on_device:
        return out
    if func._schema.is_mutable and args and isinstance(args[0], Pretend) and out is args[0].held:
        return args[0]
    return tree_map(lambda x: Pretend(x) if isinstance(x, Tensor) and not isinstance(x, Pretend) else x, out)


def _place() -> str:
    """Return the line of the package that asked."""
    stack = [f for f in traceback.extract_stack() if "/zoo/" in f.filename]
    return f"{stack[-1].filename.rpartition('/zoo/')[2]}:{stack[-1].lineno}" if stack else "outside of the package"


@contextmanager
def waits() -> Iterator[list[str]]:
    """Give a list of what makes the processor wait for the device inside, with its places."""
    _waits.append([])
    try:
        yield _waits[-1]
    finally:
        _waits.pop()


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """Let the device be there: what is asked for on it is made, what is on it stays on it."""
    with _Factories(), _Literals():
        yield DEVICE


def send(module: nn.Module) -> nn.Module:
    """Put a module on the device, in place, by the function that ``module.to`` uses."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        module._apply(lambda t: t if isinstance(t, Pretend) else Pretend(t.detach()))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    for part in module.modules():
        if hasattr(part, "_device"):  # Lightning's note of where it is
            part._device = DEVICE
    return module
