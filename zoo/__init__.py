"""A zoo of generative models behind one contract.

Importing ``zoo`` imports no torch: the public functions are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "create": "zoo.registry",
    "list": "zoo.registry",
    "load": "zoo.hub",
    "pull": "zoo.hub",
    "push": "zoo.hub",
    "diagnose": "zoo.api",
    "evaluate": "zoo.api",
    "restore": "zoo.api",
    "GenerativeModel": "zoo.model",
    "ZooError": "zoo.errors",
}

__all__ = [
    "GenerativeModel",
    "ZooError",
    "__version__",
    "create",
    "diagnose",
    "evaluate",
    "list",
    "load",
    "pull",
    "push",
    "restore",
]

if TYPE_CHECKING:
    from zoo.api import diagnose, evaluate, restore
    from zoo.errors import ZooError
    from zoo.hub import load, pull, push
    from zoo.model import GenerativeModel
    from zoo.registry import create, list


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> Any:
    return sorted(__all__)
