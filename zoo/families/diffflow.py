"""Particles between those of a GAN and those of Langevin, with a score and a discriminator that are learnt.

    dX = [beta grad log(q_s / p_t)(X) + D grad log p_t(X)] dt + sqrt(2 D) dW,   D = mix beta,   beta = sigma_t^2
    L = E |e(x + sigma_t n, t) - n|^2 + E softplus(-h(y, t)) + E softplus(h(x_t, t))

q_s is the law of data y with noise of standard deviation sigma_t, which falls geometrically over the steps; p_t that of
the particles, which start from a wide Gaussian. -e / sigma_t is the score of q_s, and the best h is log(q_s / p_t). Of
``mix`` only the paths depend: 0 is a particle that follows a discriminator, without noise, 1 is annealed Langevin,
which needs none, and the marginals in between are the same. So the discriminator is trained on particles that the score
alone has moved, and the mix is an option of sampling. The paper gives the equation and no experiments.

References:
    J. Zhang, H. Shi, J. Yu, E. Xie, Z. Li, DiffFlow: A Unified SDE Framework for Score-Based Diffusion Models and
    Generative Adversarial Networks, 2023, arXiv:2307.02159.
    Y. Song, S. Ermon, Generative Modeling by Estimating Gradients of the Data Distribution, 2019, arXiv:1907.05600.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checking import count_of
from zoo.errors import ConfigError
from zoo.maths.noise import randn
from zoo.maths.particles import between
from zoo.model import Batch, ScoreModel

__all__ = ["DiffFlow"]


class DiffFlow(ScoreModel):
    """A score, a discriminator, and particles that follow both.

    Args:
        score: e, (B, *shape) and the time (B,), which goes from 0 to ``time_scale`` -> (B, *shape).
        discriminator: h, the same -> (B, 1).
        shape: of an example.
        levels: grey levels of the data, which are taken to [-1, 1]; None for points.
        steps: of the particles; h and e are learnt at the times of these.
        step_size: of one, in units in which beta is sigma_t^2.
        noise: largest and least sigma_t.
        spread: standard deviation of the particles at the start.
        mix: default of sampling, in [0, 1].
        time_scale: of the time that the networks are told.
        lr: peak learning rate.
        betas: of Adam.

    Raises:
        ConfigError: numbers out of range.
    """

    family = "diffusion"

    def __init__(
        self,
        score: nn.Module,
        discriminator: nn.Module,
        shape: list[int],
        levels: int | None = 256,
        steps: int = 60,
        step_size: float = 0.2,
        noise: tuple[float, float] = (1.0, 0.1),
        spread: float = 1.75,
        mix: float = 0.5,
        time_scale: float = 10.0,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        first, last = (float(s) for s in noise)
        falls, positive = 0 < last <= first < math.inf, min(steps, step_size, spread, time_scale) > 0
        if not (falls and positive and 0 <= mix <= 1):
            raise ConfigError(
                f"steps, step_size, spread and time_scale must be positive, noise two falling positive numbers and mix "
                f"between 0 and 1, got {steps}, {step_size}, {spread}, {time_scale}, {list(noise)} and {mix}"
            )
        self.score, self.discriminator = score, discriminator
        self.shape, self.levels, self.steps, self.step_size = tuple(shape), levels, steps, step_size
        self.spread, self.mix, self.time_scale, self.lr = spread, mix, time_scale, lr
        self.noise_range, self.betas = (first, last), (float(betas[0]), float(betas[1]))

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the networks map to what; see `zoo.fitting`."""
        shape = tuple(arguments["shape"])
        return {"score": (shape, shape, {}), "discriminator": (shape, (1,), {})}

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data, which are theirs alone; see `zoo.fitting`."""
        return dict(arguments)

    def compilable(self) -> list[nn.Module]:
        """Return both networks: training differentiates neither in x."""
        return [self.score, self.discriminator]

    # -- the fields ---------------------------------------------------------------------------------------------------

    def sigma(self, t: Any) -> Any:
        """Return sigma_t of times from 0 to 1, a number or a tensor: geometric from the largest to the least."""
        first, last = self.noise_range
        return first * (last / first) ** t

    def score_at(self, x: Tensor, t: Tensor) -> Tensor:
        """Return grad log q_s(x), (B, *shape) and times (B,) in [0, 1] -> (B, *shape)."""
        return -self.score(x, self.time_scale * t) / self._beside(self.sigma(t), x)

    def logit(self, x: Tensor, t: Tensor) -> Tensor:
        """Return h(x, t), the logit of x being of q_s and not of p_t, (B,)."""
        return self.discriminator(x, self.time_scale * t).reshape(len(x))

    def logit_slope(self, x: Tensor, t: Tensor) -> Tensor:
        """Return grad h(x, t), without a graph: that of log(q_s / p_t) at the optimum."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_(True)
            x = x.view_as(x)  # torch's FLOP counter cannot follow a leaf
            (slope,) = torch.autograd.grad(self.logit(x, t.clone()).sum(), x)
        return slope

    def _beside(self, values: Tensor, x: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)  # (B, 1, ...)

    # -- the particles ------------------------------------------------------------------------------------------------

    def advanced(self, x: Tensor, first: int, count: int, mix: float, randn: Callable[..., Tensor]) -> Tensor:
        """Return particles after ``count`` steps from the ``first``-th on, (B, *shape) in the networks' range."""

        def at(t: float) -> Tensor:  # `between` counts from its own start
            return torch.full((len(x),), first / self.steps + t, device=x.device, dtype=x.dtype)

        scale = self.step_size * self.steps  # the whole way takes time 1, at the speed of that many units
        return between(
            x, count, 1 / self.steps, randn, mix, lambda x, t: self.score_at(x, at(t)),
            lambda x, t: self.logit_slope(x, at(t)), lambda t: scale * self.sigma(first / self.steps + t) ** 2,
        )  # fmt: skip

    @torch.no_grad()
    def particles(self, index: Tensor) -> Tensor:
        """Return a particle of p_t before the step of each index, int64 (B,) in 0 ... ``steps`` -> (B, *shape)."""
        x = self.spread * self.randn(len(index), *self.shape)
        found = x
        for i in range(self.steps):
            x = self.advanced(x, i, 1, 1.0, self.randn)
            found = torch.where(self._beside(index > i, x).bool(), x, found)
        return found

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the error of the score per dimension, and how badly noised data are told from particles, in nats."""
        y = batch[0] if self.levels is None else 2 * batch[0] - 1
        index = (self.rand(len(y)) * (self.steps + 1)).long().clamp(max=self.steps)
        t, n = index.to(y.dtype) / self.steps, self.randn(*y.shape)
        y = y + self._beside(self.sigma(t), y) * n
        mse = F.mse_loss(self.score(y, self.time_scale * t), n)
        up, down = self.logit(torch.cat([y, self.particles(index)]), torch.cat([t, t])).chunk(2)
        discrimination = F.softplus(-up).mean() + F.softplus(down).mean()
        return {"loss": mse + discrimination, "mse": mse, "discrimination": discrimination}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        labels: Tensor | None,
        *,
        mix: float | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Move particles from the start to the least noise.

        Args:
            mix: D / beta, in [0, 1]: 0 follows the discriminator alone, 1 the score alone.
            steps: how many of the model's, from the first on; all by default.
        """
        mix = self.mix if mix is None else mix
        count = self.steps if steps is None else count_of(steps, "steps")
        if count > self.steps:
            raise ConfigError(f"steps must be at most {self.steps}, at whose times the model was trained, got {count}")
        there = (generator, self.device, self.dtype)
        x = self.spread * randn((n, *self.shape), *there)
        x = self.advanced(x, 0, count, mix, lambda *shape: randn(shape, *there))
        return x if self.levels is None else ((x + 1) / 2).clamp(0, 1)

    def calls(self, options: Mapping[str, Any]) -> float:
        """Evaluations of a network for one batch; the discriminator's, with its gradient, counts as one."""
        asked = options.get("mix")
        mix, steps = self.mix if asked is None else asked, options.get("steps") or self.steps
        return steps * ((mix > 0) + (mix < 1))

    @property
    def calls_per_sample(self) -> int:
        return int(self.calls({}))
