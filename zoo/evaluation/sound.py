"""What samples that are recordings are compared with, and what a vocoder makes of test recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.abilities import Vocodes, writes_sound
from zoo.metrics.distribution import Estimate
from zoo.metrics.sound import log_spectral_distance, sound_estimates, sound_protocol, waveforms
from zoo.results import Metric

if TYPE_CHECKING:
    from zoo.data.base import TensorData

__all__ = ["sound_floor", "sound_metrics", "sound_plan", "vocoding_metrics"]

_AT_ONCE = 16


def sound_plan(model: Any, data: TensorData, drawn: int, split: str) -> dict[str, Any] | None:
    """Return the protocol of the comparison of samples that are recordings; None where there is none."""
    if not (writes_sound(model) and model.generates):
        return None
    clips = min(drawn, len(data.split(split)[0]))
    found = sound_protocol(drawn, clips, data.shape[0])
    return found and {**found, **({"vocoded_clips": clips} if isinstance(model, Vocodes) else {})}


def _recordings(data: TensorData, split: str, count: int) -> Tensor:
    """Return so many recordings of a split, evenly spaced in it, (n, T) in [-1, 1]."""
    x = data.split(split)[0]
    places = torch.linspace(0, len(x) - 1, min(count, len(x)), dtype=torch.float64).round().long()
    return waveforms(data.to_float(x[places], torch.float64), data.levels or 256)


def sound_metrics(x: Tensor, data: TensorData, rate: int, split: str, clips: int) -> dict[str, Estimate]:
    """Return `zoo.metrics.sound.sound_estimates` of samples (N, T) in data range against ``clips`` of a split."""
    return sound_estimates(waveforms(x, data.levels or 256), _recordings(data, split, clips), rate)


def sound_floor(data: TensorData, rate: int, drawn: int, split: str, clips: int) -> dict[str, Estimate]:
    """Return the same of training recordings in the place of samples; nothing where they are too few."""
    train = _recordings(data, "train", drawn)
    if sound_protocol(len(train), clips, data.shape[0]) is None:
        return {}
    return sound_estimates(train, _recordings(data, split, clips), rate)


@torch.no_grad()
def vocoding_metrics(model: Any, data: TensorData, split: str, clips: int, seed: int) -> dict[str, Metric]:
    """Return ``vocoded_distance``: the log-spectral distance of test recordings from what their spectrograms become.

    Args:
        model: that `zoo.abilities.Vocodes`, in eval mode.
        data: of recordings.
        split: whose recordings they are.
        clips: the first so many of it.
        seed: of the noise; it grows from batch to batch.
    """
    found = []
    for start in range(0, clips, _AT_ONCE):
        x = data.to_float(data.split(split)[0][start : min(start + _AT_ONCE, clips)], model.dtype)
        drawn = model.sample(len(x), seed=seed + start, recording=x.to(model.device)).cpu()
        found.append(log_spectral_distance(*(waveforms(z, data.levels or 256) for z in (drawn, x))))
    distances = torch.cat(found)
    error = float(distances.std() / len(distances) ** 0.5) if len(distances) > 1 else None
    return {"vocoded_distance": Metric(float(distances.mean()), error, None)}
