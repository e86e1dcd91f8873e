"""Names of models: registered ones, repositories, folders, each with its rule, and no other way to reach a file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import InvalidNameError, UnknownModelError
from zoo.registry import NAME, Entry, load_registry

__all__ = ["COMMIT", "ParsedName", "check_repo_id", "check_revision", "is_path", "parse_name"]

COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?/[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
)
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]{0,126}[A-Za-z0-9_+-])?")


@dataclass(frozen=True)
class ParsedName:
    """What a user's name means: exactly one of a path, an entry of the registry, a repository."""

    text: str
    path: Path | None = None
    entry: Entry | None = None
    repo: str | None = None
    revision: str | None = None


def is_path(name: object) -> bool:
    """Tell whether ``name`` is an explicit path: a Path, or a string that starts with ``.``, ``/`` or ``~``."""
    return isinstance(name, os.PathLike) or (isinstance(name, str) and name[:1] in (".", "/", "~", os.sep))


def parse_name(name: str | Path, revision: str | None = None) -> ParsedName:
    """Tell what ``name`` means. A bare word is never a path, so that a stray folder cannot take a model's place.

    Args:
        name: ``./folder``, ``registered-name``, ``namespace/name`` or ``hf://namespace/name``, the latter ones with
            ``@revision`` if wanted.
        revision: the same as a separate argument.

    Raises:
        InvalidNameError: none of these forms.
        UnknownModelError: a bare word that the registry does not know.
    """
    if is_path(name):
        if revision is not None:
            raise InvalidNameError(
                f"a local folder has no revisions, but revision {revision!r} of {name} was asked for"
            )
        return ParsedName(str(name), path=Path(name).expanduser())
    if not isinstance(name, str) or not name:
        raise InvalidNameError(f"a model's name must be text or a Path, got {name!r}")
    scheme = name.startswith("hf://")
    body, mark, suffix = name.removeprefix("hf://").partition("@")
    if mark:
        if revision not in (None, suffix):
            raise InvalidNameError(f"{name!r} and revision {revision!r} contradict each other")
        revision = suffix
    if revision is not None:
        check_revision(revision)
    if scheme or "/" in body:
        return ParsedName(name, repo=check_repo_id(body), revision=revision)
    return ParsedName(name, entry=_entry(body), revision=revision)


def _entry(name: str) -> Entry:
    registry = load_registry()
    known = name in registry or name in registry.aliases or name in registry.deprecated
    if not known and not NAME.match(name):
        raise InvalidNameError(
            f"{name[:100]!r} is no name of a model; use a registered name (lower case, digits, . _ -), namespace/name, "
            f"or a folder that starts with ./"
        )
    try:
        return registry.resolve(name)
    except UnknownModelError as error:
        if Path(name).is_dir():
            raise UnknownModelError(f"{error} For the folder of this name, write './{name}'.") from error
        raise


def check_repo_id(repo_id: str) -> str:
    """Return ``repo_id`` if it is ``namespace/name`` as the Hub allows. Raises `InvalidNameError`."""
    parts = repo_id.split("/") if isinstance(repo_id, str) else []
    name = parts[-1] if parts else ""
    bad = any(s in repo_id for s in ("--", "..")) or name.endswith(".git") if parts else True
    if bad or len(repo_id) > 96 or not _REPO.fullmatch(repo_id):
        raise InvalidNameError(
            f"{str(repo_id)[:100]!r} is no repository id: write namespace/name, at most 96 characters of A-Z a-z 0-9 . "
            f"_ -, without '--' or '..', beginning and ending with a letter or digit, not ending with .git; a local "
            f"folder starts with ./"
        )
    return repo_id


def check_revision(revision: str) -> str:
    """Return ``revision`` if it can be a branch, tag or commit. Raises `InvalidNameError`."""
    bad = not isinstance(revision, str) or not _REVISION.fullmatch(revision)
    if bad or any(s in revision for s in ("..", "//", "/.", "@{")) or revision.endswith(".lock"):
        raise InvalidNameError(
            f"{str(revision)[:100]!r} is no revision: give a branch, a tag or a commit of 40 hex digits"
        )
    return revision
