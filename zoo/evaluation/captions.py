"""Texts and images of one model: how right its captions are, and how right the images that it draws of captions.

What a caption says of a picture is computed by the data, so that both directions are scored exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.context import decode_texts
from zoo.metrics.distribution import Estimate
from zoo.results import Metric

__all__ = ["CAPTIONED", "Describes", "caption_metrics", "classes_asked", "prompt_exact"]

CAPTIONED = 1_000
"""Test images whose captions are written, the first ones."""

_AT_ONCE = 250


@runtime_checkable
class Describes(Protocol):
    """Data whose captions follow from a picture and its class: ``captions_of``; and a class from a caption."""

    alphabet: str

    def classes_of(self, texts: Sequence[str]) -> Tensor: ...

    def captions_of(self, x: Tensor, classes: Tensor) -> list[str]: ...


@torch.no_grad()
def caption_metrics(model: Any, examples: Callable[[int, int], tuple[Tensor, Tensor]], count: int) -> dict[str, Metric]:
    """Return ``caption_exact``, ``caption_nats`` and ``text_nats`` of the first ``count`` examples.

    The first is the share of images whose most probable letters, one by one, are their caption; the others are exact:
    -log p(caption | image) and -log p(caption), in nats.

    Args:
        model: with `zoo.abilities.WritesCaptions`, in eval mode.
        examples: (start, stop) -> images in the model's range, and texts int64 (B, T).
        count: how many.
    """
    found: dict[str, list[Tensor]] = {"caption_exact": [], "caption_nats": [], "text_nats": []}
    for start in range(0, count, _AT_ONCE):
        x, texts = examples(start, min(start + _AT_ONCE, count))
        x, texts = x.to(model.device), texts.to(model.device)
        right = zip(model.caption(x), decode_texts(texts, model.alphabet), strict=True)
        found["caption_exact"].append(torch.tensor([float(own == text) for own, text in right]))
        found["caption_nats"].append(-model.text_log_prob(texts, given=x).cpu())
        found["text_nats"].append(-model.text_log_prob(texts).cpu())
    return {name: Metric(*_mean(torch.cat(parts).double())) for name, parts in found.items()}


def classes_asked(data: Any, asked: Tensor | None) -> Tensor | None:
    """Return the classes that samples were drawn for: labels (N,) themselves, of texts (N, T) what they name."""
    if asked is None or asked.ndim == 1:
        return asked
    return data.classes_of(decode_texts(asked, data.alphabet)) if isinstance(data, Describes) else None


def prompt_exact(data: Describes, x: Tensor, classes: Tensor, asked: Tensor) -> Estimate:
    """Return the share of samples of which the data would say what they were drawn for, and its standard error.

    Args:
        data: that describes.
        x: samples (N, *shape) in [0, 1].
        classes: what a classifier takes them for, int64 (N,).
        asked: the texts, int64 (N, T).
    """
    right = zip(data.captions_of(x, classes), decode_texts(asked, data.alphabet), strict=True)
    return _mean(torch.tensor([float(own == text) for own, text in right]).double())


def _mean(values: Tensor) -> Estimate:
    return float(values.mean()), float(values.std() / len(values) ** 0.5) if len(values) > 1 else None, None
