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
    "fit": "zoo._cli.from_python",
    "leaderboard": "zoo.leaderboard",
    "restore": "zoo.api",
    "tune": "zoo.tuning",
    "GenerativeModel": "zoo.model",
    "Training": "zoo.trainings",
    "ZooError": "zoo.errors",
}

__all__ = [
    "GenerativeModel",
    "Training",
    "ZooError",
    "__version__",
    "create",
    "diagnose",
    "evaluate",
    "fit",
    "leaderboard",
    "list",
    "load",
    "pull",
    "push",
    "restore",
    "tune",
]

if TYPE_CHECKING:
    from zoo._cli.from_python import fit
    from zoo.api import diagnose, evaluate, restore
    from zoo.errors import ZooError
    from zoo.hub import load, pull, push
    from zoo.leaderboard.frame import leaderboard
    from zoo.model import GenerativeModel
    from zoo.registry import create, list
    from zoo.trainings import Training
    from zoo.tuning import tune


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    value = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)  # a package that can be called
    globals()[name] = value
    return value


def __dir__() -> Any:
    return sorted(__all__)
