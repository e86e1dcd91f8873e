"""The generator of BigGAN: residual blocks that a class and a share of the latent modulate.

    h = (h - mean) / deviation,   h <- (1 + G c_l) h + B c_l,   c_l = [e_y, z_l]

e_y is one embedding of the class for all blocks, z = [z_0, z_1, ..., z_L] is dealt out among them: z_0 makes the first
map, z_l goes to block l, so that a latent acts at every resolution.

References:
    A. Brock, J. Donahue, K. Simonyan, Large Scale GAN Training for High Fidelity Natural Image Synthesis, 2018,
    arXiv:1809.11096, section 3.1 and figure 15.
    V. Dumoulin, J. Shlens, M. Kudlur, A Learned Representation For Artistic Style, 2016, arXiv:1610.07629: conditional
    normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of
from zoo.nets.conv import fitted_widths
from zoo.spec import Recorded

__all__ = ["BigGANGenerator"]


class _Modulated(nn.Module):
    """Normalisation of channels whose gain and bias are linear in a condition, (B, C, H, W), (B, c) -> (B, C, H, W)."""

    def __init__(self, width: int, condition: int, batch_norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False) if batch_norm else nn.GroupNorm(1, width, affine=False)
        self.gain, self.bias = nn.Linear(condition, width, bias=False), nn.Linear(condition, width, bias=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.addcmul(self.bias(c)[..., None, None], 1 + self.gain(c)[..., None, None], self.norm(x))


class _Block(nn.Module):
    """Residual block that doubles an image: (B, n_in, h, w), (B, c) -> (B, n_out, 2 h, 2 w)."""

    def __init__(self, n_in: int, n_out: int, condition: int, batch_norm: bool) -> None:
        super().__init__()
        self.first, self.second = (_Modulated(n, condition, batch_norm) for n in (n_in, n_out))
        self.conv1, self.conv2 = nn.Conv2d(n_in, n_out, 3, 1, 1), nn.Conv2d(n_out, n_out, 3, 1, 1)
        self.skip = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = F.interpolate(F.relu(self.first(x, c)), scale_factor=2.0, mode="nearest")
        h = self.conv2(F.relu(self.second(self.conv1(h), c)))
        return h + F.interpolate(self.skip(x), scale_factor=2.0, mode="nearest")  # 1 x 1 and doubling commute


class BigGANGenerator(Recorded, nn.Module):
    """Latent and class to image: (B, latent_dim), labels (B,) -> (B, C, H, W), one doubling a width.

    Args:
        latent_dim: size of z, a multiple of one more than the number of widths.
        widths: channels before each doubling; (H, W) must be divisible by 2 ** len(widths).
        shape: (C, H, W) of the output.
        num_classes: number of labels, 0 for none: then the shares of z alone modulate.
        class_dim: size of the class's embedding.
        batch_norm: normalise over the batch, as the paper does; several processes, which each see their own batch, then
            compute something else than one would. Else over all channels of each example.

    Raises:
        ConfigError: the image cannot be halved so often, or z cannot be dealt out.
    """

    sized: ClassVar[Mapping[str, str]] = {"widths": "width"}

    def __init__(
        self,
        latent_dim: int,
        widths: list[int],
        shape: list[int],
        num_classes: int = 0,
        class_dim: int = 16,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        (channels, *size), n = shape, len(widths)
        if not widths or any(s % 2**n for s in size) or latent_dim % (n + 1):
            raise ConfigError(
                f"sides of {tuple(size)} must be multiples of {2**n}, and {latent_dim} latents divide among {n + 1} "
                f"places; change widths or latent_dim"
            )
        self.share = latent_dim // (n + 1)
        self.base = (widths[0], *(s >> n for s in size))
        self.embedding = nn.Embedding(num_classes, class_dim) if num_classes else None
        condition = self.share + (class_dim if num_classes else 0)
        self.first = nn.Linear(self.share, math.prod(self.base))
        pairs = pairwise([*widths, widths[-1]])
        self.blocks = nn.ModuleList(_Block(a, b, condition, batch_norm) for a, b in pairs)
        norm = nn.BatchNorm2d(widths[-1]) if batch_norm else nn.GroupNorm(1, widths[-1])
        self.last = nn.Sequential(norm, nn.ReLU(), nn.Conv2d(widths[-1], channels, 3, 1, 1))
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding)):
                nn.init.orthogonal_(layer.weight)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network from (inputs,) to an image, (C, H, W)."""
        widths = fitted_widths(arguments, outputs, doubling=True)
        return made_of(cls, {**arguments, "latent_dim": math.prod(inputs), "widths": widths, "shape": list(outputs)})

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        first, *shares = z.split(self.share, 1)
        x = self.first(first).unflatten(1, self.base)
        condition = [] if self.embedding is None or labels is None else [self.embedding(labels)]
        for block, share in zip(self.blocks, shares, strict=True):
            x = block(x, torch.cat([*condition, share], 1))
        return self.last(x)
