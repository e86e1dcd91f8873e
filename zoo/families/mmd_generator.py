"""A generator trained by the maximum mean discrepancy alone: no critic, no game.

    L = MMD^2(G(z), x), unbiased, under Gaussian kernels of bandwidths around the median distance of the data

References:
    Y. Li, K. Swersky, R. Zemel, Generative Moment Matching Networks, 2015, arXiv:1502.02761.
    G. K. Dziugaite, D. M. Roy, Z. Ghahramani, Training generative neural networks via Maximum Mean Discrepancy
    optimization, 2015, arXiv:1505.03906.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.maths.divergences import MULTIPLES, bandwidths, squared_mmd
from zoo.maths.noise import randn
from zoo.model import Batch, ImplicitModel

__all__ = ["MMDGenerator"]

_LEAST_LATENT = 64
"""Least size of the latent of images, where the entry is one of points."""


class MMDGenerator(ImplicitModel):
    """A generator and kernels.

    Args:
        generator: (B, latent_dim) -> (B, *shape); images by a sigmoid applied here.
        shape: of an example.
        latent_dim: of z.
        levels: of the data, None for points.
        lr: peak learning rate.
        multiples: bandwidths of the kernels, as multiples of the median distance of a batch.

    Raises:
        ConfigError: no latent, or bandwidths that are not positive.
    """

    family = "transport"

    def __init__(
        self,
        generator: nn.Module,
        shape: list[int],
        latent_dim: int,
        levels: int | None = 256,
        lr: float = 1e-3,
        multiples: Sequence[float] = MULTIPLES,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ConfigError(f"latent_dim must be at least 1, got {latent_dim}")
        if not multiples or not all(math.isfinite(m) and m > 0 for m in multiples):
            raise ConfigError(f"multiples must be positive numbers, one at least, got {list(multiples)}")
        self.multiples = tuple(float(m) for m in multiples)
        self.generator, self.shape, self.levels = generator, tuple(shape), levels
        self.latent_dim, self.lr = latent_dim, lr

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the generator maps to what; see `zoo.fitting`."""
        return {"generator": ((arguments["latent_dim"],), tuple(arguments["shape"]))}

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data; see `zoo.fitting`."""
        if len(arguments["shape"]) == len(before["shape"]):
            return dict(arguments)
        return {**arguments, "latent_dim": max(arguments["latent_dim"], _LEAST_LATENT)}

    def decode(self, z: Tensor) -> Tensor:
        """Return the examples of latents, (B, latent_dim) -> (B, *shape) in data range."""
        return self._placed(self.generator, z)

    def _placed(self, network: nn.Module, z: Tensor) -> Tensor:
        x = network(z).reshape(-1, *self.shape)
        return x if self.levels is None else torch.sigmoid(x)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the latents of one example, as ``decode`` takes them."""
        return (self.latent_dim,)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return MMD^2, times nothing: 0 on average where the laws are equal."""
        x = batch[0]
        made, ranks = self.decode(self.randn(len(x), self.latent_dim)), max(1, len(self._streams))
        if min(len(x), len(made)) < 2 * ranks:
            raise ConfigError(
                "the unbiased discrepancy is of batches of two examples at least; set a larger batch_size"
            )
        pairs = zip(made.chunk(ranks), x.chunk(ranks), strict=True)  # each rank's share by itself
        mmd = torch.stack([squared_mmd(a, b, bandwidths(b, self.multiples)) for a, b in pairs]).mean()
        return {"loss": mmd, "mmd": mmd}

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        """Map latents to data by one call."""
        return self.decode(randn((n, self.latent_dim), generator, self.device, self.dtype))
