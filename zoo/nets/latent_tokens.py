"""Transformers between an image and a row of tokens that have no place in it.

The encoder reads the patches together with M learnt tokens, and only these come out; the decoder reads the M tokens
together with one learnt mask vector at each place, and only the places come out. Everything sees everything.

References:
    Q. Yu and others, An Image is Worth 32 Tokens for Reconstruction and Generation, 2024, arXiv:2406.07550 (TiTok).
    K. He and others, Masked Autoencoders Are Scalable Vision Learners, 2021, arXiv:2111.06377 (the mask vector).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nets.attention import AttentionBlock
from zoo.spec import Recorded

__all__ = ["TokenDecoder", "TokenEncoder"]


class _Trunk(nn.Module):
    """Blocks in which all positions see one another: (B, T, d) -> (B, T, d), normalised."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"a width of {width} does not divide into {heads} heads")
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, 4 * width, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        all_seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, all_seen)
        return self.norm(x)


def _places(size: Sequence[int], patch: int) -> tuple[int, int]:
    h, w = size
    if patch < 1 or h % patch or w % patch:
        raise ConfigError(f"an image of {h} x {w} does not divide into patches of {patch} x {patch}")
    return h // patch, w // patch


class TokenEncoder(Recorded, nn.Module):
    """Image to tokens: (B, channels, H, W) -> (B, features, 1, M).

    Args:
        channels: of the image.
        size: (H, W).
        patch: side of a patch.
        tokens: M, of which the size of the image says nothing.
        features: numbers a token.
        width: d of the stream.
        depth: blocks.
        heads: of attention, which divide the width.

    Raises:
        ConfigError: sizes that do not divide.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "depth": "depth"}

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        patch: int,
        tokens: int,
        features: int,
        width: int,
        depth: int = 3,
        heads: int = 4,
    ) -> None:
        super().__init__()
        h, w = _places(size, patch)
        self.patch = patch
        self.first = nn.Linear(channels * patch**2, width)
        self.position = nn.Parameter(0.02 * torch.randn(h * w, width))
        self.tokens = nn.Parameter(width**-0.5 * torch.randn(tokens, width))
        self.trunk = _Trunk(width, depth, heads)
        self.last = nn.Linear(width, features)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)  # (B, N, C patch^2)
        stream = torch.cat(
            [self.first(patches) + self.position, self.tokens.expand(len(x), -1, -1)], 1
        )  # (B, N + M, d)
        out = self.trunk(stream)[:, len(self.position) :]  # (B, M, d): what the patches became is left out
        return self.last(out).transpose(1, 2)[:, :, None]  # (B, features, 1, M)


class TokenDecoder(Recorded, nn.Module):
    """Tokens to image: (B, features, 1, M) -> (B, channels, H, W).

    Args:
        features: numbers a token.
        tokens: M.
        size: (H, W), of an image, or of a map of codes.
        patch: side of a patch, 1 for a map.
        channels: of the output.
        width: d of the stream.
        depth: blocks.
        heads: of attention, which divide the width.

    Raises:
        ConfigError: sizes that do not divide.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "heads": "width", "depth": "depth"}

    def __init__(
        self,
        features: int,
        tokens: int,
        size: Sequence[int],
        patch: int,
        channels: int,
        width: int,
        depth: int = 3,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.places, self.patch = _places(size, patch), patch
        self.first = nn.Linear(features, width)
        self.token_position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.position = nn.Parameter(0.02 * torch.randn(self.places[0] * self.places[1], width))
        self.trunk = _Trunk(width, depth, heads)
        self.last = nn.Linear(width, channels * patch**2)

    def forward(self, z: Tensor) -> Tensor:
        tokens = self.first(z[:, :, 0].transpose(1, 2)) + self.token_position  # (B, M, d)
        empty = (self.mask + self.position).expand(len(z), -1, -1)  # (B, N, d)
        out = self.last(self.trunk(torch.cat([empty, tokens], 1))[:, : empty.shape[1]])  # (B, N, C patch^2)
        return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, self.places), self.patch)
