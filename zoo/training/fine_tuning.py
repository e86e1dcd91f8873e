"""Start from the weights of another training: what fits is taken, parts are frozen or slow, and all is recorded.

    --init_from NAME|RUN             weights of the same names and shapes are taken, the others are listed
    --training.freeze encoder        what matches does not move
    --training.rates decoder=0.1     what matches moves at this part of the learning rate
    --training.old_rate 0.1          the same for all that was taken; at 0 only what is new is trained

A pattern is a name of a parameter or of a module that holds it, with the wildcards of a shell.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import CheckpointError, ConfigError, close_matches
from zoo.model import GenerativeModel
from zoo.training.settings import TrainingSettings

__all__ = ["Taken", "check_resumed", "factors", "recorded", "set_rates", "take_weights"]

_LEAST = 0.25
"""Share of a model's tensors that must fit: below it, the other is of another architecture, and an error is likelier
than a wish."""


@dataclass(frozen=True)
class Taken:
    """What came of ``--init_from``.

    Attributes:
        of: the model that it was taken from, by its name or folder.
        sha256: of its weights, where they came from a file.
        names: of the tensors that were taken.
        resized: name -> shape there and shape here, of those that differ and begin anew.
        new: names of tensors that only this model has.
        left: names of tensors that only the other model has.
    """

    of: str
    sha256: str | None
    names: tuple[str, ...]
    resized: Mapping[str, tuple[list[int], list[int]]]
    new: tuple[str, ...]
    left: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return it as plain data, for run.json and checkpoints."""
        resized = {name: [list(there), list(here)] for name, (there, here) in self.resized.items()}
        return {
            "from": self.of, "sha256": self.sha256, "taken": list(self.names), "resized": resized,
            "new": list(self.new), "left": list(self.left),
        }  # fmt: skip

    def __str__(self) -> str:
        total = len(self.names) + len(self.resized) + len(self.new)
        said = f"{len(self.names)} of {total} tensors are those of {self.of}"
        sized = [f"{n} {tuple(there)} -> {tuple(here)}" for n, (there, here) in self.resized.items()]
        for what, names in (
            ("begin anew, as their sizes differ", sized),
            ("begin anew, as it has none", self.new),
            ("of it are not used", self.left),
        ):
            if names:
                more = f" and {len(names) - _SHOWN} more, see run.json" if len(names) > _SHOWN else ""
                said += f"; {len(names)} {what}: {', '.join(list(names)[:_SHOWN])}{more}"
        return said


_SHOWN = 8


def take_weights(source: GenerativeModel, target: GenerativeModel) -> Taken:
    """Copy the tensors whose names and shapes agree. Raises `ConfigError` where less than a quarter of them do."""
    theirs, own = source.state_dict(), target.state_dict()
    made = target.state_of_training()
    of = source.source.name if source.source.kind not in ("run", "folder") else None
    of = of or source.source.path or type(source).__name__
    fits = [k for k in own if k in theirs and theirs[k].shape == own[k].shape]
    resized = {
        k: (list(theirs[k].shape), list(own[k].shape)) for k in own if k in theirs and theirs[k].shape != own[k].shape
    }
    new = [k for k in own if k not in theirs and k not in made]
    counted = [k for k in own if k not in made or k in theirs]
    if len(fits) < _LEAST * len(counted):
        first = next(iter([*resized, *new]), "none")
        raise ConfigError(
            f"--init_from: the weights of {of} do not fit the model: {len(fits)} of {len(counted)} tensors do, the "
            f"first that does not is {first!r}; give the same networks, with other numbers of classes, channels or "
            f"sizes only"
        )
    target.load_state_dict({**own, **{k: theirs[k] for k in fits}})
    left = tuple(k for k in theirs if k not in own)
    return Taken(str(of), source.source.sha256, tuple(fits), resized, tuple(new), left)


def factors(model: GenerativeModel, settings: TrainingSettings, taken: Iterable[str] = ()) -> dict[str, float]:
    """Return parameter -> factor of its learning rate, where that is not 1; 0 for what is frozen.

    Args:
        model: whose parameters.
        settings: freeze, rates and old_rate.
        taken: names of the tensors that came from another training.

    Raises:
        ConfigError: a pattern that matches nothing, or nothing is left for a player to move.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    taken = set(taken)
    found = {name: settings.old_rate for name in names if name in taken and settings.old_rate != 1}
    for pattern, factor in settings.rate_patterns():
        matching = [n for n in names if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(n, f"{pattern}.*")]
        if not matching:
            modules = sorted({".".join(n.split(".")[:depth]) for n in names for depth in (1, 2)})
            raise ConfigError(
                f"no parameter of {type(model).__name__} that is trained matches {pattern!r}."
                f"{close_matches(pattern, [*modules, *names])} There are {', '.join(modules[:20])}"
            )
        found.update(dict.fromkeys(matching, factor))
    moving = {id(p) for n, p in model.named_parameters() if found.get(n, 1) > 0}
    for player, moved in model.players().items():
        if found and not any(id(p) in moving for p in moved.parameters):
            raise ConfigError(f"all that the {player} moves is frozen, so it would not be trained; freeze less")
    return found


def set_rates(model: GenerativeModel, found: Mapping[str, float]) -> None:
    """Freeze what has the factor 0, and let the model's optimizers know the other factors."""
    for name, parameter in model.named_parameters():
        if found.get(name) == 0:
            parameter.requires_grad_(False)
    model.rate_factors = dict(found)


def check_resumed(saved: Any, found: Mapping[str, float]) -> None:
    """Refuse other frozen parts and rates than those of the run. Raises `ConfigError`, or `CheckpointError`.

    Args:
        saved: the factors that the checkpoint holds.
        found: those that are asked for.
    """
    saved = saved if saved is not None else {}
    if not isinstance(saved, Mapping) or not all(isinstance(v, (int, float)) for v in saved.values()):
        raise CheckpointError("the checkpoint does not say at which rates its parts were trained; it was edited")
    differ = [n for n in {**saved, **found} if not math.isclose(saved.get(n, 1.0), found.get(n, 1.0))]
    if differ:
        raise ConfigError(
            f"--resume goes on with the frozen parts and the rates of the run, and {differ[0]!r} would have another "
            f"one; leave --training.freeze, rates and old_rate out, or start a new run with --init_from"
        )


def recorded(facts: Any) -> Sequence[str]:
    """Return the names of the tensors that a run was started with, as its checkpoint says."""
    names = facts.get("taken") if isinstance(facts, Mapping) else None
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
