"""Autoencoder whose latent is a grid of discrete codes.

    z_e = encoder(x),  e = the nearest code to z_e,  p(x | e) = decoder(z_e + sg[e - z_e])

    L = -log p(x | e)  +  ||sg[z_e] - e||^2  +  beta ||z_e - sg[e]||^2

With a `zoo.nets.quantisers.VectorQuantiser` this is the VQ-VAE, with `zoo.nets.quantisers.FSQ`, which has no auxiliary
loss, the autoencoder of finite scalar quantisation, with `zoo.nets.residual_quantiser.ResidualQuantiser` the RQ-VAE,
with `zoo.nets.binary_quantisers.LFQ` or `BSQ`, which add a loss of entropies, an autoencoder with bits for codes, and
with nested groups of a `VectorQuantiser`, of which training leaves out the last ones at random, MGVQ.

References:
    A. van den Oord, O. Vinyals, K. Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937.
    F. Mentzer, D. Minnen, E. Agustsson, M. Tschannen, Finite Scalar Quantization: VQ-VAE Made Simple, 2023,
    arXiv:2309.15505.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.discrete import DiscreteAutoencoder
from zoo.nets.quantisers import Ordered, Quantised, quantised

__all__ = ["VQVAE"]


class VQVAE(DiscreteAutoencoder):
    """Autoencoder with a quantiser between its halves.

    Args:
        encoder: (B, *shape) -> (B, ...), D h w numbers, D being the quantiser's channels: a map, or a flat vector.
        decoder: (B, D, h, w) -> (B, ...), one value a dimension of x (logits or locations), twice as many with
            predicted scales: locations, then scales.
        quantiser: between the two: `VectorQuantiser`, `FSQ`, `ResidualQuantiser`, `LFQ`, `BSQ`, or another of
            `zoo.nets`.
        shape: of an example.
        grid: (h, w), positions of the codes; (t, h, w) of clips.
        likelihood: ``bernoulli`` (data 0 or 1) or ``discretized_logistic`` (8-bit data).

    The other arguments are those of `zoo.families.discrete.DiscreteAutoencoder`.

    Raises:
        ConfigError: unknown or contradictory options.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantiser: nn.Module,
        shape: list[int],
        grid: list[int],
        likelihood: str = "discretized_logistic",
        **kwargs: Any,
    ) -> None:
        if len(grid) not in (2, len(shape) - 1) or min(grid) < 1:
            raise ConfigError(
                f"grid must be two positive numbers (h, w), or three (t, h, w) of clips, got {tuple(grid)}"
            )
        codes = (quantiser.groups, *grid)
        super().__init__(shape, codes, quantiser.size, likelihood, **kwargs)
        self.encoder, self.decoder, self.quantiser = encoder, decoder, quantiser
        self.steps_to_move = getattr(quantiser, "steps_to_move", 2)

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the encoder and the decoder map to what; see `zoo.fitting`."""
        channels = cls._channels(arguments)
        if channels is None:
            return {}
        latent = (*channels, *arguments["grid"])
        return {"encoder": (tuple(arguments["shape"]), latent), "decoder": (latent, cls._observed(arguments))}

    def compilable(self) -> list[nn.Module]:
        return [self.encoder, self.decoder]

    @property
    def latent_size(self) -> tuple[int, ...]:
        """Shape (D, h, w) of what is quantised."""
        return (self.quantiser.dim, *self.grid[1:])

    def latent(self, x: Tensor) -> Tensor:
        """Return z_e: (B, *shape) in data range -> (B, D, h, w). Raises `ConfigError` where the sizes do not fit."""
        z, size = self.encoder(x), self.latent_size
        if z[0].numel() != math.prod(size):
            raise ConfigError(
                f"the encoder gives {z[0].numel()} numbers an example, the quantiser and its grid take "
                f"{' x '.join(map(str, size))}; change the encoder's output or the grid"
            )
        return z.reshape(-1, *size)

    def quantise(self, x: Tensor) -> tuple[Tensor, dict[str, Quantised]]:
        made = quantised(self.quantiser, self.latent(x), self.rand)
        return made.z, {"": made}

    def codes(self, x: Tensor) -> Tensor:
        return self.quantiser.codes(self.latent(x))

    def embed(self, codes: Tensor) -> Tensor:
        return self.quantiser.embed(codes).to(self.dtype)

    def code_stages(self) -> Tensor:
        if not (isinstance(self.quantiser, Ordered) and self.quantiser.ordered):
            return super().code_stages()
        return torch.arange(self.grid[0])[:, None, None].expand(self.grid)

    def partial(self, codes: Tensor, stages: int) -> Tensor:
        shown = stages if bool(self.code_stages().any()) else len(codes[0])
        return self.observation(self.embed(codes[:, :shown])).mean

    def output(self, z: Tensor) -> Tensor:
        return self.decoder(z)
