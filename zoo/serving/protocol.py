"""HTTP/1.1 as uvicorn speaks it, with four additions.

- Head and body of an answer leave in one write, so that a worker that is killed has sent all of a small answer or none
  of it: a proxy may then repeat the request. An answer without a body leaves when it is complete.
- What is no HTTP is refused in the words of every other refusal.
- The head of a request is at most 32 KiB and comes within ten seconds.
- The end of a connection whose request's head was read waits for the answer, as in uvicorn.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from zoo.serving.problems import error_body

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

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
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
            self._refuse(431, "too_large", f"the head of a request has at most {HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        self._head_done()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        if not self.transport.is_closing():
            self.transport.flush()  # type: ignore[attr-defined]  # HEAD: no body follows
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", "this is no request that HTTP/1.1 knows")

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = error_body(code, message)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

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
