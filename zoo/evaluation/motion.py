"""What features of clips say of motion: a probe of the direction, beside controls that cannot tell forth from back.

A clip of moving digits sets out in one of eight directions, which no single frame shows. Beside the encoder stand the
same encoder before training; the trained one on clips whose frames were shuffled, each in its own way; the trained one
on still frames, the mean over some of a clip; and the pixels of the mean frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.abilities import in_batches
from zoo.metrics.distribution import Estimate
from zoo.metrics.probes import probe_accuracy, standardised

__all__ = ["MOTION", "HasMotion", "motion_estimates"]

Encode = Callable[[Tensor], Tensor]
"""Clips (B, C, T, H, W) -> features (B, D)."""

MOTION = {"training_clips": 4_000, "validation_clips": 500, "test_clips": 1_000, "still_frames": 4}
"""First clips of each split that the probe is fitted to, chosen and counted on, and frames of the frame model."""

_SEED = 0


@runtime_checkable
class HasMotion(Protocol):
    """Data of clips with a direction each: ``moved`` makes training clips, ``motions`` are those of a split."""

    motion_classes: int

    def moved(self, digits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...

    def motions(self, split: str) -> Tensor: ...


def motion_estimates(model: Any, data: Any, encode: Encode, untrained: Encode | None) -> dict[str, Estimate]:
    """Return ``motion_accuracy`` of the encoder, and of the controls ``_untrained``, ``_shuffled``, ``_frames`` and
    ``_pixels``.

    Args:
        model: of clips, in eval mode.
        data: that `HasMotion`.
        encode: the features of its clips.
        untrained: those of the model before training, if there are any.
    """
    generator = torch.Generator().manual_seed(_SEED)
    clips, direction = data.moved(data.read("train")[0][: MOTION["training_clips"]], generator)
    splits = [(clips, direction)]
    for name in ("validation", "test"):
        n = MOTION[f"{name}_clips"]
        splits.append((data.split(name)[0][:n], data.motions(name)[:n]))
    shuffled = [(_shuffled(x, generator), y) for x, y in splits]
    encoders: dict[str, tuple[Encode, list[tuple[Tensor, Tensor]]]] = {
        "": (encode, splits),
        "_shuffled": (encode, shuffled),
        "_frames": (lambda x: _of_frames(encode, x), splits),
        "_pixels": (lambda x: x.mean(2).flatten(1), splits),
        **({"_untrained": (untrained, splits)} if untrained is not None else {}),
    }
    found: dict[str, Estimate] = {}
    for name, (encoder, examples) in encoders.items():
        features = [in_batches(model, encoder, data.to_float(x, model.dtype)).float() for x, _ in examples]
        parts = [(z, y) for z, (_, y) in zip(standardised(*features), examples, strict=True)]
        found[f"motion_accuracy{name}"] = probe_accuracy(*parts, data.motion_classes)[0]
    return found


def _shuffled(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Return clips (N, C, T, H, W) with the frames of each in an order of its own."""
    order = torch.rand(len(clips), clips.shape[2], generator=generator).argsort(1)
    return clips.gather(2, order[:, None, :, None, None].expand_as(clips))


def _of_frames(encode: Encode, x: Tensor) -> Tensor:
    """Return the mean of the features of some frames, each held still for the length of a clip: (B, D)."""
    T = x.shape[2]
    chosen = torch.linspace(0, T - 1, MOTION["still_frames"]).round().long().tolist()
    return torch.stack([encode(x[:, :, t : t + 1].expand(-1, -1, T, -1, -1)) for t in chosen]).mean(0)
