"""Talking to a Hub: where it is, with which token, how long to wait, and one clear error for each way it can fail."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from huggingface_hub.utils import build_hf_headers, get_session, httpx

import zoo
from zoo import errors

__all__ = ["Hub", "Waits", "cache_folder", "offline", "waits"]

log = logging.getLogger("zoo.hub")
T = TypeVar("T")

FAILURES = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, KeyError, TypeError, RuntimeError)
"""What the client raises, transport errors and malformed answers included."""


@dataclass
class Waits:
    """How long the Hub is waited for.

    Args:
        timeout: seconds to connect, and between two pieces of an answer.
        tries: of one request.
        pause: seconds before the second try, doubled before each further one.
        limit: seconds without any answer that is no error, after which an upload is given up.
    """

    timeout: float = 8.0
    tries: int = 3
    pause: float = 1.0
    limit: float = 25.0


waits = Waits()
"""The setting in force; assign its fields to change it."""


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
    """

    def __init__(self, repo_id: str, *, token: str | None = None, endpoint: str | None = None) -> None:
        self.repo_id = repo_id
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.token, self.origin = _token(token)
        self.api = HfApi(
            self.endpoint, token=self.token or False, library_name="generative-zoo", library_version=zoo.__version__
        )

    def headers(self) -> dict[str, str]:
        """Return the headers of a request, the token among them."""
        return build_hf_headers(
            token=self.token or False, library_name="generative-zoo", library_version=zoo.__version__
        )

    def call(self, action: Callable[[], T], *, revision: str | None = None, writing: bool = False) -> T:
        """Return ``action()``, tried again while the Hub is unwell, every failure as one error of the zoo."""
        started = time.monotonic()
        for attempt in range(1, waits.tries + 1):
            try:
                with patient(self):
                    return action()
            except FAILURES as error:
                if not passing(error) or attempt == waits.tries:
                    tried = (attempt, time.monotonic() - started)
                    raise self.explain(error, revision=revision, writing=writing, tried=tried) from error
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
        here = f"{self.repo_id} on {self.endpoint}"
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
            return errors.AccessNotGrantedError(f"{here} is gated: ask for access at {self.endpoint}/{self.repo_id}")
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
        return self._unwell(error, here, status, tried)

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
            with patient(self):
                return f"user {self.api.whoami()['name']!r}"
        except (*FAILURES, errors.ZooError):
            return "this user"

    def _known_revisions(self) -> str:
        try:
            with patient(self):
                refs = self.api.list_repo_refs(self.repo_id)
        except (*FAILURES, errors.ZooError):
            return "its revisions cannot be listed"
        tags, branches = ([str(r.name) for r in found[:20]] for found in (refs.tags, refs.branches))
        return f"its tags are: {', '.join(tags) or 'none'}; its branches: {', '.join(branches) or 'none'}"

    def _unwell(self, error: Exception, here: str, status: int | None, tried: tuple[int, float]) -> errors.ZooError:
        spent = f"{tried[0]} {'try' if tried[0] == 1 else 'tries'} in {tried[1]:.0f} s"
        if status is not None:
            kind = errors.HubUnavailableError if status >= 500 or status in (408, 429) else errors.PushError
            return kind(
                f"{here} answered with status {status} ({spent}); {'try later' if status >= 429 else 'refused'}"
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


def passing(error: BaseException) -> bool:
    """Tell whether trying again may help."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429, 500, 502, 503, 504)
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def pause_before(attempt: int, error: BaseException | None = None) -> float:
    """Return the seconds to wait after failed try number ``attempt``, as the Hub asks for, within the limit."""
    pause = waits.pause * 2 ** (attempt - 1)
    if isinstance(error, HfHubHTTPError) and error.response.headers.get("Retry-After", "").isdigit():
        pause = max(pause, int(error.response.headers["Retry-After"]))
    return min(pause, waits.limit / waits.tries)


@contextmanager
def patient(hub: Hub) -> Iterator[None]:
    """Give every request of the client a timeout, and an end to its own retries."""
    session, answered = get_session(), [time.monotonic()]

    def before(request: Any) -> None:
        if time.monotonic() - answered[0] > waits.limit:
            raise errors.HubUnavailableError(
                f"{hub.repo_id} on {hub.endpoint} gave no usable answer within {waits.limit:.0f} s; try later"
            )
        old = request.extensions.get("timeout") or {}
        keys = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {k: min(old.get(k) or waits.timeout, waits.timeout) for k in keys}

    def after(response: Any) -> None:
        if response.status_code < 500 and response.status_code not in (408, 429):
            answered[0] = time.monotonic()

    hooks = session.event_hooks
    session.event_hooks = {"request": [*hooks["request"], before], "response": [*hooks["response"], after]}
    try:
        yield
    finally:
        now = session.event_hooks
        session.event_hooks = {
            "request": [h for h in now["request"] if h is not before],
            "response": [h for h in now["response"] if h is not after],
        }


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
