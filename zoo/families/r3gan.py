"""R3GAN: a relativistic pairing game, held stable by zero-centred penalties on data and on samples.

    L_D = E softplus(D(G(z)) - D(x)) + gamma / 2 (E |grad D(x)|^2 + E |grad D(G(z))|^2),
    L_G = E softplus(D(x) - D(G(z)))

References:
    Y. Huang, A. Gokaslan, V. Kuleshov, J. Tompkin, The GAN is dead; long live the GAN! A Modern GAN Baseline, 2025,
    arXiv:2501.05441.
"""

from __future__ import annotations

from typing import Any

from zoo.families.adversarial import AdversarialModel

__all__ = ["R3GAN"]


class R3GAN(AdversarialModel):
    """Relativistic GAN with R1 and R2 penalties.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh; without normalisation layers.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes; without normalisation layers.
        gamma: weight of both penalties.
        lazy: batches from one pair of penalties to the next; the paper takes 1.

    The other arguments are those of `AdversarialModel`.
    """

    def __init__(self, *args: Any, gamma: float = 1.0, betas: tuple[float, float] = (0.0, 0.99), **kwargs: Any) -> None:
        super().__init__(
            *args, objective="relativistic", r1=gamma, r2=gamma, betas=betas, penalty=0.0, clip=0.0, critic_lr=None,
            **kwargs,
        )  # fmt: skip
