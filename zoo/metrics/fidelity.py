"""How alike are samples and real images: extraction of features, the estimators, and a cache of what is real.

Reference features and the floor (training images in the place of samples) depend on the data and the extractor alone.
They are kept in the user's cache folder under a name that holds the digests of both; a file that cannot be read is
made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from tqdm.auto import tqdm

from zoo.files import write_whole
from zoo.metrics.distribution import (
    ESTIMATORS,
    Estimate,
    frechet,
    inception_score,
    kernel,
    kernel_of_all_pairs,
    precision_recall,
)
from zoo.metrics.extractors import Extractor
from zoo.metrics.neighbours import NEIGHBOURS, density_coverage

__all__ = ["cache_folder", "cached", "extract", "fidelity", "kid", "stored"]


def extract(
    extractor: Extractor, images: Tensor, *, progress: bool = False, what: str = "features"
) -> dict[str, Tensor]:
    """Return ``features`` (N, D) and perhaps ``logits`` (N, K) of images (N, C, H, W) in [0, 1], in batches.

    Raises:
        ResultError: images of a shape that the extractor does not take.
    """
    extractor.check(tuple(images.shape[1:]))
    parts = images.split(extractor.batch)
    found = [extractor(part) for part in tqdm(parts, what, delay=2, leave=False, disable=not progress)]
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def kid(generated: Tensor, real: Tensor) -> Estimate:
    """Return KID of features: over subsets of 1,000, or of fewer real images over all pairs, with its error."""
    few = len(real) < ESTIMATORS["kid_subset_size"]
    return kernel_of_all_pairs(generated, real) if few else kernel(generated, real)


def fidelity(
    generated: dict[str, Tensor], real: dict[str, Tensor], *, progress: bool = False, frechet_name: str = "fid"
) -> dict[str, Estimate]:
    """Compare what `extract` gave for generated and for real images.

    Returns:
        ``fid``, or what it is called here, ``kid``, ``inception_score`` where there are logits, ``precision``,
        ``recall``, ``density``, ``coverage``; of few real images no ``fid``, whose covariance would be singular, and of
        a handful no balls.

    Raises:
        ResultError: fewer samples than feature dimensions, or features that are not finite.
    """
    a, b = generated["features"], real["features"]
    with tqdm(total=5, desc="metrics", delay=2, leave=False, disable=not progress) as bar:
        found = {frechet_name: frechet(a, b)} if len(b) >= b.shape[1] else {}
        bar.update()
        found["kid"] = kid(a, b)
        bar.update()
        if "logits" in generated:
            found["inception_score"] = inception_score(generated["logits"])
        bar.update()
        if len(b) > NEIGHBOURS["density_neighbours"]:
            found["precision"], found["recall"] = precision_recall(a, b)
            found["density"], found["coverage"] = density_coverage(a, b)
        bar.update()
        bar.update()
    return found


def cache_folder() -> Path:
    """Return where derived data of this user are kept: ``$XDG_CACHE_HOME/zoo``, by default ``~/.cache/zoo``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo" / "reference"


def cached(what: str, key: tuple[object, ...], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return ``compute()``, from the cache if it was made before with this key and these estimators.

    A cache that cannot be written costs time, not the evaluation.
    """
    parts = (what, sorted({**ESTIMATORS, **NEIGHBOURS}.items()), torch.__version__, *key)
    path = cache_folder() / f"{what}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.safetensors"
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError, ValueError):
        found = compute()
    stored(path, save({k: v.contiguous() for k, v in found.items()}))
    return found


def stored(path: Path, content: bytes) -> bool:
    """Write a file at once or not at all; tell whether it was possible."""
    try:
        write_whole(path, content)
    except OSError:
        return False
    return True
