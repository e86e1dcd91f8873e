"""The service over gRPC: the answers and limits of the HTTP one."""

from __future__ import annotations

import asyncio
import io
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("grpc", reason="the extra grpc is not installed")
pytest.importorskip("grpc_tools", reason="the extra grpc is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")

import grpc
from test_serve import Slow, calls, tiny_models

from zoo.serving.app import build
from zoo.serving.rpc import messages, start
from zoo.serving.service import Service
from zoo.serving.settings import Settings

SETTINGS = Settings(models=("vae-mnist",), deadline=60.0, grpc_port=0)


def talk(service: Service, scene: Any) -> Any:
    """Run a server on a free port, and a scene with a client of it."""

    async def run() -> Any:
        server = await start(service)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = messages()[1].ZooStub(channel)
            try:
                return await scene(stub, server)
            finally:
                await server.stop(5)

    return asyncio.run(run())


def test_a_hundred_seeded_requests_equal_those_of_http() -> None:
    service = Service(tiny_models(), replace(SETTINGS, queue=200))
    asked = [("images", "digits", "pixels", "text")[i % 4] for i in range(100)]

    async def scene(stub: Any, server: Any) -> list[Any]:
        requests = [messages()[0].SampleRequest(model=m, n=1 + i % 16, seed=i) for i, m in enumerate(asked)]
        return await asyncio.gather(*(stub.Sample(r, timeout=60) for r in requests))

    replies = talk(service, scene)
    posts = [("POST", f"/v1/models/{m}/sample", {"n": 1 + i % 16, "seed": i}) for i, m in enumerate(asked)]
    answers = calls(build(replace_port(service)), *posts)
    assert [r.body for r in replies] == [a.content for a in answers]
    assert [r.seed for r in replies] == list(range(100))
    service.close()


def replace_port(service: Service) -> Service:
    service.settings = replace(service.settings, grpc_port=None)
    return service


def test_refusals() -> None:
    service = Service(tiny_models(), SETTINGS, warm=False)
    wrong = [
        ({"model": "secret-canary"}, grpc.StatusCode.NOT_FOUND),
        ({"model": "images", "n": 10**6}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model": "images", "seed": 2**63}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model": "images", "labels": [1]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model": "digits", "labels": [7]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model": "images", "format": "secret-canary"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model": "images", "options_json": '{"temperature": NaN}'}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model": "images", "options_json": "[" * 20_000}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"model": "images", "options_json": "x" * 70_000}, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ]

    async def scene(stub: Any, server: Any) -> None:
        for fields, code in wrong:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Sample(messages()[0].SampleRequest(**fields), timeout=60)
            assert refused.value.code() == code, fields
            assert "canary" not in refused.value.details()

    talk(service, scene)
    service.close()


def test_texts_and_what_draws_nothing() -> None:
    import new_kinds
    import torch

    torch.manual_seed(0)
    painter = new_kinds.Painter([1, 8, 8], new_kinds.LONGEST, new_kinds.LETTERS).eval()
    patches = new_kinds.Patches([1, 8, 8]).eval()
    service = Service({"painter": painter, "patches": patches}, SETTINGS)
    ask = messages()[0].SampleRequest

    async def scene(stub: Any, server: Any) -> list[Any]:
        requests = [
            ask(model="painter", n=2, seed=3, texts=["upper row", "lower row"], format="npz"),
            ask(model="patches", n=1),
            ask(model="painter", n=1, texts=["a"], labels=[1]),
        ]
        return await asyncio.gather(*(stub.Sample(r, timeout=60) for r in requests), return_exceptions=True)

    good, *refused = talk(service, scene)
    x = torch.from_numpy(np.load(io.BytesIO(good.body))["samples"])
    assert torch.equal(x, painter.sample(2, seed=3, labels=["upper row", "lower row"]))
    assert [r.code() for r in refused] == [grpc.StatusCode.INVALID_ARGUMENT] * 2
    assert "draws no samples" in refused[0].details() and "not both" in refused[1].details()
    service.close()


class _Image(Slow):
    """A slow model of one-pixel images."""

    shape, num_classes, levels, family = (1, 1, 1), 0, None, "slow"
    generates, context, alphabet = True, (), None

    def draw(self, n: int, generator: Any, labels: Any) -> None:
        """Nothing; requests go through `sample_many`."""

    def sampling_options(self) -> dict[str, Any]:
        return {}

    def option_parameters(self) -> dict[str, Any]:
        return {}

    def sample_many(self, draws: Any, check: Any) -> Any:
        return [x.view(-1, 1, 1, 1) for x in super().sample_many(draws, check)]


def _slow(queue: int) -> tuple[_Image, Service]:
    slow = _Image()
    return slow, Service({"slow": slow}, replace(SETTINGS, queue=queue), warm=False)


def test_too_many_too_late() -> None:
    slow, service = _slow(1)

    async def scene(stub: Any, server: Any) -> None:
        request = messages()[0].SampleRequest(model="slow", seed=0)
        first = asyncio.ensure_future(stub.Sample(request, timeout=60))
        assert await asyncio.to_thread(slow.begun.wait, 60)
        waits = asyncio.ensure_future(stub.Sample(request, timeout=60))
        while service.engine.load < 1:
            await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as many:
            await stub.Sample(request, timeout=60)
        assert many.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        slow.go.set()
        assert (await first).seed == 0 and (await waits).seed == 0
        slow.go.clear()
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stub.Sample(request, timeout=0.3)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        slow.go.set()

    talk(service, scene)
    service.close()


def test_drain_ends_what_was_begun() -> None:
    slow, service = _slow(8)

    async def scene(stub: Any, server: Any) -> None:
        request = messages()[0].SampleRequest(model="slow", seed=0)
        begun = asyncio.ensure_future(stub.Sample(request, timeout=60))
        assert await asyncio.to_thread(slow.begun.wait, 60)
        stopping = asyncio.ensure_future(server.stop(30))
        await asyncio.sleep(0.1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Sample(request, timeout=5)
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        threading.Timer(0.1, slow.go.set).start()
        assert (await begun).seed == 0
        await stopping

    talk(service, scene)
    service.close()
