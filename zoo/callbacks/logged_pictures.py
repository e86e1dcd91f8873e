"""Pictures for the loggers that take some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["send_picture"]


def send_picture(logger: Any, name: str, path: Path, step: int) -> bool:
    """Give a PNG to a logger, and return whether it takes pictures.

    Taken by: a logger with ``log_image(key, images, step)`` as that of Weights & Biases, and by those of TensorBoard,
    MLflow and Comet through their experiments; any other is passed over.

    Args:
        logger: of Lightning's kind.
        name: of the picture, such as ``samples``.
        path: of the file.
        step: at which it was drawn.
    """
    kinds = {cls.__name__ for cls in type(logger).__mro__}
    if callable(getattr(logger, "log_image", None)):
        logger.log_image(key=name, images=[str(path)], step=step)
    elif "TensorBoardLogger" in kinds:
        logger.experiment.add_image(name, _pixels(path), step, dataformats="HWC")
    elif "MLFlowLogger" in kinds:
        logger.experiment.log_image(logger.run_id, _pixels(path), artifact_file=f"{name}/step-{step:08d}.png")
    elif "CometLogger" in kinds:
        logger.experiment.log_image(str(path), name=name, step=step)
    else:
        return False
    return True


def _pixels(path: Path) -> Any:
    """Return a picture as uint8 (H, W, 3)."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
