"""Residual quantisation: each code stands for what the codes before it left.

References:
    D. Lee, C. Kim, S. Kim, M. Cho, W.-S. Han, Autoregressive Image Generation using Residual Quantization, 2022,
    arXiv:2203.01941.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.maths.quantisers import straight_through
from zoo.nets.quantisers import Quantised, VectorQuantiser
from zoo.spec import Recorded

__all__ = ["ResidualQuantiser"]


class ResidualQuantiser(Recorded, nn.Module):
    """D codes for each position, all from one codebook, whose vectors are summed.

        r_0 = z,  c_d = the nearest code to r_{d-1},  r_d = r_{d-1} - e[c_d],  decoder input z + sg[sum_d e[c_d] - z]

        losses: commitment sum_d ||z - sg[e[c_1] + ... + e[c_d]]||^2;  codebook sum_d ||sg[r_{d-1}] - e[c_d]||^2

    Args:
        size: K, codes of the codebook.
        dim: channels of the input.
        depth: D, codes of a position.
        update: of the codebook, ``ema`` or ``loss``, as `zoo.nets.quantisers.VectorQuantiser` has it.
        decay: likewise.
        revive: likewise; a code that died is drawn anew among the residuals of all depths.

    Raises:
        ConfigError: a depth below 1, or numbers that a `VectorQuantiser` refuses.
    """

    ordered = True

    def __init__(
        self, size: int, dim: int, depth: int = 4, update: str = "ema", decay: float = 0.99, revive: float = 0.01
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ConfigError(f"depth must be at least 1, got {depth}")
        self.quantiser = VectorQuantiser(size, dim, 1, update, decay, revive)
        self.size, self.dim, self.groups = size, dim, depth

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> int:
        """Return D of a quantiser with these arguments; see `zoo.families.discrete`."""
        return arguments["dim"]

    @classmethod
    def grown(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a quantiser for larger pictures or more colours: at least 512 codes of 64 numbers."""
        return {**arguments, "size": max(arguments["size"], 512), "dim": max(arguments["dim"], 64)}

    def codes(self, z: Tensor) -> Tensor:
        """Return the codes, coarse ones first: (B, C, h, w) -> int64 (B, D, h, w)."""
        codes = []
        for _ in range(self.groups):
            codes.append(self.quantiser.codes(z))
            z = z - self.quantiser.embed(codes[-1])
        return torch.cat(codes, 1)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the sums of the vectors of the first d codes: int64 (B, d, h, w), 1 <= d <= D -> (B, C, h, w)."""
        vectors = [self.quantiser.embed(c[:, None]) for c in codes.unbind(1)]
        return torch.stack(vectors).sum(0)

    def forward(self, z: Tensor) -> Quantised:
        steps, r = [], z
        for _ in range(self.groups):
            steps.append(self.quantiser(r))
            r = r - self.quantiser.embed(steps[-1].codes).detach()
        codes = torch.cat([s.codes for s in steps], 1)
        losses = {name: torch.stack([s.losses[name] for s in steps]).sum() for name in steps[0].losses}
        v, nearest = (torch.cat([s.learned[i] for s in steps], 1) for i in (0, 1))  # (1, D N, C), (1, D N)
        return Quantised(straight_through(z, self.embed(codes).detach()), codes, losses, (v, nearest))

    def learn(self, quantised: Quantised, rand: Callable[..., Tensor]) -> None:
        """Update the codebook by the residuals of all depths; see `VectorQuantiser.learn`."""
        one = quantised.codes.flatten(1, 2)[:, None]  # (B, 1, D h, w): one group that all depths share
        self.quantiser.learn(Quantised(quantised.z, one, {}, quantised.learned), rand)
