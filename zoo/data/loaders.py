"""Loaders of Python's as data: DataLoaders, plain LightningDataModules and datasets that are read by index.

A loader is taken as it is: its batches, its workers, its transforms. What it draws from torch's global generator, and
from one of its own, is a function of (seed, epoch, batch), so that a run that goes on sees the same batches again;
those before are loaded and passed over. Several devices load the same batches and take turns. What draws from other
generators, such as numpy's, is beyond this.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from zoo.batches import parts_of
from zoo.data.base import Split, TensorData, chosen, derive_seed
from zoo.data.tensors import SPLITS, held, held_out, hold, stored
from zoo.errors import ConfigError, DataError

__all__ = ["LoaderBatches", "Loaders", "spec_of"]

log = logging.getLogger("zoo.data")

_ORDER = 0x0DE12
_GO_ON = "go on from Python, with the same loaders: zoo.fit(resume=RUN, data=...)"


@dataclass
class GivenLoaders:
    """Loaders by split, or the data module that makes them."""

    loaders: dict[str, Any] = field(default_factory=dict)
    module: LightningDataModule | None = None
    ready: set[str] = field(default_factory=set)

    def loader(self, split: str) -> Any:
        """Return the loader of a split; None where there is none."""
        if self.module is None:
            return self.loaders.get(split)
        stage = {"train": "fit", "validation": "fit", "test": "test"}[split]
        if not self.ready:
            self.module.prepare_data()
        if stage not in self.ready:
            self.module.setup(stage)
            self.ready.add(stage)
        made = {"train": "train_dataloader", "validation": "val_dataloader", "test": "test_dataloader"}[split]
        if getattr(type(self.module), made) is getattr(LightningDataModule, made):
            return None
        found = getattr(self.module, made)()
        if isinstance(found, (list, tuple)) and len(found) == 1:
            found = found[0]
        if isinstance(found, (list, tuple, Mapping)):
            raise DataError(f"{type(self.module).__name__}.{made} gives {len(found)} loaders; a run takes one")
        return found


def spec_of(data: Any, batch_size: int | None = None) -> dict[str, Any]:
    """Return the spec of a data module for what Python gives.

    Args:
        data: a `TensorData`; a tensor, a numpy array, a pair with labels; a mapping of these, or of loaders, by split,
            with options of `zoo.data.tensors.Tensors`; a Dataset that is read by index; a DataLoader; a
            LightningDataModule.
        batch_size: of tensors and datasets; loaders have their own.

    Raises:
        DataError: anything else.
        ConfigError: a batch size for a loader.
    """
    size = {} if batch_size is None else {"batch_size": batch_size}
    splits = data if isinstance(data, Mapping) else {"train": data}
    options = {k: v for k, v in splits.items() if k in ("levels", "class_names", "seed", "limit")}
    splits = {k: v for k, v in splits.items() if k not in options}
    if isinstance(data, (tuple, list)) and data and all(isinstance(d, DataLoader) for d in data):
        splits = dict(zip(SPLITS, data, strict=False))
    first = splits.get("train")
    if isinstance(first, TensorDataset):
        splits = {k: v.tensors if isinstance(v, TensorDataset) else v for k, v in splits.items()}
        first = splits["train"]
    if isinstance(first, Dataset) and hasattr(first, "__len__"):
        splits, size = _of_datasets(splits, batch_size or 128), {}
    elif isinstance(first, (DataLoader, LightningDataModule)):
        if batch_size is not None:
            raise ConfigError(f"a {type(first).__name__} has a batch size of its own; leave batch_size out")
    else:
        return {
            "class_path": "zoo.data.tensors.Tensors",
            "init_args": {"path": hold(_as_given(data, splits)), **options, **size},
        }
    given = GivenLoaders(module=first) if isinstance(first, LightningDataModule) else GivenLoaders(dict(splits))
    return {"class_path": "zoo.data.loaders.Loaders", "init_args": {"source": hold(given), **options, **size}}


def _as_given(data: Any, splits: Mapping[str, Any]) -> Any:
    given = splits if isinstance(data, Mapping) else splits["train"]
    try:
        for value in splits.values() if isinstance(data, Mapping) else [given]:
            parts_of(value)
    except DataError as error:
        raise DataError(
            f"data are of type {type(data).__name__}, which is none of what is taken: a name of a data set, "
            f"a tensor or array (N, ...), a pair with labels, a Dataset with a length, a DataLoader, a "
            f"LightningDataModule, or a mapping of these by train, validation, test"
        ) from error
    return given


def _of_datasets(splits: Mapping[str, Any], batch_size: int) -> dict[str, DataLoader]:
    """Return loaders of datasets; validation and test are held out of training where they are missing."""
    found = dict(splits)
    missing = {split: 0.1 for split in SPLITS[1:] if split not in found}
    if missing:
        whole = found["train"]
        parts = held_out(len(whole), missing)
        found |= {split: Subset(whole, index.tolist()) for split, index in parts.items()}
    size = min(batch_size, len(found["train"]))
    return {k: DataLoader(v, size, shuffle=k == "train", drop_last=k == "train") for k, v in found.items()}


class LoaderBatches:
    """Endless training batches of a loader, one epoch per pass, that can start at any step.

    Args:
        loader: sized; its batches are given as they are.
        seed: of the order, where the loader shuffles.
        rank: share of this process, 0 <= rank < world.
        world: number of processes.
        repeat: give the first so many batches again and again; 0 for all.
    """

    def __init__(self, loader: Any, *, seed: int, rank: int = 0, world: int = 1, repeat: int = 0) -> None:
        self.loader, self.seed, self.rank, self.world, self.repeat = loader, seed, rank, world, repeat
        self.step = 0
        self._first: list[Any] = []

    def __len__(self) -> int:
        return len(self.loader) // self.world

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the current epoch."""
        if self.repeat:
            self._first = self._first or list(islice(self._epoch(0), self.repeat))
            for t in range(self.step, self.step + len(self)):
                self.step += 1
                yield self._first[t % self.repeat]
            return
        for batch in islice(self._epoch(self.step // len(self)), self.step % len(self), len(self)):
            self.step += 1
            yield batch

    def _epoch(self, epoch: int) -> Iterator[Any]:
        """Yield this rank's batches of an epoch, each drawn with a seed of its own."""
        for owner in (self.loader, getattr(self.loader, "sampler", None)):
            if isinstance(getattr(owner, "generator", None), torch.Generator):
                owner.generator.manual_seed(derive_seed(self.seed, epoch, _ORDER))
            if callable(getattr(owner, "set_epoch", None)):
                owner.set_epoch(epoch)
        torch.manual_seed(derive_seed(self.seed, epoch, _ORDER))
        batches = iter(self.loader)
        for t in range(len(self) * self.world):
            torch.manual_seed(derive_seed(self.seed, epoch, t, _ORDER))
            try:
                batch = next(batches)
            except StopIteration:
                raise DataError(
                    f"the loader ended after {t} batches, and says that it has {len(self.loader)}"
                ) from None
            if t % self.world == self.rank:
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


class Loaders(TensorData):
    """Batches of loaders that this process was given; what is written here otherwise is what they were.

    Args:
        source: the word under which this process keeps them.
        levels: grey levels; 0 for continuous values; by default what the first batch looks like.
        class_names: of the labels 0, 1, ...
        shape: of an example, when the run began.
        batches: of an epoch, when the run began.
        seed: of what the loaders draw.
    """

    name = "loaders"

    def __init__(
        self,
        source: str,
        levels: int | None = None,
        class_names: list[str] | None = None,
        shape: list[int] | None = None,
        batches: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(1, seed)
        self.given: GivenLoaders = held(source, _GO_ON)
        self.loader = self.given.loader("train")
        try:
            count = len(self.loader)
        except TypeError:
            raise DataError(
                "the training loader has no length, so its epochs have no end; give one of a dataset that is read by "
                "index, or a LightningDataModule with such a one"
            ) from None
        if not count:
            raise DataError("the training loader has no batch; give it more examples, or smaller batches")
        x, labels = self._look()
        self.batch_size = len(x)
        levels = None if levels is None and x.ndim != 3 else levels
        kept, self.levels = stored(x, levels, "the examples of the training loader")
        self._rounds = x.is_floating_point() and self.levels is not None
        self.shape = tuple(kept.shape[1:])
        self.num_classes = self._classes(labels)
        self.class_names = tuple(class_names or ())
        for what, now, then in (("shape", list(self.shape), shape), ("batches", count, batches)):
            if then is not None and now != then:
                raise ConfigError(f"the run was trained on loaders whose {what} was {then}, and it is {now} now")

    def _look(self) -> tuple[Tensor, Tensor | None]:
        """Return the first batch that there will be, without a trace in torch's generator."""
        with torch.random.fork_rng(devices=[]):
            try:
                return parts_of(next(iter(LoaderBatches(self.loader, seed=self.seed))))
            except TypeError as error:
                raise DataError(
                    f"the loader gives no batches: {' '.join(str(error).split())[:200]}; give a dataset whose examples "
                    f"are tensors (for pictures: transform=torchvision.transforms.ToTensor())"
                ) from error

    def _classes(self, labels: Tensor | None) -> int:
        """Return the number of classes: that of the dataset where it says it, else of the labels that are seen."""
        if labels is None or labels.is_floating_point() or labels.ndim != 1:
            return 0
        names = getattr(getattr(self.loader, "dataset", None), "classes", None)
        if isinstance(names, (list, tuple)) and names:
            return len(names)
        most = int(labels.max())
        for batch in islice(self.loader, 100):  # a first batch need not have all
            most = max(most, int(parts_of(batch)[1].max()))  # type: ignore[union-attr]
        return most + 1

    def batches(self, world: int = 1) -> int:
        return len(self.loader) // world

    def kept_in(self, folder: Any) -> dict[str, Any]:
        """Return the facts by which the same loaders are known again."""
        return {"shape": list(self.shape), "batches": len(self.loader)}

    def read(self, split: str) -> Split:
        """Return all examples of a split; of validation or test, where there is none, those of the other."""
        loader = self.given.loader(split)
        if loader is None and split != "train":
            loader = self.given.loader("test" if split == "validation" else "validation")
        if loader is None:
            raise DataError(f"there is no loader of the {split} split; give one, as in data={{'{split}': loader}}")
        parts = [parts_of(batch) for batch in loader]
        x = torch.cat([stored(x, self.levels or 0, f"the {split} examples")[0] for x, _ in parts])
        labels = [torch.zeros(len(x), dtype=torch.int64) if y is None else y.long() for x, y in parts]
        return x, torch.cat(labels)

    def batch(self) -> Split:
        x, labels = self._look()
        zeros = torch.zeros(len(x), dtype=torch.int64)
        return x, zeros if labels is None or labels.is_floating_point() else labels.long()

    def first(self, n: int) -> Split:
        batches, found = LoaderBatches(self.loader, seed=self.seed), 0
        parts = []
        with torch.random.fork_rng(devices=[]):
            for batch in batches:
                x, y = parts_of(batch)
                parts.append((stored(x, self.levels or 0, "the examples")[0], y))
                found += len(x)
                if found >= n:
                    break
        x = torch.cat([x for x, _ in parts])
        return chosen((x, torch.zeros(len(x), dtype=torch.int64)), range(min(n, len(x))))

    # -- Lightning ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> Any:
        rank, world = self._place()
        if len(self.loader) < world:
            raise DataError(f"the training loader has {len(self.loader)} batches, too few for {world} devices")
        made = LoaderBatches(self.loader, seed=self.seed, rank=rank, world=world)
        made.repeat = self._repeated(len(made))
        return made

    def val_dataloader(self) -> Any:
        return self._evaluated("validation")

    def test_dataloader(self) -> Any:
        return self._evaluated("test")

    def _evaluated(self, split: str) -> Any:
        loader = self.given.loader(split)
        return [] if loader is None else super()._sequential(split)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        module = self.given.module if self.trainer.training else None
        if module is not None:
            module.trainer = self.trainer
            batch = module.on_before_batch_transfer(batch, dataloader_idx)
        batch = move_data_to_device(batch, device)
        if module is not None:
            batch = module.on_after_batch_transfer(batch, dataloader_idx)
        x, labels = parts_of(batch)
        if labels is None or labels.is_floating_point():
            labels = torch.zeros(len(x), dtype=torch.int64, device=device)
        return self.to_float(x, self.trainer.lightning_module.dtype), labels.long()

    def to_float(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if not x.is_floating_point():
            return super().to_float(x, dtype)
        x = x.to(dtype)
        return x.mul(self.levels - 1).round_().div_(self.levels - 1) if self._rounds and self.levels else x
