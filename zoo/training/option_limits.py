"""Values of the Trainer's options that Lightning would refuse late, or take without a word and make no sense of.

They are looked at before anything is written, so that a wrong one costs no run folder.
"""

from __future__ import annotations

import importlib.util
import math
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from zoo.errors import ConfigError
from zoo.model import GenerativeModel

__all__ = ["check_numbers", "check_optimizers", "check_processes", "check_validation", "refused_by_lightning"]

_LEAST = {
    "accumulate_grad_batches": 1, "max_steps": -1, "max_epochs": -1, "min_steps": 0, "min_epochs": 0,
    "check_val_every_n_epoch": 1, "num_sanity_val_steps": -1, "gradient_clip_val": 0,
}  # fmt: skip
_CROWD = 16
"""Processes a core, at most: more of them are a slip of the hand, and hang the machine."""


def check_numbers(arguments: Mapping[str, Any]) -> None:
    """Hold the Trainer's arguments against what a training can do with them.

    Raises:
        ConfigError: a number below its least, or a profiler that is not installed.
    """
    for name, least in _LEAST.items():
        value = arguments.get(name)
        if isinstance(value, (int, float)) and not (value >= least and math.isfinite(value)):
            raise ConfigError(f"trainer.{name} must be a number of at least {least}, got {value}")
    if arguments.get("profiler") == "xla" and importlib.util.find_spec("torch_xla") is None:
        raise ConfigError("trainer.profiler xla needs the package torch_xla, which is not installed; use simple")


def check_processes(arguments: Mapping[str, Any], local: int, on_gpu: bool) -> None:
    """Refuse more processes than the cores of this machine could ever serve. Raises `ConfigError`."""
    cores = os.cpu_count() or 1
    if not on_gpu and local > _CROWD * cores:
        raise ConfigError(
            f"trainer.devices {arguments.get('devices')} asks for {local} processes on {cores} cores; give at most "
            f"{_CROWD * cores}, better {cores}"
        )


def check_validation(arguments: Mapping[str, Any], batches: int) -> None:
    """Refuse a validation that would never come.

    Args:
        arguments: of Lightning's Trainer.
        batches: of an epoch.

    Raises:
        ConfigError: the interval is 0, or longer than an epoch that it is counted within.
    """
    every = arguments.get("val_check_interval")
    if isinstance(every, bool) or not isinstance(every, (int, float)):
        return
    if every == 0:
        raise ConfigError("trainer.val_check_interval must be positive; --trainer.limit_val_batches 0 validates never")
    within = arguments.get("check_val_every_n_epoch", 1) is not None
    if within and isinstance(every, int) and every > batches:
        raise ConfigError(
            f"trainer.val_check_interval {every} is more than the {batches} batches of an epoch; give fewer, or "
            f"--trainer.limit_val_batches 0 for no validation"
        )


def check_optimizers(model: GenerativeModel) -> None:
    """Build the optimizers once, for their own checks of what they are given. Raises `ConfigError`."""
    for name, player in model.players().items():
        if not (math.isfinite(player.lr) and player.lr >= 0):
            raise ConfigError(f"the learning rate of the {name} must be a number of at least 0, got {player.lr}")
    try:
        model.configure_optimizers()
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the optimizer refuses its options: {' '.join(str(error).split())[:300]}") from error


def refused_by_lightning(error: BaseException) -> ConfigError | None:
    """Return what to tell the user when Lightning itself, or a callback of it, refused what it was told, else None."""
    if not isinstance(error, (MisconfigurationException, RuntimeError, ValueError, TypeError, ImportError)):
        return None
    raised = traceback.extract_tb(error.__traceback__)[-1:]
    if not raised or not {"lightning", "lightning_fabric", "pytorch_lightning"} & set(Path(raised[0].filename).parts):
        return None
    return ConfigError(f"the trainer refuses its arguments: {' '.join(str(error).split())[:600]}")
