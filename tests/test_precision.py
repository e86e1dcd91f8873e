"""Options of training that meet inside a step: precision, clipping, accumulation, averages, and resuming; and what
models of half precision draw."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import tiny
import torch
import warm
from lightning.pytorch.plugins import MixedPrecision

import zoo
from zoo.devices import chosen_device, repeatable
from zoo.errors import ConfigError, ZooError
from zoo.maths.noise import rand
from zoo.registry import load_registry
from zoo.runs import load_run
from zoo.training.compute import _turn

RUNS = {"vae": tiny.vae, "gan": tiny.gan}  # Lightning's optimization, and two players by hand


pytestmark = pytest.mark.filterwarnings("ignore:precision .* is many times slower")


def _weights(kind: str, folder: Path, *args: str, half: bool = False, ema: bool = False, resume: bool = False) -> Any:
    run = RUNS[kind](*args, folder=str(folder), resume=resume)
    if half:  # Lightning's flag takes bfloat16 instead on a CPU; the scaler of float16 works there
        run.arguments["plugins"] = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))]
    run.start()
    return torch.cat([value.double().flatten() for value in load_run(folder, ema=ema).state_dict().values()])


@pytest.mark.parametrize("kind", [pytest.param("vae", marks=pytest.mark.slow), "gan"])
def test_clipping_does_the_same_in_every_precision(kind: str, tmp_path: Path) -> None:
    found = {}
    options = {"32": {}, "bf16": {"precision": "bf16-mixed"}, "16": {"half": True}}
    for precision, clip in product(options, (None, "0.001")):
        more = dict(options[precision])
        args = ["--trainer.precision", more.pop("precision")] if "precision" in more else []
        args += ["--trainer.gradient_clip_val", clip] if clip else []
        folder = tmp_path / f"{precision}{clip}"
        found[precision, clip] = _weights(kind, folder, "--trainer.max_steps", "6", *args, **more)
    moved = (found["32", "0.001"] - found["32", None]).norm()
    assert moved > 0
    for precision in ("bf16", "16"):  # a gradient that is clipped while it is scaled would be thousands too small
        for clip in (None, "0.001"):
            assert (found[precision, clip] - found["32", clip]).norm() < 0.2 * moved


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_in_mixed_precision_resumes_exactly(kind: str, half: bool, tmp_path: Path) -> None:
    args = [*([] if half else ["--trainer.precision", "bf16-mixed"]), "--trainer.gradient_clip_val", "0.1",
            "--training.channels_last", "true", "--trainer.accumulate_grad_batches", "2",
            "--training.checkpoint_every", "3"]  # fmt: skip
    whole = _weights(kind, tmp_path / "whole", *args, "--trainer.max_steps", "8", half=half, ema=True)
    _weights(kind, tmp_path / "parts", *args, "--trainer.max_steps", "5", half=half)
    parts = _weights(kind, tmp_path / "parts", *args, "--trainer.max_steps", "8", half=half, ema=True, resume=True)
    assert torch.equal(whole, parts)


SLOW_STEPS = ("gated_pixelcnn", "pixelcnn_pp", "transformer", "wavenet", "consistency", "rectified_flow", "flowar")
HALF = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("name", warm.long(warm.one_of_each(), SLOW_STEPS[:-1]))
def test_a_step_in_mixed_precision_and_channels_last_is_finite(name: str) -> None:
    model = load_registry()[name].build_model().train().to(memory_format=torch.channels_last)
    x = torch.rand(2, *model.shape, generator=torch.Generator().manual_seed(0))
    if model.levels is not None:
        x = (x * (model.levels - 1)).round() / (model.levels - 1)
    model.turn = MethodType(_turn, model)  # type: ignore[method-assign]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.training_step((x, warm.conditions(model, 2)), 0)
    if model.automatic_optimization:
        loss.backward()
    assert all(bool(value.isfinite()) for value in model.terms.values()), model.terms
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients and all(bool(g.isfinite().all()) for g in gradients.values())
    assert all(p.dtype == torch.float32 for p in model.parameters())


OPTIONS = [
    "--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", "1", "--training.channels_last", "true",
    "--trainer.accumulate_grad_batches", "2", "--training.ema", "0.9", "--training.checkpoint_every", "2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", warm.one_of_each())
def test_all_options_together_resume_exactly_in_every_family(
    name: str, tmp_path: Path, run_forked: Callable[..., Any]
) -> None:
    """Mixed precision, clipping, accumulation, channels last, the average and a resume."""
    period = load_registry()[name].build_model().period
    half, whole = (2, 4) if period < 6 else (period, period + 2)
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    run_forked(warm.train, name, one, whole, 2, *OPTIONS, timeout=600)
    run_forked(warm.train, name, other, half, 2, *OPTIONS, timeout=600)
    run_forked(warm.resume, name, other, whole, 2, *OPTIONS, timeout=600)
    assert warm.difference(one, other) == 0


# -- models of half precision -----------------------------------------------------------------------------------------


def _samples(name: str, dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(0)
    entry = load_registry()[name]
    by_pixels = entry.family == "autoregressive" and len(entry.model["init_args"].get("shape", ())) == 3
    model = entry.build_model(**({"shape": [1, 4, 4]} if by_pixels else {})).eval().to(dtype)
    options = {"steps": 2} if isinstance(model.sampler({}).get("steps"), int) else {}
    if len(model.shape) == 1 and "length" in model.sampling_options():
        options["length"] = 8
    return model.sample(2, seed=0, **options)


@pytest.mark.parametrize("dtype", [HALF[0], pytest.param(HALF[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", warm.long(warm.drawing(warm.one_of_each()), SLOW_STEPS))
def test_models_of_half_precision_draw_finite_samples_in_single_precision(name: str, dtype: torch.dtype) -> None:
    try:
        x = _samples(name, dtype)
    except ConfigError as error:
        assert dtype == torch.float16 and "take dtype=torch.bfloat16" in str(error)
        return
    assert x.dtype == torch.float32 and bool(x.isfinite().all())


def test_a_model_is_loaded_where_and_in_what_type_it_is_asked_for() -> None:
    single = zoo.load("vae-mnist").sample(4, seed=0)
    for dtype in HALF:
        model = zoo.load("vae-mnist", device="cpu", dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {dtype}
        x = model.sample(4, seed=0)
        assert x.dtype == torch.float32
        assert 0 < float((x - single).abs().mean()) < 0.02
        assert torch.equal(model.sample(4, seed=torch.Generator().manual_seed(0)), x)
    if not torch.cuda.is_available():
        with pytest.raises(ZooError, match="cuda"):
            zoo.load("vae-mnist", device="cuda")


def test_samples_that_grow_beyond_half_precision_are_refused_in_one_sentence() -> None:
    model = tiny.gan().model
    model.bounded = False
    first, *_, last = [p for p in model.generator.parameters() if p.ndim == 2]
    with torch.no_grad():
        first.fill_(5.0)  # eight units that agree
        last.fill_(6e4)
    assert bool(model.sample(4, seed=0).isfinite().all())
    with pytest.raises(ConfigError, match=r"not finite in float16, .* take dtype=torch.bfloat16$"):
        model.half().sample(4, seed=0)


@pytest.mark.parametrize("dtype", HALF)
def test_uniform_numbers_of_half_precision_stay_below_one(dtype: torch.dtype) -> None:
    u = rand((20_000,), torch.Generator().manual_seed(0), dtype=dtype)
    single = rand((20_000,), torch.Generator().manual_seed(0))
    assert u.dtype == dtype and float(u.max()) < 1 and float(single.to(dtype).max()) == 1
    assert float((u.float() - single).abs().max()) <= torch.finfo(dtype).eps


# -- devices ----------------------------------------------------------------------------------------------------------


def test_convolutions_repeat_themselves_on_a_gpu_while_samples_are_drawn() -> None:
    cudnn = torch.backends.cudnn

    def flags() -> tuple[Any, ...]:
        return cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision

    before = flags()
    with repeatable(torch.device("cpu")):
        assert flags() == before
    with pytest.raises(KeyError), repeatable(torch.device("cuda")):
        assert flags() == (True, False, "ieee", "ieee")
        raise KeyError
    assert flags() == before


def test_a_command_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [chosen_device(d) for d in (None, "auto", "cpu", "cuda:1")] == ["cuda", "cuda", "cpu", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert chosen_device() == "cpu"
    for wrong, said in (("cuda", "has 0 GPU"), ("gpux", "'gpux' is no device")):
        with pytest.raises(ConfigError, match=said):
            chosen_device(wrong)
