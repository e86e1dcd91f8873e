"""The cache on this machine, in the layout of the client's own, so that both see each other's files.

``blobs/<hash>`` holds the bytes, ``snapshots/<commit>/<file>`` shows them, ``refs/<revision>`` knows the commit of a
branch or tag.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zoo.errors import CacheError
from zoo.hub.layout import CONFIG, FILES, WEIGHTS, is_model_folder
from zoo.names import COMMIT

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Snapshot", "begun", "cached", "is_held", "link_to", "missing", "purge", "storage", "write_ref"]

log = logging.getLogger("zoo.hub")


@dataclass(frozen=True)
class Snapshot:
    """A model in the cache: its folder, its commit, and whether anything was downloaded for it just now."""

    folder: Path
    commit: str
    fresh: bool = False


def storage(cache: Path, repo_id: str) -> Path:
    """Return the folder of a repository in the cache."""
    return cache / f"models--{repo_id.replace('/', '--')}"


def cached(cache: Path, repo_id: str, revision: str) -> Snapshot | None:
    """Return the snapshot of a branch, tag or commit, if it is complete; asks nobody."""
    folder = storage(cache, repo_id)
    commit = _cached_commit(folder, revision)
    snapshot = folder / "snapshots" / (commit or "none")
    return Snapshot(snapshot, commit) if commit is not None and is_model_folder(snapshot) else None


def missing(cache: Path, repo_id: str, revision: str) -> list[str]:
    """Return the names of the files that a snapshot begun, but not complete, lacks; empty where none was begun."""
    folder = storage(cache, repo_id)
    snapshot = folder / "snapshots" / (_cached_commit(folder, revision) or "none")
    return [name for name in (CONFIG, WEIGHTS) if not (snapshot / name).is_file()] if snapshot.is_dir() else []


def _cached_commit(folder: Path, revision: str) -> str | None:
    if COMMIT.fullmatch(revision):
        return revision
    try:
        commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def purge(snapshot: Snapshot) -> None:
    """Take the files of a damaged snapshot out of the cache, blobs included, the weights first. Raises `CacheError`."""
    try:
        for name in reversed(FILES):
            path = snapshot.folder / name
            blob = path.resolve()
            path.unlink(missing_ok=True)
            if blob.parent == snapshot.folder.parent.parent.resolve() / "blobs":
                blob.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(
            f"{snapshot.folder} holds damaged files that cannot be removed ({error.strerror or error}): remove "
            f"them, or point HF_HUB_CACHE elsewhere"
        ) from error


@contextmanager
def begun(blob: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a file beside a blob to download into: one that a killed process left is gone on with, others are swept.

    A file is in use as long as its process holds a lock on it; the system lets go of the lock of one that is killed.
    On a system without such locks every download begins anew. What ends by an error leaves nothing.
    """
    part, stream = _left(blob) or _fresh(blob)
    try:
        yield part, stream
    finally:
        _drop(part, stream)


def _drop(part: Path, stream: BinaryIO) -> None:
    """Remove an unfinished download before its lock is let go of, so that nobody goes on with what is removed."""
    if fcntl is not None:
        part.unlink(missing_ok=True)
    with suppress(OSError):  # of a full disk, which has been told
        stream.close()
    part.unlink(missing_ok=True)


def _fresh(blob: Path) -> tuple[Path, BinaryIO]:
    while True:
        part = blob.with_name(f"{blob.name}.zoo-{uuid.uuid4().hex[:8]}.incomplete")
        stream = part.open("x+b")
        if fcntl is None or (_lock(stream) and part.is_file()):
            return part, stream
        stream.close()  # between both, another took it for one that is left, and goes on with it or has removed it


def _left(blob: Path) -> tuple[Path, BinaryIO] | None:
    """Return the longest unfinished download of a blob that nobody holds, locked; the others are removed."""
    found: list[tuple[int, Path, BinaryIO]] = []
    for part in blob.parent.glob(f"{blob.name}.zoo-*.incomplete") if fcntl is not None else ():
        try:
            stream = part.open("r+b")
        except OSError:
            continue
        size = stream.seek(0, os.SEEK_END)
        if _lock(stream) and part.is_file():
            found.append((size, part, stream))
        else:
            stream.close()
    found.sort(key=lambda item: item[0])
    for _, part, stream in found[:-1]:
        _drop(part, stream)
    return found[-1][1:] if found else None


def is_held(part: Path) -> bool:
    """Tell whether a process is at an unfinished download, or nothing can be said of that."""
    try:
        with part.open("rb") as stream:
            return not _lock(stream)
    except OSError:
        return True


def _lock(stream: BinaryIO) -> bool:
    """Take the lock of a file; False where another process has it, or the system has no such locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (AttributeError, OSError):
        return False
    return True


def link_to(blob: Path, link: Path) -> None:
    """Make ``link`` show the blob: by a relative symbolic link, by a copy where there are none."""
    temporary = link.with_name(f".{link.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.symlink_to(Path("..", "..", "blobs", blob.name))
    except OSError:
        shutil.copyfile(blob, temporary)
    os.replace(temporary, link)


def write_ref(path: Path, commit: str) -> None:
    """Note which commit a branch or tag is; one that was called ``a`` when now there is ``a/b`` stays as it is."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(commit, encoding="ascii")
        os.replace(temporary, path)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None
        log.info("%s is not noted in the cache: another branch or tag was called so before", path)
