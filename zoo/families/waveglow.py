"""WaveGlow: Glow on groups of samples, told a mel spectrogram: a vocoder that draws a recording in one pass.

    log p(x | c) = log N(z; 0, I) + sum over steps (sum log s(x_a, c) + W log |det W_k|)

The T samples of a recording are W = T / g groups of g channels. A step mixes the channels by an invertible matrix W_k,
then one half of them, x_a, and the spectrogram scale and shift the other; after some steps two channels leave as noise.
The spectrogram's frames reach the groups by a transposed convolution.

Some examples of training are told nothing, a band more of the spectrogram saying so, so that the model is one of log
p(x) too: this is its likelihood, which compares with that of other models, and what it draws from where no
recording is given. The samples are companded, as those of the data are, and dequantised as the levels of images are.

References:
    R. Prenger, R. Valle, B. Catanzaro, WaveGlow: A Flow-based Generative Network for Speech Synthesis, 2018,
    arXiv:1811.00002, section 2.
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598: conditions that are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checking import given_of
from zoo.errors import ConfigError, DataError
from zoo.families.normalising_flow import NormalisingFlow
from zoo.maths.mel import log_mel, mel_filters
from zoo.maths.mulaw import mulaw_decode
from zoo.maths.noise import randn
from zoo.maths.transforms import affine, affine_inverse
from zoo.model import Batch
from zoo.nets.bijections import InvertibleConv
from zoo.nets.told_waves import ToldWaves

__all__ = ["FlowStep", "WaveGlow"]

_CAP = 3.0
"""Log-scales of a coupling stay within +- this, smoothly."""
_FLOOR = -80.0
"""Of the spectrogram in dB; it is told as 0 there and as 1 at full scale."""


class FlowStep(nn.Module):
    """An invertible matrix over the channels, then a coupling that is told c: (B, n, W) -> the same.

    Args:
        channels: n, at least 2.
        bands: channels of c.
        width: of the coupling's network.
        layers: of it.
    """

    def __init__(self, channels: int, bands: int, width: int, layers: int) -> None:
        super().__init__()
        self.mix = InvertibleConv(channels)
        self.sizes = [channels // 2, channels - channels // 2]
        self.net = ToldWaves(self.sizes[0], 2 * self.sizes[1], bands, width, layers)

    def _moved(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.net(a, c).chunk(2, 1)
        return shift, _CAP * torch.tanh(raw / _CAP)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log |det dz / dx|, (B,)."""
        x, log_det = self.mix(x[:, :, None])  # (B, n, 1, W)
        a, b = x[:, :, 0].split(self.sizes, 1)
        b, more = affine(b, *self._moved(a, c))
        return torch.cat([a, b], 1), log_det + more

    def inverse(self, z: Tensor, c: Tensor) -> Tensor:
        """Return x."""
        a, b = z.split(self.sizes, 1)
        b = affine_inverse(b, *self._moved(a, c))
        return self.mix.inverse(torch.cat([a, b], 1)[:, :, None])[:, :, 0]


class WaveGlow(NormalisingFlow):
    """Normalising flow of recordings that are told their spectrogram, or nothing.

    Args:
        shape: (T,) of a recording, whose T is a multiple of ``hop``.
        rate: samples a second.
        group: g, samples that are the channels of a group; even.
        steps: of flow.
        early_every: after how many steps channels leave as noise.
        early: how many leave.
        width: channels of the networks of the couplings.
        layers: of these.
        size: samples of a frame of the spectrogram.
        hop: from one frame to the next, a multiple of ``group``.
        bands: of the mel spectrogram.
        told_nothing: share of the examples of training that are told nothing, above 0 and below 1.

    The other arguments are those of `zoo.families.normalising_flow.NormalisingFlow`.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "layers": "depth"}

    def __init__(
        self,
        shape: Sequence[int] = (4096,),
        rate: int = 16000,
        group: int = 8,
        steps: int = 12,
        early_every: int = 4,
        early: int = 2,
        width: int = 32,
        layers: int = 4,
        size: int = 512,
        hop: int = 128,
        bands: int = 40,
        told_nothing: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, prior="normal", rate=rate, **kwargs)
        if len(self.shape) != 1 or self.levels is None:
            raise ConfigError(f"WaveGlow is of recordings of codes, (T,), not of {tuple(shape)}")
        if min(group, steps, early_every, early, width, layers) < 1 or not 0 < told_nothing < 1:
            raise ConfigError("WaveGlow's sizes must be at least 1, and told_nothing between 0 and 1")
        if hop % group or self.shape[0] % hop:
            raise ConfigError(
                f"recordings of {self.shape[0]} samples, frames {hop} apart and groups of {group} do not fit: the "
                f"length must be a multiple of hop, and hop of group"
            )
        left = group - early * ((steps - 1) // early_every)
        if left < 2:
            raise ConfigError(
                f"of {group} channels {left} would be left at the end, and a coupling needs 2; use larger groups"
            )
        self.group, self.every, self.early, self.told_nothing = group, early_every, early, told_nothing
        self.size, self.hop, self.bands = size, hop, bands
        ratio = hop // group
        self.register_buffer("filters", mel_filters(bands, size, rate or 1, torch.float64), persistent=False)
        self.upsample = nn.ConvTranspose1d(bands + 1, bands, 2 * ratio, ratio)  # one band is 1 where anything is told
        channels = [group - early * (k // early_every) for k in range(steps)]
        self.flow_steps = nn.ModuleList(FlowStep(n, bands, width, layers) for n in channels)

    # -- what is told -------------------------------------------------------------------------------------------------

    def spectrogram(self, x: Tensor) -> Tensor:
        """Return the mel spectrogram of recordings in data range: (B, T) -> (B, bands, 1 + T / hop).

        It is in dB, 0 at the floor of -80 and 1 at full scale.
        """
        waves = mulaw_decode(x.to(torch.promote_types(x.dtype, torch.float32)), self.levels or 256)
        levels = log_mel(
            waves, self.rate or 1, self.size, self.hop, self.bands, floor=_FLOOR, centred=True, filters=self.filters
        )
        return (levels / -_FLOOR + 1).transpose(1, 2).to(x.dtype)

    def condition(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return what each group of recordings in data range is told: (B, T) -> (B, bands, W).

        Args:
            x: recordings, of any length that is a multiple of ``hop``.
            keep: of which the spectrogram is told, bool (B,), the others are told nothing; of all if left out.
        """
        W, ratio = x.shape[1] // self.group, self.hop // self.group
        bands = F.pad(self.spectrogram(x), (0, 0, 0, 1), value=1.0)  # (B, bands + 1, frames)
        if keep is not None:
            bands = bands * keep[:, None, None]
        c: Tensor = self.upsample(bands)[:, :, ratio : ratio + W]  # frame k about group k hop / g
        return c

    def no_condition(self, n: int) -> Tensor:
        """Return what each group of n examples is told where that is nothing: (n, bands, W)."""
        bias: Tensor = self.upsample.bias  # type: ignore[assignment]
        return bias[:, None].expand(n, -1, self.shape[0] // self.group)

    # -- the flow -----------------------------------------------------------------------------------------------------

    def flow(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the noise (B, T) and log |det|, (B,), of continuous examples that are told c, or nothing."""
        c = self.no_condition(x.shape[0]) if c is None else c
        log_det, out = x.new_full((len(x),), x.shape[1] * math.log(2)), []
        x = (2 * x - 1).unflatten(1, (-1, self.group)).transpose(1, 2)  # (B, g, W)
        for k, step in enumerate(self.flow_steps):
            if k and k % self.every == 0:
                out.append(x[:, : self.early])
                x = x[:, self.early :]
            x, more = step(x, c)
            log_det = log_det + more
        return torch.cat([*out, x], 1).flatten(1), log_det

    def flow_inverse(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Return the continuous examples of noise (B, T) that are told c, or nothing."""
        c = self.no_condition(z.shape[0]) if c is None else c
        z = z.unflatten(1, (self.group, -1))
        left = self.early * ((len(self.flow_steps) - 1) // self.every)
        x = z[:, left:]
        for k in range(len(self.flow_steps) - 1, -1, -1):
            x = self.flow_steps[k].inverse(x, c)  # type: ignore[operator]
            if k and k % self.every == 0:
                left -= self.early
                x = torch.cat([z[:, left : left + self.early], x], 1)
        return (x.transpose(1, 2).flatten(1) + 1) / 2

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, the negative log-likelihood of recordings told their spectrograms, of some told nothing."""
        x, offset = self._continuous(batch[0], self.rand, self.randn)
        z, log_det = self.flow(x, self.condition(batch[0], self.rand(len(x)) >= self.told_nothing))
        return {"loss": -(self._log_prior(z) + log_det + offset).mean()}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        recording: Tensor | None = None,
    ) -> Tensor:
        """Draw recordings, in one pass.

        Args:
            n: how many.
            generator: of the noise.
            labels: none.
            temperature: factor of the noise's scale; the paper draws at 0.6.
            recording: recordings in data range whose spectrograms are told, (m,) or (n, m), of any length m that is a
                multiple of ``hop``, which is then that of the samples; none for nothing.

        Raises:
            ConfigError: a temperature out of range, or recordings of another shape or number.
            DataError: recordings that are none, or out of range.
        """
        if not 0 <= temperature < math.inf:
            raise ConfigError(f"temperature must be finite and not negative, got {temperature}")
        where = generator, self.device, self.dtype
        if recording is None:
            return self.data_range(self.flow_inverse(temperature * randn((n, self.shape[0]), *where)), whole=True)
        x = given_of(self, recording)
        if x.ndim not in (1, 2) or (x.ndim == 2 and len(x) not in (1, n)) or not x.shape[-1] or x.shape[-1] % self.hop:
            raise ConfigError(
                f"recording must be one, (m,), or {n} of them, ({n}, m), with m a multiple of {self.hop}, got "
                f"{tuple(x.shape)}"
            )
        if bool(x.isnan().any()):
            raise DataError("recording holds NaN; a vocoder takes whole recordings, in [0, 1]")
        c = self.condition(x.to(self.device, self.dtype).expand(n, -1))
        z = temperature * randn((n, x.shape[-1]), *where)
        return self.data_range(self.flow_inverse(z, c), whole=True)
