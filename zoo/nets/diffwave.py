"""DiffWave: a network of recordings that is told a time, dilated convolutions that look both ways.

Layer l, with dilation d, is told the time by a vector e and yields s_l for the skip connections:

    a, b = conv_d(h + U_l e),   z = tanh(a) sigmoid(b),   r, s_l = W_l z,   h <- (h + r) / sqrt 2

and the output is read off (s_1 + ... + s_N) / sqrt N.

References:
    Z. Kong, W. Ping, J. Huang, K. Zhao, B. Catanzaro, DiffWave: A Versatile Diffusion Model for Audio Synthesis, 2020,
    arXiv:2009.09761, section 3 and figure 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.fitting import made_of
from zoo.nets.embeddings import PERIODS, Embedding
from zoo.spec import Recorded

__all__ = ["DiffWave"]


class DiffWave(Recorded, nn.Module):
    """(B, T), time (B,), labels (B,) or None -> (B, T), for any T.

    Args:
        width: channels of the stream.
        layers: how many.
        cycle: after how many layers the dilations 1, 2, 4, ... begin anew.
        embedding: size of the vector that tells the time, even.
        num_classes: labels 0..num_classes-1, the null label being num_classes; 0 for none.
        periods: shortest and longest period of the waves by which the time is told.

    Raises:
        ConfigError: no layer, no width or no cycle.
    """

    sized: ClassVar[Mapping[str, str]] = {"width": "width", "layers": "depth", "embedding": "width"}

    def __init__(
        self,
        width: int = 32,
        layers: int = 10,
        cycle: int = 10,
        embedding: int = 64,
        num_classes: int = 0,
        periods: Sequence[float] = PERIODS,
    ) -> None:
        super().__init__()
        if min(width, layers, cycle) < 1:
            raise ConfigError(
                f"DiffWave needs a width, layers and a cycle of at least 1, got {width}, {layers}, {cycle}"
            )
        self.embedding = Embedding(embedding, num_classes, periods)
        self.stem = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(_Layer(width, 2 ** (i % cycle), embedding, i == layers - 1) for i in range(layers))
        self.head, self.out = nn.Conv1d(width, width, 1), nn.Conv1d(width, 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @classmethod
    def resized(cls, arguments: Mapping[str, Any], inputs: Sequence[int], outputs: Sequence[int]) -> dict[str, Any]:
        """Return the spec of such a network, which takes recordings of any length.

        Raises:
            ConfigError: examples that are no recordings, or more numbers out than in.
        """
        if len(inputs) != 1 or tuple(inputs) != tuple(outputs):
            raise ConfigError(
                f"DiffWave is a network of recordings, (T,) to (T,), not of {tuple(inputs)} to {tuple(outputs)}; "
                f"choose a model whose network takes such, or set --model.network"
            )
        return made_of(cls, arguments)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        e, h = F.silu(self.embedding(time, labels)), F.relu(self.stem(x[:, None]))  # (B, C, T)
        total = 0.0
        for layer in self.layers:
            h, s = layer(h, e)
            total = total + s
        return self.out(F.relu(self.head(total / math.sqrt(len(self.layers)))))[:, 0]


class _Layer(nn.Module):
    """Stream (B, C, T) and vector of the time -> the stream of the next layer, and what goes to the output."""

    def __init__(self, width: int, dilation: int, embedding: int, last: bool) -> None:
        super().__init__()
        self.told = nn.Linear(embedding, width)
        self.taps = nn.Conv1d(width, 2 * width, 3, dilation=dilation, padding=dilation)
        self.mixed = nn.Conv1d(width, width if last else 2 * width, 1)  # the last layer's stream goes nowhere
        self.last = last

    def forward(self, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.taps(h + self.told(e)[:, :, None]).chunk(2, 1)
        z = self.mixed(a.tanh() * b.sigmoid())
        if self.last:
            return h, z
        r, s = z.chunk(2, 1)
        return (h + r) / math.sqrt(2), s
