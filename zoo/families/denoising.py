"""A diffusion model as samplers see it: guided, kept in range, and with known pixels put where they are known.

Images are completed by the denoiser: what it says of known pixels is replaced by them, so that these follow their own
noisy path to the end, with whatever sampler.

References:
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
    Y. Song and others, Score-Based Generative Modeling through SDEs, 2020, arXiv:2011.13456, appendix I.2.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from zoo.maths.completion import known_values
from zoo.maths.guidance import Field, guide

__all__ = ["Denoise", "Noised", "known_pixels"]


class Noised(Protocol):
    """What is asked of a model here; `zoo.families.diffusion.Diffusion` says what each of it is."""

    shape: tuple[int, ...]
    num_classes: int
    weak: nn.Module | None
    device: torch.device
    dtype: torch.dtype

    def output(self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def weak_output(self, x: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor: ...

    def data_of(self, value: Tensor, x: Tensor, log_snr: Tensor) -> Tensor: ...

    def centre(self, x: Tensor, noise: Tensor | None = None) -> Tensor: ...


class Denoise:
    """A model as the samplers see it, (x, lambda) -> x_0: guided, cut to the range of the data, with known pixels kept.

    Args:
        model: whose network it is.
        labels: int64 (B,), or None.
        scale: of guidance.
        clip: cut x_0 to [-1, 1].
        known: values that x_0 has where ``mask`` is true, and the mask; or None.
    """

    def __init__(
        self, model: Noised, labels: Tensor | None, scale: float, clip: bool, known: tuple[Tensor, Tensor] | None
    ) -> None:
        self.model, self.clip, self.known = model, clip, known
        null = model.num_classes if model.num_classes else None
        self.field: Field = guide(model.output, scale, labels, null, model.weak_output if model.weak else None)

    def both(self, x: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_0, and what the network gives beside its prediction, (B, 0, ...) where that is nothing.

        Lambda is one number, or (B, 1, ...).
        """
        out = self.field(x, log_snr.reshape(-1).expand(len(x)))
        x_0 = self.model.data_of(out[:, : x.shape[1]], x, log_snr)
        if self.clip:
            x_0 = x_0.clamp(-1, 1)
        if self.known is not None:
            x_0 = torch.where(self.known[1], self.known[0], x_0)
        return x_0, out[:, x.shape[1] :]

    def __call__(self, x: Tensor, log_snr: Tensor) -> Tensor:
        return self.both(x, log_snr)[0]


def known_pixels(
    model: Noised, n: int, given: Tensor | None, known: Tensor | int | None
) -> tuple[Tensor, Tensor] | None:
    """Return the values that are given in the model's range, and where they count, both (n, C, H, W)."""
    found = known_values(model.shape, n, given, known, model.device)
    if found is None:
        return None
    values = found[0].to(model.dtype)
    return model.centre(values, torch.full_like(values, 0.5)), found[1]  # the middle of a level
