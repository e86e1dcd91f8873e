"""Pictures with captions: what is said of each is computed from it, or is its name.

`MNISTCaptions` says a digit's word and what two numbers of the picture show: its ink, the sum of the grey levels in
[0, 1], and its slant, the columns by which it leans to the right for each row upwards, from second moments:

    slant = -sum x (i - i_0)(j - j_0) / sum x (i - i_0)^2,   "a thin three slanted left"

so that a caption carries more than the class, and both ways, pictures of captions and captions of pictures, can be
scored exactly. `MNISTWords` says the digit's word alone, `TilesCaptions` the name of a tile's file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.context import encode_texts
from zoo.data.base import Split
from zoo.data.mnist import MNIST
from zoo.data.tiles import Tiles, read_tiles

__all__ = [
    "BOLD",
    "LEFT",
    "RIGHT",
    "THIN",
    "WORDS",
    "MNISTCaptions",
    "MNISTWords",
    "TilesCaptions",
    "described",
    "ink_and_slant",
]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

THIN, BOLD = 80.0, 125.0
"""Ink below which a digit is thin, and above which it is bold: about a quarter of all are, each."""

LEFT, RIGHT = -0.05, 0.30
"""Slant below which a digit is slanted left, and above which right: about a quarter of all are, each."""

_KINDS = {"mon": "monster", "item": "item", "player": "player"}


def ink_and_slant(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return both numbers of pictures (N, 1, H, W) in [0, 1], float64 (N,) each; the slant of a blank one is 0."""
    x = x[:, 0].double()
    ink = x.sum((1, 2))
    mass = ink.clamp(min=1e-12)
    i, j = (torch.arange(side, dtype=torch.float64, device=x.device) for side in x.shape[1:])
    rows, columns = x.sum(2), x.sum(1)
    di = i - (rows @ i / mass)[:, None]  # (N, H): rows from the centre of mass
    dj = j - (columns @ j / mass)[:, None]
    mixed = torch.einsum("nij,ni,nj->n", x, di, dj)
    return ink, -mixed / (rows * di.square()).sum(1).clamp(min=1e-12)


def described(x: Tensor, digits: Tensor) -> list[str]:
    """Return the captions of pictures (N, 1, 28, 28) in [0, 1] of these digits, int64 (N,)."""
    ink, slant = (numbers.tolist() for numbers in ink_and_slant(x))
    found = []
    for weight, lean, digit in zip(ink, slant, digits.tolist(), strict=True):
        words = ["a", *(["thin"] if weight < THIN else ["bold"] if weight > BOLD else []), WORDS[digit]]
        found.append(" ".join(words + (["slanted left"] if lean < LEFT else ["slanted right"] if lean > RIGHT else [])))
    return found


class MNISTCaptions(MNIST):
    """The digits of MNIST, each with its caption, int64 (26,) padded with -1, in the place of its label.

    Args:
        batch_size: examples a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training examples.

    Attributes:
        alphabet: the letters of all captions, and the space.
        context: shape of a caption.
    """

    name = "mnist_captions"
    num_classes = 0
    alphabet = "".join(sorted(set("".join(WORDS) + "a thin bold slanted left right")))
    context = (max(len(f"a bold {word} slanted right") for word in WORDS),)

    def __init__(self, batch_size: int = 128, seed: int = 0, limit: int | None = None) -> None:
        super().__init__(batch_size, seed, limit)

    def read(self, split: str) -> Split:
        x, digits = super().read(split)
        pieces = zip(x.split(2_000), digits.split(2_000), strict=True)
        texts = [text for part, own in pieces for text in self.captions_of(part.double() / 255, own)]
        return x, encode_texts(texts, self.alphabet, *self.context)

    @staticmethod
    def classes_of(texts: Sequence[str]) -> Tensor:
        """Return the digit that each caption is of, int64 (N,); -1 where it names none."""
        found = [[w for w in text.split() if w in WORDS] for text in texts]
        return torch.tensor([WORDS.index(words[0]) if len(words) == 1 else -1 for words in found])

    @staticmethod
    def captions_of(x: Tensor, classes: Tensor) -> list[str]:
        """Return what the data would say of pictures (N, 1, 28, 28) in [0, 1] that show these digits."""
        return described(x, classes)


class MNISTWords(MNISTCaptions):
    """The digits of MNIST, each with its word, int64 (5,) padded with -1, in the place of its label."""

    name = "mnist_words"
    alphabet = "".join(sorted(set("".join(WORDS))))
    context = (max(map(len, WORDS)),)

    @staticmethod
    def captions_of(x: Tensor, classes: Tensor) -> list[str]:
        """Return the words of these digits, int64 (N,); the pictures do not matter."""
        return [WORDS[digit] for digit in classes.tolist()]


class TilesCaptions(Tiles):
    """Game tiles, each with its kind and the name of its file, int64 (28,) padded with -1, in the place of its label.

    What does not fit is left out, word by word: "monster death yak", "item ruby".

    Args:
        batch_size: pictures a batch and device.
        seed: of the order of training batches, and of their augmentation.
        limit: use only the first so many training pictures.
        augment: names of augmentations of training batches, such as ``crop:2``; see `zoo.data.images`.
    """

    name = "tiles_captions"
    num_classes = 0
    class_names = ()
    alphabet = " abcdefghijklmnopqrstuvwxyz"
    context = (28,)

    def read(self, split: str) -> Split:
        x, _ = super().read(split)
        _, _, parts, names = read_tiles()
        own = (parts == ("train", "validation", "test").index(split)).nonzero().flatten().tolist()
        return x, encode_texts([_titled(names[i], *self.context) for i in own], self.alphabet, *self.context)


def _titled(path: str, length: int) -> str:
    """Return the caption of a tile by the path of its file, of at most so many characters."""
    kind, *_, name = path.removesuffix(".png").split("/")
    spaced = "".join(c if c in TilesCaptions.alphabet else " " for c in name.lower())
    text = _KINDS[kind]
    for word in spaced.split():
        if len(text) + 1 + len(word) <= length:
            text += " " + word
    return text
