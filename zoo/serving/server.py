"""The process that supervises the workers. It imports no torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import tempfile

from zoo.errors import ConfigError
from zoo.serving.settings import ENVIRONMENT, Settings

__all__ = ["serve"]

_HEALTHCHECK = 120  # seconds; a worker that imports torch on a busy machine answers late
_KEEP_ALIVE = 65


def serve(settings: Settings) -> int:
    """Listen, start the workers, replace those that die, and end them in order on SIGTERM or SIGINT.

    Raises:
        ConfigError: the packages of the extra ``serve`` are missing, or the address cannot be listened on.
    """
    try:
        import prometheus_client  # noqa: F401
        from uvicorn import Config

        from zoo.serving.protocol import HTTPProtocol
        from zoo.serving.supervisor import Supervisor
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is missing: install the extra, `pip install 'generative-zoo[serve]'`"
        ) from error
    listening = _listen(settings)
    host, port = listening.getsockname()[:2]
    folder = tempfile.mkdtemp(prefix="zoo-serve-")
    os.environ[ENVIRONMENT] = settings.dump()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = Config(
        "zoo.serving.app:application", factory=True, workers=settings.workers, http=HTTPProtocol, ws="none",
        access_log=False, log_level="warning", server_header=False, timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.deadline) + 5, timeout_worker_healthcheck=_HEALTHCHECK,
        backlog=2048, proxy_headers=False,
    )  # fmt: skip
    shown = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"serving {', '.join(settings.models)} on http://{shown}:{port}\n")
    sys.stderr.flush()
    try:
        supervisor = Supervisor(config, sockets=[listening])
        supervisor.run()
        return 3 if supervisor.failed else 0
    finally:
        listening.close()
        shutil.rmtree(folder, ignore_errors=True)


def _listen(settings: Settings) -> socket.socket:
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, settings.port))
        listening.listen(2048)
    except OSError as error:
        with contextlib.suppress(OSError):
            listening.close()
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    listening.set_inheritable(True)
    return listening
