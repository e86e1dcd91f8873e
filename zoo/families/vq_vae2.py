"""VQ-VAE with two levels of codes: the coarse ones first, the fine ones given them.

    f = bottom(x),  z_t = top(f),  e_t = nearest codes;   u = upsample(e_t),  z_b = merge(f, u),  e_b = nearest codes
    p(x | e_t, e_b) = decoder(u, e_b)

The codes of both levels are one image for the prior: each position of the top grid has its top code, then the bottom
codes of the square that it covers, as colours of one pixel. A prior that draws colours in order draws the bottom codes
of a square given its top code and all earlier squares.

References:
    A. Razavi, A. van den Oord, O. Vinyals, Generating Diverse High-Fidelity Images with VQ-VAE-2, 2019,
    arXiv:1906.00446. There, one upsampling of the top codes conditions the bottom encoder and another the decoder, and
    each level has a prior of its own; here one serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.discrete import LARGEST_GRID, DiscreteAutoencoder
from zoo.fitting import LEAST_WIDTH, grows
from zoo.nets.quantisers import Quantised, quantised

__all__ = ["VQVAE2"]


class VQVAE2(DiscreteAutoencoder):
    """Autoencoder with a top and a bottom quantiser of equal codebook size.

    Args:
        bottom: (B, *shape) -> (B, features, r h, r w).
        top: (B, features, r h, r w) -> (B, D_t, h, w), D_t being the top quantiser's channels.
        upsample: (B, D_t, h, w) -> (B, features, r h, r w).
        decoder: (B, features + D_b, r h, r w) -> (B, ...), as for `zoo.families.vq_vae.VQVAE`.
        quantiser_top: of the coarse codes.
        quantiser_bottom: of the fine ones.
        features: channels of what ``bottom`` and ``upsample`` return.
        shape: of an example.
        grid: (h, w), positions of the top codes.
        ratio: r, how much finer the bottom grid is.
        likelihood: ``bernoulli`` (data 0 or 1) or ``discretized_logistic`` (8-bit data).

    The other arguments are those of `zoo.families.discrete.DiscreteAutoencoder`.

    Raises:
        ConfigError: unknown or contradictory options, or codebooks of different sizes.
    """

    def __init__(
        self,
        bottom: nn.Module,
        top: nn.Module,
        upsample: nn.Module,
        decoder: nn.Module,
        quantiser_top: nn.Module,
        quantiser_bottom: nn.Module,
        features: int,
        shape: list[int],
        grid: list[int],
        ratio: int = 2,
        likelihood: str = "discretized_logistic",
        **kwargs: Any,
    ) -> None:
        size = quantiser_top.size
        if size != quantiser_bottom.size:
            raise ConfigError(
                f"both levels must have codebooks of one size, for one prior over them, got {size} codes at the top "
                f"and {quantiser_bottom.size} at the bottom"
            )
        if len(grid) != 2 or min(*grid, ratio) < 1:
            raise ConfigError(f"grid must be two positive numbers and ratio one, got {tuple(grid)} and {ratio}")
        codes = (quantiser_top.groups + ratio**2 * quantiser_bottom.groups, *grid)
        super().__init__(shape, codes, size, likelihood, **kwargs)
        self.bottom, self.top, self.upsample, self.decoder = bottom, top, upsample, decoder
        self.quantiser_top, self.quantiser_bottom, self.ratio = quantiser_top, quantiser_bottom, ratio
        self.merge = nn.Conv2d(2 * features, quantiser_bottom.dim, 1)

    quantiser_arguments: ClassVar[tuple[str, ...]] = ("quantiser_top", "quantiser_bottom")

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        fitted = super().fitted_to(arguments, before)
        if grows(fitted, before):
            fitted["features"] = max(fitted["features"], LEAST_WIDTH)
        return fitted

    @classmethod
    def _largest_grid(cls) -> int:
        return LARGEST_GRID // 2  # the bottom grid is twice as fine

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the networks map to what; see `zoo.fitting`."""
        channels, features = cls._channels(arguments), arguments["features"]
        if channels is None:
            return {}
        fine = [arguments.get("ratio", 2) * side for side in arguments["grid"]]
        f, top = (features, *fine), (channels[0], *arguments["grid"])
        return {
            "bottom": (tuple(arguments["shape"]), f),
            "top": (f, top),
            "upsample": (top, f),
            "decoder": ((features + channels[1], *fine), cls._observed(arguments)),
        }

    def compilable(self) -> list[nn.Module]:
        return [self.bottom, self.top, self.upsample, self.decoder]

    def quantisers(self) -> dict[str, nn.Module]:
        return {"_top": self.quantiser_top, "_bottom": self.quantiser_bottom}

    def quantise(self, x: Tensor) -> tuple[Tensor, dict[str, Quantised]]:
        f = self.bottom(x)
        top = quantised(self.quantiser_top, self.top(f), self.rand)
        u = self.upsample(top.z)
        bottom = quantised(self.quantiser_bottom, self.merge(torch.cat([f, u], 1)), self.rand)
        return torch.cat([u, bottom.z], 1), {"_top": top, "_bottom": bottom}

    def codes(self, x: Tensor) -> Tensor:
        f = self.bottom(x)
        top = self.quantiser_top.codes(self.top(f))
        u = self.upsample(self.quantiser_top.embed(top).to(self.dtype))
        bottom = self.quantiser_bottom.codes(self.merge(torch.cat([f, u], 1)))  # (B, G, r h, r w)
        return torch.cat([top, F.pixel_unshuffle(bottom, self.ratio)], 1)  # (B, G_t + r^2 G_b, h, w)

    def embed(self, codes: Tensor) -> Tensor:
        n = self.quantiser_top.groups
        top, bottom = codes[:, :n], F.pixel_shuffle(codes[:, n:], self.ratio)
        u = self.upsample(self.quantiser_top.embed(top).to(self.dtype))
        return torch.cat([u, self.quantiser_bottom.embed(bottom).to(self.dtype)], 1)

    def code_stages(self) -> Tensor:
        stages = torch.ones(self.grid, dtype=torch.int64)
        stages[: self.quantiser_top.groups] = 0
        return stages

    def partial(self, codes: Tensor, stages: int) -> Tensor:
        """Return the mean of p(x | ...); without the fine codes, their vectors are the mean of the codebook's."""
        if stages > 1:
            return super().partial(codes, stages)
        z, q = self.embed(codes), self.quantiser_bottom
        all_codes = torch.arange(q.size, device=codes.device)[:, None, None, None].expand(-1, q.groups, 1, 1)
        z[:, -q.dim :] = q.embed(all_codes).mean(0).to(z)
        return self.observation(z).mean

    def output(self, z: Tensor) -> Tensor:
        return self.decoder(z)
