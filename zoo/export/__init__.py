"""Models as files that other runtimes read: ONNX, torch.export, safetensors, and pipeline folders of diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError
from zoo.export.parts import Part, parts
from zoo.export.writing import FORMATS, export

__all__ = ["FORMATS", "Part", "export", "from_diffusers", "parts", "to_diffusers"]

if TYPE_CHECKING:
    from zoo.export.diffusers_folder import from_diffusers, to_diffusers


def __getattr__(name: str) -> Any:
    if name not in ("from_diffusers", "to_diffusers"):
        raise AttributeError(f"module 'zoo.export' has no attribute {name!r}")
    try:
        from zoo.export import diffusers_folder
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "diffusers":
            raise
        raise ConfigError(
            "diffusers is missing: install the extra, `pip install 'generative-zoo[diffusers]'`"
        ) from error
    return getattr(diffusers_folder, name)
