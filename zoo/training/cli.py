"""LightningCLI for one registry entry: the entry gives the defaults, the user's configuration and flags win.

The name is resolved before this parser exists, so a class never inherits another class's arguments; every class path is
held against the zoo's allow-list before it is imported.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Any

import jsonargparse
import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from zoo.data.base import TensorData
from zoo.errors import ConfigError, NotAGenerativeModelError, ZooError
from zoo.fitting import can_follow, conditioned, fitted_to_data
from zoo.model import GenerativeModel
from zoo.sizes import SIZES, sized_model
from zoo.spec import ALLOWED, build, class_of, class_paths
from zoo.trained_parts import declared
from zoo.training.parser_errors import sentence
from zoo.training.settings import TrainingSettings

__all__ = ["TRAINER", "EntryCLI"]

_LIGHTNING = ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
_PARENTS = (
    *(f"zoo.{room}" for room in ("families", "nets", "maths", "data", "metrics", "callbacks")),
    *(f"lightning.pytorch.{room}" for room in _LIGHTNING),
    "torch.optim",
    *ALLOWED,
)
_REMOTE = tuple(f"lightning.pytorch.loggers.{name}" for name in ("comet", "litlogger", "mlflow", "neptune", "wandb"))
"""Lightning's modules that speak to servers, which a configuration may not choose."""
_CHANGING = re.compile("--(model|data|config)")
"""Starts of the options from which a model follows that an entry has written out for its own data."""
_allowed_before: set[str] = set()
TRAINER = {
    "use_distributed_sampler": False,  # the stream shards itself
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "inference_mode": False,  # penalties need gradients in validation, too
    "logger": None,  # what there is beside the run's own; false for nothing
    "enable_checkpointing": True,
}
"""What the Trainer is given where neither the entry nor the user says otherwise."""


class _Parser(LightningArgumentParser):
    """Parser that raises its errors instead of printing usage and leaving."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ConfigError(str(message)) from ex


class EntryCLI(LightningCLI):
    """Parse and build model, data, trainer arguments and engine settings of one registry entry.

    Args:
        entry: model and data specs, trainer and training arguments that serve as defaults.
        args: what the user typed.
        allow: class-path prefixes that the user's own overlay allows.
        kept: trained parts whose weights are given, so that they stay what they are.
    """

    def __init__(
        self, entry: Mapping[str, Any], args: Sequence[str], allow: Sequence[str] = (), kept: Sequence[str] = ()
    ) -> None:
        self.entry, self.allow, self.kept = entry, tuple(allow), tuple(kept)
        jsonargparse.set_parsing_settings(
            import_path_denylist=["*", *_REMOTE, *(_allowed_before - {*_PARENTS, *self.allow})],
            import_path_allowlist=[*_PARENTS, *self.allow],
            instantiate_subclass_spec_in_any=False,
        )
        _allowed_before.update(self.allow)  # the parser's settings outlive it
        super().__init__(
            GenerativeModel,
            TensorData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults=TRAINER,
            seed_everything_default=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=_Parser,
            parser_kwargs={"prog": f"zoo fit --model {entry['name']}", "exit_on_error": False},
            args=list(args),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default=self.entry["name"], help="Name of the registry entry.")
        parser.add_class_arguments(TrainingSettings, "training", as_group=True)
        defaults: dict[str, Any] = {"model": dict(self.entry["model"]), "data": dict(self.entry["data"])}
        for group in ("trainer", "training"):
            defaults.update({f"{group}.{k}": v for k, v in self.entry.get(group, {}).items()})
        for path in sorted(class_paths(list(defaults.values()))):
            if path.startswith("zoo."):
                class_of(path, self.allow)  # raises, naming the path
        path = self.entry["model"]["class_path"]
        cls = class_of(path, self.allow)
        if not issubclass(cls, GenerativeModel):
            if issubclass(cls, LightningModule):  # of the user's own: there is something to write
                raise NotAGenerativeModelError(path)
            raise ConfigError(f"{path} is no generative model; name a class of zoo.families, or one of your own")
        try:
            parser.set_defaults(defaults)
        except (AttributeError, ImportError, KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"registry entry {self.entry['name']!r}: {self._explain(parser, error)}") from error

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, let the model follow from the data and the options, and parse again only where that changes it."""
        spec = self.entry["model"]
        own = inspect.signature(class_of(spec["class_path"], self.allow)).parameters
        args, asked = derived_options(args, own)
        written = self.entry.get("own_data") and not any(map(_CHANGING.match, args))
        if asked or (not written and can_follow(spec["class_path"], self.allow)):
            typed = [a for a in args if not a.startswith("--print_config")]
            config = self._parsed(parser, typed)
            fitted = self._fitted(spec, config.as_dict(), typed, asked)
            if fitted != spec and not (_holds(config.as_dict()["model"], fitted) and _has_all(fitted, spec)):
                parser.set_defaults({"model": fitted})
            elif len(typed) == len(args):
                self.config = config
                return
        self.config = self._parsed(parser, args)

    def _parsed(self, parser: LightningArgumentParser, args: Any) -> Any:
        try:
            return parser.parse_args(args)
        except (jsonargparse.ArgumentError, ConfigError) as error:
            raise ConfigError(self._explain(parser, error)) from error

    def _fitted(
        self, spec: Mapping[str, Any], chosen: Mapping[str, Any], args: Sequence[str], asked: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """Return the model's spec as it follows from the data and the options (see `zoo.fitting`, `zoo.sizes`)."""
        if chosen["model"]["class_path"] != spec["class_path"]:
            if asked:
                raise ConfigError(
                    f"--model.{next(iter(asked))} is for the model of {self.entry['name']}, and another class is "
                    f"chosen; leave it out, and set the arguments of that class"
                )
            return spec
        try:
            data = build(chosen["data"], self.allow)
        except ZooError:  # said when the data are built for good
            return spec
        arguments = chosen["model"].get("init_args") or {}
        named = {a.removeprefix("--model.").removeprefix("init_args.") for a in args if a.startswith("--model.")}
        named = {re.split(r"[.=+]", option)[0] for option in named}
        named |= {k for k, v in (spec.get("init_args") or {}).items() if not _holds(arguments.get(k), v)}
        try:
            fitted = fitted_to_data(spec, arguments, data, named=named, kept=self.kept, allow=self.allow)
        except ConfigError:
            if "shape" in named:  # a whole configuration, whose networks may be others
                return spec
            raise
        if "num_classes" in asked:
            fitted = conditioned(fitted, data.num_classes, self.allow)
        return sized_model(fitted, asked["size"], self.allow) if "size" in asked else fitted

    def _explain(self, parser: LightningArgumentParser, error: Exception) -> str:
        options = [o for action in parser._actions for o in action.option_strings]
        options += [f"--{part}" for part in declared(self.entry["model"]["class_path"], self.allow)]
        return sentence(str(error), self.entry, options, self.allow)

    def _parse_ckpt_path(self) -> None:
        """Resuming takes the run's own configuration, never hyperparameters out of a checkpoint."""

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor refuses is said in its own words, not in the parser's."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:  # of a constructor, which says what it refuses
            if isinstance(error.__cause__, ZooError):
                raise error.__cause__ from None
            if (
                isinstance(error, jsonargparse.ArgumentError)
                or error.__cause__ is not None
                or "Parser key" in str(error)
            ):
                raise ConfigError(self._explain(self.parser, error)) from error
            raise
        except ImportError as error:  # a logger or callback whose package is not there
            raise ConfigError(f"what the options name is not installed: {' '.join(str(error).split())}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Leave the trainer to the engine, which must know the model first."""
        return None

    def settings(self) -> TrainingSettings:
        """Return the engine's settings."""
        return TrainingSettings(**vars(self.config["training"].clone()))

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the arguments for Lightning's Trainer, built."""
        return dict(vars(self.config_init["trainer"]))

    def dump(self, data: Mapping[str, Any] | None = None) -> str:
        """Return the whole configuration as YAML, from which the run can be repeated; with these arguments of data."""
        config = _plain(self.config.clone())
        for name, value in (data or {}).items():
            config[f"data.init_args.{name}"] = value
        return self.parser.dump(config, skip_unset=False, format="yaml")


def _plain(value: Any) -> Any:
    """Return a parsed value with the words of what has a word in YAML only as one: enumerations and devices."""
    if isinstance(value, Namespace):
        for key, one in vars(value).items():
            value[key] = _plain(one)
        return value
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(one) for one in value) if type(value) in (list, tuple) else value
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, torch.device) else value


def _holds(whole: Any, part: Any) -> bool:
    """Tell whether what was parsed, which has all defaults, says what the entry says."""
    left = [(whole, part)]
    while left:
        whole, part = left.pop()
        if isinstance(part, Mapping):
            if not isinstance(whole, Mapping):
                return False
            left += [(whole.get(key), value) for key, value in part.items()]
        elif isinstance(part, (list, tuple)):
            if not isinstance(whole, (list, tuple)) or list(whole) != list(part):
                return False
        elif whole != part:
            return False
    return True


def _has_all(whole: Any, part: Any) -> bool:
    """Tell whether all keys are still there, of mappings inside too."""
    left = [(whole, part)]
    while left:
        whole, part = left.pop()
        if isinstance(part, Mapping):
            if not isinstance(whole, Mapping) or not set(part) <= set(whole):
                return False
            left += [(whole[key], value) for key, value in part.items()]
    return True


def derived_options(args: Sequence[str], own: Collection[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Return the arguments without ``--model.size SIZE`` and ``--model.num_classes data``, and what these ask for.

    A model that has an argument ``size`` of its own, among ``own``, gets what is none of the sizes' names.

    Raises:
        ConfigError: such an option beside a configuration, which says all of what would follow.
    """
    left, asked, words = [], {}, iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        name = option.removeprefix("--model.").removeprefix("init_args.")
        if not option.startswith("--model.") or name not in ("size", "num_classes"):
            left.append(word)
            continue
        value = value if equals else next(words, "")
        if (name == "num_classes" and value != "data") or (name == "size" and "size" in own and value not in SIZES):
            left += [option, value] if value else [option]
        elif not value or value.startswith("--"):
            raise ConfigError(f"--model.size takes one of {', '.join(SIZES)}")
        else:
            asked[name] = value
    if asked and any(word.partition("=")[0] == "--config" for word in left):
        raise ConfigError(
            f"--model.{next(iter(asked))} follows from an entry and the data, and a configuration has all widths "
            f"written out; leave it out, or start from the name: zoo fit --model NAME"
        )
    return left, asked
