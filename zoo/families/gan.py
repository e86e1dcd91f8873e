"""Generative adversarial network: the original game, with the non-saturating loss.

    L_D = E softplus(-D(x)) + E softplus(D(G(z))),   L_G = E softplus(-D(G(z)))

D(x) is the logit of the probability that x is data; softplus(-D) = -log sigmoid(D).

References:
    I. Goodfellow and others, Generative Adversarial Networks, 2014, arXiv:1406.2661.
"""

from __future__ import annotations

from typing import Any

from zoo.families.adversarial import AdversarialModel

__all__ = ["GAN"]


class GAN(AdversarialModel):
    """Generator and discriminator with a symmetric game.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes: logits.
        objective: ``non_saturating``, or ``least_squares`` for LSGAN (X. Mao and others, 2016, arXiv:1611.04076).

    The other arguments are those of `AdversarialModel`.
    """

    def __init__(self, *args: Any, betas: tuple[float, float] = (0.5, 0.999), **kwargs: Any) -> None:
        super().__init__(*args, betas=betas, penalty=0.0, r2=0.0, clip=0.0, critic_lr=None, **kwargs)
