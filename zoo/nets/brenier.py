"""Decoders that keep latents apart: maps that are gradients of strongly convex functions.

    f(x) = grad (psi(x) + l |x|^2 / 2) = W^T (a s'(W x + b)) + l x
    psi(x) = sum_k a_k s(w_k x + b_k),   a >= 0, s convex

f is a Brenier map, one to one, and inverse l-Lipschitz: |f(x) - f(y)| >= l |x - y|, as its Jacobian is symmetric and no
less than l I. A decoder is such maps of latents, an isometry into the space of examples, and such maps there; in all it
is inverse Lipschitz with the product of the constants. Two latents are then never taken for one, and how near the
posterior can come to the prior is bounded from below by the constant.

References:
    Y. Kinoshita, K. Oono, K. Fukumizu, Y. Yoshida, S. Maeda, Controlling Posterior Collapse by an Inverse Lipschitz
    Constraint on the Decoder Network, 2023, arXiv:2304.12770.
    Y. Wang, D. M. Blei, J. P. Cunningham, Posterior Collapse and Latent Variable Non-identifiability, 2021,
    arXiv:2301.00537: Brenier maps and input convex networks in decoders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of
from zoo.spec import Recorded

__all__ = ["BrenierDecoder", "BrenierMap"]


class BrenierMap(nn.Module):
    """Gradient of a strongly convex function, (B, n) -> (B, n), with s' = softplus - log 2.

    Args:
        features: n.
        hidden: number of terms of psi.
        constant: l, positive.
    """

    def __init__(self, features: int, hidden: int, constant: float) -> None:
        super().__init__()
        self.constant = constant
        self.weight = nn.Parameter(torch.empty(hidden, features))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.raw_scale = nn.Parameter(torch.zeros(hidden))
        self.shift = nn.Parameter(torch.zeros(features))
        nn.init.normal_(self.weight, std=(features * hidden) ** -0.25)

    def forward(self, x: Tensor) -> Tensor:
        slope = F.softplus(F.linear(x, self.weight, self.bias)) - math.log(2)
        return F.linear(F.softplus(self.raw_scale) * slope, self.weight.T, self.shift) + self.constant * x


class BrenierDecoder(Recorded, nn.Module):
    """Latents to examples without ever bringing two of them nearer than a constant allows: (B, d) -> (B, D).

    Args:
        latent_dim: d.
        features: D, numbers of an example, at least d.
        hidden: terms of the convex function of each map of examples.
        latent_hidden: terms of that of each map of latents.
        depth: maps of latents, and as many of examples.
        constant: L, positive: |f(z) - f(y)| >= L |z - y|.

    Raises:
        ConfigError: fewer numbers than latents, or numbers that are not positive.
    """

    sized: ClassVar[Mapping[str, str]] = {"hidden": "width", "latent_hidden": "width"}
    frame: Tensor

    def __init__(
        self,
        latent_dim: int,
        features: int,
        hidden: int = 256,
        latent_hidden: int = 64,
        depth: int = 1,
        constant: float = 0.1,
    ) -> None:
        super().__init__()
        if features < latent_dim or min(latent_dim, hidden, latent_hidden, depth) < 1 or not 0 < constant < math.inf:
            raise ConfigError(
                f"a decoder that keeps {latent_dim} latents apart needs as many features at least, positive widths and "
                f"depth, and a positive constant, got {features}, {hidden}, {latent_hidden}, {depth} and {constant}"
            )
        each = constant ** (1 / (2 * depth))
        self.inner = nn.Sequential(*(BrenierMap(latent_dim, latent_hidden, each) for _ in range(depth)))
        self.outer = nn.Sequential(*(BrenierMap(features, hidden, each) for _ in range(depth)))
        self.register_buffer("frame", torch.linalg.qr(torch.randn(features, latent_dim)).Q)  # an isometry, fixed

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network of these shapes."""
        return made_of(cls, {**arguments, "latent_dim": math.prod(inputs), "features": math.prod(outputs)})

    def forward(self, z: Tensor) -> Tensor:
        return self.outer(F.linear(self.inner(z), self.frame))
