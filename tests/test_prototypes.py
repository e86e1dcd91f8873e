"""Models that the package does not have, each as one file of a user's (``prototypes``) and one entry of an overlay.

They are fitted, resumed, evaluated, saved, loaded, listed and diagnosed as any other; what they cannot do is refused in
a sentence. Nothing of the package knows them.
"""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import zoo
from zoo._cli.main import main
from zoo.evaluation.comparison import Reference
from zoo.hub import load_pretrained, save_pretrained
from zoo.metrics.probes import PROBE
from zoo.registry import load_registry
from zoo.runs import last_checkpoint, load_run, read_checkpoint, run_metadata
from zoo.training.compute import flops_per_step

PROTOTYPES = Path(__file__).parent / "prototypes"
FEW = [
    *("--data.batch_size", "4", "--data.limit", "32", "--trainer.enable_progress_bar", "false"),
    *("--trainer.limit_val_batches", "1", "--training.threads", "1", "--training.sample_every", "0"),
]


@pytest.fixture
def prototype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a file of classes and an overlay with one entry, in the working directory; return the entry's name."""

    def write(module: str, entry: dict[str, Any], source: str | None = None) -> str:
        (tmp_path / f"{module}.py").write_text(source or (PROTOTYPES / f"{module}.py").read_text())
        name = f"{module}-mnist"
        overlay = {"allow": [module], "models": {name: entry}}
        (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
        return name

    # features of ten thousand digits cost more than all else here; they are no concern of the models
    monkeypatch.setattr(Reference, "compare", lambda self, x, asked: {"fid": (float(x.mean()), None, None)})
    monkeypatch.setattr(Reference, "distance", lambda self, x: ("fid", (float(x.mean()), None, None)))
    monkeypatch.setattr(Reference, "floor", lambda self, n: {})
    monkeypatch.setitem(PROBE, "l2", [1e-3])
    monkeypatch.setitem(PROBE, "few_seeds", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "overlay.yaml").write_text("{}\n")
    monkeypatch.setenv("ZOO_REGISTRY", str(tmp_path / "overlay.yaml"))
    return write


def zoo_says(capsys: Any, *arguments: str, code: int = 0) -> str:
    """Run a command, hold it to its exit code, and return what it wrote."""
    capsys.readouterr()
    assert main(list(arguments)) == code, capsys.readouterr().err
    said = capsys.readouterr()
    return said.err if code else said.out


MASKED = {"class_path": "masked.Masked", "init_args": {"shape": [1, 7, 7], "levels": 4}}


def test_masked_prior_over_trained_codes(prototype: Any, capsys: Any) -> None:
    entry = {
        "extends": "vq_vae_prior-mnist", "summary": "masked transformer over codes",
        "model": {"init_args": {"prior": MASKED}},
        "trainer": {"max_steps": 2},
    }  # fmt: skip
    name = prototype("masked", entry)
    assert name in zoo_says(capsys, "list", "masked*")
    assert "zoo fit --model masked-mnist --autoencoder vq_vae-mnist" in zoo_says(capsys, "show", name)
    assert "name it with --autoencoder" in zoo_says(capsys, "fit", "--model", name, *FEW, code=2)
    wrong = zoo_says(capsys, "fit", "--model", name, "--autoencoder", "vae-mnist", *FEW, code=2)
    assert "vae-mnist is a VAE, which has no discrete codes" in wrong and "such as vq_vae-mnist" in wrong
    fit = ("fit", "--model", name, "--autoencoder", "vq_vae-mnist")
    cost = json.loads(zoo_says(capsys, *fit, "--dry_run", "--json", *FEW))
    assert list(cost["stages"]) == ["vq_vae-mnist", name] and cost["training_tflop"] > cost["stages"]["vq_vae-mnist"]
    assert "the run is in one; look at" in zoo_says(capsys, *fit, "--run", "one", *FEW)
    assert Path("one/samples.png").is_file()
    zoo_says(capsys, "fit", "--resume", "one", "--trainer.max_steps", "4")
    assert list(run_metadata("one")["cost"]["stages"]) == ["vq_vae-mnist", name]

    pair, taught = load_run("one"), zoo.load("vq_vae-mnist")
    assert all(
        torch.equal(value, pair.autoencoder.state_dict()[key]) for key, value in taught.autoencoder.state_dict().items()
    )
    assert not pair.has_likelihood and set(pair.loss((pair.sample(2, seed=0), torch.zeros(2)))) == {"loss"}
    with pytest.raises(zoo.ZooError, match="the prior is a Masked, which has no likelihood"):
        pair.log_prob(pair.sample(1, seed=0))
    options = {"temperature": 1.0, "steps": 4, "choice_temperature": 4.5, "codes": "prior", "observe": "mean"}
    assert pair.sampler({}) == options and pair.sampler({"steps": 2})["steps"] == 2
    assert pair.calls({"steps": 8}) == 9 and pair.calls_per_sample == 5
    assert not torch.equal(pair.sample(2, seed=0, steps=1), pair.sample(2, seed=0, steps=8))
    with pytest.raises(zoo.ZooError, match=r"has no sampling option 'stepz'.*steps"):
        pair.sample(1, stepz=2)
    with pytest.raises(zoo.ZooError, match="which uniform codes leave out"):
        pair.sample(1, codes="uniform", steps=2)
    zoo_says(capsys, "sample", "./one", "-n", "2", "--option", "steps=2", "--out", "two.png")

    save_pretrained(pair, "folder")
    assert torch.equal(load_pretrained("folder").sample(2, seed=0), pair.sample(2, seed=0))
    assert torch.equal(zoo.load("./folder").sample(2, seed=0), pair.sample(2, seed=0))
    quick = ("--samples", "64", "--limit", "64", "--quick", "--option", "steps=2")
    zoo_says(capsys, "evaluate", "./one", *quick)
    result = _result("one")
    assert set(result["metrics"]) == {"fid", "fid_reconstructions", "fid_uniform_codes"}
    assert result["protocol"]["sampler"]["steps"] == 2 and result["protocol"]["likelihood"] is None
    zoo_says(capsys, "diagnose", "./one", "--out", "looks", "--only", "codebook", "--examples", "64")
    assert Path("looks/diagnostics.json").is_file()


def test_served_options_of_a_held_prior_are_its_own(prototype: Any) -> None:
    from zoo.serving.request_types import option_fields, scores

    prototype("masked", {"extends": "vq_vae_prior-mnist"})
    model = _masked()
    assert set(option_fields(model)) == {"temperature", "steps", "choice_temperature", "codes", "observe"}
    assert not scores(model)


def _masked() -> Any:
    from zoo.families.code_prior import CodePrior

    taught = zoo.load("vq_vae-mnist")
    prior = importlib.import_module("masked").Masked([1, 7, 7], taught.codebook_size)
    return CodePrior(taught.autoencoder, prior)


NETWORK = {"class_path": "zoo.nets.mlp.MLP", "init_args": {"features": [784, 16, 1], "activation": "silu"}}
ENERGY = {"network": NETWORK, "shape": [1, 28, 28]}


@pytest.mark.slow
def test_energy_with_a_buffer_of_chains(prototype: Any, capsys: Any) -> None:
    entry = {
        "family": "energy", "summary": "energy and Langevin chains",
        "model": {"class_path": "energetic.Energy", "init_args": {**ENERGY, "levels": 256}},
        "data": {"class_path": "zoo.data.mnist.MNIST", "init_args": {"batch_size": 4}},
        "trainer": {"max_steps": 3}, "training": {"ema": 0.9},
    }  # fmt: skip
    name = prototype("energetic", entry)
    assert name in zoo_says(capsys, "list", "--family", "energy")
    fit = ("fit", "--model", name)
    few = [*FEW, "--training.sample_every", "2"]
    zoo_says(capsys, *fit, "--run", "one", *few)
    assert Path("one/samples/step-00000002.png").is_file()
    zoo_says(capsys, "fit", "--resume", "one", "--trainer.max_steps", "7")
    zoo_says(capsys, *fit, "--run", "whole", "--trainer.max_steps", "7", *few)
    states = [read_checkpoint(last_checkpoint(run))["state_dict"] for run in ("one", "whole")]
    assert "replay" in states[0] and int(states[0]["oldest"]) == 28
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())

    model = load_run("one")
    assert model.replay is not None and all(p.grad is None for p in model.parameters())
    x = model.sample(3, seed=0)
    assert not x.requires_grad and x.grad_fn is None and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.cat([x, x]), torch.cat(model.sample_many([_draw(3), _draw(3)])))
    save_pretrained(model, "folder")
    assert "replay" not in _tensors("folder/model.safetensors") and "oldest" in _tensors("folder/model.safetensors")
    again = load_pretrained("folder")
    assert again.replay is None and torch.equal(again.sample(3, seed=0), x) and again.released() is again
    assert torch.equal(zoo.load("./folder").sample(3, seed=0), x)
    zoo_says(capsys, *fit, "--init_from", "./folder", "--run", "tuned", "--trainer.max_steps", "1", *few)
    zoo_says(capsys, "sample", "./one", "-n", "2", "--option", "steps=2", "--out", "two.png")
    zoo_says(capsys, "evaluate", "./one", "--samples", "64", "--quick", "--option", "steps=1")
    assert set(_result("one")["metrics"]) >= {"fid", "energy_gap", "auroc_noise"}
    zoo_says(capsys, "diagnose", "./one", "--out", "looks", "--examples", "64")
    assert Path("looks/diagnostics.json").is_file()


def _draw(n: int) -> Any:
    from zoo.model import Draw

    return Draw(n, 0)


def _result(run: str) -> dict[str, Any]:
    return json.loads((Path(run) / "eval.json").read_text())


def _tensors(path: str) -> set[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return set(file.keys())


def test_chains_that_differentiate_in_a_leaf_are_counted(prototype: Any) -> None:
    """A step of a chain is a pass forward and one back to x; the loss adds two passes forward, and back to weights."""
    prototype("energetic", {"extends": "vae-mnist"})
    from zoo.nets.mlp import MLP

    sizes, B, K = (12, 32, 16, 1), 8, 5
    energy = importlib.import_module("energetic").Energy(MLP(list(sizes)), [1, 3, 4], steps=K)
    batch = torch.rand(B, 1, 3, 4), torch.zeros(B, dtype=torch.int64)
    F = 2 * B * sum(a * b for a, b in itertools.pairwise(sizes))
    first = 2 * B * sizes[0] * sizes[1]
    assert flops_per_step(energy, batch)[0] == pytest.approx(K * 2 * F + 2 * (3 * F - first), rel=0.02)


def test_picture_that_cannot_be_drawn_is_told_and_costs_nothing(
    prototype: Any, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (PROTOTYPES / "energetic.py").read_text()
    broken = whole.replace("        size = (n, *self.shape)\n", "        raise RuntimeError('the chain ran away')\n")
    assert broken != whole
    entry = {
        "family": "energy", "model": {"class_path": "wild.Energy", "init_args": {**ENERGY, "levels": 256}},
        "data": {"class_path": "zoo.data.mnist.MNIST", "init_args": {"batch_size": 4}}, "trainer": {"max_steps": 4},
    }  # fmt: skip
    name = prototype("wild", entry, broken)
    said = zoo_says(capsys, "fit", "--model", name, "--run", "one", *FEW, "--training.sample_every", "2")
    assert said == "zoo: the run is in one; look at one/loss.png\n"
    told = [r.getMessage() for r in caplog.records if r.name == "zoo.callbacks"]
    assert told == ["step 2: the samples could not be drawn, and the training goes on: the chain ran away"]
    assert read_checkpoint(last_checkpoint("one"))["zoo"]["step"] == 4 and run_metadata("one")["status"] == "finished"


def test_representation_that_draws_nothing(prototype: Any, capsys: Any) -> None:
    entry = {
        "family": "representation", "summary": "features predicted from features",
        "model": {"class_path": "predictive.Predictive", "init_args": {"shape": [1, 14, 14]}},
        "data": {"class_path": "predictive.FewDigits", "init_args": {"batch_size": 4}},
        "trainer": {"max_steps": 3}, "training": {"ema": 0.9},
    }  # fmt: skip
    name = prototype("predictive", entry)
    assert name in zoo_says(capsys, "list", "--family", "representation")
    fit = ("fit", "--model", name)
    assert "one/features.png" in zoo_says(capsys, *fit, "--run", "one", *FEW)
    zoo_says(capsys, "fit", "--resume", "one", "--trainer.max_steps", "6")
    assert any(key.startswith("target.") for key in read_checkpoint(last_checkpoint("one"))["state_dict"])
    model, x = load_run("one"), torch.rand(3, 1, 14, 14)
    save_pretrained(model, "folder")
    again = zoo.load("./folder")
    assert again.target is None and not any(key.startswith("target.") for key in _tensors("folder/model.safetensors"))
    assert torch.equal(again.features(x), model.features(x)) and again.features(x, pool=None).shape == (3, 4, 8)
    with pytest.raises(zoo.ZooError, match="has no target to predict"):
        again.loss((x, torch.zeros(3)))
    zoo_says(capsys, *fit, "--init_from", "./folder", "--run", "tuned", "--trainer.max_steps", "1", *FEW)
    assert "draws none, so there is nothing to sample" in zoo_says(capsys, "sample", "./one", code=2)
    zoo_says(capsys, "evaluate", "./one", "--quick")
    found = _result("one")["metrics"]
    assert {"probe_accuracy", "probe_accuracy_pixels", "probe_accuracy_untrained", "effective_rank"} <= set(found)
    zoo_says(capsys, "diagnose", "./one", "--out", "looks", "--examples", "16")
    assert Path("looks/diagnostics.json").is_file()


def test_digits_of_which_a_word_is_told(prototype: Any, capsys: Any) -> None:
    entry = {
        "family": "text_to_image", "summary": "pixels given a word",
        "model": {"class_path": "captioned.Captioned", "init_args": {"shape": [1, 28, 28]}},
        "data": {"class_path": "captioned.Captions", "init_args": {"batch_size": 4}}, "trainer": {"max_steps": 3},
    }  # fmt: skip
    name = prototype("captioned", entry)
    assert name in zoo_says(capsys, "list", "captioned*")
    assert "one/samples.png" in zoo_says(capsys, "fit", "--model", name, "--run", "one", *FEW)
    zoo_says(capsys, "fit", "--resume", "one", "--trainer.max_steps", "6")
    model = load_run("one")
    x = model.sample(2, seed=0, labels=["three", "eight"])
    assert x.shape == (2, 1, 28, 28) and torch.equal(model.sample(2, seed=0, labels="one"), _ones(model))
    assert model.log_prob(x, labels=["three", "eight"]).shape == (2,)
    with pytest.raises(zoo.ZooError, match="which is not among the model's characters"):
        model.sample(1, labels="a dog")
    save_pretrained(model, "folder")
    assert torch.equal(zoo.load("./folder").sample(2, seed=0, labels=["three", "eight"]), x)
    zoo_says(capsys, "sample", "./one", "-n", "2", "--prompt", "three", "--out", "three.png")
    zoo_says(capsys, "evaluate", "./one", "--samples", "64", "--limit", "64", "--quick", "--extractor", "none")
    assert set(_result("one")["metrics"]) == {"nats"} and _result("one")["protocol"]["conditional"]
    refused = zoo_says(capsys, "diagnose", "./one", "--out", "looks", code=2)
    assert "Captioned" in refused


def _ones(model: Any) -> torch.Tensor:
    return model.sample(2, seed=0, labels=["one", "one"])


def test_two_trained_parts_under_names_of_their_own(prototype: Any, capsys: Any) -> None:
    registry = load_registry()
    parts = {"left": dict(registry["vae-mnist"].model), "right": dict(registry["gan-mnist"].model)}
    entry = {
        "family": "blend", "model": {"class_path": "blended.Blended", "init_args": parts},
        "data": {"class_path": "zoo.data.mnist.MNIST", "init_args": {"batch_size": 4}}, "trainer": {"max_steps": 2},
    }  # fmt: skip
    name = prototype("blended", entry)
    shown = zoo_says(capsys, "show", name)
    assert "takes     --left, as it is a blend of two trained models, such as vae-mnist" in shown
    assert f"train it  zoo fit --model {name} --left vae-mnist --right gan-mnist" in shown
    with pytest.raises(SystemExit) as left:
        main(["fit", "--model", name, "--help"])
    assert left.value.code == 0
    helped = capsys.readouterr().out
    assert "--left NAME|RUN" in helped and "--right NAME|RUN" in helped and "--model.left.latent_dim " in helped
    fit = ("fit", "--model", name, "--left", "vae-mnist")
    assert "name it with --right" in zoo_says(capsys, *fit, *FEW, code=2)
    wrong = zoo_says(capsys, *fit, "--right", "vae-mnist", *FEW, code=2)
    assert "vae-mnist is a VAE, which has no game" in wrong and "give --right one such as gan-mnist" in wrong
    assert "--right: expected one argument" in zoo_says(capsys, *fit, "--right", code=2)
    assert "Did you mean '--right'" in zoo_says(capsys, *fit, "--right", "gan-mnist", "--rigth", "x", *FEW, code=2)
    zoo_says(capsys, *fit, "--right", "gan-mnist", "--run", "one", *FEW)
    assert list(run_metadata("one")["cost"]["stages"]) == ["vae-mnist", "gan-mnist", name]
    model, left, right = load_run("one"), zoo.load("vae-mnist"), zoo.load("gan-mnist")
    for part, taught in ((model.left, left), (model.right, right)):
        assert all(torch.equal(value, part.state_dict()[key]) for key, value in taught.state_dict().items())
    refused = zoo_says(capsys, "fit", "--resume", "one", "--left", "vae-mnist", code=2)
    assert "--resume goes on with the left that is in the checkpoint" in refused
    zoo_says(capsys, "fit", "--resume", "one", "--trainer.max_steps", "3")
