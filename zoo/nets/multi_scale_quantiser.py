"""Multi-scale residual quantisation: codes of a whole map at growing sizes, each for what the smaller ones left.

References:
    K. Tian, Y. Jiang, Z. Yuan, B. Peng, L. Wang, Visual Autoregressive Modeling: Scalable Image Generation via
    Next-Scale Prediction, 2024, arXiv:2404.02905, algorithms 1 and 2.
    J. Han and others, Infinity: Scaling Bitwise AutoRegressive Modeling for High-Resolution Image Synthesis, 2024,
    arXiv:2412.04431 (bits for codes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_choice
from zoo.maths.quantisers import straight_through
from zoo.nets.quantisers import Quantised, VectorQuantiser
from zoo.spec import Recorded

__all__ = ["MultiScaleQuantiser"]

INTERPOLATIONS = ("bicubic", "bilinear")


class MultiScaleQuantiser(Recorded, nn.Module):
    """One quantiser for the map f at all scales s_1 < ... < s_S = h, whose vectors are enlarged and summed.

        r_0 = f,  c_k = codes(reduce(r_{k-1}, s_k)),  u_k = Phi_k(enlarge(e[c_k], h)),  r_k = r_{k-1} - u_k,
        f_k = u_1 + ... + u_k,  decoder input f + sg[f_S - f]

        losses: commitment 1/S sum_k ||f - sg[f_k]||^2;  codebook 1/S sum_k ||f_k - sg[f]||^2, without learnt vectors
        or convolutions none;  entropy, where the quantiser has one: the mean over scales

    Reducing takes means over areas. Each Phi is half the identity, half a 3 x 3 convolution; a few of them are shared
    by scales that are near one another. Codes of all scales lie in a row, int64 (B, G, 1, L), L = sum_k s_k^2.

    Args:
        quantiser: `VectorQuantiser`, whose codebook all scales share, or `LFQ` or `BSQ`.
        scales: s_1, ..., s_S, growing; the last is the side of f.
        convolutions: how many Phi there are at most; 0 for none: Phi is the identity.
        interpolation: by which maps are enlarged, ``bicubic`` or ``bilinear``.

    Raises:
        ConfigError: scales that do not grow, or an unknown interpolation.
    """

    ordered = False

    def __init__(
        self, quantiser: nn.Module, scales: Sequence[int], convolutions: int = 4, interpolation: str = "bicubic"
    ) -> None:
        super().__init__()
        if not scales or min(scales) < 1 or any(b <= a for a, b in pairwise(scales)):
            raise ConfigError(f"scales must be growing positive numbers, got {list(scales)}")
        check_choice("interpolation", interpolation, INTERPOLATIONS)
        self.quantiser, self.scales, self.interpolation = quantiser, tuple(scales), interpolation
        self.size, self.dim, self.groups = quantiser.size, quantiser.dim, quantiser.groups
        self.length = sum(s * s for s in scales)
        self.chosen = _shares(len(scales), convolutions)  # which Phi each scale has
        self.phi = nn.ModuleList(nn.Conv2d(self.dim, self.dim, 3, padding=1) for _ in set(self.chosen))

    # -- one scale ----------------------------------------------------------------------------------------------------

    def reduce(self, f: Tensor, k: int) -> Tensor:
        """Return the means of a map over the areas of scale k: (B, D, h, h) -> (B, D, s_k, s_k)."""
        return f if k == len(self.scales) - 1 else F.adaptive_avg_pool2d(f, self.scales[k])

    def enlarge(self, e: Tensor, k: int) -> Tensor:
        """Return u_k of vectors of scale k: (B, D, s_k, s_k) -> (B, D, h, h)."""
        if k < len(self.scales) - 1:
            e = F.interpolate(e, (self.scales[-1],) * 2, mode=self.interpolation, align_corners=False)
        return 0.5 * e + 0.5 * self.phi[self.chosen[k]](e) if self.chosen else e

    # -- all scales ---------------------------------------------------------------------------------------------------

    def split(self, codes: Tensor) -> list[Tensor]:
        """Return the codes of each scale that is there: int64 (B, G, 1, l) -> (B, G, s_k, s_k)."""
        parts, first = [], 0
        for s in self.scales:
            if first + s * s > codes.shape[3]:
                break
            parts.append(codes[:, :, 0, first : first + s * s].unflatten(2, (s, s)))
            first += s * s
        return parts

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Undo `split`."""
        return torch.cat([part.flatten(2) for part in parts], 2)[:, :, None]

    def steps(self, f: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield r_{k-1} reduced to scale k, c_k and u_k, scale by scale."""
        r = f
        for k in range(len(self.scales)):
            low = self.reduce(r, k)
            c = self.quantiser.codes(low)
            u = self.enlarge(self.quantiser.embed(c).to(f.dtype), k)
            r = r - u.detach()
            yield low, c, u

    def codes(self, z: Tensor) -> Tensor:
        """Return the codes, coarse ones first: (B, D, h, h) -> int64 (B, G, 1, L)."""
        return self.joined([c for _, c, _ in self.steps(z)])

    def sums(self, codes: Tensor) -> list[Tensor]:
        """Return f_1, ..., f_k of the codes of the first k scales: int64 (B, G, 1, l) -> (B, D, h, h) each."""
        f, found = 0.0, []
        for k, c in enumerate(self.split(codes)):
            f = f + self.enlarge(self.quantiser.embed(c), k)
            found.append(f)
        return found

    def embed(self, codes: Tensor) -> Tensor:
        """Return f_k of the codes of the first k scales, as a rule of all: int64 (B, G, 1, l) -> (B, D, h, h)."""
        return self.sums(codes)[-1]

    def forward(self, z: Tensor) -> Quantised:
        S, f, sums, steps = len(self.scales), 0.0, [], list(self.steps(z))
        for _, _, u in steps:
            f = f + u
            sums.append(f)
        losses = {"commitment": torch.stack([(z - f.detach()).square().sum() for f in sums]).sum() / (S * len(z))}
        if f.requires_grad:
            losses["codebook"] = torch.stack([(f - z.detach()).square().sum() for f in sums]).sum() / (S * len(z))
        codes, learned = self.joined([c for _, c, _ in steps]), None
        if isinstance(self.quantiser, VectorQuantiser):
            learned = self._learned([low for low, _, _ in steps], codes)
        else:
            made = [self.quantiser(low).losses for low, _, _ in steps]
            if "entropy" in made[0]:
                losses["entropy"] = torch.stack([m["entropy"] for m in made]).mean()
        return Quantised(straight_through(z, f.detach()), codes, losses, learned)

    def _learned(self, low: Sequence[Tensor], codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of all scales, (G, B L, d), and their codes, (G, B L)."""
        G = self.groups
        v = torch.cat([r.detach().flatten(2) for r in low], 2)  # (B, D, L)
        v = v.unflatten(1, (G, -1)).permute(1, 0, 3, 2).flatten(1, 2)  # (G, B L, d)
        return v, codes[:, :, 0].transpose(0, 1).flatten(1)

    def learn(self, quantised: Quantised, rand: Callable[..., Tensor]) -> None:
        """Update the codebook by the residuals of all scales; see `VectorQuantiser.learn`."""
        self.quantiser.learn(quantised, rand)


def _shares(scales: int, convolutions: int) -> list[int]:
    """Return which convolution each scale has, numbered in order; an empty list for none.

    K of them stand at even distances on [0, 1], the ends moved inwards by 1/3K for K = 4, else 1/2K; a scale at
    (k - 1) / (S - 1) has the nearest.
    """
    if not convolutions:
        return []
    K = convolutions
    end = 1 / (3 * K) if K == 4 else 1 / (2 * K)
    places = [end + (1 - 2 * end) * i / max(1, K - 1) for i in range(K)] if K > 1 else [0.5]
    at = [k / max(1, scales - 1) for k in range(scales)]
    nearest = [min(range(K), key=lambda i: abs(places[i] - a)) for a in at]
    used = sorted(set(nearest))
    return [used.index(i) for i in nearest]
