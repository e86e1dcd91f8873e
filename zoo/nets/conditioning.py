"""What makes the two networks of an adversarial game conditional, and what lets a critic see a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.spec import Recorded

__all__ = ["ClassInput", "MinibatchDeviation", "ProjectionCritic"]


class ClassInput(Recorded, nn.Module):
    """A network that is also given an embedding of the class: (B, n), labels (B,) -> ``net`` of (B, n + dim).

    Args:
        net: takes (B, n + dim).
        num_classes: number of labels.
        dim: size of the embedding, which starts standard normal, as z is.
    """

    def __init__(self, net: nn.Module, num_classes: int, dim: int) -> None:
        super().__init__()
        self.net, self.embedding = net, nn.Embedding(num_classes, dim)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.net(torch.cat([z, self.embedding(labels)], 1))  # (B, n + dim)


class ProjectionCritic(Recorded, nn.Module):
    """Score of an example and its class: w . phi(x) + b + v_y . phi(x), with (B, ...), labels (B,) -> (B, 1).

    Args:
        net: phi, (B, ...) -> (B, features), its last layer linear.
        num_classes: number of labels.
        features: size of phi(x).

    References:
        T. Miyato, M. Koyama, cGANs with Projection Discriminator, 2018, arXiv:1802.05637, equation 3.
    """

    def __init__(self, net: nn.Module, num_classes: int, features: int) -> None:
        super().__init__()
        self.net = net
        self.embedding = nn.Embedding(num_classes, features)
        self.head = nn.Linear(features, 1)
        nn.init.normal_(self.embedding.weight, std=features**-0.5)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        phi = nn.functional.leaky_relu(self.net(x), 0.2)  # (B, features)
        return self.head(phi) + (self.embedding(labels) * phi).sum(1, keepdim=True)


class MinibatchDeviation(nn.Module):
    """Append a plane that tells how much a group of examples varies: (B, C, H, W) -> (B, C + 1, H, W).

    The plane of a group holds the mean, over channels and pixels, of the standard deviation over its examples. Groups
    are neighbours in the batch, so that several processes form the groups that one would.

    Args:
        group: examples of a group; where a batch does not divide into groups of this size, the largest that fits.

    References:
        T. Karras and others, Progressive Growing of GANs, 2017, arXiv:1710.10196, section 3.
    """

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        size = next(g for g in range(min(self.group, len(x)), 0, -1) if len(x) % g == 0)
        y = x.unflatten(0, (-1, size))  # (B / G, G, C, H, W)
        deviation = (y.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # (B / G,)
        plane = deviation.repeat_interleave(size).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return torch.cat([x, plane], 1)
