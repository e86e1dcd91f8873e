"""What a server is told, by its command line to its workers: plain data, handed on through the environment."""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from zoo.errors import ConfigError, close_matches
from zoo.names import parse_name
from zoo.registry import NAME, load_registry

__all__ = ["ENVIRONMENT", "Settings", "is_loopback", "key_from", "same_key", "served_name"]

ENVIRONMENT = "ZOO_SERVE_SETTINGS"
KEY = "ZOO_API_KEY"
_HOST = re.compile(r"^[A-Za-z0-9._:\[\]-]{1,253}\Z")


@dataclass(frozen=True)
class Settings:
    """Names and limits of a server.

    Attributes:
        models: what `zoo.load` takes, one or more.
        host, port: where it listens; 0 lets the system choose the port.
        workers: processes, each with all models and one compute thread.
        deadline: seconds within which a request is answered.
        queue: requests that wait in one worker, at most.
        max_images: examples of one request, at most.
        max_rows: rows that are computed side by side, at most.
        hosts: names that the Host header may have beside the loopback ones and ``host``.
        key_file: file that holds the key; without one, the environment's ZOO_API_KEY, if it is set.
        grpc_port: where gRPC listens, none for no gRPC.
        page_title: shown on the page.
        device: where all models are computed; a GPU where there is one, if left out.
    """

    models: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 2
    deadline: float = 10.0
    queue: int = 64
    max_images: int = 64
    max_rows: int = 64
    hosts: tuple[str, ...] = ()
    key_file: str | None = None
    grpc_port: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("name at least one model to serve, as in `zoo serve vae-mnist`")
        limits = {
            "workers": (self.workers, 1, 64), "deadline": (self.deadline, 0.1, 3600), "queue": (self.queue, 1, 10_000),
            "max_images": (self.max_images, 1, 1024), "max_rows": (self.max_rows, 1, 1024),
            "port": (self.port, 0, 65535), "grpc_port": (self.grpc_port or 0, 0, 65535),
        }  # fmt: skip
        for name, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise ConfigError(f"{name} must be between {low} and {high}, got {value}")
        for host in (self.host, *self.hosts):
            if not _HOST.match(host):
                raise ConfigError(f"{host[:100]!r} is no name of a host")
        if not is_loopback(self.host) and key_from(self.key_file) is None:
            raise ConfigError(
                f"{self.host} can be reached from other machines, and there is no API key: set {KEY} or "
                f"--api-key-file, or listen on 127.0.0.1 behind a proxy"
            )
        names = [served_name(model) for model in self.models]
        if len(set(names)) < len(names):
            raise ConfigError(f"two models would be served under one name: {', '.join(sorted(names))}")

    def dump(self) -> str:
        """Return the settings as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Settings:
        """Return what `dump` wrote into the environment variable. Raises `ConfigError`."""
        text = os.environ.get(ENVIRONMENT)
        if text is None:
            raise ConfigError(f"{ENVIRONMENT} is not set; start the server with `zoo serve NAME`")
        return cls.load(text)

    @classmethod
    def load(cls, text: str) -> Settings:
        """Return what `dump` wrote."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()})

    @property
    def hostnames(self) -> frozenset[str]:
        """Names that a Host header may have, lower case, without port."""
        own = {"localhost", "127.0.0.1", "[::1]", self.host, *self.hosts}
        return frozenset(f"[{h}]" if ":" in h and not h.startswith("[") else h.lower() for h in own)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_LONGEST_KEY = 1024


def key_from(file: str | None) -> bytes | None:
    """Return the API key, from the file or the environment; None if there is none. Raises `ConfigError`."""
    if file is not None:
        try:
            with Path(file).open("rb") as stream:  # a device may never end
                key = stream.read(_LONGEST_KEY + 1).strip()
        except OSError as error:
            raise ConfigError(f"the key file {file} cannot be read: {error.strerror}") from error
    else:
        key = os.environ.get(KEY, "").encode().strip()
        if not key:
            return None
    if len(key) > _LONGEST_KEY:
        raise ConfigError(f"an API key has at most {_LONGEST_KEY} characters; make one with `openssl rand -hex 24`")
    if len(key) < 16:
        raise ConfigError("an API key has at least 16 characters; make one with `openssl rand -hex 24`")
    return key


def same_key(given: bytes, key: bytes) -> bool:
    """Compare in a time that does not tell where the two differ."""
    return hmac.compare_digest(given, key)


def served_name(model: str) -> str:
    """Return the name under which a model is served: its registered name, or the last part of a path or address.

    Raises:
        ConfigError: a registered name without weights, or a path that makes no name.
        UnknownModelError: no such name.
    """
    parsed = parse_name(model)
    if parsed.entry is not None:
        entry = parsed.entry
        if not entry.pretrained:
            known = [e.name for e in load_registry().find(pretrained=True)]
            raise ConfigError(
                f"{entry.name} has no weights, so it cannot be served.{close_matches(entry.name, known)} Train it with "
                f"`zoo fit --model {entry.name}` and serve its run folder"
            )
        return entry.name
    last = parsed.short.lower()
    if not NAME.match(last):
        raise ConfigError(f"{model!r} makes no name to serve it under; rename the folder to match {NAME.pattern}")
    return last
