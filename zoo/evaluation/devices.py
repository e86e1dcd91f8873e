"""Several processes for one evaluation: each is told in files what to do, and leaves its chunks in the same folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

import torch
from safetensors.torch import save_file

from zoo.errors import ConfigError, ResultError
from zoo.evaluation.chunks import Chunk, Store, Task
from zoo.spec import class_paths

__all__ = ["EXAMPLES", "JOB", "WEIGHTS", "spread"]

JOB, WEIGHTS, EXAMPLES = "job.json", "weights.safetensors", "examples.safetensors"


def spread(task: Task, chunks: Sequence[Chunk], store: Store, devices: int, allow: Sequence[str], bar: bool) -> None:
    """Do the chunks in this process and ``devices - 1`` further ones, each with its share; the store has a folder.

    A model on a GPU is copied to the next GPUs; on the CPU each process takes as many threads as this one.

    Raises:
        ConfigError: there are fewer GPUs, or the model cannot be rebuilt from plain data in another process.
        ResultError: another process failed; its last words are in the message.
    """
    device = task.model.device
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(f"{devices} devices were asked for, this machine has {torch.cuda.device_count()} GPU(s)")
    _write_job(task, chunks, store)
    children = [_start(store, rank, devices, device, allow) for rank in range(1, devices)]
    try:
        task.work(chunks, store, rank=0, world=devices, bar=bar)
        for rank, child in enumerate(children, 1):
            _, words = child.communicate()
            if child.returncode:
                last = words.strip().splitlines()[-1:] or ["it said nothing"]
                raise ResultError(f"process {rank} of {devices} ended with code {child.returncode}: {last[0]}")
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.communicate()


def _write_job(task: Task, chunks: Sequence[Chunk], store: Store) -> None:
    folder = store.folder
    assert folder is not None
    spec = task.model.spec  # raises `ConfigError` where it is not plain data
    foreign = [p for p in class_paths(spec) if p.partition(".")[0] in ("__main__", "__mp_main__") or "<locals>" in p]
    if foreign:
        raise ConfigError(f"{foreign[0]} lives in this process only, so it is evaluated on one device: devices=1")
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in task.model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    last = max((chunk.stop for chunk in chunks if chunk.k), default=0)
    x, labels = task.examples(0, last) if last else (torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    given = {"x": x.cpu().contiguous(), "labels": labels.contiguous()}
    given |= {"conditions": task.conditions.contiguous()} if task.conditions is not None else {}
    save_file(given, folder / EXAMPLES)
    job = {
        "spec": spec, "options": dict(task.options), "levels": task.levels,
        "dtype": str(task.model.dtype).removeprefix("torch."), "threads": torch.get_num_threads(),
        "chunks": [asdict(chunk) for chunk in chunks],
    }  # fmt: skip
    (folder / JOB).write_text(json.dumps(job), encoding="utf-8")


def _start(store: Store, rank: int, world: int, device: torch.device, allow: Sequence[str]) -> subprocess.Popen[str]:
    where = f"cuda:{((device.index or 0) + rank) % torch.cuda.device_count()}" if device.type == "cuda" else str(device)
    command = [sys.executable, "-m", "zoo.evaluation.worker", str(store.folder), str(rank), str(world), where, *allow]
    passive = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads of several processes share cores
    paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}  # the same modules as here
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **passive, **paths}
    )
