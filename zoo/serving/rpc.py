"""The sampling service over gRPC: the same engine, the same limits, other words for refusals.

The message classes are made from ``zoo.proto`` when the server starts; nothing generated is kept.
"""

from __future__ import annotations

import asyncio
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zoo.errors import ConfigError
from zoo.serving.middleware import BODY_BYTES, DEPTH
from zoo.serving.problems import Problem
from zoo.serving.request_types import draw_of, sample_type
from zoo.serving.response_bodies import MEDIA_TYPES, encoded
from zoo.serving.service import Service
from zoo.serving.settings import key_from, same_key

__all__ = ["messages", "start"]

_CODES = {
    401: "UNAUTHENTICATED", 404: "NOT_FOUND", 413: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT",
    499: "CANCELLED", 500: "INTERNAL", 503: "RESOURCE_EXHAUSTED", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


@lru_cache(maxsize=1)
def messages() -> tuple[Any, Any]:
    """Return the modules of messages and of services. Raises `ConfigError` where the extra ``grpc`` is missing."""
    try:
        import grpc
        import grpc_tools  # noqa: F401  # finds the compiler, which grpc runs in process
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is missing: install the extra, `pip install 'generative-zoo[grpc]'`"
        ) from error
    import sys

    folder = str(Path(__file__).parent)
    sys.path.append(folder)
    try:
        return grpc.protos_and_services("zoo.proto")
    finally:
        sys.path.remove(folder)


class _Zoo:
    """The service's methods."""

    def __init__(self, service: Service) -> None:
        self.service, self.key = service, key_from(service.settings.key_file)
        most = service.settings.max_images
        drawn = {name: s.model for name, s in service.served.items() if s.model.generates}
        self.types = {name: sample_type(name, model, most) for name, model in drawn.items()}

    async def Sample(self, request: Any, context: Any) -> Any:
        start = time.perf_counter()
        name = request.model if request.model in self.service.served else "?"
        status = 200
        try:
            self._check(context)
            return await self._sample(request, context)
        except Problem as problem:
            status = problem.status
            await _refuse(context, problem)
        finally:
            self.service.meters.answered("grpc", name, status, time.perf_counter() - start)

    async def ListModels(self, request: Any, context: Any) -> Any:
        try:
            self._check(context)
        except Problem as problem:
            await _refuse(context, problem)
        models = [self.service.describe(name) for name in self.service.served]
        return messages()[0].ListModelsReply(json=json.dumps({"models": models}))

    def _check(self, context: Any) -> None:
        if self.key is None:
            return
        given = dict(context.invocation_metadata() or ()).get("x-api-key", "")
        if not same_key(given if isinstance(given, bytes) else given.encode(), self.key):
            raise Problem(401, "no_key", "send the server's API key as the metadata x-api-key")

    async def _sample(self, request: Any, context: Any) -> Any:
        kind = self.types.get(request.model)
        if kind is None and request.model in self.service.served:
            raise Problem(422, "refused", "this model draws no samples; ask for its features over HTTP")
        if kind is None:
            raise Problem(404, "not_found", "no such model is served; call ListModels")
        question = _question(kind, request)
        model = self.service.served[request.model].model
        draw = draw_of(question, model)
        remaining = context.time_remaining()
        deadline = self.service.deadline(None)
        if remaining is not None:
            deadline = min(deadline, time.monotonic() + remaining)
        gone = asyncio.get_running_loop().create_future()
        context.add_done_callback(lambda _: gone.done() or gone.set_result(None))
        x = await self.service.sample(request.model, draw, deadline, gone)
        body = await asyncio.to_thread(encoded, model, request.model, x, draw.seed, question.format)
        return messages()[0].SampleReply(body=body, media_type=MEDIA_TYPES[question.format], seed=draw.seed)


def _question(kind: Any, request: Any) -> Any:
    """Return the request in the form that HTTP's has, checked as that is. Raises `Problem`."""
    content: dict[str, Any] = {"n": request.n or 1}
    if request.HasField("seed"):
        content["seed"] = request.seed
    labels = list(request.labels) or list(request.texts)
    if request.labels and request.texts:
        raise Problem(422, "invalid", "send labels or texts, not both")
    if labels:
        content["labels"] = labels[0] if len(labels) == 1 else labels
    if request.format:
        content["format"] = request.format
    if request.options_json:
        if request.options_json.count("[") + request.options_json.count("{") > DEPTH:
            raise Problem(422, "invalid", "options_json is nested too deeply")
        try:
            content["options"] = json.loads(request.options_json)
        except (ValueError, RecursionError):
            raise Problem(422, "invalid", "options_json is no JSON") from None
    try:
        return kind.model_validate(content)
    except ValidationError:
        raise Problem(422, "invalid", "a field has a wrong value; ListModels says what the model takes") from None


async def _refuse(context: Any, problem: Problem) -> None:
    import grpc

    code = getattr(grpc.StatusCode, _CODES.get(problem.status, "INVALID_ARGUMENT"))
    await context.abort(code, problem.message, tuple(problem.headers.items()))


async def start(service: Service) -> Any:
    """Return a running server on the port of the settings, which several workers may share. Raises `ConfigError`."""
    services = messages()[1]
    import grpc

    limits = [("grpc.max_receive_message_length", BODY_BYTES), ("grpc.so_reuseport", 1)]
    server = grpc.aio.server(options=limits, maximum_concurrent_rpcs=service.settings.queue + 20)
    services.add_ZooServicer_to_server(_Zoo(service), server)
    host = service.settings.host
    port = server.add_insecure_port(f"{host}:{service.settings.grpc_port}")
    if not port:
        raise ConfigError(f"gRPC cannot listen on port {service.settings.grpc_port}")
    await server.start()
    server.port = port
    return server
