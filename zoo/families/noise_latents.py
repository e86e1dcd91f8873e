"""Noise as a latent: DDIM is a map both ways between data and the noise that it makes them of.

References:
    J. Song, C. Meng, S. Ermon, Denoising Diffusion Implicit Models, 2020, arXiv:2010.02502, sections 4.3, 5.3 and 5.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.families.denoising import Denoise
from zoo.families.diffusion import Diffusion
from zoo.maths import samplers
from zoo.maths.paths import arc

__all__ = ["NoiseLatents"]


class NoiseLatents(Diffusion):
    """Mixin of diffusion models whose samplers can be run backwards.

    Attributes:
        diagnosed_examples: how many test examples a diagnosis encodes, since each costs many evaluations.
    """

    diagnosed_examples = 200

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latents of one example, as ``decode`` takes them."""
        return self.shape

    @torch.no_grad()
    def encode(self, x: Tensor, labels: Tensor | None = None, steps: int = 25) -> Tensor:
        """Return the noise that DDIM turns into these data: (B, *shape) in data range -> (B, *shape)."""
        log_snrs, denoise = self._latent_way(labels, steps)
        half = torch.full_like(x, 0.5)
        z = samplers.invert(denoise, self.centre(x, half), log_snrs, self.schedule)
        return z / self.schedule.coefficients(log_snrs[0])[1].to(z)

    @torch.no_grad()
    def decode(self, z: Tensor, labels: Tensor | None = None, steps: int = 25) -> Tensor:
        """Return what DDIM makes of noise: (B, *shape) -> (B, *shape) in data range."""
        log_snrs, denoise = self._latent_way(labels, steps)
        sigma = self.schedule.coefficients(log_snrs[0])[1].to(z)
        return self.uncentre(samplers.ddim(denoise, sigma * z, log_snrs, self.schedule))

    def _latent_way(self, labels: Tensor | None, steps: int) -> tuple[Tensor, Denoise]:
        return self._grid("ddim", steps, None)[0], Denoise(self, labels, 1.0, False, None)

    between = staticmethod(arc)
