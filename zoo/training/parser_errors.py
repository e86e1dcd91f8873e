"""The parser's errors as one sentence each: which option, what is wrong with it, and what was perhaps meant."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.errors import ConfigError, close_matches
from zoo.spec import class_of, refusal

__all__ = ["ELSEWHERE", "sentence"]

ELSEWHERE = {
    "ckpt_path": "--resume", "resume_from_checkpoint": "--resume", "checkpoint": "--resume", "ckpt": "--resume",
    "learning_rate": "--model.lr", "epochs": "--trainer.max_epochs", "num_epochs": "--trainer.max_epochs",
    "steps": "--trainer.max_steps", "gpus": "--trainer.devices", "num_gpus": "--trainer.devices",
    "bs": "--data.batch_size", "output_dir": "--run", "out": "--run", "save_dir": "--run", "dataset": "--data",
    "datamodule": "--data", "optimizer": "--model.lr", "lr_scheduler": "--training.schedule",
    "scheduler": "--training.schedule", "early_stopping": "--training.patience", "fp16": "--trainer.precision",
    "amp": "--trainer.precision", "val_check": "--trainer.val_check_interval", "wandb": "--logger",
}  # fmt: skip
"""Options by the names that they have in other programs -> theirs here."""

_EXPECTED = re.compile(r"Expected an? (?:<class ')?(.+?)(?:'>)?\. Got value: (.*?)(?:\n|$)")

_UNION = re.compile(
    r"any of the Union subtypes\s+Subtypes: \[(.*?)\]\s*Errors:(.*?)Given value type:.*?Given value: (.*)", re.S
)


def sentence(message: str, entry: Mapping[str, Any], options: Iterable[str], allow: Iterable[str] = ()) -> str:
    """Return what the user can act on.

    Args:
        message: the parser's, of many lines perhaps.
        entry: the registry entry, whose classes know their arguments.
        options: all option strings of the parser, for close matches.
        allow: class-path prefixes that the user's own overlay allows.
    """
    unknown = re.search(r"unrecognized arguments: (--?[^\s=]+)", message, re.IGNORECASE)
    if unknown is not None:
        return f"unknown option {unknown[1]}.{_meant(unknown[1], entry, options, allow)}"
    option = _option(message)
    inner = re.search(r"NestedArg\(key='([\w.]+)'", message)
    own = inner and re.search(rf'Parser key "{re.escape(inner[1])}":\s+(Expected an? .*?Got value: .*?)\n', message)
    if own:  # an option of a class that is allowed, whatever else was looked for
        message = own[1] + "\n"
    refused = re.search(r"Option '(.+?)' is not accepted", message)
    if refused is not None and option:
        known = _arguments(entry, option, allow)
        prefix = option.rpartition(".")[0]
        near = close_matches(option, [f"{prefix}.{k}" for k in known])
        return f"unknown option --{option}.{near.replace(chr(39) + prefix, chr(39) + '--' + prefix)}"
    denied = re.search(r"Importing '([^']{1,1000})' is not allowed", message)
    if denied is not None:
        return refusal(denied[1])
    required = re.search(r"the following arguments are required: ([\w, ]+)", message)
    if required is not None and option:
        of = re.search(r"class_path='([\w.]+)'", message)
        return _required(required[1].split(", "), entry, option, of[1] if of else "")
    expected = _EXPECTED.search(message)
    if expected is not None and option:
        return f"option --{option} takes a value of type {_type(expected[1])}, got {expected[2]!r}"
    union = _UNION.search(message)
    if union is not None and option:
        own = [
            line for line in re.findall(r"^\s*- (.+)$", union[2], re.M) if not line.startswith(("Expected", "Not of"))
        ]
        if own:  # a constructor's own words
            return f"option --{option}: {own[-1][:300]}"
        given = " ".join(union[3].split())[:200]
        return f"option --{option} takes {_types(union[1])}, got {given!r}{_near_callback(option, given)}"
    text = " ".join(message.split())
    return f"option --{option}: {text[:300]}" if option and option not in text else text[:400]


def _meant(word: str, entry: Mapping[str, Any], options: Iterable[str], allow: Iterable[str]) -> str:
    """Return what was perhaps meant by an unknown option: one of that name in a group, or of another one elsewhere."""
    bare = word.lstrip("-").replace("-", "_")
    last = bare.rpartition(".")[2]
    known = [o for o in options if not o.endswith("+")]
    known += [f"--{part}.{name}" for part in ("model", "data") for name in _arguments(entry, f"{part}.x", allow)]
    if "." not in bare:
        same = sorted({o for o in known if o.rpartition(".")[2] == bare and o != word})
        if same:
            return f" Did you mean {' or '.join(map(repr, same))}?"
    if last in ELSEWHERE:
        return f" Did you mean {ELSEWHERE[last]!r}?"
    return close_matches(word, known)


def _near_callback(option: str, given: str) -> str:
    if option != "trainer.callbacks" or not given.isidentifier():
        return ""
    from lightning.pytorch import callbacks

    return f".{near}" if (near := close_matches(given, callbacks.__all__)) else ""


def _required(names: list[str], entry: Mapping[str, Any], option: str, class_path: str = "") -> str:
    """Return the sentence on arguments that a class needs and is not given, by the options to type."""
    head, *path = option.split(".")
    if head == "trainer":
        what = class_path.rpartition(".")[2] or option
        return f"{what} needs {', '.join(f'--{option}.{n}' for n in names)}; give {'it' if len(names) == 1 else 'them'}"
    spec = entry.get(head) or {}
    for part in path:
        spec = (spec.get("init_args") or {}).get(part) or {}
    name = str(spec.get("class_path", "")).rpartition(".")[2]
    what = f"{name or option} needs {', '.join(f'--{option}.{n}' for n in names)}"
    return (
        f"{what}; give them, or write them as init_args into the registry entry {entry['name']!r}: an entry that "
        f"names another class than the one it extends takes over none of the arguments of that class"
    )


def _option(message: str) -> str:
    outer = re.search(r'Parser key "([\w.]+)"', message)
    inner = re.search(r"NestedArg\(key='([\w.]+)'", message)
    return ".".join(m[1] for m in (outer, inner) if m is not None)


def _type(name: str) -> str:
    literal = re.search(r"Literal\[(.*)\]", name)
    return f"one of {literal[1]}" if literal else name.rpartition(".")[2]


def _types(subtypes: str) -> str:
    """Return in words what the types of a union are, as they are printed."""
    literals = [word for group in re.findall(r"Literal\[(.*?)\]", subtypes) for word in group.split(", ")]
    names = [name.rpartition(".")[2].replace("NoneType", "null") for name in re.findall(r"<class '(.+?)'>", subtypes)]
    known = f"one of {', '.join(dict.fromkeys(word.strip(chr(39)) for word in literals))}" if literals else ""
    kinds = f"a value of type {' or '.join(names)}" if names else ""
    return " or ".join(filter(None, (known, kinds))) or "another kind of value"


def _arguments(entry: Mapping[str, Any], option: str, allow: Iterable[str]) -> list[str]:
    """Return the argument names of the class that an option such as ``model.generator.widths`` belongs to."""
    head, *path = option.split(".")
    spec = entry.get(head) or {}
    for part in path[:-1]:
        spec = (spec.get("init_args") or {}).get(part) or {}
    try:
        return list(inspect.signature(class_of(spec["class_path"], allow)).parameters)
    except (KeyError, TypeError, ConfigError):
        return []
