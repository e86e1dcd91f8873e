"""From a Hub into its cache: only the files of a model, each hashed before it gets its place.

Weights come last: a snapshot that has them is complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import get_session, hf_raise_for_status, httpx

from zoo.errors import (
    CacheError,
    CorruptWeightsError,
    DownloadError,
    HubUnavailableError,
    NotAZooModelError,
    UnsafeWeightsError,
)
from zoo.hub.cache import Snapshot, cached, link_to, storage, write_ref
from zoo.hub.layout import CONFIG, FILES, LIMITS, WEIGHTS, is_pickle_name, parse_config, shown
from zoo.hub.session import FAILURES, Hub, log
from zoo.hub.timeouts import is_transient, pause_before, waits, with_timeouts
from zoo.names import COMMIT

__all__ = ["content", "fetch", "fetch_or_cached"]

_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def fetch(hub: Hub, revision: str, cache: Path) -> Snapshot:
    """Download the model at ``revision`` into the cache, and return its snapshot.

    Raises:
        RepoNotAccessibleError, AuthError, AccessNotGrantedError, RevisionNotFoundError: no way to it.
        NotAZooModelError, UnsafeWeightsError: the repository holds something else; nothing of it was opened.
        CorruptWeightsError: a file differs from its record, twice.
        DownloadError, HubUnavailableError: the network, or the Hub, fails; what was complete before stays.
        CacheError: the cache cannot be written.
    """
    commit, listing = hub.call(lambda: _listing(hub, revision), revision=revision)
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise HubUnavailableError(f"{hub.here}: the answer names no commit, so this is no Hub")
    if COMMIT.fullmatch(revision) and commit != revision:
        raise CorruptWeightsError(
            f"{hub.here}: commit {revision} was asked for, but the answer is commit {commit}: a branch or tag of that "
            f"name is in the way, so nothing is downloaded; tell the owner"
        )
    where = f"{hub.repo_id} at {commit[:12]} on {hub.site}"
    _check_listing(listing, where)
    folder = storage(cache, hub.repo_id)
    snapshot, fresh = Snapshot(folder / "snapshots" / commit, commit), False
    try:
        for name in (n for n in FILES if n in listing):
            fresh |= _fetch_file(hub, name, listing[name], folder, snapshot)
            if name == CONFIG:
                parse_config((snapshot.folder / CONFIG).read_bytes(), where)
        if revision != commit:
            write_ref(folder / "refs" / revision, commit)
    except OSError as error:
        size = sum(s.size or 0 for name, s in listing.items() if name in FILES)
        raise CacheError(
            f"the cache {folder} cannot be written ({error.strerror or error}); {size} bytes are needed: free the "
            f"space, or point HF_HUB_CACHE elsewhere"
        ) from error
    return replace(snapshot, fresh=fresh)


def _listing(hub: Hub, revision: str) -> tuple[Any, dict[str, Any]]:
    """Return the commit of a revision, and the records of its files by name."""
    info = hub.api.model_info(hub.repo_id, revision=revision, files_metadata=True, timeout=waits.timeout)
    return info.sha, {s.rfilename: s for s in info.siblings or [] if isinstance(s.rfilename, str)}


def _check_listing(listing: Mapping[str, Any], where: str) -> None:
    if WEIGHTS not in listing:
        pickles = [name for name in listing if is_pickle_name(name)]
        if pickles:
            raise UnsafeWeightsError(
                f"{where} holds its weights only as {shown(pickles[0])!r}, a format that can run code when loaded; the "
                f"zoo reads safetensors only, so nothing was downloaded"
            )
    lacking = [name for name in (CONFIG, WEIGHTS) if name not in listing]
    if lacking:
        raise NotAZooModelError(f"{where} is no model of the zoo: it has no {' and no '.join(lacking)}")
    for name in (n for n in FILES if n in listing):
        size = listing[name].size
        if not isinstance(size, int) or not 0 <= size <= LIMITS[name]:
            raise NotAZooModelError(f"{where}: {name} has {size} bytes, more than the {LIMITS[name]} that it may have")


def _fetch_file(hub: Hub, name: str, record: Any, folder: Path, snapshot: Snapshot) -> bool:
    """Put one file into the cache, unless it is there; tell whether it was downloaded."""
    etag = _hash_of(hub, name, record)
    blob, link = folder / "blobs" / etag, snapshot.folder / name
    absent = not blob.is_file()
    if absent:
        blob.parent.mkdir(parents=True, exist_ok=True)
        part = blob.with_name(f"{etag}.{uuid.uuid4().hex[:8]}.incomplete")
        try:
            _download(hub, name, record.size, etag, snapshot.commit, part)
            os.replace(part, blob)
        finally:
            part.unlink(missing_ok=True)
    if not link.is_file():
        link.parent.mkdir(parents=True, exist_ok=True)
        link_to(blob, link)
    return absent


def _hash_of(hub: Hub, name: str, record: Any) -> str:
    """Return the hash that the Hub keeps of a file, which becomes a file name. Raises `HubUnavailableError`."""
    etag = getattr(record.lfs, "sha256", None) if record.lfs is not None else record.blob_id
    if not isinstance(etag, str) or not _ETAG.fullmatch(etag):
        raise HubUnavailableError(f"{hub.here}: no hash is known for {name}, so this is no Hub")
    return etag


def _download(hub: Hub, name: str, size: int, etag: str, commit: str, part: Path) -> None:
    """Write the file to ``part``, and stay until its hash is right; wrong bytes are asked for once more."""
    url = hf_hub_url(hub.repo_id, name, revision=commit, endpoint=hub.endpoint)
    for again in (False, True):
        with part.open("w+b") as stream:
            _receive(hub, name, url, size, stream)
            stream.seek(0)
            actual = _hash(stream, size, etag)
        if actual == etag:
            return
        log.warning("%s: %s arrived damaged%s", hub.repo_id, name, "" if again else ", downloading it again")
    raise CorruptWeightsError(
        f"{hub.here}: {name} arrived damaged twice: its hash is {actual}, recorded is {etag}; "
        f"nothing was left in the cache; try again, or tell the owner"
    )


def content(hub: Hub, name: str, commit: str) -> bytes:
    """Return the bytes of one file of a commit, checked as every download, past the cache. Raises as `fetch` does."""

    def found() -> Any:
        (record,) = hub.api.get_paths_info(hub.repo_id, [name], revision=commit)
        return record

    record = hub.call(found, revision=commit)
    etag = _hash_of(hub, name, record)
    if not isinstance(record.size, int) or not 0 <= record.size <= LIMITS[name]:
        raise NotAZooModelError(f"{hub.here}: {name} has {record.size} bytes, too many to read")
    try:
        with tempfile.TemporaryDirectory(prefix="zoo-hub-") as folder:
            part = Path(folder, "part")
            _download(hub, name, record.size, etag, commit, part)
            return part.read_bytes()
    except OSError as error:
        raise CacheError(f"{name} of {hub.here} cannot be kept for a moment: {error.strerror or error}") from error


def _hash(stream: BinaryIO, size: int, etag: str) -> str:
    """Return the hash that the record is made with: sha256 of large files, git's own of small ones."""
    digest = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while piece := stream.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _receive(hub: Hub, name: str, url: str, size: int, stream: BinaryIO) -> None:
    """Fill ``stream`` with exactly ``size`` bytes, going on where a connection broke."""
    started, failure = time.monotonic(), None
    for attempt in range(1, waits.tries + 1):
        try:
            if _stream(hub, url, size, stream):
                return
            failure = None
        except FAILURES as error:
            if isinstance(error, OSError) and not is_transient(error) and not hasattr(error, "response"):
                raise  # the disk, not the network
            failure = error
            if not is_transient(error):
                raise hub.explain(error, revision=None) from error
        if stream.tell() > size:
            break
        if attempt < waits.tries:
            time.sleep(pause_before(attempt, failure))
    got, spent = stream.tell(), time.monotonic() - started
    if failure is not None and hasattr(failure, "response"):
        raise hub.explain(failure, tried=(attempt, spent)) from failure
    if got == 0 and isinstance(failure, httpx.TimeoutException):
        raise hub.explain(failure, tried=(attempt, spent)) from failure
    received = f"more than {size}" if got > size else str(got)
    broken = f", {type(failure).__name__}" if failure else ""
    raise DownloadError(
        f"{hub.here}: {name} has {size} bytes, but {received} arrived ({attempt} tries in "
        f"{spent:.0f} s{broken}); a proxy or login page in between? Try again"
    ) from failure


def _stream(hub: Hub, url: str, size: int, stream: BinaryIO) -> bool:
    """Receive once, from where ``stream`` stands; tell whether it is complete."""
    headers = {**hub.headers(), "Accept-Encoding": "identity"}
    if stream.tell():
        headers["Range"] = f"bytes={stream.tell()}-"
    with (
        with_timeouts(hub),
        get_session().stream("GET", url, headers=headers, timeout=waits.timeout, follow_redirects=True) as response,
    ):
        hf_raise_for_status(response)
        if response.status_code != 206:
            stream.seek(0)
            stream.truncate()
        for piece in response.iter_raw():  # as sent: what would unpack to more than the file is none of it
            stream.write(piece)
            if stream.tell() > size:
                return False
    return stream.tell() == size


def fetch_or_cached(hub: Hub, revision: str, cache: Path) -> Snapshot:
    """Return `fetch`'s snapshot; the cached one, with a warning, where the Hub is unwell."""
    try:
        return fetch(hub, revision, cache)
    except HubUnavailableError as error:
        found = cached(cache, hub.repo_id, revision)
        if found is None:
            raise
        log.warning("%s; using the cached commit %s", error, found.commit)
        return found
