"""Looks at models of clips and of captions: strips of frames, continuations beside what came, captions as written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.abilities import in_batches, is_conditional, reconstruct
from zoo.context import decode_texts
from zoo.diagnostics.figures import sheet_of
from zoo.images import captioned_sheet

__all__ = [
    "Continuations",
    "clip_strips",
    "continuations",
    "drawn_strips",
    "plot_continuations",
    "reconstructed_strips",
    "written_captions",
]


def clip_strips(clips: Tensor) -> np.ndarray:
    """Return the frames of clips (N, C, T, H, W), one clip a row, as a picture."""
    return sheet_of(clips.float().transpose(1, 2).flatten(0, 1).clamp(0, 1), columns=clips.shape[2])


def drawn_strips(model: Any, n: int = 6) -> tuple[dict[str, Any], np.ndarray]:
    """Draw n clips from seed 0; the summary says by how much neighbouring frames differ, a mean square a pixel."""
    x = model.sample(n, seed=0).cpu()
    change = (x[:, :, 1:] - x[:, :, :-1]).double().square().flatten(1).mean(1)
    return {"samples": n, "frames": x.shape[2], "change_between_frames": change.tolist()}, clip_strips(x)


def reconstructed_strips(model: Any, x: Tensor, labels: Tensor, n: int = 4) -> tuple[dict[str, Any], np.ndarray]:
    """Return test clips (N, C, T, H, W), each above what its codes keep of it, and the squared error of each frame."""
    again = reconstruct(model, x, labels)
    errors = (again.double() - x.double()).square().transpose(1, 2).flatten(2).mean((0, 2))  # (T,)
    rows = torch.stack([x[:n], again[:n].to(x)], 1).flatten(0, 1)
    return {
        "examples": len(x),
        "mean_squared_error": float(errors.mean()),
        "of_each_frame": errors.tolist(),
    }, clip_strips(rows)


@dataclass(frozen=True)
class Continuations:
    """Clips, and what was drawn after their first frames.

    Attributes:
        clips: (N, C, T, H, W) in data range.
        drawn: (K, N, C, T, H, W), of several seeds.
        given: how many first frames were known.
    """

    clips: Tensor
    drawn: Tensor
    given: int

    def summary(self) -> dict[str, Any]:
        """Return the mean squared errors a pixel of each later frame: as drawn, and of the last given one copied."""
        later, k = self.clips[:, :, self.given :].double(), self.given
        copied = self.clips[:, :, k - 1 : k].double().expand_as(later)
        drawn = self.drawn[:, :, :, k:].double()
        return {
            "clips": len(self.clips), "frames_given": k,
            "error_of_each_frame": (drawn - later).square().mean((0, 1, 2, 4, 5)).tolist(),
            "error_of_copying": (copied - later).square().mean((0, 1, 3, 4)).tolist(),
        }  # fmt: skip


def continuations(model: Any, x: Tensor, labels: Tensor, n: int = 4, seeds: int = 2) -> Continuations:
    """Give a model the first half of n test clips, and draw what follows from several seeds."""
    k, x = (x.shape[2] + 1) // 2, x[:n]
    condition = {"labels": labels[:n].to(model.device)} if is_conditional(model) else {}
    drawn = [model.sample(n, seed=seed, given=x.to(model.device), known=k, **condition).cpu() for seed in range(seeds)]
    return Continuations(x, torch.stack(drawn), k)


def plot_continuations(found: Continuations) -> np.ndarray:
    """Return each clip above what was drawn, one row a seed."""
    rows = torch.cat([found.clips[None], found.drawn.to(found.clips)]).transpose(0, 1).flatten(0, 1)
    return clip_strips(rows)


def written_captions(model: Any, x: Tensor, texts: Tensor, shown: int = 24) -> tuple[dict[str, Any], np.ndarray]:
    """Return test images, each above the caption that the model writes of it, and how many are right to the letter."""
    written = [text for part in x.split(250) for text in model.caption(part.to(model.device))]
    own = decode_texts(texts, model.alphabet)
    nats = -in_batches(model, lambda z, labels: model.text_log_prob(labels, given=z), x, texts)
    right = [a == b for a, b in zip(written, own, strict=True)]
    summary = {
        "examples": len(x), "exact": sum(right) / len(right), "nats": float(nats.double().mean()),
        "wrong": [[a, b] for a, b, same in zip(written, own, right, strict=True) if not same][:10],
    }  # fmt: skip
    return summary, captioned_sheet(x[:shown], written[:shown], columns=4, scale=max(1, 180 // x.shape[-1]))
