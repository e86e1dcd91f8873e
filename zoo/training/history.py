"""How a run came to where it is: the commands that it was started and gone on with, and what each of them changed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import RunError, ZooError
from zoo.registry import plain_yaml
from zoo.runs import run_metadata

__all__ = ["configuration", "history", "of_another_model"]


def history(
    folder: Path | None, command: str, step: int, config: str, went_back: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the entries of run.json: ``command``, all ``commands``, and ``history``.

    The history has an entry for each command: the step from which on it held, and, where it went on with a run, which
    options are other than before, by their names, each with the value of before and of now.

    Args:
        folder: of the run that is gone on with, whose config.yaml is still the one of before; None for a new run.
        command: what is run now.
        step: from which on.
        config: the whole configuration as YAML.
        went_back: what is known of each time that the command itself went back, the last of which is now.
    """
    before: dict[str, Any] = {}
    if folder is not None:
        with contextlib.suppress(RunError):
            before = run_metadata(folder)
    commands = list(before.get("commands") or [c for c in [before.get("command")] if c])
    entries = list(before.get("history") or [{"step": 0, "command": c} for c in commands[:1]])
    entry: dict[str, Any] = {"step": step, "command": command}
    path = folder / "config.yaml" if folder is not None else None
    if path is not None and path.is_file():
        old, new = (_leaves(configuration(text)) for text in (path.read_text(encoding="utf-8"), config))
        changed = {k: [old.get(k), new.get(k)] for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)}
        entry.update({"changed": changed} if changed else {})
    if went_back:
        entry["went_back"] = dict(went_back[-1])
    return {"command": command, "commands": commands if went_back else [*commands, command],
            "history": [*entries, entry]}  # fmt: skip


def of_another_model(args: Sequence[str], error: ZooError) -> ZooError:
    """Return what to tell of a run whose model was to become another one; the error itself where no option asks for it.

    Args:
        args: what was typed after the command that goes on with a run.
        error: by which the model, or its weights, refuse what it would be.
    """
    options = [word.partition("=")[0] for word in args if word.startswith("--model.")]
    options = [option for option in options if option.removeprefix("--model.") not in _MOVES]
    if not options:
        return error
    return RunError(
        f"--resume goes on with the model of the run, which {' and '.join(dict.fromkeys(options))} would change: "
        f"{error}; leave that out, or start a new run with --init_from"
    )


_MOVES = ("lr", "betas", "weight_decay")


def configuration(text: str) -> dict[str, Any]:
    """Return a configuration as plain data."""
    return dict(plain_yaml(text))


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return what nested mappings hold, by dotted names."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    found = {}
    for name, inner in value.items():
        found.update(_leaves(inner, f"{prefix}.{name}" if prefix else str(name)))
    return found
