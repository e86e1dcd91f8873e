"""``zoo.fit``: the command of the same name from Python, through the same parser, to the same run folder."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo._cli import fit as command
from zoo.errors import ConfigError, NotAGenerativeModelError, RunError, close_matches
from zoo.registry import Entry, in_force, load_registry
from zoo.spec import Recorded
from zoo.trainings import Training

if TYPE_CHECKING:
    from zoo.model import GenerativeModel

__all__ = ["fit"]

log = logging.getLogger("zoo")

_SIMPLE = (bool, int, float, str, type(None))


def fit(
    model_or_name: str | GenerativeModel | None = None,
    data: Any = None,
    *,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    run: str | Path | None = None,
    resume: str | Path | Training | None = None,
    init_from: str | Path | None = None,
    budget: str | None = None,
    seed: int | None = None,
    callbacks: Any = None,
    logger: Any = None,
    registry: str | Path | Sequence[str | Path] = (),
    **options: Any,
) -> Training:
    """Train a model as ``zoo fit`` does: ``zoo.fit("wgan_gp", max_steps=1000, model={"lr": 1e-4})``.

    The run folder is the command's, too: ``zoo fit --resume FOLDER`` goes on with it, to the same bits, also where the
    data were tensors, which are written into it. It works in a script, in a notebook, and under torchrun, in every
    process of it.

    Args:
        model_or_name: a name of the registry, or a model of your own class, whose weights are where it starts.
        data: the name of a data set; options of the entry's own as a mapping, ``{"batch_size": 64}``, or of others with
            ``"name"`` among them; a data module of the zoo; a tensor or array (N, *shape), a pair with labels (N,), a
            Dataset, a DataLoader or a LightningDataModule, or a mapping of these by ``train``, ``validation`` and
            ``test``; the entry's own by default. Examples are uint8 or in [0, 1].
        model: arguments of the model that replace the entry's, as ``--model.X``.
        training: settings of the engine, as ``--training.X``: ema, warmup, schedule, patience, log_every ...
        batch_size: examples a batch and device.
        run: the run folder, which must not exist; a new one under ``runs`` by default.
        resume: a run to go on with, in its folder; its name and data may be left out.
        init_from: a trained model to start from, as ``--init_from``.
        budget: training compute after which to stop, such as ``"50TFLOP"``.
        seed: of all that is random, as ``--seed``.
        callbacks: Lightning's, one or several.
        logger: a Lightning logger, a short name such as ``"wandb"``, several of them, or False.
        registry: further registry files.
        options: arguments of Lightning's Trainer (``max_steps``, ``devices``, ``precision`` ...; docs/training.md says
            how each is honoured), and trained parts of the model (``autoencoder``, ``teacher``).

    Returns:
        the training, with its folder, model and metrics.

    Raises:
        ZooError: what `zoo.training.fit.Run` raises, an unknown option, data of another kind or shape.
        KeyboardInterrupt: Ctrl-C, once the checkpoint is written.
    """
    words, objects = _words(model, training, options, data, batch_size, own=not isinstance(model_or_name, str))
    files = [str(f) for f in ([registry] if isinstance(registry, (str, Path)) else registry)]
    resume = resume.folder if isinstance(resume, Training) else resume
    named = {"resume": resume, "run": run, "init_from": init_from, "budget": budget, "seed": seed}
    words += [w for k, v in named.items() if v is not None for w in (f"--{k}", str(v))]
    words += [w for f in files for w in ("--registry", f)]
    call = _call(model_or_name, data, {"model": model, "training": training, "batch_size": batch_size, **named,
                                       "callbacks": callbacks, "logger": logger, **options})  # fmt: skip
    with in_force(*files):
        own, allow, start = _own(model_or_name, data)
        if isinstance(model_or_name, str):
            words = [*words, "--model", model_or_name]
        args, given = _parsed(words), _given(data, batch_size, resume=resume is not None)
        training_run = command.prepared(
            args, own=own, data=given, start=start, callbacks=_listed(callbacks), logger=logger, objects=objects,
            command=call,
        )  # fmt: skip
        return _started(training_run, allow, files)


def _started(training_run: Any, allow: Sequence[str], registry: Sequence[str]) -> Training:
    from zoo.training.fit import Stopped

    try:
        folder = training_run.start()
    except Stopped as stop:
        kept = str(training_run.folder)
        go_on = (
            f"{stop}; the checkpoint is in {kept}: zoo.fit(resume={kept!r}) goes on"
            if stop.kept
            else f"{stop}; there was no checkpoint yet, so there is nothing to go on from"
        )
        if stop.signal_name != "SIGINT":
            log.warning("%s", go_on)
            raise SystemExit(stop.exit_code) from None
        raise KeyboardInterrupt(go_on) from None
    return Training(folder, allow=allow, data=training_run.data, loggers=training_run.opened, registry=registry)


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """Return what the command's own parser makes of the words."""
    parser = argparse.ArgumentParser(prog="zoo.fit", add_help=False, allow_abbrev=False, exit_on_error=False)
    command.add_arguments(parser)
    args, rest = parser.parse_known_args(list(words))
    args.rest = rest
    return args


def _words(
    model: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    data: Any,
    batch_size: int | None,
    *,
    own: bool,
) -> tuple[list[str], dict[str, Any]]:
    """Return the options as they would be typed, and what cannot be: objects for Lightning's Trainer."""
    from lightning.pytorch import Trainer

    words, objects = [], {}
    for group, values in (("model", model), ("training", training)):
        for name, value in (values or {}).items():
            words += _typed(f"--{group}.{name}", value, group)
    if isinstance(data, Mapping) and not _by_split(data):
        for name, value in data.items():
            words += ["--data", str(value)] if name == "name" else _typed(f"--data.{name}", value, "data")
    elif isinstance(data, str):
        words += ["--data", data]
    if batch_size is not None and (data is None or isinstance(data, str)):
        words += ["--data.batch_size", str(batch_size)]
    known = [n for n in inspect.signature(Trainer.__init__).parameters if n != "self"]
    for name, value in options.items():
        if name not in known:
            if not isinstance(value, (str, Path)):
                raise ConfigError(f"zoo.fit has no option {name!r}.{_meant(name, known)}")
            words += [f"--{name}", str(value)]  # a trained part, or refused by the command
        elif isinstance(value, _SIMPLE) or (isinstance(value, (list, tuple, dict)) and _plain(value)):
            words += _typed(f"--trainer.{name}", value, "trainer")
        else:
            objects[name] = value
    return words, objects


def _meant(name: str, known: Sequence[str]) -> str:
    """Return what was perhaps meant by an option that there is none of, as it is written here."""
    from zoo.training.parser_errors import ELSEWHERE
    from zoo.training.settings import TrainingSettings

    loaders = {"train_dataloaders": "train", "train_dataloader": "train", "train_loader": "train",
               "val_dataloaders": "validation", "val_dataloader": "validation", "val_loader": "validation"}  # fmt: skip
    if name in loaders:
        return f" Loaders go into data={{'train': ..., 'validation': ...}}, this one as {loaders[name]!r}"
    if name == "trainer":
        return " Arguments of Lightning's Trainer are keywords, such as max_steps=100; or give the model to Trainer.fit"
    here = {f.name: f"--training.{f.name}" for f in dataclasses.fields(TrainingSettings)}
    option = {**ELSEWHERE, **here, "lr": "--model.lr"}.get(name)
    if option is not None:
        group, _, last = option.removeprefix("--").partition(".")
        group, last = ("", group) if not last else (group, last)
        written = f"{group}={{{last!r}: ...}}" if group and group != "trainer" else f"{last}=..."
        return f" Did you mean {written}?"
    takes = ["model", "data", "training", "run", "resume", "init_from", "budget", "batch_size", *known]
    return (
        f"{close_matches(name, takes)} Options of the model go into model={{...}}, of the engine into training={{...}}"
    )


def _typed(option: str, value: Any, group: str) -> list[str]:
    """Return an option and its value as they are typed. Raises `ConfigError` for what cannot be."""
    if isinstance(value, Recorded):
        value = value.spec
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return [option, value]
    if not _plain(value):
        raise ConfigError(
            f"{group}[{option.rpartition('.')[2]!r}] is a {type(value).__name__}, which cannot be written into the "
            f"run's configuration; give plain data, or the class path and init_args of the object"
        )
    if isinstance(value, Mapping) and "class_path" not in value:
        return [w for k, v in value.items() for w in _typed(f"{option}.{k}", v, group)]
    return [option, json.dumps(value)]


def _plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _by_split(data: Mapping[str, Any]) -> bool:
    return "train" in data


def _given(data: Any, batch_size: int | None, *, resume: bool) -> dict[str, Any] | None:
    """Return the spec of data that are objects; None where they are named, or the entry's own."""
    if data is None or isinstance(data, str) or (isinstance(data, Mapping) and not _by_split(data)):
        return None
    from zoo.data.base import TensorData
    from zoo.data.loaders import spec_of

    if isinstance(data, TensorData):
        if resume:
            raise RunError("resume goes on with the data of the run; leave data out, or give options as a mapping")
        spec = data.spec
        return {**spec, "init_args": {**spec["init_args"], **({"batch_size": batch_size} if batch_size else {})}}
    return spec_of(data, batch_size)


def _own(given: Any, data: Any) -> tuple[Entry | None, tuple[str, ...], Any]:
    """Return the entry of a model that is an object, the class paths that it needs beyond the zoo's, and the object."""
    if given is None or isinstance(given, str):
        return None, (), None
    from zoo.model import GenerativeModel
    from zoo.spec import allowed, class_paths

    if not isinstance(given, GenerativeModel):
        if isinstance(given, type) and issubclass(given, GenerativeModel):
            raise ConfigError(
                f"{given.__name__} is a class; give a model of it, {given.__name__}(...), or a name such as vae-mnist"
            )
        what = f"a {type(given).__name__}" if not isinstance(given, type) else f"the class {given.__name__}"
        raise NotAGenerativeModelError(what)
    spec = given.spec
    registry = load_registry()
    allow = tuple(sorted(p for p in class_paths(spec) if not allowed(p, registry.allow)))
    name = given.source.name
    if name is not None and name in registry:
        entry = registry[name]
        return dataclasses.replace(entry, model=spec, allow=(*entry.allow, *allow)), allow, given
    if data is None:
        raise ConfigError(f"{type(given).__name__} is in no registry, so its data are not known; give data=")
    own = Entry(type(given).__name__.lower(), "", model=spec, allow=(*registry.allow, *allow))
    named = isinstance(data, Mapping) and not _by_split(data)
    if named and "name" not in data:
        raise ConfigError(f"data of {type(given).__name__} have options and no name; give data={{'name': ..., ...}}")
    if named or isinstance(data, str):
        own = dataclasses.replace(own, data=registry.data_spec(str(data["name"]) if named else data))
    return own, allow, given


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _call(model: Any, data: Any, options: Mapping[str, Any]) -> str:
    """Return the call as run.json keeps it: plain values as they are, of objects the kind."""

    def said(value: Any) -> str:
        if isinstance(value, Path):
            return repr(str(value))
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{k!r}: {said(v)}" for k, v in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(said(v) for v in value) + "]"
        if isinstance(value, _SIMPLE):
            return repr(value)
        shape = f" {tuple(value.shape)}" if isinstance(value, Recorded) is False and hasattr(value, "shape") else ""
        return f"<{type(value).__name__}{shape}>"

    first = [said(v) for v in [model] if v is not None] + ([f"data={said(data)}"] if data is not None else [])
    return f"zoo.fit({', '.join([*first, *(f'{k}={said(v)}' for k, v in options.items() if v is not None)])})"
