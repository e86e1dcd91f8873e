"""Generative adversarial network: the original game, with the non-saturating loss.

    L_D = E softplus(-D(x)) + E softplus(D(G(z))),   L_G = E softplus(-D(G(z)))

D(x) is the logit of the probability that x is data; softplus(-D) = -log sigmoid(D).

References:
    I. Goodfellow and others, Generative Adversarial Networks, 2014, arXiv:1406.2661.
"""

from __future__ import annotations

from torch import nn

from zoo.families.adversarial import AdversarialModel

__all__ = ["GAN"]


class GAN(AdversarialModel):
    """Generator and discriminator with a symmetric game.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes: logits.
        latent_dim: size of z.
        shape: of an example.
        objective: ``non_saturating``, or ``least_squares`` for LSGAN (X. Mao and others, 2016, arXiv:1611.04076).
        n_critic: critic updates per generator update.
        r1: gamma of the penalty on the gradient at data, 0 for none.
        lazy: batches from one penalty to the next.
        lr: peak learning rate of both players.
        betas: Adam's decay rates of both players.
        num_classes, class_dim, features: classes, as in `AdversarialModel`.
        augment, augment_images: adaptive augmentation, as in `AdversarialModel`.
        bounded: whether examples are in [0, 1].
        candidates, sharpness: defaults of sampling, as in `AdversarialModel`.
    """

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
            generator, critic, latent_dim, shape, objective, n_critic, r1=r1, lazy=lazy, lr=lr, betas=betas,
            num_classes=num_classes, class_dim=class_dim, features=features, augment=augment,
            augment_images=augment_images, bounded=bounded, candidates=candidates,
            sharpness=sharpness,
        )  # fmt: skip
