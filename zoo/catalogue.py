"""What there is: names filtered and sorted, and what is known of one, by the registry and recorded results."""

from __future__ import annotations

import builtins
import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.bundled import pretrained_folder
from zoo.errors import ConfigError, close_matches
from zoo.registry import Entry, load_registry

if TYPE_CHECKING:
    from zoo.leaderboard.columns import Column
    from zoo.results import Result

__all__ = ["ModelInfo", "bibtex", "info", "list", "select"]

_NUMBERS = (
    "fid", "kid", "frechet_lite0", "density", "sinkhorn", "bits_per_dim", "bits_per_character", "bits_per_sample",
    "nats",
)  # fmt: skip

_OF_ENTRY: dict[str, Callable[[Entry], Any]] = {
    "name": lambda e: natural(e.name),
    "family": lambda e: e.family,
    "dataset": lambda e: (e.dataset, e.family),
    "year": lambda e: int(e.paper.get("year", 0)) or None,
}
"""Facts of an entry that names can be sorted by; the others are columns of the leaderboard."""


def natural(text: str) -> tuple[Any, ...]:
    """Return a key by which numbers in names are ordered as numbers: ``vq_vae2`` after ``vq_vae``, 9 before 10."""
    return tuple((part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", text) if part)


def list(
    pattern: str = "*",
    *,
    family: str | None = None,
    dataset: str | None = None,
    pretrained: bool | None = None,
    exclude_filters: str | Iterable[str] = (),
    sort: str | None = None,
) -> builtins.list[str]:
    """Return registered names: ``zoo.list("*mnist*", pretrained=True, exclude_filters="*_cond*", sort="fid")``.

    Args:
        pattern: shell wildcard over names.
        family: only this family (vae, gan, autoregressive, ...).
        dataset: only models of this data set.
        pretrained: only names with (True) or without (False) weights.
        exclude_filters: a wildcard, or several, over names that are left out.
        sort: ``name``, ``family``, ``dataset``, ``year``, or a column of the leaderboard, such as ``fid``,
            ``likelihood`` (in the data's own unit), ``parameters`` or ``samples_per_second``, the best first: names
            that have no such number come last, in order of the registry, which is the order if left out.

    Raises:
        ConfigError: a pattern that is no string, or nothing that can be sorted by.
    """
    entries = select(
        pattern, family=family, dataset=dataset, pretrained=pretrained, exclude_filters=exclude_filters, sort=sort
    )
    return [entry.name for entry in entries]


def select(
    pattern: str = "*",
    *,
    family: str | None = None,
    dataset: str | None = None,
    pretrained: bool | None = None,
    exclude_filters: str | Iterable[str] = (),
    sort: str | None = None,
) -> builtins.list[Entry]:
    """Return the entries that `list` names. Raises as it does."""
    left_out = (exclude_filters,) if isinstance(exclude_filters, str) else tuple(exclude_filters)
    for what, text in (("pattern", pattern), *(("exclude_filters", text) for text in left_out)):
        if not isinstance(text, str):
            raise ConfigError(f"{what} must be a string such as '*mnist*', got {text!r}")
    found = load_registry().find(pattern, family=family, dataset=dataset, pretrained=pretrained)
    found = [e for e in found if not any(fnmatch.fnmatchcase(e.name, text) for text in left_out)]
    return found if sort is None else _sorted(found, sort)


def _sorted(entries: builtins.list[Entry], sort: str) -> builtins.list[Entry]:
    descending = False
    if sort in _OF_ENTRY:
        keys = {e.name: _OF_ENTRY[sort](e) for e in entries}
    else:
        column = _column(sort)
        results = {e.name: result_of(e) for e in entries}
        keys = {name: None if result is None else column.value(result) for name, result in results.items()}
        descending = column.best == "high"
    known = [e for e in entries if keys[e.name] is not None]
    unknown = [e for e in entries if keys[e.name] is None]
    return sorted(known, key=lambda e: keys[e.name], reverse=descending) + unknown


def _column(sort: str) -> Column:
    from zoo.leaderboard.columns import ALIASES, COLUMNS

    name = ALIASES.get(sort, sort)
    if name not in COLUMNS or name in ("name", "family"):
        known = [*_OF_ENTRY, *(key for key in (*COLUMNS, *ALIASES) if key not in (*_OF_ENTRY, "model"))]
        raise ConfigError(
            f"there is no {sort!r} to sort by.{close_matches(str(sort), known)} Known: {', '.join(known)}"
        )
    return COLUMNS[name]


def result_of(entry: Entry) -> Result | None:
    """Return the recorded result of an entry's bundled weights; None where there is none of these weights."""
    from zoo.results import FILE, read

    folder = pretrained_folder(entry.name)
    if not entry.pretrained or not (folder / FILE).is_file():
        return None
    result = read(folder)
    return result if result.identity.weights_sha256 == entry.weights.get("sha256") else None


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a name without loading it.

    Attributes:
        name, family, summary: as in the registry.
        paper: title, authors, year, and arxiv or url.
        dataset: what it is trained on.
        shape: of one example, (C, H, W) for images; None where no weights were measured.
        parameters: trainable numbers; None where no weights were measured.
        pretrained: whether there are weights by this name.
        installed: whether these are on this machine, so that `zoo.load` needs nothing else.
        sha256, bytes: of the file of weights.
        class_names: of the labels 0, 1, ..., where classes have names.
        metrics: name -> value, as measured by the ``protocol``; likelihoods in nats, bits/dim and their like.
        protocol: how: extractor, number of samples, sampler, seed, likelihood, split and data.
        training_tflop: compute of its training, in 1e12 operations.
        recipe: arguments of the Trainer and of the engine.
        model: class and arguments.
        citation: BibTeX.
    """

    name: str
    family: str
    summary: str
    paper: Mapping[str, Any]
    dataset: str
    shape: tuple[int, ...] | None = None
    parameters: int | None = None
    pretrained: bool = False
    installed: bool = False
    sha256: str | None = None
    bytes: int | None = None
    class_names: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    training_tflop: float | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    citation: str = ""

    def __str__(self) -> str:
        numbers = ", ".join(f"{k} {self.metrics[k]:.4g}" for k in _NUMBERS if k in self.metrics)
        weights = "none" if not self.pretrained else "installed" if self.installed else "not on this machine"
        size = "" if self.parameters is None else f", {self.parameters:,} parameters"
        text = f"{self.name} ({self.family}{size}; weights: {weights}): {self.summary}"
        return f"{text}\n  {numbers}" if numbers else text


def info(name: str) -> ModelInfo:
    """Return what is known of a registered name: paper, weights, measured numbers with their protocol, recipe.

    Args:
        name: a name of the registry, a bare model name or a name of before.

    Raises:
        UnknownModelError: no such name.
    """
    from zoo.hub.loading import known_class_names

    entry = load_registry().resolve(name)
    result, folder = result_of(entry), pretrained_folder(entry.name)
    known: dict[str, Any] = {}
    if result is not None:
        known = {
            "shape": tuple(result.data.shape), "parameters": result.cost.parameters,
            "metrics": {key: metric.value for key, metric in result.metrics.items()},
            "protocol": {**asdict(result.protocol), "data": result.data.name, "split": result.data.split},
            "training_tflop": result.cost.training_tflop,
        }  # fmt: skip
    if entry.pretrained and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        classes = int((entry.model.get("init_args") or {}).get("num_classes") or 0)
        known["class_names"] = tuple(config.get("class_names") or known_class_names(entry.name, classes))
    return ModelInfo(
        entry.name, entry.family, entry.summary, dict(entry.paper), entry.dataset, pretrained=entry.pretrained,
        installed=(folder / "model.safetensors").is_file(), sha256=entry.weights.get("sha256"),
        bytes=entry.weights.get("size"), recipe={"trainer": dict(entry.trainer), "training": dict(entry.training)},
        model=dict(entry.model), citation=bibtex(entry.paper) if entry.paper else "", **known,
    )  # fmt: skip


def bibtex(paper: Mapping[str, Any]) -> str:
    """Return a paper of the registry as BibTeX."""
    first = re.split(r",| and ", paper["authors"])[0].split()[-1].lower()
    word = next((w for w in re.findall(r"[A-Za-z]+", paper["title"]) if len(w) > 3), "paper").lower()
    fields = {"title": paper["title"], "author": paper["authors"].replace(", ", " and "), "year": paper["year"]}
    if "arxiv" in paper:
        fields |= {"eprint": paper["arxiv"], "archivePrefix": "arXiv"}
    elif "url" in paper:
        fields["url"] = paper["url"]
    body = ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items())
    return f"@misc{{{first}{paper['year']}{word},\n{body}\n}}"
