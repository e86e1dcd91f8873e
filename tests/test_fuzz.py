"""Bytes that nobody made on purpose, where the zoo reads what others wrote: a value or one clean error, within limits.

    python -m pytest -m fuzz                        # each target for 60 s
    ZOO_FUZZ_SECONDS=3600 python -m pytest -m fuzz -k image

Hypothesis chooses how good files are changed. Each target runs in a child that the system gives 1 GiB beyond its
libraries, and little more processor time than it is to run. A finding is kept in ``fixtures/fuzz/<target>/``; every
kept case, and some fresh ones, are tried by the default suite.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import struct
import sys
import time
import warnings
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_cases import contents, registry, tiny_folder
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from test_hostile import edited

from zoo import errors

KEPT = Path(__file__).parent / "fixtures" / "fuzz"
SECONDS = float(os.environ.get("ZOO_FUZZ_SECONDS", "60"))
MEMORY, LONGEST = 2**30, 10.0  # bytes; seconds of processor time for one input
SETTINGS = {"database": None, "deadline": None, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}
Reader = Callable[[bytes], Any]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are those of Linux")


# -- targets: scratch folder -> good files, and what reads one ---------------------------------------------------------


def _folder(scratch: Path) -> dict[str, bytes]:
    return contents(tiny_folder(scratch / "good"))


def config(scratch: Path) -> tuple[list[bytes], Reader]:
    from zoo.hub.folder import load_files
    from zoo.model import Source

    files = _folder(scratch)

    def read(data: bytes) -> None:
        load_files({**files, "config.json": data}, "here", Source("folder"), verify=False)

    return [files["config.json"]], read


def header(scratch: Path) -> tuple[list[bytes], Reader]:
    from zoo.hub.folder import load_files
    from zoo.model import Source

    files = _folder(scratch)
    whole = files["model.safetensors"]
    size = 8 + struct.unpack("<Q", whole[:8])[0]

    def read(data: bytes) -> None:
        load_files({**files, "model.safetensors": data + whole[size:]}, "here", Source("folder"), verify=False)

    return [whole[:size]], read


def card(scratch: Path) -> tuple[list[bytes], Reader]:
    from zoo.hub.card_blocks import join_cards, metadata
    from zoo.leaderboard.markdown import to_html

    honest = _folder(scratch)["README.md"].decode()

    def read(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        page = to_html(text)
        assert "<script" not in page.lower() and "<img" not in page.lower() and "<iframe" not in page.lower()
        metadata(text)
        join_cards(text, honest)

    rich = (
        f"---\ntags: [a, b]\nlicense: mit\n---\n{honest}\n| a | b |\n|---|--:|\n| 1 | `x` |\n\n[l](https://a.b) **c**\n"
    )
    return [honest.encode(), rich.encode()], read


def overlay(scratch: Path) -> tuple[list[bytes], Reader]:
    from zoo.registry import load_registry

    path = scratch / "mutated.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_registry(str(path))

    return [registry(scratch / "good.yaml").read_bytes()], read


def prompt(scratch: Path) -> tuple[list[bytes], Reader]:
    from new_kinds import LETTERS, LONGEST
    from test_serve import tiny_models

    from zoo.context import encode_texts

    model = tiny_models()["text"]

    def read(data: bytes) -> None:
        text = data.decode("utf-8", "surrogatepass" if len(data) % 2 else "replace")
        for ask in (
            lambda: encode_texts([text, "a"], LETTERS, LONGEST),
            lambda: model.sample(1, seed=0, prompt=text),
        ):
            try:
                ask()
            except errors.ZooError as error:
                _checked(error)

    return [b"abcde", b"ab", "aé\u202eb\0".encode()], _decoded(read)


def body(scratch: Path) -> tuple[list[bytes], Reader]:
    from test_serve import HOSTILE, post, tiny_models

    from zoo.serving.app import build
    from zoo.serving.service import Service
    from zoo.serving.settings import Settings

    service = Service(tiny_models(), Settings(models=("vae-mnist",), deadline=60.0), warm=False)
    app = build(service)
    paths = ["images/sample", "digits/sample", "pixels/sample", "text/sample", "images/log_prob", "sound/sample"]

    def read(data: bytes) -> None:
        path = f"/v1/models/{paths[len(data) % len(paths)]}"
        answer = post(app, path, data)
        assert answer.status_code < 500 or answer.status_code in (503, 504), answer.text
        if answer.status_code != 200:
            assert len(answer.content) <= 4096 and json.loads(answer.content)["error"]["message"]

    given_ = [c if isinstance(c, bytes) else json.dumps(c).encode() for _, c in HOSTILE if len(str(c)) < 500]
    good = [{"n": 2, "seed": 1, "format": "png"}, {"labels": [0, 1], "n": 2}, {"options": {"temperature": 0.5}},
            {"options": {"prompt": "abc", "length": 6}}, {"pixels": [[[[0] * 4] * 4]], "k": 3}]  # fmt: skip
    return [*(json.dumps(g).encode() for g in good), *given_], read


def image(scratch: Path) -> tuple[list[bytes], Reader]:
    from PIL import Image

    from zoo.data.pictures import BadPicture, Preparation
    from zoo.images import read_png

    made = []
    picture = Image.effect_noise((9, 9), 60)
    for form, mode in (
        *(("PNG", m) for m in ("L", "RGBA", "P", "1", "I;16", "LA")), ("GIF", "P"), ("BMP", "RGB"), ("JPEG", "CMYK"),
        ("TIFF", "F"), ("TIFF", "RGB"), ("WEBP", "RGBA"), ("PPM", "RGB"), ("TGA", "RGBA"), ("JPEG2000", "RGB"),
    ):  # fmt: skip
        stream = io.BytesIO()
        picture.convert("RGB" if mode in ("CMYK", "P", "RGBA") else "L").convert(mode).save(stream, form)
        made.append(stream.getvalue())
    ways = [Preparation(8, 8, 3), Preparation(8, 8, 1, resize="pad"), Preparation(4, 8, 3, resize="stretch")]
    path = scratch / "picture"

    def read(data: bytes) -> None:
        try:
            example = ways[len(data) % len(ways)].read(io.BytesIO(data))
            assert example.shape[1:] in ((8, 8), (4, 8))
        except BadPicture as error:
            assert 0 < len(str(error)) < 300
        path.write_bytes(data)
        read_png(path, (1, 9, 9))

    return made, read


def sound(scratch: Path) -> tuple[list[bytes], Reader]:
    from zoo.data.recordings import read_wav

    made = []
    for width, channels in ((1, 1), (2, 2), (3, 1), (4, 1)):
        stream = io.BytesIO()
        with wave.open(stream, "wb") as file:
            file.setparams((channels, width, 8000, 0, "NONE", ""))
            file.writeframes(bytes(range(120)))
        made.append(stream.getvalue())
    data = struct.pack("<8f", *[0.5] * 8)
    form = struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)
    made.append(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + form
                + b"data" + struct.pack("<I", len(data)) + data)  # fmt: skip

    def read(data: bytes) -> None:
        x, rate = read_wav(io.BytesIO(data), "x.wav")
        assert x.ndim == 1 and float(x.abs().max() if len(x) else 0) <= 1 and rate > 0

    return made, read


TARGETS = {t.__name__: t for t in (config, header, card, overlay, prompt, body, image, sound)}


def _decoded(read: Reader) -> Reader:
    def guarded(data: bytes) -> None:
        try:
            data.decode("utf-8", "surrogatepass" if len(data) % 2 else "replace")
        except UnicodeDecodeError:
            return
        read(data)

    return guarded


# -- the driver -------------------------------------------------------------------------------------------------------


def _checked(error: errors.ZooError) -> None:
    text = " ".join(str(error).split())
    assert 0 < len(text) < 2500 and text.isprintable(), repr(text)


def _fault(read: Reader, data: bytes) -> str | None:
    """Return what is wrong with how an input ended, None where it is a value or a clean error."""
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(data)
    except errors.ZooError as error:
        try:
            _checked(error)
        except AssertionError as wrong:
            return f"message {wrong}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    spent = time.process_time() - start
    return f"{spent:.1f} s of processor time" if spent > LONGEST else None


def _fuzzed(target: str, scratch: str, seconds: float, examples: int) -> dict[str, Any]:
    """Try kept cases, then changed files, for so many seconds or examples; return counts and findings."""
    os.environ["ZOO_REGISTRY"] = str(registry(Path(scratch) / "registry.yaml"))
    import zoo.registry

    good, read = TARGETS[target](Path(scratch))
    empty = Path(scratch) / "empty.yaml"
    empty.write_text("models: {}\n")
    if target == "overlay":  # the one that ships takes longer to read than all else
        zoo.registry.packaged_registry = lambda: empty
    for data in good:  # what is imported late is imported now
        _fault(read, data)
    most = MEMORY + int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    spent = int(time.process_time() + max(seconds, 60) + 60)
    resource.setrlimit(resource.RLIMIT_CPU, (spent, spent))
    kept = sorted((KEPT / target).glob("*.bin"))
    faults = {p.read_bytes().hex(): fault for p in kept if (fault := _fault(read, p.read_bytes()))}
    tried, began, round_ = 0, time.monotonic(), 0

    def attempt(which: int, edits: bytes) -> None:
        nonlocal tried
        data = edited(good[which % len(good)], edits)
        tried += 1
        fault = _fault(read, data)
        if fault is not None and len(faults) < 20 and fault not in faults.values():
            faults[data.hex()] = fault

    chance = random.Random(0)
    for _ in range(examples):  # without Hypothesis, which reads the sources of all modules first
        attempt(chance.randrange(100), chance.randbytes(chance.randrange(4, 25)))
    while time.monotonic() - began < seconds:
        one = seed(round_)(given(st.integers(0, 99), st.binary(min_size=4, max_size=24))(attempt))
        settings(max_examples=100, **SETTINGS)(one)()
        round_ += 1
    return {"tried": tried, "kept": len(kept), "faults": faults}


def _report(target: str, found: dict[str, Any], keep: bool) -> None:
    for data, fault in found["faults"].items():
        content = bytes.fromhex(data)
        print(f"{target}: {fault}: {content[:200]!r}")
        if keep:
            path = KEPT / target / f"{hashlib.sha256(content).hexdigest()[:12]}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    print(f"{target}: {found['tried']:,} inputs, {found['kept']} kept cases, {len(found['faults'])} faults")
    assert not found["faults"]


@linux
@pytest.mark.parametrize("target", TARGETS)
def test_kept_cases_and_some_fresh_ones(target: str, tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    _report(target, run_forked(_fuzzed, target, str(tmp_path), 0.0, 25, timeout=300), keep=False)


@linux
@pytest.mark.fuzz
@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(target: str, tmp_path: Path, run_forked: Callable[..., Any]) -> None:
    _report(target, run_forked(_fuzzed, target, str(tmp_path), SECONDS, 0, timeout=20 * SECONDS + 300), keep=True)
