"""Every argument of Lightning's Trainer: honoured, and how, or refused by name, and what to use instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins.io import CheckpointIO

from zoo.errors import ConfigError

__all__ = ["HONOURED", "REFUSED", "brought_in", "check_callbacks", "check_options", "listed", "table"]

HONOURED: dict[str, str] = {
    "accelerator": "as Lightning has it",
    "strategy": "`auto` and `ddp` become the variant of ddp that the family needs; `fsdp` where there is a GPU, and no "
    "turns of players",
    "devices": "as Lightning has it; under torchrun what torchrun starts",
    "num_nodes": "as Lightning has it; under torchrun what torchrun starts",
    "precision": "as Lightning has it; slow on CPUs, which is said",
    "logger": "beside the run's own `metrics.csv`; `false` leaves TensorBoard out",
    "callbacks": "beside the run's own; a `ModelCheckpoint` without a folder writes to `model_checkpoint/` of the run; "
    "those that would change batch, rate, accumulation, frozen parts or the average are refused by name, "
    "with the option that does it",
    "fast_dev_run": "that many batches of training and of validation, into an ordinary run folder",
    "max_epochs": "counted within the limits below; the bar, schedules and `--dry_run` show the real total",
    "min_epochs": "early stopping waits for it",
    "max_steps": "one step is one batch, or one accumulation, for every family",
    "min_steps": "early stopping waits for it",
    "max_time": "the run ends as `stopped early`, with a checkpoint",
    "limit_train_batches": "a shorter epoch; the next one goes on where it ended, so that all data are seen",
    "limit_val_batches": "as Lightning has it; 0 validates nothing",
    "limit_test_batches": "by `zoo test`; refused in training, which tests nothing",
    "overfit_batches": "the same batches in every epoch, unshuffled, and as many of validation",
    "val_check_interval": "as Lightning has it, by batches, fraction or time",
    "check_val_every_n_epoch": "as Lightning has it; `null` with `val_check_interval` counts batches across epochs",
    "num_sanity_val_steps": "0 unless asked for; its losses are not logged",
    "log_every_n_steps": "the same as `--training.log_every`",
    "enable_progress_bar": "the bar of all steps, or none; a progress bar among the callbacks takes its place",
    "enable_model_summary": "none unless asked for",
    "accumulate_grad_batches": "for every family; a step is a whole accumulation",
    "gradient_clip_val": "for every family, for each player by itself",
    "gradient_clip_algorithm": "by norm for families that are optimised by hand, else as Lightning has it",
    "deterministic": "as Lightning has it",
    "benchmark": "as Lightning has it",
    "profiler": "`simple`, `advanced` and `pytorch` write to the run folder; steps then take Lightning's longer way",
    "detect_anomaly": "as Lightning has it",
    "plugins": "beside the run's own, which writes checkpoints whole or not at all",
    "sync_batchnorm": "as Lightning has it; on by itself on several GPUs",
    "enable_autolog_hparams": "`false` keeps the configuration from loggers; the run folder has it anyway",
}
"""Argument -> how it is honoured."""

REFUSED: dict[str, tuple[Any, str]] = {
    "barebones": (False, "it switches off what a run folder is made of"),
    "default_root_dir": (None, "all files of a run are in its folder, which --run DIR names"),
    "enable_checkpointing": (None, "a run is gone on with, sampled and published from its checkpoints; set "
                             "--training.checkpoint_every higher to write fewer"),
    "inference_mode": (False, "penalties are gradients, in validation too"),
    "limit_predict_batches": (None, "a run predicts nothing; zoo sample and zoo evaluate take numbers of examples"),
    "model_registry": (None, "models are published by zoo push"),
    "reload_dataloaders_every_n_epochs": (0, "the order of the data is a function of seed and epoch, and they are read "
                                          "once"),
    "use_distributed_sampler": (False, "every device takes its own share of the data already"),
}  # fmt: skip
"""Argument -> (the value that is accepted, why no other is and what to do)."""

_REFUSED_CALLBACKS: dict[type, str] = {
    BatchSizeFinder: "it trains with another batch than the run says; zoo tune tries values of --data.batch_size",
    LearningRateFinder: "it trains with another rate than the run says; zoo tune tries values of --model.lr",
    GradientAccumulationScheduler: "steps, schedules and compute are counted by one number of batches a step; give "
                                   "--trainer.accumulate_grad_batches",
    StochasticWeightAveraging: "it follows epochs and takes the schedule over; the engine averages the weights, see "
                               "--training.ema, and --training.schedule",
    BaseFinetuning: "the engine freezes and slows down parts; give --training.freeze or --training.rates",
}  # fmt: skip
"""Callbacks of Lightning's that would change what the run counts and writes -> why, and what to do."""


def check_options(arguments: Mapping[str, Any]) -> None:
    """Refuse by name what no run can honour. Raises `ConfigError`."""
    for name, (accepted, reason) in REFUSED.items():
        value = arguments.get(name, accepted)
        if value != accepted and value is not None and not (name == "enable_checkpointing" and value is True):
            raise ConfigError(f"--trainer.{name} {value} is refused: {reason}; leave it out")
    for plugin in listed(arguments.get("plugins")):
        if isinstance(plugin, CheckpointIO):
            raise ConfigError(
                f"--trainer.plugins {type(plugin).__name__} is refused: the run writes its own checkpoints, whole or "
                f"not at all; leave it out"
            )


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuse callbacks that would do what the engine does, beside it. Raises `ConfigError`."""
    for callback in callbacks:
        for kind, reason in _REFUSED_CALLBACKS.items():
            if isinstance(callback, kind):
                raise ConfigError(f"--trainer.callbacks {type(callback).__name__} is refused: {reason}")


def brought_in(arguments: dict[str, Any], log_every: int, usual: int = 50) -> int:
    """Bring the arguments into the form in which the engine counts, in place; return the steps between rows.

    Raises:
        ConfigError: two options say different things.
    """
    some = arguments.get("fast_dev_run")
    if some:
        n = 1 if some is True else int(some)
        arguments.update(max_steps=n, max_epochs=None, limit_train_batches=n, limit_val_batches=n, fast_dev_run=False)
    every = arguments.get("log_every_n_steps")
    if every is not None and every != log_every:
        if log_every != usual:
            raise ConfigError(
                f"--trainer.log_every_n_steps {every} and --training.log_every {log_every} mean the same; give one"
            )
        if every < 1:
            raise ConfigError(f"--trainer.log_every_n_steps must be at least 1, got {every}")
        log_every = every
    for name in ("callbacks", "plugins"):
        arguments[name] = listed(arguments.get(name))
    if arguments.get("val_check_interval") is None and arguments.get("check_val_every_n_epoch", 1) is None:
        arguments["check_val_every_n_epoch"] = 1
    return log_every


def listed(value: Any) -> list[Any]:
    """Return what may be one, several, or none as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def table() -> str:
    """Return the table of docs/training.md."""
    rows = {**{name: f"honoured: {how}" for name, how in HONOURED.items()},
            **{name: f"refused: {reason}" for name, (_, reason) in REFUSED.items()}}  # fmt: skip
    return "\n".join(["| `--trainer.` | |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in rows.items())])
