"""Processes that write checkpoints until they are killed; run in forked children, so it imports next to nothing."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from pathlib import Path

import torch

from zoo.runs import last_checkpoint, read_checkpoint, sidecar
from zoo.training.checkpoint_io import AtomicCheckpointIO, sweep

NUMBERS = 300_000


def _write(folder: Path, step: int) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint({"zoo": {"step": step}, "x": torch.full((NUMBERS,), float(step))}, _path(folder, step))
    for old in sorted(folder.glob("checkpoints/step-*.ckpt"))[:-2]:
        io.remove_checkpoint(old)


def _path(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}.ckpt"


def kill_writers(folder: str, temporary: str, kills: int, seed: int) -> dict[str, int]:
    """Kill a writer at a random moment so many times; after each, start as a run does and look at what is there.

    The moment lies within the time that three checkpoints take, so that some kills hit each stage of writing.

    Args:
        folder: where the checkpoints go.
        temporary: the folder for temporary files of this process, TMPDIR.
        kills: how many.
        seed: of the moments.

    Returns:
        counts: ``killed`` writers, ``stale`` files found by the sweep, temporaries that outlived it, ``unreadable``
        checkpoints, ``lost`` ones (the newest intact one is older than the newest that was complete), ``written``.
    """
    os.environ["TMPDIR"] = tempfile.tempdir = temporary
    root, generator = Path(folder), random.Random(seed)
    counts = dict.fromkeys(("killed", "stale", "outlived", "unreadable", "lost", "written"), 0)
    start = time.perf_counter()
    for step in (1, 2, 3):
        _write(root, step)
    horizon = time.perf_counter() - start
    for _ in range(kills):
        newest = read_checkpoint(last_checkpoint(root))["zoo"]["step"]
        writer = os.fork()
        if writer == 0:
            step = newest
            while True:
                step += 1
                _write(root, step)
        time.sleep(generator.uniform(0.0, horizon))
        os.kill(writer, signal.SIGKILL)
        counts["killed"] += os.WTERMSIG(os.waitpid(writer, 0)[1]) == signal.SIGKILL
        _look(root, newest, counts)
    return counts


def _look(root: Path, before: int, counts: dict[str, int]) -> None:
    checkpoints = root / "checkpoints"
    counts["stale"] += sweep(checkpoints)
    counts["outlived"] += sum(p.name.endswith(".tmp") for p in checkpoints.iterdir())
    for path in checkpoints.glob("step-*.ckpt"):
        try:
            content = read_checkpoint(path)
            good = sidecar(path).is_file() and bool((content["x"] == content["zoo"]["step"]).all())
        except Exception:
            good = False
        counts["unreadable"] += not good
    newest = read_checkpoint(last_checkpoint(root))["zoo"]["step"]
    counts["lost"] += newest < before
    counts["written"] += newest - before
