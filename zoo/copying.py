"""Models can be pickled, deep-copied and sent to another process, those with parametrisations too.

PyTorch gives a parametrised module (`torch.nn.utils.parametrize`: spectral normalisation, weight normalisation) a class
of its own that nobody can import, and refuses to pickle it. Here such a module is written as its original class, its
state, and the names of the tensors that are computed; reading it makes that class anew.

This is for one's own processes and files. Nothing in the zoo reads a pickle: weights are published as safetensors.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize

__all__ = ["Copied", "let_copy"]


class Copied(nn.Module):
    """Base of modules that can be pickled whatever is parametrised inside."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        let_copy(self)
        return _reduced(self) if parametrize.is_parametrized(self) else super().__reduce_ex__(protocol)


def let_copy(module: nn.Module) -> None:
    """Let a module's parametrised parts, itself included, be pickled."""
    for part in module.modules():
        if parametrize.is_parametrized(part) and "__reduce_ex__" not in vars(type(part)):
            type(part).__reduce_ex__ = _reduced  # the class is this part's own, or that of its copies


def _reduced(part: nn.Module, protocol: Any = None) -> tuple[Any, ...]:
    original = type(part).__bases__[0]
    try:
        state = dict(original.__getstate__(part))
    except AttributeError:  # Python 3.10 has none of its own
        state = dict(part.__dict__)
    hooks = state["_load_state_dict_pre_hooks"]
    state["_load_state_dict_pre_hooks"] = type(hooks)((k, hook) for k, hook in hooks.items() if not _old_names(hook))
    return _parametrized, (original, *part.parametrizations), state  # type: ignore[misc]


def _old_names(hook: Any) -> bool:
    """Tell whether a hook is weight_norm's own, a local function, that reads state dicts of PyTorch before 2.0."""
    function = getattr(hook, "hook", hook)
    return getattr(function, "__qualname__", "").startswith("weight_norm.<locals>")


def _parametrized(original: type[nn.Module], *names: str) -> nn.Module:
    """Return an empty module of a class whose tensors of these names are computed."""
    part = original.__new__(original)
    part.__dict__["_parameters"] = part.__dict__["_buffers"] = part.__dict__["_modules"] = {}
    parametrize._inject_new_class(part)
    type(part).__reduce_ex__ = _reduced  # type: ignore[method-assign,assignment]
    for name in names:
        parametrize._inject_property(part, name)
    part.__dict__.clear()
    return part
