"""From a folder to a Hub: checked first, one atomic commit, read back and compared.

Files go as plain bytes over HTTP, the path that every Hub and mirror has; what was checked is what is sent.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from tqdm import tqdm

from zoo.errors import AuthError, CardError, OfflineError, PushConflictError, PushError, ZooError
from zoo.hub.card_blocks import join_cards
from zoo.hub.fetch import content
from zoo.hub.layout import CARD, FILES, SUMS, sums_text
from zoo.hub.session import FAILURES, Hub, offline
from zoo.hub.staging import collect
from zoo.hub.timeouts import is_transient, pause_before, waits, with_timeouts
from zoo.names import check_repo_id, check_revision

if TYPE_CHECKING:
    from zoo.model import GenerativeModel

__all__ = ["PushResult", "push"]


@dataclass(frozen=True)
class PushResult:
    """What a push made.

    Attributes:
        repo_id: the repository.
        commit: of 40 hex digits; None after a dry run.
        url: where to see it.
        files: name -> bytes of all files of the model.
    """

    repo_id: str
    commit: str | None
    url: str
    files: Mapping[str, int]


def push(
    folder_or_model: str | Path | GenerativeModel,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str = "main",
    tag: str | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
    progress: bool = False,
    show: Callable[[Mapping[str, int]], None] | None = None,
) -> PushResult:
    """Publish a model as one commit. A registered name stands for its bundled weights, a run for its newest checkpoint.

    What a person wrote around the generated block of the card on the Hub is kept, beside what the local card says.

    Args:
        folder_or_model: a model, a model folder, a run folder, or a registered name.
        repo_id: ``namespace/name``; created if need be.
        token: with the scope ``write``; HF_TOKEN or the login file if left out.
        private: make a new repository private; an existing public one is then refused.
        revision: branch; created if need be.
        tag: name to give the commit.
        endpoint: of the Hub; HF_ENDPOINT if left out.
        dry_run: check everything and say what would be uploaded, with no request.
        progress: show a bar on stderr while the files go up.
        show: called with name -> bytes of all files, once they are built and checked, before anything is sent.

    Raises:
        ModelFolderError, CorruptWeightsError, WeightsMismatchError, CardError: what would be pushed is not in order,
            or the generated part of the card on the Hub was edited by hand; nothing is pushed.
        UnsafeWeightsError: the folder holds a pickle.
        AuthError, PushForbiddenError: no token, a wrong one, or one that may not write there.
        PushConflictError: the branch moved meanwhile; nothing was changed.
        PushError: the upload failed, or what the Hub holds afterwards is not what was sent.
    """
    check_repo_id(repo_id)
    check_revision(revision)
    if tag is not None:
        check_revision(tag)
    files = collect(folder_or_model, repo_id)
    hub = Hub(repo_id, token=token, endpoint=endpoint)
    if show is not None:
        show(_sizes(files))
    if dry_run:
        return PushResult(repo_id, None, f"{hub.site}/{repo_id}", _sizes(files))
    if offline():
        raise OfflineError(f"{repo_id} cannot be pushed: HF_HUB_OFFLINE forbids the network; unset it")
    if hub.token is None:
        raise AuthError(f"pushing to {hub.here} needs a token: run `hf auth login`, or set HF_TOKEN")
    head, remote = _prepare(hub, revision, private)
    if CARD in remote:
        files = _with_remote_card(hub, files, head)
    total = sum(map(len, files.values()))
    with tqdm(total=total, desc=repo_id, unit="B", unit_scale=True, disable=not progress) as bar:
        commit = _commit(hub, files, remote, revision, head, bar)
        bar.update(total - bar.n)  # what the Hub had already did not move it
    with _published(hub, commit, "it could not be read back, to be compared with what was sent"):
        _read_back(hub, files, commit)
    if tag is not None:
        with _published(
            hub, commit, f"the tag {tag!r} could not be made; push again with it, which makes no new commit"
        ):
            _tag(hub, tag, commit)
    return PushResult(repo_id, commit, f"{hub.site}/{repo_id}/tree/{commit}", _sizes(files))


@contextmanager
def _published(hub: Hub, commit: str, lacking: str) -> Iterator[None]:
    """Say of every failure inside that the commit is made, so that nobody takes it for a push that failed."""
    try:
        yield
    except ZooError as error:
        if commit in str(error):
            raise
        raise type(error)(f"{hub.here} is published as commit {commit}, but {lacking}: {error}") from error


def _sizes(files: Mapping[str, bytes]) -> dict[str, int]:
    return {name: len(files[name]) for name in FILES if name in files}


def _with_remote_card(hub: Hub, files: dict[str, bytes], head: str) -> dict[str, bytes]:
    """Return the files with what a person wrote in the card on the Hub, SHA256SUMS made anew. Raises `CardError`."""
    if not _differing(hub, {CARD: files[CARD]}, head):
        return files
    try:
        text = join_cards(content(hub, CARD, head).decode("utf-8", "replace"), files[CARD].decode("utf-8"))
    except CardError as error:
        raise CardError(f"nothing was pushed to {hub.here}: {error}") from error
    files = {**files, CARD: text.encode("utf-8")}
    return {**files, SUMS: sums_text(files).encode("ascii")}


class _Watched(io.BytesIO):
    """Bytes whose reading moves a bar, and shows that the Hub takes them; going back, as after hashing, undoes it."""

    def __init__(self, data: bytes, bar: tqdm, hub: Hub) -> None:
        super().__init__(data)
        self.bar, self.hub, self.seen = bar, hub, 0

    def _note(self) -> None:
        moved, self.seen = self.tell() - self.seen, self.tell()
        self.bar.update(moved)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._note()
        self.hub.moved()
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        position = super().seek(offset, whence)
        if (offset, whence) == (0, 0):
            self._note()
            self.hub.moved(again=True)
        return position


def _prepare(hub: Hub, revision: str, private: bool | None) -> tuple[str, set[str]]:
    """Make sure of repository and branch; return the head of the branch and the files there."""

    def found() -> Any:
        try:
            return hub.api.model_info(hub.repo_id)
        except RepositoryNotFoundError as error:
            if isinstance(error, GatedRepoError):
                raise
            hub.api.create_repo(hub.repo_id, private=private, exist_ok=True)
            return hub.api.model_info(hub.repo_id)

    info = hub.call(found, writing=True)
    if private and not info.private:
        raise PushError(f"{hub.here} exists and is public, so it is not pushed to as private")
    if revision != "main":
        hub.call(lambda: hub.api.create_branch(hub.repo_id, branch=revision, exist_ok=True), writing=True)
        info = hub.call(lambda: hub.api.model_info(hub.repo_id, revision=revision), revision=revision, writing=True)
    return info.sha, {s.rfilename for s in info.siblings or []}


def _commit(hub: Hub, files: Mapping[str, bytes], remote: set[str], revision: str, head: str, bar: tqdm) -> str:
    """Make the one commit; after a failure look first whether it happened, then try again."""
    started = time.monotonic()
    for attempt in range(1, waits.tries + 1):
        bar.update(-bar.n)
        operations: list[Any] = [CommitOperationAdd(n, _Watched(data, bar, hub)) for n, data in files.items()]
        operations += [CommitOperationDelete(n) for n in FILES if n in remote and n not in files]
        try:
            with with_timeouts(hub), _plain_transfer():
                return hub.api.create_commit(
                    hub.repo_id, operations, commit_message="Publish the model", revision=revision, parent_commit=head
                ).oid
        except FAILURES as error:
            if isinstance(error, ValueError) and f"metadata in {CARD}" in str(error):
                raise CardError(f"{hub.here}: {' '.join(str(error).split())}") from error
            moved = isinstance(error, HfHubHTTPError) and error.response.status_code in (409, 412)
            if not moved and not is_transient(error):
                tried = (attempt, time.monotonic() - started)
                raise hub.explain(error, revision=revision, writing=True, tried=tried) from error
            now = _head_after(hub, revision)
            if now != head:
                if _differing(hub, files, now):
                    raise PushConflictError(
                        f"{hub.here}: branch {revision!r} moved from {head} to {now} during the "
                        f"push; nothing was changed, look at the new commit and push again"
                    ) from error
                return now  # the commit had happened, its answer was lost
            spent = time.monotonic() - started
            if moved or attempt == waits.tries or spent > waits.limit:
                raise hub.explain(error, revision=revision, writing=True, tried=(attempt, spent)) from error
            time.sleep(pause_before(attempt, error))
    raise AssertionError("unreachable")


def _head_after(hub: Hub, revision: str) -> str:
    """Return the head of the branch after a commit that was not answered well."""
    try:
        return str(hub.call(lambda: hub.api.model_info(hub.repo_id, revision=revision)).sha)
    except ZooError as error:
        raise type(error)(
            f"{error}; the commit was sent, and whether it was made is not known: look at {hub.site}/{hub.repo_id}, or "
            f"push again, which makes no second one of the same files"
        ) from error


@contextmanager
def _plain_transfer() -> Iterator[None]:
    """Keep the client quiet about taking plain HTTP for bytes, which is what is wanted here."""

    def other(record: logging.LogRecord) -> bool:
        return "not supported by Xet" not in record.getMessage()

    logger = logging.getLogger("huggingface_hub._commit_api")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _differing(hub: Hub, files: Mapping[str, bytes], commit: str) -> list[str]:
    """Return the names of files that the Hub does not hold as they were sent."""
    found = hub.call(lambda: hub.api.get_paths_info(hub.repo_id, list(files), revision=commit), revision=commit)
    there = {info.path: info for info in found}
    return [name for name, data in files.items() if name not in there or not _same(there[name], data)]


def _same(info: Any, data: bytes) -> bool:
    if getattr(info, "lfs", None) is not None:
        return bool(info.lfs.sha256 == hashlib.sha256(data).hexdigest() and info.lfs.size == len(data))
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return getattr(info, "blob_id", None) == git


def _read_back(hub: Hub, files: Mapping[str, bytes], commit: str) -> None:
    wrong = _differing(hub, files, commit)
    if wrong:
        raise PushError(f"{hub.here}: commit {commit} does not hold {', '.join(wrong)} as sent; push again")


def _tag(hub: Hub, tag: str, commit: str) -> None:
    try:
        with with_timeouts(hub):
            hub.api.create_tag(hub.repo_id, tag=tag, revision=commit)
    except FAILURES as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 409:
            if hub.call(lambda: hub.api.model_info(hub.repo_id, revision=tag)).sha == commit:
                return
            raise PushError(
                f"{hub.here} was pushed as {commit}, but the tag {tag!r} exists on another commit; choose another tag"
            ) from error
        raise hub.explain(error, revision=commit, writing=True) from error
