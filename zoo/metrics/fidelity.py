"""How alike are drawn digits and real ones: the frozen classifier, the estimators, and a cache of what is real.

Reference features and the floor (training images in the place of samples) depend on the data and the extractor alone.
They are kept in the user's cache folder under a name that holds the digests of both; a file that cannot be read is
made again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from tqdm.auto import tqdm

from zoo.errors import ResultError
from zoo.metrics.classifier import SHA256, digit_classifier
from zoo.metrics.distribution import (
    ESTIMATORS,
    Estimate,
    class_shares,
    frechet,
    inception_score,
    kernel,
    precision_recall,
)

__all__ = ["cache_folder", "cached", "digit_features", "fidelity", "quantise", "stored"]

_BATCH = 500


def quantise(x: Tensor, levels: int | None) -> Tensor:
    """Round examples in [0, 1] to ``levels`` equidistant values, as an image file would; None leaves them."""
    return x if levels is None else (x.clamp(0, 1) * (levels - 1)).round() / (levels - 1)


@torch.no_grad()
def digit_features(images: Tensor, *, progress: bool = False, what: str = "features") -> dict[str, Tensor]:
    """Return ``features`` (N, 64) and ``logits`` (N, 10) of digits (N, 1, 28, 28) in [0, 1], float32 on the CPU."""
    if images.ndim != 4 or images.shape[1:] != (1, 28, 28):
        raise ResultError(f"the digit classifier takes images of shape (N, 1, 28, 28), got {tuple(images.shape)}")
    model = digit_classifier()
    parts = images.split(_BATCH)
    found = [model(part.float().cpu()) for part in tqdm(parts, what, delay=2, leave=False, disable=not progress)]
    features, logits = (torch.cat(column) for column in zip(*found, strict=True))
    return {"features": features, "logits": logits}


def fidelity(generated: dict[str, Tensor], real: dict[str, Tensor], *, progress: bool = False) -> dict[str, Estimate]:
    """Compare what `digit_features` gave for generated and for real digits.

    Returns:
        ``fid``, ``kid``, ``inception_score``, ``precision``, ``recall``, ``confident_share``, ``digit_share_0`` ...

    Raises:
        ResultError: fewer samples than feature dimensions, or features that are not finite.
    """
    a, b = generated["features"], real["features"]
    with tqdm(total=4, desc="metrics", delay=2, leave=False, disable=not progress) as bar:
        found = {"fid": frechet(a, b)}
        bar.update()
        found["kid"] = kernel(a, b)
        bar.update()
        found["inception_score"] = inception_score(generated["logits"])
        bar.update()
        found["precision"], found["recall"] = precision_recall(a, b)
        bar.update()
    return found | class_shares(generated["logits"])


def cache_folder() -> Path:
    """Return where derived data of this user are kept: ``$XDG_CACHE_HOME/zoo``, by default ``~/.cache/zoo``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo" / "reference"


def cached(what: str, key: tuple[object, ...], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return ``compute()``, from the cache if it was made before with this key, extractor and estimators.

    A cache that cannot be written costs time, not the evaluation.
    """
    parts = (what, SHA256, sorted(ESTIMATORS.items()), torch.__version__, *key)
    path = cache_folder() / f"{what}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.safetensors"
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError, ValueError):
        found = compute()
    stored(path, save({k: v.contiguous() for k, v in found.items()}))
    return found


def stored(path: Path, content: bytes) -> bool:
    """Write a file at once or not at all; tell whether it was possible."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True
