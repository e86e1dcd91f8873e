"""Where bundled weights are: the small ones inside this package, the others in the package generative-zoo-weights.

The wheel of this package holds the cards and the results of all, so that tables are whole without the other. Weights
of both are held to the sha256 of the registry.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from zoo.errors import ModelFolderError

__all__ = ["WEIGHTS_PACKAGE", "pretrained_folder", "require_weights"]

WEIGHTS_PACKAGE = "generative-zoo-weights"
_FILE = "model.safetensors"


def pretrained_folder(name: str) -> Path:
    """Return where the bundled weights of ``name`` are; the place inside this package where they are nowhere."""
    inside = Path(__file__).resolve().parent / "pretrained" / name
    if (inside / _FILE).is_file():
        return inside
    found = importlib.util.find_spec(WEIGHTS_PACKAGE.replace("-", "_"))
    for root in (found.submodule_search_locations or ()) if found is not None else ():
        if (Path(root) / "pretrained" / name / _FILE).is_file():
            return Path(root) / "pretrained" / name
    return inside


def require_weights(name: str, folder: Path) -> None:
    """Say which package brings the weights of a model whose card and results are here without them.

    Raises:
        ModelFolderError: they are not installed.
    """
    if folder.is_dir() and not (folder / _FILE).is_file() and folder == pretrained_folder(name):
        raise ModelFolderError(
            f"the weights of {name!r} come with the package {WEIGHTS_PACKAGE}, which is not installed; install it "
            f"beside generative-zoo: `pip install {WEIGHTS_PACKAGE}`, or `pip install PATH/weights` from a checkout"
        )
