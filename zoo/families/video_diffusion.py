"""Diffusion of videos, which also predicts: what follows, given the first frames.

    x_t = alpha x_0 + sigma eps in the frames to come,   x_0 itself in the first k frames,
    network([x_t, m], lambda, y) -> v in the frames to come,   m = 1 where a frame is given

For a share of the training clips k is drawn evenly from 1 to T - 1, for the others it is 0, so that one network draws
videos and continues them; it is told by the channel m which frames are clean. The loss is that of the frames to come.
Samplers are those of all diffusion models, and take such a network as it is.

References:
    J. Ho and others, Video Diffusion Models, 2022, arXiv:2204.03458.
    V. Voleti, A. Jolicoeur-Martineau, C. Pal, MCVD: Masked Conditional Video Diffusion for Prediction, Generation, and
    Interpolation, 2022, arXiv:2205.09853 (one network for both, by hiding the past).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.ddpm import DDPM
from zoo.families.denoising import Denoise
from zoo.maths.conversions import input_scale
from zoo.maths.guidance import guide
from zoo.model import Batch

__all__ = ["VideoDiffusion"]


class VideoDiffusion(DDPM):
    """Diffusion in T steps on clips, told its first frames or none.

    Args:
        network: (B, C + 1, T, H, W), lambda (B,), labels (B,) or None -> (B, C, T, H, W).
        shape: of a clip, (C, T, H, W).
        prediction: share of the training clips whose first frames are given.

    The other arguments are those of `zoo.families.ddpm.DDPM`.

    Raises:
        ConfigError: no clip of two frames or more, a share out of range, or a learned variance, for which such a
            network has no output.
    """

    def __init__(self, network: nn.Module, shape: Sequence[int], prediction: float = 0.5, **kwargs: Any) -> None:
        super().__init__(network, shape, **kwargs)
        if len(self.shape) != 4 or self.shape[1] < 2 or not 0 <= prediction <= 1:
            raise ConfigError(
                f"VideoDiffusion needs clips (C, T, H, W) of at least 2 frames and a prediction between 0 and 1, got "
                f"{self.shape} and {prediction}"
            )
        if self.variance == "learned":
            raise ConfigError("VideoDiffusion has no learned variance; take small or large")
        self.prediction = prediction

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        channels, *rest = shape = tuple(arguments["shape"])
        return {"network": ((channels + 1, *rest), shape, {"num_classes": arguments.get("num_classes") or 0})}

    # -- the network and its objective --------------------------------------------------------------------------------

    def output(
        self,
        x: Tensor,
        log_snr: Tensor,
        labels: Tensor | None = None,
        network: nn.Module | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Return what a network gives for noisy clips: (B, C, T, H, W), (B,) -> (B, C, T, H, W).

        Args:
            x: noisy clips, clean in the frames that are seen.
            log_snr: lambda of the others.
            labels: int64 (B,), or None.
            network: the own one if left out.
            seen: which frames are given, bool (B, T); none if left out.
        """
        column = (-1, *[1] * (x.ndim - 1))
        alpha, sigma = self.schedule.coefficients(log_snr.view(column))
        h = x * input_scale(self.predict, alpha, sigma, self.sigma_data)
        mask = torch.zeros_like(x[:, :1])
        if seen is not None:
            clean = seen[:, None, :, None, None]
            h, mask = torch.where(clean, x, h), mask + clean
        network = self.network if network is None else network
        return network(torch.cat([h, mask], 1).to(self.dtype), log_snr.to(self.dtype), labels).to(x.dtype)

    def weak_output(self, x: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor:
        return self.output(x, log_snr, labels, self.weak)

    def given_frames(self, n: int) -> Tensor:
        """Draw which frames of n training clips are given, the first k of each: bool (n, T)."""
        T = self.shape[1]
        k = 1 + (self.rand(n) * (T - 1)).long().clamp(max=T - 2)
        k = torch.where(self.rand(n) < self.prediction, k, torch.zeros_like(k))
        return torch.arange(T, device=self.device) < k[:, None]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``mse`` of the frames to come, per dimension, the mean over the clips, which is ``loss``."""
        x_0, x, log_snr, labels = self.noisy(batch)
        seen = self.given_frames(len(x))
        clean = seen[:, None, :, None, None]
        out = self.output(torch.where(clean, x_0, x), log_snr, labels, seen=seen)
        frames = self.errors(out, x_0, x, log_snr).transpose(1, 2).flatten(2).mean(2)  # (B, T)
        mse = ((frames * ~seen).sum(1) / (~seen).sum(1)).mean()
        return {"loss": mse, "mse": mse}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def denoiser(self, labels: Tensor | None, scale: float, clip: bool, known: tuple[Tensor, Tensor] | None) -> Denoise:
        return Continuation(self, labels, scale, clip, known)


class Continuation(Denoise):
    """The model as samplers see it, told those first frames of which every pixel is known.

    Other pixels that are known are put where the network says what it sees, as in any diffusion model.
    """

    def __init__(
        self,
        model: VideoDiffusion,
        labels: Tensor | None,
        scale: float,
        clip: bool,
        known: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__(model, labels, scale, clip, known)
        if known is None:
            return
        values, mask = known
        seen = mask.transpose(1, 2).flatten(2).all(2).cumprod(1).bool()  # (B, T): up to the first frame to come
        clean = seen[:, None, :, None, None]

        def output(x: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor:
            return model.output(torch.where(clean, values.to(x), x), log_snr, labels, seen=seen)

        def weak(x: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor:
            return model.output(torch.where(clean, values.to(x), x), log_snr, labels, model.weak, seen)

        null = model.num_classes if model.num_classes else None
        self.field = guide(output, scale, labels, null, weak if model.weak else None)
