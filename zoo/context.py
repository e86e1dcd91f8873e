"""Texts as conditions: strings to the integers that a model is told, and back.

A text of an alphabet is int64 (T,), the place of each character in it, and -1 from the end of the text on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["PAD", "decode_texts", "encode_texts"]

PAD = -1


def encode_texts(texts: Sequence[str], alphabet: str, length: int) -> Tensor:
    """Return texts as integers, int64 (len(texts), length), padded with -1.

    Raises:
        ConfigError: a character that is not in the alphabet, or a text that is longer.
    """
    place = {character: i for i, character in enumerate(alphabet)}
    found = torch.full((len(texts), length), PAD, dtype=torch.int64)
    for row, text in zip(found, texts, strict=True):
        unknown = sorted(set(text) - set(alphabet))
        if unknown:
            raise ConfigError(
                f"the text holds {unknown[0]!r}, which is not among the model's characters: {''.join(alphabet)!r}"
            )
        if len(text) > length:
            raise ConfigError(f"the text has {len(text)} characters, the model is told at most {length}; shorten it")
        row[: len(text)] = torch.tensor([place[c] for c in text], dtype=torch.int64)
    return found


def decode_texts(context: Tensor, alphabet: str) -> list[str]:
    """Return the texts of integers (N, T) as strings: the inverse of `encode_texts`."""
    return ["".join(alphabet[i] for i in row if i >= 0) for row in context.tolist()]
