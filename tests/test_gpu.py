"""What only a GPU shows: every model there, equal seeds, precision, captured graphs, no waiting, several cards.

    python -m pytest -m gpu -n 0

``ZOO_TEST_DEVICE=cpu`` runs the same bodies on the CPU, for who changes them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import warm
from test_kept import BUNDLED, SAMPLES, VALUE_BY_VALUE

import zoo
from zoo.abilities import has_likelihood
from zoo.errors import ConfigError
from zoo.registry import load_registry
from zoo.runs import load_run
from zoo.sampling import Draw
from zoo.serving.engine import Work
from zoo.serving.service import Service
from zoo.serving.settings import Settings
from zoo.training.compute import _turn

DEVICE = os.environ.get("ZOO_TEST_DEVICE", "cuda")
GPU = ["--trainer.accelerator", "gpu" if DEVICE == "cuda" else DEVICE, "--trainer.devices", "1"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.filterwarnings("ignore:precision .* is many times slower"),
    pytest.mark.filterwarnings("ignore:.*(TF32|TensorFloat|Dynamo|cudagraph|deterministic).*"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def _names() -> list[str]:
    """Return one model of each class, and all that are drawn pixel by pixel."""
    more = [n for n in load_registry() if n.startswith(("gated_pixelcnn", "pixelcnn"))]
    return sorted({*warm.one_of_each(), *more} - set(warm.LARGE))


NAMES = _names()
SHIPPED = sorted({key.partition("@")[0] for key in BUNDLED})


def _short(model: Any) -> dict[str, Any]:
    steps = {"steps": 2} if isinstance(model.sampler({}).get("steps"), int) else {}
    short = {"length": 8} if len(model.shape) == 1 and "length" in model.sampling_options() else {}
    return {**steps, **short}


def _shipped(name: str, **options: Any) -> Any:
    model = zoo.load(name, device=DEVICE, **options)
    return model if model.generates else pytest.skip("draws no samples")


# -- it runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_model_trains_loads_samples_and_scores(name: str, tmp_path: Path) -> None:
    period = load_registry()[name].build_model().period
    run = warm.train(name, str(tmp_path / "run"), period if period < 6 else 2, 4, *GPU, "--training.ema", "0.9")
    model = load_run(run).to(DEVICE)
    assert model.device.type == DEVICE
    if not model.generates:
        return
    x = model.sample(2, seed=0, **_short(model))
    assert x.device.type == DEVICE and bool(x.isfinite().all())
    if has_likelihood(model) and model.likelihood() in ("exact", "elbo") and len(model.shape) > 1:
        labels = {"labels": 1} if model.num_classes else {}
        assert bool(model.log_prob(x.clamp(0, 1), seed=0, **labels).isfinite().all())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", ["vae-mnist", "wgan_gp-mnist", "dit-mnist", "gated_pixelcnn-mnist", "vq_vae-mnist"])
def test_options_together_resume_exactly(name: str, precision: str, tmp_path: Path) -> None:
    if DEVICE != "cuda" and precision == "16-mixed":
        pytest.skip("Lightning takes bfloat16 instead on a CPU")
    args = [
        *GPU, "--trainer.precision", precision, "--trainer.gradient_clip_val", "1", "--training.ema", "0.9",
        "--training.channels_last", "true", "--trainer.accumulate_grad_batches", "2",
        "--training.checkpoint_every", "5", "--trainer.deterministic", "true",
    ]  # fmt: skip
    try:
        warm.train(name, str(tmp_path / "whole"), 10, 4, *args)
        warm.train(name, str(tmp_path / "parts"), 5, 4, *args)
        warm.train(name, str(tmp_path / "parts"), 10, 4, *args, resume=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert warm.difference(tmp_path / "whole", tmp_path / "parts") == 0


@pytest.mark.parametrize("name", ["vae-mnist", "wgan_gp-mnist", "ddpm-mnist", "pixelcnn-mnist"])
def test_captured_graphs_train_to_the_same_weights(name: str, tmp_path: Path) -> None:
    captured = ["--training.compile", "true", "--training.compile_mode", "reduce-overhead"]
    warm.train(name, str(tmp_path / "eager"), 12, 8, *GPU)
    warm.train(name, str(tmp_path / "captured"), 12, 8, *GPU, *captured)
    moved = warm.difference(warm.train(name, str(tmp_path / "first"), 1, 8, *GPU), tmp_path / "eager")
    assert warm.difference(tmp_path / "eager", tmp_path / "captured") < 0.2 * moved


# -- it repeats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_equal_seeds_give_equal_bits_on_one_device(name: str) -> None:
    model = _shipped(name)
    first, second = (model.sample(4, seed=0, **_short(model)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("key", BUNDLED)
def test_samples_are_those_of_the_cpu_up_to_rounding(key: str) -> None:
    """Where a model draws value by value, rounding can turn a value and all after it: less than half of them differ."""
    with np.load(SAMPLES) as file:
        if f"{key}:samples" not in file:
            pytest.skip("these weights are newer than the fixture")
        golden = file[f"{key}:samples"]
    model = _shipped(key.partition("@")[0])
    steps = model.sampler({}).get("steps")
    options = {"steps": 4} if isinstance(steps, int) and steps > 4 else {}
    found = model.sample(2, seed=0, **options).cpu().numpy()
    assert found.shape == golden.shape
    if any(word in key for word in VALUE_BY_VALUE):
        assert (np.abs(found - golden) > 1e-3).mean() < 0.5
    else:
        assert np.abs(found - golden).mean() < 1e-3


def test_a_generator_of_either_device_is_taken() -> None:
    model = zoo.load("vae-mnist", device=DEVICE)
    assert torch.equal(model.sample(4, seed=torch.Generator().manual_seed(0)), model.sample(4, seed=0))
    there = [model.sample(4, seed=torch.Generator(DEVICE).manual_seed(0)) for _ in range(2)]
    assert torch.equal(*there)
    here = zoo.load("vae-mnist").sample(4, seed=torch.Generator(DEVICE).manual_seed(0))
    assert here.device.type == "cpu" and float((here - there[0].cpu()).abs().mean()) < 1e-3


def test_training_noise_of_the_cpu_trains_alike_on_both_devices(tmp_path: Path) -> None:
    noise = ["--training.noise", "cpu"]
    warm.train("vae-mnist", str(tmp_path / "gpu"), 5, 8, *GPU, *noise)
    warm.train("vae-mnist", str(tmp_path / "cpu"), 5, 8, "--trainer.accelerator", "cpu", *noise)
    assert warm.difference(tmp_path / "gpu", tmp_path / "cpu") < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHIPPED)
def test_weights_of_half_precision_draw_finite_samples(name: str, dtype: torch.dtype) -> None:
    model = _shipped(name, dtype=dtype)
    try:
        x = model.sample(2, seed=0, **_short(model))
    except ConfigError as error:
        assert "take dtype=torch." in str(error)
        return
    assert x.dtype == torch.float32 and bool(x.isfinite().all())


# -- it is fast -------------------------------------------------------------------------------------------------------


WAITING = ("energy_matching", "rectified_flow", "reflow")
"""Models whose steps need the CPU: assignment by scipy, and noise of a pair's own seed."""


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith(WAITING)])
def test_a_step_waits_for_nothing(name: str) -> None:
    model = load_registry()[name].build_model().to(DEVICE).train()
    x = torch.rand(4, *model.shape, device=DEVICE)
    if model.levels is not None:
        x = (x * (model.levels - 1)).round() / (model.levels - 1)
    labels = warm.conditions(model, 4).to(DEVICE)
    model.turn = MethodType(_turn, model)
    try:
        for i in range(3):
            model.steps_done = i
            if i == 2 and DEVICE == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            loss = model.training_step((x, labels), i)
            if model.automatic_optimization:
                loss.backward()
    finally:
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_data_live_on_the_card_in_the_order_of_the_cpu(tmp_path: Path) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    for where, accelerator in (("gpu", GPU), ("cpu", ["--trainer.accelerator", "cpu"])):
        run = tiny.vae(*accelerator, "--trainer.max_steps", "4", folder=str(tmp_path / where))
        seen[where] = []
        move = run.data.transfer_batch_to_device

        def watched(batch: Any, *args: Any, move: Any = move, kept: Any = seen[where], where: str = where) -> Any:
            assert batch[0].device.type == (DEVICE if where == "gpu" else "cpu")
            kept.append(batch[0].cpu())
            return move(batch, *args)

        run.data.transfer_batch_to_device = watched
        run.start()
    assert all(torch.equal(a, b) for a, b in zip(seen["gpu"], seen["cpu"], strict=True)) and len(seen["gpu"]) >= 4


# -- commands ---------------------------------------------------------------------------------------------------------


def test_a_server_computes_on_the_card_and_answers_from_the_cpu() -> None:
    model = zoo.load("vae-mnist", device=DEVICE)
    service = Service({"vae-mnist": model}, Settings(models=("vae-mnist",), deadline=60.0, device=DEVICE))
    try:
        work = Work(service.served["vae-mnist"], float("inf"), Draw(2, 0, None, {}))
        (x,) = service.engine._compute([work])
    finally:
        service.close()
    assert x.device.type == "cpu" and float((x - model.sample(2, seed=0).cpu()).abs().max()) < 1e-4


def test_an_evaluation_on_the_card_gives_the_numbers_of_the_cpu() -> None:
    options: dict[str, Any] = {"samples": 300, "limit": 200, "k": 1, "quick": True, "progress": False}
    here, there = (zoo.evaluate("vae-mnist", device=device, **options) for device in ("cpu", DEVICE))
    for name, metric in here.metrics.items():
        assert there.metrics[name].value == pytest.approx(metric.value, rel=0.02, abs=0.01), name


# -- several cards ----------------------------------------------------------------------------------------------------


SMALL = [
    "--trainer.max_steps", "4", "--data.limit", "64", "--data.batch_size", "8", "--training.sample_every", "0",
    "--training.checkpoint_every", "2", "--trainer.limit_val_batches", "1",
]  # fmt: skip
TWO = ["--trainer.accelerator", "gpu", "--trainer.devices", "2"]


def _fit(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zoo", "fit", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


@two_gpus
@pytest.mark.parametrize(
    ("name", "strategy"), [("vae-mnist", "ddp"), ("vae-mnist", "fsdp"), ("wgan_gp-mnist", "ddp"), ("vae-tiles", "fsdp")]
)
def test_two_cards_train_and_go_on(name: str, strategy: str, tmp_path: Path) -> None:
    run, whole = str(tmp_path / "run"), str(tmp_path / "whole")
    given = [*SMALL, *TWO, "--trainer.strategy", strategy]
    done = _fit(tmp_path, "--model", name, "--run", run, *given)
    assert done.returncode == 0, done.stderr
    more = _fit(tmp_path, "--resume", run, "--trainer.max_steps", "6")
    assert more.returncode == 0, more.stderr
    at_once = _fit(tmp_path, "--model", name, "--run", whole, *given, "--trainer.max_steps", "6")
    assert at_once.returncode == 0, at_once.stderr
    assert warm.difference(run, whole) < 1e-5


@two_gpus
def test_two_cards_equal_one_that_computes_the_joined_batch(tmp_path: Path) -> None:
    noise = ["--training.noise", "cpu"]
    done = _fit(tmp_path, "--model", "vae-mnist", "--run", str(tmp_path / "two"), *SMALL, *TWO, *noise)
    assert done.returncode == 0, done.stderr
    limit = ["--data.limit", "64", "--training.checkpoint_every", "2", *noise]
    warm.train_both("vae-mnist", str(tmp_path / "one"), 4, 16, *limit, *GPU)
    assert warm.difference(tmp_path / "one", tmp_path / "two") < 1e-5
