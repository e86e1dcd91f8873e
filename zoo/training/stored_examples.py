"""What a frozen autoencoder makes of the examples, made once and stored: a prior then trains without the autoencoder.

The integers lie in the run folder, with what they were made from, so that a run that goes on reads what it was begun
with. Examples are encoded sixteen or a multiple at a time, as the autoencoder's samples are drawn: so the codes of an
example do not depend on its neighbours, and are those that a training which encodes every batch would see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zoo.abilities import StoresExamples
from zoo.data.base import TensorData
from zoo.data.rows import Rows
from zoo.files import write_whole
from zoo.model import GenerativeModel

__all__ = ["FILE", "can_store", "encoding_flops", "stand_in", "store"]

FILE = "codes.safetensors"
"""Name of the file in the run folder."""

_SPLITS = ("train", "validation")
_BATCH = 256
_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


def can_store(model: GenerativeModel, data: TensorData) -> bool:
    """Tell whether the model learns from something that is the same whenever an example is read."""
    return isinstance(model, StoresExamples) and model.storable and data.fixed


def encoding_flops(model: Any, data: TensorData) -> float:
    """Return the operations that encoding the training examples once takes."""
    x = data.to_float(data.split("train")[0][:16], model.dtype)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.stored(x)
    return float(counter.get_total_flops()) / len(x) * len(data.split("train")[0])


@contextmanager
def stand_in(model: Any, data: TensorData) -> Iterator[None]:
    """Let loaders give zeros of the shape of what would be stored, for measuring time and operations."""
    before = data.stored
    x = data.to_float(data.split("train")[0][:1], model.dtype)
    with torch.no_grad():
        one = model.stored(x)
    data.stored = {name: torch.zeros_like(one).expand(len(data.split(name)[1]), *one.shape[1:]) for name in _SPLITS}
    try:
        yield
    finally:
        data.stored = before


def store(model: Any, data: TensorData, folder: Path, *, write: bool = True) -> None:
    """Make the loaders of ``data`` give what the model makes of the examples: read from the folder, or made now.

    Args:
        model: with its trained parts in place.
        data: whose training and validation splits are encoded.
        folder: of the run, which exists.
        write: whether this process keeps what it made.

    Raises:
        OSError: the file cannot be written.
    """
    source = _source(model, data)
    found = _read(folder / FILE, source)
    if found is None:
        found = {name: _encoded(model, data, name) for name in _SPLITS}
        if write:
            facts = {"source": source, "sha256": TensorData.fingerprint(*found.values())}
            write_whole(folder / FILE, save(found, metadata={"zoo": json.dumps(facts)}))
    data.stored = found


def _source(model: Any, data: TensorData) -> str:
    """Return the digest of what the integers depend on: the data, and the parts that are trained before."""
    digest = hashlib.sha256()
    for name in _SPLITS:
        digest.update(data.digest(name).encode())
    for part in type(model).trained_parts:
        for key, value in getattr(model, part).state_dict().items():
            digest.update(key.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, source: str) -> dict[str, Tensor] | None:
    """Return what is stored, None where there is nothing whole that was made from the same."""
    try:
        with safe_open(str(path), "pt") as file:
            facts: Mapping[str, Any] = json.loads((file.metadata() or {})["zoo"])
            found = {name: file.get_tensor(name) for name in _SPLITS}
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    whole = facts.get("sha256") == TensorData.fingerprint(*found.values())
    return found if whole and facts.get("source") == source else None


@torch.no_grad()
def _encoded(model: Any, data: TensorData, name: str) -> Tensor:
    x, parts, home = data.split(name)[0], [], model.device
    assert not isinstance(x, Rows)
    for part in x.split(_BATCH):
        rows = data.to_float(part, model.dtype).to(home)
        short = -len(rows) % 16
        padded = rows if not short else torch.cat([rows, rows[:1].expand(short, *rows.shape[1:])])
        parts.append(model.stored(padded)[: len(rows)].cpu())
    whole = torch.cat(parts)
    most = int(whole.max()) if whole.numel() else 0
    return whole.to(next(kind for kind in _TYPES if most <= torch.iinfo(kind).max))
