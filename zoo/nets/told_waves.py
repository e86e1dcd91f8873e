"""The network of WaveGlow's couplings: dilated convolutions over groups of samples, told a spectrogram.

Layer l, with dilation d, is told c, and yields s_l for the output:

    a, b = conv_d(h) + V_l c,   z = tanh(a) sigmoid(b),   r, s_l = W_l z,   h <- h + r

References:
    R. Prenger, R. Valle, B. Catanzaro, WaveGlow: A Flow-based Generative Network for Speech Synthesis, 2018,
    arXiv:1811.00002, section 2.1: WaveNet's layers without causality.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ToldWaves"]


class ToldWaves(nn.Module):
    """Groups (B, n_in, W) and what is told of each (B, bands, W) -> (B, n_out, W); it starts at zero.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        bands: channels of what is told.
        width: C, channels of the stream.
        layers: of dilations 1, 2, 4, ...
    """

    def __init__(self, n_in: int, n_out: int, bands: int, width: int, layers: int) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv1d(n_in, width, 1), nn.Conv1d(width, n_out, 1)
        self.taps = nn.ModuleList(nn.Conv1d(width, 2 * width, 3, dilation=2**i, padding=2**i) for i in range(layers))
        self.conditions = nn.Conv1d(bands, 2 * width * layers, 1)  # of all layers at once
        self.mixed = nn.ModuleList(
            nn.Conv1d(width, width if i == layers - 1 else 2 * width, 1) for i in range(layers)
        )  # the last layer's stream goes nowhere
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h, total = self.stem(x), None
        for taps, shift, mixed in zip(self.taps, self.conditions(c).chunk(len(self.taps), 1), self.mixed, strict=True):
            a, b = (taps(h) + shift).chunk(2, 1)
            z = mixed(a.tanh() * b.sigmoid())
            if z.shape[1] > h.shape[1]:
                r, z = z.chunk(2, 1)
                h = h + r
            total = z if total is None else total + z
        return self.out(total)
