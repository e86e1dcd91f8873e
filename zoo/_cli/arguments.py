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

from zoo.docstrings import meanings
from zoo.errors import ConfigError
from zoo.registry import Entry
from zoo.sizes import SIZES, sized_model
from zoo.spec import class_of, is_spec

__all__ = ["Option", "meanings", "options_of", "shown", "summary"]


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


def summary(cls: type) -> str:
    """Return the first sentence of a class's docstring."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\n\n")[0]
    return " ".join(text.split())


def options_of(entry: Entry) -> dict[str, list[Option]]:
    """Return the options of a training of this entry: group (model, data, training, trainer) -> options."""
    from lightning.pytorch import Trainer

    from zoo.training.cli import TRAINER
    from zoo.training.settings import TrainingSettings
    from zoo.training.trainer_options import REFUSED

    defaults = {name: value for name, value in TRAINER.items() if name not in REFUSED}
    allow = tuple(entry.allow)
    settings = {f.name: f.default for f in fields(TrainingSettings)}
    trainer = {n: p.default for n, p in inspect.signature(Trainer).parameters.items() if n not in REFUSED}
    return {
        "model": [*_of_spec("--model", entry.model, allow), *_size(entry.model, allow)],
        "data": list(_of_spec("--data", entry.data, allow)),
        "training": _flat("--training", {**settings, **entry.training}, meanings(TrainingSettings)),
        "trainer": _flat("--trainer", {**trainer, **defaults, **entry.trainer}, _of_trainer(meanings(Trainer))),
    }


def _size(spec: Mapping[str, Any], allow: tuple[str, ...]) -> list[Option]:
    """Return the option of all networks together, where they say what it scales."""
    if "size" in inspect.signature(class_of(spec["class_path"], allow)).parameters:  # a model's own
        return []
    try:
        sized_model(spec, "base", allow)
    except ConfigError:
        return []
    return [Option("--model.size", "base", f"{', '.join(SIZES)}: widths and depths of all networks (see `zoo.sizes`)")]


def _flat(prefix: str, values: Mapping[str, Any], texts: Mapping[str, str]) -> list[Option]:
    return [Option(f"{prefix}.{name}", value, texts.get(name, "")) for name, value in values.items()]


def _of_trainer(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the first sentence of each, as they are long, and how the zoo honours it where that is its own way."""
    from zoo.training.trainer_options import HONOURED

    short = {name: re.split(r"(?<=[a-z)`])\. ", text)[0] for name, text in texts.items()}
    own = {name: way for name, way in HONOURED.items() if not way.startswith("as Lightning has it")}
    return {name: f"{text}: {own[name]}" if name in own else text for name, text in short.items()}


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
