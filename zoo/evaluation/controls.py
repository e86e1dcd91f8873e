"""Further sets of pictures that a model is judged by: what its samples could be at best, and what they should beat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.abilities import HasControls
from zoo.evaluation.chunks import sample_chunks
from zoo.evaluation.comparison import Reference
from zoo.results import Metric

__all__ = ["control_metrics"]


@torch.no_grad()
def control_metrics(
    model: HasControls,
    reference: Reference,
    examples: Callable[[int, int], tuple[Tensor, Tensor]],
    n: int,
    seed: int,
    size: int,
) -> dict[str, Metric]:
    """Return ``fid_NAME`` of each control, or ``kid_NAME`` where test images are few.

    Each is of as many pictures as there are samples or test examples.

    Args:
        model: in eval mode.
        reference: what the pictures are compared with.
        examples: (start, stop) -> test examples in the model's range and labels.
        n: samples of the evaluation.
        seed: of what is random in them.
        size: pictures at a time.
    """
    levels = reference.data.levels
    n = min(n, len(reference.data.split(reference.split)[0]))
    found = {}
    for name, make in model.controls().items():
        parts = []
        for chunk in sample_chunks(seed, n, size):
            x = make(examples(chunk.start, chunk.stop)[0].to(model.device), chunk.seed).float().cpu()
            parts.append((x.clamp(0, 1) * (levels - 1)).round() / (levels - 1) if levels is not None else x)
        distance, estimate = reference.distance(torch.cat(parts))
        found[f"{distance}_{name}"] = Metric(*estimate)
    return found
