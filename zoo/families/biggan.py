"""BigGAN: a class-conditional SN-GAN with a latent that acts everywhere, near-orthogonal weights, and truncation.

    L_D = E max(0, 1 - D(x, y)) + E max(0, 1 + D(G(z, y), y)),   D by projection
    L_G = -E D(G(z, y), y) + beta sum_W | W W^T (1 - I) |_F^2

Both players have spectral normalisation. Rows of the generator's weights are kept at right angles to each other, not at
unit length, which lets it map latents that it has never seen: such within a threshold, whose samples are more typical
and less varied.

References:
    A. Brock, J. Donahue, K. Simonyan, Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2018,
    arXiv:1809.11096, equation 3 and section 3.1.
    T. Miyato, M. Koyama, cGANs with Projection Discriminator, 2018, arXiv:1802.05637.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.sn_gan import SNGAN
from zoo.maths.distributions import truncated_normal
from zoo.maths.noise import randn
from zoo.model import Batch
from zoo.nets.spectral import normalise_layers

__all__ = ["BigGAN", "orthogonality"]


def orthogonality(weight: Tensor) -> Tensor:
    """Return the sum of squared products of different rows of a weight, (out, ...) -> ()."""
    rows = weight.flatten(1)
    products = rows @ rows.T
    return products.square().sum() - products.diagonal().square().sum()


class BigGAN(SNGAN):
    """Spectrally normalised GAN of both players, its generator told the class block by block.

    Args:
        generator: (B, latent_dim) [, labels (B,)] -> (B, *shape), before the tanh, such as
            `zoo.nets.biggan.BigGANGenerator`; its layers are normalised.
        critic: (B, *shape) in [-1, 1] -> (B, 1); with classes -> (B, features).
        latent_dim: size of z.
        shape: of an example.
        num_classes: number of labels that both players are told, 0 for none.
        features: numbers that the critic gives its projection.
        n_critic: critic updates per generator update, 2 in the paper.
        orthogonal: beta, of the generator's matrices and kernels before they are normalised; embeddings have none.
        lr: peak learning rate of the generator.
        critic_lr: peak learning rate of the critic.
        betas: Adam's decay rates of both players.

    Raises:
        ConfigError: numbers out of range.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        shape: list[int],
        num_classes: int = 0,
        features: int = 0,
        n_critic: int = 2,
        orthogonal: float = 1e-4,
        lr: float = 2e-4,
        critic_lr: float | None = None,
        betas: tuple[float, float] = (0.0, 0.999),
    ) -> None:
        super().__init__(
            generator, critic, latent_dim, shape, objective="hinge", betas=betas, n_critic=n_critic, lr=lr,
            critic_lr=critic_lr, num_classes=num_classes, class_dim=0, features=features, augment=0.0,
            augment_images=1, bounded=True, candidates=1, sharpness=1.0,
        )  # fmt: skip
        if not 0 <= orthogonal < math.inf:
            raise ConfigError(f"orthogonal must be finite and not negative, got {orthogonal}")
        self.orthogonal = orthogonal
        layers = normalise_layers(self.generator, (nn.Linear, nn.Conv2d, nn.Embedding))
        self._rows = [layer for layer in layers if not isinstance(layer, nn.Embedding)]  # whose rows are regularised

    def conditioned(self, generator: nn.Module, num_classes: int, class_dim: int) -> nn.Module:
        """Return the generator, which takes the class by itself."""
        return generator

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        networks = super().network_shapes(arguments)
        classes = {"num_classes": arguments.get("num_classes") or 0}
        return {**networks, "generator": ((arguments["latent_dim"],), tuple(arguments["shape"]), classes)}

    @classmethod
    def _input_widths(cls, arguments: Mapping[str, Any]) -> tuple[int, int]:
        _, scores = super()._input_widths({"class_dim": 0, **arguments})
        return arguments["latent_dim"], scores

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the generator's named terms, ``loss`` and ``orthogonality`` among them."""
        terms = super().generator_loss(batch)
        if not self.orthogonal:
            return terms
        found = torch.stack([orthogonality(layer.parametrizations.weight.original) for layer in self._rows]).sum()
        return {**terms, "loss": terms["loss"] + self.orthogonal * found, "orthogonality": found}

    def draw(
        self, n: int, generator: torch.Generator, labels: Tensor | None, *, threshold: float | None = None
    ) -> Tensor:
        """Draw from the generator.

        Args:
            threshold: numbers of z lie within so much of zero, as if those beyond were drawn again; none for all. Small
                ones give typical samples of little variety.

        Raises:
            ConfigError: a threshold that is not positive.
        """
        where = generator, self.device, self.dtype
        shape = (n, self.latent_dim)
        if threshold is None:
            return self.decode(randn(shape, *where), labels)
        if not 0 < threshold < math.inf:
            raise ConfigError(f"threshold must be positive, or left out for all latents, got {threshold}")
        return self.decode(truncated_normal(shape, threshold, *where), labels)
