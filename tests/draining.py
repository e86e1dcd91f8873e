"""Servers that are told to end under load, hundreds of times: what each loses of the requests whose head it had read.

`zoo serve` as it is, with its supervisor and two workers; only the processes are forked from one that has imported
everything, instead of started anew, which is what takes the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving import Paced, Server, Tally, children, free_port

__all__ = ["LOST_NOTHING", "Forked", "drained", "drains", "runs"]

LOST_NOTHING = {"Unread", "ConnectionRefusedError"}
"""Reasons for no answer of requests that no worker had begun to read."""


class _Child:
    """A forked process, as much of `subprocess.Popen` as a `Server` needs."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, patience: float = 60) -> int:
        deadline = time.monotonic() + patience
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("zoo serve", patience)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Forked(Server):
    """`zoo serve` in a child of this process, the first of a group of its own."""

    def __init__(self, *models: str, workers: int = 2, deadline: float = 60.0) -> None:
        self.port, self.workers, self.log = free_port(), workers, None
        pid = os.fork()
        if not pid:
            code = 70
            try:
                code = _serve(models, self.port, workers, deadline)
            finally:
                os._exit(code)
        self.process = _Child(pid)

    def worker_pids(self) -> list[int]:
        return children(self.process.pid)


def _serve(models: tuple[str, ...], port: int, workers: int, deadline: float) -> int:
    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    multiprocessing.current_process()._config.pop("daemon", None)  # it may have children
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.devnull  # counted in files, which the server will name
    import uvicorn._subprocess

    uvicorn._subprocess.spawn = multiprocessing.get_context("fork")
    from zoo.serving.server import serve
    from zoo.serving.settings import Settings

    return serve(Settings(models=models, port=port, workers=workers, deadline=deadline))


def runs(pid: int) -> bool:
    """Tell whether a process has not ended; one that its parent has yet to be told of has."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def drained(server: Server, truth: Any, name: str, *, rate: float, first: int, group: bool = False) -> Tally:
    """Ask at an even pace, send SIGTERM, and return what became of the requests.

    Args:
        server: that is ready.
        truth: of `serving.Paced`.
        name: of the model.
        rate: requests a second.
        first: requests that are answered before the signal comes.
        group: whether the workers get the signal too, as from a service manager that does not know the supervisor.
    """

    async def scene() -> Tally:
        paced = Paced(server.port, name, truth, rate=rate, careful=True)
        task = asyncio.create_task(paced.run())
        while sum(paced.tally.status.values()) < first:
            await asyncio.sleep(0.01)
        await asyncio.sleep(random.uniform(0, 1 / rate))
        os.killpg(server.process.pid, signal.SIGTERM) if group else server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 120)
        paced.ending.set()
        return await task

    return asyncio.run(scene())


def drains(times: int, truth: Any, name: str, *, rate: float = 60.0, first: int = 8) -> Iterator[dict[str, Any]]:
    """Drain servers one after the other; yield for each what became of its requests, and what is left of it."""
    for i in range(times):
        server = Forked(name)
        try:
            server.wait(120)
            pids = [server.process.pid, *server.worker_pids()]
            tally = drained(server, truth, name, rate=rate, first=first, group=bool(i % 2))
            deadline = time.monotonic() + 30
            while any(map(runs, pids)) and time.monotonic() < deadline:
                time.sleep(0.02)
            lost = {reason: n for reason, n in tally.reasons.items() if reason not in LOST_NOTHING}
            other = {status: n for status, n in tally.status.items() if status not in (0, 200)}
            yield {
                "requests": sum(tally.status.values()), "answered": tally.status[200],
                "unread": tally.reasons["Unread"], "refused": tally.reasons["ConnectionRefusedError"],
                "lost": sum(lost.values()) + sum(other.values()), "how": str({**lost, **other}), "wrong": tally.wrong,
                "left": sum(map(runs, pids)), "code": server.process.returncode,
            }  # fmt: skip
        finally:
            server.kill()


def counted(times: int, truth: Any, name: str) -> dict[str, Any]:
    """Return the sums of `drains`, and the kinds of what was lost."""
    found = list(drains(times, truth, name))
    sums = {key: sum(one[key] for one in found) for key in ("requests", "answered", "unread", "refused", "lost")}
    sums |= {key: sum(one[key] for one in found) for key in ("wrong", "left")}
    return {
        "drains": len(found),
        **sums,
        "how": sorted({one["how"] for one in found}),
        "codes": [*{o["code"] for o in found}],
    }
