"""Wasserstein GAN whose critic is held 1-Lipschitz by a gradient penalty.

    L_critic    = E D(G(z)) - E D(x) + lambda E (||grad D(x_hat)||_2 - 1)^2,  x_hat = alpha x + (1 - alpha) G(z)
    L_generator = -E D(G(z))

References:
    I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin, A. Courville, Improved Training of Wasserstein GANs, 2017,
    arXiv:1704.00028.
"""

from __future__ import annotations

from typing import Any

from zoo.families.adversarial import AdversarialModel

__all__ = ["WGANGP"]


class WGANGP(AdversarialModel):
    """Wasserstein GAN with gradient penalty.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes; with no batch normalisation, as the
            penalty is per example.
        penalty: lambda, the weight of the gradient penalty, taken over all pixels of an example.

    The other arguments are those of `AdversarialModel`.
    """

    def __init__(
        self,
        *args: Any,
        n_critic: int = 5,
        penalty: float = 10.0,
        betas: tuple[float, float] = (0.0, 0.9),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args, objective="wasserstein", n_critic=n_critic, penalty=penalty, betas=betas, r1=0.0, r2=0.0, lazy=1,
            clip=0.0, critic_lr=None, candidates=1, sharpness=1.0, **kwargs,
        )  # fmt: skip
