"""The lean loop against Lightning's own: the same weights, the same counters, and nobody who listens is passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import warm
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

import zoo.training.fit as fit
from zoo.runs import last_checkpoint, read_checkpoint

NAMES = ("vae-mnist", "wgan_gp-mnist", "vq_vae-mnist")  # automatic, two players by hand, a step of its own
OPTIONS = ("--data.limit", "20", "--training.checkpoint_every", "3")


def _train(name: str, folder: Path, lean: bool, callbacks: tuple[Callback, ...] = ()) -> None:
    """Train twelve steps: two epochs and a part of a third."""
    build, make = fit.Run.trainer, fit.run_lean if lean else lambda trainer: trainer
    with (
        mock.patch.object(fit, "run_lean", make),
        mock.patch.object(fit.Run, "trainer", lambda self, parts, loggers: build(self, [*parts, *callbacks], loggers)),
    ):
        warm.train(name, str(folder), 12, 4, *OPTIONS)


def _others(folder: Path, callback: Callback | None = None) -> int:
    """Return how many of twelve steps were Lightning's own."""
    calls = []
    own = _TrainingEpochLoop.advance

    def counted(self: Any, *args: Any) -> Any:
        calls.append(1)
        return own(self, *args)

    with mock.patch.object(_TrainingEpochLoop, "advance", counted):
        _train("vae-mnist", folder, True, (callback,) if callback else ())
    return len(calls)


@pytest.mark.parametrize("name", NAMES)
def test_lean_steps_are_lightnings(name: str, tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    for kind in ("lean", "own"):
        run_forked(_train, name, tmp_path / kind, kind == "lean")
    assert warm.difference(tmp_path / "lean", tmp_path / "own") == 0
    lean, own = (read_checkpoint(last_checkpoint(tmp_path / kind)) for kind in ("lean", "own"))
    assert lean["loops"] == own["loops"] and lean["global_step"] == own["global_step"] == 12
    states = [[s for o in c["optimizer_states"] for s in o["state"].values()] for c in (lean, own)]
    for a, b in zip(*states, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in b)


def test_ordinary_steps_take_the_short_way_and_others_lightnings(tmp_path: Path) -> None:
    class Listens(Callback):
        norms: list[float] = []

        def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
            self.norms.append(sum(float(p.grad.norm()) for p in module.parameters()))

    assert _others(tmp_path / "a") == 0
    assert _others(tmp_path / "b", Listens()) == 12
    assert len(Listens.norms) == 12 and min(Listens.norms) > 0


def test_a_callback_may_still_log(tmp_path: Path) -> None:
    class Logs(Callback):
        seen: list[float] = []

        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
            module.log("mine", outputs["loss"], on_step=True)

        def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
            self.seen.append(float(trainer.callback_metrics["mine"]))

    assert _others(tmp_path / "a", Logs()) == 0
    assert len(Logs.seen) == 3 and min(Logs.seen) > 0
