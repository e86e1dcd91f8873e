"""Pictures of one's own in any shape, and models that are fitted to them, draw, score, are saved and read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import warm

from zoo.api import with_parts
from zoo.callbacks.pictures import Pictures
from zoo.fitting import fitted_model
from zoo.hub import load, load_pretrained, save_pretrained
from zoo.model import GenerativeModel, HasLikelihood
from zoo.registry import load_registry
from zoo.spec import class_of
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


def entries(*classes: type) -> list[str]:
    """Return a name of each model of these classes, on digits where there is one."""
    found = [e for e in load_registry().values() if issubclass(class_of(e.model["class_path"]), classes)]
    found.sort(key=lambda e: e.dataset == "mnist" and not e.tag)
    return sorted({e.model_name: e.name for e in found}.values())


def stays_as_written(name: str) -> bool:
    """Tell whether an entry that is fitted to its own data is what is written."""
    entry = load_registry()[name]
    data = entry.build_data()
    arguments = entry.model["init_args"]
    return fitted_model(entry.model, arguments, data.shape, data.num_classes, levels=data.levels) == entry.model


def recipe(name: str, folder: Path, shape: Sequence[int]) -> dict[str, Any]:
    """Return an entry as `Run` takes it, on the pictures of a folder in this shape."""
    data = {"folder": str(folder), "size": list(shape[1:]), "channels": shape[0], "batch_size": 2}
    entry = load_registry().resolve(name)
    spec = {"class_path": "zoo.data.folder.ImageFolder", "init_args": data}
    return {"name": name, "model": entry.model, "data": spec, "trainer": {}, "training": {}}


def fit(
    name: str,
    folder: Path,
    shape: Sequence[int],
    run: Path,
    *options: str,
    steps: int = 2,
    on: Mapping[str, Path] | None = None,
) -> GenerativeModel:
    """Fit an entry to the pictures of a folder for two steps in this process, and return what the run folder holds.

    Args:
        on: run folders of the trained parts that the model builds on, by their names.
    """
    torch.set_num_threads(1)
    arguments = [*warm.SMALL, "--data.batch_size", "2", "--trainer.max_steps", str(steps), *options]
    whole, parts = recipe(name, folder, shape), None
    if on is not None:
        built, parts, _ = with_parts(load_registry().resolve(name), on)
        whole |= {"model": built.model, "data": built.data}
    with mock.patch.object(Pictures, "draw"):
        return load(str(Run(whole, arguments, folder=run, parts=parts).start()))


def uses(model: GenerativeModel, shape: Sequence[int], folder: Path, *, n: int = 2, **options: Any) -> None:
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
    drawn = model.sample(n, seed=0, **labels, **options)
    assert drawn.shape == (n, *shape) and drawn.min() >= 0 and drawn.max() <= 1
    assert torch.equal(drawn, again.sample(n, seed=0, **labels, **options))
