"""Two-dimensional toys: densities that a plot shows and a test can check."""

from __future__ import annotations

import math

import torch

from zoo.data.base import Split, TensorData, derive_seed

__all__ = ["EightGaussians", "Moons"]

_SPLITS = {"train": 0, "validation": 1, "test": 2}


class _Toy(TensorData):
    """Points (N, 2) drawn once from a known density, each split with its own seed."""

    shape = (2,)
    levels = None

    def __init__(self, batch_size: int = 256, seed: int = 0, limit: int | None = None, points: int = 20_000) -> None:
        super().__init__(batch_size, seed, limit)
        self.points = points

    def read(self, split: str) -> Split:
        generator = torch.Generator().manual_seed(derive_seed(_SPLITS[split], len(self.name)))
        return self.draw(self.points if split == "train" else self.points // 4, generator)

    def draw(self, n: int, generator: torch.Generator) -> Split:
        """Return ``n`` points (n, 2) and the index of the part that each comes from."""
        raise NotImplementedError


class EightGaussians(_Toy):
    """Eight Gaussians of standard deviation 0.1 on a circle of radius 2; the label is the index of the centre.

    Args:
        batch_size: points a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training points.
        points: size of the training split; validation and test have a quarter each.
    """

    name = "eight_gaussians"
    num_classes = 8
    radius, scale = 2.0, 0.1

    def centres(self) -> torch.Tensor:
        """Return the eight centres, (8, 2)."""
        angle = torch.arange(8) * (2 * math.pi / 8)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def draw(self, n: int, generator: torch.Generator) -> Split:
        labels = torch.randint(8, (n,), generator=generator)
        return self.centres()[labels] + self.scale * torch.randn(n, 2, generator=generator), labels


class Moons(_Toy):
    """Two interleaving half circles with noise of standard deviation 0.05; the label is the half circle.

    Args:
        batch_size: points a batch and device.
        seed: of the order of training batches.
        limit: use only the first so many training points.
        points: size of the training split; validation and test have a quarter each.
    """

    name = "moons"
    num_classes = 2
    noise = 0.05

    def draw(self, n: int, generator: torch.Generator) -> Split:
        labels = torch.randint(2, (n,), generator=generator)
        angle = math.pi * torch.rand(n, generator=generator)
        upper = torch.stack([angle.cos(), angle.sin()], dim=1)
        lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=1)
        x = torch.where(labels[:, None] == 0, upper, lower)
        return x + self.noise * torch.randn(n, 2, generator=generator), labels
