"""Binary digits of which a word is told: p(x | text) is a Bernoulli distribution for each pixel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.context import encode_texts
from zoo.data.base import Split
from zoo.data.mnist import ThresholdMNIST
from zoo.model import Batch, LikelihoodModel

ALPHABET = "efghinorstuvwxz"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Captions(ThresholdMNIST):
    """A few hundred binary digits, each with its word instead of its class."""

    name = "captions"
    num_classes = 0

    def read(self, split: str) -> Split:
        x, labels = super().read(split)
        texts = encode_texts(WORDS, ALPHABET, 5)
        return x[:300].clone(), texts[labels[:300]]


class Captioned(LikelihoodModel):
    """Logits of pixels from the sum of the embeddings of the characters and their places."""

    family = "text_to_image"

    def __init__(self, shape: list[int], length: int = 5, alphabet: str = ALPHABET, width: int = 16) -> None:
        super().__init__()
        self.shape, self.levels, self.context, self.alphabet, self.lr = tuple(shape), 2, (length,), alphabet, 1e-2
        self.embedding = nn.Embedding(length * len(alphabet), width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 28 * 28))

    def logits(self, texts: Tensor) -> Tensor:
        places = torch.arange(texts.shape[1], device=texts.device) * len(self.alphabet)
        told = self.embedding((texts + places).clamp(min=0)) * (texts >= 0)[..., None]  # (B, T, width)
        return self.head(told.sum(1)).unflatten(1, self.shape)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x, texts = batch
        nll = F.binary_cross_entropy_with_logits(self.logits(texts), x, reduction="none").flatten(1).sum(1).mean()
        return {"loss": nll}

    @torch.no_grad()
    def log_prob(self, x: Tensor, *, labels: Any = None, k: int = 1, seed: Any = None) -> Tensor:
        logits = self.logits(self.given_labels(len(x), labels))
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)

    def likelihood(self, k: int = 1) -> str:
        return "exact"

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        if labels is None:  # a word is drawn, too
            which = torch.randint(len(WORDS), (n,), generator=generator, device=self.device)
            labels = encode_texts(WORDS, self.alphabet, *self.context).to(self.device)[which]
        u = torch.rand((n, *self.shape), generator=generator, device=self.device)
        return (u < self.logits(labels).sigmoid()).to(self.dtype)
