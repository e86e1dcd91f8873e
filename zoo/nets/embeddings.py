"""What a network is told besides its input: a time, and perhaps a class, as one vector.

    e = W_2 SiLU(W_1 [cos(2 pi t / p_k), sin(2 pi t / p_k)]_k) + c_y

The time t is any real number: a flow's time multiplied by a scale, or the logarithm of a signal-to-noise ratio. The
periods p_k are spaced geometrically, so that the slowest wave orders all times and the fastest tells near ones apart.

References:
    A. Vaswani and others, Attention Is All You Need, 2017, arXiv:1706.03762, section 3.5.
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598 (the null label).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError

__all__ = ["PERIODS", "Embedding", "grid_positions", "lattice_positions", "sinusoids"]

PERIODS = (0.5, 80.0)
"""Default shortest and longest period: made for times that span about 20 to 40, such as log-SNR from -20 to 20."""


def sinusoids(time: Tensor, features: int, periods: Sequence[float] = PERIODS) -> Tensor:
    """Return cosines, then sines, of times at geometrically spaced periods: (B,) -> (B, features).

    Args:
        time: any real numbers.
        features: even.
        periods: the shortest and the longest period, in units of time.
    """
    shortest, longest = periods
    k = torch.linspace(0, 1, features // 2, dtype=time.dtype, device=time.device)
    omega = 2 * math.pi / (shortest * (longest / shortest) ** k)
    angle = time[:, None] * omega  # (B, features / 2)
    return torch.cat([angle.cos(), angle.sin()], 1)


class Embedding(nn.Module):
    """Time and label as one vector: float (B,) and int64 (B,) or None -> (B, features).

    Args:
        features: of the vector, even.
        num_classes: labels 0..num_classes-1; row ``num_classes`` of ``labels`` is the null label. 0 for no labels.
        periods: see `sinusoids`.

    Raises:
        ConfigError: an odd number of features, or periods that do not grow.
    """

    def __init__(self, features: int, num_classes: int = 0, periods: Sequence[float] = PERIODS) -> None:
        super().__init__()
        if features < 4 or features % 2:
            raise ConfigError(f"an embedding needs an even number of features, at least 4, got {features}")
        if len(periods) != 2 or not 0 < periods[0] < periods[1]:
            raise ConfigError(f"periods must be two growing positive numbers, got {list(periods)}")
        self.features, self.num_classes, self.periods = features, num_classes, tuple(periods)
        self.time = nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features))
        if num_classes:
            self.labels = nn.Embedding(num_classes + 1, features)
            nn.init.normal_(self.labels.weight, std=0.5)

    def forward(self, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the vector; no labels mean the null label for all. Raises `ConfigError` on labels without classes."""
        e = self.time(sinusoids(time, self.features, self.periods))
        if self.num_classes:
            if labels is None:
                labels = torch.full_like(time, self.num_classes, dtype=torch.int64)
            return e + self.labels(labels)
        if labels is not None:
            raise ConfigError("the network was built with num_classes 0, so it takes no labels")
        return e


def lattice_positions(grid: Sequence[int], features: int) -> Tensor:
    """Return a vector for each place of a grid of any dimension, the last coordinate fastest: (prod(grid), features).

    Args:
        grid: sides, (h, w) of an image, (t, h, w) of a video.
        features: of the vector, an even number for each coordinate, the same for all.

    Raises:
        ConfigError: features that do not divide so.
    """
    if features % (2 * len(grid)):
        raise ConfigError(
            f"{features} features cannot tell {len(grid)} coordinates, an even number each; take a multiple of "
            f"{2 * len(grid)}"
        )
    places = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    periods = (4.0, 4.0 * max(grid))
    parts = [sinusoids(place.flatten().double(), features // len(grid), periods) for place in places]
    return torch.cat(parts, 1).to(torch.get_default_dtype())


def grid_positions(rows: int, columns: int, features: int) -> Tensor:
    """Return `lattice_positions` of an image's grid: (rows * columns, features), half for each coordinate."""
    return lattice_positions((rows, columns), features)
