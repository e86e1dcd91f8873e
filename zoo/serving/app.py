"""The HTTP application of one worker process."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from zoo import __version__
from zoo.errors import ZooError
from zoo.media import medium
from zoo.serving.middleware import AccessControl
from zoo.serving.problems import Problem, error_body
from zoo.serving.request_types import (
    FORMATS,
    draw_of,
    examples_type,
    gives_energies,
    gives_features,
    sample_type,
    scores,
)
from zoo.serving.response_bodies import MEDIA_TYPES, encoded
from zoo.serving.service import Service, load_models
from zoo.serving.settings import Settings, key_from

__all__ = ["application", "build"]

_ERROR = {
    "application/json": {"schema": {"$ref": "#/components/schemas/Error"}},
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": _ERROR}
    for status, text in {
        400: "no valid request", 401: "no API key", 408: "body too slow", 413: "body too large", 415: "not JSON",
        421: "wrong Host", 422: "refused: wrong values, or dearer than the deadline",
        503: "too many requests wait; see Retry-After", 504: "not done by the deadline",
    }.items()
}  # fmt: skip
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "details": {"type": "array"}},
        }
    },
}


def application() -> Any:
    """Return the application of this worker, its models loaded; uvicorn calls this. Ends the process on user errors."""
    _end_with_parent()
    try:
        settings = Settings.from_environment()
        service = Service(load_models(settings), settings)
    except ZooError as error:
        sys.stderr.write(f"zoo: error: {' '.join(str(error).split())}\n")
        sys.exit(3)  # uvicorn's code for "do not try again"
    return build(service)


def _end_with_parent() -> None:
    """Ask the system to end this worker when the process that supervises it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def build(service: Service, *, check_host: bool = True) -> Any:
    """Return the ASGI application over loaded models.

    Args:
        service: models and limits.
        check_host: whether only known names are answered; a server that others stand before leaves that to them.
    """
    settings = service.settings

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        rpc = None
        if settings.grpc_port is not None:
            from zoo.serving.rpc import start

            rpc = await start(service)
        service.meters.ready.set(1)
        yield
        service.meters.ready.set(0)
        if rpc is not None:
            await rpc.stop(settings.deadline)
        service.close()

    app = FastAPI(
        title="generative-zoo", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False,
        description="Samples, log-likelihoods, energies and features of loaded models. Equal seeds give equal samples.",
    )  # fmt: skip
    _add_handlers(app)
    _add_pages(app, service)
    for name in service.served:
        model = service.served[name].model
        if model.generates:
            _add_sample(app, service, name)
        for what, applies in {"log_prob": scores, "energy": gives_energies, "features": gives_features}.items():
            if applies(model):
                _add_examples(app, service, name, what)
    _describe(app)
    hostnames = settings.hostnames if check_host else None
    return AccessControl(app, hostnames=hostnames, key=key_from(settings.key_file))


def _add_sample(app: FastAPI, service: Service, name: str) -> None:
    model = service.served[name].model
    forms = FORMATS[medium(model)]

    async def sample(question: Any, request: Request) -> Response:
        start = time.perf_counter()
        deadline = service.deadline(request.headers.get("x-zoo-deadline"))
        with _metered(service, "sample", name, start), contextlib.closing(_Gone(request)) as gone:
            draw = draw_of(question, model)
            x = await service.sample(name, draw, deadline, gone.future)
            arguments = (model, name, x, draw.seed, question.format, getattr(question, "scale", 1))
            small = x.numel() <= 50_000 and question.format != "npz"
            body = encoded(*arguments) if small else await asyncio.to_thread(encoded, *arguments)
            headers = {"x-seed": str(draw.seed), "x-model": name}
            return Response(body, media_type=MEDIA_TYPES[question.format], headers=headers)

    sample.__annotations__["question"] = sample_type(name, model, service.settings.max_images)
    content: dict[str, Any] = {MEDIA_TYPES[form].partition(";")[0]: {} for form in forms}
    described = {200: {"description": "samples", "content": content}, **_REFUSALS}
    app.post(
        f"/v1/models/{name}/sample", responses=described, response_class=Response, summary=f"draw from {name}",
        operation_id=f"sample_{name}",
    )(sample)  # fmt: skip


_ABOUT = {
    "log_prob": ("log-likelihood under", "nats an image"),
    "energy": ("energy under", "nats an image, up to a constant"),
    "features": ("features by", "a vector an image"),
}


def _add_examples(app: FastAPI, service: Service, name: str, what: str) -> None:
    """Add a route that says something of posted images: one of `_ABOUT`."""
    model = service.served[name].model
    ask = {"log_prob": service.score, "energy": service.energy, "features": service.features}[what]

    async def answer(question: Any, request: Request) -> Response:
        start = time.perf_counter()
        deadline = service.deadline(request.headers.get("x-zoo-deadline"))
        with _metered(service, what, name, start), contextlib.closing(_Gone(request)) as gone:
            return JSONResponse(await ask(name, question, deadline, gone.future))

    answer.__annotations__["question"] = examples_type(name, model, what)
    summary, unit = _ABOUT[what]
    described = {200: {"description": unit, "content": {"application/json": {}}}, **_REFUSALS}
    app.post(
        f"/v1/models/{name}/{what}", responses=described, response_class=Response, summary=f"{summary} {name}",
        operation_id=f"{what}_{name}",
    )(answer)  # fmt: skip


class _Gone:
    """A future that is done when the client of a request has closed the connection."""

    def __init__(self, request: Request) -> None:
        self.future = asyncio.ensure_future(self._watch(request))

    @staticmethod
    async def _watch(request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        self.future.cancel()


@contextlib.contextmanager
def _metered(service: Service, what: str, name: str, start: float) -> Any:
    status = 500
    try:
        yield
        status = 200
    except Problem as problem:
        status = problem.status
        raise
    finally:
        service.meters.answered(what, name, status, time.perf_counter() - start)


def _add_pages(app: FastAPI, service: Service) -> None:
    assets = files("zoo.serving") / "assets"
    kinds = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
    for path, kind in kinds.items():
        content = (assets / (path or "page.html")).read_bytes()
        app.add_api_route(f"/{path}", _constant(content, kind), include_in_schema=False)
    own = {"response_class": Response}
    text = {200: {"content": {"text/plain": {}}, "description": "text"}}

    @app.get("/v1/models", summary="all models", **own, responses={200: {"content": {"application/json": {}}}})
    async def models() -> Response:
        return JSONResponse({"models": [service.describe(name) for name in service.served]})

    @app.get("/healthz", summary="whether the process lives", **own, responses=text)
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    ready = {**text, 503: {"content": {"text/plain": {}}, "description": "the queue is nearly full"}}

    @app.get("/readyz", summary="whether more requests are welcome", **own, responses=ready)
    async def readyz() -> Response:
        return PlainTextResponse(*(("ready\n", 200) if service.ready() else ("busy\n", 503)))

    @app.get("/metrics", summary="counts, for Prometheus", **own, responses=text)
    async def metrics() -> Response:
        return Response(await asyncio.to_thread(service.meters.text), media_type="text/plain; version=0.0.4")

    for name in service.served:
        _add_model(app, service, name)


def _constant(content: bytes, kind: str) -> Any:
    async def page() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8")

    return page


def _add_model(app: FastAPI, service: Service, name: str) -> None:
    async def describe() -> Response:
        return JSONResponse(service.describe(name))

    async def card() -> Response:
        return Response(service.card(name), media_type="text/markdown; charset=utf-8")

    found = {200: {"content": {"application/json": {}}, "description": "facts"}}
    markdown = {200: {"content": {"text/markdown": {}}, "description": "card"},
                404: {"content": _ERROR, "description": "no card"}}  # fmt: skip
    own: dict[str, Any] = {"response_class": Response}
    app.get(f"/v1/models/{name}", summary=f"facts of {name}", responses=found, operation_id=f"model_{name}", **own)(
        describe
    )
    app.get(
        f"/v1/models/{name}/card", summary=f"card of {name}", responses=markdown, operation_id=f"card_{name}", **own
    )(card)


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        details = [{"where": _where(e["loc"]), "what": _what(e)} for e in error.errors()[:5]]
        body = error_body("invalid", "the request does not have the form that /openapi.json describes", details)
        return Response(body, 422, media_type="application/json")

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        body = error_body(error.code, error.message)
        return Response(body, error.status, headers=error.headers, media_type="application/json")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        reasons = {404: "there is nothing here; GET /v1/models lists the models", 405: "this path takes another method"}
        code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "refused")
        body = error_body(code, reasons.get(error.status_code, "the request is refused"))
        return Response(body, error.status_code, headers=error.headers, media_type="application/json")


def _where(path: tuple[Any, ...]) -> str:
    """Return the place of an error, without names that the client made up."""
    own = {"body", "n", "seed", "labels", "format", "scale", "options", "pixels", "images", "k"}
    return ".".join(str(part) if isinstance(part, int) or part in own else "..." for part in path)[:100]


def _what(error: dict[str, Any]) -> str:
    return str(error["msg"])[:200] if error["type"] != "value_error" else "wrong value"


def _describe(app: FastAPI) -> None:
    """Make the description name the errors as they are, in the place of FastAPI's own."""
    made = app.openapi()
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = _ERROR_SCHEMA
    app.openapi_schema = made
