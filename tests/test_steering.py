"""A run that is asked for nothing, diverges, is stopped twice, or goes on with other options."""

from __future__ import annotations

import contextlib
import io
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import warm
from lightning.pytorch import Callback

import zoo
from zoo._cli import main
from zoo.callbacks.pictures import plot_losses
from zoo.errors import ConfigError, DivergedError
from zoo.runs import last_checkpoint, load_run, run_metadata
from zoo.training import engine
from zoo.training.engine import Stopped
from zoo.training.fit import Run

Capture = pytest.CaptureFixture[str]
MANY = ("--trainer.max_steps", "100")


@pytest.mark.parametrize(
    "options",
    [
        ("--trainer.max_steps", "0"), ("--trainer.max_steps", "-1", "--trainer.max_epochs", "0"),
        ("--trainer.max_steps", "5", "--trainer.limit_train_batches", "0"),
    ],
)  # fmt: skip
def test_no_steps_are_refused_before_anything_is_written(options: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing would be trained"):
        tiny.vae(*options, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (("--trainer.max_epochs", "3", "--trainer.limit_train_batches", "2"), 6),
        (("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "0.5"), 2 * 12),
        (("--trainer.max_epochs", "2", "--trainer.overfit_batches", "1"), 2),
        (("--trainer.max_epochs", "2", "--trainer.overfit_batches", "0"), 2 * 25),
        (("--trainer.max_epochs", "1", "--trainer.accumulate_grad_batches", "4"), 7),
    ],
)
def test_epochs_are_counted_within_their_limits(options: tuple[str, ...], steps: int) -> None:
    run = tiny.vae("--trainer.max_steps", "-1", *options)
    assert len(run.data.split("train")[0]) // run.data.batch_size == 25 and run.total == steps


class Break(Callback):
    """Spoil the weights, or the terms, after a step."""

    def __init__(self, step: int, terms: bool = False) -> None:
        self.step, self.terms = step, terms

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))


@pytest.mark.parametrize("make", [tiny.vae, tiny.gan])
def test_a_run_that_diverges_ends_within_a_row_and_keeps_its_good_checkpoint(make: Any, tmp_path: Path) -> None:
    run = make(*MANY, "--training.checkpoint_every", "4", "--training.log_every", "5", folder=tmp_path / "run")
    run.arguments["callbacks"] = [Break(9)]
    with pytest.raises(DivergedError, match=r"not finite .* at step 1\d.*last good checkpoint is") as told:
        run.start()
    assert told.value.exit_code == 1 and "--model.lr" in str(told.value)
    assert last_checkpoint(tmp_path / "run").name == "step-00000008.ckpt"
    assert all(p.isfinite().all() for p in load_run(tmp_path / "run").parameters())
    assert run_metadata(tmp_path / "run")["status"] == "diverged"


def test_no_checkpoint_is_written_of_broken_weights(tmp_path: Path) -> None:
    run = tiny.vae(*MANY, "--training.checkpoint_every", "10", folder=tmp_path / "run")
    run.arguments["callbacks"] = [Break(5)]
    with pytest.raises(DivergedError, match=r"the weights .* there was no checkpoint yet"):
        run.start()
    assert not list((tmp_path / "run").glob("checkpoints/*.ckpt"))
    assert [(s, math.isnan(v)) for s, v in _rows(tmp_path / "run", "train/loss")] == [(10, True)]  # no row was due


class Fails(Callback):
    """A callback of a user's own with a fault."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 7:
            raise ZeroDivisionError


def test_the_terms_until_a_fault_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        tiny.vae(*MANY, "--training.log_every", "5", folder=tmp_path / "run", callbacks=[Fails()]).start()
    assert [step for step, _ in _rows(tmp_path / "run", "train/loss")] == [5, 7]


class Spoil(Callback):
    """Make the examples of some of the batches that this process sees NaN."""

    def __init__(self, *numbers: int, always: int = 1_000_000) -> None:
        self.numbers, self.always, self.seen = numbers, always, 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen += 1
        if self.seen in self.numbers or self.seen >= self.always:
            batch[0].fill_(float("nan"))


def _rows(folder: Path, column: str) -> list[tuple[int, float]]:
    return zoo.Training(folder).metrics[column]


@pytest.mark.parametrize("make", [pytest.param(tiny.vae, marks=pytest.mark.slow), tiny.gan])
def test_updates_that_are_not_finite_are_skipped(make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ("--trainer.max_steps", "20", "--training.log_every", "5", "--training.on_divergence", "skip")
    for name, stop in (("whole", None), ("parts", 12)):
        run = make(*options[:1], str(stop or 20), *options[2:], folder=tmp_path / name)
        run.arguments["callbacks"] = [Spoil(7, 8)]
        run.start()
        if stop:
            make(*options, folder=tmp_path / name, resume=True).start()
    assert warm.difference(tmp_path / "whole", tmp_path / "parts") == 0  # as if their updates had never been
    for name in ("whole", "parts"):
        facts = run_metadata(tmp_path / name)
        assert facts["status"] == "finished" and facts["step"] == 20
        assert facts["skipped_updates"] == 2  # of the game, the critic's: what it sees is broken
    column = "train/loss" if make is tiny.vae else "train/critic_loss"
    steps, values = zip(*_rows(tmp_path / "whole", column), strict=True)
    assert steps == (5, 10, 15, 20) and all(map(math.isfinite, values))
    assert "step 10: 2 updates were skipped" in caplog.text
    run = make(*options, folder=tmp_path / "lost")
    run.arguments["callbacks"] = [Spoil(always=6)]
    with pytest.raises(DivergedError, match=r"not finite .* at step 10"):  # a row of which nothing is left
        run.start()


def test_a_run_goes_back_and_past_the_batches_that_broke_it(tmp_path: Path) -> None:
    options = ("--trainer.max_steps", "20", "--training.checkpoint_every", "4", "--training.log_every", "5",
               "--training.on_divergence", "back")  # fmt: skip
    run = tiny.vae(*options, folder=tmp_path / "run")
    run.given_callbacks = run.arguments["callbacks"] = [spoil := Spoil(9)]
    with pytest.warns(UserWarning, match="at step 10; going back to step 8, past the 2 batches since"):
        run.start()
    assert spoil.seen == 10 + 12 and run.engine.batches == 22
    facts = run_metadata(tmp_path / "run")
    assert facts["status"] == "finished" and facts["step"] == 20 and len(facts["commands"]) == 1
    back = facts["history"][-1]
    assert back["step"] == 8 and back["went_back"]["to"] == 8 and back["went_back"]["past_batches"] == 2
    steps, values = zip(*_rows(tmp_path / "run", "train/loss"), strict=True)
    assert list(steps) == [5, 10, 15, 20] and all(map(math.isfinite, values))
    run = tiny.vae(*options, folder=tmp_path / "lost")
    run.given_callbacks = run.arguments["callbacks"] = [Spoil(always=9)]
    with pytest.warns(UserWarning, match="going back"), pytest.raises(DivergedError, match="it went back 3 times"):
        run.start()
    run = tiny.vae(*options, folder=tmp_path / "soon")
    run.given_callbacks = run.arguments["callbacks"] = [Spoil(2)]
    with pytest.raises(DivergedError, match="there was no checkpoint yet"):
        run.start()
    with pytest.raises(ConfigError, match="back is for one device"):
        tiny.vae(*options, "--trainer.devices", "2", "--trainer.accelerator", "cpu")


def test_losses_that_are_not_finite_are_left_out_of_the_plot(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("step,train/loss\n1,2.0\n2,nan\n3,inf\n4,1.0\n5,1e308\n6,-1e308\n")
    plot_losses(tmp_path / "m.csv", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000
    (tmp_path / "n.csv").write_text("step,train/loss\n1,nan\n")
    plot_losses(tmp_path / "n.csv", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_sampling_from_weights_that_are_not_finite_says_so() -> None:
    model = zoo.create("vae-mnist")
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(ConfigError, match="hold NaN or infinity, first in decoder"):
        model.sample(1, seed=0)


def _interrupted(folder: str, signals: tuple[str, ...]) -> tuple[str, list[str]]:
    """Train in this process, which gets these signals in the middle of one step; return how it ended."""

    class Send(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 3:
                for name in signals:
                    os.kill(os.getpid(), getattr(signal, name))

    run = tiny.vae(*MANY, folder=folder)
    run.arguments["callbacks"] = [Send()]
    try:
        run.start()
    except Stopped as stop:
        return stop.signal_name, [p.name for p in Path(folder).glob("checkpoints/*.ckpt")]
    except KeyboardInterrupt:
        return "interrupted", []
    return "finished", []


@pytest.mark.parametrize(
    "signals",
    [
        ("SIGINT", "SIGINT"),
        *(pytest.param(s, marks=pytest.mark.slow) for s in (("SIGINT",) * 3, ("SIGTERM", "SIGINT"))),
        ("SIGHUP",),
    ],
)
def test_further_signals_change_nothing(
    signals: tuple[str, ...], tmp_path: Path, run_forked: Callable[..., Any]
) -> None:
    assert run_forked(_interrupted, str(tmp_path / "run"), signals) == (signals[0], ["step-00000004.ckpt"])


def _sender(place: str, *signals: str) -> Callback:
    """Return a callback that sends signals to this process at a place of a training."""

    def send(*args: Any, **options: Any) -> None:
        for name in signals:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(0.01)

    return type("Sender", (Callback,), {place: send})()


BEFORE = ("setup", "on_fit_start", "on_train_start")


def _commanded(folder: str, words: list[str], place: str, signals: tuple[str, ...]) -> tuple[int, str, str]:
    """Run a command in this process, which gets these signals at that place; return exit code and what it printed."""
    build = Run.trainer
    Run.trainer = lambda self, callbacks, loggers: build(self, [*callbacks, _sender(place, *signals)], loggers)
    out, err = io.StringIO(), io.StringIO()
    os.chdir(folder)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(("place", "signals"), [
    *((place, (name,)) for place, name in zip(BEFORE, ("SIGTERM", "SIGHUP", "SIGINT"), strict=True)),
    ("setup", ("SIGINT", "SIGINT")), ("on_fit_start", ("SIGTERM", "SIGINT")), ("on_train_start", ("SIGTERM",)),
])  # fmt: skip
def test_a_signal_before_the_first_step_ends_the_run_and_leaves_nothing(
    place: str, signals: tuple[str, ...], tmp_path: Path, run_forked: Callable[..., Any]
) -> None:
    words = ["fit", "vae", *tiny.QUIET, "--data.limit", "64", "--data.batch_size", "8", "--run", "runs/one"]
    code, out, err = run_forked(_commanded, str(tmp_path), [*words, "--trainer.max_steps", "3"], place, signals)
    assert code == (130 if signals[0] == "SIGINT" else 143) and "Traceback" not in err
    if place == "on_train_start":  # the engine's comes first: its step is made, and kept
        assert f"{signals[0]} after step 1; the checkpoint is in runs/one" in out
    else:
        assert f"{signals[0]} before step 1; there was no checkpoint yet" in out and not (tmp_path / "runs").exists()


def test_a_signal_before_the_first_step_leaves_the_checkpoint_of_before(
    tmp_path: Path, run_forked: Callable[..., Any]
) -> None:
    warm.train("vae-mnist", tmp_path / "run", 2)
    words = ["fit", "--resume", "./run", "--trainer.max_steps", "4"]
    code, out, _ = run_forked(_commanded, str(tmp_path), words, "on_fit_start", ("SIGTERM",))
    assert code == 143 and "SIGTERM before step 3; the checkpoint is in run/checkpoints" in out
    assert last_checkpoint(tmp_path / "run").name == "step-00000002.ckpt"
    assert main(["fit", "--resume", str(tmp_path / "run"), "--trainer.max_steps", "4"]) == 0


def test_a_step_that_does_not_end_is_left_by_a_second_interrupt(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    assert run_forked(_hung, str(tmp_path)) == (130, True)


def _hung(folder: str) -> tuple[int, bool]:
    engine._PATIENCE = 0.0
    words = ["fit", "vae", *tiny.QUIET, "--data.limit", "64", "--data.batch_size", "8", "--run", "run"]
    code, out, _ = _commanded(folder, [*words, "--trainer.max_steps", "3"], "on_before_zero_grad", ("SIGINT", "SIGINT"))
    return code, "SIGINT within step 1; there was no checkpoint yet" in out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_forks_have_trained_stays_when_one_of_them_fails(tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    assert run_forked(_forks_that_fail, str(tmp_path)) == ["step-00000002.ckpt", "step-00000004.ckpt"]


def _forks_that_fail(folder: str) -> list[str]:
    class Fail(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 5:
                raise OSError(5, "the disk is gone")

    multiprocessing.current_process()._config["daemon"] = False  # which may have no children
    sys.ps1 = ">>> "  # as in a notebook
    os.chdir(folder)
    x = (torch.rand(64, 1, 8, 8) * 255).to(torch.uint8)
    with contextlib.suppress(Exception):
        zoo.fit(
            "vae", x, max_steps=9, run="run", devices=2, accelerator="cpu", strategy="ddp_notebook", callbacks=Fail(),
            batch_size=4, enable_progress_bar=False, training={"checkpoint_every": 2, "sample_every": 0, "threads": 1},
        )  # fmt: skip
    return sorted(p.name for p in Path("run/checkpoints").glob("*.ckpt"))


def test_a_run_goes_on_with_the_options_that_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        json.dumps({"models": {"tiny_gan-points": {"family": "gan", **{k: tiny.GAN[k] for k in ("model", "data")}}}})
    )
    fit = ["fit", "--registry", "tiny.yaml", *tiny.QUIET, "--training.log_every", "1"]
    assert main([*fit, "--model", "tiny_gan-points", "--run", "a", "--trainer.max_steps", "4"]) == 0
    again = ["--resume", "./a", "--trainer.max_steps", "6", "--model.lr", "0.5", "--model.betas", "[0.5,0.6]"]
    again += ["--training.ema", "0.5", "--data.batch_size", "16"]
    assert main([*fit, *again]) == 0
    rates = [line.split(",") for line in (tmp_path / "a/metrics.csv").read_text().splitlines()]
    column = rates[0].index("lr")
    assert [float(r[column]) for r in rates[1:] if r[column]] == [0.01] * 4 + [0.5] * 2
    content = torch.load(last_checkpoint("a"), weights_only=True)
    assert all(g["betas"] == (0.5, 0.6) for o in content["optimizer_states"] for g in o["param_groups"])
    assert content["ema"]["decay"] == 0.5 and run_metadata("a")["cost"]["examples"] == 4 * 8 + 2 * 16
    assert len(run_metadata("a")["commands"]) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--model", "wgan_gp"), "is a run of vae-mnist, and --resume goes on with that"),
        (("--data", "binary_mnist_threshold"), "goes on with the data of the run"),
        (("--model.latent_dim", "3"), "goes on with the model of the run, which --model.latent_dim would change: "),
        (
            ("--model.decoder.init_args.features", "[32,9,1568]"),
            "which --model.decoder.init_args.features would change: ",
        ),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(
    options: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    warm.train("vae-mnist", "run", 1)
    assert main(["fit", "--resume", "./run", "--trainer.max_steps", "2", *options]) == 2
    assert sentence in capsys.readouterr().err
