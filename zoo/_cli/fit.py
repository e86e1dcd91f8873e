"""``zoo fit``: resolve the name before anything heavy is imported, then train."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import RunError, ZooError
from zoo.registry import Entry, load_registry, plain_yaml
from zoo.spec import is_spec

OPTIONS = """options of the model, the data and the trainer follow as --model.X, --data.X, --trainer.X, --training.X:
  zoo fit --model vae --model.beta 2 --data.batch_size 256 --trainer.devices 2 --training.ema 0.9995
  zoo fit --model NAME --help lists them all, with the defaults of NAME;
  --print_config prints the whole configuration; --config FILE runs a saved one again"""

_MAX_BYTES = 2_000_000


_PICTURES = ("samples.png", "samples.gif", "samples.txt", "samples.wav", "features.png", "loss.png")


def add_arguments(parser: argparse.ArgumentParser, *, resume: bool = True) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = OPTIONS
    parser.add_argument("--model", metavar="NAME", help="a name of the registry (zoo list)")
    parser.add_argument("--data", metavar="NAME", help="other data than the entry's, such as binary_mnist_threshold")
    parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    parser.add_argument("--config", metavar="FILE", help="a configuration, such as a run's config.yaml")
    if resume:
        parser.add_argument(
            "--run", metavar="DIR", help="the run folder, which must not exist (default: a new one under runs/)"
        )
        parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
        parser.add_argument("--init_from", metavar="NAME", help="start from the weights of this model (fine-tuning)")
        parser.add_argument(
            "--autoencoder", metavar="RUN|NAME", help="the trained autoencoder whose codes a prior is fitted to"
        )
        parser.add_argument("--teacher", metavar="RUN|NAME", help="the trained model from which this one is distilled")
        parser.add_argument(
            "--budget", metavar="COMPUTE", help="stop after this much training compute, such as 50TFLOP"
        )
        parser.add_argument("--dry_run", action="store_true", help="print what the training would cost, and stop")


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
    entry = registry.resolve(name)
    if args.data is not None:
        spec = registry.data_spec(args.data)
        kept = {k: v for k, v in (entry.data.get("init_args") or {}).items() if k in ("batch_size", "seed")}
        entry = dataclasses.replace(entry, data={**spec, "init_args": {**kept, **spec["init_args"]}})
    return entry, rest


def _read_config(path: str) -> dict[str, Any]:
    import yaml

    try:
        size = Path(path).stat().st_size
        if size > _MAX_BYTES:
            raise ZooError(f"configuration {path} has {size:,} bytes, more than the {_MAX_BYTES:,} that one may have")
        content = plain_yaml(Path(path).read_text(encoding="utf-8"))
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


def run(args: argparse.Namespace) -> int:
    _check_folders(args)
    entry, rest = entry_of(args, args.resume)
    part = _check_parts(args, entry)
    if args.budget is not None:
        rest += ["--training.budget", args.budget]
        if not any(a.startswith("--trainer.max_steps") for a in rest):
            rest += ["--trainer.max_steps", "-1"]
    from zoo.training.fit import Run, Stopped

    stages: dict[str, Any] = {}
    if part is not None:
        from zoo.api import second_stage

        entry, model, earlier = second_stage(entry, getattr(args, part), part=part, keep_data=args.data is not None)
        stages = {"parts": {part: model}, "earlier": earlier}
    init_from = None
    if args.init_from is not None:
        from zoo.hub import load

        init_from = load(args.init_from)
    folder = args.resume or args.run
    plain = {
        k: v for k, v in dataclasses.asdict(entry).items() if k in ("name", "model", "data", "trainer", "training")
    }
    training = Run(
        plain, rest, allow=entry.allow, folder=folder, resume=args.resume is not None, init_from=init_from, **stages
    )
    if args.dry_run:
        print(json.dumps(training.estimate(), indent=2))
        return 0
    try:
        done = training.start()
    except Stopped as stop:
        kept = training.folder
        print(f"zoo: {stop}; the checkpoint is in {kept}/checkpoints. Go on with: zoo fit --resume {kept}")
        return 143 if stop.signal_name == "SIGTERM" else 130
    pictures = [f"{done}/{name}" for name in _PICTURES if (done / name).is_file()]
    print(f"zoo: the run is in {done}" + (f"; look at {' and '.join(pictures)}" if pictures else ""))
    return 0


def _first_process() -> bool:
    """Tell whether this is the first process of the run: the others find the folder that it has made."""
    return next((os.environ[k] for k in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if k in os.environ), "0") == "0"


def _check_folders(args: argparse.Namespace) -> None:
    if args.resume is not None and args.run is not None:
        raise RunError("--resume continues in its own folder; leave --run out")
    if args.resume is not None and not (Path(args.resume) / "config.yaml").is_file():
        raise RunError(
            f"{args.resume} is not a run folder: it has no config.yaml; zoo fit --model NAME starts a new run"
        )
    if args.run is not None and _first_process() and Path(args.run).exists():
        raise RunError(
            f"the folder {args.run} exists already; name a new one, or go on in it with zoo fit --resume {args.run}"
        )


_PARTS = {
    "autoencoder": ("a prior over the codes of a trained autoencoder", "vq_vae-mnist"),
    "teacher": ("distilled from a trained model", "flow_matching-mnist"),
}


def _check_parts(args: argparse.Namespace, entry: Entry) -> str | None:
    """Hold a model that builds on a trained one to be given one, and return the name of that part."""
    given = [part for part in _PARTS if getattr(args, part) is not None]
    if given and args.resume is not None:
        raise RunError(f"--resume goes on with the {given[0]} that is in the checkpoint; leave --{given[0]} out")
    if len(given) > 1:
        raise ZooError("no model builds on both an autoencoder and a teacher; leave --autoencoder or --teacher out")
    if given or args.resume is not None or args.init_from is not None or args.dry_run:
        return given[0] if given else None
    for part, (what, example) in _PARTS.items():
        if (entry.model.get("init_args") or {}).get(part) is not None:
            raise ZooError(f"{entry.name} is {what}; name it with --{part}, a run folder or a name such as {example}")
    return None
