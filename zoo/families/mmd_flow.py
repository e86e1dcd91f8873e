"""Wasserstein gradient flow of the maximum mean discrepancy from the data, in steps of Jordan, Kinderlehrer and Otto.

    mu_k+1 = argmin over rho of  W_2^2(rho, mu_k) / (2 h) + MMD^2(rho, nu)
    L_T = E |T_k(z) - T(z)|^2 / (2 h) + MMD^2(T(z), y),    T_k <- T after each phase

The scheme of `zoo.families.s_jko` for a functional that needs no potential: MMD^2 is estimated from the batch, without
bias. The first term is what makes it a step of the flow; without it, h without bound, this is
`zoo.families.mmd_generator`. At the optimum T(z) = T_k(z) - h grad w(T(z)), with w the first variation of MMD^2 at
mu_k+1: a step of Euler's backward method.

References:
    R. Jordan, D. Kinderlehrer, F. Otto, The Variational Formulation of the Fokker-Planck Equation, 1998.
    M. Arbel, A. Korba, A. Salim, A. Gretton, Maximum Mean Discrepancy Gradient Flow, 2019, arXiv:1906.04370.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.mmd_generator import MMDGenerator
from zoo.maths.divergences import MULTIPLES, bandwidths, squared_mmd
from zoo.model import Batch, Player
from zoo.signature import default_of

__all__ = ["MMDFlow"]


class MMDFlow(MMDGenerator):
    """A map from latents, and the map of the phase before.

    Args:
        generator: T, (B, latent_dim) -> (B, *shape); images by a sigmoid applied here.
        shape: of an example.
        latent_dim: of z.
        levels: of the data, None for points.
        h: size of a step, for squared distances summed over an example.
        first_phase: batches of the first phase.
        phase: batches of each later one.
        lr: peak learning rate.
        multiples: bandwidths of the kernels, as multiples of the median distance of a batch.

    Raises:
        ConfigError: numbers that are not positive.
    """

    training_parts = ("previous",)

    def __init__(
        self,
        generator: nn.Module,
        shape: list[int],
        latent_dim: int,
        levels: int | None = 256,
        h: float = 1.0,
        first_phase: int = 500,
        phase: int = 200,
        lr: float = 1e-3,
        multiples: Sequence[float] = MULTIPLES,
    ) -> None:
        super().__init__(generator, shape, latent_dim, levels, lr, multiples)
        if not h > 0 or min(first_phase, phase) < 1:
            raise ConfigError(f"h and phases must be positive, got {h}, {first_phase} and {phase}")
        self.h, self.first_phase, self.phase = h, first_phase, phase
        self.previous: nn.Module | None = copy.deepcopy(generator).requires_grad_(False)

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data: a step in proportion to their numbers; see `zoo.fitting`."""
        ratio = math.prod(arguments["shape"]) / math.prod(before["shape"])
        found = super().fitted_to(arguments, before)
        return {**found, "h": found.get("h", default_of(cls, "h")) * ratio} if ratio != 1 else found

    def players(self) -> dict[str, Player]:
        return {"model": Player(self.generator.parameters(), self.lr, tuple(self.betas), self.weight_decay)}

    def compilable(self) -> list[nn.Module]:
        return [self.generator]

    def train(self, mode: bool = True) -> MMDFlow:
        """Set the mode; the map of the phase before stays in eval mode."""
        super().train(mode)
        if self.previous is not None:
            self.previous.eval()
        return self

    def ends_phase(self, steps: int) -> bool:
        """Tell whether a phase is over after so many steps."""
        return steps >= self.first_phase and (steps - self.first_phase) % self.phase == 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; before the first step of a phase the map becomes that of the phase before."""
        if self.previous is not None and self.ends_phase(self.steps_done):
            self.previous.load_state_dict(self.generator.state_dict())
        return super().training_step(batch, batch_idx)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the transport's cost from where the phase before put each latent, and MMD^2."""
        x = batch[0]
        z, ranks = self.randn(len(x), self.latent_dim), max(1, len(self._streams))
        made = self.decode(z)
        if min(len(x), len(made)) < 2 * ranks:
            raise ConfigError(
                "the unbiased discrepancy is of batches of two examples at least; set a larger batch_size"
            )
        pairs = zip(made.chunk(ranks), x.chunk(ranks), strict=True)  # each rank's share by itself
        mmd = torch.stack([squared_mmd(a, b, bandwidths(b, self.multiples)) for a, b in pairs]).mean()
        with torch.no_grad():
            before = made.detach() if self.previous is None else self._placed(self.previous, z)
        transport = (made - before).square().flatten(1).sum(1).mean() / (2 * self.h)
        return {"loss": transport + mmd, "transport": transport, "mmd": mmd}
