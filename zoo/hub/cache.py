"""The cache on this machine, in the layout of the client's own, so that both see each other's files.

``blobs/<hash>`` holds the bytes, ``snapshots/<commit>/<file>`` shows them, ``refs/<revision>`` knows the commit of a
branch or tag.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import CacheError
from zoo.hub.layout import CONFIG, FILES, WEIGHTS, is_model_folder
from zoo.names import COMMIT

__all__ = ["Snapshot", "cached", "link_to", "missing", "purge", "storage", "write_ref"]

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
