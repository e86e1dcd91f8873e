"""What can be typed after ``zoo fit --model NAME``: each option with the value that it has there, and its meaning.

The meanings are those of the docstrings: of the class, of the classes that it inherits from, of Lightning's Trainer.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from zoo.registry import Entry
from zoo.spec import class_of, is_spec

__all__ = ["Option", "meanings", "options_of", "shown", "summary"]

_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \w+)*)(?: \([^)]*\))?: *(?P<text>.*)")
_DEFAULT = re.compile(r"\s*(Default|Defaults to):? ``?[^`]*``?\.?")
_SECTION = re.compile(r"(Args|Arguments|Parameters):")


@dataclass(frozen=True)
class Option:
    """One option: what to type, the value that it has, and what it means.

    Attributes:
        name: such as ``--model.generator.widths``.
        value: plain data; the name of the class for an object.
        meaning: from the docstring; empty where that says nothing.
    """

    name: str
    value: Any
    meaning: str = ""


def meanings(documented: Any) -> dict[str, str]:
    """Return argument -> meaning as the docstring of a class says, or one of those that it inherits from."""
    found: dict[str, str] = {}
    for cls in inspect.getmro(documented):
        for text in (cls.__doc__, cls.__dict__.get("__init__", object).__doc__):
            found = {**_arguments(text or ""), **found}
    return found


def _arguments(docstring: str) -> dict[str, str]:
    """Return what the ``Args:`` of one docstring say."""
    lines = inspect.cleandoc(docstring).splitlines()
    start = next((i for i, line in enumerate(lines) if _SECTION.fullmatch(line.strip())), None)
    if start is None:
        return {}
    outer = len(lines[start]) - len(lines[start].lstrip())
    found: dict[str, list[str]] = {}
    inner, current = None, []
    for line in lines[start + 1 :]:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= outer:
            break
        inner = indent if inner is None and line.strip() else inner
        entry = _ENTRY.fullmatch(line.strip()) if line.strip() and indent == inner else None
        if entry is not None:
            current = [entry["text"]]
            found.update(dict.fromkeys((n.lstrip("*") for n in entry["names"].split(", ")), current))
        else:
            current.append(line.strip())
    return {name: _plain(" ".join(filter(None, text))) for name, text in found.items()}


def _plain(text: str) -> str:
    text = _DEFAULT.sub("", re.sub(r":\w+:`~?([^`]*)`", r"\1", text))
    return text.replace("``", "`").strip().removesuffix(".")


def summary(cls: type) -> str:
    """Return the first sentence of a class's docstring."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\n\n")[0]
    return " ".join(text.split())


def options_of(entry: Entry) -> dict[str, list[Option]]:
    """Return the options of a training of this entry: group (model, data, training, trainer) -> options."""
    from lightning.pytorch import Trainer

    from zoo.training.cli import TRAINER
    from zoo.training.settings import TrainingSettings

    allow = tuple(entry.allow)
    settings = {f.name: f.default for f in fields(TrainingSettings)}
    trainer = {n: p.default for n, p in inspect.signature(Trainer).parameters.items()}
    return {
        "model": list(_of_spec("--model", entry.model, allow)),
        "data": list(_of_spec("--data", entry.data, allow)),
        "training": _flat("--training", {**settings, **entry.training}, meanings(TrainingSettings)),
        "trainer": _flat("--trainer", {**trainer, **TRAINER, **entry.trainer}, _short(meanings(Trainer))),
    }


def _flat(prefix: str, values: Mapping[str, Any], texts: Mapping[str, str]) -> list[Option]:
    return [Option(f"{prefix}.{name}", value, texts.get(name, "")) for name, value in values.items()]


def _short(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the first sentence of each: the Trainer's are long."""
    return {name: re.split(r"(?<=[a-z)`])\. ", text)[0] for name, text in texts.items()}


def _of_spec(prefix: str, spec: Mapping[str, Any], allow: tuple[str, ...], meaning: str = "") -> Iterator[Option]:
    """Yield the options of a spec's class, and of the objects in it."""
    cls, given = class_of(spec["class_path"], allow), spec.get("init_args") or {}
    yield Option(prefix, spec["class_path"], meaning or summary(cls))
    texts = meanings(cls)
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = given.get(name, None if parameter.default is parameter.empty else parameter.default)
        if is_spec(value):
            yield from _of_spec(f"{prefix}.{name}", value, allow, texts.get(name, ""))
        else:
            yield Option(f"{prefix}.{name}", value, texts.get(name, ""))


def shown(options: Sequence[Option]) -> str:
    """Return options as lines: what to type with the value that it has, and beside it the meaning."""
    width = max(80, min(120, shutil.get_terminal_size((100, 24)).columns))
    left = 38
    lines = []
    for option in options:
        head = f"  {option.name} {_value(option.value)}"
        texts = textwrap.wrap(option.meaning, width - left) or [""]
        if len(head) >= left - 1:
            lines.append(head)
        else:
            lines.append(f"{head:<{left}}{texts.pop(0)}".rstrip())
        lines += [" " * left + text for text in texts if text]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, default=str)
