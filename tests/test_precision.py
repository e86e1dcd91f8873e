"""Options of training that meet inside a step: precision, clipping, accumulation, averages, and resuming."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning.pytorch.plugins import MixedPrecision

from zoo.runs import load_run

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
