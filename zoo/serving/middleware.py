"""What stands before the application: who may ask, how much, how fast. Plain ASGI; it reads the whole body first."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from zoo.serving.problems import Problem, error_body
from zoo.serving.settings import same_key

__all__ = ["BODY_BYTES", "AccessControl"]

SWALLOWED_BYTES = 16 * 2**20  # read and dropped, so that the client gets the refusal and not a reset
HEAD_BYTES = 16 * 1024
BODY_BYTES, BODY_SECONDS, DEPTH = 64 * 1024, 10.0, 100
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
PAGE_PATHS = frozenset({"/", "/page.js", "/page.css"})
_PORT = re.compile(r":\d{1,5}\Z")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     b"img-src data: blob:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
     b"require-trusted-types-for 'script'"),
]  # fmt: skip

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AccessControl:
    """Check host, key, media type, size and form of a request before the application sees it.

    Args:
        app: the application.
        hostnames: which the Host header may name, lower case and without port; none for any.
        key: that must come as ``Authorization: Bearer`` or ``X-API-Key``; none for no key.
    """

    def __init__(self, app: Any, *, hostnames: frozenset[str] | None, key: bytes | None) -> None:
        self.app, self.hostnames, self.key = app, hostnames, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, bare = False, scope["method"] == "HEAD"
        if bare:  # what GET would be answered, without the body
            scope = {**scope, "method": "GET"}

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            elif bare and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            self._check_head(scope)
            body = await _body(scope, receive)
            _check_json(scope, body)
            await self.app(scope, _replay(body, receive), guarded)
        except Problem as problem:
            if not started and problem.status != 499:
                await _refuse(guarded, problem)
        except ConnectionError:
            pass

    def _check_head(self, scope: Scope) -> None:
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size + sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
            raise Problem(431, "too_large", f"the head of a request has at most {HEAD_BYTES} bytes")
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"content-length", b"authorization"):
                raise Problem(400, "bad_request", "a header that may come once came twice")
            headers[name] = value
        host = _PORT.sub("", headers.get(b"host", b"").decode("latin-1").lower())
        if self.hostnames is not None and host not in self.hostnames:
            raise Problem(421, "wrong_host", "this server does not answer under that name; see --allow-host")
        if self.key is None or scope["path"] in OPEN_PATHS | PAGE_PATHS:
            return
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", secrets.token_bytes(16))
        if not same_key(given, self.key):
            raise Problem(401, "no_key", "send the server's API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Return the body, at most `BODY_BYTES`. Raises `Problem`, and ConnectionError when the client has gone."""
    length = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
    if not length.isdigit() or len(length) > 12:
        raise Problem(400, "bad_request", "the content length is no number")
    if int(length) > SWALLOWED_BYTES:
        raise _too_large()
    try:
        return await asyncio.wait_for(_read(receive), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise Problem(408, "too_slow", f"the body must come within {BODY_SECONDS:.0f} s") from None


async def _read(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        part = message.get("body", b"")
        size += len(part)
        if size <= BODY_BYTES:
            parts.append(part)
        if size > SWALLOWED_BYTES or (size > BODY_BYTES and not message.get("more_body")):
            raise _too_large()
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large() -> Problem:
    return Problem(413, "too_large", f"a body has at most {BODY_BYTES} bytes")


def _check_json(scope: Scope, body: bytes) -> None:
    """Refuse what is no JSON object of moderate depth with finite numbers. Raises `Problem`."""
    if scope["method"] != "POST":
        return
    kind = next((v for k, v in scope["headers"] if k == b"content-type"), b"")
    if kind.partition(b";")[0].strip().lower() != b"application/json":
        raise Problem(415, "not_json", "send a JSON body with `Content-Type: application/json`")
    depth = deepest = 0
    for byte in body.translate(None, _OTHERS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > DEPTH:
        raise Problem(400, "not_json", f"the body is nested more than {DEPTH} levels deep")
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Problem(400, "not_json", "the body is no valid JSON in UTF-8 with finite numbers") from None
    if not isinstance(content, dict):
        raise Problem(422, "invalid", "the body must be a JSON object")


_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, problem: Problem) -> None:
    body = error_body(problem.code, problem.message)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
    if problem.status in (400, 408, 413, 421, 431):
        headers["connection"] = "close"  # the rest of the body, if any, is not read
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
