"""Four tiny models of kinds that no family of the package has, their data, and the overlay that registers them.

- `Springs` has an energy and no likelihood; `Patches` represents and draws nothing; `Painter` is told texts;
- `Flipbook` draws videos.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.abilities import HasEnergy, HasFeatures
from zoo.context import encode_texts
from zoo.data.base import Split, TensorData
from zoo.model import Batch, GenerativeModel, ImplicitModel, LikelihoodModel

SIDE = 8
LETTERS = "abcdefghijklmnopqrstuvwxyz "
WORDS = ("upper row", "lower row", "left column", "right column")
LONGEST = max(map(len, WORDS))


def bars(n: int, seed: int) -> Split:
    """Return noisy pictures of one bar, uint8 (n, 1, 8, 8), and which of `WORDS` it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    masks = torch.zeros(4, SIDE, SIDE)
    masks[0, 1:3], masks[1, 5:7], masks[2, :, 1:3], masks[3, :, 5:7] = 1, 1, 1, 1
    bright = 0.6 + 0.4 * torch.rand(n, SIDE, SIDE, generator=generator)
    dark = 0.1 * torch.rand(n, SIDE, SIDE, generator=generator)
    x = masks[labels] * bright + (1 - masks[labels]) * dark
    return (x * 255).round().to(torch.uint8)[:, None], labels


class Bars(TensorData):
    """One bar a picture; the label says which."""

    name, shape, levels, num_classes = "bars", (1, SIDE, SIDE), 256, 4

    def read(self, split: str) -> Split:
        return bars({"train": 400, "validation": 64, "test": 120}[split], len(split))


class CaptionedBars(Bars):
    """The same, black or white, with their words in the place of labels."""

    name, levels, num_classes = "captioned_bars", 2, 0

    def read(self, split: str) -> Split:
        x, labels = super().read(split)
        return (x > 100).to(torch.uint8), encode_texts([WORDS[i] for i in labels], LETTERS, LONGEST)


class MovingBars(TensorData):
    """Clips of a black or white bar that moves by one row or column a frame; the label is the direction."""

    name, shape, levels, num_classes = "moving_bars", (1, 4, SIDE, SIDE), 2, 2

    def read(self, split: str) -> Split:
        n, generator = {"train": 200, "validation": 32, "test": 60}[split], torch.Generator().manual_seed(len(split))
        start, labels = (torch.randint(k, (n,), generator=generator) for k in (SIDE, 2))
        x = torch.zeros(n, 1, 4, SIDE, SIDE, dtype=torch.uint8)
        for i, (row, label) in enumerate(zip(start.tolist(), labels.tolist(), strict=True)):
            for t in range(4):
                x[i, 0, t, (row + t) % SIDE] = 1
            x[i] = x[i].transpose(2, 3).clone() if label else x[i]
        return x, labels


class Springs(HasEnergy, ImplicitModel):
    """Contrastive divergence: energies of data below those of short Langevin chains from uniform noise."""

    family = "energy"

    def __init__(self, shape: list[int], width: int = 32, steps: int = 10, lr: float = 3e-3) -> None:
        super().__init__()
        self.shape, self.levels, self.steps, self.lr = tuple(shape), 256, steps, lr
        size = int(torch.tensor(self.shape).prod())
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.SiLU(), nn.Linear(width, 1, bias=False))

    def energy(self, x: Tensor, *, labels: Any = None) -> Tensor:
        return self.network(x).squeeze(1) + (x - 0.5).square().flatten(1).sum(1) / 8

    def chain(self, x: Tensor, steps: int, noise: Any) -> Tensor:
        for _ in range(steps):
            x = (x + 0.05 * self.score(x) + 0.01 * noise(*x.shape)).clamp(0, 1)
        return x

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x = batch[0]
        fake = self.chain(self.rand(*x.shape), self.steps, self.randn)
        own, other = self.energy(x), self.energy(fake)
        bound = 0.1 * (own.square() + other.square()).mean()
        return {"loss": own.mean() - other.mean() + bound, "gap": other.mean() - own.mean()}

    def compilable(self) -> list[nn.Module]:
        return []

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, *, steps: int | None = None) -> Tensor:
        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=self.device)

        x = torch.rand(n, *self.shape, generator=generator, device=self.device)
        return self.chain(x, self.steps if steps is None else steps, noise)


class Patches(HasFeatures, GenerativeModel):
    """Features of 2 x 2 patches from which the patch below or right of them is predicted; it draws nothing."""

    family = "representation"
    generates = False

    def __init__(self, shape: list[int], feature_dim: int = 12, lr: float = 3e-3) -> None:
        super().__init__()
        self.shape, self.levels, self.feature_dim, self.lr = tuple(shape), 256, feature_dim, lr
        self.encoder = nn.Sequential(nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, feature_dim))
        self.predictor = nn.Linear(feature_dim, 4)

    def patches(self, x: Tensor) -> Tensor:
        return F.unfold(x, 2, stride=2).transpose(1, 2)  # (B, 16, 4)

    def features(self, x: Tensor, *, pool: str | None = "mean") -> Tensor:
        z = self.encoder(self.patches(x))
        return z if pool is None else z.mean(1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        patches = self.patches(batch[0])
        guess = self.predictor(self.encoder(patches))
        return {"loss": (guess[:, :-4] - patches[:, 4:]).square().mean() + (guess - patches).square().mean()}


class Painter(LikelihoodModel):
    """p(x | text): each pixel is black or white with odds that are linear in which letter stands where."""

    family = "test"

    def __init__(self, shape: list[int], length: int, alphabet: str, lr: float = 0.05) -> None:
        super().__init__()
        self.shape, self.levels, self.context, self.alphabet, self.lr = tuple(shape), 2, (length,), alphabet, lr
        size = int(torch.tensor(self.shape).prod())
        self.odds = nn.Linear(length * len(alphabet), size)

    def logits(self, labels: Tensor) -> Tensor:
        letters = F.one_hot(labels + 1, len(self.alphabet) + 1)[..., 1:].flatten(1).float()
        return self.odds(letters).unflatten(1, self.shape)

    def log_prob(self, x: Tensor, *, labels: Any = None, k: int = 1, seed: Any = None) -> Tensor:
        logits = self.logits(self.given_labels(len(x), labels))
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)

    def likelihood(self, k: int = 1) -> str:
        return "exact"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": -self.log_prob(batch[0], labels=batch[1]).mean()}

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        if labels is None:  # the text is drawn too
            labels = torch.randint(len(self.alphabet), (n, *self.context), generator=generator, device=self.device)
        u = torch.rand(n, *self.shape, generator=generator, device=self.device)
        return (u < self.logits(labels).sigmoid()).float()


class Flipbook(LikelihoodModel):
    """A mixture of clips whose pixels are black or white, each by itself."""

    family = "world"

    def __init__(self, shape: list[int], clips: int = 16, lr: float = 0.05) -> None:
        super().__init__()
        self.shape, self.levels, self.lr = tuple(shape), 2, lr
        self.logits = nn.Parameter(0.5 * torch.randn(clips, *self.shape))

    def log_prob(self, x: Tensor, *, labels: Any = None, k: int = 1, seed: Any = None) -> Tensor:
        every = self.logits[None].expand(len(x), *self.logits.shape)
        single = F.binary_cross_entropy_with_logits(every, x[:, None].expand_as(every), reduction="none")
        return (-single.flatten(2).sum(2)).logsumexp(1) - torch.tensor(float(len(self.logits))).log()

    def likelihood(self, k: int = 1) -> str:
        return "exact"

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": -self.log_prob(batch[0]).mean()}

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        index = torch.randint(len(self.logits), (n,), generator=generator, device=self.device)
        u = torch.rand(n, *self.shape, generator=generator, device=self.device)
        return (u < self.logits[index].sigmoid()).float()


KINDS: dict[str, dict[str, Any]] = {
    "springs": {"model": Springs, "data": Bars, "arguments": {"shape": [1, SIDE, SIDE]}},
    "patches": {"model": Patches, "data": Bars, "arguments": {"shape": [1, SIDE, SIDE]}},
    "painter": {
        "model": Painter,
        "data": CaptionedBars,
        "arguments": {"shape": [1, SIDE, SIDE], "length": LONGEST, "alphabet": LETTERS},
    },
    "flipbook": {"model": Flipbook, "data": MovingBars, "arguments": {"shape": [1, 4, SIDE, SIDE]}},
}


def name_of(kind: str) -> str:
    return f"{kind}-{KINDS[kind]['data'].name}"


def overlay(folder: Path) -> Path:
    """Write the registry that a user of the four models would write."""
    import yaml

    models, data = {}, {}
    for kind, facts in KINDS.items():
        model, source = facts["model"], facts["data"]
        paths = [f"{c.__module__}.{c.__qualname__}" for c in (model, source)]
        data[source.name] = {"class_path": paths[1], "init_args": {"batch_size": 32}}
        models[name_of(kind)] = {
            "family": model.family, "summary": "a model of a new kind",
            "paper": {"title": "None", "authors": "A. Nobody", "year": 2026, "url": "https://example.org"},
            "model": {"class_path": paths[0], "init_args": facts["arguments"]},
            "data": data[source.name], "trainer": {"max_steps": 60}, "training": {"ema": None},
        }  # fmt: skip
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump({"allow": [__name__], "models": models, "data": data}))
    return path
