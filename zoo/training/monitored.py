"""What early stopping and checkpoints of the best watch: refused at the start where the run will not log it."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from zoo.errors import ConfigError, close_matches
from zoo.model import Batch, GenerativeModel
from zoo.training.settings import TrainingSettings

__all__ = [
    "Terms", "check_monitored", "first_validation", "monitored", "tell_unseen", "tell_unwritten", "terms_of",
]  # fmt: skip

log = logging.getLogger("zoo.training")

_OURS = ("zoo.", "lightning.", "lightning_fabric.", "pytorch_lightning.")
_ELSEWHERE = (("val_", "validation/"), ("val/", "validation/"), ("validation_", "validation/"), ("train_", "train/"))
"""How the splits are written elsewhere, and here."""


@dataclass(frozen=True)
class Terms:
    """Columns that a run will log.

    Attributes:
        names: such as ``train/loss``, ``validation/loss``.
        whole: whether these are all that training logs: models that are optimised by hand note more as they go.
    """

    names: frozenset[str]
    whole: bool

    def may_have(self, name: str) -> bool:
        """Tell whether a column of this name may come."""
        return name in self.names or (not self.whole and name.startswith("train/"))


def monitored(settings: TrainingSettings, callbacks: Sequence[Any]) -> dict[str, str]:
    """Return what is watched, by who watches it: option or callback -> name of a column."""
    found = {}
    if settings.patience is not None:
        found["--training.patience"] = settings.monitor or "validation/loss"
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if isinstance(callback, (EarlyStopping, ModelCheckpoint)) and isinstance(name, str):
            found[f"the callback {type(callback).__name__}"] = name
    return found


def terms_of(model: GenerativeModel, batch: Batch, last: int) -> Terms | None:
    """Return the columns of the model's loss terms, from a copy of it; None where they are not known before it trains.

    Args:
        model: to be trained.
        batch: as training gives them.
        last: the planned number of steps: a schedule may add terms by then.
    """
    names: set[str] = set()
    probe = copy.deepcopy(model)
    try:
        with torch.random.fork_rng(devices=[]):
            for step in (0, last):
                probe.steps_done = step
                with torch.no_grad():
                    probe.eval().validation_step(batch, 0)
                names |= {f"validation/{name}" for name in probe.terms}
                if model.automatic_optimization:
                    probe.train().training_step(batch, 0)
                    names |= {f"train/{name}" for name in probe.terms}
    except Exception:  # a model that needs more than a batch: the first validation will tell
        return None
    return Terms(frozenset(names), model.automatic_optimization)


def check_monitored(
    watched: Mapping[str, str],
    terms: Terms | None,
    model: GenerativeModel,
    callbacks: Iterable[Any],
    *,
    validates: bool,
) -> None:
    """Refuse to watch what the run will not log.

    Args:
        watched: see `monitored`.
        terms: see `terms_of`.
        model: to be trained, which may log more where its class is a user's own.
        callbacks: beside the run's own, which may log more where they are a user's own.
        validates: whether there is any validation.

    Raises:
        ConfigError: a name that no row will have.
    """
    own = not all(type(part).__module__.startswith(_OURS) for part in (model, *callbacks))
    for who, name in watched.items():
        if name.startswith("validation/") and not validates:
            raise ConfigError(f"{who} waits for validations, and --trainer.limit_val_batches 0 leaves none")
        logs_more = own and not who.startswith("--")  # what is logged by self.log, callbacks see
        if terms is None or logs_more or terms.may_have(name):
            continue
        meant = name
        for there, here in _ELSEWHERE:
            meant = here + meant.removeprefix(there) if meant.startswith(there) else meant
        option = " (--training.monitor)" if who.startswith("--") else ""
        raise ConfigError(
            f"{who} watches {name}{option}, which this run does not log.{close_matches(meant, terms.names)} There are: "
            f"{', '.join(sorted(terms.names))}"
        )


def first_validation(arguments: Mapping[str, Any], batches: int, accumulate: int) -> int | None:
    """Return the step of the first validation; None where the time decides.

    Args:
        arguments: of Lightning's Trainer.
        batches: of an epoch.
        accumulate: batches of a step.
    """
    every, epochs = arguments.get("val_check_interval"), arguments.get("check_val_every_n_epoch", 1)
    every = 1.0 if every is None else every
    if not isinstance(every, (int, float)) or isinstance(every, bool):
        return None
    within = max(1, int(batches * every)) if isinstance(every, float) else every
    whole = math.ceil(batches / accumulate)
    before = 0 if epochs is None else (epochs - 1) * whole
    return before + min(math.ceil(within / accumulate), whole) if epochs is not None else math.ceil(within / accumulate)


def tell_unseen(watched: Mapping[str, str], first: int | None, total: int) -> None:
    """Say who waits for a validation that will not come before the run ends."""
    waiting = [who for who, name in watched.items() if name.startswith("validation/")]
    if waiting and first is not None and first > total:
        log.warning(
            "%s: no validation comes before the end, at step %d, the first would be at step %d; "
            "--trainer.val_check_interval takes a number of batches",
            " and ".join(waiting), total, first,
        )  # fmt: skip


def tell_unwritten(callbacks: Iterable[Any], seen: Iterable[str]) -> None:
    """Say which checkpoints of the best were never written, as what they watch was never logged."""
    names = set(seen)
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.monitor is None or callback.monitor in names:
            continue
        if not callback.best_model_path:
            log.warning("%s has kept nothing, as %s was never logged", type(callback).__name__, callback.monitor)
