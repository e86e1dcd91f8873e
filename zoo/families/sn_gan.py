"""Spectrally normalised GAN: each layer of the critic divided by its largest singular value, and the hinge loss.

    W_SN = W / sigma(W),   L_D = E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))),   L_G = -E D(G(z))

sigma is estimated by one power iteration a forward pass, by torch's own parametrisation.

References:
    T. Miyato, T. Kataoka, M. Koyama, Y. Yoshida, Spectral Normalization for Generative Adversarial Networks, 2018,
    arXiv:1802.05957.
    T. Miyato, M. Koyama, cGANs with Projection Discriminator, 2018, arXiv:1802.05637: the conditional critic.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from zoo.families.adversarial import AdversarialModel

__all__ = ["SNGAN"]

_NORMALISED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)


class SNGAN(AdversarialModel):
    """GAN whose critic, any network, gets spectral normalisation.

    Args:
        generator: (B, latent_dim [+ class_dim]) -> (B, *shape), before the tanh.
        critic: (B, *shape) in [-1, 1] -> (B, 1), or (B, features) with classes; its linear and convolutional layers
            are normalised.
        latent_dim: size of z.
        shape: of an example.
        objective: ``hinge``, or another of `zoo.maths.objectives.OBJECTIVES`.
        n_critic: critic updates per generator update.
        lr: peak learning rate of both players.
        critic_lr: peak learning rate of the critic, where it differs.
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
        objective: str = "hinge",
        n_critic: int = 1,
        lr: float = 2e-4,
        critic_lr: float | None = None,
        betas: tuple[float, float] = (0.0, 0.9),
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
            generator, critic, latent_dim, shape, objective, n_critic, lr=lr, critic_lr=critic_lr, betas=betas,
            num_classes=num_classes, class_dim=class_dim, features=features, augment=augment,
            augment_images=augment_images, bounded=bounded, candidates=candidates,
            sharpness=sharpness,
        )  # fmt: skip
        # while all scores lie within the margin of the hinge, what they say to the critic's last bias cancels
        self.steps_to_move = max(self.steps_to_move, 12)
        for layer in list(self.critic.modules()):
            if isinstance(layer, _NORMALISED):
                spectral_norm(layer)
