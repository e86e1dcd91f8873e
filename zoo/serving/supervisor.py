"""Workers that are replaced when they die or hang: uvicorn's supervisor, which notices a death at once.

uvicorn asks each worker every half second whether it lives, and waits for the answer for as long as a worker may take
that is still importing torch. One that dies while it is asked would be waited for all that time; here the wait ends
with the process.
"""

from __future__ import annotations

from multiprocessing.connection import wait

from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

__all__ = ["Supervisor"]


class _Worker(Process):
    def _healthcheck(self, timeout: float) -> bool | None:
        try:
            self.parent_conn.send(b"ping")
            if self.parent_conn not in wait([self.parent_conn, self.process.sentinel], timeout):
                return None
            return bool(self.parent_conn.recv())
        except Exception:  # the pipe is closed, or what came through it is torn: the worker is gone
            return None


class Supervisor(Multiprocess):
    """Start workers, replace those that die, end all in order on SIGTERM or SIGINT.

    Attributes:
        failed: whether a worker could not start, for a reason that would hold for the next one too.
    """

    failed = False

    def init_processes(self) -> None:
        self.processes = [self._worker() for _ in range(self.processes_num)]

    def _worker(self) -> Process:
        worker = _Worker(self.config, self.sockets)
        worker.start()
        return worker

    def keep_subprocess_alive(self) -> None:
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set() or self.signal_queue:
                return
            if worker.is_alive(self.config.timeout_worker_healthcheck):
                continue
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                self.failed = True
                self.should_exit.set()
                return
            self.processes[place] = self._worker()
