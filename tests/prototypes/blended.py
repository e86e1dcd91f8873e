"""A blend of two trained models, which only a bias is trained of: a class with two trained parts of its own names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.model import Batch, GenerativeModel, ImplicitModel, Player, TrainedPart


class Blended(ImplicitModel):
    """The mean of the samples of two models, and a bias."""

    family = "blend"
    trained_parts = {
        "left": TrainedPart("a blend of two trained models", "vae-mnist", GenerativeModel, "samples"),
        "right": TrainedPart("a blend of two trained models", "gan-mnist", ImplicitModel, "game"),
    }

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left.requires_grad_(False), right.requires_grad_(False)
        self.shape, self.levels, self.lr = left.shape, left.levels, 1e-3
        self.bias = nn.Parameter(torch.zeros(self.shape))

    def players(self) -> dict[str, Player]:
        return {"model": Player([self.bias], self.lr)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (self.bias - batch[0]).square().flatten(1).sum(1).mean()}

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        return (self.left.draw(n, generator, None) + self.right.draw(n, generator, None)) / 2 + self.bias
