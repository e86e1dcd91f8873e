"""Progressive distillation: a student whose one step is two of its teacher's, which then teaches the next one.

Levels of N steps are t = i / N, i = N, ..., 1, and DDIM goes from each to the next, from the last one to the data. With
t' = t - 1/(2N) and t'' = t - 1/N, two steps of the teacher lead from x_t to x_t'', and the student is to see in x_t

    x~ = (x_t'' - r x_t) / (alpha_t'' - r alpha_t),   r = sigma_t'' / sigma_t

from which its own single step leads to x_t'' too. Once it has learnt that, it is the teacher of N / 2 steps.

References:
    T. Salimans, J. Ho, Progressive Distillation for Fast Sampling of Diffusion Models, 2022, arXiv:2202.00512,
    algorithm 2 and appendix G.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.denoising import Denoise
from zoo.families.distilled import Distilled, taught
from zoo.maths.conversions import noise_of
from zoo.maths.samplers import Sampler
from zoo.maths.schedules import Cosine, Schedule
from zoo.model import Batch

__all__ = ["ProgressiveDistillation"]


class ProgressiveDistillation(Distilled):
    """A diffusion model of few steps, distilled by halving their number again and again.

    The teacher is evaluated as it is, without guidance.

    Args:
        network: (B, C, ...), lambda (B,), labels (B,) or None -> (B, C, ...).
        shape: of an example.
        teacher: a diffusion model with the same network and prediction, which the training starts from; None once it is
            over.
        schedule: of the noise, one that preserves variance; a cosine if left out.
        begin: steps of the teacher in the first phase.
        steps: of the student in the last phase, ``begin`` halved some times; default of sampling.
        phase: training steps from one halving to the next; the last phase goes on as long as the training.
        levels: grey levels of the data, None for continuous data.

    The other arguments are those of `zoo.families.diffusion.Diffusion`.

    Raises:
        ConfigError: a teacher of other examples or of another kind of schedule, or numbers that do not fit.
    """

    samplers: ClassVar[tuple[str, ...]] = ("ddim",)
    noisy_view = None  # type: ignore[assignment]  # it knows the levels of its few steps only
    trained_parts = taught("ddpm-mnist")

    def __init__(
        self,
        network: nn.Module,
        shape: Sequence[int],
        teacher: nn.Module | None = None,
        schedule: Schedule | None = None,
        begin: int = 16,
        steps: int = 2,
        phase: int = 500,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, shape, teacher, schedule or Cosine(), sampler="ddim", steps=steps, **kwargs)
        self.halvings = (begin // max(1, steps)).bit_length() - 1
        if steps < 1 or self.halvings < 1 or begin != steps << self.halvings or phase < 1:
            raise ConfigError(
                f"begin must be steps doubled once or more and phase at least 1, got {begin}, {steps} and {phase}"
            )
        self.check_teacher(teacher)
        self.begin, self.phase = begin, phase

    # -- phases -------------------------------------------------------------------------------------------------------

    def halved(self) -> int:
        """Return how many phases are over, at most one less than there are halvings."""
        return min(self.steps_done // self.phase, self.halvings - 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Where a phase begins, take the student for the teacher, then do this step: so a checkpoint loses nothing."""
        done = self.steps_done
        if done and done % self.phase == 0 and done // self.phase < self.halvings:
            self.target.load_state_dict(self.network.state_dict())
        return super().training_step(batch, batch_idx)

    def level(self, i: Tensor, steps: int) -> Tensor:
        """Return lambda at the time i / steps; infinity at 0, the data themselves."""
        log_snr = self.schedule.log_snr(i.double().clamp(min=0.5) / steps)
        return torch.where(i > 0, log_snr, torch.inf)

    # -- the objective ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``mse`` of the student's prediction about x~, per dimension, which is ``loss``, and its ``steps``.

        Raises:
            ConfigError: there is no teacher any more.
        """
        if self.teacher is None:
            raise ConfigError("distillation is over and its teacher is gone: train with --teacher, a run or a name")
        x, labels = batch
        x_0, y = self.centre(x), self.dropped(labels)
        steps = self.begin >> (self.halved() + 1)
        i = 1 + (self.even(len(x)) * steps).long().clamp(max=steps - 1)
        log_snr = self.level(i, steps).to(x.dtype)
        column = (-1, *[1] * (x.ndim - 1))
        alpha, sigma = self.schedule.coefficients(log_snr.view(column))
        x_t = alpha * x_0 + sigma * self.randn(*x.shape)
        target = self.two_steps(x_t, i, steps, y)
        mse = self.errors(self.output(x_t, log_snr, y), target, x_t, log_snr).mean()
        return {"loss": mse, "mse": mse, "steps": mse.new_tensor(float(steps))}

    @torch.no_grad()
    def two_steps(self, x: Tensor, i: Tensor, steps: int, labels: Tensor | None = None) -> Tensor:
        """Return x~, that is what the student of so many steps is to see in x.

        Args:
            x: states, (B, *shape).
            i: of the time i / steps of each, int64 (B,).
            steps: N, of the student.
            labels: for the teacher.
        """
        column = (-1, *[1] * (x.ndim - 1))
        levels = [self.level(2 * i - back, 2 * steps).to(x.dtype).view(column) for back in (0, 1, 2)]
        (a_t, s_t), (a_m, s_m), (a_s, s_s) = (self.schedule.coefficients(level) for level in levels)
        seen = self.taught(x, levels[0], labels)
        middle = a_m * seen + s_m * noise_of(x, seen, a_t, s_t)
        seen = self.taught(middle, levels[1], labels)
        end = a_s * seen + s_s * noise_of(middle, seen, a_m, s_m)
        r = s_s / s_t
        return (end - r * x) / (a_s - r * a_t)

    def taught(self, x: Tensor, log_snr: Tensor, labels: Tensor | None) -> Tensor:
        """Return x_0 as the teacher of this phase sees it: (B, *shape), lambda (B, 1, ...) -> (B, *shape)."""
        if self.halved() == 0:
            return Denoise(self.teacher, labels, 1.0, False, None)(x, log_snr)
        return self.data_of(self.output(x, log_snr.flatten(), labels, self.target), x, log_snr)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def _grid(self, sampler: str | Sampler, steps: int, spacing: str | None) -> tuple[Tensor, Tensor]:
        """Return the levels of so many steps, and the times of these. Raises `ConfigError`: another spacing."""
        if spacing not in (None, "time"):
            raise ConfigError(f"the steps of a distilled model are even in time, not in {spacing}; leave spacing out")
        i = torch.arange(steps, 0, -1)
        return self.level(i, steps), i.double() / steps

    @torch.no_grad()
    def denoising(self, n: int, frames: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return the states of its own few steps and the data seen in each, at most ``frames``."""
        return super().denoising(n, min(frames, self.steps), seed)
