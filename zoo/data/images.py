"""Base of the image data sets, and the augmentations that training batches of any of them may go through.

``--data.augment flip,crop:4`` mirrors each picture with probability one half, then pads it by four pixels with its own
edge and cuts it at a random place. Validation and test examples, floors and nearest neighbours are never augmented. The
draws of a batch are a function of (seed, step, rank), so that a run that was interrupted sees the same pictures again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data.base import TensorData
from zoo.errors import ConfigError, close_matches

__all__ = ["AUGMENTATIONS", "ImageData", "crop", "flip", "flip_vertical", "parse_augment"]


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each picture (B, C, H, W), left and right, with probability one half."""
    return torch.where(_coins(len(x), generator), x.flip(3), x)


def flip_vertical(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each picture (B, C, H, W) upside down with probability one half."""
    return torch.where(_coins(len(x), generator), x.flip(2), x)


def crop(x: Tensor, generator: torch.Generator, pixels: int) -> Tensor:
    """Pad each picture (B, C, H, W) by ``pixels`` with its edge, and cut one of the old size at a random place."""
    B, C, H, W = x.shape
    down, right = torch.randint(0, 2 * pixels + 1, (2, B), generator=generator)
    padded = F.pad(x.float(), (pixels,) * 4, mode="replicate").to(x.dtype)  # uint8 has no padding of its own
    rows = (down[:, None] + torch.arange(H))[:, None, :, None].expand(B, C, H, padded.shape[3])
    columns = (right[:, None] + torch.arange(W))[:, None, None, :].expand(B, C, H, W)
    return padded.gather(2, rows).gather(3, columns)


def _coins(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, 1, 1, 1, generator=generator) < 0.5


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {"flip": flip, "flip_vertical": flip_vertical, "crop": crop}
"""Names of the augmentations of training pictures."""


def parse_augment(text: str, shape: tuple[int, ...]) -> list[tuple[str, int | None]]:
    """Return (name, pixels) of each part of ``flip,crop:4``; a crop without a number pads by an eighth of the side.

    Raises:
        ConfigError: an unknown name, one that is given twice, or a number that makes no sense.
    """
    found: list[tuple[str, int | None]] = []
    for part in text.split(","):
        name, _, number = part.strip().partition(":")
        if name not in AUGMENTATIONS:
            raise ConfigError(
                f"there is no augmentation {name!r}.{close_matches(name, AUGMENTATIONS)} "
                f"Known are: {', '.join(AUGMENTATIONS)}"
            )
        if name in (n for n, _ in found):
            raise ConfigError(f"the augmentation {name!r} is asked for twice")
        if number and (name != "crop" or not number.isdigit() or not 0 < int(number) < min(shape[1:])):
            raise ConfigError(
                f"augmentation {part.strip()!r} makes no sense: only crop takes a number, the pixels of its padding, "
                f"from 1 to {min(shape[1:]) - 1}"
            )
        found.append((name, int(number) if number else max(1, min(shape[1:]) // 8) if name == "crop" else None))
    return found


class ImageData(TensorData):
    """Base of the data sets whose examples are images, uint8 (C, H, W).

    Args:
        batch_size: images a batch and device.
        seed: of the order of training batches, and of their augmentation.
        limit: use only the first so many training images.
        augment: names of augmentations of training batches, in their order, as ``flip,crop:4``; see `AUGMENTATIONS`.
    """

    def __init__(
        self, batch_size: int = 128, seed: int = 0, limit: int | None = None, augment: str | None = None
    ) -> None:
        super().__init__(batch_size, seed, limit)
        self.augment = augment
        if augment is not None:
            parse_augment(augment, self.shape or (1, 1 << 30, 1 << 30))

    @property
    def preparation(self) -> dict[str, Any]:
        if self.augment is None:
            return {}
        parts = parse_augment(self.augment, self.shape)
        return {"augment": ",".join(name if n is None else f"{name}:{n}" for name, n in parts)}

    def augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        for name, pixels in parse_augment(self.augment, self.shape) if self.augment is not None else ():
            x = AUGMENTATIONS[name](x, generator, *(() if pixels is None else (pixels,)))
        return x
