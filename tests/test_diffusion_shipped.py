"""Bundled diffusion models: what they say about themselves, and their likelihoods looked at twice."""

from __future__ import annotations

import math

import pytest
import torch

import zoo
from zoo import results
from zoo.registry import load_registry, pretrained_folder

NAMES = [e.name for e in load_registry().find(family="diffusion", pretrained=True)]


def _class(name: str) -> str:
    return load_registry()[name].model["class_path"].rpartition(".")[2]


@pytest.mark.skipif(not NAMES, reason="no diffusion model is bundled")
@pytest.mark.parametrize("name", NAMES)
def test_bundled_model_keeps_to_the_track(name: str) -> None:
    found = results.read(pretrained_folder(name))
    assert found.cost.training_tflop <= 50
    stages = found.cost.training.get("stages") or {}
    assert all(part <= 25 for part in list(stages.values())[:-1])
    assert sum(p.stat().st_size for p in pretrained_folder(name).iterdir()) < 4_000_000
    if found.protocol.samples == 10_000:
        other = results.read(pretrained_folder("vae-mnist")).metrics["fid"].value
        assert found.metrics["fid"].value < other
        assert all(found.metrics[f"digit_share_{k}"].value >= 0.03 for k in range(10))
        assert found.metrics["confident_share"].value >= 0.85
        assert "accuracy" not in found.metrics or found.metrics["accuracy"].value >= 0.95


@pytest.mark.slow
@pytest.mark.skipif("DDPM" not in map(_class, NAMES), reason="no such model is bundled")
@pytest.mark.parametrize("name", [n for n in NAMES if _class(n) == "DDPM"])
def test_estimated_bound_agrees_with_the_full_sum(name: str) -> None:
    model, data = zoo.load(name), load_registry()[name].build_data()
    x, labels = (part[:50] for part in data.split("test"))
    x, y = data.to_float(x), labels if model.num_classes else None
    gap = model.vlb(x, y, strata=16, seed=0) - model.vlb(x, y, strata=None, seed=1)
    print(f"\n{name}: {gap.mean():+.3f} nats, {gap.std() / math.sqrt(len(x)):.3f} standard error")
    assert abs(float(gap.mean())) < 3 * float(gap.std()) / math.sqrt(len(x))


@pytest.mark.slow
@pytest.mark.skipif("ScoreSDE" not in map(_class, NAMES), reason="no such model is bundled")
@pytest.mark.parametrize("name", [n for n in NAMES if _class(n) == "ScoreSDE"])
def test_likelihood_stays_when_the_steps_are_doubled(name: str) -> None:
    model, data = zoo.load(name), load_registry()[name].build_data()
    x, labels = (part[:50] for part in data.split("test"))
    x, y = data.to_float(x), labels if model.num_classes else None
    one, two = (model.log_prob(x, labels=y, seed=0, steps=n * model.likelihood_steps) for n in (1, 2))
    bits = (two - one).double().mean() / (math.prod(model.shape) * math.log(2))
    print(f"\n{name}: {bits:+.5f} bits/dim with twice the steps")
    assert torch.isfinite(two).all() and abs(float(bits)) < 0.02
