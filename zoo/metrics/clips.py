"""Clips of digits as the digit classifier sees them: frame by frame, each digit brought to where it expects one.

A frame's digit is cut out around its centre of mass and enlarged from 20 x 20 to 28 x 28 pixels. A clip's features are
the mean and the standard deviation of its frames' features, so that digits that flicker are far from those that do not;
its logits are the mean. ``frames`` are the classes of the frames, for `frame_consistency`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ResultError
from zoo.metrics.classifier import DigitClassifier, digit_classifier
from zoo.metrics.distribution import Estimate
from zoo.metrics.extractors import Digits

__all__ = ["DigitClips", "digit_windows", "frame_consistency"]

_ENLARGED = 28 / 20


class DigitClips(Digits):
    """The digit classifier on clips (N, 1, T, 32, 32): 128 features, 10 logits, and the class of each frame."""

    name, dimensions, batch = f"{DigitClassifier.name}-clips", 2 * DigitClassifier.features_dim, 50
    frechet = "frechet_clips"

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) != 4 or (shape[0], *shape[2:]) != (1, 32, 32):
            raise ResultError(
                f"the digit classifier takes clips of shape (N, 1, T, 32, 32), got (N, {', '.join(map(str, shape))})"
            )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        N, T = len(images), images.shape[2]
        frames = images.float().cpu().transpose(1, 2).flatten(0, 1)  # (N T, 1, 32, 32)
        features, logits = (x.unflatten(0, (N, T)) for x in digit_classifier()(digit_windows(frames)))
        spread = features.std(1, unbiased=False)
        return {"features": torch.cat([features.mean(1), spread], 1), "logits": logits.mean(1),
                "frames": logits.argmax(2)}  # fmt: skip


def digit_windows(frames: Tensor) -> Tensor:
    """Return what the classifier is shown: frames (N, 1, H, W) in [0, 1] -> (N, 1, 28, 28), the digit in the middle."""
    N, _, H, W = frames.shape
    rows, columns = (torch.arange(side, dtype=frames.dtype) for side in (H, W))
    mass = frames.sum((1, 2, 3))
    blank = mass < 1e-6
    i = torch.where(blank, (H - 1) / 2, frames.sum((1, 3)) @ rows / mass.clamp(min=1e-6))
    j = torch.where(blank, (W - 1) / 2, frames.sum((1, 2)) @ columns / mass.clamp(min=1e-6))
    away = (torch.arange(28, dtype=frames.dtype) - 14) / _ENLARGED
    y, x = (2 * (middle[:, None] + away) + 1 for middle in (i, j))  # (N, 28)
    grid = torch.stack([(x / W - 1)[:, None].expand(N, 28, 28), (y / H - 1)[:, :, None].expand(N, 28, 28)], 3)
    return F.grid_sample(frames, grid, align_corners=False)


def frame_consistency(frames: Tensor) -> Estimate:
    """Return the share of neighbouring frames that keep their class, and its standard error: int64 (N, T)."""
    kept = (frames[:, 1:] == frames[:, :-1]).double().mean(1)  # (N,)
    error = float(kept.std() / len(kept) ** 0.5) if len(kept) > 1 else None
    return float(kept.mean()), error, None
