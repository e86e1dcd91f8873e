"""Latency of exported ONNX parts against torch, one thread each: python benchmarks/export_latency.py [NAME ...]"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.export import export, parts
from zoo.export.writing import run_onnx
from zoo.registry import load_registry

ROUNDS, BATCHES = 5, (1, 16)


def best(call: Callable[[], Any]) -> float:
    """Return the least milliseconds of a call, CPU time of this process, after one call to warm up."""
    call()
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def rows(name: str, folder: Path) -> list[str]:
    """Return a line for each part of a model."""
    import onnxruntime

    model, lines = zoo.load(name), []
    start = time.process_time()
    written = export(name, "onnx", folder)
    took = time.process_time() - start
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for path, (_, part) in zip(written, parts(model).items(), strict=True):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = []
        for batch in BATCHES:
            inputs = part.examples(batch)
            feed = dict(zip(part.inputs, inputs, strict=True))
            with torch.inference_mode():
                ours = best(partial(part.module, *inputs))
            found += [ours, best(partial(run_onnx, session, feed))]
        size = path.stat().st_size / 2**20
        lines.append(f"{path.stem:<36} {part.kind:<9} {size:6.1f} {took:8.1f} " + " ".join(f"{t:9.2f}" for t in found))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.names or [entry.name for entry in load_registry().find(pretrained=True)]
    print(f"$ python benchmarks/export_latency.py {' '.join(sys.argv[1:])}")
    print(
        f"torch {torch.__version__}; CPU times in ms, least of {ROUNDS}, one thread; a step is one value of one example"
    )
    print(f"{'file':<36} {'part':<9} {'MiB':>6} {'export s':>8} " + " ".join(
        f"{w:>9}" for b in BATCHES for w in (f"torch {b}", f"ONNX {b}")
    ))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print("\n".join(rows(name, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
