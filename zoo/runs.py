"""Run folders: where a training left its configuration, checkpoints and facts, and how a model comes back from them.

A run folder holds ``config.yaml``, ``run.json``, ``metrics.csv``, ``loss.png``, ``samples/`` and ``checkpoints/``. Each
checkpoint ``step-XXXXXXXX.ckpt`` has a sidecar with its sha256, written before it; a checkpoint without a valid sidecar
does not count. Reading one never unpickles anything but tensors and plain data.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.classes import checked_names
from zoo.errors import CheckpointError, RunError
from zoo.model import GenerativeModel, Source
from zoo.registry import load_registry
from zoo.spec import build

__all__ = ["last_checkpoint", "load_run", "read_checkpoint", "run_facts", "sha256_of", "verify_run"]


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
    found = sorted(folder.glob("step-*.ckpt"), reverse=True)
    for path in found:
        if _recorded(path) == sha256_of(path):
            return path
    raise RunError(f"{run} holds no intact checkpoint ({len(found)} damaged); start it anew with zoo fit")


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
        words = sidecar(path).read_bytes()[:200].decode("ascii", "replace").split()
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


def run_facts(run: str | Path) -> dict[str, Any]:
    """Return what ``run.json`` says: name, data, command, cost. Raises `RunError`."""
    path = Path(run) / "run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}; is {run} a run folder?") from error


def load_run(run: str | Path, *, ema: bool = True, checkpoint: str | Path | None = None) -> GenerativeModel:
    """Return the model of a run, in eval mode, with its averaged weights (or the raw ones).

    The folder is data: which classes it may name beyond those of the zoo is for the user's own registry overlays to
    say (``allow:``), whatever the folder says.

    Args:
        run: the run folder.
        ema: take the exponential moving average of the weights where the run kept one.
        checkpoint: a checkpoint other than the newest intact one.

    Raises:
        RunError: no intact checkpoint.
        CheckpointError: the checkpoint was not written by the zoo.
        ConfigError: it names a class that is not allowed.
    """
    path = Path(checkpoint) if checkpoint is not None else last_checkpoint(run)
    content = read_checkpoint(path)
    if "zoo" not in content:
        raise CheckpointError(f"checkpoint {path} was not written by the zoo: it has no model specification")
    facts = content["zoo"]
    model = build(facts["spec"], load_registry().allow)
    state = content["state_dict"]
    if ema and content.get("ema"):
        state = {**state, **content["ema"]["parameters"]}
    model.load_state_dict(state, strict=True)
    model.source = replace(Source("run"), path=str(run), name=facts.get("name"))
    model.class_names = checked_names(facts.get("class_names"), model.num_classes)
    return model.eval()
