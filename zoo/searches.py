"""What a search over options leaves behind: trials on validation data, each with what it was measured on and its cost.

``search.json`` is versioned and checked when it is read, as `zoo.results` is. It lies in a run folder, or in the folder
of a model, where the card shows it: nobody has to believe that a choice was made on validation data.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ResultError
from zoo.files import write_whole
from zoo.results import read_json

__all__ = ["SCHEMA", "SEARCH", "Search", "Trial", "better", "parse", "read", "search_table", "write"]

SCHEMA = 1
SEARCH = "search.json"
_HIGH = re.compile(
    r"inception_score|precision|recall|density|coverage|accuracy|confident_share|auroc_\w+|probe_accuracy\w*|"
    r"knn_accuracy\w*|effective_rank"
)
_KINDS: dict[str, tuple[type, ...]] = {
    "options": (dict,), "defaults": (dict,), "metric": (str,), "value": (int, float), "standard_error": (int, float),
    "per_seed": (list,), "split": (str,), "data": (str,), "digest": (str,), "seeds": (list,), "samples": (int,),
    "batch_size": (int,), "extractor": (str,), "weights_sha256": (str,), "budget": (str,), "run": (str,),
    "cost": (dict,), "metrics": (dict,),
}  # fmt: skip


def better(metric: str) -> str:
    """Return ``high`` or ``low``, the direction in which a metric is better."""
    return "high" if _HIGH.fullmatch(metric) else "low"


@dataclass(frozen=True)
class Trial:
    """One combination of options, and what came of it.

    Attributes:
        options: what was tried; of training those with a dot in their name, such as ``model.lr``, of sampling others.
        metric: what is chosen by.
        value: of the metric; with several seeds the mean over them.
        split: the examples that it was measured on.
        data: name of the data set.
        digest: sha256 of the split.
        seeds: of the samples.
        samples: how many for each seed, None where the metric needs none.
        batch_size: samples drawn at a time.
        standard_error: over the seeds, or over examples where the metric is a mean over these.
        per_seed: the value of each seed, where there were several.
        extractor: whose features were compared.
        weights_sha256: of the weights that were sampled, which tells whose options these are.
        budget: of a training, in words, None where nothing was trained.
        run: folder of the training, beside the file.
        defaults: the model's own values of the sampling options that were tried.
        cost: ``training_tflop``, ``sampling_tflop`` (1e12 operations, counted), ``seconds``,
            ``network_calls_per_sample``; what is not known is left out.
        metrics: further metrics of the same samples.
    """

    options: dict[str, Any]
    metric: str
    value: float
    split: str
    data: str
    digest: str
    seeds: list[int]
    samples: int | None = None
    batch_size: int | None = None
    standard_error: float | None = None
    per_seed: list[float] | None = None
    extractor: str | None = None
    weights_sha256: str | None = None
    budget: str | None = None
    run: str | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def protocol(self) -> tuple[Any, ...]:
        """What two trials must share for their values to compare."""
        trained = self.budget is not None
        own = None if trained else self.weights_sha256
        return (self.metric, self.split, self.digest, self.samples, tuple(self.seeds), self.extractor, own, self.budget)

    @property
    def rank(self) -> float:
        """The value with its sign, so that less is better."""
        return -self.value if better(self.metric) == "high" else self.value


@dataclass(frozen=True)
class Search:
    """All trials of a model.

    Attributes:
        name: of the model, as it was asked for.
        trials: in the order in which they were made.
    """

    name: str
    trials: tuple[Trial, ...] = ()

    def groups(self) -> list[list[Trial]]:
        """Return the trials that compare, best first in each group; the groups in the order of their first trials."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(json.dumps([trial.protocol, sorted(trial.options)]), []).append(trial)
        return [sorted(group, key=lambda t: t.rank) for group in found.values()]

    def chosen(self, sampler: Mapping[str, Any], weights_sha256: str | None = None) -> dict[str, Trial]:
        """Return option -> the trial by whose rank a sampler's value of it was chosen on validation data.

        Args:
            sampler: the options in effect, by name.
            weights_sha256: of the weights that are sampled; trials of others tell nothing of them.
        """
        found: dict[str, Trial] = {}
        for group in self.groups():
            best = group[0]
            same = weights_sha256 is None or best.weights_sha256 in (None, weights_sha256)
            if best.split != "validation" or len(group) < 2 or not same:
                continue
            varied = [n for n in best.options if len({json.dumps(t.options.get(n)) for t in group}) > 1]
            found |= {n: best for n in varied if n in sampler and sampler[n] == best.options[n]}
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        trials = [{k: v for k, v in dataclasses.asdict(t).items() if v is not None} for t in self.trials]
        return {"schema": SCHEMA, "name": self.name, "trials": trials}


def parse(content: Any, origin: str = "this search") -> Search:
    """Check the JSON form and return the search. Raises `ResultError`."""
    if not isinstance(content, Mapping) or not isinstance(content.get("schema"), int):
        raise ResultError(f"{origin} is no search: it has no 'schema'; make one with `zoo tune`")
    if content["schema"] != SCHEMA:
        raise ResultError(f"{origin} has schema {content['schema']}, this zoo knows {SCHEMA}; upgrade generative-zoo")
    trials = content.get("trials")
    if not isinstance(content.get("name"), str) or not isinstance(trials, list):
        raise ResultError(f"{origin} must have a name and a list of trials")
    return Search(content["name"], tuple(_trial(t, f"{origin}: trial {i}") for i, t in enumerate(trials, 1)))


def _trial(content: Any, where: str) -> Trial:
    fields = {f.name: f for f in dataclasses.fields(Trial)}
    if not isinstance(content, Mapping):
        raise ResultError(f"{where} must be a mapping, got {type(content).__name__}")
    for name, value in content.items():
        if name not in fields:
            raise ResultError(f"{where} has an unknown key {str(name)[:100]!r}")
        if not isinstance(value, _KINDS[name]) or (isinstance(value, bool) and bool not in _KINDS[name]):
            raise ResultError(f"{where}: {name} must be of type {fields[name].type}, got {str(value)[:100]!r}")
        numbers: Any = value if name in ("per_seed", "seeds") else [value] if isinstance(value, float) else ()
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in numbers):
            raise ResultError(f"{where}: {name} must be finite numbers, got {str(value)[:100]}")
    needed = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    for name in sorted(needed - set(content)):
        raise ResultError(f"{where} lacks {name!r}")
    return Trial(**content)


def read(path: str | Path) -> Search:
    """Read ``search.json``, or the one inside a folder. Raises `ResultError`."""
    return parse(*read_json(path, SEARCH, "search"))


def write(search: Search, folder: str | Path) -> Path:
    """Write ``search.json`` into a folder, at once or not at all. Raises `ResultError`."""
    content = search.to_dict()
    parse(content)
    path = Path(folder) / SEARCH
    try:
        return write_whole(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ResultError(f"search {path} cannot be written: {error.strerror or error}") from error


def search_table(search: Search, sampler: Mapping[str, Any] | None = None) -> str:
    """Return the trials in markdown, a table for each group that compares, best first.

    Args:
        search: what was tried.
        sampler: the options in effect; the row that has them is marked.
    """
    return "\n\n".join(_group_table(group, sampler or {}) for group in search.groups())


def _group_table(group: Sequence[Trial], sampler: Mapping[str, Any]) -> str:
    first = group[0]
    names = sorted({name for trial in group for name in trial.options})
    drawn = f"{first.samples:,} samples for each of seeds {_listed(first.seeds)}" if first.samples else "no samples"
    head = f"{first.metric} on the {first.split} split of {first.data} ({drawn}), {better(first.metric)} is better"
    head += f"; each trained for {first.budget}" if first.budget else ""
    lines = [f"{head}:", "", f"| {' | '.join(names)} | {first.metric} | TFLOP | |", "|" + "---|" * (len(names) + 3)]
    for trial in group:
        error = f" ± {trial.standard_error:.2g}" if trial.standard_error is not None else ""
        cells = [_cell(trial.options.get(name)) for name in names]
        spent = sum(v for k, v in trial.cost.items() if k in ("training_tflop", "sampling_tflop"))
        own = {n: v for n, v in trial.options.items() if "." not in n}
        mark = "in use" if own and all(n in sampler and sampler[n] == v for n, v in own.items()) else ""
        lines.append(f"| {' | '.join(cells)} | {trial.value:.5g}{error} | {spent:.3g} | {mark} |")
    return "\n".join(lines)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "/").replace("\n", " ")[:80]
