"""Every argument of Lightning's Trainer: what a run makes of it, or the sentence by which it is refused."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from zoo.errors import ConfigError, RunError
from zoo.runs import load_run, run_metadata
from zoo.training.devices import choose_strategy, processes
from zoo.training.fit import Run
from zoo.training.monitored import first_validation, terms_of
from zoo.training.trainer_options import HONOURED, REFUSED, table
from zoo.trainings import MetricsTable

DOCS = Path(__file__).parent.parent / "docs" / "training.md"
ARGUMENTS = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
VALIDATED = ("--trainer.limit_val_batches", "1.0")


class Seen(Callback):
    """Keep the trainer, its steps, and the batches' first values."""

    def __init__(self) -> None:
        self.steps, self.firsts = 0, []

    def on_train_start(self, trainer: Any, *args: Any) -> None:
        self.trainer = trainer

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.steps = trainer.global_step
        self.firsts.append(float(batch[0].flatten()[0]))


def _run(folder: Path, *options: str, make: Callable[..., Run] = tiny.vae, **more: Any) -> tuple[Seen, Run]:
    run = make(*options, folder=folder / "run", callbacks=[seen := Seen(), *more.pop("callbacks", [])], **more)
    run.start()
    return seen, run


def _validations(run: Run) -> list[int]:
    return [step for step, _ in MetricsTable.read(run.folder / "metrics.csv")["validation/loss"]]


def test_every_argument_is_honoured_or_refused() -> None:
    assert sorted([*HONOURED, *REFUSED]) == sorted(ARGUMENTS)
    assert {name.removeprefix("_") for name in CASES} == set(HONOURED), "each honoured argument has a case below"


def test_the_table_in_the_documents_is_the_one_in_force() -> None:
    text = DOCS.read_text(encoding="utf-8")
    found = re.search(r"<!-- trainer:begin -->\n(.*?)\n<!-- trainer:end -->", text, re.DOTALL)
    assert found is not None and found[1] == table()


REFUSALS = {"barebones": "true", "default_root_dir": "elsewhere", "enable_checkpointing": "false",
            "inference_mode": "true", "limit_predict_batches": "3", "model_registry": "me/model",
            "reload_dataloaders_every_n_epochs": "1", "use_distributed_sampler": "true"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_no_run_can_honour_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"--trainer\.{name} \S+ is refused: .*; leave it out$"):
        tiny.vae(f"--trainer.{name}", REFUSALS[name], folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- one case for each honoured argument -------------------------------------------------------------------------------


def _accelerator(folder: Path) -> None:
    seen, _ = _run(folder, "--trainer.max_steps", "1", "--trainer.accelerator", "cpu")
    assert seen.trainer.strategy.root_device.type == "cpu"


def _strategy(folder: Path) -> None:
    arguments: dict[str, Any] = {"strategy": "ddp", "accelerator": "cpu"}
    choose_strategy(arguments, tiny.vae().model, 2, 5)
    assert isinstance(arguments["strategy"], DDPStrategy)
    with pytest.raises(ConfigError, match="dpp"):
        _run(folder, "--trainer.strategy", "dpp")


def _devices(folder: Path) -> None:
    assert processes({"devices": 3, "accelerator": "cpu"}) == (3, 3)


def _num_nodes(folder: Path) -> None:
    assert processes({"devices": 2, "num_nodes": 2, "accelerator": "cpu"}) == (4, 2)


def _precision(folder: Path) -> None:
    _, run = _run(folder, "--trainer.max_steps", "1", "--trainer.precision", "64-true")
    assert run.model.dtype == torch.float64


def _logger(folder: Path) -> None:
    _, run = _run(folder, "--trainer.max_steps", "2", "--training.log_every", "1", "--logger", "csv")
    mine = (run.folder / "csv" / "metrics.csv").read_text()
    assert "train/loss" in mine and "train/loss" in (run.folder / "metrics.csv").read_text()
    assert run_metadata(run.folder)["loggers"] == [{"logger": "csv"}]


def _callbacks(folder: Path) -> None:
    options = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "validation/loss"]
    options += ["--trainer.callbacks.patience", "1", "--trainer.callbacks.min_delta", "1000"]
    _, run = _run(folder, "--trainer.max_steps", "200", *VALIDATED, *options)
    facts = run_metadata(run.folder)
    assert facts["status"] == "stopped early" and facts["step"] == 50 and "EarlyStopping" in facts["reason"]


def _fast_dev_run(folder: Path) -> None:
    seen, run = _run(folder, "--trainer.fast_dev_run", "3")
    assert seen.steps == 3 and _validations(run) == [3] and run_metadata(run.folder)["status"] == "finished"


def _max_epochs(folder: Path) -> None:
    seen, run = _run(folder, "--trainer.max_steps", "-1", "--trainer.max_epochs", "1")
    assert seen.steps == run.total == 25


def _early(folder: Path, *options: str) -> int:
    seen, _ = _run(
        folder, "--trainer.max_steps", "120", *VALIDATED, "--training.patience", "1", "--training.min_delta", "1000",
        *options,
    )  # fmt: skip
    return seen.steps


def _min_epochs(folder: Path) -> None:
    assert _early(folder / "a") == 50 and _early(folder / "b", "--trainer.min_epochs", "3") == 75


def _max_steps(folder: Path) -> None:
    assert _run(folder, "--trainer.max_steps", "3", make=tiny.gan)[0].steps == 3


def _min_steps(folder: Path) -> None:
    assert _early(folder, "--trainer.min_steps", "60") in (60, 75)


def _max_time(folder: Path) -> None:
    seen, run = _run(folder, "--trainer.max_steps", "1000000", "--trainer.max_time", "00:00:00:01")
    facts = run_metadata(run.folder)
    assert facts["status"] == "stopped early" and "max_time" in facts["reason"] and facts["step"] == seen.steps


def _limit_train_batches(folder: Path) -> None:
    seen, run = _run(folder, "--trainer.max_steps", "-1", "--trainer.max_epochs", "3", "--trainer.limit_train_batches",
                     "2", *VALIDATED)  # fmt: skip
    assert seen.steps == run.total == 6 and _validations(run) == [2, 4, 6] and len(set(seen.firsts)) == 6


def _limit_val_batches(folder: Path) -> None:
    _, run = _run(folder, "--trainer.max_steps", "25")
    with pytest.raises(KeyError):  # QUIET says 0
        _validations(run)


def _limit_test_batches(folder: Path) -> None:
    with pytest.raises(ConfigError, match="limit_test_batches is for zoo test"):
        _run(folder, "--trainer.limit_test_batches", "1")
    assert not (folder / "run").exists()


def _overfit_batches(folder: Path) -> None:
    seen, _ = _run(folder, "--trainer.max_steps", "6", "--trainer.overfit_batches", "2")
    assert len(set(seen.firsts)) == 2 and seen.firsts == seen.firsts[:2] * 3


def _val_check_interval(folder: Path) -> None:
    _, run = _run(folder, "--trainer.max_steps", "20", "--trainer.val_check_interval", "10", *VALIDATED)
    assert _validations(run) == [10, 20]


def _check_val_every_n_epoch(folder: Path) -> None:
    _, run = _run(folder / "a", "--trainer.max_steps", "50", "--trainer.check_val_every_n_epoch", "2", *VALIDATED)
    assert _validations(run) == [50]
    across = ("--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "40")
    _, run = _run(folder / "b", "--trainer.max_steps", "40", *across, *VALIDATED)
    assert _validations(run) == [40]


def _num_sanity_val_steps(folder: Path) -> None:
    class Counts(Callback):
        batches = 0

        def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
            self.batches += trainer.sanity_checking

    _, run = _run(folder, "--trainer.max_steps", "3", "--trainer.num_sanity_val_steps", "1", *VALIDATED,
                  callbacks=[counts := Counts()])  # fmt: skip
    assert counts.batches == 1 and "validation" not in (run.folder / "metrics.csv").read_text()


def _log_every_n_steps(folder: Path) -> None:
    run = Run(tiny.VAE, ["--trainer.log_every_n_steps", "7"])
    assert run.settings.log_every == 7
    with pytest.raises(ConfigError, match="mean the same; give one"):
        tiny.vae("--trainer.log_every_n_steps", "7")


def _enable_progress_bar(folder: Path) -> None:
    bars = [[type(c).__name__ for c in _callbacks_of(folder / str(shown), shown)] for shown in (True, False)]
    assert "StepBar" in bars[0] and "StepBar" not in bars[1]
    theirs = _callbacks_of(folder / "c", True, [bar := TQDMProgressBar()])
    assert bar in theirs and "StepBar" not in [type(c).__name__ for c in theirs]


def _callbacks_of(folder: Path, shown: bool, callbacks: Any = ()) -> list[Any]:
    run = tiny.vae("--trainer.enable_progress_bar", str(shown).lower(), folder=folder, callbacks=callbacks)
    trainer = run.trainer(run.callbacks(), False)
    return [part for c in trainer.callbacks for part in (c, *getattr(c, "parts", ()))]


def _enable_model_summary(folder: Path) -> None:
    run = tiny.vae("--trainer.enable_model_summary", "true", folder=folder / "run")
    names = [type(c).__name__ for c in run.trainer(run.callbacks(), False).callbacks]
    assert any(name.endswith("ModelSummary") for name in names)


def _accumulate_grad_batches(folder: Path) -> None:
    for make in (tiny.vae, tiny.gan):
        seen, _ = _run(folder / make.__name__, "--trainer.max_steps", "2", "--trainer.accumulate_grad_batches", "3",
                       make=make)  # fmt: skip
        assert seen.steps == 2 and len(seen.firsts) == 6


def _gradient_clip_val(folder: Path) -> None:
    for make in (tiny.vae, tiny.gan):
        run = make("--trainer.gradient_clip_val", "0.5")
        assert 0.5 in (run.arguments["gradient_clip_val"], run.model.gradient_clip)


def _gradient_clip_algorithm(folder: Path) -> None:
    with pytest.raises(ConfigError, match="clipped by norm only"):
        tiny.gan("--trainer.gradient_clip_val", "0.5", "--trainer.gradient_clip_algorithm", "value")
    assert tiny.vae("--trainer.gradient_clip_algorithm", "value").arguments["gradient_clip_algorithm"] == "value"


def _reaches(folder: Path, name: str, value: str, ask: Callable[[Trainer], Any], wanted: Any) -> None:
    run = tiny.vae(f"--trainer.{name}", value, folder=folder / "run")
    assert ask(run.trainer(run.callbacks(), False)) == wanted


def _deterministic(folder: Path) -> None:
    try:
        _reaches(folder, "deterministic", "true", lambda t: torch.are_deterministic_algorithms_enabled(), True)
    finally:
        torch.use_deterministic_algorithms(False)


def _benchmark(folder: Path) -> None:
    before = torch.backends.cudnn.benchmark
    try:
        _reaches(folder, "benchmark", "true", lambda t: torch.backends.cudnn.benchmark, True)
    finally:
        torch.backends.cudnn.benchmark = before


def _profiler(folder: Path) -> None:
    _, run = _run(folder, "--trainer.max_steps", "2", "--trainer.profiler", "simple")
    assert "run_training_batch" in (run.folder / "fit-profile.txt").read_text()


def _detect_anomaly(folder: Path) -> None:
    class Asks(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            self.found = torch.is_anomaly_enabled()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _run(folder, "--trainer.max_steps", "1", "--trainer.detect_anomaly", "true", callbacks=[asks := Asks()])
    assert asks.found


def _plugins(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--trainer.plugins TorchCheckpointIO is refused"):
        tiny.vae(objects={"plugins": TorchCheckpointIO()})
    assert tiny.vae(objects={"plugins": None}).arguments["plugins"] == []


def _sync_batchnorm(folder: Path) -> None:
    _reaches(folder, "sync_batchnorm", "true", lambda t: t._accelerator_connector._layer_sync is not None, True)


def _enable_autolog_hparams(folder: Path) -> None:
    for shown in ("true", "false"):
        _, run = _run(folder / shown, "--trainer.max_steps", "1", "--logger", "csv", "--trainer.enable_autolog_hparams",
                      shown)  # fmt: skip
        text = run.folder / "csv" / "hparams.yaml"
        assert ("max_steps" in text.read_text() if text.is_file() else False) == (shown == "true")


CASES = {name: function for name, function in list(globals().items())
         if name.startswith("_") and name[1:] in HONOURED}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_honoured(name: str, tmp_path: Path) -> None:
    CASES[name](tmp_path)


# -- early stopping ----------------------------------------------------------------------------------------------------

PATIENT = (*VALIDATED, "--trainer.max_steps", "200", "--trainer.val_check_interval", "5", "--training.log_every", "5",
           "--model.lr", "0.3", "--training.ema", "null")  # fmt: skip


class Stop(Exception):
    pass


class Break(Callback):
    """End the training by force, as a kill does, once a validation has begun."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Stop


@pytest.mark.parametrize("patience", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_early_stopping_is_exact_when_a_run_goes_on(patience: int, tmp_path: Path) -> None:
    options = (*PATIENT, "--training.patience", str(patience))
    whole = tiny.vae(*options, folder=tmp_path / "whole")
    whole.start()
    facts = run_metadata(tmp_path / "whole")
    assert facts["status"] == "stopped early" and 5 < facts["step"] < 200 and "has not improved" in facts["reason"]
    assert whole.stopped_because == facts["reason"]
    last = facts["step"] - 5
    every = ("--training.checkpoint_every", "5")
    with pytest.raises(Stop):
        tiny.vae(*options, *every, folder=tmp_path / "two", callbacks=[Break(last)]).start()
    config = ("--config", str(tmp_path / "two" / "config.yaml"))
    tiny.vae(*config, folder=tmp_path / "two", resume=True).start()
    assert run_metadata(tmp_path / "two")["step"] == facts["step"]
    a, b = (MetricsTable.read(tmp_path / name / "metrics.csv")["validation/loss"] for name in ("whole", "two"))
    assert a == b
    A, B = (load_run(tmp_path / name).state_dict() for name in ("whole", "two"))
    assert all(torch.equal(A[k], B[k]) for k in A)
    config = ("--config", str(tmp_path / "whole" / "config.yaml"))
    with pytest.raises(
        RunError, match=r"has stopped early at step \d+: .*; give a larger --training.patience to go on"
    ):
        tiny.vae(*config, folder=tmp_path / "whole", resume=True).start()


def test_patience_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    for make, options, sentence in (
        (tiny.gan, VALIDATED, "trained as a game"),
        (tiny.vae, (), "limit_val_batches 0 leaves none"),
        (tiny.vae, ("--training.monitor", "train/loss"), "limit_val_batches 0 leaves none"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            make("--training.patience", "1", *options, "--trainer.max_steps", "30", folder=tmp_path / "run").start()
    with pytest.raises(ConfigError, match=r"for training\.patience"):
        tiny.vae("--training.min_delta", "1")


def test_a_model_checkpoint_writes_into_the_run(tmp_path: Path) -> None:
    best = ModelCheckpoint(monitor="validation/loss", filename="{step}")
    stop = EarlyStopping("validation/loss", patience=50)
    run = tiny.vae(*VALIDATED, "--trainer.max_steps", "50", folder=tmp_path / "run", callbacks=[best, stop])
    run.start()
    (found,) = (tmp_path / "run" / "model_checkpoint").glob("*.ckpt")
    assert load_run(tmp_path / "run", checkpoint=found).shape == (2,)
    assert run_metadata(tmp_path / "run")["status"] == "finished"
    assert run_metadata(tmp_path / "run")["from_python"]["callbacks"][0].endswith("ModelCheckpoint")


def test_the_history_says_which_options_held_from_which_step(tmp_path: Path) -> None:
    tiny.vae("--trainer.max_steps", "3", folder=tmp_path / "run", command="zoo fit first").start()
    config = ("--config", str(tmp_path / "run" / "config.yaml"))
    tiny.vae(*config, "--trainer.max_steps", "5", "--model.lr", "0.5", folder=tmp_path / "run", resume=True,
             command="zoo fit second").start()  # fmt: skip
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    changed = {"model.init_args.lr": [0.01, 0.5], "trainer.max_steps": [3, 5]}
    assert facts["history"] == [
        {"step": 0, "command": "zoo fit first"},
        {"step": 3, "command": "zoo fit second", "changed": changed},
    ]
    assert facts["commands"] == ["zoo fit first", "zoo fit second"]


# -- callbacks of Lightning's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("BatchSizeFinder",), "--data.batch_size"), (("LearningRateFinder",), "--model.lr"),
        (("StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"), "--training.ema"),
        (("GradientAccumulationScheduler", "--trainer.callbacks.scheduling", "{0: 2}"), "accumulate_grad_batches"),
        (("BackboneFinetuning",), "--training.freeze"),
    ],
)  # fmt: skip
def test_callbacks_that_do_what_the_engine_does_are_refused(
    options: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"--trainer.callbacks {options[0]} is refused: .*{sentence}"):
        tiny.vae("--trainer.callbacks+", *options, folder=tmp_path / "run")


def test_an_option_of_a_callback_is_named_where_it_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"--trainer.callbacks.patience takes a value of type int, got 'x'"):
        tiny.vae("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "train/loss",
                 "--trainer.callbacks.patience", "x")  # fmt: skip


def test_what_yaml_has_no_word_for_is_written_and_read_again(tmp_path: Path) -> None:
    """Such as the enumeration among the arguments of Lightning's Timer."""
    options = ("--trainer.callbacks+", "Timer", "--trainer.callbacks.duration", "01:00:00:00", *VALIDATED)
    tiny.vae(*options, "--trainer.max_steps", "2", folder=tmp_path / "run").start()
    config = ("--config", str(tmp_path / "run" / "config.yaml"), "--trainer.max_steps", "3")
    run = tiny.vae(*config, folder=tmp_path / "run", resume=True)
    run.start()
    assert run_metadata(tmp_path / "run")["step"] == 3 and "Timer" in (tmp_path / "run" / "config.yaml").read_text()


# -- what is watched ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("EarlyStopping", "val_loss"), r"EarlyStopping watches val_loss, which.*Did you mean 'validation/loss'"),
        (("ModelCheckpoint", "train/los"), r"ModelCheckpoint watches train/los, which.*Did you mean 'train/loss'"),
        (
            (None, "validation/los"),
            r"validation/los \(--training.monitor\), which.* There are: train/elbo, .*",
        ),
        (("EarlyStopping", "validation/loss", "--trainer.limit_val_batches", "0"), "limit_val_batches 0 leaves none"),
    ],
)
def test_what_is_watched_must_be_logged(options: tuple[Any, ...], sentence: str, tmp_path: Path) -> None:
    who, name, *more = options
    words = ["--trainer.callbacks+", who, "--trainer.callbacks.monitor", name]
    run = tiny.vae(*VALIDATED, *(words if who else ["--training.patience", "1", "--training.monitor", name]), *more,
                   folder=tmp_path / "run")  # fmt: skip
    with pytest.raises(ConfigError, match=sentence):
        run.start()
    assert not (tmp_path / "run").exists()


def test_players_note_terms_as_they_go_and_own_callbacks_log_what_they_like(tmp_path: Path) -> None:
    run = tiny.gan(*VALIDATED)
    terms = terms_of(run.model, run._batch(), run.total)
    assert terms is not None and terms.may_have("train/critic_gradient") and not terms.may_have("train_loss")
    assert "validation/gap" in terms.names and not any(n.startswith("train/") for n in terms.names)

    class Logs(Callback):
        def on_validation_end(self, trainer: Any, module: Any) -> None:
            trainer.callback_metrics["mine"] = torch.tensor(1.0)

    stop = EarlyStopping("mine", patience=1)
    _, run = _run(tmp_path, "--trainer.max_steps", "100", *VALIDATED, callbacks=[Logs(), stop])
    assert run_metadata(run.folder)["step"] == 50


@pytest.mark.parametrize("who", ["EarlyStopping", "patience"])
def test_a_term_of_the_training_may_be_watched(who: str, tmp_path: Path) -> None:
    """Also where an epoch, of 25 steps, ends before a row of the log is due."""
    options = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "train/loss",
               "--trainer.callbacks.patience", "1", "--trainer.callbacks.min_delta", "1000"]  # fmt: skip
    if who == "patience":
        options = ["--training.monitor", "train/loss", "--training.patience", "1", "--training.min_delta", "1000"]
    run = tiny.vae(*VALIDATED, "--trainer.max_steps", "200", *options, folder=tmp_path / "run")
    run.start()
    facts = run_metadata(tmp_path / "run")
    assert facts["status"] == "stopped early" and facts["step"] == 50
    rows = MetricsTable.read(tmp_path / "run" / "metrics.csv")["train/loss"]
    assert [step for step, _ in rows] == [50]  # what others see is no row


def test_who_waits_for_a_validation_that_does_not_come_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop, best = EarlyStopping("validation/loss"), ModelCheckpoint(monitor="validation/loss")
    _, run = _run(tmp_path, "--trainer.max_steps", "20", *VALIDATED, callbacks=[stop, best])
    assert run_metadata(run.folder)["status"] == "finished"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "no validation comes before the end, at step 20, the first would be at step 25" in said[0]
    assert said[1] == "ModelCheckpoint has kept nothing, as validation/loss was never logged"


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({}, 25), ({"val_check_interval": 10}, 10), ({"val_check_interval": 0.5}, 12), ({"accumulate": 4}, 7),
        ({"check_val_every_n_epoch": 2}, 50), ({"check_val_every_n_epoch": None, "val_check_interval": 40}, 40),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 10}, 35), ({"val_check_interval": "00:00:01:00"}, None),
    ],
)  # fmt: skip
def test_the_first_validation_is_known(options: dict[str, Any], step: int | None) -> None:
    accumulate = options.pop("accumulate", 1)
    assert first_validation(options, 25, accumulate) == step


def test_a_run_that_ends_before_its_first_step_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing was trained: --trainer\.max_time is over"):
        tiny.vae("--trainer.max_time", "00:00:00:00", folder=tmp_path / "run").start()
    assert not (tmp_path / "run").exists()


def test_the_profiler_of_torch_writes_to_the_run_folder_too(tmp_path: Path) -> None:
    tiny.vae("--trainer.profiler", "pytorch", "--trainer.max_steps", "2", folder=tmp_path / "run").start()
    assert any("aten::" in p.read_text() for p in (tmp_path / "run").glob("fit-profile*.txt"))
