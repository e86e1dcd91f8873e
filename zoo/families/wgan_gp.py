"""Wasserstein GAN whose critic is held 1-Lipschitz by a gradient penalty.

    L_critic    = E D(G(z)) - E D(x) + lambda E (||grad D(x_hat)||_2 - 1)^2,  x_hat = alpha x + (1 - alpha) G(z)
    L_generator = -E D(G(z))

References:
    I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin, A. Courville, Improved Training of Wasserstein GANs, 2017,
    arXiv:1704.00028.
"""

from __future__ import annotations

from torch import nn

from zoo.families.adversarial import AdversarialModel

__all__ = ["WGANGP"]


class WGANGP(AdversarialModel):
    """Wasserstein GAN with gradient penalty.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes; with no batch normalisation, as the
            penalty is per example.
        latent_dim: size of z.
        shape: of an example.
        n_critic: critic updates per generator update.
        penalty: lambda, the weight of the gradient penalty, taken over all pixels of an example.
        lr: peak learning rate of both players.
        betas: Adam's decay rates of both players.
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
        penalty: float = 10.0,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.0, 0.9),
        num_classes: int = 0,
        class_dim: int = 16,
        features: int = 0,
        augment: float = 0.0,
        augment_images: int = 100_000,
        bounded: bool = True,
    ) -> None:
        super().__init__(
            generator, critic, latent_dim, shape, "wasserstein", n_critic, penalty, lr=lr, betas=betas,
            num_classes=num_classes, class_dim=class_dim, features=features, augment=augment,
            augment_images=augment_images, bounded=bounded,
        )  # fmt: skip
