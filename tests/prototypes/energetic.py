"""Energy-based model with Langevin chains and a buffer of them (Du, Mordatch, 2019, arXiv:1903.08689)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.abilities import HasEnergy
from zoo.model import Batch, ImplicitModel


class Energy(HasEnergy, ImplicitModel):
    """p(x) proportional to exp(-E(x)), trained on the difference of energies of data and chains."""

    family = "energy"
    training_parts = ("replay",)

    def __init__(
        self,
        network: nn.Module,
        shape: list[int],
        levels: int | None = None,
        buffer: int = 16,
        steps: int = 3,
        step_size: float = 0.1,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.network, self.shape, self.levels = network, tuple(shape), levels
        self.steps, self.step_size, self.lr = steps, step_size, lr
        self.register_buffer("replay", torch.rand(buffer, *shape))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    def energy(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        return self.network(x.flatten(1))[:, 0]

    def chain(self, x: Tensor, noise: list[Tensor]) -> Tensor:
        for n in noise:
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(self.energy(x).sum(), x)
            x = (x - self.step_size / 2 * slope + self.step_size**0.5 * n).clamp(0, 1)
        return x.detach()

    def compilable(self) -> list[nn.Module]:
        return []

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x = batch[0]
        B = len(x)
        rows = (torch.arange(B, device=x.device) + self.oldest) % len(self.replay)
        x_ = self.chain(self.replay[rows], [self.randn(*x.shape) for _ in range(self.steps)])
        if self.training:
            self.replay[rows] = x_
            self.oldest += B
        up, down = self.energy(x), self.energy(x_)
        gap = down.mean() - up.mean()
        return {"loss": 0.1 * (up.square() + down.square()).mean() - gap, "gap": gap}

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None, *, steps: int | None = None) -> Tensor:
        size = (n, *self.shape)
        like = {"generator": generator, "device": self.device, "dtype": self.dtype}
        x = torch.rand(size, **like)
        noise = [torch.randn(size, **like) for _ in range(steps or self.steps)]
        return self.chain(x, noise)

    @property
    def calls_per_sample(self) -> int:
        return self.steps
