"""Recordings against recordings: distances between spectra, and the Frechet distance of their mel bands.

No network that was trained on speech or music is asked. The features of a frame are its mel bands in dB and how far
each moves until the next frame, over the square root of the number of bands, so that a gain of g dB costs a Frechet
distance of g squared: the unit is dB squared. They see loudness, timbre and how fast both change, and no phase; the
distance is not comparable with published ones on VGGish features.

References:
    A. Gray, J. Markel, Distance Measures for Speech Processing, 1976, IEEE Transactions on Acoustics, Speech, and
    Signal Processing 24: the log-spectral distance.
    K. Kilgour, M. Zuluaga, D. Roblek, M. Sharifi, Frechet Audio Distance: A Metric for Evaluating Music Enhancement
    Algorithms, 2018, arXiv:1812.08466: features of frames, a Gaussian fitted to each set.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.maths.mel import decibels, log_mel, power_spectrogram
from zoo.maths.mulaw import mulaw_decode
from zoo.metrics.distribution import Estimate, frechet

__all__ = [
    "SOUND",
    "log_spectral_distance",
    "sound_estimates",
    "sound_features",
    "sound_protocol",
    "spectral_distance",
    "waveforms",
]

SOUND = {"size": 256, "hop": 128, "bands": 20, "floor_db": -80.0}
"""Samples of a frame, from one frame to the next, mel bands, and the loudness below which all is silence."""


def waveforms(x: Tensor, levels: int) -> Tensor:
    """Return the recordings in [-1, 1] that mu-law codes in data range stand for, float64, of the shape of x."""
    return mulaw_decode(x.double(), levels)


def spectral_distance(p: Tensor, q: Tensor) -> Tensor:
    """Return the root mean square over frequencies of the difference in dB: powers (..., F) and (..., F) -> (...)."""
    floor = SOUND["floor_db"]
    return (decibels(p, floor) - decibels(q, floor)).square().mean(-1).sqrt()


def log_spectral_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the log-spectral distance of each recording from its reference, in dB, the mean over frames.

    Args:
        x: recordings (B, N) in [-1, 1].
        y: references (B, N).

    Returns:
        (B,), 0 where the spectra are equal, 20 log10 g where x is g y.

    Raises:
        ConfigError: recordings shorter than a frame.
    """
    p, q = (power_spectrogram(z, int(SOUND["size"]), int(SOUND["hop"])) for z in (x.double(), y.double()))
    return spectral_distance(p, q).mean(1)


def sound_features(x: Tensor, rate: int) -> Tensor:
    """Return the features of all frames but the last of each recording: (B, N) in [-1, 1] -> (B frames, 2 bands).

    Raises:
        ConfigError: recordings shorter than a frame.
    """
    bands = int(SOUND["bands"])
    levels = log_mel(
        x.double(), rate, int(SOUND["size"]), int(SOUND["hop"]), bands, floor=SOUND["floor_db"]
    ) / math.sqrt(bands)  # fmt: skip
    return torch.cat([levels[:, :-1], levels.diff(dim=1)], 2).flatten(0, 1)


def sound_protocol(clips: int, test_clips: int, length: int) -> dict[str, Any] | None:
    """Return what the numbers depend on; None where either set has fewer frames than features, so there are none.

    Args:
        clips: how many recordings are drawn.
        test_clips: how many they are compared with.
        length: samples of each.
    """
    frames = (length - int(SOUND["size"])) // int(SOUND["hop"])
    enough = length >= SOUND["size"] and min(clips, test_clips) * frames >= 2 * SOUND["bands"]
    return {"clips": clips, "test_clips": test_clips, **SOUND} if enough else None


def sound_estimates(x: Tensor, test: Tensor, rate: int) -> dict[str, Estimate]:
    """Return ``frechet_audio`` in dB squared and ``spectrum_distance`` in dB, between two sets of recordings.

    The second is `spectral_distance` of the mean spectra of the sets, over all their frames.

    Args:
        x: recordings (N, T) in [-1, 1].
        test: recordings (M, T).
        rate: samples a second.

    Raises:
        ResultError: fewer frames than features, or recordings that are not finite.
    """
    means = [power_spectrogram(z.double(), int(SOUND["size"]), int(SOUND["hop"])).mean((0, 1)) for z in (x, test)]
    return {
        "frechet_audio": frechet(sound_features(x, rate), sound_features(test, rate)),
        "spectrum_distance": (float(spectral_distance(*means)), None, None),
    }
