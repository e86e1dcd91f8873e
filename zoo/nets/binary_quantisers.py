"""Quantisers without a codebook: a code is the signs of L numbers, LFQ on a cube, BSQ on a sphere.

Each bit is a group of two codes, so that L bits are L codes a position and no index of 2^L values is ever formed.

References:
    L. Yu and others, Language Model Beats Diffusion: Tokenizer is Key to Visual Generation, 2023, arXiv:2310.05737.
    Y. Zhao, Y. Xiong, P. Kraehenbuehl, Image and Video Tokenization with Binary Spherical Quantization, 2024,
    arXiv:2406.07548.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.maths.quantisers import entropy, straight_through
from zoo.nets.quantisers import Quantised
from zoo.spec import Recorded

__all__ = ["BSQ", "LFQ", "bit_entropy", "mean_entropy", "shared_mean"]

_JOINT = 12
"""Most bits whose codes are counted one by one: 4,096 of them."""


def bit_entropy(a: Tensor) -> Tensor:
    """Return the entropy in nats of independent bits with log odds a, summed over them: (..., L) -> (...).

    It is the entropy of all 2^L codes, exactly: p(c) is the product of its bits.
    """
    return (F.softplus(a) - a * torch.sigmoid(a)).sum(-1)


def shared_mean(p: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes; its gradient is that of this process's share, of which data
    parallel training takes the mean."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return p
    mean = p.detach().clone()
    dist.all_reduce(mean)
    return mean / dist.get_world_size() + (p - p.detach())


def mean_entropy(a: Tensor, joint: int) -> Tensor:
    """Return the entropy in nats of the mean over N of p(c), ``joint`` bits at a time: log odds (N, L) -> ().

    A mean of products is no product, so the codes of each group of bits are counted one by one. The sum over groups is
    an upper bound of the entropy of all bits, and exact where ``joint`` is L.
    """
    H = a.new_zeros(())
    for part in a.split(joint, 1):
        codes = torch.arange(2 ** part.shape[1], device=a.device)
        signs = 2 * (codes[:, None] >> torch.arange(part.shape[1], device=a.device) & 1).to(a.dtype) - 1  # (2^l, l)
        p = shared_mean(torch.softmax(part @ signs.mT / 2, 1).mean(0))
        H = H + entropy(p)
    return H


class LFQ(Recorded, nn.Module):
    """Lookup-free quantisation: c = sign(z) in {-1, 1}^L, gradients straight through.

    With p(c | z) = softmax over all codes of -tau ||z - c||^2, bit l is set with log odds 4 tau z_l, and

        losses: commitment ||z - sg[c]||^2;  entropy gamma_0 E[H(p(c | z))] - gamma H(E[p(c | z)]), for each position

    The first entropy makes each code certain, the second all codes alike in use; the means go over all positions of
    the batch of one process.

    Args:
        bits: L, channels of the input.
        joint: bits of which the second entropy counts all codes at a time, 1 to 12; 1 takes them as independent.
        certainty: gamma_0.
        diversity: gamma.
        sharpness: tau.

    Raises:
        ConfigError: numbers out of range.
    """

    size = 2

    def __init__(
        self, bits: int, joint: int = 8, certainty: float = 0.1, diversity: float = 0.1, sharpness: float = 1.0
    ) -> None:
        super().__init__()
        if bits < 1 or not 1 <= joint <= _JOINT:
            raise ConfigError(f"bits must be at least 1 and joint between 1 and {_JOINT}, got {bits} and {joint}")
        if min(certainty, diversity) < 0 or sharpness <= 0:
            raise ConfigError(
                f"certainty and diversity must not be negative and sharpness must be positive, got {certainty}, "
                f"{diversity} and {sharpness}"
            )
        self.dim = self.groups = bits
        self.joint, self.certainty, self.diversity, self.sharpness = joint, certainty, diversity, sharpness

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> int:
        """Return D of a quantiser with these arguments; see `zoo.families.discrete`."""
        return arguments["bits"]

    @classmethod
    def grown(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a quantiser for larger pictures or more colours: at least 10 bits."""
        return {**arguments, "bits": max(arguments["bits"], 10), "joint": max(arguments.get("joint", 8), 10)}

    @property
    def side(self) -> float:
        """What the numbers of a code are, up to their sign."""
        return 1.0

    def bounded(self, z: Tensor) -> Tensor:
        """Return what is compared with the codes: (B, L, h, w) -> (B, L, h, w)."""
        return z

    def codes(self, z: Tensor) -> Tensor:
        """Return the bits of the nearest codes: (B, L, h, w) -> int64 (B, L, h, w), 1 where z > 0."""
        return (z > 0).long()

    def embed(self, codes: Tensor) -> Tensor:
        """Return the vectors of bits: int64 (B, L, h, w) -> (B, L, h, w)."""
        return self.side * (2 * codes.to(torch.get_default_dtype()) - 1)

    def log_odds(self, u: Tensor) -> Tensor:
        """Return log p(bit = 1 | u) - log p(bit = 0 | u) of what `bounded` returned: (B, L, h, w) -> (B h w, L)."""
        return (4 * self.sharpness * self.side * u).movedim(1, 3).flatten(0, 2)

    def forward(self, z: Tensor) -> Quantised:
        u, codes = self.bounded(z), self.codes(z)
        c = self.embed(codes).to(z.dtype)
        losses = {"commitment": (u - c).square().sum() / len(z)}
        if self.certainty or self.diversity:
            a = self.log_odds(u)
            H = self.certainty * bit_entropy(a).mean() - self.diversity * mean_entropy(a, self.joint)
            losses["entropy"] = H * z[0, 0].numel()
        return Quantised(straight_through(u, c), codes, losses)

    def learn(self, quantised: Quantised, rand: Callable[..., Tensor]) -> None:
        """Do nothing: the codes are fixed."""


class BSQ(LFQ):
    """Binary spherical quantisation: LFQ of u = z / |z|, whose codes sign(u) / sqrt(L) lie on the sphere as well.

    So the error is bounded, |u - c| <= sqrt(2 - 2 / sqrt(L)), and the losses are those of `LFQ` with u for z.

    The arguments are those of `LFQ`.
    """

    @property
    def side(self) -> float:
        return 1 / math.sqrt(self.dim)

    def bounded(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=1)
