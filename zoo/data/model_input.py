"""What a model's data are, as a transform: pictures, texts and arrays to examples, and examples back to pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.pictures import RESIZE, BadPicture, Preparation
from zoo.errors import ConfigError, DataError, check_choice
from zoo.files import open_regular

__all__ = ["ModelInput"]


class ModelInput:
    """The transform of a model's data: ``transforms(picture)`` is an example (C, H, W) in data range.

    It does what the data set of the model does to a file: it turns the picture as its EXIF orientation says, puts
    transparent pixels on the background, makes it grey or RGB, resizes it, and gives levels k / (L - 1); of binary
    data, 0 or 1 by whether the grey level is above the middle. It is no augmentation and draws nothing.

    Args:
        name: of the data, for messages.
        shape: of an example: (1, H, W) or (3, H, W) of images, (T,) of texts.
        levels: grey levels of images, None for continuous values.
        alphabet: the characters of texts.
        resize: ``crop`` to the middle, ``pad`` with the background, or ``stretch``.
        background: colour behind transparent pixels and around padded pictures.

    Attributes:
        shape: of an example.
        levels: grey levels; None for continuous values.

    Raises:
        ConfigError: data of another kind, or a rule or colour that there is none of.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        levels: int | None = 256,
        alphabet: str | None = None,
        *,
        resize: str = "crop",
        background: str = "white",
    ) -> None:
        check_choice("resize", resize, RESIZE)
        self.name, self.shape, self.levels, self.alphabet = name, tuple(shape), levels, alphabet
        self.resize, self.background = resize, background
        if self.alphabet is None and not (len(self.shape) == 3 and self.shape[0] in (1, 3)):
            raise ConfigError(
                f"{name} has examples of shape {self.shape}, which no picture or text becomes; transforms are of "
                f"images and texts"
            )

    def __call__(self, x: Any) -> Tensor:
        """Return an example (*shape), or a batch (N, *shape) of a list or of an array with one dimension more.

        Args:
            x: a picture of Pillow, the path of a picture file, an array or tensor (H, W), (H, W, C) or (C, H, W) of
                uint8 or of values in [0, 1], a text where the data are texts, or a list of these. Arrays are not
                resized.

        Raises:
            DataError: what it is not, a file that is no picture, an array of another size or of values out of range, a
                character outside the alphabet, or a text shorter than an example.
        """
        if isinstance(x, (list, tuple)):
            if not x:
                raise DataError("there is nothing in the list; give a picture or a text at least")
            return torch.stack([self(one) for one in x])
        if self.alphabet is not None:
            return self._text(x)
        if isinstance(x, (np.ndarray, Tensor)):
            return self._array(torch.as_tensor(x))
        return self._levels(self._picture(x))

    def inverse(self, x: Tensor) -> Any:
        """Return an example (*shape) as a picture of Pillow, or as a text; a batch (N, *shape) as a list of these.

        Raises:
            DataError: another shape.
        """
        if tuple(x.shape[1:]) == self.shape:
            return [self.inverse(one) for one in x]
        if tuple(x.shape) != self.shape:
            raise DataError(f"{self.name} has examples of shape {self.shape}, got {tuple(x.shape)}")
        if self.alphabet is not None:
            return "".join(self.alphabet[int(i)] for i in x.flatten().tolist())
        from PIL import Image

        pixels = (x.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        return Image.fromarray(pixels[..., 0] if self.shape[0] == 1 else pixels)

    def __repr__(self) -> str:
        if self.alphabet is not None:
            return f"ModelInput({self.name}: texts of {self.shape[0]} among {len(self.alphabet)} characters)"
        how = f"levels={self.levels}, resize={self.resize!r}, background={self.background!r}"
        return f"ModelInput({self.name}: shape={self.shape}, {how})"

    def _picture(self, x: Any) -> Tensor:
        """Return a picture or a file as uint8 (C, H, W)."""
        height, width = self.shape[1:]
        preparation = Preparation(height, width, self.shape[0], self.resize, self.background)
        try:
            if isinstance(x, (str, Path)):
                with open_regular(Path(x).expanduser()) as stream:
                    return preparation.read(stream)
            picture = x
            if not hasattr(picture, "convert"):
                raise DataError(f"{self.name} takes a picture, a path or an array, got a {type(x).__name__}")
            return preparation.example(picture)
        except OSError as error:
            raise DataError(f"{x} cannot be read: {error.strerror or error}") from error
        except BadPicture as error:
            raise DataError(f"{x if isinstance(x, (str, Path)) else 'this picture'} cannot be used: {error}") from error

    def _array(self, x: Tensor) -> Tensor:
        channels = self.shape[0]
        if x.ndim == 4:
            return torch.stack([self._array(one) for one in x])
        if x.ndim == 2:
            x = x[None]
        elif x.ndim == 3 and tuple(x.shape) != self.shape and x.shape[2] == channels:
            x = x.permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
        if tuple(x.shape) != self.shape:
            raise DataError(
                f"{self.name} has examples of shape {self.shape}, got an array of {tuple(x.shape)}, and arrays are "
                f"not resized; make a picture of it by PIL.Image.fromarray"
            )
        if x.dtype == torch.uint8:
            return self._levels(x)
        x = x.float()
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise DataError(
                f"{self.name} takes uint8, or values in [0, 1]; this array has {x.min():.4g} to {x.max():.4g}"
            )
        return self._levels((x * 255).round().byte()) if self.levels == 2 else x

    def _levels(self, pixels: Tensor) -> Tensor:
        """Return uint8 of 0..255 as levels in [0, 1]."""
        if self.levels == 2:
            return (pixels > 127).float()
        steps = (self.levels or 256) - 1
        return pixels.float().div(255) if steps == 255 else (pixels.float() / 255 * steps).round().div(steps)

    def _text(self, x: Any) -> Tensor:
        assert self.alphabet is not None
        length = math.prod(self.shape)
        if not isinstance(x, str):
            raise DataError(f"{self.name} takes a text, got a {type(x).__name__}")
        if len(x) < length:
            raise DataError(f"an example of {self.name} has {length} characters, the text {len(x)}; give a longer one")
        index = {character: i for i, character in enumerate(self.alphabet)}
        strange: Sequence[str] = sorted({c for c in x[:length] if c not in index})
        if strange:
            raise DataError(f"the character {strange[0]!r} is not among the {len(index)} of {self.name}")
        return torch.tensor([index[c] for c in x[:length]]).reshape(self.shape)
