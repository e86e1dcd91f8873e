"""ProGAN: both players start on small images and grow, a stage at a time, until they are at the data's own size.

    L_D = E D(G(z)) - E D(x) + lambda E (|grad D(x_hat)| - 1)^2 + 0.001 E D(x)^2,   L_G = -E D(G(z))

After ``hold`` steps at each stage the next one is faded in over ``fade`` steps, in both networks and in the data, which
are shown as the stage could draw them. What is faded in, and how far, follows from the number of steps alone, and is
saved with the weights.

References:
    T. Karras, T. Aila, S. Laine, J. Lehtinen, Progressive Growing of GANs for Improved Quality, Stability, and
    Variation, 2017, arXiv:1710.10196.
    I. Gulrajani and others, Improved Training of Wasserstein GANs, 2017, arXiv:1704.00028: the game.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.adversarial import AdversarialModel
from zoo.model import Batch
from zoo.nets.growing import Growing, GrowingCritic, GrowingGenerator, doubled, halved

__all__ = ["ProGAN"]


class ProGAN(AdversarialModel):
    """Wasserstein GAN whose networks grow.

    Inside, images have the sides of the stage; samples are enlarged to the data's own, by nearest neighbours.

    Args:
        generator: such as `zoo.nets.growing.GrowingGenerator`.
        critic: such as `zoo.nets.growing.GrowingCritic`, of as many stages.
        latent_dim: size of z.
        shape: of an example, (C, H, W).
        hold: steps of a stage by itself, before the next one is faded in.
        fade: steps of a fade.
        penalty: lambda, the weight of the gradient penalty on interpolates.
        n_critic: critic updates per generator update.
        lr: peak learning rate of both players.
        betas: Adam's decay rates of both players.
        candidates: default of sampling: how many are drawn for one that is kept.
        sharpness: default of sampling: beta of the chance in proportion to exp(beta D) with which one is kept.

    Raises:
        ConfigError: networks that do not grow, or not alike, negative steps, or what `AdversarialModel` refuses.
    """

    generator: GrowingGenerator
    critic: GrowingCritic

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        shape: list[int],
        hold: int = 1000,
        fade: int = 1000,
        penalty: float = 10.0,
        n_critic: int = 1,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.0, 0.99),
        candidates: int = 1,
        sharpness: float = 1.0,
    ) -> None:
        stages = {net.stages if isinstance(net, Growing) else 0 for net in (generator, critic)}
        if len(stages) != 1 or 0 in stages:
            raise ConfigError(
                "the players of a ProGAN are a GrowingGenerator and a GrowingCritic of as many stages; give both as "
                "many widths"
            )
        if hold < 0 or fade < 1:
            raise ConfigError(f"hold must not be negative and fade at least 1 step, got {hold} and {fade}")
        super().__init__(
            generator, critic, latent_dim, shape, "wasserstein_drift", n_critic=n_critic, penalty=penalty, lr=lr,
            betas=betas, candidates=candidates, sharpness=sharpness,
        )  # fmt: skip
        self.hold, self.fade, self.stages, self.grown = hold, fade, stages.pop(), False
        self.first_phases = (hold, fade) * (self.stages - 1)
        self.first_steps = sum(self.first_phases)
        if self.stages > 1:
            self.steps_to_move += self.first_steps - fade + 1  # at the first step of a fade alpha is 0
        self.grow(0)

    # -- growth -------------------------------------------------------------------------------------------------------

    def growth(self, step: int) -> float:
        """Return how far the networks have grown after so many steps: k + alpha, from 0 to the number of stages - 1."""
        done, within = divmod(step, self.hold + self.fade)
        if done >= self.stages - 1 or self.grown:
            return float(self.stages - 1)
        return done + max(0, within - self.hold) / self.fade

    def grow(self, step: int) -> None:
        """Let both networks be what they are after so many steps."""
        for net in (self.generator, self.critic):
            net.grow(self.growth(step))

    def past_phases(self) -> None:
        """Let all further steps be those of the whole networks."""
        self.grown = True

    # -- data and samples ---------------------------------------------------------------------------------------------

    def given(self, batch: Batch) -> tuple[Tensor, None]:
        """Return examples in [-1, 1] as the stage could draw them: at its sides, faded from those of the one before."""
        x = halved(super().given(batch)[0], self.stages - 1 - self.critic.stage)
        if self.critic.fading:
            x = torch.lerp(doubled(halved(x)), x, self.critic.alpha.to(x.dtype))
        return x, None

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the images of latents, around [-1, 1]: (B, latent_dim) -> (B, C, H / 2^k, W / 2^k), k stages left."""
        return self.generator(z)

    def to_data(self, x: Tensor) -> Tensor:
        """Return what the generator gives as examples, (B, *shape) in [0, 1]; what lies beyond is cut."""
        return super().to_data(doubled(x, self.stages - 1 - self.generator.stage)).clamp(0, 1)

    # -- training -----------------------------------------------------------------------------------------------------

    def compilable(self) -> list[nn.Module]:
        """Return nothing: the networks are others in each phase."""
        return []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Let the networks grow to where this step is, and train them as those of every adversarial model."""
        self.grow(self.steps_done)
        super().training_step(batch, batch_idx)
        self.terms["growth"] = self.critic.growth.detach().clone()

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data; the rate of the paper is for images of any size."""
        return dict(arguments)
