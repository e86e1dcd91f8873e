"""Settings of the training engine, beside those of Lightning's Trainer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from zoo.errors import ConfigError

__all__ = ["TrainingSettings", "parse_budget", "rate"]

_UNITS = {"MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15}

_MINUTES = 1_000_000  # about two years
_THREADS = 1024  # OpenMP ends the process where the system cannot start as many as it is told


@dataclass
class TrainingSettings:
    """How a run is trained.

    Args:
        ema: decay a step of the exponential moving average of the weights, warmed up as min(ema, (1 + t) / (10 + t));
            null keeps none.
        ema_every: steps between updates of the average.
        warmup: steps of linear warm-up of the learning rate.
        schedule: what follows: constant, or half a cosine down to zero at the planned end.
        budget: training compute after which to stop, such as 50TFLOP; it also sets the schedule's length.
        seed: of the training noise and of the weights' initialisation.
        log_every: steps between rows of metrics.csv.
        checkpoint_every: steps between checkpoints; one is always written at the end and on SIGTERM or Ctrl-C.
        sample_every: steps between sample grids, 0 for one at the end only.
        threads: compute threads a process; null shares the cores among the processes of this machine.
        channels_last: keep images and convolution weights in channels-last order.
        compile: compile the networks with torch.compile, where the family allows it.
        compile_mode: of torch.compile; reduce-overhead replays captured graphs on a GPU, which small models gain by.
        noise: where training noise is drawn: on the model's device, or on the cpu, for the same noise on all devices.
        data_on_gpu: copy data that fit to the GPU once, and index them there; false copies every batch.
        freeze: what does not move, names of parameters or of modules that hold them, with wildcards: encoder,out.*
        rates: factors of the learning rate of parts, such as encoder=0.1,decoder.*.bias=0.5.
        old_rate: factor of the learning rate of all weights that --init_from brought, 0 to train only what is new.
        patience: validations without improvement after which the run ends early, as `stopped early`; null for none.
        min_delta: what an improvement is at least, in the unit of what is monitored.
        monitor: the term that has to become smaller, validation/... or train/...; null for validation/loss.
        on_divergence: what to do when a loss or a gradient is not finite: stop; skip each update whose gradients are
            not; or go back to the last checkpoint and on with other batches, three times at most.
        timeout: minutes after which one of several processes that says nothing is taken for dead.
    """

    ema: float | None = 0.999
    ema_every: int = 4
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    budget: str | None = None
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    sample_every: int = 1000
    threads: int | None = None
    channels_last: bool = False
    compile: bool = False
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    noise: Literal["device", "cpu"] = "device"
    data_on_gpu: bool = True
    freeze: str | None = None
    rates: str | None = None
    old_rate: float = 1.0
    patience: int | None = None
    min_delta: float = 0.0
    monitor: str | None = None
    on_divergence: Literal["stop", "skip", "back"] = "stop"
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"training.ema must lie between 0 and 1, got {self.ema}")
        for name in ("warmup", "sample_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"training.{name} must not be negative, got {getattr(self, name)}")
        for name in ("ema_every", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.old_rate < math.inf:
            raise ConfigError(f"training.old_rate must be a number from 0, got {self.old_rate}")
        self.rate_patterns()
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"training.patience must be at least 1, got {self.patience}")
        if not self.min_delta >= 0:
            raise ConfigError(f"training.min_delta must not be negative, got {self.min_delta}")
        if self.patience is None and (self.min_delta or self.monitor is not None):
            raise ConfigError("training.min_delta and training.monitor are for training.patience; set that too")
        if not 0 < self.timeout <= _MINUTES:
            raise ConfigError(f"training.timeout must be positive, at most {_MINUTES:,} minutes, got {self.timeout}")
        if self.threads is not None and not 1 <= self.threads <= _THREADS:
            raise ConfigError(f"training.threads must be at least 1, and at most {_THREADS:,}, got {self.threads}")
        if self.compile_mode != "default" and not self.compile:
            raise ConfigError(f"training.compile_mode {self.compile_mode} needs --training.compile true; give that too")
        if self.budget is not None:
            parse_budget(self.budget)

    def rate_patterns(self) -> list[tuple[str, float]]:
        """Return patterns of names and the factor of each, those that are frozen last, with 0. Raises `ConfigError`."""
        found = []
        for part in filter(None, (self.rates or "").split(",")):
            pattern, _, text = part.strip().partition("=")
            try:
                factor = float(text)
            except ValueError:
                factor = -1.0
            if not pattern or not 0 <= factor < math.inf:
                raise ConfigError(f"training.rates takes name=factor,... such as encoder=0.1, got {part.strip()!r}")
            found.append((pattern, factor))
        for part in (self.freeze or "").split(","):
            if part.strip():
                found.append((part.strip(), 0.0))
        return found


def parse_budget(text: str) -> float:
    """Return the number of floating-point operations that ``50TFLOP`` or ``1.5 PFLOP`` means. Raises `ConfigError`."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([MGTP]FLOP)s?\s*", str(text), re.IGNORECASE)
    if match is None or not 0 < float(match[1]) < math.inf:
        raise ConfigError(f"a compute budget is a positive number and a unit, such as 50TFLOP; got {text!r}")
    return float(match[1]) * _UNITS[match[2].upper()]


def rate(step: int, settings: TrainingSettings, total: int | None) -> float:
    """Return the factor of the peak learning rate at ``step`` (0-based) of ``total`` planned steps."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.schedule == "constant" or not total:
        return 1.0
    progress = (step - settings.warmup) / max(1, total - settings.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
