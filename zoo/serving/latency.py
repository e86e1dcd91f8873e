"""How long a model takes, as measured while it serves: what a request will cost, before it is accepted."""

from __future__ import annotations

__all__ = ["Costs"]

_NEWEST = 0.3


class Costs:
    """Seconds of one evaluation of a model's network for so many rows, a running mean for each number of rows."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, rows: int, calls: float, seconds: float) -> None:
        """Take in that ``calls`` evaluations for ``rows`` rows took ``seconds``."""
        each = seconds / max(calls, 1e-9)
        known = self._seconds.get(rows)
        self._seconds[rows] = each if known is None else known + _NEWEST * (each - known)

    def guess(self, rows: int, calls: float) -> float:
        """Return the seconds to expect: as measured for these rows, else in proportion to the nearest fewer ones, else
        what more rows took; 0 while nothing is known."""
        if rows in self._seconds:
            return calls * self._seconds[rows]
        fewer = [r for r in self._seconds if r < rows]
        if fewer:
            return calls * self._seconds[max(fewer)] * rows / max(fewer)
        return calls * min(self._seconds.values(), default=0.0)
