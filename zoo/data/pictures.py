"""One picture file as uint8 (C, H, W): what viewers show, in the size and channels that were asked for.

The first frame of a file counts. It is turned as its EXIF orientation says; grey pictures of 16 bits keep their range,
0..65535 becoming 0..255, and floating-point ones theirs of 0..1; transparent pixels are composited on a background;
palettes, CMYK, grey with alpha and 1-bit pictures become RGB or grey. Then it is resized, by one of three rules:
``crop`` to the middle part of the right proportions, ``pad`` with the background, or ``stretch``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ENDINGS", "FOREIGN", "RESIZE", "BadPicture", "Preparation"]

ENDINGS = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm",
    ".tif", ".tiff", ".tga", ".jp2", ".avif",
}  # fmt: skip
"""Endings of files that are pictures."""

FOREIGN = {
    ".heic", ".heif", ".svg", ".psd", ".xcf", ".jxl", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw", ".raw", ".dcm",
    ".nii", ".eps", ".ai",
}  # fmt: skip
"""Endings of pictures that are not read, and are not passed over in silence."""

RESIZE = ("crop", "pad", "stretch")


class BadPicture(Exception):
    """A file that is no picture that can be used; the text says why."""


def pillow() -> Any:
    """Return the module PIL, which takes a while to import."""
    import PIL.Image
    import PIL.ImageColor
    import PIL.ImageOps

    return PIL


@dataclass(frozen=True)
class Preparation:
    """How picture files become examples.

    Attributes:
        height, width: of an example.
        channels: 1 (grey) or 3 (RGB).
        resize: one of `RESIZE`.
        background: name or hexadecimal code of the colour behind transparent pixels and around padded pictures.
        middle: side of the square in the middle that is taken before the picture is resized, None for all of it.

    Raises:
        ConfigError: a size, a number of channels, a rule or a colour that there is none of.
    """

    height: int
    width: int
    channels: int = 3
    resize: str = "crop"
    background: str = "white"
    middle: int | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ConfigError(f"channels must be 1 or 3, got {self.channels}")
        if self.resize not in RESIZE:
            raise ConfigError(f"resize must be one of {', '.join(RESIZE)}, got {self.resize!r}")
        try:
            pillow().ImageColor.getrgb(self.background)
        except ValueError as error:
            raise ConfigError(
                f"background must be a colour such as white, black or #808080, got {self.background!r}"
            ) from error

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an example."""
        return self.channels, self.height, self.width

    def check(self, stream: BinaryIO) -> None:
        """Look at the beginning of a file only. Raises `BadPicture`."""
        try:
            with pillow().Image.open(stream) as image:
                self._usable(image)
        except Exception as error:  # readers of foreign bytes raise what they like
            raise BadPicture(_reason(error)) from error

    def read(self, stream: BinaryIO) -> Tensor:
        """Return the example of a file. Raises `BadPicture`."""
        try:
            with pillow().Image.open(stream) as image:
                self._usable(image)
                return self.example(image)
        except Exception as error:  # readers of foreign bytes raise what they like
            raise BadPicture(_reason(error)) from error

    def example(self, image: Image) -> Tensor:
        """Return a picture of Pillow as an example, uint8 (C, H, W). Raises `BadPicture`."""
        PIL = pillow()
        image = PIL.ImageOps.exif_transpose(image)
        image = self._opaque(_eight_bits(image)).convert("L" if self.channels == 1 else "RGB")
        if self.middle is not None:
            left, top = (image.width - self.middle) // 2, (image.height - self.middle) // 2
            image = image.crop((left, top, left + self.middle, top + self.middle))
        size = (self.width, self.height)
        if self.resize == "crop":
            image = PIL.ImageOps.fit(image, size)
        elif self.resize == "stretch":
            image = image.resize(size, PIL.Image.Resampling.BICUBIC)
        else:
            colour = PIL.ImageColor.getcolor(self.background, image.mode)
            image = PIL.ImageOps.pad(image, size, color=colour)
        pixels = np.asarray(image, dtype=np.uint8).reshape(self.height, self.width, self.channels)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def _opaque(self, image: Image) -> Image:
        """Composite a picture that has transparent pixels on the background."""
        if not image.has_transparency_data:
            return image
        PIL = pillow()
        if image.mode in ("La", "RGBa"):  # premultiplied
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        image = image.convert("RGBA")
        below = PIL.Image.new("RGBA", image.size, (*PIL.ImageColor.getrgb(self.background)[:3], 255))
        return PIL.Image.alpha_composite(below, image).convert("RGB")

    def _usable(self, image: Image) -> None:
        most = pillow().Image.MAX_IMAGE_PIXELS
        if most is not None and image.width * image.height > most:
            raise BadPicture(f"{image.width} x {image.height} pixels are more than Pillow's limit of {most:,}")
        if image.mode == "I" and image.format not in ("PNG", "PPM"):
            raise BadPicture("integers of 32 bits have no level that is white; store it with 8 or 16 bits")


def _eight_bits(image: Image) -> Image:
    """Return pictures of more bits with 256 levels; they keep their range. Raises `BadPicture`."""
    from PIL import Image as Images

    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.size and not (values.min() >= 0 and values.max() <= 65535):
            raise BadPicture("its integers are not within 0 and 65535")
        return Images.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        if not bool(((values >= 0) & (values <= 1)).all()):  # which NaN is not, either
            raise BadPicture("its floating-point values are not within 0 and 1")
        return Images.fromarray((values * 255 + 0.5).astype(np.uint8))
    return image


def _reason(error: BaseException) -> str:
    name = type(error).__name__
    if name in ("DecompressionBombError", "DecompressionBombWarning"):
        return "it has more pixels than Pillow's limit"
    if name == "UnidentifiedImageError":
        return "it is no picture"
    text = " ".join(str(error).split())
    return text[:120] or name


def parse_size(size: int | Sequence[int], what: str) -> tuple[int, int]:
    """Return height and width of a side, or of both. Raises `ConfigError`."""
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides):
        raise ConfigError(f"{what}: size must be positive: one side, or height and width, got {size!r}")
    return sides[0], sides[1]
