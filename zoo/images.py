"""Contact sheets of samples, as PNG files."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
from torch import Tensor

__all__ = ["png_bytes", "save_png", "sheet"]


def sheet(images: Tensor, *, columns: int | None = None, pad: int = 1, scale: int = 1) -> np.ndarray:
    """Arrange images (N, C, H, W) in [0, 1] as one picture, uint8 (height, width) or (height, width, 3)."""
    n, c, h, w = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    pixels = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    canvas = np.full((c, rows * (h + pad) + pad, columns * (w + pad) + pad), 96, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (h + pad) + pad, i % columns * (w + pad) + pad
        canvas[:, top : top + h, left : left + w] = image
    picture = canvas[0] if c == 1 else canvas.transpose(1, 2, 0)
    return np.kron(picture, np.ones((scale, scale) + (1,) * (picture.ndim - 2), dtype=np.uint8))


def png_bytes(images: Tensor, **layout: int) -> bytes:
    """Return the sheet of ``images`` as a PNG file's bytes."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(sheet(images, **layout)).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def save_png(images: Tensor, path: str | Path, **layout: int) -> None:
    """Write the sheet of ``images`` to ``path``, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(png_bytes(images, **layout))
    os.replace(temporary, path)
