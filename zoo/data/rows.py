"""Examples that are decoded when they are asked for, read by rows as a tensor (N, *shape) is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

__all__ = ["Rows"]

_CHUNK = 64


class Rows:
    """A split larger than memory: every access decodes the rows that it names, in threads.

    ``rows[:]`` is the split itself; any other slice, and an index, give a tensor. What a row holds is a function of
    its number alone, so that the number of workers and who else reads changes nothing.

    Args:
        count: number of examples.
        shape: of one example.
        read: number -> example, of ``dtype``; called in several threads at once.
        workers: threads that decode.
        dtype: of an example.
    """

    def __init__(
        self,
        count: int,
        shape: Sequence[int],
        read: Callable[[int], Tensor],
        *,
        workers: int = 2,
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        self.read, self.workers, self.dtype = read, max(1, workers), dtype
        self.shape = torch.Size([count, *shape])
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def ask(self, index: Sequence[int]) -> Callable[[], Tensor]:
        """Begin to decode rows, and return the function that waits for them, (len(index), *shape)."""
        if self._pool is None or self._process != os.getpid():  # threads do not survive a fork
            self._pool, self._process = ThreadPoolExecutor(self.workers, "decode"), os.getpid()
        futures: list[Future[Tensor]] = [self._pool.submit(self.read, int(i)) for i in index]

        def wait() -> Tensor:
            try:
                rows = [future.result() for future in futures]
            finally:
                for future in futures:  # after an error nobody wants the rest
                    future.cancel()
            return torch.stack(rows) if rows else torch.empty((0, *self.shape[1:]), dtype=self.dtype)

        return wait

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return the rows of these numbers as a tensor; ``dim`` is 0."""
        return self.ask(index.tolist())()

    def __getitem__(self, key: slice | Tensor | int) -> Tensor | Rows:
        if isinstance(key, slice):
            if key == slice(None):
                return self
            return self.ask(range(len(self))[key])()
        if isinstance(key, Tensor):
            index = key.nonzero().flatten() if key.dtype == torch.bool else key % max(1, len(self))
            return self.index_select(0, index)
        return self.ask([range(len(self))[key]])()[0]

    def __iter__(self) -> Iterator[Tensor]:
        for part in self.split(_CHUNK):
            yield from part

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield tensors of ``size`` rows in order; the next one is decoded while the last one is used."""
        starts = range(0, len(self), size)
        waiting = self.ask(range(len(self))[:size]) if starts else None
        for start in starts:
            part = waiting()  # type: ignore[misc]
            waiting = self.ask(range(len(self))[start + size : start + 2 * size])
            yield part

    def first(self, count: int) -> Rows:
        """Return the first ``count`` rows, still to be decoded."""
        return self.chosen(range(min(count, len(self))))

    def chosen(self, index: Sequence[int]) -> Rows:
        """Return rows of these numbers, still to be decoded."""
        return Rows(
            len(index), self.shape[1:], lambda i: self.read(index[i]), workers=self.workers, dtype=self.dtype
        )  # fmt: skip

    def mapped(self, function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Rows:
        """Return the rows with a function of one example applied to each as it is decoded."""
        return Rows(
            len(self), self.shape[1:], lambda i: function(self.read(i)), workers=self.workers, dtype=dtype
        )  # fmt: skip
