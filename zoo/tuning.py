"""Search over options on validation data: of the sampler of a trained model, or of short trainings of a recipe.

Every trial is an evaluation like any other, on the validation split, and is recorded in ``search.json`` as soon as it
is done. The same call again takes finished trials from there, and finished pieces of the one that was interrupted.

References:
    J. Bergstra, R. Bardenet, Y. Bengio, B. Kegl, Algorithms for Hyper-Parameter Optimization (the tree-structured
    Parzen estimator, which Optuna proposes by), 2011.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from zoo import searches
from zoo.errors import ConfigError, RegistryError, ResultError, close_matches
from zoo.names import is_run, own_folder, parse_name
from zoo.registry import in_force, load_registry
from zoo.searches import SEARCH, Search, Trial

__all__ = ["Range", "Tuning", "tune"]

Options = dict[str, Any]
_GROUPS = ("model", "data", "training", "trainer")
_LIKELIHOODS = ("bits_per_", "nats")


@dataclass(frozen=True)
class Range:
    """Numbers between two, both included, which Optuna chooses among; integers where both are.

    Attributes:
        log: choose evenly in the logarithm.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only integers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Attributes:
        file: search.json.
        trials: of this search, best first.
        left: combinations that were not tried, as the budget was spent.
        search: all trials in the file.
    """

    file: Path
    trials: list[Trial]
    left: int
    search: Search

    @property
    def best(self) -> Trial:
        """The trial with the best value."""
        return self.trials[0]

    @property
    def ties(self) -> list[Trial]:
        """Further trials that are not told apart from the best by their standard errors."""
        errors = [(self.best.standard_error or 0.0, t.standard_error or 0.0) for t in self.trials]
        within = [(a * a + b * b) ** 0.5 for a, b in errors]
        near = [t.rank - self.best.rank <= width for t, width in zip(self.trials, within, strict=True)]
        return [t for t, tied in zip(self.trials, near, strict=True) if tied and t is not self.best]


def tune(
    which: str | Path,
    grid: Mapping[str, Sequence[Any] | Range],
    *,
    metric: str = "fid",
    budget: str | None = None,
    trials: int | None = None,
    samples: int = 2_000,
    seed: int = 0,
    seeds: int = 2,
    k: int | None = None,
    batch_size: int = 250,
    limit: int | None = None,
    extractor: Any = None,
    split: str = "validation",
    device: str | None = None,
    registry: Sequence[str | Path] = (),
    arguments: Sequence[str] = (),
    out: str | Path | None = None,
    progress: bool = True,
) -> Tuning:
    """Try options on validation data: ``zoo.tune("ddpm-mnist", {"guidance_scale": [1, 2, 3]})``.

    Args:
        which: what `zoo.load` takes; a name of the registry where options of training are tried.
        grid: option -> values. Options of training have a dot in their name, as after ``zoo fit --``: ``model.lr``,
            ``training.ema``, ``data.batch_size``; others are the sampler's. All combinations are tried, the last option
            changing fastest.
        metric: what is chosen by, a name in eval.json: fid, kid, precision, bits_per_dim ...
        budget: compute of the whole search, such as ``"20TFLOP"``. Trainings get equal parts of it; of samplers, which
            have no other limit, no further one is tried when the operations of drawing would exceed it.
        trials: let Optuna propose so many combinations, instead of trying all; grid values may then be a `Range`.
        samples: drawn for each seed.
        seed: the first one.
        seeds: how many; the standard error is over them.
        k: importance samples of a likelihood.
        batch_size: samples drawn at a time.
        limit: take only the first so many examples for a likelihood.
        extractor: as in `zoo.evaluate`.
        split: ``validation``; ``test`` is refused.
        device: where models go.
        registry: further registry files.
        arguments: further arguments of every training, as after ``zoo fit``.
        out: folder of search.json; by default the run folder, else results/NAME.
        progress: show bars.

    Raises:
        ConfigError: an option, a value or a budget that makes no sense, or a search on test data.
        ResultError: the evaluations have no such metric, or a search.json that is none.
        ZooError: what loading, training and `zoo.evaluate` raise.
    """
    if split != "validation":
        raise ConfigError(f"options are chosen on validation data; {split} data are evaluated once, with zoo evaluate")
    _check(grid, metric, budget, trials)
    parsed = parse_name(which, registry=load_registry(*registry))
    folder = Path(out) if out is not None else own_folder(parsed, "results")
    search = searches.read(folder / SEARCH) if (folder / SEARCH).is_file() else Search(str(which))
    how: dict[str, Any] = {
        "samples": samples,
        "seed": seed,
        "seeds": seeds,
        "k": k,
        "batch_size": batch_size,
        "limit": limit,
    }
    how |= {"extractor": extractor, "split": split, "device": device}
    training = any("." in name for name in grid)
    maker = _trainings if training else _samplings
    evaluate = maker(which, grid, metric, budget, trials, how, folder, registry, arguments)
    return _searched(search, folder, _proposals(grid, trials, metric, seed), evaluate, _count(grid, trials), progress)


def _check(grid: Mapping[str, Any], metric: str, budget: str | None, trials: int | None) -> None:
    if not grid:
        raise ConfigError("there is nothing to search: name options and values, such as --grid guidance_scale=1,2,3")
    for name, values in grid.items():
        group, dot, rest = name.partition(".")
        if dot and (group not in _GROUPS or not rest):
            raise ConfigError(f"{name} is no option of a training: these begin with {', '.join(_GROUPS)} and a dot")
        if isinstance(values, Range):
            _check_range(name, values, trials)
        elif len({json.dumps(v) for v in values}) < len(values) or not values:
            raise ConfigError(f"{name} must be given different values, got {json.dumps(list(values))}")
    training = any("." in name for name in grid)
    if training and budget is None:
        raise ConfigError("trainings cost compute: say how much all of them together may, such as --budget 5TFLOP")
    if trials is not None and trials < 1:
        raise ConfigError(f"trials must be a positive integer, got {trials}")
    if budget is not None:
        from zoo.training.settings import parse_budget

        parse_budget(budget)
    if not training and metric.startswith(_LIKELIHOODS):
        raise ConfigError(f"{metric} does not depend on how samples are drawn; choose by fid, kid or another distance")


def _check_range(name: str, values: Range, trials: int | None) -> None:
    if trials is None:
        raise ConfigError(f"a range of {name} has no end of values: say how many trials Optuna may make, by --trials N")
    if not values.low < values.high or (values.log and values.low <= 0):
        raise ConfigError(f"the range of {name} must rise, above zero where it is logarithmic, got {values}")


def _count(grid: Mapping[str, Any], trials: int | None) -> int:
    if trials is not None:
        return trials
    count = 1
    for values in grid.values():
        count *= len(values)
    return count


# -- what is tried ----------------------------------------------------------------------------------------------------

Proposals = Iterator[tuple[Options, Callable[[float], None]]]
"""Combinations to try, each with who is told its value."""


def _proposals(grid: Mapping[str, Any], trials: int | None, metric: str, seed: int) -> Proposals:
    if trials is not None:
        yield from _by_optuna(grid, trials, metric, seed)
        return
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True)), lambda value: None


def _by_optuna(grid: Mapping[str, Any], trials: int, metric: str, seed: int) -> Proposals:
    """Yield what Optuna's tree-structured Parzen estimator proposes; the same for equal seeds and values."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "--trials needs Optuna: pip install 'generative-zoo[tune]'; or try all of a --grid"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    direction: Literal["maximize", "minimize"] = "maximize" if searches.better(metric) == "high" else "minimize"
    study = optuna.create_study(direction=direction, sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        options = {name: _suggested(trial, name, values) for name, values in grid.items()}

        def tell(value: float, trial: Any = trial) -> None:
            study.tell(trial, value)

        yield options, tell


def _suggested(trial: Any, name: str, values: Any) -> Any:
    if not isinstance(values, Range):
        at = trial.suggest_categorical(name, list(range(len(values))))  # values may be lists, which Optuna takes not
        return values[at]
    suggest = trial.suggest_int if values.whole else trial.suggest_float
    return suggest(name, values.low, values.high, log=values.log)


# -- trying -----------------------------------------------------------------------------------------------------------

Evaluate = Callable[[Options, Search, float], "Trial | None"]
"""(options, what was tried before, operations spent) -> the trial, None where the budget does not allow it."""


def _searched(
    search: Search, folder: Path, proposals: Proposals, evaluate: Evaluate, count: int, progress: bool
) -> Tuning:
    """Try what is proposed, and write each trial down before the next one."""
    tried: list[Trial] = []
    spent, left = 0.0, 0
    with tqdm(total=count, desc="trials", unit="trial", disable=not progress, file=sys.stderr, leave=False) as bar:
        for options, tell in proposals:
            trial = evaluate(options, search, spent)
            if trial is None:
                left = count - len(tried)
                break
            spent += float(trial.cost.get("sampling_tflop", 0.0)) * 1e12
            if trial not in search.trials:
                search = replace(search, trials=(*search.trials, trial))
                searches.write(search, folder)
            tried += [trial] if trial not in tried else []
            tell(trial.value)
            bar.set_postfix_str(f"best {trial.metric} {min(tried, key=lambda t: t.rank).value:.4g}")
            bar.update()
    if not tried:
        raise ConfigError("the budget is less than one trial costs; give more, or fewer samples")
    return Tuning(folder / SEARCH, sorted(tried, key=lambda t: t.rank), left, search)


def _samplings(
    which: str | Path, grid: Mapping[str, Any], metric: str, budget: str | None, trials: int | None,
    how: Mapping[str, Any], folder: Path, registry: Sequence[str | Path], arguments: Sequence[str],
) -> Evaluate:  # fmt: skip
    """Return what measures a trained model with one combination of sampling options."""
    if arguments:
        raise ConfigError(f"{arguments[0]} is an option of training; no option of training is searched here")
    from zoo.api import evaluate, weights_digest
    from zoo.hub import load
    from zoo.training.compute import flops_per_sample
    from zoo.training.settings import parse_budget

    model = load(which, device=how["device"])
    for name in grid:
        known = model.sampling_options()
        if name not in known:
            raise ConfigError(
                f"{which} has no sampling option {name!r}.{close_matches(name, known)} It takes: "
                f"{', '.join(known) or 'none'}; options of training are written model.{name}, training.{name} ..."
            )
    defaults, weights = {name: model.sampler({})[name] for name in grid}, weights_digest(model)
    most = parse_budget(budget) if budget is not None else None

    def one(options: Options, search: Search, spent: float) -> Trial | None:
        before = _found(search, options, metric, how, None, weights)
        if before is not None:
            return before
        each = flops_per_sample(model, options)
        cost = each * how["samples"] * how["seeds"]
        if most is not None and spent + cost > most:
            return None
        begin = time.perf_counter()
        result = evaluate(
            which, options=options, quick=True, work=folder, progress=False, **{**how, "limit": how["limit"] or 1}
        )
        facts = {"sampling_tflop": cost / 1e12, "seconds": time.perf_counter() - begin}
        facts["network_calls_per_sample"] = model.calls(options)
        return _trial(result, options, metric, how, facts, defaults=defaults)

    return one


def _trainings(
    which: str | Path, grid: Mapping[str, Any], metric: str, budget: str | None, trials: int | None,
    how: Mapping[str, Any], folder: Path, registry: Sequence[str | Path], arguments: Sequence[str],
) -> Evaluate:  # fmt: skip
    """Return what trains a recipe with one combination of options, and measures what came of it."""
    from zoo.api import evaluate
    from zoo.reproduce import trained
    from zoo.training.settings import parse_budget

    entry = parse_name(which, registry=load_registry(*registry)).entry
    if entry is None:
        raise RegistryError(f"{which} is no recipe of the registry, so options of its training cannot be tried")
    assert budget is not None
    runs = _count({n: v for n, v in grid.items() if "." in n}, None if trials is None else trials)
    part = f"{parse_budget(budget) / runs / 1e12:.6g}TFLOP"
    sampled = not metric.startswith(_LIKELIHOODS)

    def one(options: Options, search: Search, spent: float) -> Trial | None:
        before = _found(search, options, metric, how, part, None)
        if before is not None:
            return before
        own = {n: v for n, v in options.items() if "." in n}
        run = folder / "trials" / hashlib.sha256(json.dumps([own, part], sort_keys=True).encode()).hexdigest()[:12]
        words = [w for n, v in own.items() for w in (f"--{n}", v if isinstance(v, str) else json.dumps(v))]
        words += ["--training.budget", part, *arguments]
        begin = time.perf_counter()
        if run.exists() and not is_run(run):
            shutil.rmtree(run)  # a training that was killed before its first checkpoint
        trained(entry, run, [] if run.exists() else words, {})
        drawn = {n: v for n, v in options.items() if "." not in n}
        given = dict(how) if sampled else {**how, "extractor": "none", "samples": 1}
        given["limit"] = how["limit"] or (1 if sampled else None)
        with in_force(*registry):
            result = evaluate(run, options=drawn, quick=True, work=run, progress=False, **given)
        facts = {"training_tflop": result.cost.training_tflop, "seconds": time.perf_counter() - begin}
        return _trial(result, options, metric, how, facts, budget=part, run=str(run.relative_to(folder)))

    return one


def _found(
    search: Search, options: Options, metric: str, how: Mapping[str, Any], budget: str | None, weights: str | None
) -> Trial | None:
    """Return the trial that was made before, as this one would be."""
    seeds = list(range(how["seed"], how["seed"] + how["seeds"]))
    drawn = None if metric.startswith(_LIKELIHOODS) else how["samples"]
    for trial in search.trials:
        same = (trial.options, trial.metric, trial.seeds, trial.samples, trial.split, trial.budget)
        other = trial.batch_size != how["batch_size"] or (weights is not None and trial.weights_sha256 != weights)
        if same == (options, metric, seeds, drawn, how["split"], budget) and not other:
            return trial
    return None


def _trial(
    result: Any, options: Options, metric: str, how: Mapping[str, Any], cost: Mapping[str, Any], **facts: Any
) -> Trial:
    found = {n: m for n, m in result.metrics.items() if not n.startswith("digit_share")}
    if how["limit"] is None and not metric.startswith(_LIKELIHOODS):
        found = {n: m for n, m in found.items() if not n.startswith(_LIKELIHOODS)}  # of one example
    if metric not in found:
        raise ResultError(
            f"the evaluation has no {metric!r} to choose by.{close_matches(metric, found)} It has: {', '.join(found)}"
        )
    chosen = found.pop(metric)
    return Trial(
        options=dict(options), metric=metric, value=chosen.value, standard_error=chosen.standard_error,
        per_seed=chosen.per_seed, split=result.data.split, data=result.data.name, digest=result.data.digest,
        seeds=list(range(how["seed"], how["seed"] + how["seeds"])),
        samples=None if metric.startswith(_LIKELIHOODS) else how["samples"], batch_size=how["batch_size"],
        extractor=result.protocol.extractor, weights_sha256=result.identity.weights_sha256,
        cost={n: v for n, v in cost.items() if v is not None}, metrics={n: m.value for n, m in found.items()}, **facts,
    )  # fmt: skip
