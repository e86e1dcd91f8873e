"""What the Hub's cache on this machine holds of the zoo: listed, checked, removed. Models of others are left alone.

The words are those of the Hub's own tool, ``hf cache``: list, rm, prune, verify. A revision is *detached* when no
branch or tag in the cache points to it; it may still be one that the registry pins, and then it is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from zoo.errors import CacheError, UnknownModelError, ZooError, close_matches
from zoo.hub.layout import CONFIG, LIMITS, verify
from zoo.hub.session import cache_folder
from zoo.names import check_repo_id
from zoo.registry import load_registry

__all__ = ["Freed", "Kept", "cached_models", "prune", "remove", "verify_cached"]

_OLD = 24 * 3600.0
"""Seconds after which an unfinished download of nobody known is given up."""


@dataclass(frozen=True)
class Kept:
    """One commit of one model in the cache.

    Attributes:
        repo: ``namespace/name``.
        commit: 40 hex digits.
        refs: branches and tags that are known to be this commit.
        size: bytes on the disk, those shared with other commits included.
        files: how many.
        folder: where they are.
        modified: seconds since 1970.
    """

    repo: str
    commit: str
    refs: tuple[str, ...]
    size: int
    files: int
    folder: Path
    modified: float


@dataclass(frozen=True)
class Freed:
    """What was removed: commits of models, unfinished downloads, and their bytes."""

    models: int
    downloads: int
    size: int


def cached_models(cache_dir: str | Path | None = None) -> list[Kept]:
    """Return the zoo's models in the cache, in the order of their names. Raises `CacheError`."""
    found = [
        Kept(repo.repo_id, r.commit_hash, tuple(sorted(r.refs)), r.size_on_disk, len(r.files), r.snapshot_path,
             r.last_modified)
        for repo, r in _revisions(_scan(cache_dir))
    ]  # fmt: skip
    return sorted(found, key=lambda kept: (kept.repo, kept.commit))


def remove(name: str, cache_dir: str | Path | None = None) -> Freed:
    """Remove a model from the cache: all its commits, or with ``@revision`` the one of a branch, tag or commit.

    Raises:
        UnknownModelError: the cache does not hold it.
        CacheError: it cannot be removed.
    """
    wanted, _, revision = name.partition("@")
    entry = load_registry().get(wanted)
    repo = entry.weights.get("repo", wanted) if entry is not None else wanted
    kept = cached_models(cache_dir)
    of_repo = [k for k in kept if k.repo == repo]
    chosen = [k for k in of_repo if not revision or k.commit.startswith(revision) or revision in k.refs]
    if not chosen or (revision and len({k.commit for k in chosen}) > 1):
        there = f"; of {repo} it holds {', '.join(k.commit[:12] for k in of_repo)}" if of_repo else ""
        near = close_matches(repo, {k.repo for k in kept}) if not of_repo else ""
        raise UnknownModelError(f"the cache {cache_folder(cache_dir)} holds no {name[:200]!r}{there}.{near}")
    return _delete(cache_dir, [k.commit for k in chosen])


def prune(cache_dir: str | Path | None = None) -> Freed:
    """Remove detached commits that no registry entry pins, and unfinished downloads that nobody is at.

    Raises:
        CacheError: something cannot be removed.
    """
    pinned = {str(entry.weights.get("revision")) for entry in load_registry().values()}
    detached = [k.commit for k in cached_models(cache_dir) if not k.refs and k.commit not in pinned]
    freed = _delete(cache_dir, detached) if detached else Freed(0, 0, 0)
    left = list(_unfinished(cache_folder(cache_dir)))
    size = sum(path.stat().st_size for path in left if path.is_file())
    for path in left:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CacheError(f"{path} cannot be removed: {error.strerror or error}") from error
    return Freed(freed.models, len(left), freed.size + size)


def verify_cached(cache_dir: str | Path | None = None) -> list[tuple[Kept, ZooError | None]]:
    """Hold every model in the cache against its records: each with what is wrong, or None."""
    found: list[tuple[Kept, ZooError | None]] = []
    for kept in cached_models(cache_dir):
        try:
            verify(kept.folder)
            found.append((kept, None))
        except ZooError as error:
            found.append((kept, error))
    return found


def _scan(cache_dir: str | Path | None) -> Any:
    folder = cache_folder(cache_dir)
    try:
        return scan_cache_dir(folder)
    except CacheNotFound:
        return None
    except (OSError, ValueError) as error:
        raise CacheError(f"the cache {folder} cannot be read: {error}") from error


def _revisions(scan: Any) -> Iterable[tuple[Any, Any]]:
    for repo in scan.repos if scan is not None else ():
        for revision in repo.revisions:
            if repo.repo_type == "model" and _is_ours(repo.repo_id, revision.snapshot_path):
                yield repo, revision


def _is_ours(repo_id: str, snapshot: Path) -> bool:
    """Tell whether a snapshot is one of the zoo's models, by its configuration."""
    try:
        check_repo_id(repo_id)
        with (snapshot / CONFIG).open("rb") as stream:
            config = json.loads(stream.read(LIMITS[CONFIG]))
    except (OSError, ValueError, RecursionError, ZooError):
        return False
    return isinstance(config, dict) and "zoo_format" in config


def _delete(cache_dir: str | Path | None, commits: list[str]) -> Freed:
    scan = _scan(cache_dir)
    strategy = scan.delete_revisions(*commits)
    strategy.execute()
    left = {revision.commit_hash for _, revision in _revisions(_scan(cache_dir))} & set(commits)
    if left:
        raise CacheError(f"{len(left)} of {len(commits)} commits cannot be removed from {cache_folder(cache_dir)}")
    return Freed(len(commits), 0, strategy.expected_freed_size)


def _unfinished(cache: Path) -> Iterable[Path]:
    """Yield unfinished downloads of the zoo's own that nobody holds, and old ones of its models that nobody can."""
    from zoo.hub.cache import is_held

    for folder in cache.glob("models--*/blobs"):
        ours = any(_is_ours("a/b", s) for s in (folder.parent / "snapshots").glob("*"))
        for part in folder.glob("*.incomplete"):
            if ".zoo-" in part.name:
                if not is_held(part):
                    yield part
            elif ours and time.time() - part.stat().st_mtime > _OLD:
                yield part
