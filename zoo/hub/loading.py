"""From a name to a model: a folder, the bundled weights, the cache, the Hub, in this order."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from zoo.bundled import require_weights
from zoo.errors import CorruptWeightsError, ModelFolderError, OfflineError, UnknownModelError
from zoo.hub.layout import CARD, CONFIG, WEIGHTS, Pins, check_sums, read_file, read_folder
from zoo.names import COMMIT, ParsedName, check_repo_id, parse_name
from zoo.registry import Entry, load_registry, pretrained_folder
from zoo.spec import class_of

if TYPE_CHECKING:
    import torch

    from zoo.feature_extractor import FeatureExtractor
    from zoo.hub.cache import Snapshot
    from zoo.model import GenerativeModel, Source

__all__ = ["card", "load", "load_checkpoint", "pull", "resolve"]

log = logging.getLogger("zoo.hub")
_warned: set[str] = set()


@dataclass(frozen=True)
class Target:
    """Where a name leads: a local folder, or a revision of a repository, and the sha256 that must hold there."""

    kind: str
    folder: Path | None = None
    repo: str = ""
    revision: str = "main"
    pins: Pins | None = None
    name: str | None = None


@dataclass(frozen=True)
class Access:
    """How the Hub may be asked."""

    token: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    endpoint: str | None = None


@overload
def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
    verify: bool = True,
    features_only: Literal[False] = False,
) -> GenerativeModel: ...


@overload
def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
    verify: bool = True,
    features_only: Literal[True],
) -> FeatureExtractor: ...


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
    verify: bool = True,
    features_only: bool = False,
) -> GenerativeModel | FeatureExtractor:
    """Return a model by name, in eval mode: bundled weights, else the local cache, else a download.

    Args:
        name: a registered name, ``namespace/name``, ``hf://namespace/name``, each with ``@revision`` if wanted; a model
            folder or a run folder, as a Path or beginning with ``.``, ``/`` or ``~``.
        revision: branch, tag or commit, other than the pinned one.
        device: where to put the model.
        dtype: its floating-point type, the stored one if left out.
        token: of the Hub, for private models; HF_TOKEN or the login file if left out.
        local_files_only: never ask the network.
        endpoint: of the Hub; HF_ENDPOINT if left out.
        verify: check sha256 before anything is parsed.
        features_only: return a module x, (B, *shape) -> features, (B, *feature_shape), instead of the model; for models
            with features, latents or a posterior (see `zoo.feature_extractor`).

    Raises:
        ConfigError: ``features_only`` of a model that has none.
        UnknownModelError, InvalidNameError: no such name.
        OfflineError: not in the cache, and the network is not to be used.
        ZooError: its other subclasses say what is wrong with the network, the repository or the files.
    """
    if features_only:
        from zoo.feature_extractor import FeatureExtractor

        return FeatureExtractor(
            load(
                name, revision=revision, device=device, dtype=dtype, token=token, local_files_only=local_files_only,
                endpoint=endpoint, verify=verify,
            )
        )  # fmt: skip
    from zoo.hub.folder import load_pretrained, place
    from zoo.model import Source

    target = _target(parse_name(name, revision))
    if target.kind == "run":
        from zoo.runs import load_run

        return place(load_run(_folder_of(target)), device, dtype).eval()
    options: dict[str, Any] = {"device": device, "dtype": dtype, "verify": verify}
    if target.folder is not None:
        _require(target)
        source = Source(target.kind, path=str(target.folder), name=target.name)
        model = load_pretrained(target.folder, expected=target.pins, source=source, **options)
        model.class_names = model.class_names or known_class_names(target.name, model.num_classes)
    else:
        access = Access(token, None, local_files_only, endpoint)

        def opened(snapshot: Snapshot) -> GenerativeModel:
            kind = "hub" if snapshot.fresh else "cache"
            source = Source(kind, str(snapshot.folder), target.repo, snapshot.commit, name=target.name)
            return load_pretrained(snapshot.folder, expected=target.pins, source=source, **options)

        model = _with_snapshot(target, access, opened)
    log.info("loaded %s from %s", name, model.source)
    return model


def load_checkpoint(
    path: str | Path, *, into: GenerativeModel | None = None, strict: bool = True, allow: Sequence[str] = ()
) -> GenerativeModel:
    """Return the model of one checkpoint, which a run or a plain Trainer wrote, in eval mode on the CPU.

    Args:
        path: a local file, read as tensors and plain data only.
        into: a model to fill with its weights; left out, one is built of what the checkpoint says.
        strict: whether all tensors of ``into`` must be there, and no others.
        allow: class paths that the caller's own code allows beyond those of the zoo.

    Raises:
        CheckpointError: unreadable, damaged, without a description of its model, or its tensors are not the model's.
        ConfigError: it names a class that is not allowed.
    """
    from zoo import runs

    if into is None:
        return runs.load_checkpoint(path, allow=allow)
    state = runs.read_checkpoint(path).get("state_dict") or {}
    if strict:
        runs.fill(into, state, Path(path))
    else:
        into.load_state_dict(state, strict=False)
    return into.eval()


def pull(
    name: str | Path,
    revision: str | None = None,
    *,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Path:
    """Return the folder of a model, its files checked: bundled, cached, or downloaded now. Raises as `load` does."""
    target = _target(parse_name(name, revision))
    if target.kind == "run":
        raise ModelFolderError(f"{target.folder} is a run folder, there is nothing to pull")
    if target.folder is not None:
        _require(target)
        check_sums(read_folder(target.folder), str(target.folder), expected=target.pins)
        return target.folder

    def checked(snapshot: Snapshot) -> Path:
        check_sums(read_folder(snapshot.folder), str(snapshot.folder), expected=target.pins)
        return snapshot.folder

    found: Path = _with_snapshot(target, Access(token, cache_dir, local_files_only, endpoint), checked)
    return found


def resolve(name: str | Path, revision: str | None = None) -> Source:
    """Say where `load` would take ``name`` from, asking nobody. Raises `UnknownModelError` or `InvalidNameError`."""
    from zoo.hub.cache import cached
    from zoo.hub.session import cache_folder
    from zoo.model import Source

    target = _target(parse_name(name, revision))
    sha256 = (target.pins or {}).get(WEIGHTS)
    if target.folder is not None:
        return Source(target.kind, path=str(target.folder), sha256=sha256, name=target.name)
    found = cached(cache_folder(), target.repo, target.revision)
    commit = target.revision if COMMIT.fullmatch(target.revision) else None
    if found is not None:
        return Source("cache", str(found.folder), target.repo, found.commit, sha256, target.name)
    return Source("hub", None, target.repo, commit, sha256, target.name)


def card(name: str | Path, revision: str | None = None, **access: Any) -> str:
    """Return the text of a model's card; ``access`` is what `pull` takes. Raises as `pull` does."""
    path = pull(name, revision, **access) / CARD
    if not path.is_file():
        raise ModelFolderError(f"{path.parent} has no {CARD}")
    return read_file(path).decode("utf-8", "replace")


def known_class_names(name: str | None, num_classes: int) -> tuple[str, ...]:
    """Return what the registry's data of a name call the classes, where a model's own configuration does not say."""
    entry = load_registry().get(name) if name is not None else None
    if entry is None or not num_classes:
        return ()
    data_class = class_of(entry.data["class_path"], entry.allow)
    names = getattr(data_class, "class_names", ())
    return tuple(names) if isinstance(names, (tuple, list)) and len(names) == num_classes else ()


def _require(target: Target) -> None:
    """Raise `ModelFolderError` where bundled weights are those of a package that is not installed."""
    if target.kind == "bundled" and target.name is not None and target.folder is not None:
        require_weights(target.name, target.folder)


def _target(parsed: ParsedName) -> Target:
    if parsed.path is not None:
        return Target("run" if parsed.is_run else "folder", folder=parsed.path)
    if parsed.repo is not None:
        return Target("hub", repo=parsed.repo, revision=parsed.revision or "main")
    assert parsed.entry is not None  # the third of three
    return _registered(parsed.entry, parsed.revision)


def _registered(entry: Entry, revision: str | None) -> Target:
    """Follow an entry's pins; another namespace, by ZOO_HUB_NAMESPACE, is held to the same sha256."""
    weights = entry.weights
    namespace = os.environ.get("ZOO_HUB_NAMESPACE")
    recorded = {WEIGHTS: weights.get("sha256"), CONFIG: weights.get("config_sha256")}
    pins = {name: str(digest) for name, digest in recorded.items() if digest}
    if weights.get("bundled") and revision is None:
        return Target("bundled", folder=pretrained_folder(entry.name), pins=pins, name=entry.name)
    repo, pinned = weights.get("repo"), weights.get("revision")
    if namespace and weights:
        repo = f"{namespace}/{(repo or entry.name).rpartition('/')[2]}"
        pinned = pinned if repo == weights.get("repo") else None
    if not repo:
        what = f"revision {revision!r} of {entry.name!r}" if weights else f"{entry.name!r}"
        raise UnknownModelError(
            f"there are no weights of {what} to load; train it with `zoo fit --model {entry.name}`, or name a "
            f"repository that has them: namespace/{entry.name}"
        )
    same = revision in (None, pinned)
    return Target("hub", None, check_repo_id(repo), revision or pinned or "main", pins if same else None, entry.name)


def _folder_of(target: Target) -> Path:
    """Return the folder of a target that has one."""
    assert target.folder is not None
    return target.folder


def _with_snapshot(target: Target, access: Access, use: Any) -> Any:
    """Return ``use(snapshot)``; a damaged snapshot leaves the cache and, online, is downloaded once more."""
    from zoo.hub.cache import purge

    snapshot = _snapshot(target, access)
    try:
        return use(snapshot)
    except CorruptWeightsError as error:
        purge(snapshot)
        if _offline(access):
            raise CorruptWeightsError(
                f"{error}; the damaged files were removed from the cache: go online and pull it again"
            ) from error
        log.warning("%s; downloading it again", error)
    snapshot = _snapshot(target, access)
    try:
        return use(snapshot)
    except CorruptWeightsError:
        purge(snapshot)
        raise


def _offline(access: Access) -> bool:
    from zoo.hub.session import offline

    return access.local_files_only or offline()


def _snapshot(target: Target, access: Access) -> Snapshot:
    from zoo.hub.cache import cached, missing
    from zoo.hub.fetch import fetch_or_cached
    from zoo.hub.session import Hub, cache_folder

    cache = cache_folder(access.cache_dir)
    found = cached(cache, target.repo, target.revision)
    pinned = COMMIT.fullmatch(target.revision) or target.pins
    if found is not None and (pinned or _offline(access)):
        return found
    if _offline(access):
        lacking = missing(cache, target.repo, target.revision)
        state = f"only in part, without {' and '.join(lacking)}" if lacking else "not at all"
        raise OfflineError(
            f"{target.repo} at revision {target.revision!r} is needed but the network must not be used, and the cache "
            f"{cache} holds it {state}; go online once and run `zoo pull {target.repo}@{target.revision}`"
        )
    hub = Hub(target.repo, token=access.token, endpoint=access.endpoint)
    snapshot = fetch_or_cached(hub, target.revision, cache)
    if not pinned and target.repo not in _warned:
        _warned.add(target.repo)
        log.warning(
            "%s is not pinned: revision %r is commit %s today; load %s@%s to get the same model for ever",
            target.repo, target.revision, snapshot.commit, target.repo, snapshot.commit,
        )  # fmt: skip
    return snapshot
