"""Wasserstein GAN whose critic is held 1-Lipschitz by a gradient penalty.

    L_critic    = E D(G(z)) - E D(x) + lambda E (||grad D(x_hat)||_2 - 1)^2,  x_hat = alpha x + (1 - alpha) G(z)
    L_generator = -E D(G(z))

References:
    I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin, A. Courville, Improved Training of Wasserstein GANs, 2017,
    arXiv:1704.00028.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.families.adversarial import AdversarialModel
from zoo.maths.penalties import gradient_penalty
from zoo.model import Batch

__all__ = ["WGANGP"]


class WGANGP(AdversarialModel):
    """Wasserstein GAN with gradient penalty.

    Args:
        generator: (B, latent_dim) -> (B, *shape), before the tanh.
        critic: (B, *shape) in [-1, 1] -> (B, 1), with no batch normalisation: the penalty is per example.
        latent_dim: size of z.
        shape: of an example.
        n_critic: critic updates per generator update.
        penalty: lambda, the weight of the gradient penalty, taken over all pixels of an example.
        lr: peak learning rate of both players.
        betas: Adam's decay rates of both players.
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
    ) -> None:
        super().__init__(generator, critic, latent_dim, shape, n_critic, lr, betas)
        self.penalty = penalty
        last, bias = [*critic.named_parameters()][-1]
        if bias.ndim == 1:
            self.still = {f"critic.{last}": "a constant added to the critic changes neither player's loss"}

    def compilable(self) -> list[nn.Module]:
        """Return the generator alone: the penalty differentiates the critic twice."""
        return [self.generator]

    def critic_loss(self, batch: Batch) -> dict[str, Tensor]:
        x = batch[0] * 2 - 1
        with torch.no_grad():
            fake = self.fakes(len(x))
        d_real, d_fake = self.critic(torch.cat([x, fake])).chunk(2)
        wasserstein = d_real.mean() - d_fake.mean()
        penalty = self.penalty * gradient_penalty(self.critic, x, fake, self.rand(len(x))).mean()
        return {"loss": penalty - wasserstein, "wasserstein": wasserstein, "penalty": penalty}

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": -self.critic(self.fakes(len(batch[0]))).mean()}
