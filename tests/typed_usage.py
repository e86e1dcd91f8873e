"""How users call the zoo, as a strict type checker sees it: mypy reads this file, nothing runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import assert_type

import zoo
from zoo.catalogue import ModelInfo
from zoo.data.model_input import ModelInput
from zoo.feature_extractor import FeatureExtractor
from zoo.maths.watching import Step
from zoo.results import Result


class Mine(zoo.GenerativeModel):
    """A model of a user's own."""

    shape = (1, 28, 28)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, **options: Any) -> Tensor:
        return torch.rand(n, *self.shape, generator=generator)


def look(step: Step) -> None:
    assert_type(step.images, Tensor)


def use() -> None:
    """Call what is public."""
    assert_type(zoo.list("*mnist*", pretrained=True, exclude_filters=["*cond*"], sort="fid"), list[str])
    assert_type(zoo.info("vae"), ModelInfo)
    model = zoo.load("pixelcnn-mnist")
    assert_type(model, zoo.GenerativeModel)
    assert_type(zoo.load("vae-mnist", features_only=True), FeatureExtractor)
    assert_type(zoo.create("vae", beta=2.0), zoo.GenerativeModel)
    assert_type(model.sample(4, seed=[0, 1, 2, 3], callback=look), Tensor)
    assert_type(model.set_sampler("ddim", steps=20), zoo.GenerativeModel)
    assert_type(Mine.from_pretrained("me/mine"), Mine)
    assert_type(model.save_pretrained("folder"), Path)
    assert_type(zoo.transforms("vae-mnist"), ModelInput)
    assert_type(zoo.evaluate(model, quick=True), Result)
    assert_type(zoo.pull("me/mine"), Path)
    assert_type(zoo.fit("vae", max_steps=10), zoo.Training)
