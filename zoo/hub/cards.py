"""What a model card says: paper, samples, use, results, training, limits, licence, and the results as metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from zoo import searches
from zoo.errors import CardError
from zoo.hub.card_blocks import assemble
from zoo.hub.layout import SAMPLES, SOUND, TEXTS
from zoo.plain_sampling import departures, of_plain_model
from zoo.registry import load_registry

__all__ = ["build_card", "card_of", "metric_values"]

_DATA_LICENCES = {
    "mnist": "MNIST by Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0",
    "fashion_mnist": "Fashion-MNIST by Zalando Research, MIT",
    "tiles": "Tiles of Dungeon Crawl Stone Soup, release of November 2015, by its contributors; public domain (CC0)",
    "cifar10": "CIFAR-10 by A. Krizhevsky, V. Nair and G. Hinton; its authors state no licence",
    "shakespeare": "Eight plays by W. Shakespeare, texts of Project Gutenberg editions, public domain",
    "tones": "Synthetic tones, drawn by the package",
    "speech": "A LibriVox recording of Sense and Sensibility, public domain",
}

_LIMITS = {
    "features": "A small research model: its features are of examples like those of its training data.",
}
_USES = {
    "samples": "x = model.sample(16, seed=0)",
    "samples of texts": 'x = model.sample(16, labels="...", seed=0)  # of a text in the model\'s alphabet',
    "features": "z = model.features(x)  # examples in [0, 1]: (B, *shape) -> (B, feature_dim)",
}
_TASKS: dict[str, tuple[dict[str, str], str]] = {
    "samples of texts": ({"type": "text-to-image", "name": "Text to image"}, "pictures"),
    "features": ({"type": "image-feature-extraction", "name": "Image features"}, "features"),
}


def build_card(
    name: str,
    *,
    summary: str = "",
    paper: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
    licence: str = "apache-2.0",
    data_licence: str | None = None,
    samples: bool = False,
    load: str | None = None,
    command: str | None = None,
    limits: Sequence[str] = (),
    gives: str = "samples",
    extra: Mapping[str, str] | None = None,
) -> str:
    """Return the text of a model card.

    Args:
        name: title; a registered name adds what the registry knows.
        summary: one line.
        paper: title, authors, year, and arxiv or url.
        model: published configuration, ``{"name": class, "args": {...}}``, perhaps with ``class_names``.
        results: an evaluation: ``metrics`` (name -> number, or mapping with ``value``), ``protocol``, ``data`` and
            ``cost``.
        search: the content of search.json: trials on validation data.
        licence: identifier of the licence of the weights.
        data_licence: source and licence of the training data.
        samples: whether samples.png is in the folder.
        load: what `zoo.load` takes; ``name`` if left out.
        command: how to train it again; ``zoo fit --model NAME`` for a registered name if left out.
        limits: what the model is not good for, one sentence each.
        gives: ``samples``, ``samples of texts``, or ``features`` where the model draws none.
        extra: further sections, title -> markdown.

    Raises:
        CardError: a metric is no finite number.
        ResultError: ``search`` breaks its schema.
    """
    metrics = metric_values(results)
    if command is None and name in load_registry():
        command = f"zoo fit --model {name}"
    task, what = _TASKS.get(gives) or _task(name, results, (model or {}).get("args") or {})
    front = _front(name, licence, results, metrics, task)
    sections = [f"# {name}\n", f"{summary[:1].upper()}{summary[1:]}.\n" if summary else "", _paper(paper)]
    if samples:
        sections.append(f"![samples]({SAMPLES})\n")
    sections += [
        f'## Use\n\n```python\nimport zoo\n\nmodel = zoo.load("{load or name}")\n{_USES[gives]}\n```\n',
        _classes((model or {}).get("class_names") or ()),
        _results(results, metrics),
        _choices(results, search),
        f"## Training\n\n```\n{command}\n```\n" if command else "",
        f"## Model\n\n```json\n{json.dumps(model, indent=1)}\n```\n" if model else "",
        "## Limits\n\n" + "".join(f"- {s}\n" for s in limits or (_LIMITS.get(gives) or _LIMIT.format(what),)),
        f"## Licence\n\n- Weights: {licence}\n" + (f"- Training data: {data_licence}\n" if data_licence else ""),
        *(f"## {title}\n\n{text.rstrip()}\n" for title, text in (extra or {}).items()),
    ]
    return assemble(front, "", "\n".join(s for s in sections if s).rstrip("\n"), "\n")


_LIMIT = "A small research model: it makes {} like those of its training data and is meant for nothing else."


def card_of(
    name: str | None,
    model: Mapping[str, Any],
    results: Mapping[str, Any] | None,
    samples: Mapping[str, bytes],
    *,
    load: str,
    command: str | None = None,
    gives: str = "samples",
    search: Mapping[str, Any] | None = None,
) -> str:
    """Return the card of a model from what the registry knows about its name, which may be none.

    Args:
        name: a registered name, or none.
        model: as in `build_card`.
        results: as in `build_card`.
        samples: files of the folder, of which the card shows the samples.
        load: what `zoo.load` takes.
        command: how it was trained.
        gives: as in `build_card`.
        search: as in `build_card`.
    """
    check_results(results)
    entry = load_registry().get(name or "")
    dataset = entry.dataset if entry is not None else _dataset(results)[0]
    base = dataset.removeprefix("binary_").removesuffix("_threshold")
    return build_card(
        name or load.rpartition("/")[2],
        load=load,
        command=command,
        summary=entry.summary if entry is not None else "",
        paper=entry.paper if entry is not None else None,
        model=model,
        results=results,
        search=search,
        data_licence=_DATA_LICENCES.get(base),
        samples=SAMPLES in samples,
        gives=gives,
        extra=_drawn(samples),
    )


def _drawn(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the section that shows samples of text or sound."""
    if TEXTS in files:
        return {"Samples": f"````text\n{files[TEXTS].decode('utf-8', 'replace').rstrip()}\n````"}
    return {"Samples": f"The picture is the spectrogram of [{SOUND}]({SOUND})."} if SOUND in files else {}


_DEEPEST = 64


def check_results(results: Any) -> None:
    """Raise `CardError` where an evaluation, which may come from a damaged file, is none that a card could show."""
    for part in ("metrics", "floor"):
        value = results.get(part) if isinstance(results, Mapping) else None
        if not isinstance(results, (Mapping, type(None))) or not isinstance(value, (Mapping, type(None))):
            what = f"{part} of the results" if isinstance(results, Mapping) else "the results"
            raise CardError(f"{what} must be a mapping, as in eval.json, got {str(value or results)[:80]!r}")
    inside = [results]
    for _ in range(_DEEPEST):
        inside = [
            v for x in inside if isinstance(x, (Mapping, list)) for v in (x.values() if isinstance(x, Mapping) else x)
        ]
    if inside:
        raise CardError(f"the results are nested more than {_DEEPEST} levels deep, which no card could show")


def metric_values(results: Mapping[str, Any] | None) -> dict[str, float]:
    """Return metric -> finite float of an evaluation. Raises `CardError`."""
    check_results(results)
    found = {}
    for name, value in ((results or {}).get("metrics") or {}).items():
        number = value.get("value") if isinstance(value, Mapping) else value
        if number is None:
            continue
        try:
            number = float(number) if not isinstance(number, (str, bool)) else math.nan
        except (TypeError, ValueError) as error:
            raise CardError(f"metric {name!r} cannot go into a card: {number!r} is no number") from error
        if not math.isfinite(number):
            raise CardError(f"metric {name!r} cannot go into a card: {value!r} is no finite number")
        found[str(name)] = number
    return found


def _task(name: str, results: Mapping[str, Any] | None, args: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Return the task as the Hub names it, and what the model makes, by the kind or shape of its data.

    The Hub has no task for images of an asked class; they are no unconditional ones.
    """
    entry, data = load_registry().get(name), (results or {}).get("data")
    room = entry.data.get("class_path", "").rpartition(".")[0].rpartition(".")[2] if entry is not None else ""
    shape = data.get("shape") if isinstance(data, Mapping) else None
    if room == "text":
        return {"type": "text-generation", "name": "Text generation"}, "text"
    if room == "audio":
        return {"type": "other", "name": "Audio generation"}, "sound"
    if room == "toys" or (isinstance(shape, (list, tuple)) and len(shape) != 3):
        return {"type": "other", "name": "Generation"}, "data"
    if args.get("num_classes"):
        return {"type": "other", "name": "Class-conditional image generation"}, "pictures"
    return {"type": "unconditional-image-generation", "name": "Image generation"}, "pictures"


def _front(
    name: str,
    licence: str,
    results: Mapping[str, Any] | None,
    metrics: Mapping[str, float],
    task: Mapping[str, str],
) -> dict[str, Any]:
    dataset, split = _dataset(results)
    entry = load_registry().get(name)
    tags = ["generative-zoo", "pytorch", *([entry.family] if entry is not None else [])]
    front: dict[str, Any] = {"library_name": "generative-zoo", "license": licence, "tags": tags}
    if dataset:
        front["datasets"] = [dataset]
    if metrics:
        result = {
            "task": dict(task),
            "dataset": {"type": dataset or "unknown", "name": dataset or "unknown", "split": split},
            "metrics": [{"type": metric, "name": metric, "value": value} for metric, value in metrics.items()],
        }
        front["model-index"] = [{"name": name, "results": [result]}]
    return front


def _dataset(results: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return name and split of the data of an evaluation."""
    data = (results or {}).get("data") or {}
    if isinstance(data, str):
        return data, "test"
    data = data if isinstance(data, Mapping) else {}
    return str(data.get("name") or ""), str(data.get("split") or "test")


def _paper(paper: Mapping[str, Any] | None) -> str:
    if not paper:
        return ""
    link = paper.get("url") or (f"https://arxiv.org/abs/{paper['arxiv']}" if paper.get("arxiv") else "")
    metadata = [str(paper[k]) for k in ("authors", "title", "year") if paper.get(k)]
    return f"Paper: {', '.join(metadata)}{f', <{link}>' if link else ''}.\n"


def _classes(names: Sequence[str]) -> str:
    """Return the section that says which label is which class; of more than fifty, the first fifty."""
    if not names:
        return ""
    rows = "".join(f"| {i} | {name.replace('|', '&#124;')} |\n" for i, name in enumerate(names[:50]))
    more = f"\nand {len(names) - 50} more, in `config.json`.\n" if len(names) > 50 else ""
    text = f"## Classes\n\n`model.sample(16, labels={names[0]!r})` draws one class.\n\n| label | class |\n|---|---|\n"
    return text + rows + more


def _results(results: Mapping[str, Any] | None, metrics: Mapping[str, float]) -> str:
    if not metrics:
        return ""
    floors = metric_values({"metrics": (results or {}).get("floor")})
    data = (results or {}).get("data")
    shape = data.get("shape") if isinstance(data, Mapping) else None
    shape = shape if isinstance(shape, (list, tuple)) and shape else (1, 1, 1)
    real = f"training {'images' if len(shape) == 3 else 'examples'} (floor)"
    head = f"| metric | value | {real} |\n|---|---|---|\n" if floors else "| metric | value |\n|---|---|\n"
    rows = ""
    for name, value in metrics.items():
        floor = f" {floors[name]:.6g} |" if name in floors else " |" if floors else ""
        rows += f"| {name} | {value:.6g}{_error(results, name)}{_mark(results, name)} |{floor}\n"
    text = f"## Results\n\n{head}{rows}"
    for title in ("data", "protocol", "cost"):
        metadata = (results or {}).get(title)
        if metadata:
            lines = [f"- {k}: {v}" for k, v in _flat(metadata)] if isinstance(metadata, Mapping) else [f"- {metadata}"]
            text += f"\n{title.capitalize()}:\n\n" + "\n".join(lines) + "\n"
    return text + "\nAll numbers, with their protocol, are in `eval.json`.\n"


def _error(results: Mapping[str, Any] | None, name: str) -> str:
    entry = (results or {})["metrics"][name]
    error = entry.get("standard_error") if isinstance(entry, Mapping) else None
    return f" ± {error:.2g}" if isinstance(error, (int, float)) else ""


_DRAWN = ("fid", "frechet_", "kid", "inception_score", "precision", "recall", "density", "coverage", "accuracy")
_LIKELIHOODS = ("bits_per_", "nats")


def _mark(results: Mapping[str, Any] | None, name: str) -> str:
    """Return what stands beside a number whose samples were not simply drawn."""
    protocol = (results or {}).get("protocol")
    how = departures(protocol) if isinstance(protocol, Mapping) else []
    if how and name.startswith(_DRAWN) and not name.endswith("_plain"):
        return f" ({'; '.join(how)})"
    plain = isinstance(protocol, Mapping) and name.startswith(_LIKELIHOODS) and of_plain_model(protocol)
    return " (of the plain model)" if plain else ""


def _choices(results: Mapping[str, Any] | None, search: Mapping[str, Any] | None) -> str:
    """Return the section on how sampling options were chosen: trials on validation data, or that there are none."""
    protocol = (results or {}).get("protocol")
    sampler = protocol.get("sampler") if isinstance(protocol, Mapping) else None
    sampler = dict(sampler) if isinstance(sampler, Mapping) else {}
    if search is None and not sampler:
        return ""
    options = ", ".join(f"`{name}` {json.dumps(value)}" for name, value in sampler.items() if value is not None)
    text = f"Sampling options: {options}.\n\n" if options else ""
    if search is None:
        return f"## Choices\n\n{text}They were not searched on validation data.\n"
    found = searches.parse(search)
    chosen = found.chosen(sampler)
    said = f"Chosen on validation data: {', '.join(f'`{name}`' for name in chosen)}." if chosen else ""
    rest = [name for name in sampler if name not in chosen]
    said += " The others were not searched on validation data." if rest and chosen else ""
    said = said or ("They were not chosen by these trials on validation data." if options else "")
    return (
        f"## Choices\n\n{text}{said}\n\n{searches.search_table(found, sampler)}\n\nAll trials are in `search.json`.\n"
    )


def _flat(metadata: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in metadata.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs
