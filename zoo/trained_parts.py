"""Trained parts: what a model builds on that was trained before it, as the model's class declares it.

A prior is fitted to the codes of a trained autoencoder, a student is distilled from a trained teacher. The class says
under which name it takes such a part, what the part must be able to do, and how its own arguments follow from it:

    trained_parts = {
        "autoencoder": TrainedPart(
            what="a prior over the codes of a trained autoencoder", example="vq_vae-mnist",
            requires=Tokenises, needs="discrete codes", fitted=fitted_to_codes,
        )
    }

The name is an argument of the constructor and an attribute of the model. From then on ``zoo fit`` has an option of this
name, ``--autoencoder RUN|NAME``, with its help, its estimate, its place in the account of compute, and resume; a model
that cannot be the part is refused in one sentence. Importing this module imports no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from zoo.errors import ConfigError
from zoo.spec import class_of

__all__ = ["RESERVED", "TrainedPart", "check_named", "declared", "declared_by", "fitted"]

RESERVED = frozenset(
    {
        *("model", "data", "registry", "config", "run", "resume", "init_from", "budget", "dry_run", "help"),
        *("name", "trainer", "training", "print_config", "print_shtab", "seed", "seed_everything", "json", "freeze"),
    }
)
"""Options of ``zoo fit`` that mean something else already."""


class Recipe(Protocol):
    """What is asked of an entry of the registry here."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> Mapping[str, Any]: ...

    @property
    def allow(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class TrainedPart:
    """One part of a model that is trained before it.

    Args:
        what: what the model is by this part; completes "NAME is ...", as in "distilled from a trained flow".
        example: a registered name that can be the part.
        requires: class or runtime-checkable protocol, or several, all of which the part must be an instance of.
        needs: what such an instance has, in words: "discrete codes".
        fitted: (arguments, part) -> arguments of the model's constructor that fit this very part, all plain data; where
            it is left out, the argument of the part's name becomes the part's spec.
    """

    what: str
    example: str
    requires: type | tuple[type, ...]
    needs: str
    fitted: Callable[[Mapping[str, Any], Any], Mapping[str, Any]] | None = None

    def can_be(self, model: Any) -> bool:
        """Tell whether a model can be this part."""
        kinds = self.requires if isinstance(self.requires, tuple) else (self.requires,)
        return all(isinstance(model, kind) for kind in kinds)

    def found_in(self, model: Any) -> Any:
        """Return the model itself where it can be the part, else the trained part inside it that can, else None."""
        inside = [getattr(model, name) for name in type(model).trained_parts]
        return next((m for m in (model, *inside) if m is not None and self.can_be(m)), None)


def declared(class_path: str, allow: tuple[str, ...] = ()) -> Mapping[str, TrainedPart]:
    """Return the trained parts that a class takes, by their names; the class is imported.

    Raises:
        ConfigError: the class is not on the allow-list, or calls a part what an option of ``zoo fit`` is called.
    """
    cls = class_of(class_path, allow)
    try:
        parts = cls.trained_parts  # type: ignore[attr-defined]
    except AttributeError:  # no model at all, as whoever builds it will say
        return {}
    taken = sorted(RESERVED & set(parts))
    if taken:
        raise ConfigError(
            f"{cls.__name__} calls a trained part {taken[0]!r}, but --{taken[0]} is another option of zoo fit; give "
            f"the part another name"
        )
    return parts


def check_named(entry: Recipe, named: Collection[str]) -> None:
    """Hold an entry that has a place for a trained part to be given one. Raises `ConfigError`."""
    for part, declaration in declared(entry.model["class_path"], tuple(entry.allow)).items():
        if part not in named and (entry.model.get("init_args") or {}).get(part) is not None:
            raise ConfigError(
                f"{entry.name} is {declaration.what}; name it with --{part}, a run folder or a name such as "
                f"{declaration.example}"
            )


def declared_by(entries: Mapping[str, Recipe], part: str) -> list[str]:
    """Return the names of the entries whose classes take a part of this name; all classes are imported."""
    classes = {(entry.model["class_path"], tuple(entry.allow)) for entry in entries.values()}
    takes = set()
    for key in classes:
        with contextlib.suppress(ConfigError):  # an overlay's class that is not there takes nothing
            if part in declared(*key):
                takes.add(key)
    return [name for name, entry in entries.items() if (entry.model["class_path"], tuple(entry.allow)) in takes]


def fitted(entry: Recipe, part: str, model: Any, which: str) -> tuple[dict[str, Any], Any, bool]:
    """Return the arguments of an entry's model that fit a trained one, the part itself, and whether that one holds it.

    Args:
        entry: whose class declares the part.
        part: its name.
        model: the trained model, or one that holds what can be the part.
        which: what the user calls it.

    Raises:
        ConfigError: the class takes no such part, or the model cannot be it.
    """
    known = declared(entry.model["class_path"], tuple(entry.allow))
    if part not in known:
        takes = ", ".join(f"--{name}" for name in known) or "no trained part"
        raise ConfigError(f"{entry.name} takes no --{part}: its class takes {takes}")
    declaration = known[part]
    found = declaration.found_in(model)
    if found is None:
        raise ConfigError(
            f"{which} is a {type(model).__name__}, which has no {declaration.needs}; {entry.name} is "
            f"{declaration.what}: give --{part} one such as {declaration.example}"
        )
    held, found = found is not model, found.released()
    arguments = dict(entry.model.get("init_args") or {})
    if declaration.fitted is None:
        return {**arguments, part: found.spec}, found, held
    return dict(declaration.fitted(arguments, found)), found, held
