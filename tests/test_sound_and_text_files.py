"""Recordings and texts as programs write them: the right samples and characters, or one clear sentence."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data.audio import WavFolder
from zoo.data.recordings import read_recording, read_wav
from zoo.data.text import TextFile
from zoo.errors import ConfigError, DataError

SINE = 0.5 * np.sin(np.arange(2000) * 0.05)


def riff(form: bytes, data: bytes, before: bytes = b"", size: int | None = None, kind: bytes = b"RIFF") -> bytes:
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + before
    body = b"WAVE" + chunks + b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return kind + struct.pack("<I", len(body)) + body


def plain(tag: int, channels: int, bits: int, rate: int = 8000) -> bytes:
    frame = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits)


def extensible(sub: int, channels: int, bits: int, valid: int | None = None) -> bytes:
    tail = struct.pack("<H", sub) + bytes.fromhex("000000001000800000aa00389b71")
    return plain(0xFFFE, channels, bits) + struct.pack("<HHI", 22, valid or bits, 3) + tail


def packed(x: np.ndarray, bits: int) -> bytes:
    if bits == 8:
        return (np.round(x * 127) + 128).astype(np.uint8).tobytes()
    whole = np.round(x * (2 ** (bits - 1) - 1)).astype("<i8")
    return whole.view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes()


def read(raw: bytes) -> np.ndarray:
    x, rate = read_wav(io.BytesIO(raw), "x.wav")
    assert rate == 8000 and x.dtype == torch.float32
    return x.numpy()


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("header", ["plain", "extensible"])
def test_whole_numbers_of_any_width(bits: int, channels: int, header: str) -> None:
    scales = np.linspace(0.2, 1, channels)
    data = packed((SINE[:, None] * scales).reshape(-1), bits)
    form = plain(1, channels, bits) if header == "plain" else extensible(1, channels, bits)
    assert np.abs(read(riff(form, data)) - SINE * scales.mean()).max() < 1.5 / 2 ** (bits - 1) + 1e-6


def test_floating_point_samples() -> None:
    for form, kind in ((plain(3, 1, 32), "<f4"), (plain(3, 1, 64), "<f8"), (extensible(3, 1, 32), "<f4")):
        assert np.abs(read(riff(form, SINE.astype(kind).tobytes())) - SINE).max() < 1e-6
    assert read(riff(plain(3, 1, 32), np.array([2, -3], "<f4").tobytes())).tolist() == [1, -1]
    with pytest.raises(DataError, match=r"x\.wav holds samples that are NaN or infinite"):
        read(riff(plain(3, 1, 32), np.array([np.nan], "<f4").tobytes()))


def test_what_programs_do_to_wav_files() -> None:
    data = packed(SINE, 16)
    whole = read(riff(plain(1, 1, 16), data))
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"  # chunks are padded to even sizes
    assert np.array_equal(read(riff(plain(1, 1, 16), data, before=odd)), whole)
    for size in (0, 0xFFFFFFFF, len(data) + 100):  # a stream that did not know its length, and one that was cut
        assert np.array_equal(read(riff(plain(1, 1, 16), data, size=size)), whole)
    assert np.array_equal(read(riff(extensible(1, 1, 16, 12), data)), whole)
    assert np.array_equal(read(riff(plain(1, 1, 16), data[:-1])), whole[:-1])
    assert len(read(riff(plain(1, 1, 16), b""))) == 0


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (
            riff(plain(7, 1, 8), b"\0" * 8),
            "x.wav has mu-law in 1 channels at 8000 Hz, which is not read; store it as WAV",
        ),
        (riff(plain(2, 1, 4), b"\0" * 8), "has ADPCM"),
        (riff(plain(1, 1, 40), b"\0" * 10), "has samples of 40 bits"),
        (riff(plain(1, 0, 16), b"\0" * 10), "in 0 channels"),
        (riff(extensible(9, 1, 16), b"\0" * 8), "has format 9"),
        (riff(plain(1, 1, 16), b"", kind=b"RF64"), "one of the 64-bit kinds"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "its samples come before their format"),
        (b"RIFF\0\0\0\0WAVE", "ends before its samples begin"),
        (b"fLaC" + b"\0" * 40, "is not a WAV file"),
        (b"", "is not a WAV file"),
    ],
)
def test_other_wav_files_are_named(raw: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_wav(io.BytesIO(raw), "x.wav")


@pytest.mark.parametrize(
    ("ending", "subtype", "close"), [("flac", "PCM_16", 1e-4), ("flac", "PCM_24", 1e-6), ("ogg", None, 0.05)]
)
def test_other_recordings_are_read_by_a_library(ending: str, subtype: str | None, close: float) -> None:
    soundfile = pytest.importorskip("soundfile", reason="the extra audio is not installed")
    stream = io.BytesIO()
    soundfile.write(stream, np.stack([SINE, 0.5 * SINE], 1), 8000, format=ending, subtype=subtype)
    stream.seek(0)
    x, rate = read_recording(stream, f"a.{ending}")
    assert rate == 8000 and len(x) == 2000 and np.abs(x.numpy() - 0.75 * SINE).max() < close
    with pytest.raises(DataError, match=rf"a\.{ending} is not a sound file that can be read"):
        read_recording(io.BytesIO(b"no sound" * 9), f"a.{ending}")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(DataError, match=r"a\.flac is read through soundfile; install it with pip .*\[audio\]"):
        read_recording(io.BytesIO(b""), "a.flac")


def test_folders_of_recordings_as_they_are(tmp_path: Path) -> None:
    raw = riff(plain(1, 1, 16), packed(SINE, 16))
    for split, n in (("Train", 9), ("val", 2), (".cache", 3)):
        (tmp_path / "pod" / split).mkdir(parents=True)
        for i in range(n):
            (tmp_path / "pod" / split / f"{i}.wav").write_bytes(raw)
    (tmp_path / "pod" / "Train" / "._0.wav").write_bytes(b"\0\5\x16\7")
    data = WavFolder(str(tmp_path / "pod"), 500, 8000)
    assert [len(data._files(s)) for s in ("train", "validation", "test")] == [8, 2, 1]
    assert len(WavFolder(str(tmp_path / "pod"), 500, 8000, test=3)._files("test")) == 3
    with pytest.raises(ConfigError, match=r"has a validation split of its own; leave out --data\.validation"):
        WavFolder(str(tmp_path / "pod"), validation=0.3).split("train")
    with zipfile.ZipFile(tmp_path / "pod.zip", "w") as archive:
        for path in sorted((tmp_path / "pod").rglob("[0-9]*.wav")):
            archive.write(path, path.relative_to(tmp_path))
    assert WavFolder(str(tmp_path / "pod.zip"), 500, 8000).digest("train") == data.digest("train")
    (tmp_path / "pod" / "Train" / "bad.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"1 of 9 sound files cannot be read: .*bad\.wav.*--data\.skip true"):
        [WavFolder(str(tmp_path / "pod"), 500, 8000).split(s) for s in ("train", "test")]
    skipped = WavFolder(str(tmp_path / "pod"), 500, 8000, skip=True)
    assert sum(len(skipped.split(s)[0]) for s in ("train", "test")) > 0
    (tmp_path / "pod" / "Train" / "song.m4a").touch()
    with pytest.raises(DataError, match=r"1 sound files are of kinds that are not read, such as .*song\.m4a"):
        WavFolder(str(tmp_path / "pod"), 500, 8000).split("train")


TEXT = "hello world, again.\n" * 40


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        b"".join(b"\xef\xbb\xbf" + part.encode() for part in (TEXT[:400], TEXT[400:])),
    ],
)
def test_marks_and_ends_of_lines_are_no_characters(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(data)
    read = TextFile(str(tmp_path / "t.txt"), length=16)
    assert read.text() == TEXT and read.alphabet == "".join(sorted(set(TEXT)))


def test_texts_and_alphabets_that_make_no_sense(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    for encoding in ("utf-16", "utf-32"):
        path.write_bytes(TEXT.encode(encoding))
        with pytest.raises(
            DataError, match=rf"is not UTF-8 \(it begins with the byte order mark of {encoding.upper()}\)"
        ):
            TextFile(str(path), length=16).split("train")
    with pytest.raises(
        ConfigError, match="alphabet holds 'l' more than once; give from 1 to 256 characters, each once"
    ):
        TextFile(str(path), alphabet="hello")
    for alphabet in ("", "".join(map(chr, range(300, 600)))):
        with pytest.raises(ConfigError, match=f"the alphabet has {len(alphabet)} characters"):
            TextFile(str(path), alphabet=alphabet)
