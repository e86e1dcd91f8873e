"""Rectified flow: the curves of a trained flow are straightened by training anew on the pairs that it makes.

    pairs (z_0, z_1):  z_0 ~ N(0, I), z_1 = where the teacher's flow carries z_0
    reflow:            E |v(z_t, t) - (z_1 - z_0)|^2 / D,   z_t = (1 - t) z_0 + t z_1,   t uniform in [0, 1)
    distillation:      the same at t = 0 alone, so that one step, z_0 + v(z_0, 0), leads to z_1

Reflow is one stage, with a flow as its teacher; distillation is the last one, with the reflowed model as its teacher.
Here it takes the share ``one_step`` of each batch, and reflow the rest, so that the model can still be sampled in more
steps than one. What is left of the teacher afterwards is nothing: a published model goes without it.

References:
    X. Liu, C. Gong, Q. Liu, Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow, 2022,
    arXiv:2209.03003.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.distilled import take_weights
from zoo.families.guided import of_teacher
from zoo.families.velocity import VelocityModel
from zoo.maths.solvers import integrate, time_grid
from zoo.model import Batch, Player, TrainedPart, seeded

__all__ = ["RectifiedFlow"]

Pairs = tuple[Tensor, Tensor, Tensor]


class RectifiedFlow(VelocityModel):
    """A flow that is trained on the pairs of another; it has no likelihood of the data.

    Args:
        network: as that of the teacher, whose weights it starts from.
        shape: of an example.
        teacher: a `zoo.families.velocity.VelocityModel`, never trained here; None once training is over.
        levels: grey levels of the data, None for continuous values.
        pair_batches: how many batches of pairs the teacher makes, each when the first step asks for it; the steps go
            round them.
        pair_seed: of the noise of the pairs.
        teacher_steps, teacher_solver: by which the teacher makes them.
        one_step: share of each batch that is trained at t = 0.
        warm_start: begin with the teacher's weights.

    The other arguments are those of `zoo.families.velocity.VelocityModel`.

    Raises:
        ConfigError: a teacher that is no velocity, or one of other examples or labels.
    """

    trained_parts: ClassVar[Mapping[str, TrainedPart]] = {
        "teacher": TrainedPart(
            what="distilled from a trained flow", example="flow_matching-mnist", requires=VelocityModel,
            needs="velocity", fitted=of_teacher,
        )
    }  # fmt: skip
    training_parts = ("teacher",)

    def __init__(
        self,
        network: nn.Module,
        shape: list[int],
        teacher: nn.Module | None = None,
        levels: int | None = 256,
        pair_batches: int = 256,
        pair_seed: int = 0,
        teacher_steps: int = 6,
        teacher_solver: str = "midpoint",
        one_step: float = 0.0,
        warm_start: bool = True,
        label_dropout: float = 0.0,
        steps: int = 1,
        solver: str = "euler",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            network, shape, levels, label_dropout=label_dropout, steps=steps, solver=solver, weak_batches=0, **kwargs
        )
        if not 0 <= one_step <= 1 or pair_batches < 1:
            raise ConfigError(
                f"one_step must lie between 0 and 1 and pair_batches be at least 1, got {one_step} and {pair_batches}"
            )
        _check_teacher(teacher, self)
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.first_steps, self.pair_seed, self.warm_start, self.one_step = pair_batches, pair_seed, warm_start, one_step
        self.teacher_steps, self.teacher_solver = teacher_steps, teacher_solver
        self._pairs: dict[tuple[int, int], Pairs] = {}

    def train(self, mode: bool = True) -> RectifiedFlow:
        """Set the student's mode; the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def players(self) -> dict[str, Player]:
        moved = [*self.network.parameters(), *(self.shift.parameters() if self.shift is not None else ())]
        return {"model": Player(moved, self.lr, tuple(self.betas))}

    def compilable(self) -> list[nn.Module]:
        return [self.network]

    def adopt(self) -> None:
        """Start from the teacher's weights and shifts. Raises `ConfigError` where the networks or shifts differ."""
        if not self.warm_start or self.teacher is None:
            return
        shifts = [{} if m.shift is None else m.shift.state_dict() for m in (self, self.teacher)]
        if shifts[0].keys() != shifts[1].keys():
            raise ConfigError(
                "the student shifts other ends of its path than the teacher, so it cannot start from its weights; give "
                "both the same shift, or --model.warm_start false"
            )
        take_weights(self.network, self.teacher.network, ", or --model.warm_start false")
        if self.shift is not None:
            self.shift.load_state_dict(shifts[1])

    # -- pairs --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def pairs(self, z_0: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return where the teacher's flow carries noise: (B, *shape) -> (B, *shape), as the model sees examples.

        Raises:
            ConfigError: there is no teacher.
        """
        if self.teacher is None:
            raise ConfigError("a rectified flow is trained on the pairs of a teacher; name one with --teacher")
        field = self.teacher.field(labels)
        return self.teacher.solve(field, z_0, self.teacher_steps, self.teacher_solver)

    def batch_of_pairs(self, labels: Tensor) -> Pairs:
        """Return noise, examples and labels of this step: made the first time, and kept for later rounds.

        A batch depends on its number, the rank and ``pair_seed`` alone, so that a run that is resumed makes it again.
        """
        key = (self.steps_done % self.first_steps, len(labels))
        if key not in self._pairs:
            z_0 = self._seeded_noise(*key)
            self._pairs[key] = (z_0, self.pairs(z_0, labels if self.num_classes else None), labels)
        return self._pairs[key]

    def _seeded_noise(self, number: int, n: int) -> Tensor:
        ranks = range(len(self._streams)) if len(self._streams) > 1 else (self.global_rank,)
        parts = []
        for rank in ranks:
            seed = (self.pair_seed * 1_000_003 + number) * 1_000_003 + rank
            generator = torch.Generator().manual_seed(seed % 2**63)
            parts.append(self.noise(n // len(ranks), generator))
        return torch.cat(parts)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared error of the velocity per dimension, and that of its part at t = 0."""
        x, labels = batch
        if self.training:
            z_0, z_1, labels = self.batch_of_pairs(labels)
        else:
            z_0 = self.randn(*x.shape)
            z_1 = self.pairs(z_0, labels if self.num_classes else None)
        first = self.rand(len(x)) < self.one_step
        t = self.even(len(x)).masked_fill(first, 0.0)
        beside = t.reshape(-1, *[1] * (x.ndim - 1))  # (B, 1, ...)
        v = self.velocity((1 - beside) * z_0 + beside * z_1, t, self.dropped(labels))
        errors = (v - (z_1 - z_0)).square().flatten(1).mean(1)  # (B,)
        mse = errors.mean()
        if self.one_step == 0:
            return {"loss": mse, "mse": mse}
        at_0 = (errors * first).sum() / first.sum().clamp(min=1)
        return {"loss": mse, "mse": mse, "mse_one_step": at_0}

    @torch.no_grad()
    def one_step_error(self, n: int = 256, *, seed: int = 0, steps: int = 32) -> float:
        """Return the mean squared distance per dimension between one step and many of this very flow."""
        z_0, field = self.noise(n, seeded(seed)), self.field()
        many = integrate(field, z_0, time_grid(steps), "rk4")
        return float((z_0 + field(z_0, torch.zeros((), device=self.device, dtype=self.dtype)) - many).square().mean())


def _check_teacher(teacher: nn.Module | None, student: VelocityModel) -> None:
    if teacher is None:
        return
    if not isinstance(teacher, VelocityModel):
        raise ConfigError(
            f"the teacher is a {type(teacher).__name__}, which has no velocity; name one such as flow_matching-mnist"
        )
    facts = [(m.shape, m.levels, m.num_classes) for m in (teacher, student)]
    if facts[0] != facts[1]:
        raise ConfigError(
            f"the teacher's examples have shape {facts[0][0]}, {facts[0][1]} levels and {facts[0][2]} classes, the "
            f"student's {facts[1][0]}, {facts[1][1]} and {facts[1][2]}; make them agree"
        )
