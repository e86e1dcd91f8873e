"""A small network that says what a noisy token was, told the noise and a vector: the head of MAR's diffusion loss.

References:
    T. Li, Y. Tian, H. Li, M. Deng, K. He, Autoregressive Image Generation without Vector Quantization, 2024,
    arXiv:2406.11838, section 4.1 and appendix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nets.embeddings import Embedding
from zoo.spec import Recorded

__all__ = ["TokenMLP"]


class TokenMLP(Recorded, nn.Module):
    """(B, channels), log-SNR (B,), z (B, features) -> (B, out_channels).

    x <- x + g W_2 SiLU(W_1 ((1 + a) LN(x) + b)),  (a, b, g) = W SiLU(e),  e = time + U z,  W = 0 at the start

    Args:
        channels: of a token.
        features: of z.
        width: of the stream.
        depth: blocks.
        out_channels: of the output; those of a token if left out.
    """

    steps_to_move = 4
    """Training steps until all that z comes from has moved: the output, then the gates, then what they let through."""

    def __init__(self, channels: int, features: int, width: int, depth: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.stem, self.told = nn.Linear(channels, width), nn.Linear(features, width)
        self.time = Embedding(width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulation = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.last, self.out = nn.Linear(width, 2 * width), nn.Linear(width, out_channels or channels)
        for layer in (*self.modulation, self.last, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, log_snr: Tensor, z: Tensor) -> Tensor:
        h, e = self.stem(x), F.silu(self.time(log_snr) + self.told(z))
        for up, down, modulation in zip(self.up, self.down, self.modulation, strict=True):
            a, b, g = modulation(e).chunk(3, 1)
            h = torch.addcmul(h, g, down(F.silu(up(torch.addcmul(b, self.norm(h), 1 + a)))))
        a, b = self.last(e).chunk(2, 1)
        return self.out(torch.addcmul(b, self.norm(h), 1 + a))
