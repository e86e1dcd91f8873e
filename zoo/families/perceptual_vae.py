"""VAE that is also asked to look right to a network which was trained before it, and which does not learn.

    L = -E_q(z|x) log p(x | z) + beta KL(q(z | x) || p(z)) + gamma |phi(x) - phi(x^)|^2,   x^ = E[x | z]

A likelihood that takes pixels one by one is content with a blur where strokes may lie here or there; features are not.
What is added is no part of a likelihood, so every reported bound is that of the VAE, and the added term a number of its
own. At gamma = 0 the model is the VAE, bit for bit.

References:
    X. Hou, L. Shen, K. Sun, G. Qiu, Deep Feature Consistent Variational Autoencoder, 2016, arXiv:1610.00291, whose loss
    has the features in the place of the pixels.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vae import VAE
from zoo.maths.divergences import feature_distance
from zoo.maths.observation import Observation
from zoo.model import Player

__all__ = ["PerceptualVAE"]


class PerceptualVAE(VAE):
    """Variational autoencoder with a perceptual term.

    Args:
        encoder: as that of `VAE`.
        decoder: as that of `VAE`.
        shape: of an example.
        latent_dim: size of z.
        likelihood: of a dimension of x, as that of `VAE`.
        perceptual: phi, (B, *shape) in data range -> a tensor of features or several, such as
            `zoo.metrics.classifier.DigitFeatures`. It is frozen, and no part of what is published.
        perceptual_weight: gamma, in nats; squared differences are summed over an example.

    The other arguments are those of `VAE`.

    Raises:
        ConfigError: a weight that is negative or not finite, or what `VAE` refuses.
    """

    training_parts: ClassVar[tuple[str, ...]] = ("perceptual",)

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: list[int],
        latent_dim: int,
        likelihood: str = "bernoulli",
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, decoder, shape, latent_dim, likelihood, **kwargs)
        if not 0 <= perceptual_weight < math.inf:
            raise ConfigError(f"perceptual_weight must be finite and not negative, got {perceptual_weight}")
        self.perceptual_weight = perceptual_weight
        self.perceptual = perceptual.requires_grad_(False).eval() if perceptual is not None else None

    def train(self, mode: bool = True) -> PerceptualVAE:
        """Set the mode of all but the frozen network, which stays as it is."""
        super().train(mode)
        if self.perceptual is not None:
            self.perceptual.eval()
        return self

    def players(self) -> dict[str, Player]:
        own = [p for p in self.parameters() if p.requires_grad]
        return {"model": Player(own, self.lr, self.betas, self.weight_decay)}

    def compilable(self) -> list[nn.Module]:
        return [self.encoder, self.decoder]

    def judged(self, terms: dict[str, Tensor], x: Tensor, p: Observation) -> dict[str, Tensor]:
        """Return the terms with ``perceptual``, whose weighted value is in ``loss`` and in no bound."""
        if self.perceptual is None or not self.perceptual_weight:
            return terms
        distance = feature_distance(self.perceptual, x, self._data(p.mean))
        return {**terms, "loss": terms["loss"] + self.perceptual_weight * distance, "perceptual": distance}
