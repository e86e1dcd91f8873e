"""Deep convolutional GAN: the original game between two convolutional networks with batch normalisation.

All weights start normal with standard deviation 0.02, those of batch normalisation around 1.

References:
    A. Radford, L. Metz, S. Chintala, Unsupervised Representation Learning with Deep Convolutional Generative
    Adversarial Networks, 2015, arXiv:1511.06434, section 4.
"""

from __future__ import annotations

from torch import nn

from zoo.families.gan import GAN

__all__ = ["DCGAN"]


class DCGAN(GAN):
    """`GAN` between networks such as `zoo.nets.dcgan.DCGANGenerator` and `DCGANCritic`; arguments as there."""

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        shape: list[int],
        objective: str = "non_saturating",
        n_critic: int = 1,
        r1: float = 0.0,
        lazy: int = 1,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        num_classes: int = 0,
        class_dim: int = 16,
        features: int = 0,
        augment: float = 0.0,
        augment_images: int = 100_000,
        bounded: bool = True,
        candidates: int = 1,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__(
            generator, critic, latent_dim, shape, objective, n_critic, r1, lazy, lr, betas, num_classes, class_dim,
            features, augment, augment_images, bounded, candidates, sharpness,
        )  # fmt: skip
        for layer in (*generator.modules(), *critic.modules()):
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)
