"""Diffusion models that learn from a trained one: its network is what they start from, and a copy of their own lags."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from zoo.errors import ConfigError
from zoo.families.diffusion import Diffusion
from zoo.families.guided import of_teacher
from zoo.maths.schedules import Schedule
from zoo.model import Player, TrainedPart

__all__ = ["Distilled", "take_weights", "taught"]


def taught(example: str) -> dict[str, TrainedPart]:
    """Return the declaration of a teacher, such as the entry of this name."""
    part = TrainedPart(
        what="distilled from a trained diffusion model", example=example, requires=Diffusion, needs="denoiser",
        fitted=of_teacher,
    )  # fmt: skip
    return {"teacher": part}


def take_weights(network: nn.Module, teacher: nn.Module, otherwise: str = "") -> None:
    """Load the weights of a teacher's network. Raises `ConfigError` where they differ; ``otherwise`` ends it."""
    own, given = network.state_dict(), teacher.state_dict()
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in given.items()}:
        raise ConfigError(
            f"the network differs from the teacher's, so it cannot start from its weights; give the same "
            f"architecture{otherwise}"
        )
    network.load_state_dict(given)


class Distilled(Diffusion):
    """Base of the students, whose family says what is learnt.

    Args:
        network: (B, C, ...), lambda (B,), labels (B,) or None -> (B, C, ...).
        shape: of an example.
        teacher: a diffusion model with the same network, which the training starts from; None for none, or once it is
            over.
        schedule: of the noise.

    The other arguments are those of `zoo.families.diffusion.Diffusion`; a student is not guided.

    Raises:
        ConfigError: a teacher of other examples.
    """

    training_parts: ClassVar[tuple[str, ...]] = ("teacher",)
    lags: ClassVar[bool] = True
    """Whether there is a copy of the network that lags behind, ``target``."""

    def __init__(
        self, network: nn.Module, shape: Sequence[int], teacher: nn.Module | None, schedule: Schedule, **kwargs: Any
    ) -> None:
        super().__init__(network, shape, schedule, guidance_scale=1.0, weak_batches=0, **kwargs)
        if teacher is not None and (tuple(teacher.shape), teacher.num_classes) != (self.shape, self.num_classes):
            raise ConfigError(
                f"the teacher draws examples of shape {tuple(teacher.shape)} with {teacher.num_classes} classes, the "
                f"model {self.shape} with {self.num_classes}; make them equal"
            )
        self.teacher = teacher.requires_grad_(False) if teacher is not None else None
        self.target = copy.deepcopy(network).requires_grad_(False) if self.lags else None

    def players(self) -> dict[str, Player]:
        return {"model": Player(self.network.parameters(), self.lr, self.betas)}

    def adopt(self) -> None:
        """Start from the teacher's network. Raises `ConfigError` where it differs."""
        if self.teacher is not None:
            take_weights(self.network, self.teacher.network)
        if self.target is not None:
            self.target.load_state_dict(self.network.state_dict())

    def check_teacher(self, teacher: Any) -> None:
        """Raise `ConfigError` where a schedule does not preserve variance, or the teacher predicts something else."""
        if self.schedule.kind != "vp" or (teacher is not None and teacher.schedule.kind != "vp"):
            raise ConfigError(
                f"{type(self).__name__} needs schedules that preserve variance, of the student and of its teacher; "
                f"name a teacher such as ddpm-mnist"
            )
        if teacher is not None and teacher.predict != self.predict:
            raise ConfigError(f"the teacher predicts {teacher.predict}, the model {self.predict}; make them equal")
