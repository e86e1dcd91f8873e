"""Whole ways through the Hub: every bundled model there and back, and many processes at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from conftest import collect
from hub_cases import contents, load_in_child, registry, tiny, tiny_folder
from hub_server import HubServer
from huggingface_hub import ModelCard, constants

import zoo
from zoo.hub import card, load, pull, push, verify
from zoo.registry import load_registry

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


BUNDLED = [entry.name for entry in load_registry().values() if entry.weights.get("bundled")]


FIRST = {load_registry()[name].family: name for name in reversed(BUNDLED)}.values()  # of each family


@pytest.mark.parametrize("name", warm.long(BUNDLED, tuple(n for n in BUNDLED if n not in FIRST)))
def test_bundled_model_there_and_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        result = push(name, f"me/{name}", token=hub.user("me"))
        assert hub.count("POST .*/commit/") == 1
        back = load(f"me/{name}@{result.commit}")
        asked = hub.count()
        folder = pull(f"me/{name}@{result.commit}")
        text = card(f"me/{name}@{result.commit}")
        assert hub.count() == asked and verify(folder) and back.source.kind == "hub"
    here = load(name)
    A, B = back.state_dict(), here.state_dict()
    assert A.keys() == B.keys() and all(torch.equal(A[k], B[k]) for k in A)
    assert back.spec == here.spec
    if here.generates:
        assert torch.equal(back.sample(1, seed=5), here.sample(1, seed=5))
    metrics = json.loads((folder / "eval.json").read_text())["metrics"]
    numbers = {k: v["value"] if isinstance(v, dict) else v for k, v in metrics.items()}
    found = {r.metric_type: r.metric_value for r in ModelCard(text).data.eval_results}
    assert found and found == {k: float(v) for k, v in numbers.items() if v is not None}


SMALL = {
    "transformer-shakespeare": ({"width": 8, "depth": 1, "heads": 1}, {"samples.txt"}),
    "wavenet-tones": ({"width": 4, "skip": 4, "stacks": 1, "depth": 2, "shape": [64]}, {"samples.png", "samples.wav"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_models_of_text_and_sound_are_pushed_with_their_samples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    arguments, drawn = SMALL[name]
    model = zoo.create(name, **arguments).eval()
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        push(model, "me/small", token=hub.user("me"))
        folder, text = pull("me/small"), card("me/small")
        back = load("me/small")
    assert {p.name for p in folder.iterdir() if p.name.startswith("samples")} == drawn and verify(folder)
    assert "## Samples" in text and "pictures" not in text
    assert torch.equal(back.sample(1, seed=5), model.sample(1, seed=5))


@pytest.mark.slow
def test_eight_processes_that_load_the_same_model_at_once(run_forked: Callable[..., Any], tmp_path: Path) -> None:
    cache, overlay = tmp_path / "cache", registry(tmp_path / "registry.yaml")
    with pytest.MonkeyPatch.context() as patch, HubServer() as hub:
        patch.setenv("ZOO_REGISTRY", str(overlay))
        files, model = contents(tiny_folder(tmp_path / "model")), tiny()
        hub.add("me/tiny", files)
        environment = {"ZOO_REGISTRY": str(overlay), "HF_HUB_CACHE": str(cache), "HF_ENDPOINT": hub.url}
        begun = [run_forked(load_in_child, "me/tiny", environment, start=True) for _ in range(8)]
        results = [collect(process, queue, 60) for process, queue in begun]
        assert len({digest for digest, _ in results}) == 1
        assert all(sample == model.sample(1, seed=3).flatten().tolist() for _, sample in results)
        patch.setenv("HF_HUB_CACHE", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert contents(pull("me/tiny")) == files and verify(pull("me/tiny"))
    assert len(list(cache.rglob("blobs/*"))) == len(files)
    assert not [p for p in cache.rglob("*") if "incomplete" in p.name or p.name.startswith(".")]


@pytest.mark.parametrize(("classes", "task"), [(0, "unconditional-image-generation"), (10, "other")])
def test_card_names_the_task_of_images(classes: int, task: str) -> None:
    from zoo.hub import build_card

    model = {"name": "VAE", "args": {"num_classes": classes}}
    card = build_card("mine", model=model, results={"metrics": {"fid": 1.0}})
    assert f"type: {task}\n" in card
