"""The ``gpu`` block of a registry entry: what a recipe changes where it runs on a GPU, on the same data.

A batch that keeps two CPU cores busy leaves a GPU idle, and precision and compilation that pay there do not on a CPU.
The block says what to take instead, and nothing about the model or its data beyond that.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import ConfigError, RegistryError, close_matches

__all__ = ["GPU", "RECIPES", "check_block", "merged", "wanted", "words"]

RECIPES = ("auto", "gpu", "cpu")
"""What ``--recipe`` takes: the block on a GPU only, always, or never."""


@dataclass(frozen=True)
class _Place:
    """Where a key of the block stands in an entry, and which values it may have."""

    path: tuple[str, ...]
    kind: type | tuple[type, ...]


GPU: Mapping[str, _Place] = {
    "batch_size": _Place(("data", "init_args"), int),
    "lr": _Place(("model", "init_args"), float),
    "precision": _Place(("trainer",), str),
    "max_steps": _Place(("trainer",), int),
    "compile": _Place(("training",), bool),
    "channels_last": _Place(("training",), bool),
}
"""Keys of the block."""


def check_block(where: str, block: Mapping[str, Any]) -> None:
    """Hold a ``gpu`` block against what it may say. Raises `RegistryError`."""
    for key, value in block.items():
        if key not in GPU:
            raise RegistryError(f"{where}: 'gpu' has an unknown key {str(key)[:100]!r}.{close_matches(str(key), GPU)}")
        kind = GPU[key].kind
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise RegistryError(f"{where}: {key!r} of 'gpu' must be {kind.__name__}, got {str(value)[:100]!r}")


def wanted(recipe: str, block: Mapping[str, Any], on_gpu: bool) -> bool:
    """Tell whether a run takes the block.

    Args:
        recipe: of `RECIPES`.
        block: of the entry.
        on_gpu: whether the run is on a GPU.

    Raises:
        ConfigError: another recipe, or one for a GPU where the entry has none.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"--recipe takes {', '.join(RECIPES)}, got {recipe!r}")
    if recipe == "gpu" and not block:
        raise ConfigError("--recipe gpu: this entry has no gpu block; leave it out, or give the options themselves")
    return bool(block) and (recipe == "gpu" or (recipe == "auto" and on_gpu))


def merged(parts: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """Return model, data, trainer and training of an entry with what the block says."""
    found = copy.deepcopy(dict(parts))
    for key, value in block.items():
        place = found
        for step in GPU[key].path:
            place[step] = dict(place.get(step) or {})
            place = place[step]
        place[key] = value
    return found


def words(block: Mapping[str, Any]) -> str:
    """Return what the block says, for people."""
    return ", ".join(
        f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in block.items()
    )
