"""Distances between recordings: closed forms of gains, sines and Gaussians, and what an evaluation of sound reports."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.data.audio import Tones
from zoo.errors import ConfigError
from zoo.families.wavenet import WaveNet
from zoo.maths.mel import decibels, log_mel, mel_filters, power_spectrogram
from zoo.metrics.distribution import frechet
from zoo.metrics.sound import (
    log_spectral_distance,
    sound_estimates,
    sound_features,
    sound_protocol,
    spectral_distance,
)

RATE = 8000


def noise(n: int = 40, length: int = 2048, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(n, length, generator=generator, dtype=torch.float64)


# -- spectra -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [5, 40, 100])
def test_a_sine_of_full_scale_has_a_peak_of_one(k: int) -> None:
    t = torch.arange(1024, dtype=torch.float64)
    x = torch.stack([(2 * math.pi * k / 256 * t + phase).sin() for phase in (0.0, 0.7, 2.0)])
    power = power_spectrogram(x, 256, 128)
    assert power.shape == (3, 7, 129)
    torch.testing.assert_close(power[..., k], torch.ones(3, 7, dtype=torch.float64), rtol=1e-3, atol=0)
    rest = torch.cat([power[..., : k - 1], power[..., k + 2 :]], -1)  # a Hann window spreads to both neighbours
    assert rest.max() < 1e-3
    torch.testing.assert_close(power_spectrogram(0.5 * x, 256, 128), power / 4)


def test_frames_lie_where_they_are_said_to() -> None:
    x = torch.zeros(1, 1000, dtype=torch.float64)
    x[0, 512] = 1
    within, centred = power_spectrogram(x, 128, 64).sum(2)[0], power_spectrogram(x, 128, 64, centred=True).sum(2)[0]
    assert len(within) == 1 + (1000 - 128) // 64 and len(centred) == 1 + 1000 // 64
    assert int(within.argmax()) == (512 - 64) // 64 and int(centred.argmax()) == 512 // 64
    with pytest.raises(ConfigError, match="hold no frame of 128"):
        power_spectrogram(torch.zeros(1, 100), 128, 64)
    with pytest.raises(ConfigError, match="an even size"):
        power_spectrogram(torch.zeros(1, 100), 7, 4)


def test_mel_bands_overlap_to_one_and_peak_evenly_in_pitch() -> None:
    weights = mel_filters(12, 1024, 16000, torch.float64)
    f = torch.arange(513, dtype=torch.float64) * 16000 / 1024
    peaks = f[weights.argmax(1)]
    mel = 2595 * (1 + peaks / 700).log10()
    torch.testing.assert_close(
        mel.diff(), torch.full((11,), 2595 * math.log10(1 + 8000 / 700) / 13).double(), rtol=0.06, atol=0
    )
    inner = (f > peaks[0]) & (f < peaks[-1])
    torch.testing.assert_close(weights.sum(0)[inner], torch.ones(int(inner.sum()), dtype=torch.float64))
    with pytest.raises(ConfigError, match="60 mel bands are too many"):
        mel_filters(60, 128, 8000)


# -- distances ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [0.5, 0.9, 2.0])
def test_a_gain_costs_its_decibels(gain: float) -> None:
    x, g = noise(), 20 * math.log10(gain)
    every = torch.full((40,), abs(g), dtype=torch.float64)
    torch.testing.assert_close(log_spectral_distance(gain * x, x), every, rtol=1e-3, atol=0)  # a few bins are silent
    found = sound_estimates(gain * x, x, RATE)
    assert found["spectrum_distance"][0] == pytest.approx(abs(g)) and found["frechet_audio"][0] == pytest.approx(
        g * g, rel=1e-4
    )
    bands = log_mel(gain * x, RATE, 256, 128, 20) - log_mel(x, RATE, 256, 128, 20)
    torch.testing.assert_close(bands, torch.full_like(bands, g))


def test_equal_sets_are_at_no_distance_and_other_sounds_at_some() -> None:
    x = noise()
    same = sound_estimates(x, x, RATE)
    assert abs(same["frechet_audio"][0]) < 1e-6 and same["spectrum_distance"][0] == 0
    assert float(log_spectral_distance(x, x).max()) == 0
    again = sound_estimates(noise(seed=1), x, RATE)["frechet_audio"][0]
    t = torch.arange(2048, dtype=torch.float64)
    sines = 0.1 * math.sqrt(2) * torch.stack([(0.02 * (i + 5) * t).sin() for i in range(40)])  # as loud as the noise
    assert sound_estimates(sines, x, RATE)["frechet_audio"][0] > 50 * again > 0


def test_reversed_time_is_told_apart_by_how_bands_move() -> None:
    """Attacks that decay, and the same backwards: frames have one law, their changes have not."""
    t = torch.arange(2048, dtype=torch.float64)
    x = noise() * 10 ** (-(t % 1024) / 1024 * 2)  # 40 dB in 1024 samples, then at once back
    y = x.flip(1)
    still = [sound_features(z, RATE)[:, :20] for z in (x, y)]
    moving = [sound_features(z, RATE) for z in (x, y)]
    assert frechet(*moving)[0] > 5 * frechet(*still)[0]


def test_the_distance_is_that_of_gaussians() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T  # whitened
    scale, shift = torch.tensor([2.0, 0.5, 1.0]).double(), torch.tensor([1.0, 0.0, -2.0]).double()
    closed = float((shift**2).sum() + ((scale - 1) ** 2).sum())
    assert frechet(x * scale + shift, x)[0] == pytest.approx(closed, rel=1e-6)


def test_silence_is_silence_however_deep() -> None:
    p = torch.tensor([[1.0, 1e-9], [1.0, 0.0]], dtype=torch.float64)
    assert float(spectral_distance(p[0], p[1])) == 0 and decibels(p).min() == -80


# -- evaluation --------------------------------------------------------------------------------------------------------


def test_sets_of_too_few_frames_have_no_distance() -> None:
    assert sound_protocol(4, 4, 100) is None and sound_protocol(2, 50, 1024) is None
    assert sound_protocol(50, 8, 1024) == {
        "clips": 50, "test_clips": 8, "size": 256, "hop": 128, "bands": 20, "floor_db": -80.0,
    }  # fmt: skip


def test_an_evaluation_of_sound_reports_both_distances_and_their_floor() -> None:
    torch.manual_seed(0)
    model = WaveNet(shape=(512,), width=4, skip=4, stacks=1, depth=3, rate=RATE).eval()
    data = Tones(length=512, clips=640)
    found: Any = zoo.evaluate(model, data, samples=30, progress=False)
    assert {"bits_per_sample", "frechet_audio", "spectrum_distance"} <= set(found.metrics)
    assert found.protocol.estimators["sound"]["clips"] == 30 == found.protocol.estimators["sound"]["test_clips"]
    for name in ("frechet_audio", "spectrum_distance"):  # it draws noise
        assert found.metrics[name].value > 5 * found.floor[name].value > 0
    short = zoo.evaluate(
        WaveNet(shape=(64,), width=4, skip=4, stacks=1, depth=3, rate=RATE), Tones(length=64, clips=160), samples=4,
        progress=False,
    )  # fmt: skip
    assert "frechet_audio" not in short.metrics and "sound" not in short.protocol.estimators
