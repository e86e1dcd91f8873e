"""``zoo evaluate NAME|RUN``: measure trained models and write eval.json."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError, UnknownModelError, ZooError, check_choice
from zoo.names import own_folder, parse_name
from zoo.plain_sampling import departures
from zoo.results import SPLITS, file_of

if TYPE_CHECKING:
    from zoo.results import Result

_QUICK = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", nargs="+", metavar="NAME|RUN", help="names, addresses on the Hub, or run folders")
    parser.add_argument("--data", metavar="NAME", help="data set (default: what the model was trained on)")
    parser.add_argument(
        "--split",
        default="test",
        help="test, or validation, on which choices are made: eval-validation.json (default test)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where eval.json goes (default: the run folder, else results/NAME)"
    )
    parser.add_argument("--samples", type=int, help="samples to draw (default: the registry's, else 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of samples and bounds (default 0)")
    parser.add_argument("--seeds", type=int, default=1, help="how many: --seed, --seed + 1 ... (default 1)")
    parser.add_argument("-k", type=int, help="importance samples of the likelihood (default: the registry's)")
    parser.add_argument("--batch_size", type=int, default=250, help="samples at a time (default 250)")
    parser.add_argument(
        "--limit", type=int, help="take only the first so many examples of the split for the likelihood"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{_QUICK} samples and test examples, more where the features have more dimensions; marked in the result",
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="K=V", help="a sampling option, such as temperature=0.9"
    )
    parser.add_argument(
        "--extractor",
        metavar="WHICH",
        help="digits, lite0, inception, random, pca, none, or a class of yours as package.module.Class",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="where samples are guided, chosen or sharpened, measure as many that are simply drawn too",
    )
    parser.add_argument(
        "--other",
        metavar="NAME",
        help="data from which an energy should tell the model's own, such as fashion_mnist (default: the registry's)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    parser.add_argument("--devices", type=int, default=1, help="processes, or GPUs, that share the work (default 1)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    many = len(args.which) > 1
    targets = [_target(which, args.out, many) for which in args.which]
    named = [t for t in targets if isinstance(t, Path)]
    if len(set(named)) < len(named):
        raise ConfigError("two of the models would write the same eval.json; evaluate them one by one, with --out")
    check_choice("split", args.split, SPLITS)
    samples = args.samples
    limit = args.limit if args.limit is not None else _QUICK if args.quick else None

    options = dict(option(text) for text in args.option)
    extractor = _extractor(args.extractor)

    import zoo
    from zoo.devices import chosen_device

    device = chosen_device(args.device)
    found, failed = [], []
    for which, folder in zip(args.which, targets, strict=True):
        try:
            if not isinstance(folder, Path):
                raise folder
            result = zoo.evaluate(
                which, args.data, samples=samples, seed=args.seed, seeds=args.seeds, k=args.k,
                batch_size=args.batch_size, limit=limit, split=args.split, options=options,
                extractor=extractor, other=args.other, plain=args.plain, quick=args.quick, device=device,
                devices=args.devices, out=folder,
            )  # fmt: skip
        except ZooError as error:
            if not many:
                raise
            failed.append(which)
            print(f"zoo: error: {which}: {error}", file=sys.stderr)
            continue
        found.append(result)
        if not args.json:
            print(_short(result))
            print(f"written to {file_of(args.split, folder)}")
    if args.json:
        contents = [result.to_dict() for result in found]
        json.dump(contents[0] if len(args.which) == 1 else contents, sys.stdout, indent=1, ensure_ascii=False)
        print()
    if failed:
        raise ZooError(f"{len(failed)} of {len(args.which)} models were not evaluated: {', '.join(failed)}")
    return 0


def option(text: str) -> tuple[str, Any]:
    """Return name and value of ``name=value``, the value being JSON where it can be. Raises `ConfigError`."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option takes name=value, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _target(which: str, out: str | None, many: bool) -> Path | ZooError:
    """Return the folder of a result; of several models one that is no name costs the others nothing."""
    try:
        return target(which, "results", out=out, many=many)
    except UnknownModelError as error:
        if not many:
            raise
        return error


def _extractor(name: str | None) -> Any:
    """Return the name of an extractor, or an instance of the user's own class."""
    if name is None or "." not in name:
        return name
    import os

    from zoo.spec import build

    sys.path.insert(0, os.getcwd())
    return build({"class_path": name, "init_args": {}}, (name,))


def target(which: str, base: str, inside: str = "", *, out: str | None = None, many: bool = False) -> Path:
    """Return the folder for files about a model, never inside the package: ``out``, its run, or ``base`` / its name.

    Args:
        which: what the user named.
        base: folder for what is not a run.
        inside: folder within a run.
        out: what the user asked for; of several models, each gets a folder of its own in it.
        many: whether there are several models.

    Raises:
        ZooError: no name, or a folder inside the installed package.
    """
    parsed = parse_name(which)
    found = own_folder(parsed, base, inside)
    if out is not None:
        found = Path(out) / (parsed.repo or parsed.short) if many else Path(out)
    package = Path(__file__).resolve().parents[1]
    if package in (found.resolve(), *found.resolve().parents):
        raise ConfigError(f"{found} is inside the installed package, which is not changed; give another --out")
    return found


def _short(result: Result) -> str:
    """Return name and metrics of a result, the floor beside them."""
    protocol, data = result.protocol, result.data
    head = f"{result.identity.name} on the {data.split} split of {data.name}"
    lines = [head + (" (quick)" if protocol.quick else "")]
    for name, metric in result.metrics.items():
        if name.startswith("digit_share"):
            continue
        kind = f" {protocol.likelihood}" if name == "nats" or name.startswith("bits_per_") else ""
        floor = f"   floor {_number(result.floor[name].value)}" if name in result.floor else ""
        error = f" ± {_number(metric.standard_error)}" if metric.standard_error else ""
        error += f" over {len(metric.per_seed)} seeds" if metric.per_seed else ""
        lines.append(f"  {name:<24} {_number(metric.value)}{error}{kind}{floor}")
    lines += [f"  {name:<24} {_number(value)}" for name, value in _costs(result)]
    how = departures(asdict(protocol)) if protocol.samples is not None else []
    if how:
        more = "" if "plain" in protocol.estimators else "; --plain measures the plain sampler too"
        lines.append(f"  {'; '.join(how)}{more}")
    if "small_split" in result.flags:
        lines.append(
            f"  small_split: the {data.split} split has only {data.examples:,} examples, so that small differences "
            "mean nothing"
        )
    if "memorised" in result.flags:
        lines.append(
            f"  memorised: {result.metrics['copied_share'].value:.1%} of the samples are as near to a training image "
            f"as the nearest {protocol.estimators['copied_quantile']:.0%} of unseen images are; look for copies"
        )
    return "\n".join(lines)


def _costs(result: Result) -> list[tuple[str, Any]]:
    names = ("parameters", "training_tflop", "samples_per_second", "network_calls_per_sample")
    return [(n, getattr(result.cost, n)) for n in names if getattr(result.cost, n) is not None]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
