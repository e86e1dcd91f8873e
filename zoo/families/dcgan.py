"""Deep convolutional GAN: the original game between two convolutional networks with batch normalisation.

All weights start normal with standard deviation 0.02, those of batch normalisation around 1.

References:
    A. Radford, L. Metz, S. Chintala, Unsupervised Representation Learning with Deep Convolutional Generative
    Adversarial Networks, 2015, arXiv:1511.06434, section 4.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.families.gan import GAN

__all__ = ["DCGAN"]


class DCGAN(GAN):
    """`GAN` between networks such as `zoo.nets.dcgan.DCGANGenerator` and `DCGANCritic`; arguments as there."""

    def __init__(self, generator: nn.Module, critic: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(generator, critic, *args, **kwargs)
        for layer in (*generator.modules(), *critic.modules()):
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)
