"""Pictures as arrays: drawn figures, sheets of images, and several pictures with titles on one page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from zoo.images import sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["page", "picture_of", "png", "sheet_of"]


def picture_of(figure: Figure) -> np.ndarray:
    """Draw a figure, uint8 (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def sheet_of(images: Tensor, *, columns: int, width: int = 800) -> np.ndarray:
    """Arrange images (N, C, H, W) in [0, 1] in rows of ``columns``, enlarged to about ``width`` pixels, as RGB."""
    scale = max(1, width // (columns * (images.shape[-1] + 1)))
    picture = sheet(images, columns=columns, scale=scale)
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def page(parts: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Put pictures below each other, each under its title, uint8 (height, width, 3)."""
    from PIL import Image, ImageDraw

    pad, line = 10, 22
    width = max(picture.shape[1] for _, picture in parts) + 2 * pad
    height = sum(picture.shape[0] + line + pad for _, picture in parts) + pad
    whole = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(whole), pad
    for title, picture in parts:
        draw.text((pad, top), title, fill="black")
        whole.paste(Image.fromarray(picture), (pad, top + line))
        top += picture.shape[0] + line + pad
    return np.asarray(whole)


def png(picture: np.ndarray) -> bytes:
    """Return a picture as a PNG file's bytes, in 256 colours."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).quantize(256).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
