"""A zoo of generative models behind one contract.

Importing ``zoo`` imports no torch: the public functions are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_PUBLIC = {
    "create": "zoo.registry",
    "info": "zoo.catalogue",
    "list": "zoo.catalogue",
    "load": "zoo.hub",
    "pull": "zoo.hub",
    "push": "zoo.hub",
    "diagnose": "zoo.api",
    "evaluate": "zoo.api",
    "evaluate_features": "zoo.api",
    "fit": "zoo._cli.from_python",
    "leaderboard": "zoo.leaderboard.frame",
    "restore": "zoo.api",
    "transforms": "zoo.api",
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
    "evaluate_features",
    "fit",
    "info",
    "leaderboard",
    "list",
    "load",
    "pull",
    "push",
    "restore",
    "transforms",
    "tune",
]

if TYPE_CHECKING:
    from zoo._cli.from_python import fit
    from zoo.api import diagnose, evaluate, evaluate_features, restore, transforms
    from zoo.catalogue import info, list
    from zoo.errors import ZooError
    from zoo.hub import load, pull, push
    from zoo.leaderboard.frame import leaderboard
    from zoo.model import GenerativeModel
    from zoo.registry import create
    from zoo.trainings import Training
    from zoo.tuning import tune


def __getattr__(name: str) -> Any:
    if name == "ZooUNet":  # by which diffusers finds the class of a component, in a folder of `zoo.export.to_diffusers`
        return importlib.import_module("zoo.export.diffusers_folder").ZooUNet
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    if name not in globals():  # `leaderboard` is: importing the module binds its package here, which can be called
        globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> Any:
    return sorted(__all__)
