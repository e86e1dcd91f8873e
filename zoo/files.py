"""Files that are there whole or not at all, whoever writes them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

__all__ = ["append_whole", "leads_out", "make_folders", "open_regular", "remove_made", "write_together", "write_whole"]


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """Write a file beside its place, then move it there; the folders above are made.

    Args:
        path: of the file; what stands there is replaced.
        content: bytes, or text in UTF-8.

    Raises:
        OSError: a full disk, a path below a file, a name that is too long, ...: it names the path, what stood there
            stands, and nothing is left beside it.
    """
    return write_together({Path(path): content})[0]


def write_together(files: Mapping[Path, bytes | str]) -> list[Path]:
    """Write several files as `write_whole` does: none takes its place before all are written. Raises `OSError`."""
    made: list[list[Path]] = []
    temporaries: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content in files.items():
            made.append(make_folders(path.parent))
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            temporaries[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            with temporaries[path].open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except BaseException as error:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        for folders in reversed(made):
            remove_made(folders)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    return list(files)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file to read; a pipe, which might never be written to, or a device, which might never end, is refused.

    Raises:
        OSError: it is no regular file, or cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, and no file", str(path))
    return os.fdopen(descriptor, "rb")


def leads_out(path: str | Path) -> bool:
    """Tell whether a file is a link out of its folder, other than those of the Hub's cache and of the package itself.

    A folder that comes from a stranger could show any file of this machine by one.
    """
    path = Path(path)
    folder = path.parent.absolute()
    if not path.is_symlink() or _PACKAGE in folder.parents:
        return False
    around = path.resolve().parents
    return folder.resolve() not in around and folder.resolve().parent.parent / "blobs" != around[0]


_PACKAGE = Path(__file__).absolute().parent
"""Where the bundled models lie, whose files some installers link."""


def append_whole(path: str | Path, content: str) -> None:
    """Write text at the end of a file, all of it or none.

    Raises:
        OSError: a full disk, ...: it names the path, and the file is as it was.
    """
    data, before = content.encode(), None
    try:
        with Path(path).open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            while data:
                data = data[file.write(data) :]
    except OSError as error:
        if before is not None:
            with contextlib.suppress(OSError):
                os.truncate(path, before)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def make_folders(path: str | Path) -> list[Path]:
    """Make a folder and those above it, and return those that were not there, the outermost first.

    Raises:
        OSError: none is left where not all can be made.
    """
    path, made = Path(path), []
    missing = [p for p in (path, *path.parents) if not os.path.lexists(p)]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            made.append(folder)
        path.mkdir(exist_ok=True)  # raises where something else stands there
    except BaseException:
        remove_made(made)
        raise
    return made


def remove_made(made: list[Path], *, content: bool = False) -> None:
    """Remove those folders that are empty; with ``content``, the innermost with what is in it."""
    if content and made:
        shutil.rmtree(made[-1], ignore_errors=True)
    for folder in reversed(made):
        with contextlib.suppress(OSError):
            folder.rmdir()
