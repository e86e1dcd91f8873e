"""Joint-embedding predictive architecture (Assran and others, 2023, arXiv:2301.08243), which draws nothing."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.abilities import HasFeatures
from zoo.data.base import Split
from zoo.data.mnist import MNIST
from zoo.errors import ConfigError
from zoo.model import Batch, GenerativeModel, Player


class FewDigits(MNIST):
    """The first hundred digits of each split, at half their size."""

    name, shape = "few_digits", (1, 14, 14)

    def read(self, split: str) -> Split:
        x, labels = super().read(split)
        return x[:100, :, ::2, ::2].clone(), labels[:100].clone()


class Predictive(HasFeatures, GenerativeModel):
    """Features of hidden patches, as a copy of the encoder that follows it sees them, predicted from those in sight."""

    family = "representation"
    generates = False
    training_parts = ("target",)

    def __init__(
        self, shape: list[int], patch: int = 7, width: int = 8, levels: int = 256, decay: float = 0.9, lr: float = 1e-3
    ) -> None:
        super().__init__()
        self.shape, self.levels, self.patch, self.decay, self.lr = tuple(shape), levels, patch, decay, lr
        C, H, W = shape
        self.feature_dim, self.token_grid = width, (H // patch, W // patch)
        self.places = nn.Parameter(0.02 * torch.randn(self.token_grid[0] * self.token_grid[1], width))
        self.hidden = nn.Parameter(torch.zeros(width))
        self.encoder = nn.Sequential(nn.Linear(C * patch * patch, width), nn.GELU(), nn.Linear(width, width))
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.predictor = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, "gelu", batch_first=True)

    def players(self) -> dict[str, Player]:
        return {"model": Player([p for p in self.parameters() if p.requires_grad], self.lr)}

    def patches(self, x: Tensor) -> Tensor:
        return F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)  # (B, tokens, C p p)

    def features(self, x: Tensor, *, pool: str | None = "mean") -> Tensor:
        tokens = self.encoder(self.patches(x))
        return tokens if pool is None else tokens.mean(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if self.target is None:
            raise ConfigError("a published model has no target to predict; train it anew with zoo fit")
        x = self.patches(batch[0])
        unseen = self.rand(*x.shape[:2]) < 0.5
        seen = torch.where(unseen[..., None], self.hidden, self.encoder(x))
        with torch.no_grad():
            wanted = F.layer_norm(self.target(x), (self.feature_dim,))
        error = (self.predictor(seen + self.places) - wanted).square().mean(-1)
        mse = (error * unseen).sum() / unseen.sum().clamp(min=1)
        return {"loss": mse, "mse": mse}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.decay)
        return super().training_step(batch, batch_idx)
