"""Consistency models: one network that jumps from any point of a trajectory to its end, the data.

    f(x, lambda) = c_skip y + c_out F,   y = x / alpha, q = exp(-lambda / 2), d = q - q_min,
    c_skip = s^2 / (d^2 + s^2),   c_out = s d / sqrt(q^2 + s^2),   so that f(x, lambda_max) = x / alpha exactly

Trained by pairs of neighbours on a trajectory of the probability flow: f at the noisier one is to equal what a slowly
following copy of f, without gradient, says at the cleaner one. Both share one noise z,

    distillation     x_a = x_0 + q_a z, and x_b is where the teacher's flow takes x_a, by a step of Heun's method
    from data alone  x_a = x_0 + q_a z, x_b = x_0 + q_b z, an estimate without bias of the same step as q_b -> q_a

References:
    Y. Song, P. Dhariwal, M. Chen, I. Sutskever, Consistency Models, 2023, arXiv:2303.01469.
    Y. Song, P. Dhariwal, Improved Techniques for Training Consistency Models, 2023, arXiv:2310.14189: the metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.denoising import Denoise
from zoo.families.distilled import Distilled, taught
from zoo.maths.conversions import input_scale
from zoo.maths.samplers import heun_step
from zoo.maths.schedules import EDM, Schedule
from zoo.model import Batch

__all__ = ["Consistency"]


class Consistency(Distilled):
    """A consistency model, distilled from a teacher or trained on data alone.

    Args:
        network: (B, C, ...), lambda (B,), labels (B,) or None -> (B, C, ...).
        shape: of an example.
        teacher: a diffusion model with the same network, which the training starts from, guided as it guides itself;
            None to train on data alone.
        schedule: of the noise, one in which alpha is 1; EDM if left out.
        table: levels of noise, neighbours of which make pairs.
        decay: of the copy that follows the network, a step; 0 to take the network itself.
        steps: default of sampling.

    The other arguments are those of `zoo.families.diffusion.Diffusion`, ``sigma_data`` being s.

    Raises:
        ConfigError: a teacher of other examples, a schedule of another kind, or numbers out of range.
    """

    samplers: ClassVar[tuple[str, ...]] = ("consistency",)
    noisy_view = None  # type: ignore[assignment]  # it jumps to an example, which is no mean
    dequantizes = True
    strip = "consistency"
    trained_parts = taught("edm-mnist")

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        teacher: nn.Module | None = None,
        schedule: Schedule | None = None,
        table: int = 40,
        decay: float = 0.95,
        steps: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            network, shape, teacher, schedule or EDM(), predict="edm", sampler="consistency", steps=steps, **kwargs
        )
        if self.schedule.kind != "ve":
            raise ConfigError(
                f"Consistency needs a schedule in which the data keep their size, and {type(self.schedule).__name__} "
                f"is none; use EDM or VE"
            )
        if table < 2 or not 0 <= decay < 1:
            raise ConfigError(f"table must be at least 2 and decay lie between 0 and 1, got {table} and {decay}")
        self.table, self.decay = table, decay
        self.register_buffer("log_snrs", self.schedule.grid(table, "rho"), persistent=False)  # rising, (N,)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Let the copy catch up with the last step, then do this one: so a checkpoint between both loses nothing."""
        self.follow()
        return super().training_step(batch, batch_idx)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the copy: target <- decay target + (1 - decay) network."""
        torch._foreach_lerp_(
            [p.data for p in self.target.parameters()], [p.data for p in self.network.parameters()], 1 - self.decay
        )

    # -- the function -------------------------------------------------------------------------------------------------

    def data_of(self, value: Tensor, x: Tensor, log_snr: Tensor) -> Tensor:
        """Return f = c_skip x + c_out F; x itself at the last level, exactly."""
        q, s = torch.exp(-0.5 * log_snr), self.sigma_data
        d = q - torch.exp(-0.5 * self.log_snrs[-1].to(log_snr.dtype))
        return s**2 / (d * d + s**2) * x + s * d * torch.rsqrt(q * q + s**2) * value

    def jump(self, network: nn.Module, x: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor:
        """Return f by a network: (B, *shape), lambda (B, 1, ...) and labels (B,) -> (B, *shape)."""
        scale = input_scale("edm", *self.schedule.coefficients(log_snr), self.sigma_data)
        return self.data_of(network(x * scale, log_snr.flatten(), labels), x, log_snr)

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, the mean of sqrt(|f_a - f_b|^2 + c^2) - c over pairs, and ``mse`` of f_a - f_b."""
        x, labels = batch
        x_0 = self.centre(x, self.rand(*x.shape))
        column = (-1, *[1] * (x.ndim - 1))
        n = (self.even(len(x)) * (self.table - 1)).long()
        later, earlier = (self.log_snrs[i].to(x.dtype).view(column) for i in (n, n + 1))
        y = self.dropped(labels)
        x_a, x_b = self.pair(x_0, self.randn(*x.shape), later, earlier, y)
        with torch.no_grad():
            f_b = self.jump(self.target if self.decay else self.network, x_b, earlier, y)
        error = (self.jump(self.network, x_a, later, y) - f_b).square().flatten(1).sum(1)  # (B,)
        D = math.prod(self.shape)
        c = 0.00054 * math.sqrt(D)
        return {"loss": (torch.sqrt(error + c * c) - c).mean(), "mse": error.mean() / D}

    @torch.no_grad()
    def pair(
        self, x_0: Tensor, noise: Tensor, later: Tensor, earlier: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return two neighbours on one trajectory, made of one noise, (B, *shape) each.

        Args:
            x_0: the data in the model's range.
            noise: z.
            later: lambda of the noisier one, (B, 1, ...).
            earlier: lambda of the cleaner one.
            labels: for the teacher.
        """
        x_a = x_0 + self.schedule.coefficients(later)[1] * noise
        if self.teacher is None:
            return x_a, x_0 + self.schedule.coefficients(earlier)[1] * noise
        guided = Denoise(self.teacher, labels, self.teacher.guidance_scale, False, None)
        return x_a, heun_step(guided, x_a, later, earlier, self.schedule)

    def _grid(self, sampler: str, steps: int, spacing: str | None) -> tuple[Tensor, Tensor]:
        """Return the levels from which to jump, and the last one of the grid, at which a jump is no jump."""
        log_snrs = self.schedule.grid(steps + 1, spacing or "rho", self.first_time())
        return log_snrs, log_snrs
