"""Moving digits: clips computed from the embedded MNIST, whose laws are known exactly.

A digit, shrunk to 20 x 20 by the mean over areas, moves through a black square of 32 x 32 by whole pixels,

    p_t = fold(p_0 + t v),   fold(s) = |((s + 12) mod 24) - 12|,

so that it is reflected by the walls and never leaves them. Its velocity v is one of eight directions times a speed of
1 to 3 pixels a frame. Start, direction and speed of a training clip are drawn anew each time it is read, from a
generator that depends on (seed, step, rank) alone; validation and test clips are drawn once.

References:
    N. Srivastava, E. Mansimov, R. Salakhutdinov, Unsupervised Learning of Video Representations using LSTMs, 2015,
    arXiv:1502.04681 (Moving MNIST, in 64 x 64 with two digits and speeds that are not whole).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.data.base import Split, TensorData, derive_seed
from zoo.data.mnist import read_mnist, split_indices
from zoo.errors import ConfigError

__all__ = ["DIGIT", "DIRECTIONS", "SIDE", "SPEEDS", "Motion", "MovingDigits", "fold", "placed", "shrunk"]

SIDE, DIGIT = 32, 20
"""Sides of a frame and of a digit, in pixels."""

ROOM = SIDE - DIGIT
"""Largest row and column of a digit's upper left corner."""

DIRECTIONS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""Rows and columns of a step of each direction of motion, 0 to 7: up, and on clockwise."""

SPEEDS = (1, 2, 3)
"""Pixels a frame, of each coordinate that changes."""

_SEEDS = {"test": 0, "validation": 1}
_CHUNK = 500  # clips at a time


class Motion(NamedTuple):
    """Where a digit is in the first frame, int64 (B, 2), and by how much it moves from there, int64 (B, 2)."""

    start: Tensor
    velocity: Tensor

    @property
    def direction(self) -> Tensor:
        """Number of the direction among `DIRECTIONS`, int64 (B,)."""
        steps = torch.tensor(DIRECTIONS)
        return (self.velocity.sign()[:, None] == steps).all(2).long().argmax(1)


def shrunk(images: Tensor) -> Tensor:
    """Return digits of 28 x 28 as 20 x 20, each pixel the mean of what it covers: uint8 (N, 1, ., .), exactly rounded.

    A pixel covers 1.4 x 1.4 old ones: sevenths of 5 x 5 parts of a pixel each, so that the mean is of 49 integers.
    """
    new, old = torch.arange(DIGIT)[:, None], torch.arange(28)
    shared = (torch.minimum(7 * new + 7, 5 * old + 5) - torch.maximum(7 * new, 5 * old)).clamp(min=0)  # (20, 28)
    weights = shared.float()  # sums of products stay below 2^24: exact in single precision
    sums = weights @ images.float() @ weights.T
    return ((sums + 24) / 49).floor().to(torch.uint8)


def fold(s: Tensor) -> Tensor:
    """Return places on a line reflected into [0, 12]: the way of a point between two walls."""
    return ((s + ROOM) % (2 * ROOM) - ROOM).abs()


def drawn_motion(n: int, generator: torch.Generator) -> Motion:
    """Draw directions and speeds evenly, and starts evenly among those from which the first step meets no wall."""
    direction, speed = (torch.randint(k, (n,), generator=generator) for k in (len(DIRECTIONS), len(SPEEDS)))
    velocity = torch.tensor(DIRECTIONS)[direction] * torch.tensor(SPEEDS)[speed][:, None]  # (n, 2)
    places = ROOM + 1 - velocity.abs()
    u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    return Motion((u * places).long() + (-velocity).clamp(min=0), velocity)


def placed(digits: Tensor, motion: Motion, frames: int) -> Tensor:
    """Return clips of digits uint8 (B, 1, 20, 20) that move so: uint8 (B, 1, T, 32, 32)."""
    B, T = len(digits), frames
    corner = fold(motion.start + torch.arange(T)[:, None, None] * motion.velocity).transpose(0, 1)  # (B, T, 2)
    padded = torch.nn.functional.pad(digits[:, 0], (ROOM, ROOM, ROOM, ROOM))  # (B, 44, 44)
    window = ROOM - corner[..., None] + torch.arange(SIDE)  # (B, T, 2, 32): what of it a frame shows
    rows, columns = window.unbind(2)
    cut = padded.gather(1, rows.reshape(B, T * SIDE, 1).expand(-1, -1, padded.shape[2]))
    cut = cut.unflatten(1, (T, SIDE)).gather(3, columns[:, :, None].expand(B, T, SIDE, SIDE))
    return cut[:, None]


class MovingDigits(TensorData):
    """Clips of digits that move, (1, T, 32, 32), 256 levels: 55,000 / 5,000 / 10,000 digits, divided as MNIST is.

    The label of a clip is its digit, and with two of them that of the first; `motions` has the direction in which that
    one sets out, which the first two frames show.

    Args:
        frames: T, at least 2.
        digits: in a clip, 1 or 2; two go through each other, the brighter pixel in front.
        batch_size: clips a batch and device.
        seed: of the order of training batches, and of their motion.
        limit: use only the first so many training digits.

    Raises:
        ConfigError: another number of frames or digits.
    """

    name = "moving_digits"
    num_classes = 10
    motion_classes = len(DIRECTIONS)

    def __init__(
        self, frames: int = 8, digits: int = 1, batch_size: int = 32, seed: int = 0, limit: int | None = None
    ) -> None:
        super().__init__(batch_size, seed, limit)
        if frames < 2 or digits not in (1, 2):
            raise ConfigError(
                f"moving_digits needs 2 frames at least, and 1 or 2 digits, got frames {frames} and digits {digits}"
            )
        self.frames, self.digits, self.shape = frames, digits, (1, frames, SIDE, SIDE)
        self._motions: dict[str, Tensor] = {}

    @property
    def preparation(self) -> dict[str, Any]:
        return {"digits": self.digits} if self.digits > 1 else {}

    def read(self, split: str) -> Split:
        """Return clips and labels; of training the digits alone, uint8 (N, 1, 20, 20), which `transform` moves."""
        if split == "test":
            images, labels = read_mnist("t10k")
        else:
            images, labels = read_mnist("train")
            index = split_indices()[0 if split == "train" else 1]
            images, labels = images[index], labels[index]
        digits = shrunk(images)
        if split == "train":
            return digits, labels
        clips, self._motions[split] = self.moved(digits, torch.Generator().manual_seed(_SEEDS[split]))
        return clips, labels

    def transform(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.moved(x, generator)[0]

    def moved(self, digits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return digits uint8 (B, 1, 20, 20) as clips uint8 (B, 1, T, 32, 32), and their directions int64 (B,).

        A second digit is another one of the same digits, whose motion is drawn too.
        """
        B = len(digits)
        motions = [drawn_motion(B, generator) for _ in range(self.digits)]
        others = torch.randperm(B, generator=generator) if self.digits > 1 else torch.arange(B)
        clips = torch.empty(B, *self.shape, dtype=torch.uint8)
        for first in range(0, B, _CHUNK):
            part = slice(first, first + _CHUNK)
            clips[part] = placed(digits[part], Motion(*(m[part] for m in motions[0])), self.frames)
            for motion in motions[1:]:
                other = placed(digits[others[part]], Motion(*(m[part] for m in motion)), self.frames)
                clips[part] = torch.maximum(clips[part], other)
        return clips, motions[0].direction

    def motions(self, split: str) -> Tensor:
        """Return the direction of each clip of the ``validation`` or ``test`` split, 0 to 7, int64 (N,).

        Raises:
            ConfigError: the training split, whose clips move in another direction each time they are read.
        """
        if split not in _SEEDS:
            raise ConfigError(f"{split} clips have no direction of their own; `moved` draws clips with theirs")
        self.split(split)
        return self._motions[split]

    def first(self, n: int) -> Split:
        """Return the first training digits as clips, at most n, and their labels."""
        x, labels = super().first(n)
        return self.transform(x, torch.Generator().manual_seed(derive_seed(self.seed, 0))), labels
