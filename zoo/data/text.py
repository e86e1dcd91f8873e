"""Texts as sequences of characters: the embedded plays, and any file in UTF-8.

The last tenth of a text is the test split and the tenth before it is validation, both rounded down to whole windows of
``length`` characters. Test and validation windows follow each other without overlap, so that each of their characters
is counted exactly once, and is predicted from its own window's beginning alone. Training windows begin at every
character.
"""

from __future__ import annotations

import codecs
import functools
import gzip
import hashlib
from collections import Counter
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.base import Split, TensorData
from zoo.errors import ConfigError, DataError
from zoo.files import open_regular

__all__ = ["Shakespeare", "TextFile", "cut", "read_shakespeare"]

_SHA256 = "44a8092791a089111f9486c7e643c066791317177a90dc44ac406e4c307740aa"


@functools.lru_cache(maxsize=1)
def read_shakespeare() -> str:
    """Return the eight embedded plays as one text of 1,186,832 characters. Raises `DataError` if it is damaged."""
    raw = resources.files("zoo.data").joinpath("assets", "shakespeare", "shakespeare.txt.gz").read_bytes()
    try:
        text = gzip.decompress(raw)
    except (OSError, EOFError) as error:
        raise DataError(f"the embedded text cannot be unpacked ({error}); reinstall the package") from error
    if hashlib.sha256(text).hexdigest() != _SHA256:
        raise DataError("the embedded text is damaged: its sha256 is not the recorded one; reinstall the package")
    return text.decode("ascii")


def cut(values: Tensor, length: int, split: str) -> Tensor:
    """Return the windows of a split of a long sequence: (N,) -> (n, length); see the module's text. For n = 0, empty.

    Training windows are a view: they share the memory of the sequence.
    """
    held = len(values) // 10 // length * length  # values of the test split, and of validation
    ends = {"train": len(values) - 2 * held, "validation": len(values) - held, "test": len(values)}
    if split == "train":
        part = values[: ends[split]]
        return part.unfold(0, length, 1) if len(part) >= length else part.new_empty(0, length)
    return values[ends[split] - held : ends[split]].reshape(-1, length)


class _Text(TensorData):
    """Windows of a text; ``alphabet`` and ``levels`` follow from it."""

    unit = "bits_per_character"

    def __init__(self, length: int, batch_size: int, seed: int, limit: int | None) -> None:
        super().__init__(batch_size, seed, limit)
        if length < 1:
            raise DataError(f"{self.name}: length must be positive, got {length}")
        self.length, self.shape = length, (length,)

    @property
    def alphabet(self) -> str:
        """The characters that the levels stand for, sorted."""
        raise NotImplementedError

    @property
    def levels(self) -> int:  # type: ignore[override]
        return len(self.alphabet)

    @property
    def counting(self) -> str:
        """How the likelihood of the text is counted, for the protocol."""
        return (
            f"windows of {self.length} characters without overlap, each character once, given those before it in its "
            "window"
        )

    def text(self) -> str:
        """Return the whole text."""
        raise NotImplementedError

    def read(self, split: str) -> Split:
        index = {c: i for i, c in enumerate(self.alphabet)}
        text = self.text()
        values = torch.tensor([index[c] for c in text], dtype=torch.uint8)
        x = cut(values, self.length, split)
        if not len(x):
            raise DataError(
                f"{self.name}: a text of {len(text):,} characters has no window of {self.length} for the {split} "
                f"split; take at least {10 * self.length:,} characters or set --data.length lower"
            )
        return x, torch.zeros(len(x), dtype=torch.int64)


class Shakespeare(_Text):
    """Eight plays, embedded: windows of characters out of 80.

    Args:
        length: characters a window.
        batch_size: windows a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training windows.
    """

    name = "shakespeare"

    def __init__(self, length: int = 256, batch_size: int = 32, seed: int = 0, limit: int | None = None) -> None:
        super().__init__(length, batch_size, seed, limit)

    @functools.cached_property
    def alphabet(self) -> str:  # type: ignore[override]
        return "".join(sorted(set(self.text())))

    def text(self) -> str:
        return read_shakespeare()


class TextFile(_Text):
    """Any file in UTF-8: windows of its characters, at most 256 distinct ones.

    Byte order marks are no characters, and every end of a line is one line feed, whatever it is in the file.

    Args:
        path: of the file.
        length: characters a window.
        alphabet: the characters, in the order of their levels, for a model that was made for them; those of the file,
            sorted, if left out.
        batch_size: windows a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training windows.

    Raises:
        DataError: the file is missing, is not UTF-8, holds too many distinct characters or unknown ones.
        ConfigError: an alphabet that is empty, too large, or has a character twice.
    """

    name = "text_file"

    def __init__(
        self,
        path: str = "text.txt",
        length: int = 256,
        alphabet: str | None = None,
        batch_size: int = 32,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(length, batch_size, seed, limit)
        self.path, self._alphabet = Path(path).expanduser(), alphabet
        if alphabet is not None:
            doubled = sorted(c for c, count in Counter(alphabet).items() if count > 1)
            if doubled or not 0 < len(alphabet) <= 256:
                why = f"holds {doubled[0]!r} more than once" if doubled else f"has {len(alphabet)} characters"
                raise ConfigError(f"text_file: the alphabet {why}; give from 1 to 256 characters, each once")
        self._text: str | None = None

    @functools.cached_property
    def alphabet(self) -> str:  # type: ignore[override]
        found = "".join(sorted(set(self.text())))
        unknown = sorted(set(found) - set(self._alphabet)) if self._alphabet is not None else []
        if unknown:
            raise DataError(f"{self.path} holds {unknown[0]!r}, which is not in the alphabet that was given")
        if len(found) > 256:
            raise DataError(f"{self.path} holds {len(found)} distinct characters; at most 256 are possible")
        return self._alphabet or found

    def text(self) -> str:
        if self._text is None:
            try:
                with open_regular(self.path) as stream:
                    self._text = _decoded(stream.read())
            except OSError as error:
                raise DataError(
                    f"the text file {self.path.absolute()} cannot be read ({error.strerror}); name another with "
                    "--data.path"
                ) from error
            except UnicodeDecodeError as error:
                raise DataError(f"{self.path.absolute()} is not UTF-8 ({error.reason}); store it as UTF-8") from error
        return self._text


_OTHER_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
                codecs.BOM_UTF16_BE: "UTF-16"}  # fmt: skip


def _decoded(data: bytes) -> str:
    """Return the characters of UTF-8 without byte order marks, each end of a line being one line feed."""
    for mark, name in _OTHER_MARKS.items():
        if data.startswith(mark):
            raise UnicodeDecodeError("utf-8", data[:4], 0, len(mark), f"it begins with the byte order mark of {name}")
    text = data.decode("utf-8").replace("\ufeff", "")  # files that were joined have marks inside, too
    return text.replace("\r\n", "\n").replace("\r", "\n")
