"""Spectrally normalised GAN: each layer of the critic divided by its largest singular value, and the hinge loss.

    W_SN = W / sigma(W),   L_D = E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))),   L_G = -E D(G(z))

sigma is estimated by one power iteration a forward pass, by torch's own parametrisation.

References:
    T. Miyato, T. Kataoka, M. Koyama, Y. Yoshida, Spectral Normalization for Generative Adversarial Networks, 2018,
    arXiv:1802.05957.
    T. Miyato, M. Koyama, cGANs with Projection Discriminator, 2018, arXiv:1802.05637: the conditional critic.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.families.adversarial import AdversarialModel
from zoo.nets.spectral import normalise_layers

__all__ = ["SNGAN"]

_NORMALISED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)


class SNGAN(AdversarialModel):
    """GAN whose critic, any network, gets spectral normalisation.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes; its linear and convolutional layers
            are normalised.
        objective: ``hinge``, or another of `zoo.maths.objectives.OBJECTIVES`.

    The other arguments are those of `AdversarialModel`.
    """

    def __init__(
        self, *args: Any, objective: str = "hinge", betas: tuple[float, float] = (0.0, 0.9), **kwargs: Any
    ) -> None:
        super().__init__(
            *args, objective=objective, betas=betas, penalty=0.0, r1=0.0, r2=0.0, lazy=1, clip=0.0, **kwargs
        )
        # while all scores lie within the margin of the hinge, what they say to the critic's last bias cancels
        self.steps_to_move = max(self.steps_to_move, 12)
        normalise_layers(self.critic, _NORMALISED)
