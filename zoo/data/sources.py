"""Where files of examples lie: a folder, with what it links to, or a zip archive, listed alike and in one order.

Hidden files, what editors, synchronisers and operating systems leave behind, and folders that lead back to themselves
are passed over. Nothing of an archive is written to the disk.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from zoo.errors import DataError
from zoo.files import open_regular

__all__ = ["Archive", "FileSource", "Folder", "Parts", "data_root", "is_stray", "open_source"]

Parts = tuple[str, ...]
"""Names of the folders and of the file, below the source."""

_STRAY = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "__pycache__"}
_MOST_BYTES = 1 << 29
"""Largest file of an archive that is unpacked, in memory."""


def data_root() -> Path:
    """Return where data sets that are not embedded live: ``ZOO_DATA``, else the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ZOO_DATA") or cache / "zoo" / "data")


def is_stray(name: str) -> bool:
    """Tell whether a file or folder of this name is hidden, temporary, or made by a system for itself."""
    return name.startswith((".", "~")) or name.endswith("~") or name.casefold() in _STRAY


class FileSource:
    """Files below one place.

    Attributes:
        where: the place, for messages.
    """

    where: str

    def files(self) -> list[Parts]:
        """Return every file that is not stray, sorted by its parts. Raises `DataError`."""
        raise NotImplementedError

    def open(self, parts: Parts) -> BinaryIO:
        """Open a file, from any thread. Raises `OSError` and what `zipfile` raises."""
        raise NotImplementedError

    def name(self, parts: Parts) -> str:
        """Return how a file is called in messages."""
        return os.path.join(self.where, *parts)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Tell whether an entry is a folder, and whether it is a file, or a link that is yet to be opened."""
    try:
        return entry.is_dir(), entry.is_file() or entry.is_symlink()
    except OSError:  # a link that leads to itself
        return False, True


class Folder(FileSource):
    """A folder, links to folders and files included."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path.absolute())

    def files(self) -> list[Parts]:
        found: list[Parts] = []
        self._walk(self.path, (), frozenset(), found)
        return sorted(found)

    def _walk(self, folder: Path, parts: Parts, above: frozenset[tuple[int, int]], found: list[Parts]) -> None:
        try:
            here = folder.stat()
            if (here.st_dev, here.st_ino) in above:  # a link that leads back up
                return
            with os.scandir(folder) as entries:
                content = [(entry.name, *_kind(entry)) for entry in entries]
        except OSError as error:
            raise DataError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
        above |= {(here.st_dev, here.st_ino)}
        for name, is_folder, is_file in content:
            if is_stray(name):
                continue
            if is_folder:
                self._walk(folder / name, (*parts, name), above, found)
            elif is_file:  # a link to nothing is a file that cannot be opened
                found.append((*parts, name))

    def open(self, parts: Parts) -> BinaryIO:
        return open_regular(self.path.joinpath(*parts))


class Archive(FileSource):
    """A zip archive, read in place."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path.absolute())
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"{self.where} is not a zip archive that can be read: {error}") from error
        self._members: dict[Parts, zipfile.ZipInfo] = {}

    def files(self) -> list[Parts]:
        members = [member for member in self._archive.infolist() if not member.is_dir()]
        every = [
            tuple(part for part in m.filename.replace("\\", "/").split("/") if part not in ("", ".")) for m in members
        ]
        kept = [(parts, m) for parts, m in zip(every, members, strict=True) if parts and not any(map(is_stray, parts))]
        twice = [parts for parts, count in Counter(parts for parts, _ in kept).items() if count > 1]
        if twice:
            raise DataError(
                f"{self.where} holds {len(twice)} names more than once, such as {'/'.join(twice[0])}; pack it anew"
            )
        self._members = dict(kept)
        return sorted(self._members)

    def open(self, parts: Parts) -> BinaryIO:
        member = self._members[parts]
        if member.file_size > _MOST_BYTES:
            raise OSError(f"it has {member.file_size:,} bytes unpacked, more than {_MOST_BYTES:,}")
        return self._archive.open(member)  # type: ignore[return-value]


def open_source(path: Path, option: str, what: str) -> FileSource:
    """Return the folder or the archive of this path.

    Args:
        path: to it.
        option: of the command line that names it, for messages.
        what: it is, for messages.

    Raises:
        DataError: there is none.
    """
    if path.is_dir():
        return Folder(path)
    if path.is_file():
        if path.suffix.lower() != ".zip":
            raise DataError(f"{path.absolute()} is neither a folder nor a zip archive; give one of them with {option}")
        return Archive(path)
    raise DataError(f"the {what} {path.absolute()} does not exist; give the right one with {option}")


def with_endings(files: list[Parts], endings: Collection[str]) -> list[Parts]:
    """Return the files whose names have one of these endings, which are lower case and begin with a point."""
    return [parts for parts in files if os.path.splitext(parts[-1])[1].lower() in endings]
