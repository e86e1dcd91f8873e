"""Servers in processes of their own, with and without the proxy, and a small client that counts what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "deploy" / "haproxy.cfg"
PATIENCE = 400.0  # seconds for a worker to be ready on a busy machine


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def listening(app: Any, **options: Any) -> Iterator[int]:
    """Let an application listen as `zoo serve` has it, in a thread of this process; yields the port."""
    import uvicorn

    from zoo.serving.protocol import HTTPProtocol

    port = free_port()
    config = uvicorn.Config(
        app, port=port, http=HTTPProtocol, ws="none", lifespan="off", log_level="critical", **options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(60)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def resident(pids: Sequence[int]) -> int:
    """Return the bytes of memory that processes hold."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


class Server:
    """`zoo serve` in a process of its own.

    Args:
        models: names.
        workers: processes that answer.
        options: further words of the command line.
    """

    def __init__(self, *models: str, workers: int = 2, options: Sequence[str] = (), log: Path | None = None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.port, self.workers = free_port(), workers
        command = [sys.executable, "-m", "zoo", "serve", *models, "--port", str(self.port), "--workers", str(workers)]
        self.log = open(log, "wb") if log is not None else None  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command, *options], env=environment, cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=self.log or subprocess.DEVNULL, stderr=self.log or subprocess.DEVNULL,
        )  # fmt: skip

    def worker_pids(self) -> list[int]:
        found = []
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"spawn_main" in words:
                    found.append(pid)
        return found

    def ready_pids(self) -> set[int]:
        """Return the workers that say that they are ready."""
        status, _, body = asyncio.run(ask(self.port, "GET", "/metrics", timeout=5))
        found = re.findall(r'^zoo_ready\{pid="(\d+)"\} 1\.0', body.decode(), re.M) if status == 200 else []
        return set(map(int, found))

    def all_ready(self) -> bool:
        pids = set(self.worker_pids())
        return len(pids) == self.workers and pids <= self.ready_pids()

    def wait(self, patience: float = PATIENCE) -> float:
        """Wait until all workers are ready; return the seconds that it took."""
        start = time.monotonic()
        while time.monotonic() - start < patience:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with code {self.process.returncode}")
            if self.all_ready():
                return time.monotonic() - start
            time.sleep(0.1)
        raise AssertionError(f"the workers were not ready within {patience} s")

    def stop(self, patience: float = 60) -> int:
        """Ask the server to end, and return its code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(patience)
        finally:
            self.kill()

    def kill(self) -> None:
        pids = self.worker_pids() if self.process.poll() is None else []
        for pid in [*pids, self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        if self.log is not None:
            self.log.close()


class Proxy:
    """HAProxy with the profile that ships, before a server."""

    def __init__(self, backend: int) -> None:
        self.port, self.stats = free_port(), free_port()
        environment = {
            **os.environ,
            "ZOO_BIND": f"127.0.0.1:{self.port}",
            "ZOO_BACKEND": f"127.0.0.1:{backend}",
            "ZOO_STATS": f"127.0.0.1:{self.stats}",
        }
        self.process = subprocess.Popen(
            [haproxy(), "-f", str(CONFIG), "-db"], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        self.stop()
        raise AssertionError("HAProxy does not listen")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


def haproxy() -> str | None:
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running(*models: str, proxy: bool = False, **options: Any) -> Iterator[tuple[Server, int]]:
    """Run a server until its workers are ready; yields it and the port to ask, the proxy's if there is one."""
    server = Server(*models, **options)
    before = None
    try:
        server.wait()
        before = Proxy(server.port) if proxy else None
        yield server, before.port if before is not None else server.port
    finally:
        if before is not None:
            before.stop()
        server.kill()


# -- a client ---------------------------------------------------------------------------------------------------------


class Unread(OSError):
    """The connection ended before the server had read the request's head."""


class Client:
    """One connection, kept open; errors of the connection are the caller's."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.answered = 0  # on this connection

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: str = "", careful: bool = False
    ) -> tuple[int, dict, bytes]:
        """Send a request and return status, headers and body of the answer.

        With ``careful`` the body is sent when the server has said that it read the head; `Unread` if it never does.
        """
        if self.writer is None:
            try:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
            except ConnectionResetError as error:  # the door was closed before anybody had taken the connection
                raise Unread from error
            self.answered = 0
        kind = "Content-Type: application/json\r\n" if method == "POST" else ""
        kind += "Expect: 100-continue\r\n" if careful else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}Content-Length: {len(body)}\r\n{headers}\r\n"
        try:
            if careful:
                await self._announce(head)
                self.writer.write(body)
            else:
                self.writer.write(head.encode() + body)
            await self.writer.drain()
            status, answered, content = await self._answer()
        except BaseException:
            self.close()
            raise
        self.answered += 1
        if answered.get("connection", "").lower() == "close":
            self.close()
        return status, answered, content

    async def _announce(self, head: str) -> None:
        try:
            self.writer.write(head.encode())
            await self.reader.readuntil(b"100 Continue\r\n\r\n")
        except (OSError, EOFError) as error:
            raise Unread from error

    async def _answer(self) -> tuple[int, dict, bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        content = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split(" ")[1]), headers, content

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def ask(
    port: int, method: str, path: str, body: bytes = b"", timeout: float = 60, headers: str = "", careful: bool = False
) -> tuple[int, dict, bytes]:
    """Send one request on a connection of its own; status 0 where there was no answer, with the reason as the body."""
    client = Client(port)
    try:
        return await asyncio.wait_for(client.ask(method, path, body, headers, careful), timeout)
    except (OSError, EOFError, asyncio.TimeoutError) as error:
        return 0, {}, type(error).__name__.encode()
    finally:
        client.close()


@dataclass
class Tally:
    """What became of requests.

    Attributes:
        status: how many were answered how; 0 for no answer.
        seconds: of each request.
        wrong: answers with other pixels than expected.
        reasons: of those without an answer.
    """

    status: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    by_status: dict[int, list[float]] = field(default_factory=dict)
    wrong: int = 0
    reasons: Counter = field(default_factory=Counter)

    def add(self, status: int, seconds: float, body: bytes = b"", right: bool = True) -> None:
        self.status[status] += 1
        self.seconds.append(seconds)
        self.by_status.setdefault(status, []).append(seconds)
        self.wrong += not right
        if status == 0:
            self.reasons[body.decode()] += 1

    def percentile(self, p: float) -> float:
        return float(np.percentile(self.seconds, p))

    def __str__(self) -> str:
        codes = ", ".join(f"{count} x {code or 'no answer'}" for code, count in sorted(self.status.items()))
        reasons = f" ({dict(self.reasons)})" if self.reasons else ""
        return (
            f"{sum(self.status.values())} requests: {codes}{reasons}; {self.wrong} wrong; "
            f"p50 {1000 * self.percentile(50):.0f} ms, p99 {1000 * self.percentile(99):.0f} ms, "
            f"longest {max(self.seconds):.2f} s"
        )


def question(n: int, seed: int, form: str = "png", **more: Any) -> bytes:
    return json.dumps({"n": n, "seed": seed, "format": form, **more}).encode()


def pixels(png: bytes, n: int, size: int = 28) -> np.ndarray:
    """Return the images of a sheet of one pixel a pixel, uint8 (n, size, size)."""
    from PIL import Image

    picture = np.array(Image.open(io.BytesIO(png)))
    columns = int(np.ceil(np.sqrt(n)))
    corners = [(i // columns * (size + 1) + 1, i % columns * (size + 1) + 1) for i in range(n)]
    return np.stack([picture[top : top + size, left : left + size] for top, left in corners])


def expected(model: Any, n: int, seed: int, **options: Any) -> np.ndarray:
    """Return what an answer must hold: the samples of the model by itself, as 8-bit integers, (n, H, W)."""
    x = model.sample(n, seed=seed, **options)
    return (x.clamp(0, 1) * 255).round().byte().numpy()[:, 0]


async def burst(port: int, name: str, count: int, n: int = 16, timeout: float = 60) -> Tally:
    """Send many requests at the same moment, each on its own connection."""
    tally = Tally()

    async def one(seed: int) -> None:
        start = time.monotonic()
        status, _, body = await ask(port, "POST", f"/v1/models/{name}/sample", question(n, seed), timeout)
        tally.add(status, time.monotonic() - start, body)

    await asyncio.gather(*(one(seed) for seed in range(count)))
    return tally


class Paced:
    """Requests at an even pace until they are told to stop, each checked against the pixels that it must have.

    Args:
        port: to ask.
        name: of the model.
        truth: (n, seed) -> the pixels of the right answers, taken in turn.
        rate: requests a second.
        careful: tell requests whose head no worker had read (``Unread``) from those that were lost.
    """

    def __init__(
        self, port: int, name: str, truth: dict[tuple[int, int], np.ndarray], rate: float, careful: bool = False
    ) -> None:
        self.port, self.name, self.truth, self.rate, self.careful = port, name, truth, rate, careful
        self.tally, self.ending = Tally(), asyncio.Event()

    async def run(self, most: int = 100_000) -> Tally:
        cases, tasks, start = list(self.truth), set(), time.monotonic()
        for i in range(most):
            if self.ending.is_set():
                break
            task = asyncio.create_task(self._one(*cases[i % len(cases)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            pause = start + (i + 1) / self.rate - time.monotonic()
            await asyncio.sleep(max(0.0, pause))
        await asyncio.gather(*tasks)
        return self.tally

    async def _one(self, n: int, seed: int) -> None:
        start = time.monotonic()
        path = f"/v1/models/{self.name}/sample"
        status, _, body = await ask(self.port, "POST", path, question(n, seed), careful=self.careful)
        took = time.monotonic() - start
        right = status != 200 or np.array_equal(pixels(body, n), self.truth[n, seed])
        self.tally.add(status, took, body, right)


def truth_of(name: str, cases: int = 40) -> dict[tuple[int, int], np.ndarray]:
    """Return right answers of a bundled model, for n from 1 to 16."""
    import torch

    import zoo

    torch.set_num_threads(1)
    model = zoo.load(name)
    return {(1 + i % 16, 1000 + i): expected(model, 1 + i % 16, 1000 + i) for i in range(cases)}


async def kill_often(server: Server, kills: int, rng: Any, both: bool = False, most: float = 600.0) -> list[float]:
    """Kill workers at random moments after all were ready again; return the seconds until all were ready each time."""
    took, start = [], time.monotonic()
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.1, 1.0))
        pids = server.worker_pids()
        for pid in pids if both else [rng.choice(pids)]:
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        while not (set(pids) != set(server.worker_pids()) and await asyncio.to_thread(server.all_ready)):
            assert time.monotonic() - killed < PATIENCE, "the workers did not come back"
            await asyncio.sleep(0.1)
        took.append(time.monotonic() - killed)
        if time.monotonic() - start > most:
            break
    return took
