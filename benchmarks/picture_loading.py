"""How fast pictures are loaded, and how much memory a run takes whose pictures do not fit into it.

    python benchmarks/picture_loading.py [--pictures 5000] [--side 256]

Makes a folder of JPEG files and reports, for batches of 32: pictures a second of the in-memory path, decoded on the fly
with one thread and more, from Parquet and from tar shards where their libraries are installed. Then it trains a small
autoencoder on the folder in a process of its own, and reports the peak of its resident memory beyond that of the same
training on 40 pictures, and whether a run that was stopped in the middle of an epoch ends in the same bits.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.data.folder import ImageFolder

BATCH, SEEN = 32, 60


def make_pictures(folder: Path, count: int, side: int) -> None:
    """Write smooth JPEG pictures in two classes, each another one."""
    x = np.arange(side) / side * 6
    for i in range(count):
        rng = np.random.default_rng(i)
        fx, fy, phase = rng.uniform(1, 12, 3), rng.uniform(1, 12, 3), rng.uniform(0, 6, 3)
        across, down = np.exp(1j * fx * x[:, None]), np.exp(1j * (fy * x[:, None] + phase))  # (side, 3) each
        waves = (down.imag[:, None] * across.real + down.real[:, None] * across.imag).astype(np.float32)
        path = folder / ("even", "odd")[i % 2] / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(path, quality=90)


def speed(data: Any) -> str:
    """Return pictures a second of the training stream, and milliseconds of CPU each, after the first."""
    stream = iter(data.train_dataloader())
    for _ in range(3):
        next(stream)
    begin, used, seen = time.perf_counter(), time.process_time(), 0
    for x, _ in stream:
        seen += len(x)
        if seen >= SEEN * BATCH:
            break
    spent, used = time.perf_counter() - begin, time.process_time() - used
    return f"{seen / spent:10,.0f} {1000 * used / seen:10.3f}"


def speeds(folder: Path, work: Path, side: int, some: int) -> None:
    """Print pictures a second of each way, on the first ``some`` pictures where they must fit into memory."""
    print(f"{'way':<44} pictures/s CPU ms each")
    begin = time.perf_counter()
    memory = ImageFolder(str(folder), side, batch_size=BATCH, memory=64, limit=some)
    memory.split("train")
    spent = time.perf_counter() - begin
    print(f"{'in memory (after decoding all once)':<44} {speed(memory)}   decoding: {spent:.1f} s")
    for workers in (1, 2, 4):
        lazy = ImageFolder(str(folder), side, batch_size=BATCH, memory=0, workers=workers)
        begin = time.perf_counter()
        lazy.split("train")
        spent = time.perf_counter() - begin
        print(f"{f'on the fly, {workers} thread(s)':<44} {speed(lazy)}   looking at all: {spent:.1f} s")
    files = sorted(folder.rglob("*.jpg"))[:some]
    if importlib.util.find_spec("datasets") is not None:
        import datasets

        datasets.disable_progress_bars()
        from zoo.data.hugging_face import HuggingFaceImages
        from zoo.data.hugging_face_stream import HuggingFaceStream

        rows = [{"image": {"bytes": path.read_bytes(), "path": None}} for path in files]
        features = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_list(rows, features=features).to_parquet(work / "t.parquet")
        how = {"path": str(work / "t.parquet"), "size": side, "batch_size": BATCH, "workers": 2}
        print(f"{'table (Parquet), 2 threads':<44} {speed(HuggingFaceImages(**how, memory=0))}")
        stream = HuggingFaceStream(**how, validation=100, test=100, buffer=200)
        print(f"{'stream (Parquet), 2 threads':<44} {speed(stream)}")
    if importlib.util.find_spec("webdataset") is not None:
        from zoo.data.webdataset import WebDatasetImages

        for k, name in enumerate(("train-0.tar", "train-1.tar", "val-0.tar", "test-0.tar")):
            (work / "shards").mkdir(exist_ok=True)
            with tarfile.open(work / "shards" / name, "w") as archive:
                for path in files[k::2] if k < 2 else files[:40]:
                    content = path.read_bytes()
                    info = tarfile.TarInfo(path.name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        shards = WebDatasetImages(str(work / "shards"), side, batch_size=BATCH, workers=2, buffer=200)
        print(f"{'tar shards, 2 threads':<44} {speed(shards)}")


# -- memory and resume, in processes of their own ----------------------------------------------------------------------


def entry(folder: str, side: int, steps: int, limit: int | None) -> dict[str, Any]:
    """Return a small VAE for colour pictures of this side."""
    args: dict[str, Any] = {
        "encoder": {"class_path": "zoo.nets.mlp.MLP", "init_args": {"features": [3 * side * side, 16]}},
        "decoder": {"class_path": "zoo.nets.mlp.MLP", "init_args": {"features": [8, 3 * side * side]}},
        "shape": [3, side, side], "latent_dim": 8, "likelihood": "discretized_logistic",
        "scale": "shared",
    }  # fmt: skip
    how = {"folder": folder, "size": side, "batch_size": BATCH, "limit": limit, "augment": "flip"}
    return {
        "name": "vae-pictures",
        "model": {"class_path": "zoo.families.vae.VAE", "init_args": args},
        "data": {"class_path": "zoo.data.folder.ImageFolder", "init_args": how},
        "trainer": {"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 2},
        "training": {"checkpoint_every": 10_000, "sample_every": 0},
    }


def child(facts: dict[str, Any]) -> None:
    """Train, and print the peak of this process's resident memory in bytes and the digest of the weights."""
    import hashlib

    from zoo.runs import load_run
    from zoo.training.fit import Stopped, fit

    made = entry(facts["folder"], facts["side"], facts["steps"], facts["limit"])
    if facts.get("stop"):
        import zoo.training.engine as engine

        original = engine.Engine.on_train_batch_end

        def stopping(self: Any, trainer: Any, *args: Any) -> None:
            original(self, trainer, *args)
            if trainer.global_step >= facts["stop"]:
                self.received = "SIGTERM"

        engine.Engine.on_train_batch_end = stopping
    with contextlib.suppress(Stopped):
        fit(made, folder=facts["run"], resume=facts.get("resume", False))
    state = b"".join(v.numpy().tobytes() for _, v in sorted(load_run(facts["run"]).state_dict().items()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "weights": hashlib.sha256(state).hexdigest()}))


def train(**facts: Any) -> dict[str, Any]:
    """Train in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(facts)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def memory(folder: Path, work: Path, side: int, steps: int) -> None:
    """Print what a run on all pictures takes beyond one on few, and whether it resumes to the same bits."""
    common = {"folder": str(folder), "side": side, "steps": steps}
    few = work / "few"
    make_pictures(few, 50, side)
    small = train(**{**common, "folder": str(few), "steps": 3}, limit=None, run=str(work / "small"))
    whole = train(**common, limit=None, run=str(work / "whole"))
    train(**common, limit=None, run=str(work / "stopped"), stop=steps * 3 // 5)
    resumed = train(**common, limit=None, run=str(work / "stopped"), resume=True)
    decoded = sum(1 for _ in folder.rglob("*.jpg")) * 3 * side * side
    print(f"decoded pictures                         {decoded / 2**30:8.2f} GiB")
    print(f"peak of resident memory, 50 pictures     {small['peak'] / 2**30:8.2f} GiB")
    print(f"peak of resident memory, all pictures    {whole['peak'] / 2**30:8.2f} GiB")
    print(f"beyond that of 50                        {(whole['peak'] - small['peak']) / 2**30:8.2f} GiB")
    print(f"stopped in an epoch and resumed: the same bits: {whole['weights'] == resumed['weights']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=150, help="of the training; an epoch has about 125")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as top:
        folder, work = Path(top, "pictures"), Path(top, "work")
        work.mkdir()
        make_pictures(folder, args.pictures, args.side)
        print(f"{args.pictures:,} JPEG pictures of {args.side} x {args.side}, {len(os.sched_getaffinity(0))} cores\n")
        speeds(folder, work, args.side, min(args.pictures, 2000))
        print()
        memory(folder, work, args.side, args.steps)


if __name__ == "__main__":
    main()
