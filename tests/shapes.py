"""Pictures of one's own in any shape, and models that are fitted to them, draw, score, are saved and read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import warm

from zoo.callbacks.pictures import Pictures
from zoo.hub import load, load_pretrained, save_pretrained
from zoo.model import GenerativeModel, HasLikelihood
from zoo.registry import load_registry
from zoo.training.fit import Run

SHAPES = ((3, 32, 32), (3, 64, 64), (1, 20, 28), (1, 16, 16))

CLASSES = ("frog", "newt", "toad")


def folder_of(path: Path, classes: Sequence[str] = CLASSES, size: tuple[int, int] = (64, 64), n: int = 12) -> Path:
    """Write ``n`` colour pictures a class, in one folder a class; without classes all of them in the folder itself."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label in classes or ("",):
        (path / label).mkdir(parents=True)
        for i in range(n):
            pixels = torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(path / label / f"{i}.png")
    return path


def recipe(name: str, folder: Path, shape: Sequence[int], model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an entry as `Run` takes it, on the pictures of a folder in this shape."""
    data = {"folder": str(folder), "size": list(shape[1:]), "channels": shape[0], "batch_size": 2}
    entry = load_registry().resolve(name)
    spec = {"class_path": "zoo.data.folder.ImageFolder", "init_args": data}
    return {"name": name, "model": model or entry.model, "data": spec, "trainer": {}, "training": {}}


def fit(
    name: str,
    folder: Path,
    shape: Sequence[int],
    run: Path,
    *options: str,
    steps: int = 2,
    parts: Mapping[str, GenerativeModel] | None = None,
    model: Mapping[str, Any] | None = None,
) -> GenerativeModel:
    """Fit an entry to the pictures of a folder for two steps in this process, and return what the run folder holds."""
    torch.set_num_threads(1)
    arguments = [*warm.SMALL, "--trainer.max_steps", str(steps), *options]
    with mock.patch.object(Pictures, "draw"):
        return load(str(Run(recipe(name, folder, shape, model), arguments, folder=run, parts=parts).start()))


def uses(model: GenerativeModel, shape: Sequence[int], folder: Path, *, n: int = 2, draw: bool = True) -> None:
    """Draw from a model, score examples with it, save it, and read it again: all of this shape, twice the same."""
    assert tuple(model.shape) == tuple(shape)
    x = torch.rand(n, *shape).mul(255).round() / 255
    labels = {"labels": torch.zeros(n, dtype=torch.long)} if model.num_classes else {}
    if isinstance(model, HasLikelihood) and getattr(model, "has_likelihood", True):
        with torch.no_grad():
            bits = -model.log_prob(x, seed=0, **labels) / (math.prod(shape) * math.log(2))
        assert bits.shape == (n,) and bits.isfinite().all() and (bits > 0).all()
    else:
        model.set_noise([torch.Generator().manual_seed(0)])
        assert all(t.isfinite() for t in model.loss((x, torch.zeros(n, dtype=torch.long))).values())
    again = load_pretrained(save_pretrained(model, folder))
    assert again.spec == model.released().spec
    if draw:
        drawn = model.sample(n, seed=0, **labels)
        assert drawn.shape == (n, *shape) and drawn.min() >= 0 and drawn.max() <= 1
        assert torch.equal(drawn, again.sample(n, seed=0, **labels))
