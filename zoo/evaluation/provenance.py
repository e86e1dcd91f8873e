"""Facts of a result that are not measured on samples or likelihoods: identity, data, cost, versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.model import GenerativeModel
from zoo.results import Cost, Data, Identity

if TYPE_CHECKING:
    from zoo.data.base import TensorData

__all__ = ["cost_of", "data_of", "identity_of", "versions"]

_LIBRARIES = ("generative-zoo", "torch", "lightning", "torch-fidelity", "numpy")


def identity_of(model: GenerativeModel, name: str | None, sha256: str | None) -> Identity:
    """Return who was evaluated; weights without a digest are refused later, by the schema."""
    source = model.source
    return Identity(
        name=name or source.name or source.repo or type(model).__name__,
        family=model.family or type(model).__name__.lower(),
        weights_sha256=sha256 or source.sha256 or "",
        spec=model.spec,
    )


def data_of(data: TensorData, split: str) -> Data:
    """Return what it was evaluated against: one split."""
    n = len(data.split(split)[0])
    return Data(data.name, split, data.digest(split), n, list(data.shape), data.levels)


def cost_of(model: GenerativeModel, times: Mapping[str, float], given: Mapping[str, Any], devices: int = 1) -> Cost:
    """Return what the model costs: measured times, and the facts of training that were ``given``."""
    own = {k: given[k] for k in ("training_tflop",) if given.get(k) is not None}
    measured = {"parameters", "network_calls_per_sample", *times}
    extra = {k: v for k, v in given.items() if k not in own and k not in measured and v is not None}
    kept = {**extra.pop("training", {}), **extra}
    calls = model.calls_per_sample if model.generates else None
    return Cost(
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        network_calls_per_sample=calls, hardware=_hardware(model.device, devices), training=kept,
        **own, **times,
    )  # fmt: skip


def _hardware(device: torch.device, devices: int) -> str:
    several = f", one of {devices} processes" if devices > 1 else ""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device) + several
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # another system; the architecture's name must do
    return f"{name}, {torch.get_num_threads()} thread(s){several}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a number rests on."""
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in _LIBRARIES}
