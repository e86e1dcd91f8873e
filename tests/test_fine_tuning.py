"""Trainings that start from another one: what is taken, what is frozen, at which rates it moves, and exact resume."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import warm
import yaml

from zoo._cli import main
from zoo.errors import ConfigError
from zoo.runs import last_checkpoint, load_run, read_checkpoint, run_metadata
from zoo.training.engine import Stopped
from zoo.training.fine_tuning import take_weights
from zoo.training.fit import Run
from zoo.training.settings import TrainingSettings

Capture = pytest.CaptureFixture[str]
STEPS = ("--trainer.max_steps", "8", "--training.log_every", "1")
TUNED = (*STEPS, "--training.freeze", "decoder.layers.0", "--training.rates", "encoder=0.1")


def raw(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(last_checkpoint(folder))["state_dict"]


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], part: str) -> float:
    return max((after[k] - v).abs().max().item() for k, v in before.items() if k.startswith(part))


def test_frozen_parts_stay_and_slow_ones_are_slow(tmp_path: Path) -> None:
    run = tiny.vae(*TUNED, "--trainer.max_steps", "1", folder=tmp_path / "run")
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    run.start()
    after = raw(tmp_path / "run")
    assert moved(before, after, "decoder.layers.0") == 0
    # the first step of Adam is the learning rate, whatever the gradient
    assert moved(before, after, "decoder.layers.2") == pytest.approx(0.01, rel=1e-3)
    assert moved(before, after, "encoder") == pytest.approx(0.001, rel=1e-3)
    (optimizer,) = read_checkpoint(last_checkpoint(tmp_path / "run"))["optimizer_states"]
    assert [g["rate_factor"] for g in optimizer["param_groups"]] == [1.0, 0.1]
    assert "decoder.layers.0.weight" not in read_checkpoint(last_checkpoint(tmp_path / "run"))["ema"]["parameters"]
    assert load_run(tmp_path / "run").sample(1, seed=0).isfinite().all()


@pytest.mark.parametrize(
    ("make", "options"),
    [
        pytest.param(
            *(tiny.vae, ("--training.freeze", "decoder.layers.0", "--training.old_rate", "0.2")), marks=pytest.mark.slow
        ),
        (tiny.vae, ("--training.rates", "encoder=0.5,decoder.layers.0=0.1", "--training.schedule", "cosine")),
        pytest.param(
            *(tiny.gan, ("--training.freeze", "critic.layers.0", "--training.rates", "generator.layers.0=0.1")),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_tuned_run_that_is_interrupted_ends_at_the_same_bits(
    make: Callable[..., Run], options: tuple[str, ...], tmp_path: Path
) -> None:
    make("--trainer.max_steps", "3", folder=tmp_path / "start").start()
    options = (*STEPS, *options)
    make(*options, folder=tmp_path / "whole", init_from=load_run(tmp_path / "start")).start()
    run = make(*options, folder=tmp_path / "cut", init_from=load_run(tmp_path / "start"))
    run.arguments["callbacks"] = [tiny_stop(run, 5)]
    with pytest.raises(Stopped):
        run.start()
    make(*options, folder=tmp_path / "cut", resume=True).start()
    assert warm.difference(tmp_path / "whole", tmp_path / "cut") == 0.0
    assert run_metadata(tmp_path / "cut")["init_from"]["from"] == str(tmp_path / "start")
    facts = [run_metadata(tmp_path / name) for name in ("whole", "cut")]
    assert facts[0]["rate_factors"] == facts[1]["rate_factors"] != {} and facts[0]["init_from"] == facts[1]["init_from"]


def tiny_stop(run: Run, step: int) -> Any:
    from lightning.pytorch import Callback

    class Stop(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == step:
                assert run.engine is not None
                run.engine.received = "SIGTERM"

    return Stop()


def test_only_what_is_new_is_trained_where_the_old_rate_is_zero(tmp_path: Path) -> None:
    tiny.vae("--trainer.max_steps", "2", folder=tmp_path / "start").start()
    start = load_run(tmp_path / "start")
    spec = copy.deepcopy(tiny.VAE)  # with three latents instead of two
    spec["model"]["init_args"].update(latent_dim=3, encoder=tiny._mlp(2, 8, 6), decoder=tiny._mlp(3, 8, 4))
    options = [*tiny.QUIET, *STEPS, "--training.old_rate", "0"]
    run = Run(spec, options, folder=tmp_path / "tuned", init_from=start)
    assert run.started is not None and run.started["resized"] == {
        "encoder.layers.2.weight": [[4, 8], [6, 8]], "encoder.layers.2.bias": [[4], [6]],
        "decoder.layers.0.weight": [[8, 2], [8, 3]],
    }  # fmt: skip
    assert (
        "encoder.layers.2.weight (4, 8) -> (6, 8)" in run.taken_over
        and "begin anew, as their sizes differ" in run.taken_over
    )
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    run.start()
    after = raw(tmp_path / "tuned")
    old = set(run.started["taken"])
    assert old and all(torch.equal(before[k], after[k]) == (k in old) for k in before)
    assert all(torch.equal(after[k], start.state_dict()[k]) for k in old)


def test_weights_of_another_architecture_are_refused() -> None:
    import zoo

    with pytest.raises(ConfigError, match=r"the weights of vae-mnist do not fit the model: 0 of 12 tensors do"):
        take_weights(zoo.load("vae-mnist"), zoo.create("vae-binary_mnist"))
    taken = take_weights(zoo.load("sn_gan_cond-mnist"), zoo.create("sn_gan_cond-mnist", num_classes=3))
    assert len(taken.resized) == 3 and not taken.new and not taken.left  # the embeddings of the classes
    assert json.loads(json.dumps(taken.facts()))["from"] == "sn_gan_cond-mnist"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--training.freeze", "encodr"), r"matches 'encodr'. Did you mean 'encoder'"),
        (("--training.freeze", "encoder,decoder"), "all that the model moves is frozen"),
        (("--training.rates", "encoder"), "takes name=factor,... such as encoder=0.1, got 'encoder'"),
        (("--training.rates", "encoder=-1"), "takes name=factor"),
        (("--training.old_rate", "-1"), "must be a number from 0"),
        (("--training.old_rate", "0.1"), "give --init_from too"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(options: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        tiny.vae(*STEPS, *options, folder=tmp_path / "run").start()
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_rates_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    entry = {"family": "vae", **{k: tiny.VAE[k] for k in ("model", "data", "trainer")}}
    Path("tiny.yaml").write_text(yaml.safe_dump({"models": {"tiny-points": entry}}))
    monkeypatch.setenv("ZOO_REGISTRY", str(tmp_path / "tiny.yaml"))
    assert main(["fit", "tiny", "--run", "start", *tiny.QUIET]) == 0
    tuned = ["--init_from", "./start", "--training.freeze", "decoder.*.bias", "--run", "tuned"]
    assert main(["fit", "tiny", *tuned, *tiny.QUIET]) == 0
    assert "zoo: 8 of 8 tensors are those of start" in capsys.readouterr().err
    cost = run_metadata("tuned")["cost"]
    assert list(cost["stages"]) == ["tiny-points (start)", "tiny-points"]  # what it was started from counts
    assert cost["training_tflop"] == pytest.approx(sum(cost["stages"].values()), rel=1e-3)
    more = ("--trainer.max_steps", "12")
    assert main(["fit", "--resume", "./tuned", "--training.freeze", "decoder", *more]) == 2
    assert "--resume goes on with the frozen parts and the rates of the run" in capsys.readouterr().err
    assert main(["fit", "--resume", "./tuned", "--init_from", "./start", *more]) == 2
    assert "leave --init_from out" in capsys.readouterr().err
    assert main(["fit", "--resume", "./tuned", "--model.lr", "0.5", *more]) == 0
    (optimizer,) = read_checkpoint(last_checkpoint("tuned"))["optimizer_states"]
    assert [g["initial_lr"] for g in optimizer["param_groups"]] == [0.5]
    assert main(["validate", "./tuned", "--trainer.limit_val_batches", "1"]) == 0


def test_the_estimate_of_a_tuned_run_leaves_its_model_alone() -> None:
    run = tiny.vae(*TUNED)
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    assert run.estimate()["training_tflop"] < tiny.vae(*STEPS).spent(8) / 1e12  # less of it goes back
    assert all(torch.equal(v, before[k]) for k, v in run.model.state_dict().items())
    assert TrainingSettings(freeze="a, b.*").rate_patterns() == [("a", 0.0), ("b.*", 0.0)]
