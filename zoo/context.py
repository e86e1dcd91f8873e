"""Texts as conditions: strings to the integers that a model is told, and back.

A text of an alphabet is int64 (T,), the place of each character in it, and -1 from the end of the text on. Where the
words are few, a text of T letters is one of K words as well, which a model has less to learn of: see `Words`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["PAD", "Words", "decode_texts", "encode_texts"]

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


class Words:
    """Texts of letters as texts of whole words and back, by tensors alone: int64 (N, T) of letters, (N, K) of words.

    Args:
        vocabulary: the words, each once.
        alphabet: the letters of texts, among them the space that stands between words.
        letters: T.
        words: K.

    Raises:
        ConfigError: words of other letters, a word twice or none, or words too long to be told apart by one number.
    """

    def __init__(self, vocabulary: Sequence[str], alphabet: str, letters: int, words: int) -> None:
        self.vocabulary, self.alphabet, self.letters, self.words = tuple(vocabulary), alphabet, letters, words
        wrong = [w for w in self.vocabulary if not w or " " in w or set(w) - set(alphabet)]
        if wrong or not self.vocabulary or len(set(self.vocabulary)) < len(self.vocabulary) or " " not in alphabet:
            raise ConfigError(
                f"a vocabulary has words, each once, of letters of the alphabet {alphabet!r}, which has the space "
                f"between them too; got {list(vocabulary)}"
            )
        self.base = len(alphabet) + 1
        if self.base ** max(map(len, self.vocabulary)) >= 2**62:
            raise ConfigError(f"words of {len(alphabet)} letters are too long at {max(self.vocabulary, key=len)!r}")
        self.numbers = [sum((alphabet.index(c) + 1) * self.base**i for i, c in enumerate(w)) for w in self.vocabulary]
        """One for each word, by its letters and their places."""

    def read(self, texts: Tensor) -> Tensor:
        """Return texts of letters (N, T) as words (N, K); all -1 where a text has another word, or more than K."""
        space = texts == self.alphabet.index(" ")
        inside = (texts >= 0) & ~space
        i = torch.arange(texts.shape[1], device=texts.device)
        begin = torch.where(space, i + 1, 0).cummax(1).values  # (N, T): of the word that a letter stands in
        longest = max(map(len, self.vocabulary))
        values = (texts + 1) * self.base ** (i - begin).clamp(max=longest)
        place = space.long().cumsum(1)
        numbers = texts.new_zeros(len(texts), texts.shape[1] + 1).scatter_add(1, place, values.where(inside, 0))
        same = numbers[:, :, None] == torch.tensor(self.numbers, device=texts.device)  # (N, T + 1, V)
        count = torch.where(inside, place + 1, 0).amax(1, keepdim=True)  # (N, 1): words of a text
        there = torch.arange(numbers.shape[1], device=texts.device) < count
        known = (same.any(2) | ~there).all(1, keepdim=True) & (count <= self.words)
        found = same.long().argmax(2).masked_fill(~(there & known), PAD)
        return torch.nn.functional.pad(found, (0, max(0, self.words - found.shape[1])), value=PAD)[:, : self.words]

    def write(self, symbols: Tensor) -> Tensor:
        """Return texts of words (N, K) as letters (N, T); what does not fit is left out, word by word."""
        texts = []
        for row in symbols.tolist():
            text = ""
            for word in (self.vocabulary[i] for i in row if i >= 0):
                longer = f"{text} {word}" if text else word
                text = longer if len(longer) <= self.letters else text
            texts.append(text)
        return encode_texts(texts, self.alphabet, self.letters).to(symbols.device)

    def check(self, texts: Tensor) -> None:
        """Raise `ConfigError` for texts of letters (N, T) that have another word, or more than K words."""
        for text, symbols in zip(decode_texts(texts, self.alphabet), self.read(texts).tolist(), strict=True):
            own = text.split(" ") if text else []
            unknown = [word for word in own if word not in self.vocabulary]
            if unknown:
                raise ConfigError(
                    f"the text {text!r} holds {unknown[0]!r}, which is not among the words that the model knows: "
                    f"{', '.join(self.vocabulary)}; single spaces stand between them"
                )
            if len([i for i in symbols if i >= 0]) < len(own):
                raise ConfigError(f"the text {text!r} has {len(own)} words, the model is told at most {self.words}")
