"""Wasserstein GAN whose critic is held Lipschitz by clipping its weights.

    L_critic = E D(G(z)) - E D(x),   L_generator = -E D(G(z)),   |w| <= clip for every weight of the critic

Both players follow RMSprop without momentum, as momentum made the critic's loss unstable.

References:
    M. Arjovsky, S. Chintala, L. Bottou, Wasserstein GAN, 2017, arXiv:1701.07875, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import nn

from zoo.families.adversarial import AdversarialModel

__all__ = ["WGAN"]

_DECAY = 0.99


class WGAN(AdversarialModel):
    """Wasserstein GAN with clipped weights.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes.
        latent_dim: size of z.
        shape: of an example.
        n_critic: critic updates per generator update.
        clip: bound of the absolute value of each of the critic's weights, positive.
        lr: peak learning rate of both players.
        num_classes, class_dim, features: classes, as in `AdversarialModel`.
        augment, augment_images: adaptive augmentation, as in `AdversarialModel`.
        bounded: whether examples are in [0, 1].
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        shape: list[int],
        n_critic: int = 5,
        clip: float = 0.01,
        lr: float = 5e-5,
        num_classes: int = 0,
        class_dim: int = 16,
        features: int = 0,
        augment: float = 0.0,
        augment_images: int = 100_000,
        bounded: bool = True,
    ) -> None:
        super().__init__(
            generator, critic, latent_dim, shape, "wasserstein", n_critic, clip=clip, lr=lr, num_classes=num_classes,
            class_dim=class_dim, features=features, augment=augment, augment_images=augment_images, bounded=bounded,
        )  # fmt: skip

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.RMSprop(list(p.parameters), lr=p.lr, alpha=_DECAY) for p in self.players().values()]
