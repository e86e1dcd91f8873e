"""``zoo tune NAME|RUN --grid ...``: choose options on validation data, and keep every trial."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from zoo._cli.evaluate import _extractor, target
from zoo.errors import ConfigError, ZooError, close_matches

OPTIONS = """options of the sampler are tried on trained weights:
  zoo tune ddpm-mnist --grid guidance_scale=1,2,3 steps=20,40 --metric fid
options with a dot are those of zoo fit; each combination is a short training of the recipe:
  zoo tune vae-mnist --grid model.lr=3e-4,1e-3 model.beta=0.5,1 --metric bits_per_dim --budget 4TFLOP
with Optuna (pip install 'generative-zoo[tune]'), so many trials, ranges too:
  zoo tune ddpm-mnist --range guidance_scale=1.0:4.0 --trials 12
Every trial goes into search.json of the run folder, or of results/NAME, at once: the same command goes on after a stop,
and the card of what is pushed from that folder shows the table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = OPTIONS
    parser.set_defaults(parser=parser, rest=[])
    parser.add_argument("which", metavar="NAME|RUN", help="a model with weights, or a recipe where trainings are tried")
    parser.add_argument(
        "--grid", nargs="+", action="extend", default=[], metavar="OPTION=A,B,C", help="values to try, all combinations"
    )
    parser.add_argument(
        "--range", nargs="+", action="extend", default=[], metavar="OPTION=LOW:HIGH[:log]",
        help="numbers between two, which Optuna chooses among; integers where both are",
    )  # fmt: skip
    parser.add_argument("--metric", default="fid", help="what is chosen by, a name in eval.json (default fid)")
    parser.add_argument(
        "--budget", metavar="COMPUTE", help="of the whole search, such as 20TFLOP; trainings get equal parts of it"
    )
    parser.add_argument("--trials", type=int, help="let Optuna propose so many combinations, instead of trying all")
    parser.add_argument("--samples", type=int, default=2_000, help="drawn for each seed (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed of samples and bounds (default 0)")
    parser.add_argument("--seeds", type=int, default=2, help="how many, for the standard error (default 2)")
    parser.add_argument("-k", type=int, help="importance samples of the likelihood (default: the registry's)")
    parser.add_argument("--batch_size", type=int, default=250, help="samples at a time (default 250)")
    parser.add_argument("--limit", type=int, help="take only the first so many examples for the likelihood")
    parser.add_argument("--split", default="validation", help="validation, which is what options are chosen on")
    parser.add_argument("--extractor", metavar="WHICH", help="as in zoo evaluate")
    parser.add_argument("--device", help="cpu, cuda, ... (default cpu)")
    parser.add_argument(
        "--out", metavar="DIR", help="where search.json goes (default: the run folder, or results/NAME)"
    )
    parser.add_argument("--registry", action="append", default=[], metavar="FILE", help="a further registry file")
    parser.add_argument("--json", action="store_true", help="print the trials as JSON, best first")


def run(args: argparse.Namespace) -> int:
    grid: dict[str, Any] = {}
    for words, read in ((args.grid, values), (args.range, between)):
        for word in words:
            name, content = read(word)
            if name in grid:
                raise ConfigError(f"{name} is given twice; name all its values at once")
            grid[name] = content
    foreign = [word for word in args.rest if word.startswith("-") and not word.startswith(_GROUPS)]
    if foreign:
        known = [o for action in args.parser._actions for o in action.option_strings]
        raise ZooError(f"zoo tune: unknown option {foreign[0]!r}.{close_matches(foreign[0], known)}")
    folder = target(args.which, "results", out=args.out)
    extractor = _extractor(args.extractor)
    from zoo.training.fit import Stopped
    from zoo.tuning import tune

    try:
        found = tune(
            args.which, grid, metric=args.metric, budget=args.budget, trials=args.trials, samples=args.samples,
            seed=args.seed, seeds=args.seeds, k=args.k, batch_size=args.batch_size, limit=args.limit,
            extractor=extractor, split=args.split, device=args.device, registry=args.registry, arguments=args.rest,
            out=folder,
        )  # fmt: skip
    except Stopped as stop:
        print(f"zoo: {stop}; finished trials are in {folder / 'search.json'}, the same command goes on")
        return stop.exit_code
    if args.json:
        trials = [{k: v for k, v in dataclasses.asdict(t).items() if v is not None} for t in found.trials]
        print(json.dumps({"file": str(found.file), "left": found.left, "trials": trials}, indent=1, ensure_ascii=False))
        return 0
    print(_shown(found))
    return 0


_GROUPS = ("--model.", "--data.", "--training.", "--trainer.")


def values(text: str) -> tuple[str, list[Any]]:
    """Return option and values of ``option=a,b,c``, each being JSON where it can be. Raises `ConfigError`."""
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise ConfigError(f"--grid takes option=a,b,c, got {text!r}")
    try:
        return name, json.loads(f"[{rest}]")
    except json.JSONDecodeError:
        return name, [_value(part) for part in rest.split(",")]


def between(text: str) -> tuple[str, Any]:
    """Return option and range of ``option=low:high[:log]``. Raises `ConfigError`."""
    from zoo.tuning import Range

    name, equals, rest = text.partition("=")
    parts = rest.split(":")
    ends = [_value(part) for part in parts[:2]]
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends)
    if not equals or not name or len(ends) != 2 or not numbers or parts[2:] not in ([], ["log"]):
        raise ConfigError(f"--range takes option=low:high or option=low:high:log, got {text!r}")
    return name, Range(*ends, log=parts[2:] == ["log"])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _shown(found: Any) -> str:
    """Return the trials, best first, and what to do with the best."""
    best = found.best
    lines = []
    for trial in found.trials:
        error = f" ± {trial.standard_error:.2g}" if trial.standard_error is not None else ""
        lines.append(f"  {trial.metric} {trial.value:.5g}{error}   {_words(trial.options)}")
    lines.append(f"{len(found.trials)} trials on the {best.split} split of {best.data}; best: {_words(best.options)}")
    if found.ties:
        lines.append(f"{len(found.ties)} more are not told apart from it by their standard errors")
    if found.left:
        lines.append(f"{found.left} were not tried, as the budget was spent; the same command with more goes on")
    return "\n".join([*lines, f"written to {found.file}"])


def _words(options: dict[str, Any]) -> str:
    return " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in options.items())
