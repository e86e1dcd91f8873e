"""The bar over what takes long to draw: as many calls as there are, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo.progress
from zoo.families.ddpm import DDPM
from zoo.families.latent_diffusion import LatentDiffusion
from zoo.maths.schedules import Cosine
from zoo.nets.unet import UNet
from zoo.progress import drawing_bar
from zoo.registry import load_registry


class Bar:
    """What stands for tqdm, and remembers."""

    made: list[Bar] = []

    def __init__(self, total: int | None = None, disable: bool = False, **_: Any) -> None:
        self.total, self.disable, self.calls = total, disable, 0
        self.made.append(self)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def update(self) -> None:
        self.calls += 1


@pytest.fixture(autouse=True)
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    monkeypatch.setattr(Bar, "made", [])
    monkeypatch.setattr(zoo.progress, "tqdm", Bar)
    return Bar.made


def test_a_bar_counts_the_calls_of_the_sampler_and_leaves_the_samples_alone(bars: list[Bar]) -> None:
    model = DDPM(UNet(1, [4], embedding=8), [1, 4, 4], Cosine(), steps=6).eval()
    alone = model.sample(2, seed=0, sampler="heun")
    with drawing_bar(model, {"sampler": "heun"}):
        drawn = model.sample(2, seed=0, sampler="heun")
    assert torch.equal(alone, drawn) and Bar.made[0].calls == Bar.made[0].total == 11
    model.sample(2, seed=0)
    assert bars[0].calls == 11  # the hooks are gone
    with pytest.raises(ValueError, match="within"), drawing_bar(model, {}):
        raise ValueError("within")
    assert not model.network._forward_pre_hooks


def test_networks_of_models_inside_are_counted_and_a_hidden_bar_costs_nothing(bars: list[Bar]) -> None:
    model = load_registry()["latent_diffusion-mnist"].build_model().eval()
    assert isinstance(model, LatentDiffusion)
    with drawing_bar(model, {"steps": 2}):
        model.sample(1, seed=0, steps=2)
    assert bars[0].calls == bars[0].total == 5  # four of the guided denoiser, one of the decoder
    with drawing_bar(model, {}, shown=False):
        assert not any(m._forward_pre_hooks for m in model.modules())
    assert bars[1].disable


def test_quick_evaluations_draw_as_many_samples_as_features_have_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo.evaluation
    from zoo.metrics.extractors import Digits

    asked: list[int] = []
    monkeypatch.setattr(zoo.evaluation, "measure", lambda *args, **more: asked.append(more["samples"]))
    zoo.evaluate("vae-mnist", quick=True)
    monkeypatch.setattr(Digits, "dimensions", 1280)
    zoo.evaluate("vae-mnist", quick=True)
    zoo.evaluate("vae-mnist", samples=64, quick=True)
    zoo.evaluate("vae-mnist")
    assert asked == [1_000, 1_280, 64, 10_000]
