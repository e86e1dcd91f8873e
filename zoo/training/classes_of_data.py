"""Whether a model that is told classes gets them from its data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from zoo.data.base import TensorData
from zoo.errors import ConfigError
from zoo.model import GenerativeModel
from zoo.spec import is_spec

__all__ = ["check_classes"]


def check_classes(model: GenerativeModel, data: TensorData, spec: Mapping[str, Any], name: str) -> None:
    """Refuse classes that the model does not know, or that the data do not have; say where a model goes without.

    Args:
        model: as it was built.
        data: that it is trained on.
        spec: of the model in the entry, before it followed the data.
        name: of the entry.

    Raises:
        ConfigError: the data have more classes than the model, or none where it is told one.
    """
    if 0 < model.num_classes < data.num_classes:
        raise ConfigError(
            f"the model is told one of {model.num_classes} classes, {data.name} has {data.num_classes}; set "
            f"--model.num_classes {data.num_classes}"
        )
    if model.num_classes and not data.num_classes:
        raise ConfigError(
            f"the model is told one of {model.num_classes} classes, and {data.name} has none; leave "
            f"--model.num_classes out, or give data with classes"
        )
    if not (data.num_classes or model.num_classes or model.context) and _takes_classes(spec):
        warnings.warn(
            f"{name} is told the class of each example, and {data.name} has no classes: it is trained "
            f"without, and samples take no labels",
            stacklevel=3,
        )


def _takes_classes(spec: Any) -> bool:
    """Tell whether a model of this spec, or one inside that is trained with it, is told classes."""
    arguments = (spec.get("init_args") or {}) if is_spec(spec) else {}
    return bool(arguments.get("num_classes")) or any(map(_takes_classes, arguments.values()))
