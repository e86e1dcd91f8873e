"""Hostile requests as data, and a client that sends them as they are: over HTTP, with keys, through a proxy, by gRPC.

A `Case` is a request that is well formed as HTTP; `WIRE` holds bytes that are not, or hardly. Every one of them has to
end in a small refusal that repeats nothing of it, or in the statuses that it says.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

__all__ = ["BIDI", "CASES", "FORWARDED", "OPEN", "SCRIPT", "SECRET", "WIRE", "Answer", "Case", "Connection", "fault"]


class Case(NamedTuple):
    """A request.

    Attributes:
        path: below ``/v1/models/``, or from the root where it begins with a slash.
        body: JSON data, or bytes as they are.
        headers: beside Host, Content-Type and Content-Length, or in their place.
        right: the statuses that are right; 0 for a connection that ends without an answer.
    """

    path: str
    body: Any = b""
    headers: dict[str, str] = {}
    right: tuple[int, ...] = (400, 413, 422)
    method: str = "POST"

    @property
    def where(self) -> str:
        return self.path if self.path.startswith("/") else f"/v1/models/{self.path}"

    @property
    def raw(self) -> bytes:
        """The body as it is sent."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    def message(self, more: dict[str, str]) -> bytes:
        """Return the whole request as HTTP/1.1, with further headers."""
        headers = {"host": "localhost", "content-type": "application/json", **more, **self.headers}
        lines = [f"{self.method} {self.where} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        if self.raw or self.method == "POST":
            lines.append(f"content-length: {len(self.raw)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.raw


I, D, T, X, L = "images/sample", "digits/sample", "text/sample", "pixels/sample", "images/log_prob"
SECRET = "secret-canary"
BIDI = "\u202e\u2066gpj.exe\u2069"
SCRIPT = "<script>alert('secret-canary')</script>"
OPEN = ("/", "/page.js", "/page.css", "/healthz", "/readyz")
"""Paths that want no key."""

FORWARDED = {
    "x-forwarded-for": "127.0.0.1, 10.0.0.1", "x-forwarded-host": "evil.example", "x-forwarded-proto": "https",
    "x-forwarded-prefix": "/secret-canary", "forwarded": "for=_secret-canary;host=evil.example", "x-real-ip": "::1",
}  # fmt: skip
"""What a client says of proxies that it did not come through."""


def _odd(path: str, field: str, values: list[Any], inside: str | None = None) -> list[Case]:
    return [Case(path, {inside: {field: v}} if inside else {field: v}) for v in values]


CASES: list[Case] = [
    # numbers
    *_odd(I, "n", [-1, 0, 1e9, 10**9, 2.5, True, "5", [1], {}, 2**63, -(2**63), "NaN", 65]),
    *_odd(I, "seed", [-1, 2**63, 2**64, "0", 1.5, True, [], {"a": 1}]),
    *[Case(I, b'{"n": ' + n + b"}") for n in (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"9" * 5000, b"0x10")],
    *[Case(I, b'{"options": {"temperature": ' + raw + b"}}") for raw in (b"NaN", b"1e400", b"1e999", b"-1e999")],
    *_odd(I, "temperature", [1e7, "1", [1], {}], "options"),
    *_odd(I, "scale", [0, 5, -1, 1.5, "2"]),
    # names that are not there
    *[Case(I, {name: 1}) for name in (SECRET, "__class__", "options.temperature", BIDI, SCRIPT, "")],
    *[Case(I, {"options": {name: 1}}) for name in (SECRET, "observe", "cached", "compiled", "self", "__init__", BIDI)],
    *_odd(I, "format", [SECRET, "exe", "PNG", 1, None, ["png"], "png\x00", BIDI]),
    *_odd(I, "options", [1, [], "x", SCRIPT]),
    Case(I, {"labels": 1}), Case(I, {"options": {"observe": SECRET}}),
    # labels
    *_odd(D, "labels", [99, -1, 3, "0", 1.0, [], [[0]], {"a": 0}]),
    Case(D, {"n": 2, "labels": [1, 1, 1]}), Case(D, {"n": 3, "labels": [0, 1, 99]}),
    # text
    *_odd(T, "prompt", [SECRET, "a" * 10_001, 5, ["a"], BIDI, SCRIPT, "\x00"], "options"),
    *_odd(T, "length", [10**6, -3, 0, 2.5, "4"], "options"),
    *_odd(T, "top_p", [7.0, -0.5], "options"), *_odd(X, "top_k", [-1, 1.5], "options"),
    # what is no JSON, or too much of it
    Case(I, b""), Case(I, b"5"), Case(I, b"[]"), Case(I, b"null"), Case(I, b"\xff\xfe{}"), Case(I, b"secret-canary"),
    Case(I, b"{" * 50), Case(I, b'{"n": 1'), Case(I, b"[" * 50_000), Case(I, b"[" * 100_000),
    Case(I, b'{"a":' * 300 + b"1" + b"}" * 300), Case(I, b"x" * 5_000_000), Case(I, b'{"n": 1, "n": -1}'),
    Case(I, b'{"n": 1}' + b" " * 70_000), Case(I, b'\xef\xbb\xbf{"n": -1}'),
    # images
    Case(L, {}), Case(L, {"pixels": []}), Case(L, {"pixels": [[[[256] * 4] * 4]]}),
    Case(L, {"pixels": [[[[0] * 3] * 4]]}),
    Case(L, {"pixels": [[[[0] * 4] * 4]], "k": 0}), Case(L, {"pixels": [[[[0] * 4] * 4]], "k": 10**9}),
    Case(L, {"images": ["secret-canary"]}), Case(L, {"images": ["AAAA"]}), Case(L, {"images": ["A" * 60_001]}),
    Case(X, {"options": {"given": "AAAA"}}), Case(X, {"options": {"given": SCRIPT}}),
    # where nothing is, and heads
    Case(f"{SECRET}/sample", {"n": 1}, right=(404,)), Case("../../etc/passwd", {"n": 1}, right=(404, 405)),
    Case("images%2Fsample", {"n": 1}, right=(200, 404, 405)), Case("sound/log_prob", {"n": 1}, right=(404,)),
    Case("%00%ff%0d%0aX:%20secret-canary", {"n": 1}, right=(404, 405)), Case(f"?{SECRET}", {"n": 1}, right=(404, 405)),
    Case(I, {"n": 1}, {"content-type": "text/plain"}, (415,)), Case(I, {"n": 1}, {"content-type": ""}, (415,)),
    Case(I, {"n": 1}, {"host": "evil.example"}, (421,)), Case(I, {"n": 1}, {"host": ""}, (400, 421)),
    Case(I, {"n": 1}, {"host": "localhost.evil.example"}, (421,)),
    Case(I, {"n": 1}, {"host": "localhost:99999999"}, (421,)),
    Case(I, {"n": 1}, {"x-zoo-deadline": "soon"}, (400,)), Case(I, {"n": 1}, {"x-zoo-deadline": "1000"}, (504,)),
    Case(I, {"n": 1}, {"x-zoo-deadline": "9" * 400}, (400,)), Case(I, {"n": 1}, {"x-huge": "x" * 20_000}, (431,)),
    Case(I, {"n": 1}, {"x-huge": "x" * 60_000}, (431,)),
    # other methods, with a body or without
    Case("/", {"n": 1}, right=(200,), method="HEAD"), Case("/", right=(200,), method="HEAD"),
    Case("/v1/models", b"x" * 5000, right=(200,), method="HEAD"), Case(I, {"n": 1}, right=(405,), method="HEAD"),
    Case(I, b"x" * 70_000, right=(413,), method="HEAD"), Case(SECRET, {"n": 1}, right=(404,), method="HEAD"),
    Case("/", {"n": 1}, {"host": "evil.example"}, (421,), "HEAD"),
    Case("/healthz", b"\xff", right=(200,), method="GET"),
    *[Case(I, {"n": 1}, right=(405,), method=m) for m in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")],
    Case(I, {"n": 1}, right=(400, 405), method="BREW"), Case(I, {"n": 1}, right=(400, 405), method="post"),
]  # fmt: skip

_GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
_POST = b"POST /v1/models/images/sample HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
_TAKEN = (200, 400)  # one part of the way reads it more kindly than the other

WIRE: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 60 + b"\r\n\r\n", (0, 400)),
    "HTTP/2 without asking": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (0, 400, 405, 505)),
    "a version that is none": (b"GET /healthz HTTP/9.9\r\nhost: localhost\r\n\r\n", (*_TAKEN, 505)),
    "no version": (b"GET /healthz\r\n\r\n", (0, 400, 421)),
    "no request": (b"secret-canary\r\n\r\n", (400,)),
    "zeros": (b"\0" * 100 + b"\r\n\r\n", (0, 400)),
    "no target": (b"GET HTTP/1.1\r\nhost: localhost\r\n\r\n", (400, 404)),
    "a target that is no text": (b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n", (400, 404)),
    "a target elsewhere": (
        b"GET http://evil.example/secret-canary HTTP/1.1\r\nhost: localhost\r\n\r\n", (400, 404, 421),
    ),
    "a tunnel": (b"CONNECT evil.example:80 HTTP/1.1\r\nhost: localhost\r\n\r\n", (400, 404, 405, 421)),
    "all": (b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n", (400, 404, 405)),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", (400, 421)),
    "two hosts": (_GET + b"host: evil.example\r\n\r\n", (400,)),
    "two lengths": (_POST + b"content-length: 8\r\ncontent-length: 4\r\n\r\n" + b'{"n": 1}', (400,)),
    "length below zero": (_POST + b"content-length: -1\r\n\r\n", (400,)),
    "length with a sign": (_POST + b"content-length: +8\r\n\r\n" + b'{"n": 1}', (400,)),
    "length in another base": (_POST + b"content-length: 0x8\r\n\r\n" + b'{"n": 1}', (400,)),
    "length without end": (_POST + b"content-length: " + b"9" * 60 + b"\r\n\r\n", (400, 413)),
    "length of a gigabyte": (_POST + b"content-length: 1000000000\r\n\r\n", (413,)),
    "length and chunks": (
        _POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n8\r\n" + b'{"n": 1}' + b"\r\n0\r\n\r\n", _TAKEN
    ),
    "chunks of no size": (_POST + b"transfer-encoding: chunked\r\n\r\nsecret-canary\r\n", (400,)),
    "a chunk of 2**80": (_POST + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n", (400, 413)),
    "an encoding that is none": (_POST + b"transfer-encoding: secret-canary\r\n\r\n", (400, 422, 501)),
    "a zero in a header": (_GET + b"x-a: \0\r\n\r\n", (400,)),
    "a space before the colon": (_GET + b"x-a : b\r\n\r\n", (400,)),
    "a header without a colon": (_GET + b"secret-canary\r\n\r\n", (400,)),
    "a folded header": (_GET + b"x-a: b\r\n c\r\n\r\n", _TAKEN),
    "a line that ends early": (b"GET /healthz HTTP/1.1\nhost: localhost\n\n", (0, *_TAKEN)),
    "many headers": (_GET + b"".join(b"x-%d: y\r\n" % i for i in range(3000)) + b"\r\n", (400, 431)),
    "a web socket": (
        _GET + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", (200, 400, 426),
    ),
    "HTTP/2 by asking": (
        _GET + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n\r\n", _TAKEN
    ),
    "an expectation": (_POST + b"expect: secret-canary\r\ncontent-length: 2\r\n\r\n{}", (200, 417)),
}  # fmt: skip


class Answer(NamedTuple):
    """An answer; status 0 where there was none."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection to this machine, made anew where the other side has closed it."""

    def __init__(self, port: int, patience: float = 60.0) -> None:
        self.port, self.patience = port, patience
        self.socket: socket.socket | None = None
        self.left = b""

    def ask(self, message: bytes, head_only: bool = False) -> Answer:
        """Send bytes and return the answer. Raises TimeoutError where none comes though the connection stays."""
        if self.socket is None:
            self.socket, self.left = socket.create_connection(("127.0.0.1", self.port), self.patience), b""
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before it was all sent
                self.socket.sendall(message)
            answer = self._answer(head_only)
        except BaseException:
            self.close()
            raise
        if answer.status == 0 or "close" in answer.headers.get("connection", ""):
            self.close()
        return answer

    def _answer(self, head_only: bool) -> Answer:
        while True:
            head = self._until(b"\r\n\r\n")
            if head is None:
                return Answer(0, {}, b"")
            first, *lines = head.decode("latin-1").split("\r\n")
            status = int(first.split(" ")[1])
            if status >= 200:
                break
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
        length = 0 if head_only else int(headers.get("content-length", 0))
        while len(self.left) < length and (part := self._part()):
            self.left += part
        body, self.left = self.left[:length], self.left[length:]
        return Answer(status, headers, body)

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self.left:
            part = self._part()
            if not part:
                return None
            self.left += part
        head, _, self.left = self.left.partition(mark)
        return head

    def _part(self) -> bytes:
        try:
            return self.socket.recv(65536) if self.socket is not None else b""
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
        self.socket = None


PROXY = b"<html><body><h1>"
"""How HAProxy begins what it says of a message that it cannot read at all."""


def fault(answer: Answer, right: Iterable[int], head_only: bool = False, proxy: bool = False) -> str | None:
    """Return what is wrong with an answer, None where it is as it should be.

    Args:
        answer: what came.
        right: the statuses that are right.
        head_only: the request was HEAD.
        proxy: the answer may be a page of the proxy's own.
    """
    status, _, body = answer
    if status not in right:
        return f"{status}: {body[:200]!r}"
    if status in (0, 200) or head_only:
        return "a body that HEAD does not have" if head_only and body else None
    text = body.decode("utf-8", "replace")
    if proxy and body.startswith(PROXY):
        return "it repeats what was sent" if "canary" in text or len(body) > 300 else None
    if len(body) > 4096 or "canary" in text or any(c in text for c in BIDI[:2] + "<>"):
        return f"it repeats what was sent, or more: {text[:200]}"
    try:
        return None if json.loads(body)["error"]["message"] else "it says nothing"
    except (ValueError, KeyError, TypeError):
        return f"no refusal in the form of the others: {text[:200]}"
