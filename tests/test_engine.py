"""The engine around the step: averages, accumulation, clipping, counting, noise, and Lightning's hooks made cheap."""

from __future__ import annotations

import gc
import math
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import warm
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from zoo.abilities import HasEnergy
from zoo.callbacks.ema import EMA
from zoo.errors import ConfigError
from zoo.registry import load_registry
from zoo.runs import last_checkpoint, load_run, read_checkpoint, run_metadata
from zoo.training.fit import Run
from zoo.training.hooks import Hooks, NoProfiler

DOUBLE = ("--trainer.precision", "64-true")


class Weights(Callback):
    """Keep the raw weights after every batch."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.kept.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})


def _train(run: Run, *callbacks: Callback) -> dict[str, Any]:
    run.arguments["callbacks"] = list(callbacks)
    return read_checkpoint(last_checkpoint(run.start()))


# -- the moving average ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny.vae, tiny.gan])
def test_average_is_the_one_computed_by_hand(make: Any, tmp_path: Path) -> None:
    run = make("--trainer.max_steps", "15", "--training.ema", "0.5", *DOUBLE, folder=tmp_path / "run")
    start = {n: p.detach().double().clone() for n, p in run.model.named_parameters() if p.requires_grad}
    content = _train(run, weights := Weights())
    decays = [min(0.5, (1 + t) / (10 + t)) for t in range(15)]
    assert decays[0] == 0.1 and decays[-1] == 0.5
    for name, mean in start.items():
        for d, after in zip(decays, weights.kept, strict=True):
            mean = d * mean + (1 - d) * after[name]
        assert torch.allclose(content["ema"]["parameters"][name], mean, rtol=0, atol=1e-12), name
        assert not torch.equal(mean, weights.kept[-1][name]) or torch.equal(mean, start[name])
    averaged, raw = load_run(tmp_path / "run"), load_run(tmp_path / "run", ema=False)
    for name, mean in content["ema"]["parameters"].items():
        assert torch.equal(averaged.state_dict()[name], mean.float())
        assert torch.equal(raw.state_dict()[name], weights.kept[-1][name].float())


def test_average_takes_several_steps_at_once_after_the_first_hundred() -> None:
    weight = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    ema = EMA(0.95, every=4)
    ema.on_fit_start(None, weight)
    mean = weight.weight.item()
    for step in range(1, 131):
        weight.weight.data.fill_(math.sin(step))
        ema.on_train_batch_end(None, weight)
        if step <= 100:
            d = min(0.95, step / (9 + step))
        elif step % 4 == 0:
            d = min(0.95, (step - 3) / (6 + step)) ** 4
        else:
            d = 1.0
        mean = d * mean + (1 - d) * math.sin(step)
        assert ema._mean[0].item() == pytest.approx(mean, abs=1e-12), step


def test_validation_sees_the_average_and_gives_the_weights_back(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Look(Weights):
        def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            seen.append(next(pl_module.parameters()).detach().clone())

    options = ("--trainer.max_steps", "5", "--data.limit", "40", "--trainer.limit_val_batches", "1")
    content = _train(tiny.vae(*options, folder=tmp_path / "run"), weights := Look())
    name = next(iter(weights.kept[0]))
    assert torch.equal(seen[0], content["ema"]["parameters"][name])
    assert torch.equal(content["state_dict"][name], weights.kept[-1][name])
    assert not torch.equal(seen[0], weights.kept[-1][name])


# -- accumulation, clipping, counting ----------------------------------------------------------------------------------


def _constant_noise(run: Run) -> Run:
    run.model._noise = lambda draw, shape: torch.full(shape, 0.3, dtype=run.model.dtype)
    return run


@pytest.mark.parametrize("make", [tiny.vae, tiny.gan])
def test_accumulation_equals_a_larger_batch(make: Any, tmp_path: Path) -> None:
    """In float64 and with constant noise, two batches of four give the step of one batch of eight."""
    options = ("--trainer.max_steps", "7", *DOUBLE)
    large = _constant_noise(make(*options, folder=tmp_path / "large"))
    small = _constant_noise(
        make(*options, "--data.batch_size", "4", "--trainer.accumulate_grad_batches", "2", folder=tmp_path / "small")
    )
    assert small.flops == large.flops and small.total == large.total == 7
    a, b = _train(large), _train(small, weights := Weights())
    assert len(weights.kept) == 14 and a["zoo"]["step"] == b["zoo"]["step"] == 7
    for name, value in a["state_dict"].items():
        assert torch.allclose(value, b["state_dict"][name], rtol=0, atol=1e-12), name


class Norms(Callback):
    """Keep the global norm of the gradient with which each optimizer has stepped."""

    def __init__(self) -> None:
        self.kept: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._look)

    def _look(self, optimizer: torch.optim.Optimizer, *args: Any) -> None:
        grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.kept.append(float(torch.stack([g.norm() for g in grads]).norm()))


@pytest.mark.parametrize("make", [tiny.vae, tiny.gan])
def test_clipping_bounds_the_global_norm(make: Any, tmp_path: Path) -> None:
    free, clipped = Norms(), Norms()
    _train(make("--trainer.max_steps", "6", folder=tmp_path / "free"), free)
    _train(make("--trainer.max_steps", "6", "--trainer.gradient_clip_val", "0.01", folder=tmp_path / "cut"), clipped)
    assert max(free.kept) > 0.01 and len(free.kept) == len(clipped.kept)
    assert max(clipped.kept) == pytest.approx(0.01, rel=1e-3)


def test_two_players_are_clipped_by_norm_only() -> None:
    with pytest.raises(ConfigError, match="clipped by norm only"):
        tiny.gan("--trainer.gradient_clip_val", "1", "--trainer.gradient_clip_algorithm", "value")


def test_one_step_is_one_batch_whatever_the_number_of_optimizers(tmp_path: Path) -> None:
    run = tiny.gan("--trainer.max_steps", "7", "--training.checkpoint_every", "5", folder=tmp_path / "run")
    content = _train(run, weights := Weights())
    critic, generator = (s["state"][0]["step"].item() for s in content["optimizer_states"])
    assert (critic, generator) == (7, 2)  # n_critic is 3
    assert content["zoo"]["step"] == content["zoo_batches"] == content["ema"]["updates"] == len(weights.kept) == 7
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert names == ["step-00000005.ckpt", "step-00000007.ckpt"]
    cost = run_metadata(tmp_path / "run")["cost"]
    assert cost["examples"] == 7 * 8 and cost["training_tflop"] == pytest.approx(7 * run.flops / 1e12, abs=1e-6)
    assert cost["peak_memory_bytes"] > 0 and cost["examples_per_second"] > 0 and cost["seconds"] >= 0


def test_schedule_and_rows_follow_the_steps(tmp_path: Path) -> None:
    options = ("--training.warmup", "4", "--training.schedule", "cosine", "--training.log_every", "2")
    more = ("--trainer.max_steps", "8", "--trainer.accumulate_grad_batches", "2")
    _train(tiny.vae(*options, *more, folder=tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines[1:]]
    assert [r["step"] for r in rows] == ["2", "4", "6", "8"]  # once a step, although a step has two batches
    expected = [0.01 * 2 / 4, 0.01, 0.01 * 0.5 * (1 + 2**-0.5), 0.01 * 0.5 * (1 - 2**-0.5)]
    assert [float(r["lr"]) for r in rows] == pytest.approx(expected, rel=1e-5)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", warm.one_of_each())
def test_compiling_keeps_the_names_of_the_weights(name: str) -> None:
    model = load_registry()[name].build_model()
    before = list(model.state_dict())
    chosen = model.compilable()
    for network in chosen:
        network.compile()
    assert list(model.state_dict()) == before
    without = name.startswith(
        ("ffjord", "residual_flow", "gq_vae", "bpe", "progan")
    )  # bpe has no network, progan others
    without = without or isinstance(model, HasEnergy)
    assert chosen or without, "only a trace, or a chain, that differentiates the network excludes all of it"


def test_critic_of_a_gradient_penalty_is_never_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    run = tiny.gan("--trainer.max_steps", "1", "--training.compile", "true", folder=tmp_path / "run")
    _train(run)
    assert compiled == [run.model.generator]
    assert not any(m is run.model.critic for c in compiled for m in c.modules())


def test_channels_last_changes_the_layout_and_nothing_else(tmp_path: Path) -> None:
    entry = {k: v for k, v in tiny.GAN.items()}
    spec = load_registry()["wgan_gp-mnist"].model
    entry["model"] = {**spec, "init_args": {**spec["init_args"], "n_critic": 2}}
    entry["data"] = {"class_path": "zoo.data.mnist.MNIST", "init_args": {"batch_size": 2, "limit": 8}}
    weights = []
    for layout in ("true", "false"):
        args = [*tiny.QUIET, *DOUBLE, "--trainer.max_steps", "3", "--training.channels_last", layout]
        run = Run(entry, args, folder=tmp_path / layout)
        convolutions = [m.weight for m in run.model.modules() if isinstance(m, nn.Conv2d) and m.weight.shape[1] > 1]
        assert all(w.is_contiguous(memory_format=torch.channels_last) == (layout == "true") for w in convolutions)
        weights.append(_train(run)["state_dict"])
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], rtol=0, atol=1e-9), name


def test_nothing_of_a_training_stays_behind(tmp_path: Path) -> None:
    """Neither its handlers of signals, which would swallow the next one, nor its models, which fill a notebook."""
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in asked]
    run = tiny.vae("--trainer.max_steps", "2", folder=tmp_path / "run")
    model = weakref.ref(run.model)
    run.start()
    del run
    gc.collect()
    assert [signal.getsignal(number) for number in asked] == before and model() is None


# -- hooks -------------------------------------------------------------------------------------------------------------


class _Part(Callback):
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def on_train_batch_end(self, *args: Any) -> None:
        self.calls.append(f"{self.name} {args}")


class _Both(_Part):
    def on_train_start(self, *args: Any) -> None:
        self.calls.append(f"{self.name} start")


@pytest.fixture
def calls() -> Iterator[list[str]]:
    yield []


def test_hooks_reach_those_that_define_them_in_order(calls: list[str]) -> None:
    hooks = Hooks([_Part("a", calls), _Both("b", calls), Callback()])
    hooks.on_train_batch_end(1, 2)
    hooks.on_train_start(1, 2)
    assert calls == ["a (1, 2)", "b (1, 2)", "b start"]
    assert hooks.on_before_backward is None and hooks.setup is None
    hooks.on_save_checkpoint(None, None, {})  # Lightning calls this one without asking
    with NoProfiler().profile("anything"):
        pass


def test_users_own_callbacks_are_still_called(tmp_path: Path) -> None:
    run = tiny.vae("--trainer.max_steps", "3", folder=tmp_path / "run")
    _train(run, weights := Weights())
    assert len(weights.kept) == 3
