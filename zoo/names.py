"""What a name means: a registered model, a repository, or a folder. Everything that takes a name asks `parse_name`.

- ``vae-mnist``, ``vae``: a name of the registry, an alias or a deprecated name. A bare word is never a path, so that a
  stray folder cannot take a model's place; where a run or a model folder of that name stands, this is said once.
- ``namespace/name``, ``hf://namespace/name``, each with ``@revision`` if wanted: a repository on the Hub.
- ``./x``, ``/x``, ``~/x``, or a `pathlib.Path`: a folder, of a run or of a model. So is ``runs/vae/monday``, words with
  a slash between them, where a folder stands there.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import InvalidNameError, UnknownModelError
from zoo.registry import NAME, Entry, Registry, load_registry

__all__ = [
    "COMMIT",
    "CONFIG",
    "WEIGHTS",
    "ParsedName",
    "check_repo_id",
    "check_revision",
    "is_model_folder",
    "is_path",
    "is_run",
    "own_folder",
    "parse_name",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?/[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
)
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]{0,126}[A-Za-z0-9_+-])?")
_said: set[str] = set()


@dataclass(frozen=True)
class ParsedName:
    """What a user's name means: exactly one of a path, an entry of the registry, a repository.

    Attributes:
        text: what the user wrote.
        path: of a folder, which may not be there.
        entry: of the registry.
        repo: ``namespace/name``.
        revision: of the repository, or of the entry's; None for the pinned one, or the default.
    """

    text: str
    path: Path | None = None
    entry: Entry | None = None
    repo: str | None = None
    revision: str | None = None

    @property
    def is_run(self) -> bool:
        """Whether it is the folder of a run, and not of a model that lies beside checkpoints."""
        return self.path is not None and is_run(self.path) and not is_model_folder(self.path)

    @property
    def short(self) -> str:
        """A word for files that are named after it: the folder's name, the entry's, or the repository's last part."""
        if self.path is not None:
            return self.path.resolve().name
        return self.entry.name if self.entry is not None else str(self.repo).rpartition("/")[2]


def is_run(folder: str | Path) -> bool:
    """Tell whether a folder is that of a run."""
    return (Path(folder) / "checkpoints").is_dir()


def is_model_folder(folder: str | Path) -> bool:
    """Tell whether a folder holds a model's configuration and weights."""
    return (Path(folder) / CONFIG).is_file() and (Path(folder) / WEIGHTS).is_file()


def is_path(name: object) -> bool:
    """Tell whether ``name`` is a path: a Path, what starts with ``.``, ``/`` or ``~``, or words with a slash between
    them that lead to a folder."""
    if isinstance(name, os.PathLike):
        return True
    if not isinstance(name, str):
        return False
    return name[:1] in (".", "/", "~", os.sep) or ("/" in name and _is_folder(name))


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # no name of a file
        return False


def parse_name(name: str | Path, revision: str | None = None, *, registry: Registry | None = None) -> ParsedName:
    """Tell what ``name`` means; the head of this module says how.

    Args:
        name: what the user wrote.
        revision: of a repository, the same as ``@revision``.
        registry: where names are looked up; the one with the user's own overlays if left out.

    Raises:
        InvalidNameError: none of the forms.
        UnknownModelError: a bare word that the registry does not know.
    """
    if is_path(name):
        if revision is not None:
            raise InvalidNameError(
                f"a local folder has no revisions, but revision {revision!r} of {name} was asked for"
            )
        return ParsedName(str(name), path=Path(name).expanduser())
    if not isinstance(name, str) or not name:
        raise InvalidNameError(f"a model's name must be text or a Path, got {str(name)[:100]!r}")
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
    return ParsedName(name, entry=_entry(body, registry or load_registry()), revision=revision)


def own_folder(parsed: ParsedName, base: str | Path, inside: str = "") -> Path:
    """Return where the files that a command writes about a model go: into its run, else ``base`` / its name.

    Args:
        parsed: the model.
        base: folder for what is not a run.
        inside: folder within a run.
    """
    if parsed.is_run:
        return parsed.path / inside
    return Path(base) / (parsed.repo or parsed.short)


def _entry(name: str, registry: Registry) -> Entry:
    known = name in registry or name in registry.aliases or name in registry.deprecated
    if not known and not NAME.match(name):
        raise InvalidNameError(
            f"{name[:100]!r} is no name of a model; use a registered name (lower case, digits, . _ -), namespace/name, "
            f"or a folder that starts with ./"
        )
    try:
        entry = registry.resolve(name)
    except UnknownModelError as error:
        if _is_folder(name):
            raise UnknownModelError(f"{error} For the folder of this name, write './{name}'.") from error
        raise
    if name not in _said and _is_folder(name) and (is_run(name) or is_model_folder(name)):
        _said.add(name)
        warnings.warn(
            f"{name!r} is taken as the registered model; for the folder of this name, write './{name}'", stacklevel=3
        )
    return entry


def check_repo_id(repo_id: str) -> str:
    """Return ``repo_id`` if it is ``namespace/name`` as the Hub allows. Raises `InvalidNameError`."""
    if isinstance(repo_id, str) and repo_id.endswith(".ckpt"):
        raise InvalidNameError(
            f"{repo_id[:200]!r} is a checkpoint: a run is named by its folder, and one that a Trainer wrote is loaded "
            f"by its class, as in VAE.load_from_checkpoint(path)"
        )
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
