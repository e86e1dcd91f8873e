"""How long a Hub is waited for: every request has an end, slow ones and those that the client repeats included."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session, httpx

from zoo.errors import HubUnavailableError

__all__ = ["Waits", "is_transient", "pause_before", "waits", "with_timeouts"]

_BUSY = (408, 429, 500, 502, 503, 504)
_lock = threading.Lock()
_waiting: dict[int, int] = {}  # threads inside `with_timeouts`, and how often


@dataclass
class Waits:
    """How long the Hub is waited for; with these numbers every failure is told within 30 seconds.

    Args:
        timeout: seconds to connect, and between two pieces of an answer.
        tries: of one request.
        pause: seconds before the second try, doubled before each further one.
        limit: seconds of failures only, after which nothing is tried again; a pause of the client, of up to 8 seconds,
            may come on top.
        least: bytes per second, over ``timeout`` seconds, below which an answer counts as none.
    """

    timeout: float = 7.0
    tries: int = 3
    pause: float = 1.0
    limit: float = 21.0
    least: float = 1000.0


class Answering(Protocol):
    """What is asked of a `zoo.hub.session.Hub` here."""

    here: str

    def silence(self) -> float:
        """Return the seconds since it last answered well, or was first asked."""

    def record_response(self, status: int, *, good: bool) -> None:
        """Note an answer."""

    def last_status(self) -> str:
        """Return the status of the last answer, as part of a message."""


waits = Waits()
"""The setting in force; assign its fields to change it."""


def is_transient(error: BaseException) -> bool:
    """Tell whether trying again may help."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def pause_before(attempt: int, error: BaseException | None = None) -> float:
    """Return the seconds to wait after failed try number ``attempt``, as the Hub asks for, within the limit."""
    pause = waits.pause * 2 ** (attempt - 1)
    if isinstance(error, HfHubHTTPError):
        pause = max(pause, _asked_pause(error.response.headers))
    return min(pause, waits.limit / waits.tries)


@contextmanager
def with_timeouts(hub: Answering) -> Iterator[None]:
    """Give every request of the client a timeout, and an end to its own retries.

    The client has one session for all threads: each thread answers for its own requests, and for those of the threads
    that the client starts for it.
    """
    session, me = get_session(), threading.get_ident()

    def others() -> bool:
        return threading.get_ident() != me and threading.get_ident() in _waiting

    def before(request: Any) -> None:
        if others():
            return
        left = waits.limit - hub.silence()
        if left <= 0:
            raise HubUnavailableError(
                f"{hub.here} gave no usable answer within {waits.limit:.0f} s{hub.last_status()}; try later"
            )
        old, longest = request.extensions.get("timeout") or {}, min(waits.timeout, left)
        keys = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {k: min(old.get(k) or longest, longest) for k in keys}

    def after(response: Any) -> None:
        if others():
            return
        hub.record_response(response.status_code, good=response.status_code not in _BUSY)
        pause = _asked_pause(response.headers)
        if response.status_code in _BUSY and pause > waits.limit:
            raise HubUnavailableError(
                f"{hub.here} answered with status {response.status_code} (1 try) and asks for {pause:.0f} s of rest; "
                f"try again then"
            )
        response.stream = _Lively(response.stream)

    with _lock:
        _waiting[me] = _waiting.get(me, 0) + 1
        hooks = session.event_hooks
        session.event_hooks = {"request": [*hooks["request"], before], "response": [*hooks["response"], after]}
    try:
        yield
    finally:
        with _lock:
            _waiting[me] -= 1
            if not _waiting[me]:
                del _waiting[me]
            now = session.event_hooks
            session.event_hooks = {
                "request": [h for h in now["request"] if h is not before],
                "response": [h for h in now["response"] if h is not after],
            }


def _asked_pause(headers: Any) -> float:
    """Return the seconds that an answer asks to wait: ``Retry-After``, or the reset of a used-up rate limit."""
    wanted = headers.get("Retry-After", "").strip()
    limit = re.search(r";\s*r=0\s*;\s*t=(\d{1,9})\b", headers.get("RateLimit", ""))
    return float(wanted[:9]) if wanted.isascii() and wanted.isdigit() else float(limit[1]) if limit else 0.0


class _Lively(httpx.SyncByteStream):
    """The body of an answer, given up where it comes by drops: waiting counts, not what the reader does meanwhile."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[bytes]:
        waited, got, pieces = 0.0, 0, iter(self.stream)
        while True:
            started = time.monotonic()
            piece = next(pieces, None)
            if piece is None:
                return
            waited, got = waited + time.monotonic() - started, got + len(piece)
            if waited > waits.timeout:
                if got < waits.least * waited:
                    raise httpx.ReadTimeout(f"{got} bytes within {waited:.0f} s")
                waited, got = 0.0, 0
            yield piece

    def close(self) -> None:
        self.stream.close()
