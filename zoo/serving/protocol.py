"""HTTP/1.1 as uvicorn speaks it, with three additions.

- Head and body of an answer leave in one write, so that a worker that is killed has sent all of a small answer or none
  of it: a proxy may then repeat the request.
- The head of a request is at most 32 KiB and comes within ten seconds.
- The end of a connection whose request's head was read waits for the answer, as in uvicorn.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HTTPProtocol"]

HEAD_BYTES, HEAD_SECONDS = 32 * 1024, 10.0


class _Joined:
    """A transport that holds the head of an answer until the first piece of its body."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""

    def write(self, data: bytes) -> None:
        if not self._head and data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
            if data.endswith(b"\r\n\r\n"):  # the body follows
                return
            data = b""
        self._transport.write(self._head + data)
        self._head = b""

    def close(self) -> None:
        if self._head:
            self.write(b"")
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class HTTPProtocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joined(transport))  # type: ignore[arg-type]
        self._head_bytes, self._timer = 0, None

    def data_received(self, data: bytes) -> None:
        if self._reading_head():
            self._head_bytes += len(data)
            if self._timer is None:
                self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)
        super().data_received(data)
        if self._reading_head() and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n")
            self.transport.write(b"content-length: 0\r\n\r\n")
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._head_done()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        super().connection_lost(exc)

    def _reading_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _head_done(self) -> None:
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self._reading_head() and not self.transport.is_closing():
            self.transport.close()
