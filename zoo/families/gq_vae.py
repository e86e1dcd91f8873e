"""Gaussian quantisation: a trained VAE becomes an autoencoder with discrete codes, and none of its weights is trained.

    codebook e: K draws of N(0, I), fixed by a seed;   c = argmin_k |(mu(x) - e_k) / sigma(x)|^2,  p(x | e_c)

For single numbers that is the draw nearest to the posterior mean. Since the codebook is a sample of the prior, a code
lies near the mean as soon as log K exceeds the KL divergence of q = N(mu, sigma^2) from the prior: if log K = KL + t,

    P(|e_c - mu| >= sigma) <= exp(-sqrt(2 / (pi e)) exp(t)),

for the chance of one draw is int_{-1}^{1} sigma phi(mu + sigma u) du >= 2 sigma phi(sqrt(mu^2 + sigma^2 / 3)), by
Jensen's inequality, >= sqrt(2 / (pi e)) exp(-KL), and all K draws have to miss. What is fitted here is one number, by
which the scales of p(x | z) grow, as the codes keep less of x than the draws of q on which the decoder was trained.

References:
    T. Xu and others, Vector Quantization using Gaussian Variational Autoencoder, 2025, arXiv:2512.06609. There, the VAE
    is trained with a constraint that brings the KL of each latent to log K.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.abilities import HasMapLatents, HasPosterior
from zoo.checking import trusted
from zoo.errors import ConfigError
from zoo.families.discrete import DiscreteAutoencoder
from zoo.families.vae import VAE
from zoo.maths.distributions import Bernoulli, DiscretizedLogistic
from zoo.maths.observation import Observation
from zoo.model import TrainedPart
from zoo.nets.quantisers import Quantised

__all__ = ["GQVAE"]

_OBSERVED = ("bernoulli", "discretized_logistic")


class GQVAE(DiscreteAutoencoder):
    """Codes of a frozen VAE's latents.

    Args:
        autoencoder: a `zoo.families.vae.VAE`, never trained here. The codes of flat latents are a row, of shape
            (1, 1, latent_dim / group), those of a map (C, h, w) have the shape (C / group, h, w).
        size: K, codes.
        group: neighbouring latents (channels of a map) that share a code.
        seed: of the codebook, which is part of the weights.
        lr: peak learning rate of the one number that is fitted.
        betas: Adam's decay rates.

    Raises:
        ConfigError: an autoencoder that is no VAE, is conditional, or has another likelihood than ``bernoulli`` or
            ``discretized_logistic``, or numbers that do not fit.
    """

    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {
        "autoencoder": TrainedPart(
            what="a quantiser of the latents of a trained VAE", example="vae-mnist", requires=(VAE, HasPosterior),
            needs="Gaussian posterior",
        )
    }  # fmt: skip

    def __init__(
        self,
        autoencoder: nn.Module,
        size: int = 64,
        group: int = 1,
        seed: int = 0,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        _check(autoencoder, size, group)
        C, *rest = autoencoder.grid if isinstance(autoencoder, HasMapLatents) else (autoencoder.latent_dim,)
        grid = (C // group, *rest) if rest else (1, 1, C // group)
        super().__init__(autoencoder.shape, grid, size, autoencoder.observed, lr=lr, betas=betas)
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.group, self.seed, self._map = group, seed, (C // group, group, *rest)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("codebook", torch.randn(size, group, generator=generator))
        self.widening = nn.Parameter(torch.zeros(()))

    def train(self, mode: bool = True) -> GQVAE:
        """Set the mode; the autoencoder stays in eval mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def compilable(self) -> list[nn.Module]:
        return []

    def nearest(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """Return the codes of Gaussians: two of (..., group) -> int64 (...)."""
        away = (mean[..., None, :] - self.codebook.to(mean)) * torch.exp(-log_var / 2)[..., None, :]  # (..., K, group)
        return away.square().sum(-1).argmin(-1)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        mean, log_var = (v.unflatten(1, self._map).movedim(2, -1) for v in self.autoencoder.posterior(x))
        return self.nearest(mean, log_var).reshape(-1, *self.grid)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the latents of codes: int64 (B, *grid) -> (B, latent_dim)."""
        z = self.codebook[codes.reshape(-1, self._map[0], *self._map[2:])]  # (B, C / group, [h, w,] group)
        return z.movedim(-1, 2).flatten(1).to(self.dtype)

    def quantise(self, x: Tensor) -> tuple[Tensor, dict[str, Quantised]]:
        with trusted():
            codes = self.codes(x)
        z = self.embed(codes)
        return z, {"": Quantised(z, codes)}

    def learn(self, made: dict[str, Quantised]) -> None:
        """Do nothing: the codebook stays as it was drawn."""

    def observation(self, z: Tensor) -> Observation:
        with torch.no_grad():
            p = self.autoencoder.observation(z)
        if isinstance(p, Bernoulli):
            return Bernoulli(p.logits * torch.exp(-self.widening))
        return DiscretizedLogistic(p.location, p.log_scale + self.widening, p.levels)


def _check(autoencoder: Any, size: int, group: int) -> None:
    gaussian = isinstance(autoencoder, VAE) and isinstance(autoencoder, HasPosterior)
    if not gaussian or autoencoder.num_classes or autoencoder.observed not in _OBSERVED:
        kind = autoencoder.observed if isinstance(autoencoder, VAE) else None
        raise ConfigError(
            f"Gaussian quantisation is for a VAE that is not conditional and has the likelihood "
            f"{' or '.join(_OBSERVED)}, got a {type(autoencoder).__name__}{f' with {kind}' if kind else ''}"
        )
    channels = autoencoder.grid[0] if isinstance(autoencoder, HasMapLatents) else autoencoder.latent_dim
    if size < 1 or group < 1 or channels % group:
        raise ConfigError(f"{channels} latents do not divide into groups of {group} with {size} codes each")
