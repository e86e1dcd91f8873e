"""Run folders: where a training left its configuration, checkpoints and facts, and how a model comes back from them.

A run folder holds ``config.yaml``, ``run.json``, ``metrics.csv``, ``loss.png``, ``samples/`` and ``checkpoints/``. Each
checkpoint ``step-XXXXXXXX.ckpt`` has a sidecar with its sha256, written before it; a checkpoint without a valid sidecar
does not count. Reading one never unpickles anything but tensors and plain data, and what a folder says of itself and of
classes is held against what a run can say: it may come from a stranger, or from a disk that has failed.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.classes import checked_names
from zoo.errors import CheckpointError, ConfigError, RunError
from zoo.files import open_regular
from zoo.model import GenerativeModel, Source
from zoo.overlays import of_packages, of_user, settle, unlike
from zoo.registry import load_registry
from zoo.spec import build, class_paths, is_spec

__all__ = [
    "MALFORMED",
    "fill",
    "last_checkpoint",
    "load_checkpoint",
    "load_run",
    "read_checkpoint",
    "read_model_checkpoint",
    "run_metadata",
    "sha256_of",
    "tell_registries",
    "verify_run",
]

MALFORMED = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What a constructor raises when its arguments make no sense, and a reader when what it reads is damaged."""

_MAX_BYTES = 10_000_000
_FACTS: dict[str, Any] = {
    "name": str, "data": dict, "cost": dict, "ema": (int, float), "command": (str, list), "status": str
}  # fmt: skip
"""What run.json says that is read again, and as what."""


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(stream)


def _sha256(stream: Any) -> str:  # Python 3.10 has no file_digest
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def sidecar(path: Path) -> Path:
    """Return the file that records the sha256 of a checkpoint."""
    return path.with_name(path.name + ".sha256")


def last_checkpoint(run: str | Path) -> Path:
    """Return the newest intact checkpoint of a run. Raises `RunError` when there is none."""
    folder = Path(run) / "checkpoints"
    if not folder.is_dir():
        raise RunError(f"{run} is not a run folder: it has no checkpoints folder")
    found = sorted((p for p in folder.glob("step-*.ckpt") if p.is_file()), reverse=True)
    for older, path in enumerate(found):
        if _recorded(path) == sha256_of(path):
            if older:
                damaged = ", ".join(p.name for p in found[:older])
                warnings.warn(
                    f"{damaged} of {run} is damaged, it is not what its .sha256 records: {path.name} is taken instead",
                    stacklevel=2,
                )
            return path
    aside = sum(1 for _ in folder.glob("*.damaged"))
    there = f"{len(found)} damaged" + (f", {aside} put aside earlier as .damaged" if aside else "")
    raise RunError(f"{run} holds no intact checkpoint ({there}); start it anew with zoo fit")


def verify_run(run: str | Path) -> dict[str, str]:
    """Check every checkpoint of a run against its record, and return file name -> sha256.

    Raises:
        RunError: no run folder, or one without checkpoints.
        CheckpointError: a checkpoint differs from its record, or has none.
    """
    last_checkpoint(run)
    digests = {}
    for path in sorted((Path(run) / "checkpoints").glob("step-*.ckpt")):
        digests[f"checkpoints/{path.name}"] = sha256_of(path)
        if not sidecar(path).is_file() or _recorded(path) != digests[f"checkpoints/{path.name}"]:
            raise CheckpointError(f"checkpoint {path} is not as recorded in {sidecar(path).name}; use another one")
    return digests


def _recorded(path: Path) -> str | None:
    """Return the sha256 that the sidecar of a checkpoint records, None where it records none."""
    try:
        with open_regular(sidecar(path)) as stream:
            words = stream.read(200).decode("ascii", "replace").split()
    except OSError:
        return None
    return words[0] if words else None


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint: local files only, hash first, tensors and plain data only. Raises `CheckpointError`."""
    if "://" in str(path):
        raise CheckpointError(f"checkpoint {str(path)!r} is a URL; download it, then give the path")
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    record = sidecar(path)
    if record.is_file() and _recorded(path) != sha256_of(path):
        raise CheckpointError(
            f"checkpoint {path} is damaged: its sha256 is not the one in {record.name}; use an older one"
        )
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"checkpoint {path} cannot be read as plain tensors: {type(error).__name__}") from error


def run_metadata(run: str | Path) -> dict[str, Any]:
    """Return what ``run.json`` says: name, data, command, cost. Raises `RunError`."""
    path = Path(run) / "run.json"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RunError(f"{path} has more than the {_MAX_BYTES:,} bytes that a run.json may have")
        with open_regular(path) as stream:
            metadata = json.loads(stream.read(_MAX_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {str(error)[:200]}; is {run} a run folder?") from error
    if not isinstance(metadata, dict):
        raise RunError(f"{path} must hold a mapping, it holds a {type(metadata).__name__}")
    for key, kinds in _FACTS.items():
        if metadata.get(key) is not None and not isinstance(metadata[key], kinds):
            raise RunError(f"{path}: {key!r} cannot be {str(metadata[key])[:100]!r}; the file was edited or is damaged")
    if metadata.get("data") is not None and not is_spec(metadata["data"]):
        raise RunError(f"{path}: 'data' must have a class_path, and init_args at most")
    return metadata


def tell_registries(run: str | Path) -> None:
    """Say where a run was made with a registry file that is not in force now, or settle that it has changed since.

    What the run says brings nothing into force: that is for the user to do, by ``--registry`` or ``ZOO_REGISTRY``.

    Raises:
        ConfigError: within a command, a file has changed in what the run has of it, and the user did not agree to that.
    """
    try:
        facts = run_metadata(run)
    except RunError:
        return
    if facts.get("registry"):
        entry = load_registry().get(str(facts.get("name")))
        content = None if entry is None else entry.kept()
        settle(run, unlike(facts["registry"], [*of_packages(), *of_user()], content))


def read_model_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint that a training wrote: what `read_checkpoint` does, and its parts are there.

    Raises:
        CheckpointError: unreadable, or without a model's specification and state.
    """
    content = read_checkpoint(path)
    if not isinstance(content, dict) or "zoo" not in content:
        raise CheckpointError(f"checkpoint {path} was not written by the zoo: it has no model specification")
    metadata, state, ema = content["zoo"], content.get("state_dict"), content.get("ema")
    if not isinstance(metadata, dict) or not is_spec(metadata.get("spec")):
        raise CheckpointError(f"checkpoint {path}: 'zoo' holds no specification of a model")
    if not isinstance(metadata.get("name"), (str, type(None))) or not isinstance(metadata.get("step", 0), int):
        raise CheckpointError(f"checkpoint {path}: its name must be text, and its step a whole number")
    states = [state] if ema is None else [state, ema.get("parameters") if isinstance(ema, dict) else None]
    for tensors in states:
        if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
            raise CheckpointError(f"checkpoint {path}: its state, or the average of it, is no mapping of tensors")
    return content


def load_run(
    run: str | Path, *, ema: bool = True, checkpoint: str | Path | None = None, allow: Sequence[str] = ()
) -> GenerativeModel:
    """Return the model of a run, in eval mode, with its averaged weights (or the raw ones).

    The folder is data: which classes it may name beyond those of the zoo is for the user's own registry overlays to
    say (``allow:``), whatever the folder says.

    Args:
        run: the run folder.
        ema: take the exponential moving average of the weights where the run kept one.
        checkpoint: a checkpoint other than the newest intact one.
        allow: class paths that the caller's own code allows besides, never what a file says.

    Raises:
        RunError: no intact checkpoint.
        CheckpointError: the checkpoint was not written by the zoo, or its tensors are not those of its model.
        ConfigError: it names a class that is not allowed.
    """
    tell_registries(run)
    model = load_checkpoint(checkpoint if checkpoint is not None else last_checkpoint(run), ema=ema, allow=allow)
    model.source = replace(model.source, path=str(run))
    return model


def load_checkpoint(path: str | Path, *, ema: bool = True, allow: Sequence[str] = ()) -> GenerativeModel:
    """Return the model of one checkpoint, of a run or of a plain Trainer, in eval mode; raises as `load_run` does."""
    path = Path(path)
    content = read_model_checkpoint(path)
    metadata = content["zoo"]
    model = _built(metadata["spec"], path, allow)
    state = content["state_dict"]
    if ema and content.get("ema"):
        state = {**state, **content["ema"]["parameters"]}
    fill(model, state, path)
    model.source = replace(Source("run"), path=str(path), name=metadata.get("name"))
    model.class_names = checked_names(metadata.get("class_names"), model.num_classes)
    return model.eval()


def fill(model: GenerativeModel, state: dict[str, torch.Tensor], path: Path) -> None:
    """Put the tensors of a checkpoint into a model. Raises `CheckpointError` where they are not the model's."""
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()]
        first = next((line for line in lines[1:] if line), lines[0])
        raise CheckpointError(
            f"checkpoint {path} does not fit the {type(model).__name__} that it is for: {first[:300]}"
        ) from error


def _built(spec: Any, path: Path, allow: Sequence[str] = ()) -> GenerativeModel:
    try:
        data = sorted(p for p in class_paths(spec) if p.startswith("zoo.data."))
        if data:  # they read files
            raise ConfigError(f"its model names {data[0][:200]!r}, and data are no part of a model")
        model = build(spec, (*load_registry().allow, *allow))
    except ConfigError as error:
        raise ConfigError(f"checkpoint {path}: {error}") from error
    except MALFORMED as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"checkpoint {path} does not describe a model: {reason}") from error
    if not isinstance(model, GenerativeModel):
        raise CheckpointError(f"checkpoint {path}: {type(model).__name__} is no generative model")
    return model
