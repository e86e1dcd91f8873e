"""Contact sheets of samples, as PNG files, and back; sheets with captions; and sheets that move."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.files import write_whole

__all__ = [
    "animation_bytes",
    "captioned_png",
    "captioned_sheet",
    "clips_png",
    "picture_size",
    "png_bytes",
    "read_clips",
    "read_png",
    "save_png",
    "sheet",
]

_BETWEEN = 96  # grey level of what separates images, and of cells that hold none


def sheet(images: Tensor, *, columns: int | None = None, pad: int = 1, scale: int = 1) -> np.ndarray:
    """Arrange images (N, C, H, W) in [0, 1] as one picture, uint8 (height, width) or (height, width, 3)."""
    n, c, h, w = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    pixels = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    canvas = np.full((c, rows * (h + pad) + pad, columns * (w + pad) + pad), _BETWEEN, dtype=np.uint8)
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


def clips_png(clips: Tensor, **layout: int) -> bytes:
    """Return the frames of clips (N, C, T, H, W) in [0, 1] as a PNG file's bytes, one clip a row."""
    return png_bytes(clips.transpose(1, 2).flatten(0, 1), columns=clips.shape[2], **layout)


def animation_bytes(clips: Tensor, *, apng: bool = False, milliseconds: int = 125, **layout: int) -> bytes:
    """Return clips (N, C, T, H, W) in [0, 1], side by side on a sheet that moves, as a file's bytes.

    Args:
        clips: of T frames each.
        apng: an animated PNG, which is exact, in the place of a GIF of at most 256 colours a frame.
        milliseconds: that each frame is shown.
        layout: as of `sheet`.
    """
    from PIL import Image

    first, *others = (Image.fromarray(sheet(frame, **layout)) for frame in clips.unbind(2))
    stream = io.BytesIO()
    kind = {"format": "PNG"} if apng else {"format": "GIF", "optimize": False}
    first.save(stream, save_all=True, append_images=others, duration=milliseconds, loop=0, **kind)
    return stream.getvalue()


def captioned_sheet(
    images: Tensor, captions: Sequence[str], *, columns: int | None = None, pad: int = 4, scale: int = 1
) -> np.ndarray:
    """Arrange images (N, C, H, W) in [0, 1], each above its caption, as one picture, uint8 (height, width, 3).

    A cell is as wide as the longest caption, up to two hundred pixels; what is wider is cut.
    """
    from PIL import Image, ImageDraw

    cells = [Image.fromarray(sheet(image[None], pad=0, scale=scale)).convert("RGB") for image in images]
    columns = columns or math.ceil(math.sqrt(len(cells)))
    letters = ImageDraw.Draw(cells[0]).textlength
    longest = max(math.ceil(letters(_latin(caption))) for caption in captions)
    w, h, line = max(cells[0].width, 80, min(longest, 200)), cells[0].height, 14
    rows = math.ceil(len(cells) / columns)
    whole = Image.new("RGB", (columns * (w + pad) + pad, rows * (h + line + pad) + pad), (_BETWEEN,) * 3)
    draw = ImageDraw.Draw(whole)
    for i, (cell, caption) in enumerate(zip(cells, captions, strict=True)):
        top, left = i // columns * (h + line + pad) + pad, i % columns * (w + pad) + pad
        whole.paste(cell, (left + (w - cell.width) // 2, top))
        text = _latin(caption)
        cut = len(text)
        while cut and draw.textlength(text[:cut]) > w:
            cut -= 1
        draw.text((left + (w - draw.textlength(text[:cut])) / 2, top + h), text[:cut], fill="white")
    return np.asarray(whole)


def _latin(caption: str) -> str:
    """Return a caption in the letters that can be drawn, in one line."""
    return caption.encode("latin-1", "replace").decode("latin-1").replace("\n", " ")


def captioned_png(images: Tensor, captions: Sequence[str], **layout: int) -> bytes:
    """Return the `captioned_sheet` of ``images`` as a PNG file's bytes."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(captioned_sheet(images, captions, **layout)).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def save_png(images: Tensor, path: str | Path, **layout: int) -> None:
    """Write the sheet of ``images`` to ``path``, whole or not at all."""
    write_whole(path, png_bytes(images, **layout))


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    from PIL import Image

    if not Path(path).is_file():  # a pipe or a device might never end
        raise DataError(f"there is no file {path}")
    try:
        with Image.open(path) as picture:
            yield picture
    except DataError:
        raise
    except Exception as error:  # readers of foreign bytes raise what they like
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is not a picture that can be read: {reason}") from error


def picture_size(path: str | Path) -> tuple[int, int]:
    """Return height and width of a picture file. Raises `DataError`."""
    with _opened(path) as picture:
        width, height = picture.size
    return height, width


def read_png(path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """Return the images of a picture file, (N, C, H, W) in [0, 1], with N = 1 for a picture of one image's size.

    A contact sheet as `sheet` makes it, at any scale and with one pixel between images, is taken apart again; cells at
    its end that hold nothing are left out.

    Args:
        path: a PNG file, or what else Pillow reads.
        shape: (C, H, W) of an image, C being 1 (the picture is turned to grey) or 3.

    Raises:
        DataError: there is no such picture, or it has neither the size of an image nor that of a sheet.
    """
    _check_channels(shape[0])
    with _opened(path) as picture:
        return _taken_apart(picture, path, shape)


def read_clips(path: str | Path, shape: tuple[int, ...], frames: int) -> Tensor:
    """Return the clips of a GIF or an animated PNG, (N, C, T, H, W) in [0, 1], with N = 1 for one of a frame's size.

    A sheet that moves, as `animation_bytes` makes it, is taken apart again.

    Args:
        path: of the file.
        shape: (C, T, H, W) of a clip. A file of more frames is cut to T; what one of fewer does not have is 0.
        frames: how many the file has at least.

    Raises:
        DataError: there is no such file, its frames have other sizes, or they are too few.
    """
    C, T, H, W = shape
    _check_channels(C)
    with _opened(path) as picture:
        held = min(T, getattr(picture, "n_frames", 1))
        if held < frames:
            raise DataError(f"{path} has {held} frames, fewer than the {frames} that are to be kept")
        found = []
        for t in range(held):
            picture.seek(t)
            found.append(_taken_apart(picture, path, (C, H, W)))
    clips = torch.stack([images[: min(map(len, found))] for images in found], 2)  # (N, C, held, H, W)
    return torch.nn.functional.pad(clips, (0, 0, 0, 0, 0, T - held))


def _check_channels(count: int) -> None:
    if count not in (1, 3):
        raise DataError(f"pictures hold images of 1 or 3 channels, not of {count}")


def _taken_apart(picture: Any, path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """Return the images of a picture, which is one or a sheet of them: (N, C, H, W) in [0, 1]. Raises `DataError`."""
    C, H, W = shape
    pixels = torch.from_numpy(np.array(picture.convert("L" if C == 1 else "RGB")))
    pixels = pixels.view(*pixels.shape[:2], C)  # (height, width, C)
    if pixels.shape[:2] == (H, W):
        return pixels.permute(2, 0, 1)[None].float() / 255
    height, width = pixels.shape[:2]
    for scale in range(1, min(height // (H + 2), width // (W + 2)) + 1):
        if height % scale == width % scale == 0:
            rows, spare = divmod(height // scale - 1, H + 1)
            columns, over = divmod(width // scale - 1, W + 1)
            if spare == over == 0:
                cells = pixels[::scale, ::scale][1:, 1:].unflatten(0, (rows, H + 1)).unflatten(2, (columns, W + 1))
                cells = cells[:, :-1, :, :-1].permute(0, 2, 4, 1, 3).flatten(0, 1)  # (rows * columns, C, H, W)
                held = (cells != _BETWEEN).flatten(1).any(1).nonzero()
                return cells[: int(held.max()) + 1 if len(held) else 1].float() / 255
    raise DataError(
        f"{path} has {width} x {height} pixels: neither one image of {W} x {H} nor a sheet of such images with one "
        f"pixel between them"
    )
