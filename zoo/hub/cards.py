"""Model cards: a generated block, with the results as metadata, around which a person may write.

The card begins with YAML metadata, then a block between two markers. The first marker carries the sha256 of what was
generated, so that a block which a person edited is noticed and never overwritten.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from zoo.errors import CardError
from zoo.hub.layout import SAMPLES, sha256
from zoo.registry import load_registry

__all__ = ["build_card", "card_of", "join_cards", "merge_card", "metadata", "metric_values"]

_BEGIN, _END = "<!-- zoo:begin sha256={} -->", "<!-- zoo:end -->"
_BLOCK = re.compile(r"<!-- zoo:begin sha256=([0-9a-f]{64}) -->\n(.*?)\n?<!-- zoo:end -->", re.DOTALL)
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_GENERATED = ("library_name", "license", "datasets", "model-index")
_MAX_METADATA = 1 << 18

_DATA_LICENCES = {
    "mnist": "MNIST by Y. LeCun, C. Cortes and C. Burges, CC BY-SA 3.0",
    "fashion_mnist": "Fashion-MNIST by Zalando Research, MIT",
    "cifar10": "CIFAR-10 by A. Krizhevsky, V. Nair and G. Hinton; its authors state no licence",
}


def build_card(
    name: str,
    *,
    summary: str = "",
    paper: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    licence: str = "apache-2.0",
    data_licence: str | None = None,
    samples: bool = False,
    load: str | None = None,
    command: str | None = None,
    limits: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
) -> str:
    """Return the text of a model card.

    Args:
        name: title; a registered name adds what the registry knows.
        summary: one line.
        paper: title, authors, year, and arxiv or url.
        model: published configuration, ``{"name": class, "args": {...}}``.
        results: an evaluation: ``metrics`` (name -> number, or mapping with ``value``), ``protocol``, ``data`` and
            ``cost``.
        licence: identifier of the licence of the weights.
        data_licence: source and licence of the training data.
        samples: whether samples.png is in the folder.
        load: what `zoo.load` takes; ``name`` if left out.
        command: how to train it again; ``zoo fit --model NAME`` for a registered name if left out.
        limits: what the model is not good for, one sentence each.
        extra: further sections, title -> markdown.

    Raises:
        CardError: a metric is no finite number.
    """
    metrics = metric_values(results)
    if command is None and name in load_registry():
        command = f"zoo fit --model {name}"
    front = _front(name, licence, results, metrics)
    sections = [f"# {name}\n", f"{summary[:1].upper()}{summary[1:]}.\n" if summary else "", _paper(paper)]
    if samples:
        sections.append(f"![samples]({SAMPLES})\n")
    sections += [
        f'## Use\n\n```python\nimport zoo\n\nmodel = zoo.load("{load or name}")\nx = model.sample(16, seed=0)\n```\n',
        _results(results, metrics),
        f"## Training\n\n```\n{command}\n```\n" if command else "",
        f"## Model\n\n```json\n{json.dumps(model, indent=1)}\n```\n" if model else "",
        "## Limits\n\n" + "".join(f"- {s}\n" for s in limits or (_LIMIT,)),
        f"## Licence\n\n- Weights: {licence}\n" + (f"- Training data: {data_licence}\n" if data_licence else ""),
        *(f"## {title}\n\n{text.rstrip()}\n" for title, text in (extra or {}).items()),
    ]
    return _assemble(front, "", "\n".join(s for s in sections if s).rstrip("\n"), "\n")


_LIMIT = "A small research model: it draws pictures like those of its training data and is meant for nothing else."


def card_of(
    name: str | None,
    model: Mapping[str, Any],
    results: Mapping[str, Any] | None,
    samples: bool,
    *,
    load: str,
    command: str | None = None,
) -> str:
    """Return the card of a model from what the registry knows about its name, which may be none."""
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
        data_licence=_DATA_LICENCES.get(base),
        samples=samples,
    )


def merge_card(existing: str, fresh: str) -> str:
    """Return ``fresh`` with what a person wrote in ``existing``: text around the block, further metadata and tags.

    Raises:
        CardError: the generated part of ``existing`` was edited by hand, or is malformed.
    """
    existing = _normal(existing)
    old_front, body = metadata(existing), existing[len(_FRONT.match(existing)[0]) if _FRONT.match(existing) else 0 :]
    before, block, after = _split(body)
    if block is not None and block[0] != _digest(old_front, block[1]):
        raise CardError(
            "the generated block of README.md, or its results, was edited by hand, so it is not overwritten: move the "
            "edits outside the two zoo markers, or delete the file to have it written anew"
        )
    front = metadata(fresh)
    kept = {k: v for k, v in old_front.items() if k not in _GENERATED and k != "tags"}
    tags = [t for t in old_front.get("tags") or [] if t not in front["tags"]]
    text = _split(_normal(fresh)[len(_FRONT.match(_normal(fresh))[0]) :])[1][1]
    return _assemble({**front, "tags": [*front["tags"], *tags], **kept}, before, text, after if block else "\n" + body)


def join_cards(remote: str, local: str) -> str:
    """Return the card to publish: ``local``, and what a person wrote on the Hub where ``local`` has nothing by hand.

    A card that has no generated block is wholly a person's, and is returned as it is.

    Raises:
        CardError: the generated part of one of the two was edited by hand, or is malformed.
    """
    own, text = metadata(local), _normal(local)
    front = _FRONT.match(text)
    before, block, after = _split(text[len(front[0]) if front else 0 :])
    if block is None:
        return local
    merge_card(local, local)  # raises where the block is not the one that was generated
    merged = _normal(merge_card(remote, local))
    kept_before, _, kept_after = _split(merged[len(_FRONT.match(merged)[0]) :])
    tags = {"tags": metadata(merged)["tags"]}
    return _assemble(
        {**metadata(merged), **own, **tags},
        before if before.strip() else kept_before,
        block[1],
        after if after.strip() else kept_after,
    )


def metadata(text: str) -> dict[str, Any]:
    """Return the YAML metadata of a card, safely loaded; empty when it has none. Raises `CardError`."""
    match = _FRONT.match(_normal(text))
    if match is None:
        return {}
    if len(match[1]) > _MAX_METADATA:
        raise CardError(f"the metadata of README.md have more than {_MAX_METADATA} characters")
    try:
        found = yaml.safe_load(match[1])
    except (yaml.YAMLError, AttributeError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CardError(f"the metadata of README.md are not plain YAML: {' '.join(str(error).split())}") from error
    if found is not None and not isinstance(found, dict):
        raise CardError("the metadata of README.md are no mapping")
    return found or {}


def metric_values(results: Mapping[str, Any] | None) -> dict[str, float]:
    """Return metric -> finite float of an evaluation. Raises `CardError`."""
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


def _front(name: str, licence: str, results: Mapping[str, Any] | None, metrics: Mapping[str, float]) -> dict[str, Any]:
    dataset, split = _dataset(results)
    entry = load_registry().get(name)
    tags = ["generative-zoo", "pytorch", *([entry.family] if entry is not None else [])]
    front: dict[str, Any] = {"library_name": "generative-zoo", "license": licence, "tags": tags}
    if dataset:
        front["datasets"] = [dataset]
    if metrics:
        result = {
            "task": {"type": "unconditional-image-generation", "name": "Image generation"},
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
    return str(data.get("name") or ""), str(data.get("split") or "test")


def _paper(paper: Mapping[str, Any] | None) -> str:
    if not paper:
        return ""
    link = paper.get("url") or (f"https://arxiv.org/abs/{paper['arxiv']}" if paper.get("arxiv") else "")
    facts = [str(paper[k]) for k in ("authors", "title", "year") if paper.get(k)]
    return f"Paper: {', '.join(facts)}{f', <{link}>' if link else ''}.\n"


def _results(results: Mapping[str, Any] | None, metrics: Mapping[str, float]) -> str:
    if not metrics:
        return ""
    rows = "".join(f"| {name} | {value:.6g}{_error(results, name)} |\n" for name, value in metrics.items())
    text = f"## Results\n\n| metric | value |\n|---|---|\n{rows}"
    for title in ("data", "protocol", "cost"):
        facts = (results or {}).get(title)
        if facts:
            lines = [f"- {k}: {v}" for k, v in _flat(facts)] if isinstance(facts, Mapping) else [f"- {facts}"]
            text += f"\n{title.capitalize()}:\n\n" + "\n".join(lines) + "\n"
    return text + "\nAll numbers, with their protocol, are in `eval.json`.\n"


def _error(results: Mapping[str, Any] | None, name: str) -> str:
    entry = (results or {})["metrics"][name]
    error = entry.get("standard_error") if isinstance(entry, Mapping) else None
    return f" ± {error:.2g}" if isinstance(error, (int, float)) else ""


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in facts.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs


def _normal(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _digest(front: Mapping[str, Any], block: str) -> str:
    facts = {k: front[k] for k in _GENERATED if k in front}
    lines = "\n".join(line.rstrip() for line in block.strip("\n").split("\n"))
    return sha256((json.dumps(facts, sort_keys=True, default=str) + "\n" + lines).encode())


def _split(body: str) -> tuple[str, tuple[str, str] | None, str]:
    """Return the text before the block, (recorded sha256, block) and the text after it."""
    found = list(_BLOCK.finditer(body))
    if len(found) != body.count("<!-- zoo:begin") or len(found) != body.count(_END) or len(found) > 1:
        raise CardError(
            "README.md has a zoo marker too many, changed, or without its partner, so it is not overwritten: restore "
            "the two markers, or delete the file to have it written anew"
        )
    if not found:
        return "", None, body
    match = found[0]
    return body[: match.start()], (match[1], match[2]), body[match.end() :]


def _assemble(front: Mapping[str, Any], before: str, block: str, after: str) -> str:
    text = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=1000)
    if _digest(yaml.safe_load(text), block) != _digest(front, block):
        raise CardError("the metadata of the card cannot be written as plain YAML")
    if _END in block or "<!-- zoo:begin" in block:
        raise CardError("the content of the card holds a zoo marker of its own")
    head = f"---\n{text}---\n" + (before if before.strip() else "\n")
    return f"{head}{_BEGIN.format(_digest(front, block))}\n{block}\n{_END}{after}"
