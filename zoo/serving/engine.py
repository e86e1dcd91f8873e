"""Computation off the event loop: one thread, a bounded queue, batches, deadlines, cancellation.

Whatever speaks to clients, HTTP or gRPC, submits `Work` and awaits it; everything that a limit refuses is refused here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from zoo.errors import ZooError
from zoo.sampling import Draw, Interruptible
from zoo.serving.latency import Costs
from zoo.serving.metrics import Meters
from zoo.serving.problems import Problem

__all__ = ["SamplingEngine", "Served", "Work"]

log = logging.getLogger("zoo.serving")


class _Abandoned(Exception):
    """Nobody waits for the result any more."""


@dataclass
class Served:
    """A loaded model and what is known of its costs."""

    name: str
    model: Any
    samples: Costs = field(default_factory=Costs)
    likelihoods: Costs = field(default_factory=Costs)
    energies: Costs = field(default_factory=Costs)
    features: Costs = field(default_factory=Costs)

    def rows(self, n: int, options: Mapping[str, Any]) -> int:
        """Return the rows that are computed for ``n`` examples."""
        size = self.model.granule(options) or 1
        return -(-n // size) * size


@dataclass(eq=False)
class Work:
    """One request on its way: a `Draw`, or a computation of its own.

    Attributes:
        served: the model.
        deadline: on the clock of ``time.monotonic``.
        draw: what to sample, or
        compute: what to call instead, with ``rows`` and ``calls`` for its cost.
        costs: where to learn from it; by default the costs of samples, or of likelihoods.
    """

    served: Served
    deadline: float
    draw: Draw | None = None
    compute: Callable[[], Any] | None = None
    rows: int = 0
    calls: float = 1.0
    costs: Costs | None = None
    wanted: bool = True
    future: asyncio.Future[Any] | None = None
    key: Hashable = None

    def __post_init__(self) -> None:
        if self.costs is None:
            self.costs = self.served.samples if self.draw is not None else self.served.likelihoods
        if self.draw is not None:
            options = self.draw.options
            self.rows, self.calls = self.draw.n, self.served.model.calls(options)
            if self.served.model.granule(options):
                self.key = (self.served.name, tuple(sorted(options.items())))

    def guess(self, rows: int | None = None) -> float:
        """Return the seconds that this, or a batch of so many rows like it, will take."""
        rows = self.rows if rows is None else rows
        if self.draw is not None:
            rows = self.served.rows(rows, self.draw.options)
        return self.costs.guess(rows, self.calls)


class SamplingEngine:
    """The one compute thread of a process.

    Args:
        meters: what is counted.
        queue: works that wait, at most.
        max_rows: rows of a batch, at most, unless one request alone has more.
        threads: compute threads of torch; one, where answers shall not depend on the machine.
        deadline: seconds that a request has from its arrival. What needs more is refused as too dear; what fits into
            them, but not into what a proxy or other attempts have left of them, is late.
    """

    def __init__(
        self, meters: Meters, *, queue: int = 64, max_rows: int = 64, threads: int = 1, deadline: float = 10.0
    ) -> None:
        self.meters, self.queue, self.max_rows, self.deadline = meters, queue, max_rows, deadline
        self._threads = threads
        self._waiting: deque[Work] = deque()
        self._change = threading.Condition()
        self._running: list[Work] = []
        self._until = 0.0  # when the running batch is expected to end
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="zoo-compute", daemon=True)
        self._thread.start()

    # -- on the event loop --------------------------------------------------------------------------------------------

    async def do(self, work: Work, gone: asyncio.Future[Any] | None = None) -> Any:
        """Return the work's result.

        Args:
            work: what to do.
            gone: done when the one who asked no longer waits; the work is then given up.

        Raises:
            Problem: 422 dearer than the deadline, 503 too much waits, 504 not done in time, 499 the client has gone.
        """
        loop = asyncio.get_running_loop()
        work.future = loop.create_future()
        self._admit(work)
        waited = {work.future} if gone is None else {work.future, gone}
        try:
            await asyncio.wait(
                waited, timeout=max(0.0, work.deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if work.future.done():
                return work.future.result()
            if gone is not None and gone.done():
                self.meters.given_up.inc()
                raise Problem(499, "gone", "the client closed the connection")
            raise late()
        finally:
            work.wanted = False
            work.future.cancel()
            self._forget(work)

    def _forget(self, work: Work) -> None:
        with self._change:
            if work in self._waiting:
                self._waiting.remove(work)
                self.meters.waiting.dec()

    def _admit(self, work: Work) -> None:
        remaining = work.deadline - time.monotonic()
        if remaining <= 0:
            raise late()
        cost = work.guess()
        if cost > self.deadline:
            raise Problem(
                422, "too_dear", f"this would take about {cost:.1f} s and the deadline is {self.deadline:g} s: "
                f"ask for fewer examples, steps or values"
            )  # fmt: skip
        if cost > remaining:
            raise late()
        with self._change:
            wait = self._wait()
            if self._closed or len(self._waiting) >= self.queue or wait + cost > remaining:
                raise Problem(503, "busy", "too many requests wait already; try again", retry_after=max(1, round(wait)))
            self._waiting.append(work)
            self.meters.waiting.inc()
            self._change.notify()

    def _wait(self) -> float:
        """Return the seconds until all that waits now will be done."""
        rows: dict[Hashable, tuple[Work, int]] = {}
        alone = 0.0
        for work in self._waiting:
            if work.key is None:
                alone += work.guess()
            else:
                rows[work.key] = (work, rows.get(work.key, (work, 0))[1] + work.rows)
        batches = 0.0
        for work, n in rows.values():
            full, rest = divmod(n, self.max_rows)
            batches += full * work.guess(self.max_rows) + (work.guess(rest) if rest else 0.0)
        running = max(0.0, self._until - time.monotonic()) if self._running else 0.0
        return running + alone + batches

    @property
    def load(self) -> float:
        """Filled part of the queue."""
        return len(self._waiting) / self.queue

    @property
    def alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread; what waits is refused."""
        with self._change:
            self._closed = True
            for work in [*self._waiting, *self._running]:
                work.wanted = False
            self._change.notify()
        self._thread.join(10)

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        while True:
            batch = self._take()
            if batch is None:
                return
            start = time.perf_counter()
            try:
                results = self._compute(batch)
            except _Abandoned:
                self.meters.abandoned.inc(len(batch))
            except BaseException as error:
                self._deliver(batch, error=_as_problem(error, batch))
            else:
                took, rows = time.perf_counter() - start, sum(work.rows for work in batch)
                first = batch[0]
                padded = first.served.rows(rows, first.draw.options) if first.draw is not None else rows
                first.costs.learn(padded, first.calls, took)
                self.meters.batch(first.served.name, rows, took)
                self._deliver(batch, results)
            finally:
                with self._change:
                    self._running = []

    def _take(self) -> list[Work] | None:
        """Wait for work; return the oldest that is still wanted, and what waits that can be computed beside it."""
        with self._change:
            while True:
                now = time.monotonic()
                alive = deque(work for work in self._waiting if work.wanted and work.deadline > now)
                self.meters.waiting.dec(len(self._waiting) - len(alive))
                self._waiting = alive
                if alive or self._closed:
                    break
                self._change.wait()
            if self._closed:
                return None
            batch, rows = [alive[0]], alive[0].rows
            for work in list(alive)[1:]:
                if alive[0].key is not None and work.key == alive[0].key and rows + work.rows <= self.max_rows:
                    batch.append(work)
                    rows += work.rows
            chosen = set(map(id, batch))
            self._waiting = deque(work for work in alive if id(work) not in chosen)
            self.meters.waiting.dec(len(batch))
            self._running, self._until = batch, now + batch[0].guess(rows)
            return batch

    def _compute(self, batch: list[Work]) -> list[Any]:
        latest = max(work.deadline for work in batch)

        def check() -> None:
            if time.monotonic() > latest or not any(work.wanted for work in batch):
                raise _Abandoned

        first = batch[0]
        if first.compute is not None:
            with Interruptible(check):
                return [first.compute()]
        return [x.cpu() for x in first.served.model.sample_many([work.draw for work in batch], check=check)]

    @staticmethod
    def _deliver(batch: list[Work], results: list[Any] | None = None, error: Problem | None = None) -> None:
        def settle() -> None:
            for i, work in enumerate(batch):
                if work.future is None or work.future.done():
                    continue
                if error is not None:
                    work.future.set_exception(error)
                else:
                    work.future.set_result(results[i])

        futures = [work.future for work in batch if work.future is not None]
        try:
            futures[0].get_loop().call_soon_threadsafe(settle)
        except RuntimeError:  # the loop has ended
            log.debug("no loop to deliver to")


def late() -> Problem:
    """Return the refusal of what is not done by its deadline."""
    return Problem(504, "late", "the deadline passed before this was done; ask for less, or again")


def _as_problem(error: BaseException, batch: list[Work]) -> Problem:
    """Return what to say of an error in the computation, without what was sent."""
    draw = batch[0].draw
    if isinstance(error, ZooError):
        return Problem(422, "refused", _explained(str(error), draw))
    if isinstance(error, (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError)) and draw and draw.options:
        log.info("options of %s failed: %r", batch[0].served.name, error)
        return Problem(422, "refused", "the model cannot be sampled with these options; use less extreme ones")
    log.error("computation failed for %s", batch[0].served.name, exc_info=error)
    return Problem(500, "failed", "the computation failed; the server's log says why")


def _explained(message: str, draw: Draw | None) -> str:
    """Return a message of the model without the values that it quotes."""
    message = message.partition(", got")[0]
    sent = [str(v) for v in (draw.options if draw else {}).values() if isinstance(v, str)]
    if any(text and text in message for text in sent) or "prompt" in message:
        return "the model refuses an option's value; GET /v1/models says what it takes"
    return message
