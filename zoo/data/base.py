"""Splits that are read by index, from a tensor or decoded on the fly, with an order that is a function of the step.

The training stream has no state but its step: batch t of a run is a slice of the permutation of epoch ``t // n``, drawn
from (seed, epoch), and every rank takes its own share of it. A run that was interrupted goes on by setting the step.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from zoo.data.rows import Rows
from zoo.errors import ConfigError, DataError
from zoo.maths.noise import sent
from zoo.spec import Recorded

__all__ = ["BatchStream", "SequentialBatches", "Split", "TensorData", "chosen", "derive_seed"]

Split = tuple[Tensor, Tensor]
"""Examples, a tensor (N, *shape) or `zoo.data.rows.Rows` that are decoded as they are read, and labels int64 (N,)."""

Transform = Callable[[Tensor, torch.Generator], Tensor]

_DRAW = 0x5EED
"""Stream of the random transforms of training batches."""

_SHARE = 0.25
"""Of the free memory of a GPU that a split may take."""

_AHEAD = 2
"""Batches that are decoded while the model computes another one."""

_EVALUATED, _EVALUATED_BYTES = 250, 4 << 20
"""Examples of a batch that is only evaluated, fewer where they are large."""


def room(device: torch.device) -> int:
    """Return the free bytes of a GPU; none of another device, where data have no reason to go."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def derive_seed(*parts: int) -> int:
    """Mix integers into one seed of 63 bits, so that neighbouring (seed, step, rank) give unrelated streams."""
    digest = hashlib.blake2b(",".join(map(str, map(int, parts))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class BatchStream:
    """Endless training batches, one epoch per pass, that can start at any step.

    Args:
        data: examples (N, ...) and labels (N,).
        batch_size: examples a rank.
        seed: of the order and of the transform.
        rank: share of this process, 0 <= rank < world.
        world: number of processes.
        transform: random map of a batch, given a generator that depends on (seed, step, rank) only.
        repeat: give the first so many batches of the unshuffled data again and again; 0 for all of them, shuffled.
    """

    def __init__(
        self,
        data: Split,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        transform: Transform | None = None,
        repeat: int = 0,
    ) -> None:
        self.x, self.labels, self.repeat = *data, repeat
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.transform = transform
        self.step = 0
        if len(self) == 0:
            raise DataError(
                f"a batch of {batch_size} on {world} device(s) needs {batch_size * world} training examples, the data "
                f"have {len(self.x)}; set --data.batch_size lower"
            )

    def __len__(self) -> int:
        return len(self.x) // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[Split]:
        """Yield the rest of the current epoch."""
        epoch = self.step // len(self)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        order = torch.randperm(len(self.x), generator=generator)
        batches: Sequence[int] = range(self.step % len(self), len(self))
        if self.repeat:
            order = torch.arange(len(self.x))
            batches = [t % self.repeat for t in range(self.step, self.step + len(self))]
        order = order if isinstance(self.x, Rows) else sent(order, self.x.device)  # drawn alike for all devices
        firsts = [(t * self.world + self.rank) * self.batch_size for t in batches]
        indices = [order[first : first + self.batch_size] for first in firsts]
        copies = _decoded if isinstance(self.x, Rows) else _copied
        for x, index in zip(copies(self.x, indices), indices, strict=True):
            if self.transform is not None:
                generator.manual_seed(derive_seed(self.seed, self.step, self.rank, _DRAW))
                x = self.transform(x, generator)
            self.step += 1
            yield x, self.labels.index_select(0, index)

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def _copied(x: Tensor, indices: Iterable[Tensor]) -> Iterator[Tensor]:
    return map(x.index_select, repeat(0), indices)  # copies rows, many times as fast as indexing bytes


def _decoded(rows: Rows, indices: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the rows of each index, read a few batches ahead of who takes them."""
    waiting: deque[Callable[[], Tensor]] = deque()
    for index in indices:
        waiting.append(rows.ask(index.tolist()))
        if len(waiting) > _AHEAD:
            yield waiting.popleft()()
    for wait in waiting:
        yield wait()


class SequentialBatches:
    """Every example once, in order; ranks take turns by batch, and each has one where there is an example for each."""

    def __init__(self, data: Split, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        self.x, self.labels = data
        batch_size = min(batch_size, max(1, len(self.x) // world))
        self.starts = range(rank * batch_size, len(self.x), batch_size * world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Split]:
        if isinstance(self.x, Rows):
            indices = [torch.arange(start, min(start + self.batch_size, len(self.x))) for start in self.starts]
            for x, index in zip(_decoded(self.x, indices), indices, strict=True):
                yield x, self.labels[index]
            return
        for start in self.starts:
            stop = start + self.batch_size
            yield self.x[start:stop], self.labels[start:stop]


def chosen(data: Split, index: Sequence[int] | Tensor) -> Split:
    """Return the examples and labels of these numbers; rows stay to be decoded."""
    x, labels = data
    index = torch.as_tensor(index, dtype=torch.int64)
    return (x.chosen(index.tolist()) if isinstance(x, Rows) else x[index]), labels[index]  # type: ignore[return-value]


class TensorData(Recorded, LightningDataModule):
    """Base of the data modules.

    Subclasses say `name`, `shape`, `levels`, `num_classes`, `class_names` where classes have names, and read a split in
    `read`.

    Args:
        batch_size: examples a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training examples.

    Attributes:
        stored: what training and validation read in the place of the examples of a split, by its name: integers
            (N, ...), which reach the model as int64; see `zoo.training.stored_examples`.
        on_gpu: whether splits that fit are copied to the GPU that trains, once, and indexed there, in the same order.
    """

    name: str = ""
    counting: str | None = None  # how the likelihood of a text or a recording is counted, for the protocol
    shape: tuple[int, ...] = ()
    levels: int | None = 256
    num_classes: int = 0
    class_names: tuple[str, ...] = ()  # of the labels 0, 1, ...; none where classes have no names
    alphabet: str | None = None  # of examples that are texts, or of the texts beside them

    def __init__(self, batch_size: int = 128, seed: int = 0, limit: int | None = None) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, or left out for all examples, got {limit}")
        self.batch_size, self.seed, self.limit = batch_size, seed, limit
        self._splits: dict[str, Split] = {}
        self.stored: dict[str, Tensor] = {}
        self.on_gpu = True
        self._near: dict[str, tuple[Tensor, Split]] = {}
        self._digests: dict[str, str] = {}
        self._stream: BatchStream | None = None

    def read(self, split: str) -> Split:
        """Return examples, uint8 (N, *shape) (or float32 where `levels` is None), and int64 labels (N,)."""
        raise NotImplementedError

    def split(self, name: str) -> Split:
        """Return the split ``train``, ``validation`` or ``test``, read once."""
        if name not in ("train", "validation", "test"):
            raise DataError(f"{self.name} has no split {name!r}; it has train, validation and test")
        if name not in self._splits:
            x, labels = self.read(name)
            if name == "train" and self.limit is not None:
                x = x.first(self.limit) if isinstance(x, Rows) else x[: self.limit]
                labels = labels[: self.limit]
            self._splits[name] = (x, labels)
        return self._splits[name]

    def batch(self) -> Split:
        """Return a training batch, as it is stored, and its labels."""
        return next(iter(self.train_dataloader()))

    def first(self, n: int) -> Split:
        """Return the first training examples, at most n, and their labels."""
        x, labels = self.split("train")
        return x[:n], labels[:n]

    def kept_in(self, folder: Path) -> dict[str, Any]:
        """Return the arguments by which a run in this folder finds its data again, where they are not those given."""
        return {}

    def write(self, folder: Path) -> None:
        """Write to a run folder what of the data no other process could find."""

    def digest(self, split: str) -> str:
        """Return the sha256 of the bytes of a split, examples then labels."""
        if split not in self._digests:
            x, labels = self.split(split)
            self._digests[split] = self.fingerprint(x, labels)
        return self._digests[split]

    @staticmethod
    def fingerprint(*parts: Tensor | Rows) -> str:
        """Return the sha256 of the bytes of all parts, one after the other, whatever they are held in."""
        digest = hashlib.sha256()
        for part in parts:
            for piece in part.split(_EVALUATED):
                digest.update(piece.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def preparation(self) -> dict[str, Any]:
        """Return what was done to the examples that the name of the data does not say, for the protocol."""
        return {}

    @property
    def unit(self) -> str:
        """Name of the metric of likelihoods: ``nats`` of an example, or bits of a value, ``bits_per_...``."""
        return "nats" if self.levels in (None, 2) else "bits_per_dim"

    def transform(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Random map of a batch that makes the data what they are; the identity unless a data set says otherwise."""
        return x

    def augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Random map of a training batch that makes more of few examples; the identity unless it was asked for."""
        return x

    def to_float(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Turn stored examples into the model's range: uint8 levels 0..L-1 into k / (L - 1)."""
        if isinstance(x, Rows):
            return x.mapped(lambda row: self.to_float(row, dtype), dtype)
        return x.to(dtype) if self.levels in (None, 2) else x.to(dtype).div_(self.levels - 1)

    # -- Lightning ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> BatchStream:
        rank, world = self._place()
        self._stream = BatchStream(
            self._read("train"), self.batch_size, seed=self.seed, rank=rank, world=world, transform=self._randomness(),
        )  # fmt: skip
        self._stream.repeat = self._repeated(len(self._stream))
        return self._stream

    def _repeated(self, batches: int) -> int:
        """Return how many batches the Trainer wants again and again, by its ``overfit_batches``; 0 for all."""
        wanted = self.trainer.overfit_batches if self.trainer is not None else 0
        return min(batches, wanted) if isinstance(wanted, int) else int(batches * wanted)

    def batches(self, world: int = 1) -> int:
        """Return how many training batches of a device an epoch has."""
        return len(self.split("train")[0]) // (self.batch_size * world)

    def _randomness(self) -> Transform | None:
        """Return what a training batch goes through, None for nothing."""
        own = type(self).transform is not TensorData.transform
        more = self.preparation.get("augment") is not None
        if own and more:
            return lambda x, generator: self.transform(self.augmented(x, generator), generator)
        return self.transform if own else self.augmented if more else None

    def val_dataloader(self) -> SequentialBatches:
        return self._sequential("validation")

    def test_dataloader(self) -> SequentialBatches:
        return self._sequential("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        x, labels = batch
        x, labels = x.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if self.stored:
            return x.long(), labels
        module = getattr(self.trainer, "lightning_module", None)
        return self.to_float(x, module.dtype if module is not None else torch.get_default_dtype()), labels

    def _read(self, name: str) -> Split:
        """Return what loaders read of a split."""
        x, labels = self.split(name)
        x = self.stored.get(name, x)
        device = self.trainer.strategy.root_device if self.trainer is not None else None
        drawn_here = name == "train" and self._randomness() is not None  # by a generator of the CPU
        if not self.on_gpu or device is None or drawn_here or not isinstance(x, Tensor):
            return x, labels  # type: ignore[return-value]
        if name not in self._near or self._near[name][0] is not x:
            self._near.pop(name, None)
            if x.nbytes + labels.nbytes > room(device) * _SHARE:
                return x, labels
            self._near[name] = (x, (x.to(device), labels.to(device)))
        return self._near[name][1]

    @property
    def fixed(self) -> bool:
        """Whether a training example is the same tensor whenever it is read."""
        return self._randomness() is None and isinstance(self.split("train")[0], Tensor)

    def _sequential(self, name: str) -> SequentialBatches:
        rank, world = self._place()
        size = max(1, math.prod(self.shape)) * (4 if self.levels is None else 1)
        most = min(_EVALUATED, max(1, _EVALUATED_BYTES // size))
        data = self._read(name)
        if len(data[0]) < world:
            raise DataError(
                f"the {name} split of {self.name} has {len(data[0])} examples, too few for {world} devices; give it "
                f"more, or train without it by --trainer.limit_val_batches 0"
            )
        return SequentialBatches(data, max(self.batch_size, most), rank=rank, world=world)

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
