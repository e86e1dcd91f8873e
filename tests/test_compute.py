"""Training compute: what is counted equals what the shapes of the layers say, and what follows from a budget."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch
import warm
from closed_forms import step_flops

from zoo.errors import ConfigError
from zoo.registry import load_registry
from zoo.training.compute import flops_per_step, parameter_count
from zoo.training.settings import TrainingSettings, parse_budget, rate


@pytest.mark.parametrize("name", warm.long(load_registry(), (*warm.LARGE, *warm.relatives(load_registry()))))
def test_counted_operations_agree_with_the_closed_form(name: str) -> None:
    model = load_registry().resolve(name).build_model()
    cls = type(model).__name__
    forms = step_flops()
    if cls not in forms:
        pytest.fail(f"{name}: class {cls} has no closed form of its training compute; give STEP_FLOPS in its test file")
    x = (torch.rand(2, *model.shape) > 0.5).float()
    counted, _ = flops_per_step(model, (x, torch.zeros(2, *model.context, dtype=torch.long)))
    assert counted == pytest.approx(2 * forms[cls](model.spec["init_args"]), rel=0.02)


def test_counting_moves_nothing() -> None:
    torch.manual_seed(0)
    model = tiny.gan().model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained = [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    one, _ = flops_per_step(model, (torch.rand(4, 2), torch.zeros(4, dtype=torch.long)))
    two, _ = flops_per_step(model, (torch.rand(8, 2), torch.zeros(8, dtype=torch.long)))
    assert two == pytest.approx(2 * one) and one > 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == trained and any(trained)
    assert model.steps_done == 0
    assert state.shape == torch.get_rng_state().shape


# -- budgets and schedules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("50TFLOP", 50e12), ("1.5 PFLOP", 1.5e15), ("3gflop", 3e9), (" 2e3MFLOPs ", 2e9), (".5TFLOP", 0.5e12)],
)
def test_budgets_are_read(text: str, value: float) -> None:
    assert parse_budget(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "50", "TFLOP", "0TFLOP", "-1TFLOP", "50 FLOPS/s", "1e400TFLOP", "nanTFLOP"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="compute budget"):
        parse_budget(text)


def test_budget_plans_the_steps_and_the_schedule() -> None:
    run = tiny.vae("--training.budget", "1MFLOP", "--trainer.max_steps", "-1", "--training.schedule", "cosine")
    assert run.total == int(1e6 / run.flops) > 10
    assert run.flops * run.total <= 1e6 < run.flops * (run.total + 1)
    assert rate(run.total, run.settings, run.total) == pytest.approx(0, abs=1e-12)
    both = tiny.vae("--training.budget", "1MFLOP", "--trainer.max_steps", "7")
    assert both.total == 7  # whichever ends first
    accumulated = tiny.vae(
        "--training.budget", "1MFLOP", "--trainer.max_steps", "-1", "--trainer.accumulate_grad_batches", "4"
    )
    assert accumulated.flops == 4 * run.flops and accumulated.total == run.total // 4
    with pytest.raises(ConfigError, match="how long to train"):
        tiny.vae("--trainer.max_steps", "-1")


def test_epochs_plan_the_steps() -> None:
    run = tiny.vae("--trainer.max_steps", "-1", "--trainer.max_epochs", "3", "--data.limit", "20")
    assert run.total == 3 * (20 // 8)


def test_rate_is_a_ramp_then_constant_or_half_a_cosine() -> None:
    constant, cosine = TrainingSettings(warmup=4), TrainingSettings(warmup=4, schedule="cosine")
    for settings in (constant, cosine):
        assert [rate(t, settings, 104) for t in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(50, constant, 104) == 1.0 and rate(10**6, constant, None) == 1.0
    assert rate(4, cosine, 104) == 1.0
    assert rate(54, cosine, 104) == pytest.approx(0.5)
    assert rate(29, cosine, 104) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert rate(104, cosine, 104) == pytest.approx(0, abs=1e-15) == rate(200, cosine, 104)
    falling = [rate(t, cosine, 104) for t in range(4, 105)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    "wrong", [{"ema": 1.0}, {"ema": 0.0}, {"warmup": -1}, {"log_every": 0}, {"checkpoint_every": 0}, {"budget": "50"}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrainingSettings(**wrong)


def test_estimate_is_measured_and_complete() -> None:
    run = tiny.gan("--trainer.max_steps", "1000")
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    said = run.estimate()
    assert said["training_tflop"] == pytest.approx(run.flops * 1000 / 1e12) and said["steps"] == 1000
    assert said["parameters"] == parameter_count(run.model)
    assert (
        said["estimated_minutes"] == pytest.approx(said["seconds_per_step"] * 1000 / 60)
        and said["seconds_per_step"] > 0
    )
    assert said["measured_steps"] >= 2 * run.model.period
    assert all(torch.equal(v, before[k]) for k, v in run.model.state_dict().items())
