"""Shifts of both ends of a path by the class: condition-aware reparameterisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import check_choice

__all__ = ["ENDS", "ClassShift"]

ENDS = ("source", "target", "joint")
"""Which ends of the path are shifted: noise, data, or both."""


class ClassShift(nn.Module):
    """mu_0(y) of the noise and mu_1(y) of the data, one table each, which begin at 0.

        z_0 = x_0 + mu_0(y),   z_1 = x_1 + mu_1(y),   z_t = x_t + a(t) mu_0(y) + b(t) mu_1(y)

    Nothing but shifts: with a scale to learn as well, the loss of flow matching has trivial minima of 0, at which one
    end of the path is a single point (the paper's claim 1).

    Args:
        num_classes: labels 0..num_classes-1, the null label being num_classes, which has shifts of its own.
        shape: of an example.
        ends: one of `ENDS`.

    Raises:
        ConfigError: no such ends.

    References:
        C. Chen and others, CAR-Flow: Condition-Aware Reparameterization Aligns Source and Target for Better Flow
        Matching, 2025, arXiv:2509.19300, equation 11.
    """

    def __init__(self, num_classes: int, shape: Sequence[int], ends: str = "joint") -> None:
        super().__init__()
        check_choice("shift", ends, ENDS)
        self.null = num_classes

        def table(end: str) -> nn.Parameter | None:
            return nn.Parameter(torch.zeros(num_classes + 1, *shape)) if ends in (end, "joint") else None

        self.source, self.target = table("source"), table("target")

    def forward(
        self, n: int, labels: Tensor | None, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return mu_t(y) and its slope in t, (n, *shape) each.

        Args:
            n: how many.
            labels: int64 (n,); None for the null label.
            a, b: the coefficients of noise and data and their slopes, each () or (n,).
        """
        tables = [(table, c) for table, c in ((self.source, a), (self.target, b)) if table is not None]
        first = tables[0][0]
        y = torch.full((n,), self.null, device=first.device) if labels is None else labels

        def whole(which: int) -> Tensor:
            beside = [1] * (first.ndim - 1)
            parts = [(c[which].reshape(-1, *beside) if c[which].ndim else c[which]) * table[y] for table, c in tables]
            return torch.stack(parts).sum(0)  # (n, *shape)

        return whole(0), whole(1)
