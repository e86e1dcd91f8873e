"""A differentiable quantiser: an average of all codes, weighted by how alike they are, in training and afterwards.

References:
    H. Chen and others, SoftVQ-VAE: Efficient 1-Dimensional Continuous Tokenizer, 2024, arXiv:2412.10958.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.maths.quantisers import entropy
from zoo.nets.binary_quantisers import shared_mean
from zoo.nets.quantisers import Noise, Quantised
from zoo.spec import Recorded

__all__ = ["SoftQuantiser"]


class SoftQuantiser(Recorded, nn.Module):
    """z_q = w e,  w = softmax(z . sg[e] / tau), z and e of length 1, for each of G groups of the channels.

        losses: entropy, weight (E[H(p)] - H(E[p])) for each position and group,  p = softmax(z . sg[e] / tau_H)

    There is no rounding, so gradients need no trick, and neither a commitment nor a codebook loss: e learns through the
    average alone. What a decoder sees are continuous tokens, for a prior of continuous data; `codes` are the codes of
    the largest weights, for looking at the use of the codebook and for priors over codes, and `embed` their vectors.

    Args:
        size: K, codes of each group.
        dim: D, channels of the input, a multiple of ``groups``.
        groups: G, each with its own codebook.
        temperature: tau.
        diversity: weight of the entropies.
        entropy_temperature: tau_H.

    Raises:
        ConfigError: numbers that do not fit together.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        groups: int = 1,
        temperature: float = 0.07,
        diversity: float = 0.01,
        entropy_temperature: float = 0.01,
    ) -> None:
        super().__init__()
        if size < 1 or groups < 1 or dim < 1 or dim % groups:
            raise ConfigError(f"{dim} channels do not divide into {groups} groups with {size} codes each")
        if min(temperature, entropy_temperature) <= 0 or diversity < 0:
            raise ConfigError(
                f"temperature and entropy_temperature must be positive and diversity not negative, got {temperature}, "
                f"{entropy_temperature} and {diversity}"
            )
        self.size, self.dim, self.groups = size, dim, groups
        self.temperature, self.diversity, self.entropy_temperature = temperature, diversity, entropy_temperature
        self.codebook = nn.Parameter(torch.randn(groups, size, dim // groups))

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> int:
        """Return D of a quantiser with these arguments; see `zoo.families.discrete`."""
        return arguments["dim"]

    @classmethod
    def grown(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a quantiser for larger pictures or more colours: at least 512 codes of 32 numbers."""
        return {**arguments, "size": max(arguments["size"], 512), "dim": max(arguments["dim"], 32)}

    def book(self) -> Tensor:
        """Return the vectors of the codes, of length 1: (G, K, d)."""
        return F.normalize(self.codebook, dim=2)

    def likeness(self, z: Tensor) -> Tensor:
        """Return z . sg[e] for each group, position and code: (B, D, h, w) -> (B, G, h, w, K)."""
        v = F.normalize(z.unflatten(1, (self.groups, -1)), dim=2)  # (B, G, d, h, w)
        return torch.einsum("bgdhw,gkd->bghwk", v, self.book().detach())

    def codes(self, z: Tensor) -> Tensor:
        """Return the codes that are most alike: (B, D, h, w) -> int64 (B, G, h, w)."""
        return self.likeness(z).argmax(4)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes: int64 (B, G, h, w) -> (B, D, h, w)."""
        e = self.book()
        return torch.cat([F.embedding(c, e[g]) for g, c in enumerate(codes.unbind(1))], 3).movedim(3, 1)

    def average(self, z: Tensor) -> Tensor:
        """Return z_q: (B, D, h, w) -> (B, D, h, w)."""
        return self._average(self.likeness(z))

    def _average(self, a: Tensor) -> Tensor:
        w = torch.softmax(a / self.temperature, 4)
        return torch.einsum("bghwk,gkd->bgdhw", w, self.book()).flatten(1, 2)

    def forward(self, z: Tensor) -> Quantised:
        a = self.likeness(z)
        losses = {}
        if self.diversity:
            log_p = torch.log_softmax(a / self.entropy_temperature, 4)
            certain = -(log_p.exp() * log_p).sum(4).mean()
            mean = shared_mean(log_p.exp().mean((0, 2, 3)))  # (G, K)
            losses["entropy"] = self.diversity * (certain - entropy(mean).mean()) * a[0, ..., 0].numel()
        return Quantised(self._average(a), a.argmax(4), losses)

    def learn(self, quantised: Quantised, rand: Noise) -> None:
        """Do nothing: the codebook is a parameter."""
