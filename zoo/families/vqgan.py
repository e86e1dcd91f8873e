"""VQ-VAE whose decoder is also judged by features and by a discriminator.

    L_autoencoder = L_rec + codebook + beta commitment + lambda L_adv
    L_rec = |x - x_hat| + gamma |phi(x) - phi(x_hat)|^2
    L_adv = -E D(x_hat),   L_discriminator = E max(0, 1 - D(x)) + E max(0, 1 + D(x_hat))
    lambda = w |grad L_rec| / (|grad L_adv| + delta),  gradients with respect to the decoder's last weights

References:
    P. Esser, R. Rombach, B. Ommer, Taming Transformers for High-Resolution Image Synthesis, 2021, arXiv:2012.09841.
    J. H. Lim, J. C. Ye, Geometric GAN, 2017, arXiv:1705.02894 (the hinge loss).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vq_vae import VQVAE
from zoo.maths.divergences import feature_distance
from zoo.model import Batch, Player
from zoo.nets.quantisers import Quantised

__all__ = ["VQGAN", "adaptive_weight"]

_DELTA, _LARGEST = 1e-6, 1e4


class VQGAN(VQVAE):
    """Autoencoder with discrete codes, a perceptual term and a discriminator.

    The autoencoder is the first player: each batch updates it, then the discriminator.

    Args:
        encoder: (B, *shape) -> (B, ...), D h w numbers, D being the quantiser's channels.
        decoder: (B, D, h, w) -> (B, *shape), locations; its last matrix or kernel balances the two losses.
        quantiser: between the two: `VectorQuantiser` or `FSQ`.
        discriminator: (B, *shape) in data range -> scores, any number an example.
        shape: of an example.
        grid: (h, w), positions of the codes.
        perceptual: phi, a network that is not trained here, (B, *shape) in data range -> a tensor or several of
            features; none leaves the term out. It is no part of the weights.
        perceptual_weight: gamma; squared differences are summed over an example.
        adversarial_weight: w, times the ratio of gradient norms.
        start: steps before the adversarial game begins.
        scale: of the logistic, which is fitted to the data: ``shared`` or ``pixel``.
        reconstruction: ``l1`` or ``mse``.
        betas: Adam's decay rates of both players.

    The other arguments are those of `zoo.families.discrete.DiscreteAutoencoder`.

    Raises:
        ConfigError: unknown or contradictory options.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantiser: nn.Module,
        discriminator: nn.Module,
        shape: list[int],
        grid: list[int],
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        adversarial_weight: float = 0.8,
        start: int = 0,
        scale: str = "shared",
        reconstruction: str = "l1",
        betas: tuple[float, float] = (0.5, 0.9),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            encoder, decoder, quantiser, shape, grid, scale=scale, reconstruction=reconstruction, betas=betas, **kwargs
        )
        if reconstruction == "likelihood":
            raise ConfigError("reconstruction must be 'l1' or 'mse', whose pictures the discriminator can judge")
        if start < 0:
            raise ConfigError(f"start must not be negative, got {start}")
        self.automatic_optimization = False
        self.discriminator = discriminator
        # In a tuple, so that it is neither trained nor saved.
        self._perceptual = () if perceptual is None else (perceptual.requires_grad_(False).eval(),)
        self.perceptual_weight, self.adversarial_weight = perceptual_weight, adversarial_weight
        self.start = start
        self.steps_to_move = start + 2

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        return {**super().network_shapes(arguments), "discriminator": (tuple(arguments["shape"]), (1,))}

    def players(self) -> dict[str, Player]:
        theirs = {id(p) for p in self.discriminator.parameters()}
        own = [p for p in self.parameters() if id(p) not in theirs]
        return {
            "autoencoder": Player(own, self.lr, self.betas),
            "discriminator": Player(self.discriminator.parameters(), self.lr, self.betas),
        }

    # -- what each player loses ---------------------------------------------------------------------------------------

    def last_layer(self) -> Tensor:
        """Return the decoder's last matrix or kernel."""
        return [p for p in self.decoder.parameters() if p.ndim > 1][-1]

    def playing(self) -> float:
        """Return 1 once the adversarial game has begun, else 0."""
        return float(self.steps_done >= self.start)

    def autoencoder_loss(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Quantised], Tensor]:
        """Return the autoencoder's terms, what the quantiser made, and x_hat."""
        terms, made, p = self.objective(x)
        reconstruction, x_hat = terms["reconstruction"], p.location
        if self._perceptual:
            terms["perceptual"] = self.perceptual_distance(x, x_hat)
            reconstruction = reconstruction + self.perceptual_weight * terms["perceptual"]
            terms["loss"] = terms["loss"] + self.perceptual_weight * terms["perceptual"]
        adversarial = -self.discriminator(x_hat).mean()
        weight = self.adversarial_weight * adaptive_weight(reconstruction, adversarial, self.last_layer())
        terms |= {"adversarial": adversarial, "adversarial_weight": weight}
        terms["loss"] = terms["loss"] + self.playing() * weight * adversarial
        return terms, made, x_hat

    def discriminator_loss(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Return the hinge loss of the discriminator; x_hat gets no gradient."""
        real, fake = self.discriminator(torch.cat([x, x_hat.detach()])).chunk(2)
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def perceptual_distance(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Return |phi(x) - phi(x_hat)|^2, summed over features and examples' dimensions, averaged over the batch."""
        (phi,) = self._perceptual
        return feature_distance(phi.to(x), x, x_hat)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of both players; ``loss`` is the autoencoder's."""
        with torch.enable_grad():  # the weight is a ratio of gradients, in validation too
            terms, _, x_hat = self.autoencoder_loss(batch[0])
        return {**terms, "discriminator_loss": self.discriminator_loss(batch[0], x_hat)}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the autoencoder on this batch, then the discriminator on what the autoencoder made of it."""
        x, playing = batch[0], self.playing()
        with self.turn("autoencoder") as update:
            terms, made, x_hat = self.autoencoder_loss(x)
            self.learn(made)
            update(terms["loss"])
        with self.turn("discriminator") as update:
            terms["discriminator_loss"] = playing * self.discriminator_loss(x, x_hat)
            update(terms["discriminator_loss"])
        self.terms = {k: v.detach() for k, v in terms.items()}


def adaptive_weight(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return |grad first| / (|grad second| + delta) with respect to some weights, at most 1e4, without a gradient.

    The gradients are those of the means over all processes, so that the number is alike in all of them.
    """
    norms = []
    for loss in (first, second):
        (gradient,) = torch.autograd.grad(loss, weights, retain_graph=True)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(gradient)
            gradient = gradient / dist.get_world_size()
        norms.append(gradient.norm())
    return (norms[0] / (norms[1] + _DELTA)).clamp(max=_LARGEST).detach()
