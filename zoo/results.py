"""What an evaluation leaves behind: numbers, each with the protocol that made it, as versioned JSON.

A result is checked when it is written and when it is read: every field has its type, no number is NaN or infinite,
and a file of a newer schema is refused rather than half understood. A file of an older schema is read through
`MIGRATIONS`, one version at a time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ResultError, close_matches
from zoo.files import open_regular, write_whole

__all__ = [
    "FILE",
    "FILES",
    "MIGRATIONS",
    "SCHEMA",
    "SPLITS",
    "Cost",
    "Data",
    "Identity",
    "Metric",
    "Protocol",
    "Result",
    "file_of",
    "read",
    "read_json",
    "write",
]

SCHEMA = 2
FILE = "eval.json"
FILES = {"test": FILE, "validation": "eval-validation.json"}
"""Split -> the file of its result: what was measured to choose by never takes the place of what is published."""
SPLITS = tuple(FILES)
"""What a model is measured on; choices are made on validation examples, and test examples are only evaluated."""

_METRIC = re.compile(r"^[a-z][a-z0-9_]*\Z")
_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,), "bool": (bool,), "int": (int,), "float": (int, float), "None": (type(None),),
    "dict[str, Any]": (dict,), "dict[str, str]": (dict,), "list[int]": (list,), "list[float]": (list,),
}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """What was evaluated.

    Attributes:
        name: of the registry, of a Hub repository, or of a run folder.
        family: vae, gan, autoregressive, ...
        weights_sha256: of the weights file; for weights in memory, of the file they would be saved as.
        spec: the model as plain data.
    """

    name: str
    family: str
    weights_sha256: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Data:
    """What it was evaluated against: the name of the data set, the split, the sha256 and the size of that split."""

    name: str
    split: str
    digest: str
    examples: int
    shape: list[int]
    levels: int | None = None


@dataclass(frozen=True)
class Protocol:
    """Everything that a number depends on besides the weights and the data.

    Attributes:
        seeds: of samples and of stochastic likelihoods; with several, values are means over them.
        batch_size: samples drawn at a time; samples depend on it.
        sampler: every sampling option, defaults included.
        samples: how many were drawn for the distribution metrics, None if there are none of these.
        reference: how many images of the split they were compared with.
        training_reference: how many training images the nearest neighbours were looked for among.
        extractor: name of the feature extractor.
        extractor_sha256: of its weights.
        quantised: grey levels to which samples were rounded before features were taken.
        estimators: constants of KID, IS, precision and recall, density and coverage, nearest neighbours.
        likelihood: exact, elbo, iwae-K, vlb, ode, ais-K, nce, each perhaps with ``+dequant`` or
            ``+variational_dequant``; None if there is none.
        k: importance samples of that likelihood.
        likelihood_examples: how many images of the split it was averaged over.
        likelihood_counting: how a text or a recording was cut into examples, and what each value was given.
        likelihood_solver: of an ODE: solver, steps, and how the trace was taken.
        likelihood_batch_size: images at a time; the noise of a bound depends on it.
        conditional: whether samples or likelihoods are given labels.
        ema: whether the weights are an exponential moving average, None if that is not known.
        quick: made with fewer samples or examples than the protocol of the tables.
        preparation: what was done to the data that their name does not say: how pictures were resized, which shares
            were held out, how training batches were augmented.
    """

    seeds: list[int]
    batch_size: int
    sampler: dict[str, Any] = field(default_factory=dict)
    samples: int | None = None
    reference: int | None = None
    training_reference: int | None = None
    extractor: str | None = None
    extractor_sha256: str | None = None
    quantised: int | None = None
    estimators: dict[str, Any] = field(default_factory=dict)
    likelihood: str | None = None
    k: int | None = None
    likelihood_examples: int | None = None
    likelihood_counting: str | None = None
    likelihood_solver: str | None = None
    likelihood_batch_size: int | None = None
    conditional: bool = False
    ema: bool | None = None
    quick: bool = False
    preparation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A number and how far to trust it.

    Attributes:
        value: finite.
        standard_error: of the value as a mean over independent parts, where that is known.
        spread: standard deviation over subsets that overlap, which is no standard error.
        per_seed: the value of each seed, where there were several.
    """

    value: float
    standard_error: float | None = None
    spread: float | None = None
    per_seed: list[float] | None = None


@dataclass(frozen=True)
class Cost:
    """What the model costs.

    Attributes:
        parameters: trainable numbers.
        training_tflop: 1e12 floating-point operations of training, all stages and players.
        samples_per_second: while the evaluation drew its samples.
        latency_seconds: of one sample, alone.
        network_calls_per_sample: evaluations of the network for a batch of samples.
        hardware: where the times were measured.
        training: further facts about training, as plain data.
    """

    parameters: int
    training_tflop: float | None = None
    samples_per_second: float | None = None
    latency_seconds: float | None = None
    network_calls_per_sample: int | None = None
    hardware: str | None = None
    training: dict[str, Any] = field(default_factory=dict)


_PARTS: dict[str, type] = {"identity": Identity, "data": Data, "protocol": Protocol, "cost": Cost}
_REQUIRED = {"schema", "identity", "data", "protocol", "metrics", "cost", "versions", "command"}


@dataclass(frozen=True)
class Result:
    """One evaluation of one model on one data set.

    Attributes:
        metrics: ``bits_per_dim`` or ``nats`` (lower is better), ``fid``, ``kid``, ``inception_score``, ``precision``,
            ``recall``, ``density``, ``coverage``, ``nearest_ratio`` and ``copied_share`` (see
            `zoo.metrics.neighbours`), ``confident_share``, ``digit_share_0`` ..., and ``accuracy`` of a conditional
            model's samples.
        floor: the same metrics of as many training images as there were samples, against the same split.
        flags: warnings: ``memorised`` where too many samples are too near to training images, ``small_split`` where
            the split has too few examples for numbers that can be told apart.
        versions: of the libraries.
        command: that makes this result again.
    """

    identity: Identity
    data: Data
    protocol: Protocol
    metrics: dict[str, Metric]
    cost: Cost
    floor: dict[str, Metric] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Return the checked JSON form. Raises `ResultError`."""
        content = {"schema": self.schema} | {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "schema"
        }
        for name in _PARTS:
            content[name] = dataclasses.asdict(content[name])
        for name in ("metrics", "floor"):
            content[name] = {k: _without_none(dataclasses.asdict(v)) for k, v in content[name].items()}
        Result.from_dict(content)
        return content

    @classmethod
    def from_dict(cls, content: Any, origin: str = "this result") -> Result:
        """Check the JSON form and return the result. ``origin`` is named in messages. Raises `ResultError`."""
        if not isinstance(content, Mapping) or "schema" not in content:
            raise ResultError(f"{origin} is no evaluation result: it has no 'schema'; make it with `zoo evaluate`")
        schema = content["schema"]
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise ResultError(f"{origin}: schema must be a positive integer, got {schema!r}")
        if schema > SCHEMA:
            raise ResultError(
                f"{origin} has schema {schema}, which is newer than this zoo knows ({SCHEMA}); upgrade generative-zoo"
            )
        _check_finite(content, origin)
        for step in range(schema, SCHEMA):
            content = _migrated(content, step, origin)
        _check_keys(content, {f.name for f in dataclasses.fields(cls)}, _REQUIRED, origin)
        parts: dict[str, Any] = {name: _part(kind, content[name], f"{origin}: {name}") for name, kind in _PARTS.items()}
        for name in ("metrics", "floor"):
            parts[name] = _metrics(content.get(name, {}), f"{origin}: {name}")
        versions = content["versions"]
        if not isinstance(versions, Mapping) or not all(isinstance(v, str) for v in versions.values()):
            raise ResultError(f"{origin}: versions must map names to strings")
        if not isinstance(content["command"], str):
            raise ResultError(f"{origin}: command must be a string, got {content['command']!r}")
        _check_digests(parts, origin)
        flags = content.get("flags", [])
        if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
            raise ResultError(f"{origin}: flags must be a list of strings, got {flags!r}")
        return cls(**parts, flags=list(flags), versions=dict(versions), command=content["command"])


_MAX_BYTES = 10_000_000


def read(path: str | Path) -> Result:
    """Read ``eval.json``, or the one inside a folder. Raises `ResultError`."""
    content, what = read_json(path, FILE, "result")
    result = Result.from_dict(content, what)
    _check_texts(result, what)
    return result


def read_json(path: str | Path, name: str, what: str) -> tuple[Any, str]:
    """Return what a JSON file says, or the one of this name inside a folder, and how a message names it.

    Raises:
        ResultError: it cannot be read, is too large, or is no JSON.
    """
    path = Path(path)
    path = path / name if path.is_dir() else path
    try:
        with open_regular(path) as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ResultError(f"{what} {path} has more than the {_MAX_BYTES:,} bytes that one may have")
        return json.loads(data.decode("utf-8"), parse_constant=float), f"{what} {path}"
    except OSError as error:
        raise ResultError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{what} {path} is not valid JSON: {error}") from error


def file_of(split: str, path: str | Path) -> Path:
    """Return where a result on a split goes: ``path`` where that ends in .json, else its file in that folder."""
    path = Path(path)
    return path if path.suffix == ".json" else path / FILES.get(split, FILE)


def write(result: Result, path: str | Path) -> Path:
    """Write the result's file (into a folder, which is made, unless ``path`` ends in .json) at once or not at all.

    Raises `ResultError` for a result that breaks the schema, before anything is touched.
    """
    path = Path(path)
    path = file_of(result.data.split, path)
    text = json.dumps(result.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        return write_whole(path, text)
    except OSError as error:
        raise ResultError(f"result {path} cannot be written: {error.strerror or error}") from error


def _seeds_as_list(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 knew one seed."""
    protocol = dict(content["protocol"])
    return {**content, "protocol": {"seeds": [protocol.pop("seed")], **protocol}}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _seeds_as_list}
"""Schema -> the step that takes a result of it to the next one."""


def _migrated(content: Mapping[str, Any], step: int, origin: str) -> dict[str, Any]:
    try:
        return {**MIGRATIONS[step](dict(content)), "schema": step + 1}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultError(f"{origin} says schema {step} but cannot be read as one ({error!r})") from error


def _without_none(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in content.items() if v is not None}


_DEEPEST = 64
_LARGEST = 2**64
_LONGEST = 4096


def _check_finite(value: Any, where: str, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ResultError(f"{where} is nested more than {_DEEPEST} levels deep, which is no result")
    if isinstance(value, float) and not math.isfinite(value):
        raise ResultError(f"{where} is {value}, which is no result; evaluate the model again or look into its samples")
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise ResultError(f"{where} is a whole number of more than 64 bits, which is no result")
    if isinstance(value, Mapping):
        for k, v in value.items():
            _check_finite(v, f"{where}: {k}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for v in value:
            _check_finite(v, where, depth + 1)


def _check_texts(result: Result, where: str) -> None:
    """Refuse what a terminal or a page would show as something else: controls, marks of direction, half characters."""
    shown: list[tuple[str, Any]] = [("flags", result.flags), ("versions", result.versions), ("command", result.command)]
    for name in _PARTS:
        part = dataclasses.asdict(getattr(result, name))
        part.pop("spec", None)
        shown += [(f"{name}: {key}", value) for key, value in part.items()]
    for what, value in shown:
        for text in _texts(value):
            if not text.isprintable() or len(text) > _LONGEST:
                raise ResultError(
                    f"{where}: {what} is {text[:40]!a}, which cannot be shown as one line of at most {_LONGEST:,} "
                    f"characters"
                )
    for what, text in (("name", result.identity.name), ("family", result.identity.family), ("data", result.data.name)):
        if not text.strip():
            raise ResultError(f"{where}: {what} is empty")


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in plain data, the keys among them; line ends within nested ones may be."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for k, v in value.items():
            yield from (t.replace("\n", " ").replace("\t", " ") for t in (*_texts(k), *_texts(v)))
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _texts(v)


def _check_keys(content: Mapping[str, Any], known: set[str], required: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise ResultError(f"{where} has an unknown key {key!r}.{close_matches(str(key), known)}")
    for key in sorted(required - set(content)):
        raise ResultError(f"{where} lacks {key!r}")


def _part(kind: type, content: Any, where: str) -> Any:
    """Build one dataclass after its keys and the types of its values have been checked."""
    if not isinstance(content, Mapping):
        raise ResultError(f"{where} must be a mapping, got {type(content).__name__}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    needed = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    _check_keys(content, set(fields), needed, where)
    for name, value in content.items():
        annotation = str(fields[name].type)
        kinds = tuple(k for part in annotation.split(" | ") for k in _KINDS[part])
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if isinstance(value, list):
            wrong |= any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in value)
            wrong |= "list[int]" in annotation and not all(isinstance(v, int) for v in value)
        if wrong:
            raise ResultError(f"{where}: {name} must be of type {annotation}, got {value!r}")
    return kind(**content)


def _metrics(content: Any, where: str) -> dict[str, Metric]:
    if not isinstance(content, Mapping):
        raise ResultError(f"{where} must be a mapping, got {type(content).__name__}")
    for name in content:
        if not isinstance(name, str) or not _METRIC.match(name):
            raise ResultError(f"{where}: {name!r} is no name of a metric")
    return {name: _part(Metric, value, f"{where}: {name}") for name, value in content.items()}


def _check_digests(parts: Mapping[str, Any], where: str) -> None:
    identity, data, protocol = parts["identity"], parts["data"], parts["protocol"]
    named = {"weights_sha256": identity.weights_sha256, "data digest": data.digest}
    if protocol.extractor is not None:
        named["extractor_sha256"] = protocol.extractor_sha256
    for name, digest in named.items():
        if not isinstance(digest, str) or not _SHA256.match(digest):
            raise ResultError(f"{where}: {name} must be 64 hexadecimal digits, got {digest!r}")
