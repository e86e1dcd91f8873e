"""A C program draws with an exported decoder what Python draws, wherever there is a compiler."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_serve import tiny_models

from zoo.export import export

SOURCE = Path(__file__).resolve().parent.parent / "examples" / "c" / "generate.c"
COMPILER = shutil.which("cc")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (extra onnx)")


def split_mix(state: int) -> Iterator[float]:
    """Yield the uniform numbers of SplitMix64, written out once more."""
    whole = 2**64 - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & whole
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & whole
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & whole
        yield (((z ^ (z >> 31)) >> 11) + 0.5) / 2**53


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    u = split_mix(seed)
    drawn = [math.sqrt(-2 * math.log(next(u))) * math.cos(2 * math.pi * next(u)) for _ in range(math.prod(shape))]
    return np.array(drawn, np.float32).reshape(shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, the shared library of the wheel beside it, and the decoder of a small model."""
    library = next(iter(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")), None)
    if COMPILER is None or library is None:
        pytest.skip("no C compiler, or a wheel of ONNX Runtime without its shared library")
    folder = tmp_path_factory.mktemp("c")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    command = [COMPILER, "-O2", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", str(SOURCE)]
    command += ["-o", "generate", "-L.", "-l:libonnxruntime.so.1", "-Wl,-rpath,$ORIGIN", "-lm"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = (p for p in export(tiny_models()["images"], "onnx", folder) if "encoder" not in p.name)
    path.rename(folder / "images.onnx")
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["./generate", *words], cwd=folder, capture_output=True, text=True, timeout=60)


def test_a_c_program_draws_what_python_draws(folder: Path) -> None:
    done = run(folder, "images.onnx", "3", "drawn.pgm", "7")
    assert done.returncode == 0 and done.stdout.startswith("drawn.pgm: 3 images; loading "), done
    session = onnxruntime.InferenceSession(str(folder / "images.onnx"))
    (z,) = session.get_inputs()
    x = session.run(None, {z.name: normal((3, *z.shape[1:]), 7)})[0]  # (3, 1, H, W)
    head, _, pixels = (folder / "drawn.pgm").read_bytes().partition(b"\n255\n")
    H, W = x.shape[2:]
    assert head == b"P5\n%d %d" % (3 * W, H)
    sheet = np.frombuffer(pixels, np.uint8).reshape(H, 3, W).transpose(1, 0, 2)
    assert x.std() > 0 and np.abs(sheet - 255.0 * np.clip(x[:, 0], 0, 1)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "usage: generate MODEL.onnx N OUT.pgm"),
        (("images.onnx", "0", "a.pgm"), 2, "usage: generate"),
        (("nothing.onnx", "1", "a.pgm"), 1, "generate: Load model from nothing.onnx failed"),
        (("images.onnx", "1", "nowhere/a.pgm"), 1, "nowhere/a.pgm: No such file or directory"),
    ],
)
def test_what_it_cannot_do_is_one_line(folder: Path, words: tuple[str, ...], code: int, said: str) -> None:
    done = run(folder, *words)
    assert done.returncode == code and done.stderr.startswith(said) and done.stderr.count("\n") == 1, done
