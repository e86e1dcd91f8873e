"""Short-time spectra of recordings, and their mel bands: triangles that are even on the ear's scale of pitch.

    m(f) = 2595 log10(1 + f / 700)

Powers are relative to a sine of full scale, whose peak is 1, 0 dB.

References:
    S. S. Stevens, J. Volkmann, E. B. Newman, A Scale for the Measurement of the Psychological Magnitude Pitch, 1937,
    Journal of the Acoustical Society of America 8: the scale; the formula is D. O'Shaughnessy's, Speech Communication,
    1987.
    S. Davis, P. Mermelstein, Comparison of Parametric Representations for Monosyllabic Word Recognition, 1980, IEEE
    Transactions on Acoustics, Speech, and Signal Processing 28: triangular bands.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.errors import ConfigError

__all__ = ["decibels", "log_mel", "mel_filters", "power_spectrogram"]


def power_spectrogram(x: Tensor, size: int, hop: int, *, centred: bool = False) -> Tensor:
    """Return the power of each frame of recordings under a Hann window: (B, N) -> (B, frames, size // 2 + 1).

    Args:
        x: recordings in [-1, 1].
        size: samples of a frame, even.
        hop: from one frame to the next.
        centred: put frame k's middle at sample k hop, with silence before and behind: 1 + N // hop frames. Otherwise
            frame k begins there, and all lie within the recording: 1 + (N - size) // hop.

    Raises:
        ConfigError: an odd size, no hop, or recordings shorter than a frame that is to lie within them.
    """
    if size < 2 or size % 2 or hop < 1:
        raise ConfigError(f"frames need an even size and a hop of at least 1, got {size} and {hop}")
    if not centred and x.shape[1] < size:
        raise ConfigError(f"recordings of {x.shape[1]} samples hold no frame of {size}; take shorter frames")
    if centred:
        x = torch.nn.functional.pad(x, (size // 2, size // 2))
    window = torch.hann_window(size, dtype=x.dtype, device=x.device)
    frames = x.unfold(1, size, hop) * window  # (B, frames, size)
    return torch.fft.rfft(frames).abs().square() / (window.sum() / 2) ** 2


def mel_filters(bands: int, size: int, rate: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the weights of triangular bands from 0 to rate / 2, each 1 at its peak: (bands, size // 2 + 1).

    Args:
        bands: how many.
        size: samples of a frame.
        rate: samples a second.
        dtype: of the weights.

    Raises:
        ConfigError: so many bands that one of them holds no frequency of the spectrum.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)  # Hz
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    f = torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size
    weights = torch.minimum((f - low) / (peak - low), (high - f) / (high - peak)).clamp_min(0)
    if bool((weights.sum(1) == 0).any()):
        raise ConfigError(f"{bands} mel bands are too many for frames of {size} samples at {rate} Hz; take fewer")
    return weights.to(dtype)


def decibels(power: Tensor, floor: float = -80.0) -> Tensor:
    """Return 10 log10 of powers, of their shape, nothing below ``floor`` dB."""
    return 10 * power.clamp_min(10 ** (floor / 10)).log10()


def log_mel(
    x: Tensor, rate: int, size: int, hop: int, bands: int, *, floor: float = -80.0, centred: bool = False,
    filters: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return the mel bands of recordings in dB: (B, N) in [-1, 1] -> (B, frames, bands).

    The arguments are those of `power_spectrogram`, `mel_filters` and `decibels`; ``filters`` are those of `mel_filters`
    where they are kept on the device already.

    Raises:
        ConfigError: as these.
    """
    power = power_spectrogram(x, size, hop, centred=centred)
    if filters is None:
        filters = mel_filters(bands, size, rate, x.dtype).to(x.device)
    return decibels(power @ filters.to(x.dtype).T, floor)
