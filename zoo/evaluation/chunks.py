"""Pieces of an evaluation that any process may do, in any order, and that are kept until all are done."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from tqdm.auto import tqdm

from zoo.abilities import has_likelihood, is_conditional
from zoo.errors import ResultError
from zoo.metrics.fidelity import stored
from zoo.model import GenerativeModel

__all__ = ["Chunk", "Store", "Task", "likelihood_chunks", "sample_chunks"]

_ROWS = 2_000  # images times importance samples at a time
_IMAGES = 100


@dataclass(frozen=True)
class Chunk:
    """One piece: samples or test examples from ``start`` to ``stop``, with the seed of their noise.

    Attributes:
        stem: name of the file that keeps it.
        title: what a progress bar says.
        k: importance samples of a likelihood, 0 for samples.
    """

    stem: str
    title: str
    start: int
    stop: int
    seed: int
    k: int = 0


def sample_chunks(seed: int, n: int, size: int) -> list[Chunk]:
    """Divide n samples into chunks of ``size``."""
    starts = range(0, n, size)
    seeds = _seeds(seed, len(starts))
    return [
        Chunk(f"samples-{seed}-{i:06d}", "samples", start, min(start + size, n), s)
        for i, (start, s) in enumerate(zip(starts, seeds, strict=True))
    ]


def likelihood_chunks(seed: int, n: int, k: int, title: str) -> list[Chunk]:
    """Divide n test examples, each with k importance samples, into chunks of `likelihood_size`."""
    size = likelihood_size(k)
    starts = range(0, n, size)
    seeds = _seeds(seed, len(starts))
    return [
        Chunk(f"likelihood-{k}-{seed}-{i:06d}", title, start, min(start + size, n), s, k)
        for i, (start, s) in enumerate(zip(starts, seeds, strict=True))
    ]


def likelihood_size(k: int) -> int:
    """Return how many examples are taken at a time with k importance samples each."""
    return min(_IMAGES, max(1, _ROWS // k))


def _seeds(seed: int, n: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**62, (n,), generator=generator).tolist()


class Store:
    """Finished chunks by stem: in memory, or in a folder where they outlive the process.

    A file that cannot be read counts as not there; one that cannot be written raises `ResultError`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._held: dict[str, dict[str, Tensor]] = {}

    def __contains__(self, stem: str) -> bool:
        return self.get(stem) is not None

    def get(self, stem: str) -> dict[str, Tensor] | None:
        """Return the tensors of a chunk, or None."""
        if self.folder is None:
            return self._held.get(stem)
        try:
            return load(self._path(stem).read_bytes())
        except (OSError, SafetensorError, ValueError):
            return None

    def put(self, stem: str, content: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a chunk."""
        if self.folder is None:
            self._held[stem] = dict(content)
        elif not stored(self._path(stem), save({k: v.contiguous() for k, v in content.items()})):
            raise ResultError(f"{self.folder} cannot be written, so the evaluation cannot go on; free some space there")

    def clear(self) -> None:
        """Forget everything, the folder included."""
        self._held.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, stem: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{stem}.safetensors"


@dataclass(frozen=True)
class Task:
    """What a process needs to do a chunk.

    Attributes:
        model: in eval mode.
        examples: (start, stop) -> test examples in the model's range, (B, *shape), and labels (B,).
        options: sampling options.
        levels: to how many values samples are rounded, None for not at all.
        conditions: texts that samples are drawn for, in turn, int64 (N, T), where the model is told texts.
    """

    model: GenerativeModel
    examples: Callable[[int, int], tuple[Tensor, Tensor]]
    options: Mapping[str, Any]
    levels: int | None
    conditions: Tensor | None = None

    def work(self, chunks: Sequence[Chunk], store: Store, *, rank: int = 0, world: int = 1, bar: bool = False) -> None:
        """Do this process's share of the chunks: those that the store does not hold yet."""
        for title in dict.fromkeys(chunk.title for chunk in chunks):
            share = [chunk for chunk in chunks if chunk.title == title][rank::world]
            for chunk in tqdm(share, title, delay=2, leave=False, disable=not bar):
                if chunk.stem not in store:
                    store.put(chunk.stem, self.do(chunk))

    def collect(self, chunks: Sequence[Chunk], store: Store) -> dict[str, Tensor]:
        """Return the tensors of all chunks, joined in order; what the store lacks is done now."""
        found = []
        for chunk in chunks:
            content = store.get(chunk.stem)
            found.append(self.do(chunk) if content is None else content)
        return {name: torch.cat([part[name] for part in found]) for name in found[0]}

    def asked(self, start: int, stop: int) -> Tensor | None:
        """Return what the samples from start to stop are drawn for: classes (B,), texts (B, T), or nothing."""
        if self.conditions is not None:
            return self.conditions[torch.arange(start, stop) % len(self.conditions)]
        return torch.arange(start, stop) % self.model.num_classes if self.model.num_classes else None

    @torch.no_grad()
    def do(self, chunk: Chunk) -> dict[str, Tensor]:
        """Return ``log_prob`` (B,), or ``x`` (B, *shape) as drawn or as levels, with the seconds that it took."""
        return self._log_prob(chunk) if chunk.k else self._sample(chunk)

    def _log_prob(self, chunk: Chunk) -> dict[str, Tensor]:
        """Return log p(x) in nats, float64; of a conditional model log p(x | y), with the labels of the data."""
        model = self.model
        assert has_likelihood(model)
        x, labels = self.examples(chunk.start, chunk.stop)
        given = {"labels": labels.to(model.device)} if is_conditional(model) else {}
        return {"log_prob": model.log_prob(x.to(model.device), k=chunk.k, seed=chunk.seed, **given).double().cpu()}

    def _sample(self, chunk: Chunk) -> dict[str, Tensor]:
        model, n = self.model, chunk.stop - chunk.start
        asked = self.asked(chunk.start, chunk.stop)
        given = {"labels": asked.to(model.device)} if asked is not None else {}
        begin = time.perf_counter()
        x = model.sample(n, seed=chunk.seed, **given, **self.options).float().cpu()
        seconds = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        if not bool(x.isfinite().all()):
            bad = int((~x.flatten(1).isfinite().all(1)).sum())
            raise ResultError(f"{bad} of {n} samples hold NaN or infinity; the model has diverged")
        if self.levels is not None and self.levels <= 256:
            x = (x.clamp(0, 1) * (self.levels - 1)).round().to(torch.uint8)  # as an image file would hold it
        return {"x": x, "seconds": seconds} | ({"asked": asked} if asked is not None else {})
