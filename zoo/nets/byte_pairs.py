"""Byte-pair encoding of texts, by the library ``tokenizers``: frequent neighbours become one token, again and again.

A text is cut into pieces first, a word or a row of signs with the blank before it, or a blank; tokens lie within
pieces. The tokens 0, ..., L - 1 are the characters of the alphabet, those that follow are merges in their order.

References:
    P. Gage, A New Algorithm for Data Compression, 1994; R. Sennrich, B. Haddow, A. Birch, Neural Machine Translation of
    Rare Words with Subword Units, 2015, arXiv:1508.07909.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

from zoo.errors import ConfigError

__all__ = ["PIECES", "Merges", "encoder_of", "learned_merges", "strings_of"]

PIECES = r"\s?\p{L}+|\s?[^\s\p{L}]+|\s"
"""What tokens lie within: a word or signs, with a blank before them, or a blank."""

Merges = Sequence[tuple[int, int]]


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ConfigError(
            "byte-pair encoding needs the package tokenizers; install the extra text: pip install generative-zoo[text]"
        ) from error


def strings_of(alphabet: str, merges: Merges) -> list[str]:
    """Return the string that each token stands for: the characters, then a string for each pair of earlier tokens."""
    strings = list(alphabet)
    for left, right in merges:
        strings.append(strings[left] + strings[right])
    return strings


def _tokenizer(alphabet: str, merges: Merges) -> Any:
    library, strings = _library(), strings_of(alphabet, merges)
    vocabulary = {string: i for i, string in reversed(list(enumerate(strings)))}
    pairs = [(strings[left], strings[right]) for left, right in merges]
    made = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=pairs))
    made.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(PIECES), "isolated")
    return made


def encoder_of(alphabet: str, merges: Merges) -> Any:
    """Return a function from strings to their tokens, lists of integers."""
    made = _tokenizer(alphabet, merges)
    return lambda texts: [encoding.ids for encoding in made.encode_batch(list(texts), add_special_tokens=False)]


def learned_merges(texts: Sequence[str], alphabet: str, vocabulary: int) -> list[tuple[int, int]]:
    """Return the merges that texts lead to, at most ``vocabulary`` - L of them, as pairs of tokens.

    Raises:
        ConfigError: the library is not installed.
    """
    library, made = _library(), _tokenizer(alphabet, ())
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=list(alphabet), special_tokens=[], show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    place = {character: i for i, character in enumerate(alphabet)}
    found: list[tuple[int, int]] = []
    for left, right in json.loads(made.to_str())["model"]["merges"]:
        if len(alphabet) + len(found) == vocabulary:
            break
        found.append((place[left], place[right]))
        place.setdefault(left + right, len(alphabet) + len(found) - 1)
    return found
