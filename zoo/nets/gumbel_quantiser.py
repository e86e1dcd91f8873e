"""A quantiser that draws its codes: the encoder's output are log-probabilities, and training sees a relaxed draw.

References:
    E. Jang, S. Gu, B. Poole, Categorical Reparameterization with Gumbel-Softmax, 2016, arXiv:1611.01144.
    C. J. Maddison, A. Mnih, Y. W. Teh, The Concrete Distribution, 2016, arXiv:1611.00712.
    A. Ramesh and others, Zero-Shot Text-to-Image Generation, 2021, arXiv:2102.12092 (dVAE).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.quantisers import Noise, Quantised, Stochastic
from zoo.spec import Recorded

__all__ = ["GumbelQuantiser", "gumbel"]


def gumbel(u: Tensor) -> Tensor:
    """Return -log(-log u), standard Gumbel noise of uniform noise in [0, 1)."""
    return -torch.log(-torch.log(u.clamp(min=torch.finfo(u.dtype).tiny)))


class GumbelQuantiser(Stochastic, Recorded, nn.Module):
    """q(c | x) = softmax of K logits at each position; the decoder sees a vector of the code.

        training:    y = softmax((logits + Gumbel noise) / tau),  the decoder sees sum_k y_k e_k
        evaluation:  c = argmax (logits + Gumbel noise), a draw from q,  the decoder sees e_c

        losses: kl, sum over positions of log K - H(q), which is KL(q || uniform) exactly

    The gradient of training is that of the relaxed draw, through it and nothing else.

    Args:
        size: K, codes; the channels of the input.
        features: D, channels of a code's vector.
        temperature: tau, positive; whoever trains may lower it as the steps go by.

    Raises:
        ConfigError: numbers out of range.
    """

    groups = 1

    def __init__(self, size: int, features: int, temperature: float = 1.0) -> None:
        super().__init__()
        if min(size, features) < 1 or temperature <= 0:
            raise ConfigError(
                f"size and features must be at least 1 and temperature positive, got {size}, {features}, {temperature}"
            )
        self.size = self.dim = size
        self.features, self.temperature = features, temperature
        self.codebook = nn.Parameter(torch.randn(size, features))

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> int:
        """Return D of a quantiser with these arguments; see `zoo.families.discrete`."""
        return arguments["size"]

    @classmethod
    def grown(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a quantiser for larger pictures or more colours: at least 512 codes of 64 numbers."""
        return {**arguments, "size": max(arguments["size"], 512), "features": max(arguments["features"], 64)}

    def log_q(self, z: Tensor) -> Tensor:
        """Return log q of each code: logits (B, K, h, w) -> (B, K, h, w)."""
        return F.log_softmax(z, 1)

    def codes(self, z: Tensor) -> Tensor:
        """Return the most probable codes: (B, K, h, w) -> int64 (B, 1, h, w)."""
        return z.argmax(1, keepdim=True)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes: int64 (B, 1, h, w) -> (B, D, h, w)."""
        return F.embedding(codes[:, 0], self.codebook).movedim(3, 1)

    def forward(self, z: Tensor, rand: Noise) -> Quantised:
        g = z + gumbel(rand(*z.shape))
        log_q = self.log_q(z)
        kl = math.log(self.size) * z[0, 0].numel() + (log_q.exp() * log_q).sum() / len(z)
        drawn = g.argmax(1, keepdim=True)  # (B, 1, h, w)
        if self.training:
            y = torch.softmax(g / self.temperature, 1).movedim(1, 3)  # (B, h, w, K)
            vectors = (y @ self.codebook).movedim(3, 1)
        else:
            vectors = self.embed(drawn)
        return Quantised(vectors, drawn, {"kl": kl})

    def learn(self, quantised: Quantised, rand: Noise) -> None:
        """Do nothing: the codebook is a parameter."""
