"""What is counted, for Prometheus: of all workers together, dead ones included, in files of a common folder.

A worker that died leaves its files. The next worker to start adds the counts of the dead to one file and removes
theirs, so that totals never fall and the folder does not grow.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["FOLDER", "Meters", "sweep"]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Meters:
    """Counters of one process; with a common folder, they are those of all."""

    def __init__(self) -> None:
        self.folder = os.environ.get(FOLDER)
        if self.folder:
            sweep(self.folder)
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("zoo_requests", "answers", ["what", "model", "status"], **own)
        self.seconds = Histogram("zoo_request_seconds", "time to the answer", ["what"], buckets=_SECONDS, **own)
        self.examples = Counter("zoo_examples", "examples drawn or scored", ["model"], **own)
        self.rows = Histogram("zoo_batch_rows", "rows computed at once", ["model"], buckets=_ROWS, **own)
        self.computing = Counter("zoo_compute_seconds", "time of the compute thread", ["model"], **own)
        self.given_up = Counter("zoo_disconnected", "requests whose client went away", **own)
        self.abandoned = Counter("zoo_abandoned", "requests that were being computed when nobody waited", **own)
        mode = {"multiprocess_mode": "livesum"} if self.folder else {}
        self.waiting = Gauge("zoo_waiting", "requests in the queue", **mode, **own)
        self.ready = Gauge("zoo_ready", "1 for each worker that answers", **{k: "liveall" for k in mode}, **own)

    def batch(self, model: str, rows: int, seconds: float) -> None:
        """Count one computation."""
        self.examples.labels(model).inc(rows)
        self.rows.labels(model).observe(rows)
        self.computing.labels(model).inc(seconds)

    def answered(self, what: str, model: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests.labels(what, model, str(status)).inc()
        self.seconds.labels(what).observe(seconds)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format."""
        if not self.folder:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self.folder)
        with _locked(self.folder):
            return generate_latest(registry)


def sweep(folder: str) -> None:
    """Fold the counts of processes that are gone into one file of each kind, and remove their files."""
    with _locked(folder):
        for path in sorted(Path(folder).glob("*.db")):
            kind, _, owner = path.stem.rpartition("_")
            if not owner.isdigit() or _alive(int(owner)):
                continue
            if not kind.startswith("gauge"):
                total = MmapedDict(str(path.with_name(f"{kind}_gone.db")))
                with contextlib.suppress(ValueError, UnicodeDecodeError, RuntimeError):  # torn by a kill
                    for key, value, stamp, _ in MmapedDict.read_all_values_from_file(str(path)):
                        json.loads(key)
                        total.write_value(key, total.read_value(key)[0] + value, stamp)
                total.close()
            path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    with open(Path(folder) / "lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
