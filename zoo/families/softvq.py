"""SoftVQ-VAE: an autoencoder whose tokens are averages of codes, weighted by a softmax, in training and afterwards.

    L = -log p(x | z_q) + entropies,   z_q = w e,   w = softmax(z . sg[e] / tau)

All of it is differentiable. Its tokens are continuous, for a prior of continuous data: ``latent_diffusion`` takes it as
its autoencoder. It also has codes, those of the largest weights, for a prior over codes; their decoder was trained on
averages, so that they are worth less the softer these are.

References:
    H. Chen and others, SoftVQ-VAE: Efficient 1-Dimensional Continuous Tokenizer, 2024, arXiv:2412.10958.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.vq_vae import VQVAE
from zoo.nets.quantisers import Quantised
from zoo.nets.soft_quantiser import SoftQuantiser

__all__ = ["SoftVQ"]


class SoftVQ(VQVAE):
    """Autoencoder with continuous tokens near the codes of a codebook.

    The loss has no ``elbo``, as no distribution of the averages is known; `log_prob` is the bound of the codes.

    Args:
        encoder: (B, *shape) -> (B, ...), D h w numbers, D being the quantiser's channels.
        decoder: (B, D, h, w) -> (B, ...), as for `zoo.families.vq_vae.VQVAE`.
        quantiser: a `zoo.nets.soft_quantiser.SoftQuantiser`.
        shape: of an example.
        grid: (h, w), positions of the tokens.

    The other arguments are those of `zoo.families.discrete.DiscreteAutoencoder`; there is no commitment loss.

    Raises:
        ConfigError: another quantiser, or unknown or contradictory options.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantiser: nn.Module,
        shape: list[int],
        grid: list[int],
        **kwargs: Any,
    ) -> None:
        if not isinstance(quantiser, SoftQuantiser):
            raise ConfigError(
                f"SoftVQ averages codes by a SoftQuantiser, got a {type(quantiser).__name__}; a VQVAE takes that one"
            )
        super().__init__(encoder, decoder, quantiser, shape, grid, **kwargs)
        self.map_grid = (quantiser.dim, *grid)

    def latents(self, x: Tensor) -> Tensor:
        """Return the tokens z_q as a map: (B, *shape) in data range -> (B, D, h, w)."""
        return self.quantiser.average(self.latent(x))

    def images(self, z: Tensor) -> Tensor:
        """Return the mean of p(x | z): (B, D, h, w) -> (B, *shape) in data range."""
        return self.observation(z).mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x | z_q(x)): (B, *shape) -> (B, *shape), both in data range."""
        return self.images(self.latents(x))

    def code_nats(self, made: dict[str, Quantised]) -> None:
        """Return None: the decoder saw no codes."""
