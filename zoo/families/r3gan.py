"""R3GAN: a relativistic pairing game, held stable by zero-centred penalties on data and on samples.

    L_D = E softplus(D(G(z)) - D(x)) + gamma / 2 (E |grad D(x)|^2 + E |grad D(G(z))|^2),
    L_G = E softplus(D(x) - D(G(z)))

References:
    Y. Huang, A. Gokaslan, V. Kuleshov, J. Tompkin, The GAN is dead; long live the GAN! A Modern GAN Baseline, 2025,
    arXiv:2501.05441.
"""

from __future__ import annotations

from torch import nn

from zoo.families.adversarial import AdversarialModel

__all__ = ["R3GAN"]


class R3GAN(AdversarialModel):
    """Relativistic GAN with R1 and R2 penalties.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh; without normalisation layers.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes; without normalisation layers.
        latent_dim: size of z.
        shape: of an example.
        gamma: weight of both penalties.
        lazy: batches from one pair of penalties to the next; the paper takes 1.
        n_critic: critic updates per generator update.
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
        gamma: float = 1.0,
        lazy: int = 1,
        n_critic: int = 1,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.0, 0.99),
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
            generator, critic, latent_dim, shape, "relativistic", n_critic, r1=gamma, r2=gamma, lazy=lazy, lr=lr,
            betas=betas, num_classes=num_classes, class_dim=class_dim, features=features, augment=augment,
            augment_images=augment_images, bounded=bounded, candidates=candidates,
            sharpness=sharpness,
        )  # fmt: skip
