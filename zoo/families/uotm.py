"""Unbalanced optimal transport as a generator: a map from noise to data whose marginals may give way.

    inf_pi  E_pi tau/2 |x - y|^2 + D_Psi1(pi_0 | mu) + D_Psi2(pi_1 | nu)
    L_v = E Psi1*(v(T(x)) - tau/2 |T(x) - x|^2) + E Psi2*(-v(y)) + gamma/2 E |grad v(y)|^2
    L_T = E tau/2 |T(x) - x|^2 - v(T(x))

mu is standard normal, of the shape of the data. Psi1*'(-v^c(x)) and Psi2*'(-v(y)) are the weights that the relaxed
marginals give to noise and data; outliers get weights near 0. ``linear`` for both is plain optimal transport.

References:
    J. Choi, J. Choi, M. Kang, Generative Modeling through the Semi-dual Formulation of Unbalanced Optimal Transport,
    2023, arXiv:2305.14777, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.maths.divergences import conjugate
from zoo.maths.noise import randn
from zoo.maths.penalties import squared_gradient
from zoo.model import Batch, ImplicitModel, Player

__all__ = ["UOTM"]


class UOTM(ImplicitModel):
    """A map and a potential, which take turns at each batch; the potential is the first player.

    Args:
        generator: [x, z] (B, D + noise_dim) -> (B, *shape); images are in [-1, 1], by a tanh applied here.
        critic: v, (B, *shape) -> (B, 1).
        shape: of an example, of D numbers.
        levels: of the data, None for points.
        noise_dim: of z, which makes the map random; 0 for none.
        noise_divergence: Psi1, of `zoo.maths.divergences.CONJUGATES`.
        data_divergence: Psi2.
        tau: weight of the transport's cost.
        r1: gamma.
        lr: peak learning rate of the map.
        critic_lr: of the potential, that of the map if left out.
        betas: of Adam.

    Raises:
        ConfigError: numbers out of range, or an unknown divergence.
    """

    family = "transport"
    steps_to_move = 2

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        shape: list[int],
        levels: int | None = 256,
        noise_dim: int = 0,
        noise_divergence: str = "kl",
        data_divergence: str = "kl",
        tau: float = 0.001,
        r1: float = 0.2,
        lr: float = 2e-4,
        critic_lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.9),
    ) -> None:
        super().__init__()
        if min(tau, r1, noise_dim) < 0:
            raise ConfigError(f"tau, r1 and noise_dim must not be negative, got {tau}, {r1} and {noise_dim}")
        self.automatic_optimization = False
        self.generator, self.critic = generator, critic
        self.shape, self.levels, self.noise_dim = tuple(shape), levels, noise_dim
        for name in (noise_divergence, data_divergence):
            conjugate(name)  # refuses an unknown one
        self.noise_divergence, self.data_divergence = noise_divergence, data_divergence
        self.tau, self.r1 = tau, r1
        self.lr, self.critic_lr = lr, lr if critic_lr is None else critic_lr
        self.betas = (float(betas[0]), float(betas[1]))

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return what the map and the potential map to what; see `zoo.fitting`."""
        shape = tuple(arguments["shape"])
        return {"generator": ((cls._taken(arguments),), shape), "critic": (shape, (1,))}

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data; see `zoo.fitting`."""
        return dict(arguments)

    @classmethod
    def _taken(cls, arguments: Mapping[str, Any]) -> int:
        """Return how many numbers the map takes."""
        return math.prod(arguments["shape"]) + arguments.get("noise_dim", 0)

    def players(self) -> dict[str, Player]:
        return {
            "critic": Player(self.critic.parameters(), self.critic_lr, self.betas),
            "generator": Player(self.generator.parameters(), self.lr, self.betas),
        }

    def compilable(self) -> list[nn.Module]:
        """Return what is not differentiated twice."""
        return [self.generator] if self.r1 else [self.generator, self.critic]

    # -- the map and the potential ------------------------------------------------------------------------------------

    def mapped(self, x: Tensor, z: Tensor) -> Tensor:
        """Return T(x, z), (B, *shape) and (B, noise_dim) -> (B, *shape) in the critic's range."""
        y = self.generator(torch.cat([x.flatten(1), z], 1)).reshape(-1, *self.shape)
        return y if self.levels is None else torch.tanh(y)

    def value(self, y: Tensor) -> Tensor:
        """Return v(y), (B,)."""
        return self.critic(y).reshape(len(y))

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        """Return tau/2 |y - x|^2, (B,)."""
        return self.tau / 2 * (y - x).square().flatten(1).sum(1)

    def psi_1(self, v: Tensor) -> Tensor:
        """Return Psi1* of each number."""
        return conjugate(self.noise_divergence)(v)

    def psi_2(self, v: Tensor) -> Tensor:
        """Return Psi2* of each number."""
        return conjugate(self.data_divergence)(v)

    def given(self, batch: Batch) -> Tensor:
        return batch[0] if self.levels is None else 2 * batch[0] - 1

    def noise(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw x of mu and z."""
        return self.randn(n, *self.shape), self.randn(n, self.noise_dim)

    def weights(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what the relaxed marginals weigh noise and data by, (B,) each: 1 where nothing gives way."""
        with torch.inference_mode(False), torch.enable_grad():
            x, z = self.noise(len(batch[0]))
            y = self.mapped(x, z)
            a = (self.value(y) - self.cost(x, y)).detach().requires_grad_()
            b = (-self.value(self.given(batch))).detach().requires_grad_()
            return (
                torch.autograd.grad(self.psi_1(a).sum(), a)[0],
                torch.autograd.grad(self.psi_2(b).sum(), b)[0],
            )

    # -- training -----------------------------------------------------------------------------------------------------

    def critic_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the potential's terms; the map gets no gradient."""
        y = self.given(batch)
        x, z = self.noise(len(y))
        with torch.no_grad():
            fake = self.mapped(x, z)
        if self.r1:
            y = y.detach().requires_grad_()
            y = y.view_as(y)  # torch's FLOP counter cannot follow a leaf through a second derivative
        v = self.value(y)
        loss = self.psi_1(self.value(fake) - self.cost(x, fake)).mean() + self.psi_2(-v).mean()
        terms = {"semidual": loss}
        if self.r1:
            terms["r1"] = self.r1 / 2 * squared_gradient(v, y).mean()
            loss = loss + terms["r1"]
        return {"loss": loss, **terms}

    def generator_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the map's terms."""
        x, z = self.noise(len(batch[0]))
        y = self.mapped(x, z)
        cost = self.cost(x, y).mean()
        return {"loss": cost - self.value(y).mean(), "transport": cost}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of both players; ``loss`` is the potential's."""
        with torch.inference_mode(False), torch.enable_grad():
            batch = (batch[0].clone(), batch[1].clone())
            critic, generator = self.critic_loss(batch), self.generator_loss(batch)
        return {k: v.detach() for k, v in ({**generator, "generator_loss": generator["loss"]} | critic).items()}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the potential, then the map."""
        self.terms = {}
        with self.turn("critic") as update:
            terms = self.critic_loss(batch)
            stepped = update(terms["loss"])
        self.terms.update({"critic_loss" if k == "loss" else k: v.detach() for k, v in terms.items()})
        if not stepped:
            return
        with self.turn("generator") as update:
            stepped = False
            while not stepped:  # fresh noise for each of the `accumulate` shares
                terms = self.generator_loss(batch)
                stepped = update(terms["loss"])
        self.terms.update({"generator_loss" if k == "loss" else k: v.detach() for k, v in terms.items()})

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        """Map noise to data by one call."""
        x = randn((n, math.prod(self.shape) + self.noise_dim), generator, self.device, self.dtype)
        D = math.prod(self.shape)
        y = self.mapped(x[:, :D].reshape(n, *self.shape), x[:, D:])
        return y if self.levels is None else (y + 1) / 2
