"""Put those weights of the checkout into this package that the wheel of generative-zoo leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

HERE = "generative_zoo_weights/pretrained"


def left_out(checkout: Path) -> list[Path]:
    """Return the folders of weights that the pyproject.toml of a checkout keeps out of its wheel."""
    settings = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["hatch"]["build"]["exclude"]
    kept = {p.removesuffix("/*").rpartition("/")[2] for p in patterns if p.startswith("!/zoo/pretrained/")}
    weights = sorted((checkout / "zoo" / "pretrained").glob("*/model.safetensors"))
    return [path.parent for path in weights if path.parent.name not in kept]


class WeightsHook(BuildHookInterface):
    """Adds the folders to wheel and sdist; in an unpacked sdist they are in place already."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if (root / HERE).is_dir():
            return
        folders = left_out(root.parent)
        if not folders:
            raise FileNotFoundError(f"{root.parent} has no weights; build this package inside a checkout of the zoo")
        for folder in folders:
            build_data["force_include"][str(folder)] = f"{HERE}/{folder.name}"
