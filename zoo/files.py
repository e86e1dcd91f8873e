"""Files that are there whole or not at all, whoever writes them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: str | Path, content: bytes | str) -> Path:
    """Write a file beside its place, then move it there; the folders above are made.

    Args:
        path: of the file; what stands there is replaced.
        content: bytes, or text in UTF-8.

    Raises:
        OSError: a full disk, a path below a file, a name that is too long, ...: it names the path, what stood there
            stands, and nothing is left beside it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    return path
