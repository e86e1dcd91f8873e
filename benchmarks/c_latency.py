"""Latency of the C example beside ONNX Runtime in Python and torch: python benchmarks/c_latency.py [NAME ...]"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch

import zoo
from zoo.export import export, parts
from zoo.export.writing import run_onnx

ROUNDS, BATCHES = 9, (1, 16)
SOURCE = Path(__file__).resolve().parent.parent / "examples" / "c" / "generate.c"
TOLD = re.compile(r"loading ([\d.]+) ms, first call ([\d.]+) ms, second call ([\d.]+) ms")


def compiled(folder: Path) -> Path:
    """Return the program, built in a folder against the shared library of the wheel."""
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    command = ["cc", "-O2", "-std=c11", "-D_POSIX_C_SOURCE=200809L", str(SOURCE), "-o", "generate", "-L."]
    subprocess.run([*command, "-l:libonnxruntime.so.1", "-Wl,-rpath,$ORIGIN", "-lm"], cwd=folder, check=True)
    return folder / "generate"


def second(call: Callable[[], Any]) -> float:
    """Return the milliseconds of a second call."""
    call()
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def row(name: str, program: Path) -> str:
    """Return the line of a model: medians over rounds in which the three take turns."""
    model = zoo.load(name)
    (path, *_), (part, *_) = export(name, "onnx", program.parent), parts(model).values()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for batch in BATCHES:
            start = time.perf_counter()
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            loading = 1000 * (time.perf_counter() - start)
            inputs = part.examples(batch)
            with torch.inference_mode():
                torch_call = second(partial(part.module, *inputs))
            python_call = second(partial(run_onnx, session, dict(zip(part.inputs, inputs, strict=True))))
            words = [str(program), path.name, str(batch), "x.pgm"]
            said = subprocess.run(words, cwd=program.parent, capture_output=True, text=True, check=True).stdout
            in_c = [float(n) for n in TOLD.search(said).groups()]
            numbers = {"torch": torch_call, "Python": python_call, "C": in_c[2], "loads": loading, "C loads": in_c[0]}
            for what, value in numbers.items():
                found.setdefault((what, batch), []).append(value)
    middle = {k: statistics.median(v) for k, v in found.items()}
    calls = [f"{middle[what, batch]:9.2f}" for batch in BATCHES for what in ("torch", "Python", "C")]
    return f"{name:<24} {middle['loads', 1]:9.1f} {middle['C loads', 1]:9.1f} " + " ".join(calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["vae-mnist", "dcgan-mnist", "stylegan-mnist", "realnvp-mnist"])
    names = parser.parse_args().names
    torch.set_num_threads(1)
    print(f"$ python benchmarks/c_latency.py {' '.join(sys.argv[1:])}")
    print(
        f"ONNX Runtime {onnxruntime.__version__}; wall-clock ms, median of {ROUNDS} rounds, one thread; a second call"
    )
    heads = [f"{what} {batch}" for batch in BATCHES for what in ("torch", "Python", "C")]
    print(f"{'model':<24} {'loads':>9} {'C loads':>9} " + " ".join(f"{h:>9}" for h in heads))
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(Path(folder))
        for name in names:
            print(row(name, program), flush=True)


if __name__ == "__main__":
    main()
