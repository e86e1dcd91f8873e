"""FactorVAE: a variational autoencoder whose latents are made independent of each other over the whole data.

    L = E_q(z|x) [log p(x | z)] - KL(q(z | x) || p(z)) - gamma TC(z),   TC(z) = KL(q(z) || prod_j q(z_j))

q(z) is the average of q(z | x) over the data. Its total correlation is that of a density ratio, which a discriminator
learns that tells latents from such whose every dimension is of another example:

    TC(z) ~ E_q(z) [log D(z) - log(1 - D(z))],   D learns to give 1 for z ~ q(z) and 0 for z ~ prod_j q(z_j)

Of each batch every other example is what the autoencoder learns from; the dimensions of the others' latents are
shuffled, on each device among its own.

References:
    H. Kim, A. Mnih, Disentangling by Factorising, 2018, arXiv:1802.05983, equations 2 and 3, algorithms 1 and 2.
    M. Sugiyama, T. Suzuki, T. Kanamori, Density Ratio Matching under the Bregman Divergence, 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vae import VAE
from zoo.model import Batch, Player

__all__ = ["FactorVAE", "shuffled_dimensions"]


def shuffled_dimensions(z: Tensor, noise: Tensor) -> Tensor:
    """Return latents each of whose dimensions is that of another example: (B, d), uniform noise (B, d) -> (B, d)."""
    return z.gather(0, noise.argsort(0))


class FactorVAE(VAE):
    """Variational autoencoder with a penalty on the total correlation of its latents.

    The autoencoder is the first player: each batch updates it, then the discriminator.

    Args:
        encoder: as that of `VAE`.
        decoder: as that of `VAE`.
        discriminator: (B, latent_dim) -> (B, 1), the logit of D.
        shape: of an example.
        latent_dim: size of z, at least 2.
        likelihood: of a dimension of x, as that of `VAE`.
        gamma: weight of the total correlation.
        discriminator_lr: peak learning rate of the discriminator.
        discriminator_betas: Adam's decay rates of the discriminator.

    The other arguments are those of `VAE`.

    Raises:
        ConfigError: a single latent, a negative weight, or what `VAE` refuses.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        discriminator: nn.Module,
        shape: list[int],
        latent_dim: int,
        likelihood: str = "bernoulli",
        gamma: float = 10.0,
        discriminator_lr: float = 1e-4,
        discriminator_betas: tuple[float, float] = (0.5, 0.9),
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, decoder, shape, latent_dim, likelihood, **kwargs)
        if gamma < 0 or latent_dim < 2:
            raise ConfigError(
                f"gamma must not be negative, and at least 2 latents can correlate, got {gamma} and {latent_dim}"
            )
        self.automatic_optimization = False
        self.discriminator, self.gamma = discriminator, gamma
        self.discriminator_lr, self.discriminator_betas = discriminator_lr, discriminator_betas

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        latent = (arguments["latent_dim"],)
        return {**super().network_shapes(arguments), "discriminator": (latent, (1,))}

    def players(self) -> dict[str, Player]:
        theirs = {id(p) for p in self.discriminator.parameters()}
        own = [p for p in self.parameters() if id(p) not in theirs]
        betas = (float(self.discriminator_betas[0]), float(self.discriminator_betas[1]))
        return {
            "autoencoder": Player(own, self.lr, self.betas),
            "discriminator": Player(self.discriminator.parameters(), self.discriminator_lr, betas),
        }

    # -- what each player loses ---------------------------------------------------------------------------------------

    def total_correlation(self, z: Tensor) -> Tensor:
        """Return the estimate of TC by the discriminator as it is, in nats: (B, latent_dim) -> ()."""
        return self.discriminator(z).mean()

    def discriminator_loss(self, z: Tensor, mixed: Tensor) -> Tensor:
        """Return the cross-entropy of latents against such of independent dimensions; no latent gets a gradient."""
        joint, apart = self.discriminator(torch.cat([z, mixed]).detach()).split([len(z), len(mixed)])
        return 0.5 * (F.softplus(-joint).mean() + F.softplus(apart).mean())

    def autoencoder_loss(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the autoencoder's terms on half of a batch, its latents, and shuffled ones of the other half."""
        first, other = (x[::2], x[1::2]) if len(x) > 1 else (x, x)
        terms, z = self.terms_of(first, None)
        tc = self.total_correlation(z)
        terms = {**terms, "loss": terms["loss"] + self.gamma * tc, "tc": tc}
        with torch.no_grad():
            code, eps = self.code(other), self.randn(len(other), self.latent_dim)
            mixed, _ = self.drawn_latents(code, eps)
            noise, ranks = self.rand(*mixed.shape), max(1, len(self._streams))
            shares = zip(mixed.chunk(ranks), noise.chunk(ranks), strict=True)
            mixed = torch.cat([shuffled_dimensions(*share) for share in shares])
        return terms, z, mixed

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of `VAE`, ``tc`` and ``discriminator_loss``; ``loss`` has gamma ``tc`` in it."""
        terms, z, mixed = self.autoencoder_loss(batch[0])
        return {**terms, "discriminator_loss": self.discriminator_loss(z, mixed)}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the autoencoder on half of this batch, then the discriminator on the latents of all of it."""
        with self.turn("autoencoder") as update:
            terms, z, mixed = self.autoencoder_loss(batch[0])
            update(terms["loss"])
        with self.turn("discriminator") as update:
            terms["discriminator_loss"] = self.discriminator_loss(z, mixed)
            update(terms["discriminator_loss"])
        self.terms = {k: v.detach() for k, v in terms.items()}
