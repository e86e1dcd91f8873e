"""VAE-GAN: an autoencoder whose pictures are compared by what a discriminator sees in them.

    L_prior = KL(q(z | x) || p(z)),   L_like = -E_q(z|x) log N(Dis_l(x); Dis_l(x~), I),   x~ = Dec(z)
    L_GAN   = log Dis(x) + log(1 - Dis(x~)) + log(1 - Dis(x_p)),   x_p = Dec(z_p),  z_p ~ p(z)

    Enc follows  L_prior + L_like,   Dec  gamma L_like + L_GAN,   Dis  -L_GAN

Dis_l are features of one of the discriminator's layers. Each network follows its own terms alone: the game does not
reach the encoder, nor the similarity the discriminator, which would make all pictures alike. All three steps are from
where the networks were when the batch came. Signs are those of equation 5, in which the discriminator makes L_GAN
large; algorithm 1 calls the discriminator's loss by that name. L_like is a likelihood of features, which are learnt:
there is no likelihood of the image.

References:
    A. B. L. Larsen, S. K. Soenderby, H. Larochelle, O. Winther, Autoencoding beyond pixels using a learned similarity
    metric, 2015, arXiv:1512.09300, equations 5 to 8 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_choice
from zoo.families.vae import VAE
from zoo.model import Batch, ImplicitModel, Player

__all__ = ["VAEGAN"]

_GAMES = ("minimax", "non_saturating")


class VAEGAN(VAE, ImplicitModel):
    """Variational autoencoder with a learnt similarity, its decoder also a generator.

    The encoder is the first player: each batch updates it, then the decoder, then the discriminator.

    Args:
        encoder: (B, *shape) -> (B, 2 latent_dim), means and log-variances of q(z | x).
        decoder: (B, latent_dim) -> (B, ...), logits of the pixels, one a dimension of x.
        discriminator: (B, *shape) in data range -> scores (B, 1), logits of Dis, and features (B, ...), such as
            `zoo.nets.feature_critic.FeatureCritic`.
        shape: of an example.
        latent_dim: size of z.
        gamma: weight of the similarity where it meets the game, in the decoder.
        game: what the decoder makes of L_GAN: ``minimax``, its own terms as they are, or ``non_saturating``, which has
            the same fixed point and gradients where the discriminator is sure.
        lr: peak learning rate of all three.
        betas: Adam's decay rates of all three.

    Raises:
        ConfigError: a negative weight, or an unknown game.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        discriminator: nn.Module,
        shape: list[int],
        latent_dim: int,
        gamma: float = 0.01,
        game: str = "minimax",
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        super().__init__(encoder, decoder, shape, latent_dim, "cross_entropy", lr=lr, betas=betas)
        check_choice("game", game, _GAMES)
        if gamma < 0:
            raise ConfigError(f"gamma must not be negative, got {gamma}")
        self.automatic_optimization = False
        self.discriminator, self.gamma, self.game = discriminator, gamma, game

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        shapes = super().network_shapes({**arguments, "likelihood": "cross_entropy"})
        return {**shapes, "discriminator": (tuple(arguments["shape"]), (1,))}

    def players(self) -> dict[str, Player]:
        parts = {"encoder": self.encoder, "decoder": self.decoder, "discriminator": self.discriminator}
        return {name: Player(net.parameters(), self.lr, self.betas) for name, net in parts.items()}

    def _check_likelihood(self) -> None:
        raise ConfigError(
            f"a {type(self).__name__} has no likelihood of the image: it compares images by learnt features; take a "
            f"vae, or an IWAE bound of one, to have one"
        )

    # -- what each network follows ------------------------------------------------------------------------------------

    def images(self, z: Tensor) -> Tensor:
        """Return Dec(z): (B, latent_dim) -> (B, *shape) in [0, 1]."""
        return self.observation(z).mean

    def similarity(self, real: Tensor, shown: Tensor) -> Tensor:
        """Return L_like of features but for a constant, in nats: (B, ...) twice -> ()."""
        return 0.5 * (real - shown).square().flatten(1).sum(1).mean()

    def encoder_loss(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the encoder's terms, and the latents that were drawn of q(z | x)."""
        code = self.code(x)
        eps = self.randn(len(x), self.latent_dim)
        z, log_det = self.drawn_latents(code, eps)
        kl, _ = self.divergence(code, z, eps, log_det)
        with torch.no_grad():
            _, real = self.discriminator(x)
        _, shown = self.discriminator(self.images(z))
        like = self.similarity(real, shown)
        return {"loss": kl + like, "kl": kl, "similarity": like}, z

    def decoder_loss(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the decoder follows, and its pictures of z and of the prior, (2 B, *shape).

        Args:
            x: examples, (B, *shape).
            z: latents that were drawn of them, (B, latent_dim); they get no gradient.
        """
        fakes = self.images(torch.cat([z.detach(), self.randn(len(z), self.latent_dim)]))
        with torch.no_grad():
            _, real = self.discriminator(x)
        scores, shown = self.discriminator(fakes)
        fooled = F.softplus(-scores) if self.game == "non_saturating" else -F.softplus(scores)
        return self.gamma * self.similarity(real, shown[: len(x)]) + _summed(fooled), fakes

    def discriminator_loss(self, x: Tensor, fakes: Tensor) -> Tensor:
        """Return -L_GAN, in nats; pictures get no gradient."""
        real, fake = self.discriminator(x)[0], self.discriminator(fakes.detach())[0]
        return F.softplus(-real).mean() + _summed(F.softplus(fake))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of all three; ``loss`` is the encoder's."""
        terms, z = self.encoder_loss(batch[0])
        decoder, fakes = self.decoder_loss(batch[0], z)
        return {**terms, "decoder_loss": decoder, "discriminator_loss": self.discriminator_loss(batch[0], fakes)}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Update encoder, decoder and discriminator, each by gradients at where all of them were before."""
        x = batch[0]
        with self.turn("encoder") as update:
            terms, z = self.encoder_loss(x)
            update(terms["loss"])
        with self.turn("decoder") as update:
            terms["decoder_loss"], fakes = self.decoder_loss(x, z)
            update(terms["decoder_loss"])
        with self.turn("discriminator") as update:
            terms["discriminator_loss"] = self.discriminator_loss(x, fakes)
            update(terms["discriminator_loss"])
        self.terms = {k: v.detach() for k, v in terms.items()}


def _summed(of_fakes: Tensor) -> Tensor:
    """Return the means of a game's terms of reconstructions and of samples, (2 B, 1), added up."""
    return 2 * of_fakes.mean()
