"""Tokenizer of VAR and Infinity: an autoencoder whose codes describe the whole image at growing scales.

References:
    K. Tian and others, Visual Autoregressive Modeling, 2024, arXiv:2404.02905, section 3.2.
    J. Han and others, Infinity, 2024, arXiv:2412.04431, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.discrete import LARGEST_GRID
from zoo.families.vq_vae import VQVAE
from zoo.fitting import halvings
from zoo.maths.completion import covered
from zoo.nets.multi_scale_quantiser import MultiScaleQuantiser

__all__ = ["MultiScaleVQ"]


class MultiScaleVQ(VQVAE):
    """Autoencoder with a `zoo.nets.multi_scale_quantiser.MultiScaleQuantiser` between its halves.

    The codes of all scales lie in a row: ``grid`` is (G, 1, L).

    Args:
        encoder: (B, *shape) -> (B, D, h, h), h being the last scale.
        decoder: (B, D, h, h) -> (B, ...), as `VQVAE` has it.
        quantiser: a `MultiScaleQuantiser`.
        shape: of an example.

    The other arguments are those of `zoo.families.discrete.DiscreteAutoencoder`.

    Raises:
        ConfigError: another quantiser, or contradictory options.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantiser: nn.Module,
        shape: list[int],
        likelihood: str = "discretized_logistic",
        scale: str = "predicted",
        min_log_scale: float = -5.0,
        reconstruction: str = "likelihood",
        commitment: float = 0.25,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        if not isinstance(quantiser, MultiScaleQuantiser):
            raise ConfigError(f"the quantiser must be a MultiScaleQuantiser, got a {type(quantiser).__name__}")
        super().__init__(
            encoder, decoder, quantiser, shape, [1, quantiser.length], likelihood, scale=scale,
            min_log_scale=min_log_scale, reconstruction=reconstruction, commitment=commitment, lr=lr, betas=betas,
        )  # fmt: skip

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with another shape: scales in proportion; see `zoo.fitting`.

        Raises:
            ConfigError: sides that differ, or that cannot be halved so often.
        """
        fitted = super().fitted_to(arguments, before)
        (height, width), (side, _) = arguments["shape"][1:], before["shape"][1:]
        if height == width == side:
            return fitted
        if height != width:
            raise ConfigError(
                f"the scales of {cls.__name__} are those of squares, images of {height} x {width} are none; set "
                f"--data.size to {height} or {width}"
            )
        scales = before["quantiser"]["init_args"]["scales"]
        h = height >> halvings([height], LARGEST_GRID, least=round(math.log2(side / scales[-1])))
        if arguments["quantiser"] == before["quantiser"]:
            found = sorted({1, h, *(max(1, round(s * h / scales[-1])) for s in scales)})
            inside = {**arguments["quantiser"]["init_args"], "scales": found}
            fitted["quantiser"] = {**arguments["quantiser"], "init_args": inside}
        return fitted

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        inside = arguments["quantiser"]["init_args"]
        channels = cls._channels({**arguments, "quantiser": inside["quantiser"]})
        if channels is None:
            return {}
        latent = (*channels, inside["scales"][-1], inside["scales"][-1])
        return {"encoder": (tuple(arguments["shape"]), latent), "decoder": (latent, cls._observed(arguments))}

    @property
    def scales(self) -> tuple[int, ...]:
        """Sides of the maps of codes, coarse ones first."""
        return self.quantiser.scales

    @property
    def latent_size(self) -> tuple[int, ...]:
        """Shape (D, h, h) of what is quantised."""
        return (self.quantiser.dim, self.scales[-1], self.scales[-1])

    def code_stages(self) -> Tensor:
        """Return of which scale each code is, int64 (*grid), 0 for the coarsest."""
        stage = torch.repeat_interleave(torch.arange(len(self.scales)), torch.tensor([s * s for s in self.scales]))
        return stage.expand(self.grid).clone()

    def partial(self, codes: Tensor, stages: int) -> Tensor:
        """Return the mean of p(x | the codes of the first scales): int64 (B, *grid) -> (B, *shape) in data range."""
        return self.observation(self.quantiser.sums(codes)[stages - 1].to(self.dtype)).mean

    def reconstruct(self, x: Tensor, scales: int | None = None) -> Tensor:
        """Return the mean of p(x | the codes of the first ``scales``), of all if left out. Raises `ConfigError`."""
        S = len(self.scales)
        if scales is not None and not 1 <= scales <= S:
            raise ConfigError(f"scales must be between 1 and {S}, got {scales}")
        return self.partial(self.codes(x), scales or S)

    def known_codes(self, mask: Tensor) -> Tensor:
        """Return which codes stand for pixels that are all known: bool (B, C, H, W) -> bool (B, *grid)."""
        return known_at(mask, self.scales)[:, None, None].expand(-1, *self.grid)


def known_at(mask: Tensor, scales: Sequence[int]) -> Tensor:
    """Return which cells of all scales, in a row, hold known pixels only: bool (B, C, H, W) -> bool (B, L)."""
    return torch.cat([covered(mask, (s, s)).flatten(1) for s in scales], 1)
