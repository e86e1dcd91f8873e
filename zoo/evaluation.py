"""(model, data) -> `Result`: likelihood where there is one, distances of samples where an extractor fits the data.

Samples and the noise of bounds are drawn in chunks, each with a seed of its own, so that a result depends on (seed,
batch size) and not on what was drawn before.
"""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from zoo import results
from zoo.errors import ConfigError, ResultError
from zoo.metrics import fidelity as digits
from zoo.metrics.classifier import SHA256, DigitClassifier
from zoo.metrics.distribution import ESTIMATORS, Estimate, accuracy
from zoo.model import GenerativeModel, LikelihoodModel
from zoo.results import Cost, Data, Identity, Metric, Protocol, Result

if TYPE_CHECKING:
    from zoo.data.base import TensorData

__all__ = ["DIGITS", "measure"]

DIGITS = ("mnist", "binary_mnist", "binary_mnist_threshold")
"""Data sets that the digit classifier is a sensible extractor for."""

_ROWS = 2_000  # images times importance samples at a time
_IMAGES = 100
_FLOOR_SEED = 0


def measure(
    model: GenerativeModel,
    data: TensorData,
    *,
    name: str | None = None,
    weights_sha256: str | None = None,
    samples: int = 10_000,
    seed: int = 0,
    k: int | None = None,
    batch_size: int = 250,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any] | None = None,
    ema: bool | None = None,
    quick: bool = False,
    command: str = "",
    out: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Evaluate a model on the test split of ``data``.

    Likelihoods are bits/dim for 8-bit data and nats per example else, averaged over all test examples. Distances are
    those of `zoo.metrics.fidelity` between ``samples`` samples and all test images, for grey 28x28 digits; binary
    digits are compared with the binary test split through the same classifier.

    Args:
        model: on any device; it is put into eval mode meanwhile.
        data: a data module with `split`, `digest`, `to_float`, `transform`.
        name: to be recorded; by default that of the model's source.
        weights_sha256: of the weights as they are or would be saved; by default that of the model's source.
        samples: how many to draw.
        seed: of samples and bounds.
        k: importance samples of the likelihood, by default 1; with more, the bound of one is reported too.
        batch_size: samples drawn at a time.
        limit: take only the first so many test examples for the likelihood.
        options: sampling options of the family.
        cost: facts about training: ``training_tflop``, and whatever else is to be kept.
        ema: whether the weights are averaged ones.
        quick: mark the result as made with less than the protocol of the tables.
        command: that makes this result again, to be recorded.
        out: folder (or .json file) to write the result to.
        progress: show bars for what takes longer than two seconds.

    Raises:
        DataError: the data do not fit the model.
        ConfigError: a number that is not positive, or an unknown sampling option.
        ResultError: too few samples, samples or likelihoods that are not finite, or nothing to measure.
    """
    _check_numbers(samples=samples, k=k, batch_size=batch_size, limit=limit)
    model.accepts(data.shape, data.levels)
    compared = data.name in DIGITS
    if compared and samples < DigitClassifier.features_dim:
        raise ResultError(
            f"{samples} samples are too few for features of {DigitClassifier.features_dim} dimensions; "
            f"take at least {DigitClassifier.features_dim}, and 10,000 for numbers that compare"
        )
    if not compared and not isinstance(model, LikelihoodModel):
        raise ResultError(
            f"{type(model).__name__} has no likelihood, and samples are compared by features only for "
            f"{', '.join(DIGITS)}, so there is nothing to measure on {data.name}"
        )
    training = model.training
    model.eval()
    try:
        protocol: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "ema": ema, "quick": quick}
        protocol |= {"conditional": model.num_classes > 0, "sampler": {**model.sampling_options(), **(options or {})}}
        metrics: dict[str, Estimate] = {}
        floor: dict[str, Estimate] = {}
        if isinstance(model, LikelihoodModel):
            metrics |= _likelihood(model, data, k or 1, seed, limit, protocol, progress)
        drawn = samples if compared else min(samples, batch_size)
        x, asked, times = _draw(model, drawn, seed, batch_size, options or {}, progress)
        if compared:
            found, floor = _compare(x, asked, data, protocol, progress)
            metrics |= found
    finally:
        model.train(training)
    result = Result(
        identity=_identity(model, name, weights_sha256),
        data=_data(data),
        protocol=Protocol(**protocol),
        metrics={n: Metric(*m) for n, m in metrics.items()},
        floor={n: Metric(*floor[n]) for n in metrics if n in floor},
        cost=_cost(model, times, cost or {}),
        versions=_versions(),
        command=command,
    )
    result.to_dict()  # checks it
    if out is not None:
        results.write(result, out)
    return result


# -- likelihood -------------------------------------------------------------------------------------------------------


def _likelihood(
    model: LikelihoodModel, data: TensorData, k: int, seed: int, limit: int | None, protocol: dict[str, Any], bar: bool
) -> dict[str, Estimate]:
    """Return the likelihood with k importance samples, and with one where that is another bound; fill the protocol."""
    stored, labels = (part[:limit] for part in data.split("test"))
    size = min(_IMAGES, max(1, _ROWS // k))
    protocol |= {"likelihood": model.likelihood(k), "k": k}
    protocol |= {"likelihood_examples": len(stored), "likelihood_batch_size": size}
    unit = "nats" if data.levels in (None, 2) else "bits_per_dim"
    scale = 1.0 if unit == "nats" else 1 / (math.prod(data.shape) * math.log(2))
    bounds = {unit: k} if model.likelihood(1) == model.likelihood(k) else {unit: k, f"{unit}_{_short(model)}": 1}
    found: dict[str, Estimate] = {}
    for name, samples in bounds.items():
        chunks = list(zip(stored.split(size), labels.split(size), strict=True))
        steps = tqdm(chunks, model.likelihood(samples), delay=2, leave=False, disable=not bar)
        seeds = _seeds(seed, len(chunks))
        nll = -scale * torch.cat(
            [_log_prob(model, data, *chunk, samples, s) for chunk, s in zip(steps, seeds, strict=True)]
        )
        if not bool(nll.isfinite().all()):
            bad = int((~nll.isfinite()).sum())
            raise ResultError(f"log_prob of {bad} of {len(nll)} test examples is NaN or infinite; look into the model")
        error = float(nll.std()) / math.sqrt(len(nll)) if len(nll) > 1 else None
        found[name] = (float(nll.mean()), error, None)
    return found


def _short(model: LikelihoodModel) -> str:
    return model.likelihood(1).replace("+", "_").replace("-", "_")


@torch.no_grad()
def _log_prob(model: LikelihoodModel, data: TensorData, stored: Tensor, labels: Tensor, k: int, seed: int) -> Tensor:
    """Return log p(x) on the CPU, float64; that of a conditional model is log p(x | y), with the labels of the data."""
    x = data.to_float(stored, model.dtype).to(model.device)
    given = {"labels": labels.to(model.device)} if model.num_classes else {}
    return model.log_prob(x, k=k, seed=seed, **given).double().cpu()


# -- samples ----------------------------------------------------------------------------------------------------------


def _draw(
    model: GenerativeModel, n: int, seed: int, batch_size: int, options: Mapping[str, Any], bar: bool
) -> tuple[Tensor, Tensor | None, dict[str, float]]:
    """Return n samples (n, *shape) on the CPU, the labels asked for, samples per second and the latency of one."""
    sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
    asked = torch.arange(n) % model.num_classes if model.num_classes else None
    parts, seconds, start = [], 0.0, 0
    with tqdm(total=n, desc="samples", delay=2, leave=False, disable=not bar) as progress:
        for size, chunk_seed in zip(sizes, _seeds(seed, len(sizes)), strict=True):
            given = {"labels": asked[start : start + size].to(model.device)} if asked is not None else {}
            start += size
            begin = time.perf_counter()
            parts.append(model.sample(size, seed=chunk_seed, **given, **options).float().cpu())
            seconds += time.perf_counter() - begin
            progress.update(size)
    x = torch.cat(parts)
    if not bool(x.isfinite().all()):
        bad = int((~x.flatten(1).isfinite().all(1)).sum())
        raise ResultError(f"{bad} of {n} samples hold NaN or infinity; the model has diverged")
    begin = time.perf_counter()
    model.sample(1, seed=seed, **options).cpu()
    return x, asked, {"samples_per_second": n / seconds, "latency_seconds": time.perf_counter() - begin}


def _compare(
    x: Tensor, asked: Tensor | None, data: TensorData, protocol: dict[str, Any], bar: bool
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Return the metrics of the samples, and those of as many training images; fill the protocol."""
    stored = data.split("test")[0]
    digest = data.digest("test")
    real = digits.cached(
        "features", (data.name, digest, len(stored)),
        lambda: digits.digit_features(data.to_float(stored), progress=bar, what="test features"),
    )  # fmt: skip
    protocol |= {"samples": len(x), "reference": len(stored), "quantised": data.levels}
    protocol |= {"extractor": DigitClassifier.name, "extractor_sha256": SHA256}
    subset = min(ESTIMATORS["kid_subset_size"], len(x), len(stored))
    protocol["estimators"] = {**ESTIMATORS, "kid_subset_size": subset}
    drawn = digits.digit_features(digits.quantise(x, data.levels), progress=bar, what="sample features")
    found = digits.fidelity(drawn, real, progress=bar)
    if asked is not None:
        found["accuracy"] = accuracy(drawn["logits"], asked)
    return found, _floor(data, len(x), digest, real, bar)


def _floor(data: TensorData, n: int, digest: str, real: dict[str, Tensor], bar: bool) -> dict[str, Estimate]:
    """Return the metrics of n training images, drawn with a fixed seed; none if there are fewer than n."""
    images = data.read("train")[0]  # not `split`, which a limit may have cut
    if len(images) < n:
        return {}
    generator = torch.Generator().manual_seed(_FLOOR_SEED)
    x = data.transform(images[torch.randperm(len(images), generator=generator)[:n]], generator)
    key = (data.name, digest, len(real["features"]), hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest(), n)

    def compute() -> dict[str, Tensor]:
        features = digits.digit_features(data.to_float(x), progress=bar, what="floor features")
        return {name: _packed(m) for name, m in digits.fidelity(features, real, progress=bar).items()}

    found = digits.cached("floor", key, compute)
    return {name: tuple(None if math.isnan(v) else v for v in m.tolist()) for name, m in found.items()}


def _packed(estimate: Estimate) -> Tensor:
    return torch.tensor([math.nan if v is None else v for v in estimate], dtype=torch.float64)


# -- facts ------------------------------------------------------------------------------------------------------------


def _seeds(seed: int, n: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    return iter(torch.randint(2**62, (n,), generator=generator).tolist())


def _identity(model: GenerativeModel, name: str | None, sha256: str | None) -> Identity:
    source = model.source
    return Identity(
        name=name or source.name or source.repo or type(model).__name__,
        family=model.family or type(model).__name__.lower(),
        weights_sha256=sha256 or source.sha256 or "",  # the schema refuses weights without identity
        spec=model.spec,
    )


def _data(data: TensorData) -> Data:
    n = len(data.split("test")[0])
    return Data(data.name, "test", data.digest("test"), n, list(data.shape), data.levels)


def _cost(model: GenerativeModel, times: Mapping[str, float], given: Mapping[str, Any]) -> Cost:
    own = {k: given[k] for k in ("training_tflop",) if given.get(k) is not None}
    measured = {"parameters", "network_calls_per_sample", *times}
    extra = {k: v for k, v in given.items() if k not in own and k not in measured and v is not None}
    kept = {**extra.pop("training", {}), **extra}
    return Cost(
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        network_calls_per_sample=model.calls_per_sample, hardware=_hardware(model.device), training=kept,
        **own, **times,
    )  # fmt: skip


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # another system; the architecture's name must do
    return f"{name}, {torch.get_num_threads()} thread(s)"


def _versions() -> dict[str, str]:
    names = ("generative-zoo", "torch", "lightning", "torch-fidelity", "numpy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}


def _check_numbers(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} must be a positive integer, got {value!r}")
