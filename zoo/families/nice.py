"""NICE: additive couplings of fully connected networks, then a scale for each dimension.

References:
    L. Dinh, D. Krueger, Y. Bengio, NICE: Non-linear Independent Components Estimation, 2014, arXiv:1410.8516.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.families.normalising_flow import NormalisingFlow
from zoo.nets.bijections import Bijection, Chain, Permutation, Scaling
from zoo.nets.coupling import Coupling
from zoo.nets.mlp import MLP

__all__ = ["NICE"]


class NICE(NormalisingFlow):
    """Normalising flow whose couplings keep volumes: even and odd dimensions move each other in turn.

    Args:
        shape: of an example.
        couplings: their number, at least 2.
        hidden: widths of the hidden layers of each coupling's network.
        activation: of these layers (see `zoo.nets.activations`).
        prior: of the noise, ``logistic`` or ``normal``.

    The other arguments are those of `zoo.families.normalising_flow.NormalisingFlow`; the paper has no logit.

    Raises:
        ConfigError: unknown or contradictory options.
    """

    sized: ClassVar[Mapping[str, str]] = {"hidden": "width", "couplings": "depth"}

    def __init__(
        self,
        shape: list[int],
        couplings: int = 4,
        hidden: list[int] = (1000, 1000, 1000, 1000, 1000),
        activation: str = "relu",
        prior: str = "logistic",
        **kwargs: Any,
    ) -> None:
        super().__init__(shape, dequantisation="uniform", prior=prior, width=32, **kwargs)
        D = math.prod(shape)
        if couplings < 2 or D < 2:
            raise ConfigError(f"NICE needs at least 2 couplings and 2 dimensions, got {couplings} and {D}")

        def network(n_in: int, n_out: int) -> nn.Module:
            return MLP([n_in, *hidden, n_out], activation)

        parts: list[Bijection] = [Permutation((torch.arange(D) % 2).argsort(stable=True))]
        parts += [Coupling(D, network, "additive", swap=i % 2 == 1) for i in range(couplings)]
        self.map = Chain([*parts, Scaling([D])])

    def flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(x.flatten(1))

    def flow_inverse(self, z: Tensor) -> Tensor:
        return self.map.inverse(z).reshape(-1, *self.shape)
