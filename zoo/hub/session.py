"""Talking to a Hub: where it is, with which token, how long to wait, and one clear error for each way it can fail."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, httpx

import zoo
from zoo import errors
from zoo.hub.layout import shown
from zoo.hub.timeouts import is_transient, pause_before, waits, with_timeouts

__all__ = ["FAILURES", "Hub", "cache_folder", "offline"]

log = logging.getLogger("zoo.hub")
T = TypeVar("T")

FAILURES = (
    httpx.HTTPError, httpx.InvalidURL, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What the client raises, transport errors and malformed answers included."""


def offline() -> bool:
    """Tell whether the environment forbids the network."""
    on = {"1", "on", "yes", "true"}
    named = any(os.environ.get(k, "").lower() in on for k in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return named or constants.is_offline_mode()


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Return the folder of the Hub's cache, as the environment says now."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    return Path(constants.HF_HUB_CACHE)


class Hub:
    """One repository on one Hub, as one user.

    Args:
        repo_id: ``namespace/name``.
        token: of the user; looked up in HF_TOKEN and the login file if left out.
        endpoint: address of the Hub; HF_ENDPOINT, as it is now, if left out.

    Attributes:
        site: the address without a user and password in it, for messages.
        here: repository and site.
    """

    def __init__(self, repo_id: str, *, token: str | None = None, endpoint: str | None = None) -> None:
        self.repo_id = repo_id
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.site = re.sub(r"(?<=//)[^/@]*@", "", self.endpoint)
        self.here = f"{repo_id} on {self.site}"
        self.token, self.origin = _token(token)
        self._failing: float | None = None
        self._moved: float | None = None
        self._status: int | None = None
        self.api = HfApi(
            self.endpoint, token=self.token or False, library_name="generative-zoo", library_version=zoo.__version__
        )

    def headers(self) -> dict[str, str]:
        """Return the headers of a request, the token among them."""
        return build_hf_headers(
            token=self.token or False, library_name="generative-zoo", library_version=zoo.__version__
        )

    def silence(self) -> float:
        """Return the seconds since the Hub last answered well, or was first asked."""
        if self._failing is None:
            self._failing = time.monotonic()
        return time.monotonic() - self._failing

    def record_response(self, status: int, *, good: bool) -> None:
        """Note an answer."""
        self._status = status
        if good:
            self._failing = None

    def moved(self, *, again: bool = False) -> None:
        """Note that the Hub takes what is sent: time in which bytes move is none of failure; ``again``: from the start.

        So a long upload may still be tried again when it breaks, and one that is only begun over and over ends.
        """
        now = time.monotonic()
        if self._failing is not None and self._moved is not None and not again:
            self._failing += now - self._moved
        self._moved = None if again else now

    def last_status(self) -> str:
        """Return the status of the last answer, as part of a message."""
        return f", the last answer had status {self._status}" if self._status is not None else ""

    def call(self, action: Callable[[], T], *, revision: str | None = None, writing: bool = False) -> T:
        """Return ``action()``, tried again while the Hub is unwell, every failure as one error of the zoo."""
        started = time.monotonic()
        for attempt in range(1, waits.tries + 1):
            try:
                with with_timeouts(self):
                    return action()
            except FAILURES as error:
                spent = time.monotonic() - started
                if not is_transient(error) or attempt == waits.tries or spent > waits.limit:
                    raise self.explain(error, revision=revision, writing=writing, tried=(attempt, spent)) from error
                time.sleep(pause_before(attempt, error))
        raise AssertionError("unreachable")

    def explain(
        self,
        error: Exception,
        *,
        revision: str | None = None,
        writing: bool = False,
        tried: tuple[int, float] = (1, 0.0),
    ) -> errors.ZooError:
        """Return the error of the zoo that says what happened, where, and what to do."""
        here = self.here
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if isinstance(error, errors.ZooError):
            return error
        if isinstance(error, OfflineModeIsEnabled):
            return errors.OfflineError(
                f"{here} was not asked: HF_HUB_OFFLINE forbids the network; unset it to go online"
            )
        if isinstance(error, HFValidationError):
            return errors.InvalidNameError(str(error))
        if isinstance(error, GatedRepoError):
            return errors.AccessNotGrantedError(f"{here} is gated: ask for access at {self.site}/{self.repo_id}")
        if isinstance(error, RevisionNotFoundError):
            return errors.RevisionNotFoundError(
                f"{here} has no revision {revision or 'main'!r}; {self._known_revisions()}"
            )
        if isinstance(error, RepositoryNotFoundError) or (status == 401 and self.token is None):
            return self._not_accessible(here)
        if isinstance(error, RemoteEntryNotFoundError):
            return errors.DownloadError(f"{here}: a file of the model vanished while it was downloaded; try again")
        if status == 401:
            return errors.AuthError(
                f"{here}: the token from {self.origin} was rejected; get a new one from the Hub's settings and run "
                f"`hf auth login`, or unset it to read public models"
            )
        if status == 403:
            return self._forbidden(here, writing)
        return self._unwell(error, here, status, tried, writing)

    def _not_accessible(self, here: str) -> errors.ZooError:
        if self.token is None:
            return errors.RepoNotAccessibleError(
                f"{here} is missing or private, and no token was sent: check the spelling, or log in with `hf auth "
                f"login` (or HF_TOKEN) to see private models"
            )
        return errors.RepoNotAccessibleError(
            f"{here} is missing, or private and not visible with the token from {self.origin}: check the spelling, or "
            f"use the token of a member of {self.repo_id.partition('/')[0]!r}"
        )

    def _forbidden(self, here: str, writing: bool) -> errors.ZooError:
        if not writing:
            return errors.AccessNotGrantedError(f"{here}: the token from {self.origin} may not read it; ask its owner")
        return errors.PushForbiddenError(
            f"{here}: {self._user()} may not write to the namespace {self.repo_id.partition('/')[0]!r} with the token "
            f"from {self.origin}; use a token with the scope 'write', or your own namespace"
        )

    def _user(self) -> str:
        try:
            with with_timeouts(self):
                return f"user {self.api.whoami()['name']!r}"
        except (*FAILURES, errors.ZooError):
            return "this user"

    def _known_revisions(self) -> str:
        try:
            with with_timeouts(self):
                refs = self.api.list_repo_refs(self.repo_id)
        except (*FAILURES, errors.ZooError):
            return "its revisions cannot be listed"
        tags, branches = ([shown(r.name) for r in found[:20]] for found in (refs.tags, refs.branches))
        return f"its tags are: {', '.join(tags) or 'none'}; its branches: {', '.join(branches) or 'none'}"

    def _unwell(
        self, error: Exception, here: str, status: int | None, tried: tuple[int, float], writing: bool
    ) -> errors.ZooError:
        spent = f"{tried[0]} {'try' if tried[0] == 1 else 'tries'} in {tried[1]:.0f} s"
        if status is not None:
            refused = errors.PushError if writing else errors.DownloadError
            kind = errors.HubUnavailableError if status >= 500 or status in (408, 429) else refused
            return kind(
                f"{here} answered with status {status} ({spent}); {'refused' if kind is refused else 'try later'}"
            )
        if isinstance(error, httpx.TimeoutException):
            return errors.HubUnavailableError(f"{here} does not answer ({spent}); check the network, or try later")
        if isinstance(error, httpx.TransportError):
            return errors.HubUnavailableError(
                f"{here} cannot be reached ({spent}, {type(error).__name__}); check the network, a proxy, HF_ENDPOINT, "
                f"or set HF_HUB_OFFLINE=1 to use what is cached"
            )
        cause = error.__cause__
        if isinstance(error, RuntimeError) and isinstance(cause, (*FAILURES, errors.ZooError)):
            return self.explain(cause, writing=True, tried=tried)
        return errors.HubUnavailableError(
            f"{here} does not answer as a Hub does ({type(error).__name__}): a proxy or login page in between, or a "
            f"wrong HF_ENDPOINT?"
        )


def _token(token: str | None) -> tuple[str | None, str]:
    """Return the token, and where it came from; its text goes nowhere else."""
    origin = "the argument"
    if token is None:
        token = get_token()
        named = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
        origin = "HF_TOKEN" if named else "the login file"
    if not token:
        return None, "nowhere"
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise errors.AuthError(f"the token from {origin} is no token: it holds blanks or characters beyond ASCII")
    return token, origin
