"""Masked generative image transformer (Chang and others, 2022, arXiv:2202.04200) over codes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.model import Batch, ImplicitModel


class Masked(ImplicitModel):
    """Codes drawn a few at a time, those first of which the network is most certain."""

    family = "vae"

    def __init__(
        self,
        shape: list[int],
        levels: int,
        width: int = 16,
        depth: int = 1,
        heads: int = 2,
        num_classes: int = 0,
        steps: int = 4,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.shape, self.levels, self.num_classes, self.steps, self.lr = tuple(shape), levels, num_classes, steps, lr
        self.embedding = nn.Embedding(levels + 1, width)  # the last symbol is the mask
        self.places = nn.Parameter(0.02 * torch.randn(math.prod(shape), width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, levels)

    def logits(self, codes: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(codes) + self.places))  # (B, N) -> (B, N, levels)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        c = (batch[0] * (self.levels - 1)).round().long().flatten(1)  # (B, N)
        B, N = c.shape
        ratio = torch.cos(math.pi / 2 * self.rand(B))
        hidden = self.rand(B, N).argsort(1).argsort(1) < (ratio * N).floor().clamp(min=1)[:, None]
        logits = self.logits(c.masked_fill(hidden, self.levels))
        return {"loss": F.cross_entropy(logits[hidden], c[hidden], label_smoothing=0.1)}

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        temperature: float = 1.0,
        steps: int | None = None,
        choice_temperature: float = 4.5,
    ) -> Tensor:
        T, N = steps or self.steps, math.prod(self.shape)
        c = torch.full((n, N), self.levels, device=self.device)
        for t in range(1, T + 1):
            log_p = (self.logits(c) / temperature).log_softmax(-1)
            u = torch.rand(n, N, self.levels, generator=generator, device=self.device)
            drawn = (log_p - torch.log(-torch.log(u.clamp(1e-9, 1 - 1e-7)))).argmax(-1)
            known = c < self.levels
            drawn = torch.where(known, c, drawn)
            noise = -torch.log(-torch.log(torch.rand(n, N, generator=generator, device=self.device).clamp(1e-9)))
            sure = log_p.gather(-1, drawn[..., None])[..., 0] + choice_temperature * (1 - t / T) * noise
            sure = sure.masked_fill(known, math.inf)
            left = math.floor(N * math.cos(math.pi / 2 * t / T))
            again = sure.argsort(1).argsort(1) < left
            c = drawn.masked_fill(again, self.levels)
        return c.reshape(n, *self.shape).to(self.dtype) / (self.levels - 1)

    @property
    def calls_per_sample(self) -> int:
        return self.steps
