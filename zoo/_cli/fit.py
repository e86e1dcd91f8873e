"""``zoo fit``: resolve the name before anything heavy is imported, then train."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from zoo.errors import ConfigError, RunError, ZooError
from zoo.recipes import merged, wanted, words
from zoo.registry import Entry, load_registry, plain_yaml
from zoo.spec import class_of, is_spec
from zoo.trained_parts import RESERVED, TrainedPart, check_named, declared, declared_by

OPTIONS = """options of the model, the data and the trainer follow as --model.X, --data.X, --trainer.X, --training.X:
  zoo fit vae --model.beta 2 --data.batch_size 256 --trainer.devices 2 --training.ema 0.9995
  zoo fit --model NAME --help lists them all, with the defaults of NAME, and the trained models that NAME builds on,
  each with an option of its own such as --autoencoder NAME|RUN or --teacher NAME|RUN;
  --print_config prints the whole configuration; --config FILE runs a saved one again"""

_MAX_BYTES = 2_000_000


_PICTURES = ("samples.png", "samples.gif", "samples.txt", "samples.wav", "features.png", "loss.png")


_GROUPS = {
    "model": "the model",
    "data": "the data",
    "training": "the engine: how the run is trained",
    "trainer": "Lightning's Trainer",
}
"""Heads of the groups of options in the help on a model."""


class _Once(argparse.Action):
    """An option of several names, which must not say different things."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest)
        if before not in (None, values):
            raise argparse.ArgumentError(self, f"it is given twice, as {before} and as {values}")
        setattr(namespace, self.dest, values)


def add_arguments(parser: argparse.ArgumentParser, *, resume: bool = True) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="store_true", help="show this help, with --model NAME that of the model")
    parser.set_defaults(parser=parser, rest=[])
    parser.epilog = OPTIONS
    same = ", the same as `zoo fit NAME`" if resume else ""
    parser.add_argument("--model", metavar="NAME", help=f"a name of the registry (zoo list){same}")
    parser.add_argument("--data", metavar="NAME", help="other data than the entry's, such as binary_mnist_threshold")
    parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    parser.add_argument("--config", metavar="FILE", help="a configuration, such as a run's config.yaml")
    parser.add_argument(
        "--seed",
        "--seed_everything",
        action=_Once,
        metavar="N",
        help="of all that is random: first weights and noise (training.seed), order of batches (data.seed)",
    )
    if resume:
        parser.add_argument(
            "--run", metavar="DIR", help="the run folder, which must not exist (default: a new one under runs/)"
        )
        parser.add_argument(
            "--recipe", default="auto", metavar="WHICH",
            help="what the entry changes on a GPU (batch, rate, precision): auto takes it there, gpu always, cpu never",
        )  # fmt: skip
        parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
        parser.add_argument("--init_from", metavar="NAME", help="start from the weights of this model, those that fit")
        parser.add_argument(
            "--budget", metavar="COMPUTE", help="stop after this much training compute, such as 50TFLOP"
        )
        parser.add_argument(
            "--logger", action="append", default=[], metavar="NAME",
            help="log there too: csv, tensorboard, wandb, mlflow, comet, litlogger, a class; arguments as --logger.X",
        )  # fmt: skip
        parser.add_argument("--dry_run", action="store_true", help="print what the training would cost, and stop")
        parser.add_argument("--json", action="store_true", help="print the result as JSON: the run, or its cost")


def entry_of(args: argparse.Namespace, run: str | None = None) -> tuple[Entry, list[str]]:
    """Return the entry that is meant, and the arguments for its parser."""
    registry = load_registry(*args.registry)
    rest = list(args.rest)
    config = str(Path(run) / "config.yaml") if run is not None else args.config
    name = args.model
    if config is not None:
        saved = _read_config(config)
        name = name or saved.get("name")
        rest = ["--config", config, *rest]
        known = any(name in names for names in (registry, registry.aliases, registry.deprecated))
        if not known and {"model", "data"} <= set(saved):
            free = {part: _spec_of(saved, part, config) for part in ("model", "data")}
            return Entry(str(name or "model"), "", **free, allow=registry.allow), rest
    if name is None:
        raise ZooError("no model is named; give --model NAME (zoo list shows the names), --config FILE or --resume RUN")
    entry = registry.recipe(name)
    if args.data is not None:
        spec = registry.data_spec(args.data)
        kept = {k: v for k, v in (entry.data.get("init_args") or {}).items() if k in ("batch_size", "seed")}
        entry = dataclasses.replace(entry, data={**spec, "init_args": {**kept, **spec["init_args"]}})
    return entry, rest


def _read_config(path: str) -> dict[str, Any]:
    import yaml

    try:
        with Path(path).open("rb") as stream:  # which may be a pipe, or a device that never ends
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ZooError(f"configuration {path} has more than the {_MAX_BYTES:,} bytes that one may have")
        content = plain_yaml(data.decode("utf-8"))
    except OSError as error:
        raise ZooError(f"configuration {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise ZooError(f"configuration {path} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(content, dict):
        raise ZooError(f"configuration {path} must hold a mapping")
    if not isinstance(content.get("name"), (str, type(None))):
        raise ZooError(f"configuration {path}: name must be text, got {str(content['name'])[:100]!r}")
    for part, kinds in (("model", (dict, str)), ("data", (dict, str)), ("trainer", dict), ("training", dict)):
        if not isinstance(content.get(part, {}), kinds):
            raise ZooError(f"configuration {path}: {part} must be a mapping, got {str(content[part])[:100]!r}")
    return content


def _spec_of(saved: Mapping[str, Any], part: str, path: str) -> Mapping[str, Any]:
    spec = saved[part]
    if not is_spec(spec) or not isinstance(spec["class_path"], str):
        raise ZooError(f"configuration {path}: {part} must have a class_path, and init_args at most")
    return spec


def _take_name(args: argparse.Namespace) -> None:
    """Take ``NAME`` of ``zoo fit NAME`` for that of ``--model``. Raises `ZooError` where both are given.

    It is the first word that no option of this command has taken: were it the value of another option, that option
    would stand before it.
    """
    if not args.rest or args.rest[0].startswith("-"):
        return
    name, args.rest = args.rest[0], args.rest[1:]
    if args.model is not None:
        raise ZooError(f"two models are named, {name!r} and --model {args.model}; give one of them")
    args.model = name


def seeded(args: argparse.Namespace, entry: Entry, rest: list[str]) -> list[str]:
    """Return the arguments with what ``--seed`` stands for. Raises `ZooError` where one of these says otherwise."""
    if args.seed is None:
        saved = _read_config(args.config).get("seed_everything") if args.config is not None else None
        if isinstance(saved, bool) or saved is None:
            return rest
        args.seed = str(saved)
    if not re.fullmatch(r"\d{1,18}", args.seed):
        raise ZooError(f"--seed takes a whole number from 0, got {args.seed!r}")
    options = ["--training.seed"]
    if "seed" in inspect.signature(class_of(entry.data["class_path"], tuple(entry.allow))).parameters:
        options.append("--data.seed")
    for option in options:
        given = [w for w in rest if w.partition("=")[0].replace(".init_args.", ".") == option]
        if given:
            raise ZooError(f"--seed {args.seed} sets {option} too; give one of them")
        rest = [*rest, option, args.seed]
    return rest


def run(args: argparse.Namespace) -> int:
    _take_name(args)
    if args.help:
        show_help(args)
    training = prepared(args)
    from zoo.training.fit import Stopped

    if args.dry_run:
        cost = training.estimate()
        print(json.dumps(cost, indent=2) if args.json else _cost_lines(cost))
        return 0
    training.announce = lambda: _announce(training)
    with _one_interrupt(training):
        try:
            done = training.start()
        except Stopped as stop:
            kept = training.folder
            if _first_process() and stop.kept:
                print(f"zoo: {stop}; the checkpoint is in {kept}/checkpoints. Go on with: zoo fit --resume {kept}")
            elif _first_process():
                print(f"zoo: {stop}; there was no checkpoint yet, so there is nothing to go on from")
            return stop.exit_code
    if not _first_process():
        return 0
    stopped_because = f" (stopped early: {training.stopped_because})" if training.stopped_because else ""
    pictures = [f"{done}/{name}" for name in _PICTURES if (done / name).is_file()]
    if args.json:
        facts = json.loads((done / "run.json").read_text(encoding="utf-8"))
        kept = {k: facts[k] for k in ("name", "status", "step", "steps", "cost") if k in facts}
        print(json.dumps({"run": str(done), **kept, "pictures": pictures}, indent=2))
        return 0
    print(f"zoo: the run is in {done}{stopped_because}" + (f"; look at {' and '.join(pictures)}" if pictures else ""))
    return 0


def prepared(
    args: argparse.Namespace,
    *,
    own: Entry | None = None,
    data: Mapping[str, Any] | None = None,
    start: Any = None,
    **from_python: Any,
) -> Any:
    """Build the run that the arguments mean, for the command and for ``zoo.fit``; nothing is written yet.

    Args:
        args: of this command's parser.
        own: the entry of a model that no registry has.
        data: the spec of data that have no name.
        start: a model whose weights to start from.
        from_python: what only Python can give: callbacks, loggers, objects; see `zoo.training.fit.Run`.
    """
    _check_folders(args)
    args.rest = [*(w for name in args.logger for w in ("--logger", name)), *args.rest]
    entry, rest = entry_of(args, args.resume) if own is None else (own, list(args.rest))
    same = args.resume is None and args.config is None and args.data is None and data is None
    entry, recipe = _for_place(entry, rest, args.recipe, same=same)
    if data is not None:
        entry, rest = _with_data(entry, rest, data, resume=args.resume is not None)
    if args.resume is not None:
        from zoo.runs import tell_registries

        tell_registries(args.resume)
    rest = seeded(args, entry, rest)
    if args.resume is not None:
        _check_same_model(args, entry)
    named, rest = named_parts(entry, rest, args.registry, resume=args.resume is not None)
    if args.resume is None and args.init_from is None and not args.dry_run:
        check_named(entry, named)
    if args.budget is not None:
        rest += ["--training.budget", args.budget]
        if not any(a.startswith("--trainer.max_steps") for a in rest):
            rest += ["--trainer.max_steps", "-1"]
    from zoo.training.fit import Run
    from zoo.training.history import of_another_model

    stages: dict[str, Any] = {}
    if named:
        from zoo.api import with_parts

        entry, models, earlier = with_parts(entry, named, keep_data=args.data is not None)
        stages = {"parts": models, "earlier": earlier}
    init_from = start
    if args.init_from is not None:
        from zoo.api import start_from

        init_from, earlier = start_from(args.init_from)
        stages["earlier"] = {**earlier, **stages.get("earlier", {})}
    folder = args.resume or args.run
    ships = own is None and data is None and args.data is None and not named and not entry.overlays
    try:
        training = Run(
            {**entry.for_training(), "own_data": ships}, rest, allow=entry.allow, folder=folder,
            resume=args.resume is not None, init_from=init_from, **stages, **from_python,
        )  # fmt: skip
    except ConfigError as error:
        if args.resume is None or str(error).startswith(("unknown option", "option ")):
            raise
        raise of_another_model(rest, error) from error
    training.taken_over = "; ".join(filter(None, (recipe, training.taken_over)))
    return training


def _for_place(entry: Entry, rest: Sequence[str], recipe: str, *, same: bool) -> tuple[Entry, str]:
    """Return the entry with its ``gpu`` block, where the run is to take that, and what to say of it.

    Args:
        entry: of the registry.
        rest: what was typed after the command, among which may be where to run.
        recipe: see `zoo.recipes.RECIPES`.
        same: whether the recipe is the entry's own, on the entry's data, begun anew.
    """
    if not same:
        if recipe == "gpu":
            raise ZooError(
                "--recipe gpu is of an entry on its own data: leave out --resume, --config and --data, or --recipe"
            )
        return entry, ""
    if not wanted(recipe, entry.gpu, bool(entry.gpu) and recipe == "auto" and _on_gpu(rest)):
        return entry, ""
    parts = {k: getattr(entry, k) for k in ("model", "data", "trainer", "training")}
    said = f"the recipe of {entry.name} for a GPU: {words(entry.gpu)}; --recipe cpu takes the one without"
    return dataclasses.replace(entry, **merged(parts, entry.gpu)), said


def _on_gpu(rest: Sequence[str]) -> bool:
    """Tell whether a run with these options is on a GPU."""
    typed = [w.partition("=")[2] or "".join(rest[i + 1 : i + 2]) for i, w in enumerate(rest)
             if w.partition("=")[0] == "--trainer.accelerator"]  # fmt: skip
    if typed and typed[-1] not in ("auto", "gpu", "cuda"):
        return False
    import torch

    return torch.cuda.is_available()


def _with_data(entry: Entry, rest: list[str], data: Mapping[str, Any], *, resume: bool) -> tuple[Entry, list[str]]:
    """Return the entry with other data, whose place in a run that is gone on with options take."""
    given = dict(data.get("init_args") or {})
    if resume:
        changed = {**given, **({"sha256": None} if "path" in given else {})}
        return entry, [*rest, *(w for k, v in changed.items() for w in (f"--data.{k}", json.dumps(v).strip('"')))]
    takes = inspect.signature(class_of(data["class_path"], tuple(entry.allow))).parameters
    kept = {k: v for k, v in (entry.data.get("init_args") or {}).items() if k in ("batch_size", "seed") and k in takes}
    return dataclasses.replace(entry, data={**data, "init_args": {**kept, **given}}), rest


def _announce(training: Any) -> None:
    """Say where the run goes, how long it is, and what it writes when."""
    from zoo.callbacks.pictures import first_picture

    settings = training.settings
    examples = training.data.batch_size * training.world * training.accumulate
    first = first_picture(settings.sample_every)
    pictures = f"pictures at step {first}, then every {settings.sample_every:,}" if first else "pictures at the end"
    if training.taken_over:
        print(f"zoo: {training.taken_over}", file=sys.stderr)
    goes = "goes on in" if training.resume else "goes into"
    print(
        f"zoo: the run {goes} {training.folder}: {_several(training.total, 'step')} of "
        f"{_several(examples, 'example')}\n"
        f"zoo: it writes metrics.csv every {_several(settings.log_every, 'step')}, {pictures}, checkpoints every "
        f"{settings.checkpoint_every:,}; all of them at the end, a checkpoint on Ctrl-C too",
        file=sys.stderr,
    )


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _cost_lines(cost: Mapping[str, Any]) -> str:
    """Return what a training would cost, for people."""
    tflop = cost["training_tflop"]
    compute = f"{tflop:.4g} TFLOP" if tflop is not None else "not known, as that of an earlier stage is not"
    if "stages" in cost:
        known = (f"{name} {'unknown' if v is None else f'{v:.4g}'}" for name, v in cost["stages"].items())
        compute += f", all stages together: {', '.join(known)}"
    return "\n".join(
        [
            f"{cost['name']}: {_several(cost['steps'], 'step')}",
            f"  compute     {compute}",
            f"  parameters  {cost['parameters']:,}; a checkpoint has {cost['checkpoint_megabytes']:.3g} MB",
            f"  time        about {cost['estimated_minutes']:.3g} minutes, {cost['seconds_per_step']:.3g} s a step "
            f"as {cost['measured_steps']} steps here took, pictures and checkpoints not counted",
            f"  hardware    {cost['hardware']}, {cost['devices']} device{'s' * (cost['devices'] > 1)}",
        ]
    )


@contextlib.contextmanager
def _one_interrupt(training: Any) -> Iterator[None]:
    """Let a Ctrl-C that follows one which has ended the training change nothing: the message is still to be printed."""

    def receive(number: int, frame: Any) -> None:
        if training.stopping is None:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, receive) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _first_process() -> bool:
    """Tell whether this is the first process of the run: the others find the folder that it has made."""
    return next((os.environ[k] for k in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if k in os.environ), "0") == "0"


def _check_folders(args: argparse.Namespace) -> None:
    if args.resume is not None and args.run is not None:
        raise RunError("--resume continues in its own folder; leave --run out")
    if args.run == "" or args.resume == "":
        raise RunError(f"--{'run' if args.run == '' else 'resume'} takes the name of a folder, and got an empty one")
    if args.resume is not None and not (Path(args.resume) / "config.yaml").is_file():
        of = _run_of(Path(args.resume))
        raise RunError(
            f"{args.resume} is not a run folder: it has no config.yaml; zoo fit --model NAME starts a new run"
            if of is None
            else f"{args.resume} is in the run {of}, which goes on from its newest checkpoint: --resume {of}"
        )
    if args.resume is not None and args.config is not None:
        raise RunError(f"--resume goes on with the configuration that is in {args.resume}; leave --config out")
    if args.resume is not None and args.data is not None:
        raise RunError(
            f"--resume goes on with the data of the run; leave --data out, or start a new run from its weights: "
            f"zoo fit --model NAME --data {args.data} --init_from {args.resume}"
        )
    if args.resume is not None and args.init_from is not None:
        raise RunError("--resume goes on with the weights that are in the checkpoint; leave --init_from out")
    if args.run is not None and _first_process() and Path(args.run).exists():
        raise RunError(
            f"the folder {args.run} exists already; name a new one, or go on in it with zoo fit --resume {args.run}"
        )


def _run_of(path: Path) -> Path | None:
    """Return the run folder that a path is in, such as that of a checkpoint; None where there is none above it."""
    return next((up for up in [*path.parents][:2] if (up / "config.yaml").is_file() and path.exists()), None)


def _check_same_model(args: argparse.Namespace, entry: Entry) -> None:
    """Refuse another model than the one that is gone on with. Raises `RunError`."""
    saved = _read_config(str(Path(args.resume) / "config.yaml")).get("name")
    if args.model is not None and args.model != saved and entry.name != saved:
        raise RunError(
            f"{args.resume} is a run of {saved}, and --resume goes on with that; leave --model {args.model} out, or "
            f"start a new run: zoo fit --model {args.model}"
        )


def named_parts(
    entry: Entry, rest: Sequence[str], registry: Sequence[str] = (), *, resume: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Return the trained parts that are named, as the model's class declares them, and the arguments that are left.

    Raises:
        ZooError: a part is named that the model does not take, or that a run which is resumed has already.
    """
    parts = declared(entry.model["class_path"], tuple(entry.allow))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    _add_parts(parser, parts)
    try:
        found, left = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise ZooError(f"{error.argument_name}: {error.message}: a run folder or a name such as vae-mnist") from error
    named = {part: which for part, which in vars(found).items() if which is not None}
    if named and resume:
        part = next(iter(named))
        raise RunError(f"--resume goes on with the {part} that is in the checkpoint; leave --{part} out")
    _check_not_taken(entry, parts, left, registry)
    return named, left


def _add_parts(parser: argparse.ArgumentParser, parts: Mapping[str, TrainedPart]) -> None:
    for part, declaration in parts.items():
        text = f"the trained model that it builds on: it is {declaration.what}, such as {declaration.example}"
        parser.add_argument(f"--{part}", metavar="NAME|RUN", help=text.replace("%", "%%"))


def _check_not_taken(
    entry: Entry, parts: Mapping[str, TrainedPart], rest: Sequence[str], registry: Sequence[str]
) -> None:
    """Refuse the trained part of other models by its name; what else is unknown is the next parser's to say."""
    for word in rest:
        option = word.partition("=")[0].removeprefix("--")
        if not word.startswith("--") or "." in option or option in RESERVED | set(parts):
            continue
        takers = declared_by(load_registry(*registry), option)
        if takers:
            takes = f"takes only {', '.join(f'--{part}' for part in parts)}" if parts else "builds on no trained model"
            raise ZooError(
                f"{entry.name} takes no --{option}: it {takes}; --{option} is an option of {', '.join(takers)}"
            )


def show_help(args: argparse.Namespace) -> NoReturn:
    """Print the options, where a model is named its trained parts and all options of its training too, and leave."""
    parser = args.parser
    if args.model is None and args.config is None and getattr(args, "resume", None) is None:
        parser.print_help()
        parser.exit()
    entry, _ = entry_of(args, getattr(args, "resume", None))
    parts = declared(entry.model["class_path"], tuple(entry.allow))
    if hasattr(args, "resume"):
        _add_parts(parser.add_argument_group(f"trained models that {entry.name} builds on"), parts)  # type: ignore[arg-type]
    parser.print_help()
    from zoo._cli.arguments import options_of, shown

    print(f"\nwhat can be typed, with the value that {entry.name} has there (null: none, or Lightning's own choice)")
    for group, options in options_of(entry).items():
        print(f"\n{_GROUPS[group]}:\n{shown(options)}")
    parser.exit()
