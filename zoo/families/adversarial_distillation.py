"""Adversarial diffusion distillation: a student of one or few steps, held by a critic and by its teacher.

    x^ = student(alpha_s x_0 + sigma_s eps, s),   s one of N levels from pure noise on
    L = -E D(x^) + lambda E alpha_t |x^ - sg(teacher(sg(alpha_t x^ + sigma_t eps'), t))|^2
    L_D = E max(0, 1 - D(x_0)) + E max(0, 1 + D(x^)) + gamma / 2 E |grad D(x_0)|^2

The student sees the data in a single evaluation; what a critic cannot tell from data is kept close to what the teacher
takes it for, once it is noised again. The paper's critic reads the features of a large frozen network; here it is a
network of its own, trained from the start.

References:
    A. Sauer, D. Lorenz, A. Blattmann, R. Rombach, Adversarial Diffusion Distillation, 2023, arXiv:2311.17042, equations
    1 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.denoising import Denoise
from zoo.families.distilled import Distilled, taught
from zoo.maths.objectives import OBJECTIVES
from zoo.maths.penalties import zero_centred_penalty
from zoo.maths.samplers import Sampler
from zoo.maths.schedules import Cosine, Schedule
from zoo.model import Batch, Player
from zoo.nets.conditioning import ProjectionCritic

__all__ = ["AdversarialDistillation"]

_FEATURES = 128  # that a critic gives where the student is told classes


class AdversarialDistillation(Distilled):
    """A diffusion model of one or few steps, distilled against a critic.

    The student is the first player: each batch updates it, then the critic. The teacher is guided as it says itself.

    Args:
        network: (B, C, ...), lambda (B,), labels (B,) or None -> (B, C, ...).
        critic: (B, *shape) in [-1, 1] -> (B, 1); with classes -> (B, 128).
        shape: of an example.
        teacher: a diffusion model with the same network and prediction, which the training starts from; None once it is
            over.
        schedule: of the noise, one that preserves variance; a cosine if left out.
        levels_of_training: N, even in time from pure noise on.
        distillation_weight: lambda.
        r1: gamma.
        steps: default of sampling, at most N: as many jumps, each from noise that is drawn anew.
        critic_lr: peak learning rate of the critic.

    The other arguments are those of `zoo.families.diffusion.Diffusion`.

    Raises:
        ConfigError: a teacher of other examples, prediction or kind of schedule, or numbers out of range.
    """

    samplers: ClassVar[tuple[str, ...]] = ("consistency",)
    noisy_view = None  # type: ignore[assignment]  # it knows the levels of its few steps only
    strip = "consistency"
    lags = False
    trained_parts = taught("ddpm-mnist")

    def __init__(
        self,
        network: nn.Module,
        critic: nn.Module,
        shape: Sequence[int],
        teacher: nn.Module | None = None,
        schedule: Schedule | None = None,
        levels_of_training: int = 4,
        distillation_weight: float = 2.5,
        r1: float = 0.1,
        steps: int = 1,
        critic_lr: float = 2e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, shape, teacher, schedule or Cosine(), sampler="consistency", steps=steps, **kwargs)
        if not 1 <= steps <= levels_of_training or distillation_weight < 0 or r1 < 0:
            raise ConfigError(
                f"steps must lie between 1 and levels_of_training, distillation_weight and r1 not be negative, got "
                f"{steps}, {levels_of_training}, {distillation_weight} and {r1}"
            )
        self.check_teacher(teacher)
        self.automatic_optimization = False
        self.critic = ProjectionCritic(critic, self.num_classes, _FEATURES) if self.num_classes else critic
        self.levels_of_training, self.distillation_weight = levels_of_training, distillation_weight
        self.r1, self.critic_lr = r1, critic_lr

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        scores = _FEATURES if arguments.get("num_classes") else 1
        return {**super().network_shapes(arguments), "critic": (tuple(arguments["shape"]), (scores,))}

    def players(self) -> dict[str, Player]:
        return {
            "student": Player(self.network.parameters(), self.lr, self.betas),
            "critic": Player(self.critic.parameters(), self.critic_lr, (0.0, 0.99)),
        }

    def compilable(self) -> list[nn.Module]:
        return [self.network]  # the critic is differentiated twice

    # -- what each player loses ---------------------------------------------------------------------------------------

    def level(self, i: Tensor, of: int) -> Tensor:
        """Return lambda at the time i / of, i = 1 ... of: the last one is pure noise."""
        return self.schedule.log_snr(i.double() / of)

    def guess(self, x_0: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the student sees in noised data, at one of its levels for each: (B, *shape) -> (B, *shape)."""
        N = self.levels_of_training
        i = 1 + (self.even(len(x_0)) * N).long().clamp(max=N - 1)
        log_snr = self.level(i, N).to(x_0.dtype)
        column = log_snr.view(-1, *[1] * (x_0.ndim - 1))
        alpha, sigma = self.schedule.coefficients(column)
        x_s = alpha * x_0 + sigma * self.randn(*x_0.shape)
        return self.data_of(self.output(x_s, log_snr, labels), x_s, column)

    def distance(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Return alpha_t |x - teacher(x noised to t)|^2 per dimension, (B,), whose gradient goes into x alone."""
        with torch.no_grad():
            log_snr = self.training_levels(self.rand(len(x)))
            column = log_snr.view(-1, *[1] * (x.ndim - 1))
            alpha, sigma = self.schedule.coefficients(column)
            x_t = alpha * x + sigma * self.randn(*x.shape)
            seen = Denoise(self.teacher, labels, self.teacher.guidance_scale, False, None)(x_t, column)
        return (alpha * (x - seen).square()).flatten(1).mean(1)

    def score(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Return the critic's scores: (B, *shape) in its range -> (B,)."""
        return (self.critic(x) if labels is None else self.critic(x, labels)).flatten(1).mean(1)

    def student_loss(
        self, x_0: Tensor, labels: Tensor | None, shown: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the student's terms, and what it saw.

        Args:
            x_0: data in the model's range.
            labels: of the data, for the critic and the teacher.
            shown: labels as the student is given them, some of them hidden.

        Raises:
            ConfigError: there is no teacher any more.
        """
        if self.teacher is None:
            raise ConfigError("distillation is over and its teacher is gone: train with --teacher, a run or a name")
        x = self.guess(x_0, shown)
        adversarial, distillation = -self.score(x, labels).mean(), self.distance(x, labels).mean()
        loss = adversarial + self.distillation_weight * distillation
        return {"loss": loss, "adversarial": adversarial, "distillation": distillation}, x

    def critic_loss(self, x_0: Tensor, x: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Return the critic's terms; the student gets no gradient."""
        real, fake = self.score(x_0, labels), self.score(x.detach(), labels)
        terms = {"critic_loss": OBJECTIVES["hinge"].critic(real, fake).mean(), "gap": real.mean() - fake.mean()}
        if self.r1:
            terms["r1"] = self.r1 * zero_centred_penalty(lambda v: self.score(v, labels), x_0).mean()
            terms["critic_loss"] = terms["critic_loss"] + terms["r1"]
        return terms

    def _given(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, labels = batch
        return self.centre(x), (labels if self.num_classes else None), self.dropped(labels)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of both players; ``loss`` is the student's."""
        with torch.inference_mode(False), torch.enable_grad():  # R1 is a gradient, in validation too
            x_0, labels, shown = self._given(tuple(t.clone() for t in batch))
            terms, x = self.student_loss(x_0, labels, shown)
            return {**terms, **self.critic_loss(x_0, x, labels)}

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        """Update the student on this batch, then the critic on what the student saw."""
        x_0, labels, shown = self._given(batch)
        with self.turn("student") as update:
            terms, x = self.student_loss(x_0, labels, shown)
            update(terms["loss"])
        with self.turn("critic") as update:
            judged = self.critic_loss(x_0, x, labels)
            update(judged["critic_loss"])
        self.terms = {name: value.detach() for name, value in {**terms, **judged}.items()}

    # -- sampling -----------------------------------------------------------------------------------------------------

    def _grid(self, sampler: str | Sampler, steps: int, spacing: str | None) -> tuple[Tensor, Tensor]:
        """Return the levels to jump from, and the end. Raises `ConfigError`: another spacing, or too many steps."""
        if spacing not in (None, "time"):
            raise ConfigError(f"the steps of a distilled model are even in time, not in {spacing}; leave spacing out")
        if not 1 <= steps <= self.levels_of_training:
            raise ConfigError(f"this distilled model takes 1 to {self.levels_of_training} steps, got {steps}")
        i = torch.arange(steps, 0, -1)
        end = self.schedule.log_snr(torch.tensor([self.first_time()], dtype=torch.float64))
        return torch.cat([self.level(i, steps), end]), i.double() / steps

    @torch.no_grad()
    def denoising(self, n: int, frames: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return the states that it jumps from and the data seen in each, at most ``frames``."""
        return super().denoising(n, min(frames, self.levels_of_training), seed)
