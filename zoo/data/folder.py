"""Any folder of images, resized and cropped into one tensor."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from zoo.data.base import Split, TensorData, derive_seed
from zoo.errors import DataError

__all__ = ["ImageFolder", "data_root"]

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


def data_root() -> Path:
    """Return where data sets that are not embedded live: ``ZOO_DATA``, else the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ZOO_DATA") or cache / "zoo" / "data")


class ImageFolder(TensorData):
    """All images below a folder, 8 bits, cropped to a square in the middle and resized.

    Sub-folders are classes, as in ``folder/cat/1.png``; without any there is one class. A tenth of the images is
    validation and a tenth is test, chosen by a fixed seed, unless the folder has ``train``, ``validation`` and
    ``test``.

    Args:
        folder: where the images are.
        size: side of the square.
        channels: 1 (grey) or 3 (RGB).
        batch_size: images a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training images.

    Raises:
        DataError: the folder is missing, holds no images, or holds a file that is no image.
    """

    name = "image_folder"

    def __init__(
        self,
        folder: str = "images",
        size: int = 32,
        channels: int = 3,
        batch_size: int = 64,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed, limit)
        if channels not in (1, 3):
            raise DataError(f"image_folder: channels must be 1 or 3, got {channels}")
        if size < 1:
            raise DataError(f"image_folder: size must be positive, got {size}")
        self.folder, self.size, self.channels = Path(folder).expanduser(), size, channels
        self.shape = (channels, size, size)

    def read(self, split: str) -> Split:
        if not self.folder.is_dir():
            raise DataError(
                f"the image folder {self.folder.absolute()} does not exist; give the right one with --data.folder"
            )
        own = self.folder / split
        parts = [(self.folder / s).is_dir() for s in ("train", "validation", "test")]
        root = own if all(parts) else self.folder
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in _ENDINGS)
        classes = sorted({p.relative_to(root).parts[0] for p in files if len(p.relative_to(root).parts) > 1})
        self.num_classes = len(classes)
        if not all(parts):
            files = self._share(files, split)
        if not files:
            raise DataError(f"the folder {root.absolute()} holds no images for the {split} split")
        index = {c: i for i, c in enumerate(classes)}
        labels = [index.get(p.relative_to(root).parts[0], 0) for p in files]
        return torch.stack([self._image(p) for p in files]), torch.tensor(labels)

    def _share(self, files: list[Path], split: str) -> list[Path]:
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(derive_seed(0))).tolist()
        tenth = max(1, len(files) // 10)
        chosen = {"test": order[:tenth], "validation": order[tenth : 2 * tenth], "train": order[2 * tenth :]}[split]
        return [files[i] for i in sorted(chosen)]

    def _image(self, path: Path) -> torch.Tensor:
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                picture = ImageOps.fit(image.convert("L" if self.channels == 1 else "RGB"), (self.size, self.size))
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{path} is not an image that can be read: {error}") from error
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        return pixels.reshape(self.size, self.size, self.channels).permute(2, 0, 1).contiguous()
