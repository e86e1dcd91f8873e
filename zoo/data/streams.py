"""Pictures that come in a stream: read from the start, shuffled in a buffer, decoded on the fly.

The order of an epoch is a function of (seed, epoch): the shards are permuted where there are several, and a buffer
gives out one of its records at random each time that the next one comes in. All ranks read the same order and take
turns, so that several devices see the batches of one; only what a rank takes is decoded. A run that goes on in the
middle of an epoch reads up to there again, without decoding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from zoo.data.base import Split, Transform, derive_seed
from zoo.data.images import ImageData
from zoo.data.pictures import BadPicture, Preparation
from zoo.data.rows import Rows
from zoo.errors import ConfigError, DataError

__all__ = ["Record", "ShuffledStream", "StreamImages", "StreamRows", "shuffled"]

Record = tuple[bytes, int, str]
"""A picture file, its label, and its name for messages."""

_DRAW = 0x5EED
_AHEAD = 2


def shuffled(records: Iterator[Record], buffer: int, generator: torch.Generator) -> Iterator[Record]:
    """Give out records at random from a buffer of so many, in an order that the generator alone decides."""
    held = list(islice(records, buffer))
    for record in records:
        i = int(torch.randint(len(held), (1,), generator=generator))
        held[i], out = record, held[i]
        yield out
    for i in torch.randperm(len(held), generator=generator).tolist():
        yield held[i]


class StreamRows(Rows):
    """A split that is a stream, for those who read it by rows: each access reads the stream from its start.

    Args:
        count: number of records.
        shape: of an example.
        records: begins the stream anew.
        decode: record -> example, in several threads at once.
        workers: threads that decode.
        dtype: of an example.
        numbers: of the records that are the rows; all if left out.
    """

    def __init__(
        self,
        count: int,
        shape: Sequence[int],
        records: Callable[[], Iterator[Record]],
        decode: Callable[[Record], Tensor],
        *,
        workers: int = 2,
        dtype: torch.dtype = torch.uint8,
        numbers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(count, shape, self._one, workers=workers, dtype=dtype)
        self.records, self.decode = records, decode
        self.numbers: Sequence[int] = range(count) if numbers is None else numbers

    def _one(self, i: int) -> Tensor:
        return self.ask([i])()[0]

    def ask(self, index: Sequence[int]) -> Callable[[], Tensor]:
        wanted: dict[int, list[int]] = {}
        for place, i in enumerate(index):
            wanted.setdefault(self.numbers[int(i)], []).append(place)

        def wait() -> Tensor:
            out = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
            last = max(wanted, default=-1)
            chosen = ((n, r) for n, r in enumerate(islice(self.records(), last + 1)) if n in wanted)
            with ThreadPoolExecutor(self.workers) as pool:
                for part in iter(lambda: list(islice(chosen, 64)), []):
                    for (n, _), x in zip(part, pool.map(self.decode, [r for _, r in part]), strict=True):
                        out[wanted[n]] = x
            return out

        return wait

    def split(self, size: int) -> Iterator[Tensor]:
        if not isinstance(self.numbers, range):
            yield from (self.ask(range(i, min(i + size, len(self))))() for i in range(0, len(self), size))
            return
        records = islice(self.records(), self.numbers.start, self.numbers.stop)
        with ThreadPoolExecutor(self.workers) as pool:
            while part := list(islice(records, size)):
                yield torch.stack(list(pool.map(self.decode, part)))

    def chosen(self, index: Sequence[int]) -> Rows:
        index = index if index == range(len(index)) else list(index)
        numbers = [self.numbers[i] for i in index] if isinstance(index, list) else self.numbers[: len(index)]
        return StreamRows(
            len(index), self.shape[1:], self.records, self.decode, workers=self.workers, dtype=self.dtype,
            numbers=numbers,
        )  # fmt: skip

    def mapped(self, function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Rows:
        return StreamRows(
            len(self), self.shape[1:], self.records, lambda record: function(self.decode(record)),
            workers=self.workers, dtype=dtype, numbers=self.numbers,
        )  # fmt: skip


class ShuffledStream:
    """Endless training batches of a stream, one epoch per pass, that can start at any step; as `BatchStream` is.

    Args:
        rows: the split, its length and how it is decoded.
        epoch: (seed of the epoch) -> its records, the shards permuted by that seed.
        batch_size, seed, rank, world, transform: as in `zoo.data.base.BatchStream`.
        buffer: records that are shuffled among each other.
    """

    def __init__(
        self,
        rows: StreamRows,
        epoch: Callable[[int], Iterator[Record]],
        batch_size: int,
        *,
        seed: int,
        buffer: int,
        rank: int = 0,
        world: int = 1,
        transform: Transform | None = None,
    ) -> None:
        self.rows, self.epoch, self.buffer, self.transform = rows, epoch, buffer, transform
        self.batch_size, self.seed, self.rank, self.world, self.step = batch_size, seed, rank, world, 0
        if len(self) == 0:
            raise DataError(
                f"a batch of {batch_size} on {world} device(s) needs {batch_size * world} training examples, the "
                f"stream has {len(rows)}; set --data.batch_size lower"
            )

    def __len__(self) -> int:
        return len(self.rows) // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[Split]:
        """Yield the rest of the current epoch."""
        number = self.step // len(self)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number))
        records = shuffled(self.epoch(derive_seed(self.seed, number)), self.buffer, generator)
        whole = self.batch_size * self.world
        records = islice(records, self.step % len(self) * whole, len(self) * whole)
        noise = torch.Generator()
        for x, labels in self._decoded(records, whole):
            if self.transform is not None:
                noise.manual_seed(derive_seed(self.seed, self.step, self.rank, _DRAW))
                x = self.transform(x, noise)
            self.step += 1
            yield x, labels

    def _decoded(self, records: Iterator[Record], whole: int) -> Iterator[Split]:
        first = self.rank * self.batch_size
        waiting: deque = deque()
        with ThreadPoolExecutor(self.rows.workers) as pool:
            try:
                while len(batch := list(islice(records, whole))) == whole:
                    own = batch[first : first + self.batch_size]
                    waiting.append(([pool.submit(self.rows.decode, r) for r in own], [label for _, label, _ in own]))
                    if len(waiting) > _AHEAD:
                        yield _gathered(*waiting.popleft())
                while waiting:
                    yield _gathered(*waiting.popleft())
            finally:  # nobody wants the rest of an epoch that was left
                for futures, _ in waiting:
                    for future in futures:
                        future.cancel()

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def _gathered(futures: list, labels: list[int]) -> Split:
    return torch.stack([future.result() for future in futures]), torch.tensor(labels)


class StreamImages(ImageData):
    """Base of the image data sets that are streams. Validation and test are read into memory, training is not.

    Subclasses give `count`, `records` and `epoch`.

    Args:
        preparation: of the picture files.
        buffer: records that are shuffled among each other.
        memory: GiB that a decoded validation or test split may take.
        workers: threads that decode.
        batch_size, seed, augment: as in `ImageData`.
    """

    def __init__(
        self,
        preparation: Preparation,
        *,
        buffer: int,
        memory: float,
        workers: int,
        batch_size: int,
        seed: int,
        augment: str | None,
    ) -> None:
        self.picture, self.shape = preparation, preparation.shape
        super().__init__(batch_size, seed, None, augment)
        if buffer < 1:
            raise ConfigError(f"{self.name}: buffer must be at least 1, got {buffer}")
        self.buffer, self.memory, self.workers = buffer, memory, workers

    def count(self, split: str) -> int:
        """Return the number of records of a split."""
        raise NotImplementedError

    def records(self, split: str) -> Iterator[Record]:
        """Begin a split anew, in the order in which it is stored."""
        raise NotImplementedError

    def epoch(self, seed: int) -> Iterator[Record]:
        """Begin the training split, its shards in an order that the seed decides."""
        raise NotImplementedError

    @property
    def preparation(self) -> dict[str, object]:
        return {"resize": self.picture.resize, "background": self.picture.background, **super().preparation}

    def decode(self, record: Record) -> Tensor:
        """Return the example of a record, uint8 (C, H, W). Raises `DataError`."""
        import io

        try:
            return self.picture.read(io.BytesIO(record[0]))
        except BadPicture as error:
            raise DataError(f"{record[2]} cannot be read as a picture ({error}); take it out of the data") from error

    def read(self, split: str) -> Split:
        rows = StreamRows(
            self.count(split), self.shape, lambda: self.records(split), self.decode, workers=self.workers
        )  # fmt: skip
        if split == "train":
            return rows, torch.full((len(rows),), -1)  # type: ignore[return-value]  # known when they come
        size = rows.shape.numel() / 2**30
        if size > self.memory:
            raise DataError(
                f"the {split} split of {self.name} has {len(rows):,} pictures, which take {size:.2g} GiB; give it "
                "fewer, or set --data.memory higher"
            )
        labels = torch.tensor([label for _, label, _ in self.records(split)])
        return torch.cat(list(rows.split(256))), labels

    def train_dataloader(self) -> ShuffledStream:  # type: ignore[override]
        rank, world = self._place()
        rows = self.split("train")[0]
        assert isinstance(rows, StreamRows)
        if self._repeated(len(rows)):
            raise ConfigError(
                f"{self.name} is a stream, of which no batches come again; leave --trainer.overfit_batches out, and "
                "give less data"
            )
        return ShuffledStream(
            rows, self.epoch, self.batch_size, seed=self.seed, buffer=self.buffer, rank=rank, world=world,
            transform=self._randomness(),
        )  # fmt: skip
