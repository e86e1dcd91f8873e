"""Training a recipe again, and holding the result to the band that the registry expects."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_cases import mlp
from tiny import QUIET

from zoo._cli import reproduce as command
from zoo._cli.main import main
from zoo.errors import RegistryError, ResultError, RunError
from zoo.reproduce import compare, reproduce
from zoo.results import Metric

QUICK: dict[str, Any] = {"samples": 100, "k": 1, "limit": 50, "progress": False, "extractor": "none"}


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Register a VAE of a few thousand numbers that trains for three steps, and an entry without expectations."""
    arguments = {"encoder": mlp([784, 8, 4]), "decoder": mlp([2, 8, 784]), "shape": [1, 28, 28], "latent_dim": 2,
                 "likelihood": "bernoulli", "lr": 1e-3}  # fmt: skip
    entry = {
        "family": "vae",
        "model": {"class_path": "zoo.families.vae.VAE", "init_args": arguments},
        "data": {"class_path": "zoo.data.mnist.ThresholdMNIST", "init_args": {"batch_size": 4}},
        "trainer": {"max_steps": 3},
    }
    models = {"small-mnist": {**entry, "expected": {"nats": [300, 700]}}, "silent-mnist": entry}
    models["proud-mnist"] = {**entry, "expected": {"nats": [0, 80], "nats_elbo": [300, 700]}, "evaluation": {"k": 2}}
    path = tmp_path / "overlay.yaml"
    path.write_text(yaml.safe_dump({"models": models}))
    monkeypatch.chdir(tmp_path)
    return path


def test_recipe_is_trained_evaluated_and_held_to_its_band(overlay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"registry": [overlay], "arguments": QUIET, **QUICK}
    found = reproduce("small-mnist", run="a", **options)
    assert found.inside and found.folder == Path("a")
    (band,) = found.bands
    assert (band.metric, band.low, band.high) == ("nats", 300, 700) and 300 < band.value < 700
    written = json.loads(Path("a/eval.json").read_text())
    assert written["metrics"]["nats"]["value"] == band.value and written["cost"]["training_tflop"] > 0
    before = Path("a/run.json").read_bytes()
    again = reproduce("small-mnist", run="a", **options)  # trained already: only evaluated
    assert again.bands == found.bands and Path("a/run.json").read_bytes() == before
    with pytest.raises(RunError, match="a is a run of small-mnist, not of proud-mnist"):
        reproduce("proud-mnist", run="a", **options)


def test_outside_of_a_band_is_said(
    overlay: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import zoo.reproduce as module

    def quick(name: str, **options: Any) -> Any:
        return reproduce(name, arguments=QUIET, **{**options, **QUICK, "k": 2})

    monkeypatch.setattr(module, "reproduce", quick)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["proud-mnist", "--registry", str(overlay), "--run", "b"])) == 1
    printed = capsys.readouterr().out
    assert "is OUTSIDE the band [0, 80]" in printed and "is inside the band [300, 700]" in printed
    assert "not reproduced; the run and its eval.json are in b" in printed


def test_what_cannot_be_reproduced_is_refused(overlay: Path) -> None:
    with pytest.raises(RegistryError, match="expects no result of silent-mnist"):
        reproduce("silent-mnist", registry=[overlay])
    Path("taken").mkdir()
    with pytest.raises(RunError, match="taken exists already and is no run"):
        reproduce("small-mnist", run="taken", registry=[overlay])
    with pytest.raises(ResultError, match="expects fid of x, the evaluation has only nats"):
        compare({"nats": Metric(1)}, {"fid": [1, 2]}, "x")


def test_ends_of_a_band_are_inside() -> None:
    bands = compare({"fid": Metric(2), "kid": Metric(2.1)}, {"fid": [1, 2], "kid": [1, 2]}, "x")
    assert [band.inside for band in bands] == [True, False]


def test_recipe_that_builds_on_a_trained_model_needs_it(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        ([], "name it with --autoencoder, a run folder or a name such as autoencoder_kl-mnist"),
        (["--autoencoder", "vae-mnist"], "vae-mnist is a VAE, which has no map of latents"),
        (["--teacher", "vae-mnist"], "takes no --teacher: it takes only --autoencoder"),
        (["--samplez", "3"], "Did you mean '--samples'"),
    ):
        assert main(["reproduce", "latent_diffusion-mnist", *arguments]) == 2 and said in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
