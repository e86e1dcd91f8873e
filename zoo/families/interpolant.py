"""Stochastic interpolants: velocity and score of any path from noise to data, and samplers with and without noise.

    x_t = a(t) x_0 + b(t) x_1 + g(t) z,   v(x, t) = E[dx_t/dt | x_t = x],   e(x, t) = E[z | x_t = x]
    loss = E |v_hat - dx_t/dt|^2 / D + E |e_hat - z|^2 / D
    score s = grad log p_t = -e / g
    dx = v dt                                    deterministic
    dx = (v + d g s) dt + sqrt(2 d g) dw         stochastic, of the same marginals for every d >= 0

Where a path has no third part, its Gaussian x_0 takes the place of z, and a that of g.

Noise and examples are independent, or paired by the entropic plan between them, of costs |x_0 - x_1|^2 and strength
2 sigma^2; with Brownian bridges of that sigma, 1, between the pairs, the marginals are those of the Schroedinger
bridge, the process that is nearest to Brownian motion among all from noise to data.

References:
    M. S. Albergo, N. M. Boffi, E. Vanden-Eijnden, Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions, 2023, arXiv:2303.08797.
    A. Tong and others, Simulation-free Schroedinger Bridges via Score and Flow Matching, 2023, arXiv:2307.03672,
    proposition 3.2 and algorithm 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.velocity import OdeLikelihood, VelocityModel
from zoo.maths.guidance import guide
from zoo.maths.paths import path as path_of
from zoo.maths.solvers import SOLVERS, euler_maruyama, time_grid
from zoo.maths.transport import entropic_pairing
from zoo.model import Batch

__all__ = ["PAIRINGS", "Interpolant"]

PAIRINGS = ("independent", "schroedinger")


class Interpolant(OdeLikelihood, VelocityModel):
    """Velocity and noise of a path, learnt by one network.

    Args:
        network: as that of `zoo.families.velocity.VelocityModel`, with twice as many channels of output: the velocity,
            then the noise.
        shape: of an example.
        levels: grey levels of the data, None for continuous values.
        path: a name of `zoo.maths.paths.PATHS`.
        pairing: ``independent``, or ``schroedinger``, by the entropic plan within a batch (each rank's own, and within
            each class where labels are used), for the path ``bridge``.
        diffusion: default of sampling: d, how much noise the stochastic sampler adds; 0 for the deterministic one.
        likelihood_steps: RK4 steps of `log_prob`.
        likelihood_examples: over how many test examples an evaluation takes the mean of `log_prob`.

    The other arguments are those of `zoo.families.velocity.VelocityModel`.

    Raises:
        ConfigError: an unknown path, pairing or solver, pairs of another path, or a diffusion below 0.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: list[int],
        levels: int | None = 256,
        path: str = "trigonometric_noisy",
        pairing: str = "independent",
        diffusion: float = 0.0,
        steps: int = 20,
        likelihood_steps: int = 20,
        likelihood_examples: int = 1_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, shape, levels, steps=steps, weak_batches=0, data_scale=None, shift="none", **kwargs)
        self.path, self.diffusion = path_of(path), _checked(diffusion)
        if pairing not in PAIRINGS or (pairing == "schroedinger" and path != "bridge"):
            raise ConfigError(
                f"pairing must be one of {', '.join(PAIRINGS)}, and schroedinger is of the path bridge; got "
                f"{pairing!r} with {path!r}"
            )
        self.pairing = pairing
        self.end = 1 - self.path.margin
        self.smoothing = self.path.a if self.path.g is None else self.path.g
        self.set_likelihood(likelihood_steps, likelihood_examples)

    @classmethod
    def outputs(cls, arguments: Mapping[str, Any]) -> int:
        return 2

    def both(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return velocity and noise side by side: (B, *shape), times (B,) or () -> (B, 2 C, ...)."""
        time = (self.time_scale * t).expand(len(x)).to(self.dtype)
        return self.network(x.to(self.dtype), time, labels).to(x.dtype)

    def velocity(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.both(x, t, labels).chunk(2, 1)[0]

    def score(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return grad log p_t(x): (B, *shape), a time () strictly between 0 and 1 -> (B, *shape)."""
        return -self.both(x, t, labels).chunk(2, 1)[1] / self.smoothing(t)[0]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the mean squared errors of velocity and noise, per dimension, and both."""
        x, labels = batch
        x_1 = self.training_examples(x)
        x_0, z, t = self.randn(*x.shape), self.randn(*x.shape), self.even(len(x)) * self.end
        if self.pairing == "schroedinger":
            rows = entropic_pairing(x_1, x_0, self.rand(len(x)), 2.0, self.pairing_groups(labels), unit=1.0)
            x_0 = x_0[rows]
        x_t, dx_t = self.path.state(x_0, x_1, t, z), self.path.velocity(x_0, x_1, t, z)
        v, e = self.both(x_t, t, self.dropped(labels)).chunk(2, 1)
        mse, mse_noise = F.mse_loss(v, dx_t), F.mse_loss(e, x_0 if self.path.g is None else z)
        return {"loss": mse + mse_noise, "mse": mse, "mse_noise": mse_noise}

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        steps: int | None = None,
        solver: str | None = None,
        guidance_scale: float | None = None,
        diffusion: float | None = None,
    ) -> Tensor:
        """Go from noise to data.

        Args:
            steps, solver, guidance_scale: as for `zoo.families.velocity.VelocityModel`; noise is added by Euler's
                steps whatever the solver.
            diffusion: d, 0 for the deterministic sampler, by default the model's own.
        """
        d = self.diffusion if diffusion is None else _checked(diffusion)
        if d == 0:
            return super().draw(n, generator, labels, steps=steps, solver=solver, guidance_scale=guidance_scale)
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        guided = guide(self.both, scale if labels is not None else 1.0, labels, self.num_classes or None)

        def drift(x: Tensor, t: Tensor) -> Tensor:
            v, e = guided(x, t).chunk(2, 1)
            return v - d * e

        times = time_grid(self.steps if steps is None else steps, 0.0, self.end)
        x = euler_maruyama(
            drift, lambda t: (2 * d * self.smoothing(t)[0]).clamp(min=0).sqrt(), self.noise(n, generator), times,
            generator,
        )  # fmt: skip
        return self.data_range(x)

    def calls(self, options: Mapping[str, Any]) -> float:
        calls, chosen = super().calls(options), self.sampler(options)
        return calls if chosen["diffusion"] == 0 else calls / SOLVERS.get(chosen["solver"], SOLVERS["rk4"]).calls


def _checked(diffusion: float) -> float:
    if not diffusion >= 0:
        raise ConfigError(f"diffusion must be at least 0, got {diffusion}")
    return diffusion
