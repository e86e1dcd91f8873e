"""What guidance needs of training: labels of which some are hidden, and an early self of the network.

    y' = null label with probability p, else y     one network learns the conditional and the average model
    weak = mean of the network's weights over its first batches

References:
    J. Ho, T. Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598, algorithm 1.
    T. Karras and others, Guiding a Diffusion Model with a Bad Version of Itself, 2024, arXiv:2406.02507.
    D. P. Kingma and others, Variational Diffusion Models, 2021, arXiv:2107.00630, appendix I.1: even times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checking import check_within
from zoo.errors import ConfigError
from zoo.fitting import beyond_digits
from zoo.nets.weak_copy import WeakCopy

__all__ = ["Guided", "of_teacher"]

LARGE_LR = 2e-4
"""Highest learning rate of the networks that grow with the data: that of Ho and others for images of 32x32."""


class Guided:
    """Mixin of a `GenerativeModel` with a ``network`` that is told a time, and labels where there are classes."""

    @classmethod
    def fitted_to(cls, arguments: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that go with other data; see `zoo.fitting`.

        Data without classes leave nothing to shift a path by, and nothing to guide by unless it is the network's early
        self; the learning rate of networks that grow is 2e-4 at most.
        """
        fitted = dict(arguments)
        if not fitted.get("num_classes") and not fitted.get("weak_batches") and "guidance_scale" in fitted:
            fitted["guidance_scale"] = 1.0
        if not fitted.get("num_classes") and "shift" in fitted:
            fitted["shift"] = "none"
        if list(fitted["shape"]) != list(before["shape"]) and beyond_digits(fitted["shape"]):
            fitted["lr"] = min(fitted.get("lr", LARGE_LR), LARGE_LR)
        return fitted

    @classmethod
    def network_shapes(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the network maps to what, and the classes that it is told; see `zoo.fitting`."""
        channels, *rest = shape = tuple(arguments["shape"])
        condition = {"num_classes": arguments.get("num_classes") or 0}
        return {"network": (shape, (channels * cls.outputs(arguments), *rest), condition)}

    @classmethod
    def outputs(cls, arguments: Mapping[str, Any]) -> int:
        """Return how many numbers the network gives for each of an example."""
        return 1

    def set_guidance(
        self, network: nn.Module, num_classes: int, label_dropout: float, guidance_scale: float, weak_batches: int
    ) -> None:
        """Take over what guidance depends on, before the network itself. Raises `ConfigError`: numbers out of range."""
        if num_classes < 0 or not 0 <= label_dropout < 1:
            raise ConfigError(
                f"num_classes must not be negative, and label_dropout be at least 0 and below 1, got {num_classes} "
                f"and {label_dropout}"
            )
        self.weak = WeakCopy(network, weak_batches) if weak_batches else None
        self.num_classes, self.label_dropout, self.guidance_scale = num_classes, label_dropout, guidance_scale

    def keep_early(self) -> None:
        """Take the weights of one more batch of training into the early self, where there is one."""
        if self.weak is not None and self.training:
            self.weak.observe(self.network)

    def dropped(self, labels: Tensor) -> Tensor | None:
        """Return training labels, some replaced by the null label; None without classes. Raises `DataError`."""
        if not self.num_classes:
            return None
        check_within(
            labels,
            self.num_classes,
            f"labels must lie between 0 and {self.num_classes - 1}; set the model's num_classes",
        )
        return labels.masked_fill(self.rand(len(labels)) < self.label_dropout, self.num_classes)

    def even(self, n: int) -> Tensor:
        """Draw n numbers in [0, 1), one in each n-th of it for each rank's share: every batch sees all times."""
        share = n // max(1, len(self._streams))
        return (torch.arange(n, device=self.device) % share + self.rand(n)) / share


def of_teacher(arguments: Mapping[str, Any], teacher: Any) -> dict[str, Any]:
    """Return the arguments of a student of this very teacher, from whose weights it starts.

    A teacher of other examples than the student's entry hands its network on too, and what says how that is asked.
    """
    spec = teacher.spec
    theirs, facts = spec["init_args"], ("shape", "num_classes", "levels")
    same = all(getattr(teacher, k) == (tuple(v) if k == "shape" else v) for k, v in arguments.items() if k in facts)
    if theirs.get("shift", "none") != "none":
        arguments = {"shift": theirs["shift"], **arguments}
    if same or type(teacher).outputs(theirs) != 1:
        return {**arguments, "teacher": spec}
    asked = ("network", "time_scale", "data_scale") if "time_scale" in theirs else ("network", "sigma_data")
    return {**arguments, **{k: theirs[k] for k in (*asked, *facts) if k in theirs}, "teacher": spec}
