"""The HTTP application as a Ray Serve deployment, for several machines.

    serve run zoo.serving.cluster:build models=vae-mnist,cvae-mnist replicas=2

Each replica is one process with all models and one compute thread, behind the same gate and limits as `zoo serve`. Ray
sends a request to a replica once: what a dying replica had in hand is answered by 500, and asking again, with the same
seed, is for the client. Host names are left to what stands before Ray.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from zoo.errors import ConfigError, close_matches
from zoo.serving.settings import Settings

try:
    from ray import serve
except ImportError as error:
    raise ConfigError(
        f"{error.name} is missing: install the extra, `pip install 'generative-zoo[serve,ray]'`"
    ) from error

__all__ = ["Replica", "build", "deployment"]

_ARGUMENTS = {"models": str, "replicas": int, "deadline": float, "queue": int, "max_images": int, "key_file": str}


class Replica:
    """One process of the deployment.

    Args:
        settings: what `Settings.dump` gave.
    """

    def __init__(self, settings: str) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        from zoo.serving.service import Service, load_models

        own = Settings.load(settings)
        self._service = Service(load_models(own), own)

    def __serve_build_asgi_app__(self) -> Any:  # the name that Ray calls
        from zoo.serving.app import build

        return build(self._service, check_host=False)

    def check_health(self) -> None:
        """Raise RuntimeError when the compute thread has ended; Ray then replaces the replica."""
        if not self._service.engine.alive:
            raise RuntimeError("the compute thread has ended")


def deployment(settings: Settings, replicas: int = 2) -> Any:
    """Return an application for ``ray.serve.run``.

    Args:
        settings: models and limits; its addresses and number of workers count for nothing here.
        replicas: processes, over all machines.

    Raises:
        ConfigError: no replicas.
    """
    if replicas < 1:
        raise ConfigError(f"replicas must be at least 1, got {replicas}")
    made = serve.deployment(
        serve.ingress()(Replica),
        name="zoo",
        num_replicas=replicas,
        max_ongoing_requests=settings.queue,
        max_queued_requests=settings.queue,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=settings.deadline + 5,
        ray_actor_options={"num_cpus": 1},
    )
    return made.bind(settings.dump())


def build(arguments: Mapping[str, str]) -> Any:
    """Return an application from the words of ``serve run``.

    Args:
        arguments: ``models``, separated by commas; and any of replicas, deadline, queue, max_images, key_file.

    Raises:
        ConfigError: an unknown or missing argument, or a value that is no number.
    """
    values: dict[str, Any] = {}
    for name, text in arguments.items():
        if name not in _ARGUMENTS:
            raise ConfigError(
                f"unknown argument {name!r}.{close_matches(name, _ARGUMENTS)} There are: {', '.join(_ARGUMENTS)}"
            )
        try:
            values[name] = _ARGUMENTS[name](text)
        except ValueError:
            raise ConfigError(f"{name} must be a number, got {text!r}") from None
    replicas = values.pop("replicas", 2)
    models = tuple(part for part in values.pop("models", "").split(",") if part)
    return deployment(Settings(models=models, **values), replicas)
