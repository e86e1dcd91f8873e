"""Wasserstein gradient flow of a divergence from the data, step by step of Jordan, Kinderlehrer and Otto.

    mu_k+1 = argmin over rho of  W_2^2(rho, mu_k) / (2 h) + D_Psi(rho | nu)
    L_v = E v(T(z)) - |T_k(z) - T(z)|^2 / (2 h) + E Psi*(-v(y)) + gamma/2 E |grad v(y)|^2
    L_T = E |T_k(z) - T(z)|^2 / (2 h) - v(T(z)),    T_k <- T after each phase

T maps the latent straight to mu_k+1; T_k, frozen, only says where each latent was. At the optimum of ``kl`` -v is the
log-density ratio log(mu_k+1 / nu), up to a constant. T starts a phase as T_k, and v goes on.

References:
    R. Jordan, D. Kinderlehrer, F. Otto, The Variational Formulation of the Fokker-Planck Equation, 1998.
    J. Choi, J. Choi, M. Kang, Scalable Wasserstein Gradient Flow for Generative Modeling through Unbalanced Optimal
    Transport, 2024, arXiv:2402.05443.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.uotm import UOTM
from zoo.maths.noise import randn
from zoo.model import Batch
from zoo.signature import default_of

__all__ = ["SJKO"]


class SJKO(UOTM):
    """A map from latents, the map of the phase before, and a potential.

    Args:
        generator: T, (B, latent_dim) -> (B, *shape); images are in [-1, 1], by a tanh applied here.
        critic: v, (B, *shape) -> (B, 1).
        shape: of an example.
        latent_dim: of z.
        levels: of the data, None for points.
        divergence: ``kl``, ``chi``, ``softplus`` or ``jsd``.
        h: size of a step, for squared distances summed over an example.
        first_phase: batches of the first phase.
        phase: batches of each later one.

    The other arguments are those of `zoo.families.uotm.UOTM`.

    Raises:
        ConfigError: numbers out of range, or an unknown divergence.
    """

    training_parts = ("previous",)

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        shape: list[int],
        latent_dim: int,
        levels: int | None = 256,
        divergence: str = "kl",
        h: float = 0.1,
        first_phase: int = 1500,
        phase: int = 500,
        r1: float = 0.2,
        lr: float = 2e-4,
        critic_lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.9),
    ) -> None:
        if h <= 0 or min(first_phase, phase, latent_dim) < 1 or divergence == "linear":
            raise ConfigError(
                f"h, latent_dim and phases must be positive and the divergence not linear, got {h}, {latent_dim}, "
                f"{first_phase}, {phase} and {divergence}"
            )
        super().__init__(
            generator, critic, shape, levels, latent_dim, "linear", divergence, 1 / h, r1, lr, critic_lr, betas
        )
        self.latent_dim, self.first_phase, self.phase = latent_dim, first_phase, phase
        self.previous = copy.deepcopy(generator).requires_grad_(False)

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data: a step in proportion to their numbers; see `zoo.fitting`.

        Squared distances are sums over an example.
        """
        ratio = math.prod(arguments["shape"]) / math.prod(before["shape"])
        h = arguments.get("h", default_of(cls, "h"))
        return {**arguments, "h": h * ratio} if ratio != 1 else dict(arguments)

    @classmethod
    def _taken(cls, arguments: Mapping[str, Any]) -> int:
        return arguments["latent_dim"]

    def train(self, mode: bool = True) -> SJKO:
        """Set the mode; the map of the phase before stays in eval mode."""
        super().train(mode)
        if self.previous is not None:
            self.previous.eval()
        return self

    def noise(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw z, and return where the phase before put it; a published model has none, and stays where it is."""
        z = self.randn(n, self.latent_dim)
        with torch.no_grad():
            return self._placed(self.generator if self.previous is None else self.previous, z), z

    def _placed(self, network: nn.Module, z: Tensor) -> Tensor:
        y = network(z).reshape(-1, *self.shape)
        return y if self.levels is None else torch.tanh(y)

    def mapped(self, x: Tensor, z: Tensor) -> Tensor:
        """Return T(z), whatever x."""
        return self._placed(self.generator, z)

    def ratio(self, y: Tensor) -> Tensor:
        """Return -v(y), for ``kl`` the estimate of log(mu / nu): (B, *shape) in data range -> (B,)."""
        return -self.value(y if self.levels is None else 2 * y - 1)

    def ends_phase(self, steps: int) -> bool:
        """Tell whether a phase is over after so many steps."""
        return steps >= self.first_phase and (steps - self.first_phase) % self.phase == 0

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the potential, then the map; at the end of a phase the map becomes that of the phase before."""
        before = self.steps_done
        super().training_step(batch, batch_idx)
        if self.steps_done > before and self.ends_phase(self.steps_done) and self.previous is not None:
            self.previous.load_state_dict(self.generator.state_dict())

    def draw(self, n: int, generator: torch.Generator, labels: Tensor | None) -> Tensor:
        """Map latents to data by one call."""
        y = self._placed(self.generator, randn((n, self.latent_dim), generator, self.device, self.dtype))
        return y if self.levels is None else (y + 1) / 2
