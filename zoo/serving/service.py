"""What can be asked for, whatever the wire: samples, log-likelihoods, energies and features, with their limits."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from typing import Any

import torch

from zoo.abilities import is_conditional, takes_labels, takes_option
from zoo.devices import chosen_device
from zoo.media import medium
from zoo.sampling import Draw
from zoo.serving.engine import SamplingEngine, Served, Work
from zoo.serving.metrics import Meters
from zoo.serving.problems import Problem
from zoo.serving.request_types import (
    FORMATS,
    controls,
    gives_energies,
    gives_features,
    images_of,
    option_fields,
    scores,
)
from zoo.serving.settings import Settings, served_name

__all__ = ["Service", "load_models"]


def load_models(settings: Settings) -> dict[str, Any]:
    """Load what is to be served, on its device, by the name under which it is. Raises what `zoo.load` raises."""
    from zoo.hub import load

    device = chosen_device(settings.device)
    return {served_name(model): load(model, device=device) for model in settings.models}


class Service:
    """Loaded models behind one engine.

    Args:
        models: by name, in eval mode.
        settings: limits.
        warm: draw once from each, so that the first request is as fast as any and costs are known.
    """

    def __init__(self, models: dict[str, Any], settings: Settings, *, warm: bool = True) -> None:
        self.settings, self.meters = settings, Meters()
        self.served = {name: Served(name, model) for name, model in models.items()}
        if warm:
            torch.set_num_threads(1)
            for served in self.served.values():
                _warm(served)
        self.engine = SamplingEngine(
            self.meters, queue=settings.queue, max_rows=settings.max_rows, deadline=settings.deadline
        )

    def deadline(self, milliseconds: str | None) -> float:
        """Return the deadline on the clock of ``time.monotonic``: the server's, or an earlier one.

        Args:
            milliseconds: since 1970, as a proxy stamps on a request when it first sees it, so that a repeated request
                keeps its deadline.

        Raises:
            Problem: no number.
        """
        limit = self.settings.deadline
        if milliseconds is not None:
            if not milliseconds.isascii() or not milliseconds.isdigit() or len(milliseconds) > 16:
                raise Problem(400, "bad_request", "X-Zoo-Deadline must be milliseconds since 1970")
            limit = min(limit, int(milliseconds) / 1000 - time.time())
        return time.monotonic() + limit

    async def sample(
        self, name: str, draw: Draw, deadline: float, gone: asyncio.Future[Any] | None = None
    ) -> torch.Tensor:
        """Draw samples, (n, *shape) in data range. Raises `Problem`."""
        work = Work(self.served[name], deadline, draw)
        x = await self.engine.do(work, gone)
        if not bool(torch.isfinite(x).all()):
            raise Problem(422, "refused", "the samples are not finite with these options; use less extreme ones")
        return x

    async def score(
        self, name: str, question: Any, deadline: float, gone: asyncio.Future[Any] | None = None
    ) -> dict[str, Any]:
        """Return the log-likelihood of posted images. Raises `Problem`."""
        served = self.served[name]
        model = served.model
        x, labels = images_of(question, model)
        kind = model.likelihood(question.k)
        calls = float(question.k) if kind != model.likelihood(1) else 1.0
        seed = question.seed if question.seed is not None else secrets.randbelow(2**53)

        def compute() -> list[float]:
            with torch.no_grad():
                return model.log_prob(x, labels=labels, k=question.k, seed=seed).tolist()

        work = Work(served, deadline, compute=compute, rows=len(x), calls=calls)
        values = await self.engine.do(work, gone)
        if not all(map(math.isfinite, values)):
            raise Problem(422, "refused", "the log-likelihood of an image is not finite")
        return {"model": name, "seed": seed, "likelihood": kind, "unit": "nats", "log_prob": values}

    async def energy(
        self, name: str, question: Any, deadline: float, gone: asyncio.Future[Any] | None = None
    ) -> dict[str, Any]:
        """Return the energies of posted images. Raises `Problem`."""
        served = self.served[name]
        model = served.model
        x, labels = images_of(question, model)
        condition = _condition(model, len(x), labels)

        def compute() -> list[float]:
            with torch.no_grad():
                return model.energy(x, **condition).tolist()

        work = Work(served, deadline, compute=compute, rows=len(x), costs=served.energies)
        values = await self.engine.do(work, gone)
        if not all(map(math.isfinite, values)):
            raise Problem(422, "refused", "the energy of an image is not finite")
        return {"model": name, "unit": "nats", "temperature": float(model.temperature), "energy": values}

    async def features(
        self, name: str, question: Any, deadline: float, gone: asyncio.Future[Any] | None = None
    ) -> dict[str, Any]:
        """Return the features of posted images, (B, feature_dim). Raises `Problem`."""
        served = self.served[name]
        x, _ = images_of(question, served.model)

        def compute() -> torch.Tensor:
            with torch.no_grad():
                return served.model.features(x).cpu()

        work = Work(served, deadline, compute=compute, rows=len(x), costs=served.features)
        values = await self.engine.do(work, gone)
        if not bool(values.isfinite().all()):
            raise Problem(422, "refused", "the features of an image are not finite")
        return {"model": name, "feature_dim": values.shape[1], "features": values.tolist()}

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a client needs to know of a model."""
        served = self.served[name]
        model = served.model
        options = option_fields(model) if model.generates else {}
        seconds = served.samples.guess(served.rows(1, {}), model.calls({})) if model.generates else None
        return {
            "name": name,
            "family": model.family,
            "class": type(model).__name__,
            "medium": medium(model),
            "generates": model.generates,
            "shape": list(model.shape),
            "classes": model.num_classes,
            "text": model.context[0] if model.context else None,
            "alphabet": model.alphabet if model.context else None,
            "levels": model.levels,
            "formats": list(FORMATS[medium(model)]) if model.generates else [],
            "options": {option: default for option, (_, default) in options.items()},
            "controls": controls(model) if model.generates else {},
            "class_names": list(model.class_names) if model.num_classes else [],
            "likelihood": model.likelihood(1) if scores(model) else None,
            "energy": gives_energies(model),
            "features": model.feature_dim if gives_features(model) else None,
            "max_n": self.settings.max_images,
            "side_by_side": model.granule({}),
            "seconds": round(seconds, 4) if seconds is not None else None,
            "weights_sha256": model.source.sha256,
        }

    def card(self, name: str) -> str:
        """Return the model's card, Markdown. Raises `Problem`."""
        from zoo.errors import ZooError
        from zoo.hub.loading import card

        source = self.served[name].model.source
        try:
            return card(source.name or source.path or name)
        except (ZooError, OSError):
            raise Problem(404, "no_card", "this model has no card") from None

    def ready(self) -> bool:
        """Tell whether requests are welcome: everything is loaded and less than 80 % of the queue is filled."""
        return self.engine.load < 0.8

    def close(self) -> None:
        """Stop computing."""
        self.engine.close()


def _condition(model: Any, n: int, labels: Any) -> dict[str, Any]:
    """Return what the energy of n examples is told: classes (n,) or texts (n, T) as tensors, where it takes any."""
    return {"labels": model._labels(n, labels)} if takes_labels(model, model.energy) else {}


def _warm(served: Served) -> None:
    """Ask everything once of one example, and learn what it takes."""
    model = served.model
    if model.generates:
        short: dict[str, Any] = {"length": min(16, model.shape[0])} if takes_option(model, "length") else {}
        condition = {"labels": ""} if model.context else {}
        for _ in range(2):
            start = time.perf_counter()
            model.sample(1, seed=0, **condition, **short).cpu()  # which waits for a GPU
            took = time.perf_counter() - start
            if took > 0.2:
                break
        served.samples.learn(served.rows(1, short), model.calls(short), took)
    x = torch.zeros(1, *model.shape)
    labels = ("" if model.context else 0) if is_conditional(model) else None
    asked = []
    if scores(model):
        asked.append((served.likelihoods, lambda: model.log_prob(x, labels=labels, seed=0)))
    if gives_energies(model):
        asked.append((served.energies, lambda: model.energy(x, **_condition(model, 1, labels))))
    if gives_features(model):
        asked.append((served.features, lambda: model.features(x)))
    for costs, ask in asked:
        start = time.perf_counter()
        with torch.no_grad():
            ask().cpu()
        costs.learn(1, 1.0, time.perf_counter() - start)
