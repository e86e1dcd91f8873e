"""Checkpoints that are whole or absent: temporary file, fsync, rename, sha256 sidecar.

The temporary file lies in the target folder, so that the rename is atomic wherever TMPDIR is. The sidecar is written
before the checkpoint takes its name; names hold the step, so a good checkpoint is never overwritten by a later one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from zoo.errors import CheckpointError
from zoo.files import write_whole
from zoo.runs import read_checkpoint, sidecar

__all__ = ["AtomicCheckpointIO", "full_disk", "sweep", "write_atomic"]

_SUFFIX = ".tmp"


class _HashingWriter:
    """A file that computes the sha256 of what is written through it, in order."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):  # not on Windows
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _commit(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)
    _sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    write_whole(path, data)
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")


def sweep(folder: str | Path) -> int:
    """Remove what killed writers left in ``folder``: temporary files, and sidecars without a checkpoint.

    Returns:
        how many files were removed.
    """
    folder = Path(folder)
    stale = [*folder.glob(f".*{_SUFFIX}")]
    stale += [p for p in folder.glob("*.sha256") if not p.with_name(p.name.removesuffix(".sha256")).exists()]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def full_disk(error: BaseException, run: Path, path: Path | None = None) -> CheckpointError | None:
    """Return what to tell the user when a write to a run folder failed for lack of space, else None."""
    causes = (error, error.__cause__, error.__context__)
    if not any(getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) for e in causes):
        return None
    what = f"checkpoint {path}" if path is not None else f"a file of the run {run}"
    if any((run / "checkpoints").glob("step-*.ckpt")):
        then = f"earlier checkpoints are untouched, free some space and go on with zoo fit --resume {run}"
    else:
        then = "there is no earlier checkpoint, so free some space and start again"
    return CheckpointError(f"{what} could not be written: the disk is full; {then}")


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoint reader and writer for this zoo."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        temporary = _temporary(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                writer = _HashingWriter(stream)
                torch.save(checkpoint, writer)
                stream.flush()
                os.fsync(stream.fileno())
            write_atomic(sidecar(path), f"{writer.digest.hexdigest()}  {path.name}\n".encode("ascii"))
            _commit(temporary, path)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
                if not path.exists():
                    sidecar(path).unlink(missing_ok=True)
            reason = str(error).splitlines()[0]
            raise full_disk(error, path.parent.parent, path) or CheckpointError(
                f"checkpoint {path} could not be written: {reason}; earlier checkpoints are untouched"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
        sidecar(Path(path)).unlink(missing_ok=True)
