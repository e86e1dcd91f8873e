"""Texts and audio: what is embedded, how it is cut, companded, resampled, written; and decoding by itself."""

from __future__ import annotations

import io
import itertools
import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo._cli import main
from zoo.data.audio import CHORDS, TONES, Speech, Tones, WavFolder, read_wav
from zoo.data.text import Shakespeare, TextFile, cut, read_shakespeare
from zoo.errors import ConfigError, DataError
from zoo.families.transformer import Transformer
from zoo.families.wavenet import WaveNet
from zoo.hub import load_pretrained, save_pretrained
from zoo.maths.decoding import Decoding, beam_search, top_k, top_p
from zoo.maths.mulaw import mulaw_bound, mulaw_decode, mulaw_encode
from zoo.maths.resample import resample
from zoo.media import page, samples_of, save_samples, spectrogram_png, wav_bytes, waveform

# -- decoding ----------------------------------------------------------------------------------------------------------

P = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2], dtype=torch.float64)


def _kept(logits: Tensor) -> list[int]:
    return logits.isfinite().nonzero().flatten().tolist()


def test_top_k_keeps_exactly_k() -> None:
    assert [_kept(top_k(P.log(), k)) for k in (1, 2, 4, 5, 9)] == [[1], [1, 3], [0, 1, 3, 4], *[[0, 1, 2, 3, 4]] * 2]
    assert len(_kept(top_k(torch.zeros(6), 2))) == 2  # equals, too
    torch.testing.assert_close(top_k(P.log(), 2).softmax(0)[[1, 3]], P[[1, 3]] / 0.65)


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    for p, kept in ((0.01, [1]), (0.39, [1]), (0.41, [1, 3]), (0.64, [1, 3]), (0.7, [1, 3, 4]), (0.96, [*range(5)])):
        assert _kept(top_p(P.log(), p)) == kept
    both = top_p(torch.stack([P, P.flip(0)]).log(), 0.5)
    assert [_kept(row) for row in both] == [[1, 3], [1, 3]]
    assert len(_kept(top_p(torch.zeros(8), 0.5))) == 4
    assert torch.equal(top_p(P.log(), 1.0), P.log())


def test_draws_follow_the_restricted_distribution() -> None:
    N = 5_000
    u = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    choose = Decoding(temperature=0.5, top_k=4, top_p=0.8)
    share = torch.bincount(choose(P.log().expand(N, -1), u), minlength=5) / N
    q = P**2 * (P > 0.05)  # temperature, then the best four
    q = (q / q.sum()) * torch.tensor([0, 1, 0, 1, 0])  # then as few as reach 0.8
    torch.testing.assert_close(share.double(), q / q.sum(), rtol=0, atol=1.01 / N)


class Table:
    """A state whose logits are a table of the last two values: enough for a beam to be wrong if it is narrow."""

    def __init__(self, logits: Tensor) -> None:
        self.table, self.k = logits, torch.zeros(1, 2, dtype=torch.int64)

    def logits(self) -> Tensor:
        return self.table[self.k[:, -2], self.k[:, -1]]

    def put(self, values: Tensor) -> None:
        self.k = torch.cat([self.k, values[:, None]], 1)

    def select(self, rows: Tensor) -> None:
        self.k = self.k[rows]


def test_a_wide_beam_equals_brute_force_and_a_narrow_one_is_a_bound() -> None:
    table = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2
    scores = {}
    for k in itertools.product(range(3), repeat=4):
        state, log_p = Table(table), 0.0
        for v in k:
            log_p += state.logits().log_softmax(-1)[0, v].item()
            state.put(torch.tensor([v]))
        scores[k] = log_p
    ranked = sorted(scores, key=lambda k: -scores[k])
    values, log_p = beam_search(Table(table), 4, 81)
    found = [tuple(v) for v in values.tolist()]
    assert found[0] == ranked[0] and set(found) == set(ranked)  # some are equally probable
    assert [scores[k] for k in found] == pytest.approx([scores[k] for k in ranked])
    assert log_p.tolist() == pytest.approx([scores[k] for k in ranked])
    best = [beam_search(Table(table), 4, w)[1][0].item() for w in (1, 2, 27)]
    assert best[0] <= best[1] + 1e-12 and best[2] == pytest.approx(scores[ranked[0]])
    with pytest.raises(ConfigError, match="a beam needs"):
        beam_search(Table(table), 0, 1)


# -- text --------------------------------------------------------------------------------------------------------------


def test_the_embedded_plays_are_whole() -> None:
    text = read_shakespeare()
    assert len(text) == 1_186_832 and len(set(text)) == 80 and text.startswith("AS YOU LIKE IT")
    data = Shakespeare(length=256)
    assert data.levels == 80 and data.shape == (256,) and data.unit == "bits_per_character"
    assert data.digest("test") == "07336934ac4e064e0a11b56e909efc3e7ef32998aa871b7544cd6e441e4cb591"


@pytest.mark.parametrize("length", [1, 7, 64])
def test_every_character_of_the_test_text_is_counted_once(length: int) -> None:
    values = torch.arange(1000)
    parts = {s: cut(values, length, s) for s in ("train", "validation", "test")}
    held = 1000 // 10 // length * length
    assert torch.equal(parts["test"].flatten(), values[1000 - held :])
    assert torch.equal(parts["validation"].flatten(), values[1000 - 2 * held : 1000 - held])
    train = parts["train"]
    assert torch.equal(train[:, 0], torch.arange(1000 - 2 * held - length + 1)) and train.max() == 999 - 2 * held
    assert torch.equal(train[5], values[5 : 5 + length])


def test_any_text_file(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("čau světe! " * 60, encoding="utf-8")
    data = TextFile(str(path), length=16, batch_size=4)
    assert data.alphabet == "".join(sorted(set("čau světe! "))) and data.levels == 10
    x, labels = data.split("test")
    assert x.shape == (4, 16) and x.dtype == torch.uint8 and labels.shape == (4,)
    model = Transformer(shape=(16,), levels=10, width=8, depth=1, heads=1, alphabet=data.alphabet)
    assert "".join(model.text(data.to_float(x))) == ("čau světe! " * 60)[-64:]
    assert "16 characters" in data.counting
    stream = iter(data.train_dataloader())
    assert next(stream)[0].shape == (4, 16)


def test_texts_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.txt cannot be read"):
        TextFile(str(tmp_path / "missing.txt")).split("train")
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8"):
        TextFile(str(bad)).split("train")
    bad.write_text("abc")
    with pytest.raises(DataError, match="take at least 2,560 characters"):
        TextFile(str(bad)).split("test")
    with pytest.raises(DataError, match="'b', which is not in the alphabet"):
        TextFile(str(bad), alphabet="ac").split("test")
    bad.write_text("".join(map(chr, range(300, 600))))
    with pytest.raises(DataError, match="300 distinct characters"):
        TextFile(str(bad)).split("test")


# -- audio -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [256, 16])
def test_mulaw_round_trip_stays_within_its_bound(levels: int) -> None:
    x = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    k = mulaw_encode(x, levels)
    assert k.min() == 0 and k.max() == levels - 1 and (k.diff() >= 0).all()
    error = (mulaw_decode(k.double() / (levels - 1), levels) - x).abs()
    assert (error <= mulaw_bound(x, levels) * (1 + 1e-9)).all()
    assert (error / mulaw_bound(x, levels)).max() > 0.5  # and the bound is no empty one
    all_k = torch.arange(levels)
    assert torch.equal(mulaw_encode(mulaw_decode(all_k.double() / (levels - 1), levels), levels), all_k)


@pytest.mark.parametrize(("rate", "new"), [(16000, 8000), (44100, 16000), (8000, 22050), (48000, 44100)])
def test_resampled_sines_are_sines(rate: int, new: int) -> None:
    t, s = torch.arange(rate // 4) / rate, torch.arange(-(-(rate // 4) * new // rate)) / new
    for f in (200.0, 1000.0, 0.8 * min(rate, new) / 2):
        y = resample((2 * math.pi * f * t.double()).sin(), rate, new)
        assert len(y) == len(s)
        inner = slice(new // 50, -new // 50)
        torch.testing.assert_close(y[inner], (2 * math.pi * f * s.double()).sin()[inner], rtol=0, atol=2e-3)
    if new < rate:  # what the new rate cannot hold is gone
        alias = resample((2 * math.pi * 0.55 * new * t.double()).sin(), rate, new)
        assert alias[new // 50 : -new // 50].abs().max() < 2e-3
    assert torch.equal(resample(t, rate, rate), t)


def _wav(x: np.ndarray, size: int, channels: int = 1, rate: int = 8000) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(size)
        file.setframerate(rate)
        file.writeframes(x.tobytes())
    return stream.getvalue()


def test_wav_files_of_all_widths_are_read() -> None:
    x = np.array([0, 1, -1, 100, -128, 127])
    wide = np.frombuffer(b"".join(int(v).to_bytes(3, "little", signed=True) for v in x * 65536), dtype=np.uint8)
    cases = {1: (x + 128).astype(np.uint8), 2: (x * 256).astype("<i2"), 3: wide, 4: (x * 2**24).astype("<i4")}
    for size, raw in cases.items():
        y, rate = read_wav(io.BytesIO(_wav(raw, size)), "x")
        assert rate == 8000 and torch.equal(y, torch.tensor(x / 128, dtype=torch.float32))
    stereo, _ = read_wav(io.BytesIO(_wav((x * 256).astype("<i2"), 2, channels=2)), "x")
    assert stereo.tolist() == [0.5 / 128, 49.5 / 128, -0.5 / 128]
    for bad in (b"", b"RIFF", b"no wave at all" * 10):
        with pytest.raises(DataError, match=r"x\.wav is not a WAV file"):
            read_wav(io.BytesIO(bad), "x.wav")


def test_speech_keeps_its_last_utterance_for_the_test() -> None:
    data = Speech(length=2048, rate=16000)
    sizes = {s: len(data.split(s)[0]) for s in ("train", "validation", "test")}
    assert sizes["test"] == 52_640 // 2048 and sizes["validation"] == 47_840 // 2048 and sizes["train"] > 1000
    assert data.digest("test") == "616295b63935bc99e38cee4c5ea73de40710fde2b8c4ea8bf6d2a6a188d2316b"
    half = Speech(length=2048, rate=8000).split("test")[0]
    assert len(half) == 26_320 // 2048
    assert data.split("train")[0].double().std() > 20


def test_tones_have_their_frequencies() -> None:
    data = Tones(clips=320)
    x, labels = data.split("test")
    assert x.shape == (20, 1024) and len(data.split("train")[0]) == 320
    wave_ = mulaw_decode(data.to_float(x, torch.float64))
    assert wave_.abs().amax(1).min() > 0.25 and wave_.abs().max() < 0.92
    power = (wave_ * torch.hann_window(1024)).to(torch.float64)
    spectrum = torch.fft.rfft(power, 8192).abs()
    for clip, label in zip(spectrum, labels.tolist(), strict=True):
        notes = [label] if label < 8 else CHORDS[label - 8]
        for note in notes:
            bin_ = TONES[note] * 8192 / 8000
            near = clip[int(bin_) - 8 : int(bin_) + 10]
            assert near.max() > 0.1 * clip.max()
    assert not torch.equal(data.split("train")[0][:20], x)
    assert torch.equal(Tones(clips=320).split("test")[0], x)


def test_any_folder_of_wav_files(tmp_path: Path) -> None:
    for i in range(5):
        x = (3000 * np.sin(np.arange(4000) * 0.05 * (i + 1))).astype("<i2")
        (tmp_path / f"{i}.wav").write_bytes(_wav(x, 2, rate=16000))
    data = WavFolder(str(tmp_path), length=512, rate=8000)
    sizes = [len(data.split(s)[0]) for s in ("train", "validation", "test")]
    assert sizes == [3 * ((2000 - 512) // 64 + 1), 3, 3]
    files = [data._files(s) for s in ("train", "validation", "test")]
    assert len({p for part in files for p in part}) == 5
    with pytest.raises(DataError, match="has 4096 samples at 16000 Hz"):
        WavFolder(str(tmp_path)).split("test")
    with pytest.raises(DataError, match="does not exist"):
        WavFolder(str(tmp_path / "none")).split("test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds 0 sound files; it needs three"):
        WavFolder(str(tmp_path / "empty")).split("test")
    for name in ("train", "validation", "test"):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "a.WAV").write_bytes((tmp_path / "0.wav").read_bytes())
    assert len(WavFolder(str(tmp_path / "own"), length=1000, rate=8000).split("test")[0]) == 2


# -- files of samples --------------------------------------------------------------------------------------------------


def tiny_text() -> Transformer:
    torch.manual_seed(0)
    return Transformer(shape=(12,), levels=5, width=8, depth=1, heads=2, alphabet="\nab c").eval()


def tiny_audio() -> WaveNet:
    torch.manual_seed(0)
    model = WaveNet(shape=(600,), width=4, skip=4, stacks=1, depth=3, rate=8000).eval()
    torch.nn.init.normal_(model.out.weight)
    return model


def test_recordings_are_written_as_they_are_heard(tmp_path: Path) -> None:
    model = tiny_audio()
    x = model.sample(2, seed=0)
    sound, spectrogram = save_samples(model, x, tmp_path / "x.wav")
    assert [sound.name, spectrogram.name] == ["x.wav", "x.png"]
    with sound.open("rb") as file:
        y, rate = read_wav(file, "x")
    assert rate == 8000 and len(y) == 2 * 600 + 400  # with 50 ms of silence between
    torch.testing.assert_close(y[:600], mulaw_decode(x[0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(y, waveform(model, x), rtol=0, atol=1e-4)
    assert spectrogram.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"go to \.wav or \.npz, not to 'x\.png'"):
        save_samples(model, x, tmp_path / "x.png")
    assert len(spectrogram_png(torch.zeros(10), 8000)) > 1000 and wav_bytes(torch.zeros(3), 8000)[:4] == b"RIFF"


def test_texts_are_written_as_they_are_read(tmp_path: Path) -> None:
    model = tiny_text()
    x = model.sample(2, seed=0)
    (path,) = save_samples(model, x, tmp_path / "x.txt")
    assert path.read_text() == page(model.text(x)) == samples_of(model, x)[".txt"].decode()
    with pytest.raises(ConfigError, match=r"go to \.txt or \.npz"):
        save_samples(model, x, tmp_path / "x.wav")
    save_samples(model, x, tmp_path / "x.npz", seed=3)
    with np.load(tmp_path / "x.npz") as file:
        assert np.array_equal(file["samples"], x.numpy()) and file["seed"] == 3


def test_sample_prints_text_and_writes_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text, audio = tiny_text(), tiny_audio()
    save_pretrained(text, "text", samples={"samples.txt": b"ab"})
    save_pretrained(audio, "audio", samples={"samples.wav": wav_bytes(torch.zeros(3), 8000)})
    assert (tmp_path / "text" / "samples.txt").is_file() and (tmp_path / "audio" / "samples.wav").is_file()
    assert load_pretrained("text").alphabet == "\nab c"
    assert main(["sample", "./text", "--seed", "1", "--prompt", "cab", "--option", "length=30"]) == 0
    said = capsys.readouterr()
    assert said.out == page(text.text(text.sample(1, seed=1, prompt="cab", length=30))) and "seed 1" in said.err
    assert main(["sample", "./text", "-n", "3", "--seed", "2", "--out", "x.txt"]) == 0
    assert (tmp_path / "x.txt").read_text() == page(text.text(text.sample(3, seed=2)))
    assert main(["sample", "./audio", "--seed", "1", "--out", "x.wav"]) == 0
    assert (tmp_path / "x.wav").is_file() and (tmp_path / "x.png").is_file()
    assert "x.wav and x.png: 4 samples" in capsys.readouterr().out
    assert main(["sample", "./audio", "--out", "y.png"]) == 2
    assert "go to .wav or .npz" in capsys.readouterr().err
    assert main(["sample", "./audio", "--prompt", "a"]) == 2
    assert "no alphabet" in capsys.readouterr().err


def test_only_files_of_samples_go_into_a_model_folder(tmp_path: Path) -> None:
    from zoo.errors import ModelFolderError

    for name, content in (("samples.wav", b"x"), ("samples.txt", b"a\0"), ("other.txt", b"a"), ("samples.png", b"x")):
        with pytest.raises(ModelFolderError, match="is no file of samples"):
            save_pretrained(tiny_text(), tmp_path / "m", samples={name: content})
