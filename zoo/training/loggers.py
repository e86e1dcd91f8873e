"""Loggers beside the run's own metrics.csv: by short name, by class, or objects from Python.

``--logger wandb`` is ``--trainer.logger wandb``; several are separated by commas, and arguments follow as
``--logger.project NAME``. Loggers that speak to servers are made only of what is typed or passed from Python, never
of a configuration, which may come from a stranger. What a run was logged to is in its run.json, so that going on with
it can go on there as well.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from zoo.errors import ConfigError, RunError, close_matches
from zoo.registry import plain_yaml
from zoo.runs import run_metadata
from zoo.training.trainer_options import listed

__all__ = [
    "SHORT",
    "Asked",
    "LogsHyperparameters",
    "check_installed",
    "chosen",
    "closed",
    "described",
    "logged_before",
    "make",
    "taken",
]

log = logging.getLogger("zoo.training")


@dataclass(frozen=True)
class _Kind:
    """A logger of Lightning's.

    Attributes:
        path: of its class.
        packages: of which one must be installed; none are needed if empty.
        local: whether it writes files only.
        identity: the argument by which an earlier experiment is gone on with.
    """

    path: str
    packages: tuple[str, ...] = ()
    local: bool = False
    identity: str | None = None


SHORT: dict[str, _Kind] = {
    "csv": _Kind("lightning.pytorch.loggers.csv_logs.CSVLogger", local=True),
    "tensorboard": _Kind(
        "lightning.pytorch.loggers.tensorboard.TensorBoardLogger", ("tensorboard", "tensorboardX"), local=True
    ),
    "wandb": _Kind("lightning.pytorch.loggers.wandb.WandbLogger", ("wandb",), identity="id"),
    "mlflow": _Kind("lightning.pytorch.loggers.mlflow.MLFlowLogger", ("mlflow",), identity="run_id"),
    "comet": _Kind("lightning.pytorch.loggers.comet.CometLogger", ("comet_ml",), identity="experiment_key"),
    "litlogger": _Kind("lightning.pytorch.loggers.litlogger.LitLogger", ("litlogger",)),
}
"""Short names of Lightning's loggers."""

_WORDS = {"true", "false", "null", "none"}


@dataclass
class Asked:
    """What was asked of loggers.

    Attributes:
        kinds: short names.
        options: arguments of the only one of them.
        objects: built already.
        default: whether the usual ones are wanted too: TensorBoard, where it is installed.
    """

    kinds: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    objects: list[Logger] = field(default_factory=list)
    default: bool = True


def _short(name: str) -> str | None:
    """Return the short name that a word means: one itself, or the class that it stands for."""
    tail = name.rpartition(".")[2]
    if name.lower() in SHORT:
        return name.lower()
    known = {kind.path.rpartition(".")[2]: short for short, kind in SHORT.items()}
    return known.get(tail) if name == tail or name.startswith("lightning.pytorch.loggers.") else None


def taken(args: Sequence[str], given: Any = None) -> tuple[Asked, list[str]]:
    """Take what is said of loggers out of the arguments.

    Args:
        args: as typed; ``--logger X`` is the same as ``--trainer.logger X``.
        given: from Python: a logger, a short name, several of them in a list, True, False, or None.

    Returns:
        what was asked, and the arguments that are left for the parser: classes that are none of `SHORT`, with theirs.

    Raises:
        ConfigError: an unknown short name, an option without a logger, or options where several loggers are named.
    """
    asked, left, foreign = Asked(), [], False
    rest = iter(args)
    for word in rest:
        option, equals, value = word.partition("=")
        head = "trainer.logger" if option.startswith("--trainer.logger") else "logger"
        tail = option.removeprefix(f"--{head}").rstrip("+")
        if not option.startswith(f"--{head}") or (tail and not tail.startswith(".")):
            left.append(word)
            continue
        value = value if equals else next(rest, "")
        if tail and foreign:
            left += [f"--trainer.logger{tail}", value]
        elif tail:
            asked.options[tail.removeprefix(".").removeprefix("init_args.")] = plain_yaml(value)
        elif value.lower() in _WORDS or value.lstrip().startswith(("{", "[")):
            asked.default = asked.default and value.lower() != "false"
            left += [f"--trainer.logger{'+' if option.endswith('+') else ''}", value]
        else:
            foreign = _name(asked, value, left, plus=option.endswith("+"))
    for one in given if isinstance(given, (list, tuple)) else [given]:
        if isinstance(one, Logger):
            asked.objects.append(one)
        elif isinstance(one, str):
            _name(asked, one, left)
        elif one is False:
            asked.default = False
        elif one not in (None, True):
            raise ConfigError(
                f"logger is a {type(one).__name__}; give a Lightning logger, one of {', '.join(SHORT)}, or False"
            )
    if asked.options and len(asked.kinds) != 1:
        named = ", ".join(asked.kinds) or "none is"
        raise ConfigError(f"--logger.{next(iter(asked.options))} is for one logger, {named} named; name one")
    return asked, left


def _name(asked: Asked, words: str, left: list[str], *, plus: bool = False) -> bool:
    """Note the loggers that a value names; return whether it is the class of another one, left to the parser."""
    for word in words.split(","):
        short = _short(word.strip())
        if short is None and "." in word:
            left += [f"--trainer.logger{'+' if plus else ''}", word.strip()]
            return True
        if short is None:
            raise ConfigError(
                f"there is no logger {word.strip()!r}.{close_matches(word.strip(), SHORT)} Known are "
                f"{', '.join(SHORT)}, and the path of any class, such as my_package.MyLogger"
            )
        asked.kinds.append(short)
    return False


def check_installed(kind: str) -> None:
    """Raise `ConfigError` where the package of a logger is not installed."""
    packages = SHORT[kind].packages
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        raise ConfigError(
            f"the logger {kind} needs the package {packages[0]}, which is not installed; pip install {packages[0]}, or "
            f"leave --logger {kind} out: metrics.csv is written anyway"
        )


def make(kind: str, folder: Path, name: str, options: Mapping[str, Any], before: str | None = None) -> Logger:
    """Build a logger for a run.

    Args:
        kind: short name.
        folder: of the run, where the logger keeps its files.
        name: of the model, which is the project or the experiment.
        options: arguments of its class, which win.
        before: the experiment to go on with, as `described` gave it.

    Raises:
        ConfigError: its package is missing, or it refuses its arguments.
    """
    check_installed(kind)
    about = SHORT[kind]
    module, _, cls = about.path.rpartition(".")
    made = getattr(importlib.import_module(module), cls)
    usual: dict[str, dict[str, Any]] = {
        "csv": {"save_dir": str(folder), "name": "", "version": "csv"},
        "tensorboard": {"save_dir": str(folder), "name": "", "version": "tensorboard"},
        "wandb": {"project": name, "name": folder.name, "save_dir": str(folder)},
        "mlflow": {"experiment_name": name, "run_name": folder.name, **_mlflow_store(folder)},
        "comet": {"project": name},
        "litlogger": {"root_dir": str(folder), "name": folder.name},
    }
    known = inspect.signature(made.__init__).parameters
    unknown = [k for k in options if k not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values())]
    if unknown:
        raise ConfigError(
            f"the logger {kind} has no option --logger.{unknown[0]}.{close_matches(unknown[0], list(known))}"
        )
    going_on = {about.identity: before} if about.identity and before else {}
    if going_on and kind == "wandb":
        going_on["resume"] = "allow"
    if kind == "wandb" and not {"id", "version"} & set(options):  # known before the first step, for run.json
        going_on.setdefault("id", uuid.uuid4().hex[:8])
    try:
        return made(**{**usual[kind], **going_on, **options})
    except Exception as error:  # of a package that is not ours, which may refuse in any way
        raise ConfigError(f"the logger {kind} cannot be made: {' '.join(str(error).split())[:300]}") from error


def _mlflow_store(folder: Path) -> dict[str, str]:
    """Return where MLflow keeps a run: where its own variable says, else a database in the run folder.

    Plain files, which its later versions refuse, are gone on with where a run has them, and are what is left where
    what a database needs is not installed.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return {"tracking_uri": os.environ["MLFLOW_TRACKING_URI"]}
    database = all(importlib.util.find_spec(package) for package in ("sqlalchemy", "alembic"))
    if (folder / "mlruns").is_dir() or not database:
        return {"save_dir": str(folder / "mlruns")}
    folder = folder.absolute()
    return {"tracking_uri": f"sqlite:///{folder / 'mlflow.db'}", "artifact_location": str(folder / "mlartifacts")}


class _Closed:
    """A logger whose experiment has been ended; what comes later goes there all the same."""

    def __init__(self, again: Callable[[], Logger]) -> None:
        self.again = again

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        logger = self.again()
        logger.log_metrics(dict(metrics), step=step)
        _end(logger)

    def save(self) -> None:
        """Nothing is waiting."""


def _end(logger: Logger) -> None:
    logger.experiment.finish()  # type: ignore[attr-defined]


def closed(loggers: Iterable[Any], asked: Asked, folder: Path, name: str) -> list[Any]:
    """End the experiments that a process has one of at a time, if they were opened here, and return all loggers.

    Weights & Biases would log a further run of the process to the one that is open.
    """
    kept = []
    for logger in loggers:
        if type(logger).__name__ != "WandbLogger" or any(logger is one for one in asked.objects):
            kept.append(logger)
            continue
        if getattr(logger, "_experiment", None) is None:  # of another process, or never used
            continue
        identity = str(logger.experiment.id)
        _end(logger)
        kept.append(_Closed(functools.partial(make, "wandb", folder, name, asked.options, identity)))
    return kept


def described(loggers: Iterable[Logger]) -> list[dict[str, Any]]:
    """Return what run.json says of loggers: kind or class, and the experiment where a server gave it a name."""
    found = []
    for logger in loggers:
        path = f"{type(logger).__module__}.{type(logger).__qualname__}"
        short = next((s for s, kind in SHORT.items() if kind.path == path), None)
        identity = None
        if short is not None and not SHORT[short].local:
            identity = getattr(logger, "run_id", None) or logger.version
        found.append({"logger": short or path, **({"experiment": str(identity)} if identity else {})})
    return found


def logged_before(folder: Path) -> dict[str, str | None]:
    """Return the kinds of loggers that a run had, with the experiment that each of them was."""
    try:
        noted = run_metadata(folder).get("loggers")
    except RunError:
        return {}
    found = [n for n in noted if isinstance(n, dict)] if isinstance(noted, list) else []
    return {str(n["logger"]): n.get("experiment") for n in found if n.get("logger") in SHORT}


def chosen(asked: Asked, configured: Any, folder: Path, name: str, before: Mapping[str, str | None]) -> list[Logger]:
    """Return the loggers of a run beside its own.

    TensorBoard is one of them where it is installed, unless none is wanted. A run that is gone on with keeps those that
    write files; that it was logged to a server too is told.

    Args:
        asked: what was asked for.
        configured: what the configuration says: loggers, true, false, or None.
        folder: of the run.
        name: of the model.
        before: what `logged_before` says.

    Raises:
        ConfigError: what `make` raises.
    """
    kinds = list(dict.fromkeys(asked.kinds))
    others = [*asked.objects, *([] if isinstance(configured, bool) else listed(configured))]
    kinds += [k for k in before if SHORT[k].local and k not in (*kinds, "tensorboard")]
    usual = (asked.default and configured is not False) or (folder / "tensorboard").is_dir()
    if usual and importlib.util.find_spec("tensorboard") and not any(_is_tensorboard(o) for o in others):
        kinds += [k for k in ("tensorboard",) if k not in kinds]
    for kind in before:
        if kind not in kinds and not SHORT[kind].local:
            log.warning("the run was logged to %s too; give --logger %s to go on there", kind, kind)
    made = [make(k, folder, name, asked.options if k in asked.kinds else {}, before.get(k)) for k in kinds]
    return [*made, *others]


def _is_tensorboard(logger: Logger) -> bool:
    return any(cls.__name__ == "TensorBoardLogger" for cls in type(logger).__mro__)


class LogsHyperparameters(Callback):
    """Give the loggers what a run is at its start, and what it cost at its end; each failure is told once.

    Args:
        hyperparameters: plain data: name, specification, settings.
        report: knows the numbers of the card at the end: TFLOP, seconds, examples.
        own: loggers of the run itself, which have both already.
    """

    def __init__(self, hyperparameters: Mapping[str, Any], report: Any, own: Sequence[Logger]) -> None:
        self.hyperparameters, self.report, self.own = dict(hyperparameters), report, tuple(own)

    def _others(self, trainer: Trainer) -> list[Logger]:
        return [logger for logger in trainer.loggers if logger not in self.own]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in self._others(trainer) if trainer.enable_autolog_hparams else []:
            self._offer(logger, lambda logger=logger: _log_hyperparameters(logger, self.hyperparameters))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        numbers = {f"cost/{k}": float(v) for k, v in self.report.numbers().items() if isinstance(v, (int, float))}
        for logger in self._others(trainer):
            self._offer(logger, lambda logger=logger: logger.log_metrics(numbers, step=trainer.global_step))

    def _offer(self, logger: Logger, call: Any) -> None:
        try:
            call()
        except Exception as error:
            log.warning("%s took no facts of the run: %s", type(logger).__name__, " ".join(str(error).split())[:300])


def _log_hyperparameters(logger: Logger, hyperparameters: Mapping[str, Any]) -> None:
    """Give a logger the configuration; MLflow keeps the first value of each, and has as tags what was changed since."""
    if type(logger).__name__ != "MLFlowLogger":
        logger.log_hyperparams(dict(hyperparameters))
        return
    client, run_id = logger.experiment, logger.run_id  # type: ignore[attr-defined]
    if run_id is None:  # of another process
        return
    before, now = client.get_run(run_id).data.params, _flat(hyperparameters)
    logger.log_hyperparams({name: value for name, value in now.items() if name not in before})
    for name, value in now.items():
        if name in before and before[name] != str(value)[:250]:
            client.set_tag(run_id, name, str(value))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what nested mappings hold, by names with slashes."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}{name}/") if isinstance(inner, Mapping) else {f"{prefix}{name}": inner}
    return found
