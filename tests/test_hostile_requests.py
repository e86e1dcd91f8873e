"""Hostile requests, in every way in: refused, in a small answer that repeats nothing of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

import serving
from hostile_requests import BIDI, CASES, FORWARDED, OPEN, WIRE, Answer, Case, Connection, fault
from test_serve import tiny_models

from zoo.serving import middleware, protocol
from zoo.serving.app import build
from zoo.serving.service import Service
from zoo.serving.settings import Settings

KEY = "correct horse battery"
WRONG_KEYS: list[dict[str, str]] = [
    {}, {"authorization": "Bearer secret-canary-and-more"}, {"authorization": "Basic Y29ycmVjdA=="},
    {"x-api-key": "é" * 20}, {"x-api-key": ""}, {"authorization": f"Bearer {KEY}x"}, {"authorization": KEY},
]  # fmt: skip


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    made = Service(tiny_models(), Settings(models=("vae-mnist",), deadline=60.0, queue=400))
    yield made
    made.close()


@pytest.fixture(scope="module")
def port(service: Service) -> Iterator[int]:
    with serving.listening(build(service)) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the same models behind a key."""
    file = tmp_path_factory.mktemp("key") / "key"
    file.write_text(KEY)
    settings, service.settings = service.settings, replace(service.settings, key_file=str(file))
    app = build(service)
    service.settings = settings
    with serving.listening(app) as found:
        yield found


def send_all(port: int, headers: dict[str, str], right: Any = lambda case: case.right) -> None:
    """Send all cases one after the other, over one connection as long as it is kept, and hold the answers to them."""
    connection, faults = Connection(port), {}
    for case in CASES:
        head_only = case.method == "HEAD"
        try:
            answer = connection.ask(case.message(headers), head_only)
        except TimeoutError:
            answer = Answer(-1, {}, b"no answer")
        if found := fault(answer, right(case), head_only):
            faults[f"{case.method} {case.path} {str(case.body)[:80]} {str(case.headers)[:40]}"] = found
    assert connection.ask(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").status == 200
    connection.close()
    print(f"{len(CASES)} requests, {len(faults)} not answered as they should be")
    assert not faults


def _healthy(port: int) -> None:
    with contextlib.closing(Connection(port)) as connection:
        assert connection.ask(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").status == 200


def send_wire(port: int, proxy: bool = False) -> None:
    """Send what is hardly HTTP, each on a connection of its own, and hold the answers to it."""
    faults = {}
    for name, (message, right) in WIRE.items():
        connection = Connection(port)
        try:
            answer = connection.ask(message)
        except TimeoutError:
            answer = Answer(-1, {}, b"no answer")
        connection.close()
        if found := fault(answer, (*right, 408) if proxy else right, proxy=proxy):
            faults[name] = found
    _healthy(port)
    print(f"{len(WIRE)} messages that are hardly HTTP, {len(faults)} not answered as they should be")
    assert not faults


def test_cases_are_many() -> None:
    assert len(CASES) >= 102 and len(WIRE) >= 30


@pytest.mark.parametrize("headers", [{}, FORWARDED], ids=["plain", "forwarded"])
def test_over_http(port: int, headers: dict[str, str]) -> None:
    send_all(port, headers)


def test_what_is_hardly_http(port: int) -> None:
    send_wire(port)


@pytest.mark.parametrize("header", [{"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}], ids=["bearer", "own"])
def test_with_the_api_key(guarded: int, header: dict[str, str]) -> None:
    send_all(guarded, header)


@pytest.mark.parametrize("header", WRONG_KEYS[:2] + [pytest.param(k, marks=pytest.mark.slow) for k in WRONG_KEYS[2:]])
def test_without_the_api_key(guarded: int, header: dict[str, str]) -> None:
    """Nothing but the page and the two questions after its health is answered."""
    send_all(guarded, header, lambda case: case.right if case.where in OPEN else (400, 401, 421, 431))


@pytest.fixture(scope="module")
def proxied(port: int) -> Iterator[int]:
    if serving.haproxy() is None:
        pytest.skip("HAProxy is not installed")
    proxy = serving.Proxy(port)
    yield proxy.port
    proxy.stop()


@pytest.mark.parametrize("headers", [{}, pytest.param(FORWARDED, marks=pytest.mark.slow)], ids=["plain", "forwarded"])
def test_through_the_proxy(proxied: int, headers: dict[str, str]) -> None:
    def right(case: Case) -> tuple[int, ...]:
        """The stamp is the proxy's, whatever the client said."""
        return (200,) if "x-zoo-deadline" in case.headers else case.right

    send_all(proxied, headers, right)


@pytest.mark.slow
def test_what_is_hardly_http_through_the_proxy(proxied: int) -> None:
    send_wire(proxied, proxy=True)


def test_an_answer_to_head_is_that_to_get_without_its_body(port: int) -> None:
    connection = Connection(port)
    for path in ("/", "/page.js", "/healthz", "/v1/models", "/v1/models/images", "/openapi.json", "/nothing"):
        message = f" {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        whole, head = connection.ask(b"GET" + message), connection.ask(b"HEAD" + message, head_only=True)
        dated = ("date", "server")
        assert whole.status == head.status and len(whole.body) == int(whole.headers["content-length"])
        assert {k: v for k, v in whole.headers.items() if k not in dated} == {
            k: v for k, v in head.headers.items() if k not in dated
        }
    connection.close()


def test_requests_at_once_on_one_connection_are_answered_in_order(port: int) -> None:
    connection = Connection(port)
    get, head = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n"
    post = Case("images/sample", {"n": 1, "seed": 0}).message({})
    assert connection.ask(head + get + post + get, head_only=True).status == 200
    answers = [connection.ask(b"") for _ in range(3)]
    assert [a.status for a in answers] == [200] * 3 and answers[0].body == answers[2].body == b"ok\n"
    assert json.loads(answers[1].body)["seed"] == 0
    connection.close()


def test_heads_and_bodies_that_never_end_are_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.3)
    begun = Case("images/sample", {"n": 1}).message({}).replace(b"content-length: 8", b"content-length: 9")
    for message, right in ((b"GET /healthz HTTP/1.1\r\nhost: loc", 0), (begun, 408)):
        with contextlib.closing(Connection(port)) as connection:
            assert fault(connection.ask(message), (right,)) is None


# -- gRPC -------------------------------------------------------------------------------------------------------------

REFUSED = {"NOT_FOUND", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}


def as_message(case: Case) -> Any:
    """Return a case as a message of gRPC; what its fields cannot hold goes as options. None where it says nothing."""
    from zoo.serving.rpc import messages

    kind = messages()[0].SampleRequest
    model, _, what = case.path.partition("/")
    if what != "sample" or case.headers or case.method != "POST":
        return None
    if isinstance(case.body, bytes):
        text = case.body.decode("latin-1")
        inner = text.removeprefix('{"options": ').removesuffix("}") if text.startswith('{"options": ') else text
        return kind(model=model, options_json=inner) if inner else None
    fields = dict(case.body)
    options = {"options_json": json.dumps(fields.pop("options"))} if "options" in fields else {}
    if fields.get("n") == 0 and type(fields["n"]) is int:
        return None  # that is one
    if isinstance(fields.get("labels"), int):
        fields["labels"] = [fields["labels"]]
    if all(type(v) is (str if k == "format" else list if k == "labels" and v else int) for k, v in fields.items()):
        with contextlib.suppress(ValueError, TypeError):
            return kind(model=model, **fields, **options)
    return kind(model=model, options_json=case.raw.decode())


@pytest.mark.parametrize("key", [None, KEY, "secret-canary-and-more"], ids=["open", "key", "wrong key"])
def test_over_grpc(service: Service, tmp_path: Path, key: str | None) -> None:
    grpc = pytest.importorskip("grpc", reason="the extra grpc is not installed")
    pytest.importorskip("grpc_tools", reason="the extra grpc is not installed")
    from test_serve_grpc import talk

    sent = [message for message in map(as_message, CASES) if message is not None]
    fine = {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"} if key not in (None, KEY) else REFUSED
    file = tmp_path / "key"
    file.write_text(KEY)

    async def scene(stub: Any, server: Any) -> list[str]:
        faults = []
        for one in sent:
            try:
                await stub.Sample(one, timeout=60, metadata=(("x-api-key", key),) if key else None)
                faults.append(f"taken: {str(one)[:200]}")
            except grpc.aio.AioRpcError as error:
                details = error.details() or ""
                if error.code().name not in fine or "canary" in details or any(c in details for c in BIDI[:2] + "<"):
                    faults.append(f"{error.code().name}: {details[:200]}")
        return faults

    before = service.settings
    service.settings = replace(before, grpc_port=0, key_file=str(file) if key else None)
    try:
        faults = talk(service, scene)
    finally:
        service.settings = before
    print(f"{len(sent)} of {len(CASES)} requests can be said over gRPC, {len(faults)} not refused as they should be")
    assert len(sent) >= 80 and not faults
