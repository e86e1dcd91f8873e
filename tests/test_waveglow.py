"""Laws of WaveGlow: inverse, log-determinant, what is told of a spectrogram, and vocoding from the command line."""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from zoo._cli import main
from zoo.abilities import Vocodes
from zoo.data.audio import Tones
from zoo.errors import ConfigError, DataError
from zoo.families.waveglow import WaveGlow
from zoo.hub import save_pretrained
from zoo.maths.mel import log_mel
from zoo.maths.mulaw import mulaw_decode
from zoo.nets.told_waves import ToldWaves

T = 64
SMALL = {"shape": (T,), "rate": 8000, "group": 8, "steps": 5, "early_every": 2, "width": 4, "layers": 2, "size": 32,
         "hop": 16, "bands": 4}  # fmt: skip


def _waveglow(args: Mapping[str, Any]) -> float:
    """Couplings and matrices, the taps of the transposed convolution; spectrogram and samples have no gradient."""
    length, g, C, N, bands = args["shape"][0], args["group"], args["width"], args["layers"], args["bands"]
    W, frames, ratio = length // g, 1 + length // args["hop"], args["hop"] // g
    total = 0
    for k in range(args["steps"]):
        n = g - args["early"] * (k // args["early_every"])
        a, b = n // 2, n - n // 2
        coupling = a * C + N * (6 * C * C + 2 * C * C + 2 * C * bands) - C * C + 2 * C * b
        total += W * (n * n + coupling)
    upsample = frames * 2 * ratio * (bands + 1) * bands
    mel = frames * (args["size"] // 2 + 1) * bands  # power to bands, a product without gradient
    return 2.0 * (3 * total - W * g * g + 2 * upsample + mel)


STEP_FLOPS = {"WaveGlow": _waveglow}


def small(stir: float = 0.1, **options: Any) -> WaveGlow:
    torch.manual_seed(0)
    model = WaveGlow(**{**SMALL, **options}).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(stir * torch.randn_like(p))
    model.set_noise([torch.Generator().manual_seed(0)])
    return model.requires_grad_(False).eval()


def recordings(n: int = 3, length: int = T, seed: int = 1) -> Tensor:
    k = torch.randint(256, (n, length), generator=torch.Generator().manual_seed(seed))
    return k.double() / 255


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": 1},
        {"steps": 6, "early": 1},
        {"group": 4, "early": 1, "steps": 4},
        {"group": 16, "hop": 32, "shape": (96,)},
    ],
)
def test_the_flow_comes_back_and_knows_its_log_determinant(options: dict[str, Any]) -> None:
    model = small(**options)
    y = recordings(2, model.shape[0])
    for c in (None, model.condition(recordings(2, model.shape[0], seed=2))):
        z, log_det = model.flow(y, c)
        torch.testing.assert_close(model.flow_inverse(z, c), y)
        J = torch.autograd.functional.jacobian(
            lambda x, c=c: model.flow(x[None], None if c is None else c[:1])[0][0], y[0]
        )
        assert float(log_det[0]) == pytest.approx(float(torch.linalg.slogdet(J)[1]))


def test_every_sample_of_the_noise_is_used_and_channels_leave_early() -> None:
    model = small()
    y = recordings(1)
    J = torch.autograd.functional.jacobian(lambda x: model.flow(x[None])[0][0], y[0])
    assert bool((J.abs().sum(0) > 0).all()) and bool((J.abs().sum(1) > 0).all())
    assert [step.sizes for step in model.flow_steps] == [[4, 4], [4, 4], [3, 3], [3, 3], [2, 2]]


def test_half_of_the_channels_and_what_is_told_move_the_others() -> None:
    step = small().flow_steps[0]
    x, c = torch.randn(1, 8, 8, dtype=torch.float64), torch.randn(1, 4, 8, dtype=torch.float64)
    mixed = step.mix(x[:, :, None])[0][:, :, 0]
    z, log_det = step(x, c)
    torch.testing.assert_close(z[:, :4], mixed[:, :4])
    assert not torch.allclose(step(x, c + 1)[0][:, 4:], z[:, 4:])
    shift, raw = step.net(mixed[:, :4], c).chunk(2, 1)
    log_s = 3 * torch.tanh(raw / 3)
    torch.testing.assert_close(z[:, 4:], mixed[:, 4:] * log_s.exp() + shift)
    assert float(log_det) == pytest.approx(float(log_s.sum() + 8 * torch.linalg.slogdet(step.mix.weight())[1]))


def test_the_spectrogram_is_that_of_the_waveform_and_lies_where_its_groups_are() -> None:
    model = small()
    x = recordings()
    levels = log_mel(mulaw_decode(x), 8000, 32, 16, 4, centred=True)
    torch.testing.assert_close(model.spectrogram(x), (levels / 80 + 1).transpose(1, 2))
    silence = torch.full((1, 160), 127.5 / 255, dtype=torch.float64)
    loud = silence.clone()
    loud[0, 84] = 1.0  # in frames 5 and 6, about groups 10 and 12
    changed = (model.condition(loud) - model.condition(silence)).abs().sum(1)[0] > 1e-9
    assert changed.nonzero().flatten().tolist() == list(range(8, 14))


def test_training_tells_most_their_own_spectrogram_and_some_nothing() -> None:
    model = small(told_nothing=0.4)
    x = recordings(200)
    found = model.loss((x, torch.zeros(200)))["loss"]
    model.set_noise([torch.Generator().manual_seed(0)])
    y, offset = model._continuous(x, model.rand, model.randn)
    keep = model.rand(200) >= 0.4
    assert 90 < int(keep.sum()) < 150
    c = torch.where(keep[:, None, None], model.condition(x), model.no_condition(200))
    z, log_det = model.flow(y, c)
    assert float(found) == pytest.approx(-float((model._log_prior(z) + log_det + offset).mean()))
    own, other = (model.flow(y, model.condition(v))[1] for v in (x, x.roll(1, 0)))
    assert not torch.allclose(own, other)


def test_the_likelihood_is_that_of_a_recording_of_which_nothing_is_told() -> None:
    model = small()
    x = recordings()
    with_nothing = model.log_prob(x, seed=0)
    again = WaveGlow(**SMALL).double().eval()
    again.load_state_dict(model.state_dict())
    again.upsample.weight.data.mul_(5)  # what turns spectrograms into what is told
    torch.testing.assert_close(again.log_prob(x, seed=0), with_nothing)
    again.upsample.bias.data.add_(1)
    assert not torch.allclose(again.log_prob(x, seed=0), with_nothing)
    assert model.likelihood() == "exact+dequant"


def test_recordings_of_any_whole_number_of_frames_are_vocoded() -> None:
    model = small()
    assert isinstance(model, Vocodes)
    x = recordings(2, 5 * 16)
    drawn = model.sample(2, seed=0, recording=x)
    assert drawn.shape == (2, 80) and model.sample(3, seed=0, recording=x[0]).shape == (3, 80)
    assert not torch.equal(drawn, model.sample(2, seed=0, recording=x.flip(1)))
    whole = model.sample(2, seed=0, recording=recordings(2))
    assert whole.shape == (2, T) and not torch.equal(whole, model.sample(2, seed=0))
    torch.testing.assert_close(drawn * 255, (drawn * 255).round())


def test_an_evaluation_says_how_far_recordings_are_from_what_their_spectrograms_become() -> None:
    model = small(shape=(512,), size=128, bands=8).float()
    found = zoo.evaluate(model, Tones(length=512, clips=320), samples=20, progress=False)
    assert {"bits_per_sample", "frechet_audio", "vocoded_distance"} <= set(found.metrics)
    assert found.protocol.estimators["sound"]["vocoded_clips"] == 20
    assert found.metrics["vocoded_distance"].value > 1


def test_a_file_is_vocoded_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(small().float(), "vocoder")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((3000 * np.sin(np.arange(1010) * 0.05)).astype("<i2").tobytes())
    Path("in.wav").write_bytes(stream.getvalue())
    assert main(["sample", "./vocoder", "--given", "in.wav", "--seed", "1", "--out", "out.wav"]) == 0
    with wave.open("out.wav") as file:
        assert (file.getframerate(), file.getnframes()) == (8000, 512)  # 505 samples, to a whole frame
    assert main(["sample", "./vocoder", "--given", "none.wav", "--out", "a.wav"]) == 2
    assert main(["sample", "./vocoder", "--given", "in.wav", "--rows", "3", "--out", "a.wav"]) == 2
    said = capsys.readouterr().err
    assert "none.wav cannot be read" in said and "--rows is of images or clips" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [({"shape": (1, 8, 8)}, "recordings of codes"), ({"shape": (60,)}, "do not fit"), ({"hop": 12}, "do not fit"),
     ({"early": 4}, "a coupling needs 2"), ({"told_nothing": 0.0}, "between 0 and 1"), ({"steps": 0}, "at least 1"),
     ({"bands": 200}, "too many")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        model = WaveGlow(**{**SMALL, **options})
        model.sample(1, recording=torch.zeros(T))


def test_recordings_that_do_not_fit_are_refused() -> None:
    model = small()
    for wrong in (torch.zeros(3, T), torch.zeros(T - 1), torch.zeros(1, 2, T), torch.zeros(0)):
        with pytest.raises(ConfigError, match="recording must be one"):
            model.sample(2, recording=wrong)
    with pytest.raises(DataError):
        model.sample(1, recording=torch.full((T,), 2.0))
    with pytest.raises(DataError, match="recording holds NaN"):
        model.sample(1, recording=torch.full((T,), torch.nan))
    with pytest.raises(ConfigError, match="temperature must be"):
        model.sample(1, temperature=-1.0)


def test_the_network_of_a_coupling_starts_at_zero_and_looks_both_ways() -> None:
    torch.manual_seed(0)
    net = ToldWaves(2, 4, 3, 4, 3).double()
    x, c = torch.randn(1, 2, 33, dtype=torch.float64), torch.randn(1, 3, 33, dtype=torch.float64)
    assert not net(x, c).any()
    torch.nn.init.normal_(net.out.weight)
    J = torch.autograd.functional.jacobian(lambda x: net(x, c)[0, :, 16].sum(), x)[0].abs().sum(0)
    assert J.nonzero().flatten().tolist() == list(range(16 - 7, 16 + 8))
