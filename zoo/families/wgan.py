"""Wasserstein GAN whose critic is held Lipschitz by clipping its weights.

    L_critic = E D(G(z)) - E D(x),   L_generator = -E D(G(z)),   |w| <= clip for every weight of the critic

Both players follow RMSprop without momentum, as momentum made the critic's loss unstable.

References:
    M. Arjovsky, S. Chintala, L. Bottou, Wasserstein GAN, 2017, arXiv:1701.07875, algorithm 1.
"""

from __future__ import annotations

from typing import Any

import torch

from zoo.families.adversarial import AdversarialModel

__all__ = ["WGAN"]

_DECAY = 0.99


class WGAN(AdversarialModel):
    """Wasserstein GAN with clipped weights.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes.
        clip: bound of the absolute value of each of the critic's weights, positive.

    The other arguments are those of `AdversarialModel`.
    """

    def __init__(self, *args: Any, n_critic: int = 5, clip: float = 0.01, lr: float = 5e-5, **kwargs: Any) -> None:
        super().__init__(
            *args, objective="wasserstein", n_critic=n_critic, clip=clip, lr=lr, penalty=0.0, r1=0.0, r2=0.0, lazy=1,
            critic_lr=None, betas=(0.5, 0.9), candidates=1, sharpness=1.0, **kwargs,
        )  # fmt: skip

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.RMSprop(self.moved(p), lr=p.lr, alpha=_DECAY) for p in self.players().values()]
